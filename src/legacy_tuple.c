/*
 * legacy_tuple.c
 *		Rows of a legacy table as tuples, and what their columns are worth.
 *
 * The attribute numbers of a partition need not be its root's. What is known
 * of a relation (its numbers, the values of the conditions as it has them) is
 * its shape, made when it is first met.
 *
 * An amount is what a column holds, times the unit. Going back nothing is
 * rounded: what the column cannot hold is 22003.
 *
 * Memory: shapes live in a context per backend and go with the mappings, or
 * when the relation is altered.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "amount.h"
#include "legacy.h"

#define EXACT_DIGITS	60		/* after the point, of a quotient */

typedef struct LegacyShape
{
	Oid			relid;			/* hash key */
	bool		complete;
	AttrNumber	key;
	AttrNumber	columns[LEDGER_MAX_LEGACY_COLUMNS];
	AttrNumber	where[LEDGER_MAX_WHERE];
	Oid			collations[LEDGER_MAX_WHERE];
	FmgrInfo	equals[LEDGER_MAX_WHERE];
	Datum		values[LEDGER_MAX_LEGACY_COLUMNS][LEDGER_MAX_WHERE];
	AttrNumber *constants;		/* in the order of the table's; InvalidAttrNumber: not there */
} LegacyShape;

static MemoryContext shapes_context = NULL;
static HTAB *shapes = NULL;
static int64 shapes_generation = 0; /* of the mappings that they were made from */

/* ---- amounts ----------------------------------------------------------------------------- */

static Numeric
as_numeric(Oid type, Datum value)
{
	switch (type)
	{
		case INT8OID:
			return int64_to_numeric(DatumGetInt64(value));
		case INT4OID:
			return int64_to_numeric(DatumGetInt32(value));
		case INT2OID:
			return int64_to_numeric(DatumGetInt16(value));
		default:
			return DatumGetNumericCopy(value);
	}
}

Numeric
ledger_legacy_amount(const LegacyColumn *column, Datum value)
{
	Numeric		number = as_numeric(column->type, value);

	return column->unit ? numeric_mul_opt_error(number, column->unit, NULL) : number;
}

static void
cannot_hold(const LegacyColumn *column)
{
	ereport(ERROR,
			(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
			 errmsg("legacy column %s cannot hold the amount without rounding", column->name),
			 column->unit == NULL ?
			 errdetail("The column has %d digits after the point.", column->scale) :
			 column->limited ?
			 errdetail("The column has %d digits after the point, in units of %s.", column->scale,
					   ledger_amount_out(column->unit)) :
			 errdetail("The amount is no multiple of %s that can be written.",
					   ledger_amount_out(column->unit))));
}

Numeric
ledger_legacy_column_value(const LegacyColumn *column, Numeric amount)
{
	Numeric		value = amount;

	if (column->unit)
	{
		/* division keeps as many digits as its operands show */
		value = DatumGetNumeric(DirectFunctionCall2(numeric_round, NumericGetDatum(amount),
													Int32GetDatum(EXACT_DIGITS)));
		value = numeric_div_opt_error(value, column->unit, NULL);
		value = DatumGetNumeric(DirectFunctionCall1(numeric_trim_scale, NumericGetDatum(value)));
		if (ledger_amount_cmp(numeric_mul_opt_error(value, column->unit, NULL), amount) != 0)
			cannot_hold(column);
	}
	if (column->limited &&
		ledger_amount_cmp(value, DatumGetNumeric(DirectFunctionCall2(numeric_round, NumericGetDatum(value),
																	 Int32GetDatum(column->scale)))) != 0)
		cannot_hold(column);
	return value;
}

/* ---- shapes ------------------------------------------------------------------------------ */

void
ledger_legacy_tuple_forget(void)
{
	MemoryContext context = shapes_context;

	shapes = NULL;
	shapes_context = NULL;
	if (context == NULL)
		return;
	/* one may be in use */
	if (TopTransactionContext != NULL)
		MemoryContextSetParent(context, TopTransactionContext);
	else
		MemoryContextDelete(context);
}

bool
ledger_legacy_tuple_knows(Oid relid)
{
	return shapes && hash_search(shapes, &relid, HASH_FIND, NULL) != NULL;
}

