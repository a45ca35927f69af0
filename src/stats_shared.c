/*
 * stats_shared.c
 *		Counters in shared memory: whose they are, and how they are added up.
 *
 * Each backend has a slot, which it alone adds to, without a lock. At its exit
 * the slot is added to what the sessions of its database that are gone have
 * left, and emptied. So a database's counters are the sum of that and of the
 * slots of its sessions, and as slots only grow, what a reset takes off is the
 * sum at that time: nobody's slot is ever written by another.
 *
 * One LWLock is held, shared, while sums are made, and exclusively at a
 * backend's first count, at its exit and at a reset. So no count is seen twice
 * or not at all; one that is just being made may be seen a moment later.
 *
 * Memory: sized at the start of the server, for all backends there may be and
 * STATS_MAX_DATABASES databases. A database that finds no place is not
 * counted; the place of one that has been dropped is free.
 *
 * A clean stop writes the sums to a file, the next start reads and removes it.
 * After anything but a clean stop the counters are not there, and begin at zero.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "stats_shared.h"

#define STATS_MAX_DATABASES	64
#define SAVED_FILE		PGSTAT_STAT_PERMANENT_DIRECTORY "/ledger.stat"
#define SAVED_MAGIC		0x4c454432

typedef struct StatsSlot
{
	Oid			database;		/* InvalidOid: nobody's */
	StatsCounters counters;
} StatsSlot;

typedef struct StatsDatabase
{
	Oid			database;		/* InvalidOid: a free place */
	TimestampTz reset_at;
	StatsCounters gone;			/* of sessions that have ended */
	StatsCounters base;			/* of all, when they were last reset */
	StatsFlush	flushed;		/* of all, when the worker last stored them */
	StatsAccount accounts[STATS_ACCOUNTS];
} StatsDatabase;

typedef struct StatsShared
{
	int			nslots;
	pg_atomic_uint32 codes[STATS_CODES];	/* behind the rules; 0: not taken */
	char		tasks[STATS_TASKS][STATS_TASK_NAME];	/* empty: not taken */
	StatsDatabase databases[STATS_MAX_DATABASES];
} StatsShared;

typedef struct SavedHeader
{
	uint32		magic;
	uint32		version;
	uint32		size;
} SavedHeader;

bool		ledger_track = true;

static shmem_request_hook_type previous_request = NULL;
static shmem_startup_hook_type previous_startup = NULL;
static StatsShared *shared = NULL;	/* NULL: not preloaded */
static LWLock *lock;
static StatsSlot *my_slot = NULL;	/* NULL: not attached, or there is no place */
static bool attached = false;

/* ---- sums --------------------------------------------------------------------- */

static void
add(void *sum, const void *counters, size_t size)
{
	for (size_t i = 0; i < size / sizeof(uint64); i++)
		((uint64 *) sum)[i] += ((const volatile uint64 *) counters)[i];
}

static void
subtract(void *from, const void *counters, size_t size)
{
	for (size_t i = 0; i < size / sizeof(uint64); i++)
		((uint64 *) from)[i] -= ((const uint64 *) counters)[i];
}

/* No slot shares a cache line with another. */
static Size
slot_size(void)
{
	return TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(StatsSlot));
}

static StatsSlot *
slot(int n)
{
	return (StatsSlot *) ((char *) shared + TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(StatsShared)) +
						  n * slot_size());
}

static StatsDatabase *
find_database(Oid database)
{
	for (int i = 0; i < STATS_MAX_DATABASES; i++)
	{
		if (shared->databases[i].database == database)
			return &shared->databases[i];
	}
	return NULL;
}

/* Everything ever counted; the lock is held. */
static void
sum_up(const StatsDatabase *database, StatsCounters *sum)
{
	*sum = database->gone;
	for (int i = 0; i < shared->nslots; i++)
	{
		if (slot(i)->database == database->database)
			add(sum, &slot(i)->counters, sizeof(StatsCounters));
	}
}

/* ---- places that all share ------------------------------------------------------- */

