--
-- The proof of strict mode at PREPARE TRANSACTION. With the server's
-- max_prepared_transactions at 0 it has nothing to prove (shadow_prepare_1).
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_shadow_prepare
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set ECHO all
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT ledger.configure(shadow_mode => true, strict_mode => true);
BEGIN;
SELECT ledger.credit_user_usdc(:alice, 5, 'two phases') > 0 AS posted;
PREPARE TRANSACTION 'regress_ledger_1';
SELECT usdc_balance FROM ledger.get_user_balance(:alice);
COMMIT PREPARED 'regress_ledger_1';
SELECT usdc_balance FROM ledger.get_user_balance(:alice);
SELECT * FROM ledger.compare_balances(:alice);
BEGIN;
SELECT ledger.credit_user_usdc(:alice, 5, 'two phases') > 0 AS posted;
UPDATE balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :alice;
PREPARE TRANSACTION 'regress_ledger_2';
SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database();

SELECT * FROM public.ledger_oracle();

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
