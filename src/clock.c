/*
 * clock.c
 *		The time by which the migration goes, and the clock that tests it.
 *
 * Gates wait for days. A test clock shifts what findings, runs and changes of
 * the settings are stamped with, so that a rehearsal need not. It is one more
 * column of the settings' row, cached with it; a superuser alone may set it,
 * it is logged, and readiness() shows it.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "args.h"
#include "clock.h"
#include "owner.h"
#include "settings.h"
#include "store.h"

#define LOCK_WAIT_MS	5000
#define MAX_SHIFT		(INT64CONST(36525) * USECS_PER_DAY) /* a hundred years */

static TimestampTz
shifted(TimestampTz now, Interval *shift)
{
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												   TimestampTzGetDatum(now),
												   IntervalPGetDatum(shift)));
}

TimestampTz
ledger_clock_of(TimestampTz real)
{
	const LedgerSettings *settings = ledger_settings_peek();
	Interval	shift = settings->test_clock;

	return settings->has_test_clock ? shifted(real, &shift) : real;
}

TimestampTz
ledger_clock(void)
{
	return ledger_clock_of(GetCurrentTimestamp());
}

PG_FUNCTION_INFO_V1(ledger_clock_now);

Datum
ledger_clock_now(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(ledger_clock());
}

static void
log_clock(const LedgerSettings *settings, text *reason)
{
	Oid			types[] = {INTERVALOID, TEXTOID, TEXTOID};
	Datum		values[] = {IntervalPGetDatum(&settings->test_clock),
		CStringGetTextDatum(GetUserNameFromId(GetUserId(), false)),
	PointerGetDatum(reason)};
	OwnerContext saved;

	ledger_spi_as_owner(&saved, "test_clock_log");
	if (SPI_execute_with_args("INSERT INTO ledger.test_clock_log (shift, set_by, reason) VALUES ($1, $2, $3)",
							  lengthof(types), types, values, settings->has_test_clock ? NULL : "n  ",
							  false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not log the test clock");
	ledger_spi_done(&saved);
}

PG_FUNCTION_INFO_V1(ledger_set_test_clock);

/* (shift, reason) */
Datum
ledger_set_test_clock(PG_FUNCTION_ARGS)
{
	text	   *reason;
	LedgerSettings settings;
	Interval	shift = {0};

	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to set a test clock"),
				 errhint("Wait for as long as the gates want.")));
	ledger_arg_required(fcinfo, 1, "reason");
	reason = ledger_arg_reason_text(fcinfo, 1);
	ledger_prevent_read_only("ledger.set_test_clock()");
	if (!PG_ARGISNULL(0))
		shift = *PG_GETARG_INTERVAL_P(0);
	/* it is added part by part, none of which may leave the range of timestamps */
	if (fabs((double) shift.time) + fabs((double) shift.day) * USECS_PER_DAY +
		fabs((double) shift.month) * 31 * USECS_PER_DAY > MAX_SHIFT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a test clock may be at most 100 years off")));
	ledger_settings_lock_exclusive(LOCK_WAIT_MS, InvalidOid);
	settings = *ledger_settings_row();
	settings.test_clock = shift;
	settings.has_test_clock = shift.time != 0 || shift.day != 0 || shift.month != 0;
	ledger_settings_store(&settings);
	log_clock(&settings, reason);
	if (settings.has_test_clock)
		ereport(WARNING,
				(errmsg("the ledger's clock is %s off",
						DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(&shift)))),
				 errdetail("What readiness() says of hours and days is a test from now on.")));
	PG_RETURN_VOID();
}
