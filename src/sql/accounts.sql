/*
 * accounts.sql: the accounts and their live totals.
 *
 * Nothing that is indexed ever changes, so every update can be HOT; what never
 * changes stands first, so that WAL of an update holds the totals alone. New
 * rows leave a third of their page free for new versions (account.c); fillfactor
 * says when PostgreSQL clears a page, which it would otherwise do at each visit.
 * So vacuum finds little to do, but should not wait for the default fifth of all
 * rows to change: what a long snapshot has kept is removed by vacuum alone.
 */

CREATE SEQUENCE ledger.account_id_seq;

CREATE TABLE ledger.accounts (
	id bigint NOT NULL DEFAULT pg_catalog.nextval('ledger.account_id_seq') PRIMARY KEY,
	user_id uuid,
	account_type text COLLATE "C" NOT NULL,
	currency text COLLATE "C" NOT NULL,
	external_id text COLLATE "C",
	status text COLLATE "C" NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'frozen', 'closed')),
	min_balance numeric,
	opened integer NOT NULL DEFAULT 0,
	stripes smallint NOT NULL DEFAULT 0 CHECK (stripes BETWEEN 0 AND 1024),
	version bigint NOT NULL DEFAULT 0,
	debits numeric NOT NULL DEFAULT 0 CHECK (debits >= 0),
	credits numeric NOT NULL DEFAULT 0 CHECK (credits >= 0),
	CONSTRAINT accounts_identity UNIQUE NULLS NOT DISTINCT (user_id, account_type, currency, external_id)
) USING heap WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
COMMENT ON TABLE ledger.accounts IS 'Accounts with their live totals. Written by the ledger''s functions alone; read the view account_balances.';
COMMENT ON COLUMN ledger.accounts.min_balance IS 'The lowest balance allowed, in the account''s normal direction; NULL: the type''s.';
COMMENT ON COLUMN ledger.accounts.opened IS 'On a user''s first account (the lowest id): one bit for each legacy mapping from which the user has been opened.';
COMMENT ON COLUMN ledger.accounts.stripes IS 'Rows of account_stripes that hold what was posted since it was striped; 0: this row holds all.';
COMMENT ON COLUMN ledger.accounts.version IS 'Transactions that have moved this account, but for those that its stripes count.';

/*
 * A striped account has all its rows from the beginning, each on a page of its
 * own: sessions that post at once touch neither the same row nor the same page.
 * The low fillfactor makes PostgreSQL clear a page of dead versions early, and
 * keeps stripes apart that a restore has put together. The table is small and
 * always busy: vacuum comes by count of rows, and does not pause.
 */
CREATE TABLE ledger.account_stripes (
	account_id bigint NOT NULL,
	stripe smallint NOT NULL CHECK (stripe BETWEEN 0 AND 1023),
	version bigint NOT NULL DEFAULT 0,
	debits numeric NOT NULL DEFAULT 0 CHECK (debits >= 0),
	credits numeric NOT NULL DEFAULT 0 CHECK (credits >= 0),
	PRIMARY KEY (account_id, stripe)
) USING heap WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
	autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE ledger.account_stripes IS 'Totals of accounts that many sessions post to at once: an account''s are its own row''s and those of its stripes together. Written by the ledger''s functions alone; read the view account_balances.';

SELECT pg_catalog.pg_extension_config_dump('ledger.account_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.accounts', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.account_stripes', '');

CREATE TABLE ledger.account_status_log (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	account_id bigint NOT NULL,
	status text COLLATE "C" NOT NULL,
	min_balance numeric,
	stripes smallint NOT NULL DEFAULT 0,
	reason text NOT NULL,
	changed_by text NOT NULL DEFAULT CURRENT_USER,
	changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
) USING heap;
COMMENT ON TABLE ledger.account_status_log IS 'Every change of an account''s status, limit or stripes: what it became, why, who and when.';
SELECT pg_catalog.pg_extension_config_dump('ledger.account_status_log', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.account_status_log_id_seq', '');
