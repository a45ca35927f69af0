/*
 * operations.c
 *		The contract's movements as postings.
 *
 * Each SQL function reads and checks its arguments, says which accounts move
 * and posts. The key of a request is operation:reference_type:reference_id.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"

#include "amount.h"
#include "args.h"
#include "errors.h"
#include "journal.h"
#include "operations.h"
#include "posting.h"
#include "reservation.h"
#include "stats.h"

#define USDC	"USDC"
#define USD		"USD"

/* ---- parts of a request --------------------------------------------------------- */

static void
set_user(PostingRequest *request, const pg_uuid_t *user_id)
{
	request->has_user = true;
	request->user_id = *user_id;
}

void
ledger_set_reference(PostingRequest *request, const pg_uuid_t *reference_id,
					 const char *reference_type, const char *own_type)
{
	request->reference_type = reference_type;
	if (reference_id == NULL)
		return;
	if (reference_type == NULL)
		request->reference_type = own_type;
	request->has_reference = true;
	request->reference_id = *reference_id;
	request->key_text = psprintf("%s:%s:%s", request->operation, request->reference_type,
								 ledger_uuid_text(reference_id));
}

/* From one of the user's accounts to another in the other currency, 1:1. */
void
ledger_add_conversion(PostingRequest *request, const pg_uuid_t *user_id,
					  const char *from_type, const char *to_type, Numeric amount)
{
	int			from = ledger_posting_account(request, from_type, user_id, NULL);
	int			to = ledger_posting_account(request, to_type, user_id, NULL);
	const char *sold = request->accounts[from].account.currency->code;
	const char *bought = request->accounts[to].account.currency->code;
	int			clearing_sold = ledger_posting_account(request, LEDGER_FX_CLEARING, NULL, sold);
	int			clearing_bought = ledger_posting_account(request, LEDGER_FX_CLEARING, NULL, bought);

	ledger_posting_line(request, from, clearing_sold, amount);
	ledger_posting_line(request, clearing_bought, to, amount);
}

static text *
required_text(FunctionCallInfo fcinfo, int n, const char *name)
{
	ledger_arg_required(fcinfo, n, name);
	return ledger_arg_text(fcinfo, n, name, LEDGER_MAX_TEXT);
}

/* A reason that somebody can read later: neither NULL nor empty. */
text *
ledger_arg_reason(FunctionCallInfo fcinfo, int n)
{
	ledger_arg_required(fcinfo, n, "reason");
	(void) ledger_arg_name(fcinfo, n, "reason", LEDGER_MAX_TEXT);
	return PG_GETARG_TEXT_PP(n);
}

/* ---- deposits, withdrawals, conversions ------------------------------------------- */

/* (user_id, amount, description, reference_id, reference_type) */
static int64
move_usdc(FunctionCallInfo fcinfo, const char *operation, const char *type, bool credit)
{
	const pg_uuid_t *user_id = ledger_arg_uuid(fcinfo, 0, "user_id");
	Numeric		amount = ledger_arg_amount(fcinfo, 1, USDC);
	PostingRequest *request = ledger_posting_new(operation, type);
	int			user;
	int			buffer;

	set_user(request, user_id);
	request->description = required_text(fcinfo, 2, "description");
	ledger_set_reference(request, ledger_arg_uuid_or_null(fcinfo, 3),
						 ledger_arg_name(fcinfo, 4, "reference_type", LEDGER_MAX_NAME), type);
	user = ledger_posting_account(request, LEDGER_USDC_BALANCE, user_id, NULL);
	buffer = ledger_posting_account(request, LEDGER_SYSTEM_BUFFER_USDC, NULL, NULL);
	if (credit)
		ledger_posting_line(request, buffer, user, amount);
	else
		ledger_posting_line(request, user, buffer, amount);
	return ledger_post(request);
}

static Datum
credit_user_usdc(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(move_usdc(fcinfo, "credit_user_usdc", "deposit", true));
}

