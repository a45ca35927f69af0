--
-- Reconciliations of all users: what they find, recorded runs with their
-- options, incremental ones, rules that ignore, and what is handed on.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database ledger_reconcile
\set fresh :srcdir '/test/lib/shadow.sql'
\i :fresh
-- what changes from run to run is left out
CREATE VIEW public.runs AS
	SELECT id, scope, tolerance, status, compared, discrepancies AS found, users, ignored, ignored_amount AS amount,
		total_difference AS total, within_total AS within, base_run_id AS base, note FROM ledger.reconciliation_runs ORDER BY id;
CREATE VIEW public.findings AS
	SELECT run_id AS run, right(user_id::text, 1) AS who, legacy_column, difference, cause, status
	FROM ledger.reconciliation_findings ORDER BY run_id, user_id, legacy_column;
CREATE VIEW public.incremental AS
	SELECT right(user_id::text, 1) AS who, legacy_column, difference, status FROM ledger.reconcile(0, 'incremental');
\set ECHO all
ALTER TABLE public.balances ALTER buying_power TYPE numeric, ALTER pending_deposits TYPE numeric,
	ALTER buying_power DROP NOT NULL, ALTER pending_deposits DROP NOT NULL;
SELECT bool_and(passed) AS attached FROM ledger.attach_legacy('public.balances') WHERE check_name = 'attached';
SELECT shadow_mode FROM ledger.configure(shadow_mode => true, reason => 'test');
SELECT count(ledger.credit_user_usdc(u, 1, 'x')) FROM (VALUES (:alice::uuid), (:bob), (:carol), (:dave)) AS u (u);
SELECT * FROM ledger.reconcile();

-- hazard 3: NULL, NaN, infinity, and a row that is missing on either side
ALTER TABLE public.balances DISABLE TRIGGER USER;
UPDATE public.balances SET buying_power = NULL WHERE user_id = :alice;
UPDATE public.balances SET buying_power = 'NaN' WHERE user_id = :bob;
UPDATE public.balances SET pending_deposits = 'Infinity' WHERE user_id = :bob;
DELETE FROM public.balances WHERE user_id = :carol;
INSERT INTO public.balances (user_id, buying_power, pending_deposits)
	VALUES ('00000000-0000-4000-8000-00000000000e', 0, 3), ('00000000-0000-4000-8000-00000000000f', NULL, NULL);
SELECT right(user_id::text, 1) AS who, legacy_column, ledger_value, legacy_value, difference, status FROM ledger.reconcile();
SELECT right(user_id::text, 1) AS who, legacy_column, ledger_value, legacy_value, difference, status FROM ledger.reconcile(1000);
CALL ledger.run_reconciliation();
SELECT * FROM public.runs;
DELETE FROM public.balances WHERE right(user_id::text, 1) IN ('e', 'f');
UPDATE public.balances SET buying_power = 100 WHERE user_id = :alice;
UPDATE public.balances SET buying_power = 0, pending_deposits = 21 WHERE user_id = :bob;
INSERT INTO public.balances (user_id, buying_power, pending_deposits) VALUES (:carol, 7.5, 1);

-- hazard 4: equal numbers of another scale; what does not fit an integer is told exactly
UPDATE public.balances SET buying_power = 100.000, pending_deposits = 51.0000000000000000000000000 WHERE user_id = :alice;
SELECT * FROM ledger.reconcile();
UPDATE public.balances SET buying_power = 100.0000000000000000000000000000000001 WHERE user_id = :alice;
SELECT right(user_id::text, 1) AS who, legacy_column, legacy_value, difference FROM ledger.reconcile();
UPDATE public.balances SET buying_power = 99999999999999999999 WHERE user_id = :alice;
SELECT right(user_id::text, 1) AS who, legacy_column, legacy_value, difference FROM ledger.reconcile();
UPDATE public.balances SET buying_power = 100 WHERE user_id = :alice;
UPDATE public.balances SET buying_power = -0.00000000000000000001 WHERE user_id = :bob;
SELECT right(user_id::text, 1) AS who, legacy_column, legacy_value, difference FROM ledger.reconcile();
UPDATE public.balances SET buying_power = 1e60 WHERE user_id = :bob;
SELECT right(user_id::text, 1) AS who, legacy_column, difference = -1e60 AS all_of_it FROM ledger.reconcile();
UPDATE public.balances SET buying_power = 0.0000000000000000000000000000000001 WHERE user_id = :bob;
SELECT right(user_id::text, 1) AS who, legacy_column, difference FROM ledger.reconcile();
UPDATE public.balances SET buying_power = 0 WHERE user_id = :bob;
ALTER TABLE public.balances ENABLE TRIGGER USER;
ALTER TABLE public.balances ENABLE ALWAYS TRIGGER ledger_capture;
ALTER TABLE public.balances ENABLE ALWAYS TRIGGER ledger_capture_truncate;

