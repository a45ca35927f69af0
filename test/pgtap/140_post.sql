--
-- post(), accounts, their status and limits; running balances.
--
\ir ../lib/contract.sql
\ir ../lib/refuses.sql
SELECT no_plan();
CREATE VIEW public.header AS
	SELECT t.id, concat_ws('|', t.type, p.name, t.reference_id, t.reference_type, t.description, t.metadata, t.posted_by, t.reverses, t.reversed_by) AS header
	FROM ledger.transactions t LEFT JOIN public.people p ON p.id = t.user_id;

-- open_account: returns the existing one
SELECT ledger.open_account('usdc_balance', :alice) AS alice_usdc \gset
SELECT ledger.open_account('fiat_exposure', :alice) AS alice_usd \gset
SELECT ledger.open_account('usdc_balance', :bob) AS bob_usdc \gset
SELECT ledger.open_account('system_buffer_usdc') AS buffer \gset
SELECT ledger.open_account('broker_operational') AS broker \gset
SELECT ledger.open_account('fx_clearing', currency => 'USDC') AS fx_usdc \gset
SELECT ledger.open_account('fx_clearing', NULL, 'USD') AS fx_usd \gset
SELECT ledger.set_account_stripes(id, 0, 'one row, whose running balance is known') FROM (VALUES (:fx_usdc), (:fx_usd)) AS v (id);
SELECT is(ledger.open_account('usdc_balance', :alice), :alice_usdc::bigint, 'open_account: the existing one');
SELECT is(ledger.open_account('usdc_balance', :alice, 'USDC'), :alice_usdc::bigint, 'open_account: with its currency');
SELECT isnt(:fx_usdc, :fx_usd, 'open_account: one for each currency');
SELECT is((SELECT concat_ws('|', b.user_id, b.account_type, b.currency, b.debits, b.credits, b.balance, b.version, b.status) FROM ledger.account_balances b WHERE b.account_id = :alice_usdc),
	concat_ws('|', :alice, 'usdc_balance', 'USDC', '0.00', '0.00', '0.00', '0', 'open'), 'open_account: empty and open');
SELECT public.refuses('ledger.open_account(''usdc_balance'')', '22004', 'a user''s type without a user');
SELECT public.refuses(format('ledger.open_account(''system_buffer_usdc'', %L)', :alice), 'LG010', 'a house type with a user');
SELECT public.refuses('ledger.open_account(''fx_clearing'')', 'LG010', 'a type of every currency without one');
SELECT public.refuses('ledger.open_account(''fx_clearing'', NULL, ''EUR'')', 'LG010', 'an unknown currency');
SELECT public.refuses(format('ledger.open_account(''usdc_balance'', %L, ''USD'')', :alice), 'LG010', 'another currency than the type''s');
SELECT public.refuses('ledger.open_account(''nonsense'')', 'LG010', 'an unknown type');
SELECT is((SELECT count(*) FROM ledger.account_balances), 7::bigint, 'accounts opened');

-- first postings open accounts by themselves
SELECT ok(ledger.credit_user_usdc(:alice, 100, 'deposit') > 0);
SELECT ok(ledger.credit_user_usdc(:carol, 1, 'deposit') > 0);
SELECT is((SELECT count(*) FROM ledger.account_balances b WHERE b.user_id = :carol), 1::bigint, 'a deposit opens the account');

-- one posting, all arguments
SELECT ledger.post('gift', ARRAY[ROW(:alice_usdc, :bob_usdc, 10)::ledger.posting], 'gift-1', :alice, public.id('g1'), 'card', 'happy birthday',
	'{"from": "alice", "to": ["bob"]}', '2020-02-29 12:00:00+00') AS g1 \gset
SELECT is(public.postings(:g1), 'Dr usdc_balance@alice Cr usdc_balance@bob 10.00 USDC', 'post: money moved');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :g1),
	format('gift|alice|%s|card|happy birthday|{"to": ["bob"], "from": "alice"}|%s', public.id('g1'), current_user), 'post: header');
