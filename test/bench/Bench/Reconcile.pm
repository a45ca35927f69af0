# Bench/Reconcile.pm: reconciliation of everybody beside the FULL JOIN that one
# would write by hand, and of those who have changed since.

package Bench::Reconcile;

use strict;
use warnings;

use Exporter qw(import);
use List::Util qw(min);

use Bench::Report;
use Bench::Server;

our @EXPORT = qw(reconcile_part);

use constant CHANGED => 1000;

# Both sides alike, three accounts a user, in no order of the users.
my $load = <<'SQL';
CREATE EXTENSION ledger;
CREATE TABLE public.balances (
	user_id uuid PRIMARY KEY,
	buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0,
	currency varchar(10) NOT NULL DEFAULT 'USD',
	updated_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO public.balances (user_id, buying_power, pending_deposits)
	SELECT gen_random_uuid(), (i % 100000) * 1.37, (i % 50000) * 0.113 + 3 FROM generate_series(1, %d) i;
INSERT INTO ledger.accounts (user_id, account_type, currency, credits, debits, opened, version)
	SELECT user_id, 'usdc_balance', 'USDC', trim_scale(pending_deposits) + 10, 13, 1, 5 FROM public.balances;
INSERT INTO ledger.accounts (user_id, account_type, currency, credits, debits, version)
	SELECT user_id, 'fiat_exposure', 'USD', trim_scale(buying_power) + 10, 10, 5 FROM public.balances;
INSERT INTO ledger.accounts (user_id, account_type, currency, credits, debits, version)
	SELECT user_id, 'pending_investment', 'USDC', 13, 10, 5 FROM public.balances;
SELECT FROM ledger.attach_legacy('public.balances');
SELECT FROM ledger.configure(shadow_mode => true);
SQL

my $by_hand = <<'SQL';
SELECT count(*) FROM (
	SELECT user_id
	FROM (SELECT a.user_id,
			sum(a.credits - a.debits) FILTER (WHERE a.account_type IN ('usdc_balance', 'pending_investment')) AS pending_deposits,
			sum(a.credits - a.debits) FILTER (WHERE a.account_type = 'fiat_exposure') AS buying_power
		FROM ledger.accounts a WHERE a.user_id IS NOT NULL GROUP BY a.user_id) l
	FULL JOIN public.balances b USING (user_id)
	WHERE (COALESCE(l.pending_deposits, 0), COALESCE(l.buying_power, 0))
		IS DISTINCT FROM (COALESCE(b.pending_deposits, 0), COALESCE(b.buying_power, 0))) d
SQL

my $change = "SELECT count(ledger.credit_user_usdc(user_id, 1, 'bench')) FROM"
  . ' (SELECT user_id FROM public.balances ORDER BY hashtext(user_id::text || random()) LIMIT ' . CHANGED . ') c';

# In this order, in one session.
my @steps = (
	[ 'FULL JOIN by hand', $by_hand ],
	[ 'reconcile()', 'SELECT count(*) FROM ledger.reconcile()' ],
	[ 'run_reconciliation()', 'CALL ledger.run_reconciliation()' ],
	[ undef, $change ],
	[ "reconcile(0, 'incremental')", "SELECT count(*) FROM ledger.reconcile(0, 'incremental')" ],
	[ "run_reconciliation('incremental')", "CALL ledger.run_reconciliation('incremental')" ]);

# The seconds of each, as the client sees them.
sub one_round
{
	open my $psql, '-|', 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-c', '\timing on', map { ('-c', $_->[1]) } @steps
	  or die "psql: $!\n";
	my @answers = <$psql>;
	close $psql or die "a query failed\n";
	my @seconds = map { /^Time: ([\d.]+) ms/ ? $1 / 1000 : () } @answers;
	my @counts = grep { /^\d/ } @answers;
	die "somebody differs: @counts" if @seconds != @steps || grep { $_ !~ /^(\d+\|)?0$/ && $_ != CHANGED } @counts;
	return @seconds;
}

sub show
{
	my ($what, @seconds) = @_;
	row($what, map { sprintf '%.3f', $_ } min(@seconds), max_of(@seconds));
	csv({ part => 'reconcile', what => $what, unit => 's' }, @seconds);
	return;
}

sub max_of
{
	my (@values) = @_;
	return (sort { $a <=> $b } @values)[-1];
}

sub reconcile_part
{
	my $users = quick() ? 50_000 : 1_000_000;
	my $rounds = quick() ? 1 : 3;
	my (%seconds, @full, @part);

	sql('CREATE DATABASE reconcile');
	local $ENV{PGDATABASE} = 'reconcile';
	sql(sprintf $load =~ s/%(?!d)/%%/gr, $users);
	sql('VACUUM ANALYZE');
	sql('CHECKPOINT');
	sql('CALL ledger.run_reconciliation()');
	for (1 .. $rounds)
	{
		my @taken = one_round();
		for my $n (0 .. $#steps) { push @{ $seconds{ $steps[$n][0] } }, $taken[$n] if defined $steps[$n][0] }
		push @full, $taken[1] / $taken[0];
		push @part, $taken[5] / $taken[2];
	}
	heading(sprintf 'Reconciliation of %d users, %d accounts; %d changed: seconds', $users, 3 * $users, CHANGED);
	table('<what', 'least', 'most');
	show($_, @{ $seconds{$_} }) for sort keys %seconds;
	measured('reconcile/full', @full);
	# of few users a thousand are too many to show anything
	measured('reconcile/incremental', @part) if !quick();
	return;
}

1;
