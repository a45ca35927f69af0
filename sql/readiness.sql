--
-- The gates of the cut-over, each closed and opened by itself, with the test
-- clock for what takes days.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_readiness
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
CREATE FUNCTION public.timeless(t text) RETURNS text LANGUAGE sql AS
	$$SELECT regexp_replace(regexp_replace(t, '\d{4}-\d\d-\d\d [0-9:+]+', 'then', 'g'), '\d\d:\d\d:\d\d', 'so long', 'g')$$;
-- the closed gates, without what is another time each time
CREATE VIEW public.closed AS
	SELECT gate, public.timeless(observed) AS observed, public.timeless(hint) AS hint FROM ledger.readiness() WHERE NOT passed;
\set ECHO all

-- Only a superuser may set the clock, and says why; it is logged and shown.
SET ROLE pg_monitor;
SELECT ledger.set_test_clock('8 days', 'hurry');
RESET ROLE;
SELECT raises($$SELECT ledger.set_test_clock('8 days', NULL)$$);
SELECT raises($$SELECT ledger.set_test_clock('200 years', 'far')$$);
SELECT raises($$SELECT ledger.set_test_clock('60000000 months -1860000000 days', 'far, and back')$$);
SELECT ledger.set_test_clock('8 days', 'a test of the clock');
SELECT abs(extract(epoch FROM ledger.clock() - clock_timestamp() - interval '8 days')) < 60 AS shifted;
SELECT observed, passed, hint FROM ledger.readiness() WHERE gate = 'test_clock';
SELECT ledger.set_test_clock(NULL, 'over');
SELECT id, shift, reason FROM ledger.test_clock_log ORDER BY id;
SELECT observed, hint FROM ledger.readiness() WHERE gate = 'test_clock';

-- Nothing is ready in the beginning.
SELECT * FROM closed;

-- Weeks 1 to 3 in no time.
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT shadow_mode FROM ledger.configure(shadow_mode => true, balance_source => 'legacy', reason => 'week 1');
SELECT count(ledger.credit_user_usdc(u, 10, 'opens')) FROM unnest(ARRAY[:alice, :bob, :carol]::uuid[]) u;
SELECT gate, observed FROM closed;
SET client_min_messages = error;
SELECT ledger.set_test_clock('6 days 10 minutes', 'week 2');
SELECT balance_source FROM ledger.configure(balance_source => 'ledger', reason => 'week 2');
SELECT strict_mode FROM ledger.configure(strict_mode => true, reason => 'week 3');
SELECT gate, observed FROM closed WHERE gate LIKE '%_mode';
SELECT ledger.set_test_clock('7 days 1 hour', 'week 3');
SELECT gate, observed FROM closed WHERE gate LIKE '%_mode';
SELECT ledger.set_test_clock('9 days', 'week 4');
SELECT gate, observed FROM closed WHERE gate LIKE '%_mode';
CALL ledger.run_reconciliation();
CREATE FUNCTION public.seen_by_the_worker() RETURNS void LANGUAGE sql AS $$
	INSERT INTO ledger.worker_heartbeat (incarnation, pid, started_at, last_seen) VALUES (1, 1, ledger.clock(), ledger.clock())
		ON CONFLICT ("only") DO UPDATE SET last_seen = ledger.clock()
$$;
SELECT seen_by_the_worker();
CREATE FUNCTION public.reads(ledger_bucket int, legacy_bucket int, n int) RETURNS void LANGUAGE sql AS $$
	INSERT INTO ledger.read_timings (slot, source, bucket, count)
		SELECT date_trunc('hour', ledger.clock(), 'UTC'), s, b, n
		FROM (VALUES ('ledger', ledger_bucket), ('legacy', legacy_bucket)) v (s, b)
$$;
SELECT reads(40, 40, 99);
SELECT * FROM closed;
SELECT reads(41, 41, 1);
SELECT * FROM closed;

-- hazard 29: 72 hours clean with nobody looking. The worker is dead.
SELECT ledger.set_test_clock('9 days 2 minutes', 'nobody has seen the worker');
SELECT gate, hint FROM closed;
SELECT seen_by_the_worker();
SELECT * FROM closed;

-- hazard 29: evidence was dropped.
BEGIN;
INSERT INTO ledger.evidence_losses (kind, count, at, last_at) VALUES ('overflow', 7, ledger.clock(), ledger.clock());
SELECT * FROM closed;
ROLLBACK;

-- hazard 29: a tolerance makes a run look clean: it does not count, nor does a run of some users alone.
BEGIN;
UPDATE public.balances SET buying_power = 5 WHERE user_id = :bob;
CALL ledger.run_reconciliation(tolerance => 1000);
CALL ledger.run_reconciliation(tolerances => '{"USD": 1000}');
CALL ledger.run_reconciliation(fraction => 0.000001);
SELECT * FROM closed;
ROLLBACK;

