--
-- Batches in shadow mode: legacy rows are locked, opened from, written and
-- compared as by single calls; a row that cannot be written is recorded, the
-- others are written.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_batch_shadow
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
CREATE FUNCTION public.deposit(who text, amount numeric, key text DEFAULT NULL) RETURNS ledger.transfer LANGUAGE sql AS
$$ SELECT ROW('deposit', NULL, NULL, amount, key, ('00000000-0000-4000-8000-00000000000' || who)::uuid, 'system_buffer_usdc', 'usdc_balance',
	NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer $$;
CREATE FUNCTION public.withdrawal(who text, amount numeric) RETURNS ledger.transfer LANGUAGE sql AS
$$ SELECT ROW('withdrawal', NULL, NULL, amount, NULL, ('00000000-0000-4000-8000-00000000000' || who)::uuid, 'usdc_balance', 'system_buffer_usdc',
	NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer $$;
CREATE VIEW public.opened AS
	SELECT right(user_id::text, 1) AS who, account_type, opened, version, debits, credits FROM ledger.accounts WHERE user_id IS NOT NULL ORDER BY user_id, id;
CREATE VIEW public.clean AS
	SELECT public.ledger_oracle() AS problem UNION ALL SELECT check_name || ': ' || detail FROM ledger.verify() WHERE NOT passed;
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
\set ECHO all

-- Attached, shadow mode off: who moves is opened, who is refused is as he was.
SELECT * FROM ledger.post_batch(ARRAY[deposit('a', 1), withdrawal('a', 51), withdrawal('d', 1)], 'continue');
SELECT * FROM opened;
SELECT * FROM legacy;
SELECT * FROM ledger.repair(dry_run => false, reason => 'the legacy rows follow from here');
SELECT ledger.configure(shadow_mode => true);

-- Opened from rows, a user without one, one whose items are refused, replays.
SELECT * FROM ledger.post_batch(ARRAY[deposit('a', 10, 'k1'), deposit('d', 5, 'k2'), deposit('b', 1, 'k3'), withdrawal('b', 21),
	withdrawal('c', 1), withdrawal('b', 1), deposit('e', 3), withdrawal('f', 1)], 'continue');
SELECT * FROM ledger.post_batch(ARRAY[deposit('a', 10, 'k1'), deposit('d', 5, 'k2'), deposit('b', 1, 'k3')]);
SELECT * FROM opened;
SELECT * FROM legacy;
SELECT * FROM found;
SELECT * FROM ledger.reconcile();
TABLE clean;

-- A check that one row of several violates: strict off, the others are written.
ALTER TABLE balances ADD CONSTRAINT modest CHECK (pending_deposits < 100);
SELECT * FROM ledger.post_batch(ARRAY[deposit('a', 1), deposit('b', 200), deposit('c', 3), deposit('d', 4)]);
SELECT * FROM legacy;
SELECT * FROM found;
SELECT * FROM ledger.post_batch(ARRAY[deposit('a', 1), deposit('c', 3)]);
SELECT * FROM ledger.post_batch(ARRAY[withdrawal('b', 200)]);
SELECT * FROM legacy;
SELECT * FROM ledger.repair(dry_run => false, reason => 'b was not written twice');
TABLE clean;

-- Strict: the same fails the batch.
SELECT ledger.configure(strict_mode => true);
\set VERBOSITY terse
SELECT * FROM ledger.post_batch(ARRAY[deposit('a', 1), deposit('b', 200), deposit('c', 3)], 'continue');
\set VERBOSITY default
SELECT result FROM ledger.post_batch(ARRAY[deposit('a', 1), deposit('b', 2), deposit('c', 3)], 'continue');
ALTER TABLE balances DROP CONSTRAINT modest;
SELECT result FROM ledger.post_batch(ARRAY[deposit('a', 1), deposit('b', 200), deposit('c', 3)], 'continue');
SELECT * FROM legacy;
SELECT * FROM ledger.reconcile();
TABLE clean;

-- A difference made past the ledger is found at commit.
SET ledger.capture = 'record';
UPDATE balances SET pending_deposits = pending_deposits + 1 WHERE user_id = :alice;
SELECT result FROM ledger.post_batch(ARRAY[deposit('a', 1), deposit('b', 1)]);
SELECT * FROM ledger.repair(dry_run => false, reason => 'test');
SELECT ledger.configure(strict_mode => false);

-- Rows that nobody can be opened from; one of many fails the batch as it fails a call.
INSERT INTO balances (user_id, pending_deposits) VALUES ('00000000-0000-4000-8000-000000000007', -1), ('00000000-0000-4000-8000-000000000008', 8);
SELECT * FROM ledger.post_batch(ARRAY[deposit('8', 1), deposit('7', 1)], 'continue');
SELECT * FROM ledger.post_batch(ARRAY[deposit('8', 1)], 'continue');

-- Many, by the inbox: opened, mirrored, compared.
INSERT INTO balances (user_id, pending_deposits) SELECT ('00000000-0000-4000-8001-' || lpad(n::text, 12, '0'))::uuid, n FROM generate_series(1, 300) n;
INSERT INTO ledger.inbox (type, amount, user_id, debit_type, credit_type, idempotency_key)
	SELECT 'deposit', n, ('00000000-0000-4000-8001-' || lpad((1 + n % 300)::text, 12, '0'))::uuid, 'system_buffer_usdc', 'usdc_balance', 'many ' || n
	FROM generate_series(1, 1000) n;
SELECT count(*), sum(pending_deposits) FROM balances WHERE user_id::text LIKE '%-8001-%';
SELECT count(*) FROM found;
SELECT right(user_id::text, 1) AS who, legacy_column, difference, status FROM ledger.reconcile();
TABLE clean;

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
