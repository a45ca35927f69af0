--
-- What a key and a column of a legacy table may be: units, conditions, keys
-- that are no uuid.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_shadow_mapping
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set ECHO all
\set one 'ledger.integer_to_uuid(1)'
\set two 'ledger.integer_to_uuid(2)'
\set three 'ledger.integer_to_uuid(3)'

-- Integers as uuids: there and back, in the order of the integers.
SELECT n, ledger.integer_to_uuid(n) AS uuid, ledger.uuid_to_integer(ledger.integer_to_uuid(n)) = n AS back
FROM unnest('{-9223372036854775808,-4611686018427387905,-1,0,1,42,4611686018427387904,9223372036854775807}'::bigint[]) n
ORDER BY uuid;
SELECT count(*) FROM (SELECT n, lag(n) OVER (ORDER BY ledger.integer_to_uuid(n)) AS before
	FROM (SELECT (random() * 1e18)::bigint - 500000000000000000 AS n FROM generate_series(1, 1000)) r) s WHERE before > n;
SELECT public.raises(format('SELECT ledger.uuid_to_integer(%L)', u))
FROM unnest('{00000000-0000-4002-8000-000000000001,00000000-0000-8002-4000-000000000001,00000000-0001-8002-8000-000000000001,00000000-0000-8004-8000-000000000001}'::text[]) u;

-- One row for each user and currency, in cents, keyed by an integer.
CREATE TABLE wallets (
	customer int NOT NULL,
	currency text NOT NULL,
	balance_cents bigint NOT NULL DEFAULT 0,
	source text NOT NULL,
	updated_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (customer, currency)
);
INSERT INTO wallets (customer, currency, balance_cents, source) VALUES
	(1, 'USDC', 5000, 'app'), (1, 'USD', 10000, 'app'), (1, 'EUR', 777, 'app'), (2, 'USDC', 2001, 'app'), (3, 'EUR', 1, 'app');
\set wallet 'SELECT customer, currency, balance_cents, source FROM wallets'
\set mapping '{"columns": [{"column": "balance_cents", "accounts": ["usdc_balance", "pending_investment"], "unit": 0.01, "where": {"currency": "USDC"}}, {"column": "balance_cents", "accounts": ["fiat_exposure"], "unit": 0.01, "where": {"currency": "USD"}}], "constants": {"source": "ledger"}}'
SELECT * FROM ledger.legacy_preflight('wallets', :'mapping', 'customer') WHERE detail <> 'Nothing found.';
UPDATE wallets SET source = 'ledger';
SELECT check_name, passed, detail FROM ledger.attach_legacy('wallets', :'mapping', 'customer') WHERE check_name IN ('rows', 'attached');
SELECT legacy_column, column_name, accounts, unit, condition FROM ledger.legacy_columns ORDER BY ordinal;
SELECT key_kind, key_functions FROM ledger.legacy_mappings;
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);

