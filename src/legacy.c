/*
 * legacy.c
 *		The attached legacy tables: mapping, one user's legacy row, reads.
 *
 * A legacy table is foreign: its triggers, defaults, checks and policies are
 * its owner's code. So SQL on it is prepared with every name quoted and
 * qualified and runs as the table's owner, the way foreign-key triggers do.
 * As owner with NOFORCE_RLS no policy filters a row. search_path is left
 * alone: the table's own triggers expect the session's.
 *
 * Memory: mappings live per backend in a context of their own. An
 * invalidation of a mapping or of an attached table drops it; as a call may
 * be using it, it goes with the transaction. Plans are kept per backend by
 * (table, kind, columns) and prepared anew only if their text has changed;
 * the plan cache sees to everything else.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "amount.h"
#include "compare.h"
#include "errors.h"
#include "legacy.h"
#include "legacy_plain.h"

#define SCAN_BATCH	1000		/* rows fetched at once by a scan */

enum
{
	MAPPING_ID, MAPPING_LEGACY, MAPPING_KEY, MAPPING_CONSTANTS, MAPPING_CAPTURE,
	MAPPING_DETACHED, MAPPING_COLUMNS
};
static const char *const mapping_columns[] = {
	"id", "legacy", "key_column", "constants", "capture", "detached_at"
};
static StoreSpec mapping_spec = {"legacy_mappings", mapping_columns, MAPPING_COLUMNS, NULL};

enum
{
	COLUMN_MAPPING, COLUMN_ORDINAL, COLUMN_NAME, COLUMN_ACCOUNTS, COLUMN_COLUMNS
};
static const char *const column_columns[] = {
	"mapping_id", "ordinal", "legacy_column", "accounts"
};
static StoreSpec column_spec = {"legacy_columns", column_columns, COLUMN_COLUMNS, NULL};

typedef struct LegacyCache
{
	MemoryContext context;
	Oid			mappings;		/* OIDs of the tables it was read from */
	Oid			columns;
	List	   *tables;			/* of LegacyTable *, by id */
} LegacyCache;

static LegacyCache *legacy_cache = NULL;
static int64 generation = 0;

typedef enum PlanKind
{
	PLAN_LOCK,					/* locks the row of a key */
	PLAN_FETCH,					/* the mapped columns of a key */
	PLAN_ADD,					/* adds to the columns of the mask */
	PLAN_SET,					/* sets the columns of the mask */
	PLAN_INSERT,				/* a row with full values, unless there is one */
	PLAN_SCAN					/* every row, by key */
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

/* ---- mappings ----------------------------------------------------------------- */

static void
relcache_callback(Datum arg, Oid relid)
{
	LegacyCache *cache = legacy_cache;
	bool		hit;
	ListCell   *lc;

	if (cache == NULL)
		return;
	hit = !OidIsValid(relid) || relid == cache->mappings || relid == cache->columns;
	foreach(lc, cache->tables)
	{
		hit |= ((LegacyTable *) lfirst(lc))->relid == relid;
	}
	if (!hit)
		return;
	legacy_cache = NULL;
	if (TopTransactionContext != NULL)
		MemoryContextSetParent(cache->context, TopTransactionContext);
	else
		MemoryContextDelete(cache->context);
}

/* A schema may have another name, which its tables' entries do not tell. */
static void
namespace_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	relcache_callback(arg, InvalidOid);
}

static int
parse_capture(const char *name)
{
	if (strcmp(name, "refuse") == 0)
		return LEDGER_CAPTURE_REFUSE;
	return strcmp(name, "post") == 0 ? LEDGER_CAPTURE_POST : LEDGER_CAPTURE_RECORD;
}

/* {"column": ["value", ...], ...} */
static List *
parse_constants(Jsonb *constants)
{
	List	   *list = NIL;
	LegacyConstant *constant = NULL;
	JsonbIterator *it = JsonbIteratorInit(&constants->root);
	JsonbIteratorToken token;
	JsonbValue	v;

	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			constant = palloc0(sizeof(LegacyConstant));
			constant->name = pnstrdup(v.val.string.val, v.val.string.len);
			list = lappend(list, constant);
		}
		else if (token == WJB_ELEM && v.type == jbvString)
			constant->values = lappend(constant->values,
									   pnstrdup(v.val.string.val, v.val.string.len));
	}
	return list;
}

