# Hazard 30: backfill() beside old writers, who update their rows, and new ones,
# who call the ledger; its backend or the postmaster is killed twenty times.
# Each user is opened once, the sums are exact, and it ends.

use strict;
use warnings;

use List::Util qw(shuffle);
use Test::More;
use Time::HiRes qw(sleep time);

use LedgerTest;

use constant {
	USERS => 30_000,
	WRONG => 7,
	KILLS => 20,
	OF_THE_SERVER => 4,
};

my $node = ledger_node('backfill', <<CONF);
fsync = off
restart_after_crash = on
deadlock_timeout = 300ms
shared_buffers = 64MB
CONF
load_ledger($node);
$node->safe_psql('postgres', sprintf <<'SQL', USERS, WRONG);
CREATE TABLE public.balances (
	user_id uuid PRIMARY KEY,
	buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0,
	currency varchar(10) NOT NULL DEFAULT 'USD',
	updated_at timestamptz NOT NULL DEFAULT now());
CREATE FUNCTION customer(n int) RETURNS uuid IMMUTABLE RETURN md5('customer ' || n)::uuid;
INSERT INTO public.balances (user_id, buying_power, pending_deposits) SELECT customer(n), n %% 100, n FROM generate_series(1, %d) n;
UPDATE public.balances SET buying_power = -1 WHERE user_id IN (SELECT customer(n) FROM generate_series(1, %d) n);
SQL
attach($node, 'shadow_mode => true');

sub query { return $node->safe_psql('postgres', $_[0]) }

# A client goes on over the loss of its connection until the file is gone.
my $going = $node->basedir . '/going';
open my $file, '>', $going or die "$going: $!\n";
close $file;

sub forever
{
	my ($number, $work) = @_;

	return client(sub {
		my $db;
		my %failed;

		srand $number;
		while (-e $going)
		{
			$db = eval { connection($node) } if !$db || !eval { $db->ping };
			sleep 0.05 and next if !$db;
			next if eval { $work->($db); 1 };
			my $code = $db->state || 'lost';
			$failed{$code}++;
			eval { $db->rollback if !$db->{AutoCommit} };
			# gone with the server, an old snapshot, not enough money, a row that nobody can be opened from
			die "a client failed: $@" if $code !~ /^(57P0.|08...|40001|LG001|55000|lost|S8006|25P02|25P03|XX000)$/ && eval { $db->ping };
		}
		die "deadlocks: $failed{'40P01'}\n" if $failed{'40P01'};
	});
}