SELECT is((SELECT t.effective_at FROM ledger.transactions t WHERE t.id = :g1), '2020-02-29 12:00:00+00'::timestamptz, 'post: effective_at');
SELECT is((SELECT bool_and(e.effective_at = '2020-02-29 12:00:00+00' AND e.created_at > '2020-03-01') FROM ledger.entries e WHERE e.transaction_id = :g1), true, 'post: effective_at of the entries; created_at is the clock');
SELECT is((SELECT bool_and(t.effective_at = t.created_at) FROM ledger.transactions t WHERE t.id <> :g1), true, 'without effective_at it is created_at');
SELECT is(ledger.find_transaction('gift-1'), :g1::bigint, 'post: found by its key as it is');
SELECT is(ledger.find_transaction(format('post:card:%s', public.id('g1'))), NULL, 'post: with a key the reference is none');
SELECT is(ledger.post('gift', ARRAY[ROW(:alice_usdc, :bob_usdc, 10.0)::ledger.posting], 'gift-1', :alice, public.id('g1'), 'card', 'other words', '{}', now()),
	:g1::bigint, 'post: replay; words, metadata and time are not compared');
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(%s, %s, 11)::ledger.posting], %L, %L, %L, %L)', 'gift', :alice_usdc, :bob_usdc, 'gift-1', :alice, public.id('g1'), 'card'), 'LG002', 'post: another amount');
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(%s, %s, 10)::ledger.posting], %L, %L, %L, %L)', 'gift', :bob_usdc, :alice_usdc, 'gift-1', :alice, public.id('g1'), 'card'), 'LG002', 'post: other accounts');
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(%s, %s, 10)::ledger.posting], %L, %L, %L, %L)', 'gift', :alice_usdc, :bob_usdc, 'gift-1', :bob, public.id('g1'), 'card'), 'LG002', 'post: another user');
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(%s, %s, 10)::ledger.posting], %L, %L, %L, %L)', 'present', :alice_usdc, :bob_usdc, 'gift-1', :alice, public.id('g1'), 'card'), 'LG002', 'post: another type');
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(%s, %s, 10), ROW(%s, %s, 1)]::ledger.posting[], %L, %L, %L, %L)', 'gift', :alice_usdc, :bob_usdc, :alice_usdc, :bob_usdc, 'gift-1', :alice, public.id('g1'), 'card'), 'LG002', 'post: a posting more');

-- keys from the reference
SELECT ledger.post('gift', ARRAY[ROW(:alice_usdc, :bob_usdc, 1)::ledger.posting], reference_id => public.id('g2')) AS g2 \gset
SELECT is(ledger.find_transaction(format('post:gift:%s', public.id('g2'))), :g2::bigint, 'post: keyed on type and reference');
SELECT ledger.post('gift', ARRAY[ROW(:alice_usdc, :bob_usdc, 1)::ledger.posting], reference_id => public.id('g2'), reference_type => 'card') AS g3 \gset
SELECT is(ledger.find_transaction(format('post:card:%s', public.id('g2'))), :g3::bigint, 'post: keyed on reference_type and reference');
SELECT is(ledger.post('gift', ARRAY[ROW(:alice_usdc, :bob_usdc, 1)::ledger.posting], reference_id => public.id('g2')), :g2::bigint, 'post: replay by reference');
SELECT isnt(ledger.post('gift', ARRAY[ROW(:alice_usdc, :bob_usdc, 1)::ledger.posting]), ledger.post('gift', ARRAY[ROW(:alice_usdc, :bob_usdc, 1)::ledger.posting]), 'post: without a key nothing is deduplicated');
SELECT ledger.post('gift', ARRAY[ROW(:alice_usdc, :bob_usdc, 1)::ledger.posting], 'Ключ – ключ') AS letters \gset
SELECT is(ledger.find_transaction('Ключ – ключ'), :letters::bigint, 'post: a key in any letters');
SELECT ledger.post('gift', ARRAY[ROW(:alice_usdc, :bob_usdc, 1)::ledger.posting], repeat('k', 512)) AS long \gset
SELECT is(ledger.find_transaction(repeat('k', 512)), :long::bigint, 'post: a key of 512 bytes');
SELECT is(public.has(:alice) || ' / ' || public.has(:bob), '84.00 0.00 0.00 / 16.00 0.00 0.00', 'balances');

