/*
 * explain_match.c
 *		What happened on one side alone, and what each of it is.
 *
 * Since the sides last agreed, what was not mirrored and what was written past
 * the ledger add up to the difference, if all of it is known. First those are
 * set off that make each other good: a posting that was not mirrored and a
 * write of the same change are a dual write as it should be. Then come
 * pairs that almost do: the wrong sign, unit, column, user, or rounded. Each
 * that is left is told by itself.
 *
 * A pair is looked for in one transaction first, then among what is near.
 * Evidence decides; where two things only happen to be equal, nothing is said.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "amount.h"
#include "explain.h"

/* ---- amounts ------------------------------------------------------------------------ */

int
ledger_explain_scale(Numeric n)
{
	return DatumGetInt32(DirectFunctionCall1(numeric_min_scale, NumericGetDatum(n)));
}

Numeric
ledger_explain_times(Numeric n, int factor)
{
	return DatumGetNumeric(DirectFunctionCall2(numeric_mul, NumericGetDatum(n),
											   NumericGetDatum(int64_to_numeric(factor))));
}

/*
 * Rounded, or cut off, to fewer digits than it had: by less than a hundredth,
 * since more may be a movement of its own.
 */
bool
ledger_explain_is_rounded(Numeric exact, Numeric rounded)
{
	int			digits = ledger_explain_scale(rounded);
	Datum		scale = Int32GetDatum(digits);
	Numeric		round;
	Numeric		trunc;
	Numeric		lost = ledger_explain_times(ledger_amount_sub(exact, rounded), 100);

	if (digits >= ledger_explain_scale(exact) || ledger_amount_sign(lost) == 0 ||
		ledger_amount_cmp(lost, int64_to_numeric(1)) >= 0 ||
		ledger_amount_cmp(lost, int64_to_numeric(-1)) <= 0)
		return false;
	round = DatumGetNumeric(DirectFunctionCall2(numeric_round, NumericGetDatum(exact), scale));
	trunc = DatumGetNumeric(DirectFunctionCall2(numeric_trunc, NumericGetDatum(exact), scale));
	return ledger_amount_cmp(round, rounded) == 0 || ledger_amount_cmp(trunc, rounded) == 0;
}

/* One is a hundred times the other. */
bool
ledger_explain_is_other_unit(Numeric a, Numeric b)
{
	if (ledger_amount_sign(a) == 0 || ledger_amount_sign(b) == 0)
		return false;
	return ledger_amount_cmp(ledger_explain_times(a, 100), b) == 0 ||
		ledger_amount_cmp(ledger_explain_times(b, 100), a) == 0;
}

static bool
is_finite(Numeric n)
{
	return n && !numeric_is_nan(n) && !numeric_is_inf(n);
}

/* ---- what counts ---------------------------------------------------------------------- */

static bool
in_window(const Explain *explain, const ExplainItem *item)
{
	if (item->column < 0 || !is_finite(item->change))
		return false;
	return item->is_write ? item->id > explain->since_write[item->column] :
		item->id > explain->since_transaction[item->column];
}

static bool
was_to_be_mirrored(const Explain *explain, const ExplainItem *item, int column)
{
	return !item->is_write && item->column == column && item->mirrored && in_window(explain, item);
}

/*
 * The posting that a finding was last made of: after it the ledger had the
 * value that the finding has. Time alone tells if that is not known.
 */
static ExplainItem *
posting_of_finding(Explain *explain, const ExplainFinding *finding)
{
	Numeric		value = explain->columns[finding->column].ledger_value;
	ExplainItem *by_value = NULL;
	ExplainItem *by_time = NULL;

	for (int i = explain->nitems - 1; i >= 0; i--)
	{
		ExplainItem *item = &explain->items[i];

		if (item->is_write || item->column != finding->column)
			continue;
		if (was_to_be_mirrored(explain, item, finding->column))
		{
			if (by_value == NULL && finding->ledger_value &&
				ledger_amount_cmp(value, finding->ledger_value) == 0)
				by_value = item;
			if (by_time == NULL && item->at <= finding->last_seen)
				by_time = item;
		}
		value = ledger_amount_sub(value, item->change);
	}
	return by_value ? by_value : by_time;
}

