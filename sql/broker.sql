--
-- The broker's accounts and positions, and the balance that counts them in.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS ledger;
RESET client_min_messages;
\set alice '''00000000-0000-4000-8000-00000000b001'''
\set bob '''00000000-0000-4000-8000-00000000b002'''
\set carol '''00000000-0000-4000-8000-00000000b003'''
\set order1 '''00000000-0000-4000-8000-00000000b0a1'''

-- what a statement raises, as one line
CREATE FUNCTION pg_temp.raises(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	code text;
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN format('%s %s / %s / %s', code, message, detail, hint);
END
$$;

-- A customer with 1000: 300 free, 100 reserved, 600 spent on stock.
SELECT ledger.credit_user_usdc(:alice, 1000, 'deposit') > 0 AS posted;
SELECT ledger.reserve_for_investment(:alice, 700, :order1) > 0 AS posted;
SELECT ledger.execute_investment(:alice, 600, :order1, 'fill-1') > 0 AS posted;

-- Without anything from the broker the ledger's part is there, marked stale.
\x on
SELECT usdc_balance, buying_power, pending_investment, total_value, currency, source,
	   broker_equity, broker_cash, position_value, invested_value, total_portfolio_value,
	   positions, broker_as_of, broker_stale
FROM ledger.get_detailed_balance(:alice, 'e6fe16f3-64a4-4921-8928-cadf02f92f98');
\x off

-- The account as /v2/account gives it.
SELECT ledger.record_broker_account('{
	"account_blocked": false,
	"account_number": "010203ABCD",
	"accrued_fees": "0",
	"balance_asof": "2024-05-17",
	"buying_power": "0",
	"cash": "0",
	"created_at": "2019-06-12T22:47:07.99658Z",
	"crypto_status": "ACTIVE",
	"currency": "USD",
	"daytrade_count": 0,
	"daytrading_buying_power": "0",
	"equity": "720.0",
	"id": "e6fe16f3-64a4-4921-8928-cadf02f92f98",
	"initial_margin": "0",
	"last_equity": "714.0",
	"last_maintenance_margin": "0",
	"long_market_value": "720.0",
	"maintenance_margin": "0",
	"multiplier": "1",
	"non_marginable_buying_power": "0",
	"pattern_day_trader": false,
	"portfolio_value": "720.0",
	"position_market_value": "720.0",
	"regt_buying_power": "0",
	"short_market_value": "0",
	"shorting_enabled": false,
	"sma": "0",
	"status": "ACTIVE",
	"trade_suspended_by_user": false,
	"trading_blocked": false,
	"transfers_blocked": false
}', :alice);

-- The account alone says nothing of positions: stale still.
SELECT broker_equity, broker_cash, position_value, total_portfolio_value, positions, broker_stale
FROM ledger.get_detailed_balance(:alice, 'e6fe16f3-64a4-4921-8928-cadf02f92f98');

-- The positions as /v2/positions gives them.
SELECT ledger.record_broker_positions('e6fe16f3-64a4-4921-8928-cadf02f92f98', '[
	{
		"asset_id": "904837e3-3b76-47ec-b432-046db621571b",
		"symbol": "AAPL",
		"exchange": "NASDAQ",
		"asset_class": "us_equity",
		"asset_marginable": true,
		"avg_entry_price": "100.0",
		"qty": "5",
		"qty_available": "4",
		"side": "long",
		"market_value": "600.0",
		"cost_basis": "500.0",
		"unrealized_pl": "100.0",
		"unrealized_plpc": "0.20",
		"unrealized_intraday_pl": "10.0",
		"unrealized_intraday_plpc": "0.0084",
		"current_price": "120.0",
		"lastday_price": "119.0",
		"change_today": "0.0084"
	},
	{
		"asset_id": "64bbff51-59d6-4b3c-9351-13ad85e3c752",
		"symbol": "BTCUSD",
		"exchange": "CRYPTO",
		"asset_class": "crypto",
		"asset_marginable": false,
		"avg_entry_price": "40000",
		"qty": "0.0025",
		"qty_available": "0.0025",
		"side": "long",
		"market_value": "120.000000000000000000003",
		"cost_basis": "100",
		"unrealized_pl": "20.000000000000000000003",
		"unrealized_plpc": "0.2",
		"unrealized_intraday_pl": "0",
		"unrealized_intraday_plpc": "0",
		"current_price": "48000",
		"lastday_price": "48000",
		"change_today": "0"
	}
]');

-- Stock at market instead of at cost: 1000 + (720 - 600). Neither equity nor
-- cash of the broker is added: fiat_exposure has that money already.
\x on
SELECT usdc_balance, buying_power, pending_investment, total_value, broker_equity, broker_cash,
	   position_value, invested_value, total_portfolio_value,
	   jsonb_path_query_array(positions, '$[*].symbol') AS symbols,
	   broker_as_of IS NOT NULL AND broker_as_of <= clock_timestamp() AS dated, broker_stale
FROM ledger.get_detailed_balance(:alice, 'e6fe16f3-64a4-4921-8928-cadf02f92f98');
\x off

-- The other columns are get_balance's.
SELECT (d.user_id, d.usdc_balance, d.buying_power, d.pending_investment, d.total_value, d.currency, d.breakdown, d.source)
	   IS NOT DISTINCT FROM
	   (g.user_id, g.usdc_balance, g.buying_power, g.pending_investment, g.total_value, g.currency, g.breakdown, g.source) AS same
FROM ledger.get_detailed_balance(:alice, 'e6fe16f3-64a4-4921-8928-cadf02f92f98') d, ledger.get_balance(:alice) g;

-- USD at the broker that is not invested: in fiat_exposure and in the
-- broker's cash, once in the total.
SELECT ledger.move_funds_to_fiat_exposure(:alice, 200, 'to the broker') > 0 AS posted;
SELECT ledger.record_broker_account('{"id": "e6fe16f3-64a4-4921-8928-cadf02f92f98", "equity": "920", "cash": "200"}', :alice);
SELECT usdc_balance, buying_power, total_value, broker_equity, broker_cash, total_portfolio_value, broker_stale
FROM ledger.get_detailed_balance(:alice, 'e6fe16f3-64a4-4921-8928-cadf02f92f98');

-- A sale that is settled after the snapshot: the ledger has the gain of 100
-- now, so the snapshot's must not count, and it is stale until the next.
SELECT ledger.settle_sale(:alice, 500, 600, :order1, 'sale-1') > 0 AS posted;
SELECT total_value, position_value, invested_value, total_portfolio_value, broker_stale
FROM ledger.get_detailed_balance(:alice, 'e6fe16f3-64a4-4921-8928-cadf02f92f98');
SELECT ledger.record_broker_positions('e6fe16f3-64a4-4921-8928-cadf02f92f98', '[{"symbol": "BTCUSD", "qty": "0.0025", "side": "long", "market_value": "120", "cost_basis": "100"}]');
SELECT total_value, position_value, invested_value, total_portfolio_value, broker_stale
FROM ledger.get_detailed_balance(:alice, 'e6fe16f3-64a4-4921-8928-cadf02f92f98');

-- An empty array: no positions, which is not the same as none recorded.
SELECT ledger.record_broker_positions('e6fe16f3-64a4-4921-8928-cadf02f92f98', '[]');
SELECT total_value, position_value, invested_value, total_portfolio_value, positions, broker_stale
FROM ledger.get_detailed_balance(:alice, 'e6fe16f3-64a4-4921-8928-cadf02f92f98');

-- Short positions count with their signs: sold for 1200, worth 1000, up 200.
-- Without a price a position counts at cost. Numbers may be JSON numbers.
SELECT ledger.record_broker_positions('e6fe16f3-64a4-4921-8928-cadf02f92f98', '[
	{"symbol": "GME", "qty": "-10", "side": "short", "market_value": "-1000.00", "cost_basis": "-1200.00"},
	{"symbol": "OLD", "qty": "3", "side": "long", "market_value": null, "cost_basis": "45.5"},
	{"symbol": "NEW", "qty": 1e1, "market_value": 12.50, "cost_basis": 10}
]');
SELECT symbol, qty, cost_basis, market_value FROM ledger.broker_positions
WHERE account_id = 'e6fe16f3-64a4-4921-8928-cadf02f92f98' ORDER BY symbol;
SELECT total_value, position_value, invested_value, total_portfolio_value, broker_stale
FROM ledger.get_detailed_balance(:alice, 'e6fe16f3-64a4-4921-8928-cadf02f92f98');

-- Age. The last known values stay, marked stale; so does a time to come.
UPDATE ledger.broker_accounts SET positions_as_of = positions_as_of - interval '16min', as_of = as_of + interval '1s'
WHERE account_id = 'e6fe16f3-64a4-4921-8928-cadf02f92f98';
DELETE FROM ledger.broker_positions WHERE symbol = 'GME';
SELECT position_value, invested_value, broker_as_of < clock_timestamp() - interval '15min' AS old, broker_stale
FROM ledger.get_detailed_balance(:alice, 'e6fe16f3-64a4-4921-8928-cadf02f92f98');
SET ledger.broker_max_age = '1h';
SELECT position_value, invested_value, broker_stale
FROM ledger.get_detailed_balance(:bob, 'nobody''s');
RESET ledger.broker_max_age;
SELECT ledger.record_broker_account('{"id": "carol-1", "equity": "10", "cash": "10"}', :carol);
SELECT ledger.record_broker_positions('carol-1', '[]');
SELECT total_value, broker_equity, total_portfolio_value, broker_stale FROM ledger.get_detailed_balance(:carol, 'carol-1');
UPDATE ledger.broker_accounts SET as_of = as_of - interval '20min' WHERE account_id = 'carol-1';
SELECT broker_stale FROM ledger.get_detailed_balance(:carol, 'carol-1');
SET ledger.broker_max_age = '1h';
SELECT broker_stale FROM ledger.get_detailed_balance(:carol, 'carol-1');
SET ledger.broker_max_age = 0;
SELECT broker_stale FROM ledger.get_detailed_balance(:carol, 'carol-1');
SET ledger.broker_max_age = -1;
SELECT broker_stale FROM ledger.get_detailed_balance(:carol, 'carol-1');
RESET ledger.broker_max_age;
UPDATE ledger.broker_accounts SET as_of = clock_timestamp() + interval '1h', positions_as_of = clock_timestamp() + interval '1h'
WHERE account_id = 'carol-1';
SELECT broker_stale FROM ledger.get_detailed_balance(:carol, 'carol-1');
-- after the clock was set back the next snapshot is taken all the same
SELECT ledger.record_broker_account('{"id": "carol-1", "equity": "11", "cash": "11"}', :carol);
SELECT ledger.record_broker_positions('carol-1', '[]');
SELECT broker_equity, broker_stale FROM ledger.get_detailed_balance(:carol, 'carol-1');

-- An account belongs to one user.
SELECT pg_temp.raises(format('SELECT ledger.record_broker_account(%L, %L)', '{"id": "carol-1", "equity": "1", "cash": "1"}', :bob));
SELECT pg_temp.raises(format('SELECT * FROM ledger.get_detailed_balance(%L, %L)', :bob, 'carol-1'));
SELECT broker_equity FROM ledger.get_detailed_balance(:carol, 'carol-1');

-- Required arguments.
SELECT pg_temp.raises(s) FROM unnest(ARRAY[
	'SELECT ledger.record_broker_account(NULL, ''00000000-0000-4000-8000-00000000b003'')',
	'SELECT ledger.record_broker_account(''{"id": "carol-1", "equity": "1", "cash": "1"}'', NULL)',
	'SELECT ledger.record_broker_positions(NULL, ''[]'')',
	'SELECT ledger.record_broker_positions(''carol-1'', NULL)',
	'SELECT ledger.get_detailed_balance(NULL, ''carol-1'')',
	'SELECT ledger.get_detailed_balance(''00000000-0000-4000-8000-00000000b003'', NULL)']) s;

-- Accounts that are none.
SELECT pg_temp.raises(format('SELECT ledger.record_broker_account(%L, %L)', j, :carol)) FROM unnest(ARRAY[
	'null', '[]', '"carol-1"', '1', '{}',
	'{"code": 40110000, "message": "access key verification failed"}',
	'{"id": null, "equity": "1", "cash": "1"}',
	'{"id": "", "equity": "1", "cash": "1"}',
	'{"id": 7, "equity": "1", "cash": "1"}',
	'{"id": "carol-1", "cash": "1"}',
	'{"id": "carol-1", "equity": "1", "cash": null}',
	'{"id": "carol-1", "equity": "", "cash": "1"}',
	'{"id": "carol-1", "equity": "1,000.00", "cash": "1"}',
	'{"id": "carol-1", "equity": " 1", "cash": "1"}',
	'{"id": "carol-1", "equity": "0x10", "cash": "1"}',
	'{"id": "carol-1", "equity": "NaN", "cash": "1"}',
	'{"id": "carol-1", "equity": "-Infinity", "cash": "1"}',
	'{"id": "carol-1", "equity": "1e5000", "cash": "1"}',
	'{"id": "carol-1", "equity": "1e20", "cash": "1"}',
	'{"id": "carol-1", "equity": 1e400, "cash": "1"}',
	'{"id": "carol-1", "equity": true, "cash": "1"}',
	'{"id": "carol-1", "equity": ["1"], "cash": "1"}',
	'{"id": "carol-1", "equity": "1", "cash": "1", "currency": "EUR"}']) j;
SELECT pg_temp.raises(format('SELECT ledger.record_broker_account(%L, %L)', '{"id": "carol-1"', :carol));
SELECT pg_temp.raises(format('SELECT ledger.record_broker_account(jsonb_build_object(''id'', repeat(''x'', 256), ''equity'', ''1'', ''cash'', ''1''), %L)', :carol));
SELECT pg_temp.raises(format('SELECT ledger.record_broker_account(jsonb_build_object(''id'', ''carol-1'', ''equity'', ''1'', ''cash'', repeat(''1'', 101)), %L)', :carol));
SELECT pg_temp.raises(format('SELECT ledger.record_broker_account(jsonb_build_object(''id'', ''carol-1'', ''equity'', ''1'', ''cash'', ''1'', ''x'', repeat(''x'', 65536)), %L)', :carol));

-- Positions that are none. What was there stays.
SELECT ledger.record_broker_positions('carol-1', '[{"symbol": "AAPL", "qty": "1", "side": "long", "market_value": "12", "cost_basis": "10"}]');
SELECT pg_temp.raises(format('SELECT ledger.record_broker_positions(%L, %L)', 'carol-1', j)) FROM unnest(ARRAY[
	'null', '{}', '"[]"', '[null]', '[[]]', '[{}]',
	'[{"symbol": "A", "qty": "1", "side": "long", "cost_basis": "1"}, 7]',
	'[{"symbol": "", "qty": "1", "side": "long", "market_value": "1", "cost_basis": "1"}]',
	'[{"symbol": ["A"], "qty": "1", "side": "long", "market_value": "1", "cost_basis": "1"}]',
	'[{"symbol": "A", "side": "long", "market_value": "1", "cost_basis": "1"}]',
	'[{"symbol": "A", "qty": "1", "side": "long", "market_value": "1"}]',
	'[{"symbol": "A", "qty": "one", "side": "long", "market_value": "1", "cost_basis": "1"}]',
	'[{"symbol": "A", "qty": "1", "side": "long", "market_value": "NaN", "cost_basis": "1"}]',
	'[{"symbol": "A", "qty": "1", "side": "long", "market_value": "", "cost_basis": "1"}]',
	'[{"symbol": "A", "qty": "1", "side": "long", "market_value": "1", "cost_basis": "1e21"}]',
	'[{"symbol": "A", "qty": "1", "side": "sideways", "market_value": "1", "cost_basis": "1"}]',
	'[{"symbol": "A", "qty": "-1", "side": "long", "market_value": "-1", "cost_basis": "-1"}]',
	'[{"symbol": "A", "qty": "1", "side": "short", "market_value": "1", "cost_basis": "1"}]',
	'[{"symbol": "A", "qty": "-1", "side": "short", "market_value": "-1", "cost_basis": "1"}]',
	'[{"symbol": "A", "qty": "-1", "side": "short", "market_value": "1", "cost_basis": "-1"}]',
	'[{"symbol": "A", "qty": "0", "side": "long", "market_value": null, "cost_basis": "1"}]',
	'[{"symbol": "B", "qty": "1", "side": "long", "market_value": "1", "cost_basis": "1"},
	  {"symbol": "A", "qty": "1", "side": "long", "market_value": "1", "cost_basis": "1"},
	  {"symbol": "A", "qty": "2", "side": "long", "market_value": "2", "cost_basis": "2"}]']) j;
SELECT pg_temp.raises('SELECT ledger.record_broker_positions(''nobody'', ''[]'')');
SELECT pg_temp.raises('SELECT ledger.record_broker_positions(''carol-1'', (SELECT jsonb_agg(i) FROM generate_series(1, 10001) i))');
SELECT pg_temp.raises('SELECT ledger.record_broker_positions(''carol-1'', jsonb_build_array(jsonb_build_object(''symbol'', repeat(''x'', 64))))');
SELECT pg_temp.raises('SELECT ledger.record_broker_positions(''carol-1'', jsonb_build_array(jsonb_build_object(
	''symbol'', ''A'', ''qty'', ''1'', ''cost_basis'', ''1'', ''x'', repeat(''x'', 65536))))');
