--
-- From strict mode over the cut-over to the retired table, and back from
-- wherever that is; and the emergency in which the old table alone counts.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_cut_over
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
SET client_min_messages = error;
-- what differs each time is left out
CREATE VIEW public.now AS SELECT state, shadow_mode, strict_mode, balance_source, phase FROM ledger.migration_status();
CREATE VIEW public.backs AS SELECT id, from_state, reason, catch_up, users, failed, finished_at IS NOT NULL AS finished FROM ledger.roll_backs ORDER BY id;
\set ECHO all
\set VERBOSITY terse

-- Before anything is attached there is nothing to go back to, and source legacy is no emergency.
SELECT * FROM now;
CALL ledger.roll_back('nothing');
CALL ledger.cut_over(dry_run => true);
CALL ledger.cut_over(force => true, reason => 'nothing');
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SELECT * FROM now;
SELECT shadow_mode FROM ledger.configure(shadow_mode => false);
-- An empty reason is none.
CALL ledger.roll_back('');
SELECT raises($$SELECT ledger.configure(shadow_mode => true, reason => '')$$);
SELECT raises($$SELECT ledger.drop_legacy('public.balances', '')$$);
SELECT balance_source FROM ledger.configure(balance_source => 'legacy');
SELECT ledger.credit_user_usdc(:dave, 1, 'no table is attached') > 0 AS posted;
SELECT * FROM now;
SELECT balance_source FROM ledger.configure(balance_source => 'ledger');
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT * FROM now;
SELECT shadow_mode FROM ledger.configure(shadow_mode => true, balance_source => 'legacy', reason => 'week 1');
SELECT * FROM now;
SELECT count(ledger.credit_user_usdc(u, 10, 'opens')) FROM unnest(ARRAY[:alice, :bob, :carol, :dave]::uuid[]) u;
SELECT ledger.repair(dry_run => false, reason => 'posted before the table was attached');
SELECT balance_source FROM ledger.configure(balance_source => 'ledger', reason => 'week 2');
SELECT * FROM now;
SELECT strict_mode FROM ledger.configure(strict_mode => true, reason => 'week 3');
SELECT state, next_step, undo FROM ledger.migration_status();

-- What is wrong with a call.
CALL ledger.cut_over(NULL);
CALL ledger.cut_over(false, NULL);
CALL ledger.cut_over(force => true);
CALL ledger.cut_over();
BEGIN;
CALL ledger.cut_over(force => true, reason => 'in a transaction');
ROLLBACK;
CALL ledger.retire_legacy('too early');
SELECT raises($$SELECT ledger.drop_legacy('public.balances', 'too early')$$);
SELECT * FROM now;

-- A rehearsal changes nothing; its figures are kept.
SET client_min_messages = notice;
CALL ledger.run_reconciliation();
SET client_min_messages = error;
CALL ledger.cut_over(dry_run => true);
SELECT * FROM now;
SELECT id, locked, users_different, blockers, predicted_stall_ms BETWEEN held_ms AND 60000 AS short, closed_gates FROM ledger.cut_over_rehearsals;
SELECT count(*) AS locks FROM pg_locks WHERE pid = pg_backend_pid() AND relation IN ('ledger.settings'::regclass, 'balances'::regclass) AND mode LIKE '%Exclusive%';

-- What a rehearsal cannot do is an error like any other: the session goes on.
ALTER TABLE ledger.settings_log ADD CONSTRAINT no_cut_over CHECK (phase <> 'cut_over');
CALL ledger.cut_over(dry_run => true);
SELECT state FROM now;
DO $$ BEGIN CALL ledger.cut_over(dry_run => true); END $$;
SELECT state FROM now;
CALL ledger.cut_over(force => true, reason => 'it cannot be');
SELECT state FROM now;
ALTER TABLE ledger.settings_log DROP CONSTRAINT no_cut_over;
-- So is one while it waits for the locks.
BEGIN;
SELECT ledger.credit_user_usdc(:dave, 1, 'in two phases') > 0 AS posted;
PREPARE TRANSACTION 'in the way of the locks';
SET statement_timeout = '700ms';
SELECT ledger.configure(strict_mode => false);
RESET statement_timeout;
SELECT state FROM now;
SET statement_timeout = '700ms';
CALL ledger.cut_over(dry_run => true);
RESET statement_timeout;
SELECT state FROM now;
SET statement_timeout = '700ms';
CALL ledger.roll_back('too long');
RESET statement_timeout;
SELECT state FROM now;
ROLLBACK PREPARED 'in the way of the locks';

