/*
 * posting.c
 *		The engine: one ledger transaction of one or more postings.
 *
 * The protocol of a call, with the reason for each step (docs/internals.md
 * has the proof by cases):
 *
 * 1. Refuse what the executor would refuse: read-only, parallel, recovery.
 * 2. Hold the settings still.
 * 3. Take a snapshot S; probe the key under a dirty snapshot, so that an
 *	  inserter in progress is waited for before any row is locked.
 * 4. The hook locks legacy rows; it may wait, so S and the probe come anew.
 * 5. Find the accounts with S, never newer. Open those that are missing.
 * 6. Update them in the order users before house (there opening_balance
 *	  first), then id: the update is the lock. If the first answers that
 *	  somebody was there since S, nothing has changed yet: back to 3. A
 *	  request with the same key that committed after S has updated this row,
 *	  so it cannot slip through. A later row is locked in its newest version
 *	  and computed anew.
 * 7. Check limits on the final balances, add to stripes of striped accounts
 *	  (stripe.c), take the id, stamp the time, write the journal.
 *
 * Under REPEATABLE READ and SERIALIZABLE whatever S does not see is 40001.
 *
 * Memory: all of a call in the caller's context, short-lived by contract (the
 * executor's per-tuple context). Nothing outlives the call but the places of
 * place.c.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "args.h"
#include "errors.h"
#include "place.h"
#include "posting.h"
#include "stats.h"
#include "stripe.h"

PostingHook ledger_posting_hook = {NULL, NULL, NULL};

/* ---- replays ----------------------------------------------------------------- */

/* The request is there already: the same gets its id, another is refused. */
static void
replay(PostingRequest *request, int64 id)
{
	ledger_refusal_raise(ledger_posting_refuse_replay(request, id));
	request->transaction_id = id;
	request->replayed = true;
	if (!request->is_opening)
		ledger_stats_replayed(1);
}

void
ledger_posting_take_snapshot(PostingRequest *request)
{
	if (request->snapshot)
		UnregisterSnapshot(request->snapshot);
	request->snapshot = RegisterSnapshot(GetTransactionSnapshot());
	request->nsnapshots++;
	request->moved = false;
	request->users = NULL;
}

/*
 * Takes S and asks whether the key is there; true: a replay. No account is
 * locked yet. A legacy row may be changed already: it can only be that the
 * other request's mirror has failed, and the retry tells.
 */
static bool
probe(PostingRequest *request)
{
	int64		id;

	/* S first: what is committed after it has moved the accounts, see step 6 */
	ledger_posting_take_snapshot(request);
	if (request->key_text == NULL)
		return false;
	id = ledger_journal_probe_key(request->journal, &request->key);
	if (id == 0)
		return false;
	if (ledger_journal_find_key(request->journal, &request->key, request->snapshot) == 0)
	{
		/* committed since S: a newer one sees it, if there may be one */
		if (IsolationUsesXactSnapshot())
			ledger_store_serialization_failure();
		ledger_posting_take_snapshot(request);
	}
	replay(request, id);
	if (request->changed)
		ledger_store_serialization_failure();
	return true;
}

/* ---- accounts: find, open, lock ------------------------------------------------- */

static int
compare_user(const void *key, const void *user)
{
	return memcmp(key, &((const PostingUser *) user)->user_id, UUID_LEN);
}

const PostingUser *
ledger_posting_user(const PostingRequest *request, const pg_uuid_t *user_id)
{
	return bsearch(user_id, request->users, request->nusers, sizeof(PostingUser), compare_user);
}

/* Among what the hook has read of the user; false: he has no such account. */
static bool
find_among_users(const PostingRequest *request, PostingAccount *pa)
{
	const PostingUser *user = ledger_posting_user(request, &pa->account.user_id);

	for (int i = 0; i < user->naccounts; i++)
	{
		const LedgerAccount *account = &user->accounts[i];

		if (pa->by_id ? account->id == pa->account.id :
			account->type == pa->account.type && account->currency == pa->account.currency &&
			account->external_id == NULL)
		{
			pa->account = *account;
			return true;
		}
	}
	return false;
}

