/*
 * stripe.c
 *		Accounts whose totals are spread over several rows.
 *
 * Every deposit touches system_buffer_usdc. Were its totals one row, each
 * posting would wait for the commit of the one before. So an account without a
 * limit may be striped: its totals are those of its own row, which postings
 * leave alone, and of rows in account_stripes, of which each posting updates
 * one that nobody holds. A transaction that stays open, or is prepared, keeps
 * its stripe and holds up nobody.
 *
 * Finding one: a session begins with the stripe that it used last, and takes
 * the next if that is held. From the look at a stripe to its update it holds a
 * heavyweight lock that stands for the stripe, so that what was seen free is
 * free when it is updated: no update ever waits. It asks for that lock without
 * waiting; who does not get it takes the next stripe.
 *
 * Rows are looked at under a dirty snapshot, which shows who is at work on
 * them and leaves no predicate locks: what is added to a stripe rests on
 * nothing that was read. Under a transaction snapshot a version that it does
 * not see counts as held, because a later read of this transaction would see
 * the amount of others in it.
 *
 * The number of stripes, the status and the limit of a striped account change
 * only under the exclusive lock of the settings, which every posting holds. So
 * a backend remembers which accounts are striped, and no posting reads their
 * rows; the relcache invalidation of account_stripes makes it forget.
 *
 * Memory: what is remembered is a static array; its places of rows are hints
 * that are checked by fetching the row.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "compat.h"
#include "errors.h"
#include "lock_wait.h"
#include "place.h"
#include "stats.h"
#include "stripe.h"

#define MAX_REMEMBERED	64
#define WAIT_MS			500		/* beyond deadlock_timeout, for one stripe of those that are held */
#define PRUNE_OFFSET	48		/* versions on a page before it is worth a look */

enum
{
	STRIPE_ACCOUNT, STRIPE_STRIPE, STRIPE_VERSION, STRIPE_DEBITS, STRIPE_CREDITS, STRIPE_COLUMNS
};
static const char *const stripe_columns[] = {
	"account_id", "stripe", "version", "debits", "credits"
};
static StoreSpec stripe_spec = {"account_stripes", stripe_columns, STRIPE_COLUMNS, NULL};

/* A striped account that this backend has met. */
typedef struct Remembered
{
	int64		id;
	char		type[NAMEDATALEN];
	char		currency[16];
	LedgerAccountStatus status;
	int			stripes;
	int			stripe;			/* used last */
	ItemPointerData tid;		/* where it was then */
} Remembered;

static Remembered remembered[MAX_REMEMBERED];
static int	nremembered = 0;
static Oid	stripe_relid = InvalidOid;	/* of what is remembered */

/* One stripe as it was read. */
typedef struct Stripe
{
	int64		account_id;
	int			stripe;
	int64		version;
	Numeric		debits;
	Numeric		credits;
	ItemPointerData tid;
	TransactionId holder;		/* at work on it; invalid: nobody */
} Stripe;

/* ---- what is remembered ------------------------------------------------------ */

static void
relcache_callback(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == stripe_relid)
		nremembered = 0;
}

void
ledger_stripe_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
}

void
ledger_stripe_invalidate(void)
{
	CacheInvalidateRelcacheByRelid(ledger_store_oid(&stripe_spec));
}

static Remembered *
recall_id(int64 id)
{
	for (int i = 0; i < nremembered; i++)
	{
		if (remembered[i].id == id)
			return &remembered[i];
	}
	return NULL;
}

static Remembered *
recall_name(const LedgerAccount *account)
{
	if (account->has_user || account->external_id || account->type->stripes == 0)
		return NULL;
	for (int i = 0; i < nremembered; i++)
	{
		if (strcmp(remembered[i].type, account->type->name) == 0 &&
			strcmp(remembered[i].currency, account->currency->code) == 0)
			return &remembered[i];
	}
	return NULL;
}

bool
ledger_stripe_recall(LedgerAccount *account, bool by_id)
{
	const Remembered *known = by_id ? recall_id(account->id) : recall_name(account);

	if (known == NULL)
		return false;
	account->id = known->id;
	if (by_id)
	{
		account->type = ledger_account_type(known->type);
		account->currency = ledger_currency(known->currency);
	}
	account->status = known->status;
	account->stripes = known->stripes;
	account->has_user = false;
	account->external_id = NULL;
	account->min_balance = NULL;
	return true;
}

/*
 * Nobody locks the row of a striped account, so it is here that a transaction
 * snapshot which does not see its newest version is noticed. Under the
 * settings' lock there will be no newer one.
 */
static void
check_newest(Store *accounts, const LedgerAccount *account)
{
	LedgerAccount newest = {.id = account->id};

	/* what is committed by now, and no predicate locks */
	if (!ledger_account_find_by_id(accounts, &newest, SnapshotSelf) ||
		!ItemPointerEquals(&newest.tid, (ItemPointer) &account->tid))
		ledger_store_serialization_failure();
}

