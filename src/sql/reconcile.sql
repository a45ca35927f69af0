/*
 * reconcile.sql: compare, reconcile, recorded runs and what they found.
 *
 * A run goes in steps, each a transaction: first the users are compared, some
 * at a time and each time from one snapshot, then whoever differed is compared
 * once more, and only who still differs is a discrepancy. reconcile_run.c has
 * the procedure that takes the steps; the worker takes them too.
 */

CREATE TABLE ledger.reconciliation_runs (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	scope text COLLATE "C" NOT NULL CHECK (scope IN ('full', 'incremental', 'range', 'sample')),
	tolerance numeric NOT NULL,
	options jsonb NOT NULL DEFAULT '{}',
	status text COLLATE "C" NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'finished', 'failed', 'cancelled')),
	phase text COLLATE "C" NOT NULL DEFAULT 'compare' CHECK (phase IN ('compare', 'check', 'done')),
	started_at timestamptz NOT NULL,
	finished_at timestamptz,
	snapshot pg_snapshot NOT NULL,
	xact xid8,
	last_transaction_id bigint NOT NULL,
	last_write_id bigint NOT NULL DEFAULT 0,
	base_run_id bigint,
	"position" uuid,
	compared bigint NOT NULL DEFAULT 0,
	discrepancies bigint NOT NULL DEFAULT 0,
	ignored bigint NOT NULL DEFAULT 0,
	ignored_amount numeric NOT NULL DEFAULT 0,
	users bigint NOT NULL DEFAULT 0,
	tolerated jsonb NOT NULL DEFAULT '{}',
	total_difference numeric NOT NULL DEFAULT 0,
	within_total boolean,
	system_identifier bigint NOT NULL DEFAULT 0,
	database_oid bigint NOT NULL DEFAULT 0,
	mappings text NOT NULL DEFAULT '',
	requested_by text NOT NULL,
	runner_pid int,
	runner_start timestamptz,
	runner_query timestamptz,
	updated_at timestamptz,
	note text,
	CHECK ((status = 'running') = (finished_at IS NULL))
) USING heap;
CREATE UNIQUE INDEX reconciliation_runs_running ON ledger.reconciliation_runs ((true)) WHERE status = 'running';
COMMENT ON TABLE ledger.reconciliation_runs IS 'Recorded reconciliations: what was compared as of which snapshot, and how much did not match.';
COMMENT ON COLUMN ledger.reconciliation_runs.options IS 'What else was asked for: from_user, to_user, fraction, max_users, seed, tolerances, total_tolerances, chunk_users.';
COMMENT ON COLUMN ledger.reconciliation_runs.snapshot IS 'Taken before the first user was compared: what it does not see, the next incremental run looks at.';
COMMENT ON COLUMN ledger.reconciliation_runs.last_transaction_id IS 'The highest that had been given out before the snapshot was taken; 0: it was not known.';
COMMENT ON COLUMN ledger.reconciliation_runs.xact IS 'Of the transaction that began the run, assigned after last_transaction_id was read: whoever took an id up to that has a lower one.';
COMMENT ON COLUMN ledger.reconciliation_runs.last_write_id IS 'The same of legacy_writes.';
COMMENT ON COLUMN ledger.reconciliation_runs.base_run_id IS 'Of an incremental run, the run from which it went on.';
COMMENT ON COLUMN ledger.reconciliation_runs."position" IS 'The next user to compare, while it runs.';
COMMENT ON COLUMN ledger.reconciliation_runs.compared IS 'Users compared.';
COMMENT ON COLUMN ledger.reconciliation_runs.discrepancies IS 'Columns of users that differed by more than the tolerance, when compared and when looked at again.';
COMMENT ON COLUMN ledger.reconciliation_runs.ignored IS 'Columns of users that differed and are under a rule of ignore_rules; ignored_amount is the sum of their differences without their signs.';
COMMENT ON COLUMN ledger.reconciliation_runs.users IS 'Users with a discrepancy.';
COMMENT ON COLUMN ledger.reconciliation_runs.tolerated IS 'For each currency the sum, without signs, of differences within the tolerance.';
COMMENT ON COLUMN ledger.reconciliation_runs.total_difference IS 'The sum of all differences without their signs, tolerated ones too; what is ignored is not in it.';
COMMENT ON COLUMN ledger.reconciliation_runs.within_total IS 'Whether the total of each currency is within its tolerance; NULL until it is finished.';
COMMENT ON COLUMN ledger.reconciliation_runs.mappings IS 'Which tables and columns were attached, as a hash: an incremental run goes on from one with the same.';

CREATE TABLE ledger.reconciliation_findings (
	run_id bigint NOT NULL,
	mapping_id smallint NOT NULL,
	user_id uuid NOT NULL,
	legacy_column text COLLATE "C" NOT NULL,
	currency text COLLATE "C" NOT NULL,
	ledger_value numeric,
	legacy_value numeric,
	difference numeric,
	allowed numeric NOT NULL,
	cause text COLLATE "C" NOT NULL,
	status text COLLATE "C" NOT NULL CHECK (status IN ('candidate', 'differs', 'settled', 'ignored')),
	ignore_rule_id bigint,
	PRIMARY KEY (run_id, user_id, mapping_id, legacy_column)
) USING heap;
CREATE INDEX reconciliation_findings_candidates ON ledger.reconciliation_findings (run_id, user_id) WHERE status = 'candidate';
COMMENT ON TABLE ledger.reconciliation_findings IS 'What each run found to differ by more than the tolerance.';
COMMENT ON COLUMN ledger.reconciliation_findings.status IS 'candidate: to be compared again; differs: it did again; settled: it did not; ignored: a rule says so.';
COMMENT ON COLUMN ledger.reconciliation_findings.difference IS 'ledger - legacy; NULL: not finite.';

CREATE TABLE ledger.reconciliation_users (
	run_id bigint NOT NULL,
	user_id uuid NOT NULL,
	PRIMARY KEY (run_id, user_id)
) USING heap;
COMMENT ON TABLE ledger.reconciliation_users IS 'Users that an incremental run has still to compare.';

