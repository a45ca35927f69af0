--
-- hazard 13: writes under session_replication_role = replica, as logical
-- replication applies them, and with all triggers disabled, as pg_restore
-- --disable-triggers does. Recorded as bypass where the trigger fires, never
-- posted or refused; reconcile() finds both. Fails without ENABLE ALWAYS. The
-- apply worker itself is in test/t/006_replication.pl.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_hazard_13
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
CREATE VIEW public.captured AS
	SELECT right(w.user_id::text, 1) AS who, w.operation, w.kind, w.deltas, w.note FROM ledger.legacy_writes w ORDER BY w.id;
\set ECHO all
SELECT passed FROM ledger.attach_legacy(capture => 'post') WHERE check_name = 'attached';
SELECT ledger.configure(shadow_mode => true);
SELECT count(*) FROM ledger.repair(direction => 'ledger', dry_run => false, reason => 'opens all');
SELECT count(*) AS transactions FROM ledger.transactions \gset
SET session_replication_role = replica;
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :alice;
INSERT INTO balances (user_id, buying_power) VALUES (:dave, 3);
DELETE FROM balances WHERE user_id = :bob;
UPDATE balances SET user_id = '00000000-0000-4000-8000-00000000000e' WHERE user_id = :carol;
COPY balances (user_id, buying_power) FROM STDIN;
00000000-0000-4000-8000-00000000000f	5
\.
SET ledger.capture = 'refuse';
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :alice;
RESET ledger.capture;
RESET session_replication_role;
TABLE captured;
SELECT count(*) - :transactions AS posted FROM ledger.transactions;
SELECT right(user_id::text, 1) AS who, legacy_column, ledger_value, legacy_value, status FROM ledger.reconcile() ORDER BY 1, 2;
-- in a transaction that posts for the user it is a bypass all the same
BEGIN;
SELECT ledger.credit_user_usdc(:alice, 1, 'posts') > 0 AS posted;
SET LOCAL session_replication_role = replica;
UPDATE balances SET buying_power = buying_power - 2 WHERE user_id = :alice;
COMMIT;
SELECT * FROM captured OFFSET (SELECT count(*) - 1 FROM captured);
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE balances SET buying_power = buying_power + 2 WHERE user_id = :alice;
SET LOCAL session_replication_role = origin;
SELECT ledger.credit_user_usdc(:alice, 1, 'posts') > 0 AS posted;
SELECT * FROM captured OFFSET (SELECT count(*) - 1 FROM captured);
ROLLBACK;
-- the mirror's own writes, and a posting, are what they are
SET session_replication_role = replica;
SELECT ledger.credit_user_usdc(:alice, 1, 'posts') > 0 AS posted;
RESET session_replication_role;
SELECT * FROM ledger.compare_balances(:alice);

-- Disabled: nothing is recorded; verify() finds the trigger, reconcile() the difference.
SELECT count(*) FROM ledger.repair(direction => 'ledger', dry_run => false, reason => 'bypassed');
SELECT count(*) FROM ledger.repair(direction => 'legacy', dry_run => false, reason => 'bypassed');
SELECT count(*) AS writes FROM ledger.legacy_writes \gset
BEGIN;
ALTER TABLE balances DISABLE TRIGGER ALL;
UPDATE balances SET buying_power = buying_power + 1 WHERE user_id = :alice;
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;
ALTER TABLE balances ENABLE TRIGGER ALL;
COMMIT;
SELECT count(*) - :writes AS recorded FROM ledger.legacy_writes;
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;
SELECT right(user_id::text, 1) AS who, legacy_column, difference, status FROM ledger.reconcile();
SELECT what, count(*) FROM ledger.rearm() GROUP BY what;
SELECT count(*) FROM ledger.repair(direction => 'legacy', dry_run => false, reason => 'not captured');
SELECT * FROM ledger.verify() WHERE NOT passed;
SELECT * FROM public.ledger_oracle();

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
