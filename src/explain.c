/*
 * explain.c
 *		Why the two sides of a user differ: explain_discrepancy().
 *
 * What happened on one side alone since the sides agreed (explain_match.c) is
 * compared with the difference as it is. If they are equal, that is the
 * explanation. If not, the sides agreed later than is known, and the last of
 * it explain the difference; or what is left over came past the capture, and
 * only then arithmetic is asked, which names a cause if there is just one.
 *
 * The rows of a column always add up to its difference. Writes nothing, takes
 * no locks, and reads all with the caller's snapshot: our tables as the
 * extension's owner, the legacy row as its table's.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "amount.h"
#include "args.h"
#include "explain.h"
#include "owner.h"

#define MAX_TOLD	20			/* rows of one cause, more are one row */

/* ---- rows --------------------------------------------------------------------------- */

static const char *
when(TimestampTz at)
{
	return timestamptz_to_str(at);
}

static void
put(const Explain *explain, int column, Numeric difference, const char *cause,
	int64 transaction_id, TimestampTz at, const char *detail)
{
	const LegacyColumn *legacy = explain->columns[column].column;
	Datum		values[6];
	bool		isnull[6] = {false};

	values[0] = CStringGetTextDatum(legacy->name);
	isnull[1] = difference == NULL;
	if (difference)
		difference = ledger_amount_normalise(difference, ledger_legacy_display_digits(legacy));
	values[1] = NumericGetDatum(difference);
	values[2] = CStringGetTextDatum(cause);
	values[3] = Int64GetDatum(transaction_id);
	isnull[3] = transaction_id == 0;
	values[4] = TimestampTzGetDatum(at);
	isnull[4] = at == 0;
	values[5] = CStringGetTextDatum(detail);
	tuplestore_putvalues(explain->rsinfo->setResult, explain->rsinfo->setDesc, values, isnull);
}

/* ---- what counts, of one column ---------------------------------------------------------- */

static bool
is_part(const ExplainItem *item, int column)
{
	return item->column == column && item->counts && !item->settled;
}

/* The parts of a column in their order; returns how many. */
static int
list_parts(const Explain *explain, int column, ExplainItem **parts)
{
	int			n = 0;

	for (int i = 0; i < explain->nitems; i++)
	{
		if (is_part(&explain->items[i], column))
			parts[n++] = &explain->items[i];
	}
	return n;
}

static Numeric
sum_parts(ExplainItem **parts, int n)
{
	Numeric		sum = ledger_amount_zero();

	for (int i = 0; i < n; i++)
		sum = ledger_amount_add(sum, parts[i]->part);
	return sum;
}

/* How many ways there are to reach the target, up to two; *chosen is one. */
static int
count_subsets(ExplainItem **parts, int n, Numeric target, uint32 taken, uint32 *chosen)
{
	int			ways;

	CHECK_FOR_INTERRUPTS();
	if (n == 0)
	{
		if (ledger_amount_sign(target) != 0 || taken == 0)
			return 0;
		*chosen = taken;
		return 1;
	}
	ways = count_subsets(parts, n - 1, target, taken, chosen);
	if (ways < 2)
		ways += count_subsets(parts, n - 1, ledger_amount_sub(target, parts[n - 1]->part),
							  taken | (1U << (n - 1)), chosen);
	return ways;
}

/*
 * Which of the parts make the difference, if not all of them: the last few,
 * when the sides agreed before those for a reason that is not known, or the
 * only few that do. Returns how many are kept; 0: none do.
 */
static int
choose_parts(ExplainItem **parts, int n, Numeric difference)
{
	Numeric		sum = ledger_amount_zero();
	uint32		chosen = 0;
	int			kept = 0;

	for (int i = n - 1; i > 0; i--)
	{
		sum = ledger_amount_add(sum, parts[i]->part);
		if (ledger_amount_cmp(sum, difference) == 0)
		{
			memmove(parts, parts + i, sizeof(ExplainItem *) * (n - i));
			return n - i;
		}
	}
	if (n > EXPLAIN_MAX_SUBSET || count_subsets(parts, n, difference, 0, &chosen) != 1)
		return 0;
	for (int i = 0; i < n; i++)
	{
		if (chosen & (1U << i))
			parts[kept++] = parts[i];
	}
	return kept;
}

