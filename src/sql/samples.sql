/*
 * samples.sql: what metrics and alerts need to know of the last minutes.
 *
 * How often discrepancies opened or changed is written by triggers, so nobody
 * who stores one forgets it, and nobody waits: each statement adds rows of its
 * own. What the counters in shared memory said, and how the gates stood, the
 * worker stores now and then.
 */

CREATE TABLE ledger.discrepancy_changes (
	id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
	mapping_id smallint NOT NULL,
	legacy_column text COLLATE "C" NOT NULL,
	at timestamptz NOT NULL,
	count bigint NOT NULL CHECK (count > 0)
) USING heap;
COMMENT ON TABLE ledger.discrepancy_changes IS 'How often discrepancies opened or changed by how much; rows older than an hour the worker adds up, so that the sum never falls though discrepancies are trimmed.';
COMMENT ON COLUMN ledger.discrepancy_changes.at IS 'The second in which it was seen, by ledger.clock(); of rows added up the newest.';

CREATE TABLE ledger.write_samples (
	at timestamptz PRIMARY KEY,
	reset_at timestamptz NOT NULL,
	attempts bigint NOT NULL,
	failures bigint NOT NULL
) USING heap;
COMMENT ON TABLE ledger.write_samples IS 'What the counters of writes said, as the worker stored them each 15 seconds, of the last ten minutes.';
COMMENT ON COLUMN ledger.write_samples.at IS 'By ledger.clock().';
COMMENT ON COLUMN ledger.write_samples.reset_at IS 'Since when they count.';

CREATE TABLE ledger.gate_states (
	gate text COLLATE "C" PRIMARY KEY,
	passed boolean NOT NULL,
	at timestamptz NOT NULL
) USING heap WITH (fillfactor = 50);
COMMENT ON TABLE ledger.gate_states IS 'How the gates of readiness() stood when the worker last looked, once a minute: looking may take longer than a scrape should.';

-- A dump has the discrepancies, and restoring them counts them; the rest is of the moment.
SELECT pg_catalog.pg_extension_config_dump('ledger.discrepancy_changes', 'WHERE false');
SELECT pg_catalog.pg_extension_config_dump('ledger.write_samples', 'WHERE false');
SELECT pg_catalog.pg_extension_config_dump('ledger.gate_states', 'WHERE false');

-- Small parts of large tables, which are looked at with each scrape.
CREATE INDEX legacy_writes_bypass ON ledger.legacy_writes (at) WHERE kind = 'bypass';
CREATE INDEX legacy_writes_outside ON ledger.legacy_writes (at) WHERE kind IN ('outside', 'double_write');
CREATE INDEX reconciliation_runs_finished ON ledger.reconciliation_runs (scope, id) WHERE status = 'finished';

/* A write that was refused has changed nothing, nor one that came past the capture and agrees. */
CREATE FUNCTION ledger.discrepancy_counts(cause text, ledger_value numeric, legacy_value numeric) RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT cause <> 'refused_write' AND (cause <> 'not_captured' OR COALESCE(ledger_value, 0) <> COALESCE(legacy_value, 0))
$$;
REVOKE ALL ON FUNCTION ledger.discrepancy_counts(text, numeric, numeric) FROM PUBLIC;
COMMENT ON FUNCTION ledger.discrepancy_counts(text, numeric, numeric) IS 'Internal: whether ledger_shadow_discrepancy_count has it.';

CREATE FUNCTION ledger.discrepancy_opened() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO ledger.discrepancy_changes (mapping_id, legacy_column, at, count)
		SELECT a.mapping_id, a.legacy_column, date_trunc('second', a.first_seen), count(*)
		FROM added a WHERE ledger.discrepancy_counts(a.cause, a.ledger_value, a.legacy_value) GROUP BY 1, 2, 3;
	RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION ledger.discrepancy_opened() FROM PUBLIC;
COMMENT ON FUNCTION ledger.discrepancy_opened() IS 'Trigger: counts discrepancies that open.';

/* One that both sides of have moved by the same is the one that it was. */
CREATE FUNCTION ledger.discrepancy_changed() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET enable_nestloop = off
AS $$
BEGIN
	/* the plan is kept from a statement that changed nothing for one that changes ten thousand */
	INSERT INTO ledger.discrepancy_changes (mapping_id, legacy_column, at, count)
		SELECT n.mapping_id, n.legacy_column, date_trunc('second', n.last_seen), count(*)
		FROM old_rows o JOIN new_rows n USING (id)
		WHERE n.status = 'open' AND ledger.discrepancy_counts(n.cause, n.ledger_value, n.legacy_value) AND (o.status <> 'open'
			OR COALESCE(n.ledger_value, 0) - COALESCE(n.legacy_value, 0) <> COALESCE(o.ledger_value, 0) - COALESCE(o.legacy_value, 0))
		GROUP BY 1, 2, 3;
	RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION ledger.discrepancy_changed() FROM PUBLIC;
