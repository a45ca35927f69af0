/*
 * legacy.h
 *		The attached legacy tables: mapping, one user's legacy row, reads.
 */
#ifndef LEDGER_LEGACY_H
#define LEDGER_LEGACY_H

#include "nodes/pg_list.h"
#include "utils/relcache.h"
#include "posting.h"

#define LEDGER_MAX_MAPPINGS			31	/* bits of accounts.opened */
#define LEDGER_MAX_LEGACY_COLUMNS	16	/* mapped columns of one table */
#define LEDGER_MAX_COLUMN_TYPES		8	/* account types summed in one column */

#define LEDGER_MAX_WHERE			4	/* columns of a condition */

/*
 * A mapped column. Its amounts are the ledger's everywhere but in SQL and in
 * tuples: what the column holds, times the unit.
 */
typedef struct LegacyColumn
{
	char		name[NAMEDATALEN];	/* as it is reported: with a condition column[value] */
	char		column[NAMEDATALEN];	/* of the table */
	AttrNumber	attnum;			/* InvalidAttrNumber: the table has lost it */
	Oid			type;			/* numeric, bigint, integer or smallint */
	Numeric		unit;			/* NULL: one */
	int			group;			/* of rows that it lives in */
	int			ntypes;
	char		types[LEDGER_MAX_COLUMN_TYPES][NAMEDATALEN];
	bool		limited;		/* a numeric(p,s) or an integer column */
	int			scale;			/* if limited */
} LegacyColumn;

/*
 * Rows of one condition, the same columns with other values for each group:
 * a user has at most one row in each. A table without conditions is one group.
 */
typedef struct LegacyGroup
{
	char	   *values[LEDGER_MAX_WHERE];	/* of LegacyTable.where */
} LegacyGroup;

typedef enum LegacyKeyKind
{
	LEGACY_KEY_UUID,
	LEGACY_KEY_TEXT,			/* holds a uuid */
	LEGACY_KEY_INTEGER,			/* ledger.integer_to_uuid() */
	LEGACY_KEY_FUNCTIONS		/* key_functions */
} LegacyKeyKind;

/* A column with one value for every row of ours; others it may have too. */
typedef struct LegacyConstant
{
	char	   *name;
	List	   *values;			/* of char *; the first is inserted */
} LegacyConstant;

typedef struct LegacyTable
{
	int			id;				/* of legacy_mappings: 1 to 31 */
	int			bit;			/* its bit in accounts.opened */
	Oid			relid;
	bool		gone;			/* dropped without detach_legacy() */
	Oid			owner;
	char	   *name;			/* qualified and quoted */
	bool		partitioned;	/* it is the root */
	char	   *key_column;
	AttrNumber	key_attnum;
	LegacyKeyKind key_kind;
	Oid			key_type;		/* InvalidOid: not of that kind any more */
	List	   *key_functions;	/* LEGACY_KEY_FUNCTIONS: two names */
	Oid			to_uuid;
	Oid			from_uuid;
	char	   *to_uuid_name;	/* qualified and quoted; NULL: not there */
	char	   *from_uuid_name;
	int			nwhere;			/* columns of the conditions; 0: none */
	char	   *where[LEDGER_MAX_WHERE];
	int			ngroups;
	LegacyGroup groups[LEDGER_MAX_LEGACY_COLUMNS];
	bool		has_updated_at;
	int			capture;		/* LedgerCaptureGuc */
	int			ncolumns;
	LegacyColumn columns[LEDGER_MAX_LEGACY_COLUMNS];
	List	   *constants;		/* of LegacyConstant * */
	int64		generation;		/* of the cache that it is part of */
} LegacyTable;

/*
 * One user's row in one legacy table, or his rows, one of each group; values
 * in the mapping's order.
 */
typedef struct LegacyRow
{
	uint32		groups;			/* a bit for each group that has a row */
	bool		found;			/* any of them */
	bool		foreign_constant;	/* a constant's column says otherwise */
	Numeric		values[LEDGER_MAX_LEGACY_COLUMNS];	/* NULL: SQL NULL */
} LegacyRow;

/* Whether the row that holds the column is there. */
static inline bool
ledger_legacy_has(const LegacyRow *row, const LegacyColumn *column)
{
	return (row->groups & (1 << column->group)) != 0;
}

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
/* NULL: it is not attached any more. */
extern LegacyTable *ledger_legacy_table_by_id(int id);
/* The table or, of a partitioned one, a partition of it at any depth; else NULL. */
extern LegacyTable *ledger_legacy_table_of(Oid relid);

/* Those that are compared: none once they are retired. */
extern List *ledger_legacy_compared(void);

/*
 * For a read of one user, under the active snapshot; accounts are all that he
 * has, lowest id first, read with the same snapshot. With shadow mode on it
 * compares first: a difference is a WARNING and a line in the log, with strict
 * mode LG003. Then, if the balances are to be read from the legacy row (source
 * legacy, or a row from which the user is not opened yet), returns how many
 * account types it puts into *list, palloc'd; 0: the ledger's values stand.
 * It lists the types whose values differ from the ledger's way of telling: the
 * first type of each mapped column, whether the user has such an account or
 * not. Writes nothing; works on a standby.
 */
