/*
 * worker.h
 *		The background worker of a database, and who starts it.
 */
#ifndef LEDGER_WORKER_H
#define LEDGER_WORKER_H

extern void ledger_worker_init(void);
extern void ledger_launcher_init(void);

/* Where the processes begin; a worker gets the number of its ring. */
extern PGDLLEXPORT void ledger_worker_main(Datum ring);
extern PGDLLEXPORT void ledger_launcher_main(Datum arg);

/* Whether this process is the worker and deletes what has been kept long enough. */
extern bool ledger_worker_trims;

#endif							/* LEDGER_WORKER_H */
