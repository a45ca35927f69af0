/*
 * verify.sql: the ledger against itself.
 *
 * Each function verify_* returns one row for each problem that it finds, with
 * the name of the check; verify() lists every check with what was found. All
 * run under the caller's one snapshot. docs/reference.md lists the checks.
 */

CREATE FUNCTION ledger.verify_accounts() RETURNS TABLE (check_name text, problem text)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH legs AS (
		SELECT j.debit_account_id AS account_id, j.transaction_id, j.amount AS debit, 0::numeric AS credit FROM ledger.journal j
		UNION ALL
		SELECT j.credit_account_id, j.transaction_id, 0, j.amount FROM ledger.journal j
	), totals AS (
		SELECT l.account_id, sum(l.debit) AS debits, sum(l.credit) AS credits, count(DISTINCT l.transaction_id) AS version
		FROM legs l GROUP BY l.account_id
	), accounts AS (
		SELECT a.*, t.owner, t.currency AS type_currency, t.normal_side, t.min_balance AS type_min_balance
		FROM ledger.account_totals a LEFT JOIN ledger.account_types t ON t.name = a.account_type
	)
	SELECT 'account_totals', format('account %s: debits %s, credits %s; by the journal %s and %s',
			a.id, a.debits, a.credits, COALESCE(t.debits, 0), COALESCE(t.credits, 0))
	FROM accounts a LEFT JOIN totals t ON t.account_id = a.id
	WHERE a.debits <> COALESCE(t.debits, 0) OR a.credits <> COALESCE(t.credits, 0)
	UNION ALL
	SELECT 'account_versions', format('account %s: version %s; transactions in the journal %s', a.id, a.version, COALESCE(t.version, 0))
	FROM accounts a LEFT JOIN totals t ON t.account_id = a.id
	WHERE a.version <> COALESCE(t.version, 0)
	UNION ALL
	SELECT 'account_types', format('account %s: type %s, user %s, currency %s', a.id, a.account_type, COALESCE(a.user_id::text, 'none'), a.currency)
	FROM accounts a
	WHERE a.owner IS NULL OR (a.owner = 'user') <> (a.user_id IS NOT NULL)
		OR a.currency <> COALESCE(a.type_currency, a.currency)
		OR NOT EXISTS (SELECT FROM ledger.currencies c WHERE c.code = a.currency)
	UNION ALL
	SELECT 'account_types', format('type %s: currency %s is not there', t.name, t.currency)
	FROM ledger.account_types t
	WHERE t.currency IS NOT NULL AND NOT EXISTS (SELECT FROM ledger.currencies c WHERE c.code = t.currency)
	UNION ALL
	SELECT 'account_identity', format('accounts %s are of one user, type and currency', string_agg(a.id::text, ', ' ORDER BY a.id))
	FROM accounts a GROUP BY a.user_id, a.account_type, a.currency, a.external_id HAVING count(*) > 1
	UNION ALL
	SELECT 'stripes', format('account %s: %s stripes, of which %s are there, up to %s; lowest balance %s', a.id, a.stripes, COALESCE(s.n, 0),
			COALESCE(s.last::text, 'none'), COALESCE(a.min_balance::text, a.type_min_balance::text, 'none'))
	FROM accounts a LEFT JOIN (SELECT s.account_id, count(*) AS n, max(s.stripe) AS last FROM ledger.account_stripes s GROUP BY s.account_id) s
		ON s.account_id = a.id
	WHERE COALESCE(s.n, 0) <> a.stripes OR s.last >= a.stripes OR (a.stripes > 0 AND COALESCE(a.min_balance, a.type_min_balance) IS NOT NULL)
	UNION ALL
	SELECT 'stripes', format('account %s has stripes and is not there', s.account_id)
	FROM ledger.account_stripes s WHERE NOT EXISTS (SELECT FROM ledger.accounts a WHERE a.id = s.account_id) GROUP BY s.account_id
	UNION ALL
	SELECT 'user_balances', format('account %s is at %s', a.id, a.credits - a.debits)
	FROM accounts a WHERE a.user_id IS NOT NULL AND NOT (a.credits - a.debits >= 0 AND a.credits - a.debits < 'Infinity')
	UNION ALL
	SELECT 'debits_equal_credits', format('%s: debits %s, credits %s', a.currency, sum(a.debits), sum(a.credits))
	FROM accounts a GROUP BY a.currency HAVING sum(a.debits) <> sum(a.credits)
	UNION ALL
	SELECT 'debits_equal_credits', format('%s: debit-normal balances %s, credit-normal balances %s', s.currency, s.owned, s.owed)
	FROM (SELECT a.currency, sum(CASE WHEN a.normal_side = 'debit' THEN a.debits - a.credits ELSE 0 END) AS owned,
			sum(CASE WHEN a.normal_side = 'credit' THEN a.credits - a.debits ELSE 0 END) AS owed
		FROM accounts a GROUP BY a.currency) s
	WHERE s.owned <> s.owed
	UNION ALL
	SELECT 'openings', format('account %s, user %s: opened is %s, not of a user or of no known mapping', a.id, COALESCE(a.user_id::text, 'none'), a.opened)
	FROM accounts a
	WHERE a.opened <> 0 AND (a.user_id IS NULL OR a.opened < 0 OR EXISTS (
		SELECT FROM generate_series(0, 30) AS b WHERE (a.opened >> b) & 1 = 1
			AND NOT EXISTS (SELECT FROM ledger.legacy_mappings m WHERE m.id = b + 1)))