static Datum
debit_user_usdc(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(move_usdc(fcinfo, "debit_user_usdc", "withdrawal", false));
}

/* (user_id, amount, description, reference_id) */
static int64
move_funds(FunctionCallInfo fcinfo, const char *operation, const char *from, const char *to)
{
	const pg_uuid_t *user_id = ledger_arg_uuid(fcinfo, 0, "user_id");
	Numeric		amount;
	PostingRequest *request = ledger_posting_new(operation, "conversion");

	(void) ledger_arg_amount(fcinfo, 1, USDC);
	amount = ledger_arg_amount(fcinfo, 1, USD);
	set_user(request, user_id);
	request->description = required_text(fcinfo, 2, "description");
	ledger_set_reference(request, ledger_arg_uuid_or_null(fcinfo, 3), NULL, "conversion");
	ledger_add_conversion(request, user_id, from, to, amount);
	return ledger_post(request);
}

static Datum
move_funds_to_fiat_exposure(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(move_funds(fcinfo, "move_funds_to_fiat_exposure",
							   LEDGER_USDC_BALANCE, LEDGER_FIAT_EXPOSURE));
}

static Datum
move_funds_to_usdc(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(move_funds(fcinfo, "move_funds_to_usdc",
							   LEDGER_FIAT_EXPOSURE, LEDGER_USDC_BALANCE));
}

/* ---- sales -------------------------------------------------------------------------- */

/*
 * (user_id, cost, proceeds, order_id, fill_id): stock at cost leaves, cash
 * comes. Two postings, so that the gain is in the open.
 */
static Datum
settle_sale(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *user_id = ledger_arg_uuid(fcinfo, 0, "user_id");
	Numeric		cost = ledger_arg_amount(fcinfo, 1, USD);
	Numeric		proceeds = ledger_arg_amount(fcinfo, 2, USD);
	const pg_uuid_t *order_id = ledger_arg_uuid(fcinfo, 3, "order_id");
	PostingRequest *request = ledger_posting_new("settle_sale", "investment");
	int			user;
	int			broker;

	set_user(request, user_id);
	ledger_set_fill(request, order_id, ledger_arg_name(fcinfo, 4, "fill_id", LEDGER_MAX_ID));
	user = ledger_posting_account(request, LEDGER_FIAT_EXPOSURE, user_id, NULL);
	broker = ledger_posting_account(request, LEDGER_BROKER_OPERATIONAL, NULL, NULL);
	ledger_posting_line(request, user, broker, cost);
	ledger_posting_line(request, broker, user, proceeds);
	PG_RETURN_INT64(ledger_post(request));
}

/* ---- the house ----------------------------------------------------------------------- */

/* A house type of one currency that the house owns (debit-normal). */
static const LedgerAccountType *
house_asset(FunctionCallInfo fcinfo, int n, const char *argument)
{
	const LedgerAccountType *type;

	ledger_arg_required(fcinfo, n, argument);
	type = ledger_account_type(ledger_arg_name(fcinfo, n, argument, LEDGER_MAX_NAME));
	if (type->owner_user || type->currency == NULL || !type->debit_normal)
		ereport(ERROR,
				(errcode(ERRCODE_LG_NOT_ALLOWED),
				 errmsg("account type %s is not a buffer", type->name),
				 errdetail("A buffer is the house's, in one currency and debit-normal."),
				 errhint("Pass system_buffer_usdc, system_buffer_fiat or a type like them.")));
	return type;
}

/*
 * (from_type, to_type, amount, received, reference_id): amount leaves the one
 * buffer, received comes into the other. fx_clearing moves 1:1; the difference
 * is house_equity's gain or cost.
 */
