--
-- The view alerts, each at its threshold. test/t/050_prometheus.pl has the
-- same in Prometheus.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database ledger_alerts
\set shadow :srcdir '/test/lib/shadow.sql'
\i :shadow
CREATE VIEW firing AS SELECT alert, severity, round(value::numeric, 3) AS value, threshold, summary FROM ledger.alerts WHERE firing ORDER BY 1;
CREATE FUNCTION is_firing(name text) RETURNS boolean LANGUAGE sql AS 'SELECT firing FROM ledger.alerts WHERE alert = name';
-- so many discrepancies, of so many customers, seen so long ago
CREATE FUNCTION found(n int, ago interval DEFAULT '0') RETURNS void LANGUAGE sql AS $$
	INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value, first_seen, last_seen)
		SELECT 1, gen_random_uuid(), 'buying_power', 'mismatch', 'run', 1, 2, ledger.clock() - ago, ledger.clock() - ago FROM generate_series(1, n)
$$;
CREATE FUNCTION beat() RETURNS void LANGUAGE sql AS $$
	INSERT INTO ledger.worker_heartbeat (incarnation, pid, started_at, last_seen) VALUES (1, 1, ledger.clock(), ledger.clock())
		ON CONFLICT ("only") DO UPDATE SET last_seen = ledger.clock()
$$;
\set ECHO all
SET client_min_messages = error;

-- nothing attached, no worker: nothing is wrong
SELECT alert, severity, firing, value, threshold FROM ledger.alerts;

-- in shadow mode without a table there is nothing to reconcile
BEGIN;
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SELECT * FROM firing;
ROLLBACK;

-- attached: the worker is missed, from when it has not been seen for a minute
SELECT count(*) FROM ledger.attach_legacy('public.balances') WHERE NOT passed;
SELECT alert, severity, value, since FROM ledger.alerts WHERE firing;
SELECT beat();
SELECT * FROM firing;
UPDATE ledger.worker_heartbeat SET last_seen = ledger.clock() - interval '50 seconds';
SELECT is_firing('LedgerWorkerDown');
UPDATE ledger.worker_heartbeat SET last_seen = ledger.clock() - interval '60.1 seconds';
SELECT is_firing('LedgerWorkerDown');
-- seen by a test clock that has been set back: not now
UPDATE ledger.worker_heartbeat SET last_seen = ledger.clock() + interval '1 day';
SELECT is_firing('LedgerWorkerDown'), (SELECT passed FROM ledger.readiness() WHERE gate = 'worker') AS gate_open,
	(SELECT value > 60 FROM ledger.metrics() WHERE metric = 'ledger_worker_heartbeat_age_seconds') AS old;
SELECT beat();

-- shadow mode: a full reconciliation each day
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SELECT alert, severity, value FROM ledger.alerts WHERE firing;
SELECT ledger.credit_user_usdc(u, 1, 'opens') > 0 AS opened FROM unnest(ARRAY[:alice, :bob, :carol]::uuid[]) u;
CALL ledger.run_reconciliation();
SELECT * FROM firing;
SELECT ledger.set_test_clock('23 hours 59 minutes', 'a test'), beat();
SELECT * FROM firing;
SELECT ledger.set_test_clock('24 hours 1 second', 'a test'), beat();
SELECT alert, severity, value BETWEEN 86400 AND 87000 AS a_day FROM ledger.alerts WHERE firing;
CALL ledger.run_reconciliation();
SELECT * FROM firing;

