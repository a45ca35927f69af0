/*
 * backfill.h
 *		What the files of the backfill share: backfill.c and backfill_open.c.
 */
#ifndef LEDGER_BACKFILL_H
#define LEDGER_BACKFILL_H

#include "legacy.h"

/* A row from which nobody can be opened. */
typedef struct BackfillFinding
{
	bool		has_user;
	pg_uuid_t	user_id;
	const char *key;			/* as text; of a row without one its ctid */
	const char *reason;			/* one word */
	const char *detail;			/* a sentence */
	const char *row;			/* as JSON; NULL: not read yet */
} BackfillFinding;

typedef struct BackfillResult
{
	int			opened;
	int			already;		/* were opened before */
	List	   *findings;		/* of BackfillFinding * */
} BackfillResult;

/*
 * The house's accounts of the table's openings, found or opened, into the
 * request, which has begun. To be called before any row is locked.
 */
extern void ledger_backfill_house(PostingRequest *request, const LegacyTable *table);

/*
 * Opens the users of the chunk's locked rows who are not opened from the table
 * yet. The request carries the stores, the snapshot and the house's accounts.
 */
extern void ledger_backfill_open(PostingRequest *request, LegacyTable *table,
								 const LegacyChunk *chunk, BackfillResult *result);

#endif							/* LEDGER_BACKFILL_H */
