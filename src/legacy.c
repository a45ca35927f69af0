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
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/regproc.h"
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
	MAPPING_ID, MAPPING_LEGACY, MAPPING_KEY, MAPPING_KIND, MAPPING_FUNCTIONS, MAPPING_CONSTANTS,
	MAPPING_CAPTURE, MAPPING_DETACHED, MAPPING_COLUMNS
};
static const char *const mapping_columns[] = {
	"id", "legacy", "key_column", "key_kind", "key_functions", "constants", "capture", "detached_at"
};
static StoreSpec mapping_spec = {"legacy_mappings", mapping_columns, MAPPING_COLUMNS, NULL};

enum
{
	COLUMN_MAPPING, COLUMN_ORDINAL, COLUMN_NAME, COLUMN_COLUMN, COLUMN_ACCOUNTS, COLUMN_UNIT,
	COLUMN_CONDITION, COLUMN_COLUMNS
};
static const char *const column_columns[] = {
	"mapping_id", "ordinal", "legacy_column", "column_name", "accounts", "unit", "condition"
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

	/* a partition, say */
	if (!OidIsValid(relid) || ledger_legacy_tuple_knows(relid))
		ledger_legacy_tuple_forget();
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
	ledger_legacy_tuple_forget();
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

/* Functions that make uuids of keys may be dropped, or others by now. */
static void
function_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	ListCell   *lc;

	foreach(lc, legacy_cache ? legacy_cache->tables : NIL)
	{
		if (((LegacyTable *) lfirst(lc))->key_kind == LEGACY_KEY_FUNCTIONS)
		{
			relcache_callback(arg, InvalidOid);
			return;
		}
	}
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

/*
 * A function of the key's type, or of text where that is what the key is. NULL:
 * there is none.
 */
static char *
key_function(const char *name, Oid type, Oid *oid)
{
	List	   *names = ledger_qualified_name_list(name);
	Oid			types[] = {type, TEXTOID};

	*oid = LookupFuncName(names, 1, types, true);
	if (!OidIsValid(*oid) && type == VARCHAROID)
		*oid = LookupFuncName(names, 1, types + 1, true);
	if (!OidIsValid(*oid))
		return NULL;
	return quote_qualified_identifier(get_namespace_name(get_func_namespace(*oid)),
									  get_func_name(*oid));
}

static bool
is_key_type(const LegacyTable *table, Oid type)
{
	switch (table->key_kind)
	{
		case LEGACY_KEY_UUID:
			return type == UUIDOID;
		case LEGACY_KEY_TEXT:
			return type == TEXTOID || type == VARCHAROID || type == BPCHAROID;
		case LEGACY_KEY_INTEGER:
			return type == INT8OID || type == INT4OID || type == INT2OID;
		default:
			return true;
	}
}

static void
describe_key(LegacyTable *table)
{
	Oid			type;

	table->key_attnum = get_attnum(table->relid, table->key_column);
	if (table->key_attnum == InvalidAttrNumber)
		return;
	type = get_atttype(table->relid, table->key_attnum);
	table->key_type = is_key_type(table, type) ? type : InvalidOid;
	if (table->key_functions && OidIsValid(table->key_type))
	{
		table->to_uuid_name = key_function(linitial(table->key_functions), type, &table->to_uuid);
		table->from_uuid_name = key_function(lsecond(table->key_functions), UUIDOID,
											 &table->from_uuid);
	}
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
	table->partitioned = form->relkind == RELKIND_PARTITIONED_TABLE;
	table->gone = form->relkind != RELKIND_RELATION && !table->partitioned;
	table->name = quote_qualified_identifier(get_namespace_name(form->relnamespace),
											 NameStr(form->relname));
	ReleaseSysCache(tuple);

	describe_key(table);
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

	column->attnum = table->gone ? InvalidAttrNumber : get_attnum(table->relid, column->column);
	if (column->attnum == InvalidAttrNumber)
		return;
	get_atttypetypmodcoll(table->relid, column->attnum, &type, &typmod, &collation);
	column->type = type;
	if (type == INT8OID || type == INT4OID || type == INT2OID)
		column->limited = true;
	else if (type != NUMERICOID)
		column->attnum = InvalidAttrNumber;
	else if (typmod >= (int32) VARHDRSZ)
	{
		column->limited = true;
		/* numeric_typmod_scale() */
		column->scale = (((typmod - VARHDRSZ) & 0x7ff) ^ 1024) - 1024;
	}
}

/*
 * The group of a column's condition, {"column": "value", ...}; the first of
 * a table says which columns a condition has.
 */
static int
group_of(LegacyTable *table, Jsonb *condition)
{
	LegacyGroup group = {{NULL}};
	JsonbIterator *it = JsonbIteratorInit(&condition->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	int			n = 0;

	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		if (token == WJB_KEY && n < LEDGER_MAX_WHERE)
			table->where[n] = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE && n < LEDGER_MAX_WHERE)
			group.values[n++] = pnstrdup(v.val.string.val, v.val.string.len);
	}
	table->nwhere = n;
	for (int g = 0; g < table->ngroups; g++)
	{
		bool		same = true;

		for (int i = 0; i < n; i++)
			same &= strcmp(group.values[i], table->groups[g].values[i]) == 0;
		if (same)
			return g;
	}
	table->groups[table->ngroups] = group;
	return table->ngroups++;
}

