\set n random(1, :users)
SELECT * FROM ledger.get_user_balance(('00000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid);
