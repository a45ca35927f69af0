# Bench/Scripts.pm: what is measured: pgbench scripts (for rates) and calls
# (for exact figures), of the ledger and of each peer.
#
# In a script {user} is the id of user :n, {key} a random UUID (for rates the
# client's, for exact figures the server makes it), {text_key} a key as text; the
# line before it, which chooses :n, depends on the distribution of keys.  All
# sides make ids the same way, and the cheapest there is: one concatenation on
# the server.  pgbench takes a colon before a word for a variable also within
# quotes.

package Bench::Scripts;

use strict;
use warnings;

use Exporter qw(import);

use Bench::Server;

our @EXPORT = qw(script_options call define_script);

my $user = q{('00000000-0000-4000-8000-' || :n)::uuid};

# Of 20,000 users random_zipfian gives the first one 12 percent of all movements,
# and the first hundred 56.
my %keys = (
	none => '',
	uniform => '\set n random(:first, :last)',
	Zipf => '\set n random_zipfian(:first, :last, 1.05)',
	'one user' => '\set n :first');

# The other side of a transfer, never the same account.
my $other = '\set m :first + (:n - :first + random(1, :users - 1)) % :users';

# Made by the client where several statements need it.  Digits first: where a
# random key goes in an index is what its first bytes say.
my $order = '\set k random(1000000000000000, 9999999999999999)';
my $order_id = q{(:k || '0000000000000000')::uuid};

sub upsert
{
	my ($table) = @_;
	return "INSERT INTO $table AS b (user_id, pending_deposits, updated_at) VALUES ({user}, 1.25, now())"
	  . ' ON CONFLICT (user_id) DO UPDATE SET pending_deposits = b.pending_deposits'
	  . ' + EXCLUDED.pending_deposits, updated_at = EXCLUDED.updated_at;';
}

# Both sides by account id; which, as pgbench expressions.
sub by_accounts
{
	my ($call, $debit, $credit, @before) = @_;
	return join "\n", @before, "\\set a $debit", "\\set b $credit", $call;
}

my $post = q{SELECT ledger.post('transfer', ARRAY[ROW(:a, :b, 1.25)::ledger.posting], {text_key},}
  . q{ description => 'bench');};
my $peer_post = q{SELECT peer.post('transfer', :a, :b, 1.25, 'bench', {text_key});};

# One account of the application's credit: read and lock, update, entry.  An
# entry first would lock the account through its foreign key, shared, and the
# update would then have to make a multixact of that.
sub application_account
{
	my ($where, $direction) = @_;
	return "SELECT id AS a, balance AS b FROM app.accounts WHERE $where FOR NO KEY UPDATE \\gset",
	  'UPDATE app.accounts SET balance = :b + 1.25, version = version + 1 WHERE id = :a;',
	  'INSERT INTO app.entries (transaction_id, account_id, direction, amount, balance_after)'
	  . " VALUES (:t, :a, '$direction', 1.25, :b + 1.25);";
}

sub application_credit
{
	return join "\n", $order, 'BEGIN;',
	  q{SELECT id FROM app.transactions WHERE idempotency_key = 'bench-' || :k;},
	  'INSERT INTO app.transactions (type, user_id, idempotency_key, description)'
	  . q{ VALUES ('deposit', {user}, 'bench-' || :k, 'bench') RETURNING id AS t \gset},
	  application_account(q{user_id IS NULL AND account_type = 'system_buffer_usdc'}, 'debit'),
	  application_account(q{user_id = {user} AND account_type = 'usdc_balance'}, 'credit'),
	  q{UPDATE app.transactions SET status = 'posted' WHERE id = :t;}, upsert('app.balances'), 'COMMIT;';
}

