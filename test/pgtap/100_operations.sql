--
-- Deposits, withdrawals, conversions, sales, the house: what each posts, its
-- type, its key, its replays, and what its key refuses.
--
\ir ../lib/contract.sql
\ir ../lib/refuses.sql
SELECT no_plan();
CREATE VIEW public.header AS
	SELECT t.id, concat_ws('|', t.type, p.name, t.reference_id, t.reference_type, t.description, t.metadata, t.posted_by, t.reverses, t.reversed_by) AS header
	FROM ledger.transactions t LEFT JOIN public.people p ON p.id = t.user_id;

-- credit_user_usdc
SELECT ledger.credit_user_usdc(:alice, 100, 'first deposit', public.id('d1')) AS d1 \gset
SELECT is(public.postings(:d1), 'Dr system_buffer_usdc Cr usdc_balance@alice 100.00 USDC', 'deposit: money moved');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :d1), format('deposit|alice|%s|deposit|first deposit|%s', public.id('d1'), current_user), 'deposit: header');
SELECT is(public.has(:alice), '100.00 0.00 0.00', 'deposit: balance');
SELECT is(public.house('system_buffer_usdc'), 100.00, 'deposit: the buffer grows alike');
SELECT is(ledger.find_transaction(format('credit_user_usdc:deposit:%s', public.id('d1'))), :d1::bigint, 'deposit: found by its key');
SELECT is(ledger.credit_user_usdc(:alice, 100, 'first deposit', public.id('d1')), :d1::bigint, 'deposit: replay');
SELECT is(ledger.credit_user_usdc(:alice, 100.000, 'other words', public.id('d1')), :d1::bigint, 'deposit: replay, described otherwise, amount written otherwise');
SELECT is(ledger.credit_user_usdc(:alice, 100, 'first deposit', public.id('d1'), 'deposit'), :d1::bigint, 'deposit: replay with the type spelled out');
SELECT is(public.has(:alice), '100.00 0.00 0.00', 'deposit: replays move nothing');
SELECT is((SELECT t.description FROM ledger.transactions t WHERE t.id = :d1), 'first deposit', 'deposit: nor do they change the words');
SELECT public.refuses(format('ledger.credit_user_usdc(%L, 100, %L, %L)', :bob, 'x', public.id('d1')), 'LG002', 'deposit: same key, another user', '%another user%', '%new reference%');
SELECT public.refuses(format('ledger.credit_user_usdc(%L, 100.01, %L, %L)', :alice, 'x', public.id('d1')), 'LG002', 'deposit: same key, another amount', '%amount is 100.00%100.01%');
SELECT ledger.credit_user_usdc(:alice, 5, 'bonus', public.id('d1'), 'bonus') AS bonus \gset
SELECT isnt(:bonus, :d1, 'deposit: another reference_type is another key');
SELECT is(ledger.find_transaction(format('credit_user_usdc:bonus:%s', public.id('d1'))), :bonus::bigint, 'deposit: whose text has the type');
SELECT isnt(ledger.credit_user_usdc(:alice, 1, 'a'), ledger.credit_user_usdc(:alice, 1, 'a'), 'deposit: without a reference nothing is deduplicated');
SELECT is((SELECT h.header FROM public.header h ORDER BY h.id DESC LIMIT 1), format('deposit|alice|a|%s', current_user), 'deposit: no reference, no reference_type');
SELECT is(ledger.credit_user_usdc(:alice, 1, '', public.id('empty')) > 0, true, 'deposit: an empty description is one');

