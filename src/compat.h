/*
 * compat.h
 *		The only place that asks which PostgreSQL this is.
 */
#ifndef LEDGER_COMPAT_H
#define LEDGER_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "ledger needs PostgreSQL 15 or newer"
#endif

#include "access/tableam.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/regproc.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#if PG_VERSION_NUM < 180000
#define pg_noreturn __attribute__((noreturn))
#endif

/*
 * table_tuple_update() says which indexes want entries: a bool before 16, since
 * then perhaps only those that summarize, which do not keep an update from being
 * HOT.
 */
#if PG_VERSION_NUM >= 160000
typedef TU_UpdateIndexes LedgerUpdateIndexes;
#define LEDGER_UPDATES_INDEXES(u)	((u) != TU_None)
#define LEDGER_LEAVES_OUT(u, info)	((u) == TU_Summarizing && !(info)->ii_Summarizing)
#else
typedef bool LedgerUpdateIndexes;
#define LEDGER_UPDATES_INDEXES(u)	(u)
#define LEDGER_LEAVES_OUT(u, info)	false
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

/* A generated column that is not stored, since 18, may be NOT NULL all the same. */
#if PG_VERSION_NUM >= 180000
#define LEDGER_HAS_GENERATED(constraints) \
	((constraints)->has_generated_stored || (constraints)->has_generated_virtual)
#else
#define LEDGER_HAS_GENERATED(constraints)	((constraints)->has_generated_stored)
#endif

/* What an index has opened for its inserts is closed, since 17 by who inserted. */
#if PG_VERSION_NUM >= 170000
#define ledger_index_insert_cleanup(index, info) index_insert_cleanup(index, info)
#else
#define ledger_index_insert_cleanup(index, info) ((void) 0)
#endif

/* A new page at the end of the relation, locked exclusively and not initialised. */
#if PG_VERSION_NUM >= 160000
#define ledger_extend_relation(relation) \
	ExtendBufferedRel(BMR_REL(relation), MAIN_FORKNUM, NULL, EB_LOCK_FIRST)
#else
static inline Buffer
ledger_extend_relation(Relation relation)
{
	Buffer		buffer;

	LockRelationForExtension(relation, ExclusiveLock);
	buffer = ReadBufferExtended(relation, MAIN_FORKNUM, P_NEW, RBM_ZERO_AND_LOCK, NULL);
	UnlockRelationForExtension(relation, ExclusiveLock);
	return buffer;
}
#endif

#if PG_VERSION_NUM >= 180000
#define ledger_conditional_lock_tuple(relation, tid, mode) \
	ConditionalLockTuple(relation, tid, mode, false)
#else
#define ledger_conditional_lock_tuple(relation, tid, mode) \
	ConditionalLockTuple(relation, tid, mode)
#endif

#if PG_VERSION_NUM >= 160000
#define ledger_schema_aclcheck(schema, role, mode) \
	object_aclcheck(NamespaceRelationId, schema, role, mode)
#else
#define ledger_schema_aclcheck(schema, role, mode) pg_namespace_aclcheck(schema, role, mode)
#endif

#if PG_VERSION_NUM >= 160000
#define ledger_qualified_name_list(name) stringToQualifiedNameList(name, NULL)
#else
#define ledger_qualified_name_list(name) stringToQualifiedNameList(name)
#endif

/* A small number of this backend's, dense over all backends. */
#if PG_VERSION_NUM >= 170000
#define LEDGER_BACKEND_NUMBER	(MyProcNumber)
#else
#define LEDGER_BACKEND_NUMBER	(MyBackendId - 1)
#endif

/* The commit log knows nothing of what is older; XactTruncationLock keeps it so. */
#if PG_VERSION_NUM >= 170000
#define LEDGER_OLDEST_CLOG_XID	(TransamVariables->oldestClogXid)
#else
#define LEDGER_OLDEST_CLOG_XID	(ShmemVariableCache->oldestClogXid)
#endif

#endif							/* LEDGER_COMPAT_H */
