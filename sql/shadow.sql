--
-- Shadow mode from attach to strict: openings, mirror, compare, reconcile.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_shadow
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set ECHO all

-- Before anything is attached the legacy table is nobody's.
SELECT * FROM ledger.compare_balances(:alice);
SELECT * FROM ledger.reconcile();
SELECT usdc_balance, fiat_exposure, source FROM ledger.get_user_balance(:alice);

SELECT check_name, passed, detail FROM ledger.attach_legacy() WHERE check_name = 'attached' OR NOT passed;
SELECT legacy, key_column, constants, capture, attached_by = current_user AS by_me, detached_at FROM ledger.legacy_mappings;
SELECT ordinal, legacy_column, accounts FROM ledger.legacy_columns ORDER BY ordinal;

-- Nobody is opened by the attach, and reads come from the legacy row.
SELECT count(*) FROM ledger.accounts;
SELECT usdc_balance, fiat_exposure, pending_investment, total_value, source FROM ledger.get_user_balance(:alice);
SELECT breakdown, source FROM ledger.get_balance(:alice);
SELECT ledger.get_account_balance(:alice, 'usdc_balance'), ledger.get_account_balance(:alice, 'fiat_exposure');
SELECT usdc_balance, source FROM ledger.get_user_balance(:dave);
SELECT * FROM ledger.reconcile();

-- Shadow off: the first posting opens, nothing is mirrored.
SELECT ledger.credit_user_usdc(:bob, 5, 'deposit') AS id \gset
SELECT id, type, user_id, description, metadata FROM ledger.transactions ORDER BY id;
SELECT ordinal, account_type, direction, amount, balance_after FROM ledger.entries
	WHERE transaction_id = :id - 1 ORDER BY ordinal, direction DESC;
SELECT * FROM legacy;
SELECT account_type, opened FROM ledger.accounts WHERE user_id = :bob;

-- On: what differs from before is told by the first read.
SELECT ledger.configure(shadow_mode => true, reason => 'week 1');
SELECT usdc_balance FROM ledger.get_user_balance(:bob);
SELECT * FROM ledger.compare_balances(:bob);
SELECT * FROM ledger.repair(:bob, dry_run => false, reason => 'deposits of week 0');
SELECT usdc_balance FROM ledger.get_user_balance(:bob);

-- Opened once; the mirror adds net changes; a replay moves nothing.
SELECT ledger.credit_user_usdc(:alice, 10, 'deposit', '00000000-0000-4000-8000-0000000000d1') > 0 AS posted;
SELECT ledger.credit_user_usdc(:alice, 10, 'deposit', '00000000-0000-4000-8000-0000000000d1') > 0 AS replayed FROM generate_series(1, 5);
SELECT * FROM legacy;
SELECT ledger.reserve_for_investment(:alice, 40, '00000000-0000-4000-8000-0000000000e1') > 0 AS posted;
SELECT * FROM legacy;
SELECT ledger.execute_investment(:alice, 15, '00000000-0000-4000-8000-0000000000e1', 'f1') > 0 AS posted;
SELECT ledger.execute_investment(:alice, 5.25, '00000000-0000-4000-8000-0000000000e1', 'f2') > 0 AS posted;
SELECT * FROM legacy;
SELECT ledger.release_reservation(:alice, NULL, '00000000-0000-4000-8000-0000000000e1') > 0 AS posted;
SELECT ledger.debit_user_usdc(:alice, 1, 'withdrawal') AS withdrawal \gset
SELECT * FROM legacy;
SELECT ledger.reverse_transaction(:withdrawal, 'bounced') > 0 AS posted;
SELECT * FROM legacy;
SELECT count(*) AS openings FROM ledger.transactions WHERE type = 'opening' AND user_id = :alice;
SELECT * FROM ledger.compare_balances(:alice);
SELECT updated_at > attached_at AS stamped FROM balances, ledger.legacy_mappings WHERE user_id = :alice;

-- post() moves what is mapped, between users too.
SELECT a.account_id AS alices, b.account_id AS bobs FROM ledger.account_balances a, ledger.account_balances b
	WHERE a.user_id = :alice AND a.account_type = 'usdc_balance' AND b.user_id = :bob AND b.account_type = 'usdc_balance' \gset
