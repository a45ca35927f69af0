# A hot standby (hazard 34): every read gives the primary's rows, nothing can be posted,
# the settings follow, and after a promotion the ledger goes on.

use strict;
use warnings;

use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $primary = ledger_node('primary', '', allows_streaming => 1);
load_ledger($primary);
legacy_table($primary, 4);
attach($primary, 'shadow_mode => true');
my ($one, $two, $three, $four, $nobody) = map { customer($_) } 1 .. 5;
my $order = '00000000-0000-4000-9000-000000000001';
$primary->safe_psql('postgres', <<SQL);
SELECT ledger.credit_user_usdc('$one', 100.5, 'a deposit', '$order');
SELECT ledger.reserve_for_investment('$one', 60, '$order');
SELECT ledger.execute_investment('$one', 20, '$order', 'first');
SELECT ledger.credit_user_usdc('$two', 1, 'a deposit');
SELECT ledger.credit_user_usdc('$nobody', 1, 'a customer without a legacy row');
SELECT ledger.record_broker_account('{"id": "b1", "equity": "50", "cash": "20"}', '$one');
SQL

$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# What runs on the standby while the primary's settings change.
my $session = connection($standby);
my @warnings;

sub read_standby
{
	my ($sql) = @_;

	@warnings = ();
	local $SIG{__WARN__} = sub { push @warnings, @_ };
	local $session->{PrintWarn} = 1;
	my $rows = eval { $session->selectall_arrayref($sql) };
	return $rows ? join "\n", map { join '|', map { $_ // '' } @$_ } @$rows : $session->state;
}

sub catch_up
{
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
}

my @reads = (
	(   map { my $user = $_; map { "SELECT * FROM ledger.$_" } (
			"get_user_balance('$user')", "get_balance('$user')", "compare_balances('$user')",
			"get_account_balance('$user', 'usdc_balance')",
			"check_available_balance('$user', 900, 'usdc_balance')") }
		  ($one, $two, $three, $nobody)),
	"SELECT * FROM ledger.user_history('$one')",
	"SELECT * FROM ledger.get_detailed_balance('$one', 'b1')",
	"SELECT ledger.find_transaction('credit_user_usdc:deposit:$order')",
	"SELECT ledger.get_account_balance(NULL, 'system_buffer_usdc')",
	'SELECT * FROM ledger.reconcile()',
	q{SELECT * FROM ledger.reconcile(scope => 'incremental')},
	'SELECT gate, passed FROM ledger.readiness()',
	'SELECT * FROM ledger.migration_status()',
	q{SELECT regexp_matches(ledger.report_html(), '<h2>[^<]*</h2>', 'g')},
	'SELECT * FROM ledger.verify()',
	"SELECT * FROM ledger.legacy_preflight('public.balances')",
	(map { "SELECT t.* FROM ledger.$_ t ORDER BY t::text" }
		  qw(account_balances entries transactions reservations discrepancies settings)));

sub same_reads
{
	my ($name) = @_;
	my @different;

	catch_up();
	foreach my $sql (@reads)
	{
		my ($expected, $got) = map {
			my ($status, $rows, $messages) = $_->psql('postgres', $sql);
			$messages =~ s/^psql:<stdin>:\d+: //mg;
			join "\n", $status, $rows, $messages;
		} $primary, $standby;

		push @different, "$sql: $got\non the primary: $expected" if $got ne $expected;
		push @different, "$sql gives nothing" if $sql !~ /discrepancies|reconcile/ && $expected eq "0\n\n";
	}
	is("@different", '', $name);
}

is($primary->safe_psql('postgres', 'SELECT count(*) FROM ledger.reconcile()'), '4', 'two customers are not opened yet');
same_reads('hazard 34: every read gives the same rows on the standby');

# What writes is refused.
my @writes = map { "SELECT ledger.$_" } (
	"credit_user_usdc('$one', 1, 'x')",
	"credit_user_usdc('$one', 100.5, 'a deposit', '$order')",
	"debit_user_usdc('$one', 1, 'x')",
	"move_funds_to_fiat_exposure('$one', 1, 'x')",
	"move_funds_to_usdc('$one', 1, 'x')",
	"reserve_for_investment('$one', 1)",
	"release_reservation('$one', 1, '$order')",
	"execute_investment('$one', 1, '$order', 'second')",
	"settle_sale('$one', 1, 1, '$order')",
	"convert_buffer('system_buffer_usdc', 'system_buffer_fiat', 1)",
	'fund_broker(1)',
	"replenish_buffer('system_buffer_usdc', 1)",
	"open_house_balance('system_buffer_usdc', 'USDC', 1, 'x')",
	"reverse_transaction(1, 'x')",
	"post('x', ARRAY[(1, 2, 1)::ledger.posting])",
	"open_account('usdc_balance', '$four')",
	"post_batch(ARRAY[('x', NULL, NULL, 1, NULL, NULL, 'system_buffer_usdc', 'house_equity', 'USDC', NULL, NULL, NULL, NULL, NULL)::ledger.transfer])",
	"set_account_stripes(1, 0, 'x')",
	"set_account_status(1, 'frozen', 'x')",
	"set_account_limit(1, 0, 'x')",
	'expire_reservations()',
	'configure(strict_mode => true)',
	"attach_legacy('public.balances')",
	"detach_legacy('public.balances')",
	"configure_capture('public.balances', 'refuse', 'x')",
	"record_broker_account('{\"id\": \"b1\", \"equity\": \"50\", \"cash\": \"20\"}', '$one')");
push @writes, 'CALL ledger.run_reconciliation()', q{CALL ledger.cut_over(force => true, reason => 'x')},
  q{CALL ledger.roll_back('x')}, q{CALL ledger.retire_legacy('x')}, q{SELECT ledger.drop_legacy('public.balances', 'x')},
  q{SELECT ledger.resume('x')}, q{SELECT ledger.set_test_clock('1 day', 'x')};
is(join("\n", grep { code_of($session, $_) ne '25006' } @writes), '', 'whatever writes is refused with 25006');
is(read_standby('SELECT shadow_mode, strict_mode, balance_source FROM ledger.configure()'),
	'1|0|ledger', 'configure() that changes nothing answers');

# Gates are read from tables alone.
my $gates = q{SELECT gate, required, passed FROM ledger.readiness() ORDER BY gate COLLATE "C"};
is(read_standby($gates), join("\n", map { s/\|t$/|1/r =~ s/\|f$/|0/r } split /\n/, $primary->safe_psql('postgres', $gates)),
	'readiness() says the same on the standby');
is(read_standby('SELECT state FROM ledger.migration_status()'), 'shadow_reads', 'so does migration_status()');

# Shadow mode: the standby compares what it reads.
read_standby("SELECT * FROM ledger.get_user_balance('$two')");
is("@warnings", '', 'no warning while both sides agree');
$primary->safe_psql('postgres', "UPDATE public.balances SET buying_power = buying_power + 5 WHERE user_id = '$two'");
catch_up();
is(read_standby("SELECT * FROM ledger.get_user_balance('$two')"),
	"$two|1001.00|20.00|0.00|1021.00|ledger", 'the standby reads the ledger');
like("@warnings", qr/shadow mode: balance discrepancy .*$two.*buying_power: ledger=20.00 legacy=25.00 diff=-5.00/,
	'and warns of the difference');
like(slurp_file($standby->logfile), qr/balance discrepancy .*$two.*diff=-5.00/, 'which is in its log, too');
is( read_standby("SELECT legacy_column, difference, status FROM ledger.compare_balances('$two') WHERE status <> 'match'"),
	'buying_power|-5.00|mismatch', 'compare_balances() shows it');
is( read_standby("SELECT legacy_column, difference, cause FROM ledger.explain_discrepancy('$two')"),
	'buying_power|-5.00|outside_write', 'explain_discrepancy() explains it');
is( read_standby("SELECT legacy_column, before, after FROM ledger.repair('$two')"),
	'buying_power|25.00|20.00', 'a dry run of repair() says what would be done');
is(code_of($session, "SELECT ledger.undo_repair(1, 'x')"), '25006', 'undo_repair() is refused');
is(code_of($session, "SELECT ledger.repair('$two', dry_run => false, reason => 'x')"), '25006', 'repair() is refused');
same_reads('every read gives the same rows, and the same warnings, where the sides differ');

# Settings reach the sessions of the standby.
$primary->safe_psql('postgres', q{SELECT ledger.configure(balance_source => 'legacy')});
catch_up();
is(read_standby("SELECT * FROM ledger.get_user_balance('$two')"),
	"$two|1001.00|25.00|0.00|1026.00|legacy", 'the source changes under a session of the standby');
$primary->safe_psql('postgres', q{SELECT ledger.configure(strict_mode => true)});
catch_up();
is(read_standby("SELECT * FROM ledger.get_user_balance('$two')"), 'LG003', 'strict mode raises');
is(read_standby("SELECT count(*) FROM ledger.reconcile() WHERE user_id = '$two'"), '1', 'reconcile() does not');
same_reads('every read gives the same rows, or the same error, in strict mode');
$primary->safe_psql('postgres', "SELECT ledger.repair('$two', dry_run => false, reason => 'outside write')");
$primary->safe_psql('postgres', q{SELECT ledger.configure(strict_mode => false, balance_source => 'ledger')});

is(read_standby("SELECT count(*) > 1000, (SELECT count(*) FROM ledger.alerts), ledger.prometheus() LIKE '%ledger_shadow_mode 1%' FROM ledger.metrics()"), '1|13|1', 'it can be monitored');

# Promoted, the ledger goes on; what was posted is not posted again.
catch_up();
my $last = $primary->safe_psql('postgres', 'SELECT max(transaction_id) FROM ledger.journal');
$primary->stop;
$standby->promote;
is( $standby->safe_psql('postgres', <<SQL), "t\nt\n35.00\nt\n1", 'after the promotion the ledger goes on');
SELECT ledger.credit_user_usdc('$one', 100.5, 'a deposit', '$order')
	= ledger.find_transaction('credit_user_usdc:deposit:$order');
SELECT ledger.execute_investment('$one', 5, '$order', 'second') > $last;
SELECT ledger.get_account_balance('$one', 'fiat_exposure');
SELECT ledger.credit_user_usdc('$four', 1, 'the first of him') > $last;
SELECT count(*) FROM ledger.transactions WHERE user_id = '$four' AND type = 'opening';
SQL
is(code_of($session, "SELECT ledger.credit_user_usdc('$two', 1, 'x')"), '', 'also in a session that was there before');
ledger_ok($standby, 'the ledger holds');
$standby->stop;
done_testing();
