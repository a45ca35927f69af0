--
-- In somebody's transaction: savepoints, exception blocks, functions,
-- triggers, several calls in a statement, cursors, read-only transactions,
-- parallel plans, one transaction with very many calls.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database ledger_transactions
\set fresh :srcdir '/test/lib/fresh.sql'
\set done :srcdir '/test/lib/done.sql'
\i :fresh
\set ECHO all

-- A savepoint that is rolled back takes with it what was posted since.
BEGIN;
SELECT ledger.credit_user_usdc(:alice, 100, 'stays', public.id('d1')) AS d1 \gset
SAVEPOINT one;
SELECT ledger.credit_user_usdc(:alice, 50, 'goes', public.id('d2')) AS d2 \gset
SELECT ledger.reserve_for_investment(:alice, 150, public.id('o1')) > 0 AS posted;
SAVEPOINT two;
SELECT ledger.execute_investment(:alice, 150, public.id('o1'), 'fill') > 0 AS posted;
SELECT public.has(:alice) AS "usdc, pending, fiat";
ROLLBACK TO two;
SELECT public.has(:alice) AS "usdc, pending, fiat";
SELECT ledger.execute_investment(:alice, 30, public.id('o1'), 'fill') > 0 AS posted;
SELECT public.has(:alice) AS "usdc, pending, fiat";
ROLLBACK TO one;
SELECT public.has(:alice) AS "usdc, pending, fiat";
SELECT ledger.find_transaction('credit_user_usdc:deposit:' || public.id('d2')) AS gone;
SELECT ledger.credit_user_usdc(:alice, 50, 'once more', public.id('d2')) > :d2 AS posted_anew;
SELECT ledger.credit_user_usdc(:alice, 100, 'stays', public.id('d1')) = :d1 AS replayed;
COMMIT;
SELECT public.has(:alice) AS "usdc, pending, fiat";
SELECT * FROM public.ledger_oracle();

-- Rolled back as a whole: nothing, and the key is free.
BEGIN;
SELECT ledger.credit_user_usdc(:bob, 10, 'goes', public.id('d3')) > 0 AS posted;
ROLLBACK;
SELECT count(*) AS accounts_of_bob FROM ledger.account_balances b WHERE b.user_id = :bob;
SELECT ledger.credit_user_usdc(:bob, 10, 'stays', public.id('d3')) > 0 AS posted;

-- An error in the middle, caught: what was before it stays.
DO $$
DECLARE
	alice CONSTANT uuid := '00000000-0000-4000-8000-0000000000a1';
	caught int := 0;
BEGIN
	FOR n IN 1 .. 200 LOOP
		BEGIN
			PERFORM ledger.credit_user_usdc(alice, 1, 'in a block');
			IF n % 3 = 0 THEN
				PERFORM ledger.debit_user_usdc(alice, 1000000, 'too much');
			ELSIF n % 5 = 0 THEN
				RAISE EXCEPTION 'our own' USING ERRCODE = 'LG999';
			END IF;
		EXCEPTION
			WHEN SQLSTATE 'LG001' OR SQLSTATE 'LG999' THEN
				caught := caught + 1;
		END;
	END LOOP;
	RAISE NOTICE 'caught %', caught;
END
$$;
SELECT public.has(:alice) AS "usdc, pending, fiat";
SELECT * FROM public.ledger_oracle();

-- Blocks in blocks, 100 deep: the inner 50 are rolled back together.
CREATE FUNCTION public.deep(level int) RETURNS void
	LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM ledger.credit_user_usdc('00000000-0000-4000-8000-0000000000b1', 1, 'level ' || level);
	IF level < 100 THEN
		BEGIN
			PERFORM public.deep(level + 1);
			IF level = 50 THEN
				RAISE EXCEPTION 'back' USING ERRCODE = 'LG999';
			END IF;
		EXCEPTION WHEN SQLSTATE 'LG999' THEN
			NULL;
		END;
	END IF;
END
$$;
SELECT public.deep(1);
SELECT public.has(:bob) AS "usdc, pending, fiat";

-- Functions and triggers post in the transaction of the statement.
CREATE TABLE public.payments (id uuid PRIMARY KEY, payer uuid, amount numeric, transaction_id bigint);
CREATE FUNCTION public.pay() RETURNS trigger
	LANGUAGE plpgsql
