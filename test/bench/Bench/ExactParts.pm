# Bench/ExactParts.pm: the parts of the bench that are exact figures: calls,
# CPU, disk, HOT updates, batches.

package Bench::ExactParts;

use strict;
use warnings;

use Exporter qw(import);

use Bench::Batch;
use Bench::Exact;
use Bench::Rates;
use Bench::Report;
use Bench::Scripts;
use Bench::Server;

our @EXPORT = qw(exact_part cpu_part disk_part hot_part batch_part);

my %about = (part => 'exact', keys => 'random');

# The calls in one database, [name, what to call it]: WAL while the server
# runs, instructions while it does not.  For each name a record.
sub exact_figures
{
	my (@calls) = @_;
	my %figures;
	for my $call (@calls)
	{
		my ($bytes, $records) = wal(call($call->[0]), quick() ? 200 : 5000);
		$figures{ $call->[1] } = { bytes => $bytes, records => $records };
	}
	server('stop');
	$figures{ $_->[1] }{instructions} = instructions(call($_->[0]), quick() ? 100 : 1000) for @calls;
	server('start');
	for my $name (map { $_->[1] } @calls)
	{
		my $f = $figures{$name};
		row($name, map { sprintf $_->[0], $f->{ $_->[1] } } [ '%.0f', 'instructions' ], [ '%.0f', 'bytes' ], [ '%.1f', 'records' ]);
		csv({ %about, what => $name, unit => $_->[0] }, $f->{ $_->[1] })
		  for [ 'instructions', 'instructions' ], [ 'WAL bytes', 'bytes' ], [ 'WAL records', 'records' ];
	}
	return \%figures;
}

# Those calls on which a bar rests come first in each list, ours and the peer's.
sub exact_calls
{
	my ($mirror) = @_;
	my @calls = $mirror
	  ? ([ 'ledger credit', 'credit with mirror' ],
		[ 'PL/pgSQL credit with mirror', 'PL/pgSQL credit with mirror' ],
		[ 'legacy upsert', 'legacy upsert' ],
		[ 'ledger reserve and execute', 'reserve and execute with mirror' ],
		[ 'PL/pgSQL reserve and execute', 'PL/pgSQL reserve and execute with mirror' ],
		[ 'ledger balance', 'balance with compare' ],
		[ 'legacy SELECT', 'legacy SELECT' ])
	  : ([ 'ledger transfer', 'transfer' ],
		[ 'PL/pgSQL transfer', 'PL/pgSQL transfer' ],
		[ 'ledger credit', 'credit' ],
		[ 'PL/pgSQL credit', 'PL/pgSQL credit' ],
		[ 'ledger balance', 'balance' ]);
	return only_bars() || quick() ? @calls[ 0, 1 ] : @calls;
}

sub exact_part
{
	fresh_database();
	heading('Exact figures of one call');
	table('<call', 'instructions', 'WAL bytes', 'WAL records');
	my $mirror = exact_figures(exact_calls(1));
	detach();
	my $plain = exact_figures(exact_calls(0));
	measured('instructions/credit',
		$mirror->{'credit with mirror'}{instructions} / $mirror->{'PL/pgSQL credit with mirror'}{instructions});
	measured('instructions/transfer', $plain->{transfer}{instructions} / $plain->{'PL/pgSQL transfer'}{instructions});
	measured('wal/credit', $mirror->{'credit with mirror'}{bytes});
	measured('wal/transfer', $plain->{transfer}{bytes});
	return;
}

sub cpu_part
{
	return if only_bars();
	my $n = quick() ? 2000 : 100_000;
	fresh_database();
	detach();
	heading("CPU of the backend, us a call, $n calls each way");
	table('<call', 'one transaction each', 'all in one transaction');
	for my $name ('PL/pgSQL credit', 'ledger credit')
	{
		my @us = map { cpu(call($name), $n, $_) } 0, 1;
		row($name, map { sprintf '%.1f', $_ } @us);
		csv({ part => 'cpu', what => $name, unit => 'us' }, $us[0]);
		csv({ part => 'cpu', what => "$name, all in one transaction", unit => 'us' }, $us[1]);
	}
	return;
}

# What grows with each posting of a side.
my %tables = ('ledger transfer' => ['ledger.journal'], 'PL/pgSQL transfer' => [ 'peer.transactions', 'peer.entries' ]);

sub disk_part
{
	my $n = quick() ? 4000 : 100_000;
	heading("Disk with all indexes, bytes a posting, $n transfers");
	table('<script', '<keys', 'bytes');
	my %key = (random => 'gen_random_uuid()', 'time-ordered' => 'uuid_v7()');
	for my $script (only_bars() || quick() ? 'ledger transfer' : ('ledger transfer', 'PL/pgSQL transfer'))
	{
		for my $kind ('random', 'time-ordered')
		{
			fresh_database();
			detach();
			my $before = size(@{ $tables{$script} });
			my $count = pgbench_count($script, { keys => 'uniform', key => $key{$kind}, sync => 'off', clients => 4 }, $n);
			my $bytes = (size(@{ $tables{$script} }) - $before) / $count;
			row($script, $kind, sprintf '%.0f', $bytes);
			csv({ part => 'disk', what => $script, keys => $kind, unit => 'bytes' }, $bytes);
			measured("disk/$kind", $bytes) if $script eq 'ledger transfer';
		}
	}
	return;
}

sub hot_part
{
	return if only_bars();
	fresh_database();
	heading('HOT share of updates, 8 clients');
	table('<script', '<table', 'updates', 'HOT');
	hot_rows('legacy upsert', 'PL/pgSQL credit with mirror', 'ledger credit');
	detach();
	hot_rows('ledger transfer', 'ledger house');
	return;
}

sub hot_rows
{
	my (@scripts) = @_;
	for my $script (@scripts)
	{
		sql('SELECT pg_stat_reset()');
		pgbench_count($script, { keys => 'uniform', sync => 'off', clients => 8 }, quick() ? 2000 : 40_000);
		for my $row (hot_updates())
		{
			my ($table, $updates, $hot) = @$row;
			row($script, $table, $updates, sprintf '%.3f', $hot);
			csv({ part => 'hot', what => "$script, $table", unit => 'share of updates' }, $hot);
		}
	}
	return;
}

# A transfer of a batch against a call for each.  The making of the array counts as
# the batch's, because somebody has to make it.
sub batch_part
{
	if (!exists_batch())
	{
		not_there('batch/distinct', 'ledger.post_batch()');
		not_there('batch/shared');
		return;
	}
	my $n = quick() ? 400 : 8000;
	fresh_database();
	detach();
	heading("Batches of $n, instructions a transfer");
	table('<accounts', 'single call', 'in a batch', 'ratio');
	# a batch is made with the type's columns, which only a running server tells
	my @kinds = map { [ @$_, batch_call($_->[0], $n) ] } [ 'distinct', 'ledger transfer' ], [ 'shared', 'ledger house' ];
	server('stop');
	for my $kind (@kinds)
	{
		my $single = instructions(call($kind->[1]), quick() ? 100 : 1000);
		my $batch = instructions($kind->[2], 10) / $n;
		row($kind->[0], (map { sprintf '%.0f', $_ } $single, $batch), sprintf '**%.2f**', $batch / $single);
		csv({ part => 'batch', what => "$n, $kind->[0]", unit => 'instructions' }, $batch);
		csv({ part => 'batch', what => "single, $kind->[0]", unit => 'instructions' }, $single);
		measured("batch/$kind->[0]", $batch / $single);
	}
	server('start');
	return;
}

1;