-- A full run without tolerance resolves what it does not find.
CALL ledger.run_reconciliation();
SELECT status, count(*) FROM ledger.discrepancies GROUP BY 1;

-- hazard 7: row security, forced on the owner too, hides no row
CREATE ROLE regress_ledger_owner;
ALTER TABLE public.balances OWNER TO regress_ledger_owner;
ALTER TABLE public.balances ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.balances FORCE ROW LEVEL SECURITY;
CREATE POLICY nobody ON public.balances USING (false);
SET ROLE regress_ledger_owner;
SELECT count(*) AS seen_by_the_owner FROM public.balances;
RESET ROLE;
SELECT * FROM ledger.reconcile();
-- the same through SQL, where there is no index on the key to go by
ALTER TABLE public.balances DROP CONSTRAINT balances_pkey;
SELECT * FROM ledger.reconcile();
ALTER TABLE public.balances ADD PRIMARY KEY (user_id);
DROP POLICY nobody ON public.balances;
ALTER TABLE public.balances NO FORCE ROW LEVEL SECURITY;
ALTER TABLE public.balances DISABLE ROW LEVEL SECURITY;
ALTER TABLE public.balances OWNER TO CURRENT_USER;
DROP ROLE regress_ledger_owner;

-- An incremental reconciliation looks at what the last run did not see.
CALL ledger.run_reconciliation('incremental');
SELECT ledger.credit_user_usdc(:alice, 2, 'x');
CALL ledger.run_reconciliation('incremental');
UPDATE public.balances SET pending_deposits = pending_deposits + 0.25 WHERE user_id = :bob;
UPDATE public.balances SET buying_power = buying_power - 0.5 WHERE user_id = :carol;
SELECT * FROM public.incremental;
SELECT right(user_id::text, 1) AS who, difference FROM ledger.reconcile(0.25);
CALL ledger.run_reconciliation('incremental');
SELECT * FROM public.findings WHERE run = (SELECT max(id) FROM ledger.reconciliation_runs);
-- found once, it is looked at until it is resolved
CALL ledger.run_reconciliation('incremental');
-- so is who has an open discrepancy, whoever found that
BEGIN;
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source) VALUES (1, '00000000-0000-4000-8000-00000000000e', 'buying_power', 'mismatch', 'read');
SELECT right(u::text, 1) AS who FROM ledger.reconcile_changed_since((SELECT max(id) FROM ledger.reconciliation_runs)) u ORDER BY 1;
ROLLBACK;
-- and whom somebody has repaired since
BEGIN;
INSERT INTO ledger.repair_log (mapping_id, user_id, legacy_column, direction, before, after, reason, repaired_by)
	VALUES (1, '00000000-0000-4000-8000-000000000003', 'buying_power', 'legacy', 1, 2, 'x', 'x');
SELECT right(u::text, 1) AS who FROM ledger.reconcile_changed_since((SELECT max(id) FROM ledger.reconciliation_runs)) u ORDER BY 1;
ROLLBACK;
-- what has been seen since a full run began is not over because that agrees
BEGIN;
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source, last_seen) VALUES
	(1, '00000000-0000-4000-8000-000000000001', 'buying_power', 'mismatch', 'read', ledger.clock() - interval '1 minute'),
	(1, '00000000-0000-4000-8000-000000000002', 'buying_power', 'mismatch', 'read', ledger.clock() + interval '1 minute');
