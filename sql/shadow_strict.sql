--
-- Strict mode: reads that raise, the proof at commit, transactions of all kinds.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_shadow_strict
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set ECHO all
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT ledger.configure(shadow_mode => true, strict_mode => true);
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
SELECT ledger.credit_user_usdc(:bob, 1, 'deposit') > 0 AS posted;

-- Half of a dual write fails the commit, in both orders; made whole it passes.
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
SELECT ledger.credit_user_usdc(:alice, 10, 'both') > 0 AS posted;
SELECT * FROM ledger.compare_balances(:alice);
SELECT usdc_balance FROM ledger.get_user_balance(:alice);
COMMIT;
BEGIN;
SELECT ledger.credit_user_usdc(:alice, 10, 'both') > 0 AS posted;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
COMMIT;
BEGIN;
SELECT ledger.credit_user_usdc(:alice, 10, 'both') > 0 AS posted;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
UPDATE balances SET pending_deposits = pending_deposits - 10 WHERE user_id = :alice;
COMMIT;
SELECT * FROM ledger.compare_balances(:alice);
SELECT * FROM written;
SELECT * FROM legacy;

-- The touched users: a savepoint rolled back takes its own along, a released
-- one does not; deep nesting and loops.
BEGIN;
SAVEPOINT s;
SELECT ledger.credit_user_usdc(:alice, 10, 'not to be') > 0 AS posted;
ROLLBACK TO s;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
COMMIT;
UPDATE balances SET pending_deposits = pending_deposits - 10 WHERE user_id = :alice;
BEGIN;
SAVEPOINT s;
SELECT ledger.credit_user_usdc(:alice, 10, 'to be') > 0 AS posted;
RELEASE s;
SAVEPOINT t;
SELECT ledger.credit_user_usdc(:alice, 10, 'not to be') > 0 AS posted;
ROLLBACK TO t;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
COMMIT;
CREATE FUNCTION nest(depth int, fail_at int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM ledger.credit_user_usdc(format('00000000-0000-4000-9000-%s', lpad(depth::text, 12, '0'))::uuid, 1, 'deep');
	IF depth < 200 THEN
		BEGIN
			PERFORM nest(depth + 1, fail_at);
		EXCEPTION WHEN division_by_zero THEN
			NULL;
		END;
	END IF;
	IF depth = fail_at THEN
		PERFORM 1 / 0;
	END IF;
END $$;
-- all that lie deeper than 99 go: 99 users stay, and only they are proved
BEGIN;
SELECT nest(1, 100);
UPDATE balances SET pending_deposits = 7 WHERE user_id = '00000000-0000-4000-9000-000000000100';
COMMIT;
SELECT count(*) FROM balances WHERE user_id::text LIKE '00000000-0000-4000-9%';
BEGIN;
SELECT nest(100, 0);
UPDATE balances SET pending_deposits = 7 WHERE user_id = '00000000-0000-4000-9000-000000000200';
COMMIT;
SELECT count(*) FROM balances WHERE user_id::text LIKE '00000000-0000-4000-9%';
DO $$
BEGIN
	FOR i IN 1..100 LOOP
		BEGIN
			PERFORM ledger.credit_user_usdc('00000000-0000-4000-8000-00000000000b', 1, 'loop');
			IF i % 2 = 0 THEN
				RAISE EXCEPTION 'undo';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	END LOOP;
END $$;
SELECT * FROM ledger.compare_balances(:bob);

-- Snapshots of transactions, and a transaction that only reads.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT ledger.credit_user_usdc(:carol, 1, 'opened here') > 0 AS posted;
SELECT ledger.move_funds_to_usdc(:carol, 2, 'and on') > 0 AS posted;
SELECT * FROM ledger.compare_balances(:carol);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT ledger.credit_user_usdc(:carol, 1, 'again') > 0 AS posted;
SELECT usdc_balance, fiat_exposure FROM ledger.get_user_balance(:carol);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT usdc_balance, fiat_exposure FROM ledger.get_user_balance(:carol);
SELECT count(*) FROM ledger.reconcile();
SELECT ledger.repair_user(:carol, 'legacy', false, NULL, 'cannot');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT ledger.credit_user_usdc(:carol, 1, 'half') > 0 AS posted;
UPDATE balances SET buying_power = 0 WHERE user_id = :carol;
COMMIT;
SELECT * FROM legacy WHERE who = 'c';
-- A new user, a row that was deleted, a procedure's commits.
SELECT ledger.credit_user_usdc(:dave, 1, 'new') > 0 AS posted;
DELETE FROM balances WHERE user_id = :dave;
SELECT public.raises(format('SELECT ledger.get_user_balance(%L)', :dave));
SELECT ledger.credit_user_usdc(:dave, 1, 'brings the row back') > 0 AS posted;
SELECT * FROM ledger.compare_balances(:dave);
SELECT who, cause, note FROM found;
CREATE PROCEDURE two_commits(id uuid) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM ledger.credit_user_usdc(id, 1, 'first');
	COMMIT;
	PERFORM ledger.credit_user_usdc(id, 1, 'second');
	UPDATE balances SET pending_deposits = 0 WHERE user_id = id;
	COMMIT;
END $$;
CALL two_commits(:dave);
SELECT * FROM legacy WHERE who = 'd';

-- Old differences fail postings for that user alone; the session may step back.
UPDATE balances SET buying_power = buying_power + 2 WHERE user_id = :bob;
SELECT public.raises(format('SELECT ledger.get_balance(%L)', :bob));
SELECT ledger.credit_user_usdc(:bob, 1, 'deposit');
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
SET ledger.strict_mode = 'off';
SELECT usdc_balance FROM ledger.get_user_balance(:bob);
SELECT ledger.credit_user_usdc(:bob, 1, 'deposit') > 0 AS posted;
RESET ledger.strict_mode;
-- What EXPLAIN evaluates counts and raises as well; what must not raise does not.
SELECT * FROM ledger.reconcile();
SELECT status FROM ledger.compare_balances(:bob);
SELECT ledger.check_available_balance(:bob, 1, 'usdc_balance');
-- Who may not read balances is told of no amounts.
CREATE ROLE regress_ledger_writer;
GRANT USAGE ON SCHEMA ledger TO regress_ledger_writer;
GRANT EXECUTE ON FUNCTION ledger.credit_user_usdc TO regress_ledger_writer;
SET ROLE regress_ledger_writer;
SELECT ledger.credit_user_usdc(:bob, 1, 'deposit');
RESET ROLE;
-- Nor by a constraint of the table, which fails in its owner's role.
ALTER TABLE balances ADD CONSTRAINT few CHECK (pending_deposits < 100000);
SET ROLE regress_ledger_writer;
SELECT public.raises(format('SELECT ledger.credit_user_usdc(%L, 100000, ''deposit'')', :alice));
RESET ROLE;
SELECT public.raises(format('SELECT ledger.credit_user_usdc(%L, 100000, ''deposit'')', :alice)) LIKE '%Failing row contains%' AS told;
ALTER TABLE balances DROP CONSTRAINT few;
REVOKE ALL ON FUNCTION ledger.credit_user_usdc FROM regress_ledger_writer;
REVOKE ALL ON SCHEMA ledger FROM regress_ledger_writer;
-- Towards the ledger: a posting against legacy_suspense, never mirrored.
SELECT right(user_id::text, 1) AS who, legacy_column, before, after, transaction_id FROM ledger.repair(:bob, 'ledger');
SELECT right(user_id::text, 1) AS who, legacy_column, before, after, transaction_id > 0 AS posted
	FROM ledger.repair(:bob, 'ledger', false, reason => 'the old job was right');
SELECT t.type, t.description, e.account_type, e.direction, e.amount FROM ledger.transactions t JOIN ledger.entries e ON e.transaction_id = t.id
	WHERE t.type = 'repair' ORDER BY e.direction;
SELECT * FROM ledger.compare_balances(:bob);
SELECT ledger.credit_user_usdc(:bob, 1, 'deposit') > 0 AS posted;
SELECT direction, legacy_column, before, after, reason, repaired_by = current_user AS by_me FROM ledger.repair_log;
SELECT public.raises($$SELECT ledger.repair(dry_run => false)$$);
SELECT public.raises($$SELECT ledger.repair(direction => 'both')$$);
SELECT public.raises($$SELECT ledger.repair(direction => NULL)$$);
SELECT public.raises($$SELECT ledger.repair(dry_run => NULL)$$);
SELECT public.raises($$SELECT ledger.repair(max_rows => -1)$$);
SELECT public.raises($$SELECT ledger.repair(max_amount => 'NaN')$$);
-- The limits of a repair.
SET ledger.strict_mode = 'off';
UPDATE balances SET buying_power = buying_power + 100, pending_deposits = pending_deposits + 1 WHERE user_id IN (:alice, :bob);
UPDATE balances SET buying_power = 'NaN' WHERE user_id = :carol;
SELECT right(user_id::text, 1) AS who, legacy_column, before, after FROM ledger.repair(max_rows => 3);
SELECT right(user_id::text, 1) AS who, legacy_column, before, after FROM ledger.repair(max_amount => 1);
SELECT right(user_id::text, 1) AS who, legacy_column, before, after FROM ledger.repair(direction => 'ledger');
SELECT right(user_id::text, 1) AS who, legacy_column, before, after FROM ledger.repair(max_amount => 1, dry_run => false, reason => 'small');
SELECT right(user_id::text, 1) AS who, legacy_column, before, after FROM ledger.repair(dry_run => false, reason => 'all');
SELECT count(*) FROM ledger.repair(dry_run => false, reason => 'nothing is left');
RESET ledger.strict_mode;
SELECT * FROM ledger.reconcile();
SELECT * FROM public.ledger_oracle();
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;
-- Arguments.
SELECT public.raises($$SELECT ledger.compare_balances(NULL)$$);
SELECT public.raises($$SELECT ledger.reconcile(NULL)$$);
SELECT public.raises($$SELECT ledger.reconcile(-1)$$);
SELECT public.raises($$SELECT ledger.reconcile('NaN')$$);
SELECT public.raises($$SELECT ledger.reconcile('Infinity')$$);
SELECT public.raises($$SELECT ledger.reconcile(0, NULL)$$);
SELECT public.raises($$SELECT ledger.reconcile(0, 'some')$$);
SELECT public.raises($$SELECT ledger.reconcile(0, 'incremental')$$);
SELECT public.raises($$CALL ledger.run_reconciliation('some')$$);

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
DROP ROLE regress_ledger_writer;
