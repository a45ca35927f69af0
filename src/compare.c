/*
 * compare.c
 *		One user, both sides, one snapshot; and the proof at commit.
 *
 * A difference is ledger - legacy. Both sides are read under the active
 * snapshot, so a compare never takes a movement half done for a difference.
 * What this transaction is at work on is pending: an application may have
 * done half of its own dual write. The verdict on it falls at commit.
 *
 * The proof at commit is a read in the transaction callback, not a deferred
 * trigger, which SET CONSTRAINTS, the replica role or DISABLE TRIGGER would
 * skip. It covers every user that the transaction has posted for.
 *
 * Memory: the touched users are an array, and a hash once they are many, in
 * the transaction's context. Each carries the nesting level that it belongs to; as levels only
 * grow along the array, a rolled back subtransaction cuts its tail.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "args.h"
#include "compare.h"
#include "errors.h"
#include "evidence.h"
#include "owner.h"
#include "stats.h"

#define TOUCHED_FEW		8		/* users up to which a list is searched */

static const char *const status_names[] = {
	"match", "mismatch", "pending", "missing_legacy", "missing_ledger", "non_finite"
};

const char *
ledger_compare_status_name(CompareStatus status)
{
	return status_names[status];
}

/* ledger.log_in_sync, the levels as client_min_messages names them */
static const struct config_enum_entry level_options[] = {
	{"debug5", DEBUG5, false},
	{"debug4", DEBUG4, false},
	{"debug3", DEBUG3, false},
	{"debug2", DEBUG2, false},
	{"debug1", DEBUG1, false},
	{"debug", DEBUG1, true},
	{"log", LOG, false},
	{"info", INFO, false},
	{"notice", NOTICE, false},
	{"warning", WARNING, false},
	{NULL, 0, false}
};

static int	in_sync_level = DEBUG1;

/* ---- one user ------------------------------------------------------------------- */

static CompareStatus
verdict(const CompareColumn *column, bool has_row, bool opened, bool touched)
{
	if (column->difference == NULL)
		return COMPARE_NON_FINITE;
	if (ledger_amount_sign(column->difference) == 0)
		return COMPARE_MATCH;
	if (touched)
		return COMPARE_PENDING;
	if (!has_row)
		return COMPARE_MISSING_LEGACY;
	if (!opened && ledger_amount_sign(column->ledger_value) == 0)
		return COMPARE_MISSING_LEDGER;
	return COMPARE_MISMATCH;
}

int
ledger_compare_row(const LegacyTable *table, const pg_uuid_t *user_id,
				   const LedgerAccount *accounts, int naccounts,
				   const LegacyRow *row, CompareColumn *columns)
{
	bool		opened = ledger_legacy_is_opened(table, accounts, naccounts);
	bool		touched = ledger_compare_touched(user_id);

	for (int i = 0; i < table->ncolumns; i++)
	{
		CompareColumn *column = &columns[i];
		bool		has_row = ledger_legacy_has(row, &table->columns[i]);
		Numeric		legacy = has_row ? row->values[i] : NULL;
		int			digits = ledger_legacy_display_digits(&table->columns[i]);

		column->table = table;
		column->column = &table->columns[i];
		column->ledger_value = ledger_legacy_ledger_value(column->column, accounts, naccounts);
		if (legacy && (numeric_is_nan(legacy) || numeric_is_inf(legacy)))
		{
			column->legacy_value = legacy;
			column->difference = NULL;
		}
		else
		{
			column->legacy_value = legacy ? ledger_amount_normalise(legacy, digits) : NULL;
			column->difference = legacy ?
				ledger_amount_normalise(ledger_amount_sub(column->ledger_value, legacy), digits) :
				column->ledger_value;
		}
		column->status = verdict(column, has_row, opened, touched);
	}
	return table->ncolumns;
}

