/*
 * batch.c
 *		The engine's many-at-once form: thousands of transfers as one call.
 *
 * The result is what single calls in the order of the items would give, each
 * in a subtransaction of its own: but accounts are found, locked and updated
 * once each, and rows and index entries go in together. The whole is carried
 * by one PostingRequest, whose lines are the items that are posted. The steps
 * are those of posting.c, with these differences:
 *
 * 3. All keys are probed, in their order. What has been posted already is a
 *	  replay or refused, and takes no further part; so is what is refused
 *	  whatever the balances are.
 * 5. Accounts that are missing are opened only if an item that could be posted
 *	  under S needs them, so that a refused item leaves nothing behind.
 * 6. All rows are locked first, each in its newest version; nothing goes back
 *	  to 3, or a batch would never get through beside a busy account. If some
 *	  row had moved since S, all keys are probed again: a request with the
 *	  same key has moved its accounts, which are ours too.
 * 7. The items are evaluated in their order, in memory, each on the balances
 *	  that those before it leave. No check raises, so there is no
 *	  subtransaction. Then each account that moves is updated once.
 *
 * Memory: all of a batch in the context it was made in, about a kilobyte an
 * item; what the evaluation of an item leaves is freed after it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "batch_parts.h"
#include "errors.h"
#include "stats.h"

/* ---- making it ------------------------------------------------------------------ */

Batch *
ledger_batch_new(const char *operation, TupleDesc desc, const AttrNumber *columns,
				 bool stop, int64 before)
{
	Batch	   *batch = palloc0(sizeof(Batch));

	batch->context = CurrentMemoryContext;
	batch->request = ledger_posting_new(operation, "batch");
	batch->request->is_batch = true;
	batch->request->raw_amounts = true;
	batch->desc = desc;
	memcpy(batch->columns, columns, sizeof(batch->columns));
	batch->stop = stop;
	batch->before = before;
	batch->max_rows = 64;
	batch->rows = palloc(sizeof(HeapTupleHeader) * batch->max_rows);
	return batch;
}

void
ledger_batch_add(Batch *batch, HeapTupleHeader row)
{
	if (batch->nrows == batch->max_rows)
	{
		batch->max_rows *= 2;
		batch->rows = repalloc(batch->rows, sizeof(HeapTupleHeader) * batch->max_rows);
	}
	batch->rows[batch->nrows++] = row;
}

int
ledger_batch_size(const Batch *batch)
{
	return batch->nrows;
}

/* ---- balances ------------------------------------------------------------------------------- */

/* Replaces a running total by the new one, which is in the scratch context. */
static void
keep_total(Batch *batch, Numeric *total, Numeric first, Numeric new)
{
	Numeric		old = *total;

	*total = DatumGetNumericCopy(NumericGetDatum(new));
	if (old != first)
		pfree(old);
}

/* The balance after it, for the journal; NULL: nobody knows, the account is striped. */
static Numeric
balance_after(const LedgerAccount *after)
{
	if (after->stripes > 0)
		return NULL;
	return DatumGetNumericCopy(NumericGetDatum(ledger_account_balance(after)));
}

/* The account as the item leaves it. */
static LedgerAccount
account_after(const PostingAccount *pa, bool debit, Numeric amount)
{
	LedgerAccount after = pa->account;

	after.debits = pa->running_debits;
	after.credits = pa->running_credits;
	ledger_posting_add(&after, debit, amount);
	return after;
}

/* Moves the money, or says why not; the account that is locked first is looked at first. */
static LedgerRefusal *
move(Batch *batch, BatchItem *item)
{
	PostingAccount *debit = account_of(batch, item->debit);
	PostingAccount *credit = account_of(batch, item->credit);
	LedgerAccount debit_after = account_after(debit, true, item->amount);
	LedgerAccount credit_after = account_after(credit, false, item->amount);
	bool		debit_first = ledger_posting_lock_order(&debit_after, &credit_after) < 0;
	MemoryContext old;

	for (int i = 0; i <= 1; i++)
	{
		bool		is_debit = debit_first == (i == 0);
		PostingAccount *pa = is_debit ? debit : credit;
		LedgerRefusal *refusal = ledger_posting_refuse_limit(is_debit ? &debit_after : &credit_after,
															 pa->running_debits, pa->running_credits);

		if (refusal)
			return refusal;
	}
	old = MemoryContextSwitchTo(batch->context);
	keep_total(batch, &debit->running_debits, debit->account.debits, debit_after.debits);
	keep_total(batch, &credit->running_credits, credit->account.credits, credit_after.credits);
	item->debit_after = balance_after(&debit_after);
	item->credit_after = balance_after(&credit_after);
	MemoryContextSwitchTo(old);
	debit->transactions++;
	credit->transactions++;
	return NULL;
}

