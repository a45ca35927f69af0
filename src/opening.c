/*
 * opening.c
 *		A user's opening: what his legacy row holds becomes his balance.
 *
 * Posted once for ever, at the first posting that touches the user: what the
 * row holds, less what the ledger holds already, on the first account type of
 * each column, against opening_balance. What this very transaction has written
 * to the row past the ledger does not count: it is not what the user had.
 *
 * The caller holds the row's lock, so nobody else opens the user now. Two
 * things say that he is opened: the bit on his account, and the key of the
 * posting, should the bit ever be lost.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "legacy.h"
#include "mirror.h"

/* Notes why; false, for its callers to return. */
static bool
cannot_open(OpeningProblem *problem, const char *reason, const char *detail)
{
	problem->reason = reason;
	problem->detail = detail;
	return false;
}

/* Whether the ledger can hold a value of a legacy row. */
static bool
can_hold(const LegacyColumn *column, Numeric value, OpeningProblem *problem)
{
	const LedgerCurrency *currency = ledger_account_type(column->types[0])->currency;
	const char *shown;

	if (numeric_is_nan(value) || numeric_is_inf(value))
		return cannot_open(problem, "not_finite",
						   psprintf("Column %s is not a finite number.", column->name));
	if (ledger_amount_sign(value) == 0)
		return true;
	if (ledger_amount_refuse(value, currency->code, currency->scale) == NULL)
		return true;
	shown = ledger_may_show_amounts() ? psprintf(" (%s)", ledger_amount_out(
					ledger_amount_normalise(value, currency->display_digits))) : "";
	if (ledger_amount_sign(value) < 0)
		return cannot_open(problem, "negative",
						   psprintf("Column %s is below zero%s.", column->name, shown));
	if (DatumGetInt32(DirectFunctionCall1(numeric_min_scale, NumericGetDatum(value))) > currency->scale)
		return cannot_open(problem, "digits",
						   psprintf("Column %s%s has more than %d digits after the point.",
									column->name, shown, currency->scale));
	return cannot_open(problem, "digits",
					   psprintf("Column %s%s has more than %d digits before the point.",
								column->name, shown, LEDGER_AMOUNT_DIGITS));
}

/* {"legacy": table, "row": {column: value, ...}} */
static Jsonb *
opening_metadata(const LegacyTable *table, const Numeric *values)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoString(&json, "{\"legacy\": ");
	escape_json(&json, table->name);
	appendStringInfoString(&json, ", \"row\": {");
	for (int i = 0; i < table->ncolumns; i++)
	{
		appendStringInfoString(&json, i ? ", " : "");
		escape_json(&json, table->columns[i].name);
		appendStringInfo(&json, ": %s", ledger_amount_out(ledger_amount_normalise(values[i],
					ledger_legacy_display_digits(&table->columns[i]))));
	}
	appendStringInfoString(&json, "}}");
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}

/*
 * The row as it was before this transaction wrote to it past the ledger. Of
 * several rows one that is and was not there opens none of its columns (*absent).
 */
static bool
values_to_open(LegacyTable *table, const pg_uuid_t *user_id, const LegacyRow *row,
			   Numeric *values, uint32 *absent, OpeningProblem *problem)
{
	Numeric		own[LEDGER_MAX_LEGACY_COLUMNS];
	bool		has_own = ledger_capture_own_writes(table, user_id, own);

	if (row->foreign_constant)
		return cannot_open(problem, "currency",
						   "The row is in another currency than the mapping's.");
	*absent = 0;
	for (int i = 0; i < table->ncolumns; i++)
	{
		if (table->ngroups > 1 && !ledger_legacy_has(row, &table->columns[i]) &&
			!(has_own && own[i]))
			*absent |= 1 << i;
		values[i] = row->values[i] ? row->values[i] : ledger_amount_zero();
		if (has_own && own[i])
			values[i] = ledger_amount_sub(values[i], own[i]);
		if (!can_hold(&table->columns[i], values[i], problem))
			return false;
	}
	return true;
}

