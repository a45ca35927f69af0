--
-- The openings of all who have a legacy row: backfill(), its findings, pause,
-- cancel, resume, two tables, rights. Hazard 30; beside live writers and over
-- kill -9 it is tested by test/t/hazard_30_backfill.pl.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_backfill
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
SET client_min_messages = warning;
CREATE VIEW public.runs AS
	SELECT id, status, phase, mapping_id, seen, opened, already, findings, requested_by, error
	FROM ledger.backfill_runs ORDER BY id;
CREATE VIEW public.findings AS
	SELECT run_id, mapping_id AS m, right(key, 2) AS who, reason, detail, count, status FROM ledger.backfill_findings ORDER BY id;
CREATE VIEW public.money AS
	SELECT right(a.user_id::text, 2) AS who, a.account_type, b.balance, a.opened, a.version
	FROM ledger.accounts a JOIN ledger.account_balances b ON b.account_id = a.id
	WHERE a.user_id IS NOT NULL ORDER BY a.user_id, a.account_type;
-- in a transaction block, which a function is
CREATE FUNCTION public.calls(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	code text;
	message text;
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
	RETURN code || ' ' || message;
END
$$;
RESET client_min_messages;
\set ECHO all
\set VERBOSITY terse

-- Nothing is attached.
CALL ledger.backfill();
SELECT ledger.pause_backfill();
SELECT ledger.cancel_backfill(1);

-- Rows of each kind from which nobody can be opened; the oddest are no error.
ALTER TABLE balances ALTER buying_power TYPE numeric, ALTER pending_deposits TYPE numeric;
INSERT INTO balances (user_id, buying_power, pending_deposits, currency) VALUES
	('00000000-0000-4000-8000-000000000011', -0.01, 1, 'USD'), ('00000000-0000-4000-8000-000000000012', 1, 'NaN', 'USD'),
	('00000000-0000-4000-8000-000000000013', 'Infinity', 1, 'USD'), ('00000000-0000-4000-8000-000000000014', 1, 1e-19, 'USD'),
	('00000000-0000-4000-8000-000000000015', 1e20, 0, 'USD'), ('00000000-0000-4000-8000-000000000016', 1, 1, 'EUR'),
	('00000000-0000-4000-8000-000000000017', 0, 0, 'USD'), ('00000000-0000-4000-8000-000000000018', 99999999999999999999.999999999999999999, 0, 'USD');
-- Users who have accounts: one with money, one frozen, one who holds more than his row, one who has nothing yet.
SELECT ledger.credit_user_usdc('00000000-0000-4000-8000-000000000021', 5, 'before') > 0 AS posted;
SELECT ledger.set_account_status(ledger.open_account('usdc_balance', '00000000-0000-4000-8000-000000000022'), 'frozen', 'a test');
SELECT ledger.credit_user_usdc('00000000-0000-4000-8000-000000000023', 5, 'before') > 0 AS posted;
SELECT ledger.reserve_for_investment('00000000-0000-4000-8000-000000000023', 5) > 0 AS posted;
SELECT ledger.open_account('fiat_exposure', '00000000-0000-4000-8000-000000000024') > 0 AS opened;
SELECT ledger.credit_user_usdc('00000000-0000-4000-8000-000000000025', 9, 'before') > 0 AS posted;
INSERT INTO balances (user_id, buying_power, pending_deposits) VALUES
	('00000000-0000-4000-8000-000000000021', 3, 8), ('00000000-0000-4000-8000-000000000022', 0, 1),
	('00000000-0000-4000-8000-000000000023', 0, 1), ('00000000-0000-4000-8000-000000000024', 2, 2),
	('00000000-0000-4000-8000-000000000025', 0, 4);
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';

-- One whose mark is lost, though he has been opened.
SELECT ledger.credit_user_usdc(:carol, 1, 'opens him') > 0 AS posted;
ALTER TABLE ledger.accounts DISABLE TRIGGER guard;
UPDATE ledger.accounts SET opened = 0 WHERE user_id = :carol;
ALTER TABLE ledger.accounts ENABLE ALWAYS TRIGGER guard;

SELECT state, next_step FROM ledger.migration_status();
CALL ledger.backfill(3);
SELECT state, next_step FROM ledger.migration_status();
SELECT * FROM runs;
SELECT * FROM findings;
SELECT "row" - 'updated_at' AS "row" FROM ledger.backfill_findings ORDER BY id LIMIT 2;
SELECT * FROM money;
SELECT t.id, right(t.user_id::text, 2) AS who, t.description, t.metadata, t.posted_by FROM ledger.transactions t WHERE t.type = 'opening' ORDER BY t.id;
SELECT * FROM public.ledger_oracle();

-- What a single opening makes of a row is what the backfill makes of it.
SELECT ledger.find_transaction('opening:1:' || :alice) = (SELECT min(id) FROM ledger.transactions WHERE user_id = :alice) AS same_key;
BEGIN;
INSERT INTO balances (user_id, buying_power, pending_deposits) VALUES (:dave, 100, 50);
COMMIT;
SELECT ledger.credit_user_usdc(:dave, 1, 'opens him') > 0 AS posted;
SELECT (j.amount, j.type, j.metadata, j.description, j.ordinal, j.debit_balance_after, j.credit_balance_after, d.account_type, c.account_type) AS posting,
	string_agg(right(c.user_id::text, 1), ' ' ORDER BY c.user_id) AS users
FROM ledger.journal j JOIN ledger.accounts d ON d.id = j.debit_account_id JOIN ledger.accounts c ON c.id = j.credit_account_id
WHERE c.user_id IN (:alice, :dave) AND d.account_type = 'opening_balance'
GROUP BY 1 ORDER BY 1;

-- Corrected rows are opened by the next run, and their findings resolved; what is found again counts.
UPDATE balances SET buying_power = 0, pending_deposits = 1, currency = 'USD' WHERE right(user_id::text, 2) IN ('11', '12', '13', '14', '15', '16');
SELECT ledger.set_account_status(account_id, 'open', 'a test') FROM ledger.account_balances WHERE status = 'frozen';
CALL ledger.backfill();
SELECT * FROM runs WHERE id = 2;
SELECT * FROM findings;
SELECT count(*) FILTER (WHERE status = 'resolved' AND resolved_at IS NOT NULL) AS resolved FROM ledger.backfill_findings;
SELECT * FROM public.ledger_oracle();

-- Progress, while nothing runs.
SELECT run_id, status, phase, pid, legacy, seen, percent, opened, already, findings, waiting, rate > 0 AS has_rate, time_left, error
FROM ledger.backfill_progress ORDER BY run_id;

-- A row that lost its key is a finding too.
ALTER TABLE balances DROP CONSTRAINT balances_pkey, ALTER user_id DROP NOT NULL, ADD UNIQUE (user_id);
ALTER TABLE balances DISABLE TRIGGER ledger_capture;
INSERT INTO balances (user_id, buying_power) VALUES (NULL, 12), (NULL, 13);
ALTER TABLE balances ENABLE ALWAYS TRIGGER ledger_capture;
CALL ledger.backfill();
SELECT * FROM findings WHERE reason = 'null_key';
SELECT user_id, "row" ->> 'buying_power' AS buying_power FROM ledger.backfill_findings WHERE reason = 'null_key' ORDER BY id;
DELETE FROM balances WHERE user_id IS NULL;
CALL ledger.backfill();
SELECT status, count(*) FROM ledger.backfill_findings WHERE reason = 'null_key' GROUP BY 1;

-- Two tables, the second not a plain one; a user who is opened from one only.
CREATE TABLE public.wallets (user_id uuid PRIMARY KEY, gold numeric CHECK (gold < 1000), locked numeric);
INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance)
	VALUES ('gold_balance', 'user', 'USD', 'credit', 0), ('gold_locked', 'user', 'USD', 'credit', 0);