CALL ledger.run_reconciliation();
SELECT right(user_id::text, 1) AS who, status FROM ledger.discrepancy_rows WHERE user_id < :alice ORDER BY 1;
ROLLBACK;
-- and the users of all postings of a transaction
BEGIN;
SELECT ledger.post('gifts', ARRAY[
	ROW(ledger.open_account('house_equity', NULL, 'USDC'), ledger.open_account('system_buffer_usdc'), 3),
	ROW(ledger.open_account('house_equity', NULL, 'USDC'), ledger.open_account('usdc_balance', '00000000-0000-4000-8000-000000000001'), 3),
	ROW(ledger.open_account('usdc_balance', :alice), ledger.open_account('house_equity', NULL, 'USDC'), 0.01)]::ledger.posting[]) > 0 AS posted;
SELECT right(u::text, 1) AS who FROM ledger.reconcile_changed_since((SELECT max(id) FROM ledger.reconciliation_runs)) u ORDER BY 1;
ROLLBACK;
-- both users of a posting, whoever it is for
SELECT ledger.post('payment', ARRAY[ROW(ledger.open_account('usdc_balance', :alice), ledger.open_account('usdc_balance', :dave), 1)::ledger.posting]);
CALL ledger.run_reconciliation('incremental');
SELECT * FROM public.runs ORDER BY id OFFSET 2;

-- In a transaction block: what is written before it and after it.
BEGIN;
SELECT ledger.credit_user_usdc(:dave, 1, 'x');
CALL ledger.run_reconciliation('incremental');
UPDATE public.balances SET pending_deposits = 77 WHERE user_id = :dave;
COMMIT;
SELECT last_transaction_id, last_write_id FROM ledger.reconciliation_runs ORDER BY id DESC LIMIT 1;
SELECT * FROM public.incremental;
-- also where transactions with higher xids have ended meanwhile
BEGIN;
UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = :alice;
SAVEPOINT s;
UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = :alice;
ROLLBACK TO s;
UPDATE public.balances SET buying_power = buying_power - 1 WHERE user_id = :alice;
CALL ledger.run_reconciliation('incremental');
UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = :alice;
COMMIT;
SELECT * FROM public.incremental;
UPDATE public.balances SET buying_power = buying_power - 1 WHERE user_id = :alice;
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL ledger.run_reconciliation();
COMMIT;
SELECT last_transaction_id, last_write_id FROM ledger.reconciliation_runs ORDER BY id DESC LIMIT 1;
SELECT * FROM public.incremental;

-- Whom the transaction itself is at work on is not found to differ.
BEGIN;
SELECT ledger.credit_user_usdc(:alice, 1, 'x') > 0 AS posted;
UPDATE public.balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :alice;
CALL ledger.run_reconciliation('incremental');
SELECT * FROM public.findings WHERE run = (SELECT max(id) FROM ledger.reconciliation_runs) AND who = 'a';
ROLLBACK;

-- One that tolerated more is no base, nor one of another database or of other tables.
SELECT base.reason IS NULL AS ours FROM ledger.reconcile_base(0) AS base;
BEGIN;
SET LOCAL timezone = 'Asia/Tokyo';
SET LOCAL quote_all_identifiers = on;
SELECT base.reason IS NULL AS ours_in_any_session FROM ledger.reconcile_base(0) AS base;
ROLLBACK;
CALL ledger.run_reconciliation('incremental');
CALL ledger.run_reconciliation('full', 1);
CALL ledger.run_reconciliation(tolerances => '{"USD": 1}');
-- (nor does such a one, or one of some users, say of evidence that is stored late that it is over)
SELECT ledger.evidence_resolved(1::smallint, '00000000-0000-4000-8000-000000000001', 'buying_power', max(n.finished_at)) IS NULL AS open,
	ledger.evidence_resolved(1::smallint, '00000000-0000-4000-8000-000000000001', 'buying_power', max(n.started_at) - interval '1 microsecond') = max(n.finished_at) AS over
