/*
 * report.c
 *		ledger.report_html(): the page, which report.sql makes.
 *
 * The page is made as the extension's owner, from tables that the caller may
 * not read; so whether he may see users is asked before, as himself.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "owner.h"
#include "posting.h"

PG_FUNCTION_INFO_V1(ledger_report_html);

Datum
ledger_report_html(PG_FUNCTION_ARGS)
{
	Oid			types[] = {BOOLOID};
	Datum		values[] = {BoolGetDatum(ledger_may_show_amounts())};
	OwnerContext saved;
	bool		isnull;
	Datum		page;

	ledger_spi_as_owner(&saved, "discrepancy_rows");
	if (SPI_execute_with_args("SELECT ledger.report_page($1)", 1, types, values, NULL, true, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not make the report");
	page = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (isnull)
		elog(ERROR, "the report is NULL");
	page = SPI_datumTransfer(page, false, -1);
	ledger_spi_done(&saved);
	return page;
}
