/*
 * operations.h
 *		Parts of requests that reservation.c shares with the movements.
 */
#ifndef LEDGER_OPERATIONS_H
#define LEDGER_OPERATIONS_H

#include "fmgr.h"
#include "posting.h"

#define LEDGER_MAX_ID	255		/* bytes of a fill_id, release_id */

extern void ledger_set_reference(PostingRequest *request, const pg_uuid_t *reference_id,
								 const char *reference_type, const char *own_type);
extern void ledger_set_fill(PostingRequest *request, const pg_uuid_t *order_id,
							const char *fill_id);
extern void ledger_add_conversion(PostingRequest *request, const pg_uuid_t *user_id,
								  const char *from_type, const char *to_type, Numeric amount);
/*
 * A repair of the ledger is not mirrored, nor is its reversal. lock_user:
 * before it is posted; reversed: it is. Set once, by repair_undo.c.
 */
typedef struct RepairHook
{
	void		(*lock_user) (const pg_uuid_t *user_id);
	void		(*reversed) (int64 repair, int64 reversal, text *reason);
} RepairHook;

extern RepairHook ledger_repair_hook;

extern Datum ledger_reverse_transaction(PG_FUNCTION_ARGS);
extern text *ledger_arg_reason(FunctionCallInfo fcinfo, int n);

#endif							/* LEDGER_OPERATIONS_H */