/* One posting for a column whose row and ledger differ. */
static bool
open_column(PostingRequest *request, const LegacyTable *table, const LegacyColumn *column,
			const pg_uuid_t *user_id, Numeric value, const LedgerAccount *accounts, int naccounts,
			OpeningProblem *problem)
{
	const LedgerCurrency *currency = ledger_account_type(column->types[0])->currency;
	Numeric		held = ledger_legacy_ledger_value(column, accounts, naccounts);
	Numeric		missing = ledger_amount_sub(value, held);
	int			sign = ledger_amount_sign(missing);
	bool		shared;
	int			type = ledger_legacy_opening_type(table, column, accounts, naccounts, &shared);
	int			user;
	int			house;

	if (sign == 0)
		return true;
	/* what another table has opened is not opened twice, nor taken away */
	if (type < 0 || (shared && sign < 0))
		return true;
	if (strcmp(column->types[type], LEDGER_PENDING_INVESTMENT) == 0)
		return cannot_open(problem, "reserved",
						   psprintf("Column %s holds money reserved for orders, of which the ledger has no reservations.",
									column->name));
	missing = ledger_amount_normalise(missing, currency->display_digits);
	user = ledger_posting_account(request, column->types[type], user_id, NULL);
	house = ledger_posting_account(request, LEDGER_OPENING_BALANCE, NULL, currency->code);
	if (sign > 0)
		ledger_posting_line(request, house, user, missing);
	else
	{
		Numeric		first = ledger_amount_zero();

		for (int i = 0; i < naccounts; i++)
		{
			if (strcmp(accounts[i].type->name, column->types[0]) == 0 && !accounts[i].external_id)
				first = ledger_account_balance(&accounts[i]);
		}
		if (ledger_amount_sign(ledger_amount_add(first, missing)) < 0)
			return cannot_open(problem, "below_ledger",
							   psprintf("Column %s holds less than what the ledger holds beside account type %s.",
										column->name, column->types[0]));
		ledger_posting_line(request, user, house, ledger_amount_negate(missing));
	}
	return true;
}

PostingRequest *
ledger_opening_request(LegacyTable *table, const pg_uuid_t *user_id, const LegacyRow *row,
					   const LedgerAccount *accounts, int naccounts, OpeningProblem *problem)
{
	PostingRequest *request = ledger_posting_new("opening", "opening");
	Numeric		values[LEDGER_MAX_LEGACY_COLUMNS];
	uint32		absent;
	int			marked;

	if (!values_to_open(table, user_id, row, values, &absent, problem))
		return NULL;
	request->has_user = true;
	request->user_id = *user_id;
	request->is_opening = true;
	request->key_text = psprintf("opening:%d:%s", table->id,
								 DatumGetCString(DirectFunctionCall1(uuid_out,
																	 UUIDPGetDatum(user_id))));
	request->description = cstring_to_text(psprintf("opening balance from %s", table->name));
	request->metadata = opening_metadata(table, values);
	marked = ledger_posting_account(request, table->columns[0].types[0], user_id, NULL);
	request->accounts[marked].mark_opened = table->bit;
	for (int i = 0; i < table->ncolumns; i++)
	{
		if ((absent & (1 << i)) == 0 &&
			!open_column(request, table, &table->columns[i], user_id, values[i], accounts,
						 naccounts, problem))
			return NULL;
	}
	return request;
}

/* The opening from the row as it is now; raises what is in its way. */
static PostingRequest *
request_from_table(LegacyTable *table, const pg_uuid_t *user_id,
				   const LedgerAccount *accounts, int naccounts)
{
	OpeningProblem problem = {NULL, NULL};
	LegacyRow	row;
	PostingRequest *request;

	ledger_legacy_fetch(table, user_id, &row);
	request = ledger_opening_request(table, user_id, &row, accounts, naccounts, &problem);
	if (request == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("user %s cannot be opened from his row in %s",
						DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(user_id))),
						table->name),
				 errdetail_internal("%s", problem.detail),
				 errhint("Correct the legacy row; legacy_preflight() counts such rows.")));
	return request;
}

int64
ledger_opening_open(LegacyTable *table, const pg_uuid_t *user_id,
					const LedgerAccount *accounts, int naccounts)
{
	return ledger_post(request_from_table(table, user_id, accounts, naccounts));
}

void
ledger_opening_accounts(LegacyTable *table, const pg_uuid_t *user_id,
						const LedgerAccount *accounts, int naccounts, PostingRequest *into)
{
	PostingRequest *request = request_from_table(table, user_id, accounts, naccounts);

	for (int i = 0; i < request->naccounts; i++)
	{
		const LedgerAccount *account = &request->accounts[i].account;

		(void) ledger_posting_account(into, account->type->name,
									  account->has_user ? &account->user_id : NULL,
									  account->currency->code);
	}
}
