/*
 * settings.c
 *		The settings in force, the lock that holds them still, and the GUCs.
 *
 * The settings are one row of ledger.settings (no row: the defaults). Every
 * posting holds RowExclusiveLock on the table to the end of its transaction;
 * a change takes ShareRowExclusiveLock, so no transaction mixes two modes.
 * Never a row lock: every posting would add a member to one multixact. The
 * row is cached per backend; a change invalidates the table's relcache entry,
 * and taking any lock processes invalidations, so what is cached is right the
 * moment the lock is held.
 *
 * A session's GUCs override the row. They are read once, at the transaction's
 * first posting, and cannot be set after it.
 *
 * State per transaction (xact_*) is reset by the transaction callback; a
 * savepoint rolled back keeps it, which errs on the strict side.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "args.h"
#include "identity.h"
#include "lock_wait.h"
#include "owner.h"
#include "settings.h"
#include "store.h"

#define LOCK_SLICE_MS		50	/* a posting queues behind us this long */
#define LOCK_SLICE_MAX_MS	400 /* while all that is in flight is short */
#define LOCK_PAUSE_MS		50
#define LONG_TRANSACTION_MS 1000

typedef enum StrictGuc
{
	STRICT_INHERIT, STRICT_OFF, STRICT_ON
} StrictGuc;

typedef enum SourceGuc
{
	SOURCE_INHERIT, SOURCE_LEDGER, SOURCE_LEGACY
} SourceGuc;

static const struct config_enum_entry strict_options[] = {
	{"inherit", STRICT_INHERIT, false},
	{"off", STRICT_OFF, false},
	{"on", STRICT_ON, false},
	{"false", STRICT_OFF, true},
	{"true", STRICT_ON, true},
	{NULL, 0, false}
};

static const struct config_enum_entry source_options[] = {
	{"inherit", SOURCE_INHERIT, false},
	{"ledger", SOURCE_LEDGER, false},
	{"legacy", SOURCE_LEGACY, false},
	{NULL, 0, false}
};

static const struct config_enum_entry capture_options[] = {
	{"inherit", LEDGER_CAPTURE_INHERIT, false},
	{"record", LEDGER_CAPTURE_RECORD, false},
	{"post", LEDGER_CAPTURE_POST, false},
	{"refuse", LEDGER_CAPTURE_REFUSE, false},
	{NULL, 0, false}
};

static int	strict_guc = STRICT_INHERIT;
static int	source_guc = SOURCE_INHERIT;
static int	broker_max_age = 15 * 60;	/* seconds */
int			ledger_capture = LEDGER_CAPTURE_INHERIT;
bool		ledger_allow_drop = false;

void		(*ledger_settings_check) (const LedgerSettings *settings) = NULL;
bool		(*ledger_settings_has_legacy) (void) = NULL;

enum
{
	SETTINGS_ONLY, SETTINGS_SHADOW, SETTINGS_STRICT, SETTINGS_SOURCE, SETTINGS_PHASE,
	SETTINGS_CLOCK, SETTINGS_COLUMNS
};
static const char *const settings_columns[] = {
	"only", "shadow_mode", "strict_mode", "balance_source", "phase", "test_clock"
};
static StoreSpec settings_spec = {"settings", settings_columns, SETTINGS_COLUMNS, NULL};

static const char *const phase_names[] = {"migrating", "cut_over", "retired"};

/* Per backend: the row as last read. */
static bool row_valid = false;
static Oid	row_relid = InvalidOid;
static LedgerSettings row_settings;

/*
 * Per transaction: the nesting level at which it first posted, at which it
 * changed the settings; 0: not, or rolled back to a savepoint since.
 */
static int	posted_level = 0;
static int	configured_level = 0;
static int	xact_strict;		/* the GUCs at the first posting */
static int	xact_source;

/* ---- cache ------------------------------------------------------------------ */

static void
relcache_callback(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == row_relid)
	{
		row_valid = false;
		row_relid = InvalidOid;
	}
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE || event == XACT_EVENT_PARALLEL_COMMIT ||
		event == XACT_EVENT_PARALLEL_ABORT)
		posted_level = configured_level = 0;
}

