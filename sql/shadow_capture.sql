--
-- Writes to the legacy table that are not the mirror's.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_shadow_capture
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set ECHO all
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'balances'::regclass ORDER BY tgname;

-- Captured from attach on, before shadow mode, whatever the statement.
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :alice;
UPDATE balances SET updated_at = now(), buying_power = buying_power WHERE user_id = :alice;
INSERT INTO balances (user_id, buying_power) VALUES (:alice, 2) ON CONFLICT (user_id) DO UPDATE SET buying_power = balances.buying_power + EXCLUDED.buying_power;
INSERT INTO balances (user_id, pending_deposits) VALUES (:dave, 4) ON CONFLICT (user_id) DO NOTHING;
INSERT INTO balances (user_id, pending_deposits) VALUES (:dave, 4) ON CONFLICT (user_id) DO NOTHING;
MERGE INTO balances b USING (VALUES (:alice::uuid, 1.0)) v (id, amount) ON b.user_id = v.id WHEN MATCHED THEN UPDATE SET pending_deposits = pending_deposits + v.amount;
WITH moved AS (UPDATE balances SET buying_power = buying_power - 1 WHERE user_id = :alice RETURNING user_id)
	UPDATE balances b SET buying_power = buying_power + 1 FROM moved WHERE b.user_id = :bob;
COPY balances (user_id, buying_power) FROM STDIN;
00000000-0000-4000-8000-00000000000e	5
\.
DELETE FROM balances WHERE user_id = '00000000-0000-4000-8000-00000000000e';
UPDATE balances SET user_id = '00000000-0000-4000-8000-00000000000e' WHERE user_id = :dave;
UPDATE balances SET pending_deposits = 'NaN' WHERE user_id = '00000000-0000-4000-8000-00000000000e';
DELETE FROM balances WHERE user_id = '00000000-0000-4000-8000-00000000000e';
BEGIN;
UPDATE balances SET buying_power = 0;
ROLLBACK;
SELECT * FROM written;
SELECT public.raises('TRUNCATE balances');

-- A cascade, and the application's own trigger.
CREATE TABLE users (id uuid PRIMARY KEY);
INSERT INTO users SELECT user_id FROM balances;
INSERT INTO users VALUES ('00000000-0000-4000-8000-0000000000fe');
INSERT INTO balances (user_id, buying_power) VALUES ('00000000-0000-4000-8000-0000000000fe', 8);
ALTER TABLE balances ADD FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE;
DELETE FROM users WHERE id = '00000000-0000-4000-8000-0000000000fe';
ALTER TABLE balances DROP CONSTRAINT balances_user_id_fkey;
CREATE TABLE orders (user_id uuid, amount numeric);
CREATE FUNCTION settle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE balances SET buying_power = buying_power - NEW.amount WHERE user_id = NEW.user_id;
	RETURN NEW;
END $$;
CREATE TRIGGER settle AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION settle();
INSERT INTO orders VALUES (:alice, 2);
SELECT * FROM written WHERE who = 'e' AND operation = 'DELETE' OR who = 'a' ORDER BY 1 DESC LIMIT 4;
SELECT statement FROM ledger.legacy_writes ORDER BY id DESC LIMIT 1;

-- Who wrote: roles without a right in schema ledger.
CREATE ROLE regress_ledger_app LOGIN;
GRANT SELECT, INSERT, UPDATE, DELETE ON balances TO regress_ledger_app;
SET SESSION AUTHORIZATION regress_ledger_app;
SET application_name = 'old billing job';
UPDATE balances SET pending_deposits = pending_deposits + 1 WHERE user_id = '00000000-0000-4000-8000-00000000000b';
SELECT * FROM ledger.legacy_writes;
RESET SESSION AUTHORIZATION;
SELECT session_role, acting_role, application_name, statement, before ->> 'pending_deposits' AS before, after ->> 'pending_deposits' AS after,
	at <= clock_timestamp() AS at, xact < pg_current_xact_id() AS xact
	FROM ledger.legacy_writes ORDER BY id DESC LIMIT 1;
