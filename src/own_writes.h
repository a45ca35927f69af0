/*
 * own_writes.h
 *		What this transaction has written to legacy tables past the ledger.
 */
#ifndef LEDGER_OWN_WRITES_H
#define LEDGER_OWN_WRITES_H

#include "legacy.h"

typedef enum OwnWritesKind
{
	OWN_WRITES_ALL,
	OWN_WRITES_PENDING,			/* to be posted when their statement ends */
	OWN_WRITES_POSTED
} OwnWritesKind;

/* Of one user and table, oldest first. */
typedef struct OwnWrites
{
	int			n;
	int64	   *ids;			/* of legacy_writes */
	int64	   *transaction_ids;	/* of their postings; 0: none */
	bool	   *moved;			/* the row went to or came from another user, */
	pg_uuid_t  *other_user;		/* who is this */
	bool		torn;			/* some such user's half is not pending */
	char	   *operations;		/* each once: DELETE, INSERT */
	Numeric		deltas[LEDGER_MAX_LEGACY_COLUMNS];	/* net change; NULL: none */
} OwnWrites;

extern void ledger_own_writes_init(void);

/* The id of a write that is about to be stored. */
extern int64 ledger_own_writes_next_id(void);

/* Whether there may be any; some may have been rolled back since. */
extern bool ledger_own_writes_any(void);

/* What it finds is palloc'd in the current context. */
extern void ledger_own_writes_read(const LegacyTable *table, const pg_uuid_t *user_id,
								   OwnWritesKind kind, OwnWrites *writes);

/* What has become of writes. transaction_id 0: nothing was posted; note may be NULL. */
extern void ledger_own_writes_mark(const int64 *ids, int n, const char *kind,
								   int64 transaction_id, const char *note);

/* What posted them is reversed: all writes of it, others' too, are not posted any more. */
extern void ledger_own_writes_unpost(const OwnWrites *posted, const char *note);

#endif							/* LEDGER_OWN_WRITES_H */
