--
-- Bad input for every function and argument: the documented SQLSTATE, and after
-- each call every table as it was before. A call that gives another code than
-- it should stops the test.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database ledger_bad_input
\set fresh :srcdir '/test/lib/fresh.sql'
\set done :srcdir '/test/lib/done.sql'
\i :fresh
\set ECHO all

-- Somebody with money everywhere, an order, a legacy table that is not attached.
SELECT count(ledger.credit_user_usdc(u, 1000, 'deposit', public.id('d' || u))) FROM unnest(ARRAY[:alice, :bob]::uuid[]) u;
SELECT ledger.reserve_for_investment(:alice, 300, public.id('o1')) > 0 AS posted;
SELECT ledger.reserve_for_investment(:alice, 50) > 0 AS posted;
SELECT ledger.execute_investment(:alice, 100, public.id('o1'), 'x1') > 0 AS posted;
SELECT ledger.record_broker_account('{"id": "a1", "status": "ACTIVE", "currency": "USD", "cash": "1", "equity": "2"}', :alice) AS recorded;
CREATE TABLE public.balances (user_id uuid PRIMARY KEY, buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0, currency varchar(10) DEFAULT 'USD', updated_at timestamptz DEFAULT now());
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_ledger_bad_input;
RESET client_min_messages;
CREATE ROLE regress_ledger_bad_input;

