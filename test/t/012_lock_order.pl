# hazard 19: one call never deadlocks with another, nor with an application that
# writes the customer's legacy row before or after it in the same transaction:
# 64 clients, ten minutes of it in `make soak`.
#
# Fails without the legacy row's lock before the accounts' (ledger_mirror_lock()
# in mirror_users.c locks nothing: ledger_first and legacy_first deadlock).

use strict;
use warnings;

use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $customers = 12;
my $first = soak(2000, 50000);
my $seconds = seconds(15);

my $node = ledger_node('order', "deadlock_timeout = 200ms\n");
load_ledger($node);
legacy_table($node, $first);
attach($node, 'shadow_mode => true');
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION customer(n int) RETURNS uuid IMMUTABLE
	RETURN ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid;
CREATE FUNCTION attempt(call text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	id bigint;
BEGIN
	EXECUTE 'SELECT ' || call INTO id;
	RETURN id;
EXCEPTION WHEN SQLSTATE 'LG001' OR SQLSTATE 'LG008' OR SQLSTATE 'LG011' THEN
	RETURN NULL;
END
$$;
SQL

# One movement a transaction, the legacy row before it, after it or not at all.
my %movements = (
	credit => q{SELECT ledger.credit_user_usdc(customer(:n), 3, 'x', gen_random_uuid());},
	debit => q{SELECT attempt(format('ledger.debit_user_usdc(%L, 2, %L)', customer(:n), 'x'));},
	to_fiat => q{SELECT attempt(format('ledger.move_funds_to_fiat_exposure(%L, 2, %L)', customer(:n), 'x'));},
	to_usdc => q{SELECT attempt(format('ledger.move_funds_to_usdc(%L, 1, %L)', customer(:n), 'x'));},
	reserve => q{SELECT attempt(format('ledger.reserve_for_investment(%L, 5)', customer(:n)));},
	execute => q{SELECT attempt(format('ledger.execute_investment(%L, 3, %L)', customer(:n), gen_random_uuid()));},
	release => q{SELECT attempt(format('ledger.release_reservation(%L, 1)', customer(:n)));},
	sale => q{SELECT attempt(format('ledger.settle_sale(%L, 1, 2, %L)', customer(:n), gen_random_uuid()));},
	reverse => q{SELECT attempt(format('ledger.reverse_transaction(%s, %L)', transaction_id, 'x'))
			FROM ledger.user_history(customer(:n), max_rows => 1) WHERE type NOT IN ('reversal', 'gift');},
	# an account of its own, if nobody has opened it yet, then a posting to it
	open => q{SELECT ledger.post('bonus', ARRAY[(ledger.open_account('house_equity', NULL, 'USDC'),
			ledger.open_account('usdc_balance', customer(:n)), 1)::ledger.posting]);},
	# two customers in one call, in whichever order
	gift => <<'SQL');
\set m random(1, 12)
SELECT attempt(format('ledger.post(%L, ARRAY[(%s, %s, 1)::ledger.posting])', 'gift', a.account_id, b.account_id))
	FROM ledger.account_balances a, ledger.account_balances b
	WHERE a.user_id = customer(:n) AND b.user_id = customer(:m) AND :n <> :m
	AND a.account_type = 'usdc_balance' AND b.account_type = 'usdc_balance';
SQL
my %transactions = (
	alone => '%s',
	legacy_first => "BEGIN;\nUPDATE public.balances SET updated_at = now() WHERE user_id = customer(:n);\n%s\nCOMMIT;",
	ledger_first => "BEGIN;\n%s\nUPDATE public.balances SET updated_at = now() WHERE user_id = customer(:n);\nCOMMIT;");
my @files;
foreach my $movement (sort keys %movements)
{
	foreach my $transaction (sort keys %transactions)
	{
		# a gift is two customers': their legacy rows are locked by the call alone
		next if $movement eq 'gift' && $transaction eq 'legacy_first';
		push @files, '-f', $node->basedir . "/$movement.$transaction.sql";
		append_to_file($files[-1], "\\set n random(1, $customers)\n" . sprintf($transactions{$transaction}, $movements{$movement}) . "\n");
	}
}
# The house's own movements, between accounts that the others touch, too, and
# customers who are opened by their first movement.
push @files, '-f', $node->basedir . '/house.sql', '-f', $node->basedir . '/first.sql@3';
append_to_file($node->basedir . '/house.sql', <<'SQL');
SELECT ledger.convert_buffer('system_buffer_usdc', 'system_buffer_fiat', 3, 2.9);
SELECT ledger.convert_buffer('system_buffer_fiat', 'system_buffer_usdc', 2, 1.9);
SELECT ledger.post('held', ARRAY[(a.account_id, b.account_id, 1)::ledger.posting])
	FROM ledger.account_balances a, ledger.account_balances b
	WHERE a.account_type = 'system_buffer_usdc' AND b.account_type = 'opening_balance' AND b.currency = 'USDC';
SQL
push @files, '-f', $node->basedir . '/expire.sql@2';
append_to_file($node->basedir . '/expire.sql', <<SQL);
\\set n random(1, $customers)
SELECT attempt(format('ledger.reserve_for_investment(%L, 1, expires_at => now())', customer(:n)));
SELECT ledger.expire_reservations(3);
SQL
append_to_file($node->basedir . '/first.sql', "\\set n random(13, $first)\n$movements{credit}\n");

# The buffers are older than opening_balance; what else there is will be opened
# by all of them at once.
$node->safe_psql('postgres', <<'SQL');
SELECT ledger.replenish_buffer('system_buffer_usdc', 100), ledger.replenish_buffer('system_buffer_fiat', 100);
SQL

# 64 clients run the files, again on a machine that is slow; how many transactions
# had to be tried again.
sub no_deadlock
{
	my ($name, $level, $seconds, @files) = @_;
	my ($errors, $deadlocks, $count, $failed) = ('', 0, 0, 0);

	local $ENV{PGOPTIONS} = '-c client_min_messages=error -c default_transaction_isolation=' . $level =~ s/ /\\ /r;
	for (my $n = 0; $n < 20 && $count <= 200; $n++)
	{
		IPC::Run::run(
			[ 'pgbench', '-n', '-c', 64, '-T', $seconds, '--failures-detailed', @files, '-h', $node->host, '-p', $node->port, 'postgres' ],
			'<', \undef, '>', \my $out, '2>', \my $err);
		$errors .= $err if $err =~ /ERROR|aborted/;
		$deadlocks += ($out =~ /^number of deadlock failures: (\d+) /m)[0] // die "no figures: $out$err\n";
		$failed += ($out =~ /^number of serialization failures: (\d+)/m)[0];
		$count += ($out =~ /number of transactions actually processed: (\d+)/)[0];
	}
	is($errors, '', "$name: no client met an error");
	is($deadlocks, 0, "hazard 19, $name: no deadlock failure");
	cmp_ok($count, '>', 200, "$name: $count transactions, $failed to be tried again");
	return $failed;
}

is(no_deadlock('read committed', 'read committed', 0.6 * $seconds, @files), 0, 'read committed: none');
no_deadlock($_, $_, 0.2 * $seconds, @files) foreach 'repeatable read', 'serializable';
is($node->safe_psql('postgres', 'SELECT count(*) FROM ledger.discrepancies'), '0', 'no discrepancy');

# Old code that moves money in the table itself, captured and posted, beside the
# same transactions. What it writes after a posting for that customer is a double
# write, which is never posted.
$node->safe_psql('postgres', q{SELECT ledger.configure_capture('public.balances', 'post', 'a test')});
my $write = 'UPDATE public.balances SET pending_deposits = pending_deposits + 1, buying_power = buying_power + 0.5 WHERE user_id = customer(:n);';
my %writers = (
	alone => $write,
	twice => "BEGIN;\n$write\n$write\nCOMMIT;",
	first => "BEGIN;\n$write\n$movements{to_fiat}\nCOMMIT;",
	last => "BEGIN;\n$movements{to_fiat}\n$write\nCOMMIT;");
foreach my $writer (sort keys %writers)
{
	push @files, '-f', $node->basedir . "/writer.$writer.sql\@5";
	append_to_file($node->basedir . "/writer.$writer.sql", "\\set n random(1, $customers)\n$writers{$writer}\n");
}
no_deadlock('capture post', 'read committed', 0.4 * $seconds, @files);
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM ledger.transactions WHERE type = 'captured_write'}), '>', 20, 'writes were posted');
is($node->safe_psql('postgres', <<'SQL'), '', 'who differs has had a double write');
SELECT DISTINCT user_id FROM ledger.reconcile() WHERE status <> 'missing_ledger'
EXCEPT SELECT user_id FROM ledger.legacy_writes WHERE kind = 'double_write'
SQL
$node->safe_psql('postgres', q{SELECT count(*) FROM ledger.repair(dry_run => false, reason => 'double writes')});
is(join('', slurp_file($node->logfile) =~ /deadlock detected\n.*?\n(?=\d)/gs), '', 'no deadlock in the log');
# hazard 24: stamps are taken after the locks.
is($node->safe_psql('postgres', <<'SQL'), '0', 'hazard 24: along each plain account times are in the order of ids');
SELECT count(*) FROM (SELECT e.created_at, lag(e.created_at) OVER (PARTITION BY e.account_id ORDER BY e.transaction_id, e.ordinal) AS before
	FROM ledger.entries e WHERE e.balance_after IS NOT NULL) o
WHERE o.created_at < o.before
SQL
ledger_ok($node, 'the ledger holds');
$node->stop;
done_testing();
