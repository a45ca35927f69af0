/*
 * report.sql: the page that report_html() returns.
 *
 * One function a part. Every value goes through report_text() on its way into
 * the page; what is markup already is of kind 'html' in report_table() alone.
 * The page is well-formed XML and plain ASCII, so that it does not matter what
 * encoding a client writes it in. It holds no script and loads nothing.
 */

/* ---- values ------------------------------------------------------------------- */

CREATE FUNCTION ledger.report_text(value text) RETURNS text
	LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH escaped AS (
		SELECT replace(replace(replace(replace(replace(value, '&', '&amp;'), '<', '&lt;'), '>', '&gt;'), '"', '&quot;'), '''', '&#39;') AS t
	)
	SELECT CASE WHEN e.t ~ '[^ -~]' COLLATE "C" THEN
			(SELECT string_agg(CASE WHEN c.c ~ '[ -~]' COLLATE "C" THEN c.c
					WHEN c.c IN (E'\t', E'\n', E'\r') THEN ' '
					WHEN getdatabaseencoding() <> 'UTF8' OR ascii(c.c) < 160 OR ascii(c.c) IN (65534, 65535) THEN '?'
					ELSE format('&#%s;', ascii(c.c)) END, '' ORDER BY c.n)
				FROM regexp_split_to_table(e.t, '') WITH ORDINALITY AS c (c, n))
		ELSE e.t END
	FROM escaped e
$$;
REVOKE ALL ON FUNCTION ledger.report_text(text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_text(text) IS 'Internal: a value as HTML and XML show it, also in an attribute; in ASCII; what XML cannot hold is a question mark.';

CREATE FUNCTION ledger.report_breaks(value text) RETURNS text
	LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT replace(ledger.report_text(value), '_', '_<wbr/>')
$$;
REVOKE ALL ON FUNCTION ledger.report_breaks(text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_breaks(text) IS 'Internal: a value whose names may be broken after an underscore, in narrow windows.';

CREATE FUNCTION ledger.report_number(value numeric) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN length(value::text) > 100 THEN left(value::text, 40) || '... (' || length(value::text) || ' characters)'
		ELSE regexp_replace(split_part(value::text, '.', 1), E'(\\d)(?=(\\d{3})+$)', E'\\1,', 'g') || COALESCE(substring(value::text FROM E'\\..*$'), '') END
$$;
REVOKE ALL ON FUNCTION ledger.report_number(numeric) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_number(numeric) IS 'Internal: all its digits, with commas between thousands; of what no amount is, more than 100 characters, the first 40.';

CREATE FUNCTION ledger.report_amount(value numeric) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ledger.report_number(ledger.normalise(value, 2))
$$;
REVOKE ALL ON FUNCTION ledger.report_amount(numeric) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_amount(numeric) IS 'Internal: an amount with two fractional digits, or all that it has.';

CREATE FUNCTION ledger.report_ms(value float8) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN value = 0 THEN '0'
		ELSE ledger.report_number(round(value::numeric, GREATEST(0, LEAST(4, 2 - floor(log(value))::int)))) END
$$;
REVOKE ALL ON FUNCTION ledger.report_ms(float8) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_ms(float8) IS 'Internal: a time in ms to three digits.';

CREATE FUNCTION ledger.report_count(value numeric, one text, many text DEFAULT NULL) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN value IS NOT NULL THEN format('%s %s', ledger.report_number(value), CASE WHEN value = 1 THEN one ELSE COALESCE(many, one || 's') END) END
$$;
REVOKE ALL ON FUNCTION ledger.report_count(numeric, text, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_count(numeric, text, text) IS 'Internal: a number with its noun, whose plural ends in s or is given.';

/* In the largest unit of which there are two. */
CREATE FUNCTION ledger.report_age(seconds numeric) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN s.s < 120 THEN ledger.report_count(s.s, 'second') WHEN s.s < 7200 THEN ledger.report_count(trunc(s.s / 60), 'minute')
		WHEN s.s < 172800 THEN ledger.report_count(trunc(s.s / 3600), 'hour') ELSE ledger.report_count(trunc(s.s / 86400), 'day') END
	FROM (SELECT GREATEST(trunc(seconds), 0) AS s) s
$$;
REVOKE ALL ON FUNCTION ledger.report_age(numeric) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_age(numeric) IS 'Internal: how long in words; what has not come yet is no time.';

/* What is not all does not become all. */
CREATE FUNCTION ledger.report_share(value numeric) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ledger.report_number(trim_scale(trunc(100 * value, 2))) || ' %'
$$;
REVOKE ALL ON FUNCTION ledger.report_share(numeric) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_share(numeric) IS 'Internal: a share as a percentage, cut off after two digits.';

CREATE FUNCTION ledger.report_time(value timestamptz) RETURNS text
	LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN isfinite(value) THEN to_char(value AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') ELSE value::text END
$$;
REVOKE ALL ON FUNCTION ledger.report_time(timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_time(timestamptz) IS 'Internal: in UTC, to the second.';

CREATE FUNCTION ledger.report_user(user_id uuid, shows_users boolean) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN user_id IS NULL THEN 'all users' WHEN shows_users THEN user_id::text ELSE left(user_id::text, 4) || '...' END
$$;
REVOKE ALL ON FUNCTION ledger.report_user(uuid, boolean) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_user(uuid, boolean) IS 'Internal: a user, in full only if he may be shown.';

/* ---- building blocks ------------------------------------------------------------ */

/*
 * kinds says what each column holds: text, a short word, code, number, time, or
 * html, which is taken as it is. A cell tells its column's name, for narrow windows, where
 * a row is a list.
 */
CREATE FUNCTION ledger.report_table(columns text[], kinds text[], cells text[], empty text) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH cell AS (
		SELECT (u.n - 1) / cardinality(columns) AS line, (u.n - 1) % cardinality(columns) + 1 AS col, u.value
		FROM unnest(cells) WITH ORDINALITY AS u (value, n)
	), used AS (
		SELECT c.col FROM cell c WHERE c.value <> '' GROUP BY c.col
	), line AS (
		SELECT c.line, string_agg(format('<td class="%s%s" data-label="%s">%s</td>', kinds[c.col], CASE WHEN COALESCE(c.value, '') = '' THEN ' blank' END,
			ledger.report_text(columns[c.col]),
			CASE WHEN COALESCE(c.value, '') = '' THEN '<span>&#8211;</span>'
				WHEN kinds[c.col] = 'html' THEN c.value
				WHEN kinds[c.col] = 'time' THEN format('<span>%s</span>', replace(ledger.report_text(c.value), ' ', '</span> <span>'))
				ELSE format('<span>%s</span>', ledger.report_breaks(c.value)) END), '' ORDER BY c.col) AS cells
		FROM cell c JOIN used u USING (col) GROUP BY c.line
	)
	SELECT CASE WHEN COALESCE(cardinality(cells), 0) = 0 THEN format(E'<p class="empty">%s</p>\n', ledger.report_text(empty))
		ELSE format(E'<div class="scroll"><table%s><thead><tr>%s</tr></thead><tbody>\n%s</tbody></table></div>\n',
			CASE WHEN cardinality(columns) <= 4 THEN ' class="small"' ELSE '' END,
			(SELECT string_agg(format('<th scope="col" class="%s">%s</th>', k.kind, ledger.report_text(k.name)), '' ORDER BY k.n)
				FROM unnest(columns, kinds) WITH ORDINALITY AS k (name, kind, n) JOIN used u ON u.col = k.n),
			(SELECT string_agg(format(E'<tr>%s</tr>\n', l.cells), '' ORDER BY l.line) FROM line l)) END
$$;
REVOKE ALL ON FUNCTION ledger.report_table(text[], text[], text[], text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_table(text[], text[], text[], text) IS 'Internal: a table of cells, row by row; the text instead if there are none.';

CREATE FUNCTION ledger.report_section(id text, title text, note text, body text) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format(E'<section id="%s">\n<h2>%s</h2>\n%s%s</section>\n', id, ledger.report_text(title),
		CASE WHEN note <> '' THEN format(E'<p class="note">%s</p>\n', ledger.report_text(note)) END, body)
$$;
REVOKE ALL ON FUNCTION ledger.report_section(text, text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_section(text, text, text, text) IS 'Internal: a part of the page; body is markup.';

CREATE FUNCTION ledger.report_badge(kind text, value text) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('<span class="badge %s"><i>%s</i>%s</span>', kind,
		CASE kind WHEN 'good' THEN '&#10003;' WHEN 'bad' THEN '&#10007;' WHEN 'warn' THEN '!' ELSE '&#8226;' END, ledger.report_text(value))
$$;
REVOKE ALL ON FUNCTION ledger.report_badge(text, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_badge(text, text) IS 'Internal: a word with a sign and a colour, good, bad, warn or plain.';

/* The times that a histogram has from bucket low to high, as bars; the tallest is the fullest bucket. */
CREATE FUNCTION ledger.report_histogram(latency bigint[], low int, high int, what text) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH bar AS (
		SELECT b.n, b.count, GREATEST(30 * b.count::float8 / max(b.count) OVER (), 1.5) AS height
		FROM unnest(latency) WITH ORDINALITY AS b (count, n) WHERE b.count > 0 AND b.n BETWEEN low AND high
	)
	SELECT format('<svg class="histogram" role="img" aria-label="%s" viewBox="0 0 %s 30" preserveAspectRatio="none">%s</svg>',
		ledger.report_text(what), (high - low + 1) * 4,
		string_agg(format('<rect x="%s" y="%s" width="3.4" height="%s"><title>%s: up to %s ms</title></rect>', (b.n - low) * 4,
			round((30 - b.height)::numeric, 2), round(b.height::numeric, 2), ledger.report_number(b.count),
			CASE WHEN b.n = 110 THEN 'any' ELSE ledger.report_ms(ledger.latency_bound(b.n::int - 1)) END), '' ORDER BY b.n))
	FROM bar b
$$;
REVOKE ALL ON FUNCTION ledger.report_histogram(bigint[], int, int, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_histogram(bigint[], int, int, text) IS 'Internal: a histogram of stat_operations or stat_reads as a picture, between two of its buckets, the first being 1.';

CREATE FUNCTION ledger.report_facts(cells text[], bad text[] DEFAULT '{}') RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format(E'<dl>%s</dl>\n', string_agg(format('<div><dt>%s</dt><dd>%s</dd></div>', ledger.report_text(cells[n]),
		CASE WHEN COALESCE(cells[n + 1], '') = '' THEN '<span class="none">&#8211;</span>'
			WHEN cells[n] = ANY (bad) THEN ledger.report_badge('bad', cells[n + 1]) ELSE ledger.report_breaks(cells[n + 1]) END), '' ORDER BY n))
	FROM generate_series(1, cardinality(cells), 2) n
$$;
REVOKE ALL ON FUNCTION ledger.report_facts(text[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_facts(text[], text[]) IS 'Internal: names and values by turns, as a list; bad names those that show that something is wrong.';

/* ---- parts of the page ------------------------------------------------------------ */

CREATE FUNCTION ledger.report_changes() RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ledger.report_table(ARRAY['At', 'Shadow', 'Strict', 'Source', 'Phase', 'By', 'Reason'],
		ARRAY['time', 'short', 'short', 'short', 'short', 'short', 'text'],
		(SELECT array_agg(ARRAY[ledger.report_time(l.changed_at), CASE WHEN l.shadow_mode THEN 'on' ELSE 'off' END,
				CASE WHEN l.strict_mode THEN 'on' ELSE 'off' END, l.balance_source, l.phase, l.changed_by, l.reason] ORDER BY l.id DESC)
			FROM (SELECT * FROM ledger.settings_log ORDER BY id DESC LIMIT 5) l),
		'They have never been changed.')
$$;
REVOKE ALL ON FUNCTION ledger.report_changes() FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_changes() IS 'Internal: part of the page.';

/* Nobody should take the next step past these. */
CREATE FUNCTION ledger.report_first() RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH open AS (
		SELECT count(*) AS n FROM ledger.open_discrepancies()
	), fires AS (
		SELECT string_agg(a.alert, ', ' ORDER BY a.severity, a.alert) AS names FROM ledger.alerts a WHERE a.firing AND a.severity IN ('critical', 'high')
	)
	SELECT NULLIF(concat_ws('; ', CASE WHEN o.n > 0 THEN 'explain or repair ' || ledger.report_count(o.n, 'open discrepancy', 'open discrepancies') END,
		'see to ' || f.names), '')
	FROM open o, fires f
$$;
REVOKE ALL ON FUNCTION ledger.report_first() FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_first() IS 'Internal: what is to be done before the next step of the migration: open discrepancies, alerts of severity critical and high; NULL if nothing is.';

CREATE FUNCTION ledger.report_state() RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH now AS (
		SELECT m.*, array_position(ARRAY['fresh', 'attached', 'shadow', 'shadow_reads', 'strict', 'cut_over', 'retired', 'done'], m.state) AS place
		FROM ledger.migration_status() m
	)
	SELECT ledger.report_section('state', 'Migration', NULL, format(E'<ol class="steps">%s</ol>\n',
			(SELECT string_agg(format('<li class="%s"%s><b>%s</b><span>%s</span></li>',
					CASE WHEN s.n < n.place THEN 'past' WHEN s.n = n.place THEN 'now' ELSE 'next' END,
					CASE WHEN s.n = n.place THEN ' aria-current="step"' ELSE '' END, s.name, s.what), '' ORDER BY s.n)
				FROM (VALUES (1, 'fresh', 'no legacy table'), (2, 'attached', 'outside writes are captured'),
					(3, 'shadow', 'both written, legacy is read'), (4, 'shadow_reads', 'both written, the ledger is read'),
					(5, 'strict', 'a difference is an error'), (6, 'cut_over', 'the ledger alone is the truth'),
					(7, 'retired', 'legacy is not written'), (8, 'done', 'legacy is gone')) AS s (n, name, what)))
		|| CASE WHEN n.state = 'legacy_only' THEN format(E'<p>%s</p>\n', ledger.report_badge('bad', 'legacy_only: the ledger takes no posting')) ELSE '' END
		|| ledger.report_facts(ARRAY['State', n.state, 'Since', ledger.report_time(n.since), 'Shadow mode', CASE WHEN n.shadow_mode THEN 'on' ELSE 'off' END,
			'Strict mode', CASE WHEN n.strict_mode THEN 'on' ELSE 'off' END, 'Balances are read from', n.balance_source, 'Phase', n.phase,
			'Legacy tables', (SELECT string_agg(m.legacy::regclass::text, ', ' ORDER BY m.id) FROM ledger.legacy_mappings m WHERE m.detached_at IS NULL)])
		|| format(E'<dl class="steps-to"><div><dt>Next step</dt><dd>%s<code>%s</code></dd></div><div><dt>To undo this one</dt><dd><code>%s</code></dd></div></dl>\n',
			(SELECT format('<p>%s</p>', ledger.report_badge('bad', 'first: ' || f.t)) FROM ledger.report_first() AS f (t)
				WHERE f.t IS NOT NULL AND n.next_step IS NOT NULL AND n.state <> 'legacy_only'),
			COALESCE(ledger.report_breaks(n.next_step), '&#8211;'), COALESCE(ledger.report_breaks(n.undo), '&#8211;'))
		|| E'<h3>Last changes of the settings</h3>\n' || ledger.report_changes())
	FROM now n
$$;
REVOKE ALL ON FUNCTION ledger.report_state() FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_state() IS 'Internal: part of the page.';

/* As write_success() chooses where it begins; without a worker that is long ago. */
CREATE FUNCTION ledger.report_writes_since("window" interval) RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH now AS (
		SELECT c.reset_at, ledger.clock() - "window" AS start FROM ledger.write_counts() c
	), base AS (
		SELECT n.start, CASE WHEN n.reset_at < n.start THEN COALESCE(
			(SELECT s.at FROM ledger.write_samples s WHERE s.reset_at = n.reset_at
				ORDER BY s.at <= n.start DESC, CASE WHEN s.at <= n.start THEN n.start - s.at ELSE s.at - n.start END LIMIT 1), n.reset_at)
			ELSE n.reset_at END AS at
		FROM now n
	)
	SELECT CASE WHEN b.at >= b.start - interval '1 minute' THEN 'within ' || ledger.report_age(extract(epoch FROM "window"))
		ELSE 'since ' || ledger.report_time(b.at) END
	FROM base b
$$;
REVOKE ALL ON FUNCTION ledger.report_writes_since(interval) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_writes_since(interval) IS 'Internal: of what time write_success() tells, in words; NULL if nothing is counted.';

/* What to look at first. */
CREATE FUNCTION ledger.report_tiles(gates ledger.gate[]) RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH open AS (
		SELECT count(*) AS n, count(DISTINCT d.user_id) AS users FROM ledger.open_discrepancies() d
	), run AS (
		SELECT r.*, ledger.report_age(extract(epoch FROM ledger.clock() - r.finished_at)) || ' ago' AS seen
		FROM ledger.reconciliation_runs r WHERE r.status = 'finished' AND r.scope = 'full' AND r.finished_at <= ledger.clock() ORDER BY r.id DESC LIMIT 1
	), worker AS (
		SELECT w.*, ledger.report_age(extract(epoch FROM ledger.clock() - w.last_seen)) || ' ago' AS seen,
			COALESCE(w.last_seen BETWEEN ledger.clock() - interval '1 minute' AND ledger.clock() + interval '1 minute', false) AS is_seen,
			EXISTS (SELECT FROM ledger.legacy_mappings m WHERE m.detached_at IS NULL) AS is_needed FROM ledger.worker_status w
	), writes AS (
		SELECT s.*, ledger.report_writes_since(interval '5 minutes') AS since FROM ledger.write_success(interval '5 minutes') s
	), tile AS (
		SELECT 1 AS n, 'Gates open' AS name, format('%s of %s', count(*) FILTER (WHERE g.passed), count(*)) AS value,
			CASE WHEN bool_and(g.passed) THEN 'good' ELSE 'plain' END AS kind,
			CASE WHEN bool_and(g.passed) THEN 'ready to cut over' ELSE format('%s closed', count(*) FILTER (WHERE NOT g.passed)) END AS note
		FROM unnest(gates) g WHERE EXISTS (SELECT FROM ledger.migration_status() m WHERE m.phase = 'migrating' AND m.state <> 'fresh') HAVING count(*) > 0
		UNION ALL
		SELECT 2, 'Open discrepancies', ledger.report_number(o.n), CASE WHEN o.n = 0 THEN 'good' ELSE 'bad' END,
			CASE WHEN o.n = 0 THEN 'none' WHEN o.users = 0 THEN 'of all users' ELSE 'of ' || ledger.report_count(o.users, 'user') END
		FROM open o
		UNION ALL
		SELECT 3, 'Last full reconciliation', CASE WHEN r.discrepancies = 0 THEN 'clean' ELSE COALESCE(ledger.report_number(r.discrepancies), 'none') END,
			CASE WHEN r.id IS NULL THEN 'plain' WHEN r.discrepancies = 0 THEN 'good' ELSE 'bad' END,
			CASE WHEN r.id IS NULL THEN 'not recorded yet' ELSE format('%s, %s', CASE r.discrepancies WHEN 0 THEN 'no differences' WHEN 1 THEN 'difference' ELSE 'differences' END, r.seen) END
		FROM (SELECT 1) one LEFT JOIN run r ON true
		UNION ALL
		SELECT 4, 'In suspense', ledger.report_number(count(*)), CASE WHEN count(*) = 0 THEN 'good' ELSE 'warn' END,
			CASE WHEN count(*) = 0 THEN 'nothing to settle' ELSE 'to be settled' END
		FROM ledger.suspense_items s WHERE s.remaining <> 0
		UNION ALL
		SELECT 5, 'Worker', CASE WHEN w.running AND w.is_seen THEN 'runs' WHEN w.running THEN 'does not answer' WHEN pg_is_in_recovery() THEN 'on the primary' ELSE 'does not run' END,
			CASE WHEN w.running AND NOT w.is_seen THEN 'bad' WHEN w.running AND w.losses = 0 THEN 'good' WHEN w.running OR pg_is_in_recovery() THEN 'warn' WHEN w.active OR w.is_needed THEN 'bad' ELSE 'warn' END,
			concat_ws(', ', COALESCE('seen ' || w.seen, 'never seen'), CASE WHEN w.losses > 0 THEN ledger.report_count(w.losses, 'loss', 'losses') END)
		FROM worker w
		UNION ALL
		SELECT 6, 'Writes that did not fail', CASE WHEN w.attempts > 0 THEN ledger.report_share(w.rate::numeric) ELSE 'none' END,
			CASE WHEN w.attempts > 0 THEN CASE WHEN w.rate < 0.99 THEN 'bad' WHEN w.failures > 0 THEN 'warn' ELSE 'good' END ELSE 'plain' END,
			CASE WHEN w.since IS NULL THEN 'no writes counted' WHEN w.attempts > 0 THEN
				format('%s of %s failed %s', CASE WHEN w.failures > 0 THEN ledger.report_number(w.failures) ELSE 'none' END, ledger.report_number(w.attempts), w.since)
				ELSE 'no writes ' || w.since END
		FROM writes w
	)
	SELECT format(E'<div class="tiles">%s</div>\n', string_agg(format(E'<div class="tile %s"><h2>%s</h2><p class="value">%s</p><p>%s</p></div>\n', t.kind, t.name,
		ledger.report_text(t.value), ledger.report_badge(t.kind, t.note)), '' ORDER BY t.n))
	FROM tile t
$$;
REVOKE ALL ON FUNCTION ledger.report_tiles(ledger.gate[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_tiles(ledger.gate[]) IS 'Internal: part of the page.';

/* What docs/monitoring.md says of them. */
CREATE FUNCTION ledger.report_alert_words() RETURNS TABLE (alert text, unit text, to_do text)
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER ROWS 13
	SET search_path = pg_catalog, pg_temp
AS $$
	VALUES ('LedgerDiscrepancies', 'count', 'ledger.discrepancies; runbook: the rate is high'),
		('LedgerWriteFailures', 'share', 'ledger.stat_errors, proofs_failed in ledger.stat_shadow; runbook: writes fail'),
		('LedgerReadsSlow', 'ratio', 'ledger.stat_reads; runbook: latency'),
		('LedgerWorkerDown', 'seconds', 'ledger.worker_status; runbook: the worker is down'),
		('LedgerEvidenceLost', 'count', 'ledger.evidence_losses; runbook: evidence was lost'),
		('LedgerReconciliationOverdue', 'seconds', 'ledger.reconciliation_progress; runbook: overdue'),
		('LedgerCaptureMissing', 'count', 'ledger.verify(); runbook: past the capture'),
		('LedgerGuardMissing', 'count', 'ledger.verify(); runbook: past the capture'),
		('LedgerBypass', 'count', 'ledger.legacy_writes of kind bypass; runbook: past the capture'),
		('LedgerOutsideWrites', 'count', 'ledger.legacy_writers; runbook: the rate is high'),
		('LedgerReadsRefused', 'count', 'ledger.explain_discrepancy(); runbook: the rate is high'),
		('LedgerCopy', 'count', 'ledger.resume(), or leave it; runbook: a copy'),
		('LedgerDiscrepancyOpen', 'seconds', 'ledger.discrepancies; runbook: explain and repair')
$$;
REVOKE ALL ON FUNCTION ledger.report_alert_words() FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_alert_words() IS 'Internal: of each alert the unit of its value, and what is to be done when it fires.';

CREATE FUNCTION ledger.report_measure(value numeric, unit text) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE unit WHEN 'seconds' THEN COALESCE(ledger.report_age(value), 'never') WHEN 'share' THEN ledger.report_share(value)
		ELSE ledger.report_number(trim_scale(round(value, 2))) END
$$;
REVOKE ALL ON FUNCTION ledger.report_measure(numeric, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_measure(numeric, text) IS 'Internal: the value or threshold of an alert.';

/* The gravest first. */
CREATE FUNCTION ledger.report_alerts() RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ledger.report_section('alerts', 'Alerts that fire', NULL,
		ledger.report_table(ARRAY['Alert', 'Severity', 'Since', 'What', 'Value', 'Threshold', 'To do'], ARRAY['code', 'html', 'time', 'text', 'number', 'number', 'text'],
			array_agg(ARRAY[a.alert, ledger.report_badge(CASE a.severity WHEN 'medium' THEN 'warn' ELSE 'bad' END, a.severity), ledger.report_time(a.since),
				CASE WHEN w.unit = 'seconds' THEN regexp_replace(a.summary, '^seconds since', 'time since') ELSE a.summary END,
				ledger.report_measure(a.value::numeric, w.unit), ledger.report_measure(a.threshold::numeric, w.unit), w.to_do]
				ORDER BY array_position(ARRAY['critical', 'high', 'medium'], a.severity), a.alert) FILTER (WHERE a.firing),
			format('None of %s.', count(*))))
	FROM ledger.alerts a LEFT JOIN ledger.report_alert_words() w USING (alert)
$$;
REVOKE ALL ON FUNCTION ledger.report_alerts() FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_alerts() IS 'Internal: part of the page.';

/* Those that are closed first. Before and after the migration nobody asks for them: folded up. */
CREATE FUNCTION ledger.report_gates(gates ledger.gate[]) RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH body AS (
		SELECT ledger.report_table(ARRAY['', 'Gate', 'Required', 'Observed', 'Since', 'To do'], ARRAY['html', 'code', 'text', 'text', 'time', 'text'],
			(SELECT array_agg(ARRAY[CASE WHEN g.passed THEN ledger.report_badge('good', 'open') ELSE ledger.report_badge('bad', 'closed') END,
					g.gate, g.required, g.observed, ledger.report_time(g.since), g.hint] ORDER BY g.passed, g.n)
				FROM unnest(gates) WITH ORDINALITY AS g (gate, required, observed, passed, since, hint, n)), 'None.') AS t
	)
	SELECT ledger.report_section('gates', 'Gates of the cut-over',
		CASE WHEN m.state = 'fresh' THEN 'No legacy table is attached: there is nothing to cut over.'
			WHEN m.phase <> 'migrating' THEN 'The cut-over is done.' END,
		CASE WHEN m.state = 'fresh' OR m.phase <> 'migrating' THEN format(E'<details><summary>All gates</summary>\n%s</details>\n', b.t) ELSE b.t END)
	FROM body b, ledger.migration_status() m
$$;
REVOKE ALL ON FUNCTION ledger.report_gates(ledger.gate[]) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_gates(ledger.gate[]) IS 'Internal: part of the page.';

CREATE FUNCTION ledger.report_causes(shows_users boolean) RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH open AS (
		SELECT d.*, COALESCE(d.ledger_value, 0) - COALESCE(d.legacy_value, 0) AS difference FROM ledger.open_discrepancies() d
	), cause AS (
		SELECT o.cause, string_agg(DISTINCT o.legacy_column, ', ') AS columns, count(*) AS n, count(DISTINCT o.user_id) AS users, bool_or(o.user_id IS NULL) AS is_all,
			sum(abs(o.difference)) FILTER (WHERE o.difference < 'Infinity' AND o.difference > '-Infinity') AS amount, min(o.first_seen) AS first_seen, max(o.last_seen) AS last_seen
		FROM open o GROUP BY o.cause
	)
	SELECT ledger.report_table(ARRAY['Cause', 'Open', 'Users', 'Sum of differences', 'First seen', 'Last seen', 'Columns'],
		ARRAY['short', 'number', 'number', 'number', 'time', 'time', 'text'],
		(SELECT array_agg(ARRAY[replace(c.cause, '_', ' '), ledger.report_number(c.n), CASE WHEN c.is_all THEN 'all' ELSE ledger.report_number(c.users) END,
			CASE WHEN shows_users THEN ledger.report_amount(c.amount) ELSE 'hidden' END, ledger.report_time(c.first_seen), ledger.report_time(c.last_seen),
			c.columns] ORDER BY c.n DESC, c.cause) FROM cause c), 'None.')
$$;
REVOKE ALL ON FUNCTION ledger.report_causes(boolean) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_causes(boolean) IS 'Internal: open discrepancies by cause, the sums without signs.';

/* What tells of one user, amounts and the text of errors too, only if it may be shown. */
CREATE FUNCTION ledger.report_discrepancies(shows_users boolean, max_rows int) RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH open AS MATERIALIZED (
		SELECT d.*, COALESCE(d.ledger_value, 0) - COALESCE(d.legacy_value, 0) AS difference FROM ledger.open_discrepancies() d
	), top AS (
		SELECT o.*, row_number() OVER (ORDER BY abs(o.difference) DESC, o.id) AS place FROM open o ORDER BY abs(o.difference) DESC, o.id LIMIT max_rows
	), number AS (
		SELECT count(*) AS n FROM open
	)
	SELECT ledger.report_section('discrepancies', 'Open discrepancies',
		CASE WHEN n.n > 0 THEN concat_ws(' ', CASE WHEN NOT shows_users THEN 'Users in full and amounts are shown to a role that may read balances.' END,
			'Each user and column once, as last seen; ledger.explain_discrepancy(user_id) tells why.') END,
		ledger.report_causes(shows_users) || CASE WHEN n.n = 0 THEN '' ELSE
		format(E'<h3>%s</h3>\n', CASE WHEN n.n > max_rows THEN format('The %s largest of %s', max_rows, ledger.report_number(n.n)) ELSE 'The largest first' END)
		|| ledger.report_table(ARRAY['User', 'Column', 'Ledger', 'Legacy', 'Difference', 'Cause', 'Found by', 'Count', 'First seen', 'Last seen', 'Note'],
			ARRAY['code', 'code', 'number', 'number', 'number', 'short', 'short', 'number', 'time', 'time', 'text'],
			(SELECT array_agg(ARRAY[ledger.report_user(t.user_id, shows_users), t.legacy_column,
					CASE WHEN shows_users THEN COALESCE(ledger.report_amount(t.ledger_value), 'missing') ELSE 'hidden' END,
					CASE WHEN shows_users THEN COALESCE(ledger.report_amount(t.legacy_value), 'missing') ELSE 'hidden' END,
					CASE WHEN shows_users THEN ledger.report_amount(t.difference) ELSE 'hidden' END, replace(t.cause, '_', ' '), t.source,
					ledger.report_number(t.count), ledger.report_time(t.first_seen), ledger.report_time(t.last_seen),
					CASE WHEN shows_users THEN concat_ws(': ', t.error_code, t.note) END] ORDER BY t.place)
				FROM top t), 'None.') END)
	FROM number n
$$;
REVOKE ALL ON FUNCTION ledger.report_discrepancies(boolean, int) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_discrepancies(boolean, int) IS 'Internal: part of the page.';

/* Captured writes may be many: of the newest ones, by the primary key. A statement holds users and amounts. */
CREATE FUNCTION ledger.report_writers(shows_users boolean, max_rows int, max_writes int) RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH newest AS (
		SELECT w.id, w.acting_role, w.application_name, w.kind, w.at FROM ledger.legacy_writes w ORDER BY w.id DESC LIMIT max_writes
	), writer AS MATERIALIZED (
		SELECT n.acting_role AS role, n.application_name, count(*) AS count, string_agg(DISTINCT replace(n.kind, '_', ' '), ', ') AS kinds,
			max(n.at) AS last_seen, max(n.id) AS last_id
		FROM newest n WHERE n.kind <> 'mirror_side_effect' GROUP BY n.acting_role, n.application_name
	), top AS (
		SELECT w.*, regexp_replace(btrim(l.statement), E'\\s+', ' ', 'g') AS statement
		FROM (SELECT * FROM writer ORDER BY last_id DESC LIMIT max_rows) w JOIN ledger.legacy_writes l ON l.id = w.last_id
	)
	SELECT ledger.report_section('writers', 'Who writes past the ledger',
		NULLIF(concat_ws(' ', (SELECT format('The %s last seen of %s.', max_rows, ledger.report_number(count(*))) FROM writer HAVING count(*) > max_rows),
			(SELECT format('Of the newest %s captured writes.', ledger.report_number(count(*))) FROM newest HAVING count(*) = max_writes)), ''),
		ledger.report_table(ARRAY['Role', 'Application', 'Rows', 'Last seen', 'Kind', 'The last statement'], ARRAY['code', 'code', 'number', 'time', 'short', 'text'],
			(SELECT array_agg(ARRAY[t.role, t.application_name, ledger.report_number(t.count), ledger.report_time(t.last_seen), t.kinds,
				CASE WHEN shows_users THEN CASE WHEN length(t.statement) > 160 THEN left(t.statement, 160) || ' ...' ELSE t.statement END END] ORDER BY t.last_id DESC)
				FROM top t), 'Nobody has.'))
$$;
REVOKE ALL ON FUNCTION ledger.report_writers(boolean, int, int) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_writers(boolean, int, int) IS 'Internal: part of the page.';

CREATE FUNCTION ledger.report_runs() RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ledger.report_section('reconciliations', 'Last reconciliations', NULL,
		ledger.report_table(ARRAY['Run', 'Scope', 'Result', 'Started', 'Took', 'Users compared', 'Differences', 'Ignored', 'Sum of differences', 'By', 'Note'],
			ARRAY['number', 'short', 'html', 'time', 'number', 'number', 'number', 'number', 'number', 'short', 'text'],
			(SELECT array_agg(ARRAY[r.id::text, r.scope,
					CASE WHEN r.status <> 'finished' THEN ledger.report_badge(CASE r.status WHEN 'failed' THEN 'bad' ELSE 'plain' END, r.status)
						WHEN r.discrepancies > 0 THEN ledger.report_badge('bad', 'differences') ELSE ledger.report_badge('good', 'clean') END,
					ledger.report_time(r.started_at), date_trunc('milliseconds', r.finished_at - r.started_at)::text,
					ledger.report_number(r.compared), ledger.report_number(r.discrepancies), ledger.report_number(r.ignored),
					ledger.report_amount(r.total_difference), r.requested_by, r.note] ORDER BY r.id DESC)
				FROM (SELECT * FROM ledger.reconciliation_runs ORDER BY id DESC LIMIT 10) r),
			'None is recorded. CALL ledger.run_reconciliation() records one.'))
$$;
REVOKE ALL ON FUNCTION ledger.report_runs() FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_runs() IS 'Internal: part of the page.';

CREATE FUNCTION ledger.report_suspense(shows_users boolean, max_rows int) RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH item AS MATERIALIZED (
		SELECT s.*, row_number() OVER (ORDER BY s.at, s.transaction_id) AS place, count(*) OVER () AS n
		FROM ledger.suspense_items s WHERE s.remaining <> 0 ORDER BY s.at, s.transaction_id LIMIT max_rows
	), held AS (
		SELECT string_agg(format('%s %s', ledger.report_number(b.balance), b.currency), ', ' ORDER BY b.currency) AS t
		FROM ledger.account_balances b WHERE b.account_type = 'legacy_suspense' AND b.balance <> 0
	)
	SELECT ledger.report_section('suspense', 'Suspense',
		NULLIF(concat_ws(' ', 'On legacy_suspense: ' || h.t || '.',
			(SELECT format('The %s oldest of %s.', max_rows, ledger.report_number(min(i.n))) FROM item i HAVING min(i.n) > max_rows)), ''),
		ledger.report_table(ARRAY['Transaction', 'Type', 'User', 'Account', 'To settle', 'Currency', 'At'],
			ARRAY['number', 'short', 'code', 'code', 'number', 'short', 'time'],
			(SELECT array_agg(ARRAY[i.transaction_id::text, i.type, CASE WHEN i.user_id IS NOT NULL THEN ledger.report_user(i.user_id, shows_users) END, i.account_type,
					CASE WHEN shows_users THEN ledger.report_number(i.remaining) ELSE 'hidden' END, i.currency, ledger.report_time(i.at)] ORDER BY i.place)
				FROM item i),
			'Nothing waits to be settled.'))
	FROM held h
$$;
REVOKE ALL ON FUNCTION ledger.report_suspense(boolean, int) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_suspense(boolean, int) IS 'Internal: part of the page.';

/* The text of an error may tell of a user. */
CREATE FUNCTION ledger.report_worker(shows_users boolean) RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ledger.report_section('worker', 'Worker',
		CASE WHEN NOT w.active THEN 'The library is not preloaded, or ledger.databases does not name this database: there is no worker.'
			WHEN w.copy THEN 'The database is a copy: the worker does nothing until resume().' END,
		ledger.report_facts(ARRAY['Runs', CASE WHEN w.running THEN format('yes, pid %s', w.pid) ELSE 'no' END, 'Last seen', ledger.report_time(w.last_seen),
			'Started', ledger.report_time(w.started_at), 'Starts', ledger.report_number(w.starts),
			'Evidence waiting', CASE WHEN w.ring_size IS NOT NULL THEN format('%s of %s', ledger.report_number(w.ring_used), ledger.report_number(w.ring_size)) END,
			'Findings stored', ledger.report_number(w.stored), 'Reservations expired', ledger.report_number(w.expired), 'Rows trimmed', ledger.report_number(w.trimmed),
			'Unended transactions', ledger.report_number(w.pending), 'Losses of evidence', ledger.report_number(w.losses),
			'Errors', ledger.report_number(w.errors), 'Last error', concat_ws(': ', ledger.report_time(w.last_error_at), CASE WHEN shows_users OR w.last_error IS NULL THEN w.last_error ELSE 'hidden' END)],
			CASE WHEN w.losses > 0 THEN ARRAY['Losses of evidence'] ELSE '{}' END)
		|| CASE WHEN EXISTS (SELECT FROM ledger.stat_worker s WHERE s.runs > 0) THEN
			ledger.report_table(ARRAY['Task', 'Slices', 'Failures', 'Time, ms', 'Mean, ms'], ARRAY['short', 'number', 'number', 'number', 'number'],
				(SELECT array_agg(ARRAY[s.task, ledger.report_number(s.runs), ledger.report_number(s.failures), ledger.report_ms(s.total_ms),
					ledger.report_ms(s.total_ms / s.runs)] ORDER BY s.total_ms DESC) FROM ledger.stat_worker s WHERE s.runs > 0), 'None.')
			ELSE '' END)
	FROM ledger.worker_status w
$$;
REVOKE ALL ON FUNCTION ledger.report_worker(boolean) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_worker(boolean) IS 'Internal: part of the page.';

/* ---- postings over time -------------------------------------------------------------- */

/*
 * Ids are nearly in the order of time: of a journal of any size only its
 * newest rows are read, backwards by its primary key. The first bar of what
 * was cut off is not whole and left out, unless it is all there is.
 */
CREATE FUNCTION ledger.report_bins(max_rows int, now timestamptz)
	RETURNS TABLE (start timestamptz, width interval, type text, count bigint, is_cut boolean)
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $$
	WITH row AS MATERIALIZED (
		SELECT j.created_at, j.type FROM ledger.journal j ORDER BY j.transaction_id DESC, j.ordinal DESC LIMIT max_rows
	), span AS (
		SELECT GREATEST(min(r.created_at), report_bins.now - interval '14 days') AS since, max(r.created_at) AS until,
			count(*) = max_rows AND min(r.created_at) > report_bins.now - interval '14 days' AS is_cut
		FROM row r
	), width AS (
		SELECT s.*, (SELECT min(w) FROM unnest(ARRAY['1 second', '10 seconds', '1 minute', '10 minutes', '1 hour', '6 hours']::interval[]) w
			WHERE report_bins.now - s.since <= 58 * w OR w = '6 hours') AS width
		FROM span s
	), whole AS MATERIALIZED (
		SELECT w.*, CASE WHEN w.is_cut AND w.until >= b.second THEN b.second ELSE w.since END AS first
		FROM width w, LATERAL (SELECT date_bin(w.width, w.since, timestamptz '2000-01-01 00:00:00+00') + w.width AS second) b
	)
	SELECT date_bin(w.width, r.created_at, timestamptz '2000-01-01 00:00:00+00') AS start, w.width, r.type, count(*), w.is_cut
	FROM row r, whole w
	WHERE r.type IS NOT NULL AND r.created_at >= w.first
	GROUP BY 1, 2, 3, 5
$$;
REVOKE ALL ON FUNCTION ledger.report_bins(int, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_bins(int, timestamptz) IS 'Internal: transactions of the last 14 days by time and type, of so many of the newest rows of the journal.';

/* The axis ends at the next of 1, 2, 5, 10, 20, ... */
CREATE FUNCTION ledger.report_axis(value bigint) RETURNS bigint
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT min(m * 10::bigint ^ e)::bigint FROM generate_series(0, 17) e, unnest(ARRAY[1, 2, 5]) m WHERE m * 10::numeric ^ e >= GREATEST(value, 2)
$$;
REVOKE ALL ON FUNCTION ledger.report_axis(bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_axis(bigint) IS 'Internal: where the axis of a picture ends.';

/* starts are those of bars, width apart; at least 24 places, so that few bars are not broad. */
CREATE FUNCTION ledger.report_chart(starts timestamptz[], counts bigint[], width interval, now timestamptz) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH bar AS (
		SELECT b.start, b.count FROM unnest(starts, counts) AS b (start, count)
	), axis AS (
		SELECT a.last, LEAST(min(b.start), a.last - 23 * width) AS first, ledger.report_axis(max(b.count)) AS top
		FROM bar b, (SELECT GREATEST(date_bin(width, now, timestamptz '2000-01-01 00:00:00+00'), (SELECT max(m.start) FROM bar m)) AS last) a
		GROUP BY a.last
	), placed AS (
		SELECT b.start, b.count, round(extract(epoch FROM b.start - a.first) / extract(epoch FROM width)) AS place,
			GREATEST(round(100.0 * b.count / a.top, 2), 0.8) AS height
		FROM bar b, axis a
	), label AS (
		SELECT to_char(t.at AT TIME ZONE 'UTC', CASE WHEN width >= '1 hour' THEN 'DD Mon HH24:MI' ELSE 'HH24:MI:SS' END) AS text, t.n
		FROM axis a, LATERAL (VALUES (1, a.first), (2, a.first + (a.last + width - a.first) / 2), (3, a.last + width)) AS t (n, at)
	)
	SELECT format(E'<figure class="chart"><div class="y"><span>%s</span><span>%s</span><span>0</span></div>\n'
			'<svg role="img" aria-label="Transactions over time" viewBox="0 0 %s 100" preserveAspectRatio="none"><path class="grid" d="M0 0H%3$sM0 50H%3$sM0 100H%3$s"/>%s</svg>\n'
			'<div class="x">%s</div></figure>\n',
		ledger.report_number(a.top), ledger.report_number(trim_scale(a.top / 2.0)),
		10 * (round(extract(epoch FROM a.last - a.first) / extract(epoch FROM width))::int + 1),
		(SELECT string_agg(format('<rect x="%s" y="%s" width="8" height="%s"><title>%s: %s</title></rect>', 10 * p.place::int + 1,
				100 - p.height, p.height, ledger.report_time(p.start), ledger.report_number(p.count)), '' ORDER BY p.place) FROM placed p),
		(SELECT string_agg(format('<span>%s</span>', l.text), '' ORDER BY l.n) FROM label l))
	FROM axis a
$$;
REVOKE ALL ON FUNCTION ledger.report_chart(timestamptz[], bigint[], interval, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_chart(timestamptz[], bigint[], interval, timestamptz) IS 'Internal: counts over time as bars.';

CREATE FUNCTION ledger.report_postings(max_rows int) RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH bin AS MATERIALIZED (
		SELECT b.* FROM ledger.report_bins(max_rows, statement_timestamp()) b
	), bar AS (
		SELECT b.start, sum(b.count)::bigint AS count FROM bin b GROUP BY b.start
	), found AS (
		SELECT sum(b.count) AS n, min(b.start) AS since, min(b.width) AS width, bool_or(b.is_cut) AS is_cut FROM bin b
	)
	SELECT ledger.report_section('postings', 'Transactions over time',
		CASE WHEN f.n > 0 THEN format('%s in bars of %s, %s.', ledger.report_count(f.n, 'transaction'),
			CASE f.width WHEN '1 second' THEN 'a second' WHEN '10 seconds' THEN '10 seconds' WHEN '1 minute' THEN 'a minute' WHEN '10 minutes' THEN '10 minutes'
				WHEN '1 hour' THEN 'an hour' ELSE '6 hours' END,
			CASE WHEN f.is_cut THEN format('since %s: of the newest %s postings, older ones are not counted', ledger.report_time(f.since), ledger.report_number(max_rows))
				ELSE 'of the last 14 days' END) END,
		CASE WHEN f.n > 0 THEN
			ledger.report_chart((SELECT array_agg(b.start ORDER BY b.start) FROM bar b), (SELECT array_agg(b.count ORDER BY b.start) FROM bar b), f.width, statement_timestamp())
			|| ledger.report_table(ARRAY['Type', 'Transactions', 'Share, %'], ARRAY['short', 'number', 'number'],
				(SELECT array_agg(ARRAY[t.type, ledger.report_number(t.count), round(100 * t.count / f.n, 1)::text] ORDER BY t.count DESC, t.type)
					FROM (SELECT b.type, sum(b.count) AS count FROM bin b GROUP BY b.type ORDER BY 2 DESC, 1 LIMIT 12) t), 'None.')
		ELSE E'<p class="empty">No transaction in the last 14 days.</p>\n' END)
	FROM found f
$$;
REVOKE ALL ON FUNCTION ledger.report_postings(int) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_postings(int) IS 'Internal: part of the page.';

/* ---- latency -------------------------------------------------------------------------- */

/* All histograms have one scale, so that they can be compared. */
CREATE FUNCTION ledger.report_operations() RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH op AS MATERIALIZED (
		SELECT o.* FROM ledger.stat_operations o WHERE o.calls > 0 OR o.posted > 0
	), scale AS (
		SELECT min(u.n)::int AS low, max(u.n)::int AS high FROM op o, unnest(o.latency) WITH ORDINALITY AS u (count, n) WHERE u.count > 0
	)
	SELECT ledger.report_section('operations', 'Operations', CASE WHEN s.low IS NOT NULL THEN format('Since the reset of the counters, %s. Times in ms, distribution from %s to %s ms on a logarithmic scale.',
			(SELECT ledger.report_time(s.reset_at) FROM ledger.stat_shadow s),
			ledger.report_ms(ledger.latency_bound(s.low - 2)), ledger.report_ms(ledger.latency_bound(LEAST(s.high, 109) - 1))) END,
		ledger.report_table(ARRAY['Operation', 'Calls', 'Posted', 'Replayed', 'Refused', 'Failed', 'p50', 'p95', 'p99', 'Distribution'],
			ARRAY['code', 'number', 'number', 'number', 'number', 'number', 'number', 'number', 'number', 'html'],
			(SELECT array_agg(ARRAY[o.operation, ledger.report_number(o.calls), ledger.report_number(o.posted), ledger.report_number(o.replayed),
					ledger.report_number(o.refused), ledger.report_number(o.failed), ledger.report_ms(o.p50_ms), ledger.report_ms(o.p95_ms), ledger.report_ms(o.p99_ms),
					ledger.report_histogram(o.latency, s.low, s.high, 'Times of ' || o.operation)] ORDER BY o.calls DESC, o.operation) FROM op o),
			'Nothing has been called since the counters were reset.')
		|| CASE WHEN EXISTS (SELECT FROM ledger.stat_errors) THEN E'<h3>Calls that ended with an error</h3>\n' || ledger.report_table(
			ARRAY['Operation', 'SQLSTATE', 'Kind', 'Count'], ARRAY['code', 'code', 'html', 'number'],
			(SELECT array_agg(ARRAY[e.operation, COALESCE(e.sqlstate, 'others'), ledger.report_badge(CASE e.kind WHEN 'failed' THEN 'bad' ELSE 'plain' END, e.kind),
				ledger.report_number(e.count)] ORDER BY e.kind, e.count DESC) FROM (SELECT * FROM ledger.stat_errors ORDER BY kind, count DESC LIMIT 20) e), 'None.')
			ELSE '' END)
	FROM scale s
$$;
REVOKE ALL ON FUNCTION ledger.report_operations() FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_operations() IS 'Internal: part of the page.';

CREATE FUNCTION ledger.report_reads() RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH part AS MATERIALIZED (
		SELECT r.source, r.reads, r.p50_ms, r.p95_ms, r.p99_ms, r.latency, CASE r.source WHEN 'ledger' THEN 1 ELSE 2 END AS n
		FROM ledger.stat_reads r WHERE r.reads > 0
		UNION ALL
		SELECT 'write lag', s.lags, s.lag_p50_ms, s.lag_p95_ms, s.lag_p99_ms, s.lag, 3 FROM ledger.stat_shadow s WHERE s.lags > 0
	), scale AS (
		SELECT min(u.n)::int AS low, max(u.n)::int AS high FROM part p, unnest(p.latency) WITH ORDINALITY AS u (count, n) WHERE u.count > 0
	)
	SELECT ledger.report_section('reads', 'Reads and shadow mode',
		CASE WHEN s.low IS NOT NULL THEN format('Times in ms, distribution from %s to %s ms on a logarithmic scale. legacy is the fetch of the legacy row, ledger all the rest of the same reads.',
			ledger.report_ms(ledger.latency_bound(s.low - 2)), ledger.report_ms(ledger.latency_bound(LEAST(s.high, 109) - 1))) END,
		ledger.report_table(ARRAY['What', 'Count', 'p50', 'p95', 'p99', 'Distribution'], ARRAY['short', 'number', 'number', 'number', 'number', 'html'],
			(SELECT array_agg(ARRAY[p.source, ledger.report_number(p.reads), ledger.report_ms(p.p50_ms), ledger.report_ms(p.p95_ms), ledger.report_ms(p.p99_ms),
				ledger.report_histogram(p.latency, s.low, s.high, 'Times of ' || p.source)] ORDER BY p.n) FROM part p),
			'No balance has been read since the counters were reset.')
		|| (SELECT ledger.report_facts(ARRAY['Compared', ledger.report_number(c.compares), 'Matches', ledger.report_number(c.matches),
				'Mismatches', ledger.report_number(c.mismatches), 'Pending', ledger.report_number(c.pending), 'Legacy rows written', ledger.report_number(c.mirror_ok),
				'Legacy writes failed', ledger.report_number(c.mirror_failed), 'Writes past the capture', ledger.report_number(c.bypasses),
				'Users proved at commit', ledger.report_number(c.proofs), 'Proofs failed', ledger.report_number(c.proofs_failed)],
				ARRAY(SELECT f.name FROM (VALUES ('Mismatches', c.mismatches), ('Legacy writes failed', c.mirror_failed), ('Writes past the capture', c.bypasses),
					('Proofs failed', c.proofs_failed)) AS f (name, n) WHERE f.n > 0))
			FROM ledger.stat_shadow c))
	FROM scale s
$$;
REVOKE ALL ON FUNCTION ledger.report_reads() FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_reads() IS 'Internal: part of the page.';

/* ---- the page --------------------------------------------------------------------------- */

CREATE FUNCTION ledger.report_style() RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT $css$
:root{color-scheme:light dark;--page:#f4f5f8;--card:#fff;--text:#1b2330;--soft:#566072;--line:#dde1e8;--bar:#2f6bd8;--good:#18733d;--bad:#b3261e;--warn:#8a5a00;--stripe:#f8f9fb}
@media (prefers-color-scheme:dark){:root{--page:#10141a;--card:#191f28;--text:#e7eaf0;--soft:#9fa9b8;--line:#2d3541;--bar:#6ea2ff;--good:#5fd08c;--bad:#ff8a80;--warn:#e7b64a;--stripe:#1d242e}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
header,main{max-width:1240px;margin:0 auto;padding:0 20px}
header{padding-top:28px;padding-bottom:12px;display:flex;flex-wrap:wrap;gap:4px 20px;align-items:baseline}
h1{font-size:26px;line-height:1.2;margin:0;overflow-wrap:anywhere}
header p{margin:0;color:var(--soft);overflow-wrap:anywhere}
section,.tile{background:var(--card);border:1px solid var(--line);border-radius:10px}
section{padding:18px 20px;margin:0 0 16px}
h2{font-size:18px;line-height:1.3;margin:0 0 8px}
h3{font-size:15px;margin:18px 0 6px}
p{margin:0 0 10px}
.note,.empty,.none{color:var(--soft)}
.empty{margin:0}
code,.code span{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:13px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(178px,1fr));gap:12px;margin:0 0 16px}
.tile{padding:14px 16px}
.tile h2{font-size:13px;font-weight:500;color:var(--soft);margin:0}
.tile .value{font-size:25px;font-weight:650;line-height:1.35;margin:0 0 2px;font-variant-numeric:tabular-nums}
.tile p{margin:0}
.badge{display:inline-flex;gap:5px;font-weight:550;font-size:13.5px;line-height:1.45;color:var(--soft)}
.badge i{font-style:normal;font-weight:700;min-width:.8em;text-align:center}
.badge.good{color:var(--good)}
.badge.bad{color:var(--bad)}
.badge.warn{color:var(--warn)}
td .badge{white-space:nowrap}
.steps{list-style:none;margin:4px 0 16px;padding:0;display:grid;grid-template-columns:repeat(8,1fr);gap:6px}
.steps li{border-top:4px solid var(--line);padding:6px 2px 0;font-size:12.5px;line-height:1.35;color:var(--soft)}
.steps b,.steps span{display:block}
.steps b{font-size:13.5px}
.steps .past{border-color:var(--bar)}
.steps .now{border-color:var(--bar);color:var(--text)}
.steps .now b{color:var(--bar)}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(168px,1fr));gap:10px 20px;margin:0 0 12px}
dl:last-child{margin-bottom:0}
.empty+dl,.scroll+dl,dl+.scroll{margin-top:16px}
dl div{min-width:0}
dt{font-size:13px;color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums;unicode-bidi:isolate}
.steps-to{grid-template-columns:repeat(auto-fit,minmax(280px,1fr))}
.steps-to p{margin-bottom:2px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
.small{max-width:640px}
th{text-align:left;font-weight:500;font-size:13px;color:var(--soft);white-space:nowrap}
th,td{padding:6px 13px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
th:last-child,td:last-child{padding-right:0}
tr:last-child td{border-bottom:0}
td{unicode-bidi:isolate;font-variant-numeric:tabular-nums}
td.text{overflow-wrap:break-word}
th.number,td.number{text-align:right}
td.number,td.short,td.code,td.time span{white-space:nowrap}
.blank{color:var(--soft)}
wbr{display:none}
svg rect{fill:var(--bar)}
svg rect:hover{fill:var(--text)}
.histogram{display:block;width:150px;height:22px}
.chart{display:grid;grid-template-columns:auto 1fr;gap:4px 8px;margin:6px 0 18px}
.chart svg{width:100%;height:180px;display:block;overflow:visible}
.grid{stroke:var(--line);fill:none;vector-effect:non-scaling-stroke}
.y,.x{display:flex;justify-content:space-between;color:var(--soft);font-size:12px;line-height:1;font-variant-numeric:tabular-nums}
.y{flex-direction:column;text-align:right;margin:-6px 0}
.x{grid-column:2;margin-top:4px}
summary{cursor:pointer;color:var(--soft);padding:2px 0}
footer{color:var(--soft);font-size:13px;padding:4px 0 32px}
@media (max-width:720px){
header,main{padding-left:12px;padding-right:12px}
section{padding:14px}
.tiles{grid-template-columns:1fr 1fr;gap:8px}
.tile{padding:10px 12px}
.tile .value{font-size:21px}
.steps{grid-template-columns:1fr;gap:0}
.steps li{border-top:0;border-left:4px solid var(--line);padding:3px 0 3px 10px;display:flex;gap:0 10px;flex-wrap:wrap;align-items:baseline}
.steps .past,.steps .now{border-color:var(--bar)}
dl{grid-template-columns:1fr 1fr}
.steps-to{grid-template-columns:1fr}
table:not(.small) thead{display:none}
table:not(.small){display:block}
table:not(.small) :is(tbody,td){display:block}
table:not(.small) tr{display:grid;grid-template-columns:repeat(auto-fill,minmax(126px,1fr));gap:4px 12px;padding:9px 0;border-bottom:1px solid var(--line)}
table:not(.small) tr:first-child{padding-top:0}
table:not(.small) tr:last-child{border-bottom:0;padding-bottom:0}
td,td.code,td.number,td.short{white-space:normal;overflow-wrap:anywhere;min-width:0}
.small td{overflow-wrap:break-word}
table:not(.small) td{border:0;padding:0;text-align:left}
table:not(.small) :is(td:first-child,td.text){grid-column:1/-1}
table:not(.small) td.blank{display:none}
table:not(.small) td::before{content:attr(data-label);display:block;color:var(--soft);font-size:12px;line-height:1.3}
td[data-label=""]::before{display:none!important}
wbr{display:inline}
.chart svg{height:130px}
}
@media print{body{background:none}section,.tile{break-inside:avoid}}
$css$
$$;
REVOKE ALL ON FUNCTION ledger.report_style() FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_style() IS 'Internal: part of the page.';

CREATE FUNCTION ledger.report_head() RETURNS text
	LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format(E'<header>\n<h1>ledger: %s</h1>\n<p>%s UTC, PostgreSQL %s%s</p>\n%s</header>\n', ledger.report_text(current_database()),
		ledger.report_time(statement_timestamp()), ledger.report_text(split_part(current_setting('server_version'), ' ', 1)),
		CASE WHEN pg_is_in_recovery() THEN ', a standby' ELSE '' END,
		concat(CASE WHEN ledger.is_copy() THEN format(E'<p>%s</p>\n', ledger.report_badge('bad', 'a copy: nothing is posted until resume()')) END,
			(SELECT format(E'<p>%s</p>\n', ledger.report_badge('warn', format('test clock: %s off', s.test_clock))) FROM ledger.settings s WHERE s.test_clock <> '0')))
$$;
REVOKE ALL ON FUNCTION ledger.report_head() FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_head() IS 'Internal: part of the page.';

/* The journal may be large: what can be looked up is not searched for. */
CREATE FUNCTION ledger.report_page(shows_users boolean) RETURNS text
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'postgres'
	SET enable_seqscan = off SET jit = off
AS $$
DECLARE
	gates ledger.gate[] := ARRAY(SELECT ROW(r.*)::ledger.gate FROM ledger.readiness() r);
BEGIN
	RETURN concat(E'<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml">\n<head>\n<meta charset="utf-8"/>\n',
		E'<meta http-equiv="Content-Security-Policy" content="default-src ''none''; style-src ''unsafe-inline''"/>\n',
		E'<meta name="viewport" content="width=device-width, initial-scale=1"/>\n<meta name="color-scheme" content="light dark"/>\n',
		format(E'<title>ledger: %s</title>\n<style>%s</style>\n</head>\n<body>\n', ledger.report_text(current_database()), ledger.report_style()),
		ledger.report_head(), E'<main>\n', ledger.report_tiles(gates), ledger.report_alerts(), ledger.report_state(),
		ledger.report_writers(report_page.shows_users, 10, 100000), ledger.report_discrepancies(report_page.shows_users, 20),
		ledger.report_gates(gates), ledger.report_runs(), ledger.report_suspense(report_page.shows_users, 20),
		ledger.report_postings(100000), ledger.report_operations(), ledger.report_reads(), ledger.report_worker(report_page.shows_users),
		E'<footer>All times are UTC. ledger.report_html() made this page; it holds no script and loads nothing.</footer>\n</main>\n</body>\n</html>');
END
$$;
REVOKE ALL ON FUNCTION ledger.report_page(boolean) FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_page(boolean) IS 'Internal: the page of report_html(), with users in full and their amounts or without.';

CREATE FUNCTION ledger.report_html() RETURNS text
	AS 'MODULE_PATHNAME', 'ledger_report_html' LANGUAGE C STABLE PARALLEL RESTRICTED SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.report_html() FROM PUBLIC;
COMMENT ON FUNCTION ledger.report_html() IS 'One HTML page that needs nothing else: alerts that fire, state of the migration, who writes past the ledger, open discrepancies by cause, gates, reconciliations, suspense, worker, transactions over time, latency. Users in full and their amounts only for a role that may read balances. Writes nothing; works on a standby.';
