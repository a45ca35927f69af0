/*
 * batch.sql: many transfers at once, by a function and by a table.
 */

CREATE TYPE ledger.transfer AS (type text, debit_account bigint, credit_account bigint,
	amount numeric, idempotency_key text, user_id uuid, debit_type text, credit_type text,
	currency text, reference_id uuid, reference_type text, description text, metadata jsonb,
	effective_at timestamptz);
COMMENT ON TYPE ledger.transfer IS
'One item of a batch: a transaction of one posting. Each account is named by its id, or by its type: a user''s type is user_id''s account, a house''s type the house''s; currency only for types with an account for each currency.';

CREATE FUNCTION ledger.post_batch(transfers ledger.transfer[], on_error text DEFAULT 'stop')
	RETURNS TABLE (item integer, result text, transaction_id bigint, message text)
	AS 'MODULE_PATHNAME', 'ledger_post_batch'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.post_batch(ledger.transfer[], text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.post_batch(ledger.transfer[], text) IS
'Posts up to 100,000 transfers in their order, each as post() would. on_error stop: all or nothing; continue: what is refused is left out. Result for each: posted, replayed, or the SQLSTATE that post() would raise. Errors: 22004, 22023, 54000, then those of a transfer.';

/*
 * COPY and INSERT into it post. The constraint sees to it that no row stays,
 * whatever becomes of the triggers; so there is nothing to dump, but a row of
 * its own for every relation keeps pg_dump from forgetting one.
 */
CREATE TABLE ledger.inbox (
	type text,
	debit_account bigint,
	credit_account bigint,
	amount numeric,
	idempotency_key text,
	user_id uuid,
	debit_type text,
	credit_type text,
	currency text,
	reference_id uuid,
	reference_type text,
	description text,
	metadata jsonb,
	effective_at timestamptz,
	CONSTRAINT inbox_keeps_no_rows CHECK (false)
) USING heap;
COMMENT ON TABLE ledger.inbox IS
'Transfers that are copied or inserted here are posted at the end of the statement, each as post() would; no row stays. The columns are those of ledger.transfer. ledger.inbox_on_error says what becomes of the others when one is refused.';

/*
 * What was not posted. Rows are deleted by whoever has dealt with them.
 */
CREATE TABLE ledger.inbox_results (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	batch xid8 NOT NULL,
	item bigint NOT NULL,
	result text COLLATE "C" NOT NULL,
	transaction_id bigint,
	idempotency_key text,
	message text,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
) USING heap;
CREATE INDEX inbox_results_batch ON ledger.inbox_results (batch, item);
COMMENT ON TABLE ledger.inbox_results IS
'Transfers of ledger.inbox that were not posted: replays, and with ledger.inbox_on_error = continue what was refused. Delete what is done with.';
COMMENT ON COLUMN ledger.inbox_results.batch IS 'The database transaction that inserted it: pg_current_xact_id().';
COMMENT ON COLUMN ledger.inbox_results.item IS 'Its number in the statement, from 1.';
COMMENT ON COLUMN ledger.inbox_results.result IS 'replayed, or the SQLSTATE that post() would raise.';
COMMENT ON COLUMN ledger.inbox_results.transaction_id IS 'The transaction that a replay is one of.';

SELECT pg_catalog.pg_extension_config_dump('ledger.inbox', 'WHERE false');
SELECT pg_catalog.pg_extension_config_dump('ledger.inbox_results', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.inbox_results_id_seq', '');

/*
 * guards() names its triggers. They are enabled always: a session that
 * replays for others posts what it inserts, as it does with post().
 */
CREATE FUNCTION ledger.inbox_post() RETURNS trigger
	AS 'MODULE_PATHNAME', 'ledger_inbox'
	LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.inbox_post() FROM PUBLIC;
COMMENT ON FUNCTION ledger.inbox_post() IS
'Trigger: collects what is inserted into ledger.inbox and posts it at the end of the statement.';