/* Finds one account under S; false: it is not there. */
static bool
find_account(PostingRequest *request, PostingAccount *pa)
{
	if (pa->seen == request->nsnapshots)
		return true;
	if (ledger_stripe_recall(&pa->account, pa->by_id))
		return true;
	if (request->users && pa->account.has_user)
	{
		if (!find_among_users(request, pa))
			return false;
	}
	else if (pa->by_id ? !ledger_account_find_by_id(request->store, &pa->account, request->snapshot) :
			 !ledger_account_find(request->store, &pa->account, request->snapshot))
		return false;
	ledger_stripe_remember(request->store, &pa->account);
	pa->seen = request->nsnapshots;
	return true;
}

/* Accounts by id say who their users are, which the hook must know. */
static void
find_by_ids(PostingRequest *request)
{
	for (int i = 0; i < request->naccounts; i++)
	{
		PostingAccount *pa = &request->accounts[i];
		int64		id = pa->account.id;

		if (pa->by_id && !find_account(request, pa))
			ledger_refusal_raise(ledger_posting_refuse_unknown(id));
		ledger_refusal_raise(ledger_posting_refuse_account(request, &pa->account));
	}
}

static void
check_lines(PostingRequest *request)
{
	for (int i = 0; i < request->nlines; i++)
	{
		PostingLine *line = &request->lines[i];

		ledger_refusal_raise(ledger_posting_refuse_line(request, i));
		if (request->raw_amounts)
		{
			const LedgerCurrency *currency = request->accounts[line->debit].account.currency;

			line->amount = ledger_amount_normalise(line->amount, currency->display_digits);
		}
	}
}

int
ledger_posting_compare(const void *a, const void *b)
{
	const LedgerAccount *x = &(*(PostingAccount *const *) a)->account;
	const LedgerAccount *y = &(*(PostingAccount *const *) b)->account;
	int			c = (int) y->has_user - (int) x->has_user;

	if (c == 0 && x->has_user)
		c = memcmp(&x->user_id, &y->user_id, UUID_LEN);
	if (c == 0)
		c = strcmp(x->type->name, y->type->name);
	return c ? c : strcmp(x->currency->code, y->currency->code);
}

void
ledger_posting_open_missing(PostingRequest *request, PostingAccount **missing, int n)
{
	qsort(missing, n, sizeof(missing[0]), ledger_posting_compare);
	for (int i = 0; i < n; i++)
		(void) ledger_stripe_open_account(request->store, &missing[i]->account);
	CommandCounterIncrement();
}

/*
 * Finds every account under S. Those missing are opened together, in (user,
 * type) order and before any row is locked: false, S must be taken anew.
 */
static bool
find_accounts(PostingRequest *request)
{
	PostingAccount **missing = palloc(sizeof(PostingAccount *) * request->naccounts);
	int			nmissing = 0;

	for (int i = 0; i < request->naccounts; i++)
	{
		if (find_account(request, &request->accounts[i]))
			continue;
		if (request->accounts[i].by_id)
			elog(ERROR, "account " INT64_FORMAT " is gone", request->accounts[i].account.id);
		missing[nmissing++] = &request->accounts[i];
	}
	if (nmissing == 0)
		return true;
	ledger_posting_open_missing(request, missing, nmissing);
	return false;
}

static bool
is_opening_balance(const LedgerAccount *account)
{
	return strcmp(account->type->name, LEDGER_OPENING_BALANCE) == 0;
}

/*
 * Users' accounts before the house's, each by id: everybody's order. Of the
 * house's opening_balance comes first: a call that has opened a user holds it
 * before it takes any other.
 */
