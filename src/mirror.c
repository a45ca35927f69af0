/*
 * mirror.c
 *		The posting hook's second half: the net change of a call is added to the
 *		legacy rows once it is in the journal, unless it was when they were
 *		locked (mirror_users.c), and the sides are compared.
 *
 * A legacy write that fails in a way that would fail again is contained under
 * strict off: the ledger's part stands and the failure is a discrepancy.
 * Contention and lack of resources are always raised: a retry may succeed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "compare.h"
#include "errors.h"
#include "evidence.h"
#include "legacy_plain.h"
#include "mirror.h"
#include "mirror_users.h"
#include "stats.h"

#define MIRROR_SLICE	10000	/* users whose rows are written together */

MirrorExpectation *ledger_mirror_expectation = NULL;

/* What the mirror does to one row. */
typedef struct Mirror
{
	PostingRequest *request;
	LegacyTable *table;
	pg_uuid_t	user_id;
	const MirrorUser *user;
	Numeric		deltas[LEDGER_MAX_LEGACY_COLUMNS];	/* NULL: none */
	Numeric		written[LEDGER_MAX_LEGACY_COLUMNS]; /* expected change of the row */
	LegacyRow	row;			/* after the write */
	uint32		inserted;		/* groups whose row was missing */
	bool		compare_all;	/* not the changed columns alone */
	MirrorExpectation expectation;
	LedgerAccount *accounts;	/* the user's, after the postings */
	int			naccounts;
} Mirror;

/* ---- one row ------------------------------------------------------------------------ */

/* Nothing is rounded: a column that cannot hold the digits is an error. */
void
ledger_mirror_check(const LegacyTable *table, const Numeric *values)
{
	for (int i = 0; i < table->ncolumns; i++)
	{
		if (values[i])
			(void) ledger_legacy_column_value(&table->columns[i], values[i]);
	}
}

static void
suppressed(const LegacyTable *table, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("the legacy row in %s was not %s", table->name, what),
			 table->nwhere > 0 ?
			 errdetail("The user's row is of another condition, or a trigger on the table suppressed it.") :
			 errdetail("A trigger on the table suppressed it.")));
}

/* A missing row: the ledger's values in all columns that it has. */
static void
full_values(Mirror *mirror, int group)
{
	for (int i = 0; i < mirror->table->ncolumns; i++)
	{
		const LegacyColumn *column = &mirror->table->columns[i];

		if (column->group == group)
			mirror->written[i] = ledger_legacy_ledger_value(column, mirror->accounts,
															mirror->naccounts);
	}
}

static void
insert_row(LegacyTable *table, const pg_uuid_t *user_id, int group, const Numeric *values,
		   LegacyRow *row)
{
	ledger_legacy_insert(table, user_id, group, values, row);
	if (row->groups & (1 << group))
		return;
	/* somebody inserted it since we looked: the retry finds it */
	if (ledger_legacy_lock_row(table, user_id) & (1 << group))
		ledger_store_serialization_failure();
	suppressed(table, "inserted");
}

/* Inserts the rows of the groups that have none. */
static void
insert_rows(Mirror *mirror, uint32 groups)
{
	for (int g = 0; g < mirror->table->ngroups; g++)
	{
		if ((groups & (1 << g)) == 0)
			continue;
		full_values(mirror, g);
		insert_row(mirror->table, &mirror->user_id, g, mirror->written, &mirror->row);
	}
	mirror->inserted = groups;
	mirror->compare_all = true;
}

static void
write_row(Mirror *mirror)
{
	LegacyTable *table = mirror->table;
	uint32		missing;

	memcpy(mirror->written, mirror->deltas, sizeof(mirror->written));
	ledger_legacy_add(table, &mirror->user_id, mirror->deltas, &mirror->row);
	missing = ledger_legacy_groups_of(table, mirror->deltas) & ~mirror->row.groups;
	if (missing == 0)
		return;
	if (ledger_legacy_lock_row(table, &mirror->user_id) & missing)
		suppressed(table, "updated");
	insert_rows(mirror, missing);
}

static void
expect(MirrorExpectation *expected, const LegacyTable *table, const pg_uuid_t *user_id)
{
	memset(expected, 0, sizeof(*expected));
	expected->table = table;
	expected->user_id = *user_id;
	expected->context = CurrentMemoryContext;
	expected->seen.level = GetCurrentTransactionNestLevel();
}

