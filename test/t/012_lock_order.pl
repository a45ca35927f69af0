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
foreach my $level ('read committed', 'repeatable read', 'serializable')
{
	my ($out, $err);
	my $share = $level eq 'read committed' ? 0.6 : 0.2;

	local $ENV{PGOPTIONS} = "-c default_transaction_isolation=" . $level =~ s/ /\\ /r;
	IPC::Run::run(
		[ 'pgbench', '-n', '-c', 64, '-T', $share * $seconds, '--failures-detailed', @files, '-h', $node->host, '-p', $node->port, 'postgres' ],
		'<', \undef, '>', \$out, '2>', \$err);
	unlike($err, qr/ERROR|aborted/, "$level: no client met an error") or diag($err);
	like($out, qr/^number of deadlock failures: 0 /m, "hazard 19, $level: no deadlock failure") or diag($out);
	my ($count) = $out =~ /number of transactions actually processed: (\d+)/;
	my ($failed) = $out =~ /^number of serialization failures: (\d+)/m;
	cmp_ok($count, '>', 200, "$level: $count transactions, $failed to be tried again");
	is($failed, 0, "$level: none") if $level eq 'read committed';
}
is(join('', slurp_file($node->logfile) =~ /deadlock detected\n.*?\n(?=\d)/gs), '', 'no deadlock in the log');
is($node->safe_psql('postgres', 'SELECT count(*) FROM ledger.discrepancies'), '0', 'no discrepancy');
ledger_ok($node, 'the ledger holds');
$node->stop;
done_testing();
