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

/* Values of the session's own GUCs; inherit means what the row says. */
typedef enum LedgerStrictGuc
{
	LEDGER_STRICT_INHERIT, LEDGER_STRICT_OFF, LEDGER_STRICT_ON
} LedgerStrictGuc;

typedef enum LedgerSourceGuc
{
	LEDGER_SOURCE_INHERIT, LEDGER_SOURCE_LEDGER, LEDGER_SOURCE_LEGACY
} LedgerSourceGuc;

typedef enum LedgerCaptureGuc
{
	LEDGER_CAPTURE_INHERIT, LEDGER_CAPTURE_RECORD, LEDGER_CAPTURE_POST, LEDGER_CAPTURE_REFUSE
} LedgerCaptureGuc;

extern int	ledger_capture;		/* LedgerCaptureGuc of this session */
extern bool ledger_allow_drop;
extern bool ledger_legacy_fast_path;

extern void ledger_settings_init(void);

/* For a posting: takes the lock to the end of the transaction. */
extern const LedgerSettings *ledger_settings_lock(void);

/* For a read: AccessShareLock, released at once. */
extern const LedgerSettings *ledger_settings_get(void);

/* Whether the mirror writes the legacy row under these settings. */
extern bool ledger_settings_mirrors(const LedgerSettings *settings);

#endif							/* LEDGER_SETTINGS_H */
