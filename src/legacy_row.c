/*
 * legacy_row.c
 *		One user's row of an attached legacy table: lock, read, write.
 *
 * A legacy table is foreign: its triggers, defaults, checks and policies are
 * its owner's code. So SQL on it (legacy_sql.c) is prepared with every name quoted and
 * qualified and runs as the table's owner, the way foreign-key triggers do.
 * As owner with NOFORCE_RLS no policy filters a row. search_path is the table's
 * schema: what that code names unqualified is not the caller's to choose. Where
 * there is no such code, legacy_plain.c does the same without SQL.
 *
 * Memory: plans are kept per backend by (table, kind, columns) and prepared
 * anew only if their text has changed; the plan cache sees to everything else.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "compat.h"
#include "legacy.h"
#include "legacy_plain.h"
#include "legacy_sql.h"

#define MAX_LOOKS		10		/* at a row that the index alone finds */

typedef struct PlanKey
{
	Oid			relid;
	int32		kind;
	uint32		mask;			/* PLAN_ADD, PLAN_SET: which columns, of one group */
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

void
ledger_row_become_owner(const LegacyTable *table, LegacyPlan kind, OwnerContext *saved)
{
	char	   *search_path = ledger_legacy_search_path(table);

	if (kind == PLAN_ADD || kind == PLAN_SET || kind == PLAN_INSERT)
		ledger_become_writer(saved, table->owner, search_path);
	else
		ledger_become_reader(saved, table->owner, search_path);
	pfree(search_path);
}

static PlanEntry *
plan_entry(const LegacyTable *table, LegacyPlan kind, uint32 mask)
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

/* Besides the amounts. */
static int
params_of(LegacyPlan kind)
{
	switch (kind)
	{
		case PLAN_LAST_KEY:
		case PLAN_NO_KEY:
		case PLAN_NO_GROUP:
			return 0;
		case PLAN_SCAN:
		case PLAN_LOCK_RANGE:
			return 2;
		case PLAN_KEYS:
			return 3;
		default:
			return 1;
	}
}

/*
 * The plan, prepared as the owner, in whose role the caller is already. A
 * plan whose text has changed is not in use: its table was altered, which
 * PostgreSQL refuses below a running statement on it.
 */
SPIPlanPtr
ledger_row_plan(const LegacyTable *table, LegacyPlan kind, uint32 mask)
{
	PlanEntry  *entry = plan_entry(table, kind, mask);
	Oid			types[LEDGER_MAX_LEGACY_COLUMNS + 1];
	int			ntypes = params_of(kind);
	char	   *sql;
	SPIPlanPtr	plan;

	if (entry->plan && entry->generation == table->generation)
		return entry->plan;
	sql = ledger_legacy_sql(table, kind, mask);
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
	/* PLAN_KEYS: from, to, how many */
	types[0] = types[1] = ledger_legacy_key_param_type(table);
	types[2] = INT8OID;
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

/* Whether both read the same of a user's rows, in the same order. */
static bool
is_same_mapping(const LegacyTable *x, const LegacyTable *y)
{
	if (x->id != y->id || x->ncolumns != y->ncolumns || x->key_kind != y->key_kind ||
		strcmp(x->key_column, y->key_column) != 0)
		return false;
	for (int i = 0; i < x->ncolumns; i++)
	{
		const LegacyColumn *a = &x->columns[i];
		const LegacyColumn *b = &y->columns[i];

		if (strcmp(a->name, b->name) != 0 || strcmp(a->column, b->column) != 0 ||
			a->group != b->group || (a->unit == NULL) != (b->unit == NULL) ||
			(a->unit && ledger_amount_cmp(a->unit, b->unit) != 0))
			return false;
	}
	return true;
}

/*
 * The table as it is, under a lock that keeps it so: its owner may have
 * renamed or altered it between our look and our lock. A read may find it
 * attached anew by now: what it has begun by a mapping it ends by that.
 */
LegacyTable *
ledger_row_lock_table(LegacyTable *table, LOCKMODE lockmode)
{
	LegacyTable *now;

	LockRelationOid(table->relid, lockmode);
	now = ledger_legacy_table_of(table->relid);
	if (now == NULL || !is_same_mapping(now, table))
		now = table;
	ledger_legacy_check_table(now);
	return now;
}

/* Takes the columns of one row of a result, their values copied into the context. */
void
ledger_row_read(const LegacyTable *table, HeapTuple tuple, TupleDesc desc, LegacyRow *row,
		 MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	bool		isnull;
	int			group = DatumGetInt32(SPI_getbinval(tuple, desc, table->ncolumns + 2, &isnull));

	row->found = true;
	row->groups |= 1 << group;
	for (int i = 0; i < table->ncolumns; i++)
	{
		Datum		value;

		if (table->columns[i].group != group)
			continue;
		value = SPI_getbinval(tuple, desc, i + 1, &isnull);
		row->values[i] = isnull ? NULL : ledger_legacy_amount(&table->columns[i], value);
	}
	row->foreign_constant |= DatumGetBool(SPI_getbinval(tuple, desc, table->ncolumns + 1, &isnull));
	MemoryContextSwitchTo(old);
}

/*
 * Runs a plan as the owner and adds the rows that it returns to *row. Returns
 * their groups.
 */
static uint32
execute(LegacyTable *table, LegacyPlan kind, uint32 mask, const pg_uuid_t *user_id,
		const Numeric *amounts, LegacyRow *row)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		values[LEDGER_MAX_LEGACY_COLUMNS + 1];
	char		nulls[LEDGER_MAX_LEGACY_COLUMNS + 1];
	OwnerContext saved;
	int			result;
	uint32		groups = 0;

	table = ledger_row_lock_table(table, kind == PLAN_FETCH ? AccessShareLock :
					   kind == PLAN_LOCK ? RowShareLock : RowExclusiveLock);
	if (!ledger_legacy_key_param(table, user_id, &values[0]))
		return 0;
	nulls[0] = ' ';
	for (int i = 0; amounts && i < table->ncolumns; i++)
	{
		values[i + 1] = amounts[i] == NULL ? (Datum) 0 :
			NumericGetDatum(ledger_legacy_column_value(&table->columns[i], amounts[i]));
		nulls[i + 1] = amounts[i] ? ' ' : 'n';
	}
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	ledger_row_become_owner(table, kind, &saved);
	result = SPI_execute_plan(ledger_row_plan(table, kind, mask), values, nulls, kind == PLAN_FETCH, 0);
	ledger_unbecome(&saved);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		if (row)
			ledger_row_read(table, tuple, desc, row, context);
		else
			groups |= 1 << DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull));
	}
	SPI_finish();
	return row ? row->groups : groups;
}

