/*
 * catch_up.h
 *		Repairs of many users, for the way back.
 */
#ifndef LEDGER_CATCH_UP_H
#define LEDGER_CATCH_UP_H

#include "utils/array.h"

typedef struct CaughtUp
{
	int64		users;			/* all that were tried */
	int64		nfailed;
	Datum		failed;			/* uuid[] of these; 0: nobody was tried */
} CaughtUp;

/* Repairs in that direction; commits, in a procedure with SPI. */
extern void ledger_catch_up(ArrayType *users, const char *direction, text *reason, CaughtUp *result);

#endif							/* LEDGER_CATCH_UP_H */
