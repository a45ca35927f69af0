/*
 * reconcile.c
 *		All users, both sides, one snapshot.
 *
 * The two sides come in the order of the users, the legacy rows through a
 * cursor that runs as the table's owner, the accounts through their index, and
 * are merged. So memory does not grow with the number of users, and neither
 * side is ever read with the other's rights.
 *
 * Memory: what belongs to one user lives in one of two contexts that take
 * turns, because the account that ends one user's group begins the next's.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "args.h"
#include "compare.h"

/* The accounts' side: one user's group at a time. */
typedef struct AccountGroups
{
	StoreScan  *scan;
	MemoryContext contexts[2];
	int			turn;			/* the context of the current group */
	bool		has_ahead;
	LedgerAccount ahead;		/* first account of the next group */
	bool		has_group;
	pg_uuid_t	user_id;
	LedgerAccount *accounts;
	int			n;
	int			max;
} AccountGroups;

typedef struct Reconcile
{
	ReturnSetInfo *rsinfo;
	bool		with_mapping;	/* first column of the result is its id */
	Numeric		tolerance;
} Reconcile;

/* ---- the accounts' side --------------------------------------------------------- */

static void
read_ahead(AccountGroups *groups)
{
	MemoryContext old = MemoryContextSwitchTo(groups->contexts[1 - groups->turn]);

	groups->has_ahead = ledger_account_next(groups->scan, &groups->ahead);
	MemoryContextSwitchTo(old);
}

static void
next_group(AccountGroups *groups)
{
	groups->n = 0;
	groups->has_group = groups->has_ahead;
	if (!groups->has_ahead)
		return;
	MemoryContextReset(groups->contexts[groups->turn]);
	groups->turn = 1 - groups->turn;
	groups->user_id = groups->ahead.user_id;
	while (groups->has_ahead && memcmp(&groups->ahead.user_id, &groups->user_id, UUID_LEN) == 0)
	{
		if (groups->n == groups->max)
		{
			groups->max *= 2;
			groups->accounts = repalloc(groups->accounts, sizeof(LedgerAccount) * groups->max);
		}
		groups->accounts[groups->n++] = groups->ahead;
		read_ahead(groups);
	}
}

static void
begin_groups(AccountGroups *groups, Store *store)
{
	memset(groups, 0, sizeof(*groups));
	for (int i = 0; i < 2; i++)
		groups->contexts[i] = AllocSetContextCreate(CurrentMemoryContext, "ledger reconcile",
													ALLOCSET_DEFAULT_SIZES);
	groups->max = 8;
	groups->accounts = palloc(sizeof(LedgerAccount) * groups->max);
	groups->scan = ledger_accounts_of_users(store, GetActiveSnapshot());
	read_ahead(groups);
	next_group(groups);
}

static void
end_groups(AccountGroups *groups)
{
	ledger_store_end(groups->scan);
	for (int i = 0; i < 2; i++)
		MemoryContextDelete(groups->contexts[i]);
}

/* ---- the merge --------------------------------------------------------------------- */

static bool
within_tolerance(const Reconcile *reconcile, const CompareColumn *column)
{
	Numeric		difference = column->difference;

	if (difference == NULL)
		return false;
	if (ledger_amount_sign(difference) < 0)
		difference = ledger_amount_negate(difference);
	return ledger_amount_cmp(difference, reconcile->tolerance) <= 0;
}

static void
put_column(Reconcile *reconcile, const pg_uuid_t *user_id, const CompareColumn *column)
{
	Datum		values[7];
	bool		isnull[7] = {false};
	int			n = 0;

	if (reconcile->with_mapping)
		values[n++] = Int16GetDatum(column->table->id);
	values[n++] = UUIDPGetDatum(user_id);
	values[n++] = CStringGetTextDatum(column->column->name);
	values[n++] = NumericGetDatum(column->ledger_value);
	isnull[n] = column->legacy_value == NULL;
	values[n++] = NumericGetDatum(column->legacy_value);
	isnull[n] = column->difference == NULL;
	values[n++] = NumericGetDatum(column->difference);
	values[n++] = CStringGetTextDatum(ledger_compare_status_name(column->status));
	tuplestore_putvalues(reconcile->rsinfo->setResult, reconcile->rsinfo->setDesc, values, isnull);
}

