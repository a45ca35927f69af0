--
-- The oracle that other tests end in: silent on a ledger that is right, and
-- able to fail: each of its rules is broken once.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_oracle
\set fresh :srcdir '/test/lib/fresh.sql'
\set selftest :srcdir '/test/lib/oracle_selftest.sql'
\set done :srcdir '/test/lib/done.sql'
\i :fresh
SET client_min_messages = warning;
\i :selftest
RESET client_min_messages;
\set ECHO all
\set alice '''00000000-0000-4000-8000-00000000ac01'''
\set bob '''00000000-0000-4000-8000-00000000ac02'''
\set carol '''00000000-0000-4000-8000-00000000ac03'''

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
SELECT * FROM public.ledger_oracle_selftest(false);
SELECT * FROM public.ledger_oracle();

-- The same with a legacy table: carol is opened from her row, alice gets one.
CREATE TABLE public.oracle_balances (
	user_id uuid PRIMARY KEY,
	buying_power numeric(36,18) DEFAULT 0,
	pending_deposits numeric(36,18) DEFAULT 0,
	currency varchar(10) NOT NULL DEFAULT 'USD',
	updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO public.oracle_balances (user_id, buying_power, pending_deposits) VALUES (:carol, 5, 70);
SELECT passed FROM ledger.attach_legacy('public.oracle_balances') WHERE check_name = 'attached';
SELECT shadow_mode FROM ledger.configure(shadow_mode => true, reason => 'test');
SELECT ledger.debit_user_usdc(:carol, 20, 'withdrawal') > 0 AS posted;
SELECT ledger.credit_user_usdc(:alice, 20, 'deposit') > 0 AS posted;
SELECT user_id, pending_deposits, buying_power FROM public.oracle_balances ORDER BY user_id;
SELECT * FROM public.ledger_oracle();
SELECT * FROM public.ledger_oracle_selftest(true);
SELECT * FROM public.ledger_oracle();
SELECT shadow_mode FROM ledger.configure(shadow_mode => false, reason => 'test');
SELECT ledger.detach_legacy('public.oracle_balances');
DROP TABLE public.oracle_balances;
\set ECHO none
\i :done
