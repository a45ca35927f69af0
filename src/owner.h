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
} OwnerContext;

extern Oid	ledger_table_owner(Oid relid);
extern void ledger_become(OwnerContext *saved, Oid role);
extern void ledger_unbecome(const OwnerContext *saved);

#endif							/* LEDGER_OWNER_H */