# Old writers update rows directly, two users in any order in one transaction: what is
# captured is not posted, so ledger and legacy row part by it once the user is opened.
# So each leaves the row as it was, but moves it about in between.
sub old_writer
{
	my ($db) = @_;
	my ($one, $two) = map { WRONG + 1 + int rand(USERS - WRONG) } 1, 2;

	$db->do("DO \$\$ BEGIN
		UPDATE public.balances SET updated_at = now() WHERE user_id = customer($one);
		PERFORM pg_sleep(0.002);
		UPDATE public.balances SET updated_at = now() WHERE user_id = customer($two); END \$\$");
}

# So do those who raise what nobody has opened yet, and keep the books of it.
sub depositor
{
	my ($db) = @_;
	my $n = WRONG + 1 + int rand(USERS - WRONG);

	$db->do("DO \$\$ BEGIN
		PERFORM FROM public.balances WHERE user_id = customer($n) FOR UPDATE;
		IF NOT EXISTS (SELECT FROM ledger.accounts WHERE user_id = customer($n)) THEN
			UPDATE public.balances SET pending_deposits = pending_deposits + 1 WHERE user_id = customer($n);
		END IF; END \$\$");
}

sub new_writer
{
	my ($db) = @_;
	my $n = WRONG + 1 + int rand(USERS - WRONG);

	$db->do("SELECT ledger.credit_user_usdc(customer($n), 1, 'load', gen_random_uuid())") for 1 .. 5;
	$db->do("SELECT ledger.debit_user_usdc(customer($n), 2, 'load', gen_random_uuid())");
}

my @clients = map { forever($_->[0], $_->[1]) }
	[ 1, \&old_writer ], [ 2, \&old_writer ], [ 3, \&depositor ], [ 4, \&new_writer ], [ 5, \&new_writer ];

# Calls it again and again until it gets through; kills it, or the server, in between.
my $kills = 0;
my $end = time + 50;
my %kill_the_server = map { $_ => 1 } (shuffle(1 .. KILLS))[ 0 .. OF_THE_SERVER - 1 ];

while ($kills < KILLS && time < $end)
{
	my $backfill = client(sub {
		my $db = connection($node);

		$db->do('SET application_name = backfill');
		eval { $db->do('CALL ledger.backfill(50)') };
	});

	wait_until(5, sub { query('SELECT ledger.backfill_pid() IS NOT NULL') eq 't' });
	sleep 0.05 + rand 0.15;
	$kills++;
	if ($kill_the_server{$kills})
	{
		kill_and_start($node);
	}
	else
	{
		# the whole server restarts: a killed backend may have left anything in shared memory
		my $pid = query('SELECT ledger.backfill_pid()');
		my $before = query('SELECT pg_postmaster_start_time()');

		if ($pid)
		{
			kill 'KILL', $pid;
			waitpid($backfill, 0);
			wait_until(20, sub { eval { query('SELECT 1') } });
		}
	}
	await($backfill);
	# not through while there is more to kill
	if (query("SELECT count(*) FROM ledger.backfill_runs WHERE status = 'finished'") ne '0')
	{
		note("it got through after $kills kills");
		last;
	}
}
is($kills, KILLS, 'killed often enough');
note(query("SELECT status, phase, seen, opened, already, waiting FROM ledger.backfill_progress"));

my $started = time;
query('CALL ledger.backfill()');
note(sprintf 'the rest took %.1f s beside the load', time - $started);
unlink $going;
is(await(@clients), 0, 'no client failed, none was the victim of a deadlock');

is(query("SELECT count(*) FROM ledger.backfill_runs"), '1', 'all calls went on with one run');
is(query("SELECT status, phase, waiting FROM ledger.backfill_progress"), 'finished|done|0', 'which has ended');
is(query("SELECT count(*) FROM ledger.backfill_findings WHERE status = 'open'"), WRONG, 'what was wrong is found, once each');
is(query("SELECT user_id, count(*) FROM ledger.transactions WHERE type = 'opening' GROUP BY 1 HAVING count(*) > 1"), '', 'nobody is opened twice');
is(query("SELECT count(DISTINCT user_id) FROM ledger.accounts WHERE opened = 1"), USERS - WRONG, 'everybody else is opened');
is(query('SELECT count(*) FROM ledger.reconcile() r WHERE r.status <> $$missing_ledger$$'), '0', 'ledger and legacy rows agree');
is(query(<<'SQL'), 't', 'and so do the sums');
SELECT (SELECT sum(b.pending_deposits) FROM public.balances b WHERE b.buying_power >= 0)
	= (SELECT sum(balance) FROM ledger.account_balances WHERE account_type IN ('usdc_balance', 'pending_investment'))
SQL
is(query('SELECT count(*) FROM ledger.accounts a WHERE a.user_id IS NOT NULL AND NOT EXISTS
	(SELECT FROM public.balances b WHERE b.user_id = a.user_id)'), '0', 'no account is of nobody');
ledger_ok($node, 'the ledger holds');

# What was wrong is put right, and the next run opens it.
query('UPDATE public.balances SET buying_power = 0 WHERE buying_power < 0');
query('CALL ledger.backfill()');
is(query("SELECT count(*) FROM ledger.backfill_findings WHERE status = 'open'"), '0', 'no finding is left');
is(query('SELECT count(*) FROM ledger.reconcile()'), '0', 'everybody is opened');
ledger_ok($node, 'the ledger holds in the end');

done_testing();