AS $$
BEGIN
	NEW.transaction_id := ledger.debit_user_usdc(NEW.payer, NEW.amount, 'payment', NEW.id, 'payment');
	RETURN NEW;
END
$$;
CREATE TRIGGER pay BEFORE INSERT ON public.payments FOR EACH ROW EXECUTE FUNCTION public.pay();
INSERT INTO public.payments (id, payer, amount) VALUES (public.id('p1'), :alice, 7), (public.id('p2'), :alice, 8);
SELECT public.has(:alice) AS "usdc, pending, fiat";
INSERT INTO public.payments (id, payer, amount) VALUES (public.id('p3'), :alice, 9), (public.id('p4'), :alice, 100000);
INSERT INTO public.payments (id, payer, amount) VALUES (public.id('p1'), :alice, 7) ON CONFLICT DO NOTHING;
SELECT public.has(:alice) AS "usdc, pending, fiat", (SELECT count(*) FROM public.payments) AS payments;

-- A deferred trigger posts at commit, or the commit fails.
CREATE FUNCTION public.fee() RETURNS trigger
	LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM ledger.debit_user_usdc(NEW.payer, 0.5, 'fee', NEW.id, 'fee');
	RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER fee AFTER INSERT ON public.payments DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.fee();
BEGIN;
INSERT INTO public.payments (id, payer, amount) VALUES (public.id('p5'), :alice, 10);
SELECT public.has(:alice) AS "before the commit";
COMMIT;
SELECT public.has(:alice) AS "after it";
BEGIN;
INSERT INTO public.payments (id, payer, amount) SELECT public.id('p6'), :alice, b.usdc_balance FROM ledger.get_user_balance(:alice) b;
COMMIT;
SELECT public.has(:alice) AS "as before";

-- Several calls in one statement, in the order in which the executor gets to them.
SELECT ledger.credit_user_usdc(:carol, 10, 'in') > 0 AS posted, ledger.debit_user_usdc(:carol, 4, 'out') > 0 AS posted, ledger.reserve_for_investment(:carol, 6) > 0 AS posted;
SELECT public.has(:carol) AS "usdc, pending, fiat";
SELECT count(DISTINCT ledger.credit_user_usdc(:carol, n, 'n')) FROM generate_series(1, 100) n;
SELECT public.has(:carol) AS "usdc, pending, fiat";
SELECT count(DISTINCT ledger.credit_user_usdc(:carol, 1, 'the same each time', public.id('same'))) FROM generate_series(1, 100) n;
-- As with INSERT … RETURNING, a statement does not see what it has posted; a
-- volatile function in it does.
WITH paid AS (
	SELECT p.name, ledger.credit_user_usdc(p.id, 5, 'bonus') AS id FROM public.people p WHERE p.name IN ('alice', 'bob', 'carol') ORDER BY p.name
)
SELECT paid.name, t.type, public.postings(paid.id) FROM paid LEFT JOIN ledger.transactions t USING (id) ORDER BY 1;
SELECT ledger.credit_user_usdc(:dave, 1, 'first') > 0 AND ledger.debit_user_usdc(:dave, 1, 'second') > 0 AS posted;
SELECT CASE WHEN false THEN ledger.credit_user_usdc(:dave, 1, 'never') END AS not_called;
UPDATE public.payments SET transaction_id = ledger.credit_user_usdc(payer, amount, 'refund', id, 'refund') WHERE id = public.id('p1');
SELECT count(*) AS refunds FROM ledger.transactions t WHERE t.reference_type = 'refund';

-- One call in the middle of others fails: all of the statement goes.
SELECT ledger.credit_user_usdc(:dave, 1, 'n') FROM generate_series(1, 5) n WHERE n < 5 OR ledger.debit_user_usdc(:dave, 1000, 'too much') > 0;
SELECT public.has(:dave) AS "usdc, pending, fiat";

-- Procedures that commit.
CREATE PROCEDURE public.in_steps()
	LANGUAGE plpgsql
AS $$
BEGIN
	FOR n IN 1 .. 4 LOOP
		PERFORM ledger.credit_user_usdc('00000000-0000-4000-8000-0000000000d1', n, 'step ' || n);
		IF n % 2 = 0 THEN
			COMMIT;
		ELSE
			ROLLBACK;
		END IF;
	END LOOP;
