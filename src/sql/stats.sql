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
COMMENT ON TABLE ledger.read_timings IS 'How long a sample of reads took on either side, as the worker stored it; read_latency() tells of it.';
COMMENT ON COLUMN ledger.read_timings.slot IS 'The hour in which the worker stored it, by ledger.clock().';
COMMENT ON COLUMN ledger.read_timings.source IS 'legacy: the fetch of the legacy row by SQL; ledger: what the same read needed to have the user''s accounts.';
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
COMMENT ON FUNCTION ledger.read_latency(timestamptz) IS 'The 95th percentile, in ms, of what reads of a sample took on either side, stored since the hour of that time (NULL: ever): until the ledger had the user''s accounts, and in the same calls until SQL had fetched the legacy row; NULL if there is none. reads is the size of the sample.';

/*
 * The counters. What a view shows is a function's, so that pg_monitor needs
 * EXECUTE on it too; both are granted below.
 */

CREATE FUNCTION ledger.stat_get_operations()
	RETURNS TABLE (operation text, calls bigint, posted bigint, replayed bigint, refused bigint, failed bigint, total_ms float8, latency bigint[])
	AS 'MODULE_PATHNAME', 'ledger_stat_get_operations' LANGUAGE C VOLATILE PARALLEL RESTRICTED SECURITY INVOKER ROWS 17;
REVOKE ALL ON FUNCTION ledger.stat_get_operations() FROM PUBLIC;
COMMENT ON FUNCTION ledger.stat_get_operations() IS 'Internal, for stat_operations.';

CREATE FUNCTION ledger.stat_get_errors()
	RETURNS TABLE (operation text, sqlstate text, refused boolean, count bigint)
	AS 'MODULE_PATHNAME', 'ledger_stat_get_errors' LANGUAGE C VOLATILE PARALLEL RESTRICTED SECURITY INVOKER ROWS 10;
REVOKE ALL ON FUNCTION ledger.stat_get_errors() FROM PUBLIC;
COMMENT ON FUNCTION ledger.stat_get_errors() IS 'Internal, for stat_errors.';

CREATE FUNCTION ledger.stat_get_times()
	RETURNS TABLE (what text, count bigint, total_ms float8, latency bigint[])
	AS 'MODULE_PATHNAME', 'ledger_stat_get_times' LANGUAGE C VOLATILE PARALLEL RESTRICTED SECURITY INVOKER ROWS 4;
REVOKE ALL ON FUNCTION ledger.stat_get_times() FROM PUBLIC;
COMMENT ON FUNCTION ledger.stat_get_times() IS 'Internal, for stat_reads and stat_shadow: reads without a fetch of the legacy row, the two parts of those with one, the sample for read_latency(), and the write lag.';

CREATE FUNCTION ledger.stat_get_shadow()
	RETURNS TABLE (matches bigint, mismatches bigint, pending bigint, mirror_ok bigint, mirror_failed bigint, bypasses bigint,
		proofs bigint, proofs_failed bigint, outside_writes bigint, reads_refused bigint, reset_at timestamptz)
	AS 'MODULE_PATHNAME', 'ledger_stat_get_shadow' LANGUAGE C VOLATILE PARALLEL RESTRICTED SECURITY INVOKER ROWS 1;
REVOKE ALL ON FUNCTION ledger.stat_get_shadow() FROM PUBLIC;
COMMENT ON FUNCTION ledger.stat_get_shadow() IS 'Internal, for stat_shadow.';

CREATE FUNCTION ledger.stat_get_accounts() RETURNS TABLE (account_id bigint, count bigint)
	AS 'MODULE_PATHNAME', 'ledger_stat_get_accounts' LANGUAGE C VOLATILE PARALLEL RESTRICTED SECURITY INVOKER ROWS 32;
REVOKE ALL ON FUNCTION ledger.stat_get_accounts() FROM PUBLIC;
COMMENT ON FUNCTION ledger.stat_get_accounts() IS 'Internal, for stat_accounts.';

