--
-- Tables and types that somebody has altered: the ledger's and a legacy one.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_altered
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set ECHO all
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;

-- A mapped column of another type is not read as a number.
ALTER TABLE balances ALTER pending_deposits TYPE float8;
SELECT ledger.credit_user_usdc(:bob, 1, 'not opened');
SELECT ledger.credit_user_usdc(:alice, 1, 'opened');
SELECT * FROM ledger.compare_balances(:alice);
SELECT * FROM ledger.reconcile();
SELECT * FROM ledger.get_user_balance(:bob);
ALTER TABLE balances ALTER pending_deposits TYPE text;
SELECT ledger.credit_user_usdc(:bob, 1, 'not opened');
SELECT * FROM ledger.reconcile();
UPDATE balances SET pending_deposits = '51' WHERE user_id = :alice;
ALTER TABLE balances ALTER pending_deposits TYPE numeric(36,18) USING pending_deposits::numeric;

-- Without its key the table takes no write that would not be captured.
ALTER TABLE balances RENAME user_id TO uid;
UPDATE balances SET pending_deposits = 0;
ALTER TABLE balances RENAME uid TO user_id;
ALTER TABLE balances ALTER user_id TYPE text;
UPDATE balances SET pending_deposits = 0;
SELECT * FROM ledger.reconcile();
ALTER TABLE balances ALTER user_id TYPE uuid USING user_id::uuid;
SELECT legacy_column, before, after FROM ledger.repair(:alice, dry_run => false, reason => 'altered');
SELECT ledger.credit_user_usdc(:bob, 1, 'opened') > 0 AS posted;

-- A repair fires the table's triggers, whose names are found in the table's schema.
CREATE TABLE audit (user_id uuid);
CREATE FUNCTION audit_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO audit VALUES (NEW.user_id);
	RETURN NEW;
END
$$;
CREATE TRIGGER audit AFTER UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION audit_balance();
UPDATE balances SET pending_deposits = 0 WHERE user_id = :alice;
SELECT legacy_column, before, after FROM ledger.repair(:alice, dry_run => false, reason => 'with a trigger');
SELECT count(*) FROM audit;
DROP TRIGGER audit ON balances;

-- A session remembers where rows were; the tables may be shorter since, or others.
ALTER TABLE balances ADD pad text;
ALTER TABLE balances ALTER pad SET STORAGE plain;
INSERT INTO balances (user_id, pad)
SELECT format('00000000-0000-4000-9000-%s', lpad(g::text, 12, '0'))::uuid, repeat('x', 2000) FROM generate_series(1, 20) g;
SELECT ledger.credit_user_usdc('00000000-0000-4000-9000-000000000020', 1, 'deposit') > 0 AS posted FROM generate_series(1, 2);
DELETE FROM balances WHERE pad IS NOT NULL AND user_id < '00000000-0000-4000-9000-000000000020';
ALTER TABLE balances ALTER pad TYPE varchar USING left(pad, 1);
SELECT ledger.credit_user_usdc('00000000-0000-4000-9000-000000000020', 1, 'deposit') > 0 AS posted;
SELECT usdc_balance FROM ledger.get_user_balance('00000000-0000-4000-9000-000000000020');
BEGIN;
SET LOCAL ledger.allow_drop = on;
SET LOCAL client_min_messages = warning;
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted FROM generate_series(1, 2);
DROP EXTENSION ledger CASCADE;
CREATE EXTENSION ledger;
SELECT ledger.credit_user_usdc(:alice, 1, 'the first again');
ROLLBACK;

