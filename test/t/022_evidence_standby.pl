# Evidence without a worker: on a standby, which stores it once it is promoted;
# in a database that is not named; without the library preloaded.

use strict;
use warnings;

use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $node = ledger_node('primary', <<CONF, allows_streaming => 1);
ledger.databases = 'postgres'
ledger.worker_naptime = 20ms
CONF
my $three = customer(3);
my $read = 'SELECT usdc_balance FROM ledger.get_user_balance';
load_ledger($node);
legacy_table($node, 15);
attach($node, 'shadow_mode => true');
$node->safe_psql('postgres', "SELECT count(ledger.credit_user_usdc(user_id, 1, 'opens')) FROM public.balances");
ok(wait_until(120, sub { $node->safe_psql('postgres', 'SELECT running AND starts = 1 FROM ledger.worker_status') eq 't' }), 'the primary has a worker');

# ---- a standby ----------------------------------------------------------------------------

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->safe_psql('postgres', 'UPDATE public.balances SET buying_power = buying_power + 1');
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
$standby->safe_psql('postgres', "SET log_min_messages = $_; $read('$three')") foreach 'warning', 'log';
is($standby->safe_psql('postgres', 'SELECT active, used, recorded, worker_pid FROM ledger.evidence_status()'), 't|1|2|',
	'on a standby evidence is left and counted, there is no worker');
is(scalar(() = slurp_file($standby->logfile) =~ /shadow mode: balance discrepancy .*$three/g), 2, 'and it is in the log, whatever else is');

# Over stops of the server, with a ring that then has another place, or less room.
sub ring
{
	return $standby->safe_psql('postgres', 'SELECT used, recorded, dropped FROM ledger.evidence_status()');
}

$standby->restart;
is(ring(), '1|2|0', 'a clean stop keeps it');
$standby->safe_psql('postgres', "$read('$three')");
is(ring(), '1|3|0', 'what is found again is found in its place');
my @processes = split /\n/, $standby->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
$standby->kill9;
kill 'KILL', @processes;
wait_until(120, sub { !grep { kill 0, $_ } @processes }) or die "the old server's processes do not end\n";
$standby->start;
is(ring(), '0|0|0', 'a crash does not, nor is what an earlier one kept read again');
$standby->safe_psql('postgres', "$read('$three')") foreach 1 .. 2;
$standby->append_conf('postgresql.conf', "ledger.databases = 'postgres, other'\n");
$standby->restart;
is(ring(), '1|2|0', 'it is kept by the name of the database');
$standby->append_conf('postgresql.conf', "ledger.databases = 'postgres'\nledger.evidence_size = 10\n");
$standby->safe_psql('postgres', "SELECT count(ledger.get_user_balance(user_id)) FROM public.balances, generate_series(1, 2) WHERE user_id <> '$three'");
is(ring(), '15|30|0', 'more is found');
$standby->restart;
is(ring(), '10|30|10', 'what has no room any more is counted');
$standby->restart;
is(ring(), '10|30|10', 'once');
$node->stop('immediate');
$standby->promote;
ok(wait_until(120, sub { $standby->safe_psql('postgres', "SELECT count(*) FROM ledger.discrepancies WHERE status = 'open' AND count = 2") eq '10' }),
	'once promoted it stores what it has met');
is($standby->safe_psql('postgres', "SELECT count FROM ledger.evidence_losses WHERE kind = 'overflow'"), '10', 'and how much it has not kept');
is($standby->safe_psql('postgres', "SELECT kind, count FROM ledger.evidence_losses WHERE kind = 'crash'"), 'crash|', 'and that the primary may have had more');
is($standby->safe_psql('postgres', 'SELECT * FROM ledger.verify() WHERE NOT passed'), '', 'the ledger holds');

# ---- not preloaded, or not named -------------------------------------------------------------

$standby->append_conf('postgresql.conf', "ledger.databases = 'other'\n");
$standby->restart;
is($standby->safe_psql('postgres', 'SELECT active, size FROM ledger.evidence_status()'), 'f|', 'a database that is not named has no ring');
$standby->safe_psql('postgres', "$read('$three'); SELECT ledger.move_funds_to_fiat_exposure('$three', 1, 'x')");
is($standby->safe_psql('postgres', "SELECT source, count FROM ledger.discrepancies WHERE status = 'open' AND user_id = '$three' ORDER BY id"), 'read|3', 'a posting stores what it finds itself, a read does not');
$standby->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$standby->restart;
is($standby->safe_psql('postgres', 'SELECT active, running, starts > 0 FROM ledger.worker_status'), 'f|f|t', 'without the library preloaded there is no worker');
$standby->safe_psql('postgres', "$read('$three'); SELECT ledger.move_funds_to_usdc('$three', 1, 'x')");
is($standby->safe_psql('postgres', "SELECT count, outcome FROM ledger.discrepancies WHERE status = 'open' AND user_id = '$three'"), '4|committed', 'and it is the same');
$standby->append_conf('postgresql.conf', "shared_preload_libraries = 'ledger'\nledger.databases = 'postgres, other'\n");
$standby->restart;
ok(wait_until(120, sub { $standby->safe_psql('postgres', 'SELECT running AND losses = 3 FROM ledger.worker_status') eq 't' }),
	'named again, the time between is stored as a loss');

# The list is checked where it is set.
foreach my $list ('a b', 'postgres, postgres')
{
	my $log = -s $standby->logfile;
	$standby->append_conf('postgresql.conf', "ledger.databases = '$list'\n");
	$standby->restart;
	like(substr(slurp_file($standby->logfile), $log), qr/WARNING:  invalid value for parameter "ledger.databases"/, "no list of databases: $list");
}
is($standby->safe_psql('postgres', "SELECT active FROM ledger.evidence_status()"), 'f', 'then there is none');
$standby->stop;
done_testing();
