/*
 * explain.sql: what explains a discrepancy.
 *
 * explain.c reasons; here is what it reasons from, one function for each kind
 * of evidence, each bounded and each about one user. They write nothing.
 */

/*
 * The user's last transactions that changed a mapped column: by how much, and
 * whether the mirror was to write that. Openings and repairs are never
 * mirrored, nor is what reverses a repair. A captured write that the ledger has
 * followed (capture post), or followed and taken back, is no difference.
 */
CREATE FUNCTION ledger.explain_postings(user_id uuid, mapping_id smallint, max_rows int)
	RETURNS TABLE (transaction_id bigint, legacy_column text, change numeric, at timestamptz, xact xid8, type text,
		mirrored boolean, reverses bigint, sameness text)
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.transaction_id, c.legacy_column, c.change, h.created_at, h.xact, h.type,
		h.type NOT IN ('opening', 'repair') AND o.type IS NULL
			AND COALESCE((SELECT s.shadow_mode OR s.phase = 'cut_over' FROM ledger.settings_log s
				WHERE COALESCE(s.last_transaction, 0) < c.transaction_id ORDER BY s.id DESC LIMIT 1), false),
		CASE WHEN o.type IS NOT NULL THEN h.reverses END,
		CASE WHEN h.key IS NULL AND h.reverses IS NULL
			THEN jsonb_build_array(h.type, h.reference_type, h.reference_id, h.description)::text END
	FROM (
		SELECT l.transaction_id, l.legacy_column, sum(l.change) AS change
		FROM (
			SELECT a.id, lc.legacy_column FROM ledger.accounts a JOIN ledger.legacy_columns lc ON a.account_type = ANY (lc.accounts)
			WHERE a.user_id = explain_postings.user_id AND lc.mapping_id = explain_postings.mapping_id AND a.external_id IS NULL
		) a CROSS JOIN LATERAL (
			(SELECT j.transaction_id, a.legacy_column, - j.amount AS change FROM ledger.journal j
				WHERE j.debit_account_id = a.id ORDER BY j.transaction_id DESC, j.ordinal DESC LIMIT explain_postings.max_rows)
			UNION ALL
			(SELECT j.transaction_id, a.legacy_column, j.amount FROM ledger.journal j
				WHERE j.credit_account_id = a.id ORDER BY j.transaction_id DESC, j.ordinal DESC LIMIT explain_postings.max_rows)
		) l
		GROUP BY l.transaction_id, l.legacy_column HAVING sum(l.change) <> 0
		ORDER BY l.transaction_id DESC LIMIT explain_postings.max_rows
	) c
	JOIN ledger.journal h ON h.transaction_id = c.transaction_id AND h.ordinal = 0
	LEFT JOIN ledger.journal o ON o.transaction_id = h.reverses AND o.ordinal = 0
		AND (o.type = 'repair' OR (o.type = 'captured_write' AND o.xact = h.xact))
	WHERE h.type <> 'captured_write' AND o.type IS DISTINCT FROM 'captured_write'
	ORDER BY c.transaction_id
$$;
REVOKE ALL ON FUNCTION ledger.explain_postings(uuid, smallint, int) FROM PUBLIC;
COMMENT ON FUNCTION ledger.explain_postings(uuid, smallint, int) IS 'Internal, for explain_discrepancy(): a user''s last transactions by the mapped columns that they changed; reverses is a repair; sameness is equal for two that say the same and have no key.';

/*
 * What a statement sets a column to: NULL if its text does not show it.
 * A value of EXCLUDED is the new one, not the column's.
 */
CREATE FUNCTION ledger.explain_assignment(statement text, legacy_column text) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT (regexp_match(statement, format(E'(?:\\mSET\\M|,)\\s*(?:"%1$s"|\\m%1$s\\M)\\s*=\\s*(.*?)\\s*(?:,\\s*[a-z_"][a-z0-9_"]*\\s*=|\\mWHERE\\M|\\mRETURNING\\M|\\mFROM\\M|;|$)',
		regexp_replace(legacy_column, '([^a-zA-Z0-9_])', E'\\\\\\1', 'g')), 'i'))[1]
