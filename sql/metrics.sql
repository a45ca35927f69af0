--
-- metrics() and prometheus(): zeros from the start, what raises the counters,
-- and what does not. test/t/050_prometheus.pl has a worker and Prometheus.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database ledger_metrics
\set shadow :srcdir '/test/lib/shadow.sql'
\i :shadow
CREATE VIEW m AS SELECT * FROM ledger.metrics();
-- of both columns, without their mapping
CREATE VIEW counted AS
	SELECT labels ->> 'account_type' AS account_type, sum(value) FILTER (WHERE metric = 'ledger_shadow_discrepancy_count') AS count,
		sum(value) FILTER (WHERE metric = 'ledger_discrepancies_open') AS open,
		sum(value) FILTER (WHERE metric = 'ledger_discrepancy_amount_open') AS amount
	FROM m WHERE metric IN ('ledger_shadow_discrepancy_count', 'ledger_discrepancies_open', 'ledger_discrepancy_amount_open')
	GROUP BY 1 ORDER BY 1;
CREATE FUNCTION drift(who uuid, by numeric) RETURNS void LANGUAGE sql
AS 'UPDATE public.balances SET buying_power = buying_power + by WHERE user_id = who';
\set ECHO all
SET client_min_messages = error;

-- zeros from the start, before anything is attached
SELECT metric, labels, value FROM m WHERE metric LIKE '%discrepanc%' ORDER BY 1, 2::text;
SELECT metric, type, count(*), sum(value) FROM m WHERE metric LIKE 'ledger_operation%' OR metric LIKE '%\_ms\_%' OR metric LIKE 'ledger_read%\_seconds\_%'
	GROUP BY 1, 2 ORDER BY 1;

SELECT metric, labels, value FROM m WHERE metric ~ '_(mode|active)$' ORDER BY 1, 2;

-- each family is there once, with one type and one help, its samples together
WITH lines AS (SELECT * FROM string_to_table(ledger.prometheus(), E'\n') WITH ORDINALITY AS l (line, n)),
	families AS (SELECT split_part(line, ' ', 3) AS family FROM lines WHERE line LIKE '# TYPE %')
SELECT count(*) = count(DISTINCT family) AS once,
	count(*) = (SELECT count(*) FROM lines WHERE line LIKE '# HELP %') AS helped FROM families;
-- nothing but comments and samples
SELECT line FROM string_to_table(ledger.prometheus(), E'\n') AS line
	WHERE line !~ '^# (HELP|TYPE) [a-z_]+ .' AND line <> ''
		AND line !~ '^[a-z_]+(\{[a-z_]+="([^"\\]|\\.)*"(,[a-z_]+="([^"\\]|\\.)*")*\})? ([0-9.e+-]+|\+Inf|NaN)$';
-- buckets are cumulative, and end with all
SELECT metric, labels, bounds[1:3], bounds[cardinality(bounds)] AS last, cardinality(bounds) = cardinality(counts) AS same
	FROM ledger.metrics_histograms() WHERE metric NOT LIKE 'ledger_operation%' OR labels ->> 'operation' = 'post';
SELECT h.metric FROM ledger.metrics_histograms() h, generate_subscripts(h.bounds, 1) i WHERE h.bounds[i] <= h.bounds[i - 1] OR h.counts[i] < h.counts[i - 1];

-- attached: each column, and the whole row
SELECT count(*) FROM ledger.attach_legacy('public.balances') WHERE NOT passed;
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SELECT labels, value FROM m WHERE metric = 'ledger_shadow_discrepancy_count' ORDER BY 1;
SELECT labels ->> 'source' AS source, value FROM m WHERE metric = 'ledger_balance_source_active' ORDER BY 1;

