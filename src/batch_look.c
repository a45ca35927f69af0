/*
 * batch_look.c
 *		What a batch looks at before it locks: its rows, accounts and keys.
 *
 * An item that is refused whatever the balances are, or has been posted
 * before, takes no further part. Each account is in the request once, though
 * items may name it by its id and by its type.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "batch_parts.h"
#include "stripe.h"

/* ---- items ----------------------------------------------------------------------- */

static const char *
keep(const char *string)
{
	return string ? pstrdup(string) : NULL;
}

/* Detail and hint are only for who raises it. */
void
ledger_batch_refuse(Batch *batch, BatchItem *item, const LedgerRefusal *refusal)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	item->state = ITEM_REFUSED;
	item->refusal.sqlstate = refusal->sqlstate;
	item->refusal.message = keep(refusal->message);
	if (batch->stop)
	{
		item->refusal.detail = keep(refusal->detail);
		item->refusal.hint = keep(refusal->hint);
	}
	MemoryContextSwitchTo(old);
}

PostingRequest *
ledger_batch_view(Batch *batch, const BatchItem *item)
{
	PostingRequest *view = &batch->view;

	*view = *batch->request;
	ledger_transfer_header(&item->transfer, view);
	if (batch->replay_snapshot)
		view->snapshot = batch->replay_snapshot;
	batch->view_line.debit = item->debit;
	batch->view_line.credit = item->credit;
	batch->view_line.amount = item->transfer.amount;
	view->lines = &batch->view_line;
	view->nlines = 1;
	return view;
}

/* ---- reading ---------------------------------------------------------------------- */

typedef struct AccountName
{
	TransferAccount name;		/* the hash key */
	int			index;
} AccountName;

