/*
 * legacy.h
 *		The attached legacy tables: mapping, opening, one user's legacy row.
 */
#ifndef LEDGER_LEGACY_H
#define LEDGER_LEGACY_H

#include "account.h"
#include "executor/spi.h"
#include "posting.h"
#include "settings.h"

#define LEDGER_MAX_MAPPINGS			31	/* bits of accounts.opened */
#define LEDGER_MAX_LEGACY_COLUMNS	16	/* mapped columns of one table */
#define LEDGER_MAX_COLUMN_TYPES		8	/* account types summed in one column */

typedef enum LegacyCapture
{
	LEGACY_CAPTURE_RECORD, LEGACY_CAPTURE_REFUSE
} LegacyCapture;

/* SQL that is prepared once for each table and run as the table's owner. */
typedef enum LegacyPlan
{
	LEGACY_PLAN_LOCK,			/* locks the row of a key */
	LEGACY_PLAN_READ,			/* the mapped columns of a key */
	LEGACY_PLAN_UPDATE,			/* adds a delta to each column */
	LEGACY_PLAN_INSERT,			/* a missing row with full values */
	LEGACY_PLAN_SCAN,			/* every row, by key */
	LEGACY_PLANS
} LegacyPlan;

typedef struct LegacyColumn
{
	char		name[NAMEDATALEN];
	int			ntypes;
	char		types[LEDGER_MAX_COLUMN_TYPES][NAMEDATALEN];
	char		currency[16];	/* of its account types */
	int			display_digits;
	bool		limited;		/* a numeric(p,s) column */
	int			scale;			/* if limited */
} LegacyColumn;

typedef struct LegacyTable
{
	int			id;				/* of legacy_mappings: 1 to 31 */
	int			bit;			/* its bit in accounts.opened */
	Oid			relid;
	Oid			owner;
	char	   *name;			/* qualified and quoted */
	char	   *key_column;
	LegacyCapture capture;
	int			ncolumns;
	LegacyColumn columns[LEDGER_MAX_LEGACY_COLUMNS];
	char	   *sql[LEGACY_PLANS];
	SPIPlanPtr	plans[LEGACY_PLANS];	/* NULL: not prepared yet */
} LegacyTable;

/* One user's row in one legacy table; values in the mapping's order. */
typedef struct LegacyRow
{
	bool		found;
	bool		foreign_currency;	/* a constant of the mapping says otherwise */
	Numeric		values[LEDGER_MAX_LEGACY_COLUMNS];	/* NULL: SQL NULL */
} LegacyRow;

/* What a read shows of one account type instead of the ledger's value. */
typedef struct LegacyBalance
{
	const LedgerAccountType *type;
	Numeric		balance;		/* normalised */
} LegacyBalance;

extern void ledger_legacy_init(void);

/*
 * The attached tables in the order of their ids; NIL: none. Right once the
 * settings lock is held, or as of the last processed invalidation for a read.
 * Pointers stay good to the end of the transaction.
 */
extern List *ledger_legacy_tables(void);
extern LegacyTable *ledger_legacy_table_of(Oid relid);

/*
 * For configure(), under its lock, before the new settings are stored: raises
 * 55000 if what is attached does not allow them.
 */
extern void ledger_legacy_check_settings(const LedgerSettings *settings);

/*
 * For a read of one user, under the active snapshot; accounts are all that he
 * has, lowest id first, read with the same snapshot. With shadow mode on it
 * compares first: a difference is a WARNING and a line in the log, with strict
 * mode LG003. Then, if the balances are to be read from the legacy row (source
 * legacy, or a row from which the user is not opened yet), returns how many
 * account types it puts into *list, palloc'd; 0: the ledger's values stand.
 * Account types of the mapping that the user has no account of are in it too.
 * Writes nothing; works on a standby.
 */
extern int	ledger_legacy_read(const pg_uuid_t *user_id,
							   const LedgerAccount *accounts, int naccounts,
							   const LedgerSettings *settings,
							   LegacyBalance **list);

/* Below: for mirror.c, capture.c, compare.c and reconcile.c. */

/* The ledger's value of one column: the sum over its account types. */
extern Numeric ledger_legacy_ledger_value(const LegacyColumn *column,
										  const LedgerAccount *accounts, int naccounts);
extern bool ledger_legacy_is_opened(const LegacyTable *table,
									const LedgerAccount *accounts, int naccounts);

/* Runs a plan as the table's owner inside SPI; returns what SPI does. */
extern int	ledger_legacy_execute(LegacyTable *table, LegacyPlan plan, Datum *values,
								  char *nulls, bool read_only, long limit);

/* The legacy row of one user under the active snapshot, not locked. */
extern void ledger_legacy_fetch(LegacyTable *table, const pg_uuid_t *user_id, LegacyRow *row);

/* Opens the user from his row, whose lock is held, unless that is done. */
extern void ledger_legacy_open_user(LegacyTable *table, const pg_uuid_t *user_id);

#endif							/* LEDGER_LEGACY_H */