static void
read_column(LegacyTable *table, const Datum *values)
{
	LegacyColumn *column;
	Numeric		unit = DatumGetNumericCopy(values[COLUMN_UNIT]);
	Datum	   *types;
	int			ntypes;

	if (table->ncolumns == LEDGER_MAX_LEGACY_COLUMNS)
		elog(ERROR, "legacy table %s has too many mapped columns", table->name);
	column = &table->columns[table->ncolumns++];
	strlcpy(column->name, TextDatumGetCString(values[COLUMN_NAME]), NAMEDATALEN);
	strlcpy(column->column, TextDatumGetCString(values[COLUMN_COLUMN]), NAMEDATALEN);
	deconstruct_array(DatumGetArrayTypeP(values[COLUMN_ACCOUNTS]), TEXTOID, -1, false,
					  TYPALIGN_INT, &types, NULL, &ntypes);
	column->ntypes = Min(ntypes, LEDGER_MAX_COLUMN_TYPES);
	for (int i = 0; i < column->ntypes; i++)
		strlcpy(column->types[i], TextDatumGetCString(types[i]), NAMEDATALEN);
	if (ledger_amount_cmp(unit, int64_to_numeric(1)) != 0)
		column->unit = unit;
	column->group = group_of(table, DatumGetJsonbP(values[COLUMN_CONDITION]));
	describe_column(table, column);
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

			if (table->id == DatumGetInt16(values[COLUMN_MAPPING]))
				read_column(table, values);
		}
	}
	ledger_store_end(scan);
	ledger_store_close(store);
}

static LegacyKeyKind
parse_key_kind(const char *name)
{
	static const char *const names[] = {"uuid", "text", "integer", "functions"};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (strcmp(name, names[i]) == 0)
			return (LegacyKeyKind) i;
	}
	elog(ERROR, "unknown kind of key %s", name);
}

static List *
parse_names(ArrayType *array)
{
	Datum	   *names;
	int			n;
	List	   *list = NIL;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &names, NULL, &n);
	for (int i = 0; i < n; i++)
		list = lappend(list, TextDatumGetCString(names[i]));
	return list;
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
		table->key_kind = parse_key_kind(TextDatumGetCString(values[MAPPING_KIND]));
		if (!isnull[MAPPING_FUNCTIONS])
			table->key_functions = parse_names(DatumGetArrayTypeP(values[MAPPING_FUNCTIONS]));
		table->constants = parse_constants(DatumGetJsonbP(values[MAPPING_CONSTANTS]));
		table->capture = parse_capture(TextDatumGetCString(values[MAPPING_CAPTURE]));
		table->generation = generation;
		/* in the list first, for the callback to know it */
		cache->tables = lappend(cache->tables, table);
		describe_table(table);
	}
	ledger_store_end(scan);
	ledger_store_close(store);
}