-- a discrepancy opens; being met again does not count, another difference does
SELECT ledger.credit_user_usdc(:alice, 1, 'opens') > 0 AS opened, ledger.credit_user_usdc(:bob, 1, 'opens') > 0 AS opened;
SELECT drift(:alice, 5);
CALL ledger.run_reconciliation();
SELECT * FROM counted;
CALL ledger.run_reconciliation();
CALL ledger.run_reconciliation();
SELECT * FROM counted;
SELECT drift(:alice, 2);
CALL ledger.run_reconciliation();
SELECT * FROM counted;
-- both sides move, and the difference stays
SELECT ledger.move_funds_to_fiat_exposure(:alice, 1, 'both') > 0 AS moved;
CALL ledger.run_reconciliation();
SELECT * FROM counted;
-- resolved: not open any more, and the counter stays; it opens anew
SELECT count(*) FROM ledger.repair(:alice, dry_run => false, reason => 'a test');
SELECT * FROM counted;
BEGIN;
SELECT ledger.undo_repair(max(id), 'as it was') > 0 AS undone FROM ledger.repair_log;
SELECT * FROM counted;
ROLLBACK;
SELECT drift(:alice, -3), drift(:bob, 4);
CALL ledger.run_reconciliation();
SELECT * FROM counted;
SELECT value BETWEEN 0 AND 60 FROM m WHERE metric = 'ledger_discrepancy_oldest_open_seconds' AND labels ->> 'account_type' = 'fiat_exposure';
SELECT ledger.set_test_clock('2 hours', 'a test');
SELECT value BETWEEN 7200 AND 7260 FROM m WHERE metric = 'ledger_discrepancy_oldest_open_seconds' AND labels ->> 'account_type' = 'fiat_exposure';
SELECT labels ->> 'scope' AS scope, value BETWEEN 7200 AND 7260 AS age, value FROM m WHERE metric = 'ledger_reconciliation_age_seconds' AND labels ->> 'scope' = 'incremental'
	UNION ALL SELECT labels ->> 'scope', value BETWEEN 7200 AND 7260, NULL FROM m WHERE metric = 'ledger_reconciliation_age_seconds' AND labels ->> 'scope' = 'full';
SELECT labels, value FROM m WHERE metric = 'ledger_reconciliation_discrepancies' ORDER BY 1;
SELECT ledger.set_test_clock(NULL, 'a test');

-- the worker may delete discrepancies: the counter does not fall
BEGIN;
SET LOCAL session_replication_role = replica;
ALTER TABLE ledger.discrepancy_rows DISABLE TRIGGER guard;
DELETE FROM ledger.discrepancy_rows;
SELECT * FROM counted;
ROLLBACK;
-- what is rolled back was not there
BEGIN;
SELECT drift(:carol, 1);
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source) VALUES (1, :carol, 'buying_power', 'mismatch', 'run');
SELECT sum(count) FROM counted;
ROLLBACK;
SELECT sum(count) FROM counted;

-- one column of a customer's is the same money under whatever cause: the newest row counts that has amounts
CREATE VIEW open AS SELECT metric, sum(value) FROM m WHERE metric IN ('ledger_discrepancies_open', 'ledger_discrepancy_amount_open') GROUP BY 1 ORDER BY 1;
BEGIN;
UPDATE ledger.discrepancy_rows SET status = 'resolved', resolved_at = now(), first_seen = now() - interval '3 hours' WHERE status = 'open';
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value, first_seen, last_seen)
	SELECT 1, u, 'buying_power', cause, 'run', ledger_value, legacy_value, now() - ago, now() - ago
	FROM (VALUES (:carol::uuid, 'not_captured', 1, 3, '2 hours'::interval), (:carol, 'mismatch', 1, 4.5, '1 hour'), (:carol, 'refused_write', NULL, NULL, '1 minute'),
		(:alice, 'refused_write', NULL, NULL, '1 minute'), (NULL, 'refused_write', NULL, NULL, '1 minute')) AS d (u, cause, ledger_value, legacy_value, ago);
SELECT * FROM open;
-- it says what is known of the cause
SELECT right(user_id::text, 1) AS who, cause, ledger_value, legacy_value FROM ledger.open_discrepancies() ORDER BY 1, 2;
SELECT substring(observed FROM '^\d+ open') FROM ledger.readiness() WHERE gate = 'no_discrepancy';
SELECT max(value) BETWEEN 7200 AND 7260 AS oldest FROM m WHERE metric = 'ledger_discrepancy_oldest_open_seconds';
ROLLBACK;

