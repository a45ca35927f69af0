--
-- Views with their columns in the contract's order, tables, sequences, types.
--
SELECT no_plan();

CREATE FUNCTION public.columns_of(relation regclass) RETURNS text
	LANGUAGE sql STABLE
AS $$
	SELECT string_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
	FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;

CREATE TABLE public.expected (name text PRIMARY KEY, columns text);
INSERT INTO public.expected VALUES
	('account_balances', 'account_id bigint, user_id uuid, account_type text, currency text, debits numeric, credits numeric, balance numeric, version bigint, status text'),
	('entries', 'transaction_id bigint, ordinal smallint, account_id bigint, user_id uuid, account_type text, direction text, amount numeric, currency text, balance_after numeric, created_at timestamp with time zone, effective_at timestamp with time zone'),
	('transactions', 'id bigint, type text, user_id uuid, reference_id uuid, reference_type text, description text, metadata jsonb, effective_at timestamp with time zone, created_at timestamp with time zone, posted_by text, reverses bigint, reversed_by bigint'),
	('reservations', 'id bigint, user_id uuid, order_id uuid, amount numeric, executed numeric, released numeric, remaining numeric, status text, expires_at timestamp with time zone, created_at timestamp with time zone'),
	('discrepancies', 'id bigint, user_id uuid, legacy_column text, ledger_value numeric, legacy_value numeric, difference numeric, cause text, source text, first_seen timestamp with time zone, last_seen timestamp with time zone, count bigint, outcome text, status text, resolved_at timestamp with time zone, note text'),
	('worker_status', 'database name, active boolean, running boolean, pid integer, started_at timestamp with time zone, last_seen timestamp with time zone, starts bigint, ring_size integer, ring_used integer, stored bigint, expired bigint, trimmed bigint, pending bigint, losses bigint, errors bigint, last_error text, last_error_at timestamp with time zone, copy boolean'),
	('stat_operations', 'operation text, calls bigint, posted bigint, replayed bigint, refused bigint, failed bigint, total_ms double precision, p50_ms double precision, p95_ms double precision, p99_ms double precision, latency bigint[]'),
	('stat_errors', 'operation text, sqlstate text, kind text, count bigint'),
	('stat_reads', 'source text, reads bigint, total_ms double precision, p50_ms double precision, p95_ms double precision, p99_ms double precision, latency bigint[]'),
	('stat_shadow', 'compares bigint, matches bigint, mismatches bigint, pending bigint, mirror_ok bigint, mirror_failed bigint, outside_writes bigint, bypasses bigint, proofs bigint, proofs_failed bigint, reads_refused bigint, lags bigint, lag_total_ms double precision, lag_p50_ms double precision, lag_p95_ms double precision, lag_p99_ms double precision, lag bigint[], reset_at timestamp with time zone'),
	('stat_accounts', 'account_id bigint, user_id uuid, account_type text, currency text, waits bigint'),
	('alerts', 'alert text, severity text, firing boolean, value double precision, threshold double precision, since timestamp with time zone, summary text'),
	('stat_worker', 'task text, runs bigint, failures bigint, total_ms double precision'),
	('reconciliation_progress', 'run_id bigint, scope text, status text, phase text, compared bigint, position uuid, remaining bigint, candidates bigint, elapsed interval, users_per_second numeric, pid integer, started_at timestamp with time zone, updated_at timestamp with time zone, note text'),
	('backfill_progress', 'run_id bigint, status text, phase text, pid integer, legacy regclass, seen bigint, total bigint, percent numeric, opened bigint, already bigint, findings bigint, waiting bigint, rate numeric, time_left interval, started_at timestamp with time zone, updated_at timestamp with time zone, finished_at timestamp with time zone, requested_by text, error text'),
	('legacy_writers', 'role text, application_name text, query_id bigint, statement text, count bigint, last_seen timestamp with time zone'),
	('suspense_items', 'transaction_id bigint, type text, user_id uuid, account_type text, currency text, amount numeric, remaining numeric, at timestamp with time zone, settled_by bigint');
SELECT has_view('ledger', e.name, format('view %s', e.name)) FROM public.expected e;
SELECT is(public.columns_of(('ledger.' || e.name)::regclass), e.columns, format('view %s: columns', e.name)) FROM public.expected e;

SELECT is(public.columns_of('ledger.posting'), 'debit_account bigint, credit_account bigint, amount numeric', 'type posting');
SELECT is(public.columns_of('ledger.transfer'), 'type text, debit_account bigint, credit_account bigint, amount numeric, idempotency_key text, user_id uuid, debit_type text, credit_type text, currency text, reference_id uuid, reference_type text, description text, metadata jsonb, effective_at timestamp with time zone', 'type transfer');
SELECT is(public.columns_of('ledger.inbox'), public.columns_of('ledger.transfer'), 'inbox has the columns of a transfer');
SELECT is(public.columns_of('ledger.inbox_results'), 'id bigint, batch xid8, item bigint, result text, transaction_id bigint, idempotency_key text, message text, created_at timestamp with time zone', 'inbox_results');

-- Tables: every one with a primary key, in the heap, saved by pg_dump.
CREATE VIEW public.tables AS
	SELECT c.oid, c.relname::text AS name, c.relam, c.relpersistence
	FROM pg_class c WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'p');
