/*
 * backfill.c
 *		The openings of all who have a legacy row: the parts of backfill().
 *
 * The procedure (backfill.sql) commits after each call of backfill_step(),
 * which reads the next rows of a legacy table in the order of their keys and
 * locks those that nobody holds, so that it never waits for a row while it
 * holds others: an application may lock its rows in whatever order. Those
 * that are held are noted and come at the end, each in a transaction that
 * holds nothing else. Any other wait of a batch ends after LOCK_MS, before
 * PostgreSQL would look for a deadlock; the procedure tries the batch again.
 *
 * One run at a time: its session holds a lock that stands for it, over its
 * transactions, until it ends, fails or is gone.
 *
 * Locks of a batch: the settings, the run, legacy rows, then as a posting.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "args.h"
#include "backfill.h"
#include "legacy_plain.h"
#include "lock_wait.h"
#include "owner.h"

#define LOCK_MS		200			/* that a batch waits for any lock */
#define WAIT_MS		1000		/* that a row which somebody holds is waited for at a time */

/* What backfill_next() says. */
typedef struct BackfillTask
{
	const char *status;
	LegacyTable *table;			/* NULL: nothing */
	bool		has_last_key;
	pg_uuid_t	last_key;
	bool		has_position;
	pg_uuid_t	position;
	bool		waits;			/* for user_id's row */
	pg_uuid_t	user_id;
} BackfillTask;

/* ---- the lock -------------------------------------------------------------------- */

/*
 * An advisory lock of a kind that SQL has not: held beyond transactions, and
 * given back when the session ends. An error does not give it back by itself.
 */
#define BACKFILL_LOCK_KIND	3	/* SQL's own are 1 and 2 */

static LOCKTAG held_lock;
static bool lock_is_held = false;
static int	held_level = 0;		/* nesting level that it goes back with; 0: the session's */

static void
release_lock(void)
{
	if (lock_is_held)
		(void) LockRelease(&held_lock, ExclusiveLock, true);
	lock_is_held = false;
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		release_lock();
	held_level = 0;
}

/* What a savepoint has taken goes with it: nobody would know of it. */
static void
subxact_callback(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (!lock_is_held || held_level < level)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		release_lock();
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		held_level = level - 1;
}

static char *
holder(void)
{
	MemoryContext context = CurrentMemoryContext;
	OwnerContext saved;
	char	   *pid;

	ledger_spi_as_owner(&saved, "backfill_runs");
	if (SPI_execute("SELECT ledger.backfill_pid()", true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look who runs the backfill");
	pid = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (pid)
		pid = MemoryContextStrdup(context, pid);
	ledger_spi_done(&saved);
	return pid;
}

static void
take_lock(void)
{
	static bool registered = false;
	char	   *pid;

	if (!registered)
	{
		RegisterXactCallback(xact_callback, NULL);
		RegisterSubXactCallback(subxact_callback, NULL);
	}
	registered = true;
	if (lock_is_held)
		return;
	SET_LOCKTAG_ADVISORY(held_lock, MyDatabaseId, ledger_relation_oid("backfill_runs"), 0,
						 BACKFILL_LOCK_KIND);
	lock_is_held = LockAcquire(&held_lock, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
	held_level = GetCurrentTransactionNestLevel();
	if (lock_is_held)
		return;
	pid = holder();
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("a backfill is running already"),
			 pid ? errdetail("Process %s runs it.", pid) : 0,
			 errhint("ledger.backfill_progress shows how far it is; pause_backfill() lets it end.")));
}

/* ---- tasks and results ------------------------------------------------------------ */

static bool
get_uuid(int column, pg_uuid_t *uuid)
{
	char	   *text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);

	if (text == NULL)
		return false;
	*uuid = *DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(text)));
	return true;
}

static void
next_task(int64 run_id, BackfillTask *task)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(run_id)};
	OwnerContext saved;
	char	   *mapping;
	char	   *status;

	memset(task, 0, sizeof(*task));
	ledger_spi_as_owner(&saved, "backfill_runs");
	if (SPI_execute_with_args("SELECT * FROM ledger.backfill_next($1)", 1, types, values, NULL,
							  false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look what is to be done next");
	status = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	mapping = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	if (status == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no backfill run " INT64_FORMAT, run_id),
				 errhint("Call ledger.backfill().")));
	task->status = MemoryContextStrdup(context, status);
	task->has_last_key = get_uuid(3, &task->last_key);
	task->has_position = get_uuid(4, &task->position);
	task->waits = get_uuid(5, &task->user_id);
	if (mapping)
		task->table = ledger_legacy_table_by_id(atoi(mapping));
	ledger_spi_done(&saved);
}

