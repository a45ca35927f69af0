--
-- Reservations: reserve, execute, release, expire; what an order draws on.
--
\ir ../lib/contract.sql
\ir ../lib/refuses.sql
SELECT no_plan();
CREATE VIEW public.header AS
	SELECT t.id, concat_ws('|', t.type, p.name, t.reference_id, t.reference_type, t.description, t.metadata, t.posted_by, t.reverses, t.reversed_by) AS header
	FROM ledger.transactions t LEFT JOIN public.people p ON p.id = t.user_id;
SELECT ok(ledger.credit_user_usdc(u, 1000, 'deposit') > 0) FROM unnest(ARRAY[:alice, :bob, :carol]::uuid[]) u;

-- reserve
SELECT ledger.reserve_for_investment(:alice, 100, public.id('o1')) AS r1 \gset
SELECT is(public.postings(:r1), 'Dr usdc_balance@alice Cr pending_investment@alice 100.00 USDC', 'reserve: money moved');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :r1), format('internal_transfer|alice|%s|order|%s', public.id('o1'), current_user), 'reserve: header');
SELECT is(public.has(:alice), '900.00 100.00 0.00', 'reserve: balance');
SELECT is(public.reserved(public.id('o1')), '100.00 0.00 0.00 100.00 active', 'reserve: reservation');
SELECT is((SELECT r.id FROM ledger.reservations r WHERE r.order_id = public.id('o1')), :r1::bigint, 'reserve: the reservation''s id is the transaction''s');
SELECT results_eq(format('SELECT r.created_at, r.user_id FROM ledger.reservations r WHERE r.id = %s', :r1),
	format('SELECT t.created_at, t.user_id FROM ledger.transactions t WHERE t.id = %s', :r1), 'reserve: at the transaction''s time');
SELECT is(ledger.find_transaction(format('reserve_for_investment:order:%s', public.id('o1'))), :r1::bigint, 'reserve: found by its key');
SELECT is(ledger.reserve_for_investment(:alice, 100, public.id('o1')), :r1::bigint, 'reserve: replay');
SELECT is(ledger.reserve_for_investment(:alice, 100, public.id('o1'), now() + interval '1 day'), :r1::bigint, 'reserve: replay with another expiry');
SELECT is((SELECT r.expires_at FROM ledger.reservations r WHERE r.id = :r1), NULL, 'reserve: which it does not change');
SELECT is((SELECT count(*) FROM ledger.reservations), 1::bigint, 'reserve: one reservation');
SELECT public.refuses(format('ledger.reserve_for_investment(%L, 100, %L)', :bob, public.id('o1')), 'LG002', 'reserve: another user''s order');
SELECT public.refuses(format('ledger.reserve_for_investment(%L, 101, %L)', :alice, public.id('o1')), 'LG002', 'reserve: another amount');
SELECT public.refuses(format('ledger.reserve_for_investment(%L, 900.01, %L)', :alice, public.id('o2')), 'LG001', 'reserve: more than is free');

-- execute: partial fills with the broker's execution ids
SELECT ledger.execute_investment(:alice, 40, public.id('o1'), 'x-1') AS x1 \gset
SELECT is(public.postings(:x1), 'Dr pending_investment@alice Cr fx_clearing/USDC 40.00 USDC; Dr fx_clearing/USD Cr fiat_exposure@alice 40.00 USD', 'execute: money moved');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :x1), format('investment|alice|%s|order|%s', public.id('o1'), current_user), 'execute: header');
SELECT is(public.has(:alice), '900.00 60.00 40.00', 'execute: balance');
SELECT is(public.reserved(public.id('o1')), '100.00 40.00 0.00 60.00 active', 'execute: reservation');
SELECT is(ledger.find_transaction(format('execute_investment:%s:x-1', public.id('o1'))), :x1::bigint, 'execute: found by its key');
SELECT is(ledger.execute_investment(:alice, 40, public.id('o1'), 'x-1'), :x1::bigint, 'execute: replay');
SELECT public.refuses(format('ledger.execute_investment(%L, 41, %L, %L)', :alice, public.id('o1'), 'x-1'), 'LG002', 'execute: the same fill, another amount');
SELECT public.refuses(format('ledger.execute_investment(%L, 40, %L, %L)', :bob, public.id('o1'), 'x-1'), 'LG002', 'execute: the same fill, another user');
SELECT public.refuses(format('ledger.execute_investment(%L, 10, %L, %L)', :bob, public.id('o1'), 'x-2'), 'LG008', 'execute: another user''s order', 'The order is another user''s.');
SELECT public.refuses(format('ledger.execute_investment(%L, 60.000000000000000001, %L, %L)', :alice, public.id('o1'), 'x-2'), 'LG008', 'execute: more than the remainder', 'Left is 60.00 USDC, wanted are 60.000000000000000001 USDC.');
SELECT ledger.execute_investment(:alice, 20, public.id('o1'), 'x-2') AS x2 \gset
SELECT isnt(:x1, :x2, 'execute: a second fill');