bool
ledger_compare_agrees(const LegacyTable *table, const LedgerAccount *accounts, int naccounts,
					  const LegacyRow *row, const Numeric *changes)
{
	for (int i = 0; row->found && i < table->ncolumns; i++)
	{
		Numeric		rest = row->values[i];

		if (changes && changes[i] == NULL)
			continue;
		/* a group without a row has none to differ from zero */
		if (!ledger_legacy_has(row, &table->columns[i]))
			rest = ledger_amount_zero();
		if (rest == NULL || numeric_is_nan(rest) || numeric_is_inf(rest))
			return false;
		for (int j = 0; j < naccounts; j++)
		{
			if (!ledger_legacy_counts(&table->columns[i], &accounts[j]))
				continue;
			rest = ledger_amount_add(ledger_amount_sub(rest, accounts[j].credits),
									 accounts[j].debits);
		}
		if (ledger_amount_sign(rest) != 0)
			return false;
	}
	if (row->found)
		ledger_stats_shadow(STATS_MATCH);
	return row->found;
}

void
ledger_compare_count(const CompareColumn *columns, int ncolumns)
{
	StatsShadow verdict = STATS_MATCH;

	for (int i = 0; i < ncolumns && verdict != STATS_MISMATCH; i++)
	{
		if (columns[i].status == COMPARE_PENDING)
			verdict = STATS_PENDING;
		else if (columns[i].status != COMPARE_MATCH)
			verdict = STATS_MISMATCH;
	}
	ledger_stats_shadow(verdict);
}

int
ledger_compare_user(const pg_uuid_t *user_id, CompareColumn **columns)
{
	List	   *tables = ledger_legacy_compared();
	Store	   *store = ledger_accounts_open(AccessShareLock);
	LedgerAccount *accounts;
	int			naccounts = ledger_accounts_of_user(store, user_id, GetActiveSnapshot(), &accounts);
	int			n = 0;
	ListCell   *lc;

	ledger_store_close(store);
	*columns = palloc(sizeof(CompareColumn) * LEDGER_MAX_LEGACY_COLUMNS *
					  Max(list_length(tables), 1));
	foreach(lc, tables)
	{
		LegacyTable *table = lfirst(lc);
		LegacyRow	row;

		ledger_legacy_fetch(table, user_id, &row);
		n += ledger_compare_row(table, user_id, accounts, naccounts, &row, *columns + n);
	}
	return n;
}

/* ---- telling ---------------------------------------------------------------------- */

static const char *
amount_or(Numeric amount, const char *otherwise)
{
	return amount ? ledger_amount_out(amount) : otherwise;
}

/* column: ledger=… legacy=… diff=…, …; without amounts: the columns' names */
static char *
describe(const CompareColumn *columns, int ncolumns, bool amounts)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < ncolumns; i++)
	{
		const CompareColumn *c = &columns[i];

		if (list.len)
			appendStringInfoString(&list, ", ");
		appendStringInfoString(&list, c->column->name);
		if (amounts)
			appendStringInfo(&list, ": ledger=%s legacy=%s diff=%s",
							 ledger_amount_out(c->ledger_value),
							 amount_or(c->legacy_value,
									   c->status == COMPARE_MISSING_LEGACY ? "missing" : "NULL"),
							 amount_or(c->difference, "not finite"));
	}
	return list.data;
}

static void
warn(const char *user, const CompareColumn *columns, int ncolumns)
{
	const char *format = "shadow mode: balance discrepancy | user_id=%s | discrepancies=[%s]";
	bool		amounts = ledger_may_show_amounts();

	ereport(WARNING,
			(errcode(ERRCODE_LG_DISCREPANCY),
			 errmsg_internal(format, user, describe(columns, ncolumns, amounts))));
	/* the warning is a line in the log too, unless it is set not to be; there LOG ranks highest */
	if (log_min_messages > WARNING || log_min_messages == LOG || !amounts)
		ereport(LOG_SERVER_ONLY,
				(errcode(ERRCODE_LG_DISCREPANCY),
				 errmsg_internal(format, user, describe(columns, ncolumns, true))));
}