/* ---- rows that are being inserted ----------------------------------------------- */

/* What the index has a row of the user and group under; false: it cannot. */
static bool
index_keys(const LegacyTable *table, Relation index, const pg_uuid_t *user_id, int group,
		   ScanKeyData *keys)
{
	Oid			relid = index->rd_index->indrelid;

	for (int i = 0; i < index->rd_index->indnkeyatts; i++)
	{
		AttrNumber	attnum = index->rd_index->indkey.values[i];
		Oid			type = index->rd_opcintype[i];
		Datum		value = (Datum) 0;
		Oid			equals;

		if (attnum == get_attnum(relid, table->key_column))
		{
			if (!ledger_legacy_key_value(table, user_id, &value))
				return false;
			if (table->key_kind == LEGACY_KEY_INTEGER)
				type = INT8OID;
		}
		for (int w = 0; w < table->nwhere; w++)
		{
			if (attnum != get_attnum(relid, table->where[w]))
				continue;
			value = ledger_legacy_condition_value(table, get_atttype(relid, attnum),
												  table->groups[group].values[w]);
		}
		equals = get_opfamily_member(index->rd_opfamily[i], index->rd_opcintype[i], type,
									 BTEqualStrategyNumber);
		if (!OidIsValid(equals))
			return false;
		ScanKeyEntryInitialize(&keys[i], 0, i + 1, BTEqualStrategyNumber, type,
							   index->rd_indcollation[i], get_opcode(equals), value);
	}
	return true;
}

