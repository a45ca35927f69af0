--
-- The same story twice, with the legacy table written by the store and by SQL:
-- both sides of it end equal.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_shadow_sql
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set ECHO all
-- columns are numeric(36,18), numeric and numeric(12,2) in turn; half of the
-- users have a row, some rows hold NULL
ALTER TABLE balances ALTER pending_deposits DROP NOT NULL;
SELECT passed FROM ledger.attach_legacy() WHERE check_name = 'attached';
SELECT ledger.configure(shadow_mode => true);

CREATE FUNCTION person(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
	SELECT format('00000000-0000-4000-9000-%s', lpad(n::text, 12, '0'))::uuid
$$;
CREATE PROCEDURE story(first int) LANGUAGE plpgsql AS $$
DECLARE
	deposit bigint;
	who uuid;
BEGIN
	FOR i IN first .. first + 7 LOOP
		who := person(i);
		IF i % 2 = 0 THEN
			INSERT INTO balances (user_id, buying_power, pending_deposits) VALUES (who, i % 8, CASE WHEN i % 4 = 0 THEN i % 8 END);
		END IF;
		COMMIT;
		deposit := ledger.credit_user_usdc(who, 100, 'deposit');
		PERFORM ledger.credit_user_usdc(who, 0.25, 'twice in one transaction');
		COMMIT;
		PERFORM ledger.reserve_for_investment(who, 40, person(i + 1000));
		PERFORM ledger.execute_investment(who, 10.01, person(i + 1000), 'f1');
		PERFORM ledger.execute_investment(who, 20.001, person(i + 1000), 'f2');
		PERFORM ledger.release_reservation(who, NULL, person(i + 1000));
		COMMIT;
		PERFORM ledger.reverse_transaction(deposit, 'half', 50, person(i + 2000));
		PERFORM ledger.debit_user_usdc(who, 5, 'withdrawal');
		UPDATE balances SET updated_at = '2000-01-01' WHERE user_id = who;
		COMMIT;
		PERFORM ledger.move_funds_to_usdc(who, 0.5, 'back');
		ROLLBACK;
		BEGIN
			PERFORM ledger.move_funds_to_usdc(who, 0.5, 'back');
			RAISE EXCEPTION 'undo';
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
		PERFORM ledger.move_funds_to_usdc(who, 1.5, 'back');
		COMMIT;
	END LOOP;
END
$$;
CREATE FUNCTION ends(first int) RETURNS TABLE (n int, legacy text, stamped boolean, ledger text, compared text) LANGUAGE sql AS $$
	SELECT i - first, concat_ws(' ', b.buying_power, b.pending_deposits, b.currency), b.updated_at > now() - interval '1 hour',
		(SELECT string_agg(account_type || ' ' || balance, ', ' ORDER BY account_type) FROM ledger.account_balances a WHERE a.user_id = person(i)),
		(SELECT string_agg(status, ' ') FROM ledger.compare_balances(person(i)))
	FROM generate_series(first, first + 7) i LEFT JOIN balances b ON b.user_id = person(i)
$$;
SET client_min_messages = error;
CALL story(8);
SET ledger.legacy_fast_path = off;
CALL story(16);
RESET ledger.legacy_fast_path;
SELECT * FROM ends(8) ORDER BY n;
SELECT * FROM ends(8) EXCEPT SELECT * FROM ends(16);
SELECT count(*) FROM ends(16);

-- Wider and narrower columns.
ALTER TABLE balances ALTER buying_power TYPE numeric;
CALL story(24);
SET ledger.legacy_fast_path = off;
CALL story(32);
RESET ledger.legacy_fast_path;
SELECT * FROM ends(24) EXCEPT SELECT * FROM ends(32);
DROP VIEW legacy;
UPDATE balances SET buying_power = round(buying_power, 2);
SELECT count(*) > 0 AS repaired FROM ledger.repair(direction => 'ledger', dry_run => false, reason => 'rounded');
ALTER TABLE balances ALTER buying_power TYPE numeric(12,2);
CALL story(40);
SET ledger.legacy_fast_path = off;
CALL story(48);
RESET ledger.legacy_fast_path;
SELECT * FROM ends(40) ORDER BY n LIMIT 3;
SELECT * FROM ends(40) EXCEPT SELECT * FROM ends(48);
SELECT count(*) FILTER (WHERE cause = 'mirror_failed') > 0 AS recorded FROM ledger.discrepancies;
SELECT w.kind, count(*) FROM ledger.legacy_writes w GROUP BY w.kind ORDER BY w.kind;

-- Compare and reads, by both ways.
SELECT count(*) FROM ledger.get_user_balance(person(16));
CREATE TEMP TABLE fast AS SELECT i, c.* FROM generate_series(8, 55) i, ledger.compare_balances(person(i)) c;
SET ledger.legacy_fast_path = off;
SELECT i, c.* FROM generate_series(8, 55) i, ledger.compare_balances(person(i)) c EXCEPT SELECT * FROM fast;
SELECT count(*) FROM fast;
RESET ledger.legacy_fast_path;
SELECT * FROM public.ledger_oracle() WHERE ledger_oracle NOT LIKE 'legacy:%';

\set ECHO none
\c contrib_regression
DROP DATABASE :database;
