/*
 * account_type.c
 *		Currencies and account types.
 *
 * They are few and hardly change: each backend keeps what it has read of them
 * until a relcache invalidation of either table (sent by their guard trigger)
 * makes it read them again. A currency or a type once met stays where it is,
 * and what of it may change is changed in place: an invalidation may come in
 * the middle of a call, and two pointers to one type are equal all the same.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "tcop/cmdtag.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "account_type.h"
#include "errors.h"
#include "store.h"

enum
{
	CURRENCY_CODE, CURRENCY_SCALE, CURRENCY_DISPLAY, CURRENCY_COLUMNS
};
static const char *const currency_columns[] = {"code", "scale", "display_digits"};
static StoreSpec currency_spec = {"currencies", currency_columns, CURRENCY_COLUMNS, NULL};

enum
{
	TYPE_NAME, TYPE_OWNER, TYPE_CURRENCY, TYPE_SIDE, TYPE_MIN, TYPE_STRIPES, TYPE_COLUMNS
};
static const char *const type_columns[] = {
	"name", "owner", "currency", "normal_side", "min_balance", "stripes"
};
static StoreSpec type_spec = {"account_types", type_columns, TYPE_COLUMNS, NULL};

/* ---- what is kept ------------------------------------------------------------ */

/* All that this backend has met, also what is gone with an extension dropped; in CacheMemoryContext. */
static List *met_currencies = NIL;
static List *met_types = NIL;

/* How both begin. */
typedef struct Named
{
	char		name[NAMEDATALEN];
	Datum		text;
} Named;

StaticAssertDecl(offsetof(LedgerCurrency, text) == offsetof(Named, text) &&
				 offsetof(LedgerAccountType, text) == offsetof(Named, text),
				 "a currency and an account type begin with their name");

/* Those that there are, as last read. */
typedef struct TypeCache
{
	MemoryContext context;
	Oid			currencies;		/* OIDs of the tables it was read from */
	Oid			account_types;
	int			ncurrencies;
	LedgerCurrency **currency;
	int			ntypes;
	LedgerAccountType **type;
} TypeCache;

static TypeCache *type_cache = NULL;

static void
relcache_callback(Datum arg, Oid relid)
{
	TypeCache  *cache = type_cache;

	if (cache == NULL)
		return;
	if (OidIsValid(relid) && relid != cache->currencies && relid != cache->account_types)
		return;
	type_cache = NULL;
	/* a call may be walking its lists: they go with the transaction */
	if (TopTransactionContext != NULL)
		MemoryContextSetParent(cache->context, TopTransactionContext);
	else
		MemoryContextDelete(cache->context);
}

void
ledger_account_type_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
}

/* Reads all rows of a small table; each is what of() makes of it. */
static int
read_all(StoreSpec *spec, void ***list,
		 void *(*of) (const TypeCache *cache, Datum *values, bool *isnull), TypeCache *cache)
{
	Store	   *store = ledger_store_open(spec, AccessShareLock);
	/* the latest, in a parallel worker too */
	Snapshot	snapshot = RegisterSnapshot(GetCatalogSnapshot(ledger_store_oid(spec)));
	StoreScan  *scan = ledger_store_scan(store, NULL, snapshot, NULL, 0);
	Datum		values[STORE_MAX_COLUMNS];
	bool		isnull[STORE_MAX_COLUMNS];
	int			n = 0;
	int			max = 16;

	*list = MemoryContextAlloc(cache->context, sizeof(void *) * max);
	while (ledger_store_next(scan, ForwardScanDirection, values, isnull, NULL))
	{
		if (n == max)
		{
			max *= 2;
			*list = repalloc(*list, sizeof(void *) * max);
		}
		(*list)[n++] = of(cache, values, isnull);
	}
	ledger_store_end(scan);
	UnregisterSnapshot(snapshot);
	ledger_store_close(store);
	return n;
}

static const LedgerCurrency *
find_currency(const TypeCache *cache, const char *code)
{
	for (int i = 0; i < cache->ncurrencies; i++)
	{
		if (strcmp(cache->currency[i]->code, code) == 0)
			return cache->currency[i];
	}
	return NULL;
}

/* The one of that name, now or from before. */
static void *
met(List **all, const char *name, Size size)
{
	MemoryContext old;
	Named	   *named;
	ListCell   *lc;

	foreach(lc, *all)
	{
		named = lfirst(lc);
		if (strcmp(named->name, name) == 0)
			return named;
	}
	old = MemoryContextSwitchTo(CacheMemoryContext);
	named = palloc0(size);
	strlcpy(named->name, name, NAMEDATALEN);
	named->text = CStringGetTextDatum(name);
	*all = lappend(*all, named);
	MemoryContextSwitchTo(old);
	return named;
}

