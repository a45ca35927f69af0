/*
 * evidence.c
 *		What was found to be wrong, in shared memory until the worker stores it.
 *
 * An abort erases what it aborted for, and a read may not write: so whoever
 * finds a difference leaves it in the ring of its database (evidence_ring.c),
 * and the worker (worker.c) stores it in a transaction of its own. An entry
 * has counts, and the transactions that saw it and have not ended: what became
 * of them is found out when it is stored, or later.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "evidence_ring.h"
#include "store.h"

static int	my_ring = -1;		/* of this database, once my_ring_known */
static bool my_ring_known = false;
static Oid	my_table = InvalidOid;	/* discrepancy_rows, when it was last asked for */
static int	consumed = -1;		/* the ring that this worker stores */
static bool begun = false;		/* between take and stored or cancel */
static int	taken[EVIDENCE_SLICE];	/* the places of what was taken */
static int	ntaken = 0;
static int	next_to_take = -1;

/* ---- leaving evidence ------------------------------------------------------------------- */

/* A database is renamed only while nobody is connected: its name stays. */
bool
ledger_evidence_active(void)
{
	if (ledger_rings == NULL || !IsTransactionState())
		return false;
	if (!my_ring_known)
	{
		const char *name = get_database_name(MyDatabaseId);

		for (int i = 0; name && i < ledger_rings->nrings; i++)
		{
			if (strcmp(ledger_rings->rings[i].name, name) == 0)
				my_ring = i;
		}
		my_ring_known = true;
	}
	if (my_ring >= 0)
		my_table = ledger_relation_oid("discrepancy_rows");
	return my_ring >= 0;
}

/* What another database of the same name has left is nobody's any more. */
static void
claim_ring(EvidenceRing *ring, int64 incarnation)
{
	if (ring->database == MyDatabaseId)
		return;
	if (OidIsValid(ring->database))
		ledger_ring_reset(ring, incarnation);
	ring->database = MyDatabaseId;
}

/*
 * What has ended since is known: it makes room. Of what is too long ago it is not
 * known how; where the worker stores it, that is taken for the graver too.
 */
static void
settle_xids(EvidenceEntry *entry, FullTransactionId now)
{
	int			kept = 0;

	LWLockAcquire(XactTruncationLock, LW_SHARED);
	for (int i = 0; i < entry->nxids; i++)
	{
		EvidenceXid *seen = &entry->xids[i];
		TransactionId xid = XidFromFullTransactionId(seen->xid);
		int64		age = U64FromFullTransactionId(now) - U64FromFullTransactionId(seen->xid);
		bool		forgotten = age > PG_INT32_MAX || TransactionIdPrecedes(xid, LEDGER_OLDEST_CLOG_XID);

		if (!forgotten && TransactionIdIsInProgress(xid))
			entry->xids[kept++] = *seen;
		else if (forgotten || TransactionIdDidCommit(xid))
			entry->committed += seen->count;
		else
			entry->aborted += seen->count;
	}
	entry->nxids = kept;
	LWLockRelease(XactTruncationLock);
}

static EvidenceXid *
find_xid(EvidenceEntry *entry, FullTransactionId xid)
{
	for (int i = 0; i < entry->nxids; i++)
	{
		if (FullTransactionIdEquals(entry->xids[i].xid, xid))
			return &entry->xids[i];
	}
	return NULL;
}

/*
 * The subtransaction that what is found now goes away with: it may be rolled
 * back alone. The current one, or if that has written nothing the innermost
 * around it that has; whose xid that is cannot be asked, but it is the latest of
 * those in progress, or of one that was released into it. Those that are too
 * many to be listed share the fate of the whole, top.
 */
static FullTransactionId
innermost_xid(FullTransactionId top)
{
	FullTransactionId current = GetCurrentFullTransactionIdIfAny();
	uint32		epoch = EpochFromFullTransactionId(top);
	TransactionId xid;

	if (FullTransactionIdIsValid(current))
		return current;
	if (!FullTransactionIdIsValid(top) || MyProc->subxidStatus.count == 0 ||
		MyProc->subxidStatus.overflowed)
		return top;
	xid = MyProc->subxids.xids[MyProc->subxidStatus.count - 1];
	/* it came after the top's */
	return FullTransactionIdFromEpochAndXid(xid < XidFromFullTransactionId(top) ? epoch + 1 : epoch,
											xid);
}

/*
 * One more by the current transaction. Many subtransactions at once, in an
 * entry that is full, share the fate of the whole. Returns false if it is full
 * of others.
 */
