/*
 * fixed.h
 *		Amounts as integers of 10^-20, to be compared in bulk.
 */
#ifndef LEDGER_FIXED_H
#define LEDGER_FIXED_H

/* Where there are no integers of 128 bits nothing fits, and numeric is used. */
#ifdef HAVE_INT128
typedef int128 Fixed;
#else
typedef int64 Fixed;
#endif

/*
 * The numeric, which may be as it is in a row, packed. false: it does not fit
 * (more than 16 digits before the point or 20 after it, NaN, infinity, or a
 * value that is stored elsewhere). Never rounds.
 */
extern bool ledger_fixed_from(Datum numeric, Fixed *value);

#endif							/* LEDGER_FIXED_H */