void
ledger_compare_tell_in_sync(const pg_uuid_t *user_id)
{
	if (message_level_is_interesting(in_sync_level))
		ereport(in_sync_level,
				(errmsg_internal("shadow mode: ledger and legacy in sync | user_id=%s",
								 DatumGetCString(DirectFunctionCall1(uuid_out,
																	 UUIDPGetDatum(user_id))))));
}

static bool
all_match(const CompareColumn *columns, int ncolumns)
{
	for (int i = 0; i < ncolumns; i++)
	{
		if (columns[i].status != COMPARE_MATCH)
			return false;
	}
	return true;
}

static void
raise_discrepancy(const char *user, const CompareColumn *columns, int ncolumns)
{
	bool		amounts = ledger_may_show_amounts();
	StringInfoData diff;

	initStringInfo(&diff);
	for (int i = 0; i < ncolumns; i++)
		appendStringInfo(&diff, "%s%s", i ? ", " : "", amount_or(columns[i].difference, "not finite"));
	ereport(ERROR,
			(errcode(ERRCODE_LG_DISCREPANCY),
			 errmsg("balance discrepancy detected (strict mode) | user_id=%s | diff=%s",
					user, amounts ? diff.data : "hidden"),
			 errdetail("Ledger and legacy row differ in: %s.", describe(columns, ncolumns, amounts)),
			 errhint("SELECT * FROM ledger.compare_balances('%s'), find the cause, then ledger.repair().",
					 user)));
}

/* Keeps those that do not match; pending ones only if they are asked for. */
static int
keep_different(CompareColumn *different, const CompareColumn *columns, int ncolumns, bool pending)
{
	int			n = 0;

	for (int i = 0; i < ncolumns; i++)
	{
		if (columns[i].status != COMPARE_MATCH &&
			(pending || columns[i].status != COMPARE_PENDING))
			different[n++] = columns[i];
	}
	return n;
}

void
ledger_compare_report(const pg_uuid_t *user_id, const CompareColumn *columns, int ncolumns,
					  bool raise)
{
	CompareColumn *different;
	char	   *user;
	int			n;

	if (ncolumns == 0)
		return;
	different = palloc(sizeof(CompareColumn) * ncolumns);
	n = keep_different(different, columns, ncolumns, false);
	if (n == 0)
	{
		if (all_match(columns, ncolumns))
			ledger_compare_tell_in_sync(user_id);
		return;
	}
	user = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(user_id)));
	if (raise)
	{
		ledger_stats_shadow(STATS_READ_REFUSED);
		raise_discrepancy(user, different, n);
	}
	warn(user, different, n);
}

/* ---- evidence --------------------------------------------------------------------- */

static void
put_evidence(const pg_uuid_t *user_id, const CompareColumn *column, const char *cause,
			 const char *source, const char *error_code, const char *note)
{
	Evidence	evidence = {column->table->id, user_id, column->column->name};

	evidence.cause = cause ? cause : status_names[column->status];
	evidence.source = source;
	evidence.ledger_value = column->ledger_value;
	evidence.legacy_value = column->legacy_value;
	evidence.error_code = error_code;
	evidence.note = note;
	ledger_evidence_put(&evidence);
}

void
ledger_compare_leave_evidence(const pg_uuid_t *user_id, const CompareColumn *columns, int ncolumns,
							  bool raise, const char *source)
{
	if (!ledger_evidence_active())
		return;
	for (int i = 0; i < ncolumns; i++)
	{
		if (columns[i].status == COMPARE_MATCH ||
			(columns[i].status == COMPARE_PENDING && strcmp(source, "commit") != 0))
			continue;
		put_evidence(user_id, &columns[i], raise ? "strict_failure" : NULL, source, NULL, NULL);
	}
}