int
ledger_stats_code(int place)
{
	if (place < STATS_RULES)
		return MAKE_SQLSTATE('L', 'G', '0', '0' + (place + 1) / 10, '0' + (place + 1) % 10);
	return shared && place < STATS_OTHER ? pg_atomic_read_u32(&shared->codes[place]) : 0;
}

/* Without a lock: an error is being handled, and nobody knows where it came from. */
int
ledger_stats_code_place(int sqlstate)
{
	for (int i = 0; i < STATS_OTHER; i++)
	{
		uint32		expected = 0;

		if (ledger_stats_code(i) == sqlstate)
			return i;
		if (i >= STATS_RULES && ledger_stats_code(i) == 0 &&
			(pg_atomic_compare_exchange_u32(&shared->codes[i], &expected, sqlstate) ||
			 (int) expected == sqlstate))
			return i;
	}
	return STATS_OTHER;
}

int
ledger_stats_task_place(const char *name)
{
	int			place = -1;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	for (int i = 0; i < STATS_TASKS && place < 0; i++)
	{
		if (shared->tasks[i][0] == '\0')
			strlcpy(shared->tasks[i], name, STATS_TASK_NAME);
		if (strncmp(shared->tasks[i], name, STATS_TASK_NAME - 1) == 0)
			place = i;
	}
	LWLockRelease(lock);
	return place;
}

void
ledger_stats_task_names(char names[STATS_TASKS][STATS_TASK_NAME])
{
	memset(names, 0, STATS_TASKS * STATS_TASK_NAME);
	if (shared == NULL)
		return;
	LWLockAcquire(lock, LW_SHARED);
	memcpy(names, shared->tasks, sizeof(shared->tasks));
	LWLockRelease(lock);
}

/*
 * One that finds no place takes that of the least and goes on from its count:
 * so what is contended most is always among them, and its count at most too
 * high by the least.
 */
void
ledger_stats_count_account(int64 id)
{
	StatsDatabase *database;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	database = find_database(MyDatabaseId);
	if (database)
	{
		StatsAccount *least = &database->accounts[0];
		StatsAccount *account = NULL;

		for (int i = 0; i < STATS_ACCOUNTS && account == NULL; i++)
		{
			if (database->accounts[i].id == id)
				account = &database->accounts[i];
			else if (database->accounts[i].count < least->count)
				least = &database->accounts[i];
		}
		if (account == NULL)
		{
			account = least;
			account->id = id;
		}
		account->count++;
	}
	LWLockRelease(lock);
}

void
ledger_stats_accounts(StatsAccount *accounts)
{
	StatsDatabase *database;

	memset(accounts, 0, sizeof(StatsAccount) * STATS_ACCOUNTS);
	if (shared == NULL)
		return;
	LWLockAcquire(lock, LW_SHARED);
	database = find_database(MyDatabaseId);
	if (database)
		memcpy(accounts, database->accounts, sizeof(database->accounts));
	LWLockRelease(lock);
}

/* ---- a backend's slot ------------------------------------------------------------ */

static void
detach(int code, Datum arg)
{
	StatsDatabase *database;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	database = find_database(my_slot->database);
	if (database)
		add(&database->gone, &my_slot->counters, sizeof(StatsCounters));
	memset(my_slot, 0, sizeof(*my_slot));
	my_slot = NULL;
	LWLockRelease(lock);
}

/* The databases that have places and are gone, as of now; InvalidOid: not that one. */
static void
find_dropped(Oid *dropped)
{
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < STATS_MAX_DATABASES; i++)
		dropped[i] = shared->databases[i].database;
	LWLockRelease(lock);
	for (int i = 0; i < STATS_MAX_DATABASES; i++)
	{
		if (OidIsValid(dropped[i]) &&
			SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(dropped[i])))
			dropped[i] = InvalidOid;
	}
}

/*
 * This database's place; the lock is held exclusively. Another may have taken
 * that of one that is gone since it was looked for.
 */
