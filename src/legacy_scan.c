/*
 * legacy_scan.c
 *		Many users' rows of an attached legacy table, in the order of the users.
 *
 * Keys of other types than uuid come in the order of the uuids that they stand
 * for; the rows of one user come together.
 *
 * Memory: a scan's row lives in a context of its own until the next call; a
 * chunk is the caller's.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "legacy_plain.h"
#include "legacy_sql.h"

#define SCAN_BATCH	1000		/* rows fetched at once by a scan */

struct LegacyScan
{
	LegacyTable *table;
	Portal		portal;
	MemoryContext row;			/* of the caller's, for one user's row */
	SPITupleTable *rows;
	uint64		nrows;
	uint64		next;
	bool		ahead;			/* the next tuple is of another user */
	pg_uuid_t	ahead_user;
};

/* Inside SPI: the caller is connected from here to ledger_legacy_end(). */
LegacyScan *
ledger_legacy_scan(LegacyTable *table, const pg_uuid_t *from, const pg_uuid_t *to)
{
	LegacyScan *scan = palloc0(sizeof(LegacyScan));
	Datum		values[2];
	OwnerContext saved;

	table = ledger_row_lock_table(table, AccessShareLock);
	scan->table = table;
	scan->row = AllocSetContextCreate(CurrentMemoryContext, "ledger legacy scan",
									  ALLOCSET_SMALL_SIZES);
	ledger_legacy_key_range(table, from, to, values);
	ledger_row_become_owner(table, PLAN_SCAN, &saved);
	scan->portal = SPI_cursor_open(NULL, ledger_row_plan(table, PLAN_SCAN, 0), values, NULL, true);
	ledger_unbecome(&saved);
	return scan;
}

/* The next tuple, not taken yet; NULL: none. */
static HeapTuple
peek(LegacyScan *scan)
{
	if (scan->next == scan->nrows)
	{
		OwnerContext saved;

		if (scan->rows)
			SPI_freetuptable(scan->rows);
		ledger_row_become_owner(scan->table, PLAN_SCAN, &saved);
		SPI_cursor_fetch(scan->portal, true, SCAN_BATCH);
		ledger_unbecome(&saved);
		scan->rows = SPI_tuptable;
		scan->nrows = SPI_processed;
		scan->next = 0;
		if (scan->nrows == 0)
			return NULL;
	}
	return scan->rows->vals[scan->next];
}

/* Whose key it is, as scans and PLAN_KEYS read it. */
static void
user_of_key(const LegacyTable *table, Datum key, bool isnull, pg_uuid_t *user_id)
{
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid key in the attached legacy table %s", table->name),
				 errdetail("Its function makes no uuid of a key of column %s.", table->key_column),
				 errhint("Nobody could say whose row that is; write another key.")));
	switch (table->key_kind)
	{
		case LEGACY_KEY_INTEGER:
			ledger_integer_as_uuid(DatumGetInt64(key), user_id);
			break;
		case LEGACY_KEY_TEXT:
			ledger_legacy_key_user(table, key, user_id);
			break;
		default:
			*user_id = *DatumGetUUIDP(key);
			break;
	}
}

static void
user_of(const LegacyScan *scan, HeapTuple tuple, pg_uuid_t *user_id)
{
	bool		isnull;
	Datum		key = SPI_getbinval(tuple, scan->rows->tupdesc, scan->table->ncolumns + 3, &isnull);

	user_of_key(scan->table, key, isnull, user_id);
}

/* The row's values are good until the next call. */
bool
ledger_legacy_next(LegacyScan *scan, pg_uuid_t *user_id, LegacyRow *row)
{
	HeapTuple	tuple = peek(scan);

	memset(row, 0, sizeof(*row));
	MemoryContextReset(scan->row);
	if (tuple == NULL)
		return false;
	if (scan->ahead)
		*user_id = scan->ahead_user;
	else
		user_of(scan, tuple, user_id);
	scan->ahead = false;
	do
	{
		ledger_row_read(scan->table, tuple, scan->rows->tupdesc, row, scan->row);
		scan->next++;
		if (scan->table->ngroups == 1)
			return true;
		tuple = peek(scan);
		if (tuple)
			user_of(scan, tuple, &scan->ahead_user);
		scan->ahead = tuple && memcmp(&scan->ahead_user, user_id, UUID_LEN) != 0;
	} while (tuple && !scan->ahead);
	return true;
}

void
ledger_legacy_end(LegacyScan *scan)
{
	SPI_cursor_close(scan->portal);
	MemoryContextDelete(scan->row);
	pfree(scan);
}

/* ---- chunks ------------------------------------------------------------------------ */

