/*
 * clock.h
 *		The time by which the migration goes.
 */
#ifndef LEDGER_CLOCK_H
#define LEDGER_CLOCK_H

#include "datatype/timestamp.h"

/* Now, shifted by the test clock. */
extern TimestampTz ledger_clock(void);

/* What that clock said at a real time. */
extern TimestampTz ledger_clock_of(TimestampTz real);

#endif							/* LEDGER_CLOCK_H */
