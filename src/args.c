/*
 * args.c
 *		Arguments of SQL functions, checked.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "amount.h"
#include "args.h"
#include "errors.h"

LedgerRefusal *
ledger_refuse_null(const char *name)
{
	return ledger_refusal(ERRCODE_NULL_VALUE_NOT_ALLOWED, psprintf("%s must not be NULL", name),
						  NULL, psprintf("Pass a value for %s.", name));
}

/* Longer than max bytes. The size first: a datum may be a gigabyte once it is decompressed. */
LedgerRefusal *
ledger_refuse_text(Datum value, const char *name, int max)
{
	if (toast_raw_datum_size(value) - VARHDRSZ <= max)
		return NULL;
	return ledger_refusal(ERRCODE_STRING_DATA_RIGHT_TRUNCATION,
						  psprintf("%s is longer than %d bytes", name, max), NULL,
						  "Shorten it, or keep the rest outside the ledger.");
}

/* Longer, or empty. */
LedgerRefusal *
ledger_refuse_name(Datum value, const char *name, int max)
{
	if (toast_raw_datum_size(value) > VARHDRSZ)
		return ledger_refuse_text(value, name, max);
	return ledger_refusal(ERRCODE_INVALID_PARAMETER_VALUE,
						  psprintf("%s must not be empty", name), NULL,
						  "Pass a text that is not empty, or NULL where the argument may be left out.");
}

LedgerRefusal *
ledger_refuse_metadata(Datum value)
{
	if (toast_raw_datum_size(value) - VARHDRSZ <= LEDGER_MAX_METADATA)
		return NULL;
	return ledger_refusal(ERRCODE_STRING_DATA_RIGHT_TRUNCATION,
						  psprintf("metadata is longer than %d bytes", LEDGER_MAX_METADATA), NULL,
						  "Keep large documents outside the ledger and store their id.");
}

LedgerRefusal *
ledger_refuse_effective_at(TimestampTz value)
{
	return TIMESTAMP_NOT_FINITE(value) ?
		ledger_refusal(ERRCODE_INVALID_PARAMETER_VALUE, "effective_at must be finite", NULL, NULL) : NULL;
}

void
ledger_arg_required(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		ledger_refusal_raise(ledger_refuse_null(name));
}

const pg_uuid_t *
ledger_arg_uuid(FunctionCallInfo fcinfo, int n, const char *name)
{
	ledger_arg_required(fcinfo, n, name);
	return PG_GETARG_UUID_P(n);
}

const pg_uuid_t *
ledger_arg_uuid_or_null(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : PG_GETARG_UUID_P(n);
}

const pg_uuid_t *
ledger_arg_user_of(FunctionCallInfo fcinfo, int n, const LedgerAccountType *type)
{
	if (type->owner_user)
		return ledger_arg_uuid(fcinfo, n, "user_id");
	if (!PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_LG_NOT_ALLOWED),
				 errmsg("account type %s is the house's, not a user's", type->name),
				 errdetail("Its accounts belong to no user."),
				 errhint("Pass NULL as user_id.")));
	return NULL;
}

int64
ledger_arg_int64(FunctionCallInfo fcinfo, int n, const char *name)
{
	ledger_arg_required(fcinfo, n, name);
	return PG_GETARG_INT64(n);
}

/* Checked and normalised; NULL and all else that is no amount: LG009. */
Numeric
ledger_arg_amount(FunctionCallInfo fcinfo, int n, const char *currency_code)
{
	const LedgerCurrency *currency = ledger_currency(currency_code);

	return ledger_amount_check(PG_ARGISNULL(n) ? NULL : PG_GETARG_NUMERIC(n),
							   currency->code, currency->scale, currency->display_digits);
}

text *
ledger_arg_text(FunctionCallInfo fcinfo, int n, const char *name, int max)
{
	if (PG_ARGISNULL(n))
		return NULL;
	ledger_refusal_raise(ledger_refuse_text(PG_GETARG_DATUM(n), name, max));
	return PG_GETARG_TEXT_PP(n);
}

/* NULL where it may be left out. */
text *
ledger_arg_reason_text(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		return NULL;
	ledger_refusal_raise(ledger_refuse_name(PG_GETARG_DATUM(n), "reason", LEDGER_MAX_TEXT));
	return PG_GETARG_TEXT_PP(n);
}

const char *
ledger_arg_name(FunctionCallInfo fcinfo, int n, const char *name, int max)
{
	if (PG_ARGISNULL(n))
		return NULL;
	ledger_refusal_raise(ledger_refuse_name(PG_GETARG_DATUM(n), name, max));
	return text_to_cstring(PG_GETARG_TEXT_PP(n));
}

const char *
ledger_uuid_text(const pg_uuid_t *uuid)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(uuid)));
}

int64
ledger_arg_lock_wait(FunctionCallInfo fcinfo, int arg)
{
	Interval   *wait;
	int64		ms;

	ledger_arg_required(fcinfo, arg, "lock_wait");
	wait = PG_GETARG_INTERVAL_P(arg);
	ms = wait->time / 1000 + (wait->day + wait->month * INT64CONST(30)) * 86400000;
	if (ms < 0 || ms > 86400000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("lock_wait must be between 0 and 1 day")));
	return ms;
}

void
ledger_prevent_read_only(const char *command)
{
	PreventCommandIfReadOnly(command);
	PreventCommandIfParallelMode(command);
	PreventCommandDuringRecovery(command);
}
