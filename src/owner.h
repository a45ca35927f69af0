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

/* Of a table of the extension's: of its own owner, that is. */
extern void ledger_become(OwnerContext *saved, const char *relation);

/* Of another table, to read it: what its owner could leave behind is refused. */
extern void ledger_become_reader(OwnerContext *saved, Oid role, const char *search_path);

/* The same, to write it: its triggers may do what they do elsewhere. */
extern void ledger_become_writer(OwnerContext *saved, Oid role, const char *search_path);
extern void ledger_unbecome(const OwnerContext *saved);

/* ledger_become() and SPI_connect(), and back. */
extern void ledger_spi_as_owner(OwnerContext *saved, const char *relation);
extern void ledger_spi_done(const OwnerContext *saved);

#endif							/* LEDGER_OWNER_H */
