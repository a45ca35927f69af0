/*
 * reconcile.c
 *		Many users, both sides, one snapshot.
 *
 * Each side comes in the order of the users (side.c), and they are merged: the
 * accounts with every attached table. Whoever agrees is passed over by his
 * values as integers; whoever does not, or has what does not fit, is read once
 * more under the same snapshot and told of as compare_balances() would. So
 * memory does not grow with the number of users.
 *
 * An incremental reconciliation is the second half of that for the users that
 * reconcile_changed() names.
 *
 * Memory: what belongs to one user lives in a context that is reset after him.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "args.h"
#include "compare.h"
#include "owner.h"
#include "side.h"

#define CHANGED_BATCH	1000	/* users fetched at once */

typedef struct Reconcile
{
	ReturnSetInfo *rsinfo;
	bool		internal;		/* the result has the mapping's id and the currency too */
	Numeric		tolerance;
	List	   *tables;
	Store	   *accounts;
	Snapshot	snapshot;
	MemoryContext context;		/* of one user */
} Reconcile;

/* ---- one user ----------------------------------------------------------------------- */

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
	Datum		values[8];
	bool		isnull[8] = {false};
	int			n = 0;

	if (reconcile->internal)
		values[n++] = Int16GetDatum(column->table->id);
	values[n++] = UUIDPGetDatum(user_id);
	values[n++] = CStringGetTextDatum(column->column->name);
	values[n++] = NumericGetDatum(column->ledger_value);
	isnull[n] = column->legacy_value == NULL;
	values[n++] = NumericGetDatum(column->legacy_value);
	isnull[n] = column->difference == NULL;
	values[n++] = NumericGetDatum(column->difference);
	values[n++] = CStringGetTextDatum(ledger_compare_status_name(column->status));
	if (reconcile->internal)
		values[n] = ledger_account_type(column->column->types[0])->currency->text;
	tuplestore_putvalues(reconcile->rsinfo->setResult, reconcile->rsinfo->setDesc, values, isnull);
}

