# LedgerMigration.pm: a whole migration, told once for any legacy table: old
# and new writers from the first day to the last, the product's four weeks by
# the test clock, kill -9 in every phase, the way back after the cut-over and
# forward again.
#
# A table is described by a hash: create (SQL for the table and `customer(n)`,
# the user whom the ledger knows), attach (arguments of attach_legacy()), add
# (a statement that adds $2 to the first column of customer $1, as the old
# service does), load (the same for pgbench), drop_row, refuse and allow (a
# constraint by which writes for customer $1 fail), users.
#
# What is asserted after each phase: no discrepancy but those put in on
# purpose, each of those with its cause; debits are credits; nobody stalled.
# At the end the oracle: before, it would take longer than all the rest.

package LedgerMigration;

use strict;
use warnings;

use Exporter qw(import);
use IPC::Run ();
use Test::More;
use Time::HiRes qw(sleep time);

use LedgerTest;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(migrate);

use constant {
	PLANTED => 10,				# customers whom no load touches
	STALL_MS => 1000,
	LOAD => 'load',				# application_name of the clients
};

# What the new service does.  Who has too little is told so: no error.
my %new_service = (
	credit => <<'SQL',
\set n random(11, :users)
SELECT ledger.credit_user_usdc(customer(:n), 1.25, 'load', gen_random_uuid());
SQL
	debit => <<'SQL',
\set n random(11, :users)
SELECT attempt(format('ledger.debit_user_usdc(%L, 1.25, %L)', customer(:n), 'load'));
SQL
	convert => <<'SQL',
\set n random(11, :users)
SELECT attempt(format('ledger.move_funds_to_fiat_exposure(%L, 2, %L)', customer(:n), 'load'));
SQL
	invest => <<'SQL',
\set n random(11, :users)
SELECT gen_random_uuid() AS o \gset
BEGIN;
SELECT attempt(format('ledger.reserve_for_investment(%L, 3, %L)', customer(:n), ':o'));
SELECT attempt(format('ledger.execute_investment(%L, 1, %L, %L)', customer(:n), ':o', 'a'));
COMMIT;
SELECT attempt(format('ledger.release_reservation(%L, NULL, %L)', customer(:n), ':o'));
SQL
	read => <<'SQL');
\set n random(11, :users)
SELECT * FROM ledger.get_user_balance(customer(:n));
SQL

# ---- the story's state ---------------------------------------------------------------

my ($node, $db, $table);
my %loads;						# those that run, by name
my $runs = 0;
my $worst = 0;					# longest transaction of any load, in ms
my $days = 0;

sub value
{
	my ($sql, @values) = @_;
	return $db->selectrow_array($sql, undef, @values);
}

sub run_sql
{
	my ($sql, @values) = @_;
	$db->do($sql, undef, @values);
}

sub reconnect
{
	$db = connection($node, pg_server_prepare => 0);
	$db->do('SET client_min_messages = error');
}

# ---- load ----------------------------------------------------------------------------

# Starts pgbench with these scripts as one load.
sub start_load
{
	my ($name, $clients, @scripts) = @_;
	my $load = { prefix => $node->basedir . '/load.' . ++$runs };
	my @files;

	foreach my $script (@scripts)
	{
		push @files, '-f', "$load->{prefix}." . @files;
		append_to_file($files[-1], $script);
	}
	$load->{pauses} = pauses($node);
	local $ENV{PGOPTIONS} = '-c client_min_messages=error';
	local $ENV{PGAPPNAME} = LOAD;
	$load->{run} = IPC::Run::start(
		[
			'pgbench', '-n', '-c', $clients, '-T', 3600, '-P', 1, @files, '-D', "users=$table->{users}", '-l',
			'--log-prefix', "$load->{prefix}.log", '-h', $node->host, '-p', $node->port, 'postgres'
		],
		'<', \undef, '>', \$load->{out}, '2>', \$load->{err});
	$loads{$name} = $load;
}

# Waits until every load has done something, which it tells each second.
sub working
{
	foreach my $run (values %loads)
	{
		wait_until(120, sub {
			$run->{run}->pump_nb if $run->{run}->pumpable;
			return $run->{err} =~ /^progress: [\d.]+ s, (?!0\.0 tps)/m || !$run->{run}->pumpable;
		});
	}
}

sub start_old { start_load('old', 2, $table->{load}) }
sub start_new { start_load('new', 4, map { $new_service{$_} } sort keys %new_service) }