static void
reconcile_user(Reconcile *reconcile, const LegacyTable *table, const pg_uuid_t *user_id,
			   const LedgerAccount *accounts, int naccounts, const LegacyRow *row)
{
	CompareColumn columns[LEDGER_MAX_LEGACY_COLUMNS];
	int			n = ledger_compare_row(table, user_id, accounts, naccounts, row, columns);

	for (int i = 0; i < n; i++)
	{
		if (columns[i].status != COMPARE_MATCH && !within_tolerance(reconcile, &columns[i]))
			put_column(reconcile, user_id, &columns[i]);
	}
}

/* Both sides of one table, by user; a side that is missing has no values. */
static void
reconcile_table(Reconcile *reconcile, LegacyTable *table, Store *store)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ledger reconcile user",
												  ALLOCSET_DEFAULT_SIZES);
	AccountGroups groups;
	LegacyScan *scan;
	pg_uuid_t	row_user;
	LegacyRow	row;
	bool		has_row;

	begin_groups(&groups, store);
	scan = ledger_legacy_scan(table);
	has_row = ledger_legacy_next(scan, &row_user, &row);
	while (has_row || groups.has_group)
	{
		static const LegacyRow no_row = {false};
		int			order = !has_row ? 1 : !groups.has_group ? -1 :
			memcmp(&row_user, &groups.user_id, UUID_LEN);
		MemoryContext old = MemoryContextSwitchTo(context);

		CHECK_FOR_INTERRUPTS();
		if (order < 0)
			reconcile_user(reconcile, table, &row_user, NULL, 0, &row);
		else
			reconcile_user(reconcile, table, &groups.user_id, groups.accounts, groups.n,
						   order == 0 ? &row : &no_row);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
		if (order >= 0)
			next_group(&groups);
		if (order <= 0)
			has_row = ledger_legacy_next(scan, &row_user, &row);
	}
	ledger_legacy_end(scan);
	end_groups(&groups);
	MemoryContextDelete(context);
}

/* ---- reconcile() --------------------------------------------------------------------- */

static Numeric
arg_tolerance(FunctionCallInfo fcinfo, int arg)
{
	Numeric		tolerance;

	ledger_arg_required(fcinfo, arg, "tolerance");
	tolerance = PG_GETARG_NUMERIC(arg);
	if (numeric_is_nan(tolerance) || numeric_is_inf(tolerance) || ledger_amount_sign(tolerance) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid tolerance %s", ledger_amount_out(tolerance)),
				 errhint("Pass zero or a finite number above it.")));
	return tolerance;
}

static void
check_scope(FunctionCallInfo fcinfo, int arg)
{
	const char *scope;

	ledger_arg_required(fcinfo, arg, "scope");
	scope = text_to_cstring(PG_GETARG_TEXT_PP(arg));
	if (strcmp(scope, "incremental") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("scope incremental is not supported"),
				 errhint("Use scope full.")));
	if (strcmp(scope, "full") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("scope must be full or incremental")));
}

PG_FUNCTION_INFO_V1(ledger_reconcile);

/*
 * (tolerance, scope) → setof ([mapping_id,] user_id, legacy_column,
 * ledger_value, legacy_value, difference, status), what does not match alone
 */
Datum
ledger_reconcile(PG_FUNCTION_ARGS)
{
	Reconcile	reconcile = {0};
	Store	   *store;
	ListCell   *lc;

	reconcile.tolerance = arg_tolerance(fcinfo, 0);
	check_scope(fcinfo, 1);
	InitMaterializedSRF(fcinfo, 0);
	reconcile.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	reconcile.with_mapping = reconcile.rsinfo->setDesc->natts == 7;
	store = ledger_accounts_open(AccessShareLock);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	foreach(lc, ledger_legacy_tables())
		reconcile_table(&reconcile, lfirst(lc), store);
	SPI_finish();
	ledger_store_close(store);
	return (Datum) 0;
}
