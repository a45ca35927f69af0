--
-- The page of report_html(): well-formed, without a script, with each value
-- escaped; what it shows in each state and to whom. test/t/060_report.pl has
-- a standby, a server without the library preloaded, and a browser.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_report
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_ledger_report_operator, regress_ledger_report_only, regress_ledger_report_reader;
CREATE ROLE regress_ledger_report_operator;
CREATE ROLE regress_ledger_report_only;
CREATE ROLE regress_ledger_report_reader;
RESET client_min_messages;
-- texts of the page's nodes, of the parsed page
CREATE FUNCTION public.nodes(path text, page text DEFAULT ledger.report_html()) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT n::text FROM unnest(xpath(path, xmlparse(DOCUMENT replace(page, '<wbr/>', '')), '{{h,http://www.w3.org/1999/xhtml}}')) n
$$;
-- the cells of a section's table, the first if not told, a row a line
CREATE FUNCTION public.cells(section text, columns text[], page text DEFAULT ledger.report_html(), n int DEFAULT 1) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT (SELECT string_agg(array_to_string(xpath(format('//*[@data-label="%s"]//text()', c), r), ' '), '|' ORDER BY n)
		FROM unnest(columns) WITH ORDINALITY AS u (c, n))
	FROM unnest(xpath(format('(//*[local-name() = "section"][@id="%s"]//*[local-name() = "table"])[%s]/*[local-name() = "tbody"]/*', section, cells.n),
		xmlparse(DOCUMENT replace(page, '<wbr/>', '')))) r
$$;
CREATE FUNCTION public.facts(section text, page text DEFAULT ledger.report_html()) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('%s: %s', (xpath('//*[local-name() = "dt"]/text()', d))[1], array_to_string(xpath('//*[local-name() = "dd"]//text()', d), ' '))
	FROM unnest(xpath(format('//h:section[@id="%s"]/h:dl/h:div', section), xmlparse(DOCUMENT replace(page, '<wbr/>', '')), '{{h,http://www.w3.org/1999/xhtml}}')) d
$$;
CREATE FUNCTION public.tile(name text) RETURNS text LANGUAGE sql AS $$
	SELECT (xpath('string(/*/@class)', t))[1]::text || ': ' || array_to_string(xpath('/*/*[position() > 1]//text()', t), ' ')
	FROM unnest(xpath(format('//div[h2 = "%s"]', name), xmlparse(DOCUMENT ledger.report_tiles('{}')))) t
$$;
\set ECHO all

-- values: amounts with all their digits, times to three
SELECT ledger.report_number(n) FROM unnest('{0,-1,999,1000,-1234567.8901,12345678901234567890.123456789012345678,NaN,-Infinity}'::numeric[]) n;
-- what no amount is comes short: a column of the legacy table may hold it
SELECT ledger.report_number(n) FROM unnest(ARRAY[repeat('1234567890', 10)::numeric, repeat('1234567890', 10000)::numeric, ('1e-16000')::numeric]) n;
SELECT ledger.report_amount(n) FROM unnest('{0,1.500,-1000.000000000000000001}'::numeric[]) n;
SELECT ledger.report_ms(n) FROM unnest('{0,0.001024,0.0123456,0.999,1,12.345,123.45,137438.95}'::float8[]) n;
-- ages in words, counts with their nouns, shares: what is not all does not become all
SELECT string_agg(ledger.report_age(n), ', ') FROM unnest('{-5,0,1.9,40,119,120,7199,7200,172799,172800,8640000}'::numeric[]) n;
SELECT ledger.report_count(n, 'loss', 'losses') AS losses, ledger.report_count(n, 'user') AS users FROM unnest('{0,1,1234,NULL}'::bigint[]) n;
SELECT string_agg(ledger.report_share(n), ', ') FROM unnest('{0,0.5,0.98999,0.99999999,1}'::numeric[]) n;
-- names may be broken after an underscore
SELECT ledger.report_breaks('no_prepared_transactions <b>'), ledger.report_html() ~ '<span>no_<wbr/>prepared_<wbr/>transaction<' AS page;
SELECT ledger.report_axis(n) FROM unnest('{0,1,2,3,10,11,4999,5001}'::bigint[]) n;
SELECT ledger.report_text(t) FROM unnest(ARRAY['<script>alert("x")</script>', 'a & b''s &amp;', E'tab\tline\nbell\x07', chr(233) || chr(8364) || chr(128512) || chr(65534) || chr(133), '']) t;

