/*
 * store.c
 *		The ledger's own tables through the table access method.
 *
 * What the executor would do for us is done here by hand: index entries,
 * serialization failures, waiting for a row. What it would check is not:
 * rights (EXECUTE on the functions is the gate), constraints (they are for
 * writers in SQL; the callers assert them) and triggers (verify() names any
 * that somebody adds).
 *
 * Memory: a StoreCache lives per backend in a context of its own, is dropped by
 * the relcache callback and freed with the last Store that uses it. Nothing in
 * it refers to a relation, a buffer or a resource owner, so an abort has nothing
 * to clean up. A Store, its slots and open indexes live for one call in the
 * caller's context.
 *
 * Locks: a table and those of its indexes that a call needs are locked in the
 * mode asked for, to the end of the transaction.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "store_parts.h"

struct StoreScan
{
	Store	   *store;
	MemoryContext context;		/* where the access method allocates as it goes */
	IndexScanDesc index;
	TableScanDesc table;		/* without an index */
	ScanKeyData keys[STORE_MAX_KEYS];
};

/* Every spec that has a cache, for the relcache callback. */
static StoreSpec *cached_specs[64];
static int	ncached_specs = 0;

static Oid	schema_oid = InvalidOid;

/* ---- cache ------------------------------------------------------------ */

static void
drop_cache(StoreSpec *spec)
{
	StoreCache *cache = spec->cache;

	spec->cache = NULL;
	cache->dropped = true;
	/* an open Store still uses it: it goes with that, or at the end of the transaction */
	if (cache->users > 0 && TopTransactionContext != NULL)
		MemoryContextSetParent(cache->context, TopTransactionContext);
	else
		MemoryContextDelete(cache->context);
}

static void
relcache_callback(Datum arg, Oid relid)
{
	for (int i = 0; i < ncached_specs; i++)
	{
		StoreSpec  *spec = cached_specs[i];
		StoreCache *cache = spec->cache;
		bool		hit = false;

		if (cache == NULL)
			continue;
		hit = !OidIsValid(relid) || cache->relid == relid;
		for (int j = 0; !hit && j < cache->nindexes; j++)
			hit = cache->indexes[j].oid == relid;
		if (hit)
			drop_cache(spec);
	}
}

static void
namespace_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	schema_oid = InvalidOid;
}

void
ledger_store_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, namespace_callback, (Datum) 0);
}

Oid
ledger_schema_oid(void)
{
	if (!OidIsValid(schema_oid))
		schema_oid = get_namespace_oid("ledger", false);
	return schema_oid;
}

Oid
ledger_relation_oid(const char *name)
{
	Oid			relid = get_relname_relid(name, ledger_schema_oid());

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation ledger.%s does not exist", name),
				 errhint("Create the extension anew, or ALTER EXTENSION ledger UPDATE.")));
	return relid;
}

Oid
ledger_store_oid(StoreSpec *spec)
{
	if (OidIsValid(spec->relid))
		return spec->relid;
	return spec->cache ? spec->cache->relid : ledger_relation_oid(spec->table);
}

void
ledger_store_forget(StoreSpec *spec)
{
	if (spec->cache)
		drop_cache(spec);
}

static void
map_columns(StoreSpec *spec, StoreCache *cache)
{
	int			live = 0;

	Assert(spec->ncolumns <= STORE_MAX_COLUMNS);
	for (int i = 0; i < spec->ncolumns; i++)
	{
		cache->attnum[i] = get_attnum(cache->relid, spec->columns[i]);
		if (cache->attnum[i] == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("table %s has no column %s", get_rel_name(cache->relid),
							spec->columns[i]),
					 errhint("Give the column its name back.")));
	}
	for (int i = 0; i < cache->desc->natts; i++)
		live += !TupleDescAttr(cache->desc, i)->attisdropped;
	cache->has_foreign_columns = live > spec->ncolumns;
}