static Datum
make_array(Datum *values, bool *nulls, int n, Oid type)
{
	int			dims[] = {n};
	int			lower[] = {1};
	bool		is_uuid = type == UUIDOID;

	if (n == 0)
		return PointerGetDatum(construct_empty_array(type));
	return PointerGetDatum(construct_md_array(values, nulls, 1, dims, lower, type,
											  is_uuid ? UUID_LEN : -1, false,
											  is_uuid ? TYPALIGN_CHAR : TYPALIGN_INT));
}

/* What is not to be had as jsonb is a string of it. */
static Datum
row_document(const char *row)
{
	StringInfoData text;
	Datum		document;

	if (ledger_legacy_row_jsonb(row, &document))
		return document;
	initStringInfo(&text);
	escape_json(&text, row);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text.data));
}

/* The findings as arrays: key, user, reason, detail, the row as it stands. */
static void
findings_as_arrays(LegacyTable *table, const List *findings, Datum *values)
{
	int			n = list_length(findings);
	Datum	   *parts[5];
	bool	   *no_row = palloc0(sizeof(bool) * (n + 1));
	bool	   *no_user = palloc0(sizeof(bool) * (n + 1));
	static const Oid types[] = {TEXTOID, UUIDOID, TEXTOID, TEXTOID, JSONBOID};

	for (int i = 0; i < 5; i++)
		parts[i] = palloc(sizeof(Datum) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		const BackfillFinding *finding = list_nth(findings, i);
		const char *row = finding->row ? finding->row :
			ledger_legacy_row_json(table, &finding->user_id);

		parts[0][i] = CStringGetTextDatum(finding->key);
		no_user[i] = !finding->has_user;
		parts[1][i] = UUIDPGetDatum(&finding->user_id);
		parts[2][i] = CStringGetTextDatum(finding->reason);
		parts[3][i] = CStringGetTextDatum(finding->detail);
		no_row[i] = row == NULL;
		parts[4][i] = row ? row_document(row) : (Datum) 0;
	}
	for (int i = 0; i < 5; i++)
		values[i] = make_array(parts[i], i == 4 ? no_row : i == 1 ? no_user : NULL, n,
							   types[i]);
}

static Datum
waiting_as_array(const LegacyChunk *chunk, int *n)
{
	Datum	   *users = palloc(sizeof(Datum) * (chunk->nrows + 1));

	*n = 0;
	for (int i = 0; i < chunk->nrows; i++)
	{
		if (!chunk->rows[i].locked)
			users[(*n)++] = UUIDPGetDatum(&chunk->rows[i].user_id);
	}
	return make_array(users, NULL, *n, UUIDOID);
}

