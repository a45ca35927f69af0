# Hazard 30: backfill() beside old writers, who update their rows, and new ones,
# who call the ledger; its backend or the postmaster is killed twenty times.
# Each user is opened once, the sums are exact, and it ends.

use strict;
use warnings;

use List::Util qw(shuffle);
use Test::More;
use Time::HiRes qw(sleep);

use LedgerTest;

use constant {
	USERS => 5_000,
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

# The same over a restart, which need not have begun yet.
sub patient
{
	my ($sql) = @_;
	my $answer;

	wait_until(120, sub { defined($answer = eval { query($sql) }) }) or die "the server does not come back\n";
	return $answer;
}

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

# Old writers touch two users' rows, in any order, in one transaction, each those of
# every other user: they are not to be each other's deadlock. They change no
# balance: what is captured is not posted, and would part the two sides.
sub old_writer
{
	my ($db, $odd) = @_;
	my ($one, $two) = map { WRONG + 1 + $odd + 2 * int rand((USERS - WRONG) / 2) } 1, 2;

	$db->do("DO \$\$ BEGIN
		UPDATE public.balances SET updated_at = now() WHERE user_id = customer($one);
		PERFORM pg_sleep(0.002);
		UPDATE public.balances SET updated_at = now() WHERE user_id = customer($two); END \$\$");
}

# Others change the balance of who is not opened yet, which they look at under the lock.
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
	[ 1, sub { old_writer($_[0], 0) } ], [ 2, sub { old_writer($_[0], 1) } ], [ 3, \&depositor ], [ 4, \&new_writer ], [ 5, \&new_writer ];

# Called again and again, in small batches so that there is always something to kill.
my %kill_the_server = map { $_ => 1 } (shuffle(1 .. KILLS))[ 0 .. OF_THE_SERVER - 1 ];
my $kills = 0;
my $users = USERS;

for (my $rounds = 0; $kills < KILLS && $rounds < 3 * KILLS; $rounds++)
{
	my $n = $kills + 1;
	my $backfill = client(sub {
		my $db;

		wait_until(120, sub { $db = eval { connection($node) } });
		eval { $db->do('CALL ledger.backfill(1)') };
	});
	my $pid;

	wait_until(30, sub { $pid = patient('SELECT ledger.backfill_pid()') });
	sleep rand 0.1;
	if ($kill_the_server{$n})
	{
		patient('SELECT true');
		kill_and_start($node);
	}
	elsif ($pid)
	{
		# which takes all others with it: it may have left anything in shared memory
		kill 'KILL', $pid;
	}
	await($backfill);
	my $status = patient('SELECT status FROM ledger.backfill_progress ORDER BY run_id DESC LIMIT 1');

	$kills++ if $pid && $status eq 'interrupted';
	next if $status ne 'finished';
	# it was too fast: there is more to do, and another run
	patient(sprintf 'INSERT INTO public.balances (user_id, buying_power, pending_deposits)'
		. ' SELECT customer(n), 1, n FROM generate_series(%d, %d) n ON CONFLICT DO NOTHING', $users + 1, $users + USERS);
	$users += USERS;
}
is($kills, KILLS, 'killed so many times while it ran');
note(patient('SELECT status, phase, seen, opened, already, waiting FROM ledger.backfill_progress ORDER BY run_id'));

patient('CALL ledger.backfill()');
unlink $going;
is(await(@clients), 0, 'no client failed, none was the victim of a deadlock');

is(query("SELECT count(*) FROM ledger.backfill_runs WHERE finished_at IS NULL"), '0', 'calls went on with what was not finished');
is(query("SELECT DISTINCT status, phase, waiting FROM ledger.backfill_progress"), 'finished|done|0', 'and it has ended');
is(query("SELECT count(*) FROM ledger.backfill_findings WHERE status = 'open'"), WRONG, 'what was wrong is found, once each');
is(query("SELECT user_id, count(*) FROM ledger.transactions WHERE type = 'opening' GROUP BY 1 HAVING count(*) > 1"), '', 'nobody is opened twice');
is(query("SELECT count(DISTINCT user_id) FROM ledger.accounts WHERE opened = 1"), $users - WRONG, 'everybody else is opened');
is(query('SELECT count(*) FROM ledger.reconcile() r WHERE r.status <> $$missing_ledger$$'), '0', 'ledger and legacy rows agree');
is(query(<<'SQL'), 't', 'and so do the sums');
SELECT (SELECT sum(b.pending_deposits) FROM public.balances b WHERE b.buying_power >= 0)
	= (SELECT sum(balance) FROM ledger.account_balances WHERE account_type IN ('usdc_balance', 'pending_investment'))
SQL
is(query('SELECT count(*) FROM ledger.accounts a WHERE a.user_id IS NOT NULL AND NOT EXISTS
	(SELECT FROM public.balances b WHERE b.user_id = a.user_id)'), '0', 'no account is of nobody');
query('ANALYZE');
ledger_ok($node, 'the ledger holds');

# What was wrong is put right, and the next run opens it.
query('UPDATE public.balances SET buying_power = 0 WHERE buying_power < 0');
query('CALL ledger.backfill()');
is(query("SELECT count(*) FROM ledger.backfill_findings WHERE status = 'open'"), '0', 'no finding is left');
is(query('SELECT count(*) FROM ledger.reconcile()'), '0', 'everybody is opened');
ledger_ok($node, 'the ledger holds in the end');

done_testing();
