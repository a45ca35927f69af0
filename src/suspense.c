/*
 * suspense.c
 *		What captured writes and repairs have left on legacy_suspense, settled.
 *
 * An item is a transaction of such a type. With it count its reversals, its
 * settlements and the reversals of those: what all of them leave on the
 * suspense accounts is what remains of it. A settlement is keyed on the item
 * and the number of settlements before it, so it is found by its key. One that
 * has left several currencies may be settled currency by currency.
 *
 * Locks: those of a posting between house accounts, then the first journal row
 * of the item, as a reversal of it takes it: settlements and reversals of one
 * item follow each other.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "args.h"
#include "errors.h"
#include "operations.h"

/* One suspense account that the item has posted to. */
typedef struct Side
{
	LedgerAccount account;
	Numeric		left;			/* debits less credits of the whole family */
	int64		settled_by;		/* the last settlement that is not reversed; 0: none */
	int64		settled_with;	/* its house account */
	bool		wanted;			/* the house's type has an account in the currency */
	int			suspense;		/* index into the request's accounts, if wanted */
	int			house;
} Side;

typedef struct SuspenseItem
{
	JournalRow *rows;
	int			nrows;
	Side	   *sides;
	int			nsides;

	/* as of a snapshot */
	int			members;		/* transactions of the family */
	int			nsettlements;
} SuspenseItem;

/* ---- the item ------------------------------------------------------------------------------ */

static void
no_item(int64 id, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("transaction " INT64_FORMAT " has nothing on %s to settle", id,
					LEDGER_LEGACY_SUSPENSE),
			 errdetail_internal("%s", detail),
			 errhint("The view ledger.suspense_items lists what is open.")));
}

static void
add_side(SuspenseItem *item, Store *accounts, int64 account_id, Snapshot snapshot)
{
	LedgerAccount account = {0};

	for (int i = 0; i < item->nsides; i++)
	{
		if (item->sides[i].account.id == account_id)
			return;
	}
	account.id = account_id;
	if (!ledger_account_find_by_id(accounts, &account, snapshot))
		elog(ERROR, "account " INT64_FORMAT " is gone", account_id);
	if (strcmp(account.type->name, LEDGER_LEGACY_SUSPENSE) == 0)
		item->sides[item->nsides++].account = account;
}

static void
find_item(SuspenseItem *item, int64 id)
{
	Store	   *journal = ledger_journal_open(AccessShareLock);
	Store	   *accounts = ledger_accounts_open(AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());

	memset(item, 0, sizeof(*item));
	item->nrows = ledger_journal_transaction(journal, id, snapshot, &item->rows);
	if (item->nrows == 0)
		no_item(id, "There is no such transaction.");
	if (strcmp(item->rows[0].type, "captured_write") != 0 &&
		strcmp(item->rows[0].type, "repair") != 0)
		no_item(id, psprintf("It is of type %s.", item->rows[0].type));
	item->sides = palloc0(sizeof(Side) * item->nrows * 2);
	for (int i = 0; i < item->nrows; i++)
	{
		add_side(item, accounts, item->rows[i].debit_account_id, snapshot);
		add_side(item, accounts, item->rows[i].credit_account_id, snapshot);
	}
	UnregisterSnapshot(snapshot);
	ledger_store_close(accounts);
	ledger_store_close(journal);
}

static char *
settlement_key(int64 item_id, int n)
{
	return n == 0 ? psprintf("settle_suspense:" INT64_FORMAT, item_id) :
		psprintf("settle_suspense:" INT64_FORMAT ":%d", item_id, n);
}

/* ---- its family ------------------------------------------------------------------------------ */

static void
count_rows(SuspenseItem *item, const JournalRow *rows, int n)
{
	item->members++;
	for (int i = 0; i < n; i++)
	{
		for (int j = 0; j < item->nsides; j++)
		{
			Side	   *side = &item->sides[j];

			if (rows[i].debit_account_id == side->account.id)
				side->left = ledger_amount_add(side->left, rows[i].amount);
			else if (rows[i].credit_account_id == side->account.id)
				side->left = ledger_amount_sub(side->left, rows[i].amount);
		}
	}
}