-- execute without fill_id: keyed on the order alone
SELECT ok(ledger.reserve_for_investment(:bob, 50, public.id('b1')) > 0, 'another order');
SELECT ledger.execute_investment(:bob, 30, public.id('b1')) AS whole \gset
SELECT is(ledger.find_transaction(format('execute_investment:%s', public.id('b1'))), :whole::bigint, 'no fill_id: found by the order');
SELECT is(ledger.execute_investment(:bob, 30, public.id('b1')), :whole::bigint, 'no fill_id: the same amount is a replay');
SELECT public.refuses(format('ledger.execute_investment(%L, 20, %L)', :bob, public.id('b1')), 'LG002', 'no fill_id: another amount', NULL, '%execution id%fill_id%partial fills%');
SELECT lives_ok(format('SELECT ledger.execute_investment(%L, 20, %L, %L)', :bob, public.id('b1'), 'rest'), 'no fill_id: a fill with one goes on');
SELECT is(public.reserved(public.id('b1')), '50.00 50.00 0.00 0.00 executed', 'executed to the last cent');
SELECT is(ledger.execute_investment(:bob, 30, public.id('b1')), :whole::bigint, 'no fill_id: a replay after it is used up');
SELECT public.refuses(format('ledger.execute_investment(%L, 1, %L, %L)', :bob, public.id('b1'), 'late'), 'LG008', 'used up: no more fills', 'Left is 0.00 USDC%');

-- release
SELECT ledger.release_reservation(:alice, 15, public.id('o1'), 'cut') AS part \gset
SELECT is(public.postings(:part), 'Dr pending_investment@alice Cr usdc_balance@alice 15.00 USDC', 'release: money moved');
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :part), format('internal_transfer|alice|%s|order|%s', public.id('o1'), current_user), 'release: header');
SELECT is(public.reserved(public.id('o1')), '100.00 60.00 15.00 25.00 active', 'release: reservation');
SELECT is(ledger.find_transaction(format('release_reservation:%s:cut', public.id('o1'))), :part::bigint, 'partial release: found by its key');
SELECT is(ledger.release_reservation(:alice, 15, public.id('o1'), 'cut'), :part::bigint, 'partial release: replay');
SELECT public.refuses(format('ledger.release_reservation(%L, 14, %L, %L)', :alice, public.id('o1'), 'cut'), 'LG002', 'partial release: another amount');
SELECT public.refuses(format('ledger.release_reservation(%L, 25.01, %L)', :alice, public.id('o1')), 'LG008', 'partial release: more than is left');
SELECT public.refuses(format('ledger.release_reservation(%L, 1, %L)', :bob, public.id('o1')), 'LG008', 'release: another user''s order');
SELECT public.refuses(format('ledger.release_reservation(%L, NULL, %L)', :bob, public.id('o1')), 'LG008', 'release of the rest: another user''s order');
SELECT isnt(ledger.release_reservation(:alice, 5, public.id('o1')), ledger.release_reservation(:alice, 5, public.id('o1')), 'partial release without release_id: not deduplicated');
SELECT ledger.release_reservation(:alice, NULL, public.id('o1')) AS rest \gset
SELECT is(public.postings(:rest), 'Dr pending_investment@alice Cr usdc_balance@alice 15.00 USDC', 'release of the rest: what is left');
SELECT is(public.reserved(public.id('o1')), '100.00 60.00 40.00 0.00 released', 'release of the rest: reservation');
SELECT is(ledger.release_reservation(:alice, NULL, public.id('o1')), NULL, 'release of the rest: nothing left is NULL');
SELECT is(ledger.release_reservation(:alice, NULL, public.id('o1'), 'again'), NULL, 'release of the rest: with a release_id too');
SELECT is(ledger.release_reservation(:bob, NULL, public.id('b1')), NULL, 'release of the rest: of an order executed whole');
SELECT is(public.has(:alice), '940.00 0.00 60.00', 'release: balance');
SELECT public.refuses(format('ledger.execute_investment(%L, 1, %L, %L)', :alice, public.id('o1'), 'late'), 'LG008', 'cancelled: no more fills');
SELECT is(ledger.execute_investment(:alice, 40, public.id('o1'), 'x-1'), :x1::bigint, 'cancelled: a replay of an earlier fill');
SELECT is(ledger.reserve_for_investment(:alice, 100, public.id('o1')), :r1::bigint, 'an order is reserved for once, ever');

