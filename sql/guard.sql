--
-- What SQL may not do to the ledger's tables, how the guards are restored,
-- and that a ledger with transactions cannot be dropped by mistake.
--
-- In a database of its own: the extension is dropped and created again.
--
\set ECHO none
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_ledger_guard;
DROP ROLE IF EXISTS regress_ledger_owner, regress_ledger_nobody;
CREATE DATABASE regress_ledger_guard;
\set first_database :DBNAME
\c regress_ledger_guard
SET client_min_messages = warning;
CREATE EXTENSION ledger;
RESET client_min_messages;

-- The error of a statement, or that it passed; what it did is undone.
CREATE FUNCTION try(statement text, replication_role text = 'origin') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	PERFORM set_config('session_replication_role', replication_role, true);
	BEGIN
		EXECUTE statement;
		RAISE EXCEPTION USING ERRCODE = 'TR001';
	EXCEPTION
		WHEN SQLSTATE 'TR001' THEN
			message := 'passed';
		WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
			message := concat_ws(E'\n', SQLSTATE || ' ' || message, NULLIF(detail, ''), NULLIF(hint, ''));
	END;
	PERFORM set_config('session_replication_role', 'origin', true);
	RETURN message;
END
$$;

CREATE FUNCTION rows_of(counted regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM %s', counted) INTO n;
	RETURN n;
END
$$;

-- The product's table.
CREATE TABLE balances (user_id uuid PRIMARY KEY, buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0, currency varchar(10) NOT NULL DEFAULT 'USD', updated_at timestamptz);
\set ECHO all
\set alice '''00000000-0000-4000-8000-00000000aa01'''

-- However names are shown.
SET quote_all_identifiers = on;
SELECT count(*) FROM ledger.disarmed();
SELECT * FROM ledger.verify_catalog();
SELECT count(*) FROM ledger.rearm();
RESET quote_all_identifiers;

-- A ledger with every kind of row.
SELECT ledger.credit_user_usdc(:alice, 100, 'deposit') AS deposit \gset
SELECT ledger.reserve_for_investment(:alice, 40, '00000000-0000-4000-8000-00000000aa11') > 0 AS reserved;
SELECT ledger.execute_investment(:alice, 25, '00000000-0000-4000-8000-00000000aa11') > 0 AS executed;
SELECT ledger.set_account_status(account_id, 'open', 'checked') FROM ledger.account_balances
	WHERE user_id = :alice AND account_type = 'usdc_balance';
SELECT shadow_mode FROM ledger.configure(strict_mode => true, reason => 'a row of settings');
SELECT shadow_mode FROM ledger.configure(strict_mode => false, reason => 'another');
INSERT INTO ledger.legacy_log (legacy, action, changed_by) VALUES ('public.balances', 'attach', 'a test');
INSERT INTO ledger.legacy_writes (mapping_id, user_id, operation, kind, session_role, acting_role, deltas)
	VALUES (1, :alice, 'UPDATE', 'outside', 'somebody', 'somebody', '{}');
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source)
	VALUES (1, :alice, 'buying_power', 'mismatch', 'run');
INSERT INTO ledger.evidence_losses (kind, at, last_at) VALUES ('crash', now(), now());
INSERT INTO ledger.read_timings (slot, source, bucket, count) VALUES ('2026-01-01', 'ledger', 1, 1);
INSERT INTO ledger.discrepancy_changes (mapping_id, legacy_column, at, count) VALUES (1, 'buying_power', now(), 1);
INSERT INTO ledger.backfill_runs (total, started_at, updated_at, requested_by) VALUES (7, now(), now(), 'a test');
INSERT INTO ledger.backfill_findings (run_id, mapping_id, key, reason, detail, first_seen, last_seen)
	VALUES (1, 1, :alice, 'negative', 'a test', now(), now());
