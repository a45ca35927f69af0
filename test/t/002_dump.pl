# A dump restored into another database is the same ledger, and goes on: whole
# in each format, and its data alone into a database that has the extension.

use strict;
use warnings;

use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $node = ledger_node('dump');
my $dir = $node->basedir;

# A ledger with something in every table and sequence.
$node->safe_psql('postgres', 'CREATE DATABASE source');
load_ledger($node, 'source');
legacy_table($node, 5, 'source');
attach($node, q{shadow_mode => true, reason => 'week 1'}, 'source');
my ($one, $two, $three, $four) = map { customer($_) } 1 .. 4;
my ($order, $deposit) = map { "00000000-0000-4000-9000-00000000000$_" } 1, 2;
$node->safe_psql('source', <<SQL);
INSERT INTO ledger.currencies (code, scale, display_digits) VALUES ('EUR', 6, 2);
INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance, stripes, description) VALUES
	('spending_balance', 'user', 'EUR', 'credit', 0, 0, 'The customer''s EUR to spend'),
	('card_scheme', 'house', 'EUR', 'debit', NULL, 3, 'EUR at the card scheme');
SELECT ledger.credit_user_usdc('$one', 100.5, 'a deposit', '$deposit');
SELECT ledger.reserve_for_investment('$one', 60, '$order', now() + interval '1 year');
SELECT ledger.execute_investment('$one', 20, '$order', 'first');
SELECT ledger.release_reservation('$one', 5, '$order', 'partly');
SELECT ledger.reserve_for_investment('$two', 7);
SELECT ledger.reverse_transaction(ledger.debit_user_usdc('$two', 3, 'a mistake'), 'not his');
SELECT ledger.post('card_load', ARRAY[(ledger.open_account('card_scheme'),
	ledger.open_account('spending_balance', '$three'), 12.34)::ledger.posting],
	'load-1', metadata => '{"card": [1, null, "\\\\"]}', effective_at => '2026-01-01 00:00:00+00');
SELECT ledger.fund_broker(1000);
SELECT ledger.set_account_stripes(ledger.open_account('system_buffer_usdc'), 5, 'enough');
SELECT ledger.set_account_stripes(ledger.open_account('broker_operational'), 0, 'one row');
SELECT ledger.credit_user_usdc('$two', 11, 'another deposit');
SELECT ledger.set_account_status(ledger.open_account('fiat_exposure', '$three'), 'frozen', 'asked by the customer');
SELECT ledger.set_account_limit(ledger.open_account('system_buffer_fiat'), -5000, 'overdraft');
SELECT ledger.record_broker_account('{"id": "b1", "equity": "50", "cash": "20"}', '$one');
SELECT ledger.record_broker_positions('b1', '[{"symbol": "AAPL", "qty": "1", "cost_basis": "18", "market_value": "30"}]');
UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = '$two';
INSERT INTO ledger.evidence_losses (kind, at, last_at) VALUES ('crash', now(), now());
INSERT INTO ledger.test_clock_log (set_by, reason) VALUES ('a test', 'a test');
INSERT INTO ledger.cut_over_rehearsals (rehearsed_by, closed_gates, locked, lock_wait_ms, held_ms, predicted_stall_ms,
	users_checked, users_different) VALUES ('a test', '{}', true, 0, 0, 0, 0, 0);
INSERT INTO ledger.retirements (mapping_id, schema_name, old_name, new_name, retired_by, reason, last_transaction_id, restored_at)
	VALUES (1, 'public', 'balances', 'balances_retired', 'a test', 'a test', 1, now());
INSERT INTO ledger.roll_backs (started_by, from_state, reason, catch_up, finished_at) VALUES ('a test', 'cut_over', 'a test', true, now());
INSERT INTO ledger.read_timings (slot, source, bucket, count) VALUES ('2026-01-01 00:00:00+00', 'ledger', 30, 7);
INSERT INTO ledger.backfill_runs (total, started_at, updated_at, requested_by) VALUES (7, now(), now(), 'a test');
INSERT INTO ledger.backfill_waiting (run_id, mapping_id, user_id) VALUES (1, 1, '$one');
INSERT INTO ledger.backfill_findings (run_id, mapping_id, key, user_id, reason, detail, first_seen, last_seen)
	VALUES (1, 1, '$two', '$two', 'negative', 'a test', now(), now());
