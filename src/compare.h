/*
 * compare.h
 *		One user, both sides, one snapshot; and the proof at commit.
 */
#ifndef LEDGER_COMPARE_H
#define LEDGER_COMPARE_H

#include "legacy.h"

typedef enum CompareStatus
{
	COMPARE_MATCH,
	COMPARE_MISMATCH,
	COMPARE_PENDING,			/* differs, but this transaction is at work on it */
	COMPARE_MISSING_LEGACY,
	COMPARE_MISSING_LEDGER,		/* a legacy row and no opening yet */
	COMPARE_NON_FINITE
} CompareStatus;

typedef struct CompareColumn
{
	const LegacyTable *table;
	const LegacyColumn *column;
	Numeric		ledger_value;	/* normalised; zero if he has no account */
	Numeric		legacy_value;	/* NULL: no row, or SQL NULL; counts as zero */
	Numeric		difference;		/* ledger - legacy; NULL: not finite */
	CompareStatus status;
} CompareColumn;

extern void ledger_compare_init(void);
extern const char *ledger_compare_status_name(CompareStatus status);

/*
 * Compares one row with the user's accounts, both read with one snapshot.
 * columns has room for all of the table's; returns how many it fills.
 */
extern int	ledger_compare_row(const LegacyTable *table, const pg_uuid_t *user_id,
							   const LedgerAccount *accounts, int naccounts,
							   const LegacyRow *row, CompareColumn *columns);

/*
 * Whether they agree in every column, or in those whose change is not NULL:
 * the usual case, told without working out what would be said of a difference.
 */
extern bool ledger_compare_agrees(const LegacyTable *table, const LedgerAccount *accounts,
								  int naccounts, const LegacyRow *row, const Numeric *changes);

/* Counts one compare of a row that does not agree by what its columns say. */
extern void ledger_compare_count(const CompareColumn *columns, int ncolumns);

/* All attached tables under the active snapshot; *columns is palloc'd. */
extern int	ledger_compare_user(const pg_uuid_t *user_id, CompareColumn **columns);

/*
 * Tells of what does not match, if anything: a WARNING, and a line in the
 * server log whatever log_min_messages says; or raises LG003. Pending is
 * passed over.
 */
extern void ledger_compare_report(const pg_uuid_t *user_id, const CompareColumn *columns,
								  int ncolumns, bool raise);

/* Tells that a row agrees, at the level of ledger.log_in_sync. */
extern void ledger_compare_tell_in_sync(const pg_uuid_t *user_id);

/*
 * Leaves evidence of what does not match in the ring, if there is one: of what
 * ledger_compare_report() tells or raises, or the proof at commit, which goes
 * for pending columns too.
 */
extern void ledger_compare_leave_evidence(const pg_uuid_t *user_id, const CompareColumn *columns,
										  int ncolumns, bool raise, const char *source);

/*
 * The users that this transaction has posted for; a rolled back savepoint
 * takes its own with it. Under strict mode each is proved at commit.
 */
extern void ledger_compare_touch(const pg_uuid_t *user_id, const LedgerSettings *settings);
extern bool ledger_compare_touched(const pg_uuid_t *user_id);

/*
 * Leaves one finding in the ring of evidence; where there is none it stores
 * it, as the extension's owner: one open row for each user,
 * column and cause. cause NULL: the column's status is it. column->difference
 * is not looked at. error_code and note may be NULL.
 */
extern void ledger_discrepancy_store(const pg_uuid_t *user_id, const CompareColumn *column,
									 const char *cause, const char *source,
									 const char *error_code, const char *note);

#endif							/* LEDGER_COMPARE_H */
