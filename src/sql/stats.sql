/*
 * stats.sql: what is counted and timed.
 *
 * Counters are in shared memory. What a gate rests on is not: how long reads
 * took is stored by the worker, and outlives a crash.
 */

CREATE TABLE ledger.read_timings (
	slot timestamptz NOT NULL,
	source text COLLATE "C" NOT NULL CHECK (source IN ('ledger', 'legacy')),
	bucket smallint NOT NULL CHECK (bucket BETWEEN 0 AND 109),
	count bigint NOT NULL CHECK (count > 0),
	PRIMARY KEY (slot, source, bucket)
) USING heap;
COMMENT ON TABLE ledger.read_timings IS 'How long the two parts of reads took that fetched a legacy row too, as the worker stored it; read_latency() tells of it.';
COMMENT ON COLUMN ledger.read_timings.slot IS 'The hour in which the worker stored it, by ledger.clock().';
COMMENT ON COLUMN ledger.read_timings.source IS 'legacy: the fetch of the legacy row; ledger: the rest of the same read.';
COMMENT ON COLUMN ledger.read_timings.bucket IS 'Times above latency_bound(bucket - 1) ms, up to latency_bound(bucket).';
SELECT pg_catalog.pg_extension_config_dump('ledger.read_timings', '');

/* stats_shared.h says the same in C. */
CREATE FUNCTION ledger.latency_bound(bucket int) RETURNS float8
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE
		WHEN bucket < 0 THEN 0
		WHEN bucket = 0 THEN 0.001024
		WHEN bucket < 109 THEN (2::float8 ^ ((bucket - 1) / 4)) * (5 + (bucket - 1) % 4) / 4 * 0.001024
		ELSE 'Infinity'
	END
$$;
REVOKE ALL ON FUNCTION ledger.latency_bound(int) FROM PUBLIC;
COMMENT ON FUNCTION ledger.latency_bound(int) IS 'Internal: the longest time that a histogram''s bucket holds, in ms: 1,024 ns and four more for each doubling, each at most a quarter above the one before, up to 137 s; the last one holds what is longer.';

CREATE FUNCTION ledger.read_timings_store(ledger bigint[], legacy bigint[]) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO ledger.read_timings AS t (slot, source, bucket, count)
		SELECT date_trunc('hour', c.now, 'UTC'), s.source, s.n - 1, s.count
		FROM (SELECT ledger.clock() AS now) c,
			(SELECT 'ledger' AS source, u.n, u.count FROM unnest(ledger) WITH ORDINALITY AS u (count, n)
			 UNION ALL
			 SELECT 'legacy', u.n, u.count FROM unnest(legacy) WITH ORDINALITY AS u (count, n)) s
		WHERE s.count > 0
		ON CONFLICT (slot, source, bucket) DO UPDATE SET count = t.count + EXCLUDED.count
$$;
REVOKE ALL ON FUNCTION ledger.read_timings_store(bigint[], bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.read_timings_store(bigint[], bigint[]) IS 'Internal, for the worker: adds how many reads were in each bucket, from the first on, to what is stored of this hour.';

CREATE FUNCTION ledger.read_timings_trim(retention interval, max_rows int) RETURNS bigint
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH trimmed AS (
		DELETE FROM ledger.read_timings t USING (
				SELECT r.slot, r.source, r.bucket FROM ledger.read_timings r
				WHERE r.slot < ledger.clock() - read_timings_trim.retention ORDER BY r.slot LIMIT read_timings_trim.max_rows) o
			WHERE t.slot = o.slot AND t.source = o.source AND t.bucket = o.bucket
			RETURNING 1
	)
	SELECT count(*) FROM trimmed
$$;
REVOKE ALL ON FUNCTION ledger.read_timings_trim(interval, int) FROM PUBLIC;
COMMENT ON FUNCTION ledger.read_timings_trim(interval, int) IS 'Internal, for the worker, who alone passes the guard: deletes what was stored of reads longer ago.';

/* Within the bucket of the percentile as if its times were spread evenly, as Prometheus does. */
CREATE FUNCTION ledger.read_latency(since timestamptz, OUT ledger_p95_ms float8, OUT legacy_p95_ms float8, OUT reads bigint)
	LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH summed AS (
		SELECT t.source, t.bucket, sum(t.count) AS count
		FROM ledger.read_timings t
		WHERE since IS NULL OR t.slot >= date_trunc('hour', since, 'UTC')
		GROUP BY t.source, t.bucket
	), running AS (
		SELECT s.source, s.bucket, s.count, sum(s.count) OVER (PARTITION BY s.source ORDER BY s.bucket) AS up_to,
			0.95 * sum(s.count) OVER (PARTITION BY s.source) AS wanted
		FROM summed s
	), found AS (
		SELECT DISTINCT ON (r.source) r.source,
			CASE WHEN r.bucket = 109 THEN ledger.latency_bound(108)
				ELSE ledger.latency_bound(r.bucket - 1) + (ledger.latency_bound(r.bucket) - ledger.latency_bound(r.bucket - 1))
					* ((r.wanted - (r.up_to - r.count)) / r.count)::float8
			END AS p95
		FROM running r WHERE r.up_to >= r.wanted
		ORDER BY r.source, r.bucket
	)
	SELECT (SELECT f.p95 FROM found f WHERE f.source = 'ledger'), (SELECT f.p95 FROM found f WHERE f.source = 'legacy'),
		(SELECT COALESCE(sum(s.count), 0)::bigint FROM summed s WHERE s.source = 'legacy')
$$;
REVOKE ALL ON FUNCTION ledger.read_latency(timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION ledger.read_latency(timestamptz) IS 'The 95th percentile, in ms, of the two parts of reads that fetched a legacy row too, stored since the hour of that time (NULL: ever): the fetch, and the rest of the same read; NULL if there is none. reads is how many there were.';