/* Not what this transaction inserts: the command that does so may be calling us. */
static bool
is_of_group(const LegacyTable *table, Relation relation, TupleTableSlot *slot, int group)
{
	HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, NULL);

	return !TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)) &&
		ledger_legacy_tuple_group(table, relation, tuple) == group;
}

/*
 * Looks a row up under a dirty snapshot, which says who is inserting it. The
 * index may be on fewer columns than the conditions: what it has is looked at.
 */
static bool
find_dirty(const LegacyTable *table, Relation relation, Relation index, const pg_uuid_t *user_id,
		   int group, SnapshotData *dirty)
{
	ScanKeyData keys[LEDGER_MAX_WHERE + 1];
	int			nkeys = index->rd_index->indnkeyatts;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	bool		found = false;

	if (!index_keys(table, index, user_id, group, keys))
		return false;
	slot = table_slot_create(relation, NULL);
	InitDirtySnapshot(*dirty);
	scan = ledger_index_beginscan(relation, index, dirty, nkeys);
	index_rescan(scan, keys, nkeys, NULL, 0);
	while (!found && index_getnext_slot(scan, ForwardScanDirection, slot))
		found = is_of_group(table, relation, slot, group);
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	return found;
}

/* The same in one relation, for whichever of the groups. */
static bool
find_dirty_in(const LegacyTable *table, Oid relid, const pg_uuid_t *user_id, uint32 groups,
			  SnapshotData *dirty)
{
	Relation	relation = table_open(relid, AccessShareLock);
	List	   *indexes = relation->rd_rel->relam == HEAP_TABLE_AM_OID ?
		RelationGetIndexList(relation) : NIL;
	bool		found = false;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		bool		is_key = ledger_legacy_is_key_index(table, index);

		for (int g = 0; is_key && !found && g < table->ngroups; g++)
		{
			if (groups & (1 << g))
				found = find_dirty(table, relation, index, user_id, g, dirty);
		}
		index_close(index, NoLock);
		if (is_key)
			break;
	}
	list_free(indexes);
	table_close(relation, NoLock);
	return found;
}

/*
 * A row that is just being inserted cannot be locked, but whoever inserts it
 * may come to the ledger next and want what we are about to lock: so it is
 * waited for here. true: there is such a row, look again; *looks counts the
 * times that nobody had to be waited for.
 */
static bool
wait_for_new_row(const LegacyTable *table, const pg_uuid_t *user_id, uint32 groups, int *looks)
{
	List	   *relids = table->partitioned ?
		find_all_inheritors(table->relid, AccessShareLock, NULL) : list_make1_oid(table->relid);
	SnapshotData dirty;
	bool		found = false;
	ListCell   *lc;

	foreach(lc, relids)
	{
		if (!found)
			found = find_dirty_in(table, lfirst_oid(lc), user_id, groups, &dirty);
	}
	if (!found)
		return false;
	if (TransactionIdIsValid(dirty.xmin))
		XactLockTableWait(dirty.xmin, NULL, NULL, XLTW_None);
	else if (IsolationUsesXactSnapshot())
		ledger_store_serialization_failure();
	else
		(*looks)++;
	return true;
}

/* ---- one user ------------------------------------------------------------------- */

static uint32
all_groups(const LegacyTable *table)
{
	return (1U << table->ngroups) - 1;
}

/* Waits for whoever holds the user's rows; returns the groups that have one. */
uint32
ledger_legacy_lock_row(LegacyTable *table, const pg_uuid_t *user_id)
{
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	bool		found;
	bool		moved;
	bool		plain = ledger_plain_lock_row(table, user_id, snapshot, &found, &moved);

	UnregisterSnapshot(snapshot);
	return plain ? found : execute(table, PLAN_LOCK, 0, user_id, NULL, NULL);
}

