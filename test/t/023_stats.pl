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
	return wait_until(120, sub { (eval { query($sql) } // '') eq 't' });
}

load_ledger($node);
legacy_table($node, 5);
attach($node, 'shadow_mode => true');
query("SELECT ledger.credit_user_usdc('$_', 1, 'opens')") foreach $one, $two;
query('SELECT ledger.configure(shadow_mode => false)');

# ---- how long reads take ----------------------------------------------------------

# In one session; one read of 16 is timed for read_latency(), but for the first.
my $reads = "DO \$\$ BEGIN FOR i IN 1 .. 16 * (%d + 1) LOOP PERFORM ledger.get_user_balance('$one'); END LOOP; END \$\$";
my $stored = 'SELECT COALESCE(sum(count), 0) FROM ledger.read_timings WHERE source = ';

query(sprintf $reads, 10);
query("SELECT ledger.configure(shadow_mode => true)");
query(sprintf $reads, 20);
query("SELECT ledger.get_balance('$one'), ledger.get_account_balance('$one', 'usdc_balance')");
ok(comes_true("SELECT ($stored 'legacy') >= 20 AND ($stored 'ledger') >= 20"), 'the worker stores how long reads took');
is(query("$stored 'legacy'"), '20', 'of those that compare, so many');
is(query("$stored 'ledger'"), '20', 'both parts of it');
is(query('SELECT reads, ledger_p95_ms > 0 AND ledger_p95_ms < 1000, legacy_p95_ms > 0 AND legacy_p95_ms < 1000 FROM ledger.read_latency(now() - interval \'1 hour\')'), '20|t|t', 'and tells of it');

query("SET ledger.track = off; " . sprintf $reads, 30);
query("SELECT ledger.configure(balance_source => 'legacy')");
query(sprintf $reads, 5);
ok(comes_true('SELECT reads = 25 FROM ledger.read_latency(NULL)'), 'and of those from the legacy row; of none that is not tracked');

# ---- what is counted ------------------------------------------------------------------

# Counts of one operation, as calls|posted|replayed|refused|failed.
sub counts
{
	my ($operation) = @_;
	return query("SELECT calls, posted, replayed, refused, failed FROM ledger.stat_operations WHERE operation = '$operation'");
}

# The operations that were called.
sub counted
{
	return query("SELECT string_agg(operation, ' ' ORDER BY operation) FROM ledger.stat_operations WHERE calls > 0");
}

sub shadow
{
	my ($what) = @_;
	return query("SELECT $what FROM ledger.stat_shadow");
}

query("SELECT ledger.configure(balance_source => 'ledger')");
query('SELECT ledger.stat_reset()');
is(counted(), '', 'a reset sets everything back');
is(query('SELECT count(*), sum(calls + posted + replayed + refused + failed), sum(total_ms) FROM ledger.stat_operations'), '17|0|0', 'zeros are shown');
is(query('SELECT count(*), sum(reads) FROM ledger.stat_reads'), '2|0', 'of reads too');
is(shadow('compares, mirror_ok, lags'), '0|0|0', 'and of shadow mode');

# Many sessions, some of which end before it is looked at: half is refused.
my $sessions = 12;
my $calls = 50;
is(await(map {
	my $n = $_;
	client(sub {
		my $db = connection($node);
		foreach my $i (1 .. $calls)
		{
			$db->do(sprintf "SELECT ledger.credit_user_usdc('%s', 1, 'x', '00000000-0000-4000-a000-%06d%06d')", customer(1 + $n % 4), $n, $i);
			$db->do(sprintf "SELECT ledger.credit_user_usdc('%s', 1, 'x', '00000000-0000-4000-a000-%06d%06d')", customer(1 + $n % 4), $n, $i);
			code_of($db, sprintf "SELECT ledger.debit_user_usdc('%s', 1000000, 'x')", customer(1 + $n % 4)) eq 'LG001' or die;
		}
	})
} 1 .. $sessions), 0, 'sessions post, repeat, and are refused');
my $all = $sessions * $calls;
is(counts('credit_user_usdc'), join('|', 2 * $all, $all, $all, 0, 0), 'each call of sessions that have ended is counted once');
is(counts('debit_user_usdc'), "$all|0|0|$all|0", 'what a rule refuses is no failure');
is(query('SELECT * FROM ledger.stat_errors'), "debit_user_usdc|LG001|refused|$all", 'and is told by its code');
is(query("SELECT (SELECT sum(u) FROM unnest(latency) u), total_ms > 0, p50_ms <= p95_ms, p95_ms <= p99_ms FROM ledger.stat_operations WHERE operation = 'debit_user_usdc'"),
	"$all|t|t|t", 'and timed like others');
is(counted(), 'credit_user_usdc debit_user_usdc', 'nothing else is');
is(shadow('mirror_ok, matches, mismatches, lags'), "$all|$all|0|$all", 'each posting wrote its legacy row and was compared');

# Two that meet at an account: one waits for the other.
sub meet
{
	my ($sql) = @_;
	my $first = connection($node);

	$first->do('BEGIN');
	$first->do($sql);
	my $second = client(sub {
		my $own = connection($node);
		# who waits for a stripe looks again after this, and counts that
		$own->do("SET deadlock_timeout = '10min'");
		$own->do($sql);
	});
	comes_true("SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'client backend' AND $first->{pg_pid} = ANY (pg_blocking_pids(pid))")
	  or die "nobody waits\n";
	$first->do('COMMIT');
	await($second) == 0 or die "the second failed\n";
	return query('SELECT account_type, right(user_id::text, 1), waits FROM ledger.stat_accounts');
}

query('SELECT ledger.stat_reset()');
is(meet("SELECT ledger.credit_user_usdc('$one', 1, 'x')"), 'usdc_balance|1|1', 'who meets at a legacy row is named by his account');
query('SELECT ledger.fund_broker(1)');
my $striped = "SELECT ledger.set_account_stripes(account_id, %d, 'test') FROM ledger.account_balances WHERE account_type = '%s'";
query(sprintf $striped, 0, 'system_buffer_fiat');
query(sprintf $striped, 1, 'broker_operational');
query('SELECT ledger.stat_reset()');
is(meet('SELECT ledger.fund_broker(1)'), 'system_buffer_fiat||1', 'an account that is one row');
query(sprintf $striped, 1, 'system_buffer_fiat');
query('SELECT ledger.stat_reset()');
like(meet('SELECT ledger.fund_broker(1)'), qr/^(system_buffer_fiat|broker_operational)\|\|1$/, 'and one whose stripes are all held');
query('SELECT ledger.stat_reset()');

my $db = connection($node);
is(code_of($db, "SELECT ledger.debit_user_usdc('$one', 1, NULL)"), '22004', 'a call fails');
$db->do('BEGIN');
$db->do("SELECT ledger.debit_user_usdc('$one', 1, 'x')");
$db->do('ROLLBACK');
is(counts('debit_user_usdc'), '2|1|0|0|1', 'failures are counted apart, of a session that goes on too');
is(query("SELECT sqlstate, kind, count FROM ledger.stat_errors WHERE kind = 'failed'"), '22004|failed|1', 'by their code');
$db->do("SELECT ledger.reserve_for_investment('$one', 3, expires_at => clock_timestamp())");
$db->do('SELECT ledger.expire_reservations()');
# the worker may be at it
ok(comes_true("SELECT posted = 1 FROM ledger.stat_operations WHERE operation = 'expire_reservations'"), 'a reservation expires');
like(counts('expire_reservations'), qr/^\d+\|1\|0\|0\|0$/, 'what expires is counted as posted, whoever was faster, this session or the worker');
$db->do("SELECT ledger.release_reservation('$one')");
is(counts('release_reservation'), '1|0|0|0|0', 'what moves nothing is not');
$db->do(q{SELECT ledger.post_batch(ARRAY(SELECT ROW('t', NULL, NULL, n % 3, 'k' || n / 5, '}
	. $one . q{', 'system_buffer_usdc', 'usdc_balance', NULL, NULL, NULL, NULL, NULL, NULL)::ledger.transfer FROM (VALUES (0), (1), (2), (4), (10), (10)) v (n)), 'continue')});
is(counts('post_batch'), '1|2|2|2|0', 'transfers of a batch are counted one by one');
is(code_of($db, qq{INSERT INTO ledger.inbox (type, amount, user_id, debit_type, credit_type) VALUES ('t', 0, '$one', 'system_buffer_usdc', 'usdc_balance')}), 'LG009', 'the inbox refuses');
is(counts('inbox'), '1|0|0|1|0', 'and is counted');
$db->do("SET ledger.track = off");
$db->do("SELECT ledger.debit_user_usdc('$one', 1, 'x')");
is(counts('debit_user_usdc'), '2|1|0|0|1', 'with ledger.track off nothing is');
$db->do("RESET ledger.track");

# Shadow mode.
query('SELECT ledger.stat_reset()');
query("UPDATE public.balances SET pending_deposits = pending_deposits + 1 WHERE user_id = '$two'; SELECT ledger.get_user_balance('$two')");
is(shadow('compares, matches, mismatches'), '1|0|1', 'a read that meets a difference');
query('SELECT ledger.configure(strict_mode => true)');
is(code_of($db, "SELECT ledger.credit_user_usdc('$two', 1, 'x')"), 'LG003', 'a commit is refused');
is(shadow('proofs, proofs_failed'), '1|1', 'and counted');
query('SELECT ledger.configure(strict_mode => false)');
query("UPDATE public.balances SET pending_deposits = pending_deposits - 1 WHERE user_id = '$two'");
query("SET session_replication_role = replica; UPDATE public.balances SET pending_deposits = pending_deposits WHERE user_id = '$two'; UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = '$two'");
cmp_ok(shadow('bypasses'), '>=', 1, 'a write past the capture');
query("UPDATE public.balances SET buying_power = buying_power - 1 WHERE user_id = '$two'");
query("ALTER TABLE public.balances ADD CONSTRAINT low CHECK (pending_deposits < 100000)");
query("SELECT ledger.credit_user_usdc('$two', 1000000, 'too much for the table')");
is(shadow('mirror_failed'), '1', 'a legacy row that could not be written');
query("SELECT ledger.debit_user_usdc('$two', 1000000, 'back')");
query("ALTER TABLE public.balances DROP CONSTRAINT low");
query("SELECT ledger.repair('$two', dry_run => false, reason => 'test')");
ok(comes_true('SELECT count(*) > 3 AND sum(runs) > 0 FROM ledger.stat_worker'), 'what the worker does is counted');

# Who may look.
query('CREATE ROLE watcher; GRANT pg_monitor TO watcher');
is(query("SET ROLE watcher; SELECT count(*) FROM ledger.stat_operations, ledger.stat_reads, ledger.stat_shadow; SELECT count(*) >= 0 FROM ledger.stat_accounts;"
		. " SELECT count(*) > 0 FROM ledger.stat_worker; SELECT count(*) >= 0 FROM ledger.stat_errors"), "34\nt\nt\nt", 'pg_monitor may');
foreach my $sql ('SELECT ledger.stat_reset()', 'SELECT * FROM ledger.account_balances', "SELECT ledger.credit_user_usdc('$one', 1, 'x')")
{
	is(code_of($db, "SET ROLE watcher; $sql"), '42501', "and no more: $sql");
	$db->do('RESET ROLE');
}

# ---- over stops and crashes ----------------------------------------------------------

my $before = 25;

ok(comes_true("SELECT reads = $before FROM ledger.read_latency(NULL)"), 'a reset takes nothing from what is stored, or is to be');

query(sprintf $reads, 3);
query("SELECT ledger.credit_user_usdc('$one', 1, 'x')");
$db->do("SELECT ledger.credit_user_usdc('$one', 1, 'by a session that is cut off')");
my $credits = counts('credit_user_usdc');
my $shadow = shadow('mirror_ok, mirror_failed, proofs, bypasses');
$node->restart;
$db = connection($node);
is(counts('credit_user_usdc'), $credits, 'a clean restart keeps what was counted');
is(shadow('mirror_ok, mirror_failed, proofs, bypasses'), $shadow, 'all of it');
ok(!-e $node->data_dir . '/pg_stat/ledger.stat', 'the file that kept it is gone');
ok(comes_true('SELECT reads = ' . ($before + 3) . ' FROM ledger.read_latency(NULL)'), 'what was not stored yet is, and nothing twice');
query(sprintf $reads, 1);
ok(comes_true('SELECT reads = ' . ($before + 4) . ' FROM ledger.read_latency(NULL)'), 'more is stored after it');

kill_and_start($node);
is(counted(), '', 'a crash drops what was counted');
query(sprintf $reads, 2);
ok(comes_true('SELECT reads = ' . ($before + 6) . ' FROM ledger.read_latency(NULL)'), 'what is stored outlives it');

# A backend that is killed takes the others with it, and the counters.
$db = connection($node);
$db->do("SELECT ledger.credit_user_usdc('$one', 1, 'x')");
is(counts('credit_user_usdc'), '1|1|0|0|0', 'counted again');
kill_process($node, $db->{pg_pid});
is(counted(), '', 'a backend that crashes drops them too');

# An immediate stop is none that is clean.
query("SELECT ledger.credit_user_usdc('$one', 1, 'x')");
$node->stop('immediate');
$node->start;
is(counted(), '', 'an immediate stop drops them');

# ---- trimmed ---------------------------------------------------------------------------

query("INSERT INTO ledger.read_timings (slot, source, bucket, count) VALUES (date_trunc('hour', now()) - interval '3 days', 'ledger', 1, 1)");
$node->append_conf('postgresql.conf', 'ledger.history_retention = 2');
$node->restart;
ok(comes_true('SELECT count(*) = 0 FROM ledger.read_timings WHERE bucket = 1 AND slot < now() - interval \'2 days\''), 'what is old is deleted');
is(query('SELECT reads FROM ledger.read_latency(NULL)'), $before + 6, 'and nothing else');

# ---- the compare -----------------------------------------------------------------------

# What a customer who differs is told and recorded for is no part of how long his balance takes to read.
sub reading
{
	query('SELECT ledger.stat_reset()');
	query("SET client_min_messages = error; SELECT count(ledger.get_user_balance(user_id)) FROM public.balances, generate_series(1, 200)");
	return query("SELECT p50_ms FROM ledger.stat_reads WHERE source = 'ledger'");
}

# If it were, no round would say otherwise; that the machine was busy in one of the two, one may.
my ($agreeing, $differing, $mismatches);
reading();
foreach (1 .. 10)
{
	$agreeing = reading();
	query('UPDATE public.balances SET pending_deposits = pending_deposits + 1');
	$differing = reading();
	$mismatches = shadow('mismatches');
	query('UPDATE public.balances SET pending_deposits = pending_deposits - 1');
	last if $differing < 2 * $agreeing;
}
cmp_ok($mismatches, '>', 100, 'customers differ');
cmp_ok($differing, '<', 2 * $agreeing, "their balances take as long to read: $differing, $agreeing ms");

ledger_ok($node, 'the ledger holds');
done_testing();