/* The item as it stands, or would stand, in the journal. */
static JournalRow
journal_row(const Batch *batch, const BatchItem *item)
{
	const Transfer *transfer = &item->transfer;
	JournalRow	row = {0};

	row.transaction_id = item->transaction_id;
	row.created_at = batch->request->created_at;
	row.has_effective_at = transfer->has_effective_at;
	row.effective_at = transfer->effective_at;
	row.type = transfer->type;
	row.has_user = transfer->has_user;
	row.user_id = transfer->user_id;
	row.has_reference = transfer->has_reference;
	row.reference_id = transfer->reference_id;
	row.reference_type = transfer->reference_type;
	row.debit_account_id = account_of(batch, item->debit)->account.id;
	row.credit_account_id = account_of(batch, item->credit)->account.id;
	row.amount = item->amount;
	return row;
}

/* An item before it has the same key: the same request is a replay of that. */
static LedgerRefusal *
refuse_repeated(Batch *batch, BatchItem *item, const BatchItem *first)
{
	PostingRequest *view = ledger_batch_view(batch, item);
	JournalRow	row = journal_row(batch, first);
	const char *detail;

	/* what could not be posted is no replay, and its accounts are known no more */
	if (item->state == ITEM_DOOMED)
		view->nlines = 0;
	detail = ledger_posting_difference(view, &row, 1);
	if (detail == NULL)
		return NULL;
	return ledger_posting_refuse_conflict(view, psprintf("Item " INT64_FORMAT " has this key; %s.",
														 batch->before + (first - batch->items) + 1,
														 detail));
}

static void
evaluate_item(Batch *batch, BatchItem *item)
{
	int			first = item->previous;
	LedgerRefusal *refusal;

	while (first >= 0 && batch->items[first].state != ITEM_POSTED)
		first = batch->items[first].previous;
	if (first >= 0)
		refusal = refuse_repeated(batch, item, &batch->items[first]);
	else
		refusal = item->state == ITEM_DOOMED ? &item->doom : move(batch, item);
	if (refusal)
		ledger_batch_refuse(batch, item, refusal);
	else
		item->state = first >= 0 ? ITEM_REPLAYED : ITEM_POSTED;
	item->replays = first;
}

/*
 * Takes the live items in their order, each on the balances that those before
 * it leave, which are running_debits and running_credits.
 */
static void
evaluate(Batch *batch, bool stop)
{
	PostingRequest *request = batch->request;
	MemoryContext old = MemoryContextSwitchTo(batch->scratch);

	for (int i = 0; i < request->naccounts; i++)
	{
		PostingAccount *pa = account_of(batch, i);

		pa->running_debits = pa->account.debits;
		pa->running_credits = pa->account.credits;
		pa->transactions = 0;
	}
	for (int i = 0; i < batch->nitems; i++)
	{
		BatchItem  *item = &batch->items[i];

		CHECK_FOR_INTERRUPTS();
		if (item->state == ITEM_LIVE || item->state == ITEM_DOOMED)
			evaluate_item(batch, item);
		MemoryContextReset(batch->scratch);
		if (item->state == ITEM_REFUSED && stop)
			break;
	}
	MemoryContextSwitchTo(old);
}

/*
 * Opens the accounts that are missing and that an item which could be posted
 * now needs; false: none. Nothing is locked yet, so the items are live again.
 */
static bool
open_missing(Batch *batch)
{
	PostingRequest *request = batch->request;
	PostingAccount **missing = palloc(sizeof(PostingAccount *) * Max(request->naccounts, 1));
	ItemState  *states = palloc(sizeof(ItemState) * Max(batch->nitems, 1));
	int			n = 0;

	for (int i = 0; i < request->naccounts; i++)
		n += account_of(batch, i)->account.id == 0;
	if (n == 0)
		return false;
	for (int i = 0; i < batch->nitems; i++)
		states[i] = batch->items[i].state;
	evaluate(batch, false);
	for (int i = 0; i < batch->nitems; i++)
		batch->items[i].state = states[i];
	n = 0;
	for (int i = 0; i < request->naccounts; i++)
	{
		if (account_of(batch, i)->account.id == 0 && account_of(batch, i)->transactions > 0)
			missing[n++] = account_of(batch, i);
	}
	if (n > 0)
		ledger_posting_open_missing(request, missing, n);
	pfree(missing);
	pfree(states);
	return n > 0;
}

