/*
 * transfer.h
 *		One item of a batch, as a row of ledger.transfer or ledger.inbox says it.
 */
#ifndef LEDGER_TRANSFER_H
#define LEDGER_TRANSFER_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "posting.h"

#define LEDGER_TRANSFER_COLUMNS	14

/* How an item names an account. Hashed: zeros in between. */
typedef struct TransferAccount
{
	bool		by_id;
	bool		has_user;
	int64		id;				/* by_id */
	pg_uuid_t	user_id;		/* else the account of type, user and currency */
	const LedgerAccountType *type;
	const LedgerCurrency *currency;
} TransferAccount;

typedef struct Transfer
{
	const char *type;
	TransferAccount debit;
	TransferAccount credit;
	Numeric		amount;			/* checked, but not for the currency's digits */
	bool		has_user;
	pg_uuid_t	user_id;
	bool		has_reference;
	pg_uuid_t	reference_id;
	const char *reference_type;
	const char *key_text;		/* NULL: no deduplication */
	text	   *description;
	Jsonb	   *metadata;
	bool		has_effective_at;
	TimestampTz effective_at;
} Transfer;

/* Where the attributes of a transfer are in rows of the type; 42804 if it was altered. */
extern void ledger_transfer_columns(TupleDesc desc, const char *relation, AttrNumber *columns);

/*
 * Reads a row and checks what a single call checks of its arguments, in the
 * same order. Returns what is wrong, or NULL. The texts may point into the row.
 */
extern LedgerRefusal *ledger_transfer_read(Transfer *transfer, HeapTupleHeader row, TupleDesc desc,
										   const AttrNumber *columns);

/* The transfer as the header of a request to post(). */
extern void ledger_transfer_header(const Transfer *transfer, PostingRequest *request);

#endif							/* LEDGER_TRANSFER_H */
