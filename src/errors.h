/*
 * errors.h
 *		SQLSTATEs of class LG.
 *
 * Each error has a message with the values in it, a DETAIL with the facts and
 * a HINT with one action. docs/errors.md says which may be retried.
 */
#ifndef LEDGER_ERRORS_H
#define LEDGER_ERRORS_H

#define ERRCODE_LG_INSUFFICIENT_FUNDS	MAKE_SQLSTATE('L', 'G', '0', '0', '1')
#define ERRCODE_LG_IDEMPOTENCY_CONFLICT MAKE_SQLSTATE('L', 'G', '0', '0', '2')
#define ERRCODE_LG_DISCREPANCY			MAKE_SQLSTATE('L', 'G', '0', '0', '3')
#define ERRCODE_LG_ACCOUNT_NOT_OPEN		MAKE_SQLSTATE('L', 'G', '0', '0', '4')
#define ERRCODE_LG_LEGACY_FROZEN		MAKE_SQLSTATE('L', 'G', '0', '0', '5')
#define ERRCODE_LG_GATE_NOT_MET			MAKE_SQLSTATE('L', 'G', '0', '0', '6')
#define ERRCODE_LG_APPEND_ONLY			MAKE_SQLSTATE('L', 'G', '0', '0', '7')
#define ERRCODE_LG_NO_RESERVATION		MAKE_SQLSTATE('L', 'G', '0', '0', '8')
#define ERRCODE_LG_INVALID_AMOUNT		MAKE_SQLSTATE('L', 'G', '0', '0', '9')
#define ERRCODE_LG_NOT_ALLOWED			MAKE_SQLSTATE('L', 'G', '0', '1', '0')
#define ERRCODE_LG_NOT_REVERSIBLE		MAKE_SQLSTATE('L', 'G', '0', '1', '1')

#endif							/* LEDGER_ERRORS_H */
