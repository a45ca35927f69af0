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
#include "compare.h"
#include "evidence.h"
#include "inbox.h"
#include "legacy_plain.h"
#include "mirror.h"
#include "own_writes.h"
#include "place.h"
#include "repair.h"
#include "stripe.h"
#include "settings.h"
#include "stats.h"
#include "store.h"
#include "worker.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	ledger_store_init();
	ledger_settings_init();
	ledger_account_type_init();
	ledger_place_init();
	ledger_stripe_init();
	ledger_legacy_init();
	ledger_plain_init();
	ledger_compare_init();
	ledger_mirror_init();
	ledger_capture_init();
	ledger_own_writes_init();
	ledger_repair_init();
	ledger_inbox_init();
	ledger_evidence_init();
	ledger_stats_init();
	ledger_worker_init();
	ledger_launcher_init();
	MarkGUCPrefixReserved("ledger");
}
