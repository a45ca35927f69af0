--
-- The movements, what they say when they refuse, and what a session sees of
-- them: entries, accounts, transactions.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database ledger_operations
\set fresh :srcdir '/test/lib/fresh.sql'
\set done :srcdir '/test/lib/done.sql'
\i :fresh
\set ECHO all

-- A customer's money, from the chain to the broker and back.
SELECT ledger.credit_user_usdc(:alice, 500, 'deposit', public.id('d1')) AS deposit;
SELECT ledger.move_funds_to_fiat_exposure(:alice, 200, 'to the broker', public.id('c1')) AS conversion;
SELECT ledger.reserve_for_investment(:alice, 150, public.id('o1')) AS reservation;
SELECT ledger.execute_investment(:alice, 60.5, public.id('o1'), 'fill-1') AS fill;
SELECT ledger.release_reservation(:alice, NULL, public.id('o1')) AS release;
SELECT ledger.settle_sale(:alice, 60.5, 72.25, public.id('o2'), 'sale-1') AS sale;
SELECT ledger.move_funds_to_usdc(:alice, 11.75, 'the gain', public.id('c2')) AS conversion;
SELECT ledger.debit_user_usdc(:alice, 100, 'withdrawal', public.id('w1')) AS withdrawal;

-- The house's.
SELECT ledger.open_house_balance('system_buffer_fiat', 'USD', 10000, 'statement of 1 January') AS opening;
SELECT ledger.replenish_buffer('system_buffer_usdc', 1000, public.id('r1')) AS replenishment;
SELECT ledger.fund_broker(250, public.id('f1')) AS funding;
SELECT ledger.convert_buffer('system_buffer_usdc', 'system_buffer_fiat', 300, 299.4, public.id('s1')) AS conversion;
SELECT ledger.convert_buffer('system_buffer_fiat', 'system_buffer_usdc', 40, 40.1, public.id('s2')) AS conversion;

-- Between customers, by the accounts' ids.
SELECT ledger.open_account('usdc_balance', :alice) AS alices, ledger.open_account('usdc_balance', :bob) AS bobs \gset
SELECT ledger.post('gift', ARRAY[ROW(:alices, :bobs, 25)::ledger.posting], 'gift 1', user_id => :alice,
	description => 'happy birthday', metadata => '{"card": 7}', effective_at => '2024-02-29 12:00:00+00') AS gift;

-- Each as its entries, two a posting.
SELECT e.transaction_id AS id, e.ordinal AS n, t.type, public.label(e.account_id) AS account, e.direction, e.amount, e.currency, e.balance_after
FROM ledger.entries e JOIN ledger.transactions t ON t.id = e.transaction_id
ORDER BY e.transaction_id, e.ordinal, e.direction DESC;

SELECT public.label(b.account_id) AS account, b.debits, b.credits, b.balance, b.version, b.status
FROM ledger.account_balances b ORDER BY b.account_id;

SELECT t.id, t.type, (SELECT p.name FROM public.people p WHERE p.id = t.user_id) AS user, t.reference_type, t.description, t.metadata,
	CASE WHEN t.effective_at < t.created_at THEN t.effective_at AT TIME ZONE 'UTC' END AS effective, t.reverses, t.reversed_by
FROM ledger.transactions t ORDER BY t.id;

-- What is owned is what is owed, in each currency.
SELECT b.currency, sum(b.balance) FILTER (WHERE t.normal_side = 'debit') AS owned, sum(b.balance) FILTER (WHERE t.normal_side = 'credit') AS owed
FROM ledger.account_balances b JOIN ledger.account_types t ON t.name = b.account_type GROUP BY b.currency ORDER BY b.currency;

-- Asked for again: the first id, and nothing moves.
SELECT public.counts() AS before \gset
SELECT ledger.credit_user_usdc(:alice, 500, 'deposit', public.id('d1')),
	ledger.execute_investment(:alice, 60.5, public.id('o1'), 'fill-1'),
	ledger.post('gift', ARRAY[ROW(:alices, :bobs, 25)::ledger.posting], 'gift 1', user_id => :alice),
	ledger.open_house_balance('system_buffer_fiat', 'USD', 10000, 'statement of 1 January');
SELECT public.counts() = :'before' AS unchanged;