/*
 * The same, before anything else is locked: waits for who inserts one too.
 * *moved: they may not be the versions that the snapshot sees.
 */
uint32
ledger_legacy_lock_row_first(LegacyTable *table, const pg_uuid_t *user_id, Snapshot snapshot,
							 bool *moved)
{
	bool		found;
	uint32		groups;
	int			looks = 0;

	if (ledger_plain_lock_row(table, user_id, snapshot, &found, moved) && found)
		return 1;
	*moved = true;
	for (;;)
	{
		groups = ledger_legacy_lock_row(table, user_id);
		/* one that stays unseen is not the user's by the columns' own equality */
		if (groups == all_groups(table) || looks == MAX_LOOKS ||
			!wait_for_new_row(table, user_id, all_groups(table) & ~groups, &looks))
			return groups;
		CHECK_FOR_INTERRUPTS();
	}
}

/* The rows under the active snapshot, not locked; by SQL, whichever way is faster. */
void
ledger_legacy_fetch_by_sql(LegacyTable *table, const pg_uuid_t *user_id, LegacyRow *row)
{
	memset(row, 0, sizeof(*row));
	(void) execute(table, PLAN_FETCH, 0, user_id, NULL, row);
}

/* The same, the shorter way if there is one. */
void
ledger_legacy_fetch(LegacyTable *table, const pg_uuid_t *user_id, LegacyRow *row)
{
	if (!ledger_plain_fetch(table, user_id, row))
		ledger_legacy_fetch_by_sql(table, user_id, row);
}

uint32
ledger_legacy_groups_of(const LegacyTable *table, const Numeric *values)
{
	uint32		groups = 0;

	for (int i = 0; i < table->ncolumns; i++)
	{
		if (values[i])
			groups |= 1 << table->columns[i].group;
	}
	return groups;
}

/* The columns of the group whose amount is not NULL. */
static uint32
mask_of(const LegacyTable *table, int group, const Numeric *amounts)
{
	uint32		mask = 0;

	for (int i = 0; i < table->ncolumns; i++)
	{
		if (amounts[i] && table->columns[i].group == group)
			mask |= 1 << i;
	}
	return mask;
}

static void
update_rows(LegacyTable *table, LegacyPlan kind, const pg_uuid_t *user_id, const Numeric *amounts,
			LegacyRow *row)
{
	memset(row, 0, sizeof(*row));
	for (int g = 0; g < table->ngroups; g++)
	{
		uint32		mask = mask_of(table, g, amounts);

		if (mask)
			(void) execute(table, kind, mask, user_id, amounts, row);
	}
}

/* Adds to the columns whose delta is not NULL; *row has the rows of their groups after it. */
void
ledger_legacy_add(LegacyTable *table, const pg_uuid_t *user_id, const Numeric *deltas,
				  LegacyRow *row)
{
	update_rows(table, PLAN_ADD, user_id, deltas, row);
}

/* Sets the columns whose value is not NULL; likewise. */
void
ledger_legacy_set(LegacyTable *table, const pg_uuid_t *user_id, const Numeric *values,
				  LegacyRow *row)
{
	update_rows(table, PLAN_SET, user_id, values, row);
}

void
ledger_legacy_check_user(const LegacyTable *table, const pg_uuid_t *user_id)
{
	Datum		key;

	if (!ledger_legacy_key_param(table, user_id, &key))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("user %s cannot have a row in %s",
						DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(user_id))),
						table->name),
				 errdetail("Its key is an integer, and the user's id is not one of integer_to_uuid().")));
}

/*
 * Inserts the row of a group unless one is in the way (*row does not have it
 * then); what *row has of others stays.
 */
void
ledger_legacy_insert(LegacyTable *table, const pg_uuid_t *user_id, int group,
					 const Numeric *values, LegacyRow *row)
{
	ledger_legacy_check_user(table, user_id);
	(void) execute(table, PLAN_INSERT, group, user_id, values, row);
}
