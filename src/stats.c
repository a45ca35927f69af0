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

/* A call that is being counted; the innermost is current. */
typedef struct StatsFrame
{
	struct StatsFrame *outer;
	StatsCalls *calls;
	instr_time	began;
	bool		replayed;
	bool		itemised;		/* what it did is counted as it does it */
} StatsFrame;

static StatsFrame *current = NULL;

/* The read that this backend is at. */
static struct
{
	bool		active;
	bool		fetched;		/* a legacy row */
	bool		sample;
	instr_time	began;
	instr_time	accounts;		/* time until they were there; of the sample */
	instr_time	fetch_began;
	instr_time	fetch_ended;
	instr_time	fetching;		/* time spent in fetches */
	instr_time	comparing;		/* and after each, on what it has fetched */
} reading;

#define SAMPLE_EVERY	16
static uint32 nreads = 0;		/* of this backend */

/* The clock may step back where it is not monotonic. */
static uint64
nanoseconds(instr_time time)
{
	int64		ns = (int64) (INSTR_TIME_GET_DOUBLE(time) * 1e9);

	return Max(ns, 0);
}

static StatsCounters *
tracked(void)
{
	return ledger_track ? ledger_stats_counters() : NULL;
}

/* ---- calls ----------------------------------------------------------------------- */

static void
begin(StatsFrame *frame, StatsCalls *calls, bool itemised)
{
	frame->outer = current;
	frame->calls = calls;
	frame->replayed = false;
	frame->itemised = itemised;
	calls->calls++;
	current = frame;
	INSTR_TIME_SET_CURRENT(frame->began);
}

/* Its time, whatever came of it. */
static void
end(StatsFrame *frame)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, frame->began);
	ledger_stats_time(&frame->calls->times, nanoseconds(now));
	current = frame->outer;
}

/* While an error is handled. */
static void
end_with_error(StatsFrame *frame)
{
	end(frame);
	frame->calls->errors[ledger_stats_code_place(geterrcode())]++;
}

Datum
ledger_stats_call(StatsOperation operation, PGFunction function, FunctionCallInfo fcinfo)
{
	StatsCounters *counters = tracked();
	StatsFrame	frame;
	Datum		result;

	if (counters == NULL)
		return function(fcinfo);
	begin(&frame, &counters->calls[operation], operation == STATS_EXPIRE_RESERVATIONS);
	PG_TRY();
	{
		result = function(fcinfo);
	}
	PG_CATCH();
	{
		end_with_error(&frame);
		PG_RE_THROW();
	}
	PG_END_TRY();
	end(&frame);
	if (frame.itemised)
		return result;
	if (frame.replayed)
		frame.calls->replayed++;
	else if (!fcinfo->isnull)
		frame.calls->posted++;
	return result;
}

void
ledger_stats_batch(StatsOperation operation, void (*post) (void *batch), void *batch)
{
	StatsCounters *counters = tracked();
	StatsFrame	frame;

	if (counters == NULL)
	{
		post(batch);
		return;
	}
	begin(&frame, &counters->calls[operation], true);
	PG_TRY();
	{
		post(batch);
	}
	PG_CATCH();
	{
		end_with_error(&frame);
		PG_RE_THROW();
	}
	PG_END_TRY();
	end(&frame);
}

void
ledger_stats_posted(int64 n)
{
	if (current && current->itemised)
		current->calls->posted += n;
}

void
ledger_stats_replayed(int64 n)
{
	if (current && current->itemised)
		current->calls->replayed += n;
	else if (current)
		current->replayed = true;
}

void
ledger_stats_refused(int sqlstate)
{
	if (current && current->itemised)
		current->calls->errors[ledger_stats_code_place(sqlstate)]++;
}

/* ---- reads ------------------------------------------------------------------------ */

