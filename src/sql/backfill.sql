/*
 * backfill.sql: the openings of all who have a legacy row.
 *
 * The procedure commits, so it runs with its caller's rights and search_path:
 * every name in it is qualified. What it calls is C: that checks that the
 * caller can act for the legacy tables' owners, posts as the caller, and runs
 * the functions below it (backfill_open_run and the like) as the owner of the
 * extension. Nobody else may execute those.
 */

CREATE TABLE ledger.backfill_runs (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	status text COLLATE "C" NOT NULL DEFAULT 'running'
		CHECK (status IN ('running', 'paused', 'cancelled', 'finished', 'failed')),
	phase text COLLATE "C" NOT NULL DEFAULT 'rows' CHECK (phase IN ('rows', 'waiting', 'done')),
	mapping_id smallint,
	last_key text COLLATE "C",
	position text COLLATE "C",
	total bigint NOT NULL,
	seen bigint NOT NULL DEFAULT 0,
	opened bigint NOT NULL DEFAULT 0,
	already bigint NOT NULL DEFAULT 0,
	findings bigint NOT NULL DEFAULT 0,
	batches bigint NOT NULL DEFAULT 0,
	busy interval NOT NULL DEFAULT '0',
	started_at timestamptz NOT NULL,
	updated_at timestamptz NOT NULL,
	finished_at timestamptz,
	requested_by text NOT NULL,
	error text,
	CHECK ((finished_at IS NOT NULL) = (status IN ('cancelled', 'finished')))
) USING heap WITH (fillfactor = 50);
CREATE UNIQUE INDEX backfill_runs_unfinished ON ledger.backfill_runs ((true)) WHERE finished_at IS NULL;
COMMENT ON TABLE ledger.backfill_runs IS 'Runs of backfill(), how far each has come and what it did. At most one is not finished; read the view backfill_progress.';
COMMENT ON COLUMN ledger.backfill_runs.phase IS 'rows: through the legacy tables in the order of their keys; waiting: rows that somebody held then, one by one; done.';
COMMENT ON COLUMN ledger.backfill_runs.last_key IS 'The highest key of the mapping''s table when its turn came; rows beyond it have come since.';
COMMENT ON COLUMN ledger.backfill_runs.position IS 'The key up to which the mapping''s rows have been seen.';
COMMENT ON COLUMN ledger.backfill_runs.total IS 'Rows of all attached tables when the run began, by the statistics; without statistics counted.';
COMMENT ON COLUMN ledger.backfill_runs.already IS 'Rows whose user was opened before.';
COMMENT ON COLUMN ledger.backfill_runs.busy IS 'Time spent in batches.';

CREATE TABLE ledger.backfill_waiting (
	run_id bigint NOT NULL,
	mapping_id smallint NOT NULL,
	user_id uuid NOT NULL,
	tries integer NOT NULL DEFAULT 0,
	PRIMARY KEY (run_id, mapping_id, user_id)
) USING heap;
COMMENT ON TABLE ledger.backfill_waiting IS 'Users whose legacy row was held by somebody when the backfill came by; they are opened at its end.';

CREATE TABLE ledger.backfill_findings (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	run_id bigint NOT NULL,
	mapping_id smallint NOT NULL,
	key text COLLATE "C" NOT NULL,
	user_id uuid,
	reason text COLLATE "C" NOT NULL,
	detail text NOT NULL,
	"row" jsonb,
	first_seen timestamptz NOT NULL,
	last_seen timestamptz NOT NULL,
	count bigint NOT NULL DEFAULT 1,
	status text COLLATE "C" NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'resolved')),
	resolved_at timestamptz,
	CHECK ((status = 'resolved') = (resolved_at IS NOT NULL))
) USING heap;
CREATE UNIQUE INDEX backfill_findings_open ON ledger.backfill_findings (mapping_id, key) WHERE status = 'open';
COMMENT ON TABLE ledger.backfill_findings IS 'Legacy rows from which nobody could be opened, and why; one open finding for each row. A run that does not find a row again resolves it.';
COMMENT ON COLUMN ledger.backfill_findings.run_id IS 'The run that found it last.';
COMMENT ON COLUMN ledger.backfill_findings.key IS 'The row''s key as text; of a row without a key its ctid; of rows of none of the conditions what they have in its columns.';
COMMENT ON COLUMN ledger.backfill_findings.reason IS 'currency, negative, not_finite, digits, reserved, below_ledger, not_open, opened_before, null_key, condition (one finding for all rows that have the same values and are of none of the conditions).';

