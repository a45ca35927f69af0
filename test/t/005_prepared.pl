# Transactions that end otherwise than by COMMIT or ROLLBACK: prepared ones,
# also across a crash, and those that are cancelled, time out or lose their
# session.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $node = ledger_node('prepared');
load_ledger($node);
legacy_table($node, 5);
attach($node, 'shadow_mode => true, strict_mode => true');
my ($one, $two, $three, $four) = map { customer($_) } 1 .. 4;
my ($deposit, $order, $kept, $other) = map { "00000000-0000-4000-9000-00000000000$_" } 1 .. 4;

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# ---- prepared, across a crash ------------------------------------------------

query("SELECT ledger.credit_user_usdc(c, 1, 'opens him') FROM unnest(ARRAY['$one', '$three']::uuid[]) c");
query(<<SQL);
BEGIN;
SELECT ledger.credit_user_usdc('$one', 100, 'a deposit', '$deposit');
SELECT ledger.reserve_for_investment('$one', 60, '$order');
SELECT ledger.execute_investment('$one', 20, '$order', 'first');
PREPARE TRANSACTION 'stays';
BEGIN;
SELECT ledger.reserve_for_investment('$two', 7, '$other');
PREPARE TRANSACTION 'goes';
SQL

my $state = "SELECT * FROM ledger.get_user_balance('$one'); SELECT * FROM public.balances WHERE user_id = '$one'";
my $before = query($state);
$node->stop('immediate');
$node->start;
is(query('SELECT gid FROM pg_prepared_xacts ORDER BY gid'), "goes\nstays", 'both are there after a crash');
is(query($state), $before, 'and neither is seen');
is(query("SELECT ledger.find_transaction('credit_user_usdc:deposit:$deposit') IS NULL"), 't', 'nor is its key');

# Its locks are there: of the customer, of the key, and of the settings.
my $db = connection($node);
$db->do("SET lock_timeout = '200ms'");
foreach my $case (
	[ 'a posting for the customer', "SELECT ledger.debit_user_usdc('$one', 1, 'x')" ],
	[ 'the same request', "SELECT ledger.credit_user_usdc('$one', 100, 'a deposit', '$deposit')" ],
	[ 'a direct write to his legacy row', "UPDATE public.balances SET buying_power = 0 WHERE user_id = '$one'" ],
	[ 'a reservation of the order by somebody else', "SELECT ledger.reserve_for_investment('$three', 1, '$other')" ])
{
	is(code_of($db, $case->[1]), '55P03', "$case->[0] waits for it");
}
is(code_of($db, "SELECT ledger.reserve_for_investment('$three', 1)"), '', 'somebody else does not');
is(code_of($db, q{SELECT ledger.configure(shadow_mode => false, lock_wait => '100ms')}), '55P03', 'the settings do');
like($db->errstr, qr/Prepared transaction "goes".*Prepared transaction "stays"/s, 'configure() names them');
is(code_of($db, q{SELECT ledger.configure(lock_wait => '100ms')}), '', 'what changes nothing does not wait');

query("COMMIT PREPARED 'stays'; ROLLBACK PREPARED 'goes'");
is( query(<<SQL), "t\n102.00\n1041.00|30.00|40.00\n1081.000000000000000000|30.000000000000000000", 'committed, all of it is there');
SELECT ledger.credit_user_usdc('$one', 100, 'a deposit', '$deposit')
	= ledger.find_transaction('credit_user_usdc:deposit:$deposit');
SELECT ledger.get_account_balance(NULL, 'system_buffer_usdc');
SELECT usdc_balance, fiat_exposure, pending_investment FROM ledger.get_user_balance('$one');
SELECT pending_deposits, buying_power FROM public.balances WHERE user_id = '$one';
SQL
is( query(<<SQL), "t\n1\nt", 'rolled back, nothing of it is there, and its order is free');
SELECT ledger.find_transaction('reserve_for_investment:order:$other') IS NULL;
SELECT count(*) FROM ledger.reservations WHERE user_id IN ('$two', '$three');
SELECT ledger.reserve_for_investment('$three', 2, '$other') > 0;
SQL
ledger_ok($node, 'the ledger holds after COMMIT PREPARED and ROLLBACK PREPARED');

# Strict mode proves before it prepares.
$db->do("SET lock_timeout = 0");
$db->begin_work;
$db->do("SELECT ledger.credit_user_usdc('$two', 3, 'x')");
$db->do("UPDATE public.balances SET pending_deposits = pending_deposits + 3 WHERE user_id = '$two'");
is(code_of($db, "PREPARE TRANSACTION 'double'"), 'LG003', 'a double write cannot be prepared in strict mode');
$db->rollback;
is(query('SELECT count(*) FROM pg_prepared_xacts'), '0', 'and is not');

# ---- hazard 21: prepared, restarted, the cut-over, committed ----------------------

query(<<SQL);
BEGIN;
SELECT ledger.debit_user_usdc('$one', 2, 'over a restart');
PREPARE TRANSACTION 'in the way of the cut-over';
SQL
$db->disconnect;
$node->restart;
$db = connection($node);
is(code_of($db, q{CALL ledger.cut_over(force => true, reason => 'it cannot be forced')}), 'LG006', 'the cut-over is refused');
like($db->errstr, qr/no_prepared_transaction: 'in the way of the cut-over'/, 'and names it');
query("COMMIT PREPARED 'in the way of the cut-over'");
is(query("SELECT count(*) FROM ledger.compare_balances('$one') WHERE status <> 'match'"), '0', 'committed, both sides are equal');
ledger_ok($node, 'the ledger holds after a restart and COMMIT PREPARED');

