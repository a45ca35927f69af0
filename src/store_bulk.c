/*
 * store_bulk.c
 *		Many rows into one of the ledger's own tables at once.
 *
 * Rows are collected in slots, which are used again, and go into the table a
 * thousand at a time; then into one index after the other, in the order of its
 * first column.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/uuid.h"

#include "store_parts.h"

#define BULK_ROWS	1000

/* One index entry to be made; key sorts as the index's first column does. */
typedef struct BulkEntry
{
	uint64		key;
	int			row;
} BulkEntry;

struct StoreBulk
{
	Store	   *store;
	MemoryContext owner;		/* of the slots */
	MemoryContext context;		/* of one slice */
	int			nslots;			/* made so far */
	int			nrows;			/* in the slots */
	int			room;			/* percent of a page to be left free; 0: fillfactor */
	int			ndone;			/* before them */
	int			current;		/* row whose index entry is being made */
	TupleTableSlot *slots[BULK_ROWS];
	BulkEntry	entries[BULK_ROWS];
};

StoreBulk *
ledger_store_bulk_begin(Store *store)
{
	StoreBulk  *bulk = palloc0(sizeof(StoreBulk));

	bulk->store = store;
	bulk->owner = CurrentMemoryContext;
	bulk->context = AllocSetContextCreate(CurrentMemoryContext, "ledger bulk insert",
										  ALLOCSET_DEFAULT_SIZES);
	return bulk;
}

void
ledger_store_bulk_leave_room(StoreBulk *bulk, int percent)
{
	bulk->room = percent;
}

static int
compare_entries(const void *a, const void *b)
{
	const BulkEntry *x = a;
	const BulkEntry *y = b;

	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return x->row - y->row;
}

/* A number that sorts as the value; types that we have no such number for stay as they come. */
static uint64
sort_key(Oid type, Datum value, bool isnull)
{
	uint64		key;

	if (isnull)
		return PG_UINT64_MAX;
	switch (type)
	{
		case INT8OID:
			return (uint64) DatumGetInt64(value) ^ (UINT64CONST(1) << 63);
		case UUIDOID:
			memcpy(&key, DatumGetUUIDP(value)->data, sizeof(key));
			return pg_ntoh64(key);
		default:
			return 0;
	}
}

/* The rows that belong in the index, in its order; returns how many. */
static int
sort_entries(StoreBulk *bulk, StoreIndex *index, Relation rel, EState *estate)
{
	ExprContext *econtext = GetPerTupleExprContext(estate);
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];
	int			n = 0;

	for (int i = 0; i < bulk->nrows; i++)
	{
		econtext->ecxt_scantuple = bulk->slots[i];
		if (index->predicate && !ExecQual(index->predicate, econtext))
			continue;
		FormIndexDatum(index->info, bulk->slots[i], estate, values, isnull);
		bulk->entries[n].key = sort_key(rel->rd_opcintype[0], values[0], isnull[0]);
		bulk->entries[n++].row = i;
		ResetExprContext(econtext);
	}
	qsort(bulk->entries, n, sizeof(BulkEntry), compare_entries);
	return n;
}

/* Index by index, so that each stays in the processor's cache. */
static void
insert_bulk_entries(StoreBulk *bulk)
{
	Store	   *store = bulk->store;
	EState	   *estate = store->cache->estate;
	ExprContext *econtext = GetPerTupleExprContext(estate);
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];

	for (int i = 0; i < store->cache->nindexes; i++)
	{
		StoreIndex *index = &store->cache->indexes[i];
		Relation	rel;
		int			n;

		if (!index->info->ii_ReadyForInserts)
			continue;
		rel = ledger_store_index_for_insert(store, i);
		n = sort_entries(bulk, index, rel, estate);
		for (int j = 0; j < n; j++)
		{
			TupleTableSlot *slot = bulk->slots[bulk->entries[j].row];

			bulk->current = bulk->entries[j].row;
			econtext->ecxt_scantuple = slot;
			FormIndexDatum(index->info, slot, estate, values, isnull);
			index_insert(rel, values, isnull, &slot->tts_tid, store->relation,
						 index->info->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
						 false, index->info);
			ResetExprContext(econtext);
		}
		ledger_index_insert_cleanup(rel, index->info);
	}
}

/* How many of the rows from the given one on fit the page that is inserted to. */
static int
rows_that_fit(StoreBulk *bulk, int from)
{
	Size		used = 0;
	Size		room = ledger_store_leave_room(bulk->store, bulk->room) -
		(Size) BLCKSZ * bulk->room / 100;
	int			n = 0;

	do
	{
		used += sizeof(ItemIdData) +
			MAXALIGN(((HeapTupleTableSlot *) bulk->slots[from + n])->tuple->t_len);
		n++;
	} while (from + n < bulk->nrows && used < room);
	return n;
}

static void
insert_rows(StoreBulk *bulk)
{
	int			n;

	for (int i = 0; i < bulk->nrows; i += n)
	{
		n = bulk->room > 0 ? rows_that_fit(bulk, i) : bulk->nrows;
		table_multi_insert(bulk->store->relation, bulk->slots + i, n,
						   GetCurrentCommandId(true), 0, NULL);
	}
}

static void
flush_bulk(StoreBulk *bulk)
{
	MemoryContext old = MemoryContextSwitchTo(bulk->context);

	CHECK_FOR_INTERRUPTS();
	if (bulk->nrows > 0)
	{
		insert_rows(bulk);
		insert_bulk_entries(bulk);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(bulk->context);
	bulk->ndone += bulk->nrows;
	bulk->nrows = 0;
}

void
ledger_store_bulk_add(StoreBulk *bulk, Datum *values, bool *isnull)
{
	if (bulk->nrows == BULK_ROWS)
		flush_bulk(bulk);
	if (bulk->nslots == bulk->nrows)
	{
		MemoryContext old = MemoryContextSwitchTo(bulk->owner);

		bulk->slots[bulk->nslots++] = MakeSingleTupleTableSlot(bulk->store->cache->desc,
															   &TTSOpsHeapTuple);
		MemoryContextSwitchTo(old);
	}
	ledger_store_fill_slot(bulk->store, bulk->slots[bulk->nrows++], values, isnull, NULL);
}

void
ledger_store_bulk_end(StoreBulk *bulk)
{
	flush_bulk(bulk);
	for (int i = 0; i < bulk->nslots; i++)
		ExecDropSingleTupleTableSlot(bulk->slots[i]);
	MemoryContextDelete(bulk->context);
	pfree(bulk);
}

int
ledger_store_bulk_failed(const StoreBulk *bulk)
{
	return bulk->ndone + bulk->current;
}