static void
create_shapes(int64 generation)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "ledger legacy shapes",
												  ALLOCSET_SMALL_SIZES);
	HASHCTL		info = {0};

	info.keysize = sizeof(Oid);
	info.entrysize = sizeof(LegacyShape);
	info.hcxt = context;
	shapes = hash_create("ledger legacy shapes", 16, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	MemoryContextSetParent(context, CacheMemoryContext);
	shapes_context = context;
	shapes_generation = generation;
}

static void
cannot_tell(const LegacyTable *table, const char *column)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot capture a write to the attached legacy table %s", table->name),
			 errdetail("Column %s is not there, or not of its type.", column),
			 errhint("Restore it, or call detach_legacy('%s').", table->name)));
}

/* One column of the conditions, with its value in each group. */
static void
shape_condition(LegacyShape *shape, const LegacyTable *table, TupleDesc desc, int w,
				MemoryContext context)
{
	Form_pg_attribute attribute;
	TypeCacheEntry *type;

	shape->where[w] = get_attnum(shape->relid, table->where[w]);
	if (shape->where[w] == InvalidAttrNumber)
		cannot_tell(table, table->where[w]);
	attribute = TupleDescAttr(desc, shape->where[w] - 1);
	type = lookup_type_cache(attribute->atttypid, TYPECACHE_EQ_OPR_FINFO);
	if (!OidIsValid(type->eq_opr_finfo.fn_oid))
		cannot_tell(table, table->where[w]);
	fmgr_info_cxt(type->eq_opr_finfo.fn_oid, &shape->equals[w], context);
	shape->collations[w] = attribute->attcollation;
	for (int g = 0; g < table->ngroups; g++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		shape->values[g][w] = ledger_legacy_condition_value(table, attribute->atttypid,
															table->groups[g].values[w]);
		MemoryContextSwitchTo(old);
	}
}

static const LegacyShape *
shape_of(const LegacyTable *table, Relation relation)
{
	Oid			relid = RelationGetRelid(relation);
	TupleDesc	desc = RelationGetDescr(relation);
	MemoryContext context;
	LegacyShape *shape;
	bool		found;

	if (shapes && shapes_generation != table->generation)
		ledger_legacy_tuple_forget();
	if (shapes == NULL)
		create_shapes(table->generation);
	/* what is forgotten while it is made stays to the end of the transaction */
	context = shapes_context;
	shape = hash_search(shapes, &relid, HASH_ENTER, &found);
	if (!found)
		shape->complete = false;
	if (shape->complete)
		return shape;
	/* whose row it is must be known, or the write is not allowed */
	shape->key = get_attnum(relid, table->key_column);
	if (shape->key == InvalidAttrNumber || !OidIsValid(table->key_type) ||
		TupleDescAttr(desc, shape->key - 1)->atttypid != table->key_type)
		cannot_tell(table, table->key_column);
	/* a function that is gone, say */
	ledger_legacy_check_table(table);
	for (int w = 0; w < table->nwhere; w++)
		shape_condition(shape, table, desc, w, context);
	for (int i = 0; i < table->ncolumns; i++)
	{
		const LegacyColumn *column = &table->columns[i];

		shape->columns[i] = get_attnum(relid, column->column);
		if (shape->columns[i] == InvalidAttrNumber || column->attnum == InvalidAttrNumber ||
			TupleDescAttr(desc, shape->columns[i] - 1)->atttypid != column->type)
			cannot_tell(table, column->column);
	}
	shape->constants = MemoryContextAllocZero(context, sizeof(AttrNumber) *
											  (list_length(table->constants) + 1));
	for (int i = 0; i < list_length(table->constants); i++)
		shape->constants[i] = get_attnum(relid,
										 ((LegacyConstant *) list_nth(table->constants, i))->name);
	shape->complete = true;
	return shape;
}

/* ---- rows as documents ------------------------------------------------------------------- */

/*
 * What is caught here has computed and nothing else, so it needs no
 * subtransaction.
 */
bool
ledger_legacy_row_jsonb(const char *json, Datum *jsonb)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool done = false;

	PG_TRY();
	{
		*jsonb = DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
		done = true;
	}
	PG_CATCH();
	{
		int			category = ERRCODE_TO_CATEGORY(geterrcode());

		if (category != ERRCODE_DATA_EXCEPTION && category != ERRCODE_PROGRAM_LIMIT_EXCEEDED)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
	return done;
}