/* ---- raising ---------------------------------------------------------------------------------- */

static void
item_context(void *arg)
{
	errcontext("item " INT64_FORMAT " of the batch", *(int64 *) arg);
}

static void
raise_refused(const Batch *batch, const BatchItem *item)
{
	int64		number = batch->before + (item - batch->items) + 1;
	ErrorContextCallback context = {error_context_stack, item_context, &number};

	error_context_stack = &context;
	ledger_refusal_raise(&item->refusal);
	error_context_stack = context.previous;
}

/* ---- writing ---------------------------------------------------------------------------------- */

/* The items that are posted become the request's lines. */
static void
add_lines(Batch *batch)
{
	PostingRequest *request = batch->request;

	request->lines = MemoryContextAllocHuge(batch->context,
											sizeof(PostingLine) * Max(batch->nitems, 1));
	request->nlines = 0;
	for (int i = 0; i < batch->nitems; i++)
	{
		BatchItem  *item = &batch->items[i];
		PostingLine *line = &request->lines[request->nlines];

		if (item->state != ITEM_POSTED)
			continue;
		/* could not be posted a moment ago, so it was not opened */
		if (account_of(batch, item->debit)->account.id == 0 ||
			account_of(batch, item->credit)->account.id == 0)
			ledger_store_serialization_failure();
		line->debit = item->debit;
		line->credit = item->credit;
		line->amount = item->amount;
		request->nlines++;
	}
}

typedef struct MovedUser
{
	pg_uuid_t	user_id;		/* the hash key */
	int			index;			/* of an account of his that moves */
} MovedUser;

/*
 * A user of whom nothing is posted after all is not marked as opened; one of
 * whom something is, on an account that moves.
 */
static void
settle_marks(Batch *batch)
{
	PostingRequest *request = batch->request;
	HASHCTL		info = {0};
	HTAB	   *moved;
	bool		any = false;

	for (int i = 0; i < request->naccounts; i++)
		any |= account_of(batch, i)->mark_opened && account_of(batch, i)->transactions == 0;
	if (!any)
		return;
	info.keysize = sizeof(pg_uuid_t);
	info.entrysize = sizeof(MovedUser);
	info.hcxt = batch->context;
	moved = hash_create("ledger batch users", 256, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < request->naccounts; i++)
	{
		const PostingAccount *pa = account_of(batch, i);

		if (pa->account.has_user && pa->transactions > 0)
			((MovedUser *) hash_search(moved, &pa->account.user_id, HASH_ENTER, NULL))->index = i;
	}
	for (int i = 0; i < request->naccounts; i++)
	{
		PostingAccount *pa = account_of(batch, i);
		MovedUser  *other;
		int			mark = pa->mark_opened;

		if (!mark || pa->transactions > 0)
			continue;
		pa->mark_opened = 0;
		other = hash_search(moved, &pa->account.user_id, HASH_FIND, NULL);
		if (other)
			account_of(batch, other->index)->mark_opened |= mark;
	}
	hash_destroy(moved);
}

static void
write_item(const Batch *batch, const BatchItem *item, JournalHeader *header, StoreBulk *bulk)
{
	const Transfer *transfer = &item->transfer;
	JournalRow	row = journal_row(batch, item);

	header->has_key = transfer->key_text != NULL;
	header->key = item->key;
	header->description = transfer->description;
	header->metadata = transfer->metadata;
	ledger_journal_bulk_add(bulk, &row, header, item->debit_after, item->credit_after);
}

static void
write_items(Batch *batch, StoreBulk *bulk)
{
	JournalHeader header = {0};
	MemoryContext old;

	header.posted_by = GetUserNameFromId(GetUserId(), false);
	old = MemoryContextSwitchTo(batch->scratch);
	for (int i = 0; i < batch->nitems; i++)
	{
		if (batch->items[i].state != ITEM_POSTED)
			continue;
		write_item(batch, &batch->items[i], &header, bulk);
		MemoryContextReset(batch->scratch);
	}
	MemoryContextSwitchTo(old);
	ledger_store_bulk_end(bulk);
}

/* A key that another session took at this very moment, for other accounts. */
static void
raise_taken(Batch *batch, const StoreBulk *bulk)
{
	int			n = ledger_store_bulk_failed(bulk);
	BatchItem  *item = batch->items;

	for (;; item++)
	{
		if (item->state == ITEM_POSTED && n-- == 0)
			break;
	}
	/* the same request, perhaps: it need not have moved a row of ours, see stripe.c */
	if (account_of(batch, item->debit)->account.stripes > 0 &&
		account_of(batch, item->credit)->account.stripes > 0)
		ledger_store_serialization_failure();
	batch->stop = true;
	ledger_batch_refuse(batch, item,
						ledger_posting_refuse_conflict(ledger_batch_view(batch, item), LEDGER_KEY_TAKEN));
	raise_refused(batch, item);
}

