/*
 * legacy_sql.h
 *		SQL on a legacy table, for the files that run it.
 */
#ifndef LEDGER_LEGACY_SQL_H
#define LEDGER_LEGACY_SQL_H

#include "executor/spi.h"
#include "legacy.h"
#include "owner.h"

typedef enum LegacyPlan
{
	PLAN_LOCK,					/* locks the rows of a user */
	PLAN_FETCH,					/* the mapped columns of a user */
	PLAN_ADD,					/* adds to the columns of the mask */
	PLAN_SET,					/* sets the columns of the mask */
	PLAN_INSERT,				/* a row with full values, unless there is one; mask: its group */
	PLAN_SCAN,					/* the rows of a range of users, by user */
	PLAN_LOCK_RANGE,			/* the same, locked, without those that somebody holds */
	PLAN_KEYS,					/* the first users of a range, with how many rows they have */
	PLAN_LAST_KEY,				/* the last user */
	PLAN_JSON,					/* a user's rows as JSON */
	PLAN_NO_KEY,				/* rows that are nobody's */
	PLAN_NO_GROUP				/* rows of none of the conditions, by what they have in its columns */
} LegacyPlan;

/* For the owner's code: the schema of the table. */
extern char *ledger_legacy_search_path(const LegacyTable *table);
extern char *ledger_legacy_sql(const LegacyTable *table, LegacyPlan kind, uint32 mask);

/* ---- legacy_row.c ------------------------------------------------------------------- */

/*
 * The table as it is, under a lock that keeps it so: its owner may have
 * renamed or altered it between our look and our lock.
 */
extern LegacyTable *ledger_row_lock_table(LegacyTable *table, LOCKMODE lockmode);

/* Whoever runs a plan is connected to SPI and in the owner's role. */
extern void ledger_row_become_owner(const LegacyTable *table, LegacyPlan kind, OwnerContext *saved);
extern SPIPlanPtr ledger_row_plan(const LegacyTable *table, LegacyPlan kind, uint32 mask);

/* Takes the columns of one row of a result, their values copied into the context. */
extern void ledger_row_read(const LegacyTable *table, HeapTuple tuple, TupleDesc desc,
							LegacyRow *row, MemoryContext context);

#endif							/* LEDGER_LEGACY_SQL_H */
