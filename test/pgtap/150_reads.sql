--
-- Reads: balances, history, views.
--
\ir ../lib/contract.sql
\ir ../lib/refuses.sql
SELECT no_plan();

-- Somebody unknown has zeros.
SELECT results_eq(format('SELECT b.user_id, b.usdc_balance::text, b.fiat_exposure::text, b.pending_investment::text, b.total_value::text, b.source FROM ledger.get_user_balance(%L) b', :nobody),
	format($$VALUES (%L::uuid, '0.00', '0.00', '0.00', '0.00', 'ledger')$$, :nobody), 'get_user_balance: unknown');
SELECT results_eq(format('SELECT b.user_id, b.usdc_balance::text, b.buying_power::text, b.pending_investment::text, b.total_value::text, b.currency, b.breakdown, b.source FROM ledger.get_balance(%L) b', :nobody),
	format($$VALUES (%L::uuid, '0.00', '0.00', '0.00', '0.00', 'USD', '{}'::jsonb, 'ledger')$$, :nobody), 'get_balance: unknown');
SELECT is(ledger.get_account_balance(:nobody, 'usdc_balance')::text, '0.00', 'get_account_balance: unknown');
SELECT is(ledger.check_available_balance(:nobody, 0.01, 'usdc_balance'), false, 'check_available_balance: unknown');
SELECT is_empty(format('SELECT * FROM ledger.user_history(%L)', :nobody), 'user_history: unknown');
SELECT is((SELECT count(*) FROM ledger.account_balances), 0::bigint, 'reads open no account');

SELECT ledger.credit_user_usdc(:alice, 100, 'deposit', public.id('d1')) AS d1 \gset
SELECT ledger.reserve_for_investment(:alice, 40, public.id('o1')) AS r1 \gset
SELECT ledger.execute_investment(:alice, 25.125, public.id('o1'), 'x1') AS x1 \gset
SELECT ledger.debit_user_usdc(:alice, 0.5, 'withdrawal') AS w1 \gset
SELECT ledger.credit_user_usdc(:bob, 1, 'other') AS b1 \gset
SELECT public.counts() AS before \gset

SELECT results_eq(format('SELECT b.user_id, b.usdc_balance::text, b.fiat_exposure::text, b.pending_investment::text, b.total_value::text, b.source FROM ledger.get_user_balance(%L) b', :alice),
	format($$VALUES (%L::uuid, '59.50', '25.125', '14.875', '99.50', 'ledger')$$, :alice), 'get_user_balance');
SELECT results_eq(format('SELECT b.user_id, b.usdc_balance::text, b.buying_power::text, b.pending_investment::text, b.total_value::text, b.currency, b.source FROM ledger.get_balance(%L) b', :alice),
	format($$VALUES (%L::uuid, '59.50', '25.125', '14.875', '99.50', 'USD', 'ledger')$$, :alice), 'get_balance');
SELECT is((SELECT b.breakdown FROM ledger.get_balance(:alice) b),
	'{"usdc_balance": {"currency": "USDC", "balance": 59.50}, "pending_investment": {"currency": "USDC", "balance": 14.875}, "fiat_exposure": {"currency": "USD", "balance": 25.125}}', 'get_balance: breakdown');
