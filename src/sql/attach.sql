/*
 * attach.sql: the preflight of a legacy table, attaching and detaching it.
 *
 * The functions that a caller may execute are C: they check that the caller
 * can act for the legacy table's owner and then run the functions below them
 * (legacy_attach and the like) as the owner of the extension. Nobody else may
 * execute those.
 */

/* The table and, of a partitioned one, its partitions at any depth. */
CREATE FUNCTION ledger.legacy_relations(legacy regclass) RETURNS TABLE (relid regclass)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.oid::regclass
	FROM (SELECT legacy AS relid UNION SELECT p.relid FROM pg_partition_tree(legacy) p) t JOIN pg_class c ON c.oid = t.relid
$$;
REVOKE ALL ON FUNCTION ledger.legacy_relations(regclass) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_relations(regclass) IS 'Internal: a legacy table and its partitions.';

/* Whether some index has keys in the order of their users' uuids. */
CREATE FUNCTION ledger.legacy_sorts(legacy regclass, key_column name, key_functions text[]) RETURNS boolean
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE ledger.legacy_key_kind(legacy, key_column, key_functions)
		WHEN 'text' THEN EXISTS (
			SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
				JOIN pg_collation c ON c.oid = i.indcollation[0]
			WHERE i.indrelid = legacy AND a.attname = key_column AND i.indpred IS NULL
				AND (c.collname IN ('C', 'POSIX') OR c.collname = 'default' AND EXISTS (
					SELECT FROM pg_database d WHERE d.datname = current_database() AND d.datcollate IN ('C', 'POSIX'))))
		WHEN 'functions' THEN EXISTS (
			SELECT FROM pg_index i JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
			WHERE i.indrelid = legacy AND i.indkey[0] = 0 AND i.indpred IS NULL AND d.refclassid = 'pg_proc'::regclass
				AND d.refobjid = ledger.legacy_key_function(key_functions[1],
					(SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = legacy AND a.attname = key_column)))
		ELSE true END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_sorts(regclass, name, text[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_sorts(regclass, name, text[]) IS 'Internal: whether a scan in the order of users needs no sort.';

/* What would make a legacy write fail, or change what it writes; not required. */
CREATE FUNCTION ledger.legacy_check_writes(legacy regclass, mapping jsonb, key_column name, key_functions text[])
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
		AND NOT mapping -> 'constants' ? a.attname::text AND NOT mapping #> '{columns,0,where}' ? a.attname::text
		/* not in the row of every condition */
		AND EXISTS (SELECT FROM jsonb_array_elements(mapping -> 'columns') AS c (item)
			GROUP BY c.item -> 'where' HAVING NOT bool_or(c.item ->> 'column' = a.attname))
	UNION ALL
	SELECT 'numeric_digits', string_agg(d.found, ', ' ORDER BY d.ordinal),
		'Amounts with more digits than the column has cannot be mirrored:',
		CASE WHEN bool_or(d.has_unit) THEN 'Let the ledger move whole units of these columns alone.'
			ELSE 'Widen the columns to numeric(38,18), or know that amounts stay small.' END
	FROM (
		SELECT c.ordinal, c.item -> 'unit' <> '1' OR a.atttypid <> 'numeric'::regtype AS has_unit,
			format(CASE WHEN c.item -> 'unit' = '1' THEN '%s %s' ELSE '%s %s in units of %s' END,
				CASE WHEN c.item -> 'label' = c.item -> 'column' THEN quote_ident(a.attname) ELSE c.item ->> 'label' END, format_type(a.atttypid, a.atttypmod), c.item ->> 'unit') AS found
		FROM pg_attribute a
		JOIN jsonb_array_elements(mapping -> 'columns') WITH ORDINALITY AS c (item, ordinal) ON c.item ->> 'column' = a.attname
		JOIN ledger.account_types t ON t.name = c.item #>> '{accounts,0}'
		JOIN ledger.currencies cu ON cu.code = t.currency
		WHERE a.attrelid = legacy AND a.attnum > 0 AND NOT a.attisdropped
			AND CASE WHEN a.atttypid = 'numeric'::regtype THEN a.atttypmod >= 4
				AND ((((a.atttypmod - 4) & 2047) # 1024) - 1024 + scale((c.item ->> 'unit')::numeric) < cu.scale
					OR (((a.atttypmod - 4) >> 16) & 65535) - ((((a.atttypmod - 4) & 2047) # 1024) - 1024) < 18)
				ELSE a.atttypid IN ('int8'::regtype, 'int4'::regtype, 'int2'::regtype) END
	) d
	UNION ALL
	SELECT 'check_constraints', string_agg(quote_ident(k.conname), ', ' ORDER BY k.conname),
		'A legacy write that breaks one of these constraints fails:',
		'Make sure that they hold for whatever the ledger allows.'
	FROM pg_constraint k WHERE k.conrelid = legacy AND k.contype IN ('c', 'x')
	UNION ALL
	SELECT 'unique_keys', string_agg(i.indexrelid::regclass::text, ', ' ORDER BY i.indexrelid::regclass::text),
		'Inserting a missing legacy row fails where it would break one of these unique indexes:',
		'Make sure that no other row of the user, and no default of another column, is in the way.'
	FROM pg_index i
	WHERE i.indrelid = legacy AND i.indisunique
		AND (i.indexrelid NOT IN (SELECT ledger.legacy_key_indexes(legacy, mapping, key_column))
			/* the row of another condition is in the way */
			OR i.indnkeyatts <= cardinality(ledger.legacy_condition_columns(mapping #> '{columns,0}')))
	UNION ALL
	SELECT 'foreign_keys', string_agg(quote_ident(k.conname), ', ' ORDER BY k.conname),
		'These foreign keys let a legacy write fail, or cascades change rows:',
		'Make sure that every user of the ledger exists in the referenced tables.'
	FROM pg_constraint k WHERE k.contype = 'f' AND k.conrelid = legacy
	UNION ALL
	SELECT 'triggers', string_agg(quote_ident(g.tgname), ', ' ORDER BY g.tgname),
		'These triggers can change or refuse what the mirror writes:',
		'Read them; what they change is recorded as a mirror side effect.'
	FROM pg_trigger g WHERE g.tgrelid IN (SELECT ledger.legacy_relations(legacy)) AND NOT g.tgisinternal AND g.tgparentid = 0
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
	SELECT 'key_order', CASE WHEN ledger.legacy_sorts(legacy, key_column, key_functions) THEN NULL ELSE quote_ident(key_column) END,
		'Reconciliation sorts the table, for no index has the order of the users'' uuids on',
		'For a large table create an index on the key COLLATE "C", or on the first of key_functions of the key.'
	UNION ALL
	SELECT 'replication', string_agg(quote_ident(s.subname), ', ' ORDER BY s.subname),
		'Logical replication writes the table, past the application; subscriptions:',
		'Drop the table from these subscriptions.'
	FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
	WHERE r.srrelid IN (SELECT ledger.legacy_relations(legacy))
$$;
REVOKE ALL ON FUNCTION ledger.legacy_check_writes(regclass, jsonb, name, text[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_check_writes(regclass, jsonb, name, text[]) IS 'Internal: what of a legacy table can make the mirror''s writes fail.';

CREATE FUNCTION ledger.legacy_deferred(legacy regclass) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	/* constraint triggers and what a unique index enforces have a row there too */
	SELECT string_agg(quote_ident(d.conname), ', ' ORDER BY d.conname)
	FROM (
		SELECT DISTINCT k.conname FROM pg_constraint k
		WHERE k.conrelid IN (SELECT ledger.legacy_relations(legacy)) AND k.condeferrable AND k.conparentid = 0
	) d
$$;
REVOKE ALL ON FUNCTION ledger.legacy_deferred(regclass) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_deferred(regclass) IS 'Internal: names of constraints and constraint triggers that are deferrable; NULL: none.';

/*
 * All checks in their order; required are those that attach_legacy() insists
 * on. with_rows: reads the whole table as well.
 */
CREATE FUNCTION ledger.legacy_checks(legacy regclass, mapping jsonb, key_column name, key_functions text[], with_rows boolean)
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
	sound := (SELECT bool_and(c.passed) FROM ledger.legacy_check_columns(legacy, mapping, key_column, key_functions) c);
	RETURN QUERY SELECT c.check_name, c.passed, true, c.detail, c.hint
		FROM ledger.legacy_check_columns(legacy, mapping, key_column, key_functions) c;

	SELECT c.relowner INTO table_owner FROM pg_class c WHERE c.oid = legacy;
	RETURN QUERY SELECT 'owner_rights', r.missing IS NULL, true,
			CASE WHEN r.missing IS NULL THEN 'The owner may read and write the table.'
				ELSE format('The owner %s has lost %s.', table_owner::regrole, r.missing) END,
			CASE WHEN r.missing IS NOT NULL THEN format('GRANT ALL ON %s TO %s.', legacy, table_owner::regrole) END
		FROM (SELECT string_agg(p, ', ') AS missing FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) p
			WHERE NOT has_table_privilege(table_owner, legacy, p)) r;
	sound := sound AND has_table_privilege(table_owner, legacy, 'SELECT');
	RETURN QUERY SELECT 'not_attached', a.n = 0, true,
			CASE WHEN a.n = 0 THEN 'The table is not attached.' ELSE 'The table is attached already.' END,
			CASE WHEN a.n > 0 THEN 'Call detach_legacy() first to attach it with another mapping.' END
		FROM (SELECT count(*) AS n FROM ledger.legacy_mappings m
			WHERE m.legacy = legacy_checks.legacy AND m.detached_at IS NULL) a;

	RETURN QUERY SELECT w.check_name, w.found IS NULL,
			w.check_name = 'deferred_checks' AND EXISTS (SELECT FROM ledger.settings s WHERE s.shadow_mode AND NOT s.strict_mode),
			CASE WHEN w.found IS NULL THEN 'Nothing found.' ELSE format('%s %s.', w.problem, w.found) END,
			CASE WHEN w.found IS NOT NULL THEN w.hint END
		FROM ledger.legacy_check_writes(legacy, mapping, key_column, key_functions) w;
	IF sound AND with_rows THEN
		RETURN QUERY SELECT v.check_name, v.passed, true, v.detail, v.hint
			FROM ledger.legacy_check_values(legacy, mapping, key_column, key_functions) v;
		sound := (SELECT bool_and(v.passed) FROM ledger.legacy_check_values(legacy, mapping, key_column, key_functions) v)
			IS NOT FALSE;
	END IF;
	IF sound AND with_rows THEN
		RETURN QUERY SELECT 'rows', r.passed, false, r.detail, r.hint FROM ledger.legacy_check_rows(legacy, mapping) r;
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_checks(regclass, jsonb, name, text[], boolean) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_checks(regclass, jsonb, name, text[], boolean) IS 'Internal: every check of the preflight.';

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
	IF array_ndims(key_functions) <> 1 OR cardinality(key_functions) <> 2 OR array_position(key_functions, NULL) IS NOT NULL THEN
		RAISE EXCEPTION 'invalid key_functions %', key_functions
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = 'It names two functions: from the key''s type to uuid, and from uuid to the key''s type.',
				  HINT = 'For example ARRAY[''app.key_to_uuid'', ''app.uuid_to_key''].';
	END IF;
	/* when the last migration is done, dropped tables and all, another may begin */
	IF EXISTS (SELECT FROM ledger.settings s WHERE s.phase <> 'migrating'
			AND (s.phase <> 'retired' OR EXISTS (SELECT FROM ledger.legacy_mappings m WHERE m.detached_at IS NULL))) THEN
		RAISE EXCEPTION 'cannot attach a table after the cut-over'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				  HINT = 'Call ledger.roll_back() first, or end the migration with ledger.drop_legacy().';
	END IF;
	clean := ledger.legacy_mapping(legacy, mapping);

	FOR one IN SELECT * FROM ledger.legacy_checks(legacy, clean, key_column, key_functions, true) LOOP
		RETURN QUERY SELECT one.check_name::text, one.passed::boolean, one.detail::text, one.hint::text;
		IF one.required AND NOT one.passed THEN
			failed := concat_ws(', ', failed, one.check_name);
		END IF;
	END LOOP;
	IF really AND failed IS NULL THEN
		/* what was found before the lock may have changed; the rows are only counted */
		PERFORM ledger.legacy_lock(legacy, 5000);
		SELECT string_agg(c.check_name, ', ') INTO failed
			FROM ledger.legacy_checks(legacy, clean, key_column, key_functions, false) c WHERE c.required AND NOT c.passed;
	END IF;
	IF really AND failed IS NULL THEN
		PERFORM ledger.legacy_store(legacy, clean, key_column, key_functions, legacy_attach.capture, caller);
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

CREATE FUNCTION ledger.legacy_store(legacy regclass, mapping jsonb, key_column name, key_functions text[], capture text, caller text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	own_id smallint;
	relation regclass;
	kind text := ledger.legacy_key_kind(legacy, key_column, key_functions);
	/* qualified: it is read under any search_path */
	functions text[] := CASE kind WHEN 'functions' THEN ARRAY[
		ledger.legacy_key_function(key_functions[1], (SELECT a.atttypid FROM pg_attribute a
			WHERE a.attrelid = legacy AND a.attname = legacy_store.key_column))::regproc::text,
		ledger.legacy_key_function(key_functions[2], 'uuid'::regtype)::regproc::text] END;
BEGIN
	SELECT m.id INTO own_id FROM ledger.legacy_mappings m WHERE m.legacy = legacy_store.legacy;
	IF FOUND THEN
		UPDATE ledger.legacy_mappings m
			SET key_column = legacy_store.key_column, key_kind = kind, key_functions = functions, constants = mapping -> 'constants', capture = legacy_store.capture,
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
		INSERT INTO ledger.legacy_mappings (id, legacy, key_column, key_kind, key_functions, constants, capture, attached_by)
			VALUES (own_id, legacy, key_column, kind, functions, mapping -> 'constants', capture, caller);
	END IF;
	INSERT INTO ledger.legacy_columns (mapping_id, ordinal, legacy_column, column_name, accounts, unit, condition)
		SELECT own_id, c.ordinal, c.item ->> 'label', c.item ->> 'column',
			ARRAY(SELECT jsonb_array_elements_text(c.item -> 'accounts')), (c.item ->> 'unit')::numeric, c.item -> 'where'
		FROM jsonb_array_elements(mapping -> 'columns') WITH ORDINALITY AS c (item, ordinal);
	INSERT INTO ledger.legacy_log (legacy, action, capture, changed_by)
		VALUES (legacy::text, 'attach', capture, caller);

	/* a partition gets the row trigger from its parent, but nothing that is fired for a statement */
	EXECUTE format('CREATE TRIGGER ledger_capture AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION ledger.capture()', legacy);
	FOR relation IN SELECT * FROM ledger.legacy_relations(legacy) LOOP
		EXECUTE format('CREATE TRIGGER ledger_capture_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION ledger.capture()', relation);
		EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER ledger_capture', relation);
		EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER ledger_capture_truncate', relation);
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_store(regclass, jsonb, name, text[], text, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_store(regclass, jsonb, name, text[], text, text) IS 'Internal: stores a mapping and creates the capture triggers.';

CREATE FUNCTION ledger.legacy_detach(legacy regclass, caller text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	relation regclass;
	still_there boolean := EXISTS (SELECT FROM pg_class c WHERE c.oid = legacy);
BEGIN
	IF NOT EXISTS (SELECT FROM ledger.legacy_mappings m WHERE m.legacy = legacy_detach.legacy AND m.detached_at IS NULL) THEN
		RAISE EXCEPTION 'table % is not attached', legacy
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'ledger.legacy_mappings lists the attached tables.';
	END IF;
	PERFORM ledger.legacy_lock(CASE WHEN still_there THEN legacy ELSE 'ledger.settings'::regclass END, 5000);
	-- a retired table that somebody has dropped is the way back to nothing
	IF EXISTS (SELECT FROM ledger.settings s WHERE s.phase <> 'migrating' AND (still_there OR s.phase <> 'retired')) THEN
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
	IF NOT still_there THEN
		UPDATE ledger.retirements r SET dropped_at = ledger.clock()
			FROM ledger.legacy_mappings m WHERE m.id = r.mapping_id AND m.legacy = legacy_detach.legacy
				AND r.restored_at IS NULL AND r.dropped_at IS NULL;
	ELSE
		EXECUTE format('DROP TRIGGER IF EXISTS ledger_capture ON %s', legacy);
		FOR relation IN SELECT * FROM ledger.legacy_relations(legacy) LOOP
			EXECUTE format('DROP TRIGGER IF EXISTS ledger_capture_truncate ON %s', relation);
		END LOOP;
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
