/*
 * side.c
 *		One side of a reconciliation, user by user.
 *
 * An index says in the order of the users where their rows are; the rows
 * themselves lie anywhere. To fetch each as it comes would read a page of the
 * table for every row. So it goes in batches: as many entries of the index as
 * the memory holds, sorted by their place in the table, so that each page is
 * read once a batch and in the order of the disk; what is read is added up in
 * the record of its user, and the records are in the order of the users
 * already.
 *
 * An entry may lead to a row that was put in the place of another after the
 * entry was read, as in a bitmap scan: the snapshot is older than that and
 * does not see it.
 *
 * A legacy table that has no index on its key, or is not read so simply, comes
 * through a cursor of SQL, as its owner.
 *
 * Memory: a context of the side's own, from begin to end. What the access
 * methods allocate as they go is in it too.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "legacy_sql.h"
#include "side.h"

#define MIN_USERS		1000	/* of a batch, however little the memory */
#define MAX_SUMMED		64		/* values in a sum: more are added up as numeric */
#define MAX_TYPE		(NAMEDATALEN + VARHDRSZ)

/* Where a row of a user is. */
typedef struct Entry
{
	ItemPointerData tid;
	uint32		user;			/* his place in the batch */
} Entry;

/* An account type that is part of a value. */
typedef struct Part
{
	const char *type;
	int			length;
	int			value;
} Part;

struct Side
{
	MemoryContext context;
	SideRange	range;
	Snapshot	snapshot;
	LegacyTable *table;			/* NULL: the accounts */
	int			nvalues;

	/* the batch */
	char	   *users;			/* SideUser, stride bytes apart */
	Size		stride;
	int			nusers;
	int			max_users;
	int			current;
	Entry	   *entries;
	int			nentries;
	int			max_entries;

	/* through an index */
	Relation	relation;
	Relation	index;
	IndexScanDesc scan;
	IndexFetchTableData *fetch;
	TupleTableSlot *slot;
	bool		has_ahead;		/* an entry read that began the next batch */
	pg_uuid_t	ahead;
	ItemPointerData ahead_tid;
	bool		at_end;
	AttrNumber	last_attnum;

	/* of the accounts */
	AttrNumber	type_attnum;
	AttrNumber	external_attnum;
	AttrNumber	debits_attnum;
	AttrNumber	credits_attnum;
	Part	   *parts;
	int			nparts;

	/* through a cursor */
	LegacyScan *rows;
};

static inline uint64
entry_place(const Entry *entry)
{
	return ((uint64) ItemPointerGetBlockNumberNoCheck(&entry->tid) << 16) |
		ItemPointerGetOffsetNumberNoCheck(&entry->tid);
}

#define ST_SORT sort_entries
#define ST_ELEMENT_TYPE Entry
#define ST_COMPARE(a, b) \
	(entry_place(a) < entry_place(b) ? -1 : entry_place(a) > entry_place(b))
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

static SideUser *
user_at(const Side *side, int n)
{
	return (SideUser *) (side->users + side->stride * n);
}

/* ---- the batch ------------------------------------------------------------------ */

static bool
is_sampled(const SideRange *range, const pg_uuid_t *user_id)
{
	uint64		hash;

	if (range->fraction >= 1)
		return true;
	hash = hash_bytes_extended(user_id->data, UUID_LEN, (uint64) range->seed);
	return (double) (hash >> 11) < range->fraction * (double) (UINT64CONST(1) << 53);
}

static SideUser *
add_user(Side *side, const pg_uuid_t *user_id)
{
	SideUser   *user = user_at(side, side->nusers++);

	memset(user, 0, side->stride);
	user->user_id = *user_id;
	user->exact = true;
	return user;
}

static void
add_entry(Side *side, ItemPointer tid)
{
	Entry	   *entry;

	if (side->nentries == side->max_entries)
	{
		side->max_entries *= 2;
		side->entries = repalloc_huge(side->entries, sizeof(Entry) * side->max_entries);
	}
	entry = &side->entries[side->nentries++];
	entry->tid = *tid;
	entry->user = side->nusers - 1;
}

/* A user has so many rows, as a rule. */
static void
allocate_batch(Side *side, int rows)
{
	Size		each;

	side->stride = MAXALIGN(offsetof(SideUser, values) + sizeof(Fixed) * side->nvalues);
	each = side->stride + sizeof(Entry) * rows;
	side->max_users = Max(MIN_USERS, Min(side->range.memory, MaxAllocHugeSize / 4) / each);
	side->max_entries = side->max_users * rows;
	side->users = MemoryContextAllocHuge(side->context, side->stride * side->max_users);
	side->entries = MemoryContextAllocHuge(side->context, sizeof(Entry) * side->max_entries);
}

/* ---- what a row adds ----------------------------------------------------------------- */

static void
add_value(SideUser *user, int value, Datum amount, bool negative)
{
	Fixed		fixed;

	if (user->summed++ >= MAX_SUMMED || !ledger_fixed_from(amount, &fixed))
		user->exact = false;
	else
		user->values[value] += negative ? -fixed : fixed;
}

