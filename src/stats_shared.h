/*
 * stats_shared.h
 *		Counters in shared memory: whose they are, and how they are added up.
 */
#ifndef LEDGER_STATS_SHARED_H
#define LEDGER_STATS_SHARED_H

#include "datatype/timestamp.h"
#include "port/pg_bitutils.h"

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
	STATS_READ_LEDGER,			/* the rest of one that did */
	STATS_READ_LEGACY,			/* the fetch */
	STATS_READS
} StatsRead;

typedef struct StatsCounters
{
	StatsTimes	reads[STATS_READS];
} StatsCounters;

/* What the worker has stored of the reads that have both parts. */
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
