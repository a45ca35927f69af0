/*
 * evidence.sql: what the background worker stores, and what it tells.
 *
 * The functions evidence_* are the worker's; nobody else may execute them. It
 * runs each slice in a transaction of its own.
 */

CREATE TABLE ledger.evidence_pending (
	xact xid8 NOT NULL,
	discrepancy_id bigint NOT NULL,
	count bigint NOT NULL CHECK (count > 0),
	PRIMARY KEY (xact, discrepancy_id)
) USING heap;
COMMENT ON TABLE ledger.evidence_pending IS 'Transactions that saw a discrepancy and had not ended when it was stored, and how often; the worker looks what became of them.';

CREATE TABLE ledger.evidence_losses (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	kind text COLLATE "C" NOT NULL CHECK (kind IN ('overflow', 'crash')),
	count bigint CHECK (count > 0),
	at timestamptz NOT NULL,
	last_at timestamptz NOT NULL,
	note text
) USING heap;
COMMENT ON TABLE ledger.evidence_losses IS 'Evidence that was lost: for want of room, or because the server ended without having kept it.';
COMMENT ON COLUMN ledger.evidence_losses.kind IS 'overflow: the ring was full; crash: the ring is not the one that the worker knew, after a crash, a failover or a restore, or while ledger.databases did not name the database.';
COMMENT ON COLUMN ledger.evidence_losses.count IS 'How many findings; NULL: nobody knows, perhaps none.';

CREATE TABLE ledger.worker_heartbeat (
	"only" boolean PRIMARY KEY DEFAULT true CHECK ("only"),
	incarnation bigint NOT NULL,
	pid int NOT NULL,
	started_at timestamptz NOT NULL,
	last_seen timestamptz NOT NULL,
	starts bigint NOT NULL DEFAULT 1,
	stored bigint NOT NULL DEFAULT 0,
	expired bigint NOT NULL DEFAULT 0,
	trimmed bigint NOT NULL DEFAULT 0,
	errors bigint NOT NULL DEFAULT 0,
	last_error text,
	last_error_at timestamptz
) USING heap WITH (fillfactor = 50);
COMMENT ON TABLE ledger.worker_heartbeat IS 'The background worker of this database, as it last noted itself; no row: there was none yet. Read worker_status.';
COMMENT ON COLUMN ledger.worker_heartbeat.incarnation IS 'Of the ring in shared memory; another one means that what was in this one may be lost.';
COMMENT ON COLUMN ledger.worker_heartbeat.stored IS 'Findings stored, each time they were met; since the first start, as all counts.';

