/*
 * migration.c
 *		Cut over, roll back, retire: the changes of state of the migration.
 *
 * Each is a procedure that commits: whoever calls it cannot hold the locks for
 * longer than it needs them. It takes the settings' lock and one on every
 * legacy table and partition, in slices (settings.c), so that nothing that is
 * in flight lands after the change; looks under them at the users who have
 * changed since everybody was last compared; changes the settings; commits.
 *
 * What changed is found by marks: an id of the sequence and a snapshot. An id
 * is taken by a transaction that has an xid; so when an id is read, and then
 * an xid is assigned, that is above those of all who took ids up to it, and
 * whatever a snapshot that begins at or above it did not see has a later id.
 * (The end of a snapshot would not do: xids that are assigned may be above
 * it.) The two marks that the last check goes by are made just before the
 * locks, so that little is left for it.
 *
 * SQL on our tables runs as the extension's owner, and the log has the caller.
 * Repairs (catch_up.c) run in the caller's own name, who has the right.
 *
 * Memory: the SPI procedure's context, which outlives the commits.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "args.h"
#include "catch_up.h"
#include "clock.h"
#include "errors.h"
#include "legacy.h"
#include "owner.h"
#include "procedure.h"
#include "store.h"

#define LOCK_WAIT_MS	10000
#define MARK_WAIT_MS	2000	/* for what was in flight at the first mark */
#define MARK_PAUSE_MS	20
#define FEW_USERS		2000	/* so many are compared under the locks */
#define MAX_PASSES		5

/* ---- a call ------------------------------------------------------------------------ */

/* It commits, so it must not be inside a transaction block or a function. */
static void
begin_call(FunctionCallInfo fcinfo, const char *command)
{
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		((CallContext *) fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("CALL %s cannot run inside a transaction block", command),
				 errhint("Call it by itself: it commits.")));
	ledger_prevent_read_only(command);
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (IsolationUsesXactSnapshot())
		ledger_procedure_commit();
}

static text *
arg_reason(FunctionCallInfo fcinfo, int n)
{
	ledger_arg_required(fcinfo, n, "reason");
	return (text *) DatumGetPointer(datumCopy(PointerGetDatum(ledger_arg_reason_text(fcinfo, n)), false, -1));
}

/* Hours and days that have not passed are no ground for what cannot be undone. */
static void
warn_of_test_clock(void)
{
	const LedgerSettings *now = ledger_settings_row();

	if (now->has_test_clock)
		ereport(WARNING,
				(errmsg("a test clock is on: the time that was waited for may not have passed"),
				 errdetail("It is %s off.",
						   DatumGetCString(DirectFunctionCall1(interval_out,
															   IntervalPGetDatum(&now->test_clock)))),
				 errhint("Rehearse in a copy of the database; its stamps stay when the clock is ended.")));
}

static Datum
caller_name(void)
{
	return CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
}

/*
 * Runs a query as the extension's owner; at most one row is kept, in
 * SPI_tuptable. Returns whether there is one.
 */
static bool
query(const char *sql, int n, const Oid *types, const Datum *values, const char *nulls)
{
	OwnerContext saved;
	int			result;

	ledger_become(&saved, "settings");
	/* of what is told of times */
	(void) set_config_option("intervalstyle", "postgres", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	result = SPI_execute_with_args(sql, n, unconstify(Oid *, types), unconstify(Datum *, values),
								   nulls, false, 1);
	ledger_unbecome(&saved);
	if (result < 0)
		elog(ERROR, "could not run: %s", sql);
	return SPI_processed > 0;
}

/* A column of that row, by value. */
static Datum
column(int n, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, n, isnull);
}

static char *
text_column(int n)
{
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, n);
}

/* ---- the locks ----------------------------------------------------------------------- */

static int
compare_oids(const ListCell *a, const ListCell *b)
{
	return lfirst_oid(a) < lfirst_oid(b) ? -1 : lfirst_oid(a) > lfirst_oid(b);
}

