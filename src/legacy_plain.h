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
extern bool ledger_plain_lock_row(LegacyTable *table, const pg_uuid_t *user_id,
								  Snapshot snapshot, bool *found, bool *moved);
extern bool ledger_plain_lock_chunk(LegacyTable *table, const pg_uuid_t *after,
									const pg_uuid_t *until, int max, LegacyChunk *chunk);
extern bool ledger_plain_fetch(LegacyTable *table, const pg_uuid_t *user_id, LegacyRow *row);
extern bool ledger_plain_add(LegacyTable *table, const pg_uuid_t *user_id,
							 const Numeric *deltas, LegacyRow *row);

/*
 * Adds to the row as the snapshot sees it, before anything of the call is
 * locked: the update is the lock. false: it has changed since, or as above;
 * nothing is done, but whoever held it was waited for.
 */
extern bool ledger_plain_add_first(LegacyTable *table, const pg_uuid_t *user_id,
								   const Numeric *deltas, Snapshot snapshot, LegacyRow *row);

#endif							/* LEDGER_LEGACY_PLAIN_H */