/*
 * Remembers a striped account as it was read under the settings' lock. What a
 * transaction snapshot saw is not remembered: it is read each time.
 */
void
ledger_stripe_remember(Store *accounts, const LedgerAccount *account)
{
	Remembered *known;

	if (account->stripes == 0)
		return;
	if (IsolationUsesXactSnapshot())
	{
		check_newest(accounts, account);
		return;
	}
	if (account->external_id || nremembered == MAX_REMEMBERED || recall_id(account->id))
		return;
	stripe_relid = ledger_store_oid(&stripe_spec);
	known = &remembered[nremembered];
	known->id = account->id;
	strlcpy(known->type, account->type->name, NAMEDATALEN);
	strlcpy(known->currency, account->currency->code, sizeof(known->currency));
	known->status = account->status;
	known->stripes = account->stripes;
	known->stripe = LEDGER_BACKEND_NUMBER % account->stripes;
	ItemPointerSetInvalid(&known->tid);
	nremembered++;
}

/* ---- rows --------------------------------------------------------------------- */

static void
read_row(Stripe *stripe, Datum *values)
{
	stripe->account_id = DatumGetInt64(values[STRIPE_ACCOUNT]);
	stripe->stripe = DatumGetInt16(values[STRIPE_STRIPE]);
	stripe->version = DatumGetInt64(values[STRIPE_VERSION]);
	stripe->debits = DatumGetNumericCopy(values[STRIPE_DEBITS]);
	stripe->credits = DatumGetNumericCopy(values[STRIPE_CREDITS]);
}

static void
write_row(const Stripe *stripe, Datum *values, bool *isnull)
{
	memset(isnull, 0, STRIPE_COLUMNS * sizeof(bool));
	values[STRIPE_ACCOUNT] = Int64GetDatum(stripe->account_id);
	values[STRIPE_STRIPE] = Int16GetDatum(stripe->stripe);
	values[STRIPE_VERSION] = Int64GetDatum(stripe->version);
	values[STRIPE_DEBITS] = NumericGetDatum(stripe->debits);
	values[STRIPE_CREDITS] = NumericGetDatum(stripe->credits);
}

static TransactionId
holder_of(const SnapshotData *dirty)
{
	return TransactionIdIsValid(dirty->xmin) ? dirty->xmin : dirty->xmax;
}

/* At that place, if the stripe is still there. */
static bool
fetch_at(Store *store, ItemPointer tid, Stripe *stripe, SnapshotData *dirty)
{
	Datum		values[STRIPE_COLUMNS];
	bool		isnull[STRIPE_COLUMNS];

	if (!ItemPointerIsValid(tid))
		return false;
	/* a page that is only ever fetched from by place is never pruned otherwise */
	if (ItemPointerGetOffsetNumber(tid) >= PRUNE_OFFSET)
		ledger_store_prune(store, tid);
	if (!ledger_store_fetch(store, tid, dirty, values, isnull) ||
		DatumGetInt64(values[STRIPE_ACCOUNT]) != stripe->account_id ||
		DatumGetInt16(values[STRIPE_STRIPE]) != stripe->stripe)
		return false;
	read_row(stripe, values);
	stripe->tid = *tid;
	stripe->holder = holder_of(dirty);
	return true;
}

static void
fetch_by_index(Store *store, Stripe *stripe, SnapshotData *dirty)
{
	StoreKey	keys[2] = {
		{F_INT8EQ, Int64GetDatum(stripe->account_id), false, 0},
		{F_INT2EQ, Int16GetDatum(stripe->stripe), false, 0}
	};
	StoreScan  *scan = ledger_store_scan(store, "account_stripes_pkey", dirty, keys, 2);
	Datum		values[STRIPE_COLUMNS];
	bool		isnull[STRIPE_COLUMNS];

	if (!ledger_store_next(scan, ForwardScanDirection, values, isnull, &stripe->tid))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("account " INT64_FORMAT " has no stripe %d", stripe->account_id,
						stripe->stripe),
				 errdetail("The row is not in ledger.account_stripes."),
				 errhint("Restore it from a backup; SELECT * FROM ledger.verify() says what is missing.")));
	read_row(stripe, values);
	stripe->holder = holder_of(dirty);
	ledger_store_end(scan);
}

/*
 * Reads the stripe as it is now, with who is at work on it: where it was last
 * seen, else by the index.
 */