-- without an order: oldest first
SELECT ledger.reserve_for_investment(:carol, 10) AS f1 \gset
SELECT ledger.reserve_for_investment(:carol, 20) AS f2 \gset
SELECT ledger.reserve_for_investment(:carol, 30, public.id('c1')) AS fo \gset
SELECT ledger.reserve_for_investment(:carol, 40) AS f3 \gset
SELECT is((SELECT h.header FROM public.header h WHERE h.id = :f1), format('internal_transfer|carol|%s', current_user), 'no order: header');
SELECT ok(ledger.execute_investment(:carol, 25, public.id('never reserved'), 'y-1') > 0, 'an order that never had one draws on those without');
SELECT is(public.reserved(:f1), '10.00 10.00 0.00 0.00 executed', 'the oldest first');
SELECT is(public.reserved(:f2), '20.00 15.00 0.00 5.00 active', 'then the next');
SELECT is(public.reserved(:f3), '40.00 0.00 0.00 40.00 active', 'not the last');
SELECT is(public.reserved(:fo), '30.00 0.00 0.00 30.00 active', 'not that with an order');
SELECT public.refuses(format('ledger.execute_investment(%L, 45.01, %L, %L)', :carol, public.id('never reserved'), 'y-2'), 'LG008', 'more than those without an order have', 'Left is 45.00 USDC%');
SELECT public.refuses(format('ledger.execute_investment(%L, 30.01, %L, %L)', :carol, public.id('c1'), 'z-1'), 'LG008', 'an order with one draws on that one only', 'Left is 30.00 USDC%');
SELECT ok(ledger.release_reservation(:carol, 6) > 0, 'a release without an order');
SELECT is(public.reserved(:f2), '20.00 15.00 5.00 0.00 released', 'takes the oldest first too');
SELECT is(public.reserved(:f3), '40.00 0.00 1.00 39.00 active', 'and the rest from the next');
SELECT ok(ledger.execute_investment(:carol, 30, public.id('c1'), 'z-1') > 0, 'the order''s is used up');
SELECT public.refuses(format('ledger.execute_investment(%L, 1, %L, %L)', :carol, public.id('c1'), 'z-2'), 'LG008', 'an order that had one draws on that one only', 'Left is 0.00 USDC%');
SELECT is(ledger.release_reservation(:carol, NULL, public.id('c1')), NULL, 'nor does its release take from the others');
SELECT is(public.reserved(:f3), '40.00 0.00 1.00 39.00 active', 'which stay');
SELECT ledger.release_reservation(:carol) AS all_free \gset
SELECT is(public.postings(:all_free), 'Dr pending_investment@carol Cr usdc_balance@carol 39.00 USDC', 'a release of all that is left');
SELECT is(ledger.release_reservation(:carol), NULL, 'and again: NULL');
SELECT is(ledger.release_reservation(:carol, NULL, public.id('never reserved')), NULL, 'of an order that never had one: NULL');
SELECT public.refuses(format('ledger.release_reservation(%L, 1)', :carol), 'LG008', 'a release of something where nothing is');
SELECT is(ledger.release_reservation(:nobody), NULL, 'somebody unknown has nothing to release');
SELECT public.refuses(format('ledger.execute_investment(%L, 1, %L)', :nobody, public.id('n1')), 'LG008', 'nor to execute');
SELECT is(public.has(:carol), '945.00 0.00 55.00', 'balance after all of it');

-- a partial release without an order, deduplicated per user
SELECT ok(ledger.reserve_for_investment(u, 10) > 0) FROM unnest(ARRAY[:alice, :bob]::uuid[]) u;
SELECT ledger.release_reservation(:alice, 4, NULL, 'same') AS alices \gset
SELECT is(ledger.release_reservation(:alice, 4, NULL, 'same'), :alices::bigint, 'no order: a release_id deduplicates');
SELECT isnt(ledger.release_reservation(:bob, 4, NULL, 'same'), :alices::bigint, 'no order: each user has his own');
SELECT ok(ledger.release_reservation(u) > 0) FROM unnest(ARRAY[:alice, :bob]::uuid[]) u;

