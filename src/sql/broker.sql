/*
 * broker.sql: what the broker says that its accounts hold.
 *
 * The rows are snapshots of the Alpaca API, taken as they come and replaced as
 * a whole; they are not money of the ledger. The ledger has a customer's USD
 * at the broker already, in fiat_exposure: cash, and stock at cost. All that a
 * snapshot adds is the difference between market and cost.
 *
 * Every function pins search_path to pg_catalog and pg_temp. PostgreSQL looks
 * for no function or operator in a temporary schema, so names without a schema
 * are pg_catalog's; tables and types are always qualified.
 *
 * Lock order: the row of broker_accounts, then its broker_positions. Nothing
 * here locks an account of the ledger.
 */

CREATE TABLE ledger.broker_accounts (
	account_id text COLLATE "C" CONSTRAINT broker_accounts_pkey PRIMARY KEY,
	user_id uuid NOT NULL,
	as_of timestamptz NOT NULL,
	positions_as_of timestamptz,
	equity numeric NOT NULL,
	cash numeric NOT NULL,
	data jsonb NOT NULL
) USING heap WITH (fillfactor = 70);
COMMENT ON TABLE ledger.broker_accounts IS 'The broker''s accounts as last recorded by record_broker_account().';
COMMENT ON COLUMN ledger.broker_accounts.as_of IS 'The clock when the account was recorded.';
COMMENT ON COLUMN ledger.broker_accounts.positions_as_of IS 'The clock when the positions were recorded; NULL: never.';
COMMENT ON COLUMN ledger.broker_accounts.data IS 'The account as the API gave it.';
CREATE INDEX broker_accounts_user ON ledger.broker_accounts (user_id);

CREATE TABLE ledger.broker_positions (
	account_id text COLLATE "C" NOT NULL,
	symbol text COLLATE "C" NOT NULL,
	qty numeric NOT NULL,
	cost_basis numeric NOT NULL,
	market_value numeric,
	data jsonb NOT NULL,
	CONSTRAINT broker_positions_pkey PRIMARY KEY (account_id, symbol)
) USING heap WITH (fillfactor = 70);
COMMENT ON TABLE ledger.broker_positions IS 'The positions of the broker''s accounts as last recorded by record_broker_positions(); short positions are below zero.';
COMMENT ON COLUMN ledger.broker_positions.market_value IS 'NULL: the broker knows no price; the position counts at cost.';
COMMENT ON COLUMN ledger.broker_positions.data IS 'The position as the API gave it.';