/* Tells of what differs; tables is a bit for each that is to be looked at. */
static void
look_at_user(Reconcile *reconcile, const pg_uuid_t *user_id, uint32 tables)
{
	MemoryContext old = MemoryContextSwitchTo(reconcile->context);
	LedgerAccount *accounts;
	int			naccounts = ledger_accounts_of_user(reconcile->accounts, user_id,
													reconcile->snapshot, &accounts);

	CHECK_FOR_INTERRUPTS();
	for (int i = 0; i < list_length(reconcile->tables); i++)
	{
		LegacyTable *table = list_nth(reconcile->tables, i);
		CompareColumn columns[LEDGER_MAX_LEGACY_COLUMNS];
		LegacyRow	row;
		int			n;

		if ((tables & (1U << i)) == 0)
			continue;
		ledger_legacy_fetch(table, user_id, &row);
		if (ledger_compare_agrees(table, accounts, naccounts, &row, NULL))
			continue;
		n = ledger_compare_row(table, user_id, accounts, naccounts, &row, columns);
		for (int j = 0; j < n; j++)
		{
			if (columns[j].status != COMPARE_MATCH && !within_tolerance(reconcile, &columns[j]))
				put_column(reconcile, user_id, &columns[j]);
		}
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(reconcile->context);
}

/* ---- the merge ------------------------------------------------------------------------ */

static bool
agrees(const SideUser *ledger, int first, const SideUser *legacy, int n)
{
	if ((ledger && !ledger->exact) || (legacy && !legacy->exact))
		return false;
	for (int i = 0; i < n; i++)
	{
		if ((ledger ? ledger->values[first + i] : 0) != (legacy ? legacy->values[i] : 0))
			return false;
	}
	return true;
}

/* The first user of all sides; false: there is none. */
static bool
next_user(Side **sides, int n, pg_uuid_t *user_id)
{
	const SideUser *first = NULL;

	for (int i = 0; i < n; i++)
	{
		const SideUser *user = ledger_side_user(sides[i]);

		if (user && (first == NULL || memcmp(&user->user_id, &first->user_id, UUID_LEN) < 0))
			first = user;
	}
	if (first)
		*user_id = first->user_id;
	return first != NULL;
}

static const SideUser *
of_user(Side *side, const pg_uuid_t *user_id)
{
	const SideUser *user = ledger_side_user(side);

	return user && memcmp(&user->user_id, user_id, UUID_LEN) == 0 ? user : NULL;
}

/* Which of the tables do not agree, for certain; a bit for each. */
static uint32
differing_tables(const Reconcile *reconcile, Side **sides, const pg_uuid_t *user_id)
{
	const SideUser *ledger = of_user(sides[0], user_id);
	uint32		differing = 0;
	int			first = 0;

	for (int i = 0; i < list_length(reconcile->tables); i++)
	{
		LegacyTable *table = list_nth(reconcile->tables, i);

		if (!agrees(ledger, first, of_user(sides[i + 1], user_id), table->ncolumns))
			differing |= 1U << i;
		first += table->ncolumns;
	}
	return differing;
}

/*
 * Compares at most so many users (0: all) and returns how many there were;
 * *next is who comes after them, unless there are no more (*at_end).
 */
static int64
reconcile_range(Reconcile *reconcile, SideRange *range, int64 max_users, pg_uuid_t *next,
				bool *at_end)
{
	Side	   *sides[LEDGER_MAX_MAPPINGS + 1];
	int			n = 0;
	int64		compared = 0;
	ListCell   *lc;

	range->memory = get_hash_memory_limit() / (list_length(reconcile->tables) + 1);
	sides[n++] = ledger_side_of_accounts(reconcile->tables, range, reconcile->snapshot);
	foreach(lc, reconcile->tables)
		sides[n++] = ledger_side_of_legacy(lfirst(lc), range, reconcile->snapshot);
	for (;;)
	{
		pg_uuid_t	user_id;
		uint32		differing;

		*at_end = !next_user(sides, n, next);
		user_id = *next;
		if (*at_end || (max_users > 0 && compared == max_users))
			break;
		if (compared % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		differing = differing_tables(reconcile, sides, &user_id);
		if (differing)
			look_at_user(reconcile, &user_id, differing);
		for (int i = 0; i < n; i++)
		{
			if (of_user(sides[i], &user_id))
				ledger_side_next(sides[i]);
		}
		compared++;
	}
	while (n > 0)
		ledger_side_end(sides[--n]);
	return compared;
}

/* ---- those that have changed --------------------------------------------------------------- */

/* As the owner: who may reconcile need not be able to read what was recorded. */
static Portal
open_changed(Numeric tolerance)
{
	Oid			types[] = {NUMERICOID};
	Datum		values[] = {NumericGetDatum(tolerance)};
	OwnerContext saved;
	Portal		portal;

	ledger_become(&saved, "reconciliation_runs");
	portal = SPI_cursor_open_with_args(NULL, "SELECT c.user_id FROM ledger.reconcile_changed($1) c"
									   " ORDER BY 1", 1, types, values, NULL, true, 0);
	SPI_cursor_fetch(portal, true, CHANGED_BATCH);
	ledger_unbecome(&saved);
	return portal;
}

/*
 * The users in the order of their ids. false: there is no run to go on from;
 * the first row, without a user, says so.
 */
static bool
reconcile_changed(Reconcile *reconcile)
{
	Portal		portal = open_changed(reconcile->tolerance);

	while (SPI_processed > 0)
	{
		SPITupleTable *rows = SPI_tuptable;
		uint64		n = SPI_processed;

		for (uint64 i = 0; i < n; i++)
		{
			bool		isnull;
			pg_uuid_t	user_id;
			Datum		value = SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isnull);

			if (isnull)
			{
				SPI_cursor_close(portal);
				return false;
			}
			user_id = *DatumGetUUIDP(value);
			look_at_user(reconcile, &user_id, ~0U);
		}
		SPI_freetuptable(rows);
		SPI_cursor_fetch(portal, true, CHANGED_BATCH);
	}
	SPI_cursor_close(portal);
	return true;
}

/* ---- arguments --------------------------------------------------------------------------------- */

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

static bool
arg_is_incremental(FunctionCallInfo fcinfo, int arg)
{
	const char *scope;

	ledger_arg_required(fcinfo, arg, "scope");
	scope = text_to_cstring(PG_GETARG_TEXT_PP(arg));
	if (strcmp(scope, "incremental") == 0)
		return true;
	if (strcmp(scope, "full") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("scope must be full or incremental")));
	return false;
}