-- Every function with arguments that are right; what is wrong with one of them
-- is by its kind.
CREATE TABLE public.arguments (function text, place int, name text, valid text, kind text, PRIMARY KEY (function, place));
INSERT INTO public.arguments
SELECT f.function, a.place, a.name, a.valid, a.kind
FROM (VALUES
	('credit_user_usdc', ARRAY['user_id', 'amount', 'description', 'reference_id', 'reference_type'],
	 ARRAY['alice', '1.5', '''words''', 'id(''new'')', '''bonus'''], ARRAY['user', 'amount', 'words', 'uuid', 'name']),
	('debit_user_usdc', ARRAY['user_id', 'amount', 'description', 'reference_id', 'reference_type'],
	 ARRAY['alice', '1.5', '''words''', 'id(''new'')', '''bonus'''], ARRAY['payer', 'amount', 'words', 'uuid', 'name']),
	('move_funds_to_fiat_exposure', ARRAY['user_id', 'amount', 'description', 'reference_id'],
	 ARRAY['alice', '1.5', '''words''', 'id(''new'')'], ARRAY['payer', 'amount', 'words', 'uuid']),
	('move_funds_to_usdc', ARRAY['user_id', 'amount', 'description', 'reference_id'],
	 ARRAY['alice', '1.5', '''words''', 'id(''new'')'], ARRAY['payer', 'amount', 'words', 'uuid']),
	('reserve_for_investment', ARRAY['user_id', 'amount', 'order_id', 'expires_at'],
	 ARRAY['alice', '1.5', 'id(''new'')', 'now()'], ARRAY['payer', 'amount', 'uuid', 'time']),
	('release_reservation', ARRAY['user_id', 'amount', 'order_id', 'release_id'],
	 ARRAY['alice', '1.5', 'id(''o1'')', '''l1'''], ARRAY['owner', 'amount or null', 'order or null', 'name']),
	('execute_investment', ARRAY['user_id', 'amount', 'order_id', 'fill_id'],
	 ARRAY['alice', '1.5', 'id(''o1'')', '''x2'''], ARRAY['owner', 'amount', 'order', 'name']),
	('settle_sale', ARRAY['user_id', 'cost', 'proceeds', 'order_id', 'fill_id'],
	 ARRAY['alice', '1.5', '1', 'id(''o1'')', '''s1'''], ARRAY['payer', 'amount', 'amount', 'required uuid', 'name']),
	('convert_buffer', ARRAY['from_type', 'to_type', 'amount', 'received', 'reference_id'],
	 ARRAY['''system_buffer_usdc''', '''system_buffer_fiat''', '1.5', '1', 'id(''new'')'], ARRAY['buffer', 'buffer', 'amount', 'amount or null', 'uuid']),
	('fund_broker', ARRAY['amount', 'reference_id'], ARRAY['1.5', 'id(''new'')'], ARRAY['amount', 'uuid']),
	('replenish_buffer', ARRAY['account_type', 'amount', 'reference_id'],
	 ARRAY['''system_buffer_fiat''', '1.5', 'id(''new'')'], ARRAY['buffer', 'amount', 'uuid']),
	('open_house_balance', ARRAY['account_type', 'currency', 'amount', 'reason'],
	 ARRAY['''broker_operational''', '''USD''', '1.5', '''words'''], ARRAY['house type', 'currency', 'amount', 'reason']),
	('reverse_transaction', ARRAY['transaction_id', 'reason', 'amount', 'reference_id'],
	 ARRAY['find_transaction(''credit_user_usdc:deposit:'' || id(''d'' || bob))', '''words''', '1.5', 'id(''new'')'], ARRAY['transaction', 'reason', 'amount or null', 'uuid of a part']),
	('post', ARRAY['type', 'postings', 'idempotency_key', 'user_id', 'reference_id', 'reference_type', 'description', 'metadata', 'effective_at'],
	 ARRAY['''gift''', 'ARRAY[ROW(open_account(''usdc_balance'', alice), open_account(''usdc_balance'', bob), 1.5)::posting]', '''k1''', 'alice', 'id(''new'')', '''card''', '''words''', '''{"a": 1}''', 'now()'],
	 ARRAY['required name', 'postings', 'key', 'uuid', 'uuid', 'name', 'words or null', 'json', 'time']),
	('open_account', ARRAY['account_type', 'user_id', 'currency'],
	 ARRAY['''usdc_balance''', 'alice', '''USDC'''], ARRAY['type', 'required uuid', 'currency or null']),
	('set_account_status', ARRAY['account_id', 'status', 'reason'],
	 ARRAY['open_account(''fiat_exposure'', alice)', '''frozen''', '''words'''], ARRAY['account', 'status', 'reason']),
	('set_account_limit', ARRAY['account_id', 'min_balance', 'reason'],
	 ARRAY['open_account(''fiat_exposure'', alice)', '5', '''words'''], ARRAY['account', 'limit', 'reason']),
	('set_account_stripes', ARRAY['account_id', 'stripes', 'reason', 'lock_wait'],
	 ARRAY['open_account(''system_buffer_usdc'')', '5', '''words''', '''1 s'''], ARRAY['account', 'stripes', 'reason', 'wait']),
	('expire_reservations', ARRAY['max_count'], ARRAY['10'], ARRAY['count']),
	('find_transaction', ARRAY['idempotency_key'], ARRAY['''k1'''], ARRAY['required key']),
	('get_user_balance', ARRAY['user_id'], ARRAY['alice'], ARRAY['user']),
	('get_balance', ARRAY['user_id'], ARRAY['alice'], ARRAY['user']),
	('get_detailed_balance', ARRAY['user_id', 'alpaca_account_id'], ARRAY['alice', '''a1'''], ARRAY['user', 'broker account']),
	('get_account_balance', ARRAY['user_id', 'account_type'], ARRAY['alice', '''usdc_balance'''], ARRAY['user', 'type of a user']),
	('check_available_balance', ARRAY['user_id', 'amount', 'account_type'], ARRAY['alice', '1.5', '''usdc_balance'''], ARRAY['user', 'amount', 'type of a user']),
	('user_history', ARRAY['user_id', 'since', 'until', 'max_rows'],
	 ARRAY['alice', 'now() - interval ''1 day''', 'now()', '10'], ARRAY['user', 'any time', 'any time', 'count']),
	('record_broker_account', ARRAY['account', 'user_id'],
	 ARRAY['''{"id": "a2", "status": "ACTIVE", "currency": "USD", "cash": "1", "equity": "2"}''', 'alice'], ARRAY['object', 'user']),
	('record_broker_positions', ARRAY['account_id', 'positions'], ARRAY['''a1''', '''[]'''], ARRAY['required broker account', 'array']),
	('configure', ARRAY['shadow_mode', 'strict_mode', 'balance_source', 'reason', 'lock_wait'],
	 ARRAY['true', 'true', '''ledger''', '''words''', '''1 s'''], ARRAY['boolean', 'boolean', 'source', 'words or null', 'wait']),
	('attach_legacy', ARRAY['legacy', 'mapping', 'key_column', 'capture', 'key_functions'],
	 ARRAY['''public.balances''', 'NULL', '''user_id''', '''record''', 'NULL'], ARRAY['table', 'mapping', 'column', 'capture', 'functions']),
	('legacy_preflight', ARRAY['legacy', 'mapping', 'key_column', 'capture', 'key_functions'],
	 ARRAY['''public.balances''', 'NULL', '''user_id''', '''record''', 'NULL'], ARRAY['table', 'mapping', 'column', 'capture', 'functions']),
	('compare_balances', ARRAY['user_id'], ARRAY['alice'], ARRAY['user']),
	('explain_discrepancy', ARRAY['user_id'], ARRAY['alice'], ARRAY['user']),
	('reconcile', ARRAY['tolerance', 'scope'], ARRAY['0.01', '''full'''], ARRAY['tolerance', 'scope']),
	('run_reconciliation', ARRAY['scope', 'tolerance'], ARRAY['''full''', '0.01'], ARRAY['scope', 'tolerance']),
	('repair', ARRAY['user_id', 'direction', 'dry_run', 'max_rows', 'max_amount', 'reason'],
	 ARRAY['alice', '''legacy''', 'false', '1', '1', '''words'''], ARRAY['uuid', 'direction', 'required boolean', 'bound', 'bound', 'reason of a repair']),
	('grant_access', ARRAY['role', 'level'], ARRAY['''regress_ledger_bad_input''', '''reader'''], ARRAY['role', 'level']),
	('revoke_access', ARRAY['role'], ARRAY['''regress_ledger_bad_input'''], ARRAY['role'])
) AS f (function, names, valids, kinds)
CROSS JOIN LATERAL unnest(f.names, f.valids, f.kinds) WITH ORDINALITY AS a (name, valid, kind, place);