/* What is invalidated while we read is noticed: it is in place. */
static LegacyCache *
read_tables(void)
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
	return cache;
}

/* If they are invalidated each time that they are read, what is read will do for once. */
List *
ledger_legacy_tables(void)
{
	LegacyCache *cache = legacy_cache;

	for (int i = 0; legacy_cache == NULL && i < 3; i++)
	{
		if (cache)
			MemoryContextDelete(cache->context);
		cache = read_tables();
	}
	return cache->tables;
}

LegacyTable *
ledger_legacy_table_by_id(int id)
{
	ListCell   *lc;

	foreach(lc, ledger_legacy_tables())
	{
		LegacyTable *table = lfirst(lc);

		if (table->id == id)
			return table;
	}
	return NULL;
}

List *
ledger_legacy_compared(void)
{
	return ledger_settings_row()->phase == LEDGER_RETIRED ? NIL : ledger_legacy_tables();
}

static LegacyTable *
table_with(Oid relid)
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

LegacyTable *
ledger_legacy_table_of(Oid relid)
{
	LegacyTable *table = table_with(relid);
	ListCell   *lc;

	if (table || ledger_legacy_tables() == NIL || !get_rel_relispartition(relid))
		return table;
	foreach(lc, get_partition_ancestors(relid))
	{
		if (table == NULL)
			table = table_with(lfirst_oid(lc));
	}
	return table;
}

const char *
ledger_legacy_what_is_missing(const LegacyTable *table)
{
	if (table->gone)
		return "The table does not exist any more.";
	if (table->key_attnum == InvalidAttrNumber)
		return psprintf("Column %s is not there.", table->key_column);
	if (!OidIsValid(table->key_type))
		return psprintf("Column %s is not of the type that it was.", table->key_column);
	if (table->key_functions && (table->to_uuid_name == NULL || table->from_uuid_name == NULL))
		return psprintf("Function %s is not there.", table->to_uuid_name ?
						(char *) lsecond(table->key_functions) :
						(char *) linitial(table->key_functions));
	for (int i = 0; i < table->ncolumns; i++)
	{
		if (table->columns[i].attnum == InvalidAttrNumber)
			return psprintf("Column %s is not there, or not a numeric or integer one.",
							table->columns[i].column);
	}
	for (int i = 0; i < table->nwhere; i++)
	{
		if (get_attnum(table->relid, table->where[i]) == InvalidAttrNumber)
			return psprintf("Column %s is not there.", table->where[i]);
	}
	return NULL;
}

static void
report_missing(const LegacyTable *table, const char *missing, int level)
{
	ereport(level,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the attached legacy table %s cannot be used", table->name),
			 errdetail_internal("%s", missing),
			 table->gone ?
			 errhint("Call ledger.configure(shadow_mode => false, balance_source => 'ledger'), then ledger.detach_legacy(%u).",
					 table->relid) :
			 errhint("Restore what is missing, or call detach_legacy('%s').", table->name)));
}

void
ledger_legacy_check_table(const LegacyTable *table)
{
	const char *missing = ledger_legacy_what_is_missing(table);

	if (missing)
		report_missing(table, missing, ERROR);
}

/*
 * Whether the table can be read. If not, a read that could do without it goes
 * on with a warning; another is refused, rather than show what may be wrong.
 */
