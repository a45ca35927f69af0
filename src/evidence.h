/*
 * evidence.h
 *		What was found to be wrong, in shared memory until the worker stores it.
 */
#ifndef LEDGER_EVIDENCE_H
#define LEDGER_EVIDENCE_H

#include "access/transam.h"
#include "datatype/timestamp.h"
#include "utils/numeric.h"
#include "utils/uuid.h"

/* ---- for whoever finds something ------------------------------------------------ */

typedef struct Evidence
{
	int			mapping;		/* legacy_mappings.id */
	const pg_uuid_t *user_id;	/* NULL: of all users */
	const char *column;			/* "*": of the whole row */
	const char *cause;
	const char *source;
	Numeric		ledger_value;	/* NULL: none */
	Numeric		legacy_value;
	const char *error_code;		/* NULL: none */
	const char *note;			/* likewise */
} Evidence;

/*
 * Whether this database has a ring: the library is preloaded, and
 * ledger.databases names it. Looks in the catalog the first time, so whoever
 * calls ledger_evidence_put() while an error is handled asks this before.
 */
extern bool ledger_evidence_active(void);

/*
 * Leaves evidence in the ring of this database, which is active. Writes no
 * table and raises nothing: for reads, callbacks before commit, a standby.
 * What finds no room is counted as lost.
 */
extern void ledger_evidence_put(const Evidence *evidence);

/* ---- for the worker -------------------------------------------------------------- */

#define EVIDENCE_MAX_NAME	24
#define EVIDENCE_MAX_VALUE	96	/* bytes of a numeric: more than 170 digits */
#define EVIDENCE_MAX_NOTE	200
#define EVIDENCE_MAX_XIDS	8	/* transactions told apart in one entry */
#define EVIDENCE_SLICE		128 /* entries that are stored together */

/* What is one entry, and one open row; compared as bytes. */
typedef struct EvidenceKey
{
	pg_uuid_t	user_id;
	Oid			table;			/* discrepancy_rows of the extension that found it */
	int16		mapping;
	bool		has_user;
	char		cause[EVIDENCE_MAX_NAME];
	char		column[NAMEDATALEN];
} EvidenceKey;

typedef struct EvidenceXid
{
	FullTransactionId xid;
	int64		count;
} EvidenceXid;

typedef struct EvidenceEntry
{
	EvidenceKey key;
	int			index;			/* its place */
	int			next;			/* in its bucket, or in the free list; -1: none */
	bool		used;			/* false: a free place */
	bool		linked;			/* in its bucket: it takes what is found next */
	TimestampTz first_seen;
	TimestampTz last_seen;
	int64		none;			/* seen by transactions without an xid */
	int64		committed;		/* by such as are known to have ended so */
	int64		aborted;
	int			nxids;			/* by those whose end is not known yet */
	EvidenceXid xids[EVIDENCE_MAX_XIDS];
	/* as last seen */
	char		source[EVIDENCE_MAX_NAME];
	char		error_code[6];	/* empty: none */
	char		note[EVIDENCE_MAX_NOTE];	/* likewise */
	bool		has_ledger_value;
	bool		has_legacy_value;
	int32		ledger_value[EVIDENCE_MAX_VALUE / sizeof(int32)];
	int32		legacy_value[EVIDENCE_MAX_VALUE / sizeof(int32)];
} EvidenceEntry;

/* What found no room since the worker stored it last; count 0: nothing. */
typedef struct EvidenceLoss
{
	int64		count;
	TimestampTz first_at;
	TimestampTz last_at;
} EvidenceLoss;

extern void ledger_evidence_init(void);

/* How many databases have been named; before there are rings. */
extern int	ledger_evidence_wanted(void);

/* The rings, numbered from 0; a name is as ledger.databases has it. */
extern int	ledger_evidence_databases(void);
extern const char *ledger_evidence_database(int ring);
extern int	ledger_evidence_worker(int ring);	/* pid; 0: none */

/*
 * The worker's own: it is the ring's one consumer from attach to detach,
 * which is called at its exit. attach returns false if there is one already.
 * claim, once it is connected, ties the ring to the database.
 */
extern bool ledger_evidence_attach(int ring);
extern void ledger_evidence_claim(void);

extern int	ledger_evidence_consumed(void);	/* the ring */

/* Changes if the ring may have lost what it held, a crash for example. */
extern int64 ledger_evidence_incarnation(void);

/*
 * Copies up to max entries (EVIDENCE_SLICE at most) first seen before the time, and what was
 * lost. If that is anything, the caller stores it, commits, and calls stored, or
 * cancel. If the server stops in between, the rings do not outlive it, so
 * nothing is stored twice.
 */
extern int	ledger_evidence_take(EvidenceEntry *copies, int max, TimestampTz before,
								 EvidenceLoss *loss);
extern void ledger_evidence_stored(const EvidenceLoss *loss);
extern void ledger_evidence_cancel(void);

/* Whether so much is there that it should not wait. */
extern bool ledger_evidence_is_pressing(void);

/* How often what the entry says was found. */
extern int64 ledger_evidence_occurrences(const EvidenceEntry *entry);

#endif							/* LEDGER_EVIDENCE_H */