/*
 * The postings that a finding of failed mirrors is about: it is made right
 * after a posting. Of several in between it is not known which they are,
 * unless they are as many as it counts.
 */
static void
mark_failed(Explain *explain, const ExplainFinding *finding)
{
	ExplainItem *last = posting_of_finding(explain, finding);
	ExplainItem *first = last;
	int			n = 0;
	char	   *note = psprintf("The mirror could not write it: SQLSTATE %s, %s.",
								finding->error_code ? finding->error_code : "not known",
								finding->note ? finding->note : "no message");

	for (ExplainItem *item = explain->items; item < last && finding->count > 1; item++)
	{
		if (was_to_be_mirrored(explain, item, finding->column) &&
			(first == last || item->at <= finding->first_seen))
			first = item;
	}
	for (ExplainItem *item = first; item && item <= last; item++)
		n += was_to_be_mirrored(explain, item, finding->column);
	for (ExplainItem *item = first; item && item <= last; item++)
	{
		if (!was_to_be_mirrored(explain, item, finding->column))
			continue;
		item->note = note;
		if (n == finding->count || item == first || item == last)
			item->failed = true;
		else
			item->may_have_failed = true;
	}
}

static void
mark_counted(Explain *explain)
{
	for (int i = 0; i < explain->nfindings; i++)
	{
		if (explain->findings[i].column >= 0 &&
			strcmp(explain->findings[i].cause, "mirror_failed") == 0)
			mark_failed(explain, &explain->findings[i]);
	}
	for (int i = 0; i < explain->nitems; i++)
	{
		ExplainItem *item = &explain->items[i];

		if (item->failed)
			item->mirrored = false;
		item->counts = in_window(explain, item) &&
			(item->is_write ? strcmp(item->type, "posted") != 0 :
			 !item->mirrored && strcmp(item->type, "opening") != 0);
		if (item->counts)
			item->part = item->is_write ? ledger_amount_negate(item->change) : item->change;
	}
}

/* ---- pairs ------------------------------------------------------------------------------ */

static bool
is_open(const ExplainItem *item)
{
	return item->counts && !item->settled && item->cause == NULL;
}

/* A write of the application's own, which may be its half of a dual write. */
static bool
is_application_write(const ExplainItem *item)
{
	return item->is_write && strcmp(item->type, "mirror_side_effect") != 0;
}

static bool
is_near(const ExplainItem *a, const ExplainItem *b)
{
	return (a->xact != 0 && a->xact == b->xact) ||
		(a->at - b->at <= EXPLAIN_NEAR && b->at - a->at <= EXPLAIN_NEAR);
}

static bool
is_same_change(const ExplainItem *posting, const ExplainItem *write)
{
	return posting->column == write->column && ledger_amount_cmp(posting->change, write->change) == 0;
}

static bool
is_sign_reversed(const ExplainItem *posting, const ExplainItem *write)
{
	return posting->column == write->column && is_near(posting, write) &&
		ledger_amount_cmp(posting->change, ledger_amount_negate(write->change)) == 0;
}

static bool
is_rounded_pair(const ExplainItem *posting, const ExplainItem *write)
{
	return posting->column == write->column && is_near(posting, write) &&
		ledger_explain_is_rounded(posting->change, write->change);
}

static bool
is_unit_pair(const ExplainItem *posting, const ExplainItem *write)
{
	return posting->column == write->column && is_near(posting, write) &&
		ledger_explain_is_other_unit(posting->change, write->change);
}

static bool
is_swapped_pair(const ExplainItem *posting, const ExplainItem *write)
{
	return posting->column != write->column && is_near(posting, write) &&
		ledger_amount_cmp(posting->change, write->change) == 0;
}