static bool
is_readable(const LegacyTable *table, bool needed)
{
	const char *missing = ledger_legacy_what_is_missing(table);

	if (missing)
		report_missing(table, missing, needed ? ERROR : WARNING);
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

/* Whether another table from which he is opened has a say in this type. */
static bool
opened_elsewhere(const LegacyTable *table, const char *type, const LedgerAccount *accounts,
				 int naccounts)
{
	ListCell   *lc;

	foreach(lc, ledger_legacy_tables())
	{
		const LegacyTable *other = lfirst(lc);

		if (other->id == table->id || !ledger_legacy_is_opened(other, accounts, naccounts))
			continue;
		for (int i = 0; i < other->ncolumns; i++)
		{
			if (ledger_legacy_maps(&other->columns[i], type))
				return true;
		}
	}
	return false;
}

int
ledger_legacy_opening_type(const LegacyTable *table, const LegacyColumn *column,
						   const LedgerAccount *accounts, int naccounts, bool *shared)
{
	int			first = -1;

	*shared = false;
	/* the usual case: there is but one table */
	if (list_length(ledger_legacy_tables()) == 1)
		return 0;
	for (int i = column->ntypes - 1; i >= 0; i--)
	{
		if (opened_elsewhere(table, column->types[i], accounts, naccounts))
			*shared = true;
		else
			first = i;
	}
	return *shared ? first : 0;
}

static bool
is_listed(const LegacyBalance *list, int n, const char *type)
{
	for (int i = 0; i < n; i++)
	{
		if (strcmp(list[i].type->name, type) == 0)
			return true;
	}
	return false;
}

/*
 * One type of each column as the legacy row tells it: what is left when
 * the ledger's values of the column's other types are taken off. The first, or
 * if he is to be opened the one that his opening posts to. What a table before
 * this one has told of a type stands. Returns how many are listed then.
 */
static int
show_row(const LegacyTable *table, const LegacyRow *row, bool opened,
		 const LedgerAccount *accounts, int naccounts, LegacyBalance *list, int n)
{
	for (int i = 0; i < table->ncolumns; i++)
	{
		const LegacyColumn *column = &table->columns[i];
		Numeric		rest = row->values[i] ? row->values[i] : ledger_amount_zero();
		bool		shared = false;
		int			type = opened ? 0 :
			ledger_legacy_opening_type(table, column, accounts, naccounts, &shared);

		if (!ledger_legacy_has(row, column) || type < 0 ||
			is_listed(list, n, column->types[type]))
			continue;
		/* a copy takes nothing away */
		if (shared && ledger_amount_cmp(rest, ledger_legacy_ledger_value(column, accounts,
																		naccounts)) < 0)
			continue;
		for (int j = 0; j < naccounts; j++)
		{
			if (ledger_legacy_counts(column, &accounts[j]) &&
				strcmp(column->types[type], accounts[j].type->name) != 0)
				rest = ledger_amount_sub(rest, ledger_account_balance(&accounts[j]));
		}
		list[n].type = ledger_account_type(column->types[type]);
		list[n].balance = ledger_amount_normalise(rest, list[n].type->currency->display_digits);
		n++;
	}
	return n;
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
		if (ledger_stats_samples_fetch())
			ledger_legacy_fetch_by_sql(table, user_id, &row);
		else
			ledger_legacy_fetch(table, user_id, &row);
		ledger_stats_fetch_end();
		/* from a row that waits for its opening the read shows that row */
		if (settings->shadow_mode && (opened || !row.found))
			ncolumns += compare_row(table, user_id, accounts, naccounts, &row, columns + ncolumns);
		if (row.found && (settings->source_legacy || !opened))
			n = show_row(table, &row, opened || settings->source_legacy, accounts, naccounts,
						 *list, n);
	}
	ledger_compare_leave_evidence(user_id, columns, ncolumns, settings->strict_mode, "read");
	ledger_compare_report(user_id, columns, ncolumns, settings->strict_mode);
	ledger_stats_compare_end();
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
	CacheRegisterSyscacheCallback(PROCOID, function_callback, (Datum) 0);
	ledger_settings_check = ledger_legacy_check_settings;
	ledger_settings_has_legacy = has_tables;
}
