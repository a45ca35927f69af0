--
-- hazard 9: triggers that change NEW after others have seen it, BEFORE triggers
-- of an INSERT that updates, and AFTER triggers that come later and write the
-- row again. What is captured is what was written. Fails with a BEFORE trigger.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_hazard_09
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
CREATE VIEW public.captured AS
	SELECT right(w.user_id::text, 1) AS who, w.operation, w.kind, w.deltas, w.note FROM ledger.legacy_writes w ORDER BY w.id;
\set ECHO all
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT count(*) FROM ledger.repair(direction => 'ledger', dry_run => false, reason => 'opens all');
CREATE FUNCTION zz_double() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.buying_power := CASE TG_OP WHEN 'INSERT' THEN 2 * NEW.buying_power ELSE OLD.buying_power + 2 * (NEW.buying_power - OLD.buying_power) END;
	RETURN NEW;
END $$;
CREATE TRIGGER zz_double BEFORE INSERT OR UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION zz_double();
-- after ours by its name, and one row further
CREATE FUNCTION zz_fee() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE balances SET pending_deposits = pending_deposits - 1 WHERE user_id = NEW.user_id;
	RETURN NULL;
END $$;
CREATE TRIGGER zz_fee AFTER UPDATE OF buying_power ON balances FOR EACH ROW EXECUTE FUNCTION zz_fee();
-- before ours
CREATE TRIGGER aa_fee AFTER UPDATE OF buying_power ON balances FOR EACH ROW EXECUTE FUNCTION zz_fee();
-- one that takes its own update for none
CREATE FUNCTION aa_none() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER aa_none BEFORE UPDATE OF currency ON balances FOR EACH ROW EXECUTE FUNCTION aa_none();

SET ledger.capture = 'record';
UPDATE balances SET buying_power = buying_power + 5 WHERE user_id = :alice;
INSERT INTO balances (user_id, buying_power) VALUES (:alice, 3), (:dave, 3) ON CONFLICT (user_id) DO UPDATE SET buying_power = balances.buying_power + 3;
UPDATE balances SET currency = 'EUR';
TABLE captured;
TABLE legacy;
SELECT right(w.user_id::text, 1) AS who, sum((w.deltas ->> 'buying_power')::numeric) AS buying_power, sum((w.deltas ->> 'pending_deposits')::numeric) AS pending_deposits
FROM ledger.legacy_writes w GROUP BY 1 ORDER BY 1;
SELECT right(user_id::text, 1) AS who, legacy_column, difference FROM ledger.reconcile() ORDER BY 1, 2;
SELECT count(*) FROM ledger.repair(direction => 'ledger', dry_run => false, reason => 'recorded');

-- Posted: the row and what a later trigger did to it as one; what a trigger did
-- before ours saw the row was a statement of its own.
SET ledger.capture = 'post';
UPDATE balances SET buying_power = buying_power + 5 WHERE user_id = :alice;
SELECT * FROM captured OFFSET (SELECT count(*) - 3 FROM captured);
SELECT count(DISTINCT transaction_id) AS postings FROM ledger.legacy_writes WHERE kind = 'posted';
SELECT account_type, direction, amount FROM ledger.entries WHERE transaction_id = (SELECT max(id) FROM ledger.transactions) ORDER BY ordinal, direction DESC;
INSERT INTO balances (user_id, buying_power) VALUES (:bob, 3), ('00000000-0000-4000-8000-00000000000e', 3) ON CONFLICT (user_id) DO UPDATE SET buying_power = balances.buying_power + 3;
UPDATE balances SET currency = 'EUR';
SELECT * FROM ledger.reconcile();

-- What a later trigger takes back was no change, of a column or of the row.
DROP TRIGGER zz_double ON balances;
DROP TRIGGER zz_fee ON balances;
DROP TRIGGER aa_fee ON balances;
CREATE FUNCTION zz_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE balances SET pending_deposits = OLD.pending_deposits, buying_power = OLD.buying_power + TG_ARGV[0]::numeric WHERE user_id = NEW.user_id;
	RETURN NULL;
END $$;
CREATE TRIGGER zz_back AFTER UPDATE OF pending_deposits ON balances FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION zz_back(5);
UPDATE balances SET pending_deposits = pending_deposits + 5 WHERE user_id = :carol;
SELECT * FROM captured OFFSET (SELECT count(*) - 2 FROM captured);
SELECT account_type, direction, amount FROM ledger.entries WHERE transaction_id = (SELECT max(id) FROM ledger.transactions) ORDER BY ordinal, direction DESC;
-- taken back, it is reversed as the one that it is
SELECT max(id) AS last FROM ledger.transactions \gset
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 5 WHERE user_id = :carol;
SELECT ledger.credit_user_usdc(:carol, 1, 'posts for her') > 0 AS posted;
SELECT id - :last AS nth, type, reverses - :last AS reverses FROM ledger.transactions WHERE id > :last ORDER BY id;
ROLLBACK;
DROP TRIGGER zz_back ON balances;
CREATE TRIGGER zz_back AFTER UPDATE OF pending_deposits ON balances FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION zz_back(0);
UPDATE balances SET pending_deposits = pending_deposits + 5 WHERE user_id = :carol;
SELECT * FROM captured OFFSET (SELECT count(*) - 2 FROM captured);
SELECT * FROM ledger.reconcile();
SELECT * FROM public.ledger_oracle();

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
