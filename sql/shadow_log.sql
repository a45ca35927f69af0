--
-- What shadow mode says in messages and in the server log: others watch for these lines.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_shadow_log
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set ECHO all
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT ledger.configure(shadow_mode => true);
INSERT INTO balances (user_id, buying_power, pending_deposits) VALUES (:dave, 90, 0);

-- Opened and in sync: nothing is said, unless it is asked for.
SELECT ledger.credit_user_usdc(:dave, 5, 'deposit') > 0 AS posted;
SELECT usdc_balance FROM ledger.get_user_balance(:dave);
SET client_min_messages = debug1;
SELECT usdc_balance FROM ledger.get_user_balance(:dave);
RESET client_min_messages;
SET ledger.log_in_sync = 'notice';
SELECT usdc_balance FROM ledger.get_user_balance(:dave);
SELECT ledger.credit_user_usdc(:dave, 5, 'deposit') > 0 AS posted;
-- a user whom nobody knows has nothing on either side
SELECT usdc_balance FROM ledger.get_user_balance('00000000-0000-4000-8000-0000000000ff');
SET ledger.log_in_sync = 'debug5';

-- They differ.
UPDATE balances SET buying_power = 100 WHERE user_id = :dave;
SELECT fiat_exposure FROM ledger.get_user_balance(:dave);
SELECT ledger.move_funds_to_fiat_exposure(:dave, 5, 'after it') > 0 AS posted;
-- what this transaction is at work on is neither
BEGIN;
SELECT ledger.move_funds_to_usdc(:dave, 5, 'and back') > 0 AS posted;
SET client_min_messages = debug1;
SET ledger.log_in_sync = 'notice';
SELECT fiat_exposure FROM ledger.get_user_balance(:dave);
RESET client_min_messages;
COMMIT;
RESET ledger.log_in_sync;

-- Strict.
SELECT ledger.configure(strict_mode => true);
SELECT fiat_exposure FROM ledger.get_user_balance(:dave);
BEGIN;
SELECT ledger.move_funds_to_usdc(:dave, 5, 'not with that difference') > 0 AS posted;
COMMIT;

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
