/*
 * own_writes.c
 *		What this transaction has written to legacy tables past the ledger.
 *
 * The rows of ledger.legacy_writes are all there is: a savepoint that is
 * rolled back takes its own with it, and nothing in memory has to follow. Only
 * the lowest id is kept, so that a user's older writes are not looked at, and
 * a transaction without any asks nothing.
 *
 * They are read with SnapshotSelf, which sees what the transaction has written
 * and no savepoint has taken back, and leaves no predicate locks. An MVCC
 * snapshot would leave them on index pages into which all others insert, who
 * would fail under SERIALIZABLE for nothing: what is looked for is our own.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/sequence.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "amount.h"
#include "mirror.h"
#include "own_writes.h"
#include "store.h"

enum
{
	W_ID, W_MAPPING, W_USER, W_OPERATION, W_KIND, W_DELTAS, W_XACT, W_TRANSACTION, W_OTHER_HALF,
	W_COLUMNS
};
static const char *const write_columns[] = {
	"id", "mapping_id", "user_id", "operation", "kind", "deltas", "xact", "transaction_id",
	"other_half"
};
static StoreSpec write_spec = {"legacy_writes", write_columns, W_COLUMNS, NULL};

/* The columns that change; all others keep their values. */
enum
{
	M_KIND, M_TRANSACTION, M_NOTE, M_COLUMNS
};
static const char *const mark_columns[] = {"kind", "transaction_id", "note"};
static StoreSpec mark_spec = {"legacy_writes", mark_columns, M_COLUMNS, NULL};

/* The first that this transaction has stored; 0: none. */
static int64 first_id = 0;

int64
ledger_own_writes_next_id(void)
{
	int64		id = nextval_internal(ledger_relation_oid("legacy_writes_id_seq"), false);

	if (first_id == 0)
		first_id = id;
	return id;
}

bool
ledger_own_writes_any(void)
{
	return first_id != 0;
}

/* ---- reading ------------------------------------------------------------------------------ */

/* A user's, or everybody's (NULL), from this transaction's first on, oldest first. */
static StoreScan *
begin_scan(Store *store, const pg_uuid_t *user_id)
{
	StoreKey	keys[] = {
		{F_UUID_EQ, UUIDPGetDatum(user_id), false, 0},
		{F_INT8GE, Int64GetDatum(first_id), false, BTGreaterEqualStrategyNumber}
	};

	if (user_id == NULL)
		return ledger_store_scan(store, "legacy_writes_pkey", SnapshotSelf, &keys[1], 1);
	return ledger_store_scan(store, "legacy_writes_user", SnapshotSelf, keys, 2);
}

/* The next that is this transaction's. */
static bool
next_own(StoreScan *scan, Datum *values, bool *isnull)
{
	FullTransactionId own = GetTopFullTransactionIdIfAny();

	while (ledger_store_next(scan, ForwardScanDirection, values, isnull, NULL))
	{
		CHECK_FOR_INTERRUPTS();
		if (FullTransactionIdEquals(DatumGetFullTransactionId(values[W_XACT]), own))
			return true;
	}
	return false;
}

static bool
find_by_id(Store *store, int64 id, Datum *values, bool *isnull, ItemPointer tid)
{
	StoreKey	key = {F_INT8EQ, Int64GetDatum(id), false, 0};
	StoreScan  *scan = ledger_store_scan(store, "legacy_writes_pkey", SnapshotSelf, &key, 1);
	bool		found = ledger_store_next(scan, ForwardScanDirection, values, isnull, tid);

	ledger_store_end(scan);
	return found;
}

static bool
is_kind(const Datum *values, const char *kind)
{
	return strcmp(TextDatumGetCString(values[W_KIND]), kind) == 0;
}

static bool
is_pending(const Datum *values, const bool *isnull)
{
	return is_kind(values, "posted") && isnull[W_TRANSACTION];
}

static bool
is_wanted(OwnWritesKind kind, const Datum *values, const bool *isnull)
{
	switch (kind)
	{
		case OWN_WRITES_PENDING:
			return is_pending(values, isnull);
		case OWN_WRITES_POSTED:
			return is_kind(values, "posted") && !isnull[W_TRANSACTION];
		default:
			return true;
	}
}

