/*
 * mapping.sql: what a legacy table's keys and columns mean to the ledger, and
 * whether they can.
 */

/*
 * Integers as users: an order-preserving pair, so that a scan of keys is one of
 * users. A uuid of version 8: 48 zeros, then the integer with its sign bit
 * turned round, 2 bits before the variant and 62 after it.
 */
CREATE FUNCTION ledger.integer_to_uuid(key bigint) RETURNS uuid
	AS 'MODULE_PATHNAME', 'ledger_integer_to_uuid' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.integer_to_uuid(bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.integer_to_uuid(bigint) IS 'The uuid by which the ledger knows the user whose legacy key is this integer; sorts as the integers do.';

CREATE FUNCTION ledger.uuid_to_integer(user_id uuid) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_uuid_to_integer' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.uuid_to_integer(uuid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.uuid_to_integer(uuid) IS 'The integer that integer_to_uuid() made this uuid of. Error: 22003 for any other uuid.';

/* ---- the mapping as a document ------------------------------------------------- */

/*
 * The mapping that was asked for as
 * {"columns": [{"column": name, "accounts": [type, ...], "unit": number, "where": {name: value, ...},
 *   "label": name}], "constants": {name: [value, ...]}}.
 * Raises for what is not a mapping.
 */
CREATE FUNCTION ledger.legacy_mapping(legacy regclass, mapping jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	item jsonb;
	clean jsonb := '[]';
	over text[];
	seen text[] := '{}';
	types text[];
BEGIN
	IF mapping IS NULL THEN
		RETURN jsonb_build_object(
			'columns', jsonb_build_array(
				ledger.legacy_mapped_column('{"column": "pending_deposits", "accounts": ["usdc_balance", "pending_investment"]}'),
				ledger.legacy_mapped_column('{"column": "buying_power", "accounts": ["fiat_exposure"]}')),
			'constants', ledger.legacy_default_constants(legacy));
	END IF;
	IF jsonb_typeof(mapping) <> 'object'
	   OR COALESCE(jsonb_typeof(mapping -> 'columns'), '') <> 'array'
	   OR jsonb_array_length(mapping -> 'columns') NOT BETWEEN 1 AND 16
	   OR mapping - ARRAY['columns', 'constants'] <> '{}' THEN
		RAISE EXCEPTION 'invalid mapping %', mapping
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = 'A mapping is an object with the members "columns", an array of 1 to 16 objects, and "constants", an object or left out.',
				  HINT = 'For example {"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"]}]}.';
	END IF;

	FOR item IN SELECT * FROM jsonb_array_elements(mapping -> 'columns') LOOP
		item := ledger.legacy_mapped_column(item);
		IF over <> ledger.legacy_condition_columns(item) THEN
			RAISE EXCEPTION 'the conditions of the mapping are not over the same columns'
				USING ERRCODE = 'invalid_parameter_value',
					  DETAIL = format('One is over %s, another over %s.', over, ledger.legacy_condition_columns(item)),
					  HINT = 'Give every mapped column a "where" that names the same columns, or none of them one.';
		END IF;
		over := ledger.legacy_condition_columns(item);
		types := ARRAY(SELECT jsonb_array_elements_text(item -> 'accounts'));
		PERFORM ledger.legacy_check_types(item ->> 'label', types, seen);
		seen := seen || types;
		IF jsonb_path_exists(clean, '$[*] ? (@.label == $name)', jsonb_build_object('name', item -> 'label')) THEN
			RAISE EXCEPTION 'column % is mapped twice', item ->> 'label'
				USING ERRCODE = 'invalid_parameter_value',
					  HINT = 'Name all its account types in one member of "columns", or give each a "where" of its own.';
		END IF;
		clean := clean || jsonb_build_array(item);
	END LOOP;
	RETURN jsonb_build_object('columns', clean, 'constants', ledger.legacy_constants(mapping -> 'constants'));
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_mapping(regclass, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_mapping(regclass, jsonb) IS 'Internal: the mapping in full, checked; NULL is the default mapping.';

/* One column of a mapping with unit, condition and the name that it is reported under. */
CREATE FUNCTION ledger.legacy_mapped_column(item jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	label text := CASE WHEN jsonb_typeof(item) = 'object' THEN item ->> 'column' END;
	condition jsonb := '{}';
BEGIN
	IF jsonb_typeof(item) <> 'object'
	   OR COALESCE(jsonb_typeof(item -> 'column'), '') <> 'string'
	   OR COALESCE(jsonb_typeof(item -> 'accounts'), '') <> 'array'
	   OR jsonb_array_length(item -> 'accounts') NOT BETWEEN 1 AND 8
	   OR jsonb_path_exists(item, '$.accounts[*] ? (@.type() != "string")')
	   OR item - ARRAY['column', 'accounts', 'unit', 'where'] <> '{}' THEN
		RAISE EXCEPTION 'invalid column % in the mapping', item
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = CASE WHEN jsonb_typeof(item) <> 'object' THEN 'It is no object.'
					WHEN COALESCE(jsonb_typeof(item -> 'column'), '') <> 'string' THEN 'Its "column" is missing or no name.'
					WHEN item - ARRAY['column', 'accounts', 'unit', 'where'] <> '{}' THEN
						format('Unknown: %s.', (SELECT string_agg(to_json(k)::text, ', ' ORDER BY k) FROM jsonb_object_keys(item - ARRAY['column', 'accounts', 'unit', 'where']) k))
					ELSE 'Its "accounts" is missing or no array of 1 to 8 account types.' END,
				  HINT = 'A column has the members "column" and "accounts", and perhaps "unit" and "where".';
	END IF;
	IF item ? 'unit' AND (CASE WHEN jsonb_typeof(item -> 'unit') <> 'number' THEN true
			ELSE (item ->> 'unit')::numeric <= 0 OR scale((item ->> 'unit')::numeric) > 30
				OR (item ->> 'unit')::numeric >= 1e20 END) THEN
		RAISE EXCEPTION 'invalid unit % of column % in the mapping', item -> 'unit', label
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = 'A unit is a number above zero and below 1e20 with at most 30 digits after the point.',
				  HINT = 'For a column in cents say "unit": 0.01.';
	END IF;
	IF item ? 'where' THEN
		IF jsonb_typeof(item -> 'where') <> 'object'
		   OR (SELECT count(*) NOT BETWEEN 1 AND 4 OR bool_or(jsonb_typeof(w.value) NOT IN ('string', 'number', 'boolean'))
			   FROM jsonb_each(CASE WHEN jsonb_typeof(item -> 'where') = 'object' THEN item -> 'where' ELSE '{}' END) w) THEN
			RAISE EXCEPTION 'invalid condition % of column % in the mapping', item -> 'where', label
				USING ERRCODE = 'invalid_parameter_value',
					  DETAIL = 'A condition is an object of 1 to 4 column names, each with a string, a number or a boolean.',
					  HINT = 'For example "where": {"currency": "USDC"}.';
		END IF;
		SELECT format('%s[%s]', label, string_agg(w.value #>> '{}', ',' ORDER BY w.key COLLATE "C")),
				jsonb_object_agg(w.key, w.value #>> '{}')
			INTO label, condition
			FROM jsonb_each(item -> 'where') w;
	END IF;
	IF octet_length(label) > 63 THEN
		RAISE EXCEPTION 'the name % of a mapped column is longer than 63 bytes', label
			USING ERRCODE = 'name_too_long', HINT = 'Map a column with a shorter name or condition.';
	END IF;
	RETURN jsonb_build_object('column', item -> 'column', 'accounts', item -> 'accounts',
		'unit', COALESCE(item -> 'unit', '1'), 'where', condition, 'label', label);
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_mapped_column(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_mapped_column(jsonb) IS 'Internal: one column of a mapping in full, checked.';

CREATE FUNCTION ledger.legacy_condition_columns(item jsonb) RETURNS text[]
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY(SELECT w FROM jsonb_object_keys(item -> 'where') w ORDER BY w COLLATE "C")
$$;
REVOKE ALL ON FUNCTION ledger.legacy_condition_columns(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_condition_columns(jsonb) IS 'Internal: the columns of a mapped column''s condition.';

CREATE FUNCTION ledger.legacy_constants(constants jsonb) RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	name text;
	value jsonb;
	clean jsonb := '{}';
BEGIN
	IF COALESCE(jsonb_typeof(constants), 'object') <> 'object' THEN
		RAISE EXCEPTION 'invalid constants % in the mapping', constants
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = 'Constants are an object of column names and values.';
	END IF;
	FOR name, value IN SELECT * FROM jsonb_each(COALESCE(constants, '{}')) LOOP
		IF jsonb_typeof(value) NOT IN ('string', 'number', 'boolean') THEN
			RAISE EXCEPTION 'invalid constant % of column % in the mapping', value, name
				USING ERRCODE = 'invalid_parameter_value',
					  DETAIL = 'A constant is a string, a number or a boolean.';
		END IF;
		clean := clean || jsonb_build_object(name, jsonb_build_array(value #>> '{}'));
	END LOOP;
	RETURN clean;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_constants(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_constants(jsonb) IS 'Internal: the constants of a mapping, checked, each as an array of one value.';

/* The mapping of a table that is or was attached, as legacy_mapping() makes it. */
CREATE FUNCTION ledger.legacy_stored_mapping(mapping_id smallint) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('constants', m.constants, 'columns',
		(SELECT jsonb_agg(jsonb_build_object('column', c.column_name, 'accounts', c.accounts, 'unit', c.unit,
				'where', c.condition, 'label', c.legacy_column) ORDER BY c.ordinal)
		FROM ledger.legacy_columns c WHERE c.mapping_id = m.id))
	FROM ledger.legacy_mappings m WHERE m.id = legacy_stored_mapping.mapping_id
$$;
REVOKE ALL ON FUNCTION ledger.legacy_stored_mapping(smallint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_stored_mapping(smallint) IS 'Internal: a stored mapping as a document.';

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
				USING ERRCODE = 'invalid_parameter_value',
					  HINT = 'Leave it in one column.';
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

/* Counts rows as the table's owner; for the preflight. */
CREATE FUNCTION ledger.legacy_count(legacy regclass, condition text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_legacy_count' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.legacy_count(regclass, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_count(regclass, text) IS 'Internal: counts the rows of a legacy table for which a condition holds, as the table''s owner.';

CREATE FUNCTION ledger.legacy_ask(legacy regclass, expression text, condition text) RETURNS text
	AS 'MODULE_PATHNAME', 'ledger_legacy_ask' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.legacy_ask(regclass, text, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_ask(regclass, text, text) IS 'Internal: an aggregate over the rows of a legacy table for which a condition holds, as the table''s owner.';

/* ---- whether table, key and columns fit it -------------------------------------- */

/* What kind of relation it is; the first check, and the others rest on it. */
CREATE FUNCTION ledger.legacy_check_table(legacy regclass,
	OUT passed boolean, OUT detail text, OUT hint text)
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
	leaves text;
BEGIN
	SELECT c.relkind, c.relpersistence, c.relhasrules, c.relispartition, n.nspname,
			c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) AS has_children,
			EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) AS is_child
		INTO rel
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = legacy;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no table with the OID %', legacy::oid
			USING ERRCODE = 'undefined_table', HINT = 'Pass the name of a table.';
	END IF;
	SELECT string_agg(c.oid::regclass::text, ', ' ORDER BY c.oid::regclass::text) INTO leaves
		FROM pg_partition_tree(legacy) p JOIN pg_class c ON c.oid = p.relid
		WHERE p.level > 0 AND (c.relkind NOT IN ('r', 'p') OR c.relpersistence <> 'p' OR c.relhasrules);
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
		WHEN rel.relkind NOT IN ('r', 'p') THEN
			detail := format('%s is not a table.', legacy);
			hint := 'Attach an ordinary table.';
		WHEN rel.relpersistence = 't' THEN
			detail := format('%s is temporary: other sessions do not see it.', legacy);
			hint := 'Attach a permanent table.';
		WHEN rel.relpersistence = 'u' THEN
			detail := format('%s is unlogged: a crash empties it.', legacy);
			hint := format('ALTER TABLE %s SET LOGGED.', legacy);
		WHEN rel.relispartition THEN
			detail := format('%s is a partition.', legacy);
			hint := 'Attach the partitioned table itself.';
		WHEN rel.has_children OR rel.is_child THEN
			detail := format('%s has children or a parent, which is not supported.', legacy);
			hint := 'Attach an ordinary or a partitioned table.';
		WHEN rel.relhasrules THEN
			detail := format('%s has rules, which rewrite what the mirror does.', legacy);
			hint := 'Drop the rules.';
		WHEN leaves IS NOT NULL THEN
			detail := format('%s has partitions that are foreign, temporary, unlogged or have rules: %s.', legacy, leaves);
			hint := 'Detach these partitions, or make them ordinary tables.';
		ELSE
			passed := true;
			detail := format(CASE rel.relkind WHEN 'p' THEN '%s is a partitioned table.' ELSE '%s is an ordinary table.' END, legacy);
	END CASE;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_check_table(regclass) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_check_table(regclass) IS 'Internal: whether a legacy table is one that can be attached.';

/* How a key of this column stands for a user; NULL: it does not. */
CREATE FUNCTION ledger.legacy_key_kind(legacy regclass, key_column name, key_functions text[]) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN key_functions IS NOT NULL THEN 'functions'
		WHEN a.atttypid = 'uuid'::regtype THEN 'uuid'
		WHEN a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype) THEN 'text'
		WHEN a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN 'integer' END
	FROM pg_attribute a
	WHERE a.attrelid = legacy AND a.attname = key_column AND a.attnum > 0 AND NOT a.attisdropped
$$;
REVOKE ALL ON FUNCTION ledger.legacy_key_kind(regclass, name, text[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_key_kind(regclass, name, text[]) IS 'Internal: uuid, text, integer or functions, by the type of the key.';

/* Unique indexes on the key, or on it and columns of the conditions, by which a row is found. */
CREATE FUNCTION ledger.legacy_key_indexes(legacy regclass, mapping jsonb, key_column name) RETURNS SETOF oid
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT i.indexrelid
	FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
	WHERE i.indrelid = legacy AND m.amname = 'btree' AND i.indisunique AND i.indimmediate AND i.indisvalid
		AND i.indpred IS NULL AND i.indexprs IS NULL
		AND (SELECT bool_or(a.attname = key_column) AND bool_and(a.attname = key_column
				OR mapping #> '{columns,0,where}' ? a.attname::text)
			FROM unnest(i.indkey[0:i.indnkeyatts - 1]) AS k (attnum)
			JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum)
$$;
REVOKE ALL ON FUNCTION ledger.legacy_key_indexes(regclass, jsonb, name) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_key_indexes(regclass, jsonb, name) IS 'Internal: the unique indexes by which one row of a user is found.';

CREATE FUNCTION ledger.legacy_check_key(legacy regclass, mapping jsonb, key_column name, key_functions text[],
	OUT passed boolean, OUT detail text, OUT hint text)
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	k record;
	over text := array_to_string(ledger.legacy_condition_columns(mapping #> '{columns,0}'), ', ');
BEGIN
	SELECT a.atttypid, a.attnotnull, a.attgenerated INTO k
		FROM pg_attribute a
		WHERE a.attrelid = legacy AND a.attname = key_column AND a.attnum > 0 AND NOT a.attisdropped;
	passed := false;
	IF NOT FOUND THEN
		detail := format('There is no column %s.', key_column);
		hint := 'Name the column that says whose row it is.';
	ELSIF ledger.legacy_key_kind(legacy, key_column, key_functions) IS NULL THEN
		detail := format('Column %s is of type %s: only uuid, text that holds one, and integers need no key_functions.',
			key_column, k.atttypid::regtype);
		hint := 'Pass key_functions, or name another column.';
	ELSIF k.attgenerated <> '' THEN
		detail := format('Column %s is generated.', key_column);
		hint := 'Name another column.';
	ELSIF NOT k.attnotnull OR NOT EXISTS (SELECT FROM ledger.legacy_key_indexes(legacy, mapping, key_column)) THEN
		detail := CASE over WHEN ''
			THEN format('Column %s is not a unique key of its own, NOT NULL and not deferrable.', key_column)
			ELSE format('Column %s with %s is not a unique key, NOT NULL and not deferrable.', key_column, over) END;
		hint := CASE over WHEN '' THEN 'Name the column that is the table''s primary key; of a table with several rows for each user give every mapped column a "where".'
			ELSE 'Create a unique index on these columns.' END;
	ELSE
		passed := true;
		detail := CASE over WHEN ''
			THEN format('Column %s is a unique key of type %s.', key_column, k.atttypid::regtype)
			ELSE format('Column %s of type %s is a unique key with %s.', key_column, k.atttypid::regtype, over) END;
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_check_key(regclass, jsonb, name, text[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_check_key(regclass, jsonb, name, text[]) IS 'Internal: whether a column is a key by which a user''s row is found.';

/* A function of one argument; of varchar also one of text. */
CREATE FUNCTION ledger.legacy_key_function(function text, argument oid) RETURNS oid
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT COALESCE(to_regprocedure(format('%s(%s)', function, argument::regtype))::oid,
		CASE WHEN argument = 'varchar'::regtype THEN to_regprocedure(format('%s(text)', function))::oid END)
$$;
REVOKE ALL ON FUNCTION ledger.legacy_key_function(text, oid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_key_function(text, oid) IS 'Internal: the function of that name for a key; NULL: there is none.';

/* Both functions as they must be for the key's type; one row for each problem. */
CREATE FUNCTION ledger.legacy_key_function_problems(legacy regclass, key_column name, key_functions text[])
	RETURNS TABLE (ordinal bigint, problem text)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT p.ordinal, p.problem
	FROM (
		SELECT w.ordinal,
			CASE WHEN f.oid IS NULL THEN format('There is no function %s(%s).', w.function, w.argument::regtype)
				WHEN f.proretset OR f.prokind <> 'f' OR f.prorettype <> w.result
					AND NOT (w.result = 'varchar'::regtype AND f.prorettype = 'text'::regtype)
					THEN format('Function %s does not return one %s.', f.oid::regprocedure, w.result::regtype)
				WHEN f.provolatile <> 'i' THEN format('Function %s is not immutable.', f.oid::regprocedure)
				WHEN NOT has_function_privilege(w.relowner, f.oid, 'EXECUTE')
					OR NOT has_schema_privilege(w.relowner, f.pronamespace, 'USAGE')
					THEN format('The table''s owner may not execute %s.', f.oid::regprocedure) END AS problem
		FROM (
			SELECT n.ordinal, key_functions[n.ordinal] AS function, c.relowner,
				CASE n.ordinal WHEN 1 THEN a.atttypid ELSE 'uuid'::regtype END AS argument,
				CASE n.ordinal WHEN 1 THEN 'uuid'::regtype ELSE a.atttypid END AS result
			FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid, (VALUES (1), (2)) AS n (ordinal)
			WHERE a.attrelid = legacy AND a.attname = key_column AND a.attnum > 0 AND NOT a.attisdropped
		) w
		LEFT JOIN pg_proc f ON f.oid = ledger.legacy_key_function(w.function, w.argument)
	) p
	WHERE p.problem IS NOT NULL
$$;
REVOKE ALL ON FUNCTION ledger.legacy_key_function_problems(regclass, name, text[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_key_function_problems(regclass, name, text[]) IS 'Internal: what is wrong with key_functions.';

/* Key, mapped columns, conditions and constants as the mapping wants them; all required. */
CREATE FUNCTION ledger.legacy_check_columns(legacy regclass, mapping jsonb, key_column name, key_functions text[])
	RETURNS TABLE (check_name text, passed boolean, detail text, hint text)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'key_column', k.passed, k.detail, k.hint
	FROM ledger.legacy_check_key(legacy, mapping, key_column, key_functions) k
	UNION ALL
	SELECT 'key_functions', count(p.problem) = 0,
		COALESCE(string_agg(p.problem, ' ' ORDER BY p.ordinal), 'They fit the key and are immutable.'),
		CASE WHEN count(p.problem) > 0 THEN 'Name two immutable functions, of the key''s type returning uuid, and of uuid returning the key''s type.' END
	FROM ledger.legacy_key_function_problems(legacy, key_column, key_functions) p
	HAVING key_functions IS NOT NULL
	UNION ALL
	SELECT 'mapped_columns', bool_and(m.problem IS NULL),
		COALESCE(string_agg(m.problem, ' ' ORDER BY m.ordinal), 'Every mapped column is numeric or an integer.'),
		CASE WHEN bool_and(m.problem IS NULL) THEN NULL ELSE 'Map columns of type numeric, bigint, integer or smallint; change a column that is not exact to one of these.' END
	FROM (
		SELECT c.ordinal,
			CASE WHEN a.attname IS NULL THEN format('There is no column %s.', c.item ->> 'column')
				WHEN a.atttypid IN ('float4'::regtype, 'float8'::regtype, 'money'::regtype)
					THEN format('Column %s is of type %s, which does not hold exact amounts of every currency.', a.attname, a.atttypid::regtype)
				WHEN a.atttypid NOT IN ('numeric'::regtype, 'int8'::regtype, 'int4'::regtype, 'int2'::regtype)
					THEN format('Column %s is of type %s, which is not a number.', a.attname, a.atttypid::regtype)
				WHEN a.attgenerated <> '' THEN format('Column %s is generated.', a.attname)
				WHEN a.attname = key_column THEN format('Column %s is the key.', a.attname) END AS problem
		FROM jsonb_array_elements(mapping -> 'columns') WITH ORDINALITY AS c (item, ordinal)
		LEFT JOIN pg_attribute a ON a.attrelid = legacy AND a.attname = c.item ->> 'column'
			AND a.attnum > 0 AND NOT a.attisdropped
	) m
	UNION ALL
	SELECT 'conditions', bool_and(m.problem IS NULL),
		COALESCE(string_agg(m.problem, ' ' ORDER BY m.name COLLATE "C"), 'Every condition''s column exists.'),
		CASE WHEN bool_and(m.problem IS NULL) THEN NULL ELSE 'Name existing columns that are neither mapped nor the key.' END
	FROM (
		SELECT w.name,
			CASE WHEN a.attname IS NULL THEN format('There is no column %s.', w.name)
				WHEN a.attgenerated <> '' THEN format('Column %s is generated.', a.attname)
				WHEN a.attname = key_column OR jsonb_path_exists(mapping, '$.columns[*] ? (@.column == $name)',
						jsonb_build_object('name', w.name))
					THEN format('Column %s is the key or mapped.', a.attname) END AS problem
		FROM unnest(ledger.legacy_condition_columns(mapping #> '{columns,0}')) AS w (name)
		LEFT JOIN pg_attribute a ON a.attrelid = legacy AND a.attname = w.name
			AND a.attnum > 0 AND NOT a.attisdropped
	) m
	HAVING count(*) > 0
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
					THEN format('Column %s is the key or mapped.', a.attname)
				WHEN mapping #> '{columns,0,where}' ? c.name
					THEN format('Column %s is in a condition.', a.attname) END AS problem
		FROM jsonb_object_keys(mapping -> 'constants') AS c (name)
		LEFT JOIN pg_attribute a ON a.attrelid = legacy AND a.attname = c.name
			AND a.attnum > 0 AND NOT a.attisdropped
		) m
	HAVING true
$$;
REVOKE ALL ON FUNCTION ledger.legacy_check_columns(regclass, jsonb, name, text[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_check_columns(regclass, jsonb, name, text[]) IS 'Internal: whether key, mapped columns, conditions and constants of a mapping fit the table.';

/* ---- what rows hold: asked as the table's owner --------------------------------- */

/* Qualified, for SQL that runs with another search_path. */
CREATE FUNCTION ledger.legacy_equality(legacy regclass, column_name text) RETURNS text
	AS 'MODULE_PATHNAME', 'ledger_legacy_equality' LANGUAGE C STABLE STRICT PARALLEL SAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.legacy_equality(regclass, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_equality(regclass, text) IS 'Internal: the operator = of a column''s type, qualified.';

/* The rows that have the values of a mapped column's condition. */
CREATE FUNCTION ledger.legacy_condition_sql(legacy regclass, item jsonb) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT COALESCE(string_agg(format('t.%I %s %L', w.key, ledger.legacy_equality(legacy, w.key), w.value), ' AND '
		ORDER BY w.key COLLATE "C"), 'true')
	FROM jsonb_each_text(item -> 'where') w
$$;
REVOKE ALL ON FUNCTION ledger.legacy_condition_sql(regclass, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_condition_sql(regclass, jsonb) IS 'Internal: a condition of the mapping as SQL.';

/*
 * Whether two conditions are one by the equality of their columns, as what
 * legacy_ask() asks of no row. The types' own names have no length.
 */
CREATE FUNCTION ledger.legacy_same_condition_sql(legacy regclass, item jsonb, other jsonb) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('CASE WHEN pg_catalog.count(*) OPERATOR(pg_catalog.=) 0 THEN %s END', string_agg(
		format('%1$L::%3$s%4$s %5$s %2$L::%3$s%4$s', w.value, other #>> ARRAY['where', w.key], format('%I.%I', n.nspname, t.typname),
			(SELECT format(' COLLATE %I.%I', cn.nspname, c.collname) FROM pg_collation c JOIN pg_namespace cn ON cn.oid = c.collnamespace
				WHERE c.oid = a.attcollation), ledger.legacy_equality(legacy, w.key)), ' AND '))
	FROM jsonb_each_text(item -> 'where') w
	JOIN pg_attribute a ON a.attrelid = legacy AND a.attname = w.key AND a.attnum > 0 AND NOT a.attisdropped
	JOIN pg_type t ON t.oid = a.atttypid
	JOIN pg_namespace n ON n.oid = t.typnamespace
$$;
REVOKE ALL ON FUNCTION ledger.legacy_same_condition_sql(regclass, jsonb, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_same_condition_sql(regclass, jsonb, jsonb) IS 'Internal: SQL that asks whether two conditions of a mapping are the same.';

/* As legacy_count(); what it raises instead of raising it. */
CREATE FUNCTION ledger.legacy_try_count(legacy regclass, condition text, OUT count bigint, OUT problem text)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	count := ledger.legacy_count(legacy, condition);
EXCEPTION WHEN data_exception OR syntax_error_or_access_rule_violation OR plpgsql_error OR integrity_constraint_violation THEN
	problem := SQLERRM;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_try_count(regclass, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_try_count(regclass, text) IS 'Internal: counts rows, or says why they cannot be counted.';

/* Whether every key stands for a user, and every condition can be compared; required. */
CREATE FUNCTION ledger.legacy_check_values(legacy regclass, mapping jsonb, key_column name, key_functions text[])
	RETURNS TABLE (check_name text, passed boolean, detail text, hint text)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	kind text := ledger.legacy_key_kind(legacy, key_column, key_functions);
	key_type oid := (SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = legacy AND a.attname = key_column);
	bad record;
	problems text;
	advice text;
BEGIN
	IF kind = 'text' THEN
		SELECT * INTO bad FROM ledger.legacy_try_count(legacy,
			format('t.%I::pg_catalog.text OPERATOR(pg_catalog.!~) ''^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$''', key_column));
		RETURN QUERY SELECT 'key_values', bad.count = 0,
			CASE bad.count WHEN 0 THEN 'Every key is a uuid.' ELSE format('Keys that are not a uuid in lower case with hyphens: %s.', bad.count) END,
			CASE WHEN bad.count > 0 THEN 'Correct them, or pass key_functions.' END;
	ELSIF kind = 'functions' THEN
		SELECT * INTO bad FROM ledger.legacy_try_count(legacy,
			format('(%2$s(%1$s(t.%3$I)) %4$s t.%3$I) IS NOT TRUE',
				ledger.legacy_key_function(key_functions[1], key_type)::regproc,
				ledger.legacy_key_function(key_functions[2], 'uuid'::regtype)::regproc,
				key_column, ledger.legacy_equality(legacy, key_column::text)));
		RETURN QUERY SELECT 'key_values', COALESCE(bad.count = 0, false),
			CASE WHEN bad.count IS NULL THEN format('The functions fail: %s.', bad.problem)
				WHEN bad.count = 0 THEN 'The functions lead from every key to a uuid and back.'
				ELSE format('Keys that the functions do not lead back to: %s.', bad.count) END,
			CASE WHEN bad.count IS DISTINCT FROM 0 THEN 'Pass functions that are the reverse of each other for every key.' END;
	END IF;
	IF mapping #> '{columns,0,where}' <> '{}' THEN
		SELECT string_agg(DISTINCT format('Column %s: %s.', m.item ->> 'label', c.problem), ' ') INTO problems
			FROM jsonb_array_elements(mapping -> 'columns') AS m (item)
			CROSS JOIN LATERAL ledger.legacy_try_count(legacy, format('(%s) AND false', ledger.legacy_condition_sql(legacy, m.item))) c
			WHERE c.problem IS NOT NULL;
		advice := 'Compare with values of the columns'' types.';
		IF problems IS NULL THEN
			SELECT string_agg(format('%s and %s have one condition in two spellings.', one.item ->> 'label', other.item ->> 'label'), ' '
					ORDER BY one.n, other.n) INTO problems
				FROM jsonb_array_elements(mapping -> 'columns') WITH ORDINALITY AS one (item, n)
				JOIN jsonb_array_elements(mapping -> 'columns') WITH ORDINALITY AS other (item, n)
					ON one.n < other.n AND one.item -> 'where' <> other.item -> 'where'
				WHERE ledger.legacy_ask(legacy, ledger.legacy_same_condition_sql(legacy, one.item, other.item), 'false') = 't';
			advice := 'Spell it alike, or name other values.';
		END IF;
		RETURN QUERY SELECT 'condition_values', problems IS NULL, COALESCE(problems, 'Every condition can be compared.'),
			CASE WHEN problems IS NOT NULL THEN advice END;
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_check_values(regclass, jsonb, name, text[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_check_values(regclass, jsonb, name, text[]) IS 'Internal: whether every key stands for a user and every condition can be compared.';

/* Rows from which nobody could be opened. */
CREATE FUNCTION ledger.legacy_check_rows(legacy regclass, mapping jsonb,
	OUT passed boolean, OUT detail text, OUT hint text)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	conditions text;
	mapped text := (SELECT string_agg(DISTINCT format('(%s)', ledger.legacy_condition_sql(legacy, c.item)), ' OR ')
		FROM jsonb_array_elements(mapping -> 'columns') AS c (item));
	bad bigint;
	others bigint := 0;
	values_found text;
BEGIN
	SELECT string_agg(format('(%s)', part), ' OR ') INTO conditions FROM (
		SELECT format('(%4$s) AND NOT (t.%1$I IS NULL OR (%3$s OPERATOR(pg_catalog.>=) 0 AND %3$s OPERATOR(pg_catalog.<) 1e20 AND pg_catalog.scale(pg_catalog.trim_scale(%3$s)) OPERATOR(pg_catalog.<=) %2$s))',
				c.item ->> 'column', cu.scale,
				format('(t.%I::pg_catalog.numeric OPERATOR(pg_catalog.*) %s::pg_catalog.numeric)', c.item ->> 'column', c.item ->> 'unit'),
				ledger.legacy_condition_sql(legacy, c.item)) AS part
		FROM jsonb_array_elements(mapping -> 'columns') AS c (item)
		JOIN ledger.account_types t ON t.name = c.item #>> '{accounts,0}'
		JOIN ledger.currencies cu ON cu.code = t.currency
		UNION ALL
		SELECT format('(%s) AND t.%I OPERATOR(pg_catalog.<>) 0', ledger.legacy_condition_sql(legacy, c.item), c.item ->> 'column')
		FROM jsonb_array_elements(mapping -> 'columns') AS c (item)
		WHERE c.item #>> '{accounts,0}' = 'pending_investment'
		UNION ALL
		SELECT format('(%s) AND t.%I IS NOT NULL AND (t.%2$I::pg_catalog.text COLLATE pg_catalog."C") OPERATOR(pg_catalog.<>) ALL (%L::pg_catalog.text[])',
			mapped, k.key, ARRAY(SELECT jsonb_array_elements_text(k.value)))
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
	IF mapping #> '{columns,0,where}' <> '{}' THEN
		others := ledger.legacy_count(legacy, format('(%s) IS NOT TRUE', mapped));
	END IF;
	IF others > 0 THEN
		values_found := ledger.legacy_ask(legacy, format('pg_catalog.array_to_string((pg_catalog.array_agg(DISTINCT (%s) ORDER BY (%1$s)))[1:5], '', '')',
			(SELECT format('pg_catalog.concat_ws('' and '', %s)', string_agg(format('pg_catalog.concat(%L, COALESCE(pg_catalog.quote_literal(t.%I), ''NULL''))', w || ' ', w), ', ' ORDER BY w COLLATE "C"))
				FROM jsonb_object_keys(mapping #> '{columns,0,where}') w)), format('(%s) IS NOT TRUE', mapped));
		detail := concat_ws(' ', NULLIF(detail, 'Every row can be opened.'),
			format('Rows of none of the conditions, whose money the ledger does not see: %s, with %s.', others, values_found));
		hint := concat_ws(' ', hint, 'Correct these values, map them too, or keep the rows in another table.');
		passed := false;
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_check_rows(regclass, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_check_rows(regclass, jsonb) IS 'Internal: whether every row could be opened.';
