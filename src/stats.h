/*
 * stats.h
 *		What is counted and timed, for those who do the work.
 *
 * Each of these is cheap, raises nothing of its own and may be called at any
 * time; where the library is not preloaded, or ledger.track is off, nothing is
 * counted.
 */
#ifndef LEDGER_STATS_H
#define LEDGER_STATS_H

#include "fmgr.h"

/* In the order of stats_show.c's names. */
typedef enum StatsOperation
{
	STATS_CREDIT_USER_USDC,
	STATS_DEBIT_USER_USDC,
	STATS_MOVE_FUNDS_TO_FIAT_EXPOSURE,
	STATS_MOVE_FUNDS_TO_USDC,
	STATS_RESERVE_FOR_INVESTMENT,
	STATS_RELEASE_RESERVATION,
	STATS_EXECUTE_INVESTMENT,
	STATS_EXPIRE_RESERVATIONS,
	STATS_SETTLE_SALE,
	STATS_REVERSE_TRANSACTION,
	STATS_POST,
	STATS_POST_BATCH,
	STATS_INBOX,
	STATS_CONVERT_BUFFER,
	STATS_FUND_BROKER,
	STATS_REPLENISH_BUFFER,
	STATS_OPEN_HOUSE_BALANCE,
	STATS_OPERATIONS
} StatsOperation;

/* What can come of a compare, and of a write of a legacy row. */
typedef enum StatsShadow
{
	STATS_MATCH,
	STATS_MISMATCH,
	STATS_PENDING,
	STATS_MIRROR_OK,
	STATS_MIRROR_FAILED,
	STATS_BYPASS,				/* of a capture trigger in the replica role */
	STATS_PROOF,				/* of one user, at commit */
	STATS_PROOF_FAILED,
	STATS_OUTSIDE,				/* a captured write, other than those */
	STATS_READ_REFUSED,			/* by strict mode */
	STATS_SHADOWS
} StatsShadow;

extern void ledger_stats_init(void);

/*
 * Calls the function and counts it: calls, time, what came of it. One that
 * returns NULL has posted nothing; what one of many items does is told by
 * ledger_stats_posted() and its like, else a call that returns has posted once.
 */
extern Datum ledger_stats_call(StatsOperation operation, PGFunction function,
							   FunctionCallInfo fcinfo);

/* An SQL function that is counted; the work is a static function's. */
#define LEDGER_COUNTED(name, operation, function) \
	PG_FUNCTION_INFO_V1(name); \
	Datum \
	name(PG_FUNCTION_ARGS) \
	{ \
		return ledger_stats_call(operation, function, fcinfo); \
	} \
	extern Datum name(PG_FUNCTION_ARGS)

/* The same for a batch: its items are counted apart. */
extern void ledger_stats_batch(StatsOperation operation, void (*post) (void *batch), void *batch);

/* What the call that is being counted has done so often; a replay moves nothing. */
extern void ledger_stats_posted(int64 n);
extern void ledger_stats_replayed(int64 n);
extern void ledger_stats_refused(int sqlstate);

/*
 * One read, from begin to end; in between its accounts are there, then comes
 * each fetch of a legacy row, and the end of what is done with these. A read
 * that raises is not counted.
 *
 * Some are a sample: what the ledger needs to have the user's accounts beside
 * what a statement on the legacy table needs to have his row. For them
 * samples_fetch() says that the row is to be fetched by SQL, as an application
 * does it, whichever way is faster.
 */
extern void ledger_stats_read_begin(void);
extern void ledger_stats_read_accounts(void);
extern bool ledger_stats_samples_fetch(void);
extern void ledger_stats_fetch_begin(void);
extern void ledger_stats_fetch_end(void);
extern void ledger_stats_compare_end(void);
extern void ledger_stats_read_end(void);

extern void ledger_stats_shadow(StatsShadow what);

/*
 * How long one side of a posting is written before the other is: begin with
 * the first, which is the legacy row or not, end with the second; nothing if
 * no row was written. forget before both, for what was not ended.
 */
extern void ledger_stats_lag_forget(void);
extern void ledger_stats_lag_begin(bool row);
extern void ledger_stats_lag_end(void);

/* Somebody had changed the account, or held all its stripes, since it was looked at. */
extern void ledger_stats_contended(int64 account_id);

/* A slice of the worker's work. */
extern void ledger_stats_task_begin(void);
extern void ledger_stats_task_end(const char *name, bool failed);

#endif							/* LEDGER_STATS_H */