static StatsDatabase *
claim_database(const Oid *dropped)
{
	StatsDatabase *database = find_database(MyDatabaseId);

	if (database == NULL)
		database = find_database(InvalidOid);
	for (int i = 0; i < STATS_MAX_DATABASES && database == NULL; i++)
	{
		if (OidIsValid(dropped[i]) && shared->databases[i].database == dropped[i])
			database = &shared->databases[i];
	}
	if (database == NULL || database->database == MyDatabaseId)
		return database;
	memset(database, 0, sizeof(*database));
	database->database = MyDatabaseId;
	database->reset_at = GetCurrentTimestamp();
	return database;
}

static void
attach(void)
{
	Oid			dropped[STATS_MAX_DATABASES];
	StatsSlot  *mine = slot(LEDGER_BACKEND_NUMBER);

	find_dropped(dropped);
	attached = true;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (claim_database(dropped))
	{
		memset(mine, 0, sizeof(*mine));
		mine->database = MyDatabaseId;
		my_slot = mine;
	}
	LWLockRelease(lock);
	if (my_slot)
		before_shmem_exit(detach, (Datum) 0);
}

/* The first time it looks in the catalog, so not without a transaction. */
StatsCounters *
ledger_stats_counters(void)
{
	if (shared && !attached && IsTransactionState() && OidIsValid(MyDatabaseId))
		attach();
	return my_slot ? &my_slot->counters : NULL;
}

StatsCounters *
ledger_stats_now(TimestampTz *reset_at)
{
	StatsCounters *sum = palloc0(sizeof(StatsCounters));
	StatsDatabase *database;

	*reset_at = 0;
	if (shared == NULL)
		return sum;
	LWLockAcquire(lock, LW_SHARED);
	database = find_database(MyDatabaseId);
	if (database)
	{
		sum_up(database, sum);
		subtract(sum, &database->base, sizeof(StatsCounters));
		*reset_at = database->reset_at;
	}
	LWLockRelease(lock);
	return sum;
}

void
ledger_stats_reset(void)
{
	StatsDatabase *database;

	if (shared == NULL)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	database = find_database(MyDatabaseId);
	if (database)
	{
		sum_up(database, &database->base);
		memset(database->accounts, 0, sizeof(database->accounts));
		database->reset_at = GetCurrentTimestamp();
	}
	LWLockRelease(lock);
}

/* ---- what the worker stores ---------------------------------------------------------- */

bool
ledger_stats_take_reads(StatsFlush *taken)
{
	StatsDatabase *database;
	StatsCounters *sum;
	bool		any = false;

	if (shared == NULL)
		return false;
	sum = palloc(sizeof(StatsCounters));
	LWLockAcquire(lock, LW_SHARED);
	database = find_database(MyDatabaseId);
	if (database)
	{
		sum_up(database, sum);
		taken->ledger = sum->reads[STATS_SAMPLE_LEDGER];
		taken->legacy = sum->reads[STATS_SAMPLE_LEGACY];
		subtract(taken, &database->flushed, sizeof(*taken));
	}
	LWLockRelease(lock);
	for (int i = 0; database && i < STATS_BUCKETS; i++)
		any |= taken->ledger.buckets[i] > 0 || taken->legacy.buckets[i] > 0;
	return any;
}

void
ledger_stats_reads_stored(const StatsFlush *taken)
{
	StatsDatabase *database;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	database = find_database(MyDatabaseId);
	if (database)
		add(&database->flushed, taken, sizeof(*taken));
	LWLockRelease(lock);
}

/* ---- over a clean stop ------------------------------------------------------------------ */

/* What there is to be kept of a database: all sums, as if nobody was connected. */
static void
settle(StatsDatabase *database)
{
	StatsCounters *sum = malloc(sizeof(StatsCounters));

	if (sum == NULL)
		return;
	sum_up(database, sum);
	database->gone = *sum;
	free(sum);
}

/* What of it is kept: all but how many slots there are, which may change. */
static char *
kept(size_t *size)
{
	*size = sizeof(StatsShared) - offsetof(StatsShared, codes);
	return (char *) shared + offsetof(StatsShared, codes);
}

