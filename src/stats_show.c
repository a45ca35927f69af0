/*
 * stats_show.c
 *		The counters of this database as SQL shows them, and their reset.
 *
 * The views of stats.sql are made of these functions. Without the library
 * preloaded they show the same rows with zeros.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "stats_shared.h"

static const char *const operation_names[STATS_OPERATIONS] = {
	"credit_user_usdc", "debit_user_usdc", "move_funds_to_fiat_exposure", "move_funds_to_usdc",
	"reserve_for_investment", "release_reservation", "execute_investment", "expire_reservations",
	"settle_sale", "reverse_transaction", "post", "post_batch", "inbox",
	"convert_buffer", "fund_broker", "replenish_buffer", "open_house_balance"
};

static Datum
ms(uint64 ns)
{
	return Float8GetDatum(ns / 1e6);
}

static Datum
buckets(const StatsTimes *times)
{
	Datum		elements[STATS_BUCKETS];

	for (int i = 0; i < STATS_BUCKETS; i++)
		elements[i] = Int64GetDatum((int64) times->buckets[i]);
	return PointerGetDatum(construct_array(elements, STATS_BUCKETS, INT8OID, 8,
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

static uint64
count_of(const StatsTimes *times)
{
	uint64		count = 0;

	for (int i = 0; i < STATS_BUCKETS; i++)
		count += times->buckets[i];
	return count;
}

static void
put(FunctionCallInfo fcinfo, Datum *values, bool *isnull)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
}

PG_FUNCTION_INFO_V1(ledger_stat_get_operations);
PG_FUNCTION_INFO_V1(ledger_stat_get_errors);
PG_FUNCTION_INFO_V1(ledger_stat_get_times);
PG_FUNCTION_INFO_V1(ledger_stat_get_shadow);
PG_FUNCTION_INFO_V1(ledger_stat_get_accounts);
PG_FUNCTION_INFO_V1(ledger_stat_get_tasks);
PG_FUNCTION_INFO_V1(ledger_stat_reset);

/* () → operation, calls, posted, replayed, refused, failed, total_ms, latency */
Datum
ledger_stat_get_operations(PG_FUNCTION_ARGS)
{
	TimestampTz reset_at;
	StatsCounters *now;

	InitMaterializedSRF(fcinfo, 0);
	now = ledger_stats_now(&reset_at);
	for (int i = 0; i < STATS_OPERATIONS; i++)
	{
		const StatsCalls *calls = &now->calls[i];
		uint64		refused = 0;
		uint64		failed = 0;
		Datum		values[8];
		bool		isnull[8] = {false};

		for (int c = 0; c < STATS_CODES; c++)
		{
			if (ledger_stats_is_refusal(c))
				refused += calls->errors[c];
			else
				failed += calls->errors[c];
		}
		values[0] = CStringGetTextDatum(operation_names[i]);
		values[1] = Int64GetDatum(calls->calls);
		values[2] = Int64GetDatum(calls->posted);
		values[3] = Int64GetDatum(calls->replayed);
		values[4] = Int64GetDatum(refused);
		values[5] = Int64GetDatum(failed);
		values[6] = ms(calls->times.total_ns);
		values[7] = buckets(&calls->times);
		put(fcinfo, values, isnull);
	}
	return (Datum) 0;
}

/* () → operation, sqlstate, refused, count: those that there were; other codes have a NULL */
Datum
ledger_stat_get_errors(PG_FUNCTION_ARGS)
{
	TimestampTz reset_at;
	StatsCounters *now;

	InitMaterializedSRF(fcinfo, 0);
	now = ledger_stats_now(&reset_at);
	for (int i = 0; i < STATS_OPERATIONS * STATS_CODES; i++)
	{
		int			operation = i / STATS_CODES;
		int			place = i % STATS_CODES;
		uint64		count = now->calls[operation].errors[place];
		Datum		values[4];
		bool		isnull[4] = {false};

		if (count == 0)
			continue;
		values[0] = CStringGetTextDatum(operation_names[operation]);
		isnull[1] = place == STATS_OTHER;
		values[1] = isnull[1] ? (Datum) 0 :
			CStringGetTextDatum(unpack_sql_state(ledger_stats_code(place)));
		values[2] = BoolGetDatum(ledger_stats_is_refusal(place));
		values[3] = Int64GetDatum(count);
		put(fcinfo, values, isnull);
	}
	return (Datum) 0;
}