static Datum
convert_buffer(PG_FUNCTION_ARGS)
{
	const LedgerAccountType *from_type = house_asset(fcinfo, 0, "from_type");
	const LedgerAccountType *to_type = house_asset(fcinfo, 1, "to_type");
	Numeric		amount = ledger_arg_amount(fcinfo, 2, from_type->currency->code);
	Numeric		at_par;			/* the amount, as the currency bought shows it */
	Numeric		received = PG_ARGISNULL(3) ? amount :
		ledger_arg_amount(fcinfo, 3, to_type->currency->code);
	PostingRequest *request = ledger_posting_new("convert_buffer", "conversion");
	const char *sold = from_type->currency->code;
	const char *bought = to_type->currency->code;
	int			from,
				to,
				clearing,
				equity;
	Numeric		difference = ledger_amount_sub(received, amount);
	int			sign = ledger_amount_sign(difference);

	if (from_type->currency == to_type->currency)
		ereport(ERROR,
				(errcode(ERRCODE_LG_NOT_ALLOWED),
				 errmsg("account types %s and %s are both in %s", from_type->name,
						to_type->name, sold),
				 errdetail("A conversion is between two currencies."),
				 errhint("Use fund_broker() or post() within one currency.")));
	at_par = ledger_arg_amount(fcinfo, 2, bought);
	ledger_set_reference(request, ledger_arg_uuid_or_null(fcinfo, 4), NULL, "conversion");
	from = ledger_posting_account(request, from_type->name, NULL, NULL);
	to = ledger_posting_account(request, to_type->name, NULL, NULL);
	clearing = ledger_posting_account(request, LEDGER_FX_CLEARING, NULL, bought);
	ledger_posting_line(request, ledger_posting_account(request, LEDGER_FX_CLEARING, NULL, sold),
						from, amount);
	ledger_posting_line(request, to, clearing, sign < 0 ? received : at_par);
	if (sign != 0)
	{
		equity = ledger_posting_account(request, LEDGER_HOUSE_EQUITY, NULL, bought);
		if (sign > 0)
			ledger_posting_line(request, to, equity,
								ledger_amount_normalise(difference, to_type->currency->display_digits));
		else
			ledger_posting_line(request, equity, clearing,
								ledger_amount_normalise(ledger_amount_negate(difference),
														to_type->currency->display_digits));
	}
	PG_RETURN_INT64(ledger_post(request));
}

/* (amount, reference_id) */
static Datum
fund_broker(PG_FUNCTION_ARGS)
{
	Numeric		amount = ledger_arg_amount(fcinfo, 0, USD);
	PostingRequest *request = ledger_posting_new("fund_broker", "internal_transfer");
	int			broker = ledger_posting_account(request, LEDGER_BROKER_OPERATIONAL, NULL, NULL);
	int			buffer = ledger_posting_account(request, LEDGER_SYSTEM_BUFFER_FIAT, NULL, NULL);

	ledger_set_reference(request, ledger_arg_uuid_or_null(fcinfo, 1), NULL, "funding");
	ledger_posting_line(request, broker, buffer, amount);
	PG_RETURN_INT64(ledger_post(request));
}

/* (account_type, amount, reference_id) */
static Datum
replenish_buffer(PG_FUNCTION_ARGS)
{
	const LedgerAccountType *type = house_asset(fcinfo, 0, "account_type");
	Numeric		amount = ledger_arg_amount(fcinfo, 1, type->currency->code);
	PostingRequest *request = ledger_posting_new("replenish_buffer", "buffer_replenishment");
	int			buffer = ledger_posting_account(request, type->name, NULL, NULL);
	int			equity = ledger_posting_account(request, LEDGER_HOUSE_EQUITY, NULL,
												type->currency->code);

	ledger_set_reference(request, ledger_arg_uuid_or_null(fcinfo, 2), NULL, "replenishment");
	ledger_posting_line(request, buffer, equity, amount);
	PG_RETURN_INT64(ledger_post(request));
}

