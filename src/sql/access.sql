/*
 * access.sql: who may do what.
 *
 * PUBLIC may do nothing: no part of the ledger can be reached without
 * grant_access(). The C functions write and read tables through the table
 * access method, which checks no rights on tables, so EXECUTE on a function is
 * the whole gate, and every function has its place in ledger.access_rules().
 */

/*
 * What each level adds to the one before: reader, writer, operator, admin.
 * What is the owner's or internal is granted to nobody.
 */
CREATE FUNCTION ledger.access_rules() RETURNS TABLE (level text, kind text, privileges text, name text)
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT r.level, r.kind, r.privileges, unnest(r.names)
	FROM (VALUES
		('reader', 'routine', 'EXECUTE', ARRAY[
			'get_user_balance', 'get_balance', 'get_detailed_balance', 'get_account_balance',
			'check_available_balance', 'user_history', 'compare_balances', 'integer_to_uuid', 'uuid_to_integer', 'normalise', 'stripe_sum']),
		('reader', 'relation', 'SELECT', ARRAY[
			'account_balances', 'entries', 'transactions', 'reservations', 'discrepancies',
			'account_types', 'currencies']),
		('reader', 'type', 'USAGE', ARRAY['user_balance', 'full_balance', 'detailed_balance']),

		('writer', 'routine', 'EXECUTE', ARRAY[
			'credit_user_usdc', 'debit_user_usdc', 'move_funds_to_fiat_exposure', 'move_funds_to_usdc',
			'reserve_for_investment', 'release_reservation', 'execute_investment', 'settle_sale',
			'reverse_transaction', 'post', 'post_batch', 'open_account', 'find_transaction',
			'record_broker_account', 'record_broker_positions']),
		('writer', 'relation', 'INSERT', ARRAY['inbox']),
		('writer', 'relation', 'SELECT', ARRAY['inbox_results']),
		('writer', 'type', 'USAGE', ARRAY['posting', 'transfer']),

		('operator', 'routine', 'EXECUTE', ARRAY[
			'configure', 'set_account_status', 'set_account_limit', 'set_account_stripes', 'expire_reservations',
			'convert_buffer', 'fund_broker', 'replenish_buffer', 'open_house_balance',
			'settle_suspense',
			'cancel_reconciliation', 'ignore_discrepancy', 'unignore_discrepancy', 'reconciliation_csv', 'reconciliation_json',
			'reconcile', 'run_reconciliation', 'repair', 'repair_user', 'undo_repair', 'verify', 'legacy_preflight',
			'explain_discrepancy',
			'evidence_status', 'read_latency', 'readiness', 'migration_status', 'is_copy', 'clock', 'backfill_pid', 'report_html']),
		('operator', 'relation', 'SELECT', ARRAY[
			'reconciliation_findings', 'reconciliation_users', 'reconciliation_progress', 'ignore_rules',
			'account_stripes', 'settings', 'settings_log', 'account_status_log', 'reconciliation_runs', 'legacy_mappings',
			'legacy_columns', 'legacy_log', 'legacy_writes', 'legacy_writers', 'suspense_items', 'repair_log',
			'identity', 'test_clock_log', 'cut_over_rehearsals', 'retirements', 'roll_backs',
			'worker_status', 'worker_heartbeat', 'evidence_losses', 'evidence_pending', 'read_timings',
			'backfill_runs', 'backfill_progress', 'backfill_findings', 'backfill_waiting']),
		('operator', 'routine', 'EXECUTE', ARRAY[
			'stat_reset', 'latency_bound', 'latency_percentile', 'stat_get_operations', 'stat_get_errors', 'stat_get_times',
			'stat_get_shadow', 'stat_get_accounts', 'stat_get_tasks', 'metrics', 'prometheus', 'metrics_histograms', 'metrics_extension', 'metrics_operations',
			'metrics_shadow', 'metrics_discrepancies', 'metrics_gates', 'metrics_migration', 'metrics_worker', 'alert_states']),
		('operator', 'relation', 'SELECT', ARRAY[
			'stat_operations', 'stat_errors', 'stat_reads', 'stat_shadow', 'stat_accounts', 'stat_worker',
			'alerts', 'discrepancy_changes', 'write_samples', 'gate_states']),
		('operator', 'relation', 'DELETE', ARRAY['inbox_results']),
		('operator', 'type', 'USAGE', ARRAY['settings_row', 'repaired_column', 'gate']),

		('admin', 'routine', 'EXECUTE', ARRAY['attach_legacy', 'detach_legacy', 'configure_capture',
			'cut_over', 'roll_back', 'retire_legacy', 'drop_legacy', 'resume',
			'backfill', 'backfill_begin', 'backfill_step', 'backfill_end', 'pause_backfill', 'cancel_backfill']),
		('admin', 'relation', 'SELECT', ARRAY[
			'journal', 'accounts', 'account_totals', 'reservation_rows', 'reservation_draws', 'discrepancy_rows',
			'broker_accounts', 'broker_positions']),
		('admin', 'relation', 'INSERT, UPDATE', ARRAY['account_types', 'currencies']),

		('owner', 'routine', NULL, ARRAY['grant_access', 'revoke_access', 'rearm', 'set_test_clock']),
		('internal', 'routine', NULL, ARRAY[
			'access_rules', 'access_check', 'guards', 'disarmed', 'guard', 'drop_guard', 'legacy_drop_guard', 'type_guard', 'legacy_changed', 'capture', 'capture_post', 'inbox_post',
			'broker_text', 'broker_number', 'broker_position', 'last_sale_settled',
			'legacy_mapped_column', 'legacy_condition_columns', 'legacy_constants', 'legacy_stored_mapping',
			'legacy_key_kind', 'legacy_key_indexes', 'legacy_check_key', 'legacy_key_function',
			'legacy_key_function_problems', 'legacy_equality', 'legacy_condition_sql', 'legacy_same_condition_sql', 'legacy_try_count',
			'legacy_check_values', 'legacy_sorts',
			'legacy_count', 'legacy_ask', 'legacy_mapping', 'legacy_default_constants', 'legacy_check_types',
			'legacy_check_table', 'legacy_check_columns', 'legacy_check_writes', 'legacy_deferred',
			'legacy_check_rows', 'legacy_checks', 'legacy_lock', 'legacy_attach', 'legacy_store',
			'legacy_detach', 'legacy_configure_capture', 'reconcile_range', 'reconcile_users',
			'reconcile_base', 'reconcile_changed_since', 'reconcile_changed', 'reconciliation_mappings', 'reconciliation_snapshot',
			'reconciliation_is_running', 'reconciliation_make_way', 'reconciliation_check_tolerances', 'reconciliation_scope',
			'reconciliation_begin', 'reconciliation_take', 'reconciliation_resume', 'reconciliation_allowed', 'ignored_by',
			'reconciliation_compare', 'reconciliation_check', 'reconciliation_finish', 'reconciliation_step', 'worker_reconcile',
			'takes_no_posting',
			'gate_limits', 'mode_since', 'last_run', 'gates_of_modes', 'gates_of_findings', 'gates_of_watch', 'coverage',
			'gate_suspense', 'legacy_relations', 'migration_mark', 'migration_run_mark', 'migration_users',
			'migration_check', 'migration_check_all', 'migration_retire', 'migration_restore', 'migration_behind',
			'legacy_only_times', 'legacy_drop',
			'backfill_open_run', 'backfill_next', 'backfill_record', 'backfill_record_end', 'backfill_stop',
			'evidence_start', 'evidence_beat', 'evidence_lost', 'evidence_resolved', 'evidence_store',
			'evidence_settle', 'evidence_trim', 'reconciliation_trim', 'worker_expire',
			'read_timings_store', 'read_timings_trim',
			'discrepancy_opened', 'discrepancy_changed', 'discrepancy_counts', 'write_counts', 'write_success', 'samples_store', 'gates_store',
			'open_discrepancies', 'report_text', 'report_number', 'report_amount', 'report_ms', 'report_time', 'report_user', 'report_table',
			'report_section', 'report_badge', 'report_histogram', 'report_facts', 'report_changes', 'report_state', 'report_tiles', 'report_alerts',
			'report_gates', 'report_discrepancies', 'report_runs', 'report_suspense', 'report_worker', 'report_bins', 'report_axis',
			'report_chart', 'report_postings', 'report_operations', 'report_reads', 'report_style', 'report_head', 'report_page',
			'report_breaks', 'report_count', 'report_age', 'report_share', 'report_first', 'report_writes_since', 'report_alert_words',
			'report_measure', 'report_causes', 'report_writers',
			'explain_postings', 'explain_assignment', 'explain_writes', 'explain_repairs', 'explain_findings', 'explain_capture',
			'repair_undone', 'explain_write_at', 'explain_other_write', 'explain_other_posting',
			'verify_accounts', 'verify_journal', 'verify_reservations', 'verify_catalog', 'verify_legacy'])
	) AS r (level, kind, privileges, names)
