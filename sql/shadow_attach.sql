--
-- What can be attached, by whom, and what the preflight says.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_shadow_attach
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set ECHO all

-- The preflight of the usual table, whole; it attaches nothing.
SELECT * FROM ledger.legacy_preflight();
SELECT count(*) FROM ledger.legacy_mappings;

-- (hazard 15) Relations that cannot be attached, each with its hint.
CREATE SCHEMA odd;
CREATE VIEW odd.a_view AS SELECT * FROM balances;
CREATE MATERIALIZED VIEW odd.a_matview AS SELECT * FROM balances;
CREATE SEQUENCE odd.a_sequence;
CREATE TABLE odd.a_partitioned (LIKE balances) PARTITION BY HASH (user_id);
CREATE TABLE odd.a_partition PARTITION OF odd.a_partitioned FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE odd.has_unlogged (LIKE balances) PARTITION BY HASH (user_id);
CREATE UNLOGGED TABLE odd.unlogged_leaf PARTITION OF odd.has_unlogged FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE odd.has_ruled (LIKE balances) PARTITION BY HASH (user_id);
CREATE TABLE odd.ruled_leaf PARTITION OF odd.has_ruled FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE RULE no_update AS ON UPDATE TO odd.ruled_leaf DO INSTEAD NOTHING;
CREATE TABLE odd.a_parent (LIKE balances INCLUDING ALL);
CREATE TABLE odd.a_child () INHERITS (odd.a_parent);
CREATE UNLOGGED TABLE odd.unlogged (LIKE balances INCLUDING ALL);
CREATE TEMP TABLE temporary (LIKE balances INCLUDING ALL);
CREATE TABLE odd.ruled (LIKE balances INCLUDING ALL);
CREATE RULE no_update AS ON UPDATE TO odd.ruled DO INSTEAD NOTHING;
CREATE FOREIGN DATA WRAPPER no_wrapper;
CREATE SERVER no_server FOREIGN DATA WRAPPER no_wrapper;
CREATE FOREIGN TABLE odd.a_foreign (user_id uuid) SERVER no_server;
SELECT r.relation, a.check_name, a.passed, a.detail, a.hint
FROM unnest('{odd.a_view,odd.a_matview,odd.a_sequence,odd.a_partitioned,odd.a_partition,odd.has_unlogged,odd.has_ruled,odd.a_parent,odd.a_child,odd.unlogged,odd.ruled,odd.a_foreign,ledger.accounts,pg_class}'::text[])
	WITH ORDINALITY AS r (relation, n), ledger.attach_legacy(r.relation::regclass) a
WHERE a.check_name IN ('table', 'attached')
ORDER BY r.n, a.check_name DESC;
SELECT check_name, passed, regexp_replace(detail, 'pg_temp_\d+', 'pg_temp') AS detail, hint FROM ledger.attach_legacy('temporary');
SELECT count(*) FROM ledger.legacy_mappings;

-- Keys and columns that do not fit.
CREATE TABLE odd.date_key (user_id date PRIMARY KEY, buying_power numeric, pending_deposits numeric);
CREATE TABLE odd.no_key (user_id uuid NOT NULL, buying_power numeric, pending_deposits numeric);
CREATE TABLE odd.nullable_key (user_id uuid UNIQUE, buying_power numeric, pending_deposits numeric);
CREATE TABLE odd.two_keys (user_id uuid, currency text, buying_power numeric, pending_deposits numeric, PRIMARY KEY (user_id, currency));
CREATE TABLE odd.deferrable_key (user_id uuid PRIMARY KEY DEFERRABLE, buying_power numeric, pending_deposits numeric);
CREATE TABLE odd.columns (user_id uuid PRIMARY KEY, buying_power bigint, "Odd ""Name" numeric,
	generated numeric GENERATED ALWAYS AS (1) STORED, currency text);
SELECT r.relation, a.check_name, a.detail, a.hint
FROM unnest('{date_key,no_key,nullable_key,two_keys,deferrable_key,columns}'::text[]) WITH ORDINALITY AS r (relation, n),
	ledger.attach_legacy(('odd.' || r.relation)::regclass) a
WHERE NOT a.passed AND a.check_name IN ('key_column', 'mapped_columns', 'constants')
ORDER BY r.n, a.check_name;
SELECT check_name, passed, detail FROM ledger.legacy_preflight('odd.columns',
	'{"columns": [{"column": "generated", "accounts": ["usdc_balance"]}, {"column": "user_id", "accounts": ["fiat_exposure"]}],
	  "constants": {"nowhere": 1, "generated": "x"}}')
	WHERE check_name IN ('mapped_columns', 'constants');