/* Takes the ids and the time, after the locks, and writes the journal. */
static void
write_journal(Batch *batch)
{
	Oid			sequence = ledger_relation_oid("transaction_id_seq");
	MemoryContext context = CurrentMemoryContext;
	StoreBulk  *bulk = ledger_store_bulk_begin(batch->request->journal);

	for (int i = 0; i < batch->nitems; i++)
	{
		if (batch->items[i].state == ITEM_POSTED)
			batch->items[i].transaction_id = nextval_internal(sequence, false);
	}
	batch->request->created_at = GetCurrentTimestamp();
	PG_TRY();
	{
		write_items(batch, bulk);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (batch->nkeyed == 0 || !ledger_journal_key_violated())
			PG_RE_THROW();
		FlushErrorState();
		if (IsolationUsesXactSnapshot())
			ledger_store_serialization_failure();
		raise_taken(batch, bulk);
	}
	PG_END_TRY();
}

/* ---- the call ------------------------------------------------------------------------------------ */

/* Up to the evaluation under the locks. */
static void
lock_and_evaluate(Batch *batch)
{
	PostingRequest *request = batch->request;

	ledger_batch_look(batch);
	ledger_batch_drop_accounts(batch);
	/* from here on the accounts stay where they are: the hook knows them */
	while (ledger_posting_hook.lock(request) || open_missing(batch))
	{
		CHECK_FOR_INTERRUPTS();
		ledger_batch_look(batch);
	}
	ledger_posting_lock_accounts(request);
	if (request->moved)
		ledger_batch_look_for_keys(batch);
	evaluate(batch, batch->stop);
}

static void
raise_first_refused(const Batch *batch)
{
	for (int i = 0; batch->stop && i < batch->nitems; i++)
	{
		if (batch->items[i].state == ITEM_REFUSED)
			raise_refused(batch, &batch->items[i]);
	}
}

static void
count_items(const Batch *batch)
{
	for (int i = 0; i < batch->nitems; i++)
	{
		const BatchItem *item = &batch->items[i];

		if (item->state == ITEM_POSTED)
			ledger_stats_posted(1);
		else if (item->state == ITEM_REPLAYED)
			ledger_stats_replayed(1);
		else if (item->state == ITEM_REFUSED)
			ledger_stats_refused(item->refusal.sqlstate);
	}
}

static void
post(void *arg)
{
	Batch	   *batch = arg;
	PostingRequest *request = batch->request;

	batch->scratch = AllocSetContextCreate(batch->context, "ledger batch item",
										   ALLOCSET_DEFAULT_SIZES);
	ledger_posting_begin(request);
	ledger_batch_read(batch);
	lock_and_evaluate(batch);
	raise_first_refused(batch);
	add_lines(batch);
	settle_marks(batch);
	if (request->nlines > 0)
	{
		ledger_posting_update_accounts(request);
		write_journal(batch);
		CommandCounterIncrement();
		ledger_posting_hook.written(request);
	}
	if (batch->replay_snapshot)
		UnregisterSnapshot(batch->replay_snapshot);
	ledger_posting_end(request);
	MemoryContextDelete(batch->scratch);
	count_items(batch);
}

void
ledger_batch_post(Batch *batch)
{
	bool		is_inbox = strcmp(batch->request->operation, "inbox") == 0;

	ledger_stats_batch(is_inbox ? STATS_INBOX : STATS_POST_BATCH, post, batch);
}

void
ledger_batch_result(const Batch *batch, int n, BatchResult *result)
{
	const BatchItem *item = &batch->items[n];
	const BatchItem *posted = item->replays >= 0 ? &batch->items[item->replays] : item;

	result->item = batch->before + n + 1;
	result->transaction_id = 0;
	result->message = NULL;
	result->key_text = item->transfer.key_text;
	if (item->state == ITEM_REFUSED)
	{
		result->result = pstrdup(unpack_sql_state(item->refusal.sqlstate));
		result->message = item->refusal.message;
		return;
	}
	Assert(item->state == ITEM_POSTED || item->state == ITEM_REPLAYED);
	result->result = item->state == ITEM_POSTED ? "posted" : "replayed";
	result->transaction_id = posted->transaction_id;
}
