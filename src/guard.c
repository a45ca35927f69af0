/*
 * guard.c
 *		Triggers that keep SQL off the ledger's own tables, and the event
 *		trigger that keeps a ledger with transactions from being dropped.
 *
 * The ledger's functions write through the table access method, which fires no
 * trigger: whenever guard() runs, SQL is writing. What it lets through is the
 * INSERT of a restore (COPY) and of the functions that write logs, but not the
 * logical apply worker's. Guards stop accidents, not owners: who owns a table
 * can disable its triggers. rearm() in guard.sql restores them.
 *
 * drop_guard() runs at ddl_command_start, because at sql_drop the event
 * trigger has gone with the extension. It must never be in the way of another
 * command: whatever is missing (extension, schema, table) means go on, and
 * who may not drop the extension is left to the command's own check.
 *
 * Locks: drop_guard() takes AccessShareLock on the journal for the look and,
 * when it is empty, first AccessExclusiveLock on the settings, which the drop
 * would take anyway and which every posting holds before all else: no posting
 * can be on its way to the journal then. Nothing is kept between calls.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "replication/logicalworker.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "errors.h"
#include "settings.h"
#include "worker.h"

PG_FUNCTION_INFO_V1(ledger_guard);
PG_FUNCTION_INFO_V1(ledger_drop_guard);

/* ---- DML ---------------------------------------------------------------------- */

/* What does rightly what was tried wrongly; tables not named are logs. */
static const char *
hint_for(const char *table)
{
	static const char *const hints[][2] = {
		{"journal", "Undo a transaction with ledger.reverse_transaction()."},
		{"account_stripes", "Move money with the ledger's functions; ledger.set_account_stripes() changes their number."},
		{"accounts", "Move money with the ledger's functions, undo a transaction with ledger.reverse_transaction()."},
		{"reservation_rows", "Give back what is reserved with ledger.release_reservation()."},
		{"settings", "Change the settings with ledger.configure()."},
		{"identity", "Call ledger.resume() in a copy that is the ledger from now on."},
		{"currencies", "Leave the rows where they are; account types rest on them."},
		{"account_types", "Leave the rows where they are; accounts rest on them."},
	};

	for (int i = 0; i < (int) lengthof(hints); i++)
	{
		if (strcmp(table, hints[i][0]) == 0)
			return hints[i][1];
	}
	return "Leave the row as it is; it is the record of what was done.";
}

static const char *
command_name(TriggerEvent event)
{
	return TRIGGER_FIRED_BY_INSERT(event) ? "INSERT" :
		TRIGGER_FIRED_BY_UPDATE(event) ? "UPDATE" :
		TRIGGER_FIRED_BY_DELETE(event) ? "DELETE" : "TRUNCATE";
}

static void
refuse_write(const TriggerData *trigger)
{
	const char *table = RelationGetRelationName(trigger->tg_relation);
	const char *command = command_name(trigger->tg_event);
	bool		applied = IsLogicalWorker();

	ereport(ERROR,
			(errcode(ERRCODE_LG_APPEND_ONLY),
			 errmsg("the ledger is append-only"),
			 applied ?
			 errdetail("Logical replication tried %s on ledger.%s.", command, table) :
			 errdetail("The command was %s on ledger.%s.", command, table),
			 applied ?
			 errhint("Leave schema ledger out of the publication.") :
			 errhint("%s", hint_for(table)),
			 errtable(trigger->tg_relation)));
}

/* BEFORE trigger for each row, or for TRUNCATE for each statement. */
Datum
ledger_guard(PG_FUNCTION_ARGS)
{
	const TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("guard() must be called as a trigger")));
	if (ledger_worker_trims && TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		return PointerGetDatum(trigger->tg_trigtuple);
	if (!TRIGGER_FIRED_BY_INSERT(trigger->tg_event) || IsLogicalWorker())
		refuse_write(trigger);
	return PointerGetDatum(trigger->tg_trigtuple);
}

/* ---- DROP --------------------------------------------------------------------- */

/*
 * The extension first, then what it cannot be without: its schema and the
 * extensions that it requires. Empty if there is no such extension.
 */