SELECT role, application_name, statement, count FROM ledger.legacy_writers ORDER BY last_seen DESC LIMIT 2;
-- in another role than the session's; of a long statement the beginning, in whole characters
SET ROLE regress_ledger_app;
\set ECHO none
SELECT format('UPDATE balances SET pending_deposits = pending_deposits + 0.5 /*%s*/ WHERE user_id = %L', repeat('€', 1000), :bob) \gexec
\set ECHO all
RESET ROLE;
SELECT session_role = session_user AS session, acting_role, octet_length(statement), right(statement, 1) FROM ledger.legacy_writes ORDER BY id DESC LIMIT 1;

-- The opening takes the row as it stands; a write of the very transaction
-- that opens is not what the user had.
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :bob;
SELECT ledger.credit_user_usdc(:bob, 10, 'the other half of a dual write') > 0 AS posted;
COMMIT;
SELECT * FROM ledger.compare_balances(:bob);
SELECT type, metadata -> 'row' AS opened_from FROM ledger.transactions WHERE user_id = :bob ORDER BY id;

-- Shadow mode: a direct write in a transaction that also posts is a double
-- write, in both orders, and a savepoint rolled back takes it with it.
SELECT ledger.configure(shadow_mode => true);
SELECT ledger.credit_user_usdc(:alice, 1, 'opens her') > 0 AS posted;
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
SELECT ledger.credit_user_usdc(:alice, 10, 'both') > 0 AS posted;
SELECT * FROM ledger.compare_balances(:alice);
SELECT usdc_balance FROM ledger.get_user_balance(:alice);
COMMIT;
SELECT usdc_balance FROM ledger.get_user_balance(:alice);
SELECT who, kind, deltas FROM written WHERE kind <> 'outside';
SELECT * FROM found;
SELECT user_id, legacy_column, before, after FROM ledger.repair(:alice, dry_run => false, reason => 'double');
BEGIN;
SELECT ledger.credit_user_usdc(:alice, 10, 'both') > 0 AS posted;
SAVEPOINT s;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
SELECT * FROM ledger.compare_balances(:alice);
ROLLBACK TO s;
SELECT * FROM ledger.compare_balances(:alice);
COMMIT;
BEGIN;
SAVEPOINT s;
SELECT ledger.credit_user_usdc(:alice, 10, 'not to be') > 0 AS posted;
ROLLBACK TO s;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
COMMIT;
SELECT who, kind, deltas FROM written WHERE who = 'a' OFFSET 6;
UPDATE balances SET pending_deposits = pending_deposits - 10 WHERE user_id = :alice;
-- One that makes good what it broke is recorded, but is no discrepancy.
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
SELECT ledger.credit_user_usdc(:alice, 10, 'both') > 0 AS posted;
UPDATE balances SET pending_deposits = pending_deposits - 10 WHERE user_id = :alice;
COMMIT;
SELECT * FROM ledger.compare_balances(:alice);
SELECT who, kind, deltas FROM written WHERE who = 'a' OFFSET 8;

-- The replica role: marked, never refused; then refuse, and the session's own
-- setting over it.
SET session_replication_role = replica;
UPDATE balances SET buying_power = buying_power + 7 WHERE user_id = :bob;
RESET session_replication_role;
SELECT who, kind, deltas FROM written OFFSET (SELECT count(*) - 1 FROM written);
SELECT ledger.configure_capture('balances', 'refuse', 'week 4');
SELECT public.raises($$UPDATE balances SET buying_power = 1$$);
SELECT public.raises($$DELETE FROM balances$$);
SELECT public.raises($$INSERT INTO balances (user_id) VALUES ('00000000-0000-4000-8000-00000000000d')$$);
SELECT public.raises($$UPDATE balances SET user_id = '00000000-0000-4000-8000-00000000000d' WHERE user_id = '00000000-0000-4000-8000-00000000000c'$$);
SELECT public.raises($$TRUNCATE balances$$);
SELECT public.raises($$UPDATE balances SET updated_at = now()$$);
SELECT ledger.credit_user_usdc(:alice, 1, 'the mirror may') > 0 AS posted;
SET ledger.capture = 'record';
UPDATE balances SET buying_power = buying_power - 7 WHERE user_id = :bob;
RESET ledger.capture;
SET SESSION AUTHORIZATION regress_ledger_app;
SET ledger.capture = 'record';
UPDATE balances SET buying_power = 0;
RESET SESSION AUTHORIZATION;
SET session_replication_role = replica;
UPDATE balances SET buying_power = buying_power - 1 WHERE user_id = :bob;
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :bob;
RESET session_replication_role;
SELECT * FROM ledger.reconcile();
-- An application's trigger below the mirror is refused as well, and after the
-- error the guard is clear.
CREATE FUNCTION tax() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE balances SET buying_power = buying_power - 1 WHERE user_id = NEW.user_id AND pg_trigger_depth() = 1;
	RETURN NULL;