/*
 * Of several mirrors that failed not all are known: those that make up for
 * the rest, if there is just one way, failed too.
 */
static int
add_failed(const Explain *explain, int column, Numeric rest, ExplainItem **parts, int n)
{
	ExplainItem *maybe[EXPLAIN_MAX_SUBSET];
	uint32		chosen = 0;
	int			nmaybe = 0;

	for (int i = 0; i < explain->nitems; i++)
	{
		ExplainItem *item = &explain->items[i];

		if (item->column != column || !item->may_have_failed)
			continue;
		if (nmaybe == EXPLAIN_MAX_SUBSET)
			return n;
		item->part = item->change;
		maybe[nmaybe++] = item;
	}
	if (nmaybe == 0 || count_subsets(maybe, nmaybe, rest, 0, &chosen) != 1)
		return n;
	for (int i = 0; i < nmaybe; i++)
	{
		if ((chosen & (1U << i)) == 0)
			continue;
		maybe[i]->cause = "mirror_failed";
		maybe[i]->detail = pstrdup(maybe[i]->note);
		parts[n++] = maybe[i];
	}
	return n;
}

/* ---- telling ------------------------------------------------------------------------------ */

/* All of one cause as one row: outside writes together, or what is too many. */
static void
put_together(const Explain *explain, int column, ExplainItem **parts, int n, const char *cause,
			 const char *as)
{
	Numeric		sum = ledger_amount_zero();
	const ExplainItem *first = NULL;
	const ExplainItem *last = NULL;
	StringInfoData list;
	int			count = 0;

	initStringInfo(&list);
	for (int i = 0; i < n; i++)
	{
		if (strcmp(parts[i]->cause, cause) != 0)
			continue;
		sum = ledger_amount_add(sum, parts[i]->part);
		first = first ? first : parts[i];
		last = parts[i];
		if (++count <= MAX_TOLD)
			appendStringInfo(&list, "%s%s " INT64_FORMAT " by %s", count > 1 ? ", " : "",
							 parts[i]->is_write ? "write" : "transaction", parts[i]->id,
							 ledger_amount_out(parts[i]->change));
	}
	if (ledger_amount_sign(sum) == 0)
		return;
	put(explain, column, sum, as, first->is_write ? 0 : first->id, first->at,
		psprintf("%d of them, the last at %s: %s%s.", count, when(last->at), list.data,
				 count > MAX_TOLD ? ", and more" : ""));
}

static void
put_parts(const Explain *explain, int column, ExplainItem **parts, int n)
{
	for (int i = 0; i < n; i++)
	{
		const char *cause = parts[i]->cause;
		bool		outside = strcmp(cause, "outside_write") == 0;
		int			same = 0;
		bool		told = false;

		for (int j = 0; j < n; j++)
		{
			if (strcmp(parts[j]->cause, cause) != 0)
				continue;
			same++;
			told |= j < i;
		}
		if (same > MAX_TOLD || (outside && same > 1))
		{
			if (!told)
				put_together(explain, column, parts, n, cause, outside ? "outside_writes" : cause);
		}
		else
			put(explain, column, parts[i]->part, cause, parts[i]->transaction_id, parts[i]->at,
				parts[i]->detail);
	}
}

/* ---- what is left over ----------------------------------------------------------------------- */

/*
 * The last posting after which the sides are known to have agreed, for the
 * mirror compares; and when they were first seen to differ, or 0.
 */
