/*
 * stats.c
 *		What is counted and timed while the work is done.
 *
 * Each backend adds to a slot of its own in shared memory (stats_shared.c), so
 * there is nothing to wait for. What is begun and not ended, because an error
 * came between, is forgotten by what is begun next.
 */
#include "postgres.h"

#include "portability/instr_time.h"
#include "utils/guc.h"

#include "stats.h"
#include "stats_shared.h"

/* The read that this backend is at. */
static struct
{
	bool		active;
	bool		fetched;		/* a legacy row */
	instr_time	began;
	instr_time	fetch_began;
	instr_time	fetching;		/* time spent in fetches */
} reading;

/* The clock may step back where it is not monotonic. */
static uint64
nanoseconds(instr_time time)
{
	int64		ns = (int64) (INSTR_TIME_GET_DOUBLE(time) * 1e9);

	return Max(ns, 0);
}

void
ledger_stats_read_begin(void)
{
	reading.active = ledger_track && ledger_stats_counters() != NULL;
	if (!reading.active)
		return;
	reading.fetched = false;
	INSTR_TIME_SET_ZERO(reading.fetching);
	INSTR_TIME_SET_CURRENT(reading.began);
}

void
ledger_stats_fetch_begin(void)
{
	if (reading.active)
		INSTR_TIME_SET_CURRENT(reading.fetch_began);
}

void
ledger_stats_fetch_end(void)
{
	instr_time	now;

	if (!reading.active)
		return;
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_ACCUM_DIFF(reading.fetching, now, reading.fetch_began);
	reading.fetched = true;
}

void
ledger_stats_read_end(void)
{
	StatsCounters *counters = ledger_stats_counters();
	instr_time	now;
	uint64		all;
	uint64		fetching;

	if (!reading.active || counters == NULL)
		return;
	reading.active = false;
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, reading.began);
	all = nanoseconds(now);
	if (!reading.fetched)
	{
		ledger_stats_time(&counters->reads[STATS_READ_ALONE], all);
		return;
	}
	fetching = nanoseconds(reading.fetching);
	ledger_stats_time(&counters->reads[STATS_READ_LEGACY], fetching);
	ledger_stats_time(&counters->reads[STATS_READ_LEDGER], all - Min(all, fetching));
}

void
ledger_stats_init(void)
{
	DefineCustomBoolVariable("ledger.track",
							 "Counts and times what the ledger does.",
							 NULL, &ledger_track, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	ledger_stats_shared_init();
}
