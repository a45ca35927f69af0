--
-- The SQLSTATEs of class LG, each raised by what it is for, with a message in
-- lower case without a point, a DETAIL of sentences and a HINT.
--
\ir ../lib/contract.sql
SELECT no_plan();
CREATE TABLE public.balances (user_id uuid PRIMARY KEY, buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0, currency varchar(10) DEFAULT 'USD', updated_at timestamptz DEFAULT now());
INSERT INTO public.balances (user_id, pending_deposits) VALUES (:bob, 70), (:carol, 5);
SELECT ok(a.passed, 'attached') FROM ledger.attach_legacy() a WHERE a.check_name = 'attached';
SELECT ok(c.shadow_mode, 'shadow mode') FROM ledger.configure(shadow_mode => true) c;
SELECT ledger.credit_user_usdc(:alice, 100, 'deposit', public.id('d1')) AS d1 \gset
SELECT ok(ledger.credit_user_usdc(:bob, 1, 'deposit') > 0);
SELECT ok(ledger.reverse_transaction(:d1, 'once') > 0);
SELECT ok(ledger.credit_user_usdc(:alice, 100, 'deposit', public.id('d2')) > 0);
UPDATE public.balances SET pending_deposits = 1000 WHERE user_id = :bob;
SELECT ok(ledger.credit_user_usdc(:dave, 1, 'deposit') > 0);
SELECT lives_ok(format('SELECT ledger.set_account_status(ledger.open_account(%L, %L), %L, %L)', 'usdc_balance', :dave, 'frozen', 'inquiry'));
SELECT lives_ok('SELECT ledger.configure_capture(''public.balances'', ''refuse'', ''no more of it'')');
SELECT ok(c.strict_mode, 'strict mode') FROM ledger.configure(strict_mode => true) c;

CREATE FUNCTION public.raised(statement text, OUT code text, OUT message text, OUT detail text, OUT hint text)
	LANGUAGE plpgsql
AS $$
BEGIN
	EXECUTE statement;
	code := '00000';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END
$$;
CREATE TABLE public.errors (code text, meaning text, statement text);
INSERT INTO public.errors VALUES
	('LG001', 'insufficient funds', format('SELECT ledger.debit_user_usdc(%L, 1000, %L)', :alice, 'x')),
	('LG002', 'idempotency conflict', format('SELECT ledger.credit_user_usdc(%L, 101, %L, %L)', :alice, 'x', public.id('d2'))),
	('LG003', 'balance discrepancy', format('SELECT ledger.get_user_balance(%L)', :bob)),
	('LG004', 'account frozen', format('SELECT ledger.credit_user_usdc(%L, 1, %L)', :dave, 'x')),
	('LG005', 'legacy table frozen', format('UPDATE public.balances SET buying_power = 1 WHERE user_id = %L', :carol)),
	('LG007', 'append-only', 'UPDATE ledger.journal SET amount = 1'),
	('LG007', 'append-only', 'DELETE FROM ledger.journal'),
	('LG007', 'append-only', 'TRUNCATE ledger.journal'),
	('LG008', 'no such reservation', format('SELECT ledger.execute_investment(%L, 1, %L)', :alice, public.id('o1'))),
	('LG009', 'invalid amount', format('SELECT ledger.credit_user_usdc(%L, -1, %L)', :alice, 'x')),
	('LG010', 'unknown account type', format('SELECT ledger.get_account_balance(%L, %L)', :alice, 'nonsense')),
	('LG010', 'unknown currency', format('SELECT ledger.open_account(%L, NULL, %L)', 'fx_clearing', 'EUR')),
	('LG010', 'unknown account', format('SELECT ledger.post(%L, ARRAY[ROW(0, 1, 1)::ledger.posting])', 'x')),
	('LG011', 'reversal not possible', format('SELECT ledger.reverse_transaction(%s, %L)', :d1, 'twice')),
	('22004', 'a required NULL', format('SELECT ledger.credit_user_usdc(%L, 1, NULL)', :alice));

SELECT is(r.code, e.code, format('%s: %s: %s', e.code, e.meaning, e.statement))
FROM public.errors e, LATERAL public.raised(e.statement) r;
SELECT ok(r.message ~ '^[^A-Z]' AND r.message !~ '\.$' AND r.hint ~ '[.)]$' AND (r.detail ~ '^[A-Z].*\.$' OR e.code NOT LIKE 'LG%'),
	format('%s: words: %s / %s / %s', e.code, r.message, r.detail, r.hint))
FROM public.errors e, LATERAL public.raised(e.statement) r;
SELECT ok(r.message LIKE '%discrepancy%', 'LG003: the word is in the message')
FROM public.errors e, LATERAL public.raised(e.statement) r WHERE e.code = 'LG003';
SELECT is_empty($$SELECT o FROM public.ledger_oracle() o WHERE o NOT LIKE '%0000000000b1%'$$, 'oracle: but for the write to bob''s legacy row');
SELECT * FROM finish();