-- What GIN and BRIN remember of their index does not outlive it.
CREATE INDEX added_gin ON ledger.accounts USING gin (to_tsvector('simple', account_type));
CREATE INDEX added_brin ON ledger.accounts USING brin (id);
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted FROM generate_series(1, 3);
SELECT ledger.credit_user_usdc(:dave, 1, 'deposit') > 0 AS posted;
DROP INDEX ledger.added_gin, ledger.added_brin;
-- Where BRIN does not keep an update from being HOT, it alone gets an entry.
CREATE INDEX added_brin ON ledger.accounts USING brin (version);
CREATE INDEX added_brin_2 ON ledger.journal USING brin (created_at);
DO $$ BEGIN FOR i IN 1 .. 300 LOOP PERFORM ledger.credit_user_usdc('00000000-0000-4000-8000-00000000000a', 1, 'deposit'); END LOOP; END $$;
SELECT result FROM ledger.post_batch(ARRAY[ROW('deposit', NULL, NULL, 1, NULL, :alice, 'system_buffer_usdc', 'usdc_balance', NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer]);
DROP INDEX ledger.added_brin, ledger.added_brin_2;

-- More indexes than 16: a REINDEX CONCURRENTLY has twice as many meanwhile.
CREATE INDEX added_1 ON ledger.journal (created_at);
CREATE INDEX added_2 ON ledger.journal (created_at);
CREATE INDEX added_3 ON ledger.journal (created_at);
CREATE INDEX added_4 ON ledger.journal (created_at);
CREATE INDEX added_5 ON ledger.journal (created_at);
CREATE INDEX added_6 ON ledger.journal (created_at);
CREATE INDEX added_7 ON ledger.journal (created_at);
CREATE INDEX added_8 ON ledger.journal (created_at);
CREATE INDEX added_9 ON ledger.journal (created_at);
CREATE INDEX added_10 ON ledger.journal (created_at);
CREATE INDEX added_11 ON ledger.journal (created_at);
CREATE INDEX added_12 ON ledger.journal (created_at);
SELECT count(*) FROM pg_index WHERE indrelid = 'ledger.journal'::regclass;
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;

-- A column that was added keeps its values, and is NULL in new rows or nothing.
ALTER TABLE ledger.accounts ADD note text DEFAULT 'mine', ADD must int NOT NULL DEFAULT 7;
SELECT ledger.credit_user_usdc(:alice, 1, 'old rows') > 0 AS posted;
SELECT ledger.open_account('usdc_balance', '00000000-0000-4000-8000-00000000000e');
ALTER TABLE ledger.accounts ALTER must DROP NOT NULL;
SELECT ledger.open_account('usdc_balance', '00000000-0000-4000-8000-00000000000e') > 0 AS opened;
SELECT note, must, count(*) FROM ledger.accounts GROUP BY 1, 2 ORDER BY 1;
ALTER TABLE ledger.accounts DROP note, DROP must;
ALTER TABLE ledger.accounts RENAME credits TO creditors;
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit');
ALTER TABLE ledger.accounts RENAME creditors TO credits;

-- The type that post() takes is read by place.
ALTER TYPE ledger.posting ALTER ATTRIBUTE amount TYPE text;
SELECT ledger.post('gift', ARRAY[ROW(1, 2, '5')]::ledger.posting[]);
ALTER TYPE ledger.posting ALTER ATTRIBUTE amount TYPE numeric;
ALTER TYPE ledger.posting ADD ATTRIBUTE note text;
SELECT ledger.post('gift', ARRAY[ROW(ledger.open_account('house_equity', NULL, 'USDC'),
	ledger.open_account('usdc_balance', :alice), 5, 'ignored')]::ledger.posting[]) > 0 AS posted;
ALTER TYPE ledger.posting DROP ATTRIBUTE note;

-- A unique index of somebody's own is not the key: its error is its own.
CREATE UNIQUE INDEX one_movement ON ledger.journal (reference_id) WHERE reference_id IS NOT NULL;
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit', 'd0000000-0000-4000-8000-00000000000d') > 0 AS posted;
SELECT split_part(public.raises(format('SELECT ledger.debit_user_usdc(%L, 1, %L, %L)', :alice, 'withdrawal', 'd0000000-0000-4000-8000-00000000000d')), ' ', 1) AS raised;
DROP INDEX ledger.one_movement;

-- What the legacy table's owner made SQL do, the ledger does: rounds a time.
ALTER TABLE balances ALTER updated_at TYPE timestamptz(0);
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
SELECT updated_at = date_trunc('second', updated_at) AS rounded FROM balances WHERE user_id = :alice;

-- What SQL may not update because it is published without an identity, the ledger does not either.
ALTER TABLE balances DROP CONSTRAINT balances_pkey, ALTER user_id SET NOT NULL, ADD UNIQUE (user_id);
SET client_min_messages = error;
CREATE PUBLICATION regress_ledger_altered FOR TABLE balances;
RESET client_min_messages;
SELECT split_part(public.raises(format('SELECT ledger.credit_user_usdc(%L, 1, %L)', :alice, 'deposit')), ' / ', 1) AS raised;
DROP PUBLICATION regress_ledger_altered;
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;

-- Between currencies that show different digits each side shows its own.
INSERT INTO ledger.currencies (code, scale, display_digits) VALUES ('JPY', 0, 0);
INSERT INTO ledger.account_types (name, owner, currency, normal_side) VALUES ('yen_buffer', 'house', 'JPY', 'debit');
SELECT ledger.convert_buffer('yen_buffer', 'system_buffer_fiat', 5) > 0 AS posted;
SELECT ledger.convert_buffer('system_buffer_fiat', 'yen_buffer', 6, 8) > 0 AS posted;
SELECT account_type, direction, amount, currency FROM ledger.entries
WHERE account_type IN ('yen_buffer', 'system_buffer_fiat') ORDER BY transaction_id, ordinal;

SELECT * FROM public.ledger_oracle();
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;
\set ECHO none
\c contrib_regression
DROP DATABASE regress_ledger_altered;