-- debit_user_usdc
SELECT ledger.debit_user_usdc(:alice, 8, 'out', public.id('w1')) AS w1 \gset
SELECT is(public.postings(:w1), 'Dr usdc_balance@alice Cr system_buffer_usdc 8.00 USDC', 'withdrawal: money moved');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :w1), format('withdrawal|alice|%s|withdrawal|out|%s', public.id('w1'), current_user), 'withdrawal: header');
SELECT is(public.has(:alice), '100.00 0.00 0.00', 'withdrawal: balance');
SELECT is(ledger.find_transaction(format('debit_user_usdc:withdrawal:%s', public.id('w1'))), :w1::bigint, 'withdrawal: found by its key');
SELECT is(ledger.debit_user_usdc(:alice, 8, 'out', public.id('w1')), :w1::bigint, 'withdrawal: replay');
SELECT public.refuses(format('ledger.debit_user_usdc(%L, 8, %L, %L)', :bob, 'x', public.id('w1')), 'LG002', 'withdrawal: another user');
SELECT public.refuses(format('ledger.debit_user_usdc(%L, 9, %L, %L)', :alice, 'x', public.id('w1')), 'LG002', 'withdrawal: another amount');
SELECT public.refuses(format('ledger.debit_user_usdc(%L, 100.000000000000000001, %L)', :alice, 'x'), 'LG001', 'withdrawal: more than there is', 'Available is 100.00 USDC, the posting needs 100.000000000000000001 USDC.', '%smaller amount%');
SELECT public.refuses(format('ledger.debit_user_usdc(%L, 1, %L)', :nobody, 'x'), 'LG001', 'withdrawal: from somebody unknown', 'Available is 0.00 USDC%');
SELECT is(ledger.credit_user_usdc(:alice, 100, 'first deposit', public.id('w1')) > :w1, true, 'the same reference for another operation is another key');
SELECT lives_ok(format('SELECT ledger.debit_user_usdc(%L, 200, %L)', :alice, 'all of it'), 'withdrawal: to zero');
SELECT is(public.has(:alice), '0.00 0.00 0.00', 'withdrawal: zero is 0.00');

-- move_funds_to_fiat_exposure, move_funds_to_usdc
SELECT ok(ledger.credit_user_usdc(:bob, 50, 'in') > 0);
SELECT ledger.move_funds_to_fiat_exposure(:bob, 30.5, 'to broker', public.id('m1')) AS m1 \gset
SELECT is(public.postings(:m1), 'Dr usdc_balance@bob Cr fx_clearing/USDC 30.50 USDC; Dr fx_clearing/USD Cr fiat_exposure@bob 30.50 USD', 'to fiat: money moved');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :m1), format('conversion|bob|%s|conversion|to broker|%s', public.id('m1'), current_user), 'to fiat: header');
SELECT is(public.has(:bob), '19.50 0.00 30.50', 'to fiat: balance');
SELECT is(ledger.find_transaction(format('move_funds_to_fiat_exposure:conversion:%s', public.id('m1'))), :m1::bigint, 'to fiat: found by its key');
SELECT is(ledger.move_funds_to_fiat_exposure(:bob, 30.5, 'again', public.id('m1')), :m1::bigint, 'to fiat: replay');
SELECT public.refuses(format('ledger.move_funds_to_fiat_exposure(%L, 30.5, %L, %L)', :alice, 'x', public.id('m1')), 'LG002', 'to fiat: another user');
SELECT public.refuses(format('ledger.move_funds_to_fiat_exposure(%L, 30, %L, %L)', :bob, 'x', public.id('m1')), 'LG002', 'to fiat: another amount');
SELECT public.refuses(format('ledger.move_funds_to_fiat_exposure(%L, 19.51, %L)', :bob, 'x'), 'LG001', 'to fiat: more than there is');
SELECT ledger.move_funds_to_usdc(:bob, 0.5, 'back', public.id('m1')) AS m2 \gset
SELECT is(public.postings(:m2), 'Dr fiat_exposure@bob Cr fx_clearing/USD 0.50 USD; Dr fx_clearing/USDC Cr usdc_balance@bob 0.50 USDC', 'to usdc: money moved');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :m2), format('conversion|bob|%s|conversion|back|%s', public.id('m1'), current_user), 'to usdc: header');
SELECT is(ledger.find_transaction(format('move_funds_to_usdc:conversion:%s', public.id('m1'))), :m2::bigint, 'to usdc: found by its key');
SELECT is(ledger.move_funds_to_usdc(:bob, 0.5, 'back', public.id('m1')), :m2::bigint, 'to usdc: replay');
SELECT public.refuses(format('ledger.move_funds_to_usdc(%L, 0.5, %L, %L)', :alice, 'x', public.id('m1')), 'LG002', 'to usdc: another user');
SELECT public.refuses(format('ledger.move_funds_to_usdc(%L, 0.4, %L, %L)', :bob, 'x', public.id('m1')), 'LG002', 'to usdc: another amount');
SELECT public.refuses(format('ledger.move_funds_to_usdc(%L, 30.01, %L)', :bob, 'x'), 'LG001', 'to usdc: more than there is', 'Available is 30.00 USD, the posting needs 30.01 USD.');
SELECT is(public.has(:bob), '20.00 0.00 30.00', 'balance after both');
SELECT is(concat_ws(' ', public.house('fx_clearing', 'USDC'), public.house('fx_clearing', 'USD')), '30.00 -30.00', 'treasury''s open position');

