/*
 * mirror_users.c
 *		The users of a call and their legacy rows, from their locks to the mirror.
 *
 * Lock order: the rows of every attached table for every user of the call,
 * changed or not, by table and user; then, if somebody is to be opened, the
 * accounts of all openings and of the call together; then come the openings.
 * An application that updates its legacy row first and then posts takes the
 * same order.
 *
 * Where the table runs nobody's code and the amounts are known, the update of
 * the row is its lock, as it is with accounts: TM_Ok says that nobody has
 * updated the row since S, so no request with the same key has come in and
 * nothing need be looked at again. Only a user who is opened under S is
 * treated so, and opened he stays.
 *
 * A row that is only locked may have been locked meanwhile by somebody who
 * changed accounts alone and is gone; the accounts will tell. Whatever else
 * differs from S (the row moved, is missing, is SQL's to lock) asks for a new
 * S, and so does an opening.
 *
 * Memory: the state lives in the caller's context, with the request.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "capture_post.h"
#include "compare.h"
#include "legacy_plain.h"
#include "mirror.h"
#include "mirror_users.h"
#include "stats.h"

/* ---- who is concerned ------------------------------------------------------------- */

static int
compare_user_accounts(const void *a, const void *b, void *arg)
{
	const PostingRequest *request = arg;

	return memcmp(&request->accounts[*(const int *) a].account.user_id,
				  &request->accounts[*(const int *) b].account.user_id, UUID_LEN);
}

/* The users of the call, each once, in order. */
static void
find_users(const PostingRequest *request, MirrorState *state)
{
	int			n = 0;

	state->accounts = palloc(sizeof(int) * Max(request->naccounts, 1));
	for (int i = 0; i < request->naccounts; i++)
	{
		if (request->accounts[i].account.has_user)
			state->accounts[n++] = i;
	}
	qsort_arg(state->accounts, n, sizeof(int), compare_user_accounts,
			  unconstify(PostingRequest *, request));
	state->users = palloc(sizeof(MirrorUser) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		const pg_uuid_t *user_id = &request->accounts[state->accounts[i]].account.user_id;
		MirrorUser *last = state->nusers ? &state->users[state->nusers - 1] : NULL;

		if (last == NULL || memcmp(&last->user_id, user_id, UUID_LEN) != 0)
		{
			last = &state->users[state->nusers++];
			last->user_id = *user_id;
			last->first = i;
			last->naccounts = 0;
		}
		last->naccounts++;
	}
}

static MirrorState *
begin(PostingRequest *request)
{
	MirrorState *state = palloc0(sizeof(MirrorState));

	request->hook_state = state;
	if (request->settings->phase == LEDGER_RETIRED || ledger_legacy_tables() == NIL)
		return state;
	find_users(request, state);
	if (state->nusers == 0)
		return state;
	state->tables = ledger_legacy_tables();
	state->mirrors = ledger_settings_mirrors(request->settings);
	state->rows = palloc0(sizeof(MirrorRow) * state->nusers * list_length(state->tables));
	return state;
}

bool
ledger_mirror_deltas(const PostingRequest *request, const MirrorUser *user,
					 const LegacyTable *table, Numeric *deltas)
{
	const MirrorState *state = request->hook_state;
	bool		any = false;

	for (int c = 0; c < table->ncolumns; c++)
	{
		Numeric		sum = NULL;

		for (int i = user->first; i < user->first + user->naccounts; i++)
		{
			int			n = state->accounts[i];
			const LedgerAccount *account = &request->accounts[n].account;

			if (account->external_id == NULL &&
				ledger_legacy_maps(&table->columns[c], account->type->name))
				sum = sum ? ledger_amount_add(sum, ledger_posting_change(request, n)) :
					ledger_posting_change(request, n);
		}
		deltas[c] = sum && ledger_amount_sign(sum) ? sum : NULL;
		any |= deltas[c] != NULL;
	}
	return any;
}

/* ---- locks ------------------------------------------------------------------------- */

/* Somebody has changed his row since S: for the first of his accounts in the call. */
static void
count_contended(const PostingRequest *request, const MirrorState *state, const MirrorUser *user,
				const PostingUser *known)
{
	const LedgerAccount *wanted = &request->accounts[state->accounts[user->first]].account;

	for (int i = 0; i < known->naccounts; i++)
	{
		if (known->accounts[i].type == wanted->type &&
			known->accounts[i].currency == wanted->currency)
		{
			ledger_stats_contended(known->accounts[i].id);
			return;
		}
	}
}

/* Locks one row, writing it if that is possible now; true: S must be taken anew. */
static bool
lock_row(PostingRequest *request, MirrorState *state, LegacyTable *table,
		 const MirrorUser *user, MirrorRow *row)
{
	const PostingUser *known = ledger_posting_user(request, &user->user_id);
	bool		opened = ledger_legacy_is_opened(table, known->accounts, known->naccounts);
	bool		moved;

	if (opened && state->mirrors && request->folded &&
		ledger_mirror_deltas(request, user, table, row->deltas) &&
		ledger_plain_add_first(table, &user->user_id, row->deltas, request->snapshot, &row->row))
	{
		row->exists = row->written = state->written = true;
		ledger_stats_lag_begin(true);
		request->changed = true;
		return false;
	}
	row->exists = ledger_legacy_lock_row_first(table, &user->user_id, request->snapshot, &moved) != 0;
	if (moved && user->naccounts > 0)
		count_contended(request, state, user, known);
	return moved || !opened;
}

static bool
lock_rows(PostingRequest *request, MirrorState *state)
{
	MirrorRow  *row = state->rows;
	bool		again = false;
	ListCell   *lc;

	foreach(lc, state->tables)
	{
		for (int i = 0; i < state->nusers; i++)
			again |= lock_row(request, state, lfirst(lc), &state->users[i], row++);
	}
	return again;
}