/* Counts a transaction and its reversals; whether there are any. */
static bool
count_with_reversals(SuspenseItem *item, Store *journal, const JournalRow *rows, int n, Snapshot snapshot)
{
	JournalRow *reversals;
	int			nreversals = ledger_journal_reversals(journal, rows[0].transaction_id, snapshot,
													  &reversals);

	count_rows(item, rows, n);
	for (int i = 0; i < nreversals; i++)
	{
		JournalRow *reversed;
		int			nreversed = ledger_journal_transaction(journal, reversals[i].transaction_id,
														   snapshot, &reversed);

		count_rows(item, reversed, nreversed);
	}
	return nreversals > 0;
}

/* A settlement that stands: which sides it has settled, and with what. */
static void
note_settlement(SuspenseItem *item, const JournalRow *rows, int n)
{
	for (int i = 0; i < n; i++)
	{
		for (int j = 0; j < item->nsides; j++)
		{
			Side	   *side = &item->sides[j];
			bool		debit = rows[i].debit_account_id == side->account.id;

			if (!debit && rows[i].credit_account_id != side->account.id)
				continue;
			side->settled_by = rows[i].transaction_id;
			side->settled_with = debit ? rows[i].credit_account_id : rows[i].debit_account_id;
		}
	}
}

static void
look(SuspenseItem *item, Store *journal, Snapshot snapshot)
{
	int64		id = item->rows[0].transaction_id;

	item->members = item->nsettlements = 0;
	for (int i = 0; i < item->nsides; i++)
	{
		item->sides[i].left = ledger_amount_zero();
		item->sides[i].settled_by = item->sides[i].settled_with = 0;
	}
	(void) count_with_reversals(item, journal, item->rows, item->nrows, snapshot);
	for (;;)
	{
		pg_uuid_t	key;
		JournalRow *rows;
		int64		settlement;
		int			n;

		ledger_journal_key(settlement_key(id, item->nsettlements), &key);
		settlement = ledger_journal_find_key(journal, &key, snapshot);
		if (settlement == 0)
			return;
		item->nsettlements++;
		n = ledger_journal_transaction(journal, settlement, snapshot, &rows);
		if (!count_with_reversals(item, journal, rows, n, snapshot))
			note_settlement(item, rows, n);
	}
}

/* Under the lock of its first row; what the transaction's snapshot does not see is 40001. */
static void
look_at_latest(SuspenseItem *item, PostingRequest *request)
{
	Snapshot	latest = RegisterSnapshot(GetLatestSnapshot());
	int			members;

	if (IsolationUsesXactSnapshot())
	{
		look(item, request->journal, request->snapshot);
		members = item->members;
		look(item, request->journal, latest);
		if (members != item->members)
			ledger_store_serialization_failure();
	}
	else
		look(item, request->journal, latest);
	UnregisterSnapshot(latest);
}

/* ---- settle_suspense() -------------------------------------------------------------------------- */

static const LedgerAccountType *
arg_house_type(FunctionCallInfo fcinfo, int n)
{
	const LedgerAccountType *type;

	ledger_arg_required(fcinfo, n, "account_type");
	type = ledger_account_type(ledger_arg_name(fcinfo, n, "account_type", LEDGER_MAX_NAME));
	if (type->owner_user || strcmp(type->name, LEDGER_LEGACY_SUSPENSE) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_LG_NOT_ALLOWED),
				 errmsg("account type %s cannot settle suspense", type->name),
				 errdetail("What is on legacy_suspense is settled with an account of the house."),
				 errhint("Pass a type of the house, for example house_equity.")));
	return type;
}

/*
 * The accounts on both sides, in the currencies that the type has; raises LG010
 * if the transaction has left nothing in one of them.
 */
