/*
 * evidence_ring.c
 *		The rings in shared memory, and the file that takes them over a stop.
 *
 * There is a ring for each database in ledger.databases, made at the start of
 * the server, of ledger.evidence_size entries: one for each user, mapping,
 * column and cause. One EvidenceShared has the heads of all rings; behind it
 * are the buckets and the entries. Nothing is allocated later.
 *
 * One LWLock protects all of it. Under the lock nothing is raised, no memory
 * is allocated and no catalog read; the only locks that are taken under it are
 * those of ProcArray and of the commit log, when an entry is full of
 * transactions (evidence.c). Whoever holds those never comes here. An LWLock
 * holds off interrupts, so nobody leaves a ring half changed, but by SIGQUIT
 * or SIGKILL: "changing" is above zero then.
 *
 * A clean stop of the server writes the rings to a file, and the next start
 * reads it. If there is none, the server ended otherwise, and each ring is a
 * new incarnation: the worker compares that with what it has noted in its
 * table, and knows that something may be lost.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "evidence_ring.h"

#define SAVED_FILE		PGSTAT_STAT_PERMANENT_DIRECTORY "/ledger_evidence.stat"
#define SAVED_MAGIC		0x4c454431

/* What the file says of one ring; its entries follow. */
typedef struct SavedRing
{
	EvidenceRing ring;
	int			nentries;
} SavedRing;

typedef struct SavedHeader
{
	uint32		magic;
	uint32		version;
	uint32		entry_size;
	int			nrings;
} SavedHeader;

static char *databases_guc = NULL;
static int	evidence_size = 1000;

static shmem_request_hook_type previous_request = NULL;
static shmem_startup_hook_type previous_startup = NULL;

EvidenceShared *ledger_rings = NULL;
LWLock	   *ledger_ring_lock = NULL;
static int *buckets;
static EvidenceEntry *entries;

/* ---- the rings -------------------------------------------------------------------- */

/* ledger.databases as a list of names; false: not a list. */
static bool
database_names(const char *value, List **names)
{
	return SplitIdentifierString(pstrdup(value), ',', names);
}

static Size
shared_size(int nrings)
{
	Size		n = mul_size(nrings, evidence_size);

	return add_size(MAXALIGN(sizeof(EvidenceShared)),
					add_size(MAXALIGN(mul_size(n, sizeof(int))),
							 mul_size(n, sizeof(EvidenceEntry))));
}

int
ledger_evidence_wanted(void)
{
	List	   *names;

	if (!database_names(databases_guc ? databases_guc : "", &names))
		return 0;
	return Min(list_length(names), EVIDENCE_MAX_DATABASES);
}

int64
ledger_ring_incarnation(void)
{
	int64		incarnation;

	if (!pg_strong_random(&incarnation, sizeof(incarnation)))
		incarnation = GetCurrentTimestamp();
	return incarnation & PG_INT64_MAX;
}

static int *
bucket_of(const EvidenceRing *ring, const EvidenceKey *key)
{
	uint32		hash = hash_bytes((const unsigned char *) key, sizeof(*key));

	return &buckets[(ring - ledger_rings->rings) * ledger_rings->size + hash % ledger_rings->size];
}

EvidenceEntry *
ledger_ring_entry(const EvidenceRing *ring, int index)
{
	return &entries[(ring - ledger_rings->rings) * ledger_rings->size + index];
}

void
ledger_ring_reset(EvidenceRing *ring, int64 incarnation)
{
	ring->database = InvalidOid;
	ring->incarnation = incarnation;
	ring->recorded = ring->stored = ring->dropped = 0;
	memset(&ring->loss, 0, sizeof(ring->loss));
	ring->used = 0;
	ring->free = 0;
	for (int i = 0; i < ledger_rings->size; i++)
	{
		buckets[(ring - ledger_rings->rings) * ledger_rings->size + i] = -1;
		ledger_ring_entry(ring, i)->used = false;
		ledger_ring_entry(ring, i)->index = i;
		ledger_ring_entry(ring, i)->next = i + 1 < ledger_rings->size ? i + 1 : -1;
	}
}