static bool
count_xid(EvidenceEntry *entry, FullTransactionId top, FullTransactionId current)
{
	EvidenceXid *xid;

	if (!FullTransactionIdIsValid(current))
	{
		entry->none++;
		return true;
	}
	xid = find_xid(entry, current);
	if (xid == NULL && entry->nxids >= EVIDENCE_MAX_XIDS - 1)
		settle_xids(entry, current);
	if (xid == NULL && entry->nxids == EVIDENCE_MAX_XIDS)
		xid = find_xid(entry, top);
	if (xid == NULL && entry->nxids < EVIDENCE_MAX_XIDS)
	{
		xid = &entry->xids[entry->nxids++];
		/* the last place is for all that are still to come */
		xid->xid = entry->nxids == EVIDENCE_MAX_XIDS ? top : current;
		xid->count = 0;
	}
	if (xid == NULL)
		return false;
	xid->count++;
	return true;
}

static bool
copy_value(int32 *place, Numeric value)
{
	if (value == NULL || VARSIZE(value) > EVIDENCE_MAX_VALUE)
		return false;
	memcpy(place, value, VARSIZE(value));
	return true;
}

static void
copy_text(char *place, size_t size, const char *text)
{
	int			length = text ? strlen(text) : 0;

	if (length >= (int) size)
		length = pg_mbcliplen(text, length, size - 1);
	memcpy(place, text, length);
	place[length] = '\0';
}

/* Values and words of an entry: those of the last finding. */
static void
describe_entry(EvidenceEntry *entry, const Evidence *evidence)
{
	copy_text(entry->source, sizeof(entry->source), evidence->source);
	copy_text(entry->error_code, sizeof(entry->error_code),
			  evidence->error_code ? evidence->error_code : "");
	copy_text(entry->note, sizeof(entry->note), evidence->note ? evidence->note : "");
	entry->has_ledger_value = copy_value(entry->ledger_value, evidence->ledger_value);
	entry->has_legacy_value = copy_value(entry->legacy_value, evidence->legacy_value);
	if ((evidence->ledger_value && !entry->has_ledger_value) ||
		(evidence->legacy_value && !entry->has_legacy_value))
		copy_text(entry->note, sizeof(entry->note), "a value has too many digits to be kept");
}

static void
make_key(EvidenceKey *key, const Evidence *evidence)
{
	memset(key, 0, sizeof(*key));
	if (evidence->user_id)
	{
		key->has_user = true;
		key->user_id = *evidence->user_id;
	}
	key->table = my_table;
	key->mapping = evidence->mapping;
	strlcpy(key->cause, evidence->cause, sizeof(key->cause));
	strlcpy(key->column, evidence->column, sizeof(key->column));
}

void
ledger_evidence_put(const Evidence *evidence)
{
	EvidenceRing *ring = &ledger_rings->rings[my_ring];
	FullTransactionId top = GetTopFullTransactionIdIfAny();
	FullTransactionId current = innermost_xid(top);
	TimestampTz now = GetCurrentTimestamp();
	int64		incarnation = ledger_ring_incarnation();
	EvidenceEntry *entry;
	EvidenceKey key;

	Assert(my_ring >= 0);
	make_key(&key, evidence);
	LWLockAcquire(ledger_ring_lock, LW_EXCLUSIVE);
	ledger_rings->changing++;
	claim_ring(ring, incarnation);
	ring->recorded++;
	entry = ledger_ring_find(ring, &key);
	if (entry == NULL)
	{
		entry = ledger_ring_add(ring, &key);
		if (entry)
			entry->first_seen = now;
	}
	if (entry && count_xid(entry, top, current))
	{
		entry->last_seen = now;
		describe_entry(entry, evidence);
	}
	else
		ledger_ring_count_loss(ring, 1, now);
	if (ring->latch && ring->used > ledger_rings->size / 2)
		SetLatch(ring->latch);
	ledger_rings->changing--;
	LWLockRelease(ledger_ring_lock);
}

/* ---- the worker's side ---------------------------------------------------------------------- */

int
ledger_evidence_databases(void)
{
	return ledger_rings ? ledger_rings->nrings : 0;
}

const char *
ledger_evidence_database(int ring)
{
	return ledger_rings->rings[ring].name;
}

int
ledger_evidence_worker(int ring)
{
	int			pid;

	LWLockAcquire(ledger_ring_lock, LW_SHARED);
	pid = ledger_rings->rings[ring].worker;
	LWLockRelease(ledger_ring_lock);
	return pid;
}

/* A worker on its way out, perhaps in the middle of storing. */
static void
detach(int code, Datum arg)
{
	EvidenceRing *ring = &ledger_rings->rings[consumed];

	ledger_evidence_cancel();
	LWLockAcquire(ledger_ring_lock, LW_EXCLUSIVE);
	ring->worker = 0;
	ring->latch = NULL;
	LWLockRelease(ledger_ring_lock);
}