static void
add_account(Side *side, SideUser *user)
{
	TupleTableSlot *slot = side->slot;
	struct varlena *type;

	slot_getsomeattrs(slot, side->last_attnum);
	if (!slot->tts_isnull[side->external_attnum - 1])
		return;
	type = (struct varlena *) DatumGetPointer(slot->tts_values[side->type_attnum - 1]);
	if (VARATT_IS_EXTENDED(type) && !VARATT_IS_SHORT(type))
	{
		user->exact = false;
		return;
	}
	for (int i = 0; i < side->nparts; i++)
	{
		const Part *part = &side->parts[i];

		if (VARSIZE_ANY_EXHDR(type) != part->length ||
			memcmp(VARDATA_ANY(type), part->type, part->length) != 0)
			continue;
		add_value(user, part->value, slot->tts_values[side->credits_attnum - 1], false);
		add_value(user, part->value, slot->tts_values[side->debits_attnum - 1], true);
	}
}

static void
add_row(Side *side, SideUser *user)
{
	slot_getsomeattrs(side->slot, side->last_attnum);
	for (int i = 0; i < side->nvalues; i++)
	{
		AttrNumber	attnum = side->table->columns[i].attnum;

		if (!side->slot->tts_isnull[attnum - 1])
			add_value(user, i, side->slot->tts_values[attnum - 1], false);
	}
}

/* ---- through an index ------------------------------------------------------------------ */

/* The next entry that is wanted, into ahead. */
static void
read_ahead(Side *side)
{
	ItemPointer tid;

	side->has_ahead = false;
	while (!side->at_end && !side->has_ahead)
	{
		bool		isnull;

		tid = index_getnext_tid(side->scan, ForwardScanDirection);
		if (tid == NULL)
		{
			side->at_end = true;
			return;
		}
		side->ahead = *DatumGetUUIDP(index_getattr(side->scan->xs_itup, 1,
												   side->scan->xs_itupdesc, &isnull));
		side->ahead_tid = *tid;
		side->has_ahead = is_sampled(&side->range, &side->ahead);
	}
}

static void
collect_entries(Side *side)
{
	SideUser   *user = NULL;

	side->nusers = side->nentries = 0;
	while (side->has_ahead)
	{
		if (user == NULL || memcmp(&user->user_id, &side->ahead, UUID_LEN) != 0)
		{
			CHECK_FOR_INTERRUPTS();
			if (side->nusers == side->max_users)
				return;
			user = add_user(side, &side->ahead);
		}
		add_entry(side, &side->ahead_tid);
		read_ahead(side);
	}
}

static void
fetch_rows(Side *side)
{
	sort_entries(side->entries, side->nentries);
	for (int i = 0; i < side->nentries; i++)
	{
		bool		call_again = false;
		SideUser   *user;

		if (i % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		if (!table_index_fetch_tuple(side->fetch, &side->entries[i].tid, side->snapshot,
									 side->slot, &call_again, NULL))
			continue;
		user = user_at(side, side->entries[i].user);
		user->found = true;
		if (side->table)
			add_row(side, user);
		else
			add_account(side, user);
	}
	ExecClearTuple(side->slot);
	table_index_fetch_reset(side->fetch);
}

/* ---- through a cursor -------------------------------------------------------------------- */

static void
read_cursor(Side *side)
{
	pg_uuid_t	user_id;
	LegacyRow	row;

	side->nusers = 0;
	while (side->nusers == 0)
	{
		SideUser   *user;

		CHECK_FOR_INTERRUPTS();
		if (!ledger_legacy_next(side->rows, &user_id, &row))
			return;
		if (!is_sampled(&side->range, &user_id))
			continue;
		user = add_user(side, &user_id);
		user->found = true;
		for (int i = 0; i < side->nvalues; i++)
		{
			if (row.values[i])
				add_value(user, i, NumericGetDatum(row.values[i]), false);
		}
	}
}

/* ---- begin, next, end ------------------------------------------------------------------------ */

/* The next batch; without users: there are no more. */
static void
fill(Side *side)
{
	MemoryContext old = MemoryContextSwitchTo(side->context);

	side->current = 0;
	if (side->rows)
		read_cursor(side);
	else
	{
		collect_entries(side);
		fetch_rows(side);
	}
	MemoryContextSwitchTo(old);
}

/* On to a user who is there for the snapshot. */
static void
settle(Side *side)
{
	for (;;)
	{
		if (side->current == side->nusers)
			fill(side);
		if (side->nusers == 0 || user_at(side, side->current)->found)
			return;
		side->current++;
	}
}

const SideUser *
ledger_side_user(const Side *side)
{
	return side->current < side->nusers ? user_at(side, side->current) : NULL;
}

void
ledger_side_next(Side *side)
{
	side->current++;
	settle(side);
}

static Side *
create_side(const SideRange *range, Snapshot snapshot, LegacyTable *table)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ledger side",
												  ALLOCSET_DEFAULT_SIZES);
	Side	   *side = MemoryContextAllocZero(context, sizeof(Side));

	side->context = context;
	side->range = *range;
	side->snapshot = snapshot;
	side->table = table;
	return side;
}