typedef bool (*PairTest) (const ExplainItem *posting, const ExplainItem *write);

/* The write that goes with a posting: of its transaction, else the nearest. */
static ExplainItem *
find_write(Explain *explain, const ExplainItem *posting, PairTest test)
{
	int			at = posting - explain->items;
	ExplainItem *found = NULL;

	for (int i = 0; i < explain->nitems; i++)
	{
		ExplainItem *write = &explain->items[i];

		if (!is_open(write) || !is_application_write(write) || !test(posting, write))
			continue;
		if (write->xact != 0 && write->xact == posting->xact)
			return write;
		if (found == NULL || abs(i - at) < abs((int) (found - explain->items) - at))
			found = write;
	}
	return found;
}

static const char *
column_name(const Explain *explain, const ExplainItem *item)
{
	return explain->columns[item->column].column->name;
}

/* One for each posting that was not mirrored; cause NULL: they make each other good. */
static void
pair(Explain *explain, PairTest test, const char *cause, const char *what)
{
	for (int i = 0; i < explain->nitems; i++)
	{
		ExplainItem *posting = &explain->items[i];
		ExplainItem *write;

		if (posting->is_write || !is_open(posting))
			continue;
		write = find_write(explain, posting, test);
		if (write == NULL)
			continue;
		posting->cause = cause;
		if (cause && write->column != posting->column)
		{
			write->cause = cause;
			write->transaction_id = posting->id;
			posting->detail = psprintf("Captured write " INT64_FORMAT " (%s) changed %s by %s.",
									   write->id, write->who, column_name(explain, write),
									   ledger_amount_out(write->change));
			write->detail = psprintf("Transaction " INT64_FORMAT " changed %s by as much; %s wrote this column.",
									 posting->id, column_name(explain, posting), write->who);
			continue;
		}
		write->settled = true;
		posting->settled = cause == NULL;
		if (cause)
		{
			posting->part = ledger_amount_sub(posting->change, write->change);
			posting->detail = psprintf("The ledger has %s; captured write " INT64_FORMAT " (%s) %s: %s.",
									   ledger_amount_out(posting->change), write->id, write->who, what,
									   ledger_amount_out(write->change));
		}
	}
}

/*
 * A write for several postings at once: the sum of those that come one after
 * the other right before it, or after it.
 */
static void
pair_sum(Explain *explain, ExplainItem *write, int step)
{
	ExplainItem *end = explain->items + explain->nitems;
	Numeric		rest = write->change;

	for (ExplainItem *item = write + step; item >= explain->items && item < end; item += step)
	{
		if (item->is_write || item->column != write->column || !is_open(item))
			continue;
		rest = ledger_amount_sub(rest, item->change);
		if (ledger_amount_sign(rest) != 0)
			continue;
		for (; item != write; item -= step)
		{
			if (!item->is_write && item->column == write->column && is_open(item))
				item->settled = true;
		}
		write->settled = true;
		return;
	}
}

static void
pair_sums(Explain *explain)
{
	for (int i = 0; i < explain->nitems; i++)
	{
		ExplainItem *write = &explain->items[i];

		if (is_application_write(write) && is_open(write))
			pair_sum(explain, write, -1);
		if (is_application_write(write) && is_open(write))
			pair_sum(explain, write, 1);
	}
}

/* A repair and its reversal. */
static void
pair_reversals(Explain *explain)
{
	for (int i = 0; i < explain->nitems; i++)
	{
		ExplainItem *reversal = &explain->items[i];

		for (int j = 0; j < i && reversal->reverses && is_open(reversal); j++)
		{
			ExplainItem *repair = &explain->items[j];

			if (!repair->is_write && is_open(repair) && repair->id == reversal->reverses &&
				repair->column == reversal->column &&
				ledger_amount_cmp(repair->change, ledger_amount_negate(reversal->change)) == 0)
				repair->settled = reversal->settled = true;
		}
	}
}

