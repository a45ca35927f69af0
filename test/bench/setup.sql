-- Customers who have money, and the extension attached to their table.
CREATE EXTENSION ledger;
CREATE TABLE balances (
	user_id uuid PRIMARY KEY,
	buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0,
	currency varchar(10) NOT NULL DEFAULT 'USD',
	updated_at timestamptz NOT NULL DEFAULT now()
);
-- the same for the legacy side of the comparison, without the capture trigger
CREATE TABLE legacy_balances (LIKE balances INCLUDING ALL);
INSERT INTO balances (user_id, buying_power, pending_deposits)
SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, n % 1000, n % 100
FROM generate_series(1, :users) n;
INSERT INTO legacy_balances SELECT * FROM balances;
SELECT * FROM ledger.attach_legacy('balances');
-- every user is opened, and mirrored, before anything is timed
SELECT ledger.configure(shadow_mode => true, reason => 'bench');
SELECT count(ledger.credit_user_usdc(user_id, 1, 'opening')) FROM balances;
VACUUM ANALYZE;