-- settle_sale: at a gain, at a loss, at cost
SELECT ledger.settle_sale(:bob, 10, 12.5, public.id('o1'), 's-1') AS gain \gset
SELECT is(public.postings(:gain), 'Dr fiat_exposure@bob Cr broker_operational 10.00 USD; Dr broker_operational Cr fiat_exposure@bob 12.50 USD', 'sale at a gain: money moved');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :gain), format('investment|bob|%s|order|%s', public.id('o1'), current_user), 'sale: header');
SELECT is(public.has(:bob), '20.00 0.00 32.50', 'sale at a gain: balance');
SELECT is(public.house('broker_operational'), 2.50, 'sale at a gain: the broker holds more');
SELECT is(ledger.find_transaction(format('settle_sale:%s:s-1', public.id('o1'))), :gain::bigint, 'sale: found by its key');
SELECT ledger.settle_sale(:bob, 10, 4, public.id('o1'), 's-2') AS loss \gset
SELECT is(public.has(:bob), '20.00 0.00 26.50', 'sale at a loss: balance');
SELECT is(public.house('broker_operational'), -3.50, 'sale at a loss: the broker holds less');
SELECT ledger.settle_sale(:bob, 5, 5, public.id('o2')) AS even \gset
SELECT is(public.has(:bob), '20.00 0.00 26.50', 'sale at cost: balance');
SELECT is(ledger.find_transaction(format('settle_sale:%s', public.id('o2'))), :even::bigint, 'sale without fill_id: the key is the order alone');
SELECT is(ledger.settle_sale(:bob, 10, 12.5, public.id('o1'), 's-1'), :gain::bigint, 'sale: replay');
SELECT public.refuses(format('ledger.settle_sale(%L, 10, 12.5, %L, %L)', :alice, public.id('o1'), 's-1'), 'LG002', 'sale: another user');
SELECT public.refuses(format('ledger.settle_sale(%L, 10, 12.6, %L, %L)', :bob, public.id('o1'), 's-1'), 'LG002', 'sale: other proceeds');
SELECT public.refuses(format('ledger.settle_sale(%L, 9, 12.5, %L, %L)', :bob, public.id('o1'), 's-1'), 'LG002', 'sale: another cost');
SELECT public.refuses(format('ledger.settle_sale(%L, 6, 6, %L)', :bob, public.id('o2')), 'LG002', 'sale without fill_id: another amount', NULL, '%execution id%');
SELECT lives_ok(format('SELECT ledger.settle_sale(%L, 100, 80, %L, %L)', :bob, public.id('o3'), 'f'), 'sale: below zero in between, above at the end');
SELECT is(public.has(:bob), '20.00 0.00 6.50', 'sale: the final balance is what is limited');
SELECT public.refuses(format('ledger.settle_sale(%L, 100, 80, %L, %L)', :bob, public.id('o3'), 'g'), 'LG001', 'sale: a loss of more than there is');