CREATE FUNCTION ledger.stat_get_tasks() RETURNS TABLE (task text, runs bigint, failures bigint, total_ms float8)
	AS 'MODULE_PATHNAME', 'ledger_stat_get_tasks' LANGUAGE C VOLATILE PARALLEL RESTRICTED SECURITY INVOKER ROWS 10;
REVOKE ALL ON FUNCTION ledger.stat_get_tasks() FROM PUBLIC;
COMMENT ON FUNCTION ledger.stat_get_tasks() IS 'Internal, for stat_worker.';

CREATE FUNCTION ledger.latency_percentile(latency bigint[], fraction float8) RETURNS float8
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH running AS (
		SELECT u.bucket::int - 1 AS bucket, u.count, sum(u.count) OVER (ORDER BY u.bucket) AS up_to,
			fraction * sum(u.count) OVER () AS wanted
		FROM unnest(latency) WITH ORDINALITY AS u (count, bucket)
	)
	SELECT CASE WHEN r.bucket = 109 THEN ledger.latency_bound(108)
			ELSE ledger.latency_bound(r.bucket - 1) + (ledger.latency_bound(r.bucket) - ledger.latency_bound(r.bucket - 1))
				* (r.wanted - (r.up_to - r.count)) / r.count
		END
	FROM running r WHERE r.count > 0 AND r.up_to >= r.wanted ORDER BY r.bucket LIMIT 1
$$;
REVOKE ALL ON FUNCTION ledger.latency_percentile(bigint[], float8) FROM PUBLIC;
COMMENT ON FUNCTION ledger.latency_percentile(bigint[], float8) IS 'Internal: the time in ms that this fraction of a histogram''s times do not exceed, within a bucket as if they were spread evenly; NULL if it is empty.';

CREATE FUNCTION ledger.stat_reset() RETURNS void
	AS 'MODULE_PATHNAME', 'ledger_stat_reset' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.stat_reset() FROM PUBLIC;
COMMENT ON FUNCTION ledger.stat_reset() IS 'Sets the counters of this database, all that the views stat_* show, back to zero. What is stored in tables stays.';

-- The counters are the database's: those of a ledger that was dropped are not this one's.
SELECT ledger.stat_reset();

CREATE VIEW ledger.stat_operations AS
	SELECT o.operation, o.calls, o.posted, o.replayed, o.refused, o.failed, o.total_ms,
		ledger.latency_percentile(o.latency, 0.5) AS p50_ms, ledger.latency_percentile(o.latency, 0.95) AS p95_ms,
		ledger.latency_percentile(o.latency, 0.99) AS p99_ms, o.latency
	FROM ledger.stat_get_operations() o;
COMMENT ON VIEW ledger.stat_operations IS 'What each function that posts was called for, and what came of it, in this database since the last reset.';
COMMENT ON COLUMN ledger.stat_operations.calls IS 'Calls begun; of post_batch and inbox batches, whose transfers are counted in the other columns.';
COMMENT ON COLUMN ledger.stat_operations.posted IS 'Transactions of the ledger that were posted, also by who was rolled back later.';
COMMENT ON COLUMN ledger.stat_operations.refused IS 'By rule: SQLSTATEs of class LG but LG003; stat_errors has each.';
COMMENT ON COLUMN ledger.stat_operations.failed IS 'With any other SQLSTATE.';
COMMENT ON COLUMN ledger.stat_operations.latency IS 'Calls in each bucket, up to latency_bound(n - 1) ms for the n-th.';

CREATE VIEW ledger.stat_errors AS
	SELECT e.operation, e.sqlstate, CASE WHEN e.refused THEN 'refused' ELSE 'failed' END AS kind, e.count
	FROM ledger.stat_get_errors() e;
COMMENT ON VIEW ledger.stat_errors IS 'With what SQLSTATE calls ended, how often, in this database since the last reset. sqlstate is NULL for all those beyond the first 28 that are not of class LG.';

