# Bench/Server.pm: the bench's server and its databases: commands, queries,
# settings, and the size of everything (quick or not).

package Bench::Server;

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT = qw(run sql sql_file setting server fresh_database shadow_mode detach exists_function
  variables cores quick user_number $tmp);

our $tmp = "$ENV{SANDBOX}/tmp";
my $dir = "$ENV{SANDBOX}/src/test/bench";
my $quick = 0;

# Users are numbered from here: twelve digits, the last group of a uuid.
use constant FIRST_USER => 100_000_000_000;

# Batches of 8,000 between distinct accounts need 16,000 users.
my $users = 20_000;

# Few users and few repetitions: shows that it works.
sub quick
{
	my ($on) = @_;
	($quick, $users) = (1, 2_000) if $on;
	return $quick;
}

sub user_number
{
	my ($n) = @_;
	return FIRST_USER + $n;
}

# What every script may use: :users, :first and :last; once there is a
# database, also the accounts' ids less the users' numbers.  variables($n)
# makes it n users.
my %bases;

sub variables
{
	my ($count) = @_;
	$users = $count if $count;
	return (users => $users, first => FIRST_USER + 1, last => FIRST_USER + $users, %bases);
}

sub run
{
	my (@command) = @_;
	system(@command) == 0 or die "failed: @command\n";
	return;
}

sub sql
{
	my ($query) = @_;
	open my $psql, '-|', 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-c', $query or die "psql: $!\n";
	my $answer = do { local $/; <$psql> };
	close $psql or die "query failed: $query\n";
	chomp $answer;
	return $answer;
}

sub sql_file
{
	my (@files) = @_;
	my %variable = variables();
	run('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', (map { ('-v', "$_=$variable{$_}") } sort keys %variable),
		(map { ('-f', m{^/} ? $_ : "$dir/$_") } @files), '-o', '/dev/null');
	return;
}

# Of the whole server, at once.
sub setting
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET $name = '$value'");
	sql('SELECT pg_reload_conf()');
	return;
}

# server('start') or server('stop')
sub server
{
	my ($action) = @_;
	run('pg_ctl', $action, '--wait', '--silent', '--timeout=600', "--log=$ENV{SANDBOX}/server.log");
	return;
}

# A new database in which all sides have the same users with the same money.
# Always made anew: a copy of a database is another ledger.
sub fresh_database
{
	my (@more) = @_;
	$ENV{PGDATABASE} = 'postgres';
	sql('DROP DATABASE bench WITH (FORCE)') if sql(q{SELECT count(*) FROM pg_database WHERE datname = 'bench'});
	run('createdb', 'bench');
	$ENV{PGDATABASE} = 'bench';
	%bases = ();
	sql_file('setup.sql', 'uuid_v7.sql', 'plpgsql.sql', 'application.sql', @more);
	my %variable = variables();
	%bases = (
		base => sql("SELECT user_accounts_base($variable{first}, $variable{last})"),
		house => sql("SELECT ledger.open_account('system_buffer_usdc')"),
		peer_base => sql("SELECT min(id) - $variable{first} FROM peer.accounts WHERE account_type = 'usdc_balance'"),
		peer_house => sql("SELECT id FROM peer.accounts WHERE account_type = 'system_buffer_usdc'"));
	sql('VACUUM ANALYZE');
	sql('CHECKPOINT');
	return;
}

sub shadow_mode
{
	my ($on) = @_;
	sql("SELECT ledger.configure(shadow_mode => $on, reason => 'bench')");
	return;
}

# From here on there is no legacy table.
sub detach
{
	shadow_mode('false');
	sql("SELECT ledger.detach_legacy('balances')");
	return;
}

sub exists_function
{
	my ($name) = @_;
	return sql("SELECT count(*) FROM pg_proc WHERE pronamespace = 'ledger'::regnamespace AND proname = '$name'") > 0;
}

sub cores
{
	open my $info, '<', '/proc/cpuinfo' or die "/proc/cpuinfo: $!\n";
	return scalar grep { /^processor/ } <$info>;
}

1;