# Waits for loads whose sessions have gone, and looks what they met.
sub end_load
{
	my ($name, $phase) = @_;
	my $load = delete $loads{$name};
	my @latencies;

	eval { $load->{run}->finish };
	my $paused = $load->{pauses}->();
	my @errors = grep { /ERROR|FATAL|PANIC/ && !/terminating connection|the database system is|crash of another/ }
	  split /\n/, $load->{err};
	is(join("\n", @errors), '', "$phase: the $name service met no error");
	@latencies = map { (split)[2] / 1000 } map { split /\n/, slurp_file($_) } glob "$load->{prefix}.log*";
	cmp_ok(scalar @latencies, '>', 0, "$phase: it did work (" . @latencies . ' transactions)');
	foreach (@latencies) { $worst = $_ if $_ > $worst }
	$load->{worst} = (sort { $b <=> $a } @latencies)[0] // 0;
	# six processes meet more than the one that knows nobody
	cmp_ok($load->{worst}, '<', STALL_MS + 5 * $paused, sprintf '%s: and never stood for a second (%.0f ms, the machine itself %.0f ms)',
		$phase, $load->{worst}, $paused);
}

sub stop_loads
{
	my ($phase, @names) = @_;

	@names = sort keys %loads if !@names;
	return if !@names;
	# all are told at once: whose are whose, the sessions do not say
	my @others = grep { my $n = $_; !grep { $_ eq $n } @names } keys %loads;
	die "loads are stopped together\n" if @others;
	working();
	run_sql('SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = ?', LOAD);
	end_load($_, $phase) foreach @names;
}

# kill -9 of the server under load; the load begins anew.
sub crash
{
	my ($phase) = @_;
	my @names = sort keys %loads;

	working();
	$db->disconnect;
	kill_and_start($node);
	reconnect();
	end_load($_, "$phase, killed") foreach @names;
	foreach (@names) { $_ eq 'old' ? start_old() : start_new() }
}

# ---- what must hold ------------------------------------------------------------------

# Once nobody writes: the two sides agree but for the users named, and the
# ledger adds up.
sub agrees_ok
{
	my ($phase, @planted) = @_;
	my $found = join ',', map { @$_ } @{ $db->selectall_arrayref(
			'SELECT DISTINCT n FROM ledger.reconcile() r JOIN numbered USING (user_id) ORDER BY n') };
	my $others = value('SELECT count(*) FROM ledger.reconcile() r WHERE NOT EXISTS (SELECT FROM numbered n WHERE n.user_id = r.user_id)');

	is("$found+$others", join(',', @planted) . '+0', "$phase: no difference that was not put in on purpose");
	is(value('SELECT count(*) FROM (SELECT FROM ledger.account_balances GROUP BY currency HAVING sum(debits) <> sum(credits)) c'),
		0, "$phase: debits are credits");
}

sub pass_days
{
	my ($more, $why) = @_;

	$days += $more;
	run_sql("SELECT ledger.set_test_clock(make_interval(days => ?), ?)", $days, $why);
}

sub reconciled
{
	my ($scope, @more) = @_;
	my ($run, $found) = value("CALL ledger.run_reconciliation('$scope')");
	return $found;
}

# ---- discrepancies put in on purpose ---------------------------------------------------

# Customers 1 to 5, each in the way that life does it, and what it is called.
my @planted = (
	[ 'outside_write', sub {
		my ($n) = @_;
		run_sql("SET ledger.capture = 'record'");
		run_sql($table->{add}, $n, 7);
		run_sql('RESET ledger.capture');
	} ],
	[ 'double_write', sub {
		my ($n) = @_;
		$db->begin_work;
		run_sql("SELECT ledger.credit_user_usdc(customer(?), 5, 'paid twice')", $n);
		run_sql($table->{add}, $n, 5);
		$db->commit;
	} ],
	[ 'bypass', sub {
		my ($n) = @_;
		run_sql('SET session_replication_role = replica');
		run_sql($table->{add}, $n, -3);
		run_sql('RESET session_replication_role');
	} ],
	[ 'mirror_failed', sub {
		my ($n) = @_;
		run_sql($_) foreach @{ $table->{refuse} };
		run_sql("SELECT ledger.credit_user_usdc(customer(?), 900000, 'too much for the old table')", $n);
		run_sql($_) foreach @{ $table->{allow} };
	} ],
	[ 'missing_row', sub {
		my ($n) = @_;
		run_sql("SET ledger.capture = 'record'");
		run_sql($table->{drop_row}, $n);
		run_sql('RESET ledger.capture');
	} ]);