# ---- waits that end early ----------------------------------------------------

# What a session of ours holds while the sub runs in others.
sub while_held
{
	my ($sql, $sub) = @_;
	my $holder = connection($node, AutoCommit => 0);

	$holder->do($sql);
	$sub->($holder);
	eval { $holder->rollback };
	$holder->disconnect;
}

# What a session that has failed may not leave behind.
sub is_clean
{
	my ($name) = @_;

	is(code_of($db, "SELECT ledger.credit_user_usdc('$two', 1, 'goes on')"), '', "$name: the session goes on");
	is(query("SELECT count(*) FROM pg_locks WHERE locktype <> 'virtualxid' AND pid = $db->{pg_pid}"), '0', "$name: and holds no lock");
}

# Each wait of the protocol: for the legacy row, for the key, for an account of
# the house that is one row.
query("SELECT ledger.set_account_stripes(ledger.open_account('system_buffer_usdc'), 0, 'one row')");
my %waits = (
	'legacy row' => [
		"UPDATE public.balances SET updated_at = now() WHERE user_id = '$two'",
		"SELECT ledger.credit_user_usdc('$two', 5, 'x', '$kept')" ],
	'key' => [
		"SELECT ledger.credit_user_usdc('$two', 5, 'x', '$kept')",
		"SELECT ledger.credit_user_usdc('$two', 5, 'x', '$kept')" ],
	'house account' => [
		"SELECT ledger.credit_user_usdc('$three', 5, 'x')",
		"SELECT ledger.credit_user_usdc('$two', 5, 'x', '$kept')" ],
	'reservation' => [
		"SELECT ledger.release_reservation('$one', 1, '$order')",
		"SELECT ledger.execute_investment('$one', 1, '$order', 'cancelled')" ]);
foreach my $what (sort keys %waits)
{
	my ($held, $sql) = @{ $waits{$what} };

	while_held($held, sub {
		$db->do("SET statement_timeout = '150ms'");
		is(code_of($db, $sql), '57014', "a wait for a $what times out");
		$db->do('SET statement_timeout = 0');
	});
	is_clean("timeout, $what");

	while_held($held, sub {
		my $watch = connection($node);
		my $canceller = client(sub {
			my $other = connection($node);
			wait_until(120, sub { $other->selectrow_array(
				"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = ?", undef, $db->{pg_pid}) })
			  or die "it does not wait\n";
			$other->do('SELECT pg_cancel_backend(?)', undef, $db->{pg_pid});
		});
		is(code_of($db, $sql), '57014', "a wait for a $what is cancelled");
		is(await($canceller), 0, 'while it waits');
	});
	is_clean("cancel, $what");
}

# A savepoint is enough to go on after a wait that timed out.
while_held("SELECT ledger.credit_user_usdc('$three', 5, 'x')", sub {
	my ($holder) = @_;

	$db->begin_work;
	$db->do("SELECT ledger.reserve_for_investment('$two', 5, '$kept')");
	$db->do('SAVEPOINT s');
	$db->do("SET LOCAL statement_timeout = '150ms'");
	is(code_of($db, "SELECT ledger.credit_user_usdc('$two', 5, 'x')"), '57014', 'a wait after a savepoint times out');
	$db->do('ROLLBACK TO s');
	$holder->rollback;
	$db->do("SELECT ledger.credit_user_usdc('$two', 5, 'x')");
	$db->commit;
	is(query("SELECT remaining FROM ledger.reservations WHERE order_id = '$kept'"), '5.00', 'and the transaction goes on');
});

# ---- sessions that go away ----------------------------------------------------

my %ends = (
	'idle_in_transaction_session_timeout' => sub { },
	'pg_terminate_backend()' => sub { query("SELECT pg_terminate_backend($_[0]->{pg_pid})") },
	'a client that goes away' => sub { $_[0]->disconnect });
foreach my $end (sort keys %ends)
{
	my $number = query('SELECT count(*) FROM ledger.journal');

	while_held(
		($end =~ /^idle/ ? "SET idle_in_transaction_session_timeout = '200ms'; " : '')
		  . "SELECT ledger.credit_user_usdc('$four', 5, 'lost')",
		sub {
			my ($holder) = @_;
			my $began = time;

			$ends{$end}->($holder);
			$db->do("SET statement_timeout = '60s'");
			is(code_of($db, "SELECT ledger.credit_user_usdc('$four', 2, 'x')"), '', "$end: its locks are released");
			$db->do('SET statement_timeout = 0');
			note(sprintf '%s: after %.2f s', $end, time - $began);
		});
	is(query("SELECT count(*) FROM ledger.transactions WHERE description = 'lost'"), '0', "$end: nothing of it is there");
}
is(query("SELECT count(*) FROM ledger.transactions WHERE user_id = '$four' AND type = 'opening'"), '1', 'a customer was opened once');
$db->disconnect;
ledger_ok($node, 'the ledger holds');
$node->stop;
done_testing();
