/*
 * capture.sql: what becomes of writes to legacy tables that are not ours.
 */

CREATE FUNCTION ledger.legacy_configure_capture(legacy regclass, capture text, reason text, caller text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	IF legacy_configure_capture.capture NOT IN ('record', 'post', 'refuse') THEN
		RAISE EXCEPTION 'invalid capture %', legacy_configure_capture.capture
			USING ERRCODE = 'invalid_parameter_value', HINT = 'Use record or refuse.';
	ELSIF legacy_configure_capture.capture = 'post' THEN
		RAISE EXCEPTION 'capture post is not supported'
			USING ERRCODE = 'feature_not_supported', HINT = 'Use capture record.';
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
COMMENT ON FUNCTION ledger.configure_capture(regclass, text, text) IS 'What is done with outside writes to an attached legacy table: record them, or refuse them (LG005).';
