--
-- repair() and undo_repair(): limits, what is passed over, the log, the way back.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_repair
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
CREATE VIEW logged AS
	SELECT id, right(user_id::text, 1) AS who, legacy_column, direction, before, after, transaction_id IS NOT NULL AS posted, reason, undoes
	FROM ledger.repair_log ORDER BY id;
CREATE FUNCTION sides(user_id uuid) RETURNS TABLE (legacy_column text, ledger_value numeric, legacy_value numeric, difference numeric) LANGUAGE sql AS
$$ SELECT c.legacy_column, c.ledger_value, c.legacy_value, c.difference FROM ledger.compare_balances(user_id) c $$;
\set ECHO all
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT ledger.configure(shadow_mode => true);
SET client_min_messages = error;
SELECT ledger.credit_user_usdc(:alice, 1, 'opens') > 0 AS posted;
UPDATE balances SET pending_deposits = pending_deposits + 5 WHERE user_id = :alice;
SELECT usdc_balance FROM ledger.get_user_balance(:alice);
SELECT ledger.credit_user_usdc(:alice, 2, 'deposit') > 0 AS posted;
SELECT * FROM found;

--
-- Towards legacy, and back.
--
SELECT legacy_column, before, after FROM ledger.repair(:alice);
SELECT count(*) FROM logged;
SELECT legacy_column, before, after FROM ledger.repair(:alice, dry_run => false, reason => 'an old job');
SELECT * FROM sides(:alice);
SELECT * FROM found;
SELECT ledger.credit_user_usdc(:alice, 10, 'deposit') > 0 AS posted;
SELECT ledger.undo_repair(1, 'the old job was right');
SELECT * FROM sides(:alice);
SELECT * FROM found;
SELECT * FROM logged;
-- the cause is found again: neither the repair nor its undo is one
SELECT legacy_column, difference, cause FROM ledger.explain_discrepancy(:alice);
SELECT count(*) FROM ledger.legacy_writes;
SELECT public.raises('SELECT ledger.undo_repair(1, ''again'')');
SELECT public.raises('SELECT ledger.undo_repair(2, ''the undo'')');
SELECT public.raises('SELECT ledger.undo_repair(99, ''none'')');
SELECT public.raises('SELECT ledger.undo_repair(NULL, ''none'')');
SELECT public.raises('SELECT ledger.undo_repair(1, NULL)');

--
-- Towards the ledger, and back: by the reversal, which is not mirrored either.
--
SELECT legacy_column, before, after FROM ledger.repair(:alice, 'ledger', dry_run => false, reason => 'it was');
SELECT * FROM sides(:alice);
SELECT ledger.undo_repair(3, 'it was not') AS undone;
SELECT * FROM sides(:alice);
SELECT * FROM found;
SELECT legacy_column, difference, cause FROM ledger.explain_discrepancy(:alice);
SELECT amount, remaining FROM ledger.suspense_items;
SELECT legacy_column, before, after FROM ledger.repair(:alice, 'ledger', dry_run => false, reason => 'it was after all');
SELECT max(transaction_id) AS repaired FROM ledger.repair_log \gset
SELECT public.raises(format('SELECT ledger.reverse_transaction(%s, %L, 1, %L)', :repaired, 'a part', :alice));
SELECT ledger.reverse_transaction(:repaired, 'no') > :repaired AS reversed;
SELECT * FROM sides(:alice);
SELECT * FROM logged WHERE id > 2;
SELECT public.raises('SELECT ledger.undo_repair(5, ''again'')');
SELECT public.raises(format('SELECT ledger.reverse_transaction(%s, %L)', :repaired, 'again'));

