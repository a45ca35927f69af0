# The mode is switched under load: no transaction mixes two modes, and who
# waits for the lock of the settings holds up nobody.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use constant CLIENTS => 64;

my $seconds = seconds(12);
my $node = ledger_node('switch', "log_min_messages = panic\nlog_min_error_statement = panic\n");
load_ledger($node);
legacy_table($node, CLIENTS);
attach($node, 'shadow_mode => true');
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION customer(n int) RETURNS uuid IMMUTABLE
	RETURN ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid;
SELECT ledger.credit_user_usdc(customer(n), 100, 'x') FROM generate_series(1, 64) n;
CREATE UNLOGGED TABLE seen (moved numeric, first_source text, second_source text);
SQL

# Starts pgbench with a script, until it is ended, or for so many seconds.
sub load_with
{
	my ($name, $clients, $seconds, $script, @options) = @_;
	my $file = $node->basedir . "/$name.sql";
	my %load;

	append_to_file($file, $script);
	local $ENV{PGOPTIONS} = '-c client_min_messages=error';
	$load{run} = IPC::Run::start(
		[ 'pgbench', '-n', '-c', $clients, '-T', $seconds, '-f', $file, @options, '-h', $node->host, '-p', $node->port, 'postgres' ],
		'<', \undef, '>', \$load{out}, '2>', \$load{err});
	return \%load;
}

sub ended_ok
{
	my ($load, $name) = @_;

	end_pgbench($node, $load->{run});
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	unlike($load->{err}, qr/ERROR|aborted/, "$name: no client met an error") or diag($load->{err});
}

# ---- hazard 26: no transaction mixes two modes ------------------------------------------------

# Two movements a transaction of a customer whom nobody else moves.  Mirrored,
# they move his legacy row by 1.01, else not at all: 1 or 0.01 would be a mixture.
my $load = load_with('two', CLIENTS, $seconds + 600, <<'SQL');
\set n :client_id + 1
SELECT pending_deposits AS before FROM public.balances WHERE user_id = customer(:n) \gset
BEGIN;
SELECT ledger.credit_user_usdc(customer(:n), 1, 'x');
SELECT source AS first_source FROM ledger.get_user_balance(customer(:n)) \gset
SELECT ledger.credit_user_usdc(customer(:n), 0.01, 'x');
INSERT INTO seen
	SELECT pending_deposits - :before, ':first_source', (SELECT source FROM ledger.get_user_balance(customer(:n)))
	FROM public.balances WHERE user_id = customer(:n);
COMMIT;
SQL
my @modes = (
	q{shadow_mode => true, balance_source => 'legacy'},
	q{shadow_mode => true, balance_source => 'ledger'},
	q{shadow_mode => false, balance_source => 'ledger'});
my $db = connection($node);
my ($switched, $refused, $longest) = (0, 0, 0);
my $kinds = 'SELECT count(*) FROM (SELECT DISTINCT trim_scale(moved), first_source, second_source FROM seen) s';
my $begun = time;
# until each mode was seen, however slow the machine is
for (my $n = 0; time < $begun + $seconds || (time < $begun + 300 && ($switched < 10 || $db->selectrow_array($kinds) < 3)); $n++)
{
	my $began = time;
	my $code = code_of($db, "SELECT ledger.configure($modes[$n % @modes], lock_wait => '60s')");

	$longest = time - $began if time - $began > $longest;
	$code eq '' ? $switched++ : $refused++;
	sleep 0.05;
}
ended_ok($load, 'switching');
note("$switched switches, $refused refused, the longest took $longest s");
cmp_ok($switched, '>=', 10, 'the mode was switched under 64 clients');
is($refused, 0, 'each time it was to be');
my $seen = join ';', map { join '|', @$_ } @{ $db->selectall_arrayref(
		'SELECT DISTINCT trim_scale(moved), first_source, second_source FROM seen ORDER BY 1, 2, 3') };
is($seen, '0|ledger|ledger;1.01|ledger|ledger;1.01|legacy|legacy', 'every mode was seen, and no mixture of two');
note($db->selectrow_array('SELECT count(*) FROM seen'), ' transactions');

# A session that has cached the settings sees the change with its next call.
my $other = connection($node);
foreach my $mode (@modes, $modes[0])
{
	my ($source) = $mode =~ /'(\w+)'/;

	$other->do("SELECT ledger.configure($mode)");
	is($db->selectrow_array('SELECT source FROM ledger.get_user_balance(?)', undef, customer(1)), $source, "seen at once: $mode");
}
$other->do("SELECT ledger.repair(dry_run => false, reason => 'shadow mode was off')");
ledger_ok($node, 'the ledger holds after the switching');

# ---- hazard 27: who waits holds up nobody --------------------------------------------------------

# Latencies in ms of a load's transactions, sorted.
sub latencies
{
	my ($name) = @_;
	my $prefix = $node->basedir . "/$name.log";

	return sort { $a <=> $b } map { (split)[2] / 1000 } map { split /\n/, slurp_file($_) } glob "$prefix*";
}

# Who waits does so for WAIT_MS.  If he held up others, each of the LOADERS would
# get one posting through at most, and the next would take as long as he waits.
use constant { LOADERS => 4, WAIT_MS => 6000 };

my $holder = connection($node, AutoCommit => 0);
$holder->do('SELECT ledger.reserve_for_investment(?, 1)', undef, customer(CLIENTS));
my $posted = 'SELECT count(*) FROM ledger.journal';
my $before = $db->selectrow_array($posted);
$load = load_with('waiting', LOADERS, 600, <<'SQL', '-l', '--log-prefix', $node->basedir . '/waiting.log');
\set n random(1, 63)
SELECT ledger.reserve_for_investment(customer(:n), 0.01);
SQL
ok(wait_until(120, sub { $db->selectrow_array($posted) > $before + 5 * LOADERS }), 'the others are at work');
# a transaction that stays is known by its age
sleep WAIT_MS / 2000;
my $pauses = pauses($node);
foreach my $case (
	[ 'configure()', sprintf q{SELECT ledger.configure(strict_mode => true, lock_wait => '%d ms')}, WAIT_MS ],
	[ 'detach_legacy()', q{SELECT * FROM ledger.detach_legacy('public.balances')} ])
{
	my ($who, $sql) = @$case;

	$before = $db->selectrow_array($posted);
	is(code_of($db, $sql), '55P03', "$who gives up while a long transaction has posted");
	like($db->errstr, qr/Process $holder->{pg_pid} of user \w+, application "\S*", in a transaction for \d\d:\d\d:\d/, 'and names it');
	cmp_ok($db->selectrow_array($posted) - $before, '>', 3 * LOADERS, 'the others get on with their work meanwhile');
}
my $paused = $pauses->();
ended_ok($load, 'waiting');
my @latencies = latencies('waiting');
my $p99 = $latencies[ 0.99 * $#latencies ];
note(sprintf '%d postings, p99 %.1f ms, longest %.1f ms, the machine\'s longest pause %.1f ms', scalar @latencies, $p99, $latencies[-1], $paused);
cmp_ok($p99, '<', 200 + 5 * $paused, 'p99 of the others stays below 200 ms, but for what the machine makes all wait');
cmp_ok($latencies[-1], '<', WAIT_MS / 4 + 5 * $paused, 'and no one waits nearly as long');
$holder->rollback;
is(code_of($db, 'SELECT ledger.configure(strict_mode => true)'), '', 'when it has ended, configure() goes through');
$_->disconnect foreach $db, $other, $holder;
ledger_ok($node, 'the ledger holds');
$node->stop;
done_testing();
