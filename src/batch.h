/*
 * batch.h
 *		Many transfers at once, each a transaction of its own in the journal.
 *
 * A caller makes a batch, adds rows, posts it and reads the results. All of it
 * lives in the context that was current when it was made.
 */
#ifndef LEDGER_BATCH_H
#define LEDGER_BATCH_H

#include "transfer.h"

#define LEDGER_MAX_BATCH	100000	/* items */

typedef struct Batch Batch;

typedef struct BatchResult
{
	int64		item;			/* counted from 1 */
	const char *result;			/* posted, replayed or a SQLSTATE */
	int64		transaction_id; /* 0: none */
	const char *message;		/* why it was refused, else NULL */
	const char *key_text;		/* NULL: none */
} BatchResult;

/*
 * operation is for messages; desc and columns are of the rows to come. stop:
 * the first item that is refused raises its error. before: items of earlier
 * batches of the same statement, from which the numbers go on.
 */
extern Batch *ledger_batch_new(const char *operation, TupleDesc desc, const AttrNumber *columns,
							   bool stop, int64 before);

/* Not copied; NULL stands for a NULL among the rows. */
extern void ledger_batch_add(Batch *batch, HeapTupleHeader row);
extern int	ledger_batch_size(const Batch *batch);
extern void ledger_batch_post(Batch *batch);
extern void ledger_batch_result(const Batch *batch, int n, BatchResult *result);

#endif							/* LEDGER_BATCH_H */
