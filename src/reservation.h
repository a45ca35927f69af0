/*
 * reservation.h
 *		Money set aside for orders: reserve, release, execute, expire.
 */
#ifndef LEDGER_RESERVATION_H
#define LEDGER_RESERVATION_H

#include "posting.h"

/* What a request takes from reservations, made under the accounts' locks. */
typedef struct ReservationPlan ReservationPlan;

/*
 * What a reversal of the transaction gives back to its reservations; NULL: it
 * had none. Raises LG011 if a reservation cannot move back.
 */
extern ReservationPlan *ledger_reservation_plan_reversal(PostingRequest *request, int64 original);

/* Writes the plan, once the request has its id. plan may be NULL. */
extern void ledger_reservation_apply(ReservationPlan *plan, PostingRequest *request);

#endif							/* LEDGER_RESERVATION_H */
