/*
 * operations.sql: the movements. Thin C: EXECUTE is the whole gate.
 */

CREATE TYPE ledger.posting AS (debit_account bigint, credit_account bigint, amount numeric);
COMMENT ON TYPE ledger.posting IS 'One posting: debit account, credit account, amount.';

CREATE FUNCTION ledger.credit_user_usdc(user_id uuid, amount numeric, description text,
	reference_id uuid DEFAULT NULL, reference_type text DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_credit_user_usdc'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.credit_user_usdc(uuid, numeric, text, uuid, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.credit_user_usdc(uuid, numeric, text, uuid, text) IS
'Deposit: debits system_buffer_usdc, credits the user''s usdc_balance. Returns the transaction''s id. Key credit_user_usdc:reference_type:reference_id; the same request again returns the first id. Errors: 22004, LG009, LG002, LG004.';

CREATE FUNCTION ledger.debit_user_usdc(user_id uuid, amount numeric, description text,
	reference_id uuid DEFAULT NULL, reference_type text DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_debit_user_usdc'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.debit_user_usdc(uuid, numeric, text, uuid, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.debit_user_usdc(uuid, numeric, text, uuid, text) IS
'Withdrawal: debits the user''s usdc_balance, credits system_buffer_usdc. Returns the transaction''s id. Errors: 22004, LG009, LG002, LG004, LG001.';

CREATE FUNCTION ledger.move_funds_to_fiat_exposure(user_id uuid, amount numeric, description text,
	reference_id uuid DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_move_funds_to_fiat_exposure'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.move_funds_to_fiat_exposure(uuid, numeric, text, uuid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.move_funds_to_fiat_exposure(uuid, numeric, text, uuid) IS
'Conversion 1:1 of the user''s usdc_balance to fiat_exposure through fx_clearing, two postings. Returns the transaction''s id. Errors: 22004, LG009, LG002, LG004, LG001.';

CREATE FUNCTION ledger.move_funds_to_usdc(user_id uuid, amount numeric, description text,
	reference_id uuid DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_move_funds_to_usdc'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.move_funds_to_usdc(uuid, numeric, text, uuid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.move_funds_to_usdc(uuid, numeric, text, uuid) IS
'Conversion 1:1 of the user''s fiat_exposure to usdc_balance through fx_clearing, two postings. Returns the transaction''s id. Errors: 22004, LG009, LG002, LG004, LG001.';

CREATE FUNCTION ledger.reserve_for_investment(user_id uuid, amount numeric,
	order_id uuid DEFAULT NULL, expires_at timestamptz DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_reserve_for_investment'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.reserve_for_investment(uuid, numeric, uuid, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reserve_for_investment(uuid, numeric, uuid, timestamptz) IS
'Moves usdc_balance to pending_investment and makes a reservation, whose id (also the transaction''s) it returns. One per order ever; a client that may retry must pass an order_id. Errors: 22004, LG009, LG002, LG004, LG001.';

CREATE FUNCTION ledger.release_reservation(user_id uuid, amount numeric DEFAULT NULL,
	order_id uuid DEFAULT NULL, release_id text DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_release_reservation'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.release_reservation(uuid, numeric, uuid, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.release_reservation(uuid, numeric, uuid, text) IS
'Moves reserved money back to usdc_balance. amount NULL: all that is left, and NULL when nothing is; a partial release with a release_id is deduplicated. Returns the transaction''s id. Errors: 22004, LG009, LG002, LG008, LG004.';

CREATE FUNCTION ledger.execute_investment(user_id uuid, amount numeric, order_id uuid,
	fill_id text DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_execute_investment'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.execute_investment(uuid, numeric, uuid, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.execute_investment(uuid, numeric, uuid, text) IS
'A fill: pending_investment to fiat_exposure 1:1 through fx_clearing, drawn from the order''s reservation. Key execute_investment:order_id:fill_id, without fill_id the order alone. Returns the transaction''s id. Errors: 22004, LG009, LG002, LG008, LG004.';

CREATE FUNCTION ledger.settle_sale(user_id uuid, cost numeric, proceeds numeric, order_id uuid,
	fill_id text DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_settle_sale'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.settle_sale(uuid, numeric, numeric, uuid, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.settle_sale(uuid, numeric, numeric, uuid, text) IS
'A sale: stock at cost leaves fiat_exposure and broker_operational, the proceeds in USD come. Returns the transaction''s id. Errors: 22004, LG009, LG002, LG004, LG001.';

CREATE FUNCTION ledger.convert_buffer(from_type text, to_type text, amount numeric,
	received numeric DEFAULT NULL, reference_id uuid DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_convert_buffer'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.convert_buffer(text, text, numeric, numeric, uuid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.convert_buffer(text, text, numeric, numeric, uuid) IS
'House to house through fx_clearing: amount leaves one buffer, received (NULL: amount) comes into the other, the difference is house_equity''s. Returns the transaction''s id. Errors: 22004, LG010, LG009, LG002, LG004.';

CREATE FUNCTION ledger.fund_broker(amount numeric, reference_id uuid DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_fund_broker'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.fund_broker(numeric, uuid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.fund_broker(numeric, uuid) IS
'USD from the converter to the broker: debits broker_operational, credits system_buffer_fiat. Returns the transaction''s id. Errors: LG009, LG002, LG004.';

CREATE FUNCTION ledger.replenish_buffer(account_type text, amount numeric,
	reference_id uuid DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_replenish_buffer'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.replenish_buffer(text, numeric, uuid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.replenish_buffer(text, numeric, uuid) IS
'The house''s own money into a buffer: debits the buffer, credits house_equity. Returns the transaction''s id. Errors: 22004, LG010, LG009, LG002, LG004.';

CREATE FUNCTION ledger.open_house_balance(account_type text, currency text, amount numeric,
	reason text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_open_house_balance'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.open_house_balance(text, text, numeric, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.open_house_balance(text, text, numeric, text) IS
'What a house account holds when the ledger begins, against opening_balance; once for each account type and currency. Returns the transaction''s id. Errors: 22004, LG010, LG009, LG002, LG004.';

CREATE FUNCTION ledger.reverse_transaction(transaction_id bigint, reason text,
	amount numeric DEFAULT NULL, reference_id uuid DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_reverse_transaction'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.reverse_transaction(bigint, text, numeric, uuid) FROM PUBLIC;
COMMENT ON FUNCTION ledger.reverse_transaction(bigint, text, numeric, uuid) IS
'The mirror image of a transaction, whole (amount NULL) or in part; a partial one needs a reference_id. Never more than the original in total. Returns the reversal''s id. Errors: 22004, LG009, LG011, LG002, LG004, LG001.';

CREATE FUNCTION ledger.post(type text, postings ledger.posting[],
	idempotency_key text DEFAULT NULL, user_id uuid DEFAULT NULL,
	reference_id uuid DEFAULT NULL, reference_type text DEFAULT NULL,
	description text DEFAULT NULL, metadata jsonb DEFAULT NULL,
	effective_at timestamptz DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_post_transaction'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.post(text, ledger.posting[], text, uuid, uuid, text, text, jsonb, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION ledger.post(text, ledger.posting[], text, uuid, uuid, text, text, jsonb, timestamptz) IS
'Posts one transaction of one or more postings between accounts by id. Returns the transaction''s id. Errors: 22004, 22023, 22001, LG009, LG010, LG002, LG004, LG001.';

CREATE FUNCTION ledger.open_account(account_type text, user_id uuid DEFAULT NULL,
	currency text DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_open_account'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.open_account(text, uuid, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.open_account(text, uuid, text) IS
'Returns the account of that type, user and currency, opening it if it is not there. Errors: 22004, LG010.';

CREATE FUNCTION ledger.set_account_status(account_id bigint, status text, reason text) RETURNS void
	AS 'MODULE_PATHNAME', 'ledger_set_account_status'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.set_account_status(bigint, text, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.set_account_status(bigint, text, text) IS
'Sets an account open, frozen or closed (with a balance of zero only); a frozen or closed one takes no postings (LG004). Errors: 22004, 22023, LG010, 55000.';

CREATE FUNCTION ledger.set_account_limit(account_id bigint, min_balance numeric, reason text) RETURNS void
	AS 'MODULE_PATHNAME', 'ledger_set_account_limit'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.set_account_limit(bigint, numeric, text) FROM PUBLIC;
COMMENT ON FUNCTION ledger.set_account_limit(bigint, numeric, text) IS
'Sets the lowest balance of one account; NULL: its type''s. A user''s may not be below zero. Errors: 22004, LG010, LG009.';

CREATE FUNCTION ledger.set_account_stripes(account_id bigint, stripes integer, reason text,
	lock_wait interval DEFAULT '2s') RETURNS void
	AS 'MODULE_PATHNAME', 'ledger_set_account_stripes'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.set_account_stripes(bigint, integer, text, interval) FROM PUBLIC;
COMMENT ON FUNCTION ledger.set_account_stripes(bigint, integer, text, interval) IS
'Spreads an account without a lowest balance over so many rows, so that as many sessions post to it at once; 0: one row again. Waits up to lock_wait for postings in flight, as configure() does. Errors: 22004, 22023, 22001, LG010, 25001, 55P03.';

CREATE FUNCTION ledger.expire_reservations(max_count integer DEFAULT 1000) RETURNS bigint
	AS 'MODULE_PATHNAME', 'ledger_expire_reservations'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.expire_reservations(integer) FROM PUBLIC;
COMMENT ON FUNCTION ledger.expire_reservations(integer) IS
'Releases what is left of up to max_count reservations that are due. Those of a user with a frozen or closed account stay. Returns how many it released. Errors: 22004, 22023.';

CREATE TYPE ledger.settings_row AS (shadow_mode boolean, strict_mode boolean, balance_source text, phase text);
COMMENT ON TYPE ledger.settings_row IS 'What configure() returns: the settings in force.';

CREATE FUNCTION ledger.configure(shadow_mode boolean DEFAULT NULL, strict_mode boolean DEFAULT NULL,
	balance_source text DEFAULT NULL, reason text DEFAULT NULL, lock_wait interval DEFAULT '2s')
	RETURNS ledger.settings_row
	AS 'MODULE_PATHNAME', 'ledger_configure'
	LANGUAGE C VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE SECURITY INVOKER;
REVOKE ALL ON FUNCTION ledger.configure(boolean, boolean, text, text, interval) FROM PUBLIC;
COMMENT ON FUNCTION ledger.configure(boolean, boolean, text, text, interval) IS
'Changes the settings (NULL: unchanged) and returns them. Waits up to lock_wait for postings in flight, in slices that hold up nobody, then fails naming each. Errors: 22004, 22023, 25001, 55P03, 55000.';
