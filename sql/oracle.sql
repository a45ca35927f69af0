--
-- The oracle that other tests end in: silent on a ledger that is right, and
-- able to fail: each of its rules is broken once.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set oracle :srcdir '/test/lib/oracle.sql'
\set selftest :srcdir '/test/lib/oracle_selftest.sql'
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS ledger;
\i :oracle
\i :selftest
RESET client_min_messages;
\set ECHO all
\set alice '''00000000-0000-4000-8000-00000000ac01'''
\set bob '''00000000-0000-4000-8000-00000000ac02'''

-- An order with two fills and a release, one that is open, a sale, a deposit
-- reversed in part.
SELECT ledger.credit_user_usdc(:alice, 1000, 'deposit', '00000000-0000-4000-8000-00000000acd1') > 0 AS posted;
SELECT ledger.credit_user_usdc(:alice, 0.5, 'deposit', '00000000-0000-4000-8000-00000000acd2') > 0 AS posted;
SELECT ledger.credit_user_usdc(:bob, 100, 'deposit', '00000000-0000-4000-8000-00000000acd3') AS bobs \gset
SELECT ledger.reserve_for_investment(:alice, 500, '00000000-0000-4000-8000-00000000aca1') > 0 AS posted;
SELECT ledger.execute_investment(:alice, 200, '00000000-0000-4000-8000-00000000aca1', 'fill-1') > 0 AS posted;
SELECT ledger.execute_investment(:alice, 100.123456789012345678, '00000000-0000-4000-8000-00000000aca1', 'fill-2') > 0 AS posted;
SELECT ledger.reserve_for_investment(:alice, 50, '00000000-0000-4000-8000-00000000aca2') > 0 AS posted;
SELECT ledger.settle_sale(:alice, 200, 250, '00000000-0000-4000-8000-00000000aca1', 'sale-1') > 0 AS posted;
SELECT ledger.reverse_transaction(:bobs, 'half of it was not his', 40, '00000000-0000-4000-8000-00000000ace1') > 0 AS posted;
SELECT ledger.move_funds_to_fiat_exposure(:bob, 10, 'to the broker') > 0 AS posted;
SELECT ledger.release_reservation(:alice, NULL, '00000000-0000-4000-8000-00000000aca1') > 0 AS posted;

SELECT * FROM public.ledger_oracle();
SELECT * FROM public.ledger_oracle_selftest();
SELECT * FROM public.ledger_oracle();

DROP FUNCTION public.ledger_oracle_selftest(), public.oracle_break(text), public.oracle_unlock(),
	public.oracle_account(text, int, text), public.oracle_post(bigint, bigint, numeric, bigint, bigint);