COMMENT ON FUNCTION ledger.discrepancy_changed() IS 'Trigger: counts discrepancies that open again or whose difference changes.';

/*
 * What a rule refuses is a write that went as it should. A commit that a
 * discrepancy refuses has undone what was counted as posted.
 */
CREATE FUNCTION ledger.write_counts(OUT attempts bigint, OUT failures bigint, OUT reset_at timestamptz)
	LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT o.attempts::bigint, LEAST(o.attempts, o.failed + s.proofs_failed)::bigint, s.reset_at
	FROM ledger.stat_get_shadow() s,
		(SELECT sum(c.posted + c.replayed + c.refused + c.failed) AS attempts, sum(c.failed) AS failed
			FROM ledger.stat_get_operations() c) o
$$;
REVOKE ALL ON FUNCTION ledger.write_counts() FROM PUBLIC;
COMMENT ON FUNCTION ledger.write_counts() IS 'Internal: writes since the last reset, and those that failed; reset_at is NULL if nothing is counted.';

/*
 * Since the newest sample that is as old as the window, else the oldest; since
 * the reset if that was within the window, or there is no sample of its time.
 */
CREATE FUNCTION ledger.write_success("window" interval, OUT attempts bigint, OUT failures bigint, OUT rate float8)
	LANGUAGE sql VOLATILE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH now AS (
		SELECT c.*, ledger.clock() - "window" AS start FROM ledger.write_counts() c
	), base AS (
		SELECT s.attempts, s.failures
		FROM now n JOIN ledger.write_samples s ON s.reset_at = n.reset_at
		WHERE n.reset_at < n.start
		ORDER BY s.at <= n.start DESC, CASE WHEN s.at <= n.start THEN n.start - s.at ELSE s.at - n.start END LIMIT 1
	), gone AS (
		SELECT n.attempts - COALESCE(b.attempts, 0) AS attempts, n.failures - COALESCE(b.failures, 0) AS failures
		FROM now n LEFT JOIN base b ON true
	)
	SELECT g.attempts, g.failures, CASE WHEN g.attempts > 0 THEN 1 - g.failures / g.attempts::float8 ELSE 1 END FROM gone g
$$;
REVOKE ALL ON FUNCTION ledger.write_success(interval) FROM PUBLIC;
COMMENT ON FUNCTION ledger.write_success(interval) IS 'Internal: writes within so long, those that failed, and what share did not; 1 without any. Without samples of the worker, since the last reset.';

CREATE FUNCTION ledger.samples_store() RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO ledger.write_samples (at, reset_at, attempts, failures)
		SELECT ledger.clock(), c.reset_at, c.attempts, c.failures FROM ledger.write_counts() c WHERE c.reset_at IS NOT NULL
		ON CONFLICT DO NOTHING;
	DELETE FROM ledger.write_samples s WHERE s.at < ledger.clock() - interval '10 minutes' OR s.at > ledger.clock();
	WITH old AS (
		DELETE FROM ledger.discrepancy_changes d
			WHERE d.at < ledger.clock() - interval '1 hour'
				AND 100 < (SELECT count(*) FROM ledger.discrepancy_changes o WHERE o.at < ledger.clock() - interval '1 hour')
			RETURNING d.*
	)
	INSERT INTO ledger.discrepancy_changes (mapping_id, legacy_column, at, count)
		SELECT o.mapping_id, o.legacy_column, max(o.at), sum(o.count) FROM old o GROUP BY o.mapping_id, o.legacy_column;
$$;
REVOKE ALL ON FUNCTION ledger.samples_store() FROM PUBLIC;
COMMENT ON FUNCTION ledger.samples_store() IS 'Internal, for the worker: stores what the counters of writes say, deletes old samples, and adds up old rows of discrepancy_changes if there are more than 100.';

CREATE FUNCTION ledger.gates_store() RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO ledger.gate_states (gate, passed, at)
		SELECT r.gate, r.passed, ledger.clock() FROM ledger.readiness() r
		ON CONFLICT (gate) DO UPDATE SET passed = EXCLUDED.passed, at = EXCLUDED.at
$$;
REVOKE ALL ON FUNCTION ledger.gates_store() FROM PUBLIC;
COMMENT ON FUNCTION ledger.gates_store() IS 'Internal, for the worker: stores how the gates stand.';
