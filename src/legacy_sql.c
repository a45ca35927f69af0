/*
 * legacy_sql.c
 *		The text of the SQL that legacy_row.c and legacy_scan.c run on a legacy table.
 *
 * Every name is quoted and every operator qualified: search_path is for the
 * owner's code, see ledger_legacy_search_path().
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "legacy_sql.h"

/* FROM or UPDATE what */
static char *
relation_sql(const LegacyTable *table)
{
	return psprintf("%s%s AS t", table->partitioned ? "" : "ONLY ", table->name);
}

/* A row of one group has the values of its condition. */
static void
append_condition(StringInfo sql, const LegacyTable *table, int group)
{
	for (int w = 0; w < table->nwhere; w++)
	{
		AttrNumber	attnum = get_attnum(table->relid, table->where[w]);

		appendStringInfo(sql, "%st.%s %s %s", w ? " AND " : "", quote_identifier(table->where[w]),
						 ledger_legacy_equals(get_atttype(table->relid, attnum)),
						 quote_literal_cstr(table->groups[group].values[w]));
	}
}

/* The number of the row's group; NULL: none. */
static void
append_group(StringInfo sql, const LegacyTable *table)
{
	if (table->nwhere == 0)
	{
		appendStringInfoChar(sql, '0');
		return;
	}
	appendStringInfoString(sql, "CASE");
	for (int g = 0; g < table->ngroups; g++)
	{
		appendStringInfoString(sql, " WHEN ");
		append_condition(sql, table, g);
		appendStringInfo(sql, " THEN %d", g);
	}
	appendStringInfoString(sql, " END");
}

static void
append_any_group(StringInfo sql, const LegacyTable *table)
{
	for (int g = 0; table->nwhere > 0 && g < table->ngroups; g++)
	{
		appendStringInfoString(sql, g ? " OR (" : " AND ((");
		append_condition(sql, table, g);
		appendStringInfoString(sql, g == table->ngroups - 1 ? "))" : ")");
	}
}

/* The key that is the plan's first parameter. */
static const char *
key_sql(const LegacyTable *table)
{
	return table->key_kind == LEGACY_KEY_FUNCTIONS ?
		psprintf("%s($1)", table->from_uuid_name) : "$1";
}

static void
append_key(StringInfo sql, const LegacyTable *table)
{
	appendStringInfo(sql, "t.%s %s %s", quote_identifier(table->key_column),
					 table->key_kind == LEGACY_KEY_FUNCTIONS ?
					 ledger_legacy_equals(table->key_type) : "OPERATOR(pg_catalog.=)",
					 key_sql(table));
}

/* The key as it is read, and as it sorts: in the order of the users. */
static char *
scan_key_sql(const LegacyTable *table, bool sort)
{
	const char *key = quote_identifier(table->key_column);

	switch (table->key_kind)
	{
		case LEGACY_KEY_TEXT:
			return psprintf(sort ? "t.%s COLLATE pg_catalog.\"C\"" : "t.%s::pg_catalog.text", key);
		case LEGACY_KEY_INTEGER:
			return psprintf(sort ? "t.%s" : "t.%s::pg_catalog.int8", key);
		case LEGACY_KEY_FUNCTIONS:
			return psprintf("%s(t.%s)", table->to_uuid_name, key);
		default:
			return psprintf("t.%s", key);
	}
}

/* The mapped columns, whether a constant's column says otherwise, and the group. */
static void
append_row(StringInfo sql, const LegacyTable *table)
{
	ListCell   *lc;
	const char *or = "";

	for (int i = 0; i < table->ncolumns; i++)
		appendStringInfo(sql, "t.%s, ", quote_identifier(table->columns[i].column));
	if (table->constants == NIL)
		appendStringInfoString(sql, "false");
	foreach(lc, table->constants)
	{
		LegacyConstant *constant = lfirst(lc);
		const char *name = quote_identifier(constant->name);
		ListCell   *lv;

		appendStringInfo(sql, "%s(t.%s IS NOT NULL", or, name);
		foreach(lv, constant->values)
			appendStringInfo(sql, " AND (t.%s::pg_catalog.text COLLATE pg_catalog.\"C\")"
							 " OPERATOR(pg_catalog.<>) %s", name, quote_literal_cstr(lfirst(lv)));
		appendStringInfoChar(sql, ')');
		or = " OR ";
	}
	appendStringInfoString(sql, ", ");
	append_group(sql, table);
}

