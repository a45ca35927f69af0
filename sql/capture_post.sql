--
-- Capture 'post': an outside write becomes a posting against legacy_suspense.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_capture_post
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
CREATE VIEW public.captured AS
	SELECT right(w.user_id::text, 1) AS who, w.operation, w.kind, w.deltas, w.transaction_id AS posted, w.note
	FROM ledger.legacy_writes w ORDER BY w.id;
CREATE VIEW public.posted AS
	SELECT e.transaction_id AS id, t.type, right(t.user_id::text, 1) AS who,
		string_agg(format('%s %s %s %s', e.direction, e.account_type, e.amount, e.currency), ', ' ORDER BY e.ordinal, e.direction DESC) AS entries, t.reverses
	FROM ledger.entries e JOIN ledger.transactions t ON t.id = e.transaction_id
	GROUP BY e.transaction_id, t.type, t.user_id, t.reverses ORDER BY 1;
\set ECHO all
SELECT passed, detail FROM ledger.attach_legacy(capture => 'post') WHERE check_name = 'attached';

-- The writer's role has no right in the ledger. The user is opened from the
-- row as it was; an increase comes from legacy_suspense, a decrease goes there.
CREATE ROLE regress_ledger_billing LOGIN;
GRANT SELECT, INSERT, UPDATE, DELETE ON balances TO regress_ledger_billing;
SET SESSION AUTHORIZATION regress_ledger_billing;
UPDATE balances SET pending_deposits = pending_deposits + 10, buying_power = buying_power - 4 WHERE user_id = :alice;
RESET SESSION AUTHORIZATION;
TABLE captured;
TABLE posted;
SELECT id, posted_by, description, metadata FROM ledger.transactions WHERE type = 'captured_write';
SELECT legacy_column, ledger_value, legacy_value, status FROM ledger.compare_balances(:alice);
SELECT role, count FROM ledger.legacy_writers;

-- Several rows in one statement; a user without a row before it has had nothing.
SELECT ledger.configure(shadow_mode => true);
UPDATE balances SET pending_deposits = pending_deposits + 1;
INSERT INTO balances (user_id, buying_power) VALUES (:dave, 3);
SELECT count(*) AS posted, sum((deltas ->> 'pending_deposits')::numeric) AS pending_deposits FROM ledger.legacy_writes WHERE kind = 'posted';
SELECT * FROM ledger.reconcile();
SELECT * FROM public.ledger_oracle();

-- What changes no mapped column is recorded and not posted.
INSERT INTO balances (user_id) VALUES ('00000000-0000-4000-8000-00000000000e');
UPDATE balances SET updated_at = now();
DELETE FROM balances WHERE user_id = '00000000-0000-4000-8000-00000000000e';
SELECT * FROM captured WHERE who = 'e';