-- What is wrong with each kind, and the code that says so.
CREATE TABLE public.bad (kind text, value text, code text, PRIMARY KEY (kind, value));
INSERT INTO public.bad
SELECT k, b.value, b.code
FROM (VALUES
	(ARRAY['amount', 'amount or null'], '0', 'LG009'),
	(ARRAY['amount', 'amount or null'], '-0.000000000000000001', 'LG009'),
	(ARRAY['amount', 'amount or null'], '-1', 'LG009'),
	(ARRAY['amount', 'amount or null'], '''NaN''', 'LG009'),
	(ARRAY['amount', 'amount or null'], '''Infinity''', 'LG009'),
	(ARRAY['amount', 'amount or null'], '''-Infinity''', 'LG009'),
	(ARRAY['amount', 'amount or null'], '1e40', 'LG009'),
	(ARRAY['amount', 'amount or null'], '1e131071', 'LG009'),
	(ARRAY['amount', 'amount or null'], '100000000000000000000', 'LG009'),
	(ARRAY['amount', 'amount or null'], '1e-19', 'LG009'),
	(ARRAY['amount', 'amount or null'], '1.0000000000000000000000000000000000000001', 'LG009'),
	(ARRAY['amount', 'amount or null'], '1e-16383', 'LG009'),
	(ARRAY['amount', 'amount or null'], '''ten''', '22P02'),
	(ARRAY['amount'], 'NULL', 'LG009'),
	(ARRAY['user', 'payer', 'owner', 'order', 'required uuid'], 'NULL', '22004'),
	(ARRAY['user', 'payer', 'owner', 'order', 'order or null', 'required uuid', 'uuid'], '''''', '22P02'),
	(ARRAY['user', 'payer', 'owner', 'order', 'order or null', 'required uuid', 'uuid'], '''alice''', '22P02'),
	(ARRAY['payer'], 'nobody', 'LG001'),
	(ARRAY['owner'], 'bob', 'LG008'),
	(ARRAY['owner'], 'nobody', 'LG008'),
	(ARRAY['uuid of a part'], 'NULL', '22004'),
	(ARRAY['words', 'reason', 'reason of a repair', 'reason of a capture'], 'NULL', '22004'),
	(ARRAY['words', 'words or null', 'reason', 'reason of a repair', 'reason of a capture'], 'long', '22001'),
	(ARRAY['words', 'words or null', 'reason', 'reason of a repair', 'reason of a capture'], 'repeat(''x'', 4097)', '22001'),
	(ARRAY['reason'], '''''', '22023'),
	(ARRAY['required name', 'type', 'type of a user', 'house type', 'buffer', 'currency', 'status', 'required key'], 'NULL', '22004'),
	(ARRAY['name', 'required name', 'type', 'type of a user', 'house type', 'buffer', 'currency', 'currency or null', 'status', 'key', 'required key'], '''''', '22023'),
	(ARRAY['name', 'required name', 'type', 'type of a user', 'house type', 'buffer', 'currency', 'currency or null', 'status', 'key', 'required key'], 'long', '22001'),
	(ARRAY['key', 'required key'], 'repeat(''x'', 513)', '22001'),
	(ARRAY['required name'], 'repeat(''x'', 64)', '22001'),
	(ARRAY['type', 'type of a user', 'house type', 'buffer'], '''nonsense''', 'LG010'),
	(ARRAY['type', 'type of a user', 'house type', 'buffer'], '''USDC_BALANCE''', 'LG010'),
	(ARRAY['house type', 'buffer'], '''usdc_balance''', 'LG010'),
	(ARRAY['buffer'], '''house_equity''', 'LG010'),
	(ARRAY['type', 'type of a user'], '''house_equity''', 'LG010'),
	(ARRAY['currency', 'currency or null'], '''EUR''', 'LG010'),
	(ARRAY['currency', 'currency or null'], '''usd''', 'LG010'),
	(ARRAY['transaction', 'account'], 'NULL', '22004'),
	(ARRAY['transaction'], '0', 'LG011'),
	(ARRAY['transaction'], '-1', 'LG011'),
	(ARRAY['transaction'], '9223372036854775807', 'LG011'),
	(ARRAY['transaction', 'account'], '''9223372036854775808''', '22003'),
	(ARRAY['account'], '0', 'LG010'),
	(ARRAY['account'], '9223372036854775807', 'LG010'),
	(ARRAY['status'], '''gone''', '22023'),
	(ARRAY['limit'], '''NaN''', 'LG009'),
	(ARRAY['limit'], '''Infinity''', 'LG009'),
	(ARRAY['limit'], '-1', 'LG009'),
	(ARRAY['stripes'], 'NULL', '22004'),
	(ARRAY['stripes'], '-1', '22023'),
	(ARRAY['stripes'], '1025', '22023'),
	(ARRAY['stripes'], '2147483648', '42883'),
	(ARRAY['time'], '''infinity''', '22023'),
	(ARRAY['time'], '''-infinity''', '22023'),
	(ARRAY['time', 'any time'], '''soon''', '22007'),
	(ARRAY['count'], 'NULL', '22004'),
	(ARRAY['count'], '0', '22023'),
	(ARRAY['count'], '-1', '22023'),
	(ARRAY['json', 'object', 'array', 'mapping'], '''{"a": ''', '22P02'),
	(ARRAY['json', 'object', 'array', 'mapping'], '''''', '22P02'),
	(ARRAY['json'], 'jsonb_build_object(''a'', long)', '22001'),
	(ARRAY['object', 'array'], 'NULL', '22004'),
	(ARRAY['object', 'array', 'mapping'], '''null''', '22023'),
	(ARRAY['object', 'array', 'mapping'], '''1''', '22023'),
	(ARRAY['object', 'mapping'], '''[]''', '22023'),
	(ARRAY['object', 'array', 'mapping'], '''{}''', '22023'),
	(ARRAY['object'], '''{"id": "a2", "currency": "USD", "cash": "much", "equity": "2"}''', '22023'),
	(ARRAY['array'], '''[1]''', '22023'),
	(ARRAY['array'], '''[{"symbol": "AAPL"}]''', '22023'),
	(ARRAY['required broker account'], 'NULL', '22004'),
	(ARRAY['required broker account'], '''''', 'LG010'),
	(ARRAY['required broker account'], 'long', 'LG010'),
	(ARRAY['postings'], 'NULL', '22004'),
	(ARRAY['postings'], '''{}''', '22023'),
	(ARRAY['postings'], '''{"(1,2"}''', '22P02'),
	(ARRAY['postings'], 'ARRAY[NULL]::posting[]', '22004'),
	(ARRAY['postings'], 'ARRAY[ROW(NULL, NULL, NULL)]::posting[]', '22004'),
	(ARRAY['postings'], 'ARRAY[ROW(NULL, open_account(''usdc_balance'', bob), 1)]::posting[]', '22004'),
	(ARRAY['postings'], 'ARRAY[ROW(open_account(''usdc_balance'', alice), NULL, 1)]::posting[]', '22004'),
	(ARRAY['postings'], 'ARRAY[pair(NULL)]', 'LG009'),
	(ARRAY['postings'], 'ARRAY[pair(0)]', 'LG009'),
	(ARRAY['postings'], 'ARRAY[pair(-1)]', 'LG009'),
	(ARRAY['postings'], 'ARRAY[pair(''NaN'')]', 'LG009'),
	(ARRAY['postings'], 'ARRAY[pair(''Infinity'')]', 'LG009'),
	(ARRAY['postings'], 'ARRAY[pair(1e40)]', 'LG009'),
	(ARRAY['postings'], 'ARRAY[pair(1e-40)]', 'LG009'),
	(ARRAY['postings'], 'ARRAY[pair(1), NULL]', '22004'),
	(ARRAY['postings'], 'ARRAY[pair(1), pair(0)]', 'LG009'),
	(ARRAY['postings'], 'ARRAY[ARRAY[pair(1)], ARRAY[pair(1)]]', '22023'),
	(ARRAY['postings'], 'ARRAY[ROW(0, open_account(''usdc_balance'', bob), 1)]::posting[]', 'LG010'),
	(ARRAY['postings'], 'ARRAY[ROW(open_account(''usdc_balance'', alice), -1, 1)]::posting[]', 'LG010'),
	(ARRAY['postings'], 'ARRAY[ROW(open_account(''usdc_balance'', alice), 9223372036854775807, 1)]::posting[]', 'LG010'),
	(ARRAY['postings'], 'ARRAY[ROW(open_account(''usdc_balance'', alice), open_account(''usdc_balance'', alice), 1)]::posting[]', 'LG010'),
	(ARRAY['postings'], 'ARRAY[pair(1), ROW(open_account(''usdc_balance'', bob), open_account(''usdc_balance'', bob), 1)]::posting[]', 'LG010'),
	(ARRAY['postings'], 'ARRAY[ROW(open_account(''usdc_balance'', alice), open_account(''fiat_exposure'', alice), 1)]::posting[]', 'LG010'),
	(ARRAY['postings'], 'ARRAY[ROW(open_account(''pending_investment'', alice), open_account(''usdc_balance'', alice), 1)]::posting[]', 'LG010'),
	(ARRAY['postings'], 'ARRAY[ROW(open_account(''usdc_balance'', alice), open_account(''pending_investment'', alice), 1)]::posting[]', 'LG010'),
	(ARRAY['postings'], 'ARRAY[pair(1000.01)]', 'LG001'),
	(ARRAY['postings'], 'ARRAY[pair(99999999999999999999), pair(99999999999999999999)]', 'LG001'),
	(ARRAY['postings'], 'ARRAY(SELECT pair(0.01) FROM generate_series(1, 32768))', '54000'),
	(ARRAY['source'], '''both''', '22023'),
	(ARRAY['source'], 'long', '22023'),
	(ARRAY['wait'], 'NULL', '22004'),
	(ARRAY['wait'], '''-1 s''', '22023'),
	(ARRAY['wait'], '''2 days''', '22023'),
	(ARRAY['wait'], '''178000000 years''', '22023'),
	(ARRAY['table', 'attached table', 'column', 'capture'], 'NULL', '22004'),
	(ARRAY['table', 'attached table'], '''public.nonsense''', '42P01'),
	(ARRAY['attached table'], '0', '55000'),
	(ARRAY['table'], '0', '42P01'),
	(ARRAY['capture'], '''nonsense''', '22023'),
	(ARRAY['functions'], '''{a}''', '22023'),
	(ARRAY['mapping'], '''{"columns": []}''', '22023'),
	(ARRAY['mapping'], '''{"columns": [{"column": "buying_power"}]}''', '22023'),
	(ARRAY['mapping'], '''{"columns": [{"column": "buying_power", "accounts": []}]}''', '22023'),
	(ARRAY['mapping'], '''{"columns": [{"column": "buying_power", "accounts": ["nonsense"]}]}''', 'LG010'),
	(ARRAY['mapping'], '''{"columns": [{"column": "buying_power", "accounts": ["house_equity"]}]}''', 'LG010'),
	(ARRAY['mapping'], '''{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure", "fiat_exposure"]}]}''', '22023'),
	(ARRAY['mapping'], '''{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure", "usdc_balance"]}]}''', '22023'),
	(ARRAY['mapping'], '''{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"]}, {"column": "buying_power", "accounts": ["usdc_balance"]}]}''', '22023'),
	(ARRAY['mapping'], '''{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"]}], "constants": []}''', '22023'),
	(ARRAY['mapping'], '''{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"]}], "constants": {"currency": {}}}''', '22023'),
	(ARRAY['mapping'], '''{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"]}], "other": 1}''', '22023'),
	(ARRAY['tolerance', 'scope'], 'NULL', '22004'),
	(ARRAY['tolerance'], '-1', '22023'),
	(ARRAY['tolerance'], '''NaN''', '22023'),
	(ARRAY['tolerance'], '''Infinity''', '22023'),
	(ARRAY['scope'], '''nonsense''', '22023'),
	(ARRAY['direction', 'required boolean'], 'NULL', '22004'),
	(ARRAY['direction'], '''up''', '22023'),
	(ARRAY['bound'], '-1', '22023'),
	(ARRAY['role', 'level'], 'NULL', '22004'),
	(ARRAY['role'], '''nonsense''', '42704'),
	(ARRAY['level'], '''god''', '22023')
) AS b (kinds, value, code), unnest(b.kinds) AS k;

