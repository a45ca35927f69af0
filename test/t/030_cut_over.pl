# Cut over, roll back, forward again, retire and back from there, all under the
# load of clients that post and of old code that writes the legacy table; with
# a kill -9 in the middle of the way back.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use constant CUSTOMERS => 300;
use constant STALL_MS => 1000;

my $node = ledger_node('cut_over', "log_min_messages = error\n");
load_ledger($node);
legacy_table($node, CUSTOMERS);
attach($node, q{shadow_mode => true, strict_mode => true, reason => 'week 3'});
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION customer(n int) RETURNS uuid IMMUTABLE
	RETURN ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid;
SELECT count(ledger.credit_user_usdc(customer(n), 1, 'opens')) FROM generate_series(1, 300) n;
CALL ledger.run_reconciliation();
SQL
my $db = connection($node);
my $runs = 0;

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Clients that post, for so many seconds; their latencies go to a log each.
sub start_load
{
	my ($seconds, @options) = @_;
	my $file = $node->basedir . '/load.sql';
	my %load = (prefix => $node->basedir . '/load' . ++$runs);

	append_to_file($file, <<'SQL') if !-e $file;
\set n random(2, 300)
SELECT ledger.credit_user_usdc(customer(:n), 0.01, 'load');
SQL
	$load{pauses} = pauses($node);
	local $ENV{PGOPTIONS} = '-c client_min_messages=error';
	$load{run} = IPC::Run::start(
		[ 'pgbench', '-n', '-c', 6, '-T', $seconds, '-f', $file, '-l', '--log-prefix', $load{prefix}, @options, '-h', $node->host, '-p', $node->port, 'postgres' ],
		'<', \undef, '>', \$load{out}, '2>', \$load{err});
	return \%load;
}

# Waits for its end; how long the machine itself stood meanwhile, in ms.
sub end_load
{
	my ($load) = @_;

	$load->{run}->finish;
	return $load->{pauses}->();
}

# Passes if no client met an error or waited for a second.
sub load_ok
{
	my ($load, $name) = @_;
	my @ms;

	my $paused = end_load($load);
	@ms = sort { $a <=> $b } map { (split)[2] / 1000 } map { split /\n/, slurp_file($_) } glob "$load->{prefix}*";
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	unlike($load->{err}, qr/ERROR|aborted/, "$name: no client met an error") or diag($load->{err});
	# six clients meet more than the one that knows nobody
	cmp_ok($ms[-1], '<', STALL_MS + 5 * $paused, sprintf '%s: nobody waited for a second (%d postings, p99 %.1f ms, longest %.1f ms, the machine itself %.1f ms)',
		$name, scalar @ms, $ms[int(@ms * 0.99)], $ms[-1], $paused);
}

# Calls a procedure; its SQLSTATE, or ''.
sub call
{
	my ($sql) = @_;
	my $began = time;
	my $code = code_of($db, "CALL ledger.$sql");

	note(sprintf "%s: %s in %.2f s", $sql, $code || 'done', time - $began);
	return $code;
}

