/*
 * settings.h
 *		The settings in force, the lock that holds them still, and the GUCs.
 */
#ifndef LEDGER_SETTINGS_H
#define LEDGER_SETTINGS_H

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

extern void ledger_settings_init(void);

/* For a posting: takes the lock to the end of the transaction. */
extern const LedgerSettings *ledger_settings_lock(void);

/* For a read. */
extern const LedgerSettings *ledger_settings_get(void);

/* Whether postings write the legacy row under these settings. */
extern bool ledger_settings_mirrors(const LedgerSettings *settings);

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

#endif							/* LEDGER_SETTINGS_H */
