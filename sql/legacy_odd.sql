--
-- Legacy tables of a shape that one does not think of.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_legacy_odd
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
SET statement_timeout = '60s';
\set ECHO all

-- A column of type json may hold what jsonb cannot; its table is written all the same.
ALTER TABLE balances ADD note json, ADD t numeric;
UPDATE balances SET note = '{"name": "\u0000"}', t = 1;
UPDATE balances SET buying_power = -1 WHERE user_id = :carol;
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
UPDATE balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :alice;
UPDATE balances SET note = '{"name": 1e200000}' WHERE user_id = :alice;
DELETE FROM balances WHERE user_id = :bob;
INSERT INTO balances VALUES (:bob, 0, 5, 'USD', '2026-01-01', '{"name": "\u0000"}');
SELECT * FROM written;
SELECT operation, before ->> 'note' AS before, after ->> 'pending_deposits' AS pending, after -> 't' AS t, after ->> 'note' AS after
FROM ledger.legacy_writes ORDER BY id;
UPDATE balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :alice;
SELECT kind, length(after ->> 'note') AS length FROM ledger.legacy_writes ORDER BY id DESC LIMIT 1;

-- So is a finding's row; and one of the columns has the name that the statements have for the table.
CALL ledger.backfill();
SELECT right(key, 1) AS who, reason, jsonb_typeof("row") AS type FROM ledger.backfill_findings;
UPDATE balances SET note = NULL WHERE user_id = :carol;
CALL ledger.backfill();
SELECT right(key, 1) AS who, "row" ->> 't' AS t FROM ledger.backfill_findings;
SELECT ledger.detach_legacy('balances');

-- An index of the keys from the last to the first.
CREATE TABLE backwards (user_id uuid NOT NULL, buying_power numeric NOT NULL, pending_deposits numeric NOT NULL);
CREATE UNIQUE INDEX backwards_key ON backwards (user_id DESC);
ALTER TABLE backwards REPLICA IDENTITY USING INDEX backwards_key;
INSERT INTO backwards SELECT ledger.integer_to_uuid(n), n, 0 FROM generate_series(1, 3000) n;
SELECT passed FROM ledger.attach_legacy('backwards') WHERE check_name = 'attached';
CALL ledger.backfill(1000);
SELECT status, seen, opened FROM ledger.backfill_progress ORDER BY run_id DESC LIMIT 1;
SELECT count(*) FROM ledger.reconcile();
ALTER TABLE backwards DISABLE TRIGGER ledger_capture;
UPDATE backwards SET buying_power = buying_power + 1;
CALL ledger.run_reconciliation(chunk_users => 1000);
SELECT compared, discrepancies FROM ledger.reconciliation_runs;
SELECT ledger.detach_legacy('backwards');

-- Two conditions that are one to their columns are not a row of their own each.
CREATE TABLE tiers (id bigint, tier numeric, code char(4), gold boolean, amount numeric NOT NULL DEFAULT 0, PRIMARY KEY (id, tier, code, gold));
SELECT check_name, detail, hint FROM ledger.legacy_preflight('tiers', '{"columns": [
	{"column": "amount", "accounts": ["usdc_balance"], "where": {"tier": 1, "code": "a", "gold": true}},
	{"column": "amount", "accounts": ["fiat_exposure"], "where": {"tier": 1.0, "code": "a ", "gold": "t"}}]}', 'id') WHERE NOT passed;
SELECT check_name, detail, hint FROM ledger.legacy_preflight('tiers', '{"columns": [
	{"column": "amount", "accounts": ["usdc_balance"], "where": {"tier": 1, "code": "aaaa", "gold": true}},
	{"column": "amount", "accounts": ["fiat_exposure"], "where": {"tier": 1, "code": "aaaaa", "gold": true}}]}', 'id') WHERE NOT passed;
-- What becomes so later holds up nobody.
ALTER TABLE tiers ALTER tier TYPE text;
SELECT passed FROM ledger.attach_legacy('tiers', '{"columns": [
	{"column": "amount", "accounts": ["usdc_balance"], "where": {"tier": "1", "code": "a", "gold": true}},
	{"column": "amount", "accounts": ["fiat_exposure"], "where": {"tier": "1.0", "code": "a", "gold": true}}]}', 'id') WHERE check_name = 'attached';
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SELECT ledger.credit_user_usdc(ledger.integer_to_uuid(-1), 2, 'deposit') > 0 AS posted;
ALTER TABLE tiers ALTER tier TYPE numeric USING tier::numeric;
SELECT ledger.move_funds_to_fiat_exposure(ledger.integer_to_uuid(-1), 1, 'conversion') > 0 AS posted;
SELECT legacy_column, cause, note FROM ledger.discrepancies WHERE user_id = ledger.integer_to_uuid(-1) ORDER BY id;
SELECT shadow_mode FROM ledger.configure(shadow_mode => false);
SELECT ledger.detach_legacy('tiers');

-- A column of hundreds.
CREATE TABLE hundreds (user_id uuid PRIMARY KEY, buying_power numeric(5,-2) NOT NULL, pending_deposits numeric NOT NULL);
INSERT INTO hundreds VALUES (:dave, 100, 1000);
SELECT passed FROM ledger.attach_legacy('hundreds') WHERE check_name = 'attached';
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SELECT ledger.move_funds_to_fiat_exposure(:dave, 50, 'half') > 0 AS posted;
SELECT buying_power, pending_deposits FROM hundreds;
SELECT legacy_column, cause, note FROM ledger.discrepancies WHERE user_id = :dave ORDER BY id;
SELECT legacy_column, before, after FROM ledger.repair(:dave, dry_run => false, reason => 'it is not to be rounded');
SELECT ledger.move_funds_to_fiat_exposure(:dave, 50, 'the other half') > 0 AS posted;
SELECT legacy_column, before, after FROM ledger.repair(:dave, dry_run => false, reason => 'a whole hundred');
SELECT buying_power, pending_deposits FROM hundreds;
SELECT * FROM public.ledger_oracle() o WHERE o NOT LIKE 'legacy:%';

\set ECHO none
\c contrib_regression
DROP DATABASE regress_ledger_legacy_odd;