-- Read before, opened and mirrored by the first posting.
SELECT usdc_balance, fiat_exposure, source FROM ledger.get_user_balance(:one);
SELECT ledger.credit_user_usdc(:one, 1.25, 'deposit') > 0 AS posted;
:wallet ORDER BY 1, 2;
SELECT account_type, balance FROM ledger.account_balances WHERE user_id = :one ORDER BY 1;
SELECT user_id, metadata FROM ledger.transactions WHERE type = 'opening' ORDER BY id;
SELECT ledger.move_funds_to_fiat_exposure(:one, 0.25, 'to the broker') > 0 AS posted;
SELECT * FROM ledger.compare_balances(:one);
-- A user whose row in one currency is missing has it from the first movement; that is no discrepancy.
SELECT ledger.move_funds_to_fiat_exposure(:two, 0.01, 'to the broker') > 0 AS posted;
-- One who has rows of other conditions alone is new; so is one who has none.
SELECT ledger.credit_user_usdc(:three, 3, 'deposit') > 0 AS posted;
SELECT ledger.credit_user_usdc(ledger.integer_to_uuid(-4), 4, 'deposit') > 0 AS posted;
:wallet ORDER BY 1, 2;
SELECT * FROM ledger.reconcile();
SELECT * FROM found;
-- What is no whole cent is not rounded: recorded, or with strict on raised.
SELECT ledger.credit_user_usdc(:one, 0.001, 'a tenth of a cent') > 0 AS posted;
SET ledger.strict_mode = 'on';
SELECT public.raises(format('SELECT ledger.credit_user_usdc(%L, 0.001, %L)', :one, 'a tenth of a cent'));
RESET ledger.strict_mode;
SELECT ledger.credit_user_usdc(:one, 0.009, 'whole again') > 0 AS posted;
SELECT * FROM ledger.compare_balances(:one);
SELECT legacy_column, before, after FROM ledger.repair(:one, dry_run => false, reason => 'cents');
:wallet WHERE customer = 1 ORDER BY 1, 2;
-- A user whose id is no integer has no row, and can have none.
SELECT usdc_balance, source FROM ledger.get_user_balance(:alice);
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
SELECT public.raises(format('SELECT ledger.repair(%L)', :alice)) AS dry_run;
SELECT public.raises(format('SELECT ledger.repair(%L, dry_run => false, reason => %L)', :alice, 'a test')) AS real_one;
SELECT ledger.debit_user_usdc(:alice, 1, 'withdrawal') > 0 AS posted;
-- An amount beyond the column: likewise.
ALTER TABLE wallets ALTER balance_cents TYPE int;
SELECT ledger.credit_user_usdc(:two, 22000000, 'more than an int of cents') > 0 AS posted;
SELECT ledger.debit_user_usdc(:two, 22000000, 'withdrawal') > 0 AS posted;
ALTER TABLE wallets ALTER balance_cents TYPE bigint;
SELECT legacy_column, before, after FROM ledger.repair(:two, dry_run => false, reason => 'back');

-- Others' writes: deltas are amounts; another currency's row is nobody's; a row
-- that changes its currency takes money from one column and gives it to another.
UPDATE wallets SET balance_cents = balance_cents + 100 WHERE customer = 1;
SELECT legacy_column, difference, status FROM ledger.compare_balances(:one);
UPDATE wallets SET balance_cents = balance_cents - 100 WHERE customer = 1;
UPDATE wallets SET currency = 'GBP' WHERE customer = 1 AND currency = 'USD';
SELECT legacy_column, ledger_value, legacy_value, status FROM ledger.compare_balances(:one);
UPDATE wallets SET currency = 'USD' WHERE customer = 1 AND currency = 'GBP';
UPDATE wallets SET customer = 5 WHERE customer = 2 AND currency = 'USDC';
SELECT user_id, legacy_column, difference, status FROM ledger.reconcile();
UPDATE wallets SET customer = 2 WHERE customer = 5;
DELETE FROM wallets WHERE customer = 2 AND currency = 'USDC';
SELECT legacy_column, before, after FROM ledger.repair(:two, dry_run => false, reason => 'deleted');
SELECT ledger.uuid_to_integer(user_id) AS customer, operation, kind, deltas FROM ledger.legacy_writes ORDER BY id;
:wallet ORDER BY 1, 2;
SELECT ledger.uuid_to_integer(user_id) AS customer, operation, deltas, note FROM ledger.legacy_writes WHERE note IS NOT NULL ORDER BY id;
-- What changes neither amount, key, condition nor constant is free.
SELECT count(*) AS before FROM ledger.legacy_writes \gset
UPDATE wallets SET updated_at = now();
SELECT count(*) - :before AS captured FROM ledger.legacy_writes;
UPDATE wallets SET source = 'app' WHERE customer = 2;
SELECT ledger.uuid_to_integer(user_id) AS customer, deltas, note FROM ledger.legacy_writes ORDER BY id DESC LIMIT 1;
UPDATE wallets SET source = 'ledger' WHERE customer = 2;
-- Rows of none of the conditions are findings, for all of the same values one.
CALL ledger.backfill();
SELECT key, user_id, reason, detail, "row" FROM ledger.backfill_findings WHERE reason = 'condition';
SELECT passed, observed FROM ledger.readiness() WHERE gate = 'coverage';
-- Once the table is frozen, nobody else writes one of them either.
SET ledger.capture = 'refuse';
SELECT what, public.raises(what) FROM unnest(ARRAY[
	'UPDATE wallets SET balance_cents = balance_cents + 1 WHERE currency = ''EUR''',
	'UPDATE wallets SET currency = ''USDT'' WHERE customer = 1 AND currency = ''EUR''',
	'UPDATE wallets SET customer = 4 WHERE customer = 3 AND currency = ''EUR''',
	'UPDATE wallets SET source = ''app'' WHERE customer = 1 AND currency = ''USD''',
	'INSERT INTO wallets VALUES (1, ''usd'', 5, ''ledger'')',
	'DELETE FROM wallets WHERE currency = ''EUR''',
	'UPDATE wallets SET updated_at = now()']) AS what;