static void
find_stripe(Store *store, Stripe *stripe, const Remembered *known)
{
	PlaceKey	place = {.kind = LEDGER_PLACE_STRIPE, .id = stripe->account_id,
	.part = stripe->stripe};
	SnapshotData dirty;
	ItemPointerData tid;

	InitDirtySnapshot(dirty);
	if (known && known->stripe == stripe->stripe)
	{
		tid = known->tid;
		if (fetch_at(store, &tid, stripe, &dirty))
			return;
	}
	while (ledger_place_get(&place, &tid))
	{
		if (fetch_at(store, &tid, stripe, &dirty))
			return;
		ledger_place_drop(&place);
	}
	fetch_by_index(store, stripe, &dirty);
}

/* ---- adding ------------------------------------------------------------------- */

typedef enum StripeResult
{
	STRIPE_ADDED,
	STRIPE_HELD,				/* by a transaction, which may be waited for */
	STRIPE_LOOKED_AT,			/* by a session that is about to update it */
	STRIPE_UNSEEN				/* changed since the snapshot */
} StripeResult;

static void
update_stripe(Store *store, Stripe *stripe, Numeric debits, Numeric credits, int transactions,
			  int digits)
{
	PlaceKey	place = {.kind = LEDGER_PLACE_STRIPE, .id = stripe->account_id,
	.part = stripe->stripe};
	Datum		values[STRIPE_COLUMNS];
	bool		isnull[STRIPE_COLUMNS];

	stripe->version += transactions;
	if (debits)
		stripe->debits = ledger_amount_normalise(ledger_amount_add(stripe->debits, debits), digits);
	if (credits)
		stripe->credits = ledger_amount_normalise(ledger_amount_add(stripe->credits, credits), digits);
	write_row(stripe, values, isnull);
	if (ledger_store_update(store, &stripe->tid, InvalidSnapshot, values, isnull) != TM_Ok)
		elog(ERROR, "stripe %d of account " INT64_FORMAT " changed under its lock",
			 stripe->stripe, stripe->account_id);
	ledger_place_set(&place, &stripe->tid);
}

/* Adds to this one, unless it is held, or not seen by the snapshot (NULL: any). */
static StripeResult
try_stripe(Store *store, Stripe *stripe, const Remembered *known, int digits,
		   Numeric debits, Numeric credits, int transactions, Snapshot snapshot, bool wait)
{
	StripeResult result = STRIPE_ADDED;
	ItemPointerData lock;

	/* not where a row is, but what stands for the stripe wherever it is */
	ItemPointerSet(&lock, (BlockNumber) stripe->account_id, stripe->stripe + FirstOffsetNumber);
	if (!ledger_store_lock_tuple(store, &lock, wait))
		return STRIPE_LOOKED_AT;
	find_stripe(store, stripe, known);
	if (TransactionIdIsValid(stripe->holder))
		result = STRIPE_HELD;
	else if (snapshot && !ledger_store_sees(store, snapshot))
		result = STRIPE_UNSEEN;
	else
		update_stripe(store, stripe, debits, credits, transactions, digits);
	ledger_store_unlock_tuple(store, &lock);
	return result;
}

static void
wait_for_end(const void *holder)
{
	XactLockTableWait(*(const TransactionId *) holder, NULL, NULL, XLTW_None);
}

/*
 * Waits for the holder, but not for good: he may be a transaction that stays,
 * while another stripe becomes free. Long enough for a deadlock to be found. A
 * lock_timeout that the session has set is left to end the wait.
 */
static void
wait_a_while(TransactionId holder)
{
	if (LockTimeout > 0)
		wait_for_end(&holder);
	else
		(void) ledger_lock_within(DeadlockTimeout + WAIT_MS, wait_for_end, &holder);
}

/*
 * Tries all from the one used last on. If all are held one is waited for, and
 * then it begins anew there: any that has become free will do.
 */
static void
add_to_any(Store *store, const LedgerAccount *account, Stripe *stripe, Remembered *known,
		   Numeric debits, Numeric credits, int transactions, Snapshot snapshot)
{
	int			first = known ? known->stripe : LEDGER_BACKEND_NUMBER % account->stripes;

	for (int i = 0;; i++)
	{
		StripeResult result;

		CHECK_FOR_INTERRUPTS();
		stripe->stripe = (first + i) % account->stripes;
		result = try_stripe(store, stripe, known, account->currency->display_digits,
							debits, credits, transactions, snapshot, i >= account->stripes);
		if (result == STRIPE_ADDED)
			return;
		if (i < account->stripes)
			continue;
		if (result == STRIPE_UNSEEN)
			ledger_store_serialization_failure();
		ledger_stats_contended(account->id);
		wait_a_while(stripe->holder);
		first = stripe->stripe;
		i = -1;
	}
}