INSERT INTO wallets SELECT user_id, 1, 2 FROM balances WHERE user_id < '00000000-0000-4000-8000-000000000014';
INSERT INTO wallets VALUES ('00000000-0000-4000-8000-000000000031', 5, NULL), ('00000000-0000-4000-8000-000000000032', -5, 1);
SELECT passed FROM ledger.attach_legacy('wallets', '{"columns": [{"column": "gold", "accounts": ["gold_balance"]}, {"column": "locked", "accounts": ["gold_locked"]}]}')
	WHERE check_name = 'attached';
INSERT INTO balances (user_id, buying_power, pending_deposits) VALUES ('00000000-0000-4000-8000-000000000032', 5, 5);
CALL ledger.backfill(2);
SELECT * FROM runs ORDER BY id DESC LIMIT 1;
SELECT * FROM findings WHERE m = 2;
SELECT account_type, count(*), sum(balance) FROM ledger.account_balances WHERE account_type LIKE 'gold%' GROUP BY 1 ORDER BY 1;
SELECT opened, count(*) FROM (SELECT bit_or(opened) AS opened FROM ledger.accounts WHERE user_id IS NOT NULL GROUP BY user_id) u GROUP BY 1 ORDER BY 1;
SELECT * FROM public.ledger_oracle();
CALL ledger.backfill();
SELECT opened, already, seen FROM runs ORDER BY id DESC LIMIT 1;