/* What a subtransaction did is its parent's, or undone with it. */
static void
leave_level(int *level, int left, bool commit)
{
	if (*level >= left)
		*level = commit ? left - 1 : 0;
}

static void
subxact_callback(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	bool		commit = event == SUBXACT_EVENT_COMMIT_SUB;

	if (!commit && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	leave_level(&posted_level, GetCurrentTransactionNestLevel(), commit);
	leave_level(&configured_level, GetCurrentTransactionNestLevel(), commit);
}

static Oid
settings_relid(void)
{
	if (!OidIsValid(row_relid))
		row_relid = ledger_store_oid(&settings_spec);
	return row_relid;
}

/*
 * Taking the lock processes invalidations: if the extension was dropped while
 * we waited, the table is looked up anew, and is gone or another.
 */
static void
lock_table(LOCKMODE lockmode)
{
	for (;;)
	{
		Oid			relid = settings_relid();

		LockRelationOid(relid, lockmode);
		if (settings_relid() == relid)
			return;
		UnlockRelationOid(relid, lockmode);
	}
}

/* The row, or the defaults where there is none. */
static void
read_row(LedgerSettings *settings, ItemPointer tid, bool *exists)
{
	Store	   *store = ledger_store_open(&settings_spec, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetCatalogSnapshot(settings_relid()));
	StoreScan  *scan = ledger_store_scan(store, NULL, snapshot, NULL, 0);
	Datum		values[SETTINGS_COLUMNS];
	bool		isnull[SETTINGS_COLUMNS];

	memset(settings, 0, sizeof(*settings));
	*exists = ledger_store_next(scan, ForwardScanDirection, values, isnull, tid);
	if (*exists)
	{
		char	   *phase = TextDatumGetCString(values[SETTINGS_PHASE]);

		settings->shadow_mode = DatumGetBool(values[SETTINGS_SHADOW]);
		settings->strict_mode = DatumGetBool(values[SETTINGS_STRICT]);
		settings->source_legacy =
			strcmp(TextDatumGetCString(values[SETTINGS_SOURCE]), "legacy") == 0;
		settings->phase = strcmp(phase, "retired") == 0 ? LEDGER_RETIRED :
			strcmp(phase, "cut_over") == 0 ? LEDGER_CUT_OVER : LEDGER_MIGRATING;
		settings->has_test_clock = !isnull[SETTINGS_CLOCK];
		if (settings->has_test_clock)
			settings->test_clock = *DatumGetIntervalP(values[SETTINGS_CLOCK]);
	}
	ledger_store_end(scan);
	settings->identity = ledger_identity_read(snapshot);
	UnregisterSnapshot(snapshot);
	ledger_store_close(store);
}

static void
read_into_cache(void)
{
	LedgerSettings row;
	ItemPointerData tid;
	bool		exists;

	row_valid = true;			/* unless invalidated while we read */
	PG_TRY();
	{
		read_row(&row, &tid, &exists);
	}
	PG_CATCH();
	{
		row_valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
	row_settings = row;
}

/* If it is invalidated each time that it is read, what is read will do for once. */
static const LedgerSettings *
cached_row(void)
{
	for (int i = 0; !row_valid && i < 3; i++)
		read_into_cache();
	return &row_settings;
}

/*
 * The row with the session's GUCs over it, as they were at the transaction's
 * first posting. The row itself is looked at anew: a savepoint that is rolled
 * back gives up the lock that it took.
 */
static const LedgerSettings *
effective(void)
{
	static LedgerSettings settings;
	int			strict = posted_level ? xact_strict : strict_guc;
	int			source = posted_level ? xact_source : source_guc;

	settings = *cached_row();
	if (strict != STRICT_INHERIT)
		settings.strict_mode = strict == STRICT_ON;
	if (source != SOURCE_INHERIT)
		settings.source_legacy = source == SOURCE_LEGACY;
	return &settings;
}

/*
 * The first use of the ledger in this database says whose it is; in a copy
 * nothing may be posted.
 */
static void
settle_identity(bool posting)
{
	LedgerIdentity identity = ledger_identity_settle();

	if (identity == IDENTITY_COPY && posting)
		ledger_identity_refuse();
	if (identity == IDENTITY_NEW)
		ledger_settings_invalidate();
}

const LedgerSettings *
ledger_settings_lock(void)
{
	if (configured_level)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot post in a transaction that has changed the settings"),
				 errhint("Commit the change first.")));
	lock_table(RowExclusiveLock);
	if (cached_row()->identity != IDENTITY_OURS)
		settle_identity(true);
	if (!posted_level)
	{
		xact_strict = strict_guc;
		xact_source = source_guc;
		posted_level = GetCurrentTransactionNestLevel();
	}
	return effective();
}

