/*
 * oracle.sql: recomputes the whole ledger and says what does not agree.
 *
 * public.ledger_oracle() returns one line for each violation, "rule: what is
 * wrong", and no line when all is right. It reads tables alone and uses nothing
 * of the extension's own checks, so that the two can be wrong independently.
 * Being STABLE it sees one snapshot, its caller's.
 *
 * Plain SQL for any client; run it as a superuser, in as many databases as
 * wanted and again after a change. oracle_selftest.sql breaks each rule.
 */
CREATE OR REPLACE FUNCTION public.ledger_oracle() RETURNS SETOF text
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $oracle$
DECLARE
	mapping record;
BEGIN
	/* Accounts: of a known type, with its owner and currency, and only once. */
	RETURN QUERY
	SELECT format('account_type: account %s of type %s, user %s, currency %s', a.id, a.account_type, a.user_id, a.currency)
	FROM ledger.accounts a LEFT JOIN ledger.account_types t ON t.name = a.account_type
	WHERE t.name IS NULL
	   OR (t.owner = 'user') <> (a.user_id IS NOT NULL)
	   OR a.currency <> COALESCE(t.currency, a.currency)
	   OR NOT EXISTS (SELECT FROM ledger.currencies c WHERE c.code = a.currency)
	ORDER BY a.id;

	RETURN QUERY
	SELECT format('account_twice: accounts %s', array_agg(a.id ORDER BY a.id))
	FROM ledger.accounts a GROUP BY a.user_id, a.account_type, a.currency, a.external_id HAVING count(*) > 1;

	/* Totals and versions of every account, from the journal. */
	RETURN QUERY
	WITH legs AS (
		SELECT j.debit_account_id AS account_id, j.transaction_id, j.amount AS debit, 0::numeric AS credit FROM ledger.journal j
		UNION ALL
		SELECT j.credit_account_id, j.transaction_id, 0, j.amount FROM ledger.journal j
	), totals AS (
		SELECT l.account_id, sum(l.debit) AS debits, sum(l.credit) AS credits, count(DISTINCT l.transaction_id) AS version
		FROM legs l GROUP BY l.account_id
	), accounts AS (
		SELECT a.id, a.debits + COALESCE(s.debits, 0) AS debits, a.credits + COALESCE(s.credits, 0) AS credits,
			   a.version + COALESCE(s.version, 0) AS version
		FROM ledger.accounts a
			 LEFT JOIN (SELECT r.account_id, sum(r.debits) AS debits, sum(r.credits) AS credits, sum(r.version) AS version
						FROM ledger.account_stripes r GROUP BY r.account_id) s ON s.account_id = a.id
	), compared AS (
		SELECT COALESCE(a.id, t.account_id) AS id, a.id IS NULL AS unknown, a.debits, a.credits, a.version,
			   COALESCE(t.debits, 0) AS journal_debits, COALESCE(t.credits, 0) AS journal_credits,
			   COALESCE(t.version, 0) AS journal_version
		FROM accounts a FULL JOIN totals t ON t.account_id = a.id
	)
	SELECT v.violation
	FROM compared c CROSS JOIN LATERAL (VALUES
		(c.unknown,
		 format('account_unknown: account %s is in the journal alone', c.id)),
		(c.debits <> c.journal_debits OR c.credits <> c.journal_credits,
		 format('account_totals: account %s has debits %s and credits %s, by the journal %s and %s',
				c.id, c.debits, c.credits, c.journal_debits, c.journal_credits)),
		(c.version <> c.journal_version,
		 format('account_version: account %s has version %s, by the journal %s', c.id, c.version, c.journal_version))
	) AS v (violated, violation)
	WHERE v.violated ORDER BY c.id, v.violation;

	/* Stripes: as many as the account says, from 0, and only without a limit. */
	RETURN QUERY
	SELECT format('stripes: account %s has %s, there are %s', COALESCE(a.id, s.account_id), a.stripes, COALESCE(s.n, 0))
	FROM ledger.accounts a
		 FULL JOIN (SELECT r.account_id, count(*) AS n, count(DISTINCT r.stripe) AS numbers, max(r.stripe) AS last
					FROM ledger.account_stripes r GROUP BY r.account_id) s
				   ON s.account_id = a.id
		 LEFT JOIN ledger.account_types t ON t.name = a.account_type
	WHERE a.id IS NULL OR a.stripes <> COALESCE(s.n, 0) OR s.numbers <> s.n OR s.last >= a.stripes
	   OR (a.stripes > 0 AND COALESCE(a.min_balance, t.min_balance) IS NOT NULL)
	ORDER BY 1;

	/* Each currency: debits = credits, and what is owned = what is owed. */
	RETURN QUERY
	SELECT format('currency_totals: %s has debits %s and credits %s', a.currency, sum(a.debits), sum(a.credits))
	FROM (SELECT n.currency, n.debits, n.credits FROM ledger.accounts n
		  UNION ALL
		  SELECT n.currency, s.debits, s.credits FROM ledger.account_stripes s JOIN ledger.accounts n ON n.id = s.account_id) a
	GROUP BY a.currency HAVING sum(a.debits) <> sum(a.credits) ORDER BY 1;

	RETURN QUERY
	SELECT format('currency_sides: %s has debit-normal balances of %s and credit-normal ones of %s', s.currency, s.owned, s.owed)
	FROM (SELECT a.currency,
				 COALESCE(sum(a.debits - a.credits) FILTER (WHERE t.normal_side = 'debit'), 0) AS owned,
				 COALESCE(sum(a.credits - a.debits) FILTER (WHERE t.normal_side = 'credit'), 0) AS owed
		  FROM (SELECT n.account_type, n.currency, n.debits, n.credits FROM ledger.accounts n
				UNION ALL
				SELECT n.account_type, n.currency, s.debits, s.credits
				FROM ledger.account_stripes s JOIN ledger.accounts n ON n.id = s.account_id) a
			   LEFT JOIN ledger.account_types t ON t.name = a.account_type
		  GROUP BY a.currency) s
	WHERE s.owned <> s.owed ORDER BY 1;

	/* No user owes. */
	RETURN QUERY
	SELECT format('user_balance: account %s (%s of user %s) is at %s', a.id, a.account_type, a.user_id, a.credits - a.debits)
	FROM ledger.accounts a
	WHERE a.user_id IS NOT NULL AND NOT (a.credits - a.debits >= 0 AND a.credits - a.debits < 'Infinity')
	ORDER BY a.id;

	/* Running balances: a chain for each account; the first break is told. */
	RETURN QUERY
	WITH legs AS (
		SELECT j.debit_account_id AS account_id, j.transaction_id, j.ordinal, j.amount AS debited, j.debit_balance_after AS balance_after
		FROM ledger.journal j
		UNION ALL
		SELECT j.credit_account_id, j.transaction_id, j.ordinal, -j.amount, j.credit_balance_after
		FROM ledger.journal j
	), chain AS (
		/* striped now, or when it was opened, or until somebody changed it; only the house's are */
		SELECT l.account_id, l.transaction_id, l.ordinal, l.balance_after,
			   t.owner = 'house' AND (a.stripes > 0 OR t.stripes > 0
									  OR a.id IN (SELECT g.account_id FROM ledger.account_status_log g)) AS may_be_unknown,
			   sum(CASE t.normal_side WHEN 'debit' THEN l.debited ELSE -l.debited END)
			   OVER (PARTITION BY l.account_id ORDER BY l.transaction_id, l.ordinal) AS expected
		FROM legs l
			 JOIN ledger.accounts a ON a.id = l.account_id
			 JOIN ledger.account_types t ON t.name = a.account_type
	), breaks AS (
		SELECT DISTINCT ON (c.account_id) c.* FROM chain c
		WHERE c.balance_after IS DISTINCT FROM c.expected
		  /* unknown on a striped account */
		  AND NOT (c.balance_after IS NULL AND c.may_be_unknown)
		ORDER BY c.account_id, c.transaction_id, c.ordinal
	)
	SELECT format('running_balance: account %s has %s after posting %s of transaction %s, by the journal %s',
				  b.account_id, COALESCE(b.balance_after::text, 'none'), b.ordinal, b.transaction_id, b.expected)
	FROM breaks b ORDER BY b.account_id;

	/* Postings: two accounts of one currency, an amount as amounts must be. */
	RETURN QUERY
	SELECT format('posting_currency: posting %s of transaction %s debits %s and credits %s', j.ordinal, j.transaction_id, d.currency, c.currency)
	FROM ledger.journal j
		 JOIN ledger.accounts d ON d.id = j.debit_account_id
		 JOIN ledger.accounts c ON c.id = j.credit_account_id
	WHERE d.currency <> c.currency OR d.id = c.id
	ORDER BY j.transaction_id, j.ordinal;

	RETURN QUERY
	SELECT format('amount: posting %s of transaction %s has the amount %s', j.ordinal, j.transaction_id, j.amount)
	FROM ledger.journal j
		 LEFT JOIN ledger.accounts d ON d.id = j.debit_account_id
		 LEFT JOIN ledger.currencies c ON c.code = d.currency
	WHERE NOT COALESCE(j.amount > 0 AND j.amount < 1e20, false)
	   OR min_scale(j.amount) > c.scale
	   OR (c.code IS NOT NULL AND scale(j.amount) <> greatest(min_scale(j.amount), c.display_digits))
	ORDER BY j.transaction_id, j.ordinal;

	/* Transactions: ordinals from 0 without a gap, one header, keys once. */
	RETURN QUERY
	SELECT format('ordinals: transaction %s has %s postings from %s to %s', j.transaction_id, count(*), min(j.ordinal), max(j.ordinal))
	FROM ledger.journal j GROUP BY j.transaction_id
	HAVING min(j.ordinal) <> 0 OR max(j.ordinal) <> count(*) - 1 OR count(DISTINCT j.ordinal) <> count(*)
	ORDER BY j.transaction_id;

	RETURN QUERY
	SELECT format('header: posting %s of transaction %s', j.ordinal, j.transaction_id)
	FROM ledger.journal j
	WHERE CASE WHEN j.ordinal = 0
			   THEN j.type IS NULL OR j.posted_by IS NULL OR j.xact IS NULL
			   ELSE num_nonnulls(j.type, j.user_id, j.reference_id, j.reference_type, j.key, j.description,
								 j.metadata, j.posted_by, j.reverses, j.xact) > 0 END
	ORDER BY j.transaction_id, j.ordinal;

	RETURN QUERY
	SELECT format('key_twice: key %s is that of transactions %s', j.key, array_agg(j.transaction_id ORDER BY j.transaction_id))
	FROM ledger.journal j WHERE j.key IS NOT NULL GROUP BY j.key HAVING count(*) > 1 ORDER BY 1;

	RETURN QUERY
	SELECT format('sequence: %s has ids up to %s, its sequence is at %s', s.name, s.used, s.last)
	FROM (SELECT 'journal' AS name, (SELECT max(j.transaction_id) FROM ledger.journal j) AS used,
				 (SELECT CASE WHEN q.is_called THEN q.last_value ELSE 0 END FROM ledger.transaction_id_seq q) AS last
		  UNION ALL
		  SELECT 'accounts', (SELECT max(a.id) FROM ledger.accounts a),
				 (SELECT CASE WHEN q.is_called THEN q.last_value ELSE 0 END FROM ledger.account_id_seq q)) s
	WHERE s.used > s.last ORDER BY 1;

	/*
	 * Reversals: of an earlier transaction that is no reversal, its postings
	 * the other way round, and in total never more than they were.
	 */
	RETURN QUERY
	SELECT format('reversal: transaction %s reverses %s', r.transaction_id, r.reverses)
	FROM ledger.journal r LEFT JOIN ledger.journal o ON o.transaction_id = r.reverses AND o.ordinal = 0
	WHERE r.reverses IS NOT NULL
	  AND (o.transaction_id IS NULL OR o.transaction_id >= r.transaction_id OR o.reverses IS NOT NULL)
	ORDER BY r.transaction_id;

	RETURN QUERY
	WITH undone AS (
		SELECT h.reverses AS transaction_id, r.credit_account_id AS debit_account_id, r.debit_account_id AS credit_account_id,
			   sum(r.amount) AS amount
		FROM ledger.journal h JOIN ledger.journal r ON r.transaction_id = h.transaction_id
		WHERE h.reverses IS NOT NULL
		GROUP BY 1, 2, 3
	), done AS (
		SELECT o.transaction_id, o.debit_account_id, o.credit_account_id, sum(o.amount) AS amount
		FROM ledger.journal o
		WHERE o.transaction_id IN (SELECT u.transaction_id FROM undone u)
		GROUP BY 1, 2, 3
	)
	SELECT format('reversal_amount: of transaction %s from account %s to account %s %s were posted and %s reversed',
				  u.transaction_id, u.debit_account_id, u.credit_account_id, COALESCE(d.amount, 0), u.amount)
	FROM undone u LEFT JOIN done d USING (transaction_id, debit_account_id, credit_account_id)
	WHERE NOT COALESCE(u.amount <= d.amount, false)
	ORDER BY u.transaction_id, u.debit_account_id;

	/* Reservations: rows and draws, and the money that they stand for. */
	RETURN QUERY
	SELECT format('reservation_draws: reservation %s has %s executed and %s released, by its draws %s and %s',
				  COALESCE(r.id, d.reservation_id), r.executed, r.released, COALESCE(d.executed, 0), COALESCE(d.released, 0))
	FROM ledger.reservation_rows r
		 FULL JOIN (SELECT w.reservation_id, sum(w.executed) AS executed, sum(w.released) AS released
					FROM ledger.reservation_draws w GROUP BY w.reservation_id) d ON d.reservation_id = r.id
	WHERE r.id IS NULL OR r.executed <> COALESCE(d.executed, 0) OR r.released <> COALESCE(d.released, 0)
	ORDER BY 1;

	RETURN QUERY
	SELECT format('reservation_range: reservation %s of %s has %s executed, %s released and is %s', r.id, r.amount, r.executed, r.released, r.status)
	FROM ledger.reservation_rows r
	WHERE NOT (r.amount > 0 AND r.executed >= 0 AND r.released >= 0 AND r.executed + r.released <= r.amount)
	   OR (r.status = 'active') <> (r.executed + r.released < r.amount)
	ORDER BY r.id;

	RETURN QUERY
	WITH moved AS (
		SELECT l.transaction_id, a.user_id, sum(l.amount) AS amount
		FROM (SELECT j.transaction_id, j.credit_account_id AS account_id, j.amount FROM ledger.journal j
			  UNION ALL
			  SELECT j.transaction_id, j.debit_account_id, -j.amount FROM ledger.journal j) l
			 JOIN ledger.accounts a ON a.id = l.account_id
		WHERE a.account_type = 'pending_investment'
		GROUP BY l.transaction_id, a.user_id
	), recorded AS (
		SELECT n.transaction_id, n.user_id, sum(n.amount) AS amount
		FROM (SELECT r.id AS transaction_id, r.user_id, r.amount FROM ledger.reservation_rows r
			  UNION ALL
			  SELECT w.transaction_id, r.user_id, -(w.executed + w.released)
			  FROM ledger.reservation_draws w JOIN ledger.reservation_rows r ON r.id = w.reservation_id) n
		GROUP BY n.transaction_id, n.user_id
	)
	SELECT format('reservation_movement: transaction %s moved %s on pending_investment of user %s, by the reservations %s',
				  transaction_id, COALESCE(m.amount, 0), user_id, COALESCE(n.amount, 0))
	FROM moved m FULL JOIN recorded n USING (transaction_id, user_id)
	WHERE COALESCE(m.amount, 0) <> COALESCE(n.amount, 0)
	ORDER BY transaction_id, user_id;

	RETURN QUERY
	SELECT format('reservation_balance: user %s has %s reserved and %s in pending_investment',
				  user_id, COALESCE(r.remaining, 0), COALESCE(a.balance, 0))
	FROM (SELECT w.user_id, sum(w.amount - w.executed - w.released) AS remaining
		  FROM ledger.reservation_rows w GROUP BY w.user_id) r
		 FULL JOIN (SELECT p.user_id, sum(p.credits - p.debits) AS balance
					FROM ledger.accounts p WHERE p.account_type = 'pending_investment' GROUP BY p.user_id) a USING (user_id)
	WHERE COALESCE(r.remaining, 0) <> COALESCE(a.balance, 0)
	ORDER BY user_id;

	/*
	 * Legacy = ledger, while the mirror writes: each mapped column of each
	 * user that is opened from that table; no row, and NULL, are zero.
	 */
	FOR mapping IN
		SELECT m.* FROM ledger.legacy_mappings m, ledger.settings s
		WHERE m.detached_at IS NULL AND (s.shadow_mode OR s.phase = 'cut_over')
		ORDER BY m.id
	LOOP
		IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = mapping.legacy) THEN
			RETURN NEXT format('legacy: table %s of mapping %s is not there', mapping.legacy, mapping.id);
			CONTINUE;
		END IF;
		RETURN QUERY EXECUTE format($query$
			WITH opened AS (
				SELECT a.user_id FROM ledger.accounts a
				WHERE a.user_id IS NOT NULL
				GROUP BY a.user_id HAVING bool_or((a.opened & (1 << (%3$s - 1))) <> 0)
			), mapped AS (
				SELECT o.user_id, c.*,
					   (SELECT COALESCE(sum(a.credits - a.debits), 0) FROM ledger.accounts a
						WHERE a.user_id = o.user_id AND a.account_type = ANY (c.accounts)) AS ledger_value
				FROM opened o CROSS JOIN ledger.legacy_columns c
				WHERE c.mapping_id = %3$s
			), legacy AS (
				SELECT %2$s AS user_id, to_jsonb(l) AS columns FROM %1$s l
			), sides AS (
				SELECT m.user_id, m.ordinal, m.legacy_column, m.ledger_value,
					   sum((l.columns ->> m.column_name)::numeric * m.unit) AS legacy_value
				FROM mapped m LEFT JOIN legacy l ON l.user_id = m.user_id
					AND NOT EXISTS (SELECT FROM jsonb_each_text(m.condition) w WHERE l.columns ->> w.key IS DISTINCT FROM w.value)
				GROUP BY m.user_id, m.ordinal, m.legacy_column, m.ledger_value
			)
			SELECT format('legacy: user %%s has %%s in %%s, the ledger has %%s', m.user_id,
						  COALESCE(m.legacy_value::text, 'nothing'), m.legacy_column, m.ledger_value)
			FROM sides m
			WHERE COALESCE(m.legacy_value, 0) IS DISTINCT FROM m.ledger_value
			ORDER BY m.user_id, m.ordinal $query$, mapping.legacy,
			CASE mapping.key_kind WHEN 'integer' THEN format('ledger.integer_to_uuid(l.%I)', mapping.key_column)
				WHEN 'functions' THEN format('%s(l.%I)', mapping.key_functions[1], mapping.key_column)
				ELSE format('l.%I::text::uuid', mapping.key_column) END, mapping.id);
	END LOOP;
END
$oracle$;
