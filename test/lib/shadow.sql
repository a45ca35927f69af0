--
-- What the tests of shadow mode begin with: a database of their own named
-- :database, the extension, the oracle, a legacy table with three customers.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database;
CREATE DATABASE :database;
\c :database
CREATE EXTENSION ledger;
\set oracle :srcdir '/test/lib/oracle.sql'
\i :oracle
\set alice '''00000000-0000-4000-8000-00000000000a'''
\set bob '''00000000-0000-4000-8000-00000000000b'''
\set carol '''00000000-0000-4000-8000-00000000000c'''
\set dave '''00000000-0000-4000-8000-00000000000d'''

CREATE TABLE public.balances (
	user_id uuid PRIMARY KEY,
	buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0,
	currency varchar(10) NOT NULL DEFAULT 'USD',
	updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO public.balances (user_id, buying_power, pending_deposits) VALUES
	(:alice, 100, 50), (:bob, 0, 20), (:carol, 7.5, 0);

-- what a statement raises, as one line
CREATE FUNCTION public.raises(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	code text;
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN format('%s %s / %s / %s', code, message, detail, hint);
END
$$;

-- the legacy table, short
CREATE VIEW public.legacy AS
	SELECT right(j ->> 'user_id', 1) AS who, trim_scale((j ->> 'buying_power')::numeric) AS buying_power,
		trim_scale((j ->> 'pending_deposits')::numeric) AS pending_deposits
	FROM (SELECT to_jsonb(b) AS j FROM public.balances b) r ORDER BY j ->> 'user_id';
CREATE VIEW public.found AS
	SELECT right(user_id::text, 1) AS who, legacy_column, trim_scale(ledger_value) AS ledger,
		trim_scale(legacy_value) AS legacy, cause, source, count, status, note
	FROM ledger.discrepancies ORDER BY id;
CREATE VIEW public.written AS
	SELECT right(user_id::text, 1) AS who, operation, kind, deltas
	FROM ledger.legacy_writes ORDER BY id;
RESET client_min_messages;
