--
-- verify(): every check passes on a sound ledger, and each finds what a
-- superuser has broken.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_verify
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set ECHO all
SELECT * FROM ledger.verify();

-- A ledger with some of everything.
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT ledger.configure(shadow_mode => true);
SELECT ledger.credit_user_usdc(:alice, 100, 'deposit', '00000000-0000-4000-8000-0000000000d1') AS deposit \gset
SELECT ledger.credit_user_usdc(:bob, 30, 'deposit', '00000000-0000-4000-8000-0000000000d2') > 0 AS posted;
SELECT ledger.reserve_for_investment(:alice, 40, '00000000-0000-4000-8000-0000000000e1') AS reservation \gset
SELECT ledger.execute_investment(:alice, 15, '00000000-0000-4000-8000-0000000000e1', 'f1') > 0 AS posted;
SELECT ledger.move_funds_to_fiat_exposure(:bob, 10, 'to the broker') > 0 AS posted;
SELECT ledger.reverse_transaction(:deposit, 'partly', 20, '00000000-0000-4000-8000-0000000000d3') > 0 AS posted;
INSERT INTO ledger.account_types (name, owner, currency, normal_side) VALUES ('petty_cash', 'house', 'USDC', 'credit');
SELECT ledger.post('petty', ARRAY[ROW(ledger.open_account('system_buffer_usdc'), ledger.open_account('petty_cash'), 3)::ledger.posting]) AS petty \gset
SELECT id AS usdc FROM ledger.accounts WHERE user_id = :alice AND account_type = 'usdc_balance' \gset
SELECT id AS pending FROM ledger.accounts WHERE user_id = :alice AND account_type = 'pending_investment' \gset
SELECT id AS bobs FROM ledger.accounts WHERE user_id = :bob AND account_type = 'usdc_balance' \gset
SELECT id AS fiat FROM ledger.accounts WHERE user_id = :bob AND account_type = 'fiat_exposure' \gset
SELECT id AS buffer FROM ledger.accounts WHERE account_type = 'system_buffer_usdc' \gset
SELECT count(*) FILTER (WHERE passed) AS passed, count(*) FILTER (WHERE NOT passed) AS failed FROM ledger.verify();