FROM ledger.reconciliation_runs n WHERE n.scope = 'full' AND n.tolerance = 0 AND NOT n.options ? 'tolerances' AND n.status = 'finished';
SELECT n.tolerance, n.options -> 'tolerances' AS tolerances FROM ledger.reconcile_base(0) b JOIN ledger.reconciliation_runs n ON n.id = b.run_id;
SELECT * FROM public.incremental;
BEGIN;
CALL ledger.run_reconciliation('incremental', 1, tolerances => '{"USDC": 0, "USD": 2}');
SELECT n.tolerance, n.options -> 'tolerances' AS tolerances FROM ledger.reconciliation_runs r JOIN ledger.reconciliation_runs n ON n.id = r.base_run_id ORDER BY r.id DESC LIMIT 1;
ROLLBACK;
BEGIN;
UPDATE ledger.reconciliation_runs SET system_identifier = 1;
SELECT * FROM public.incremental;
CALL ledger.run_reconciliation('incremental');
ROLLBACK;
BEGIN;
UPDATE ledger.reconciliation_runs SET database_oid = 1;
CALL ledger.run_reconciliation('incremental');
SELECT scope, note FROM ledger.reconciliation_runs ORDER BY id DESC LIMIT 1;
ROLLBACK;
BEGIN;
SELECT shadow_mode FROM ledger.configure(shadow_mode => false);
SELECT ledger.detach_legacy('public.balances');
SELECT count(*) > 0 AS checks FROM ledger.attach_legacy('public.balances');
CALL ledger.run_reconciliation('incremental');
ROLLBACK;

-- Parts: a range, a sample that is the same each time, so many users.
CALL ledger.run_reconciliation(from_user => :bob, to_user => :carol);
CALL ledger.run_reconciliation(fraction => 0.5, seed => 1);
CALL ledger.run_reconciliation(fraction => 0.5, seed => 1);
CALL ledger.run_reconciliation(fraction => 0.5, seed => 2);
CALL ledger.run_reconciliation(max_users => 3, chunk_users => 2);
SELECT scope, compared, found, total, within FROM public.runs ORDER BY id DESC LIMIT 5;

-- Tolerances of currencies; whoever is steps apart is counted the same.
CALL ledger.run_reconciliation(tolerances => '{"USD": 0.5}', chunk_users => 1);
CALL ledger.run_reconciliation(tolerances => '{"USD": 0.5}');
CALL ledger.run_reconciliation(tolerances => '{"USD": 0.5, "USDC": 100}', total_tolerances => '{"USD": 0.5, "USDC": 100}');
CALL ledger.run_reconciliation(tolerances => '{"USD": 0.5, "USDC": 100}', total_tolerances => '{"USD": 0.5, "USDC": 70}');
SELECT scope, compared, found, total, within FROM public.runs ORDER BY id DESC LIMIT 4;

-- what is not finite is within no total
BEGIN;
UPDATE public.balances SET buying_power = 'NaN' WHERE user_id = :alice;
CALL ledger.run_reconciliation(tolerances => '{"USD": 1000, "USDC": 1000}');
SELECT found, total, within FROM public.runs ORDER BY id DESC LIMIT 1;
ROLLBACK;