/* The key of an account's opening: the first one that is not wholly reversed. */
static char *
house_opening_key(const char *type, const char *currency)
{
	char	   *first = psprintf("open_house_balance:%s:%s", type, currency);
	char	   *text = first;
	Store	   *journal = ledger_journal_open(AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());

	for (int n = 1;; n++)
	{
		pg_uuid_t	key;
		JournalRow *rows;
		JournalRow *reversals;
		int64		id;
		int			nreversals;

		ledger_journal_key(text, &key);
		id = ledger_journal_find_key(journal, &key, snapshot);
		if (id == 0)
			break;
		nreversals = ledger_journal_reversals(journal, id, snapshot, &reversals);
		if (nreversals == 0 || ledger_journal_transaction(journal, id, snapshot, &rows) != 1 ||
			ledger_amount_cmp(ledger_journal_sum(reversals, nreversals), rows[0].amount) < 0)
			break;
		text = psprintf("%s:%d", first, n);
	}
	UnregisterSnapshot(snapshot);
	ledger_store_close(journal);
	return text;
}

/*
 * (account_type, currency, amount, reason): what a house account holds when
 * the ledger begins. Keyed on type and currency: once for each account, unless
 * its opening was wrong and has been reversed.
 */
static Datum
open_house_balance(PG_FUNCTION_ARGS)
{
	const LedgerAccountType *type;
	const LedgerCurrency *currency;
	PostingRequest *request = ledger_posting_new("open_house_balance", "opening");
	Numeric		amount;
	int			account;
	int			opening;

	ledger_arg_required(fcinfo, 0, "account_type");
	ledger_arg_required(fcinfo, 1, "currency");
	type = ledger_account_type(ledger_arg_name(fcinfo, 0, "account_type", LEDGER_MAX_NAME));
	currency = ledger_currency(ledger_arg_name(fcinfo, 1, "currency", LEDGER_MAX_NAME));
	amount = ledger_arg_amount(fcinfo, 2, currency->code);
	request->description = ledger_arg_reason(fcinfo, 3);
	if (type->owner_user || strcmp(type->name, LEDGER_OPENING_BALANCE) == 0 ||
		(type->currency && type->currency != currency))
		ereport(ERROR,
				(errcode(ERRCODE_LG_NOT_ALLOWED),
				 errmsg("account type %s in %s takes no opening balance", type->name, currency->code),
				 errdetail("Users are opened from their legacy rows, and opening_balance is the other side of every opening."),
				 errhint("Pass a type of the house, but opening_balance, and its currency.")));
	request->key_text = house_opening_key(type->name, currency->code);
	request->conflict_hint = "An account is opened once; reverse that opening if it is wrong, then open it anew.";
	account = ledger_posting_account(request, type->name, NULL, currency->code);
	opening = ledger_posting_account(request, LEDGER_OPENING_BALANCE, NULL, currency->code);
	if (type->debit_normal)
		ledger_posting_line(request, account, opening, amount);
	else
		ledger_posting_line(request, opening, account, amount);
	PG_RETURN_INT64(ledger_post(request));
}

/* ---- post() ---------------------------------------------------------------------------- */

typedef struct RawPosting
{
	int64		debit;
	int64		credit;
	Numeric		amount;
} RawPosting;

/* Somebody may have altered it; the values are read by place. */
static void
check_posting_type(Oid type)
{
	static const Oid types[] = {INT8OID, INT8OID, NUMERICOID};
	TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);

	for (int i = 0; i < lengthof(types); i++)
	{
		if (i >= desc->natts || TupleDescAttr(desc, i)->atttypid != types[i])
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("type ledger.posting was altered"),
					 errdetail("Its attributes are debit_account bigint, credit_account bigint, amount numeric."),
					 errhint("Create the type as the extension's install script does.")));
	}
	ReleaseTupleDesc(desc);
}