-- a new ledger
SELECT id FROM public.nodes('//h:section/@id') id;
SELECT state FROM public.nodes('//h:li[@class="now"]/h:b/text()') state;
SELECT t FROM public.nodes('//h:p[@class="empty"]/text()') t;
SELECT count(*) FROM public.nodes('//h:p[not(node())]');
SELECT f FROM public.facts('state') f;
-- no script, no link, nothing to load, no attribute that runs; ASCII alone
SELECT count(*) FROM public.nodes('//h:script | //h:link | //h:img | //h:iframe | //@src | //@href | //@*[starts-with(name(), "on")]');
SELECT ledger.report_html() ~ 'url\(|@import|http:(?!//www.w3.org/1999/xhtml)|https:' AS loads, ledger.report_html() ~ '[^ -~\n]' AS not_ascii;

-- through the states
CREATE FUNCTION public.state() RETURNS text LANGUAGE sql AS $$
	WITH p AS MATERIALIZED (SELECT ledger.report_html() AS page)
	SELECT concat_ws(' ', (SELECT string_agg(n, ' ') FROM public.nodes('//h:li[@class="now"]/h:b/text()', p.page) n),
		(SELECT string_agg(n, ' ') FROM public.nodes('//h:section[@id="state"]/h:p[h:span]//text()', p.page) n), '- gates in sight:',
		(SELECT count(*) FROM public.nodes('//h:section[@id="gates"]/h:div', p.page)), (SELECT count(*) FROM public.nodes('//h:div[h:h2 = "Gates open"]', p.page)))
	FROM p
$$;
SELECT public.state();
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT public.state();
SELECT shadow_mode FROM ledger.configure(shadow_mode => true, balance_source => 'legacy', reason => '<b onclick="x">week</b> & ''1''');
SELECT public.state();
SELECT balance_source FROM ledger.configure(balance_source => 'ledger');
SELECT public.state();
SELECT count(ledger.credit_user_usdc(u, 10, 'opens')) FROM unnest(ARRAY[:alice, :bob, :carol]::uuid[]) u;
SELECT strict_mode FROM ledger.configure(strict_mode => true);
SELECT public.state();
SET client_min_messages = error;
CALL ledger.cut_over(force => true, reason => 'a test');
RESET client_min_messages;
SELECT public.state();
SET client_min_messages = error;
CALL ledger.roll_back('a test');
RESET client_min_messages;
SELECT public.state();
SELECT r FROM public.cells('state', ARRAY['Shadow', 'Strict', 'Source', 'Phase', 'Reason']) r;
SELECT ledger.configure(shadow_mode => false);
SELECT public.state();
SET client_min_messages = error;
CALL ledger.roll_back('a test');
RESET client_min_messages;

-- gates are those of readiness(), the closed ones first
SELECT count(*) FROM (
	SELECT r FROM public.cells('gates', ARRAY['', 'Gate', 'Required', 'Observed']) r
	EXCEPT
	SELECT concat_ws('|', CASE WHEN passed THEN E'\u2713 open' ELSE E'\u2717 closed' END, gate, required, observed) FROM ledger.readiness()
		WHERE gate NOT IN ('worker', 'shadow_mode')) d WHERE d.r !~ '\|(worker|shadow_mode)\|';
SELECT count(*) FROM public.cells('gates', ARRAY['Gate']);

-- what differs, the largest first; a note with anything in it
SET client_min_messages = error;
UPDATE public.balances SET buying_power = buying_power + 12345.6 WHERE user_id = :bob;
UPDATE public.balances SET pending_deposits = pending_deposits - 1 WHERE user_id = :alice;
CALL ledger.run_reconciliation();
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value, error_code, note, count)
	VALUES (1, NULL, '"odd" <col>', 'refused_write', 'capture', NULL, 'NaN', 'LG005', 'by </td><script>alert(''1'')</script> of "app" & co', 1234567);
