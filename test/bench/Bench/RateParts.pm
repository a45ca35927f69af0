# Bench/RateParts.pm: the parts of the bench that are rates: which script runs
# beside which, over which keys, with how many clients.

package Bench::RateParts;

use strict;
use warnings;

use Exporter qw(import);

use Bench::Exact;
use Bench::Rates;
use Bench::Report;
use Bench::Scripts;
use Bench::Server;

our @EXPORT = qw(rate_part user_peer);

my $plpgsql_credit = 'PL/pgSQL credit with mirror';

# id: of the bars; before: what the new database needs; quick and quick_sync:
# clients and synchronous_commit of a quick run, unless 8 and off.
my %parts = (
	credit => [
		{
			id => 'credit',
			title => 'Credit with mirror and compare',
			ours => 'ledger credit',
			peers => [ 'legacy upsert', $plpgsql_credit, 'application credit' ],
			clients => [ 1, 2, 8, 32, 128 ],
			quick_sync => [ 'on', 'off' ],
		}
	],
	keys => [
		{
			id => 'credit',
			title => 'Credit with mirror, keys that are not uniform',
			ours => 'ledger credit',
			peers => [ 'legacy upsert', $plpgsql_credit ],
			keys => [ 'Zipf', 'one user' ],
			clients => [ 8, 32 ],
		}
	],
	transfer => [
		{
			id => 'transfer',
			title => 'Transfer between two users\' accounts, without mirror',
			before => \&detach,
			ours => 'ledger transfer',
			peers => ['PL/pgSQL transfer'],
			clients => [ 1, 8, 32 ],
		},
		{
			id => 'plain credit',
			title => 'Credit without mirror',
			before => \&detach,
			ours => 'ledger credit',
			peers => ['PL/pgSQL credit'],
			clients => [8],
		}
	],
	house => [
		{
			id => 'house',
			title => 'All through one house account, against transfers between many',
			before => \&detach,
			ours => 'ledger house',
			peers => [ 'ledger transfer', 'PL/pgSQL house' ],
			clients => [ 32, 128 ],
			quick => [32],
		}
	],
	reserve => [
		{
			id => 'reserve',
			title => 'Reserve and execute, two transactions, with mirror',
			ours => 'ledger reserve and execute',
			peers => ['PL/pgSQL reserve and execute'],
			clients => [ 1, 8, 32 ],
		}
	],
	balance => [
		{
			id => 'balance',
			title => 'Balance read without compare',
			before => sub { shadow_mode('false') },
			ours => 'ledger balance',
			peers => ['legacy SELECT'],
			clients => [ 1, 8, 32 ],
			sync => ['off'],
		},
		{
			id => 'compared',
			title => 'Balance read with compare',
			ours => 'ledger balance',
			peers => ['legacy SELECT'],
			clients => [ 1, 8, 32 ],
			sync => ['off'],
		}
	],
	mixed => [
		{
			id => 'mixed',
			title => 'Mixed: 60 % balance, 25 % credit, 15 % reserve and execute, with mirror',
			ours => 'ledger mixed',
			peers => ['PL/pgSQL mixed'],
			keys => [ 'uniform', 'Zipf' ],
			clients => [ 8, 32 ],
		}
	]);

# user_peer($script): another ledger that the user has named, measured beside
# that script of ours.
sub user_peer
{
	my ($ours) = @_;
	open my $in, '<', "$tmp/peer.bench" or die "$tmp/peer.bench: $!\n";
	define_script('peer', do { local $/; <$in> });
	close $in;
	$parts{peer} = [
		{
			id => 'peer',
			title => 'Another ledger (PEER_SQL, PEER_BENCH)',
			files => ["$tmp/peer.sql"],
			before => $ours eq 'credit' ? sub { } : \&detach,
			ours => "ledger $ours",
			peers => ['peer'],
			clients => [ 1, 8, 32 ],
			after => \&peer_wal,
		}
	];
	return;
}