SET ledger.inbox_on_error = 'continue';
INSERT INTO ledger.inbox (type, amount, debit_type, credit_type) VALUES ('refused', 0, 'system_buffer_usdc', 'house_equity');
SELECT ledger.ignore_discrepancy('$four', NULL, 'known', now() + interval '1 year');
CALL ledger.run_reconciliation();
SELECT ledger.repair(dry_run => false, reason => 'an old code path');
SQL

# What of a database must come back: rows and sequences of the ledger, the
# legacy table, and every trigger on them.
sub contents
{
	my ($database, $what) = @_;
	my $tables = $node->safe_psql($database, q{
		SELECT c.oid::regclass FROM pg_class c
		WHERE (c.relnamespace = 'ledger'::regnamespace OR c.oid = 'public.balances'::regclass) AND c.relkind = 'r'
			AND c.relname <> 'discrepancy_changes'
		ORDER BY 1});
	my $sequences = $node->safe_psql($database, q{
		SELECT c.oid::regclass FROM pg_class c
		WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'S' ORDER BY 1});

	return $node->safe_psql($database, join ";\n", (
		(map { "SELECT '$_', t FROM $_ AS t ORDER BY t::text COLLATE \"C\"" } split /\n/, $tables),
		(map { "SELECT '$_', last_value, is_called FROM $_" } split /\n/, $sequences),
		q{SELECT 'balances', b FROM ledger.account_balances b ORDER BY b.account_id},
		q{SELECT t.tgrelid::regclass, t.tgenabled, pg_get_triggerdef(t.oid) FROM pg_trigger t
			JOIN pg_class c ON c.oid = t.tgrelid
			WHERE NOT t.tgisinternal AND (c.relnamespace = 'ledger'::regnamespace OR c.relname = 'balances')
			ORDER BY 1, 3}));
}

# Passes if a restored database has the same contents; shows what differs.
sub same
{
	my ($got, $expected, $name) = @_;
	my %got = map { $_ => 1 } split /\n/, $got;
	my %expected = map { $_ => 1 } split /\n/, $expected;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is( join("\n", grep { !$expected{$_} } sort keys %got),
		join("\n", grep { !$got{$_} } sort keys %expected), $name);
}

# The SQLSTATE that a statement fails with.
sub code_of_psql
{
	my ($database, $sql) = @_;
	my $db = connection($node, database => $database);
	my $code = code_of($db, $sql);

	$db->disconnect;
	return $code;
}

# The restored ledger goes on where the dumped one stood.
sub goes_on
{
	my ($database, $name) = @_;
	my $last = $node->safe_psql($database, 'SELECT max(transaction_id) FROM ledger.journal');
	my $money = 'SELECT user_id, buying_power, pending_deposits FROM public.balances ORDER BY user_id';
	my $before = $node->safe_psql($database, $money);

	# hazard 35: a copy posts nothing until it is told to
	is($node->safe_psql($database, 'SELECT ledger.is_copy()'), 't', "$name: it is a copy");
	is(code_of_psql($database, "SELECT ledger.credit_user_usdc('$one', 1, 'too soon')"), '55000', "$name: which posts nothing");
	is($node->safe_psql($database, $money), $before, "$name: nor mirrors");
	$node->safe_psql($database, q{SELECT ledger.resume('restored')});
	is( $node->safe_psql($database, <<SQL), "t\nt\nt\n$order", "$name: what was posted is not posted again");
SELECT ledger.credit_user_usdc('$one', 100.5, 'a deposit', '$deposit')
	= ledger.find_transaction('credit_user_usdc:deposit:$deposit');
SELECT ledger.execute_investment('$one', 20, '$order', 'first')
	= ledger.find_transaction('execute_investment:$order:first');
SELECT max(transaction_id) = $last FROM ledger.journal;
SELECT order_id FROM ledger.reservations WHERE remaining = 35 AND status = 'active';
SQL
	is($node->safe_psql($database, $money), $before, "$name: and moves no legacy row");
	cmp_ok($node->safe_psql($database, "SELECT ledger.credit_user_usdc('$one', 1, 'goes on')"),
		'==', $last + 1, "$name: the next transaction has the next id");
	is( $node->safe_psql($database, <<SQL), "t\n65.00\nexecuted\n12.34\nt\n1", "$name: reservations, types and openings go on");
SELECT ledger.execute_investment('$one', 35, '$order', 'second') > $last;
SELECT ledger.get_account_balance('$one', 'fiat_exposure');
SELECT status FROM ledger.reservations WHERE order_id = '$order';
SELECT ledger.get_account_balance('$three', 'spending_balance');
SELECT ledger.credit_user_usdc('$four', 1, 'the first of him') > $last;
SELECT count(*) FROM ledger.transactions WHERE user_id = '$four' AND type = 'opening';
SQL
	ledger_ok($node, "$name: the ledger holds", $database);
}