RESET client_min_messages;
SELECT r FROM public.cells('discrepancies', ARRAY['Cause', 'Open', 'Users', 'Sum of differences', 'Columns']) r;
SELECT r FROM public.cells('discrepancies', ARRAY['User', 'Column', 'Ledger', 'Legacy', 'Difference', 'Cause', 'Found by', 'Count', 'Note'], n => 2) r;
SELECT count(*) FROM public.nodes('//h:script');
SELECT r FROM public.cells('reconciliations', ARRAY['Run', 'Scope', 'Result', 'Users compared', 'Differences', 'Sum of differences']) r;
SELECT public.tile('Open discrepancies');
SELECT regexp_replace(public.tile('Last full reconciliation'), '\d+ seconds?', 'n seconds');
-- the same money met for another cause counts once, by what was seen last
BEGIN;
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value, last_seen)
	VALUES (1, :bob, 'buying_power', 'not_captured', 'run', 0, 12345.6, ledger.clock() + interval '1 second');
SELECT public.tile('Open discrepancies');
SELECT r FROM public.cells('discrepancies', ARRAY['Cause', 'Open', 'Users', 'Sum of differences']) r;
SELECT r FROM public.cells('discrepancies', ARRAY['User', 'Column', 'Difference', 'Cause'], n => 2) r;
-- of all users is not of none; one is no more than one
UPDATE ledger.discrepancy_rows SET status = 'resolved', resolved_at = now() WHERE user_id IS NOT NULL;
SELECT public.tile('Open discrepancies');
SELECT r FROM public.cells('discrepancies', ARRAY['Cause', 'Open', 'Users', 'Sum of differences']) r;
UPDATE ledger.reconciliation_runs SET discrepancies = 1, finished_at = ledger.clock() - interval '3 hours';
SELECT public.tile('Last full reconciliation');
UPDATE ledger.reconciliation_runs SET discrepancies = 0, finished_at = ledger.clock() - interval '3 days';
SELECT public.tile('Last full reconciliation');
-- a run of a clock that has been set back is none yet
UPDATE ledger.reconciliation_runs SET finished_at = ledger.clock() + interval '1 hour';
SELECT public.tile('Last full reconciliation');
ROLLBACK;
-- no more than it is told, and how many there are; the page has 20
SELECT ledger.report_discrepancies(true, 1) ~ 'The 1 largest of 3<' AS told, count(*)
FROM public.nodes('(//*[local-name() = "table"])[2]//*[local-name() = "tr"]', ledger.report_discrepancies(true, 1));
BEGIN;
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value)
	SELECT 1, gen_random_uuid(), 'buying_power', 'mismatch', 'run', 1, n + 1 FROM generate_series(1, 300) n;
SELECT public.tile('Open discrepancies');
SELECT count(*) FROM public.cells('discrepancies', ARRAY['User'], n => 2);
SELECT public.nodes('//h:section[@id="discrepancies"]/h:h3/text()');
SELECT r FROM public.cells('discrepancies', ARRAY['Cause', 'Open', 'Users', 'Sum of differences']) r;
ROLLBACK;

-- sums are amounts
SELECT ledger.report_causes(true) ~ '12,346.60' AS shown, ledger.report_causes(false) !~ '12,346.60' AS hidden;

-- who writes past the ledger, and how; a long statement is cut
BEGIN;
SET LOCAL application_name = 'cron <job>';
UPDATE public.balances SET buying_power = buying_power + 1
	WHERE user_id IN (:alice, :bob) /* a long comment, for as long as it takes until the statement that is long is cut off */;
SELECT r FROM public.cells('writers', ARRAY['Application', 'Rows', 'Kind', 'The last statement']) r;
SELECT r FROM public.cells('writers', ARRAY['Application', 'Rows', 'Kind', 'The last statement'], ledger.report_writers(false, 10, 100)) r;
SELECT r FROM public.cells('writers', ARRAY['Application', 'Rows'], ledger.report_writers(true, 1, 3)) r;
SELECT DISTINCT r = current_user AS role FROM public.cells('writers', ARRAY['Role']) r;
SELECT (regexp_match(ledger.report_writers(true, 1, 3), '<p class="note">(.*)</p>'))[1];
ROLLBACK;