/* Every attached table that is there, with its partitions, by OID. */
static List *
legacy_relations(void)
{
	List	   *list = NIL;
	ListCell   *lc;

	foreach(lc, ledger_legacy_tables())
	{
		LegacyTable *table = lfirst(lc);

		if (!table->gone)
			list = list_concat(list, find_all_inheritors(table->relid, NoLock, NULL));
	}
	list_sort(list, compare_oids);
	return list;
}

/* What came while we waited is not locked: who writes to it would be missed. */
static void
lock_everything(LOCKMODE mode, SettingsLocked *locked)
{
	List	   *relations = legacy_relations();

	ledger_settings_lock_tables(LOCK_WAIT_MS, relations, mode, true, locked);
	if (list_difference_oid(legacy_relations(), relations) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("a legacy table or partition was added while the locks were waited for"),
				 errhint("Call it again.")));
}

/* ---- marks and the last check ----------------------------------------------------------- */

typedef struct Mark
{
	int64		last_id;
	Datum		snapshot;		/* pg_snapshot; 0: none, everybody is to be compared */
	Datum		xact;			/* xid8, of a mark made now */
} Mark;

typedef struct Check
{
	int64		users;
	int64		different;
	char	   *named;
} Check;

static Mark
read_mark(const char *sql)
{
	Mark		mark = {0};
	bool		isnull;

	if (query(sql, 0, NULL, NULL, NULL))
	{
		Datum		snapshot = column(2, &isnull);

		if (!isnull)
			mark.snapshot = datumCopy(snapshot, false, -1);
		if (mark.snapshot)
			mark.last_id = DatumGetInt64(column(1, &isnull));
		if (mark.snapshot && SPI_tuptable->tupdesc->natts > 2)
			mark.xact = column(3, &isnull);
	}
	return mark;
}

static Check
check_since(const Mark *mark)
{
	Oid			types[] = {INT8OID, PG_SNAPSHOTOID};
	Datum		values[] = {Int64GetDatum(mark->last_id), mark->snapshot};
	Check		check;
	bool		isnull;

	if (mark->snapshot)
		(void) query("SELECT * FROM ledger.migration_check($1, $2)", 2, types, values, NULL);
	else
		(void) query("SELECT * FROM ledger.migration_check_all()", 0, NULL, NULL, NULL);
	check.users = DatumGetInt64(column(1, &isnull));
	check.different = DatumGetInt64(column(2, &isnull));
	check.named = text_column(3);
	return check;
}

/* Whoever had an id when the first was made; a snapshot's xmax would not tell. */
static bool
ends_before(const Mark *first, const Mark *second)
{
	Oid			types[] = {XID8OID, PG_SNAPSHOTOID};
	Datum		values[] = {first->xact, second->snapshot};
	bool		isnull;

	(void) query("SELECT $1 <= pg_snapshot_xmin($2)", 2, types, values, NULL);
	return DatumGetBool(column(1, &isnull));
}

/*
 * A mark from which on a check has little to read: what was in flight when the
 * id was taken has ended at the snapshot. If it does not end soon the id is
 * that of the mark given.
 */
static Mark
mark_now(const Mark *before)
{
	Mark		first = read_mark("SELECT * FROM ledger.migration_mark()");
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), MARK_WAIT_MS);
	Mark		mark;

	for (;;)
	{
		ledger_procedure_commit();
		mark = read_mark("SELECT * FROM ledger.migration_mark()");
		if (ends_before(&first, &mark))
		{
			mark.last_id = first.last_id;
			return mark;
		}
		if (GetCurrentTimestamp() > deadline)
			break;
		pg_usleep(MARK_PAUSE_MS * 1000L);
		CHECK_FOR_INTERRUPTS();
	}
	mark.last_id = before->last_id;
	return mark;
}

static void
raise_different(const Check *check, const char *when)
{
	if (check->different == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_LG_DISCREPANCY),
			 errmsg("balance discrepancy: " INT64_FORMAT " %s %s", check->different,
					check->different == 1 ? "user differs" : "users differ", when),
			 errdetail_internal("%s", check->named ? check->named : ""),
			 errhint("Nothing was changed; see ledger.explain_discrepancy() for each.")));
}

/*
 * Compares who changed since the last run, again and again until few are left
 * to be compared under the locks. Returns the mark from which on they are.
 * *check has the first pass, which stops it if something differs.
 */