-- 10 discrepancies within 5 minutes are quiet, 11 are not
SELECT found(10);
SELECT alert, value FROM ledger.alerts WHERE alert = 'LedgerDiscrepancies';
SELECT * FROM firing;
SELECT found(1);
SELECT * FROM firing;
SELECT since > ledger.clock() - interval '1 minute' AS since FROM ledger.alerts WHERE alert = 'LedgerDiscrepancies';
-- those of a rehearsal's future are not of the last 5 minutes
SELECT found(20, '-1 day');
SELECT value FROM ledger.alerts WHERE alert = 'LedgerDiscrepancies';
UPDATE ledger.discrepancy_rows SET first_seen = ledger.clock() WHERE first_seen > ledger.clock();
-- one customer who is met again and again is one
UPDATE ledger.discrepancy_rows SET last_seen = ledger.clock(), count = count + 100;
SELECT value FROM ledger.alerts WHERE alert = 'LedgerDiscrepancies';
-- later it is over, but not theirs
SELECT ledger.set_test_clock('24 hours 5 minutes 30 seconds', 'a test'), beat();
SELECT * FROM firing;
-- known for an hour
SELECT ledger.set_test_clock('25 hours 1 minute', 'a test'), beat();
SELECT alert, severity, value BETWEEN 3600 AND 4200 AS an_hour, threshold FROM ledger.alerts WHERE firing;
-- and differing by another amount only now
BEGIN;
UPDATE ledger.discrepancy_rows SET ledger_value = ledger_value + 1, last_seen = ledger.clock() WHERE status = 'open';
SELECT is_firing('LedgerDiscrepancies');
ROLLBACK;
UPDATE ledger.discrepancy_rows SET first_seen = ledger.clock() - interval '59 minutes';
SELECT is_firing('LedgerDiscrepancyOpen');
UPDATE ledger.discrepancy_rows SET status = 'resolved', resolved_at = ledger.clock();
SELECT * FROM firing;

-- writes: 99 of 100 are enough, 98 are not; what a rule refuses is as good as any
SELECT ledger.stat_reset(), ledger.set_test_clock('26 hours', 'a test'), beat();
SELECT count(public.raises(format('SELECT ledger.debit_user_usdc(%L, 1000000, %L)', :alice, 'too much'))) AS refused,
	count(ledger.credit_user_usdc(:alice, 1, 'x')) AS posted FROM generate_series(1, 49);
SELECT public.raises(format('SELECT ledger.debit_user_usdc(%L, 1, NULL)', :alice)) LIKE '22004%' AS failed;
SELECT ledger.credit_user_usdc(:alice, 1, 'x') > 0 AS posted;
SELECT alert, value FROM ledger.alerts WHERE alert = 'LedgerWriteFailures' OR firing;
SELECT public.raises(format('SELECT ledger.debit_user_usdc(%L, 1, NULL)', :alice)) LIKE '22004%' AS failed;
SELECT * FROM firing;
SELECT ledger.stat_reset();

-- reads: twice the legacy fetch is quiet, the next bucket is not; fewer than 100 say nothing
INSERT INTO ledger.read_timings (slot, source, bucket, count)
	SELECT date_trunc('hour', ledger.clock(), 'UTC'), s, b, 99 FROM (VALUES ('legacy', 40), ('ledger', 44)) AS t (s, b);
SELECT value, firing FROM ledger.alerts WHERE alert = 'LedgerReadsSlow';
UPDATE ledger.read_timings SET count = 100;
SELECT round(value::numeric, 6) AS value, firing FROM ledger.alerts WHERE alert = 'LedgerReadsSlow';
UPDATE ledger.read_timings SET bucket = 45 WHERE source = 'ledger';
SELECT * FROM firing;
UPDATE ledger.read_timings SET bucket = 40;
SELECT * FROM firing;

-- lost evidence and bypasses, for an hour
INSERT INTO ledger.evidence_losses (kind, count, at, last_at) VALUES ('overflow', 7, ledger.clock() - interval '61 minutes', ledger.clock() - interval '61 minutes');
INSERT INTO ledger.legacy_writes (mapping_id, user_id, operation, kind, session_role, acting_role, deltas, at)
	VALUES (1, :alice, 'UPDATE', 'bypass', 'somebody', 'somebody', '{}', ledger.clock() - interval '61 minutes');
SELECT * FROM firing;
UPDATE ledger.evidence_losses SET last_at = ledger.clock() - interval '59 minutes';
UPDATE ledger.legacy_writes SET at = ledger.clock() - interval '59 minutes';
SELECT * FROM firing;
UPDATE ledger.evidence_losses SET kind = 'crash', count = NULL;
SELECT alert, value FROM firing WHERE alert = 'LedgerEvidenceLost';
UPDATE ledger.evidence_losses SET last_at = ledger.clock() - interval '2 hours';
UPDATE ledger.legacy_writes SET at = ledger.clock() - interval '2 hours';