-- what to do before the next step
SELECT f FROM public.facts('state') f WHERE f LIKE 'Next step%';
BEGIN;
UPDATE ledger.discrepancy_rows SET status = 'resolved', resolved_at = now();
SELECT f FROM public.facts('state') f WHERE f LIKE 'Next step%';
INSERT INTO ledger.worker_heartbeat (incarnation, pid, started_at, last_seen) VALUES (1, 1, ledger.clock(), ledger.clock());
SELECT f FROM public.facts('state') f WHERE f LIKE 'Next step%';
ROLLBACK;

-- alerts that fire, the gravest first, as the view has them
UPDATE ledger.discrepancy_rows SET first_seen = first_seen - interval '2 hours' WHERE user_id = :bob;
ALTER TABLE public.balances DISABLE TRIGGER ledger_capture;
SELECT r FROM public.cells('alerts', ARRAY['Alert', 'Severity', 'What', 'Value', 'Threshold', 'To do']) r;
SELECT count(*) FROM public.cells('alerts', ARRAY['Alert']) r, ledger.alerts a WHERE a.firing AND a.alert = r;
SELECT count(*) FROM ledger.alerts WHERE firing;
SELECT count(*) FROM ledger.rearm();
-- each alert has its unit, and what to do
SELECT alert FROM ledger.alerts FULL JOIN ledger.report_alert_words() w USING (alert) WHERE severity IS NULL OR w.unit IS NULL OR w.to_do IS NULL;
SELECT alert, ledger.report_measure(threshold::numeric, unit) AS threshold FROM ledger.alerts JOIN ledger.report_alert_words() USING (alert);
SELECT ledger.report_measure(v, u) FROM (VALUES (12345.00, 'count'), (1.23456, 'ratio'), (0.98765, 'share'), (12345.6, 'seconds'), (NULL, 'seconds'), (NULL, 'count')) AS t (v, u);

-- writes that did not fail: what the gauge says. A commit that strict mode refuses has failed
SELECT ledger.stat_reset();
SELECT public.tile('Writes that did not fail');
SELECT count(ledger.credit_user_usdc(:carol, 1, 'x')) FROM generate_series(1, 250);
SELECT public.raises(format('SELECT ledger.debit_user_usdc(%L, 1000000, %L)', :carol, 'too much')) ~ '^LG001' AS refused;
SELECT public.tile('Writes that did not fail');
SELECT public.raises(format('SELECT ledger.debit_user_usdc(%L, 1, NULL)', :carol)) ~ '^22004' AS failed;
SELECT public.tile('Writes that did not fail');
SELECT f FROM public.facts('reads') f WHERE f ~ '^(Mismatches|Legacy writes failed|Writes past|Proofs failed)';
SELECT strict_mode FROM ledger.configure(strict_mode => true, balance_source => 'ledger');
SELECT ledger.stat_reset();
BEGIN;
SELECT ledger.credit_user_usdc(:bob, 1, 'x') > 0 AS posted;
\set VERBOSITY sqlstate
COMMIT;
\set VERBOSITY default
SELECT public.tile('Writes that did not fail');
SELECT r FROM public.cells('alerts', ARRAY['Alert', 'What', 'Value', 'Threshold', 'To do']) r WHERE r ~ 'LedgerWriteFailures';
SELECT f FROM public.facts('reads') f WHERE f ~ '^(Mismatches|Legacy writes failed|Writes past|Proofs failed)';
-- without samples of the worker it is since the reset
SELECT ledger.set_test_clock('1 hour', 'a test');
SELECT regexp_replace(public.tile('Writes that did not fail'), (SELECT ledger.report_time(reset_at) FROM ledger.stat_shadow), 'the reset');
INSERT INTO ledger.write_samples (at, reset_at, attempts, failures) SELECT ledger.clock() - interval '5 minutes 10 seconds', reset_at, 1, 1 FROM ledger.stat_shadow;
SELECT public.tile('Writes that did not fail');
BEGIN;
INSERT INTO ledger.write_samples (at, reset_at, attempts, failures) SELECT ledger.clock() - interval '40 minutes', reset_at, 0, 0 FROM ledger.stat_shadow;
SELECT public.tile('Writes that did not fail');
ROLLBACK;
UPDATE ledger.write_samples SET at = at - interval '10 minutes', attempts = 0, failures = 0;
SELECT regexp_replace(public.tile('Writes that did not fail'), (SELECT ledger.report_time(at) FROM ledger.write_samples), 'the sample');
DELETE FROM ledger.write_samples;
SELECT ledger.set_test_clock(NULL, 'a test');
SELECT strict_mode FROM ledger.configure(strict_mode => false, balance_source => 'legacy');

