/*
 * place.c
 *		Where this transaction left the newest version of a row.
 *
 * A row that one transaction updates again and again leaves a chain of dead
 * versions that no snapshot of it may skip: 100,000 postings to one account
 * would walk it 100,000 times. So the place of the newest version is kept per
 * row. It is a hint: the reader fetches it under its snapshot and looks
 * whether it is the row it wants, else asks the index.
 *
 * A subtransaction that is rolled back takes its version with it, and the walk
 * would be as long as before; so a row has a stack of places, one for
 * each subtransaction that changed it. A place that turns out to be gone is
 * dropped and the one below tried. That needs no callback: subtransactions
 * are numbered as they start, so when one sets a place, all that have its own
 * number or a higher one were inside it and are replaced.
 *
 * Memory: a hash in the transaction's context, made at the second call; most
 * transactions make one. A stack has at most one place for each subtransaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "place.h"

typedef struct PlaceVersion
{
	SubTransactionId subxact;	/* that put it there */
	ItemPointerData tid;
} PlaceVersion;

typedef struct Place
{
	PlaceKey	key;
	int			n;
	int			max;
	PlaceVersion *versions;		/* the newest last */
} Place;

static HTAB *places = NULL;
static int	calls = 0;			/* of this transaction */

static void
xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE ||
		event == XACT_EVENT_PARALLEL_PRE_COMMIT)
		return;
	/* the hash goes with the transaction's memory */
	places = NULL;
	calls = 0;
}

void
ledger_place_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}

void
ledger_place_count_call(void)
{
	HASHCTL		info = {0};

	if (++calls < 2 || places != NULL)
		return;
	info.keysize = sizeof(PlaceKey);
	info.entrysize = sizeof(Place);
	info.hcxt = TopTransactionContext;
	places = hash_create("ledger places", 64, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

bool
ledger_place_kept(void)
{
	return places != NULL;
}

static Place *
find(const PlaceKey *key)
{
	return places ? hash_search(places, key, HASH_FIND, NULL) : NULL;
}

bool
ledger_place_get(const PlaceKey *key, ItemPointer tid)
{
	Place	   *place = find(key);

	if (place == NULL || place->n == 0)
		return false;
	*tid = place->versions[place->n - 1].tid;
	return true;
}

/* The newest place is not the row's any more. */
void
ledger_place_drop(const PlaceKey *key)
{
	Place	   *place = find(key);

	if (place && place->n > 0)
		place->n--;
}

static void
push(Place *place, const ItemPointerData *tid)
{
	SubTransactionId subxact = GetCurrentSubTransactionId();

	while (place->n > 0 && place->versions[place->n - 1].subxact >= subxact)
		place->n--;
	if (place->n == place->max)
	{
		int			max = place->max ? place->max * 2 : 1;

		/* an error here leaves the stack as it is, and a caller may go on after it */
		place->versions = place->versions == NULL ?
			MemoryContextAlloc(TopTransactionContext, sizeof(PlaceVersion) * max) :
			repalloc(place->versions, sizeof(PlaceVersion) * max);
		place->max = max;
	}
	place->versions[place->n].subxact = subxact;
	place->versions[place->n++].tid = *tid;
}

void
ledger_place_set(const PlaceKey *key, const ItemPointerData *tid)
{
	Place	   *place;
	bool		found;

	if (places == NULL)
		return;
	place = hash_search(places, key, HASH_ENTER, &found);
	if (!found)
	{
		place->n = place->max = 0;
		place->versions = NULL;
	}
	push(place, tid);
}
