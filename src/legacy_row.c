/*
 * legacy_row.c
 *		One user's row of an attached legacy table: lock, read, write, scan.
 *
 * A legacy table is foreign: its triggers, defaults, checks and policies are
 * its owner's code. So SQL on it is prepared with every name quoted and
 * qualified and runs as the table's owner, the way foreign-key triggers do.
 * As owner with NOFORCE_RLS no policy filters a row. search_path is left
 * alone: the table's own triggers expect the session's. Where there is no such
 * code, legacy_plain.c does the same without SQL.
 *
 * Memory: plans are kept per backend by (table, kind, columns) and prepared
 * anew only if their text has changed; the plan cache sees to everything else.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "legacy.h"
#include "legacy_plain.h"

#define SCAN_BATCH	1000		/* rows fetched at once by a scan */

typedef enum PlanKind
{
	PLAN_LOCK,					/* locks the row of a key */
	PLAN_FETCH,					/* the mapped columns of a key */
	PLAN_ADD,					/* adds to the columns of the mask */
	PLAN_SET,					/* sets the columns of the mask */
	PLAN_INSERT,				/* a row with full values, unless there is one */
	PLAN_SCAN					/* the rows of a range of keys, by key */
} PlanKind;

typedef struct PlanKey
{
	Oid			relid;
	int32		kind;
	uint32		mask;			/* PLAN_ADD, PLAN_SET: which columns */
} PlanKey;

typedef struct PlanEntry
{
	PlanKey		key;
	int64		generation;		/* the text was right in this one */
	char	   *sql;
	SPIPlanPtr	plan;			/* NULL: not prepared yet */
} PlanEntry;

static HTAB *plans = NULL;

/* ---- plans --------------------------------------------------------------------- */

static void
become_owner(const LegacyTable *table, Oid *user, int *security)
{
	GetUserIdAndSecContext(user, security);
	SetUserIdAndSecContext(table->owner, *security | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_NOFORCE_RLS);
}

/* The mapped columns, and whether a constant's column says otherwise. */
static void
append_row(StringInfo sql, const LegacyTable *table)
{
	ListCell   *lc;
	const char *or = "";

	for (int i = 0; i < table->ncolumns; i++)
		appendStringInfo(sql, "t.%s, ", quote_identifier(table->columns[i].name));
	if (table->constants == NIL)
		appendStringInfoString(sql, "false");
	foreach(lc, table->constants)
	{
		LegacyConstant *constant = lfirst(lc);
		const char *name = quote_identifier(constant->name);
		ListCell   *lv;

		appendStringInfo(sql, "%s(t.%s IS NOT NULL", or, name);
		foreach(lv, constant->values)
			appendStringInfo(sql, " AND (t.%s::pg_catalog.text COLLATE pg_catalog.\"C\")"
							 " OPERATOR(pg_catalog.<>) %s", name, quote_literal_cstr(lfirst(lv)));
		appendStringInfoChar(sql, ')');
		or = " OR ";
	}
}

static void
append_insert(StringInfo sql, const LegacyTable *table)
{
	ListCell   *lc;

	appendStringInfo(sql, "INSERT INTO %s AS t (%s", table->name,
					 quote_identifier(table->key_column));
	for (int i = 0; i < table->ncolumns; i++)
		appendStringInfo(sql, ", %s", quote_identifier(table->columns[i].name));
	foreach(lc, table->constants)
		appendStringInfo(sql, ", %s", quote_identifier(((LegacyConstant *) lfirst(lc))->name));
	appendStringInfo(sql, "%s) VALUES ($1", table->has_updated_at ? ", updated_at" : "");
	for (int i = 0; i < table->ncolumns; i++)
		appendStringInfo(sql, ", $%d", i + 2);
	foreach(lc, table->constants)
		appendStringInfo(sql, ", %s",
						 quote_literal_cstr(linitial(((LegacyConstant *) lfirst(lc))->values)));
	appendStringInfo(sql, "%s) ON CONFLICT (%s) DO NOTHING RETURNING ",
					 table->has_updated_at ? ", pg_catalog.clock_timestamp()" : "",
					 quote_identifier(table->key_column));
	append_row(sql, table);
}

