--
-- hazard 18: the ledger deduplicates and the legacy write does not. Every
-- operation that has a reference is sent five times: ledger and legacy row have
-- moved once, and agree. So it is with the row written by the store and with SQL
-- (a table that has a CHECK), in one transaction and in five.
--
-- Fails with a mirror that does what was asked for instead of what was posted:
-- with the posting hook called for a replay, too (ledger_post() in posting.c).
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_hazard_18
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
CREATE FUNCTION public.ref(way text, n int) RETURNS uuid IMMUTABLE RETURN md5(way || n)::uuid;

CREATE FUNCTION public.transfer(customer uuid, key text) RETURNS ledger.transfer LANGUAGE sql
	RETURN ROW('batch', NULL, NULL, 4, key, customer, 'system_buffer_usdc', 'usdc_balance', NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer;

-- What the operations are called with; %1$L is the customer, %2$L … one reference each.
CREATE TABLE public.operations (n int PRIMARY KEY, name text, call text);
INSERT INTO public.operations VALUES
	(1, 'credit_user_usdc', 'ledger.credit_user_usdc(%1$L, 100, ''x'', %2$L)'),
	(2, 'debit_user_usdc', 'ledger.debit_user_usdc(%1$L, 7, ''x'', %2$L)'),
	(3, 'move_funds_to_fiat_exposure', 'ledger.move_funds_to_fiat_exposure(%1$L, 20, ''x'', %2$L)'),
	(4, 'move_funds_to_usdc', 'ledger.move_funds_to_usdc(%1$L, 5, ''x'', %2$L)'),
	(5, 'reserve_for_investment', 'ledger.reserve_for_investment(%1$L, 30, %3$L)'),
	(6, 'execute_investment, a fill', 'ledger.execute_investment(%1$L, 11, %3$L, ''fill'')'),
	(7, 'release_reservation, in part', 'ledger.release_reservation(%1$L, 2, %3$L, ''part'')'),
	(8, 'release_reservation, the rest', 'ledger.release_reservation(%1$L, order_id => %3$L)'),
	(9, 'execute_investment, an order', 'ledger.execute_investment(%1$L, 12, %4$L)'),
	(10, 'settle_sale', 'ledger.settle_sale(%1$L, 10, 13, %3$L, ''sale'')'),
	(11, 'reverse_transaction, in part', 'ledger.reverse_transaction(ledger.find_transaction(''credit_user_usdc:deposit:'' || %2$L), ''x'', 9, %2$L)'),
	(12, 'reverse_transaction', 'ledger.reverse_transaction(ledger.find_transaction(''debit_user_usdc:withdrawal:'' || %2$L), ''x'', reference_id => %4$L)'),
	(13, 'post', 'ledger.post(''fee'', ARRAY[ROW(ledger.open_account(''usdc_balance'', %1$L), ledger.open_account(''house_equity'', NULL, ''USDC''), 3)::ledger.posting], ''fee:'' || %2$L)'),
	(14, 'post_batch', '(SELECT max(r.transaction_id) FROM ledger.post_batch(ARRAY[public.transfer(%1$L, ''batch:'' || %2$L)]) r)');

-- Sends each operation five times, in one transaction or in five; how often the
-- id was another, and how far ledger and legacy row have moved.
CREATE TABLE public.moved (who text, way text, n int, name text, ids bigint, ledger text, legacy text);
CREATE FUNCTION public.has(customer uuid, OUT ledger numeric[], OUT legacy numeric[]) LANGUAGE sql
	BEGIN ATOMIC
	SELECT ARRAY[b.usdc_balance + b.pending_investment, b.fiat_exposure], ARRAY[l.pending_deposits, l.buying_power]
	FROM ledger.get_user_balance(customer) b LEFT JOIN public.balances l ON l.user_id = customer;
	END;
CREATE PROCEDURE public.replay(customer uuid, way text, apart boolean)
	LANGUAGE plpgsql
AS $$
DECLARE
	operation public.operations;
	before record;
	now record;
	id bigint;
	ids bigint[];
BEGIN
	-- what an order that has no reservation draws on
	PERFORM ledger.credit_user_usdc(customer, 50, 'x'), ledger.reserve_for_investment(customer, 12);
	FOR operation IN SELECT * FROM public.operations ORDER BY n LOOP
		before := public.has(customer);
		ids := '{}';
		FOR i IN 1 .. 5 LOOP
			EXECUTE format('SELECT ' || operation.call, customer, public.ref(way, 1), public.ref(way, 2), public.ref(way, 3)) INTO id;
			ids := ids || id;
			IF apart THEN
				COMMIT;
			END IF;
		END LOOP;
		now := public.has(customer);
		INSERT INTO public.moved SELECT right(customer::text, 1), way, operation.n, operation.name, (SELECT count(DISTINCT i) FROM unnest(ids) i),
			format('%s %s', trim_scale(now.ledger[1] - before.ledger[1]), trim_scale(now.ledger[2] - before.ledger[2])),
			format('%s %s', trim_scale(now.legacy[1] - before.legacy[1]), trim_scale(now.legacy[2] - before.legacy[2]));
	END LOOP;
END
$$;
\set ECHO all
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT ledger.configure(shadow_mode => true, strict_mode => true);
CALL public.replay(:alice, 'apart', true);
CALL public.replay(:bob, 'in one transaction', false);
SELECT name, ids, ledger, legacy FROM moved WHERE way = 'apart' ORDER BY n;

-- The row written with SQL; strict off, where that is contained; a rolled back first attempt.
ALTER TABLE balances ADD CONSTRAINT sane CHECK (buying_power > -1000);
CALL public.replay(:alice, 'with sql', true);
SELECT ledger.configure(strict_mode => false);
CALL public.replay(:bob, 'contained', false);
BEGIN;
CALL public.replay(:carol, 'rolled back', false);
ROLLBACK;
CALL public.replay(:carol, 'rolled back', false);
SELECT m.way, count(*) AS operations, count(*) FILTER (WHERE m.ids = 1 AND m.ledger = a.ledger AND m.legacy = m.ledger) AS right
	FROM moved m JOIN moved a USING (n) WHERE a.way = 'apart' GROUP BY m.way ORDER BY m.way;
SELECT * FROM ledger.reconcile();

-- One batch with the same key in it five times.
SELECT item, result FROM ledger.post_batch(ARRAY(SELECT public.transfer(:bob, 'twice') FROM generate_series(1, 5)));
SELECT item, result FROM ledger.post_batch(ARRAY(SELECT public.transfer(:bob, 'twice') FROM generate_series(1, 5)));
-- Another amount with the same reference moves neither side.
SELECT ledger.credit_user_usdc(:alice, 101, 'x', public.ref('apart', 1));
SELECT * FROM ledger.reconcile();
SELECT count(*) FROM ledger.legacy_writes;
SELECT * FROM public.ledger_oracle();

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
