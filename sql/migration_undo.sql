--
-- docs/migration.md, "The way back": from each step back, with money moving on
-- both sides of it, and forward again. After each the sides agree.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_migration_undo
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
SET client_min_messages = error;
CREATE FUNCTION public.move() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM ledger.credit_user_usdc('00000000-0000-4000-8000-00000000000a', 1, 'new code');
	RETURN 'posted';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
CREATE FUNCTION public.write() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	UPDATE public.balances SET pending_deposits = pending_deposits + 1 WHERE user_id = '00000000-0000-4000-8000-00000000000b';
	RETURN 'written';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
-- Where it is, what new and old code can do, where reads come from, who differs.
CREATE VIEW public.now AS
	SELECT s.state, public.move() AS new_code, public.write() AS old_code, (ledger.get_user_balance('00000000-0000-4000-8000-00000000000a')).source
	FROM ledger.migration_status() s;
CREATE VIEW public.differing AS
	SELECT right(user_id::text, 1) AS who, legacy_column, difference, status FROM ledger.reconcile();
\set ECHO all
-- attached, and detached again
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT state FROM ledger.migration_status();
SELECT public.write();
SELECT ledger.detach_legacy('public.balances');
SELECT state FROM ledger.migration_status();
SELECT public.write();
SELECT passed FROM ledger.attach_legacy(capture => 'post') WHERE check_name = 'attached';
CALL ledger.backfill();
SELECT public.write();
SELECT * FROM differing;

-- week 1, and the old code alone; the way forward takes what it wrote along
SELECT shadow_mode, balance_source FROM ledger.configure(shadow_mode => true, balance_source => 'legacy', reason => 'week 1');
SELECT * FROM public.now;
SELECT * FROM differing;
SELECT shadow_mode, balance_source FROM ledger.configure(shadow_mode => false, balance_source => 'legacy', reason => 'back');
SELECT * FROM public.now;
-- where the old code is all there is, it is not refused, whatever was configured
SELECT ledger.configure_capture('balances', 'refuse', 'too early');
SELECT * FROM public.now;
SELECT ledger.configure_capture('balances', 'post', 'as before');
SELECT public.raises($$SELECT ledger.detach_legacy('public.balances')$$);
CALL ledger.roll_back('forward again');
SELECT * FROM public.now;
SELECT * FROM differing;

-- week 2 and back
SELECT balance_source FROM ledger.configure(balance_source => 'ledger', reason => 'week 2');
SELECT * FROM public.now;
SELECT balance_source FROM ledger.configure(balance_source => 'legacy', reason => 'back');
SELECT * FROM public.now;
SELECT balance_source FROM ledger.configure(balance_source => 'ledger', reason => 'week 2');

-- week 3 and back, and in a hurry
SELECT strict_mode FROM ledger.configure(strict_mode => true, reason => 'week 3');
SELECT * FROM public.now;
SELECT strict_mode FROM ledger.configure(strict_mode => false, reason => 'back');
SELECT * FROM public.now;
SELECT strict_mode FROM ledger.configure(strict_mode => true, reason => 'week 3');
SELECT strict_mode, balance_source FROM ledger.configure(strict_mode => false, balance_source => 'legacy', reason => 'in a hurry');
SELECT * FROM public.now;
SELECT * FROM differing;
SELECT strict_mode, balance_source FROM ledger.configure(strict_mode => true, balance_source => 'ledger', reason => 'week 3');

-- cut over and back, twice; retired and back
CALL ledger.cut_over(force => true, reason => 'week 4');
SELECT * FROM public.now;
CALL ledger.roll_back('back');
SELECT * FROM public.now;
SELECT * FROM differing;
SELECT strict_mode, balance_source FROM ledger.configure(strict_mode => true, balance_source => 'ledger', reason => 'week 3');
CALL ledger.cut_over(force => true, reason => 'week 4');
SELECT ledger.set_test_clock('8 days', 'the week after');
CALL ledger.run_reconciliation();
CALL ledger.retire_legacy('nobody reads it');
SELECT state, public.move() FROM ledger.migration_status();
SELECT to_regclass('public.balances') IS NULL AS gone;
CALL ledger.roll_back('back from the end');
SELECT * FROM public.now;
SELECT * FROM differing;

-- What old code wrote is in suspense, once each; the ledger holds.
SELECT type, count(*), sum(amount) FROM ledger.suspense_items WHERE settled_by IS NULL GROUP BY type ORDER BY type;
SELECT * FROM legacy;
SELECT * FROM public.ledger_oracle();
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