static void
append_update(StringInfo sql, const LegacyTable *table, bool add, uint32 mask)
{
	const char *comma = "";

	appendStringInfo(sql, "UPDATE ONLY %s AS t SET ", table->name);
	for (int i = 0; i < table->ncolumns; i++)
	{
		const char *name = quote_identifier(table->columns[i].name);

		if ((mask & (1 << i)) == 0)
			continue;
		appendStringInfo(sql, "%s%s = ", comma, name);
		if (add)
			appendStringInfo(sql, "COALESCE(t.%s, 0) OPERATOR(pg_catalog.+) ", name);
		appendStringInfo(sql, "$%d", i + 2);
		comma = ", ";
	}
	if (table->has_updated_at)
		appendStringInfo(sql, "%supdated_at = pg_catalog.clock_timestamp()", comma);
	appendStringInfo(sql, " WHERE t.%s OPERATOR(pg_catalog.=) $1 RETURNING ",
					 quote_identifier(table->key_column));
	append_row(sql, table);
}

static char *
plan_sql(const LegacyTable *table, PlanKind kind, uint32 mask)
{
	const char *key = quote_identifier(table->key_column);
	StringInfoData sql;

	initStringInfo(&sql);
	switch (kind)
	{
		case PLAN_LOCK:
			appendStringInfo(&sql, "SELECT 1 FROM ONLY %s AS t WHERE t.%s OPERATOR(pg_catalog.=) $1"
							 " FOR NO KEY UPDATE", table->name, key);
			break;
		case PLAN_FETCH:
			appendStringInfoString(&sql, "SELECT ");
			append_row(&sql, table);
			appendStringInfo(&sql, " FROM ONLY %s AS t WHERE t.%s OPERATOR(pg_catalog.=) $1",
							 table->name, key);
			break;
		case PLAN_ADD:
		case PLAN_SET:
			append_update(&sql, table, kind == PLAN_ADD, mask);
			break;
		case PLAN_INSERT:
			append_insert(&sql, table);
			break;
		case PLAN_SCAN:
			appendStringInfoString(&sql, "SELECT ");
			append_row(&sql, table);
			appendStringInfo(&sql, ", t.%s FROM ONLY %s AS t WHERE t.%s OPERATOR(pg_catalog.>=) $1"
							 " AND t.%s OPERATOR(pg_catalog.<=) $2 ORDER BY t.%s",
							 key, table->name, key, key, key);
			break;
	}
	return sql.data;
}

static PlanEntry *
plan_entry(const LegacyTable *table, PlanKind kind, uint32 mask)
{
	PlanKey		key = {table->relid, kind, mask};
	PlanEntry  *entry;
	bool		found;

	if (plans == NULL)
	{
		HASHCTL		info = {0};

		info.keysize = sizeof(PlanKey);
		info.entrysize = sizeof(PlanEntry);
		plans = hash_create("ledger legacy plans", 16, &info, HASH_ELEM | HASH_BLOBS);
	}
	entry = hash_search(plans, &key, HASH_ENTER, &found);
	if (!found)
	{
		entry->generation = 0;
		entry->sql = NULL;
		entry->plan = NULL;
	}
	return entry;
}

/*
 * The plan, prepared as the owner, in whose role the caller is already. A
 * plan whose text has changed is not in use: its table was altered, which
 * PostgreSQL refuses below a running statement on it.
 */
static SPIPlanPtr
get_plan(const LegacyTable *table, PlanKind kind, uint32 mask)
{
	PlanEntry  *entry = plan_entry(table, kind, mask);
	Oid			types[LEDGER_MAX_LEGACY_COLUMNS + 1];
	int			ntypes = kind == PLAN_SCAN ? 2 : 1;
	char	   *sql;
	SPIPlanPtr	plan;

	if (entry->plan && entry->generation == table->generation)
		return entry->plan;
	sql = plan_sql(table, kind, mask);
	if (entry->plan && strcmp(entry->sql, sql) == 0)
	{
		entry->generation = table->generation;
		return entry->plan;
	}
	if (entry->plan)
	{
		plan = entry->plan;
		entry->plan = NULL;
		SPI_freeplan(plan);
		pfree(entry->sql);
		entry->sql = NULL;
	}
	types[0] = types[1] = UUIDOID;
	if (kind == PLAN_ADD || kind == PLAN_SET || kind == PLAN_INSERT)
	{
		for (int i = 0; i < table->ncolumns; i++)
			types[ntypes++] = NUMERICOID;
	}
	/* how much of the table a scan reads, its keys say */
	plan = SPI_prepare_cursor(sql, ntypes, types, kind == PLAN_SCAN ? CURSOR_OPT_CUSTOM_PLAN : 0);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	entry->sql = MemoryContextStrdup(TopMemoryContext, sql);
	SPI_keepplan(plan);
	entry->plan = plan;
	entry->generation = table->generation;
	return plan;
}

