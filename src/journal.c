/*
 * journal.c
 *		The append-only journal: keys, look-ups, rows.
 *
 * Rows are only ever inserted; the first row of a transaction may be locked
 * by a reversal. What is written here is visible to the next command.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/xid8.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "journal.h"

enum
{
	J_TRANSACTION, J_DEBIT, J_CREDIT, J_CREATED, J_XACT, J_EFFECTIVE, J_REVERSES, J_KEY,
	J_USER, J_REFERENCE, J_ORDINAL, J_AMOUNT, J_DEBIT_AFTER, J_CREDIT_AFTER, J_TYPE,
	J_REFERENCE_TYPE, J_POSTED_BY, J_DESCRIPTION, J_METADATA, J_COLUMNS
};
static const char *const journal_columns[] = {
	"transaction_id", "debit_account_id", "credit_account_id", "created_at", "xact",
	"effective_at", "reverses", "key", "user_id", "reference_id", "ordinal", "amount",
	"debit_balance_after", "credit_balance_after", "type", "reference_type", "posted_by",
	"description", "metadata"
};
static StoreSpec journal_spec = {"journal", journal_columns, J_COLUMNS, NULL};

Store *
ledger_journal_open(LOCKMODE lockmode)
{
	return ledger_store_open(&journal_spec, lockmode);
}

/* ---- idempotency keys ---------------------------------------------------------- */

#define KEY_TIME_BYTES	6		/* of the first UUID: what orders UUIDv7, ULID */

