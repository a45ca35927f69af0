/*
 * metrics.sql: what can be measured of the ledger, as rows and as Prometheus
 * reads it.
 *
 * Each metrics_* function has one subject and can be asked alone; an exporter
 * does. All series are there from the start, with zeros, also when the library
 * is not preloaded. They run as the owner, so pg_monitor needs EXECUTE alone,
 * write nothing, and work on a standby.
 *
 * A scrape must be cheap. What grows with what is open (discrepancies,
 * findings, reservations that are due) is read by indexes of that alone, and
 * the gates are as the worker saw them last.
 */

CREATE FUNCTION ledger.metrics_operations() RETURNS TABLE (metric text, type text, help text, labels jsonb, value float8)
	LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER ROWS 300
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'ledger_operations_total', 'counter', 'Transactions asked of the ledger, by what came of it; refused: by a rule.',
		jsonb_build_object('operation', o.operation, 'outcome', c.outcome), c.n::float8
	FROM ledger.stat_get_operations() o,
		LATERAL (VALUES ('posted', o.posted), ('replayed', o.replayed), ('refused', o.refused), ('failed', o.failed)) AS c (outcome, n)
	UNION ALL
	(SELECT 'ledger_operation_errors_total', 'counter', 'Errors by SQLSTATE; those of class LG but LG003 are refusals by a rule.',
		jsonb_build_object('operation', x.operation, 'code', x.code), sum(x.n)::float8
	FROM (SELECT o.operation, 'LG' || lpad(c::text, 3, '0') AS code, 0 AS n
			FROM ledger.stat_get_operations() o, generate_series(1, 11) c
		UNION ALL
		SELECT e.operation, COALESCE(e.sqlstate, 'other'), e.count FROM ledger.stat_get_errors() e) x
	GROUP BY x.operation, x.code ORDER BY x.operation, x.code)
	UNION ALL
	SELECT 'ledger_write_success_rate', 'gauge', 'Share of writes within 5 minutes that did not fail; what a rule refuses did not. 1 without writes.',
		'{}', w.rate
	FROM ledger.write_success(interval '5 minutes') w
$$;
REVOKE ALL ON FUNCTION ledger.metrics_operations() FROM PUBLIC;
COMMENT ON FUNCTION ledger.metrics_operations() IS 'Internal, for metrics() and exporters: the part of metrics() about writes.';

CREATE FUNCTION ledger.metrics_shadow() RETURNS TABLE (metric text, type text, help text, labels jsonb, value float8)
	LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER ROWS 10
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT m.metric, 'counter', m.help, m.labels, m.n::float8
	FROM ledger.stat_get_shadow() s, LATERAL (VALUES
		('ledger_shadow_compares_total', 'Compares of a user''s legacy row with the ledger, by result.', '{"result": "match"}'::jsonb, s.matches),
		('ledger_shadow_compares_total', 'Compares of a user''s legacy row with the ledger, by result.', '{"result": "mismatch"}', s.mismatches),
		('ledger_shadow_compares_total', 'Compares of a user''s legacy row with the ledger, by result.', '{"result": "pending"}', s.pending),
		('ledger_shadow_mismatches_total', 'Compares that met a difference, each time.', '{}', s.mismatches),
		('ledger_mirror_writes_total', 'Legacy rows that the mirror wrote, or could not.', '{"result": "ok"}', s.mirror_ok),
		('ledger_mirror_writes_total', 'Legacy rows that the mirror wrote, or could not.', '{"result": "failed"}', s.mirror_failed),
		('ledger_commit_proofs_total', 'Users proved at commit in strict mode, by result.', '{"result": "ok"}', s.proofs - s.proofs_failed),
		('ledger_commit_proofs_total', 'Users proved at commit in strict mode, by result.', '{"result": "failed"}', s.proofs_failed),
		('ledger_reads_refused_total', 'Reads of balances that strict mode refused, because both sides differ.', '{}', s.reads_refused),
		('ledger_outside_writes_total', 'Writes to legacy tables that were not the ledger''s and were captured.', '{}', s.outside_writes),
		('ledger_bypasses_total', 'Writes to legacy tables under session_replication_role = replica.', '{}', s.bypasses)
		) AS m (metric, help, labels, n)