void
ledger_mirror_saw(MirrorExpectation *expected, const Numeric *deltas)
{
	MirrorSeen *seen = &expected->seen;
	int			level = GetCurrentTransactionNestLevel();
	/* what is added up here outlives the trigger's context */
	MemoryContext old = MemoryContextSwitchTo(expected->context);

	if (seen->level < level)
	{
		MirrorSeen *outer = palloc(sizeof(MirrorSeen));

		*outer = *seen;
		seen->outer = outer;
		seen->level = level;
	}
	seen->events++;
	for (int i = 0; i < expected->table->ncolumns; i++)
	{
		if (deltas[i])
			seen->actual[i] = ledger_amount_add(seen->actual[i] ? seen->actual[i] :
												ledger_amount_zero(), deltas[i]);
	}
	MemoryContextSwitchTo(old);
}

/*
 * One ends while a row is written if the table's own code has a block that may
 * fail. An error that ends the write as well has taken the expectation away by
 * now, except on the way out of the process.
 */
static void
subxact_callback(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	MirrorSeen *seen = ledger_mirror_expectation ? &ledger_mirror_expectation->seen : NULL;
	int			level = GetCurrentTransactionNestLevel();
	MirrorSeen *outer;

	if (seen == NULL || seen->outer == NULL || seen->level < level || proc_exit_inprogress)
		return;
	outer = seen->outer;
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		*seen = *outer;
		pfree(outer);
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		seen->level = level - 1;
		if (outer->level < seen->level)
			return;
		seen->outer = outer->outer;
		pfree(outer);
	}
}

/* Writes the row while the capture trigger watches it for us. */
static void
write_watched(Mirror *mirror)
{
	MirrorExpectation *outer = ledger_mirror_expectation;

	expect(&mirror->expectation, mirror->table, &mirror->user_id);
	ledger_mirror_expectation = &mirror->expectation;
	PG_TRY();
	{
		write_row(mirror);
	}
	PG_FINALLY();
	{
		ledger_mirror_expectation = outer;
	}
	PG_END_TRY();
}

/* Sets the rows that are there, inserts the others. */
static void
set_rows(LegacyTable *table, const pg_uuid_t *user_id, uint32 has, const Numeric *values,
		 LegacyRow *row)
{
	uint32		wanted = ledger_legacy_groups_of(table, values);
	Numeric		set[LEDGER_MAX_LEGACY_COLUMNS];

	for (int i = 0; i < table->ncolumns; i++)
		set[i] = has & (1 << table->columns[i].group) ? values[i] : NULL;
	ledger_legacy_set(table, user_id, set, row);
	if (wanted & has & ~row->groups)
		suppressed(table, "updated");
	for (int g = 0; g < table->ngroups; g++)
	{
		if (wanted & ~has & (1 << g))
			insert_row(table, user_id, g, values, row);
	}
}

void
ledger_mirror_set(LegacyTable *table, const pg_uuid_t *user_id, uint32 has,
				  const Numeric *values, LegacyRow *row)
{
	MirrorExpectation *outer = ledger_mirror_expectation;
	MirrorExpectation expectation;

	ledger_mirror_check(table, values);
	expect(&expectation, table, user_id);
	ledger_mirror_expectation = &expectation;
	PG_TRY();
	{
		set_rows(table, user_id, has, values, row);
	}
	PG_FINALLY();
	{
		ledger_mirror_expectation = outer;
	}
	PG_END_TRY();
}

static bool
must_be_raised(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case MAKE_SQLSTATE('2', '2', '0', '0', '0'):
		case MAKE_SQLSTATE('2', '3', '0', '0', '0'):
		case MAKE_SQLSTATE('2', '7', '0', '0', '0'):
		case MAKE_SQLSTATE('4', '2', '0', '0', '0'):
		case MAKE_SQLSTATE('4', '4', '0', '0', '0'):
		case MAKE_SQLSTATE('P', '0', '0', '0', '0'):
			return false;
		default:
			return true;
	}
}

/*
 * The same for several, in one subtransaction. Returns the error that was
 * contained, or NULL; raises what must not be contained.
 */
static ErrorData *
write_contained(Mirror **mirrors, int n)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		for (int i = 0; i < n; i++)
			write_watched(mirrors[i]);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (error && must_be_raised(error->sqlerrcode))
		ReThrowError(error);
	return error;
}

/* Of each column that was to change, after an error: looks in no table. */
static void
leave_evidence_of_failure(Mirror *mirror, const ErrorData *error)
{
	const char *sqlstate = unpack_sql_state(error->sqlerrcode);

	for (int i = 0; i < mirror->table->ncolumns; i++)
	{
		Evidence	evidence = {mirror->table->id, &mirror->user_id, mirror->table->columns[i].name,
		"mirror_failed", "posting"};

		if (mirror->deltas[i] == NULL)
			continue;
		evidence.ledger_value = ledger_legacy_ledger_value(&mirror->table->columns[i],
														   mirror->accounts, mirror->naccounts);
		evidence.error_code = sqlstate;
		evidence.note = error->message;
		ledger_evidence_put(&evidence);
	}
}