static void
describe_indexes(StoreCache *cache, Relation relation)
{
	List	   *oids = RelationGetIndexList(relation);
	ListCell   *lc;

	if (list_length(oids) > STORE_MAX_INDEXES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("table \"%s\" has more than %d indexes",
						RelationGetRelationName(relation), STORE_MAX_INDEXES)));
	foreach(lc, oids)
	{
		StoreIndex *index = &cache->indexes[cache->nindexes++];
		Relation	rel = index_open(lfirst_oid(lc), AccessShareLock);

		index->oid = RelationGetRelid(rel);
		index->name = rel->rd_rel->relname;
		index->info = BuildIndexInfo(rel);
		index->predicate = index->info->ii_Predicate == NIL ? NULL :
			ExecPrepareQual(index->info->ii_Predicate, cache->estate);
		index_close(rel, AccessShareLock);
	}
	list_free(oids);
}

static void
know_spec(StoreSpec *spec)
{
	for (int i = 0; i < ncached_specs; i++)
	{
		if (cached_specs[i] == spec)
			return;
	}
	if (ncached_specs == lengthof(cached_specs))
		elog(ERROR, "too many tables are described to the store");
	cached_specs[ncached_specs++] = spec;
}

/*
 * What is invalidated while we read the catalogs is noticed, because the cache
 * is in place: it then serves this call, under the table's lock, but no other.
 * The call is its first user.
 */
static StoreCache *
build_cache(StoreSpec *spec, Relation relation)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ledger store",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	StoreCache *cache = palloc0(sizeof(StoreCache));

	cache->context = context;
	cache->users = 1;
	cache->relid = RelationGetRelid(relation);
	know_spec(spec);
	spec->cache = cache;
	PG_TRY();
	{
		cache->desc = CreateTupleDescCopyConstr(RelationGetDescr(relation));
		cache->estate = CreateExecutorState();
		(void) GetPerTupleExprContext(cache->estate);
		map_columns(spec, cache);
		describe_indexes(cache, relation);
	}
	PG_CATCH();
	{
		spec->cache = NULL;
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	if (spec->cache == cache)
		MemoryContextSetParent(context, CacheMemoryContext);
	return cache;
}

/* ---- open and close ---------------------------------------------------- */

/*
 * Opens the table under lockmode, held to the end of the transaction.
 */
Store *
ledger_store_open(StoreSpec *spec, LOCKMODE lockmode)
{
	Store	   *store = palloc0(sizeof(Store));

	store->spec = spec;
	store->lockmode = lockmode;
	/*
	 * The lock processes invalidations, after which the cache is right; if the
	 * extension was dropped while we waited, the table is looked up anew.
	 */
	while ((store->relation = try_table_open(ledger_store_oid(spec), lockmode)) == NULL)
		CHECK_FOR_INTERRUPTS();
	if (spec->cache)
	{
		store->cache = spec->cache;
		store->cache->users++;
	}
	else
		store->cache = build_cache(spec, store->relation);
	store->read_slot = MakeSingleTupleTableSlot(store->cache->desc, &TTSOpsBufferHeapTuple);
	return store;
}

void
ledger_store_close(Store *store)
{
	ExecDropSingleTupleTableSlot(store->read_slot);
	if (store->write_slot)
		ExecDropSingleTupleTableSlot(store->write_slot);
	for (int i = 0; i < store->cache->nindexes; i++)
	{
		if (store->indexes[i])
			index_close(store->indexes[i], NoLock);
	}
	table_close(store->relation, NoLock);
	if (--store->cache->users == 0 && store->cache->dropped)
		MemoryContextDelete(store->cache->context);
	pfree(store);
}

static Relation
open_index(Store *store, int n)
{
	if (store->indexes[n] == NULL)
		store->indexes[n] = index_open(store->cache->indexes[n].oid, store->lockmode);
	return store->indexes[n];
}

static Relation
open_index_by_name(Store *store, const char *name)
{
	for (int i = 0; i < store->cache->nindexes; i++)
	{
		if (strcmp(NameStr(store->cache->indexes[i].name), name) == 0)
			return open_index(store, i);
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("index %s of table %s does not exist", name,
					RelationGetRelationName(store->relation)),
			 errhint("Create it again as the extension's install script does.")));
	return NULL;				/* keep compilers quiet */
}

/* ---- rows as arrays of values ------------------------------------------- */

