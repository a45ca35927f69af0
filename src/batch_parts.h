/*
 * batch_parts.h
 *		What the files of a batch share: batch.c and batch_look.c.
 */
#ifndef LEDGER_BATCH_PARTS_H
#define LEDGER_BATCH_PARTS_H

#include "batch.h"
#include "utils/hsearch.h"

typedef enum ItemState
{
	ITEM_LIVE,					/* nothing is known against it */
	ITEM_DOOMED,				/* it is refused, or the key of one before it is, first */
	ITEM_POSTED,
	ITEM_REPLAYED,
	ITEM_REFUSED
} ItemState;

typedef struct BatchItem
{
	Transfer	transfer;
	int			debit;			/* index into the request's accounts */
	int			credit;
	pg_uuid_t	key;
	int			previous;		/* the last before it with the same key; -1: none */
	int			replays;		/* the item that it is a replay of; -1: none */
	int64		found;			/* transaction that has its key; 0: none */
	ItemState	state;
	LedgerRefusal refusal;		/* if it is refused */
	LedgerRefusal doom;			/* if it is doomed */
	Numeric		amount;			/* normalised, once the accounts are known */
	Numeric		debit_after;
	Numeric		credit_after;
	int64		transaction_id;
} BatchItem;

struct Batch
{
	PostingRequest *request;
	TupleDesc	desc;
	AttrNumber	columns[LEDGER_TRANSFER_COLUMNS];
	bool		stop;
	int64		before;
	HeapTupleHeader *rows;
	int			nrows;
	int			max_rows;

	/* while it is posted */
	MemoryContext context;
	MemoryContext scratch;		/* of one item's evaluation */
	BatchItem  *items;
	int			nitems;			/* those that count: with stop none after a refused one */
	int		   *keyed;			/* items with a key, in the order of the keys */
	int			nkeyed;
	HTAB	   *names;			/* of accounts; NULL once they are found */
	bool		mixed;			/* some are named by id and some by type */
	Snapshot	replay_snapshot;	/* sees every key that was found; NULL: S does */
	PostingRequest view;		/* one item as a request of its own */
	PostingLine view_line;
};

/* The account of that index. */
static inline PostingAccount *
account_of(const Batch *batch, int n)
{
	return &batch->request->accounts[n];
}

/* Keeps why, in the batch's context whatever the current one. */
extern void ledger_batch_refuse(Batch *batch, BatchItem *item, const LedgerRefusal *refusal);

/* The item as a request of its own, for the checks that single calls make. */
extern PostingRequest *ledger_batch_view(Batch *batch, const BatchItem *item);

/* Reads the rows and names the accounts. */
extern void ledger_batch_read(Batch *batch);

/*
 * Takes a new S, finds accounts and keys, and decides what can be decided
 * without balances.
 */
extern void ledger_batch_look(Batch *batch);

/* Leaves out the accounts that no live item names. */
extern void ledger_batch_drop_accounts(Batch *batch);

/* The keys alone again, when all rows are locked. */
extern void ledger_batch_look_for_keys(Batch *batch);

#endif							/* LEDGER_BATCH_PARTS_H */