$$;
REVOKE ALL ON FUNCTION ledger.metrics_shadow() FROM PUBLIC;
COMMENT ON FUNCTION ledger.metrics_shadow() IS 'Internal, for metrics() and exporters: the part of metrics() about compares and the mirror.';

/*
 * By the column's first account type; * is the whole row. Without a mapping a
 * zero without labels. A legacy column may hold what no float8 does.
 */
CREATE FUNCTION ledger.metrics_discrepancies() RETURNS TABLE (metric text, type text, help text, labels jsonb, value float8)
	LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER ROWS 20
	SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $$
	WITH series AS (
		SELECT m.id AS mapping_id, c.account_type,
			jsonb_build_object('mapping', m.legacy::text, 'account_type', c.account_type) AS labels
		FROM ledger.legacy_mappings m, LATERAL (
			SELECT l.accounts[1] FROM ledger.legacy_columns l WHERE l.mapping_id = m.id
			UNION SELECT '*') AS c (account_type)
		UNION ALL
		SELECT NULL, NULL, '{}' WHERE NOT EXISTS (SELECT FROM ledger.legacy_mappings)
	), changed AS (
		SELECT d.mapping_id, COALESCE(l.accounts[1], '*') AS account_type, sum(d.count) AS count
		FROM ledger.discrepancy_changes d LEFT JOIN ledger.legacy_columns l USING (mapping_id, legacy_column)
		GROUP BY 1, 2
	), open AS (
		SELECT d.mapping_id, COALESCE(l.accounts[1], '*') AS account_type, count(*) AS count,
			sum(abs(d.difference)) FILTER (WHERE d.difference < 'Infinity' AND d.difference > '-Infinity') AS amount
		FROM (SELECT r.mapping_id, r.legacy_column, COALESCE(r.ledger_value, 0) - COALESCE(r.legacy_value, 0) AS difference
			FROM ledger.open_discrepancies() r) d
		LEFT JOIN ledger.legacy_columns l USING (mapping_id, legacy_column)
		GROUP BY 1, 2
	), oldest AS (
		SELECT d.mapping_id, COALESCE(l.accounts[1], '*') AS account_type, min(d.first_seen) AS first_seen
		FROM ledger.discrepancy_rows d LEFT JOIN ledger.legacy_columns l USING (mapping_id, legacy_column)
		WHERE d.status = 'open' GROUP BY 1, 2
	), joined AS (
		SELECT s.labels, COALESCE(c.count, 0) AS changes, COALESCE(o.count, 0) AS open, CASE WHEN o.amount > 1e300 THEN 'Infinity' ELSE COALESCE(round(o.amount, 50), 0) END AS amount,
			COALESCE(GREATEST(extract(epoch FROM ledger.clock() - f.first_seen), 0), 0) AS oldest
		FROM series s LEFT JOIN changed c USING (mapping_id, account_type) LEFT JOIN open o USING (mapping_id, account_type)
			LEFT JOIN oldest f USING (mapping_id, account_type)
	)
	SELECT m.metric, m.type, m.help, j.labels, m.value
	FROM joined j, LATERAL (VALUES
		(1, 'ledger_shadow_discrepancy_count', 'counter', 'Discrepancies that opened, or whose difference changed; one that is only met again does not count.', j.changes::float8),
		(2, 'ledger_discrepancies_open', 'gauge', 'Open discrepancies, each user and column once.', j.open::float8),
		(3, 'ledger_discrepancy_amount_open', 'gauge', 'The sum of the open differences without their signs, in the column''s currency.', j.amount::float8),
		(4, 'ledger_discrepancy_oldest_open_seconds', 'gauge', 'How long the oldest open discrepancy is known; 0: none is open.', j.oldest::float8)
		) AS m (n, metric, type, help, value)
	ORDER BY m.n, j.labels
$$;
REVOKE ALL ON FUNCTION ledger.metrics_discrepancies() FROM PUBLIC;
COMMENT ON FUNCTION ledger.metrics_discrepancies() IS 'Internal, for metrics() and exporters: the part of metrics() about discrepancies.';

