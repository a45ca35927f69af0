--
-- explain_discrepancy(): each cause made the way it is made in life, alone,
-- together with others, and among other postings.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_explain
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\pset format unaligned
\pset tuples_only on

-- the user of that number, who has a row with 1000 and 1000
CREATE FUNCTION u(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$ SELECT format('00000000-0000-4000-8000-%s', lpad(n::text, 12, '0'))::uuid $$;
INSERT INTO balances (user_id, buying_power, pending_deposits) SELECT u(n), 1000, 1000 FROM generate_series(1, 199) n;

-- what is said, without what differs from run to run
CREATE FUNCTION told(n int) RETURNS TABLE (legacy_column text, difference numeric, cause text, posting text, at boolean, detail text) LANGUAGE sql AS
$$
	SELECT e.legacy_column, e.difference, e.cause, t.type || COALESCE(' ' || t.description, ''), e.at <= clock_timestamp(),
		regexp_replace(regexp_replace(regexp_replace(e.detail, 'by role \S+, application "[^"]*"', 'by WHO'), '\d{4}-\d\d-\d\d [0-9:.+-]+', 'TIME', 'g'),
			'((?:[Tt]ransaction|[Ww]rite|repair) )\d+(, \d+)*', '\1N', 'g')
	FROM ledger.explain_discrepancy(u(n)) e LEFT JOIN ledger.transactions t ON t.id = e.transaction_id
$$;
-- postings that have nothing to do with it: amounts that no cause has
CREATE FUNCTION noise(n int, times int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. times LOOP
		CASE i % 3
			WHEN 0 THEN PERFORM ledger.credit_user_usdc(u(n), i + 0.37, 'noise');
			WHEN 1 THEN PERFORM ledger.credit_user_usdc(u(n), i + 0.11, 'noise');
			ELSE PERFORM ledger.debit_user_usdc(u(n), i + 0.73, 'noise');
		END CASE;
	END LOOP;
END
$$;
-- what is to be found: of the user with that number, and of him with 100 more, amid noise
CREATE TABLE seeds (n int, legacy_column text, causes text[]);
CREATE VIEW score AS
	SELECT s.n, s.legacy_column, s.causes AS seeded, t.causes AS told, COALESCE(t.causes = s.causes AND t.sum, false) AS named,
		COALESCE(NOT t.causes <@ (s.causes || 'unexplained'::text), false) AS false_name
	FROM seeds s LEFT JOIN LATERAL (
		SELECT array_agg(e.cause ORDER BY e.cause) AS causes, sum(e.difference) IS NOT DISTINCT FROM
			(SELECT c.difference FROM ledger.compare_balances(u(s.n)) c WHERE c.legacy_column = s.legacy_column) AS sum
		FROM ledger.explain_discrepancy(u(s.n)) e WHERE e.legacy_column = s.legacy_column) t ON true;
CREATE TABLE scored AS TABLE score;
-- both users of a case, a posting for each, and what is to be found of them
CREATE FUNCTION us(n int) RETURNS uuid[] LANGUAGE sql IMMUTABLE AS $$ SELECT ARRAY[u(n), u(n + 100)] $$;
CREATE FUNCTION credit(n int, amount numeric, description text DEFAULT 'deposit') RETURNS bigint LANGUAGE sql AS
$$ SELECT count(ledger.credit_user_usdc(id, amount, description)) FROM unnest(us(n)) id $$;
CREATE FUNCTION seed(n int, legacy_column text, VARIADIC causes text[]) RETURNS void LANGUAGE sql AS
$$ INSERT INTO seeds SELECT x, seed.legacy_column, ARRAY(SELECT c FROM unnest(causes) c ORDER BY c) FROM unnest(ARRAY[n, n + 100]) x $$;
\set ECHO all
SELECT count(*) FROM ledger.explain_discrepancy(u(1));
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
-- not opened yet
SELECT * FROM told(99);

--
-- Week 0: shadow mode is off, and the application writes both sides itself.
--
SELECT count(ledger.credit_user_usdc(u(n), 5, 'opens')) FROM generate_series(1, 160) n;
UPDATE balances SET pending_deposits = pending_deposits + 5 WHERE user_id IN (SELECT u(n) FROM generate_series(1, 160) n);
SELECT count(*) FROM generate_series(1, 160) n, told(n);
SELECT count(noise(n, 30)) FROM generate_series(101, 160) n;
UPDATE balances b SET pending_deposits = pending_deposits + e.change
	FROM (SELECT t.user_id, sum(CASE t.direction WHEN 'credit' THEN t.amount ELSE -t.amount END) AS change
		FROM ledger.entries t JOIN ledger.transactions x ON x.id = t.transaction_id
		WHERE t.account_type = 'usdc_balance' AND x.description = 'noise' GROUP BY t.user_id) e
	WHERE e.user_id = b.user_id;
SELECT count(*) FROM ledger.reconcile() WHERE status <> 'missing_ledger';
-- one half of a dual write alone
SELECT credit(1, 21);
-- the wrong way round, in cents, rounded, into the other column, to another customer
BEGIN;
SELECT credit(2, 22);
UPDATE balances SET pending_deposits = pending_deposits - 22 WHERE user_id = ANY (us(2));
COMMIT;
SELECT credit(3, 23);
UPDATE balances SET pending_deposits = pending_deposits + 2300 WHERE user_id = ANY (us(3));
SELECT credit(4, 24.567);
UPDATE balances SET pending_deposits = pending_deposits + 24.57 WHERE user_id = ANY (us(4));
SELECT credit(5, 25);
UPDATE balances SET buying_power = buying_power + 25 WHERE user_id = ANY (us(5));
BEGIN;
SELECT ledger.credit_user_usdc(u(6), 26, 'deposit') > 0;
UPDATE balances SET pending_deposits = pending_deposits + 26 WHERE user_id = u(7);
COMMIT;
SELECT ledger.credit_user_usdc(u(106), 26.5, 'deposit') > 0;
UPDATE balances SET pending_deposits = pending_deposits + 26.5 WHERE user_id = u(107);
-- a hundredth of it; and less than it by a cent, which is no rounding
SELECT ledger.credit_user_usdc(u(41), 3400, 'deposit') > 0, ledger.credit_user_usdc(u(42), 24.51, 'deposit') > 0;
UPDATE balances SET pending_deposits = pending_deposits + CASE user_id WHEN u(41) THEN 34 ELSE 24.5 END WHERE user_id IN (u(41), u(42));
-- sent twice without a key, while the application knew it the second time
SELECT credit(8, 27);
SELECT credit(8, 27);
UPDATE balances SET pending_deposits = pending_deposits + 27 WHERE user_id = ANY (us(8));
SELECT seed(1, 'pending_deposits', 'not_mirrored'), seed(2, 'pending_deposits', 'sign_reversed'), seed(3, 'pending_deposits', 'wrong_unit'),
	seed(4, 'pending_deposits', 'rounded'), seed(5, 'pending_deposits', 'swapped_columns'), seed(5, 'buying_power', 'swapped_columns'),
	seed(6, 'pending_deposits', 'other_user'), seed(7, 'pending_deposits', 'other_user'), seed(8, 'pending_deposits', 'duplicate_posting');
SELECT n, t.* FROM generate_series(1, 8) n, told(n) t;
INSERT INTO scored TABLE score;
DELETE FROM seeds;

--
-- Week 1: the mirror writes the row.
--
SELECT ledger.configure(shadow_mode => true);
SET client_min_messages = error;
SELECT count(noise(n, 30)) FROM generate_series(109, 160) n;
UPDATE balances SET pending_deposits = pending_deposits - 31 WHERE user_id = ANY (us(9));
-- several; two of them make each other good
UPDATE balances SET pending_deposits = pending_deposits + 32 WHERE user_id = ANY (us(10));
UPDATE balances SET pending_deposits = pending_deposits + 9 WHERE user_id = ANY (us(10));
UPDATE balances SET pending_deposits = pending_deposits - 4 WHERE user_id = ANY (us(10));
UPDATE balances SET pending_deposits = pending_deposits - 9 WHERE user_id = ANY (us(10));
-- the old half of the dual write is still there
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 33 WHERE user_id = ANY (us(11));
SELECT credit(11, 33);
COMMIT;
-- a constraint that the mirror runs into
ALTER TABLE balances ADD CONSTRAINT modest CHECK (pending_deposits < 2000) NOT VALID;
SELECT credit(12, 1340);
-- and some of several: which of those in between is found by the sum
ALTER TABLE balances ADD CONSTRAINT not_more CHECK (user_id <> '00000000-0000-4000-8000-000000000032' OR pending_deposits <= 1005) NOT VALID;
SELECT ledger.credit_user_usdc(u(32), 50, 'first') > 0, ledger.debit_user_usdc(u(32), 5, 'none') > 0, ledger.credit_user_usdc(u(32), 51, 'second') > 0,
	ledger.credit_user_usdc(u(32), 3, 'none') > 0, ledger.credit_user_usdc(u(32), 52, 'third') > 0, ledger.credit_user_usdc(u(32), 1, 'none') > 0;
ALTER TABLE balances DROP CONSTRAINT not_more;
ALTER TABLE balances DROP CONSTRAINT modest;
-- read, add in the application, write: a deposit in between is lost
SELECT pending_deposits AS read1 FROM balances WHERE user_id = u(13) \gset
SELECT pending_deposits AS read2 FROM balances WHERE user_id = u(113) \gset
SELECT credit(13, 35);
UPDATE balances SET pending_deposits = :read1 + 12 WHERE user_id = u(13);
UPDATE balances SET pending_deposits = :read2 WHERE user_id = u(113);
DELETE FROM balances WHERE user_id = ANY (us(14));
-- an application's triggers
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_ARGV[0] = 'round' THEN
		NEW.pending_deposits := round(NEW.pending_deposits, 2);
	ELSE
		NEW.pending_deposits := NEW.pending_deposits - 1.5;
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER meddle BEFORE UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION meddle('tax');
SELECT credit(15, 36);
DROP TRIGGER meddle ON balances;
CREATE TRIGGER meddle BEFORE UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION meddle('round');
SELECT credit(16, 37.1234);
DROP TRIGGER meddle ON balances;
SELECT credit(17, 0.4567);
UPDATE balances SET pending_deposits = round(pending_deposits, 2) WHERE user_id = ANY (us(17));
SET session_replication_role = replica;
UPDATE balances SET pending_deposits = pending_deposits + 38 WHERE user_id = ANY (us(18));
RESET session_replication_role;
UPDATE balances SET pending_deposits = buying_power, buying_power = pending_deposits WHERE user_id = ANY (us(19));
-- set as if the deposit had been a withdrawal
SELECT pending_deposits - 39 AS read1 FROM balances WHERE user_id = u(20) \gset
SELECT pending_deposits - 39 AS read2 FROM balances WHERE user_id = u(120) \gset
SELECT credit(20, 39);
UPDATE balances SET pending_deposits = CASE user_id WHEN u(20) THEN :read1 ELSE :read2 END WHERE user_id = ANY (us(20));
-- what no trigger sees: a change of the schema that rewrites values. One
-- deposit's worth; one that two deposits have; one that none has
SELECT credit(21, 41);
SELECT credit(22, 42);
SELECT credit(22, 42, 'another');
-- More that only seems to be known: the other column's value, but not the other
-- way round; two of three deposits that are the same; writes of which several
-- make the difference; a hundred times the value, but after a write.
SELECT count(ledger.credit_user_usdc(u(44), 61, 'deposit')) FROM generate_series(1, 3);
DO $$ BEGIN FOR i IN 1 .. 5 LOOP UPDATE balances SET pending_deposits = pending_deposits + (ARRAY[1, 4, 2, 3, 7])[i] WHERE user_id = u(45); END LOOP; END $$;
UPDATE balances SET pending_deposits = pending_deposits + 5 WHERE user_id = u(46);
ALTER TABLE balances ALTER pending_deposits TYPE numeric(36,18) USING pending_deposits
	- CASE WHEN user_id = u(43) THEN pending_deposits - buying_power WHEN user_id = u(44) THEN 61 WHEN user_id = u(45) THEN 12
		WHEN user_id = u(46) THEN pending_deposits - 100500 WHEN user_id = ANY (us(21)) THEN 41 WHEN user_id = ANY (us(22)) THEN 42 WHEN user_id = ANY (us(23)) THEN 4.44 ELSE 0 END;
SELECT n, t.* FROM generate_series(41, 46) n, told(n) t;
SELECT credit(23, 1);
-- settled by a repair, and gone wrong again
UPDATE balances SET pending_deposits = pending_deposits + 43 WHERE user_id = ANY (us(24));
SELECT count(*) FROM unnest(us(24)) id, ledger.repair(id, dry_run => false, reason => 'not ours');
UPDATE balances SET pending_deposits = pending_deposits + 44 WHERE user_id = ANY (us(24));
-- two at once
SET session_replication_role = replica;
UPDATE balances SET pending_deposits = pending_deposits + 45 WHERE user_id = ANY (us(25));
RESET session_replication_role;
UPDATE balances SET pending_deposits = pending_deposits - 46 WHERE user_id = ANY (us(25));
-- amid all that: nothing is wrong
SELECT credit(26, 47);
SELECT count(noise(n, 30)) FROM generate_series(109, 130) n WHERE n <> 114;
SELECT seed(9, 'pending_deposits', 'outside_write'), seed(10, 'pending_deposits', 'outside_writes'), seed(11, 'pending_deposits', 'double_write'),
	seed(12, 'pending_deposits', 'mirror_failed'), seed(13, 'pending_deposits', 'lost_update'), seed(14, 'pending_deposits', 'missing_row'),
	seed(14, 'buying_power', 'missing_row'), seed(15, 'pending_deposits', 'trigger_side_effect'), seed(16, 'pending_deposits', 'rounded'),
	seed(17, 'pending_deposits', 'rounded'), seed(18, 'pending_deposits', 'bypass'), seed(19, 'pending_deposits', 'swapped_columns'),
	seed(19, 'buying_power', 'swapped_columns'), seed(20, 'pending_deposits', 'sign_reversed'), seed(21, 'pending_deposits', 'left_out_posting'),
	seed(22, 'pending_deposits', 'unexplained'), seed(23, 'pending_deposits', 'unexplained'), seed(24, 'pending_deposits', 'outside_write'),
	seed(25, 'pending_deposits', 'bypass', 'outside_write');
INSERT INTO seeds VALUES (32, 'pending_deposits', ARRAY['mirror_failed', 'mirror_failed', 'mirror_failed']);
INSERT INTO scored TABLE score;
DELETE FROM seeds;
SELECT n, t.* FROM generate_series(9, 32) n, told(n) t;
SELECT n, t.legacy_column, t.difference, t.cause FROM generate_series(101, 126) n, told(n) t;

-- The trigger was off for a while: what came past it is known by that.
BEGIN;
ALTER TABLE balances DISABLE TRIGGER ledger_capture;
UPDATE balances SET pending_deposits = pending_deposits + 48 WHERE user_id = ANY (us(27));
ALTER TABLE balances ENABLE ALWAYS TRIGGER ledger_capture;
COMMIT;
SELECT seed(27, 'pending_deposits', 'bypass');
INSERT INTO scored TABLE score;
SELECT n, t.* FROM generate_series(27, 28) n, told(n) t;
-- what a posting had met before is not laid on it
SELECT n, t.legacy_column, t.difference, t.cause FROM unnest(ARRAY[21, 23]) n, told(n) t;

-- No row, and nobody who was seen to delete it; not a number; in the transaction
-- that is at work on it.
SELECT ledger.credit_user_usdc(u(300), 5, 'has no row yet') > 0;
ALTER TABLE balances DISABLE TRIGGER ledger_capture;
DELETE FROM balances WHERE user_id = u(300);
ALTER TABLE balances ENABLE ALWAYS TRIGGER ledger_capture;
SELECT * FROM told(300);
-- deleted once, and inserted again
DELETE FROM balances WHERE user_id = u(47);
INSERT INTO balances (user_id, buying_power, pending_deposits) VALUES (u(47), 1000, 1005);
ALTER TABLE balances DISABLE TRIGGER ledger_capture;
DELETE FROM balances WHERE user_id = u(47);
UPDATE balances SET pending_deposits = 'NaN' WHERE user_id = u(29);
ALTER TABLE balances ENABLE ALWAYS TRIGGER ledger_capture;
SELECT * FROM told(47);
UPDATE balances SET buying_power = 'NaN' WHERE user_id = u(29);
SELECT * FROM told(29);
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 49 WHERE user_id = u(30);
SELECT ledger.credit_user_usdc(u(30), 49, 'both') > 0;
SELECT * FROM told(30);
ROLLBACK;
SELECT * FROM told(30);
-- Many of one kind are one row.
DO $$ BEGIN FOR i IN 1 .. 30 LOOP UPDATE balances SET buying_power = buying_power + i WHERE user_id = u(31); END LOOP; END $$;
SELECT legacy_column, difference, cause, left(detail, 60) FROM told(31);
-- A transaction may only read.
BEGIN READ ONLY;
SELECT count(*) FROM told(9);
COMMIT;

-- The score.
SELECT unnest(seeded) AS cause, format('%s of %s', count(*) FILTER (WHERE named), count(*)) FROM scored GROUP BY 1 ORDER BY 1;
SELECT n, legacy_column, seeded, told FROM scored WHERE NOT named OR false_name ORDER BY n;
SELECT format('%s of %s named, %s false', count(*) FILTER (WHERE named), count(*), count(*) FILTER (WHERE false_name)) FROM scored;
DO $$
BEGIN
	IF EXISTS (SELECT FROM scored HAVING count(*) FILTER (WHERE named) * 12 < count(*) * 11 OR bool_or(false_name)) THEN
		RAISE EXCEPTION 'fewer than eleven of twelve are named, or a name is false';
	END IF;
END $$;
SELECT * FROM ledger.explain_discrepancy('00000000-0000-4000-8000-00000000dead');
SELECT public.raises('SELECT ledger.explain_discrepancy(NULL)');
\set ECHO none
\c contrib_regression
DROP DATABASE :database;
