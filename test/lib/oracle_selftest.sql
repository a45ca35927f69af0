/*
 * oracle_selftest.sql: shows that the oracle can fail.
 *
 * public.ledger_oracle_selftest(attached) breaks the ledger in one way after
 * the other, each in a subtransaction that is rolled back, with constraints,
 * unique indexes and triggers out of the way, and returns what the oracle
 * reported: every rule that it should, with the number of lines, and no other.
 * attached: what can go wrong between the ledger and public.oracle_balances.
 *
 * It needs oracle.sql and, in the ledger, the users with the transactions that
 * sql/oracle.sql makes. Superuser only; never in a database that is in use.
 */

/* Takes away whatever would refuse the damage. */
CREATE OR REPLACE FUNCTION public.oracle_unlock() RETURNS void
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	statement text;
BEGIN
	FOR statement IN
		SELECT format('ALTER TABLE %s DISABLE TRIGGER ALL', t.oid::regclass)
		FROM pg_class t
		WHERE (t.relnamespace = 'ledger'::regnamespace OR t.oid = to_regclass('public.oracle_balances')) AND t.relkind = 'r'
	LOOP
		EXECUTE statement;
	END LOOP;
	FOR statement IN
		SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', c.conrelid::regclass, c.conname)
		FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
		WHERE t.relnamespace = 'ledger'::regnamespace AND t.relkind = 'r'
		  AND c.contype IN ('c', 'u', 'p', 'f')
		ORDER BY c.contype <> 'f'
	LOOP
		EXECUTE statement;
	END LOOP;
	FOR statement IN
		SELECT format('DROP INDEX %s', i.indexrelid::regclass)
		FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
		WHERE t.relnamespace = 'ledger'::regnamespace AND i.indisunique
	LOOP
		EXECUTE statement;
	END LOOP;
END
$$;

/* What the oracle reports after the damage; rolled back. */
CREATE OR REPLACE FUNCTION public.oracle_break(damage text) RETURNS text
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	reported text;
BEGIN
	BEGIN
		PERFORM public.oracle_unlock();
		EXECUTE damage;
		SELECT string_agg(format('%s %s', r.rule, r.lines), ', ' ORDER BY r.rule COLLATE "C") INTO reported
		FROM (SELECT split_part(v, ':', 1) AS rule, count(*) AS lines FROM public.ledger_oracle() v GROUP BY 1) r;
		RAISE EXCEPTION USING ERRCODE = 'OR001';
	EXCEPTION WHEN SQLSTATE 'OR001' THEN
		NULL;
	END;
	RETURN COALESCE(reported, 'nothing');
END
$$;

/* The account of a type; of the house, or of one of the two users. */
CREATE OR REPLACE FUNCTION public.oracle_account(account_type text, user_number int = NULL, currency text = NULL) RETURNS bigint
	LANGUAGE sql STABLE
AS $$
	SELECT a.id FROM ledger.accounts a
	WHERE a.account_type = $1 AND ($3 IS NULL OR a.currency = $3)
	  AND a.user_id IS NOT DISTINCT FROM CASE $2 WHEN 1 THEN '00000000-0000-4000-8000-00000000ac01'::uuid
											   WHEN 2 THEN '00000000-0000-4000-8000-00000000ac02' END
$$;

/*
 * A posting as it should not be, but with totals, versions, running balances,
 * header and id as they should be. Of a striped account it takes the stripe 0.
 */
CREATE OR REPLACE FUNCTION public.oracle_post(debit bigint, credit bigint, amount numeric, reverses bigint = NULL, id bigint = NULL)
	RETURNS bigint
	LANGUAGE plpgsql VOLATILE
AS $$
DECLARE
	new_id CONSTANT bigint := COALESCE(id, nextval('ledger.transaction_id_seq'));
