# Accounts spread over rows: a prepared posting keeps its stripe, over a crash
# too, and holds up nobody until all are taken; who waits goes on with whichever
# becomes free; the number of stripes changes under load.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use constant CLIENTS => 16;

my $seconds = seconds(6);
my $node = ledger_node('stripes');
load_ledger($node);
my @customers = map { customer($_) } 0 .. CLIENTS;

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub stripes
{
	my ($n, $type) = @_;
	$type //= 'system_buffer_usdc';
	return "SELECT ledger.set_account_stripes(ledger.open_account('$type'), $n, 'test', '60s')";
}

sub prepare
{
	my ($name, $customer) = @_;
	query("BEGIN; SELECT ledger.credit_user_usdc('$customer', 1, '$name'); PREPARE TRANSACTION '$name'");
}

query("SELECT ledger.credit_user_usdc(c, 100, 'setup') FROM unnest('{@{[ join ',', @customers ]}}'::uuid[]) c");

# ---- prepared ------------------------------------------------------------------

query(stripes(4));
prepare("p$_", $customers[$_]) foreach 1 .. 3;
$node->stop('immediate');
$node->start;
is(query('SELECT count(*) FROM pg_prepared_xacts'), '3', 'prepared postings are there after a crash');

my $db = connection($node);
$db->do("SET lock_timeout = '500ms'");
foreach my $n (4 .. 12)
{
	my $other = connection($node);
	$other->do("SET lock_timeout = '500ms'");
	is(code_of($other, "SELECT ledger.credit_user_usdc('$customers[$n]', 10, 'x')"), '', "posting $n goes past three stripes that are held");
	$other->disconnect;
}
$db->begin_work;
is(code_of($db, "SELECT ledger.credit_user_usdc('$customers[5]', 10, 'x'), ledger.debit_user_usdc('$customers[6]', 10, 'x')"), '',
	'a transaction of two calls needs one stripe');
$db->commit;

prepare('p4', $customers[4]);
is(code_of($db, "SELECT ledger.credit_user_usdc('$customers[5]', 10, 'x')"), '55P03', 'all four held, a posting waits');
is(code_of($db, "SELECT ledger.reserve_for_investment('$customers[5]', 10)"), '', 'one that does not touch the account does not');
is(code_of($db, q{SELECT ledger.set_account_stripes(ledger.open_account('system_buffer_usdc'), 8, 'more', '100ms')}), '55P03',
	'more stripes have to wait, too');
like($db->errstr, qr/Prepared transaction "p1".*Prepared transaction "p4"/s, 'and name who is in the way');
$node->restart;
$db = connection($node);
$db->do("SET lock_timeout = '500ms'");
is(code_of($db, "SELECT ledger.credit_user_usdc('$customers[5]', 10, 'x')"), '55P03', 'so after a restart');
query("COMMIT PREPARED 'p1'");
is(code_of($db, "SELECT ledger.credit_user_usdc('$customers[5]', 10, 'x')"), '', 'one committed, it goes on');
query("ROLLBACK PREPARED 'p2'; ROLLBACK PREPARED 'p4'");
is(code_of($db, "SELECT ledger.credit_user_usdc('$customers[$_]', 10, 'x')"), '', "others rolled back, $_ goes on") foreach 6, 7;
query("COMMIT PREPARED 'p3'");
is(query("SELECT ledger.get_account_balance(NULL, 'system_buffer_usdc')"), 100 * @customers + 10 * 12 + 2 . '.00', 'and all is there');
ledger_ok($node, 'the ledger holds after prepared transactions');

# ---- the one that becomes free -----------------------------------------------------