/* () → what, count, total_ms, latency */
Datum
ledger_stat_get_times(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"read_alone", "read_ledger", "read_legacy", "sample_ledger",
	"sample_legacy", "write_lag"};
	TimestampTz reset_at;
	StatsCounters *now;

	InitMaterializedSRF(fcinfo, 0);
	now = ledger_stats_now(&reset_at);
	for (int i = 0; i <= STATS_READS; i++)
	{
		const StatsTimes *times = i < STATS_READS ? &now->reads[i] : &now->lag;
		Datum		values[4];
		bool		isnull[4] = {false};

		values[0] = CStringGetTextDatum(names[i]);
		values[1] = Int64GetDatum(count_of(times));
		values[2] = ms(times->total_ns);
		values[3] = buckets(times);
		put(fcinfo, values, isnull);
	}
	return (Datum) 0;
}

/*
 * () → matches, mismatches, pending, mirror_ok, mirror_failed, bypasses, proofs, proofs_failed,
 * outside_writes, reads_refused, reset_at
 */
Datum
ledger_stat_get_shadow(PG_FUNCTION_ARGS)
{
	Datum		values[STATS_SHADOWS + 1];
	bool		isnull[STATS_SHADOWS + 1] = {false};
	TimestampTz reset_at;
	StatsCounters *now;

	InitMaterializedSRF(fcinfo, 0);
	now = ledger_stats_now(&reset_at);
	for (int i = 0; i < STATS_SHADOWS; i++)
		values[i] = Int64GetDatum(now->shadow[i]);
	values[STATS_SHADOWS] = TimestampTzGetDatum(reset_at);
	isnull[STATS_SHADOWS] = reset_at == 0;
	put(fcinfo, values, isnull);
	return (Datum) 0;
}

/* () → account_id, count */
Datum
ledger_stat_get_accounts(PG_FUNCTION_ARGS)
{
	StatsAccount accounts[STATS_ACCOUNTS];

	InitMaterializedSRF(fcinfo, 0);
	ledger_stats_accounts(accounts);
	for (int i = 0; i < STATS_ACCOUNTS; i++)
	{
		Datum		values[2] = {Int64GetDatum(accounts[i].id), Int64GetDatum(accounts[i].count)};
		bool		isnull[2] = {false};

		if (accounts[i].id != 0)
			put(fcinfo, values, isnull);
	}
	return (Datum) 0;
}

/* () → task, runs, failures, total_ms */
Datum
ledger_stat_get_tasks(PG_FUNCTION_ARGS)
{
	char		names[STATS_TASKS][STATS_TASK_NAME];
	TimestampTz reset_at;
	StatsCounters *now;

	InitMaterializedSRF(fcinfo, 0);
	now = ledger_stats_now(&reset_at);
	ledger_stats_task_names(names);
	for (int i = 0; i < STATS_TASKS && names[i][0] != '\0'; i++)
	{
		Datum		values[4];
		bool		isnull[4] = {false};

		/* another database's worker */
		if (now->tasks[i].runs == 0)
			continue;
		values[0] = CStringGetTextDatum(names[i]);
		values[1] = Int64GetDatum(now->tasks[i].runs);
		values[2] = Int64GetDatum(now->tasks[i].failures);
		values[3] = ms(now->tasks[i].total_ns);
		put(fcinfo, values, isnull);
	}
	return (Datum) 0;
}

Datum
ledger_stat_reset(PG_FUNCTION_ARGS)
{
	ledger_stats_reset();
	PG_RETURN_VOID();
}