INSERT INTO ledger.reconciliation_runs (scope, tolerance, started_at, finished_at, snapshot, last_transaction_id,
	discrepancies, users, total_difference, requested_by, status)
	VALUES ('full', 0, now(), now(), pg_current_snapshot(), 1, 0, 0, 0, 'a test', 'finished');
INSERT INTO ledger.reconciliation_findings (run_id, mapping_id, user_id, legacy_column, currency, allowed, cause, status)
	VALUES (1, 1, gen_random_uuid(), 'pending_deposits', 'USDC', 0, 'mismatch', 'differs');
INSERT INTO ledger.ignore_rules (legacy_column, reason, expires_at, created_by, created_at)
	VALUES ('pending_deposits', 'a test', now(), 'a test', now());

INSERT INTO ledger.repair_log (mapping_id, user_id, legacy_column, direction, reason, repaired_by)
	VALUES (1, :alice, 'buying_power', 'legacy', 'a test', 'a test');
INSERT INTO ledger.test_clock_log (set_by, reason) VALUES ('a test', 'a test');
INSERT INTO ledger.cut_over_rehearsals (rehearsed_by, closed_gates, locked, lock_wait_ms, held_ms, predicted_stall_ms,
	users_checked, users_different) VALUES ('a test', '{}', true, 0, 0, 0, 0, 0);
INSERT INTO ledger.retirements (mapping_id, schema_name, old_name, new_name, retired_by, reason, last_transaction_id)
	VALUES (1, 'public', 'balances', 'balances_retired', 'a test', 'a test', 1);
INSERT INTO ledger.roll_backs (started_by, from_state, reason, catch_up) VALUES ('a test', 'cut_over', 'a test', true);

-- Every guarded table has rows, so a statement that passes has changed them.
CREATE VIEW guarded AS
	SELECT t.oid::regclass AS guarded_table,
		(SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FILTER (WHERE attidentity = '') FROM pg_attribute WHERE attrelid = t.oid AND attnum > 0) AS columns,
		(SELECT attname FROM pg_attribute WHERE attrelid = t.oid AND attnum > 0 AND attidentity = '' ORDER BY attnum LIMIT 1) AS first_column,
		rows_of(t.oid) AS rows
	FROM pg_class t
	WHERE t.relnamespace = 'ledger'::regnamespace AND t.relkind = 'r'
	  AND EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t.oid AND g.tgname = 'guard');
SELECT guarded_table, rows > 0 AS has_rows FROM guarded ORDER BY guarded_table::text COLLATE "C";

-- The SQLSTATE of each command, as it is and in the replica role.
SELECT guarded_table,
	left(try(format('UPDATE %s SET %2$I = %2$I', guarded_table, first_column)), 6) AS "update",
	left(try(format('DELETE FROM %s', guarded_table)), 6) AS "delete",
	left(try(format('TRUNCATE %s', guarded_table)), 6) AS "truncate",
	left(try(format('UPDATE %s SET %2$I = %2$I', guarded_table, first_column), 'replica'), 6) AS "update as replica",
	left(try(format('DELETE FROM %s', guarded_table), 'replica'), 6) AS "delete as replica",
	left(try(format('TRUNCATE %s', guarded_table), 'replica'), 6) AS "truncate as replica"
FROM guarded ORDER BY guarded_table::text COLLATE "C";
SELECT name, try(format('TRUNCATE %s', name)) FROM (VALUES ('ledger.account_types'), ('ledger.currencies, ledger.account_types')) AS t (name);

-- The whole message, once for each hint.
SELECT try('UPDATE ledger.journal SET amount = amount + 1');
SELECT try('DELETE FROM ledger.accounts');
SELECT try('UPDATE ledger.reservation_rows SET released = 15, status = ''released''');
SELECT try('UPDATE ledger.settings SET shadow_mode = true');
SELECT try('TRUNCATE ledger.settings_log');
SELECT try('TRUNCATE ledger.account_types');