const LedgerSettings *
ledger_settings_get(void)
{
	lock_table(AccessShareLock);
	return effective();
}

const LedgerSettings *
ledger_settings_row(void)
{
	lock_table(AccessShareLock);
	return cached_row();
}

const LedgerSettings *
ledger_settings_peek(void)
{
	return cached_row();
}

void
ledger_settings_invalidate(void)
{
	CacheInvalidateRelcacheByRelid(settings_relid());
	CommandCounterIncrement();
}

bool
ledger_settings_mirrors(const LedgerSettings *settings)
{
	return settings->shadow_mode || settings->phase == LEDGER_CUT_OVER;
}

bool
ledger_settings_legacy_only(const LedgerSettings *settings)
{
	return settings->source_legacy && !settings->shadow_mode &&
		settings->phase == LEDGER_MIGRATING &&
		ledger_settings_has_legacy && ledger_settings_has_legacy();
}

bool
ledger_has_posted(void)
{
	return posted_level > 0;
}

bool
ledger_has_configured(void)
{
	return configured_level > 0;
}

/* ---- the exclusive lock ------------------------------------------------------- */

/* The locks that are wanted: of the settings first, and perhaps of legacy tables. */
typedef struct SettingsWait
{
	const Oid  *relids;
	int			nrelids;
	LOCKMODE	mode;			/* of those after the first */
	int			slice_ms;		/* of the next try */
	char	   *blockers;		/* who holds what conflicts, one line each */
	double		oldest_ms;		/* age of the oldest of their transactions */
} SettingsWait;

