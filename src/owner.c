/*
 * owner.c
 *		Run SQL as the owner of a table, the way foreign-key triggers do.
 *
 * Between become and unbecome the role, the search_path (pg_catalog, pg_temp,
 * or what is given) and row_security (off: an error, not a filter; as it is
 * for a writer) are fixed. An error in between needs no clean-up: abort
 * restores all three.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/syscache.h"

#include "owner.h"
#include "store.h"

Oid
ledger_table_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

static void
become(OwnerContext *saved, Oid role, int security, const char *search_path)
{
	GetUserIdAndSecContext(&saved->user, &saved->security);
	SetUserIdAndSecContext(role, saved->security | security | SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_NOFORCE_RLS);
	saved->reader = (security & SECURITY_RESTRICTED_OPERATION) != 0;
	saved->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", search_path, PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

static void
no_row_security(void)
{
	(void) set_config_option("row_security", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

void
ledger_become(OwnerContext *saved, const char *relation)
{
	become(saved, ledger_table_owner(ledger_relation_oid(relation)), 0, "pg_catalog, pg_temp");
	no_row_security();
}

/*
 * To read a table a function of its owner's may be run, which has no business
 * with what outlasts it: settings of the session, events that fire at commit,
 * when the role is the session's again.
 */
void
ledger_become_reader(OwnerContext *saved, Oid role, const char *search_path)
{
	become(saved, role, SECURITY_RESTRICTED_OPERATION, search_path);
	no_row_security();
}

/* The caller may not choose what unqualified names mean in the owner's code. */
void
ledger_become_writer(OwnerContext *saved, Oid role, const char *search_path)
{
	become(saved, role, 0, search_path);
}

void
ledger_unbecome(const OwnerContext *saved)
{
	AtEOXact_GUC(!saved->reader, saved->guc_level);
	SetUserIdAndSecContext(saved->user, saved->security);
}

void
ledger_spi_as_owner(OwnerContext *saved, const char *relation)
{
	ledger_become(saved, relation);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

void
ledger_spi_done(const OwnerContext *saved)
{
	SPI_finish();
	ledger_unbecome(saved);
}
