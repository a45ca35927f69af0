/*
 * capture_post.c
 *		Outside writes that become postings: capture 'post'.
 *
 * A write is stored as kind 'posted' without a transaction_id, and the trigger
 * on ledger.legacy_writes posts it. The event of that trigger is queued with
 * the writer's own statement, as those of foreign keys are, behind all rows
 * that it has written: so what the statement did to a user's row is posted as
 * one, and a row that moves between partitions, which is a DELETE and an
 * INSERT, changes nothing. A row that changes its key is taken from one user
 * and given to another, both or neither: they are posted as one as well.
 * The event of the first write posts them all. PostgreSQL keeps the queue:
 * nothing in memory can be left over.
 *
 * The posting is not mirrored, the row is written already. What the ledger
 * cannot take is recorded with a note; it must not fail the writer, who may
 * know nothing of a ledger. Contention is raised, as any statement raises it.
 *
 * Locks: the writer holds his legacy rows. Then come the settings, the
 * accounts of the opening and of the posting together, as with any posting.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "args.h"
#include "capture_post.h"
#include "mirror.h"
#include "own_writes.h"

/* What one statement did to one user's row. */
typedef struct CapturedUser
{
	pg_uuid_t	user_id;
	OwnWrites	writes;			/* pending */
	PostingRequest *opening;	/* NULL: he is opened */
} CapturedUser;

/* What is posted as one: of one user, or of all between whom rows have moved. */
typedef struct Captured
{
	LegacyTable *table;
	const char *role;			/* who wrote */
	CapturedUser *users;
	int			nusers;
	int64	   *ids;			/* of all their writes, lowest first */
	int			nids;
	PostingRequest *request;
} Captured;

/* ---- which writes ------------------------------------------------------------------------ */

static void
add_user(Captured *captured, const pg_uuid_t *user_id)
{
	CapturedUser *user;

	for (int i = 0; i < captured->nusers; i++)
	{
		if (memcmp(&captured->users[i].user_id, user_id, UUID_LEN) == 0)
			return;
	}
	captured->users = captured->users ?
		repalloc(captured->users, sizeof(CapturedUser) * (captured->nusers + 1)) :
		palloc(sizeof(CapturedUser));
	user = &captured->users[captured->nusers++];
	memset(user, 0, sizeof(*user));
	user->user_id = *user_id;
	ledger_own_writes_read(captured->table, user_id, OWN_WRITES_PENDING, &user->writes);
}

static int
compare_int64(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/* The pending writes of a user and of all with whom he has exchanged rows. */
static void
gather(Captured *captured, const pg_uuid_t *user_id)
{
	int			n = 0;

	add_user(captured, user_id);
	for (int i = 0; i < captured->nusers; i++)
	{
		/* adding one may move the others */
		OwnWrites	writes = captured->users[i].writes;

		n += writes.n;
		for (int j = 0; j < writes.n; j++)
		{
			if (writes.moved[j])
				add_user(captured, &writes.other_user[j]);
		}
	}
	captured->ids = palloc(sizeof(int64) * Max(n, 1));
	for (int i = 0; i < captured->nusers; i++)
	{
		const OwnWrites *writes = &captured->users[i].writes;

		memcpy(captured->ids + captured->nids, writes->ids, sizeof(int64) * writes->n);
		captured->nids += writes->n;
	}
	qsort(captured->ids, captured->nids, sizeof(int64), compare_int64);
}

/* ---- what is to be posted ---------------------------------------------------------------- */

/* {"legacy": table, "operation": "UPDATE", "legacy_writes": [id, ...]} */
static Jsonb *
metadata(const Captured *captured)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"legacy\": ");
	escape_json(&json, captured->table->name);
	appendStringInfo(&json, ", \"operation\": \"%s\", \"legacy_writes\": [",
					 captured->users[0].writes.operations);
	for (int i = 0; i < captured->nids; i++)
		appendStringInfo(&json, "%s" INT64_FORMAT, i ? ", " : "", captured->ids[i]);
	appendStringInfoString(&json, "]}");
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/* One column's change, against legacy_suspense; the refusal if it cannot be posted. */
static LedgerRefusal *
add_line(PostingRequest *request, const pg_uuid_t *user_id, const LegacyColumn *column,
		 Numeric delta)
{
	const LedgerCurrency *currency = ledger_account_type(column->types[0])->currency;
	bool		finite = !numeric_is_nan(delta) && !numeric_is_inf(delta);
	bool		less = finite && ledger_amount_sign(delta) < 0;
	Numeric		amount = less ? ledger_amount_negate(delta) : delta;
	LedgerRefusal *refusal;
	int			user;
	int			house;

	if (finite && ledger_amount_sign(delta) == 0)
		return NULL;
	refusal = ledger_amount_refuse(amount, currency->code, currency->scale);
	if (refusal)
		return refusal;
	amount = ledger_amount_normalise(amount, currency->display_digits);
	user = ledger_posting_account(request, column->types[0], user_id, NULL);
	house = ledger_posting_account(request, LEDGER_LEGACY_SUSPENSE, NULL, currency->code);
	ledger_posting_line(request, less ? user : house, less ? house : user, amount);
	return ledger_posting_refuse_account(request, &request->accounts[user].account);
}