-- what changes nothing is no discrepancy: a refused write, one past the capture that agrees
BEGIN;
SELECT sum(count) AS before FROM ledger.discrepancy_changes \gset
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value)
	VALUES (1, gen_random_uuid(), 'buying_power', 'refused_write', 'capture', NULL, NULL), (1, gen_random_uuid(), 'buying_power', 'not_captured', 'run', 5, 5),
		(1, gen_random_uuid(), 'buying_power', 'not_captured', 'run', 5, 6), (1, gen_random_uuid(), 'buying_power', 'missing_legacy', 'run', 0, NULL);
SELECT sum(count) - :before AS counted FROM ledger.discrepancy_changes;
-- nor does one that comes to agree, or is resolved
UPDATE ledger.discrepancy_rows SET legacy_value = 5 WHERE cause = 'not_captured' AND legacy_value = 6;
UPDATE ledger.discrepancy_rows SET legacy_value = 7, status = 'resolved', resolved_at = now() WHERE cause = 'missing_legacy' AND status = 'open';
SELECT sum(count) - :before AS counted FROM ledger.discrepancy_changes;
ROLLBACK;

-- reads that strict mode refuses, and no others
SELECT ledger.stat_reset();
UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = :bob;
SELECT strict_mode FROM ledger.configure(strict_mode => true);
SELECT public.raises(format('SELECT ledger.get_balance(%L)', :bob)) LIKE 'LG003%' AS refused;
SELECT strict_mode FROM ledger.configure(strict_mode => false);
SELECT count(ledger.get_balance(:bob));
SELECT value FROM m WHERE metric = 'ledger_reads_refused_total';
UPDATE public.balances SET buying_power = buying_power - 1 WHERE user_id = :bob;
SELECT value FROM m WHERE metric = 'ledger_outside_writes_hour';

-- writes of others are counted, in the replica role as bypasses; the mirror's are not
SELECT ledger.stat_reset();
UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = :carol;
UPDATE public.balances SET buying_power = buying_power - 1 WHERE user_id = :carol;
SET session_replication_role = replica;
UPDATE public.balances SET buying_power = buying_power WHERE user_id = :carol;
UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = :carol;
UPDATE public.balances SET buying_power = buying_power - 1 WHERE user_id = :carol;
RESET session_replication_role;
SELECT ledger.credit_user_usdc(:carol, 1, 'x') > 0 AS posted;
SELECT metric, value FROM m WHERE metric IN ('ledger_outside_writes_total', 'ledger_bypasses_total', 'ledger_mirror_writes_total') ORDER BY 1, labels DESC;

-- refusals by rule are no failures: half of these are LG001
SELECT ledger.stat_reset();
SELECT public.raises(format('SELECT ledger.debit_user_usdc(%L, 1000000, %L)', :alice, 'too much')) LIKE 'LG001%' AS refused,
	ledger.credit_user_usdc(:alice, 1, 'x') > 0 AS posted FROM generate_series(1, 10) n;
CREATE VIEW rate AS SELECT value FROM m WHERE metric = 'ledger_write_success_rate';
SELECT * FROM rate;
SELECT labels, value FROM m WHERE metric IN ('ledger_operations_total', 'ledger_operation_errors_total') AND value > 0 ORDER BY 1;
-- a failure is; since the reset, which was within the 5 minutes
SELECT public.raises(format('SELECT ledger.debit_user_usdc(%L, 1, NULL)', :alice)) LIKE '22004%' AS failed FROM generate_series(1, 5);
SELECT * FROM rate;
-- whatever was stored since
INSERT INTO ledger.write_samples (at, reset_at, attempts, failures) SELECT ledger.clock(), reset_at, 24, 4 FROM ledger.stat_shadow;
SELECT * FROM rate;
DELETE FROM ledger.write_samples;
-- later it is of 5 minutes: since the newest sample that is as old, of this reset
SELECT ledger.set_test_clock('10 minutes', 'a test');
INSERT INTO ledger.write_samples (at, reset_at, attempts, failures)
	SELECT ledger.clock() - a.age, reset_at, a.attempts, a.failures FROM ledger.stat_shadow, (VALUES
		('7 minutes'::interval, 1, 0), ('301 seconds', 24, 4), ('240 seconds', 0, 0)) AS a (age, attempts, failures);
