/*
 * ledger.c
 *		Module magic and initialisation.
 *
 * Dependencies point one way: operations -> posting -> account -> store; the
 * legacy table is one hook of the engine. docs/internals.md has the tour.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"

#include "account.h"
#include "place.h"
#include "settings.h"
#include "store.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	ledger_store_init();
	ledger_settings_init();
	ledger_account_init();
	ledger_place_init();
	MarkGUCPrefixReserved("ledger");
}
