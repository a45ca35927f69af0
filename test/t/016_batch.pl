# Batches against single calls: one random list of transfers, posted one by one
# in one database and in batches of random sizes in another, gives the same
# results, accounts, journal and legacy rows; with shadow mode and without.
# Then batches beside each other, and a server that is killed under them.
#
# LEDGER_SEED=n: another list; LEDGER_STEPS=n: a longer or shorter one.

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use LedgerTest;
use PostgreSQL::Test::Utils;

use constant { CUSTOMERS => 12, NEW => 20, CLIENTS => 4 };

my $seed = $ENV{LEDGER_SEED} // 4711;
my $steps = $ENV{LEDGER_STEPS} // soak(3_000, 60_000);
my $node = ledger_node('batch', <<CONF);
deadlock_timeout = 20ms
CONF
my $list = PostgreSQL::Test::Utils::tempdir() . '/list';

note("LEDGER_SEED=$seed, $steps transfers");
srand $seed;

sub one_of { return $_[ int rand @_ ] }

# One transfer of the list as a line of COPY: most can be posted, some cannot.
sub transfer
{
	my ($n) = @_;
	my $null = '\N';
	my $user = customer(1 + int rand(rand() < 0.9 ? CUSTOMERS : NEW));
	my $other = 1 + int rand 2 * CUSTOMERS;
	my %t = (
		type => one_of(qw(deposit withdrawal gift fee)),
		debit => $null, credit => $null,
		amount => sprintf('%.2f', rand(rand() < 0.95 ? 60 : 5000)),
		key => rand() < 0.7 ? 'key ' . int rand($steps / 2) : $null,
		user => $user,
		debit_type => $null, credit_type => $null, currency => $null,
		reference => rand() < 0.1 ? customer(1000 + int rand $steps / 10) : $null,
		reference_type => $null,
		description => rand() < 0.2 ? "transfer $n" : $null,
		metadata => rand() < 0.1 ? qq({"n": $n}) : $null,
		effective => rand() < 0.05 ? '2024-02-29 12:00:00+00' : $null);

	if ($t{type} eq 'deposit') { @t{qw(debit_type credit_type)} = qw(system_buffer_usdc usdc_balance) }
	elsif ($t{type} eq 'withdrawal') { @t{qw(debit_type credit_type)} = qw(usdc_balance system_buffer_usdc) }
	elsif ($t{type} eq 'gift') { @t{qw(debit credit)} = ($other, 1 + int rand 2 * CUSTOMERS) }
	else { @t{qw(debit credit_type currency)} = ($other, 'house_equity', 'USDC') }

	my $wrong = rand();
	if ($wrong < 0.01) { $t{amount} = one_of($null, 0, -1, 'NaN', '1e20', '1e-19') }
	elsif ($wrong < 0.02) { $t{debit_type} = one_of('pending_investment', 'no_such_type') if $t{debit} eq $null }
	elsif ($wrong < 0.03) { $t{debit} = 100_000 if $t{debit_type} eq $null }
	elsif ($wrong < 0.035) { $t{type} = $null }
	elsif ($wrong < 0.04) { $t{effective} = 'infinity' }
	return join "\t", @t{qw(type debit credit amount key user debit_type credit_type currency
		reference reference_type description metadata effective)};
}

# Some come again as they were, soon or late.
my @lines;
push @lines, @lines && rand() < 0.1 ? one_of(rand() < 0.5 ? $lines[-1] : @lines) : transfer($_) for 1 .. $steps;
open my $out, '>', $list or die "$list: $!\n";
print {$out} "$_\n" for @lines;
close $out;