-- convert_buffer: equal, gain, loss
SELECT ledger.convert_buffer('system_buffer_usdc', 'system_buffer_fiat', 10) AS equal \gset
SELECT is(public.postings(:equal), 'Dr fx_clearing/USDC Cr system_buffer_usdc 10.00 USDC; Dr system_buffer_fiat Cr fx_clearing/USD 10.00 USD', 'conversion 1:1: money moved');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :equal), format('conversion|%s', current_user), 'house conversion: header');
SELECT is(public.house('house_equity', 'USD'), NULL, 'conversion 1:1: no gain');
SELECT ledger.convert_buffer('system_buffer_usdc', 'system_buffer_fiat', 10, 10.02, public.id('c1')) AS better \gset
SELECT is(public.postings(:better), 'Dr fx_clearing/USDC Cr system_buffer_usdc 10.00 USDC; Dr system_buffer_fiat Cr fx_clearing/USD 10.00 USD; Dr system_buffer_fiat Cr house_equity/USD 0.02 USD', 'conversion at a gain: money moved');
SELECT is(public.house('house_equity', 'USD'), 0.02, 'conversion at a gain: equity');
SELECT ledger.convert_buffer('system_buffer_fiat', 'system_buffer_usdc', 10, 9.95, public.id('c2')) AS worse \gset
SELECT is(public.postings(:worse), 'Dr fx_clearing/USD Cr system_buffer_fiat 10.00 USD; Dr system_buffer_usdc Cr fx_clearing/USDC 9.95 USDC; Dr house_equity/USDC Cr fx_clearing/USDC 0.05 USDC', 'conversion at a loss: money moved');
SELECT is(public.house('house_equity', 'USDC'), -0.05, 'conversion at a loss: equity');
SELECT is(public.house('fx_clearing', 'USDC') + public.house('fx_clearing', 'USD'), 0.00, 'fx_clearing moves 1:1');
SELECT is(ledger.find_transaction(format('convert_buffer:conversion:%s', public.id('c1'))), :better::bigint, 'conversion: found by its key');
SELECT is(ledger.convert_buffer('system_buffer_usdc', 'system_buffer_fiat', 10, 10.02, public.id('c1')), :better::bigint, 'conversion: replay');
SELECT public.refuses(format('ledger.convert_buffer(%L, %L, 10, 10.03, %L)', 'system_buffer_usdc', 'system_buffer_fiat', public.id('c1')), 'LG002', 'conversion: another amount received');
SELECT public.refuses(format('ledger.convert_buffer(%L, %L, 10, 9, %L)', 'system_buffer_usdc', 'system_buffer_fiat', public.id('c1')), 'LG002', 'conversion: a loss instead of a gain');
SELECT public.refuses(format('ledger.convert_buffer(%L, %L, 10, NULL, %L)', 'system_buffer_usdc', 'system_buffer_fiat', public.id('c1')), 'LG002', 'conversion: 1:1 instead of a gain');
SELECT public.refuses(format('ledger.convert_buffer(%L, %L, 10, 10.02, %L)', 'system_buffer_usdc', 'broker_operational', public.id('c1')), 'LG002', 'conversion: into another account');
SELECT public.refuses('ledger.convert_buffer(''system_buffer_fiat'', ''broker_operational'', 1)', 'LG010', 'conversion: within one currency');
SELECT public.refuses('ledger.convert_buffer(''usdc_balance'', ''system_buffer_fiat'', 1)', 'LG010', 'conversion: from a user''s type');
SELECT public.refuses('ledger.convert_buffer(''system_buffer_usdc'', ''house_equity'', 1)', 'LG010', 'conversion: into what is no buffer');

-- fund_broker, replenish_buffer
SELECT ledger.fund_broker(7, public.id('f1')) AS funded \gset
SELECT is(public.postings(:funded), 'Dr broker_operational Cr system_buffer_fiat 7.00 USD', 'funding: money moved');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :funded), format('internal_transfer|%s|funding|%s', public.id('f1'), current_user), 'funding: header');
SELECT is(ledger.find_transaction(format('fund_broker:funding:%s', public.id('f1'))), :funded::bigint, 'funding: found by its key');
SELECT is(ledger.fund_broker(7, public.id('f1')), :funded::bigint, 'funding: replay');
SELECT public.refuses(format('ledger.fund_broker(8, %L)', public.id('f1')), 'LG002', 'funding: another amount');
SELECT ledger.replenish_buffer('system_buffer_usdc', 25, public.id('r1')) AS replenished \gset
SELECT is(public.postings(:replenished), 'Dr system_buffer_usdc Cr house_equity/USDC 25.00 USDC', 'replenishment: money moved');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :replenished), format('buffer_replenishment|%s|replenishment|%s', public.id('r1'), current_user), 'replenishment: header');
SELECT is(public.postings(ledger.replenish_buffer('broker_operational', 3)), 'Dr broker_operational Cr house_equity/USD 3.00 USD', 'replenishment: in the buffer''s currency');
SELECT is(ledger.find_transaction(format('replenish_buffer:replenishment:%s', public.id('r1'))), :replenished::bigint, 'replenishment: found by its key');
SELECT is(ledger.replenish_buffer('system_buffer_usdc', 25, public.id('r1')), :replenished::bigint, 'replenishment: replay');
SELECT public.refuses(format('ledger.replenish_buffer(%L, 26, %L)', 'system_buffer_usdc', public.id('r1')), 'LG002', 'replenishment: another amount');
SELECT public.refuses(format('ledger.replenish_buffer(%L, 25, %L)', 'system_buffer_fiat', public.id('r1')), 'LG002', 'replenishment: another account', '%other accounts%');
SELECT public.refuses('ledger.replenish_buffer(''fx_clearing'', 1)', 'LG010', 'replenishment: of what is no buffer');