-- A repair since; below zero; a row that is gone; an opening; strict mode.
SELECT count(*) FROM ledger.repair(:alice, dry_run => false, reason => 'one');
UPDATE balances SET pending_deposits = pending_deposits + 5 WHERE user_id = :alice;
SELECT count(*) FROM ledger.repair(:alice, dry_run => false, reason => 'two');
SELECT max(id) AS last FROM logged \gset
SELECT public.raises(format('SELECT ledger.undo_repair(%s, %L)', :last - 1, 'not the last'));
UPDATE balances SET pending_deposits = pending_deposits - 20 WHERE user_id = :alice;
SELECT count(*) FROM ledger.repair(:alice, dry_run => false, reason => 'three');
SELECT ledger.debit_user_usdc(:alice, 60, 'spent') > 0 AS posted;
SELECT public.raises(format('SELECT ledger.undo_repair(%s, %L)', :last + 1, 'below zero'));
BEGIN;
DELETE FROM balances WHERE user_id = :alice;
SELECT public.raises(format('SELECT ledger.undo_repair(%s, %L)', :last + 1, 'no row'));
ROLLBACK;
SELECT transaction_id > 0 AS opened FROM ledger.repair(:bob, dry_run => false, reason => 'opens');
SELECT public.raises(format('SELECT ledger.undo_repair(%s, %L)', max(id), 'opening')) FROM logged;
SELECT ledger.credit_user_usdc(:alice, 100, 'deposit') > 0 AS posted;
SELECT ledger.configure(strict_mode => true);
SELECT ledger.undo_repair(:last + 1, 'strict');
BEGIN;
SELECT ledger.undo_repair(:last + 1, 'and the other way round') > 0 AS undone;
SELECT legacy_column, before, after FROM ledger.repair(:alice, 'ledger', dry_run => false, reason => 'it was spent');
COMMIT;
SELECT * FROM sides(:alice);
SELECT ledger.configure(strict_mode => false);
CALL ledger.run_reconciliation();

--
-- All users: who cannot be repaired is told, and passed over.
--
INSERT INTO balances (user_id, buying_power, pending_deposits, currency) VALUES
	('00000000-0000-4000-8000-0000000000a1', 0, 10, 'EUR'), ('00000000-0000-4000-8000-0000000000a2', -1, 0, 'USD'),
	('00000000-0000-4000-8000-0000000000a3', 3, 0, 'USD');
UPDATE balances SET pending_deposits = pending_deposits + 6 WHERE user_id = :bob;
RESET client_min_messages;
SELECT right(user_id::text, 2) AS who, legacy_column, before, after FROM ledger.repair();
SELECT right(user_id::text, 2) AS who, legacy_column, before, after FROM ledger.repair(dry_run => false, reason => 'all');
SELECT right(user_id::text, 2) AS who, legacy_column, status FROM ledger.reconcile();
SELECT public.raises($$SELECT ledger.repair('00000000-0000-4000-8000-0000000000a1')$$);
-- a dry run says what the real one would: too much for the ledger
SELECT ledger.reserve_for_investment(:bob, 20) > 0 AS posted;
SET client_min_messages = error;
UPDATE balances SET pending_deposits = 1 WHERE user_id = :bob;
SELECT public.raises(format('SELECT ledger.repair(%L, %L)', :bob, 'ledger'));
SELECT public.raises(format('SELECT ledger.repair(%L, %L, false, reason => %L)', :bob, 'ledger', 'too much'));
-- the rows that were repaired under the lock count, not those that were found before
SELECT count(*) FROM ledger.repair_user(:bob, 'legacy', true, NULL, NULL, 0);
SELECT count(*) FROM ledger.repair(:bob, max_rows => 1);
SELECT public.raises($$SELECT ledger.repair_user(NULL, 'legacy', true, NULL, NULL, 1)$$);

