/*
 * types.sql: currencies and account types.
 *
 * The shipped rows are immutable and left out of pg_dump, so that a restore
 * never collides with them; users add rows of their own.
 */

/*
 * A schema that somebody made beforehand may hold anything. A superuser's is
 * trusted: pg_restore creates it, with the owner it had, before the extension.
 */
DO $$
BEGIN
	IF EXISTS (SELECT FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
			   WHERE n.nspname OPERATOR(pg_catalog.=) 'ledger'
				 AND NOT (r.rolsuper OR r.rolname OPERATOR(pg_catalog.=) CURRENT_USER)) THEN
		RAISE EXCEPTION 'schema ledger exists already and belongs to another role'
			USING ERRCODE = 'duplicate_schema',
				  HINT = 'Drop or rename that schema first.';
	END IF;
END
$$;

CREATE TABLE ledger.currencies (
	code text COLLATE "C" PRIMARY KEY CHECK (code ~ '^[A-Z][A-Z0-9_]{1,11}$'),
	scale smallint NOT NULL CHECK (scale BETWEEN 0 AND 30),
	display_digits smallint NOT NULL DEFAULT 2 CHECK (display_digits BETWEEN 0 AND scale),
	shipped boolean NOT NULL DEFAULT false
) USING heap;
COMMENT ON TABLE ledger.currencies IS 'Currencies: scale is the most fractional digits that an amount may have, display_digits the fewest that it is shown with. Shipped rows cannot be changed; insert rows of your own.';

INSERT INTO ledger.currencies (code, scale, display_digits, shipped) VALUES
	('USDC', 18, 2, true),
	('USD', 18, 2, true);

CREATE TABLE ledger.account_types (
	name text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
	owner text COLLATE "C" NOT NULL CHECK (owner IN ('user', 'house')),
	currency text COLLATE "C",
	normal_side text COLLATE "C" NOT NULL CHECK (normal_side IN ('debit', 'credit')),
	min_balance numeric CHECK (min_balance NOT IN ('NaN', 'Infinity', '-Infinity')),
	stripes smallint NOT NULL DEFAULT 0 CHECK (stripes BETWEEN 0 AND 1024),
	description text,
	shipped boolean NOT NULL DEFAULT false,
	CHECK (owner = 'house' OR (currency IS NOT NULL AND normal_side = 'credit' AND min_balance IS NOT NULL AND min_balance >= 0)),
	CHECK (stripes = 0 OR min_balance IS NULL)
) USING heap;
COMMENT ON TABLE ledger.account_types IS 'Account types: owner user or house, currency (NULL: one account for each currency), normal side, lowest balance (NULL: none). User types are credit-normal and never below zero. stripes is what a new account of the type begins with: so many rows share its totals, so that as many sessions post to it at once; 0: one row. Only a type without a lowest balance can have them. Shipped rows cannot be changed; insert rows of your own.';

INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance, stripes, shipped, description) VALUES
	('usdc_balance', 'user', 'USDC', 'credit', 0, 0, true, 'The customer''s USDC, free to use'),
	('pending_investment', 'user', 'USDC', 'credit', 0, 0, true, 'The customer''s USDC, reserved for orders in flight'),
	('fiat_exposure', 'user', 'USD', 'credit', 0, 0, true, 'The customer''s USD at the broker: cash and, after a fill, stock at cost'),
	('system_buffer_usdc', 'house', 'USDC', 'debit', NULL, 128, true, 'USDC held on chain'),
	('system_buffer_fiat', 'house', 'USD', 'debit', NULL, 128, true, 'USD at the converter'),
	('broker_operational', 'house', 'USD', 'debit', NULL, 128, true, 'The broker''s cash plus customers'' stock at cost'),
	('fx_clearing', 'house', NULL, 'credit', NULL, 128, true, 'Treasury''s open position: above zero to be sold, below to be bought'),
	('house_equity', 'house', NULL, 'credit', NULL, 128, true, 'Capital, fees earned and conversion gains, less costs'),
	('opening_balance', 'house', NULL, 'credit', NULL, 128, true, 'The other side of opening postings'),
	('legacy_suspense', 'house', NULL, 'credit', NULL, 128, true, 'Outside writes and repairs that wait for an explanation');

/* Shipped rows stay as they are; so does what the accounts of a type rest on. */
CREATE FUNCTION ledger.type_guard() RETURNS trigger
	AS 'MODULE_PATHNAME', 'ledger_type_guard' LANGUAGE C;
REVOKE ALL ON FUNCTION ledger.type_guard() FROM PUBLIC;
COMMENT ON FUNCTION ledger.type_guard() IS 'Trigger: refuses changes of shipped currencies and account types, and tells every session to read them anew.';

CREATE TRIGGER type_guard BEFORE INSERT OR UPDATE OR DELETE ON ledger.currencies
	FOR EACH ROW EXECUTE FUNCTION ledger.type_guard();
CREATE TRIGGER type_guard BEFORE INSERT OR UPDATE OR DELETE ON ledger.account_types
	FOR EACH ROW EXECUTE FUNCTION ledger.type_guard();
ALTER TABLE ledger.currencies ENABLE ALWAYS TRIGGER type_guard;
ALTER TABLE ledger.account_types ENABLE ALWAYS TRIGGER type_guard;

SELECT pg_catalog.pg_extension_config_dump('ledger.currencies', 'WHERE NOT shipped');
SELECT pg_catalog.pg_extension_config_dump('ledger.account_types', 'WHERE NOT shipped');