-- several postings and currencies; running balances inside a transaction
SELECT ledger.post('basket', ARRAY[
	ROW(:alice_usdc, :fx_usdc, 20), ROW(:fx_usd, :alice_usd, 20), ROW(:alice_usdc, :bob_usdc, 3), ROW(:bob_usdc, :alice_usdc, 1), ROW(:alice_usd, :broker, 5)
	]::ledger.posting[], user_id => :alice) AS basket \gset
SELECT is(public.postings(:basket), 'Dr usdc_balance@alice Cr fx_clearing/USDC 20.00 USDC; Dr fx_clearing/USD Cr fiat_exposure@alice 20.00 USD; Dr usdc_balance@alice Cr usdc_balance@bob 3.00 USDC; Dr usdc_balance@bob Cr usdc_balance@alice 1.00 USDC; Dr fiat_exposure@alice Cr broker_operational 5.00 USD',
	'five postings in two currencies, in their order');
SELECT results_eq(format('SELECT public.label(e.account_id), e.ordinal, e.direction::text COLLATE "default", e.balance_after FROM ledger.entries e WHERE e.transaction_id = %s ORDER BY e.ordinal, e.direction DESC', :basket),
	$$VALUES ('usdc_balance@alice', 0::smallint, 'debit', 64.00), ('fx_clearing/USDC', 0::smallint, 'credit', 20.00),
		('fx_clearing/USD', 1::smallint, 'debit', -20.00), ('fiat_exposure@alice', 1::smallint, 'credit', 20.00),
		('usdc_balance@alice', 2::smallint, 'debit', 61.00), ('usdc_balance@bob', 2::smallint, 'credit', 19.00),
		('usdc_balance@bob', 3::smallint, 'debit', 18.00), ('usdc_balance@alice', 3::smallint, 'credit', 62.00),
		('fiat_exposure@alice', 4::smallint, 'debit', 15.00), ('broker_operational', 4::smallint, 'credit', NULL)$$,
	'balance_after each of them, in the account''s normal direction; not of a striped one');
SELECT is((SELECT b.version FROM ledger.account_balances b WHERE b.account_id = :bob_usdc),
	(SELECT count(DISTINCT e.transaction_id) FROM ledger.entries e WHERE e.account_id = :bob_usdc), 'version: transactions that moved the account');
SELECT is((SELECT b.credits - b.debits FROM ledger.account_balances b WHERE b.account_id = :bob_usdc), 18.00, 'totals');

-- limits hold on final balances
SELECT lives_ok(format('SELECT ledger.post(%L, ARRAY[ROW(%s, %s, 1000), ROW(%s, %s, 999)]::ledger.posting[])', 'round', :alice_usdc, :bob_usdc, :bob_usdc, :alice_usdc),
	'below zero in between, above at the end');
SELECT is(public.has(:alice) || ' / ' || public.has(:bob), '61.00 0.00 15.00 / 19.00 0.00 0.00', 'balances');
SELECT is((SELECT min(e.balance_after) FROM ledger.entries e WHERE e.account_id = :alice_usdc), -938.00, 'the running balance shows it');
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(%s, %s, 1000), ROW(%s, %s, 938.99)]::ledger.posting[])', 'round', :alice_usdc, :bob_usdc, :bob_usdc, :alice_usdc),
	'LG001', 'below zero at the end', 'Available is 61.00 USDC, the posting needs 61.01 USDC.');
