--
-- Reversals.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database ledger_reversal
\set fresh :srcdir '/test/lib/fresh.sql'
\set done :srcdir '/test/lib/done.sql'
\i :fresh
\set ECHO all
SELECT ledger.credit_user_usdc(:alice, 100, 'deposit', public.id('d1')) AS d1 \gset
SELECT ledger.reverse_transaction(:d1, 'sent twice') AS v1 \gset
SELECT t.id, t.type, t.description, t.reverses, t.reversed_by, public.postings(t.id) FROM ledger.transactions t ORDER BY t.id;

-- Not twice, not the reversal, not the request again.
SELECT ledger.reverse_transaction(:d1, 'again');
SELECT ledger.reverse_transaction(:v1, 'undo the undoing');
SELECT ledger.reverse_transaction(4711, 'there is none');
SELECT ledger.credit_user_usdc(:alice, 100, 'deposit', public.id('d1'));
SELECT ledger.credit_user_usdc(:alice, 100, 'deposit', public.id('d2')) AS d2 \gset

-- In part.
SELECT ledger.reverse_transaction(:d2, 'fee', 30);
SELECT ledger.reverse_transaction(:d2, 'fee', 30, public.id('v2')) AS v2 \gset
SELECT ledger.reverse_transaction(:d2, 'fee', 30, public.id('v2')) = :v2 AS replayed;
SELECT ledger.reverse_transaction(:d2, 'fee', 31, public.id('v2'));
SELECT ledger.reverse_transaction(:d2, 'more', 70.01, public.id('v3'));
SELECT ledger.reverse_transaction(:d2, 'whole');
SELECT ledger.reverse_transaction(:d2, 'rest', 70, public.id('v3')) > 0 AS posted;
SELECT ledger.reverse_transaction(:d2, 'more', 0.01, public.id('v4'));
SELECT ledger.credit_user_usdc(:alice, 100, 'deposit', public.id('d2'));
SELECT ledger.credit_user_usdc(:bob, 10, 'deposit') AS d3 \gset
SELECT ledger.reverse_transaction(:d3, 'more than there was', 11, public.id('v5'));
SELECT ledger.debit_user_usdc(:bob, 4, 'spent') > 0 AS posted;
SELECT ledger.reverse_transaction(:d3, 'spent in part');

-- A sale has two amounts.
SELECT ledger.move_funds_to_fiat_exposure(:bob, 6, 'to the broker') > 0 AS posted;
SELECT ledger.settle_sale(:bob, 6, 7, public.id('s1')) AS s1 \gset
SELECT ledger.reverse_transaction(:s1, 'half', 3, public.id('v6'));
SELECT public.postings(ledger.reverse_transaction(:s1, 'whole'));

-- Reservations move with it.
SELECT ledger.credit_user_usdc(:carol, 100, 'deposit') > 0 AS posted;
SELECT ledger.reserve_for_investment(:carol, 60, public.id('o1')) AS reserved \gset
SELECT ledger.execute_investment(:carol, 40, public.id('o1'), 'fill') AS executed \gset
SELECT ledger.release_reservation(:carol, 15, public.id('o1'), 'cut') AS released \gset
SELECT public.reserved(public.id('o1')) AS "amount, executed, released, remaining", public.has(:carol) AS "usdc, pending, fiat";
SELECT ledger.reverse_transaction(:reserved, 'whole');
SELECT ledger.reverse_transaction(:reserved, 'what is left', 5, public.id('v7')) > 0 AS posted;
SELECT public.reserved(public.id('o1')) AS "amount, executed, released, remaining", public.has(:carol) AS "usdc, pending, fiat";
SELECT ledger.reverse_transaction(:executed, 'bust', 25, public.id('v8')) > 0 AS posted;
SELECT public.reserved(public.id('o1')) AS "amount, executed, released, remaining", public.has(:carol) AS "usdc, pending, fiat";
SELECT ledger.reverse_transaction(:released, 'wanted after all') > 0 AS posted;
SELECT public.reserved(public.id('o1')) AS "amount, executed, released, remaining", public.has(:carol) AS "usdc, pending, fiat";
SELECT ledger.execute_investment(:carol, 40, public.id('o1'), 'fill 2') > 0 AS posted;
SELECT public.reserved(public.id('o1')) AS "amount, executed, released, remaining", public.has(:carol) AS "usdc, pending, fiat";
SELECT d.transaction_id - :reserved AS later, d.executed, d.released FROM ledger.reservation_draws d WHERE d.reservation_id = :reserved ORDER BY 1;

-- In part of what came from two without an order: the oldest stays first in line.
SELECT ledger.reserve_for_investment(:carol, 4) AS older \gset
SELECT ledger.reserve_for_investment(:carol, 6) AS newer \gset
SELECT ledger.execute_investment(:carol, 9, public.id('o3'), 'of both') AS both \gset
SELECT ledger.reverse_transaction(:both, 'bust', 2, public.id('v9')) > 0 AS posted;
SELECT r.id = :newer AS newer, r.executed, r.remaining, r.status FROM ledger.reservations r WHERE r.id IN (:older, :newer) ORDER BY 1;
SELECT ledger.reverse_transaction(:both, 'bust', 5, public.id('va')) > 0 AS posted;
SELECT r.id = :newer AS newer, r.executed, r.remaining, r.status FROM ledger.reservations r WHERE r.id IN (:older, :newer) ORDER BY 1;
SELECT ledger.reverse_transaction(:both, 'bust', 2, public.id('vb')) > 0 AS posted;
SELECT ledger.release_reservation(:carol, 10) > 0 AS posted;
SELECT public.has(:carol) AS "usdc, pending, fiat";

-- Of money that is gone.
SELECT ledger.release_reservation(:carol, NULL, public.id('o1')) AS nothing_left;
SELECT ledger.reserve_for_investment(:carol, 20, public.id('o2')) > 0 AS posted;
SELECT ledger.release_reservation(:carol, NULL, public.id('o2')) AS released \gset
SELECT ledger.debit_user_usdc(:carol, 45, 'all of it') > 0 AS posted;
SELECT ledger.reverse_transaction(:released, 'too late');

SELECT * FROM public.ledger_oracle();
\set ECHO none
\i :done