-- The words that the values are written in.
CREATE FUNCTION public.pair(amount numeric) RETURNS ledger.posting
	LANGUAGE sql
AS $$ SELECT ROW(ledger.open_account('usdc_balance', alice.id), ledger.open_account('usdc_balance', bob.id), amount)::ledger.posting
	FROM public.people alice, public.people bob WHERE alice.name = 'alice' AND bob.name = 'bob' $$;

CREATE FUNCTION public.statement(function text, argument text = NULL, value text = NULL) RETURNS text
	LANGUAGE sql
AS $$
	SELECT format(CASE WHEN EXISTS (SELECT FROM pg_proc p WHERE p.proname = statement.function AND p.prokind = 'p') THEN 'CALL %s(%s)'
		ELSE 'SELECT count(*) FROM (SELECT p.id FROM people p WHERE name = ''alice'') a (alice), (SELECT p.id FROM people p WHERE name = ''bob'') b (bob),'
			' (SELECT p.id FROM people p WHERE name = ''nobody'') n (nobody), (SELECT repeat(''x'', 1048576)) l (long), LATERAL %s(%s) r' END,
		statement.function,
		string_agg(format('%I => %s', a.name, CASE WHEN a.name = statement.argument THEN statement.value ELSE a.valid END), ', ' ORDER BY a.place))
	FROM public.arguments a WHERE a.function = statement.function
