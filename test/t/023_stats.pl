# What is counted and timed: by many sessions, over stops and crashes, and what
# the worker stores of it.

use strict;
use warnings;

use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $node = ledger_node('stats', <<CONF);
ledger.databases = 'postgres'
ledger.worker_naptime = 20ms
ledger.stats_interval = 1s
restart_after_crash = on
CONF
my ($one, $two) = map { customer($_) } 1, 2;

sub query
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

sub comes_true
{
	my ($sql) = @_;
	return wait_until(20, sub { eval { query($sql) } eq 't' });
}

load_ledger($node);
legacy_table($node, 5);
attach($node, 'shadow_mode => true');
query("SELECT ledger.credit_user_usdc('$_', 1, 'opens')") foreach $one, $two;
query('SELECT ledger.configure(shadow_mode => false)');

# ---- how long reads take ----------------------------------------------------------

my $reads = "DO \$\$ BEGIN FOR i IN 1 .. %d LOOP PERFORM ledger.get_user_balance('$one'); END LOOP; END \$\$";
my $stored = 'SELECT COALESCE(sum(count), 0) FROM ledger.read_timings WHERE source = ';

query(sprintf $reads, 10);
query("SELECT ledger.configure(shadow_mode => true)");
query(sprintf $reads, 20);
query("SELECT ledger.get_balance('$one'), ledger.get_account_balance('$one', 'usdc_balance')");
ok(comes_true("$stored 'legacy'" =~ s/SELECT (.*) FROM/SELECT $1 >= 22 FROM/r), 'the worker stores how long reads took');
is(query("$stored 'legacy'"), '22', 'of those that compare, each once');
is(query("$stored 'ledger'"), '22', 'both parts of it');
is(query('SELECT reads, ledger_p95_ms > 0 AND ledger_p95_ms < 1000, legacy_p95_ms > 0 AND legacy_p95_ms < 1000 FROM ledger.read_latency(now())'), '22|t|t', 'and tells of it');

query("SET ledger.track = off; " . sprintf $reads, 30);
query("SELECT ledger.configure(balance_source => 'legacy')");
query(sprintf $reads, 5);
ok(comes_true('SELECT reads = 27 FROM ledger.read_latency(NULL)'), 'and of those from the legacy row; of none that is not tracked');

# ---- over stops and crashes ----------------------------------------------------------

query(sprintf $reads, 3);
$node->restart;
ok(comes_true('SELECT reads = 30 FROM ledger.read_latency(NULL)'), 'a clean restart keeps what was not stored yet, and stores nothing twice');
ok(!-e $node->data_dir . '/pg_stat/ledger.stat', 'the file that kept it is gone');
query(sprintf $reads, 1);
ok(comes_true('SELECT reads = 31 FROM ledger.read_latency(NULL)'), 'more is stored after it');
kill_and_start($node);
query(sprintf $reads, 2);
ok(comes_true('SELECT reads = 33 FROM ledger.read_latency(NULL)'), 'what is stored outlives a crash');

# ---- trimmed ---------------------------------------------------------------------------

query("INSERT INTO ledger.read_timings (slot, source, bucket, count) VALUES (date_trunc('hour', now()) - interval '3 days', 'ledger', 1, 1)");
$node->append_conf('postgresql.conf', 'ledger.history_retention = 2');
$node->restart;
ok(comes_true('SELECT count(*) = 0 FROM ledger.read_timings WHERE bucket = 1 AND slot < now() - interval \'2 days\''), 'what is old is deleted');
is(query('SELECT reads FROM ledger.read_latency(NULL)'), '33', 'and nothing else');

ledger_ok($node, 'the ledger holds');
done_testing();
