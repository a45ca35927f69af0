/*
 * journal.h
 *		The append-only journal: keys, look-ups, rows.
 */
#ifndef LEDGER_JOURNAL_H
#define LEDGER_JOURNAL_H

#include "store.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

/* One posting as it stands in the journal. */
typedef struct JournalRow
{
	int64		transaction_id;
	int			ordinal;
	int64		debit_account_id;
	int64		credit_account_id;
	Numeric		amount;
	TimestampTz created_at;		/* written, not read */
	bool		has_effective_at;	/* written, not read */
	TimestampTz effective_at;

	/* on the first row of a transaction */
	const char *type;			/* NULL on all others */
	bool		has_user;
	pg_uuid_t	user_id;
	bool		has_reference;
	pg_uuid_t	reference_id;
	const char *reference_type; /* written, not read */
	int64		reverses;		/* 0: not a reversal */

	ItemPointerData tid;		/* where it was read */
} JournalRow;

/* What else the first row carries; written, never read by C. */
typedef struct JournalHeader
{
	bool		has_key;
	pg_uuid_t	key;
	const char *posted_by;
	text	   *description;
	Jsonb	   *metadata;
} JournalHeader;

extern Store *ledger_journal_open(LOCKMODE lockmode);

extern void ledger_journal_key(const char *text, pg_uuid_t *key);
extern int64 ledger_journal_key_order(const pg_uuid_t *key);
extern int64 ledger_journal_find_key(Store *journal, const pg_uuid_t *key, Snapshot snapshot);
extern int64 ledger_journal_probe_key(Store *journal, const pg_uuid_t *key);

/*
 * Many keys, best in their order: ids[i] is the transaction that has keys[i],
 * 0: none. Waits as the probe of one does.
 */
extern void ledger_journal_probe_keys(Store *journal, const pg_uuid_t **keys, int n, int64 *ids);

extern int	ledger_journal_transaction(Store *journal, int64 id, Snapshot snapshot,
									   JournalRow **rows);
extern void ledger_journal_lock(Store *journal, JournalRow *row, Snapshot snapshot);
extern int	ledger_journal_reversals(Store *journal, int64 id, Snapshot snapshot,
									 JournalRow **rows);
extern Numeric ledger_journal_sum(const JournalRow *rows, int n);

/* In PG_CATCH: whether it is the key that is there already, not a row of somebody's own index. */
extern bool ledger_journal_key_violated(void);

extern void ledger_journal_insert(Store *journal, const JournalRow *row,
								  const JournalHeader *header,
								  Numeric debit_after, Numeric credit_after);

/* One of many, see ledger_store_bulk_begin(). */
extern void ledger_journal_bulk_add(StoreBulk *bulk, const JournalRow *row,
									const JournalHeader *header,
									Numeric debit_after, Numeric credit_after);

#endif							/* LEDGER_JOURNAL_H */
