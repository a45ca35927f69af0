# The same migration once more: integer keys, bigint cents, and a row for each
# user and currency.

use strict;
use warnings;

use Test::More;

use LedgerMigration;
use LedgerTest;

my $users = soak(20_000, 200_000);

migrate(
	{
		name => 'migration_cents',
		users => $users,
		create => <<SQL,
CREATE TABLE public.wallets (
	user_id bigint NOT NULL,
	currency text NOT NULL,
	balance_cents bigint NOT NULL DEFAULT 0,
	PRIMARY KEY (user_id, currency)) WITH (fillfactor = 80);
INSERT INTO public.wallets
	SELECT n, 'USDC', 10000 + n FROM generate_series(1, $users) n
	UNION ALL
	SELECT n, 'USD', 100 * (n % 1000) FROM generate_series(1, $users) n;
SET check_function_bodies = off;
CREATE FUNCTION customer(n int) RETURNS uuid IMMUTABLE PARALLEL SAFE LANGUAGE sql AS 'SELECT ledger.integer_to_uuid(n)';
SQL
		attach => <<'SQL',
'public.wallets', '{"columns": [
	{"column": "balance_cents", "accounts": ["usdc_balance", "pending_investment"], "unit": 0.01, "where": {"currency": "USDC"}},
	{"column": "balance_cents", "accounts": ["fiat_exposure"], "unit": 0.01, "where": {"currency": "USD"}}]}'
SQL
		load => <<'SQL',
\set n random(11, :users)
\set cents random(-100, 200)
UPDATE public.wallets SET balance_cents = balance_cents + :cents
	WHERE user_id = :n AND currency = 'USDC' AND balance_cents + :cents >= 0;
SQL
		add => 'WITH a (n, amount) AS (VALUES (?::int, ?::numeric)) UPDATE public.wallets'
		  . " SET balance_cents = balance_cents + (100 * a.amount)::bigint FROM a WHERE user_id = a.n AND currency = 'USDC'",
		drop_row => "DELETE FROM public.wallets WHERE user_id = ? AND currency = 'USDC'",
		refuse => ['ALTER TABLE public.wallets ADD CONSTRAINT small CHECK (balance_cents < 90000000) NOT VALID'],
		allow => ['ALTER TABLE public.wallets DROP CONSTRAINT small'],
	});
done_testing();