bool
ledger_evidence_attach(int number)
{
	EvidenceRing *ring = &ledger_rings->rings[number];
	bool		free;

	LWLockAcquire(ledger_ring_lock, LW_EXCLUSIVE);
	free = ring->worker == 0;
	if (free)
	{
		ring->worker = MyProcPid;
		ring->latch = MyLatch;
	}
	LWLockRelease(ledger_ring_lock);
	if (free)
	{
		consumed = number;
		before_shmem_exit(detach, (Datum) 0);
	}
	return free;
}

void
ledger_evidence_claim(void)
{
	int64		incarnation = ledger_ring_incarnation();

	LWLockAcquire(ledger_ring_lock, LW_EXCLUSIVE);
	claim_ring(&ledger_rings->rings[consumed], incarnation);
	LWLockRelease(ledger_ring_lock);
}

int
ledger_evidence_consumed(void)
{
	return consumed;
}

int64
ledger_evidence_incarnation(void)
{
	int64		incarnation;

	LWLockAcquire(ledger_ring_lock, LW_SHARED);
	incarnation = ledger_rings->rings[consumed].incarnation;
	LWLockRelease(ledger_ring_lock);
	return incarnation;
}

bool
ledger_evidence_is_pressing(void)
{
	bool		result;

	LWLockAcquire(ledger_ring_lock, LW_SHARED);
	result = ledger_rings->rings[consumed].used > ledger_rings->size / 2;
	LWLockRelease(ledger_ring_lock);
	return result;
}

/*
 * What is taken stays in its place, but new findings make an entry of their
 * own: so what is stored is exactly what goes away. Each slice goes on where
 * the one before ended.
 */
int
ledger_evidence_take(EvidenceEntry *copies, int max, TimestampTz before, EvidenceLoss *loss)
{
	EvidenceRing *ring = &ledger_rings->rings[consumed];

	Assert(max <= EVIDENCE_SLICE && !begun);
	ntaken = 0;
	LWLockAcquire(ledger_ring_lock, LW_EXCLUSIVE);
	for (int i = 0; i < ledger_rings->size && ntaken < max && ntaken < ring->used; i++)
	{
		EvidenceEntry *entry;

		next_to_take = (next_to_take + 1) % ledger_rings->size;
		entry = ledger_ring_entry(ring, next_to_take);
		if (!entry->used || entry->first_seen > before)
			continue;
		ledger_ring_unlink(ring, entry);
		copies[ntaken] = *entry;
		taken[ntaken++] = next_to_take;
	}
	*loss = ring->loss;
	if (ntaken > 0 || loss->count > 0)
	{
		ledger_rings->changing++;
		begun = true;
	}
	LWLockRelease(ledger_ring_lock);
	return ntaken;
}

/* Ends what take began: what was taken is stored, or free to be taken again. */
static void
end_taking(bool stored, const EvidenceLoss *loss)
{
	EvidenceRing *ring = &ledger_rings->rings[consumed];

	if (!begun)
		return;
	LWLockAcquire(ledger_ring_lock, LW_EXCLUSIVE);
	for (int i = 0; i < ntaken; i++)
	{
		EvidenceEntry *entry = ledger_ring_entry(ring, taken[i]);

		if (stored)
		{
			ring->stored += ledger_ring_occurrences(entry);
			ledger_ring_free(ring, entry);
		}
		else if (ledger_ring_find(ring, &entry->key) == NULL)
			ledger_ring_link(ring, entry);
	}
	if (stored)
		ring->loss.count -= loss->count;
	ledger_rings->changing--;
	begun = false;
	LWLockRelease(ledger_ring_lock);
}

void
ledger_evidence_stored(const EvidenceLoss *loss)
{
	end_taking(true, loss);
}

void
ledger_evidence_cancel(void)
{
	end_taking(false, NULL);
}

int64
ledger_evidence_occurrences(const EvidenceEntry *entry)
{
	return ledger_ring_occurrences(entry);
}

/* ---- evidence_status() ----------------------------------------------------------------------- */

PG_FUNCTION_INFO_V1(ledger_evidence_status);

/* () → (active, size, used, recorded, stored, dropped, worker_pid); unless active, NULLs */
Datum
ledger_evidence_status(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[7] = {0};
	bool		isnull[7] = {false, true, true, true, true, true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = BoolGetDatum(ledger_evidence_active());
	if (my_ring >= 0)
	{
		EvidenceRing ring;

		LWLockAcquire(ledger_ring_lock, LW_SHARED);
		ring = ledger_rings->rings[my_ring];
		LWLockRelease(ledger_ring_lock);
		values[1] = Int32GetDatum(ledger_rings->size);
		values[2] = Int32GetDatum(ring.used);
		values[3] = Int64GetDatum(ring.recorded);
		values[4] = Int64GetDatum(ring.stored);
		values[5] = Int64GetDatum(ring.dropped);
		values[6] = Int32GetDatum(ring.worker);
		memset(isnull, false, sizeof(isnull));
		isnull[6] = ring.worker == 0;
	}
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull));
}