/* ---- rows ----------------------------------------------------------------------- */

/* Columns are altered by their owner, also between our look and our lock. */
static void
check_type(const LegacyTable *table, TupleDesc desc, int n, const char *column, Oid type)
{
	if (TupleDescAttr(desc, n)->atttypid != type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the attached legacy table %s cannot be read", table->name),
				 errdetail("Column %s is not %s.", column, format_type_be(type)),
				 errhint("Give it the type back, or call detach_legacy('%s').", table->name)));
}

/* The row of a result, its values copied into the context. */
static void
read_row(const LegacyTable *table, HeapTuple tuple, TupleDesc desc, LegacyRow *row,
		 MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	bool		isnull;
	Datum		value;

	row->found = true;
	for (int i = 0; i < table->ncolumns; i++)
	{
		check_type(table, desc, i, table->columns[i].name, NUMERICOID);
		value = SPI_getbinval(tuple, desc, i + 1, &isnull);
		row->values[i] = isnull ? NULL : DatumGetNumericCopy(value);
	}
	value = SPI_getbinval(tuple, desc, table->ncolumns + 1, &isnull);
	row->foreign_constant = DatumGetBool(value);
	MemoryContextSwitchTo(old);
}

/* Runs a plan as the owner and reads the row that it returns, if any. */
static bool
execute(LegacyTable *table, PlanKind kind, uint32 mask, const pg_uuid_t *user_id,
		const Numeric *amounts, bool read_only, LegacyRow *row)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		values[LEDGER_MAX_LEGACY_COLUMNS + 1];
	char		nulls[LEDGER_MAX_LEGACY_COLUMNS + 1];
	Oid			user;
	int			security;
	int			result;
	bool		found;

	ledger_legacy_check_table(table);
	values[0] = UUIDPGetDatum(user_id);
	nulls[0] = ' ';
	for (int i = 0; amounts && i < table->ncolumns; i++)
	{
		values[i + 1] = NumericGetDatum(amounts[i]);
		nulls[i + 1] = amounts[i] ? ' ' : 'n';
	}
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	become_owner(table, &user, &security);
	result = SPI_execute_plan(get_plan(table, kind, mask), values, nulls, read_only, 0);
	SetUserIdAndSecContext(user, security);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
	found = SPI_processed > 0;
	if (row)
	{
		memset(row, 0, sizeof(*row));
		if (found)
			read_row(table, SPI_tuptable->vals[0], SPI_tuptable->tupdesc, row, context);
	}
	SPI_finish();
	return found;
}

bool
ledger_legacy_is_key_index(const LegacyTable *table, Relation index)
{
	Form_pg_index form = index->rd_index;

	return index->rd_rel->relam == BTREE_AM_OID &&
		form->indisunique && form->indimmediate && form->indisvalid &&
		form->indnkeyatts == 1 && form->indkey.values[0] == table->key_attnum &&
		RelationGetIndexPredicate(index) == NIL &&
		index->rd_opfamily[0] == get_opclass_family(GetDefaultOpClass(UUIDOID, BTREE_AM_OID));
}

/*
 * Looks the key up under a dirty snapshot, which says who is inserting it. Not
 * what this transaction inserts: the command that does so may be calling us.
 */
static bool
find_dirty(Relation relation, Relation index, const pg_uuid_t *user_id, SnapshotData *dirty)
{
	ScanKeyData key;
	IndexScanDesc scan;
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	bool		found;
	bool		isnull;

	InitDirtySnapshot(*dirty);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(user_id));
	scan = ledger_index_beginscan(relation, index, dirty, 1);
	index_rescan(scan, &key, 1, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, slot) &&
		!TransactionIdIsCurrentTransactionId(
			DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull)));
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	return found;
}

