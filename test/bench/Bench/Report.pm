# Bench/Report.pm: what was measured as Markdown, as CSV, and beside the bars.

package Bench::Report;

use strict;
use warnings;

use Exporter qw(import);
use IO::Handle;
use List::Util qw(max min);

use Bench::Rates qw(median);
use Bench::Server;

our @EXPORT = qw(heading table row csv csv_to csv_end measured not_there wanted only_bars bars);

# [key, name, must, aim]; with a fifth column less is better.  The key is what
# measured() gets: for rates id/peer/keys/synchronous_commit/clients.
my @bars = (
	[ 'instructions/transfer', 'instructions: transfer without mirror, against PL/pgSQL', 0.38, 0.30, 'less' ],
	[ 'instructions/credit', 'instructions: credit with mirror, against PL/pgSQL', 0.40, 0.33, 'less' ],
	legacy('on', 1, 0.90, 0.95), legacy('on', 8, 0.75, 0.85), legacy('on', 32, 0.75, 0.85),
	legacy('off', 1, 0.55, 0.70), legacy('off', 8, 0.55, 0.70), legacy('off', 32, 0.55, 0.70),
	rate('credit/PL/pgSQL credit with mirror', 'credit with mirror against PL/pgSQL', 'off', 8, 1.8, 2.5),
	rate('credit/PL/pgSQL credit with mirror', 'credit with mirror against PL/pgSQL', 'on', 8, 1.4, 1.8),
	rate('transfer/PL/pgSQL transfer', 'transfer against PL/pgSQL', 'off', 8, 1.8, 2.5),
	rate('transfer/PL/pgSQL transfer', 'transfer against PL/pgSQL', 'on', 8, 1.4, 1.8),
	rate('credit/application credit', 'credit with mirror against the application\'s statements', 'off', 8, 10, 15),
	rate('credit/application credit', 'credit with mirror against the application\'s statements', 'on', 8, 20, 30),
	house('on', 32), house('on', 128), house('off', 32), house('off', 128),
	rate('house/PL/pgSQL house', 'all through one house account, against PL/pgSQL', 'on', 32, 5, 8),
	[ 'batch/distinct', 'instructions: a transfer in a batch against single calls, distinct accounts', 0.70, 0.60, 'less' ],
	[ 'batch/shared', 'instructions: a transfer in a batch against single calls, one shared account', 0.50, 0.40, 'less' ],
	rate('balance/legacy SELECT', 'balance read against the legacy SELECT, without compare', 'off', 8, 0.90, 0.95),
	rate('compared/legacy SELECT', 'balance read against the legacy SELECT, with compare', 'off', 8, 0.80, 0.90),
	[ 'wal/transfer', 'WAL of a transfer without mirror, bytes', 850, 780, 'less' ],
	[ 'wal/credit', 'WAL of a credit with mirror, bytes', 1100, 980, 'less' ],
	[ 'disk/random', 'disk with all indexes a posting, random keys, bytes', 330, 280, 'less' ],
	[ 'disk/time-ordered', 'disk with all indexes a posting, time-ordered keys, bytes', 330, 280, 'less' ],
	[ 'backfill/rate', 'users a second of CPU that backfill() opens, two columns', 20_000, 30_000 ],
	[ 'reconcile/full', 'reconcile() of all against the FULL JOIN written by hand', 1.2, 1.0, 'less' ],
	[ 'reconcile/incremental', 'incremental run after 1,000 changed users against the full run', 0.01, 0.005, 'less' ],
	[ 'growth/instructions', 'instructions a posting at the largest size against at the smallest', 1.25, 1.10, 'less' ],
	[ 'growth/wal', 'WAL a posting at the largest size against at the smallest', 1.25, 1.10, 'less' ]);
my %bar = map { ($_->[0] => $_) } @bars;

sub rate
{
	my ($key, $name, $sync, $clients, $must, $aim) = @_;
	return [ "$key/uniform/$sync/$clients", "rate: $name, sync $sync, $clients clients", $must, $aim ];
}

