# Recorded reconciliations at work: incremental ones against full ones while
# others write, a run that is killed and gone on with, two at once, one that is
# cancelled, how old its snapshots get (hazard 6), reconcile.psql and its exit
# codes, and the worker's.
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
restart_after_crash = on
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
	my ($runs, $end) = (0, time + 3);
	my $load = IPC::Run::start([ 'pgbench', '-n', '-c', 8, '-T', 600, '-f', $script, $node->connstr('postgres') ],
		'<', \undef, '>', \my $out, '2>', \my $err);
	# some runs beside some writes, however long that takes
	until (time > $end && $runs >= 3 && query("SELECT count(*) > 100 * $round FROM ledger.legacy_writes WHERE kind = 'outside'") eq 't')
	{
		query(q{CALL ledger.run_reconciliation('incremental')});
		$runs++;
		$load->pump_nb;
		last if !$load->pumpable;
	}
	end_pgbench($node, $load);
	unlike($err, qr/ERROR|aborted/, "round $round: the writers met no error") or diag($err);
	cmp_ok(same("round $round: incremental runs among writers missed nothing"), '>', 10 * $round, 'of what there was');
}
cmp_ok(query(q{SELECT count(*) FROM ledger.reconciliation_runs WHERE scope = 'incremental' AND status = 'finished'}),
	'>', 4, 'in several runs');
my $expected = query('SELECT count(*), sum(abs(difference)) FROM ledger.reconcile()');

# Two at once: the second is refused, also between two steps of the first.
my $slow = 'CALL ledger.run_reconciliation(chunk_users => 2)';

