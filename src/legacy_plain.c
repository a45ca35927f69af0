/*
 * legacy_plain.c
 *		The fast path to a legacy table that runs nobody's code.
 *
 * A legacy table is its owner's: triggers, checks, policies and defaults must
 * run as they would for his own SQL. Where a table has none of them, an
 * UPDATE by key does nothing that store.c cannot do, at a fifth of the cost.
 * So a table is examined once for each of its relcache entries, under the
 * lock that keeps it as it is, and proven plain: an ordinary, permanent heap
 * table, no partition, no children, no rules, no row security, no CHECK, no
 * generated or domain column that is written, no trigger but ours, which is
 * there and enabled ALWAYS, no index with an expression or a predicate, no
 * unique index or exclusion on a column that is written.
 *
 * The capture trigger is not fired by a write that is known to be the
 * mirror's. An amount that the column cannot hold, a NaN, a row whose key was
 * changed while it was waited for: all that is left to SQL.
 *
 * Memory: what is known of a table lives in a context per backend, replaced
 * when the table's generation changes. Places of rows are hints, checked by
 * fetching them, so an abort has nothing to clean up.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "commands/trigger.h"
#include "rewrite/prs2lock.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "amount.h"
#include "compat.h"
#include "legacy_plain.h"
#include "place.h"

#define RECENT_ROWS		8

/* Columns of a plain table as the store has them: key, mapped, constants, updated_at. */
#define KEY_COLUMN		0
#define FIRST_MAPPED	1

typedef struct PlainTable
{
	StoreSpec	spec;
	int64		generation;		/* of the LegacyTable that was examined; 0: none */
	bool		is_plain;
	MemoryContext context;
	const char *columns[STORE_MAX_COLUMNS];
	Oid			index;			/* unique, on the key alone */
	int32		typmod[LEDGER_MAX_LEGACY_COLUMNS];
	Numeric		ceiling[LEDGER_MAX_LEGACY_COLUMNS]; /* NULL: no limit */
	int			updated_at;		/* its number in columns; 0: none */
} PlainTable;

/* Where a row was last seen or put. */
typedef struct RecentRow
{
	Oid			relid;
	pg_uuid_t	user_id;
	ItemPointerData tid;
} RecentRow;

static PlainTable plain_tables[LEDGER_MAX_MAPPINGS + 1];	/* by id of the mapping */
static RecentRow recent_rows[RECENT_ROWS];
static int	next_recent = 0;

static bool fast_path = true;

/* ---- what is plain ------------------------------------------------------------------ */

/* Only our own triggers, and the one that captures is on. */
static bool
triggers_are_ours(Relation relation)
{
	/* a copy: what is looked up here may have the relation's described anew */
	TriggerDesc *triggers = CopyTriggerDesc(relation->trigdesc);
	Oid			nspoid = ledger_schema_oid();
	bool		captures = false;

	for (int i = 0; triggers && i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];
		char	   *function = get_func_name(trigger->tgfoid);

		if (get_func_namespace(trigger->tgfoid) != nspoid || function == NULL ||
			strcmp(function, "capture") != 0)
			return false;
		if (TRIGGER_FOR_ROW(trigger->tgtype) && TRIGGER_FOR_AFTER(trigger->tgtype) &&
			TRIGGER_FOR_UPDATE(trigger->tgtype) &&
			trigger->tgenabled == TRIGGER_FIRES_ALWAYS && trigger->tgqual == NULL)
			captures = true;
	}
	return captures;
}

static bool
is_written(const PlainTable *plain, const LegacyTable *table, Relation relation, AttrNumber attnum)
{
	for (int i = 0; i < table->ncolumns; i++)
	{
		if (table->columns[i].attnum == attnum)
			return true;
	}
	return plain->updated_at > 0 &&
		get_attnum(RelationGetRelid(relation), plain->columns[plain->updated_at]) == attnum;
}

/* Looks at one index; notes the one on the key. */
static bool
index_is_plain(PlainTable *plain, const LegacyTable *table, Relation relation, Relation index)
{
	Form_pg_index form = index->rd_index;

	if (index->rd_rel->relam != BTREE_AM_OID)
		return false;
	if (RelationGetIndexExpressions(index) != NIL || RelationGetIndexPredicate(index) != NIL ||
		form->indisexclusion)
		return false;
	for (int i = 0; form->indisunique && i < form->indnkeyatts; i++)
	{
		if (is_written(plain, table, relation, form->indkey.values[i]))
			return false;
	}
	if (ledger_legacy_is_key_index(table, index) && ledger_legacy_is_in_order(index))
		plain->index = RelationGetRelid(index);
	return true;
}

