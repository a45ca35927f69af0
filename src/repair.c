/*
 * repair.c
 *		Make one side agree with the other, for one user, under his row's lock.
 *
 * What is repaired is the difference found under the lock, never one found
 * before. Towards legacy the row is set to the ledger's values, as a write of
 * the mirror. Towards the ledger a posting against legacy_suspense is made,
 * which is not mirrored. A user who is not opened yet is opened, whatever the
 * direction: his row is all that is known of him.
 *
 * Locks: the settings, the legacy row, then the accounts, as a posting.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "args.h"
#include "compare.h"
#include "errors.h"
#include "mirror.h"
#include "owner.h"
#include "repair.h"

typedef struct Repair
{
	ReturnSetInfo *rsinfo;
	pg_uuid_t	user_id;
	bool		to_ledger;		/* direction */
	bool		dry_run;
	Numeric		max_amount;		/* NULL: none */
	int64		max_rows;		/* more columns than this: none is repaired */
	text	   *reason;

	/* of one table */
	LegacyTable *table;
	LegacyRow	row;
	LedgerAccount *accounts;
	int			naccounts;
	CompareColumn columns[LEDGER_MAX_LEGACY_COLUMNS];
	bool		chosen[LEDGER_MAX_LEGACY_COLUMNS];
} Repair;

/* ---- what was done ----------------------------------------------------------------- */

static const char *
direction_name(const Repair *repair)
{
	return repair->to_ledger ? "ledger" : "legacy";
}

