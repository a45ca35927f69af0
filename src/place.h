/*
 * place.h
 *		Where this transaction left the newest version of an account.
 */
#ifndef LEDGER_PLACE_H
#define LEDGER_PLACE_H

#include "storage/itemptr.h"
#include "account.h"

extern void ledger_place_init(void);

/*
 * A hint: to be checked by fetching the row and looking which one it is; if it
 * is another, drop the place and ask again.
 */
extern bool ledger_place_get(const LedgerAccount *account, bool by_id, ItemPointer tid);
extern void ledger_place_drop(const LedgerAccount *account, bool by_id);
extern void ledger_place_set(const LedgerAccount *account);

/* To be called once for each call that posts. */
extern void ledger_place_count_call(void);

#endif							/* LEDGER_PLACE_H */
