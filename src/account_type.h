/*
 * account_type.h
 *		Currencies and account types. A pointer to one is good for ever, and
 *		the same each time that its name is looked up.
 */
#ifndef LEDGER_ACCOUNT_TYPE_H
#define LEDGER_ACCOUNT_TYPE_H

#include "refusal.h"
#include "utils/numeric.h"

#define LEDGER_USDC_BALANCE			"usdc_balance"
#define LEDGER_PENDING_INVESTMENT	"pending_investment"
#define LEDGER_FIAT_EXPOSURE		"fiat_exposure"
#define LEDGER_SYSTEM_BUFFER_USDC	"system_buffer_usdc"
#define LEDGER_SYSTEM_BUFFER_FIAT	"system_buffer_fiat"
#define LEDGER_BROKER_OPERATIONAL	"broker_operational"
#define LEDGER_FX_CLEARING			"fx_clearing"
#define LEDGER_HOUSE_EQUITY			"house_equity"
#define LEDGER_OPENING_BALANCE		"opening_balance"
#define LEDGER_LEGACY_SUSPENSE		"legacy_suspense"

typedef struct LedgerCurrency
{
	char		code[NAMEDATALEN];
	Datum		text;			/* the code as text */
	int			scale;
	int			display_digits;
} LedgerCurrency;

typedef struct LedgerAccountType
{
	char		name[NAMEDATALEN];
	Datum		text;			/* the name as text */
	bool		owner_user;		/* a user's, else the house's */
	bool		debit_normal;
	const LedgerCurrency *currency; /* NULL: one account for each currency */
	bool		unknown_currency;	/* it has one, which is not there */
	Numeric		min_balance;	/* NULL: none */
	int			stripes;		/* of a new account */
} LedgerAccountType;

extern void ledger_account_type_init(void);

/* Types and currencies; both raise LG010 for a name that is not there. */
extern const LedgerAccountType *ledger_account_type(const char *name);
extern const LedgerCurrency *ledger_currency(const char *code);

/* The same; NULL and the refusal instead of raising it. */
extern const LedgerAccountType *ledger_account_type_find(const char *name, LedgerRefusal **refusal);
extern const LedgerCurrency *ledger_currency_find(const char *code, LedgerRefusal **refusal);

/*
 * The currency of an account of the type, given as one (NULL: the type's own);
 * NULL and the refusal if the type has none or another.
 */
extern const LedgerCurrency *ledger_account_currency(const LedgerAccountType *type,
													 const LedgerCurrency *currency,
													 LedgerRefusal **refusal);

/* All there are. */
extern LedgerAccountType *const *ledger_account_types(int *n);

#endif							/* LEDGER_ACCOUNT_TYPE_H */