int
ledger_posting_lock_order(const LedgerAccount *x, const LedgerAccount *y)
{
	if (x->has_user != y->has_user)
		return x->has_user ? -1 : 1;
	if (!x->has_user && is_opening_balance(x) != is_opening_balance(y))
		return is_opening_balance(x) ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

static int
compare_lock_order(const void *a, const void *b, void *arg)
{
	PostingRequest *request = arg;

	return ledger_posting_lock_order(&request->accounts[*(const int *) a].account,
									 &request->accounts[*(const int *) b].account);
}

static void
sort_accounts(PostingRequest *request)
{
	if (request->order == NULL)
		request->order = palloc(sizeof(int) * request->naccounts);
	for (int i = 0; i < request->naccounts; i++)
		request->order[i] = i;
	qsort_arg(request->order, request->naccounts, sizeof(int), compare_lock_order, request);
}

/* ---- accounts: apply ------------------------------------------------------------ */

static Numeric
add(Numeric total, Numeric amount)
{
	return total ? ledger_amount_add(total, amount) : amount;
}

/* Folds the postings into one change per account. */
static void
fold(PostingRequest *request)
{
	for (int i = 0; i < request->naccounts; i++)
		request->accounts[i].add_debits = request->accounts[i].add_credits = NULL;
	for (int i = 0; i < request->nlines; i++)
	{
		PostingLine *line = &request->lines[i];
		PostingAccount *debit = &request->accounts[line->debit];
		PostingAccount *credit = &request->accounts[line->credit];

		debit->add_debits = add(debit->add_debits, line->amount);
		credit->add_credits = add(credit->add_credits, line->amount);
	}
	request->folded = true;
}

typedef enum UpdateResult
{
	UPDATE_DONE,
	UPDATE_NOTHING,				/* no account is one row */
	UPDATE_LATE					/* the first one has moved since S */
} UpdateResult;

static bool
is_moved(const PostingAccount *pa)
{
	return pa->add_debits != NULL || pa->add_credits != NULL;
}

static void
set_totals(PostingAccount *pa)
{
	LedgerAccount *account = &pa->account;
	int			digits = account->currency->display_digits;

	pa->running_debits = account->debits;
	pa->running_credits = account->credits;
	if (pa->add_debits)
		account->debits = ledger_amount_normalise(add(account->debits, pa->add_debits), digits);
	if (pa->add_credits)
		account->credits = ledger_amount_normalise(add(account->credits, pa->add_credits), digits);
	if (is_moved(pa))
		account->version += Max(pa->transactions, 1);
	account->opened |= pa->mark_opened;
}

/*
 * Updates those accounts that are one row, in the order of their locks.
 */
static UpdateResult
update_plain(PostingRequest *request)
{
	bool		first = true;

	for (int i = 0; i < request->naccounts; i++)
	{
		PostingAccount *pa = &request->accounts[request->order[i]];
		LedgerAccount *account = &pa->account;

		if (account->stripes > 0 || (!is_moved(pa) && !pa->mark_opened))
			continue;
		set_totals(pa);
		if (ledger_account_update(request->store, account, request->snapshot) != TM_Ok)
		{
			ledger_stats_contended(account->id);
			if (first)
				return UPDATE_LATE;
			request->moved = true;
			if (ledger_account_lock(request->store, account, request->snapshot, true) != TM_Ok)
				elog(ERROR, "account " INT64_FORMAT " is gone", account->id);
			set_totals(pa);
			if (ledger_account_update(request->store, account, request->snapshot) != TM_Ok)
				elog(ERROR, "account " INT64_FORMAT " changed under its lock", account->id);
		}
		first = false;
	}
	return first ? UPDATE_NOTHING : UPDATE_DONE;
}

/*
 * Adds to a stripe of those that are striped. If no other row of the call is
 * locked (alone), its key says which stripe, so that two requests with one key
 * meet there as they would at an account.
 */
static bool
update_striped(PostingRequest *request, bool alone)
{
	for (int i = 0; i < request->naccounts; i++)
	{
		PostingAccount *pa = &request->accounts[request->order[i]];
		bool		in_order = alone && request->key_text != NULL && !request->locked;

		if (pa->account.stripes == 0 || !is_moved(pa))
			continue;
		if (!ledger_stripe_add(&pa->account, pa->add_debits, pa->add_credits,
							   Max(pa->transactions, 1), request->snapshot,
							   in_order ? ledger_journal_key_order(&request->key) :
							   LEDGER_ANY_STRIPE))
			return false;
		alone = false;
	}
	return true;
}

/*
 * Updates the accounts. false: the first row has been updated by somebody
 * since S, and nothing has changed.
 */
static bool
update_accounts(PostingRequest *request)
{
	UpdateResult result = update_plain(request);

	if (result == UPDATE_LATE)
		return false;
	for (int i = 0; i < request->naccounts; i++)
	{
		PostingAccount *pa = &request->accounts[request->order[i]];

		/* a batch has looked at each item's */
		if (is_moved(pa) && !request->is_batch)
			ledger_refusal_raise(ledger_posting_refuse_limit(&pa->account, pa->running_debits,
															 pa->running_credits));
	}
	return update_striped(request, result == UPDATE_NOTHING);
}

/*
 * Locks the accounts without changing them; false as update_accounts(). A
 * striped one has nothing to be locked: its stripe is chosen when it is added to.
 * A batch takes the first one too in its newest version, and probes all its
 * keys again if any has moved: it would never get through beside a busy account.
 */
static bool
lock_accounts(PostingRequest *request)
{
	bool		follow = request->is_batch;

	for (int i = 0; i < request->naccounts; i++)
	{
		LedgerAccount *account = &request->accounts[request->order[i]].account;
		ItemPointerData before = account->tid;

		if (account->id == 0 || account->stripes > 0)
			continue;
		if (ledger_account_lock(request->store, account, request->snapshot, follow) != TM_Ok)
		{
			ledger_stats_contended(account->id);
			if (!follow)
				return false;
			elog(ERROR, "account " INT64_FORMAT " is gone", account->id);
		}
		follow = true;
		if (!ItemPointerEquals(&before, &account->tid))
		{
			ledger_stats_contended(account->id);
			request->moved = true;
		}
	}
	return true;
}

void
ledger_posting_lock_accounts(PostingRequest *request)
{
	sort_accounts(request);
	(void) lock_accounts(request);
}

void
ledger_posting_update_accounts(PostingRequest *request)
{
	fold(request);
	if (!update_accounts(request))
		elog(ERROR, "an account changed under its lock");
}

void
ledger_posting_add(LedgerAccount *account, bool debit, Numeric amount)
{
	Numeric    *total = debit ? &account->debits : &account->credits;

	*total = ledger_amount_normalise(ledger_amount_add(*total, amount),
									 account->currency->display_digits);
}

/* ---- the journal ---------------------------------------------------------------- */

/* The balance after one posting more; NULL: nobody knows, the account is striped. */
static Numeric
run(PostingAccount *pa, Numeric *total, Numeric amount)
{
	if (pa->account.stripes > 0)
		return NULL;
	*total = ledger_amount_add(*total, amount);
	return ledger_account_net(&pa->account, pa->running_debits, pa->running_credits);
}

static void
write_rows(PostingRequest *request, JournalHeader *header)
{
	JournalRow	row = {0};

	row.transaction_id = request->transaction_id;
	row.created_at = request->created_at;
	row.has_effective_at = request->has_effective_at;
	row.effective_at = request->effective_at;
	row.type = request->type;
	row.has_user = request->has_user;
	row.user_id = request->user_id;
	row.has_reference = request->has_reference;
	row.reference_id = request->reference_id;
	row.reference_type = request->reference_type;
	row.reverses = request->reverses;
	for (int i = 0; i < request->nlines; i++)
	{
		PostingLine *line = &request->lines[i];
		PostingAccount *debit = &request->accounts[line->debit];
		PostingAccount *credit = &request->accounts[line->credit];
		Numeric		debit_after = run(debit, &debit->running_debits, line->amount);
		Numeric		credit_after = run(credit, &credit->running_credits, line->amount);

		row.ordinal = i;
		row.debit_account_id = debit->account.id;
		row.credit_account_id = credit->account.id;
		row.amount = line->amount;
		ledger_journal_insert(request->journal, &row, i == 0 ? header : NULL,
							  debit_after, credit_after);
	}
}

/*
 * Takes the id and the time, after the locks, and writes the journal. A key
 * that somebody else inserted since S is LG002 if no row had moved: then it
 * was another request, of other accounts. Else the retry gives the verdict.
 */
static void
write_journal(PostingRequest *request)
{
	JournalHeader header = {0};
	MemoryContext context = CurrentMemoryContext;

	header.has_key = request->key_text != NULL;
	header.key = request->key;
	header.posted_by = GetUserNameFromId(GetUserId(), false);
	header.description = request->description;
	header.metadata = request->metadata;
	request->transaction_id = nextval_internal(ledger_relation_oid("transaction_id_seq"), false);
	request->created_at = GetCurrentTimestamp();
	PG_TRY();
	{
		write_rows(request, &header);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (!header.has_key || !ledger_journal_key_violated())
			PG_RE_THROW();
		FlushErrorState();
		if (request->moved || IsolationUsesXactSnapshot())
			ledger_store_serialization_failure();
		ledger_refusal_raise(ledger_posting_refuse_conflict(request, LEDGER_KEY_TAKEN));
	}
	PG_END_TRY();
}

/* ---- the call -------------------------------------------------------------------- */

LedgerRefusal *
ledger_posting_refuse_state(const LedgerSettings *settings)
{
	if (!ledger_settings_legacy_only(settings))
		return NULL;
	return ledger_refusal(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
						  "the ledger takes no postings while balances are the legacy table's alone",
						  "Shadow mode is off and the balance source is legacy.",
						  "Call ledger.roll_back().");
}

void
ledger_posting_begin(PostingRequest *request)
{
	if (XactReadOnly || IsInParallelMode() || RecoveryInProgress())
		ledger_prevent_read_only(psprintf("ledger.%s()", request->operation));
	request->settings = ledger_settings_lock();
	ledger_refusal_raise(ledger_posting_refuse_state(request->settings));
	if (!request->is_opening)
		ledger_place_count_call();
	request->store = ledger_accounts_open(RowExclusiveLock);
	request->journal = ledger_journal_open(RowExclusiveLock);
	if (request->key_text)
		ledger_journal_key(request->key_text, &request->key);
}

void
ledger_posting_end(PostingRequest *request)
{
	UnregisterSnapshot(request->snapshot);
	ledger_store_close(request->journal);
	ledger_store_close(request->store);
	CommandCounterIncrement();
}

/*
 * Steps 1 to 3; true: a replay. What the call is about is known after it, and
 * with final amounts how much each account is to be moved.
 */
static bool
prepare(PostingRequest *request, bool final)
{
	ledger_posting_begin(request);
	if (probe(request))
		return true;
	find_by_ids(request);
	check_lines(request);
	if (final)
		fold(request);
	return false;
}

/*
 * Steps 4 and 5: the hook's locks, then the accounts under S, opening what is
 * missing; true: a replay meanwhile.
 */
static bool
find_all(PostingRequest *request)
{
	bool		hook = ledger_posting_hook.lock && !request->is_opening;

	while ((hook && ledger_posting_hook.lock(request)) || !find_accounts(request))
	{
		CHECK_FOR_INTERRUPTS();
		if (probe(request))
			return true;
	}
	sort_accounts(request);
	return false;
}

static int64
finish(PostingRequest *request)
{
	if (request->nlines > 0)
		write_journal(request);
	if (ledger_posting_hook.written && !request->is_opening)
	{
		CommandCounterIncrement();
		ledger_posting_hook.written(request);
	}
	ledger_posting_end(request);
	return request->transaction_id;
}

int64
ledger_post(PostingRequest *request)
{
	bool		replayed = prepare(request, true);

	while (!replayed)
	{
		replayed = find_all(request);
		if (replayed || update_accounts(request))
			break;
		/* nothing has changed yet: again with a new S */
		CHECK_FOR_INTERRUPTS();
		replayed = probe(request);
	}
	if (replayed)
	{
		ledger_posting_end(request);
		return request->transaction_id;
	}
	return finish(request);
}

bool
ledger_posting_lock(PostingRequest *request)
{
	bool		replayed = prepare(request, false);

	while (!replayed)
	{
		replayed = find_all(request);
		if (replayed || lock_accounts(request))
			break;
		CHECK_FOR_INTERRUPTS();
		replayed = probe(request);
	}
	if (replayed)
		ledger_posting_end(request);
	return !replayed;
}

int64
ledger_posting_apply(PostingRequest *request)
{
	request->locked = true;
	fold(request);
	if (!update_accounts(request))
		elog(ERROR, "an account changed under its lock");
	return finish(request);
}

/*
 * After another lock than the accounts': whether a request with the same key
 * has come in meanwhile. Only if no account was locked, which would have told.
 */
bool
ledger_posting_replayed_meanwhile(PostingRequest *request)
{
	for (int i = 0; i < request->naccounts; i++)
	{
		if (request->accounts[i].account.stripes == 0)
			return false;
	}
	if (!probe(request))
		return false;
	ledger_posting_end(request);
	return true;
}

/* Gives up what ledger_posting_lock() locked without posting anything. */
void
ledger_posting_cancel(PostingRequest *request)
{
	ledger_posting_end(request);
}

/* Whether one of the accounts holds reserved money. */
bool
ledger_posting_touches_reserved(const PostingRequest *request)
{
	for (int i = 0; i < request->naccounts; i++)
	{
		if (strcmp(request->accounts[i].account.type->name, LEDGER_PENDING_INVESTMENT) == 0)
			return true;
	}
	return false;
}

Numeric
ledger_posting_change(const PostingRequest *request, int n)
{
	const PostingAccount *pa = &request->accounts[n];
	Numeric		zero = ledger_amount_zero();

	return ledger_account_net(&pa->account, pa->add_debits ? pa->add_debits : zero,
							  pa->add_credits ? pa->add_credits : zero);
}