-- hazard 5: many small tolerated differences add up to a total that is not
ALTER TABLE public.balances DISABLE TRIGGER USER;
INSERT INTO public.balances (user_id, buying_power, pending_deposits)
	SELECT ('10000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid, 0, 0.009 FROM generate_series(1, 100000) i;
CALL ledger.run_reconciliation('full', 0.01, tolerances => '{"USDC": 0.01}', from_user => '10000000-0000-4000-8000-000000000000');
SELECT scope, status, compared, found, total, within FROM public.runs ORDER BY id DESC LIMIT 1;
DELETE FROM public.balances WHERE user_id >= '10000000-0000-4000-8000-000000000000';
ALTER TABLE public.balances ENABLE TRIGGER USER;
ALTER TABLE public.balances ENABLE ALWAYS TRIGGER ledger_capture;
ALTER TABLE public.balances ENABLE ALWAYS TRIGGER ledger_capture_truncate;

-- Rules that ignore: counted, and never closed in silence.
SELECT status, count(*) FROM ledger.discrepancies GROUP BY 1 ORDER BY 1;
SELECT ledger.ignore_discrepancy(:bob, NULL, 'a known case', now() + interval '1 hour') AS rule;
SELECT ledger.ignore_discrepancy(NULL, 'buying_power', 'a known column', now() + interval '1 hour') AS rule;
CALL ledger.run_reconciliation();
SELECT * FROM public.findings WHERE run = (SELECT max(id) FROM ledger.reconciliation_runs);
SELECT found, users, ignored, amount, total, within FROM public.runs ORDER BY id DESC LIMIT 1;
SELECT right(user_id::text, 1) AS who, legacy_column, status FROM ledger.discrepancies WHERE status = 'open' ORDER BY id;
-- the cut-over looks at who is ignored, and at who has an open discrepancy
BEGIN;
SELECT ledger.ignore_discrepancy('00000000-0000-4000-8000-000000000004', NULL, 'a known case', now() + interval '1 hour') > 0 AS ruled;
INSERT INTO public.balances (user_id, buying_power) VALUES ('00000000-0000-4000-8000-000000000004', 4);
CALL ledger.run_reconciliation();
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source) VALUES (1, '00000000-0000-4000-8000-000000000005', 'buying_power', 'mismatch', 'read');
SELECT right(u::text, 1) AS who FROM ledger.migration_users(0, '4000000000:4000000000:') u WHERE u < :alice ORDER BY 1;
ROLLBACK;
-- what is ignored is looked at again by the next incremental run, also when the rule is over
SELECT ledger.unignore_discrepancy(1), ledger.unignore_discrepancy(1) AS again;
UPDATE ledger.ignore_rules SET expires_at = now() WHERE id = 2;
CALL ledger.run_reconciliation('incremental');
SELECT * FROM public.findings WHERE run = (SELECT max(id) FROM ledger.reconciliation_runs);

-- Handed on.
SELECT replace(line, '00000000-0000-4000-8000-00000000000', '...') AS line
	FROM ledger.reconciliation_csv((SELECT max(id) FROM ledger.reconciliation_runs)) line;
SELECT j ->> 'scope' AS scope, j -> 'discrepancies' AS discrepancies, jsonb_array_length(j -> 'findings') AS findings,
		j -> 'findings' -> 0 ->> 'cause' AS cause
	FROM ledger.reconciliation_json((SELECT max(id) FROM ledger.reconciliation_runs)) j;
SELECT ledger.reconciliation_json(0) IS NULL AS none;

-- Ignored, and not open: looked at when the rule is over.
INSERT INTO public.balances (user_id, buying_power) VALUES ('00000000-0000-4000-8000-000000000004', 4);
SELECT ledger.ignore_discrepancy('00000000-0000-4000-8000-000000000004', NULL, 'a known case', now() + interval '1 hour') AS rule \gset
CALL ledger.run_reconciliation();
SELECT * FROM public.incremental WHERE who = '4';
SELECT ledger.unignore_discrepancy(:rule);
CALL ledger.run_reconciliation('incremental');
SELECT who, difference, status FROM public.findings WHERE run = (SELECT max(id) FROM ledger.reconciliation_runs) AND who = '4';
DELETE FROM public.balances WHERE user_id = '00000000-0000-4000-8000-000000000004';
CALL ledger.run_reconciliation();

