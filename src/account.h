/*
 * account.h
 *		Accounts: find, open, lock, update.
 */
#ifndef LEDGER_ACCOUNT_H
#define LEDGER_ACCOUNT_H

#include "account_type.h"
#include "store.h"
#include "utils/numeric.h"
#include "utils/uuid.h"

typedef enum LedgerAccountStatus
{
	LEDGER_ACCOUNT_OPEN,
	LEDGER_ACCOUNT_FROZEN,
	LEDGER_ACCOUNT_CLOSED
} LedgerAccountStatus;

/*
 * One account of a call. The caller names it by id, or by type, user and
 * currency; the row part is what was last read of it.
 */
typedef struct LedgerAccount
{
	int64		id;				/* 0: not known yet */
	const LedgerAccountType *type;
	const LedgerCurrency *currency;
	bool		has_user;
	pg_uuid_t	user_id;

	/* the row */
	ItemPointerData tid;
	char	   *external_id;	/* NULL: none */
	LedgerAccountStatus status;
	Numeric		min_balance;	/* of the row; NULL: the type's */
	int			opened;			/* bits: legacy mappings opened from */
	int			stripes;		/* 0: the totals are this row's alone */
	int64		version;
	Numeric		debits;
	Numeric		credits;
} LedgerAccount;

/* balance = the totals in the account's normal direction, normalised. */
extern Numeric ledger_account_balance(const LedgerAccount *account);
extern Numeric ledger_account_net(const LedgerAccount *account, Numeric debits, Numeric credits);
extern Numeric ledger_account_min_balance(const LedgerAccount *account);
extern const char *ledger_account_status_name(LedgerAccountStatus status);
extern bool ledger_account_status_parse(const char *name, LedgerAccountStatus *status);

/* Rows. The store is ledger.accounts, open. */
extern Store *ledger_accounts_open(LOCKMODE lockmode);
extern bool ledger_account_find(Store *accounts, LedgerAccount *account, Snapshot snapshot);

/*
 * Many by one scan of an index, best in the order of its keys: by their ids
 * (by_id), else by type, user and currency. found[i]: whether the row is there.
 */
extern void ledger_accounts_find(Store *accounts, LedgerAccount **list, int n, bool by_id,
								 Snapshot snapshot, bool *found);
extern bool ledger_account_find_by_id(Store *accounts, LedgerAccount *account, Snapshot snapshot);
extern bool ledger_account_insert(Store *accounts, LedgerAccount *account);
/*
 * New rows, complete with id and totals, many at once: see
 * ledger_store_bulk_begin(). Somebody's row in the way raises 23505.
 */
extern StoreBulk *ledger_accounts_bulk_begin(Store *accounts);
extern void ledger_account_bulk_add(StoreBulk *bulk, const LedgerAccount *account);
extern TM_Result ledger_account_update(Store *accounts, LedgerAccount *account, Snapshot snapshot);
extern TM_Result ledger_account_lock(Store *accounts, LedgerAccount *account, Snapshot snapshot,
									 bool follow);

/*
 * Every account of one user, in one index scan, lowest id first. Returns how
 * many; *list is palloc'd.
 */
extern int	ledger_accounts_of_user(Store *accounts, const pg_uuid_t *user_id,
									Snapshot snapshot, LedgerAccount **list);

/*
 * Users' accounts in the order of the users, from that user on; the house's are
 * not among them. ledger_store_end() ends the scan.
 */
extern StoreScan *ledger_accounts_of_users_from(Store *accounts, const pg_uuid_t *first,
												Snapshot snapshot);
extern bool ledger_account_next(StoreScan *scan, LedgerAccount *account);

#endif							/* LEDGER_ACCOUNT_H */