static bool
indexes_are_plain(PlainTable *plain, const LegacyTable *table, Relation relation)
{
	List	   *indexes = RelationGetIndexList(relation);
	ListCell   *lc;
	bool		all = list_length(indexes) <= STORE_MAX_INDEXES;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		all = all && index_is_plain(plain, table, relation, index);
		index_close(index, NoLock);
	}
	list_free(indexes);
	return all && OidIsValid(plain->index);
}

static bool
relation_is_plain(Relation relation)
{
	TupleConstr *constraints = RelationGetDescr(relation)->constr;

	return relation->rd_rel->relkind == RELKIND_RELATION &&
		relation->rd_rel->relpersistence == RELPERSISTENCE_PERMANENT &&
		relation->rd_rel->relam == HEAP_TABLE_AM_OID &&
		!relation->rd_rel->relispartition && !relation->rd_rel->relhassubclass &&
		!relation->rd_rel->relrowsecurity && relation->rd_rules == NULL &&
		(constraints == NULL ||
		 (constraints->num_check == 0 && !LEDGER_HAS_GENERATED(constraints))) &&
		/* SQL refuses to update what is published without an identity */
		(relation->rd_rel->relreplident == REPLICA_IDENTITY_FULL ||
		 OidIsValid(RelationGetReplicaIndex(relation))) &&
		triggers_are_ours(relation);
}

/* ---- examining ----------------------------------------------------------------------- */

static bool
add_column(PlainTable *plain, const char *name)
{
	if (plain->spec.ncolumns == STORE_MAX_COLUMNS)
		return false;
	plain->columns[plain->spec.ncolumns++] = pstrdup(name);
	return true;
}