-- Ids of transactions mean nothing elsewhere: what was in progress is not in a dump.
SELECT pg_catalog.pg_extension_config_dump('ledger.evidence_pending', 'WHERE false');
SELECT pg_catalog.pg_extension_config_dump('ledger.evidence_losses', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.evidence_losses_id_seq', '');
-- A worker may be there before a dump is restored.
SELECT pg_catalog.pg_extension_config_dump('ledger.worker_heartbeat', 'WHERE false');

-- What was repaired since is looked up by user.
CREATE INDEX repair_log_user ON ledger.repair_log (user_id, id);

CREATE FUNCTION ledger.evidence_status()
	RETURNS TABLE (active boolean, size int, used int, recorded bigint, stored bigint, dropped bigint, worker_pid int)
	AS 'MODULE_PATHNAME', 'ledger_evidence_status' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER ROWS 1;
REVOKE ALL ON FUNCTION ledger.evidence_status() FROM PUBLIC;
COMMENT ON FUNCTION ledger.evidence_status() IS 'The ring of evidence in shared memory of this database: whether there is one, its size, entries in use, findings recorded, stored and dropped since it began, and the worker that empties it (NULL: none).';

CREATE VIEW ledger.worker_status AS
	SELECT pg_catalog.current_database() AS database, s.active, s.worker_pid IS NOT NULL AS running, s.worker_pid AS pid,
		h.started_at, h.last_seen, h.starts, s.size AS ring_size, s.used AS ring_used,
		h.stored, h.expired, h.trimmed,
		(SELECT pg_catalog.count(*) FROM ledger.evidence_pending) AS pending,
		(SELECT pg_catalog.count(*) FROM ledger.evidence_losses) AS losses,
		h.errors, h.last_error, h.last_error_at, ledger.is_copy() AS copy
	FROM ledger.evidence_status() s LEFT JOIN ledger.worker_heartbeat h ON true;
COMMENT ON VIEW ledger.worker_status IS 'The background worker of this database: whether it runs, when it was last seen, what it has done since its first start, what it could not do.';
COMMENT ON COLUMN ledger.worker_status.active IS 'Whether the library is preloaded and ledger.databases names the database.';
COMMENT ON COLUMN ledger.worker_status.pending IS 'Transactions that saw a discrepancy and have not ended.';
COMMENT ON COLUMN ledger.worker_status.copy IS 'Whether the database is a copy: the worker does nothing until resume().';
COMMENT ON COLUMN ledger.worker_status.losses IS 'Rows of evidence_losses.';

/*
 * The worker's start. Another incarnation than it noted last: what the ring
 * held may be lost. What was in progress and is not pending here comes from a
 * dump: those transactions are not in it.
 */
CREATE FUNCTION ledger.evidence_start(incarnation bigint, pid int) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	known record;
BEGIN
	SELECT * INTO known FROM ledger.worker_heartbeat;
	IF NOT FOUND THEN
		INSERT INTO ledger.worker_heartbeat (incarnation, pid, started_at, last_seen)
			VALUES (evidence_start.incarnation, evidence_start.pid, ledger.clock(), ledger.clock());
		RETURN;
	END IF;
	IF known.incarnation <> evidence_start.incarnation THEN
		INSERT INTO ledger.evidence_losses (kind, at, last_at, note)
			VALUES ('crash', known.last_seen, ledger.clock(),
				format('the ring of the worker started at %s was not emptied', known.started_at));
	END IF;
	UPDATE ledger.worker_heartbeat SET incarnation = evidence_start.incarnation, pid = evidence_start.pid,
		started_at = ledger.clock(), last_seen = ledger.clock(), starts = starts + 1;
	UPDATE ledger.discrepancy_rows d
		SET in_progress_count = p.count, aborted_count = d.aborted_count + d.in_progress_count - p.count
		FROM (SELECT r.id, COALESCE(sum(e.count), 0)::bigint AS count
			FROM ledger.discrepancy_rows r LEFT JOIN ledger.evidence_pending e ON e.discrepancy_id = r.id
			WHERE r.in_progress_count > 0 GROUP BY r.id) p
		WHERE d.id = p.id AND d.in_progress_count <> p.count;
END
$$;
REVOKE ALL ON FUNCTION ledger.evidence_start(bigint, int) FROM PUBLIC;
COMMENT ON FUNCTION ledger.evidence_start(bigint, int) IS 'Internal, for the worker: notes its start, and that evidence may be lost if the ring is another.';

CREATE FUNCTION ledger.evidence_beat(stored bigint, expired bigint, trimmed bigint, errors bigint, error text) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE ledger.worker_heartbeat h SET last_seen = ledger.clock(), stored = h.stored + evidence_beat.stored,
		expired = h.expired + evidence_beat.expired, trimmed = h.trimmed + evidence_beat.trimmed,
		errors = h.errors + evidence_beat.errors, last_error = COALESCE(evidence_beat.error, h.last_error),
		last_error_at = CASE WHEN evidence_beat.error IS NULL THEN h.last_error_at ELSE ledger.clock() END
$$;
REVOKE ALL ON FUNCTION ledger.evidence_beat(bigint, bigint, bigint, bigint, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.evidence_beat(bigint, bigint, bigint, bigint, text) IS 'Internal, for the worker: notes that it is alive, and what it has done since it noted it last.';

CREATE FUNCTION ledger.evidence_lost(count bigint, at timestamptz, last_at timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	UPDATE ledger.evidence_losses l SET count = l.count + evidence_lost.count, last_at = evidence_lost.last_at
		WHERE l.id = (SELECT max(n.id) FROM ledger.evidence_losses n) AND l.kind = 'overflow'
			AND l.last_at > evidence_lost.at - interval '1 minute';
	IF NOT FOUND THEN
		INSERT INTO ledger.evidence_losses (kind, count, at, last_at)
			VALUES ('overflow', evidence_lost.count, evidence_lost.at, evidence_lost.last_at);
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.evidence_lost(bigint, timestamptz, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION ledger.evidence_lost(bigint, timestamptz, timestamptz) IS 'Internal, for the worker: stores how much found no room; what goes on is one row.';

/*
 * When the column was put right or found right after it was last seen, so that
 * evidence which is stored late does not open again what is over.
 */
CREATE FUNCTION ledger.evidence_resolved(mapping_id smallint, user_id uuid, legacy_column text, last_seen timestamptz)
	RETURNS timestamptz
	LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT GREATEST(
		(SELECT max(l.repaired_at) FROM ledger.repair_log l
			WHERE l.user_id = evidence_resolved.user_id AND l.mapping_id = evidence_resolved.mapping_id
				AND l.legacy_column = evidence_resolved.legacy_column AND l.repaired_at > evidence_resolved.last_seen),
		(SELECT r.finished_at
			FROM (SELECT n.* FROM ledger.reconciliation_runs n WHERE n.scope = 'full' AND n.tolerance = 0
					AND n.status = 'finished' AND NOT n.options ? 'tolerances'
				ORDER BY n.id DESC LIMIT 1) r
			WHERE r.started_at > evidence_resolved.last_seen AND NOT EXISTS (SELECT FROM ledger.discrepancy_rows d
				WHERE d.user_id = evidence_resolved.user_id AND d.mapping_id = evidence_resolved.mapping_id
					AND d.legacy_column = evidence_resolved.legacy_column AND d.last_seen >= r.started_at)
				AND NOT EXISTS (SELECT FROM ledger.reconciliation_findings f WHERE f.run_id = r.id
					AND f.user_id = evidence_resolved.user_id AND f.mapping_id = evidence_resolved.mapping_id
					AND f.legacy_column = evidence_resolved.legacy_column AND f.status <> 'settled')))
$$;
REVOKE ALL ON FUNCTION ledger.evidence_resolved(smallint, uuid, text, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION ledger.evidence_resolved(smallint, uuid, text, timestamptz) IS 'Internal, for the worker: when a repair or a full reconciliation resolved what was last seen before it; NULL: none did.';

/*
 * One entry of the ring. xacts are the transactions that had not ended when
 * they saw it, counts how often each did; counted are those known already:
 * without an xid, committed, aborted.
 */
CREATE FUNCTION ledger.evidence_store(mapping_id smallint, user_id uuid, legacy_column text, cause text, source text,
	ledger_value numeric, legacy_value numeric, error_code text, note text, first_seen timestamptz, last_seen timestamptz,
	counted bigint[], xacts xid8[], counts bigint[]) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	running xid8[] := '{}';
	running_counts bigint[] := '{}';
	n_none bigint := counted[1];
	n_committed bigint := counted[2];
	n_aborted bigint := counted[3];
	n_running bigint := 0;
	total bigint;
	ended timestamptz := ledger.evidence_resolved(mapping_id, user_id, legacy_column, last_seen);
	stored bigint;
BEGIN
	-- the extension that it was found by has been dropped since
	IF NOT EXISTS (SELECT FROM ledger.legacy_mappings m WHERE m.id = evidence_store.mapping_id) THEN
		RETURN;
	END IF;
	FOR i IN 1 .. cardinality(xacts) LOOP
		CASE pg_xact_status(xacts[i])
			WHEN 'in progress' THEN
				running := running || xacts[i];
				running_counts := running_counts || counts[i];
				n_running := n_running + counts[i];
			WHEN 'aborted' THEN
				n_aborted := n_aborted + counts[i];
			ELSE
				-- NULL, too long ago to be known, is the graver
				n_committed := n_committed + counts[i];
		END CASE;
	END LOOP;
	total := n_none + n_committed + n_aborted + n_running;

	IF ended IS NOT NULL THEN
		UPDATE ledger.discrepancy_rows d SET count = d.count + total, none_count = d.none_count + n_none,
				in_progress_count = d.in_progress_count + n_running, aborted_count = d.aborted_count + n_aborted,
				last_seen = GREATEST(d.last_seen, evidence_store.last_seen)
			WHERE d.id = (SELECT max(r.id) FROM ledger.discrepancy_rows r
				WHERE r.user_id IS NOT DISTINCT FROM evidence_store.user_id AND r.mapping_id = evidence_store.mapping_id
					AND r.legacy_column = evidence_store.legacy_column AND r.cause = evidence_store.cause
					AND r.status = 'resolved' AND r.resolved_at >= evidence_store.last_seen)
			RETURNING d.id INTO stored;
	END IF;
	IF stored IS NULL THEN
		INSERT INTO ledger.discrepancy_rows AS d (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value,
				error_code, note, first_seen, last_seen, count, none_count, in_progress_count, aborted_count, status, resolved_at)
			VALUES (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value, error_code, note,
				first_seen, last_seen, total, n_none, n_running, n_aborted,
				CASE WHEN ended IS NULL THEN 'open' ELSE 'resolved' END, ended)
			ON CONFLICT (user_id, mapping_id, legacy_column, cause) WHERE status = 'open'
			DO UPDATE SET count = d.count + total, none_count = d.none_count + n_none,
				in_progress_count = d.in_progress_count + n_running, aborted_count = d.aborted_count + n_aborted,
				first_seen = LEAST(d.first_seen, EXCLUDED.first_seen), last_seen = GREATEST(d.last_seen, EXCLUDED.last_seen),
				ledger_value = EXCLUDED.ledger_value, legacy_value = EXCLUDED.legacy_value,
				error_code = EXCLUDED.error_code, note = EXCLUDED.note
			RETURNING d.id INTO stored;
	END IF;
	INSERT INTO ledger.evidence_pending AS p (xact, discrepancy_id, count)
		SELECT u.xact, stored, u.count FROM unnest(running, running_counts) AS u (xact, count)
		ON CONFLICT (xact, discrepancy_id) DO UPDATE SET count = p.count + EXCLUDED.count;
END
$$;
REVOKE ALL ON FUNCTION ledger.evidence_store(smallint, uuid, text, text, text, numeric, numeric, text, text, timestamptz, timestamptz, bigint[], xid8[], bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.evidence_store(smallint, uuid, text, text, text, numeric, numeric, text, text, timestamptz, timestamptz, bigint[], xid8[], bigint[]) IS 'Internal, for the worker: stores an entry of the ring with what became of the transactions that saw it.';

/* What became of those that had not ended; returns how many still have not. */
CREATE FUNCTION ledger.evidence_settle() RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	WITH ended AS (
		SELECT s.xact, s.status
		FROM (SELECT x.xact, pg_xact_status(x.xact) AS status FROM (SELECT DISTINCT e.xact FROM ledger.evidence_pending e) x) s
		WHERE s.status IS DISTINCT FROM 'in progress'
	), gone AS (
		DELETE FROM ledger.evidence_pending p USING ended e WHERE p.xact = e.xact
			RETURNING p.discrepancy_id, p.count, e.status
	), sums AS (
		SELECT g.discrepancy_id, sum(g.count)::bigint AS count,
			COALESCE(sum(g.count) FILTER (WHERE g.status = 'aborted'), 0)::bigint AS aborted
		FROM gone g GROUP BY g.discrepancy_id
	)
	UPDATE ledger.discrepancy_rows d
		SET in_progress_count = d.in_progress_count - s.count, aborted_count = d.aborted_count + s.aborted
		FROM sums s WHERE d.id = s.discrepancy_id;
	RETURN (SELECT count(*) FROM ledger.evidence_pending);
END
$$;
REVOKE ALL ON FUNCTION ledger.evidence_settle() FROM PUBLIC;
COMMENT ON FUNCTION ledger.evidence_settle() IS 'Internal, for the worker: finds out what became of the transactions that had not ended; returns how many still have not.';

/*
 * expire_reservations(), but not in the middle of a restore: the worker may
 * find reservations that are due before their journal, their accounts or the
 * sequence are there, and must not post then.
 */
CREATE FUNCTION ledger.worker_expire(max_count int) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM ledger.reservation_rows r WHERE r.status = 'active' AND r.expires_at <= clock_timestamp())
		OR ledger.takes_no_posting() THEN
		RETURN 0;
	END IF;
	IF COALESCE((SELECT max(j.transaction_id) FROM ledger.journal j) > (SELECT s.last_value FROM ledger.transaction_id_seq s), false)
		OR EXISTS (
			SELECT FROM (SELECT r.* FROM ledger.reservation_rows r
				WHERE r.status = 'active' AND r.expires_at <= clock_timestamp() ORDER BY r.expires_at LIMIT 2 * max_count) d
			WHERE NOT EXISTS (SELECT FROM ledger.journal j WHERE j.transaction_id = d.id AND j.ordinal = 0)
				OR 2 > (SELECT count(*) FROM ledger.accounts a
					WHERE a.user_id = d.user_id AND a.account_type IN ('pending_investment', 'usdc_balance')))
	THEN
		RETURN 0;
	END IF;
	RETURN ledger.expire_reservations(max_count);
END
$$;
REVOKE ALL ON FUNCTION ledger.worker_expire(int) FROM PUBLIC;
COMMENT ON FUNCTION ledger.worker_expire(int) IS 'Internal, for the worker: expire_reservations(), unless a restore is in the middle.';

CREATE FUNCTION ledger.evidence_trim(retention interval, max_rows int) RETURNS bigint
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH trimmed AS (
		DELETE FROM ledger.discrepancy_rows d
			WHERE d.status = 'resolved' AND d.in_progress_count = 0 AND d.id = ANY (ARRAY(
				SELECT r.id FROM ledger.discrepancy_rows r
				WHERE r.status = 'resolved' AND r.in_progress_count = 0
					AND GREATEST(r.resolved_at, r.last_seen) < ledger.clock() - evidence_trim.retention LIMIT evidence_trim.max_rows))
			RETURNING 1
	)
	SELECT count(*) FROM trimmed
$$;
REVOKE ALL ON FUNCTION ledger.evidence_trim(interval, int) FROM PUBLIC;
COMMENT ON FUNCTION ledger.evidence_trim(interval, int) IS 'Internal, for the worker, who alone passes the guard: deletes discrepancies that were resolved longer ago.';
