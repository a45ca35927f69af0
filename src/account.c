/*
 * account.c
 *		Accounts: find, open, lock, update.
 *
 * An account's row is read into a LedgerAccount and written back from it; the
 * order in which accounts are locked is posting.c's.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "account.h"
#include "amount.h"
#include "errors.h"
#include "place.h"

#define ROOM_PERCENT	35		/* of a page, for new versions of its rows */

enum
{
	ACCOUNT_ID, ACCOUNT_USER, ACCOUNT_TYPE, ACCOUNT_CURRENCY, ACCOUNT_EXTERNAL,
	ACCOUNT_STATUS, ACCOUNT_MIN, ACCOUNT_OPENED, ACCOUNT_STRIPES, ACCOUNT_VERSION,
	ACCOUNT_DEBITS, ACCOUNT_CREDITS, ACCOUNT_COLUMNS
};
static const char *const account_columns[] = {
	"id", "user_id", "account_type", "currency", "external_id",
	"status", "min_balance", "opened", "stripes", "version",
	"debits", "credits"
};
static StoreSpec account_spec = {"accounts", account_columns, ACCOUNT_COLUMNS, NULL};

static const char *const status_names[] = {"open", "frozen", "closed"};

/* ---- rows ------------------------------------------------------------------- */

Store *
ledger_accounts_open(LOCKMODE lockmode)
{
	return ledger_store_open(&account_spec, lockmode);
}

const char *
ledger_account_status_name(LedgerAccountStatus status)
{
	return status_names[status];
}

bool
ledger_account_status_parse(const char *name, LedgerAccountStatus *status)
{
	for (int i = 0; i < (int) lengthof(status_names); i++)
	{
		if (strcmp(name, status_names[i]) == 0)
		{
			*status = (LedgerAccountStatus) i;
			return true;
		}
	}
	return false;
}

static bool
text_datum_is(Datum value, const char *string)
{
	text	   *t = DatumGetTextPP(value);
	size_t		len = strlen(string);

	return VARSIZE_ANY_EXHDR(t) == len && memcmp(VARDATA_ANY(t), string, len) == 0;
}

/* What never changes: which account this is. */
static void
read_identity(LedgerAccount *account, Datum *values, bool *isnull)
{
	account->id = DatumGetInt64(values[ACCOUNT_ID]);
	if (account->type == NULL || !text_datum_is(values[ACCOUNT_TYPE], account->type->name))
		account->type = ledger_account_type(TextDatumGetCString(values[ACCOUNT_TYPE]));
	if (account->currency == NULL || !text_datum_is(values[ACCOUNT_CURRENCY], account->currency->code))
		account->currency = ledger_currency(TextDatumGetCString(values[ACCOUNT_CURRENCY]));
	account->has_user = !isnull[ACCOUNT_USER];
	if (account->has_user)
		account->user_id = *DatumGetUUIDP(values[ACCOUNT_USER]);
	account->external_id = isnull[ACCOUNT_EXTERNAL] ? NULL :
		TextDatumGetCString(values[ACCOUNT_EXTERNAL]);
}

static void
read_row(LedgerAccount *account, Datum *values, bool *isnull)
{
	read_identity(account, values, isnull);
	if (text_datum_is(values[ACCOUNT_STATUS], "open"))
		account->status = LEDGER_ACCOUNT_OPEN;
	else if (!ledger_account_status_parse(TextDatumGetCString(values[ACCOUNT_STATUS]),
										  &account->status))
		elog(ERROR, "account " INT64_FORMAT " has no known status", account->id);
	account->min_balance = isnull[ACCOUNT_MIN] ? NULL : DatumGetNumericCopy(values[ACCOUNT_MIN]);
	account->opened = DatumGetInt32(values[ACCOUNT_OPENED]);
	account->stripes = DatumGetInt16(values[ACCOUNT_STRIPES]);
	account->version = DatumGetInt64(values[ACCOUNT_VERSION]);
	account->debits = DatumGetNumericCopy(values[ACCOUNT_DEBITS]);
	account->credits = DatumGetNumericCopy(values[ACCOUNT_CREDITS]);
}

