-- The story of the ledger, told by queries: a table of balances with customers
-- who have money, backfill, shadow mode, an order in two fills, an old code path
-- that is found out, strict mode, repair, the weeks of a migration by a test
-- clock, the cut-over, the way back, and the end.  Every table shown is a query's
-- output; every expect() that does not hold ends the story with an error.

CREATE PROCEDURE expect(what text, got anyelement, wanted anyelement)
LANGUAGE plpgsql AS $$
BEGIN
	IF got IS DISTINCT FROM wanted THEN
		RAISE EXCEPTION '%: got %, wanted %', what, got, wanted;
	END IF;
END
$$;

-- Until the background worker has done what it does: it stores each second
-- what differed and how long reads took.
CREATE PROCEDURE wait_for(what text, condition text)
LANGUAGE plpgsql AS $$
DECLARE
	holds boolean;
BEGIN
	FOR i IN 1..300 LOOP
		EXECUTE condition INTO holds;
		IF holds THEN
			RETURN;
		END IF;
		PERFORM pg_sleep(0.1);
	END LOOP;
	RAISE EXCEPTION '%: waited for half a minute', what;
END
$$;
\set evidence_stored 'SELECT running AND ring_used = 0 FROM ledger.worker_status'
\set reads_stored 'SELECT bool_and(passed) FROM ledger.readiness() WHERE gate IN (''worker'', ''read_latency'')'