/* What the worker saw, if that is not too long ago. */
CREATE FUNCTION ledger.metrics_gates() RETURNS TABLE (metric text, type text, help text, labels jsonb, value float8)
	LANGUAGE plpgsql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER ROWS 20
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	seen timestamptz := (SELECT min(s.at) FROM ledger.gate_states s);
BEGIN
	metric := 'ledger_readiness_gate';
	type := 'gauge';
	help := 'Whether the gate of readiness() is open: 1, or closed: 0.';
	IF seen BETWEEN ledger.clock() - interval '5 minutes' AND ledger.clock() THEN
		RETURN QUERY SELECT metrics_gates.metric, metrics_gates.type, metrics_gates.help,
			jsonb_build_object('gate', s.gate), s.passed::int::float8 FROM ledger.gate_states s ORDER BY s.gate;
	ELSE
		seen := ledger.clock();
		RETURN QUERY SELECT metrics_gates.metric, metrics_gates.type, metrics_gates.help,
			jsonb_build_object('gate', r.gate), r.passed::int::float8 FROM ledger.readiness() r ORDER BY r.gate;
	END IF;
	metric := 'ledger_readiness_age_seconds';
	help := 'How long ago the gates were looked at.';
	labels := '{}';
	value := GREATEST(extract(epoch FROM ledger.clock() - seen), 0);
	RETURN NEXT;
END
$$;
REVOKE ALL ON FUNCTION ledger.metrics_gates() FROM PUBLIC;
COMMENT ON FUNCTION ledger.metrics_gates() IS 'Internal, for metrics() and exporters: the part of metrics() about the gates of readiness(), as the worker stored them within 5 minutes; else it looks itself.';

CREATE FUNCTION ledger.metrics_migration() RETURNS TABLE (metric text, type text, help text, labels jsonb, value float8)
	LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER ROWS 20
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH settings AS (
		SELECT COALESCE(s.shadow_mode, false) AS shadow_mode, COALESCE(s.strict_mode, false) AS strict_mode,
			COALESCE(s.balance_source, 'ledger') AS source, COALESCE(s.phase, 'migrating') AS phase
		FROM (SELECT 1) one LEFT JOIN ledger.settings s ON true
	), runs AS (
		SELECT c.scope, r.finished_at, r.discrepancies
		FROM (VALUES ('full'), ('incremental')) AS c (scope) LEFT JOIN LATERAL (
			SELECT n.finished_at, n.discrepancies FROM ledger.reconciliation_runs n
			WHERE n.scope = c.scope AND n.status = 'finished' AND n.finished_at <= ledger.clock() ORDER BY n.id DESC LIMIT 1) r ON true
	)
	SELECT 'ledger_shadow_mode', 'gauge', 'Whether postings are mirrored to legacy tables.', '{}'::jsonb, s.shadow_mode::int::float8 FROM settings s
	UNION ALL
	SELECT 'ledger_strict_mode', 'gauge', 'Whether a discrepancy is an error.', '{}', s.strict_mode::int FROM settings s
	UNION ALL
	SELECT 'ledger_balance_source_active', 'gauge', 'Where balances are read from.', jsonb_build_object('source', v.name), (s.source = v.name)::int
	FROM settings s, (VALUES ('ledger'), ('legacy')) AS v (name)
	UNION ALL
	SELECT 'ledger_phase_active', 'gauge', 'How far the migration is.', jsonb_build_object('phase', v.name), (s.phase = v.name)::int
	FROM settings s, (VALUES ('migrating'), ('cut_over'), ('retired')) AS v (name)
	UNION ALL
	SELECT 'ledger_legacy_tables', 'gauge', 'Legacy tables that are attached.', '{}', count(*) FROM ledger.legacy_mappings m WHERE m.detached_at IS NULL
	UNION ALL
	SELECT 'ledger_database_copy', 'gauge', 'Whether this database is a copy, in which nothing is posted until resume().', '{}', ledger.is_copy()::int
	UNION ALL
	SELECT 'ledger_reconciliation_age_seconds', 'gauge', 'How long ago the last run of the scope finished; +Inf: none has.',
		jsonb_build_object('scope', r.scope),
		CASE WHEN r.finished_at IS NULL THEN 'Infinity' ELSE GREATEST(extract(epoch FROM ledger.clock() - r.finished_at), 0) END
	FROM runs r
	UNION ALL
	SELECT 'ledger_reconciliation_discrepancies', 'gauge', 'What the last run of the scope found to differ.',
		jsonb_build_object('scope', r.scope), COALESCE(r.discrepancies, 0)
	FROM runs r
	UNION ALL
	SELECT 'ledger_guards_disarmed', 'gauge', 'Triggers that should be there and fire, but do not: on legacy tables, on the ledger''s own.',
		jsonb_build_object('on', v.name), (SELECT count(*) FROM ledger.disarmed() d
			WHERE (d.table_name IS NULL OR starts_with(d.table_name, 'ledger.')) = (v.name = 'ledger'))
	FROM (VALUES ('ledger'), ('legacy')) AS v (name)
	UNION ALL
	SELECT 'ledger_outside_writes_hour', 'gauge', 'Writes past the ledger within an hour, in shadow mode, that were captured and not posted.', '{}', count(*)
	FROM ledger.legacy_writes w WHERE w.kind IN ('outside', 'double_write') AND w.at > ledger.clock() - interval '1 hour' AND w.at <= ledger.clock()
		AND w.at >= ledger.mode_since('shadow')
	UNION ALL
	SELECT 'ledger_suspense_balance', 'gauge', 'What is to be settled on legacy_suspense.', jsonb_build_object('currency', b.currency), sum(b.balance)
	FROM (SELECT a.currency, a.balance FROM ledger.account_balances a WHERE a.user_id IS NULL AND a.account_type = 'legacy_suspense'
		UNION ALL
		SELECT c.code, 0 FROM ledger.currencies c) b
	GROUP BY b.currency
	UNION ALL
	SELECT 'ledger_backfill_findings_open', 'gauge', 'Legacy rows from which nobody could be opened.', '{}', count(*)
	FROM ledger.backfill_findings f WHERE f.status = 'open'
	UNION ALL
	SELECT 'ledger_reservations_due', 'gauge', 'Reservations that have expired and are not released yet.', '{}', count(*)
	FROM ledger.reservation_rows r WHERE r.status = 'active' AND r.expires_at <= clock_timestamp()