static void
write_row(const LedgerAccount *account, Datum *values, bool *isnull)
{
	memset(isnull, 0, ACCOUNT_COLUMNS * sizeof(bool));
	values[ACCOUNT_ID] = Int64GetDatum(account->id);
	isnull[ACCOUNT_USER] = !account->has_user;
	values[ACCOUNT_USER] = UUIDPGetDatum(&account->user_id);
	values[ACCOUNT_TYPE] = account->type->text;
	values[ACCOUNT_CURRENCY] = account->currency->text;
	isnull[ACCOUNT_EXTERNAL] = account->external_id == NULL;
	values[ACCOUNT_EXTERNAL] = account->external_id ?
		CStringGetTextDatum(account->external_id) : (Datum) 0;
	values[ACCOUNT_STATUS] = CStringGetTextDatum(status_names[account->status]);
	isnull[ACCOUNT_MIN] = account->min_balance == NULL;
	values[ACCOUNT_MIN] = NumericGetDatum(account->min_balance);
	values[ACCOUNT_OPENED] = Int32GetDatum(account->opened);
	values[ACCOUNT_STRIPES] = Int16GetDatum(account->stripes);
	values[ACCOUNT_VERSION] = Int64GetDatum(account->version);
	values[ACCOUNT_DEBITS] = NumericGetDatum(account->debits);
	values[ACCOUNT_CREDITS] = NumericGetDatum(account->credits);
}

/* debits and credits in the account's normal direction, normalised */
Numeric
ledger_account_net(const LedgerAccount *account, Numeric debits, Numeric credits)
{
	Numeric		net = account->type->debit_normal ?
		ledger_amount_sub(debits, credits) : ledger_amount_sub(credits, debits);

	return ledger_amount_normalise(net, account->currency->display_digits);
}

Numeric
ledger_account_balance(const LedgerAccount *account)
{
	return ledger_account_net(account, account->debits, account->credits);
}

/* The lowest balance allowed; NULL: none. */
Numeric
ledger_account_min_balance(const LedgerAccount *account)
{
	return account->min_balance ? account->min_balance : account->type->min_balance;
}

static bool
find(Store *accounts, LedgerAccount *account, const char *index, Snapshot snapshot,
	 const StoreKey *keys, int nkeys)
{
	Datum		values[ACCOUNT_COLUMNS];
	bool		isnull[ACCOUNT_COLUMNS];
	StoreScan  *scan = ledger_store_scan(accounts, index, snapshot, keys, nkeys);
	bool		found = ledger_store_next(scan, ForwardScanDirection, values, isnull,
										  &account->tid);

	if (found)
		read_row(account, values, isnull);
	ledger_store_end(scan);
	return found;
}

/* ---- places ------------------------------------------------------------------ */

static PlaceKey
place_by_id(const LedgerAccount *account)
{
	return (PlaceKey) {.kind = LEDGER_PLACE_ACCOUNT_ID,.id = account->id};
}

static PlaceKey
place_by_name(const LedgerAccount *account)
{
	PlaceKey	key = {.kind = LEDGER_PLACE_ACCOUNT};

	if (account->has_user)
		key.user_id = account->user_id;
	key.part = hash_bytes_extended((const unsigned char *) account->type->name,
								   strlen(account->type->name), 0) ^
		hash_bytes_extended((const unsigned char *) account->currency->code,
							strlen(account->currency->code), 1);
	return key;
}

static void
remember_place(const LedgerAccount *account)
{
	PlaceKey	key = place_by_id(account);

	ledger_place_set(&key, &account->tid);
	if (account->external_id)
		return;
	key = place_by_name(account);
	ledger_place_set(&key, &account->tid);
}

static bool
is_account(const LedgerAccount *found, const LedgerAccount *wanted, bool by_id)
{
	if (by_id)
		return found->id == wanted->id;
	return found->type == wanted->type && found->currency == wanted->currency &&
		found->external_id == NULL && found->has_user == wanted->has_user &&
		(!found->has_user || memcmp(&found->user_id, &wanted->user_id, UUID_LEN) == 0);
}

/* The version that this transaction left, if the snapshot sees it there. */
static bool
find_at_place(Store *accounts, LedgerAccount *account, bool by_id, Snapshot snapshot)
{
	Datum		values[ACCOUNT_COLUMNS];
	bool		isnull[ACCOUNT_COLUMNS];
	LedgerAccount found = *account;
	PlaceKey	key;

	if (!ledger_place_kept())
		return false;
	key = by_id ? place_by_id(account) : place_by_name(account);
	while (ledger_place_get(&key, &found.tid))
	{
		if (ledger_store_fetch(accounts, &found.tid, snapshot, values, isnull))
		{
			read_row(&found, values, isnull);
			if (is_account(&found, account, by_id))
			{
				*account = found;
				return true;
			}
		}
		ledger_place_drop(&key);
	}
	return false;
}

/* ---- finding ------------------------------------------------------------------ */