-- The last check: who changed since the last run must agree, whatever is forced.
UPDATE public.balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :bob;
\set VERBOSITY default
CALL ledger.cut_over(force => true, reason => 'he differs');
\set VERBOSITY terse
SELECT * FROM now;
CALL ledger.cut_over(dry_run => true);
SELECT id, users_different FROM ledger.cut_over_rehearsals;
-- And who is known to differ.
CALL ledger.run_reconciliation();
CALL ledger.cut_over(dry_run => true);
SELECT users_checked, users_different FROM ledger.cut_over_rehearsals ORDER BY id DESC LIMIT 1;
CALL ledger.cut_over(force => true, reason => 'he was looked at');
SELECT ledger.ignore_discrepancy(:bob, NULL, 'nobody cares', ledger.clock() + interval '1 hour') AS rule \gset
CALL ledger.run_reconciliation();
CALL ledger.cut_over(force => true, reason => 'he is ignored');
SELECT ledger.unignore_discrepancy(:rule);
SELECT count(*) FROM ledger.repair(:bob, dry_run => false, reason => 'not ours');

-- The gates that were forced are in the log.
CALL ledger.cut_over(force => true, reason => 'no time');
SELECT * FROM now;
SELECT phase, shadow_mode, strict_mode, balance_source, reason FROM ledger.settings_log ORDER BY id DESC LIMIT 1;
CALL ledger.cut_over(force => true, reason => 'again');
CALL ledger.cut_over(dry_run => true);
SELECT gate, hint FROM ledger.readiness() WHERE NOT passed AND gate IN ('phase', 'shadow_mode', 'strict_mode', 'coverage');
SELECT raises('SELECT ledger.configure(shadow_mode => true)');
SELECT raises($$SELECT ledger.detach_legacy('public.balances')$$);
SELECT * FROM ledger.attach_legacy('public.balances');

-- The mirror goes on; outside writes are refused, whatever was configured.
SELECT ledger.credit_user_usdc(:alice, 2, 'after the cut-over') > 0 AS posted;
SELECT * FROM legacy;
SELECT usdc_balance, fiat_exposure, source FROM ledger.get_user_balance(:alice);
SELECT raises($$UPDATE public.balances SET buying_power = 0$$);
SET ledger.capture = 'record';
SELECT raises($$DELETE FROM public.balances$$);
RESET ledger.capture;
SELECT count(*) FROM ledger.reconcile();

-- hazard 28: back after the cut-over, and nothing is lost; forward again.
SELECT count(ledger.credit_user_usdc(u, 0.01, 'many')) FROM unnest(ARRAY[:alice, :bob, :carol, :dave]::uuid[]) u, generate_series(1, 2500);
CALL ledger.roll_back('latency');
SELECT * FROM now;
SELECT * FROM ledger.reconcile();
SELECT * FROM legacy;
SELECT source FROM ledger.get_user_balance(:alice);
UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = :carol;
SELECT * FROM written ORDER BY 1 DESC LIMIT 1;
CALL ledger.roll_back('again');
SELECT count(*) FROM ledger.repair(dry_run => false, reason => 'not ours');
SELECT strict_mode, balance_source FROM ledger.configure(strict_mode => true, balance_source => 'ledger');
CALL ledger.run_reconciliation();
CALL ledger.cut_over(force => true, reason => 'forward again');
SELECT * FROM now;

-- Retirement: a week later, with a clean reconciliation since.
CALL ledger.retire_legacy(NULL);
\set VERBOSITY default
CALL ledger.retire_legacy('too soon');
SELECT ledger.set_test_clock('8 days', 'a week later');
CALL ledger.retire_legacy('nobody looked');
\set VERBOSITY terse
CALL ledger.run_reconciliation();
CALL ledger.retire_legacy('the old code is gone');
SELECT * FROM now;
SELECT old_name, regexp_replace(new_name, '\d+', 'today') AS new_name, reason, restored_at, dropped_at FROM ledger.retirements;
SELECT to_regclass('public.balances') IS NULL AS gone, (SELECT count(*) FROM pg_class WHERE relname LIKE 'balances_retired_%' AND relkind = 'r') AS kept;
CALL ledger.backfill();
SELECT raises('SELECT ledger.backfill_step(1, 10)');
SELECT ledger.credit_user_usdc(:alice, 7, 'nobody mirrors it') > 0 AS posted;
SELECT ledger.debit_user_usdc(:bob, 4, 'nor this') > 0 AS posted;
SELECT ledger.credit_user_usdc('00000000-0000-4000-8000-00000000000e', 9, 'new') > 0 AS posted;
SELECT * FROM legacy;
SELECT usdc_balance, source FROM ledger.get_user_balance(:alice);
SELECT * FROM ledger.compare_balances(:alice);
SELECT count(*) FROM ledger.reconcile();
SET client_min_messages = warning;
DO $$
DECLARE
	retired regclass := (SELECT legacy FROM ledger.legacy_mappings);