/* Both are open, and the index has the users in its first column. */
static void
begin_index(Side *side, Relation relation, Relation index, int rows)
{
	ScanKeyData keys[2];

	side->relation = relation;
	side->index = index;
	allocate_batch(side, rows);
	side->slot = table_slot_create(relation, NULL);
	side->fetch = table_index_fetch_begin(relation);
	side->scan = ledger_index_beginscan(relation, index, side->snapshot, 2);
	side->scan->xs_want_itup = true;
	ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_UUID_GE,
				UUIDPGetDatum(&side->range.from));
	ScanKeyInit(&keys[1], 1, BTLessEqualStrategyNumber, F_UUID_LE, UUIDPGetDatum(&side->range.to));
	index_rescan(side->scan, keys, 2, NULL, 0);
	read_ahead(side);
}

static void
add_parts(Side *side, List *tables)
{
	ListCell   *lc;

	side->parts = palloc(sizeof(Part) * LEDGER_MAX_LEGACY_COLUMNS * LEDGER_MAX_COLUMN_TYPES *
						 Max(list_length(tables), 1));
	foreach(lc, tables)
	{
		LegacyTable *table = lfirst(lc);

		for (int i = 0; i < table->ncolumns; i++)
		{
			const LegacyColumn *column = &table->columns[i];

			for (int j = 0; j < column->ntypes; j++)
			{
				Part	   *part = &side->parts[side->nparts++];

				part->type = column->types[j];
				part->length = strlen(column->types[j]);
				part->value = side->nvalues;
			}
			side->nvalues++;
		}
	}
}

Side *
ledger_side_of_accounts(List *tables, const SideRange *range, Snapshot snapshot)
{
	Side	   *side = create_side(range, snapshot, NULL);
	MemoryContext old = MemoryContextSwitchTo(side->context);
	Oid			relid = ledger_relation_oid("accounts");
	Relation	relation = table_open(relid, AccessShareLock);

	add_parts(side, tables);
	side->type_attnum = get_attnum(relid, "account_type");
	side->external_attnum = get_attnum(relid, "external_id");
	side->debits_attnum = get_attnum(relid, "debits");
	side->credits_attnum = get_attnum(relid, "credits");
	side->last_attnum = Max(Max(side->type_attnum, side->external_attnum),
							Max(side->debits_attnum, side->credits_attnum));
	begin_index(side, relation, index_open(ledger_relation_oid("accounts_identity"), AccessShareLock), 3);
	MemoryContextSwitchTo(old);
	settle(side);
	return side;
}

/* The index through which the table can be read here; NULL: by a cursor. */
static Relation
open_key_index(const LegacyTable *table, Relation relation)
{
	ListCell   *lc;

	if (table->key_kind != LEGACY_KEY_UUID || table->nwhere > 0 ||
		relation->rd_rel->relkind != RELKIND_RELATION ||
		relation->rd_rel->relam != HEAP_TABLE_AM_OID)
		return NULL;
	for (int i = 0; i < table->ncolumns; i++)
	{
		if (table->columns[i].attnum == InvalidAttrNumber || table->columns[i].unit ||
			get_atttype(table->relid, table->columns[i].attnum) != NUMERICOID)
			return NULL;
	}
	foreach(lc, RelationGetIndexList(relation))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (ledger_legacy_is_key_index(table, index) && ledger_legacy_is_in_order(index))
			return index;
		index_close(index, NoLock);
	}
	return NULL;
}

Side *
ledger_side_of_legacy(LegacyTable *table, const SideRange *range, Snapshot snapshot)
{
	Side	   *side;
	MemoryContext old;
	Relation	relation;
	Relation	index;

	table = ledger_row_lock_table(table, AccessShareLock);
	side = create_side(range, snapshot, table);
	old = MemoryContextSwitchTo(side->context);
	side->nvalues = table->ncolumns;
	relation = table_open(table->relid, NoLock);
	index = open_key_index(table, relation);
	if (index)
	{
		for (int i = 0; i < table->ncolumns; i++)
			side->last_attnum = Max(side->last_attnum, table->columns[i].attnum);
		begin_index(side, relation, index, 1);
	}
	else
	{
		table_close(relation, NoLock);
		side->range.memory = 0;
		allocate_batch(side, 1);
		side->rows = ledger_legacy_scan(table, &side->range.from, &side->range.to);
	}
	MemoryContextSwitchTo(old);
	settle(side);
	return side;
}

void
ledger_side_end(Side *side)
{
	if (side->rows)
		ledger_legacy_end(side->rows);
	else
	{
		index_endscan(side->scan);
		table_index_fetch_end(side->fetch);
		ExecDropSingleTupleTableSlot(side->slot);
		index_close(side->index, NoLock);
		table_close(side->relation, NoLock);
	}
	MemoryContextDelete(side->context);
}
