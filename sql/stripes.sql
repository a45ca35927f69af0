--
-- Stripes: accounts spread over rows, how they are seeded and folded, what is
-- refused, and that their table neither grows nor slows down.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database ledger_stripes
\set fresh :srcdir '/test/lib/fresh.sql'
\set done :srcdir '/test/lib/done.sql'
\set oracle :srcdir '/test/lib/oracle.sql'
\i :fresh
SET client_min_messages = warning;
\i :oracle
RESET client_min_messages;
\set ECHO all
SELECT ledger.credit_user_usdc(:alice, 100, 'deposit') AS deposit \gset
SELECT ledger.open_account('system_buffer_usdc') AS buffer, ledger.open_account('usdc_balance', :alice) AS alices \gset

-- What an account has: its row, and that of its stripes.
CREATE VIEW public.rows AS
	SELECT a.account_type, a.stripes, a.debits, a.credits, a.version, a.min_balance, a.status,
		   (SELECT count(*) FROM ledger.account_stripes s WHERE s.account_id = a.id) AS rows,
		   (SELECT sum(s.debits) FROM ledger.account_stripes s WHERE s.account_id = a.id) AS striped_debits,
		   (SELECT sum(s.version) FROM ledger.account_stripes s WHERE s.account_id = a.id) AS striped_versions
	FROM ledger.accounts a WHERE a.user_id IS NULL ORDER BY a.id;
SELECT * FROM public.rows;
SELECT b.debits, b.credits, b.balance, b.version FROM ledger.account_balances b WHERE b.account_id = :buffer;
SELECT ledger.get_account_balance(NULL, 'system_buffer_usdc');

-- Each on a page of its own.
SELECT count(*) AS stripes, count(DISTINCT (s.ctid::text::point)[0]) AS pages FROM ledger.account_stripes s WHERE s.account_id = :buffer;

-- Fewer, none, more: the total stays, what was posted is folded into the row.
SELECT ledger.set_account_stripes(:buffer, 3, 'fewer');
SELECT ledger.credit_user_usdc(:alice, 10, 'deposit') > 0 AS posted;
SELECT * FROM public.rows;
SELECT ledger.set_account_stripes(:buffer, 0, 'one row');
SELECT ledger.debit_user_usdc(:alice, 30, 'withdrawal') > 0 AS posted;
SELECT * FROM public.rows;
SELECT e.transaction_id, e.direction, e.amount, e.balance_after FROM ledger.entries e WHERE e.account_id = :buffer ORDER BY 1;
SELECT ledger.set_account_stripes(:buffer, 1024, 'the most');
SELECT ledger.set_account_stripes(:buffer, 128, 'as many as before');
SELECT ledger.set_account_stripes(:buffer, 128, 'again');
SELECT * FROM public.rows;
SELECT ledger.get_account_balance(NULL, 'system_buffer_usdc');
SELECT l.status, l.min_balance, l.stripes, l.reason FROM ledger.account_status_log l ORDER BY l.id;

-- What is refused.
SELECT ledger.set_account_stripes(NULL, 1, 'x');
SELECT ledger.set_account_stripes(:buffer, NULL, 'x');
SELECT ledger.set_account_stripes(:buffer, 1, NULL);
SELECT ledger.set_account_stripes(:buffer, 1, '');
SELECT ledger.set_account_stripes(:buffer, 1, 'x', NULL);
SELECT ledger.set_account_stripes(:buffer, 1, 'x', '-1 s');
SELECT ledger.set_account_stripes(:buffer, -1, 'x');
SELECT ledger.set_account_stripes(:buffer, 1025, 'x');
SELECT ledger.set_account_stripes(:buffer, 2147483647, 'x');
SELECT ledger.set_account_stripes(4711, 1, 'x');
SELECT ledger.set_account_stripes(:alices, 1, 'a user''s account is never below zero');
SELECT ledger.set_account_stripes(:alices, 0, 'which it has');
BEGIN READ ONLY;
SELECT ledger.set_account_stripes(:buffer, 1, 'x');
ROLLBACK;
-- Not in a transaction that has posted, nor posting after it; several changes are one.
BEGIN;
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
SELECT ledger.set_account_stripes(:buffer, 1, 'x');
ROLLBACK;
BEGIN;
SELECT ledger.set_account_stripes(:buffer, 1, 'x');
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
ROLLBACK;
BEGIN;
SELECT ledger.set_account_stripes(:buffer, 1, 'x');
SELECT ledger.set_account_stripes(:buffer, 5, 'y');
SELECT ledger.set_account_stripes(:buffer, 0, 'z');
SELECT ledger.set_account_stripes(:buffer, 7, 'seven');
COMMIT;
SELECT * FROM public.rows;

-- Frozen, closed, open again.
SELECT ledger.set_account_status(:buffer, 'frozen', 'audit');
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit');
SELECT ledger.set_account_stripes(:buffer, 4, 'also while it is frozen');
SELECT ledger.set_account_status(:buffer, 'closed', 'there is money in its stripes');
SELECT ledger.set_account_status(:buffer, 'open', 'audit is over');
SELECT ledger.debit_user_usdc(:alice, 80, 'all of it') > 0 AS posted;
SELECT ledger.set_account_status(:buffer, 'closed', 'nothing is left');
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit');
SELECT ledger.set_account_status(:buffer, 'open', 'again');
SELECT ledger.credit_user_usdc(:alice, 50, 'deposit') > 0 AS posted;