--
-- A repair that the row does not take; one that the ledger would not.
--
SELECT count(*) FROM ledger.repair(:bob, dry_run => false, reason => 'as it was');
UPDATE balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :bob;
CREATE FUNCTION taxed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.pending_deposits := NEW.pending_deposits * NULLIF(0.5, NEW.buying_power); RETURN NEW; END $$;
CREATE TRIGGER taxed BEFORE UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION taxed();
SELECT public.raises(format('SELECT ledger.repair(%L, dry_run => false, reason => %L)', :bob, 'taxed'));
ALTER TABLE balances ALTER pending_deposits DROP NOT NULL;
CREATE OR REPLACE FUNCTION taxed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.pending_deposits := NULL; RETURN NEW; END $$;
SELECT public.raises(format('SELECT ledger.repair(%L, dry_run => false, reason => %L)', :bob, 'taken'));
DROP TRIGGER taxed ON balances;
SELECT ledger.set_account_status(ledger.open_account('usdc_balance', :bob), 'frozen', 'a court order');
SELECT public.raises(format('SELECT ledger.repair(%L, %L)', :bob, 'ledger')) = public.raises(format('SELECT ledger.repair(%L, %L, false, reason => %L)', :bob, 'ledger', 'frozen')) AS same,
	public.raises(format('SELECT ledger.repair(%L, %L)', :bob, 'ledger'));
SELECT ledger.set_account_status(ledger.open_account('usdc_balance', :bob), 'open', 'lifted');

--
-- What is resolved is what was repaired: of one user, one column of one table.
--
SELECT count(*) FROM ledger.repair(:bob, dry_run => false, reason => 'as it was');
CREATE TABLE more (user_id uuid PRIMARY KEY, pending_deposits numeric NOT NULL DEFAULT 0);
INSERT INTO more SELECT u, ledger.get_account_balance(u, 'usdc_balance') + 100 FROM unnest(ARRAY[:alice, :bob]::uuid[]) u;
SELECT passed FROM ledger.attach_legacy('more', '{"columns": [{"column": "pending_deposits", "accounts": ["usdc_balance"]}]}') WHERE check_name = 'attached';
UPDATE balances SET pending_deposits = pending_deposits + 1, buying_power = buying_power + 100 WHERE user_id IN (:alice, :bob);
CALL ledger.backfill();
CALL ledger.run_reconciliation();
-- the second table has no more than what is left of max_rows
SELECT legacy_column, before, after FROM ledger.repair_user(:alice, 'legacy', true, NULL, NULL, 2);
SELECT legacy_column, before, after FROM ledger.repair(:alice, max_amount => 10, dry_run => false, reason => 'the small one');
SELECT * FROM sides(:alice);
SELECT right(d.user_id::text, 1) AS who, m.legacy, d.legacy_column, d.ledger_value - d.legacy_value AS difference, d.status
	FROM ledger.discrepancy_rows d JOIN ledger.legacy_mappings m ON m.id = d.mapping_id
	WHERE d.user_id IN (:alice, :bob) AND d.last_seen >= (SELECT max(started_at) FROM ledger.reconciliation_runs) ORDER BY 1, 2, 3;
-- nor is what is stored late for over if something else was repaired since it was seen
SELECT m.legacy, c, ledger.evidence_resolved(m.id, u, c, l.at - interval '1 microsecond') = l.at AS resolved, ledger.evidence_resolved(m.id, u, c, l.at) AS later
FROM (SELECT max(repaired_at) AS at FROM ledger.repair_log) l, ledger.legacy_mappings m, unnest(ARRAY['pending_deposits', 'buying_power']) c, unnest(ARRAY[:alice, :bob]::uuid[]) u
ORDER BY u, 1, 2;
-- a row that is missing is written whole, or not at all
DELETE FROM balances WHERE user_id = :alice;
SELECT * FROM sides(:alice);
SELECT legacy_column, before, after FROM ledger.repair(:alice, max_amount => 90);
SELECT legacy_column, before, after FROM ledger.repair(:alice);
SELECT count(*) FROM ledger.repair(dry_run => false, reason => 'all');
-- under strict mode not a part of it
UPDATE balances SET pending_deposits = pending_deposits + 1, buying_power = buying_power + 100 WHERE user_id = :bob;
SELECT ledger.configure(strict_mode => true);
SELECT count(*) FROM ledger.repair(:bob, max_amount => 10, dry_run => false, reason => 'the small one');
SELECT count(*) FROM ledger.repair(:bob, dry_run => false, reason => 'both');
SELECT ledger.configure(strict_mode => false);
SELECT * FROM public.ledger_oracle();
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;
\set ECHO none
\c contrib_regression
DROP DATABASE :database;
