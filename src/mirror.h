/*
 * mirror.h
 *		The posting hook, and the capture of writes that are not the mirror's.
 */
#ifndef LEDGER_MIRROR_H
#define LEDGER_MIRROR_H

#include "legacy.h"

extern void ledger_mirror_init(void);
extern void ledger_capture_init(void);

/* What has happened to a row. */
typedef struct MirrorSeen
{
	int			events;			/* row events */
	Numeric		actual[LEDGER_MAX_LEGACY_COLUMNS];	/* NULL: nothing yet */
	int			level;			/* nesting level of the last */
	struct MirrorSeen *outer;	/* before the first of that level; NULL: the write's own */
} MirrorSeen;

/*
 * The row that the mirror is writing. While it stands, the capture trigger
 * adds up what really happens to that row instead of capturing it; the mirror
 * looks at what is left over. What a trigger of the application's takes back
 * with a block of its own has not happened.
 */
typedef struct MirrorExpectation
{
	const LegacyTable *table;
	pg_uuid_t	user_id;
	MemoryContext context;		/* of what the trigger leaves here */
	MirrorSeen	seen;
} MirrorExpectation;

extern MirrorExpectation *ledger_mirror_expectation;

/* The trigger has met a row event of the expectation's; a delta is NULL where nothing changed. */
extern void ledger_mirror_saw(MirrorExpectation *expected, const Numeric *deltas);

/*
 * Gives the user's rows these values (NULL: as it is), or inserts with them
 * those of groups that are not in has, as a write of the mirror. The rows are
 * locked. *row has the rows that were written.
 */
extern void ledger_mirror_set(LegacyTable *table, const pg_uuid_t *user_id, uint32 has,
							  const Numeric *values, LegacyRow *row);

/* Whether the row can hold these values, as far as can be told before; raises 22003. */
extern void ledger_mirror_check(const LegacyTable *table, const Numeric *values);

/* Records what a trigger did to a row beside the mirror's own change. */
extern void ledger_capture_side_effect(const LegacyTable *table, const pg_uuid_t *user_id,
									   const Numeric *deltas);

/*
 * What this transaction has written to the user's row past the ledger: the
 * net change of each column, or NULL. false: nothing.
 */
extern bool ledger_capture_own_writes(const LegacyTable *table, const pg_uuid_t *user_id,
									  Numeric *deltas);

/* Marks those writes as double writes: the transaction posts for the user too. */
extern void ledger_capture_mark_double(const LegacyTable *table, const pg_uuid_t *user_id);

#endif							/* LEDGER_MIRROR_H */
