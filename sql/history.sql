--
-- History: statements of an account, a customer's history, balances at a
-- time; and the plans that keep them cheap however long the journal is.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database ledger_history
\set fresh :srcdir '/test/lib/fresh.sql'
\set done :srcdir '/test/lib/done.sql'
\i :fresh
\set ECHO all
-- Alice moves a lot, bob a little, and so do 200 others.
SELECT count(ledger.credit_user_usdc(u, 1000, 'deposit')) FROM unnest(ARRAY[:alice, :bob]::uuid[]) u;
SELECT count(ledger.credit_user_usdc(:alice, n, 'deposit ' || n)), count(ledger.debit_user_usdc(:alice, n / 2.0, 'withdrawal ' || n))
FROM generate_series(1, 500) n;
SELECT count(ledger.credit_user_usdc(public.id('user ' || u), 1, 'deposit')), count(ledger.debit_user_usdc(public.id('user ' || u), 0.5, 'withdrawal'))
FROM generate_series(1, 10) n, generate_series(1, 200) u;
SELECT count(ledger.credit_user_usdc(:bob, 1, 'deposit')), count(ledger.move_funds_to_fiat_exposure(:bob, 0.01, 'drop')) FROM generate_series(1, 10);
ANALYZE ledger.journal;
ANALYZE ledger.accounts;
SELECT ledger.open_account('usdc_balance', :alice) AS alices, ledger.open_account('usdc_balance', :bob) AS bobs \gset

-- A page of a statement, newest first: both indexes, merged, no sort of the whole.
EXPLAIN (COSTS OFF)
SELECT e.transaction_id, e.direction, e.amount, e.balance_after FROM ledger.entries e
WHERE e.account_id = :bobs ORDER BY e.transaction_id DESC, e.ordinal DESC LIMIT 5;
SELECT e.transaction_id, e.direction, e.amount, e.balance_after FROM ledger.entries e
WHERE e.account_id = :bobs ORDER BY e.transaction_id DESC, e.ordinal DESC LIMIT 5;

-- The next page, by the last id of this one.
EXPLAIN (COSTS OFF)
SELECT e.transaction_id, e.direction, e.amount, e.balance_after FROM ledger.entries e
WHERE e.account_id = :bobs AND e.transaction_id < 5000 ORDER BY e.transaction_id DESC, e.ordinal DESC LIMIT 5;

-- The balance after a transaction: the newest entry up to it.
EXPLAIN (COSTS OFF)
SELECT e.balance_after FROM ledger.entries e
WHERE e.account_id = :bobs AND e.transaction_id <= 5010 ORDER BY e.transaction_id DESC, e.ordinal DESC LIMIT 1;
SELECT e.balance_after = (SELECT sum(CASE f.direction WHEN 'credit' THEN f.amount ELSE -f.amount END) FROM ledger.entries f
						  WHERE f.account_id = :alices AND f.transaction_id <= 700) AS agrees
FROM ledger.entries e WHERE e.account_id = :alices AND e.transaction_id <= 700 ORDER BY e.transaction_id DESC, e.ordinal DESC LIMIT 1;

-- A page reads a handful of rows, of a busy account and of a quiet one.
CREATE FUNCTION public.rows_read(query text, OUT by_scans bigint, OUT few_by_index boolean)
	LANGUAGE plpgsql
AS $$
DECLARE
	before pg_stat_xact_user_tables;
	after pg_stat_xact_user_tables;
BEGIN
	SELECT * INTO before FROM pg_stat_xact_user_tables s WHERE s.relid = 'ledger.journal'::regclass;
	EXECUTE query;
	SELECT * INTO after FROM pg_stat_xact_user_tables s WHERE s.relid = 'ledger.journal'::regclass;
	by_scans := after.seq_tup_read - before.seq_tup_read;
	few_by_index := after.idx_tup_fetch - before.idx_tup_fetch BETWEEN 5 AND 40;
END
$$;
SELECT r.* FROM unnest(ARRAY[:alices, :bobs]) a,
	LATERAL public.rows_read(format('SELECT * FROM ledger.entries e WHERE e.account_id = %s ORDER BY e.transaction_id DESC, e.ordinal DESC LIMIT 5', a)) r;
SELECT r.* FROM unnest(ARRAY[:alice, :bob]) u, LATERAL public.rows_read(format('SELECT * FROM ledger.user_history(%L, max_rows => 5)', u)) r;

-- A customer's history.
SELECT h.transaction_id, h.type, h.description, h.account_type, h.change, h.balance_after, h.posted_by = current_user AS by_us
FROM ledger.user_history(:alice, max_rows => 4) h;
SELECT h.type, h.account_type, h.change, h.balance_after FROM ledger.user_history(:bob, max_rows => 4) h;
SELECT count(*) FROM ledger.user_history(:alice);
SELECT count(*) FROM ledger.user_history(:alice, max_rows => 1000000);
SELECT bool_and(h.transaction_id > o.transaction_id) AS newest_first
FROM (SELECT h.*, row_number() OVER () AS n FROM ledger.user_history(:alice, max_rows => 1000) h) h
JOIN (SELECT h.*, row_number() OVER () AS n FROM ledger.user_history(:alice, max_rows => 1000) h) o ON o.n = h.n + 1;

-- From and until, by when it was posted.
SELECT t.created_at AS since FROM ledger.transactions t WHERE t.description = 'deposit 300' \gset
SELECT t.created_at AS until FROM ledger.transactions t WHERE t.description = 'deposit 302' \gset
SELECT h.description, h.change FROM ledger.user_history(:alice, :'since', :'until') h;
SELECT count(*) FROM ledger.user_history(:alice, :'until', :'since');

-- Every running balance is the one before and the change.
SELECT count(*) AS wrong
FROM (SELECT h.balance_after - h.change AS before, lead(h.balance_after) OVER (ORDER BY h.transaction_id DESC) AS expected
	  FROM ledger.user_history(:alice, max_rows => 100000) h WHERE h.account_type = 'usdc_balance') x
WHERE x.before <> COALESCE(x.expected, 0);

SELECT ledger.user_history(:alice, max_rows => 0);

SELECT * FROM public.ledger_oracle();
\set ECHO none
\i :done