-- What the ledger cannot take is recorded, and never fails the writer: below
-- zero beside what is reserved, not finite, too many digits before the point.
SELECT ledger.reserve_for_investment(:bob, 15) > 0 AS reserved;
SET SESSION AUTHORIZATION regress_ledger_billing;
UPDATE balances SET pending_deposits = pending_deposits - 10, buying_power = 5 WHERE user_id = '00000000-0000-4000-8000-00000000000b';
RESET SESSION AUTHORIZATION;
SELECT legacy_column, cause, detail FROM ledger.explain_discrepancy(:bob);
UPDATE balances SET pending_deposits = pending_deposits + 10, buying_power = 0 WHERE user_id = :bob;
SELECT * FROM captured WHERE who = 'b' OFFSET 1;
BEGIN;
ALTER TABLE balances ALTER buying_power TYPE numeric;
UPDATE balances SET buying_power = 'NaN' WHERE user_id = :carol;
UPDATE balances SET buying_power = 7.5 WHERE user_id = :carol;
UPDATE balances SET buying_power = 1e21 WHERE user_id = :carol;
UPDATE balances SET buying_power = 7.5 WHERE user_id = :carol;
UPDATE balances SET buying_power = 7.5000000000000000001 WHERE user_id = :carol;
SELECT * FROM captured WHERE who = 'c' OFFSET 1;
ROLLBACK;
-- A frozen account.
BEGIN;
SELECT ledger.set_account_status(account_id, 'frozen', 'a test') FROM ledger.account_balances WHERE user_id = :carol AND account_type = 'fiat_exposure';
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :carol;
SELECT * FROM captured WHERE who = 'c' OFFSET 1;
ROLLBACK;
-- The suspense account itself.
BEGIN;
SELECT ledger.set_account_status(account_id, 'frozen', 'a test') FROM ledger.account_balances WHERE account_type = 'legacy_suspense' AND currency = 'USD';
COMMIT;
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :carol;
SELECT ledger.set_account_status(account_id, 'open', 'a test') FROM ledger.account_balances WHERE account_type = 'legacy_suspense' AND currency = 'USD';
UPDATE balances SET buying_power = buying_power - 1 WHERE user_id = :carol;
SELECT * FROM captured WHERE who = 'c' OFFSET 1;
SELECT user_id, legacy_column, before, after FROM ledger.repair(dry_run => false, reason => 'what could not be posted');
SELECT * FROM public.ledger_oracle();
-- A user who cannot be opened; and one whose row was never the ledger's to hold.
BEGIN;
INSERT INTO balances (user_id, buying_power, currency) VALUES ('00000000-0000-4000-8000-0000000000e1', 5, 'EUR');
SET LOCAL session_replication_role = replica;
INSERT INTO balances (user_id, buying_power) VALUES ('00000000-0000-4000-8000-0000000000e2', -5);
COMMIT;
UPDATE balances SET buying_power = buying_power + 7 WHERE user_id = '00000000-0000-4000-8000-0000000000e2';
SELECT kind, deltas, note FROM ledger.legacy_writes WHERE user_id >= '00000000-0000-4000-8000-0000000000e1' ORDER BY id;
DELETE FROM balances WHERE user_id >= '00000000-0000-4000-8000-0000000000e1';
-- A transaction that has changed the settings posts nothing.
BEGIN;
SELECT ledger.configure(strict_mode => true);
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :carol;
SELECT kind, note FROM captured OFFSET (SELECT count(*) - 1 FROM captured);
ROLLBACK;
-- Nor does a ledger that takes no postings.
BEGIN;
SELECT ledger.configure(shadow_mode => false, balance_source => 'legacy');
COMMIT;
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :carol;
UPDATE balances SET buying_power = buying_power - 1 WHERE user_id = :carol;
SELECT kind, deltas, note FROM captured OFFSET (SELECT count(*) - 2 FROM captured);
CALL ledger.roll_back('a test');
SELECT ledger.configure(balance_source => 'ledger');

-- Savepoints: what is rolled back was neither written nor posted.
BEGIN;
SAVEPOINT a;
UPDATE balances SET buying_power = buying_power + 100 WHERE user_id = :alice;
ROLLBACK TO a;
SAVEPOINT b;
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :alice;
RELEASE b;
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :alice;
COMMIT;
BEGIN;
UPDATE balances SET buying_power = buying_power + 100 WHERE user_id = :alice;
ROLLBACK;
SELECT * FROM captured WHERE who = 'a' OFFSET 2;
SELECT fiat_exposure FROM ledger.get_user_balance(:alice);
SELECT * FROM ledger.reconcile();

-- The old dual write, first half first: in a transaction that posts for the
-- user what was captured is taken back, and both sides say what was done twice.
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
SELECT usdc_balance FROM ledger.get_user_balance(:alice);
SELECT ledger.credit_user_usdc(:alice, 10, 'the other half') > 0 AS posted;
UPDATE balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :alice;
COMMIT;
SELECT * FROM captured WHERE who = 'a' OFFSET 4;
SELECT * FROM posted OFFSET (SELECT count(*) - 3 FROM posted);
TABLE found;
SELECT user_id, legacy_column, before, after FROM ledger.repair(:alice, dry_run => false, reason => 'double');
SELECT * FROM public.ledger_oracle();
-- Second half first.
BEGIN;
SELECT ledger.credit_user_usdc(:alice, 10, 'one half') > 0 AS posted;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
COMMIT;
SELECT * FROM captured WHERE who = 'a' OFFSET 6;
SELECT user_id, legacy_column, before, after FROM ledger.repair(:alice, dry_run => false, reason => 'double');
-- A savepoint that posted and is gone leaves the write an outside one; one
-- that was taken back by such a savepoint stands again.
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :alice;
SAVEPOINT s;
SELECT ledger.credit_user_usdc(:alice, 10, 'not to be') > 0 AS posted;
ROLLBACK TO s;
UPDATE balances SET pending_deposits = pending_deposits + 2 WHERE user_id = :alice;
COMMIT;
SELECT * FROM captured WHERE who = 'a' OFFSET 7;
SELECT * FROM ledger.reconcile();
-- Nor does the statement's end post what a posting of the same statement has come before.
CREATE FUNCTION zz_posts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM ledger.credit_user_usdc(NEW.user_id, 10, 'a later trigger''s half');
	RETURN NULL;
