/*
 * legacy.sql: the attached legacy tables, what others wrote to them, and what
 * was found to differ.
 */

CREATE TABLE ledger.legacy_mappings (
	id smallint PRIMARY KEY CHECK (id BETWEEN 1 AND 31),
	legacy regclass NOT NULL UNIQUE,
	key_column text COLLATE "C" NOT NULL,
	key_kind text COLLATE "C" NOT NULL DEFAULT 'uuid' CHECK (key_kind IN ('uuid', 'text', 'integer', 'functions')),
	key_functions text[],
	constants jsonb NOT NULL DEFAULT '{}',
	capture text COLLATE "C" NOT NULL CHECK (capture IN ('record', 'post', 'refuse')),
	attached_at timestamptz NOT NULL DEFAULT ledger.clock(),
	attached_by text NOT NULL,
	detached_at timestamptz,
	CHECK ((key_kind = 'functions') = (key_functions IS NOT NULL))
) USING heap;
COMMENT ON TABLE ledger.legacy_mappings IS 'Legacy tables that are or were attached. The row of a table is used again when it is attached again: accounts.opened refers to its id.';
COMMENT ON COLUMN ledger.legacy_mappings.id IS 'Bit id - 1 of accounts.opened.';
COMMENT ON COLUMN ledger.legacy_mappings.key_kind IS 'How a key stands for a user''s uuid: it is one, is its text, is an integer (integer_to_uuid()), or by key_functions.';
COMMENT ON COLUMN ledger.legacy_mappings.constants IS 'For each such column the values that a row may have; the first is what the mirror inserts.';

CREATE TABLE ledger.legacy_columns (
	mapping_id smallint NOT NULL,
	ordinal smallint NOT NULL,
	legacy_column text COLLATE "C" NOT NULL,
	column_name text COLLATE "C" NOT NULL,
	accounts text[] COLLATE "C" NOT NULL CHECK (pg_catalog.cardinality(accounts) BETWEEN 1 AND 8),
	unit numeric NOT NULL DEFAULT 1 CHECK (unit > 0 AND unit < 'Infinity'),
	condition jsonb NOT NULL DEFAULT '{}',
	PRIMARY KEY (mapping_id, ordinal),
	UNIQUE (mapping_id, legacy_column)
) USING heap;
COMMENT ON TABLE ledger.legacy_columns IS 'Mapped columns: each is the sum of a user''s accounts of these types; openings go to the first.';
COMMENT ON COLUMN ledger.legacy_columns.legacy_column IS 'As it is reported everywhere: the column''s name, with a condition column[value].';
COMMENT ON COLUMN ledger.legacy_columns.unit IS 'The amount is what the column holds, times this.';
COMMENT ON COLUMN ledger.legacy_columns.condition IS 'The column lives in the row whose columns have these values; all conditions of a table are over the same columns.';

CREATE TABLE ledger.legacy_log (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	legacy text NOT NULL,
	action text COLLATE "C" NOT NULL CHECK (action IN ('attach', 'detach', 'capture')),
	capture text COLLATE "C",
	reason text,
	changed_by text NOT NULL,
	changed_at timestamptz NOT NULL DEFAULT ledger.clock()
) USING heap;
COMMENT ON TABLE ledger.legacy_log IS 'When which legacy table was attached, detached or captured otherwise, by whom and why.';

CREATE TABLE ledger.legacy_writes (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	mapping_id smallint NOT NULL,
	user_id uuid NOT NULL,
	operation text COLLATE "C" NOT NULL CHECK (operation IN ('INSERT', 'UPDATE', 'DELETE')),
	kind text COLLATE "C" NOT NULL CHECK (kind IN ('outside', 'posted', 'double_write', 'bypass', 'mirror_side_effect')),
	session_role text NOT NULL,
	acting_role text NOT NULL,
	application_name text,
	query_id bigint,
	statement text,
	before jsonb,
	after jsonb,
	deltas jsonb NOT NULL,
	at timestamptz NOT NULL DEFAULT ledger.clock(),
	xact xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
	transaction_id bigint,
	note text,
	other_half bigint,
	xact_start timestamptz NOT NULL DEFAULT pg_catalog.now(),
	after_transaction bigint DEFAULT pg_catalog.pg_sequence_last_value('ledger.transaction_id_seq')
) USING heap;
CREATE INDEX legacy_writes_user ON ledger.legacy_writes (user_id, id);
COMMENT ON TABLE ledger.legacy_writes IS 'Writes to legacy tables that were not the mirror''s: who, with what, before, after, and by how much the mapped columns changed.';
COMMENT ON COLUMN ledger.legacy_writes.kind IS 'outside; posted: an outside write that the ledger has followed (capture post); double_write: in a transaction that also posted for the user in shadow mode; bypass: under session_replication_role = replica; mirror_side_effect: a trigger changed what the mirror wrote.';

