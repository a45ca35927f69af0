# Bench/Rates.pm: rates and latencies with pgbench.  Rates are noisy on a shared
# machine, so what counts are ratios within a round, in which all sides run one
# after the other.

package Bench::Rates;

use strict;
use warnings;

use Exporter qw(import);
use List::Util qw(max min);
use POSIX qw(ceil);

use Bench::Scripts;
use Bench::Server;

our @EXPORT = qw(pgbench pgbench_count rounds seconds interleave ratios median);

sub rounds { return quick() ? 1 : 5 }
sub seconds { return quick() ? 1 : 2 }

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	return $sorted[$#sorted / 2];
}

sub percentile
{
	my ($p, $sorted) = @_;
	return $sorted->[max(0, ceil($p / 100 * @$sorted) - 1)];
}

# What pgbench prints, and its logs in log.*
sub run_pgbench
{
	my ($script, $how, @options) = @_;
	my %variable = variables();
	local $ENV{PGOPTIONS} = "-c synchronous_commit=$how->{sync}";
	unlink glob 'log.*';
	open my $bench, '-|', 'pgbench', '-n', '-M', 'prepared', '-c', $how->{clients},
	  '-j', min($how->{clients}, cores()), '-l', '--log-prefix=log', @options,
	  (map { ('-D', "$_=$variable{$_}") } sort keys %variable),
	  script_options($script, $how->{keys}, $how->{key})
	  or die "pgbench: $!\n";
	my $out = do { local $/; <$bench> };
	close $bench or die "pgbench failed: $script, $how->{clients} clients\n$out\n";
	return $out;
}

# For some seconds: { rate => transactions a second, p50 => ms, p99 => ms }.
sub pgbench
{
	my ($script, $how) = @_;
	my $out = run_pgbench($script, $how, '-T', $how->{seconds} // seconds());
	my ($rate) = $out =~ /^tps = ([\d.]+)/m or die "no rate: $out\n";
	my @latency;
	for my $log (glob 'log.*')
	{
		open my $in, '<', $log or die "$log: $!\n";
		while (my $line = <$in>) { push @latency, (split ' ', $line)[2] / 1000 }
		close $in;
	}
	@latency = sort { $a <=> $b } @latency;
	return { rate => $rate, p50 => percentile(50, \@latency), p99 => percentile(99, \@latency) };
}

# So many transactions in all; returns how many they were.
sub pgbench_count
{
	my ($script, $how, $count) = @_;
	my $each = ceil($count / $how->{clients});
	run_pgbench($script, $how, '-t', $each);
	return $each * $how->{clients};
}

# Rounds of all scripts, each round beginning with another one, because what
# runs first is not what runs last.  For each script its list of results.
sub interleave
{
	my ($how, @scripts) = @_;
	my %result;
	for my $round (1 .. rounds())
	{
		for my $script (@scripts) { push @{ $result{$script} }, pgbench($script, $how) }
		push @scripts, shift @scripts;
	}
	return \%result;
}

# Of each round: ours divided by theirs.
sub ratios
{
	my ($ours, $theirs, $what) = @_;
	return map { $ours->[$_]{$what} / $theirs->[$_]{$what} } 0 .. $#$ours;
}

1;
