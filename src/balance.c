/*
 * balance.c
 *		Reads: balances, accounts, keys. One snapshot, no writes.
 *
 * A user's accounts come from one index range scan under the statement's
 * snapshot. What the legacy table has to say (source legacy, a user not opened
 * yet, the compare of shadow mode) is legacy.c's, under the same snapshot.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "args.h"
#include "errors.h"
#include "legacy.h"
#include "operations.h"
#include "posting.h"
#include "stats.h"
#include "stripe.h"

/* All that one user has, as a read shows it. */
typedef struct UserBalances
{
	LedgerAccount *accounts;
	int			naccounts;
	LegacyBalance *legacy;		/* these stand instead of the ledger's */
	int			nlegacy;
} UserBalances;

static void
read_user(const pg_uuid_t *user_id, const LedgerSettings *settings, UserBalances *user)
{
	Store	   *accounts;

	ledger_stats_read_begin();
	accounts = ledger_accounts_open(AccessShareLock);
	user->naccounts = ledger_accounts_of_user(accounts, user_id, GetActiveSnapshot(),
											  &user->accounts);
	ledger_store_close(accounts);
	ledger_stats_read_accounts();
	user->nlegacy = ledger_legacy_read(user_id, user->accounts, user->naccounts, settings,
									   &user->legacy);
}

/* The balance of one of the user's account types; zero without an account. */
static Numeric
balance_of(const UserBalances *user, const LedgerAccountType *type)
{
	Numeric		total = NULL;

	for (int i = 0; i < user->nlegacy; i++)
	{
		if (user->legacy[i].type == type)
			return user->legacy[i].balance;
	}
	for (int i = 0; i < user->naccounts; i++)
	{
		if (user->accounts[i].type == type)
			total = total ? ledger_amount_add(total, ledger_account_balance(&user->accounts[i])) :
				ledger_account_balance(&user->accounts[i]);
	}
	return ledger_amount_normalise(total ? total : ledger_amount_zero(),
								   type->currency->display_digits);
}

static Datum
source_datum(const UserBalances *user)
{
	return CStringGetTextDatum(user->nlegacy > 0 ? "legacy" : "ledger");
}

static Datum
form_result(FunctionCallInfo fcinfo, Datum *values, bool *isnull)
{
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	ledger_stats_read_end();
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull));
}

/*
 * What both answers begin with: user_id, the three balances of the product,
 * and their sum; USDC and USD are 1:1.
 */
static void
core_values(const pg_uuid_t *user_id, const UserBalances *user, Datum *values)
{
	Numeric		usdc = balance_of(user, ledger_account_type(LEDGER_USDC_BALANCE));
	Numeric		fiat = balance_of(user, ledger_account_type(LEDGER_FIAT_EXPOSURE));
	Numeric		pending = balance_of(user, ledger_account_type(LEDGER_PENDING_INVESTMENT));
	Numeric		total = ledger_amount_add(ledger_amount_add(usdc, fiat), pending);

	values[0] = UUIDPGetDatum(user_id);
	values[1] = NumericGetDatum(usdc);
	values[2] = NumericGetDatum(fiat);
	values[3] = NumericGetDatum(pending);
	values[4] = NumericGetDatum(ledger_amount_normalise(total, 2));
}

PG_FUNCTION_INFO_V1(ledger_get_user_balance);
PG_FUNCTION_INFO_V1(ledger_get_balance);
PG_FUNCTION_INFO_V1(ledger_get_account_balance);
PG_FUNCTION_INFO_V1(ledger_check_available_balance);
PG_FUNCTION_INFO_V1(ledger_find_transaction);

/* (user_id) → (user_id, usdc_balance, fiat_exposure, pending_investment, total_value, source) */
Datum
ledger_get_user_balance(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *user_id = ledger_arg_uuid(fcinfo, 0, "user_id");
	UserBalances user;
	Datum		values[6];
	bool		isnull[6] = {false};

	read_user(user_id, ledger_settings_get(), &user);
	core_values(user_id, &user, values);
	values[5] = source_datum(&user);
	return form_result(fcinfo, values, isnull);
}

static void
add_to_breakdown(StringInfo json, const LedgerAccountType *type, const char *currency,
				 Numeric balance)
{
	appendStringInfoString(json, json->len > 1 ? ", " : "");
	escape_json(json, type->name);
	appendStringInfoString(json, ": {\"currency\": ");
	escape_json(json, currency);
	/* what a legacy row holds may be no number in JSON's sense */
	appendStringInfo(json, numeric_is_nan(balance) || numeric_is_inf(balance) ?
					 ", \"balance\": \"%s\"}" : ", \"balance\": %s}", ledger_amount_out(balance));
}