sub state_is
{
	my ($state, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(query('SELECT state FROM ledger.migration_status()'), $state, $name);
}

sub agree_ok
{
	my ($name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(query('SELECT * FROM ledger.reconcile()'), '', $name);
}

# ---- a write that is in flight ---------------------------------------------------

# It holds the table; the cut-over waits, finds it when it is there, and changes nothing.
my $one = customer(1);
my $writer = connection($node, AutoCommit => 0);
$writer->do('UPDATE public.balances SET buying_power = buying_power + 5 WHERE user_id = ?', undef, $one);
my $load = start_load(5);
my $caller = client(sub {
	my $own = connection($node);
	my $code = code_of($own, q{CALL ledger.cut_over(force => true, reason => 'a write is in flight')});
	die "got '$code' and not LG003\n" if $code ne 'LG003';
});
sleep 1.5;
is(waitpid($caller, POSIX::WNOHANG()), 0, 'the cut-over waits for a write that is in flight');
$writer->commit;
is(await($caller), 0, 'and finds it under the lock: LG003');
state_is('strict', 'nothing has changed');
load_ok($load, 'meanwhile');
query("SELECT ledger.repair('$one', dry_run => false, reason => 'not ours')");

# ---- hazard 27: who is in the way is named, and nobody else waits -----------------

my $holder = connection($node, AutoCommit => 0);
$holder->do('SELECT ledger.reserve_for_investment(?, 1)', undef, $one);
$load = start_load(14);
is(call('cut_over(dry_run => true)'), '', 'a rehearsal behind a transaction that stays');
like(query('SELECT blockers FROM ledger.cut_over_rehearsals ORDER BY id DESC LIMIT 1'),
	qr/^Process $holder->{pg_pid} of user \w+, application/, 'which it names');
is(query('SELECT locked FROM ledger.cut_over_rehearsals ORDER BY id DESC LIMIT 1'), 'f', 'without having got the locks');
load_ok($load, 'behind it');
$holder->rollback;
is(call('cut_over(dry_run => true)'), '', 'a rehearsal without it');
is(query('SELECT locked AND users_different = 0 AND predicted_stall_ms BETWEEN held_ms AND 60000 FROM ledger.cut_over_rehearsals ORDER BY id DESC LIMIT 1'),
	't', 'gets them and finds no difference');
state_is('strict', 'and has changed nothing');

# ---- hazard 28: cut over, 10,000 postings, roll back: equal ------------------------

$load = start_load(4);
sleep 1;
is(call(q{cut_over(force => true, reason => 'under load')}), '', 'cut over under load');
sleep 1;
is(code_of($writer, 'UPDATE public.balances SET buying_power = 0 WHERE user_id = ?', $one), 'LG005', 'the old code is refused');
$writer->rollback;
load_ok($load, 'the cut-over');
agree_ok('both sides agree after it');
query(q{SELECT count(ledger.credit_user_usdc(customer(1 + n % 300), 0.01, 'after the cut-over')) FROM generate_series(1, 10000) n});
$load = start_load(4);
sleep 1;
is(call(q{roll_back('back under load')}), '', 'rolled back under load');
state_is('shadow', 'shadow mode is on again, and balances are read from the table');
load_ok($load, 'the way back');
agree_ok('after 10,000 postings and more the two sides are equal');
is(code_of($writer, 'UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = ?', $one), '', 'the old code may write again');
$writer->commit;
is(query('SELECT kind FROM ledger.legacy_writes ORDER BY id DESC LIMIT 1'), 'outside', 'and is recorded');
query("SELECT ledger.repair(dry_run => false, reason => 'not ours')");

# ---- forward again, retired, and back after a kill -9 -------------------------------

query(q{SELECT ledger.configure(strict_mode => true, balance_source => 'ledger', reason => 'forward again')});
$load = start_load(4);
sleep 1;
is(call(q{cut_over(force => true, reason => 'forward again')}), '', 'forward again');
load_ok($load, 'the second cut-over');
query(q{SELECT ledger.set_test_clock('8 days', 'a week later'); CALL ledger.run_reconciliation()});
$load = start_load(4);
sleep 1;
is(call(q{retire_legacy('the old code is gone')}), '', 'retired under load');
load_ok($load, 'the retirement');
state_is('retired', 'the table has another name');
query(q{SELECT count(ledger.credit_user_usdc(customer(n), 0.01, 'not mirrored')) FROM generate_series(1, 300) n});

# Slow enough to be killed in the middle.
query(<<'SQL');
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END $$;
DO $$ BEGIN EXECUTE format('CREATE TRIGGER slow BEFORE UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION slow()', (SELECT legacy FROM ledger.legacy_mappings)); END $$;
SQL
$caller = client(sub {
	my $own = connection($node);
	eval { $own->do(q{CALL ledger.roll_back('back from there')}) };
	die "it was not killed\n" if !$@;
});
ok(wait_until(120, sub { query(q{SELECT count(*) >= 100 FROM ledger.repair_log WHERE reason = 'back from there'}) eq 't' }),
	'the way back has begun to catch up');
kill_and_start($node);
is(await($caller), 0, 'and was killed');
$db = connection($node);
state_is('cut_over', 'the table is back and mirrored, and still read from the ledger');
is(query('SELECT count(*) FROM ledger.roll_backs WHERE finished_at IS NULL'), '1', 'what has not finished is known');
cmp_ok(query('SELECT count(*) FROM ledger.reconcile()'), '>', 0, 'not all is caught up with');
query('DROP TRIGGER slow ON public.balances');
$load = start_load(4);
sleep 0.5;
is(call(q{roll_back('the same again')}), '', 'called again it goes on');
load_ok($load, 'catching up');
state_is('shadow', 'and ends where it should');
agree_ok('the two sides are equal');
is(query('SELECT from_state, failed, finished_at IS NOT NULL FROM ledger.roll_backs ORDER BY id DESC LIMIT 1'), 'retired|0|t', 'nobody was left out');

# ---- legacy only --------------------------------------------------------------------

query(q{SELECT ledger.configure(shadow_mode => false, reason => 'the emergency')});
my $old = client(sub {
	my $own = connection($node);
	foreach my $n (1 .. 300)
	{
		$own->do('UPDATE public.balances SET pending_deposits = pending_deposits + 1 WHERE user_id = ?', undef, customer(1 + $n % 50));
	}
});
is(code_of($db, "SELECT ledger.credit_user_usdc('$one', 1, 'x')"), '55000', 'no posting meanwhile');
is(await($old), 0, 'the old code goes on');
$load = start_load(4, '--max-tries', 1);
end_load($load);
like($load->{err}, qr/Call ledger.roll_back|takes no postings/, 'clients that post are refused');
is(call(q{roll_back('it is over')}), '', 'back from legacy only');
agree_ok('the two sides are equal');
is(query(q{SELECT users, failed FROM ledger.roll_backs ORDER BY id DESC LIMIT 1}), '50|0', 'of all for whom the old code wrote');
$_->disconnect foreach $db, $writer, $holder;
ledger_ok($node, 'the ledger holds');
$node->stop;
done_testing();
