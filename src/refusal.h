/*
 * refusal.h
 *		Why a request is refused, as a value.
 *
 * A check that single calls and batches share returns what it would raise:
 * a single call raises it, a batch may keep it as the result of an item. So
 * each error is worded in one place.
 */
#ifndef LEDGER_REFUSAL_H
#define LEDGER_REFUSAL_H

typedef struct LedgerRefusal
{
	int			sqlstate;
	const char *message;
	const char *detail;			/* NULL: none */
	const char *hint;			/* NULL: none */
} LedgerRefusal;

/* In the current context; the texts are not copied. */
extern LedgerRefusal *ledger_refusal(int sqlstate, const char *message, const char *detail,
									 const char *hint);

/* Raises it; NULL is no refusal. */
extern void ledger_refusal_raise(const LedgerRefusal *refusal);

#endif							/* LEDGER_REFUSAL_H */