-- But in the replica role, and where the ledger's own data is being restored:
-- its log has rows that its sequence has not given out yet.
SET session_replication_role = replica;
UPDATE wallets SET balance_cents = balance_cents + 1 WHERE customer = 3 AND currency = 'EUR';
RESET session_replication_role;
SELECT ledger.uuid_to_integer(user_id) AS customer, kind, note FROM ledger.legacy_writes ORDER BY id DESC LIMIT 1;
SELECT bypasses FROM ledger.stat_shadow;
SELECT count(*) AS before FROM ledger.legacy_writes \gset
SELECT setval('ledger.legacy_log_id_seq', 1, false);
BEGIN;
INSERT INTO wallets VALUES (6, 'EUR', 1, 'ledger'), (6, 'USD', 1, 'ledger');
SELECT count(*) - :before AS captured FROM ledger.legacy_writes;
ROLLBACK;
SELECT setval('ledger.legacy_log_id_seq', max(id)) = max(id) AS restored FROM ledger.legacy_log;
SELECT public.raises($$INSERT INTO wallets VALUES (6, 'USD', 1, 'ledger')$$);
RESET ledger.capture;
-- The source of balances.
SELECT balance_source FROM ledger.configure(balance_source => 'legacy');
UPDATE wallets SET balance_cents = balance_cents + 1 WHERE customer = 1 AND currency = 'USD';
SELECT usdc_balance, fiat_exposure, source FROM ledger.get_user_balance(:one);
SELECT balance_source FROM ledger.configure(balance_source => 'ledger');
UPDATE wallets SET balance_cents = balance_cents - 1 WHERE customer = 1 AND currency = 'USD';
SELECT * FROM ledger.reconcile() WHERE status <> 'missing_ledger';
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;
SELECT shadow_mode FROM ledger.configure(shadow_mode => false);
SELECT ledger.detach_legacy('wallets');

-- What a mapping cannot be, and which member is wrong.
SELECT public.raises(format('SELECT ledger.legacy_preflight(%L, %L)', 'wallets', format('{"columns": [%s]}', c))) FROM unnest(ARRAY[
	'5', '{"column": 5, "accounts": ["usdc_balance"]}', '{"column": "a"}', '{"column": "a", "accounts": ["usdc_balance"], "units": 0.01}',
	'{"column": "a", "accounts": ["usdc_balance"]}, {"column": "a", "accounts": ["fiat_exposure"]}',
	'{"column": "a", "accounts": ["usdc_balance"]}, {"column": "b", "accounts": ["usdc_balance"]}']) c;