void
ledger_mirror_lock_user(const pg_uuid_t *user_id)
{
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	bool		moved;
	ListCell   *lc;

	foreach(lc, ledger_legacy_tables())
		(void) ledger_legacy_lock_row_first(lfirst(lc), user_id, snapshot, &moved);
	UnregisterSnapshot(snapshot);
}

/* ---- openings ----------------------------------------------------------------------- */

/*
 * A user without a legacy row has nothing to be opened from; a row that comes
 * later is an outside write. So he counts as opened, marked on whichever of
 * his accounts the call names.
 */
static void
mark_opened(PostingRequest *request, const MirrorState *state, const MirrorUser *user,
			const LegacyTable *table)
{
	request->accounts[state->accounts[user->first]].mark_opened |= table->bit;
}

/*
 * The accounts of all openings to come and of the call itself, to be locked
 * together: an opening posts to the house's account, and whoever holds that
 * may not wait for a user's. NULL: nobody is to be opened.
 */
static PostingRequest *
accounts_to_lock(PostingRequest *request, const MirrorState *state)
{
	PostingRequest *all = NULL;
	const MirrorRow *row = state->rows;
	ListCell   *lc;

	foreach(lc, state->tables)
	{
		for (int i = 0; i < state->nusers; i++, row++)
		{
			const MirrorUser *user = &state->users[i];
			const PostingUser *known = ledger_posting_user(request, &user->user_id);

			if (ledger_legacy_is_opened(lfirst(lc), known->accounts, known->naccounts))
				continue;
			if (!row->exists)
			{
				mark_opened(request, state, user, lfirst(lc));
				continue;
			}
			if (all == NULL)
				all = ledger_posting_new(request->operation, "opening");
			/* the row as it is now, not as it was before we waited for it */
			PushActiveSnapshot(GetTransactionSnapshot());
			ledger_opening_accounts(lfirst(lc), &user->user_id, known->accounts,
									known->naccounts, all);
			PopActiveSnapshot();
		}
	}
	for (int i = 0; all && i < request->naccounts; i++)
	{
		const LedgerAccount *account = &request->accounts[i].account;

		if (request->accounts[i].by_id)
			(void) ledger_posting_account_id(all, account->id);
		else
			(void) ledger_posting_account(all, account->type->name,
										  account->has_user ? &account->user_id : NULL,
										  account->currency->code);
	}
	return all;
}

/* An earlier opening of this call may have given him accounts. */
static void
open_user(PostingRequest *request, LegacyTable *table, const pg_uuid_t *user_id)
{
	LedgerAccount *accounts;
	int			n;

	PushActiveSnapshot(GetTransactionSnapshot());
	n = ledger_accounts_of_user(request->store, user_id, GetActiveSnapshot(), &accounts);
	if (!ledger_legacy_is_opened(table, accounts, n))
		ledger_opening_open(table, user_id, accounts, n);
	PopActiveSnapshot();
}

/* Opens who is to be opened of the users, whose rows are locked; false: nobody. */
static bool
open_users(PostingRequest *request, const MirrorState *state)
{
	PostingRequest *all = accounts_to_lock(request, state);
	const MirrorRow *row = state->rows;
	ListCell   *lc;

	if (all == NULL)
		return false;
	all->is_opening = true;
	all->allow_reserved = true;
	(void) ledger_posting_lock(all);
	ledger_posting_cancel(all);
	foreach(lc, state->tables)
	{
		for (int i = 0; i < state->nusers; i++, row++)
		{
			if (row->exists)
				open_user(request, lfirst(lc), &state->users[i].user_id);
		}
	}
	return true;
}

/*
 * From here on the transaction has posted for them: what it has written to
 * their rows by itself is no outside write. true: S must be taken anew.
 */
static bool
touch_users(PostingRequest *request, const MirrorState *state)
{
	bool		again = false;
	ListCell   *lc;

	foreach(lc, state->tables)
	{
		for (int i = 0; i < state->nusers; i++)
			again |= ledger_capture_take_back(lfirst(lc), &state->users[i].user_id,
											  state->mirrors);
	}
	for (int i = 0; i < state->nusers; i++)
		ledger_compare_touch(&state->users[i].user_id, request->settings);
	return again;
}

/* ---- the hook ------------------------------------------------------------------------ */

/* Each user's accounts as S sees them, in the order of the users. */
static void
read_users(PostingRequest *request, const MirrorState *state)
{
	request->nusers = state->nusers;
	request->users = palloc(sizeof(PostingUser) * state->nusers);
	for (int i = 0; i < state->nusers; i++)
	{
		PostingUser *user = &request->users[i];

		user->user_id = state->users[i].user_id;
		user->naccounts = ledger_accounts_of_user(request->store, &user->user_id,
												  request->snapshot, &user->accounts);
	}
}

bool
ledger_mirror_lock(PostingRequest *request)
{
	MirrorState *state = request->hook_state ? request->hook_state : begin(request);

	if (state->phase == MIRROR_LOCK)
		ledger_stats_lag_forget();
	if (state->tables == NIL)
		return false;
	read_users(request, state);
	if (state->phase == MIRROR_LOCK)
	{
		state->phase = MIRROR_OPEN;
		if (lock_rows(request, state))
			return true;
	}
	if (state->phase == MIRROR_OPEN)
	{
		state->phase = MIRROR_TOUCH;
		if (open_users(request, state))
			return true;
	}
	if (state->phase == MIRROR_TOUCH)
	{
		state->phase = MIRROR_READY;
		if (touch_users(request, state))
			return true;
	}
	return false;
}
