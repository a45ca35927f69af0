/*
 * backfill_open.c
 *		Many users opened at once, from rows that are locked.
 *
 * Each opening is what opening.c makes of the row for a single one; here their
 * accounts and journal rows go in together, index by index, and
 * opening_balance is added to once for all. While a user's row is locked
 * nobody posts for him, so what a snapshot taken after the locks shows of his
 * accounts stays. The one exception is who found no row when he posted, before
 * this one came: he has the accounts, and the unique index tells.
 *
 * Lock order, after the legacy rows: those accounts that are there, by user,
 * then opening_balance, as everybody. New accounts are nobody's yet.
 *
 * Memory: all of a chunk in the caller's context, a few kilobytes a user.
 */
#include "postgres.h"

#include "commands/sequence.h"
#include "miscadmin.h"

#include "amount.h"
#include "args.h"
#include "backfill.h"
#include "stripe.h"

/* One user. */
typedef struct Opening
{
	const LegacyChunkRow *row;
	PostingRequest *request;	/* what a single opening would post */
	Numeric    *user_after;		/* of each line: the balance of the user's account */
} Opening;

typedef struct OpeningChunk
{
	PostingRequest *request;	/* carries the chunk */
	LegacyTable *table;
	BackfillResult *result;
	Opening    *openings;
	int			nopenings;
} OpeningChunk;

/* ---- the house --------------------------------------------------------------------- */

static bool
find_house(PostingRequest *request, PostingAccount *pa)
{
	if (ledger_stripe_recall(&pa->account, false))
		return true;
	if (!ledger_account_find(request->store, &pa->account, request->snapshot))
		return false;
	ledger_stripe_remember(request->store, &pa->account);
	return true;
}

void
ledger_backfill_house(PostingRequest *request, const LegacyTable *table)
{
	ledger_posting_take_snapshot(request);
	for (int i = 0; i < table->ncolumns; i++)
	{
		const LedgerAccountType *type = ledger_account_type(table->columns[i].types[0]);
		int			n = ledger_posting_account(request, LEDGER_OPENING_BALANCE, NULL,
											   type->currency->code);
		PostingAccount *pa = &request->accounts[n];

		while (pa->account.id == 0 && !find_house(request, pa))
		{
			ledger_posting_open_missing(request, &pa, 1);
			pa->account.id = 0;
			ledger_posting_take_snapshot(request);
		}
		ledger_refusal_raise(ledger_posting_refuse_limit(&pa->account, pa->account.debits,
														 pa->account.credits));
	}
}

/* The house's account that an account of an opening stands for. */
static PostingAccount *
house_of(const OpeningChunk *chunk, const LedgerAccount *account)
{
	for (int i = 0; i < chunk->request->naccounts; i++)
	{
		if (strcmp(chunk->request->accounts[i].account.currency->code,
				   account->currency->code) == 0)
			return &chunk->request->accounts[i];
	}
	elog(ERROR, "no opening balance in %s", account->currency->code);
}

/* ---- who is to be opened ------------------------------------------------------------- */

static void
add_finding(OpeningChunk *chunk, const pg_uuid_t *user_id, const char *reason,
			const char *detail)
{
	BackfillFinding *finding = palloc0(sizeof(BackfillFinding));

	finding->has_user = true;
	finding->user_id = *user_id;
	finding->key = ledger_uuid_text(user_id);
	finding->reason = reason;
	finding->detail = detail;
	chunk->result->findings = lappend(chunk->result->findings, finding);
}

/* His accounts in the order in which single openings open them. */
static int
compare_types(const void *a, const void *b, void *arg)
{
	const PostingRequest *request = arg;

	return strcmp(request->accounts[*(const int *) a].account.type->name,
				  request->accounts[*(const int *) b].account.type->name);
}