-- writes past the ledger, for an hour, unless they are posted or nothing is mirrored
UPDATE ledger.legacy_writes SET at = at - interval '2 hours';
UPDATE public.balances SET buying_power = buying_power + 5 WHERE user_id = :bob;
SELECT alert, value, since = (SELECT max(at) FROM ledger.legacy_writes) AS since FROM ledger.alerts WHERE firing;
UPDATE ledger.legacy_writes SET kind = 'posted' WHERE kind = 'outside' AND at > ledger.clock() - interval '5 minutes';
SELECT * FROM firing;
UPDATE ledger.legacy_writes SET kind = 'double_write', at = ledger.clock() - interval '59 minutes' WHERE kind = 'posted';
SELECT is_firing('LedgerOutsideWrites');
UPDATE ledger.legacy_writes SET at = ledger.clock() - interval '61 minutes' WHERE kind = 'double_write';
SELECT is_firing('LedgerOutsideWrites');
UPDATE ledger.legacy_writes SET at = ledger.clock() WHERE kind = 'double_write';
BEGIN;
SELECT shadow_mode FROM ledger.configure(shadow_mode => false);
SELECT is_firing('LedgerOutsideWrites');
-- on again: what was written before it is none
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SELECT is_firing('LedgerOutsideWrites'), (SELECT value FROM ledger.metrics() WHERE metric = 'ledger_outside_writes_hour');
ROLLBACK;
SELECT is_firing('LedgerOutsideWrites'), (SELECT value FROM ledger.metrics() WHERE metric = 'ledger_outside_writes_hour');
UPDATE ledger.legacy_writes SET at = at - interval '2 hours';

-- customers who cannot see their balance, for 5 minutes
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value, first_seen, last_seen)
	VALUES (1, :bob, 'buying_power', 'strict_failure', 'commit', 1, 6, ledger.clock() - interval '10 minutes', ledger.clock() - interval '290 seconds');
SELECT is_firing('LedgerReadsRefused');
UPDATE ledger.discrepancy_rows SET source = 'read' WHERE cause = 'strict_failure';
SELECT alert, value FROM ledger.alerts WHERE firing;
UPDATE ledger.discrepancy_rows SET last_seen = ledger.clock() - interval '301 seconds' WHERE cause = 'strict_failure';
SELECT * FROM firing;
UPDATE ledger.discrepancy_rows SET status = 'resolved', resolved_at = ledger.clock() WHERE status = 'open';
UPDATE public.balances SET buying_power = buying_power - 5 WHERE user_id = :bob;
UPDATE ledger.legacy_writes SET at = at - interval '2 hours';

-- since the first of it, of what counts alone
BEGIN;
CREATE OR REPLACE FUNCTION ledger.write_counts(OUT attempts bigint, OUT failures bigint, OUT reset_at timestamptz)
	LANGUAGE sql AS $$ SELECT 200, 51, date_trunc('day', ledger.clock()) - interval '1 day' $$;
INSERT INTO ledger.write_samples (at, reset_at, attempts, failures)
	SELECT ledger.clock() - a.age, c.reset_at, a.attempts, a.failures
	FROM ledger.write_counts() c, (VALUES ('5 minutes 30 seconds'::interval, 100, 50), ('55 minutes', 0, 0)) AS a (age, attempts, failures);
INSERT INTO ledger.read_timings (slot, source, bucket, count)
	SELECT date_trunc('hour', ledger.clock() - interval '3 hours', 'UTC'), s, b, 1000 FROM (VALUES ('legacy', 40), ('ledger', 60)) AS t (s, b);
SELECT found(11, '4 minutes'), found(1, '2 minutes'), found(1, '130 minutes');
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value, first_seen, last_seen, status, resolved_at)
	SELECT 1, gen_random_uuid(), 'buying_power', cause, source, 1, 6, ledger.clock() - first, ledger.clock() - last, status, CASE status WHEN 'resolved' THEN ledger.clock() END
	FROM (VALUES ('strict_failure', 'read', '100 minutes'::interval, '1 minute'::interval, 'open'), ('strict_failure', 'read', '80 minutes', '2 minutes', 'open'),
		('strict_failure', 'read', '150 minutes', '1 minute', 'resolved'), ('mismatch', 'read', '110 minutes', '1 minute', 'open')) AS d (cause, source, first, last, status);