static bool
write_file(FILE *file)
{
	SavedHeader header = {SAVED_MAGIC, PG_VERSION_NUM, sizeof(StatsShared)};
	size_t		size;
	char	   *data = kept(&size);
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, data, size);
	FIN_CRC32C(crc);
	return fwrite(&header, sizeof(header), 1, file) == 1 &&
		fwrite(data, size, 1, file) == 1 &&
		fwrite(&crc, sizeof(crc), 1, file) == 1;
}

/*
 * The postmaster's exit, when all others have gone. An immediate stop ends so
 * too; the next start will not read the file then.
 */
static void
save(int code, Datum arg)
{
	FILE	   *file;
	bool		ok;

	if (code != 0)
		return;
	for (int i = 0; i < STATS_MAX_DATABASES; i++)
	{
		if (OidIsValid(shared->databases[i].database))
			settle(&shared->databases[i]);
	}
	file = AllocateFile(SAVED_FILE ".tmp", PG_BINARY_W);
	ok = file && write_file(file);
	if (file && FreeFile(file) != 0)
		ok = false;
	if (ok)
		(void) durable_rename(SAVED_FILE ".tmp", SAVED_FILE, LOG);
	else
	{
		ereport(LOG,
				(errmsg("the ledger's statistics are not kept over this stop of the server")));
		(void) unlink(SAVED_FILE ".tmp");
	}
}

/* Whether the server was stopped cleanly, before this start. */
static bool
was_clean(void)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);
	bool		clean = crc_ok && (control->state == DB_SHUTDOWNED ||
								   control->state == DB_SHUTDOWNED_IN_RECOVERY);

	pfree(control);
	return clean;
}

static bool
read_file(FILE *file)
{
	SavedHeader header;
	size_t		size;
	char	   *data = kept(&size);
	pg_crc32c	saved;
	pg_crc32c	crc;

	if (fread(&header, sizeof(header), 1, file) != 1 || header.magic != SAVED_MAGIC ||
		header.version / 10000 != PG_VERSION_NUM / 10000 ||
		header.size != sizeof(StatsShared) ||
		fread(data, size, 1, file) != 1 ||
		fread(&saved, sizeof(saved), 1, file) != 1)
		return false;
	INIT_CRC32C(crc);
	COMP_CRC32C(crc, data, size);
	FIN_CRC32C(crc);
	return EQ_CRC32C(crc, saved);
}

/* Once read it is gone: what it says holds for one start. */
static void
load(void)
{
	FILE	   *file = AllocateFile(SAVED_FILE, PG_BINARY_R);

	if (file == NULL)
		return;
	if (!was_clean() || !read_file(file))
	{
		size_t		size;
		char	   *data = kept(&size);

		memset(data, 0, size);
		ereport(LOG,
				(errmsg("the ledger's statistics begin anew"),
				 errdetail("The file \"%s\" is not of a clean stop, or cannot be read.", SAVED_FILE)));
	}
	FreeFile(file);
	(void) durable_unlink(SAVED_FILE, LOG);
}

/* ---- start --------------------------------------------------------------------------------- */

static Size
shared_size(void)
{
	return add_size(TYPEALIGN(PG_CACHE_LINE_SIZE, sizeof(StatsShared)),
					mul_size(MaxBackends, slot_size()));
}

static void
request_shared(void)
{
	if (previous_request)
		previous_request();
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("ledger_stats", 1);
}

static void
start_shared(void)
{
	bool		found;

	if (previous_startup)
		previous_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("ledger statistics", shared_size(), &found);
	lock = &GetNamedLWLockTranche("ledger_stats")->lock;
	if (!found)
	{
		memset(shared, 0, shared_size());
		shared->nslots = MaxBackends;
	}
	LWLockRelease(AddinShmemInitLock);
	if (!IsUnderPostmaster)
	{
		on_shmem_exit(save, (Datum) 0);
		if (!found)
			load();
	}
}

void
ledger_stats_shared_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	previous_request = shmem_request_hook;
	shmem_request_hook = request_shared;
	previous_startup = shmem_startup_hook;
	shmem_startup_hook = start_shared;
}