static Datum
oid_array(const Oid *list, int n)
{
	Datum	   *elements = palloc(sizeof(Datum) * n);

	for (int i = 0; i < n; i++)
		elements[i] = ObjectIdGetDatum(list[i]);
	return PointerGetDatum(construct_array(elements, n, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

/* Who holds what conflicts, and for how long. */
static void
look_at_blockers(SettingsWait *lock)
{
	MemoryContext context = CurrentMemoryContext;
	StringInfoData list;
	OwnerContext saved;
	Oid			argtypes[2] = {OIDARRAYOID, BOOLOID};
	Datum		args[2] = {oid_array(lock->relids, lock->nrelids),
	BoolGetDatum(lock->mode == AccessExclusiveLock)};

	initStringInfo(&list);
	lock->oldest_ms = 0;
	/* as the extension's owner, who may see whose transactions they are */
	ledger_spi_as_owner(&saved, "settings");
	if (SPI_execute_with_args(
			"SELECT CASE WHEN a.pid IS NOT NULL THEN"
			" pg_catalog.format('Process %s of user %s, application \"%s\", in a transaction for %s.',"
			"  a.pid, a.usename, a.application_name,"
			"  pg_catalog.date_trunc('milliseconds', pg_catalog.clock_timestamp() - a.xact_start))"
			" ELSE pg_catalog.format('Prepared transaction \"%s\" of user %s, prepared %s ago.',"
			"  p.gid, p.owner,"
			"  pg_catalog.date_trunc('milliseconds', pg_catalog.clock_timestamp() - p.prepared)) END,"
			" max(CASE WHEN a.pid IS NULL THEN 'infinity'::pg_catalog.float8"
			"  ELSE 1000 * EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.xact_start) END) OVER ()"
			" FROM (SELECT DISTINCT l.pid, l.virtualtransaction FROM pg_catalog.pg_locks l"
			"  WHERE l.locktype = 'relation' AND l.relation = ANY ($1) AND l.granted"
			"   AND l.database = (SELECT oid FROM pg_catalog.pg_database"
			"                     WHERE datname = pg_catalog.current_database())"
			"   AND (l.mode NOT IN ('AccessShareLock', 'RowShareLock')"
			"    OR $2 AND l.relation <> ($1)[1])"
			"   AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()) l"
			" LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid"
			/* a prepared transaction is known by the lock on its own xid */
			" LEFT JOIN (pg_catalog.pg_prepared_xacts p JOIN pg_catalog.pg_locks x"
			"   ON x.locktype = 'transactionid' AND x.transactionid = p.transaction AND x.pid IS NULL)"
			"  ON l.pid IS NULL AND l.virtualtransaction = x.virtualtransaction"
			" ORDER BY 1 LIMIT 20",
			2, argtypes, args, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not list the holders of the settings' lock");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		char	   *line = SPI_getvalue(tuple, SPI_tuptable->tupdesc, 1);
		bool		isnull;
		Datum		oldest = SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull);

		if (line)
			appendStringInfo(&list, "%s%s", list.len ? "\n" : "", line);
		if (!isnull)
			lock->oldest_ms = DatumGetFloat8(oldest);
	}
	lock->blockers = MemoryContextStrdup(context, list.len ? list.data : "The holder has just gone.");
	ledger_spi_done(&saved);
}

static bool
try_at_once(const SettingsWait *lock)
{
	return lock->nrelids == 1 && ConditionalLockRelationOid(lock->relids[0], ShareRowExclusiveLock);
}

static void
take_locks(const void *arg)
{
	const SettingsWait *lock = arg;

	for (int i = 0; i < lock->nrelids; i++)
		LockRelationOid(lock->relids[i], i == 0 ? ShareRowExclusiveLock : lock->mode);
}

static void
refuse_after_posting(void)
{
	if (posted_level)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot change the settings in a transaction that has posted"),
				 errhint("Commit the postings first.")));
}

static void
wait_for_locks(SettingsWait *lock, int64 lock_wait_ms, SettingsLocked *result)
{
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz deadline = TimestampTzPlusMilliseconds(began, lock_wait_ms);

	for (;;)
	{
		TimestampTz slice = GetCurrentTimestamp();
		bool		got = try_at_once(lock) || ledger_lock_within(lock->slice_ms, take_locks, lock);
		TimestampTz now = GetCurrentTimestamp();

		result->waited_ms = (now - began) / 1000.0;
		result->longest_ms = Max(result->longest_ms, (now - slice) / 1000.0);
		if (got)
			return;
		look_at_blockers(lock);
		result->blockers = lock->blockers;
		if (now >= deadline)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 lock->nrelids > 1 && get_rel_name(lock->relids[1]) ?
					 errmsg("could not lock the settings and table %s within " INT64_FORMAT " ms",
							quote_identifier(get_rel_name(lock->relids[1])), lock_wait_ms) :
					 errmsg("could not lock the settings within " INT64_FORMAT " ms", lock_wait_ms),
					 errdetail_internal("%s", lock->blockers),
					 errhint("Try again when these transactions have ended%s.",
							 lock->nrelids > 1 ? "" : ", or with a longer lock_wait")));
		if (lock->oldest_ms < Max(lock_wait_ms / 2, LONG_TRANSACTION_MS))
			lock->slice_ms = Min(2 * lock->slice_ms, LOCK_SLICE_MAX_MS);
		else
			lock->slice_ms = LOCK_SLICE_MS;
		/* let those through that queued behind us */
		pg_usleep(LOCK_PAUSE_MS * 1000L);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Who waits for a lock holds up everybody that comes after him, so he does it
 * in slices. If all that is in flight is short there is no end of it under
 * load, but it would be over if it were waited for a little longer: the slices
 * grow. A transaction that stays would only make everybody else wait: they
 * stay short.
 */
void
ledger_settings_lock_tables(int64 lock_wait_ms, const List *tables, LOCKMODE mode, bool changes,
							SettingsLocked *result)
{
	Oid		   *relids = palloc(sizeof(Oid) * (list_length(tables) + 1));
	SettingsWait lock = {relids, 1, mode, LOCK_SLICE_MS};
	SettingsLocked ignored;
	ListCell   *lc;

	refuse_after_posting();
	relids[0] = settings_relid();
	foreach(lc, tables)
		relids[lock.nrelids++] = lfirst_oid(lc);
	if (result == NULL)
		result = &ignored;
	memset(result, 0, sizeof(*result));
	wait_for_locks(&lock, lock_wait_ms, result);
	if (cached_row()->identity == IDENTITY_NONE)
		settle_identity(false);
	if (changes)
		configured_level = GetCurrentTransactionNestLevel();
}

void
ledger_settings_lock_exclusive(int64 lock_wait_ms, Oid legacy)
{
	ledger_settings_lock_tables(lock_wait_ms,
								OidIsValid(legacy) ? find_all_inheritors(legacy, NoLock, NULL) : NIL,
								ShareRowExclusiveLock, !OidIsValid(legacy), NULL);
}

/* ---- configure() --------------------------------------------------------------- */

void
ledger_settings_store(const LedgerSettings *settings)
{
	Store	   *store = ledger_store_open(&settings_spec, RowExclusiveLock);
	Datum		values[SETTINGS_COLUMNS];
	bool		isnull[SETTINGS_COLUMNS] = {false};
	LedgerSettings old;
	ItemPointerData tid;
	bool		exists;

	read_row(&old, &tid, &exists);
	values[SETTINGS_ONLY] = BoolGetDatum(true);
	values[SETTINGS_SHADOW] = BoolGetDatum(settings->shadow_mode);
	values[SETTINGS_STRICT] = BoolGetDatum(settings->strict_mode);
	values[SETTINGS_SOURCE] = CStringGetTextDatum(settings->source_legacy ? "legacy" : "ledger");
	values[SETTINGS_PHASE] = CStringGetTextDatum(phase_names[settings->phase]);
	isnull[SETTINGS_CLOCK] = !settings->has_test_clock;
	values[SETTINGS_CLOCK] = IntervalPGetDatum(&settings->test_clock);
	if (!exists)
		ledger_store_insert(store, values, isnull);
	else if (ledger_store_update(store, &tid, InvalidSnapshot, values, isnull) != TM_Ok)
		elog(ERROR, "the settings changed under their lock");
	ledger_store_close(store);
	ledger_settings_invalidate();
}

static void
log_change(const LedgerSettings *settings, text *reason)
{
	Oid			types[6] = {TEXTOID, BOOLOID, BOOLOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[6];
	char		nulls[7] = "      ";
	OwnerContext saved;

	values[0] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	values[1] = BoolGetDatum(settings->shadow_mode);
	values[2] = BoolGetDatum(settings->strict_mode);
	values[3] = CStringGetTextDatum(settings->source_legacy ? "legacy" : "ledger");
	values[4] = CStringGetTextDatum(phase_names[settings->phase]);
	values[5] = PointerGetDatum(reason);
	if (reason == NULL)
		nulls[5] = 'n';
	ledger_spi_as_owner(&saved, "settings");
	if (SPI_execute_with_args("INSERT INTO ledger.settings_log"
							  " (changed_by, shadow_mode, strict_mode, balance_source, phase, reason)"
							  " VALUES ($1, $2, $3, $4, $5, $6)",
							  6, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not log the change of settings");
	ledger_spi_done(&saved);
}

void
ledger_settings_change(const LedgerSettings *settings, text *reason)
{
	ledger_settings_store(settings);
	log_change(settings, reason);
}

/* What the arguments make of the settings. */
static LedgerSettings
asked_for(FunctionCallInfo fcinfo, const LedgerSettings *now)
{
	LedgerSettings new = *now;

	if (!PG_ARGISNULL(0))
		new.shadow_mode = PG_GETARG_BOOL(0);
	if (!PG_ARGISNULL(1))
		new.strict_mode = PG_GETARG_BOOL(1);
	if (!PG_ARGISNULL(2))
	{
		char	   *source = text_to_cstring(PG_GETARG_TEXT_PP(2));

		if (strcmp(source, "legacy") != 0 && strcmp(source, "ledger") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("balance_source must be ledger or legacy")));
		new.source_legacy = strcmp(source, "legacy") == 0;
	}
	return new;
}

static bool
settings_equal(const LedgerSettings *a, const LedgerSettings *b)
{
	return a->shadow_mode == b->shadow_mode && a->strict_mode == b->strict_mode &&
		a->source_legacy == b->source_legacy && a->phase == b->phase;
}

static Datum
settings_datum(FunctionCallInfo fcinfo, const LedgerSettings *settings)
{
	TupleDesc	desc;
	Datum		values[4];
	bool		isnull[4] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = BoolGetDatum(settings->shadow_mode);
	values[1] = BoolGetDatum(settings->strict_mode);
	values[2] = CStringGetTextDatum(settings->source_legacy ? "legacy" : "ledger");
	values[3] = CStringGetTextDatum(phase_names[settings->phase]);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull));
}

PG_FUNCTION_INFO_V1(ledger_configure);

Datum
ledger_configure(PG_FUNCTION_ARGS)
{
	int64		wait_ms = ledger_arg_lock_wait(fcinfo, 4);
	text	   *reason = ledger_arg_reason_text(fcinfo, 3);
	LedgerSettings now;
	LedgerSettings new;

	lock_table(AccessShareLock);
	now = *cached_row();
	new = asked_for(fcinfo, &now);
	if (settings_equal(&now, &new))
		return settings_datum(fcinfo, &now);

	ledger_prevent_read_only("ledger.configure()");
	ledger_settings_lock_exclusive(wait_ms, InvalidOid);
	now = *cached_row();
	new = asked_for(fcinfo, &now);
	if (now.phase != LEDGER_MIGRATING)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot change the settings after the cut-over"),
				 errdetail("The phase of the migration says what is written and read."),
				 errhint("Call ledger.roll_back() first.")));
	if (ledger_settings_legacy_only(&now) && !ledger_settings_legacy_only(&new))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s while balances are the legacy table's alone",
						new.shadow_mode ? "shadow mode cannot be turned on" :
						"balances cannot be read from the ledger"),
				 errdetail("The ledger does not have what was written to the legacy table meanwhile."),
				 errhint("CALL ledger.roll_back(reason), which takes it along.")));
	if (ledger_settings_check)
		ledger_settings_check(&new);
	ledger_settings_change(&new, reason);
	return settings_datum(fcinfo, &new);
}