\echo
\echo '1. A product keeps its customers'' money in one mutable row each.'
CREATE TABLE balances (
	user_id uuid PRIMARY KEY,
	buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0,
	currency varchar(10) NOT NULL DEFAULT 'USD',
	updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE customers (user_id uuid PRIMARY KEY, name text NOT NULL);
INSERT INTO customers VALUES
	('0a0a0a0a-0000-4000-8000-000000000001', 'Ada'),
	('0b0b0b0b-0000-4000-8000-000000000002', 'Grace'),
	('0c0c0c0c-0000-4000-8000-000000000003', 'Edsger');
INSERT INTO balances (user_id, buying_power, pending_deposits) VALUES
	('0a0a0a0a-0000-4000-8000-000000000001', 250, 100),
	('0b0b0b0b-0000-4000-8000-000000000002', 0, 1234.5),
	('0c0c0c0c-0000-4000-8000-000000000003', 10.000001, 0);
\set ada '''0a0a0a0a-0000-4000-8000-000000000001'''
\set grace '''0b0b0b0b-0000-4000-8000-000000000002'''
\set edsger '''0c0c0c0c-0000-4000-8000-000000000003'''
\set order '''00000000-0000-4000-8000-0000000000a1'''

CREATE VIEW before AS
	SELECT c.name, trim_scale(b.buying_power) AS buying_power, trim_scale(b.pending_deposits) AS pending_deposits, b.currency
	FROM balances b JOIN customers c USING (user_id);
SELECT * FROM before ORDER BY name;

\echo
\echo '2. The extension is created, the table attached: first it is checked.'
\echo '   pending_deposits is usdc_balance + pending_investment there, buying_power is fiat_exposure.'
CREATE EXTENSION ledger;
SELECT check_name, passed, detail FROM ledger.attach_legacy('balances');

\echo
\echo '3. Shadow mode: from now on each movement goes to both, in one transaction.'
SELECT * FROM ledger.configure(shadow_mode => true, balance_source => 'legacy', reason => 'week 1');

-- Both sides of a customer, as compare_balances() sees them in one snapshot.
CREATE VIEW side_by_side AS
	SELECT c.name, b.legacy_column, b.ledger_value, ledger.normalise(b.legacy_value, 2) AS legacy_value, b.status
	FROM customers c CROSS JOIN LATERAL ledger.compare_balances(c.user_id) b;

\echo
\echo '4. A deposit of 50 for Ada. She is opened from her legacy row on the way.'
SELECT ledger.credit_user_usdc(:ada, 50, 'card deposit', '00000000-0000-4000-8000-0000000000d1') AS deposit \gset
SELECT * FROM side_by_side WHERE name = 'Ada';
SELECT id, type, description, reference_type FROM ledger.transactions ORDER BY id;

\echo
\echo '5. The client did not see the answer and sends it again: nothing moves.'
SELECT ledger.credit_user_usdc(:ada, 50, 'card deposit', '00000000-0000-4000-8000-0000000000d1') AS replayed \gset
SELECT :deposit AS deposit, :replayed AS replayed;
SELECT * FROM side_by_side WHERE name = 'Ada';
CALL expect('the replay''s id', :replayed::bigint, :deposit::bigint);
CALL expect('Ada''s USDC', ledger.get_account_balance(:ada, 'usdc_balance'), 150.00);

\echo
\echo '   Grace and Edsger are not opened yet, and are read from their rows as opening would give it.'
SELECT c.name, b.usdc_balance, b.buying_power, b.total_value, b.source
FROM customers c CROSS JOIN LATERAL ledger.get_balance(c.user_id) b WHERE c.name <> 'Ada' ORDER BY 1;
\echo '   The backfill opens everybody else, beside whoever writes. Each of the two deposits 10.'
CALL ledger.backfill();
SELECT status, percent, opened, already, findings FROM ledger.backfill_progress;
SELECT opened FROM ledger.backfill_progress \gset
CALL expect('customers opened by the backfill', :opened::bigint, 2::bigint);
SELECT ledger.credit_user_usdc(:grace, 10, 'card deposit') AS transaction,
	   ledger.credit_user_usdc(:edsger, 10, 'card deposit') AS transaction;
SELECT * FROM side_by_side WHERE name <> 'Ada' ORDER BY 1, 2;

\echo
\echo '6. An order for 120: reserved, filled twice, the rest released.'
\echo '   120 reserved: they stay in pending_deposits.'
SELECT ledger.reserve_for_investment(:ada, 120, :order) AS reservation \gset
SELECT * FROM side_by_side WHERE name = 'Ada';
\echo '   70 filled: they move to buying_power.'
SELECT ledger.execute_investment(:ada, 70, :order, 'fill-1') AS fill_1 \gset
SELECT * FROM side_by_side WHERE name = 'Ada';
\echo '   20.25 filled.'
SELECT ledger.execute_investment(:ada, 20.25, :order, 'fill-2') AS fill_2 \gset
SELECT * FROM side_by_side WHERE name = 'Ada';
\echo '   29.75 released: they have been in pending_deposits all the time. Then the reservation.'
SELECT ledger.release_reservation(:ada, order_id => :order) AS release \gset
SELECT * FROM side_by_side WHERE name = 'Ada';
SELECT id, amount, executed, released, remaining, status FROM ledger.reservations;
CALL expect('Ada''s stock at cost and cash', ledger.get_account_balance(:ada, 'fiat_exposure'), 340.25);
CALL expect('nothing is reserved', ledger.get_account_balance(:ada, 'pending_investment'), 0.00);

\echo
\echo '7. A withdrawal of 9.75, then one that she cannot afford.'
SELECT ledger.debit_user_usdc(:ada, 9.75, 'to her wallet') AS withdrawal \gset
SELECT * FROM side_by_side WHERE name = 'Ada';
\set ON_ERROR_STOP off
SELECT ledger.debit_user_usdc(:ada, 1000, 'to her wallet');
\set refused :SQLSTATE
\set ON_ERROR_STOP on
CALL expect('a withdrawal beyond the balance', :'refused', 'LG001'::text);

\echo
\echo '8. The entries of the first fill: a change of currency goes through fx_clearing.'
SELECT account_type, direction, amount, currency, balance_after
FROM ledger.entries WHERE transaction_id = :fill_1 ORDER BY ordinal, direction DESC;

\echo
\echo '9. Ada''s history, newest first: why her balance is what it is.'
SELECT transaction_id, type, description, account_type, change, balance_after
FROM ledger.user_history(:ada);

\echo
\echo '10. Reads come from the legacy row still (buying_power is fiat_exposure); each is compared with the ledger.'
SELECT usdc_balance, buying_power, pending_investment, total_value, source FROM ledger.get_balance(:ada);

\echo
\echo '    Week 2: from the ledger. Weeks pass by a test clock, which is for rehearsals only: it is logged, warns, and readiness() shows it.'
SELECT ledger.set_test_clock('7 days', 'the demo: week 2') \g /dev/null
SELECT * FROM ledger.configure(balance_source => 'ledger', reason => 'week 2');
SELECT usdc_balance, buying_power, pending_investment, total_value, source FROM ledger.get_balance(:ada);

\echo
\echo '11. An old code path writes balances directly: a bonus that no ledger knows.'
UPDATE balances SET pending_deposits = pending_deposits + 5 WHERE user_id = :ada;
SELECT * FROM side_by_side WHERE name = 'Ada';
SELECT usdc_balance, source FROM ledger.get_balance(:ada);

\echo
\echo '12. reconcile() finds it among all customers; the rows go to a CSV file.'
SELECT c.name, r.legacy_column, r.ledger_value, ledger.normalise(r.legacy_value, 2) AS legacy_value,
	   r.difference, r.status
FROM ledger.reconcile() r JOIN customers c USING (user_id);
\copy (SELECT * FROM ledger.reconcile()) TO 'discrepancies.csv' WITH (FORMAT csv, HEADER)
\! cat discrepancies.csv
SELECT count(*) AS found, sum(difference) AS difference FROM ledger.reconcile() \gset
CALL expect('customers that differ', :found::bigint, 1::bigint);
CALL expect('what they differ by', :difference::numeric, -5::numeric);
\echo '    Why? The run is recorded, and the cause has a name.'
CALL ledger.run_reconciliation();
SELECT legacy_column, difference, cause, detail FROM ledger.explain_discrepancy(:ada);
SELECT cause FROM ledger.explain_discrepancy(:ada) \gset
CALL expect('the cause', :'cause', 'outside_write'::text);

\echo
\echo '13. Week 3: strict mode turns the same read into an error.'
CALL wait_for('the evidence', :'evidence_stored');
SELECT ledger.set_test_clock('14 days', 'the demo: week 3') \g /dev/null
SELECT * FROM ledger.configure(strict_mode => true, reason => 'week 3');
\set ON_ERROR_STOP off
SELECT usdc_balance FROM ledger.get_balance(:ada);
\set refused :SQLSTATE
\set ON_ERROR_STOP on
CALL expect('a strict read of a discrepancy', :'refused', 'LG003'::text);

\echo
\echo '14. Repaired: first a dry run, then in earnest, towards the ledger''s value; then compared again.'
SELECT legacy_column, ledger.normalise(before, 2) AS before, ledger.normalise(after, 2) AS after
FROM ledger.repair(:ada);
SELECT legacy_column, ledger.normalise(before, 2) AS before, ledger.normalise(after, 2) AS after
FROM ledger.repair(:ada, dry_run => false, reason => 'bonus not granted');
SELECT * FROM side_by_side WHERE name = 'Ada';
SELECT count(*) AS found FROM ledger.reconcile() \gset
CALL expect('customers that differ', :found::bigint, 0::bigint);

\echo
\echo '15. Everybody, from the ledger.'
SELECT c.name, b.usdc_balance, b.buying_power, b.pending_investment, b.total_value, b.source
FROM customers c CROSS JOIN LATERAL ledger.get_balance(c.user_id) b ORDER BY c.name;
CALL expect('Ada''s total', (ledger.get_balance(:ada)).total_value, 390.25);
CALL expect('Grace''s total', (ledger.get_balance(:grace)).total_value, 1244.50);
CALL expect('Edsger''s total', (ledger.get_balance(:edsger)).total_value, 20.000001);

\echo
\echo '16. The house opens with what it holds: then opening_balance is zero, and what is owned equals what is owed.'
SELECT ledger.open_house_balance('system_buffer_usdc', 'USDC', 1334.50, 'chain wallet') AS transaction,
	   ledger.open_house_balance('broker_operational', 'USD', 260.000001, 'statement of the broker') AS transaction;
SELECT account_type, currency, balance FROM ledger.account_balances WHERE user_id IS NULL ORDER BY 1, 2;
SELECT a.currency,
	   sum(a.balance) FILTER (WHERE t.normal_side = 'debit') AS owned,
	   sum(a.balance) FILTER (WHERE t.normal_side = 'credit') AS owed
FROM ledger.account_balances a JOIN ledger.account_types t ON t.name = a.account_type
GROUP BY a.currency ORDER BY a.currency;

\echo
\echo '17. The ledger against itself.'
SELECT check_name, passed FROM ledger.verify();
SELECT count(*) AS failed FROM ledger.verify() WHERE NOT passed \gset
CALL expect('checks that failed', :failed::bigint, 0::bigint);

\echo
\echo '18. Week 4: customers have read their balances all the time, nobody wrote the table by himself, a full reconciliation was clean.'
CALL wait_for('the evidence', :'evidence_stored');
SELECT ledger.set_test_clock('28 days', 'the demo: week 4') \g /dev/null
SELECT count((ledger.get_balance(user_id)).total_value) AS reads FROM customers, generate_series(1, 1000);
CALL ledger.run_reconciliation();
CALL wait_for('the gates', :'reads_stored');
SELECT gate, required, passed FROM ledger.readiness();
SELECT count(*) AS closed FROM ledger.readiness() WHERE NOT passed \gset
CALL expect('closed gates', :closed::bigint, 0::bigint);

\echo
\echo '19. The cut-over, first as a rehearsal: the real locks, switch and check, rolled back.'
CALL ledger.cut_over(dry_run => true);
SELECT locked, users_different, round(lock_wait_ms::numeric, 1) AS lock_wait_ms, round(held_ms::numeric, 1) AS held_ms,
	   round(predicted_stall_ms::numeric, 1) AS predicted_stall_ms, blockers
FROM ledger.cut_over_rehearsals;
CALL ledger.cut_over(reason => 'week 4');
SELECT state, shadow_mode, strict_mode, balance_source, next_step, undo FROM ledger.migration_status();
\echo '    The old code path is refused from now on; the ledger goes on writing the table, as the way back.'
\set ON_ERROR_STOP off
UPDATE balances SET pending_deposits = pending_deposits + 5 WHERE user_id = :ada;
\set refused :SQLSTATE
\set ON_ERROR_STOP on
CALL expect('a write of the old code', :'refused', 'LG005'::text);
SELECT ledger.credit_user_usdc(:ada, 20, 'card deposit') AS deposit \gset
SELECT * FROM side_by_side WHERE name = 'Ada';

\echo
\echo '20. Back, in one call: reads come from the table again, and not a cent is lost.'
CALL ledger.roll_back('the demo');
SELECT state, shadow_mode, strict_mode, balance_source, next_step FROM ledger.migration_status();
SELECT usdc_balance, buying_power, total_value, source FROM ledger.get_balance(:ada);
SELECT count(*) AS found FROM ledger.reconcile() \gset
CALL expect('customers that differ', :found::bigint, 0::bigint);
CALL expect('Ada''s total', (ledger.get_balance(:ada)).total_value, 410.25);

\echo
\echo '21. Forward again: the gates count anew, so it takes another week.'
SELECT * FROM ledger.configure(strict_mode => true, balance_source => 'ledger', reason => 'forward again');
SELECT gate, required FROM ledger.readiness() WHERE NOT passed;
CALL wait_for('the evidence', :'evidence_stored');
SELECT ledger.set_test_clock('36 days', 'the demo: week 5') \g /dev/null
SELECT count((ledger.get_balance(user_id)).total_value) AS reads FROM customers, generate_series(1, 1000);
CALL ledger.run_reconciliation();
CALL wait_for('the gates', :'reads_stored');
CALL ledger.cut_over(reason => 'week 5');

\echo
\echo '22. A week later the table is retired: it is kept under another name, and nobody writes it any more.'
SELECT ledger.set_test_clock('44 days', 'the demo: week 6') \g /dev/null
CALL ledger.run_reconciliation();
CALL ledger.retire_legacy('nobody reads it any more');
SELECT state, shadow_mode, strict_mode, balance_source, next_step, undo FROM ledger.migration_status();
SELECT shadow_mode, strict_mode, balance_source, phase, reason FROM ledger.settings_log ORDER BY id;
SELECT ledger.debit_user_usdc(:ada, 10.25, 'to her wallet') AS withdrawal \gset
SELECT c.name, b.usdc_balance, b.buying_power, b.total_value, b.source
FROM customers c CROSS JOIN LATERAL ledger.get_balance(c.user_id) b ORDER BY c.name;
CALL expect('Ada''s total', (ledger.get_balance(:ada)).total_value, 400.00);
SELECT count(*) AS failed FROM ledger.verify() WHERE NOT passed \gset
CALL expect('checks that failed', :failed::bigint, 0::bigint);
SELECT state FROM ledger.migration_status() \gset
CALL expect('where it ends', :'state', 'retired'::text);
\echo
\echo 'The story holds.'
