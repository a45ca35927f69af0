/*
 * refuses.sql: for pgTAP files, after contract.sql: a call is refused with an
 * SQLSTATE, its detail and hint say what they should, no table has a row more
 * or less for it, and the oracle has nothing to say.
 */
CREATE FUNCTION public.refuses(call text, code text, description text, detail text = NULL, hint text = NULL) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	before CONSTANT text := public.counts();
	got record;
	problems text;
BEGIN
	SELECT * INTO got FROM public.outcome(call);
	problems := concat_ws(E'\n',
		CASE WHEN got.code <> refuses.code THEN format('code %s, wanted %s', got.code, refuses.code) END,
		CASE WHEN got.detail NOT LIKE refuses.detail THEN format('detail "%s", wanted "%s"', got.detail, refuses.detail) END,
		CASE WHEN got.hint NOT LIKE refuses.hint THEN format('hint "%s", wanted "%s"', got.hint, refuses.hint) END,
		CASE WHEN got.code <> '00000' AND (got.message ~ '^[A-Z]' AND got.message !~ '^[A-Z]{2,}' OR got.message LIKE '%.') THEN 'message begins with a capital or ends with a point' END,
		CASE WHEN got.code LIKE 'LG%' AND got.hint = '' THEN 'no hint' END,
		CASE WHEN got.code LIKE 'LG%' AND got.detail = '' THEN 'no detail' END,
		CASE WHEN before <> public.counts() THEN format('rows before %s, after %s', before, public.counts()) END,
		(SELECT string_agg(o, E'\n') FROM public.ledger_oracle() o));
	RETURN ok(problems = '', description)
		|| CASE WHEN problems = '' THEN '' ELSE E'\n' || diag(call || E'\n' || got::text || E'\n' || problems) END;
END
$$;
