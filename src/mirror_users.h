/*
 * mirror_users.h
 *		The users of a call and their legacy rows, from their locks to the mirror.
 */
#ifndef LEDGER_MIRROR_USERS_H
#define LEDGER_MIRROR_USERS_H

#include "legacy.h"

/* A user of the call, with what the call does to his accounts. */
typedef struct MirrorUser
{
	pg_uuid_t	user_id;
	int			first;			/* of his accounts in MirrorState.accounts */
	int			naccounts;
} MirrorUser;

/* His row in one legacy table. */
typedef struct MirrorRow
{
	bool		exists;
	bool		written;		/* the mirror has done its part, with its lock */
	Numeric		deltas[LEDGER_MAX_LEGACY_COLUMNS];	/* of a row that is written */
	LegacyRow	row;			/* after that */
} MirrorRow;

typedef enum MirrorPhase
{
	MIRROR_LOCK, MIRROR_OPEN, MIRROR_TOUCH, MIRROR_READY
} MirrorPhase;

typedef struct MirrorState
{
	List	   *tables;			/* NIL: nothing is mirrored or opened */
	bool		mirrors;		/* postings change the rows */
	MirrorPhase phase;
	MirrorUser *users;			/* by user */
	int			nusers;
	int		   *accounts;		/* indexes of the request's users' accounts, by user */
	MirrorRow  *rows;			/* [table][user] */
	bool		written;		/* one of them, with its lock */
} MirrorState;

/* The hook's first half, see PostingHook. */
extern bool ledger_mirror_lock(PostingRequest *request);
extern void ledger_mirror_lock_user(const pg_uuid_t *user_id);

/* The net change of each mapped column by the call (NULL: none); false: none at all. */
extern bool ledger_mirror_deltas(const PostingRequest *request, const MirrorUser *user,
								 const LegacyTable *table, Numeric *deltas);

#endif							/* LEDGER_MIRROR_USERS_H */
