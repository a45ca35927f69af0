--
-- Reversals: whole, in part, never more than the original, and what becomes
-- of reservations and of replays.
--
\ir ../lib/contract.sql
\ir ../lib/refuses.sql
SELECT no_plan();
CREATE VIEW public.header AS
	SELECT t.id, concat_ws('|', t.type, p.name, t.reference_id, t.reference_type, t.description, t.metadata, t.posted_by, t.reverses, t.reversed_by) AS header
	FROM ledger.transactions t LEFT JOIN public.people p ON p.id = t.user_id;

-- whole
SELECT ledger.credit_user_usdc(:alice, 100, 'deposit', public.id('d1')) AS d1 \gset
SELECT ledger.reverse_transaction(:d1, 'sent twice') AS v1 \gset
SELECT is(public.postings(:v1), 'Dr usdc_balance@alice Cr system_buffer_usdc 100.00 USDC', 'whole: the mirror image');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :v1), format('reversal|alice|sent twice|%s|%s', current_user, :d1), 'whole: header');
SELECT is((SELECT t.reversed_by FROM ledger.transactions t WHERE t.id = :d1), :v1::bigint, 'whole: the original knows');
SELECT is(public.has(:alice), '0.00 0.00 0.00', 'whole: balance');
SELECT public.refuses(format('ledger.reverse_transaction(%s, %L)', :d1, 'again'), 'LG011', 'twice', format('Transaction %s has reversed it; reversed so far is 100.00 of 100.00.', :v1));
SELECT public.refuses(format('ledger.reverse_transaction(%s, %L)', :v1, 'x'), 'LG011', 'of a reversal', format('It is itself the reversal of transaction %s.', :d1));
SELECT public.refuses('ledger.reverse_transaction(999999, ''x'')', 'LG011', 'of what is not there', 'There is no such transaction.');
SELECT public.refuses(format('ledger.credit_user_usdc(%L, 100, %L, %L)', :alice, 'deposit', public.id('d1')), 'LG002', 'replay of what was wholly reversed', format('%%transaction %s has reversed it%%', :v1), '%new reference%');

-- whole, with a reference: a retry is a replay
SELECT ledger.credit_user_usdc(:alice, 10, 'deposit', public.id('d2')) AS d2 \gset
SELECT ledger.reverse_transaction(:d2, 'mistake', NULL, public.id('v2')) AS v2 \gset
SELECT is(ledger.reverse_transaction(:d2, 'mistake', NULL, public.id('v2')), :v2::bigint, 'whole with a reference: replay');
SELECT is(ledger.reverse_transaction(:d2, 'mistake', 10, public.id('v2')), :v2::bigint, 'whole with a reference: the amount spelled out is the same');
SELECT is(ledger.find_transaction(format('reverse_transaction:reversal:%s', public.id('v2'))), :v2::bigint, 'whole with a reference: found by its key');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :v2), format('reversal|alice|%s|reversal|mistake|%s|%s', public.id('v2'), current_user, :d2), 'whole with a reference: header');
SELECT ledger.credit_user_usdc(:alice, 10, 'deposit', public.id('d3')) AS d3 \gset
SELECT public.refuses(format('ledger.reverse_transaction(%s, %L, NULL, %L)', :d3, 'x', public.id('v2')), 'LG002', 'the same reference for another transaction');