END
$$;
CALL public.in_steps();
SELECT public.has(:dave) AS "usdc, pending, fiat";

-- Read-only transactions read and refuse the rest.
BEGIN READ ONLY;
SELECT public.has(:alice) AS "usdc, pending, fiat";
SAVEPOINT s;
SELECT ledger.credit_user_usdc(:alice, 1, 'x');
ROLLBACK TO s;
SELECT ledger.expire_reservations();
ROLLBACK TO s;
SELECT ledger.open_account('usdc_balance', :nobody);
ROLLBACK;

-- The settings, and what a savepoint takes back.
BEGIN;
SAVEPOINT s;
SELECT c.strict_mode FROM ledger.configure(strict_mode => true) c;
SELECT ledger.credit_user_usdc(:alice, 1, 'x');
ROLLBACK TO s;
SELECT ledger.credit_user_usdc(:alice, 1, 'the settings are as before') > 0 AS posted;
SELECT c.strict_mode FROM ledger.configure(strict_mode => true) c;
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT ledger.credit_user_usdc(:alice, 1, 'not posted') > 0 AS posted;
ROLLBACK TO s;
SELECT c.strict_mode FROM ledger.configure(strict_mode => true) c;
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT ledger.credit_user_usdc(:alice, 1, 'posted') > 0 AS posted;
RELEASE s;
SELECT c.strict_mode FROM ledger.configure(strict_mode => true) c;
ROLLBACK;
SELECT count(*) AS settings FROM ledger.settings;

-- Parallel plans: reads run in workers or in the leader, movements in none.
CREATE TABLE public.many AS SELECT n, 'credit_user_usdc:deposit:' || public.id('d' || n) AS key FROM generate_series(1, 20000) n;
ALTER TABLE public.many SET (parallel_workers = 2);
ANALYZE public.many;
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
EXPLAIN (COSTS OFF) SELECT count(ledger.find_transaction(m.key)) FROM public.many m;
SELECT count(ledger.find_transaction(m.key)) FROM public.many m;
EXPLAIN (COSTS OFF) SELECT count(*) FROM public.many m WHERE ledger.credit_user_usdc(:alice, 1, m.key) < 0;
SELECT sum(b.usdc_balance) > 0 AS read FROM public.many m, public.people p, LATERAL ledger.get_user_balance(p.id) b WHERE m.n < 10;
-- it has another name since PostgreSQL 16
SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT public.has(:alice) = public.has(:alice) AS same;
SELECT ledger.get_account_balance(:bob, 'usdc_balance');
SELECT ledger.credit_user_usdc(:bob, 0.01, 'in parallel mode') > 0 AS posted;
SELECT count(*) > 0 AS some FROM ledger.user_history(:bob);
SELECT * FROM public.ledger_oracle();
SELECT set_config(name, 'off', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
RESET max_parallel_workers_per_gather;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;

-- Each isolation level; a transaction sees what it has posted itself.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT ledger.credit_user_usdc(:dave, 1, 'a') > 0 AND ledger.debit_user_usdc(:dave, 1, 'b') > 0 AS posted;
SELECT ledger.credit_user_usdc(:dave, 2, 'c', public.id('rr')) = ledger.credit_user_usdc(:dave, 2, 'c', public.id('rr')) AS replayed;
SELECT public.has(:dave) AS "usdc, pending, fiat";
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT ledger.reserve_for_investment(:dave, 3, public.id('ser')) > 0 AS posted;
SELECT ledger.execute_investment(:dave, 1, public.id('ser'), 'a') > 0 AND ledger.execute_investment(:dave, 1, public.id('ser'), 'b') > 0 AS posted;
SELECT ledger.release_reservation(:dave, NULL, public.id('ser')) > 0 AS posted;
SELECT public.has(:dave) AS "usdc, pending, fiat";
COMMIT;

-- Very many calls in one transaction.
BEGIN;
SELECT count(ledger.credit_user_usdc(:dave, 0.01, 'n')) FROM generate_series(1, 10000);
SELECT public.has(:dave) AS "usdc, pending, fiat";
COMMIT;
SELECT b.version > 10000 AS moved FROM ledger.account_balances b WHERE b.user_id = :dave AND b.account_type = 'usdc_balance';

SELECT * FROM public.ledger_oracle();
\set ECHO none
\i :done