static void
read_slot(Store *store, TupleTableSlot *slot, Datum *values, bool *isnull, ItemPointer tid)
{
	StoreCache *cache = store->cache;

	slot_getallattrs(slot);
	for (int i = 0; i < store->spec->ncolumns; i++)
	{
		int			att = cache->attnum[i] - 1;

		values[i] = slot->tts_values[att];
		isnull[i] = slot->tts_isnull[att];
	}
	if (tid)
		*tid = slot->tts_tid;
}

/* A column that somebody added has no value in a new row. */
static void
check_foreign_columns(Store *store, TupleTableSlot *slot)
{
	TupleDesc	desc = store->cache->desc;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (attribute->attnotnull && !attribute->attisdropped && slot->tts_isnull[i])
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("column %s of table %s cannot be NOT NULL", NameStr(attribute->attname),
							RelationGetRelationName(store->relation)),
					 errdetail("The ledger knows no value for a column that was added."),
					 errhint("Drop the column, or its NOT NULL.")));
	}
}

/*
 * The row as a tuple in the slot. Columns that C does not know are NULL
 * in a new row and keep their value in an updated one.
 */
void
ledger_store_fill_slot(Store *store, TupleTableSlot *slot, Datum *values, bool *isnull,
					   ItemPointer old)
{
	StoreCache *cache = store->cache;

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, cache->desc->natts * sizeof(bool));
	if (old && cache->has_foreign_columns)
	{
		if (!table_tuple_fetch_row_version(store->relation, old, SnapshotAny, store->read_slot))
			elog(ERROR, "row of %s is gone", RelationGetRelationName(store->relation));
		slot_getallattrs(store->read_slot);
		for (int i = 0; i < cache->desc->natts; i++)
		{
			slot->tts_values[i] = store->read_slot->tts_values[i];
			slot->tts_isnull[i] = store->read_slot->tts_isnull[i];
		}
	}
	for (int i = 0; i < store->spec->ncolumns; i++)
	{
		slot->tts_values[cache->attnum[i] - 1] = values[i];
		slot->tts_isnull[cache->attnum[i] - 1] = isnull[i];
	}
	if (old == NULL && cache->has_foreign_columns)
		check_foreign_columns(store, slot);
	ExecStoreVirtualTuple(slot);
	ExecMaterializeSlot(slot);
	slot->tts_tableOid = cache->relid;
}

static TupleTableSlot *
form_row(Store *store, Datum *values, bool *isnull, ItemPointer old)
{
	if (store->write_slot == NULL)
		store->write_slot = MakeSingleTupleTableSlot(store->cache->desc, &TTSOpsHeapTuple);
	ledger_store_fill_slot(store, store->write_slot, values, isnull, old);
	return store->write_slot;
}

/* ---- scans --------------------------------------------------------------- */

static StoreScan *
begin_scan(Store *store, Relation index, Snapshot snapshot, const StoreKey *keys, int nkeys)
{
	StoreScan  *scan = palloc0(sizeof(StoreScan));

	scan->store = store;
	scan->context = CurrentMemoryContext;
	if (index == NULL)
	{
		scan->table = table_beginscan(store->relation, snapshot, 0, NULL);
		return scan;
	}
	Assert(nkeys <= STORE_MAX_KEYS);
	scan->index = ledger_index_beginscan(store->relation, index, snapshot, nkeys);
	ledger_store_rescan(scan, keys, nkeys);
	return scan;
}

/*
 * Scans the named index for equality with the keys on its first columns; the
 * strategy of a key may say otherwise. Without an index: the whole table.
 */
StoreScan *
ledger_store_scan(Store *store, const char *index, Snapshot snapshot,
				  const StoreKey *keys, int nkeys)
{
	return begin_scan(store, index ? open_index_by_name(store, index) : NULL, snapshot, keys, nkeys);
}

StoreScan *
ledger_store_scan_by(Store *store, Oid index, Snapshot snapshot, const StoreKey *keys, int nkeys)
{
	int			n = 0;

	while (n < store->cache->nindexes && store->cache->indexes[n].oid != index)
		n++;
	if (n == store->cache->nindexes)
		elog(ERROR, "index %u of table %s is gone", index, RelationGetRelationName(store->relation));
	return begin_scan(store, open_index(store, n), snapshot, keys, nkeys);
}