INSERT INTO ledger.write_samples (at, reset_at, attempts, failures) VALUES (ledger.clock() - interval '300.5 seconds', '2020-01-01', 0, 0);
SELECT * FROM rate;
-- without one, since the oldest
DELETE FROM ledger.write_samples WHERE attempts IN (1, 24);
UPDATE ledger.write_samples SET attempts = 21, failures = 3 WHERE reset_at > '2020-01-01';
SELECT * FROM rate;
-- without any, since the reset
DELETE FROM ledger.write_samples;
SELECT * FROM rate;
-- without writes 1
SELECT ledger.stat_reset();
SELECT * FROM rate;
SELECT ledger.set_test_clock(NULL, 'a test');

-- the worker stores how they stand, and deletes what is older than ten minutes or of a time to come
INSERT INTO ledger.write_samples (at, reset_at, attempts, failures)
	SELECT ledger.clock() + a, '2020-01-01', 7, 0 FROM unnest('{-11 minutes,-9 minutes,1 minute}'::interval[]) a;
SELECT ledger.samples_store();
SELECT attempts, count(*), min(at) < ledger.clock() - interval '8 minutes' AS old FROM ledger.write_samples GROUP BY 1 ORDER BY 1;
-- it adds up what changed more than an hour ago, if that is much
BEGIN;
ALTER TABLE ledger.discrepancy_changes DISABLE TRIGGER guard;
SELECT sum(count) FROM ledger.discrepancy_changes;
INSERT INTO ledger.discrepancy_changes (mapping_id, legacy_column, at, count)
	SELECT 1, 'buying_power', ledger.clock() - interval '1 hour 1 minute' - n * interval '1 second', 3 FROM generate_series(1, 100) n;
SELECT ledger.samples_store();
SELECT count(*) >= 100 AS as_they_are FROM ledger.discrepancy_changes;
INSERT INTO ledger.discrepancy_changes (mapping_id, legacy_column, at, count) VALUES (1, 'buying_power', ledger.clock() - interval '1 hour 1 second', 1);
SELECT ledger.samples_store();
SELECT count, ledger.clock() - at BETWEEN interval '1 hour 1 second' AND interval '1 hour 50 seconds' AS newest FROM ledger.discrepancy_changes WHERE count >= 300;
SELECT sum(count) FROM ledger.discrepancy_changes;
ROLLBACK;

-- reservations whose time is over, not those that have time left or none, or are released
SELECT ledger.credit_user_usdc(:alice, 5, 'x') > 0 AS posted;
SELECT ledger.reserve_for_investment(:alice, 1, :carol, clock_timestamp() + interval '1 second') > 0 AS reserved, ledger.release_reservation(:alice, NULL, :carol) > 0 AS released;
SELECT ledger.reserve_for_investment(:alice, 1, NULL, e) > 0 AS reserved FROM unnest(ARRAY[clock_timestamp() + interval '1 second', '2100-01-01', NULL]) e;
DO $$ BEGIN PERFORM pg_sleep(1); END $$;
SELECT value FROM m WHERE metric = 'ledger_reservations_due';

-- lost evidence: how much, and of a crash that there was one
BEGIN;
INSERT INTO ledger.evidence_losses (kind, count, at, last_at) VALUES ('overflow', 7, now(), now()), ('crash', NULL, now(), now()), ('crash', NULL, now(), now());
SELECT labels ->> 'kind' AS kind, value FROM m WHERE metric = 'ledger_evidence_lost_total' ORDER BY 1;
ROLLBACK;

-- guards that do not fire
SELECT labels, value FROM m WHERE metric = 'ledger_guards_disarmed' ORDER BY 1;
BEGIN;
ALTER TABLE public.balances DISABLE TRIGGER ledger_capture;
SELECT labels, value FROM m WHERE metric = 'ledger_guards_disarmed' ORDER BY 1;
ROLLBACK;

