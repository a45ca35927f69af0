/*
 * stats.h
 *		What is counted and timed, for those who do the work.
 *
 * Each of these is cheap, raises nothing and may be called at any time; where
 * the library is not preloaded, or ledger.track is off, it does nothing.
 */
#ifndef LEDGER_STATS_H
#define LEDGER_STATS_H

extern void ledger_stats_init(void);

/*
 * One read, from begin to end; in between each fetch of a legacy row. A read
 * that raises is not counted.
 */
extern void ledger_stats_read_begin(void);
extern void ledger_stats_fetch_begin(void);
extern void ledger_stats_fetch_end(void);
extern void ledger_stats_read_end(void);

#endif							/* LEDGER_STATS_H */
