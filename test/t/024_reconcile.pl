# Recorded reconciliations at work: incremental ones against full ones while
# others write, two at once, one that is cancelled and gone on with.
#
# Fails if an incremental run goes by ids alone: without the look at snapshots
# in reconcile_changed_since() the first part misses late commits.

use strict;
use warnings;

use Digest::MD5 qw(md5_hex);
use Test::More;
use Time::HiRes qw(sleep time);

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use constant CUSTOMERS => 5_000;

my $node = ledger_node('reconcile', <<CONF);
ledger.databases = 'postgres'
ledger.worker_naptime = 20ms
client_min_messages = error
log_min_messages = error
CONF
load_ledger($node);
legacy_table($node, CUSTOMERS);
attach($node, 'shadow_mode => true');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Who differs, by the one and by the other.
sub same
{
	my ($name) = @_;
	my $columns = 'user_id, legacy_column, ledger_value, legacy_value, difference, status';
	my ($full, $incremental) = map { query("SELECT $columns FROM ledger.reconcile(0, '$_') ORDER BY 1, 2") } qw(full incremental);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(md5_hex($incremental), md5_hex($full), $name);
	return scalar(split /\n/, $full);
}

# In the background, with a session of its own.
sub background
{
	my (@statements) = @_;
	my ($out, $err) = ('', '');
	my $run = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), map { ('-c', $_) } @statements ],
		'<', \undef, '>', \$out, '2>', \$err);
	return { run => $run, out => \$out, err => \$err };
}

# Everybody is opened, and differs in nothing.
query(sprintf q{SELECT count(ledger.credit_user_usdc(('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 1, 'x'))
	FROM generate_series(1, %d) n}, CUSTOMERS);
query('CALL ledger.run_reconciliation()');
is(same('nobody differs'), 0, 'and nobody is said to');

# Short and long transactions: postings, outside writes, roll backs.
my $script = $node->basedir . '/write.sql';
append_to_file($script, <<'SQL');
\set n random(1, 2000)
\set m random(1, 2000)
\set kind random(1, 8)
\set wait random(0, 60)
BEGIN;
SELECT CASE WHEN :kind IN (1, 6, 7) THEN ledger.credit_user_usdc(customer(:n), 2, 'x')
	WHEN :kind = 2 THEN ledger.move_funds_to_fiat_exposure(customer(:n), 0.01, 'x') END;
UPDATE public.balances SET pending_deposits = pending_deposits + 0.5 WHERE user_id = customer(:m) AND :kind IN (3, 4, 8);
SELECT pg_sleep(:wait / 1000.0);
UPDATE public.balances SET buying_power = buying_power - 0.25 WHERE user_id = customer(:n) AND :kind IN (1, 5);
\if :kind >= 7
ROLLBACK;
\else
END;
\endif
SQL
query(q{CREATE FUNCTION customer(n int) RETURNS uuid IMMUTABLE RETURN ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid});
my $missed = 0;
foreach my $round (1 .. soak(2, 60))
{
	my $load = IPC::Run::start([ 'pgbench', '-n', '-c', 8, '-T', 3, '-f', $script, $node->connstr('postgres') ],
		'<', \undef, '>', \my $out, '2>', \my $err);
	while ($load->pumpable)
	{
		query(q{CALL ledger.run_reconciliation('incremental')});
		$load->pump_nb;
		sleep 0.02;
	}
	$load->finish;
	unlike($err, qr/ERROR|aborted/, "round $round: the writers met no error") or diag($err);
	cmp_ok(same("round $round: incremental runs among writers missed nothing"), '>', 10 * $round, 'of what there was');
}
cmp_ok(query(q{SELECT count(*) FROM ledger.reconciliation_runs WHERE scope = 'incremental' AND status = 'finished'}),
	'>', 4, 'in several runs');
my $expected = query('SELECT count(*), sum(abs(difference)) FROM ledger.reconcile()');

# Two at once: the second is refused, also between two steps of the first.
my $slow = 'CALL ledger.run_reconciliation(chunk_users => 5)';
my $first = background($slow);
ok(wait_until(30, sub { query(q{SELECT compared > 40 FROM ledger.reconciliation_progress WHERE status = 'running'}) eq 't' }),
	'a run makes progress');
foreach my $n (1 .. 20)
{
	my ($status, undef, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nCALL ledger.run_reconciliation()");
	$missed++ if $status == 0 || $err !~ /ERROR:  55006: reconciliation \d+ is running/;
}
is($missed, 0, 'another one is refused while it runs');
is(query('SELECT ledger.cancel_reconciliation()'), 't', 'it is cancelled');
$first->{run}->finish;
my ($run) = ${ $first->{out} } =~ /^(\d+)\|0$/m;
is(query("SELECT status, compared BETWEEN 1 AND @{[CUSTOMERS - 1]} FROM ledger.reconciliation_runs WHERE id = $run"),
	'cancelled|t', 'and says so');
query("CALL ledger.run_reconciliation(run_id => $run)");
is(query("SELECT status, compared, discrepancies || '|' || total_difference FROM ledger.reconciliation_runs WHERE id = $run"),
	'finished|' . CUSTOMERS . "|$expected", 'gone on with it finds all');

$node->stop;
done_testing();
