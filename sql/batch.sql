--
-- Batches: post_batch() and ledger.inbox. Each item is what post() would do,
-- or would say; together they are one call.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database ledger_batch
\set fresh :srcdir '/test/lib/fresh.sql'
\set done :srcdir '/test/lib/done.sql'
\i :fresh
\set SHOW_CONTEXT always
-- A transfer between accounts named by type; the user is named by the letter.
CREATE FUNCTION public.t(debit text, credit text, amount numeric, key text DEFAULT NULL, who text DEFAULT 'a',
	type text DEFAULT 'move', currency text DEFAULT NULL) RETURNS ledger.transfer LANGUAGE sql AS
$$ SELECT ROW(type, NULL, NULL, amount, key, ('00000000-0000-4000-8000-0000000000' || who || '1')::uuid, debit, credit,
	currency, NULL, NULL, NULL, NULL, NULL)::ledger.transfer $$;
-- The same by their ids.
CREATE FUNCTION public.i(debit bigint, credit bigint, amount numeric, key text DEFAULT NULL) RETURNS ledger.transfer LANGUAGE sql AS
$$ SELECT ROW('move', debit, credit, amount, key, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer $$;
CREATE VIEW public.balances AS
	SELECT public.label(b.account_id) AS account, b.debits, b.credits, b.balance, b.version FROM ledger.account_balances b ORDER BY 1;
CREATE VIEW public.posted AS
	SELECT t.id, t.type, t.reference_id IS NOT NULL AS reference, t.reference_type, t.description, t.metadata, t.effective_at <> t.created_at AS dated,
		e.direction, public.label(e.account_id) AS account, e.amount, e.balance_after
	FROM ledger.transactions t JOIN ledger.entries e ON e.transaction_id = t.id ORDER BY t.id, e.direction DESC;
CREATE VIEW public.clean AS
	SELECT public.ledger_oracle() AS problem UNION ALL SELECT check_name || ': ' || detail FROM ledger.verify() WHERE NOT passed;
\set ECHO all

-- Accounts are opened by themselves; an item sees what those before it left.
SELECT * FROM ledger.post_batch(ARRAY[
	t('system_buffer_usdc', 'usdc_balance', 100, 'k1'),
	t('usdc_balance', 'system_buffer_usdc', 60),
	t('usdc_balance', 'system_buffer_usdc', 40),
	t('system_buffer_usdc', 'usdc_balance', 0.000000000000000001, 'k2', 'b'),
	t('house_equity', 'system_buffer_fiat', 5, 'k3', currency => 'USD')]);
SELECT * FROM balances;
SELECT * FROM posted;
TABLE clean;

-- Every refusal as an item: what is refused leaves nothing behind.
SELECT ledger.open_account('usdc_balance', :alice) AS a, ledger.open_account('usdc_balance', :bob) AS b,
	ledger.open_account('system_buffer_usdc') AS house, ledger.open_account('system_buffer_fiat') AS fiat,
	ledger.open_account('fiat_exposure', :carol) AS c \gset
SELECT ledger.set_account_status(:c, 'frozen', 'test');
SELECT count(*) FROM ledger.account_balances;
SELECT * FROM ledger.post_batch(ARRAY[
	NULL,
	t('system_buffer_usdc', 'usdc_balance', 1, type => NULL),
	t('system_buffer_usdc', 'usdc_balance', 1, type => ''),
	t('system_buffer_usdc', 'usdc_balance', 1, type => repeat('x', 64)),
	t('no_such', 'usdc_balance', 1),
	t('', 'usdc_balance', 1),
	t(NULL, 'usdc_balance', 1),
	ROW('move', :a, NULL, 1, NULL, :alice, 'usdc_balance', 'usdc_balance', NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer,
	ROW('move', NULL, :house, 1, NULL, NULL, 'usdc_balance', NULL, NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer,
	t('system_buffer_usdc', 'usdc_balance', 1, currency => 'USD'),
	t('system_buffer_usdc', 'usdc_balance', 1, currency => 'XXX'),
	t('fx_clearing', 'usdc_balance', 1),
	ROW('move', :house, :a, 1, NULL, NULL, NULL, NULL, 'USDC', NULL, NULL, NULL, NULL, NULL)::ledger.transfer,
	t('system_buffer_usdc', 'usdc_balance', NULL),
	t('system_buffer_usdc', 'usdc_balance', 0),
	t('system_buffer_usdc', 'usdc_balance', -1),
	t('system_buffer_usdc', 'usdc_balance', 'NaN'),
	t('system_buffer_usdc', 'usdc_balance', 'Infinity'),
	t('system_buffer_usdc', 'usdc_balance', 1e20),
	t('system_buffer_usdc', 'usdc_balance', 1e-19),
	t('system_buffer_usdc', 'usdc_balance', 1e-1000),
	t('system_buffer_usdc', 'usdc_balance', 1, ''),
	t('system_buffer_usdc', 'usdc_balance', 1, repeat('k', 513)),
	ROW('move', :house, :a, 1, NULL, NULL, NULL, NULL, NULL, NULL, '', NULL, NULL, NULL)::ledger.transfer,
	ROW('move', :house, :a, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, repeat('d', 4097), NULL, NULL)::ledger.transfer,
	ROW('move', :house, :a, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, to_jsonb(repeat('m', 70000)), NULL)::ledger.transfer,
	ROW('move', :house, :a, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'infinity')::ledger.transfer,
	t('system_buffer_usdc', 'pending_investment', 1),
	t('usdc_balance', 'fiat_exposure', 1, who => 'd'),
	t('usdc_balance', 'usdc_balance', 1, who => 'd'),
	t('usdc_balance', 'system_buffer_usdc', 1, who => 'd'),
	t('system_buffer_fiat', 'fiat_exposure', 1, who => 'c'),
	i(:house, :a, 7),
	i(:house, 999, 1),
	i(0, -1, 1),
	i(:house, :house, 1),
	i(:house, :fiat, 1),
	i(:a, :b, 8),
	i(:a, :b, 7),
	i(:fiat, :c, 1)], 'continue');
SELECT count(*) FROM ledger.account_balances;
TABLE clean;

-- Keys: replays within a batch, of a batch, of post(); of references.
SELECT * FROM ledger.post_batch(ARRAY[
	t('system_buffer_usdc', 'usdc_balance', 100, 'k1'),
	t('system_buffer_usdc', 'usdc_balance', 101, 'k1'),
	t('system_buffer_usdc', 'usdc_balance', 100, 'k1', 'b'),
	t('usdc_balance', 'system_buffer_usdc', 100, 'k1'),
	t('system_buffer_usdc', 'usdc_balance', 100, 'k1', type => 'another'),
	t('system_buffer_usdc', 'fiat_exposure', 100, 'k1', 'd'),
	t('usdc_balance', 'system_buffer_usdc', 1000, 'k4'),
	t('usdc_balance', 'system_buffer_usdc', 1000, 'k4'),
	t('system_buffer_usdc', 'usdc_balance', 3, 'k4'),
	t('system_buffer_usdc', 'usdc_balance', 3.00, 'k4'),
	t('system_buffer_usdc', 'usdc_balance', 4, 'k4'),
	ROW('move', :house, :a, 3, 'k4', :alice, NULL, NULL, NULL, NULL, NULL, 'not compared', NULL, NULL)::ledger.transfer], 'continue');
SELECT ledger.post('move', ARRAY[ROW(:house, :a, 3)::ledger.posting], 'k4', :alice) AS replay;
SELECT ledger.post('fee', ARRAY[ROW(:house, :b, 9)::ledger.posting], NULL, NULL, public.id('r1')) AS by_reference,
	ledger.post('fee', ARRAY[ROW(:house, :b, 9)::ledger.posting], 'k5') AS by_key;
SELECT * FROM ledger.post_batch(ARRAY[
	ROW('fee', :house, :b, 9, NULL, NULL, NULL, NULL, NULL, public.id('r1'), NULL, NULL, NULL, NULL)::ledger.transfer,
	ROW('fee', :house, :b, 9, NULL, NULL, NULL, NULL, NULL, public.id('r1'), 'fee', NULL, NULL, NULL)::ledger.transfer,
	ROW('fee', :house, :b, 9, NULL, NULL, NULL, NULL, NULL, public.id('r1'), 'other', 'a note', '{"n": 1}', '2024-02-29')::ledger.transfer,
	ROW('fee', :house, :b, 9, 'k5', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer,
	ROW('fee', :house, :b, 9, 'k5', NULL, NULL, NULL, NULL, public.id('r1'), NULL, NULL, NULL, NULL)::ledger.transfer], 'continue');
SELECT ledger.reverse_transaction(ledger.find_transaction('k5'), 'a mistake') AS reversal;
SELECT * FROM ledger.post_batch(ARRAY[
	ROW('fee', :house, :b, 9, 'k5', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer], 'continue');
SELECT * FROM balances;
SELECT * FROM posted WHERE id > 6;
TABLE clean;

-- All or nothing: the first that is refused says so, by its number.
SELECT * FROM ledger.post_batch(ARRAY[i(:house, :a, 1), i(:a, :b, 1000), i(999, :b, 1)]);
SELECT * FROM ledger.post_batch(ARRAY[i(:house, :a, 1), i(999, :b, 1), i(:a, :b, 1000)], 'stop');
SELECT * FROM ledger.post_batch(ARRAY[i(:house, :a, 1, 'k6'), i(:house, :a, 2, 'k6')]);
SELECT * FROM ledger.post_batch(ARRAY[i(:house, :a, 1), t('usdc_balance', 'system_buffer_usdc', 1, 'k7', 'e')]);
SELECT * FROM ledger.post_batch(ARRAY[i(:house, :a, 1), NULL]);
SELECT count(*) FROM ledger.account_balances;
TABLE clean;

-- What is wrong with the call.
SELECT * FROM ledger.post_batch(NULL);
SELECT * FROM ledger.post_batch('{}', NULL);
SELECT * FROM ledger.post_batch('{}', 'ignore');
SELECT * FROM ledger.post_batch('{}');
SELECT * FROM ledger.post_batch(ARRAY[ARRAY[i(1, 2, 1)], ARRAY[i(1, 2, 1)]]);
SELECT * FROM ledger.post_batch(array_fill(NULL::ledger.transfer, ARRAY[100001]));
SELECT count(*), min(result) FROM ledger.post_batch(array_fill(NULL::ledger.transfer, ARRAY[100000]), 'continue');
BEGIN READ ONLY;
SELECT * FROM ledger.post_batch(ARRAY[i(:house, :a, 1)]);
ROLLBACK;
BEGIN;
ALTER TYPE ledger.transfer DROP ATTRIBUTE amount;
SELECT * FROM ledger.post_batch(ARRAY[NULL::ledger.transfer]);
ROLLBACK;
BEGIN;
ALTER TYPE ledger.transfer ADD ATTRIBUTE more text;
SELECT * FROM ledger.post_batch(ARRAY[ROW('move', :house, :a, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'more')::ledger.transfer]);
ROLLBACK;

-- Savepoints, several batches in a transaction.
BEGIN;
SELECT result FROM ledger.post_batch(ARRAY[i(:house, :a, 1, 's1')]);
SAVEPOINT s;
SELECT result FROM ledger.post_batch(ARRAY[i(:house, :a, 10, 's2'), i(:a, :b, 2, 's3')]);
ROLLBACK TO s;
SELECT result FROM ledger.post_batch(ARRAY[i(:house, :a, 10, 's2'), i(:a, :b, 2, 's3'), i(:house, :a, 1, 's1')]);
SELECT result FROM ledger.post_batch(ARRAY[i(:house, :a, 10, 's2'), i(:a, :b, 3, 's3'), i(:house, :a, 1, 's4')], 'continue');
SELECT ledger.post('move', ARRAY[ROW(:house, :a, 1)::ledger.posting], 's5') > 0 AS posted;
SELECT result FROM ledger.post_batch(ARRAY[i(:house, :a, 1, 's5'), i(:house, :a, 1, 's6')]);
COMMIT;
SELECT * FROM balances;
TABLE clean;

-- An account that is named in two ways is one account; a limit that was raised.
SELECT * FROM ledger.post_batch(ARRAY[
	t('system_buffer_usdc', 'usdc_balance', 1), i(:house, :a, 1),
	ROW('move', :a, NULL, 1, NULL, :alice, NULL, 'usdc_balance', NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer,
	ROW('move', :a, NULL, 1, NULL, :alice, NULL, 'system_buffer_usdc', NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer], 'continue');
SELECT ledger.set_account_limit(:a, 1000, 'test');
SELECT * FROM ledger.post_batch(ARRAY[i(:a, :house, 1), i(:house, :a, 1), i(:a, :house, 1), i(:house, :a, 1000), i(:a, :house, 1)], 'continue');
SELECT ledger.set_account_limit(:a, NULL, 'test');
TABLE clean;

-- The inbox: COPY in each format, INSERT in each form. No row stays, none is returned.
COPY ledger.inbox (type, debit_type, credit_type, user_id, amount, idempotency_key) FROM STDIN;
deposit	system_buffer_usdc	usdc_balance	00000000-0000-4000-8000-0000000000a1	1	c1
deposit	system_buffer_usdc	usdc_balance	00000000-0000-4000-8000-0000000000e1	2	c2
deposit	system_buffer_usdc	usdc_balance	00000000-0000-4000-8000-0000000000a1	1	c1
\.
COPY ledger.inbox (type, debit_type, credit_type, user_id, amount, metadata) FROM STDIN (FORMAT csv, HEADER);
type,debit_type,credit_type,user_id,amount,metadata
deposit,system_buffer_usdc,usdc_balance,00000000-0000-4000-8000-0000000000e1,3,"{""csv"": true}"
\.
INSERT INTO ledger.inbox (type, debit_account, credit_account, amount) VALUES ('move', :house, :a, 1), ('move', :a, :b, 1) RETURNING *;
INSERT INTO ledger.inbox (type, debit_account, credit_account, amount, idempotency_key)
	SELECT 'many', :house, :a, 0.01, 'many ' || n FROM generate_series(1, 10001) n;
INSERT INTO ledger.inbox (type, debit_account, credit_account, amount) VALUES ('move', :house, :a, 1) ON CONFLICT DO NOTHING;
WITH w AS (INSERT INTO ledger.inbox (type, debit_account, credit_account, amount) VALUES ('move', :house, :a, 1) RETURNING 1),
	v AS (INSERT INTO ledger.inbox (type, debit_account, credit_account, amount) VALUES ('move', :house, :b, 1))
	SELECT count(*) FROM w;
INSERT INTO ledger.inbox (type) SELECT 'none' WHERE false;
TABLE ledger.inbox;
SELECT id, item, result, transaction_id, idempotency_key, message FROM ledger.inbox_results;
SELECT count(*), count(DISTINCT t.created_at) FROM ledger.transactions t WHERE t.type = 'many';
TABLE clean;

-- A transfer that is refused takes the statement back, or is left out.
INSERT INTO ledger.inbox (type, debit_account, credit_account, amount) VALUES ('move', :house, :a, 1), ('move', :a, 999, 1);
INSERT INTO ledger.inbox (type, debit_account, credit_account, amount)
	SELECT 'late', :house, :a, CASE WHEN n < 10003 THEN 1 END FROM generate_series(1, 10003) n;
SET ledger.inbox_on_error = 'continue';
SHOW ledger.inbox_on_error;
SET ledger.inbox_on_error = 'ignore';
INSERT INTO ledger.inbox (type, debit_account, credit_account, amount, idempotency_key)
	SELECT 'late', :house, :a, CASE WHEN n < 10003 THEN 1 END, 'late ' || n FROM generate_series(1, 10004) n WHERE n > 9998;
INSERT INTO ledger.inbox (type, debit_account, credit_account, amount) SELECT 'late', :house, :a, CASE WHEN n <> 10002 THEN 1 END FROM generate_series(1, 10003) n;
SELECT id, item, result, transaction_id, idempotency_key, message FROM ledger.inbox_results WHERE id > 1;
SELECT count(*) FROM ledger.transactions t WHERE t.type = 'late';
RESET ledger.inbox_on_error;
DELETE FROM ledger.inbox_results;

-- Nested: a trigger of the application's own, which inserts while it is inserted.
CREATE TABLE public.orders (n int);
CREATE FUNCTION public.pay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO ledger.inbox (type, debit_type, credit_type, user_id, amount) VALUES ('inner', 'system_buffer_usdc', 'usdc_balance', '00000000-0000-4000-8000-0000000000a1', NEW.n);
	RETURN NEW;
EXCEPTION WHEN OTHERS THEN
	RETURN NULL;
END
$$;
CREATE TRIGGER pay BEFORE INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION public.pay();
CREATE FUNCTION public.order_of(n int) RETURNS int LANGUAGE sql AS $$ INSERT INTO public.orders VALUES (n) RETURNING n $$;
INSERT INTO ledger.inbox (type, debit_type, credit_type, user_id, amount)
	SELECT 'outer', 'system_buffer_usdc', 'usdc_balance', :alice, n + public.order_of(n) FROM generate_series(1, 2) n;
INSERT INTO public.orders VALUES (-1), (5);
SELECT t.type, e.amount FROM ledger.transactions t JOIN ledger.entries e ON e.transaction_id = t.id
	WHERE t.type IN ('inner', 'outer') AND e.direction = 'credit' ORDER BY t.id;
TABLE public.orders;

-- Prepared, in the replica role, and with its triggers gone: never a row, never in silence.
BEGIN;
SET LOCAL session_replication_role = replica;
INSERT INTO ledger.inbox (type, debit_account, credit_account, amount) VALUES ('replica', :house, :a, 1);
COMMIT;
SELECT count(*) FROM ledger.transactions t WHERE t.type = 'replica';
BEGIN;
ALTER TABLE ledger.inbox DISABLE TRIGGER inbox_post;
INSERT INTO ledger.inbox (type, debit_account, credit_account, amount) VALUES ('lost', :house, :a, 1);
COMMIT;
BEGIN;
ALTER TABLE ledger.inbox DISABLE TRIGGER inbox_begin;
INSERT INTO ledger.inbox (type, debit_account, credit_account, amount) VALUES ('lost', :house, :a, 1);
ROLLBACK;
BEGIN;
ALTER TABLE ledger.inbox DISABLE TRIGGER USER;
INSERT INTO ledger.inbox (type, debit_account, credit_account, amount) VALUES ('lost', :house, :a, 1);
ROLLBACK;
CREATE TABLE public.other (LIKE ledger.inbox);
CREATE TRIGGER wrong BEFORE INSERT ON public.other EXECUTE FUNCTION ledger.inbox_post();
INSERT INTO public.other DEFAULT VALUES;
BEGIN;
ALTER TABLE ledger.inbox ADD COLUMN first text, ALTER COLUMN amount TYPE text;
INSERT INTO ledger.inbox (type, debit_account, credit_account, amount) VALUES ('move', :house, :a, 1);
ROLLBACK;
TABLE clean;

\i :done