sub plant
{
	for my $n (1 .. @planted)
	{
		$planted[ $n - 1 ][1]->($n);
	}
}

sub planted_found_ok
{
	my ($phase) = @_;

	for my $n (1 .. @planted)
	{
		my $causes = join ',', map { @$_ } @{ $db->selectall_arrayref(
				'SELECT DISTINCT cause FROM ledger.explain_discrepancy(customer(?))', undef, $n) };
		is($causes, $planted[ $n - 1 ][0], "$phase: customer $n differs because of: $planted[ $n - 1 ][0]");
	}
	is(value("SELECT count(DISTINCT user_id) FROM ledger.discrepancies WHERE status = 'open'"),
		scalar @planted, "$phase: these and no others are open discrepancies");
}

# ---- the phases ------------------------------------------------------------------------

sub before
{
	$node = ledger_node($table->{name}, <<CONF);
ledger.databases = 'postgres'
ledger.worker_naptime = 200ms
ledger.stats_interval = 1s
log_min_messages = error
log_min_error_statement = panic
max_wal_size = 2GB
work_mem = 128MB
checkpoint_timeout = 30min
shared_buffers = 128MB
CONF
	$node->safe_psql('postgres', $table->{create});
	reconnect();
	start_old();
	sleep 1;
}

sub attach_and_backfill
{
	load_ledger($node);
	$node->safe_psql('postgres', <<SQL);
CREATE TABLE numbered AS SELECT n, customer(n) AS user_id FROM generate_series(1, ${\PLANTED}) n;
CREATE FUNCTION attempt(call text) RETURNS bigint LANGUAGE plpgsql AS \$\$
DECLARE
	id bigint;
BEGIN
	EXECUTE 'SELECT ' || call INTO id;
	RETURN id;
EXCEPTION WHEN SQLSTATE 'LG001' OR SQLSTATE 'LG008' THEN
	RETURN NULL;
END
\$\$;
SQL
	my $last = $db->selectall_arrayref("SELECT * FROM ledger.attach_legacy($table->{attach}, capture => 'post')")->[-1];
	is("$last->[0] $last->[1]", 'attached 1', 'the table is attached under load') or diag(join ' | ', map { $_ // '' } @$last);
	crash('attached');

	start_new();
	my $pid = client(sub { connection($node)->do('CALL ledger.backfill()') });
	wait_until(300, sub { value('SELECT count(*) FROM ledger.accounts') > $table->{users} / 2 });
	crash('backfill');
	await($pid);
	my $began = time;
	run_sql('CALL ledger.backfill()');
	note(sprintf 'the rest of the backfill took %.1f s', time - $began);
	is(value("SELECT status FROM ledger.backfill_runs ORDER BY id DESC LIMIT 1"), 'finished', 'the backfill goes on after a crash, and ends');
	is(value('SELECT count(*) FROM ledger.backfill_findings'), 0, 'every row could be opened');
	is(value("SELECT count(*) FROM (SELECT user_id FROM ledger.journal WHERE type = 'opening' GROUP BY 1 HAVING count(*) > 1) twice"),
		0, 'nobody was opened twice');
	stop_loads('backfill');
}

sub week_1
{
	# what was posted before shadow mode is not in the old table
	run_sql("SELECT count(*) FROM ledger.repair(dry_run => false, reason => 'posted before shadow mode')");
	agrees_ok('before week 1');
	start_old();
	run_sql("SELECT ledger.configure(shadow_mode => true, balance_source => 'legacy', reason => 'week 1')");
	# not before: what it posts until then is not in the old table
	start_new();
	sleep 2;
	crash('week 1');
	plant();
	sleep 1;
	is(reconciled('full'), value('SELECT count(*) FROM ledger.reconcile()'), 'week 1: a run under load finds what is there');
	stop_loads('week 1');
	is(reconciled('full') > 0, 1, 'week 1: a run finds what was put in');
	agrees_ok('week 1', 1 .. @planted);
	planted_found_ok('week 1');
	run_sql("SELECT count(*) FROM ledger.repair(dry_run => false, reason => 'put in on purpose')");
	is(reconciled('full'), 0, 'week 1: they are repaired');
	agrees_ok('week 1, repaired');
	pass_days(7, 'week 1 is over');
}

sub week_2
{
	start_old();
	start_new();
	run_sql("SELECT ledger.configure(balance_source => 'ledger', reason => 'week 2')");
	sleep 2;
	crash('week 2');
	sleep 1;
	is(reconciled('incremental'), 0, 'week 2: nothing differs');
	stop_loads('week 2');
	agrees_ok('week 2');
	cmp_ok(value("SELECT count(*) FROM ledger.suspense_items WHERE settled_by IS NULL"), '>', 0, 'week 2: the old service left money to be settled');
	run_sql("SELECT count(ledger.settle_suspense(transaction_id, 'system_buffer_usdc', 'deposits of the old service'))"
		. " FROM ledger.suspense_items WHERE settled_by IS NULL");
	is(value("SELECT count(*) FROM ledger.suspense_items WHERE settled_by IS NULL"), 0, 'week 2: it is settled');
	pass_days(7, 'week 2 is over');
}

sub week_3
{
	my ($week) = @_;

	start_new();
	run_sql("SELECT ledger.configure(balance_source => 'ledger', strict_mode => true, reason => ?)", $week);
	sleep 2;
	crash($week);
	sleep 1;
	stop_loads($week);
	agrees_ok($week);
	pass_days(8, "$week is over");
	start_new();
	is(reconciled('full'), 0, "$week: nothing differs");
}

sub gates_open
{
	my ($phase) = @_;
	my $closed;

	wait_until(300, sub {
		$closed = join '; ', map { "$_->[0]: $_->[1]" } @{ $db->selectall_arrayref(
				'SELECT gate, observed FROM ledger.readiness() WHERE NOT passed') };
		sleep 0.5 if $closed ne '';
		$closed eq '';
	});
	is($closed, '', "$phase: every gate is open");
}

sub cut_over
{
	my ($phase) = @_;

	gates_open($phase);
	run_sql("CALL ledger.cut_over(dry_run => true, reason => 'rehearsal')");
	run_sql("CALL ledger.cut_over(reason => 'week 4')");
	is(value('SELECT phase FROM ledger.settings'), 'cut_over', "$phase: cut over under load");
	is(code_of($db, $table->{add}, 6, 1), 'LG005', "$phase: the old service cannot write any more");
	sleep 1;
	crash($phase);
	sleep 1;
	stop_loads($phase);
	agrees_ok($phase);
	is(reconciled('full'), 0, "$phase: nothing differs");
}

sub roll_back
{
	start_new();
	sleep 1;
	run_sql("CALL ledger.roll_back('the old service is needed again')");
	is(join(' ', value('SELECT shadow_mode, strict_mode, balance_source, phase FROM ledger.settings')),
		'1 0 legacy migrating', 'rolled back under load');
	start_old();
	sleep 1;
	crash('rolled back');
	sleep 1;
	stop_loads('rolled back');
	agrees_ok('rolled back');
	run_sql("SELECT count(ledger.settle_suspense(transaction_id, 'system_buffer_usdc', 'deposits of the old service'))"
		. " FROM ledger.suspense_items WHERE settled_by IS NULL");
	pass_days(7, 'rolled back for a week');
}

sub retire
{
	start_new();
	pass_days(8, 'a week after the cut-over');
	is(reconciled('full'), 0, 'before the end: nothing differs');
	run_sql("CALL ledger.retire_legacy('nobody has looked at it for a week')");
	is(value('SELECT phase FROM ledger.settings'), 'retired', 'retired under load');
	sleep 1;
	crash('retired');
	sleep 1;
	stop_loads('retired');
	is(value('SELECT count(*) FROM (SELECT FROM ledger.account_balances GROUP BY currency HAVING sum(debits) <> sum(credits)) c'),
		0, 'retired: debits are credits');
}

sub migrate
{
	($table) = @_;

	before();
	attach_and_backfill();
	week_1();
	week_2();
	week_3('week 3');
	cut_over('week 4');
	roll_back();
	week_3('week 3 again');
	cut_over('week 4 again');
	run_sql('ANALYZE');
	ledger_ok($node, 'after all of it the ledger holds');
	retire();
	note(sprintf 'the longest transaction of any load took %.0f ms', $worst);
	$db->disconnect;
	$node->stop;
}

1;
