/*
 * launcher.c
 *		Starts the background worker of each database.
 *
 * Connected to no database, it starts a worker for each one that
 * ledger.databases names, that is there, and that has none; again after a
 * while if a worker has ended, for whatever reason. A worker could be
 * registered for good instead, but it would be tried for ever, with a FATAL
 * in the log each time, while its database does not exist.
 *
 * Memory: what it knows of each worker, for good. It writes nothing.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/backend_status.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "evidence.h"
#include "worker.h"

#define LOOK_MS				1000
#define FIRST_PAUSE_MS		2000	/* before a worker is started again */
#define LONGEST_PAUSE_MS	60000
#define SHORT_LIFE_MS		10000

/* What the launcher knows of one database's worker. */
typedef struct Launch
{
	bool		running;		/* when it last looked */
	TimestampTz started_at;
	TimestampTz next;			/* not before */
	int			pause_ms;
} Launch;

/* Without a database there is no index to be had: the few rows are read. */
static bool
database_exists(const char *name)
{
	Relation	databases;
	TableScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	databases = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(databases, 0, NULL);
	while (!found && HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);

		found = database->datallowconn && strcmp(NameStr(database->datname), name) == 0;
	}
	table_endscan(scan);
	table_close(databases, AccessShareLock);
	CommitTransactionCommand();
	return found;
}

static void
start_worker(int ring)
{
	static bool complained = false;
	BackgroundWorker worker = {0};

	snprintf(worker.bgw_name, BGW_MAXLEN, "ledger worker for database \"%s\"",
			 ledger_evidence_database(ring));
	strlcpy(worker.bgw_type, "ledger worker", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "ledger", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "ledger_worker_main", BGW_MAXLEN);
	worker.bgw_main_arg = Int32GetDatum(ring);
	worker.bgw_notify_pid = MyProcPid;
	if (RegisterDynamicBackgroundWorker(&worker, NULL))
		complained = false;
	else if (!complained)
	{
		ereport(WARNING,
				(errmsg("no background worker is free for the ledger in database \"%s\"",
						ledger_evidence_database(ring)),
				 errhint("Increase max_worker_processes.")));
		complained = true;
	}
}

/* Starts the worker of a ring unless it runs, or has just ended. */
static void
look_after(int ring, Launch *launch)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		running = ledger_evidence_worker(ring) != 0;

	if (launch->running && !running)
	{
		/* one that ends at once again and again is tried less and less often */
		if (TimestampDifferenceExceeds(launch->started_at, now, SHORT_LIFE_MS))
			launch->pause_ms = FIRST_PAUSE_MS;
		launch->next = TimestampTzPlusMilliseconds(now, launch->pause_ms);
	}
	launch->running = running;
	if (running || now < launch->next || !database_exists(ledger_evidence_database(ring)))
		return;
	start_worker(ring);
	launch->started_at = now;
	launch->pause_ms = Min(LONGEST_PAUSE_MS, Max(FIRST_PAUSE_MS, launch->pause_ms * 2));
	launch->next = TimestampTzPlusMilliseconds(now, launch->pause_ms);
}

void
ledger_launcher_main(Datum arg)
{
	Launch	   *launches = MemoryContextAllocZero(TopMemoryContext,
												  sizeof(Launch) * Max(ledger_evidence_databases(), 1));

	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	pgstat_report_appname("ledger launcher");
	while (!ShutdownRequestPending)
	{
		for (int i = 0; i < ledger_evidence_databases(); i++)
			look_after(i, &launches[i]);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 LOOK_MS, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	proc_exit(0);
}

void
ledger_launcher_init(void)
{
	BackgroundWorker worker = {0};

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade ||
		ledger_evidence_wanted() == 0)
		return;
	strlcpy(worker.bgw_name, "ledger launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "ledger launcher", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = FIRST_PAUSE_MS / 1000;
	strlcpy(worker.bgw_library_name, "ledger", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "ledger_launcher_main", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