/*
 * A row that is just being inserted cannot be locked, but whoever inserts it
 * may come to the ledger next and want what we are about to lock: so it is
 * waited for here. true: there is such a row, look again.
 */
static bool
wait_for_new_row(const LegacyTable *table, const pg_uuid_t *user_id)
{
	Relation	relation = table_open(table->relid, AccessShareLock);
	List	   *indexes = relation->rd_rel->relam == HEAP_TABLE_AM_OID ?
		RelationGetIndexList(relation) : NIL;
	SnapshotData dirty;
	bool		found = false;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		bool		is_key = ledger_legacy_is_key_index(table, index);

		if (is_key)
			found = find_dirty(relation, index, user_id, &dirty);
		index_close(index, NoLock);
		if (is_key)
			break;
	}
	list_free(indexes);
	table_close(relation, NoLock);
	if (!found)
		return false;
	if (TransactionIdIsValid(dirty.xmin))
		XactLockTableWait(dirty.xmin, NULL, NULL, XLTW_None);
	else if (IsolationUsesXactSnapshot())
		ledger_store_serialization_failure();
	return true;
}

/* Waits for whoever holds the row; false: there is none. */
bool
ledger_legacy_lock_row(LegacyTable *table, const pg_uuid_t *user_id)
{
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	bool		found;
	bool		moved;
	bool		plain = ledger_plain_lock_row(table, user_id, snapshot, &found, &moved);

	UnregisterSnapshot(snapshot);
	return plain ? found : execute(table, PLAN_LOCK, 0, user_id, NULL, false, NULL);
}

/*
 * The same, before anything else is locked: waits for who inserts it too.
 * *moved: it may not be the version that the snapshot sees.
 */