static LedgerRefusal *
fill_request(Captured *captured)
{
	PostingRequest *request = ledger_posting_new("capture", "captured_write");
	LedgerRefusal *refusal = NULL;

	captured->request = request;
	request->has_user = true;
	request->user_id = captured->users[0].user_id;
	request->is_opening = true; /* nothing to lock or mirror: see above */
	request->description = cstring_to_text(psprintf("outside write to %s", captured->table->name));
	request->metadata = metadata(captured);
	for (int i = 0; i < captured->nusers; i++)
	{
		const CapturedUser *user = &captured->users[i];

		for (int c = 0; refusal == NULL && c < captured->table->ncolumns; c++)
		{
			if (user->writes.deltas[c])
				refusal = add_line(request, &user->user_id, &captured->table->columns[c],
								   user->writes.deltas[c]);
		}
	}
	return refusal;
}

/* ---- the opening ------------------------------------------------------------------------- */

/*
 * Looks at the users' rows, and makes the openings of who is not opened; why a
 * row is not the ledger's to follow, or NULL.
 */
static const char *
look_at_rows(Captured *captured)
{
	Store	   *store = ledger_accounts_open(AccessShareLock);
	const char *note = NULL;

	PushActiveSnapshot(GetTransactionSnapshot());
	for (int i = 0; note == NULL && i < captured->nusers; i++)
	{
		CapturedUser *user = &captured->users[i];
		OpeningProblem problem = {NULL, NULL};
		LedgerAccount *accounts;
		LegacyRow	row;
		int			n;

		n = ledger_accounts_of_user(store, &user->user_id, GetActiveSnapshot(), &accounts);
		ledger_legacy_fetch(captured->table, &user->user_id, &row);
		if (row.foreign_constant)
			note = "the row is in another currency than the mapping's";
		else if (!ledger_legacy_is_opened(captured->table, accounts, n))
		{
			user->opening = ledger_opening_request(captured->table, &user->user_id, &row,
												   accounts, n, &problem);
			if (user->opening == NULL)
				note = psprintf("the user cannot be opened: %s", problem.detail);
		}
	}
	PopActiveSnapshot();
	ledger_store_close(store);
	return note;
}

/* Adds a request's accounts and postings to another. */
static void
add_request(PostingRequest *all, const PostingRequest *request)
{
	int		   *index = palloc(sizeof(int) * request->naccounts);

	for (int i = 0; i < request->naccounts; i++)
	{
		const LedgerAccount *account = &request->accounts[i].account;

		index[i] = ledger_posting_account(all, account->type->name,
										  account->has_user ? &account->user_id : NULL,
										  account->currency->code);
	}
	for (int i = 0; i < request->nlines; i++)
		ledger_posting_line(all, index[request->lines[i].debit], index[request->lines[i].credit],
							request->lines[i].amount);
}

