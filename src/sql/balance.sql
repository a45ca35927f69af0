/*
 * balance.sql: reads and views.
 *
 * COST is what a read takes, in calls of a cheap function: so that the planner
 * filters, sorts and cuts before it reads balances.
 */

CREATE TYPE ledger.user_balance AS (user_id uuid, usdc_balance numeric, fiat_exposure numeric,
	pending_investment numeric, total_value numeric, source text);
COMMENT ON TYPE ledger.user_balance IS 'What get_user_balance() returns.';
CREATE TYPE ledger.full_balance AS (user_id uuid, usdc_balance numeric, buying_power numeric,
	pending_investment numeric, total_value numeric, currency text, breakdown jsonb, source text);
COMMENT ON TYPE ledger.full_balance IS 'What get_balance() returns.';

CREATE FUNCTION ledger.get_user_balance(user_id uuid) RETURNS ledger.user_balance
	AS 'MODULE_PATHNAME', 'ledger_get_user_balance'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED COST 500 SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.get_user_balance(uuid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.get_user_balance(uuid) IS
'A user''s usdc_balance, fiat_exposure, pending_investment and their sum, and where they were read (ledger or legacy). Errors: 22004, LG003.';

CREATE FUNCTION ledger.get_balance(user_id uuid) RETURNS ledger.full_balance
	AS 'MODULE_PATHNAME', 'ledger_get_balance'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED COST 700 SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.get_balance(uuid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.get_balance(uuid) IS
'An API''s answer: balances, their sum in USD, and breakdown {account_type: {currency, balance}} of all of the user''s accounts. Errors: 22004, LG003.';

CREATE FUNCTION ledger.get_account_balance(user_id uuid, account_type text) RETURNS numeric
	AS 'MODULE_PATHNAME', 'ledger_get_account_balance'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED COST 500 SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.get_account_balance(uuid, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.get_account_balance(uuid, text) IS
'The balance of one of a user''s accounts; user_id NULL: of the house''s account of that type. Errors: 22004, LG010, LG003.';

CREATE FUNCTION ledger.check_available_balance(user_id uuid, amount numeric, account_type text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'ledger_check_available_balance'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED COST 500 SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.check_available_balance(uuid, numeric, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.check_available_balance(uuid, numeric, text) IS
'Whether the account has at least the amount to spend, always from the ledger. Errors: 22004, LG010, LG009.';

CREATE FUNCTION ledger.find_transaction(idempotency_key text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_find_transaction'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL SAFE COST 300 SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.find_transaction(text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.find_transaction(text) IS
'The transaction that has the idempotency key, NULL if there is none: for a client that crashed before it saw the answer. Errors: 22004, 22023, 22001.';

/* The same number with no superfluous zeros, but at least so many digits. */
CREATE FUNCTION ledger.normalise(amount numeric, display_digits integer) RETURNS numeric
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SECURITY INVOKER
	RETURN pg_catalog.round(amount, GREATEST(pg_catalog.min_scale(amount), display_digits));
REVOKE ALL ON FUNCTION ledger.normalise(numeric, integer) FROM PUBLIC;
COMMENT ON FUNCTION ledger.normalise(numeric, integer) IS
'The amount with no superfluous zeros, but at least display_digits digits after the point.';

/*
 * A function and not a join, and of little cost: the planner would take a look
 * at stripes that hangs on each row for dear, though it is done for none but
 * the few that are striped.
 */
CREATE FUNCTION ledger.stripe_sum(account_id bigint, total text) RETURNS numeric
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE COST 1 SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF stripe_sum.total NOT IN ('debits', 'credits', 'version') THEN
		RAISE EXCEPTION 'unknown total "%"', stripe_sum.total
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass debits, credits or version.';
	END IF;
	RETURN (SELECT COALESCE(sum(CASE stripe_sum.total WHEN 'debits' THEN s.debits WHEN 'credits' THEN s.credits ELSE s.version END), 0)
			FROM ledger.account_stripes s WHERE s.account_id = stripe_sum.account_id);
END
$$;
REVOKE ALL ON FUNCTION ledger.stripe_sum(bigint, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.stripe_sum(bigint, text) IS
'The debits, credits or version that the stripes of an account hold, for the view account_balances. Error: 22023.';

CREATE VIEW ledger.account_totals AS
	SELECT a.id, a.user_id, a.account_type, a.currency, a.external_id, a.status, a.min_balance, a.opened, a.stripes,
		   CASE WHEN a.stripes = 0 THEN a.version ELSE a.version + ledger.stripe_sum(a.id, 'version')::bigint END AS version,
		   CASE WHEN a.stripes = 0 THEN a.debits ELSE a.debits + ledger.stripe_sum(a.id, 'debits') END AS debits,
		   CASE WHEN a.stripes = 0 THEN a.credits ELSE a.credits + ledger.stripe_sum(a.id, 'credits') END AS credits
	FROM ledger.accounts a;
COMMENT ON VIEW ledger.account_totals IS 'Internal: accounts with their whole totals; read account_balances.';

CREATE VIEW ledger.account_balances AS
	SELECT a.id AS account_id, a.user_id, a.account_type, a.currency,
		   ledger.normalise(a.debits, c.display_digits) AS debits,
		   ledger.normalise(a.credits, c.display_digits) AS credits,
		   ledger.normalise(CASE t.normal_side WHEN 'debit' THEN a.debits - a.credits
							ELSE a.credits - a.debits END, c.display_digits) AS balance,
		   a.version, a.status
	FROM ledger.account_totals a
	JOIN ledger.account_types t ON t.name = a.account_type
	JOIN ledger.currencies c ON c.code = a.currency;
COMMENT ON VIEW ledger.account_balances IS 'Every account with its totals and its balance, in the account''s normal direction.';
COMMENT ON COLUMN ledger.account_balances.balance IS 'Debit-normal: debits less credits; credit-normal: credits less debits.';
COMMENT ON COLUMN ledger.account_balances.version IS 'Transactions that have moved the account.';
COMMENT ON COLUMN ledger.account_balances.status IS 'open, frozen or closed; only an open one takes postings.';

CREATE VIEW ledger.entries AS
	SELECT e.transaction_id, e.ordinal, e.account_id, a.user_id, a.account_type, e.direction,
		   e.amount, a.currency, e.balance_after, e.created_at, e.effective_at
	FROM (SELECT j.transaction_id, j.ordinal, j.debit_account_id AS account_id,
				 'debit'::pg_catalog.text AS direction, j.amount,
				 j.debit_balance_after AS balance_after, j.created_at,
				 COALESCE(j.effective_at, j.created_at) AS effective_at
		  FROM ledger.journal j
		  UNION ALL
		  SELECT j.transaction_id, j.ordinal, j.credit_account_id,
				 'credit'::pg_catalog.text, j.amount,
				 j.credit_balance_after, j.created_at,
				 COALESCE(j.effective_at, j.created_at)
		  FROM ledger.journal j) e
	JOIN ledger.accounts a ON a.id = e.account_id;
COMMENT ON VIEW ledger.entries IS 'The journal as classic entries, two for each posting; balance_after is in the account''s normal direction.';
COMMENT ON COLUMN ledger.entries.ordinal IS 'The posting''s place in its transaction, from 0.';
COMMENT ON COLUMN ledger.entries.direction IS 'debit or credit.';
COMMENT ON COLUMN ledger.entries.balance_after IS 'The account''s balance after this posting, in its normal direction; NULL for striped accounts.';
COMMENT ON COLUMN ledger.entries.effective_at IS 'When the movement counts; created_at unless post() was told otherwise.';

CREATE VIEW ledger.transactions AS
	SELECT j.transaction_id AS id, j.type, j.user_id, j.reference_id,
		   CASE WHEN j.reference_id IS NOT NULL THEN COALESCE(j.reference_type, j.type) ELSE j.reference_type END AS reference_type,
		   j.description, j.metadata, COALESCE(j.effective_at, j.created_at) AS effective_at,
		   j.created_at, j.posted_by, j.reverses,
		   (SELECT max(r.transaction_id) FROM ledger.journal r
			WHERE r.reverses = j.transaction_id) AS reversed_by
	FROM ledger.journal j
	WHERE j.ordinal = 0;
COMMENT ON VIEW ledger.transactions IS 'One row for each transaction. Indexed by id alone; reversed_by is the newest reversal, whole or in part.';
COMMENT ON COLUMN ledger.transactions.effective_at IS 'When the movement counts; created_at unless post() was told otherwise.';
COMMENT ON COLUMN ledger.transactions.posted_by IS 'The role that posted.';
COMMENT ON COLUMN ledger.transactions.reverses IS 'The transaction that this one reverses, whole or in part.';
COMMENT ON COLUMN ledger.transactions.reversed_by IS 'The newest reversal of this transaction, whole or in part.';

CREATE VIEW ledger.reservations AS
	SELECT r.id, r.user_id, r.order_id, r.amount, r.executed, r.released,
		   ledger.normalise(r.amount - r.executed - r.released, 2) AS remaining,
		   r.status, r.expires_at, r.created_at
	FROM ledger.reservation_rows r;
COMMENT ON VIEW ledger.reservations IS 'Money set aside for orders: what was executed, released and is left.';
COMMENT ON COLUMN ledger.reservations.id IS 'The transaction that made the reservation.';
COMMENT ON COLUMN ledger.reservations.remaining IS 'amount - executed - released: what an execution or a release can still take.';
COMMENT ON COLUMN ledger.reservations.status IS 'active while something remains, else what took the last of it: executed, released or expired.';
COMMENT ON COLUMN ledger.reservations.expires_at IS 'From then on expire_reservations() releases what remains; NULL: never.';

CREATE FUNCTION ledger.user_history(user_id uuid, since timestamptz DEFAULT NULL,
	until timestamptz DEFAULT NULL, max_rows integer DEFAULT 100)
	RETURNS TABLE (at timestamptz, transaction_id bigint, type text, description text,
		reference_id uuid, account_type text, change numeric, balance_after numeric, posted_by text)
	LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE COST 1000 ROWS 100 SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	IF user_history.user_id IS NULL THEN
		RAISE EXCEPTION 'user_id must not be NULL'
			USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass a value for user_id.';
	END IF;
	IF user_history.max_rows IS NULL THEN
		RAISE EXCEPTION 'max_rows must not be NULL'
			USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass a value for max_rows.';
	END IF;
	IF user_history.max_rows < 1 THEN
		RAISE EXCEPTION 'max_rows must be above zero'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass a number above zero.';
	END IF;
	RETURN QUERY
	SELECT l.at, l.transaction_id, h.type, h.description, h.reference_id, l.account_type,
		   l.change, l.balance_after, h.posted_by
	FROM (
		/* up to max_rows of each account's two sides, newest first, then the newest of all */
		SELECT legs.*
		FROM ledger.accounts a
		JOIN ledger.account_types t ON t.name = a.account_type
		CROSS JOIN LATERAL (
			(SELECT j.created_at AS at, j.transaction_id, j.ordinal, a.account_type,
					CASE t.normal_side WHEN 'debit' THEN j.amount ELSE -j.amount END AS change,
					j.debit_balance_after AS balance_after
			 FROM ledger.journal j
			 WHERE j.debit_account_id = a.id
			   AND (user_history.since IS NULL OR j.created_at >= user_history.since)
			   AND (user_history.until IS NULL OR j.created_at < user_history.until)
			 ORDER BY j.transaction_id DESC, j.ordinal DESC
			 LIMIT user_history.max_rows)
			UNION ALL
			(SELECT j.created_at, j.transaction_id, j.ordinal, a.account_type,
					CASE t.normal_side WHEN 'credit' THEN j.amount ELSE -j.amount END,
					j.credit_balance_after
			 FROM ledger.journal j
			 WHERE j.credit_account_id = a.id
			   AND (user_history.since IS NULL OR j.created_at >= user_history.since)
			   AND (user_history.until IS NULL OR j.created_at < user_history.until)
			 ORDER BY j.transaction_id DESC, j.ordinal DESC
			 LIMIT user_history.max_rows)) legs
		WHERE a.user_id = user_history.user_id
		ORDER BY legs.transaction_id DESC, legs.ordinal DESC, legs.account_type
		LIMIT user_history.max_rows) l
	JOIN ledger.journal h ON h.transaction_id = l.transaction_id AND h.ordinal = 0
	ORDER BY l.transaction_id DESC, l.ordinal DESC, l.account_type;
END
$$;
REVOKE ALL ON FUNCTION ledger.user_history(uuid, timestamptz, timestamptz, integer) FROM PUBLIC;
COMMENT ON FUNCTION ledger.user_history(uuid, timestamptz, timestamptz, integer) IS
'A user''s movements, newest first, one row for each account moved; since is inclusive, until exclusive, change and balance_after in the account''s normal direction. Errors: 22004, 22023.';