static List *
foundations(void)
{
	Oid			extension = get_extension_oid("ledger", true);
	List	   *list = NIL;
	ObjectAddress *address;
	Relation	depend;
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!OidIsValid(extension))
		return NIL;
	address = palloc(sizeof(ObjectAddress));
	ObjectAddressSet(*address, ExtensionRelationId, extension);
	list = lappend(list, address);

	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyInit(&key[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(ExtensionRelationId));
	ScanKeyInit(&key[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(depend, DependDependerIndexId, true, NULL, 2, key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);

		if (form->refclassid != ExtensionRelationId && form->refclassid != NamespaceRelationId)
			continue;
		address = palloc(sizeof(ObjectAddress));
		ObjectAddressSet(*address, form->refclassid, form->refobjid);
		list = lappend(list, address);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return list;
}

/* InvalidOid if the object has gone. */
static Oid
owner_of(const ObjectAddress *address)
{
	Relation	catalog = table_open(address->classId, AccessShareLock);
	HeapTuple	tuple = get_catalog_object_by_oid(catalog, get_object_attnum_oid(address->classId),
												  address->objectId);
	Oid			owner = InvalidOid;
	bool		isnull;

	if (HeapTupleIsValid(tuple))
		owner = DatumGetObjectId(heap_getattr(tuple, get_object_attnum_owner(address->classId),
											  RelationGetDescr(catalog), &isnull));
	table_close(catalog, AccessShareLock);
	return owner;
}

/* Whether DROP EXTENSION or DROP SCHEMA names the object. */
static bool
drop_names(const DropStmt *statement, const ObjectAddress *address)
{
	ListCell   *cell;

	if (statement->removeType !=
		(address->classId == ExtensionRelationId ? OBJECT_EXTENSION : OBJECT_SCHEMA))
		return false;
	foreach(cell, statement->objects)
	{
		const char *name = strVal(lfirst(cell));

		if (address->objectId == (address->classId == ExtensionRelationId ?
								  get_extension_oid(name, true) : get_namespace_oid(name, true)))
			return true;
	}
	return false;
}

static bool
drop_owned_names(const DropOwnedStmt *statement, Oid owner)
{
	ListCell   *cell;

	foreach(cell, statement->roles)
	{
		if (get_rolespec_oid(lfirst(cell), true) == owner)
			return true;
	}
	return false;
}

/*
 * Whether the command takes the extension with it, by a role that may do so.
 * Without CASCADE whatever else it names stays, because the extension is there.
 */
static bool
drops_ledger(Node *statement)
{
	List	   *list = foundations();
	ListCell   *cell;

	foreach(cell, list)
	{
		const ObjectAddress *address = lfirst(cell);
		Oid			owner = owner_of(address);
		bool		named = false;
		DropBehavior behavior = DROP_RESTRICT;

		if (IsA(statement, DropStmt))
		{
			named = drop_names((DropStmt *) statement, address);
			behavior = ((DropStmt *) statement)->behavior;
		}
		else if (IsA(statement, DropOwnedStmt))
		{
			named = drop_owned_names((DropOwnedStmt *) statement, owner);
			behavior = ((DropOwnedStmt *) statement)->behavior;
		}
		if (named && OidIsValid(owner) && has_privs_of_role(GetUserId(), owner) &&
			(behavior == DROP_CASCADE || cell == list_head(list)))
			return true;
	}
	return false;
}

/* A table of the ledger; InvalidOid if it, or the schema, has gone. */
static Oid
table_oid(const char *name)
{
	Oid			schema = get_namespace_oid("ledger", true);
	Oid			relid = OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;

	return OidIsValid(relid) && get_rel_relkind(relid) == RELKIND_RELATION ? relid : InvalidOid;
}

/* Whether the journal has a row, also one that is not committed yet. */
static bool
journal_has_rows(void)
{
	Oid			relid = table_oid("journal");
	Relation	journal = OidIsValid(relid) ? try_table_open(relid, AccessShareLock) : NULL;
	TupleTableSlot *slot;
	SnapshotData dirty;
	TableScanDesc scan;
	bool		found;

	if (journal == NULL)
		return false;
	slot = table_slot_create(journal, NULL);
	InitDirtySnapshot(dirty);
	scan = table_beginscan(journal, &dirty, 0, NULL);
	found = table_scan_getnextslot(scan, ForwardScanDirection, slot);
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(journal, AccessShareLock);
	return found;
}

/*
 * Looks twice: without holding anybody up, and if that found nothing again
 * when nobody can post any more.
 */
static bool
ledger_is_used(void)
{
	Oid			settings;

	if (journal_has_rows())
		return true;
	settings = table_oid("settings");
	if (OidIsValid(settings))
		LockRelationOid(settings, AccessExclusiveLock);
	return journal_has_rows();
}

Datum
ledger_drop_guard(PG_FUNCTION_ARGS)
{
	const EventTriggerData *event = (EventTriggerData *) fcinfo->context;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("drop_guard() must be called as an event trigger")));
	if (!ledger_allow_drop && drops_ledger(event->parsetree) && ledger_is_used())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot drop extension ledger while its journal has rows"),
				 errdetail("%s would delete every transaction.", GetCommandTagName(event->tag)),
				 errhint("SET ledger.allow_drop = on to delete the ledger for good.")));
	PG_RETURN_NULL();
}
