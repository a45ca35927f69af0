/*
 * settings.h
 *		The settings in force, the lock that holds them still, and the GUCs.
 */
#ifndef LEDGER_SETTINGS_H
#define LEDGER_SETTINGS_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

#include "identity.h"

typedef enum LedgerPhase
{
	LEDGER_MIGRATING,
	LEDGER_CUT_OVER,
	LEDGER_RETIRED
} LedgerPhase;

typedef struct LedgerSettings
{
	bool		shadow_mode;
	bool		strict_mode;
	bool		source_legacy;	/* balance_source = 'legacy' */
	LedgerPhase phase;
	bool		has_test_clock;
	Interval	test_clock;		/* what ledger.clock() adds */
	LedgerIdentity identity;	/* not a setting: whether this is a copy */
} LedgerSettings;

typedef enum LedgerCaptureGuc
{
	LEDGER_CAPTURE_INHERIT, LEDGER_CAPTURE_RECORD, LEDGER_CAPTURE_POST, LEDGER_CAPTURE_REFUSE
} LedgerCaptureGuc;

extern int	ledger_capture;		/* LedgerCaptureGuc of this session */
extern bool ledger_allow_drop;

/*
 * Raises if the attached tables do not allow the new settings. Called under
 * the lock, before they are stored. Set once, by legacy.c.
 */
extern void (*ledger_settings_check) (const LedgerSettings *settings);

/* Whether there are attached tables. Set once, by legacy.c. */
extern bool (*ledger_settings_has_legacy) (void);

extern void ledger_settings_init(void);

/* For a posting: takes the lock to the end of the transaction. */
extern const LedgerSettings *ledger_settings_lock(void);

/* For a read. */
extern const LedgerSettings *ledger_settings_get(void);

/* Whether postings write the legacy row under these settings. */
extern bool ledger_settings_mirrors(const LedgerSettings *settings);

/* The row itself, whatever the session's GUCs say. */
extern const LedgerSettings *ledger_settings_row(void);

/* The same as of the last processed invalidation, without a lock. */
extern const LedgerSettings *ledger_settings_peek(void);

/*
 * Shadow mode off, source legacy, a table attached: the emergency in which the
 * old code alone moves money.
 */
extern bool ledger_settings_legacy_only(const LedgerSettings *settings);

/* Every session reads the row anew. */
extern void ledger_settings_invalidate(void);

/* Stores them, and logs them too; the lock is held exclusively. reason may be NULL. */
extern void ledger_settings_store(const LedgerSettings *settings);
extern void ledger_settings_change(const LedgerSettings *settings, text *reason);

/* Whether this database transaction has posted (taken the settings' lock). */
extern bool ledger_has_posted(void);

/* Whether it has changed them, so that no posting may follow. */
extern bool ledger_has_configured(void);

/*
 * Excludes every posting to the end of the transaction, and with a legacy table
 * also who writes that; waits in slices, and names the blockers when lock_wait
 * is over (55P03). 25001 after a posting. Without a legacy table the settings
 * are about to change: no posting may follow.
 */
extern void ledger_settings_lock_exclusive(int64 lock_wait_ms, Oid legacy);

/* How the locks were got. */
typedef struct SettingsLocked
{
	double		waited_ms;
	double		longest_ms;		/* the longest that others queued behind us */
	char	   *blockers;		/* who was in the way last; NULL: nobody */
} SettingsLocked;

/*
 * The same with any number of tables, of an Oid list, locked in this mode
 * after the settings. changes: the settings are about to change. result may be
 * NULL.
 */
extern void ledger_settings_lock_tables(int64 lock_wait_ms, const List *tables, LOCKMODE mode,
										bool changes, SettingsLocked *result);

#endif							/* LEDGER_SETTINGS_H */
