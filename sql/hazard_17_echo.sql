--
-- hazard 17: mirror -> capture -> post -> mirror. The mirror's own write is
-- known by the change that it expects, not by the depth of triggers: what an
-- application's trigger does to other rows meanwhile is captured and posted,
-- what it does to the same row is a side effect, and never posted. The guard
-- is gone after an error.
--
-- Fails without subxact_callback() of mirror.c: what a trigger has taken back is
-- a side effect, or hides one.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_hazard_17
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
CREATE VIEW public.captured AS
	SELECT right(w.user_id::text, 1) AS who, w.operation, w.kind, w.deltas, w.note FROM ledger.legacy_writes w ORDER BY w.id;
\set ECHO all
SELECT passed FROM ledger.attach_legacy(capture => 'post') WHERE check_name = 'attached';
SELECT ledger.configure(shadow_mode => true);
SELECT count(*) FROM ledger.repair(direction => 'ledger', dry_run => false, reason => 'opens all');
SELECT ledger.credit_user_usdc(:alice, 1, 'no echo') > 0 AS posted;
TABLE captured;
SELECT type, count(*) FROM ledger.transactions WHERE type <> 'opening' GROUP BY type;

-- A trigger gives the house's share to another user: an outside write, posted
-- while the first posting is under way, and no echo of it either.
CREATE FUNCTION share() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = '00000000-0000-4000-8000-00000000000c' AND NEW.user_id <> user_id;
	RETURN NULL;
END $$;
CREATE TRIGGER share AFTER UPDATE OF pending_deposits ON balances FOR EACH ROW EXECUTE FUNCTION share();
SELECT ledger.credit_user_usdc(:alice, 1, 'shared') > 0 AS posted;
TABLE captured;
SELECT type, count(*) FROM ledger.transactions WHERE type <> 'opening' GROUP BY type ORDER BY type;
SELECT * FROM ledger.reconcile();
-- to a user of the same call it is a double write
BEGIN;
SELECT ledger.credit_user_usdc(:carol, 1, 'she is posted for') > 0 AS posted;
SELECT ledger.credit_user_usdc(:alice, 1, 'shared') > 0 AS posted;
SELECT * FROM captured OFFSET 1;
ROLLBACK;
-- nothing of it is left of a savepoint
BEGIN;
SAVEPOINT s;
SELECT ledger.credit_user_usdc(:alice, 1, 'shared') > 0 AS posted;
ROLLBACK TO s;
COMMIT;
SELECT * FROM captured OFFSET 1;
SELECT * FROM ledger.reconcile();
SELECT ledger.configure(strict_mode => true);
SELECT ledger.credit_user_usdc(:bob, 1, 'shared') > 0 AS posted;
SELECT ledger.configure(strict_mode => false);
SELECT * FROM ledger.reconcile();
DROP TRIGGER share ON balances;

-- A trigger that changes the mirrored row itself: never posted.
CREATE FUNCTION tax() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE balances SET buying_power = buying_power - 1 WHERE user_id = NEW.user_id;
	RETURN NULL;
END $$;
CREATE TRIGGER tax AFTER UPDATE OF pending_deposits ON balances FOR EACH ROW EXECUTE FUNCTION tax();
SELECT ledger.credit_user_usdc(:alice, 1, 'taxed') > 0 AS posted;
SELECT * FROM captured OFFSET 2;
DROP TRIGGER tax ON balances;
SELECT right(user_id::text, 1) AS who, legacy_column, before, after FROM ledger.repair(dry_run => false, reason => 'taxed');

-- After an error in the mirror the guard is gone: contained, raised, strict.
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.pending_deposits > 1000 THEN
		RAISE EXCEPTION 'not that much';
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER no AFTER UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION no();
SELECT ledger.credit_user_usdc(:alice, 1000, 'too much') > 0 AS posted;
UPDATE balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :alice;
SELECT * FROM captured OFFSET 3;
SELECT right(user_id::text, 1) AS who, legacy_column, difference FROM ledger.reconcile();
SELECT public.raises($$UPDATE balances SET pending_deposits = 2000 WHERE user_id = '00000000-0000-4000-8000-00000000000a'$$);
SELECT right(user_id::text, 1) AS who, legacy_column, difference FROM ledger.reconcile();
DROP TRIGGER no ON balances;
SELECT right(user_id::text, 1) AS who, legacy_column, before, after FROM ledger.repair(dry_run => false, reason => 'trigger gone');
BEGIN;
SAVEPOINT s;
SELECT ledger.debit_user_usdc(:alice, 100000, 'more than there is') > 0 AS posted;
ROLLBACK TO s;
UPDATE balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :alice;
COMMIT;
SELECT * FROM captured OFFSET 4;
SELECT * FROM ledger.reconcile();

-- What a trigger takes back with a block of its own has not happened to the row; what it
-- keeps, before, in a block that ends well, or in one within such, has.
CREATE FUNCTION rethinks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE balances SET buying_power = buying_power + TG_ARGV[0]::numeric WHERE user_id = NEW.user_id;
	BEGIN
		UPDATE balances SET buying_power = buying_power - 2 WHERE user_id = NEW.user_id;
		BEGIN
			UPDATE balances SET buying_power = buying_power + 0.5 WHERE user_id = NEW.user_id;
		EXCEPTION WHEN division_by_zero THEN
			NULL;
		END;
		RAISE EXCEPTION 'thinks better of it';
	EXCEPTION WHEN raise_exception THEN
		NULL;
	END;
	BEGIN
		UPDATE balances SET buying_power = buying_power + TG_ARGV[1]::numeric WHERE user_id = NEW.user_id;
		BEGIN
			UPDATE balances SET buying_power = buying_power + 8 WHERE user_id = NEW.user_id;
			PERFORM 1 / 0;
		EXCEPTION WHEN division_by_zero THEN
			NULL;
		END;
	EXCEPTION WHEN raise_exception THEN
		NULL;
	END;
	RETURN NULL;
END $$;
CREATE TRIGGER rethinks AFTER UPDATE OF pending_deposits ON balances FOR EACH ROW EXECUTE FUNCTION rethinks(0, 0);
SELECT ledger.credit_user_usdc(:alice, 1, 'nothing is kept') > 0 AS posted;
SELECT * FROM captured OFFSET 5;
SELECT * FROM ledger.reconcile();
DROP TRIGGER rethinks ON balances;
CREATE TRIGGER rethinks AFTER UPDATE OF pending_deposits ON balances FOR EACH ROW EXECUTE FUNCTION rethinks(1, 0.5);
SELECT ledger.credit_user_usdc(:alice, 1, 'as much is kept as was taken back') > 0 AS posted;
SELECT * FROM captured OFFSET 5;
DROP TRIGGER rethinks ON balances;
SELECT right(user_id::text, 1) AS who, legacy_column, before, after FROM ledger.repair(dry_run => false, reason => 'rethought');
SELECT * FROM public.ledger_oracle();

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
