/*
 * procedure.h
 *		Procedures that commit.
 */
#ifndef LEDGER_PROCEDURE_H
#define LEDGER_PROCEDURE_H

/*
 * Commits, in a procedure with SPI. Each statement of the transaction that begins
 * has a snapshot of its own, whatever the session's default is: what is read
 * under a lock must not be older than the lock.
 */
extern void ledger_procedure_commit(void);

#endif							/* LEDGER_PROCEDURE_H */