/*
 * The posting and the openings before it as one, whose accounts are locked
 * together: see open_users() of mirror_users.c. Without openings the posting.
 */
static PostingRequest *
with_openings(const Captured *captured)
{
	PostingRequest *all = NULL;

	for (int i = 0; i < captured->nusers; i++)
	{
		if (captured->users[i].opening == NULL)
			continue;
		if (all == NULL)
			all = ledger_posting_new("capture", "opening");
		add_request(all, captured->users[i].opening);
	}
	if (all == NULL)
		return captured->request;
	all->is_opening = true;
	add_request(all, captured->request);
	return all;
}

/* ---- the posting ------------------------------------------------------------------------- */

/* The accounts are locked: whether each can take what the lines move. */
static LedgerRefusal *
refuse_limits(const PostingRequest *request)
{
	LedgerRefusal *refusal = NULL;

	for (int i = 0; refusal == NULL && i < request->naccounts; i++)
	{
		const LedgerAccount *before = &request->accounts[i].account;
		LedgerAccount after = *before;

		/* of a striped one only the status is known, and has a say */
		for (int j = 0; before->stripes == 0 && j < request->nlines; j++)
		{
			if (request->lines[j].debit == i)
				ledger_posting_add(&after, true, request->lines[j].amount);
			else if (request->lines[j].credit == i)
				ledger_posting_add(&after, false, request->lines[j].amount);
		}
		refusal = ledger_posting_refuse_limit(&after, before->debits, before->credits);
	}
	return refusal;
}

static const char *
note_of(const LedgerRefusal *refusal)
{
	return refusal->detail ? psprintf("%s: %s", refusal->message, refusal->detail) :
		refusal->message;
}

/* Why nothing is to be posted, before any account is looked at; NULL: fill_request() was done. */
static const char *
why_not(Captured *captured)
{
	LedgerRefusal *refusal;

	if (ledger_has_configured())
		return "the transaction has changed the settings";
	for (int i = 0; i < captured->nusers; i++)
	{
		if (captured->users[i].writes.torn)
			return "the half of the user whose row it was, or is now, is not posted";
	}
	refusal = ledger_posting_refuse_state(ledger_settings_lock());
	if (refusal == NULL)
		refusal = fill_request(captured);
	if (refusal)
		return note_of(refusal);
	return captured->request->nlines == 0 ? "no net change" : NULL;
}

/* The id of the posting; 0: there is none, and *note says why. */
static int64
post(Captured *captured, const char **note)
{
	PostingRequest *all;
	LedgerRefusal *refusal;

	*note = why_not(captured);
	if (*note == NULL)
		*note = look_at_rows(captured);
	if (*note)
		return 0;
	all = with_openings(captured);
	(void) ledger_posting_lock(all);
	refusal = refuse_limits(all);
	if (refusal == NULL && all == captured->request)
		return ledger_posting_apply(all);
	ledger_posting_cancel(all);
	if (refusal)
	{
		*note = note_of(refusal);
		return 0;
	}
	for (int i = 0; i < captured->nusers; i++)
	{
		if (captured->users[i].opening)
			(void) ledger_post(captured->users[i].opening);
	}
	return ledger_post(captured->request);
}

/*
 * As who wrote: what a refusal tells depends on his rights. Since PostgreSQL 18
 * an event fires as who queued it, which is the owner, who stored the write.
 */
static int64
post_as_writer(Captured *captured, const char **note)
{
	Oid			user;
	int			security;
	int64		id;

	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(get_role_oid(captured->role, false),
						   security | SECURITY_LOCAL_USERID_CHANGE);
	id = post(captured, note);
	SetUserIdAndSecContext(user, security);
	return id;
}

/* ---- the trigger on ledger.legacy_writes ------------------------------------------------- */

static Datum
get(HeapTuple tuple, TupleDesc desc, const char *column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, SPI_fnumber(desc, column), &isnull);

	if (isnull || SPI_result != 0)
		elog(ERROR, "a captured write has no %s", column);
	return value;
}