-- gates: without a worker as they are now
SELECT labels ->> 'gate' AS gate, value = passed::int AS same FROM m JOIN ledger.readiness() r ON labels ->> 'gate' = r.gate
	WHERE metric = 'ledger_readiness_gate' AND value <> passed::int;
SELECT count(*) FROM m WHERE metric = 'ledger_readiness_gate';
-- with one as it saw them
INSERT INTO ledger.gate_states (gate, passed, at) SELECT gate, true, ledger.clock() - interval '1 minute' FROM ledger.readiness();
SELECT count(*), sum(value) FROM m WHERE metric = 'ledger_readiness_gate';
SELECT value BETWEEN 60 AND 90 AS a_minute FROM m WHERE metric = 'ledger_readiness_age_seconds';
-- each of them; nor one that a clock since set back has stored
UPDATE ledger.gate_states SET at = ledger.clock() - interval '6 minutes' WHERE gate = 'worker';
SELECT value < 30 AS now FROM m WHERE metric = 'ledger_readiness_age_seconds';
UPDATE ledger.gate_states SET at = ledger.clock() + interval '1 minute';
SELECT count(*) = sum(value) AS as_stored FROM m WHERE metric = 'ledger_readiness_gate';
-- the worker looks again
SELECT ledger.gates_store();
SELECT count(*) FILTER (WHERE s.passed <> r.passed) AS other, max(s.at) <= ledger.clock() AS now FROM ledger.gate_states s JOIN ledger.readiness() r USING (gate);
UPDATE ledger.gate_states SET at = ledger.clock() - interval '6 minutes';
SELECT value < 30 AS now FROM m WHERE metric = 'ledger_readiness_age_seconds';

-- what is over, undone, of another time or not finished does not count
BEGIN;
CREATE VIEW now AS SELECT metric, labels, value FROM m WHERE metric IN ('ledger_legacy_tables', 'ledger_database_copy', 'ledger_outside_writes_hour', 'ledger_suspense_balance',
		'ledger_backfill_findings_open', 'ledger_shadow_mode', 'ledger_strict_mode', 'ledger_phase_active', 'ledger_reconciliation_discrepancies', 'ledger_balance_source_active')
	ORDER BY metric COLLATE "C", labels;
SELECT * FROM now;
INSERT INTO ledger.reconciliation_runs (scope, tolerance, status, started_at, finished_at, snapshot, last_transaction_id, discrepancies, requested_by)
	SELECT 'full', 0, status, ledger.clock(), ledger.clock() + at, pg_current_snapshot(), 0, n, 'a test'
	FROM (VALUES ('finished', '-1 minute'::interval, 31), ('finished', '-1 second', 32), ('failed', '-1 second', 33), ('finished', '1 hour', 34)) AS r (status, at, n);
INSERT INTO ledger.backfill_findings (run_id, mapping_id, key, reason, detail, first_seen, last_seen, status, resolved_at)
	VALUES (1, 1, 'a', 'x', 'x', now(), now(), 'open', NULL), (1, 1, 'b', 'x', 'x', now(), now(), 'open', NULL), (1, 1, 'c', 'x', 'x', now(), now(), 'resolved', now());
CREATE OR REPLACE FUNCTION ledger.mode_since(mode text) RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT ledger.clock() - interval '1 day' WHERE mode = 'shadow' $$;
UPDATE ledger.legacy_writes SET at = at - interval '10 hours';
INSERT INTO ledger.legacy_writes (mapping_id, user_id, operation, kind, session_role, acting_role, deltas, at)
	SELECT 1, :alice, 'UPDATE', kind, 'somebody', 'somebody', '{}', ledger.clock() + at
	FROM (VALUES ('outside', '-59 minutes'::interval), ('double_write', '-59 minutes'), ('posted', '-59 minutes'), ('bypass', '-59 minutes'), ('outside', '-61 minutes'), ('outside', '1 minute'))
		AS w (kind, at);