-- What is refused.
SELECT public.raises($$CALL ledger.run_reconciliation('some')$$);
SELECT public.raises($$CALL ledger.run_reconciliation(NULL)$$);
SELECT public.raises($$CALL ledger.run_reconciliation(tolerance => NULL)$$);
SELECT public.raises($$CALL ledger.run_reconciliation(tolerance => 'NaN')$$);
SELECT public.raises($$CALL ledger.run_reconciliation(seed => NULL)$$);
SELECT public.raises($$CALL ledger.run_reconciliation(chunk_users => 0)$$);
SELECT public.raises($$CALL ledger.run_reconciliation(max_users => -1)$$);
SELECT public.raises($$CALL ledger.run_reconciliation(fraction => 0)$$);
SELECT public.raises($$CALL ledger.run_reconciliation(fraction => 1.5)$$);
SELECT public.raises($$CALL ledger.run_reconciliation(fraction => 'NaN')$$);
SELECT public.raises($$CALL ledger.run_reconciliation('incremental', fraction => 0.5)$$);
SELECT public.raises($$CALL ledger.run_reconciliation(tolerances => '[]')$$);
SELECT public.raises($$CALL ledger.run_reconciliation(tolerances => '{"XXX": 1}')$$);
SELECT public.raises($$CALL ledger.run_reconciliation(total_tolerances => '{"USD": -1}')$$);
SELECT public.raises($$CALL ledger.run_reconciliation(tolerances => '{"USD": "1"}')$$);
SELECT public.raises($$CALL ledger.run_reconciliation(run_id => 0)$$);
SELECT public.raises($$CALL ledger.run_reconciliation(run_id => 1)$$);
SELECT public.raises($$SELECT ledger.ignore_discrepancy(NULL, NULL, 'x', now() + interval '1 day')$$);
SELECT public.raises($$SELECT ledger.ignore_discrepancy(NULL, 'buying_power', NULL, now() + interval '1 day')$$);
SELECT public.raises($$SELECT ledger.ignore_discrepancy(NULL, 'buying_power', 'x', NULL)$$);
SELECT public.raises($$SELECT ledger.ignore_discrepancy(NULL, 'buying_power', repeat('x', 4097), now() + interval '1 day')$$);
SELECT public.raises($$SELECT ledger.ignore_discrepancy(NULL, 'buying_power', 'x', 'yesterday')$$) LIKE '22023 invalid expires_at%' AS past;
SELECT public.raises($$SELECT ledger.ignore_discrepancy(NULL, 'buying_power', 'x', 'infinity')$$);
SELECT public.raises($$SELECT ledger.ignore_discrepancy(NULL, 'nothing', 'x', now() + interval '1 day')$$);

-- Step by step: who differed and no longer does accuses nobody, and what is open of him is over.
SELECT ledger.reconciliation_begin('full', 0, '{"seed": 0, "chunk_users": 1000}', false) AS run \gset
SELECT ledger.reconciliation_step(:run) AS compared;
SELECT * FROM public.findings WHERE run = :run;
UPDATE public.balances SET pending_deposits = pending_deposits - 0.25 WHERE user_id = :bob;
SELECT ledger.reconciliation_step(:run) AS looked_again;
SELECT ledger.reconciliation_step(:run) AS finished;
SELECT * FROM public.findings WHERE run = :run;
SELECT right(user_id::text, 1) AS who, legacy_column, cause, status FROM ledger.discrepancies WHERE user_id = :bob ORDER BY id;

-- Cancelled, and gone on with.
INSERT INTO ledger.reconciliation_runs (scope, tolerance, options, started_at, snapshot, last_transaction_id, requested_by,
		system_identifier, database_oid, mappings, "position", compared)
	SELECT scope, tolerance, options, now(), snapshot, last_transaction_id, 'me', system_identifier, database_oid, mappings, :carol, 2
	FROM ledger.reconciliation_runs WHERE scope = 'full' ORDER BY id DESC LIMIT 1 RETURNING id AS left_over \gset