-- hazard 29: whom the backfill could not open; a backfill that is not finished.
BEGIN;
INSERT INTO ledger.backfill_findings (run_id, mapping_id, key, reason, detail, first_seen, last_seen)
	VALUES (1, 1, 'somebody', 'negative', 'below zero', ledger.clock(), ledger.clock());
SELECT * FROM closed;
ROLLBACK;
BEGIN;
INSERT INTO ledger.backfill_runs (total, started_at, updated_at, requested_by) VALUES (3, ledger.clock(), ledger.clock(), 'a test');
SELECT gate, hint FROM closed;
ROLLBACK;

-- hazard 29: a difference that a rule ignores.
SELECT ledger.ignore_discrepancy(:carol, NULL, 'nobody cares', ledger.clock() + interval '1 hour') > 0 AS ruled;
BEGIN;
UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = :carol;
CALL ledger.run_reconciliation();
SELECT gate, hint FROM closed;
ROLLBACK;

-- hazard 29: nobody reads, so that nothing is compared on reads.
BEGIN;
SELECT ledger.set_test_clock('10 days 2 hours', 'no reads for a day');
SELECT gate, observed, hint FROM closed WHERE gate = 'read_latency';
ROLLBACK;

-- Reads are slower than the fetch of the legacy row.
BEGIN;
SELECT reads(60, 50, 100000);
SELECT gate, hint FROM closed;
ROLLBACK;

-- The last full reconciliation is a day old.
BEGIN;
SELECT ledger.set_test_clock('10 days 1 minute', 'a day later');
SELECT seen_by_the_worker();
SELECT gate, observed, hint FROM closed WHERE gate <> 'read_latency';
CALL ledger.run_reconciliation();
SELECT gate, observed, hint FROM closed WHERE gate <> 'read_latency';
ROLLBACK;

-- A write past the ledger: outside, not covered by a run, and found to differ by the next.
BEGIN;
UPDATE public.balances SET buying_power = buying_power + 5 WHERE user_id = :bob;
SELECT * FROM closed;
CALL ledger.run_reconciliation();
SELECT * FROM closed;
ROLLBACK;

-- Half of a dual write is one too.
BEGIN;
SELECT ledger.credit_user_usdc(:bob, 1, 'one half') > 0 AS posted;
UPDATE public.balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :bob;
SELECT gate, observed FROM closed WHERE gate = 'no_outside_write';
ROLLBACK;

-- hazard 13: a write in the replica role.
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE public.balances SET updated_at = now() WHERE user_id = :bob;
DELETE FROM public.balances WHERE user_id = :bob;
SET LOCAL session_replication_role = origin;
SELECT * FROM closed;
ROLLBACK;

-- A discrepancy that nobody committed counts as well.
BEGIN;
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source, count, aborted_count, status, resolved_at)
	VALUES (1, :bob, 'buying_power', 'mismatch', 'read', 1, 1, 'resolved', ledger.clock());
SELECT * FROM closed;
ROLLBACK;

-- What is in suspense.
BEGIN;
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source, status, resolved_at, first_seen, last_seen)
	VALUES (1, :bob, 'buying_power', 'mismatch', 'read', 'resolved', ledger.clock(), ledger.clock() - interval '4 days', ledger.clock() - interval '4 days');
SELECT * FROM closed;
SELECT ledger.post('suspense', ARRAY[(ledger.open_account('legacy_suspense', NULL, 'USDC'), ledger.open_account('usdc_balance', :bob), 3)::ledger.posting]) > 0 AS posted;
SELECT gate, hint FROM closed;
ROLLBACK;

-- hazard 14: somebody disables or drops the trigger.
BEGIN;
ALTER TABLE public.balances DISABLE TRIGGER ledger_capture;
SELECT * FROM closed;
ROLLBACK;
BEGIN;
ALTER TABLE public.balances ENABLE TRIGGER ledger_capture;
SELECT gate, observed FROM closed;
ROLLBACK;
BEGIN;
DROP TRIGGER ledger_capture ON public.balances;
SELECT gate, observed FROM closed;
SELECT what FROM ledger.rearm() WHERE table_name = 'balances';
SELECT gate, observed FROM closed;
ROLLBACK;
-- hazard 14: or attaches a child, renames a column, changes its type, drops the table.
BEGIN;
CREATE TABLE public.old_balances () INHERITS (public.balances);
SELECT gate, observed FROM closed;
ROLLBACK;
BEGIN;
DROP VIEW public.legacy;
ALTER TABLE public.balances RENAME buying_power TO power;
SELECT gate, observed FROM closed;
ROLLBACK;
BEGIN;
DROP VIEW public.legacy;
ALTER TABLE public.balances ALTER buying_power TYPE text;
SELECT gate FROM closed;
ROLLBACK;
BEGIN;
ALTER TABLE ledger.journal DISABLE TRIGGER guard;
SELECT gate, observed, hint FROM closed;
ROLLBACK;

