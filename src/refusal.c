/*
 * refusal.c
 *		Why a request is refused, as a value.
 */
#include "postgres.h"

#include "refusal.h"

LedgerRefusal *
ledger_refusal(int sqlstate, const char *message, const char *detail, const char *hint)
{
	LedgerRefusal *refusal = palloc(sizeof(LedgerRefusal));

	refusal->sqlstate = sqlstate;
	refusal->message = message;
	refusal->detail = detail;
	refusal->hint = hint;
	return refusal;
}

void
ledger_refusal_raise(const LedgerRefusal *refusal)
{
	if (refusal == NULL)
		return;
	ereport(ERROR,
			(errcode(refusal->sqlstate),
			 errmsg_internal("%s", refusal->message),
			 refusal->detail ? errdetail_internal("%s", refusal->detail) : 0,
			 refusal->hint ? errhint("%s", refusal->hint) : 0));
}
