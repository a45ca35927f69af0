/*
 * account_admin.c
 *		Open an account, freeze or close it, set its limit, stripe it.
 *
 * All hold the settings still, as postings do. A change of status or limit
 * updates the account's row under its lock, which every posting takes, and is
 * written to account_status_log. Postings to a striped account do not take its
 * row's lock: it is changed under the exclusive lock of the settings.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "args.h"
#include "errors.h"
#include "operations.h"
#include "owner.h"
#include "posting.h"
#include "stripe.h"

#define LOCK_WAIT_MS	2000	/* as configure() waits */

PG_FUNCTION_INFO_V1(ledger_open_account);
PG_FUNCTION_INFO_V1(ledger_set_account_status);
PG_FUNCTION_INFO_V1(ledger_set_account_limit);
PG_FUNCTION_INFO_V1(ledger_set_account_stripes);

static const LedgerCurrency *
currency_of(const LedgerAccountType *type, const char *code)
{
	LedgerRefusal *refusal = NULL;
	const LedgerCurrency *currency =
		ledger_account_currency(type, code ? ledger_currency(code) : NULL, &refusal);

	ledger_refusal_raise(refusal);
	return currency;
}

static bool
find_account(Store *accounts, LedgerAccount *account)
{
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	bool		found = ledger_account_find(accounts, account, snapshot);

	UnregisterSnapshot(snapshot);
	return found;
}

static void
open_account(LedgerAccount *account)
{
	const LedgerSettings *settings;
	Store	   *accounts;

	ledger_prevent_read_only("ledger.open_account()");
	settings = ledger_settings_lock();
	accounts = ledger_accounts_open(RowExclusiveLock);
	do
	{
		CHECK_FOR_INTERRUPTS();
		/* legacy rows come before accounts: everybody's lock order */
		if (account->has_user && ledger_posting_hook.lock_user &&
			settings->phase != LEDGER_RETIRED)
			ledger_posting_hook.lock_user(&account->user_id);
	} while (!ledger_stripe_open_account(accounts, account) && !find_account(accounts, account));
	ledger_store_close(accounts);
	CommandCounterIncrement();
}

/* (account_type, user_id, currency) → the id, of a new account or the existing one. */
Datum
ledger_open_account(PG_FUNCTION_ARGS)
{
	LedgerAccount account = {0};
	const pg_uuid_t *user_id;
	Store	   *accounts;
	bool		found;

	ledger_arg_required(fcinfo, 0, "account_type");
	account.type = ledger_account_type(ledger_arg_name(fcinfo, 0, "account_type", LEDGER_MAX_NAME));
	user_id = ledger_arg_user_of(fcinfo, 1, account.type);
	account.has_user = user_id != NULL;
	if (user_id)
		account.user_id = *user_id;
	account.currency = currency_of(account.type,
								   ledger_arg_name(fcinfo, 2, "currency", LEDGER_MAX_NAME));

	/* one that is there takes no lock: its id is asked for often */
	accounts = ledger_accounts_open(AccessShareLock);
	found = find_account(accounts, &account);
	ledger_store_close(accounts);
	if (!found)
		open_account(&account);
	PG_RETURN_INT64(account.id);
}