static void
name_accounts(SuspenseItem *item, PostingRequest *request, const LedgerAccountType *type)
{
	const char *left = NULL;
	bool		any = item->nsides == 0;

	for (int i = 0; i < item->nsides; i++)
	{
		Side	   *side = &item->sides[i];

		side->wanted = type->currency == NULL || type->currency == side->account.currency;
		any |= side->wanted;
		left = left ? psprintf("%s and %s", left, side->account.currency->code) :
			side->account.currency->code;
		if (!side->wanted)
			continue;
		side->suspense = ledger_posting_account(request, LEDGER_LEGACY_SUSPENSE, NULL,
												side->account.currency->code);
		side->house = ledger_posting_account(request, type->name, NULL,
											 side->account.currency->code);
	}
	if (!any)
		ereport(ERROR,
				(errcode(ERRCODE_LG_NOT_ALLOWED),
				 errmsg("account type %s is in %s, not in %s", type->name,
						type->currency->code, left),
				 errdetail("The transaction has left %s on legacy_suspense.", left),
				 errhint("Pass a type with an account in that currency, for example house_equity.")));
}

static void
add_lines(const SuspenseItem *item, PostingRequest *request)
{
	for (int i = 0; i < item->nsides; i++)
	{
		const Side *side = &item->sides[i];
		int			sign = side->wanted ? ledger_amount_sign(side->left) : 0;
		Numeric		amount = sign < 0 ? ledger_amount_negate(side->left) : side->left;

		if (sign == 0)
			continue;
		amount = ledger_amount_normalise(amount, side->account.currency->display_digits);
		ledger_posting_line(request, sign > 0 ? side->house : side->suspense,
							sign > 0 ? side->suspense : side->house, amount);
	}
}

static const LedgerAccountType *
type_of_account(const PostingRequest *request, int64 account_id)
{
	LedgerAccount account = {0};
	Snapshot	latest;

	account.id = account_id;
	/* it may have been opened since S, as the settlement may have been made */
	latest = RegisterSnapshot(GetLatestSnapshot());
	if (!ledger_account_find_by_id(request->store, &account, latest))
		elog(ERROR, "account " INT64_FORMAT " is gone", account.id);
	UnregisterSnapshot(latest);
	return account.type;
}

/* Nothing remains in the type's currencies: the settlement with it, if there is one. */
static int64
settled_already(const SuspenseItem *item, const PostingRequest *request, const LedgerAccountType *type)
{
	int64		id = item->rows[0].transaction_id;
	const Side *settled = NULL;

	for (int i = 0; i < item->nsides; i++)
	{
		const Side *side = &item->sides[i];

		if (!side->wanted || side->settled_by == 0)
			continue;
		if (type_of_account(request, side->settled_with) == type)
			return side->settled_by;
		settled = side;
	}
	if (settled == NULL)
		no_item(id, "It was reversed, or its postings cancel out.");
	ereport(ERROR,
			(errcode(ERRCODE_LG_IDEMPOTENCY_CONFLICT),
			 errmsg("transaction " INT64_FORMAT " is settled with another account", id),
			 errdetail("Transaction " INT64_FORMAT " has settled it with %s.", settled->settled_by,
					   type_of_account(request, settled->settled_with)->name),
			 errhint("Reverse that transaction first, then settle it anew.")));
	return 0;
}

PG_FUNCTION_INFO_V1(ledger_settle_suspense);

/* (transaction_id, account_type, reason) */
Datum
ledger_settle_suspense(PG_FUNCTION_ARGS)
{
	int64		id = ledger_arg_int64(fcinfo, 0, "transaction_id");
	const LedgerAccountType *type = arg_house_type(fcinfo, 1);
	PostingRequest *request = ledger_posting_new("settle_suspense", "suspense_settlement");
	SuspenseItem		item;

	request->description = ledger_arg_reason(fcinfo, 2);
	find_item(&item, id);
	name_accounts(&item, request, type);
	request->has_user = item.rows[0].has_user;
	request->user_id = item.rows[0].user_id;
	request->metadata = DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
					CStringGetDatum(psprintf("{\"settles\": " INT64_FORMAT "}", id))));
	(void) ledger_posting_lock(request);
	ledger_journal_lock(request->journal, &item.rows[0], request->snapshot);
	look_at_latest(&item, request);
	add_lines(&item, request);
	if (request->nlines == 0)
	{
		id = settled_already(&item, request, type);
		ledger_posting_cancel(request);
		PG_RETURN_INT64(id);
	}
	/* nobody else can be at it: the item's row is locked */
	request->key_text = settlement_key(id, item.nsettlements);
	ledger_journal_key(request->key_text, &request->key);
	PG_RETURN_INT64(ledger_posting_apply(request));
}