/* FROM the rows of the users from $1 to $2. */
static void
append_range(StringInfo sql, const LegacyTable *table)
{
	const char *key = scan_key_sql(table, true);

	appendStringInfo(sql, "%s WHERE %s OPERATOR(pg_catalog.>=) $1 AND %s OPERATOR(pg_catalog.<=) $2",
					 relation_sql(table), key, key);
	append_any_group(sql, table);
}

/* What the columns of the conditions hold; the same with how many rows and how much. */
static void
append_no_group(StringInfo sql, const LegacyTable *table)
{
	StringInfoData values;

	initStringInfo(&values);
	for (int w = 0; w < table->nwhere; w++)
		appendStringInfo(&values, "%s%s, t.%s", w ? ", " : "",
						 quote_literal_cstr(table->where[w]), quote_identifier(table->where[w]));
	appendStringInfo(sql, "SELECT pg_catalog.jsonb_build_object(%s),"
					 " pg_catalog.jsonb_build_object(%s, 'rows', pg_catalog.count(*)",
					 values.data, values.data);
	for (int i = 0; i < table->ncolumns; i++)
		appendStringInfo(sql, ", %s, pg_catalog.sum(t.%s)",
						 quote_literal_cstr(table->columns[i].column),
						 quote_identifier(table->columns[i].column));
	appendStringInfo(sql, ") FROM %s WHERE (true", relation_sql(table));
	append_any_group(sql, table);
	appendStringInfoString(sql, ") IS NOT TRUE GROUP BY ");
	for (int w = 0; w < table->nwhere; w++)
		appendStringInfo(sql, "%st.%s", w ? ", " : "", quote_identifier(table->where[w]));
}

/* The columns of the unique index on the key: what a new row may collide in. */
static char *
conflict_columns(const LegacyTable *table)
{
	Relation	relation = table_open(table->relid, NoLock);
	List	   *indexes = RelationGetIndexList(relation);
	StringInfoData columns;
	ListCell   *lc;

	initStringInfo(&columns);
	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (columns.len == 0 && ledger_legacy_is_key_index(table, index))
		{
			for (int i = 0; i < index->rd_index->indnkeyatts; i++)
				appendStringInfo(&columns, "%s%s", i ? ", " : "",
								 quote_identifier(get_attname(table->relid,
															  index->rd_index->indkey.values[i], false)));
		}
		index_close(index, NoLock);
	}
	table_close(relation, NoLock);
	if (columns.len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the attached legacy table %s has no unique key on column %s any more",
						table->name, table->key_column),
				 errhint("Create the unique index again.")));
	return columns.data;
}

/* A row of one group, with the values of its condition. */
static void
append_insert(StringInfo sql, const LegacyTable *table, int group)
{
	ListCell   *lc;

	appendStringInfo(sql, "INSERT INTO %s AS t (%s", table->name,
					 quote_identifier(table->key_column));
	for (int i = 0; i < table->ncolumns; i++)
	{
		if (table->columns[i].group == group)
			appendStringInfo(sql, ", %s", quote_identifier(table->columns[i].column));
	}
	for (int w = 0; w < table->nwhere; w++)
		appendStringInfo(sql, ", %s", quote_identifier(table->where[w]));
	foreach(lc, table->constants)
		appendStringInfo(sql, ", %s", quote_identifier(((LegacyConstant *) lfirst(lc))->name));
	appendStringInfo(sql, "%s) VALUES (%s", table->has_updated_at ? ", updated_at" : "",
					 key_sql(table));
	for (int i = 0; i < table->ncolumns; i++)
	{
		if (table->columns[i].group == group)
			appendStringInfo(sql, ", $%d", i + 2);
	}
	for (int w = 0; w < table->nwhere; w++)
		appendStringInfo(sql, ", %s", quote_literal_cstr(table->groups[group].values[w]));
	foreach(lc, table->constants)
		appendStringInfo(sql, ", %s",
						 quote_literal_cstr(linitial(((LegacyConstant *) lfirst(lc))->values)));
	appendStringInfo(sql, "%s) ON CONFLICT (%s) DO NOTHING RETURNING ",
					 table->has_updated_at ? ", pg_catalog.clock_timestamp()" : "",
					 conflict_columns(table));
	append_row(sql, table);
}

static int
group_of_mask(const LegacyTable *table, uint32 mask)
{
	for (int i = 0; i < table->ncolumns; i++)
	{
		if (mask & (1 << i))
			return table->columns[i].group;
	}
	return 0;
}

