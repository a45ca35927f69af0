/*
 * own_writes.c
 *		What this transaction has written to legacy tables past the ledger.
 *
 * The rows of ledger.legacy_writes are all there is: a savepoint that is
 * rolled back takes its own with it, and nothing in memory has to follow. Only
 * the lowest id is kept, so that a user's older writes are not looked at, and
 * a transaction without any asks nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "amount.h"
#include "mirror.h"
#include "owner.h"
#include "own_writes.h"

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

/* ---- SQL, as the extension's owner ----------------------------------------------------- */

static void
execute(SPIPlanPtr *plan, const char *sql, int n, Oid *types, Datum *values, const char *nulls,
		int expected)
{
	if (*plan == NULL)
	{
		SPIPlanPtr	new = SPI_prepare(sql, n, types);

		if (new == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(new);
		*plan = new;
	}
	if (SPI_execute_plan(*plan, values, nulls, false, 0) != expected)
		elog(ERROR, "could not look at the captured writes of this transaction");
}

/* ---- reading ------------------------------------------------------------------------------ */

static void
add_write(int64 id, HeapTuple tuple, TupleDesc desc, OwnWrites *writes)
{
	char	   *operation = SPI_getvalue(tuple, desc, 2);
	int			n = writes->n++;
	bool		isnull;
	Datum		value;

	writes->ids[n] = id;
	value = SPI_getbinval(tuple, desc, 3, &isnull);
	writes->transaction_ids[n] = isnull ? 0 : DatumGetInt64(value);
	value = SPI_getbinval(tuple, desc, 6, &isnull);
	writes->moved[n] = !isnull;
	if (!isnull)
		writes->other_user[n] = *DatumGetUUIDP(value);
	writes->torn |= DatumGetBool(SPI_getbinval(tuple, desc, 7, &isnull));
	if (writes->operations == NULL)
		writes->operations = operation;
	else if (strstr(writes->operations, operation) == NULL)
		writes->operations = psprintf("%s, %s", writes->operations, operation);
}

/* A row is one column of one write, or a write without any. */
static void
add_row(const LegacyTable *table, HeapTuple tuple, TupleDesc desc, OwnWrites *writes)
{
	bool		isnull;
	int64		id = DatumGetInt64(SPI_getbinval(tuple, desc, 1, &isnull));
	char	   *name;
	Datum		delta;

	if (writes->n == 0 || writes->ids[writes->n - 1] != id)
		add_write(id, tuple, desc, writes);
	name = SPI_getvalue(tuple, desc, 4);
	delta = SPI_getbinval(tuple, desc, 5, &isnull);
	for (int i = 0; name && i < table->ncolumns; i++)
	{
		if (strcmp(table->columns[i].name, name) == 0)
			writes->deltas[i] = writes->deltas[i] ?
				ledger_amount_add(writes->deltas[i], DatumGetNumeric(delta)) :
				DatumGetNumericCopy(delta);
	}
}

void
ledger_own_writes_read(const LegacyTable *table, const pg_uuid_t *user_id, OwnWritesKind kind,
					   OwnWrites *writes)
{
	static SPIPlanPtr plan = NULL;
	static const char *const kinds[] = {"", "pending", "posted"};
	Oid			types[] = {UUIDOID, INT2OID, INT8OID, TEXTOID};
	Datum		values[lengthof(types)];
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old;
	OwnerContext saved;

	memset(writes, 0, sizeof(*writes));
	if (first_id == 0)
		return;
	values[0] = UUIDPGetDatum(user_id);
	values[1] = Int16GetDatum(table->id);
	values[2] = Int64GetDatum(first_id);
	values[3] = CStringGetTextDatum(kinds[kind]);
	ledger_spi_as_owner(&saved, "legacy_writes");
	/* subqueries, not joins: the planner must not think of reading the whole table */
	execute(&plan, "SELECT w.id, w.operation, w.transaction_id, d.key, d.value::numeric,"
			"  (SELECT o.user_id FROM ledger.legacy_writes o WHERE o.id = w.other_half),"
			"  w.other_half IS NOT NULL AND NOT EXISTS (SELECT FROM ledger.legacy_writes o"
			"   WHERE o.id = w.other_half AND o.kind = 'posted' AND o.transaction_id IS NULL OFFSET 0)"
			" FROM ledger.legacy_writes w LEFT JOIN LATERAL jsonb_each_text(w.deltas) d ON true"
			" WHERE w.user_id = $1 AND w.mapping_id = $2 AND w.id >= $3"
			" AND w.xact = pg_current_xact_id()"
			" AND ($4 = '' OR w.kind = 'posted' AND (w.transaction_id IS NULL) = ($4 = 'pending'))"
			" ORDER BY w.id",
			lengthof(types), types, values, NULL, SPI_OK_SELECT);
	old = MemoryContextSwitchTo(context);
	writes->ids = palloc(sizeof(int64) * Max(SPI_processed, 1));
	writes->transaction_ids = palloc(sizeof(int64) * Max(SPI_processed, 1));
	writes->moved = palloc(sizeof(bool) * Max(SPI_processed, 1));
	writes->other_user = palloc(sizeof(pg_uuid_t) * Max(SPI_processed, 1));
	for (uint64 i = 0; i < SPI_processed; i++)
		add_row(table, SPI_tuptable->vals[i], SPI_tuptable->tupdesc, writes);
	MemoryContextSwitchTo(old);
	ledger_spi_done(&saved);
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

static Datum
id_array(const int64 *ids, int n)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		values[i] = Int64GetDatum(ids[i]);
	return PointerGetDatum(construct_array(values, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
										   TYPALIGN_DOUBLE));
}

void
ledger_own_writes_mark(const int64 *ids, int n, const char *kind, int64 transaction_id,
					   const char *note)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT8ARRAYOID, TEXTOID, INT8OID, TEXTOID};
	Datum		values[lengthof(types)];
	char		nulls[] = "    ";
	OwnerContext saved;

	values[0] = id_array(ids, n);
	values[1] = CStringGetTextDatum(kind);
	values[2] = Int64GetDatum(transaction_id);
	values[3] = note ? CStringGetTextDatum(note) : (Datum) 0;
	nulls[2] = transaction_id ? ' ' : 'n';
	nulls[3] = note ? ' ' : 'n';
	ledger_spi_as_owner(&saved, "legacy_writes");
	execute(&plan, "UPDATE ledger.legacy_writes w SET kind = $2, transaction_id = $3, note = $4"
			" WHERE w.id = ANY ($1)",
			lengthof(types), types, values, nulls, SPI_OK_UPDATE);
	ledger_spi_done(&saved);
}

