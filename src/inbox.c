/*
 * inbox.c
 *		SQL's two ways to a batch: post_batch() and the table ledger.inbox.
 *
 * ledger.inbox takes transfers by COPY and INSERT and never keeps a row: the
 * trigger before the statement opens a collection, the one before each row
 * puts the row there and nothing into the table, the one after the statement
 * posts what there is. Many rows are posted in slices, so that memory is
 * bounded. An error takes the whole statement back.
 *
 * Statements can be nested, so collections are a stack. Each belongs to the
 * subtransaction that opened it, whose abort drops it. One that is left at
 * commit would be money that was sent and not posted: it is an error.
 *
 * Memory: a collection and its rows in a context of their own below the
 * transaction's; a slice in one below that, freed when it is posted.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "replication/logicalworker.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/typcache.h"
#include "utils/xid8.h"

#include "args.h"
#include "batch.h"
#include "errors.h"
#include "inbox.h"

#define INBOX_SLICE		10000	/* rows posted at once */

static const struct config_enum_entry on_error_options[] = {
	{"stop", true, false},
	{"continue", false, false},
	{NULL, 0, false}
};

static int	inbox_stops = true; /* ledger.inbox_on_error */

/* ---- post_batch() ------------------------------------------------------------------ */

PG_FUNCTION_INFO_V1(ledger_post_batch);

static bool
arg_stops(FunctionCallInfo fcinfo, int n)
{
	char	   *value;

	ledger_arg_required(fcinfo, n, "on_error");
	value = text_to_cstring(PG_GETARG_TEXT_PP(n));
	if (strcmp(value, "stop") != 0 && strcmp(value, "continue") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid on_error \"%s\"", pnstrdup(value, NAMEDATALEN)),
				 errhint("Pass 'stop' or 'continue'.")));
	return strcmp(value, "stop") == 0;
}

static Batch *
batch_of_array(ArrayType *array, bool stop)
{
	TupleDesc	desc = lookup_rowtype_tupdesc_copy(ARR_ELEMTYPE(array), -1);
	AttrNumber	columns[LEDGER_TRANSFER_COLUMNS];
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	Batch	   *batch;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("transfers must be an array of one dimension"),
				 errhint("Pass ARRAY[transfer, ...].")));
	if (ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) > LEDGER_MAX_BATCH)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a batch has at most %d transfers", LEDGER_MAX_BATCH),
				 errhint("Split it into several batches, or copy it into ledger.inbox.")));
	ledger_transfer_columns(desc, "type ledger.transfer", columns);
	deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, TYPALIGN_DOUBLE,
					  &elements, &nulls, &n);
	batch = ledger_batch_new("post_batch", desc, columns, stop, 0);
	for (int i = 0; i < n; i++)
		ledger_batch_add(batch, nulls[i] ? NULL : DatumGetHeapTupleHeader(elements[i]));
	return batch;
}

static void
put_result(ReturnSetInfo *rsinfo, const BatchResult *result)
{
	Datum		values[4];
	bool		isnull[4] = {false};

	values[0] = Int32GetDatum((int32) result->item);
	values[1] = CStringGetTextDatum(result->result);
	values[2] = Int64GetDatum(result->transaction_id);
	isnull[2] = result->transaction_id == 0;
	values[3] = result->message ? CStringGetTextDatum(result->message) : (Datum) 0;
	isnull[3] = result->message == NULL;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
}