$$;

-- Every row of every table, as one text; what the oracle says depends on nothing else.
SELECT format('CREATE FUNCTION public.everything() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN md5(concat_ws(chr(10), %s)); END $f$',
	string_agg(format('(SELECT string_agg(t::text, chr(10) ORDER BY t::text) FROM %s t)', c.oid::regclass), ', ' ORDER BY c.relname)) AS definition
FROM pg_class c WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'r' \gset
:definition;

CREATE FUNCTION public.attempt(statement text, OUT code text, OUT message text)
	LANGUAGE plpgsql
	SET search_path = ledger, public, pg_catalog
AS $$
BEGIN
	BEGIN
		EXECUTE statement;
		RAISE EXCEPTION 'done' USING ERRCODE = 'OK000';
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
	END;
	IF public.everything() <> current_setting('test.before') THEN
		RAISE EXCEPTION 'the ledger has changed by %', left(statement, 300);
	END IF;
END
$$;

SELECT set_config('test.before', public.everything(), false) = public.everything() AS kept;

-- The right arguments are right: what is wrong below is the one that is changed.
SELECT f.function, t.code, t.message
FROM (SELECT DISTINCT a.function FROM public.arguments a) f, LATERAL public.attempt(public.statement(f.function)) t
WHERE t.code <> 'OK000' ORDER BY 1;

