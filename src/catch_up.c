/*
 * catch_up.c
 *		Repairs of many users, for the way back.
 *
 * They run in the caller's own name, who has the right, one user in a
 * subtransaction, so that one who cannot be repaired is in nobody's way.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/resowner.h"
#include "utils/uuid.h"

#include "args.h"
#include "catch_up.h"
#include "procedure.h"

#define BATCH			100		/* users that are repaired in one transaction */
#define MAX_TRIES		5		/* of a repair that met somebody */

/* One user in a subtransaction; contention is met again, anything else told. */
static bool
repair_user(Datum user_id, const char *direction, text *reason)
{
	Oid			types[] = {UUIDOID, TEXTOID, TEXTOID};
	Datum		values[] = {user_id, CStringGetTextDatum(direction), PointerGetDatum(reason)};
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool done = false;

	for (int i = 0; !done && i < MAX_TRIES; i++)
	{
		volatile bool again = false;

		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(context);
		PG_TRY();
		{
			if (SPI_execute_with_args("SELECT FROM ledger.repair_user($1, $2, false, NULL, $3)",
									  3, types, values, NULL, false, 0) < 0)
				elog(ERROR, "could not repair a user");
			ReleaseCurrentSubTransaction();
			done = true;
		}
		PG_CATCH();
		{
			ErrorData  *error;

			MemoryContextSwitchTo(context);
			error = CopyErrorData();
			FlushErrorState();
			RollbackAndReleaseCurrentSubTransaction();
			again = i + 1 < MAX_TRIES &&
				(error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
				 error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ||
				 error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE);
			if (!again && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
				ReThrowError(error);
			if (!again)
				ereport(WARNING,
						(errcode(error->sqlerrcode),
						 errmsg("user %s could not be caught up with: %s",
								ledger_uuid_text(DatumGetUUIDP(user_id)), error->message)));
			FreeErrorData(error);
		}
		PG_END_TRY();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (!again)
			break;
	}
	return done;
}

/* In batches, each a transaction. */
void
ledger_catch_up(ArrayType *users, const char *direction, text *reason, CaughtUp *result)
{
	Datum	   *list;
	Datum	   *failed;
	int			nfailed = 0;
	int			n;

	deconstruct_array(users, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &list, NULL, &n);
	failed = palloc(sizeof(Datum) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!repair_user(list[i], direction, reason))
			failed[nfailed++] = list[i];
		if (i % BATCH == BATCH - 1)
			ledger_procedure_commit();
	}
	ledger_procedure_commit();
	result->users = n;
	result->nfailed = nfailed;
	result->failed = PointerGetDatum(construct_array(failed, nfailed, UUIDOID, UUID_LEN, false,
													 TYPALIGN_CHAR));
}