INSERT INTO ledger.evidence_losses (kind, count, at, last_at)
	VALUES ('overflow', 2, ledger.clock() - interval '50 minutes', ledger.clock() - interval '40 minutes'), ('crash', NULL, ledger.clock() - interval '30 minutes', ledger.clock() - interval '20 minutes');
INSERT INTO ledger.legacy_writes (mapping_id, user_id, operation, kind, session_role, acting_role, deltas, at)
	SELECT 1, :alice, 'UPDATE', kind, 'somebody', 'somebody', '{}', ledger.clock() - ago
	FROM (VALUES ('bypass', '45 minutes'::interval), ('bypass', '15 minutes'), ('outside', '35 minutes'), ('double_write', '12 minutes'), ('outside', '-1 hour')) AS w (kind, ago);
UPDATE ledger.reconciliation_runs SET finished_at = ledger.clock() - interval '25 hours';
INSERT INTO ledger.reconciliation_runs (scope, tolerance, status, started_at, finished_at, snapshot, last_transaction_id, requested_by)
	SELECT scope, 0, status, ledger.clock(), ledger.clock() - interval '1 hour', pg_current_snapshot(), 0, 'a test'
	FROM (VALUES ('full', 'failed'), ('sample', 'finished')) AS r (scope, status);
UPDATE ledger.worker_heartbeat SET last_seen = ledger.clock() - interval '3 minutes';
SELECT alert, firing, CASE WHEN alert !~ 'Worker|Overdue|Open$' THEN round(value::numeric, 3) END AS value, round(extract(epoch FROM ledger.clock() - since) / 60) AS minutes FROM ledger.alerts;
-- over, there is no since
SELECT beat();
UPDATE ledger.reconciliation_runs SET finished_at = ledger.clock() - interval '1 hour';
UPDATE ledger.discrepancy_rows SET first_seen = ledger.clock() WHERE status = 'open';
SELECT alert, firing, since FROM ledger.alerts WHERE alert IN ('LedgerWorkerDown', 'LedgerReconciliationOverdue', 'LedgerDiscrepancyOpen');
-- detached, nobody needs a worker or a run
UPDATE ledger.worker_heartbeat SET last_seen = ledger.clock() - interval '3 minutes';
UPDATE ledger.reconciliation_runs SET finished_at = ledger.clock() - interval '25 hours';
UPDATE ledger.legacy_mappings SET detached_at = now();
SELECT alert, firing FROM ledger.alerts WHERE alert IN ('LedgerWorkerDown', 'LedgerReconciliationOverdue');
ROLLBACK;

-- triggers that do not fire
ALTER TABLE public.balances DISABLE TRIGGER ledger_capture;
ALTER TABLE ledger.journal DISABLE TRIGGER guard;
ALTER EVENT TRIGGER ledger_drop_guard DISABLE;
SELECT * FROM firing;
SELECT labels, value FROM ledger.metrics() WHERE metric = 'ledger_guards_disarmed' ORDER BY 1;
SELECT count(*) FROM ledger.rearm();
SELECT * FROM firing;

-- a run of a rehearsal's future says nothing of what is now
SELECT ledger.set_test_clock('1 minute', 'a test'), beat();
SELECT value BETWEEN 0 AND 600 AS value FROM ledger.alerts WHERE alert = 'LedgerReconciliationOverdue';
SELECT ledger.set_test_clock('-1 day', 'a test'), beat();
SELECT is_firing('LedgerReconciliationOverdue');
SELECT labels, value FROM ledger.metrics() WHERE metric = 'ledger_reconciliation_age_seconds' ORDER BY 1;

-- who may look
CREATE ROLE alerts_watcher;
GRANT pg_monitor TO alerts_watcher;
SET ROLE alerts_watcher;
SELECT count(*) FROM ledger.alerts;
RESET ROLE;

-- in a parallel query
CREATE TABLE many AS SELECT n FROM generate_series(1, 1000) n;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT count(*) FROM many WHERE NOT ledger.is_copy();
SELECT (SELECT count(*) FROM many) AS n, firing FROM ledger.alerts WHERE alert = 'LedgerCopy';
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;

\set ECHO none
\c contrib_regression
SET client_min_messages = warning;
DROP DATABASE :database;
DROP ROLE alerts_watcher;