-- in part
SELECT public.refuses(format('ledger.reverse_transaction(%s, %L, 4)', :d3, 'x'), '22004', 'in part without a reference');
SELECT ledger.reverse_transaction(:d3, 'fee', 4, public.id('v3')) AS v3 \gset
SELECT is(public.postings(:v3), 'Dr usdc_balance@alice Cr system_buffer_usdc 4.00 USDC', 'in part: money moved');
SELECT is(ledger.reverse_transaction(:d3, 'fee', 4, public.id('v3')), :v3::bigint, 'in part: replay');
SELECT public.refuses(format('ledger.reverse_transaction(%s, %L, 5, %L)', :d3, 'x', public.id('v3')), 'LG002', 'in part: the same reference, another amount');
SELECT is(ledger.credit_user_usdc(:alice, 10, 'deposit', public.id('d3')), :d3::bigint, 'in part: the original''s replay is still one');
SELECT public.refuses(format('ledger.reverse_transaction(%s, %L, 6.01, %L)', :d3, 'x', public.id('v4')), 'LG011', 'in part: more than is left', format('Transaction %s has reversed it; reversed so far is 4.00 of 10.00.', :v3));
SELECT public.refuses(format('ledger.reverse_transaction(%s, %L)', :d3, 'x'), 'LG011', 'whole after a part: more than is left');
SELECT ledger.reverse_transaction(:d3, 'rest', 6, public.id('v4')) AS v4 \gset
SELECT is((SELECT t.reversed_by FROM ledger.transactions t WHERE t.id = :d3), :v4::bigint, 'in part: the newest is shown');
SELECT public.refuses(format('ledger.credit_user_usdc(%L, 10, %L, %L)', :alice, 'deposit', public.id('d3')), 'LG002', 'in parts that add up to the whole: no replay', format('%%transaction %s has reversed it%%', :v4));
SELECT ledger.credit_user_usdc(:alice, 10, 'deposit', public.id('d4')) AS d4 \gset
SELECT public.refuses(format('ledger.reverse_transaction(%s, %L, 10.01, %L)', :d4, 'x', public.id('v5')), 'LG011', 'more than there was', 'The amount is more than the transaction moved.');

-- below zero
SELECT ok(ledger.debit_user_usdc(:alice, 7, 'spent') > 0, 'spent');
SELECT public.refuses(format('ledger.reverse_transaction(%s, %L)', :d4, 'x'), 'LG001', 'of what was spent');
SELECT ok(ledger.reverse_transaction(:d4, 'what is left', 3, public.id('v6')) > 0, 'but for what is left');
SELECT is(public.has(:alice), '0.00 0.00 0.00', 'balance');

-- conversions: two postings of one amount
SELECT ok(ledger.credit_user_usdc(:bob, 100, 'deposit') > 0);
SELECT ledger.move_funds_to_fiat_exposure(:bob, 60, 'to broker', public.id('m1')) AS m1 \gset
SELECT ledger.reverse_transaction(:m1, 'half', 30, public.id('v7')) AS v7 \gset
SELECT is(public.postings(:v7), 'Dr fx_clearing/USDC Cr usdc_balance@bob 30.00 USDC; Dr fiat_exposure@bob Cr fx_clearing/USD 30.00 USD', 'a conversion in part');
SELECT is(public.has(:bob), '70.00 0.00 30.00', 'a conversion in part: balance');

-- a sale has several amounts: whole only
SELECT ledger.settle_sale(:bob, 10, 12, public.id('s1'), 'f') AS sale \gset
SELECT public.refuses(format('ledger.reverse_transaction(%s, %L, 5, %L)', :sale, 'x', public.id('v8')), 'LG011', 'a sale in part', 'Its postings have several amounts.', '%whole%');
SELECT is(public.postings(ledger.reverse_transaction(:sale, 'not sold')), 'Dr broker_operational Cr fiat_exposure@bob 10.00 USD; Dr fiat_exposure@bob Cr broker_operational 12.00 USD', 'a sale as a whole');
SELECT is(public.has(:bob), '70.00 0.00 30.00', 'a sale as a whole: balance');
SELECT ledger.settle_sale(:bob, 5, 5, public.id('s2')) AS sale2 \gset
SELECT is(public.postings(ledger.reverse_transaction(:sale2, 'part of it', 2, public.id('v9'))), 'Dr broker_operational Cr fiat_exposure@bob 2.00 USD; Dr fiat_exposure@bob Cr broker_operational 2.00 USD', 'a sale at cost in part');