void
ledger_store_rescan(StoreScan *scan, const StoreKey *keys, int nkeys)
{
	for (int i = 0; i < nkeys; i++)
		ScanKeyEntryInitialize(&scan->keys[i],
							   keys[i].isnull ? SK_ISNULL | SK_SEARCHNULL : 0,
							   i + 1,
							   keys[i].isnull ? InvalidStrategy :
							   keys[i].strategy ? keys[i].strategy : BTEqualStrategyNumber,
							   InvalidOid,
							   keys[i].isnull ? InvalidOid :
							   scan->index->indexRelation->rd_indcollation[i],
							   keys[i].isnull ? InvalidOid : keys[i].function,
							   keys[i].value);
	index_rescan(scan->index, scan->keys, nkeys, NULL, 0);
}

/*
 * The next row. Its by-reference values are good until the store reads again
 * or is closed.
 */
bool
ledger_store_next(StoreScan *scan, ScanDirection direction,
				  Datum *values, bool *isnull, ItemPointer tid)
{
	TupleTableSlot *slot = scan->store->read_slot;
	MemoryContext old = MemoryContextSwitchTo(scan->context);
	bool		found = scan->index ? index_getnext_slot(scan->index, direction, slot) :
		table_scan_getnextslot(scan->table, direction, slot);

	MemoryContextSwitchTo(old);
	if (!found)
		return false;
	read_slot(scan->store, slot, values, isnull, tid);
	return true;
}

void
ledger_store_end(StoreScan *scan)
{
	if (scan->index)
		index_endscan(scan->index);
	else
		table_endscan(scan->table);
	pfree(scan);
}

bool
ledger_store_fetch(Store *store, ItemPointer tid, Snapshot snapshot,
				   Datum *values, bool *isnull)
{
	/* a hint may be older than a rewrite or a vacuum that made the table shorter */
	if (ItemPointerGetBlockNumber(tid) >= RelationGetNumberOfBlocks(store->relation) ||
		!table_tuple_fetch_row_version(store->relation, tid, snapshot, store->read_slot))
		return false;
	read_slot(store, store->read_slot, values, isnull, NULL);
	return true;
}

/* ---- writes --------------------------------------------------------------- */

Relation
ledger_store_index_for_insert(Store *store, int n)
{
	IndexInfo  *info = store->cache->indexes[n].info;

	/* what a GIN or BRIN index keeps there points into its relation, which we close */
	info->ii_AmCache = NULL;
	info->ii_Context = CurrentMemoryContext;
	return open_index(store, n);
}

/*
 * Index entries of the row in slot. An update (its answer; NULL: an insert)
 * changes no key and needs no uniqueness check: it holds the row's lock, and the
 * check's walk over own dead versions is quadratic.
 */
static void
insert_index_entries(Store *store, TupleTableSlot *slot, const LedgerUpdateIndexes *update)
{
	StoreCache *cache = store->cache;
	EState	   *estate = cache->estate;
	ExprContext *econtext = GetPerTupleExprContext(estate);
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];

	econtext->ecxt_scantuple = slot;
	for (int i = 0; i < cache->nindexes; i++)
	{
		StoreIndex *index = &cache->indexes[i];
		IndexUniqueCheck check;
		Relation	rel;

		if (!index->info->ii_ReadyForInserts ||
			(update && LEDGER_LEAVES_OUT(*update, index->info)))
			continue;
		if (index->predicate && !ExecQual(index->predicate, econtext))
			continue;
		rel = ledger_store_index_for_insert(store, i);
		check = index->info->ii_Unique && update == NULL ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO;
		FormIndexDatum(index->info, slot, estate, values, isnull);
		index_insert(rel, values, isnull, &slot->tts_tid, store->relation,
					 check, update != NULL, index->info);
		ledger_index_insert_cleanup(rel, index->info);
	}
	ResetExprContext(econtext);
}

/* Raises what a unique index of the table raises. */
void
ledger_store_insert(Store *store, Datum *values, bool *isnull)
{
	TupleTableSlot *slot = form_row(store, values, isnull, NULL);

	table_tuple_insert(store->relation, slot, GetCurrentCommandId(true), 0, NULL);
	insert_index_entries(store, slot, NULL);
}