-- All the ways to change a row of the journal.
SELECT statement, left(try(statement), 6) FROM (VALUES
	('UPDATE ONLY ledger.journal SET description = NULL WHERE transaction_id = 1'),
	('UPDATE ledger.journal j SET description = a.status FROM ledger.accounts a'),
	('WITH gone AS (DELETE FROM ledger.journal RETURNING *) SELECT count(*) FROM gone'),
	('MERGE INTO ledger.journal j USING (VALUES (1)) v (id) ON j.transaction_id = v.id WHEN MATCHED THEN DELETE'),
	('MERGE INTO ledger.journal j USING (VALUES (1)) v (id) ON j.transaction_id = v.id WHEN MATCHED THEN UPDATE SET amount = 1'),
	('INSERT INTO ledger.journal SELECT * FROM ledger.journal ON CONFLICT (transaction_id, ordinal) DO UPDATE SET amount = 1'),
	('CREATE TEMP TABLE other (LIKE ledger.journal); INSERT INTO other SELECT * FROM ledger.journal; TRUNCATE other, ledger.journal')
) AS s (statement);

-- What a restore does passes.
SELECT guarded_table, try(format('CREATE TEMP TABLE copied AS TABLE %1$s; ALTER TABLE %1$s DISABLE TRIGGER ALL; DELETE FROM %1$s;
	ALTER TABLE %1$s ENABLE TRIGGER ALL; INSERT INTO %1$s (%2$s) SELECT %2$s FROM copied', guarded_table, columns))
FROM guarded ORDER BY guarded_table::text COLLATE "C";

-- And so does the ledger itself.
SELECT ledger.reverse_transaction(:deposit, 'not ours', 10, '00000000-0000-4000-8000-00000000aa21') > 0 AS reversed;
SELECT usdc_balance, pending_investment FROM ledger.get_user_balance(:alice);

-- Guards are triggers and called as such.
SELECT ledger.guard();
SELECT ledger.drop_guard();
CREATE FUNCTION not_a_trigger() RETURNS int LANGUAGE c AS '$libdir/ledger', 'ledger_guard';
SELECT not_a_trigger();
CREATE FUNCTION not_an_event_trigger() RETURNS int LANGUAGE c AS '$libdir/ledger', 'ledger_drop_guard';
SELECT not_an_event_trigger();

--
-- rearm()
--
SELECT * FROM ledger.disarmed();
SELECT * FROM ledger.rearm();

ALTER TABLE ledger.journal DISABLE TRIGGER guard;
ALTER TABLE ledger.accounts DISABLE TRIGGER ALL;
ALTER TABLE ledger.accounts ENABLE TRIGGER ALL;
ALTER TABLE ledger.currencies DISABLE TRIGGER type_guard;
ALTER TABLE ledger.legacy_mappings ENABLE REPLICA TRIGGER legacy_changed;
DROP TRIGGER guard_truncate ON ledger.settings_log;
DROP TRIGGER guard ON ledger.reservation_rows;
CREATE TRIGGER guard BEFORE UPDATE ON ledger.reservation_rows FOR EACH ROW EXECUTE FUNCTION ledger.guard();
DROP TRIGGER guard ON ledger.settings;
CREATE TRIGGER guard BEFORE INSERT OR DELETE OR UPDATE ON ledger.settings FOR EACH ROW WHEN (false) EXECUTE FUNCTION ledger.guard();
DROP TRIGGER type_guard ON ledger.account_types;
CREATE TRIGGER type_guard BEFORE INSERT OR DELETE OR UPDATE ON ledger.account_types FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
ALTER EVENT TRIGGER ledger_drop_guard DISABLE;
SELECT try('DELETE FROM ledger.journal') AS journal, try('DELETE FROM ledger.reservation_rows') AS reservations,
	try('DELETE FROM ledger.settings') AS settings;
SELECT * FROM ledger.disarmed();
SELECT * FROM ledger.rearm();
SELECT * FROM ledger.disarmed();
SELECT left(try('DELETE FROM ledger.journal'), 6) AS journal, left(try('DELETE FROM ledger.reservation_rows'), 6) AS reservations,
	left(try('DELETE FROM ledger.settings'), 6) AS settings;

-- All of them at once, and nothing is left that differs from a new ledger.
CREATE TEMP TABLE guards_of_new AS
	SELECT pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE NOT tgisinternal;
DO $$
DECLARE
	t record;
BEGIN
	FOR t IN SELECT tgrelid::regclass AS name, tgname FROM pg_trigger WHERE NOT tgisinternal LOOP
		EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, t.name);
	END LOOP;
END
$$;
ALTER EXTENSION ledger DROP EVENT TRIGGER ledger_drop_guard;
ALTER EXTENSION ledger DROP EVENT TRIGGER ledger_legacy_drop_guard;
DROP EVENT TRIGGER ledger_drop_guard;
DROP EVENT TRIGGER ledger_legacy_drop_guard;
SELECT what, count(*) FROM ledger.rearm() GROUP BY what;
(SELECT pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE NOT tgisinternal EXCEPT TABLE guards_of_new)
UNION ALL
(TABLE guards_of_new EXCEPT SELECT pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE NOT tgisinternal);
SELECT evtname, evtenabled, evttags, pg_describe_object(d.refclassid, d.refobjid, 0) AS member_of
FROM pg_event_trigger e LEFT JOIN pg_depend d ON d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid AND d.deptype = 'e';

-- The triggers on an attached legacy table are guards too.
SELECT check_name FROM ledger.attach_legacy() WHERE NOT passed;
ALTER TABLE balances DISABLE TRIGGER ALL;
ALTER TABLE balances ENABLE TRIGGER ledger_capture;
SELECT * FROM ledger.disarmed();
SELECT * FROM ledger.rearm();
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'balances'::regclass ORDER BY 1;
SELECT * FROM ledger.rearm();

-- An attached table is not dropped by mistake, nor is a partition of one.
CREATE SCHEMA app CREATE TABLE wallets (user_id uuid PRIMARY KEY, buying_power numeric, pending_deposits numeric) PARTITION BY RANGE (user_id);
CREATE TABLE app.part PARTITION OF app.wallets DEFAULT;
SELECT passed FROM ledger.attach_legacy('app.wallets', '{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"]}]}')
	WHERE check_name = 'attached';
SELECT try('DROP TABLE balances');
SELECT try('DROP SCHEMA app CASCADE');
SELECT try('DROP TABLE app.part');
SELECT try('ALTER TABLE app.wallets DROP COLUMN pending_deposits');
SELECT try('CREATE TEMP TABLE balances (); DROP TABLE pg_temp.balances');
SELECT try('SET LOCAL ledger.allow_drop = on; DROP TABLE balances');
SELECT ledger.detach_legacy('app.wallets');
SELECT try('DROP TABLE app.part');
DROP SCHEMA app CASCADE;
SELECT ledger.detach_legacy('balances');
SELECT try('DROP TABLE balances');

--
-- DROP
--
CREATE ROLE regress_ledger_nobody;
GRANT CREATE ON DATABASE regress_ledger_guard TO regress_ledger_nobody;
DROP EXTENSION ledger;
DROP EXTENSION ledger CASCADE;
DROP EXTENSION IF EXISTS ledger, nonsense CASCADE;
DROP EXTENSION plpgsql CASCADE;
DROP SCHEMA ledger CASCADE;
DROP SCHEMA public, ledger CASCADE;
SELECT left(try('DROP EXTENSION ledger'), 58) AS by_a_function;

-- What would not drop it is left to itself.
DROP EXTENSION plpgsql;
DROP SCHEMA ledger;
SET ROLE regress_ledger_nobody;
DROP EXTENSION ledger;
DROP SCHEMA ledger CASCADE;
CREATE SCHEMA regress_ledger_other CREATE TABLE ledger (journal int);
DROP SCHEMA regress_ledger_other CASCADE;
CREATE SCHEMA regress_ledger_other;
RESET ROLE;
DROP OWNED BY regress_ledger_nobody;
SELECT nspname FROM pg_namespace WHERE nspname = 'regress_ledger_other';
DROP SCHEMA IF EXISTS nonsense;
DROP EXTENSION IF EXISTS nonsense;
SET ROLE regress_ledger_nobody;
SET ledger.allow_drop = on;
RESET ROLE;

-- On purpose; and everything works again in the session.
BEGIN;
SET LOCAL ledger.allow_drop = on;
DROP EXTENSION ledger CASCADE;
SELECT count(*) AS left_behind FROM pg_class WHERE relnamespace = 'ledger'::regnamespace;
CREATE EXTENSION ledger;
SELECT sum(calls) FROM ledger.stat_operations;
SELECT ledger.credit_user_usdc(:alice, 7, 'a new ledger') AS first_id;
ROLLBACK;
SELECT usdc_balance, pending_investment FROM ledger.get_user_balance(:alice);
DROP EXTENSION ledger;
SET ledger.allow_drop = on;
DROP SCHEMA ledger CASCADE;
RESET ledger.allow_drop;
SELECT count(*) FROM pg_event_trigger;

-- One without transactions goes without more ado, whatever else it holds.
CREATE EXTENSION ledger;
SELECT ledger.open_account('usdc_balance', :alice) AS account;
DROP EXTENSION ledger;
CREATE EXTENSION ledger;
DROP SCHEMA ledger CASCADE;
CREATE EXTENSION ledger;

-- Rows that are not committed count, those of an aborted transaction do not.
BEGIN;
SELECT ledger.credit_user_usdc(:alice, 7, 'not committed') AS id;
DROP EXTENSION ledger;
ROLLBACK;
BEGIN;
DROP EXTENSION ledger;
ROLLBACK;

-- By the role that owns it.
DROP EXTENSION ledger;
DROP SCHEMA ledger;
CREATE ROLE regress_ledger_owner SUPERUSER;
SET ROLE regress_ledger_owner;
CREATE EXTENSION ledger;
RESET ROLE;
SELECT ledger.credit_user_usdc(:alice, 8, 'deposit') > 0 AS posted;
DROP OWNED BY regress_ledger_owner;
DROP OWNED BY regress_ledger_nobody, regress_ledger_owner CASCADE;
ALTER EXTENSION ledger DROP EVENT TRIGGER ledger_drop_guard;
ALTER EXTENSION ledger ADD EVENT TRIGGER ledger_drop_guard;

-- Half of it gone: the guard is in nobody's way.
BEGIN;
DO $$
DECLARE
	v text;
BEGIN
	FOREACH v IN ARRAY ARRAY['VIEW ledger.entries', 'VIEW ledger.transactions', 'VIEW ledger.suspense_items', 'TABLE ledger.journal'] LOOP
		EXECUTE format('ALTER EXTENSION ledger DROP %s', v);
		EXECUTE format('DROP %s', v);
	END LOOP;
END
$$;
DROP EXTENSION ledger;
ROLLBACK;
BEGIN;
ALTER EXTENSION ledger DROP TABLE ledger.journal;
ALTER TABLE ledger.journal SET SCHEMA public;
CREATE VIEW ledger.journal AS SELECT 1 AS row;
DROP EXTENSION ledger CASCADE;
ROLLBACK;
SET ledger.allow_drop = on;
DROP OWNED BY regress_ledger_owner;
RESET ledger.allow_drop;
SELECT count(*) FROM pg_extension WHERE extname = 'ledger';

\set SHOW_CONTEXT never
-- A schema that is there already must be a superuser's, as a restore makes it.
CREATE SCHEMA ledger AUTHORIZATION regress_ledger_nobody;
CREATE EXTENSION ledger;
DROP SCHEMA ledger;
CREATE SCHEMA ledger AUTHORIZATION regress_ledger_owner;
CREATE EXTENSION ledger;

\c :first_database
DROP DATABASE regress_ledger_guard;
DROP ROLE regress_ledger_owner, regress_ledger_nobody;