SELECT lives_ok(format('SELECT ledger.post(%L, ARRAY[ROW(%s, %s, 61)::ledger.posting])', 'all', :alice_usdc, :bob_usdc), 'to zero');
SELECT lives_ok(format('SELECT ledger.post(%L, ARRAY[ROW(%s, %s, 61)::ledger.posting])', 'back', :bob_usdc, :alice_usdc), 'and back');
SELECT lives_ok(format('SELECT ledger.post(%L, ARRAY[ROW(%s, %s, 1000)::ledger.posting])', 'house', :fx_usdc, :buffer), 'the house has no limit');
SELECT is(public.house('system_buffer_usdc'), -899.00, 'and may go below zero');

-- set_account_limit
SELECT lives_ok(format('SELECT ledger.set_account_limit(%s, 50, %L)', :alice_usdc, 'deposit of a card'), 'a limit of 50');
SELECT public.refuses(format('ledger.debit_user_usdc(%L, 11.01, %L)', :alice, 'x'), 'LG001', 'below the limit', 'Available is 11.00 USDC, the posting needs 11.01 USDC.');
SELECT is(ledger.check_available_balance(:alice, 11, 'usdc_balance'), true, 'available: down to the limit');
SELECT is(ledger.check_available_balance(:alice, 11.01, 'usdc_balance'), false, 'available: not below it');
SELECT lives_ok(format('SELECT ledger.set_account_limit(%s, 100, %L)', :alice_usdc, 'higher than the balance'), 'a limit above the balance');
SELECT lives_ok(format('SELECT ledger.credit_user_usdc(%L, 1, %L)', :alice, 'in'), 'money may still come in');
SELECT public.refuses(format('ledger.debit_user_usdc(%L, 1, %L)', :alice, 'x'), 'LG001', 'but not go out');
SELECT is(ledger.check_available_balance(:alice, 0.01, 'usdc_balance'), false, 'nothing is available');
SELECT lives_ok(format('SELECT ledger.set_account_limit(%s, NULL, %L)', :alice_usdc, 'back to the type''s'), 'the type''s limit');
SELECT is(ledger.check_available_balance(:alice, 62, 'usdc_balance'), true, 'all is available');
SELECT lives_ok(format('SELECT ledger.set_account_limit(%s, -2000, %L)', :buffer, 'credit line'), 'a house account below zero');
SELECT public.refuses(format('ledger.debit_user_usdc(%L, 0.01, %L)', :nobody, 'x'), 'LG001', 'the user''s limit comes first');
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(%s, %s, 1102.01)::ledger.posting])', 'house', :fx_usdc, :buffer), 'LG001', 'down to its limit', 'Available is 1102.00 USDC%', '%replenish%');
SELECT public.refuses(format('ledger.set_account_limit(%s, -1, %L)', :alice_usdc, 'x'), 'LG009', 'a user''s account never below zero');
SELECT public.refuses(format('ledger.set_account_limit(%s, %L, %L)', :buffer, 'NaN', 'x'), 'LG009', 'a limit that is no number');
SELECT public.refuses(format('ledger.set_account_limit(%s, %L, %L)', :buffer, 'Infinity', 'x'), 'LG009', 'a limit without end');
SELECT lives_ok(format('SELECT ledger.set_account_limit(%s, NULL, %L)', :buffer, 'none'), 'none again');

