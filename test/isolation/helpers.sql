/*
 * helpers.sql: what the isolation specs have in common. Loaded by oracle.spec,
 * the first of them. Written without the character that ends a block of a spec.
 */
SET client_min_messages = warning;
SET check_function_bodies = off;

/* The user of that number. */
CREATE OR REPLACE FUNCTION u(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$ SELECT format('00000000-0000-4000-8000-%s', lpad(n::text, 12, '0'))::uuid $$;

/* The reference, order or key of that number. */
CREATE OR REPLACE FUNCTION ref(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$ SELECT format('00000000-0000-4000-8000-ffff%s', lpad(n::text, 8, '0'))::uuid $$;

/*
 * An extension without a history, so that ids are those of the permutation.
 * What a failed permutation has left prepared does not hang the next one.
 */
CREATE OR REPLACE PROCEDURE fresh() LANGUAGE plpgsql AS
$$
BEGIN
	SET LOCAL client_min_messages = warning;
	SET LOCAL lock_timeout = '10s';
	SET LOCAL ledger.allow_drop = on;
	DROP TABLE IF EXISTS public.balances;
	DROP EXTENSION IF EXISTS ledger CASCADE;
	CREATE EXTENSION ledger;
END
$$;

/* The table balances, not attached, with a row for each user and amount. */
CREATE OR REPLACE PROCEDURE balances(VARIADIC pending_deposits numeric[]) LANGUAGE plpgsql AS
$$
BEGIN
	CREATE TABLE public.balances (
		user_id uuid PRIMARY KEY,
		buying_power numeric(36,18) NOT NULL DEFAULT 0,
		pending_deposits numeric(36,18) NOT NULL DEFAULT 0,
		currency varchar(10) NOT NULL DEFAULT 'USD',
		updated_at timestamptz NOT NULL DEFAULT now()
	);
	INSERT INTO public.balances (user_id, pending_deposits)
	SELECT u(n::int), amount FROM unnest(pending_deposits) WITH ORDINALITY AS a (amount, n) WHERE amount IS NOT NULL;
END
$$;

CREATE OR REPLACE PROCEDURE attach() LANGUAGE plpgsql AS
$$
BEGIN
	PERFORM FROM ledger.attach_legacy('public.balances');
	IF NOT EXISTS (SELECT FROM ledger.legacy_mappings) THEN
		RAISE 'not attached: %', (SELECT string_agg(detail, ' ') FROM ledger.legacy_preflight('public.balances') WHERE NOT passed);
	END IF;
END
$$;

CREATE OR REPLACE PROCEDURE shadow(strict boolean) LANGUAGE plpgsql AS
$$
BEGIN
	PERFORM ledger.configure(shadow_mode => true, strict_mode => strict);
END
$$;

/* A deposit for each user and amount; the ids begin with 1 in a fresh ledger. */
CREATE OR REPLACE PROCEDURE deposit(VARIADIC amounts numeric[]) LANGUAGE plpgsql AS
$$
BEGIN
	FOR n IN 1 .. cardinality(amounts) LOOP
		PERFORM ledger.credit_user_usdc(u(n), amounts[n], 'setup');
	END LOOP;
END
$$;

/* The house's accounts of those types get so many stripes. */
CREATE OR REPLACE PROCEDURE stripes(n int, VARIADIC types text[]) LANGUAGE plpgsql AS
$$
DECLARE
	ids bigint[];
BEGIN
	SELECT array_agg(ledger.open_account(o.name, NULL, o.code)) INTO ids
	FROM (SELECT t.name, c.code FROM unnest(types) WITH ORDINALITY AS w (name, ordinal) JOIN ledger.account_types t USING (name)
		  JOIN ledger.currencies c ON c.code = COALESCE(t.currency, c.code) ORDER BY w.ordinal, c.code) o;
	COMMIT;
	PERFORM ledger.set_account_stripes(id, stripes.n, 'test') FROM unnest(ids) AS id;
END
$$;

/* They are one row each, which everybody locks. */
CREATE OR REPLACE PROCEDURE plain(VARIADIC types text[]) LANGUAGE plpgsql AS
$$
BEGIN
	CALL stripes(0, VARIADIC types);
END
$$;

/* A user's usdc_balance account, and a payment from one user to another. */
CREATE OR REPLACE FUNCTION a(n int) RETURNS bigint LANGUAGE sql STABLE AS
$$ SELECT a.id FROM ledger.accounts a WHERE a.user_id = u(n) AND a.account_type = 'usdc_balance' $$;

CREATE OR REPLACE FUNCTION pay(payer int, payee int, amount numeric, key text = NULL) RETURNS bigint LANGUAGE sql VOLATILE AS
$$ SELECT ledger.post('payment', ARRAY[ROW(a(payer), a(payee), amount)::ledger.posting], key) $$;

/* Every account that has been posted to: whose, what, how much. */
CREATE OR REPLACE FUNCTION money() RETURNS TABLE (who text, account text, balance numeric) LANGUAGE sql STABLE AS
$$
	SELECT COALESCE('user ' || ltrim(right(b.user_id::text, 12), '0'), 'house'), b.account_type || ' ' || b.currency, b.balance
	FROM ledger.account_balances b WHERE b.version > 0
	ORDER BY b.user_id, b.account_type, b.currency
$$;

/* A user's postings in the order of their ids, the running balance with them. */
CREATE OR REPLACE FUNCTION history(n int) RETURNS TABLE (transaction_id bigint, account_type text, change numeric, balance_after numeric) LANGUAGE sql STABLE AS
$$
	SELECT e.transaction_id, e.account_type, CASE e.direction WHEN 'credit' THEN e.amount ELSE -e.amount END, e.balance_after
	FROM ledger.entries e WHERE e.user_id = u(n) ORDER BY e.transaction_id, e.ordinal, e.account_type
$$;

/* Stamps that are not in the order of the ids, on some account. */
CREATE OR REPLACE FUNCTION out_of_order() RETURNS TABLE (account_id bigint, transaction_id bigint) LANGUAGE sql STABLE AS
$$
	SELECT o.account_id, o.transaction_id
	FROM (SELECT e.account_id, e.transaction_id, e.created_at,
				 lag(e.created_at) OVER (PARTITION BY e.account_id ORDER BY e.transaction_id, e.ordinal) AS before
		  FROM ledger.entries e) o
	WHERE o.created_at < o.before ORDER BY 1, 2
$$;

/* Legacy row and ledger side by side. */
CREATE OR REPLACE FUNCTION sides() RETURNS TABLE (who text, legacy_column text, ledger numeric, legacy numeric, status text) LANGUAGE sql STABLE AS
$$
	SELECT 'user ' || n, c.legacy_column, c.ledger_value, c.legacy_value, c.status
	FROM generate_series(1, 3) n, LATERAL ledger.compare_balances(u(n)) c
	WHERE c.ledger_value <> 0 OR c.legacy_value <> 0
	ORDER BY n, c.legacy_column
$$;
