/*
 * capture_post.h
 *		Outside writes that become postings: capture 'post'.
 */
#ifndef LEDGER_CAPTURE_POST_H
#define LEDGER_CAPTURE_POST_H

#include "legacy.h"

/*
 * The transaction posts for the user by itself, so what it has written to his
 * row past the ledger is none of ours: what was posted for it is reversed, and
 * the writes are marked, as double writes if the call mirrors. The row's lock
 * is held, no account's. true: a balance has changed, S must be taken anew.
 */
extern bool ledger_capture_take_back(const LegacyTable *table, const pg_uuid_t *user_id,
									 bool mirrors);

#endif							/* LEDGER_CAPTURE_POST_H */