SELECT is((SELECT b.breakdown #>> '{usdc_balance,balance}' FROM ledger.get_balance(:alice) b), '59.50', 'get_balance: digits of the breakdown');
SELECT is(ledger.get_account_balance(:alice, t)::text, b, format('get_account_balance: %s', t))
FROM (VALUES ('usdc_balance', '59.50'), ('pending_investment', '14.875'), ('fiat_exposure', '25.125')) AS v (t, b);
SELECT is(ledger.get_account_balance(NULL, t)::text, b, format('get_account_balance of the house: %s', t))
FROM (VALUES ('system_buffer_usdc', '100.50'), ('system_buffer_fiat', '0.00'), ('broker_operational', '0.00')) AS v (t, b);
SELECT is(ledger.check_available_balance(:alice, 59.5, 'usdc_balance'), true, 'check_available_balance: all of it');
SELECT is(ledger.check_available_balance(:alice, 59.500000000000000001, 'usdc_balance'), false, 'check_available_balance: the least more');
SELECT is(ledger.check_available_balance(:alice, 25, 'fiat_exposure'), true, 'check_available_balance: of another account');
SELECT is(ledger.check_available_balance(NULL, 100, 'system_buffer_usdc'), true, 'check_available_balance: of the house');
SELECT public.refuses(format('ledger.get_account_balance(%L, %L)', :alice, 'nonsense'), 'LG010', 'get_account_balance: unknown type');
SELECT public.refuses(format('ledger.check_available_balance(%L, 1, %L)', :alice, 'nonsense'), 'LG010', 'check_available_balance: unknown type');
SELECT public.refuses('ledger.get_account_balance(NULL, ''usdc_balance'')', '22004', 'get_account_balance: a user''s type without a user');
SELECT public.refuses(format('ledger.get_account_balance(%L, %L)', :alice, 'system_buffer_usdc'), 'LG010', 'get_account_balance: a house type with a user');
SELECT public.refuses('ledger.get_account_balance(NULL, ''fx_clearing'')', 'LG010', 'get_account_balance: a type of several currencies');
SELECT public.refuses(format('ledger.check_available_balance(%L, 0, %L)', :alice, 'usdc_balance'), 'LG009', 'check_available_balance: zero is no amount');

-- user_history: newest first, one row for each account moved
SELECT results_eq(format('SELECT h.transaction_id, h.type, h.description, h.reference_id, h.account_type, h.change::text, h.balance_after::text, h.posted_by FROM ledger.user_history(%L) h', :alice),
	format($$VALUES (%1$s::bigint, 'withdrawal', 'withdrawal', NULL::uuid, 'usdc_balance', '-0.50', '59.50', %6$L),
		(%2$s, 'investment', NULL, %5$L::uuid, 'fiat_exposure', '25.125', '25.125', %6$L),
		(%2$s, 'investment', NULL, %5$L, 'pending_investment', '-25.125', '14.875', %6$L),
		(%3$s, 'internal_transfer', NULL, %5$L, 'pending_investment', '40.00', '40.00', %6$L),
		(%3$s, 'internal_transfer', NULL, %5$L, 'usdc_balance', '-40.00', '60.00', %6$L),
		(%4$s, 'deposit', 'deposit', %7$L, 'usdc_balance', '100.00', '100.00', %6$L)$$,
		:w1, :x1, :r1, :d1, public.id('o1'), current_user, public.id('d1')),
	'user_history') ;
SELECT is((SELECT bool_and(h.at = t.created_at) FROM ledger.user_history(:alice) h JOIN ledger.transactions t ON t.id = h.transaction_id), true, 'user_history: at is created_at');
SELECT is((SELECT array_agg(h.transaction_id) FROM ledger.user_history(:alice, max_rows => 3) h), ARRAY[:w1, :x1, :x1]::bigint[], 'user_history: max_rows');
SELECT is((SELECT count(*) FROM ledger.user_history(:alice, (SELECT t.created_at FROM ledger.transactions t WHERE t.id = :r1)) h), 5::bigint, 'user_history: since is inclusive');
SELECT is((SELECT array_agg(h.transaction_id) FROM ledger.user_history(:alice, NULL, (SELECT t.created_at FROM ledger.transactions t WHERE t.id = :r1)) h), ARRAY[:d1]::bigint[], 'user_history: until is exclusive');
SELECT is((SELECT array_agg(DISTINCT h.transaction_id) FROM ledger.user_history(:alice, (SELECT t.created_at FROM ledger.transactions t WHERE t.id = :r1), (SELECT t.created_at FROM ledger.transactions t WHERE t.id = :x1), 1) h), ARRAY[:r1]::bigint[], 'user_history: all arguments');
SELECT is((SELECT sum(h.change) FROM ledger.user_history(:alice) h WHERE h.account_type = 'usdc_balance'), ledger.get_account_balance(:alice, 'usdc_balance'), 'user_history: the changes are the balance');

-- views
SELECT is((SELECT count(*) FROM ledger.entries e WHERE e.transaction_id = :d1), 2::bigint, 'entries: a deposit has two');
SELECT results_eq(format('SELECT public.label(e.account_id), e.account_type::text COLLATE "default", e.user_id, e.direction::text COLLATE "default", e.amount::text, e.currency::text COLLATE "default", e.balance_after::text, e.ordinal FROM ledger.entries e WHERE e.transaction_id = %s ORDER BY e.direction DESC', :d1),
	format($$VALUES ('system_buffer_usdc', 'system_buffer_usdc', NULL::uuid, 'debit', '100.00', 'USDC', NULL, 0::smallint), ('usdc_balance@alice', 'usdc_balance', %L, 'credit', '100.00', 'USDC', '100.00', 0::smallint)$$, :alice), 'entries: their columns');
SELECT is_empty($$SELECT e.transaction_id, e.currency FROM ledger.entries e GROUP BY 1, 2
	HAVING sum(e.amount) FILTER (WHERE e.direction = 'debit') <> sum(e.amount) FILTER (WHERE e.direction = 'credit')$$, 'entries: debits are credits, each transaction and currency');
SELECT results_eq(format('SELECT b.account_type::text COLLATE "default", b.debits::text, b.credits::text, b.balance::text, b.version, b.status::text COLLATE "default" FROM ledger.account_balances b WHERE b.user_id = %L ORDER BY b.account_id', :alice),
	$$VALUES ('usdc_balance', '40.50', '100.00', '59.50', 3::bigint, 'open'), ('pending_investment', '25.125', '40.00', '14.875', 2, 'open'), ('fiat_exposure', '0.00', '25.125', '25.125', 1, 'open')$$, 'account_balances');
SELECT is((SELECT concat_ws('|', r.id, r.user_id, r.order_id, r.amount, r.executed, r.released, r.remaining, r.status, r.expires_at) FROM ledger.reservations r),
	concat_ws('|', :r1, :alice, public.id('o1'), '40.00', '25.125', '0.00', '14.875', 'active'), 'reservations');
SELECT is((SELECT count(*) FROM ledger.discrepancies), 0::bigint, 'discrepancies: none without a legacy table');

-- reads write nothing and work where nothing can be written
SELECT is(public.counts(), :'before', 'reads write nothing');
BEGIN READ ONLY;
SELECT is((SELECT b.total_value FROM ledger.get_user_balance(:alice) b), 99.50, 'read-only: get_user_balance');
SELECT is((SELECT b.total_value FROM ledger.get_balance(:alice) b), 99.50, 'read-only: get_balance');
SELECT is((SELECT b.total_value FROM ledger.get_detailed_balance(:alice, 'none') b), 99.50, 'read-only: get_detailed_balance');
SELECT is((SELECT count(*) FROM ledger.user_history(:alice)), 6::bigint, 'read-only: user_history');
SELECT is(ledger.find_transaction(format('credit_user_usdc:deposit:%s', public.id('d1'))), :d1::bigint, 'read-only: find_transaction');
SELECT throws_ok(s, '25006', NULL, s)
FROM unnest(ARRAY[
	$$SELECT ledger.credit_user_usdc('00000000-0000-4000-8000-0000000000a1', 1, 'x')$$,
	$$SELECT ledger.debit_user_usdc('00000000-0000-4000-8000-0000000000a1', 1, 'x')$$,
	$$SELECT ledger.move_funds_to_fiat_exposure('00000000-0000-4000-8000-0000000000a1', 1, 'x')$$,
	$$SELECT ledger.move_funds_to_usdc('00000000-0000-4000-8000-0000000000a1', 1, 'x')$$,
	$$SELECT ledger.reserve_for_investment('00000000-0000-4000-8000-0000000000a1', 1)$$,
	$$SELECT ledger.release_reservation('00000000-0000-4000-8000-0000000000a1')$$,
	$$SELECT ledger.execute_investment('00000000-0000-4000-8000-0000000000a1', 1, '00000000-0000-4000-8000-0000000000a1')$$,
	$$SELECT ledger.settle_sale('00000000-0000-4000-8000-0000000000a1', 1, 1, '00000000-0000-4000-8000-0000000000a1')$$,
	$$SELECT ledger.convert_buffer('system_buffer_usdc', 'system_buffer_fiat', 1)$$,
	$$SELECT ledger.fund_broker(1)$$,
	$$SELECT ledger.replenish_buffer('system_buffer_usdc', 1)$$,
	$$SELECT ledger.open_house_balance('system_buffer_usdc', 'USDC', 1, 'x')$$,
	$$SELECT ledger.reverse_transaction(1, 'x')$$,
	$$SELECT ledger.post('x', ARRAY[ROW(1, 2, 1)::ledger.posting])$$,
	$$SELECT ledger.open_account('usdc_balance', '00000000-0000-4000-8000-0000000000ff')$$,
	$$SELECT ledger.set_account_limit(1, 1, 'x')$$,
	$$SELECT ledger.set_account_stripes(1, 1, 'x')$$,
	$$SELECT ledger.set_account_status(1, 'frozen', 'x')$$,
	$$SELECT ledger.expire_reservations()$$,
	$$SELECT ledger.configure(shadow_mode => true)$$]) s;
ROLLBACK;

SELECT is_empty($$SELECT * FROM public.ledger_oracle()$$, 'oracle');
SELECT * FROM finish();
