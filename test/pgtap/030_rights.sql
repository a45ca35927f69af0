--
-- What PUBLIC may do: nothing. What a role without grants gets: 42501.
--
SELECT no_plan();

CREATE TABLE public.batch_items AS SELECT ARRAY(
	SELECT ROW('mine', NULL, NULL, n, NULL, '00000000-0000-4000-8000-0000000000a1', 'system_buffer_usdc', 'usdc_balance', NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer
	FROM generate_series(1, 2) n) AS items;

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
-- Batches: a writer posts them, by the function and by the table; a reader does not.
CREATE ROLE contract_reader;
CREATE ROLE contract_writer;
SELECT ledger.grant_access('contract_reader', 'reader');
SELECT ledger.grant_access('contract_writer', 'writer');
GRANT SELECT ON public.batch_items TO contract_reader, contract_writer;
SET ROLE contract_reader;
SELECT throws_ok($$SELECT * FROM ledger.post_batch((SELECT items FROM public.batch_items))$$, '42501', NULL, 'a reader posts no batch');
SELECT throws_ok($$INSERT INTO ledger.inbox (type, amount, user_id, debit_type, credit_type) VALUES ('mine', 1, '00000000-0000-4000-8000-0000000000a1', 'system_buffer_usdc', 'usdc_balance')$$,
	'42501', NULL, 'and inserts nothing into the inbox');
SELECT throws_ok($$SELECT * FROM ledger.inbox_results$$, '42501', NULL, 'nor reads what became of others');
RESET ROLE;
SET ROLE contract_writer;
SELECT results_eq($$SELECT result FROM ledger.post_batch((SELECT items FROM public.batch_items))$$, ARRAY['posted', 'posted'], 'a writer posts a batch');
SELECT lives_ok($$INSERT INTO ledger.inbox (type, amount, user_id, debit_type, credit_type) VALUES ('mine', 1, '00000000-0000-4000-8000-0000000000a1', 'system_buffer_usdc', 'usdc_balance')$$,
	'and by the inbox');
SELECT throws_ok($$SELECT * FROM ledger.inbox$$, '42501', NULL, 'which he cannot read');
SELECT lives_ok($$SELECT * FROM ledger.inbox_results$$, 'but what was not posted');
SELECT throws_ok($$DELETE FROM ledger.inbox_results$$, '42501', NULL, 'not delete it');
RESET ROLE;
SELECT is((SELECT array_agg(DISTINCT t.posted_by) FROM ledger.transactions t WHERE t.type = 'mine'), ARRAY['contract_writer'], 'posted_by is the role that posted them');

SELECT * FROM finish();
