/*
 * alerts.sql: what somebody should look at, for who has no Prometheus.
 *
 * The same names, thresholds and windows as monitoring/ledger.rules.yml; what
 * that has besides, a scrape that is absent, a database cannot tell of itself.
 */

CREATE FUNCTION ledger.alert_states()
	RETURNS TABLE (alert text, severity text, firing boolean, value float8, threshold float8, since timestamptz, summary text)
	LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY DEFINER ROWS 13
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH now AS (
		SELECT ledger.clock() AS now, (SELECT count(*) FROM ledger.legacy_mappings m WHERE m.detached_at IS NULL) AS tables,
			COALESCE((SELECT s.shadow_mode FROM ledger.settings s), false) AS shadow_mode
	), changes AS (
		SELECT COALESCE(sum(c.count), 0) AS n, min(c.at) AS since
		FROM now n JOIN ledger.discrepancy_changes c ON c.at > n.now - interval '5 minutes' AND c.at <= n.now
	), latency AS (
		SELECT CASE WHEN r.reads >= l.latency_reads THEN r.ledger_p95_ms / NULLIF(r.legacy_p95_ms, 0) END AS ratio
		FROM now n, ledger.gate_limits() l, ledger.read_latency(n.now - interval '1 hour') r
	), worker AS (
		SELECT h.last_seen, abs(extract(epoch FROM n.now - h.last_seen)) AS age FROM now n LEFT JOIN ledger.worker_heartbeat h ON true
	), lost AS (
		SELECT COALESCE(sum(COALESCE(l.count, 1)), 0) AS n, min(l.at) AS since
		FROM now n JOIN ledger.evidence_losses l ON l.last_at > n.now - interval '1 hour'
	), run AS (
		SELECT r.finished_at, extract(epoch FROM n.now - r.finished_at) AS age
		FROM now n LEFT JOIN LATERAL (SELECT c.finished_at FROM ledger.reconciliation_runs c
			WHERE c.scope = 'full' AND c.status = 'finished' AND c.finished_at <= n.now ORDER BY c.id DESC LIMIT 1) r ON true
	), disarmed AS (
		SELECT count(*) FILTER (WHERE NOT d.own) AS legacy, count(*) FILTER (WHERE d.own) AS own
		FROM (SELECT t.table_name IS NULL OR starts_with(t.table_name, 'ledger.') AS own FROM ledger.disarmed() t) d
	), bypasses AS (
		SELECT count(*) AS n, min(w.at) AS since
		FROM now n JOIN ledger.legacy_writes w ON w.kind = 'bypass' AND w.at > n.now - interval '1 hour'
	), outside AS (
		SELECT count(*) AS n, min(w.at) AS since
		FROM now n JOIN ledger.legacy_writes w ON w.kind IN ('outside', 'double_write') AND w.at > n.now - interval '1 hour' AND w.at <= n.now
			AND w.at >= ledger.mode_since('shadow')
	), refused AS (
		SELECT count(*) AS n, min(d.first_seen) AS since
		FROM now n JOIN ledger.discrepancy_rows d ON d.status = 'open' AND d.cause = 'strict_failure' AND d.source = 'read'
			AND d.last_seen > n.now - interval '5 minutes'
	), open AS (
		SELECT min(d.first_seen) AS since, extract(epoch FROM n.now - min(d.first_seen)) AS age
		FROM now n LEFT JOIN ledger.discrepancy_rows d ON d.status = 'open' GROUP BY n.now
	)
	SELECT a.alert, a.severity, COALESCE(a.firing, false), a.value::float8, a.threshold, CASE WHEN a.firing THEN a.since END, a.summary
	FROM now n, changes c, ledger.write_success(interval '5 minutes') s, latency l, worker w, lost e, run r, disarmed d, bypasses b, outside x, refused f, open o,
		LATERAL (VALUES
		('LedgerDiscrepancies', 'critical', c.n > 10, c.n, 10::float8, c.since,
			format('discrepancies that opened or changed within 5 minutes: %s', c.n)),
		('LedgerWriteFailures', 'high', s.rate < 0.99, s.rate::numeric, 0.99, NULL::timestamptz,
			format('writes that failed within 5 minutes, commits that strict mode refused among them: %s of %s', s.failures, s.attempts)),
		('LedgerReadsSlow', 'medium', l.ratio > 2, l.ratio::numeric, 2, NULL,
			'the 95th percentile of the ledger''s part of reads, in legacy fetches'),
		('LedgerWorkerDown', 'high', n.tables > 0 AND COALESCE(w.age > 60, true), w.age, 60, w.last_seen,
			'seconds since the background worker was last seen'),
		('LedgerEvidenceLost', 'high', e.n > 0, e.n, 0, e.since,
			format('findings lost within an hour: %s', e.n)),
		('LedgerReconciliationOverdue', 'medium', n.shadow_mode AND n.tables > 0 AND COALESCE(r.age > 86400, true), r.age, 86400, r.finished_at,
			CASE WHEN r.finished_at IS NULL THEN 'there was no full reconciliation yet' ELSE 'seconds since the last full reconciliation' END),
		('LedgerCaptureMissing', 'critical', d.legacy > 0, d.legacy, 0, NULL,
			format('triggers on legacy tables that do not fire: %s', d.legacy)),
		('LedgerGuardMissing', 'high', d.own > 0, d.own, 0, NULL,
			format('the ledger''s own triggers that do not fire: %s', d.own)),
		('LedgerBypass', 'high', b.n > 0, b.n, 0, b.since,
			format('writes to legacy tables in the replica role within an hour: %s', b.n)),
		('LedgerOutsideWrites', 'medium', n.shadow_mode AND x.n > 0, x.n, 0, x.since,
			format('writes past the ledger within an hour that were not posted: %s', x.n)),
		('LedgerReadsRefused', 'high', f.n > 0, f.n, 0, f.since,
			format('balances that strict mode refused to show within 5 minutes: %s', f.n)),
		('LedgerCopy', 'high', ledger.is_copy(), ledger.is_copy()::int, 0, NULL,
			'this database is a copy, which posts nothing until resume()'),
		('LedgerDiscrepancyOpen', 'medium', o.age > 3600, COALESCE(o.age, 0), 3600, o.since,
			'seconds since the oldest open discrepancy was first seen')
		) AS a (alert, severity, firing, value, threshold, since, summary)
$$;
REVOKE ALL ON FUNCTION ledger.alert_states() FROM PUBLIC;
COMMENT ON FUNCTION ledger.alert_states() IS 'Internal, for alerts.';

CREATE VIEW ledger.alerts AS
	SELECT a.alert, a.severity, a.firing, a.value, a.threshold, a.since, a.summary FROM ledger.alert_states() a;
COMMENT ON VIEW ledger.alerts IS 'What somebody should look at now: those that fire, and what the others are at. monitoring/ledger.rules.yml has the same for Prometheus.';
COMMENT ON COLUMN ledger.alerts.value IS 'NULL: nothing to measure.';
COMMENT ON COLUMN ledger.alerts.threshold IS 'It fires above it; LedgerWriteFailures below.';
COMMENT ON COLUMN ledger.alerts.since IS 'When what it fires for began, or was last as it should be, if that is known.';

GRANT EXECUTE ON FUNCTION ledger.alert_states() TO pg_monitor;
GRANT SELECT ON ledger.alerts TO pg_monitor;