static void
log_change(const LedgerAccount *account, text *reason)
{
	Oid			types[6] = {INT8OID, TEXTOID, NUMERICOID, INT2OID, TEXTOID, TEXTOID};
	Datum		values[6];
	char		nulls[7] = "      ";
	OwnerContext saved;

	values[0] = Int64GetDatum(account->id);
	values[1] = CStringGetTextDatum(ledger_account_status_name(account->status));
	values[2] = NumericGetDatum(account->min_balance);
	if (account->min_balance == NULL)
		nulls[2] = 'n';
	values[3] = Int16GetDatum(account->stripes);
	values[4] = PointerGetDatum(reason);
	values[5] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	ledger_spi_as_owner(&saved, "account_status_log");
	if (SPI_execute_with_args("INSERT INTO ledger.account_status_log"
							  " (account_id, status, min_balance, stripes, reason, changed_by)"
							  " VALUES ($1, $2, $3, $4, $5, $6)",
							  6, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not log the change of an account");
	ledger_spi_done(&saved);
}

static void
find_by_id(Store *accounts, LedgerAccount *account, Snapshot snapshot)
{
	int64		id = account->id;

	if (!ledger_account_find_by_id(accounts, account, snapshot))
		ereport(ERROR,
				(errcode(ERRCODE_LG_NOT_ALLOWED),
				 errmsg("account " INT64_FORMAT " does not exist", id),
				 errdetail("No account has that id."),
				 errhint("ledger.account_balances lists the accounts.")));
}

/* Of a striped account a transaction's snapshot need not see what its stripes hold. */
static void
check_closing(const LedgerAccount *account)
{
	LedgerAccount whole = *account;
	Snapshot	latest = RegisterSnapshot(GetLatestSnapshot());

	ledger_stripe_sum(&whole, latest);
	UnregisterSnapshot(latest);
	if (ledger_amount_sign(ledger_account_balance(&whole)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot close account " INT64_FORMAT " while it has a balance", account->id),
				 errhint("Move the balance first, or freeze the account.")));
}

static void
check_limit(const LedgerAccount *account, Numeric limit)
{
	if (limit && (numeric_is_nan(limit) || numeric_is_inf(limit)))
		ereport(ERROR,
				(errcode(ERRCODE_LG_INVALID_AMOUNT),
				 errmsg("invalid amount %s", ledger_amount_out(limit)),
				 errdetail("A limit must be a finite number."),
				 errhint("Pass NULL for the type's own limit.")));
	if (limit && account->type->owner_user && ledger_amount_sign(limit) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_LG_INVALID_AMOUNT),
				 errmsg("invalid amount %s", ledger_amount_out(limit)),
				 errdetail("A user's account may never go below zero."),
				 errhint("Pass zero or more.")));
}

/* What is to become of an account. */
typedef struct AccountChange
{
	const LedgerAccountStatus *status;	/* NULL: unchanged */
	bool		set_limit;
	Numeric		limit;
	bool		set_stripes;
	int			stripes;
	int64		lock_wait_ms;
} AccountChange;

