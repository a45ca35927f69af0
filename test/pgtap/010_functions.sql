--
-- The functions of the contract: names, arguments with their order, types and
-- defaults, results with their columns, volatility. And of all functions there
-- are: comments, rights, search paths.
--
SELECT no_plan();

CREATE TABLE public.expected (name text PRIMARY KEY, arguments text, result text, volatility text);
INSERT INTO public.expected VALUES
	-- operations
	('credit_user_usdc', 'user_id uuid, amount numeric, description text, reference_id uuid DEFAULT NULL::uuid, reference_type text DEFAULT NULL::text', 'bigint', 'volatile'),
	('debit_user_usdc', 'user_id uuid, amount numeric, description text, reference_id uuid DEFAULT NULL::uuid, reference_type text DEFAULT NULL::text', 'bigint', 'volatile'),
	('move_funds_to_fiat_exposure', 'user_id uuid, amount numeric, description text, reference_id uuid DEFAULT NULL::uuid', 'bigint', 'volatile'),
	('move_funds_to_usdc', 'user_id uuid, amount numeric, description text, reference_id uuid DEFAULT NULL::uuid', 'bigint', 'volatile'),
	('reserve_for_investment', 'user_id uuid, amount numeric, order_id uuid DEFAULT NULL::uuid, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone', 'bigint', 'volatile'),
	('release_reservation', 'user_id uuid, amount numeric DEFAULT NULL::numeric, order_id uuid DEFAULT NULL::uuid, release_id text DEFAULT NULL::text', 'bigint', 'volatile'),
	('execute_investment', 'user_id uuid, amount numeric, order_id uuid, fill_id text DEFAULT NULL::text', 'bigint', 'volatile'),
	('settle_sale', 'user_id uuid, cost numeric, proceeds numeric, order_id uuid, fill_id text DEFAULT NULL::text', 'bigint', 'volatile'),
	('convert_buffer', 'from_type text, to_type text, amount numeric, received numeric DEFAULT NULL::numeric, reference_id uuid DEFAULT NULL::uuid', 'bigint', 'volatile'),
	('fund_broker', 'amount numeric, reference_id uuid DEFAULT NULL::uuid', 'bigint', 'volatile'),
	('replenish_buffer', 'account_type text, amount numeric, reference_id uuid DEFAULT NULL::uuid', 'bigint', 'volatile'),
	('open_house_balance', 'account_type text, currency text, amount numeric, reason text', 'bigint', 'volatile'),
	('reverse_transaction', 'transaction_id bigint, reason text, amount numeric DEFAULT NULL::numeric, reference_id uuid DEFAULT NULL::uuid', 'bigint', 'volatile'),
	('post', 'type text, postings ledger.posting[], idempotency_key text DEFAULT NULL::text, user_id uuid DEFAULT NULL::uuid, reference_id uuid DEFAULT NULL::uuid, reference_type text DEFAULT NULL::text, description text DEFAULT NULL::text, metadata jsonb DEFAULT NULL::jsonb, effective_at timestamp with time zone DEFAULT NULL::timestamp with time zone', 'bigint', 'volatile'),
	('post_batch', 'transfers ledger.transfer[], on_error text DEFAULT ''stop''::text', 'SETOF item integer, result text, transaction_id bigint, message text', 'volatile'),
	('open_account', 'account_type text, user_id uuid DEFAULT NULL::uuid, currency text DEFAULT NULL::text', 'bigint', 'volatile'),
	('set_account_status', 'account_id bigint, status text, reason text', 'void', 'volatile'),
	('set_account_limit', 'account_id bigint, min_balance numeric, reason text', 'void', 'volatile'),
	('set_account_stripes', 'account_id bigint, stripes integer, reason text, lock_wait interval DEFAULT ''00:00:02''::interval', 'void', 'volatile'),
	('expire_reservations', 'max_count integer DEFAULT 1000', 'bigint', 'volatile'),
	('find_transaction', 'idempotency_key text', 'bigint', 'stable'),
	-- reads
	('get_user_balance', 'user_id uuid', 'user_id uuid, usdc_balance numeric, fiat_exposure numeric, pending_investment numeric, total_value numeric, source text', 'stable'),
	('get_balance', 'user_id uuid', 'user_id uuid, usdc_balance numeric, buying_power numeric, pending_investment numeric, total_value numeric, currency text, breakdown jsonb, source text', 'stable'),
	('get_detailed_balance', 'user_id uuid, alpaca_account_id text', 'user_id uuid, usdc_balance numeric, buying_power numeric, pending_investment numeric, total_value numeric, currency text, breakdown jsonb, source text, broker_equity numeric, broker_cash numeric, position_value numeric, invested_value numeric, total_portfolio_value numeric, positions jsonb, broker_as_of timestamp with time zone, broker_stale boolean', 'stable'),
	('get_account_balance', 'user_id uuid, account_type text', 'numeric', 'stable'),
	('check_available_balance', 'user_id uuid, amount numeric, account_type text', 'boolean', 'stable'),
	('user_history', 'user_id uuid, since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone, max_rows integer DEFAULT 100', 'SETOF at timestamp with time zone, transaction_id bigint, type text, description text, reference_id uuid, account_type text, change numeric, balance_after numeric, posted_by text', 'stable'),
	-- broker
	('record_broker_account', 'account jsonb, user_id uuid', 'boolean', 'volatile'),
	('record_broker_positions', 'account_id text, positions jsonb', 'boolean', 'volatile'),
	-- shadow mode
	('configure', 'shadow_mode boolean DEFAULT NULL::boolean, strict_mode boolean DEFAULT NULL::boolean, balance_source text DEFAULT NULL::text, reason text DEFAULT NULL::text, lock_wait interval DEFAULT ''00:00:02''::interval', 'shadow_mode boolean, strict_mode boolean, balance_source text, phase text', 'volatile'),
	('attach_legacy', 'legacy regclass DEFAULT (''public.balances''::text)::regclass, mapping jsonb DEFAULT NULL::jsonb, key_column name DEFAULT ''user_id''::name, capture text DEFAULT ''record''::text, key_functions text[] DEFAULT NULL::text[]', 'SETOF check_name text, passed boolean, detail text, hint text', 'volatile'),
	('legacy_preflight', 'legacy regclass DEFAULT (''public.balances''::text)::regclass, mapping jsonb DEFAULT NULL::jsonb, key_column name DEFAULT ''user_id''::name, capture text DEFAULT ''record''::text, key_functions text[] DEFAULT NULL::text[]', 'SETOF check_name text, passed boolean, detail text, hint text', 'volatile'),
	('detach_legacy', 'legacy regclass', 'void', 'volatile'),
	('integer_to_uuid', 'key bigint', 'uuid', 'immutable'),
	('uuid_to_integer', 'user_id uuid', 'bigint', 'immutable'),
	('settle_suspense', 'transaction_id bigint, account_type text, reason text', 'bigint', 'volatile'),
	('backfill', 'IN batch_size integer DEFAULT NULL::integer, INOUT run_id bigint DEFAULT NULL::bigint', 'run_id bigint', 'volatile'),
	('pause_backfill', 'run_id bigint DEFAULT NULL::bigint', 'bigint', 'volatile'),
	('cancel_backfill', 'run_id bigint DEFAULT NULL::bigint', 'bigint', 'volatile'),
	('configure_capture', 'legacy regclass, capture text, reason text', 'void', 'volatile'),
	('compare_balances', 'user_id uuid', 'SETOF legacy_column text, ledger_value numeric, legacy_value numeric, difference numeric, status text', 'stable'),
	('reconcile', 'tolerance numeric DEFAULT 0, scope text DEFAULT ''full''::text', 'SETOF user_id uuid, legacy_column text, ledger_value numeric, legacy_value numeric, difference numeric, status text', 'stable'),
	('run_reconciliation', 'IN scope text DEFAULT ''full''::text, IN tolerance numeric DEFAULT 0, INOUT run_id bigint DEFAULT NULL::bigint, INOUT discrepancies bigint DEFAULT NULL::bigint, IN from_user uuid DEFAULT NULL::uuid, IN to_user uuid DEFAULT NULL::uuid, IN fraction double precision DEFAULT NULL::double precision, IN max_users bigint DEFAULT NULL::bigint, IN seed bigint DEFAULT 0, IN tolerances jsonb DEFAULT NULL::jsonb, IN total_tolerances jsonb DEFAULT NULL::jsonb, IN chunk_users integer DEFAULT 500000', 'run_id bigint, discrepancies bigint', 'volatile'),
	('cancel_reconciliation', 'run_id bigint DEFAULT NULL::bigint', 'boolean', 'volatile'),
	('ignore_discrepancy', 'user_id uuid, legacy_column text, reason text, expires_at timestamp with time zone', 'bigint', 'volatile'),
	('unignore_discrepancy', 'rule_id bigint', 'boolean', 'volatile'),
	('reconciliation_csv', 'run_id bigint', 'SETOF text', 'stable'),
	('reconciliation_json', 'run_id bigint', 'jsonb', 'stable'),
	('repair', 'user_id uuid DEFAULT NULL::uuid, direction text DEFAULT ''legacy''::text, dry_run boolean DEFAULT true, max_rows bigint DEFAULT NULL::bigint, max_amount numeric DEFAULT NULL::numeric, reason text DEFAULT NULL::text', 'SETOF user_id uuid, legacy_column text, before numeric, after numeric, transaction_id bigint', 'volatile'),
	('undo_repair', 'repair_id bigint, reason text', 'bigint', 'volatile'),
	('explain_discrepancy', 'user_id uuid', 'SETOF legacy_column text, difference numeric, cause text, transaction_id bigint, at timestamp with time zone, detail text', 'stable'),
	('evidence_status', '', 'SETOF active boolean, size integer, used integer, recorded bigint, stored bigint, dropped bigint, worker_pid integer', 'volatile'),
	('stat_reset', '', 'void', 'volatile'),
	('metrics', '', 'SETOF metric text, type text, help text, labels jsonb, value double precision', 'volatile'),
	('metrics_histograms', 'metric_name text DEFAULT NULL::text', 'SETOF metric text, help text, labels jsonb, bounds numeric[], counts bigint[], sum double precision, count bigint', 'volatile'),
	('prometheus', '', 'text', 'volatile'),
	('read_latency', 'since timestamp with time zone, OUT ledger_p95_ms double precision, OUT legacy_p95_ms double precision, OUT reads bigint', 'ledger_p95_ms double precision, legacy_p95_ms double precision, reads bigint', 'stable'),
	('readiness', '', 'SETOF gate text, required text, observed text, passed boolean, since timestamp with time zone, hint text', 'stable'),
	('cut_over', 'IN dry_run boolean DEFAULT false, IN force boolean DEFAULT false, IN reason text DEFAULT NULL::text', 'void', 'volatile'),
	('roll_back', 'IN reason text, IN catch_up boolean DEFAULT true', 'void', 'volatile'),
	('retire_legacy', 'IN reason text', 'void', 'volatile'),
	('drop_legacy', 'legacy regclass, reason text', 'void', 'volatile'),
	('migration_status', '', 'SETOF state text, since timestamp with time zone, shadow_mode boolean, strict_mode boolean, balance_source text, phase text, next_step text, undo text', 'stable'),
	('resume', 'reason text', 'void', 'volatile'),
	('is_copy', '', 'boolean', 'stable'),
	('report_html', '', 'text', 'stable'),
	('set_test_clock', 'shift interval, reason text', 'void', 'volatile'),
	('clock', '', 'timestamp with time zone', 'volatile'),
	('verify', '', 'SETOF check_name text, passed boolean, detail text', 'stable'),
	-- access and guards
	('grant_access', 'role name, level text', 'void', 'volatile'),
	('revoke_access', 'role name', 'void', 'volatile'),
	('rearm', '', 'SETOF table_name text, trigger_name text, what text', 'volatile');