BEGIN
	BEGIN
		EXECUTE format('UPDATE %s SET buying_power = 0', retired);
	EXCEPTION WHEN OTHERS THEN
		RAISE WARNING '%', SQLSTATE;
	END;
	PERFORM ledger.drop_legacy(retired, 'too soon');
EXCEPTION WHEN OTHERS THEN
	RAISE WARNING '% %', SQLSTATE, regexp_replace(SQLERRM, '\d{8}', 'today');
END
$$;
SET client_min_messages = error;

-- Back from there: the table has its name, and its rows are caught up with.
CREATE VIEW public.balances AS SELECT 'compatible'::text AS how;
\set VERBOSITY default
CALL ledger.roll_back('the name is taken');
\set VERBOSITY terse
SELECT * FROM now;
DROP VIEW public.balances;
CALL ledger.roll_back('a partner still reads the table');
SELECT * FROM now;
SELECT * FROM legacy;
SELECT * FROM ledger.reconcile();
SELECT * FROM backs;
SELECT right(user_id::text, 1) AS who, legacy_column, direction, before, after, reason FROM ledger.repair_log WHERE reason LIKE 'a partner%' ORDER BY id;

-- Without catching up the differences stay, and are recorded.
SELECT strict_mode, balance_source FROM ledger.configure(strict_mode => true, balance_source => 'ledger');
CALL ledger.cut_over(force => true, reason => 'once more');
SELECT ledger.set_test_clock('17 days', 'a week later');
CALL ledger.run_reconciliation();
CALL ledger.retire_legacy('once more');
SELECT ledger.credit_user_usdc(:alice, 3, 'not mirrored') > 0 AS posted;
CALL ledger.roll_back('at once', catch_up => false);
SELECT * FROM now;
SELECT right(user_id::text, 1) AS who, legacy_column, difference, status FROM ledger.reconcile();
SELECT right(user_id::text, 1) AS who, legacy_column, cause, status FROM ledger.discrepancies WHERE status = 'open';
SELECT count(*) FROM ledger.repair(dry_run => false, reason => 'later');

-- Legacy only: no posting, reads from the rows, writes of the old code recorded.
SELECT shadow_mode, balance_source FROM ledger.configure(shadow_mode => false, reason => 'the ledger is on fire');
SELECT * FROM now;
SELECT raises($$SELECT ledger.credit_user_usdc('00000000-0000-4000-8000-00000000000a', 1, 'refused')$$);
SELECT raises($$SELECT ledger.fund_broker(1)$$);
CALL ledger.backfill();
SELECT raises($$INSERT INTO ledger.inbox (type, amount, debit_type, credit_type) VALUES ('x', 1, 'system_buffer_usdc', 'house_equity')$$);
UPDATE public.balances SET pending_deposits = pending_deposits - 5, buying_power = buying_power + 5 WHERE user_id = :alice;
INSERT INTO public.balances (user_id, pending_deposits) VALUES ('00000000-0000-4000-8000-00000000000f', 77);
SELECT usdc_balance, fiat_exposure, source FROM ledger.get_user_balance(:alice);
SELECT usdc_balance, source FROM ledger.get_user_balance('00000000-0000-4000-8000-00000000000f');
SELECT count(*) FROM ledger.reconcile();
-- Out of it leads roll_back() alone. What it left undone, the next one does; what was
-- written past the ledger between the two is nothing that the ledger has to follow.
SELECT raises('SELECT ledger.configure(shadow_mode => true)');
SELECT raises($$SELECT ledger.configure(shadow_mode => true, balance_source => 'ledger')$$);
SELECT raises($$SELECT ledger.configure(balance_source => 'ledger')$$);
CALL ledger.roll_back('in a hurry', catch_up => false);
UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = :bob;
SELECT shadow_mode FROM ledger.configure(shadow_mode => false, reason => 'it burns again');
UPDATE public.balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :dave;
UPDATE public.balances SET pending_deposits = -1 WHERE user_id = :carol;
SET client_min_messages = notice;
CALL ledger.roll_back('the fire is out');
SELECT right(user_id::text, 1) AS who, legacy_column, cause, status FROM ledger.discrepancies WHERE status = 'open';
SELECT failed, failed_users FROM ledger.roll_backs ORDER BY id DESC LIMIT 1;
UPDATE public.balances SET pending_deposits = 3 WHERE user_id = :carol;
UPDATE public.balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :bob;
CALL ledger.roll_back('she is mended');
CALL ledger.roll_back('nothing is left');
SET client_min_messages = error;
SELECT right(user_id::text, 1) AS who, legacy_column, difference FROM ledger.reconcile();
SELECT count(*) FROM ledger.repair(:bob, dry_run => false, reason => 'not ours');
SELECT * FROM now;
SELECT * FROM ledger.reconcile();
SELECT usdc_balance, fiat_exposure, source FROM ledger.get_user_balance(:alice);
SELECT account_type, currency, balance FROM ledger.account_balances WHERE account_type = 'legacy_suspense' AND balance <> 0 ORDER BY currency;
SELECT * FROM backs;