SELECT ledger.post('x', ARRAY[(ledger.open_account('legacy_suspense', NULL, 'USDC'), ledger.open_account('system_buffer_usdc'), 3)::ledger.posting]) > 0 AS posted,
	ledger.post('x', ARRAY[(ledger.open_account('system_buffer_fiat'), ledger.open_account('legacy_suspense', NULL, 'USD'), 4)::ledger.posting]) > 0 AS posted;
SELECT * FROM now;
UPDATE ledger.legacy_mappings SET detached_at = now();
SELECT * FROM now WHERE metric = 'ledger_legacy_tables';
ROLLBACK;
-- without a value on one side the other is the difference
BEGIN;
UPDATE ledger.discrepancy_rows SET status = 'resolved', resolved_at = now() WHERE status = 'open';
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value)
	VALUES (1, :alice, 'buying_power', 'missing_legacy', 'run', 3, NULL), (1, :bob, 'buying_power', 'missing_ledger', 'run', NULL, 4);
SELECT * FROM open;
ROLLBACK;

-- names that need escaping
ALTER TABLE public.balances RENAME TO "ba""l\a
nces";
SELECT line FROM string_to_table(ledger.prometheus(), E'\n') AS line WHERE line LIKE 'ledger_discrepancies_open%*%';
ALTER TABLE public."ba""l\a
nces" RENAME TO balances;
-- whatever the session has set
CREATE TEMP TABLE lines AS SELECT line FROM string_to_table(ledger.prometheus(), E'\n') AS line;
SET escape_string_warning = off;
SET standard_conforming_strings = off;
SET quote_all_identifiers = on;
SELECT line FROM string_to_table(ledger.prometheus(), E'\n') AS line WHERE line !~ '_(age|open)_seconds'
EXCEPT SELECT line FROM lines;
SELECT alert FROM ledger.alerts WHERE alert LIKE '%Missing' AND firing;
RESET standard_conforming_strings;
RESET quote_all_identifiers;

-- a legacy column may hold what is no float8
BEGIN;
UPDATE ledger.discrepancy_rows SET status = 'resolved', resolved_at = now() WHERE status = 'open';
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value)
	VALUES (1, :alice, 'buying_power', 'mismatch', 'run', 0, '1e-400'), (1, :bob, 'buying_power', 'mismatch', 'run', 0, 3);
SELECT * FROM counted;
UPDATE ledger.discrepancy_rows SET legacy_value = '1e400' WHERE status = 'open' AND user_id = :alice;
SELECT * FROM counted;
SELECT line FROM string_to_table(ledger.prometheus(), E'\n') AS line WHERE line LIKE 'ledger_discrepancy_amount_open{%Inf';
-- what is not finite counts, without an amount
UPDATE ledger.discrepancy_rows SET legacy_value = 'NaN' WHERE status = 'open' AND user_id = :alice;
SELECT * FROM counted;
UPDATE ledger.discrepancy_rows SET legacy_value = '-Infinity' WHERE status = 'open' AND user_id = :alice;
SELECT * FROM counted;
ROLLBACK;

-- a session's reads: those that compare have two parts, and each 16th of them but the first is of the sample
\c :database
SET client_min_messages = error;
SELECT ledger.stat_reset();
SELECT count(ledger.get_user_balance(:carol)) FROM generate_series(1, 48);
SELECT what, count, total_ms > 0 AS timed FROM ledger.stat_get_times();
SELECT shadow_mode FROM ledger.configure(shadow_mode => false);
SELECT count(ledger.get_user_balance(:carol)) FROM generate_series(1, 5);
SELECT what, count, total_ms > 0 AS timed FROM ledger.stat_get_times();
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
-- times are what they are, in ms and in seconds
SELECT ledger.stat_reset();
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE UPDATE ON public.balances FOR EACH ROW EXECUTE FUNCTION slow();
SELECT clock_timestamp() AS began \gset
SELECT ledger.credit_user_usdc(:carol, 1, 'slow') > 0 AS posted;
SELECT extract(epoch FROM clock_timestamp() - :'began') * 1000 AS took_ms \gset
DROP TRIGGER slow ON public.balances;
SELECT calls, total_ms BETWEEN 19 AND :took_ms AS total, p50_ms BETWEEN 15 AND 1.25 * :took_ms AS p50 FROM ledger.stat_operations WHERE operation = 'credit_user_usdc';
SELECT lags, lag_total_ms BETWEEN 19 AND :took_ms AS total, lag_p50_ms BETWEEN 15 AND 1.25 * :took_ms AS p50 FROM ledger.stat_shadow;
SELECT metric, value * CASE WHEN metric ~ 'seconds' THEN 1000 ELSE 1 END BETWEEN 19 AND :took_ms AS as_long FROM m
	WHERE metric IN ('ledger_operation_duration_seconds_sum', 'shadow_mode_write_lag_ms_sum') AND COALESCE(labels ->> 'operation', 'credit_user_usdc') = 'credit_user_usdc' ORDER BY 1;

