/*
 * settings.sql: the one row of settings, and every change that was made.
 *
 * The row comes into being at the first change; without it the defaults hold.
 * RowExclusiveLock on the table is what every posting holds to its end, so
 * that no transaction mixes two modes.
 */

/* What the ledger stamps and measures by days and hours: gates, findings, runs. */
CREATE FUNCTION ledger.clock() RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'ledger_clock_now' LANGUAGE C VOLATILE PARALLEL SAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.clock() FROM PUBLIC;
COMMENT ON FUNCTION ledger.clock() IS 'The time by which the migration goes: clock_timestamp(), shifted by the test clock if there is one.';

CREATE TABLE ledger.settings (
	"only" boolean PRIMARY KEY DEFAULT true CHECK ("only"),
	shadow_mode boolean NOT NULL DEFAULT false,
	strict_mode boolean NOT NULL DEFAULT false,
	balance_source text COLLATE "C" NOT NULL DEFAULT 'ledger' CHECK (balance_source IN ('ledger', 'legacy')),
	phase text COLLATE "C" NOT NULL DEFAULT 'migrating' CHECK (phase IN ('migrating', 'cut_over', 'retired')),
	test_clock interval
) USING heap;
COMMENT ON TABLE ledger.settings IS 'The settings in force, one row or none (then: shadow off, strict off, source ledger). Change them with configure().';
COMMENT ON COLUMN ledger.settings.test_clock IS 'What clock() adds; set by set_test_clock().';

CREATE TABLE ledger.settings_log (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	changed_at timestamptz NOT NULL DEFAULT ledger.clock(),
	changed_by text NOT NULL DEFAULT CURRENT_USER,
	shadow_mode boolean NOT NULL,
	strict_mode boolean NOT NULL,
	balance_source text NOT NULL,
	phase text NOT NULL,
	reason text
) USING heap;
COMMENT ON TABLE ledger.settings_log IS 'Every change of the settings: what they became, who, when and why.';

SELECT pg_catalog.pg_extension_config_dump('ledger.settings', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.settings_log', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.settings_log_id_seq', '');

CREATE TABLE ledger.test_clock_log (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	set_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	set_by text NOT NULL,
	shift interval,
	reason text NOT NULL
) USING heap;
COMMENT ON TABLE ledger.test_clock_log IS 'Every test clock that was set: when by the real time, by whom, by how much (NULL: ended) and why.';

/* Which cluster and database the ledger was first used in; no row: in none yet. */
CREATE TABLE ledger.identity (
	"only" boolean PRIMARY KEY DEFAULT true CHECK ("only"),
	system_identifier bigint NOT NULL,
	database_oid bigint NOT NULL,
	since timestamptz NOT NULL
) USING heap;
COMMENT ON TABLE ledger.identity IS 'The cluster and the database that this ledger belongs to. In another, a copy, nothing is posted until resume().';
COMMENT ON COLUMN ledger.identity.since IS 'First use, or the last resume().';

SELECT pg_catalog.pg_extension_config_dump('ledger.test_clock_log', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.test_clock_log_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.identity', '');

CREATE FUNCTION ledger.set_test_clock(shift interval, reason text) RETURNS void
	AS 'MODULE_PATHNAME', 'ledger_set_test_clock' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.set_test_clock(interval, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.set_test_clock(interval, text) IS 'For tests: shifts the time by which gates, findings and runs go; NULL or zero ends it. For superusers; logged in test_clock_log, shown by readiness().';

CREATE FUNCTION ledger.is_copy() RETURNS boolean
	AS 'MODULE_PATHNAME', 'ledger_is_copy' LANGUAGE C STABLE PARALLEL SAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.is_copy() FROM PUBLIC;
COMMENT ON FUNCTION ledger.is_copy() IS 'Whether this database is a copy of the one that the ledger was used in, where nothing is posted until resume().';

CREATE FUNCTION ledger.takes_no_posting() RETURNS boolean
	AS 'MODULE_PATHNAME', 'ledger_takes_no_posting' LANGUAGE C STABLE PARALLEL SAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.takes_no_posting() FROM PUBLIC;
COMMENT ON FUNCTION ledger.takes_no_posting() IS 'Internal: whether postings are refused, in a copy or while the legacy table alone counts.';

CREATE FUNCTION ledger.resume(reason text) RETURNS void
	AS 'MODULE_PATHNAME', 'ledger_resume' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.resume(text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.resume(text) IS 'Makes a copy (restored, upgraded or cloned database) the ledger: postings, mirror and worker go on. Logged in settings_log.';
