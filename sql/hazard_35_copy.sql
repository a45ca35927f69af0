--
-- hazard 35: a copy of the database, made from it as a template, posts nothing
-- until resume(); reads work. The restore of a dump is test/t/002_dump.pl.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_original
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set ECHO all
\set VERBOSITY terse

-- An unused ledger is nobody's: a template may have it.
SELECT count(*) FROM ledger.identity;
CREATE DATABASE regress_ledger_copy TEMPLATE regress_ledger_original;
\c regress_ledger_copy
SELECT ledger.is_copy();
SELECT ledger.credit_user_usdc(:dave, 1, 'the first use here') > 0 AS posted;
SELECT database_oid = (SELECT oid FROM pg_database WHERE datname = current_database()) AS ours,
	system_identifier = (SELECT system_identifier FROM pg_control_system()) AS this_cluster FROM ledger.identity;
SELECT ledger.is_copy();
\c regress_ledger_original
DROP DATABASE regress_ledger_copy;

-- The attach is a first use as well. A posting that is rolled back is none.
BEGIN;
SELECT ledger.credit_user_usdc(:dave, 1, 'rolled back') > 0 AS posted;
SELECT count(*) FROM ledger.identity;
ROLLBACK;
SELECT count(*) FROM ledger.identity;
SELECT passed FROM ledger.attach_legacy(capture => 'record') WHERE check_name = 'attached';
SELECT count(*) FROM ledger.identity;
SELECT shadow_mode FROM ledger.configure(shadow_mode => true, reason => 'week 1');
SELECT ledger.credit_user_usdc(:alice, 5, 'in the original') > 0 AS posted;
SELECT ledger.reserve_for_investment(:alice, 2, NULL, clock_timestamp() - interval '1 second') > 0 AS posted;
CREATE ROLE regress_ledger_admin;
SELECT ledger.grant_access('regress_ledger_admin', 'admin');
\c postgres
CREATE DATABASE regress_ledger_copy TEMPLATE regress_ledger_original;
\c regress_ledger_copy
SELECT ledger.is_copy();

-- Nothing that posts: movements, batches, repairs that post, treasury, the worker.
\set VERBOSITY default
SELECT ledger.credit_user_usdc(:alice, 1, 'refused');
\set VERBOSITY terse
SELECT raises(format('SELECT ledger.%s', call)) ~ '^55000 this database is a copy' AS refused, call FROM unnest(ARRAY[
	$$fund_broker(1)$$, $$post('x', ARRAY[(1, 2, 1)::ledger.posting])$$, $$expire_reservations()$$,
	$$post_batch(ARRAY[ROW('x', NULL, NULL, 1, NULL, NULL, 'system_buffer_usdc', 'house_equity', 'USDC', NULL, NULL, NULL, NULL, NULL)::ledger.transfer])$$,
	$$reverse_transaction((SELECT max(id) - 1 FROM ledger.transactions), 'x')$$, $$open_account('fiat_exposure', '00000000-0000-4000-8000-00000000000b')$$,
	$$repair(dry_run => false, reason => 'x', user_id => '00000000-0000-4000-8000-00000000000b')$$]) call;
SELECT ledger.worker_expire(10);
-- Reads, comparing and settings go on; so does the old code, whose writes are recorded.
SELECT usdc_balance, pending_investment, source FROM ledger.get_user_balance(:alice);
SELECT right(user_id::text, 1) AS who, status FROM ledger.reconcile();
UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = :bob;
SELECT * FROM written;
SELECT gate, observed, hint FROM ledger.readiness() WHERE gate = 'no_copy';
SELECT copy FROM ledger.worker_status;
SELECT severity, firing, summary FROM ledger.alerts WHERE alert = 'LedgerCopy';
SELECT check_name FROM ledger.verify() WHERE NOT passed;
CALL ledger.cut_over(force => true, reason => 'it is a copy');
SELECT shadow_mode FROM ledger.configure(shadow_mode => false, reason => 'no mirror in the copy');

-- An admin makes it the ledger, with a reason.
SET ROLE regress_ledger_admin;
SELECT ledger.resume(NULL);
SELECT ledger.resume('for tests of the new release');
SELECT ledger.resume('once more');
RESET ROLE;
SELECT ledger.is_copy();
SELECT shadow_mode, changed_by, reason FROM ledger.settings_log ORDER BY id DESC LIMIT 1;
SELECT ledger.credit_user_usdc(:alice, 1, 'posted') > 0 AS posted;
SELECT ledger.worker_expire(10);
-- What the original's runs have seen says nothing here.
SELECT gate, observed FROM ledger.readiness() WHERE gate IN ('full_reconciliation', 'no_copy');
SELECT * FROM public.ledger_oracle();

\c regress_ledger_original
SELECT ledger.is_copy();
SELECT ledger.credit_user_usdc(:alice, 1, 'as before') > 0 AS posted;
\c postgres
DROP DATABASE regress_ledger_copy;
DROP DATABASE regress_ledger_original;
DROP ROLE regress_ledger_admin;