/* Finds the account of type, user and currency. */
bool
ledger_account_find(Store *accounts, LedgerAccount *account, Snapshot snapshot)
{
	StoreKey	keys[4] = {
		{F_UUID_EQ, UUIDPGetDatum(&account->user_id), !account->has_user, 0},
		{F_TEXTEQ, account->type->text, false, 0},
		{F_TEXTEQ, account->currency->text, false, 0},
		{F_TEXTEQ, (Datum) 0, account->external_id == NULL, 0}
	};

	if (account->external_id == NULL && find_at_place(accounts, account, false, snapshot))
		return true;
	if (account->external_id)
		keys[3].value = CStringGetTextDatum(account->external_id);
	return find(accounts, account, "accounts_identity", snapshot, keys, 4);
}

bool
ledger_account_find_by_id(Store *accounts, LedgerAccount *account, Snapshot snapshot)
{
	StoreKey	key = {F_INT8EQ, Int64GetDatum(account->id), false, 0};

	if (find_at_place(accounts, account, true, snapshot))
		return true;
	return find(accounts, account, "accounts_pkey", snapshot, &key, 1);
}

/* Keeps the list's lowest id first: insertion into a handful. */
static LedgerAccount *
make_room(LedgerAccount **list, int *n, int *max, int64 id)
{
	int			at;

	if (*n == *max)
	{
		*max *= 2;
		*list = repalloc(*list, sizeof(LedgerAccount) * *max);
	}
	for (at = *n; at > 0 && (*list)[at - 1].id > id; at--)
		(*list)[at] = (*list)[at - 1];
	(*n)++;
	return memset(&(*list)[at], 0, sizeof(LedgerAccount));
}

/* Whether this transaction has left places of the user's accounts. */
static bool
has_places(const pg_uuid_t *user_id)
{
	LedgerAccountType *const *list = NULL;
	int			n = 0;

	if (ledger_place_kept())
		list = ledger_account_types(&n);
	for (int i = 0; i < n; i++)
	{
		LedgerAccount account = {.type = list[i],.currency = list[i]->currency,
		.has_user = true,.user_id = *user_id};
		PlaceKey	key;
		ItemPointerData tid;

		if (!account.type->owner_user || account.currency == NULL)
			continue;
		key = place_by_name(&account);
		if (ledger_place_get(&key, &tid))
			return true;
	}
	return false;
}

/*
 * A scan over the user would walk every version that this transaction has left
 * of his accounts; so each of them is looked for by its type.
 */
static int
find_each_type(Store *accounts, const pg_uuid_t *user_id, Snapshot snapshot,
			   LedgerAccount **list, int max)
{
	int			ntypes;
	LedgerAccountType *const *types = ledger_account_types(&ntypes);
	int			n = 0;

	for (int i = 0; i < ntypes; i++)
	{
		LedgerAccount account = {.type = types[i],.currency = types[i]->currency,
		.has_user = true,.user_id = *user_id};

		if (account.type->owner_user && account.currency != NULL &&
			ledger_account_find(accounts, &account, snapshot))
			*make_room(list, &n, &max, account.id) = account;
	}
	return n;
}

void
ledger_accounts_find(Store *accounts, LedgerAccount **list, int n, bool by_id,
					 Snapshot snapshot, bool *found)
{
	StoreScan  *scan = NULL;
	Datum		values[ACCOUNT_COLUMNS];
	bool		isnull[ACCOUNT_COLUMNS];

	for (int i = 0; i < n; i++)
	{
		LedgerAccount *account = list[i];
		StoreKey	id = {F_INT8EQ, Int64GetDatum(account->id), false, 0};
		StoreKey	identity[4] = {
			{F_UUID_EQ, UUIDPGetDatum(&account->user_id), !account->has_user, 0},
			{F_TEXTEQ, (Datum) 0, false, 0}, {F_TEXTEQ, (Datum) 0, false, 0},
			{F_TEXTEQ, (Datum) 0, true, 0}
		};

		CHECK_FOR_INTERRUPTS();
		found[i] = find_at_place(accounts, account, by_id, snapshot);
		if (found[i])
			continue;
		if (!by_id)
		{
			identity[1].value = account->type->text;
			identity[2].value = account->currency->text;
		}
		if (scan)
			ledger_store_rescan(scan, by_id ? &id : identity, by_id ? 1 : 4);
		else
			scan = ledger_store_scan(accounts, by_id ? "accounts_pkey" : "accounts_identity", snapshot,
									 by_id ? &id : identity, by_id ? 1 : 4);
		found[i] = ledger_store_next(scan, ForwardScanDirection, values, isnull, &account->tid);
		if (found[i])
			read_row(account, values, isnull);
	}
	if (scan)
		ledger_store_end(scan);
}