BEGIN
	UPDATE ledger.accounts a
	SET debits = a.debits + CASE WHEN a.id = debit THEN oracle_post.amount ELSE 0 END,
		credits = a.credits + CASE WHEN a.id = credit THEN oracle_post.amount ELSE 0 END,
		version = a.version + 1
	WHERE a.id IN (debit, credit) AND a.stripes = 0;
	UPDATE ledger.account_stripes s
	SET debits = s.debits + CASE WHEN s.account_id = debit THEN oracle_post.amount ELSE 0 END,
		credits = s.credits + CASE WHEN s.account_id = credit THEN oracle_post.amount ELSE 0 END,
		version = s.version + 1
	WHERE s.account_id IN (debit, credit) AND s.stripe = 0;
	INSERT INTO ledger.journal (transaction_id, ordinal, debit_account_id, credit_account_id, amount,
								debit_balance_after, credit_balance_after, created_at, type, posted_by, xact, reverses)
	SELECT new_id, 0, debit, credit, oracle_post.amount,
		   max(b.balance) FILTER (WHERE b.id = debit), max(b.balance) FILTER (WHERE b.id = credit),
		   clock_timestamp(), 'damage', 'oracle', pg_current_xact_id(), oracle_post.reverses
	FROM (SELECT a.id, CASE t.normal_side WHEN 'debit' THEN a.debits - a.credits ELSE a.credits - a.debits END AS balance
		  FROM ledger.accounts a JOIN ledger.account_types t ON t.name = a.account_type WHERE a.stripes = 0) b;
	RETURN new_id;
END
$$;

CREATE OR REPLACE FUNCTION public.ledger_oracle_selftest(attached boolean) RETURNS TABLE (damage text, reported text)
	LANGUAGE plpgsql VOLATILE
AS $selftest$
DECLARE
	tested record;
