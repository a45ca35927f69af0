/*
 * posting_check.c
 *		Why a posting is refused: each error in one place, as a value that a
 *		single call raises and a batch may keep.
 *
 * Nothing is changed here. What the checks read, the caller has locked where
 * the answer must last.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "amount.h"
#include "compat.h"
#include "errors.h"
#include "posting.h"

/* ---- messages ---------------------------------------------------------------- */

/*
 * Amounts are shown in details to those only who may read balances. A role
 * whose write to a legacy table is captured may not even use the schema.
 */
bool
ledger_may_show_amounts(void)
{
	Oid			argtypes[2] = {UUIDOID, TEXTOID};
	Oid			reader;

	if (ledger_schema_aclcheck(ledger_schema_oid(), GetUserId(), ACL_USAGE) != ACLCHECK_OK)
		return false;
	reader = LookupFuncName(list_make2(makeString("ledger"), makeString("get_account_balance")),
							2, argtypes, true);
	return OidIsValid(reader) &&
		DatumGetBool(DirectFunctionCall2(has_function_privilege_id,
										 ObjectIdGetDatum(reader),
										 CStringGetTextDatum("EXECUTE")));
}

static const char *
account_name(const LedgerAccount *account)
{
	if (!account->has_user)
		return psprintf("%s in %s", account->type->name, account->currency->code);
	return psprintf("%s of user %s", account->type->name,
					DatumGetCString(DirectFunctionCall1(uuid_out,
														UUIDPGetDatum(&account->user_id))));
}

static LedgerRefusal *
refuse_insufficient(const LedgerAccount *account, Numeric before, Numeric min)
{
	Numeric		after = ledger_account_balance(account);
	const char *code = account->currency->code;
	int			digits = account->currency->display_digits;
	char	   *available =
		ledger_amount_out(ledger_amount_normalise(ledger_amount_sub(before, min), digits));
	char	   *needed =
		ledger_amount_out(ledger_amount_normalise(ledger_amount_sub(before, after), digits));

	return ledger_refusal(ERRCODE_LG_INSUFFICIENT_FUNDS,
						  psprintf("insufficient funds in account %s", account_name(account)),
						  ledger_may_show_amounts() ?
						  psprintf("Available is %s %s, the posting needs %s %s.",
								   available, code, needed, code) : NULL,
						  account->has_user ? "Post a smaller amount, or credit the user first." :
						  "Post a smaller amount, or replenish the account first.");
}

static LedgerRefusal *
refuse_not_open(const LedgerAccount *account)
{
	return ledger_refusal(ERRCODE_LG_ACCOUNT_NOT_OPEN,
						  psprintf("account %s is %s", account_name(account),
								   ledger_account_status_name(account->status)),
						  psprintf("Account " INT64_FORMAT " takes no postings.", account->id),
						  psprintf("Open it with set_account_status(%lld, 'open', reason).",
								   (long long) account->id));
}

LedgerRefusal *
ledger_posting_refuse_conflict(const PostingRequest *request, const char *detail)
{
	return ledger_refusal(ERRCODE_LG_IDEMPOTENCY_CONFLICT,
						  psprintf("idempotency key \"%s\" belongs to another request",
								   request->key_text),
						  detail, request->conflict_hint ? request->conflict_hint :
						  "Use a new reference for a new movement.");
}

/* Types of what the ledger posts by itself, and finds again by it. */
LedgerRefusal *
ledger_posting_refuse_type(const char *type)
{
	static const char *const reserved[] = {"captured_write", "repair", "suspense_settlement"};

	for (int i = 0; i < lengthof(reserved); i++)
	{
		if (strcmp(type, reserved[i]) == 0)
			return ledger_refusal(ERRCODE_INVALID_PARAMETER_VALUE,
								  psprintf("transaction type \"%s\" is reserved", type),
								  "The ledger posts it by itself.", "Use a type of your own.");
	}
	return NULL;
}

/* ---- replays ----------------------------------------------------------------- */

bool
ledger_same_user(bool has_a, const pg_uuid_t *a, bool has_b, const pg_uuid_t *b)
{
	return has_a == has_b && (!has_a || memcmp(a, b, UUID_LEN) == 0);
}

/* The account's id as the snapshot has it, which may be newer than the one it was looked for with. */
static int64
id_for_compare(const PostingRequest *request, int n)
{
	const PostingAccount *pa = &request->accounts[n];
	LedgerAccount account = pa->account;

	if (!pa->by_id && account.id == 0)
		(void) ledger_account_find(request->store, &account, request->snapshot);
	return account.id;
}