sub legacy
{
	return rate('credit/legacy upsert', 'credit with mirror against the legacy upsert', @_);
}

sub house
{
	return rate('house/ledger transfer', 'all through one house account against uniform', @_, 0.95, 1.0);
}

my (%measured, %not_there, $csv, @csv, $only_bars);

# Whether nothing is measured but what has a bar; only_bars(1) makes it so.
sub only_bars
{
	my ($on) = @_;
	$only_bars = 1 if $on;
	return $only_bars;
}

sub wanted
{
	my ($key) = @_;
	return !$only_bars || exists $bar{$key};
}

sub measured
{
	my ($key, @values) = @_;
	$measured{$key} = [ min(@values), median(@values), max(@values) ];
	return;
}

sub not_there
{
	my ($key, $what) = @_;
	$not_there{$key} = 1;
	print "\n$what: not there\n" if $what;
	return;
}

sub heading
{
	my ($text) = @_;
	print "\n### $text\n\n";
	return;
}

# Columns whose name begins with < are text.
sub table
{
	my (@columns) = @_;
	row(map { s/^<//r } @columns);
	print '|', (map { /^</ ? '---|' : '--:|' } @columns), "\n";
	return;
}

sub row
{
	my (@cells) = @_;
	print '| ', join(' | ', @cells), " |\n";
	return;
}

# The file is one that the caller of make has opened: nobody else may write
# where he is.  Without one the lines go to the end of the report.
sub csv_to
{
	my ($descriptor) = @_;
	open $csv, '>&=', $descriptor or die "descriptor $descriptor: $!\n";
	$csv->autoflush(1);
	return;
}

sub csv_line
{
	my $line = join(',', map { /[,"]/ ? '"' . s/"/""/gr . '"' : $_ } @_) . "\n";
	print {$csv} $line if $csv;
	push @csv, $line if !$csv;
	return;
}

my $csv_begun;

# One line: { part, what, against, keys, sync, clients, unit }, and its values.
sub csv
{
	my ($about, @values) = @_;
	csv_line(qw(part what against keys synchronous_commit clients unit min median max)) if !$csv_begun++;
	csv_line((map { $about->{$_} // '' } qw(part what against keys sync clients unit)),
		map { sprintf '%.6g', $_ } min(@values), median(@values), max(@values));
	return;
}

sub csv_end
{
	print "\n```csv\n", @csv, "```\n" if @csv;
	return;
}

sub number
{
	my ($value) = @_;
	return sprintf $value >= 100 ? '%.0f' : '%.2f', $value;
}

sub verdict
{
	my ($value, $must, $aim, $less) = @_;
	($value, $must, $aim) = (-$value, -$must, -$aim) if $less;
	return $value >= $aim ? 'aim' : $value >= $must ? 'met' : '**missed**';
}

# Exact figures are one number.  Judged is the median.
sub bar_row
{
	my ($key, $name, $must, $aim, $less) = @{ $_[0] };
	my @limits = map { ($less ? '<= ' : '>= ') . number($_) } $must, $aim;
	return row($name, @limits, 'not there', '') if $not_there{$key};
	my ($min, $median, $max) = @{ $measured{$key} };
	my $verdict = verdict($median, $must, $aim, $less);
	csv({ part => 'bars', what => $name, unit => "must $must aim $aim " . $verdict =~ tr/*//dr }, $min, $median, $max);
	return row($name, @limits, join(', ', map { number($_) } $min == $max ? $median : ($min, $median, $max)), $verdict);
}

# Those bars for which this run has measured something.
sub bars
{
	my @rows = grep { $measured{ $_->[0] } || $not_there{ $_->[0] } } @bars;
	return if !@rows;
	heading('Bars');
	table('<bar', 'must', 'aim', 'measured (min, median, max)', '<verdict');
	bar_row($_) for @rows;
	return;
}

1;