END $$;
CREATE TRIGGER zz_posts AFTER UPDATE ON balances FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION zz_posts();
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
SELECT kind, deltas, posted, note FROM captured OFFSET (SELECT count(*) - 1 FROM captured);
SELECT legacy_column, difference, status FROM ledger.compare_balances(:alice);
ROLLBACK;
DROP TRIGGER zz_posts ON balances;
-- What was captured cannot be spent in the same transaction.
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 1000 WHERE user_id = :alice;
SELECT public.raises(format('SELECT ledger.debit_user_usdc(%L, 1000, ''spends it'')', :alice));
COMMIT;
SELECT * FROM captured WHERE who = 'a' OFFSET 9;
UPDATE balances SET pending_deposits = pending_deposits - 1000 WHERE user_id = :alice;
SELECT * FROM ledger.reconcile();
SELECT max(id) AS last FROM ledger.transactions \gset
-- Several are taken back from the last on, so that no balance falls below one that there was.
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 1000 WHERE user_id = :alice;
UPDATE balances SET pending_deposits = pending_deposits - 1000 WHERE user_id = :alice;
SELECT ledger.credit_user_usdc(:alice, 1, 'posts') > 0 AS posted;
SELECT id - :last AS nth, entries, reverses - :last AS reverses FROM posted WHERE id > :last;
ROLLBACK;

-- Strict: a transaction whose outside write was posted agrees, and commits; a
-- double write does not, in either order.
SELECT ledger.configure(strict_mode => true);
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :alice;
BEGIN;
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :alice;
SELECT ledger.credit_user_usdc(:bob, 1, 'somebody else') > 0 AS posted;
COMMIT;
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
SELECT ledger.credit_user_usdc(:alice, 10, 'the other half') > 0 AS posted;
COMMIT;
BEGIN;
SELECT ledger.credit_user_usdc(:alice, 10, 'one half') > 0 AS posted;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
COMMIT;
SELECT * FROM ledger.reconcile();
SELECT ledger.configure(strict_mode => false);

-- Shadow mode off: the application's own dual write is its own business.
SELECT ledger.configure(shadow_mode => false);
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
SELECT ledger.credit_user_usdc(:alice, 10, 'both') > 0 AS posted;
COMMIT;
BEGIN;
SELECT ledger.credit_user_usdc(:alice, 10, 'both') > 0 AS posted;
UPDATE balances SET pending_deposits = pending_deposits + 10 WHERE user_id = :alice;
COMMIT;
SELECT kind, deltas, posted IS NOT NULL AS posted, note FROM captured OFFSET (SELECT count(*) - 2 FROM captured);
SELECT * FROM ledger.reconcile();
-- A batch for many users takes back as well.
SELECT ledger.configure(shadow_mode => true);
BEGIN;
UPDATE balances SET pending_deposits = pending_deposits + 1 WHERE user_id IN (:alice, :bob);
SELECT count(*) FROM ledger.post_batch(ARRAY(SELECT jsonb_populate_record(NULL::ledger.transfer,
	jsonb_build_object('type', 'gift', 'debit_type', 'house_equity', 'credit_type', 'usdc_balance', 'user_id', u, 'amount', 1, 'currency', 'USDC'))
	FROM unnest(ARRAY[:alice, :bob]::uuid[]) u));
COMMIT;
SELECT who, kind, deltas, note FROM captured OFFSET (SELECT count(*) - 2 FROM captured);
SELECT right(user_id::text, 1) AS who, difference FROM ledger.reconcile();
SELECT right(user_id::text, 1) AS who, legacy_column, before, after FROM ledger.repair(dry_run => false, reason => 'double');

-- The mode of the table, and the session's over it.
SELECT ledger.configure_capture('balances', 'record', 'a test');
SET ledger.capture = 'post';
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :carol;
RESET ledger.capture;
SELECT ledger.configure_capture('balances', 'post', 'a test');
SET ledger.capture = 'record';
UPDATE balances SET buying_power = buying_power - 1 WHERE user_id = :carol;
RESET ledger.capture;
SELECT who, kind, deltas FROM captured OFFSET (SELECT count(*) - 2 FROM captured);
SELECT right(user_id::text, 1) AS who, legacy_column, before, after FROM ledger.repair(direction => 'ledger', dry_run => false, reason => 'record');