static Mark
check_before(Check *check)
{
	Mark		from = read_mark("SELECT * FROM ledger.migration_run_mark()");

	check->users = 0;
	for (int pass = 0; pass < MAX_PASSES; pass++)
	{
		Mark		next = mark_now(&from);
		Check		now = check_since(&from);

		check->users += now.users;
		check->different = now.different;
		check->named = now.named;
		from = next;
		if (now.different > 0 || now.users < FEW_USERS)
			break;
	}
	ledger_procedure_commit();
	return from;
}

/* ---- gates -------------------------------------------------------------------------------- */

typedef struct Gates
{
	Datum		names;			/* text[], in the order of readiness() */
	char	   *list;			/* NULL: all are open */
	char	   *detail;
	char	   *hint;			/* of the first */
	char	   *hard;			/* those that cannot be forced; NULL: none */
	char	   *hard_hint;		/* of the first of these */
} Gates;

static Gates
closed_gates(void)
{
	Gates		gates;
	bool		isnull;

	(void) query("SELECT COALESCE(array_agg(g.gate ORDER BY g.n), '{}'), string_agg(g.gate, ', ' ORDER BY g.n),"
				 " string_agg(format('%s: %s.', g.gate, g.observed), ' ' ORDER BY g.n),"
				 " (array_agg(g.hint ORDER BY g.n))[1],"
				 " string_agg(g.gate, ', ' ORDER BY g.n) FILTER (WHERE g.hard),"
				 " (array_agg(g.hint ORDER BY g.n) FILTER (WHERE g.hard))[1]"
				 " FROM (SELECT r.*, row_number() OVER () AS n, r.gate IN"
				 "  ('phase', 'capture', 'no_prepared_transaction', 'no_copy') AS hard"
				 "  FROM ledger.readiness() r) g WHERE NOT g.passed",
				 0, NULL, NULL, NULL);
	gates.names = datumCopy(column(1, &isnull), false, -1);
	gates.list = text_column(2);
	gates.detail = text_column(3);
	gates.hint = text_column(4);
	gates.hard = text_column(5);
	gates.hard_hint = text_column(6);
	return gates;
}

static void
check_gates(const Gates *gates, bool force)
{
	if (gates->list == NULL || (force && gates->hard == NULL))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_LG_GATE_NOT_MET),
			 force ? errmsg("gates that cannot be forced are closed: %s", gates->hard) :
			 errmsg("not ready to cut over: closed gates %s", gates->list),
			 errdetail_internal("%s", gates->detail),
			 errhint("%s", force ? gates->hard_hint : gates->hint)));
}

/* ---- cut_over() ------------------------------------------------------------------------------ */

typedef struct CutOver
{
	text	   *reason;			/* NULL: none */
	Gates		gates;
	Mark		mark;
	Check		before;			/* without the locks */
	Check		under;			/* under them */
	SettingsLocked locked;
	bool		got_locks;
	double		held_ms;
} CutOver;

static void
refuse_cut_over(const LedgerSettings *now)
{
	if (now->phase != LEDGER_MIGRATING)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the cut-over is done already"),
				 errhint("See ledger.migration_status().")));
	if (ledger_legacy_tables() == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no attached legacy table to cut over from"),
				 errhint("Call ledger.attach_legacy().")));
}

/* The locks, the last check, the new settings. */
static void
switch_over(CutOver *cut)
{
	static const LedgerSettings target = {false, true, false, LEDGER_CUT_OVER};
	LedgerSettings new = target;
	const LedgerSettings *now;
	TimestampTz began;

	lock_everything(ShareRowExclusiveLock, &cut->locked);
	began = GetCurrentTimestamp();
	cut->got_locks = true;
	now = ledger_settings_row();
	refuse_cut_over(now);
	new.has_test_clock = now->has_test_clock;
	new.test_clock = now->test_clock;
	cut->under = check_since(&cut->mark);
	ledger_settings_change(&new, cut->reason);
	cut->held_ms = (GetCurrentTimestamp() - began) / 1000.0;
}