/* In what the request differs from the transaction that has its key; NULL: in nothing. */
const char *
ledger_posting_difference(PostingRequest *request, const JournalRow *rows, int nrows)
{
	const JournalRow *first = &rows[0];

	if (!ledger_same_user(first->has_user, &first->user_id, request->has_user, &request->user_id))
		return "it is for another user";
	if (strcmp(first->type, request->type) != 0 || first->reverses != request->reverses ||
		!ledger_same_user(first->has_reference, &first->reference_id,
				   request->has_reference, &request->reference_id))
		return "it is another movement";
	if (nrows != request->nlines)
		return "it has other postings";
	for (int i = 0; i < nrows; i++)
	{
		PostingLine *line = &request->lines[i];

		if (rows[i].debit_account_id != id_for_compare(request, line->debit) ||
			rows[i].credit_account_id != id_for_compare(request, line->credit))
			return "it moves other accounts";
		if (ledger_amount_cmp(rows[i].amount, line->amount) != 0)
			return ledger_may_show_amounts() ?
				psprintf("its amount is %s, the request's %s",
						 ledger_amount_out(rows[i].amount), ledger_amount_out(line->amount)) :
				"its amount is another";
	}
	return NULL;
}

LedgerRefusal *
ledger_posting_refuse_replay(PostingRequest *request, int64 id)
{
	JournalRow *rows;
	int			nrows = ledger_journal_transaction(request->journal, id, request->snapshot, &rows);
	const char *detail;
	JournalRow *reversals;
	int			n;

	Assert(nrows > 0);
	detail = ledger_posting_difference(request, rows, nrows);
	if (detail == NULL)
	{
		n = ledger_journal_reversals(request->journal, id, request->snapshot, &reversals);
		if (n == 0 || ledger_amount_cmp(ledger_journal_sum(reversals, n), rows[0].amount) < 0)
			return NULL;
		request->conflict_hint = NULL;
		detail = psprintf("transaction " INT64_FORMAT " has reversed it",
						  reversals[n - 1].transaction_id);
	}
	return ledger_posting_refuse_conflict(request,
										  psprintf("Transaction " INT64_FORMAT " has this key; %s.",
												   id, detail));
}

/* ---- accounts and postings -------------------------------------------------------- */

LedgerRefusal *
ledger_posting_refuse_account(const PostingRequest *request, const LedgerAccount *account)
{
	if (request->allow_reserved || strcmp(account->type->name, LEDGER_PENDING_INVESTMENT) != 0)
		return NULL;
	return ledger_refusal(ERRCODE_LG_NOT_ALLOWED,
						  psprintf("account %s cannot be posted to by %s()",
								   account_name(account), request->operation),
						  "Each balance of " LEDGER_PENDING_INVESTMENT " is the sum of open reservations.",
						  "Use reserve_for_investment(), release_reservation() or execute_investment().");
}

LedgerRefusal *
ledger_posting_refuse_unknown(int64 id)
{
	return ledger_refusal(ERRCODE_LG_NOT_ALLOWED,
						  psprintf("account " INT64_FORMAT " does not exist", id),
						  "No account has that id.", "open_account() returns an account's id.");
}

/* Both legs of a posting are in one currency and two accounts. */
LedgerRefusal *
ledger_posting_refuse_line(const PostingRequest *request, int n)
{
	const PostingLine *line = &request->lines[n];
	const LedgerAccount *debit = &request->accounts[line->debit].account;
	const LedgerAccount *credit = &request->accounts[line->credit].account;

	if (debit == credit)
		return ledger_refusal(ERRCODE_LG_NOT_ALLOWED,
							  psprintf("posting %d debits and credits the same account", n + 1),
							  "A posting moves money from one account to another.",
							  "Name two accounts.");
	if (strcmp(debit->currency->code, credit->currency->code) != 0)
		return ledger_refusal(ERRCODE_LG_NOT_ALLOWED,
							  psprintf("posting %d debits an account in %s and credits one in %s",
									   n + 1, debit->currency->code, credit->currency->code),
							  "A posting is in one currency.",
							  "Change currencies by two postings through fx_clearing.");
	return request->raw_amounts ?
		ledger_amount_refuse(line->amount, debit->currency->code, debit->currency->scale) : NULL;
}

LedgerRefusal *
ledger_posting_refuse_limit(const LedgerAccount *account, Numeric debits, Numeric credits)
{
	Numeric		min = ledger_account_min_balance(account);
	Numeric		before;
	Numeric		after;

	if (account->status != LEDGER_ACCOUNT_OPEN)
		return refuse_not_open(account);
	if (min == NULL || account->stripes > 0)
		return NULL;
	after = ledger_account_balance(account);
	if (ledger_amount_cmp(after, min) >= 0)
		return NULL;
	before = ledger_account_net(account, debits, credits);
	/* below a limit that was raised later, money may still come in */
	return ledger_amount_cmp(after, before) < 0 ? refuse_insufficient(account, before, min) : NULL;
}