/* Two columns whose values one write exchanged. */
static void
find_exchanged(Explain *explain)
{
	for (int i = 0; i + 1 < explain->nitems; i++)
	{
		ExplainItem *a = &explain->items[i];

		for (int j = i + 1; j < explain->nitems; j++)
		{
			ExplainItem *b = &explain->items[j];

			if (!b->is_write || b->id != a->id || !a->is_write)
				break;
			if (!is_open(a) || !is_open(b) || !a->before || !a->after || !b->before || !b->after ||
				ledger_amount_cmp(a->before, b->after) != 0 || ledger_amount_cmp(a->after, b->before) != 0)
				continue;
			a->cause = b->cause = "swapped_columns";
			a->detail = psprintf("Captured write " INT64_FORMAT " (%s) gave this column the value of %s, and the other way round.",
								 a->id, a->who, column_name(explain, b));
			b->detail = psprintf("Captured write " INT64_FORMAT " (%s) gave this column the value of %s, and the other way round.",
								 b->id, b->who, column_name(explain, a));
		}
	}
}

static void
find_other_users(Explain *explain)
{
	int			asked = 0;

	for (int i = explain->nitems - 1; i >= 0 && asked < EXPLAIN_MAX_SUBSET; i--)
	{
		ExplainItem *item = &explain->items[i];
		const char *other;
		int64		id;

		if (!is_open(item) || item->failed || item->reverses ||
			(item->is_write && strcmp(item->type, "outside") != 0))
			continue;
		asked++;
		if (!ledger_explain_other_user(explain, item, &other, &id))
			continue;
		item->cause = "other_user";
		if (item->is_write)
		{
			item->transaction_id = id;
			item->detail = psprintf("Captured write " INT64_FORMAT " (%s) changed this row by %s; transaction " INT64_FORMAT " moved that for user %s.",
									item->id, item->who, ledger_amount_out(item->change), id, other);
		}
		else
			item->detail = psprintf("Captured write " INT64_FORMAT " changed the row of user %s by that amount, not this one.",
									id, other);
	}
}

/* Outside writes of which one takes back the other. */
static void
cancel_opposites(Explain *explain)
{
	for (int i = 0; i < explain->nitems; i++)
	{
		ExplainItem *later = &explain->items[i];

		for (int j = i - 1; j >= 0 && later->is_write && later->counts && !later->settled &&
			 strcmp(later->cause, "outside_write") == 0; j--)
		{
			ExplainItem *earlier = &explain->items[j];

			if (earlier->is_write && earlier->counts && !earlier->settled &&
				earlier->column == later->column && strcmp(earlier->cause, "outside_write") == 0 &&
				ledger_amount_cmp(earlier->change, ledger_amount_negate(later->change)) == 0)
				earlier->settled = later->settled = true;
		}
	}
}

/* ---- one by itself ------------------------------------------------------------------------ */

bool
ledger_explain_twins(const ExplainItem *a, const ExplainItem *b)
{
	return a != b && !a->is_write && !b->is_write && a->column == b->column &&
		a->sameness && b->sameness && strcmp(a->sameness, b->sameness) == 0 &&
		ledger_amount_cmp(a->change, b->change) == 0 &&
		a->at - b->at <= EXPLAIN_TWINS && b->at - a->at <= EXPLAIN_TWINS;
}

/* Another that is the same, and that the legacy row has. */
static const ExplainItem *
twin_of(const Explain *explain, const ExplainItem *posting)
{
	for (int i = 0; i < explain->nitems; i++)
	{
		const ExplainItem *other = &explain->items[i];

		if (ledger_explain_twins(posting, other) && (other->settled || other->mirrored))
			return other;
	}
	return NULL;
}

