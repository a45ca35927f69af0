/*
 * store_parts.h
 *		What the files of the store share: store.c and store_bulk.c.
 */
#ifndef LEDGER_STORE_PARTS_H
#define LEDGER_STORE_PARTS_H

#include "nodes/execnodes.h"
#include "store.h"

typedef struct StoreIndex
{
	Oid			oid;
	NameData	name;
	IndexInfo  *info;
	ExprState  *predicate;		/* NULL: every row is in the index */
} StoreIndex;

struct StoreCache
{
	MemoryContext context;
	int			users;			/* open Stores; those that an error has left count for ever */
	bool		dropped;		/* it is its spec's no more */
	Oid			relid;
	TupleDesc	desc;			/* a copy, not reference-counted */
	AttrNumber	attnum[STORE_MAX_COLUMNS];	/* of the spec's columns */
	bool		has_foreign_columns;	/* somebody added a column */
	EState	   *estate;			/* for predicates and index expressions */
	int			nindexes;
	StoreIndex	indexes[STORE_MAX_INDEXES];
};

struct Store
{
	StoreSpec  *spec;
	StoreCache *cache;
	LOCKMODE	lockmode;
	Relation	relation;
	Relation	indexes[STORE_MAX_INDEXES]; /* NULL until needed */
	TupleTableSlot *read_slot;	/* buffer slot */
	TupleTableSlot *write_slot; /* heap slot */
};

/* Makes the row a tuple in the slot; old is the version that it replaces, or NULL. */
extern void ledger_store_fill_slot(Store *store, TupleTableSlot *slot, Datum *values, bool *isnull,
								   ItemPointer old);
extern Relation ledger_store_index_for_insert(Store *store, int n);

#endif							/* LEDGER_STORE_PARTS_H */