/* A limit that has changed is not freed: somebody may be comparing with it. */
static Numeric
kept_limit(Numeric kept, Datum value, bool isnull)
{
	MemoryContext old;

	if (isnull)
		return NULL;
	if (kept && DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(kept), value)))
		return kept;
	old = MemoryContextSwitchTo(CacheMemoryContext);
	kept = DatumGetNumericCopy(value);
	MemoryContextSwitchTo(old);
	return kept;
}

static void *
read_currency(const TypeCache *cache, Datum *values, bool *isnull)
{
	LedgerCurrency *currency = met(&met_currencies, TextDatumGetCString(values[CURRENCY_CODE]),
								   sizeof(LedgerCurrency));

	currency->scale = DatumGetInt16(values[CURRENCY_SCALE]);
	currency->display_digits = DatumGetInt16(values[CURRENCY_DISPLAY]);
	return currency;
}

static void *
read_type(const TypeCache *cache, Datum *values, bool *isnull)
{
	LedgerAccountType *type = met(&met_types, TextDatumGetCString(values[TYPE_NAME]),
								  sizeof(LedgerAccountType));

	type->owner_user = strcmp(TextDatumGetCString(values[TYPE_OWNER]), "user") == 0;
	type->debit_normal = strcmp(TextDatumGetCString(values[TYPE_SIDE]), "debit") == 0;
	type->currency = isnull[TYPE_CURRENCY] ? NULL :
		find_currency(cache, TextDatumGetCString(values[TYPE_CURRENCY]));
	type->unknown_currency = !isnull[TYPE_CURRENCY] && type->currency == NULL;
	type->stripes = DatumGetInt16(values[TYPE_STRIPES]);
	type->min_balance = kept_limit(type->min_balance, values[TYPE_MIN], isnull[TYPE_MIN]);
	return type;
}