-- Breaks something, tells what the named check says, and undoes it.
CREATE TABLE tried (check_name text);
CREATE FUNCTION broken(name text, statements text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	guarded record;
	result text;
BEGIN
	BEGIN
		FOR guarded IN SELECT g.table_name, g.trigger_name FROM ledger.guards() g WHERE g.table_name LIKE 'ledger.%' LOOP
			EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', guarded.table_name, guarded.trigger_name);
		END LOOP;
		EXECUTE statements;
		FOR guarded IN SELECT g.table_name, g.trigger_name FROM ledger.guards() g WHERE g.table_name LIKE 'ledger.%' LOOP
			EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', guarded.table_name, guarded.trigger_name);
		END LOOP;
		EXECUTE COALESCE(substring(statements FROM '-- late: (.*)'), '');
		SELECT v.detail INTO result FROM ledger.verify() v WHERE v.check_name = name AND NOT v.passed;
		RAISE EXCEPTION 'undo' USING ERRCODE = 'ZZ999';
	EXCEPTION WHEN SQLSTATE 'ZZ999' THEN
		NULL;
	END;
	INSERT INTO tried VALUES (name);
	RETURN COALESCE(result, 'NOT FOUND');
END $$;

SELECT broken('account_totals', format('UPDATE ledger.accounts SET debits = debits + 1 WHERE id = %s', :usdc));
SELECT broken('account_totals', format('UPDATE ledger.accounts SET credits = credits - 1 WHERE id = %s', :usdc));
SELECT broken('account_versions', format('UPDATE ledger.accounts SET version = version + 1 WHERE id = %s', :usdc));
SELECT broken('account_types', format('UPDATE ledger.accounts SET account_type = ''no_such_type'' WHERE id = %s', :usdc));
SELECT broken('account_types', format('UPDATE ledger.accounts SET currency = ''USD'' WHERE id = %s', :usdc));
SELECT broken('account_types', format('UPDATE ledger.accounts SET user_id = NULL WHERE id = %s', :usdc));
SELECT broken('account_identity', format('ALTER TABLE ledger.accounts DROP CONSTRAINT accounts_identity; UPDATE ledger.accounts SET account_type = ''usdc_balance'' WHERE id = %s', :pending));
SELECT broken('stripes', format('DELETE FROM ledger.account_stripes WHERE account_id = %s AND stripe = 5', :buffer));
SELECT broken('stripes', format('UPDATE ledger.account_stripes SET stripe = 500 WHERE account_id = %s AND stripe = 5', :buffer));
SELECT broken('stripes', format('INSERT INTO ledger.account_stripes (account_id, stripe) VALUES (%s, 0)', :usdc));
SELECT broken('stripes', 'INSERT INTO ledger.account_stripes (account_id, stripe) VALUES (999999, 0)');
SELECT broken('stripes', format('UPDATE ledger.accounts SET min_balance = 0 WHERE id = %s', :buffer));
SELECT broken('account_totals', format('UPDATE ledger.account_stripes SET debits = debits + 1 WHERE account_id = %s AND stripe = 5', :buffer));
SELECT broken('account_versions', format('UPDATE ledger.account_stripes SET version = version + 1 WHERE account_id = %s AND stripe = 5', :buffer));
SELECT broken('debits_equal_credits', format('UPDATE ledger.account_stripes SET debits = debits + 1 WHERE account_id = %s AND stripe = 5', :buffer));
SELECT broken('user_balances', format('UPDATE ledger.accounts SET debits = credits + 1 WHERE id = %s', :usdc));
SELECT broken('user_balances', format('UPDATE ledger.accounts SET credits = ''NaN'' WHERE id = %s', :usdc));
SELECT broken('debits_equal_credits', format('UPDATE ledger.accounts SET credits = credits + 5 WHERE id = %s', :usdc));
SELECT broken('openings', format('UPDATE ledger.accounts SET opened = 2 WHERE id = %s', :usdc));
SELECT broken('openings', format('UPDATE ledger.accounts SET opened = 1 WHERE id = %s', :buffer));
SELECT broken('running_balances', format('UPDATE ledger.journal SET credit_balance_after = 1 WHERE transaction_id = %s', :deposit));
SELECT broken('running_balances', format('UPDATE ledger.journal SET credit_balance_after = NULL WHERE transaction_id = %s', :deposit));
-- Of a striped account it is NULL; of one that is a single row it may not be.
SELECT broken('running_balances', format('UPDATE ledger.journal SET debit_balance_after = 1 WHERE transaction_id = %s', :deposit));
SELECT broken('running_balances', format('UPDATE ledger.journal SET credit_balance_after = NULL WHERE transaction_id = %s', :petty));
SELECT broken('posting_accounts', format('UPDATE ledger.journal SET credit_account_id = 999999 WHERE transaction_id = %s', :deposit));
SELECT broken('posting_accounts', format('UPDATE ledger.journal SET credit_account_id = %s WHERE transaction_id = %s', :fiat, :deposit));
SELECT broken('posting_amounts', format('UPDATE ledger.journal SET amount = 1e-19 WHERE transaction_id = %s', :deposit));
SELECT broken('posting_amounts', format('UPDATE ledger.journal SET amount = ''NaN'' WHERE transaction_id = %s', :deposit));
SELECT broken('transactions', format('UPDATE ledger.journal SET ordinal = 2 WHERE transaction_id = %s AND ordinal = 1', :reservation + 1));
SELECT broken('transactions', format('UPDATE ledger.journal SET posted_by = NULL WHERE transaction_id = %s', :deposit));
SELECT broken('transactions', format('DELETE FROM ledger.journal WHERE transaction_id = %s AND ordinal = 0', :reservation + 1));
SELECT broken('keys', 'DROP INDEX ledger.journal_key; UPDATE ledger.journal SET key = ''00000000-0000-0000-0000-000000000000'' WHERE type = ''deposit''');
SELECT broken('reversals', format('UPDATE ledger.journal SET amount = 200 WHERE reverses = %s', :deposit));
SELECT broken('reversals', 'UPDATE ledger.journal SET reverses = 999999 WHERE reverses IS NOT NULL');
SELECT broken('reservations', format('UPDATE ledger.reservation_rows SET amount = amount + 1 WHERE id = %s', :reservation));
SELECT broken('reservations', format('UPDATE ledger.reservation_rows SET id = 999999 WHERE id = %s', :reservation));
SELECT broken('reservations', 'DELETE FROM ledger.reservation_rows');
SELECT broken('reservation_draws', format('UPDATE ledger.reservation_rows SET executed = 10 WHERE id = %s', :reservation));
SELECT broken('reservation_draws', 'DELETE FROM ledger.reservation_draws');
SELECT broken('own_triggers', '-- late: ALTER TABLE ledger.journal DISABLE TRIGGER guard');
SELECT broken('own_triggers', '-- late: ALTER TABLE ledger.accounts ENABLE REPLICA TRIGGER guard');
SELECT broken('own_triggers', '-- late: DROP TRIGGER type_guard ON ledger.currencies');
SELECT broken('own_triggers', '-- late: ALTER EVENT TRIGGER ledger_drop_guard DISABLE');
SELECT broken('foreign_triggers', 'CREATE TRIGGER feed AFTER INSERT ON ledger.journal FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()');
SELECT broken('tables', 'ALTER TABLE ledger.journal SET UNLOGGED');
SELECT broken('tables', 'ALTER TABLE ledger.accounts ENABLE ROW LEVEL SECURITY');
SELECT broken('tables', 'CREATE RULE hide AS ON UPDATE TO ledger.accounts DO INSTEAD NOTHING');
SELECT broken('tables', 'CREATE TABLE public.child () INHERITS (ledger.accounts)');
SELECT broken('indexes', 'UPDATE pg_index SET indisvalid = false WHERE indexrelid = ''ledger.journal_debit''::regclass');
SELECT broken('indexes', 'ALTER TABLE ledger.accounts DROP CONSTRAINT accounts_identity; CREATE INDEX accounts_identity ON ledger.accounts (user_id)');
SELECT broken('sequences', 'ALTER SEQUENCE ledger.transaction_id_seq CACHE 20');
SELECT broken('sequences', 'ALTER SEQUENCE ledger.account_id_seq INCREMENT 2 CYCLE');
SELECT broken('sequences', 'SELECT setval(''ledger.transaction_id_seq'', 1)');
SELECT setval('ledger.transaction_id_seq', max(transaction_id)) > 0 AS set FROM ledger.journal;
SELECT broken('settings', 'ALTER TABLE ledger.settings DROP CONSTRAINT settings_pkey; INSERT INTO ledger.settings SELECT * FROM ledger.settings');
SELECT broken('settings', 'UPDATE ledger.settings SET phase = ''cut_over''');
SELECT broken('legacy_tables', 'DROP VIEW public.legacy; ALTER TABLE balances RENAME buying_power TO power');
SELECT broken('legacy_tables', 'ALTER TABLE balances ALTER buying_power TYPE double precision');
SELECT broken('legacy_tables', 'ALTER TABLE balances DROP CONSTRAINT balances_pkey');
SELECT broken('legacy_tables', 'ALTER TABLE balances SET UNLOGGED');
SELECT regexp_replace(broken('legacy_tables', 'SET LOCAL ledger.allow_drop = on; DROP TABLE balances CASCADE'), '\d{4,}', '(oid)');
SELECT broken('capture_triggers', 'ALTER TABLE balances DISABLE TRIGGER ledger_capture');
SELECT broken('capture_triggers', 'ALTER TABLE balances ENABLE TRIGGER ledger_capture_truncate');
SELECT broken('capture_triggers', 'DROP TRIGGER ledger_capture ON balances');
SELECT broken('capture_triggers', 'DROP TRIGGER ledger_capture ON balances; CREATE TRIGGER ledger_capture AFTER UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION ledger.capture()');
-- More than three findings of a check are counted.
SELECT broken('account_versions', 'UPDATE ledger.accounts SET version = 1000');

-- Nothing stayed broken, and no check was forgotten.
SELECT * FROM ledger.verify() WHERE NOT passed;
SELECT v.check_name FROM ledger.verify() v WHERE v.check_name NOT IN (SELECT t.check_name FROM tried t);
SELECT * FROM public.ledger_oracle();

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