$$;
REVOKE ALL ON FUNCTION ledger.metrics_migration() FROM PUBLIC;
COMMENT ON FUNCTION ledger.metrics_migration() IS 'Internal, for metrics() and exporters: the part of metrics() about settings, reconciliation, guards, and what is to be done.';

CREATE FUNCTION ledger.metrics_worker() RETURNS TABLE (metric text, type text, help text, labels jsonb, value float8)
	LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER ROWS 40
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH worker AS (
		SELECT e.*, h.last_seen, COALESCE(h.errors, 0) AS errors, COALESCE(h.starts, 0) AS starts
		FROM ledger.evidence_status() e LEFT JOIN ledger.worker_heartbeat h ON true
	)
	SELECT m.metric, m.type, m.help, '{}'::jsonb, m.value
	FROM worker w, LATERAL (VALUES
		('ledger_worker_running', 'gauge', 'Whether this database has a background worker.', (w.worker_pid IS NOT NULL)::int::float8),
		('ledger_worker_heartbeat_age_seconds', 'gauge', 'How long ago the worker was last seen; +Inf: never.',
			CASE WHEN w.last_seen IS NULL THEN 'Infinity' ELSE abs(extract(epoch FROM ledger.clock() - w.last_seen)) END::float8),
		('ledger_worker_starts_total', 'counter', 'Starts of the worker.', w.starts),
		('ledger_worker_errors_total', 'counter', 'What the worker could not do, and tried again.', w.errors),
		('ledger_evidence_ring_size', 'gauge', 'Findings that there is room for until the worker stores them; 0: no ring.', COALESCE(w.size, 0)),
		('ledger_evidence_ring_used', 'gauge', 'Findings that wait for the worker.', COALESCE(w.used, 0))
		) AS m (metric, type, help, value)
	UNION ALL
	SELECT 'ledger_evidence_lost_total', 'counter', 'Findings lost: overflow of the ring, or by a crash, which counts one for all.',
		jsonb_build_object('kind', v.kind), (SELECT COALESCE(sum(COALESCE(l.count, 1)), 0) FROM ledger.evidence_losses l WHERE l.kind = v.kind)
	FROM (VALUES ('overflow'), ('crash')) AS v (kind)
	UNION ALL
	SELECT 'ledger_worker_slices_total', 'counter', 'Slices of work that the worker has done.', jsonb_build_object('task', t.task), t.runs
	FROM ledger.stat_get_tasks() t
	UNION ALL
	SELECT 'ledger_worker_seconds_total', 'counter', 'How long the worker has been at them.', jsonb_build_object('task', t.task), t.total_ms / 1000
	FROM ledger.stat_get_tasks() t