$$;
REVOKE ALL ON FUNCTION ledger.access_rules() FROM PUBLIC;
COMMENT ON FUNCTION ledger.access_rules() IS
'Internal: the level that each routine, relation and type of the ledger belongs to; each level has what those before it have. owner and internal are granted to nobody.';

/* Who is named must exist (PUBLIC does not), and not be the owner himself. */
CREATE FUNCTION ledger.access_check(role name) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	owner oid;
BEGIN
	SELECT e.extowner INTO STRICT owner FROM pg_extension e WHERE e.extname = 'ledger';
	IF role IS NULL THEN
		RAISE EXCEPTION 'role must not be NULL'
			USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass the name of a role.';
	ELSIF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
		RAISE EXCEPTION 'role "%" does not exist', role
			USING ERRCODE = 'undefined_object', HINT = 'Pass the name of a role, as pg_roles shows it.';
	ELSIF role = pg_get_userbyid(owner) THEN
		RAISE EXCEPTION 'role "%" owns the ledger', role
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = 'Its owner can do everything with the ledger.',
				  HINT = 'Pass another role.';
	ELSIF NOT pg_has_role(owner, 'USAGE') THEN
		RAISE EXCEPTION 'permission denied for the access to the ledger'
			USING ERRCODE = 'insufficient_privilege',
				  DETAIL = format('Only %I, who owns the extension, and its members may grant or revoke it.', pg_get_userbyid(owner)),
				  HINT = 'Ask the owner.';
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.access_check(name) FROM PUBLIC;
COMMENT ON FUNCTION ledger.access_check(name) IS 'Internal: raises unless the caller may change what the role may do.';

