--
-- What PUBLIC may do: nothing. What a role without grants gets: 42501.
--
SELECT no_plan();

SELECT ok(NOT has_schema_privilege('public', 'ledger', 'USAGE'), 'PUBLIC may not use the schema');
SELECT ok(NOT has_schema_privilege('public', 'ledger', 'CREATE'), 'nor create in it');
SELECT is_empty($$SELECT c.oid::regclass, p FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p
	WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND has_table_privilege('public', c.oid, p)$$,
	'PUBLIC has no right on any table or view');
SELECT is_empty($$SELECT c.oid::regclass, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
	WHERE c.relnamespace = 'ledger'::regnamespace AND a.attacl IS NOT NULL$$,
	'no column has rights of its own');
SELECT is_empty($$SELECT c.oid::regclass, p FROM pg_class c, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) p
	WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'S' AND has_sequence_privilege('public', c.oid, p)$$,
	'PUBLIC has no right on any sequence');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'ledger'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE')$$,
	'PUBLIC may execute no function');

CREATE ROLE contract_stranger;
SET ROLE contract_stranger;
SELECT throws_ok(s, '42501', NULL, format('a stranger: %s', s))
FROM unnest(ARRAY[
	$$SELECT * FROM ledger.account_balances$$,
	$$SELECT * FROM ledger.entries$$,
	$$SELECT * FROM ledger.transactions$$,
	$$SELECT * FROM ledger.journal$$,
	$$INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance) VALUES ('mine', 'user', 'USD', 'credit', 0)$$,
	$$SELECT nextval('ledger.transaction_id_seq')$$,
	$$SELECT ledger.credit_user_usdc('00000000-0000-4000-8000-0000000000a1', 1, 'mine')$$,
	$$SELECT * FROM ledger.get_user_balance('00000000-0000-4000-8000-0000000000a1')$$,
	$$SELECT ledger.configure(shadow_mode => true)$$]) s;
RESET ROLE;

-- The schema alone opens nothing.
GRANT USAGE ON SCHEMA ledger TO contract_stranger;
SET ROLE contract_stranger;
SELECT throws_ok(s, '42501', NULL, format('with the schema: %s', s))
FROM unnest(ARRAY[
	$$SELECT * FROM ledger.account_balances$$,
	$$SELECT * FROM ledger.accounts$$,
	$$SELECT ledger.credit_user_usdc('00000000-0000-4000-8000-0000000000a1', 1, 'mine')$$,
	$$SELECT ledger.post('mine', ARRAY[ROW(1, 2, 3)::ledger.posting])$$,
	$$SELECT ledger.find_transaction('mine')$$,
	$$SELECT * FROM ledger.get_user_balance('00000000-0000-4000-8000-0000000000a1')$$,
	$$SELECT * FROM ledger.user_history('00000000-0000-4000-8000-0000000000a1')$$]) s;
RESET ROLE;

-- EXECUTE is the whole gate: who may credit needs no right on tables.
GRANT EXECUTE ON FUNCTION ledger.credit_user_usdc TO contract_stranger;
SET ROLE contract_stranger;
SELECT lives_ok($$SELECT ledger.credit_user_usdc('00000000-0000-4000-8000-0000000000a1', 1, 'granted')$$,
	'a role with EXECUTE alone posts');
SELECT throws_ok($$SELECT * FROM ledger.journal$$, '42501', NULL, 'and reads no table');
RESET ROLE;
SELECT is((SELECT t.posted_by FROM ledger.transactions t), 'contract_stranger', 'posted_by is the role that posted');

-- Amounts are in a DETAIL only for a role that may read balances.
GRANT EXECUTE ON FUNCTION ledger.debit_user_usdc TO contract_stranger;
CREATE FUNCTION public.detail_of(call text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	detail text;
BEGIN
	EXECUTE call;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN detail;
END
$$;
SET ROLE contract_stranger;
SELECT is(public.detail_of($$SELECT ledger.debit_user_usdc('00000000-0000-4000-8000-0000000000a1', 5, 'too much')$$), '',
	'no amount in the detail for who may not read balances');
RESET ROLE;
GRANT EXECUTE ON FUNCTION ledger.get_account_balance TO contract_stranger;
SET ROLE contract_stranger;
SELECT is(public.detail_of($$SELECT ledger.debit_user_usdc('00000000-0000-4000-8000-0000000000a1', 5, 'too much')$$),
	'Available is 1.00 USDC, the posting needs 5.00 USDC.', 'the amounts for who may');
RESET ROLE;

DROP OWNED BY contract_stranger;
DROP ROLE contract_stranger;
SELECT * FROM finish();