int
ledger_accounts_of_user(Store *accounts, const pg_uuid_t *user_id, Snapshot snapshot,
						LedgerAccount **list)
{
	StoreKey	key = {F_UUID_EQ, UUIDPGetDatum(user_id), false, 0};
	Datum		values[ACCOUNT_COLUMNS];
	bool		isnull[ACCOUNT_COLUMNS];
	StoreScan  *scan;
	ItemPointerData tid;
	int			n = 0;
	int			max = 8;

	*list = palloc(sizeof(LedgerAccount) * max);
	if (has_places(user_id))
		return find_each_type(accounts, user_id, snapshot, list, max);
	scan = ledger_store_scan(accounts, "accounts_identity", snapshot, &key, 1);
	while (ledger_store_next(scan, ForwardScanDirection, values, isnull, &tid))
	{
		LedgerAccount *account = make_room(list, &n, &max, DatumGetInt64(values[ACCOUNT_ID]));

		read_row(account, values, isnull);
		account->tid = tid;
	}
	ledger_store_end(scan);
	return n;
}

StoreScan *
ledger_accounts_of_users_from(Store *accounts, const pg_uuid_t *first, Snapshot snapshot)
{
	StoreKey	key = {F_UUID_GE, UUIDPGetDatum(first), false, BTGreaterEqualStrategyNumber};

	return ledger_store_scan(accounts, "accounts_identity", snapshot, &key, 1);
}

/* The next account, read into *account; false at the end. */
bool
ledger_account_next(StoreScan *scan, LedgerAccount *account)
{
	Datum		values[ACCOUNT_COLUMNS];
	bool		isnull[ACCOUNT_COLUMNS];
	ItemPointerData tid;

	/* no user sorts last */
	if (!ledger_store_next(scan, ForwardScanDirection, values, isnull, &tid) ||
		isnull[ACCOUNT_USER])
		return false;
	memset(account, 0, sizeof(*account));
	read_row(account, values, isnull);
	account->tid = tid;
	return true;
}

/*
 * Inserts the account's row with totals of zero and gives it an id; false, and
 * no id, if somebody's committed row is in the way, which the caller then finds.
 */
bool
ledger_account_insert(Store *accounts, LedgerAccount *account)
{
	Datum		values[ACCOUNT_COLUMNS];
	bool		isnull[ACCOUNT_COLUMNS];

	account->id = nextval_internal(ledger_relation_oid("account_id_seq"), false);
	account->status = LEDGER_ACCOUNT_OPEN;
	account->min_balance = NULL;
	account->opened = 0;
	account->stripes = account->type->stripes;
	account->version = 0;
	account->debits = account->credits = ledger_amount_zero();
	write_row(account, values, isnull);
	ledger_store_leave_room(accounts, ROOM_PERCENT);
	if (ledger_store_insert_new(accounts, "accounts_identity", values, isnull))
		return true;
	account->id = 0;
	return false;
}

StoreBulk *
ledger_accounts_bulk_begin(Store *accounts)
{
	StoreBulk  *bulk = ledger_store_bulk_begin(accounts);

	ledger_store_bulk_leave_room(bulk, ROOM_PERCENT);
	return bulk;
}

void
ledger_account_bulk_add(StoreBulk *bulk, const LedgerAccount *account)
{
	Datum		values[ACCOUNT_COLUMNS];
	bool		isnull[ACCOUNT_COLUMNS];

	write_row(account, values, isnull);
	ledger_store_bulk_add(bulk, values, isnull);
}

TM_Result
ledger_account_update(Store *accounts, LedgerAccount *account, Snapshot snapshot)
{
	Datum		values[ACCOUNT_COLUMNS];
	bool		isnull[ACCOUNT_COLUMNS];

	TM_Result	result;

	write_row(account, values, isnull);
	result = ledger_store_update(accounts, &account->tid, snapshot, values, isnull);
	if (result == TM_Ok)
		remember_place(account);
	return result;
}

/* Locks the account's row and reads it anew. */
TM_Result
ledger_account_lock(Store *accounts, LedgerAccount *account, Snapshot snapshot, bool follow)
{
	Datum		values[ACCOUNT_COLUMNS];
	bool		isnull[ACCOUNT_COLUMNS];
	TM_Result	result;

	result = ledger_store_lock(accounts, &account->tid, snapshot, follow, values, isnull);
	if (result == TM_Ok)
		read_row(account, values, isnull);
	return result;
}