BEGIN
	FOR tested IN SELECT * FROM (VALUES
		('nothing',
		 $$SELECT 1$$),
		('a posting between a user and the house, all in order',
		 $$SELECT oracle_post(oracle_account('system_buffer_usdc'), oracle_account('usdc_balance', 1), 1.00)$$),

		('an account of an unknown type',
		 $$INSERT INTO ledger.accounts (account_type, currency) VALUES ('nonsense', 'USD')$$),
		('a user''s account without a user',
		 $$INSERT INTO ledger.accounts (account_type, currency) VALUES ('usdc_balance', 'USDC')$$),
		('a house account with a user',
		 $$INSERT INTO ledger.accounts (user_id, account_type, currency) VALUES (gen_random_uuid(), 'broker_operational', 'USD')$$),
		('an account in another currency than its type',
		 $$INSERT INTO ledger.accounts (account_type, currency) VALUES ('broker_operational', 'USDC')$$),
		('an account in an unknown currency',
		 $$INSERT INTO ledger.accounts (account_type, currency) VALUES ('fx_clearing', 'EUR')$$),
		('the same account a second time',
		 $$INSERT INTO ledger.accounts (account_type, currency) VALUES ('system_buffer_usdc', 'USDC')$$),
		('an account that has gone',
		 $$DELETE FROM ledger.accounts WHERE id = oracle_account('usdc_balance', 2)$$),
		('postings between accounts that are not there',
		 $$SELECT oracle_post(-1, -2, 5.00)$$),

		('totals of one account, both sides alike',
		 $$UPDATE ledger.accounts SET debits = debits + 1, credits = credits + 1 WHERE id = oracle_account('usdc_balance', 1)$$),
		('a credit lost in the totals',
		 $$UPDATE ledger.accounts SET credits = credits - 1 WHERE id = oracle_account('usdc_balance', 1)$$),
		('a credit on the account of another user',
		 $$UPDATE ledger.accounts SET credits = credits + CASE id WHEN oracle_account('usdc_balance', 1) THEN 1 ELSE -1 END
		   WHERE id IN (oracle_account('usdc_balance', 1), oracle_account('usdc_balance', 2))$$),
		('a total that is not a number',
		 $$UPDATE ledger.accounts SET credits = 'NaN' WHERE id = oracle_account('usdc_balance', 1)$$),
		('a version too many',
		 $$UPDATE ledger.accounts SET version = version + 1 WHERE id = oracle_account('usdc_balance', 1)$$),
		('a transaction without its last posting',
		 $$DELETE FROM ledger.journal WHERE (transaction_id, ordinal) = (SELECT max(transaction_id), 1 FROM ledger.journal WHERE ordinal = 1)$$),
		('a type that changes its side',
		 $$UPDATE ledger.account_types SET normal_side = 'debit' WHERE name = 'usdc_balance'$$),
		('a type that has gone',
		 $$DELETE FROM ledger.account_types WHERE name = 'system_buffer_usdc'$$),
		('a user who owes',
		 $$SELECT oracle_post(oracle_account('usdc_balance', 2), oracle_account('system_buffer_usdc'), 5000.00)$$),

		('a running balance',
		 $$UPDATE ledger.journal SET credit_balance_after = credit_balance_after + 1
		   WHERE ordinal = 0 AND reference_id = '00000000-0000-4000-8000-00000000acd1'$$),
		('a running balance that is missing',
		 $$UPDATE ledger.journal SET credit_balance_after = NULL
		   WHERE ordinal = 0 AND reference_id = '00000000-0000-4000-8000-00000000acd1'$$),
		('a running balance missing, the house never striped',
		 $$INSERT INTO ledger.account_types (name, owner, currency, normal_side) VALUES ('petty_cash', 'house', 'USDC', 'debit');
		   INSERT INTO ledger.accounts (account_type, currency) VALUES ('petty_cash', 'USDC');
		   SELECT oracle_post(oracle_account('petty_cash'), oracle_account('usdc_balance', 1), 5.00);
		   UPDATE ledger.journal SET debit_balance_after = NULL WHERE debit_account_id = oracle_account('petty_cash')$$),
		('a running balance that is wrong on a striped account',
		 $$UPDATE ledger.journal SET debit_balance_after = 1
		   WHERE ordinal = 0 AND reference_id = '00000000-0000-4000-8000-00000000acd1'$$),
		('two postings of an account in the other order',
		 $$UPDATE ledger.journal j SET transaction_id = CASE WHEN j.transaction_id = t.a THEN t.b ELSE t.a END
		   FROM (SELECT min(transaction_id) AS a, max(transaction_id) AS b FROM ledger.journal
				 WHERE reference_id IN ('00000000-0000-4000-8000-00000000acd1', '00000000-0000-4000-8000-00000000acd2')) t
		   WHERE j.transaction_id IN (t.a, t.b)$$),

		('postings from one currency to another and back',
		 $$SELECT oracle_post(oracle_account('system_buffer_usdc'), oracle_account('fiat_exposure', 1), 5.00);
		   SELECT oracle_post(oracle_account('fiat_exposure', 1), oracle_account('system_buffer_usdc'), 5.00)$$),
		('a posting from one currency to another',
		 $$SELECT oracle_post(oracle_account('system_buffer_usdc'), oracle_account('fiat_exposure', 1), 5.00)$$),
		('a negative amount',
		 $$SELECT oracle_post(oracle_account('usdc_balance', 1), oracle_account('system_buffer_usdc'), -5.00)$$),
		('an amount of zero',
		 $$SELECT oracle_post(oracle_account('system_buffer_usdc'), oracle_account('usdc_balance', 1), 0.00)$$),
		('an amount with 19 digits after the point',
		 $$SELECT oracle_post(oracle_account('system_buffer_usdc'), oracle_account('usdc_balance', 1), 1.0000000000000000001)$$),
		('an amount with 21 digits before the point',
		 $$SELECT oracle_post(oracle_account('system_buffer_usdc'), oracle_account('usdc_balance', 1), 100000000000000000000.00)$$),
		('an amount with superfluous zeros',
		 $$SELECT oracle_post(oracle_account('system_buffer_usdc'), oracle_account('usdc_balance', 1), 5.500)$$),
		('an amount without the currency''s digits',
		 $$SELECT oracle_post(oracle_account('system_buffer_usdc'), oracle_account('usdc_balance', 1), 5)$$),
		('an amount that is not a number',
		 $$SELECT oracle_post(oracle_account('system_buffer_usdc'), oracle_account('usdc_balance', 1), 'NaN')$$),

		('an amount lost in a stripe',
		 $$UPDATE ledger.account_stripes s SET debits = debits - 1
		   WHERE (s.account_id, s.stripe) = (SELECT r.account_id, r.stripe FROM ledger.account_stripes r
											 WHERE r.account_id = oracle_account('system_buffer_usdc') ORDER BY r.version DESC LIMIT 1)$$),
		('a version too many in a stripe',
		 $$UPDATE ledger.account_stripes SET version = version + 1 WHERE account_id = oracle_account('system_buffer_usdc') AND stripe = 5$$),
		('a stripe that is missing',
		 $$DELETE FROM ledger.account_stripes s
		   WHERE (s.account_id, s.stripe) = (SELECT r.account_id, max(r.stripe) FROM ledger.account_stripes r
											 WHERE r.account_id = oracle_account('system_buffer_usdc') AND r.version = 0 GROUP BY 1)$$),
		('a stripe too many',
		 $$INSERT INTO ledger.account_stripes (account_id, stripe) SELECT a.id, a.stripes FROM ledger.accounts a
		   WHERE a.id = oracle_account('system_buffer_usdc')$$),
		('a stripe with the number of another',
		 $$UPDATE ledger.account_stripes SET stripe = 6 WHERE account_id = oracle_account('system_buffer_usdc') AND stripe = 5$$),
		('a stripe with a number too high',
		 $$UPDATE ledger.account_stripes SET stripe = 500 WHERE account_id = oracle_account('system_buffer_usdc') AND stripe = 5$$),
		('a stripe of an account that is one row',
		 $$INSERT INTO ledger.account_stripes (account_id, stripe) VALUES (oracle_account('usdc_balance', 1), 0)$$),
		('a stripe of an account that is not there',
		 $$INSERT INTO ledger.account_stripes (account_id, stripe) VALUES (-1, 0)$$),
		('a striped account with a limit',
		 $$UPDATE ledger.accounts SET min_balance = 0 WHERE id = oracle_account('system_buffer_usdc')$$),
		('a striped account of a type with a limit',
		 $$UPDATE ledger.account_types SET min_balance = 0 WHERE name = 'system_buffer_usdc'$$),

		('a gap in the ordinals',
		 $$UPDATE ledger.journal SET ordinal = 2
		   WHERE ordinal = 1 AND transaction_id = (SELECT max(transaction_id) FROM ledger.journal WHERE ordinal = 1)$$),
		('a second header',
		 $$UPDATE ledger.journal SET type = 'deposit'
		   WHERE ordinal = 1 AND transaction_id = (SELECT max(transaction_id) FROM ledger.journal WHERE ordinal = 1)$$),
		('a key on the second posting',
		 $$UPDATE ledger.journal SET key = gen_random_uuid()
		   WHERE ordinal = 1 AND transaction_id = (SELECT max(transaction_id) FROM ledger.journal WHERE ordinal = 1)$$),
		('no header',
		 $$UPDATE ledger.journal SET type = NULL
		   WHERE ordinal = 0 AND transaction_id = (SELECT max(transaction_id) FROM ledger.journal WHERE ordinal = 1)$$),
		('a key twice',
		 $$UPDATE ledger.journal SET key = (SELECT key FROM ledger.journal WHERE reference_id = '00000000-0000-4000-8000-00000000acd1')
		   WHERE reference_id = '00000000-0000-4000-8000-00000000acd2'$$),
		('a transaction id ahead of the sequence',
		 $$SELECT oracle_post(oracle_account('system_buffer_usdc'), oracle_account('usdc_balance', 1), 5.00,
							  id => (SELECT last_value + 1 FROM ledger.transaction_id_seq))$$),
		('an account id ahead of the sequence',
		 $$INSERT INTO ledger.accounts (id, user_id, account_type, currency)
		   SELECT last_value + 1, gen_random_uuid(), 'usdc_balance', 'USDC' FROM ledger.account_id_seq$$),

		('a reversal of a reversal',
		 $$SELECT oracle_post(j.credit_account_id, j.debit_account_id, j.amount, j.transaction_id)
		   FROM ledger.journal j WHERE j.reference_id = '00000000-0000-4000-8000-00000000ace1'$$),
		('a reversal of a transaction that is not there',
		 $$SELECT oracle_post(oracle_account('system_buffer_usdc'), oracle_account('usdc_balance', 1), 5.00, 9223372036854775807)$$),
		('a reversal of more than there was',
		 $$SELECT oracle_post(oracle_account('system_buffer_usdc'), oracle_account('usdc_balance', 2), 100.00);
		   SELECT oracle_post(j.debit_account_id, j.credit_account_id, 60.01, j.reverses)
		   FROM ledger.journal j WHERE j.reference_id = '00000000-0000-4000-8000-00000000ace1'$$),
		('a reversal between other accounts',
		 $$SELECT oracle_post(oracle_account('usdc_balance', 1), oracle_account('fx_clearing', NULL, 'USDC'), 1.00, j.reverses)
		   FROM ledger.journal j WHERE j.reference_id = '00000000-0000-4000-8000-00000000ace1'$$),

		('a draw executed instead of released',
		 $$UPDATE ledger.reservation_draws SET executed = executed + 1, released = released - 1
		   WHERE (transaction_id, reservation_id) = (SELECT max(transaction_id), max(reservation_id) FROM ledger.reservation_draws)$$),
		('a draw on a reservation that is not there',
		 $$INSERT INTO ledger.reservation_draws SELECT max(transaction_id), 9223372036854775807, 1, 0 FROM ledger.journal$$),
		('a draw by another transaction',
		 $$UPDATE ledger.reservation_draws SET transaction_id = oracle_post(oracle_account('system_buffer_usdc'), oracle_account('usdc_balance', 1), 5.00)
		   WHERE (transaction_id, reservation_id) = (SELECT max(transaction_id), max(reservation_id) FROM ledger.reservation_draws)$$),
		('a draw that is missing',
		 $$DELETE FROM ledger.reservation_draws
		   WHERE (transaction_id, reservation_id) = (SELECT max(transaction_id), max(reservation_id) FROM ledger.reservation_draws)$$),
		('an open reservation marked executed',
		 $$UPDATE ledger.reservation_rows SET status = 'executed' WHERE order_id = '00000000-0000-4000-8000-00000000aca2'$$),
		('a reservation of more than was moved',
		 $$UPDATE ledger.reservation_rows SET amount = amount + 1 WHERE order_id = '00000000-0000-4000-8000-00000000aca2'$$),
		('a reservation of another user',
		 $$UPDATE ledger.reservation_rows SET user_id = '00000000-0000-4000-8000-00000000ac02'
		   WHERE order_id = '00000000-0000-4000-8000-00000000aca2'$$),
		('a reservation that is missing',
		 $$DELETE FROM ledger.reservation_rows WHERE order_id = '00000000-0000-4000-8000-00000000aca2'$$),
		('reserved money moved by somebody else',
		 $$SELECT oracle_post(oracle_account('pending_investment', 1), oracle_account('usdc_balance', 1), 1.00)$$)
	) AS v (name, statement) WHERE NOT attached
	UNION ALL SELECT * FROM (VALUES
		('nothing, attached',
		 $$SELECT 1$$),
		('a legacy row that others wrote to',
		 $$UPDATE public.oracle_balances SET pending_deposits = pending_deposits + 0.000000000000000001
		   WHERE user_id = '00000000-0000-4000-8000-00000000ac03'$$),
		('a legacy row that has gone',
		 $$DELETE FROM public.oracle_balances WHERE user_id = '00000000-0000-4000-8000-00000000ac03'$$),
		('a legacy value that is not a number',
		 $$UPDATE public.oracle_balances SET buying_power = 'NaN' WHERE user_id = '00000000-0000-4000-8000-00000000ac03'$$),
		('a legacy value of NULL',
		 $$UPDATE public.oracle_balances SET buying_power = NULL WHERE user_id = '00000000-0000-4000-8000-00000000ac03'$$),
		('a legacy row of a user who is not opened',
		 $$INSERT INTO public.oracle_balances (user_id, pending_deposits, buying_power, currency)
		   VALUES ('00000000-0000-4000-8000-00000000ac04', 1, 1, 'USD')$$),
		('a posting that was not mirrored',
		 $$SELECT oracle_post(oracle_account('system_buffer_usdc'), oracle_account('usdc_balance', 1), 1.00)$$),
		('a posting that was not mirrored, and the legacy table detached',
		 $$SELECT oracle_post(oracle_account('system_buffer_usdc'), oracle_account('usdc_balance', 1), 1.00);
		   UPDATE ledger.legacy_mappings SET detached_at = now() WHERE legacy = 'public.oracle_balances'::regclass$$)
	) AS v (name, statement) WHERE attached
	LOOP
		damage := tested.name;
		reported := public.oracle_break(tested.statement);
		RETURN NEXT;
	END LOOP;
END
$selftest$;