/* What of the request's accounts is there already; false: one takes no postings. */
static bool
match_accounts(PostingRequest *request, const LedgerAccount *accounts, int naccounts)
{
	request->order = palloc(sizeof(int) * request->naccounts);
	for (int i = 0; i < request->naccounts; i++)
	{
		LedgerAccount *account = &request->accounts[i].account;

		request->order[i] = i;
		for (int j = 0; account->has_user && j < naccounts; j++)
		{
			if (accounts[j].type == account->type && accounts[j].currency == account->currency &&
				accounts[j].external_id == NULL)
				*account = accounts[j];
		}
		if (account->id != 0 && account->status != LEDGER_ACCOUNT_OPEN)
			return false;
	}
	qsort_arg(request->order, request->naccounts, sizeof(int), compare_types, request);
	return true;
}

static void
look_at_user(OpeningChunk *chunk, const LegacyChunkRow *row, const LedgerAccount *accounts,
			 int naccounts)
{
	Opening    *opening = &chunk->openings[chunk->nopenings];
	OpeningProblem problem = {NULL, NULL};

	if (ledger_legacy_is_opened(chunk->table, accounts, naccounts))
	{
		chunk->result->already++;
		return;
	}
	opening->row = row;
	opening->request = ledger_opening_request(chunk->table, &row->user_id, &row->row,
											  accounts, naccounts, &problem);
	if (opening->request == NULL)
		add_finding(chunk, &row->user_id, problem.reason, problem.detail);
	else if (!match_accounts(opening->request, accounts, naccounts))
		add_finding(chunk, &row->user_id, "not_open", "An account of the user is frozen or closed.");
	else
	{
		ledger_journal_key(opening->request->key_text, &opening->request->key);
		chunk->nopenings++;
	}
}

/* Locked rows and accounts are in the order of the users: one scan for all. */
static void
look_at_users(OpeningChunk *chunk, const LegacyChunk *rows)
{
	PostingRequest *request = chunk->request;
	StoreScan  *scan;
	LedgerAccount account;
	LedgerAccount *accounts = palloc(sizeof(LedgerAccount) * 8);
	int			max = 8;
	int			first = 0;
	bool		more;

	while (first < rows->nrows && !rows->rows[first].locked)
		first++;
	if (first == rows->nrows)
		return;
	scan = ledger_accounts_of_users_from(request->store, &rows->rows[first].user_id,
										 request->snapshot);
	more = ledger_account_next(scan, &account);
	for (int i = first; i < rows->nrows; i++)
	{
		const LegacyChunkRow *row = &rows->rows[i];
		int			n = 0;
		int			order;

		if (!row->locked)
			continue;

		while (more && (order = memcmp(&account.user_id, &row->user_id, UUID_LEN)) <= 0)
		{
			if (order == 0)
			{
				if (n == max)
					accounts = repalloc(accounts, sizeof(LedgerAccount) * (max *= 2));
				accounts[n++] = account;
			}
			more = ledger_account_next(scan, &account);
		}
		look_at_user(chunk, row, accounts, n);
	}
	ledger_store_end(scan);
}

/* Who has been opened, though no account of his says so, is not opened again. */
static void
drop_opened_before(OpeningChunk *chunk)
{
	const pg_uuid_t **keys = palloc(sizeof(pg_uuid_t *) * chunk->nopenings);
	int64	   *ids = palloc(sizeof(int64) * chunk->nopenings);
	int			kept = 0;

	for (int i = 0; i < chunk->nopenings; i++)
		keys[i] = &chunk->openings[i].request->key;
	ledger_journal_probe_keys(chunk->request->journal, keys, chunk->nopenings, ids);
	for (int i = 0; i < chunk->nopenings; i++)
	{
		if (ids[i] == 0)
			chunk->openings[kept++] = chunk->openings[i];
		else
			add_finding(chunk, &chunk->openings[i].row->user_id, "opened_before",
						psprintf("Transaction " INT64_FORMAT " has opened the user, but none of his accounts is marked.",
								 ids[i]));
	}
	chunk->nopenings = kept;
}

/* ---- totals ----------------------------------------------------------------------------- */

