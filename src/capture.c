/*
 * capture.c
 *		The trigger on a legacy table: writes that are not the mirror's.
 *
 * AFTER ROW, so that it sees what was really written, whatever statement,
 * cascade or other trigger did it; ENABLE ALWAYS, so that the replica role
 * does not hide from it. A write of the mirror is known by its row: while the
 * mirror writes one, what happens to that row is added up for it (mirror.c
 * looks at what is left over); pg_trigger_depth() could not tell an
 * application's trigger from the mirror.
 *
 * What it records it writes as the extension's owner: the application's role
 * needs no right in schema ledger. Before and after are turned into JSON in
 * the writer's own role, for that may run output functions and casts of his.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "amount.h"
#include "compare.h"
#include "errors.h"
#include "evidence.h"
#include "mirror.h"
#include "owner.h"
#include "own_writes.h"
#include "stats.h"

#define MAX_STATEMENT	2048	/* bytes of a statement's text that are kept */

/* Whether this transaction has found that nobody restores the ledger. */
static bool no_restore = false;

/* ---- storing a write ------------------------------------------------------------- */

static Datum
jsonb_from_text(const char *text)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
}

/* Each column as its type writes it. */
static Datum
row_as_texts(HeapTuple tuple, TupleDesc desc)
{
	StringInfoData json;
	const char *comma = "";

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);
		bool		isnull;
		Datum		value;
		Oid			output;
		bool		varlena;

		if (attribute->attisdropped)
			continue;
		appendStringInfoString(&json, comma);
		escape_json(&json, NameStr(attribute->attname));
		appendStringInfoString(&json, ": ");
		value = heap_getattr(tuple, i + 1, desc, &isnull);
		getTypeOutputInfo(attribute->atttypid, &output, &varlena);
		if (isnull)
			appendStringInfoString(&json, "null");
		else
			escape_json(&json, OidOutputFunctionCall(output, value));
		comma = ", ";
	}
	appendStringInfoChar(&json, '}');
	return jsonb_from_text(json.data);
}

/* What is not to be had as jsonb is no reason to refuse the write. */
static Datum
row_as_jsonb(HeapTuple tuple, TupleDesc desc)
{
	Datum		row = heap_copy_tuple_as_datum(tuple, desc);
	Datum		result;

	if (ledger_legacy_row_jsonb(TextDatumGetCString(DirectFunctionCall1(row_to_json, row)), &result))
		return result;
	return row_as_texts(tuple, desc);
}

/* {"column": delta, ...}; a normalised number unless it is not finite */
static Datum
deltas_as_jsonb(const LegacyTable *table, const Numeric *deltas)
{
	StringInfoData json;
	const char *comma = "";

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < table->ncolumns; i++)
	{
		Numeric		delta = deltas[i];

		if (delta == NULL)
			continue;
		appendStringInfoString(&json, comma);
		escape_json(&json, table->columns[i].name);
		if (numeric_is_nan(delta) || numeric_is_inf(delta))
			appendStringInfo(&json, ": \"%s\"", ledger_amount_out(delta));
		else
			appendStringInfo(&json, ": %s", ledger_amount_out(ledger_amount_normalise(delta,
							 ledger_legacy_display_digits(&table->columns[i]))));
		comma = ", ";
	}
	appendStringInfoChar(&json, '}');
	return jsonb_from_text(json.data);
}

static const char *
statement_text(void)
{
	if (debug_query_string == NULL)
		return NULL;
	return pnstrdup(debug_query_string,
					pg_mbcliplen(debug_query_string, strlen(debug_query_string), MAX_STATEMENT));
}

typedef struct Write
{
	const LegacyTable *table;
	pg_uuid_t	user_id;
	const char *operation;
	const char *kind;
	const char *note;			/* NULL: none */
	int64		id;				/* 0: to be given */
	int64		other_half;		/* of a row that changes its key; 0: none */
	bool		nobodys;		/* there is no user: its key is NULL */
	HeapTuple	before;			/* NULL: none */
	HeapTuple	after;
	Relation	relation;
	TupleDesc	desc;
	Numeric		deltas[LEDGER_MAX_LEGACY_COLUMNS];
} Write;

/*
 * The trigger that posts a write of kind posted is not this statement's: its
 * event is queued with the writer's, to be fired at the end of that.
 */