SELECT ledger.post('gift', ARRAY[(:alices, :bobs, 3)::ledger.posting]) > 0 AS posted;
SELECT * FROM legacy;

-- A new user gets a row, without a word; one who lost his gets a note.
SELECT ledger.credit_user_usdc(:dave, 9, 'deposit') > 0 AS posted;
SELECT * FROM legacy;
SELECT right(user_id::text, 1) AS who, buying_power, pending_deposits, currency FROM balances WHERE user_id = :dave;
SELECT * FROM found;
DELETE FROM balances WHERE user_id = :dave;
SELECT * FROM ledger.compare_balances(:dave);
SELECT ledger.credit_user_usdc(:dave, 1, 'deposit') > 0 AS posted;
SELECT * FROM legacy;
SELECT * FROM found;

-- carol has not been touched: she is what reconcile finds, and reads are silent.
SELECT * FROM ledger.reconcile();
SELECT usdc_balance, fiat_exposure, source FROM ledger.get_user_balance(:carol);
SELECT ledger.move_funds_to_usdc(:carol, 2.5, 'from the broker') > 0 AS posted;
SELECT * FROM ledger.reconcile();
SELECT * FROM legacy;

-- Old code writes: told by reads, the run, the evidence.
UPDATE balances SET buying_power = buying_power - 10 WHERE user_id = :alice;
SELECT usdc_balance, fiat_exposure, source FROM ledger.get_user_balance(:alice);
SELECT ledger.get_account_balance(:alice, 'fiat_exposure');
SELECT * FROM ledger.reconcile();
SELECT * FROM ledger.reconcile(10);
SELECT * FROM ledger.reconcile(9.99);
CALL ledger.run_reconciliation();
CALL ledger.run_reconciliation();
SELECT id, scope, tolerance, last_transaction_id > 0 AS has_last, discrepancies, users, total_difference FROM ledger.reconciliation_runs ORDER BY id;
SELECT * FROM found;
SELECT * FROM written;
SELECT session_role = session_user AS me, application_name, statement, before ->> 'buying_power' AS before, after ->> 'buying_power' AS after
	FROM ledger.legacy_writes WHERE user_id = :alice;

-- The source of balances.
SELECT ledger.configure(balance_source => 'legacy');
SELECT usdc_balance, fiat_exposure, pending_investment, total_value, source FROM ledger.get_user_balance(:alice);
SELECT ledger.reserve_for_investment(:alice, 20) > 0 AS posted;
SELECT usdc_balance, fiat_exposure, pending_investment, total_value, source FROM ledger.get_user_balance(:alice);
SELECT ledger.configure(balance_source => 'ledger');

-- Strict: the same read is an error; so is the commit of a posting for her.
SELECT ledger.configure(strict_mode => true);
SELECT * FROM ledger.get_user_balance(:alice);
SELECT ledger.get_balance(:alice);
SELECT * FROM ledger.get_user_balance(:bob);
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit');
SELECT * FROM legacy;
SELECT * FROM ledger.repair(:alice, 'legacy');
SELECT * FROM ledger.repair(:alice, 'legacy', dry_run => false, reason => 'old job stopped');
SELECT usdc_balance, fiat_exposure, pending_investment, total_value, source FROM ledger.get_user_balance(:alice);
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
CALL ledger.run_reconciliation();
SELECT * FROM found;
SELECT * FROM public.ledger_oracle();
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;

-- Detaching.
SELECT public.raises($$SELECT ledger.detach_legacy('balances')$$);
SELECT ledger.configure(shadow_mode => false, strict_mode => false);
SELECT ledger.detach_legacy('balances');
SELECT public.raises($$SELECT ledger.detach_legacy('balances')$$);
SELECT tgname FROM pg_trigger WHERE tgrelid = 'balances'::regclass;
UPDATE balances SET buying_power = 1;
SELECT count(*) FROM ledger.legacy_writes;
SELECT action, legacy, capture, changed_by = current_user AS by_me FROM ledger.legacy_log ORDER BY id;
-- The same table takes its old place; who is opened stays so.
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT id, detached_at FROM ledger.legacy_mappings;
SELECT usdc_balance, source FROM ledger.get_user_balance(:alice);

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
