/*
 * place.h
 *		Where this transaction left the newest version of a row.
 */
#ifndef LEDGER_PLACE_H
#define LEDGER_PLACE_H

#include "storage/itemptr.h"
#include "utils/uuid.h"

/* Which row: what its kind tells apart, zeros in the rest. No padding: it is hashed. */
typedef struct PlaceKey
{
	uint64		kind;
	int64		id;
	uint64		part;
	pg_uuid_t	user_id;
} PlaceKey;

enum
{
	LEDGER_PLACE_ACCOUNT_ID = 1,	/* id */
	LEDGER_PLACE_ACCOUNT,			/* user, part: hash of type and currency */
	LEDGER_PLACE_STRIPE,			/* id of the account, part: the stripe */
	LEDGER_PLACE_LEGACY				/* user, id: the table */
};

extern void ledger_place_init(void);

/*
 * A hint: to be checked by fetching the row and looking which one it is; if it
 * is another, drop the place and ask again.
 */
extern bool ledger_place_get(const PlaceKey *key, ItemPointer tid);
extern void ledger_place_drop(const PlaceKey *key);
extern void ledger_place_set(const PlaceKey *key, const ItemPointerData *tid);

/* Whether there are any: a transaction's first call makes none. */
extern bool ledger_place_kept(void);

/* To be called once for each call that posts. */
extern void ledger_place_count_call(void);

#endif							/* LEDGER_PLACE_H */