CREATE FUNCTION public.attempts(functions text[] = NULL) RETURNS SETOF text
	LANGUAGE plpgsql
AS $$
DECLARE
	a record;
	got record;
BEGIN
	FOR a IN
		SELECT g.function, g.name, b.value, b.code, public.statement(g.function, g.name, b.value) AS statement
		FROM public.arguments g JOIN public.bad b USING (kind)
		WHERE functions IS NULL OR g.function = ANY (functions)
		ORDER BY g.function COLLATE "C", g.place, b.value COLLATE "C"
	LOOP
		SELECT * INTO got FROM public.attempt(a.statement);
		RETURN NEXT format('%s(%s => %s): %s %s', a.function, a.name, a.value, got.code, got.message);
		IF got.code <> a.code OR length(got.message) > 400 THEN
			RAISE EXCEPTION '%(% => %) should have been %, and is % %', a.function, a.name, a.value, a.code, got.code, left(got.message, 400);
		END IF;
	END LOOP;
END
$$;
\pset format unaligned
\pset tuples_only on
SELECT * FROM public.attempts();

-- What wants an attached table.
INSERT INTO public.arguments VALUES
	('configure_capture', 1, 'legacy', '''public.balances''', 'table'),
	('configure_capture', 2, 'capture', '''record''', 'capture'),
	('configure_capture', 3, 'reason', '''words''', 'reason of a capture'),
	('detach_legacy', 1, 'legacy', '''public.balances''', 'attached table');
