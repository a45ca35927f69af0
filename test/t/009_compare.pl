# hazard 1: both sides of a customer are read from one snapshot: whoever compares
# while others post never sees half of a movement.  Two statements would.  50
# writers and very many comparisons in `make soak`.  It goes on until there were
# enough of them, however slow the machine is.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use constant CUSTOMERS => 10;

my $writers = soak(10, 50);
my $seconds = seconds(10);

my $node = ledger_node('compare');
load_ledger($node);
legacy_table($node, CUSTOMERS);
attach($node, 'shadow_mode => true, strict_mode => true');
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION customer(n int) RETURNS uuid IMMUTABLE
	RETURN ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid;
SELECT ledger.credit_user_usdc(customer(n), 1000, 'x') FROM generate_series(1, 10) n;

-- Each statement of the function has a snapshot of its own.
CREATE FUNCTION compare_often(customer uuid, OUT compared bigint, OUT different bigint) LANGUAGE plpgsql AS $$
BEGIN
	compared := 0;
	different := 0;
	FOR i IN 1 .. 50 LOOP
		different := different + (SELECT count(*) FROM ledger.compare_balances(customer) c WHERE c.status <> 'match');
		compared := compared + 1;
	END LOOP;
END
$$;
SQL

my $script = $node->basedir . '/write.sql';
append_to_file($script, <<SQL);
\\set n random(1, ${\CUSTOMERS})
SELECT ledger.credit_user_usdc(customer(:n), 2, 'x');
SELECT ledger.move_funds_to_fiat_exposure(customer(:n), 1, 'x');
SELECT ledger.debit_user_usdc(customer(:n), 1, 'x');
SQL
my $load = IPC::Run::start(
	[ 'pgbench', '-n', '-c', $writers, '-T', $seconds + 600, '-f', $script, '-h', $node->host, '-p', $node->port, 'postgres' ],
	'<', \undef, '>', \my $out, '2>', \my $err);

# So many comparisons of each kind, and how many of them saw a difference.
my %compared = ('one call' => 0, 'a read' => 0, 'reconcile' => 0, 'two statements' => 0);
my %differed = map { $_ => 0 } keys %compared;
my $db = connection($node);
my $ledger = $db->prepare(q{SELECT ledger.get_account_balance(?, 'usdc_balance')});
my $legacy = $db->prepare(q{SELECT pending_deposits FROM public.balances WHERE user_id = ? AND pg_sleep(0.005) IS NOT NULL});
my $began = time;

# The customers' movements.
sub written { return $db->selectrow_array(q{SELECT count(*) FROM ledger.transactions WHERE description = 'x'}) }
my $written = written();

sub enough
{
	return (!grep { $compared{$_} <= 100 } 'one call', 'a read', 'reconcile') && $differed{'two statements'} > 0
	  && written() - $written > 600;
}

for (my $round = 0; time < $began + $seconds || (time < $began + 300 && !enough()); $round++)
{
	my $customer = customer(1 + $round % CUSTOMERS);
	my ($compared, $different) = $db->selectrow_array('SELECT * FROM compare_often(?)', undef, $customer);

	$compared{'one call'} += $compared;
	$differed{'one call'} += $different;

	# in strict mode a difference is an error
	$compared{'a read'}++;
	$differed{'a read'}++ if code_of($db, 'SELECT * FROM ledger.get_user_balance(?)', $customer);

	if ($round % 10 == 0)
	{
		$compared{reconcile} += CUSTOMERS;
		$differed{reconcile} += $db->selectrow_array('SELECT count(*) FROM ledger.reconcile()');
	}
	if ($round % 5 == 0)
	{
		$compared{'two statements'}++;
		$differed{'two statements'}++
		  if $db->selectrow_array($ledger, undef, $customer) != $db->selectrow_array($legacy, undef, $customer);
	}
}
end_pgbench($node, $load);
unlike($err, qr/ERROR|aborted/, 'the writers met no error') or diag($err);
$written = written() - $written;
cmp_ok($written, '>', 600, "they did write: $written movements");
foreach my $kind ('one call', 'a read', 'reconcile')
{
	cmp_ok($compared{$kind}, '>', 100, "$kind: $compared{$kind} comparisons");
	is($differed{$kind}, 0, "hazard 1, $kind: none sees a difference");
}
cmp_ok($differed{'two statements'}, '>', 0,
	"two statements: $differed{'two statements'} of $compared{'two statements'} do");
$db->disconnect;
ledger_ok($node, 'the ledger holds');
$node->stop;
done_testing();