-- Text that holds a uuid.
CREATE TABLE texts (user_id varchar(40) PRIMARY KEY, amount numeric(20,2), other numeric);
INSERT INTO texts VALUES (:alice, 5, 1), (upper(:bob), 6, 1), ('bob', 7, 1);
\set mapping '{"columns": [{"column": "amount", "accounts": ["usdc_balance"]}, {"column": "other", "accounts": ["fiat_exposure"], "unit": 1000}]}'
SELECT check_name, passed, detail, hint FROM ledger.attach_legacy('texts', :'mapping') WHERE NOT passed;
DELETE FROM texts WHERE user_id <> :alice;
SELECT check_name, passed, detail FROM ledger.attach_legacy('texts', :'mapping') WHERE check_name IN ('key_column', 'key_values', 'attached');
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SELECT ledger.move_funds_to_usdc(:alice, 500, 'half a unit') > 0 AS posted;
SELECT ledger.credit_user_usdc(:carol, 2, 'deposit') > 0 AS posted;
SELECT * FROM texts ORDER BY 1;
SELECT * FROM ledger.reconcile() WHERE user_id <> ledger.integer_to_uuid(1);
-- A key that is none would be money that nobody owns.
SELECT public.raises(format('INSERT INTO texts VALUES (%L, 1)', upper(:bob)));
SELECT public.raises('INSERT INTO texts VALUES (''bob'', 1)');
INSERT INTO texts VALUES (:bob, 1);
SELECT usdc_balance, source FROM ledger.get_user_balance(:bob);
SELECT shadow_mode FROM ledger.configure(shadow_mode => false);
SELECT ledger.detach_legacy('texts');

-- Any type, with two functions. They run as the table's owner.
CREATE SCHEMA app;
CREATE DOMAIN app.code AS text;
CREATE FUNCTION app.to_uuid(k text) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN k LIKE 'c-%' THEN ledger.integer_to_uuid(substr(k, 3)::bigint) END $$;
CREATE FUNCTION app.from_uuid(u uuid) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT CASE WHEN u >= ledger.integer_to_uuid(0) AND u < ledger.integer_to_uuid(1000) THEN 'c-' || ledger.uuid_to_integer(u) END $$;
CREATE FUNCTION app.volatile(u uuid) RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 'c-1' $$;
CREATE FUNCTION app.wrong(u uuid) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'c-1' $$;
CREATE FUNCTION app.fails(u uuid) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
CREATE TABLE coded (code text PRIMARY KEY, amount smallint, CHECK (code <> ''));
INSERT INTO coded VALUES ('c-7', 5), ('c-10', 6);
\set mapping '{"columns": [{"column": "amount", "accounts": ["usdc_balance"]}]}'
SELECT f.functions, a.check_name, a.detail, a.hint
FROM unnest('{"app.to_uuid,app.nowhere","app.from_uuid,app.to_uuid","app.to_uuid,app.volatile","app.to_uuid,app.wrong","app.to_uuid,app.fails"}'::text[]) WITH ORDINALITY AS f (functions, n),
	ledger.attach_legacy('coded', :'mapping', 'code', key_functions => string_to_array(f.functions, ',')) a
WHERE NOT a.passed AND a.check_name IN ('key_functions', 'key_values', 'key_column')
ORDER BY f.n;
INSERT INTO coded VALUES ('d-1', 7);
SELECT detail FROM ledger.legacy_preflight('coded', :'mapping', 'code', key_functions => '{app.to_uuid,app.from_uuid}') WHERE check_name = 'key_values';
DELETE FROM coded WHERE code = 'd-1';
CREATE ROLE regress_ledger_coder;
ALTER TABLE coded OWNER TO regress_ledger_coder;
SELECT detail FROM ledger.legacy_preflight('coded', :'mapping', 'code', key_functions => '{app.to_uuid,app.from_uuid}') WHERE check_name = 'key_functions';
GRANT USAGE ON SCHEMA app TO regress_ledger_coder;
REVOKE EXECUTE ON FUNCTION app.to_uuid FROM PUBLIC;
SELECT detail FROM ledger.legacy_preflight('coded', :'mapping', 'code', key_functions => '{app.to_uuid,app.from_uuid}') WHERE check_name = 'key_functions';
ALTER TABLE coded OWNER TO CURRENT_USER;
DROP OWNED BY regress_ledger_coder;
DROP ROLE regress_ledger_coder;
SELECT check_name, detail, hint FROM ledger.attach_legacy('coded', :'mapping', 'code', key_functions => '{app.to_uuid,app.from_uuid}')
	WHERE check_name IN ('key_functions', 'key_values', 'key_order', 'attached');