-- opening_balance as a single row: running balances are exact.
SELECT ledger.set_account_stripes(account_id, 0, 'a test') FROM ledger.account_balances WHERE account_type = 'opening_balance';
INSERT INTO balances (user_id, buying_power, pending_deposits) SELECT ('00000000-0000-4000-8000-0000000001' || lpad(n::text, 2, '0'))::uuid, n, n FROM generate_series(1, 12) n;
CALL ledger.backfill(5);
SELECT * FROM public.ledger_oracle();
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;

-- Pause, resume, cancel, between batches: here they come before the run begins, or where it has died.
INSERT INTO balances (user_id, buying_power, pending_deposits) SELECT ('00000000-0000-4000-8000-0000000002' || lpad(n::text, 2, '0'))::uuid, n, n FROM generate_series(1, 12) n;
SELECT ledger.pause_backfill();
SELECT ledger.backfill_begin(NULL) AS run \gset
SELECT * FROM ledger.backfill_step(:run, 40);
SELECT status, pid = pg_backend_pid() AS mine, phase, legacy, seen FROM ledger.backfill_progress WHERE run_id = :run;
SELECT ledger.pause_backfill() = :run AS paused;
SELECT * FROM ledger.backfill_step(:run, 4);
SELECT ledger.backfill_end(:run, NULL, false);
SELECT status, pid, time_left IS NOT NULL AS has_time_left FROM ledger.backfill_progress WHERE run_id = :run;
CALL ledger.backfill(run_id => :run);
SELECT id = :run AS same_run, status, seen, opened FROM runs ORDER BY id DESC LIMIT 1;
SELECT ledger.pause_backfill(:run);
CALL ledger.backfill(run_id => :run);
CALL ledger.backfill(run_id => 999);
SELECT ledger.backfill_begin(NULL) AS run \gset
SELECT * FROM ledger.backfill_step(:run, 10);
SELECT ledger.cancel_backfill() = :run AS cancelled;
SELECT ledger.cancel_backfill(:run) = :run AS again;
SELECT * FROM ledger.backfill_step(:run, 10);
SELECT ledger.backfill_end(:run, 'too late to fail', true);
CALL ledger.backfill();
SELECT id > :run AS another, status FROM runs ORDER BY id DESC LIMIT 1;
SELECT status, finished_at IS NOT NULL AS ended FROM ledger.backfill_progress WHERE run_id = :run;

-- Interrupted: the session is gone, the run is not.
SELECT ledger.backfill_begin(NULL) AS run \gset
SELECT * FROM ledger.backfill_step(:run, 10);
\c -
\set VERBOSITY terse
-- it ends a moment later
DO $$ BEGIN FOR i IN 1 .. 6000 LOOP EXIT WHEN ledger.backfill_pid() IS NULL; PERFORM pg_sleep(0.01); END LOOP; END $$;
SELECT status, pid FROM ledger.backfill_progress WHERE run_id = :run;
CALL ledger.backfill();
SELECT id = :run AS same_run, status FROM runs ORDER BY id DESC LIMIT 1;

-- What a savepoint has taken goes back with it; what is released with one is the transaction's.
BEGIN;
SAVEPOINT a;
SELECT ledger.backfill_begin(NULL) > 0 AS begun, ledger.backfill_pid() = pg_backend_pid() AS mine;
ROLLBACK TO a;
SELECT ledger.backfill_pid() IS NULL AS free;
SELECT ledger.backfill_begin(NULL) > 0 AS begun;
RELEASE a;
SAVEPOINT b;
ROLLBACK TO b;
SELECT ledger.backfill_pid() = pg_backend_pid() AS mine;
ROLLBACK;
SELECT ledger.backfill_pid() IS NULL AS free;
-- A table that is detached in the middle of a run is left out, with who is waited for in it.
INSERT INTO balances (user_id, buying_power) VALUES ('00000000-0000-4000-8000-000000000051', 1), ('00000000-0000-4000-8000-000000000052', 1);
SELECT ledger.backfill_begin(NULL) AS run \gset
SELECT * FROM ledger.backfill_step(:run, 1000);
SELECT * FROM ledger.backfill_step(:run, 5);
SELECT ledger.backfill_end(:run, 'a test', false);
INSERT INTO ledger.backfill_waiting (run_id, mapping_id, user_id) VALUES (:run, 2, '00000000-0000-4000-8000-000000000031');
SELECT legacy, phase, waiting FROM ledger.backfill_progress WHERE run_id = :run;
SELECT ledger.detach_legacy('wallets');
SET statement_timeout = '30s';
CALL ledger.backfill();
RESET statement_timeout;
SELECT id = :run AS same_run, status, opened FROM runs ORDER BY id DESC LIMIT 1;
SELECT passed FROM ledger.attach_legacy('wallets', '{"columns": [{"column": "gold", "accounts": ["gold_balance"]}, {"column": "locked", "accounts": ["gold_locked"]}]}')
	WHERE check_name = 'attached';