extern int	ledger_legacy_read(const pg_uuid_t *user_id,
							   const LedgerAccount *accounts, int naccounts,
							   const LedgerSettings *settings,
							   LegacyBalance **list);

/* ---- for the other files of the legacy side -------------------------------- */

/* Raises 55000 if the table is not what the mapping says; NULL: it is. */
extern void ledger_legacy_check_table(const LegacyTable *table);
extern const char *ledger_legacy_what_is_missing(const LegacyTable *table);

/* The ledger's value of one column: the sum over its account types. */
extern Numeric ledger_legacy_ledger_value(const LegacyColumn *column,
										  const LedgerAccount *accounts, int naccounts);
/* Whether the account is one of them. */
extern bool ledger_legacy_counts(const LegacyColumn *column, const LedgerAccount *account);
extern bool ledger_legacy_maps(const LegacyColumn *column, const char *account_type);
extern int	ledger_legacy_display_digits(const LegacyColumn *column);
extern bool ledger_legacy_is_opened(const LegacyTable *table,
									const LedgerAccount *accounts, int naccounts);

/*
 * To which of the column's types the opening of this user posts: the first,
 * unless another table from which he is opened has a say in the column's
 * types (*shared); then the first that it has not, or -1: none.
 */
extern int	ledger_legacy_opening_type(const LegacyTable *table, const LegacyColumn *column,
									   const LedgerAccount *accounts, int naccounts,
									   bool *shared);

/* ---- legacy_key.c: keys ------------------------------------------------------------ */

/* The value of a plan's key parameter; false: no row can be this user's. */
extern bool ledger_legacy_key_param(const LegacyTable *table, const pg_uuid_t *user_id,
									Datum *value);
extern Oid	ledger_legacy_key_param_type(const LegacyTable *table);
extern void ledger_legacy_key_range(const LegacyTable *table, const pg_uuid_t *from,
									const pg_uuid_t *to, Datum *values);
/* The key itself, of the column's type, or bigint for an integer. */
extern bool ledger_legacy_key_value(const LegacyTable *table, const pg_uuid_t *user_id,
									Datum *value);

/* What a column of a condition, of that type, holds in the rows of a group. */
extern Datum ledger_legacy_condition_value(const LegacyTable *table, Oid type, const char *text);

/* Whose row a key is, of the column's type; raises 22P02 if that cannot be told. */
extern void ledger_legacy_key_user(const LegacyTable *table, Datum key, pg_uuid_t *user_id);

/* Order-preserving. false: the uuid is not one of these. */
extern void ledger_integer_as_uuid(int64 value, pg_uuid_t *uuid);
extern bool ledger_uuid_as_integer(const pg_uuid_t *uuid, int64 *value);

/* The operator = of a type for SQL, qualified. */
extern char *ledger_legacy_equals(Oid type);

/*
 * Whether the index is a unique one by which a row of a group is found: on the
 * key and columns of the condition alone. The relation may be a partition.
 */
extern bool ledger_legacy_is_key_index(const LegacyTable *table, Relation index);
extern bool ledger_legacy_is_in_order(Relation index);

/* ---- legacy_tuple.c: rows of the table, or of a partition, as tuples ----------------- */

/* false: json has in it what jsonb cannot hold, \u0000 for example. */
extern bool ledger_legacy_row_jsonb(const char *json, Datum *jsonb);

/* The group that the row is of; -1: of none. */
extern int	ledger_legacy_tuple_group(const LegacyTable *table, Relation relation, HeapTuple tuple);
/* Whose row it is; false: there is none, its key is NULL, or it is of no group. */
extern bool ledger_legacy_tuple_key(const LegacyTable *table, Relation relation,
									HeapTuple tuple, pg_uuid_t *user_id);
/* Whose row it would be if it were of a group; false: its key is NULL. */
extern bool ledger_legacy_tuple_owner(const LegacyTable *table, Relation relation,
									  HeapTuple tuple, pg_uuid_t *user_id);
/* The column of key, conditions or constants in which they differ; NULL: none. */
extern const char *ledger_legacy_tuple_turned(const LegacyTable *table, Relation relation,
											  HeapTuple before, HeapTuple after);
/* Whether any mapped column differs, whatever group the rows are of. */
extern bool ledger_legacy_tuple_moved(const LegacyTable *table, Relation relation,
									  HeapTuple before, HeapTuple after);
/* The amount of mapped column i (*value NULL: SQL NULL); false: not in this row. */
extern bool ledger_legacy_tuple_value(const LegacyTable *table, Relation relation,
									  HeapTuple tuple, int i, Numeric *value);
/* Forgets what is known of relations; called with the mappings. */
extern void ledger_legacy_tuple_forget(void);
extern bool ledger_legacy_tuple_knows(Oid relid);

/* Amounts and what a column holds; see legacy_tuple.c. */
extern Numeric ledger_legacy_amount(const LegacyColumn *column, Datum value);
extern Numeric ledger_legacy_column_value(const LegacyColumn *column, Numeric amount);