EvidenceEntry *
ledger_ring_find(const EvidenceRing *ring, const EvidenceKey *key)
{
	for (int i = *bucket_of(ring, key); i >= 0; i = ledger_ring_entry(ring, i)->next)
	{
		if (memcmp(&ledger_ring_entry(ring, i)->key, key, sizeof(*key)) == 0)
			return ledger_ring_entry(ring, i);
	}
	return NULL;
}

void
ledger_ring_link(EvidenceRing *ring, EvidenceEntry *entry)
{
	int		   *bucket = bucket_of(ring, &entry->key);

	entry->next = *bucket;
	entry->linked = true;
	*bucket = entry->index;
}

void
ledger_ring_unlink(EvidenceRing *ring, EvidenceEntry *entry)
{
	int		   *link = bucket_of(ring, &entry->key);

	if (!entry->linked)
		return;
	while (*link != entry->index)
		link = &ledger_ring_entry(ring, *link)->next;
	*link = entry->next;
	entry->linked = false;
}

EvidenceEntry *
ledger_ring_add(EvidenceRing *ring, const EvidenceKey *key)
{
	int			index = ring->free;
	EvidenceEntry *entry;

	if (index < 0)
		return NULL;
	entry = ledger_ring_entry(ring, index);
	ring->free = entry->next;
	ring->used++;
	memset(entry, 0, sizeof(*entry));
	entry->key = *key;
	entry->used = true;
	entry->index = index;
	ledger_ring_link(ring, entry);
	return entry;
}

void
ledger_ring_free(EvidenceRing *ring, EvidenceEntry *entry)
{
	ledger_ring_unlink(ring, entry);
	entry->used = false;
	entry->next = ring->free;
	ring->free = entry->index;
	ring->used--;
}

void
ledger_ring_count_loss(EvidenceRing *ring, int64 count, TimestampTz now)
{
	ring->dropped += count;
	if (ring->loss.count == 0)
		ring->loss.first_at = now;
	ring->loss.count += count;
	ring->loss.last_at = now;
}

int64
ledger_ring_occurrences(const EvidenceEntry *entry)
{
	int64		count = entry->none + entry->committed + entry->aborted;

	for (int i = 0; i < entry->nxids; i++)
		count += entry->xids[i].count;
	return count;
}

/* ---- over a clean stop --------------------------------------------------------------- */

typedef struct SavedFile
{
	FILE	   *file;
	pg_crc32c	crc;
	bool		ok;
} SavedFile;

static void
put_bytes(SavedFile *saved, const void *data, size_t length)
{
	COMP_CRC32C(saved->crc, data, length);
	saved->ok = saved->ok && fwrite(data, 1, length, saved->file) == length;
}

static void
get_bytes(SavedFile *saved, void *data, size_t length)
{
	memset(data, 0, length);
	saved->ok = saved->ok && fread(data, 1, length, saved->file) == length;
	if (saved->ok)
		COMP_CRC32C(saved->crc, data, length);
}

static void
save_ring(SavedFile *saved, const EvidenceRing *ring)
{
	SavedRing	head;

	memset(&head, 0, sizeof(head));
	head.ring = *ring;
	head.nentries = ring->used;
	put_bytes(saved, &head, sizeof(head));
	for (int i = 0; i < ledger_rings->size; i++)
	{
		if (ledger_ring_entry(ring, i)->used)
			put_bytes(saved, ledger_ring_entry(ring, i), sizeof(EvidenceEntry));
	}
}

/*
 * The postmaster's exit, when all others have gone. Code 0 is a stop, not a
 * crash; an immediate one may have left a ring half changed.
 */
