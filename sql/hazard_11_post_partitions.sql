--
-- hazard 11: with capture 'post', a row that moves between partitions, which is
-- a DELETE and an INSERT; partitions that are addressed directly, or attached
-- later, count like the table.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_hazard_11_post
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
CREATE VIEW public.captured AS
	SELECT right(w.user_id::text, 1) AS who, w.operation, w.kind, w.deltas, w.note FROM ledger.legacy_writes w ORDER BY w.id;
DROP VIEW public.legacy;
DROP TABLE public.balances;
CREATE TABLE public.balances (
	user_id uuid PRIMARY KEY,
	buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0,
	currency varchar(10) NOT NULL DEFAULT 'USD',
	updated_at timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (user_id);
CREATE TABLE public.balances_1 PARTITION OF public.balances FOR VALUES FROM (MINVALUE) TO (:carol);
CREATE TABLE public.balances_2 PARTITION OF public.balances FOR VALUES FROM (:carol) TO ('00000000-0000-4000-8000-000000000010');
INSERT INTO public.balances (user_id, buying_power, pending_deposits) VALUES (:alice, 100, 50), (:bob, 0, 20), (:carol, 7.5, 0);
\set ECHO all
SELECT passed FROM ledger.attach_legacy(capture => 'post') WHERE check_name = 'attached';
SELECT ledger.configure(shadow_mode => true);
SELECT count(*) FROM ledger.repair(direction => 'ledger', dry_run => false, reason => 'opens all');
UPDATE balances SET pending_deposits = pending_deposits + 1;
UPDATE balances_1 SET buying_power = buying_power + 1 WHERE user_id = :alice;
-- to another partition under another key
UPDATE balances SET user_id = :dave WHERE user_id = :bob;
CREATE TABLE balances_3 PARTITION OF balances FOR VALUES FROM ('00000000-0000-4000-8000-000000000010') TO (MAXVALUE);
INSERT INTO balances_3 (user_id, buying_power) VALUES ('00000000-0000-4000-8000-000000000011', 3);
TABLE captured;
SELECT * FROM ledger.reconcile();
SELECT * FROM public.ledger_oracle();

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
