/*
 * identity.h
 *		Whether this database is the one that the ledger was first used in.
 */
#ifndef LEDGER_IDENTITY_H
#define LEDGER_IDENTITY_H

#include "utils/snapshot.h"

#include "compat.h"

typedef enum LedgerIdentity
{
	IDENTITY_NONE,				/* not stored yet: the ledger is unused */
	IDENTITY_OURS,
	IDENTITY_NEW,				/* stored by this transaction just now */
	IDENTITY_COPY				/* it names another database or cluster */
} LedgerIdentity;

extern LedgerIdentity ledger_identity_read(Snapshot snapshot);

/*
 * Looks anew, and stores the identity if there is none, unless somebody else
 * is just doing that: then it is IDENTITY_NONE for another while.
 */
extern LedgerIdentity ledger_identity_settle(void);

/* Raises 55000. */
pg_noreturn extern void ledger_identity_refuse(void);

#endif							/* LEDGER_IDENTITY_H */