/* ---- tuples ------------------------------------------------------------------------------ */

/* -1: none */
static int
group_of(const LegacyTable *table, const LegacyShape *shape, HeapTuple tuple, TupleDesc desc)
{
	Datum		values[LEDGER_MAX_WHERE];
	bool		isnull;

	for (int w = 0; w < table->nwhere; w++)
	{
		values[w] = heap_getattr(tuple, shape->where[w], desc, &isnull);
		if (isnull)
			return -1;
	}
	for (int g = 0; g < table->ngroups; g++)
	{
		bool		same = true;

		for (int w = 0; w < table->nwhere && same; w++)
			same = DatumGetBool(FunctionCall2Coll(unconstify(FmgrInfo *, &shape->equals[w]),
												  shape->collations[w], values[w],
												  shape->values[g][w]));
		if (same)
			return g;
	}
	return -1;
}

bool
ledger_legacy_tuple_owner(const LegacyTable *table, Relation relation, HeapTuple tuple,
						  pg_uuid_t *user_id)
{
	const LegacyShape *shape = shape_of(table, relation);
	bool		isnull;
	Datum		key = heap_getattr(tuple, shape->key, RelationGetDescr(relation), &isnull);

	if (!isnull)
		ledger_legacy_key_user(table, key, user_id);
	return !isnull;
}

int
ledger_legacy_tuple_group(const LegacyTable *table, Relation relation, HeapTuple tuple)
{
	return group_of(table, shape_of(table, relation), tuple, RelationGetDescr(relation));
}

bool
ledger_legacy_tuple_key(const LegacyTable *table, Relation relation, HeapTuple tuple,
						pg_uuid_t *user_id)
{
	return tuple != NULL && ledger_legacy_tuple_group(table, relation, tuple) >= 0 &&
		ledger_legacy_tuple_owner(table, relation, tuple, user_id);
}

static bool
same_attribute(TupleDesc desc, AttrNumber attnum, HeapTuple before, HeapTuple after)
{
	Form_pg_attribute attribute = TupleDescAttr(desc, attnum - 1);
	bool		old_null;
	bool		new_null;
	Datum		old = heap_getattr(before, attnum, desc, &old_null);
	Datum		new = heap_getattr(after, attnum, desc, &new_null);

	return old_null == new_null &&
		(old_null || datum_image_eq(old, new, attribute->attbyval, attribute->attlen));
}

const char *
ledger_legacy_tuple_turned(const LegacyTable *table, Relation relation, HeapTuple before,
						   HeapTuple after)
{
	TupleDesc	desc = RelationGetDescr(relation);
	const LegacyShape *shape = shape_of(table, relation);

	if (!same_attribute(desc, shape->key, before, after))
		return table->key_column;
	for (int w = 0; w < table->nwhere; w++)
	{
		if (!same_attribute(desc, shape->where[w], before, after))
			return table->where[w];
	}
	for (int i = 0; i < list_length(table->constants); i++)
	{
		if (shape->constants[i] != InvalidAttrNumber &&
			!same_attribute(desc, shape->constants[i], before, after))
			return ((LegacyConstant *) list_nth(table->constants, i))->name;
	}
	return NULL;
}

bool
ledger_legacy_tuple_moved(const LegacyTable *table, Relation relation, HeapTuple before,
						  HeapTuple after)
{
	const LegacyShape *shape = shape_of(table, relation);

	for (int i = 0; i < table->ncolumns; i++)
	{
		if (!same_attribute(RelationGetDescr(relation), shape->columns[i], before, after))
			return true;
	}
	return false;
}

bool
ledger_legacy_tuple_value(const LegacyTable *table, Relation relation, HeapTuple tuple, int i,
						  Numeric *value)
{
	TupleDesc	desc = RelationGetDescr(relation);
	const LegacyShape *shape = shape_of(table, relation);
	bool		isnull;
	Datum		datum;

	*value = NULL;
	if (table->nwhere > 0 && group_of(table, shape, tuple, desc) != table->columns[i].group)
		return false;
	datum = heap_getattr(tuple, shape->columns[i], desc, &isnull);
	if (!isnull)
		*value = ledger_legacy_amount(&table->columns[i], datum);
	return true;
}
