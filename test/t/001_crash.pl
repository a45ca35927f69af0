# Kills the server, or one of its processes, under load, five times.  What was
# acknowledged is there afterwards; what was not is there wholly or not at all.

use strict;
use warnings;

use IO::Handle;
use Test::More;
use Time::HiRes qw(sleep);

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use constant {
	CUSTOMERS => 20,
	CLIENTS => 4,
	SECONDS => 2,				# at least, until each has got something done
};

my $node = ledger_node('crash', <<CONF);
fsync = on
restart_after_crash = on
max_wal_size = 64MB
CONF
load_ledger($node);
legacy_table($node, CUSTOMERS);
attach($node, 'shadow_mode => true');

# The load without keys to remember: pgbench.  It refuses to go below zero.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION customer(n int) RETURNS uuid IMMUTABLE
	RETURN ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid;
CREATE FUNCTION attempt(call text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	id bigint;
BEGIN
	EXECUTE 'SELECT ' || call INTO id;
	RETURN id;
EXCEPTION WHEN SQLSTATE 'LG001' OR SQLSTATE 'LG008' THEN
	RETURN NULL;
END
$$;
SQL

my %scripts = (
	credit => <<'SQL',
\set n random(1, 25)
SELECT ledger.credit_user_usdc(customer(:n), 1 + :n / 100.0, 'load', gen_random_uuid());
SQL
	debit => <<'SQL',
\set n random(1, 25)
SELECT attempt(format('ledger.debit_user_usdc(%L, 3.5, %L)', customer(:n), 'load'));
SQL
	convert => <<'SQL',
\set n random(1, 25)
SELECT attempt(format('ledger.move_funds_to_fiat_exposure(%L, 2, %L)', customer(:n), 'load'));
SELECT attempt(format('ledger.move_funds_to_usdc(%L, 1, %L)', customer(:n), 'load'));
SQL
	invest => <<'SQL',
\set n random(1, 20)
SELECT gen_random_uuid() AS o \gset
BEGIN;
SELECT attempt(format('ledger.reserve_for_investment(%L, 10, %L)', customer(:n), ':o'));
SAVEPOINT fill;
SELECT attempt(format('ledger.execute_investment(%L, 4, %L, %L)', customer(:n), ':o', 'a'));
ROLLBACK TO fill;
SELECT attempt(format('ledger.execute_investment(%L, 3, %L, %L)', customer(:n), ':o', 'b'));
COMMIT;
SELECT attempt(format('ledger.release_reservation(%L, NULL, %L)', customer(:n), ':o'));
SQL
	house => <<'SQL');
SELECT ledger.replenish_buffer('system_buffer_usdc', 5, gen_random_uuid());
SELECT ledger.convert_buffer('system_buffer_usdc', 'system_buffer_fiat', 2, 1.99);
SQL
my @files;
foreach my $name (sort keys %scripts)
{
	push @files, '-f', $node->basedir . "/$name.sql";
	append_to_file($files[-1], $scripts{$name});
}

# A client that writes down what it is about to post, and that it is there.
# Each of its transactions has three keys, which go together.
sub remember
{
	my ($round, $number, $log) = @_;
	my $db = connection($node, AutoCommit => 0);
	my $customer = customer($number);

	for (my $n = 1;; $n++)
	{
		my ($deposit, $order) =
		  map { sprintf('%d%03d%04d-0000-4000-8000-%012d', $_, $round, $number, $n) } 1, 2;
		my @keys = (
			"credit_user_usdc:deposit:$deposit", "reserve_for_investment:order:$order",
			"execute_investment:$order:first");

		print $log "try @keys\n";
		my $done = eval {
			$db->do('SELECT ledger.credit_user_usdc(?, 7, ?, ?)', undef, $customer, 'kept', $deposit);
			$db->do('SELECT ledger.reserve_for_investment(?, 6, ?)', undef, $customer, $order);
			$db->do('SELECT ledger.execute_investment(?, 5, ?, ?)', undef, $customer, $order, 'first');
			$db->commit;
		};
		if ($done)
		{
			print $log "ack @keys\n";
		}
		elsif ($db->state eq '40P01')
		{
			# several calls in one transaction: documented, to be tried again
			$db->rollback;
		}
		else
		{
			print $log 'end ', $db->state, "\n";
			$db->{InactiveDestroy} = 1;
			return;
		}
	}
}

# Five kinds of end; each returns when the server takes connections again.
my %ends = (
	'postmaster killed' => sub { kill_and_start($node) },
	'immediate stop' => sub { $node->stop('immediate'); $node->start; },
	'backend killed' => sub { kill_backend(qr/client backend/); },
	'checkpointer killed' => sub { kill_backend(qr/checkpointer/); },
	'wal writer killed in a checkpoint' => sub {
		my $checkpoint = client(sub { connection($node)->do('CHECKPOINT') });
		kill_backend(qr/walwriter/);
		await($checkpoint);
	},
);

sub kill_backend
{
	my ($kind) = @_;
	my $db = connection($node);
	my $found = $db->selectall_arrayref('SELECT pid, backend_type FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
	my ($victim) = map { $_->[0] } grep { $_->[1] =~ $kind } @$found;

	kill_process($node, $victim // die "no $kind\n");
}

# How many transactions pgbench has committed.
sub loaded
{
	return $node->safe_psql('postgres', q{SELECT count(*) FROM ledger.transactions WHERE description = 'load'});
}

sub verdicts
{
	my (@logs) = @_;
	my $db = connection($node);
	my %count = (acked => 0, lost => 0, torn => 0, open => 0);

	foreach my $log (@logs)
	{
		my (%acked, @tried);

		foreach my $line (split /\n/, slurp_file($log))
		{
			my ($word, $keys) = split ' ', $line, 2;
			$acked{$keys} = 1 if $word eq 'ack';
			push @tried, $keys if $word eq 'try';
		}
		foreach my $keys (@tried)
		{
			my $there = grep {
				$db->selectrow_array('SELECT ledger.find_transaction(?)', undef, $_)
			} split ' ', $keys;

			$count{ $acked{$keys} ? 'acked' : 'open' }++;
			$count{lost}++ if $acked{$keys} && $there < 3;
			$count{torn}++ if $there != 0 && $there != 3;
		}
	}
	return \%count;
}

my $round = 0;
foreach my $end (sort keys %ends)
{
	$round++;
	my $loaded = loaded();
	my @logs = map { $node->basedir . "/round$round.$_" } 1 .. CLIENTS;
	my @clients = map {
		my $number = $_;
		client(
			sub {
				open my $log, '>', $logs[ $number - 1 ] or die "$!\n";
				$log->autoflush(1);
				remember($round, $number, $log);
			});
	} 1 .. CLIENTS;
	my $bench = IPC::Run::start(
		[ 'pgbench', '-n', '-c', CLIENTS, '-T', 600, '-h', $node->host, '-p', $node->port, @files, 'postgres' ],
		'<', \undef, '>', \my $out, '2>', \my $err);

	sleep SECONDS;
	wait_until(120, sub {
		(!grep { !-e $_ || slurp_file($_) !~ /^ack/m } @logs) && loaded() > $loaded + 10 });
	$ends{$end}->();
	is(await(@clients), 0, "$end: the clients ran to the end");
	eval { $bench->finish };
	unlike($err, qr/ERROR/, "$end: pgbench met no error") or diag($err);

	my $count = verdicts(@logs);
	cmp_ok($count->{acked}, '>', 0, "$end: something was acknowledged");
	is($count->{lost}, 0, "$end: nothing that was acknowledged is lost");
	is($count->{torn}, 0, "$end: every transaction is there wholly or not at all");
	ledger_ok($node, "$end: the ledger holds");
	cmp_ok(loaded(), '>', $loaded, "$end: pgbench had posted, too");
	note("$end: $count->{acked} acknowledged, $count->{open} not");
}

is($node->safe_psql('postgres', 'SELECT count(*) FROM ledger.discrepancies'),
	'0', 'no discrepancy was found on the way');
# also whom none of the clients has happened to meet
$node->safe_psql('postgres', "SELECT ledger.credit_user_usdc(customer(n), 1, 'the last') FROM generate_series(1, ${\CUSTOMERS}) n");
is($node->safe_psql('postgres', q{SELECT count(*) FROM ledger.journal WHERE type = 'opening'}),
	CUSTOMERS, 'every customer was opened once');
$node->stop;
done_testing();
