-- Many users with an account each, and nothing in the journal.
CREATE EXTENSION ledger;
SELECT ledger.open_account('system_buffer_usdc');
SELECT count(ledger.open_account('usdc_balance', ('00000000-0000-4000-8000-' || n)::uuid))
FROM generate_series(:first, :last) n;