-- What a posting is refused for. The run that an error ends is noted, and gone on with.
CALL ledger.backfill(0);
CALL ledger.backfill(10001);
BEGIN;
CALL ledger.backfill();
ROLLBACK;
SELECT public.calls('CALL ledger.backfill()');
DO $$ DECLARE id bigint; BEGIN CALL ledger.backfill(run_id => id); RAISE NOTICE 'a run: %', id > 0; END $$;
SET default_transaction_read_only = on;
CALL ledger.backfill();
RESET default_transaction_read_only;
SET default_transaction_isolation = 'serializable';
CALL ledger.backfill();
RESET default_transaction_isolation;
SELECT balance_source FROM ledger.configure(balance_source => 'legacy');
CALL ledger.backfill();
CALL ledger.roll_back('a test');
SELECT balance_source FROM ledger.configure(shadow_mode => false, balance_source => 'ledger');
SELECT ledger.set_account_status(account_id, 'frozen', 'a test') FROM ledger.account_balances WHERE account_type = 'opening_balance' AND currency = 'USD';
CALL ledger.backfill();
SELECT status, error FROM runs ORDER BY id DESC LIMIT 1;
SELECT ledger.set_account_status(account_id, 'open', 'a test') FROM ledger.account_balances WHERE account_type = 'opening_balance' AND currency = 'USD';
CALL ledger.backfill();
SELECT status, error FROM runs ORDER BY id DESC LIMIT 1;
DELETE FROM ledger.backfill_runs;
DELETE FROM ledger.backfill_findings;

-- Rights: an admin who can act for each table's owner.
CREATE ROLE regress_backfill_admin;
CREATE ROLE regress_backfill_owner;
SELECT ledger.grant_access('regress_backfill_admin', 'admin');
SELECT ledger.grant_access('regress_backfill_owner', 'operator');
ALTER TABLE balances OWNER TO regress_backfill_owner;
ALTER TABLE wallets OWNER TO regress_backfill_owner;
INSERT INTO balances (user_id, buying_power, pending_deposits) VALUES ('00000000-0000-4000-8000-000000000041', 1, 1);
SET SESSION AUTHORIZATION regress_backfill_owner;
CALL ledger.backfill();
SELECT ledger.pause_backfill();
SELECT count(*) > 0 AS may_look FROM ledger.backfill_progress;
SELECT count(*) > 0 AS may_look FROM ledger.backfill_findings;
SET SESSION AUTHORIZATION regress_backfill_admin;
CALL ledger.backfill();
SELECT ledger.backfill_begin(NULL);
SELECT * FROM ledger.backfill_step(1, 1);
SELECT ledger.backfill_next(1);
SELECT ledger.backfill_stop(1, 'paused');
RESET SESSION AUTHORIZATION;
SELECT ledger.backfill_begin(NULL) AS run \gset
SET SESSION AUTHORIZATION regress_backfill_admin;
SELECT * FROM ledger.backfill_step(:run, 1);
SELECT ledger.backfill_end(:run, 'not mine', true);
RESET SESSION AUTHORIZATION;
SELECT ledger.backfill_end(:run, NULL, false);
SELECT ledger.cancel_backfill() = :run AS cancelled;
GRANT regress_backfill_owner TO regress_backfill_admin;
SET SESSION AUTHORIZATION regress_backfill_admin;
CALL ledger.backfill();
RESET SESSION AUTHORIZATION;
SELECT requested_by, status, opened FROM runs ORDER BY id DESC LIMIT 1;
SELECT posted_by FROM ledger.transactions WHERE user_id = '00000000-0000-4000-8000-000000000041';
SELECT * FROM public.ledger_oracle();
SET ledger.allow_drop = on;
DROP TABLE balances, wallets CASCADE;
DROP OWNED BY regress_backfill_admin, regress_backfill_owner;
DROP ROLE regress_backfill_admin, regress_backfill_owner;

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