CREATE FUNCTION ledger.grant_access(role name, level text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	levels CONSTANT text[] := ARRAY['reader', 'writer', 'operator', 'admin'];
	statement text;
BEGIN
	PERFORM ledger.access_check(role);
	IF level IS NULL THEN
		RAISE EXCEPTION 'level must not be NULL'
			USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass reader, writer, operator or admin.';
	ELSIF level <> ALL (levels) THEN
		RAISE EXCEPTION 'unknown level "%"', level
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass reader, writer, operator or admin.';
	END IF;

	FOR statement IN
		SELECT format('GRANT USAGE ON SCHEMA ledger TO %I', role)
		UNION ALL
		SELECT format('GRANT %s ON %s %s TO %I', r.privileges, o.kind, o.name, role)
		FROM ledger.access_rules() r
		CROSS JOIN LATERAL (
			SELECT 'ROUTINE', p.oid::regprocedure::text FROM pg_proc p
			WHERE r.kind = 'routine' AND p.proname = r.name AND p.pronamespace = 'ledger'::regnamespace
			UNION ALL
			SELECT CASE r.kind WHEN 'relation' THEN 'TABLE' ELSE 'TYPE' END, format('ledger.%I', r.name)
			WHERE r.kind <> 'routine'
		) AS o (kind, name)
		WHERE array_position(levels, r.level) <= array_position(levels, grant_access.level)
	LOOP
		EXECUTE statement;
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION ledger.grant_access(name, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.grant_access(name, text) IS
'Lets a role use the ledger as a reader (balances, history, views), writer (and movements), operator (and settings, reconciliation, treasury) or admin (and legacy tables, account types). A higher level that the role has already stays. Call it again after an update of the extension. Errors: 22004, 42704, 22023, 42501.';

CREATE FUNCTION ledger.revoke_access(role name) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	statement text;
BEGIN
	PERFORM ledger.access_check(role);
	FOR statement IN
		SELECT format('REVOKE ALL ON %s FROM %I', o.what, role)
		FROM (
			VALUES ('ALL ROUTINES IN SCHEMA ledger'), ('ALL TABLES IN SCHEMA ledger'),
				   ('ALL SEQUENCES IN SCHEMA ledger'), ('SCHEMA ledger')
			UNION ALL
			SELECT format('TYPE ledger.%I', r.name) FROM ledger.access_rules() r WHERE r.kind = 'type'
		) AS o (what)
	LOOP
		EXECUTE statement;
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION ledger.revoke_access(name) FROM PUBLIC;
COMMENT ON FUNCTION ledger.revoke_access(name) IS
'Takes every right on the ledger from a role, also what was granted by hand; what it has as a member of other roles stays. Errors: 22004, 42704, 22023, 42501.';

/*
 * Each part takes PUBLIC's rights on what it makes. This is for what was
 * forgotten; tables and their row types are nobody's by default.
 */
REVOKE ALL ON SCHEMA ledger FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA ledger FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA ledger FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA ledger FROM PUBLIC;

DO $$
DECLARE
	name text;
BEGIN
	FOR name IN
		SELECT pg_catalog.format('ledger.%I', t.typname)
		FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.typrelid
		WHERE t.typnamespace OPERATOR(pg_catalog.=) 'ledger'::pg_catalog.regnamespace
		  AND t.typelem OPERATOR(pg_catalog.=) 0
		  AND (c.relkind IS NULL OR c.relkind OPERATOR(pg_catalog.=) 'c')
	LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON TYPE %s FROM PUBLIC', name);
	END LOOP;
END
$$;
