/*
 * amount.c
 *		Amounts: checked at the door, normalised, added and compared.
 *
 * An amount is a positive, finite numeric of at most 20 integer digits and at
 * most its currency's scale of fractional digits; anything else is LG009 and
 * nothing is ever rounded. Normalised means: no superfluous zeros, but at
 * least the currency's display digits, so that equal amounts have equal text.
 *
 * Everything here is PostgreSQL's own numeric arithmetic; results are
 * palloc'd in the current context.
 */
#include "postgres.h"

#include "amount.h"
#include "errors.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* Constants of this backend, made at first use and kept. */
static Numeric amount_zero = NULL;
static Numeric amount_ceiling = NULL;	/* 10 ^ LEDGER_AMOUNT_DIGITS */

static Numeric
numeric_constant(const char *text)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	Numeric		n;

	n = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(text),
											ObjectIdGetDatum(InvalidOid),
											Int32GetDatum(-1)));
	MemoryContextSwitchTo(old);
	return n;
}

Numeric
ledger_amount_zero(void)
{
	if (amount_zero == NULL)
		amount_zero = numeric_constant("0");
	return amount_zero;
}

Numeric
ledger_amount_add(Numeric a, Numeric b)
{
	return numeric_add_opt_error(a, b, NULL);
}

Numeric
ledger_amount_sub(Numeric a, Numeric b)
{
	return numeric_sub_opt_error(a, b, NULL);
}

Numeric
ledger_amount_negate(Numeric a)
{
	return DatumGetNumeric(DirectFunctionCall1(numeric_uminus, NumericGetDatum(a)));
}

int
ledger_amount_cmp(Numeric a, Numeric b)
{
	return DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(a),
											 NumericGetDatum(b)));
}

int
ledger_amount_sign(Numeric a)
{
	return ledger_amount_cmp(a, ledger_amount_zero());
}

char *
ledger_amount_out(Numeric a)
{
	return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(a)));
}

static int
significant_scale(Numeric a)
{
	return DatumGetInt32(DirectFunctionCall1(numeric_min_scale, NumericGetDatum(a)));
}

/*
 * The same number with as few fractional digits as it needs, but
 * display_digits. A legacy row may hold what is no number; it stays as it is.
 */
Numeric
ledger_amount_normalise(Numeric amount, int display_digits)
{
	int			has;
	int			scale;

	if (numeric_is_nan(amount) || numeric_is_inf(amount))
		return amount;
	has = DatumGetInt32(DirectFunctionCall1(numeric_scale, NumericGetDatum(amount)));
	if (has == display_digits)
		return amount;
	scale = Max(significant_scale(amount), display_digits);
	if (scale == has)
		return amount;
	/* exact: never fewer digits than are significant */
	return DatumGetNumeric(DirectFunctionCall2(numeric_round, NumericGetDatum(amount),
											   Int32GetDatum(scale)));
}

#define SHOWN_DIGITS	64			/* of an amount that may have 147,000 */

#define AMOUNT_HINT		"Pass an amount above zero that the currency can hold; nothing is rounded."

static LedgerRefusal *
refuse(Numeric amount, const char *detail)
{
	char	   *shown = ledger_amount_out(amount);

	if (strlen(shown) > SHOWN_DIGITS)
		strcpy(shown + SHOWN_DIGITS - 3, "...");
	return ledger_refusal(ERRCODE_LG_INVALID_AMOUNT, psprintf("invalid amount %s", shown),
						  detail, AMOUNT_HINT);
}

/* amount NULL stands for SQL's NULL. */
LedgerRefusal *
ledger_amount_refuse(Numeric amount, const char *currency, int scale)
{
	if (amount == NULL)
		return ledger_refusal(ERRCODE_LG_INVALID_AMOUNT, "invalid amount NULL",
							  "An amount is required.", AMOUNT_HINT);
	if (numeric_is_nan(amount) || numeric_is_inf(amount))
		return refuse(amount, "An amount must be a finite number.");
	if (ledger_amount_sign(amount) <= 0)
		return refuse(amount, "An amount must be above zero.");

	if (amount_ceiling == NULL)
		amount_ceiling = numeric_constant("100000000000000000000");
	if (ledger_amount_cmp(amount, amount_ceiling) >= 0)
		return refuse(amount, psprintf("An amount has at most %d digits before the point.",
									   LEDGER_AMOUNT_DIGITS));
	if (significant_scale(amount) > scale)
		return refuse(amount, psprintf("%s has at most %d digits after the point.",
									   currency, scale));
	return NULL;
}

/*
 * Returns the amount normalised. amount NULL stands for SQL's NULL. Raises
 * LG009.
 */
Numeric
ledger_amount_check(Numeric amount, const char *currency, int scale, int display_digits)
{
	ledger_refusal_raise(ledger_amount_refuse(amount, currency, scale));
	return ledger_amount_normalise(amount, display_digits);
}
