/*
 * migration.sql: readiness, cut-over, the way back, and retirement.
 *
 * Gates are read from durable tables alone, so that they mean the same after a
 * crash and on a standby. The procedures are C (migration.c): they commit on
 * their own, and run what is here as the extension's owner.
 */

CREATE TABLE ledger.cut_over_rehearsals (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	rehearsed_at timestamptz NOT NULL DEFAULT ledger.clock(),
	rehearsed_by text NOT NULL,
	closed_gates text[] NOT NULL,
	locked boolean NOT NULL,
	lock_wait_ms float8 NOT NULL,
	held_ms float8 NOT NULL,
	predicted_stall_ms float8 NOT NULL,
	users_checked bigint NOT NULL,
	users_different bigint NOT NULL,
	blockers text
) USING heap;
COMMENT ON TABLE ledger.cut_over_rehearsals IS 'Dry runs of cut_over(): the real locks, switch, check and switch back, rolled back, and what they took.';
COMMENT ON COLUMN ledger.cut_over_rehearsals.predicted_stall_ms IS 'The longest slice of waiting for the locks, in which others queue, or the wait that succeeded with the time that the locks were held: what a posting may wait.';
COMMENT ON COLUMN ledger.cut_over_rehearsals.blockers IS 'Who was in the way last, one line each; NULL: nobody.';

CREATE TABLE ledger.retirements (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	mapping_id smallint NOT NULL,
	schema_name text NOT NULL,
	old_name text NOT NULL,
	new_name text NOT NULL,
	retired_at timestamptz NOT NULL DEFAULT ledger.clock(),
	retired_by text NOT NULL,
	reason text NOT NULL,
	last_transaction_id bigint NOT NULL,
	restored_at timestamptz,
	dropped_at timestamptz
) USING heap;
COMMENT ON TABLE ledger.retirements IS 'Legacy tables that were retired: what they were called, what they are called now, and the last transaction that was mirrored to them.';

CREATE TABLE ledger.roll_backs (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	started_at timestamptz NOT NULL DEFAULT ledger.clock(),
	started_by text NOT NULL,
	from_state text COLLATE "C" NOT NULL CHECK (from_state IN ('migrating', 'cut_over', 'retired', 'legacy_only')),
	reason text NOT NULL,
	catch_up boolean NOT NULL,
	last_transaction_id bigint,
	writes_since timestamptz,
	users bigint,
	failed bigint,
	finished_at timestamptz,
	failed_users uuid[]
) USING heap;
COMMENT ON TABLE ledger.roll_backs IS 'Calls of roll_back(): from where, why, and for how many users one side had to be brought up to the other. One that has not finished, or the last that failed for somebody, is taken up by the next call.';
COMMENT ON COLUMN ledger.roll_backs.failed IS 'Users for whom that failed; what differs of them stays an open discrepancy.';