/* What a function returns, a row type by its columns. */
CREATE FUNCTION public.result_of(f oid) RETURNS text
	LANGUAGE sql STABLE
AS $$
	SELECT CASE WHEN p.proretset THEN 'SETOF ' ELSE '' END || COALESCE(
		(SELECT string_agg(format('%s %s', a.name, format_type(a.type, NULL)), ', ' ORDER BY a.place)
		 FROM unnest(p.proargnames, p.proallargtypes, p.proargmodes) WITH ORDINALITY AS a (name, type, mode, place)
		 WHERE a.mode IN ('o', 'b', 't')),
		(SELECT string_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
		 FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid
		 WHERE t.oid = p.prorettype AND a.attnum > 0 AND NOT a.attisdropped),
		format_type(p.prorettype, NULL))
	FROM pg_proc p WHERE p.oid = f
$$;

CREATE VIEW public.functions AS
	SELECT p.oid, p.proname::text AS name, pg_get_function_arguments(p.oid) AS arguments,
		   public.result_of(p.oid) AS result,
		   CASE p.provolatile WHEN 'v' THEN 'volatile' WHEN 's' THEN 'stable' ELSE 'immutable' END AS volatility,
		   l.lanname::text AS language, p.prosecdef, p.proisstrict, p.proparallel, p.prokind, p.proconfig, p.prosqlbody
	FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
	WHERE p.pronamespace = 'ledger'::regnamespace;