bool
ledger_legacy_lock_row_first(LegacyTable *table, const pg_uuid_t *user_id, Snapshot snapshot,
							 bool *moved)
{
	bool		found;

	if (ledger_plain_lock_row(table, user_id, snapshot, &found, moved) && found)
		return true;
	*moved = true;
	while (!ledger_legacy_lock_row(table, user_id))
	{
		if (!wait_for_new_row(table, user_id))
			return false;
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/* The row under the active snapshot, not locked. */
void
ledger_legacy_fetch(LegacyTable *table, const pg_uuid_t *user_id, LegacyRow *row)
{
	if (!ledger_plain_fetch(table, user_id, row))
		(void) execute(table, PLAN_FETCH, 0, user_id, NULL, true, row);
}

static uint32
mask_of(const LegacyTable *table, const Numeric *amounts)
{
	uint32		mask = 0;

	for (int i = 0; i < table->ncolumns; i++)
	{
		if (amounts[i])
			mask |= 1 << i;
	}
	return mask;
}

/* Adds to the columns whose delta is not NULL; *row is the row after it. */
void
ledger_legacy_add(LegacyTable *table, const pg_uuid_t *user_id, const Numeric *deltas,
				  LegacyRow *row)
{
	(void) execute(table, PLAN_ADD, mask_of(table, deltas), user_id, deltas, false, row);
}

/* Sets the columns whose value is not NULL; likewise. */
void
ledger_legacy_set(LegacyTable *table, const pg_uuid_t *user_id, const Numeric *values,
				  LegacyRow *row)
{
	(void) execute(table, PLAN_SET, mask_of(table, values), user_id, values, false, row);
}

/* Inserts a row unless one is in the way (row->found is false then). */
void
ledger_legacy_insert(LegacyTable *table, const pg_uuid_t *user_id, const Numeric *values,
					 LegacyRow *row)
{
	(void) execute(table, PLAN_INSERT, 0, user_id, values, false, row);
}

/* ---- scans ----------------------------------------------------------------------- */

struct LegacyScan
{
	LegacyTable *table;
	Portal		portal;
	MemoryContext batch;		/* of the caller's, for one batch of rows */
	SPITupleTable *rows;
	uint64		nrows;
	uint64		next;
};

static void
check_key_type(const LegacyTable *table)
{
	if (table->key_attnum != InvalidAttrNumber &&
		get_atttype(table->relid, table->key_attnum) != UUIDOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the attached legacy table %s cannot be read", table->name),
				 errdetail("Column %s is not %s.", table->key_column, format_type_be(UUIDOID)),
				 errhint("Give it the type back, or call detach_legacy('%s').", table->name)));
}

/* Inside SPI: the caller is connected from here to ledger_legacy_end(). */
LegacyScan *
ledger_legacy_scan(LegacyTable *table, const pg_uuid_t *from, const pg_uuid_t *to)
{
	LegacyScan *scan = palloc0(sizeof(LegacyScan));
	Datum		values[] = {UUIDPGetDatum(from), UUIDPGetDatum(to)};
	Oid			user;
	int			security;

	ledger_legacy_check_table(table);
	check_key_type(table);
	scan->table = table;
	scan->batch = AllocSetContextCreate(CurrentMemoryContext, "ledger legacy scan",
										ALLOCSET_DEFAULT_SIZES);
	become_owner(table, &user, &security);
	scan->portal = SPI_cursor_open(NULL, get_plan(table, PLAN_SCAN, 0), values, NULL, true);
	SetUserIdAndSecContext(user, security);
	return scan;
}

/* The row's values are good until the next call. */
bool
ledger_legacy_next(LegacyScan *scan, pg_uuid_t *user_id, LegacyRow *row)
{
	HeapTuple	tuple;
	bool		isnull;

	if (scan->next == scan->nrows)
	{
		Oid			user;
		int			security;

		if (scan->rows)
			SPI_freetuptable(scan->rows);
		MemoryContextReset(scan->batch);
		become_owner(scan->table, &user, &security);
		SPI_cursor_fetch(scan->portal, true, SCAN_BATCH);
		SetUserIdAndSecContext(user, security);
		scan->rows = SPI_tuptable;
		scan->nrows = SPI_processed;
		scan->next = 0;
		if (scan->nrows == 0)
			return false;
	}
	tuple = scan->rows->vals[scan->next++];
	memset(row, 0, sizeof(*row));
	read_row(scan->table, tuple, scan->rows->tupdesc, row, scan->batch);
	check_type(scan->table, scan->rows->tupdesc, scan->table->ncolumns + 1,
			   scan->table->key_column, UUIDOID);
	*user_id = *DatumGetUUIDP(SPI_getbinval(tuple, scan->rows->tupdesc,
											scan->table->ncolumns + 2, &isnull));
	return true;
}

void
ledger_legacy_end(LegacyScan *scan)
{
	SPI_cursor_close(scan->portal);
	MemoryContextDelete(scan->batch);
	pfree(scan);
}

/* ---- chunks ------------------------------------------------------------------------ */

/* The same as SQL: who is there, then who of them can be locked at once. */
static void
lock_chunk_by_sql(LegacyTable *table, const pg_uuid_t *after, const pg_uuid_t *until, int max,
				  LegacyChunk *chunk)
{
	const char *key = quote_identifier(table->key_column);
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {UUIDOID, UUIDOID};
	Datum		values[] = {UUIDPGetDatum(after), UUIDPGetDatum(until)};
	StringInfoData sql;
	SPITupleTable *rows;
	bool		isnull;
	int			n = 0;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT t.%s FROM ONLY %s AS t WHERE %s t.%s OPERATOR(pg_catalog.<=) $2"
					 " ORDER BY 1 LIMIT %d", key, table->name,
					 after ? psprintf("t.%s OPERATOR(pg_catalog.>) $1 AND", key) :
					 "$1 IS NULL AND", key, max);
	if (SPI_execute_with_args(sql.data, 2, types, values, after ? "  " : "n ", false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the keys of %s", table->name);
	check_type(table, SPI_tuptable->tupdesc, 0, table->key_column, UUIDOID);
	chunk->nrows = SPI_processed;
	chunk->at_end = chunk->nrows < max;
	for (int i = 0; i < chunk->nrows; i++)
	{
		chunk->rows[i].user_id = *DatumGetUUIDP(SPI_getbinval(SPI_tuptable->vals[i],
															  SPI_tuptable->tupdesc, 1, &isnull));
		chunk->rows[i].locked = false;
	}
	if (chunk->nrows == 0)
		return;
	chunk->last = chunk->rows[chunk->nrows - 1].user_id;
	values[0] = UUIDPGetDatum(&chunk->rows[0].user_id);
	values[1] = UUIDPGetDatum(&chunk->last);
	resetStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	append_row(&sql, table);
	appendStringInfo(&sql, ", t.%s FROM ONLY %s AS t WHERE t.%s OPERATOR(pg_catalog.>=) $1"
					 " AND t.%s OPERATOR(pg_catalog.<=) $2 ORDER BY t.%s"
					 " FOR NO KEY UPDATE SKIP LOCKED", key, table->name, key, key, key);
	if (SPI_execute_with_args(sql.data, 2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not lock rows of %s", table->name);
	rows = SPI_tuptable;
	for (int i = 0; i < SPI_processed; i++)
	{
		const pg_uuid_t *user_id = DatumGetUUIDP(SPI_getbinval(rows->vals[i], rows->tupdesc,
															   table->ncolumns + 2, &isnull));

		/* a row that has come in between is not one of the chunk */
		while (n < chunk->nrows && memcmp(&chunk->rows[n].user_id, user_id, UUID_LEN) < 0)
			n++;
		if (n == chunk->nrows || memcmp(&chunk->rows[n].user_id, user_id, UUID_LEN) != 0)
			continue;
		chunk->rows[n].locked = true;
		read_row(table, rows->vals[i], rows->tupdesc, &chunk->rows[n].row, context);
	}
}

void
ledger_legacy_lock_chunk(LegacyTable *table, const pg_uuid_t *after, const pg_uuid_t *until,
						 int max, LegacyChunk *chunk)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			user;
	int			security;

	ledger_legacy_check_table(table);
	chunk->rows = palloc0(sizeof(LegacyChunkRow) * max);
	chunk->nrows = 0;
	if (ledger_plain_lock_chunk(table, after, until, max, chunk))
		return;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	MemoryContextSwitchTo(context);
	become_owner(table, &user, &security);
	lock_chunk_by_sql(table, after, until, max, chunk);
	SetUserIdAndSecContext(user, security);
	SPI_finish();
}

/* One value of a query with the table as %s and the key's column as the second. */
static Datum
one_value(LegacyTable *table, const char *sql, const pg_uuid_t *user_id, Oid type, bool *isnull)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {UUIDOID};
	Datum		values[] = {UUIDPGetDatum(user_id)};
	Datum		result = (Datum) 0;
	Oid			user;
	int			security;

	ledger_legacy_check_table(table);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	become_owner(table, &user, &security);
	if (SPI_execute_with_args(sql, 1, types, values, user_id ? NULL : "n", true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read %s", table->name);
	SetUserIdAndSecContext(user, security);
	*isnull = SPI_processed == 0;
	if (SPI_processed > 0)
	{
		check_type(table, SPI_tuptable->tupdesc, 0, table->key_column, type);
		result = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, isnull);
		MemoryContextSwitchTo(context);
		if (!*isnull)
			result = datumCopy(result, false, type == UUIDOID ? UUID_LEN : -1);
	}
	SPI_finish();
	return result;
}

bool
ledger_legacy_last_key(LegacyTable *table, pg_uuid_t *key)
{
	const char *name = quote_identifier(table->key_column);
	bool		isnull;
	Datum		value = one_value(table, psprintf("SELECT t.%s FROM ONLY %s AS t WHERE t.%s IS NOT NULL"
												  " AND $1 IS NULL ORDER BY t.%s DESC LIMIT 1",
												  name, table->name, name, name),
								  NULL, UUIDOID, &isnull);

	if (!isnull)
		*key = *DatumGetUUIDP(value);
	return !isnull;
}

char *
ledger_legacy_row_json(LegacyTable *table, const pg_uuid_t *user_id)
{
	bool		isnull;
	Datum		value = one_value(table, psprintf("SELECT pg_catalog.row_to_json(t)::pg_catalog.text FROM ONLY %s AS t"
												  " WHERE t.%s OPERATOR(pg_catalog.=) $1",
												  table->name, quote_identifier(table->key_column)),
								  user_id, TEXTOID, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

int
ledger_legacy_rows_without_key(LegacyTable *table, char ***places, char ***rows)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			user;
	int			security;
	int			n;

	ledger_legacy_check_table(table);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	become_owner(table, &user, &security);
	if (SPI_execute(psprintf("SELECT t.ctid, pg_catalog.row_to_json(t) FROM ONLY %s AS t WHERE t.%s IS NULL",
							 table->name, quote_identifier(table->key_column)), true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read %s", table->name);
	SetUserIdAndSecContext(user, security);
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