/* Whoever has disabled a trigger since the gates were read had its table's lock. */
static void
raise_disarmed(void)
{
	(void) query("SELECT string_agg(format('Trigger %s on %s: %s.', d.trigger_name, d.table_name, d.what), ' ')"
				 " FROM ledger.disarmed() d WHERE NOT starts_with(d.table_name, 'ledger.')",
				 0, NULL, NULL, NULL);
	if (text_column(1))
		ereport(ERROR,
				(errcode(ERRCODE_LG_GATE_NOT_MET),
				 errmsg("not ready to cut over: closed gates %s", "capture"),
				 errdetail_internal("%s", text_column(1)),
				 errhint("Call ledger.rearm().")));
}

/* In a subtransaction that is rolled back; what it cannot get is told, not raised. */
static void
rehearse(CutOver *cut)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		switch_over(cut);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	/* before anything is raised: outside a block nobody else would end it */
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ReThrowError(error);
}

static void
report_rehearsal(const CutOver *cut)
{
	Oid			types[] = {TEXTOID, TEXTARRAYOID, BOOLOID, FLOAT8OID, FLOAT8OID, FLOAT8OID,
	INT8OID, INT8OID, TEXTOID};
	double		stall = cut->locked.longest_ms + cut->held_ms;
	Datum		values[] = {caller_name(), cut->gates.names, BoolGetDatum(cut->got_locks),
		Float8GetDatum(cut->locked.waited_ms), Float8GetDatum(cut->held_ms), Float8GetDatum(stall),
		Int64GetDatum(cut->before.users + cut->under.users),
		Int64GetDatum(Max(cut->before.different, cut->under.different)),
	cut->locked.blockers ? CStringGetTextDatum(cut->locked.blockers) : (Datum) 0};

	(void) query("INSERT INTO ledger.cut_over_rehearsals (rehearsed_by, closed_gates, locked, lock_wait_ms,"
				 " held_ms, predicted_stall_ms, users_checked, users_different, blockers)"
				 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
				 lengthof(types), types, values, cut->locked.blockers ? NULL : "        n");
	ledger_procedure_commit();
	if (cut->gates.list)
		ereport(NOTICE, (errmsg("closed gates: %s", cut->gates.list),
						 errdetail_internal("%s", cut->gates.detail)));
	if (cut->locked.blockers)
		ereport(NOTICE, (errmsg("in the way of the locks: %s", cut->locked.blockers)));
	if (Max(cut->before.different, cut->under.different) > 0)
		ereport(NOTICE, (errmsg("users that differ: " INT64_FORMAT,
								Max(cut->before.different, cut->under.different)),
						 errdetail_internal("%s", cut->before.different ? cut->before.named : cut->under.named)));
	ereport(NOTICE,
			(cut->got_locks ?
			 errmsg("rehearsed: locks in %.0f ms, held for %.0f ms, predicted stall %.0f ms",
					cut->locked.waited_ms, cut->held_ms, stall) :
			 errmsg("rehearsed: no locks within %d ms", LOCK_WAIT_MS),
			 errdetail("Nothing was changed; ledger.cut_over_rehearsals has the figures.")));
}

/* With the gates that were forced. */
static void
note_forced(CutOver *cut)
{
	if (cut->gates.list)
		cut->reason = cstring_to_text(psprintf("%s (forced: %s)", text_to_cstring(cut->reason),
											   cut->gates.list));
}

PG_FUNCTION_INFO_V1(ledger_cut_over);

/* (dry_run, force, reason) */
Datum
ledger_cut_over(PG_FUNCTION_ARGS)
{
	CutOver		cut = {0};
	bool		dry_run;
	bool		force;

	ledger_arg_required(fcinfo, 0, "dry_run");
	ledger_arg_required(fcinfo, 1, "force");
	dry_run = PG_GETARG_BOOL(0);
	force = PG_GETARG_BOOL(1);
	begin_call(fcinfo, "ledger.cut_over()");
	if (force || !PG_ARGISNULL(2))
		cut.reason = arg_reason(fcinfo, 2);
	refuse_cut_over(ledger_settings_row());
	warn_of_test_clock();
	cut.gates = closed_gates();
	if (!dry_run)
		check_gates(&cut.gates, force);
	if (force)
		note_forced(&cut);
	cut.mark = check_before(&cut.before);
	if (dry_run)
	{
		rehearse(&cut);
		report_rehearsal(&cut);
	}
	else
	{
		raise_different(&cut.before, "before the cut-over");
		switch_over(&cut);
		raise_disarmed();
		raise_different(&cut.under, "at the cut-over");
		ledger_procedure_commit();
		ereport(NOTICE,
				(errmsg("cut over: the ledger alone is written, the mirror goes on"),
				 errdetail("The locks took %.0f ms and were held for %.0f ms; " INT64_FORMAT " users were compared under them.",
						   cut.locked.waited_ms, cut.held_ms, cut.under.users)));
	}
	SPI_finish();
	PG_RETURN_VOID();
}