static const ExplainItem *
last_agreement(const Explain *explain, int column, TimestampTz *seen)
{
	const ExplainItem *agreed = NULL;
	bool		by_posting = false;

	*seen = 0;
	for (int i = explain->nfindings - 1; i >= 0; i--)
	{
		if (explain->findings[i].column != column)
			continue;
		*seen = explain->findings[i].first_seen;
		by_posting = strcmp(explain->findings[i].source, "posting") == 0;
	}
	for (int i = 0; i < explain->nitems; i++)
	{
		const ExplainItem *item = &explain->items[i];

		if (item->is_write || item->column != column || !item->mirrored ||
			item->id <= explain->since_transaction[column])
			continue;
		if (*seen && item->at >= *seen)
			break;
		if (*seen && by_posting)
		{
			const ExplainItem *next = NULL;

			/* the one that met the difference is the last before it was noted */
			for (int j = i + 1; j < explain->nitems && next == NULL; j++)
			{
				if (!explain->items[j].is_write && explain->items[j].column == column &&
					explain->items[j].mirrored && explain->items[j].at < *seen)
					next = &explain->items[j];
			}
			if (next == NULL)
				break;
		}
		agreed = item;
	}
	return agreed;
}

static char *
tell_parting(const Explain *explain, int column, int64 *transaction_id, TimestampTz *at)
{
	const ExplainItem *agreed = last_agreement(explain, column, at);
	const ExplainItem *next = NULL;
	StringInfoData text;

	initStringInfo(&text);
	*transaction_id = agreed ? agreed->id : explain->since_transaction[column];
	for (int i = explain->nitems - 1; i >= 0; i--)
	{
		if (!explain->items[i].is_write && explain->items[i].column == column &&
			explain->items[i].id > *transaction_id)
			next = &explain->items[i];
	}
	if (agreed)
		appendStringInfo(&text, "The sides agreed after transaction " INT64_FORMAT " (%s)", agreed->id, when(agreed->at));
	else if (explain->since_what[column])
		appendStringInfo(&text, "The sides agreed after %s, transaction " INT64_FORMAT,
						 explain->since_what[column], explain->since_transaction[column]);
	else
		appendStringInfoString(&text, "It is not known when the sides agreed");
	if (next)
		appendStringInfo(&text, "; the next is transaction " INT64_FORMAT " (%s)", next->id, when(next->at));
	if (*at)
		appendStringInfo(&text, "; they were first seen to differ at %s", when(*at));
	appendStringInfoChar(&text, '.');
	return text.data;
}

/*
 * Mirrored postings of just this change; *found is the last, *twins: the
 * second says the same as the first. Fills in a list of them.
 */
static int
find_postings(const Explain *explain, int column, Numeric change, const ExplainItem **found,
			  bool *twins, StringInfo list)
{
	int			n = 0;

	for (int i = 0; i < explain->nitems; i++)
	{
		const ExplainItem *item = &explain->items[i];

		if (item->is_write || item->column != column || !item->mirrored ||
			item->id <= explain->since_transaction[column] || ledger_amount_cmp(item->change, change) != 0)
			continue;
		if (n == 1)
			*twins = ledger_explain_twins(*found, item);
		*found = item;
		if (++n <= 5)
			appendStringInfo(list, "%s" INT64_FORMAT, n > 1 ? ", " : "", item->id);
	}
	return n;
}

