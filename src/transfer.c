/*
 * transfer.c
 *		One item of a batch, as a row of ledger.transfer or ledger.inbox says it.
 *
 * What is checked here needs no look at accounts or journal: the arguments, as
 * post() checks its own, in its order and its words.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "amount.h"
#include "args.h"
#include "operations.h"
#include "transfer.h"

enum
{
	T_TYPE, T_DEBIT, T_CREDIT, T_AMOUNT, T_KEY, T_USER, T_DEBIT_TYPE, T_CREDIT_TYPE, T_CURRENCY,
	T_REFERENCE, T_REFERENCE_TYPE, T_DESCRIPTION, T_METADATA, T_EFFECTIVE
};
static const struct
{
	const char *name;
	Oid			type;
}			attributes[LEDGER_TRANSFER_COLUMNS] = {
	{"type", TEXTOID}, {"debit_account", INT8OID}, {"credit_account", INT8OID},
	{"amount", NUMERICOID}, {"idempotency_key", TEXTOID}, {"user_id", UUIDOID},
	{"debit_type", TEXTOID}, {"credit_type", TEXTOID}, {"currency", TEXTOID},
	{"reference_id", UUIDOID}, {"reference_type", TEXTOID}, {"description", TEXTOID},
	{"metadata", JSONBOID}, {"effective_at", TIMESTAMPTZOID}
};

/* A row's attributes in our order. */
typedef struct TransferRow
{
	Datum		values[LEDGER_TRANSFER_COLUMNS];
	bool		isnull[LEDGER_TRANSFER_COLUMNS];
} TransferRow;

void
ledger_transfer_columns(TupleDesc desc, const char *relation, AttrNumber *columns)
{
	for (int i = 0; i < LEDGER_TRANSFER_COLUMNS; i++)
	{
		columns[i] = InvalidAttrNumber;
		for (int j = 0; j < desc->natts; j++)
		{
			Form_pg_attribute attribute = TupleDescAttr(desc, j);

			if (!attribute->attisdropped && attribute->atttypid == attributes[i].type &&
				strcmp(NameStr(attribute->attname), attributes[i].name) == 0)
				columns[i] = j + 1;
		}
		if (columns[i] == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("%s was altered", relation),
					 errdetail("It has no %s of type %s.", attributes[i].name,
							   format_type_be(attributes[i].type)),
					 errhint("Give it the attribute back.")));
	}
}

static void
read_row(TransferRow *row, HeapTupleHeader header, TupleDesc desc, const AttrNumber *columns)
{
	HeapTupleData tuple;
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc(sizeof(bool) * desc->natts);

	memset(&tuple, 0, sizeof(tuple));
	tuple.t_data = header;
	heap_deform_tuple(&tuple, desc, values, isnull);
	for (int i = 0; i < LEDGER_TRANSFER_COLUMNS; i++)
	{
		row->values[i] = values[columns[i] - 1];
		row->isnull[i] = isnull[columns[i] - 1];
	}
	pfree(values);
	pfree(isnull);
}

/* A text that is not empty, or NULL; *value is as it was if it is refused. */
static LedgerRefusal *
read_name(const TransferRow *row, int n, int max, const char **value)
{
	LedgerRefusal *refusal;

	if (row->isnull[n])
		return NULL;
	refusal = ledger_refuse_name(row->values[n], attributes[n].name, max);
	if (refusal == NULL)
		*value = TextDatumGetCString(row->values[n]);
	return refusal;
}

/* By its type: the account is the user's, or the house's. */
static LedgerRefusal *
read_account_type(const TransferRow *row, int n, const LedgerCurrency *currency,
				  TransferAccount *account)
{
	const char *name = NULL;
	LedgerRefusal *refusal = read_name(row, n, LEDGER_MAX_NAME, &name);

	if (refusal)
		return refusal;
	account->type = ledger_account_type_find(name, &refusal);
	if (account->type == NULL)
		return refusal;
	if (account->type->owner_user && row->isnull[T_USER])
		return ledger_refuse_null("user_id");
	account->has_user = account->type->owner_user;
	if (account->has_user)
		account->user_id = *DatumGetUUIDP(row->values[T_USER]);
	account->currency = ledger_account_currency(account->type, currency, &refusal);
	return refusal;
}

static LedgerRefusal *
read_account(const TransferRow *row, int id, int type, const LedgerCurrency *currency,
			 TransferAccount *account)
{
	const char *by_id = attributes[id].name;
	const char *by_type = attributes[type].name;

	if (row->isnull[id] && row->isnull[type])
		return ledger_refusal(ERRCODE_NULL_VALUE_NOT_ALLOWED,
							  psprintf("%s and %s must not both be NULL", by_id, by_type), NULL,
							  "Name each account by its id or by its type.");
	if (!row->isnull[id] && !row->isnull[type])
		return ledger_refusal(ERRCODE_INVALID_PARAMETER_VALUE,
							  psprintf("%s and %s must not both be given", by_id, by_type), NULL,
							  "Name each account by its id or by its type.");
	if (row->isnull[id])
		return read_account_type(row, type, currency, account);
	account->by_id = true;
	account->id = DatumGetInt64(row->values[id]);
	return NULL;
}