-- a worker that does not run is missed where a table is attached
SELECT regexp_replace(public.tile('Worker'), '^(tile \w+: does not run).*', '\1');
BEGIN;
INSERT INTO ledger.evidence_losses (kind, at, last_at) VALUES ('crash', now(), now());
SELECT public.tile('Worker') ~ ', 1 loss$' AS one, (SELECT f FROM public.facts('worker') f WHERE f ~ '^Losses');
ROLLBACK;

-- suspense
SELECT ledger.configure_capture('public.balances', 'post', 'a test');
UPDATE public.balances SET buying_power = buying_power + 5.25 WHERE user_id = :carol;
SELECT r FROM public.cells('suspense', ARRAY['Type', 'User', 'Account', 'To settle', 'Currency']) r;

-- transactions by time: those of the newest rows alone; shares are rounded
SELECT r FROM public.cells('postings', ARRAY['Type', 'Transactions', 'Share, %']) r;
SELECT count(*) FROM ledger.transactions;
SELECT sum(count), bool_or(is_cut) AS is_cut FROM ledger.report_bins(100000, clock_timestamp());
SELECT sum(count) BETWEEN 1 AND 3 AS some, bool_or(is_cut) AS is_cut FROM ledger.report_bins(3, clock_timestamp());
SELECT sum(count) FROM ledger.report_bins(100000, clock_timestamp() + interval '15 days');
-- whatever the span, there are not too many bars, and all is in them
SELECT s, (SELECT count(*) FROM public.nodes('//*[local-name() = "rect"]', ledger.report_chart(
		ARRAY[now() - s, now()], ARRAY[1, 5], w, now()))) AS bars
FROM (VALUES ('40 seconds'::interval, '1 second'::interval), ('5 minutes', '10 seconds'), ('14 days', '6 hours')) v (s, w);
-- through the primary key: 100000 rows of the journal at most are read
SELECT proconfig FROM pg_proc WHERE oid = 'ledger.report_bins'::regproc;
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT j.created_at, j.type FROM ledger.journal j ORDER BY j.transaction_id DESC, j.ordinal DESC LIMIT 100000;
RESET enable_seqscan;

-- to whom: an operator; who has EXECUTE on it alone; who may read balances too
SELECT ledger.grant_access('regress_ledger_report_operator', 'operator');
GRANT USAGE ON SCHEMA ledger TO regress_ledger_report_only, regress_ledger_report_reader;
CREATE FUNCTION public.page() RETURNS text LANGUAGE sql AS 'SELECT ledger.report_html()';
SET ROLE regress_ledger_report_only;
SELECT public.page();
SELECT ledger.report_page(true);
RESET ROLE;
GRANT EXECUTE ON FUNCTION ledger.report_html() TO regress_ledger_report_only, regress_ledger_report_reader;
GRANT EXECUTE ON FUNCTION ledger.get_account_balance(uuid, text) TO regress_ledger_report_reader;
CREATE VIEW public.told AS
	SELECT p ~ '00000000-0000-4000-8000-' AS users, p ~ '12,345.60' AS amounts, p ~ '&lt;script&gt;' AS notes, p ~ 'UPDATE' AS statements,
		p ~ 'hidden' AS hidden
	FROM public.page() p;