/* The two values themselves: rounded, in another unit, in each other's column. */
static const char *
compare_values(const Explain *explain, int column, char **detail)
{
	const CompareColumn *this = &explain->columns[column];

	if (this->legacy_value == NULL)
		return NULL;
	if (ledger_explain_is_rounded(this->ledger_value, this->legacy_value))
	{
		*detail = psprintf("The legacy value is the ledger's, rounded to %d digits.", ledger_explain_scale(this->legacy_value));
		return "rounded";
	}
	if (ledger_explain_is_other_unit(this->ledger_value, this->legacy_value))
	{
		*detail = pstrdup("One value is a hundred times the other.");
		return "wrong_unit";
	}
	for (int i = 0; i < explain->ncolumns; i++)
	{
		const CompareColumn *other = &explain->columns[i];

		if (i == column || other->legacy_value == NULL ||
			ledger_amount_sign(this->legacy_value) == 0 || ledger_amount_sign(other->legacy_value) == 0 ||
			ledger_amount_cmp(this->legacy_value, other->ledger_value) != 0 ||
			ledger_amount_cmp(other->legacy_value, this->ledger_value) != 0)
			continue;
		*detail = psprintf("This column and %s have each other's value.", other->column->name);
		return "swapped_columns";
	}
	return NULL;
}

/*
 * A trigger that was altered says nothing of a difference that a posting had
 * met before: had the trigger been off then, its mirror would have noticed.
 */
static const char *
evidence_of_bypass(const Explain *explain, int column)
{
	const ExplainItem *met = NULL;
	TimestampTz seen = 0;

	for (int i = 0; i < explain->nfindings; i++)
	{
		if (strcmp(explain->findings[i].cause, "not_captured") == 0)
			return "the mirror found that the capture trigger did not fire";
	}
	for (int i = 0; i < explain->nfindings && seen == 0; i++)
	{
		if (explain->findings[i].column == column && strcmp(explain->findings[i].source, "posting") == 0)
			seen = explain->findings[i].first_seen;
	}
	for (int i = 0; i < explain->nitems; i++)
	{
		const ExplainItem *item = &explain->items[i];

		if (!item->is_write && item->column == column && item->mirrored && item->at <= seen)
			met = item;
	}
	return met && explain->altered && met->xact < explain->altered ? NULL : explain->capture_doubt;
}

/* What no known event explains; whole: nothing else does either. */
static void
put_rest(const Explain *explain, int column, Numeric rest, bool whole)
{
	const char *bypass = evidence_of_bypass(explain, column);
	const ExplainItem *posting = NULL;
	const char *cause = "unexplained";
	char	   *detail = "";
	StringInfoData list;
	int64		transaction_id;
	TimestampTz at;
	char	   *parting = tell_parting(explain, column, &transaction_id, &at);
	bool		twins = false;
	int			n;

	initStringInfo(&list);
	n = find_postings(explain, column, rest, &posting, &twins, &list);
	if (whole && compare_values(explain, column, &detail))
		cause = compare_values(explain, column, &detail);
	else if (bypass)
	{
		cause = "bypass";
		detail = psprintf("The legacy row changed by %s without being captured: %s.",
						  ledger_amount_out(ledger_amount_negate(rest)), bypass);
	}
	else if (n == 1)
	{
		cause = "left_out_posting";
		detail = "The legacy row lacks just this, and no other posting is as much.";
	}
	else if (n == 2 && twins)
	{
		cause = "duplicate_posting";
		detail = "The one before says the same, without a key; the legacy row has it once.";
	}
	else if (n > 0)
		detail = psprintf("Any of these %d is as much: transaction %s%s.", n, list.data, n > 5 ? ", ..." : "");
	if (strcmp(cause, "left_out_posting") == 0 || strcmp(cause, "duplicate_posting") == 0)
	{
		transaction_id = posting->id;
		at = posting->at;
	}
	put(explain, column, rest, cause, transaction_id, at,
		psprintf("%s%s%s", detail, *detail ? " " : "", parting));
}

/* ---- a column ----------------------------------------------------------------------------------- */

/* The captured write after which there was no row, or none. */
static void
put_missing_row(const Explain *explain, int column)
{
	const ExplainItem *gone = NULL;

	for (int i = 0; i < explain->nitems; i++)
	{
		if (explain->items[i].is_write)
			gone = explain->items[i].row_gone ? &explain->items[i] : NULL;
	}
	put(explain, column, explain->columns[column].difference, "missing_row", 0, gone ? gone->at : 0,
		gone ? psprintf("Captured write " INT64_FORMAT " (%s) left the user without a row.", gone->id, gone->who) :
		"There is no row, and nobody was seen to delete it.");
}

