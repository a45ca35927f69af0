/*
 * stats_shared.h
 *		Counters in shared memory: whose they are, and how they are added up.
 */
#ifndef LEDGER_STATS_SHARED_H
#define LEDGER_STATS_SHARED_H

#include "datatype/timestamp.h"
#include "port/pg_bitutils.h"

#include "stats.h"

/*
 * Buckets of a histogram of times: up to 1,024 ns, four for each doubling, and
 * what is above 137 s. ledger.latency_bound() says the same in SQL.
 */
#define STATS_FIRST_BIT		10
#define STATS_LAST_BIT		37
#define STATS_BUCKETS		(2 + 4 * (STATS_LAST_BIT - STATS_FIRST_BIT))

/* All that is here is of uint64: what adds and subtracts takes it as an array. */
typedef struct StatsTimes
{
	uint64		buckets[STATS_BUCKETS];
	uint64		total_ns;
} StatsTimes;

/* A read that fetches a legacy row has both parts. */
typedef enum StatsRead
{
	STATS_READ_ALONE,			/* no legacy row was fetched */
	STATS_READ_LEDGER,			/* one that did, less the fetch and the compare */
	STATS_READ_LEGACY,			/* the fetch */
	STATS_SAMPLE_LEDGER,		/* of the sample: until the accounts are read */
	STATS_SAMPLE_LEGACY,		/* of the sample: the fetch, by SQL */
	STATS_READS
} StatsRead;

/*
 * Errors are counted by SQLSTATE: the rules of class LG, whose places are
 * fixed; others as they turn up, in places that all share; the last for the
 * rest.
 */
#define STATS_RULES		11
#define STATS_CODES		40
#define STATS_OTHER		(STATS_CODES - 1)

typedef struct StatsCalls
{
	uint64		calls;
	uint64		posted;
	uint64		replayed;
	uint64		errors[STATS_CODES];
	StatsTimes	times;
} StatsCalls;

/* Slices of the worker; a name has the place where it first turned up. */
#define STATS_TASKS		16
#define STATS_TASK_NAME	48

typedef struct StatsTask
{
	uint64		runs;
	uint64		failures;
	uint64		total_ns;
} StatsTask;

typedef struct StatsCounters
{
	StatsTimes	reads[STATS_READS];
	StatsCalls	calls[STATS_OPERATIONS];
	uint64		shadow[STATS_SHADOWS];
	StatsTimes	lag;
	StatsTask	tasks[STATS_TASKS];
} StatsCounters;

/* Accounts that were contended, those most often; id 0: a free place. */
#define STATS_ACCOUNTS	32

typedef struct StatsAccount
{
	int64		id;
	int64		count;
} StatsAccount;

/* What the worker has stored of the sample of reads. */
typedef struct StatsFlush
{
	StatsTimes	ledger;
	StatsTimes	legacy;
} StatsFlush;

static inline void
ledger_stats_time(StatsTimes *times, uint64 ns)
{
	int			bit;
	int			bucket = 0;

	if (ns >= UINT64CONST(1) << STATS_LAST_BIT)
		bucket = STATS_BUCKETS - 1;
	else if (ns >= UINT64CONST(1) << STATS_FIRST_BIT)
	{
		bit = pg_leftmost_one_pos64(ns);
		bucket = 1 + 4 * (bit - STATS_FIRST_BIT) + ((ns >> (bit - 2)) & 3);
	}
	times->buckets[bucket]++;
	times->total_ns += ns;
}

/* The place of an SQLSTATE, found or taken; and what is in a place, 0: nothing. */
extern int	ledger_stats_code_place(int sqlstate);
extern int	ledger_stats_code(int place);

/*
 * Whether what is in the place is a refusal by rule: class LG, but a balance
 * discrepancy (LG003), which is nobody's request's fault.
 */
static inline bool
ledger_stats_is_refusal(int place)
{
	return place < STATS_RULES && place != 3 - 1;
}

/* The place of a task's name; -1: there is none left. */
extern int	ledger_stats_task_place(const char *name);
extern void ledger_stats_task_names(char names[STATS_TASKS][STATS_TASK_NAME]);

extern void ledger_stats_count_account(int64 id);
extern void ledger_stats_accounts(StatsAccount *accounts);	/* of this database */

/* From now on this database's counters are shown less what they are now. */
extern void ledger_stats_reset(void);

/* Those of this backend; NULL: nothing is counted. */
extern StatsCounters *ledger_stats_counters(void);

/* This database's, since the last reset; zeros if nothing is counted. palloc'd. */
extern StatsCounters *ledger_stats_now(TimestampTz *reset_at);

/*
 * For the worker: the reads with both parts that are not stored yet; false:
 * none. stored() once they are.
 */
extern bool ledger_stats_take_reads(StatsFlush *taken);
extern void ledger_stats_reads_stored(const StatsFlush *taken);

extern void ledger_stats_shared_init(void);
extern bool ledger_track;

#endif							/* LEDGER_STATS_SHARED_H */