GRANT SELECT ON public.told TO PUBLIC;
ALTER VIEW public.told SET (security_invoker = true);
SET ROLE regress_ledger_report_operator;
SELECT * FROM public.told;
SELECT ledger.report_page(true);
SET ROLE regress_ledger_report_only;
SELECT * FROM public.told;
SET ROLE regress_ledger_report_reader;
SELECT * FROM public.told;
RESET ROLE;

-- each number in its own place: all are different
BEGIN;
SET LOCAL jit = off;
CREATE FUNCTION public.latency(VARIADIC places int[]) RETURNS bigint[] LANGUAGE sql AS
$$ SELECT array_agg((SELECT count(*) FROM unnest(places) p WHERE p = b) ORDER BY b) FROM generate_series(0, 109) b $$;
CREATE OR REPLACE FUNCTION ledger.stat_get_shadow()
	RETURNS TABLE (matches bigint, mismatches bigint, pending bigint, mirror_ok bigint, mirror_failed bigint, bypasses bigint,
		proofs bigint, proofs_failed bigint, outside_writes bigint, reads_refused bigint, reset_at timestamptz)
	LANGUAGE sql AS 'SELECT 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, now()';
CREATE OR REPLACE FUNCTION ledger.stat_get_operations()
	RETURNS TABLE (operation text, calls bigint, posted bigint, replayed bigint, refused bigint, failed bigint, total_ms float8, latency bigint[])
	LANGUAGE sql AS $$ SELECT 'post', 1, 2, 3, 4, 5, 6000, public.latency(41, 41, 50, 60) $$;
CREATE OR REPLACE FUNCTION ledger.stat_get_errors() RETURNS TABLE (operation text, sqlstate text, refused boolean, count bigint)
	LANGUAGE sql AS $$ VALUES ('post', 'LG011', true, 6), ('post', NULL, false, 7) $$;
CREATE OR REPLACE FUNCTION ledger.stat_get_times() RETURNS TABLE (what text, count bigint, total_ms float8, latency bigint[])
	LANGUAGE sql AS $$
	VALUES ('read_alone', 1, 1000, public.latency(41)), ('read_ledger', 2, 2000, public.latency(42, 61)), ('read_legacy', 3, 4000, public.latency(43, 44, 62)),
		('write_lag', 4, 32000, public.latency(45, 45, 51, 63))
$$;
CREATE OR REPLACE FUNCTION ledger.stat_get_tasks() RETURNS TABLE (task text, runs bigint, failures bigint, total_ms float8)
	LANGUAGE sql AS $$ SELECT 'trim', 7, 2, 3500 $$;
CREATE OR REPLACE FUNCTION ledger.evidence_status()
	RETURNS TABLE (active boolean, size int, used int, recorded bigint, stored bigint, dropped bigint, worker_pid int)
	LANGUAGE sql AS 'SELECT true, 64, 3, 8, 9, 10, 4711';
INSERT INTO ledger.worker_heartbeat (incarnation, pid, started_at, last_seen, starts, stored, expired, trimmed, errors)
	VALUES (1, 1, ledger.clock(), ledger.clock(), 5, 21, 22, 23, 4);