# One row for each peer, and lines of CSV for every side.
sub report
{
	my ($rate, $how, $result) = @_;
	my $ours = $result->{ $rate->{ours} };
	my %about = (part => $rate->{id}, keys => $how->{keys}, sync => $how->{sync}, clients => $how->{clients});
	for my $script (sort keys %$result)
	{
		for my $unit ([ rate => 'transactions/s' ], [ p50 => 'ms p50' ], [ p99 => 'ms p99' ])
		{
			csv({ %about, what => $script, unit => $unit->[1] }, map { $_->{ $unit->[0] } } @{ $result->{$script} });
		}
	}
	for my $peer (grep { $result->{$_} } @{ $rate->{peers} })
	{
		my @ratios = ratios($ours, $result->{$peer}, 'rate');
		measured(rate_key($rate, $peer, $how), @ratios);
		csv({ %about, what => $rate->{ours}, against => $peer, unit => 'ratio of rates' }, @ratios);
		row($peer, $how->{keys}, $how->{sync}, $how->{clients}, cells($ours, $result->{$peer}, @ratios));
	}
	return;
}

sub cells
{
	my ($ours, $theirs, @ratios) = @_;
	my @sorted = sort { $a <=> $b } @ratios;
	my $middle = sub { my ($side, $what) = @_; return median(map { $_->{$what} } @$side) };
	return (
		(map { sprintf '%.0f', $middle->($_, 'rate') } $theirs, $ours),
		sprintf('**%.2f**', median(@ratios)),
		sprintf('%.2f - %.2f', $sorted[0], $sorted[-1]),
		map { sprintf '%.2f, %.2f', $middle->($theirs, $_), $middle->($ours, $_) } 'p50', 'p99');
}

sub rate_key
{
	my ($rate, $peer, $how) = @_;
	return "$rate->{id}/$peer/$how->{keys}/$how->{sync}/$how->{clients}";
}

sub synchronous_commit
{
	my ($rate) = @_;
	return @{ $rate->{quick_sync} // ['off'] } if quick();
	return @{ $rate->{sync} // [ 'on', 'off' ] };
}

# Every combination of keys, synchronous_commit and clients: [how, peers wanted].
sub combinations
{
	my ($rate) = @_;
	my @all;
	for my $keys (@{ $rate->{keys} // ['uniform'] })
	{
		for my $sync (synchronous_commit($rate))
		{
			for my $clients (@{ quick() ? $rate->{quick} // [8] : $rate->{clients} })
			{
				my $how = { keys => $keys, sync => $sync, clients => $clients };
				my @peers = grep { wanted(rate_key($rate, $_, $how)) } @{ $rate->{peers} };
				push @all, [ $how, @peers ] if @peers;
			}
		}
	}
	return @all;
}

sub measure
{
	my ($rate) = @_;
	my @combinations = combinations($rate) or return;
	fresh_database(@{ $rate->{files} // [] });
	$rate->{before}->() if $rate->{before};
	heading("$rate->{title}: $rate->{ours}");
	table('<against', '<keys', '<synchronous_commit', 'clients', 'theirs/s', 'ours/s', 'ratio', 'min - max',
		'ms p50, theirs and ours', 'ms p99, theirs and ours');
	for my $combination (@combinations)
	{
		my ($how, @peers) = @$combination;
		report($rate, $how, interleave($how, $rate->{ours}, @peers));
	}
	$rate->{after}->($rate) if $rate->{after};
	return;
}

# WAL of what a user has named, which may be more than one statement.
sub peer_wal
{
	my ($rate) = @_;
	heading('WAL a transaction, without full-page images');
	table('<script', 'bytes', 'records');
	for my $script ('peer', $rate->{ours})
	{
		my $from = sql('SELECT pg_current_wal_insert_lsn()');
		my $n = pgbench_count($script, { keys => 'uniform', sync => 'off', clients => 1 }, quick() ? 200 : 5000);
		my ($bytes, $records) = wal_between($from, sql('SELECT pg_current_wal_insert_lsn()'));
		row($script, sprintf('%.0f', $bytes / $n), sprintf('%.1f', $records / $n));
		csv({ part => 'peer', what => $script, unit => 'WAL bytes' }, $bytes / $n);
		csv({ part => 'peer', what => $script, unit => 'WAL records' }, $records / $n);
	}
	return;
}

sub rate_part
{
	my ($name) = @_;
	measure($_) for @{ $parts{$name} };
	return;
}

1;