static void
begin(Reconcile *reconcile, FunctionCallInfo fcinfo)
{
	InitMaterializedSRF(fcinfo, 0);
	reconcile->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	reconcile->internal = reconcile->rsinfo->setDesc->natts == 8;
	reconcile->accounts = ledger_accounts_open(AccessShareLock);
	reconcile->tables = ledger_legacy_compared();
	reconcile->snapshot = GetActiveSnapshot();
	reconcile->context = AllocSetContextCreate(CurrentMemoryContext, "ledger reconcile user",
											   ALLOCSET_DEFAULT_SIZES);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

static void
end(Reconcile *reconcile)
{
	SPI_finish();
	ledger_store_close(reconcile->accounts);
	MemoryContextDelete(reconcile->context);
}

static void
set_everybody(SideRange *range)
{
	memset(range, 0, sizeof(*range));
	memset(&range->to, 0xff, sizeof(range->to));
	range->fraction = 1;
}

/* ---- SQL ------------------------------------------------------------------------------------------ */

PG_FUNCTION_INFO_V1(ledger_reconcile);

/*
 * (tolerance, scope) → setof (user_id, legacy_column, ledger_value,
 * legacy_value, difference, status), what does not match alone
 */
Datum
ledger_reconcile(PG_FUNCTION_ARGS)
{
	Reconcile	reconcile = {0};
	bool		incremental;

	reconcile.tolerance = arg_tolerance(fcinfo, 0);
	incremental = arg_is_incremental(fcinfo, 1);
	begin(&reconcile, fcinfo);
	if (!incremental || !reconcile_changed(&reconcile))
	{
		SideRange	range;
		pg_uuid_t	next;
		bool		at_end;

		set_everybody(&range);
		(void) reconcile_range(&reconcile, &range, 0, &next, &at_end);
	}
	end(&reconcile);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(ledger_reconcile_range);

/*
 * (from_user, to_user, max_users, fraction, seed) → what differs, however
 * little, with the mapping's id and the currency; and a last row of status
 * end, whose ledger_value is how many users were compared, whose user_id is
 * who comes next, NULL if nobody does
 */
Datum
ledger_reconcile_range(PG_FUNCTION_ARGS)
{
	Reconcile	reconcile = {0};
	SideRange	range;
	pg_uuid_t	next;
	bool		at_end;
	int64		compared;
	Datum		values[8] = {0};
	bool		isnull[8] = {true, true, true, false, true, true, false, true};

	set_everybody(&range);
	if (!PG_ARGISNULL(0))
		range.from = *PG_GETARG_UUID_P(0);
	if (!PG_ARGISNULL(1))
		range.to = *PG_GETARG_UUID_P(1);
	range.fraction = PG_GETARG_FLOAT8(3);
	range.seed = PG_GETARG_INT64(4);
	reconcile.tolerance = ledger_amount_zero();
	begin(&reconcile, fcinfo);
	compared = reconcile_range(&reconcile, &range, PG_GETARG_INT64(2), &next, &at_end);
	end(&reconcile);

	isnull[1] = at_end;
	values[1] = UUIDPGetDatum(&next);
	values[3] = NumericGetDatum(int64_to_numeric(compared));
	values[6] = CStringGetTextDatum("end");
	tuplestore_putvalues(reconcile.rsinfo->setResult, reconcile.rsinfo->setDesc, values, isnull);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(ledger_reconcile_users);

/* (users) → the same of these, in this order, without the last row */
Datum
ledger_reconcile_users(PG_FUNCTION_ARGS)
{
	Reconcile	reconcile = {0};
	Datum	   *users;
	bool	   *isnull;
	int			n;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR,
					  &users, &isnull, &n);
	reconcile.tolerance = ledger_amount_zero();
	begin(&reconcile, fcinfo);
	for (int i = 0; i < n; i++)
	{
		if (!isnull[i])
			look_at_user(&reconcile, DatumGetUUIDP(users[i]), ~0U);
	}
	end(&reconcile);
	return (Datum) 0;
}