# It waits for one of two; that one ends and the other stays, or the other way round.
query(stripes(2));
foreach my $case ([ 'commit', 0 ], [ 'rollback', 0 ], [ 'commit', 1 ])
{
	my ($end, $other_ends) = @$case;
	my @holders = map { connection($node, AutoCommit => 0) } 1, 2;
	my @pids = map { $_->{pg_pid} } @holders;
	my ($waiter, $blocker, $finished);

	$holders[$_]->do("SELECT ledger.credit_user_usdc('$customers[$_]', 1, 'x')") foreach 0, 1;
	$waiter = client(sub {
		my $other = connection($node);
		$other->do("SET application_name = 'waiter'; SET statement_timeout = '120s'");
		$other->do("SELECT ledger.credit_user_usdc('$customers[3]', 1, 'x')");
	});
	wait_until(100, sub {
		($blocker) = $db->selectrow_array(
			q{SELECT (pg_blocking_pids(pid))[1] FROM pg_stat_activity WHERE application_name = 'waiter' AND wait_event_type = 'Lock'});
		return defined $blocker;
	});
	my ($first) = grep { $pids[$_] == $blocker } 0, 1;
	$first = 1 - $first if $other_ends;
	$holders[$first]->$end;
	is(await($waiter), 0, "$end of the one that is " . ($other_ends ? 'not ' : '') . 'waited for: the waiter goes on');
	$holders[ 1 - $first ]->rollback;
	$_->disconnect foreach @holders;
}

# Two sessions and one stripe each of two accounts: no deadlock, one waits.
query("SELECT ledger.replenish_buffer('system_buffer_usdc', 1)");
query(join ';', map { stripes(1, $_) } 'system_buffer_usdc', 'house_equity\', NULL, \'USDC');
my @funders = map {
	client(sub {
		my $other = connection($node);
		$other->do("SELECT ledger.replenish_buffer('system_buffer_usdc', 0.01, gen_random_uuid())") foreach 1 .. 200;
	})
} 1 .. 4;
is(await(@funders), 0, 'movements of the house alone do not deadlock on single stripes');
ledger_ok($node, 'the ledger holds with few stripes');

# ---- the number changes under load -------------------------------------------------

query('CREATE TABLE outcomes (kind text, code text, n bigint)');
query("SELECT ledger.replenish_buffer('system_buffer_fiat', 1000000), ledger.fund_broker(1000)");
query(stripes(128) . ';' . stripes(128, 'house_equity\', NULL, \'USDC'));

# The clients go on until there is this file, or for very long.
my $done = $node->basedir . '/done';
my $end = time + $seconds + 300;
my $begun = time;
sub go_on { return time < $end && !-e $done }

my %movements = (
	'single' => [
		sub { "SELECT ledger.credit_user_usdc('$_[0]', 1, 'x', gen_random_uuid())" },
		sub { "SELECT ledger.debit_user_usdc('$_[0]', 0.5, 'x')" },
		sub { "SELECT ledger.move_funds_to_fiat_exposure('$_[0]', 0.25, 'x')" },
		sub { 'SELECT ledger.fund_broker(0.01, gen_random_uuid())' },
		sub { "SELECT ledger.convert_buffer('system_buffer_usdc', 'system_buffer_fiat', 0.02, 0.01)" },
		sub { "SELECT ledger.reverse_transaction(ledger.credit_user_usdc('$_[0]', 2, 'x'), 'not his')" },
		sub { "SELECT ledger.reverse_transaction(ledger.fund_broker(0.01), 'not now', NULL, gen_random_uuid())" } ],
	'several' => [
		sub { "BEGIN; SELECT ledger.credit_user_usdc('$_[0]', 1, 'x'); SAVEPOINT s; SELECT ledger.debit_user_usdc('$_[0]', 1, 'x'); ROLLBACK TO s;"
			. " SELECT ledger.move_funds_to_fiat_exposure('$_[0]', 0.25, 'x'); COMMIT" } ],
	'snapshot' => [
		sub { "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT ledger.get_account_balance(NULL, 'system_buffer_usdc'); SELECT ledger.credit_user_usdc('$_[0]', 1, 'x'); COMMIT" },
		sub { "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT ledger.credit_user_usdc('$_[0]', 1, 'x'); COMMIT" } ]);

