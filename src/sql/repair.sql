/*
 * repair.sql: making one side agree with the other.
 */

CREATE TABLE ledger.repair_log (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	mapping_id smallint NOT NULL,
	user_id uuid NOT NULL,
	legacy_column text COLLATE "C" NOT NULL,
	direction text COLLATE "C" NOT NULL CHECK (direction IN ('legacy', 'ledger')),
	before numeric,
	after numeric,
	transaction_id bigint,
	reason text NOT NULL,
	repaired_by text NOT NULL,
	repaired_at timestamptz NOT NULL DEFAULT ledger.clock(),
	undoes bigint UNIQUE,
	resolved bigint[],
	last_transaction bigint DEFAULT pg_catalog.pg_sequence_last_value('ledger.transaction_id_seq'),
	last_write bigint DEFAULT pg_catalog.pg_sequence_last_value('ledger.legacy_writes_id_seq'),
	xact xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id()
) USING heap;
-- What a reconciliation has not seen is looked up by it.
CREATE INDEX repair_log_xact ON ledger.repair_log (xact);
COMMENT ON TABLE ledger.repair_log IS 'Every repair: which side of which user''s column was changed, from what to what, why and by whom.';
COMMENT ON COLUMN ledger.repair_log.undoes IS 'The row whose repair this one takes back; a repair is undone once.';
COMMENT ON COLUMN ledger.repair_log.resolved IS 'The rows of discrepancies that it resolved.';
COMMENT ON COLUMN ledger.repair_log.last_transaction IS 'The last transaction id taken by then. The user''s row was locked, so it tells which of his transactions came before.';
COMMENT ON COLUMN ledger.repair_log.last_write IS 'The last id in legacy_writes taken by then.';
SELECT pg_catalog.pg_extension_config_dump('ledger.repair_log', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.repair_log_id_seq', '');

CREATE FUNCTION ledger.repair_user(user_id uuid, direction text, dry_run boolean, max_amount numeric, reason text, max_rows bigint DEFAULT NULL)
	RETURNS TABLE (legacy_column text, before numeric, after numeric, transaction_id bigint)
	AS 'MODULE_PATHNAME', 'ledger_repair_user' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.repair_user(uuid, text, boolean, numeric, text, bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.repair_user(uuid, text, boolean, numeric, text, bigint) IS 'repair() of one user.';

CREATE TYPE ledger.repaired_column AS (user_id uuid, legacy_column text, before numeric, after numeric, transaction_id bigint);
COMMENT ON TYPE ledger.repaired_column IS 'What repair() returns: a legacy column before and after; transaction_id if the ledger was changed.';

/*
 * search_path is left alone: triggers of a legacy table that is repaired
 * expect the session's. So every name is qualified, operators too.
 */
CREATE FUNCTION ledger.repair(user_id uuid DEFAULT NULL, direction text DEFAULT 'legacy', dry_run boolean DEFAULT true,
	max_rows bigint DEFAULT NULL, max_amount numeric DEFAULT NULL, reason text DEFAULT NULL)
	RETURNS SETOF ledger.repaired_column
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
AS $$
#variable_conflict use_column
DECLARE
	one record;
	repaired ledger.repaired_column;
	done bigint := 0;
	failed bigint := 0;
	failure text;
BEGIN
	IF direction IS NULL OR dry_run IS NULL OR NOT (dry_run OR reason IS NOT NULL) THEN
		RAISE EXCEPTION '% must not be NULL', CASE WHEN direction IS NULL THEN 'direction'
				WHEN dry_run IS NULL THEN 'dry_run' ELSE 'reason' END
			USING ERRCODE = '22004', HINT = CASE WHEN direction IS NULL OR dry_run IS NULL
				THEN 'Leave it out for the default.' ELSE 'Say why; repair_log keeps it.' END;
	END IF;
	IF pg_catalog.octet_length(reason) OPERATOR(pg_catalog.>) 4096 THEN
		RAISE EXCEPTION 'reason is longer than 4096 bytes'
			USING ERRCODE = 'string_data_right_truncation', HINT = 'Shorten it, or keep the rest outside the ledger.';
	END IF;
	IF direction OPERATOR(pg_catalog.<>) ALL (ARRAY['legacy', 'ledger']) THEN
		RAISE EXCEPTION 'direction must be legacy or ledger'
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It names the side that is changed.';
	END IF;
	IF max_rows OPERATOR(pg_catalog.<) 0 OR max_amount OPERATOR(pg_catalog.<) 0
			OR max_amount OPERATOR(pg_catalog.=) 'NaN' THEN
		RAISE EXCEPTION 'max_rows and max_amount must not be below zero'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	FOR one IN
		SELECT r.user_id, pg_catalog.count(*) AS n FROM ledger.reconcile() r
			WHERE repair.user_id IS NULL GROUP BY r.user_id
		UNION ALL
		SELECT repair.user_id, pg_catalog.count(*) FROM ledger.compare_balances(repair.user_id) c
			WHERE repair.user_id IS NOT NULL AND c.status OPERATOR(pg_catalog.<>) 'match'
			HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 0
		ORDER BY 1
	LOOP
		EXIT WHEN done OPERATOR(pg_catalog.+) one.n OPERATOR(pg_catalog.>) max_rows;
		BEGIN
			FOR repaired IN
				SELECT one.user_id, u.legacy_column, u.before, u.after, u.transaction_id
				FROM ledger.repair_user(one.user_id, direction, dry_run, max_amount, reason, max_rows OPERATOR(pg_catalog.-) done) u
			LOOP
				done := done OPERATOR(pg_catalog.+) 1;
				RETURN NEXT repaired;
			END LOOP;
		EXCEPTION WHEN OTHERS THEN
			-- of all, one who cannot be repaired is told and passed over; what may go well at the next try is raised
			IF repair.user_id IS NOT NULL OR NOT (SQLSTATE OPERATOR(pg_catalog.=) '55000'
				OR (pg_catalog.left(SQLSTATE, 2) OPERATOR(pg_catalog.=) ANY (ARRAY['22', '23', '27', '42', '44', 'LG', 'P0'])
					AND SQLSTATE OPERATOR(pg_catalog.<>) '42501')) THEN
				RAISE;
			END IF;
			failed := failed OPERATOR(pg_catalog.+) 1;
			IF failed OPERATOR(pg_catalog.<=) 20 THEN
				GET STACKED DIAGNOSTICS failure = PG_EXCEPTION_DETAIL;
				RAISE WARNING 'user % was not repaired: %', one.user_id, SQLERRM
					USING ERRCODE = SQLSTATE, DETAIL = failure;
			END IF;
		END;
	END LOOP;
	IF failed OPERATOR(pg_catalog.>) 20 THEN
		RAISE WARNING '% users were not repaired', failed
			USING DETAIL = 'The first 20 are named above.', HINT = 'SELECT * FROM ledger.repair() shows who is left.';
	END IF;
END
$$;
REVOKE ALL ON FUNCTION ledger.repair(uuid, text, boolean, bigint, numeric, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.repair(uuid, text, boolean, bigint, numeric, text) IS 'Makes the side named by direction agree with the other, user by user under the row''s lock: legacy is set to the ledger''s values; the ledger is changed by postings against legacy_suspense alone. A user not opened yet is opened. Users beyond max_rows and columns that differ by more than max_amount are left alone; of all, who cannot be repaired is a WARNING.';

/*
 * Logs that a repair is undone; what it had resolved is open again, and if that
 * is nothing, the difference is a finding of its own.
 */
CREATE FUNCTION ledger.repair_undone(repair_id bigint, before numeric, after numeric, transaction_id bigint, reason text,
	caller text, differs boolean, ledger_value numeric, legacy_value numeric) RETURNS bigint
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	undone ledger.repair_log;
	logged bigint;
BEGIN
	SELECT * INTO STRICT undone FROM ledger.repair_log r WHERE r.id = repair_id;
	INSERT INTO ledger.repair_log AS l (mapping_id, user_id, legacy_column, direction, before, after, transaction_id, reason, repaired_by, undoes)
		VALUES (undone.mapping_id, undone.user_id, undone.legacy_column, undone.direction, repair_undone.before, repair_undone.after,
			repair_undone.transaction_id, repair_undone.reason, caller, undone.id)
		RETURNING l.id INTO logged;
	IF differs THEN
		UPDATE ledger.discrepancy_rows d
			SET status = 'open', resolved_at = NULL, last_seen = ledger.clock(),
				ledger_value = repair_undone.ledger_value, legacy_value = repair_undone.legacy_value,
				note = concat_ws('; ', d.note, 'repair undone: ' || repair_undone.reason)
			WHERE d.id = ANY (undone.resolved) AND d.status = 'resolved' AND NOT EXISTS (SELECT FROM ledger.discrepancy_rows o
				WHERE o.status = 'open' AND o.user_id = d.user_id AND o.mapping_id = d.mapping_id
					AND o.legacy_column = d.legacy_column AND o.cause = d.cause);
		IF NOT FOUND THEN
			INSERT INTO ledger.discrepancy_rows AS d (mapping_id, user_id, legacy_column, cause, source, ledger_value, legacy_value, note)
				VALUES (undone.mapping_id, undone.user_id, undone.legacy_column, 'mismatch', 'repair', repair_undone.ledger_value,
					repair_undone.legacy_value, 'repair undone: ' || repair_undone.reason)
				ON CONFLICT (user_id, mapping_id, legacy_column, cause) WHERE status = 'open'
				DO UPDATE SET count = d.count + 1, last_seen = ledger.clock(), ledger_value = EXCLUDED.ledger_value,
					legacy_value = EXCLUDED.legacy_value, note = EXCLUDED.note;
		END IF;
	END IF;
	RETURN logged;
END
$$;
REVOKE ALL ON FUNCTION ledger.repair_undone(bigint, numeric, numeric, bigint, text, text, boolean, numeric, numeric) FROM PUBLIC;
COMMENT ON FUNCTION ledger.repair_undone(bigint, numeric, numeric, bigint, text, text, boolean, numeric, numeric) IS 'Internal: logs that a repair is undone, and opens again what it had resolved.';

CREATE FUNCTION ledger.undo_repair(repair_id bigint, reason text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_undo_repair' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.undo_repair(bigint, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.undo_repair(bigint, text) IS 'Takes back a repair, by the id of its row in repair_log, under the user''s row lock: of the ledger by the reversal of its transaction, of the legacy row by the opposite change of the column. Neither is mirrored; the sides differ again. Returns the id of the row in repair_log that says so. Errors: 22004, 22001, 22023, LG011, and those of repair().';