$$;
REVOKE ALL ON FUNCTION ledger.metrics_worker() FROM PUBLIC;
COMMENT ON FUNCTION ledger.metrics_worker() IS 'Internal, for metrics() and exporters: the part of metrics() about the background worker and evidence.';

/*
 * The counters have four buckets for each doubling; here they have, up to a
 * second, for reads and the lag of writes, which are compared, elsewhere one.
 */
CREATE FUNCTION ledger.metrics_histograms(metric_name text DEFAULT NULL)
	RETURNS TABLE (metric text, help text, labels jsonb, bounds numeric[], counts bigint[], sum float8, count bigint)
	LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER ROWS 24
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH series AS (
		SELECT row_number() OVER () AS n, x.*
		FROM (
			SELECT m.metric, m.help, jsonb_build_object('source', r.source) AS labels, m.unit, true AS fine, r.total_ms, r.latency
			FROM (VALUES ('balance_query_duration_ms', 6,
					'How long balances took to read: ledger is each read less the fetch of the legacy row and the compare, legacy is that fetch. Milliseconds.'),
				('ledger_read_duration_seconds', 9,
					'How long balances took to read: ledger is each read less the fetch of the legacy row and the compare, legacy is that fetch.'))
				AS m (metric, unit, help), ledger.stat_reads r
			UNION ALL
			SELECT 'ledger_read_sample_duration_seconds',
				'Of a sample of reads: ledger until it had the accounts, legacy until a statement of SQL had the row. The gate read_latency goes by it.',
				jsonb_build_object('source', substr(t.what, 8)), 9, true, t.total_ms, t.latency
			FROM ledger.stat_get_times() t WHERE t.what IN ('sample_ledger', 'sample_legacy')
			UNION ALL
			SELECT 'shadow_mode_write_lag_ms', 'How long one side of a posting, ledger or legacy row, was written before the other. Milliseconds.',
				'{}', 6, true, s.lag_total_ms, s.lag
			FROM ledger.stat_shadow s
			UNION ALL
			SELECT 'ledger_operation_duration_seconds', 'How long calls took, whatever came of them.',
				jsonb_build_object('operation', o.operation), 9, false, o.total_ms, o.latency
			FROM ledger.stat_get_operations() o
		) x
		WHERE metric_name IS NULL OR x.metric = metric_name
	), bounds AS MATERIALIZED (
		SELECT i.bucket, round(ledger.latency_bound(i.bucket) * 1e6)::numeric AS ns FROM generate_series(0, 108) AS i (bucket)
	), running AS (
		SELECT s.n, u.place::int - 1 AS bucket, sum(u.count) OVER (PARTITION BY s.n ORDER BY u.place)::bigint AS up_to
		FROM series s, unnest(s.latency) WITH ORDINALITY AS u (count, place)
	), shown AS (
		SELECT r.n, array_agg(trim_scale(b.ns / 10::numeric ^ s.unit) ORDER BY r.bucket) AS bounds, array_agg(r.up_to ORDER BY r.bucket) AS counts
		FROM running r JOIN series s USING (n) JOIN bounds b USING (bucket)
		WHERE r.bucket % 4 = 0 OR s.fine AND r.bucket <= 80
		GROUP BY r.n
	)
	SELECT s.metric, s.help, s.labels, h.bounds, h.counts, s.total_ms / (10::float8 ^ (s.unit - 6)),
		(SELECT sum(u)::bigint FROM unnest(s.latency) AS u)
	FROM series s JOIN shown h USING (n) ORDER BY s.n
