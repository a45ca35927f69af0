/*
 * repair.h
 *		What undoing a repair shares with making it.
 */
#ifndef LEDGER_REPAIR_H
#define LEDGER_REPAIR_H

#include "legacy.h"

extern void ledger_repair_init(void);

/*
 * Gives the user's row, which is locked and as it was read, these values
 * (NULL: as it is); raises 27000 if the table's own triggers made others of them.
 */
extern void ledger_repair_write_row(LegacyTable *table, const pg_uuid_t *user_id,
									const LegacyRow *row, const Numeric *values);

#endif							/* LEDGER_REPAIR_H */
