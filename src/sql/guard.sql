/*
 * guard.sql: the triggers that keep SQL off the ledger's own tables, and the
 * event triggers that keep a ledger with transactions, and attached legacy
 * tables, from being dropped.
 *
 * ledger.guards() names every trigger that must be there; the install script
 * makes them with the same function that restores them later.
 */

CREATE FUNCTION ledger.guard() RETURNS trigger
	AS 'MODULE_PATHNAME', 'ledger_guard'
	LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.guard() FROM PUBLIC;
COMMENT ON FUNCTION ledger.guard() IS
'Trigger: refuses what SQL, or the logical apply worker, does to a table that the ledger''s functions alone write. Error: LG007.';

/*
 * Rows may be inserted everywhere: by a restore, and into logs by the ledger's
 * functions. Where only a restore does, guard() looks at INSERT too, for the
 * logical apply worker. Of what was found to differ the rows change, but stay.
 */
CREATE FUNCTION ledger.guards() RETURNS TABLE (table_name text, trigger_name text, definition text)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $$
	SELECT g.table_name, t.trigger_name,
		   format('CREATE TRIGGER %s %s ON %s %sFOR EACH %s EXECUTE FUNCTION ledger.%s()',
				  t.trigger_name, t.events, g.table_name,
				  CASE g.kind WHEN 'opened' THEN 'REFERENCING NEW TABLE AS added '
					  WHEN 'changed' THEN 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows ' END,
				  t.level, t.function_name)
	FROM (
		VALUES
			('ledger.journal', 'state'),
			('ledger.accounts', 'state'),
			('ledger.account_stripes', 'state'),
			('ledger.reservation_rows', 'state'),
			('ledger.reservation_draws', 'state'),
			('ledger.settings', 'state'),
			('ledger.identity', 'state'),
			('ledger.account_status_log', 'log'),
			('ledger.settings_log', 'log'),
			('ledger.test_clock_log', 'log'),
			('ledger.cut_over_rehearsals', 'log'),
			('ledger.retirements', 'finding'),
			('ledger.roll_backs', 'finding'),
			('ledger.legacy_log', 'log'),
			('ledger.legacy_writes', 'finding'),
			('ledger.legacy_writes', 'captured'),
			('ledger.reconciliation_runs', 'finding'),
			('ledger.reconciliation_findings', 'finding'),
			('ledger.ignore_rules', 'finding'),
			('ledger.repair_log', 'log'),
			('ledger.discrepancy_rows', 'finding'),
			('ledger.discrepancy_rows', 'opened'),
			('ledger.discrepancy_rows', 'changed'),
			('ledger.discrepancy_changes', 'finding'),
			('ledger.evidence_losses', 'finding'),
			('ledger.read_timings', 'finding'),
			('ledger.backfill_runs', 'finding'),
			('ledger.backfill_findings', 'finding'),
			('ledger.legacy_mappings', 'mapping'),
			('ledger.legacy_columns', 'mapping'),
			('ledger.currencies', 'type'),
			('ledger.account_types', 'type'),
			('ledger.inbox', 'inbox')
		UNION ALL
		SELECT r.relation::text, 'legacy'
		FROM ledger.legacy_mappings m JOIN pg_class c ON c.oid = m.legacy
		CROSS JOIN LATERAL ledger.legacy_relations(m.legacy) AS r (relation)
		WHERE m.detached_at IS NULL
	) AS g (table_name, kind)
	JOIN (VALUES
		('state', 'guard', 'BEFORE INSERT OR DELETE OR UPDATE', 'ROW', 'guard'),
		('state', 'guard_truncate', 'BEFORE TRUNCATE', 'STATEMENT', 'guard'),
		('log', 'guard', 'BEFORE DELETE OR UPDATE', 'ROW', 'guard'),
		('log', 'guard_truncate', 'BEFORE TRUNCATE', 'STATEMENT', 'guard'),
		('finding', 'guard', 'BEFORE DELETE', 'ROW', 'guard'),
		('finding', 'guard_truncate', 'BEFORE TRUNCATE', 'STATEMENT', 'guard'),
		('type', 'type_guard', 'BEFORE INSERT OR DELETE OR UPDATE', 'ROW', 'type_guard'),
		('type', 'guard_truncate', 'BEFORE TRUNCATE', 'STATEMENT', 'guard'),
		('mapping', 'legacy_changed', 'AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE', 'STATEMENT', 'legacy_changed'),
		('inbox', 'inbox_begin', 'BEFORE INSERT', 'STATEMENT', 'inbox_post'),
		('inbox', 'inbox_collect', 'BEFORE INSERT', 'ROW', 'inbox_post'),
		('inbox', 'inbox_post', 'AFTER INSERT', 'STATEMENT', 'inbox_post'),
		('opened', 'discrepancy_opened', 'AFTER INSERT', 'STATEMENT', 'discrepancy_opened'),
		('changed', 'discrepancy_changed', 'AFTER UPDATE', 'STATEMENT', 'discrepancy_changed'),
		('captured', 'capture_post', 'AFTER INSERT',
			'ROW WHEN (((new.kind = ''posted''::text) AND (new.transaction_id IS NULL)))', 'capture_post'),
		('legacy', 'ledger_capture', 'AFTER INSERT OR DELETE OR UPDATE', 'ROW', 'capture'),
		('legacy', 'ledger_capture_truncate', 'BEFORE TRUNCATE', 'STATEMENT', 'capture')
	) AS t (kind, trigger_name, events, level, function_name) USING (kind)
