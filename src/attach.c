/*
 * attach.c
 *		attach_legacy() and its like: who may call them, and their settings.
 *
 * The work is in SQL (attach.sql), in functions that nobody but the
 * extension's owner may execute. Here the caller is asked whether he can act
 * for the table's owner, then that work is run as the extension's owner.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "args.h"
#include "legacy.h"
#include "owner.h"

#define MAX_ARGS	8

/* ---- the caller ------------------------------------------------------------------- */

/* The table's owner, a member of that role, or a superuser. */
void
ledger_legacy_check_owner(Oid relid)
{
	Oid			owner;

	/* one that is gone belongs to nobody: only the extension's owner */
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		owner = ledger_table_owner(ledger_relation_oid("legacy_mappings"));
	else
		owner = ledger_table_owner(relid);
	if (!has_privs_of_role(GetUserId(), owner))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE,
					   get_rel_name(relid) ? get_rel_name(relid) : psprintf("%u", relid));
}

static void
check_may_change(Oid relid, const char *function)
{
	ledger_legacy_check_owner(relid);
	ledger_prevent_read_only(function);
	if (ledger_has_posted())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot change what is attached in a transaction that has posted"),
				 errhint("Commit the postings first.")));
}

/*
 * Runs a query as the extension's owner with the function's arguments, its
 * caller's name and one flag as parameters; its rows are the function's.
 */