-- set_account_status
SELECT lives_ok(format('SELECT ledger.set_account_status(%s, %L, %L)', :bob_usdc, 'frozen', 'inquiry 7'), 'freeze');
SELECT is((SELECT b.status FROM ledger.account_balances b WHERE b.account_id = :bob_usdc), 'frozen', 'is frozen');
SELECT public.refuses(format('ledger.credit_user_usdc(%L, 1, %L)', :bob, 'x'), 'LG004', 'frozen: no money in', format('Account %s takes no postings.', :bob_usdc), format('%%set_account_status(%s%%', :bob_usdc));
SELECT public.refuses(format('ledger.debit_user_usdc(%L, 1, %L)', :bob, 'x'), 'LG004', 'frozen: no money out');
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(%s, %s, 1), ROW(%s, %s, 1)]::ledger.posting[])', 'round', :alice_usdc, :bob_usdc, :bob_usdc, :alice_usdc), 'LG004', 'frozen: not even if nothing changes');
SELECT is(public.has(:bob), '19.00 0.00 0.00', 'frozen: reads go on');
SELECT public.refuses(format('ledger.set_account_status(%s, %L, %L)', :bob_usdc, 'closed', 'x'), '55000', 'close with a balance');
SELECT lives_ok(format('SELECT ledger.set_account_status(%s, %L, %L)', :bob_usdc, 'open', 'inquiry over'), 'thaw');
SELECT lives_ok(format('SELECT ledger.debit_user_usdc(%L, 19, %L)', :bob, 'all'), 'empty it');
SELECT lives_ok(format('SELECT ledger.set_account_status(%s, %L, %L)', :bob_usdc, 'closed', 'he left'), 'close it');
SELECT public.refuses(format('ledger.credit_user_usdc(%L, 1, %L)', :bob, 'x'), 'LG004', 'closed: no postings');
SELECT is(ledger.open_account('usdc_balance', :bob), :bob_usdc::bigint, 'closed: open_account() returns it, no second one');
SELECT public.refuses(format('ledger.set_account_status(%s, %L, %L)', :bob_usdc, 'gone', 'x'), '22023', 'an unknown status');
SELECT public.refuses('ledger.set_account_status(999999, ''open'', ''x'')', 'LG010', 'an unknown account');
SELECT results_eq(format('SELECT l.status::text COLLATE "default", l.reason, l.changed_by FROM ledger.account_status_log l WHERE l.account_id = %s ORDER BY l.id', :bob_usdc),
	format($$VALUES ('frozen', 'inquiry 7', %1$L), ('open', 'inquiry over', %1$L), ('closed', 'he left', %1$L)$$, current_user), 'every change is kept');

-- a replay is answered whatever became of the account
SELECT is(ledger.post('gift', ARRAY[ROW(:alice_usdc, :bob_usdc, 1)::ledger.posting], reference_id => public.id('g2')), :g2::bigint, 'closed: a replay is a replay');

-- what post() refuses
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(%s, %s, 1)::ledger.posting])', 'x', :alice_usdc, :alice_usdc), 'LG010', 'the same account on both sides');
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(%s, %s, 1)::ledger.posting])', 'x', :alice_usdc, :alice_usd), 'LG010', 'accounts in two currencies');
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(%s, 999999, 1)::ledger.posting])', 'x', :alice_usdc), 'LG010', 'an account that is not there');
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(%s, %s, 1)::ledger.posting], effective_at => %L)', 'x', :buffer, :alice_usdc, 'infinity'), '22023', 'an effective_at without end');
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(%s, %s, %L)::ledger.posting], %L)', 'gift', :alice_usdc, :bob_usdc, 'NaN', 'gift-1'), 'LG009', 'no amount, and a key that is taken');

-- many postings
SELECT ledger.post('many', ARRAY(SELECT ROW(:buffer, :alice_usdc, n)::ledger.posting FROM generate_series(1, 1000) n)) AS many \gset
SELECT is((SELECT count(*) FROM ledger.entries e WHERE e.transaction_id = :many), 2000::bigint, 'a thousand postings');
SELECT is(public.has(:alice), '500562.00 0.00 15.00', 'all of them count');
SELECT is((SELECT e.balance_after FROM ledger.entries e WHERE e.transaction_id = :many AND e.account_id = :alice_usdc AND e.ordinal = 500), 62 + 501 * 502 / 2.0, 'the running balance in the middle');

SELECT is_empty($$SELECT * FROM public.ledger_oracle()$$, 'oracle');
SELECT * FROM finish();