$$;
REVOKE ALL ON FUNCTION ledger.guards() FROM PUBLIC;
COMMENT ON FUNCTION ledger.guards() IS
'Internal: the triggers that the ledger rests on, its own tables'' and those of attached legacy tables, as pg_get_triggerdef() shows them.';

/*
 * At ddl_command_start, because at sql_drop the trigger has gone with the
 * extension; a member of it, so that it cannot be dropped alone.
 */
CREATE FUNCTION ledger.drop_guard() RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'ledger_drop_guard'
	LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.drop_guard() FROM PUBLIC;
COMMENT ON FUNCTION ledger.drop_guard() IS
'Event trigger: refuses to drop the extension, or what it cannot be without, while the journal has rows, unless ledger.allow_drop is on. Error: 55000.';

CREATE EVENT TRIGGER ledger_drop_guard ON ddl_command_start
	WHEN TAG IN ('DROP EXTENSION', 'DROP OWNED', 'DROP SCHEMA')
	EXECUTE FUNCTION ledger.drop_guard();
ALTER EVENT TRIGGER ledger_drop_guard ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER ledger_drop_guard IS 'Keeps a ledger with transactions from being dropped, see ledger.drop_guard().';

/*
 * At sql_drop, because only then all that a command takes along is known. A
 * partition is known by the capture trigger that goes with it; drop_legacy()
 * has detached its table by then. With the extension this trigger goes too.
 */
CREATE FUNCTION ledger.legacy_drop_guard() RETURNS event_trigger
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	dropped record;
BEGIN
	IF current_setting('ledger.allow_drop', true) = 'on' THEN
		RETURN;
	END IF;
	SELECT d.object_identity AS name, m.detached_at, m.legacy IS NULL AS part INTO dropped
		FROM pg_event_trigger_dropped_objects() d
		LEFT JOIN ledger.legacy_mappings m ON m.legacy::oid = d.objid
		WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
		  AND (m.legacy IS NOT NULL OR EXISTS (SELECT FROM pg_event_trigger_dropped_objects() t
				WHERE t.object_type = 'trigger' AND t.address_names = d.address_names || ARRAY['ledger_capture']))
		ORDER BY m.legacy IS NULL, m.detached_at IS NOT NULL, d.object_identity
		LIMIT 1;
	IF dropped.name IS NULL OR dropped.detached_at IS NOT NULL THEN
		RETURN;
	END IF;
	RAISE EXCEPTION 'cannot drop %attached legacy table %', CASE WHEN dropped.part THEN 'a partition of an ' ELSE '' END, dropped.name
		USING ERRCODE = 'object_not_in_prerequisite_state',
			  DETAIL = format('%s would take it away from the ledger, which opens, mirrors and compares users in it.', tg_tag),
			  HINT = CASE WHEN dropped.part THEN 'Move its rows first, and detach the partition.'
				ELSE format('Call ledger.detach_legacy(%L) first; a retired table goes with ledger.drop_legacy().', dropped.name) END;
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_drop_guard() FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_drop_guard() IS
'Event trigger: refuses to drop an attached legacy table, or a partition of one, unless ledger.allow_drop is on. Error: 55000.';

CREATE EVENT TRIGGER ledger_legacy_drop_guard ON sql_drop
	WHEN TAG IN ('DROP TABLE', 'DROP SCHEMA', 'DROP OWNED', 'DROP EXTENSION', 'DROP TYPE')
	EXECUTE FUNCTION ledger.legacy_drop_guard();
