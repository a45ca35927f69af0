/*
 * contract.sql: what tests of the contract share.
 *
 * Five people with names, and functions that say in one line what a call
 * raised, what a transaction moved, what somebody has. Names of people stand
 * for their ids in all of them. They are VOLATILE, so as to see what their own
 * statement has posted. Needs an empty ledger; brings the oracle.
 */
SET client_min_messages = warning;
\ir oracle.sql
RESET client_min_messages;

CREATE TABLE public.people (name text PRIMARY KEY, id uuid UNIQUE NOT NULL);
INSERT INTO public.people VALUES
	('alice', '00000000-0000-4000-8000-0000000000a1'),
	('bob', '00000000-0000-4000-8000-0000000000b1'),
	('carol', '00000000-0000-4000-8000-0000000000c1'),
	('dave', '00000000-0000-4000-8000-0000000000d1'),
	('nobody', '00000000-0000-4000-8000-0000000000ff');

\set alice '''00000000-0000-4000-8000-0000000000a1'''
\set bob '''00000000-0000-4000-8000-0000000000b1'''
\set carol '''00000000-0000-4000-8000-0000000000c1'''
\set dave '''00000000-0000-4000-8000-0000000000d1'''
\set nobody '''00000000-0000-4000-8000-0000000000ff'''

/* A uuid for a word, the same each time. */
CREATE FUNCTION public.id(word text) RETURNS uuid
	LANGUAGE sql IMMUTABLE
	RETURN md5(word)::uuid;

/* What a call gives: 00000 and its result, or SQLSTATE, message, detail and hint. */
CREATE FUNCTION public.outcome(call text, OUT code text, OUT message text, OUT detail text, OUT hint text)
	LANGUAGE plpgsql
AS $$
BEGIN
	EXECUTE 'SELECT (' || call || ')::text' INTO message;
	code := '00000';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END
$$;

/* usdc_balance@alice, system_buffer_usdc, fx_clearing/USD */
CREATE FUNCTION public.label(account_id bigint) RETURNS text
	LANGUAGE sql VOLATILE
AS $$
	SELECT a.account_type
		|| CASE WHEN t.currency IS NULL THEN '/' || a.currency ELSE '' END
		|| COALESCE('@' || COALESCE(p.name, a.user_id::text), '')
	FROM ledger.accounts a
	JOIN ledger.account_types t ON t.name = a.account_type
	LEFT JOIN public.people p ON p.id = a.user_id
	WHERE a.id = label.account_id
$$;

/* The postings of a transaction: Dr account Cr account amount currency; ... */
CREATE FUNCTION public.postings(transaction_id bigint) RETURNS text
	LANGUAGE sql VOLATILE
AS $$
	SELECT string_agg(format('Dr %s Cr %s %s %s', public.label(d.account_id), public.label(c.account_id), d.amount, d.currency),
					  '; ' ORDER BY d.ordinal)
	FROM ledger.entries d
	JOIN ledger.entries c ON c.transaction_id = d.transaction_id AND c.ordinal = d.ordinal AND c.direction = 'credit'
	WHERE d.direction = 'debit' AND d.transaction_id = postings.transaction_id
$$;

/* usdc_balance, pending_investment, fiat_exposure of a user */
CREATE FUNCTION public.has(user_id uuid) RETURNS text
	LANGUAGE sql VOLATILE
AS $$
	SELECT concat_ws(' ', b.usdc_balance, b.pending_investment, b.fiat_exposure)
	FROM ledger.get_user_balance(has.user_id) b
$$;

/* amount executed released remaining status */
CREATE FUNCTION public.reserved(order_id uuid) RETURNS text
	LANGUAGE sql VOLATILE
AS $$
	SELECT concat_ws(' ', r.amount, r.executed, r.released, r.remaining, r.status)
	FROM ledger.reservations r WHERE r.order_id = reserved.order_id
$$;
CREATE FUNCTION public.reserved(reservation_id bigint) RETURNS text
	LANGUAGE sql VOLATILE
AS $$
	SELECT concat_ws(' ', r.amount, r.executed, r.released, r.remaining, r.status)
	FROM ledger.reservations r WHERE r.id = reserved.reservation_id
$$;

/* The balance of a house account. */
CREATE FUNCTION public.house(account_type text, currency text = NULL) RETURNS numeric
	LANGUAGE sql VOLATILE
AS $$
	SELECT b.balance FROM ledger.account_balances b
	WHERE b.user_id IS NULL AND b.account_type = house.account_type
	  AND b.currency = COALESCE(house.currency, b.currency)
$$;

/* How many rows each table has; what nothing may change but a posting. */
CREATE FUNCTION public.counts() RETURNS text
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	relation regclass;
	n bigint;
	counted text := '';
BEGIN
	FOR relation IN
		SELECT c.oid FROM pg_class c
		WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'r'
		ORDER BY c.relname
	LOOP
		EXECUTE format('SELECT count(*) FROM %s', relation) INTO n;
		counted := counted || format('%s %s, ', relation, n);
	END LOOP;
	RETURN counted;
END
$$;
