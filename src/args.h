/*
 * args.h
 *		Arguments of SQL functions, checked: NULL is 22004, too long 22001,
 *		empty where a name is needed 22023.
 */
#ifndef LEDGER_ARGS_H
#define LEDGER_ARGS_H

#include "account.h"
#include "fmgr.h"
#include "refusal.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#define LEDGER_MAX_KEY			512		/* bytes of an idempotency key */
#define LEDGER_MAX_NAME			63		/* of type, reference_type */
#define LEDGER_MAX_TEXT			4096	/* of description, reason */
#define LEDGER_MAX_METADATA		65536	/* of metadata as jsonb */

/* The same checks on a value; NULL: nothing is wrong with it. */
extern LedgerRefusal *ledger_refuse_null(const char *name);
extern LedgerRefusal *ledger_refuse_text(Datum value, const char *name, int max);
extern LedgerRefusal *ledger_refuse_name(Datum value, const char *name, int max);
extern LedgerRefusal *ledger_refuse_metadata(Datum value);
extern LedgerRefusal *ledger_refuse_effective_at(TimestampTz value);

extern void ledger_arg_required(FunctionCallInfo fcinfo, int n, const char *name);
extern const pg_uuid_t *ledger_arg_uuid(FunctionCallInfo fcinfo, int n, const char *name);
extern const pg_uuid_t *ledger_arg_uuid_or_null(FunctionCallInfo fcinfo, int n);
/* The user of an account of the type; NULL for the house's, else LG010. */
extern const pg_uuid_t *ledger_arg_user_of(FunctionCallInfo fcinfo, int n,
										   const LedgerAccountType *type);
extern int64 ledger_arg_int64(FunctionCallInfo fcinfo, int n, const char *name);
extern Numeric ledger_arg_amount(FunctionCallInfo fcinfo, int n, const char *currency);

/* lock_wait interval, in ms. */
extern int64 ledger_arg_lock_wait(FunctionCallInfo fcinfo, int n);

/* max in bytes. The name form must not be empty; NULL for SQL's NULL. */
extern text *ledger_arg_reason_text(FunctionCallInfo fcinfo, int n);
extern text *ledger_arg_text(FunctionCallInfo fcinfo, int n, const char *name, int max);
extern const char *ledger_arg_name(FunctionCallInfo fcinfo, int n, const char *name, int max);

extern const char *ledger_uuid_text(const pg_uuid_t *uuid);

/* Where nothing may be written it raises what the executor would. */
extern void ledger_prevent_read_only(const char *command);

#endif							/* LEDGER_ARGS_H */