SELECT is((SELECT count(*) FROM public.functions f WHERE f.name = e.name), 1::bigint, format('%s: there is one', e.name))
FROM public.expected e;
SELECT is(f.arguments, e.arguments, format('%s: arguments', e.name))
FROM public.expected e JOIN public.functions f USING (name);
SELECT is(f.result, e.result, format('%s: result', e.name))
FROM public.expected e JOIN public.functions f USING (name);
SELECT is(f.volatility, e.volatility, format('%s: volatility', e.name))
FROM public.expected e JOIN public.functions f USING (name);

-- What moves money answers NULL arguments itself and stays out of parallel plans.
SELECT ok(NOT f.proisstrict, format('%s: is called with NULL', e.name))
FROM public.expected e JOIN public.functions f USING (name) WHERE e.name NOT IN ('integer_to_uuid', 'uuid_to_integer');
SELECT is(f.proparallel, CASE WHEN f.volatility = 'volatile' THEN 'u' ELSE f.proparallel END, format('%s: parallel unsafe', e.name))
FROM public.expected e JOIN public.functions f USING (name) WHERE e.volatility = 'volatile' AND e.name NOT IN ('clock', 'metrics', 'metrics_histograms', 'prometheus');

-- Of every function in the schema.
SELECT is_empty($$SELECT f.oid::regprocedure FROM public.functions f
	WHERE obj_description(f.oid, 'pg_proc') IS NULL OR obj_description(f.oid, 'pg_proc') = ''$$,
	'every function has a comment');
