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
extern text *ledger_arg_reason(FunctionCallInfo fcinfo, int n);

#endif							/* LEDGER_OPERATIONS_H */
