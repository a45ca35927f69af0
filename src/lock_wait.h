/*
 * lock_wait.h
 *		Waits for a lock for so long and no longer.
 */
#ifndef LEDGER_LOCK_WAIT_H
#define LEDGER_LOCK_WAIT_H

/*
 * Calls take, which waits for locks; false if one of them took longer than
 * timeout_ms, and then nothing that it did stands. Raises whatever else it does.
 */
extern bool ledger_lock_within(int timeout_ms, void (*take) (const void *arg), const void *arg);

#endif							/* LEDGER_LOCK_WAIT_H */