void
ledger_own_writes_unpost(const int64 *transaction_ids, int n, const char *note)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT8ARRAYOID, TEXTOID, INT8OID};
	Datum		values[lengthof(types)];
	OwnerContext saved;

	values[0] = id_array(transaction_ids, n);
	values[1] = CStringGetTextDatum(note);
	values[2] = Int64GetDatum(first_id);
	ledger_spi_as_owner(&saved, "legacy_writes");
	execute(&plan, "UPDATE ledger.legacy_writes w SET kind = 'outside', note = $2"
			" WHERE w.id >= $3 AND w.xact = pg_current_xact_id() AND w.transaction_id = ANY ($1)",
			lengthof(types), types, values, NULL, SPI_OK_UPDATE);
	ledger_spi_done(&saved);
}

void
ledger_capture_mark_double(const LegacyTable *table, const pg_uuid_t *user_id)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {UUIDOID, INT2OID, INT8OID};
	Datum		values[lengthof(types)];
	OwnerContext saved;

	if (first_id == 0)
		return;
	values[0] = UUIDPGetDatum(user_id);
	values[1] = Int16GetDatum(table->id);
	values[2] = Int64GetDatum(first_id);
	ledger_spi_as_owner(&saved, "legacy_writes");
	execute(&plan, "UPDATE ledger.legacy_writes w SET kind = 'double_write'"
			" WHERE w.user_id = $1 AND w.mapping_id = $2 AND w.id >= $3"
			" AND w.xact = pg_current_xact_id() AND w.kind = 'outside'",
			lengthof(types), types, values, NULL, SPI_OK_UPDATE);
	ledger_spi_done(&saved);
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
