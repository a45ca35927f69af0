--
-- Currencies, account types and the sign rule; types that users add.
--
\ir ../lib/contract.sql
SELECT no_plan();

SELECT results_eq($$SELECT c.code COLLATE "default", c.scale, c.display_digits FROM ledger.currencies c ORDER BY 1$$,
	$$VALUES ('USD', 18::smallint, 2::smallint), ('USDC', 18::smallint, 2::smallint)$$,
	'USDC and USD, with the legacy scale');
SELECT results_eq(
	$$SELECT t.name COLLATE "default", t.owner COLLATE "default", t.currency COLLATE "default", t.normal_side COLLATE "default", t.min_balance FROM ledger.account_types t ORDER BY t.owner DESC, t.name$$,
	$$VALUES ('fiat_exposure', 'user', 'USD', 'credit', 0::numeric),
		('pending_investment', 'user', 'USDC', 'credit', 0),
		('usdc_balance', 'user', 'USDC', 'credit', 0),
		('broker_operational', 'house', 'USD', 'debit', NULL),
		('fx_clearing', 'house', NULL, 'credit', NULL),
		('house_equity', 'house', NULL, 'credit', NULL),
		('legacy_suspense', 'house', NULL, 'credit', NULL),
		('opening_balance', 'house', NULL, 'credit', NULL),
		('system_buffer_fiat', 'house', 'USD', 'debit', NULL),
		('system_buffer_usdc', 'house', 'USDC', 'debit', NULL)$$,
	'shipped account types: owner, currency, normal side, lowest balance');
SELECT is_empty($$SELECT t.name FROM ledger.account_types t WHERE NOT t.shipped OR COALESCE(t.description, '') = ''$$,
	'all of them are marked as shipped and say what they are');

-- Shipped rows stay as they are.
SELECT throws_ok(s, 'LG010', NULL, s)
FROM unnest(ARRAY[
	$$UPDATE ledger.account_types SET min_balance = 5 WHERE name = 'usdc_balance'$$,
	$$UPDATE ledger.account_types SET shipped = false WHERE name = 'usdc_balance'$$,
	$$DELETE FROM ledger.account_types WHERE name = 'usdc_balance'$$,
	$$UPDATE ledger.currencies SET scale = 2 WHERE code = 'USD'$$,
	$$DELETE FROM ledger.currencies WHERE code = 'USD'$$,
	$$INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance, shipped) VALUES ('ours', 'user', 'USD', 'credit', 0, true)$$]) s;

-- What a user's account may not be: debit-normal, below zero, without a currency.
SELECT throws_ok(s, '23514', NULL, s)
FROM unnest(ARRAY[
	$$INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance) VALUES ('t', 'user', 'USD', 'debit', 0)$$,
	$$INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance) VALUES ('t', 'user', 'USD', 'credit', -1)$$,
	$$INSERT INTO ledger.account_types (name, owner, currency, normal_side) VALUES ('t', 'user', 'USD', 'credit')$$,
	$$INSERT INTO ledger.account_types (name, owner, normal_side, min_balance) VALUES ('t', 'user', 'credit', 0)$$,
	$$INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance) VALUES ('t', 'nobody', 'USD', 'credit', 0)$$,
	$$INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance) VALUES ('t', 'house', 'USD', 'left', 0)$$,
	$$INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance) VALUES ('T!', 'house', 'USD', 'debit', 0)$$,
	$$INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance) VALUES ('t', 'house', 'USD', 'debit', 'NaN')$$,
	$$INSERT INTO ledger.currencies (code, scale) VALUES ('eur', 2)$$,
	$$INSERT INTO ledger.currencies (code, scale) VALUES ('EUR', -1)$$,
	$$INSERT INTO ledger.currencies (code, scale) VALUES ('EUR', 31)$$,
	$$INSERT INTO ledger.currencies (code, scale, display_digits) VALUES ('EUR', 1, 2)$$]) s;
SELECT throws_ok($$INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance) VALUES ('t', 'user', 'EUR', 'credit', 0)$$,
	'LG010', 'unknown currency "EUR"', 'a type of an unknown currency');

-- The documented example: two types more, and money between them.
INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance, description) VALUES
	('spending_balance', 'user', 'USDC', 'credit', 0, 'The customer''s USDC on the card'),
	('stash_balance', 'user', 'USDC', 'credit', 0, 'The customer''s USDC, set aside');
SELECT ok(ledger.credit_user_usdc(:alice, 100, 'deposit') > 0, 'a deposit');
SELECT ledger.post('card_top_up', ARRAY[
	ROW(ledger.open_account('usdc_balance', :alice), ledger.open_account('spending_balance', :alice), 60)::ledger.posting],
	user_id => :alice) AS top_up \gset
SELECT ledger.post('stash', ARRAY[
	ROW(ledger.open_account('spending_balance', :alice), ledger.open_account('stash_balance', :alice), 25.5)::ledger.posting],
	user_id => :alice) AS stash \gset
SELECT is(public.postings(:top_up), 'Dr usdc_balance@alice Cr spending_balance@alice 60.00 USDC', 'to the card');
SELECT is(public.postings(:stash), 'Dr spending_balance@alice Cr stash_balance@alice 25.50 USDC', 'to the stash');
SELECT is(ledger.get_account_balance(:alice, 'spending_balance')::text, '34.50', 'left on the card');
SELECT is(ledger.get_account_balance(:alice, 'stash_balance')::text, '25.50', 'in the stash');
SELECT is((SELECT b.breakdown FROM ledger.get_balance(:alice) b),
	'{"usdc_balance": {"currency": "USDC", "balance": 40.00}, "spending_balance": {"currency": "USDC", "balance": 34.50}, "stash_balance": {"currency": "USDC", "balance": 25.50}}',
	'the breakdown knows them');