/* Runs a plan as the owner, connected to SPI already. */
static void
run(const LegacyTable *table, LegacyPlan kind, Datum *values, const char *nulls, bool read_only)
{
	OwnerContext saved;
	int			result;

	ledger_row_become_owner(table, kind, &saved);
	result = SPI_execute_plan(ledger_row_plan(table, kind, 0), values, nulls, read_only, 0);
	ledger_unbecome(&saved);
	if (result != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
}

/* The chunk's users; expected: how many rows each has. */
static void
find_chunk(const LegacyTable *table, const pg_uuid_t *after, const pg_uuid_t *until, int max,
		   LegacyChunk *chunk, int64 *expected)
{
	static const pg_uuid_t first = {{0}};
	Datum		values[3];
	bool		isnull;

	/* the range has its ends in it: one more than asked for */
	ledger_legacy_key_range(table, after ? after : &first, until, values);
	values[2] = Int64GetDatum(after ? (int64) max + 1 : max);
	run(table, PLAN_KEYS, values, NULL, false);
	for (uint64 i = 0; i < SPI_processed && chunk->nrows < max; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		LegacyChunkRow *row = &chunk->rows[chunk->nrows];
		Datum		key = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull);

		user_of_key(table, key, isnull, &row->user_id);
		if (after && memcmp(&row->user_id, after, UUID_LEN) <= 0)
			continue;
		row->locked = false;
		expected[chunk->nrows++] = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull));
	}
	chunk->at_end = chunk->nrows < max;
}

/* A user is locked if all his rows are. */
static void
lock_found(const LegacyTable *table, LegacyChunk *chunk, const int64 *expected,
		   MemoryContext context)
{
	int64	   *locked = palloc0(sizeof(int64) * chunk->nrows);
	Datum		values[2];
	SPITupleTable *rows;
	int			n = 0;

	ledger_legacy_key_range(table, &chunk->rows[0].user_id, &chunk->last, values);
	run(table, PLAN_LOCK_RANGE, values, NULL, false);
	rows = SPI_tuptable;
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		pg_uuid_t	user_id;
		Datum		key = SPI_getbinval(rows->vals[i], rows->tupdesc, table->ncolumns + 3, &isnull);

		user_of_key(table, key, isnull, &user_id);
		/* a row that has come in between is not one of the chunk */
		while (n < chunk->nrows && memcmp(&chunk->rows[n].user_id, &user_id, UUID_LEN) < 0)
			n++;
		if (n == chunk->nrows || memcmp(&chunk->rows[n].user_id, &user_id, UUID_LEN) != 0)
			continue;
		locked[n]++;
		ledger_row_read(table, rows->vals[i], rows->tupdesc, &chunk->rows[n].row, context);
	}
	for (int i = 0; i < chunk->nrows; i++)
		chunk->rows[i].locked = locked[i] >= expected[i];
}

void
ledger_legacy_lock_chunk(LegacyTable *table, const pg_uuid_t *after, const pg_uuid_t *until,
						 int max, LegacyChunk *chunk)
{
	MemoryContext context = CurrentMemoryContext;
	int64	   *expected;

	ledger_legacy_check_table(table);
	chunk->rows = palloc0(sizeof(LegacyChunkRow) * max);
	chunk->nrows = 0;
	if (ledger_plain_lock_chunk(table, after, until, max, chunk))
		return;
	table = ledger_row_lock_table(table, RowShareLock);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	expected = palloc(sizeof(int64) * max);
	find_chunk(table, after, until, max, chunk, expected);
	if (chunk->nrows > 0)
	{
		chunk->last = chunk->rows[chunk->nrows - 1].user_id;
		lock_found(table, chunk, expected, context);
	}
	SPI_finish();
}

bool
ledger_legacy_last_key(LegacyTable *table, pg_uuid_t *key)
{
	bool		found;
	bool		isnull;

	table = ledger_row_lock_table(table, AccessShareLock);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	run(table, PLAN_LAST_KEY, NULL, NULL, true);
	found = SPI_processed > 0;
	if (found)
	{
		Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);

		user_of_key(table, value, isnull, key);
	}
	SPI_finish();
	return found;
}

char *
ledger_legacy_row_json(LegacyTable *table, const pg_uuid_t *user_id)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		value;
	char	   *json = NULL;

	table = ledger_row_lock_table(table, AccessShareLock);
	if (!ledger_legacy_key_param(table, user_id, &value))
		return NULL;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	run(table, PLAN_JSON, &value, NULL, true);
	if (SPI_processed > 0)
		json = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (json)
		json = MemoryContextStrdup(context, json);
	SPI_finish();
	return json;
}

/* Two columns of text for each row of a result; how many. */
static int
pairs_of(LegacyTable *table, LegacyPlan kind, char ***places, char ***rows)
{
	MemoryContext context = CurrentMemoryContext;
	int			n;

	table = ledger_row_lock_table(table, AccessShareLock);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	run(table, kind, NULL, NULL, true);
	n = SPI_processed;
	*places = MemoryContextAlloc(context, sizeof(char *) * (n + 1));
	*rows = MemoryContextAlloc(context, sizeof(char *) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];

		(*places)[i] = MemoryContextStrdup(context, SPI_getvalue(row, SPI_tuptable->tupdesc, 1));
		(*rows)[i] = MemoryContextStrdup(context, SPI_getvalue(row, SPI_tuptable->tupdesc, 2));
	}
	SPI_finish();
	return n;
}

int
ledger_legacy_rows_without_key(LegacyTable *table, char ***places, char ***rows)
{
	return pairs_of(table, PLAN_NO_KEY, places, rows);
}

int
ledger_legacy_values_of_no_group(LegacyTable *table, char ***values, char ***totals)
{
	return table->nwhere == 0 ? 0 : pairs_of(table, PLAN_NO_GROUP, values, totals);
}
