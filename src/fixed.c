/*
 * fixed.c
 *		Amounts as integers of 10^-20, to be compared in bulk.
 *
 * Reads a numeric as it is stored on disk: a header of sign, weight and scale,
 * then digits to the base of 10,000. That form is PostgreSQL's own, but it
 * cannot change, because pg_upgrade leaves tables as they are. A sum of less
 * than a hundred values does not overflow.
 */
#include "postgres.h"

#include "compat.h"
#include "fixed.h"

/* Of numeric.c, which does not export them. */
#define KIND_MASK		0xC000
#define KIND_SHORT		0x8000
#define KIND_NEGATIVE	0x4000
#define KIND_SPECIAL	0xC000
#define SHORT_NEGATIVE	0x2000
#define SHORT_WEIGHT	0x003F
#define SHORT_BELOW		0x0040	/* the weight is below zero */

#define DIGIT_BASE				10000
#define FRACTION				5	/* digits after the point: 20 decimal ones */
#define INTEGER					4	/* and before it */

bool
ledger_fixed_from(Datum numeric, Fixed *value)
{
#ifdef HAVE_INT128
	struct varlena *packed = (struct varlena *) DatumGetPointer(numeric);
	const char *data;
	int			ndigits;
	uint16		header;
	int			weight;
	int			read = sizeof(header);
	bool		negative;
	Fixed		sum = 0;

	if (VARATT_IS_EXTERNAL(packed) || VARATT_IS_COMPRESSED(packed))
		return false;
	data = VARDATA_ANY(packed);
	memcpy(&header, data, sizeof(header));
	if ((header & KIND_MASK) == KIND_SPECIAL)
		return false;
	if ((header & KIND_MASK) == KIND_SHORT)
	{
		negative = (header & SHORT_NEGATIVE) != 0;
		weight = (int) (header & SHORT_WEIGHT) - (int) (header & SHORT_BELOW);
	}
	else
	{
		int16		stored;

		memcpy(&stored, data + read, sizeof(stored));
		read += sizeof(stored);
		negative = (header & KIND_MASK) == KIND_NEGATIVE;
		weight = stored;
	}
	ndigits = (VARSIZE_ANY_EXHDR(packed) - read) / sizeof(int16);
	if (ndigits == 0)
	{
		*value = 0;
		return true;
	}
	if (weight >= INTEGER || weight - (ndigits - 1) < -FRACTION)
		return false;
	data += read;
	for (int i = 0; i < ndigits; i++)
	{
		int16		digit;

		memcpy(&digit, data + i * sizeof(digit), sizeof(digit));
		sum = sum * DIGIT_BASE + digit;
	}
	for (int i = weight - (ndigits - 1); i > -FRACTION; i--)
		sum *= DIGIT_BASE;
	*value = negative ? -sum : sum;
	return true;
#else
	return false;
#endif
}