static void
put_non_finite(const Explain *explain, int column)
{
	const ExplainItem *write = NULL;

	for (int i = 0; i < explain->nitems; i++)
	{
		const ExplainItem *item = &explain->items[i];

		if (item->is_write && item->column == column && item->after &&
			(numeric_is_nan(item->after) || numeric_is_inf(item->after)))
			write = item;
	}
	put(explain, column, NULL, write ? "outside_write" : "unexplained", 0, write ? write->at : 0,
		write ? psprintf("Captured write " INT64_FORMAT " (%s) set %s.", write->id, write->who, ledger_amount_out(write->after)) :
		"The legacy value is not a finite number.");
}

static void
explain_column(const Explain *explain, int column)
{
	const CompareColumn *compared = &explain->columns[column];
	Numeric		difference = compared->difference;
	ExplainItem **parts;
	Numeric		rest;
	int			n;
	int			kept;

	parts = palloc(sizeof(ExplainItem *) * Max(explain->nitems + EXPLAIN_MAX_SUBSET, 1));
	n = list_parts(explain, column, parts);
	rest = ledger_amount_sub(difference, sum_parts(parts, n));
	if (ledger_amount_sign(rest) != 0)
	{
		n = add_failed(explain, column, rest, parts, n);
		rest = ledger_amount_sub(difference, sum_parts(parts, n));
	}
	if (ledger_amount_sign(rest) != 0 && (kept = choose_parts(parts, n, difference)) > 0)
	{
		n = kept;
		rest = ledger_amount_zero();
	}
	put_parts(explain, column, parts, n);
	if (ledger_amount_sign(rest) != 0)
		put_rest(explain, column, rest, n == 0);
}

static void
explain_table(Explain *explain)
{
	bool		any = false;

	for (int i = 0; i < explain->ncolumns; i++)
		any |= explain->columns[i].status != COMPARE_MATCH;
	if (!any)
		return;
	ledger_explain_read(explain);
	ledger_explain_match(explain);
	for (int i = 0; i < explain->ncolumns; i++)
	{
		const CompareColumn *column = &explain->columns[i];

		switch (column->status)
		{
			case COMPARE_MATCH:
				break;
			case COMPARE_NON_FINITE:
				put_non_finite(explain, i);
				break;
			case COMPARE_MISSING_LEGACY:
				put_missing_row(explain, i);
				break;
			case COMPARE_MISSING_LEDGER:
				put(explain, i, column->difference, "not_opened", 0, 0,
					"The user has a row and no opening yet; his first posting, or the backfill, makes it,"
					" unless ledger.backfill_findings tells why it cannot.");
				break;
			default:
				explain_column(explain, i);
		}
	}
}

PG_FUNCTION_INFO_V1(ledger_explain_discrepancy);

/* (user_id) → setof (legacy_column, difference, cause, transaction_id, at, detail) */
Datum
ledger_explain_discrepancy(PG_FUNCTION_ARGS)
{
	const pg_uuid_t *user_id = ledger_arg_uuid(fcinfo, 0, "user_id");
	OwnerContext saved;
	CompareColumn *columns;
	int			n;
	int			next;

	InitMaterializedSRF(fcinfo, 0);
	ledger_spi_as_owner(&saved, "legacy_writes");
	n = ledger_compare_user(user_id, &columns);
	for (int i = 0; i < n; i = next)
	{
		Explain		explain = {(ReturnSetInfo *) fcinfo->resultinfo, *user_id, columns[i].table, &columns[i]};

		for (next = i; next < n && columns[next].table == columns[i].table; next++)
			explain.ncolumns++;
		explain_table(&explain);
	}
	ledger_spi_done(&saved);
	return (Datum) 0;
}