/* (transfers, on_error) → item, result, transaction_id, message */
Datum
ledger_post_batch(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext context;
	MemoryContext old;
	Batch	   *batch;
	bool		stop;

	ledger_arg_required(fcinfo, 0, "transfers");
	stop = arg_stops(fcinfo, 1);
	InitMaterializedSRF(fcinfo, 0);
	context = AllocSetContextCreate(CurrentMemoryContext, "ledger batch", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	batch = batch_of_array(PG_GETARG_ARRAYTYPE_P(0), stop);
	if (ledger_batch_size(batch) > 0)
		ledger_batch_post(batch);
	for (int i = 0; i < ledger_batch_size(batch); i++)
	{
		BatchResult result;

		ledger_batch_result(batch, i, &result);
		put_result(rsinfo, &result);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return (Datum) 0;
}

/* ---- results of the inbox -------------------------------------------------------------- */

enum
{
	R_ID, R_BATCH, R_ITEM, R_RESULT, R_TRANSACTION, R_KEY, R_MESSAGE, R_CREATED, R_COLUMNS
};
static const char *const result_columns[] = {
	"id", "batch", "item", "result", "transaction_id", "idempotency_key", "message", "created_at"
};
static StoreSpec result_spec = {"inbox_results", result_columns, R_COLUMNS, NULL};

static void
store_result(StoreBulk *bulk, Oid sequence, const BatchResult *result)
{
	Datum		values[R_COLUMNS] = {0};
	bool		isnull[R_COLUMNS] = {false};

	values[R_ID] = Int64GetDatum(nextval_internal(sequence, false));
	values[R_BATCH] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	values[R_ITEM] = Int64GetDatum(result->item);
	values[R_RESULT] = CStringGetTextDatum(result->result);
	values[R_TRANSACTION] = Int64GetDatum(result->transaction_id);
	isnull[R_TRANSACTION] = result->transaction_id == 0;
	values[R_KEY] = result->key_text ? CStringGetTextDatum(result->key_text) : (Datum) 0;
	isnull[R_KEY] = result->key_text == NULL;
	values[R_MESSAGE] = result->message ? CStringGetTextDatum(result->message) : (Datum) 0;
	isnull[R_MESSAGE] = result->message == NULL;
	values[R_CREATED] = TimestampTzGetDatum(GetCurrentTimestamp());
	ledger_store_bulk_add(bulk, values, isnull);
}

/* What was not posted has no row in the journal to tell of it. */
static void
store_results(const Batch *batch)
{
	Store	   *store = NULL;
	StoreBulk  *bulk = NULL;
	Oid			sequence = InvalidOid;

	for (int i = 0; i < ledger_batch_size(batch); i++)
	{
		BatchResult result;

		ledger_batch_result(batch, i, &result);
		if (strcmp(result.result, "posted") == 0)
			continue;
		if (store == NULL)
		{
			store = ledger_store_open(&result_spec, RowExclusiveLock);
			bulk = ledger_store_bulk_begin(store);
			sequence = ledger_relation_oid("inbox_results_id_seq");
		}
		store_result(bulk, sequence, &result);
	}
	if (store == NULL)
		return;
	ledger_store_bulk_end(bulk);
	ledger_store_close(store);
	CommandCounterIncrement();
}

/* ---- collections ------------------------------------------------------------------------ */

typedef struct Collection
{
	struct Collection *outer;
	MemoryContext context;
	MemoryContext slice;		/* of the batch and its rows */
	int			level;			/* nesting level of transactions that opened it */
	bool		stop;
	TupleDesc	desc;
	AttrNumber	columns[LEDGER_TRANSFER_COLUMNS];
	int64		posted;			/* rows of the slices before */
	Batch	   *batch;			/* NULL: no row yet */
} Collection;

static Collection *collections = NULL;	/* the innermost first */

static void
open_collection(Relation relation)
{
	MemoryContext context = AllocSetContextCreate(TopTransactionContext, "ledger inbox",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Collection *collection = palloc0(sizeof(Collection));

	collection->context = context;
	collection->slice = AllocSetContextCreate(context, "ledger inbox slice", ALLOCSET_DEFAULT_SIZES);
	collection->level = GetCurrentTransactionNestLevel();
	collection->stop = inbox_stops;
	collection->desc = CreateTupleDescCopy(RelationGetDescr(relation));
	ledger_transfer_columns(collection->desc, "table ledger.inbox", collection->columns);
	collection->outer = collections;
	collections = collection;
	MemoryContextSwitchTo(old);
}

static void
close_collection(void)
{
	Collection *collection = collections;

	collections = collection->outer;
	MemoryContextDelete(collection->context);
}

static void
post_slice(Collection *collection)
{
	MemoryContext old;

	if (collection->batch == NULL)
		return;
	old = MemoryContextSwitchTo(collection->slice);
	ledger_batch_post(collection->batch);
	store_results(collection->batch);
	collection->posted += ledger_batch_size(collection->batch);
	collection->batch = NULL;
	MemoryContextSwitchTo(old);
	MemoryContextReset(collection->slice);
}

static void
collect(Collection *collection, HeapTuple row)
{
	MemoryContext old = MemoryContextSwitchTo(collection->slice);

	if (collection->batch == NULL)
		collection->batch = ledger_batch_new("inbox", collection->desc, collection->columns,
											 collection->stop, collection->posted);
	ledger_batch_add(collection->batch, heap_copytuple(row)->t_data);
	MemoryContextSwitchTo(old);
	if (ledger_batch_size(collection->batch) == INBOX_SLICE)
		post_slice(collection);
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
	{
		if (collections)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("rows of ledger.inbox were not posted"),
					 errdetail("The trigger after the statement did not run."),
					 errhint("SELECT * FROM ledger.rearm() restores the triggers.")));
		return;
	}
	/* their memory goes with the transaction */
	collections = NULL;
}

static void
subxact_callback(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (collections && collections->level >= level)
			close_collection();
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (Collection *c = collections; c && c->level >= level; c = c->outer)
			c->level = level - 1;
	}
}

/* ---- the trigger --------------------------------------------------------------------------- */

PG_FUNCTION_INFO_V1(ledger_inbox);

/* The right to INSERT into ledger.inbox is the right to post: no other table will do. */
static void
check_trigger(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
		RelationGetRelid(trigger->tg_relation) != ledger_relation_oid("inbox"))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("inbox_post() must be called as a trigger of INSERT on ledger.inbox")));
	if (IsLogicalWorker())
		ereport(ERROR,
				(errcode(ERRCODE_LG_APPEND_ONLY),
				 errmsg("ledger.inbox takes no rows from logical replication"),
				 errdetail("The apply worker tried to insert one."),
				 errhint("Leave schema ledger out of the publication.")));
}

Datum
ledger_inbox(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	check_trigger(fcinfo);
	if (TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event) && TRIGGER_FIRED_BEFORE(trigger->tg_event))
		open_collection(trigger->tg_relation);
	else if (collections == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("rows of ledger.inbox cannot be posted"),
				 errdetail("The trigger before the statement did not run."),
				 errhint("SELECT * FROM ledger.rearm() restores the triggers.")));
	else if (TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		collect(collections, trigger->tg_trigtuple);
	else
	{
		post_slice(collections);
		close_collection();
	}
	/* no row is put into the table */
	return PointerGetDatum(NULL);
}

void
ledger_inbox_init(void)
{
	DefineCustomEnumVariable("ledger.inbox_on_error",
							 "Whether an insert into ledger.inbox stops at a transfer that is refused.",
							 NULL, &inbox_stops, true, on_error_options,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}
