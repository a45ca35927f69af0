--
-- Several legacy tables: other money, and copies of the same.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_shadow_tables
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set ECHO all
CREATE TABLE copy (user_id text PRIMARY KEY, cents bigint NOT NULL DEFAULT 0);
INSERT INTO copy VALUES (:alice, 5000), (:bob, 1900), (:dave, 500);
-- balances has 50 and 20; of bob the copy has a dollar less, dave is in it alone
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT passed FROM ledger.attach_legacy('copy', '{"columns": [{"column": "cents", "accounts": ["usdc_balance", "pending_investment"], "unit": 0.01}]}') WHERE check_name = 'attached';
SELECT usdc_balance, fiat_exposure, source FROM ledger.get_user_balance(:alice);
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
-- Opened once: the money is not doubled, and each table is mirrored and compared by itself.
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
SELECT account_type, balance FROM ledger.account_balances WHERE user_id = :alice ORDER BY 1;
SELECT * FROM legacy;
SELECT cents FROM copy WHERE user_id = :alice;
SELECT legacy_column, ledger_value, legacy_value, status FROM ledger.compare_balances(:alice);
-- A copy that differs takes nothing away and is told.
SELECT ledger.credit_user_usdc(:bob, 1, 'deposit') > 0 AS posted;
SELECT legacy_column, ledger_value, legacy_value, status FROM ledger.compare_balances(:bob);
-- One who is in the copy alone is opened from it; the other row is inserted.
SELECT usdc_balance, source FROM ledger.get_user_balance(:dave);
SELECT ledger.credit_user_usdc(:dave, 1, 'deposit') > 0 AS posted;
SELECT legacy_column, ledger_value, legacy_value, status FROM ledger.compare_balances(:dave);
SELECT user_id, legacy_column, difference, status FROM ledger.reconcile();
-- One failing mirror leaves the other alone.
ALTER TABLE copy ADD CHECK (cents < 10000);
SELECT ledger.credit_user_usdc(:alice, 100, 'deposit') > 0 AS posted;
SELECT legacy_column, ledger_value, legacy_value, status FROM ledger.compare_balances(:alice);
SELECT ledger.debit_user_usdc(:alice, 100, 'withdrawal') > 0 AS posted;
-- Source legacy: what the lowest id has of a type stands.
SELECT balance_source FROM ledger.configure(balance_source => 'legacy');
SELECT usdc_balance, source FROM ledger.get_user_balance(:bob);
SELECT balance_source FROM ledger.configure(balance_source => 'ledger');

-- A table that is attached later: of what others have opened it opens nothing;
-- what the ledger lacks goes to the type that nobody else has a say in.
INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance) VALUES ('savings', 'user', 'USDC', 'credit', 0);
CREATE TABLE later (user_id uuid PRIMARY KEY, total numeric NOT NULL DEFAULT 0);
INSERT INTO later VALUES (:alice, 81), (:bob, 1), (:carol, 3);
SELECT passed FROM ledger.attach_legacy('later', '{"columns": [{"column": "total", "accounts": ["usdc_balance", "savings"]}]}') WHERE check_name = 'attached';
SELECT breakdown -> 'savings' AS savings FROM ledger.get_balance(:alice);
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
SELECT ledger.credit_user_usdc(:bob, 1, 'deposit') > 0 AS posted;
SELECT ledger.credit_user_usdc(:carol, 1, 'deposit') > 0 AS posted;
SELECT right(user_id::text, 1) AS who, account_type, balance FROM ledger.account_balances WHERE user_id IS NOT NULL AND balance <> 0 ORDER BY 1, 2;
SELECT * FROM later ORDER BY 1;
SELECT right(user_id::text, 1) AS who, legacy_column, difference, status FROM ledger.reconcile();
-- The two openings of alice, and no more money than that.
SELECT right(user_id::text, 1) AS who, count(*), min(metadata ->> 'legacy') FROM ledger.transactions WHERE type = 'opening' GROUP BY 1 ORDER BY 1;
SELECT account_type, currency, sum(balance) FROM ledger.account_balances WHERE account_type = 'opening_balance' GROUP BY 1, 2 ORDER BY 2;
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;

-- What the opening transaction has written to a column of the same name in another table is not in this one's row.
\set erin '''00000000-0000-4000-8000-0000000000e1'''
CREATE TABLE old (user_id uuid PRIMARY KEY, pending_deposits numeric NOT NULL DEFAULT 0);
INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance) VALUES ('bonus', 'user', 'USDC', 'credit', 0);
-- (who has money of the type already, and is not opened from the table, differs)
\set frank '''00000000-0000-4000-8000-0000000000e2'''
SELECT ledger.post('bonus', ARRAY[ROW(ledger.open_account('house_equity', NULL, 'USDC'), ledger.open_account('bonus', :frank), 2)::ledger.posting]) > 0 AS posted;
-- (what he has of a type whose name begins with this one's is not of this one)
INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance) VALUES ('bonus_2', 'user', 'USDC', 'credit', 0);
SELECT ledger.post('bonus', ARRAY[ROW(ledger.open_account('house_equity', NULL, 'USDC'), ledger.open_account('bonus_2', :frank), 7)::ledger.posting]) > 0 AS posted;
INSERT INTO old VALUES (:frank, 9);
SELECT passed FROM ledger.attach_legacy('old', '{"columns": [{"column": "pending_deposits", "accounts": ["bonus"]}]}') WHERE check_name = 'attached';
SELECT legacy_column, ledger_value, legacy_value, status FROM ledger.compare_balances(:frank) WHERE status <> 'match';
SELECT legacy_column, ledger_value, legacy_value, status FROM ledger.reconcile() WHERE user_id = :frank;
INSERT INTO balances (user_id, pending_deposits) VALUES (:erin, 20);
INSERT INTO old VALUES (:erin, 5);
BEGIN;
UPDATE old SET pending_deposits = pending_deposits + 1 WHERE user_id = :erin;
SELECT ledger.credit_user_usdc(:erin, 1, 'deposit') > 0 AS posted;
COMMIT;
SELECT account_type, balance FROM ledger.account_balances WHERE user_id = :erin AND balance <> 0 ORDER BY 1;
-- Columns of one name in two tables are told apart.
UPDATE balances SET pending_deposits = pending_deposits + 3 WHERE user_id = :erin;
CALL ledger.run_reconciliation();
SELECT mapping_id, legacy_column, ledger_value, legacy_value, difference, status FROM ledger.reconciliation_findings WHERE user_id = :erin ORDER BY 1;
-- A write past the ledger is a double write of the table that it was to, however
-- many follow; so is what a trigger of the table that is being mirrored does to another.
BEGIN;
SELECT ledger.credit_user_usdc(:carol, 1, 'one half') > 0 AS posted;
UPDATE balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :carol;
UPDATE later SET total = total + 1 WHERE user_id = :carol;
COMMIT;
SELECT legacy_column, ledger_value, legacy_value, cause, count FROM ledger.discrepancies WHERE user_id = :carol AND cause = 'double_write' ORDER BY 1;
CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE later SET total = total + 10 WHERE user_id = NEW.user_id;
	RETURN NULL;
END $$;
CREATE TRIGGER follow AFTER UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION follow();
SELECT ledger.credit_user_usdc(:carol, 1, 'followed') > 0 AS posted;
SELECT legacy::text, right(user_id::text, 1) AS who, kind, deltas FROM ledger.legacy_writes JOIN ledger.legacy_mappings m ON m.id = mapping_id ORDER BY legacy_writes.id;
\set ECHO none
\c contrib_regression
DROP DATABASE :database;