-- Mappings that are none: an error, for nothing could be checked.
SELECT m.mapping, public.raises(format('SELECT ledger.attach_legacy(%L, %L)', 'balances', m.mapping))
FROM (VALUES ('[]'), ('{}'), ('{"columns": []}'), ('{"columns": {}}'), ('{"columns": [1]}'), ('{"columns": [{"column": "buying_power"}]}'),
	('{"columns": [{"column": "buying_power", "accounts": []}]}'),
	('{"columns": [{"column": "buying_power", "accounts": [1]}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"], "colour": "red"}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["no_such_type"]}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["house_equity"]}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure", "usdc_balance"]}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure", "fiat_exposure"]}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"]}, {"column": "pending_deposits", "accounts": ["fiat_exposure"]}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"]}, {"column": "buying_power", "accounts": ["usdc_balance"]}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"]}], "constants": []}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"]}], "constants": {"currency": null}}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"], "unit": 0}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"], "unit": "0.01"}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"], "unit": 1e20}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"], "where": {}}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"], "where": ["currency"]}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"], "where": {"currency": null}}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"], "where": {"currency": "USD"}}, {"column": "pending_deposits", "accounts": ["usdc_balance"]}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"], "where": {"currency": "USD"}}, {"column": "buying_power", "accounts": ["usdc_balance"], "where": {"currency": "USD"}}]}'),
	('{"columns": [{"column": "buying_power_of_the_customer", "accounts": ["fiat_exposure"], "where": {"currency": "a currency with quite a long name"}}]}'),
	('{"columns": [{"column": "buying_power", "accounts": ["fiat_exposure"]}], "more": 1}')) AS m (mapping);

-- Other arguments.
SELECT public.raises($$SELECT ledger.attach_legacy(NULL)$$);
SELECT public.raises($$SELECT ledger.attach_legacy('balances', key_column => NULL)$$);
SELECT public.raises($$SELECT ledger.attach_legacy('balances', capture => NULL)$$);
SELECT public.raises($$SELECT ledger.attach_legacy('balances', capture => 'everything')$$);
SELECT public.raises($$SELECT ledger.attach_legacy('balances', key_functions => '{to_uuid}')$$);
SELECT public.raises($$SELECT ledger.attach_legacy('balances', key_functions => '{to_uuid,NULL}')$$);
SELECT public.raises($$SELECT ledger.attach_legacy('no_such_table')$$);
SELECT public.raises($$SELECT ledger.detach_legacy(NULL)$$);
SELECT public.raises($$SELECT ledger.configure_capture('balances', 'refuse', 'not attached yet')$$);
SELECT public.raises($$SELECT ledger.configure_capture('balances', 'everything', 'x')$$);
SELECT public.raises($$SELECT ledger.configure_capture('balances', 'refuse', NULL)$$);
BEGIN READ ONLY;
SELECT ledger.attach_legacy();
ROLLBACK;
BEGIN;
SELECT ledger.credit_user_usdc(:dave, 1, 'before') > 0 AS posted;
SELECT ledger.attach_legacy();
ROLLBACK;
SELECT count(*) FROM ledger.legacy_mappings;

-- What is found in a table that is used in all the ways there are.
CREATE TABLE odd.users (id uuid PRIMARY KEY);
INSERT INTO odd.users VALUES (:alice);
CREATE FUNCTION odd.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := now(); RETURN NEW; END $$;
CREATE TABLE odd.busy (
	user_id uuid PRIMARY KEY REFERENCES odd.users ON DELETE CASCADE,
	buying_power numeric(12,2) CHECK (buying_power < 1000000),
	pending_deposits numeric NOT NULL,
	currency text,
	region text NOT NULL,
	email text UNIQUE,
	account_no int NOT NULL GENERATED ALWAYS AS IDENTITY,
	updated_at timestamptz NOT NULL,
	CONSTRAINT later UNIQUE (account_no) DEFERRABLE
);
CREATE TRIGGER touch BEFORE UPDATE ON odd.busy FOR EACH ROW EXECUTE FUNCTION odd.touch();
CREATE CONSTRAINT TRIGGER at_once AFTER UPDATE ON odd.busy FOR EACH ROW EXECUTE FUNCTION odd.touch();
CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON odd.busy DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION odd.touch();
ALTER TABLE odd.busy ENABLE ROW LEVEL SECURITY;
INSERT INTO odd.busy (user_id, buying_power, pending_deposits, currency, region, updated_at) VALUES (:alice, -1, 'NaN', 'EUR', 'x', now());
SELECT check_name, passed, detail, hint FROM ledger.legacy_preflight('odd.busy');
-- With strict off and shadow on, checks at commit must not be there.
SELECT ledger.configure(shadow_mode => true);
SELECT check_name, passed, detail, hint FROM ledger.attach_legacy('odd.busy') WHERE check_name IN ('deferred_checks', 'attached');
SELECT ledger.configure(strict_mode => true);
SELECT passed FROM ledger.attach_legacy('odd.busy') WHERE check_name = 'attached';
SELECT public.raises($$SELECT ledger.configure(strict_mode => false)$$);
DROP TRIGGER at_commit ON odd.busy;
ALTER TABLE odd.busy DROP CONSTRAINT later;
SELECT ledger.configure(strict_mode => false);
SELECT ledger.configure(shadow_mode => false);
SELECT ledger.detach_legacy('odd.busy');
ALTER TABLE odd.busy ADD CONSTRAINT later CHECK (true) NOT VALID, ADD CONSTRAINT later_key UNIQUE (region) DEFERRABLE;
SELECT passed FROM ledger.attach_legacy('odd.busy') WHERE check_name = 'attached';
SELECT public.raises($$SELECT ledger.configure(shadow_mode => true)$$);
SELECT ledger.detach_legacy('odd.busy');

