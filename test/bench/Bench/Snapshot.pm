# Bench/Snapshot.pm: what one long snapshot does to rows that everybody
# updates: while it lasts no dead version of them can be removed.

package Bench::Snapshot;

use strict;
use warnings;

use Exporter qw(import);

use Bench::Exact;
use Bench::Rates;
use Bench::Report;
use Bench::Scripts;
use Bench::Server;

our @EXPORT = qw(snapshot_part);

# Credits by post(): to one user from the house, and from the house to all.
my @cases = ([ 'to one user', 'one user' ], [ 'through one house account', 'uniform' ]);

sub snapshot_part
{
	return if only_bars();
	my @chosen = quick() ? $cases[0] : @cases;
	heading('One long snapshot: rate and latency, 8 clients, synchronous_commit off');
	table('<credits', '<when', 'per second', 'ms p50', 'ms p99');
	for my $case (@chosen) { rates(@$case) }
	heading('One long snapshot: instructions of a call');
	table('<credits', 'before', 'during', 'after', 'after VACUUM');
	for my $case (@chosen) { counts(@$case) }
	return;
}

sub rate_row
{
	my ($case, $when, $result) = @_;
	row($case, $when, sprintf('%.0f', $result->{rate}), map { sprintf '%.2f', $result->{$_} } 'p50', 'p99');
	csv({ part => 'snapshot', what => "$case, $when", sync => 'off', clients => 8, unit => $_->[1] }, $result->{ $_->[0] })
	  for [ rate => 'transactions/s' ], [ p50 => 'ms p50' ], [ p99 => 'ms p99' ];
	return;
}

# The snapshot is one of an idle session; it has it from its first query on.
sub rates
{
	my ($case, $keys) = @_;
	my $how = { keys => $keys, sync => 'off', clients => 8, seconds => quick() ? 1 : 4 };
	fresh_database();
	detach();
	rate_row($case, 'before', pgbench('ledger house', $how));
	open my $session, '|-', 'psql', '-Xq', '-o', "$tmp/snapshot.txt" or die "psql: $!\n";
	$session->autoflush(1);
	print {$session} "BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT count(*) FROM balances;\n";
	select undef, undef, undef, 0.1 while !-s "$tmp/snapshot.txt";
	rate_row($case, "during, slice $_", pgbench('ledger house', $how)) for 1 .. (quick() ? 1 : 3);
	print {$session} "COMMIT;\n";
	close $session or die "the session with the snapshot failed\n";
	unlink "$tmp/snapshot.txt";
	rate_row($case, 'after', pgbench('ledger house', $how));
	return;
}

# Under callgrind a backend is alone, so a prepared transaction keeps the dead
# versions: it survives the server's stop, and holds back as a snapshot does.
sub counts
{
	my ($case, $keys) = @_;
	my $n = quick() ? 1000 : 20_000;
	fresh_database();
	detach();
	my @counts = count_once();
	sql(q{BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'bench'});
	pgbench_count('ledger house', { keys => $keys, sync => 'off', clients => 8 }, $n);
	push @counts, count_once();
	sql(q{COMMIT PREPARED 'bench'});
	push @counts, count_once();
	sql('VACUUM');
	push @counts, count_once();
	row("$case, $n under the snapshot", map { sprintf '%.0f', $_ } @counts);
	my @when = ('before', 'during', 'after', 'after VACUUM');
	csv({ part => 'snapshot', what => "$case, $when[$_]", unit => 'instructions' }, $counts[$_]) for 0 .. $#when;
	return;
}

sub count_once
{
	server('stop');
	my $count = instructions(call('ledger house'), quick() ? 50 : 500);
	server('start');
	return $count;
}

1;
