# The guards against what is not a session: the logical apply worker, and
# pg_restore --clean.

use strict;
use warnings;

use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $node = ledger_node('guard', "wal_level = logical\n", allows_streaming => 'logical');
my $dir = $node->basedir;
my $user = customer(1);
my $source = sprintf 'host=%s port=%s dbname=postgres', $node->host, $node->port;

load_ledger($node);
$node->safe_psql('postgres', "SELECT ledger.credit_user_usdc('$user', 100, 'a deposit')");
$node->safe_psql('postgres', 'CREATE DATABASE other');
load_ledger($node, 'other');

my $contents = q{SELECT (SELECT count(*) FROM ledger.journal), (SELECT sum(debits + credits) FROM ledger.accounts),
	(SELECT count(*) FROM ledger.reservation_rows), (SELECT count(*) FROM ledger.settings)};

# Publishes commands on a table, runs SQL on the publisher, and passes if that
# stops the subscription, with the ledger's error, and changes nothing.
sub refused
{
	my ($table, $command, $sql, $copy) = @_;
	my $name = lc "\L${table}_$command" . ($copy ? '_copy' : '');
	my $before = $node->safe_psql('other', $contents);
	my $offset = -s $node->logfile;

	$node->safe_psql('postgres', "CREATE PUBLICATION $name FOR TABLE ledger.$table WITH (publish = '$command')");
	$node->safe_psql('postgres', "SELECT pg_create_logical_replication_slot('$name', 'pgoutput')");
	$node->safe_psql('other', "CREATE SUBSCRIPTION $name CONNECTION '$source' PUBLICATION $name"
		  . " WITH (create_slot = false, disable_on_error = true, copy_data = " . ($copy ? 'true' : 'false') . ')');
	$node->safe_psql('postgres', $sql) if $sql;
	$node->poll_query_until('other', "SELECT NOT subenabled FROM pg_subscription WHERE subname = '$name'")
	  or die "subscription $name goes on\n";
	like(slurp_file($node->logfile, $offset),
		qr/ERROR:  the ledger is append-only\n.*DETAIL:  Logical replication tried \U$command\E on ledger\.$table\.\n.*HINT:  Leave schema ledger out of the publication\./,
		"$name: refused");
	is($node->safe_psql('other', $contents), $before, "$name: and nothing is written");
	$node->safe_psql('other', "ALTER SUBSCRIPTION $name SET (slot_name = NONE); DROP SUBSCRIPTION $name");
	# also the slot of a first copy
	$node->poll_query_until('postgres', 'SELECT NOT COALESCE(bool_or(active), false) FROM pg_replication_slots')
	  or die "a slot of subscription $name stays in use\n";
	$node->safe_psql('postgres', "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots; DROP PUBLICATION $name");
}

# Into an empty ledger: what is there already, and what comes.
refused('accounts', 'insert', undef, 1);
refused('journal', 'insert', undef, 1);
refused('journal', 'insert', "SELECT ledger.credit_user_usdc('$user', 1, 'more')");
refused('reservation_rows', 'insert', "SELECT ledger.reserve_for_investment('$user', 1)");
refused('settings', 'insert', q{SELECT ledger.configure(strict_mode => true, reason => 'a test')});

# Into one that has the rows, as a restore leaves it.
$node->command_ok([ 'pg_dump', '-Fc', '--data-only', '-n', 'ledger', '-e', 'ledger', '-f', "$dir/data", 'postgres' ], 'dumped');
$node->command_ok([ 'pg_restore', '-e', '-d', 'other', "$dir/data" ], 'a restore is not refused');
is($node->safe_psql('other', $contents), $node->safe_psql('postgres', $contents), 'both are the same');
ledger_ok($node, 'and hold', 'other');
refused('accounts', 'update', "SELECT ledger.credit_user_usdc('$user', 1, 'more')");
refused('settings', 'update', q{SELECT ledger.configure(strict_mode => false, reason => 'a test')});
refused('journal', 'delete', <<SQL);
BEGIN;
ALTER TABLE ledger.journal DISABLE TRIGGER guard;
DELETE FROM ledger.journal WHERE transaction_id = 1;
SELECT ledger.rearm();
COMMIT;
SQL
refused('journal', 'truncate', <<SQL);
BEGIN;
ALTER TABLE ledger.journal DISABLE TRIGGER guard_truncate;
TRUNCATE ledger.journal;
SELECT ledger.rearm();
COMMIT;
SQL
ledger_ok($node, 'the subscriber still holds', 'other');

# pg_restore --clean would drop the ledger first, and may if told so. The levels
# of access are in the dump.
$node->safe_psql('other', q{CREATE ROLE teller; SELECT ledger.grant_access('teller', 'writer')});
my $rights = q{SELECT has_schema_privilege('teller', 'ledger', 'USAGE'),
	(SELECT string_agg(p.proname, ' ' ORDER BY p.proname) FROM pg_proc p
	 WHERE p.pronamespace = 'ledger'::regnamespace AND has_function_privilege('teller', p.oid, 'EXECUTE'))};
my $granted = $node->safe_psql('other', $rights);
like($granted, qr/^t\|.*\bcredit_user_usdc\b/, 'a writer may credit');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/all", 'other' ], 'dumped whole');
my $before = $node->safe_psql('other', $contents);
$node->safe_psql('other', "SELECT ledger.resume('restored'); SELECT ledger.credit_user_usdc('$user', 1, 'after the dump')");
my $after = $node->safe_psql('other', $contents);
$node->command_checks_all([ 'pg_restore', '-1', '--clean', '--if-exists', '-d', 'other', "$dir/all" ], 1, [qr/^$/],
	[qr/cannot drop extension ledger while its journal has rows/], 'pg_restore --clean cannot drop it');
is($node->safe_psql('other', $contents), $after, 'and leaves it as it was');
ledger_ok($node, 'and it holds', 'other');

# Without -1 it goes on after the error. The rows are safe, but it sets
# sequences back, which verify() finds.
$node->command_fails([ 'pg_restore', '--clean', '--if-exists', '-d', 'other', "$dir/all" ], 'nor does it without -1');
is($node->safe_psql('other', $contents), $after, 'no row is changed');
is($node->safe_psql('other', 'SELECT string_agg(check_name, $$ $$) FROM ledger.verify() WHERE NOT passed'),
	'sequences', 'a sequence that was set back is found');
$node->safe_psql('other', q{SELECT setval('ledger.transaction_id_seq', max(transaction_id)) FROM ledger.journal});
ledger_ok($node, 'and set right again', 'other');
{
	local $ENV{PGOPTIONS} = '-c ledger.allow_drop=on';
	$node->command_ok([ 'pg_restore', '-e', '--clean', '--if-exists', '-d', 'other', "$dir/all" ],
		'it can with ledger.allow_drop');
}
is($node->safe_psql('other', $contents), $before, 'and what was dumped is back');
is($node->safe_psql('other', $rights), $granted, 'with the rights of a writer');
is($node->safe_psql('other', q{SELECT count(*) FROM pg_proc
	WHERE pronamespace = 'ledger'::regnamespace AND has_function_privilege('public', oid, 'EXECUTE')}), 0, 'and none of PUBLIC');
ledger_ok($node, 'the restored ledger holds', 'other');

$node->stop;
done_testing();