$$;
REVOKE ALL ON FUNCTION ledger.explain_assignment(text, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.explain_assignment(text, text) IS 'Internal, for explain_discrepancy(): the expression that an UPDATE assigns to a column, as far as its text shows it.';

/* Each column that a captured write changed; a row with column NULL if none. */
CREATE FUNCTION ledger.explain_writes(user_id uuid, mapping_id smallint, max_rows int)
	RETURNS TABLE (id bigint, legacy_column text, change numeric, before numeric, after numeric, operation text, row_gone boolean,
		kind text, at timestamptz, xact xid8, xact_start timestamptz, after_transaction bigint, who text,
		absolute boolean, numbers numeric[])
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT w.id, d.key, d.value::numeric, (w.before ->> c.column_name)::numeric * c.unit, (w.after ->> c.column_name)::numeric * c.unit, w.operation,
		w.after IS NULL AND w.kind <> 'mirror_side_effect', w.kind, w.at, w.xact, w.xact_start, COALESCE(w.after_transaction, 0),
		format('%s by role %s, application "%s"%s', w.operation, w.acting_role, w.application_name, CASE WHEN w.deltas = '{}' THEN '; ' ELSE '; not posted: ' END || w.note),
		CASE WHEN s.assigned IS NULL THEN NULL
			ELSE regexp_replace(s.assigned, format(E'excluded\\s*\\.\\s*"?%s"?', c.column_name), '', 'gi') !~* format(E'\\m%s\\M', c.column_name) END,
		ARRAY(SELECT m[1]::numeric * c.unit FROM regexp_matches(s.assigned, E'(?<![a-z0-9_$.])([0-9]{1,30}(?:\\.[0-9]{1,40})?)', 'gi') m LIMIT 10)
	FROM (
		SELECT * FROM ledger.legacy_writes l
		WHERE l.user_id = explain_writes.user_id AND l.mapping_id = explain_writes.mapping_id
			AND l.note IS DISTINCT FROM 'the row is of none of the mapping''s conditions'
		ORDER BY l.id DESC LIMIT explain_writes.max_rows
	) w
	LEFT JOIN LATERAL jsonb_each_text(w.deltas) d ON true
	LEFT JOIN ledger.legacy_columns c ON c.mapping_id = w.mapping_id AND c.legacy_column = d.key COLLATE "C"
	LEFT JOIN LATERAL (SELECT ledger.explain_assignment(w.statement, c.column_name) AS assigned WHERE w.operation = 'UPDATE') s ON true
	ORDER BY w.id
$$;
REVOKE ALL ON FUNCTION ledger.explain_writes(uuid, smallint, int) FROM PUBLIC;
COMMENT ON FUNCTION ledger.explain_writes(uuid, smallint, int) IS 'Internal, for explain_discrepancy(): the last captured writes to a user''s row; absolute: the statement sets the column to something that does not name it (NULL: its text does not show); numbers are those in that.';

/* The last repair of each column that was not undone: the sides agreed then. */
CREATE FUNCTION ledger.explain_repairs(user_id uuid, mapping_id smallint)
	RETURNS TABLE (legacy_column text, last_transaction bigint, last_write bigint)
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT DISTINCT ON (r.legacy_column) r.legacy_column, COALESCE(r.last_transaction, 0), COALESCE(r.last_write, 0)
	FROM ledger.repair_log r
	WHERE r.user_id = explain_repairs.user_id AND r.mapping_id = explain_repairs.mapping_id AND r.undoes IS NULL
		AND NOT EXISTS (SELECT FROM ledger.repair_log u WHERE u.undoes = r.id)
	ORDER BY r.legacy_column, r.id DESC
$$;
REVOKE ALL ON FUNCTION ledger.explain_repairs(uuid, smallint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.explain_repairs(uuid, smallint) IS 'Internal, for explain_discrepancy(): for each column up to which transaction and captured write the last repair made the sides agree.';

/* Open findings; of those that were rolled back nothing is left to explain. */
CREATE FUNCTION ledger.explain_findings(user_id uuid, mapping_id smallint)
	RETURNS TABLE (legacy_column text, cause text, source text, error_code text, note text, first_seen timestamptz, last_seen timestamptz, count bigint,
		ledger_value numeric)
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT d.legacy_column, d.cause, d.source, d.error_code, d.note, d.first_seen, d.last_seen, d.count - d.aborted_count,
		d.ledger_value
	FROM ledger.discrepancy_rows d
	WHERE d.user_id = explain_findings.user_id AND d.mapping_id = explain_findings.mapping_id AND d.status = 'open'
		AND d.count > d.aborted_count AND d.cause NOT IN ('refused_write', 'strict_failure')
	ORDER BY d.first_seen, d.id
$$;
REVOKE ALL ON FUNCTION ledger.explain_findings(uuid, smallint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.explain_findings(uuid, smallint) IS 'Internal, for explain_discrepancy(): what was found of a user and is open.';

/*
 * Whether the capture trigger is, or may have been, off, and the transaction
 * that altered it last. Attaching creates it in the transaction that stores
 * the columns; whoever alters it leaves another xmin. That tells nothing once
 * catalogs were written anew (pg_restore, pg_upgrade): then the catalog of
 * legacy_columns itself is younger than its rows.
 */
CREATE FUNCTION ledger.explain_capture(mapping_id smallint) RETURNS TABLE (what text, altered bigint)
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE
			WHEN t.oid IS NULL THEN 'the capture trigger is missing'
			WHEN t.tgenabled = 'D' THEN 'the capture trigger is disabled'
			WHEN t.tgenabled <> 'A' THEN 'the capture trigger is not enabled always'
			ELSE 'the capture trigger was altered after the table was attached' END,
		CASE WHEN t.tgenabled = 'A' THEN x.next - x.next % 4294967296 + t.xmin::text::bigint
			- CASE WHEN t.xmin::text::bigint > x.next % 4294967296 THEN 4294967296 ELSE 0 END END
	FROM ledger.legacy_mappings m
	JOIN ledger.legacy_columns c ON c.mapping_id = m.id AND c.ordinal = (SELECT min(n.ordinal) FROM ledger.legacy_columns n WHERE n.mapping_id = m.id)
	JOIN pg_attribute a ON a.attrelid = 'ledger.legacy_columns'::regclass AND a.attnum = 1
	CROSS JOIN (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next) x
	LEFT JOIN pg_trigger t ON t.tgrelid = m.legacy AND t.tgname = 'ledger_capture'
	WHERE m.id = explain_capture.mapping_id AND (t.oid IS NULL OR t.tgenabled <> 'A'
		OR (t.xmin::text <> c.xmin::text AND age(a.xmin) >= age(c.xmin) AND age(t.xmin) < age(c.xmin)))
$$;
REVOKE ALL ON FUNCTION ledger.explain_capture(smallint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.explain_capture(smallint) IS 'Internal, for explain_discrepancy(): what is known of a time at which writes were not captured, and the transaction that altered the trigger, if it is on again; no row: nothing.';

/* The first captured write at or after a time, found by halves: ids follow the time. */
CREATE FUNCTION ledger.explain_write_at(at timestamptz) RETURNS bigint
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	low bigint;
	high bigint;
	middle record;
BEGIN
	SELECT min(w.id), max(w.id) + 1 INTO low, high FROM ledger.legacy_writes w;
	WHILE low < high LOOP
		SELECT w.id, w.at INTO middle FROM ledger.legacy_writes w WHERE w.id >= (low + high) / 2 ORDER BY w.id LIMIT 1;
		IF middle.at >= explain_write_at.at OR middle.id >= high THEN
			high := (low + high) / 2;
		ELSE
			low := middle.id + 1;
		END IF;
	END LOOP;
	RETURN low;
END
$$;
REVOKE ALL ON FUNCTION ledger.explain_write_at(timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION ledger.explain_write_at(timestamptz) IS 'Internal, for explain_discrepancy(): where in the captured writes a time is.';

/*
 * A write of just this change to another user's row, in the posting's
 * transaction or within seconds of it, that no posting of his own explains.
 */
CREATE FUNCTION ledger.explain_other_write(user_id uuid, mapping_id smallint, legacy_column text, change numeric, xact xid8, at timestamptz)
	RETURNS TABLE (other uuid, id bigint, same boolean)
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT w.user_id, w.id, w.xact = explain_other_write.xact
	FROM ledger.legacy_writes w
	WHERE w.id >= ledger.explain_write_at(explain_other_write.at - interval '10 s')
		AND w.id < ledger.explain_write_at(explain_other_write.at - interval '10 s') + 2000
		AND w.mapping_id = explain_other_write.mapping_id AND w.user_id <> explain_other_write.user_id
		AND w.kind IN ('outside', 'double_write')
		AND (w.xact = explain_other_write.xact OR w.at BETWEEN explain_other_write.at - interval '10 s' AND explain_other_write.at + interval '10 s')
		AND (w.deltas ->> explain_other_write.legacy_column)::numeric = explain_other_write.change
		AND NOT EXISTS (SELECT FROM ledger.explain_postings(w.user_id, w.mapping_id, 20) p
			WHERE p.legacy_column = explain_other_write.legacy_column AND p.change = explain_other_write.change
				AND p.type <> 'opening' AND abs(extract(epoch FROM p.at - w.at)) <= 60)
	ORDER BY w.xact <> explain_other_write.xact, w.id LIMIT 2
$$;
REVOKE ALL ON FUNCTION ledger.explain_other_write(uuid, smallint, text, numeric, xid8, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION ledger.explain_other_write(uuid, smallint, text, numeric, xid8, timestamptz) IS 'Internal, for explain_discrepancy(): writes to others'' rows that a posting''s amount may have gone to.';

/* The other way round: another user's posting whose amount this write may be. */
CREATE FUNCTION ledger.explain_other_posting(user_id uuid, mapping_id smallint, legacy_column text, change numeric, xact xid8, at timestamptz, after_transaction bigint)
	RETURNS TABLE (other uuid, id bigint, same boolean)
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT a.user_id, j.transaction_id, j.xact = explain_other_posting.xact
	FROM ledger.journal j
	JOIN ledger.legacy_columns lc ON lc.mapping_id = explain_other_posting.mapping_id AND lc.legacy_column = explain_other_posting.legacy_column
	JOIN ledger.accounts a ON a.id = CASE WHEN explain_other_posting.change > 0 THEN j.credit_account_id ELSE j.debit_account_id END
		AND a.account_type = ANY (lc.accounts) AND a.external_id IS NULL
	WHERE j.transaction_id BETWEEN explain_other_posting.after_transaction - 500 AND explain_other_posting.after_transaction + 500
		AND j.ordinal = 0 AND j.amount = abs(explain_other_posting.change) AND a.user_id <> explain_other_posting.user_id
		AND j.type NOT IN ('opening', 'repair')
		AND (j.xact = explain_other_posting.xact
			OR j.created_at BETWEEN explain_other_posting.at - interval '10 s' AND explain_other_posting.at + interval '10 s')
		AND NOT EXISTS (SELECT FROM ledger.legacy_writes w
			WHERE w.user_id = a.user_id AND w.mapping_id = explain_other_posting.mapping_id
				AND (w.deltas ->> explain_other_posting.legacy_column)::numeric = explain_other_posting.change
				AND abs(extract(epoch FROM w.at - j.created_at)) <= 60)
		AND (j.xact = explain_other_posting.xact OR EXISTS (
			SELECT FROM ledger.explain_postings(a.user_id, explain_other_posting.mapping_id, 100) p
			WHERE p.transaction_id = j.transaction_id AND p.legacy_column = explain_other_posting.legacy_column AND NOT p.mirrored))
	ORDER BY j.xact <> explain_other_posting.xact, j.transaction_id LIMIT 2
$$;
REVOKE ALL ON FUNCTION ledger.explain_other_posting(uuid, smallint, text, numeric, xid8, timestamptz, bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.explain_other_posting(uuid, smallint, text, numeric, xid8, timestamptz, bigint) IS 'Internal, for explain_discrepancy(): postings of others whose amount a write to this user''s row may be.';

CREATE FUNCTION ledger.explain_discrepancy(user_id uuid)
	RETURNS TABLE (legacy_column text, difference numeric, cause text, transaction_id bigint, at timestamptz, detail text)
	AS 'MODULE_PATHNAME', 'ledger_explain_discrepancy' LANGUAGE C STABLE PARALLEL RESTRICTED SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.explain_discrepancy(uuid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.explain_discrepancy(uuid) IS 'Why ledger and legacy row of a user differ, each mapped column: rows whose differences (ledger - legacy) add up to the column''s, each with its cause, the transaction or the time, and in words. What nothing explains is unexplained, with when the sides parted. Writes nothing. Error: 22004.';