SELECT pg_catalog.pg_extension_config_dump('ledger.cut_over_rehearsals', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.cut_over_rehearsals_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.retirements', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.retirements_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.roll_backs', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.roll_backs_id_seq', '');

/* ---- gates -------------------------------------------------------------------- */

/* The thresholds, all of them. */
CREATE FUNCTION ledger.gate_limits(OUT shadow interval, OUT strict interval, OUT quiet interval, OUT run_age interval,
	OUT latency_ratio float8, OUT latency_window interval, OUT latency_reads bigint, OUT clean interval,
	OUT heartbeat interval, OUT retire_after interval, OUT drop_after interval)
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT '7 days'::interval, '48 hours'::interval, '72 hours'::interval, '24 hours'::interval,
		1.10::float8, '24 hours'::interval, 100::bigint, '7 days'::interval,
		'1 minute'::interval, '7 days'::interval, '90 days'::interval
$$;
REVOKE ALL ON FUNCTION ledger.gate_limits() FROM PUBLIC;
COMMENT ON FUNCTION ledger.gate_limits() IS 'Internal: how long, how often and how much readiness() wants, and how long a retired table is kept.';

/* Since when a mode has been on without a break; NULL: it is off. */
CREATE FUNCTION ledger.mode_since(mode text) RETURNS timestamptz
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH changes AS (
		SELECT l.id, l.changed_at, l.shadow_mode AND (mode = 'shadow' OR l.strict_mode) AS is_on FROM ledger.settings_log l
	), last_off AS (
		SELECT COALESCE(max(c.id), 0) AS id FROM changes c WHERE NOT c.is_on
	)
	SELECT GREATEST(min(c.changed_at),
			(SELECT max(m.attached_at) FROM ledger.legacy_mappings m WHERE m.detached_at IS NULL))
	FROM changes c, last_off o
	WHERE c.id > o.id
	HAVING count(*) > 0 AND EXISTS (SELECT FROM ledger.settings s WHERE s.shadow_mode AND (mode = 'shadow' OR s.strict_mode))
$$;
REVOKE ALL ON FUNCTION ledger.mode_since(text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.mode_since(text) IS 'Internal: since when shadow mode, or strict mode in it, has been on for all attached tables; NULL: it is off.';

/* The recorded run that the next changes count from: the newest that is good, in this very database. */
CREATE FUNCTION ledger.last_run(full_only boolean) RETURNS ledger.reconciliation_runs
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT r FROM ledger.reconciliation_runs r
	WHERE r.status = 'finished' AND (r.scope = 'full' OR r.scope = 'incremental' AND NOT full_only)
		AND r.tolerance = 0 AND COALESCE(r.options -> 'tolerances', '{}') IN ('{}', 'null')
		AND r.mappings = ledger.reconciliation_mappings()
		AND r.started_at >= COALESCE((SELECT i.since FROM ledger.identity i), '-infinity')
	ORDER BY r.id DESC LIMIT 1
$$;
REVOKE ALL ON FUNCTION ledger.last_run(boolean) FROM PUBLIC;
COMMENT ON FUNCTION ledger.last_run(boolean) IS 'Internal: the newest finished run without tolerance of the tables that are attached, of all users if full_only.';

CREATE TYPE ledger.gate AS (gate text, required text, observed text, passed boolean, since timestamptz, hint text);
COMMENT ON TYPE ledger.gate IS 'One row of readiness().';

/* The settings and how long they have stood. */
CREATE FUNCTION ledger.gates_of_modes() RETURNS SETOF ledger.gate
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH now AS (
		SELECT ledger.clock() AS now, l.*, ledger.mode_since('shadow') AS shadow_since, ledger.mode_since('strict') AS strict_since,
			COALESCE((SELECT s.phase FROM ledger.settings s), 'migrating') AS phase,
			COALESCE((SELECT s.balance_source FROM ledger.settings s), 'ledger') AS source,
			(SELECT count(*) FROM ledger.legacy_mappings m WHERE m.detached_at IS NULL) AS tables
		FROM ledger.gate_limits() l
	)
	SELECT 'phase', 'migrating, with an attached table', format('%s, %s attached', n.phase, n.tables),
		n.phase = 'migrating' AND n.tables > 0, NULL::timestamptz,
		CASE WHEN n.phase <> 'migrating' AND n.tables > 0 THEN 'The cut-over is done; ledger.roll_back() undoes it.' ELSE 'Call ledger.attach_legacy().' END
	FROM now n
	UNION ALL
	SELECT 'shadow_mode', format('on for %s without a break', n.shadow),
		CASE WHEN n.shadow_since IS NULL THEN 'off' ELSE format('on for %s', date_trunc('second', n.now - n.shadow_since)) END,
		COALESCE(n.now - n.shadow_since >= n.shadow, false), n.shadow_since,
		CASE WHEN n.shadow_since IS NULL THEN 'Call ledger.configure(shadow_mode => true).'
			ELSE format('Wait until %s.', date_trunc('second', n.shadow_since + n.shadow)) END
	FROM now n
	UNION ALL
	SELECT 'strict_mode', format('on for %s without a break', n.strict),
		CASE WHEN n.strict_since IS NULL THEN 'off' ELSE format('on for %s', date_trunc('second', n.now - n.strict_since)) END,
		COALESCE(n.now - n.strict_since >= n.strict, false), n.strict_since,
		CASE WHEN n.strict_since IS NULL THEN 'Call ledger.configure(strict_mode => true).'
			ELSE format('Wait until %s.', date_trunc('second', n.strict_since + n.strict)) END
	FROM now n
	UNION ALL
	SELECT 'balance_source', 'ledger', n.source, n.source = 'ledger', NULL, 'Call ledger.configure(balance_source => ''ledger'').'
	FROM now n
$$;
REVOKE ALL ON FUNCTION ledger.gates_of_modes() FROM PUBLIC;
COMMENT ON FUNCTION ledger.gates_of_modes() IS 'Internal: rows of readiness().';

/* What was found, and whether everything was looked at. */
CREATE FUNCTION ledger.gates_of_findings() RETURNS SETOF ledger.gate
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH now AS (
		SELECT ledger.clock() AS now, l.* FROM ledger.gate_limits() l
	), found AS (
		SELECT (SELECT count(*) FROM ledger.open_discrepancies()) AS open,
			count(*) FILTER (WHERE d.last_seen > n.now - n.quiet) AS recent, max(d.last_seen) AS last_seen
		FROM now n LEFT JOIN ledger.discrepancy_rows d ON true
	), run AS (
		SELECT r.* FROM ledger.last_run(true) r WHERE r.id IS NOT NULL
	)
	SELECT 'no_discrepancy', format('none open, none seen for %s', n.quiet),
		CASE WHEN f.last_seen IS NULL THEN 'none' ELSE format('%s open, %s seen in that time, the last at %s', f.open, f.recent, date_trunc('second', f.last_seen)) END,
		f.open = 0 AND f.recent = 0, f.last_seen,
		CASE WHEN f.open > 0 THEN 'See ledger.discrepancies, and ledger.explain_discrepancy() for each user.'
			ELSE format('Wait until %s.', date_trunc('second', f.last_seen + n.quiet)) END
	FROM now n, found f
	UNION ALL
	SELECT 'full_reconciliation', format('without a difference, none ignored, within %s', n.run_age),
		CASE WHEN r.id IS NULL THEN 'none recorded'
			ELSE format('run %s: %s differences, %s ignored, %s ago', r.id, r.discrepancies, r.ignored, date_trunc('second', n.now - r.finished_at)) END,
		COALESCE(r.discrepancies = 0 AND r.ignored = 0 AND r.finished_at > n.now - n.run_age AND r.finished_at <= n.now, false), r.finished_at,
		CASE WHEN r.discrepancies > 0 THEN 'Repair what it found, then CALL ledger.run_reconciliation().'
			WHEN r.ignored > 0 THEN 'End the ignore rules, then CALL ledger.run_reconciliation().'
			ELSE 'CALL ledger.run_reconciliation().' END
	FROM now n LEFT JOIN run r ON true
	UNION ALL
	SELECT 'coverage', 'every user compared since his last change', c.observed, c.passed, c.since, c.hint
	FROM ledger.coverage() c
	UNION ALL
	SELECT 'read_latency', format('p95 of the ledger part of reads at most %s times the legacy fetch''s, over %s', n.latency_ratio, n.latency_window),
		CASE WHEN t.reads < n.latency_reads THEN format('%s reads, fewer than %s', t.reads, n.latency_reads)
			ELSE format('%s ms against %s ms, %s reads', round(t.ledger_p95_ms::numeric, 4), round(t.legacy_p95_ms::numeric, 4), t.reads) END,
		COALESCE(t.reads >= n.latency_reads AND t.ledger_p95_ms <= n.latency_ratio * t.legacy_p95_ms, false), NULL,
		CASE WHEN t.reads < n.latency_reads THEN 'Read balances in shadow mode: one read in 16 is timed, and the worker stores the times each minute.'
			ELSE 'See docs/operations.md on what makes a read slow.' END
	FROM now n, ledger.read_latency(n.now - n.latency_window) t
$$;
REVOKE ALL ON FUNCTION ledger.gates_of_findings() FROM PUBLIC;
COMMENT ON FUNCTION ledger.gates_of_findings() IS 'Internal: rows of readiness().';

/*
 * Every posting in shadow mode is compared as it is mirrored. What is not, is
 * looked at here: a user who was never opened, whom a full run reports and the
 * backfill finds, a posting while nothing was mirrored, a write past the
 * ledger. All of these must be in the snapshot of a recorded run.
 */
CREATE FUNCTION ledger.coverage(OUT observed text, OUT passed boolean, OUT since timestamptz, OUT hint text)
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH facts AS (
		SELECT f.id AS full_id, f.started_at AS full_at, ledger.mode_since('shadow') AS shadow_since, l.id AS last_id,
			l.finished_at AS last_at, l.discrepancies,
			(SELECT count(*) FROM ledger.legacy_writes w
				WHERE l.id IS NULL OR NOT pg_visible_in_snapshot(w.xact, l.snapshot)) AS writes,
			(SELECT count(*) FROM ledger.backfill_findings b WHERE b.status = 'open') AS findings,
			(SELECT max(b.id) FROM ledger.backfill_runs b WHERE b.finished_at IS NULL) AS backfill
		FROM (SELECT 1) one
		LEFT JOIN (SELECT r.* FROM ledger.last_run(true) r WHERE r.id IS NOT NULL) f ON true
		LEFT JOIN (SELECT r.* FROM ledger.last_run(false) r WHERE r.id IS NOT NULL) l ON true
	)
	SELECT CASE WHEN f.full_id IS NULL THEN 'no full run recorded'
			WHEN f.shadow_since IS NULL THEN 'postings are not mirrored'
			WHEN f.findings > 0 THEN format('%s legacy rows from which nobody could be opened', f.findings)
			WHEN f.backfill IS NOT NULL THEN format('backfill %s is not finished', f.backfill)
			WHEN f.full_at < f.shadow_since THEN format('full run %s is older than shadow mode', f.full_id)
			WHEN f.writes > 0 THEN format('%s writes past the ledger since run %s', f.writes, f.last_id)
			ELSE format('run %s, and each posting since', f.last_id) END,
		COALESCE(f.full_at >= f.shadow_since AND f.writes = 0 AND f.findings = 0 AND f.backfill IS NULL, false),
		f.last_at,
		CASE WHEN f.shadow_since IS NULL THEN 'Call ledger.configure(shadow_mode => true).'
			WHEN f.findings > 0 THEN 'Correct the rows that ledger.backfill_findings lists, then CALL ledger.backfill().'
			WHEN f.backfill IS NOT NULL THEN 'CALL ledger.backfill().'
			ELSE 'CALL ledger.run_reconciliation().' END
	FROM facts f
$$;
REVOKE ALL ON FUNCTION ledger.coverage() FROM PUBLIC;
COMMENT ON FUNCTION ledger.coverage() IS 'Internal: the gate of the same name.';

/* That somebody looked, that nothing went past, and what is in the way now. */
CREATE FUNCTION ledger.gates_of_watch() RETURNS SETOF ledger.gate
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH now AS (
		SELECT ledger.clock() AS now, l.* FROM ledger.gate_limits() l
	), writes AS (
		SELECT count(*) FILTER (WHERE w.kind = 'bypass') AS bypasses, max(w.at) FILTER (WHERE w.kind = 'bypass') AS last_bypass,
			count(*) FILTER (WHERE w.kind IN ('outside', 'posted', 'double_write')) AS outside,
			max(w.at) FILTER (WHERE w.kind IN ('outside', 'posted', 'double_write')) AS last_outside
		FROM now n LEFT JOIN ledger.legacy_writes w ON w.at > n.now - n.clean
	), losses AS (
		SELECT count(l.id) AS n, max(l.last_at) AS last_at
		FROM now n LEFT JOIN ledger.evidence_losses l ON l.last_at > n.now - n.clean
	), broken AS (
		SELECT count(*) AS n, string_agg(v.problem, '; ' ORDER BY v.problem) AS problems FROM ledger.verify_legacy() v
	), prepared AS (
		SELECT string_agg(DISTINCT quote_literal(p.gid), ', ') AS gids, min(p.prepared) AS since
		FROM pg_prepared_xacts p
		WHERE p.database = current_database()
			AND EXISTS (SELECT FROM pg_locks x JOIN pg_locks l USING (virtualtransaction)
				WHERE x.locktype = 'transactionid' AND x.transactionid = p.transaction AND x.pid IS NULL AND l.pid IS NULL
					AND l.locktype = 'relation' AND (l.relation = 'ledger.settings'::regclass
						OR l.relation IN (SELECT i.relid FROM ledger.legacy_mappings m, ledger.legacy_relations(m.legacy) i
							WHERE m.detached_at IS NULL)))
	)
	SELECT 'worker', format('seen within %s', n.heartbeat),
		CASE WHEN h.last_seen IS NULL THEN 'never' ELSE format('%s ago', date_trunc('second', n.now - h.last_seen)) END,
		COALESCE(h.last_seen BETWEEN n.now - n.heartbeat AND n.now + n.heartbeat, false), h.last_seen,
		CASE WHEN EXISTS (SELECT FROM ledger.settings s WHERE s.test_clock IS NOT NULL)
			THEN 'Wait a minute: the test clock was changed. Else preload the library, name the database in ledger.databases, and see ledger.worker_status.'
			ELSE 'Preload the library, name the database in ledger.databases, and see ledger.worker_status.' END
	FROM now n LEFT JOIN ledger.worker_heartbeat h ON true
	UNION ALL
	SELECT 'no_bypass', format('none for %s', n.clean), format('%s writes in the replica role', w.bypasses), w.bypasses = 0, w.last_bypass,
		'Stop what writes legacy tables under session_replication_role = replica; ledger.legacy_writes has it, of kind bypass.'
	FROM now n, writes w
	UNION ALL
	SELECT 'no_outside_write', format('none for %s', n.clean), format('%s writes past the ledger', w.outside), w.outside = 0, w.last_outside,
		'Move the writers that ledger.legacy_writers names to the ledger''s functions.'
	FROM now n, writes w
	UNION ALL
	SELECT 'no_lost_evidence', format('none for %s', n.clean), format('%s losses', l.n), l.n = 0, l.last_at,
		'See ledger.evidence_losses; make ledger.evidence_size larger if the ring was full.'
	FROM now n, losses l
	UNION ALL
	SELECT 'capture', 'trigger and mapped columns in place on every legacy table', COALESCE(b.problems, 'in place'), b.n = 0, NULL,
		'As a superuser call ledger.rearm() for triggers; put altered columns back.'
	FROM broken b
	UNION ALL
	SELECT 'no_suspense', 'nothing to be settled', s.observed, s.passed, NULL, 'Call ledger.settle_suspense() for each.'
	FROM ledger.gate_suspense() s
	UNION ALL
	SELECT 'no_prepared_transaction', 'none that has posted or written a legacy table', COALESCE(p.gids, 'none'), p.gids IS NULL, p.since,
		'COMMIT PREPARED or ROLLBACK PREPARED it.'
	FROM prepared p
	UNION ALL
	SELECT 'sound', 'the ledger''s own tables and guards as they should be', COALESCE(string_agg(v.problem, '; ' ORDER BY v.problem), 'ok'), count(*) = 0, NULL,
		'See ledger.verify(); a superuser restores guards with ledger.rearm().'
	FROM ledger.verify_catalog() v
	UNION ALL
	SELECT 'no_copy', 'the database that the ledger was used in', CASE WHEN ledger.is_copy() THEN 'a copy' ELSE 'it is' END,
		NOT ledger.is_copy(), (SELECT i.since FROM ledger.identity i), 'Call ledger.resume().'
	UNION ALL
	SELECT 'test_clock', 'shown, and no obstacle: hours and days above are by it', COALESCE(s.test_clock::text || ' off', 'none'), true,
		(SELECT max(l.set_at) FROM ledger.test_clock_log l), 'Call ledger.set_test_clock(NULL, reason) to end it; stamps of its time stay, so rehearse in a copy.'
	FROM (SELECT 1) one LEFT JOIN ledger.settings s ON true
$$;
REVOKE ALL ON FUNCTION ledger.gates_of_watch() FROM PUBLIC;
COMMENT ON FUNCTION ledger.gates_of_watch() IS 'Internal: rows of readiness().';

CREATE FUNCTION ledger.gate_suspense(OUT observed text, OUT passed boolean)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT concat_ws(', ', CASE WHEN i.n > 0 THEN format('%s items', i.n) END, b.balances, CASE WHEN i.n = 0 AND b.balances IS NULL THEN 'nothing' END),
		i.n = 0 AND b.balances IS NULL
	FROM (SELECT count(*) AS n FROM ledger.suspense_items s WHERE s.remaining <> 0) i,
		(SELECT string_agg(format('%s %s', b.balance, b.currency), ', ' ORDER BY b.currency) AS balances
			FROM ledger.account_balances b WHERE b.account_type = 'legacy_suspense' AND b.balance <> 0) b
$$;
REVOKE ALL ON FUNCTION ledger.gate_suspense() FROM PUBLIC;
COMMENT ON FUNCTION ledger.gate_suspense() IS 'Internal: what is in suspense.';

CREATE FUNCTION ledger.readiness()
	RETURNS TABLE (gate text, required text, observed text, passed boolean, since timestamptz, hint text)
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET jit = off SET datestyle = 'ISO' SET intervalstyle = 'postgres'
AS $$
	SELECT g.gate, g.required, g.observed, g.passed, g.since,
		CASE WHEN NOT g.passed AND g.hint LIKE 'Call ledger.configure(%' AND EXISTS (SELECT FROM ledger.settings s WHERE s.phase <> 'migrating')
				THEN 'Nothing: the cut-over is done.'
			WHEN NOT g.passed OR g.gate = 'test_clock' AND g.observed <> 'none' THEN g.hint END
	FROM (
		SELECT * FROM ledger.gates_of_modes()
		UNION ALL SELECT * FROM ledger.gates_of_findings()
		UNION ALL SELECT * FROM ledger.gates_of_watch()
	) g
$$;
REVOKE ALL ON FUNCTION ledger.readiness() FROM PUBLIC;
COMMENT ON FUNCTION ledger.readiness() IS 'Whether the cut-over may come: each gate, what it requires, what is observed, whether it is open, since when that has been so, and what to do about one that is closed. Writes nothing; works on a standby.';

/* ---- what changed since ---------------------------------------------------------- */

CREATE FUNCTION ledger.migration_mark(OUT last_transaction_id bigint, OUT snapshot pg_snapshot, OUT xact xid8)
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END, pg_current_snapshot(), pg_current_xact_id()
	FROM ledger.transaction_id_seq s
$$;
REVOKE ALL ON FUNCTION ledger.migration_mark() FROM PUBLIC;
COMMENT ON FUNCTION ledger.migration_mark() IS 'Internal: the last id given out, a snapshot, and an xid that whoever took an id up to that one has a lower one than.';

/*
 * The last run, as a mark: its snapshot, and an id that nothing lies below
 * which it did not see: see reconcile_changed_since().
 */
CREATE FUNCTION ledger.migration_run_mark(OUT last_transaction_id bigint, OUT snapshot pg_snapshot)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT COALESCE((SELECT max(p.last_transaction_id) FROM ledger.reconciliation_runs p
			WHERE p.started_at >= COALESCE((SELECT i.since FROM ledger.identity i), '-infinity')
				AND p.xact <= pg_snapshot_xmin(r.snapshot)), 0), r.snapshot
	FROM ledger.last_run(false) r WHERE r.id IS NOT NULL
$$;
REVOKE ALL ON FUNCTION ledger.migration_run_mark() FROM PUBLIC;
COMMENT ON FUNCTION ledger.migration_run_mark() IS 'Internal: the last run as a mark; NULL: there is none.';

CREATE FUNCTION ledger.migration_users(last_transaction_id bigint, snapshot pg_snapshot) RETURNS SETOF uuid
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH posted AS (
		SELECT j.debit_account_id, j.credit_account_id
		FROM ledger.journal h JOIN ledger.journal j USING (transaction_id)
		WHERE h.transaction_id > migration_users.last_transaction_id AND h.ordinal = 0
			AND NOT pg_visible_in_snapshot(h.xact, migration_users.snapshot)
			AND j.transaction_id > migration_users.last_transaction_id
	)
	SELECT a.user_id FROM ledger.accounts a
		WHERE a.user_id IS NOT NULL AND a.id IN (SELECT p.debit_account_id FROM posted p UNION SELECT p.credit_account_id FROM posted p)
	UNION
	SELECT w.user_id FROM ledger.legacy_writes w WHERE NOT pg_visible_in_snapshot(w.xact, migration_users.snapshot)
	UNION
	SELECT d.user_id FROM ledger.discrepancy_rows d WHERE d.status = 'open' AND d.user_id IS NOT NULL
	UNION
	SELECT f.user_id FROM ledger.last_run(false) r JOIN ledger.reconciliation_findings f ON f.run_id = r.id WHERE f.status <> 'settled'
$$;
REVOKE ALL ON FUNCTION ledger.migration_users(bigint, pg_snapshot) FROM PUBLIC;
COMMENT ON FUNCTION ledger.migration_users(bigint, pg_snapshot) IS 'Internal: users whom a transaction with a later id, or a write past the ledger, has changed that the snapshot did not see; those with open discrepancies, and whom the last run found.';

/* Both sides of those users; the first that differ are named. */
CREATE FUNCTION ledger.migration_check(last_transaction_id bigint, snapshot pg_snapshot,
	OUT users bigint, OUT different bigint, OUT named text)
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH changed AS MATERIALIZED (
		SELECT u AS user_id FROM ledger.migration_users(migration_check.last_transaction_id, migration_check.snapshot) u
	), differing AS (
		SELECT c.user_id, b.legacy_column, b.ledger_value, b.legacy_value
		FROM changed c CROSS JOIN LATERAL ledger.compare_balances(c.user_id) b WHERE b.status <> 'match'
	)
	SELECT (SELECT count(*) FROM changed), (SELECT count(DISTINCT d.user_id) FROM differing d),
		(SELECT string_agg(format('User %s, %s: ledger %s, legacy %s.', d.user_id, d.legacy_column, d.ledger_value, COALESCE(d.legacy_value::text, 'missing')), ' ')
			FROM (SELECT * FROM differing ORDER BY user_id, legacy_column LIMIT 3) d)
$$;
REVOKE ALL ON FUNCTION ledger.migration_check(bigint, pg_snapshot) FROM PUBLIC;
COMMENT ON FUNCTION ledger.migration_check(bigint, pg_snapshot) IS 'Internal: compares the users who changed since a mark.';

/* Without a run to go by: everybody. */
CREATE FUNCTION ledger.migration_check_all(OUT users bigint, OUT different bigint, OUT named text)
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH differing AS MATERIALIZED (SELECT * FROM ledger.reconcile() r WHERE r.status <> 'pending')
	SELECT (SELECT count(*) FROM (SELECT a.user_id FROM ledger.accounts a WHERE a.user_id IS NOT NULL
			UNION SELECT d.user_id FROM differing d) u),
		(SELECT count(DISTINCT d.user_id) FROM differing d),
		(SELECT string_agg(format('User %s, %s: ledger %s, legacy %s.', d.user_id, d.legacy_column, d.ledger_value, COALESCE(d.legacy_value::text, 'missing')), ' ')
			FROM (SELECT * FROM differing ORDER BY user_id, legacy_column LIMIT 3) d)
$$;
REVOKE ALL ON FUNCTION ledger.migration_check_all() FROM PUBLIC;
COMMENT ON FUNCTION ledger.migration_check_all() IS 'Internal: compares all users.';

/* ---- retirement -------------------------------------------------------------------- */

CREATE FUNCTION ledger.migration_retire(reason text, caller text) RETURNS text
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	one record;
	name text;
	short text;
	renamed text;
	last_id bigint := (SELECT m.last_transaction_id FROM ledger.migration_mark() m);
BEGIN
	FOR one IN
		SELECT m.id, m.legacy, c.relname, n.nspname FROM ledger.legacy_mappings m
		JOIN pg_class c ON c.oid = m.legacy JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE m.detached_at IS NULL ORDER BY m.id
	LOOP
		-- a name has 63 bytes, whatever its characters have
		short := (SELECT left(one.relname, n) FROM generate_series(40, 1, -1) n
			WHERE octet_length(left(one.relname, n)) <= 40 LIMIT 1);
		SELECT min(t.name) INTO name FROM (
			SELECT format('%s_retired_%s%s', short, to_char(ledger.clock(), 'YYYYMMDD'), CASE WHEN i > 0 THEN '_' || i ELSE '' END) AS name
			FROM generate_series(0, 99) i) t
			WHERE to_regclass(format('%I.%I', one.nspname, t.name)) IS NULL;
		INSERT INTO ledger.retirements (mapping_id, schema_name, old_name, new_name, retired_by, reason, last_transaction_id)
			VALUES (one.id, one.nspname, one.relname, name, caller, reason, last_id);
		EXECUTE format('ALTER TABLE %I.%I RENAME TO %I', one.nspname, one.relname, name);
		renamed := concat_ws(', ', renamed, format('%I.%I', one.nspname, name));
	END LOOP;
	RETURN renamed;
END
$$;
REVOKE ALL ON FUNCTION ledger.migration_retire(text, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.migration_retire(text, text) IS 'Internal: gives the legacy tables, which are locked, their retired names.';

/* A table that has been dropped is not given a name. */
CREATE FUNCTION ledger.migration_restore() RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	one record;
	first_id bigint;
BEGIN
	FOR one IN
		SELECT r.*, c.relname, n.nspname FROM ledger.retirements r
		JOIN ledger.legacy_mappings m ON m.id = r.mapping_id AND m.detached_at IS NULL
		JOIN pg_class c ON c.oid = m.legacy JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE r.restored_at IS NULL AND r.dropped_at IS NULL ORDER BY r.id
	LOOP
		IF one.relname <> one.old_name THEN
			IF to_regclass(format('%I.%I', one.nspname, one.old_name)) IS NOT NULL THEN
				RAISE EXCEPTION 'the retired legacy table cannot have its name % back', format('%I.%I', one.nspname, one.old_name)
					USING ERRCODE = 'duplicate_table', DETAIL = 'Another relation has it.',
						  HINT = format('Drop or rename that %s, then call ledger.roll_back() again.',
							(SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'r' THEN 'table' ELSE 'relation' END
							FROM pg_class c WHERE c.oid = to_regclass(format('%I.%I', one.nspname, one.old_name))));
			END IF;
			EXECUTE format('ALTER TABLE %I.%I RENAME TO %I', one.nspname, one.relname, one.old_name);
		END IF;
		UPDATE ledger.retirements r SET restored_at = ledger.clock() WHERE r.id = one.id;
		first_id := LEAST(first_id, one.last_transaction_id);
	END LOOP;
	IF first_id IS NULL THEN
		RAISE EXCEPTION 'there is no retired legacy table to go back to'
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Attach another table; the ledger has the balances.';
	END IF;
	RETURN first_id;
END
$$;
REVOKE ALL ON FUNCTION ledger.migration_restore() FROM PUBLIC;
COMMENT ON FUNCTION ledger.migration_restore() IS 'Internal: gives retired tables their names back; returns the last transaction that was mirrored to all of them.';

CREATE FUNCTION ledger.legacy_drop(legacy regclass, reason text, caller text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	retired ledger.retirements;
	keep CONSTANT interval := (SELECT l.drop_after FROM ledger.gate_limits() l);
	name CONSTANT text := legacy_drop.legacy::text;
BEGIN
	SELECT r.* INTO retired FROM ledger.retirements r JOIN ledger.legacy_mappings m ON m.id = r.mapping_id
		WHERE m.legacy = legacy_drop.legacy AND m.detached_at IS NULL AND r.restored_at IS NULL AND r.dropped_at IS NULL
		ORDER BY r.id DESC LIMIT 1;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table % is not retired', name
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call ledger.retire_legacy() first.';
	ELSIF retired.retired_at > ledger.clock() - keep THEN
		RAISE EXCEPTION 'table % was retired less than % ago', name, keep
			USING ERRCODE = 'object_not_in_prerequisite_state',
				  DETAIL = format('It was retired at %s; until it is dropped roll_back() can bring it back.', retired.retired_at),
				  HINT = format('Wait until %s.', retired.retired_at + keep);
	END IF;
	PERFORM ledger.legacy_lock(legacy, 5000);
	UPDATE ledger.legacy_mappings m SET detached_at = ledger.clock() WHERE m.legacy = legacy_drop.legacy;
	UPDATE ledger.retirements r SET dropped_at = ledger.clock() WHERE r.id = retired.id;
	INSERT INTO ledger.legacy_log (legacy, action, reason, changed_by) VALUES (name, 'detach', reason, caller);
	EXECUTE format('DROP TABLE %s', name);
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_drop(regclass, text, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_drop(regclass, text, text) IS 'Internal: the work of drop_legacy().';

/* ---- the way back ------------------------------------------------------------------- */

/*
 * The times of legacy alone since both sides were known to agree: those that
 * ended after the last full run without a difference began, and the present one.
 */
CREATE FUNCTION ledger.legacy_only_times() RETURNS TABLE (since timestamptz, until timestamptz)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH changes AS (
		SELECT l.changed_at AS since, lead(l.changed_at) OVER (ORDER BY l.id) AS until,
			NOT l.shadow_mode AND l.balance_source = 'legacy' AND l.phase = 'migrating' AS alone
		FROM ledger.settings_log l
	), clean AS (
		SELECT max(r.started_at) AS at FROM ledger.reconciliation_runs r
		WHERE r.status = 'finished' AND r.scope = 'full' AND r.tolerance = 0 AND r.discrepancies = 0 AND r.ignored = 0
			AND r.finished_at <= ledger.clock()
			AND COALESCE(r.options -> 'tolerances', '{}') IN ('{}', 'null') AND r.mappings = ledger.reconciliation_mappings()
	)
	SELECT c.since, c.until FROM changes c, clean n
	WHERE c.alone AND (c.until IS NULL OR n.at IS NULL OR c.until > n.at)
$$;
REVOKE ALL ON FUNCTION ledger.legacy_only_times() FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_only_times() IS 'Internal: when the legacy table alone counted, of which the ledger may not have everything.';

/* Who has to be caught up with: both kinds of way back that need it. */
CREATE FUNCTION ledger.migration_behind(roll_back ledger.roll_backs) RETURNS uuid[]
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT COALESCE(roll_back.failed_users, array_agg(u.user_id ORDER BY u.user_id), '{}') FROM (
		SELECT DISTINCT w.user_id FROM ledger.legacy_writes w
		WHERE roll_back.from_state = 'legacy_only' AND w.user_id IS NOT NULL AND w.at >= roll_back.writes_since
			AND EXISTS (SELECT FROM ledger.legacy_only_times() t WHERE w.at >= t.since AND (t.until IS NULL OR w.at <= t.until))
		UNION
		SELECT a.user_id FROM ledger.accounts a
		WHERE roll_back.from_state = 'retired' AND a.user_id IS NOT NULL AND a.id IN (
			SELECT unnest(ARRAY[j.debit_account_id, j.credit_account_id]) FROM ledger.journal j
			WHERE j.transaction_id > roll_back.last_transaction_id)
	) u
$$;
REVOKE ALL ON FUNCTION ledger.migration_behind(ledger.roll_backs) FROM PUBLIC;
COMMENT ON FUNCTION ledger.migration_behind(ledger.roll_backs) IS 'Internal: the users of whom one side is behind; those for whom it failed if it did.';

CREATE PROCEDURE ledger.cut_over(dry_run boolean DEFAULT false, force boolean DEFAULT false, reason text DEFAULT NULL)
	AS 'MODULE_PATHNAME', 'ledger_cut_over' LANGUAGE C SECURITY INVOKER;
REVOKE ALL ON PROCEDURE ledger.cut_over(boolean, boolean, text) FROM PUBLIC;
COMMENT ON PROCEDURE ledger.cut_over(boolean, boolean, text) IS 'Makes the ledger alone the truth: reads come from it, outside writes to legacy tables are refused (LG005), the mirror goes on as the way back. LG006 while a gate of readiness() is closed; force goes past those that can be. dry_run rehearses it in a transaction that is rolled back. Commits.';

CREATE PROCEDURE ledger.roll_back(reason text, catch_up boolean DEFAULT true)
	AS 'MODULE_PATHNAME', 'ledger_roll_back' LANGUAGE C SECURITY INVOKER;
REVOKE ALL ON PROCEDURE ledger.roll_back(text, boolean) FROM PUBLIC;
COMMENT ON PROCEDURE ledger.roll_back(text, boolean) IS 'The emergency way back from wherever the migration is: shadow mode on, strict mode off, balances read from the legacy table, outside writes captured again. catch_up brings the side that is behind up to the other. Commits; when it was interrupted, call it again.';

CREATE PROCEDURE ledger.retire_legacy(reason text)
	AS 'MODULE_PATHNAME', 'ledger_retire_legacy' LANGUAGE C SECURITY INVOKER;
REVOKE ALL ON PROCEDURE ledger.retire_legacy(text) FROM PUBLIC;
COMMENT ON PROCEDURE ledger.retire_legacy(text) IS 'Ends the mirror, seven days after the cut-over: the legacy tables are kept under other names (ledger.retirements). LG006 before that, or without a clean full reconciliation. Commits.';

CREATE FUNCTION ledger.drop_legacy(legacy regclass, reason text) RETURNS void
	AS 'MODULE_PATHNAME', 'ledger_drop_legacy' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.drop_legacy(regclass, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.drop_legacy(regclass, text) IS 'Drops a retired legacy table, 90 days after it was retired (55000 before). The caller must be able to act for its owner.';

CREATE FUNCTION ledger.migration_status()
	RETURNS TABLE (state text, since timestamptz, shadow_mode boolean, strict_mode boolean, balance_source text, phase text,
		next_step text, undo text)
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH now AS (
		SELECT COALESCE(s.shadow_mode, false) AS shadow, COALESCE(s.strict_mode, false) AS strict,
			COALESCE(s.balance_source, 'ledger') AS source, COALESCE(s.phase, 'migrating') AS phase,
			(SELECT max(l.changed_at) FROM ledger.settings_log l) AS changed_at,
			(SELECT max(m.attached_at) FROM ledger.legacy_mappings m WHERE m.detached_at IS NULL) AS attached_at,
			(SELECT count(*) FROM ledger.legacy_mappings m WHERE m.detached_at IS NULL) AS tables,
			EXISTS (SELECT FROM ledger.backfill_runs b WHERE b.status = 'finished'
				AND b.started_at >= (SELECT max(m.attached_at) FROM ledger.legacy_mappings m WHERE m.detached_at IS NULL)) AS filled
		FROM (SELECT 1) one LEFT JOIN ledger.settings s ON true
	), named AS (
		SELECT n.*, CASE WHEN n.phase = 'retired' AND n.tables = 0 THEN 'done'
			WHEN n.phase <> 'migrating' THEN n.phase
			WHEN n.tables = 0 THEN 'fresh'
			WHEN n.shadow THEN CASE WHEN n.strict THEN 'strict' WHEN n.source = 'legacy' THEN 'shadow' ELSE 'shadow_reads' END
			WHEN n.source = 'legacy' THEN 'legacy_only' ELSE 'attached' END AS state
		FROM now n
	)
	SELECT n.state, CASE n.state WHEN 'fresh' THEN NULL WHEN 'attached' THEN n.attached_at ELSE n.changed_at END,
		n.shadow, n.strict, n.source, n.phase,
		CASE WHEN n.state = 'attached' AND n.filled THEN replace(h.next_step, 'CALL ledger.backfill(), then ', '') ELSE h.next_step END, h.undo
	FROM named n JOIN (VALUES
		('fresh', 'SELECT * FROM ledger.attach_legacy()', NULL),
		('attached', 'CALL ledger.backfill(), then SELECT ledger.configure(shadow_mode => true, balance_source => ''legacy''): till then postings go past the table', 'SELECT ledger.detach_legacy(legacy)'),
		('shadow', 'SELECT ledger.configure(balance_source => ''ledger'')', 'SELECT ledger.configure(shadow_mode => false, balance_source => ''legacy'')'),
		('shadow_reads', 'SELECT ledger.configure(strict_mode => true)', 'SELECT ledger.configure(balance_source => ''legacy'')'),
		('strict', 'CALL ledger.cut_over(), when readiness() has no closed gate', 'SELECT ledger.configure(strict_mode => false)'),
		('cut_over', 'CALL ledger.retire_legacy(reason), after seven days', 'CALL ledger.roll_back(reason)'),
		('retired', 'SELECT ledger.drop_legacy(legacy, reason), after 90 days', 'CALL ledger.roll_back(reason)'),
		('done', NULL, NULL),
		('legacy_only', 'CALL ledger.roll_back(reason)', 'CALL ledger.roll_back(reason)')
	) AS h (state, next_step, undo) USING (state)
$$;
REVOKE ALL ON FUNCTION ledger.migration_status() FROM PUBLIC;
COMMENT ON FUNCTION ledger.migration_status() IS 'Where the migration is, since when, what comes next, and how this step is undone; one row.';