# A database in which everybody has an account and some money, and one is frozen.
sub prepare
{
	my ($database, $shadow) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	load_ledger($node, $database);
	legacy_table($node, CUSTOMERS, $database) if $shadow;
	attach($node, 'shadow_mode => true', $database) if $shadow;
	$node->safe_psql($database, sprintf <<'SQL', CUSTOMERS, CUSTOMERS);
CREATE TABLE public.list (LIKE ledger.inbox, n int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
CREATE TABLE public.results (n int PRIMARY KEY, result text, transaction_id bigint, message text);
SELECT ledger.open_account('usdc_balance', ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid),
	ledger.open_account('fiat_exposure', ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid)
	FROM generate_series(1, %d) n;
SELECT ledger.credit_user_usdc(('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 200, 'to begin with') FROM generate_series(1, %d) n;
SELECT ledger.set_account_status(ledger.open_account('usdc_balance', '00000000-0000-4000-8000-000000000003'), 'frozen', 'test');

/* The transfer as a single call. */
CREATE FUNCTION public.account(named bigint, type text, user_id uuid, currency text) RETURNS bigint LANGUAGE sql AS
$$ SELECT COALESCE(named, ledger.open_account(type,
	CASE WHEN EXISTS (SELECT FROM ledger.account_types t WHERE t.name = type AND t.owner = 'user') THEN user_id END,
	CASE WHEN EXISTS (SELECT FROM ledger.account_types t WHERE t.name = type AND t.currency IS NULL) THEN currency END)) $$;
CREATE PROCEDURE public.single(i public.list) LANGUAGE plpgsql AS $$
DECLARE
	id bigint;
	seen bigint;
BEGIN
	IF i.type IS NULL THEN
		PERFORM ledger.post(NULL, NULL);
	END IF;
	seen := (SELECT last_value FROM ledger.transaction_id_seq);
	id := ledger.post(i.type, ARRAY[ROW(public.account(i.debit_account, i.debit_type, i.user_id, i.currency),
		public.account(i.credit_account, i.credit_type, i.user_id, i.currency), i.amount)::ledger.posting],
		i.idempotency_key, i.user_id, i.reference_id, i.reference_type, i.description, i.metadata, i.effective_at);
	INSERT INTO public.results VALUES (i.n, CASE WHEN id > seen THEN 'posted' ELSE 'replayed' END, id);
EXCEPTION WHEN OTHERS THEN
	INSERT INTO public.results VALUES (i.n, SQLSTATE, NULL, SQLERRM);
END
$$;
SQL
	$node->safe_psql($database, "COPY public.list (type, debit_account, credit_account, amount, idempotency_key, user_id,"
		. " debit_type, credit_type, currency, reference_id, reference_type, description, metadata, effective_at) FROM '$list'");
}

sub post_singly
{
	my ($database) = @_;

	$node->safe_psql($database,
		'DO $$ DECLARE i public.list; BEGIN FOR i IN SELECT * FROM public.list ORDER BY n LOOP CALL public.single(i); COMMIT; END LOOP; END $$');
}

my $columns = 'type, debit_account, credit_account, amount, idempotency_key, user_id, debit_type,'
	. ' credit_type, currency, reference_id, reference_type, description, metadata, effective_at';

# Batches of random sizes, by the function or by the inbox, several in a transaction.
sub post_in_batches
{
	my ($database) = @_;
	my $db = connection($node, database => $database);
	my $from = 1;

	$db->do("SET ledger.inbox_on_error = 'continue'");
	$db->begin_work;
	while ($from <= $steps)
	{
		my $to = $from + int rand(one_of(3, 50, 600));
		if (rand() < 0.7)
		{
			$db->do("INSERT INTO public.results SELECT item + $from - 1, result, transaction_id, message"
				. " FROM ledger.post_batch(ARRAY(SELECT ROW($columns)::ledger.transfer FROM public.list"
				. " WHERE n BETWEEN $from AND $to ORDER BY n), 'continue')");
		}
		else
		{
			$db->do("INSERT INTO ledger.inbox ($columns) SELECT $columns FROM public.list WHERE n BETWEEN $from AND $to ORDER BY n");
			$db->do("INSERT INTO public.results SELECT l.n, COALESCE(r.result, 'posted'), r.transaction_id, r.message"
				. " FROM public.list l LEFT JOIN ledger.inbox_results r ON r.item = l.n - $from + 1 WHERE l.n BETWEEN $from AND $to");
			$db->do('DELETE FROM ledger.inbox_results');
		}
		$from = $to + 1;
		if (rand() < 0.5) { $db->commit; $db->begin_work }
	}
	$db->commit;
	$db->disconnect;
}

# What the two databases are compared by, as text, without what is a clock's or a process's.
my %compared = (
	results => 'SELECT n, result, CASE WHEN result = $$posted$$ THEN NULL ELSE transaction_id END, message FROM public.results ORDER BY n',
	accounts => 'SELECT b.user_id, b.account_type, b.currency, b.debits, b.credits, b.balance, b.version, b.status'
		. ' FROM ledger.account_balances b ORDER BY 1, 2, 3',
	opened => 'SELECT user_id, max(opened) FROM ledger.accounts WHERE user_id IS NOT NULL GROUP BY 1 ORDER BY 1',
	journal => 'SELECT j.transaction_id, j.ordinal, d.user_id, d.account_type, d.currency, c.user_id, c.account_type, c.currency,'
		. ' j.amount, j.debit_balance_after, j.credit_balance_after, j.type, j.user_id, j.reference_id, j.reference_type, j.key,'
		. ' j.description, j.metadata, j.effective_at, j.reverses, j.posted_by'
		. ' FROM ledger.journal j JOIN ledger.accounts d ON d.id = j.debit_account_id JOIN ledger.accounts c ON c.id = j.credit_account_id'
		. ' ORDER BY 1, 2');

foreach my $shadow (0, 1)
{
	my $title = $shadow ? 'shadow mode' : 'no legacy table';
	my ($single, $batch) = map { $_ . $shadow } qw(single batch);
	my %what = %compared;

	$what{legacy} = 'SELECT user_id, buying_power, pending_deposits FROM public.balances ORDER BY 1' if $shadow;
	$what{discrepancies} = 'SELECT user_id, legacy_column, cause FROM ledger.discrepancies ORDER BY 1, 2, 3' if $shadow;
	prepare($_, $shadow) for $single, $batch;
	post_singly($single);
	post_in_batches($batch);
	foreach my $name (sort keys %what)
	{
		my ($one, $many) = map { [ split /\n/, $node->safe_psql($_, $what{$name}) ] } $single, $batch;
		my @different = grep { ($one->[$_] // '') ne ($many->[$_] // '') } 0 .. ($#$one > $#$many ? $#$one : $#$many);

		is(scalar @different, 0, "$title: $name");
		diag("singly:     $one->[$_]\n in batches: $many->[$_]") for grep { defined } @different[ 0 .. 2 ];
	}
	ledger_ok($node, "$title: the ledger after single calls", $single);
	ledger_ok($node, "$title: the ledger after batches", $batch);
	note($node->safe_psql($batch, 'SELECT result, count(*) FROM public.results GROUP BY 1 ORDER BY 1'));
}

# Beside each other: few users, keys that clients share, whole batches and what can be posted of them.
prepare('beside', 1);

sub load
{
	my ($client, $end) = @_;
	my $db = connection($node, database => 'beside');
	my $n = 0;

	srand $seed + $client;
	while (time < $end)
	{
		my $on_error = one_of('stop', 'continue');
		my $size = 1 + int rand 40;
		my $name = "batch $client " . $n++ . " $on_error $size";
		my $items = join ', ', map {
			my ($debit, $credit) = rand() < 0.6 ? qw(system_buffer_usdc usdc_balance) : qw(usdc_balance system_buffer_usdc);
			my $key = $on_error eq 'stop' ? "'$name $_'" : rand() < 0.5 ? "'shared " . int(rand 3000) . "'" : 'NULL';
			sprintf q{ROW('move', NULL, NULL, %.2f, %s, '%s', '%s', '%s', NULL, NULL, NULL, '%s', NULL, NULL)},
			  rand 20, $key, customer(1 + int rand CUSTOMERS), $debit, $credit, $name
		} 1 .. $size;
		my $code = code_of($db, 'BEGIN ISOLATION LEVEL ' . one_of('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE'))
		  || code_of($db, "SELECT count(*) FROM ledger.post_batch(ARRAY[$items]::ledger.transfer[], '$on_error')");
		$code ||= code_of($db, 'COMMIT');
		return if !$db->ping;
		return if $code && !eval { $db->do('ROLLBACK') };
		die "$name: $code\n" if $code && $code !~ /^(40001|LG00[1249])$/;
	}
}

# A batch under stop is there as a whole, or not at all.
sub whole_ok
{
	my ($name) = @_;

	is($node->safe_psql('beside', <<'SQL'), '', $name);
SELECT description, count(*) FROM ledger.transactions WHERE description LIKE 'batch % stop %'
GROUP BY description HAVING count(*) <> split_part(description, ' ', 5)::int
SQL
}

{
	my $end = time + seconds(6);

	is(await(map { my $client = $_; client(sub { load($client, $end) }) } 1 .. CLIENTS), 0,
		'beside each other no batch is the victim of a deadlock');
	ledger_ok($node, 'beside each other', 'beside');
	whole_ok('what is to be whole is whole');
	is($node->safe_psql('beside', 'SELECT count(*) FROM ledger.reconcile()'), '0', 'the legacy rows agree');
}

foreach my $kill (1 .. 2)
{
	my $end = time + 300;
	my @clients = map { my $client = 10 * $kill + $_; client(sub { load($client, $end) }) } 1 .. CLIENTS;

	# each is at work
	sleep 2;
	wait_until(120, sub {
		$node->safe_psql('beside', sprintf q{SELECT count(DISTINCT split_part(description, ' ', 2)) FROM ledger.transactions
			WHERE description ~ '^batch %d\d '}, $kill) eq CLIENTS });
	kill_and_start($node);
	is(await(@clients), 0, "killed $kill: the clients have noticed");
	ledger_ok($node, "killed $kill: the ledger", 'beside');
	whole_ok("killed $kill: what is to be whole is whole");
	is($node->safe_psql('beside', 'SELECT count(*) FROM ledger.reconcile()'), '0', "killed $kill: the legacy rows agree");
}

done_testing();