SELECT broker_equity, broker_cash, position_value, invested_value, total_portfolio_value, broker_stale
FROM ledger.get_detailed_balance(:carol, 'carol-1');

-- Rolled back with the transaction around it.
BEGIN;
SELECT ledger.record_broker_positions('carol-1', '[]');
ROLLBACK;
SELECT jsonb_array_length(positions) AS positions FROM ledger.get_detailed_balance(:carol, 'carol-1');

-- Reads in a read-only transaction, writes not.
BEGIN READ ONLY;
SELECT position_value FROM ledger.get_detailed_balance(:carol, 'carol-1');
SELECT pg_temp.raises('SELECT ledger.record_broker_positions(''carol-1'', ''[]'')');
ROLLBACK;

-- Nothing for PUBLIC, and nobody's search_path matters.
SELECT count(*) AS executable FROM pg_proc p
WHERE p.pronamespace = 'ledger'::regnamespace
  AND (p.proname LIKE '%broker%' OR p.proname IN ('get_detailed_balance', 'last_sale_settled'))
  AND has_function_privilege('public', p.oid, 'EXECUTE');
CREATE TEMP TABLE broker_accounts (account_id text);
SET search_path = pg_temp, public;
SELECT broker_equity FROM ledger.get_detailed_balance(:carol, 'carol-1');
RESET search_path;
DROP TABLE pg_temp.broker_accounts;

-- Nor what plpgsql is to complain of.
SET plpgsql.extra_errors = 'all';
SELECT total_value = total_portfolio_value - position_value + invested_value AS same, broker_equity FROM ledger.get_detailed_balance(:carol, 'carol-1');
RESET plpgsql.extra_errors;
