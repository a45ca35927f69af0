/*
 * attach.sql: the preflight of a legacy table, attaching and detaching it.
 *
 * The functions that a caller may execute are C: they check that the caller
 * can act for the legacy table's owner and then run the functions below them
 * (legacy_attach and the like) as the owner of the extension. Nobody else may
 * execute those.
 */

/* Counts rows as the table's owner; for the preflight. */
CREATE FUNCTION ledger.legacy_count(legacy regclass, condition text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_legacy_count' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.legacy_count(regclass, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_count(regclass, text) IS 'Internal: counts the rows of a legacy table for which a condition holds, as the table''s owner.';

/*
 * The mapping that was asked for as
 * {"columns": [{"column": name, "accounts": [type, ...]}], "constants": {name: [value, ...]}}.
 * Raises for what is not a mapping.
 */
CREATE FUNCTION ledger.legacy_mapping(legacy regclass, mapping jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	item jsonb;
	clean jsonb := '[]';
	constants jsonb := '{}';
	seen text[] := '{}';
	types text[];
	name text;
	value jsonb;
BEGIN
	IF mapping IS NULL THEN
		RETURN pg_catalog.jsonb_build_object(
			'columns', '[{"column": "pending_deposits", "accounts": ["usdc_balance", "pending_investment"]},
				{"column": "buying_power", "accounts": ["fiat_exposure"]}]'::jsonb,
			'constants', ledger.legacy_default_constants(legacy));
	END IF;
	IF pg_catalog.jsonb_typeof(mapping) <> 'object'
	   OR COALESCE(pg_catalog.jsonb_typeof(mapping -> 'columns'), '') <> 'array'
	   OR pg_catalog.jsonb_array_length(mapping -> 'columns') NOT BETWEEN 1 AND 16
	   OR mapping - ARRAY['columns', 'constants'] <> '{}' THEN
		RAISE EXCEPTION 'invalid mapping %', mapping
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = 'A mapping is an object with the members "columns", an array of 1 to 16 objects, and "constants", an object or left out.',
				  HINT = 'For example {"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"]}]}.';
	END IF;

	FOR item IN SELECT * FROM pg_catalog.jsonb_array_elements(mapping -> 'columns') LOOP
		IF pg_catalog.jsonb_typeof(item) <> 'object'
		   OR COALESCE(pg_catalog.jsonb_typeof(item -> 'column'), '') <> 'string'
		   OR COALESCE(pg_catalog.jsonb_typeof(item -> 'accounts'), '') <> 'array'
		   OR pg_catalog.jsonb_array_length(item -> 'accounts') NOT BETWEEN 1 AND 8
		   OR pg_catalog.jsonb_path_exists(item, '$.accounts[*] ? (@.type() != "string")')
		   OR item - ARRAY['column', 'accounts', 'unit', 'where'] <> '{}' THEN
			RAISE EXCEPTION 'invalid column % in the mapping', item
				USING ERRCODE = 'invalid_parameter_value',
					  DETAIL = 'A column is an object with the members "column", a name, and "accounts", an array of 1 to 8 account types.';
		END IF;
		IF item ? 'where' OR COALESCE(item -> 'unit', '1') <> '1' THEN
			RAISE EXCEPTION 'column % has a unit or a condition, which is not supported', item ->> 'column'
				USING ERRCODE = 'feature_not_supported',
					  HINT = 'Map numeric columns in whole units of the account types'' currency.';
		END IF;
		types := ARRAY(SELECT pg_catalog.jsonb_array_elements_text(item -> 'accounts'));
		PERFORM ledger.legacy_check_types(item ->> 'column', types, seen);
		seen := seen || types;
		IF pg_catalog.jsonb_path_exists(clean, '$[*] ? (@.column == $name)',
										pg_catalog.jsonb_build_object('name', item -> 'column')) THEN
			RAISE EXCEPTION 'column % is mapped twice', item ->> 'column'
				USING ERRCODE = 'invalid_parameter_value';
		END IF;
		clean := clean || pg_catalog.jsonb_build_array(item - ARRAY['unit']);
	END LOOP;

	IF COALESCE(pg_catalog.jsonb_typeof(mapping -> 'constants'), 'object') <> 'object' THEN
		RAISE EXCEPTION 'invalid constants % in the mapping', mapping -> 'constants'
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = 'Constants are an object of column names and values.';
	END IF;
	FOR name, value IN SELECT * FROM pg_catalog.jsonb_each(COALESCE(mapping -> 'constants', '{}')) LOOP
		IF pg_catalog.jsonb_typeof(value) NOT IN ('string', 'number', 'boolean') THEN
			RAISE EXCEPTION 'invalid constant % of column % in the mapping', value, name
				USING ERRCODE = 'invalid_parameter_value',
					  DETAIL = 'A constant is a string, a number or a boolean.';
		END IF;
		constants := constants || pg_catalog.jsonb_build_object(name, pg_catalog.jsonb_build_array(value #>> '{}'));
	END LOOP;
	RETURN pg_catalog.jsonb_build_object('columns', clean, 'constants', constants);
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_mapping(regclass, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_mapping(regclass, jsonb) IS 'Internal: the mapping in full, checked; NULL is the default mapping.';

/* Under the default mapping a row may carry the currency of any mapped account. */
CREATE FUNCTION ledger.legacy_default_constants(legacy regclass) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT COALESCE((
		SELECT CASE WHEN pg_get_expr(d.adbin, d.adrelid) LIKE '''USDC''::%'
			THEN '{"currency": ["USDC", "USD"]}'::jsonb
			ELSE '{"currency": ["USD", "USDC"]}'::jsonb END
		FROM pg_attribute a
		LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE a.attrelid = legacy AND a.attname = 'currency' AND NOT a.attisdropped
			AND a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)
	), '{}'::jsonb)
$$;
REVOKE ALL ON FUNCTION ledger.legacy_default_constants(regclass) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_default_constants(regclass) IS 'Internal: constants of the default mapping.';

CREATE FUNCTION ledger.legacy_check_types(legacy_column text, types text[], seen text[]) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	type_name text;
	found_owner text;
	found_currency text;
	first_currency text;
BEGIN
	FOREACH type_name IN ARRAY types LOOP
		SELECT t.owner, t.currency INTO found_owner, found_currency
			FROM ledger.account_types t WHERE t.name = type_name COLLATE "C";
		IF NOT FOUND OR found_owner <> 'user' THEN
			RAISE EXCEPTION 'column % cannot be mapped to account type %', legacy_column, type_name
				USING ERRCODE = 'LG010',
					  DETAIL = CASE WHEN found_owner IS NULL THEN 'There is no such account type.' ELSE 'It is the house''s.' END,
					  HINT = 'Name account types of users; ledger.account_types lists them.';
		END IF;
		IF type_name = ANY (seen) OR pg_catalog.cardinality(pg_catalog.array_positions(types, type_name)) > 1 THEN
			RAISE EXCEPTION 'account type % is mapped twice', type_name
				USING ERRCODE = 'invalid_parameter_value';
		END IF;
		IF found_currency <> COALESCE(first_currency, found_currency) THEN
			RAISE EXCEPTION 'column % is mapped to accounts in % and %', legacy_column, first_currency, found_currency
				USING ERRCODE = 'invalid_parameter_value',
					  HINT = 'Map a column to account types of one currency.';
		END IF;
		first_currency := found_currency;
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_check_types(text, text[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_check_types(text, text[], text[]) IS 'Internal: checks the account types of one mapped column.';

/* What kind of relation it is; the first check, and the others rest on it. */
CREATE FUNCTION ledger.legacy_check_table(legacy regclass,
	OUT passed boolean, OUT detail text, OUT hint text)
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
BEGIN
	SELECT c.relkind, c.relpersistence, c.relhasrules, n.nspname,
			EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) AS has_children,
			EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) AS is_child
		INTO rel
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = legacy;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no table with the OID %', legacy::oid
			USING ERRCODE = 'undefined_table', HINT = 'Pass the name of a table.';
	END IF;
	passed := false;
	CASE
		WHEN rel.nspname IN ('ledger', 'pg_catalog', 'information_schema') THEN
			detail := format('%s belongs to schema %s.', legacy, rel.nspname);
			hint := 'Attach the application''s own table.';
		WHEN rel.relkind IN ('v', 'm') THEN
			detail := format('%s is a view.', legacy);
			hint := 'Attach the table behind the view.';
		WHEN rel.relkind = 'f' THEN
			detail := format('%s is a foreign table.', legacy);
			hint := 'Install ledger in the database that holds the table.';
		WHEN rel.relkind = 'p' THEN
			detail := format('%s is partitioned, which is not supported.', legacy);
			hint := 'Attach an ordinary table.';
		WHEN rel.relkind <> 'r' THEN
			detail := format('%s is not a table.', legacy);
			hint := 'Attach an ordinary table.';
		WHEN rel.relpersistence = 't' THEN
			detail := format('%s is temporary: other sessions do not see it.', legacy);
			hint := 'Attach a permanent table.';
		WHEN rel.relpersistence = 'u' THEN
			detail := format('%s is unlogged: a crash empties it.', legacy);
			hint := format('ALTER TABLE %s SET LOGGED.', legacy);
		WHEN rel.has_children OR rel.is_child THEN
			detail := format('%s has children or a parent, which is not supported.', legacy);
			hint := 'Attach an ordinary table.';
		WHEN rel.relhasrules THEN
			detail := format('%s has rules, which rewrite what the mirror does.', legacy);
			hint := 'Drop the rules.';
		ELSE
			passed := true;
			detail := format('%s is an ordinary table.', legacy);
	END CASE;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_check_table(regclass) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_check_table(regclass) IS 'Internal: whether a legacy table is one that can be attached.';

/* Key, mapped columns and constants as the mapping wants them; all required. */
CREATE FUNCTION ledger.legacy_check_columns(legacy regclass, mapping jsonb, key_column name)
	RETURNS TABLE (check_name text, passed boolean, detail text, hint text)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'key_column',
		COALESCE(k.atttypid = 'uuid'::regtype AND k.is_key, false),
		CASE WHEN k.attname IS NULL THEN format('There is no column %s.', key_column)
			WHEN k.atttypid <> 'uuid'::regtype THEN format('Column %s is of type %s; only uuid is supported.', key_column, k.atttypid::regtype)
			WHEN NOT k.is_key THEN format('Column %s is not a unique key of its own, NOT NULL and not deferrable.', key_column)
			ELSE format('Column %s is a unique key of type uuid.', key_column) END,
		CASE WHEN k.is_key AND k.atttypid = 'uuid'::regtype THEN NULL
			ELSE 'Name the uuid column that is the table''s primary key.' END
	FROM (SELECT 1) one
	LEFT JOIN (
		SELECT a.attname, a.atttypid, a.attnotnull AND EXISTS (
				SELECT FROM pg_index i
				WHERE i.indrelid = a.attrelid AND i.indisunique AND i.indimmediate AND i.indisvalid
					AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum
					AND i.indpred IS NULL AND i.indexprs IS NULL) AS is_key
		FROM pg_attribute a
		WHERE a.attrelid = legacy AND a.attname = key_column AND a.attnum > 0 AND NOT a.attisdropped
	) k ON true
	UNION ALL
	SELECT 'mapped_columns', bool_and(m.problem IS NULL),
		COALESCE(string_agg(m.problem, ' ' ORDER BY m.ordinal), 'Every mapped column is numeric.'),
		CASE WHEN bool_and(m.problem IS NULL) THEN NULL ELSE 'Name columns of type numeric in the mapping.' END
	FROM (
		SELECT c.ordinal,
			CASE WHEN a.attname IS NULL THEN format('There is no column %s.', c.item ->> 'column')
				WHEN a.atttypid <> 'numeric'::regtype THEN format('Column %s is of type %s; only numeric is supported.', a.attname, a.atttypid::regtype)
				WHEN a.attgenerated <> '' THEN format('Column %s is generated.', a.attname)
				WHEN a.attname = key_column THEN format('Column %s is the key.', a.attname) END AS problem
		FROM jsonb_array_elements(mapping -> 'columns') WITH ORDINALITY AS c (item, ordinal)
		LEFT JOIN pg_attribute a ON a.attrelid = legacy AND a.attname = c.item ->> 'column'
			AND a.attnum > 0 AND NOT a.attisdropped
	) m
	UNION ALL
	SELECT 'constants', bool_and(m.problem IS NULL),
		COALESCE(string_agg(m.problem, ' ' ORDER BY m.name),
			CASE WHEN count(m.name) = 0 THEN 'The mapping has no constants.' ELSE 'Every constant''s column exists.' END),
		CASE WHEN COALESCE(bool_and(m.problem IS NULL), true) THEN NULL ELSE 'Name existing columns that are not mapped.' END
	FROM (
		SELECT c.name,
			CASE WHEN a.attname IS NULL THEN format('There is no column %s.', c.name)
				WHEN a.attgenerated <> '' THEN format('Column %s is generated.', a.attname)
				WHEN a.attname = key_column OR jsonb_path_exists(mapping, '$.columns[*] ? (@.column == $name)',
						jsonb_build_object('name', c.name))
					THEN format('Column %s is the key or mapped.', a.attname) END AS problem
		FROM jsonb_object_keys(mapping -> 'constants') AS c (name)
		LEFT JOIN pg_attribute a ON a.attrelid = legacy AND a.attname = c.name
			AND a.attnum > 0 AND NOT a.attisdropped
		) m
	HAVING true
$$;
REVOKE ALL ON FUNCTION ledger.legacy_check_columns(regclass, jsonb, name) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_check_columns(regclass, jsonb, name) IS 'Internal: whether key, mapped columns and constants of a mapping fit the table.';

/* What would make a legacy write fail, or change what it writes; not required. */
CREATE FUNCTION ledger.legacy_check_writes(legacy regclass, mapping jsonb, key_column name)
	RETURNS TABLE (check_name text, found text, problem text, hint text)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'missing_defaults', string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
		'A missing legacy row cannot be inserted: NOT NULL without a default are',
		'Give these columns defaults, or constants in the mapping.'
	FROM pg_attribute a
	WHERE a.attrelid = legacy AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
		AND NOT a.atthasdef AND a.attidentity = '' AND a.attname <> key_column
		AND NOT (a.attname = 'updated_at' AND a.atttypid IN ('timestamptz'::regtype, 'timestamp'::regtype))
		AND NOT mapping -> 'constants' ? a.attname::text
		AND NOT jsonb_path_exists(mapping, '$.columns[*] ? (@.column == $name)', jsonb_build_object('name', a.attname))
	UNION ALL
	SELECT 'numeric_digits', string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum),
		'Amounts with more digits than the column has cannot be mirrored:',
		'Widen the columns to numeric(38,18), or know that amounts stay small.'
	FROM pg_attribute a
	JOIN jsonb_array_elements(mapping -> 'columns') AS c (item) ON c.item ->> 'column' = a.attname
	JOIN ledger.account_types t ON t.name = c.item #>> '{accounts,0}'
	JOIN ledger.currencies cu ON cu.code = t.currency
	WHERE a.attrelid = legacy AND a.attnum > 0 AND NOT a.attisdropped
		AND a.atttypid = 'numeric'::regtype AND a.atttypmod >= 4
		AND ((((a.atttypmod - 4) & 2047) # 1024) - 1024 < cu.scale
			OR (((a.atttypmod - 4) >> 16) & 65535) - ((((a.atttypmod - 4) & 2047) # 1024) - 1024) < 18)
	UNION ALL
	SELECT 'check_constraints', string_agg(quote_ident(k.conname), ', ' ORDER BY k.conname),
		'A legacy write that breaks one of these constraints fails:',
		'Make sure that they hold for whatever the ledger allows.'
	FROM pg_constraint k WHERE k.conrelid = legacy AND k.contype IN ('c', 'x')
	UNION ALL
	SELECT 'unique_keys', string_agg(i.indexrelid::regclass::text, ', ' ORDER BY i.indexrelid::regclass::text),
		'Inserting a missing legacy row fails where it would break one of these unique indexes:',
		'Make sure that the other columns'' defaults do not collide.'
	FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = key_column
	WHERE i.indrelid = legacy AND i.indisunique AND NOT (i.indnkeyatts = 1 AND i.indkey[0] = a.attnum)
	UNION ALL
	SELECT 'foreign_keys', string_agg(quote_ident(k.conname), ', ' ORDER BY k.conname),
		'These foreign keys let a legacy write fail, or cascades change rows:',
		'Make sure that every user of the ledger exists in the referenced tables.'
	FROM pg_constraint k WHERE k.contype = 'f' AND k.conrelid = legacy
	UNION ALL
	SELECT 'triggers', string_agg(quote_ident(g.tgname), ', ' ORDER BY g.tgname),
		'These triggers can change or refuse what the mirror writes:',
		'Read them; what they change is recorded as a mirror side effect.'
	FROM pg_trigger g WHERE g.tgrelid = legacy AND NOT g.tgisinternal
		AND g.tgfoid NOT IN (SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
			WHERE n.nspname = 'ledger' AND p.proname = 'capture')
	UNION ALL
	SELECT 'deferred_checks', ledger.legacy_deferred(legacy),
		'These are checked at commit, where a failing legacy write cannot be contained:',
		'Make them immediate; until then strict mode cannot be off in shadow mode.'
	UNION ALL
	SELECT 'row_security', CASE WHEN c.relrowsecurity THEN c.oid::regclass::text END,
		'Row security is on; the ledger works as the owner and past it, for',
		'Nothing needs to be done.'
	FROM pg_class c WHERE c.oid = legacy
	UNION ALL
	SELECT 'replication', string_agg(quote_ident(s.subname), ', ' ORDER BY s.subname),
		'Logical replication writes the table, past the application; subscriptions:',
		'Drop the table from these subscriptions.'
	FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid WHERE r.srrelid = legacy
$$;
REVOKE ALL ON FUNCTION ledger.legacy_check_writes(regclass, jsonb, name) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_check_writes(regclass, jsonb, name) IS 'Internal: what of a legacy table can make the mirror''s writes fail.';

CREATE FUNCTION ledger.legacy_deferred(legacy regclass) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(quote_ident(d.name), ', ' ORDER BY d.name)
	FROM (
		SELECT k.conname AS name FROM pg_constraint k WHERE k.conrelid = legacy AND k.condeferrable
		UNION
		SELECT g.tgname FROM pg_trigger g
		WHERE g.tgrelid = legacy AND NOT g.tgisinternal AND g.tgconstraint <> 0
		UNION
		SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
		WHERE x.indrelid = legacy AND NOT x.indimmediate
	) d
$$;
REVOKE ALL ON FUNCTION ledger.legacy_deferred(regclass) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_deferred(regclass) IS 'Internal: names of deferrable constraints and constraint triggers; NULL: none.';

/* Rows from which nobody could be opened. */
CREATE FUNCTION ledger.legacy_check_rows(legacy regclass, mapping jsonb,
	OUT passed boolean, OUT detail text, OUT hint text)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	conditions text;
	bad bigint;
BEGIN
	SELECT string_agg(condition, ' OR ') INTO conditions FROM (
		SELECT format('NOT (%1$I IS NULL OR (%1$I OPERATOR(pg_catalog.>=) 0 AND %1$I OPERATOR(pg_catalog.<) 1e20 AND pg_catalog.scale(pg_catalog.trim_scale(%1$I)) OPERATOR(pg_catalog.<=) %2$s))',
				c.item ->> 'column', cu.scale) AS condition
		FROM jsonb_array_elements(mapping -> 'columns') AS c (item)
		JOIN ledger.account_types t ON t.name = c.item #>> '{accounts,0}'
		JOIN ledger.currencies cu ON cu.code = t.currency
		UNION ALL
		SELECT format('%I OPERATOR(pg_catalog.<>) 0', c.item ->> 'column')
		FROM jsonb_array_elements(mapping -> 'columns') AS c (item)
		WHERE c.item #>> '{accounts,0}' = 'pending_investment'
		UNION ALL
		SELECT format('%1$I IS NOT NULL AND (%1$I::pg_catalog.text COLLATE pg_catalog."C") OPERATOR(pg_catalog.<>) ALL (%2$L::pg_catalog.text[])',
			k.key, ARRAY(SELECT jsonb_array_elements_text(k.value)))
		FROM jsonb_each(mapping -> 'constants') AS k
	) parts;
	bad := ledger.legacy_count(legacy, conditions);
	passed := bad = 0;
	IF passed THEN
		detail := 'Every row can be opened.';
	ELSE
		detail := format('Rows that are negative, not finite, too long, reserved or in another currency: %s.', bad);
		hint := 'Correct them: postings for their users are refused until then.';
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_check_rows(regclass, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_check_rows(regclass, jsonb) IS 'Internal: whether every row could be opened.';

/*
 * All checks in their order; required are those that attach_legacy() insists
 * on. with_rows: reads the whole table as well.
 */
CREATE FUNCTION ledger.legacy_checks(legacy regclass, mapping jsonb, key_column name, with_rows boolean)
	RETURNS TABLE (check_name text, passed boolean, required boolean, detail text, hint text)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	sound boolean;
	table_owner oid;
BEGIN
	RETURN QUERY SELECT 'table', t.passed, true, t.detail, t.hint FROM ledger.legacy_check_table(legacy) t;
	IF NOT (SELECT t.passed FROM ledger.legacy_check_table(legacy) t) THEN
		RETURN;
	END IF;
	sound := (SELECT bool_and(c.passed) FROM ledger.legacy_check_columns(legacy, mapping, key_column) c);
	RETURN QUERY SELECT c.check_name, c.passed, true, c.detail, c.hint
		FROM ledger.legacy_check_columns(legacy, mapping, key_column) c;

	SELECT c.relowner INTO table_owner FROM pg_class c WHERE c.oid = legacy;
	RETURN QUERY SELECT 'owner_rights', r.missing IS NULL, true,
			CASE WHEN r.missing IS NULL THEN 'The owner may read and write the table.'
				ELSE format('The owner %s has lost %s.', table_owner::regrole, r.missing) END,
			CASE WHEN r.missing IS NOT NULL THEN format('GRANT ALL ON %s TO %s.', legacy, table_owner::regrole) END
		FROM (SELECT string_agg(p, ', ') AS missing FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) p
			WHERE NOT has_table_privilege(table_owner, legacy, p)) r;
	RETURN QUERY SELECT 'not_attached', a.n = 0, true,
			CASE WHEN a.n = 0 THEN 'The table is not attached.' ELSE 'The table is attached already.' END,
			CASE WHEN a.n > 0 THEN 'Call detach_legacy() first to attach it with another mapping.' END
		FROM (SELECT count(*) AS n FROM ledger.legacy_mappings m
			WHERE m.legacy = legacy_checks.legacy AND m.detached_at IS NULL) a;

	RETURN QUERY SELECT w.check_name, w.found IS NULL,
			w.check_name = 'deferred_checks' AND EXISTS (SELECT FROM ledger.settings s WHERE s.shadow_mode AND NOT s.strict_mode),
			CASE WHEN w.found IS NULL THEN 'Nothing found.' ELSE format('%s %s.', w.problem, w.found) END,
			CASE WHEN w.found IS NOT NULL THEN w.hint END
		FROM ledger.legacy_check_writes(legacy, mapping, key_column) w;
	IF sound AND with_rows THEN
		RETURN QUERY SELECT 'rows', r.passed, false, r.detail, r.hint FROM ledger.legacy_check_rows(legacy, mapping) r;
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_checks(regclass, jsonb, name, boolean) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_checks(regclass, jsonb, name, boolean) IS 'Internal: every check of the preflight.';

/* Both locks go when a slice of waiting fails, so that nobody queues behind us. */
CREATE FUNCTION ledger.legacy_lock(legacy regclass, lock_wait_ms bigint) RETURNS void
	AS 'MODULE_PATHNAME', 'ledger_legacy_lock' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.legacy_lock(regclass, bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_lock(regclass, bigint) IS 'Internal: locks settings and legacy table against writers.';

CREATE FUNCTION ledger.legacy_attach(legacy regclass, mapping jsonb, key_column name, capture text,
	key_functions text[], caller text, really boolean)
	RETURNS TABLE (check_name text, passed boolean, detail text, hint text)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	clean jsonb;
	one record;
	failed text;
BEGIN
	IF legacy_attach.capture IS NULL OR legacy_attach.capture NOT IN ('record', 'post', 'refuse') THEN
		RAISE EXCEPTION 'invalid capture %', COALESCE(legacy_attach.capture, 'NULL')
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use record, post or refuse.';
	END IF;
	IF key_functions IS NOT NULL THEN
		RAISE EXCEPTION 'key_functions is not supported'
			USING ERRCODE = 'feature_not_supported', HINT = 'Attach a table with a uuid key.';
	END IF;
	IF EXISTS (SELECT FROM ledger.settings s WHERE s.phase <> 'migrating') THEN
		RAISE EXCEPTION 'cannot attach a table after the cut-over'
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call ledger.roll_back() first.';
	END IF;
	clean := ledger.legacy_mapping(legacy, mapping);

	FOR one IN SELECT * FROM ledger.legacy_checks(legacy, clean, key_column, true) LOOP
		RETURN QUERY SELECT one.check_name::text, one.passed::boolean, one.detail::text, one.hint::text;
		IF one.required AND NOT one.passed THEN
			failed := concat_ws(', ', failed, one.check_name);
		END IF;
	END LOOP;
	IF really AND failed IS NULL THEN
		/* what was found before the lock may have changed; the rows are only counted */
		PERFORM ledger.legacy_lock(legacy, 5000);
		SELECT string_agg(c.check_name, ', ') INTO failed
			FROM ledger.legacy_checks(legacy, clean, key_column, false) c WHERE c.required AND NOT c.passed;
	END IF;
	IF really AND failed IS NULL THEN
		PERFORM ledger.legacy_store(legacy, clean, key_column, legacy_attach.capture, caller);
	END IF;
	RETURN QUERY SELECT CASE WHEN really THEN 'attached' ELSE 'attachable' END, failed IS NULL,
		CASE WHEN failed IS NOT NULL THEN format('%s: what must pass and does not: %s.',
				CASE WHEN really THEN 'Not attached' ELSE 'Cannot be attached' END, failed)
			WHEN really THEN format('%s is attached; outside writes are captured (%s).', legacy, legacy_attach.capture)
			ELSE format('%s can be attached.', legacy) END,
		CASE WHEN failed IS NOT NULL THEN 'Follow the hints of these checks and try again.' END;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_attach(regclass, jsonb, name, text, text[], text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_attach(regclass, jsonb, name, text, text[], text, boolean) IS 'Internal: the work of attach_legacy() and legacy_preflight().';

CREATE FUNCTION ledger.legacy_store(legacy regclass, mapping jsonb, key_column name, capture text, caller text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	own_id smallint;
BEGIN
	SELECT m.id INTO own_id FROM ledger.legacy_mappings m WHERE m.legacy = legacy_store.legacy;
	IF FOUND THEN
		UPDATE ledger.legacy_mappings m
			SET key_column = legacy_store.key_column, constants = mapping -> 'constants', capture = legacy_store.capture,
				attached_at = ledger.clock(), attached_by = caller, detached_at = NULL
			WHERE m.id = own_id;
		DELETE FROM ledger.legacy_columns c WHERE c.mapping_id = own_id;
	ELSE
		SELECT min(n) INTO own_id FROM generate_series(1, 31) n
			WHERE NOT EXISTS (SELECT FROM ledger.legacy_mappings m WHERE m.id = n);
		IF own_id IS NULL THEN
			RAISE EXCEPTION 'too many legacy tables' USING ERRCODE = 'program_limit_exceeded',
				DETAIL = 'A database can have had at most 31 of them.';
		END IF;
		INSERT INTO ledger.legacy_mappings (id, legacy, key_column, constants, capture, attached_by)
			VALUES (own_id, legacy, key_column, mapping -> 'constants', capture, caller);
	END IF;
	INSERT INTO ledger.legacy_columns (mapping_id, ordinal, legacy_column, accounts)
		SELECT own_id, c.ordinal, c.item ->> 'column',
			ARRAY(SELECT jsonb_array_elements_text(c.item -> 'accounts'))
		FROM jsonb_array_elements(mapping -> 'columns') WITH ORDINALITY AS c (item, ordinal);
	INSERT INTO ledger.legacy_log (legacy, action, capture, changed_by)
		VALUES (legacy::text, 'attach', capture, caller);

	EXECUTE format('CREATE TRIGGER ledger_capture AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION ledger.capture()', legacy);
	EXECUTE format('CREATE TRIGGER ledger_capture_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION ledger.capture()', legacy);
	EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER ledger_capture', legacy);
	EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER ledger_capture_truncate', legacy);
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_store(regclass, jsonb, name, text, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_store(regclass, jsonb, name, text, text) IS 'Internal: stores a mapping and creates the capture triggers.';

CREATE FUNCTION ledger.legacy_detach(legacy regclass, caller text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	still_there boolean := EXISTS (SELECT FROM pg_class c WHERE c.oid = legacy);
BEGIN
	IF NOT EXISTS (SELECT FROM ledger.legacy_mappings m WHERE m.legacy = legacy_detach.legacy AND m.detached_at IS NULL) THEN
		RAISE EXCEPTION 'table % is not attached', legacy
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'ledger.legacy_mappings lists the attached tables.';
	END IF;
	PERFORM ledger.legacy_lock(CASE WHEN still_there THEN legacy ELSE 'ledger.settings'::regclass END, 5000);
	IF EXISTS (SELECT FROM ledger.settings s WHERE s.phase <> 'migrating') THEN
		RAISE EXCEPTION 'table % is the way back from the cut-over', legacy
			USING ERRCODE = 'object_not_in_prerequisite_state',
				  HINT = 'Call ledger.roll_back() first; a retired table goes with ledger.drop_legacy().';
	ELSIF EXISTS (SELECT FROM ledger.settings s WHERE s.shadow_mode OR s.balance_source = 'legacy') THEN
		RAISE EXCEPTION 'table % is in use by shadow mode or as the source of balances', legacy
			USING ERRCODE = 'object_not_in_prerequisite_state',
				  HINT = 'Call configure(shadow_mode => false, balance_source => ''ledger'') first.';
	END IF;
	UPDATE ledger.legacy_mappings m SET detached_at = ledger.clock() WHERE m.legacy = legacy_detach.legacy;
	INSERT INTO ledger.legacy_log (legacy, action, changed_by) VALUES (legacy::text, 'detach', caller);
	IF still_there THEN
		EXECUTE format('DROP TRIGGER IF EXISTS ledger_capture ON %s', legacy);
		EXECUTE format('DROP TRIGGER IF EXISTS ledger_capture_truncate ON %s', legacy);
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_detach(regclass, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_detach(regclass, text) IS 'Internal: the work of detach_legacy().';

CREATE FUNCTION ledger.attach_legacy(legacy regclass DEFAULT ('public.balances'::text)::regclass, mapping jsonb DEFAULT NULL,
	key_column name DEFAULT 'user_id', capture text DEFAULT 'record', key_functions text[] DEFAULT NULL)
	RETURNS TABLE (check_name text, passed boolean, detail text, hint text)
	AS 'MODULE_PATHNAME', 'ledger_attach_legacy' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.attach_legacy(regclass, jsonb, name, text, text[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.attach_legacy(regclass, jsonb, name, text, text[]) IS 'Checks a legacy table and attaches it if all that must pass does (last row: attached): from then on users are opened from their legacy rows at the first posting, and outside writes are captured. The caller must be able to act for the table''s owner.';

CREATE FUNCTION ledger.legacy_preflight(legacy regclass DEFAULT ('public.balances'::text)::regclass, mapping jsonb DEFAULT NULL,
	key_column name DEFAULT 'user_id', capture text DEFAULT 'record', key_functions text[] DEFAULT NULL)
	RETURNS TABLE (check_name text, passed boolean, detail text, hint text)
	AS 'MODULE_PATHNAME', 'ledger_legacy_preflight' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.legacy_preflight(regclass, jsonb, name, text, text[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_preflight(regclass, jsonb, name, text, text[]) IS 'The checks of attach_legacy() without attaching anything.';

CREATE FUNCTION ledger.detach_legacy(legacy regclass) RETURNS void
	AS 'MODULE_PATHNAME', 'ledger_detach_legacy' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.detach_legacy(regclass) FROM PUBLIC;
COMMENT ON FUNCTION ledger.detach_legacy(regclass) IS 'Detaches a legacy table: its rows are no longer opened, mirrored, compared or captured. Refused (55000) in shadow mode.';
