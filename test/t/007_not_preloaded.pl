# Without shared_preload_libraries: each new session loads the library with the
# first function that it calls, whichever that is, and nothing is missing.

use strict;
use warnings;

use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $node = ledger_node('plain', "shared_preload_libraries = ''\n");
is($node->safe_psql('postgres', 'SHOW shared_preload_libraries'), '', 'nothing is preloaded');
load_ledger($node);
legacy_table($node, 4);

my ($one, $two, $three) = map { customer($_) } 1 .. 3;
my ($order, $deposit) = map { "00000000-0000-4000-9000-00000000000$_" } 1, 2;

# Each statement is the first of a session.
sub first
{
	my ($sql) = @_;
	my ($status, $rows, $messages) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");

	return $status ? ($messages =~ /ERROR:  (\w{5}): /)[0] : $rows;
}

attach($node, 'shadow_mode => true');
my @steps = (
	[ "credit_user_usdc('$one', 100, 'x', '$deposit') > 0" => 't' ],
	[ "credit_user_usdc('$one', 100, 'x', '$deposit') = ledger.find_transaction('credit_user_usdc:deposit:$deposit')" => 't' ],
	[ "credit_user_usdc('$one', 99, 'x', '$deposit')" => 'LG002' ],
	[ "credit_user_usdc('$one', 0, 'x')" => 'LG009' ],
	[ "debit_user_usdc('$one', 10, 'x') > 0" => 't' ],
	[ "debit_user_usdc('$one', 100000, 'x')" => 'LG001' ],
	[ "move_funds_to_fiat_exposure('$one', 10, 'x') > 0" => 't' ],
	[ "move_funds_to_usdc('$one', 5, 'x') > 0" => 't' ],
	[ "reserve_for_investment('$one', 60, '$order') > 0" => 't' ],
	[ "execute_investment('$one', 20, '$order', 'first') > 0" => 't' ],
	[ "execute_investment('$two', 20, '$order', 'first')" => 'LG002' ],
	[ "execute_investment('$two', 20, '$order', 'second')" => 'LG008' ],
	[ "release_reservation('$one', NULL, '$order') > 0" => 't' ],
	[ "release_reservation('$one', NULL, '$order') IS NULL" => 't' ],
	[ "settle_sale('$one', 20, 25, '$order') > 0" => 't' ],
	[ "convert_buffer('system_buffer_usdc', 'system_buffer_fiat', 30, 29.9) > 0" => 't' ],
	[ 'fund_broker(20) > 0' => 't' ],
	[ "replenish_buffer('system_buffer_usdc', 1) > 0" => 't' ],
	[ "open_house_balance('system_buffer_usdc', 'USDC', 4000, 'held on chain') > 0" => 't' ],
	[ "reverse_transaction(ledger.find_transaction('credit_user_usdc:deposit:$deposit'), 'x', 1, '$order') > 0" => 't' ],
	[ "reverse_transaction(ledger.find_transaction('credit_user_usdc:deposit:$deposit'), 'x')" => 'LG011' ],
	[ "post('x', ARRAY[(ledger.open_account('house_equity', NULL, 'USD'), ledger.open_account('fiat_exposure', '$one'), 1)::ledger.posting]) > 0" => 't' ],
	[ "post('x', ARRAY[(1, 1, 1)::ledger.posting])" => 'LG010' ],
	[ "open_account('usdc_balance', '$three') > 0" => 't' ],
	[ "set_account_status(ledger.open_account('usdc_balance', '$three'), 'frozen', 'x')" => '' ],
	[ "credit_user_usdc('$three', 1, 'x')" => 'LG004' ],
	[ "reserve_for_investment('$two', 2, expires_at => now() - interval '1 second') > 0" => 't' ],
	[ 'expire_reservations()' => '1' ],
	# buying_power 10, and 10 - 5 converted, 20 executed, 5 gained, 1 posted
	[ "get_user_balance('$one')" => "($one,1064.00,41.00,0.00,1105.00,ledger)" ],
	[ "get_account_balance('$one', 'fiat_exposure')" => '41.00' ],
	[ "check_available_balance('$one', 1064.01, 'usdc_balance')" => 'f' ],
	[ "get_balance('$one')" => qr/^\($one,1064.00,41.00,0.00,1105.00,USD,/ ],
	[ "get_detailed_balance('$one', 'none')" => qr/^\($one,1064.00,41.00,/ ],
	[ "user_history('$one', max_rows => 1)" => qr/,fiat_exposure,1.00,41.00,[^,]+\)$/ ],
	[ "compare_balances('$one')" => "(pending_deposits,1064.00,1064.00,0.00,match)\n(buying_power,41.00,41.00,0.00,match)" ],
	[ "configure(strict_mode => true)" => '(t,t,ledger,migrating)' ]);
foreach my $step (@steps)
{
	my ($sql, $expected) = @$step;
	my $got = first("SELECT ledger.$sql");

	ref $expected ? like($got, $expected, $sql) : is($got, $expected, $sql);
}
is(first('SELECT balance FROM ledger.account_balances WHERE account_type = \'broker_operational\''), '25.00', 'views');

# A session whose first touch of the library is the trigger on the legacy table.
is(first("UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = '$two'"), '', 'a direct write is recorded');
is(first("SELECT kind FROM ledger.legacy_writes"), 'outside', 'as an outside one');
is(first("SELECT * FROM ledger.get_user_balance('$two')"), 'LG003', 'and strict mode finds it');
is(first("SELECT ledger.credit_user_usdc('$two', 1, 'x')"), 'LG003', 'at commit, too');
is(first("SELECT count(*) FROM ledger.repair('$two', dry_run => false, reason => 'x')"), '1', 'until it is repaired');
is(first("BEGIN; UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = '$two';"
			. "SELECT ledger.credit_user_usdc('$two', 1, 'x') > 0; COMMIT"), 'LG003',
	'the proof covers a transaction that loaded the library by a trigger');
is(first('TRUNCATE public.balances'), '55000', 'TRUNCATE is refused');
is(first('DELETE FROM ledger.journal'), 'LG007', 'guards are there');
is(first('DROP EXTENSION ledger CASCADE'), '55000', 'so is the one against dropping it');

# Settings of a session that were set before the library was there.
$node->safe_psql('postgres', <<SQL);
CREATE ROLE teller LOGIN;
CREATE ROLE auditor LOGIN;
ALTER ROLE auditor SET ledger.strict_mode = 'off';
SELECT ledger.grant_access('teller', 'writer'), ledger.grant_access('auditor', 'writer');
UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = '$two';
SQL
my $read = "SELECT ledger.get_account_balance('$two', 'usdc_balance')";
is(first("SET ledger.strict_mode = 'off'; $read"), '1000.00', 'a superuser turns strict mode off for his session');
is(first("SET ROLE teller; SET ledger.strict_mode = 'off'; $read"), 'LG003', 'another role does not');
my ($status, $rows) = $node->psql('postgres', $read, extra_params => [ '-U', 'auditor' ]);
is("$status $rows", '0 1000.00', 'a role for which a superuser has set it');
is(first("SET ledger.no_such = 1; $read"), 'LG003', 'a name that is not ours is dropped');
is(first("SELECT ledger.find_transaction('x'); SET ledger.no_such = 1"), '42602', 'and later refused');
is(first("SELECT ledger.normalise(1, 2); SET ledger.strict_mode = 'perhaps'; SELECT ledger.find_transaction('x')"), "1.00\n", 'a value that is none is dropped');

$node->safe_psql('postgres', <<SQL);
SELECT ledger.set_account_status(ledger.open_account('usdc_balance', '$three'), 'open', 'x');
SELECT ledger.repair(dry_run => false, reason => 'x');
SQL
ledger_ok($node, 'the ledger holds');
is($node->safe_psql('postgres', 'SELECT count(*), sum(calls), sum(total_ms) FROM ledger.stat_operations; SELECT compares, reset_at FROM ledger.stat_shadow; SELECT sum(reads) FROM ledger.stat_reads; SELECT ledger.stat_reset()'),
	"17|0|0\n0|\n0\n", 'nothing is counted');
is(first("SELECT count(*) > 1000, sum(value) FILTER (WHERE metric ~ '^(ledger_operation|balance_query|ledger_shadow_compares)') FROM ledger.metrics()"), 't|0', 'metrics are zeros');
like(first('SELECT ledger.prometheus()'), qr/^ledger_write_success_rate 1$/m, 'and there');
is(first("SELECT alert FROM ledger.alerts WHERE firing AND alert = 'LedgerWorkerDown'"), 'LedgerWorkerDown', 'the worker is missed');

$node->stop;
done_testing();