static void
save_rings(int code, Datum arg)
{
	SavedHeader header = {SAVED_MAGIC, PG_VERSION_NUM, sizeof(EvidenceEntry), ledger_rings->nrings};
	SavedFile	saved = {NULL, 0, false};

	if (code == 0 && ledger_rings->changing == 0)
		saved.file = AllocateFile(SAVED_FILE ".tmp", PG_BINARY_W);
	if (saved.file)
	{
		saved.ok = true;
		INIT_CRC32C(saved.crc);
		put_bytes(&saved, &header, sizeof(header));
		for (int i = 0; i < ledger_rings->nrings; i++)
			save_ring(&saved, &ledger_rings->rings[i]);
		FIN_CRC32C(saved.crc);
		saved.ok = saved.ok && fwrite(&saved.crc, sizeof(saved.crc), 1, saved.file) == 1;
	}
	if (saved.file && FreeFile(saved.file) != 0)
		saved.ok = false;
	if (saved.ok)
		(void) durable_rename(SAVED_FILE ".tmp", SAVED_FILE, LOG);
	else
	{
		ereport(LOG,
				(errmsg("the ledger's evidence is not kept over this stop of the server")));
		(void) unlink(SAVED_FILE ".tmp");
	}
}

/* Where a ring was saved that is not wanted any more, it is read past. */
static void
load_ring(SavedFile *saved)
{
	EvidenceRing *ring = NULL;
	SavedRing	head;

	get_bytes(saved, &head, sizeof(head));
	for (int i = 0; saved->ok && i < ledger_rings->nrings; i++)
	{
		if (strncmp(ledger_rings->rings[i].name, head.ring.name, NAMEDATALEN) == 0)
			ring = &ledger_rings->rings[i];
	}
	if (ring)
	{
		ring->database = head.ring.database;
		ring->incarnation = head.ring.incarnation;
		ring->recorded = head.ring.recorded;
		ring->stored = head.ring.stored;
		ring->dropped = head.ring.dropped;
		ring->loss = head.ring.loss;
	}
	for (int n = 0; saved->ok && n < head.nentries; n++)
	{
		EvidenceEntry read;
		EvidenceEntry *entry;

		get_bytes(saved, &read, sizeof(read));
		if (!saved->ok || ring == NULL)
			continue;
		entry = ledger_ring_add(ring, &read.key);
		if (entry == NULL)
		{
			/* the ring is smaller now */
			ledger_ring_count_loss(ring, ledger_ring_occurrences(&read), read.last_seen);
			continue;
		}
		read.index = entry->index;
		read.next = entry->next;
		read.used = true;
		read.linked = entry->linked;
		*entry = read;
	}
}

/* Only if all of it is there and whole; once read it is gone. */
static void
load_rings(void)
{
	SavedFile	saved = {AllocateFile(SAVED_FILE, PG_BINARY_R), 0, true};
	SavedHeader header;
	pg_crc32c	crc;

	if (saved.file == NULL)
		return;
	INIT_CRC32C(saved.crc);
	get_bytes(&saved, &header, sizeof(header));
	if (header.magic != SAVED_MAGIC || header.version / 10000 != PG_VERSION_NUM / 10000 ||
		header.entry_size != sizeof(EvidenceEntry))
		saved.ok = false;
	for (int i = 0; saved.ok && i < header.nrings; i++)
		load_ring(&saved);
	FIN_CRC32C(saved.crc);
	if (saved.ok &&
		(fread(&crc, sizeof(crc), 1, saved.file) != 1 || !EQ_CRC32C(crc, saved.crc)))
		saved.ok = false;
	FreeFile(saved.file);
	/* read twice it would hide a crash */
	if (durable_unlink(SAVED_FILE, LOG) != 0)
		saved.ok = false;
	if (saved.ok)
		return;
	ereport(LOG, (errmsg("could not read the ledger's evidence from file \"%s\"", SAVED_FILE)));
	for (int i = 0; i < ledger_rings->nrings; i++)
		ledger_ring_reset(&ledger_rings->rings[i], ledger_ring_incarnation());
}

