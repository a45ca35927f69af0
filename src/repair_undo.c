/*
 * repair_undo.c
 *		Repairs taken back, under the user's row lock.
 *
 * A repair of the ledger is undone by its reversal, which is not mirrored, as
 * the repair was not; undo_repair() and reverse_transaction() do the same. A
 * repair of the legacy row is undone by the opposite change of the column, as a
 * write of the mirror. Either way the sides differ again as they did: the
 * findings that the repair had resolved are open again, and under strict mode
 * the commit fails unless they agree by then.
 *
 * Locks: the settings, the legacy rows, then the accounts, as a posting.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "args.h"
#include "compare.h"
#include "errors.h"
#include "mirror.h"
#include "operations.h"
#include "owner.h"
#include "repair.h"

/* A row of repair_log. */
typedef struct LoggedRepair
{
	int64		id;
	int			mapping;
	pg_uuid_t	user_id;
	char	   *column;
	bool		to_ledger;
	Numeric		before;			/* NULL: there was none */
	Numeric		after;
	int64		transaction_id; /* 0: none */
	bool		opening;		/* it opened the user */
	int64		undoes;			/* 0: a repair */
	int64		undone_by;		/* 0: by none */
	int64		later;			/* repair of the same column; 0: none */
} LoggedRepair;

/* ---- the log ----------------------------------------------------------------------- */

