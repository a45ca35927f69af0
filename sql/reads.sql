--
-- Reads: balances, views, what a reader may see.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database ledger_reads
\set fresh :srcdir '/test/lib/fresh.sql'
\set done :srcdir '/test/lib/done.sql'
\i :fresh
\set ECHO all
SELECT * FROM ledger.get_user_balance(:nobody);
SELECT * FROM ledger.get_balance(:nobody);
SELECT ledger.get_account_balance(:nobody, 'usdc_balance'), ledger.check_available_balance(:nobody, 0.01, 'usdc_balance');

SELECT ledger.credit_user_usdc(:alice, 100.000000000000000000, 'deposit', public.id('d1')) AS d1 \gset
SELECT ledger.reserve_for_investment(:alice, 40, public.id('o1')) > 0 AS posted;
SELECT ledger.execute_investment(:alice, 25.125, public.id('o1'), 'fill') > 0 AS posted;
SELECT * FROM ledger.get_user_balance(:alice);
SELECT * FROM ledger.get_balance(:alice);
SELECT t, ledger.get_account_balance(:alice, t) FROM unnest(ARRAY['usdc_balance', 'pending_investment', 'fiat_exposure']) t;
SELECT t, ledger.get_account_balance(NULL, t) FROM unnest(ARRAY['system_buffer_usdc', 'broker_operational']) t;
SELECT ledger.check_available_balance(:alice, 60, 'usdc_balance') AS all_of_it, ledger.check_available_balance(:alice, 60.01, 'usdc_balance') AS more;
SELECT ledger.find_transaction('credit_user_usdc:deposit:' || public.id('d1')) = :d1 AS found, ledger.find_transaction('credit_user_usdc:deposit:' || public.id('d2')) AS not_found;

-- For many users at once, in joins and subqueries, in one statement with what moves.
SELECT p.name, b.usdc_balance, b.total_value FROM public.people p, LATERAL ledger.get_user_balance(p.id) b ORDER BY p.name;
SELECT (ledger.get_user_balance(:alice)).usdc_balance;
SELECT count(*) FROM public.people p WHERE ledger.check_available_balance(p.id, 1, 'usdc_balance');

-- Refused.
SELECT ledger.get_account_balance(:alice, 'nonsense');
SELECT ledger.get_account_balance(NULL, 'usdc_balance');
SELECT ledger.get_account_balance(:alice, 'system_buffer_usdc');
SELECT ledger.get_account_balance(NULL, 'fx_clearing');
SELECT ledger.check_available_balance(:alice, 0, 'usdc_balance');
SELECT ledger.get_user_balance(NULL);
SELECT ledger.find_transaction(NULL);
SELECT ledger.find_transaction('');

-- One index scan reads all of a user's accounts.
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT b.account_type, b.balance FROM ledger.account_balances b WHERE b.user_id = :alice;
EXPLAIN (COSTS OFF) SELECT * FROM ledger.transactions t WHERE t.id = 1;
EXPLAIN (COSTS OFF) SELECT * FROM ledger.entries e WHERE e.transaction_id = 1;
EXPLAIN (COSTS OFF) SELECT * FROM ledger.reservations r WHERE r.order_id = public.id('o1');
RESET enable_seqscan;

-- Many users: the list is cut before balances are read, by function or by view.
CREATE TABLE public.customers AS SELECT public.id('customer ' || n) AS id, 'customer ' || n AS name FROM generate_series(1, 1000) n;
ALTER TABLE public.customers ADD PRIMARY KEY (id);
SELECT count(ledger.credit_user_usdc(c.id, 1, 'deposit')) FROM public.customers c;
ANALYZE public.customers;
ANALYZE ledger.accounts;
EXPLAIN (COSTS OFF) SELECT c.name, ledger.get_account_balance(c.id, 'usdc_balance') FROM public.customers c ORDER BY c.name LIMIT 10;
EXPLAIN (COSTS OFF) SELECT c.name, b.balance FROM public.customers c
	JOIN ledger.account_balances b ON b.user_id = c.id AND b.account_type = 'usdc_balance' WHERE c.name = 'customer 7';
EXPLAIN (COSTS OFF) SELECT sum(b.balance) FROM public.customers c
	JOIN ledger.account_balances b ON b.user_id = c.id AND b.account_type = 'usdc_balance';
SELECT sum(b.balance) = sum(ledger.get_account_balance(c.id, 'usdc_balance')) AS agree FROM public.customers c
	JOIN ledger.account_balances b ON b.user_id = c.id AND b.account_type = 'usdc_balance';

-- A snapshot is a snapshot: the later postings are not in it.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT b.usdc_balance FROM ledger.get_user_balance(:alice) b;
SELECT ledger.credit_user_usdc(:alice, 1, 'mine') > 0 AS posted;
SELECT b.usdc_balance FROM ledger.get_user_balance(:alice) b;
ROLLBACK;

-- A cursor that is open keeps what it began with.
BEGIN;
DECLARE c CURSOR FOR SELECT b.usdc_balance FROM generate_series(1, 2), LATERAL ledger.get_user_balance(:alice) b;
FETCH c;
SELECT ledger.credit_user_usdc(:alice, 1, 'in between') > 0 AS posted;
FETCH c;
SELECT b.usdc_balance FROM ledger.get_user_balance(:alice) b;
COMMIT;

SELECT * FROM public.ledger_oracle();
\set ECHO none
\i :done