CREATE TABLE ledger.ignore_rules (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	user_id uuid,
	legacy_column text COLLATE "C",
	reason text NOT NULL,
	expires_at timestamptz NOT NULL,
	created_by text NOT NULL,
	created_at timestamptz NOT NULL,
	removed_by text,
	removed_at timestamptz,
	CHECK (user_id IS NOT NULL OR legacy_column IS NOT NULL)
) USING heap;
COMMENT ON TABLE ledger.ignore_rules IS 'Differences that are known and not to be reported: of a user, of a column, or of both, until they expire or are removed.';
COMMENT ON COLUMN ledger.ignore_rules.user_id IS 'NULL: every user.';
COMMENT ON COLUMN ledger.ignore_rules.legacy_column IS 'NULL: every column.';

SELECT pg_catalog.pg_extension_config_dump('ledger.reconciliation_runs', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.reconciliation_runs_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.reconciliation_findings', '');
-- A run that is going on cannot be gone on with elsewhere.
SELECT pg_catalog.pg_extension_config_dump('ledger.reconciliation_users', 'WHERE false');
SELECT pg_catalog.pg_extension_config_dump('ledger.ignore_rules', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.ignore_rules_id_seq', '');

CREATE FUNCTION ledger.compare_balances(user_id uuid)
	RETURNS TABLE (legacy_column text, ledger_value numeric, legacy_value numeric, difference numeric, status text)
	AS 'MODULE_PATHNAME', 'ledger_compare_balances' LANGUAGE C STABLE PARALLEL RESTRICTED SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.compare_balances(uuid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.compare_balances(uuid) IS 'Both sides of one user from one snapshot, each mapped column: match, mismatch, pending (this transaction is at work on the user), missing_legacy, missing_ledger (not opened yet), non_finite. difference = ledger - legacy; a missing side counts as zero.';

CREATE FUNCTION ledger.reconcile(tolerance numeric DEFAULT 0, scope text DEFAULT 'full')
	RETURNS TABLE (user_id uuid, legacy_column text, ledger_value numeric, legacy_value numeric, difference numeric, status text)
	AS 'MODULE_PATHNAME', 'ledger_reconcile' LANGUAGE C STABLE PARALLEL RESTRICTED SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.reconcile(numeric, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconcile(numeric, text) IS 'Every user and mapped column where ledger and legacy row differ by more than the tolerance, from one snapshot, in the order of the users; scope incremental: of those changed since the last recorded run, or of all if there is none to go on from (a NOTICE says so). Writes nothing. Errors: 22004, 22023, 55000.';

CREATE FUNCTION ledger.reconcile_range(from_user uuid, to_user uuid, max_users bigint, fraction double precision, seed bigint)
	RETURNS TABLE (mapping_id smallint, user_id uuid, legacy_column text, ledger_value numeric, legacy_value numeric,
		difference numeric, status text, currency text)
	AS 'MODULE_PATHNAME', 'ledger_reconcile_range' LANGUAGE C STABLE PARALLEL RESTRICTED SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.reconcile_range(uuid, uuid, bigint, double precision, bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconcile_range(uuid, uuid, bigint, double precision, bigint) IS 'Internal: every difference of the users from one to the other (NULL: no bound), at most so many of them (0: all), or a fraction of them by seed; and a last row of status end: how many were compared (ledger_value), and who is next (user_id, NULL: nobody).';

CREATE FUNCTION ledger.reconcile_users(users uuid[])
	RETURNS TABLE (mapping_id smallint, user_id uuid, legacy_column text, ledger_value numeric, legacy_value numeric,
		difference numeric, status text, currency text)
	AS 'MODULE_PATHNAME', 'ledger_reconcile_users' LANGUAGE C STABLE PARALLEL RESTRICTED STRICT SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.reconcile_users(uuid[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconcile_users(uuid[]) IS 'Internal: every difference of these users.';

/* ---- incremental ------------------------------------------------------------------- */

CREATE FUNCTION ledger.reconciliation_mappings() RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET quote_all_identifiers = off
AS $$
	SELECT md5(concat(
		(SELECT string_agg((to_jsonb(m) - 'capture')::text, ' ' ORDER BY m.id) FROM ledger.legacy_mappings m WHERE m.detached_at IS NULL),
		(SELECT string_agg(to_jsonb(c)::text, ' ' ORDER BY c.mapping_id, c.ordinal) FROM ledger.legacy_columns c)))
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_mappings() FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_mappings() IS 'Internal: a hash of what is attached, the same in every session.';

/*
 * The newest run from which an incremental one can go on. It must have told
 * of everything that this one is to tell of; what a snapshot of another
 * cluster or database has seen is not known here.
 */
CREATE FUNCTION ledger.reconcile_base(tolerance numeric, OUT run_id bigint, OUT reason text)
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	here bigint := (SELECT c.system_identifier FROM pg_control_system() c);
	database bigint := (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database());
	r ledger.reconciliation_runs;
BEGIN
	FOR r IN SELECT * FROM ledger.reconciliation_runs n
		WHERE n.status = 'finished' AND n.scope IN ('full', 'incremental') ORDER BY n.id DESC LIMIT 1000
	LOOP
		IF r.system_identifier <> here OR r.database_oid <> database THEN
			reason := COALESCE(reason, 'the last run is of another cluster or database');
			RETURN;
		ELSIF r.mappings <> ledger.reconciliation_mappings() THEN
			reason := COALESCE(reason, 'a legacy table was attached or detached since the last run');
			RETURN;
		ELSIF reconcile_base.tolerance >= GREATEST(r.tolerance,
			(SELECT max(t.value::numeric) FROM jsonb_each_text(r.options -> 'tolerances') t)) THEN
			run_id := r.id;
			reason := NULL;
			RETURN;
		END IF;
		reason := COALESCE(reason, 'the last run tolerated more');
	END LOOP;
	reason := COALESCE(reason, 'there is no finished run');
END
$$;
REVOKE ALL ON FUNCTION ledger.reconcile_base(numeric) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconcile_base(numeric) IS 'Internal: the run from which an incremental one goes on, or why there is none.';

/*
 * Whom the run's snapshot did not see the latest of. An id is taken by a
 * transaction that has an xid, so every id that had been given out when a run
 * was assigned its own xid is of a transaction with a lower one; if that is
 * not above this run's xmin, it had ended for this run. (A snapshot's xmax
 * would not do: it is not above xids that are assigned, but above those that
 * have ended.) Above such an id, the transactions' own xids tell.
 */
CREATE FUNCTION ledger.reconcile_changed_since(run_id bigint) RETURNS SETOF uuid
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
	base ledger.reconciliation_runs;
	seen bigint;
	seen_write bigint;
BEGIN
	SELECT r.* INTO STRICT base FROM ledger.reconciliation_runs r WHERE r.id = reconcile_changed_since.run_id;
	SELECT COALESCE(max(r.last_transaction_id), 0), COALESCE(max(r.last_write_id), 0) INTO seen, seen_write
		FROM ledger.reconciliation_runs r
		WHERE r.system_identifier = base.system_identifier AND r.database_oid = base.database_oid
			AND r.xact <= pg_snapshot_xmin(base.snapshot);
	RETURN QUERY
		WITH late AS MATERIALIZED (
			SELECT j.user_id, j.debit_account_id, j.credit_account_id FROM ledger.journal j
			WHERE j.transaction_id > seen AND j.ordinal = 0 AND NOT pg_visible_in_snapshot(j.xact, base.snapshot)
		), more AS MATERIALIZED (
			-- of transactions with several postings; the first row has the xid
			SELECT j.debit_account_id, j.credit_account_id FROM ledger.journal j
			WHERE j.transaction_id > seen AND j.ordinal > 0 AND NOT pg_visible_in_snapshot((
				SELECT h.xact FROM ledger.journal h WHERE h.transaction_id = j.transaction_id AND h.ordinal = 0), base.snapshot)
		), touched AS MATERIALIZED (
			SELECT l.debit_account_id AS id FROM late l UNION SELECT l.credit_account_id FROM late l
			UNION SELECT m.debit_account_id FROM more m UNION SELECT m.credit_account_id FROM more m
		)
		SELECT l.user_id FROM late l WHERE l.user_id IS NOT NULL
		UNION
		SELECT a.user_id FROM touched t JOIN ledger.accounts a ON a.id = t.id WHERE a.user_id IS NOT NULL
		UNION
		SELECT w.user_id FROM ledger.legacy_writes w
			WHERE w.id > seen_write AND NOT pg_visible_in_snapshot(w.xact, base.snapshot)
		UNION
		SELECT p.user_id FROM ledger.repair_log p
			WHERE p.xact >= pg_snapshot_xmin(base.snapshot) AND NOT pg_visible_in_snapshot(p.xact, base.snapshot)
		UNION
		SELECT d.user_id FROM ledger.discrepancy_rows d WHERE d.status = 'open' AND d.user_id IS NOT NULL
		UNION
		SELECT f.user_id FROM ledger.reconciliation_findings f
			WHERE f.run_id = reconcile_changed_since.run_id AND f.status <> 'settled';
END
$$;
REVOKE ALL ON FUNCTION ledger.reconcile_changed_since(bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconcile_changed_since(bigint) IS 'Internal: the users of transactions and of outside writes and repairs that the run did not see, with open discrepancies, or found by it.';

CREATE FUNCTION ledger.reconcile_changed(tolerance numeric) RETURNS TABLE (user_id uuid)
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	base record;
BEGIN
	SELECT b.* INTO base FROM ledger.reconcile_base(reconcile_changed.tolerance) b;
	IF base.run_id IS NULL THEN
		RAISE NOTICE 'reconciling in full: %', base.reason;
		RETURN QUERY SELECT NULL::uuid;
	ELSE
		RETURN QUERY SELECT c.u FROM ledger.reconcile_changed_since(base.run_id) AS c (u);
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.reconcile_changed(numeric) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconcile_changed(numeric) IS 'Internal: the users of an incremental reconciliation; one row of NULL: all.';

/* ---- runs --------------------------------------------------------------------------- */

/*
 * What this transaction has written is no less seen for being its own, but
 * what it will write has the same xid: so it counts as not seen.
 */
CREATE FUNCTION ledger.reconciliation_snapshot() RETURNS pg_snapshot
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	now pg_snapshot := pg_current_snapshot();
	own xid8 := pg_current_xact_id_if_assigned();
BEGIN
	IF own IS NULL OR own >= pg_snapshot_xmax(now) THEN
		RETURN now;
	END IF;
	RETURN (SELECT format('%s:%s:%s', CASE WHEN own < pg_snapshot_xmin(now) THEN own ELSE pg_snapshot_xmin(now) END,
			pg_snapshot_xmax(now), string_agg(x.xid::text, ',' ORDER BY x.xid))
		FROM (SELECT pg_snapshot_xip(now) AS xid UNION SELECT own) x)::pg_snapshot;
END
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_snapshot() FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_snapshot() IS 'Internal: the snapshot that a run stores.';

/* Whether the session that took its last step is still at it. */
CREATE FUNCTION ledger.reconciliation_is_running(run ledger.reconciliation_runs) RETURNS boolean
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT run.status = 'running' AND run.runner_pid <> pg_backend_pid() AND EXISTS (
		SELECT FROM pg_stat_get_activity(run.runner_pid) a
		WHERE a.backend_start = run.runner_start
			AND (run.runner_query IS NULL OR a.state = 'disabled' OR (a.state = 'active' AND a.query_start = run.runner_query)))
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_is_running(ledger.reconciliation_runs) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_is_running(ledger.reconciliation_runs) IS 'Internal: whether somebody is at work on the run.';

/* Raises if a run is going on; one that nobody is at work on has failed. */
CREATE FUNCTION ledger.reconciliation_make_way(but bigint) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	r ledger.reconciliation_runs;
BEGIN
	SELECT n.* INTO r FROM ledger.reconciliation_runs n WHERE n.status = 'running' FOR UPDATE;
	IF NOT FOUND THEN
		RETURN;
	ELSIF ledger.reconciliation_is_running(r) THEN
		RAISE EXCEPTION 'reconciliation % is running', r.id
			USING ERRCODE = 'object_in_use',
				  DETAIL = format('Backend %s is at work on it since %s; %s users are compared.', r.runner_pid, r.started_at, r.compared),
				  HINT = 'Wait for it, or call ledger.cancel_reconciliation().';
	ELSIF r.id IS DISTINCT FROM but THEN
		UPDATE ledger.reconciliation_runs n SET status = 'failed', finished_at = ledger.clock(), updated_at = ledger.clock(),
			note = concat_ws('; ', n.note, 'the session that ran it has ended')
			WHERE n.id = r.id;
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_make_way(bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_make_way(bigint) IS 'Internal: raises 55006 if a reconciliation is running.';

CREATE FUNCTION ledger.reconciliation_check_tolerances(name text, tolerances jsonb) RETURNS void
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	one record;
BEGIN
	IF tolerances IS NULL THEN
		RETURN;
	ELSIF jsonb_typeof(tolerances) <> 'object' THEN
		RAISE EXCEPTION 'invalid %: %', name, left(tolerances::text, 100)
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass an object like {"USD": 0.01}.';
	END IF;
	FOR one IN SELECT * FROM jsonb_each(tolerances) LOOP
		IF NOT EXISTS (SELECT FROM ledger.currencies c WHERE c.code = one.key) THEN
			RAISE EXCEPTION 'unknown currency "%"', one.key
				USING ERRCODE = 'LG010', HINT = 'Pass one of ledger.currencies.';
		ELSIF jsonb_typeof(one.value) <> 'number' OR one.value < '0' THEN
			RAISE EXCEPTION 'invalid tolerance % of currency %', one.value, one.key
				USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass zero or a number above it.';
		END IF;
	END LOOP;
END
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_check_tolerances(text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_check_tolerances(text, jsonb) IS 'Internal: raises unless it has numbers for currencies.';

CREATE FUNCTION ledger.reconciliation_scope(scope text, tolerance numeric, options jsonb) RETURNS text
	LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	part text := CASE WHEN options ?| ARRAY['fraction', 'max_users'] THEN 'sample'
		WHEN options ?| ARRAY['from_user', 'to_user'] THEN 'range' END;
	missing text := CASE WHEN scope IS NULL THEN 'scope' WHEN tolerance IS NULL THEN 'tolerance'
		WHEN options ->> 'seed' IS NULL THEN 'seed' WHEN options ->> 'chunk_users' IS NULL THEN 'chunk_users' END;
BEGIN
	IF missing IS NOT NULL THEN
		RAISE EXCEPTION '% must not be NULL', missing
			USING ERRCODE = 'null_value_not_allowed', HINT = 'Leave it out for the default.';
	ELSIF scope NOT IN ('full', 'incremental') THEN
		RAISE EXCEPTION 'scope must be full or incremental' USING ERRCODE = 'invalid_parameter_value';
	ELSIF tolerance < 0 OR tolerance IN ('NaN', 'Infinity', '-Infinity') THEN
		RAISE EXCEPTION 'invalid tolerance %', tolerance
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass zero or a finite number above it.';
	ELSIF part IS NOT NULL AND scope = 'incremental' THEN
		RAISE EXCEPTION 'an incremental reconciliation cannot be of a part of the users'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass scope full.';
	ELSIF NOT (options ->> 'fraction')::double precision BETWEEN 0 AND 1 OR (options ->> 'fraction')::double precision = 0 THEN
		RAISE EXCEPTION 'invalid fraction %', options ->> 'fraction'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass a number above 0, up to 1.';
	ELSIF (options ->> 'max_users')::bigint <= 0 OR (options ->> 'chunk_users')::bigint <= 0 THEN
		RAISE EXCEPTION '% must be above zero', CASE WHEN (options ->> 'max_users')::bigint <= 0 THEN 'max_users' ELSE 'chunk_users' END
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass a number of users.';
	END IF;
	PERFORM ledger.reconciliation_check_tolerances('tolerances', options -> 'tolerances');
	PERFORM ledger.reconciliation_check_tolerances('total_tolerances', options -> 'total_tolerances');
	RETURN COALESCE(part, scope);
END
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_scope(text, numeric, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_scope(text, numeric, jsonb) IS 'Internal: checks the arguments of a run; what its scope is.';

/*
 * The numbers of the sequences first, then an xid of our own, then the
 * snapshot, then everything else: whatever is not seen is looked at by the next
 * incremental run. Where the transaction has one snapshot from its beginning,
 * or an xid already, the numbers are not known.
 */
CREATE FUNCTION ledger.reconciliation_begin(scope text, tolerance numeric, options jsonb, is_worker boolean) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	known boolean := current_setting('transaction_isolation') IN ('read committed', 'read uncommitted')
		AND pg_current_xact_id_if_assigned() IS NULL;
	what text := ledger.reconciliation_scope(scope, tolerance, options);
	note text;
	base_id bigint;
	why text;
	last_id bigint;
	last_write bigint;
	own xid8;
	snap pg_snapshot;
	run bigint;
BEGIN
	SELECT CASE WHEN known AND s.is_called THEN s.last_value ELSE 0 END INTO last_id FROM ledger.transaction_id_seq s;
	SELECT CASE WHEN known AND s.is_called THEN s.last_value ELSE 0 END INTO last_write FROM ledger.legacy_writes_id_seq s;
	own := pg_current_xact_id();
	snap := ledger.reconciliation_snapshot();
	PERFORM ledger.reconciliation_make_way(NULL);
	IF what = 'incremental' THEN
		SELECT b.run_id, b.reason INTO base_id, why FROM ledger.reconcile_base(
			(SELECT LEAST(tolerance, min(t.value::numeric)) FROM jsonb_each_text(options -> 'tolerances') t)) b;
		IF base_id IS NULL THEN
			what := 'full';
			note := 'in full: ' || why;
			RAISE NOTICE 'reconciling in full: %', why;
		END IF;
	END IF;
	INSERT INTO ledger.reconciliation_runs (scope, tolerance, options, started_at, updated_at, snapshot, xact, last_transaction_id,
			last_write_id, base_run_id, "position", system_identifier, database_oid, mappings, requested_by, note)
		SELECT what, tolerance, options, ledger.clock(), ledger.clock(), snap, own, last_id, last_write,
			base_id, (options ->> 'from_user')::uuid,
			c.system_identifier, d.oid::bigint, ledger.reconciliation_mappings(), session_user, note
		FROM pg_control_system() c, pg_database d WHERE d.datname = current_database()
		RETURNING id INTO run;
	IF what = 'incremental' THEN
		INSERT INTO ledger.reconciliation_users (run_id, user_id)
			SELECT run, c.u FROM ledger.reconcile_changed_since(base_id) AS c (u);
	END IF;
	PERFORM ledger.reconciliation_take(run, is_worker);
	RETURN run;
END
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_begin(text, numeric, jsonb, boolean) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_begin(text, numeric, jsonb, boolean) IS 'Internal: checks the arguments and records the beginning of a run.';

/* The run is this session's from now on; its statement's, unless it is the worker. */
CREATE FUNCTION ledger.reconciliation_take(run_id bigint, is_worker boolean) RETURNS void
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE ledger.reconciliation_runs r SET status = 'running', finished_at = NULL, runner_pid = pg_backend_pid(),
		runner_start = (SELECT a.backend_start FROM pg_stat_get_activity(pg_backend_pid()) a),
		runner_query = CASE WHEN NOT is_worker THEN statement_timestamp() END
		WHERE r.id = reconciliation_take.run_id
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_take(bigint, boolean) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_take(bigint, boolean) IS 'Internal: notes who is at work on a run.';

CREATE FUNCTION ledger.reconciliation_resume(run_id bigint) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	r ledger.reconciliation_runs;
BEGIN
	PERFORM ledger.reconciliation_make_way(reconciliation_resume.run_id);
	SELECT n.* INTO r FROM ledger.reconciliation_runs n WHERE n.id = reconciliation_resume.run_id FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no reconciliation %', reconciliation_resume.run_id
			USING ERRCODE = 'no_data_found', HINT = 'See ledger.reconciliation_runs; leave run_id out to begin one.';
	ELSIF r.status = 'finished' THEN
		RAISE EXCEPTION 'reconciliation % is finished', r.id
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Leave run_id out to begin another.';
	ELSIF r.system_identifier <> (SELECT c.system_identifier FROM pg_control_system() c)
		OR r.database_oid <> (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database())
		OR r.mappings <> ledger.reconciliation_mappings() THEN
		RAISE EXCEPTION 'reconciliation % cannot be resumed', r.id
			USING ERRCODE = 'object_not_in_prerequisite_state',
				  DETAIL = 'It is of another cluster or database, or a legacy table was attached or detached since.',
				  HINT = 'Leave run_id out to begin another.';
	END IF;
	PERFORM ledger.reconciliation_take(r.id, false);
END
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_resume(bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_resume(bigint) IS 'Internal: goes on with a run that was not finished.';

/* A difference as it is stored: the tolerance of its currency, and the rule under which it is ignored. */
CREATE FUNCTION ledger.reconciliation_allowed(run ledger.reconciliation_runs, currency text) RETURNS numeric
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT COALESCE((run.options -> 'tolerances' ->> currency)::numeric, run.tolerance)
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_allowed(ledger.reconciliation_runs, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_allowed(ledger.reconciliation_runs, text) IS 'Internal: the tolerance of a currency in a run.';

CREATE FUNCTION ledger.ignored_by(user_id uuid, legacy_column text) RETURNS bigint
	LANGUAGE sql VOLATILE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT min(i.id) FROM ledger.ignore_rules i
	WHERE i.removed_at IS NULL AND i.expires_at > ledger.clock()
		AND (i.user_id IS NULL OR i.user_id = ignored_by.user_id)
		AND (i.legacy_column IS NULL OR i.legacy_column = ignored_by.legacy_column)
$$;
REVOKE ALL ON FUNCTION ledger.ignored_by(uuid, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.ignored_by(uuid, text) IS 'Internal: the rule in force under which a difference is ignored; NULL: none.';

/*
 * Compares the next users from one snapshot, and notes who differs. Returns
 * how many they were, and who is next.
 */
CREATE FUNCTION ledger.reconciliation_compare(run ledger.reconciliation_runs, OUT compared bigint, OUT next_user uuid)
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	chunk bigint := (run.options ->> 'chunk_users')::bigint;
	chosen uuid[];
	small jsonb;
BEGIN
	IF run.scope = 'incremental' THEN
		chosen := ARRAY(SELECT u.user_id FROM ledger.reconciliation_users u WHERE u.run_id = run.id ORDER BY u.user_id LIMIT chunk);
	END IF;
	IF run.options ? 'max_users' THEN
		chunk := LEAST(chunk, (run.options ->> 'max_users')::bigint - run.compared);
	END IF;
	WITH found AS MATERIALIZED (
		SELECT r.* FROM ledger.reconcile_range(run."position", (run.options ->> 'to_user')::uuid, chunk,
			COALESCE((run.options ->> 'fraction')::double precision, 1), (run.options ->> 'seed')::bigint) r
			WHERE run.scope <> 'incremental'
		UNION ALL
		SELECT u.* FROM ledger.reconcile_users(chosen) u
	), rated AS MATERIALIZED (
		SELECT f.*, a.allowed, f.difference IS NOT NULL AND abs(f.difference) <= a.allowed AS small
		FROM found f CROSS JOIN LATERAL (SELECT ledger.reconciliation_allowed(run, f.currency) AS allowed) a
		WHERE f.status NOT IN ('end', 'pending')
	), kept AS (
		INSERT INTO ledger.reconciliation_findings (run_id, mapping_id, user_id, legacy_column, currency, ledger_value,
				legacy_value, difference, allowed, cause, status, ignore_rule_id)
			SELECT run.id, r.mapping_id, r.user_id, r.legacy_column, r.currency, r.ledger_value, r.legacy_value, r.difference,
				r.allowed, r.status, CASE WHEN i.id IS NULL THEN 'candidate' ELSE 'ignored' END, i.id
			FROM rated r CROSS JOIN LATERAL (SELECT ledger.ignored_by(r.user_id, r.legacy_column) AS id) i
			WHERE NOT r.small
	)
	SELECT (SELECT f.ledger_value FROM found f WHERE f.status = 'end'), (SELECT f.user_id FROM found f WHERE f.status = 'end'),
			(SELECT jsonb_object_agg(s.currency, s.total) FROM (SELECT r.currency, sum(abs(r.difference)) AS total
				FROM rated r WHERE r.small GROUP BY r.currency) s)
		INTO compared, next_user, small;
	IF run.scope = 'incremental' THEN
		compared := cardinality(chosen);
		DELETE FROM ledger.reconciliation_users u WHERE u.run_id = run.id AND u.user_id = ANY (chosen);
		next_user := (SELECT n.user_id FROM ledger.reconciliation_users n WHERE n.run_id = run.id ORDER BY n.user_id LIMIT 1);
	ELSIF run.compared + compared >= (run.options ->> 'max_users')::bigint THEN
		next_user := NULL;
	END IF;
	IF small IS NOT NULL THEN
		UPDATE ledger.reconciliation_runs r SET tolerated = (
				SELECT jsonb_object_agg(s.key, s.total) FROM (SELECT e.key, sum(e.value::numeric) AS total
					FROM (SELECT * FROM jsonb_each_text(r.tolerated) UNION ALL SELECT * FROM jsonb_each_text(small)) e GROUP BY e.key) s)
			WHERE r.id = run.id;
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_compare(ledger.reconciliation_runs) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_compare(ledger.reconciliation_runs) IS 'Internal: a step of a run that compares.';

/*
 * Compares users who differed once more, from a newer snapshot: what is no
 * longer so accuses nobody. Returns how many there were.
 */
CREATE FUNCTION ledger.reconciliation_check(run ledger.reconciliation_runs) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp SET enable_nestloop = off
AS $$
#variable_conflict use_column
/* of a new run's rows there are no statistics: nested loops would compare each with each */
DECLARE
	chosen uuid[] := ARRAY(SELECT DISTINCT f.user_id FROM ledger.reconciliation_findings f
		WHERE f.run_id = run.id AND f.status = 'candidate' ORDER BY f.user_id LIMIT 10000);
BEGIN
	WITH again AS MATERIALIZED (
		SELECT u.*, u.difference IS NULL OR abs(u.difference) > ledger.reconciliation_allowed(run, u.currency) AS differs
		FROM ledger.reconcile_users(chosen) u
	), settled AS (
		UPDATE ledger.reconciliation_findings f
			SET status = CASE WHEN NOT x.differs THEN 'settled' WHEN x.rule IS NULL THEN 'differs' ELSE 'ignored' END,
				ignore_rule_id = x.rule,
				ledger_value = CASE WHEN x.differs THEN x.ledger_value ELSE f.ledger_value END,
				legacy_value = CASE WHEN x.differs THEN x.legacy_value ELSE f.legacy_value END,
				difference = CASE WHEN x.differs THEN x.difference ELSE f.difference END,
				cause = CASE WHEN x.differs THEN x.status ELSE f.cause END
			FROM (SELECT c.ctid AS t, COALESCE(a.differs, false) AS differs,
					a.ledger_value, a.legacy_value, a.difference, a.status, ledger.ignored_by(c.user_id, c.legacy_column) AS rule
				FROM ledger.reconciliation_findings c
				LEFT JOIN again a ON a.user_id = c.user_id AND a.mapping_id = c.mapping_id AND a.legacy_column = c.legacy_column
				WHERE c.run_id = run.id AND c.status = 'candidate' AND c.user_id = ANY (chosen)) x
			WHERE f.run_id = run.id AND f.status = 'candidate' AND f.user_id = ANY (chosen) AND f.ctid = x.t
			RETURNING f.*
	)
	INSERT INTO ledger.discrepancy_rows AS d (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value,
			first_seen, last_seen)
		SELECT s.mapping_id, s.user_id, s.legacy_column, s.cause, 'run', s.ledger_value, s.legacy_value, ledger.clock(), ledger.clock()
		FROM settled s WHERE s.status = 'differs' AND s.cause <> 'pending'
		ORDER BY s.user_id, s.mapping_id, s.legacy_column
		ON CONFLICT (user_id, mapping_id, legacy_column, cause) WHERE status = 'open'
		DO UPDATE SET count = d.count + 1, last_seen = EXCLUDED.last_seen,
			ledger_value = EXCLUDED.ledger_value, legacy_value = EXCLUDED.legacy_value;
	RETURN cardinality(chosen);
END
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_check(ledger.reconciliation_runs) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_check(ledger.reconciliation_runs) IS 'Internal: a step of a run that looks again at who differed.';

/*
 * Every user was compared after the run's start and either agreed or is among
 * the findings; so what was last seen before it and is not among them is over,
 * if the run was of all users and tolerated nothing.
 */
CREATE FUNCTION ledger.reconciliation_finish(run ledger.reconciliation_runs) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	UPDATE ledger.reconciliation_runs r SET status = 'finished', phase = 'done', "position" = NULL, finished_at = ledger.clock(),
			updated_at = ledger.clock(), discrepancies = f.discrepancies, users = f.users, ignored = f.ignored,
			ignored_amount = f.ignored_amount, total_difference = t.total, within_total = t.within AND f.finite
		FROM (SELECT count(*) FILTER (WHERE n.status = 'differs') AS discrepancies,
				count(DISTINCT n.user_id) FILTER (WHERE n.status = 'differs') AS users,
				count(*) FILTER (WHERE n.status = 'ignored') AS ignored,
				COALESCE(sum(abs(n.difference)) FILTER (WHERE n.status = 'ignored'), 0) AS ignored_amount,
				count(*) FILTER (WHERE n.status = 'differs' AND n.difference IS NULL) = 0 AS finite
			FROM ledger.reconciliation_findings n WHERE n.run_id = run.id) f,
			(SELECT COALESCE(sum(s.total), 0) AS total, COALESCE(bool_and(s.total <= COALESCE(
					(run.options -> 'total_tolerances' ->> s.currency)::numeric, ledger.reconciliation_allowed(run, s.currency))), true) AS within
				FROM (SELECT e.currency, sum(e.amount) AS total
					FROM (SELECT n.currency, abs(n.difference) AS amount FROM ledger.reconciliation_findings n
							WHERE n.run_id = run.id AND n.status = 'differs' AND n.difference IS NOT NULL
						UNION ALL
						SELECT j.key, j.value::numeric FROM jsonb_each_text(run.tolerated) j) e
					GROUP BY e.currency) s) t
		WHERE r.id = run.id;
	UPDATE ledger.discrepancy_rows d SET status = 'resolved', resolved_at = ledger.clock()
		WHERE d.status = 'open' AND d.last_seen < run.started_at
			AND run.tolerance = 0 AND run.scope = 'full' AND NOT run.options ? 'tolerances'
			AND NOT EXISTS (SELECT FROM ledger.reconciliation_findings f WHERE f.run_id = run.id AND f.user_id = d.user_id
				AND f.mapping_id = d.mapping_id AND f.legacy_column = d.legacy_column AND f.status <> 'settled');
END
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_finish(ledger.reconciliation_runs) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_finish(ledger.reconciliation_runs) IS 'Internal: the last step of a run.';

CREATE FUNCTION ledger.reconciliation_step(run_id bigint) RETURNS boolean
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	r ledger.reconciliation_runs;
	done record;
	more boolean;
BEGIN
	SELECT n.* INTO r FROM ledger.reconciliation_runs n WHERE n.id = reconciliation_step.run_id AND n.status = 'running';
	IF NOT FOUND THEN
		RETURN false;
	ELSIF r.phase = 'compare' THEN
		done := ledger.reconciliation_compare(r);
		-- cancelled meanwhile, it goes on from here if it is gone on with
		UPDATE ledger.reconciliation_runs n SET compared = n.compared + done.compared, "position" = done.next_user,
				updated_at = ledger.clock(), phase = CASE WHEN done.next_user IS NULL THEN 'check' ELSE 'compare' END
			WHERE n.id = r.id RETURNING n.status = 'running' INTO more;
	ELSIF ledger.reconciliation_check(r) > 0 THEN
		UPDATE ledger.reconciliation_runs n SET updated_at = ledger.clock() WHERE n.id = r.id
			RETURNING n.status = 'running' INTO more;
	ELSE
		PERFORM FROM ledger.reconciliation_runs n WHERE n.id = r.id AND n.status = 'running' FOR UPDATE;
		IF FOUND THEN
			PERFORM ledger.reconciliation_finish(r);
		END IF;
		RETURN false;
	END IF;
	RETURN more;
END
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_step(bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_step(bigint) IS 'Internal: takes the next step of a run; whether there are more.';

/*
 * The worker's: one step, in its transaction. Any run that began within the
 * interval puts the next one off, so what fails is not tried over and over.
 */
CREATE FUNCTION ledger.worker_reconcile(pause interval) RETURNS boolean
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	r ledger.reconciliation_runs;
BEGIN
	SELECT n.* INTO r FROM ledger.reconciliation_runs n WHERE n.status = 'running';
	IF FOUND AND r.runner_pid = pg_backend_pid() AND r.runner_query IS NULL THEN
		RETURN ledger.reconciliation_step(r.id);
	ELSIF ledger.reconciliation_is_running(r)
		OR NOT EXISTS (SELECT FROM ledger.settings s WHERE s.shadow_mode)
		OR NOT EXISTS (SELECT FROM ledger.legacy_mappings m WHERE m.detached_at IS NULL)
		OR EXISTS (SELECT FROM ledger.reconciliation_runs n WHERE n.scope IN ('full', 'incremental')
			AND n.status <> 'running' AND n.started_at > ledger.clock() - pause) THEN
		RETURN false;
	END IF;
	PERFORM ledger.reconciliation_begin('incremental', 0, '{"seed": 0, "chunk_users": 100000}', true);
	RETURN true;
END
$$;
REVOKE ALL ON FUNCTION ledger.worker_reconcile(interval) FROM PUBLIC;
COMMENT ON FUNCTION ledger.worker_reconcile(interval) IS 'Internal, for the worker: takes a step of its reconciliation, or begins one that is due; whether there is more to do.';

CREATE PROCEDURE ledger.run_reconciliation(scope text DEFAULT 'full', tolerance numeric DEFAULT 0,
	INOUT run_id bigint DEFAULT NULL, INOUT discrepancies bigint DEFAULT NULL,
	from_user uuid DEFAULT NULL, to_user uuid DEFAULT NULL,
	fraction double precision DEFAULT NULL, max_users bigint DEFAULT NULL, seed bigint DEFAULT 0,
	tolerances jsonb DEFAULT NULL, total_tolerances jsonb DEFAULT NULL, chunk_users int DEFAULT 500000)
	AS 'MODULE_PATHNAME', 'ledger_run_reconciliation' LANGUAGE C SECURITY INVOKER;
REVOKE ALL ON PROCEDURE ledger.run_reconciliation(text, numeric, bigint, bigint, uuid, uuid, double precision, bigint, bigint, jsonb, jsonb, int) FROM PUBLIC;
COMMENT ON PROCEDURE ledger.run_reconciliation(text, numeric, bigint, bigint, uuid, uuid, double precision, bigint, bigint, jsonb, jsonb, int) IS 'Reconciles in steps, each a transaction, and records the run and what it found; whoever differs is compared again before it is a discrepancy. run_id: goes on with a run that was not finished. Open discrepancies that a full run without tolerance does not find again are resolved. In a transaction block it is all one transaction. Errors: 22004, 22023, LG010, 55006 (one is running), P0002, 55000.';

CREATE FUNCTION ledger.cancel_reconciliation(run_id bigint DEFAULT NULL) RETURNS boolean
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	UPDATE ledger.reconciliation_runs r SET status = 'cancelled', finished_at = ledger.clock(), updated_at = ledger.clock(),
			note = concat_ws('; ', r.note, format('cancelled by %s', session_user))
		WHERE r.status = 'running' AND (cancel_reconciliation.run_id IS NULL OR r.id = cancel_reconciliation.run_id);
	RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION ledger.cancel_reconciliation(bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.cancel_reconciliation(bigint) IS 'Ends the run that is going on, once it has compared the users that it is at. It can be gone on with. Returns false if there is none.';

CREATE VIEW ledger.reconciliation_progress AS
	SELECT r.id AS run_id, r.scope, r.status, r.phase, r.compared, r."position",
		(SELECT pg_catalog.count(*) FROM ledger.reconciliation_users u WHERE u.run_id OPERATOR(pg_catalog.=) r.id) AS remaining,
		(SELECT pg_catalog.count(*) FROM ledger.reconciliation_findings f WHERE f.run_id OPERATOR(pg_catalog.=) r.id
			AND f.status OPERATOR(pg_catalog.=) 'candidate') AS candidates,
		COALESCE(r.finished_at, r.updated_at) OPERATOR(pg_catalog.-) r.started_at AS elapsed,
		pg_catalog.round(r.compared OPERATOR(pg_catalog./) NULLIF(pg_catalog.date_part('epoch',
			COALESCE(r.finished_at, r.updated_at) OPERATOR(pg_catalog.-) r.started_at)::numeric, 0)) AS users_per_second,
		r.runner_pid AS pid, r.started_at, r.updated_at, r.note
	FROM ledger.reconciliation_runs r
	ORDER BY r.id DESC LIMIT 1;
COMMENT ON VIEW ledger.reconciliation_progress IS 'The last run: how far it is, and how fast.';
COMMENT ON COLUMN ledger.reconciliation_progress.remaining IS 'Of an incremental run, users that are still to be compared.';
COMMENT ON COLUMN ledger.reconciliation_progress.candidates IS 'Differences that are still to be looked at again.';

/* ---- ignore rules ---------------------------------------------------------------------- */

CREATE FUNCTION ledger.ignore_discrepancy(user_id uuid, legacy_column text, reason text, expires_at timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
	rule bigint;
BEGIN
	IF user_id IS NULL AND legacy_column IS NULL OR reason IS NULL OR expires_at IS NULL THEN
		RAISE EXCEPTION '% must not be NULL', CASE WHEN user_id IS NULL AND legacy_column IS NULL THEN 'user_id and legacy_column'
				WHEN reason IS NULL THEN 'reason' ELSE 'expires_at' END
			USING ERRCODE = 'null_value_not_allowed', HINT = 'Say whose difference is ignored, why, and until when.';
	ELSIF octet_length(reason) > 4096 THEN
		RAISE EXCEPTION 'reason is longer than 4096 bytes'
			USING ERRCODE = 'string_data_right_truncation', HINT = 'Shorten it, or keep the rest outside the ledger.';
	ELSIF expires_at <= ledger.clock() OR expires_at = 'infinity' THEN
		RAISE EXCEPTION 'invalid expires_at %', expires_at
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass a time to come.';
	ELSIF legacy_column IS NOT NULL AND NOT EXISTS (SELECT FROM ledger.legacy_columns c WHERE c.legacy_column = ignore_discrepancy.legacy_column) THEN
		RAISE EXCEPTION 'column % is not mapped', legacy_column
			USING ERRCODE = 'undefined_column', HINT = 'Pass one of ledger.legacy_columns.';
	END IF;
	INSERT INTO ledger.ignore_rules (user_id, legacy_column, reason, expires_at, created_by, created_at)
		VALUES (user_id, legacy_column, reason, expires_at, session_user, ledger.clock()) RETURNING id INTO rule;
	RETURN rule;
END
$$;
REVOKE ALL ON FUNCTION ledger.ignore_discrepancy(uuid, text, text, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION ledger.ignore_discrepancy(uuid, text, text, timestamptz) IS 'Runs count the differences of a user (NULL: of all), or of a column (NULL: of all), as ignored until then; returns the rule''s id. An open discrepancy stays open. Errors: 22004, 22001, 22023, 42703.';

CREATE FUNCTION ledger.unignore_discrepancy(rule_id bigint) RETURNS boolean
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	UPDATE ledger.ignore_rules i SET removed_at = ledger.clock(), removed_by = session_user
		WHERE i.id = unignore_discrepancy.rule_id AND i.removed_at IS NULL;
	RETURN FOUND;
END
$$;
REVOKE ALL ON FUNCTION ledger.unignore_discrepancy(bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.unignore_discrepancy(bigint) IS 'Ends a rule of ignore_rules, which is kept; false: there is none in force.';

/* What later runs and checks go by is of the last exact full run, or of a later one. */
CREATE FUNCTION ledger.reconciliation_trim(retention interval, max_rows int) RETURNS bigint
	LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH old AS (
		SELECT r.id FROM ledger.reconciliation_runs r
		WHERE r.status <> 'running' AND r.finished_at < ledger.clock() - reconciliation_trim.retention
			AND r.id < (SELECT max(n.id) FROM ledger.reconciliation_runs n WHERE n.scope = 'full' AND n.status = 'finished'
				AND n.tolerance = 0 AND COALESCE(n.options -> 'tolerances', '{}') IN ('{}', 'null'))
	), trimmed AS (
		DELETE FROM ledger.reconciliation_findings f USING (
				SELECT n.run_id, n.user_id, n.mapping_id, n.legacy_column FROM old o
				JOIN ledger.reconciliation_findings n ON n.run_id = o.id LIMIT reconciliation_trim.max_rows) t
			WHERE f.run_id = t.run_id AND f.user_id = t.user_id AND f.mapping_id = t.mapping_id AND f.legacy_column = t.legacy_column
			RETURNING 1
	)
	SELECT count(*) FROM trimmed
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_trim(interval, int) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_trim(interval, int) IS 'Internal, for the worker, who alone passes the guard: deletes what runs found that ended longer ago, and before the last full one; the runs stay.';

/* ---- what a run found, for others ---------------------------------------------------------- */

CREATE FUNCTION ledger.reconciliation_csv(run_id bigint) RETURNS SETOF text
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'user_id,legacy_column,currency,ledger_value,legacy_value,difference,cause,status,ignore_rule_id'
	UNION ALL
	SELECT l.line FROM (
		SELECT concat_ws(',', f.user_id, '"' || replace(f.legacy_column, '"', '""') || '"', f.currency,
				COALESCE(f.ledger_value::text, ''), COALESCE(f.legacy_value::text, ''), COALESCE(f.difference::text, ''),
				f.cause, f.status, COALESCE(f.ignore_rule_id::text, '')) AS line
			FROM ledger.reconciliation_findings f WHERE f.run_id = reconciliation_csv.run_id
			ORDER BY f.user_id, f.mapping_id, f.legacy_column) l
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_csv(bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_csv(bigint) IS 'What a run found, as lines of CSV with a header, in the order of the users.';

CREATE FUNCTION ledger.reconciliation_json(run_id bigint) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT to_jsonb(r) - ARRAY['phase', 'position', 'runner_pid', 'runner_start', 'runner_query', 'mappings', 'snapshot']
		|| jsonb_build_object('findings', (
			SELECT COALESCE(jsonb_agg(to_jsonb(f) - 'run_id' ORDER BY f.user_id, f.mapping_id, f.legacy_column), '[]')
			FROM ledger.reconciliation_findings f WHERE f.run_id = r.id))
	FROM ledger.reconciliation_runs r WHERE r.id = reconciliation_json.run_id
$$;
REVOKE ALL ON FUNCTION ledger.reconciliation_json(bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reconciliation_json(bigint) IS 'A run and what it found, as one document; NULL: there is no such run.';