static RawPosting
read_posting(Datum element, bool isnull, int n)
{
	HeapTupleHeader tuple;
	RawPosting	raw;
	bool		debit_null = true;
	bool		credit_null = true;
	bool		amount_null = true;

	if (!isnull)
	{
		tuple = DatumGetHeapTupleHeader(element);
		raw.debit = DatumGetInt64(GetAttributeByNum(tuple, 1, &debit_null));
		raw.credit = DatumGetInt64(GetAttributeByNum(tuple, 2, &credit_null));
		raw.amount = (Numeric) DatumGetPointer(GetAttributeByNum(tuple, 3, &amount_null));
	}
	if (debit_null || credit_null)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("posting %d has no debit or no credit account", n),
				 errhint("Pass ROW(debit_account, credit_account, amount)::ledger.posting.")));
	raw.amount = amount_null ? NULL : DatumGetNumeric(PointerGetDatum(raw.amount));
	/* its currency's scale is checked once the account is known */
	(void) ledger_amount_check(raw.amount, "", INT_MAX, 0);
	return raw;
}

static int
compare_int64(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/* Adds each account once, sorted by id; returns their ids in that order. */
static int64 *
add_accounts(PostingRequest *request, const RawPosting *raw, int n, int *nids)
{
	int64	   *ids = palloc(sizeof(int64) * n * 2);
	int			distinct = 0;

	for (int i = 0; i < n; i++)
	{
		ids[2 * i] = raw[i].debit;
		ids[2 * i + 1] = raw[i].credit;
	}
	qsort(ids, n * 2, sizeof(int64), compare_int64);
	for (int i = 0; i < n * 2; i++)
	{
		if (distinct > 0 && ids[distinct - 1] == ids[i])
			continue;
		ids[distinct++] = ids[i];
		(void) ledger_posting_account_id(request, ids[i]);
	}
	*nids = distinct;
	return ids;
}

static void
add_raw(PostingRequest *request, const RawPosting *raw, int n)
{
	int			nids;
	int64	   *ids = add_accounts(request, raw, n, &nids);

	for (int i = 0; i < n; i++)
	{
		int64	   *debit = bsearch(&raw[i].debit, ids, nids, sizeof(int64), compare_int64);
		int64	   *credit = bsearch(&raw[i].credit, ids, nids, sizeof(int64), compare_int64);

		ledger_posting_line(request, debit - ids, credit - ids, raw[i].amount);
	}
}

static void
add_postings(PostingRequest *request, ArrayType *array)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	RawPosting *raw;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("postings must be an array of one dimension"),
				 errhint("Pass ARRAY[posting, ...].")));
	deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, TYPALIGN_DOUBLE,
					  &elements, &nulls, &n);
	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("postings must not be empty"),
				 errhint("Pass at least one posting.")));
	if (n > LEDGER_MAX_POSTINGS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a transaction has at most %d postings", LEDGER_MAX_POSTINGS),
				 errhint("Split it into several transactions.")));
	check_posting_type(ARR_ELEMTYPE(array));
	raw = palloc(sizeof(RawPosting) * n);
	for (int i = 0; i < n; i++)
		raw[i] = read_posting(elements[i], nulls[i], i + 1);
	add_raw(request, raw, n);
}

static Jsonb *
arg_metadata(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		return NULL;
	ledger_refusal_raise(ledger_refuse_metadata(PG_GETARG_DATUM(n)));
	return PG_GETARG_JSONB_P(n);
}

/*
 * (type, postings, idempotency_key, user_id, reference_id, reference_type,
 * description, metadata, effective_at)
 */
static Datum
post_transaction(PG_FUNCTION_ARGS)
{
	PostingRequest *request;
	const char *key;

	ledger_arg_required(fcinfo, 0, "type");
	ledger_arg_required(fcinfo, 1, "postings");
	request = ledger_posting_new("post", ledger_arg_name(fcinfo, 0, "type", LEDGER_MAX_NAME));
	ledger_refusal_raise(ledger_posting_refuse_type(request->type));
	request->raw_amounts = true;
	add_postings(request, PG_GETARG_ARRAYTYPE_P(1));
	key = ledger_arg_name(fcinfo, 2, "idempotency_key", LEDGER_MAX_KEY);
	if (!PG_ARGISNULL(3))
		set_user(request, PG_GETARG_UUID_P(3));
	ledger_set_reference(request, ledger_arg_uuid_or_null(fcinfo, 4),
						 ledger_arg_name(fcinfo, 5, "reference_type", LEDGER_MAX_NAME),
						 request->type);
	if (key)
		request->key_text = key;
	request->description = ledger_arg_text(fcinfo, 6, "description", LEDGER_MAX_TEXT);
	request->metadata = arg_metadata(fcinfo, 7);
	request->has_effective_at = !PG_ARGISNULL(8);
	if (request->has_effective_at)
	{
		request->effective_at = PG_GETARG_TIMESTAMPTZ(8);
		ledger_refusal_raise(ledger_refuse_effective_at(request->effective_at));
	}
	PG_RETURN_INT64(ledger_post(request));
}