/* Strict on: what fails is raised, and takes the posting with it. */
static void
write_strict(Mirror *mirror)
{
	MemoryContext context = CurrentMemoryContext;
	bool		evidence = ledger_evidence_active();
	bool		may_show = ledger_may_show_amounts();

	PG_TRY();
	{
		write_watched(mirror);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (!must_be_raised(error->sqlerrcode))
		{
			ledger_stats_shadow(STATS_MIRROR_FAILED);
			if (evidence)
				leave_evidence_of_failure(mirror, error);
		}
		if (may_show)
			PG_RE_THROW();
		/* it was raised in the owner's role: a constraint tells of the whole row */
		FlushErrorState();
		error->detail_log = error->detail;
		error->detail = NULL;
		ReThrowError(error);
	}
	PG_END_TRY();
}

/* ---- what came of it ------------------------------------------------------------------ */

static void
fetch_row(Mirror *mirror)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	ledger_legacy_fetch(mirror->table, &mirror->user_id, &mirror->row);
	PopActiveSnapshot();
}

/* What the row's triggers did beside what was asked for. */
static void
check_side_effects(Mirror *mirror)
{
	Numeric		rest[LEDGER_MAX_LEGACY_COLUMNS] = {NULL};
	bool		any = false;

	if (mirror->expectation.seen.events == 0)
	{
		CompareColumn column = {mirror->table, &mirror->table->columns[0]};

		column.ledger_value = ledger_legacy_ledger_value(column.column, mirror->accounts,
														 mirror->naccounts);
		column.legacy_value = mirror->row.values[0];
		ledger_discrepancy_store(&mirror->user_id, &column, "not_captured", "posting", NULL,
								 "the capture trigger did not fire");
		return;
	}
	for (int i = 0; i < mirror->table->ncolumns; i++)
	{
		Numeric		zero = ledger_amount_zero();
		Numeric		seen = mirror->expectation.seen.actual[i];
		Numeric		actual = seen ? seen : zero;
		Numeric		asked = mirror->written[i] ? mirror->written[i] : zero;

		if (numeric_is_nan(actual) || numeric_is_inf(actual) ||
			ledger_amount_cmp(actual, asked) == 0)
			continue;
		rest[i] = ledger_amount_sub(actual, asked);
		any = true;
	}
	if (!any)
		return;
	ledger_capture_side_effect(mirror->table, &mirror->user_id, rest);
	fetch_row(mirror);
	mirror->compare_all = true;
}

/* The changed columns of both sides, now. */
static int
compare_changed(Mirror *mirror, CompareColumn *columns)
{
	CompareColumn all[LEDGER_MAX_LEGACY_COLUMNS];
	int			n = ledger_compare_row(mirror->table, &mirror->user_id, mirror->accounts,
									   mirror->naccounts, &mirror->row, all);
	int			kept = 0;

	for (int i = 0; i < n; i++)
	{
		if (mirror->deltas[i] == NULL && !mirror->compare_all)
			continue;
		/* both halves are done: what differs now is told now */
		if (all[i].status == COMPARE_PENDING)
			all[i].status = ledger_legacy_has(&mirror->row, all[i].column) ?
				COMPARE_MISMATCH : COMPARE_MISSING_LEGACY;
		columns[kept++] = all[i];
	}
	return kept;
}

static void
compare_after(Mirror *mirror, const char *cause, const char *error_code, const char *note)
{
	CompareColumn columns[LEDGER_MAX_LEGACY_COLUMNS];
	Numeric		own[LEDGER_MAX_LEGACY_COLUMNS];
	int			n;

	if (ledger_compare_agrees(mirror->table, mirror->accounts, mirror->naccounts, &mirror->row,
							  mirror->compare_all ? NULL : mirror->deltas))
	{
		ledger_compare_tell_in_sync(&mirror->user_id);
		return;
	}
	n = compare_changed(mirror, columns);
	ledger_compare_count(columns, n);
	if (cause == NULL && ledger_capture_own_writes(mirror->table, &mirror->user_id, own))
		cause = "double_write";
	for (int i = 0; i < n; i++)
	{
		if (columns[i].status != COMPARE_MATCH)
			ledger_discrepancy_store(&mirror->user_id, &columns[i], cause, "posting",
									 error_code, note);
	}
	ledger_compare_report(&mirror->user_id, columns, n, false);
}