-- Refused, each with what is the case and what can be done.
\set VERBOSITY default
SELECT ledger.debit_user_usdc(:alice, 1000, 'too much');
SELECT ledger.debit_user_usdc(:nobody, 1, 'from somebody unknown');
SELECT ledger.credit_user_usdc(:alice, 501, 'deposit', public.id('d1'));
SELECT ledger.credit_user_usdc(:bob, 500, 'deposit', public.id('d1'));
SELECT ledger.post('gift', ARRAY[ROW(:alices, :bobs, 26)::ledger.posting], 'gift 1', user_id => :alice);
SELECT ledger.post('gift', ARRAY[ROW(:bobs, :alices, 25)::ledger.posting], 'gift 1', user_id => :alice);
SELECT ledger.post('gift', ARRAY[ROW(:alices, :bobs, 20), ROW(:alices, :bobs, 5)]::ledger.posting[], 'gift 1', user_id => :alice);
SELECT ledger.open_house_balance('system_buffer_fiat', 'USD', 9999, 'another statement');
SELECT ledger.execute_investment(:alice, 60, public.id('o1'), 'fill-1');
SELECT ledger.credit_user_usdc(:alice, 0, 'nothing');
SELECT ledger.credit_user_usdc(:alice, 'NaN', 'not a number');
SELECT ledger.credit_user_usdc(:alice, 0.0000000000000000001, 'too fine');
SELECT ledger.credit_user_usdc(:alice, 1e20, 'too much to be true');
SELECT ledger.credit_user_usdc(:alice, 1, NULL);
SELECT ledger.convert_buffer('system_buffer_fiat', 'broker_operational', 1);
SELECT ledger.replenish_buffer('usdc_balance', 1);
SELECT ledger.post('gift', ARRAY[ROW(:alices, :alices, 1)::ledger.posting]);
SELECT ledger.post('gift', ARRAY[ROW(:alices, ledger.open_account('fiat_exposure', :alice), 1)::ledger.posting]);
SELECT ledger.post('gift', ARRAY[ROW(:alices, ledger.open_account('pending_investment', :alice), 1)::ledger.posting]);
SELECT ledger.post('gift', ARRAY[ROW(:alices, 4711, 1)::ledger.posting]);
SELECT ledger.open_account('stash_balance', :alice);
SELECT ledger.open_account('usdc_balance');
SELECT ledger.open_account('fx_clearing');

-- Frozen, closed, limited.
SELECT ledger.set_account_status(:bobs, 'frozen', 'inquiry 7');
SELECT ledger.credit_user_usdc(:bob, 1, 'deposit');
SELECT ledger.set_account_status(:bobs, 'closed', 'he left');
SELECT ledger.set_account_status(:bobs, 'open', 'inquiry 7 is over');
SELECT ledger.set_account_limit(:bobs, 20, 'card deposit');
SELECT ledger.debit_user_usdc(:bob, 6, 'too much');
SELECT ledger.debit_user_usdc(:bob, 5, 'just enough') > 0 AS posted;
SELECT ledger.set_account_limit(ledger.open_account('system_buffer_fiat'), 0, 'no overdraft');
SELECT ledger.fund_broker(100000);
SELECT l.account_id = :bobs AS bobs, l.status, l.min_balance, l.reason, l.changed_by = current_user AS by_us
FROM ledger.account_status_log l ORDER BY l.id;

-- The documented example: types of one's own.
INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance, description) VALUES
	('spending_balance', 'user', 'USDC', 'credit', 0, 'The customer''s USDC on the card'),
	('stash_balance', 'user', 'USDC', 'credit', 0, 'The customer''s USDC, set aside');
SELECT ledger.post('card_top_up', ARRAY[ROW(:alices, ledger.open_account('spending_balance', :alice), 30)::ledger.posting], user_id => :alice) > 0 AS posted;
SELECT ledger.post('set_aside', ARRAY[ROW(ledger.open_account('spending_balance', :alice), ledger.open_account('stash_balance', :alice), 12.5)::ledger.posting], user_id => :alice) > 0 AS posted;
SELECT ledger.post('set_aside', ARRAY[ROW(ledger.open_account('spending_balance', :alice), ledger.open_account('stash_balance', :alice), 17.51)::ledger.posting], user_id => :alice);
SELECT b.breakdown FROM ledger.get_balance(:alice) b;
UPDATE ledger.account_types SET currency = 'USD' WHERE name = 'stash_balance';
DELETE FROM ledger.account_types WHERE name = 'usdc_balance';

-- A house account whose opening was wrong is opened anew once that is wholly reversed.
SELECT ledger.open_house_balance('broker_operational', 'USD', 10, 'a wrong statement') AS wrong \gset
SELECT ledger.open_house_balance('broker_operational', 'USD', 11, 'the right one');
SELECT ledger.reverse_transaction(:wrong, 'part of it', 4, '00000000-0000-4000-8000-0000000000e1') > 0 AS reversed;
SELECT ledger.open_house_balance('broker_operational', 'USD', 11, 'the right one');
SELECT ledger.reverse_transaction(:wrong, 'the rest of it', 6, '00000000-0000-4000-8000-0000000000e2') > 0 AS reversed;
SELECT ledger.open_house_balance('broker_operational', 'USD', 11, 'the right one') AS anew \gset
SELECT :anew <> :wrong AS anew, ledger.open_house_balance('broker_operational', 'USD', 11, 'the right one') = :anew AS replayed;
SELECT ledger.open_house_balance('broker_operational', 'USD', 12, 'another');
SELECT ledger.reverse_transaction(:anew, 'never mind') > 0 AS reversed;
SELECT ledger.open_house_balance('broker_operational', 'USD', 11, 'the right one') > :anew AS anew_again;

SELECT * FROM public.ledger_oracle();
\set ECHO none
\i :done