SELECT pg_catalog.pg_extension_config_dump('ledger.broker_accounts', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.broker_positions', '');

/* One text field of the API's JSON, of 1 to max_bytes bytes. */
CREATE FUNCTION ledger.broker_text(object jsonb, field text, what text, max_bytes integer) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	value CONSTANT text := object ->> field;
BEGIN
	IF value IS NULL OR value = '' THEN
		RAISE EXCEPTION 'field "%" of % is missing', field, what
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = 'The field is not there, null or empty.',
				  HINT = 'Pass the JSON as the Alpaca API gives it.';
	ELSIF jsonb_typeof(object -> field) <> 'string' THEN
		RAISE EXCEPTION 'field "%" of % is not a string', field, what
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = format('The field holds a JSON %s.', jsonb_typeof(object -> field)),
				  HINT = 'Pass the JSON as the Alpaca API gives it.';
	ELSIF octet_length(value) > max_bytes THEN
		RAISE EXCEPTION 'field "%" of % is too long', field, what
			USING ERRCODE = 'string_data_right_truncation',
				  DETAIL = format('The field has %s bytes, %s are allowed.', octet_length(value), max_bytes),
				  HINT = 'Pass the JSON as the Alpaca API gives it.';
	END IF;
	RETURN value;
END
$$;
REVOKE ALL ON FUNCTION ledger.broker_text(jsonb, text, text, integer) FROM PUBLIC;
COMMENT ON FUNCTION ledger.broker_text(jsonb, text, text, integer) IS 'Internal: a text field of the broker''s JSON, or an error that names it.';

/*
 * One number of the API's JSON, a string that holds it or a JSON number. The
 * pattern is checked before the cast: numeric also takes NaN and Infinity,
 * blanks, and from PostgreSQL 16 on 0x10 and 1_000.
 */
CREATE FUNCTION ledger.broker_number(object jsonb, field text, what text, required boolean) RETURNS numeric
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	value CONSTANT text := object ->> field;
	number numeric;
BEGIN
	IF value IS NULL THEN
		IF required THEN
			RAISE EXCEPTION 'field "%" of % is missing', field, what
				USING ERRCODE = 'invalid_parameter_value',
					  DETAIL = 'The field is not there or null.',
					  HINT = 'Pass the JSON as the Alpaca API gives it.';
		END IF;
		RETURN NULL;
	END IF;

	IF jsonb_typeof(object -> field) NOT IN ('string', 'number')
	   OR value !~ E'^[+-]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([eE][+-]?[0-9]{1,4})?$' THEN
		RAISE EXCEPTION 'field "%" of % is not a number', field, what
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = format('The field holds %s.', left((object -> field)::text, 80)),
				  HINT = 'Pass the JSON as the Alpaca API gives it: strings holding decimal numbers.';
	END IF;

	IF length(value) <= 100 THEN
		number := value::numeric;
	END IF;
	IF number IS NULL OR abs(number) >= 1e20 OR scale(number) > 100 THEN
		RAISE EXCEPTION 'field "%" of % is out of range', field, what
			USING ERRCODE = 'numeric_value_out_of_range',
				  DETAIL = 'Up to 20 digits before the point and 100 characters are allowed.',
				  HINT = 'Pass the JSON as the Alpaca API gives it.';
	END IF;
	RETURN number;
END
$$;
REVOKE ALL ON FUNCTION ledger.broker_number(jsonb, text, text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION ledger.broker_number(jsonb, text, text, boolean) IS 'Internal: a number of the broker''s JSON, or an error that names it.';

/*
 * One element of /v2/positions as a row. Signs are checked because a short
 * position whose cost had the other sign than its value would count twice.
 */
CREATE FUNCTION ledger.broker_position(account_id text, element jsonb, place bigint) RETURNS ledger.broker_positions
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SECURITY INVOKER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	what text := format('position %s', place);
	result ledger.broker_positions;
BEGIN
	IF jsonb_typeof(element) <> 'object' THEN
		RAISE EXCEPTION '% is not a JSON object', what
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = format('The element is a JSON %s.', jsonb_typeof(element)),
				  HINT = 'Pass the array that the Alpaca API gives for /v2/positions.';
	END IF;

	result.account_id := account_id;
	result.symbol := ledger.broker_text(element, 'symbol', what, 63);
	what := format('position %s', result.symbol);
	result.qty := ledger.broker_number(element, 'qty', what, true);
	result.cost_basis := ledger.broker_number(element, 'cost_basis', what, true);
	result.market_value := ledger.broker_number(element, 'market_value', what, false);
	result.data := element;

	IF element ->> 'side' NOT IN ('long', 'short')
	   OR (element ->> 'side' = 'long' AND result.qty < 0)
	   OR (element ->> 'side' = 'short' AND result.qty > 0)
	   OR sign(result.cost_basis) NOT IN (0, sign(result.qty))
	   OR sign(result.market_value) NOT IN (0, sign(result.qty)) THEN
		RAISE EXCEPTION 'side and signs of % do not agree', what
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = format('side is %s, qty %s, cost_basis %s, market_value %s.',
								  COALESCE(element ->> 'side', 'null'), result.qty, result.cost_basis,
								  COALESCE(result.market_value::text, 'null')),
				  HINT = 'Pass the JSON as the Alpaca API gives it: a short position has qty, cost_basis and market_value below zero.';
	ELSIF octet_length(element::text) > 65536 THEN
		RAISE EXCEPTION '% is too long', what
			USING ERRCODE = 'string_data_right_truncation',
				  DETAIL = format('The JSON has %s bytes, 65536 are allowed.', octet_length(element::text)),
				  HINT = 'Pass the JSON as the Alpaca API gives it.';
	END IF;
	RETURN result;
END
$$;
REVOKE ALL ON FUNCTION ledger.broker_position(text, jsonb, bigint) FROM PUBLIC;
COMMENT ON FUNCTION ledger.broker_position(text, jsonb, bigint) IS 'Internal: an element of the broker''s positions as a row, or an error that names it.';

/*
 * The clock is read before the row is waited for: what was handed in first is
 * older, whoever gets the row first. A stored time later than the clock now
 * was written before the clock was set back, and does not count.
 */
CREATE FUNCTION ledger.record_broker_account(account jsonb, user_id uuid) RETURNS boolean
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	taken_at CONSTANT timestamptz := clock_timestamp();
	new_id text;
	new_equity numeric;
	new_cash numeric;
	owner uuid;
BEGIN
	IF account IS NULL OR record_broker_account.user_id IS NULL THEN
		RAISE EXCEPTION '% must not be NULL', CASE WHEN account IS NULL THEN 'account' ELSE 'user_id' END
			USING ERRCODE = 'null_value_not_allowed',
				  HINT = 'Pass the JSON of /v2/account and the user that the account belongs to.';
	ELSIF jsonb_typeof(account) <> 'object' THEN
		RAISE EXCEPTION 'account is not a JSON object'
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = format('The value is a JSON %s.', jsonb_typeof(account)),
				  HINT = 'Pass the object that the Alpaca API gives for /v2/account.';
	ELSIF octet_length(account::text) > 65536 THEN
		RAISE EXCEPTION 'account is too long'
			USING ERRCODE = 'string_data_right_truncation',
				  DETAIL = format('The JSON has %s bytes, 65536 are allowed.', octet_length(account::text)),
				  HINT = 'Pass the JSON as the Alpaca API gives it.';
	END IF;

	new_id := ledger.broker_text(account, 'id', 'account', 255);
	new_equity := ledger.broker_number(account, 'equity', 'account', true);
	new_cash := ledger.broker_number(account, 'cash', 'account', true);
	IF account ->> 'currency' <> 'USD' THEN
		RAISE EXCEPTION 'broker account % is not in USD', new_id
			USING ERRCODE = 'LG010',
				  DETAIL = format('The account''s currency is %s; fiat_exposure is in USD.', account ->> 'currency'),
				  HINT = 'Record accounts in USD only.';
	END IF;

	INSERT INTO ledger.broker_accounts AS b (account_id, user_id, as_of, equity, cash, data)
	VALUES (new_id, record_broker_account.user_id, taken_at, new_equity, new_cash, account)
	ON CONFLICT ON CONSTRAINT broker_accounts_pkey DO UPDATE
	SET as_of = EXCLUDED.as_of, equity = EXCLUDED.equity, cash = EXCLUDED.cash, data = EXCLUDED.data
	WHERE b.user_id = EXCLUDED.user_id
	  AND (b.as_of <= EXCLUDED.as_of OR b.as_of > clock_timestamp());
	IF FOUND THEN
		RETURN true;
	END IF;

	SELECT b.user_id INTO owner FROM ledger.broker_accounts b WHERE b.account_id = new_id;
	IF owner IS DISTINCT FROM record_broker_account.user_id THEN
		RAISE EXCEPTION 'broker account % belongs to another user', new_id
			USING ERRCODE = 'LG010',
				  DETAIL = 'A broker account belongs to the user for whom it was first recorded.',
				  HINT = 'Pass that user.';
	END IF;
	RETURN false;
END
$$;
REVOKE ALL ON FUNCTION ledger.record_broker_account(jsonb, uuid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.record_broker_account(jsonb, uuid) IS 'Records the JSON of the Alpaca API''s /v2/account for its user. False: a newer snapshot is there already.';

CREATE FUNCTION ledger.record_broker_positions(account_id text, positions jsonb) RETURNS boolean
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	taken_at CONSTANT timestamptz := clock_timestamp();
	new_rows ledger.broker_positions[];
	twice text;
BEGIN
	IF record_broker_positions.account_id IS NULL OR positions IS NULL THEN
		RAISE EXCEPTION '% must not be NULL', CASE WHEN positions IS NULL THEN 'positions' ELSE 'account_id' END
			USING ERRCODE = 'null_value_not_allowed',
				  HINT = 'Pass the account''s id and the JSON of /v2/positions.';
	ELSIF jsonb_typeof(positions) <> 'array' THEN
		RAISE EXCEPTION 'positions are not a JSON array'
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = format('The value is a JSON %s.', jsonb_typeof(positions)),
				  HINT = 'Pass the array that the Alpaca API gives for /v2/positions; [] means no positions.';
	ELSIF jsonb_array_length(positions) > 10000 THEN
		RAISE EXCEPTION 'too many positions'
			USING ERRCODE = 'program_limit_exceeded',
				  DETAIL = format('The array has %s elements, 10000 are allowed.', jsonb_array_length(positions)),
				  HINT = 'Pass the positions of one account.';
	END IF;

	SELECT array_agg(ledger.broker_position(record_broker_positions.account_id, e.element, e.place) ORDER BY e.place)
	INTO new_rows
	FROM jsonb_array_elements(positions) WITH ORDINALITY AS e (element, place);
	SELECT n.symbol INTO twice FROM unnest(new_rows) n GROUP BY n.symbol HAVING count(*) > 1 ORDER BY 1 LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'position % is there more than once', twice
			USING ERRCODE = 'invalid_parameter_value',
				  DETAIL = 'An account has one position for each symbol.',
				  HINT = 'Pass the positions of one account as the Alpaca API gives them.';
	END IF;

	UPDATE ledger.broker_accounts b SET positions_as_of = taken_at
	WHERE b.account_id = record_broker_positions.account_id
	  AND (b.positions_as_of IS NULL OR b.positions_as_of <= taken_at OR b.positions_as_of > clock_timestamp());
	IF NOT FOUND THEN
		IF EXISTS (SELECT FROM ledger.broker_accounts b WHERE b.account_id = record_broker_positions.account_id) THEN
			RETURN false;
		END IF;
		RAISE EXCEPTION 'broker account % is not known', left(record_broker_positions.account_id, 255)
			USING ERRCODE = 'LG010',
				  DETAIL = 'No account with that id has been recorded.',
				  HINT = 'Record the account with record_broker_account() first.';
	END IF;

	DELETE FROM ledger.broker_positions p
	WHERE p.account_id = record_broker_positions.account_id
	  AND NOT EXISTS (SELECT FROM unnest(new_rows) n WHERE n.symbol = p.symbol);
	INSERT INTO ledger.broker_positions (account_id, symbol, qty, cost_basis, market_value, data)
	SELECT n.account_id, n.symbol, n.qty, n.cost_basis, n.market_value, n.data FROM unnest(new_rows) n
	ON CONFLICT ON CONSTRAINT broker_positions_pkey DO UPDATE
	SET qty = EXCLUDED.qty, cost_basis = EXCLUDED.cost_basis, market_value = EXCLUDED.market_value, data = EXCLUDED.data;
	RETURN true;
END
$$;
REVOKE ALL ON FUNCTION ledger.record_broker_positions(text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION ledger.record_broker_positions(text, jsonb) IS 'Replaces a recorded broker account''s positions by the JSON of the Alpaca API''s /v2/positions. False: newer ones are there already.';

CREATE TYPE ledger.detailed_balance AS (
	user_id uuid,
	usdc_balance numeric,
	buying_power numeric,
	pending_investment numeric,
	total_value numeric,
	currency text,
	breakdown jsonb,
	source text,
	broker_equity numeric,
	broker_cash numeric,
	position_value numeric,
	invested_value numeric,
	total_portfolio_value numeric,
	positions jsonb,
	broker_as_of timestamptz,
	broker_stale boolean
);
COMMENT ON TYPE ledger.detailed_balance IS 'What get_detailed_balance() returns.';

/*
 * When the ledger last moved stock out of a user's fiat_exposure: the newest
 * posting that debits it against broker_operational, a sale's cost or the
 * reversal of its proceeds. The "+ 0" keeps the planner from the index on the
 * house account, whose part of it is as long as the ledger.
 */
CREATE FUNCTION ledger.last_sale_settled(user_id uuid) RETURNS timestamptz
	LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT j.created_at
	FROM ledger.journal j
	WHERE j.debit_account_id = ANY (ARRAY(SELECT a.id FROM ledger.accounts a
										  WHERE a.user_id = $1 AND a.account_type = 'fiat_exposure'))
	  AND j.credit_account_id + 0 = ANY (ARRAY(SELECT a.id FROM ledger.accounts a
											   WHERE a.user_id IS NULL AND a.account_type = 'broker_operational'))
	ORDER BY j.transaction_id DESC LIMIT 1
$$;
REVOKE ALL ON FUNCTION ledger.last_sale_settled(uuid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.last_sale_settled(uuid) IS 'Internal: when the ledger last moved stock out of a user''s fiat_exposure; NULL: never.';

CREATE FUNCTION ledger.get_detailed_balance(user_id uuid, alpaca_account_id text) RETURNS ledger.detailed_balance
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	result ledger.detailed_balance;
	account ledger.broker_accounts;
	max_age interval;
	age interval;
	sold_since boolean;
BEGIN
	IF get_detailed_balance.user_id IS NULL OR alpaca_account_id IS NULL THEN
		RAISE EXCEPTION '% must not be NULL',
				CASE WHEN get_detailed_balance.user_id IS NULL THEN 'user_id' ELSE 'alpaca_account_id' END
			USING ERRCODE = 'null_value_not_allowed',
				  HINT = 'Use get_balance() for a user without a broker account.';
	END IF;
	SELECT b.* INTO account FROM ledger.broker_accounts b WHERE b.account_id = alpaca_account_id;
	IF account.user_id <> get_detailed_balance.user_id THEN
		RAISE EXCEPTION 'broker account % belongs to another user', alpaca_account_id
			USING ERRCODE = 'LG010',
				  DETAIL = 'A broker account belongs to the user for whom it was first recorded.',
				  HINT = 'Pass an account of this user.';
	END IF;

	SELECT g.user_id, g.usdc_balance, g.buying_power, g.pending_investment, g.total_value, g.currency, g.breakdown, g.source
	INTO result.user_id, result.usdc_balance, result.buying_power, result.pending_investment, result.total_value, result.currency,
		result.breakdown, result.source
	FROM ledger.get_balance(get_detailed_balance.user_id) g;
	result.broker_equity := account.equity;
	result.broker_cash := account.cash;
	result.broker_as_of := LEAST(account.as_of, account.positions_as_of);

	/* A position without a price counts at cost, and so adds nothing. */
	IF account.positions_as_of IS NOT NULL THEN
		SELECT COALESCE(sum(COALESCE(p.market_value, p.cost_basis)), 0), COALESCE(sum(p.cost_basis), 0),
			   COALESCE(jsonb_agg(p.data ORDER BY p.symbol), '[]')
		INTO result.position_value, result.invested_value, result.positions
		FROM ledger.broker_positions p WHERE p.account_id = alpaca_account_id;
	END IF;

	/*
	 * Once a sale is settled the ledger has its gain. A snapshot from before
	 * may still hold the stock; to add that gain would count it twice.
	 */
	sold_since := ledger.last_sale_settled(get_detailed_balance.user_id) >= account.positions_as_of;
	result.total_portfolio_value := result.total_value;
	IF account.positions_as_of IS NOT NULL AND sold_since IS NOT TRUE THEN
		result.total_portfolio_value := result.total_value + (result.position_value - result.invested_value);
	END IF;

	/* A time in the future is the clock set back, or a standby's that lags. */
	max_age := COALESCE(NULLIF(current_setting('ledger.broker_max_age', true), ''), '15min');
	age := clock_timestamp() - result.broker_as_of;
	result.broker_stale := account.positions_as_of IS NULL OR sold_since IS TRUE
		OR (max_age >= interval '0' AND (age > max_age OR age < -max_age));

	result.broker_equity := ledger.normalise(result.broker_equity, 2);
	result.broker_cash := ledger.normalise(result.broker_cash, 2);
	result.position_value := ledger.normalise(result.position_value, 2);
	result.invested_value := ledger.normalise(result.invested_value, 2);
	result.total_portfolio_value := ledger.normalise(result.total_portfolio_value, 2);
	RETURN result;
END
$$;
REVOKE ALL ON FUNCTION ledger.get_detailed_balance(uuid, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.get_detailed_balance(uuid, text) IS 'A user''s balance and what the broker says of the account: positions at market instead of at cost in total_portfolio_value. Missing or old data of the broker is marked broker_stale.';