CREATE FUNCTION public.worker() RETURNS text LANGUAGE sql AS $$ SELECT regexp_replace(public.tile('Worker'), '\d+ (second|minute)s?', 'n \1s') $$;
SELECT public.worker();
INSERT INTO ledger.evidence_losses (kind, at, last_at) VALUES ('crash', now(), now()), ('crash', now(), now());
SELECT public.worker();
SELECT f FROM public.facts('worker') f WHERE f !~ '^(Last|Started)';
SELECT r FROM public.cells('worker', ARRAY['Task', 'Slices', 'Failures', 'Time, ms', 'Mean, ms']) r;
SELECT r FROM public.cells('operations', ARRAY['Operation', 'Calls', 'Posted', 'Replayed', 'Refused', 'Failed', 'p50', 'p95', 'p99']) r;
SELECT r FROM public.cells('operations', ARRAY['Operation', 'SQLSTATE', 'Kind', 'Count'], n => 2) r;
SELECT n FROM public.nodes('//h:section[@id="operations"]//h:title/text()') n;
SELECT r FROM public.cells('reads', ARRAY['What', 'Count', 'p50', 'p95', 'p99']) r;
SELECT f FROM public.facts('reads') f;
-- what nobody has to see to is not marked
CREATE OR REPLACE FUNCTION ledger.stat_get_shadow()
	RETURNS TABLE (matches bigint, mismatches bigint, pending bigint, mirror_ok bigint, mirror_failed bigint, bypasses bigint,
		proofs bigint, proofs_failed bigint, outside_writes bigint, reads_refused bigint, reset_at timestamptz)
	LANGUAGE sql AS 'SELECT 101, 0, 103, 104, 0, 0, 107, 0, 109, 110, now()';
SELECT f FROM public.facts('reads') f;
-- a worker that was not seen for two minutes, or only by another clock
UPDATE ledger.worker_heartbeat SET last_seen = ledger.clock() - interval '150 seconds';
SELECT public.worker();
UPDATE ledger.worker_heartbeat SET last_seen = ledger.clock() + interval '1 hour';
SELECT public.worker();
-- one that does not run is missed if the database is to have one, or needs one
CREATE OR REPLACE FUNCTION ledger.evidence_status()
	RETURNS TABLE (active boolean, size int, used int, recorded bigint, stored bigint, dropped bigint, worker_pid int)
	LANGUAGE sql AS 'SELECT false, 0, 0, 0, 0, 0, NULL::int';
SELECT public.worker();
UPDATE ledger.legacy_mappings SET detached_at = now();
SELECT public.worker();
CREATE OR REPLACE FUNCTION ledger.evidence_status()
	RETURNS TABLE (active boolean, size int, used int, recorded bigint, stored bigint, dropped bigint, worker_pid int)
	LANGUAGE sql AS 'SELECT true, 0, 0, 0, 0, 0, NULL::int';
SELECT public.worker();
ROLLBACK;
-- times and sums of what differs; who wrote last; runs of other scopes, and that failed
BEGIN;
UPDATE ledger.discrepancy_rows SET status = 'resolved', resolved_at = now() WHERE status = 'open';
INSERT INTO ledger.discrepancy_rows (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value, first_seen, last_seen)
	VALUES (1, :bob, 'buying_power', 'mismatch', 'run', 5, 0, '2020-01-02 00:00Z', '2020-01-05 00:00Z'),
		(1, :bob, 'pending_deposits', 'mismatch', 'run', 0, 3, '2020-01-03 00:00Z', '2020-01-04 00:00Z');
SELECT public.tile('Open discrepancies');
SELECT regexp_replace(r, '\s+', ' ', 'g') FROM public.cells('discrepancies', ARRAY['Cause', 'Open', 'Users', 'Sum of differences', 'First seen', 'Last seen']) r;
SELECT regexp_replace(r, '\s+', ' ', 'g') FROM public.cells('discrepancies', ARRAY['Column', 'First seen', 'Last seen'], n => 2) r;
SELECT regexp_replace(r, '\s+', ' ', 'g') FROM public.cells('alerts', ARRAY['Alert', 'Since']) r WHERE r ~ 'DiscrepancyOpen';
INSERT INTO ledger.legacy_writes (mapping_id, user_id, operation, kind, session_role, acting_role, application_name, deltas, at)
	SELECT 1, :alice, 'UPDATE', kind, 'somebody', 'somebody', 'x', '{}', at
	FROM (VALUES ('outside', '2020-01-02 00:00Z'::timestamptz), ('double_write', '2020-01-01 00:00Z'), ('mirror_side_effect', '2020-01-03 00:00Z')) AS w (kind, at);