static LedgerRefusal *
read_accounts(Transfer *transfer, const TransferRow *row)
{
	const LedgerCurrency *currency = NULL;
	const char *code = NULL;
	LedgerRefusal *refusal = read_name(row, T_CURRENCY, LEDGER_MAX_NAME, &code);

	if (refusal)
		return refusal;
	if (code)
	{
		currency = ledger_currency_find(code, &refusal);
		if (currency == NULL)
			return refusal;
		if (row->isnull[T_DEBIT_TYPE] && row->isnull[T_CREDIT_TYPE])
			return ledger_refusal(ERRCODE_INVALID_PARAMETER_VALUE,
								  "currency must be NULL where accounts are named by their ids", NULL,
								  "Pass NULL as currency.");
	}
	refusal = read_account(row, T_DEBIT, T_DEBIT_TYPE, currency, &transfer->debit);
	if (refusal == NULL)
		refusal = read_account(row, T_CREDIT, T_CREDIT_TYPE, currency, &transfer->credit);
	return refusal;
}

static LedgerRefusal *
read_amount(Transfer *transfer, const TransferRow *row)
{
	transfer->amount = row->isnull[T_AMOUNT] ? NULL : DatumGetNumeric(row->values[T_AMOUNT]);
	/* its currency's scale is checked once the account is known */
	return ledger_amount_refuse(transfer->amount, "", INT_MAX);
}

/* Texts, metadata and time, which go to the journal as they are. */
static LedgerRefusal *
read_notes(Transfer *transfer, const TransferRow *row)
{
	LedgerRefusal *refusal;

	if (!row->isnull[T_DESCRIPTION])
	{
		refusal = ledger_refuse_text(row->values[T_DESCRIPTION], "description", LEDGER_MAX_TEXT);
		if (refusal)
			return refusal;
		transfer->description = DatumGetTextPP(row->values[T_DESCRIPTION]);
	}
	if (!row->isnull[T_METADATA])
	{
		refusal = ledger_refuse_metadata(row->values[T_METADATA]);
		if (refusal)
			return refusal;
		transfer->metadata = DatumGetJsonbP(row->values[T_METADATA]);
	}
	if (row->isnull[T_EFFECTIVE])
		return NULL;
	transfer->has_effective_at = true;
	transfer->effective_at = DatumGetTimestampTz(row->values[T_EFFECTIVE]);
	return ledger_refuse_effective_at(transfer->effective_at);
}

/* With a reference and no key of its own, the key is the reference's, as post() has it. */
static void
set_key(Transfer *transfer, const char *key)
{
	PostingRequest request = {.operation = "post"};

	ledger_set_reference(&request, transfer->has_reference ? &transfer->reference_id : NULL,
						 transfer->reference_type, transfer->type);
	transfer->reference_type = request.reference_type;
	transfer->key_text = key ? key : request.key_text;
}

/* By its key its sender knows what was refused, whatever it was refused for. */
static void
keep_key(Transfer *transfer, const TransferRow *row)
{
	(void) read_name(row, T_KEY, LEDGER_MAX_KEY, &transfer->key_text);
}

LedgerRefusal *
ledger_transfer_read(Transfer *transfer, HeapTupleHeader header, TupleDesc desc,
					 const AttrNumber *columns)
{
	TransferRow row;
	const char *key = NULL;
	LedgerRefusal *refusal;

	memset(transfer, 0, sizeof(*transfer));
	if (header == NULL)
		return ledger_refuse_null("transfer");
	read_row(&row, header, desc, columns);
	if (row.isnull[T_TYPE])
		return ledger_refuse_null("type");
	if ((refusal = read_name(&row, T_TYPE, LEDGER_MAX_NAME, &transfer->type)) != NULL ||
		(refusal = ledger_posting_refuse_type(transfer->type)) != NULL ||
		(refusal = read_accounts(transfer, &row)) != NULL ||
		(refusal = read_amount(transfer, &row)) != NULL ||
		(refusal = read_name(&row, T_KEY, LEDGER_MAX_KEY, &key)) != NULL ||
		(refusal = read_name(&row, T_REFERENCE_TYPE, LEDGER_MAX_NAME, &transfer->reference_type)) != NULL ||
		(refusal = read_notes(transfer, &row)) != NULL)
	{
		keep_key(transfer, &row);
		return refusal;
	}
	transfer->has_user = !row.isnull[T_USER];
	if (transfer->has_user)
		transfer->user_id = *DatumGetUUIDP(row.values[T_USER]);
	transfer->has_reference = !row.isnull[T_REFERENCE];
	if (transfer->has_reference)
		transfer->reference_id = *DatumGetUUIDP(row.values[T_REFERENCE]);
	set_key(transfer, key);
	return NULL;
}

void
ledger_transfer_header(const Transfer *transfer, PostingRequest *request)
{
	request->operation = "post";
	request->type = transfer->type;
	request->has_user = transfer->has_user;
	request->user_id = transfer->user_id;
	request->has_reference = transfer->has_reference;
	request->reference_id = transfer->reference_id;
	request->reference_type = transfer->reference_type;
	request->key_text = transfer->key_text;
	request->conflict_hint = NULL;
}