my $source = contents('source');
my @empty = grep { $source !~ /^ledger\.$_\|/m } split /\n/, $node->safe_psql('source', q{
	SELECT relname FROM pg_class WHERE relnamespace = 'ledger'::regnamespace AND relkind IN ('r', 'S') ORDER BY 1});
is("@empty", 'evidence_pending gate_states reconciliation_users worker_heartbeat write_samples', 'every table has rows, but for what is at work, which is not dumped');
ledger_ok($node, 'the ledger holds before it is dumped', 'source');

$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/custom", 'source' ], 'dumped in custom format');
$node->command_ok([ 'pg_dump', '-Fp', '-f', "$dir/plain", 'source' ], 'dumped as SQL');
$node->command_ok([ 'pg_dump', '-Fd', '-j', 2, '-f', "$dir/directory", 'source' ], 'dumped into a directory');

# Everything, into an empty database.
$node->safe_psql('postgres', 'CREATE DATABASE custom; CREATE DATABASE plain; CREATE DATABASE directory');
$node->command_ok([ 'pg_restore', '-e', '-d', 'custom', "$dir/custom" ], 'custom: restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'plain', '-f', "$dir/plain" ], 'plain: restored');
$node->command_ok([ 'pg_restore', '-e', '-j', 2, '-d', 'directory', "$dir/directory" ], 'directory: restored in parallel');
foreach my $database (qw(custom plain directory))
{
	same(contents($database), $source, "$database: the same ledger");
	is($node->safe_psql($database, 'SELECT sum(count) = (SELECT count(*) FROM ledger.discrepancies) FROM ledger.discrepancy_changes'),
		't', "$database: each discrepancy counts once");
	goes_on($database, $database);
}

# The data alone, into databases that have the extension already: with a
# legacy table that was never attached there, and with one that has its
# triggers, which pg_restore disables or not. rearm() puts back what is missing.
foreach my $case (
	[ 'fresh', 'capture_triggers' ],
	[ 'schema', '' ],
	[ 'fresh_disabled', 'capture_triggers own_triggers', '--disable-triggers' ],
	[ 'schema_disabled', 'capture_triggers own_triggers', '--disable-triggers' ])
{
	my ($database, $found, @options) = @$case;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	if ($database =~ /schema/)
	{
		$node->command_ok([ 'pg_restore', '-e', '--schema-only', '-d', $database, "$dir/custom" ],
			"$database: schema restored");
	}
	else
	{
		load_ledger($node, $database);
		legacy_table($node, 0, $database);
	}
	$node->command_ok([ 'pg_restore', '-e', '--data-only', @options, '-d', $database, "$dir/custom" ],
		"$database: data restored");
	is($node->safe_psql($database, q{SELECT string_agg(check_name, ' ' ORDER BY check_name) FROM ledger.verify() WHERE NOT passed}),
		$found, "$database: verify() finds triggers that are not armed, and nothing else");
	$node->safe_psql($database, 'SELECT * FROM ledger.rearm()');
	same(contents($database), $source, "$database: the same ledger");
	goes_on($database, $database);
}
$node->stop;
done_testing();