/* Notes what a batch did; returns how many of its rows somebody holds. */
static int
record(int64 run_id, const BackfillTask *task, const LegacyChunk *chunk,
	   const BackfillResult *result, TimestampTz began)
{
	Oid			types[] = {INT8OID, INT2OID, TEXTOID, TEXTOID, BOOLOID, UUIDOID, INT4OID, INT4OID,
		INT4OID, UUIDARRAYOID, TEXTARRAYOID, UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID,
	JSONBARRAYOID, TIMESTAMPTZOID};
	Datum		values[lengthof(types)];
	char		nulls[] = "                ";
	OwnerContext saved;
	int			waiting;

	values[0] = Int64GetDatum(run_id);
	values[1] = Int16GetDatum(task->table->id);
	values[2] = CStringGetTextDatum(ledger_uuid_text(&task->last_key));
	values[3] = CStringGetTextDatum(ledger_uuid_text(&chunk->last));
	values[4] = BoolGetDatum(!task->waits && chunk->at_end);
	values[5] = UUIDPGetDatum(&task->user_id);
	nulls[5] = task->waits ? ' ' : 'n';
	values[6] = Int32GetDatum(task->waits ? 0 : chunk->nrows);
	values[7] = Int32GetDatum(result->opened);
	values[8] = Int32GetDatum(result->already);
	values[9] = waiting_as_array(chunk, &waiting);
	findings_as_arrays(task->table, result->findings, &values[10]);
	values[15] = TimestampTzGetDatum(began);
	ledger_spi_as_owner(&saved, "backfill_runs");
	if (SPI_execute_with_args("SELECT ledger.backfill_record($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,"
							  " $12, $13, $14, $15, $16)",
							  lengthof(types), types, values, nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not record a batch of the backfill");
	ledger_spi_done(&saved);
	return waiting;
}

/* ---- a batch ---------------------------------------------------------------------------- */

/* Rows that no user can be found for. */
static void
find_rows_without_key(const BackfillTask *task, BackfillResult *result)
{
	char	  **places;
	char	  **rows;
	int			n = ledger_legacy_rows_without_key(task->table, &places, &rows);

	for (int i = 0; i < n; i++)
	{
		BackfillFinding *finding = palloc0(sizeof(BackfillFinding));

		finding->key = places[i];
		finding->reason = "null_key";
		finding->detail = psprintf("Column %s is NULL.", task->table->key_column);
		finding->row = rows[i];
		result->findings = lappend(result->findings, finding);
	}
}

/* Money that no mapped column sees: one finding for all rows of the same values. */
static void
find_rows_of_no_group(const BackfillTask *task, BackfillResult *result)
{
	char	  **values;
	char	  **totals;
	int			n = ledger_legacy_values_of_no_group(task->table, &values, &totals);

	for (int i = 0; i < n; i++)
	{
		BackfillFinding *finding = palloc0(sizeof(BackfillFinding));

		finding->key = values[i];
		finding->reason = "condition";
		finding->detail = psprintf("Rows with %s are of none of the mapping's conditions.", values[i]);
		finding->row = totals[i];
		result->findings = lappend(result->findings, finding);
	}
}

/* Rows in the order of the keys; a table's first time is the time of those that have none, or of no group. */
static void
read_rows(BackfillTask *task, int max, LegacyChunk *chunk, BackfillResult *result)
{
	if (!task->has_last_key)
	{
		find_rows_without_key(task, result);
		find_rows_of_no_group(task, result);
	}
	if (!task->has_last_key && !ledger_legacy_last_key(task->table, &task->last_key))
	{
		memset(chunk, 0, sizeof(*chunk));
		chunk->at_end = true;
		return;
	}
	ledger_legacy_lock_chunk(task->table, task->has_position ? &task->position : NULL,
							 &task->last_key, max, chunk);
}

typedef struct RowToLock
{
	LegacyTable *table;
	const pg_uuid_t *user_id;
	bool	   *found;
} RowToLock;

static void
lock_row(const void *arg)
{
	const RowToLock *row = arg;
	bool		moved;

	*row->found = ledger_legacy_lock_row_first(row->table, row->user_id, GetActiveSnapshot(),
											   &moved);
}

/* The row that is waited for; false: somebody holds it still. */
static bool
read_one(const BackfillTask *task, LegacyChunk *chunk)
{
	bool		found = false;
	RowToLock	row = {task->table, &task->user_id, &found};

	memset(chunk, 0, sizeof(*chunk));
	chunk->rows = palloc0(sizeof(LegacyChunkRow));
	if (!ledger_lock_within(WAIT_MS, lock_row, &row))
		return false;
	if (!found)
		return true;
	chunk->nrows = 1;
	chunk->rows[0].user_id = task->user_id;
	chunk->rows[0].locked = true;
	PushActiveSnapshot(GetTransactionSnapshot());
	ledger_legacy_fetch(task->table, &task->user_id, &chunk->rows[0].row);
	PopActiveSnapshot();
	return true;
}

static void
note_try(int64 run_id, const BackfillTask *task)
{
	Oid			types[] = {INT8OID, INT2OID, UUIDOID};
	Datum		values[] = {Int64GetDatum(run_id), Int16GetDatum(task->table->id),
	UUIDPGetDatum(&task->user_id)};
	OwnerContext saved;

	ledger_spi_as_owner(&saved, "backfill_runs");
	if (SPI_execute_with_args("UPDATE ledger.backfill_waiting w SET tries = w.tries + 1"
							  " WHERE w.run_id = $1 AND w.mapping_id = $2 AND w.user_id = $3",
							  lengthof(types), types, values, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not note that a row is held");
	ledger_spi_done(&saved);
}

static void
refuse_if_retired(const PostingRequest *request)
{
	if (request->settings->phase == LEDGER_RETIRED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the legacy tables are retired"),
				 errhint("Nobody is opened from them any more.")));
}

/* One batch of the run; returns how many rows it saw, and how many somebody holds. */
static const char *
step(int64 run_id, int max, int *seen, int *waiting)
{
	TimestampTz began = GetCurrentTimestamp();
	PostingRequest *request = ledger_posting_new("backfill", "opening");
	BackfillResult result = {0};
	BackfillTask task;
	LegacyChunk chunk = {0};

	ledger_posting_begin(request);
	refuse_if_retired(request);
	ledger_posting_take_snapshot(request);
	next_task(run_id, &task);
	*seen = *waiting = 0;
	if (task.table)
	{
		ledger_legacy_check_owner(task.table->relid);
		ledger_legacy_check_table(task.table);
		ledger_backfill_house(request, task.table);
		if (!task.waits)
			read_rows(&task, max, &chunk, &result);
		else if (!read_one(&task, &chunk))
		{
			note_try(run_id, &task);
			*seen = *waiting = 1;
		}
		if (*waiting == 0)
		{
			ledger_backfill_open(request, task.table, &chunk, &result);
			CommandCounterIncrement();
			*waiting = record(run_id, &task, &chunk, &result, began);
			*seen = chunk.nrows;
		}
	}
	ledger_posting_end(request);
	return task.status;
}

/* ---- functions ----------------------------------------------------------------------------- */

/* Of whatever is attached. */
static void
check_caller(void)
{
	List	   *tables = ledger_legacy_tables();
	ListCell   *lc;

	if (tables == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no legacy table is attached"),
				 errhint("Call attach_legacy() first.")));
	foreach(lc, tables)
	{
		ledger_legacy_check_owner(((LegacyTable *) lfirst(lc))->relid);
	}
}

PG_FUNCTION_INFO_V1(ledger_backfill_begin);

/* (run_id) → bigint */
Datum
ledger_backfill_begin(PG_FUNCTION_ARGS)
{
	PostingRequest *request = ledger_posting_new("backfill", "opening");
	Oid			types[] = {INT8OID, TEXTOID};
	Datum		values[] = {PG_GETARG_DATUM(0),
	CStringGetTextDatum(GetUserNameFromId(GetUserId(), false))};
	OwnerContext saved;
	bool		isnull;
	int64		run_id;

	ledger_posting_begin(request);
	refuse_if_retired(request);
	check_caller();
	take_lock();
	ledger_posting_take_snapshot(request);
	ledger_posting_end(request);
	ledger_spi_as_owner(&saved, "backfill_runs");
	if (SPI_execute_with_args("SELECT ledger.backfill_open_run($1, $2)", lengthof(types), types,
							  values, PG_ARGISNULL(0) ? "n " : NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not begin a run of the backfill");
	run_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	ledger_spi_done(&saved);
	PG_RETURN_INT64(run_id);
}

PG_FUNCTION_INFO_V1(ledger_backfill_step);

/* (run_id, batch_size) → (status, seen, waiting) */
Datum
ledger_backfill_step(PG_FUNCTION_ARGS)
{
	int64		run_id = ledger_arg_int64(fcinfo, 0, "run_id");
	TupleDesc	desc;
	Datum		values[3];
	bool		isnull[3] = {false};
	int			guc_level = NewGUCNestLevel();
	const char *status;
	int			seen;
	int			waiting;

	ledger_arg_required(fcinfo, 1, "batch_size");
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (LockTimeout == 0 || LockTimeout > LOCK_MS)
		(void) set_config_option("lock_timeout", psprintf("%d", LOCK_MS), PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	status = step(run_id, Max(Min(PG_GETARG_INT32(1), 10000), 1), &seen, &waiting);
	AtEOXact_GUC(true, guc_level);
	values[0] = CStringGetTextDatum(status);
	values[1] = Int32GetDatum(seen);
	values[2] = Int32GetDatum(waiting);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull)));
}

PG_FUNCTION_INFO_V1(ledger_backfill_end);

/* (run_id, error, failed) */
Datum
ledger_backfill_end(PG_FUNCTION_ARGS)
{
	Oid			types[] = {INT8OID, TEXTOID, BOOLOID};
	Datum		values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1), PG_GETARG_DATUM(2)};
	OwnerContext saved;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2))
		PG_RETURN_VOID();
	check_caller();
	if (!PG_ARGISNULL(1))
	{
		ledger_spi_as_owner(&saved, "backfill_runs");
		if (SPI_execute_with_args("SELECT ledger.backfill_record_end($1, $2, $3)", lengthof(types),
								  types, values, NULL, false, 0) != SPI_OK_SELECT)
			elog(ERROR, "could not note the end of the backfill");
		ledger_spi_done(&saved);
	}
	release_lock();
	PG_RETURN_VOID();
}