ALTER EVENT TRIGGER ledger_legacy_drop_guard ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER ledger_legacy_drop_guard IS 'Keeps attached legacy tables from being dropped, see ledger.legacy_drop_guard().';

/*
 * The state of enabling is A for ENABLE ALWAYS, D for disabled; pg_restore
 * --disable-triggers leaves O behind, which does not fire for replication.
 */
CREATE FUNCTION ledger.disarmed() RETURNS TABLE (table_name text, trigger_name text, what text)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $$
	SELECT g.table_name, g.trigger_name,
		   CASE WHEN t.oid IS NULL THEN 'missing'
				WHEN pg_get_triggerdef(t.oid) <> g.definition THEN 'altered'
				WHEN t.tgenabled = 'D' THEN 'disabled'
				WHEN t.tgenabled <> 'A' THEN 'not enabled always' END AS what
	FROM ledger.guards() g
	LEFT JOIN pg_trigger t ON t.tgrelid = g.table_name::regclass AND t.tgname = g.trigger_name
	WHERE t.oid IS NULL OR pg_get_triggerdef(t.oid) <> g.definition OR t.tgenabled <> 'A'
	UNION ALL
	SELECT NULL, g.name,
		   CASE WHEN e.oid IS NULL THEN 'missing'
				WHEN e.evtenabled = 'D' THEN 'disabled'
				WHEN e.evtenabled <> 'A' THEN 'not enabled always' END
	FROM (VALUES ('ledger_drop_guard'), ('ledger_legacy_drop_guard')) AS g (name)
	LEFT JOIN pg_event_trigger e ON e.evtname = g.name
	WHERE e.oid IS NULL OR e.evtenabled <> 'A'
	ORDER BY 1, 2
$$;
REVOKE ALL ON FUNCTION ledger.disarmed() FROM PUBLIC;
COMMENT ON FUNCTION ledger.disarmed() IS
'Internal, for verify() and rearm(): the guards (and triggers on attached legacy tables) that are missing, altered, disabled or not enabled always (which do not fire for replication); no row: all are armed. table_name is NULL for the event triggers.';

CREATE FUNCTION ledger.rearm() RETURNS TABLE (table_name text, trigger_name text, what text)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $$
DECLARE
	found_state record;
BEGIN
	FOR found_state IN
		SELECT d.table_name, d.trigger_name, d.what, g.definition
		FROM ledger.disarmed() d
		LEFT JOIN ledger.guards() g USING (table_name, trigger_name)
		ORDER BY d.table_name, d.trigger_name
	LOOP
		table_name := found_state.table_name;
		trigger_name := found_state.trigger_name;
		what := 'enabled';
		IF table_name IS NULL THEN
			IF found_state.what = 'missing' THEN
				what := 'created';
				IF trigger_name = 'ledger_drop_guard' THEN
					CREATE EVENT TRIGGER ledger_drop_guard ON ddl_command_start
						WHEN TAG IN ('DROP EXTENSION', 'DROP OWNED', 'DROP SCHEMA')
						EXECUTE FUNCTION ledger.drop_guard();
				ELSE
					CREATE EVENT TRIGGER ledger_legacy_drop_guard ON sql_drop
						WHEN TAG IN ('DROP TABLE', 'DROP SCHEMA', 'DROP OWNED', 'DROP EXTENSION', 'DROP TYPE')
						EXECUTE FUNCTION ledger.legacy_drop_guard();
				END IF;
				EXECUTE format('ALTER EXTENSION ledger ADD EVENT TRIGGER %I', trigger_name);
			END IF;
			EXECUTE format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', trigger_name);
		ELSE
			IF found_state.what = 'altered' THEN
				what := 'replaced';
				EXECUTE format('DROP TRIGGER %I ON %s', trigger_name, table_name);
				EXECUTE found_state.definition;
			ELSIF found_state.what = 'missing' THEN
				what := 'created';
				EXECUTE found_state.definition;
			END IF;
			EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', table_name, trigger_name);
		END IF;
		RETURN NEXT;
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION ledger.rearm() FROM PUBLIC;
COMMENT ON FUNCTION ledger.rearm() IS
'Restores the guards that were disabled, altered or dropped, for example by pg_restore --disable-triggers, and says what it did: created, replaced or enabled. What is armed is not touched. Waits for transactions that write to the table concerned. For a superuser, or who owns extension and tables.';

SELECT count(*) FROM ledger.rearm();
