--
-- Reconcile and repair over index entries of accounts that a rolled back
-- opening has left: the scan notes them as dead while it goes from user to
-- user, in memory that must outlive each of them.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database ledger_reconcile_dead
\set fresh :srcdir '/test/lib/fresh.sql'
\set done :srcdir '/test/lib/done.sql'
\i :fresh
\set ECHO all
CREATE TABLE public.balances (
	user_id uuid PRIMARY KEY,
	buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0
);
CREATE FUNCTION public.u(i integer) RETURNS uuid LANGUAGE sql AS
	$$ SELECT ('aaaaaaaa-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid $$;
INSERT INTO public.balances SELECT public.u(i), 100, 0 FROM generate_series(1, 200) i;
UPDATE public.balances SET pending_deposits = -1 WHERE user_id = public.u(50);
SELECT bool_and(passed) FILTER (WHERE check_name = 'attached') AS attached FROM ledger.attach_legacy('public.balances');
SELECT shadow_mode FROM ledger.configure(shadow_mode => true, reason => 'test');
SELECT count(ledger.credit_user_usdc(public.u(i), 1, 'x')) FROM generate_series(1, 4) i;
-- one user cannot be opened; all that the others' opening has done is rolled back
\set VERBOSITY sqlstate
BEGIN;
SELECT count(*) FROM ledger.repair(dry_run => false, reason => 'test');
ROLLBACK;
\set VERBOSITY default
UPDATE public.balances SET pending_deposits = 0 WHERE user_id = public.u(50);
SELECT count(*) FROM ledger.reconcile();
SELECT count(*) FROM ledger.repair(dry_run => false, reason => 'test');
SELECT count(*) FROM ledger.reconcile();
SELECT count(*) FROM ledger.reconcile();
SELECT count(*) AS failed FROM ledger.verify() WHERE NOT passed;
\set ECHO none
\i :done