/* Below zero digits after the point nothing here is sure. */
static bool
note_limits(PlainTable *plain, const LegacyTable *table)
{
	for (int i = 0; i < table->ncolumns; i++)
	{
		const LegacyColumn *column = &table->columns[i];
		Oid			type;
		Oid			collation;
		int			precision;

		if (column->attnum == InvalidAttrNumber)
			return false;
		get_atttypetypmodcoll(table->relid, column->attnum, &type, &plain->typmod[i], &collation);
		if (type != NUMERICOID || column->unit)
			return false;
		plain->ceiling[i] = NULL;
		if (!column->limited)
			continue;
		precision = ((plain->typmod[i] - VARHDRSZ) >> 16) & 0xffff;
		if (column->scale < 0 || column->scale > precision)
			return false;
		plain->ceiling[i] = DatumGetNumeric(
			DirectFunctionCall3(numeric_in,
								CStringGetDatum(psprintf("1e%d", precision - column->scale)),
								ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	}
	return true;
}

/* Numbers the columns that the store is to know. */
static bool
note_columns(PlainTable *plain, const LegacyTable *table)
{
	Oid			type;
	int32		typmod;
	Oid			collation;
	ListCell   *lc;

	plain->spec.ncolumns = 0;
	plain->updated_at = 0;
	if (table->key_kind != LEGACY_KEY_UUID || table->nwhere > 0 ||
		get_atttype(table->relid, table->key_attnum) != UUIDOID ||
		!add_column(plain, table->key_column))
		return false;
	for (int i = 0; i < table->ncolumns; i++)
	{
		if (!add_column(plain, table->columns[i].column))
			return false;
	}
	foreach(lc, table->constants)
	{
		const LegacyConstant *constant = lfirst(lc);
		Oid			is = get_atttype(table->relid, get_attnum(table->relid, constant->name));

		if ((is != TEXTOID && is != VARCHAROID) || !add_column(plain, constant->name))
			return false;
	}
	if (table->has_updated_at)
	{
		get_atttypetypmodcoll(table->relid, get_attnum(table->relid, "updated_at"),
							  &type, &typmod, &collation);
		/* one with fewer digits is rounded by SQL */
		if (type != TIMESTAMPTZOID || typmod >= 0)
			return false;
		plain->updated_at = plain->spec.ncolumns;
		return add_column(plain, "updated_at");
	}
	return true;
}

/* An error on the way leaves what has to be examined again. */
static void
examine(PlainTable *plain, const LegacyTable *table)
{
	Relation	relation = relation_open(table->relid, NoLock);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ledger plain table",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	ledger_store_forget(&plain->spec);
	plain->generation = 0;
	plain->index = InvalidOid;
	plain->spec.table = NULL;
	plain->spec.relid = table->relid;
	plain->spec.columns = plain->columns;
	plain->is_plain = relation_is_plain(relation) && note_columns(plain, table) &&
		note_limits(plain, table) && indexes_are_plain(plain, table, relation);
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, CacheMemoryContext);
	if (plain->context)
		MemoryContextDelete(plain->context);
	plain->context = context;
	plain->generation = table->generation;
	relation_close(relation, NoLock);
}

/*
 * The table open under the lock, if it is plain as it now is; else NULL.
 */
static Store *
open_plain(LegacyTable *table, LOCKMODE lockmode, PlainTable **result)
{
	PlainTable *plain = &plain_tables[table->id];

	if (!fast_path || table->gone)
		return NULL;
	LockRelationOid(table->relid, lockmode);
	/* altered while we waited: SQL plans anew */
	if (ledger_legacy_table_of(table->relid) != table)
		return NULL;
	if (plain->generation != table->generation || plain->spec.relid != table->relid)
		examine(plain, table);
	if (!plain->is_plain)
		return NULL;
	*result = plain;
	return ledger_store_open(&plain->spec, lockmode);
}

/* ---- rows ------------------------------------------------------------------------------ */

static PlaceKey
place_of(const LegacyTable *table, const pg_uuid_t *user_id)
{
	return (PlaceKey) {.kind = LEDGER_PLACE_LEGACY,.id = table->relid,.user_id = *user_id};
}

static RecentRow *
recent_row(const LegacyTable *table, const pg_uuid_t *user_id)
{
	for (int i = 0; i < RECENT_ROWS; i++)
	{
		if (recent_rows[i].relid == table->relid &&
			memcmp(&recent_rows[i].user_id, user_id, UUID_LEN) == 0)
			return &recent_rows[i];
	}
	return NULL;
}

static void
remember_row(const LegacyTable *table, const pg_uuid_t *user_id, const ItemPointerData *tid)
{
	RecentRow  *row = recent_row(table, user_id);
	PlaceKey	place = place_of(table, user_id);

	ledger_place_set(&place, tid);
	if (row == NULL)
	{
		row = &recent_rows[next_recent];
		next_recent = (next_recent + 1) % RECENT_ROWS;
	}
	row->relid = table->relid;
	row->user_id = *user_id;
	row->tid = *tid;
}

static bool
is_of_user(const Datum *values, const bool *isnull, const pg_uuid_t *user_id)
{
	return !isnull[KEY_COLUMN] &&
		memcmp(DatumGetUUIDP(values[KEY_COLUMN]), user_id, UUID_LEN) == 0;
}

/* Where this transaction left it. */
static bool
find_at_place(Store *store, const LegacyTable *table, const pg_uuid_t *user_id,
			  Snapshot snapshot, Datum *values, bool *isnull, ItemPointer tid)
{
	PlaceKey	place = place_of(table, user_id);

	while (ledger_place_get(&place, tid))
	{
		if (ledger_store_fetch(store, tid, snapshot, values, isnull) &&
			is_of_user(values, isnull, user_id))
			return true;
		ledger_place_drop(&place);
	}
	return false;
}

/* The user's row under the snapshot; its values point into the store. */
static bool
find_row(Store *store, const PlainTable *plain, const LegacyTable *table,
		 const pg_uuid_t *user_id, Snapshot snapshot,
		 Datum *values, bool *isnull, ItemPointer tid)
{
	StoreKey	key = {F_UUID_EQ, UUIDPGetDatum(user_id), false, 0};
	RecentRow  *recent = recent_row(table, user_id);
	StoreScan  *scan;
	bool		found;

	if (recent && ledger_store_fetch(store, &recent->tid, snapshot, values, isnull) &&
		is_of_user(values, isnull, user_id))
	{
		*tid = recent->tid;
		return true;
	}
	if (find_at_place(store, table, user_id, snapshot, values, isnull, tid))
		return true;
	scan = ledger_store_scan_by(store, plain->index, snapshot, &key, 1);
	found = ledger_store_next(scan, ForwardScanDirection, values, isnull, tid);
	ledger_store_end(scan);
	return found;
}

static void
read_values(const LegacyTable *table, const Datum *values, const bool *isnull, LegacyRow *row)
{
	int			n = FIRST_MAPPED;
	ListCell   *lc;
	ListCell   *lv;

	memset(row, 0, sizeof(*row));
	row->found = true;
	row->groups = 1;
	for (int i = 0; i < table->ncolumns; i++, n++)
		row->values[i] = isnull[n] ? NULL : DatumGetNumericCopy(values[n]);
	foreach(lc, table->constants)
	{
		const LegacyConstant *constant = lfirst(lc);
		bool		known = isnull[n];

		foreach(lv, constant->values)
		{
			if (!known)
				known = strcmp(TextDatumGetCString(values[n]), lfirst(lv)) == 0;
		}
		row->foreign_constant |= !known;
		n++;
	}
}

/* Waits for whoever holds the row; *found false: there is none. */
bool
ledger_plain_lock_row(LegacyTable *table, const pg_uuid_t *user_id, Snapshot snapshot,
					  bool *found, bool *moved)
{
	PlainTable *plain;
	Store	   *store = open_plain(table, RowExclusiveLock, &plain);
	Datum		values[STORE_MAX_COLUMNS];
	bool		isnull[STORE_MAX_COLUMNS];
	ItemPointerData tid;
	ItemPointerData before;
	bool		same_key = true;

	if (store == NULL)
		return false;
	*found = find_row(store, plain, table, user_id, snapshot, values, isnull, &tid);
	before = tid;
	if (*found)
	{
		/* TM_Deleted: gone while we waited, as SQL would find it */
		*found = ledger_store_lock(store, &tid, snapshot, true, values, isnull) == TM_Ok;
		same_key = !*found || is_of_user(values, isnull, user_id);
		if (*found && same_key)
			remember_row(table, user_id, &tid);
	}
	*moved = !*found || !ItemPointerEquals(&before, &tid);
	ledger_store_close(store);
	return same_key;
}

/* The row under the active snapshot, not locked. */
bool
ledger_plain_fetch(LegacyTable *table, const pg_uuid_t *user_id, LegacyRow *row)
{
	PlainTable *plain;
	Store	   *store = open_plain(table, AccessShareLock, &plain);
	Datum		values[STORE_MAX_COLUMNS];
	bool		isnull[STORE_MAX_COLUMNS];
	ItemPointerData tid;

	if (store == NULL)
		return false;
	if (find_row(store, plain, table, user_id, GetActiveSnapshot(), values, isnull, &tid))
		read_values(table, values, isnull, row);
	else
		memset(row, 0, sizeof(*row));
	ledger_store_close(store);
	return true;
}

/* The next row of the index as one of the chunk; false: it is gone. */
static bool
lock_chunk_row(Store *store, const LegacyTable *table, ItemPointer tid,
			   Datum *values, bool *isnull, LegacyChunkRow *row)
{
	TM_Result	result = ledger_store_try_lock(store, tid, GetActiveSnapshot(), values, isnull);

	if (result == TM_Deleted)
		return false;
	row->locked = false;
	if (result == TM_WouldBlock)
		return true;
	/* its key has changed: whose row it is now, is looked at later */
	if (!is_of_user(values, isnull, &row->user_id))
	{
		if (isnull[KEY_COLUMN])
			return false;
		row->user_id = *DatumGetUUIDP(values[KEY_COLUMN]);
		return true;
	}
	row->locked = true;
	read_values(table, values, isnull, &row->row);
	return true;
}

bool
ledger_plain_lock_chunk(LegacyTable *table, const pg_uuid_t *after, const pg_uuid_t *until,
						int max, LegacyChunk *chunk)
{
	PlainTable *plain;
	Store	   *store = open_plain(table, RowExclusiveLock, &plain);
	StoreKey	key = {F_UUID_GT, UUIDPGetDatum(after), false, BTGreaterStrategyNumber};
	StoreScan  *scan;
	Datum		values[STORE_MAX_COLUMNS];
	bool		isnull[STORE_MAX_COLUMNS];
	ItemPointerData tid;
	int			seen;

	if (store == NULL)
		return false;
	scan = ledger_store_scan_by(store, plain->index, GetActiveSnapshot(), &key, after ? 1 : 0);
	chunk->at_end = true;
	for (seen = 0; ledger_store_next(scan, ForwardScanDirection, values, isnull, &tid); seen++)
	{
		LegacyChunkRow *row = &chunk->rows[chunk->nrows];

		CHECK_FOR_INTERRUPTS();
		if (isnull[KEY_COLUMN] || seen == max)
		{
			chunk->at_end = isnull[KEY_COLUMN];
			break;
		}
		row->user_id = *DatumGetUUIDP(values[KEY_COLUMN]);
		if (memcmp(&row->user_id, until, UUID_LEN) > 0)
			break;
		chunk->last = row->user_id;
		chunk->nrows += lock_chunk_row(store, table, &tid, values, isnull, row);
	}
	ledger_store_end(scan);
	ledger_store_close(store);
	return true;
}

/* The column's new value, as the column keeps it; false: it cannot. */
static bool
add_to_column(const PlainTable *plain, const LegacyColumn *column, int n, Numeric delta,
			  Datum *value, bool *isnull)
{
	Numeric		old = *isnull ? ledger_amount_zero() : DatumGetNumeric(*value);
	Numeric		new;

	if (numeric_is_nan(old) || numeric_is_inf(old))
		return false;
	new = ledger_amount_add(old, delta);
	if (plain->ceiling[n])
	{
		Numeric		size = ledger_amount_sign(new) < 0 ? ledger_amount_negate(new) : new;

		if (ledger_amount_cmp(size, plain->ceiling[n]) >= 0 ||
			DatumGetInt32(DirectFunctionCall1(numeric_min_scale, NumericGetDatum(new))) > column->scale)
			return false;
		new = DatumGetNumeric(DirectFunctionCall2(numeric, NumericGetDatum(new),
												  Int32GetDatum(plain->typmod[n])));
	}
	*value = NumericGetDatum(new);
	*isnull = false;
	return true;
}

/*
 * The new row: values are copied out of the store, whose slot the update may
 * need. false: some column cannot hold its value.
 */
static bool
new_values(const PlainTable *plain, const LegacyTable *table, const Numeric *deltas,
		   Datum *values, bool *isnull)
{
	for (int i = 0; i < plain->spec.ncolumns; i++)
	{
		int			n = i - FIRST_MAPPED;

		if (i == plain->updated_at && i > 0)
		{
			values[i] = TimestampTzGetDatum(GetCurrentTimestamp());
			isnull[i] = false;
		}
		else if (n >= 0 && n < table->ncolumns && deltas[n])
		{
			if (!add_to_column(plain, &table->columns[n], n, deltas[n], &values[i], &isnull[i]))
				return false;
		}
		else if (!isnull[i])
			values[i] = i == KEY_COLUMN ? datumCopy(values[i], false, UUID_LEN) :
				datumCopy(values[i], false, -1);
	}
	return true;
}

/* false: the row is not there, cannot hold the values, or somebody was first. */
static bool
add_to_row(LegacyTable *table, const pg_uuid_t *user_id, const Numeric *deltas,
		   Snapshot snapshot, LegacyRow *row)
{
	PlainTable *plain;
	Store	   *store = open_plain(table, RowExclusiveLock, &plain);
	Datum		values[STORE_MAX_COLUMNS];
	bool		isnull[STORE_MAX_COLUMNS];
	ItemPointerData tid;
	bool		done;

	if (store == NULL)
		return false;
	done = find_row(store, plain, table, user_id, snapshot, values, isnull, &tid) &&
		new_values(plain, table, deltas, values, isnull) &&
		ledger_store_update(store, &tid, snapshot, values, isnull) == TM_Ok;
	if (done)
	{
		read_values(table, values, isnull, row);
		remember_row(table, user_id, &tid);
	}
	ledger_store_close(store);
	return done;
}

bool
ledger_plain_add_first(LegacyTable *table, const pg_uuid_t *user_id, const Numeric *deltas,
					   Snapshot snapshot, LegacyRow *row)
{
	return add_to_row(table, user_id, deltas, snapshot, row);
}

/* Adds to the row, whose lock is held; *row is the row after it. */
bool
ledger_plain_add(LegacyTable *table, const pg_uuid_t *user_id, const Numeric *deltas,
				 LegacyRow *row)
{
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	bool		done = add_to_row(table, user_id, deltas, snapshot, row);

	UnregisterSnapshot(snapshot);
	return done;
}

void
ledger_plain_init(void)
{
	DefineCustomBoolVariable("ledger.legacy_fast_path",
							 "Writes a legacy table that runs nobody's code without SQL.",
							 NULL, &fast_path, true, PGC_SUSET, 0, NULL, NULL, NULL);
}
