/*
 * identity.c
 *		Whether this database is the one that the ledger was first used in.
 *
 * The first posting, attach or change of the settings stores the cluster's
 * system identifier and the database's OID. They go with every dump and every
 * template, so a copy knows that it is one, and posts nothing until resume():
 * a restored backup must not go on mirroring, nor a clone for tests expire
 * reservations. What was found is cached with the settings.
 *
 * Two first postings at once: one stores it, under a lock on the table that
 * only they take; the other goes on without.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "args.h"
#include "clock.h"
#include "identity.h"
#include "settings.h"
#include "store.h"

#define LOCK_WAIT_MS	5000

enum
{
	IDENTITY_ONLY, IDENTITY_SYSTEM, IDENTITY_DATABASE, IDENTITY_SINCE, IDENTITY_COLUMNS
};
static const char *const identity_columns[] = {
	"only", "system_identifier", "database_oid", "since"
};
static StoreSpec identity_spec = {"identity", identity_columns, IDENTITY_COLUMNS, NULL};

/* The row, if there is one: what it says, and where it is. */
static LedgerIdentity
look(Store *store, Snapshot snapshot, ItemPointer tid)
{
	StoreScan  *scan = ledger_store_scan(store, NULL, snapshot, NULL, 0);
	Datum		values[IDENTITY_COLUMNS];
	bool		isnull[IDENTITY_COLUMNS];
	LedgerIdentity identity = IDENTITY_NONE;

	if (ledger_store_next(scan, ForwardScanDirection, values, isnull, tid))
		identity = DatumGetInt64(values[IDENTITY_SYSTEM]) == (int64) GetSystemIdentifier() &&
			DatumGetInt64(values[IDENTITY_DATABASE]) == (int64) MyDatabaseId ?
			IDENTITY_OURS : IDENTITY_COPY;
	ledger_store_end(scan);
	return identity;
}

LedgerIdentity
ledger_identity_read(Snapshot snapshot)
{
	Store	   *store = ledger_store_open(&identity_spec, AccessShareLock);
	ItemPointerData tid;
	LedgerIdentity identity = look(store, snapshot, &tid);

	ledger_store_close(store);
	return identity;
}

static void
fill(Datum *values)
{
	values[IDENTITY_ONLY] = BoolGetDatum(true);
	values[IDENTITY_SYSTEM] = Int64GetDatum((int64) GetSystemIdentifier());
	values[IDENTITY_DATABASE] = Int64GetDatum((int64) MyDatabaseId);
	values[IDENTITY_SINCE] = TimestampTzGetDatum(ledger_clock());
}

LedgerIdentity
ledger_identity_settle(void)
{
	Oid			relid = ledger_store_oid(&identity_spec);
	bool		alone = ConditionalLockRelationOid(relid, ShareUpdateExclusiveLock);
	Store	   *store = ledger_store_open(&identity_spec, RowExclusiveLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	Datum		values[IDENTITY_COLUMNS];
	bool		isnull[IDENTITY_COLUMNS] = {false};
	ItemPointerData tid;
	LedgerIdentity identity = look(store, snapshot, &tid);

	UnregisterSnapshot(snapshot);
	if (identity == IDENTITY_NONE && alone)
	{
		fill(values);
		ledger_store_insert(store, values, isnull);
		identity = IDENTITY_NEW;
	}
	ledger_store_close(store);
	return identity;
}

void
ledger_identity_refuse(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("this database is a copy of the one that the ledger was used in"),
			 errdetail("The system identifier or the OID of the database is not the one in ledger.identity, as after a restore, pg_upgrade or CREATE DATABASE ... TEMPLATE."),
			 errhint("Call ledger.resume() if this is the ledger from now on.")));
}

static bool
is_copy(void)
{
	LedgerIdentity identity = ledger_settings_row()->identity;

	/* a restore brings it without telling anybody; a parallel query takes no snapshot of its own */
	if (identity == IDENTITY_NONE)
	{
		Snapshot	snapshot = RegisterSnapshot(IsInParallelMode() ? GetActiveSnapshot() :
												 GetLatestSnapshot());

		identity = ledger_identity_read(snapshot);
		UnregisterSnapshot(snapshot);
	}
	return identity == IDENTITY_COPY;
}

PG_FUNCTION_INFO_V1(ledger_is_copy);

Datum
ledger_is_copy(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(is_copy());
}

PG_FUNCTION_INFO_V1(ledger_takes_no_posting);

Datum
ledger_takes_no_posting(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(is_copy() || ledger_settings_legacy_only(ledger_settings_row()));
}

PG_FUNCTION_INFO_V1(ledger_resume);

/* (reason) */
Datum
ledger_resume(PG_FUNCTION_ARGS)
{
	text	   *reason;
	Store	   *store;
	Snapshot	snapshot;
	Datum		values[IDENTITY_COLUMNS];
	bool		isnull[IDENTITY_COLUMNS] = {false};
	ItemPointerData tid;
	LedgerIdentity identity;
	LedgerSettings settings;

	ledger_arg_required(fcinfo, 0, "reason");
	reason = ledger_arg_reason_text(fcinfo, 0);
	ledger_prevent_read_only("ledger.resume()");
	ledger_settings_lock_exclusive(LOCK_WAIT_MS, InvalidOid);
	store = ledger_store_open(&identity_spec, RowExclusiveLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	identity = look(store, snapshot, &tid);
	UnregisterSnapshot(snapshot);
	if (identity != IDENTITY_COPY)
		ereport(NOTICE,
				(errmsg("this database is no copy: there is nothing to resume")));
	else
	{
		fill(values);
		if (ledger_store_update(store, &tid, InvalidSnapshot, values, isnull) != TM_Ok)
			elog(ERROR, "the identity changed under its lock");
	}
	ledger_store_close(store);
	CommandCounterIncrement();
	if (identity == IDENTITY_COPY)
	{
		settings = *ledger_settings_row();
		ledger_settings_change(&settings, cstring_to_text(psprintf("resume: %s", text_to_cstring(reason))));
	}
	PG_RETURN_VOID();
}