/* ---- reversal ---------------------------------------------------------------------------- */

RepairHook	ledger_repair_hook;

static void
not_reversible(int64 id, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_LG_NOT_REVERSIBLE),
			 errmsg("cannot reverse transaction " INT64_FORMAT, id),
			 errdetail_internal("%s", detail),
			 errhint("%s", hint)));
}

/* The postings of the original, each turned round; amount NULL: the whole. */
static void
mirror_postings(PostingRequest *request, const JournalRow *rows, int n, Numeric amount)
{
	RawPosting *raw = palloc(sizeof(RawPosting) * n);

	for (int i = 0; i < n; i++)
	{
		raw[i].debit = rows[i].credit_account_id;
		raw[i].credit = rows[i].debit_account_id;
		raw[i].amount = amount ? amount : rows[i].amount;
	}
	add_raw(request, raw, n);
}

/* A part of a transaction can be reversed if all its postings have one amount. */
static bool
is_partial(const JournalRow *rows, int n, Numeric amount)
{
	if (amount == NULL)
		return false;
	if (strcmp(rows[0].type, "repair") == 0)
		not_reversible(rows[0].transaction_id, "It is a repair, which is undone as a whole.",
					   "Reverse it with amount NULL.");
	for (int i = 1; i < n; i++)
	{
		if (ledger_amount_cmp(rows[i].amount, rows[0].amount) != 0)
			not_reversible(rows[0].transaction_id, "Its postings have several amounts.",
						   "Reverse the whole transaction, with amount NULL.");
	}
	return ledger_amount_cmp(amount, rows[0].amount) != 0;
}

/*
 * Under the lock of the original's first row: never more than the original in
 * total. A reversal that the transaction's snapshot does not see is 40001.
 */
static void
check_earlier_reversals(PostingRequest *request, const JournalRow *first)
{
	Snapshot	latest = RegisterSnapshot(GetLatestSnapshot());
	JournalRow *reversals;
	JournalRow *seen;
	Numeric		total;
	int			n;

	n = ledger_journal_reversals(request->journal, first->transaction_id, latest, &reversals);
	UnregisterSnapshot(latest);
	if (IsolationUsesXactSnapshot() &&
		ledger_journal_reversals(request->journal, first->transaction_id, request->snapshot,
								 &seen) != n)
		ledger_store_serialization_failure();
	total = ledger_journal_sum(reversals, n);
	if (ledger_amount_cmp(ledger_amount_add(total, request->lines[0].amount), first->amount) <= 0)
		return;
	if (n == 0)
		not_reversible(first->transaction_id, "The amount is more than the transaction moved.",
					   "Pass at most the transaction's amount.");
	not_reversible(first->transaction_id,
				   ledger_may_show_amounts() ?
				   psprintf("Transaction " INT64_FORMAT " has reversed it; reversed so far is %s of %s.",
							reversals[n - 1].transaction_id, ledger_amount_out(total),
							ledger_amount_out(first->amount)) :
				   psprintf("Transaction " INT64_FORMAT " has reversed it.",
							reversals[n - 1].transaction_id),
				   "Pass at most what is left of it.");
}