-- the house
SELECT ledger.convert_buffer('system_buffer_usdc', 'system_buffer_fiat', 10, 10.5) AS swap \gset
SELECT is(public.postings(ledger.reverse_transaction(:swap, 'not done')), 'Dr system_buffer_usdc Cr fx_clearing/USDC 10.00 USDC; Dr fx_clearing/USD Cr system_buffer_fiat 10.00 USD; Dr house_equity/USD Cr system_buffer_fiat 0.50 USD', 'of a house conversion');
SELECT is((SELECT h.header FROM public.header h ORDER BY h.id DESC LIMIT 1), format('reversal|not done|%s|%s', current_user, :swap), 'of a house conversion: no user');

-- of a reserve: the reservation goes back
SELECT ledger.reserve_for_investment(:bob, 40, public.id('o1')) AS r1 \gset
SELECT ok(ledger.reverse_transaction(:r1, 'in part', 15, public.id('v10')) > 0, 'of a reserve in part');
SELECT is(public.reserved(public.id('o1')), '40.00 0.00 15.00 25.00 active', 'of a reserve in part: reservation');
SELECT ok(ledger.execute_investment(:bob, 20, public.id('o1'), 'x1') > 0);
SELECT public.refuses(format('ledger.reverse_transaction(%s, %L, 5.01, %L)', :r1, 'x', public.id('v11')), 'LG011', 'of a reserve: more than its remainder', format('Reservation %s has less left%%', :r1));
SELECT ok(ledger.reverse_transaction(:r1, 'the rest', 5, public.id('v12')) > 0, 'of a reserve: its remainder');
SELECT is(public.reserved(public.id('o1')), '40.00 20.00 20.00 0.00 released', 'of a reserve: nothing remains');
SELECT is(public.has(:bob), '50.00 0.00 50.00', 'of a reserve: balance');
SELECT is(ledger.reserve_for_investment(:bob, 40, public.id('o1')), :r1::bigint, 'of a reserve in part: its replay is still one');
SELECT ledger.reserve_for_investment(:bob, 8, public.id('o2')) AS r2 \gset
SELECT ledger.reverse_transaction(:r2, 'whole') AS v13 \gset
SELECT is(public.reserved(public.id('o2')), '8.00 0.00 8.00 0.00 released', 'of a reserve as a whole');
SELECT public.refuses(format('ledger.reserve_for_investment(%L, 8, %L)', :bob, public.id('o2')), 'LG002', 'of a reserve as a whole: no replay', format('%%%s has reversed it%%', :v13));

-- of an execution: the reservation gets it back
SELECT ok(ledger.reserve_for_investment(:bob, 10, public.id('o3')) > 0);
SELECT ledger.execute_investment(:bob, 10, public.id('o3'), 'x1') AS x3 \gset
SELECT is(public.reserved(public.id('o3')), '10.00 10.00 0.00 0.00 executed', 'executed');
SELECT ledger.reverse_transaction(:x3, 'bust', 4, public.id('v14')) AS v14 \gset
SELECT is(public.postings(:v14), 'Dr fx_clearing/USDC Cr pending_investment@bob 4.00 USDC; Dr fiat_exposure@bob Cr fx_clearing/USD 4.00 USD', 'of an execution in part: money moved');
SELECT is(public.reserved(public.id('o3')), '10.00 6.00 0.00 4.00 active', 'of an execution in part: reservation');
SELECT ok(ledger.execute_investment(:bob, 3, public.id('o3'), 'x2') > 0, 'and it can be drawn on');
SELECT ok(ledger.reverse_transaction(:x3, 'bust', 6, public.id('v15')) > 0, 'of an execution: the rest');
SELECT is(public.reserved(public.id('o3')), '10.00 3.00 0.00 7.00 active', 'of an execution: the rest: reservation');
SELECT public.refuses(format('ledger.reverse_transaction(%s, %L, 0.01, %L)', :x3, 'x', public.id('v16')), 'LG011', 'of an execution: no more than it was');
SELECT public.refuses(format('ledger.execute_investment(%L, 10, %L, %L)', :bob, public.id('o3'), 'x1'), 'LG002', 'of an execution: its replay is none', '%has reversed it%', '%new reference%');

