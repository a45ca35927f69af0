# The migration of the product's table, from the first day to the last; with
# 200,000 customers in `make soak`.

use strict;
use warnings;

use Test::More;

use LedgerMigration;
use LedgerTest;

my $users = soak(50_000, 200_000);

migrate(
	{
		name => 'migration',
		users => $users,
		create => <<SQL,
CREATE FUNCTION customer(n int) RETURNS uuid IMMUTABLE PARALLEL SAFE
	RETURN overlay(md5(n::text) placing '4' from 13)::uuid;
CREATE TABLE public.balances (
	user_id uuid PRIMARY KEY,
	buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0,
	currency varchar(10) NOT NULL DEFAULT 'USD',
	updated_at timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 80);
INSERT INTO public.balances (user_id, buying_power, pending_deposits)
	SELECT customer(n), n % 1000, 100 + n / 100.0 FROM generate_series(1, $users) n;
SQL
		attach => "'public.balances'",
		load => <<'SQL',
\set n random(11, :users)
\set cents random(-100, 200)
UPDATE public.balances SET pending_deposits = pending_deposits + :cents / 100.0, updated_at = now()
	WHERE user_id = customer(:n) AND pending_deposits + :cents / 100.0 >= 0;
SQL
		add => 'WITH a (n, amount) AS (VALUES (?::int, ?::numeric)) UPDATE public.balances'
		  . ' SET pending_deposits = pending_deposits + a.amount FROM a WHERE user_id = customer(a.n)',
		drop_row => 'DELETE FROM public.balances WHERE user_id = customer(?)',
		refuse => ['ALTER TABLE public.balances ADD CONSTRAINT small CHECK (pending_deposits < 900000) NOT VALID'],
		allow => ['ALTER TABLE public.balances DROP CONSTRAINT small'],
	});
done_testing();
