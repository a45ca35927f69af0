# The background worker: databases and extensions that come and go under it,
# what it does without being asked, and what happens to evidence when processes
# are killed.

use strict;
use warnings;

use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $node = ledger_node('worker', <<CONF);
ledger.databases = 'postgres, other, "not there yet"'
ledger.worker_naptime = 20ms
restart_after_crash = on
CONF
my ($one, $two, $three) = map { customer($_) } 1 .. 3;

sub query
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

# Whether a query answers true before long: some of what the worker does it
# tries again after a minute, if somebody was in the way.
sub comes_true
{
	my ($sql, $database) = @_;
	return wait_until(120, sub { (eval { query($sql, $database) } // '') eq 't' });
}

sub worker
{
	my ($database) = @_;
	return query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'ledger worker' AND datname = '" . ($database // 'postgres') . "'");
}

my $read = 'SELECT usdc_balance FROM ledger.get_user_balance';
my $status = 'SELECT %s FROM ledger.worker_status';

# ---- databases and extensions that come and go ---------------------------------

ok(comes_true("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'ledger worker' AND datname = 'postgres'"),
	'a database that is there has a worker');
is(query("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'ledger launcher' AND datname IS NULL"), '1', 'the launcher is connected to none');
load_ledger($node);
ok(comes_true(sprintf $status, 'running AND starts = 1 AND last_seen IS NOT NULL'), 'it notes that it runs as soon as there is an extension');
# between its rounds: in one it may wait for anything
ok(comes_true("SELECT application_name = 'ledger worker' AND state IN ('idle', 'active') AND COALESCE(wait_event_type IN ('Extension', 'Client'), true) FROM pg_stat_activity WHERE pid = " . worker()),
	'one sees what it is');
query('DROP EXTENSION ledger');
ok(worker(), 'the extension can be dropped under it');
query('CREATE EXTENSION ledger');
ok(comes_true(sprintf $status, 'running AND starts = 1 AND losses = 0'), 'and created again');

query('CREATE DATABASE other');
ok(wait_until(120, sub { worker('other') }), 'a database that is created gets one');
query('CREATE DATABASE copy TEMPLATE other');
pass('it is not in the way of one that wants the database for himself');
query('DROP DATABASE other');
pass('nor of DROP DATABASE');
query('CREATE DATABASE other');
ok(wait_until(120, sub { worker('other') }), 'another of the same name gets one');
load_ledger($node, 'other');
query('DROP DATABASE other WITH (FORCE)');
query('CREATE DATABASE other');
load_ledger($node, 'other');
query('CREATE DATABASE "not there yet"');
ok(wait_until(120, sub { worker('not there yet') }), 'and so does one with a name that is quoted');

# ---- two databases ----------------------------------------------------------------

foreach my $database ('postgres', 'other')
{
	legacy_table($node, 3, $database);
	attach($node, 'shadow_mode => true', $database);
	query("SELECT ledger.credit_user_usdc('$_', 1, 'opens')", $database) foreach $one, $two, $three;
}
query("UPDATE public.balances SET pending_deposits = pending_deposits + 1 WHERE user_id = '$two'; $read('$two')", 'other');
ok(comes_true('SELECT count(*) = 1 FROM ledger.discrepancies', 'other'), 'evidence is stored in the database that it is from');
is(query('SELECT count(*) FROM ledger.discrepancies'), '0', 'and in no other');

# ---- what it does besides -----------------------------------------------------------

query("SELECT ledger.reserve_for_investment('$one', 10, expires_at => clock_timestamp() + interval '0.1 s')");
ok(comes_true("SELECT status = 'expired' FROM ledger.reservations"), 'it releases reservations that are due');
ok(comes_true(sprintf $status, 'expired = 1'), 'and counts them');

query("UPDATE public.balances SET pending_deposits = pending_deposits + 1 WHERE user_id = '$three'; $read('$three')");
ok(comes_true('SELECT count(*) = 1 FROM ledger.discrepancies'), 'a discrepancy');
query('CALL ledger.run_reconciliation()') foreach 1 .. 2;
is(query('SELECT count(*) FROM ledger.reconciliation_findings'), '2', 'and found by two runs');
query("SELECT * FROM ledger.repair('$three', dry_run => false, reason => 'x'); ALTER SYSTEM SET ledger.history_retention = 0; SELECT pg_reload_conf()");
ok(comes_true('SELECT count(*) = 0 FROM ledger.discrepancies'), 'that was resolved long enough ago is deleted');
ok(comes_true('SELECT array_agg(run_id) = ARRAY[max(run_id)] AND max(run_id) = (SELECT max(id) FROM ledger.reconciliation_runs) FROM ledger.reconciliation_findings'),
	'and what the first run found; the last one is what others go by');
is(query('SELECT count(*) FROM ledger.reconciliation_runs'), '2', 'the runs stay');
is(($node->psql('postgres', 'DELETE FROM ledger.discrepancy_rows'))[0], 0, 'nobody else may delete any, but there is none');
query('ALTER SYSTEM RESET ledger.history_retention; SELECT pg_reload_conf()');

# An error does not end it.
my $worker = worker();
query("ALTER TABLE ledger.discrepancy_rows RENAME COLUMN note TO remark");
query("UPDATE public.balances SET pending_deposits = pending_deposits + 1 WHERE user_id = '$one'; $read('$one')");
ok(comes_true(sprintf $status, "errors > 0 AND last_error LIKE '%note%'"), 'what it cannot do it tells');
query("ALTER TABLE ledger.discrepancy_rows RENAME COLUMN remark TO note");
ok(comes_true('SELECT count(*) = 1 FROM ledger.discrepancies'), 'and does when it can');
is(worker(), $worker, 'it is the same process');
query("SELECT * FROM ledger.repair(dry_run => false, reason => 'x')");

# A dump with a reservation that is due, restored where a worker is already.
query('CREATE DATABASE dumped');
load_ledger($node, 'dumped');
query("SELECT ledger.credit_user_usdc('$one', 9, 'x'); SELECT ledger.reserve_for_investment('$one', 5, expires_at => now());"
	. " INSERT INTO ledger.worker_heartbeat (incarnation, pid, started_at, last_seen) VALUES (1, 1, now(), now())", 'dumped');
my $dump = $node->basedir . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, 'dumped' ], 'dumped');
query('CREATE EXTENSION ledger; DROP EXTENSION ledger; DROP SCHEMA ledger', 'not there yet');
$node->command_ok([ 'pg_restore', '-e', '-j', 2, '-d', 'not there yet', $dump ], 'restored while a worker is there');
# hazard 35: it is a copy, in which the worker does nothing
ok(comes_true(sprintf($status, 'running AND copy'), 'not there yet'), 'which sees that it is a copy');
is(query("SELECT status FROM ledger.reservations", 'not there yet'), 'active', 'and releases nothing');
query("SELECT ledger.resume('restored')", 'not there yet');
ok(comes_true("SELECT status = 'expired' AND (SELECT bool_and(passed) FROM ledger.verify()) FROM ledger.reservations", 'not there yet'),
	'until it is told to go on: then it releases the reservation');
ok(comes_true(sprintf($status, 'starts > 0 AND losses = 0'), 'not there yet'), 'and has lost nothing');

# ---- the end of a server ---------------------------------------------------------------

my $n = 0;

# A difference that stays in the ring, because the worker cannot store it.
sub hold_evidence
{
	my $db = connection($node, AutoCommit => 0);

	$n++;
	$db->do('LOCK TABLE ledger.discrepancy_rows IN SHARE MODE');
	query("UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = '$two'; $read('$two')");
	return $db;
}

sub losses
{
	return query('SELECT count(*) FROM ledger.evidence_losses');
}

my $losses = "SELECT string_agg(kind || ' ' || COALESCE(count::text, 'unknown'), ', ') FROM ledger.evidence_losses";
$node->restart;
ok(comes_true(sprintf $status, 'running AND starts = 2'), 'a clean restart starts it again');
is(query($losses), '', 'and nothing is lost');

my $holder = hold_evidence();
is(query('SELECT used FROM ledger.evidence_status()'), '1', 'evidence that is not stored yet');
$node->stop('fast');
eval { $holder->disconnect };
$node->start;
ok(comes_true('SELECT count(*) = 1 FROM ledger.discrepancies WHERE status = \'open\''), 'is kept over a clean stop');
is(query($losses), '', 'and so nothing is lost');

# all others have gone when the postmaster writes it, however they were told to
$holder = hold_evidence();
$node->stop('immediate');
eval { $holder->disconnect };
$node->start;
ok(comes_true('SELECT count = 2 FROM ledger.discrepancies WHERE status = \'open\''), 'and over an immediate one');
is(query($losses), '', 'which is no crash');

kill 'TERM', worker();
ok(comes_true(sprintf $status, 'running AND starts = 5'), 'a worker that is terminated is started again');
is(query($losses), '', 'and nothing is lost');

# One that is killed takes the shared memory with it, as any backend.
foreach my $whom ('worker', 'backend', 'postmaster')
{
	my $before = losses();
	my $starts = query(sprintf $status, 'starts');

	$holder = hold_evidence();
	if ($whom eq 'postmaster')
	{
		kill_and_start($node);
	}
	else
	{
		kill_process($node, $whom eq 'worker' ? worker() : $holder->{pg_pid});
	}
	eval { $holder->disconnect };
	ok(comes_true(sprintf $status, "running AND starts > $starts"), "the $whom is killed: the worker comes back");
	ok(comes_true("SELECT count(*) = $before + 1 FROM ledger.evidence_losses"), 'what was in the ring is stored as a loss');
}
is(query("$losses WHERE note LIKE 'the ring of the worker started at %'"), 'crash unknown, crash unknown, crash unknown', 'of unknown size');
is(query("SELECT count FROM ledger.discrepancies WHERE status = 'open'"), '2', 'it is not there');

# What is set for the sessions of a database is not for the worker.
query("ALTER DATABASE other SET $_") foreach 'role = pg_monitor', 'default_transaction_read_only = on', "statement_timeout = '1ms'", "search_path = ''";
kill 'TERM', worker('other');
{
	local $ENV{PGOPTIONS} = '-c role=none -c default_transaction_read_only=off -c statement_timeout=0';
	query("SELECT ledger.reserve_for_investment('$one', 10, expires_at => clock_timestamp())", 'other');
	ok(comes_true("SELECT status = 'expired' FROM ledger.reservations", 'other'), 'the worker acts as itself, whatever role a database sets');
}

query("SELECT ledger.repair(dry_run => false, reason => 'x')");
ledger_ok($node, 'the ledger holds');
$node->stop;
done_testing();