/* What the catalogs say of the table. */
static void
describe_table(LegacyTable *table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table->relid));
	Form_pg_class form;
	AttrNumber	updated_at;

	if (!HeapTupleIsValid(tuple))
	{
		table->gone = true;
		table->name = psprintf("%u", table->relid);
		return;
	}
	form = (Form_pg_class) GETSTRUCT(tuple);
	table->owner = form->relowner;
	table->gone = form->relkind != RELKIND_RELATION;
	table->name = quote_qualified_identifier(get_namespace_name(form->relnamespace),
											 NameStr(form->relname));
	ReleaseSysCache(tuple);

	table->key_attnum = get_attnum(table->relid, table->key_column);
	updated_at = get_attnum(table->relid, "updated_at");
	if (updated_at != InvalidAttrNumber && get_attgenerated(table->relid, updated_at) == '\0')
	{
		Oid			type = get_atttype(table->relid, updated_at);
		ListCell   *lc;

		table->has_updated_at = type == TIMESTAMPTZOID || type == TIMESTAMPOID;
		foreach(lc, table->constants)
		{
			if (strcmp(((LegacyConstant *) lfirst(lc))->name, "updated_at") == 0)
				table->has_updated_at = false;
		}
	}
}

static void
describe_column(LegacyTable *table, LegacyColumn *column)
{
	Oid			type;
	int32		typmod;
	Oid			collation;

	column->attnum = table->gone ? InvalidAttrNumber : get_attnum(table->relid, column->name);
	if (column->attnum == InvalidAttrNumber)
		return;
	get_atttypetypmodcoll(table->relid, column->attnum, &type, &typmod, &collation);
	if (type != NUMERICOID)
		column->attnum = InvalidAttrNumber;
	else if (typmod >= (int32) VARHDRSZ)
	{
		column->limited = true;
		/* numeric_typmod_scale() */
		column->scale = (((typmod - VARHDRSZ) & 0x7ff) ^ 1024) - 1024;
	}
}

static void
read_columns(LegacyCache *cache, Snapshot snapshot)
{
	Store	   *store = ledger_store_open(&column_spec, AccessShareLock);
	StoreScan  *scan = ledger_store_scan(store, "legacy_columns_pkey", snapshot, NULL, 0);
	Datum		values[COLUMN_COLUMNS];
	bool		isnull[COLUMN_COLUMNS];

	while (ledger_store_next(scan, ForwardScanDirection, values, isnull, NULL))
	{
		ListCell   *lc;

		foreach(lc, cache->tables)
		{
			LegacyTable *table = lfirst(lc);
			LegacyColumn *column;
			Datum	   *types;
			int			ntypes;

			if (table->id != DatumGetInt16(values[COLUMN_MAPPING]))
				continue;
			if (table->ncolumns == LEDGER_MAX_LEGACY_COLUMNS)
				elog(ERROR, "legacy table %s has too many mapped columns", table->name);
			column = &table->columns[table->ncolumns++];
			strlcpy(column->name, TextDatumGetCString(values[COLUMN_NAME]), NAMEDATALEN);
			deconstruct_array(DatumGetArrayTypeP(values[COLUMN_ACCOUNTS]), TEXTOID, -1, false,
							  TYPALIGN_INT, &types, NULL, &ntypes);
			column->ntypes = Min(ntypes, LEDGER_MAX_COLUMN_TYPES);
			for (int i = 0; i < column->ntypes; i++)
				strlcpy(column->types[i], TextDatumGetCString(types[i]), NAMEDATALEN);
			describe_column(table, column);
		}
	}
	ledger_store_end(scan);
	ledger_store_close(store);
}

static void
read_mappings(LegacyCache *cache, Snapshot snapshot)
{
	Store	   *store = ledger_store_open(&mapping_spec, AccessShareLock);
	StoreScan  *scan = ledger_store_scan(store, "legacy_mappings_pkey", snapshot, NULL, 0);
	Datum		values[MAPPING_COLUMNS];
	bool		isnull[MAPPING_COLUMNS];

	while (ledger_store_next(scan, ForwardScanDirection, values, isnull, NULL))
	{
		LegacyTable *table;

		if (!isnull[MAPPING_DETACHED])
			continue;
		table = palloc0(sizeof(LegacyTable));
		table->id = DatumGetInt16(values[MAPPING_ID]);
		table->bit = 1 << (table->id - 1);
		table->relid = DatumGetObjectId(values[MAPPING_LEGACY]);
		table->key_column = TextDatumGetCString(values[MAPPING_KEY]);
		table->constants = parse_constants(DatumGetJsonbP(values[MAPPING_CONSTANTS]));
		table->capture = parse_capture(TextDatumGetCString(values[MAPPING_CAPTURE]));
		table->generation = generation;
		describe_table(table);
		cache->tables = lappend(cache->tables, table);
	}
	ledger_store_end(scan);
	ledger_store_close(store);
}

