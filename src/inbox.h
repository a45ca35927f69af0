/*
 * inbox.h
 *		SQL's two ways to a batch: post_batch() and the table ledger.inbox.
 */
#ifndef LEDGER_INBOX_H
#define LEDGER_INBOX_H

extern void ledger_inbox_init(void);

#endif							/* LEDGER_INBOX_H */