$$;
REVOKE ALL ON FUNCTION ledger.verify_accounts() FROM PUBLIC;
COMMENT ON FUNCTION ledger.verify_accounts() IS 'Internal: problems of accounts, for verify().';

CREATE FUNCTION ledger.verify_journal() RETURNS TABLE (check_name text, problem text)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH legs AS (
		SELECT j.debit_account_id AS account_id, j.transaction_id, j.ordinal, j.amount AS debited, j.debit_balance_after AS balance_after
		FROM ledger.journal j
		UNION ALL
		SELECT j.credit_account_id, j.transaction_id, j.ordinal, - j.amount, j.credit_balance_after FROM ledger.journal j
	), chain AS (
		/* striped now, or when it was opened, or until somebody changed it */
		SELECT l.account_id, l.transaction_id, l.ordinal, l.balance_after, a.stripes > 0 OR t.stripes > 0
				OR a.id IN (SELECT g.account_id FROM ledger.account_status_log g) AS may_be_striped, t.owner,
			sum(CASE t.normal_side WHEN 'debit' THEN l.debited ELSE - l.debited END)
				OVER (PARTITION BY l.account_id ORDER BY l.transaction_id, l.ordinal) AS expected
		FROM legs l JOIN ledger.accounts a ON a.id = l.account_id JOIN ledger.account_types t ON t.name = a.account_type
	), breaks AS (
		SELECT DISTINCT ON (c.account_id) c.* FROM chain c
		/* a posting to a striped account, which only the house has, has none */
		WHERE c.balance_after IS DISTINCT FROM c.expected AND NOT (c.balance_after IS NULL AND c.may_be_striped AND c.owner = 'house')
		ORDER BY c.account_id, c.transaction_id, c.ordinal
	)
	SELECT 'running_balances', format('account %s, transaction %s, posting %s: balance after is %s; by the postings %s',
			b.account_id, b.transaction_id, b.ordinal, COALESCE(b.balance_after::text, 'NULL'), b.expected)
	FROM breaks b
	UNION ALL
	SELECT 'posting_accounts', format('transaction %s, posting %s: debits account %s in %s, credits account %s in %s',
			j.transaction_id, j.ordinal, j.debit_account_id, COALESCE(d.currency, 'none'), j.credit_account_id, COALESCE(c.currency, 'none'))
	FROM ledger.journal j
	LEFT JOIN ledger.accounts d ON d.id = j.debit_account_id
	LEFT JOIN ledger.accounts c ON c.id = j.credit_account_id
	WHERE d.currency IS DISTINCT FROM c.currency OR d.id IS NULL OR d.id = c.id
	UNION ALL
	SELECT 'posting_amounts', format('transaction %s, posting %s: amount %s', j.transaction_id, j.ordinal, j.amount)
	FROM ledger.journal j
	LEFT JOIN ledger.accounts a ON a.id = j.debit_account_id
	LEFT JOIN ledger.currencies c ON c.code = a.currency
	WHERE NOT COALESCE(j.amount > 0 AND j.amount < 1e20, false) OR min_scale(j.amount) > COALESCE(c.scale, 0)
	UNION ALL
	SELECT 'transactions', format('transaction %s: %s postings from %s to %s', j.transaction_id, count(*), min(j.ordinal), max(j.ordinal))
	FROM ledger.journal j GROUP BY j.transaction_id
	HAVING min(j.ordinal) <> 0 OR max(j.ordinal) <> count(*) - 1 OR count(DISTINCT j.ordinal) <> count(*)
	UNION ALL
	SELECT 'transactions', format('transaction %s, posting %s: the header is not on the first posting alone', j.transaction_id, j.ordinal)
	FROM ledger.journal j
	WHERE CASE WHEN j.ordinal = 0 THEN j.type IS NULL OR j.posted_by IS NULL OR j.xact IS NULL
		ELSE num_nonnulls(j.type, j.user_id, j.reference_id, j.reference_type, j.key, j.description, j.metadata,
			j.posted_by, j.reverses, j.xact) > 0 END
	UNION ALL
	SELECT 'keys', format('key %s is that of transactions %s', j.key, string_agg(j.transaction_id::text, ', ' ORDER BY j.transaction_id))
	FROM ledger.journal j WHERE j.key IS NOT NULL GROUP BY j.key HAVING count(*) > 1
	UNION ALL
	SELECT 'reversals', format('transaction %s is reversed by %s, of %s', r.reverses, r.reversed, COALESCE(o.amount::text, 'nothing'))
	FROM (SELECT j.reverses, sum(j.amount) AS reversed FROM ledger.journal j WHERE j.reverses IS NOT NULL GROUP BY j.reverses) r
	LEFT JOIN ledger.journal o ON o.transaction_id = r.reverses AND o.ordinal = 0
	WHERE o.transaction_id IS NULL OR r.reversed > o.amount
