/*
 * procedure.c
 *		Procedures that commit.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "tcop/pquery.h"
#include "utils/guc.h"

#include "procedure.h"

void
ledger_procedure_commit(void)
{
	SPI_commit();
	(void) set_config_option("transaction_isolation", "read committed", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SET, true, 0, false);
	EnsurePortalSnapshotExists();
}
