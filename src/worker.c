/*
 * worker.c
 *		The background worker of a database.
 *
 * It stores what is in the ring of its database (evidence.c), finds out what
 * became of the transactions that saw it, releases reservations that are due,
 * takes the steps of incremental reconciliations (ledger.reconcile_interval),
 * deletes what was resolved long ago, and notes that it is alive. launcher.c
 * starts it.
 *
 * Each slice of work is a transaction. An error in it is logged and noted,
 * and the same is tried again a little later; meanwhile the other work goes
 * on. A lock is waited for less long than deadlock_timeout, so it is the
 * worker that gives way. Between slices it holds nothing: the extension can
 * be dropped and created. Once a second it looks whether somebody wants the
 * database for himself (DROP, ALTER, CREATE ... TEMPLATE) and then leaves.
 *
 * SIGTERM: in the middle of a slice it ends as any backend does, and what it
 * was storing stays in the ring; between slices it stores what is there first.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "evidence.h"
#include "stats_shared.h"
#include "store.h"
#include "worker.h"

#define SQL_VERSION			"1.0"	/* of the extension that this library serves */
#define LOOK_MS				1000	/* who wants the database waits this long */
#define BEAT_MS				10000
#define SETTLE_MS			200 /* a transaction that is to end soon ends by then */
#define RETRY_MS			1000
#define TRIM_MS				60000
#define SAMPLE_MS			15000
#define GATES_MS			60000
#define RECONCILE_MS		1000	/* pause between looks whether one is due */
#define FAREWELL_MS			2000
#define MAX_FAILURES		3	/* in one round */
#define LEFTOVER_MS			60000	/* age from which evidence of no extension goes */
#define EXPIRE_SLICE		100
#define TRIM_SLICE			1000

bool		ledger_worker_trims = false;

static int	naptime_ms = 1000;
static int	retention_days = -1;
static int	reconcile_s = 0;
static int	flush_s = 60;

static volatile sig_atomic_t in_slice = false;
static bool more_to_do = false; /* the next round is at once */

/* What is done, in this order, each in its own transactions. */
typedef struct Task
{
	const char *activity;		/* for pg_stat_activity */
	bool		(*slice) (void);	/* whether there may be more to do */
	TimestampTz not_before;
} Task;

/* What was done since it was noted last. */
static struct
{
	int64		stored;
	int64		expired;
	int64		trimmed;
	int64		errors;
	char		error[1024];	/* of the last; empty: none */
} done;

static Oid	extension = InvalidOid; /* that evidence_start() was called for */
static Oid	found_extension;
static bool ready;				/* there is an extension that we serve */
static bool unknown_version = false;	/* this was logged */
static bool pending = true;		/* there may be rows of evidence_pending */
static int	careful = 0;		/* so many slices are to be of one entry */
static bool farewell = false;	/* what is in the ring is stored, however new */
static bool failed;				/* the last slice */
static MemoryContext slice_context;

/* ---- SQL ------------------------------------------------------------------------- */

#define MAX_ARGUMENTS	14

/* Calls with these arguments; the first column of the first row, if it is by value. */
static Datum
call(const char *sql, int n, const Oid *types, const Datum *values, const char *nulls)
{
	bool		isnull;
	Oid			copy[MAX_ARGUMENTS];
	Datum		data[MAX_ARGUMENTS];

	memcpy(copy, types, sizeof(Oid) * n);
	memcpy(data, values, sizeof(Datum) * n);
	if (SPI_execute_with_args(sql, n, copy, data, nulls, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "the worker's statement is no SELECT: %s", sql);
	if (SPI_processed == 0)
		return (Datum) 0;
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
}

static void
note_error(ErrorData *error)
{
	static char logged[sizeof(done.error)] = "";
	static TimestampTz logged_at = 0;

	done.errors++;
	strlcpy(done.error, error->message ? error->message : "unknown error", sizeof(done.error));
	if (strcmp(logged, done.error) == 0 &&
		!TimestampDifferenceExceeds(logged_at, GetCurrentTimestamp(), 60 * 1000))
		return;
	strlcpy(logged, done.error, sizeof(logged));
	logged_at = GetCurrentTimestamp();
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("ledger worker: %s", done.error),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 errhint("It is tried again; see the view ledger.worker_status.")));
}