static void
tell_posting(const Explain *explain, ExplainItem *item)
{
	const ExplainItem *twin;

	if (item->failed)
	{
		item->cause = "mirror_failed";
		item->detail = pstrdup(item->note);
	}
	else if (item->reverses)
	{
		item->cause = "repair_undone";
		item->detail = psprintf("It took back repair " INT64_FORMAT ", which was not mirrored either.", item->reverses);
	}
	else if ((twin = twin_of(explain, item)) != NULL)
	{
		item->cause = "duplicate_posting";
		item->detail = psprintf("Transaction " INT64_FORMAT " says the same, without a key; the legacy row has it once.", twin->id);
	}
	else
	{
		item->cause = "not_mirrored";
		item->detail = psprintf("Type %s, posted while shadow mode was off.", item->type);
	}
}

/* The posting of the write's own transaction to the same column, or to another. */
static const ExplainItem *
own_posting(const Explain *explain, const ExplainItem *write, bool same_column)
{
	const ExplainItem *found = NULL;

	for (int i = 0; i < explain->nitems; i++)
	{
		const ExplainItem *posting = &explain->items[i];

		if (posting->is_write || posting->xact != write->xact || !posting->mirrored)
			continue;
		if (posting->column == write->column && !same_column)
			return NULL;
		if ((posting->column == write->column) == same_column &&
			(found == NULL || ledger_amount_cmp(posting->change, write->change) == 0))
			found = posting;
	}
	return found;
}

static bool
has_number(const ExplainItem *write, Numeric n)
{
	for (int i = 0; i < write->nnumbers; i++)
	{
		if (ledger_amount_cmp(write->numbers[i], n) == 0)
			return true;
	}
	return false;
}

/*
 * Whether the write put back a value from before a posting: back along the
 * row's history, the value before each mirrored posting. It was read too early
 * if a transaction that sets a value began before the posting, or soon after it
 * writes that value or one made of it. Zero is written for other reasons too.
 */
static bool
tell_lost_update(const Explain *explain, ExplainItem *write)
{
	Numeric		value = write->before;
	int			steps = 0;

	if (value == NULL || write->after == NULL || write->absolute == 0)
		return false;
	for (const ExplainItem *item = write - 1; item >= explain->items && steps < EXPLAIN_MAX_SUBSET; item--)
	{
		bool		began_before;
		bool		recent;
		bool		was_written;

		if (item->column != write->column || !is_finite(item->change) || (!item->is_write && !item->mirrored))
			continue;
		steps++;
		value = ledger_amount_sub(value, item->change);
		if (item->is_write)
			continue;
		began_before = write->xact_start <= item->at && write->xact != item->xact;
		recent = ledger_amount_sign(value) != 0 && write->at - item->at <= EXPLAIN_TWINS;
		was_written = ledger_amount_cmp(write->after, value) == 0;
		if (write->absolute == 1 ? began_before || (recent && (was_written || has_number(write, value))) :
			began_before && was_written)
		{
			write->cause = "lost_update";
			write->transaction_id = item->id;
			write->detail = psprintf("Captured write " INT64_FORMAT " (%s) set %s where there was %s: it had read %s,"
									 " before transaction " INT64_FORMAT " changed it by %s.",
									 write->id, write->who, ledger_amount_out(write->after),
									 ledger_amount_out(write->before),
									 ledger_amount_out(ledger_amount_normalise(value, 2)), item->id,
									 ledger_amount_out(item->change));
			return true;
		}
	}
	return false;
}

/* The write set the column to what it would be had the last posting gone the other way. */
static bool
tell_sign_reversed(const Explain *explain, ExplainItem *write)
{
	for (const ExplainItem *item = write - 1; item >= explain->items; item--)
	{
		if (item->column != write->column || !is_finite(item->change))
			continue;
		if (item->is_write || !item->mirrored || write->absolute != 1 || !is_near(item, write) ||
			ledger_amount_cmp(write->change, ledger_explain_times(item->change, -2)) != 0)
			return false;
		write->cause = "sign_reversed";
		write->transaction_id = item->id;
		write->detail = psprintf("Captured write " INT64_FORMAT " (%s) set the row as if transaction " INT64_FORMAT " had moved %s the other way.",
								 write->id, write->who, item->id, ledger_amount_out(item->change));
		return true;
	}
	return false;
}

