/*
 * capture.sql: what becomes of writes to legacy tables that are not ours.
 */

CREATE FUNCTION ledger.capture_post() RETURNS trigger
	AS 'MODULE_PATHNAME', 'ledger_capture_post' LANGUAGE C;
REVOKE ALL ON FUNCTION ledger.capture_post() FROM PUBLIC;
COMMENT ON FUNCTION ledger.capture_post() IS 'Trigger on legacy_writes: posts what one statement of somebody else''s did to a user''s legacy row, with capture post.';

CREATE FUNCTION ledger.legacy_configure_capture(legacy regclass, capture text, reason text, caller text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	IF legacy_configure_capture.capture NOT IN ('record', 'post', 'refuse') THEN
		RAISE EXCEPTION 'invalid capture %', legacy_configure_capture.capture
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use record, post or refuse.';
	END IF;
	PERFORM ledger.legacy_lock(legacy, 5000);
	UPDATE ledger.legacy_mappings m SET capture = legacy_configure_capture.capture
		WHERE m.legacy = legacy_configure_capture.legacy AND m.detached_at IS NULL;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table % is not attached', legacy
			USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call attach_legacy() first.';
	END IF;
	INSERT INTO ledger.legacy_log (legacy, action, capture, reason, changed_by)
		VALUES (legacy::text, 'capture', capture, reason, caller);
END
$$;
REVOKE ALL ON FUNCTION ledger.legacy_configure_capture(regclass, text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.legacy_configure_capture(regclass, text, text, text) IS 'Internal: the work of configure_capture().';

CREATE FUNCTION ledger.configure_capture(legacy regclass, capture text, reason text) RETURNS void
	AS 'MODULE_PATHNAME', 'ledger_configure_capture' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.configure_capture(regclass, text, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.configure_capture(regclass, text, text) IS 'What is done with outside writes to an attached legacy table: record them, post them against legacy_suspense, or refuse them (LG005).';

/*
 * Items are found through the journal's indexes by account. What reverses an
 * item counts with it, and so does what reverses its settlement.
 */
CREATE VIEW ledger.suspense_items AS
	WITH moved AS (
		SELECT j.transaction_id, a.currency, j.amount, j.credit_account_id AS other_id
		FROM ledger.accounts a JOIN ledger.journal j ON j.debit_account_id OPERATOR(pg_catalog.=) a.id
		WHERE a.account_type OPERATOR(pg_catalog.=) 'legacy_suspense'
		UNION ALL
		SELECT j.transaction_id, a.currency, OPERATOR(pg_catalog.-) j.amount, j.debit_account_id
		FROM ledger.accounts a JOIN ledger.journal j ON j.credit_account_id OPERATOR(pg_catalog.=) a.id
		WHERE a.account_type OPERATOR(pg_catalog.=) 'legacy_suspense'
	), headed AS (
		SELECT m.transaction_id, m.currency, m.amount, m.other_id, h.type, h.user_id, h.created_at,
			COALESCE(r.type, h.type) OPERATOR(pg_catalog.=) 'suspense_settlement' AS settles,
			CASE WHEN COALESCE(r.type, h.type) OPERATOR(pg_catalog.=) 'suspense_settlement'
				THEN (COALESCE(r.metadata, h.metadata) OPERATOR(pg_catalog.->>) 'settles')::bigint
				ELSE COALESCE(h.reverses, h.transaction_id) END AS item_id
		FROM moved m
		JOIN ledger.journal h ON h.transaction_id OPERATOR(pg_catalog.=) m.transaction_id AND h.ordinal OPERATOR(pg_catalog.=) 0
		LEFT JOIN ledger.journal r ON r.transaction_id OPERATOR(pg_catalog.=) h.reverses AND r.ordinal OPERATOR(pg_catalog.=) 0
	), items AS (
		SELECT h.item_id, h.currency,
			pg_catalog.max(h.type) FILTER (WHERE h.transaction_id OPERATOR(pg_catalog.=) h.item_id) AS type,
			(pg_catalog.array_agg(h.user_id) FILTER (WHERE h.transaction_id OPERATOR(pg_catalog.=) h.item_id))[1] AS user_id,
			pg_catalog.string_agg(DISTINCT o.account_type, ', ' ORDER BY o.account_type)
				FILTER (WHERE h.transaction_id OPERATOR(pg_catalog.=) h.item_id) AS account_type,
			pg_catalog.max(h.created_at) FILTER (WHERE h.transaction_id OPERATOR(pg_catalog.=) h.item_id) AS at,
			COALESCE(pg_catalog.sum(h.amount) FILTER (WHERE NOT h.settles), 0) AS amount,
			pg_catalog.sum(h.amount) AS remaining,
			pg_catalog.max(h.transaction_id) FILTER (WHERE h.settles AND h.type OPERATOR(pg_catalog.=) 'suspense_settlement') AS settled_by
		FROM headed h JOIN ledger.accounts o ON o.id OPERATOR(pg_catalog.=) h.other_id
		GROUP BY h.item_id, h.currency
	)
	SELECT i.item_id AS transaction_id, i.type, i.user_id, i.account_type, i.currency,
		ledger.normalise(i.amount, c.display_digits) AS amount, ledger.normalise(i.remaining, c.display_digits) AS remaining, i.at,
		CASE WHEN i.remaining OPERATOR(pg_catalog.=) 0 THEN i.settled_by END AS settled_by
	FROM items i JOIN ledger.currencies c ON c.code OPERATOR(pg_catalog.=) i.currency
	WHERE i.type OPERATOR(pg_catalog.=) ANY (ARRAY['captured_write', 'repair'])
		AND (i.amount OPERATOR(pg_catalog.<>) 0 OR i.remaining OPERATOR(pg_catalog.<>) 0);
COMMENT ON VIEW ledger.suspense_items IS 'What captured writes and repairs of the ledger have left on legacy_suspense, for each currency: amount is what the user''s balance changed by, less what was reversed. Those with settled_by NULL are open: settle_suspense() moves what remains.';
COMMENT ON COLUMN ledger.suspense_items.remaining IS 'What is still on legacy_suspense; 0: settled.';

CREATE FUNCTION ledger.settle_suspense(transaction_id bigint, account_type text, reason text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_settle_suspense' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.settle_suspense(bigint, text, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.settle_suspense(bigint, text, text) IS 'Moves what a captured write or a repair of the ledger has left on legacy_suspense to a house account of the type, in the type''s currency if it has one, and returns the id of that transaction (type suspense_settlement); the same again returns the same id. Errors: 22004, 22001, 22023, LG010, 55000, LG002.';