# Waits until a run has compared more than so many users; the pid of its session.
# By a connection that is there already: a new one may take as long as the run.
sub run_beyond
{
	my ($db, $users) = @_;
	my $pid;

	wait_until(60, sub {
		$pid = $db->selectrow_array(q{SELECT pid FROM ledger.reconciliation_progress WHERE status = 'running' AND compared > ?}, undef, $users);
	}) or die "no run has compared $users users\n";
	return $pid;
}
my $db = connection($node);
my $first = background($slow);
ok(run_beyond($db, 40), 'a run makes progress');
foreach my $n (1 .. 20)
{
	$missed++ if code_of($db, 'CALL ledger.run_reconciliation()') ne '55006' || $db->errstr !~ /reconciliation \d+ is running/;
	sleep 0.01;
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

# kill -9 in the middle: of the backend, and the server starts anew; one that is
# busy would not notice soon that the postmaster is gone.
sub kill_run
{
	my $run = background($slow);

	kill_process($node, run_beyond(connection($node), 1000));
	$run->{run}->finish;
}
kill_run();
($run, my $compared) = split /\|/, query(q{SELECT run_id, compared FROM ledger.reconciliation_progress WHERE status = 'running'});
ok($compared > 1000 && $compared < CUSTOMERS, "killed after $compared users");
query("UPDATE public.balances SET buying_power = buying_power + 3 WHERE user_id = customer(1)");
query("CALL ledger.run_reconciliation(run_id => $run, chunk_users => 5)");
is(query("SELECT status, compared FROM ledger.reconciliation_runs WHERE id = $run"), 'finished|' . CUSTOMERS,
	'it goes on where it was: nobody is compared twice');
same('and an incremental one after it misses nothing of what changed meanwhile');

# Killed and not gone on with: the next one is not held up.
kill_run();
query(q{CALL ledger.run_reconciliation('incremental')});
like(query('SELECT status, note FROM ledger.reconciliation_runs ORDER BY id DESC OFFSET 1 LIMIT 1'),
	qr/^failed\|.*has ended$/, 'a run whose session is gone has failed');

# hazard 6: no snapshot of a run gets old, while one of reconcile() would.
sub ages
{
	my ($sql) = @_;
	my $looker = connection($node);
	my $run = background("SET application_name = 'aged'", $sql);
	my %seen;

	while ($run->{run}->pumpable)
	{
		$looker->do('SELECT pg_current_xact_id()');
		my $xmin = $looker->selectrow_array(q{SELECT backend_xmin FROM pg_stat_activity
			WHERE application_name = 'aged' AND state = 'active' AND backend_xmin IS NOT NULL AND query LIKE '%ledger.%'});
		$seen{$xmin}++ if defined $xmin;
		$run->{run}->pump_nb;
		sleep 0.01;
	}
	$run->{run}->finish;
	return scalar keys %seen;
}
my $in_one = ages('SELECT count(*) FROM ledger.reconcile(), pg_sleep(1)');
my $in_steps = 0;
# who looks may be slower than a run
for (my $n = 0; $n < 10 && $in_steps <= 10; $n++)
{
	$in_steps = ages($slow);
}
# the snapshot of its planning may be another
like($in_one, qr/^[12]$/, 'hazard 6: one statement holds back vacuum from its beginning to its end');
cmp_ok($in_steps, '>', 10, "a run in steps does not: $in_steps snapshots were seen");

# reconcile.psql
my $psql = `\"$ENV{PG_CONFIG}\" --sharedir`;
chomp $psql;
$psql .= '/extension/reconcile.psql';
sub exits
{
	my (@options) = @_;
	my $run = IPC::Run::start([ 'psql', '-X', '-d', $node->connstr('postgres'), @options, '-f', $psql ],
		'<', \undef, '>', \my $out, '2>', \my $err);
	$run->finish;
	return ($run->result || 0, $out, $err);
}
my ($code, $out, $err) = exits();
is($code, 3, 'reconcile.psql exits with 3 where something differs');
like($out, qr/pending_deposits/, 'and shows what');
like($err, qr/ledger and legacy tables differ/, 'and says so');
query(q{SELECT count(*) FROM ledger.repair(dry_run => false, reason => 'test')});
($code, $out, $err) = exits('-v', 'scope=incremental');
is("$code$err", '0', 'with 0 where nothing does');
($code, $out, $err) = exits('-v', 'scope=nonsense');
is($code, 3, 'with 3 if the run fails');
query('CALL ledger.run_reconciliation()');
is(query(q{SELECT discrepancies FROM ledger.reconciliation_runs ORDER BY id DESC LIMIT 1}), 0, 'a full run agrees');

# The worker runs what is due, and goes on with everything else.
sub comes_true
{
	my ($sql) = @_;
	return wait_until(120, sub { query($sql) eq 't' });
}
my $before = query('SELECT max(id) FROM ledger.reconciliation_runs');
query('UPDATE public.balances SET pending_deposits = pending_deposits + 7 WHERE user_id = customer(3)');
query(q{ALTER SYSTEM SET ledger.reconcile_interval = 1});
$node->reload;
ok(comes_true("SELECT count(*) >= 2 FROM ledger.reconciliation_runs WHERE id > $before AND status = 'finished'"),
	'the worker reconciles');
is(query(q{SELECT DISTINCT scope FROM ledger.reconciliation_runs WHERE runner_query IS NULL}), 'incremental', 'incrementally');
is(query(q{SELECT legacy_column, difference FROM ledger.discrepancies WHERE source = 'run' AND status = 'open'}),
	'pending_deposits|-7.00', 'and finds an outside write');
query('ALTER TABLE public.balances RENAME COLUMN pending_deposits TO gone');
ok(comes_true(q{SELECT last_error <> '' FROM ledger.worker_status}), 'an error is noted');
my $seen = query('SELECT last_seen FROM ledger.worker_status');
ok(comes_true("SELECT last_seen > '$seen' FROM ledger.worker_status"), 'and the worker lives on');
query('ALTER TABLE public.balances RENAME COLUMN gone TO pending_deposits');
$before = query('SELECT max(id) FROM ledger.reconciliation_runs');
ok(comes_true("SELECT count(*) > 0 FROM ledger.reconciliation_runs WHERE id > $before AND status = 'finished'"),
	'once it is over, runs go on');

# Until the worker has looked so many times more whether one is due.
sub looks
{
	my ($more) = @_;
	my $looks = q{FROM ledger.stat_worker WHERE task = 'reconciling'};

	comes_true('SELECT runs >= ' . ($more + query("SELECT runs $looks")) . " $looks") or die "the worker does not look\n";
}
query(q{SELECT ledger.configure(shadow_mode => false)});
looks(2);
my $runs = query('SELECT count(*) FROM ledger.reconciliation_runs');
looks(3);
is(query('SELECT count(*) FROM ledger.reconciliation_runs'), $runs, 'without shadow mode none is due');
$node->stop;
done_testing();
