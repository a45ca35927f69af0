# HAZARD 33: repairs beside postings.  Every customer's row is made wrong, and
# all are repaired while clients go on posting for them: once is enough, the
# second repair finds nothing, and no row is wrong afterwards.
#
# Fails with a repair that takes the difference as of before the lock.

use strict;
use warnings;

use IPC::Run;
use Test::More;
use Time::HiRes qw(sleep time);

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use constant CUSTOMERS => 15;

my $seconds = seconds(5);
my $node = ledger_node('repair');
load_ledger($node);
legacy_table($node, CUSTOMERS);
attach($node, 'shadow_mode => true');
my $session = connection($node);
$session->do("SET client_min_messages = error; SELECT count(*) FROM ledger.repair(dry_run => false, reason => 'open all')");

my $script = $node->basedir . '/post.sql';
append_to_file($script, <<'SQL');
\set n random(1, 15)
\set amount random(1, 500)
SELECT ledger.credit_user_usdc(('00000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid, :amount / 100.0, 'load');
SELECT ledger.debit_user_usdc(('00000000-0000-4000-8000-' || lpad(:n::text, 12, '0'))::uuid, :amount / 100.0 - 0.005, 'load');
SQL
my ($out, $err) = ('', '');
my $load = IPC::Run::start(
	[ 'pgbench', '-n', '-c', 6, '-T', $seconds + 1, '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
	'>', \$out, '2>', \$err);

my ($rounds, $repaired, $again, $wrong) = (0, 0, 0, 0);
my $end = time + $seconds;
while (time < $end || $rounds <= 2)
{
	my $direction = $rounds++ % 2 ? 'ledger' : 'legacy';

	# more money in the row, so that both directions are possible
	$session->do('UPDATE public.balances SET pending_deposits = pending_deposits + 5, buying_power = buying_power + 1');
	sleep 0.1;
	my $repair = "SELECT count(*) FROM ledger.repair(direction => '$direction', dry_run => false, reason => 'load')";
	$repaired += $session->selectrow_array($repair);
	$again += $session->selectrow_array($repair);
	$wrong += $session->selectrow_array('SELECT count(*) FROM ledger.reconcile()');
}
$load->finish;
like($out, qr/number of failed transactions: 0 /, 'no posting fails beside a repair') or diag($err);
cmp_ok($rounds, '>', 2, "$rounds rounds");
is($repaired, 2 * CUSTOMERS * $rounds, 'each repairs both columns of each customer');
is($again, 0, 'a second run does nothing');
is($wrong, 0, 'and leaves no row wrong');
is( $session->selectrow_array("SELECT count(*) FROM ledger.repair_log WHERE direction = 'legacy' AND reason = 'load'"),
	2 * CUSTOMERS * int(($rounds + 1) / 2), 'all of them are logged');
is( $session->selectrow_array(
		"SELECT sum(after - before) = 6 * " . CUSTOMERS . " * " . int($rounds / 2)
		  . " FROM ledger.repair_log WHERE direction = 'ledger'"),
	1, 'the ledger was given what was written past it, and not more');

# Taken back under load too: each column is as wrong as it was.
$load = IPC::Run::start(
	[ 'pgbench', '-n', '-c', 6, '-T', 2, '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
	'>', \$out, '2>', \$err);
$session->do('UPDATE public.balances SET pending_deposits = pending_deposits + 5');
$session->do("SELECT count(*) FROM ledger.repair(dry_run => false, reason => 'to be undone')");
$session->do("SELECT ledger.undo_repair(id, 'it was right') FROM ledger.repair_log WHERE reason = 'to be undone' ORDER BY user_id");
is( join(' ', @{ $session->selectrow_arrayref('SELECT count(*), min(difference), max(difference) FROM ledger.reconcile()') }),
	CUSTOMERS . ' -5.00 -5.00', 'an undone repair leaves the difference that it had mended');
$load->finish;
$session->do("SELECT count(*) FROM ledger.repair(dry_run => false, reason => 'the end')");
ledger_ok($node, 'both sides agree, and the ledger with itself');

done_testing();
