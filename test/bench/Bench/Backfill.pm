# Bench/Backfill.pm: the opening of all who have a legacy row. Random uuids, two
# mapped columns; the same on a table that runs its owner's code, by SQL.

package Bench::Backfill;

use strict;
use warnings;

use Exporter qw(import);
use POSIX ();
use Time::HiRes qw(time);

use Bench::Exact;
use Bench::Report;
use Bench::Server;

our @EXPORT = qw(backfill_part);

# Jiffies of the session's backend.
my $stat = q{SELECT split_part(s, ' ', 14)::bigint + split_part(s, ' ', 15)::bigint }
  . q{FROM (SELECT regexp_replace(pg_read_file('/proc/self/stat'), '^.*\) ', '1 2 ') s) x;};

sub fresh_table
{
	my ($users, $more) = @_;
	$ENV{PGDATABASE} = 'postgres';
	sql('DROP DATABASE bench WITH (FORCE)') if sql(q{SELECT count(*) FROM pg_database WHERE datname = 'bench'});
	run('createdb', 'bench');
	$ENV{PGDATABASE} = 'bench';
	sql(<<SQL);
CREATE EXTENSION ledger;
CREATE TABLE balances (
	user_id uuid PRIMARY KEY,
	buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0,
	currency varchar(10) NOT NULL DEFAULT 'USD',
	updated_at timestamptz NOT NULL DEFAULT now()$more
);
INSERT INTO balances (user_id, buying_power, pending_deposits)
	SELECT gen_random_uuid(), round((random() * 10000)::numeric, 2), round((random() * 10000)::numeric, 2)
	FROM generate_series(1, $users);
SELECT * FROM ledger.attach_legacy('balances');
SQL
	sql('VACUUM ANALYZE');
	sql('CHECKPOINT');
	return;
}

# Seconds of CPU, seconds of time, WAL bytes.
sub backfill
{
	my $from = sql('SELECT pg_current_wal_insert_lsn()');
	open my $file, '>', 'backfill.sql' or die "backfill.sql: $!\n";
	print {$file} "$stat\nCALL ledger.backfill() \\gset\n$stat\n";
	close $file;
	my $began = time;
	my @jiffies = grep { /^\d+$/ } split /\n/, `psql -XAtq -v ON_ERROR_STOP=1 -f backfill.sql`;
	my $took = time - $began;
	die "the backfill failed\n" if @jiffies != 2;
	my ($bytes) = wal_between($from, sql('SELECT pg_current_wal_insert_lsn()'));
	return (($jiffies[1] - $jiffies[0]) / POSIX::sysconf(POSIX::_SC_CLK_TCK()), $took, $bytes);
}

sub backfill_part
{
	my $users = quick() ? 20_000 : 1_000_000;
	heading("backfill(), $users users, two columns");
	table('<table', 'users/s of CPU', 'users/s', 'WAL bytes a user', 'disk bytes a user', 'users/s of CPU, again');
	for my $case ([ 'plain', '' ], only_bars() ? () : [ 'with a CHECK, by SQL', ', CHECK (buying_power >= 0)' ])
	{
		my ($name, $more) = @$case;
		fresh_table($users, $more);
		my ($cpu, $took, $wal) = backfill();
		my $opened = sql('SELECT opened FROM ledger.backfill_runs');
		die "$opened of $users users are opened\n" if $opened != $users;
		my $disk = size('ledger.accounts', 'ledger.journal') / $users;
		my ($again) = backfill();
		row($name, map { sprintf '%.0f', $_ } $users / $cpu, $users / $took, $wal / $users, $disk, $users / ($again || 0.01));
		csv({ part => 'backfill', what => $name, unit => 'users a second of CPU' }, $users / $cpu);
		csv({ part => 'backfill', what => $name, unit => 'WAL bytes a user' }, $wal / $users);
		measured('backfill/rate', $users / $cpu) if $more eq '';
	}
	return;
}

1;