/* ---- roll_back() ------------------------------------------------------------------------------- */

typedef struct RollBack
{
	int64		id;				/* of roll_backs */
	const char *from_state;
	text	   *reason;
	bool		catch_up;
	CaughtUp	caught;
} RollBack;

/*
 * Takes up a call that has not finished, from where it went, or else the last
 * one if it failed for somebody and the settings are still what it left.
 */
static bool
take_up(RollBack *back)
{
	bool		isnull;

	if (!query("SELECT r.id, r.from_state FROM ledger.roll_backs r WHERE r.finished_at IS NULL"
			   " OR r.failed > 0 AND r.id = (SELECT max(m.id) FROM ledger.roll_backs m)"
			   "  AND EXISTS (SELECT FROM ledger.settings s WHERE s.phase = 'migrating' AND s.shadow_mode"
			   "   AND NOT s.strict_mode AND s.balance_source = 'legacy')"
			   " ORDER BY r.id DESC LIMIT 1", 0, NULL, NULL, NULL))
		return false;
	back->id = DatumGetInt64(column(1, &isnull));
	back->from_state = text_column(2);
	return true;
}

/* last_id 0: none. */
static void
note_begun(RollBack *back, int64 last_id)
{
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID, BOOLOID, INT8OID};
	Datum		values[] = {caller_name(), CStringGetTextDatum(back->from_state),
		PointerGetDatum(back->reason), BoolGetDatum(back->catch_up),
	Int64GetDatum(last_id)};
	bool		isnull;

	(void) query("INSERT INTO ledger.roll_backs (started_by, from_state, reason, catch_up, last_transaction_id, writes_since)"
				 " VALUES ($1, $2, $3, $4, NULLIF($5, 0),"
				 "  CASE WHEN $2 = 'legacy_only' THEN (SELECT min(t.since) FROM ledger.legacy_only_times() t) END) RETURNING id",
				 5, types, values, NULL);
	back->id = DatumGetInt64(column(1, &isnull));
}

static void
note_finished(const RollBack *back)
{
	Oid			types[] = {INT8OID, INT8OID, INT8OID, UUIDARRAYOID};
	Datum		values[] = {Int64GetDatum(back->id), Int64GetDatum(back->caught.users),
		Int64GetDatum(back->caught.nfailed), back->caught.failed};

	/* those of earlier calls that it took up with it */
	(void) query("UPDATE ledger.roll_backs SET finished_at = ledger.clock(),"
				 " users = CASE WHEN id = $1 THEN GREATEST(users, $2) END, failed = CASE WHEN id = $1 THEN $3 END,"
				 " failed_users = CASE WHEN id = $1 AND $3 > 0 THEN $4 END"
				 " WHERE id = $1 OR finished_at IS NULL AND id < $1",
				 4, types, values, back->caught.failed ? NULL : "   n");
}

/* Everybody of whom one side is behind, brought up to the other. */
static void
catch_up(RollBack *back, const char *direction)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(back->id)};
	Datum		users;
	bool		isnull;

	if (!query("SELECT ledger.migration_behind(r) FROM ledger.roll_backs r WHERE r.id = $1",
			   1, types, values, NULL))
		return;
	users = datumCopy(column(1, &isnull), false, -1);
	ledger_procedure_commit();
	ledger_catch_up(DatumGetArrayTypeP(users), direction, back->reason, &back->caught);
}

/*
 * From retired: the table gets its name back and is mirrored again, so that
 * what it is behind by grows no more, and is caught up with before it is read.
 */