/* Logs the repair and closes the findings that it answers. */
static void
log_repair(const Repair *repair, const CompareColumn *column, Numeric before, Numeric after,
		   int64 transaction_id)
{
	Oid			types[] = {INT2OID, UUIDOID, TEXTOID, TEXTOID, NUMERICOID, NUMERICOID, INT8OID,
	TEXTOID, TEXTOID};
	Datum		values[lengthof(types)];
	char		nulls[] = "         ";
	OwnerContext saved;

	values[0] = Int16GetDatum(repair->table->id);
	values[1] = UUIDPGetDatum(&repair->user_id);
	values[2] = CStringGetTextDatum(column->column->name);
	values[3] = CStringGetTextDatum(direction_name(repair));
	values[4] = NumericGetDatum(before);
	values[5] = NumericGetDatum(after);
	values[6] = Int64GetDatum(transaction_id);
	values[7] = PointerGetDatum(repair->reason);
	values[8] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	nulls[4] = before ? ' ' : 'n';
	nulls[6] = transaction_id ? ' ' : 'n';
	ledger_spi_as_owner(&saved, "repair_log");
	if (SPI_execute_with_args("WITH resolved AS ("
							  " UPDATE ledger.discrepancy_rows SET status = 'resolved', resolved_at = ledger.clock(),"
							  "  note = pg_catalog.concat_ws('; ', note, 'repaired: ' || $8)"
							  " WHERE mapping_id = $1 AND user_id = $2 AND legacy_column = $3"
							  "  AND status = 'open' RETURNING id)"
							  " INSERT INTO ledger.repair_log (mapping_id, user_id, legacy_column, direction,"
							  "  before, after, transaction_id, reason, repaired_by, resolved)"
							  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, ARRAY(SELECT id FROM resolved))",
							  lengthof(types), types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not log a repair");
	ledger_spi_done(&saved);
}

static void
put_result(const Repair *repair, const CompareColumn *column, Numeric before, Numeric after,
		   int64 transaction_id)
{
	Datum		values[4];
	bool		isnull[4] = {false};

	values[0] = CStringGetTextDatum(column->column->name);
	values[1] = NumericGetDatum(before);
	isnull[1] = before == NULL;
	values[2] = NumericGetDatum(after);
	values[3] = Int64GetDatum(transaction_id);
	isnull[3] = transaction_id == 0;
	tuplestore_putvalues(repair->rsinfo->setResult, repair->rsinfo->setDesc, values, isnull);
	if (!repair->dry_run)
		log_repair(repair, column, before, after, transaction_id);
}

/* ---- the two directions, and the opening ---------------------------------------------- */

void
ledger_repair_write_row(LegacyTable *table, const pg_uuid_t *user_id, const LegacyRow *row,
						const Numeric *values)
{
	LegacyRow	after;

	ledger_mirror_set(table, user_id, row->groups, values, &after);
	for (int i = 0; i < table->ncolumns; i++)
	{
		if (values[i] && (after.values[i] == NULL ||
						  ledger_amount_cmp(values[i], after.values[i]) != 0))
			ereport(ERROR,
					(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
					 errmsg("the legacy row in %s did not take its repair", table->name),
					 errdetail("A trigger on the table changed it.")));
	}
}

static void
repair_legacy(Repair *repair)
{
	Numeric		values[LEDGER_MAX_LEGACY_COLUMNS];
	uint32		missing = 0;	/* groups whose row is inserted, whole */

	for (int i = 0; i < repair->table->ncolumns; i++)
	{
		if (repair->chosen[i])
			missing |= (1 << repair->table->columns[i].group) & ~repair->row.groups;
	}
	for (int i = 0; i < repair->table->ncolumns; i++)
		values[i] = repair->chosen[i] || missing & (1 << repair->table->columns[i].group) ?
			repair->columns[i].ledger_value : NULL;
	if (repair->dry_run)
	{
		if (missing)
			ledger_legacy_check_user(repair->table, &repair->user_id);
		ledger_mirror_check(repair->table, values);
	}
	else
		ledger_repair_write_row(repair->table, &repair->user_id, &repair->row, values);
	for (int i = 0; i < repair->table->ncolumns; i++)
	{
		if (repair->chosen[i])
			put_result(repair, &repair->columns[i], repair->columns[i].legacy_value,
					   repair->columns[i].ledger_value, 0);
	}
}

/* A dry run is refused where the posting would be: status and limit of the user's accounts. */
static void
check_limits(const Repair *repair, const PostingRequest *request)
{
	for (int i = 0; i < request->nlines; i++)
	{
		const PostingLine *line = &request->lines[i];
		bool		debit = request->accounts[line->debit].account.has_user;
		LedgerAccount account = request->accounts[debit ? line->debit : line->credit].account;
		Numeric		debits = ledger_amount_zero();
		Numeric		credits = ledger_amount_zero();

		account.debits = debits;
		account.credits = credits;
		for (int j = 0; j < repair->naccounts; j++)
		{
			if (repair->accounts[j].type != account.type || repair->accounts[j].external_id)
				continue;
			account = repair->accounts[j];
			debits = account.debits;
			credits = account.credits;
		}
		ledger_refusal_raise(ledger_posting_refuse_account(request, &account));
		ledger_posting_add(&account, debit, line->amount);
		ledger_refusal_raise(ledger_posting_refuse_limit(&account, debits, credits));
	}
}

/* One transaction with a posting for each column. */
static void
repair_ledger(Repair *repair)
{
	PostingRequest *request = ledger_posting_new("repair", "repair");
	int64		id = 0;

	request->has_user = true;
	request->user_id = repair->user_id;
	request->is_opening = true;
	request->description = repair->reason;
	for (int i = 0; i < repair->table->ncolumns; i++)
	{
		const CompareColumn *column = &repair->columns[i];
		const char *type = column->column->types[0];
		int			user;
		int			house;

		if (!repair->chosen[i])
			continue;
		user = ledger_posting_account(request, type, &repair->user_id, NULL);
		house = ledger_posting_account(request, LEDGER_LEGACY_SUSPENSE, NULL,
									   ledger_account_type(type)->currency->code);
		if (ledger_amount_sign(column->difference) > 0)
			ledger_posting_line(request, user, house, column->difference);
		else
			ledger_posting_line(request, house, user, ledger_amount_negate(column->difference));
	}
	if (repair->dry_run)
		check_limits(repair, request);
	else
		id = ledger_post(request);
	for (int i = 0; i < repair->table->ncolumns; i++)
	{
		const CompareColumn *column = &repair->columns[i];

		if (repair->chosen[i])
			put_result(repair, column, column->ledger_value,
					   ledger_amount_sub(column->ledger_value, column->difference), id);
	}
}

static void
repair_by_opening(Repair *repair)
{
	int64		id = 0;

	if (repair->dry_run)
		/* raises if he cannot be opened */
		ledger_opening_accounts(repair->table, &repair->user_id, repair->accounts,
								repair->naccounts, ledger_posting_new("repair", "opening"));
	else
		id = ledger_opening_open(repair->table, &repair->user_id, repair->accounts,
								 repair->naccounts);
	for (int i = 0; i < repair->table->ncolumns; i++)
	{
		if (repair->columns[i].status != COMPARE_MATCH && repair->columns[i].legacy_value)
			put_result(repair, &repair->columns[i], repair->columns[i].ledger_value,
					   repair->columns[i].legacy_value, id);
	}
}

/* ---- one table ---------------------------------------------------------------------------- */

/* Which columns are to be repaired; returns how many. */
static int
choose(Repair *repair)
{
	int			n = 0;
	uint32		skipped = 0;	/* groups of columns that are left as they are */

	for (int i = 0; i < repair->table->ncolumns; i++)
	{
		const CompareColumn *column = &repair->columns[i];
		Numeric		amount = column->difference;

		repair->chosen[i] = false;
		if (column->status == COMPARE_MATCH)
			continue;
		repair->chosen[i] = true;
		if (amount == NULL)
		{
			/* no number to post; and no telling how much it is */
			if (repair->to_ledger || repair->max_amount)
				repair->chosen[i] = false;
		}
		else if (repair->max_amount)
		{
			if (ledger_amount_sign(amount) < 0)
				amount = ledger_amount_negate(amount);
			if (ledger_amount_cmp(amount, repair->max_amount) > 0)
				repair->chosen[i] = false;
		}
		if (!repair->chosen[i])
			skipped |= 1 << column->column->group;
	}
	for (int i = 0; i < repair->table->ncolumns; i++)
	{
		/* a row is inserted whole or not at all */
		if (!repair->to_ledger &&
			skipped & ~repair->row.groups & (1 << repair->table->columns[i].group))
			repair->chosen[i] = false;
		n += repair->chosen[i];
	}
	return n;
}

static void
repair_table(Repair *repair)
{
	Store	   *store;
	bool		opened;
	bool		moved;
	int			n;

	store = ledger_accounts_open(AccessShareLock);
	if (!repair->dry_run)
		(void) ledger_legacy_lock_row_first(repair->table, &repair->user_id,
											GetActiveSnapshot(), &moved);
	PushActiveSnapshot(repair->dry_run ? GetActiveSnapshot() : GetTransactionSnapshot());
	repair->naccounts = ledger_accounts_of_user(store, &repair->user_id, GetActiveSnapshot(),
												&repair->accounts);
	ledger_legacy_fetch(repair->table, &repair->user_id, &repair->row);
	(void) ledger_compare_row(repair->table, &repair->user_id, repair->accounts,
							  repair->naccounts, &repair->row, repair->columns);
	opened = ledger_legacy_is_opened(repair->table, repair->accounts, repair->naccounts);
	n = choose(repair);
	if (n > 0 && n <= repair->max_rows)
	{
		repair->max_rows -= n;
		if (repair->row.found && !opened)
			repair_by_opening(repair);
		else if (repair->to_ledger)
			repair_ledger(repair);
		else
			repair_legacy(repair);
	}
	PopActiveSnapshot();
	ledger_store_close(store);
}

/* ---- repair_user() --------------------------------------------------------------------------- */

static bool
arg_direction(FunctionCallInfo fcinfo, int arg)
{
	const char *direction;

	ledger_arg_required(fcinfo, arg, "direction");
	direction = text_to_cstring(PG_GETARG_TEXT_PP(arg));
	if (strcmp(direction, "legacy") != 0 && strcmp(direction, "ledger") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("direction must be legacy or ledger"),
				 errhint("It names the side that is changed.")));
	return strcmp(direction, "ledger") == 0;
}