static Numeric
add(Numeric total, Numeric amount)
{
	return total ? ledger_amount_add(total, amount) : amount;
}

/* Locks what is there, and brings the user's accounts to what they will be. */
static void
move_user(OpeningChunk *chunk, Opening *opening)
{
	PostingRequest *request = opening->request;

	for (int i = 0; i < request->naccounts; i++)
	{
		LedgerAccount *account = &request->accounts[i].account;

		if (!account->has_user)
			continue;
		if (account->id == 0)
			account->debits = account->credits = ledger_amount_zero();
		else if (ledger_account_lock(chunk->request->store, account, chunk->request->snapshot,
									 true) != TM_Ok || account->status != LEDGER_ACCOUNT_OPEN)
			ledger_store_serialization_failure();
		account->opened |= request->accounts[i].mark_opened;
	}
	opening->user_after = palloc(sizeof(Numeric) * Max(request->nlines, 1));
	for (int i = 0; i < request->nlines; i++)
	{
		const PostingLine *line = &request->lines[i];
		bool		debit = request->accounts[line->debit].account.has_user;
		LedgerAccount *account = &request->accounts[debit ? line->debit : line->credit].account;

		ledger_posting_add(account, debit, line->amount);
		account->version++;
		opening->user_after[i] = ledger_account_balance(account);
	}
}

/* What the opening moves of the house's accounts; two lines are one transaction. */
static void
fold_house(const OpeningChunk *chunk, const Opening *opening)
{
	const PostingRequest *request = opening->request;

	for (int i = 0; i < request->nlines; i++)
	{
		const PostingLine *line = &request->lines[i];
		bool		debit = !request->accounts[line->debit].account.has_user;
		int			index = debit ? line->debit : line->credit;
		PostingAccount *house = house_of(chunk, &request->accounts[index].account);
		bool		first = true;

		if (debit)
			house->add_debits = add(house->add_debits, line->amount);
		else
			house->add_credits = add(house->add_credits, line->amount);
		for (int j = 0; j < i; j++)
			first &= request->lines[j].debit != index && request->lines[j].credit != index;
		house->transactions += first;
	}
}

/*
 * opening_balance, after the users' accounts. One that is a single row is
 * locked here and written when the journal knows its totals.
 */
static void
lock_house(const OpeningChunk *chunk)
{
	PostingRequest *request = chunk->request;

	for (int i = 0; i < request->naccounts; i++)
	{
		PostingAccount *pa = &request->accounts[i];

		if (pa->transactions == 0)
			continue;
		if (pa->account.stripes > 0)
			(void) ledger_stripe_add(&pa->account, pa->add_debits, pa->add_credits,
									 pa->transactions, request->snapshot, LEDGER_ANY_STRIPE);
		else if (ledger_account_lock(request->store, &pa->account, request->snapshot,
									 true) != TM_Ok)
			ledger_store_serialization_failure();
	}
}

static void
update_house(const OpeningChunk *chunk)
{
	PostingRequest *request = chunk->request;

	for (int i = 0; i < request->naccounts; i++)
	{
		PostingAccount *pa = &request->accounts[i];

		if (pa->transactions == 0 || pa->account.stripes > 0)
			continue;
		pa->account.version += pa->transactions;
		if (ledger_account_update(request->store, &pa->account, request->snapshot) != TM_Ok)
			elog(ERROR, "account " INT64_FORMAT " changed under its lock", pa->account.id);
	}
}

/* ---- rows --------------------------------------------------------------------------------- */

static void
write_accounts(const OpeningChunk *chunk)
{
	Oid			sequence = ledger_relation_oid("account_id_seq");
	StoreBulk  *bulk = ledger_accounts_bulk_begin(chunk->request->store);

	for (int i = 0; i < chunk->nopenings; i++)
	{
		PostingRequest *request = chunk->openings[i].request;

		for (int j = 0; j < request->naccounts; j++)
		{
			LedgerAccount *account = &request->accounts[request->order[j]].account;

			if (!account->has_user || account->id != 0)
				continue;
			account->id = nextval_internal(sequence, false);
			ledger_account_bulk_add(bulk, account);
		}
	}
	ledger_store_bulk_end(bulk);
}

