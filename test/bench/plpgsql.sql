-- A competent engineer's ledger in PL/pgSQL, the peer that the bench compares
-- with: transaction, two entries, two balance updates in id order, mirror, key.
CREATE SCHEMA peer;
CREATE TABLE peer.accounts (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	user_id uuid,
	account_type text NOT NULL,
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
		INSERT INTO legacy_balances (user_id, pending_deposits, updated_at)
		VALUES (p_user, p_amount, now())
		ON CONFLICT (user_id) DO UPDATE
		SET pending_deposits = legacy_balances.pending_deposits + EXCLUDED.pending_deposits,
			updated_at = EXCLUDED.updated_at;
	END IF;
	RETURN v_transaction;
END
$$;