static Datum
get(int row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

static Numeric
get_numeric(int row, int column, MemoryContext context)
{
	bool		isnull;
	Datum		value = get(row, column, &isnull);
	MemoryContext old = MemoryContextSwitchTo(context);
	Numeric		copy = isnull ? NULL : DatumGetNumericCopy(value);

	MemoryContextSwitchTo(old);
	return copy;
}

static int64
get_int64(int row, int column)
{
	bool		isnull;
	Datum		value = get(row, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

static bool
get_bool(int row, int column)
{
	bool		isnull;

	return DatumGetBool(get(row, column, &isnull));
}

/* The repair with that id, or those of a transaction; palloc'd. Returns how many. */
static int
read_log(const char *by, int64 id, LoggedRepair **list)
{
	MemoryContext context = CurrentMemoryContext;
	OwnerContext saved;
	const char *sql;
	int			n;

	ledger_spi_as_owner(&saved, "repair_log");
	sql = psprintf("SELECT r.id, r.mapping_id, r.user_id, r.legacy_column, r.direction = 'ledger',"
				   "  r.before, r.after, r.transaction_id,"
				   "  EXISTS (SELECT FROM ledger.journal j WHERE j.transaction_id = r.transaction_id"
				   "   AND j.ordinal = 0 AND j.type = 'opening'), r.undoes,"
				   "  (SELECT u.id FROM ledger.repair_log u WHERE u.undoes = r.id),"
				   "  (SELECT max(l.id) FROM ledger.repair_log l WHERE l.user_id = r.user_id"
				   "   AND l.mapping_id = r.mapping_id AND l.legacy_column = r.legacy_column"
				   "   AND l.id > r.id AND l.undoes IS NULL"
				   "   AND NOT EXISTS (SELECT FROM ledger.repair_log u WHERE u.undoes = l.id))"
				   " FROM ledger.repair_log r WHERE r.%s = $1 ORDER BY r.id", by);
	if (SPI_execute_with_args(sql, 1, (Oid[]) {INT8OID}, (Datum[]) {Int64GetDatum(id)},
							  NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the log of repairs");
	n = SPI_processed;
	*list = MemoryContextAllocZero(context, sizeof(LoggedRepair) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		LoggedRepair *repair = &(*list)[i];
		bool		isnull;

		repair->id = get_int64(i, 1);
		repair->mapping = DatumGetInt16(get(i, 2, &isnull));
		repair->user_id = *DatumGetUUIDP(get(i, 3, &isnull));
		repair->column = MemoryContextStrdup(context, TextDatumGetCString(get(i, 4, &isnull)));
		repair->to_ledger = get_bool(i, 5);
		repair->before = get_numeric(i, 6, context);
		repair->after = get_numeric(i, 7, context);
		repair->transaction_id = get_int64(i, 8);
		repair->opening = get_bool(i, 9);
		repair->undoes = get_int64(i, 10);
		repair->undone_by = get_int64(i, 11);
		repair->later = get_int64(i, 12);
	}
	ledger_spi_done(&saved);
	return n;
}

/*
 * Logs that a repair is undone, and opens again what it had resolved; if that
 * is nothing, as a finding of its own. Returns the id of the log's row.
 */
static int64
log_undo(const LoggedRepair *repair, const CompareColumn *column, Numeric before, Numeric after,
		 int64 transaction_id, text *reason)
{
	Oid			types[] = {INT8OID, NUMERICOID, NUMERICOID, INT8OID, TEXTOID, TEXTOID, BOOLOID,
	NUMERICOID, NUMERICOID};
	Datum		values[lengthof(types)];
	char		nulls[] = "         ";
	bool		differs = column && column->difference && ledger_amount_sign(column->difference) != 0;
	OwnerContext saved;
	int64		id;

	values[0] = Int64GetDatum(repair->id);
	values[1] = NumericGetDatum(before);
	values[2] = NumericGetDatum(after);
	values[3] = Int64GetDatum(transaction_id);
	values[4] = PointerGetDatum(reason);
	values[5] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	values[6] = BoolGetDatum(differs);
	values[7] = differs ? NumericGetDatum(column->ledger_value) : 0;
	values[8] = differs ? NumericGetDatum(column->legacy_value) : 0;
	nulls[1] = before ? ' ' : 'n';
	nulls[2] = after ? ' ' : 'n';
	nulls[3] = transaction_id ? ' ' : 'n';
	nulls[7] = differs ? ' ' : 'n';
	nulls[8] = differs && column->legacy_value ? ' ' : 'n';
	ledger_spi_as_owner(&saved, "repair_log");
	if (SPI_execute_with_args("SELECT ledger.repair_undone($1, $2, $3, $4, $5, $6, $7, $8, $9)",
							  lengthof(types), types, values, nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not log that a repair is undone");
	id = get_int64(0, 1);
	ledger_spi_done(&saved);
	return id;
}

static void
cannot_undo(int64 id, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_LG_NOT_REVERSIBLE),
			 errmsg("cannot undo repair " INT64_FORMAT, id),
			 errdetail_internal("%s", detail),
			 errhint("%s", hint)));
}

/* ---- what both sides need ------------------------------------------------------------ */

/* The repaired column of both sides as they are now; NULL: detached, or gone. */
static const CompareColumn *
compare_now(const LoggedRepair *repair)
{
	CompareColumn *columns;
	int			n;

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	n = ledger_compare_user(&repair->user_id, &columns);
	PopActiveSnapshot();
	for (int i = 0; i < n; i++)
	{
		if (columns[i].table->id == repair->mapping &&
			strcmp(columns[i].column->name, repair->column) == 0)
			return &columns[i];
	}
	return NULL;
}

/* By how much the repair changed its side. */
static Numeric
change_of(const LoggedRepair *repair)
{
	return repair->before ? ledger_amount_sub(repair->after, repair->before) : repair->after;
}

/* ---- the ledger's side: for reverse_transaction() ------------------------------------- */

/* What a posting for the user locks before his accounts; he is proved at commit. */
static void
lock_user(const pg_uuid_t *user_id)
{
	ledger_compare_touch(user_id, ledger_settings_lock());
	ledger_posting_hook.lock_user(user_id);
}

static void
reversed(int64 repair_transaction, int64 reversal, text *reason)
{
	LoggedRepair *repairs;
	int			n = read_log("transaction_id", repair_transaction, &repairs);

	for (int i = 0; i < n; i++)
	{
		const CompareColumn *column = compare_now(&repairs[i]);
		Numeric		after = column ? column->ledger_value : NULL;

		if (repairs[i].undoes == 0 && repairs[i].undone_by == 0)
			(void) log_undo(&repairs[i], column,
							after ? ledger_amount_add(after, change_of(&repairs[i])) : NULL,
							after, reversal, reason);
	}
}

void
ledger_repair_init(void)
{
	ledger_repair_hook.lock_user = lock_user;
	ledger_repair_hook.reversed = reversed;
}

static int64
undo_in_ledger(const LoggedRepair *repair, text *reason)
{
	LOCAL_FCINFO(call, 4);
	LoggedRepair *again;

	InitFunctionCallInfoData(*call, NULL, 4, InvalidOid, NULL, NULL);
	call->args[0].value = Int64GetDatum(repair->transaction_id);
	call->args[0].isnull = false;
	call->args[1].value = PointerGetDatum(reason);
	call->args[1].isnull = false;
	call->args[2].isnull = call->args[3].isnull = true;
	(void) ledger_reverse_transaction(call);
	(void) read_log("id", repair->id, &again);
	return again->undone_by;
}

/* ---- the legacy side --------------------------------------------------------------------- */

/* The value that the column gets, from what it has now. */
static Numeric
value_before(const LoggedRepair *repair, const LegacyTable *table, const LegacyRow *row, int column)
{
	Numeric		now = row->values[column];
	Numeric		value;

	if (!row->found || now == NULL || numeric_is_nan(now) || numeric_is_inf(now))
		cannot_undo(repair->id, "The legacy row is gone, or the column holds no number.",
					"Look at it with compare_balances(), and repair() it.");
	value = ledger_amount_sub(now, change_of(repair));
	if (ledger_amount_sign(value) < 0)
		cannot_undo(repair->id,
					psprintf("Column %s would be below zero.", table->columns[column].name),
					"The money has moved since; look at it with explain_discrepancy().");
	return value;
}

static int64
undo_in_legacy(const LoggedRepair *repair, LegacyTable *table, text *reason)
{
	Numeric		values[LEDGER_MAX_LEGACY_COLUMNS] = {NULL};
	LegacyRow	row;
	int			column = 0;
	int			digits;

	while (column < table->ncolumns && strcmp(table->columns[column].name, repair->column) != 0)
		column++;
	if (column == table->ncolumns)
		cannot_undo(repair->id, psprintf("Column %s is not mapped any more.", repair->column),
					"Look at the user with compare_balances().");
	PushActiveSnapshot(GetTransactionSnapshot());
	ledger_legacy_fetch(table, &repair->user_id, &row);
	PopActiveSnapshot();
	values[column] = value_before(repair, table, &row, column);
	ledger_repair_write_row(table, &repair->user_id, &row, values);
	digits = ledger_legacy_display_digits(&table->columns[column]);
	return log_undo(repair, compare_now(repair), ledger_amount_normalise(row.values[column], digits),
					ledger_amount_normalise(values[column], digits), 0, reason);
}

/* ---- undo_repair() ------------------------------------------------------------------------- */

static void
check_repair(const LoggedRepair *repair)
{
	if (repair->undoes != 0)
		cannot_undo(repair->id, psprintf("It is what undid repair " INT64_FORMAT ".", repair->undoes),
					"Repair the user again.");
	if (repair->undone_by != 0)
		cannot_undo(repair->id, psprintf("Repair " INT64_FORMAT " has undone it.", repair->undone_by),
					"There is nothing to be undone.");
	if (repair->opening)
		cannot_undo(repair->id, "It opened the user, which is for ever.",
					"Move the money with a transaction of its own.");
	if (repair->later != 0)
		cannot_undo(repair->id, psprintf("Repair " INT64_FORMAT " has repaired the column since.", repair->later),
					"Undo that one first.");
	if (repair->before && (numeric_is_nan(repair->before) || numeric_is_inf(repair->before)))
		cannot_undo(repair->id, "There was no finite number before it.",
					"Look at the user with compare_balances().");
}

PG_FUNCTION_INFO_V1(ledger_undo_repair);

/* (repair_id, reason) → the id of the row of repair_log that undoes it */
Datum
ledger_undo_repair(PG_FUNCTION_ARGS)
{
	int64		id = ledger_arg_int64(fcinfo, 0, "repair_id");
	text	   *reason = ledger_arg_reason(fcinfo, 1);
	LoggedRepair *repair;
	LegacyTable *table;

	ledger_prevent_read_only("ledger.undo_repair()");
	(void) ledger_settings_lock();
	if (read_log("id", id, &repair) == 0)
		cannot_undo(id, "There is no such repair.", "Pass the id of a row of ledger.repair_log.");
	lock_user(&repair->user_id);
	/* as it is under the lock: another may have undone it while we waited */
	(void) read_log("id", id, &repair);
	check_repair(repair);
	if (repair->to_ledger)
		PG_RETURN_INT64(undo_in_ledger(repair, reason));
	table = ledger_legacy_table_by_id(repair->mapping);
	if (table == NULL)
		cannot_undo(id, "The legacy table is not attached any more.", "Attach it again.");
	ledger_legacy_check_table(table);
	PG_RETURN_INT64(undo_in_legacy(repair, table, reason));
}
