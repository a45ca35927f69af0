--
-- What is counted and timed: what needs no worker and no second session.
-- test/t/023_stats.pl has the rest.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database ledger_stats
\set fresh :srcdir '/test/lib/fresh.sql'
\set done :srcdir '/test/lib/done.sql'
\i :fresh
-- in the middle of an hour
BEGIN;
SET LOCAL client_min_messages = error;
SELECT ledger.set_test_clock(date_trunc('hour', clock_timestamp()) + interval '90 minutes' - clock_timestamp(), 'a test') \gset
COMMIT;
\set ECHO all

-- a bucket is at most a quarter wider than the one before, from about 1 us to more than 100 s
SELECT ledger.latency_bound(-1), ledger.latency_bound(0), ledger.latency_bound(108), ledger.latency_bound(109);
SELECT count(*) FROM generate_series(1, 108) b
WHERE ledger.latency_bound(b) <= ledger.latency_bound(b - 1) OR ledger.latency_bound(b) > 1.25001 * ledger.latency_bound(b - 1);

-- nothing stored: nothing known
SELECT * FROM ledger.read_latency(NULL);

-- 100 reads: 95 of them are within the bucket that ends at 1.048576 ms on the one side, twice that on the other
SELECT ledger.read_timings_store(
	(SELECT array_agg(CASE b WHEN 40 THEN 95 WHEN 60 THEN 5 ELSE 0 END ORDER BY b) FROM generate_series(0, 109) b),
	(SELECT array_agg(CASE b WHEN 44 THEN 95 WHEN 60 THEN 5 ELSE 0 END ORDER BY b) FROM generate_series(0, 109) b));
SELECT ledger.latency_bound(40), ledger.latency_bound(44);
SELECT * FROM ledger.read_latency(NULL);
-- one more that is slow moves it into the bucket of the slow ones
SELECT ledger.read_timings_store(array_fill(0::bigint, ARRAY[60]) || 1::bigint,
	array_fill(0::bigint, ARRAY[60]) || 1::bigint);
SELECT ledger_p95_ms BETWEEN ledger.latency_bound(59) AND ledger.latency_bound(60) AS slow, reads FROM ledger.read_latency(NULL);
-- since: whole hours, that of the time among them
SELECT reads FROM ledger.read_latency((SELECT max(slot) FROM ledger.read_timings) + interval '59 minutes');
SELECT * FROM ledger.read_latency((SELECT max(slot) FROM ledger.read_timings) + interval '1 hour');
-- what is longer than all buckets is told as the longest that there is
SELECT ledger.read_timings_store(array_fill(0::bigint, ARRAY[109]) || 10000::bigint, array_fill(0::bigint, ARRAY[109]) || 10000::bigint);
SELECT ledger_p95_ms = ledger.latency_bound(108) AS longest FROM ledger.read_latency(NULL);
SELECT source, bucket, count FROM ledger.read_timings ORDER BY source, bucket;

-- a call that had nothing to post has posted nothing
SELECT ledger.release_reservation('00000000-0000-4000-8000-00000000000a') IS NULL AS nothing;
SELECT calls, posted, replayed, refused, failed FROM ledger.stat_operations WHERE operation = 'release_reservation';

-- a reset says when it was
SELECT reset_at AS before FROM ledger.stat_shadow \gset
SELECT ledger.stat_reset();
SELECT reset_at > :'before' AS later, (SELECT sum(calls) FROM ledger.stat_operations) AS calls FROM ledger.stat_shadow;
-- each under its own name: called without arguments, the n-th of these n times
DO $$
DECLARE
	called record;
BEGIN
	FOR called IN
		SELECT o.name, o.n, (SELECT string_agg('NULL::' || t::regtype, ', ') FROM unnest(p.proargtypes) t) AS arguments
		FROM unnest(ARRAY['credit_user_usdc', 'debit_user_usdc', 'move_funds_to_fiat_exposure', 'move_funds_to_usdc', 'reserve_for_investment',
			'release_reservation', 'execute_investment', 'expire_reservations', 'settle_sale', 'reverse_transaction', 'post',
			'convert_buffer', 'fund_broker', 'replenish_buffer', 'open_house_balance']) WITH ORDINALITY AS o (name, n)
		JOIN pg_proc p ON p.proname = o.name AND p.pronamespace = 'ledger'::regnamespace
	LOOP
		FOR i IN 1 .. called.n LOOP
			BEGIN
				EXECUTE format('SELECT ledger.%I(%s)', called.name, called.arguments);
			EXCEPTION WHEN OTHERS THEN
				NULL;
			END;
		END LOOP;
	END LOOP;
END
$$;
SELECT operation, calls, posted, replayed, refused, failed, (SELECT sum(n) FROM unnest(latency) n) AS timed FROM ledger.stat_operations WHERE calls > 0 ORDER BY calls;
SELECT operation, sqlstate, kind FROM ledger.stat_errors ORDER BY count;

-- who may delete is the worker alone
DELETE FROM ledger.read_timings;

\set ECHO none
\i :done