/*
 * A row that was not there is worth a note, unless the user is new: not
 * opened before this call, and without money until it. Where a user has several
 * rows the first money of its kind brings the row.
 */
static void
note_missing(Mirror *mirror)
{
	const MirrorState *state = mirror->request->hook_state;
	const LegacyTable *table = mirror->table;
	uint32		noted = table->ngroups > 1 ? 0 : 1;

	for (int i = 0; i < mirror->user->naccounts; i++)
	{
		int			index = state->accounts[mirror->user->first + i];

		if (mirror->request->accounts[index].mark_opened & table->bit)
			noted = 0;
	}
	for (int i = 0; i < table->ncolumns; i++)
	{
		Numeric		delta = mirror->deltas[i] ? mirror->deltas[i] : ledger_amount_zero();

		if (mirror->inserted & (1 << table->columns[i].group) &&
			ledger_amount_cmp(mirror->written[i], delta) != 0)
			noted |= 1 << table->columns[i].group;
	}
	for (int i = 0; i < table->ncolumns; i++)
	{
		CompareColumn column = {table, &table->columns[i]};

		if ((mirror->inserted & noted & (1 << table->columns[i].group)) == 0)
			continue;
		column.ledger_value = mirror->written[i];
		if (ledger_amount_sign(column.ledger_value) != 0)
			ledger_discrepancy_store(&mirror->user_id, &column, "missing_legacy", "posting", NULL,
									 "the mirror inserted the row");
	}
}

/* Strict off: the ledger's part stands, the rest is evidence. */
static void
record_failure(Mirror *mirror, const ErrorData *error)
{
	char	   *sqlstate = pstrdup(unpack_sql_state(error->sqlerrcode));

	ereport(WARNING,
			(errcode(ERRCODE_LG_DISCREPANCY),
			 errmsg("shadow mode: legacy row not written | user_id=%s | table=%s | sqlstate=%s",
					DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(&mirror->user_id))),
					mirror->table->name, sqlstate),
			 errdetail_internal("%s", error->message)));
	mirror->inserted = 0;
	mirror->compare_all = false;
	/* what cannot be written for want of a column or a right cannot be read */
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != MAKE_SQLSTATE('4', '2', '0', '0', '0'))
	{
		fetch_row(mirror);
		compare_after(mirror, "mirror_failed", sqlstate, error->message);
		return;
	}
	for (int i = 0; i < mirror->table->ncolumns; i++)
	{
		CompareColumn column = {mirror->table, &mirror->table->columns[i]};

		if (mirror->deltas[i] == NULL)
			continue;
		column.ledger_value = ledger_legacy_ledger_value(column.column, mirror->accounts,
														 mirror->naccounts);
		ledger_discrepancy_store(&mirror->user_id, &column, "mirror_failed", "posting",
								 sqlstate, error->message);
	}
}

/* ---- written ---------------------------------------------------------------------------- */

/*
 * What the user had when S was taken, with the call's changes. While his rows
 * are locked nobody else posts for him.
 */
static void
accounts_after_call(Mirror *mirror, const PostingUser *before)
{
	const MirrorState *state = mirror->request->hook_state;
	int			n = before->naccounts;

	mirror->accounts = palloc(sizeof(LedgerAccount) * (n + mirror->user->naccounts));
	memcpy(mirror->accounts, before->accounts, sizeof(LedgerAccount) * n);
	for (int i = 0; i < mirror->user->naccounts; i++)
	{
		int			index = state->accounts[mirror->user->first + i];
		const LedgerAccount *account = &mirror->request->accounts[index].account;
		int			at = 0;

		/* a batch has not opened it after all */
		if (account->id == 0)
			continue;
		while (at < n && mirror->accounts[at].id != account->id)
			at++;
		mirror->accounts[at] = *account;
		n = Max(n, at + 1);
	}
	mirror->naccounts = n;
}

/*
 * His accounts after the postings. If one of the call's had moved since S, so
 * may have others of his, beside a legacy row that it left as it was: money
 * that was reserved, say. They are read anew then.
 */
static void
read_accounts(Mirror *mirror, bool locked)
{
	PostingRequest *request = mirror->request;

	if (locked && !request->moved)
	{
		accounts_after_call(mirror, ledger_posting_user(request, &mirror->user_id));
		return;
	}
	PushActiveSnapshot(GetTransactionSnapshot());
	mirror->naccounts = ledger_accounts_of_user(request->store, &mirror->user_id,
												GetActiveSnapshot(), &mirror->accounts);
	PopActiveSnapshot();
}

