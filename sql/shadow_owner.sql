--
-- The owner of a legacy table is not to get the rights of who calls the
-- ledger, nor he who calls it those of the owner.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_shadow_owner
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
DROP TABLE public.balances CASCADE;
CREATE ROLE regress_ledger_shop LOGIN;
CREATE ROLE regress_ledger_service LOGIN;
CREATE SCHEMA shop AUTHORIZATION regress_ledger_shop;
CREATE SCHEMA service AUTHORIZATION regress_ledger_service;
GRANT USAGE ON SCHEMA shop, service TO PUBLIC;
SELECT ledger.grant_access('regress_ledger_service', 'writer');
\set ECHO all

-- A key function of the owner's that leaves something behind for when the
-- role is the caller's again: an event that fires at commit, a search_path.
SET SESSION AUTHORIZATION regress_ledger_shop;
CREATE TABLE shop.later (i int);
CREATE FUNCTION shop.take() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	ALTER ROLE regress_ledger_shop SUPERUSER;
	RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER take AFTER INSERT ON shop.later DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION shop.take();
CREATE FUNCTION shop.name() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF current_user <> 'regress_ledger_shop' THEN
		RAISE EXCEPTION 'a key function runs as %', current_user;
	END IF;
END
$$;
CREATE FUNCTION shop.leave() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF current_setting('shop.leave', true) = 'event' THEN
		INSERT INTO shop.later VALUES (1);
	ELSIF current_setting('shop.leave', true) = 'path' THEN
		PERFORM set_config('search_path', 'shop', false);
	ELSIF current_setting('shop.leave', true) = 'name' THEN
		PERFORM name();
	END IF;
END
$$;
CREATE FUNCTION shop.user_of(text) RETURNS uuid LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
	PERFORM shop.leave();
	RETURN substr($1, 3)::uuid;
END
$$;
CREATE FUNCTION shop.key_of(uuid) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
	PERFORM shop.leave();
	RETURN 'c-' || $1;
END
$$;
CREATE TABLE shop.balances (
	user_id text PRIMARY KEY,
	buying_power numeric NOT NULL DEFAULT 0,
	pending_deposits numeric NOT NULL DEFAULT 0,
	currency text NOT NULL DEFAULT 'USD',
	updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO shop.balances VALUES ('c-' || :alice, 100, 50);
RESET SESSION AUTHORIZATION;
SELECT passed, detail FROM ledger.attach_legacy('shop.balances', key_functions => ARRAY['shop.user_of', 'shop.key_of'])
	WHERE check_name = 'attached';
SET shop.leave = 'event';
SELECT count(*) FROM ledger.reconcile();
CALL ledger.run_reconciliation();
CALL ledger.backfill();
SELECT passed, detail FROM ledger.legacy_preflight('shop.balances', key_functions => ARRAY['shop.user_of', 'shop.key_of'])
	WHERE NOT passed AND detail ~ 'deferred';
UPDATE shop.balances SET buying_power = buying_power + 1;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_ledger_shop';
SET shop.leave = 'path';
SELECT count(*) FROM ledger.reconcile();
UPDATE shop.balances SET buying_power = buying_power - 1;
SHOW search_path;
RESET shop.leave;

-- A trigger function of the owner's that uses a name unqualified, in the
-- search_path of a caller who has something of that name.
SET SESSION AUTHORIZATION regress_ledger_shop;
CREATE TABLE shop.noted (who text, path text);
CREATE FUNCTION shop.audit(text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO shop.noted VALUES (current_user, current_setting('search_path'))
$$;
CREATE FUNCTION shop.audited() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM audit(NEW.user_id);
	RETURN NEW;
END
$$;
CREATE TRIGGER audited BEFORE UPDATE ON shop.balances FOR EACH ROW EXECUTE FUNCTION shop.audited();
RESET SESSION AUTHORIZATION;
SELECT ledger.configure(shadow_mode => true);
SET SESSION AUTHORIZATION regress_ledger_service;
CREATE FUNCTION service.audit(text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO shop.noted VALUES ('service as ' || current_user, current_setting('search_path'))
$$;
SET search_path = service;
SELECT ledger.credit_user_usdc(:alice, 5, 'to the wallet') > 0 AS posted;
SHOW search_path;
RESET search_path;
RESET SESSION AUTHORIZATION;
TABLE shop.noted;

-- A key function runs as the owner and finds his names, whoever writes the table
-- or posts for a user who has no row, in whatever search_path.
DROP TRIGGER audited ON shop.balances;
GRANT SELECT, INSERT, UPDATE ON shop.balances TO regress_ledger_service;
SET SESSION AUTHORIZATION regress_ledger_service;
CREATE FUNCTION service.name() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'found by %', current_user; END $$;
SET search_path = service;
SET shop.leave = 'name';
UPDATE shop.balances SET buying_power = buying_power + 3;
UPDATE shop.balances SET buying_power = buying_power - 3;
INSERT INTO shop.balances VALUES ('c-' || :bob, 7, 0);
SELECT ledger.credit_user_usdc(:carol, 2, 'the first') > 0 AS posted;
SELECT usdc_balance, fiat_exposure FROM ledger.get_user_balance(:bob);
SELECT usdc_balance, pg_catalog.current_setting('search_path') FROM ledger.get_user_balance(:carol);
RESET search_path;
RESET shop.leave;
RESET SESSION AUTHORIZATION;
SELECT operation, acting_role, deltas FROM ledger.legacy_writes ORDER BY id;
SELECT user_id, buying_power, pending_deposits FROM shop.balances ORDER BY 1;

-- The CHECK of a condition's type runs as the owner too.
SELECT shadow_mode FROM ledger.configure(shadow_mode => false);
SELECT ledger.detach_legacy('shop.balances');
SET SESSION AUTHORIZATION regress_ledger_shop;
CREATE TABLE shop.checked (by name, value text);
GRANT INSERT ON shop.checked TO PUBLIC;
CREATE FUNCTION shop.look(value text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO shop.checked VALUES (current_user, value);
	RETURN true;
END
$$;
CREATE DOMAIN shop.currency AS text CHECK (shop.look(VALUE));
CREATE TABLE shop.wallets (customer int, currency shop.currency, amount numeric NOT NULL DEFAULT 0, PRIMARY KEY (customer, currency));
RESET SESSION AUTHORIZATION;
SELECT passed FROM ledger.attach_legacy('shop.wallets', '{"columns": [{"column": "amount", "accounts": ["usdc_balance"], "where": {"currency": "USDC"}}]}', 'customer') WHERE check_name = 'attached';
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SET SESSION AUTHORIZATION regress_ledger_service;
SELECT ledger.credit_user_usdc(ledger.integer_to_uuid(1), 1, 'no row yet') > 0 AS posted;
RESET SESSION AUTHORIZATION;
SELECT DISTINCT by FROM shop.checked;
TABLE shop.wallets;

-- A table that is gone when its rows are counted.
\set VERBOSITY terse
SELECT ledger.legacy_count(999999::regclass, 'true');
\set VERBOSITY default

SELECT * FROM public.ledger_oracle();
SELECT * FROM ledger.verify() WHERE NOT passed;
\set ECHO none
\c postgres
SET client_min_messages = warning;
DROP DATABASE regress_ledger_shadow_owner;
DROP ROLE regress_ledger_shop, regress_ledger_service;