END $$;
CREATE TRIGGER tax AFTER UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION tax();
SELECT public.raises(format('SELECT ledger.credit_user_usdc(%L, 1, %L)', :alice, 'deposit'));
DROP TRIGGER tax ON balances;
SELECT public.raises($$UPDATE balances SET buying_power = 1$$);
SELECT count(*) FROM ledger.reconcile();
SELECT * FROM public.ledger_oracle();
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;

-- In one transaction with the attach itself; and not attached after all.
BEGIN;
CREATE SCHEMA later;
CREATE TABLE later.wallets (id uuid PRIMARY KEY, free numeric, "In Orders" numeric);
INSERT INTO later.wallets VALUES (:carol, 3, 4), (:dave, 50, 0);
SELECT passed, detail FROM ledger.attach_legacy('later.wallets', '{"columns": [{"column": "free", "accounts": ["usdc_balance"]},
	{"column": "In Orders", "accounts": ["pending_investment"]}]}', 'id') WHERE check_name IN ('rows', 'attached');
SELECT ledger.detach_legacy('later.wallets');
ROLLBACK;
BEGIN;
CREATE SCHEMA later;
CREATE TABLE later.wallets (id uuid PRIMARY KEY, free numeric, "In Orders" numeric);
INSERT INTO later.wallets VALUES (:carol, 3, 4), (:dave, 50, 0);
SELECT passed FROM ledger.attach_legacy('later.wallets', '{"columns": [{"column": "free", "accounts": ["usdc_balance"]},
	{"column": "In Orders", "accounts": ["pending_investment"]}]}', 'id') WHERE check_name = 'attached';
SELECT public.raises(format('SELECT ledger.credit_user_usdc(%L, 1, %L)', :carol, 'deposit'));
SELECT ledger.reserve_for_investment(:dave, 20) > 0 AS posted;
SELECT free, "In Orders" FROM later.wallets ORDER BY id;
UPDATE later.wallets SET free = 10 WHERE id = :carol;
SELECT legacy_column, legacy_value, status FROM ledger.compare_balances(:carol) WHERE legacy_column IN ('free', 'In Orders');
SELECT legacy_column, legacy_value, status FROM ledger.compare_balances(:dave);
ROLLBACK;
SELECT count(*) FROM ledger.legacy_mappings;
SELECT count(*) FROM ledger.compare_balances(:carol);
-- The table in another schema, under another name.
CREATE SCHEMA old;
ALTER TABLE balances SET SCHEMA old;
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
ALTER SCHEMA old RENAME TO older;
SET ledger.legacy_fast_path = off;
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
ALTER TABLE older.balances RENAME TO wallets;
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
RESET ledger.legacy_fast_path;
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
SELECT status FROM ledger.compare_balances(:alice);
ALTER TABLE older.wallets RENAME TO balances;
ALTER TABLE older.balances SET SCHEMA public;

-- Rows past row security: policies hide nothing from compare and reconcile.
SELECT ledger.configure_capture('balances', 'record', 'again');
ALTER TABLE balances OWNER TO regress_ledger_app;
ALTER TABLE balances ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY nothing ON balances USING (false);
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
SELECT * FROM ledger.compare_balances(:alice);
SELECT count(*) FROM ledger.reconcile();
SET ROLE regress_ledger_app;
SELECT count(*) FROM balances;
RESET ROLE;

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
DROP ROLE regress_ledger_app;