SELECT key_kind, key_functions FROM ledger.legacy_mappings WHERE legacy = 'coded'::regclass;
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SELECT ledger.credit_user_usdc(ledger.integer_to_uuid(7), 1, 'deposit') > 0 AS posted;
SELECT ledger.credit_user_usdc(ledger.integer_to_uuid(8), 1, 'deposit') > 0 AS posted;
UPDATE coded SET amount = amount + 1 WHERE code = 'c-10';
SELECT public.raises('INSERT INTO coded VALUES (''d-1'', 1)');
SELECT * FROM coded ORDER BY 1;
SELECT ledger.uuid_to_integer(user_id) AS id, ledger_value, legacy_value, status FROM ledger.reconcile() WHERE legacy_column = 'amount' AND user_id >= ledger.integer_to_uuid(7) AND user_id < ledger.integer_to_uuid(100);
-- Without its function the table can neither be read nor written.
DROP FUNCTION app.to_uuid;
SELECT public.raises(format('SELECT ledger.credit_user_usdc(%L, 1, %L)', ledger.integer_to_uuid(7), 'deposit'));
SELECT public.raises('UPDATE coded SET amount = 0');
SELECT shadow_mode FROM ledger.configure(shadow_mode => false);
SELECT ledger.detach_legacy('coded');

-- A row without a value in a condition's column is of none.
CREATE TABLE loose (customer int NOT NULL, currency text, cents bigint, UNIQUE (customer, currency));
SELECT passed FROM ledger.attach_legacy('loose', '{"columns": [{"column": "cents", "accounts": ["usdc_balance"], "unit": 0.01, "where": {"currency": "USDC"}}]}', 'customer') WHERE check_name = 'attached';
INSERT INTO loose VALUES (9, NULL, 100);
UPDATE loose SET currency = 'USDC';
SELECT operation, deltas, note FROM ledger.legacy_writes WHERE user_id = ledger.integer_to_uuid(9) ORDER BY id;
SELECT ledger.detach_legacy('loose');

-- A key that is unique by itself: the row of another condition is in the way.
SET statement_timeout = '2min';
CREATE TABLE purses (customer int PRIMARY KEY, currency text NOT NULL, cents bigint NOT NULL DEFAULT 0);
INSERT INTO purses VALUES (11, 'USD', 500), (12, 'USDC', 200), (13, 'EUR', 7);
\set mapping '{"columns": [{"column": "cents", "accounts": ["usdc_balance"], "unit": 0.01, "where": {"currency": "USDC"}}, {"column": "cents", "accounts": ["fiat_exposure"], "unit": 0.01, "where": {"currency": "USD"}}]}'
SELECT check_name, passed, detail, hint FROM ledger.attach_legacy('purses', :'mapping', 'customer') WHERE check_name IN ('key_column', 'unique_keys', 'attached');
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SELECT ledger.credit_user_usdc(ledger.integer_to_uuid(customer), 1, 'deposit') > 0 AS posted FROM generate_series(11, 14) customer;
SELECT * FROM purses ORDER BY 1;
SELECT ledger.uuid_to_integer(user_id) AS customer, legacy_column, ledger_value, legacy_value, status FROM ledger.reconcile() WHERE user_id BETWEEN ledger.integer_to_uuid(11) AND ledger.integer_to_uuid(14);
CALL ledger.backfill();
SELECT ledger.uuid_to_integer(user_id) AS customer, legacy_column, before, after FROM ledger.repair(ledger.integer_to_uuid(14), dry_run => false, reason => 'nothing to do');
SELECT public.raises(format('SELECT * FROM ledger.repair(%L, dry_run => false, reason => %L)', ledger.integer_to_uuid(11), 'in the way'));
-- Nor does a second index change it, whichever is the older one; with both columns in the only one there is room.
CREATE UNIQUE INDEX purses_both ON purses (customer, currency);
SELECT ledger.credit_user_usdc(ledger.integer_to_uuid(11), 1, 'deposit') > 0 AS posted;
ALTER TABLE purses DROP CONSTRAINT purses_pkey;
CREATE UNIQUE INDEX purses_one ON purses (customer);
SELECT ledger.credit_user_usdc(ledger.integer_to_uuid(11), 1, 'deposit') > 0 AS posted;
DROP INDEX purses_one;
SELECT ledger.credit_user_usdc(ledger.integer_to_uuid(11), 1, 'deposit') > 0 AS posted;
SELECT * FROM purses ORDER BY 1, 2;
SELECT ledger.uuid_to_integer(user_id) AS customer, legacy_column, difference, status FROM ledger.reconcile() WHERE user_id = ledger.integer_to_uuid(11);
SELECT shadow_mode FROM ledger.configure(shadow_mode => false);
SELECT ledger.detach_legacy('purses');
RESET statement_timeout;