static void
store_write(const Write *write)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[] = {INT2OID, UUIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
	INT8OID, TEXTOID, JSONBOID, JSONBOID, JSONBOID, INT8OID, TEXTOID, INT8OID};
	Datum		values[lengthof(types)] = {0};
	char		nulls[] = "               ";
	const char *statement = statement_text();
	OwnerContext saved;

	values[0] = Int16GetDatum(write->table->id);
	values[1] = UUIDPGetDatum(&write->user_id);
	values[2] = CStringGetTextDatum(write->operation);
	values[3] = CStringGetTextDatum(write->kind);
	values[4] = CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), false));
	values[5] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	values[6] = CStringGetTextDatum(application_name ? application_name : "");
	values[7] = Int64GetDatum((int64) pgstat_get_my_query_id());
	values[8] = statement ? CStringGetTextDatum(statement) : (Datum) 0;
	values[9] = write->before ? row_as_jsonb(write->before, write->desc) : (Datum) 0;
	values[10] = write->after ? row_as_jsonb(write->after, write->desc) : (Datum) 0;
	values[11] = deltas_as_jsonb(write->table, write->deltas);
	values[12] = Int64GetDatum(write->id ? write->id : ledger_own_writes_next_id());
	values[13] = write->note ? CStringGetTextDatum(write->note) : (Datum) 0;
	values[14] = Int64GetDatum(write->other_half);
	nulls[8] = statement ? ' ' : 'n';
	nulls[9] = write->before ? ' ' : 'n';
	nulls[10] = write->after ? ' ' : 'n';
	nulls[13] = write->note ? ' ' : 'n';
	nulls[14] = write->other_half ? ' ' : 'n';

	ledger_spi_as_owner(&saved, "legacy_writes");
	if (plan == NULL)
	{
		SPIPlanPtr	new = SPI_prepare("INSERT INTO ledger.legacy_writes (mapping_id, user_id, operation, kind,"
									  "  session_role, acting_role, application_name, query_id, statement,"
									  "  before, after, deltas, id, note, other_half) OVERRIDING SYSTEM VALUE"
									  " VALUES ($1, $2, $3, $4, $5, $6, $7, NULLIF($8, 0), $9, $10, $11, $12,"
									  "  $13, $14, $15)",
									  lengthof(types), types);

		if (new == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		SPI_keepplan(new);
		plan = new;
	}
	if (SPI_execute_snapshot(plan, values, nulls, InvalidSnapshot, InvalidSnapshot, false,
							 strcmp(write->kind, "posted") != 0, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not record a write to a legacy table");
	ledger_spi_done(&saved);
	if (strcmp(write->kind, "bypass") != 0)
		ledger_stats_shadow(STATS_OUTSIDE);
}

/* ---- what a write means ------------------------------------------------------------- */

/* Of the columns that it changed; of the whole row if it changed none. */
static void
leave_evidence(const LegacyTable *table, const Write *write)
{
	const char *role = GetUserNameFromId(GetUserId(), false);
	bool		any = false;

	for (int i = 0; i <= table->ncolumns; i++)
	{
		bool		whole = i == table->ncolumns;
		Numeric		delta = write && !whole ? write->deltas[i] : NULL;
		Evidence	evidence = {table->id, write && !write->nobodys ? &write->user_id : NULL};

		if (whole ? any : delta == NULL)
			continue;
		any = true;
		evidence.column = whole ? "*" : table->columns[i].name;
		evidence.cause = "refused_write";
		evidence.source = "capture";
		evidence.note = psprintf("%s%s%s by role %s, application \"%s\"",
								 write ? write->operation : "TRUNCATE",
								 delta ? " of " : "", delta ? ledger_amount_out(delta) : "",
								 role, application_name ? application_name : "");
		ledger_evidence_put(&evidence);
	}
}

/* write NULL: TRUNCATE */
static void
refuse(const LegacyTable *table, const Write *write)
{
	if (ledger_evidence_active())
		leave_evidence(table, write);
	ereport(ERROR,
			(errcode(ERRCODE_LG_LEGACY_FROZEN),
			 errmsg("legacy table %s is frozen", table->name),
			 errdetail("Its rows are written by the ledger alone; role %s tried to.",
					   GetUserNameFromId(GetUserId(), false)),
			 errhint("Move the money with the ledger's functions, for example ledger.credit_user_usdc().")));
}

static LedgerCaptureGuc
capture_of(const LegacyTable *table)
{
	const LedgerSettings *settings = ledger_settings_get();
	LedgerCaptureGuc capture = ledger_capture == LEDGER_CAPTURE_INHERIT ? table->capture : ledger_capture;

	/* where the migration is goes before what was configured */
	if (settings->phase != LEDGER_MIGRATING)
		return LEDGER_CAPTURE_REFUSE;
	if (capture == LEDGER_CAPTURE_REFUSE && ledger_settings_legacy_only(settings))
		return LEDGER_CAPTURE_RECORD;
	return capture;
}

static bool
refuses(const LegacyTable *table)
{
	return capture_of(table) == LEDGER_CAPTURE_REFUSE;
}

/* What changes nothing in sum is posted by nobody. */
static bool
has_deltas(const Write *write)
{
	for (int i = 0; i < write->table->ncolumns; i++)
	{
		if (write->deltas[i])
			return true;
	}
	return false;
}

/*
 * The transaction has posted for the user too: unless the two sides agree
 * again, his difference is a double write. It is told now; the verdict falls
 * at commit.
 */
static void
report_double_write(const Write *write)
{
	CompareColumn *columns;
	int			n;

	/* what store_write() executed has made the write visible */
	PushActiveSnapshot(GetTransactionSnapshot());
	n = ledger_compare_user(&write->user_id, &columns);
	PopActiveSnapshot();
	for (int i = 0; i < n; i++)
	{
		if (columns[i].status != COMPARE_PENDING || columns[i].table->id != write->table->id)
			continue;
		columns[i].status = COMPARE_MISMATCH;
		ledger_discrepancy_store(&write->user_id, &columns[i], "double_write", "capture", NULL, NULL);
	}
	ledger_compare_report(&write->user_id, columns, n, false);
}

/*
 * Whether the ledger's data is being restored: the rows of its log are there,
 * their sequence, which pg_dump sets last, is not. A legacy row that is put
 * back then is no write; it agrees with the ledger that came with it.
 */
static bool
is_restore(void)
{
	OwnerContext saved;
	bool		isnull;
	bool		result;

	if (no_restore)
		return false;
	ledger_spi_as_owner(&saved, "legacy_log");
	if (SPI_execute("SELECT EXISTS (SELECT FROM ledger.legacy_log l, ledger.legacy_log_id_seq s"
					" WHERE l.id OPERATOR(pg_catalog.>)"
					"  CASE WHEN s.is_called THEN s.last_value ELSE 0 END)",
					true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the log of legacy tables");
	result = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	ledger_spi_done(&saved);
	no_restore = !result;
	return result;
}

static void
capture_outside(Write *write)
{
	bool		touched;

	if (strcmp(write->operation, "INSERT") == 0 && is_restore())
		return;
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
	{
		write->kind = "bypass";
		ledger_stats_shadow(STATS_BYPASS);
		store_write(write);
		return;
	}
	if (refuses(write->table))
		refuse(write->table, write);
	touched = ledger_compare_touched(&write->user_id);
	if (touched && ledger_settings_mirrors(ledger_settings_get()))
	{
		write->kind = "double_write";
		store_write(write);
		report_double_write(write);
		return;
	}
	write->kind = "outside";
	if (capture_of(write->table) == LEDGER_CAPTURE_POST && has_deltas(write))
	{
		/* with the mirror off that is the application's own dual write */
		if (touched)
			write->note = "the transaction posts for the user itself";
		else
			write->kind = "posted";
	}
	store_write(write);
}

/* What the tuple has in a mapped column; zero if it has none. */
static Numeric
value_in(const Write *write, HeapTuple tuple, int i)
{
	Numeric		value = NULL;

	if (tuple == NULL ||
		!ledger_legacy_tuple_value(write->table, write->relation, tuple, i, &value) ||
		value == NULL)
		return ledger_amount_zero();
	return value;
}

/* One user's part of a row event; before or after is NULL where he has no row. */
static void
capture_event(Write *write)
{
	MirrorExpectation *expected = ledger_mirror_expectation;
	const char *turned = write->before && write->after ?
		ledger_legacy_tuple_turned(write->table, write->relation, write->before, write->after) : NULL;
	bool		changed = turned != NULL || write->before == NULL || write->after == NULL;

	for (int i = 0; i < write->table->ncolumns; i++)
	{
		Numeric		old = value_in(write, write->before, i);
		Numeric		new = value_in(write, write->after, i);

		write->deltas[i] = NULL;
		if (ledger_amount_cmp(old, new) == 0)
			continue;
		changed = true;
		write->deltas[i] = ledger_amount_sub(new, old);
	}
	if (expected && expected->table->id == write->table->id &&
		memcmp(&expected->user_id, &write->user_id, UUID_LEN) == 0)
		ledger_mirror_saw(expected, write->deltas);
	else if (changed)
	{
		if (turned && !has_deltas(write))
			write->note = psprintf("column %s was changed", turned);
		capture_outside(write);
	}
}

/*
 * A row of none of the conditions, or without a key, which the ledger does not
 * see. That somebody writes it is noted all the same, and after the cut-over
 * the table is nobody's to write.
 */
static void
capture_nobodys(Write *write)
{
	HeapTuple	tuple = write->after ? write->after : write->before;

	if (write->before && write->after &&
		!ledger_legacy_tuple_turned(write->table, write->relation, write->before, write->after) &&
		!ledger_legacy_tuple_moved(write->table, write->relation, write->before, write->after))
		return;
	if (write->before == NULL && is_restore())
		return;
	write->nobodys = !ledger_legacy_tuple_owner(write->table, write->relation, tuple,
												&write->user_id);
	write->kind = "outside";
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
	{
		write->kind = "bypass";
		ledger_stats_shadow(STATS_BYPASS);
	}
	else if (refuses(write->table))
		refuse(write->table, write);
	write->note = "the row is of none of the mapping's conditions";
	if (!write->nobodys)
		store_write(write);
}

/* A row that changes its key is taken from one user and given to another. */
static void
capture_row(const LegacyTable *table, TriggerData *trigger)
{
	TriggerEvent event = trigger->tg_event;
	HeapTuple	before = TRIGGER_FIRED_BY_INSERT(event) ? NULL : trigger->tg_trigtuple;
	HeapTuple	after = TRIGGER_FIRED_BY_DELETE(event) ? NULL :
		TRIGGER_FIRED_BY_INSERT(event) ? trigger->tg_trigtuple : trigger->tg_newtuple;
	pg_uuid_t	old_key;
	pg_uuid_t	new_key;
	Write		write = {0};
	bool		has_old;
	bool		has_new;

	write.table = table;
	write.relation = trigger->tg_relation;
	write.desc = RelationGetDescr(trigger->tg_relation);
	write.operation = before == NULL ? "INSERT" : after == NULL ? "DELETE" : "UPDATE";
	has_old = ledger_legacy_tuple_key(table, trigger->tg_relation, before, &old_key);
	has_new = ledger_legacy_tuple_key(table, trigger->tg_relation, after, &new_key);
	if (has_old && has_new && memcmp(&old_key, &new_key, UUID_LEN) == 0)
	{
		write.user_id = old_key;
		write.before = before;
		write.after = after;
		capture_event(&write);
		return;
	}
	if (!has_old && !has_new)
	{
		write.before = before;
		write.after = after;
		capture_nobodys(&write);
	}
	if (has_old && has_new)
	{
		write.id = ledger_own_writes_next_id();
		write.other_half = ledger_own_writes_next_id();
	}
	if (has_old)
	{
		write.user_id = old_key;
		write.before = before;
		write.after = NULL;
		capture_event(&write);
	}
	if (has_new)
	{
		int64		id = write.other_half;

		write.other_half = write.id;
		write.id = id;
		write.user_id = new_key;
		write.before = NULL;
		write.after = after;
		capture_event(&write);
	}
}

PG_FUNCTION_INFO_V1(ledger_capture_trigger);

Datum
ledger_capture_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	LegacyTable *table;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("capture() must be called as a trigger")));
	table = ledger_legacy_table_of(RelationGetRelid(trigger->tg_relation));
	/* detached, or never attached: somebody else's trigger */
	if (table == NULL)
		return PointerGetDatum(NULL);
	if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
	{
		if (refuses(table))
			refuse(table, NULL);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot truncate the attached legacy table %s", table->name),
				 errdetail("TRUNCATE does not tell whose balances are gone."),
				 errhint("DELETE the rows, or call detach_legacy() first.")));
	}
	if (!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) || !TRIGGER_FIRED_AFTER(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("capture() must be fired AFTER ROW")));
	capture_row(table, trigger);
	return PointerGetDatum(NULL);
}

/* ---- for the mirror --------------------------------------------------------------- */

void
ledger_capture_side_effect(const LegacyTable *table, const pg_uuid_t *user_id,
						   const Numeric *deltas)
{
	Write		write = {0};

	write.table = table;
	write.user_id = *user_id;
	write.operation = "UPDATE";
	write.kind = "mirror_side_effect";
	memcpy(write.deltas, deltas, sizeof(write.deltas));
	if (refuses(table))
		refuse(table, &write);
	store_write(&write);
}

static void
xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		no_restore = false;
}

void
ledger_capture_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}