SELECT ledger.cancel_reconciliation(0), ledger.cancel_reconciliation(:left_over) AS cancelled, ledger.cancel_reconciliation() AS again;
SELECT status, note FROM ledger.reconciliation_runs WHERE id = :left_over;
-- an index of some of the rows is not read for all of them
BEGIN;
CREATE TABLE public.parts (user_id uuid NOT NULL, amount numeric NOT NULL);
CREATE UNIQUE INDEX large ON public.parts (user_id) WHERE amount > 10;
ALTER TABLE public.parts ADD PRIMARY KEY (user_id);
INSERT INTO public.parts VALUES ('00000000-0000-4000-8000-000000000006', 6), ('00000000-0000-4000-8000-000000000007', 70);
SELECT shadow_mode FROM ledger.configure(shadow_mode => false);
SELECT ledger.detach_legacy('public.balances');
SELECT passed FROM ledger.attach_legacy('public.parts', '{"columns": [{"column": "amount", "accounts": ["usdc_balance"]}]}') WHERE check_name = 'attached';
SELECT right(user_id::text, 1) AS who, legacy_value, status FROM ledger.reconcile() WHERE user_id < :alice;
ROLLBACK;
-- each table is compared with what its own columns are of the ledger
BEGIN;
CREATE TABLE public.second (user_id uuid PRIMARY KEY, amount numeric NOT NULL);
SELECT passed FROM ledger.attach_legacy('public.second', '{"columns": [{"column": "amount", "accounts": ["fiat_exposure"]}]}') WHERE check_name = 'attached';
INSERT INTO public.second SELECT :alice, ledger_value FROM ledger.compare_balances(:alice) WHERE legacy_column = 'pending_deposits';
SELECT right(user_id::text, 1) AS who, ledger_value, legacy_value FROM ledger.reconcile() WHERE legacy_column = 'amount' AND user_id = :alice;
ROLLBACK;
-- not where a table was attached since
BEGIN;
CREATE TABLE public.more (user_id uuid PRIMARY KEY, amount numeric NOT NULL DEFAULT 0);
SELECT count(*) > 0 AS checks FROM ledger.attach_legacy('public.more', '{"columns": [{"column": "amount", "accounts": ["usdc_balance"]}]}');
SELECT replace(public.raises(format('CALL ledger.run_reconciliation(run_id => %s)', :left_over)), :left_over::text, 'N');
ROLLBACK;
CALL ledger.run_reconciliation(run_id => :left_over);
SELECT status, compared, found FROM public.runs WHERE id = :left_over;
-- one that nobody is at work on makes way
UPDATE ledger.reconciliation_runs SET status = 'running', finished_at = NULL, runner_pid = 0 WHERE id = :left_over;
CALL ledger.run_reconciliation('incremental');
SELECT status, note FROM ledger.reconciliation_runs WHERE id = :left_over;
SELECT scope, status, phase, candidates, remaining FROM ledger.reconciliation_progress;
-- A session's runs look at each finding once, though its plans are of runs that found or changed next to nothing.
CREATE FUNCTION public.run_in_steps() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	run bigint := ledger.reconciliation_begin('full', 0, '{"seed": 0, "chunk_users": 1000}', false);
BEGIN
	WHILE ledger.reconciliation_step(run) LOOP
	END LOOP;
	RETURN (SELECT count(*) FROM ledger.reconciliation_findings f WHERE f.run_id = run AND f.status = 'differs');
END
$$;
BEGIN;
SET LOCAL track_functions = 'all';
INSERT INTO public.balances (user_id, buying_power, pending_deposits) SELECT gen_random_uuid(), 1, 1 FROM generate_series(1, 1000);
SELECT public.run_in_steps() >= 2000 AS found;
ANALYZE ledger.reconciliation_findings;
UPDATE public.balances SET buying_power = buying_power + 1 WHERE buying_power = 1;
SELECT public.run_in_steps() >= 2000 AS found;
SELECT pg_stat_get_xact_function_calls('ledger.ignored_by'::regproc) BETWEEN 4000 AND 20000 AS ignored,
	pg_stat_get_xact_function_calls('ledger.discrepancy_counts'::regproc) BETWEEN 4000 AND 20000 AS counts;
-- and so does one statement
DISCARD PLANS;
UPDATE ledger.discrepancy_rows SET ledger_value = 0 WHERE false;
SELECT pg_stat_get_xact_function_calls('ledger.discrepancy_counts'::regproc) AS counts \gset
UPDATE ledger.discrepancy_rows SET ledger_value = ledger_value + 1 WHERE status = 'open';
SELECT pg_stat_get_xact_function_calls('ledger.discrepancy_counts'::regproc) - :counts BETWEEN 2000 AND 10000 AS counts;
ROLLBACK;
SELECT count(*) AS failed FROM ledger.verify() WHERE NOT passed;
\set ECHO none
\c contrib_regression
DROP DATABASE :database;