static void
run_for_caller(FunctionCallInfo fcinfo, const char *sql, const Oid *argtypes, bool flag)
{
	Oid			types[MAX_ARGS];
	Datum		values[MAX_ARGS];
	char		nulls[MAX_ARGS];
	int			n = fcinfo->nargs;
	OwnerContext saved;

	for (int i = 0; i < n; i++)
	{
		types[i] = argtypes[i];
		values[i] = fcinfo->args[i].value;
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	types[n] = TEXTOID;
	values[n] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	types[n + 1] = BOOLOID;
	values[n + 1] = BoolGetDatum(flag);
	nulls[n] = nulls[n + 1] = ' ';

	ledger_spi_as_owner(&saved, "legacy_mappings");
	if (SPI_execute_with_args(sql, n + 2, types, values, nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "unexpected result of: %s", sql);
	/* in FROM a function that returns no set has a ReturnSetInfo too */
	if (fcinfo->resultinfo && IsA(fcinfo->resultinfo, ReturnSetInfo) &&
		((ReturnSetInfo *) fcinfo->resultinfo)->setResult)
	{
		ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

		for (uint64 i = 0; i < SPI_processed; i++)
			tuplestore_puttuple(rsinfo->setResult, SPI_tuptable->vals[i]);
	}
	ledger_spi_done(&saved);
}

/* ---- functions ---------------------------------------------------------------------- */

/*
 * The first table that is attached after the last migration is done begins
 * another. Its attaching has the settings' lock.
 */
static void
begin_anew(void)
{
	LedgerSettings new = *ledger_settings_row();

	if (new.phase != LEDGER_RETIRED || ledger_legacy_tables() == NIL)
		return;
	new.phase = LEDGER_MIGRATING;
	new.shadow_mode = new.strict_mode = new.source_legacy = false;
	ledger_settings_change(&new, cstring_to_text("a table is attached after the last migration was done"));
}

static const Oid attach_types[] = {REGCLASSOID, JSONBOID, NAMEOID, TEXTOID, TEXTARRAYOID};

static void
attach(FunctionCallInfo fcinfo, bool really)
{
	ledger_arg_required(fcinfo, 0, "legacy");
	ledger_arg_required(fcinfo, 2, "key_column");
	ledger_arg_required(fcinfo, 3, "capture");
	if (really)
		check_may_change(PG_GETARG_OID(0), "ledger.attach_legacy()");
	else
		ledger_legacy_check_owner(PG_GETARG_OID(0));
	InitMaterializedSRF(fcinfo, 0);
	run_for_caller(fcinfo, "SELECT * FROM ledger.legacy_attach($1, $2, $3, $4, $5, $6, $7)",
				   attach_types, really);
	if (really)
		begin_anew();
}

PG_FUNCTION_INFO_V1(ledger_attach_legacy);

Datum
ledger_attach_legacy(PG_FUNCTION_ARGS)
{
	attach(fcinfo, true);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(ledger_legacy_preflight);

Datum
ledger_legacy_preflight(PG_FUNCTION_ARGS)
{
	attach(fcinfo, false);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(ledger_detach_legacy);

Datum
ledger_detach_legacy(PG_FUNCTION_ARGS)
{
	static const Oid types[] = {REGCLASSOID};

	ledger_arg_required(fcinfo, 0, "legacy");
	check_may_change(PG_GETARG_OID(0), "ledger.detach_legacy()");
	run_for_caller(fcinfo, "SELECT ledger.legacy_detach($1, $2) WHERE $3", types, true);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(ledger_configure_capture);

Datum
ledger_configure_capture(PG_FUNCTION_ARGS)
{
	static const Oid types[] = {REGCLASSOID, TEXTOID, TEXTOID};

	ledger_arg_required(fcinfo, 0, "legacy");
	ledger_arg_required(fcinfo, 1, "capture");
	ledger_arg_required(fcinfo, 2, "reason");
	(void) ledger_arg_reason_text(fcinfo, 2);
	check_may_change(PG_GETARG_OID(0), "ledger.configure_capture()");
	run_for_caller(fcinfo, "SELECT ledger.legacy_configure_capture($1, $2, $3, $4) WHERE $5",
				   types, true);
	PG_RETURN_VOID();
}

static void
raise_no_table(Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("there is no table with the OID %u", relid),
			 errhint("Pass the name of a table.")));
}

/*
 * One value, as text, of the rows for which a condition holds; NULL: SQL NULL.
 * As the table's owner: the caller is the extension's owner, and what runs on
 * the table must not run with his rights.
 */
static char *
ask_table(Oid relid, const char *expression, const char *condition)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *name;
	OwnerContext saved;
	char	   *value;

	/* whoever drops or renames it meanwhile waits */
	LockRelationOid(relid, AccessShareLock);
	if (get_rel_name(relid) == NULL)
		raise_no_table(relid);
	name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
	ledger_become_reader(&saved, ledger_table_owner(relid), "pg_catalog, pg_temp");
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(psprintf("SELECT %s FROM %s%s AS t WHERE %s", expression,
							 get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ",
							 name, condition),
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the rows of %s", name);
	value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (value)
		value = MemoryContextStrdup(context, value);
	SPI_finish();
	ledger_unbecome(&saved);
	return value;
}

PG_FUNCTION_INFO_V1(ledger_legacy_count);

Datum
ledger_legacy_count(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(pg_strtoint64(ask_table(PG_GETARG_OID(0), "pg_catalog.count(*)",
										   text_to_cstring(PG_GETARG_TEXT_PP(1)))));
}

PG_FUNCTION_INFO_V1(ledger_legacy_ask);

Datum
ledger_legacy_ask(PG_FUNCTION_ARGS)
{
	char	   *value = ask_table(PG_GETARG_OID(0), text_to_cstring(PG_GETARG_TEXT_PP(1)),
								  text_to_cstring(PG_GETARG_TEXT_PP(2)));

	if (value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(value));
}

PG_FUNCTION_INFO_V1(ledger_legacy_equality);

Datum
ledger_legacy_equality(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	AttrNumber	attnum = get_attnum(relid, text_to_cstring(PG_GETARG_TEXT_PP(1)));

	if (attnum == InvalidAttrNumber)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(ledger_legacy_equals(get_atttype(relid, attnum))));
}

/* Locks settings and table against writers. */
PG_FUNCTION_INFO_V1(ledger_legacy_lock);

Datum
ledger_legacy_lock(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);

	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		ledger_settings_lock_exclusive(PG_GETARG_INT64(1), relid);
	/* it may have been dropped while we waited */
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		raise_no_table(relid);
	PG_RETURN_VOID();
}

/* ---- settings -------------------------------------------------------------------------- */

static char *
deferred_checks(const LegacyTable *table)
{
	Oid			type = REGCLASSOID;
	Datum		value = ObjectIdGetDatum(table->relid);
	MemoryContext context = CurrentMemoryContext;
	OwnerContext saved;
	char	   *names = NULL;

	ledger_spi_as_owner(&saved, "legacy_mappings");
	if (SPI_execute_with_args("SELECT ledger.legacy_deferred($1)", 1, &type, &value, NULL,
							  true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for deferred checks");
	names = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (names)
		names = MemoryContextStrdup(context, names);
	ledger_spi_done(&saved);
	return names;
}

/*
 * What is checked at commit fails outside any subtransaction, so it could not
 * be contained: strict mode must be on while shadow mode is.
 */
void
ledger_legacy_check_settings(const LedgerSettings *new)
{
	ListCell   *lc;

	if (!new->shadow_mode || new->strict_mode)
		return;
	foreach(lc, ledger_legacy_tables())
	{
		LegacyTable *table = lfirst(lc);
		char	   *names = table->gone ? NULL : deferred_checks(table);

		if (names)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("strict mode cannot be off in shadow mode while legacy table %s has deferrable checks",
							table->name),
					 errdetail("These are checked at commit, where a failing legacy write cannot be contained: %s.",
							   names),
					 errhint("Make them not deferrable, or turn strict mode on.")));
	}
}

PG_FUNCTION_INFO_V1(ledger_legacy_changed);

/* AFTER STATEMENT trigger of the mappings: every session reads them anew. */
Datum
ledger_legacy_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("legacy_changed() must be called as a trigger")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}