/* ---- start ------------------------------------------------------------------------------ */

static void
request_shared(void)
{
	int			nrings = ledger_evidence_wanted();

	if (previous_request)
		previous_request();
	if (nrings == 0)
		return;
	RequestAddinShmemSpace(shared_size(nrings));
	RequestNamedLWLockTranche("ledger_evidence", 1);
}

static void
name_rings(void)
{
	List	   *names;
	ListCell   *lc;

	(void) database_names(databases_guc, &names);
	ledger_rings->nrings = 0;
	foreach(lc, names)
	{
		if (ledger_rings->nrings < EVIDENCE_MAX_DATABASES)
			strlcpy(ledger_rings->rings[ledger_rings->nrings++].name, lfirst(lc), NAMEDATALEN);
	}
}

static void
start_shared(void)
{
	int			nrings = ledger_evidence_wanted();
	bool		found;

	if (previous_startup)
		previous_startup();
	/* a backend that crashed has reset all */
	ledger_rings = NULL;
	if (nrings == 0)
		return;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	ledger_rings = ShmemInitStruct("ledger evidence", shared_size(nrings), &found);
	buckets = (int *) ((char *) ledger_rings + MAXALIGN(sizeof(EvidenceShared)));
	entries = (EvidenceEntry *) ((char *) buckets +
								 MAXALIGN(sizeof(int) * (Size) nrings * evidence_size));
	ledger_ring_lock = &GetNamedLWLockTranche("ledger_evidence")->lock;
	if (!found)
	{
		memset(ledger_rings, 0, sizeof(*ledger_rings));
		ledger_rings->size = evidence_size;
		name_rings();
		for (int i = 0; i < ledger_rings->nrings; i++)
			ledger_ring_reset(&ledger_rings->rings[i], ledger_ring_incarnation());
	}
	LWLockRelease(AddinShmemInitLock);
	if (!IsUnderPostmaster)
	{
		on_shmem_exit(save_rings, (Datum) 0);
		if (!found)
			load_rings();
	}
}

static bool
check_databases(char **newval, void **extra, GucSource source)
{
	List	   *names;
	List	   *seen = NIL;
	ListCell   *lc;

	if (!database_names(*newval, &names))
	{
		GUC_check_errdetail("It is not a list of names; quote those with capitals or other characters.");
		return false;
	}
	foreach(lc, names)
	{
		ListCell   *other;

		foreach(other, seen)
		{
			if (strcmp(lfirst(other), lfirst(lc)) == 0)
			{
				GUC_check_errdetail("Database \"%s\" is named twice.", (char *) lfirst(lc));
				return false;
			}
		}
		seen = lappend(seen, lfirst(lc));
	}
	if (list_length(names) > EVIDENCE_MAX_DATABASES)
	{
		GUC_check_errdetail("There are more than %d.", EVIDENCE_MAX_DATABASES);
		return false;
	}
	return true;
}

void
ledger_evidence_init(void)
{
	bool		preloaded = process_shared_preload_libraries_in_progress;

	/* loaded later there is no shared memory to be had, and they do nothing */
	DefineCustomStringVariable("ledger.databases",
							   "Databases that have a ring of evidence and a worker.",
							   NULL, &databases_guc, "",
							   preloaded ? PGC_POSTMASTER : PGC_SIGHUP, GUC_LIST_INPUT,
							   check_databases, NULL, NULL);
	DefineCustomIntVariable("ledger.evidence_size",
							"Findings for which a database's ring has room.",
							NULL, &evidence_size, 1000, 10, 1000000,
							preloaded ? PGC_POSTMASTER : PGC_SIGHUP, 0, NULL, NULL, NULL);
	if (!preloaded)
		return;
	previous_request = shmem_request_hook;
	shmem_request_hook = request_shared;
	previous_startup = shmem_startup_hook;
	shmem_startup_hook = start_shared;
}
