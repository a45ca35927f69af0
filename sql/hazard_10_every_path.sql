--
-- hazard 10: every path by which SQL writes a row. After each the captured
-- changes add up to what the table holds; with capture 'post' so does the
-- ledger, for every user. Fails, for instance, with a trigger for INSERT OR
-- UPDATE alone, or if a write is posted by a statement's first row only.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_hazard_10
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set erin '''00000000-0000-4000-8000-0000000000a1'''
\set frank '''00000000-0000-4000-8000-0000000000a2'''
\set gwen '''00000000-0000-4000-8000-0000000000a3'''
\set heidi '''00000000-0000-4000-8000-0000000000a4'''
\set ivan '''00000000-0000-4000-8000-0000000000a5'''
\set judy '''00000000-0000-4000-8000-0000000000a6'''
\set every_path :srcdir '/test/lib/every_path.sql'
SET jit = off;
-- what the table held before anything was captured
CREATE TABLE public.began AS SELECT sum(buying_power) AS buying_power, sum(pending_deposits) AS pending_deposits FROM public.balances;
-- since: writes that an earlier call has not counted
CREATE TABLE public.counted (id bigint);
INSERT INTO public.counted VALUES (0);
CREATE FUNCTION public.sums(path text) RETURNS TABLE (after text, writes bigint, kinds text, captured text, ledger text) LANGUAGE plpgsql AS $$
DECLARE
	post boolean := current_setting('ledger.capture') = 'post';
BEGIN
	RETURN QUERY
	SELECT path, count(*) FILTER (WHERE w.id > c.id), string_agg(DISTINCT w.kind, ', ') FILTER (WHERE w.id > c.id),
		CASE WHEN b.buying_power + COALESCE(sum((w.deltas ->> 'buying_power')::numeric), 0) = t.buying_power
			AND b.pending_deposits + COALESCE(sum((w.deltas ->> 'pending_deposits')::numeric), 0) = t.pending_deposits
			THEN 'all' ELSE 'not all' END,
		CASE WHEN NOT post THEN '-' WHEN EXISTS (SELECT FROM (SELECT o.user_id FROM public.balances o UNION SELECT a.user_id FROM ledger.accounts a WHERE a.user_id IS NOT NULL) u,
				LATERAL ledger.compare_balances(u.user_id) r WHERE r.difference IS DISTINCT FROM 0) THEN 'differs' ELSE 'agrees' END
	FROM public.began b, public.counted c, (SELECT sum(s.buying_power) AS buying_power, sum(s.pending_deposits) AS pending_deposits FROM public.balances s) t,
		ledger.legacy_writes w
	GROUP BY b.buying_power, b.pending_deposits, t.buying_power, t.pending_deposits;
	UPDATE public.counted SET id = (SELECT max(w.id) FROM ledger.legacy_writes w);
END $$;
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
\pset format unaligned
\pset tuples_only on
\echo record
SET ledger.capture = 'record';
\i :every_path
\echo post
SET ledger.capture = 'post';
SELECT count(*) FROM ledger.repair(direction => 'ledger', dry_run => false, reason => 'opens all');
\i :every_path
\echo post, strict
SELECT ledger.configure(shadow_mode => true, strict_mode => true);
\i :every_path
\pset format aligned
\pset tuples_only off
SELECT * FROM ledger.reconcile();
SELECT * FROM ledger.verify() WHERE NOT passed;
SELECT * FROM public.ledger_oracle();
SELECT account_type, currency, balance FROM ledger.account_balances WHERE account_type = 'legacy_suspense' ORDER BY 2;
SELECT count(*), sum(amount), currency FROM ledger.suspense_items WHERE settled_by IS NULL GROUP BY currency ORDER BY currency;

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
