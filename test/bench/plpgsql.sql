-- A competent engineer's ledger in PL/pgSQL, the peer that the bench compares
-- with: transaction, two entries, two balance updates in id order, mirror, key;
-- transfers between accounts by id; reservations.
CREATE SCHEMA peer;
CREATE TABLE peer.accounts (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	user_id uuid,
	account_type text NOT NULL,
	debit_normal boolean NOT NULL DEFAULT false,
	balance numeric NOT NULL DEFAULT 0,
	version bigint NOT NULL DEFAULT 0,
	UNIQUE NULLS NOT DISTINCT (user_id, account_type)
) WITH (fillfactor = 70);
CREATE TABLE peer.transactions (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	type text NOT NULL,
	user_id uuid,
	idempotency_key text UNIQUE,
	description text,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE peer.entries (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	transaction_id bigint NOT NULL REFERENCES peer.transactions,
	account_id bigint NOT NULL REFERENCES peer.accounts,
	direction text NOT NULL CHECK (direction IN ('debit', 'credit')),
	amount numeric NOT NULL CHECK (amount > 0),
	balance_after numeric NOT NULL,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON peer.entries (transaction_id);
CREATE INDEX ON peer.entries (account_id, id);
CREATE TABLE peer.reservations (
	id bigint PRIMARY KEY REFERENCES peer.transactions,
	user_id uuid NOT NULL,
	order_id uuid NOT NULL UNIQUE,
	amount numeric NOT NULL CHECK (amount > 0),
	executed numeric NOT NULL DEFAULT 0 CHECK (executed <= amount),
	created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE peer.balances (LIKE balances INCLUDING ALL);

CREATE FUNCTION peer.account(p_user uuid, p_type text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	v_id bigint;
BEGIN
	SELECT id INTO v_id FROM peer.accounts
	WHERE user_id IS NOT DISTINCT FROM p_user AND account_type = p_type;
	IF NOT FOUND THEN
		INSERT INTO peer.accounts (user_id, account_type) VALUES (p_user, p_type)
		ON CONFLICT DO NOTHING;
		SELECT id INTO v_id FROM peer.accounts
		WHERE user_id IS NOT DISTINCT FROM p_user AND account_type = p_type;
	END IF;
	RETURN v_id;
END
$$;

-- p_mirror: the legacy row of the user grows by the amount as well.
CREATE FUNCTION peer.credit(p_user uuid, p_amount numeric, p_description text, p_key text,
	p_mirror boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	v_house bigint;
	v_user bigint;
	v_transaction bigint;
	v_house_balance numeric;
	v_user_balance numeric;
BEGIN
	IF p_amount IS NULL OR p_amount <= 0 OR p_amount IN ('NaN', 'Infinity') THEN
		RAISE EXCEPTION 'invalid amount %', p_amount;
	END IF;
	INSERT INTO peer.transactions (type, user_id, idempotency_key, description)
	VALUES ('deposit', p_user, p_key, p_description)
	ON CONFLICT (idempotency_key) DO NOTHING
	RETURNING id INTO v_transaction;
	IF v_transaction IS NULL THEN
		SELECT id INTO v_transaction FROM peer.transactions WHERE idempotency_key = p_key;
		RETURN v_transaction;
	END IF;
	SELECT id INTO v_house FROM peer.accounts WHERE user_id IS NULL AND account_type = 'system_buffer_usdc';
	IF NOT FOUND THEN
		v_house := peer.account(NULL, 'system_buffer_usdc');
	END IF;
	SELECT id INTO v_user FROM peer.accounts WHERE user_id = p_user AND account_type = 'usdc_balance';
	IF NOT FOUND THEN
		v_user := peer.account(p_user, 'usdc_balance');
	END IF;
	IF v_house < v_user THEN
		UPDATE peer.accounts SET balance = balance + p_amount, version = version + 1
		WHERE id = v_house RETURNING balance INTO v_house_balance;
		UPDATE peer.accounts SET balance = balance + p_amount, version = version + 1
		WHERE id = v_user RETURNING balance INTO v_user_balance;
	ELSE
		UPDATE peer.accounts SET balance = balance + p_amount, version = version + 1
		WHERE id = v_user RETURNING balance INTO v_user_balance;
		UPDATE peer.accounts SET balance = balance + p_amount, version = version + 1
		WHERE id = v_house RETURNING balance INTO v_house_balance;
	END IF;
	INSERT INTO peer.entries (transaction_id, account_id, direction, amount, balance_after)
	VALUES (v_transaction, v_house, 'debit', p_amount, v_house_balance),
		   (v_transaction, v_user, 'credit', p_amount, v_user_balance);
	IF p_mirror THEN
		INSERT INTO peer.balances (user_id, pending_deposits, updated_at)
		VALUES (p_user, p_amount, now())
		ON CONFLICT (user_id) DO UPDATE
		SET pending_deposits = balances.pending_deposits + EXCLUDED.pending_deposits,
			updated_at = EXCLUDED.updated_at;
	END IF;
	RETURN v_transaction;
END
$$;

-- Between two accounts by id; which way a balance goes is the account's normal side.
CREATE FUNCTION peer.post(p_type text, p_debit bigint, p_credit bigint, p_amount numeric,
	p_description text, p_key text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	v_transaction bigint;
	v_debit_balance numeric;
	v_credit_balance numeric;
BEGIN
	IF p_amount IS NULL OR p_amount <= 0 OR p_amount IN ('NaN', 'Infinity') THEN
		RAISE EXCEPTION 'invalid amount %', p_amount;
	END IF;
	INSERT INTO peer.transactions (type, idempotency_key, description)
	VALUES (p_type, p_key, p_description)
	ON CONFLICT (idempotency_key) DO NOTHING
	RETURNING id INTO v_transaction;
	IF v_transaction IS NULL THEN
		SELECT id INTO v_transaction FROM peer.transactions WHERE idempotency_key = p_key;
		RETURN v_transaction;
	END IF;
	IF p_debit < p_credit THEN
		UPDATE peer.accounts SET balance = balance + CASE WHEN debit_normal THEN p_amount ELSE -p_amount END,
			version = version + 1 WHERE id = p_debit RETURNING balance INTO v_debit_balance;
		UPDATE peer.accounts SET balance = balance + CASE WHEN debit_normal THEN -p_amount ELSE p_amount END,
			version = version + 1 WHERE id = p_credit RETURNING balance INTO v_credit_balance;
	ELSE
		UPDATE peer.accounts SET balance = balance + CASE WHEN debit_normal THEN -p_amount ELSE p_amount END,
			version = version + 1 WHERE id = p_credit RETURNING balance INTO v_credit_balance;
		UPDATE peer.accounts SET balance = balance + CASE WHEN debit_normal THEN p_amount ELSE -p_amount END,
			version = version + 1 WHERE id = p_debit RETURNING balance INTO v_debit_balance;
	END IF;
	-- a user's balance stays above zero; not by a CHECK, which every credit would pay for as well
	IF (v_debit_balance < 0 OR v_credit_balance < 0) AND EXISTS (SELECT FROM peer.accounts
		WHERE id IN (p_debit, p_credit) AND user_id IS NOT NULL AND balance < 0) THEN
		RAISE EXCEPTION 'insufficient funds';
	END IF;
	INSERT INTO peer.entries (transaction_id, account_id, direction, amount, balance_after)
	VALUES (v_transaction, p_debit, 'debit', p_amount, v_debit_balance),
		   (v_transaction, p_credit, 'credit', p_amount, v_credit_balance);
	RETURN v_transaction;
END
$$;

CREATE FUNCTION peer.reserve(p_user uuid, p_amount numeric, p_order uuid) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	v_key text := 'reserve:order:' || p_order;
	v_usdc bigint;
	v_pending bigint;
	v_transaction bigint;
BEGIN
	SELECT id INTO v_usdc FROM peer.accounts WHERE user_id = p_user AND account_type = 'usdc_balance';
	SELECT id INTO v_pending FROM peer.accounts WHERE user_id = p_user AND account_type = 'pending_investment';
	IF v_pending IS NULL THEN
		v_pending := peer.account(p_user, 'pending_investment');
	END IF;
	SELECT id INTO v_transaction FROM peer.transactions WHERE idempotency_key = v_key;
	IF FOUND THEN
		RETURN v_transaction;
	END IF;
	v_transaction := peer.post('internal_transfer', v_usdc, v_pending, p_amount, NULL, v_key);
	INSERT INTO peer.reservations (id, user_id, order_id, amount)
	VALUES (v_transaction, p_user, p_order, p_amount)
	ON CONFLICT DO NOTHING;
	RETURN v_transaction;
END
$$;

-- USDC out of the reservation, USD to the user's exposure, through the clearing account of each.
CREATE FUNCTION peer.execute(p_user uuid, p_amount numeric, p_order uuid, p_mirror boolean) RETURNS bigint
	LANGUAGE plpgsql AS $$
DECLARE
	v_accounts bigint[];
	v_pending bigint;
	v_exposure bigint;
	v_clearing_usdc bigint;
	v_clearing_usd bigint;
	v_transaction bigint;
	v_pending_after numeric;
	v_exposure_after numeric;
	v_usdc_after numeric;
	v_usd_after numeric;
BEGIN
	IF p_amount IS NULL OR p_amount <= 0 OR p_amount IN ('NaN', 'Infinity') THEN
		RAISE EXCEPTION 'invalid amount %', p_amount;
	END IF;
	INSERT INTO peer.transactions (type, user_id, idempotency_key)
	VALUES ('investment', p_user, 'execute:' || p_order)
	ON CONFLICT (idempotency_key) DO NOTHING
	RETURNING id INTO v_transaction;
	IF v_transaction IS NULL THEN
		SELECT id INTO v_transaction FROM peer.transactions WHERE idempotency_key = 'execute:' || p_order;
		RETURN v_transaction;
	END IF;
	SELECT id INTO v_pending FROM peer.accounts WHERE user_id = p_user AND account_type = 'pending_investment';
	SELECT id INTO v_exposure FROM peer.accounts WHERE user_id = p_user AND account_type = 'fiat_exposure';
	IF v_exposure IS NULL THEN
		v_exposure := peer.account(p_user, 'fiat_exposure');
	END IF;
	SELECT id INTO v_clearing_usdc FROM peer.accounts
	WHERE user_id IS NULL AND account_type = 'fx_clearing_usdc';
	SELECT id INTO v_clearing_usd FROM peer.accounts
	WHERE user_id IS NULL AND account_type = 'fx_clearing_usd';
	v_accounts := ARRAY[v_pending, v_exposure, v_clearing_usdc, v_clearing_usd];
	PERFORM FROM peer.accounts WHERE id = ANY (v_accounts) ORDER BY id FOR NO KEY UPDATE;
	UPDATE peer.reservations SET executed = executed + p_amount
	WHERE order_id = p_order AND user_id = p_user;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'no reservation for order %', p_order;
	END IF;
	UPDATE peer.accounts SET balance = balance - p_amount, version = version + 1
	WHERE id = v_pending RETURNING balance INTO v_pending_after;
	UPDATE peer.accounts SET balance = balance + p_amount, version = version + 1
	WHERE id = v_exposure RETURNING balance INTO v_exposure_after;
	UPDATE peer.accounts SET balance = balance + p_amount, version = version + 1
	WHERE id = v_clearing_usdc RETURNING balance INTO v_usdc_after;
	UPDATE peer.accounts SET balance = balance - p_amount, version = version + 1
	WHERE id = v_clearing_usd RETURNING balance INTO v_usd_after;
	INSERT INTO peer.entries (transaction_id, account_id, direction, amount, balance_after)
	VALUES (v_transaction, v_pending, 'debit', p_amount, v_pending_after),
		   (v_transaction, v_clearing_usdc, 'credit', p_amount, v_usdc_after),
		   (v_transaction, v_clearing_usd, 'debit', p_amount, v_usd_after),
		   (v_transaction, v_exposure, 'credit', p_amount, v_exposure_after);
	IF p_mirror THEN
		UPDATE peer.balances SET pending_deposits = pending_deposits - p_amount,
			buying_power = buying_power + p_amount, updated_at = now()
		WHERE user_id = p_user;
	END IF;
	RETURN v_transaction;
END
$$;

-- The house, then every user in order, as in setup.sql, with the money he has there.
INSERT INTO peer.balances SELECT * FROM balances;
INSERT INTO peer.accounts (account_type, debit_normal) VALUES ('system_buffer_usdc', true),
	('fx_clearing_usdc', false), ('fx_clearing_usd', false);
INSERT INTO peer.accounts (user_id, account_type, balance)
SELECT user_id, 'usdc_balance', pending_deposits FROM balances ORDER BY user_id;
-- His other accounts too, in which the first reservation would open one otherwise.
INSERT INTO peer.accounts (user_id, account_type, balance)
SELECT user_id, 'pending_investment', 0 FROM balances UNION ALL
SELECT user_id, 'fiat_exposure', buying_power FROM balances;
-- An opening of each, as in the ledger.  Without a history the first plan of a foreign key's check is
-- a scan of a table that is still empty, and a session keeps it while the table grows: that would
-- make the peer's postings several times slower than they are in any real use.
INSERT INTO peer.transactions (type, user_id, idempotency_key, description)
SELECT 'opening', user_id, 'opening:' || user_id, 'opening' FROM peer.balances ORDER BY user_id;
INSERT INTO peer.entries (transaction_id, account_id, direction, amount, balance_after)
SELECT t.id, s.account_id, s.direction, a.balance, a.balance
FROM peer.transactions t
JOIN peer.accounts a ON a.user_id = t.user_id AND a.account_type = 'usdc_balance'
JOIN peer.accounts h ON h.account_type = 'system_buffer_usdc',
LATERAL (VALUES (h.id, 'debit'), (a.id, 'credit')) s (account_id, direction)
ORDER BY t.id;
