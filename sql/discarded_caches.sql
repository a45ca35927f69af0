--
-- Whatever a call does, an invalidation may come in the middle of it. A server
-- with assertions can send every one that is possible (make test-cassert), on
-- another these are calls like any. Fails there if a call waits for a cache that
-- nobody leaves it, or goes on with a part of one that has been taken away.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_discarded_caches
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
CREATE TYPE public.kind AS ENUM ('chain', 'broker');
CREATE TABLE public.wallets (
	customer int, kind public.kind, cents bigint NOT NULL DEFAULT 0, currency text NOT NULL DEFAULT 'USD',
	PRIMARY KEY (kind, customer)
) PARTITION BY LIST (kind);
CREATE TABLE public.wallets_chain PARTITION OF public.wallets FOR VALUES IN ('chain');
CREATE TABLE public.wallets_broker PARTITION OF public.wallets FOR VALUES IN ('broker');
INSERT INTO public.wallets VALUES (1, 'chain', 5000), (1, 'broker', 10000);
SELECT ledger.integer_to_uuid(1) AS first \gset
\set mapping '{"columns": [{"column": "cents", "accounts": ["usdc_balance", "pending_investment"], "unit": 0.01, "where": {"kind": "chain"}}, {"column": "cents", "accounts": ["fiat_exposure"], "unit": 0.01, "where": {"kind": "broker"}}], "constants": {"currency": "USD"}}'
SET statement_timeout = '5min';
SELECT LEAST(max_val::int, 1) AS all_of_them FROM pg_settings WHERE name = 'debug_discard_caches' \gset
\set ECHO all

-- A table that runs nobody's code.
SELECT check_name FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT shadow_mode FROM ledger.configure(shadow_mode => true, strict_mode => true);
SET debug_discard_caches = :all_of_them;
SELECT ledger.credit_user_usdc(:alice, 10, 'deposit');
SELECT item, result FROM ledger.post_batch(ARRAY[ROW('deposit', NULL, NULL, 5, NULL, :bob,
	'system_buffer_usdc', 'usdc_balance', NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer]);
SELECT ledger.get_account_balance(:alice, 'usdc_balance');
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :bob;
SELECT right(user_id::text, 1) AS who, legacy_column, difference FROM ledger.reconcile();
SELECT legacy_column, before, after FROM ledger.repair_user(:bob, 'legacy', false, NULL, 'a test');
RESET debug_discard_caches;
SELECT shadow_mode FROM ledger.configure(shadow_mode => false, strict_mode => false);
SELECT ledger.detach_legacy('balances');

-- One with partitions, conditions, constants, integers as keys, and a trigger.
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER keep BEFORE UPDATE ON wallets FOR EACH ROW EXECUTE FUNCTION keep();
SELECT check_name FROM ledger.attach_legacy('wallets', :'mapping', 'customer', 'post') WHERE check_name = 'attached';
SET debug_discard_caches = :all_of_them;
UPDATE wallets SET cents = cents + 100 WHERE customer = 1;
RESET debug_discard_caches;
SELECT kind, deltas, transaction_id > 0 AS posted FROM ledger.legacy_writes WHERE mapping_id = 2 ORDER BY id;
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SET debug_discard_caches = :all_of_them;
SELECT ledger.credit_user_usdc(:'first', 10, 'deposit');
SELECT legacy_column, ledger_value, legacy_value, status FROM ledger.compare_balances(:'first');
RESET debug_discard_caches;
SELECT * FROM wallets ORDER BY 1, 2;
SELECT * FROM public.ledger_oracle();

-- What is dropped in a transaction is not kept to its end.
BEGIN;
DO $$
BEGIN
	FOR i IN 1 .. 20 LOOP
		PERFORM ledger.credit_user_usdc(ledger.integer_to_uuid(1), 1, 'deposit');
		ANALYZE ledger.accounts, ledger.journal;
	END LOOP;
END
$$;
-- PostgreSQL 18 has a path instead of the parent's name
WITH context AS MATERIALIZED (SELECT to_jsonb(c) AS c FROM pg_backend_memory_contexts c)
SELECT count(*) FROM context WHERE c ->> 'name' = 'ledger store' AND (c ->> 'parent' = 'TopTransactionContext'
	OR c -> 'path' @> (SELECT jsonb_build_array(t.c -> 'path' -> -1) FROM context t WHERE t.c ->> 'name' = 'TopTransactionContext'));
COMMIT;

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