PG_FUNCTION_INFO_V1(ledger_capture_post);

Datum
ledger_capture_post(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Captured	captured = {0};
	const char *note = NULL;
	TupleDesc	desc;
	HeapTuple	tuple;
	int64		id;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) || !TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("capture_post() must be fired AFTER INSERT FOR EACH ROW")));
	tuple = trigger->tg_trigtuple;
	desc = RelationGetDescr(trigger->tg_relation);
	captured.table = ledger_legacy_table_by_id(DatumGetInt16(get(tuple, desc, "mapping_id")));
	if (captured.table == NULL)
		return PointerGetDatum(NULL);
	captured.role = TextDatumGetCString(get(tuple, desc, "acting_role"));
	gather(&captured, DatumGetUUIDP(get(tuple, desc, "user_id")));
	/*
	 * An earlier one's event posts them all, or a posting of the user's has
	 * come first, or it is a row that somebody has put in by hand.
	 */
	id = DatumGetInt64(get(tuple, desc, "id"));
	if (captured.nids > 0 && captured.ids[0] == id)
	{
		int64		posted = post_as_writer(&captured, &note);

		ledger_own_writes_mark(captured.ids, captured.nids, posted ? "posted" : "outside",
							   posted, note);
	}
	return PointerGetDatum(NULL);
}

/* ---- taken back --------------------------------------------------------------------------- */

static int
account_by_id(PostingRequest *request, int64 id)
{
	for (int i = 0; i < request->naccounts; i++)
	{
		if (request->accounts[i].account.id == id)
			return i;
	}
	return ledger_posting_account_id(request, id);
}

/* As reverse_transaction() would, but not mirrored: the row is the writer's. */
static int64
reverse(int64 id)
{
	PostingRequest *request = ledger_posting_new("capture", "reversal");
	Store	   *journal = ledger_journal_open(AccessShareLock);
	JournalRow *rows;
	int			n;

	/* it is this transaction's own: no predicate locks where others insert */
	n = ledger_journal_transaction(journal, id, SnapshotSelf, &rows);
	ledger_store_close(journal);
	if (n == 0)
		elog(ERROR, "transaction " INT64_FORMAT " is gone", id);
	request->is_opening = true;
	request->has_user = rows[0].has_user;
	request->user_id = rows[0].user_id;
	request->reverses = id;
	request->description = cstring_to_text("the transaction has posted for the user itself");
	for (int i = 0; i < n; i++)
	{
		int			debit = account_by_id(request, rows[i].credit_account_id);
		int			credit = account_by_id(request, rows[i].debit_account_id);

		ledger_posting_line(request, debit, credit, rows[i].amount);
	}
	return ledger_post(request);
}

/* The newest first, so that every balance on the way is one that there was. */
static bool
reverse_posted(const OwnWrites *writes)
{
	int64		last = 0;

	for (int i = writes->n - 1; i >= 0; i--)
	{
		if (writes->transaction_ids[i] != 0 && writes->transaction_ids[i] != last)
		{
			last = writes->transaction_ids[i];
			(void) reverse(last);
		}
	}
	return last != 0;
}

bool
ledger_capture_take_back(const LegacyTable *table, const pg_uuid_t *user_id, bool mirrors)
{
	static const char *const note = "the transaction posts for the user itself";
	OwnWrites	posted;
	OwnWrites	pending;
	bool		reversed;

	if (!ledger_own_writes_any())
		return false;
	ledger_own_writes_read(table, user_id, OWN_WRITES_POSTED, &posted);
	reversed = reverse_posted(&posted);
	if (posted.n > 0)
		ledger_own_writes_unpost(&posted, note);
	ledger_own_writes_read(table, user_id, OWN_WRITES_PENDING, &pending);
	if (pending.n > 0)
		ledger_own_writes_mark(pending.ids, pending.n, "outside", 0, note);
	if (mirrors)
		ledger_capture_mark_double(table, user_id);
	return reversed;
}
