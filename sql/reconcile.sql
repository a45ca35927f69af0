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
CALL ledger.run_reconciliation('incremental');
SELECT * FROM public.findings WHERE run = (SELECT max(id) FROM ledger.reconciliation_runs);
-- found once, it is looked at until it is resolved
CALL ledger.run_reconciliation('incremental');
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
SELECT * FROM public.incremental;
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL ledger.run_reconciliation();
COMMIT;
SELECT last_transaction_id, last_write_id FROM ledger.reconciliation_runs ORDER BY id DESC LIMIT 1;
SELECT * FROM public.incremental;

-- One that tolerated more is no base, nor one of another database or of other tables.
SELECT base.reason IS NULL AS ours FROM ledger.reconcile_base(0) AS base;
BEGIN;
SET LOCAL timezone = 'Asia/Tokyo';
SET LOCAL quote_all_identifiers = on;
SELECT base.reason IS NULL AS ours_in_any_session FROM ledger.reconcile_base(0) AS base;
ROLLBACK;
CALL ledger.run_reconciliation('full', 1);
SELECT run_id IS NOT NULL AS older FROM ledger.reconcile_base(0);
SELECT * FROM public.incremental;
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

-- Cancelled, and gone on with.
INSERT INTO ledger.reconciliation_runs (scope, tolerance, options, started_at, snapshot, last_transaction_id, requested_by,
		system_identifier, database_oid, mappings, "position", compared)
	SELECT scope, tolerance, options, now(), snapshot, last_transaction_id, 'me', system_identifier, database_oid, mappings, :carol, 2
	FROM ledger.reconciliation_runs WHERE scope = 'full' ORDER BY id DESC LIMIT 1 RETURNING id AS left_over \gset
SELECT ledger.cancel_reconciliation(0), ledger.cancel_reconciliation(:left_over) AS cancelled, ledger.cancel_reconciliation() AS again;
SELECT status, note FROM ledger.reconciliation_runs WHERE id = :left_over;
CALL ledger.run_reconciliation(run_id => :left_over);
SELECT status, compared, found FROM public.runs WHERE id = :left_over;
-- one that nobody is at work on makes way
UPDATE ledger.reconciliation_runs SET status = 'running', finished_at = NULL, runner_pid = 0 WHERE id = :left_over;
CALL ledger.run_reconciliation('incremental');
SELECT status, note FROM ledger.reconciliation_runs WHERE id = :left_over;
SELECT scope, status, phase, candidates, remaining FROM ledger.reconciliation_progress;
SELECT count(*) AS failed FROM ledger.verify() WHERE NOT passed;
\set ECHO none
\c contrib_regression
DROP DATABASE :database;