/* Waits for this one; false: it has changed since the snapshot. */
static bool
add_in_order(Store *store, const LedgerAccount *account, Stripe *stripe, Remembered *known,
			 Numeric debits, Numeric credits, int transactions, Snapshot snapshot)
{
	for (;;)
	{
		switch (try_stripe(store, stripe, known, account->currency->display_digits,
						   debits, credits, transactions, snapshot, true))
		{
			case STRIPE_ADDED:
				return true;
			case STRIPE_HELD:
				ledger_stats_contended(account->id);
				XactLockTableWait(stripe->holder, NULL, NULL, XLTW_None);
				break;
			default:
				if (IsolationUsesXactSnapshot())
					ledger_store_serialization_failure();
				return false;
		}
	}
}

bool
ledger_stripe_add(const LedgerAccount *account, Numeric debits, Numeric credits,
				  int transactions, Snapshot snapshot, int64 order)
{
	Store	   *store = ledger_store_open(&stripe_spec, RowExclusiveLock);
	Remembered *known = recall_id(account->id);
	Stripe		stripe = {account->id};
	bool		added = true;

	if (order == LEDGER_ANY_STRIPE)
		add_to_any(store, account, &stripe, known, debits, credits, transactions,
				   IsolationUsesXactSnapshot() ? snapshot : NULL);
	else
	{
		stripe.stripe = order % account->stripes;
		added = add_in_order(store, account, &stripe, known, debits, credits, transactions,
							 snapshot);
	}
	if (added && known && order == LEDGER_ANY_STRIPE)
	{
		known->stripe = stripe.stripe;
		known->tid = stripe.tid;
	}
	ledger_store_close(store);
	return added;
}

/* ---- all of an account ---------------------------------------------------------- */

/* Calls per_row for each of the account's stripes. */
static void
each_stripe(Store *store, const LedgerAccount *account, Snapshot snapshot,
			void (*per_row) (Store *store, const Stripe *stripe, LedgerAccount *account),
			LedgerAccount *total)
{
	StoreKey	keys[1] = {{F_INT8EQ, Int64GetDatum(account->id), false, 0}};
	StoreScan  *scan = ledger_store_scan(store, "account_stripes_pkey", snapshot, keys, 1);
	Datum		values[STRIPE_COLUMNS];
	bool		isnull[STRIPE_COLUMNS];
	Stripe		stripe;

	while (ledger_store_next(scan, ForwardScanDirection, values, isnull, &stripe.tid))
	{
		read_row(&stripe, values);
		per_row(store, &stripe, total);
	}
	ledger_store_end(scan);
}

static void
sum_row(Store *store, const Stripe *stripe, LedgerAccount *account)
{
	account->version += stripe->version;
	account->debits = ledger_amount_add(account->debits, stripe->debits);
	account->credits = ledger_amount_add(account->credits, stripe->credits);
}

static void
fold_row(Store *store, const Stripe *stripe, LedgerAccount *account)
{
	ItemPointerData tid = stripe->tid;

	sum_row(store, stripe, account);
	if (ledger_store_delete(store, &tid) != TM_Ok)
		elog(ERROR, "stripe %d of account " INT64_FORMAT " changed under the settings' lock",
			 stripe->stripe, stripe->account_id);
}

void
ledger_stripe_sum(LedgerAccount *account, Snapshot snapshot)
{
	Store	   *store;

	if (account->stripes == 0)
		return;
	store = ledger_store_open(&stripe_spec, AccessShareLock);
	each_stripe(store, account, snapshot, sum_row, account);
	ledger_store_close(store);
}

/* All rows at once, each on a page of its own. */
static void
seed(Store *store, const LedgerAccount *account)
{
	Stripe		stripe = {account->id};
	Datum		values[STRIPE_COLUMNS];
	bool		isnull[STRIPE_COLUMNS];

	stripe.debits = stripe.credits = ledger_amount_zero();
	for (stripe.stripe = 0; stripe.stripe < account->stripes; stripe.stripe++)
	{
		write_row(&stripe, values, isnull);
		ledger_store_extend(store);
		ledger_store_insert(store, values, isnull);
	}
}

void
ledger_stripe_change(LedgerAccount *account, int stripes, Snapshot snapshot)
{
	Store	   *store = ledger_store_open(&stripe_spec, RowExclusiveLock);
	int			digits = account->currency->display_digits;

	each_stripe(store, account, snapshot, fold_row, account);
	account->debits = ledger_amount_normalise(account->debits, digits);
	account->credits = ledger_amount_normalise(account->credits, digits);
	CommandCounterIncrement();
	account->stripes = stripes;
	seed(store, account);
	ledger_store_close(store);
	ledger_stripe_invalidate();
}

bool
ledger_stripe_open_account(Store *accounts, LedgerAccount *account)
{
	Store	   *store;

	if (!ledger_account_insert(accounts, account))
		return false;
	if (account->stripes == 0)
		return true;
	store = ledger_store_open(&stripe_spec, RowExclusiveLock);
	seed(store, account);
	ledger_store_close(store);
	/* what this transaction remembers of it goes with it if it is rolled back */
	ledger_stripe_invalidate();
	return true;
}