-- what came of each: posted once, and again; of a batch, and of what expires, as many as there are
SELECT ledger.stat_reset();
SELECT count(DISTINCT ledger.credit_user_usdc(:carol, 4, 'once', '00000000-0000-4000-a000-000000000001')) FROM generate_series(1, 3);
SELECT count(*) FROM ledger.post_batch(ARRAY(SELECT ROW('t', NULL, NULL, n % 3, 'k' || n / 5, :carol, 'system_buffer_usdc', 'usdc_balance', NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer
	FROM (VALUES (0), (1), (2), (4), (10), (10)) v (n)), 'continue');
SELECT ledger.reserve_for_investment(:carol, 3, expires_at => clock_timestamp()) > 0 AS reserved;
SELECT ledger.expire_reservations();
SELECT operation, calls, posted, replayed, refused, failed FROM ledger.stat_operations WHERE calls > 0 ORDER BY operation COLLATE "C";

-- each number under its own name, in its own unit: all are different
BEGIN;
CREATE FUNCTION public.latency(VARIADIC places int[]) RETURNS bigint[] LANGUAGE sql AS
$$ SELECT array_agg((SELECT count(*) FROM unnest(places) p WHERE p = b) ORDER BY b) FROM generate_series(0, 109) b $$;
CREATE OR REPLACE FUNCTION ledger.stat_get_shadow()
	RETURNS TABLE (matches bigint, mismatches bigint, pending bigint, mirror_ok bigint, mirror_failed bigint, bypasses bigint,
		proofs bigint, proofs_failed bigint, outside_writes bigint, reads_refused bigint, reset_at timestamptz)
	LANGUAGE sql AS 'SELECT 101, 102, 103, 104, 105, 106, 20, 6, 109, 110, now()';
CREATE OR REPLACE FUNCTION ledger.stat_get_operations()
	RETURNS TABLE (operation text, calls bigint, posted bigint, replayed bigint, refused bigint, failed bigint, total_ms float8, latency bigint[])
	LANGUAGE sql AS $$ SELECT 'post', 1, 2, 3, 4, 5, 6000, public.latency(VARIADIC ARRAY(SELECT generate_series(0, 99))) $$;
CREATE OR REPLACE FUNCTION ledger.stat_get_errors() RETURNS TABLE (operation text, sqlstate text, refused boolean, count bigint)
	LANGUAGE sql AS $$ VALUES ('post', 'LG011', true, 6), ('post', NULL, false, 7) $$;
CREATE OR REPLACE FUNCTION ledger.stat_get_times() RETURNS TABLE (what text, count bigint, total_ms float8, latency bigint[])
	LANGUAGE sql AS $$
	VALUES ('read_alone', 1, 1000, public.latency(0)), ('read_ledger', 2, 2000, public.latency(41, 41)), ('read_legacy', 3, 4000, public.latency(42, 42, 42)),
		('sample_ledger', 4, 8000, public.latency(43, 43, 43, 43)), ('sample_legacy', 1, 16000, public.latency(109)),
		('write_lag', 100, 32000, public.latency(VARIADIC ARRAY(SELECT generate_series(0, 99))))
$$;
CREATE OR REPLACE FUNCTION ledger.stat_get_tasks() RETURNS TABLE (task text, runs bigint, failures bigint, total_ms float8)
	LANGUAGE sql AS $$ SELECT 'trim', 7, 2, 3500 $$;
CREATE OR REPLACE FUNCTION ledger.evidence_status()
	RETURNS TABLE (active boolean, size int, used int, recorded bigint, stored bigint, dropped bigint, worker_pid int)
	LANGUAGE sql AS 'SELECT true, 64, 3, 8, 9, 10, 11';
INSERT INTO ledger.worker_heartbeat (incarnation, pid, started_at, last_seen, starts, errors) VALUES (1, 1, now(), now(), 5, 4);
SELECT metric, labels, value FROM m
	WHERE type <> 'histogram' AND metric ~ '_(shadow_compares|shadow_mismatches|mirror|proofs|refused|writes_total|bypasses|operations?|worker|ring)_' AND metric !~ 'age' AND value <> 0
	ORDER BY metric COLLATE "C", labels;
SELECT metric, labels, value FROM m WHERE metric ~ '^[a-z_]+_(ms|seconds)_(sum|count)$' AND value <> 0 ORDER BY metric COLLATE "C", labels;
-- the least bound that holds any, and all that is within the last
SELECT h.metric, h.labels, min(b.bound) FILTER (WHERE b.count > 0) AS first, max(b.count) AS within FROM ledger.metrics_histograms() h, unnest(h.bounds, h.counts) AS b (bound, count)
	GROUP BY 1, 2 ORDER BY metric COLLATE "C", labels;
SELECT operation, calls, posted, replayed, refused, failed, total_ms, p50_ms = ledger.latency_bound(49) AS p50, p95_ms = ledger.latency_bound(94) AS p95, p99_ms = ledger.latency_bound(98) AS p99
	FROM ledger.stat_operations;
SELECT * FROM ledger.stat_errors ORDER BY count;
SELECT source, reads, total_ms, round(p50_ms::numeric, 6) AS p50, round(p95_ms::numeric, 6) AS p95, round(p99_ms::numeric, 6) AS p99 FROM ledger.stat_reads;
SELECT compares, matches, mismatches, pending, mirror_ok, mirror_failed, outside_writes, bypasses, proofs, proofs_failed, reads_refused FROM ledger.stat_shadow;
SELECT lags, lag_total_ms, lag_p50_ms = ledger.latency_bound(49) AS p50, lag_p95_ms = ledger.latency_bound(94) AS p95, lag_p99_ms = ledger.latency_bound(98) AS p99
	FROM ledger.stat_shadow;
SELECT * FROM ledger.stat_worker;
SELECT attempts, failures FROM ledger.write_counts();
SELECT ledger.samples_store();
SELECT attempts, failures FROM ledger.write_samples WHERE reset_at = now();
CREATE OR REPLACE FUNCTION ledger.stat_get_shadow()
	RETURNS TABLE (matches bigint, mismatches bigint, pending bigint, mirror_ok bigint, mirror_failed bigint, bypasses bigint,
		proofs bigint, proofs_failed bigint, outside_writes bigint, reads_refused bigint, reset_at timestamptz)
	LANGUAGE sql AS 'SELECT 0, 0, 0, 0, 0, 0, 20, 15, 0, 0, now()';
SELECT attempts, failures FROM ledger.write_counts();
ROLLBACK;

-- who may look
CREATE ROLE metrics_watcher;
GRANT pg_monitor TO metrics_watcher;
CREATE ROLE metrics_stranger;
SET ROLE metrics_watcher;
SELECT count(*) > 1000 AS rows, (SELECT length(ledger.prometheus()) > 1000) AS text FROM ledger.metrics();
SELECT * FROM ledger.discrepancy_changes;
SET ROLE metrics_stranger;
SELECT ledger.prometheus();
SELECT * FROM ledger.metrics_extension();
RESET ROLE;
-- in a transaction that may not write
BEGIN READ ONLY;
SELECT count(*) > 1000 AS rows FROM ledger.metrics();
COMMIT;

\set ECHO none
\c contrib_regression
SET client_min_messages = warning;
DROP DATABASE :database;
DROP ROLE metrics_watcher, metrics_stranger;
