/*
 * store.h
 *		The ledger's own tables through the table access method.
 *
 * The file that owns a table describes it once in a StoreSpec and numbers its
 * columns in that order; rows come and go as arrays of values in that order.
 * A Store is a table open for the length of one call, under a lock that is
 * held to the end of the transaction.
 */
#ifndef LEDGER_STORE_H
#define LEDGER_STORE_H

#include "access/stratnum.h"
#include "access/tableam.h"
#include "utils/snapshot.h"

#include "compat.h"

#define STORE_MAX_COLUMNS	32
#define STORE_MAX_KEYS		4
#define STORE_MAX_INDEXES	64	/* REINDEX CONCURRENTLY doubles them */

typedef struct StoreCache StoreCache;
typedef struct StoreScan StoreScan;

typedef struct StoreSpec
{
	const char *table;			/* name in schema ledger */
	const char *const *columns; /* the columns that C knows, in C's order */
	int			ncolumns;
	StoreCache *cache;			/* of this backend; store.c's own */
	Oid			relid;			/* instead of the name: somebody else's table */
} StoreSpec;

typedef struct Store Store;

/* One key of an index scan; a null value is searched for as NULL. */
typedef struct StoreKey
{
	Oid			function;		/* F_INT8EQ and the like */
	Datum		value;
	bool		isnull;
	StrategyNumber strategy;	/* 0: equality */
} StoreKey;

extern void ledger_store_init(void);
extern Oid	ledger_schema_oid(void);
extern Oid	ledger_relation_oid(const char *name);
extern Oid	ledger_store_oid(StoreSpec *spec);

extern Store *ledger_store_open(StoreSpec *spec, LOCKMODE lockmode);
extern void ledger_store_close(Store *store);

/* What is cached of the table; for a spec that is about to change. */
extern void ledger_store_forget(StoreSpec *spec);

/* index NULL: every row, keys ignored. */
extern StoreScan *ledger_store_scan(Store *store, const char *index, Snapshot snapshot,
									const StoreKey *keys, int nkeys);
/* By an index that its table's owner may rename whenever he likes. */
extern StoreScan *ledger_store_scan_by(Store *store, Oid index, Snapshot snapshot,
									   const StoreKey *keys, int nkeys);
/* The same scan with other keys, as many as it had. */
extern void ledger_store_rescan(StoreScan *scan, const StoreKey *keys, int nkeys);
extern bool ledger_store_next(StoreScan *scan, ScanDirection direction,
							  Datum *values, bool *isnull, ItemPointer tid);
extern void ledger_store_end(StoreScan *scan);

/* Whether the version at tid is the one that the snapshot sees; reads it. */
extern bool ledger_store_fetch(Store *store, ItemPointer tid, Snapshot snapshot,
							   Datum *values, bool *isnull);

extern void ledger_store_insert(Store *store, Datum *values, bool *isnull);

/*
 * Many rows: ledger_store_bulk_add() takes each, and they are in the table and
 * its indexes, and visible to the next command, after ledger_store_bulk_end().
 * Values are copied. If a unique index is violated, ledger_store_bulk_failed()
 * says by which of the rows, counted from 0.
 */
typedef struct StoreBulk StoreBulk;

extern StoreBulk *ledger_store_bulk_begin(Store *store);
/* Of each page so many percent are left free, see ledger_store_leave_room(). */
extern void ledger_store_bulk_leave_room(StoreBulk *bulk, int percent);
extern void ledger_store_bulk_add(StoreBulk *bulk, Datum *values, bool *isnull);
extern void ledger_store_bulk_end(StoreBulk *bulk);
extern int	ledger_store_bulk_failed(const StoreBulk *bulk);

/* Inserts unless the named unique index holds the row's key already: false. */
extern bool ledger_store_insert_new(Store *store, const char *arbiter,
									Datum *values, bool *isnull);

/* The update is the lock: waits, sets *tid to the new version on TM_Ok. */
extern TM_Result ledger_store_update(Store *store, ItemPointer tid, Snapshot snapshot,
									 Datum *values, bool *isnull);

/* Locks the newest version (follow) or this one; reads it, sets *tid. */
extern TM_Result ledger_store_lock(Store *store, ItemPointer tid, Snapshot snapshot,
								   bool follow, Datum *values, bool *isnull);

/* The newest version, unless somebody holds it: TM_WouldBlock. */
extern TM_Result ledger_store_try_lock(Store *store, ItemPointer tid, Snapshot snapshot,
									   Datum *values, bool *isnull);

extern TM_Result ledger_store_delete(Store *store, ItemPointer tid);

/*
 * Of the row that was fetched last, or is scanned: whether the snapshot sees it.
 */
extern bool ledger_store_sees(Store *store, Snapshot snapshot);

/* For pages that are only fetched from: clears the page of dead versions. */
extern void ledger_store_prune(Store *store, ItemPointer tid);

/* The next insert goes to a new page; to one of which so many percent are free. */
extern void ledger_store_extend(Store *store);
extern Size ledger_store_leave_room(Store *store, int percent);

/* A heavyweight lock on what tid stands for in the table; false: not without waiting. */
extern bool ledger_store_lock_tuple(Store *store, ItemPointer tid, bool wait);
extern void ledger_store_unlock_tuple(Store *store, ItemPointer tid);

pg_noreturn extern void ledger_store_serialization_failure(void);

#endif							/* LEDGER_STORE_H */