COMMENT ON COLUMN ledger.legacy_writes.transaction_id IS 'The captured_write that it was posted by; with a kind other than posted that one is reversed.';
COMMENT ON COLUMN ledger.legacy_writes.other_half IS 'Of a row that changed its key: the write of the user from whom, or to whom, it went.';
COMMENT ON COLUMN ledger.legacy_writes.note IS 'Why it was not posted, with capture post; of a write that moved no amount, what it changed.';
COMMENT ON COLUMN ledger.legacy_writes.xact_start IS 'When the transaction that wrote began: what it read may be as old.';
COMMENT ON COLUMN ledger.legacy_writes.after_transaction IS 'The last transaction id taken before the write. Under the row''s lock, so it tells which of the user''s transactions came before.';

CREATE VIEW ledger.legacy_writers AS
	SELECT w.acting_role AS role, w.application_name, w.query_id, pg_catalog.min(w.statement) AS statement,
		pg_catalog.count(*) AS count, pg_catalog.max(w.at) AS last_seen
	FROM ledger.legacy_writes w
	WHERE w.kind OPERATOR(pg_catalog.<>) 'mirror_side_effect'
	GROUP BY w.acting_role, w.application_name, w.query_id, CASE WHEN w.query_id IS NULL THEN w.statement END;
COMMENT ON VIEW ledger.legacy_writers IS 'Who still writes to legacy tables past the ledger: role, application, query id (with compute_query_id), one of the statements, how often, when last.';

CREATE TABLE ledger.discrepancy_rows (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	mapping_id smallint NOT NULL,
	user_id uuid,
	legacy_column text COLLATE "C" NOT NULL,
	cause text COLLATE "C" NOT NULL CHECK (cause IN ('mismatch', 'missing_legacy', 'missing_ledger', 'non_finite',
		'mirror_failed', 'mirror_altered', 'double_write', 'not_captured', 'strict_failure', 'refused_write')),
	source text COLLATE "C" NOT NULL CHECK (source IN ('posting', 'capture', 'read', 'commit', 'run', 'repair')),
	ledger_value numeric,
	legacy_value numeric,
	error_code text COLLATE "C",
	note text,
	first_seen timestamptz NOT NULL DEFAULT ledger.clock(),
	last_seen timestamptz NOT NULL DEFAULT ledger.clock(),
	count bigint NOT NULL DEFAULT 1,
	none_count bigint NOT NULL DEFAULT 0 CHECK (none_count >= 0),
	in_progress_count bigint NOT NULL DEFAULT 0 CHECK (in_progress_count >= 0),
	aborted_count bigint NOT NULL DEFAULT 0 CHECK (aborted_count >= 0),
	status text COLLATE "C" NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'resolved')),
	resolved_at timestamptz,
	CHECK (count >= none_count + in_progress_count + aborted_count),
	CHECK ((status = 'resolved') = (resolved_at IS NOT NULL))
) USING heap;
CREATE UNIQUE INDEX discrepancy_rows_open ON ledger.discrepancy_rows (user_id, mapping_id, legacy_column, cause)
	NULLS NOT DISTINCT WHERE status = 'open';
COMMENT ON TABLE ledger.discrepancy_rows IS 'Discrepancies found; read the view discrepancies. One open row for each user, column and cause.';
COMMENT ON COLUMN ledger.discrepancy_rows.user_id IS 'NULL: of all users, a TRUNCATE that was refused.';
COMMENT ON COLUMN ledger.discrepancy_rows.legacy_column IS '* is the whole row: a write that was refused and changed no mapped column.';
COMMENT ON COLUMN ledger.discrepancy_rows.none_count IS 'How often it was seen by a transaction that had written nothing.';
COMMENT ON COLUMN ledger.discrepancy_rows.in_progress_count IS 'How often by one that has not ended; evidence_pending has which.';
COMMENT ON COLUMN ledger.discrepancy_rows.aborted_count IS 'How often by one that was rolled back. The rest of count was committed.';

