--
-- explain_discrepancy() where the table holds cents in a row for each user and
-- currency: what is captured is told in amounts.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_explain_cents
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\pset format unaligned
\pset tuples_only on
CREATE FUNCTION u(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT ledger.integer_to_uuid(n) $$;
CREATE TABLE wallets (user_id bigint, currency text, cents bigint NOT NULL DEFAULT 0, PRIMARY KEY (user_id, currency));
INSERT INTO wallets SELECT n, c, 100000 FROM generate_series(1, 4) n, unnest(ARRAY['USDC', 'USD']) c;
\set ECHO all
SELECT passed FROM ledger.attach_legacy('wallets', '{"columns": [
	{"column": "cents", "accounts": ["usdc_balance", "pending_investment"], "unit": 0.01, "where": {"currency": "USDC"}},
	{"column": "cents", "accounts": ["fiat_exposure"], "unit": 0.01, "where": {"currency": "USD"}}]}') WHERE check_name = 'attached';
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
SELECT count(ledger.credit_user_usdc(u(n), 5, 'opens')) FROM generate_series(1, 4) n;
-- read, the ledger posts meanwhile, what was read is written with 12 more
SELECT cents AS was FROM wallets WHERE user_id = 1 AND currency = 'USDC' \gset
SELECT ledger.credit_user_usdc(u(1), 7.25, 'lost') > 0;
UPDATE wallets SET cents = :was + 1200 WHERE user_id = 1 AND currency = 'USDC';
-- the other currency's row
UPDATE wallets SET cents = cents - 250 WHERE user_id = 2 AND currency = 'USD';
DELETE FROM wallets WHERE user_id = 3 AND currency = 'USDC';
SELECT n, e.legacy_column, e.difference, e.cause FROM generate_series(1, 4) n, ledger.explain_discrepancy(u(n)) e ORDER BY 1, 2, 3;
\set ECHO none
\c contrib_regression
DROP DATABASE :database;
