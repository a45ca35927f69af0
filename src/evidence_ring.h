/*
 * evidence_ring.h
 *		The rings in shared memory: what evidence.c fills and empties.
 *
 * Whoever looks at a ring holds the lock, whoever changes it exclusively, and
 * with "changing" above zero meanwhile. Nothing here takes it.
 */
#ifndef LEDGER_EVIDENCE_RING_H
#define LEDGER_EVIDENCE_RING_H

#include "storage/latch.h"
#include "storage/lwlock.h"

#include "evidence.h"

#define EVIDENCE_MAX_DATABASES	64

typedef struct EvidenceRing
{
	char		name[NAMEDATALEN];
	Oid			database;		/* InvalidOid: nobody has used it yet */
	int64		incarnation;
	int64		recorded;		/* findings, each time they were met */
	int64		stored;
	int64		dropped;
	EvidenceLoss loss;			/* of those dropped, what is not stored yet */
	int			used;
	int			free;			/* first free entry, -1: none */
	int			worker;			/* pid; 0: none */
	Latch	   *latch;			/* the worker's */
} EvidenceRing;

typedef struct EvidenceShared
{
	int			changing;
	int			nrings;
	int			size;			/* entries of each ring, and buckets */
	EvidenceRing rings[EVIDENCE_MAX_DATABASES];
} EvidenceShared;

extern EvidenceShared *ledger_rings;	/* NULL: not preloaded, or no database */
extern LWLock *ledger_ring_lock;

extern int64 ledger_ring_incarnation(void);
extern void ledger_ring_reset(EvidenceRing *ring, int64 incarnation);
extern EvidenceEntry *ledger_ring_entry(const EvidenceRing *ring, int index);

/* NULL: there is none; there is no room. */
extern EvidenceEntry *ledger_ring_find(const EvidenceRing *ring, const EvidenceKey *key);
extern EvidenceEntry *ledger_ring_add(EvidenceRing *ring, const EvidenceKey *key);

extern void ledger_ring_link(EvidenceRing *ring, EvidenceEntry *entry);
extern void ledger_ring_unlink(EvidenceRing *ring, EvidenceEntry *entry);
extern void ledger_ring_free(EvidenceRing *ring, EvidenceEntry *entry);
extern void ledger_ring_count_loss(EvidenceRing *ring, int64 count, TimestampTz now);

/* How often what the entry says was found. */
extern int64 ledger_ring_occurrences(const EvidenceEntry *entry);

#endif							/* LEDGER_EVIDENCE_RING_H */
