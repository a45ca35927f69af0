--
-- Reservations: an order's and those without one, fills, releases, expiry.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database ledger_reservations
\set fresh :srcdir '/test/lib/fresh.sql'
\set done :srcdir '/test/lib/done.sql'
\i :fresh
\set ECHO all
CREATE VIEW public.shown AS
	SELECT r.id, (SELECT p.name FROM public.people p WHERE p.id = r.user_id) AS user, (SELECT w FROM unnest(ARRAY['o1', 'o2', 'o3', 'o4', 'o5']) w WHERE public.id(w) = r.order_id) AS order,
		r.amount, r.executed, r.released, r.remaining, r.status, r.expires_at IS NOT NULL AS expires
	FROM ledger.reservations r ORDER BY r.id;
SELECT ledger.credit_user_usdc(u, 1000, 'deposit') > 0 AS posted FROM unnest(ARRAY[:alice, :bob]::uuid[]) u;

-- An order with two fills, the rest cancelled; the cancel can be repeated.
SELECT ledger.reserve_for_investment(:alice, 300, public.id('o1')) AS o1 \gset
SELECT ledger.execute_investment(:alice, 100, public.id('o1'), 'fill-1') > 0 AS posted;
SELECT ledger.execute_investment(:alice, 50.000001, public.id('o1'), 'fill-2') > 0 AS posted;
SELECT ledger.release_reservation(:alice, 49.999999, public.id('o1'), 'cut-1') > 0 AS posted;
SELECT * FROM public.shown;
SELECT ledger.release_reservation(:alice, NULL, public.id('o1')) > 0 AS posted;
SELECT ledger.release_reservation(:alice, NULL, public.id('o1')) AS nothing_left;
SELECT public.has(:alice) AS "alice: usdc, pending, fiat";

-- One without an order, used by the next that never had its own, oldest first.
SELECT ledger.reserve_for_investment(:alice, 10) AS first, ledger.reserve_for_investment(:alice, 20) AS second, ledger.reserve_for_investment(:alice, 30, public.id('o2')) AS third;
SELECT ledger.execute_investment(:alice, 25, public.id('o3'), 'fill-1') AS fill;
SELECT * FROM public.shown;
SELECT * FROM ledger.reservation_draws d ORDER BY 1, 2;

-- Refused.
SELECT ledger.execute_investment(:alice, 5.01, public.id('o3'), 'fill-2');
SELECT ledger.execute_investment(:alice, 30.01, public.id('o2'), 'fill-1');
SELECT ledger.execute_investment(:alice, 1, public.id('o1'), 'fill-3');
SELECT ledger.execute_investment(:bob, 1, public.id('o2'), 'fill-1');
SELECT ledger.execute_investment(:bob, 1, public.id('o4'), 'fill-1');
SELECT ledger.release_reservation(:bob, NULL, public.id('o2'));
SELECT ledger.release_reservation(:alice, 30.01, public.id('o2'));
SELECT ledger.release_reservation(:alice, 50, public.id('o1'), 'cut-1');
SELECT ledger.reserve_for_investment(:alice, 31, public.id('o2'));
SELECT ledger.reserve_for_investment(:bob, 30, public.id('o2'));
SELECT ledger.reserve_for_investment(:alice, 1000000, public.id('o4'));

-- Without a fill_id the order is the key.
SELECT ledger.execute_investment(:alice, 10, public.id('o2')) AS fill \gset
SELECT ledger.execute_investment(:alice, 10, public.id('o2')) = :fill AS replayed;
SELECT ledger.execute_investment(:alice, 15, public.id('o2'));

-- Due reservations: a fill still succeeds until they are released.
SELECT ledger.reserve_for_investment(:bob, 40, public.id('o4'), now() - interval '1 hour') > 0 AS posted;
SELECT ledger.reserve_for_investment(:bob, 50, NULL, now() - interval '1 minute') > 0 AS posted;
SELECT ledger.reserve_for_investment(:bob, 60, public.id('o5'), now() + interval '1 hour') > 0 AS posted;
SELECT ledger.execute_investment(:bob, 15, public.id('o4'), 'late') > 0 AS posted;
SELECT ledger.expire_reservations(1);
SELECT ledger.expire_reservations();
SELECT ledger.expire_reservations();
SELECT * FROM public.shown WHERE "user" = 'bob';
SELECT ledger.execute_investment(:bob, 1, public.id('o4'), 'too late');
SELECT t.type, t.reference_id = public.id('o4') AS o4, t.description, public.postings(t.id) FROM ledger.transactions t WHERE t.description = 'reservation expired' ORDER BY t.id;

-- A frozen customer keeps what is his reserved; all of the others' is released.
SELECT ledger.credit_user_usdc(u, 10, 'deposit') > 0 AS posted FROM unnest(ARRAY[:carol, :dave]::uuid[]) u;
SELECT ledger.reserve_for_investment(u, 1, NULL, now() - interval '1 minute') > 0 AS posted FROM unnest(ARRAY[:bob, :bob, :carol, :dave]::uuid[]) u;
SELECT ledger.set_account_status(ledger.open_account('usdc_balance', :carol), 'frozen', 'a court order');
SELECT ledger.expire_reservations();
SELECT "user", remaining, status FROM public.shown WHERE amount = 1;
SELECT ledger.set_account_status(ledger.open_account('usdc_balance', :carol), 'open', 'lifted');
SELECT ledger.set_account_status(ledger.open_account('pending_investment', :carol), 'frozen', 'a court order');
SELECT ledger.expire_reservations();
SELECT ledger.set_account_status(ledger.open_account('pending_investment', :carol), 'open', 'lifted');
SELECT ledger.expire_reservations();

-- Without an amount release_id is no key: what was reserved since is released.
SELECT ledger.reserve_for_investment(:dave, 2) > 0 AS posted;
SELECT ledger.release_reservation(:dave, release_id => 'cancel') > 0 AS posted;
SELECT ledger.release_reservation(:dave, release_id => 'cancel') AS nothing_left;
SELECT ledger.reserve_for_investment(:dave, 3) > 0 AS posted;
SELECT ledger.release_reservation(:dave, release_id => 'cancel') > 0 AS posted;
SELECT public.has(:dave) AS "dave: usdc, pending, fiat";

-- The last cent.
SELECT ledger.reserve_for_investment(:bob, (SELECT b.usdc_balance FROM ledger.get_user_balance(:bob) b)) > 0 AS posted;
SELECT ledger.reserve_for_investment(:bob, 0.000000000000000001);
SELECT public.has(:bob) AS "bob: usdc, pending, fiat";

-- Open remainders are the balance.
SELECT r.user_id = :alice AS alice, sum(r.remaining) AS remaining, ledger.get_account_balance(r.user_id, 'pending_investment') AS balance
FROM ledger.reservations r GROUP BY r.user_id HAVING sum(r.remaining) > 0 ORDER BY 1;

SELECT * FROM public.ledger_oracle();
\set ECHO none
\i :done