static JournalRow *
find_original(int64 id, int *n)
{
	Store	   *journal = ledger_journal_open(AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	JournalRow *rows;

	*n = ledger_journal_transaction(journal, id, snapshot, &rows);
	UnregisterSnapshot(snapshot);
	ledger_store_close(journal);
	if (*n == 0)
		not_reversible(id, "There is no such transaction.", "Pass the id of a transaction.");
	if (rows[0].reverses != 0)
		not_reversible(id, psprintf("It is itself the reversal of transaction " INT64_FORMAT ".",
									rows[0].reverses),
					   "Post the movement again, with a new reference.");
	return rows;
}

/* (transaction_id, reason, amount, reference_id) */
static Datum
reverse_transaction(PG_FUNCTION_ARGS)
{
	int64		id = ledger_arg_int64(fcinfo, 0, "transaction_id");
	text	   *reason = ledger_arg_reason(fcinfo, 1);
	Numeric		amount = PG_ARGISNULL(2) ? NULL : PG_GETARG_NUMERIC(2);
	PostingRequest *request = ledger_posting_new("reverse_transaction", "reversal");
	ReservationPlan *plan;
	JournalRow *rows;
	bool		is_repair;
	int			n;

	if (amount)
		amount = ledger_amount_check(amount, "", INT_MAX, 0);
	rows = find_original(id, &n);
	if (is_partial(rows, n, amount) && PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("reference_id must not be NULL for a partial reversal"),
				 errhint("Pass a reference_id, so that a retry is not a second reversal.")));
	request->has_user = rows[0].has_user;
	request->user_id = rows[0].user_id;
	request->description = reason;
	request->reverses = id;
	request->allow_reserved = true;
	request->raw_amounts = true;
	ledger_set_reference(request, ledger_arg_uuid_or_null(fcinfo, 3), NULL, "reversal");
	mirror_postings(request, rows, n, amount);
	is_repair = strcmp(rows[0].type, "repair") == 0;
	if (is_repair)
	{
		request->is_opening = true;
		ledger_repair_hook.lock_user(&rows[0].user_id);
	}
	if (!ledger_posting_lock(request))
		PG_RETURN_INT64(request->transaction_id);
	ledger_journal_lock(request->journal, &rows[0], request->snapshot);
	if (ledger_posting_replayed_meanwhile(request))
		PG_RETURN_INT64(request->transaction_id);
	check_earlier_reversals(request, &rows[0]);
	plan = ledger_reservation_plan_reversal(request, id);
	ledger_posting_apply(request);
	ledger_reservation_apply(plan, request);
	if (is_repair)
		ledger_repair_hook.reversed(id, request->transaction_id, reason);
	PG_RETURN_INT64(request->transaction_id);
}

/* ---- counted ------------------------------------------------------------------ */

LEDGER_COUNTED(ledger_credit_user_usdc, STATS_CREDIT_USER_USDC, credit_user_usdc);
LEDGER_COUNTED(ledger_debit_user_usdc, STATS_DEBIT_USER_USDC, debit_user_usdc);
LEDGER_COUNTED(ledger_move_funds_to_fiat_exposure, STATS_MOVE_FUNDS_TO_FIAT_EXPOSURE,
			   move_funds_to_fiat_exposure);
LEDGER_COUNTED(ledger_move_funds_to_usdc, STATS_MOVE_FUNDS_TO_USDC, move_funds_to_usdc);
LEDGER_COUNTED(ledger_settle_sale, STATS_SETTLE_SALE, settle_sale);
LEDGER_COUNTED(ledger_convert_buffer, STATS_CONVERT_BUFFER, convert_buffer);
LEDGER_COUNTED(ledger_fund_broker, STATS_FUND_BROKER, fund_broker);
LEDGER_COUNTED(ledger_replenish_buffer, STATS_REPLENISH_BUFFER, replenish_buffer);
LEDGER_COUNTED(ledger_open_house_balance, STATS_OPEN_HOUSE_BALANCE, open_house_balance);
LEDGER_COUNTED(ledger_post_transaction, STATS_POST, post_transaction);
LEDGER_COUNTED(ledger_reverse_transaction, STATS_REVERSE_TRANSACTION, reverse_transaction);