List *
ledger_legacy_tables(void)
{
	while (legacy_cache == NULL)
	{
		MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ledger legacy tables",
													  ALLOCSET_SMALL_SIZES);
		MemoryContext old = MemoryContextSwitchTo(context);
		LegacyCache *cache = palloc0(sizeof(LegacyCache));
		Snapshot	snapshot;

		cache->context = context;
		cache->mappings = ledger_store_oid(&mapping_spec);
		cache->columns = ledger_store_oid(&column_spec);
		generation++;
		/* what is invalidated while we read is noticed: it is in place */
		legacy_cache = cache;
		PG_TRY();
		{
			/* the latest, in a parallel leader too */
			snapshot = RegisterSnapshot(GetCatalogSnapshot(cache->mappings));
			read_mappings(cache, snapshot);
			read_columns(cache, snapshot);
			UnregisterSnapshot(snapshot);
		}
		PG_CATCH();
		{
			legacy_cache = NULL;
			PG_RE_THROW();
		}
		PG_END_TRY();
		MemoryContextSwitchTo(old);
		if (legacy_cache == cache)
			MemoryContextSetParent(context, CacheMemoryContext);
	}
	return legacy_cache->tables;
}

LegacyTable *
ledger_legacy_table_of(Oid relid)
{
	ListCell   *lc;

	foreach(lc, ledger_legacy_tables())
	{
		LegacyTable *table = lfirst(lc);

		if (table->relid == relid)
			return table;
	}
	return NULL;
}

void
ledger_legacy_check_table(const LegacyTable *table)
{
	if (table->gone)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the attached legacy table %s does not exist any more", table->name),
				 errhint("Restore it, or call detach_legacy('%s').", table->name)));
}

/* What is missing of what the mapping says the table has; NULL: nothing. */
static const char *
what_is_missing(const LegacyTable *table)
{
	if (table->gone)
		return "The table does not exist any more.";
	if (table->key_attnum == InvalidAttrNumber)
		return psprintf("Column %s is not there.", table->key_column);
	for (int i = 0; i < table->ncolumns; i++)
	{
		if (table->columns[i].attnum == InvalidAttrNumber)
			return psprintf("Column %s is not there, or not numeric.", table->columns[i].name);
	}
	return NULL;
}

/*
 * Whether the table can be read. If not, a read that could do without it goes
 * on with a warning; another is refused, rather than show what may be wrong.
 */
static bool
is_readable(const LegacyTable *table, bool needed)
{
	const char *missing = what_is_missing(table);

	if (missing)
		ereport(needed ? ERROR : WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the attached legacy table %s cannot be read", table->name),
				 errdetail_internal("%s", missing),
				 errhint("Restore what is missing, or call detach_legacy('%s').", table->name)));
	return missing == NULL;
}

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
			appendStringInfo(&sql, ", t.%s FROM ONLY %s AS t WHERE t.%s IS NOT NULL ORDER BY t.%s",
							 key, table->name, key, key);
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
	int			ntypes = kind == PLAN_SCAN ? 0 : 1;
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
	types[0] = UUIDOID;
	if (kind == PLAN_ADD || kind == PLAN_SET || kind == PLAN_INSERT)
	{
		for (int i = 0; i < table->ncolumns; i++)
			types[ntypes++] = NUMERICOID;
	}
	plan = SPI_prepare(sql, ntypes, types);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	entry->sql = MemoryContextStrdup(TopMemoryContext, sql);
	SPI_keepplan(plan);
	entry->plan = plan;
	entry->generation = table->generation;
	return plan;
}

/* ---- rows ----------------------------------------------------------------------- */

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

