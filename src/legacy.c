/*
 * legacy.c
 *		The attached legacy tables: mappings, and what reads make of them.
 *
 * Memory: mappings live per backend in a context of their own. An
 * invalidation of a mapping or of an attached table drops it; as a call may
 * be using it, it goes with the transaction.
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
#include "stats.h"

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

List *
ledger_legacy_compared(void)
{
	return ledger_settings_row()->phase == LEDGER_RETIRED ? NIL : ledger_legacy_tables();
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

bool
ledger_legacy_counts(const LegacyColumn *column, const LedgerAccount *account)
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
		if (ledger_legacy_counts(column, &accounts[i]))
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
			if (ledger_legacy_counts(column, &accounts[j]) &&
				strcmp(column->types[0], accounts[j].type->name) != 0)
				rest = ledger_amount_sub(rest, ledger_account_balance(&accounts[j]));
		}
		list[i].type = ledger_account_type(column->types[0]);
		list[i].balance = ledger_amount_normalise(rest, list[i].type->currency->display_digits);
	}
	return table->ncolumns;
}

/* What its columns say if it does not agree; returns how many, 0 if it does. */
static int
compare_row(LegacyTable *table, const pg_uuid_t *user_id, const LedgerAccount *accounts,
			int naccounts, const LegacyRow *row, CompareColumn *columns)
{
	int			n;

	if (ledger_compare_agrees(table, accounts, naccounts, row, NULL))
	{
		ledger_compare_tell_in_sync(user_id);
		return 0;
	}
	n = ledger_compare_row(table, user_id, accounts, naccounts, row, columns);
	ledger_compare_count(columns, n);
	return n;
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
		ledger_stats_fetch_begin();
		ledger_legacy_fetch(table, user_id, &row);
		ledger_stats_fetch_end();
		/* from a row that waits for its opening the read shows that row */
		if (settings->shadow_mode && (opened || !row.found))
			ncolumns += compare_row(table, user_id, accounts, naccounts, &row, columns + ncolumns);
		if (row.found && (settings->source_legacy || !opened))
			n += show_row(table, &row, accounts, naccounts, *list + n);
	}
	ledger_compare_leave_evidence(user_id, columns, ncolumns, settings->strict_mode, "read");
	ledger_compare_report(user_id, columns, ncolumns, settings->strict_mode);
	return n;
}

static bool
has_tables(void)
{
	return ledger_legacy_tables() != NIL;
}

void
ledger_legacy_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, namespace_callback, (Datum) 0);
	ledger_settings_check = ledger_legacy_check_settings;
	ledger_settings_has_legacy = has_tables;
}
