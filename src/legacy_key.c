/*
 * legacy_key.c
 *		Keys of legacy tables: the ledger knows users by uuid alone.
 *
 * A uuid is itself, a text its canonical form, an integer a uuid of version 8
 * that sorts as the integer does; any other type has two functions of the
 * table's owner, which run with his rights.
 */
#include "postgres.h"

#include "access/genam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "legacy.h"
#include "legacy_sql.h"

/* ---- integers ------------------------------------------------------------------------ */

/*
 * 48 bits of zeros, version 8, the value's two highest bits at the end of the
 * next 12, variant, the other 62 bits. The sign bit is turned round, so that
 * negative values come first.
 */
void
ledger_integer_as_uuid(int64 value, pg_uuid_t *uuid)
{
	uint64		bits = (uint64) value ^ (UINT64CONST(1) << 63);
	uint64		high = UINT64CONST(0x8000) | (bits >> 62);
	uint64		low = (UINT64CONST(2) << 62) | (bits & ~(UINT64CONST(3) << 62));

	high = pg_hton64(high);
	low = pg_hton64(low);
	memcpy(uuid->data, &high, 8);
	memcpy(uuid->data + 8, &low, 8);
}

bool
ledger_uuid_as_integer(const pg_uuid_t *uuid, int64 *value)
{
	uint64		high;
	uint64		low;

	memcpy(&high, uuid->data, 8);
	memcpy(&low, uuid->data + 8, 8);
	high = pg_ntoh64(high);
	low = pg_ntoh64(low);
	if ((high & ~UINT64CONST(3)) != 0x8000 || low >> 62 != 2)
		return false;
	*value = (int64) (((high << 62) | (low & ~(UINT64CONST(3) << 62))) ^ (UINT64CONST(1) << 63));
	return true;
}

PG_FUNCTION_INFO_V1(ledger_integer_to_uuid);

Datum
ledger_integer_to_uuid(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));

	ledger_integer_as_uuid(PG_GETARG_INT64(0), uuid);
	PG_RETURN_UUID_P(uuid);
}

PG_FUNCTION_INFO_V1(ledger_uuid_to_integer);

Datum
ledger_uuid_to_integer(PG_FUNCTION_ARGS)
{
	int64		value;

	if (!ledger_uuid_as_integer(PG_GETARG_UUID_P(0), &value))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("uuid %s does not stand for an integer",
						DatumGetCString(DirectFunctionCall1(uuid_out, PG_GETARG_DATUM(0)))),
				 errhint("Pass what integer_to_uuid() returned.")));
	PG_RETURN_INT64(value);
}

/* ---- the key of a user, and the user of a key ------------------------------------------ */

Oid
ledger_legacy_key_param_type(const LegacyTable *table)
{
	switch (table->key_kind)
	{
		case LEGACY_KEY_TEXT:
			return table->key_type == BPCHAROID ? BPCHAROID : TEXTOID;
		case LEGACY_KEY_INTEGER:
			return INT8OID;
		default:
			return UUIDOID;
	}
}

bool
ledger_legacy_key_param(const LegacyTable *table, const pg_uuid_t *user_id, Datum *value)
{
	int64		number;

	switch (table->key_kind)
	{
		case LEGACY_KEY_TEXT:
			*value = CStringGetTextDatum(DatumGetCString(
											 DirectFunctionCall1(uuid_out, UUIDPGetDatum(user_id))));
			return true;
		case LEGACY_KEY_INTEGER:
			if (!ledger_uuid_as_integer(user_id, &number))
				return false;
			*value = Int64GetDatum(number);
			return true;
		default:
			*value = UUIDPGetDatum(user_id);
			return true;
	}
}

/* The first integer whose uuid is not below it, counted from the lowest; 2^64 - 1: the last. */
static uint64
integers_below(const pg_uuid_t *uuid, bool or_equal)
{
	uint64		low = 0;		/* this many are below for sure */
	uint64		high = PG_UINT64_MAX;

	while (low < high)
	{
		uint64		middle = low + (high - low) / 2;
		pg_uuid_t	other;
		int			order;

		ledger_integer_as_uuid((int64) (middle ^ (UINT64CONST(1) << 63)), &other);
		order = memcmp(&other, uuid, UUID_LEN);
		if (order < 0 || (or_equal && order == 0))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * The parameters of a scan from one user to another. Integers: those of uuids
 * in the range; none, if the first comes after the last.
 */
void
ledger_legacy_key_range(const LegacyTable *table, const pg_uuid_t *from, const pg_uuid_t *to,
						Datum *values)
{
	pg_uuid_t	last;
	uint64		first = integers_below(from, false);
	uint64		end = integers_below(to, true);

	if (table->key_kind != LEGACY_KEY_INTEGER)
	{
		(void) ledger_legacy_key_param(table, from, &values[0]);
		(void) ledger_legacy_key_param(table, to, &values[1]);
		return;
	}
	ledger_integer_as_uuid(PG_INT64_MAX, &last);
	if (memcmp(to, &last, UUID_LEN) < 0 && end == 0)
	{
		/* all are above it */
		values[0] = Int64GetDatum(PG_INT64_MAX);
		values[1] = Int64GetDatum(PG_INT64_MIN);
		return;
	}
	values[0] = Int64GetDatum((int64) (first ^ (UINT64CONST(1) << 63)));
	values[1] = Int64GetDatum(memcmp(to, &last, UUID_LEN) >= 0 ? PG_INT64_MAX :
							  (int64) ((end - 1) ^ (UINT64CONST(1) << 63)));
	/* the search ends at the highest, which may be below too */
	if (memcmp(from, &last, UUID_LEN) > 0)
		values[1] = Int64GetDatum(PG_INT64_MIN);
}

static void
bad_key(const LegacyTable *table, const char *key, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
			 errmsg("invalid key in the attached legacy table %s", table->name),
			 errdetail("Column %s has \"%s\", which %s.", table->key_column, key, what),
			 errhint("Nobody could say whose row that is; write another key.")));
}

