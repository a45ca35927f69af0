/*
 * legacy_plain.h
 *		The fast path to a legacy table that runs nobody's code.
 */
#ifndef LEDGER_LEGACY_PLAIN_H
#define LEDGER_LEGACY_PLAIN_H

#include "legacy.h"

extern void ledger_plain_init(void);

/*
 * Each does what its namesake in legacy.h does, through the table access
 * method; false: it has done nothing and SQL must, because the table is not
 * plain, or because of what the row holds.
 */
extern bool ledger_plain_lock_row(LegacyTable *table, const pg_uuid_t *user_id, bool *found);
extern bool ledger_plain_fetch(LegacyTable *table, const pg_uuid_t *user_id, LegacyRow *row);
extern bool ledger_plain_add(LegacyTable *table, const pg_uuid_t *user_id,
							 const Numeric *deltas, LegacyRow *row);

#endif							/* LEDGER_LEGACY_PLAIN_H */
