--
-- The mirror against a legacy table that does not take what it is given.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_shadow_mirror
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set nobody 00000000-0000-4000-8000-0000000000ee
\set ECHO all
ALTER TABLE balances ALTER buying_power TYPE numeric(8,2), ALTER pending_deposits DROP NOT NULL,
	ADD CONSTRAINT modest CHECK (pending_deposits < 5000);
UPDATE balances SET pending_deposits = NULL WHERE user_id = :carol;
INSERT INTO balances (user_id, pending_deposits, currency) VALUES
	('00000000-0000-4000-8000-0000000000f1', -1, 'USD'), ('00000000-0000-4000-8000-0000000000f2', 1, 'EUR');
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT ledger.configure(shadow_mode => true);

-- Rows that nobody can be opened from: postings are refused, reads are not.
ALTER TABLE balances ALTER pending_deposits TYPE numeric, DROP CONSTRAINT modest;
INSERT INTO balances (user_id, pending_deposits, currency) VALUES
	('00000000-0000-4000-8000-0000000000f3', 'NaN', 'USD'), ('00000000-0000-4000-8000-0000000000f4', 1e-19, 'USD');
INSERT INTO balances (user_id, pending_deposits, currency) VALUES
	('00000000-0000-4000-8000-0000000000f5', 1e20, 'USD'), ('00000000-0000-4000-8000-0000000000f6', 'Infinity', 'USD');
ALTER TABLE balances ADD CONSTRAINT modest CHECK (pending_deposits < 5000) NOT VALID;
SELECT right(user_id::text, 2) AS who, public.raises(format('SELECT ledger.credit_user_usdc(%L, 1, %L)', user_id, 'deposit')) AS posting,
	(ledger.get_user_balance(user_id)).usdc_balance
	FROM balances WHERE user_id::text LIKE '%0f_' ORDER BY user_id;
SELECT DISTINCT status FROM balances b, ledger.compare_balances(b.user_id) c WHERE c.status <> 'match' ORDER BY 1;
SELECT right(user_id::text, 2) AS who, legacy_column, ledger_value, legacy_value, difference, status
	FROM ledger.reconcile(1000) WHERE user_id::text LIKE '%0f_';
DELETE FROM balances WHERE user_id::text LIKE '%0f_';

-- NULL counts as zero.
SELECT ledger.credit_user_usdc(:carol, 1.5, 'deposit') > 0 AS posted;
SELECT * FROM legacy;

-- Digits that a column does not have: not rounded, recorded; the ledger stands.
SELECT ledger.move_funds_to_fiat_exposure(:alice, 0.125, 'to the broker') > 0 AS posted;
SELECT * FROM legacy;
SELECT * FROM found;
SELECT * FROM ledger.compare_balances(:alice);
SELECT * FROM ledger.repair(:alice, dry_run => false, reason => 'cannot be held');
SELECT ledger.move_funds_to_usdc(:alice, 0.125, 'and back') > 0 AS posted;
SELECT * FROM legacy;
SELECT * FROM ledger.reconcile();
CALL ledger.run_reconciliation();
SELECT who, legacy_column, cause, count, status FROM found;

-- (hazard 16) A check, an overflow, a trigger that raises, a trigger that swallows.
SELECT ledger.credit_user_usdc(:bob, 5000, 'too much for the check') > 0 AS posted;
SELECT ledger.debit_user_usdc(:bob, 5000, 'gone again') > 0 AS posted;
SELECT ledger.credit_user_usdc(:bob, 1000000, 'too much for the column') > 0 AS posted;
SELECT ledger.move_funds_to_fiat_exposure(:bob, 1000000, 'to the broker') > 0 AS posted;
SELECT * FROM legacy WHERE who = 'b';
SELECT * FROM found WHERE who = 'b';
ALTER TABLE balances ALTER buying_power TYPE numeric, DROP CONSTRAINT modest;
SELECT user_id, legacy_column, before, after FROM ledger.repair(dry_run => false, reason => 'the columns are wide enough now');
CREATE FUNCTION strange() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	CASE TG_ARGV[0]
		WHEN 'raise' THEN RAISE EXCEPTION 'not today';
		WHEN 'raise 40001' THEN RAISE EXCEPTION 'come again' USING ERRCODE = '40001';
		WHEN 'swallow' THEN RETURN NULL;
		WHEN 'double' THEN NEW.pending_deposits := NEW.pending_deposits + (NEW.pending_deposits - OLD.pending_deposits); RETURN NEW;
		WHEN 'tax' THEN
			UPDATE balances SET buying_power = buying_power - 1 WHERE user_id = NEW.user_id AND pg_trigger_depth() = 1;
			RETURN NULL;
		WHEN 'other' THEN
			UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = '00000000-0000-4000-8000-00000000000c' AND pg_trigger_depth() = 1;
			RETURN NULL;
	END CASE;