SELECT regexp_replace(r, '\s+', ' ', 'g') FROM public.cells('writers', ARRAY['Role', 'Rows', 'Last seen', 'Kind']) r WHERE r ~ '^somebody';
INSERT INTO ledger.reconciliation_runs (scope, tolerance, status, started_at, finished_at, snapshot, last_transaction_id, requested_by, compared, discrepancies, ignored)
	SELECT scope, 0, status, ledger.clock() - at, ledger.clock() - at, pg_current_snapshot(), 0, 'a test', 40, n, 50
	FROM (VALUES ('full', 'finished', '3 hours'::interval, 31), ('full', 'failed', '2 hours', 32), ('full', 'cancelled', '2 hours', 33), ('sample', 'finished', '1 hour', 34))
		AS r (scope, status, at, n);
SELECT public.tile('Last full reconciliation');
SELECT r FROM public.cells('reconciliations', ARRAY['Scope', 'Result', 'Users compared', 'Differences', 'Ignored', 'By']) r WHERE r ~ 'a test$';
SELECT xpath('//div[h2 = "Gates open"]/@class', x), array_to_string(xpath('//div[h2 = "Gates open"]//text()', x), ' ')
FROM (VALUES (ARRAY[ROW('a', '', '', true, NULL, ''), ROW('b', '', '', true, NULL, ''), ROW('c', '', '', false, NULL, '')]::ledger.gate[]),
		(ARRAY[ROW('a', '', '', true, NULL, '')]::ledger.gate[])) AS g (gates), LATERAL xmlparse(DOCUMENT ledger.report_tiles(g.gates)) AS x;
ROLLBACK;
-- what is settled is not in suspense
BEGIN;
SELECT public.tile('In suspense');
SELECT ledger.settle_suspense(transaction_id, 'system_buffer_fiat', 'a test') > 0 AS settled FROM ledger.suspense_items WHERE remaining <> 0;
SELECT public.tile('In suspense');
SELECT count(*) FROM public.cells('suspense', ARRAY['Type']);
ROLLBACK;
-- a copy, or another clock, is told first
SELECT ledger.report_head() ~ 'a copy' AS copy, ledger.report_head() ~ 'test clock' AS clock;
SELECT ledger.set_test_clock('1 hour', 'a test');
SELECT ledger.report_head() ~ 'test clock' AS clock;
SELECT ledger.set_test_clock(NULL, 'a test');
BEGIN;
CREATE OR REPLACE FUNCTION ledger.is_copy() RETURNS boolean LANGUAGE sql STABLE AS 'SELECT true';
SELECT ledger.report_head() ~ 'a copy' AS copy;
SELECT alert, value FROM ledger.alerts WHERE firing AND alert = 'LedgerCopy';
SELECT value FROM ledger.metrics() WHERE metric = 'ledger_database_copy';
ROLLBACK;

-- the text of an error may tell of a user
INSERT INTO ledger.worker_heartbeat (incarnation, pid, started_at, last_seen, errors, last_error, last_error_at)
	VALUES (1, 1, now(), now(), 1, 'account 11 of user 4711', now());
CREATE VIEW public.told_error AS SELECT regexp_replace(f, '\d{4}-.*\d\d: ', '') FROM public.facts('worker', public.page()) f WHERE f LIKE 'Last error%';
GRANT SELECT ON public.told_error TO PUBLIC;
ALTER VIEW public.told_error SET (security_invoker = true);
SELECT * FROM public.told_error;
SET ROLE regress_ledger_report_only;
SELECT * FROM public.told_error;
RESET ROLE;

-- it writes nothing, and is the same whatever the session has set
BEGIN READ ONLY;
SET LOCAL timezone = 'Asia/Kathmandu';
SET LOCAL datestyle = 'German';
SET LOCAL search_path = public;
SET LOCAL xmlbinary = 'hex';
SELECT string_agg(n, ',' ORDER BY n) FROM public.nodes('//h:section/@id') n;
SELECT count(*) FROM public.nodes('//*[text()[contains(., ".11.") or contains(., "+05:45")]]');
COMMIT;
SET escape_string_warning = off;
SET standard_conforming_strings = off;
SELECT ledger.report_number(1234567.5);
RESET standard_conforming_strings;

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
DROP ROLE regress_ledger_report_operator, regress_ledger_report_only, regress_ledger_report_reader;
