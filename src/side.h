/*
 * side.h
 *		One side of a reconciliation, user by user.
 */
#ifndef LEDGER_SIDE_H
#define LEDGER_SIDE_H

#include "fixed.h"
#include "legacy.h"

/* Which users: from the one to the other, both included, or a sample of them. */
typedef struct SideRange
{
	pg_uuid_t	from;
	pg_uuid_t	to;
	double		fraction;		/* of the users; 1: all */
	int64		seed;			/* the same one takes the same users */
	Size		memory;			/* bytes that one side may use */
} SideRange;

/*
 * A user who has something on this side. values are in the order of the
 * columns of the table, of the accounts' side of all tables after each other;
 * what is NULL is zero. exact is false if a value does not fit.
 */
typedef struct SideUser
{
	pg_uuid_t	user_id;
	bool		found;
	bool		exact;
	int			summed;
	Fixed		values[FLEXIBLE_ARRAY_MEMBER];
} SideUser;

typedef struct Side Side;

/*
 * In the order of the users, under the snapshot, which is the active one. A
 * legacy side may read through a cursor: the caller is connected to SPI from
 * its begin to its end.
 */
extern Side *ledger_side_of_accounts(List *tables, const SideRange *range, Snapshot snapshot);
extern Side *ledger_side_of_legacy(LegacyTable *table, const SideRange *range, Snapshot snapshot);

/* The user it is at, good until the next call; NULL: there are no more. */
extern const SideUser *ledger_side_user(const Side *side);
extern void ledger_side_next(Side *side);
extern void ledger_side_end(Side *side);

#endif							/* LEDGER_SIDE_H */