/* Waits for whoever holds the row; false: there is none. */
bool
ledger_legacy_lock_row(LegacyTable *table, const pg_uuid_t *user_id)
{
	bool		found;

	if (ledger_plain_lock_row(table, user_id, &found))
		return found;
	return execute(table, PLAN_LOCK, 0, user_id, NULL, false, NULL);
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

/* Inside SPI: the caller is connected from here to ledger_legacy_end(). */
LegacyScan *
ledger_legacy_scan(LegacyTable *table)
{
	LegacyScan *scan = palloc0(sizeof(LegacyScan));
	Oid			user;
	int			security;

	ledger_legacy_check_table(table);
	scan->table = table;
	scan->batch = AllocSetContextCreate(CurrentMemoryContext, "ledger legacy scan",
										ALLOCSET_DEFAULT_SIZES);
	become_owner(table, &user, &security);
	scan->portal = SPI_cursor_open(NULL, get_plan(table, PLAN_SCAN, 0), NULL, NULL, true);
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

/* ---- the ledger's side, and reads -------------------------------------------------- */

int
ledger_legacy_display_digits(const LegacyColumn *column)
{
	return ledger_account_type(column->types[0])->currency->display_digits;
}

bool
ledger_legacy_maps(const LegacyColumn *column, const char *account_type)
{
	for (int i = 0; i < column->ntypes; i++)
	{
		if (strcmp(column->types[i], account_type) == 0)
			return true;
	}
	return false;
}

static bool
is_of_column(const LegacyColumn *column, const LedgerAccount *account)
{
	return account->external_id == NULL && ledger_legacy_maps(column, account->type->name);
}

Numeric
ledger_legacy_ledger_value(const LegacyColumn *column, const LedgerAccount *accounts,
						   int naccounts)
{
	Numeric		sum = ledger_amount_zero();

	for (int i = 0; i < naccounts; i++)
	{
		if (is_of_column(column, &accounts[i]))
			sum = ledger_amount_add(sum, ledger_account_balance(&accounts[i]));
	}
	return ledger_amount_normalise(sum, ledger_legacy_display_digits(column));
}

bool
ledger_legacy_is_opened(const LegacyTable *table, const LedgerAccount *accounts, int naccounts)
{
	/* on the first account by rule; on whichever one if two came at once */
	for (int i = 0; i < naccounts; i++)
	{
		if (accounts[i].opened & table->bit)
			return true;
	}
	return false;
}

/*
 * The first type of each column as the legacy row tells it: what is left when
 * the ledger's values of the column's other types are taken off.
 */
static int
show_row(const LegacyTable *table, const LegacyRow *row, const LedgerAccount *accounts,
		 int naccounts, LegacyBalance *list)
{
	for (int i = 0; i < table->ncolumns; i++)
	{
		const LegacyColumn *column = &table->columns[i];
		Numeric		rest = row->values[i] ? row->values[i] : ledger_amount_zero();

		for (int j = 0; j < naccounts; j++)
		{
			if (is_of_column(column, &accounts[j]) &&
				strcmp(column->types[0], accounts[j].type->name) != 0)
				rest = ledger_amount_sub(rest, ledger_account_balance(&accounts[j]));
		}
		list[i].type = ledger_account_type(column->types[0]);
		list[i].balance = ledger_amount_normalise(rest, list[i].type->currency->display_digits);
	}
	return table->ncolumns;
}

int
ledger_legacy_read(const pg_uuid_t *user_id, const LedgerAccount *accounts, int naccounts,
				   const LedgerSettings *settings, LegacyBalance **list)
{
	List	   *tables = settings->phase == LEDGER_RETIRED ? NIL : ledger_legacy_tables();
	CompareColumn *columns;
	int			ncolumns = 0;
	int			n = 0;
	ListCell   *lc;

	*list = NULL;
	if (tables == NIL)
		return 0;
	*list = palloc(sizeof(LegacyBalance) * LEDGER_MAX_LEGACY_COLUMNS * list_length(tables));
	columns = palloc(sizeof(CompareColumn) * LEDGER_MAX_LEGACY_COLUMNS * list_length(tables));
	foreach(lc, tables)
	{
		LegacyTable *table = lfirst(lc);
		bool		opened = ledger_legacy_is_opened(table, accounts, naccounts);
		LegacyRow	row;

		if (opened && !settings->shadow_mode && !settings->source_legacy)
			continue;
		if (!is_readable(table, !opened || settings->source_legacy || settings->strict_mode))
			continue;
		ledger_legacy_fetch(table, user_id, &row);
		/* from a row that waits for its opening the read shows that row */
		if (settings->shadow_mode && (opened || !row.found))
			ncolumns += ledger_compare_row(table, user_id, accounts, naccounts, &row,
										   columns + ncolumns);
		if (row.found && (settings->source_legacy || !opened))
			n += show_row(table, &row, accounts, naccounts, *list + n);
	}
	ledger_compare_report(user_id, columns, ncolumns, settings->strict_mode);
	return n;
}

void
ledger_legacy_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, namespace_callback, (Datum) 0);
	ledger_settings_check = ledger_legacy_check_settings;
}