-- A limit needs one row, so it makes one; and keeps it.
SELECT ledger.set_account_limit(:buffer, 'NaN', 'x');
SELECT ledger.set_account_limit(:buffer, 20, 'to be kept');
SELECT * FROM public.rows;
SELECT ledger.debit_user_usdc(:alice, 31, 'too much');
SELECT ledger.set_account_stripes(:buffer, 8, 'x');
SELECT ledger.set_account_limit(:buffer, NULL, 'no longer');
SELECT ledger.set_account_stripes(:buffer, 8, 'now it may');
SELECT ledger.set_account_limit(:buffer, NULL, 'no change of rows');
SELECT * FROM public.rows;

-- Types of one's own: with stripes from the beginning, never with a limit.
INSERT INTO ledger.account_types (name, owner, currency, normal_side, stripes) VALUES ('card_scheme', 'house', 'USDC', 'credit', 3);
INSERT INTO ledger.account_types (name, owner, currency, normal_side, stripes) VALUES ('too_many', 'house', 'USDC', 'credit', 1025);
INSERT INTO ledger.account_types (name, owner, currency, normal_side, stripes) VALUES ('too_few', 'house', 'USDC', 'credit', -1);
INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance, stripes) VALUES ('with_limit', 'house', 'USDC', 'credit', 0, 3);
INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance, stripes) VALUES ('of_users', 'user', 'USDC', 'credit', 0, 3);
UPDATE ledger.account_types SET stripes = 0 WHERE name = 'system_buffer_usdc';
SELECT ledger.post('fee', ARRAY[ROW(:alices, ledger.open_account('card_scheme'), 5)::ledger.posting]) > 0 AS posted;
UPDATE ledger.account_types SET stripes = 5 WHERE name = 'card_scheme';
SELECT ledger.post('fee', ARRAY[ROW(:alices, ledger.open_account('card_scheme'), 5)::ledger.posting]) > 0 AS posted;
SELECT * FROM public.rows;
-- A limit that a type gets later is not checked on its striped accounts: verify() names them.
BEGIN;
UPDATE ledger.account_types SET stripes = 0, min_balance = 0 WHERE name = 'card_scheme';
SELECT v.detail FROM ledger.verify() v WHERE NOT v.passed;
ROLLBACK;

-- A restore copies rows in; nothing else writes the table but the ledger.
BEGIN;
COPY ledger.account_stripes FROM STDIN WITH (DELIMITER ',');
4711,0,0,0,0
\.
ROLLBACK;
UPDATE ledger.account_stripes SET debits = 0;
DELETE FROM ledger.account_stripes;
TRUNCATE ledger.account_stripes;

-- 5,000 transactions neither make the table grow nor touch its index.
SELECT ledger.set_account_stripes(:buffer, 128, 'as shipped');
SELECT pg_relation_size('ledger.account_stripes') AS size, pg_relation_size('ledger.account_stripes_pkey') AS index_size \gset
SELECT pg_stat_force_next_flush();
SELECT n_tup_upd AS updates, n_tup_hot_upd AS hot FROM pg_stat_user_tables WHERE relid = 'ledger.account_stripes'::regclass \gset
DO $$
BEGIN
	FOR i IN 1 .. 5000 LOOP
		PERFORM ledger.credit_user_usdc('00000000-0000-4000-8000-0000000000a1', 0.01, 'deposit');
		COMMIT;
	END LOOP;
END $$;
SELECT pg_stat_force_next_flush();
SELECT pg_relation_size('ledger.account_stripes') = :size AS same_size, pg_relation_size('ledger.account_stripes_pkey') = :index_size AS same_index_size;
SELECT n_tup_upd - :updates AS updates, n_tup_hot_upd - :hot >= 0.99 * (n_tup_upd - :updates) AS hot
FROM pg_stat_user_tables WHERE relid = 'ledger.account_stripes'::regclass;

-- Many postings in one transaction, every other of them rolled back: the last
-- 500 read about as many pages as the first. Fails without the places.
CREATE FUNCTION public.many(n int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		BEGIN
			PERFORM ledger.credit_user_usdc('00000000-0000-4000-8000-0000000000a1', 0.01, 'deposit');
			IF i % 2 = 0 THEN
				RAISE EXCEPTION USING ERRCODE = 'ZZ999';
			END IF;
		EXCEPTION WHEN SQLSTATE 'ZZ999' THEN
			NULL;
		END;
	END LOOP;
END $$;
CREATE FUNCTION public.pages(n int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE format('EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT public.many(%s)', n) INTO plan;
	RETURN (plan #>> '{0,Plan,Shared Hit Blocks}')::bigint + (plan #>> '{0,Plan,Shared Read Blocks}')::bigint;
END $$;
BEGIN;
SELECT public.many(10);
SELECT public.pages(500) AS first \gset
SELECT public.many(5000);
SELECT public.pages(500) < 1.5 * :first AS linear;
COMMIT;
SELECT * FROM public.ledger_oracle();
SELECT * FROM ledger.verify() v WHERE NOT v.passed;

\set ECHO none
\i :done