-- Ranges of users, from and to ids that stand for no integer, or beyond them all.
CREATE TABLE numbered (id bigint PRIMARY KEY, amount numeric NOT NULL);
INSERT INTO numbered VALUES (-9223372036854775808, 1), (-1, 2), (0, 3), (4611686018427387904, 4), (9223372036854775807, 5);
SELECT passed FROM ledger.attach_legacy('numbered', '{"columns": [{"column": "amount", "accounts": ["usdc_balance"]}]}', 'id') WHERE check_name = 'attached';
SELECT r.first, r.last, (SELECT string_agg(d.legacy_value::text, ' ' ORDER BY d.user_id)
	FROM ledger.reconcile_range(r.first, r.last, 0, 1, 0) d WHERE d.legacy_column = 'amount') AS found
FROM (VALUES (NULL::uuid, NULL::uuid),
	('00000000-0000-0000-0000-000000000000', '00000000-0000-7fff-ffff-ffffffffffff'),
	(NULL, ledger.integer_to_uuid(-9223372036854775808)),
	(ledger.integer_to_uuid(-9223372036854775807), ledger.integer_to_uuid(-1)),
	(ledger.integer_to_uuid(0), ledger.integer_to_uuid(4611686018427387903)),
	('00000000-0000-8001-c000-000000000000', '00000000-0000-8002-7fff-ffffffffffff'),
	(ledger.integer_to_uuid(1), '00000000-0000-8003-8000-000000000000'),
	(ledger.integer_to_uuid(9223372036854775806), ledger.integer_to_uuid(9223372036854775806)),
	(ledger.integer_to_uuid(9223372036854775806), ledger.integer_to_uuid(9223372036854775807)),
	(ledger.integer_to_uuid(9223372036854775807), 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
	('00000000-0000-8003-c000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
	(ledger.integer_to_uuid(5), ledger.integer_to_uuid(-5))) r (first, last);
SELECT ledger.detach_legacy('numbered');

-- An amount that no number of units is.
CREATE TABLE thirds (user_id uuid PRIMARY KEY, n numeric NOT NULL DEFAULT 0);
SELECT passed FROM ledger.attach_legacy('thirds', '{"columns": [{"column": "n", "accounts": ["usdc_balance"], "unit": 3}]}') WHERE check_name = 'attached';
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SELECT ledger.credit_user_usdc(:dave, 3, 'one unit') > 0 AS posted;
SELECT ledger.credit_user_usdc(:dave, 1, 'a third') > 0 AS posted;
SELECT ledger.credit_user_usdc(:dave, 2, 'the rest') > 0 AS posted;
SELECT n FROM thirds;
SELECT note FROM ledger.discrepancies WHERE user_id = :dave ORDER BY id;
UPDATE thirds SET n = 6;
SELECT ledger_value, legacy_value FROM ledger.reconcile() WHERE user_id = :dave AND legacy_column = 'n';
UPDATE thirds SET n = 2;
SELECT shadow_mode FROM ledger.configure(shadow_mode => false);
SELECT ledger.detach_legacy('thirds');

-- Keys that are uuids, of rows that are not to be counted together, or hold integers.
CREATE TABLE pockets (user_id uuid, currency text, n numeric NOT NULL, PRIMARY KEY (user_id, currency));
INSERT INTO pockets VALUES (:dave, 'EUR', 6);
SELECT passed FROM ledger.attach_legacy('pockets', '{"columns": [{"column": "n", "accounts": ["usdc_balance"], "where": {"currency": "USDC"}}]}') WHERE check_name = 'attached';
SELECT ledger_value, legacy_value, status FROM ledger.reconcile() WHERE user_id = :dave AND legacy_column LIKE 'n%';
SELECT ledger.detach_legacy('pockets');
CREATE TABLE counted (user_id uuid PRIMARY KEY, n bigint);
INSERT INTO counted VALUES (:dave, 7);
SELECT passed FROM ledger.attach_legacy('counted', '{"columns": [{"column": "n", "accounts": ["usdc_balance"]}]}') WHERE check_name = 'attached';
SELECT ledger_value, legacy_value, status FROM ledger.reconcile() WHERE user_id = :dave AND legacy_column = 'n';
SELECT ledger.detach_legacy('counted');

-- What cannot be mapped, each with its hint.
CREATE TABLE unfit (user_id uuid, floating float8, cash money, words text, n numeric, currency text, PRIMARY KEY (user_id, currency));
SELECT check_name, detail, hint FROM ledger.legacy_preflight('unfit',
	'{"columns": [{"column": "floating", "accounts": ["usdc_balance"]}, {"column": "cash", "accounts": ["fiat_exposure"]}, {"column": "words", "accounts": ["pending_investment"]}]}')
	WHERE NOT passed AND check_name IN ('mapped_columns', 'key_column');
SELECT detail FROM ledger.legacy_preflight('unfit', '{"columns": [{"column": "n", "accounts": ["usdc_balance"]}]}', 'n') WHERE check_name = 'mapped_columns';
SELECT check_name, detail, hint FROM ledger.legacy_preflight('unfit',
	'{"columns": [{"column": "n", "accounts": ["usdc_balance"], "where": {"region": 1}}]}') WHERE NOT passed AND check_name IN ('conditions', 'key_column');
SELECT check_name, detail, hint FROM ledger.legacy_preflight('unfit',
	'{"columns": [{"column": "n", "accounts": ["usdc_balance"], "where": {"currency": "USDC", "n": 1}}], "constants": {"currency": "USD"}}') WHERE NOT passed AND check_name IN ('conditions', 'constants');
CREATE TABLE rows (user_id uuid PRIMARY KEY, n numeric);
INSERT INTO rows SELECT gen_random_uuid(), n FROM unnest('{99999999999999999999,0.000000000000000001,0,NULL,-1,NaN,Infinity,100000000000000000000,0.0000000000000000001}'::numeric[]) n;
SELECT detail FROM ledger.legacy_preflight('rows', '{"columns": [{"column": "n", "accounts": ["usdc_balance"]}]}') WHERE check_name = 'rows';
DROP TABLE rows;
ALTER TABLE unfit ALTER currency TYPE int USING 1;
SELECT check_name, detail, hint FROM ledger.legacy_preflight('unfit',
	'{"columns": [{"column": "n", "accounts": ["usdc_balance"], "where": {"currency": "USDC"}}]}') WHERE NOT passed AND check_name = 'condition_values';
CREATE TABLE dated (day date PRIMARY KEY, n numeric);
SELECT check_name, detail, hint FROM ledger.legacy_preflight('dated', :'mapping', 'day') WHERE check_name = 'key_column';

SELECT * FROM public.ledger_oracle();
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;
\set ECHO none
\c contrib_regression
DROP DATABASE regress_ledger_shadow_mapping;
