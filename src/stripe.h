/*
 * stripe.h
 *		Accounts whose totals are spread over several rows.
 */
#ifndef LEDGER_STRIPE_H
#define LEDGER_STRIPE_H

#include "account.h"

#define LEDGER_MAX_STRIPES	1024

extern void ledger_stripe_init(void);

/*
 * A striped account as this backend remembers it, by id or by type and
 * currency; false: ask the table. Holds while the settings' lock is held.
 * What was found in the table is given to remember(), which raises 40001 if a
 * transaction snapshot saw an old version of it.
 */
extern bool ledger_stripe_recall(LedgerAccount *account, bool by_id);
extern void ledger_stripe_remember(Store *accounts, const LedgerAccount *account);

/*
 * Inserts the account with the stripes of its type; false, and no id, if
 * somebody's committed row is in the way.
 */
extern bool ledger_stripe_open_account(Store *accounts, LedgerAccount *account);

/*
 * Adds to one stripe of the account (NULL: nothing), what so many transactions
 * move. Without an order it is any
 * that nobody holds, and only if all are held one is waited for. An order says
 * which, waits for it, and false says that somebody was there since the
 * snapshot: nothing has changed. Under a transaction snapshot that is 40001.
 */
#define LEDGER_ANY_STRIPE	(-1)
extern bool ledger_stripe_add(const LedgerAccount *account, Numeric debits, Numeric credits,
							  int transactions, Snapshot snapshot, int64 order);

/* Adds the stripes' totals to those of the account's row. */
extern void ledger_stripe_sum(LedgerAccount *account, Snapshot snapshot);

/*
 * Gives the account, locked, another number of stripes; its row is to be
 * updated by the caller. Nobody posts meanwhile: the settings are locked
 * exclusively.
 */
extern void ledger_stripe_change(LedgerAccount *account, int stripes, Snapshot snapshot);

/* Tells every session to look at striped accounts anew. */
extern void ledger_stripe_invalidate(void);

#endif							/* LEDGER_STRIPE_H */