$$;
REVOKE ALL ON FUNCTION ledger.metrics_histograms(text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.metrics_histograms(text) IS 'The histograms of metrics(), or the only one of the name: counts[n] is how many took up to bounds[n], in the unit that the name says; count is all of them.';

/* Not granted to everybody, unlike the catalog: who may not read the metrics has no version either. */
CREATE FUNCTION ledger.metrics_extension() RETURNS TABLE (metric text, type text, help text, labels jsonb, value float8)
	LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER ROWS 1
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'ledger_extension_info', 'gauge', 'The extension''s version.', jsonb_build_object('version', e.extversion), 1::float8
	FROM pg_extension e WHERE e.extname = 'ledger'
$$;
REVOKE ALL ON FUNCTION ledger.metrics_extension() FROM PUBLIC;
COMMENT ON FUNCTION ledger.metrics_extension() IS 'Internal, for metrics() and exporters: the part of metrics() about the extension.';

CREATE FUNCTION ledger.metrics() RETURNS TABLE (metric text, type text, help text, labels jsonb, value float8)
	LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER ROWS 1500
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT * FROM ledger.metrics_extension()
	UNION ALL SELECT * FROM ledger.metrics_discrepancies()
	UNION ALL SELECT * FROM ledger.metrics_shadow()
	UNION ALL SELECT * FROM ledger.metrics_operations()
	UNION ALL SELECT * FROM ledger.metrics_migration()
	UNION ALL SELECT * FROM ledger.metrics_gates()
	UNION ALL SELECT * FROM ledger.metrics_worker()
	UNION ALL
	SELECT h.metric || s.suffix, 'histogram', h.help, h.labels || s.labels, s.value
	FROM ledger.metrics_histograms() h, LATERAL (
		SELECT '_bucket', jsonb_build_object('le', b.bound::text), b.count::float8 FROM unnest(h.bounds, h.counts) AS b (bound, count)
		UNION ALL VALUES ('_bucket', '{"le": "+Inf"}'::jsonb, h.count::float8), ('_sum', '{}', h.sum), ('_count', '{}', h.count)) AS s (suffix, labels, value)
$$;
REVOKE ALL ON FUNCTION ledger.metrics() FROM PUBLIC;
COMMENT ON FUNCTION ledger.metrics() IS 'What can be measured of the ledger in this database, a row for each sample: metric, its type and help, labels, value. Of a histogram the samples are named with _bucket (label le, cumulative), _sum and _count. docs/monitoring.md lists them.';

/* The exposition format 0.0.4. jsonb has a key's labels in a fixed order. */
CREATE FUNCTION ledger.prometheus() RETURNS text
	LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1
AS $$
	WITH samples AS (
		SELECT m.*, CASE m.type WHEN 'histogram' THEN regexp_replace(m.metric, '_(bucket|sum|count)$', '') ELSE m.metric END AS family
		FROM ledger.metrics() WITH ORDINALITY AS m (metric, type, help, labels, value, n)
	), lines AS (
		SELECT s.family, s.type, s.help, s.n,
			s.metric || COALESCE('{' || (
				SELECT string_agg(format('%s="%s"', l.key, replace(replace(replace(l.value, E'\\', E'\\\\'), '"', E'\\"'), E'\n', E'\\n')), ',')
				FROM jsonb_each_text(s.labels) AS l) || '}', '')
			|| ' ' || CASE s.value WHEN 'Infinity' THEN '+Inf' WHEN '-Infinity' THEN '-Inf' ELSE s.value::text END AS line
		FROM samples s
	), families AS (
		SELECT min(l.n) AS n, format(E'# HELP %s %s\n# TYPE %s %s\n', l.family, replace(replace(l.help, E'\\', E'\\\\'), E'\n', E'\\n'), l.family, l.type)
			|| string_agg(l.line, E'\n' ORDER BY l.n) || E'\n' AS text
		FROM lines l GROUP BY l.family, l.type, l.help
	)
	SELECT string_agg(f.text, '' ORDER BY f.n) FROM families f
$$;
REVOKE ALL ON FUNCTION ledger.prometheus() FROM PUBLIC;
COMMENT ON FUNCTION ledger.prometheus() IS 'metrics() as Prometheus reads it, the text format 0.0.4.';

GRANT EXECUTE ON FUNCTION ledger.metrics(), ledger.prometheus(), ledger.metrics_histograms(text), ledger.metrics_extension(), ledger.metrics_operations(),
	ledger.metrics_shadow(), ledger.metrics_discrepancies(), ledger.metrics_gates(), ledger.metrics_migration(),
	ledger.metrics_worker() TO pg_monitor;
