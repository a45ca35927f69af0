/*
 * reconcile.sql: compare, reconcile, repair, verify.
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

/* ---- repair ------------------------------------------------------------------ */

CREATE TABLE ledger.repair_log (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	mapping_id smallint NOT NULL,
	user_id uuid NOT NULL,
	legacy_column text COLLATE "C" NOT NULL,
	direction text COLLATE "C" NOT NULL CHECK (direction IN ('legacy', 'ledger')),
	before numeric,
	after numeric,
	transaction_id bigint,
	reason text NOT NULL,
	repaired_by text NOT NULL,
	repaired_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
) USING heap;
COMMENT ON TABLE ledger.repair_log IS 'Every repair: which side of which user''s column was changed, from what to what, why and by whom.';
SELECT pg_catalog.pg_extension_config_dump('ledger.repair_log', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.repair_log_id_seq', '');

CREATE FUNCTION ledger.repair_user(user_id uuid, direction text, dry_run boolean, max_amount numeric, reason text)
	RETURNS TABLE (legacy_column text, before numeric, after numeric, transaction_id bigint)
	AS 'MODULE_PATHNAME', 'ledger_repair_user' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.repair_user(uuid, text, boolean, numeric, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.repair_user(uuid, text, boolean, numeric, text) IS 'repair() of one user.';

CREATE TYPE ledger.repaired_column AS (user_id uuid, legacy_column text, before numeric, after numeric, transaction_id bigint);
COMMENT ON TYPE ledger.repaired_column IS 'What repair() returns: a legacy column before and after; transaction_id if the ledger was changed.';

/*
 * search_path is left alone: triggers of a legacy table that is repaired
 * expect the session's. So every name is qualified, operators too.
 */
CREATE FUNCTION ledger.repair(user_id uuid DEFAULT NULL, direction text DEFAULT 'legacy', dry_run boolean DEFAULT true,
	max_rows bigint DEFAULT NULL, max_amount numeric DEFAULT NULL, reason text DEFAULT NULL)
	RETURNS SETOF ledger.repaired_column
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
AS $$
#variable_conflict use_column
DECLARE
	one record;
	repaired ledger.repaired_column;
	done bigint := 0;
BEGIN
	IF direction IS NULL OR dry_run IS NULL OR NOT (dry_run OR reason IS NOT NULL) THEN
		RAISE EXCEPTION '% must not be NULL', CASE WHEN direction IS NULL THEN 'direction'
				WHEN dry_run IS NULL THEN 'dry_run' ELSE 'reason' END
			USING ERRCODE = '22004', HINT = CASE WHEN direction IS NULL OR dry_run IS NULL
				THEN 'Leave it out for the default.' ELSE 'Say why; repair_log keeps it.' END;
	END IF;
	IF pg_catalog.octet_length(reason) OPERATOR(pg_catalog.>) 4096 THEN
		RAISE EXCEPTION 'reason is longer than 4096 bytes'
			USING ERRCODE = 'string_data_right_truncation', HINT = 'Shorten it, or keep the rest outside the ledger.';
	END IF;
	IF direction OPERATOR(pg_catalog.<>) ALL (ARRAY['legacy', 'ledger']) THEN
		RAISE EXCEPTION 'direction must be legacy or ledger'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It names the side that is changed.';
	END IF;
	IF max_rows OPERATOR(pg_catalog.<) 0 OR max_amount OPERATOR(pg_catalog.<) 0
			OR max_amount OPERATOR(pg_catalog.=) 'NaN' THEN
		RAISE EXCEPTION 'max_rows and max_amount must not be below zero'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR one IN
		SELECT r.user_id, pg_catalog.count(*) AS n FROM ledger.reconcile() r
			WHERE repair.user_id IS NULL GROUP BY r.user_id
		UNION ALL
		SELECT repair.user_id, pg_catalog.count(*) FROM ledger.compare_balances(repair.user_id) c
			WHERE repair.user_id IS NOT NULL AND c.status OPERATOR(pg_catalog.<>) 'match'
			HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0
		ORDER BY 1
	LOOP
		EXIT WHEN done OPERATOR(pg_catalog.+) one.n OPERATOR(pg_catalog.>) max_rows;
		FOR repaired IN
			SELECT one.user_id, u.legacy_column, u.before, u.after, u.transaction_id
			FROM ledger.repair_user(one.user_id, direction, dry_run, max_amount, reason) u
		LOOP
			done := done OPERATOR(pg_catalog.+) 1;
			RETURN NEXT repaired;
		END LOOP;
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION ledger.repair(uuid, text, boolean, bigint, numeric, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.repair(uuid, text, boolean, bigint, numeric, text) IS 'Makes the side named by direction agree with the other, user by user under the row''s lock: legacy is set to the ledger''s values; the ledger is changed by postings against legacy_suspense alone. A user not opened yet is opened. Users beyond max_rows and columns that differ by more than max_amount are left alone.';