/* The first UUID in the text, hyphenated; false if there is none. */
static bool
first_uuid(const char *text, unsigned char *bytes)
{
	static const char shape[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";

	for (; *text; text++)
	{
		int			n = 0;
		int			digits = 0;
		unsigned char out[UUID_LEN];

		for (; shape[n]; n++)
		{
			int			c = (unsigned char) text[n];
			int			digit;

			if (shape[n] == '-')
			{
				if (c != '-')
					break;
				continue;
			}
			if (c >= '0' && c <= '9')
				digit = c - '0';
			else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
				digit = (c | 0x20) - 'a' + 10;
			else
				break;
			if (digits % 2 == 0)
				out[digits / 2] = digit << 4;
			else
				out[digits / 2] |= digit;
			digits++;
		}
		if (shape[n] == '\0')
		{
			memcpy(bytes, out, KEY_TIME_BYTES);
			return true;
		}
	}
	return false;
}

/*
 * The key of a text: 6 bytes of its first UUID (without one: of the text),
 * then 10 bytes of SHA-256 over the text in UTF-8. Time-ordered ids stay
 * ordered in the index.
 */
void
ledger_journal_key(const char *text, pg_uuid_t *key)
{
	unsigned char digest[PG_SHA256_DIGEST_LENGTH];
	unsigned char *utf8;
	pg_cryptohash_ctx *ctx;

	utf8 = pg_do_encoding_conversion((unsigned char *) unconstify(char *, text), strlen(text),
									 GetDatabaseEncoding(), PG_UTF8);
	memset(key, 0, sizeof(*key));
	if (!first_uuid((char *) utf8, key->data))
		memcpy(key->data, utf8, Min(strlen((char *) utf8), KEY_TIME_BYTES));

	ctx = pg_cryptohash_create(PG_SHA256);
	if (pg_cryptohash_init(ctx) < 0 ||
		pg_cryptohash_update(ctx, utf8, strlen((char *) utf8)) < 0 ||
		pg_cryptohash_final(ctx, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute SHA-256 hash");
	pg_cryptohash_free(ctx);
	memcpy(key->data + KEY_TIME_BYTES, digest, UUID_LEN - KEY_TIME_BYTES);
}

/* A number that equal keys have alike. */
int64
ledger_journal_key_order(const pg_uuid_t *key)
{
	uint32		order;

	memcpy(&order, key->data + KEY_TIME_BYTES, sizeof(order));
	return order;
}

/* The transaction that has the key under the snapshot; 0: none. */
int64
ledger_journal_find_key(Store *journal, const pg_uuid_t *key, Snapshot snapshot)
{
	StoreKey	keys[1] = {{F_UUID_EQ, UUIDPGetDatum(key), false, 0}};
	StoreScan  *scan = ledger_store_scan(journal, "journal_key", snapshot, keys, 1);
	Datum		values[J_COLUMNS];
	bool		isnull[J_COLUMNS];
	int64		id = 0;

	if (ledger_store_next(scan, ForwardScanDirection, values, isnull, NULL))
		id = DatumGetInt64(values[J_TRANSACTION]);
	ledger_store_end(scan);
	return id;
}

/*
 * The same under a dirty snapshot, as logical replication finds rows: waits
 * for an inserter in progress. An MVCC probe would leave predicate locks on
 * index pages and make strangers conflict.
 */
int64
ledger_journal_probe_key(Store *journal, const pg_uuid_t *key)
{
	SnapshotData dirty;

	InitDirtySnapshot(dirty);
	for (;;)
	{
		int64		id = ledger_journal_find_key(journal, key, &dirty);
		TransactionId wait;

		if (id == 0)
			return 0;
		wait = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax;
		if (!TransactionIdIsValid(wait))
			return id;
		XactLockTableWait(wait, NULL, NULL, XLTW_None);
	}
}

/* One scan for all: to begin and end one costs as much as the look. */
void
ledger_journal_probe_keys(Store *journal, const pg_uuid_t **list, int n, int64 *ids)
{
	SnapshotData dirty;
	StoreScan  *scan = NULL;
	Datum		values[J_COLUMNS];
	bool		isnull[J_COLUMNS];

	InitDirtySnapshot(dirty);
	for (int i = 0; i < n;)
	{
		StoreKey	key = {F_UUID_EQ, UUIDPGetDatum(list[i]), false, 0};
		TransactionId wait = InvalidTransactionId;

		CHECK_FOR_INTERRUPTS();
		if (scan)
			ledger_store_rescan(scan, &key, 1);
		else
			scan = ledger_store_scan(journal, "journal_key", &dirty, &key, 1);
		ids[i] = 0;
		if (ledger_store_next(scan, ForwardScanDirection, values, isnull, NULL))
		{
			ids[i] = DatumGetInt64(values[J_TRANSACTION]);
			wait = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax;
		}
		if (TransactionIdIsValid(wait))
		{
			/* nothing is pinned while we wait */
			ledger_store_end(scan);
			scan = NULL;
			XactLockTableWait(wait, NULL, NULL, XLTW_None);
		}
		else
			i++;
	}
	if (scan)
		ledger_store_end(scan);
}

/* ---- reading ------------------------------------------------------------------- */

static char *
get_text(Datum *values, bool *isnull, int column)
{
	return isnull[column] ? NULL : TextDatumGetCString(values[column]);
}

static void
read_row(JournalRow *row, Datum *values, bool *isnull)
{
	memset(row, 0, sizeof(*row));
	row->transaction_id = DatumGetInt64(values[J_TRANSACTION]);
	row->ordinal = DatumGetInt16(values[J_ORDINAL]);
	row->debit_account_id = DatumGetInt64(values[J_DEBIT]);
	row->credit_account_id = DatumGetInt64(values[J_CREDIT]);
	row->amount = DatumGetNumericCopy(values[J_AMOUNT]);
	row->type = get_text(values, isnull, J_TYPE);
	row->has_user = !isnull[J_USER];
	if (row->has_user)
		row->user_id = *DatumGetUUIDP(values[J_USER]);
	row->has_reference = !isnull[J_REFERENCE];
	if (row->has_reference)
		row->reference_id = *DatumGetUUIDP(values[J_REFERENCE]);
	row->reverses = isnull[J_REVERSES] ? 0 : DatumGetInt64(values[J_REVERSES]);
}

static int
read_rows(Store *journal, const char *index, const StoreKey *key, Snapshot snapshot,
		  JournalRow **rows)
{
	StoreScan  *scan = ledger_store_scan(journal, index, snapshot, key, 1);
	Datum		values[J_COLUMNS];
	bool		isnull[J_COLUMNS];
	ItemPointerData tid;
	int			n = 0;
	int			max = 2;

	*rows = palloc(sizeof(JournalRow) * max);
	while (ledger_store_next(scan, ForwardScanDirection, values, isnull, &tid))
	{
		if (n == max)
		{
			max *= 2;
			*rows = repalloc_huge(*rows, sizeof(JournalRow) * max);
		}
		read_row(&(*rows)[n], values, isnull);
		(*rows)[n++].tid = tid;
	}
	ledger_store_end(scan);
	return n;
}

/* The postings of a transaction in order; returns how many. */
int
ledger_journal_transaction(Store *journal, int64 id, Snapshot snapshot, JournalRow **rows)
{
	StoreKey	keys[1] = {{F_INT8EQ, Int64GetDatum(id), false, 0}};

	return read_rows(journal, "journal_pkey", keys, snapshot, rows);
}

/* The sum of the rows' amounts. */
Numeric
ledger_journal_sum(const JournalRow *rows, int n)
{
	Numeric		total = ledger_amount_zero();

	for (int i = 0; i < n; i++)
		total = ledger_amount_add(total, rows[i].amount);
	return total;
}

/* Locks a row, so that reversals of one transaction follow each other. */
void
ledger_journal_lock(Store *journal, JournalRow *row, Snapshot snapshot)
{
	Datum		values[J_COLUMNS];
	bool		isnull[J_COLUMNS];

	if (ledger_store_lock(journal, &row->tid, snapshot, false, values, isnull) != TM_Ok)
		elog(ERROR, "journal row of transaction " INT64_FORMAT " has changed",
			 row->transaction_id);
}

/*
 * The reversals of a transaction under the snapshot: their first rows, whose
 * amounts mirror the original's first, oldest first. Returns how many.
 */
int
ledger_journal_reversals(Store *journal, int64 id, Snapshot snapshot, JournalRow **rows)
{
	StoreKey	keys[1] = {{F_INT8EQ, Int64GetDatum(id), false, 0}};

	return read_rows(journal, "journal_reverses", keys, snapshot, rows);
}

/* ---- writing ------------------------------------------------------------------- */

static void
set_text(Datum *values, bool *isnull, int column, const char *value)
{
	isnull[column] = value == NULL;
	values[column] = value ? CStringGetTextDatum(value) : (Datum) 0;
}

static void
set_pointer(Datum *values, bool *isnull, int column, const void *value)
{
	isnull[column] = value == NULL;
	values[column] = PointerGetDatum(value);
}

/* One posting; header NULL on all rows but the first. */
static void
write_row(const JournalRow *row, const JournalHeader *header, Numeric debit_after,
		  Numeric credit_after, Datum *values, bool *isnull)
{
	memset(values, 0, J_COLUMNS * sizeof(Datum));
	memset(isnull, true, J_COLUMNS * sizeof(bool));
#define SET(column, value)	(values[column] = (value), isnull[column] = false)
	SET(J_TRANSACTION, Int64GetDatum(row->transaction_id));
	SET(J_ORDINAL, Int16GetDatum(row->ordinal));
	SET(J_DEBIT, Int64GetDatum(row->debit_account_id));
	SET(J_CREDIT, Int64GetDatum(row->credit_account_id));
	SET(J_AMOUNT, NumericGetDatum(row->amount));
	SET(J_CREATED, TimestampTzGetDatum(row->created_at));
	set_pointer(values, isnull, J_DEBIT_AFTER, debit_after);
	set_pointer(values, isnull, J_CREDIT_AFTER, credit_after);
	if (row->has_effective_at)
		SET(J_EFFECTIVE, TimestampTzGetDatum(row->effective_at));
	if (header)
	{
		SET(J_XACT, FullTransactionIdGetDatum(GetTopFullTransactionId()));
		if (row->reverses)
			SET(J_REVERSES, Int64GetDatum(row->reverses));
		if (header->has_key)
			SET(J_KEY, UUIDPGetDatum(&header->key));
		if (row->has_user)
			SET(J_USER, UUIDPGetDatum(&row->user_id));
		if (row->has_reference)
			SET(J_REFERENCE, UUIDPGetDatum(&row->reference_id));
		set_text(values, isnull, J_TYPE, row->type);
		/* the usual reference is the movement's own, and takes no room */
		if (!row->has_reference || strcmp(row->reference_type, row->type) != 0)
			set_text(values, isnull, J_REFERENCE_TYPE, row->reference_type);
		set_text(values, isnull, J_POSTED_BY, header->posted_by);
		set_pointer(values, isnull, J_DESCRIPTION, header->description);
		set_pointer(values, isnull, J_METADATA, header->metadata);
	}
#undef SET
}

/* Inserts one posting. */
void
ledger_journal_insert(Store *journal, const JournalRow *row, const JournalHeader *header,
					  Numeric debit_after, Numeric credit_after)
{
	Datum		values[J_COLUMNS];
	bool		isnull[J_COLUMNS];

	write_row(row, header, debit_after, credit_after, values, isnull);
	ledger_store_insert(journal, values, isnull);
}

void
ledger_journal_bulk_add(StoreBulk *bulk, const JournalRow *row, const JournalHeader *header,
						Numeric debit_after, Numeric credit_after)
{
	Datum		values[J_COLUMNS];
	bool		isnull[J_COLUMNS];

	write_row(row, header, debit_after, credit_after, values, isnull);
	ledger_store_bulk_add(bulk, values, isnull);
}

bool
ledger_journal_key_violated(void)
{
	ErrorData  *error;
	bool		is_key;

	if (geterrcode() != ERRCODE_UNIQUE_VIOLATION)
		return false;
	error = CopyErrorData();
	is_key = error->constraint_name && strcmp(error->constraint_name, "journal_key") == 0;
	FreeErrorData(error);
	return is_key;
}
