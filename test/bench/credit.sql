\set n random(1, :users)
SELECT ledger.credit_user_usdc(('00000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid, 1.25, 'bench', gen_random_uuid());