CREATE VIEW ledger.stat_reads AS
	SELECT s.source, s.reads, s.total_ms, ledger.latency_percentile(s.latency, 0.5) AS p50_ms,
		ledger.latency_percentile(s.latency, 0.95) AS p95_ms, ledger.latency_percentile(s.latency, 0.99) AS p99_ms, s.latency
	FROM (
		SELECT 'ledger' AS source, a.count OPERATOR(pg_catalog.+) b.count AS reads,
			a.total_ms OPERATOR(pg_catalog.+) b.total_ms AS total_ms,
			ARRAY(SELECT x.n OPERATOR(pg_catalog.+) y.n
				FROM pg_catalog.unnest(a.latency) WITH ORDINALITY AS x (n, i)
				JOIN pg_catalog.unnest(b.latency) WITH ORDINALITY AS y (n, i) ON x.i OPERATOR(pg_catalog.=) y.i
				ORDER BY x.i) AS latency
		FROM ledger.stat_get_times() a, ledger.stat_get_times() b
		WHERE a.what OPERATOR(pg_catalog.=) 'read_alone' AND b.what OPERATOR(pg_catalog.=) 'read_ledger'
		UNION ALL
		SELECT 'legacy', t.count, t.total_ms, t.latency
		FROM ledger.stat_get_times() t WHERE t.what OPERATOR(pg_catalog.=) 'read_legacy'
	) s;
COMMENT ON VIEW ledger.stat_reads IS 'Reads of balances in this database since the last reset: ledger is every read less the fetch of the legacy row and the compare with it, legacy is that fetch.';

CREATE VIEW ledger.stat_shadow AS
	SELECT s.matches OPERATOR(pg_catalog.+) s.mismatches OPERATOR(pg_catalog.+) s.pending AS compares,
		s.matches, s.mismatches, s.pending, s.mirror_ok, s.mirror_failed, s.outside_writes, s.bypasses, s.proofs, s.proofs_failed, s.reads_refused,
		t.count AS lags, t.total_ms AS lag_total_ms, ledger.latency_percentile(t.latency, 0.5) AS lag_p50_ms,
		ledger.latency_percentile(t.latency, 0.95) AS lag_p95_ms, ledger.latency_percentile(t.latency, 0.99) AS lag_p99_ms,
		t.latency AS lag, s.reset_at
	FROM ledger.stat_get_shadow() s, ledger.stat_get_times() t WHERE t.what OPERATOR(pg_catalog.=) 'write_lag';
COMMENT ON VIEW ledger.stat_shadow IS 'Shadow mode in this database since the last reset: compares of one user''s row and what they said, legacy rows written and not, writes of others that were captured, and in the replica role, proofs at commit, reads that strict mode refused, and how long one side of a posting was written before the other.';

CREATE VIEW ledger.stat_accounts AS
	SELECT s.account_id, a.user_id, a.account_type, a.currency, s.count AS waits
	FROM ledger.stat_get_accounts() s LEFT JOIN ledger.accounts a ON a.id OPERATOR(pg_catalog.=) s.account_id
	ORDER BY s.count DESC, s.account_id;
COMMENT ON VIEW ledger.stat_accounts IS 'The accounts that postings have met each other at most often in this database since the last reset, up to 32: how often a posting found that somebody else had changed it, or held all its stripes, since it looked.';

CREATE VIEW ledger.stat_worker AS
	SELECT t.task, t.runs, t.failures, t.total_ms FROM ledger.stat_get_tasks() t;
COMMENT ON VIEW ledger.stat_worker IS 'What the background worker of this database has done since the last reset: slices of each task, those that failed, and their time.';

GRANT USAGE ON SCHEMA ledger TO pg_monitor;
GRANT SELECT ON ledger.stat_operations, ledger.stat_errors, ledger.stat_reads, ledger.stat_shadow, ledger.stat_accounts,
	ledger.stat_worker TO pg_monitor;
GRANT EXECUTE ON FUNCTION ledger.stat_get_operations(), ledger.stat_get_errors(), ledger.stat_get_times(), ledger.stat_get_shadow(),
	ledger.stat_get_accounts(), ledger.stat_get_tasks(), ledger.latency_bound(int), ledger.latency_percentile(bigint[], float8) TO pg_monitor;