-- expiry
SELECT ok(ledger.credit_user_usdc(:dave, 100, 'deposit') > 0);
SELECT ledger.reserve_for_investment(:dave, 10, public.id('e1'), now() - interval '1 hour') AS e1 \gset
SELECT ledger.reserve_for_investment(:dave, 20, public.id('e2'), now() - interval '1 minute') AS e2 \gset
SELECT ledger.reserve_for_investment(:dave, 30, public.id('e3'), now() + interval '1 hour') AS e3 \gset
SELECT ledger.reserve_for_investment(:dave, 5, NULL, now() - interval '1 second') AS e4 \gset
SELECT ok(ledger.execute_investment(:dave, 4, public.id('e1'), 'late') > 0, 'due, not yet released: a fill still succeeds');
SELECT is(ledger.expire_reservations(1), 1::bigint, 'expiry: as many as asked for');
SELECT is(public.reserved(public.id('e1')), '10.00 4.00 6.00 0.00 expired', 'expiry: the longest due first, its remainder');
SELECT is(public.reserved(public.id('e2')), '20.00 0.00 0.00 20.00 active', 'expiry: the next waits');
SELECT is(ledger.expire_reservations(), 2::bigint, 'expiry: the rest of what is due');
SELECT is(public.reserved(public.id('e2')), '20.00 0.00 20.00 0.00 expired', 'expiry: with an order');
SELECT is(public.reserved(:e4), '5.00 0.00 5.00 0.00 expired', 'expiry: without an order');
SELECT is(public.reserved(public.id('e3')), '30.00 0.00 0.00 30.00 active', 'expiry: not what is not due');
SELECT is(ledger.expire_reservations(), 0::bigint, 'expiry: nothing left');
SELECT is((SELECT string_agg(public.postings(t.id) || ' ' || t.type, '; ' ORDER BY t.id) FROM ledger.transactions t WHERE t.id > :e4 AND t.type = 'internal_transfer'),
	'Dr pending_investment@dave Cr usdc_balance@dave 6.00 USDC internal_transfer; Dr pending_investment@dave Cr usdc_balance@dave 20.00 USDC internal_transfer; Dr pending_investment@dave Cr usdc_balance@dave 5.00 USDC internal_transfer',
	'expiry: money moved');
SELECT is(public.has(:dave), '66.00 30.00 4.00', 'expiry: balance');
SELECT public.refuses(format('ledger.execute_investment(%L, 1, %L, %L)', :dave, public.id('e2'), 'later'), 'LG008', 'expired: no more fills');
SELECT is(ledger.release_reservation(:dave, NULL, public.id('e2')), NULL, 'expired: a cancel is NULL');
SELECT is(ledger.reserve_for_investment(:dave, 20, public.id('e2')), :e2::bigint, 'expired: a replay of the reserve is its first id');

-- nothing but these may touch pending_investment
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(ledger.open_account(%L, %L), ledger.open_account(%L, %L), 1)::ledger.posting])',
	'theft', 'pending_investment', :dave, 'usdc_balance', :dave), 'LG010', 'post() from pending_investment', '%sum of open reservations%', '%release_reservation()%');
SELECT public.refuses(format('ledger.post(%L, ARRAY[ROW(ledger.open_account(%L, %L), ledger.open_account(%L, %L), 1)::ledger.posting])',
	'gift', 'usdc_balance', :dave, 'pending_investment', :dave), 'LG010', 'post() to pending_investment');

-- a frozen account
SELECT ok(ledger.reserve_for_investment(u, 1, public.id('due' || u), now() - interval '1 minute') > 0) FROM unnest(ARRAY[:alice, :dave]::uuid[]) u;
SELECT lives_ok(format('SELECT ledger.set_account_status(ledger.open_account(%L, %L), %L, %L)', 'pending_investment', :dave, 'frozen', 'inquiry'), 'freeze');
SELECT public.refuses(format('ledger.execute_investment(%L, 1, %L, %L)', :dave, public.id('e3'), 'f'), 'LG004', 'frozen: no fill');
SELECT public.refuses(format('ledger.release_reservation(%L, NULL, %L)', :dave, public.id('e3')), 'LG004', 'frozen: no release');
SELECT public.refuses(format('ledger.reserve_for_investment(%L, 1, %L)', :dave, public.id('e5')), 'LG004', 'frozen: no reserve');
SELECT is(ledger.expire_reservations(), 1::bigint, 'frozen: no expiry, but of others');
SELECT is(public.reserved(public.id('due' || :dave)), '1.00 0.00 0.00 1.00 active', 'frozen: the reservation stays');
SELECT lives_ok(format('SELECT ledger.set_account_status(ledger.open_account(%L, %L), %L, %L)', 'pending_investment', :dave, 'open', 'over'), 'thaw');
SELECT is(ledger.expire_reservations(), 1::bigint, 'thawed: expiry');
SELECT ok(ledger.execute_investment(:dave, 1, public.id('e3'), 'f') > 0, 'and on it goes');

SELECT is_empty($$SELECT r.user_id FROM ledger.reservations r GROUP BY r.user_id
	HAVING sum(r.remaining) <> ledger.get_account_balance(r.user_id, 'pending_investment')$$,
	'open remainders are the balance of pending_investment');
SELECT is_empty($$SELECT * FROM public.ledger_oracle()$$, 'oracle');
SELECT * FROM finish();