SELECT cmp_ok((SELECT count(*) FROM public.tables), '>=', 9::bigint, 'there are tables to look at');
SELECT has_table('ledger', n, format('table %s', n))
FROM unnest(ARRAY['currencies', 'account_types', 'accounts', 'account_stripes', 'journal', 'settings', 'reservation_rows', 'reservation_draws',
	'legacy_mappings', 'legacy_writes', 'reconciliation_runs', 'reconciliation_findings', 'reconciliation_users', 'ignore_rules', 'evidence_losses', 'evidence_pending', 'worker_heartbeat',
	'identity', 'test_clock_log', 'cut_over_rehearsals', 'retirements', 'roll_backs', 'read_timings', 'discrepancy_changes', 'write_samples', 'gate_states', 'broker_accounts', 'broker_positions',
	'backfill_runs', 'backfill_waiting', 'backfill_findings']) n;
SELECT is_empty($$SELECT t.name FROM public.tables t
	WHERE t.name <> 'inbox' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = t.oid AND i.indisprimary AND i.indisvalid)$$,
	'every table but the one that never has a row has a primary key');
SELECT is_empty($$SELECT t.name FROM public.tables t JOIN pg_am m ON m.oid = t.relam WHERE m.amname <> 'heap'$$,
	'every table is a heap');
SELECT is_empty($$SELECT t.name FROM public.tables t WHERE t.relpersistence <> 'p'$$,
	'every table is permanent');
SELECT is_empty($$SELECT c.oid::regclass FROM pg_class c
	WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'p', 'S')
	  AND c.oid <> ALL (SELECT unnest(e.extconfig) FROM pg_extension e WHERE e.extname = 'ledger')$$,
	'every table and sequence is saved by pg_dump');
SELECT is_empty($$SELECT a.attrelid::regclass, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
	WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
	  AND a.atttypid IN ('regproc'::regtype, 'regprocedure'::regtype, 'regoper'::regtype, 'regoperator'::regtype, 'regtype'::regtype,
						 'regrole'::regtype, 'regnamespace'::regtype, 'regconfig'::regtype, 'regdictionary'::regtype, 'oid'::regtype)$$,
	'no column holds an OID that pg_upgrade does not keep');
SELECT is_empty($$SELECT c.oid::regclass FROM pg_class c
	WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S', 'c')
	  AND NOT EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
					  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' AND e.extname = 'ledger')
	  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i')$$,
	'every relation in the schema belongs to the extension');

-- Sequences: ids in the order of the locks.
SELECT is_empty($$SELECT s.seqrelid::regclass FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid
	WHERE c.relnamespace = 'ledger'::regnamespace
	  AND (s.seqcache <> 1 OR s.seqincrement <> 1 OR s.seqcycle OR s.seqtypid <> 'bigint'::regtype)$$,
	'every sequence is bigint, CACHE 1, by 1, without a cycle');
SELECT has_sequence('ledger', 'transaction_id_seq', 'sequence of transactions');
SELECT has_sequence('ledger', 'account_id_seq', 'sequence of accounts');

-- Indexes that the contract's promises rest on.
SELECT index_is_unique('ledger', 'journal', 'journal_key', 'an idempotency key is there once');
SELECT index_is_unique('ledger', 'reservation_rows', 'reservation_rows_order', 'an order has one reservation');
SELECT col_is_pk('ledger', 'account_stripes', ARRAY['account_id', 'stripe'], 'a stripe is an account''s and has a number in it');
SELECT has_index('ledger', 'journal', 'journal_debit', ARRAY['debit_account_id', 'transaction_id', 'ordinal'], 'statements by debit account');
SELECT has_index('ledger', 'journal', 'journal_credit', ARRAY['credit_account_id', 'transaction_id', 'ordinal'], 'statements by credit account');
SELECT col_is_pk('ledger', 'journal', ARRAY['transaction_id', 'ordinal'], 'a posting is a transaction''s and has a place in it');

-- Comments.
SELECT is_empty($$SELECT c.oid::regclass FROM pg_class c
	WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'p', 'v')
	  AND COALESCE(obj_description(c.oid, 'pg_class'), '') = ''$$,
	'every table and view has a comment');
SELECT is_empty($$SELECT t.oid::regtype FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
	WHERE t.typnamespace = 'ledger'::regnamespace AND t.typelem = 0 AND COALESCE(c.relkind, 'c') = 'c'
	  AND COALESCE(obj_description(t.oid, 'pg_type'), '') = ''$$,
	'every type has a comment');
SELECT isnt(col_description(('ledger.' || v.relation)::regclass, a.attnum), NULL, format('comment on %s.%s', v.relation, a.attname))
FROM (VALUES
	('account_balances', ARRAY['balance', 'version', 'status']),
	('entries', ARRAY['ordinal', 'direction', 'balance_after', 'effective_at']),
	('transactions', ARRAY['posted_by', 'reverses', 'reversed_by', 'effective_at']),
	('reservations', ARRAY['id', 'remaining', 'status', 'expires_at']),
	('journal', ARRAY['key', 'xact', 'effective_at']),
	('accounts', ARRAY['min_balance', 'opened', 'stripes', 'version'])) AS v (relation, columns)
JOIN pg_attribute a ON a.attrelid = ('ledger.' || v.relation)::regclass AND a.attname = ANY (v.columns);

-- The journal is one row a posting with both legs: unbalanced is impossible.
SELECT col_not_null('ledger', 'journal', c, format('journal.%s NOT NULL', c))
FROM unnest(ARRAY['transaction_id', 'ordinal', 'debit_account_id', 'credit_account_id', 'amount', 'created_at']) c;

SELECT * FROM finish();
