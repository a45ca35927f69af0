/*
 * explain_evidence.c
 *		Reads what is known of a user's two sides, for explain_discrepancy().
 *
 * The SQL is in explain.sql, one function for each kind of evidence. All is
 * read with the caller's snapshot, and as the extension's owner.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "amount.h"
#include "explain.h"

/* ---- values of the current result -------------------------------------------------- */

static Datum
get(int row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

static char *
get_text(int row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
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
	Datum		value = get(row, column, &isnull);

	return !isnull && DatumGetBool(value);
}

static Numeric
get_numeric(int row, int column)
{
	bool		isnull;
	Datum		value = get(row, column, &isnull);

	return isnull ? NULL : DatumGetNumericCopy(value);
}

/* Runs a function of the user and the mapping; returns how many rows it has. */
static int
query(const Explain *explain, const char *sql)
{
	Oid			types[] = {UUIDOID, INT2OID, INT4OID};
	Datum		values[lengthof(types)];

	values[0] = UUIDPGetDatum(&explain->user_id);
	values[1] = Int16GetDatum(explain->table->id);
	values[2] = Int32GetDatum(EXPLAIN_MAX_ROWS);
	if (SPI_execute_with_args(sql, lengthof(types), types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read what explains a discrepancy");
	return SPI_processed;
}

static int
column_index(const Explain *explain, const char *name)
{
	for (int i = 0; name && i < explain->ncolumns; i++)
	{
		if (strcmp(explain->columns[i].column->name, name) == 0)
			return i;
	}
	return -1;
}

/* ---- postings and writes -------------------------------------------------------------- */

static void
read_postings(Explain *explain)
{
	int			n = query(explain, "SELECT * FROM ledger.explain_postings($1, $2, $3)");

	explain->items = palloc0(sizeof(ExplainItem) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		ExplainItem *item = &explain->items[explain->nitems];

		item->id = item->order = item->transaction_id = get_int64(i, 1);
		item->column = column_index(explain, get_text(i, 2));
		item->change = get_numeric(i, 3);
		item->at = get_int64(i, 4);
		item->xact = get_int64(i, 5);
		item->type = get_text(i, 6);
		item->mirrored = get_bool(i, 7);
		item->reverses = get_int64(i, 8);
		item->sameness = get_text(i, 9);
		if (item->column >= 0)
			explain->nitems++;
	}
}

static void
read_numbers(ExplainItem *item, int row, int column)
{
	bool		isnull;
	Datum		value = get(row, column, &isnull);
	Datum	   *elements;

	if (isnull)
		return;
	deconstruct_array(DatumGetArrayTypePCopy(value), NUMERICOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, &item->nnumbers);
	item->numbers = palloc(sizeof(Numeric) * Max(item->nnumbers, 1));
	for (int i = 0; i < item->nnumbers; i++)
		item->numbers[i] = DatumGetNumeric(elements[i]);
}

/* What a raw value of the table is in the ledger's amounts. */
static Numeric
image(const Explain *explain, int column, Numeric raw)
{
	if (raw == NULL || column < 0 || numeric_is_nan(raw) || numeric_is_inf(raw))
		return raw;
	return ledger_amount_normalise(raw, ledger_legacy_display_digits(explain->columns[column].column));
}

static void
read_writes(Explain *explain)
{
	int			n = query(explain, "SELECT * FROM ledger.explain_writes($1, $2, $3)");

	explain->items = repalloc(explain->items, sizeof(ExplainItem) * Max(explain->nitems + n, 1));
	for (int i = 0; i < n; i++)
	{
		ExplainItem *item = &explain->items[explain->nitems++];
		bool		unknown;

		memset(item, 0, sizeof(*item));
		item->is_write = true;
		item->id = get_int64(i, 1);
		item->column = column_index(explain, get_text(i, 2));
		item->change = get_numeric(i, 3);
		item->before = image(explain, item->column, get_numeric(i, 4));
		item->after = image(explain, item->column, get_numeric(i, 5));
		item->operation = get_text(i, 6);
		item->row_gone = get_bool(i, 7);
		item->type = get_text(i, 8);
		item->at = get_int64(i, 9);
		item->xact = get_int64(i, 10);
		item->xact_start = get_int64(i, 11);
		item->order = get_int64(i, 12);
		item->who = get_text(i, 13);
		(void) get(i, 14, &unknown);
		item->absolute = unknown ? -1 : get_bool(i, 14);
		read_numbers(item, i, 15);
	}
}

/* A write comes after the transaction that was the last before it. */
static int
compare_items(const void *a, const void *b)
{
	const ExplainItem *x = a;
	const ExplainItem *y = b;

	if (x->order != y->order)
		return x->order < y->order ? -1 : 1;
	if (x->is_write != y->is_write)
		return x->is_write ? 1 : -1;
	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return x->column - y->column;
}

/* ---- findings, and when the sides agreed ----------------------------------------------- */

static void
read_findings(Explain *explain)
{
	int			n = query(explain, "SELECT * FROM ledger.explain_findings($1, $2) WHERE $3 > 0");

	explain->findings = palloc(sizeof(ExplainFinding) * Max(n, 1));
	explain->nfindings = n;
	for (int i = 0; i < n; i++)
	{
		ExplainFinding *finding = &explain->findings[i];

		finding->column = column_index(explain, get_text(i, 1));
		finding->cause = get_text(i, 2);
		finding->source = get_text(i, 3);
		finding->error_code = get_text(i, 4);
		finding->note = get_text(i, 5);
		finding->first_seen = get_int64(i, 6);
		finding->last_seen = get_int64(i, 7);
		finding->count = get_int64(i, 8);
		finding->ledger_value = get_numeric(i, 9);
	}
}

static void
agreed(Explain *explain, int column, int64 transaction, int64 write, const char *what)
{
	if (transaction >= explain->since_transaction[column])
	{
		explain->since_transaction[column] = transaction;
		explain->since_what[column] = what;
	}
	explain->since_write[column] = Max(explain->since_write[column], write);
}

/*
 * An opening takes the row as it stands, but for what its own transaction has
 * written to it; a repair makes the sides equal; the mirror inserts a row that
 * was deleted with all of the ledger's values.
 */
static void
find_agreements(Explain *explain)
{
	bool		gone = false;
	int			n;

	for (int i = 0; i < explain->nitems; i++)
	{
		const ExplainItem *item = &explain->items[i];

		if (item->is_write)
			gone = item->row_gone;
		else if (strcmp(item->type, "opening") == 0 || (gone && item->mirrored))
		{
			int64		last_write = 0;

			for (int j = 0; j < i; j++)
			{
				if (explain->items[j].is_write && explain->items[j].xact != item->xact)
					last_write = Max(last_write, explain->items[j].id);
			}
			for (int c = 0; c < explain->ncolumns; c++)
				agreed(explain, c, item->id, last_write, gone ? "the mirror inserted the row" : "the opening");
			gone = false;
		}
	}
	n = query(explain, "SELECT * FROM ledger.explain_repairs($1, $2) WHERE $3 > 0");
	for (int i = 0; i < n; i++)
	{
		int			column = column_index(explain, get_text(i, 1));

		if (column >= 0)
			agreed(explain, column, get_int64(i, 2), get_int64(i, 3), "a repair");
	}
}

void
ledger_explain_read(Explain *explain)
{
	read_postings(explain);
	read_writes(explain);
	qsort(explain->items, explain->nitems, sizeof(ExplainItem), compare_items);
	read_findings(explain);
	find_agreements(explain);
	if (query(explain, "SELECT * FROM ledger.explain_capture($2) WHERE $1 IS NOT NULL AND $3 > 0") == 1)
	{
		explain->capture_doubt = get_text(0, 1);
		explain->altered = get_int64(0, 2);
	}
}

bool
ledger_explain_other_user(const Explain *explain, const ExplainItem *item,
						  const char **other, int64 *id)
{
	Oid			types[] = {UUIDOID, INT2OID, TEXTOID, NUMERICOID, INT8OID, TIMESTAMPTZOID, INT8OID};
	Datum		values[lengthof(types)];
	const char *sql = item->is_write ?
		"SELECT * FROM ledger.explain_other_posting($1, $2, $3, $4, $5::text::xid8, $6, $7)" :
		"SELECT * FROM ledger.explain_other_write($1, $2, $3, $4, $5::text::xid8, $6) WHERE $7 > 0";

	values[0] = UUIDPGetDatum(&explain->user_id);
	values[1] = Int16GetDatum(explain->table->id);
	values[2] = CStringGetTextDatum(explain->columns[item->column].column->name);
	values[3] = NumericGetDatum(item->change);
	values[4] = Int64GetDatum(item->xact);
	values[5] = TimestampTzGetDatum(item->at);
	values[6] = Int64GetDatum(item->order);
	if (SPI_execute_with_args(sql, lengthof(types), types, values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for another user");
	if (SPI_processed == 0 || (SPI_processed > 1 && !get_bool(0, 3)))
		return false;
	*other = get_text(0, 1);
	*id = get_int64(0, 2);
	return true;
}