/* ---- GUCs ------------------------------------------------------------------------ */

/* A mode cannot be set after the transaction's first posting has read it. */
static bool
check_not_posted(int *newval, void **extra, GucSource source)
{
	if (posted_level && source >= PGC_S_INTERACTIVE)
	{
		GUC_check_errcode(ERRCODE_ACTIVE_SQL_TRANSACTION);
		GUC_check_errmsg("cannot change the mode in a transaction that has posted");
		GUC_check_errhint("Commit the postings first.");
		return false;
	}
	return true;
}

void
ledger_settings_init(void)
{
	DefineCustomEnumVariable("ledger.strict_mode",
							 "Strict mode of this session, over ledger.settings.",
							 NULL, &strict_guc, STRICT_INHERIT, strict_options,
							 PGC_SUSET, 0, check_not_posted, NULL, NULL);
	DefineCustomEnumVariable("ledger.balance_source",
							 "Where this session reads balances, over ledger.settings.",
							 NULL, &source_guc, SOURCE_INHERIT, source_options,
							 PGC_SUSET, 0, check_not_posted, NULL, NULL);
	DefineCustomEnumVariable("ledger.capture",
							 "What becomes of this session's own writes to the legacy table.",
							 NULL, &ledger_capture, LEDGER_CAPTURE_INHERIT, capture_options,
							 PGC_SUSET, 0, check_not_posted, NULL, NULL);
	DefineCustomBoolVariable("ledger.allow_drop",
							 "Lets the extension be dropped while the journal has rows, and attached legacy tables.",
							 NULL, &ledger_allow_drop, false,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	/* Read by get_detailed_balance() with current_setting(). */
	DefineCustomIntVariable("ledger.broker_max_age",
							"Age from which on the broker's data is marked stale; -1: never.",
							NULL, &broker_max_age, 15 * 60, -1, INT_MAX,
							PGC_USERSET, GUC_UNIT_S, NULL, NULL, NULL);
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}
