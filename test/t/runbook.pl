# docs/runbook.md, case by case: the situation is made, the statements of the
# section are run as they stand there, and at the end it is over.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep);

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $node = ledger_node('runbook', <<CONF);
ledger.databases = 'postgres'
ledger.worker_naptime = 50ms
idle_in_transaction_session_timeout = 0
CONF
load_ledger($node);
legacy_table($node, 20);
attach($node, q{shadow_mode => true, balance_source => 'legacy'});
my ($ada, $grace) = map { customer($_) } 1, 2;
query('SELECT count(ledger.credit_user_usdc(user_id, 1, $$opens them$$)) FROM public.balances');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', "SET client_min_messages = error; $sql");
}

# The SQLSTATE of what fails in a session of its own.
sub fails
{
	my ($sql) = @_;
	my ($status, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	return $status ? ($err =~ /ERROR:  (\w{5}): /)[0] : '';
}

# ---- the document -----------------------------------------------------------------

my %sections;
{
	my $text = slurp_file(($ENV{TESTDIR} // '.') . '/docs/runbook.md');
	$sections{$1} = $2 while $text =~ /^# ([^\n]+)\n(.*?)(?=^# |\z)/gms;
}

# The statements of a section that match, in their order.
sub statements
{
	my ($section, $pattern) = @_;
	my $text = $sections{$section} // die "the runbook has no section \"$section\"\n";
	my @found;

	foreach my $block ($text =~ /^```sql\n(.*?)^```/gms)
	{
		$block =~ s/:ada\b/'$ada'/g;
		$block =~ s/:grace\b/'$grace'/g;
		push @found, grep { /$pattern/ } map { s/^\s+//r } split /;\n/, $block;
	}
	die "\"$section\" has no statement like $pattern\n" if !@found;
	return @found;
}

# Runs them, each in a transaction of its own; what the last one prints.
sub follow
{
	my ($section, $pattern) = @_;
	my $out;

	$out = query($_) foreach statements($section, $pattern);
	return $out;
}

sub agrees
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	query('CALL ledger.run_reconciliation()');
	is(query('SELECT count(*) FROM ledger.reconcile()'), '0', "$name: the sides agree");
	is(query(q{SELECT count(*) FROM ledger.discrepancies WHERE status = 'open'}), '0', "$name: nothing is open");
}

# ---- the discrepancy rate is high ---------------------------------------------------

my $case = 'The discrepancy rate is high';
query('CREATE ROLE cron_jobs; GRANT ALL ON public.balances TO cron_jobs');
query(<<SQL);
SELECT ledger.set_test_clock('-2 days', 'a test');
SET ROLE cron_jobs; SET application_name = 'long gone';
UPDATE public.balances SET pending_deposits = pending_deposits + 1; UPDATE public.balances SET pending_deposits = pending_deposits - 1;
RESET ROLE; SELECT ledger.set_test_clock(NULL, 'a test');
SQL
query(<<SQL) foreach 1 .. 3;
SET ROLE cron_jobs; SET application_name = 'interest';
UPDATE public.balances SET pending_deposits = pending_deposits + 0.25 WHERE user_id <= '$grace';
SQL
query(q{SELECT ledger.configure_capture('public.balances', 'refuse', 'a test')});
is(fails('TRUNCATE public.balances'), 'LG005', "$case: a TRUNCATE is refused");
query(q{SELECT ledger.configure_capture('public.balances', 'record', 'a test')});
ok(wait_until(120, sub { query(q{SELECT count(*) FROM ledger.discrepancies WHERE status = 'open' AND user_id IS NULL}) eq '1' }), "$case: which is of no user");
is(fails((statements($case, qr/^SELECT e\.cause/))[0]), '', "$case: and in nobody's way");
is(query(q{SELECT string_agg(alert, ' ') FROM ledger.alerts WHERE firing AND alert <> 'LedgerReconciliationOverdue'}),
	'LedgerOutsideWrites', "$case: that somebody writes is seen before it is met");
follow($case, qr/^CALL ledger\.run_reconciliation/);
like(query((statements($case, qr/^SELECT e\.cause/))[0]), qr/^outside_writes?\|\d+\|1\.50$/m, "$case: why");
like(query((statements($case, qr/^SELECT cause, source, outcome/))[0]), qr/^mismatch\|run\|committed\|2\|1\.50$/m, "$case: how many and how much");
like(query((statements($case, qr/FROM ledger\.legacy_writes/))[0]), qr/^cron_jobs\|interest\|UPDATE\|6\|1\.50$/, "$case: who");
like(query((statements($case, qr/compare_balances/))[0]), qr/^pending_deposits\|1001\.00\|1001\.75\|-0\.75\|mismatch$/m, "$case: one of them");
follow($case, qr/^REVOKE/);
is(fails('SET ROLE cron_jobs; UPDATE public.balances SET pending_deposits = 0'), '42501', "$case: the source is stopped");
like(query((statements($case, qr/^SELECT \* FROM ledger\.repair/))[0]), qr/^$ada\|pending_deposits\|1001\.75\|1001\.00\|/m, "$case: a dry run");
is(follow($case, qr/^SELECT count\(\*\) FROM ledger\.repair/), '2', "$case: repaired");
follow($case, qr/^CALL ledger\.run_reconciliation/);
like(query((statements($case, qr/still_seen/))[0]), qr/^0\|/, "$case: it is over");
agrees($case);

# ---- ledger writes fail ----------------------------------------------------------------

$case = 'Ledger writes fail';
query('SELECT ledger.configure(strict_mode => true)');
query('ALTER TABLE public.balances ADD CONSTRAINT at_most CHECK (pending_deposits < 2000)');
is(fails((statements($case, qr/credit_user_usdc/))[0]), '23514', "$case: strict mode takes it back");
is(query("SELECT count(*) FROM ledger.transactions WHERE reference_id = 'd0000000-0000-4000-8000-000000000001'"), '0', "$case: nothing of it is there");
like(query((statements($case, qr/legacy_preflight/))[0]), qr/at_most/, "$case: what is in the way");
follow($case, qr/strict_mode => false/);
like(query((statements($case, qr/credit_user_usdc/))[-1]), qr/^t$/m, "$case: the ledger's part stands");
ok(wait_until(120, sub { query((statements($case, qr/cause, note/))[0]) =~ /mirror_failed\|23514/ }), "$case: the rest is noted");
query("SELECT ledger.get_balance('$ada')");
ok(wait_until(120, sub { query("SELECT count(*) FROM ledger.discrepancies WHERE status = 'open' AND cause = 'mismatch'") eq '1' }), "$case: a read meets it too");
is(query((statements('First', qr/^SELECT cause, count/))[0]), 'mirror_failed|1|5000.00', "$case: which does not hide why");
is(query((statements('The discrepancy rate is high', qr/^SELECT cause, source/))[0]), 'mirror_failed|posting|committed|1|5000.00', "$case: neither there");
follow($case, qr/^(ALTER TABLE balances DROP|SELECT legacy_column, before|CALL)|at_most is gone/);
agrees($case);
is(fails("SELECT ledger.credit_user_usdc('$ada', 5000, 'more')"), '', "$case: it is over, in strict mode");

# ---- latency is up ------------------------------------------------------------------------

$case = 'Latency is up';
my $holder = connection($node, AutoCommit => 0);
$holder->do("SET application_name = 'forgotten'");
$holder->do("SELECT ledger.credit_user_usdc('$ada', 1, 'and goes for lunch')");
my $prepared = "BEGIN; SELECT ledger.credit_user_usdc('$grace', 1, 'in two phases'); PREPARE TRANSACTION 'lost'";
query($prepared);
my @waiting = map {
	my $customer = $_;
	client(sub { connection($node)->do("SELECT ledger.credit_user_usdc('$customer', 2, 'waits')") })
} $ada, $ada, $grace;
my ($who, $gids) = statements($case, qr/pg_blocking_pids|pg_prepared_xacts/);
ok(wait_until(120, sub { query($who) =~ /^$holder->{pg_pid}\|\w+\|forgotten\|idle in transaction\|[12]\|/m }), "$case: who holds up whom");
like(query($gids), qr/^lost\|/, "$case: a prepared transaction");
query(statements($case, qr/^SELECT pid, application_name.*backend_xmin/s));
query(statements($case, qr/n_dead_tup/));
# as in step 1 of the list
like($sections{$case}, qr/pg_terminate_backend\(pid\)/, "$case: says to end him");
like($sections{$case}, qr/ROLLBACK PREPARED 'gid'/, "$case: and to roll back what is prepared");
query("SELECT pg_terminate_backend($holder->{pg_pid})");
query("ROLLBACK PREPARED 'lost'");
is(await(@waiting), 0, "$case: those who waited go on");
ok(wait_until(120, sub { query($who) . query($gids) eq '' }), "$case: it is over, nobody waits");
query($1) while $sections{$case} =~ /(VACUUM [\w.]+);/g;
agrees($case);

# ---- emergency rollback ---------------------------------------------------------------------

$case = 'Emergency rollback';
query("SELECT ledger.configure(balance_source => 'ledger')");
follow($case, qr/configure\(strict_mode => false, balance_source => 'legacy'/);
is(query("SELECT source FROM ledger.get_balance('$ada')"), 'legacy', "$case: reads come from the table");
is(query('SELECT strict_mode FROM ledger.configure()'), 'f', "$case: and warn");
is(fails("SELECT ledger.credit_user_usdc('$ada', 1, 'goes on')"), '', "$case: movements go on");
agrees("$case, weeks 1 to 3");

query(q{SELECT ledger.configure(strict_mode => true, balance_source => 'ledger')});
query(q{CALL ledger.cut_over(force => true, reason => 'a test')});
is(fails("UPDATE public.balances SET buying_power = 1 WHERE user_id = '$ada'"), 'LG005', "$case: cut over");
query("SELECT ledger.credit_user_usdc(user_id, 2, 'after the cut-over') FROM public.balances");
follow($case, qr/^CALL ledger\.roll_back/);
is(query('SELECT shadow_mode, strict_mode, balance_source, phase FROM ledger.configure()'), 't|f|legacy|migrating', "$case: rolled back");
is(query("SELECT source FROM ledger.get_balance('$ada')"), 'legacy', "$case: reads come from the table");
query("UPDATE public.balances SET updated_at = now() WHERE user_id = '$ada'");
is(fails("SELECT ledger.credit_user_usdc('$ada', 1, 'goes on')"), '', "$case: movements go on");
agrees("$case, after the cut-over");

follow($case, qr/configure\(shadow_mode => false/);
is(fails((statements($case, qr/credit_user_usdc/))[-1]), '55000', "$case: the old code alone, no posting");
query("UPDATE public.balances SET pending_deposits = pending_deposits + 30 WHERE user_id = '$grace'");

$case = 'After a time without the mirror';
follow($case, qr/^CALL ledger\.roll_back/);
is(query((statements($case, qr/configure/))[0]), 't|f|legacy|migrating', "$case: the mirror is on");
like(query((statements($case, qr/suspense_items/))[0]), qr/^\d+\|repair\|usdc_balance\|30\.00$/, "$case: waits to be explained");
agrees($case);
query("SELECT ledger.settle_suspense(transaction_id, 'system_buffer_usdc', 'seen on chain') FROM ledger.suspense_items WHERE settled_by IS NULL");
is(query((statements($case, qr/suspense_items/))[0]), '', "$case: it is over");

# ---- a restored or upgraded database -------------------------------------------------------

$case = 'A restored or upgraded database';
{
	my $dump = $node->basedir . '/ledger.dump';

	command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], "$case: a dump");
	query('CREATE DATABASE restored TEMPLATE template0');
	command_ok([ 'pg_restore', '-e', '-d', $node->connstr('restored'), $dump ], "$case: restored");
	my ($ask, @do) = statements($case, qr/./);
	my $alerts = q{SELECT string_agg(alert, ' ') FROM ledger.alerts WHERE firing AND alert IN ('LedgerCopy', 'LedgerWorkerDown')};
	is($node->safe_psql('restored', $ask), 't', "$case: it is a copy");
	like($node->safe_psql('restored', $alerts), qr/LedgerCopy/, "$case: the alert");
	my ($status, undef, $error) = $node->psql('restored', "\\set VERBOSITY verbose\n" . shift @do);
	like($error, qr/ERROR:  55000: .*copy/, "$case: it takes no posting");
	is(fails("SELECT ledger.credit_user_usdc('$ada', 1, 'goes on')"), '', "$case: the original does");
	my @printed = map { $node->safe_psql('restored', "SET client_min_messages = error; $_") } @do;
	is($printed[1], '', "$case: verify() has nothing to say");
	like($printed[2], qr/\|0$/, "$case: the sides agree");
	is($printed[3], 't', "$case: it takes postings");
	is($node->safe_psql('restored', $alerts), 'LedgerWorkerDown', "$case: ledger.databases does not name it");
	query('DROP DATABASE restored');
}

# ---- the worker is down ------------------------------------------------------------------------

$case = 'The worker is down';
my ($status, undef, $processes) = statements($case, qr/^SELECT/);
ok(wait_until(120, sub { query($status) =~ /^t\|t\|/m }), "$case: it runs");
like(query($processes), qr/\|ledger launcher\|.*\n.*\|ledger worker\|/, "$case: both are there");
my $locker = connection($node, AutoCommit => 0);
$locker->do('LOCK TABLE ledger.discrepancy_rows IN SHARE MODE');
query("UPDATE public.balances SET buying_power = buying_power + 3 WHERE user_id = '$ada'");
query("SELECT ledger.get_balance('$ada')");
ok(wait_until(120, sub { query($status) =~ /^t\|t\|[^|]*\|[^|]*\|[1-9]\d*\|.+$/m }), "$case: last_error says that it cannot store");
my $worker = (map { (split /\|/)[0] } grep { /\|ledger worker\|/ } split /\n/, query($processes))[0];
query('CREATE ROLE signaler IN ROLE pg_signal_backend');
is(fails("SET ROLE signaler; SELECT pg_terminate_backend($worker)"), '42501', "$case: only a superuser may end it");
query("SELECT pg_terminate_backend($worker)");
$locker->rollback;
ok(wait_until(120, sub { query($status) =~ /^t\|t\|/m && query($processes) !~ /^$worker\|/m && query($processes) =~ /ledger worker/ }),
	"$case: terminated, it comes back");
ok(wait_until(120, sub { query("SELECT count(*) FROM ledger.discrepancies WHERE status = 'open'") eq '1' }), "$case: what waited is stored");
like(follow($case, qr/^CALL/), qr/\|1$/, "$case: a run finds what differs");
query("SELECT * FROM ledger.repair(dry_run => false, reason => 'a test')");
agrees($case);

# ---- evidence was lost --------------------------------------------------------------------------

$case = 'Evidence was lost';
my $loss = (statements($case, qr/evidence_losses/))[0];
is(query($loss), '', "$case: nothing yet");
query("UPDATE public.balances SET buying_power = buying_power + 3 WHERE user_id = '$ada'");
kill_and_start($node);
ok(wait_until(120, sub { query($loss) =~ /^crash\|/m }), "$case: a crash is a loss");
follow($case, qr/^CALL/);
is(query((statements($case, qr/FROM ledger\.discrepancies/))[-1]), '1', "$case: what differs differs still");
query("SELECT * FROM ledger.repair(dry_run => false, reason => 'a test')");
follow($case, qr/^CALL/);
is(query((statements($case, qr/FROM ledger\.discrepancies/))[-1]), '0', "$case: it is over");

# ---- writes went past the capture -----------------------------------------------------------------

$case = 'Writes went past the capture';
query(join ';', statements($case, qr/replication_role|^UPDATE.*'$ada'/));
is(query((statements($case, qr/ledger\.verify/))[0]), '', "$case: the triggers are there");
query(join ';', statements($case, qr/^ALTER TABLE|^UPDATE.*'$grace'/));
like(query((statements($case, qr/ledger\.verify/))[0]), qr/^capture_triggers\|/, "$case: one is not");
like(query((statements($case, qr/kind = 'bypass'/))[0]), qr/^postgres\|.*pending_deposits \+ 7.*\|1$/s, "$case: who came in the replica role");
is(query(q{SELECT string_agg(alert, ' ') FROM ledger.alerts WHERE firing AND alert IN ('LedgerBypass', 'LedgerCaptureMissing')}),
	'LedgerCaptureMissing LedgerBypass', "$case: the alerts");
like(follow($case, qr/ledger\.rearm/), qr/\|ledger_capture\|enabled$/, "$case: it is put back");
like(follow($case, qr/^CALL/), qr/\|2$/, "$case: a run finds what was written");
follow($case, qr/ledger\.repair/);
is(query((statements($case, qr/ledger\.verify/))[0]), '', "$case: it is over");
agrees($case);

# ---- the reconciliation is overdue ------------------------------------------------------------------

$case = 'The reconciliation is overdue';
{
	my ($runs, $progress) = statements($case, qr/^SELECT/);
	my $fires = q{SELECT firing FROM ledger.alerts WHERE alert = 'LedgerReconciliationOverdue'};

	query(q{SELECT ledger.set_test_clock('25 hours', 'a test')});
	is(query($fires), 't', "$case: seen");
	like(query($runs), qr/^full\|finished\|\d+\|t$/m, "$case: there were runs");
	like(query($progress), qr/^full\|finished\|/, "$case: and what became of the last");
	follow($case, qr/^CALL/);
	is(query($fires), 'f', "$case: it is over");
	query(q{SELECT ledger.set_test_clock(NULL, 'a test')});
}

# ---- metrics are missing ----------------------------------------------------------------------------

$case = 'Metrics are missing';
query('CREATE ROLE prometheus LOGIN');
is(query((statements($case, qr/pg_has_role/))[0]), 'prometheus|t|f|f', "$case: the role may not ask");
is(query(join ';', (statements($case, qr/^(GRANT|SET|SELECT value)/))), '1', "$case: now it may");
is(query((statements($case, qr/pg_has_role/))[0]), 'prometheus|t|t|t', "$case: it is over");

# ---- the legacy table was dropped or lost ------------------------------------------------------

$case = 'The legacy table was dropped or lost';
my $worth = query("SELECT usdc_balance FROM ledger.get_user_balance('$ada')");
is(fails((statements($case, qr/^DROP TABLE/))[0]), '55000', "$case: not by mistake");
query('SET ledger.allow_drop = on; DROP TABLE public.balances CASCADE');
is(fails("SELECT ledger.credit_user_usdc('$ada', 1, 'one side alone')"), '55000', "$case: no posting");
is(fails("SELECT ledger.get_balance('$ada')"), '55000', "$case: no read");
is(query((statements($case, qr/AS customers/))[0]), '20', "$case: the ledger has everybody");
follow($case, qr/the table is lost|detach_legacy/);
is(follow($case, qr/credit_user_usdc/), 't', "$case: the ledger goes on alone");
follow($case, qr/^CREATE TABLE|attach_legacy|the table is back/);
is(follow($case, qr/ledger\.repair/), '40', "$case: the rows are made again");
is(query("SELECT pending_deposits - $worth FROM public.balances WHERE user_id = '$ada'"), '1.000000000000000000', "$case: with what was posted meanwhile");
is(fails("SELECT ledger.credit_user_usdc('$ada', 1, 'goes on')"), '', "$case: movements go on");
agrees($case);

ledger_ok($node, 'the ledger holds');
$node->stop;
done_testing();