PG_FUNCTION_INFO_V1(ledger_repair_user);

/*
 * (user_id, direction, dry_run, max_amount, reason, max_rows) → setof (legacy_column,
 * before, after, transaction_id)
 */
Datum
ledger_repair_user(PG_FUNCTION_ARGS)
{
	Repair	   *repair = palloc0(sizeof(Repair));
	ListCell   *lc;

	repair->user_id = *ledger_arg_uuid(fcinfo, 0, "user_id");
	repair->to_ledger = arg_direction(fcinfo, 1);
	ledger_arg_required(fcinfo, 2, "dry_run");
	repair->dry_run = PG_GETARG_BOOL(2);
	repair->max_amount = PG_ARGISNULL(3) ? NULL : PG_GETARG_NUMERIC(3);
	repair->max_rows = PG_ARGISNULL(5) ? PG_INT64_MAX : PG_GETARG_INT64(5);
	if (!repair->dry_run)
	{
		const LedgerSettings *settings;

		ledger_arg_required(fcinfo, 4, "reason");
		repair->reason = ledger_arg_reason_text(fcinfo, 4);
		ledger_prevent_read_only("ledger.repair()");
		settings = ledger_settings_lock();
		ledger_compare_touch(&repair->user_id, settings);
	}
	InitMaterializedSRF(fcinfo, 0);
	repair->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	foreach(lc, ledger_legacy_tables())
	{
		repair->table = lfirst(lc);
		ledger_legacy_check_table(repair->table);
		repair_table(repair);
	}
	return (Datum) 0;
}