static void
bring_back(RollBack *back)
{
	LedgerSettings new;
	int64		last_id;
	bool		isnull;

	lock_everything(AccessExclusiveLock, NULL);
	new = *ledger_settings_row();
	(void) query("SELECT ledger.migration_restore()", 0, NULL, NULL, NULL);
	last_id = DatumGetInt64(column(1, &isnull));
	new.phase = LEDGER_CUT_OVER;
	ledger_settings_change(&new, back->reason);
	/* 0 would say that there is none */
	note_begun(back, Max(last_id, 1));
	ledger_procedure_commit();
}

/* The state that is gone back to; false: it is there already. */
static bool
switch_back(RollBack *back, bool note)
{
	LedgerSettings new;
	bool		changes;

	lock_everything(ShareRowExclusiveLock, NULL);
	new = *ledger_settings_row();
	changes = new.phase != LEDGER_MIGRATING || !new.shadow_mode || new.strict_mode || !new.source_legacy;
	new.phase = LEDGER_MIGRATING;
	new.shadow_mode = true;
	new.strict_mode = false;
	new.source_legacy = true;
	if (changes)
	{
		if (ledger_settings_check)
			ledger_settings_check(&new);
		if (note)
			note_begun(back, 0);
		ledger_settings_change(&new, back->reason);
	}
	ledger_procedure_commit();
	return changes;
}

static const char *
state_of(const LedgerSettings *settings)
{
	if (settings->phase == LEDGER_RETIRED)
		return "retired";
	if (settings->phase == LEDGER_CUT_OVER)
		return "cut_over";
	return ledger_settings_legacy_only(settings) ? "legacy_only" : "migrating";
}

/* Without catching up what differs is recorded. */
static void
record_differences(void)
{
	SPIExecuteOptions options = {0};

	options.allow_nonatomic = true;
	if (SPI_execute_extended("CALL ledger.run_reconciliation()", &options) < 0)
		elog(ERROR, "could not run a reconciliation");
	ledger_procedure_commit();
}

static void
go_back(RollBack *back)
{
	bool		pending;
	bool		changed;

	back->from_state = state_of(ledger_settings_row());
	pending = strcmp(back->from_state, "retired") != 0 && strcmp(back->from_state, "legacy_only") != 0 &&
		take_up(back);
	if (strcmp(back->from_state, "retired") == 0)
	{
		if (!pending)
			bring_back(back);
		if (back->catch_up)
			catch_up(back, "legacy");
		pending = true;
	}
	changed = switch_back(back, !pending);
	if (!changed && !pending)
	{
		ereport(NOTICE, (errmsg("shadow mode is on, strict mode off, the source legacy already")));
		return;
	}
	if (back->catch_up && strcmp(back->from_state, "legacy_only") == 0)
		catch_up(back, "ledger");
	if (back->caught.nfailed > 0 ||
		(!back->catch_up && strcmp(back->from_state, "migrating") != 0 &&
		 strcmp(back->from_state, "cut_over") != 0))
		record_differences();
	note_finished(back);
	ledger_procedure_commit();
	ereport(NOTICE,
			(errmsg("rolled back from %s: shadow mode is on, strict mode off, balances are read from the legacy table",
					back->from_state),
			 errdetail("Users caught up with: " INT64_FORMAT "; users who could not be: " INT64_FORMAT ".",
					   back->caught.users - back->caught.nfailed, back->caught.nfailed),
			 back->caught.nfailed == 0 ? 0 :
			 errhint("Mend what the warnings name, then call ledger.roll_back() again; ledger.discrepancies has what differs.")));
}

PG_FUNCTION_INFO_V1(ledger_roll_back);

/* (reason, catch_up) */
Datum
ledger_roll_back(PG_FUNCTION_ARGS)
{
	RollBack	back = {0};

	begin_call(fcinfo, "ledger.roll_back()");
	back.reason = arg_reason(fcinfo, 0);
	ledger_arg_required(fcinfo, 1, "catch_up");
	back.catch_up = PG_GETARG_BOOL(1);
	if (ledger_legacy_tables() == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no attached legacy table to go back to"),
				 errhint("Call ledger.attach_legacy().")));
	go_back(&back);
	SPI_finish();
	PG_RETURN_VOID();
}