static void
tell(ExplainItem *write, const char *cause, const ExplainItem *posting, const char *what)
{
	write->cause = cause;
	write->transaction_id = posting ? posting->id : 0;
	write->detail = psprintf("Captured write " INT64_FORMAT " (%s) %s%s by %s.", write->id, write->who, what,
							 posting ? psprintf(" transaction " INT64_FORMAT, posting->id) : "",
							 ledger_amount_out(write->change));
}

/* In a transaction that the mirror wrote for too. */
static bool
tell_double_write(const Explain *explain, ExplainItem *write)
{
	const ExplainItem *posting = own_posting(explain, write, true);

	if (posting && ledger_amount_cmp(posting->change, write->change) == 0)
		tell(write, "double_write", posting, "changed the row as the mirror did for");
	else if (posting && ledger_explain_is_other_unit(posting->change, write->change))
		tell(write, "wrong_unit", posting, "changed the row a hundred times too much, or too little, for");
	else if (posting == NULL && (posting = own_posting(explain, write, false)) != NULL &&
			 ledger_amount_cmp(posting->change, write->change) == 0)
		tell(write, "swapped_columns", posting, "changed this column for");
	return write->cause != NULL;
}

static void
tell_side_effect(const Explain *explain, ExplainItem *write)
{
	const ExplainItem *posting = own_posting(explain, write, true);
	Numeric		legacy = explain->columns[write->column].legacy_value;

	if (posting && is_finite(legacy) &&
		ledger_explain_scale(posting->change) > ledger_explain_scale(legacy) &&
		ledger_explain_is_rounded(ledger_amount_sub(legacy, write->change), legacy))
		tell(write, "rounded", posting, "is a trigger's, which rounded what the mirror wrote for");
	else
		tell(write, "trigger_side_effect", posting, "is a trigger's, which changed the row beside the mirror for");
}

static void
tell_write(const Explain *explain, ExplainItem *write)
{
	if (strcmp(write->type, "bypass") == 0)
		tell(write, "bypass", NULL, "was made under session_replication_role = replica, and changed the row");
	else if (strcmp(write->type, "mirror_side_effect") == 0)
		tell_side_effect(explain, write);
	else if (tell_double_write(explain, write) || tell_lost_update(explain, write) ||
			 tell_sign_reversed(explain, write))
		return;
	else if (write->before && write->after && ledger_explain_is_rounded(write->before, write->after))
		tell(write, "rounded", NULL, "rounded the value and changed it");
	else if (write->before && write->after && ledger_explain_is_other_unit(write->before, write->after))
		tell(write, "wrong_unit", NULL, "made the value a hundred times as much or as little, and changed it");
	else
		tell(write, "outside_write", NULL, "changed the row");
}

void
ledger_explain_match(Explain *explain)
{
	mark_counted(explain);
	pair_reversals(explain);
	pair(explain, is_same_change, NULL, NULL);
	pair_sums(explain);
	pair(explain, is_sign_reversed, "sign_reversed", "went the other way");
	pair(explain, is_rounded_pair, "rounded", "was rounded");
	pair(explain, is_unit_pair, "wrong_unit", "was in another unit");
	pair(explain, is_swapped_pair, "swapped_columns", NULL);
	find_exchanged(explain);
	find_other_users(explain);
	for (int i = 0; i < explain->nitems; i++)
	{
		ExplainItem *item = &explain->items[i];

		if (!is_open(item))
			continue;
		if (item->is_write)
			tell_write(explain, item);
		else
			tell_posting(explain, item);
	}
	cancel_opposites(explain);
}
