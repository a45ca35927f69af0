--
-- hazard 12: a row that changes its key, goes away with money on it, or goes
-- with all others. Money moves through suspense, never vanishes; TRUNCATE is
-- always refused.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_hazard_12
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
CREATE VIEW public.captured AS
	SELECT right(w.user_id::text, 1) AS who, w.operation, w.kind, w.deltas, w.note FROM ledger.legacy_writes w ORDER BY w.id;
CREATE VIEW public.ledgers AS
	SELECT COALESCE(right(user_id::text, 1), 'house') AS who, account_type, currency, balance FROM ledger.account_balances
	WHERE account_type <> 'opening_balance' AND balance <> 0 ORDER BY 1, 2, 3;
\set ECHO all
SELECT passed FROM ledger.attach_legacy(capture => 'post') WHERE check_name = 'attached';
SELECT ledger.configure(shadow_mode => true);

-- The key: the money is taken from one user and given to the other, through
-- suspense and in one posting, so that nothing is left there.
UPDATE balances SET user_id = :dave WHERE user_id = :alice;
TABLE captured;
TABLE ledgers;
SELECT transaction_id, right(user_id::text, 1) AS who, account_type, amount FROM ledger.suspense_items ORDER BY 1, 3;
SELECT * FROM ledger.reconcile();
-- To and fro by three statements; and two users in one.
BEGIN;
UPDATE balances SET user_id = '00000000-0000-4000-8000-0000000000ff' WHERE user_id = :dave;
UPDATE balances SET user_id = :dave WHERE user_id = :bob;
UPDATE balances SET user_id = :bob WHERE user_id = '00000000-0000-4000-8000-0000000000ff';
COMMIT;
ALTER TABLE balances DROP CONSTRAINT balances_pkey, ADD UNIQUE (user_id) DEFERRABLE;
UPDATE balances SET user_id = CASE user_id WHEN :bob THEN :dave::uuid ELSE :bob END WHERE user_id IN (:bob, :dave);
SELECT (metadata -> 'legacy_writes' ->> 3)::int - (metadata -> 'legacy_writes' ->> 0)::int AS in_order FROM ledger.transactions ORDER BY id DESC LIMIT 1;
ALTER TABLE balances DROP CONSTRAINT balances_user_id_key, ADD PRIMARY KEY (user_id);
TABLE ledgers;
SELECT * FROM ledger.reconcile();
-- Key and amount at once; and a key that is taken already.
UPDATE balances SET user_id = :alice, pending_deposits = pending_deposits + 5 WHERE user_id = :dave;
SELECT public.raises(format('UPDATE balances SET user_id = %L WHERE user_id = %L', :bob, :alice));
TABLE ledgers;
SELECT right(user_id::text, 1) AS who, account_type, currency, amount FROM ledger.suspense_items;
-- Whoever has money reserved cannot give all of it away: then nobody gets any,
-- and the way back changes nothing either.
SELECT ledger.reserve_for_investment(:alice, 30) > 0 AS reserved;
UPDATE balances SET user_id = :dave WHERE user_id = :alice;
SELECT * FROM captured OFFSET (SELECT count(*) - 2 FROM captured);
SELECT right(user_id::text, 1) AS who, legacy_column, ledger_value, legacy_value, difference, status FROM ledger.reconcile();
UPDATE balances SET user_id = :alice WHERE user_id = :dave;
SELECT right(user_id::text, 1) AS who, legacy_column, before, after FROM ledger.repair(dry_run => false, reason => 'both ways');
-- A transaction that posts for one of the two, before or after.
BEGIN;
SELECT ledger.credit_user_usdc(:bob, 1, 'before') > 0 AS posted;
UPDATE balances SET user_id = :dave WHERE user_id = :bob;
SELECT * FROM captured OFFSET (SELECT count(*) - 2 FROM captured);
ROLLBACK;
BEGIN;
UPDATE balances SET user_id = :dave WHERE user_id = :bob;
SELECT ledger.credit_user_usdc(:dave, 1, 'after') > 0 AS posted;
SELECT * FROM captured OFFSET (SELECT count(*) - 2 FROM captured);
SELECT right(user_id::text, 1) AS who, legacy_column, ledger_value, legacy_value, difference FROM ledger.reconcile() ORDER BY 1, 2;
ROLLBACK;
-- A row without a user is nobody's.
ALTER TABLE balances DROP CONSTRAINT balances_pkey, ADD UNIQUE (user_id), ALTER user_id DROP NOT NULL;
SELECT count(*) AS before FROM captured \gset
INSERT INTO balances (user_id, buying_power) VALUES (NULL, 1000);
UPDATE balances SET user_id = NULL WHERE user_id = :carol;
SELECT * FROM captured OFFSET :before;
UPDATE balances SET user_id = :carol WHERE user_id IS NULL AND buying_power < 1000;
DELETE FROM balances WHERE user_id IS NULL;
SELECT * FROM ledger.reconcile();

-- DELETE: what the row held goes to suspense.
DELETE FROM balances WHERE user_id = :carol;
SELECT * FROM captured OFFSET (SELECT count(*) - 1 FROM captured);
SELECT * FROM ledger.reconcile();
-- and comes back with a new row; also within one transaction
INSERT INTO balances (user_id, buying_power) VALUES (:carol, 7.5);
BEGIN;
DELETE FROM balances WHERE user_id = :carol;
INSERT INTO balances (user_id, buying_power) VALUES (:carol, 8.5);
COMMIT;
SELECT * FROM ledger.reconcile();
SELECT * FROM public.ledger_oracle();

-- record: nothing is posted, everything is known.
SELECT ledger.configure_capture('balances', 'record', 'a test');
DELETE FROM balances WHERE user_id = :carol;
UPDATE balances SET user_id = :carol WHERE user_id = :bob;
SELECT * FROM captured OFFSET (SELECT count(*) - 3 FROM captured);
SELECT right(user_id::text, 1) AS who, legacy_column, difference, status FROM ledger.reconcile() ORDER BY 1, 2;
UPDATE balances SET user_id = :bob WHERE user_id = :carol;
INSERT INTO balances (user_id, buying_power) VALUES (:carol, 8.5);
SELECT * FROM ledger.reconcile();

-- refuse.
SELECT ledger.configure_capture('balances', 'refuse', 'a test');
SELECT public.raises(format('DELETE FROM balances WHERE user_id = %L', :carol));
SELECT public.raises(format('UPDATE balances SET user_id = %L WHERE user_id = %L', :dave, :carol));

-- TRUNCATE, in every mode and by every way; the role of a replica truncates as well.
CREATE TABLE parents (id uuid PRIMARY KEY);
INSERT INTO parents SELECT user_id FROM balances;
ALTER TABLE balances ADD FOREIGN KEY (user_id) REFERENCES parents;
SELECT mode, public.raises(statement) FROM unnest(ARRAY['record', 'post', 'refuse']) mode, unnest(ARRAY['TRUNCATE balances', 'TRUNCATE parents CASCADE']) statement
WHERE set_config('ledger.capture', mode, false) = mode ORDER BY 1, 2;
RESET ledger.capture;
SELECT count(*) FROM balances;
SELECT * FROM public.ledger_oracle();

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
