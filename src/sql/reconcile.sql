/*
 * reconcile.sql: compare and reconcile.
 */

CREATE FUNCTION ledger.compare_balances(user_id uuid)
	RETURNS TABLE (legacy_column text, ledger_value numeric, legacy_value numeric, difference numeric, status text)
	AS 'MODULE_PATHNAME', 'ledger_compare_balances' LANGUAGE C STABLE PARALLEL RESTRICTED SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.compare_balances(uuid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.compare_balances(uuid) IS 'Both sides of one user from one snapshot, each mapped column: match, mismatch, pending (this transaction is at work on the user), missing_legacy, missing_ledger (not opened yet), non_finite. difference = ledger - legacy; a missing side counts as zero.';

CREATE FUNCTION ledger.reconcile(tolerance numeric DEFAULT 0, scope text DEFAULT 'full')
	RETURNS TABLE (user_id uuid, legacy_column text, ledger_value numeric, legacy_value numeric, difference numeric, status text)
	AS 'MODULE_PATHNAME', 'ledger_reconcile' LANGUAGE C STABLE PARALLEL RESTRICTED SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.reconcile(numeric, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconcile(numeric, text) IS 'Every user and mapped column where ledger and legacy row differ by more than the tolerance, from one snapshot, in the order of the users. Writes nothing.';

CREATE FUNCTION ledger.reconcile_mapped(tolerance numeric, scope text)
	RETURNS TABLE (mapping_id smallint, user_id uuid, legacy_column text, ledger_value numeric, legacy_value numeric,
		difference numeric, status text)
	AS 'MODULE_PATHNAME', 'ledger_reconcile' LANGUAGE C STABLE PARALLEL RESTRICTED SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.reconcile_mapped(numeric, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconcile_mapped(numeric, text) IS 'Internal: reconcile() with the mapping''s id.';

/*
 * One statement, so that run, evidence and what is resolved rest on one
 * snapshot. A finding that a posting has seen again since is left open.
 */
CREATE PROCEDURE ledger.run_reconciliation(scope text DEFAULT 'full', tolerance numeric DEFAULT 0,
	INOUT run_id bigint DEFAULT NULL, INOUT discrepancies bigint DEFAULT NULL)
	LANGUAGE plpgsql SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	started timestamptz := clock_timestamp();
	last_id bigint;
BEGIN
	SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END INTO last_id FROM ledger.transaction_id_seq s;
	WITH found AS MATERIALIZED (
		SELECT * FROM ledger.reconcile_mapped(run_reconciliation.tolerance, run_reconciliation.scope)
	), stored AS (
		INSERT INTO ledger.discrepancy_rows AS d (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value)
			SELECT f.mapping_id, f.user_id, f.legacy_column, f.status, 'run', f.ledger_value, f.legacy_value
			FROM found f WHERE f.status <> 'pending'
			ORDER BY f.user_id, f.mapping_id, f.legacy_column
			ON CONFLICT (user_id, mapping_id, legacy_column, cause) WHERE status = 'open'
			DO UPDATE SET count = d.count + 1, last_seen = clock_timestamp(),
				ledger_value = EXCLUDED.ledger_value, legacy_value = EXCLUDED.legacy_value
	), resolved AS (
		UPDATE ledger.discrepancy_rows d SET status = 'resolved', resolved_at = clock_timestamp()
			WHERE d.status = 'open' AND d.last_seen < started
				AND run_reconciliation.tolerance = 0 AND run_reconciliation.scope = 'full'
				AND NOT EXISTS (SELECT FROM found f WHERE f.user_id = d.user_id
					AND f.mapping_id = d.mapping_id AND f.legacy_column = d.legacy_column)
	)
	INSERT INTO ledger.reconciliation_runs AS r (scope, tolerance, started_at, finished_at, snapshot,
			last_transaction_id, discrepancies, users, total_difference, requested_by)
		SELECT run_reconciliation.scope, run_reconciliation.tolerance, started, clock_timestamp(), pg_current_snapshot(),
			last_id, count(f.user_id), count(DISTINCT f.user_id), COALESCE(sum(abs(f.difference)), 0), session_user
		FROM found f
		RETURNING r.id, r.discrepancies INTO run_reconciliation.run_id, run_reconciliation.discrepancies;
END
$$;
REVOKE ALL ON PROCEDURE ledger.run_reconciliation(text, numeric, bigint, bigint) FROM PUBLIC;
COMMENT ON PROCEDURE ledger.run_reconciliation(text, numeric, bigint, bigint) IS 'Reconciles and records the run and what it found; open discrepancies that a full run without tolerance does not find again are resolved.';