-- A table that is retired for ninety days may go.
SELECT strict_mode, balance_source FROM ledger.configure(strict_mode => true, balance_source => 'ledger');
CALL ledger.run_reconciliation();
CALL ledger.cut_over(force => true, reason => 'for good');
SELECT ledger.set_test_clock('30 days', 'later');
-- a name of 21 characters, of three bytes each
ALTER TABLE public.balances RENAME TO U&"\65E5\65E5\65E5\65E5\65E5\65E5\65E5\65E5\65E5\65E5\65E5\65E5\65E5\65E5\65E5\65E5\65E5\65E5\65E5\65E5\65E5";
CALL ledger.run_reconciliation();
CALL ledger.retire_legacy('for good');
SELECT length(new_name), octet_length(new_name) FROM ledger.retirements ORDER BY id DESC LIMIT 1;
SELECT ledger.set_test_clock('121 days', 'ninety days later');
CREATE ROLE regress_ledger_admin;
SELECT ledger.grant_access('regress_ledger_admin', 'admin');
SELECT legacy::text AS retired FROM ledger.legacy_mappings \gset
DROP VIEW public.legacy;
SET ROLE regress_ledger_admin;
SET client_min_messages = warning;
DO $$ BEGIN PERFORM ledger.drop_legacy((SELECT legacy FROM ledger.legacy_mappings), 'not hers'); EXCEPTION WHEN OTHERS THEN RAISE WARNING '%', SQLSTATE; END $$;
RESET ROLE;
SELECT ledger.revoke_access('regress_ledger_admin');
DROP ROLE regress_ledger_admin;
-- One that was dropped past drop_legacy() can be detached; one that is there cannot.
DO $$ BEGIN PERFORM ledger.detach_legacy((SELECT legacy FROM ledger.legacy_mappings)); EXCEPTION WHEN OTHERS THEN RAISE WARNING '%', SQLSTATE; END $$;
BEGIN;
SELECT legacy::oid AS was FROM ledger.legacy_mappings \gset
SET LOCAL ledger.allow_drop = on;
DO $$ BEGIN EXECUTE format('DROP TABLE %s CASCADE', (SELECT legacy FROM ledger.legacy_mappings)); END $$;
SELECT ledger.detach_legacy(:was);
SELECT dropped_at IS NOT NULL AS noted FROM ledger.retirements ORDER BY id DESC LIMIT 1;
SELECT * FROM now;
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;
ROLLBACK;
SELECT ledger.drop_legacy(:'retired', 'nobody misses it');
SELECT to_regclass(:'retired') IS NULL AS dropped, dropped_at IS NOT NULL AS noted FROM ledger.retirements ORDER BY id DESC LIMIT 1;
SELECT * FROM now;
CALL ledger.roll_back('there is no way back');
CALL ledger.cut_over(dry_run => true);
SELECT ledger.credit_user_usdc(:alice, 1, 'the ledger goes on') > 0 AS posted;

-- Then another table's migration may begin.
CREATE TABLE public.balances (user_id uuid PRIMARY KEY, pending_deposits numeric(38,18) NOT NULL DEFAULT 0, buying_power numeric(38,18) NOT NULL DEFAULT 0,
	updated_at timestamptz NOT NULL DEFAULT now());
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT * FROM now;
SELECT phase, reason FROM ledger.settings_log ORDER BY id DESC LIMIT 1;
SELECT shadow_mode FROM ledger.configure(shadow_mode => true, balance_source => 'legacy', reason => 'week 1 again');
SELECT count(*) > 0 AS repaired FROM ledger.repair(dry_run => false, reason => 'the table is new');
SELECT ledger.credit_user_usdc(:alice, 1, 'mirrored again') > 0 AS posted;
SELECT count(*) FROM ledger.reconcile();
SELECT strict_mode FROM ledger.configure(strict_mode => true, balance_source => 'ledger', reason => 'week 3 again');
CALL ledger.cut_over(force => true, reason => 'the second');
SELECT * FROM now;
CALL ledger.roll_back('the second as well');
SELECT * FROM now;
SELECT count(*) FROM ledger.reconcile();
SELECT * FROM public.ledger_oracle();
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;
\c contrib_regression
\set ECHO none
DROP DATABASE :database;