SELECT a.passed, a.detail FROM ledger.attach_legacy() a WHERE a.check_name = 'attached';
SELECT set_config('test.before', public.everything(), false) = public.everything() AS kept;
SELECT t.code FROM unnest(ARRAY['configure_capture', 'detach_legacy']) f, LATERAL public.attempt(public.statement(f)) t;
SELECT * FROM public.attempts(ARRAY['configure_capture', 'detach_legacy']);

-- What wants a captured write.
SET ledger.capture = 'post';
INSERT INTO public.balances (user_id, pending_deposits) SELECT id, 5 FROM public.people WHERE name = 'nobody';
RESET ledger.capture;
INSERT INTO public.arguments VALUES
	('settle_suspense', 1, 'transaction_id', '(SELECT max(t.id) FROM ledger.transactions t WHERE t.type = ''captured_write'')', 'suspense'),
	('settle_suspense', 2, 'account_type', '''house_equity''', 'type of the house'),
	('settle_suspense', 3, 'reason', '''words''', 'reason');
INSERT INTO public.bad VALUES
	('suspense', 'NULL', '22004'), ('suspense', '0', '55000'), ('suspense', '-1', '55000'), ('suspense', '9223372036854775807', '55000'),
	('suspense', '(SELECT max(t.id) FROM ledger.transactions t WHERE t.type = ''deposit'')', '55000'),
	('type of the house', 'NULL', '22004'), ('type of the house', '''''', '22023'), ('type of the house', 'long', '22001'),
	('type of the house', '''nonsense''', 'LG010'), ('type of the house', '''usdc_balance''', 'LG010'),
	('type of the house', '''legacy_suspense''', 'LG010'), ('type of the house', '''system_buffer_fiat''', 'LG010');
SELECT set_config('test.before', public.everything(), false) = public.everything() AS kept;
SELECT t.code FROM public.attempt(public.statement('settle_suspense')) t;
SELECT * FROM public.attempts(ARRAY['settle_suspense']);
\pset tuples_only off
\pset format aligned

-- Every argument that is left as it is here may be NULL, and its kind is one
-- of which nothing can be wrong but its type.
SELECT DISTINCT a.kind FROM public.arguments a WHERE a.kind NOT IN (SELECT b.kind FROM public.bad b) ORDER BY 1;

SELECT * FROM public.ledger_oracle();
DROP ROLE regress_ledger_bad_input;
\set ECHO none
\i :done