static void
make_names(Batch *batch)
{
	HASHCTL		info = {0};

	info.keysize = sizeof(TransferAccount);
	info.entrysize = sizeof(AccountName);
	info.hcxt = batch->context;
	batch->names = hash_create("ledger batch accounts", batch->nrows + 16, &info,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* The account's index in the request, each name once. */
static int
name_account(Batch *batch, const TransferAccount *name)
{
	bool		found;
	AccountName *entry = hash_search(batch->names, name, HASH_ENTER, &found);
	bool		first_by_id = batch->request->naccounts > 0 && batch->request->accounts[0].by_id;

	if (found)
		return entry->index;
	entry->index = name->by_id ? ledger_posting_account_id(batch->request, name->id) :
		ledger_posting_append_account(batch->request, name->type,
									  name->has_user ? &name->user_id : NULL, name->currency);
	batch->mixed |= entry->index > 0 && first_by_id != name->by_id;
	return entry->index;
}

static int
compare_keyed(const void *a, const void *b, void *arg)
{
	const BatchItem *items = arg;
	int			x = *(const int *) a;
	int			y = *(const int *) b;
	int			c = memcmp(&items[x].key, &items[y].key, UUID_LEN);

	return c ? c : x - y;
}

/* Sorts the items that have a key, and chains those of one key. */
static void
sort_keys(Batch *batch)
{
	batch->keyed = palloc(sizeof(int) * Max(batch->nitems, 1));
	for (int i = 0; i < batch->nitems; i++)
	{
		BatchItem  *item = &batch->items[i];

		if (item->state != ITEM_LIVE || item->transfer.key_text == NULL)
			continue;
		ledger_journal_key(item->transfer.key_text, &item->key);
		batch->keyed[batch->nkeyed++] = i;
	}
	qsort_arg(batch->keyed, batch->nkeyed, sizeof(int), compare_keyed, batch->items);
	for (int i = 1; i < batch->nkeyed; i++)
	{
		BatchItem  *item = &batch->items[batch->keyed[i]];
		BatchItem  *last = &batch->items[batch->keyed[i - 1]];

		if (memcmp(&item->key, &last->key, UUID_LEN) == 0)
			item->previous = batch->keyed[i - 1];
	}
}

void
ledger_batch_read(Batch *batch)
{
	batch->nitems = batch->nrows;
	batch->items = MemoryContextAllocExtended(batch->context, sizeof(BatchItem) * Max(batch->nrows, 1),
											  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	make_names(batch);
	for (int i = 0; i < batch->nitems; i++)
	{
		BatchItem  *item = &batch->items[i];
		LedgerRefusal *refusal = ledger_transfer_read(&item->transfer, batch->rows[i], batch->desc,
													  batch->columns);

		item->previous = item->replays = -1;
		if (refusal)
		{
			ledger_batch_refuse(batch, item, refusal);
			if (batch->stop)
				batch->nitems = i + 1;
			continue;
		}
		item->debit = name_account(batch, &item->transfer.debit);
		item->credit = name_account(batch, &item->transfer.credit);
	}
	hash_destroy(batch->names);
	batch->names = NULL;
	sort_keys(batch);
}

/* ---- keys --------------------------------------------------------------------------- */

/*
 * Asks which keys of live items are there, waiting for who inserts one. What
 * was committed since S needs a newer snapshot to be compared with, if there
 * may be one; S itself stays, because the accounts are found with it.
 */
static void
probe_keys(Batch *batch)
{
	PostingRequest *request = batch->request;
	const pg_uuid_t **keys = palloc(sizeof(pg_uuid_t *) * Max(batch->nkeyed, 1));
	int64	   *ids = palloc(sizeof(int64) * Max(batch->nkeyed, 1));
	int		   *items = palloc(sizeof(int) * Max(batch->nkeyed, 1));
	int			n = 0;
	bool		unseen = false;

	for (int i = 0; i < batch->nkeyed; i++)
	{
		if (batch->items[batch->keyed[i]].state != ITEM_LIVE || batch->keyed[i] >= batch->nitems)
			continue;
		items[n] = batch->keyed[i];
		keys[n++] = &batch->items[batch->keyed[i]].key;
	}
	ledger_journal_probe_keys(request->journal, keys, n, ids);
	for (int i = 0; i < n; i++)
	{
		batch->items[items[i]].found = ids[i];
		unseen |= ids[i] != 0 &&
			ledger_journal_find_key(request->journal, keys[i], request->snapshot) == 0;
	}
	if (batch->replay_snapshot)
		UnregisterSnapshot(batch->replay_snapshot);
	batch->replay_snapshot = NULL;
	if (unseen)
	{
		if (IsolationUsesXactSnapshot())
			ledger_store_serialization_failure();
		batch->replay_snapshot = RegisterSnapshot(GetTransactionSnapshot());
	}
	pfree(keys);
	pfree(ids);
	pfree(items);
}

/* ---- accounts ------------------------------------------------------------------------- */

static int
compare_ids(const void *a, const void *b)
{
	const LedgerAccount *x = &(*(PostingAccount *const *) a)->account;
	const LedgerAccount *y = &(*(PostingAccount *const *) b)->account;

	return x->id < y->id ? -1 : x->id > y->id;
}

/* An account that is not there is as it would be if it were opened. */
static void
set_missing(PostingAccount *pa)
{
	if (pa->by_id)
		return;
	pa->account.status = LEDGER_ACCOUNT_OPEN;
	pa->account.debits = pa->account.credits = ledger_amount_zero();
}

/* Reads those whose id is known by it, or the others by type, user and currency. */
static void
find_some(Batch *batch, bool known)
{
	PostingRequest *request = batch->request;
	PostingAccount **some = palloc(sizeof(PostingAccount *) * request->naccounts);
	LedgerAccount **list = palloc(sizeof(LedgerAccount *) * request->naccounts);
	bool	   *found = palloc(sizeof(bool) * request->naccounts);
	int			n = 0;

	for (int i = 0; i < request->naccounts; i++)
	{
		PostingAccount *pa = account_of(batch, i);

		if ((pa->by_id || pa->account.id != 0) == known)
			some[n++] = pa;
	}
	qsort(some, n, sizeof(PostingAccount *), known ? compare_ids : ledger_posting_compare);
	for (int i = 0; i < n; i++)
		list[i] = &some[i]->account;
	ledger_accounts_find(request->store, list, n, known, request->snapshot, found);
	for (int i = 0; i < n; i++)
	{
		if (!found[i])
			set_missing(some[i]);
		/* nobody locks its row, which an old snapshot need not see as it is */
		else if (list[i]->stripes > 0)
			ledger_stripe_remember(request->store, list[i]);
	}
	pfree(some);
	pfree(list);
	pfree(found);
}

/* Gives items that name one account in two ways the same of the two. */
static void
unify_accounts(Batch *batch)
{
	PostingRequest *request = batch->request;
	PostingAccount **sorted = palloc(sizeof(PostingAccount *) * request->naccounts);
	int		   *same = palloc(sizeof(int) * request->naccounts);
	int			n = 0;

	for (int i = 0; i < request->naccounts; i++)
	{
		same[i] = i;
		if (account_of(batch, i)->account.type && account_of(batch, i)->account.id != 0)
			sorted[n++] = account_of(batch, i);
	}
	qsort(sorted, n, sizeof(PostingAccount *), compare_ids);
	for (int i = 1; i < n; i++)
	{
		PostingAccount *pa = sorted[i];

		if (pa->account.id != sorted[i - 1]->account.id)
			continue;
		same[pa - request->accounts] = same[sorted[i - 1] - request->accounts];
		/* nobody names it any more: as one that is not there */
		sorted[i] = sorted[i - 1];
		pa->by_id = true;
		pa->account.id = 0;
	}
	for (int i = 0; i < batch->nitems; i++)
	{
		BatchItem  *item = &batch->items[i];

		if (item->state == ITEM_LIVE)
		{
			item->debit = same[item->debit];
			item->credit = same[item->credit];
		}
	}
	pfree(sorted);
	pfree(same);
}

static void
find_accounts(Batch *batch)
{
	find_some(batch, true);
	find_some(batch, false);
	if (batch->mixed)
		unify_accounts(batch);
}

void
ledger_batch_drop_accounts(Batch *batch)
{
	PostingRequest *request = batch->request;
	int		   *place = palloc(sizeof(int) * Max(request->naccounts, 1));
	int			n = 0;

	memset(place, 0, sizeof(int) * request->naccounts);
	for (int i = 0; i < batch->nitems; i++)
	{
		if (batch->items[i].state == ITEM_LIVE)
			place[batch->items[i].debit] = place[batch->items[i].credit] = 1;
	}
	for (int i = 0; i < request->naccounts; i++)
	{
		if (!place[i])
			continue;
		request->accounts[n] = request->accounts[i];
		place[i] = n++;
	}
	request->naccounts = n;
	for (int i = 0; i < batch->nitems; i++)
	{
		BatchItem  *item = &batch->items[i];

		if (item->state == ITEM_LIVE)
		{
			item->debit = place[item->debit];
			item->credit = place[item->credit];
		}
	}
	pfree(place);
}

/* ---- what does not depend on balances ---------------------------------------------------- */

static LedgerRefusal *
refuse_account(Batch *batch, const PostingRequest *view, int n)
{
	const PostingAccount *pa = account_of(batch, n);

	return pa->account.type == NULL ? ledger_posting_refuse_unknown(pa->account.id) :
		ledger_posting_refuse_account(view, &pa->account);
}

/* Both accounts, as a single call looks at them: the lower id first. */
static LedgerRefusal *
refuse_accounts(Batch *batch, const PostingRequest *view, const BatchItem *item)
{
	bool		debit_first = account_of(batch, item->debit)->account.id <=
		account_of(batch, item->credit)->account.id;
	LedgerRefusal *refusal = refuse_account(batch, view, debit_first ? item->debit : item->credit);

	if (refusal == NULL)
		refusal = refuse_account(batch, view, debit_first ? item->credit : item->debit);
	return refusal ? refusal : ledger_posting_refuse_line(view, 0);
}

static void
classify_item(Batch *batch, BatchItem *item)
{
	PostingRequest *view = ledger_batch_view(batch, item);
	LedgerRefusal *refusal;

	if (item->found)
	{
		refusal = ledger_posting_refuse_replay(view, item->found);
		if (refusal == NULL)
		{
			item->state = ITEM_REPLAYED;
			item->transaction_id = item->found;
		}
	}
	else
		refusal = refuse_accounts(batch, view, item);
	if (refusal == NULL)
		return;
	ledger_batch_refuse(batch, item, refusal);
	/* a single call would first see that one before it has its key */
	if (item->found == 0 && item->previous >= 0)
	{
		item->doom = item->refusal;
		item->state = ITEM_DOOMED;
	}
}

/* Decides about live items what can be decided without balances. */
static void
classify(Batch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->scratch);

	for (int i = 0; i < batch->nitems; i++)
	{
		BatchItem  *item = &batch->items[i];

		if (item->state != ITEM_LIVE)
			continue;
		classify_item(batch, item);
		if (item->state != ITEM_LIVE && item->state != ITEM_REPLAYED && batch->stop)
			batch->nitems = i + 1;
		if (item->state == ITEM_LIVE)
		{
			int			digits = account_of(batch, item->debit)->account.currency->display_digits;

			MemoryContextSwitchTo(batch->context);
			item->amount = ledger_amount_normalise(item->transfer.amount, digits);
			MemoryContextSwitchTo(batch->scratch);
		}
		MemoryContextReset(batch->scratch);
	}
	MemoryContextSwitchTo(old);
}

/* ---- the look ---------------------------------------------------------------------------- */

void
ledger_batch_look(Batch *batch)
{
	ledger_posting_take_snapshot(batch->request);
	find_accounts(batch);
	probe_keys(batch);
	classify(batch);
}

void
ledger_batch_look_for_keys(Batch *batch)
{
	probe_keys(batch);
	classify(batch);
}
