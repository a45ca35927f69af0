/*
 * settings.sql: the one row of settings, and every change that was made.
 *
 * The row comes into being at the first change; without it the defaults hold.
 * RowExclusiveLock on the table is what every posting holds to its end, so
 * that no transaction mixes two modes.
 */

CREATE TABLE ledger.settings (
	"only" boolean PRIMARY KEY DEFAULT true CHECK ("only"),
	shadow_mode boolean NOT NULL DEFAULT false,
	strict_mode boolean NOT NULL DEFAULT false,
	balance_source text COLLATE "C" NOT NULL DEFAULT 'ledger' CHECK (balance_source IN ('ledger', 'legacy')),
	phase text COLLATE "C" NOT NULL DEFAULT 'migrating' CHECK (phase IN ('migrating', 'cut_over', 'retired'))
) USING heap;
COMMENT ON TABLE ledger.settings IS 'The settings in force, one row or none (then: shadow off, strict off, source ledger). Change them with configure().';

CREATE TABLE ledger.settings_log (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
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

/* What the ledger stamps and measures by days and hours: gates, findings, runs. */
CREATE FUNCTION ledger.clock() RETURNS timestamptz
	LANGUAGE sql VOLATILE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT clock_timestamp()
$$;
REVOKE ALL ON FUNCTION ledger.clock() FROM PUBLIC;
COMMENT ON FUNCTION ledger.clock() IS 'Internal: the time by which the migration goes.';
