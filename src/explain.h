/*
 * explain.h
 *		What explain_discrepancy() reasons from: one user, one legacy table.
 *
 * All of it lives in the memory of one call's SPI connection.
 */
#ifndef LEDGER_EXPLAIN_H
#define LEDGER_EXPLAIN_H

#include "nodes/execnodes.h"

#include "compare.h"

#define EXPLAIN_MAX_ROWS	1000	/* postings and writes that are looked at */
#define EXPLAIN_MAX_SUBSET	20		/* items of which sums are tried */
#define EXPLAIN_NEAR		(10 * USECS_PER_SEC)	/* what belongs together */
#define EXPLAIN_TWINS		(5 * 60 * USECS_PER_SEC)	/* a request sent twice */

/*
 * What changed one column on one side: a posting, all of a transaction
 * together, or a captured write. Postings that the mirror has written changed
 * both; the others, and writes, are what differences are made of.
 */
typedef struct ExplainItem
{
	bool		is_write;
	int64		id;				/* transaction, or legacy_writes.id */
	int64		order;			/* transaction; of a write the last one before it */
	int			column;			/* -1: the write changed no mapped column */
	Numeric		change;			/* of its own side */
	TimestampTz at;
	uint64		xact;			/* 0: not known */
	const char *type;			/* of a transaction; kind of a write */

	/* of a posting */
	bool		mirrored;		/* was to be, and no failure is known */
	bool		failed;
	bool		may_have_failed;	/* one of several, which is not known */
	int64		reverses;		/* a repair; 0: none */
	const char *sameness;		/* NULL: has a key */
	const char *note;			/* of its failure */

	/* of a write */
	Numeric		before;			/* NULL: none */
	Numeric		after;
	bool		row_gone;
	const char *operation;
	const char *who;
	TimestampTz xact_start;
	int			absolute;		/* 1: sets a value, 0: adds to it, -1: not known */
	Numeric    *numbers;		/* in the value's expression */
	int			nnumbers;

	/* what it comes to */
	bool		counts;			/* since the sides agreed, on one side alone */
	bool		settled;		/* made good by another; no part of the difference */
	const char *cause;
	char	   *detail;
	Numeric		part;			/* of the difference */
	int64		transaction_id; /* shown; 0: none */
} ExplainItem;

/* A row of discrepancy_rows. */
typedef struct ExplainFinding
{
	int			column;			/* -1: of the whole row */
	const char *cause;
	const char *source;
	const char *error_code;		/* NULL: none */
	const char *note;
	TimestampTz first_seen;
	TimestampTz last_seen;
	int64		count;
	Numeric		ledger_value;	/* as last seen; NULL: not known */
} ExplainFinding;

typedef struct Explain
{
	ReturnSetInfo *rsinfo;
	pg_uuid_t	user_id;
	const LegacyTable *table;
	CompareColumn *columns;		/* of the table */
	int			ncolumns;
	ExplainItem *items;			/* as they happened */
	int			nitems;
	ExplainFinding *findings;	/* by first_seen */
	int			nfindings;
	const char *capture_doubt;	/* NULL: none */
	uint64		altered;		/* the transaction that gives cause to it; 0: it goes on */

	/* the sides agreed after these */
	int64		since_transaction[LEDGER_MAX_LEGACY_COLUMNS];
	int64		since_write[LEDGER_MAX_LEGACY_COLUMNS];
	const char *since_what[LEDGER_MAX_LEGACY_COLUMNS];
} Explain;

/* explain_evidence.c: fills in all but the verdicts. Within an SPI connection. */
extern void ledger_explain_read(Explain *explain);

/* Looks for the other user of an item; false: none, or several. */
extern bool ledger_explain_other_user(const Explain *explain, const ExplainItem *item,
									  const char **other, int64 *id);

/* explain_match.c: which items count, what settles what, and their causes. */
extern void ledger_explain_match(Explain *explain);
extern bool ledger_explain_twins(const ExplainItem *a, const ExplainItem *b);

/* amounts */
extern int	ledger_explain_scale(Numeric n);
extern Numeric ledger_explain_times(Numeric n, int factor);
extern bool ledger_explain_is_rounded(Numeric exact, Numeric rounded);
extern bool ledger_explain_is_other_unit(Numeric a, Numeric b);

#endif							/* LEDGER_EXPLAIN_H */