/* The accounts that were there, which are locked. */
static void
update_accounts(const OpeningChunk *chunk)
{
	for (int i = 0; i < chunk->nopenings; i++)
	{
		PostingRequest *request = chunk->openings[i].request;

		for (int j = 0; j < request->naccounts; j++)
		{
			LedgerAccount *account = &request->accounts[j].account;

			if (account->has_user && account->id != 0 &&
				ledger_account_update(chunk->request->store, account,
									  chunk->request->snapshot) != TM_Ok)
				elog(ERROR, "account " INT64_FORMAT " changed under its lock", account->id);
		}
	}
}

/* The house's balance after the line; NULL: nobody knows, the account is striped. */
static Numeric
run_house(PostingAccount *house, bool debit, Numeric amount)
{
	if (house->account.stripes > 0)
		return NULL;
	ledger_posting_add(&house->account, debit, amount);
	return ledger_account_balance(&house->account);
}

static void
write_opening(const OpeningChunk *chunk, const Opening *opening, JournalHeader *header,
			  StoreBulk *bulk)
{
	const PostingRequest *request = opening->request;
	JournalRow	row = {0};

	row.transaction_id = request->transaction_id;
	row.created_at = chunk->request->created_at;
	row.type = request->type;
	row.has_user = true;
	row.user_id = request->user_id;
	header->has_key = true;
	header->key = request->key;
	header->description = request->description;
	header->metadata = request->metadata;
	for (int i = 0; i < request->nlines; i++)
	{
		const PostingLine *line = &request->lines[i];
		const LedgerAccount *debit = &request->accounts[line->debit].account;
		const LedgerAccount *credit = &request->accounts[line->credit].account;
		PostingAccount *house = house_of(chunk, debit);
		Numeric		house_after = run_house(house, !debit->has_user, line->amount);

		row.ordinal = i;
		row.debit_account_id = debit->has_user ? debit->id : house->account.id;
		row.credit_account_id = credit->has_user ? credit->id : house->account.id;
		row.amount = line->amount;
		ledger_journal_bulk_add(bulk, &row, i == 0 ? header : NULL,
								debit->has_user ? opening->user_after[i] : house_after,
								credit->has_user ? opening->user_after[i] : house_after);
	}
}

/* Takes the ids and the time, after the locks. */
static void
write_journal(const OpeningChunk *chunk)
{
	Oid			sequence = ledger_relation_oid("transaction_id_seq");
	StoreBulk  *bulk = ledger_store_bulk_begin(chunk->request->journal);
	JournalHeader header = {0};

	header.posted_by = GetUserNameFromId(GetUserId(), false);
	chunk->request->created_at = GetCurrentTimestamp();
	for (int i = 0; i < chunk->nopenings; i++)
	{
		if (chunk->openings[i].request->nlines == 0)
			continue;
		chunk->openings[i].request->transaction_id = nextval_internal(sequence, false);
		write_opening(chunk, &chunk->openings[i], &header, bulk);
	}
	ledger_store_bulk_end(bulk);
}

void
ledger_backfill_open(PostingRequest *request, LegacyTable *table, const LegacyChunk *rows,
					 BackfillResult *result)
{
	OpeningChunk chunk = {request, table, result};

	ledger_posting_take_snapshot(request);
	chunk.openings = palloc(sizeof(Opening) * Max(rows->nrows, 1));
	look_at_users(&chunk, rows);
	drop_opened_before(&chunk);
	for (int i = 0; i < chunk.nopenings; i++)
	{
		move_user(&chunk, &chunk.openings[i]);
		fold_house(&chunk, &chunk.openings[i]);
	}
	lock_house(&chunk);
	update_accounts(&chunk);
	write_accounts(&chunk);
	write_journal(&chunk);
	update_house(&chunk);
	result->opened += chunk.nopenings;
}
