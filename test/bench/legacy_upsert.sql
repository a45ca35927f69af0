\set n random(1, :users)
INSERT INTO legacy_balances (user_id, pending_deposits, updated_at) VALUES (('00000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid, 1.25, now()) ON CONFLICT (user_id) DO UPDATE SET pending_deposits = legacy_balances.pending_deposits + EXCLUDED.pending_deposits, updated_at = EXCLUDED.updated_at;