/*
 * The ring of evidence, or where there is none the table: then it is part of
 * this transaction, and gone if that is rolled back. Never both: what is
 * stored twice is counted twice.
 */
void
ledger_discrepancy_store(const pg_uuid_t *user_id, const CompareColumn *column,
						 const char *cause, const char *source,
						 const char *error_code, const char *note)
{
	Oid			types[] = {INT2OID, UUIDOID, TEXTOID, TEXTOID, TEXTOID, NUMERICOID, NUMERICOID,
	TEXTOID, TEXTOID};
	Datum		values[lengthof(types)];
	char		nulls[] = "         ";
	OwnerContext saved;

	if (ledger_evidence_active())
	{
		put_evidence(user_id, column, cause, source, error_code, note);
		return;
	}
	values[0] = Int16GetDatum(column->table->id);
	values[1] = UUIDPGetDatum(user_id);
	values[2] = CStringGetTextDatum(column->column->name);
	values[3] = CStringGetTextDatum(cause ? cause : status_names[column->status]);
	values[4] = CStringGetTextDatum(source);
	values[5] = NumericGetDatum(column->ledger_value);
	values[6] = NumericGetDatum(column->legacy_value);
	values[7] = error_code ? CStringGetTextDatum(error_code) : (Datum) 0;
	values[8] = note ? CStringGetTextDatum(note) : (Datum) 0;
	nulls[6] = column->legacy_value ? ' ' : 'n';
	nulls[7] = error_code ? ' ' : 'n';
	nulls[8] = note ? ' ' : 'n';

	ledger_spi_as_owner(&saved, "discrepancy_rows");
	if (SPI_execute_with_args("INSERT INTO ledger.discrepancy_rows AS d (mapping_id, user_id, legacy_column,"
							  "  cause, source, ledger_value, legacy_value, error_code, note)"
							  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
							  " ON CONFLICT (user_id, mapping_id, legacy_column, cause) WHERE status = 'open'"
							  " DO UPDATE SET count = d.count + 1, last_seen = ledger.clock(),"
							  "  ledger_value = EXCLUDED.ledger_value, legacy_value = EXCLUDED.legacy_value,"
							  "  error_code = EXCLUDED.error_code, note = EXCLUDED.note",
							  lengthof(types), types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store a discrepancy");
	ledger_spi_done(&saved);
}

/* ---- the touched users --------------------------------------------------------------- */

typedef struct Touched
{
	pg_uuid_t	user_id;
	int			level;			/* nesting level that it goes with */
} Touched;

typedef struct TouchedSet
{
	LedgerSettings settings;	/* by which the first of them was posted for */
	Touched    *list;			/* levels never fall along it */
	int			n;
	int			max;
	HTAB	   *users;			/* pg_uuid_t; NULL while they are few */
} TouchedSet;

static TouchedSet *touched = NULL;	/* in TopTransactionContext */

static void
create_touched(void)
{
	TouchedSet *set = MemoryContextAllocZero(TopTransactionContext, sizeof(TouchedSet));

	set->max = TOUCHED_FEW;
	set->list = MemoryContextAlloc(TopTransactionContext, sizeof(Touched) * set->max);
	touched = set;
}

/* From here on the users are looked up in a hash. */
static void
hash_touched(void)
{
	HASHCTL		info = {0};
	HTAB	   *users;

	info.keysize = sizeof(pg_uuid_t);
	info.entrysize = sizeof(pg_uuid_t);
	info.hcxt = TopTransactionContext;
	users = hash_create("ledger touched users", 64, &info,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < touched->n; i++)
		(void) hash_search(users, &touched->list[i].user_id, HASH_ENTER, NULL);
	/* all of them or none: an error may have come between */
	touched->users = users;
}

void
ledger_compare_touch(const pg_uuid_t *user_id, const LedgerSettings *settings)
{
	if (ledger_compare_touched(user_id))
		return;
	if (touched == NULL)
		create_touched();
	/* a savepoint that was rolled back had given up the settings' lock */
	if (touched->n == 0)
		touched->settings = *settings;
	if (touched->n == touched->max)
	{
		touched->list = repalloc_huge(touched->list, sizeof(Touched) * touched->max * 2);
		touched->max *= 2;
	}
	touched->list[touched->n].user_id = *user_id;
	touched->list[touched->n].level = GetCurrentTransactionNestLevel();
	touched->n++;
	if (touched->users)
		(void) hash_search(touched->users, user_id, HASH_ENTER, NULL);
	else if (touched->n > TOUCHED_FEW)
		hash_touched();
}

bool
ledger_compare_touched(const pg_uuid_t *user_id)
{
	if (touched == NULL)
		return false;
	if (touched->users)
		return hash_search(touched->users, user_id, HASH_FIND, NULL) != NULL;
	for (int i = 0; i < touched->n; i++)
	{
		if (memcmp(&touched->list[i].user_id, user_id, UUID_LEN) == 0)
			return true;
	}
	return false;
}

static void
subxact_callback(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (touched == NULL)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (touched->n > 0 && touched->list[touched->n - 1].level >= level)
		{
			touched->n--;
			if (touched->users)
				(void) hash_search(touched->users, &touched->list[touched->n].user_id,
								   HASH_REMOVE, NULL);
		}
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = touched->n - 1; i >= 0 && touched->list[i].level >= level; i--)
			touched->list[i].level = level - 1;
	}
}

