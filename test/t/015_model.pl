# Random calls against a model of the ledger: 8 clients, every answer foreseen,
# at all isolation levels, with savepoints and transactions rolled back. In the
# end every balance, transaction and reservation is the model's.
#
# LEDGER_SEED=n: other calls; LEDGER_STEPS=n: more or fewer of them.

use strict;
use warnings;

use Storable qw(nstore retrieve);
use Test::More;

use LedgerModel;
use LedgerTest;
use PostgreSQL::Test::Utils;

use constant { CLIENTS => 8, };

my $seed = $ENV{LEDGER_SEED} // 20241;
my $steps = $ENV{LEDGER_STEPS} // soak(21_000, 400_000);
my $results = PostgreSQL::Test::Utils::tempdir();
my $node = ledger_node('model', <<CONF);
deadlock_timeout = 20ms
CONF

note("LEDGER_SEED=$seed, $steps steps");

# A database with the ledger, and rich users who cannot spend it all.
sub prepare
{
	my ($database, $attach) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	load_ledger($node, $database);
	$node->safe_psql($database, <<'SQL');
CREATE FUNCTION public.contained(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
BEGIN
	EXECUTE 'SELECT ' || call INTO answer;
	RETURN answer;
EXCEPTION WHEN OTHERS THEN
	RETURN format('error %s %s', SQLSTATE, SQLERRM);
END
$$;
SQL
	$attach->() if $attach;
	foreach my $user (LedgerModel::rich_users())
	{
		$node->safe_psql($database, sprintf <<'SQL', ($user) x 2, LedgerModel::FORTUNE, ($user) x 2);
SELECT ledger.credit_user_usdc('%s', 2 * f, 'fortune'), ledger.move_funds_to_fiat_exposure('%s', f, 'half of it')
FROM (SELECT %s / 1000000) AS fortune (f);
SQL
	}
}

# What all clients know together.
sub run_clients
{
	my ($database, $initial, $share, @lengths) = @_;
	my @clients = map {
		my $client = $_;
		client(
			sub {
				my $model = LedgerModel->new($node, $database, $client, $seed, $initial, \@lengths);
				nstore($model->run($share / CLIENTS), "$results/$database.$client");
			})
	} 1 .. CLIENTS;

	is(await(@clients), 0, "$database: all clients came to their end");
	return map { retrieve("$results/$database.$_") } 1 .. CLIENTS;
}

sub rows
{
	my ($database, $sql) = @_;
	return map { [ split /\|/, $_, -1 ] } split /\n/, $node->safe_psql($database, $sql);
}

# Compares two hashes; names the first few keys that differ.
sub same_hash
{
	my ($have, $want, $name) = @_;
	my %keys = (%$have, %$want);
	my @different = grep { ($have->{$_} // 'none') ne ($want->{$_} // 'none') } sort keys %keys;

	ok(!@different, $name)
	  or diag(join "\n", map { sprintf '%s: have %s, want %s', $_, $have->{$_} // 'none', $want->{$_} // 'none' }
		  @different[ 0 .. ($#different < 9 ? $#different : 9) ]);
}

sub compare
{
	my ($database, $initial, $share, @clients) = @_;
	my (%transactions, %reservations, %races, %count, $done);

	foreach my $client (@clients)
	{
		$done += $client->{steps};
		$count{$_} += $client->{count}{$_} foreach keys %{ $client->{count} };
		diag(join "\n", @{ $client->{failures} }) if @{ $client->{failures} };
		%transactions = (%transactions, %{ $client->{transactions} });
		%reservations = (%reservations, %{ $client->{reservations} });
		foreach my $n (keys %{ $client->{races} })
		{
			push @{ $client->{failures} }, "race $n has two winners"
			  if exists $races{$n} && $races{$n} != $client->{races}{$n};
			$races{$n} = $client->{races}{$n};
		}
	}
	note("$database: " . join(', ', map { "$_ $count{$_}" } sort keys %count));
	is(scalar(grep { @{ $_->{failures} } } @clients), 0, "$database: every answer was the model's");
	cmp_ok($done, '>=', $share, "$database: $done steps");

	# of what every kind of answer was there
	my @never = grep { !$count{$_} } qw(LG001 LG002 LG004 LG008 LG009 LG010 LG011 22004 replayed race expire), 'rolled back';
	is("@never", '', "$database: every kind of answer was there");

	# transactions: those of the model, and what the model leaves to others
	my %stored = map { my ($id, @rest) = @$_; $id => "@rest" } rows($database, <<'SQL');
SELECT t.id, t.type, COALESCE(t.user_id::text, '-'), COALESCE(t.reference_id::text, '-'), COALESCE(t.reverses::text, '-'),
	string_agg(format('%s>%s:%s', j.debit_account_id, j.credit_account_id, trim_scale(j.amount * 1000000)), ' ' ORDER BY j.ordinal)
FROM ledger.transactions t JOIN ledger.journal j ON j.transaction_id = t.id
WHERE t.type <> 'opening' AND t.description IS DISTINCT FROM 'reservation expired'
  AND t.description NOT IN ('race', 'fortune', 'half of it') IS NOT FALSE
GROUP BY t.id, t.type, t.user_id, t.reference_id, t.reverses
SQL
	same_hash(\%stored, \%transactions, "$database: transactions");

	# each race has one winner
	my %won = map { $_->[0] => $_->[1] }
	  rows($database, q{SELECT t.reference_id, t.id FROM ledger.transactions t WHERE t.description = 'race'});
	same_hash(\%won, { map { LedgerModel::uuid(4, 0, $_) => $races{$_} } keys %races }, "$database: one posting for each shared key");

	compare_balances($database, $initial, \%races, @clients);
	my %kept = map { my ($id, @rest) = @$_; $id => "@rest" } rows($database, <<'SQL');
SELECT r.id, trim_scale(r.amount * 1000000), trim_scale(r.executed * 1000000), trim_scale(r.released * 1000000), r.status
FROM ledger.reservations r WHERE r.user_id NOT IN (SELECT DISTINCT e.user_id FROM ledger.reservation_rows e WHERE e.expires_at < e.created_at)
SQL
	same_hash(\%kept, \%reservations, "$database: reservations");
}

# Balances: a user's own are his client's; what clients share is their sum.
sub compare_balances
{
	my ($database, $initial, $races, @clients) = @_;
	my (%want, %have, %side, %fortune);

	foreach my $row (rows($database, <<'SQL'))
SELECT b.account_id, trim_scale(b.credits * 1000000) - trim_scale(b.debits * 1000000), b.account_type, COALESCE(b.user_id::text, '')
FROM ledger.account_balances b
SQL
	{
		my ($id, $balance, $type, $user) = @$row;
		next if $type eq 'opening_balance';
		$have{$id} = $balance;
		$fortune{$id} = $type if grep { $_ eq $user } LedgerModel::rich_users();
		$side{$type} = $id if $user eq '' && $type eq 'system_buffer_usdc';
		$side{"$type/$id"} = $id if $type eq 'fx_clearing';
		$side{first} = $id if $user eq (LedgerModel::rich_users())[0] && $type eq 'usdc_balance';
	}
	foreach my $client (@clients)
	{
		$want{$_} += $client->{balances}{$_} foreach keys %{ $client->{balances} };
	}

	# who was never touched has not been opened: his money is in his legacy row
	my %opened = map { $_->[0] => 1 } rows($database, q{SELECT t.user_id FROM ledger.transactions t WHERE t.type = 'opening'});
	foreach my $row (rows($database, 'SELECT b.user_id, b.account_type, b.account_id FROM ledger.account_balances b WHERE b.user_id IS NOT NULL'))
	{
		my ($user, $type, $id) = @$row;
		next if !$initial->{$user} || $opened{$user};
		$want{$id} -= $initial->{$user}{usdc} if $type eq 'usdc_balance';
		$want{$id} -= $initial->{$user}{fiat} if $type eq 'fiat_exposure';
	}

	# the fortunes, and the races
	my $rich = LedgerModel::RICH_USERS;
	$want{$_} += LedgerModel::FORTUNE foreach grep { $fortune{$_} ne 'pending_investment' } keys %fortune;
	$want{ $side{system_buffer_usdc} } -= 2 * $rich * LedgerModel::FORTUNE;
	my ($usdc, $usd) = map { $_->[0] } rows($database,
		q{SELECT b.account_id FROM ledger.account_balances b WHERE b.account_type = 'fx_clearing' ORDER BY b.currency DESC});
	$want{$usdc} += $rich * LedgerModel::FORTUNE;
	$want{$usd} -= $rich * LedgerModel::FORTUNE;
	foreach my $n (keys %$races)
	{
		$want{ $side{first} } += LedgerModel::race_amount($n);
		$want{ $side{system_buffer_usdc} } -= LedgerModel::race_amount($n);
	}

	# expiry gave back what was reserved and not executed
	foreach my $n (1 .. @clients)
	{
		my ($user, $known) = (LedgerModel::uuid(3, $n, 0), $clients[ $n - 1 ]{expiring});
		my %account = map { $_->[0] => $_->[1] }
		  rows($database, "SELECT b.account_type, b.account_id FROM ledger.account_balances b WHERE b.user_id = '$user'");
		$want{ $account{usdc_balance} } = $known->{usdc} + $known->{pending};
		$want{ $account{pending_investment} } = 0;
	}
	same_hash(\%have, \%want, "$database: balances");
}

my @lengths = (1, 1, 1, 1, 2, 2, 3, 5);

# Without a legacy table.
prepare('alone');
my @alone = run_clients('alone', {}, $steps * 0.4, @lengths);
$node->safe_psql('alone', 'SELECT ledger.expire_reservations(1000000)');
compare('alone', {}, $steps * 0.4, @alone);
ledger_ok($node, 'alone: the ledger holds', 'alone');

# One call a transaction: none of them deadlocks with another.
prepare('single');
my @single = run_clients('single', {}, $steps * 0.2, 1);
$node->safe_psql('single', 'SELECT ledger.expire_reservations(1000000)');
compare('single', {}, $steps * 0.2, @single);
is(join(' ', grep { /^40P01|READ COMMITTED/ } map { keys %{ $_->{count} } } @single), '',
	'single: no deadlock, and nothing to try again under READ COMMITTED');
ledger_ok($node, 'single: the ledger holds', 'single');

# With one, in strict mode; users have money there before the first call.
my %initial = map { $_ => { usdc => 150_000_000, fiat => 75_500_000 } } map { LedgerModel::own_users($_) } 1 .. CLIENTS;
prepare('mirrored', sub {
	legacy_table($node, 0, 'mirrored');
	$node->safe_psql('mirrored', join "\n", map {
		sprintf q{INSERT INTO public.balances (user_id, pending_deposits, buying_power) VALUES ('%s', %s, %s);},
		  $_, LedgerModel::text($initial{$_}{usdc}), LedgerModel::text($initial{$_}{fiat})
	} sort keys %initial);
	attach($node, 'shadow_mode => true, strict_mode => true', 'mirrored');
});
my @mirrored = run_clients('mirrored', \%initial, $steps * 0.4, @lengths);
$node->safe_psql('mirrored', 'SELECT ledger.expire_reservations(1000000)');
compare('mirrored', \%initial, $steps * 0.4, @mirrored);
is($node->safe_psql('mirrored', <<'SQL'), '', 'mirrored: the legacy rows are the balances');
SELECT l.user_id, l.pending_deposits, l.buying_power
FROM public.balances l FULL JOIN (SELECT DISTINCT b.user_id FROM ledger.account_balances b WHERE b.user_id IS NOT NULL AND b.version > 0) u USING (user_id)
CROSS JOIN LATERAL ledger.get_user_balance(COALESCE(l.user_id, u.user_id)) b
WHERE (l.pending_deposits, l.buying_power) IS DISTINCT FROM (b.usdc_balance + b.pending_investment, b.fiat_exposure)
SQL
ledger_ok($node, 'mirrored: the ledger holds', 'mirrored');

done_testing();