/* SQL has written the row, or not for that error. */
static void
finish_row(Mirror *mirror, const ErrorData *error)
{
	ledger_stats_shadow(error ? STATS_MIRROR_FAILED : STATS_MIRROR_OK);
	if (error)
	{
		record_failure(mirror, error);
		return;
	}
	check_side_effects(mirror);
	if (mirror->inserted)
		note_missing(mirror);
	/* it has the rows that were written */
	if (mirror->compare_all && mirror->table->ngroups > 1)
		fetch_row(mirror);
	if (mirror->request->settings->shadow_mode)
		compare_after(mirror, NULL, NULL, NULL);
}

/*
 * Rows that SQL has to write: under strict off all in one subtransaction. If
 * that fails, each in one of its own, so that only what fails is left out.
 */
static void
write_rows(Mirror **mirrors, int n, bool strict)
{
	bool		together = !strict && n > 1 && write_contained(mirrors, n) == NULL;

	for (int i = 0; i < n; i++)
	{
		ErrorData  *error = NULL;

		if (!together)
		{
			mirrors[i]->inserted = 0;
			mirrors[i]->compare_all = false;
			if (strict)
				write_strict(mirrors[i]);
			else
				error = write_contained(&mirrors[i], 1);
		}
		finish_row(mirrors[i], error);
	}
}

/* Mirrors what the call did to one user, unless SQL has to: then it is returned. */
static Mirror *
mirror_user(PostingRequest *request, LegacyTable *table, const MirrorUser *user,
			const MirrorRow *row)
{
	Mirror	   *mirror = palloc0(sizeof(Mirror));

	mirror->request = request;
	mirror->table = table;
	mirror->user = user;
	mirror->user_id = user->user_id;
	if (row->written)
	{
		memcpy(mirror->deltas, row->deltas, sizeof(mirror->deltas));
		mirror->row = row->row;
	}
	else if (!ledger_mirror_deltas(request, user, table, mirror->deltas))
		return NULL;
	read_accounts(mirror, row->exists);
	if (!row->written && !ledger_plain_add(table, &mirror->user_id, mirror->deltas, &mirror->row))
		return mirror;
	ledger_stats_shadow(STATS_MIRROR_OK);
	if (request->settings->shadow_mode)
		compare_after(mirror, NULL, NULL, NULL);
	return NULL;
}

/* Some of the users, from the first on; what it needs for them is freed after it. */
static void
mirror_users(PostingRequest *request, LegacyTable *table, const MirrorUser *users,
			 const MirrorRow *rows, int n)
{
	MemoryContext old = CurrentMemoryContext;
	Mirror	  **by_sql;
	int			nby_sql = 0;

	/* a call for one user has the executor's short-lived one */
	if (n > 1)
		MemoryContextSwitchTo(AllocSetContextCreate(CurrentMemoryContext, "ledger mirror",
													ALLOCSET_DEFAULT_SIZES));
	by_sql = palloc(sizeof(Mirror *) * n);
	for (int i = 0; i < n; i++)
	{
		Mirror	   *mirror = mirror_user(request, table, &users[i], &rows[i]);

		CHECK_FOR_INTERRUPTS();
		if (mirror)
			by_sql[nby_sql++] = mirror;
	}
	write_rows(by_sql, nby_sql, request->settings->strict_mode);
	if (n > 1)
		MemoryContextDelete(MemoryContextSwitchTo(old));
}

/* The postings are in the journal and visible: the rows follow. */
static void
mirror_written(PostingRequest *request)
{
	const MirrorState *state = request->hook_state;
	const MirrorRow *rows = state->rows;
	ListCell   *lc;

	if (!state->mirrors)
		return;
	if (state->written)
		ledger_stats_lag_end();
	else
		ledger_stats_lag_begin(false);
	foreach(lc, state->tables)
	{
		for (int i = 0; i < state->nusers; i += MIRROR_SLICE)
			mirror_users(request, lfirst(lc), &state->users[i], &rows[i],
						 Min(MIRROR_SLICE, state->nusers - i));
		rows += state->nusers;
	}
	ledger_stats_lag_end();
}

void
ledger_mirror_init(void)
{
	RegisterSubXactCallback(subxact_callback, NULL);
	ledger_posting_hook.lock = ledger_mirror_lock;
	ledger_posting_hook.lock_user = ledger_mirror_lock_user;
	ledger_posting_hook.written = mirror_written;
}