/* Another spelling of a uuid would be a second row of the same user. */
static void
user_of_text(const LegacyTable *table, const char *key, pg_uuid_t *user_id)
{
	static const char shape[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
	bool		right = strlen(key) == lengthof(shape) - 1;

	for (int i = 0; right && shape[i]; i++)
	{
		right = shape[i] == '-' ? key[i] == '-' :
			(key[i] >= '0' && key[i] <= '9') || (key[i] >= 'a' && key[i] <= 'f');
	}
	if (!right)
		bad_key(table, key, "is not a uuid in lower case with hyphens");
	*user_id = *DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(key)));
}

static char *
without_padding(char *key)
{
	size_t		n = strlen(key);

	while (n > 0 && key[n - 1] == ' ')
		n--;
	key[n] = '\0';
	return key;
}

static void
become_owner(const LegacyTable *table, OwnerContext *saved)
{
	char	   *search_path = ledger_legacy_search_path(table);

	ledger_become_reader(saved, table->owner, search_path);
	pfree(search_path);
}

/* Runs a function of the key's owner, as him; false: NULL. */
static bool
call_as_owner(const LegacyTable *table, Oid function, Datum arg, Datum *result)
{
	LOCAL_FCINFO(fcinfo, 1);
	FmgrInfo	flinfo;
	OwnerContext saved;

	become_owner(table, &saved);
	fmgr_info(function, &flinfo);
	InitFunctionCallInfoData(*fcinfo, &flinfo, 1, get_typcollation(table->key_type), NULL, NULL);
	fcinfo->args[0].value = arg;
	fcinfo->args[0].isnull = false;
	*result = FunctionCallInvoke(fcinfo);
	ledger_unbecome(&saved);
	return !fcinfo->isnull;
}

/* A condition's value; of a domain the owner's CHECK looks at it. */
Datum
ledger_legacy_condition_value(const LegacyTable *table, Oid type, const char *text)
{
	OwnerContext saved;
	Oid			input;
	Oid			param;
	Datum		value;

	getTypeInputInfo(type, &input, &param);
	become_owner(table, &saved);
	value = OidInputFunctionCall(input, unconstify(char *, text), param, -1);
	ledger_unbecome(&saved);
	return value;
}

static void
user_by_function(const LegacyTable *table, Datum key, pg_uuid_t *user_id)
{
	Datum		result;

	if (!call_as_owner(table, table->to_uuid, key, &result))
	{
		Oid			output;
		bool		varlena;

		getTypeOutputInfo(table->key_type, &output, &varlena);
		bad_key(table, OidOutputFunctionCall(output, key), "its function makes no uuid of");
	}
	*user_id = *DatumGetUUIDP(result);
}

bool
ledger_legacy_key_value(const LegacyTable *table, const pg_uuid_t *user_id, Datum *value)
{
	if (table->key_kind == LEGACY_KEY_FUNCTIONS)
		return call_as_owner(table, table->from_uuid, UUIDPGetDatum(user_id), value);
	return ledger_legacy_key_param(table, user_id, value);
}

void
ledger_legacy_key_user(const LegacyTable *table, Datum key, pg_uuid_t *user_id)
{
	switch (table->key_kind)
	{
		case LEGACY_KEY_UUID:
			*user_id = *DatumGetUUIDP(key);
			break;
		case LEGACY_KEY_TEXT:
			user_of_text(table, table->key_type == BPCHAROID ?
						 without_padding(TextDatumGetCString(key)) : TextDatumGetCString(key),
						 user_id);
			break;
		case LEGACY_KEY_INTEGER:
			ledger_integer_as_uuid(table->key_type == INT8OID ? DatumGetInt64(key) :
								   table->key_type == INT4OID ? DatumGetInt32(key) :
								   DatumGetInt16(key), user_id);
			break;
		case LEGACY_KEY_FUNCTIONS:
			user_by_function(table, key, user_id);
			break;
	}
}

/* ---- operators and indexes ---------------------------------------------------------------- */

char *
ledger_legacy_equals(Oid type)
{
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_EQ_OPR);
	HeapTuple	tuple;
	Form_pg_operator form;
	char	   *name;

	if (!OidIsValid(entry->eq_opr))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("type %s has no operator for equality", format_type_be(type))));
	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(entry->eq_opr));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", entry->eq_opr);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	name = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
					NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return name;
}

bool
ledger_legacy_is_key_index(const LegacyTable *table, Relation index)
{
	Form_pg_index form = index->rd_index;
	AttrNumber	key = get_attnum(form->indrelid, table->key_column);
	bool		has_key = false;

	if (index->rd_rel->relam != BTREE_AM_OID || !form->indisunique || !form->indimmediate ||
		!form->indisvalid || RelationGetIndexPredicate(index) != NIL ||
		RelationGetIndexExpressions(index) != NIL)
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
	{
		bool		known = form->indkey.values[i] == key;

		has_key |= known;
		for (int w = 0; w < table->nwhere && !known; w++)
			known = get_attnum(form->indrelid, table->where[w]) == form->indkey.values[i];
		if (!known)
			return false;
	}
	return has_key;
}

/* Whether a scan of it gives the users in their order: not of an index DESC. */
bool
ledger_legacy_is_in_order(Relation index)
{
	return (index->rd_indoption[0] & INDOPTION_DESC) == 0;
}
