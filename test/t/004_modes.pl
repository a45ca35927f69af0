# Ways in which a session may run: read-only transactions, parallel workers,
# and each isolation level as its default.

use strict;
use warnings;

use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $node = ledger_node('modes', <<CONF);
max_parallel_workers = 4
parallel_setup_cost = 0
parallel_tuple_cost = 0
min_parallel_table_scan_size = 0
CONF
load_ledger($node);
legacy_table($node, 200);
attach($node, 'shadow_mode => true');
my ($one, $two, $three, $four, $nobody) = map { customer($_) } 1 .. 4, 999;
my $order = '00000000-0000-4000-9000-000000000001';
$node->safe_psql('postgres', <<SQL);
SELECT ledger.credit_user_usdc('$one', 100.5, 'a deposit', '$order');
SELECT ledger.reserve_for_investment('$one', 60, '$order');
SELECT ledger.execute_investment('$one', 20, '$order', 'first');
SELECT ledger.credit_user_usdc('$two', 1, 'a deposit');
SELECT ledger.credit_user_usdc('$nobody', 1, 'a customer without a legacy row');
UPDATE public.balances SET buying_power = buying_power + 5 WHERE user_id = '$two';
SELECT ledger.record_broker_account('{"id": "b1", "equity": "50", "cash": "20"}', '$one');
ANALYZE;
SQL

my @reads = (
	(   map { my $user = $_; map { "SELECT * FROM ledger.$_" } (
			"get_user_balance('$user')", "get_balance('$user')", "compare_balances('$user')",
			"get_account_balance('$user', 'usdc_balance')",
			"check_available_balance('$user', 900, 'usdc_balance')") }
		  ($one, $two, $three, $nobody)),
	"SELECT * FROM ledger.user_history('$one')",
	"SELECT * FROM ledger.get_detailed_balance('$one', 'b1')",
	"SELECT ledger.find_transaction('credit_user_usdc:deposit:$order')",
	'SELECT * FROM ledger.reconcile()',
	'SELECT * FROM ledger.verify()',
	'SELECT sum(ledger.get_account_balance(user_id, \'usdc_balance\')) FROM public.balances',
	'SELECT sum((ledger.get_user_balance(user_id)).total_value) FROM public.balances',
	"SELECT count(ledger.find_transaction('opening:1:' || user_id)) FROM public.balances",
	"SELECT count(*) FROM public.balances WHERE ledger.check_available_balance(user_id, 1000, 'usdc_balance')",
	(map { "SELECT t.* FROM ledger.$_ t ORDER BY t::text" }
		  qw(account_balances entries transactions reservations discrepancies settings)));

# Results and messages of the reads in one session that begins and ends so.
sub results
{
	my ($begin, $end) = @_;
	my ($status, $rows, $messages) =
	  $node->psql('postgres', join ";\n", $begin, @reads, $end);

	$messages =~ s/^psql:<stdin>:\d+: //mg;
	return "$status\n$rows\n$messages";
}

# it has another name since PostgreSQL 16
my $parallel = $node->safe_psql('postgres', q{SELECT format('SET %I = on', name) FROM pg_settings
	WHERE name IN ('force_parallel_mode', 'debug_parallel_query')});
my $expected = results('SELECT', 'SELECT');
like($expected, qr/^0\n/, 'every read gives an answer');
my %sessions = (
	'read-only transaction' => [ 'BEGIN READ ONLY', 'COMMIT' ],
	'default_transaction_read_only' => [ 'SET default_transaction_read_only = on', 'SELECT' ],
	'parallel workers' => [ $parallel, 'SELECT' ],
	'parallel plans' => [ 'SET max_parallel_workers_per_gather = 2', 'SELECT' ],
	'serializable, read only, deferrable' => [ 'BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE', 'COMMIT' ],
	map { ($_ => [ "SET default_transaction_isolation = '$_'; BEGIN", 'COMMIT' ]) }
	  'read uncommitted', 'read committed', 'repeatable read', 'serializable');
foreach my $name (sort keys %sessions)
{
	is(results(@{ $sessions{$name} }), $expected, "$name: every read gives the same rows and warnings");
}

# A plan that does have workers, and a read that runs in them.
my $plan = $node->safe_psql('postgres', <<SQL);
SET max_parallel_workers_per_gather = 2;
EXPLAIN (ANALYZE, COSTS off, TIMING off)
	SELECT count(ledger.find_transaction('opening:1:' || user_id)) FROM public.balances;
SQL
like($plan, qr/Workers Launched: [12].*Partial Aggregate/s, 'find_transaction() runs in workers');

# What writes is refused where the executor would refuse it.
my $db = connection($node);
$db->do('BEGIN READ ONLY');
is(code_of($db, "SELECT ledger.credit_user_usdc('$one', 1, 'x')"), '25006', 'a posting in a read-only transaction');
$db->do('ROLLBACK');
$db->do(<<SQL);
CREATE FUNCTION said_to_be_safe() RETURNS bigint LANGUAGE plpgsql PARALLEL SAFE AS
	\$\$ BEGIN RETURN ledger.credit_user_usdc('$one', 1, 'x'); END \$\$
SQL
$db->do($parallel);
is(code_of($db, 'SELECT said_to_be_safe()'), '25000', 'a posting in a parallel worker');
isnt(code_of($db, "SELECT ledger.credit_user_usdc('$one', 0, 'x')"), '25000', 'but not only because it might be in one');

# Operations at each level, with workers where the planner likes, and each in
# a savepoint that is rolled back once.
foreach my $level ('read uncommitted', 'read committed', 'repeatable read', 'serializable')
{
	my ($reference) = $db->selectrow_array('SELECT gen_random_uuid()');
	my $sum = 'SELECT (ledger.get_user_balance(?)).total_value';
	my ($before) = $db->selectrow_array($sum, undef, $one);

	$db->do("SET default_transaction_isolation = '$level'");
	$db->begin_work;
	foreach my $end ('ROLLBACK TO s', 'RELEASE s')
	{
		$db->do('SAVEPOINT s');
		$db->do('SELECT ledger.credit_user_usdc(?, 10, ?, ?)', undef, $one, 'x', $reference);
		$db->do('SELECT ledger.reserve_for_investment(?, 6, ?)', undef, $one, $reference);
		$db->do('SELECT ledger.execute_investment(?, 4, ?, ?)', undef, $one, $reference, 'first');
		$db->do('SELECT ledger.release_reservation(?, NULL, ?)', undef, $one, $reference);
		$db->do('SELECT ledger.move_funds_to_usdc(?, 4, ?, ?)', undef, $one, 'x', $reference);
		$db->do('SELECT ledger.debit_user_usdc(?, 9, ?, ?)', undef, $one, 'x', $reference);
		$db->do($end);
	}
	cmp_ok(scalar $db->selectrow_array($sum, undef, $one), '==', $before + 1, "$level: operations add up");
	$db->commit;
	cmp_ok(scalar $db->selectrow_array($sum, undef, $one), '==', $before + 1, "$level: also after the commit");
	is($db->selectrow_array('SELECT ledger.credit_user_usdc(?, 10, ?, ?) = ledger.find_transaction(?)',
			undef, $one, 'x', $reference, "credit_user_usdc:deposit:$reference"),
		1, "$level: a replay finds the transaction");
}
$db->disconnect;
$node->safe_psql('postgres', "SELECT ledger.repair('$two', dry_run => false, reason => 'outside write')");
ledger_ok($node, 'the ledger holds');
$node->stop;
done_testing();
