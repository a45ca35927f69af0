/*
 * reservations.sql: money set aside for orders, and what drew on it.
 *
 * A reservation's id is the id of the transaction that made it.
 */

CREATE TABLE ledger.reservation_rows (
	id bigint PRIMARY KEY,
	user_id uuid NOT NULL,
	order_id uuid,
	amount numeric NOT NULL CHECK (amount > 0),
	executed numeric NOT NULL DEFAULT 0 CHECK (executed >= 0),
	released numeric NOT NULL DEFAULT 0 CHECK (released >= 0),
	status text COLLATE "C" NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'executed', 'released', 'expired')),
	expires_at timestamptz,
	created_at timestamptz NOT NULL,
	CHECK (executed + released <= amount),
	CHECK ((status = 'active') = (executed + released < amount))
) USING heap WITH (fillfactor = 80);
CREATE UNIQUE INDEX reservation_rows_order ON ledger.reservation_rows (order_id) WHERE order_id IS NOT NULL;
CREATE INDEX reservation_rows_user ON ledger.reservation_rows (user_id, id);
CREATE INDEX reservation_rows_due ON ledger.reservation_rows (expires_at) WHERE status = 'active' AND expires_at IS NOT NULL;
COMMENT ON TABLE ledger.reservation_rows IS 'Reservations. Written by the ledger''s functions alone; read the view reservations.';

CREATE TABLE ledger.reservation_draws (
	transaction_id bigint NOT NULL,
	reservation_id bigint NOT NULL,
	executed numeric NOT NULL,
	released numeric NOT NULL,
	PRIMARY KEY (transaction_id, reservation_id)
) USING heap;
COMMENT ON TABLE ledger.reservation_draws IS 'What each transaction took from a reservation; below zero what a reversal gave back.';

SELECT pg_catalog.pg_extension_config_dump('ledger.reservation_rows', '');
SELECT pg_catalog.pg_extension_config_dump('ledger.reservation_draws', '');
