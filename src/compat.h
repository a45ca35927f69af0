/*
 * compat.h
 *		The only place that asks which PostgreSQL this is.
 */
#ifndef LEDGER_COMPAT_H
#define LEDGER_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "ledger needs PostgreSQL 15 or newer"
#endif

/* table_tuple_update() says which indexes want entries: a bool before 16. */
#if PG_VERSION_NUM >= 160000
typedef TU_UpdateIndexes LedgerUpdateIndexes;
#define LEDGER_UPDATES_INDEXES(u)	((u) != TU_None)
#else
typedef bool LedgerUpdateIndexes;
#define LEDGER_UPDATES_INDEXES(u)	(u)
#endif

/* ExecInsertIndexTuples() can leave all but summarizing indexes out since 16. */
#if PG_VERSION_NUM >= 160000
#define ledger_exec_insert_index_tuples(rri, slot, estate, conflict, arbiters) \
	ExecInsertIndexTuples(rri, slot, estate, false, true, conflict, arbiters, false)
#else
#define ledger_exec_insert_index_tuples(rri, slot, estate, conflict, arbiters) \
	ExecInsertIndexTuples(rri, slot, estate, false, true, conflict, arbiters)
#endif

/* ExecCheckIndexConstraints() got the tuple's own place in 18. */
#if PG_VERSION_NUM >= 180000
#define ledger_exec_check_index_constraints(rri, slot, estate, conflict, arbiters) \
	ExecCheckIndexConstraints(rri, slot, estate, conflict, NULL, arbiters)
#define ledger_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#else
#define ledger_exec_check_index_constraints(rri, slot, estate, conflict, arbiters) \
	ExecCheckIndexConstraints(rri, slot, estate, conflict, arbiters)
#define ledger_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#endif

#endif							/* LEDGER_COMPAT_H */