/* {account_type: {currency, balance}} of all that the user has. */
static Datum
breakdown(const UserBalances *user)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < user->naccounts; i++)
	{
		const LedgerAccountType *type = user->accounts[i].type;

		if (i > 0 && user->accounts[i - 1].type == type)
			continue;
		add_to_breakdown(&json, type, type->currency->code, balance_of(user, type));
	}
	for (int i = 0; i < user->nlegacy; i++)
	{
		bool		has_account = false;

		for (int j = 0; j < user->naccounts && !has_account; j++)
			has_account = user->accounts[j].type == user->legacy[i].type;
		if (!has_account)
			add_to_breakdown(&json, user->legacy[i].type, user->legacy[i].type->currency->code,
							 user->legacy[i].balance);
	}
	appendStringInfoChar(&json, '}');
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
}

/*
 * (user_id) → (user_id, usdc_balance, buying_power, pending_investment, total_value, currency,
 * breakdown, source)
 */
Datum
ledger_get_balance(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *user_id = ledger_arg_uuid(fcinfo, 0, "user_id");
	UserBalances user;
	Datum		values[8];
	bool		isnull[8] = {false};

	read_user(user_id, ledger_settings_get(), &user);
	core_values(user_id, &user, values);
	values[5] = CStringGetTextDatum("USD");
	values[6] = breakdown(&user);
	values[7] = source_datum(&user);
	return form_result(fcinfo, values, isnull);
}

/*
 * The balance of a house account that has one currency, and the lowest that
 * is allowed (NULL: any).
 */
static Numeric
house_balance(const LedgerAccountType *type, Numeric *min)
{
	LedgerAccount account = {0};
	Store	   *accounts;
	bool		found;

	if (type->currency == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_LG_NOT_ALLOWED),
				 errmsg("account type %s has an account for each currency", type->name),
				 errdetail("The type has no currency of its own."),
				 errhint("Read the view ledger.account_balances.")));
	account.type = type;
	account.currency = type->currency;
	accounts = ledger_accounts_open(AccessShareLock);
	found = ledger_account_find(accounts, &account, GetActiveSnapshot());
	if (found)
		ledger_stripe_sum(&account, GetActiveSnapshot());
	ledger_store_close(accounts);
	*min = found ? ledger_account_min_balance(&account) : type->min_balance;
	return found ? ledger_account_balance(&account) :
		ledger_amount_normalise(ledger_amount_zero(), type->currency->display_digits);
}

/* The lowest balance that one of the user's account types may have. */
static Numeric
min_of(const UserBalances *user, const LedgerAccountType *type)
{
	for (int i = 0; i < user->naccounts; i++)
	{
		if (user->accounts[i].type == type)
			return ledger_account_min_balance(&user->accounts[i]);
	}
	return type->min_balance;
}

static const LedgerAccountType *
arg_account_type(FunctionCallInfo fcinfo, int n)
{
	ledger_arg_required(fcinfo, n, "account_type");
	return ledger_account_type(ledger_arg_name(fcinfo, n, "account_type", LEDGER_MAX_NAME));
}

/* (user_id, account_type) */
Datum
ledger_get_account_balance(PG_FUNCTION_ARGS)
{
	const LedgerAccountType *type = arg_account_type(fcinfo, 1);
	const pg_uuid_t *user_id = ledger_arg_user_of(fcinfo, 0, type);
	UserBalances user;
	Numeric		balance;
	Numeric		min;

	if (user_id == NULL)
		PG_RETURN_NUMERIC(house_balance(type, &min));
	read_user(user_id, ledger_settings_get(), &user);
	balance = balance_of(&user, type);
	ledger_stats_read_end();
	PG_RETURN_NUMERIC(balance);
}

/*
 * (user_id, amount, account_type). Always from the ledger, because operations
 * are checked there; who is not opened has what opening would give him.
 */
Datum
ledger_check_available_balance(PG_FUNCTION_ARGS)
{
	const LedgerAccountType *type = arg_account_type(fcinfo, 2);
	const pg_uuid_t *user_id = ledger_arg_user_of(fcinfo, 0, type);
	LedgerSettings settings = *ledger_settings_get();
	UserBalances user;
	Numeric		amount;
	Numeric		balance;
	Numeric		min;

	amount = ledger_arg_amount(fcinfo, 1, type->currency ? type->currency->code : "USD");
	settings.shadow_mode = settings.strict_mode = settings.source_legacy = false;
	if (user_id)
	{
		read_user(user_id, &settings, &user);
		balance = balance_of(&user, type);
		min = min_of(&user, type);
		ledger_stats_read_end();
	}
	else
		balance = house_balance(type, &min);
	if (min)
		balance = ledger_amount_sub(balance, min);
	PG_RETURN_BOOL(ledger_amount_cmp(balance, amount) >= 0);
}

/* (idempotency_key) → the transaction's id, NULL if there is none. */
Datum
ledger_find_transaction(PG_FUNCTION_ARGS)
{
	const char *text;
	pg_uuid_t	key;
	Store	   *journal;
	int64		id;

	ledger_arg_required(fcinfo, 0, "idempotency_key");
	text = ledger_arg_name(fcinfo, 0, "idempotency_key", LEDGER_MAX_KEY);
	ledger_journal_key(text, &key);
	journal = ledger_journal_open(AccessShareLock);
	id = ledger_journal_find_key(journal, &key, GetActiveSnapshot());
	ledger_store_close(journal);
	if (id == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(id);
}