/* Reads both tables; what is invalidated meanwhile is noticed, because it is in place. */
static TypeCache *
read_tables(void)
{
	MemoryContext context = AllocSetContextCreate(TopTransactionContext, "ledger types",
												  ALLOCSET_SMALL_SIZES);
	TypeCache  *cache = MemoryContextAllocZero(context, sizeof(TypeCache));

	cache->context = context;
	cache->currencies = ledger_store_oid(&currency_spec);
	cache->account_types = ledger_store_oid(&type_spec);
	type_cache = cache;
	PG_TRY();
	{
		cache->ncurrencies = read_all(&currency_spec, (void ***) &cache->currency,
									  read_currency, cache);
		cache->ntypes = read_all(&type_spec, (void ***) &cache->type, read_type, cache);
	}
	PG_CATCH();
	{
		type_cache = NULL;
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (type_cache == cache)
		MemoryContextSetParent(context, CacheMemoryContext);
	return cache;
}

/* If they are invalidated each time that they are read, what is read will do for once. */
static TypeCache *
types(void)
{
	TypeCache  *cache = type_cache;

	for (int i = 0; type_cache == NULL && i < 3; i++)
		cache = read_tables();
	return cache;
}

LedgerAccountType *const *
ledger_account_types(int *n)
{
	TypeCache  *cache = types();

	*n = cache->ntypes;
	return cache->type;
}

const LedgerAccountType *
ledger_account_type_find(const char *name, LedgerRefusal **refusal)
{
	TypeCache  *cache = types();

	for (int i = 0; i < cache->ntypes; i++)
	{
		if (strcmp(cache->type[i]->name, name) != 0)
			continue;
		if (!cache->type[i]->unknown_currency)
			return cache->type[i];
		*refusal = ledger_refusal(ERRCODE_LG_NOT_ALLOWED,
								  psprintf("account type \"%s\" is in an unknown currency", name),
								  "No row of ledger.currencies has the code that its row names.",
								  "Insert the currency.");
		return NULL;
	}
	*refusal = ledger_refusal(ERRCODE_LG_NOT_ALLOWED,
							  psprintf("unknown account type \"%s\"", pnstrdup(name, NAMEDATALEN)),
							  "No row of ledger.account_types has that name.",
							  "ledger.account_types lists the account types; insert a row to add one.");
	return NULL;
}

const LedgerAccountType *
ledger_account_type(const char *name)
{
	LedgerRefusal *refusal = NULL;
	const LedgerAccountType *type = ledger_account_type_find(name, &refusal);

	ledger_refusal_raise(refusal);
	return type;
}

const LedgerCurrency *
ledger_currency_find(const char *code, LedgerRefusal **refusal)
{
	const LedgerCurrency *currency = find_currency(types(), code);

	if (currency == NULL)
		*refusal = ledger_refusal(ERRCODE_LG_NOT_ALLOWED,
								  psprintf("unknown currency \"%s\"", pnstrdup(code, NAMEDATALEN)),
								  "No row of ledger.currencies has that code.",
								  "ledger.currencies lists the currencies; insert a row to add one.");
	return currency;
}

const LedgerCurrency *
ledger_currency(const char *code)
{
	LedgerRefusal *refusal = NULL;
	const LedgerCurrency *currency = ledger_currency_find(code, &refusal);

	ledger_refusal_raise(refusal);
	return currency;
}

const LedgerCurrency *
ledger_account_currency(const LedgerAccountType *type, const LedgerCurrency *currency,
						LedgerRefusal **refusal)
{
	if (currency == NULL)
		currency = type->currency;
	if (currency == NULL)
		*refusal = ledger_refusal(ERRCODE_LG_NOT_ALLOWED,
								  psprintf("account type %s has an account for each currency", type->name),
								  "The type has no currency of its own.", "Pass the currency.");
	else if (type->currency && type->currency != currency)
	{
		*refusal = ledger_refusal(ERRCODE_LG_NOT_ALLOWED,
								  psprintf("account type %s is in %s, not in %s", type->name,
										   type->currency->code, currency->code),
								  "Every account of the type is in its currency.",
								  "Pass NULL for the type's own currency.");
		return NULL;
	}
	return currency;
}

/* ---- guard of types and currencies ------------------------------------------- */

PG_FUNCTION_INFO_V1(ledger_type_guard);

static bool
tuple_is_shipped(HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	Datum		shipped = heap_getattr(tuple, SPI_fnumber(desc, "shipped"), desc, &isnull);

	return !isnull && DatumGetBool(shipped);
}

/* Whether any column but those that may change differs. */
static bool
identity_changes(HeapTuple old, HeapTuple new, TupleDesc desc)
{
	static const char *const fixed[] = {
		"code", "scale", "name", "owner", "currency", "normal_side", "shipped"
	};

	for (int i = 0; i < (int) lengthof(fixed); i++)
	{
		int			att = SPI_fnumber(desc, fixed[i]);
		bool		oldnull,
					newnull;
		Datum		olddatum,
					newdatum;

		if (att <= 0)
			continue;
		olddatum = heap_getattr(old, att, desc, &oldnull);
		newdatum = heap_getattr(new, att, desc, &newnull);
		if (oldnull != newnull)
			return true;
		if (!oldnull && !datum_image_eq(olddatum, newdatum,
										TupleDescAttr(desc, att - 1)->attbyval,
										TupleDescAttr(desc, att - 1)->attlen))
			return true;
	}
	return false;
}

/*
 * A new type's currency must be there. Not a foreign key, because a restore
 * puts back the rows of the extension's tables in whatever order: what comes
 * by COPY is left to verify().
 */
static void
check_currency(HeapTuple tuple, TupleDesc desc)
{
	int			att = SPI_fnumber(desc, "currency");
	char	   *code;

	if (att <= 0 || (ActivePortal && ActivePortal->commandTag == CMDTAG_COPY))
		return;
	code = SPI_getvalue(tuple, desc, att);
	if (code)
		(void) ledger_currency(code);
}

/*
 * BEFORE row trigger of currencies and account_types: shipped rows come from
 * the install script alone and stay; of the others only what no posting rests
 * on may change. Tells every session to read the tables anew.
 */
Datum
ledger_type_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	HeapTuple	result;
	bool		refuse;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("type_guard() must be called as a trigger")));
	desc = RelationGetDescr(trigger->tg_relation);
	result = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
		trigger->tg_newtuple : trigger->tg_trigtuple;
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		refuse = tuple_is_shipped(result, desc);
	else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		refuse = true;
	else
		refuse = tuple_is_shipped(trigger->tg_trigtuple, desc) ||
			identity_changes(trigger->tg_trigtuple, result, desc);
	if (refuse)
		ereport(ERROR,
				(errcode(ERRCODE_LG_NOT_ALLOWED),
				 errmsg("this row of ledger.%s cannot be changed",
						RelationGetRelationName(trigger->tg_relation)),
				 errdetail("Shipped rows are fixed; of other rows the name, the currency, the owner and the normal side are, because accounts rest on them."),
				 errhint("Insert a row with another name.")));
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		check_currency(result, desc);
	CacheInvalidateRelcache(trigger->tg_relation);
	return PointerGetDatum(result);
}