# Posts until it is to end and stores how its movements ended, now and then
# meanwhile.
sub post_all_the_time
{
	my ($kind, $customer) = @_;
	my $other = connection($node);
	my %outcomes;

	for (my $n = 0; go_on(); $n++)
	{
		my $movement = $movements{$kind}[ $n % @{ $movements{$kind} } ];
		my $code = code_of($other, $movement->($customer));

		$outcomes{$code}++;
		$other->do('ROLLBACK') if $code && $kind ne 'single';
		store($other, $kind, \%outcomes) if $n % 100 == 99 || $n == 20;
	}
	store($other, $kind, \%outcomes);
}

sub store
{
	my ($other, $kind, $outcomes) = @_;

	$other->do('INSERT INTO outcomes VALUES (?, ?, ?)', undef, $kind, $_, $outcomes->{$_}) foreach keys %$outcomes;
	%$outcomes = ();
}

# Both sides of every currency, the view and the function, in one snapshot.
my $sides = <<'SQL';
SELECT b.currency, sum(b.balance) FILTER (WHERE t.normal_side = 'debit'), sum(b.balance) FILTER (WHERE t.normal_side = 'credit')
FROM ledger.account_balances b JOIN ledger.account_types t ON t.name = b.account_type
GROUP BY b.currency
HAVING sum(b.balance) FILTER (WHERE t.normal_side = 'debit') <> sum(b.balance) FILTER (WHERE t.normal_side = 'credit')
UNION ALL
SELECT b.account_type, b.balance, ledger.get_account_balance(NULL, b.account_type)
FROM ledger.account_balances b WHERE b.account_type IN ('system_buffer_usdc', 'system_buffer_fiat', 'broker_operational')
	AND b.balance <> ledger.get_account_balance(NULL, b.account_type)
SQL
my $kind = sub { $_[0] <= 10 ? 'single' : $_[0] <= 13 ? 'several' : 'snapshot' };
my @clients = map { my $n = $_; client(sub { post_all_the_time($kind->($n), $customers[$n]) }) } 1 .. CLIENTS;
push @clients, client(sub {
	my $other = connection($node);
	while (go_on())
	{
		my $found = $other->selectall_arrayref($sides);
		die join('; ', map { "@$_" } @$found) . "\n" if @$found;
		sleep 0.01;
	}
});

my %changes;
my $all = "SELECT count(*) = 3 FROM (SELECT FROM outcomes WHERE code = '' GROUP BY kind HAVING sum(n) > 10) k";
# until all got on, however slow the machine is
for (my $n = 0; time < $begun + $seconds || (time < $end && ($n < 9 || !$db->selectrow_array($all))); $n++)
{
	my $stripes = (0, 8, 128)[ $n % 3 ];
	my $type = ('system_buffer_usdc', 'broker_operational', 'fx_clearing\', NULL, \'USDC')[ int($n / 3) % 3 ];

	$changes{ code_of($db, stripes($stripes, $type)) }++;
	sleep 0.02;
}
append_to_file($done, '');
is(await(@clients), 0, 'both sides are equal at every moment, and no client failed');
is(join(' ', sort keys %changes), '', 'the number of stripes was changed each time');
cmp_ok($changes{''}, '>=', 9, 'often enough');
note("$changes{''} changes; ", join ', ', map { join ' ', @$_ } @{ $db->selectall_arrayref(
	"SELECT kind, COALESCE(NULLIF(code, ''), 'posted'), sum(n) FROM outcomes GROUP BY 1, 2 ORDER BY 1, 2") });
is(query("SELECT code FROM outcomes WHERE kind = 'single' AND code <> '' GROUP BY 1"), '', 'single movements never fail');
is(query("SELECT kind, code FROM outcomes WHERE code NOT IN ('', '40001', '40P01') GROUP BY 1, 2"), '', 'others only so that they may be retried');
is(query($all), 't', 'all got on with their work');
is(query("SELECT count(DISTINCT a.stripes) > 1 FROM ledger.account_status_log a"), 't', 'with several numbers of stripes');
$db->disconnect;
ledger_ok($node, 'the ledger holds after all');
$node->stop;
done_testing();