/* ---- rows that may be there ------------------------------------------------ */

/*
 * Speculative insertion, as INSERT ... ON CONFLICT DO NOTHING does it: false
 * if a committed row has the arbiter's key. Waits for one in progress. Raises
 * 40001 if the transaction's snapshot does not see the row in the way.
 */
bool
ledger_store_insert_new(Store *store, const char *arbiter, Datum *values, bool *isnull)
{
	TupleTableSlot *slot = form_row(store, values, isnull, NULL);
	List	   *arbiters = list_make1_oid(RelationGetRelid(open_index_by_name(store, arbiter)));
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *rri = makeNode(ResultRelInfo);
	bool		conflict;
	bool		inserted = true;

	InitResultRelInfo(rri, store->relation, 0, NULL, 0);
	ExecOpenIndices(rri, true);
	do
	{
		ItemPointerData tid;
		uint32		token;

		CHECK_FOR_INTERRUPTS();
		conflict = false;
		ItemPointerSetInvalid(&tid);
		if (!ledger_exec_check_index_constraints(rri, slot, estate, &tid, arbiters))
		{
			inserted = false;
			break;
		}
		token = SpeculativeInsertionLockAcquire(GetCurrentTransactionId());
		table_tuple_insert_speculative(store->relation, slot, GetCurrentCommandId(true),
									   0, NULL, token);
		list_free(ledger_exec_insert_index_tuples(rri, slot, estate, &conflict, arbiters));
		table_tuple_complete_speculative(store->relation, slot, token, !conflict);
		SpeculativeInsertionLockRelease(GetCurrentTransactionId());
	} while (conflict);
	ExecCloseIndices(rri);
	FreeExecutorState(estate);
	/* whoever could not find the row never will under his snapshot */
	if (!inserted && IsolationUsesXactSnapshot())
		ledger_store_serialization_failure();
	return inserted;
}

/* ---- updates and locks ----------------------------------------------------- */

/* Somebody else was first: 40001 under a transaction snapshot. */
static void
check_result(Store *store, TM_Result result)
{
	if (result == TM_Ok)
		return;
	if (result != TM_Updated && result != TM_Deleted)
		elog(ERROR, "unexpected result %d of a write to %s",
			 result, RelationGetRelationName(store->relation));
	if (IsolationUsesXactSnapshot())
		ledger_store_serialization_failure();
}

/*
 * Updates the version at *tid, waiting for whoever holds it. TM_Ok: *tid is
 * the new version. TM_Updated, TM_Deleted: somebody else was first, nothing is
 * written; under a transaction snapshot that is 40001 (the heap ignores the
 * snapshot argument, so it is checked here). No key may change.
 */
TM_Result
ledger_store_update(Store *store, ItemPointer tid, Snapshot snapshot,
					Datum *values, bool *isnull)
{
	TupleTableSlot *slot = form_row(store, values, isnull, tid);
	TM_FailureData failure;
	LockTupleMode lockmode;
	LedgerUpdateIndexes update_indexes;
	TM_Result	result;

	result = table_tuple_update(store->relation, tid, slot, GetCurrentCommandId(true),
								snapshot, InvalidSnapshot, true, &failure,
								&lockmode, &update_indexes);
	check_result(store, result);
	if (result == TM_Ok)
	{
		if (LEDGER_UPDATES_INDEXES(update_indexes))
			insert_index_entries(store, slot, &update_indexes);
		*tid = slot->tts_tid;
	}
	return result;
}

/*
 * Locks a row FOR NO KEY UPDATE, waiting for whoever holds it, and reads it.
 * With follow the newest version is taken, *tid is where it is.
 */
TM_Result
ledger_store_lock(Store *store, ItemPointer tid, Snapshot snapshot, bool follow,
				  Datum *values, bool *isnull)
{
	TM_FailureData failure;
	TM_Result	result;
	uint8		flags = 0;

	if (follow && !IsolationUsesXactSnapshot())
		flags = TUPLE_LOCK_FLAG_FIND_LAST_VERSION;
	result = table_tuple_lock(store->relation, tid, snapshot, store->read_slot,
							  GetCurrentCommandId(false), LockTupleNoKeyExclusive,
							  LockWaitBlock, flags, &failure);
	check_result(store, result);
	if (result == TM_Ok)
		read_slot(store, store->read_slot, values, isnull, tid);
	return result;
}

