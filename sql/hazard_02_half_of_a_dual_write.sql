--
-- hazard 02: a compare inside a transaction that has done half of its dual
-- write. Users whom the transaction has touched are pending; the verdict falls
-- at commit, and in strict mode the missing half fails it.
--
-- Fails without `touched` in verdict() of compare.c: a mismatch in the middle, and
-- strict reads there raise. Without prove(): half a write commits.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_hazard_02
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
CREATE FUNCTION public.post(amount numeric) RETURNS boolean LANGUAGE sql
	RETURN ledger.credit_user_usdc('00000000-0000-4000-8000-00000000000a', amount, 'half') > 0;
CREATE PROCEDURE public.write(amount numeric) LANGUAGE sql
	AS $$ UPDATE public.balances SET pending_deposits = pending_deposits + amount WHERE user_id = '00000000-0000-4000-8000-00000000000a' $$;
CREATE VIEW public.statuses AS
	SELECT right(u::text, 1) AS who, legacy_column, trim_scale(difference) AS difference, c.status
	FROM unnest(ARRAY['00000000-0000-4000-8000-00000000000a', '00000000-0000-4000-8000-00000000000b']::uuid[]) u,
		ledger.compare_balances(u) c
	ORDER BY 1, 2;
\set ECHO all
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT ledger.configure(shadow_mode => true, strict_mode => true);
SELECT public.post(1), ledger.credit_user_usdc(:bob, 1, 'opens him') > 0 AS posted;
-- bob differs and is no concern of alice's transactions
UPDATE balances SET buying_power = buying_power + 7 WHERE user_id = :bob;

-- The ledger first; what this transaction is at is pending, what it is not at differs.
BEGIN;
SELECT public.post(10);
CALL public.write(10);
SELECT * FROM statuses;
SELECT usdc_balance FROM ledger.get_user_balance(:alice);
SELECT right(user_id::text, 1) AS who, legacy_column, difference, status FROM ledger.reconcile();
COMMIT;
SELECT * FROM statuses;

-- The legacy table first. Until the ledger is called it is an outside write.
BEGIN;
CALL public.write(10);
SELECT * FROM statuses;
SELECT public.post(10);
SELECT * FROM statuses;
SELECT usdc_balance FROM ledger.get_user_balance(:alice);
COMMIT;
SELECT * FROM statuses;

-- The other half comes before the commit, in either order: nothing to say.
BEGIN;
SELECT public.post(10);
CALL public.write(-10);
SELECT * FROM statuses WHERE who = 'a';
CALL public.write(10);
SELECT * FROM statuses WHERE who = 'a';
COMMIT;
BEGIN;
CALL public.write(-10);
SELECT public.post(10);
SELECT * FROM statuses WHERE who = 'a';
CALL public.write(10);
COMMIT;
SELECT * FROM statuses WHERE who = 'a';

-- Half in a savepoint, half outside: taken back with its half, or not at all.
BEGIN;
SAVEPOINT s;
SELECT public.post(10);
CALL public.write(-10);
ROLLBACK TO s;
SELECT * FROM statuses WHERE who = 'a';
COMMIT;
BEGIN;
SELECT public.post(10);
SAVEPOINT s;
CALL public.write(-10);
RELEASE s;
COMMIT;
SELECT * FROM statuses WHERE who = 'a';

-- The mirror's own half is missing: somebody's trigger swallows it.
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER swallow BEFORE UPDATE ON balances FOR EACH ROW EXECUTE FUNCTION swallow();
SELECT public.post(10);
DROP TRIGGER swallow ON balances;
SELECT * FROM statuses WHERE who = 'a';

-- Without strict mode it is pending as long, and different afterwards.
SELECT ledger.configure(strict_mode => false);
SET client_min_messages = error;
BEGIN;
SELECT public.post(10);
CALL public.write(-10);
SELECT * FROM statuses WHERE who = 'a';
COMMIT;
SELECT * FROM statuses WHERE who = 'a';
RESET client_min_messages;
SELECT who, operation, kind, deltas FROM written;
SELECT * FROM public.ledger_oracle();

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