/* ---- the proof at commit --------------------------------------------------------------- */

static void
prove_user(const pg_uuid_t *user_id)
{
	CompareColumn *columns;
	int			n = ledger_compare_user(user_id, &columns);

	n = keep_different(columns, columns, n, true);
	ledger_stats_shadow(STATS_PROOF);
	if (n == 0)
		return;
	ledger_stats_shadow(STATS_PROOF_FAILED);
	ledger_compare_leave_evidence(user_id, columns, n, true, "commit");
	raise_discrepancy(DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(user_id))),
					  columns, n);
}

/*
 * Under strict mode every user touched must agree now. Their legacy rows are
 * locked by this transaction, so what is proved stays so to its end.
 */
static void
prove(void)
{
	MemoryContext context;
	MemoryContext old;

	if (touched == NULL || touched->n == 0 ||
		!touched->settings.shadow_mode || !touched->settings.strict_mode)
		return;
	context = AllocSetContextCreate(TopTransactionContext, "ledger proof", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	for (int i = 0; i < touched->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		prove_user(&touched->list[i].user_id);
		MemoryContextReset(context);
	}
	PopActiveSnapshot();
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			prove();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			/* its memory goes with the transaction */
			touched = NULL;
			break;
		default:
			break;
	}
}

void
ledger_compare_init(void)
{
	DefineCustomEnumVariable("ledger.log_in_sync",
							 "Level of the message that ledger and legacy row of a user agree.",
							 NULL, &in_sync_level, DEBUG1, level_options,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}

/* ---- compare_balances() ------------------------------------------------------------------ */

PG_FUNCTION_INFO_V1(ledger_compare_balances);

Datum
ledger_compare_balances(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const pg_uuid_t *user_id = ledger_arg_uuid(fcinfo, 0, "user_id");
	CompareColumn *columns;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	n = ledger_compare_user(user_id, &columns);
	for (int i = 0; i < n; i++)
	{
		CompareColumn *c = &columns[i];
		Datum		values[5];
		bool		isnull[5] = {false};

		values[0] = CStringGetTextDatum(c->column->name);
		values[1] = NumericGetDatum(c->ledger_value);
		values[2] = NumericGetDatum(c->legacy_value);
		isnull[2] = c->legacy_value == NULL;
		values[3] = NumericGetDatum(c->difference);
		isnull[3] = c->difference == NULL;
		values[4] = CStringGetTextDatum(status_names[c->status]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
	}
	return (Datum) 0;
}
