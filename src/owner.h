/*
 * owner.h
 *		Run SQL as the owner of a table, the way foreign-key triggers do.
 */
#ifndef LEDGER_OWNER_H
#define LEDGER_OWNER_H

typedef struct OwnerContext
{
	Oid			user;
	int			security;
	int			guc_level;
	bool		reader;			/* settings of the owner's are not kept */
} OwnerContext;

extern Oid	ledger_table_owner(Oid relid);
extern void ledger_become(OwnerContext *saved, Oid role);

/* The same, to read the owner's table: what he could leave behind is refused. */
extern void ledger_become_reader(OwnerContext *saved, Oid role, const char *search_path);

/* The same, to write it: its triggers may do what they do elsewhere. */
extern void ledger_become_writer(OwnerContext *saved, Oid role, const char *search_path);
extern void ledger_unbecome(const OwnerContext *saved);

#endif							/* LEDGER_OWNER_H */
