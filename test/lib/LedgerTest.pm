# LedgerTest.pm: what the TAP tests with servers of their own share: a server
# with a ledger, the product's legacy table, clients that run beside each
# other, and the question whether the ledger still holds.

package LedgerTest;

use strict;
use warnings;

use DBI;
use Exporter qw(import);
use File::Basename;
use File::Spec;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(ledger_node load_ledger legacy_table attach customer oracle_ok ledger_ok
  connection code_of client await seconds soak kill_and_start kill_process wait_until
  end_pgbench pauses);

# a server that starts or stops on a machine that is busy
$ENV{PGCTLTIMEOUT} //= 300;

my $lib = dirname(File::Spec->rel2abs(__FILE__));

# ledger_node($name, $conf, %init): a running server that has the ledger
# preloaded; $conf is more text for postgresql.conf, %init goes to init().
sub ledger_node
{
	my ($name, $conf, %init) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%init);
	$node->append_conf('postgresql.conf', <<CONF . ($conf // ''));
shared_preload_libraries = 'ledger'
max_prepared_transactions = 10
max_connections = 100
shared_buffers = 16MB
log_statement = none
log_line_prefix = '%m [%p] %e %q%a '
CONF
	$node->start;
	return $node;
}

# The extension and the oracle in a database.
sub load_ledger
{
	my ($node, $database) = @_;

	$node->safe_psql($database // 'postgres',
		"CREATE EXTENSION ledger;\n" . slurp_file("$lib/oracle.sql"));
}

# The product's table with so many customers who have money already.
sub legacy_table
{
	my ($node, $customers, $database) = @_;

	$node->safe_psql($database // 'postgres', <<SQL);
CREATE TABLE public.balances (
	user_id uuid PRIMARY KEY,
	buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0,
	currency varchar(10) NOT NULL DEFAULT 'USD',
	updated_at timestamptz NOT NULL DEFAULT now());
INSERT INTO public.balances (user_id, buying_power, pending_deposits)
	SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 10 * n, 1000
	FROM generate_series(1, $customers) n;
SQL
}

# Attaches it; $settings are arguments for configure().
sub attach
{
	my ($node, $settings, $database) = @_;

	$database //= 'postgres';
	$node->safe_psql($database,
		"SELECT * FROM ledger.attach_legacy('public.balances')") =~ /^attached\|t\|/m
	  or die "public.balances cannot be attached\n";
	$node->safe_psql($database, "SELECT ledger.configure($settings)") if defined $settings;
}

# The n-th customer of the table.
sub customer
{
	my ($n) = @_;
	return sprintf '00000000-0000-4000-8000-%012d', $n;
}

# Passes if the oracle finds nothing wrong.
sub oracle_ok
{
	my ($node, $name, $database) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql($database // 'postgres', 'SELECT * FROM public.ledger_oracle()'), '', $name);
}

# Passes if neither the oracle nor verify() does, and the server has not logged
# what no server should.
sub ledger_ok
{
	my ($node, $name, $database) = @_;
	my @found = split /\n/, $node->safe_psql($database // 'postgres', <<SQL);
SELECT 'oracle: ' || o FROM public.ledger_oracle() AS o
UNION ALL
SELECT 'verify: ' || v.check_name || ': ' || v.detail FROM ledger.verify() v WHERE NOT v.passed
SQL

	push @found, grep /TRAP:|PANIC:|reference leak|refcount leak|snapshot leak|problem in alloc set| XX000 /,
	  split /\n/, slurp_file($node->logfile);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(join("\n", @found), '', $name);
}

# A connection of this process, closed with its handle.
sub connection
{
	my ($node, %attributes) = @_;
	my $database = delete $attributes{database} // 'postgres';

	return DBI->connect(
		sprintf('dbi:Pg:host=%s;port=%s;dbname=%s', $node->host, $node->port, $database),
		'', '',
		{
			RaiseError => 1,
			PrintError => 0,
			PrintWarn => 0,
			AutoInactiveDestroy => 1,
			%attributes
		});
}

# The SQLSTATE with which a statement fails on a connection, or ''.
sub code_of
{
	my ($db, $sql, @values) = @_;

	return '' if eval { $db->do($sql, undef, @values); 1 };
	return $db->state;
}

# A client: runs the sub in a process of its own, whose id await() takes.
sub client
{
	my ($sub) = @_;
	my $pid = fork() // die "fork: $!\n";

	if ($pid == 0)
	{
		my $done = eval { $sub->(); 1 };
		print STDERR "# client: $@" if !$done;
		POSIX::_exit($done ? 0 : 1);
	}
	return $pid;
}

# Waits for clients; how many of them failed.
sub await
{
	my (@clients) = @_;
	my $failed = 0;

	foreach my $client (@clients)
	{
		waitpid($client, 0);
		$failed++ if $? != 0;
	}
	return $failed;
}

# How long a load runs, in seconds: so long ordinarily; `make soak` says otherwise.
sub seconds
{
	my ($ordinary) = @_;
	return $ENV{LEDGER_SOAK} || $ordinary;
}

# How many of something: the first ordinarily, the second in `make soak`.
sub soak
{
	my ($ordinary, $long) = @_;
	return $ENV{LEDGER_SOAK} ? $long : $ordinary;
}

# Kills the postmaster and starts the server again, which is refused as long
# as a process of the old one is left: one at a long statement does not look.
# One that was begun while the others were listed, of autovacuum say, ends by itself.
sub kill_and_start
{
	my ($node) = @_;
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my @processes = ($postmaster, split /\n/, $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity'));

	$node->kill9;
	kill 'KILL', @processes;
	wait_until(60, sub { !grep { kill 0, $_ } @processes })
	  or die "the old server's processes do not end\n";
	wait_until(60, sub { $node->start(fail_ok => 1) }) or die "the server does not start again\n";
}

# Kills a process of the server, which takes all others with it, and waits
# until the server has noticed and takes connections again.
sub kill_process
{
	my ($node, $pid) = @_;
	my $db = connection($node);

	kill 'KILL', $pid or die "no process $pid\n";
	# the server takes no connection once it has seen the end of the victim
	wait_until(60, sub { !$db->ping }) or die "the server does not notice\n";
	wait_until(120, sub { eval { connection($node)->do('SELECT true') } })
	  or die "the server did not recover\n";
}

# Ends a pgbench before its time, and waits until its sessions are gone.
sub end_pgbench
{
	my ($node, $run) = @_;

	$run->signal('TERM');
	eval { $run->finish };
	wait_until(60, sub { $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'") eq '0' })
	  or die "pgbench's sessions do not end\n";
}

# How long the machine itself makes a transaction stand, at each moment: a client
# writes a row that nobody else knows until the sub that is returned is called,
# which tells the longest of its transactions in ms.  Where what somebody waits is
# limited, a machine that does much else beside the test is no fault of ours.
my $measured = 0;

sub pauses
{
	my ($node) = @_;
	my ($file, $caller) = ($node->basedir . '/pauses.' . ++$measured, $$);

	$node->safe_psql('postgres', "SET client_min_messages = error; CREATE TABLE IF NOT EXISTS machine (n int);"
		. ' INSERT INTO machine SELECT 0 WHERE NOT EXISTS (SELECT FROM machine)');
	my $client = client(sub {
		my ($db, $longest) = (undef, 0);

		until (-e "$file.end" || getppid() != $caller)
		{
			my $began = time;

			# over the end of a server, too, which is no pause
			$db = eval { connection($node) } if !$db;
			undef $db if $db && !eval { $began = time; $db->do('UPDATE machine SET n = n + 1'); 1 };
			$longest = time - $began if $db && time - $began > $longest;
			sleep 0.005;
		}
		append_to_file($file, 1000 * $longest);
	});
	return sub {
		append_to_file("$file.end", '');
		await($client);
		return slurp_file($file);
	};
}

# Whether the sub comes true within so many seconds.
sub wait_until
{
	my ($seconds, $sub) = @_;
	my $end = time + $seconds;

	until ($sub->())
	{
		return 0 if time > $end;
		sleep 0.02;
	}
	return 1;
}

1;
