/*
 * journal.sql: the append-only journal, one row a posting.
 *
 * A row carries both legs, so it cannot be unbalanced. The first row of a
 * transaction (ordinal 0) carries the transaction's header as well.
 *
 * A row is never changed, so vacuum may freeze it the first time it comes, and
 * never has to come again; it comes for each hundredth of new rows, because a
 * fifth of a large journal is hours of work at once, and until then no page of
 * it is known to be visible to all.
 */

CREATE SEQUENCE ledger.transaction_id_seq;

CREATE TABLE ledger.journal (
	transaction_id bigint NOT NULL,
	debit_account_id bigint NOT NULL,
	credit_account_id bigint NOT NULL,
	created_at timestamptz NOT NULL,
	xact xid8,
	effective_at timestamptz,
	reverses bigint,
	key uuid,
	user_id uuid,
	reference_id uuid,
	ordinal smallint NOT NULL CHECK (ordinal >= 0),
	amount numeric NOT NULL CHECK (amount > 0),
	debit_balance_after numeric,
	credit_balance_after numeric,
	type text COLLATE "C",
	reference_type text COLLATE "C",
	posted_by text,
	description text,
	metadata jsonb,
	CHECK (debit_account_id <> credit_account_id),
	CHECK ((ordinal = 0) = (type IS NOT NULL)),
	PRIMARY KEY (transaction_id, ordinal) WITH (fillfactor = 96)
) USING heap WITH (autovacuum_vacuum_insert_scale_factor = 0.01, autovacuum_vacuum_insert_threshold = 100000,
	autovacuum_freeze_min_age = 0, autovacuum_analyze_scale_factor = 0.01);
/*
 * With the ordinal, though it costs 8 bytes: without it the planner does not
 * see the whole order of a statement here, and reads the primary key instead.
 * Ids, and keys that begin with a time, come nearly in order: a page that is
 * left behind needs room for a few late ones only.
 */
CREATE INDEX journal_debit ON ledger.journal (debit_account_id, transaction_id, ordinal) WITH (fillfactor = 96);
CREATE INDEX journal_credit ON ledger.journal (credit_account_id, transaction_id, ordinal) WITH (fillfactor = 96);
CREATE UNIQUE INDEX journal_key ON ledger.journal (key) WITH (fillfactor = 96) WHERE key IS NOT NULL;
CREATE INDEX journal_reverses ON ledger.journal (reverses) WHERE reverses IS NOT NULL;
COMMENT ON TABLE ledger.journal IS 'The append-only journal, one row a posting: debit account, credit account, amount. Read the views transactions and entries.';
COMMENT ON COLUMN ledger.journal.key IS 'Idempotency key: 6 bytes of the first UUID in the key''s text, 10 bytes of the text''s SHA-256.';
COMMENT ON COLUMN ledger.journal.reference_type IS 'NULL beside a reference_id: the transaction''s type.';
COMMENT ON COLUMN ledger.journal.xact IS 'The database transaction that wrote the row.';
COMMENT ON COLUMN ledger.journal.effective_at IS 'When the movement counts; NULL: when it was written.';

-- Taken while no posting is in flight: which were made under which settings.
ALTER TABLE ledger.settings_log ADD last_transaction bigint DEFAULT pg_catalog.pg_sequence_last_value('ledger.transaction_id_seq');
COMMENT ON COLUMN ledger.settings_log.last_transaction IS 'The last transaction id taken under the settings before; NULL: none.';

SELECT pg_catalog.pg_extension_config_dump('ledger.transaction_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.journal', '');