-- Rows that nobody can be opened from are counted; others of the mapping's
-- currency, or of none, can.
INSERT INTO balances (user_id, buying_power, currency) VALUES (:dave, 1, 'USDC');
SELECT detail FROM ledger.legacy_preflight() WHERE check_name = 'rows';
UPDATE balances SET currency = 'EUR' WHERE user_id = :dave;
UPDATE balances SET buying_power = -0.01 WHERE user_id = :carol;
SELECT passed, detail, hint FROM ledger.legacy_preflight() WHERE check_name = 'rows';
SELECT detail FROM ledger.legacy_preflight('balances',
	'{"columns": [{"column": "pending_deposits", "accounts": ["usdc_balance"]}], "constants": {"currency": "USDC"}}') WHERE check_name = 'rows';

-- Who may: the owner and who can act for him; not who merely may execute it.
CREATE ROLE regress_ledger_owner;
CREATE ROLE regress_ledger_deputy IN ROLE regress_ledger_owner;
CREATE ROLE regress_ledger_other;
GRANT USAGE ON SCHEMA ledger TO regress_ledger_owner, regress_ledger_deputy, regress_ledger_other;
GRANT EXECUTE ON FUNCTION ledger.attach_legacy, ledger.legacy_preflight, ledger.detach_legacy, ledger.configure_capture
	TO regress_ledger_owner, regress_ledger_deputy, regress_ledger_other;
ALTER TABLE balances OWNER TO regress_ledger_owner;
SET ROLE regress_ledger_other;
SELECT ledger.legacy_preflight();
SELECT ledger.attach_legacy();
SELECT ledger.legacy_attach('balances', NULL, 'user_id', 'record', NULL, 'me', true);
SET ROLE regress_ledger_deputy;
SELECT check_name, passed FROM ledger.attach_legacy() WHERE check_name IN ('owner_rights', 'attached');
SELECT ledger.configure_capture('balances', 'refuse', 'a try');
SET ROLE regress_ledger_other;
SELECT ledger.configure_capture('balances', 'record', 'not mine');
SELECT ledger.detach_legacy('balances');
RESET ROLE;
SELECT attached_by, capture FROM ledger.legacy_mappings WHERE legacy = 'balances'::regclass;
SELECT action, capture, reason, changed_by FROM ledger.legacy_log WHERE legacy = 'public.balances' ORDER BY id;
SELECT check_name, detail FROM ledger.attach_legacy() WHERE check_name IN ('not_attached', 'attached');
SELECT ledger.detach_legacy('balances');
-- The owner's own rights are looked at as well.
REVOKE SELECT, INSERT, UPDATE ON balances FROM regress_ledger_owner;
SELECT check_name, passed, detail, hint FROM ledger.attach_legacy() WHERE check_name IN ('owner_rights', 'attached');
GRANT SELECT, INSERT, UPDATE ON balances TO regress_ledger_owner;

-- A table that was dropped without being detached.
CREATE TABLE odd.gone (user_id uuid PRIMARY KEY, buying_power numeric, pending_deposits numeric);
SELECT passed FROM ledger.attach_legacy('odd.gone') WHERE check_name = 'attached';
SELECT legacy::oid AS gone FROM ledger.legacy_mappings WHERE detached_at IS NULL \gset
SELECT public.raises('DROP TABLE odd.gone');
SET ledger.allow_drop = on;
DROP TABLE odd.gone;
RESET ledger.allow_drop;
SELECT replace(public.raises(format('SELECT ledger.get_user_balance(%L)', :alice)), :'gone', 'OID');
SELECT replace(public.raises(format('SELECT ledger.credit_user_usdc(%L, 1, %L)', :alice, 'deposit')), :'gone', 'OID');
SELECT check_name, passed FROM ledger.verify() WHERE check_name = 'legacy_tables';
SELECT ledger.detach_legacy(:gone::regclass);
SELECT ledger.credit_user_usdc(:alice, 1, 'deposit') > 0 AS posted;
SELECT * FROM public.ledger_oracle();

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
DROP ROLE regress_ledger_other, regress_ledger_deputy, regress_ledger_owner;