void
ledger_stats_read_begin(void)
{
	reading.active = tracked() != NULL;
	if (!reading.active)
		return;
	reading.fetched = false;
	reading.sample = ++nreads % SAMPLE_EVERY == 0;
	INSTR_TIME_SET_ZERO(reading.fetching);
	INSTR_TIME_SET_ZERO(reading.comparing);
	INSTR_TIME_SET_CURRENT(reading.began);
}

void
ledger_stats_read_accounts(void)
{
	if (!reading.active || !reading.sample)
		return;
	INSTR_TIME_SET_CURRENT(reading.accounts);
	INSTR_TIME_SUBTRACT(reading.accounts, reading.began);
}

bool
ledger_stats_samples_fetch(void)
{
	return reading.active && reading.sample;
}

void
ledger_stats_fetch_begin(void)
{
	if (!reading.active)
		return;
	INSTR_TIME_SET_CURRENT(reading.fetch_began);
	if (reading.fetched)
		INSTR_TIME_ACCUM_DIFF(reading.comparing, reading.fetch_began, reading.fetch_ended);
}

void
ledger_stats_fetch_end(void)
{
	if (!reading.active)
		return;
	INSTR_TIME_SET_CURRENT(reading.fetch_ended);
	INSTR_TIME_ACCUM_DIFF(reading.fetching, reading.fetch_ended, reading.fetch_began);
	reading.fetched = true;
}

void
ledger_stats_compare_end(void)
{
	instr_time	now;

	if (!reading.active || !reading.fetched)
		return;
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_ACCUM_DIFF(reading.comparing, now, reading.fetch_ended);
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
	ledger_stats_time(&counters->reads[STATS_READ_LEDGER],
					  all - Min(all, fetching + nanoseconds(reading.comparing)));
	/* in the first the statement was prepared */
	if (reading.sample && nreads > SAMPLE_EVERY)
	{
		ledger_stats_time(&counters->reads[STATS_SAMPLE_LEDGER], nanoseconds(reading.accounts));
		ledger_stats_time(&counters->reads[STATS_SAMPLE_LEGACY], fetching);
	}
}

/* ---- shadow mode -------------------------------------------------------------------- */

static struct
{
	bool		active;
	bool		written;		/* a legacy row */
	instr_time	began;
} lag;

void
ledger_stats_shadow(StatsShadow what)
{
	StatsCounters *counters = tracked();

	if (what == STATS_MIRROR_OK)
		lag.written = true;
	if (counters)
		counters->shadow[what]++;
}

void
ledger_stats_lag_forget(void)
{
	lag.active = false;
}

/* Of several rows the first: one side is complete with the last of its own. */
void
ledger_stats_lag_begin(bool row)
{
	if (lag.active || tracked() == NULL)
		return;
	lag.active = true;
	lag.written = row;
	INSTR_TIME_SET_CURRENT(lag.began);
}

void
ledger_stats_lag_end(void)
{
	StatsCounters *counters = tracked();
	instr_time	now;

	if (!lag.active || !lag.written || counters == NULL)
		return;
	lag.active = false;
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, lag.began);
	ledger_stats_time(&counters->lag, nanoseconds(now));
}

/* ---- accounts, and the worker ---------------------------------------------------------- */

/* It has waited, most likely: a lock that is held so shortly is nothing beside it. */
void
ledger_stats_contended(int64 account_id)
{
	if (tracked())
		ledger_stats_count_account(account_id);
}

static instr_time task_began;

/* Inside the transaction. */
void
ledger_stats_task_begin(void)
{
	(void) ledger_stats_counters();
	INSTR_TIME_SET_CURRENT(task_began);
}

void
ledger_stats_task_end(const char *name, bool failed)
{
	StatsCounters *counters = tracked();
	instr_time	now;
	int			place;

	if (counters == NULL || (place = ledger_stats_task_place(name)) < 0)
		return;
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, task_began);
	counters->tasks[place].runs++;
	counters->tasks[place].failures += failed;
	counters->tasks[place].total_ns += nanoseconds(now);
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
