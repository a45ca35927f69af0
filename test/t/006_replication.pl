# Logical replication and the replica role: what they bring to the ledger's own
# tables is refused, and what they write to a legacy table past the ledger is
# recorded and found.

use strict;
use warnings;

use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $node = ledger_node('replication', "wal_retrieve_retry_interval = '100ms'\n", allows_streaming => 'logical');
my ($one, $two, $three) = map { customer($_) } 1 .. 3;

# Two databases of one server: what is posted in the first comes to the second.
foreach my $database (qw(source target))
{
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	load_ledger($node, $database);
	legacy_table($node, 3, $database);
	attach($node, 'shadow_mode => true', $database);
	$node->safe_psql($database, "SELECT ledger.credit_user_usdc('$one', 5, 'x'); SELECT ledger.reserve_for_investment('$one', 1)");
}

# A slot of the same server has to be there before the subscription.
sub subscribe
{
	my ($name, $tables, $copy) = @_;

	$node->safe_psql('source', "CREATE PUBLICATION $name FOR TABLE $tables");
	$node->safe_psql('source', "SELECT pg_create_logical_replication_slot('$name', 'pgoutput')");
	$node->safe_psql('target', sprintf(
			"CREATE SUBSCRIPTION %s CONNECTION '%s' PUBLICATION %s WITH (create_slot = false, copy_data = %s)",
			$name, $node->connstr . ' dbname=source', $name, $copy));
}

sub unsubscribe
{
	my ($name) = @_;

	$node->safe_psql('target', "ALTER SUBSCRIPTION $name DISABLE; ALTER SUBSCRIPTION $name SET (slot_name = NONE)");
	$node->poll_query_until('target', "SELECT count(*) = 0 FROM pg_stat_subscription WHERE subname = '$name' AND pid IS NOT NULL");
	$node->safe_psql('target', "DROP SUBSCRIPTION $name");
	# also the slot of a first copy that has not come to its end
	$node->poll_query_until('source', 'SELECT NOT COALESCE(bool_or(active), false) FROM pg_replication_slots');
	$node->safe_psql('source', "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots; DROP PUBLICATION $name");
}

my $contents = join ';', map { "SELECT t FROM ledger.$_ t ORDER BY t::text" }
  qw(journal accounts reservation_rows reservation_draws settings);
my $before = $node->safe_psql('target', $contents);

# ---- the apply worker ----------------------------------------------------------

my $log = -s $node->logfile;
subscribe('initial', 'ledger.journal', 'true');
$node->wait_for_log(qr/ERROR:  the ledger is append-only\n.*Logical replication tried INSERT on ledger.journal/, $log);
pass('the first copy of the journal is refused');
unsubscribe('initial');

foreach my $case (
	[ 'journal', 'INSERT', "SELECT ledger.credit_user_usdc('$one', 1, 'x')" ],
	[ 'accounts', 'UPDATE', "SELECT ledger.credit_user_usdc('$one', 1, 'x')" ],
	[ 'reservation_rows', 'INSERT', "SELECT ledger.reserve_for_investment('$one', 1)" ],
	[ 'settings', 'UPDATE', 'SELECT ledger.configure(strict_mode => true)' ])
{
	my ($table, $command, $sql) = @$case;

	subscribe("live_$table", "ledger.$table", 'false');
	$log = -s $node->logfile;
	$node->safe_psql('source', $sql);
	$node->wait_for_log(qr/ERROR:  the ledger is append-only\n.*Logical replication tried $command on ledger.$table/, $log);
	pass("$command of the apply worker on $table is refused");
	unsubscribe("live_$table");
}
$node->safe_psql('source', 'SELECT ledger.configure(strict_mode => false)');
is($node->safe_psql('target', $contents), $before, 'nothing of it is in the ledger');

# ---- a replicated legacy table ---------------------------------------------------

subscribe('legacy', 'public.balances', 'false');
$node->safe_psql('source', <<SQL);
SELECT ledger.credit_user_usdc('$one', 30, 'mirrored there');
UPDATE public.balances SET buying_power = buying_power + 4 WHERE user_id = '$two';
SQL
$node->poll_query_until('target', q{SELECT count(*) = 2 FROM ledger.legacy_writes WHERE kind = 'bypass'})
  or die "nothing was recorded\n";
is($node->safe_psql('target', 'SELECT user_id, deltas FROM ledger.legacy_writes ORDER BY id'),
	qq{$one|{"pending_deposits": 32.00}\n$two|{"buying_power": 4.00}},
	'what it applies to a legacy table is recorded');
is($node->safe_psql('target', 'SELECT user_id, legacy_column, difference, status FROM ledger.reconcile() WHERE status <> \'missing_ledger\''),
	"$one|pending_deposits|-32.00|mismatch", 'and reconcile() finds it');
is($node->safe_psql('target', $contents), $before, 'while the ledger stays as it was');
unsubscribe('legacy');

# ---- the replica role ------------------------------------------------------------

my $db = connection($node, database => 'target');
$db->do(q{SET session_replication_role = replica});
foreach my $sql (
	'UPDATE ledger.journal SET amount = amount + 1',
	'DELETE FROM ledger.journal',
	'TRUNCATE ledger.journal',
	'UPDATE ledger.accounts SET credits = credits + 1',
	'DELETE FROM ledger.reservation_rows',
	'TRUNCATE ledger.accounts',
	'UPDATE ledger.settings SET shadow_mode = false',
	'DELETE FROM ledger.settings_log')
{
	is(code_of($db, $sql), 'LG007', "in the replica role: $sql");
}
is(code_of($db, 'TRUNCATE public.balances'), '55000', 'in the replica role: TRUNCATE of the legacy table');
is($node->safe_psql('target', $contents), $before, 'nothing has changed');

$db->do("UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = '$three'");
is($node->safe_psql('target', "SELECT kind FROM ledger.legacy_writes WHERE user_id = '$three'"), 'bypass',
	'a direct write in the replica role is recorded');
$db->do("SELECT ledger.credit_user_usdc('$three', 8, 'x')");
is($node->safe_psql('target', "SELECT legacy_column, legacy_value, status FROM ledger.compare_balances('$three') ORDER BY 1"),
	"buying_power|31.00|match\npending_deposits|1008.00|match", 'a posting in the replica role is mirrored');
is($node->safe_psql('target', "SELECT count(*) FROM ledger.legacy_writes WHERE user_id = '$three'"), '1',
	'and the mirror is not taken for a direct write');
$db->disconnect;
$node->safe_psql('target', q{SELECT ledger.repair(dry_run => false, reason => 'replication')});
ledger_ok($node, 'the ledger holds', 'target');
$node->stop;
done_testing();