CREATE VIEW ledger.discrepancies AS
	SELECT d.id, d.user_id, d.legacy_column, d.ledger_value, d.legacy_value,
		COALESCE(d.ledger_value, 0) OPERATOR(pg_catalog.-) COALESCE(d.legacy_value, 0) AS difference,
		d.cause, d.source, d.first_seen, d.last_seen, d.count,
		CASE WHEN d.count OPERATOR(pg_catalog.>) (d.none_count OPERATOR(pg_catalog.+) d.in_progress_count
				OPERATOR(pg_catalog.+) d.aborted_count) THEN 'committed'
			WHEN d.in_progress_count OPERATOR(pg_catalog.>) 0 THEN 'in progress'
			WHEN d.none_count OPERATOR(pg_catalog.>) 0 THEN 'none'
			ELSE 'aborted' END AS outcome,
		d.status, d.resolved_at,
		pg_catalog.concat_ws(': ', d.error_code, d.note) AS note
	FROM ledger.discrepancy_rows d;
COMMENT ON VIEW ledger.discrepancies IS 'Discrepancies between ledger and legacy row, one open row for each user, column and cause; difference = ledger - legacy. The note of a failed mirror begins with its SQLSTATE.';
COMMENT ON COLUMN ledger.discrepancies.outcome IS 'Of the transactions that saw it, the first of these that one has: committed, in progress, none (it had written nothing), aborted.';

/*
 * Of several rows with the same money, one for each cause that it was met
 * under, the one last seen that has amounts; with what says more than that
 * both sides differ, if any does.
 */
CREATE FUNCTION ledger.open_discrepancies() RETURNS SETOF ledger.discrepancy_rows
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	(SELECT DISTINCT ON (d.user_id, d.mapping_id, d.legacy_column) d.id, d.mapping_id, d.user_id, d.legacy_column,
		first_value(d.cause) OVER told, d.source, d.ledger_value, d.legacy_value, first_value(d.error_code) OVER told, first_value(d.note) OVER told,
		d.first_seen, d.last_seen, d.count, d.none_count, d.in_progress_count, d.aborted_count, d.status, d.resolved_at
	FROM ledger.discrepancy_rows d WHERE d.status = 'open' AND d.user_id IS NOT NULL
	WINDOW told AS (PARTITION BY d.user_id, d.mapping_id, d.legacy_column
		ORDER BY d.cause = 'refused_write', d.cause IN ('mismatch', 'strict_failure'), d.last_seen DESC, d.id DESC)
	ORDER BY d.user_id, d.mapping_id, d.legacy_column, d.ledger_value IS NULL AND d.legacy_value IS NULL, d.last_seen DESC, d.id DESC)
	UNION ALL
	SELECT d.* FROM ledger.discrepancy_rows d WHERE d.status = 'open' AND d.user_id IS NULL
$$;
REVOKE ALL ON FUNCTION ledger.open_discrepancies() FROM PUBLIC;
COMMENT ON FUNCTION ledger.open_discrepancies() IS 'Internal: what is open, each user and column once.';

SELECT pg_catalog.pg_extension_config_dump('ledger.legacy_mappings', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.legacy_columns', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.legacy_log', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.legacy_log_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.legacy_writes', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.legacy_writes_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.discrepancy_rows', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.discrepancy_rows_id_seq', '');

/* Whoever changes a mapping, every session reads it anew. */
CREATE FUNCTION ledger.legacy_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'ledger_legacy_changed' LANGUAGE C;
REVOKE ALL ON FUNCTION ledger.legacy_changed() FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_changed() IS 'Trigger: tells every session to read the mappings of legacy tables anew.';

CREATE TRIGGER legacy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.legacy_mappings
	FOR EACH STATEMENT EXECUTE FUNCTION ledger.legacy_changed();
CREATE TRIGGER legacy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON ledger.legacy_columns
	FOR EACH STATEMENT EXECUTE FUNCTION ledger.legacy_changed();
ALTER TABLE ledger.legacy_mappings ENABLE ALWAYS TRIGGER legacy_changed;
ALTER TABLE ledger.legacy_columns ENABLE ALWAYS TRIGGER legacy_changed;

CREATE FUNCTION ledger.capture() RETURNS trigger
	AS 'MODULE_PATHNAME', 'ledger_capture_trigger' LANGUAGE C;
REVOKE ALL ON FUNCTION ledger.capture() FROM PUBLIC;
COMMENT ON FUNCTION ledger.capture() IS 'Trigger on a legacy table: tells the mirror''s writes from others and records or refuses those. attach_legacy() creates it.';
