# Bench/Exact.pm: what comes out the same on a busy machine: instructions,
# WAL, disk, HOT updates; and CPU.

package Bench::Exact;

use strict;
use warnings;

use Exporter qw(import);
use POSIX ();

use Bench::Server;

our @EXPORT = qw(wal wal_between instructions cpu size hot_updates);

# WAL bytes and records between two places, without full-page images.
sub wal_between
{
	my ($from, $to) = @_;

	# pg_waldump has nothing to tell of nothing
	return (0, 0) if $from eq $to;
	my $stats = `pg_waldump --stats -p "$ENV{PGDATA}/pg_wal" -s $from -e $to 2>/dev/null`;
	my ($records, $bytes) = $stats =~ /^Total\s+(\d+)(?:\s+\[\S+\])?\s+(\d+)/m or die "no WAL statistics\n$stats\n";
	return ($bytes, $records);
}

# WAL bytes and records a call of n, one transaction each.
sub wal
{
	my ($call, $n) = @_;
	open my $file, '>', 'calls.sql' or die "calls.sql: $!\n";
	print {$file} "$call\n" x $n;
	close $file;
	sql('CHECKPOINT');
	my $from = sql('SELECT pg_current_wal_insert_lsn()');
	run('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', 'calls.sql', '-o', '/dev/null');
	my ($bytes, $records) = wal_between($from, sql('SELECT pg_current_wal_insert_lsn()'));
	return ($bytes / $n, $records / $n);
}

# All that one backend alone executes, from its start to its end.
sub collected
{
	my (@lines) = @_;
	my $log = "$tmp/callgrind.log";
	open my $backend, '|-', 'valgrind --tool=callgrind --callgrind-out-file=/dev/null'
	  . " --log-file=$log \"\$(pg_config --bindir)/postgres\" --single -D \"$ENV{PGDATA}\""
	  . " $ENV{PGDATABASE} >backend.log 2>&1" or die "valgrind: $!\n";
	print {$backend} @lines;
	close $backend or die "a backend failed under callgrind\n";
	open my $in, '<', $log or die "$log: $!\n";
	my ($count) = join('', <$in>) =~ /Collected : (\d+)/ or die "no count\n";
	close $in;
	refuse_errors();
	return $count;
}

# A backend alone goes on after an error, which must not count as a cheap call.
sub refuse_errors
{
	open my $in, '<', 'backend.log' or die "backend.log: $!\n";
	my @errors = grep { /ERROR|FATAL|PANIC/ } <$in>;
	close $in;
	die "under callgrind: $errors[0]" if @errors;
	return;
}

# Instructions of one call: many of them less few of them, in one backend.
# Prepared once, as drivers do.  The server must be stopped.
sub instructions
{
	my ($call, $n) = @_;
	my @total = map { collected("PREPARE c AS $call\n", "EXECUTE c;\n" x $_) } $n / 10, $n;
	return ($total[1] - $total[0]) / ($n - $n / 10);
}

# CPU microseconds of n calls in one session, separate or in one transaction.
sub cpu
{
	my ($call, $n, $together) = @_;
	(my $one = $call) =~ s/^SELECT |;$//g;
	my $tick = 1e6 / POSIX::sysconf(POSIX::_SC_CLK_TCK());
	my $stat = q{SELECT split_part(s, ' ', 14)::bigint + split_part(s, ' ', 15)::bigint }
	  . q{FROM (SELECT regexp_replace(pg_read_file('/proc/self/stat'), '^.*\) ', '1 2 ') s) x;};
	my $loop = $together
	  ? "DO \$\$ BEGIN FOR i IN 1..$n LOOP PERFORM $one; END LOOP; END \$\$;"
	  : "CREATE PROCEDURE bench_loop() LANGUAGE plpgsql AS \$\$ BEGIN FOR i IN 1..$n LOOP PERFORM $one; COMMIT; "
	  . "END LOOP; END \$\$;\nCALL bench_loop();\nDROP PROCEDURE bench_loop();";
	open my $file, '>', 'cpu.sql' or die "cpu.sql: $!\n";
	print {$file} "$stat\n$loop\n$stat\n";
	close $file;
	my @answers = grep { /^\d+$/ } split /\n/, `psql -XAtq -v ON_ERROR_STOP=1 -f cpu.sql`;
	die "no times of $call\n" if @answers != 2;
	return ($answers[1] - $answers[0]) * $tick / $n;
}

# Bytes of tables with all indexes.
sub size
{
	my (@tables) = @_;
	return sql('SELECT sum(pg_total_relation_size(t::regclass)) FROM unnest(ARRAY['
		  . join(', ', map { "'$_'" } @tables) . ']) t');
}

# Since pg_stat_reset(): [table, updates, share of HOT updates].
sub hot_updates
{
	my $rows = sql(q{SELECT schemaname || '.' || relname, n_tup_upd, n_tup_hot_upd::float8 / n_tup_upd}
		  . q{ FROM pg_stat_user_tables WHERE n_tup_upd > 0 ORDER BY 1});
	return map { [ split /\|/ ] } split /\n/, $rows;
}

1;