-- of a release: the reservation gets it back, if the money is still there
SELECT ledger.release_reservation(:bob, 7, public.id('o3')) AS l3 \gset
SELECT is(public.reserved(public.id('o3')), '10.00 3.00 7.00 0.00 released', 'released');
SELECT ledger.reverse_transaction(:l3, 'still wanted', 2, public.id('v17')) AS v17 \gset
SELECT is(public.postings(:v17), 'Dr usdc_balance@bob Cr pending_investment@bob 2.00 USDC', 'of a release in part: money moved');
SELECT is(public.reserved(public.id('o3')), '10.00 3.00 5.00 2.00 active', 'of a release in part: reservation');
SELECT ok(ledger.debit_user_usdc(:bob, (SELECT b.usdc_balance FROM ledger.get_user_balance(:bob) b), 'all') > 0);
SELECT public.refuses(format('ledger.reverse_transaction(%s, %L, 5, %L)', :l3, 'x', public.id('v18')), 'LG001', 'of a release: the money is gone');

-- of an expiry
SELECT ok(ledger.credit_user_usdc(:carol, 100, 'deposit') > 0);
SELECT ok(ledger.reserve_for_investment(:carol, 10, public.id('o4'), now() - interval '1 second') > 0);
SELECT is(ledger.expire_reservations(), 1::bigint);
SELECT ok(ledger.reverse_transaction((SELECT max(t.id) FROM ledger.transactions t), 'too early') > 0, 'of an expiry');
SELECT is(public.reserved(public.id('o4')), '10.00 0.00 0.00 10.00 active', 'of an expiry: reservation');
SELECT is(ledger.expire_reservations(), 1::bigint, 'it is due again');

-- of what several reservations gave: the newest gets it first, so the oldest stays first in line
SELECT ledger.reserve_for_investment(:carol, 10) AS f1 \gset
SELECT ledger.reserve_for_investment(:carol, 10) AS f2 \gset
SELECT ledger.execute_investment(:carol, 15, public.id('n1'), 'x') AS fx \gset
SELECT is(public.reserved(:f1) || ' / ' || public.reserved(:f2), '10.00 10.00 0.00 0.00 executed / 10.00 5.00 0.00 5.00 active', 'executed from two');
SELECT ok(ledger.reverse_transaction(:fx, 'part', 7, public.id('v19')) > 0);
SELECT is(public.reserved(:f1) || ' / ' || public.reserved(:f2), '10.00 8.00 0.00 2.00 active / 10.00 0.00 0.00 10.00 active', 'given back to two');
SELECT ok(ledger.reverse_transaction(:fx, 'rest', 8, public.id('v20')) > 0);
SELECT is(public.reserved(:f1) || ' / ' || public.reserved(:f2), '10.00 0.00 0.00 10.00 active / 10.00 0.00 0.00 10.00 active', 'all of it');

-- of post(), and with a frozen account
SELECT ledger.post('swap', ARRAY[ROW(ledger.open_account('usdc_balance', :carol), ledger.open_account('usdc_balance', :alice), 1)::ledger.posting,
	ROW(ledger.open_account('usdc_balance', :carol), ledger.open_account('usdc_balance', :bob), 2)::ledger.posting], user_id => :carol) AS p \gset
SELECT is(public.postings(ledger.reverse_transaction(:p, 'undone')), 'Dr usdc_balance@alice Cr usdc_balance@carol 1.00 USDC; Dr usdc_balance@bob Cr usdc_balance@carol 2.00 USDC', 'of post() with two postings');
SELECT ledger.credit_user_usdc(:dave, 10, 'deposit') AS d9 \gset
SELECT lives_ok(format('SELECT ledger.set_account_status(ledger.open_account(%L, %L), %L, %L)', 'usdc_balance', :dave, 'frozen', 'inquiry'), 'freeze');
SELECT public.refuses(format('ledger.reverse_transaction(%s, %L)', :d9, 'x'), 'LG004', 'frozen');

SELECT is_empty($$SELECT * FROM public.ledger_oracle()$$, 'oracle');
SELECT * FROM finish();