$$;
REVOKE ALL ON FUNCTION ledger.verify_journal() FROM PUBLIC;
COMMENT ON FUNCTION ledger.verify_journal() IS 'Internal: problems of the journal, for verify().';

CREATE FUNCTION ledger.verify_reservations() RETURNS TABLE (check_name text, problem text)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'reservations', format('user %s: %s set aside; open reservations %s', COALESCE(a.user_id, r.user_id), COALESCE(a.balance, 0), COALESCE(r.remaining, 0))
	FROM (SELECT a.user_id, sum(a.credits - a.debits) AS balance FROM ledger.accounts a
		WHERE a.account_type = 'pending_investment' GROUP BY a.user_id) a
	FULL JOIN (SELECT r.user_id, sum(r.amount - r.executed - r.released) AS remaining FROM ledger.reservation_rows r GROUP BY r.user_id) r
		ON r.user_id = a.user_id
	WHERE COALESCE(a.balance, 0) <> COALESCE(r.remaining, 0)
	UNION ALL
	SELECT 'reservations', format('reservation %s: its transaction is not there', r.id)
	FROM ledger.reservation_rows r
	WHERE NOT EXISTS (SELECT FROM ledger.journal j WHERE j.transaction_id = r.id AND j.ordinal = 0 AND j.user_id = r.user_id)
	UNION ALL
	SELECT 'reservation_draws', format('reservation %s: executed %s, released %s; drawn %s and %s',
			COALESCE(r.id, d.reservation_id), r.executed, r.released, COALESCE(d.executed, 0), COALESCE(d.released, 0))
	FROM ledger.reservation_rows r
	FULL JOIN (SELECT d.reservation_id, sum(d.executed) AS executed, sum(d.released) AS released
		FROM ledger.reservation_draws d GROUP BY d.reservation_id) d ON d.reservation_id = r.id
	WHERE r.executed IS DISTINCT FROM COALESCE(d.executed, 0) OR r.released IS DISTINCT FROM COALESCE(d.released, 0)
$$;
REVOKE ALL ON FUNCTION ledger.verify_reservations() FROM PUBLIC;
COMMENT ON FUNCTION ledger.verify_reservations() IS 'Internal: problems of reservations, for verify().';