SELECT is_empty($$SELECT f.oid::regprocedure FROM public.functions f WHERE has_function_privilege('public', f.oid, 'EXECUTE')$$,
	'PUBLIC may execute no function');
SELECT is_empty($$SELECT f.oid::regprocedure FROM public.functions f
	JOIN pg_proc p USING (oid) CROSS JOIN LATERAL aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) a
	WHERE a.grantee <> p.proowner
	  AND NOT (a.grantee = 'pg_monitor'::regrole AND p.proname IN ('latency_bound', 'latency_percentile', 'stat_get_accounts',
		'stat_get_errors', 'stat_get_operations', 'stat_get_shadow', 'stat_get_tasks', 'stat_get_times',
		'metrics', 'prometheus', 'metrics_histograms', 'metrics_extension', 'metrics_operations', 'metrics_shadow', 'metrics_discrepancies',
		'metrics_gates', 'metrics_migration', 'metrics_worker', 'alert_states'))$$,
	'nobody but the owner may, until access is granted; pg_monitor what the statistics are made of');
SELECT is_empty($$SELECT f.oid::regprocedure FROM public.functions f
	WHERE f.prosecdef AND NOT COALESCE((SELECT bool_or(c ~ '^search_path=pg_catalog, *("pg_temp"|pg_temp)$') FROM unnest(f.proconfig) c), false)$$,
	'SECURITY DEFINER: search_path is pg_catalog, pg_temp');
SELECT isnt_empty($$SELECT FROM public.functions f WHERE f.prosecdef$$, 'there are SECURITY DEFINER functions to look at');
-- repair() leaves the path alone for the legacy table's own triggers (sql/altered)
SELECT set_eq($$SELECT f.oid::regprocedure::text FROM public.functions f
	WHERE f.language IN ('sql', 'plpgsql') AND f.prokind = 'f' AND f.prosqlbody IS NULL
	  AND NOT COALESCE((SELECT bool_or(c LIKE 'search_path=%pg_temp%') FROM unnest(f.proconfig) c), false)$$,
	ARRAY['ledger.repair(uuid,text,boolean,bigint,numeric,text)'],
	'functions in SQL and PL/pgSQL but repair(): search_path is pinned, or the body is parsed already');
SELECT is_empty($$SELECT f.oid::regprocedure FROM public.functions f
	WHERE f.language = 'c' AND f.prosecdef$$,
	'functions in C are SECURITY INVOKER');
SELECT is_empty($$SELECT f.oid::regprocedure FROM public.functions f
	WHERE NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
					  WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e' AND e.extname = 'ledger')$$,
	'every function in the schema belongs to the extension');
SELECT is_empty($$SELECT f.oid::regprocedure, n FROM public.functions f, unnest(string_to_array(f.arguments, ', ')) n
	WHERE f.prokind = 'f' AND f.result <> 'trigger' AND f.result <> 'event_trigger'
	  AND n ~ '^(uuid|numeric|text|bigint|integer|jsonb|regclass)( |$)'$$,
	'every argument has a name');

SELECT * FROM finish();