SELECT is((public.outcome(format($$ledger.post('card_payment', ARRAY[ROW(ledger.open_account('spending_balance', %L), ledger.open_account('system_buffer_usdc'), 34.51)::ledger.posting])$$, :alice))).code,
	'LG001', 'a user''s own type may not go below zero either');

-- Of an own type what accounts rest on stays; its limit may change.
SELECT throws_ok(s, 'LG010', NULL, s)
FROM unnest(ARRAY[
	$$UPDATE ledger.account_types SET name = 'spent' WHERE name = 'spending_balance'$$,
	$$UPDATE ledger.account_types SET currency = 'USD' WHERE name = 'spending_balance'$$,
	$$UPDATE ledger.account_types SET owner = 'house' WHERE name = 'spending_balance'$$,
	$$UPDATE ledger.account_types SET shipped = true WHERE name = 'spending_balance'$$,
	$$DELETE FROM ledger.account_types WHERE name = 'spending_balance'$$]) s;
SELECT lives_ok($$UPDATE ledger.account_types SET min_balance = 30 WHERE name = 'spending_balance'$$, 'a limit is raised');
SELECT is((public.outcome(format($$ledger.post('card_payment', ARRAY[ROW(ledger.open_account('spending_balance', %L), ledger.open_account('system_buffer_usdc'), 5)::ledger.posting])$$, :alice))).code,
	'LG001', 'and holds at once');

-- A currency of one's own, with its own scale and display digits.
INSERT INTO ledger.currencies (code, scale, display_digits) VALUES ('JPY', 0, 0), ('BTC', 8, 4);
INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance) VALUES
	('yen', 'user', 'JPY', 'credit', 0), ('yen_bank', 'house', 'JPY', 'debit', NULL),
	('coins', 'user', 'BTC', 'credit', 0), ('coin_vault', 'house', 'BTC', 'debit', 0);
SELECT ledger.post('yen_in', ARRAY[ROW(ledger.open_account('yen_bank'), ledger.open_account('yen', :bob), 1500.000)::ledger.posting]) AS yen \gset
SELECT is(public.postings(:yen), 'Dr yen_bank Cr yen@bob 1500 JPY', 'yen without digits');
SELECT is((public.outcome(format($$ledger.post('yen_in', ARRAY[ROW(ledger.open_account('yen_bank'), ledger.open_account('yen', %L), 0.5)::ledger.posting])$$, :bob))).code,
	'LG009', 'half a yen is refused, not rounded');
SELECT ledger.post('coins_in', ARRAY[ROW(ledger.open_account('coin_vault'), ledger.open_account('coins', :bob), 0.1)::ledger.posting]) AS coins \gset
SELECT is(public.postings(:coins), 'Dr coin_vault Cr coins@bob 0.1000 BTC', 'four digits are shown');
SELECT is(ledger.get_account_balance(:bob, 'coins')::text, '0.1000', 'of the balance too');
SELECT is((public.outcome(format($$ledger.post('coins_in', ARRAY[ROW(ledger.open_account('coin_vault'), ledger.open_account('coins', %L), 0.000000001)::ledger.posting])$$, :bob))).code,
	'LG009', 'nine digits of eight');
SELECT is((public.outcome(format($$ledger.post('coins_out', ARRAY[ROW(ledger.open_account('coins', %L), ledger.open_account('coin_vault'), 0.2)::ledger.posting])$$, :bob))).code,
	'LG001', 'a house account with a limit keeps it');

-- A session that has read the types knows a new one at once, and forgets one that was rolled back.
BEGIN;
INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance) VALUES ('short_lived', 'user', 'USD', 'credit', 0);
SELECT cmp_ok(ledger.open_account('short_lived', :bob), '>', 0::bigint, 'a type of this transaction');
ROLLBACK;
SELECT is((public.outcome(format($$ledger.open_account('short_lived', %L)$$, :bob))).code, 'LG010', 'gone with it');

-- The sign rule: per currency what the house owns is what it owes.
SELECT ok(ledger.move_funds_to_fiat_exposure(:alice, 10, 'to the broker') > 0, 'a conversion');
SELECT is_empty($$SELECT b.currency FROM ledger.account_balances b JOIN ledger.account_types t ON t.name = b.account_type
	GROUP BY b.currency
	HAVING sum(b.balance) FILTER (WHERE t.normal_side = 'debit') IS DISTINCT FROM sum(b.balance) FILTER (WHERE t.normal_side = 'credit')
	   AND COALESCE(sum(b.balance) FILTER (WHERE t.normal_side = 'debit'), 0) <> COALESCE(sum(b.balance) FILTER (WHERE t.normal_side = 'credit'), 0)$$,
	'debit-normal balances are credit-normal balances, per currency');
SELECT is(public.house('fx_clearing', 'USDC')::text || ' ' || public.house('fx_clearing', 'USD')::text, '10.00 -10.00',
	'fx_clearing: USDC to be sold, USD to be bought');
SELECT is_empty($$SELECT * FROM public.ledger_oracle()$$, 'oracle');
SELECT * FROM finish();
