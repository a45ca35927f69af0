-- Customers who have money, in a legacy table to which the extension is attached.
--
-- The user of number n (:first to :last, 12 digits each) has the id '00000000-0000-4000-8000-' || n:
-- a pgbench variable, which cannot hold a uuid, makes one by a single concatenation, and all sides of
-- all ratios do it so.
CREATE EXTENSION ledger;
CREATE TABLE balances (
	user_id uuid PRIMARY KEY,
	buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0,
	currency varchar(10) NOT NULL DEFAULT 'USD',
	updated_at timestamptz NOT NULL DEFAULT now()
);
-- the legacy side of the comparison has its own, without the capture trigger
CREATE TABLE legacy_balances (LIKE balances INCLUDING ALL);
INSERT INTO balances (user_id, buying_power, pending_deposits)
SELECT ('00000000-0000-4000-8000-' || n)::uuid, 1000000, 1000000000
FROM generate_series(:first, :last) n;
INSERT INTO legacy_balances SELECT * FROM balances;

-- post() takes ids of accounts: they are opened in the users' order before anything else, so that
-- the account of user n is :base + n.
SELECT ledger.open_account('system_buffer_usdc');
SELECT count(ledger.open_account('usdc_balance', user_id)) FROM (SELECT user_id FROM balances ORDER BY user_id) b;
CREATE FUNCTION user_accounts_base(first bigint, last bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	base bigint := min(id) - first FROM ledger.accounts WHERE account_type = 'usdc_balance';
BEGIN
	IF EXISTS (SELECT FROM ledger.accounts WHERE account_type = 'usdc_balance'
		AND user_id <> ('00000000-0000-4000-8000-' || id - base)::uuid) THEN
		RAISE 'the users'' accounts are not in the users'' order';
	END IF;
	RETURN base;
END
$$;

-- Every user is opened, and mirrored, before anything is timed.
SELECT * FROM ledger.attach_legacy('balances');
SELECT ledger.configure(shadow_mode => true, reason => 'bench');
SELECT count(ledger.credit_user_usdc(user_id, 1, 'opening')) FROM balances;