/* Whether the account's row is not what postings lock. */
static bool
is_striped(int64 id)
{
	Store	   *accounts = ledger_accounts_open(AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	LedgerAccount account = {.id = id};

	find_by_id(accounts, &account, snapshot);
	UnregisterSnapshot(snapshot);
	ledger_store_close(accounts);
	return account.stripes > 0;
}

/*
 * Finds and locks the account in its newest version, and keeps postings from
 * it.
 */
static void
lock_account(Store *accounts, LedgerAccount *account, Snapshot snapshot, bool exclusive)
{
	find_by_id(accounts, account, snapshot);
	if (ledger_account_lock(accounts, account, snapshot, true) != TM_Ok)
		elog(ERROR, "account " INT64_FORMAT " is gone", account->id);
	/* striped since we looked */
	if (account->stripes > 0 && !exclusive)
		ledger_store_serialization_failure();
}

static void
apply_change(LedgerAccount *account, const AccountChange *change, Snapshot snapshot)
{
	if (change->status)
	{
		if (*change->status == LEDGER_ACCOUNT_CLOSED)
			check_closing(account);
		account->status = *change->status;
		if (account->stripes > 0)
			ledger_stripe_invalidate();
	}
	if (change->set_limit)
	{
		check_limit(account, change->limit);
		account->min_balance = change->limit;
		/* a limit is checked against one row */
		if (account->stripes > 0 && change->limit)
			ledger_stripe_change(account, 0, snapshot);
	}
	if (change->set_stripes)
	{
		if (change->stripes > 0 && ledger_account_min_balance(account))
			ereport(ERROR,
					(errcode(ERRCODE_LG_NOT_ALLOWED),
					 errmsg("account " INT64_FORMAT " has a lowest balance", account->id),
					 errdetail("An account with a limit is one row, against which the limit is checked."),
					 errhint("Pass 0 stripes. A limit that was set is taken away by set_account_limit(%lld, NULL, reason).",
							 (long long) account->id)));
		ledger_stripe_change(account, change->stripes, snapshot);
	}
}

/* Locks the account, changes what change says, logs it. */
static void
change_account(int64 id, text *reason, const AccountChange *change)
{
	LedgerAccount account = {.id = id};
	bool		exclusive = change->set_stripes || is_striped(id);
	Store	   *accounts;
	Snapshot	snapshot;

	if (exclusive)
		ledger_settings_lock_exclusive(change->lock_wait_ms, InvalidOid);
	else
		(void) ledger_settings_lock();
	accounts = ledger_accounts_open(RowExclusiveLock);
	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	lock_account(accounts, &account, snapshot, exclusive);
	apply_change(&account, change, snapshot);
	if (ledger_account_update(accounts, &account, snapshot) != TM_Ok)
		elog(ERROR, "account " INT64_FORMAT " changed under its lock", id);
	UnregisterSnapshot(snapshot);
	ledger_store_close(accounts);
	CommandCounterIncrement();
	log_change(&account, reason);
}

/* (account_id, status, reason) */
Datum
ledger_set_account_status(PG_FUNCTION_ARGS)
{
	int64		id = ledger_arg_int64(fcinfo, 0, "account_id");
	const char *name;
	LedgerAccountStatus status;
	AccountChange change = {.status = &status,.lock_wait_ms = LOCK_WAIT_MS};
	text	   *reason;

	ledger_arg_required(fcinfo, 1, "status");
	name = ledger_arg_name(fcinfo, 1, "status", LEDGER_MAX_NAME);
	reason = ledger_arg_reason(fcinfo, 2);
	if (!ledger_account_status_parse(name, &status))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown account status \"%s\"", name),
				 errhint("Pass open, frozen or closed.")));
	ledger_prevent_read_only("ledger.set_account_status()");
	change_account(id, reason, &change);
	PG_RETURN_VOID();
}

/* (account_id, min_balance, reason) */
Datum
ledger_set_account_limit(PG_FUNCTION_ARGS)
{
	int64		id = ledger_arg_int64(fcinfo, 0, "account_id");
	AccountChange change = {.set_limit = true,.lock_wait_ms = LOCK_WAIT_MS};
	text	   *reason = ledger_arg_reason(fcinfo, 2);

	ledger_prevent_read_only("ledger.set_account_limit()");
	if (!PG_ARGISNULL(1))
		change.limit = PG_GETARG_NUMERIC(1);
	change_account(id, reason, &change);
	PG_RETURN_VOID();
}

/* (account_id, stripes, reason, lock_wait) */
Datum
ledger_set_account_stripes(PG_FUNCTION_ARGS)
{
	int64		id = ledger_arg_int64(fcinfo, 0, "account_id");
	AccountChange change = {.set_stripes = true};
	text	   *reason;

	ledger_arg_required(fcinfo, 1, "stripes");
	change.stripes = PG_GETARG_INT32(1);
	reason = ledger_arg_reason(fcinfo, 2);
	change.lock_wait_ms = ledger_arg_lock_wait(fcinfo, 3);
	if (change.stripes < 0 || change.stripes > LEDGER_MAX_STRIPES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stripes must be between 0 and %d", LEDGER_MAX_STRIPES),
				 errhint("As many as there are sessions that post at once are enough.")));
	ledger_prevent_read_only("ledger.set_account_stripes()");
	change_account(id, reason, &change);
	PG_RETURN_VOID();
}