/* What capture.c's deltas_as_jsonb() has written. */
static void
add_deltas(const LegacyTable *table, Jsonb *deltas, OwnWrites *writes)
{
	for (int i = 0; JB_ROOT_IS_OBJECT(deltas) && i < table->ncolumns; i++)
	{
		const char *name = table->columns[i].name;
		JsonbValue *value = getKeyJsonValueFromContainer(&deltas->root, name, strlen(name), NULL);
		Datum		delta;

		if (value == NULL || (value->type != jbvNumeric && value->type != jbvString))
			continue;
		if (value->type == jbvNumeric)
			delta = NumericGetDatum(value->val.numeric);
		else
			delta = DirectFunctionCall3(numeric_in,
										CStringGetDatum(pnstrdup(value->val.string.val,
																 value->val.string.len)),
										ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
		writes->deltas[i] = writes->deltas[i] ?
			ledger_amount_add(writes->deltas[i], DatumGetNumeric(delta)) :
			DatumGetNumericCopy(delta);
	}
}

static void
make_room(OwnWrites *writes)
{
	int			max = writes->n * 2;

	if (writes->n == 0)
	{
		writes->ids = palloc(sizeof(int64));
		writes->transaction_ids = palloc(sizeof(int64));
		writes->moved = palloc(sizeof(bool));
		writes->other_user = palloc(sizeof(pg_uuid_t));
	}
	/* a power of two is full */
	else if ((writes->n & (writes->n - 1)) == 0)
	{
		writes->ids = repalloc_huge(writes->ids, sizeof(int64) * max);
		writes->transaction_ids = repalloc_huge(writes->transaction_ids, sizeof(int64) * max);
		writes->moved = repalloc_huge(writes->moved, sizeof(bool) * max);
		writes->other_user = repalloc_huge(writes->other_user, sizeof(pg_uuid_t) * max);
	}
}

/* The values are the scan's: what comes of other_half is looked up when they are used up. */
static void
add_write(Store *store, const LegacyTable *table, Datum *values, bool *isnull, OwnWrites *writes)
{
	char	   *operation = TextDatumGetCString(values[W_OPERATION]);
	bool		has_half = !isnull[W_OTHER_HALF];
	int64		half = has_half ? DatumGetInt64(values[W_OTHER_HALF]) : 0;
	int			n;

	make_room(writes);
	n = writes->n++;
	writes->ids[n] = DatumGetInt64(values[W_ID]);
	writes->transaction_ids[n] = isnull[W_TRANSACTION] ? 0 : DatumGetInt64(values[W_TRANSACTION]);
	add_deltas(table, DatumGetJsonbP(values[W_DELTAS]), writes);
	if (writes->operations == NULL)
		writes->operations = operation;
	else if (strstr(writes->operations, operation) == NULL)
		writes->operations = psprintf("%s, %s", writes->operations, operation);
	writes->moved[n] = has_half && find_by_id(store, half, values, isnull, NULL);
	if (writes->moved[n])
		writes->other_user[n] = *DatumGetUUIDP(values[W_USER]);
	writes->torn |= has_half && !(writes->moved[n] && is_pending(values, isnull));
}

void
ledger_own_writes_read(const LegacyTable *table, const pg_uuid_t *user_id, OwnWritesKind kind,
					   OwnWrites *writes)
{
	Datum		values[W_COLUMNS];
	bool		isnull[W_COLUMNS];
	Store	   *store;
	StoreScan  *scan;

	memset(writes, 0, sizeof(*writes));
	if (first_id == 0)
		return;
	store = ledger_store_open(&write_spec, AccessShareLock);
	scan = begin_scan(store, user_id);
	while (next_own(scan, values, isnull))
	{
		if (DatumGetInt16(values[W_MAPPING]) == table->id && is_wanted(kind, values, isnull))
			add_write(store, table, values, isnull, writes);
	}
	ledger_store_end(scan);
	ledger_store_close(store);
}

bool
ledger_capture_own_writes(const LegacyTable *table, const pg_uuid_t *user_id, Numeric *deltas)
{
	OwnWrites	writes;
	bool		any = false;

	if (first_id == 0)
		return false;
	ledger_own_writes_read(table, user_id, OWN_WRITES_ALL, &writes);
	for (int i = 0; i < table->ncolumns; i++)
	{
		deltas[i] = writes.deltas[i];
		any |= deltas[i] != NULL;
	}
	return any;
}

/* ---- marking ------------------------------------------------------------------------------- */

/* What becomes of writes; transaction_id and note are kept unless they are told. */
typedef struct Mark
{
	const char *kind;
	bool		keep_transaction;
	bool		keep_note;
	int64		transaction_id; /* 0: none */
	const char *note;			/* NULL: none */
} Mark;

static void
mark_row(Store *store, int64 id, const Mark *mark)
{
	Datum		values[M_COLUMNS];
	bool		isnull[M_COLUMNS];
	ItemPointerData tid;

	if (!find_by_id(store, id, values, isnull, &tid))
		return;
	values[M_KIND] = CStringGetTextDatum(mark->kind);
	if (!mark->keep_transaction)
	{
		values[M_TRANSACTION] = Int64GetDatum(mark->transaction_id);
		isnull[M_TRANSACTION] = mark->transaction_id == 0;
	}
	if (!mark->keep_note)
	{
		values[M_NOTE] = mark->note ? CStringGetTextDatum(mark->note) : (Datum) 0;
		isnull[M_NOTE] = mark->note == NULL;
	}
	else if (!isnull[M_NOTE])
		values[M_NOTE] = CStringGetTextDatum(TextDatumGetCString(values[M_NOTE]));
	if (ledger_store_update(store, &tid, SnapshotSelf, values, isnull) != TM_Ok)
		elog(ERROR, "captured write " INT64_FORMAT " has changed", id);
}

/* Rows of the running command can be updated, and what is written is there for the next. */
static void
mark_rows(const int64 *ids, int n, const Mark *mark)
{
	Store	   *store;

	if (n == 0)
		return;
	CommandCounterIncrement();
	store = ledger_store_open(&mark_spec, RowExclusiveLock);
	for (int i = 0; i < n; i++)
		mark_row(store, ids[i], mark);
	ledger_store_close(store);
	CommandCounterIncrement();
}

void
ledger_own_writes_mark(const int64 *ids, int n, const char *kind, int64 transaction_id,
					   const char *note)
{
	Mark		mark = {kind};

	mark.transaction_id = transaction_id;
	mark.note = note;
	mark_rows(ids, n, &mark);
}

/* The ids of this transaction's rows that are so, in the order of theirs. */
static int64 *
find_rows(const pg_uuid_t *user_id, bool (*wanted) (const Datum *, const bool *, const void *),
		  const void *arg, int *n)
{
	Datum		values[W_COLUMNS];
	bool		isnull[W_COLUMNS];
	Store	   *store = ledger_store_open(&write_spec, AccessShareLock);
	StoreScan  *scan = begin_scan(store, user_id);
	int			max = 16;
	int64	   *ids = palloc(sizeof(int64) * max);

	*n = 0;
	while (next_own(scan, values, isnull))
	{
		if (!wanted(values, isnull, arg))
			continue;
		if (*n == max)
			ids = repalloc_huge(ids, sizeof(int64) * (max *= 2));
		ids[(*n)++] = DatumGetInt64(values[W_ID]);
	}
	ledger_store_end(scan);
	ledger_store_close(store);
	return ids;
}

static bool
is_posted_by(const Datum *values, const bool *isnull, const void *arg)
{
	const OwnWrites *posted = arg;

	for (int i = 0; !isnull[W_TRANSACTION] && i < posted->n; i++)
	{
		if (posted->transaction_ids[i] == DatumGetInt64(values[W_TRANSACTION]))
			return true;
	}
	return false;
}

/* Who has exchanged no row was posted for alone; else others' writes are looked for. */
void
ledger_own_writes_unpost(const OwnWrites *posted, const char *note)
{
	Mark		mark = {"outside", .keep_transaction = true};
	int			n = posted->n;
	int64	   *ids = posted->ids;
	bool		moved = false;

	for (int i = 0; i < n; i++)
		moved |= posted->moved[i];
	if (moved)
		ids = find_rows(NULL, is_posted_by, posted, &n);
	mark.note = note;
	mark_rows(ids, n, &mark);
}

static bool
is_outside(const Datum *values, const bool *isnull, const void *arg)
{
	const LegacyTable *table = arg;

	return DatumGetInt16(values[W_MAPPING]) == table->id && is_kind(values, "outside");
}

void
ledger_capture_mark_double(const LegacyTable *table, const pg_uuid_t *user_id)
{
	Mark		mark = {"double_write", .keep_transaction = true, .keep_note = true};
	int			n;
	int64	   *ids;

	if (first_id == 0)
		return;
	ids = find_rows(user_id, is_outside, table, &n);
	mark_rows(ids, n, &mark);
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		first_id = 0;
}

void
ledger_own_writes_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}
