/*
 * amount.h
 *		Amounts: checked at the door, normalised, added and compared.
 */
#ifndef LEDGER_AMOUNT_H
#define LEDGER_AMOUNT_H

#include "refusal.h"
#include "utils/numeric.h"

#define LEDGER_AMOUNT_DIGITS	20	/* integer digits that an amount may have */

/* Why it is no amount of the currency; NULL: it is one. */
extern LedgerRefusal *ledger_amount_refuse(Numeric amount, const char *currency, int scale);
extern Numeric ledger_amount_check(Numeric amount, const char *currency, int scale,
								   int display_digits);
extern Numeric ledger_amount_normalise(Numeric amount, int display_digits);
extern Numeric ledger_amount_zero(void);
extern Numeric ledger_amount_add(Numeric a, Numeric b);
extern Numeric ledger_amount_sub(Numeric a, Numeric b);
extern Numeric ledger_amount_negate(Numeric a);
extern int	ledger_amount_cmp(Numeric a, Numeric b);
extern int	ledger_amount_sign(Numeric a);
extern char *ledger_amount_out(Numeric a);

#endif							/* LEDGER_AMOUNT_H */