END
$$;
CREATE TRIGGER strange BEFORE INSERT OR UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION strange('raise');
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
SELECT ledger.credit_user_usdc(:dave, 1, 'deposit') > 0 AS posted;
DROP TRIGGER strange ON balances;
CREATE TRIGGER strange BEFORE INSERT OR UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION strange('swallow');
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
SELECT ledger.credit_user_usdc(:dave, 1, 'deposit') > 0 AS posted;
DROP TRIGGER strange ON balances;
SELECT * FROM legacy;
SELECT * FROM found WHERE status = 'open';
-- Contention is raised in any mode and leaves nothing.
CREATE TRIGGER strange BEFORE INSERT OR UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION strange('raise 40001');
SELECT public.raises(format('SELECT ledger.credit_user_usdc(%L, 1, %L)', :alice, 'deposit'));
DROP TRIGGER strange ON balances;
SELECT usdc_balance FROM ledger.get_user_balance(:alice);
SELECT count(*) FROM found WHERE status = 'open';
SELECT user_id, legacy_column, before, after FROM ledger.repair(dry_run => false, reason => 'triggers gone');

-- Triggers that change what the mirror writes: seen, whatever the order.
CREATE TRIGGER strange BEFORE UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION strange('double');
SELECT ledger.credit_user_usdc(:alice, 3, 'deposit') > 0 AS posted;
DROP TRIGGER strange ON balances;
SELECT who, kind, deltas FROM written WHERE who = 'a';
SELECT user_id, legacy_column, before, after FROM ledger.repair(dry_run => false, reason => 'doubled');
CREATE TRIGGER a_tax AFTER UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION strange('tax');
SELECT ledger.credit_user_usdc(:alice, 3, 'deposit') > 0 AS posted;
DROP TRIGGER a_tax ON balances;
CREATE TRIGGER z_tax AFTER UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION strange('tax');
SELECT ledger.credit_user_usdc(:alice, 3, 'deposit') > 0 AS posted;
DROP TRIGGER z_tax ON balances;
CREATE TRIGGER z_other AFTER UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION strange('other');
SELECT ledger.credit_user_usdc(:alice, 3, 'deposit') > 0 AS posted;
DROP TRIGGER z_other ON balances;
SELECT who, kind, deltas FROM written WHERE who IN ('a', 'c');
SELECT * FROM legacy;
SELECT right(user_id::text, 1) AS who, legacy_column, ledger_value, legacy_value, difference, status FROM ledger.reconcile();
SELECT user_id, legacy_column, before, after FROM ledger.repair(dry_run => false, reason => 'triggers gone');
-- Without its trigger the capture sees nothing, and that is a finding.
ALTER TABLE balances DISABLE TRIGGER ledger_capture;
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
ALTER TABLE balances ENABLE ALWAYS TRIGGER ledger_capture;
SELECT who, cause, note FROM found WHERE status = 'open';

-- A column that is gone, rights that are gone.
ALTER TABLE balances RENAME buying_power TO power;
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
SELECT ledger.move_funds_to_fiat_exposure(:alice, 1, 'to the broker') > 0 AS posted;
SELECT usdc_balance FROM ledger.get_user_balance(:alice);
SELECT public.raises(format('SELECT ledger.get_user_balance(%L)', :'nobody'));
SET ledger.strict_mode = 'on';
SELECT public.raises(format('SELECT ledger.get_user_balance(%L)', :alice));
RESET ledger.strict_mode;
ALTER TABLE balances RENAME power TO buying_power;
SELECT user_id, legacy_column, before, after FROM ledger.repair(dry_run => false, reason => 'renamed back');

-- Strict: all of these are errors, and nothing stays.
SELECT ledger.configure(strict_mode => true);
ALTER TABLE balances ALTER buying_power TYPE numeric(12,2) USING round(buying_power, 2);
CREATE TRIGGER strange BEFORE INSERT OR UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION strange('raise');
SELECT public.raises(format('SELECT ledger.credit_user_usdc(%L, 1, %L)', :alice, 'deposit'));
DROP TRIGGER strange ON balances;
CREATE TRIGGER strange BEFORE INSERT OR UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION strange('swallow');
SELECT public.raises(format('SELECT ledger.credit_user_usdc(%L, 1, %L)', :alice, 'deposit'));
DROP TRIGGER strange ON balances;
SELECT public.raises(format('SELECT ledger.move_funds_to_fiat_exposure(%L, 0.001, %L)', :alice, 'to the broker'));
SELECT public.raises(format('SELECT ledger.move_funds_to_fiat_exposure(%L, 1, %L)', :alice, 'to the broker'));
SELECT CASE WHEN current_setting('server_version_num')::int < 180000 THEN 'STORED' ELSE 'VIRTUAL' END AS kind \gset
ALTER TABLE balances ADD but_one numeric GENERATED ALWAYS AS (nullif(pending_deposits, 4321)) :kind NOT NULL;
SELECT left(public.raises(format('SELECT ledger.credit_user_usdc(%L, %L, %L)', :alice, 4321 - pending_deposits, 'deposit')), 5) AS sqlstate FROM balances WHERE user_id = :alice;
ALTER TABLE balances DROP but_one;
SELECT * FROM legacy;
SELECT * FROM ledger.reconcile();
SELECT * FROM public.ledger_oracle();
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