-- hazard 21: a prepared transaction that has posted is named.
BEGIN;
SELECT ledger.credit_user_usdc(:bob, 1, 'in two phases') > 0 AS posted;
PREPARE TRANSACTION 'readiness of bob''s';
SELECT * FROM closed;
CALL ledger.cut_over();
CALL ledger.cut_over(force => true, reason => 'it cannot be');
ROLLBACK PREPARED 'readiness of bob''s';
BEGIN;
CREATE TABLE public.harmless ();
PREPARE TRANSACTION 'harmless';
SELECT * FROM closed;
BEGIN;
UPDATE public.balances SET updated_at = updated_at WHERE user_id = :bob;
PREPARE TRANSACTION 'an old writer';
BEGIN;
SELECT ledger.fund_broker(1) > 0 AS posted;
PREPARE TRANSACTION 'between house accounts';
SELECT gate, observed FROM closed;
ROLLBACK PREPARED 'harmless';
ROLLBACK PREPARED 'an old writer';
ROLLBACK PREPARED 'between house accounts';

-- Another table is attached: its time begins now, and no run has looked at it.
BEGIN;
CREATE TABLE public.more (user_id uuid PRIMARY KEY, amount numeric NOT NULL DEFAULT 0);
SELECT passed FROM ledger.attach_legacy('public.more', '{"columns": [{"column": "amount", "accounts": ["usdc_balance"]}]}') WHERE check_name = 'attached';
SELECT gate, observed FROM closed WHERE gate IN ('shadow_mode', 'strict_mode', 'full_reconciliation');
ROLLBACK;

-- A break of the modes starts their time anew.
BEGIN;
SELECT balance_source FROM ledger.configure(balance_source => 'legacy', strict_mode => false, reason => 'a doubt');
SELECT gate, hint FROM closed;
SELECT balance_source FROM ledger.configure(balance_source => 'ledger', strict_mode => true, reason => 'none');
SELECT gate, observed FROM closed;
ROLLBACK;

-- A copy in another cluster, as pg_upgrade leaves it, with the same OID: who is in it has connected to it.
ALTER TABLE ledger.identity DISABLE TRIGGER guard;
UPDATE ledger.identity SET system_identifier = system_identifier + 1;
ALTER TABLE ledger.identity ENABLE ALWAYS TRIGGER guard;
\c -
SET client_min_messages = error;
SELECT * FROM closed;
ALTER TABLE ledger.identity DISABLE TRIGGER guard;
UPDATE ledger.identity SET system_identifier = system_identifier - 1;
ALTER TABLE ledger.identity ENABLE ALWAYS TRIGGER guard;
\c -
SET client_min_messages = error;
SELECT * FROM closed;

-- What was found before this database became the ledger's counts for nothing.
BEGIN;
ALTER TABLE ledger.identity DISABLE TRIGGER guard;
UPDATE ledger.identity SET since = ledger.clock();
ALTER TABLE ledger.identity ENABLE ALWAYS TRIGGER guard;
SELECT gate, observed FROM closed WHERE gate IN ('full_reconciliation', 'coverage');
ROLLBACK;

-- Readers alone may not ask, operators may.
CREATE ROLE regress_ledger_operator;
SELECT ledger.grant_access('regress_ledger_operator', 'operator');
SET ROLE regress_ledger_operator;
SELECT count(*) > 15 AS gates FROM ledger.readiness();
CALL ledger.cut_over(dry_run => true);
RESET ROLE;
SELECT ledger.revoke_access('regress_ledger_operator');
DROP ROLE regress_ledger_operator;
SELECT * FROM closed;

-- The same write again, committed: repaired, and then it takes three days, and seven.
UPDATE public.balances SET buying_power = buying_power + 5 WHERE user_id = :bob;
CALL ledger.run_reconciliation();
SELECT after FROM ledger.repair(:bob, dry_run => false, reason => 'not ours');
CALL ledger.run_reconciliation();
SELECT gate FROM closed;
-- three days later nothing has been seen, seven days later nobody has written
SELECT ledger.set_test_clock('12 days 1 hour', 'three days clean');
SELECT gate FROM closed WHERE gate IN ('no_discrepancy', 'no_outside_write');
SELECT ledger.set_test_clock('16 days 1 hour', 'seven days clean');
SELECT gate FROM closed WHERE gate IN ('no_discrepancy', 'no_outside_write');
-- a run of a rehearsal's future says nothing of what is now
CALL ledger.run_reconciliation();
SELECT count(*) FROM closed WHERE gate = 'full_reconciliation';
SELECT ledger.set_test_clock('1 day', 'back again');
SELECT gate FROM closed WHERE gate = 'full_reconciliation';
\c contrib_regression
\set ECHO none
DROP DATABASE :database;