static void
append_update(StringInfo sql, const LegacyTable *table, bool add, uint32 mask)
{
	const char *comma = "";

	appendStringInfo(sql, "UPDATE %s SET ", relation_sql(table));
	for (int i = 0; i < table->ncolumns; i++)
	{
		const char *name = quote_identifier(table->columns[i].column);

		if ((mask & (1 << i)) == 0)
			continue;
		appendStringInfo(sql, "%s%s = ", comma, name);
		if (add)
			appendStringInfo(sql, "COALESCE(t.%s, 0) OPERATOR(pg_catalog.+) ", name);
		appendStringInfo(sql, "$%d", i + 2);
		comma = ", ";
	}
	if (table->has_updated_at)
		appendStringInfo(sql, "%supdated_at = pg_catalog.clock_timestamp()", comma);
	appendStringInfoString(sql, " WHERE ");
	append_key(sql, table);
	if (table->nwhere > 0)
	{
		appendStringInfoString(sql, " AND ");
		append_condition(sql, table, group_of_mask(table, mask));
	}
	appendStringInfoString(sql, " RETURNING ");
	append_row(sql, table);
}

/*
 * The owner's triggers and functions are not to find what the caller put into a
 * schema of his own under a name that they use unqualified.
 */
char *
ledger_legacy_search_path(const LegacyTable *table)
{
	char	   *schema = get_namespace_name(get_rel_namespace(table->relid));

	return psprintf("%s, pg_temp", schema ? quote_identifier(schema) : "pg_catalog");
}

char *
ledger_legacy_sql(const LegacyTable *table, LegacyPlan kind, uint32 mask)
{
	StringInfoData sql;

	initStringInfo(&sql);
	switch (kind)
	{
		case PLAN_LOCK:
			appendStringInfoString(&sql, "SELECT ");
			append_group(&sql, table);
			appendStringInfo(&sql, " AS g FROM %s WHERE ", relation_sql(table));
			append_key(&sql, table);
			append_any_group(&sql, table);
			appendStringInfo(&sql, "%s FOR NO KEY UPDATE", table->ngroups > 1 ? " ORDER BY g" : "");
			break;
		case PLAN_FETCH:
			appendStringInfoString(&sql, "SELECT ");
			append_row(&sql, table);
			appendStringInfo(&sql, " FROM %s WHERE ", relation_sql(table));
			append_key(&sql, table);
			append_any_group(&sql, table);
			break;
		case PLAN_ADD:
		case PLAN_SET:
			append_update(&sql, table, kind == PLAN_ADD, mask);
			break;
		case PLAN_INSERT:
			append_insert(&sql, table, mask);
			break;
		case PLAN_SCAN:
		case PLAN_LOCK_RANGE:
			appendStringInfoString(&sql, "SELECT ");
			append_row(&sql, table);
			appendStringInfo(&sql, ", %s FROM ", scan_key_sql(table, false));
			append_range(&sql, table);
			appendStringInfo(&sql, " ORDER BY %s%s", scan_key_sql(table, true),
							 kind == PLAN_SCAN ? "" : " FOR NO KEY UPDATE SKIP LOCKED");
			break;
		case PLAN_KEYS:
			appendStringInfo(&sql, "SELECT s.k, pg_catalog.count(*) FROM (SELECT %s AS k, %s AS o FROM ",
							 scan_key_sql(table, false), scan_key_sql(table, true));
			append_range(&sql, table);
			appendStringInfo(&sql, " ORDER BY 2) s GROUP BY s.k, s.o ORDER BY s.o%s LIMIT $3",
							 table->key_kind == LEGACY_KEY_TEXT ? " COLLATE pg_catalog.\"C\"" : "");
			break;
		case PLAN_LAST_KEY:
			appendStringInfo(&sql, "SELECT %s FROM %s WHERE t.%s IS NOT NULL", scan_key_sql(table, false),
							 relation_sql(table), quote_identifier(table->key_column));
			append_any_group(&sql, table);
			appendStringInfo(&sql, " ORDER BY %s DESC LIMIT 1", scan_key_sql(table, true));
			break;
		case PLAN_JSON:
			appendStringInfo(&sql, table->ngroups == 1 ?
							 "SELECT pg_catalog.row_to_json(t.*)::pg_catalog.text FROM %s WHERE " :
							 "SELECT pg_catalog.json_agg(t.*)::pg_catalog.text FROM %s WHERE ",
							 relation_sql(table));
			append_key(&sql, table);
			append_any_group(&sql, table);
			break;
		case PLAN_NO_KEY:
			appendStringInfo(&sql, "SELECT t.ctid, pg_catalog.row_to_json(t.*) FROM %s WHERE t.%s IS NULL",
							 relation_sql(table), quote_identifier(table->key_column));
			append_any_group(&sql, table);
			break;
		case PLAN_NO_GROUP:
			append_no_group(&sql, table);
			break;
	}
	return sql.data;
}
