# How many relation locks a call takes.  A backend has 16 slots for locks that
# need no shared table; one lock more slows down every session.

use strict;
use warnings;

use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

# what autovacuum locks would move ours to the shared table
my $node = ledger_node('locks', "autovacuum = off\n");
load_ledger($node);
legacy_table($node, 2);
attach($node, 'shadow_mode => true, strict_mode => true');
my $user = customer(1);
my ($first, $order, $deposit) = map { "00000000-0000-4000-9000-00000000000$_" } 1 .. 3;

my $db = connection($node, AutoCommit => 0);
my $watch = connection($node);

# The relation locks of the session's transaction: [relation, mode, fastpath].
sub locks
{
	return @{ $watch->selectall_arrayref(<<SQL, undef, $db->{pg_pid}) };
SELECT l.relation::regclass::text, string_agg(l.mode, ' ' ORDER BY l.mode), bool_and(l.fastpath)::text
FROM pg_locks l WHERE l.pid = ? AND l.locktype = 'relation' GROUP BY l.relation ORDER BY 1
SQL
}

my @calls = (
	[ 'credit' => "SELECT ledger.credit_user_usdc('$user', 100, 'x', gen_random_uuid())" ],
	[ 'replay' => "SELECT ledger.credit_user_usdc('$user', 7, 'x', '$deposit')" ],
	[ 'debit' => "SELECT ledger.debit_user_usdc('$user', 1, 'x', gen_random_uuid())" ],
	[ 'conversion' => "SELECT ledger.move_funds_to_fiat_exposure('$user', 1, 'x', gen_random_uuid())" ],
	[ 'reserve' => "SELECT ledger.reserve_for_investment('$user', 5, gen_random_uuid())" ],
	[ 'execute' => "SELECT ledger.execute_investment('$user', 1, '$order', gen_random_uuid()::text)" ],
	[ 'release' => "SELECT ledger.release_reservation('$user', 1, '$order', gen_random_uuid()::text)" ],
	[ 'reversal' => "SELECT ledger.reverse_transaction(ledger.find_transaction('credit_user_usdc:deposit:$deposit'), 'x', 0.01, gen_random_uuid())" ],
	[ 'sale' => "SELECT ledger.settle_sale('$user', 0.5, 0.6, '$order', gen_random_uuid()::text)" ],
	[ 'read' => "SELECT * FROM ledger.get_user_balance('$user')" ]);

# What a backend does once: caches, and accounts that are not there yet.
$db->do("SELECT ledger.credit_user_usdc('$user', 7, 'x', '$deposit')");
$db->do("SELECT ledger.reserve_for_investment('$user', 50, '$order')");
$db->commit;
foreach my $call (@calls)
{
	$db->do($call->[1]);
	$db->commit;
}

foreach my $call (@calls)
{
	my ($name, $sql) = @$call;
	my @locks;

	$db->do($sql);
	@locks = locks();
	my $strong = grep { $_->[2] ne 'true' } @locks;
	cmp_ok(scalar @locks, '<=', 16, "$name locks at most 16 relations")
	  and is($strong, 0, "$name: each in a slot of the session's own")
	  or diag(join "\n", map { "@$_" } @locks);
	note("$name: " . @locks);
	$db->commit;
}
$db->disconnect;
$watch->disconnect;
ledger_ok($node, 'the ledger holds');
$node->stop;
done_testing();