CREATE FUNCTION ledger.verify_catalog() RETURNS TABLE (check_name text, problem text)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $$
	WITH tables AS (
		SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'ledger' AND c.relkind = 'r'
	)
	SELECT 'own_triggers', CASE WHEN d.table_name IS NULL THEN format('event trigger %s is %s', d.trigger_name, d.what)
		ELSE format('trigger %s on %s is %s', d.trigger_name, d.table_name, d.what) END
	FROM ledger.disarmed() d WHERE d.table_name IS NULL OR starts_with(d.table_name, 'ledger.')
	UNION ALL
	SELECT 'foreign_triggers', format('trigger %s on ledger.%s does not fire for postings', g.tgname, t.relname)
	FROM pg_trigger g JOIN tables t ON t.oid = g.tgrelid
	WHERE NOT g.tgisinternal
		AND (format('ledger.%I', t.relname), g.tgname::text) NOT IN (SELECT e.table_name, e.trigger_name FROM ledger.guards() e)
	UNION ALL
	SELECT 'tables', format('ledger.%s is %s', t.relname, w.what)
	FROM tables t CROSS JOIN LATERAL (VALUES
		(t.relpersistence <> 'p', 'not permanent'),
		(t.relrowsecurity, 'under row security'),
		(t.relhasrules, 'under rules'),
		(EXISTS (SELECT FROM pg_inherits i WHERE t.oid IN (i.inhrelid, i.inhparent)), 'part of an inheritance')) AS w (so, what)
	WHERE w.so
	UNION ALL
	SELECT 'indexes', format('index %s of ledger.%s is not valid', i.indexrelid::regclass, t.relname)
	FROM pg_index i JOIN tables t ON t.oid = i.indrelid
	WHERE NOT (i.indisvalid AND i.indisready AND i.indislive)
	UNION ALL
	SELECT 'indexes', format('unique index %s is missing', e.name)
	FROM (VALUES ('journal_pkey'), ('journal_key'), ('accounts_pkey'), ('accounts_identity'), ('account_stripes_pkey'),
		('reservation_rows_pkey'), ('reservation_rows_order'), ('discrepancy_rows_open')) AS e (name)
	WHERE NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_index i ON i.indexrelid = c.oid
		WHERE n.nspname = 'ledger' AND c.relname = e.name AND i.indisunique)
	UNION ALL
	SELECT 'sequences', format('sequence ledger.%s: cache %s, increment %s%s', s.sequencename, s.cache_size, s.increment_by,
			CASE WHEN s.cycle THEN ', cycles' ELSE '' END)
	FROM pg_sequences s
	WHERE s.schemaname = 'ledger' AND s.sequencename IN ('transaction_id_seq', 'account_id_seq')
		AND (s.cache_size <> 1 OR s.increment_by <> 1 OR s.cycle)
	UNION ALL
	SELECT 'sequences', format('sequence ledger.%s is at %s, ids go up to %s', u.name, u.at, u.used)
	FROM (SELECT 'transaction_id_seq' AS name, (SELECT max(j.transaction_id) FROM ledger.journal j) AS used,
			(SELECT CASE WHEN q.is_called THEN q.last_value ELSE 0 END FROM ledger.transaction_id_seq q) AS at
		UNION ALL
		SELECT 'account_id_seq', (SELECT max(a.id) FROM ledger.accounts a),
			(SELECT CASE WHEN q.is_called THEN q.last_value ELSE 0 END FROM ledger.account_id_seq q)
		UNION ALL
		SELECT 'legacy_log_id_seq', (SELECT max(l.id) FROM ledger.legacy_log l),
			(SELECT CASE WHEN q.is_called THEN q.last_value ELSE 0 END FROM ledger.legacy_log_id_seq q)) u
	WHERE u.used > u.at
	UNION ALL
	SELECT 'settings', format('there are %s rows of settings', count(*)) FROM ledger.settings HAVING count(*) > 1
	UNION ALL
	SELECT 'settings', format('phase %s with shadow %s, strict %s, source %s', s.phase, s.shadow_mode, s.strict_mode, s.balance_source)
	FROM ledger.settings s
	WHERE s.phase <> 'migrating' AND (s.shadow_mode OR NOT s.strict_mode OR s.balance_source <> 'ledger')