/*
 * SQL on the table, as its owner. Each is a plan kept by the backend; the
 * values of a row are palloc'd in the caller's context. Groups are told and
 * taken as bits. Rows are locked in the order of the groups.
 */
extern uint32 ledger_legacy_lock_row(LegacyTable *table, const pg_uuid_t *user_id);
extern uint32 ledger_legacy_lock_row_first(LegacyTable *table, const pg_uuid_t *user_id,
										   Snapshot snapshot, bool *moved);
extern void ledger_legacy_fetch(LegacyTable *table, const pg_uuid_t *user_id, LegacyRow *row);
extern void ledger_legacy_fetch_by_sql(LegacyTable *table, const pg_uuid_t *user_id,
									   LegacyRow *row);
extern void ledger_legacy_add(LegacyTable *table, const pg_uuid_t *user_id,
							  const Numeric *deltas, LegacyRow *row);
extern void ledger_legacy_set(LegacyTable *table, const pg_uuid_t *user_id,
							  const Numeric *values, LegacyRow *row);
/* Raises 22003 if the user cannot have a row. */
extern void ledger_legacy_check_user(const LegacyTable *table, const pg_uuid_t *user_id);
extern void ledger_legacy_insert(LegacyTable *table, const pg_uuid_t *user_id, int group,
								 const Numeric *values, LegacyRow *row);

/* A user's row as one of a chunk; not locked: somebody holds it. */
typedef struct LegacyChunkRow
{
	pg_uuid_t	user_id;
	bool		locked;
	LegacyRow	row;			/* the newest version, if locked */
} LegacyChunkRow;

typedef struct LegacyChunk
{
	LegacyChunkRow *rows;		/* as many as were asked for */
	int			nrows;
	pg_uuid_t	last;			/* the key to go on after */
	bool		at_end;			/* there are no more */
} LegacyChunk;

/*
 * The next rows in the order of the keys, up to one key, each locked unless
 * somebody holds it: waits for nobody's row. after NULL: from the first.
 */
extern void ledger_legacy_lock_chunk(LegacyTable *table, const pg_uuid_t *after,
									 const pg_uuid_t *until, int max, LegacyChunk *chunk);

/* The highest key; false: no rows. */
extern bool ledger_legacy_last_key(LegacyTable *table, pg_uuid_t *key);

/* Rows whose key is NULL: their ctids, and the rows as JSON text; how many. */
extern int	ledger_legacy_rows_without_key(LegacyTable *table, char ***places, char ***rows);

/*
 * Rows of none of the conditions: what they have in the conditions' columns, as
 * JSON text, and the same with their number and what they hold; how many of those.
 */
extern int	ledger_legacy_values_of_no_group(LegacyTable *table, char ***values, char ***totals);

/* A user's row as JSON text, as it stands in the table; NULL: none. */
extern char *ledger_legacy_row_json(LegacyTable *table, const pg_uuid_t *user_id);

/* The groups of the columns whose value is not NULL. */
extern uint32 ledger_legacy_groups_of(const LegacyTable *table, const Numeric *values);

/*
 * The rows of the users from the one to the other, both included, in the order
 * of the users, under the active snapshot.
 */
typedef struct LegacyScan LegacyScan;

extern LegacyScan *ledger_legacy_scan(LegacyTable *table, const pg_uuid_t *from,
									   const pg_uuid_t *to);
extern bool ledger_legacy_next(LegacyScan *scan, pg_uuid_t *user_id, LegacyRow *row);
extern void ledger_legacy_end(LegacyScan *scan);

/*
 * opening.c: opens a user who is not opened yet from his row, whose lock is
 * held. Accounts are his, read after the row was locked; the active snapshot
 * sees both. Raises 55000 if the ledger cannot hold what the row says.
 * Returns the transaction's id; 0: there was nothing to post.
 */
extern int64 ledger_opening_open(LegacyTable *table, const pg_uuid_t *user_id,
								 const LedgerAccount *accounts, int naccounts);

/*
 * The same as a request that is not posted, from a row that has been read;
 * NULL and the problem if the ledger cannot hold what it says. Postings are
 * the user's accounts' against opening_balance.
 */
typedef struct OpeningProblem
{
	const char *reason;			/* one word */
	const char *detail;			/* a sentence */
} OpeningProblem;

extern PostingRequest *ledger_opening_request(LegacyTable *table, const pg_uuid_t *user_id,
											  const LegacyRow *row,
											  const LedgerAccount *accounts, int naccounts,
											  OpeningProblem *problem);

/* The accounts that it would post to, added to another request's. */
extern void ledger_opening_accounts(LegacyTable *table, const pg_uuid_t *user_id,
									const LedgerAccount *accounts, int naccounts,
									PostingRequest *into);

/* attach.c: raises 42501 unless the caller can act for the table's owner. */
extern void ledger_legacy_check_owner(Oid relid);

/* attach.c: what configure() must not do to an attached table. */
extern void ledger_legacy_check_settings(const LedgerSettings *new);

#endif							/* LEDGER_LEGACY_H */