-- The old code's conversion leaves two currencies, which are settled one by one, or both at once.
UPDATE balances SET pending_deposits = pending_deposits - 5, buying_power = buying_power + 5 WHERE user_id = :alice;
SELECT max(transaction_id) AS item FROM ledger.suspense_items \gset
\set items 'SELECT account_type, currency, amount, remaining, settled_by IS NOT NULL AS settled FROM ledger.suspense_items WHERE transaction_id = ' :item ' ORDER BY 1'
:items;
SELECT ledger.settle_suspense(:item, 'system_buffer_fiat', 'at the converter') AS usd \gset
:items;
SELECT ledger.settle_suspense(:item, 'system_buffer_fiat', 'at the converter') = :usd AS replayed;
SELECT ledger.settle_suspense(:item, 'fx_clearing', 'the rest') AS usdc \gset
:items;
SELECT id, entries FROM posted WHERE id IN (:usd, :usdc) ORDER BY id;
SELECT ledger.settle_suspense(:item, 'fx_clearing', 'the rest') = :usdc AS replayed, ledger.settle_suspense(:item, 'system_buffer_fiat', 'again') = :usd AS the_other;
SELECT public.raises(format('SELECT ledger.settle_suspense(%s, %L, %L)', :item, t, 'another')) FROM unnest(ARRAY['broker_operational', 'house_equity', 'system_buffer_usdc']) t;
SELECT ledger.reverse_transaction(:usd, 'not so') > 0 AS reversed;
:items;
SELECT ledger.settle_suspense(:item, 'broker_operational', 'so') > :usdc AS settled;
:items;
UPDATE balances SET pending_deposits = pending_deposits + 5 WHERE user_id = :alice;
SELECT max(transaction_id) AS item FROM ledger.suspense_items \gset
SELECT public.raises(format('SELECT ledger.settle_suspense(%s, %L, %L)', :item, 'system_buffer_fiat', 'another currency'));
SELECT count(*) FROM (SELECT ledger.settle_suspense(transaction_id, 'fx_clearing', 'all at once') FROM (SELECT DISTINCT transaction_id FROM ledger.suspense_items WHERE settled_by IS NULL) i) s;
SELECT count(*) AS left FROM ledger.suspense_items WHERE settled_by IS NULL;

-- What somebody has posted to suspense is his own to move back.
BEGIN;
SELECT ledger.post('mistake', ARRAY[ROW(ledger.open_account('legacy_suspense', NULL, 'USDC'), ledger.open_account('usdc_balance', :alice), 1)::ledger.posting]) AS id \gset
SELECT public.raises(format('SELECT ledger.settle_suspense(%s, %L, %L)', :id, 'house_equity', 'explained'));
ROLLBACK;
-- What remains of an item is settled as an amount is written.
UPDATE balances SET pending_deposits = pending_deposits + 10.125 WHERE user_id = :alice;
SELECT max(id) AS item FROM ledger.transactions \gset
SELECT ledger.reverse_transaction(:item, 'a part', 0.125, '00000000-0000-4000-8000-0000000000f1') > 0 AS reversed;
SELECT ledger.settle_suspense(:item, 'fx_clearing', 'the rest') AS settled \gset
SELECT type, entries FROM posted ORDER BY id DESC LIMIT 1;
-- A settlement that was reversed settles nothing, also where nothing remains.
SELECT ledger.reverse_transaction(:settled, 'not so') > 0 AS reversed;
SELECT ledger.reverse_transaction(:item, 'the rest', 10, '00000000-0000-4000-8000-0000000000f2') > 0 AS reversed;
SELECT public.raises(format('SELECT ledger.settle_suspense(%s, %L, %L)', :item, 'fx_clearing', 'again'));
-- Nobody else posts with these types; and a row put in by hand posts nothing.
SELECT public.raises(format('SELECT ledger.post(%L, ARRAY[ROW(1, 2, 1)::ledger.posting])', t)) FROM unnest(ARRAY['captured_write', 'repair', 'suspense_settlement']) t;
SELECT result, message FROM ledger.post_batch(ARRAY[jsonb_populate_record(NULL::ledger.transfer,
	'{"type": "captured_write", "debit_type": "house_equity", "credit_type": "usdc_balance", "user_id": "00000000-0000-4000-8000-00000000000a", "amount": 1, "currency": "USDC"}')], 'continue');
INSERT INTO ledger.legacy_writes (mapping_id, user_id, operation, kind, session_role, acting_role, deltas)
	VALUES (1, :alice, 'UPDATE', 'posted', 'x', 'x', '{"buying_power": 5}');
SELECT kind, posted FROM captured OFFSET (SELECT count(*) - 1 FROM captured);
-- Indexes of a part of the writes know what these have become.
SET enable_seqscan = off;
SELECT kind, count(*) = (SELECT count(*) FROM ledger.legacy_writes i WHERE i.kind IN ('outside', 'double_write') AND i.kind || '' = w.kind) AS indexed
FROM ledger.legacy_writes w WHERE kind || '' IN ('outside', 'double_write') GROUP BY kind ORDER BY kind;
RESET enable_seqscan;
SELECT * FROM ledger.reconcile();
SELECT * FROM ledger.verify() WHERE NOT passed;
SELECT * FROM public.ledger_oracle();
\c postgres
DROP DATABASE regress_ledger_capture_post;
DROP ROLE regress_ledger_billing;