-- open_house_balance: once for each account
SELECT ledger.open_house_balance('system_buffer_fiat', 'USD', 1000, 'bank statement') AS opened \gset
SELECT is(public.postings(:opened), 'Dr system_buffer_fiat Cr opening_balance/USD 1000.00 USD', 'opening of what is owned: money moved');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :opened), format('opening|bank statement|%s', current_user), 'opening: header');
SELECT is(public.postings(ledger.open_house_balance('house_equity', 'USD', 5, 'capital')), 'Dr opening_balance/USD Cr house_equity/USD 5.00 USD', 'opening of what is owed: the other way round');
SELECT is(ledger.open_house_balance('system_buffer_fiat', 'USD', 1000, 'bank statement'), :opened::bigint, 'opening: replay');
SELECT public.refuses('ledger.open_house_balance(''system_buffer_fiat'', ''USD'', 1001, ''again'')', 'LG002', 'opening: another amount');
SELECT public.refuses('ledger.open_house_balance(''usdc_balance'', ''USDC'', 1, ''x'')', 'LG010', 'opening: of a user''s type');
SELECT public.refuses('ledger.open_house_balance(''system_buffer_fiat'', ''USDC'', 1, ''x'')', 'LG010', 'opening: in another currency');
SELECT public.refuses('ledger.open_house_balance(''opening_balance'', ''USD'', 1, ''x'')', 'LG010', 'opening: of opening_balance itself');

-- amounts: normalised, exact, up to 20 digits before and 18 after the point
SELECT ledger.credit_user_usdc(:carol, 100.00::numeric(36,18), 'x') AS legacy \gset
SELECT is((SELECT e.amount::text FROM ledger.entries e WHERE e.transaction_id = :legacy AND e.direction = 'debit'), '100.00', '100.000000000000000000 reads 100.00');
SELECT is(public.has(:carol), '100.00 0.00 0.00', 'so does the balance');
SELECT is(public.postings(ledger.credit_user_usdc(:carol, 5, 'x')), 'Dr system_buffer_usdc Cr usdc_balance@carol 5.00 USDC', '5 reads 5.00');
SELECT is(public.postings(ledger.credit_user_usdc(:carol, 0.1230, 'x')), 'Dr system_buffer_usdc Cr usdc_balance@carol 0.123 USDC', '0.1230 reads 0.123');
SELECT is(public.postings(ledger.credit_user_usdc(:carol, 0.877000000000000000000000000, 'x')), 'Dr system_buffer_usdc Cr usdc_balance@carol 0.877 USDC', '27 digits of which 24 are zeros are no rounding');
SELECT is(public.has(:carol), '106.00 0.00 0.00', 'fractions that add up lose their zeros');
SELECT is(public.postings(ledger.credit_user_usdc(:dave, 99999999999999999999.999999999999999999, 'x')),
	'Dr system_buffer_usdc Cr usdc_balance@dave 99999999999999999999.999999999999999999 USDC', '20 digits before and 18 after the point');
SELECT is(public.postings(ledger.credit_user_usdc(:dave, 0.000000000000000001, 'x')), 'Dr system_buffer_usdc Cr usdc_balance@dave 0.000000000000000001 USDC', 'the smallest amount');
SELECT is(public.has(:dave), '100000000000000000000.00 0.00 0.00', 'and the sum is exact');
SELECT is((SELECT b.total_value::text FROM ledger.get_user_balance(:dave) b), '100000000000000000000.00', 'the total too');
SELECT public.refuses(format('ledger.credit_user_usdc(%L, 100000000000000000000, %L)', :dave, 'x'), 'LG009', '21 digits before the point');
SELECT public.refuses(format('ledger.credit_user_usdc(%L, 0.0000000000000000001, %L)', :dave, 'x'), 'LG009', '19 digits after the point');
SELECT public.refuses(format('ledger.debit_user_usdc(%L, 100000000000000000000, %L)', :dave, 'x'), 'LG009', 'a balance of 21 digits is not an amount');

-- key texts: what somebody else's text cannot be
SELECT is(ledger.find_transaction('credit_user_usdc:deposit:' || gen_random_uuid()), NULL, 'a key that nobody has');
SELECT is(ledger.find_transaction('no uuid at all'), NULL, 'a text without a uuid');

SELECT is_empty($$SELECT * FROM public.ledger_oracle()$$, 'oracle');
SELECT * FROM finish();