SELECT pg_catalog.pg_extension_config_dump('ledger.backfill_runs', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.backfill_runs_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.backfill_waiting', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.backfill_findings', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.backfill_findings_id_seq', '');

/* The session that runs it holds a lock that ends with it, see backfill.c. */
CREATE FUNCTION ledger.backfill_pid() RETURNS integer
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT l.pid FROM pg_locks l
	WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 'ledger.backfill_runs'::regclass
	  AND l.objid = 0 AND l.objsubid = 3
	  AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
$$;
REVOKE ALL ON FUNCTION ledger.backfill_pid() FROM PUBLIC;
COMMENT ON FUNCTION ledger.backfill_pid() IS 'The backend that runs the backfill now; NULL: none.';

CREATE VIEW ledger.backfill_progress AS
	SELECT r.id AS run_id,
		CASE WHEN r.status OPERATOR(pg_catalog.=) 'running' AND l.pid IS NULL THEN 'interrupted' ELSE r.status END AS status,
		r.phase, l.pid,
		(SELECT m.legacy FROM ledger.legacy_mappings m WHERE m.id OPERATOR(pg_catalog.=) r.mapping_id) AS legacy,
		r.seen, GREATEST(r.total, r.seen) AS total,
		CASE WHEN r.phase OPERATOR(pg_catalog.=) 'done' THEN 100.0
			ELSE pg_catalog.round(LEAST(99.9, 100.0 OPERATOR(pg_catalog.*) r.seen
				OPERATOR(pg_catalog./) GREATEST(r.total, r.seen, 1)), 1) END AS percent,
		r.opened, r.already, r.findings,
		(SELECT pg_catalog.count(*) FROM ledger.backfill_waiting w WHERE w.run_id OPERATOR(pg_catalog.=) r.id) AS waiting,
		b.rate,
		CASE WHEN r.finished_at IS NULL THEN pg_catalog.make_interval(secs => pg_catalog.round(
			(GREATEST(r.total, r.seen) OPERATOR(pg_catalog.-) r.seen)
			OPERATOR(pg_catalog./) NULLIF(b.rate, 0))::pg_catalog.float8) END AS time_left,
		r.started_at, r.updated_at, r.finished_at, r.requested_by, r.error
	FROM ledger.backfill_runs r
	CROSS JOIN LATERAL (SELECT pg_catalog.round(r.seen
		OPERATOR(pg_catalog./) NULLIF(EXTRACT(epoch FROM r.busy), 0)) AS rate) b
	CROSS JOIN LATERAL (SELECT CASE WHEN r.finished_at IS NULL THEN ledger.backfill_pid() END AS pid) l;
COMMENT ON VIEW ledger.backfill_progress IS 'Each run of backfill(): where it is, what it has done, rows a second of the time it was busy, and how long it will take at that rate.';
COMMENT ON COLUMN ledger.backfill_progress.status IS 'running, paused, cancelled, finished, failed; interrupted: it was running and its session is gone. Call backfill() to go on.';
COMMENT ON COLUMN ledger.backfill_progress.pid IS 'The backend that runs it.';
COMMENT ON COLUMN ledger.backfill_progress.waiting IS 'Users whose row was held by somebody; they are opened at the end.';

/* ---- what runs as the owner of the extension ----------------------------------------- */

CREATE FUNCTION ledger.backfill_open_run(run_id bigint, caller text) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	run ledger.backfill_runs;
	rows_total bigint;
BEGIN
	IF run_id IS NULL THEN
		SELECT * INTO run FROM ledger.backfill_runs r WHERE r.finished_at IS NULL FOR UPDATE;
	ELSE
		SELECT * INTO run FROM ledger.backfill_runs r WHERE r.id = run_id FOR UPDATE;
		IF NOT FOUND THEN
			RAISE EXCEPTION 'there is no backfill run %', run_id
				USING ERRCODE = 'undefined_object', HINT = 'ledger.backfill_runs lists the runs.';
		ELSIF run.finished_at IS NOT NULL THEN
			RAISE EXCEPTION 'backfill run % is %', run_id, run.status
				USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Leave run_id out to start a new run.';
		END IF;
	END IF;
	IF run.id IS NOT NULL THEN
		UPDATE ledger.backfill_runs r SET status = 'running', error = NULL, updated_at = ledger.clock() WHERE r.id = run.id;
		RETURN run.id;
	END IF;
	SELECT sum(CASE WHEN t.known THEN t.estimate ELSE ledger.legacy_count(t.legacy, 'true') END) INTO rows_total
	FROM (
		SELECT m.legacy, sum(c.reltuples)::bigint AS estimate, bool_and(c.reltuples >= 0) AS known
		FROM ledger.legacy_mappings m, LATERAL (
			SELECT p.relid FROM pg_partition_tree(m.legacy) p WHERE p.isleaf
			UNION SELECT m.legacy WHERE NOT EXISTS (SELECT FROM pg_partition_tree(m.legacy))) l, pg_class c
		WHERE m.detached_at IS NULL AND c.oid = l.relid
		GROUP BY m.legacy
	) t;
	INSERT INTO ledger.backfill_runs AS r (total, started_at, updated_at, requested_by)
		VALUES (COALESCE(rows_total, 0), ledger.clock(), ledger.clock(), caller)
		RETURNING r.id INTO run_id;
	RETURN run_id;
END
$$;
REVOKE ALL ON FUNCTION ledger.backfill_open_run(bigint, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.backfill_open_run(bigint, text) IS 'Internal: the unfinished run, running again, or a new one.';

/*
 * What is to be done next. While rows are read the run is locked, before
 * anything else; whoever waits for a row of an application holds nothing.
 */
CREATE FUNCTION ledger.backfill_next(run_id bigint, OUT status text, OUT mapping_id smallint,
	OUT last_key text, OUT "position" text, OUT user_id uuid)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	run ledger.backfill_runs;
BEGIN
	SELECT * INTO run FROM ledger.backfill_runs r WHERE r.id = run_id;
	IF run.phase = 'rows' THEN
		SELECT * INTO run FROM ledger.backfill_runs r WHERE r.id = run_id FOR UPDATE;
	END IF;
	status := run.status;
	IF status IS DISTINCT FROM 'running' THEN
		RETURN;
	END IF;
	IF run.phase = 'rows' THEN
		mapping_id := run.mapping_id;
		last_key := run.last_key;
		position := run.position;
		IF mapping_id IS NULL OR NOT EXISTS (SELECT FROM ledger.legacy_mappings m
				WHERE m.id = run.mapping_id AND m.detached_at IS NULL) THEN
			last_key := NULL;
			position := NULL;
			SELECT min(m.id) INTO mapping_id FROM ledger.legacy_mappings m
				WHERE m.detached_at IS NULL AND m.id > COALESCE(run.mapping_id, 0);
		END IF;
		IF mapping_id IS NOT NULL THEN
			RETURN;
		END IF;
		UPDATE ledger.backfill_runs r SET phase = 'waiting', mapping_id = NULL, last_key = NULL, position = NULL
			WHERE r.id = run_id;
	END IF;
	DELETE FROM ledger.backfill_waiting w WHERE w.run_id = backfill_next.run_id
		AND NOT EXISTS (SELECT FROM ledger.legacy_mappings m WHERE m.id = w.mapping_id AND m.detached_at IS NULL);
	SELECT w.mapping_id, w.user_id INTO mapping_id, user_id FROM ledger.backfill_waiting w
		WHERE w.run_id = backfill_next.run_id ORDER BY w.tries, w.mapping_id, w.user_id LIMIT 1;
	IF NOT FOUND THEN
		UPDATE ledger.backfill_findings f SET status = 'resolved', resolved_at = ledger.clock()
			WHERE f.status = 'open' AND f.run_id <> backfill_next.run_id;
		UPDATE ledger.backfill_runs r SET status = 'finished', phase = 'done',
				updated_at = ledger.clock(), finished_at = ledger.clock()
			WHERE r.id = run_id AND r.status = 'running' RETURNING r.status INTO status;
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.backfill_next(bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.backfill_next(bigint) IS 'Internal: the mapping and position that the run is at, or the user whose row it waits for (user_id); neither when it is finished.';

/* The rows of a batch, or one that was waited for (waited: its user, locked at last). */
CREATE FUNCTION ledger.backfill_record(run bigint, mapping smallint, until_key text, at_key text, at_end boolean,
	waited uuid, n_seen integer, n_opened integer, n_already integer, waiting uuid[],
	keys text[], users uuid[], reasons text[], details text[], rows jsonb[], began timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO ledger.backfill_waiting AS w (run_id, mapping_id, user_id)
		SELECT run, mapping, u.u FROM unnest(waiting) AS u (u)
		ON CONFLICT DO NOTHING;
	INSERT INTO ledger.backfill_findings AS f (run_id, mapping_id, key, user_id, reason, detail, "row", first_seen, last_seen)
		SELECT run, mapping, u.k, u.u, u.r, u.d, u.j, ledger.clock(), ledger.clock()
		FROM unnest(keys, users, reasons, details, rows) AS u (k, u, r, d, j)
		ON CONFLICT (mapping_id, key) WHERE status = 'open'
		DO UPDATE SET run_id = EXCLUDED.run_id, reason = EXCLUDED.reason, detail = EXCLUDED.detail, "row" = EXCLUDED."row",
			last_seen = EXCLUDED.last_seen, count = f.count + 1;
	IF waited IS NOT NULL THEN
		DELETE FROM ledger.backfill_waiting w
			WHERE w.run_id = run AND w.mapping_id = mapping AND w.user_id = waited;
	END IF;
	UPDATE ledger.backfill_runs r
		SET mapping_id = CASE WHEN waited IS NULL THEN mapping ELSE r.mapping_id END,
			last_key = CASE WHEN waited IS NULL THEN until_key END,
			position = CASE WHEN waited IS NULL THEN at_key END,
			seen = r.seen + n_seen, opened = r.opened + n_opened,
			already = r.already + n_already, findings = r.findings + cardinality(keys),
			batches = r.batches + 1, busy = r.busy + (clock_timestamp() - began), updated_at = ledger.clock()
		WHERE r.id = run;
	IF at_end THEN
		UPDATE ledger.backfill_runs r
			SET phase = CASE WHEN m.next IS NULL THEN 'waiting' ELSE 'rows' END,
				mapping_id = m.next, last_key = NULL, position = NULL
			FROM (SELECT min(n.id) AS next FROM ledger.legacy_mappings n
				WHERE n.detached_at IS NULL AND n.id > mapping) m
			WHERE r.id = run;
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.backfill_record(bigint, smallint, text, text, boolean, uuid, integer, integer, integer, uuid[], text[], uuid[], text[], text[], jsonb[], timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION ledger.backfill_record(bigint, smallint, text, text, boolean, uuid, integer, integer, integer, uuid[], text[], uuid[], text[], text[], jsonb[], timestamptz) IS 'Internal: notes what a batch did.';

CREATE FUNCTION ledger.backfill_record_end(run_id bigint, error text, failed boolean) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE ledger.backfill_runs r SET status = CASE WHEN failed THEN 'failed' ELSE 'paused' END,
			error = backfill_record_end.error, updated_at = ledger.clock()
		WHERE r.id = run_id AND r.status = 'running'
$$;
REVOKE ALL ON FUNCTION ledger.backfill_record_end(bigint, text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION ledger.backfill_record_end(bigint, text, boolean) IS 'Internal: notes what ended a run before its time.';

/* ---- the parts of the procedure ---------------------------------------------------------- */

CREATE FUNCTION ledger.backfill_begin(run_id bigint) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_backfill_begin' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.backfill_begin(bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.backfill_begin(bigint) IS 'A part of backfill(): takes the session''s lock and the unfinished run or a new one. Call backfill().';

CREATE FUNCTION ledger.backfill_step(run_id bigint, batch_size integer, OUT status text, OUT seen integer, OUT waiting integer)
	AS 'MODULE_PATHNAME', 'ledger_backfill_step' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.backfill_step(bigint, integer) FROM PUBLIC;
COMMENT ON FUNCTION ledger.backfill_step(bigint, integer) IS 'A part of backfill(): one batch. Call backfill().';

CREATE FUNCTION ledger.backfill_end(run_id bigint, error text, failed boolean) RETURNS void
	AS 'MODULE_PATHNAME', 'ledger_backfill_end' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.backfill_end(bigint, text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION ledger.backfill_end(bigint, text, boolean) IS 'A part of backfill(): gives the lock back and notes an error. Call backfill().';

/* ---- the procedure -------------------------------------------------------------------------- */

/*
 * Each batch is a transaction of its own. What a retry may mend (contention) is
 * tried again with half the rows, for about a minute; anything else is noted in
 * the run and raised. The first COMMIT refuses a transaction block before
 * anything is done.
 */
CREATE PROCEDURE ledger.backfill(batch_size integer DEFAULT NULL, INOUT run_id bigint DEFAULT NULL)
	LANGUAGE plpgsql SECURITY INVOKER
AS $$
DECLARE
	size integer := COALESCE(batch_size, 1000);
	failures integer := 0;
	began timestamptz;
	took numeric;
	step record;
	code text;
	message text;
	detail text;
	hint text;
BEGIN
	IF batch_size OPERATOR(pg_catalog.<) 1 OR batch_size OPERATOR(pg_catalog.>) 10000 THEN
		RAISE EXCEPTION 'batch_size must be from 1 to 10000'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out, and it is chosen.';
	END IF;
	COMMIT;
	run_id := ledger.backfill_begin(run_id);
	LOOP
		COMMIT;
		SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
		code := NULL;
		began := pg_catalog.clock_timestamp();
		BEGIN
			SELECT * INTO step FROM ledger.backfill_step(run_id, size);
		EXCEPTION
			WHEN query_canceled OR OTHERS THEN
				GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
					detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
		END;
		COMMIT;
		IF code IS NOT NULL THEN
			failures := failures OPERATOR(pg_catalog.+) 1;
			IF failures OPERATOR(pg_catalog.<) 100 AND code OPERATOR(pg_catalog.=) ANY (ARRAY['40001', '40P01', '55P03', '23505']) THEN
				size := GREATEST(size OPERATOR(pg_catalog./) 2, 1);
				PERFORM pg_catalog.pg_sleep(LEAST(0.01 OPERATOR(pg_catalog.*) failures, 1));
				CONTINUE;
			END IF;
			PERFORM ledger.backfill_end(run_id, message, code OPERATOR(pg_catalog.<>) '57014');
			COMMIT;
			RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message,
				DETAIL = COALESCE(NULLIF(detail, ''), pg_catalog.format('It ended run %s of the backfill.', run_id)),
				HINT = COALESCE(NULLIF(hint, ''), 'Call backfill() again, and it goes on from there.');
		END IF;
		failures := 0;
		EXIT WHEN step.status OPERATOR(pg_catalog.<>) 'running';
		IF batch_size IS NULL THEN
			took := EXTRACT(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) began);
			IF took OPERATOR(pg_catalog.>) 0.1 OR step.waiting OPERATOR(pg_catalog.*) 10 OPERATOR(pg_catalog.>) step.seen THEN
				size := GREATEST(size OPERATOR(pg_catalog./) 2, 10);
			ELSIF took OPERATOR(pg_catalog.<) 0.05 THEN
				size := LEAST(size OPERATOR(pg_catalog.*) 2, 1000);
			END IF;
		ELSE
			size := LEAST(size OPERATOR(pg_catalog.*) 2, batch_size);
		END IF;
	END LOOP;
	PERFORM ledger.backfill_end(run_id, NULL, false);
END
$$;
REVOKE ALL ON PROCEDURE ledger.backfill(integer, bigint) FROM PUBLIC;
COMMENT ON PROCEDURE ledger.backfill(integer, bigint) IS 'Opens every user who has a legacy row and is not opened yet, in batches of batch_size rows (NULL: chosen), each a transaction of its own, beside live writers. Goes on with the unfinished run, else begins one, and returns its id. Rows from which nobody can be opened are in backfill_findings. Errors: 22023, 2D000, 25006, 55000, 42501, 42704, 55006.';

CREATE FUNCTION ledger.backfill_stop(run_id bigint, new_status text) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	run ledger.backfill_runs;
BEGIN
	SELECT * INTO run FROM ledger.backfill_runs r
		WHERE CASE WHEN run_id IS NULL THEN r.finished_at IS NULL ELSE r.id = run_id END FOR UPDATE;
	IF NOT FOUND AND run_id IS NOT NULL THEN
		RAISE EXCEPTION 'there is no backfill run %', run_id
			USING ERRCODE = 'undefined_object', HINT = 'ledger.backfill_runs lists the runs.';
	ELSIF NOT FOUND THEN
		RAISE EXCEPTION 'there is no backfill to be %', new_status
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'ledger.backfill_progress shows the runs.';
	ELSIF run.finished_at IS NOT NULL AND run.status <> new_status THEN
		RAISE EXCEPTION 'backfill run % is %', run.id, run.status
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'ledger.backfill_progress shows the runs.';
	END IF;
	UPDATE ledger.backfill_runs r SET status = new_status, updated_at = ledger.clock(),
			finished_at = CASE WHEN new_status = 'cancelled' THEN COALESCE(r.finished_at, ledger.clock()) END
		WHERE r.id = run.id AND r.status <> new_status;
	RETURN run.id;
END
$$;
REVOKE ALL ON FUNCTION ledger.backfill_stop(bigint, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.backfill_stop(bigint, text) IS 'Internal: pauses or cancels a run.';

CREATE FUNCTION ledger.pause_backfill(run_id bigint DEFAULT NULL) RETURNS bigint
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ledger.backfill_stop(run_id, 'paused')
$$;
REVOKE ALL ON FUNCTION ledger.pause_backfill(bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.pause_backfill(bigint) IS 'Lets the backfill (NULL: the unfinished run) end after its current batch; backfill() goes on with it. Returns the run''s id. Errors: 42704, 55000.';

CREATE FUNCTION ledger.cancel_backfill(run_id bigint DEFAULT NULL) RETURNS bigint
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ledger.backfill_stop(run_id, 'cancelled')
$$;
REVOKE ALL ON FUNCTION ledger.cancel_backfill(bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.cancel_backfill(bigint) IS 'Lets the backfill (NULL: the unfinished run) end after its current batch, for good: backfill() begins a new run. Who is opened stays opened. Returns the run''s id. Errors: 42704, 55000.';