/* ---- retire_legacy(), drop_legacy() ------------------------------------------------------------- */

/* Why it may not be yet; NULL: it may. */
static char *
too_soon(void)
{
	(void) query("SELECT CASE WHEN c.since IS NULL OR c.since > ledger.clock() - l.retire_after"
				 "  THEN format('The cut-over was %s ago, less than %s.', date_trunc('second', ledger.clock() - c.since), l.retire_after)"
				 " WHEN COALESCE(r.finished_at < GREATEST(c.since, ledger.clock() - l.run_age), true)"
				 "  THEN format('There is no full reconciliation since the cut-over within %s.', l.run_age)"
				 " WHEN r.discrepancies > 0 THEN format('Run %s found %s differences.', r.id, r.discrepancies) END"
				 " FROM ledger.gate_limits() l,"
				 " (SELECT max(s.changed_at) AS since FROM ledger.settings_log s WHERE s.phase = 'cut_over'"
				 "  AND s.id > COALESCE((SELECT max(o.id) FROM ledger.settings_log o WHERE o.phase <> 'cut_over'), 0)) c,"
				 " ledger.last_run(true) r",
				 0, NULL, NULL, NULL);
	return text_column(1);
}

PG_FUNCTION_INFO_V1(ledger_retire_legacy);

/* (reason) */
Datum
ledger_retire_legacy(PG_FUNCTION_ARGS)
{
	Oid			types[] = {TEXTOID, TEXTOID};
	Datum		values[2];
	text	   *reason;
	LedgerSettings new;
	char	   *why;
	Mark		mark;
	Check		check;
	ListCell   *lc;

	begin_call(fcinfo, "ledger.retire_legacy()");
	reason = arg_reason(fcinfo, 0);
	foreach(lc, ledger_legacy_tables())
		ledger_legacy_check_owner(((LegacyTable *) lfirst(lc))->relid);
	warn_of_test_clock();
	if (ledger_settings_row()->phase != LEDGER_CUT_OVER)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("only after the cut-over can the legacy table be retired"),
				 errhint("See ledger.migration_status().")));
	why = too_soon();
	if (why)
		ereport(ERROR,
				(errcode(ERRCODE_LG_GATE_NOT_MET),
				 errmsg("not ready to retire the legacy table"),
				 errdetail_internal("%s", why),
				 errhint("Wait, and CALL ledger.run_reconciliation().")));
	mark = check_before(&check);
	raise_different(&check, "before the retirement");
	lock_everything(AccessExclusiveLock, NULL);
	check = check_since(&mark);
	raise_different(&check, "at the retirement");
	new = *ledger_settings_row();
	if (new.phase != LEDGER_CUT_OVER)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the cut-over was rolled back meanwhile")));
	values[0] = PointerGetDatum(reason);
	values[1] = caller_name();
	(void) query("SELECT ledger.migration_retire($1, $2)", 2, types, values, NULL);
	why = text_column(1);
	new.phase = LEDGER_RETIRED;
	ledger_settings_change(&new, reason);
	ledger_procedure_commit();
	ereport(NOTICE, (errmsg("retired: the legacy table is %s", why)));
	SPI_finish();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ledger_drop_legacy);

/* (legacy, reason) */
Datum
ledger_drop_legacy(PG_FUNCTION_ARGS)
{
	Oid			types[] = {REGCLASSOID, TEXTOID, TEXTOID};
	Datum		values[3];

	ledger_arg_required(fcinfo, 0, "legacy");
	ledger_arg_required(fcinfo, 1, "reason");
	values[0] = PG_GETARG_DATUM(0);
	values[1] = PointerGetDatum(ledger_arg_reason_text(fcinfo, 1));
	values[2] = caller_name();
	ledger_legacy_check_owner(PG_GETARG_OID(0));
	ledger_prevent_read_only("ledger.drop_legacy()");
	warn_of_test_clock();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	(void) query("SELECT ledger.legacy_drop($1, $2, $3)", 3, types, values, NULL);
	SPI_finish();
	PG_RETURN_VOID();
}
