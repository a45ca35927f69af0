/*
 * mirror.h
 *		The posting hook: legacy rows locked before accounts, net changes
 *		added to them after the journal. And the writes that are not ours.
 */
#ifndef LEDGER_MIRROR_H
#define LEDGER_MIRROR_H

#include "legacy.h"

extern void ledger_mirror_init(void);
extern void ledger_capture_init(void);

/*
 * The change that the mirror is about to make to one row. While it stands,
 * the capture trigger adds up what really happens to that row; whoever set it
 * looks at the rest.
 */
typedef struct MirrorExpectation
{
	LegacyTable *table;
	pg_uuid_t	user_id;
	int			events;			/* row events seen */
	Numeric		actual[LEDGER_MAX_LEGACY_COLUMNS];	/* NULL: nothing yet */
	struct MirrorExpectation *outer;
} MirrorExpectation;

extern MirrorExpectation *ledger_mirror_expectation;

/* Whether this transaction has captured outside writes. */
extern bool ledger_capture_seen(void);

/* A write that is not the mirror's: recorded or refused. */
extern void ledger_capture_write(LegacyTable *table, const pg_uuid_t *user_id,
								 const char *operation, Datum before, bool before_null,
								 Datum after, bool after_null, Numeric *deltas);

#endif							/* LEDGER_MIRROR_H */
