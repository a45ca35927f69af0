/*
 * posting_request.c
 *		A request is filled in: its accounts and its postings.
 *
 * Nothing is looked up but account types and currencies.
 */
#include "postgres.h"

#include "utils/hsearch.h"

#include "posting.h"

#define FEW_ACCOUNTS	16		/* are looked through one by one */

/* An account as it was named; no user is all zeros, and the type says so. */
typedef struct NamedAccount
{
	const LedgerAccountType *type;
	const LedgerCurrency *currency;
	pg_uuid_t	user_id;
	int			index;			/* not part of the key */
} NamedAccount;

PostingRequest *
ledger_posting_new(const char *operation, const char *type)
{
	PostingRequest *request = palloc0(sizeof(PostingRequest));

	request->operation = operation;
	request->type = type;
	request->max_accounts = request->max_lines = 4;
	request->accounts = palloc(sizeof(PostingAccount) * request->max_accounts);
	request->lines = palloc(sizeof(PostingLine) * request->max_lines);
	return request;
}

static PostingAccount *
add_account(PostingRequest *request)
{
	PostingAccount *account;

	if (request->naccounts == request->max_accounts)
	{
		request->max_accounts *= 2;
		request->accounts = repalloc_huge(request->accounts,
										  sizeof(PostingAccount) * request->max_accounts);
	}
	account = &request->accounts[request->naccounts++];
	memset(account, 0, sizeof(*account));
	return account;
}

int
ledger_posting_append_account(PostingRequest *request, const LedgerAccountType *type,
							  const pg_uuid_t *user_id, const LedgerCurrency *currency)
{
	LedgerAccount *account = &add_account(request)->account;

	account->type = type;
	account->currency = currency;
	account->has_user = user_id != NULL;
	if (user_id)
		account->user_id = *user_id;
	return request->naccounts - 1;
}

static NamedAccount *
find_name(PostingRequest *request, const LedgerAccountType *type, const pg_uuid_t *user_id,
		  const LedgerCurrency *currency, bool *found)
{
	NamedAccount key;

	memset(&key, 0, sizeof(key));
	key.type = type;
	key.currency = currency;
	if (user_id)
		key.user_id = *user_id;
	return hash_search(request->names, &key, HASH_ENTER, found);
}

/* Among many accounts: a hash knows those that are named so. */
static int
find_or_append(PostingRequest *request, const LedgerAccountType *type, const pg_uuid_t *user_id,
			   const LedgerCurrency *currency)
{
	NamedAccount *entry;
	bool		found;

	if (request->names == NULL)
	{
		HASHCTL		info = {0};

		info.keysize = offsetof(NamedAccount, index);
		info.entrysize = sizeof(NamedAccount);
		info.hcxt = CurrentMemoryContext;
		request->names = hash_create("ledger posting accounts", 256, &info,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		for (int i = 0; i < request->naccounts; i++)
		{
			const LedgerAccount *account = &request->accounts[i].account;

			if (request->accounts[i].by_id)
				continue;
			entry = find_name(request, account->type, account->has_user ? &account->user_id : NULL,
							  account->currency, &found);
			entry->index = i;
		}
	}
	entry = find_name(request, type, user_id, currency, &found);
	if (!found)
		entry->index = ledger_posting_append_account(request, type, user_id, currency);
	return entry->index;
}

/*
 * The account of that type, user (NULL: the house) and currency (NULL: the
 * type's own); its index in the request.
 */
int
ledger_posting_account(PostingRequest *request, const char *type_name,
					   const pg_uuid_t *user_id, const char *currency_code)
{
	const LedgerAccountType *type = ledger_account_type(type_name);
	const LedgerCurrency *currency = currency_code ? ledger_currency(currency_code) : type->currency;

	if (request->naccounts > FEW_ACCOUNTS)
		return find_or_append(request, type, user_id, currency);
	for (int i = 0; i < request->naccounts; i++)
	{
		const LedgerAccount *account = &request->accounts[i].account;

		if (account->type == type && account->currency == currency &&
			ledger_same_user(account->has_user, &account->user_id, user_id != NULL, user_id))
			return i;
	}
	return ledger_posting_append_account(request, type, user_id, currency);
}

/* The same, not looked for among those there are already. */
int
ledger_posting_new_account(PostingRequest *request, const char *type_name,
						   const pg_uuid_t *user_id)
{
	const LedgerAccountType *type = ledger_account_type(type_name);

	return ledger_posting_append_account(request, type, user_id, type->currency);
}

/* The account of that id; not looked for among those there are already. */
int
ledger_posting_account_id(PostingRequest *request, int64 id)
{
	PostingAccount *account = add_account(request);

	account->by_id = true;
	account->account.id = id;
	return request->naccounts - 1;
}

void
ledger_posting_line(PostingRequest *request, int debit, int credit, Numeric amount)
{
	PostingLine *line;

	if (request->nlines == LEDGER_MAX_POSTINGS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a transaction has at most %d postings", LEDGER_MAX_POSTINGS)));
	if (request->nlines == request->max_lines)
	{
		request->max_lines *= 2;
		request->lines = repalloc(request->lines, sizeof(PostingLine) * request->max_lines);
	}
	line = &request->lines[request->nlines++];
	line->debit = debit;
	line->credit = credit;
	line->amount = amount;
}