/* Whether it has been dropped since it was looked for: then that was the error. */
static bool
is_dropped(void)
{
	bool		result;

	StartTransactionCommand();
	result = OidIsValid(extension) && get_extension_oid("ledger", true) != extension;
	CommitTransactionCommand();
	return result;
}

/* One slice in a transaction. Returns whether there is more; false on an error. */
static bool
run_slice(Task *task)
{
	volatile bool more = false;

	failed = false;
	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, task->activity);
	in_slice = !farewell;
	PG_TRY();
	{
		StartTransactionCommand();
		(void) SPI_connect();
		PushActiveSnapshot(GetTransactionSnapshot());
		ledger_stats_task_begin();
		more = task->slice();
		PopActiveSnapshot();
		(void) SPI_finish();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(slice_context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
		ledger_evidence_cancel();
		ledger_worker_trims = false;
		more = false;
		failed = true;
		task->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETRY_MS);
		if (!is_dropped())
			note_error(error);
		MemoryContextReset(slice_context);
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();
	in_slice = false;
	ledger_stats_task_end(task->activity, failed);
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
	return more;
}

/* ---- the extension ----------------------------------------------------------------- */

static bool
is_served(void)
{
	bool		result;

	if (SPI_execute("SELECT e.extversion = '" SQL_VERSION "' FROM pg_catalog.pg_extension e"
					" WHERE e.extname = 'ledger'", true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		return false;
	result = strcmp(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1), "t") == 0;
	if (!result && !unknown_version)
		ereport(LOG,
				(errmsg("ledger worker: the extension in database \"%s\" is not of version %s",
						ledger_evidence_database(ledger_evidence_consumed()), SQL_VERSION),
				 errhint("ALTER EXTENSION ledger UPDATE, or install the library that belongs to it.")));
	unknown_version = !result;
	return result;
}

/* In a copy of the ledger's database nothing is to be done until resume(). */
static bool
is_copy(void)
{
	static bool logged = false;
	bool		result;

	if (SPI_execute("SELECT ledger.is_copy()", true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look whether this is a copy");
	result = strcmp(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1), "t") == 0;
	if (result && !logged)
		ereport(LOG,
				(errmsg("ledger worker: database \"%s\" is a copy, in which nothing is done",
						ledger_evidence_database(ledger_evidence_consumed())),
				 errhint("Call ledger.resume() if it is the ledger from now on.")));
	logged = result;
	return result;
}

static bool
look(void)
{
	found_extension = get_extension_oid("ledger", true);
	ready = OidIsValid(found_extension) && is_served() && !is_copy();
	if (ready && found_extension != extension)
	{
		Oid			types[] = {INT8OID, INT4OID};
		Datum		values[] = {Int64GetDatum(ledger_evidence_incarnation()),
		Int32GetDatum(MyProcPid)};

		(void) call("SELECT ledger.evidence_start($1, $2)", 2, types, values, NULL);
	}
	return true;
}

/* ---- evidence ------------------------------------------------------------------------ */

static int
compare_entries(const void *a, const void *b)
{
	return memcmp(&((const EvidenceEntry *) a)->key, &((const EvidenceEntry *) b)->key,
				  sizeof(EvidenceKey));
}

static Datum
int8_array(const int64 *list, int n)
{
	Datum		elements[EVIDENCE_MAX_XIDS + 1];

	for (int i = 0; i < n; i++)
		elements[i] = Int64GetDatum(list[i]);
	return PointerGetDatum(construct_array(elements, n, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

static Datum
xid8_array(const EvidenceEntry *entry)
{
	Datum		elements[EVIDENCE_MAX_XIDS];

	for (int i = 0; i < entry->nxids; i++)
		elements[i] = Int64GetDatum((int64) U64FromFullTransactionId(entry->xids[i].xid));
	return PointerGetDatum(construct_array(elements, entry->nxids, XID8OID, 8, FLOAT8PASSBYVAL,
										   TYPALIGN_DOUBLE));
}

static void
store_entry(const EvidenceEntry *entry)
{
	static const Oid types[] = {INT2OID, UUIDOID, TEXTOID, TEXTOID, TEXTOID, NUMERICOID, NUMERICOID,
	TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8ARRAYOID, XID8ARRAYOID, INT8ARRAYOID};
	int64		counted[] = {entry->none, entry->committed, entry->aborted};
	int64		counts[EVIDENCE_MAX_XIDS];
	Datum		values[MAX_ARGUMENTS];
	char		nulls[] = "              ";

	for (int i = 0; i < entry->nxids; i++)
		counts[i] = entry->xids[i].count;
	values[0] = Int16GetDatum(entry->key.mapping);
	values[1] = UUIDPGetDatum(&entry->key.user_id);
	values[2] = CStringGetTextDatum(entry->key.column);
	values[3] = CStringGetTextDatum(entry->key.cause);
	values[4] = CStringGetTextDatum(entry->source);
	values[5] = PointerGetDatum(entry->ledger_value);
	values[6] = PointerGetDatum(entry->legacy_value);
	values[7] = CStringGetTextDatum(entry->error_code);
	values[8] = CStringGetTextDatum(entry->note);
	values[9] = TimestampTzGetDatum(ledger_clock_of(entry->first_seen));
	values[10] = TimestampTzGetDatum(ledger_clock_of(entry->last_seen));
	values[11] = int8_array(counted, lengthof(counted));
	values[12] = xid8_array(entry);
	values[13] = int8_array(counts, entry->nxids);
	nulls[1] = entry->key.has_user ? ' ' : 'n';
	nulls[5] = entry->has_ledger_value ? ' ' : 'n';
	nulls[6] = entry->has_legacy_value ? ' ' : 'n';
	nulls[7] = entry->error_code[0] ? ' ' : 'n';
	nulls[8] = entry->note[0] ? ' ' : 'n';
	(void) call("SELECT ledger.evidence_store($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
				MAX_ARGUMENTS, types, values, nulls);
}

static void
store_loss(const EvidenceLoss *loss)
{
	Oid			types[] = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum		values[] = {Int64GetDatum(loss->count),
		TimestampTzGetDatum(ledger_clock_of(loss->first_at)),
	TimestampTzGetDatum(ledger_clock_of(loss->last_at))};

	if (loss->count > 0)
		(void) call("SELECT ledger.evidence_lost($1, $2, $3)", 3, types, values, NULL);
}

/*
 * Taken from the ring, stored, committed, and then gone from it. What has just
 * been found waits a moment, until most of its transactions have ended.
 */
static EvidenceEntry *taken;
static int	ntaken;
static EvidenceLoss loss;

static bool
store(void)
{
	Oid			table = ledger_relation_oid("discrepancy_rows");
	bool		urgent = farewell || ledger_evidence_is_pressing();

	ntaken = ledger_evidence_take(taken, careful ? 1 : EVIDENCE_SLICE,
								  GetCurrentTimestamp() - (urgent ? 0 : SETTLE_MS * INT64CONST(1000)),
								  &loss);
	qsort(taken, ntaken, sizeof(EvidenceEntry), compare_entries);
	for (int i = 0; i < ntaken; i++)
	{
		CHECK_FOR_INTERRUPTS();
		/* what another extension has found, it took with it */
		if (taken[i].key.table == table)
			store_entry(&taken[i]);
	}
	store_loss(&loss);
	return ntaken > 0;
}

/* Without an extension there is nowhere to store what it has left. */
static bool
throw_away(void)
{
	ntaken = ledger_evidence_take(taken, EVIDENCE_SLICE,
								  GetCurrentTimestamp() - LEFTOVER_MS * INT64CONST(1000), &loss);
	return ntaken > 0;
}

static bool
settle(void)
{
	if (SPI_execute("SELECT ledger.evidence_settle()", false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not settle evidence");
	pending = strcmp(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1), "0") != 0;
	return false;
}

/* ---- the rest -------------------------------------------------------------------------- */

static int64 expired_now;
static int64 trimmed_now;

static bool
expire(void)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(EXPIRE_SLICE)};

	expired_now = DatumGetInt64(call("SELECT ledger.worker_expire($1)", 1, types, values, NULL));
	return expired_now > 0;
}

static bool
trim(void)
{
	Oid			types[] = {INT4OID, INT4OID};
	Datum		values[] = {Int32GetDatum(retention_days), Int32GetDatum(TRIM_SLICE)};

	ledger_worker_trims = true;
	trimmed_now = DatumGetInt64(call("SELECT ledger.evidence_trim(pg_catalog.make_interval(days => $1), $2)"
									 " OPERATOR(pg_catalog.+)"
									 " ledger.reconciliation_trim(pg_catalog.make_interval(days => $1), $2)"
									 " OPERATOR(pg_catalog.+)"
									 " ledger.read_timings_trim(pg_catalog.make_interval(days => $1), $2)",
									 2, types, values, NULL));
	ledger_worker_trims = false;
	return trimmed_now >= TRIM_SLICE;
}

static Datum
bucket_array(const StatsTimes *times)
{
	Datum		elements[STATS_BUCKETS];

	for (int i = 0; i < STATS_BUCKETS; i++)
		elements[i] = Int64GetDatum((int64) times->buckets[i]);
	return PointerGetDatum(construct_array(elements, STATS_BUCKETS, INT8OID, 8,
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

static StatsFlush flushed_now;

/* What sessions have read since; gone from what is to be stored once it is committed. */
static bool
flush(void)
{
	Oid			types[] = {INT8ARRAYOID, INT8ARRAYOID};
	Datum		values[2];

	if (!ledger_stats_take_reads(&flushed_now))
		return false;
	values[0] = bucket_array(&flushed_now.ledger);
	values[1] = bucket_array(&flushed_now.legacy);
	(void) call("SELECT ledger.read_timings_store($1, $2)", 2, types, values, NULL);
	return true;
}

/* For metrics and alerts: it adds up old rows too, which the guard would keep. */
static bool
sample(void)
{
	ledger_worker_trims = true;
	if (SPI_execute("SELECT ledger.samples_store()", false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not store samples");
	ledger_worker_trims = false;
	return false;
}

static bool
gates(void)
{
	if (SPI_execute("SELECT ledger.gates_store()", false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not store how the gates stand");
	return false;
}

/* A step of a reconciliation of our own, or the first of one that is due. */
static bool
reconcile(void)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(reconcile_s)};

	return DatumGetBool(call("SELECT ledger.worker_reconcile(pg_catalog.make_interval(secs => $1))",
							 1, types, values, NULL));
}

static bool
beat(void)
{
	Oid			types[] = {INT8OID, INT8OID, INT8OID, INT8OID, TEXTOID};
	Datum		values[5];

	values[0] = Int64GetDatum(done.stored);
	values[1] = Int64GetDatum(done.expired);
	values[2] = Int64GetDatum(done.trimmed);
	values[3] = Int64GetDatum(done.errors);
	values[4] = CStringGetTextDatum(done.error);
	(void) call("SELECT ledger.evidence_beat($1, $2, $3, $4, $5)", 5, types, values,
				done.error[0] ? NULL : "    n");
	return true;
}

/* ---- a round of all ---------------------------------------------------------------------- */

static Task look_task = {"looking for the extension", look, 0};
static Task store_task = {"storing evidence", store, 0};
static Task throw_task = {"throwing evidence away", throw_away, 0};
static Task settle_task = {"looking what became of transactions", settle, 0};
static Task expire_task = {"releasing reservations", expire, 0};
static Task trim_task = {"trimming history", trim, 0};
static Task flush_task = {"storing how long reads took", flush, 0};
static Task sample_task = {"storing samples", sample, 0};
static Task gates_task = {"looking at the gates", gates, 0};
static Task reconcile_task = {"reconciling", reconcile, 0};
static Task beat_task = {"noting that it is alive", beat, 0};

static bool
is_due(const Task *task)
{
	return !ShutdownRequestPending && GetCurrentTimestamp() >= task->not_before;
}

static void
put_off(Task *task, int ms)
{
	task->not_before = Max(task->not_before, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms));
}

static int64
occurrences_taken(void)
{
	int64		count = 0;

	for (int i = 0; i < ntaken; i++)
		count += ledger_evidence_occurrences(&taken[i]);
	return count;
}

/* What is done once in so long. */
static void
run_each(Task *task, int ms)
{
	if (!is_due(task))
		return;
	(void) run_slice(task);
	put_off(task, failed ? RETRY_MS : ms);
}

/*
 * Slices of evidence, each gone from the ring once it is committed. After an
 * error one entry at a time, so that it is in the way of no other.
 */
static void
store_all(Task *task)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FAREWELL_MS);
	int			failures = 0;
	bool		more = true;

	while (more && failures < MAX_FAILURES &&
		   (farewell ? GetCurrentTimestamp() < deadline : !ShutdownRequestPending))
	{
		more = run_slice(task);
		if (failed)
		{
			careful = EVIDENCE_SLICE;
			failures++;
			more = true;
			continue;
		}
		ledger_evidence_stored(&loss);
		careful = Max(careful - 1, 0);
		if (task == &store_task)
		{
			done.stored += occurrences_taken();
			pending |= ntaken > 0;
		}
	}
}

static bool
look_for_extension(void)
{
	if (!is_due(&look_task) || !run_slice(&look_task))
		return false;
	if (ready && found_extension != extension)
	{
		extension = found_extension;
		pending = true;
		memset(&done, 0, sizeof(done));
	}
	return ready;
}

static void
flush_reads(void)
{
	if (run_slice(&flush_task))
	{
		ledger_stats_reads_stored(&flushed_now);
		beat_task.not_before = 0;	/* like anything else that was done */
	}
	put_off(&flush_task, failed ? RETRY_MS : flush_s * 1000);
}

static void
work(void)
{
	more_to_do = false;
	if (!look_for_extension())
	{
		if (!OidIsValid(found_extension) && is_due(&throw_task))
			store_all(&throw_task);
		return;
	}
	if (is_due(&store_task))
		store_all(&store_task);
	if (pending && is_due(&settle_task))
		(void) run_slice(&settle_task);
	while (is_due(&expire_task) && run_slice(&expire_task))
		done.expired += expired_now;
	if (retention_days >= 0 && is_due(&trim_task))
	{
		bool		more;

		do
		{
			trimmed_now = 0;
			more = run_slice(&trim_task);
			done.trimmed += trimmed_now;
		} while (more && !ShutdownRequestPending);
		put_off(&trim_task, TRIM_MS);
	}
	if (is_due(&flush_task))
		flush_reads();
	run_each(&sample_task, SAMPLE_MS);
	run_each(&gates_task, GATES_MS);
	/* one step a round: the rest does not wait for a run to end */
	if (reconcile_s > 0 && is_due(&reconcile_task))
	{
		if (run_slice(&reconcile_task))
			more_to_do = true;
		else
			put_off(&reconcile_task, RECONCILE_MS);
	}
	if (done.stored || done.expired || done.trimmed || done.errors)
		beat_task.not_before = 0;
	if (is_due(&beat_task) && run_slice(&beat_task))
	{
		memset(&done, 0, sizeof(done));
		put_off(&beat_task, BEAT_MS);
	}
}

/* ---- the worker ------------------------------------------------------------------------------ */

static void
handle_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	ShutdownRequestPending = true;
	if (in_slice)
	{
		InterruptPending = true;
		ProcDiePending = true;
	}
	SetLatch(MyLatch);
	errno = save_errno;
}

/*
 * What ALTER DATABASE and ALTER ROLE may have set for sessions is not meant
 * for this one.
 */
static void
set_up_session(void)
{
	static const char *const settings[][2] = {
		{"role", "none"},
		{"search_path", "pg_catalog, pg_temp"},
		{"row_security", "off"},
		{"session_replication_role", "origin"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"lock_timeout", "400ms"},
		/* compiling the queries of the gates takes longer than they do */
		{"jit", "off"},
		/* what is gone from the ring is on disk */
		{"synchronous_commit", "local"},
		{"client_min_messages", "error"},
	};

	for (int i = 0; i < (int) lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	pgstat_report_appname("ledger worker");
}

/* Whether somebody holds the database, or waits for it, so that nobody may connect. */
static bool
is_wanted_elsewhere(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, MyDatabaseId, 0);
	if (LockAcquire(&tag, RowExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	(void) LockRelease(&tag, RowExclusiveLock, true);
	return false;
}

static void
nap(TimestampTz until)
{
	long		ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 Min(ms, LOOK_MS), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* Between slices there is time to store what is there. */
static void
say_farewell(void)
{
	if (!ready)
		return;
	farewell = true;
	store_all(&store_task);
	if (!failed)
		(void) run_slice(&beat_task);
}

void
ledger_worker_main(Datum arg)
{
	int			ring = DatumGetInt32(arg);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, handle_sigterm);
	BackgroundWorkerUnblockSignals();
	if (ring >= ledger_evidence_databases() || !ledger_evidence_attach(ring))
		proc_exit(0);
	BackgroundWorkerInitializeConnection(ledger_evidence_database(ring), NULL, 0);
	set_up_session();
	ledger_evidence_claim();
	slice_context = AllocSetContextCreate(TopMemoryContext, "ledger worker", ALLOCSET_DEFAULT_SIZES);
	taken = MemoryContextAlloc(TopMemoryContext, sizeof(EvidenceEntry) * EVIDENCE_SLICE);

	while (!ShutdownRequestPending && !is_wanted_elsewhere())
	{
		static TimestampTz next = 0;
		TimestampTz now = GetCurrentTimestamp();

		if (now >= next || ledger_evidence_is_pressing())
		{
			work();
			next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), more_to_do ? 0 : naptime_ms);
		}
		/* a reload may have made it shorter */
		next = Min(next, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), naptime_ms));
		if (!ShutdownRequestPending)
			nap(next);
	}
	say_farewell();
	proc_exit(0);
}

void
ledger_worker_init(void)
{
	DefineCustomIntVariable("ledger.worker_naptime",
							"Pause of the ledger's workers between two rounds.",
							NULL, &naptime_ms, 1000, 10, 3600 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("ledger.history_retention",
							"Days for which resolved discrepancies are kept; -1: for ever.",
							NULL, &retention_days, -1, -1, 36500,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("ledger.stats_interval",
							"How often the ledger's workers store how long reads took.",
							NULL, &flush_s, 60, 1, 3600,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("ledger.reconcile_interval",
							"Seconds between incremental reconciliations by the ledger's workers; 0: none.",
							"Only while legacy tables are attached and shadow mode is on.",
							&reconcile_s, 0, 0, 30 * 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}