$$;
REVOKE ALL ON FUNCTION ledger.verify_catalog() FROM PUBLIC;
COMMENT ON FUNCTION ledger.verify_catalog() IS 'Internal: problems of tables, triggers, indexes, sequences and settings, for verify().';

CREATE FUNCTION ledger.verify_legacy() RETURNS TABLE (check_name text, problem text)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH attached AS (
		SELECT m.*, c.oid AS relation FROM ledger.legacy_mappings m LEFT JOIN pg_class c ON c.oid = m.legacy
		WHERE m.detached_at IS NULL
	)
	SELECT 'legacy_tables', format('legacy table %s does not exist', a.legacy::oid) FROM attached a WHERE a.relation IS NULL
	UNION ALL
	SELECT 'legacy_tables', format('legacy table %s: %s', a.legacy, t.detail)
	FROM attached a CROSS JOIN LATERAL ledger.legacy_check_table(a.legacy) t
	WHERE a.relation IS NOT NULL AND NOT t.passed
	UNION ALL
	SELECT 'legacy_tables', format('legacy table %s: %s', a.legacy, t.detail)
	FROM attached a
	CROSS JOIN LATERAL ledger.legacy_check_columns(a.legacy, ledger.legacy_stored_mapping(a.id), a.key_column::name, a.key_functions) t
	WHERE a.relation IS NOT NULL AND NOT t.passed
	UNION ALL
	SELECT 'legacy_tables', format('legacy table %s: column %s is not of the type that it was', a.legacy, a.key_column)
	FROM attached a
	WHERE a.relation IS NOT NULL AND a.key_kind <> ledger.legacy_key_kind(a.legacy, a.key_column::name, a.key_functions)
	UNION ALL
	SELECT 'capture_triggers', format('trigger %s on %s is %s', d.trigger_name, d.table_name, d.what)
	FROM ledger.disarmed() d WHERE NOT starts_with(d.table_name, 'ledger.')
$$;
REVOKE ALL ON FUNCTION ledger.verify_legacy() FROM PUBLIC;
COMMENT ON FUNCTION ledger.verify_legacy() IS 'Internal: problems of attached legacy tables, for verify().';

CREATE FUNCTION ledger.verify() RETURNS TABLE (check_name text, passed boolean, detail text)
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	WITH found AS (
		SELECT * FROM ledger.verify_accounts()
		UNION ALL SELECT * FROM ledger.verify_journal()
		UNION ALL SELECT * FROM ledger.verify_reservations()
		UNION ALL SELECT * FROM ledger.verify_catalog()
		UNION ALL SELECT * FROM ledger.verify_legacy()
	), numbered AS (
		SELECT f.*, row_number() OVER (PARTITION BY f.check_name ORDER BY f.problem) AS n FROM found f
	), checks AS (
		SELECT * FROM unnest(ARRAY['account_totals', 'account_versions', 'account_types', 'account_identity',
			'stripes', 'user_balances', 'debits_equal_credits', 'openings', 'running_balances', 'posting_accounts',
			'posting_amounts', 'transactions', 'keys', 'reversals', 'reservations', 'reservation_draws',
			'own_triggers', 'foreign_triggers', 'tables', 'indexes', 'sequences', 'settings',
			'legacy_tables', 'capture_triggers']) WITH ORDINALITY AS c (name, ordinal)
	)
	SELECT c.name, count(n.problem) = 0,
		CASE WHEN count(n.problem) = 0 THEN 'ok'
			ELSE string_agg(n.problem, '; ' ORDER BY n.n) FILTER (WHERE n.n <= 3)
				|| CASE WHEN count(n.problem) > 3 THEN format('; and %s more', count(n.problem) - 3) ELSE '' END END
	FROM checks c LEFT JOIN numbered n ON n.check_name = c.name
	GROUP BY c.name, c.ordinal ORDER BY c.ordinal
$$;
REVOKE ALL ON FUNCTION ledger.verify() FROM PUBLIC;
COMMENT ON FUNCTION ledger.verify() IS 'The ledger against itself: each check, whether it passed, and what it found. Reads every posting.';
