--
-- hazard 20: savepoints. A part that is rolled back takes with it the users it
-- has touched, the places where rows were left, and what was counted: 200 deep,
-- in loops, in PL/pgSQL and with SAVEPOINT itself, in strict mode.
--
-- Fails without the cut of the touched users on abort (compare.c: users who are
-- gone are proved and the commit fails), with touched users that stay at a
-- released savepoint's level (a double write is not proved), and with rows fetched from
-- their places whatever the snapshot says (ledger_store_fetch() in store.c).
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_hazard_20
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
CREATE FUNCTION public.customer(n int) RETURNS uuid IMMUTABLE
	RETURN format('00000000-0000-4000-9000-%s', lpad(n::text, 12, '0'))::uuid;

-- Each level posts for alice and for a customer of its own, level n so much as n;
-- those from fail_at on are rolled back together.
CREATE FUNCTION public.nest(depth int, fail_at int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM ledger.credit_user_usdc('00000000-0000-4000-8000-00000000000a', depth, 'deep');
	PERFORM ledger.credit_user_usdc(public.customer(depth), depth, 'deep');
	IF depth < 200 THEN
		BEGIN
			PERFORM public.nest(depth + 1, fail_at);
		EXCEPTION WHEN division_by_zero THEN
			NULL;
		END;
	END IF;
	IF depth = fail_at THEN
		PERFORM 1 / 0;
	END IF;
	-- on the way back there is something to find again
	PERFORM ledger.debit_user_usdc('00000000-0000-4000-8000-00000000000a', 0.5, 'back');
END
$$;

-- How often alice's account was moved, what it has, what the journal has of it, and the row.
CREATE VIEW public.alices AS
	SELECT a.version, a.balance, e.postings, e.moved, trim_scale(b.pending_deposits) AS legacy
	FROM ledger.account_balances a
	JOIN public.balances b USING (user_id),
	LATERAL (SELECT count(*) AS postings, sum(CASE e.direction WHEN 'credit' THEN e.amount ELSE -e.amount END) AS moved
			 FROM ledger.entries e WHERE e.account_id = a.account_id) e
	WHERE a.user_id = '00000000-0000-4000-8000-00000000000a' AND a.account_type = 'usdc_balance';
CREATE VIEW public.customers AS
	SELECT count(*) AS customers, sum(a.version) AS version, sum(a.balance) AS balance,
		(SELECT sum(trim_scale(pending_deposits)) FROM public.balances WHERE user_id::text LIKE '00000000-0000-4000-9%') AS legacy
	FROM ledger.account_balances a WHERE a.user_id::text LIKE '00000000-0000-4000-9%' AND a.account_type = 'usdc_balance';
\set ECHO all
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT ledger.configure(shadow_mode => true, strict_mode => true);
SELECT ledger.credit_user_usdc(:alice, 1000, 'opens her') > 0 AS posted;
SELECT * FROM alices;

-- 200 deep; from 100 on all is rolled back. What an application writes to the row of
-- somebody who is gone from the transaction is an outside write, no double one.
BEGIN;
SELECT public.nest(1, 100);
INSERT INTO balances (user_id, pending_deposits) VALUES (public.customer(100), 7), (public.customer(200), 7);
COMMIT;
SELECT * FROM alices;
SELECT * FROM customers;
SELECT operation, kind, deltas FROM written;
-- nothing is rolled back: the deepest is proved like the first
BEGIN;
SELECT public.nest(150, 0);
UPDATE balances SET pending_deposits = pending_deposits + 1 WHERE user_id = public.customer(200);
COMMIT;
SELECT * FROM alices;
SELECT public.nest(150, 0);
SELECT * FROM alices;
SELECT * FROM customers;

-- SAVEPOINT 200 times within each other, without a function around them.
BEGIN;
\set ECHO none
\o /dev/null
SELECT format('SAVEPOINT s%s', n), format('SELECT ledger.credit_user_usdc(%L, 1, %L), ledger.debit_user_usdc(%L, 2, %L)',
	public.customer(n + 1000), 'deep', :alice, 'deep') FROM generate_series(1, 200) n \gexec
\o
\set ECHO all
ROLLBACK TO s101;
SELECT * FROM alices;
RELEASE s51;
ROLLBACK TO s50;
SELECT ledger.debit_user_usdc(:alice, 3, 'from there on') > 0 AS posted;
INSERT INTO balances (user_id, pending_deposits) VALUES (public.customer(1050), 7), (public.customer(1150), 7);
RELEASE s1;
COMMIT;
SELECT * FROM alices;
SELECT * FROM customers;
-- a released savepoint's users are the transaction's, also after others have gone
BEGIN;
SAVEPOINT a;
SELECT ledger.credit_user_usdc(public.customer(1001), 1, 'released') > 0 AS posted;
RELEASE a;
SAVEPOINT b;
SELECT ledger.credit_user_usdc(public.customer(1002), 1, 'rolled back') > 0 AS posted;
ROLLBACK TO b;
UPDATE balances SET pending_deposits = pending_deposits + 1 WHERE user_id = public.customer(1001);
COMMIT;

-- Loops: each third is rolled back, some within another, many customers and few.
CREATE FUNCTION public.loop(times int, customers int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	kept bigint := 0;
BEGIN
	FOR i IN 1 .. times LOOP
		BEGIN
			PERFORM ledger.credit_user_usdc(public.customer(2000 + i % customers), 1, 'loop');
			BEGIN
				PERFORM ledger.credit_user_usdc('00000000-0000-4000-8000-00000000000a', 1, 'loop');
				IF i % 2 = 0 THEN
					RAISE EXCEPTION USING ERRCODE = 'TR002';
				END IF;
				kept := kept + 1;
			EXCEPTION WHEN SQLSTATE 'TR002' THEN
				PERFORM ledger.debit_user_usdc('00000000-0000-4000-8000-00000000000a', 0.25, 'loop');
			END;
			IF i % 3 = 0 THEN
				RAISE EXCEPTION USING ERRCODE = 'TR001';
			END IF;
		EXCEPTION WHEN SQLSTATE 'TR001' THEN
			NULL;
		END;
	END LOOP;
	RETURN kept;
END
$$;
-- Of 1,200 rounds 800 stay, each with one posting for her and one for somebody else.
SELECT public.loop(600, 3), public.loop(600, 500);
SELECT * FROM alices;
SELECT * FROM customers;

-- A loop that ends in an abort of all of it leaves what was there.
BEGIN;
SELECT public.loop(200, 7);
SELECT public.nest(1, 0);
ROLLBACK;
SELECT * FROM alices;
SELECT * FROM customers;
SELECT ledger.credit_user_usdc(:alice, 1, 'as if nothing had been') > 0 AS posted;
SELECT * FROM ledger.compare_balances(:alice);
SELECT user_id, status FROM ledger.reconcile() WHERE user_id NOT IN (:bob, :carol);
SELECT * FROM public.ledger_oracle();
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
