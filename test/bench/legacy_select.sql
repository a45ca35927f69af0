\set n random(1, :users)
SELECT buying_power, pending_deposits FROM legacy_balances WHERE user_id = ('00000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid;
