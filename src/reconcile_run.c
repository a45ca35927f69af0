/*
 * reconcile_run.c
 *		run_reconciliation(): the steps of a recorded run.
 *
 * What a step does is SQL (reconcile.sql) and runs as the extension's owner,
 * so that who may reconcile need not have rights on what is recorded. Between
 * two steps the transaction is committed: a snapshot lives no longer than a
 * step, and a run that was interrupted can be gone on with. In a transaction
 * block or a function there is nothing to commit; then all steps are one
 * transaction.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "args.h"
#include "owner.h"
#include "procedure.h"

enum
{
	ARG_SCOPE, ARG_TOLERANCE, ARG_RUN, ARG_DISCREPANCIES, ARG_FIRST_OPTION
};

static const char *const option_names[] = {
	"from_user", "to_user", "fraction", "max_users", "seed", "tolerances", "total_tolerances",
	"chunk_users"
};
static const Oid option_types[] = {
	UUIDOID, UUIDOID, FLOAT8OID, INT8OID, INT8OID, JSONBOID, JSONBOID, INT4OID
};

#define OPTIONS_SQL \
	"pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(" \
	"'from_user', $3, 'to_user', $4, 'fraction', $5, 'max_users', $6, 'seed', $7," \
	" 'tolerances', $8, 'total_tolerances', $9, 'chunk_users', $10))"

/* As the owner: one value of a SELECT. */
static Datum
select_as_owner(const char *sql, int n, Oid *types, Datum *values, const char *nulls, bool *isnull)
{
	OwnerContext saved;
	Datum		result;

	ledger_become(&saved, "reconciliation_runs");
	if (SPI_execute_with_args(sql, n, types, values, nulls, false, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "unexpected result of: %s", sql);
	result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, isnull);
	ledger_unbecome(&saved);
	return result;
}

static Datum
select_of_run(const char *sql, int64 run_id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(run_id)};
	bool		isnull;

	return select_as_owner(sql, 1, types, values, NULL, &isnull);
}

static int64
begin_run(FunctionCallInfo fcinfo)
{
	Oid			types[lengthof(option_names) + 2] = {TEXTOID, NUMERICOID};
	Datum		values[lengthof(option_names) + 2];
	char		nulls[lengthof(option_names) + 3] = {0};
	bool		isnull;

	for (int i = 0; i < lengthof(types); i++)
	{
		int			arg = i < 2 ? i : ARG_FIRST_OPTION + i - 2;

		if (i >= 2)
			types[i] = option_types[i - 2];
		values[i] = PG_GETARG_DATUM(arg);
		nulls[i] = PG_ARGISNULL(arg) ? 'n' : ' ';
	}
	return DatumGetInt64(select_as_owner("SELECT ledger.reconciliation_begin($1, $2, " OPTIONS_SQL ", false)",
										 lengthof(types), types, values, nulls, &isnull));
}

static void
next_transaction(bool atomic)
{
	if (!atomic)
		ledger_procedure_commit();
}

PG_FUNCTION_INFO_V1(ledger_run_reconciliation);

/* (scope, tolerance, run_id, discrepancies, options...) → (run_id, discrepancies) */
Datum
ledger_run_reconciliation(PG_FUNCTION_ARGS)
{
	bool		atomic = fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic;
	TupleDesc	desc;
	Datum		values[2];
	bool		isnull[2] = {false, false};
	int64		run_id;
	HeapTuple	tuple;

	if (SPI_connect_ext(atomic ? 0 : SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (IsolationUsesXactSnapshot())
		next_transaction(atomic);
	if (PG_ARGISNULL(ARG_RUN))
		run_id = begin_run(fcinfo);
	else
	{
		run_id = PG_GETARG_INT64(ARG_RUN);
		(void) select_of_run("SELECT ledger.reconciliation_resume($1)", run_id);
	}
	do
	{
		CHECK_FOR_INTERRUPTS();
		next_transaction(atomic);
	} while (DatumGetBool(select_of_run("SELECT ledger.reconciliation_step($1)", run_id)));
	next_transaction(atomic);
	values[0] = Int64GetDatum(run_id);
	values[1] = select_of_run("SELECT r.discrepancies FROM ledger.reconciliation_runs r WHERE r.id = $1",
							  run_id);
	SPI_finish();

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	tuple = heap_form_tuple(BlessTupleDesc(desc), values, isnull);
	return HeapTupleGetDatum(tuple);
}