my %script = (
	'legacy upsert' => upsert('legacy_balances'),
	'legacy SELECT' => 'SELECT buying_power, pending_deposits FROM legacy_balances WHERE user_id = {user};',
	'application credit' => application_credit(),
	'ledger credit' => q{SELECT ledger.credit_user_usdc({user}, 1.25, 'bench', {key});},
	'PL/pgSQL credit with mirror' => q{SELECT peer.credit({user}, 1.25, 'bench', {text_key}, true);},
	'PL/pgSQL credit' => q{SELECT peer.credit({user}, 1.25, 'bench', {text_key}, false);},
	'ledger transfer' => by_accounts($post, ':base + :n', ':base + :m', $other),
	'PL/pgSQL transfer' => by_accounts($peer_post, ':peer_base + :n', ':peer_base + :m', $other),
	'ledger house' => by_accounts($post, ':house', ':base + :n'),
	'PL/pgSQL house' => by_accounts($peer_post, ':peer_house', ':peer_base + :n'),
	'ledger reserve and execute' => join("\n", $order,
		"SELECT ledger.reserve_for_investment({user}, 1.25, $order_id);",
		"SELECT ledger.execute_investment({user}, 1.25, $order_id);"),
	'PL/pgSQL reserve and execute' => join("\n", $order,
		"SELECT peer.reserve({user}, 1.25, $order_id);",
		"SELECT peer.execute({user}, 1.25, $order_id, true);"),
	'ledger balance' => 'SELECT usdc_balance, fiat_exposure, pending_investment FROM ledger.get_user_balance({user});',
	'PL/pgSQL balance' => 'SELECT account_type, balance FROM peer.accounts WHERE user_id = {user};');

# What a product does all day, with pgbench's weights.
my %mix = (
	'ledger mixed' => { 'ledger balance' => 60, 'ledger credit' => 25, 'ledger reserve and execute' => 15 },
	'PL/pgSQL mixed' => {
		'PL/pgSQL balance' => 60,
		'PL/pgSQL credit with mirror' => 25,
		'PL/pgSQL reserve and execute' => 15
	});

# For exact figures, where a call must be one statement.
my %one_statement = (
	'ledger reserve and execute' => 'SELECT ledger.reserve_for_investment({user}, 1.25, k),'
	  . ' ledger.execute_investment({user}, 1.25, k) FROM gen_random_uuid() k;',
	'PL/pgSQL reserve and execute' => 'SELECT peer.reserve({user}, 1.25, k),'
	  . ' peer.execute({user}, 1.25, k, true) FROM gen_random_uuid() k;');

# One more script, of the caller's own.
sub define_script
{
	my ($name, $text) = @_;
	$script{$name} = $text;
	return;
}

# Keys are random (version 4) unless the caller wants others.
sub fill
{
	my ($text, $key) = @_;
	$key //= 'gen_random_uuid()';
	$text =~ s/\{user\}/$user/g;
	$text =~ s/\{key\}/$key/g;
	$text =~ s/\{text_key\}/'bench:' || $key/g;
	return $text;
}

sub write_script
{
	my ($name, $keys, $key) = @_;
	my $file = "$tmp/" . join('_', "$name $keys" =~ /\w+/g) . '.sql';
	my $text = $script{$name} // die "there is no script $name\n";

	# a key is the client's to make, as it is in an application
	if (!defined $key && $text =~ /\{(text_)?key\}/)
	{
		$text = "$order\n$text";
		$key = $order_id;
	}
	open my $out, '>', $file or die "$file: $!\n";
	print {$out} $keys{$keys} // die("there are no keys $keys\n"), "\n", fill($text, $key), "\n";
	close $out;
	return $file;
}

# script_options($name, $keys, $key): pgbench's options for a script under a
# distribution of keys.
sub script_options
{
	my ($name, @how) = @_;
	return ('-f', write_script($name, @how)) if !$mix{$name};
	return map { ('-f', write_script($_, @how) . "\@$mix{$name}{$_}") } sort keys %{ $mix{$name} };
}

# call($name, $key): one statement, for the same user each time, who is "one user" of the scripts.
sub call
{
	my ($name, $key) = @_;
	my %variable = (variables(), n => user_number(1), m => user_number(2));
	my $text = fill($one_statement{$name} // $script{$name} // die("there is no call $name\n"), $key);
	my $statement;
	$text =~ s/'([\w-]+)' \|\| :n\b/'$1$variable{n}'/g;
	for my $line (split /\n/, $text)
	{
		$line =~ s/(?<!:):([a-z_]+)\b/$variable{$1}/g;
		if ($line =~ /^\\set (\w+) (.*)/)
		{
			$variable{$1} //= eval $2;
			next;
		}
		die "$name is more than one statement\n" if defined $statement;
		$statement = $line;
	}
	return $statement;
}

1;