/*
 * The same, newest version and all, but without waiting: TM_WouldBlock says
 * that somebody holds it.
 */
TM_Result
ledger_store_try_lock(Store *store, ItemPointer tid, Snapshot snapshot,
					  Datum *values, bool *isnull)
{
	TM_FailureData failure;
	uint8		flags = IsolationUsesXactSnapshot() ? 0 : TUPLE_LOCK_FLAG_FIND_LAST_VERSION;
	TM_Result	result;

	result = table_tuple_lock(store->relation, tid, snapshot, store->read_slot,
							  GetCurrentCommandId(false), LockTupleNoKeyExclusive,
							  LockWaitSkip, flags, &failure);
	if (result != TM_WouldBlock)
		check_result(store, result);
	if (result == TM_Ok)
		read_slot(store, store->read_slot, values, isnull, tid);
	return result;
}

TM_Result
ledger_store_delete(Store *store, ItemPointer tid)
{
	TM_FailureData failure;
	TM_Result	result;

	result = table_tuple_delete(store->relation, tid, GetCurrentCommandId(true),
								InvalidSnapshot, InvalidSnapshot, true, &failure, false);
	check_result(store, result);
	return result;
}

bool
ledger_store_sees(Store *store, Snapshot snapshot)
{
	return table_tuple_satisfies_snapshot(store->relation, store->read_slot, snapshot);
}

/*
 * An index scan prunes the pages that it comes to; who fetches rows by their
 * place must do it himself.
 */
void
ledger_store_prune(Store *store, ItemPointer tid)
{
	Buffer		buffer;

	if (ItemPointerGetBlockNumber(tid) >= RelationGetNumberOfBlocks(store->relation))
		return;
	/* a slot's pin on the page would keep it from being cleaned */
	ExecClearTuple(store->read_slot);
	buffer = ReadBuffer(store->relation, ItemPointerGetBlockNumber(tid));
	heap_page_prune_opt(store->relation, buffer);
	ReleaseBuffer(buffer);
}

void
ledger_store_extend(Store *store)
{
	Buffer		buffer = ledger_extend_relation(store->relation);
	BlockNumber block = BufferGetBlockNumber(buffer);

	PageInit(BufferGetPage(buffer), BufferGetPageSize(buffer), 0);
	MarkBufferDirty(buffer);
	UnlockReleaseBuffer(buffer);
	RelationSetTargetBlock(store->relation, block);
}

/*
 * What fillfactor would do, but for one thing: PostgreSQL takes a page that is
 * fuller than it for one to be pruned. A page that inserts have filled just so
 * far would be pruned at every visit after an update. Returns how many bytes are
 * free on the page that comes next.
 */
Size
ledger_store_leave_room(Store *store, int percent)
{
	BlockNumber block = RelationGetTargetBlock(store->relation);
	BlockNumber nblocks = RelationGetNumberOfBlocks(store->relation);
	Buffer		buffer;
	Size		room;

	if (block == InvalidBlockNumber || block >= nblocks)
		block = nblocks - 1;
	if (nblocks > 0)
	{
		buffer = ReadBuffer(store->relation, block);
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		room = PageGetHeapFreeSpace(BufferGetPage(buffer));
		UnlockReleaseBuffer(buffer);
		RelationSetTargetBlock(store->relation, block);
		if (room >= (Size) BLCKSZ * percent / 100)
			return room;
	}
	ledger_store_extend(store);
	return BLCKSZ - SizeOfPageHeaderData;
}

bool
ledger_store_lock_tuple(Store *store, ItemPointer tid, bool wait)
{
	if (!wait)
		return ledger_conditional_lock_tuple(store->relation, tid, ExclusiveLock);
	LockTuple(store->relation, tid, ExclusiveLock);
	return true;
}

void
ledger_store_unlock_tuple(Store *store, ItemPointer tid)
{
	UnlockTuple(store->relation, tid, ExclusiveLock);
}

void
ledger_store_serialization_failure(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update"),
			 errhint("The transaction might succeed if retried.")));
}
