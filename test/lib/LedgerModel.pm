# LedgerModel.pm: a model of the ledger and one client that compares the two.
#
# The model knows balances, reservations, keys and reversals as the contract
# has them and says of each call what it will answer: an id, the id of an
# earlier call, NULL, or an SQLSTATE. Amounts are whole numbers of millionths.
#
# A client has users of his own, of whom every answer is known beforehand, and
# shares three kinds of things with the other clients: the house's accounts;
# rich users, of whom nobody can spend more than there is, so that only sums
# matter; and keys that all clients use at the same time. One more user is his
# own but for expire_reservations(), which any client may call at any time:
# what is answered of him is noted and not foreseen.
#
# Whatever a transaction or a savepoint that is rolled back has changed in the
# model is undone from a log.

package LedgerModel;

use strict;
use warnings;

use LedgerTest;
use Time::HiRes qw(sleep);

use constant {
	USERS => 5,
	RICH_USERS => 3,
	FORTUNE => 1_000_000_000_000,
	MAX_ATTEMPTS => 12,
};

# ---- numbers -------------------------------------------------------------------

# A generator of our own: the same numbers for a seed with any Perl.
sub seed
{
	my ($self, $seed) = @_;
	$self->{random} = $seed;
	$self->random(2) foreach 1 .. 4;
}

sub random
{
	my ($self, $n) = @_;
	use integer;
	$self->{random} = $self->{random} * 6364136223846793005 + 1442695040888963407;
	return (($self->{random} >> 33) & 0x7fffffff) % $n;
}

sub chance
{
	my ($self, $percent) = @_;
	return $self->random(100) < $percent;
}

sub one_of
{
	my ($self, @list) = @_;
	return $list[ $self->random(scalar @list) ];
}

sub text
{
	my ($millionths) = @_;
	my $sign = $millionths < 0 ? '-' : '';

	$millionths = abs $millionths;
	return sprintf '%s%d.%06d', $sign, int($millionths / 1_000_000), $millionths % 1_000_000;
}

# Sometimes whole, sometimes cents, sometimes millionths, up to the bound.
sub amount_to
{
	my ($self, $bound) = @_;
	my $unit = $self->one_of(1, 10_000, 10_000, 1_000_000);
	my $units = int($bound / $unit);

	return 1 + $self->random(100) if $units < 1;
	return $unit * (1 + $self->random($units < 2**30 ? $units : 2**30));
}

sub uuid
{
	my ($kind, $client, $number) = @_;
	return sprintf '%08x-0000-4000-8000-%04x%08x', $kind, $client, $number;
}

# The same for a call that is tried again.
sub new_uuid
{
	my ($self) = @_;
	return uuid($self->{transaction}, 100 + $self->{client}, $self->{uuids}++);
}

# ---- changes that can be undone ------------------------------------------------------

sub set
{
	my ($self, $place, $value) = @_;
	push @{ $self->{undo} }, [ $place, $$place ];
	$$place = $value;
}

sub add
{
	my ($self, $list, $item) = @_;
	push @{ $self->{undo} }, [$list];
	push @$list, $item;
}

sub undo_to
{
	my ($self, $mark) = @_;

	while (@{ $self->{undo} } > $mark)
	{
		my ($place, $value) = @{ pop @{ $self->{undo} } };
		if (ref $place eq 'ARRAY')
		{
			pop @$place;
		}
		else
		{
			$$place = $value;
		}
	}
}

# ---- a client ---------------------------------------------------------------------------

sub account
{
	my ($self, $type, $user, $currency, $balance) = @_;
	my ($id) = $self->{db}->selectrow_array('SELECT ledger.open_account(?, ?, ?)',
		undef, $type, $user ? $user->{id} : undef, $currency);

	return $self->{accounts}{$id} =
	  { id => $id, user => $user, balance => $balance // 0, frozen => 0 };
}

# kind own: every balance is known; rich, expiring: only what we have changed.
sub user
{
	my ($self, $id, $kind, $initial) = @_;
	my $user = { id => $id, kind => $kind, reservations => [] };

	$user->{usdc} = $self->account('usdc_balance', $user, undef, $initial->{usdc});
	$user->{pending} = $self->account('pending_investment', $user);
	$user->{fiat} = $self->account('fiat_exposure', $user, undef, $initial->{fiat});
	return $user;
}

# $initial: what users have before the first call, by id; $lengths: how many
# calls transactions have.
sub new
{
	my ($class, $node, $database, $client, $seed, $initial, $lengths) = @_;
	my $self = bless {
		client => $client,
		base => $seed * 1000 + $client,
		lengths => $lengths,
		db => connection($node, database => $database),
		accounts => {},
		undo => [],
		keys => {},
		transactions => [],
		reservations => {},
		orders => [],
		races => {},
		last_id => 0,
		count => {},
		failures => [],
	}, $class;

	foreach my $type (qw(system_buffer_usdc system_buffer_fiat broker_operational))
	{
		$self->{$type} = $self->account($type);
	}
	foreach my $type (qw(fx_clearing house_equity))
	{
		$self->{"$type/$_"} = $self->account($type, undef, $_) foreach qw(USDC USD);
	}
	$self->{users} = [ map { $self->user($_, 'own', $initial->{$_}) } own_users($client) ];
	$self->{rich} = [ map { $self->user($_, 'rich') } rich_users() ];
	$self->{expiring} = $self->user(uuid(3, $client, 0), 'expiring');
	return $self;
}

sub own_users
{
	my ($client) = @_;
	return map { uuid(1, $client, $_) } 1 .. USERS;
}

sub rich_users
{
	return map { uuid(2, 0, $_) } 1 .. RICH_USERS;
}

# ---- what calls do: type, key, postings as [debit, credit, amount] --------------------------

sub literal
{
	my ($value) = @_;
	return defined $value ? "'$value'" : 'NULL';
}

sub credit
{
	my ($self, $a) = @_;
	return {
		sql => sprintf(q{ledger.credit_user_usdc('%s', %s, 'in', %s)}, $a->{user}{id}, text($a->{amount}), literal($a->{ref})),
		type => 'deposit',
		key => $a->{ref} && "credit_user_usdc:deposit:$a->{ref}",
		lines => [ [ $self->{system_buffer_usdc}, $a->{user}{usdc}, $a->{amount} ] ],
	};
}

sub debit
{
	my ($self, $a) = @_;
	return {
		sql => sprintf(q{ledger.debit_user_usdc('%s', %s, 'out', %s)}, $a->{user}{id}, text($a->{amount}), literal($a->{ref})),
		type => 'withdrawal',
		key => $a->{ref} && "debit_user_usdc:withdrawal:$a->{ref}",
		lines => [ [ $a->{user}{usdc}, $self->{system_buffer_usdc}, $a->{amount} ] ],
	};
}

sub conversion_lines
{
	my ($self, $from, $sold, $to, $bought, $amount) = @_;
	return [
		[ $from, $self->{"fx_clearing/$sold"}, $amount ],
		[ $self->{"fx_clearing/$bought"}, $to, $amount ]
	];
}

sub to_fiat
{
	my ($self, $a) = @_;
	return {
		sql => sprintf(q{ledger.move_funds_to_fiat_exposure('%s', %s, 'there', %s)}, $a->{user}{id}, text($a->{amount}), literal($a->{ref})),
		type => 'conversion',
		key => $a->{ref} && "move_funds_to_fiat_exposure:conversion:$a->{ref}",
		lines => $self->conversion_lines($a->{user}{usdc}, 'USDC', $a->{user}{fiat}, 'USD', $a->{amount}),
	};
}

sub to_usdc
{
	my ($self, $a) = @_;
	return {
		sql => sprintf(q{ledger.move_funds_to_usdc('%s', %s, 'back', %s)}, $a->{user}{id}, text($a->{amount}), literal($a->{ref})),
		type => 'conversion',
		key => $a->{ref} && "move_funds_to_usdc:conversion:$a->{ref}",
		lines => $self->conversion_lines($a->{user}{fiat}, 'USD', $a->{user}{usdc}, 'USDC', $a->{amount}),
	};
}

sub reserve
{
	my ($self, $a) = @_;
	return {
		sql => sprintf(q{ledger.reserve_for_investment('%s', %s, %s, %s)}, $a->{user}{id}, text($a->{amount}), literal($a->{ref}),
			$a->{due} ? q{now() - interval '1 minute'} : q{now() + interval '1 day'}),
		type => 'internal_transfer',
		key => $a->{ref} && "reserve_for_investment:order:$a->{ref}",
		lines => [ [ $a->{user}{usdc}, $a->{user}{pending}, $a->{amount} ] ],
		makes => $a->{user},
	};
}

sub release
{
	my ($self, $a) = @_;
	return {
		sql => sprintf(q{ledger.release_reservation('%s', %s, %s, %s)}, $a->{user}{id},
			defined $a->{amount} ? text($a->{amount}) : 'NULL', literal($a->{ref}), literal($a->{part})),
		type => 'internal_transfer',
		key => defined $a->{amount} && $a->{part}
		? sprintf('release_reservation:%s:%s', $a->{ref} // $a->{user}{id}, $a->{part}) : undef,
		lines => [ [ $a->{user}{pending}, $a->{user}{usdc}, $a->{amount} ] ],
		draws => 'released',
	};
}

sub execute
{
	my ($self, $a) = @_;
	return {
		sql => sprintf(q{ledger.execute_investment('%s', %s, %s, %s)}, $a->{user}{id}, text($a->{amount}), literal($a->{ref}), literal($a->{part})),
		type => 'investment',
		key => join(':', 'execute_investment', $a->{ref}, $a->{part} // ()),
		lines => $self->conversion_lines($a->{user}{pending}, 'USDC', $a->{user}{fiat}, 'USD', $a->{amount}),
		draws => 'executed',
	};
}

sub sell
{
	my ($self, $a) = @_;
	return {
		sql => sprintf(q{ledger.settle_sale('%s', %s, %s, %s, %s)}, $a->{user}{id}, text($a->{amount}), text($a->{proceeds}), literal($a->{ref}), literal($a->{part})),
		type => 'investment',
		key => join(':', 'settle_sale', $a->{ref}, $a->{part} // ()),
		lines => [
			[ $a->{user}{fiat}, $self->{broker_operational}, $a->{amount} ],
			[ $self->{broker_operational}, $a->{user}{fiat}, $a->{proceeds} ]
		],
	};
}

sub swap
{
	my ($self, $a) = @_;
	my ($from, $to, $sold, $bought) =
	  $a->{back} ? (qw(system_buffer_fiat system_buffer_usdc USD USDC)) : (qw(system_buffer_usdc system_buffer_fiat USDC USD));
	my $gain = $a->{received} - $a->{amount};
	my @lines = (
		[ $self->{"fx_clearing/$sold"}, $self->{$from}, $a->{amount} ],
		[ $self->{$to}, $self->{"fx_clearing/$bought"}, $gain < 0 ? $a->{received} : $a->{amount} ]);

	push @lines, [ $self->{$to}, $self->{"house_equity/$bought"}, $gain ] if $gain > 0;
	push @lines, [ $self->{"house_equity/$bought"}, $self->{"fx_clearing/$bought"}, -$gain ] if $gain < 0;
	return {
		sql => sprintf(q{ledger.convert_buffer('%s', '%s', %s, %s, %s)}, $from, $to, text($a->{amount}), text($a->{received}), literal($a->{ref})),
		type => 'conversion',
		key => $a->{ref} && "convert_buffer:conversion:$a->{ref}",
		lines => \@lines,
	};
}

sub fund
{
	my ($self, $a) = @_;
	return {
		sql => sprintf(q{ledger.fund_broker(%s, %s)}, text($a->{amount}), literal($a->{ref})),
		type => 'internal_transfer',
		key => $a->{ref} && "fund_broker:funding:$a->{ref}",
		lines => [ [ $self->{broker_operational}, $self->{system_buffer_fiat}, $a->{amount} ] ],
	};
}

sub replenish
{
	my ($self, $a) = @_;
	return {
		sql => sprintf(q{ledger.replenish_buffer('system_buffer_usdc', %s, %s)}, text($a->{amount}), literal($a->{ref})),
		type => 'buffer_replenishment',
		key => $a->{ref} && "replenish_buffer:replenishment:$a->{ref}",
		lines => [ [ $self->{system_buffer_usdc}, $self->{'house_equity/USDC'}, $a->{amount} ] ],
	};
}

# Money from one to the other and on: several postings.
sub post
{
	my ($self, $a) = @_;
	my @lines = map { [ $_->[0], $_->[1], $_->[2] + $a->{amount} ] } @{ $a->{path} };

	return {
		sql => sprintf(q{ledger.post('gift', ARRAY[%s]::ledger.posting[], %s, %s, %s)},
			join(', ', map { sprintf 'ROW(%d, %d, %s)', $_->[0]{id}, $_->[1]{id}, text($_->[2]) } @lines),
			literal($a->{part}), literal($a->{user}{id}), literal($a->{ref})),
		type => 'gift',
		key => $a->{part} // ($a->{ref} && "post:gift:$a->{ref}"),
		lines => \@lines,
	};
}

# amount undef: the whole.
sub reversal
{
	my ($self, $a) = @_;
	my $original = $a->{original};

	return {
		sql => sprintf(q{ledger.reverse_transaction(%d, 'mistake', %s, %s)}, $original->{id},
			defined $a->{amount} ? text($a->{amount}) : 'NULL', literal($a->{ref})),
		type => 'reversal',
		key => $a->{ref} && "reverse_transaction:reversal:$a->{ref}",
		reverses => $original,
		partial => $a->{amount},
		user => $original->{user},
		lines => [ map { [ $_->[1], $_->[0], $a->{amount} // $_->[2] ] } @{ $original->{lines} } ],
	};
}

my %calls = (
	credit => \&credit, debit => \&debit, to_fiat => \&to_fiat, to_usdc => \&to_usdc,
	reserve => \&reserve, release => \&release, execute => \&execute, sell => \&sell,
	swap => \&swap, fund => \&fund, replenish => \&replenish, post => \&post, reversal => \&reversal);

sub call
{
	my ($self, $name, $arguments) = @_;
	my $call = $calls{$name}->($self, $arguments);

	$call->{name} = $name;
	$call->{arguments} = $arguments;
	$call->{user} = $arguments->{user} ? $arguments->{user}{id} : undef if !exists $call->{user};
	$call->{ref} = $arguments->{ref};
	return $call;
}

# ---- what a call will answer -----------------------------------------------------------------

sub same
{
	my ($x, $y) = @_;
	return ($x // '') eq ($y // '');
}

# A key that is there: the same request, another one, or one that was undone.
sub foresee_replay
{
	my ($self, $call, $first) = @_;

	return { code => 'LG002' }
	  if !same($call->{user}, $first->{user}) || $call->{type} ne $first->{type} || !same($call->{ref}, $first->{ref})
	  || !same($call->{reverses} && $call->{reverses}{id}, $first->{reverses})
	  || @{ $call->{lines} } != @{ $first->{lines} };
	foreach my $n (0 .. $#{ $call->{lines} })
	{
		my ($x, $y) = ($call->{lines}[$n], $first->{lines}[$n]);
		return { code => 'LG002' } if $x->[0] != $y->[0] || $x->[1] != $y->[1] || $x->[2] != $y->[2];
	}
	return { code => 'LG002' } if $first->{reversed} >= $first->{lines}[0][2];
	return { code => '', id => $first->{id} };
}

sub remainder
{
	my ($r) = @_;
	return $r->{amount} - $r->{executed} - $r->{released};
}

# What a release or an execution takes: [reservation, amount]...; undef: LG008.
sub foresee_draws
{
	my ($self, $call) = @_;
	my ($user, $order) = @{ $call->{arguments} }{qw(user ref)};
	my $want = $call->{arguments}{amount};
	my $kept = $order && $self->{reservations}{$order};
	my @from = $kept ? ($kept) : grep { !defined $_->{order} } @{ $user->{reservations} };
	my @draws;

	return undef if $kept && $kept->{user} != $user;
	foreach my $r (@from)
	{
		my $take = remainder($r);
		$take = $want if defined $want && $want < $take;
		next if $take <= 0;
		push @draws, [ $r, $take ];
		$want -= $take if defined $want;
	}
	return undef if defined $want && $want > 0;
	return \@draws;
}

# What a reversal gives back to reservations: [reservation, executed, released]...
sub foresee_return
{
	my ($self, $call) = @_;
	my $original = $call->{reverses};
	my $amount = $call->{lines}[0][2];
	my @back;

	if ($original->{made})
	{
		return undef if remainder($original->{made}) < $amount;
		return [ [ $original->{made}, 0, $amount ] ];
	}
	foreach my $draw (reverse @{ $original->{drawn} })
	{
		my ($r, $executed, $released) = @$draw;
		foreach my $earlier (@{ $original->{returned} })
		{
			next if $earlier->[0] != $r;
			$executed += $earlier->[1];
			$released += $earlier->[2];
		}
		$executed = $amount if $executed > $amount;
		$amount -= $executed;
		$released = $amount if $released > $amount;
		$amount -= $released;
		push @back, [ $r, -$executed, -$released ] if $executed || $released;
	}
	return \@back;
}

sub foresee_reversal
{
	my ($self, $call) = @_;
	my $original = $call->{reverses};
	my @amounts = map { $_->[2] } @{ $original->{lines} };
	my ($amount, $replay) = ($call->{lines}[0][2]);

	return { code => 'LG011' } if $original->{reverses};
	if (defined $call->{partial})
	{
		return { code => 'LG011' } if grep { $_ != $amounts[0] } @amounts;
		return { code => '22004' } if $call->{partial} != $amounts[0] && !$call->{ref};
	}
	$replay = $call->{key} && $self->{keys}{ $call->{key} };
	return $self->foresee_replay($call, $replay) if $replay;
	return { code => 'LG011' } if $original->{reversed} + $amount > $amounts[0];
	if ($original->{made} || $original->{drawn})
	{
		my $back = $self->foresee_return($call);
		return { code => 'LG011' } if !$back;
		return { code => $self->foresee_limits($call->{lines}), back => $back };
	}
	return { code => $self->foresee_limits($call->{lines}) };
}

# In the order of the locks: users' accounts first, by id.
sub foresee_limits
{
	my ($self, $lines) = @_;
	my (%change, %account);

	foreach my $line (@$lines)
	{
		my ($debit, $credit, $amount) = @$line;
		$change{ $debit->{id} } -= $amount;
		$change{ $credit->{id} } += $amount;
		$account{ $_->{id} } = $_ foreach $debit, $credit;
	}
	foreach my $account (sort { $a->{id} <=> $b->{id} } grep { $_->{user} } values %account)
	{
		return 'LG004' if $account->{frozen};
		next if $account->{user}{kind} ne 'own';
		return 'LG001' if $change{ $account->{id} } < 0 && $account->{balance} + $change{ $account->{id} } < 0;
	}
	return '';
}

sub foresee
{
	my ($self, $call) = @_;
	my ($first, $draws);

	return $self->foresee_reversal($call) if $call->{reverses};
	$first = $call->{key} && $self->{keys}{ $call->{key} };
	return $self->foresee_replay($call, $first) if $first;
	if ($call->{draws})
	{
		$draws = $self->foresee_draws($call) or return { code => 'LG008' };
		return { code => '', null => 1 } if !@$draws;
		if (!defined $call->{arguments}{amount})
		{
			$call->{lines}[0][2] = 0;
			$call->{lines}[0][2] += $_->[1] foreach @$draws;
		}
		my $executed = $call->{draws} eq 'executed';
		$draws = [ map { [ $_->[0], $executed ? $_->[1] : 0, $executed ? 0 : $_->[1] ] } @$draws ];
	}
	return { code => $self->foresee_limits($call->{lines}), drawn => $draws };
}

# ---- what a call has changed --------------------------------------------------------------------

sub change_reservation
{
	my ($self, $change, $closed) = @_;
	my ($r, $executed, $released) = @$change;

	$self->set(\$r->{executed}, $r->{executed} + $executed);
	$self->set(\$r->{released}, $r->{released} + $released);
	$self->set(\$r->{status}, remainder($r) > 0 ? 'active' : $closed);
}

sub happened
{
	my ($self, $call, $foreseen, $id) = @_;
	my $transaction = {
		id => $id,
		name => $call->{name},
		arguments => $call->{arguments},
		type => $call->{type},
		user => $call->{user},
		ref => $call->{ref},
		lines => $call->{lines},
		reverses => $call->{reverses} && $call->{reverses}{id},
		reversed => 0,
		drawn => $foreseen->{drawn},
		returned => [],
	};

	foreach my $line (@{ $call->{lines} })
	{
		my ($debit, $credit, $amount) = @$line;
		$self->set(\$debit->{balance}, $debit->{balance} - $amount);
		$self->set(\$credit->{balance}, $credit->{balance} + $amount);
		$self->set(\$_->{user}{opened}, 1) foreach grep { $_->{user} } $debit, $credit;
	}
	if ($call->{makes})
	{
		my $r = {
			id => $id, user => $call->{makes}, order => $call->{ref}, amount => $call->{lines}[0][2],
			executed => 0, released => 0, status => 'active' };
		$self->add($call->{makes}{reservations}, $r);
		$transaction->{made} = $r;
		if ($call->{ref})
		{
			$self->set(\$self->{reservations}{ $call->{ref} }, $r);
			$self->add($self->{orders}, $r) if $call->{makes}{kind} ne 'expiring';
		}
	}
	$self->change_reservation($_, $call->{draws}) foreach @{ $foreseen->{drawn} // [] };
	if (my $original = $call->{reverses})
	{
		$self->set(\$original->{reversed}, $original->{reversed} + $call->{lines}[0][2]);
		foreach my $change (@{ $foreseen->{back} // [] })
		{
			$self->change_reservation($change, 'released');
			$self->add($original->{returned}, $change);
		}
	}
	$self->set(\$self->{keys}{ $call->{key} }, $transaction) if $call->{key};
	$self->add($self->{transactions}, $transaction);
}

# ---- choosing -----------------------------------------------------------------------------------------

sub choose_user
{
	my ($self) = @_;
	return $self->chance(20) ? $self->one_of(@{ $self->{rich} }) : $self->one_of(@{ $self->{users} });
}

# Mostly what there is, sometimes more.
sub spend
{
	my ($self, $account) = @_;
	return $self->amount_to(100_000_000) if $account->{user}{kind} ne 'own';
	return $self->amount_to(1_000_000 + int($account->{balance} * 0.7));
}

sub choose_order
{
	my ($self) = @_;
	my @recent = @{ $self->{orders} };

	@recent = @recent[ -12 .. -1 ] if @recent > 12;
	return @recent ? $self->one_of(@recent) : undef;
}

sub choose_drawing
{
	my ($self, $name) = @_;
	my $r = $self->chance(75) ? $self->choose_order : undef;
	my $user = $r && !$self->chance(4) ? $r->{user} : $self->one_of(@{ $self->{users} });
	my $left = $r ? remainder($r) : $user->{pending}{balance};
	my %arguments = (user => $user, ref => $r ? $r->{order} : undef);

	if ($name eq 'execute')
	{
		$arguments{ref} //= $self->new_uuid;
		$arguments{part} = 'fill-' . $self->{uuids}++ . "-$self->{transaction}" if $self->chance(85);
		$arguments{amount} = $self->chance(30) && $left > 0 ? $left : $self->amount_to(10_000 + int($left * 0.8));
	}
	elsif ($self->chance(50))
	{
		$arguments{amount} = $self->amount_to(10_000 + int($left * 0.8));
		$arguments{part} = 'cut-' . $self->{uuids}++ . "-$self->{transaction}" if $self->chance(70);
	}
	return $self->call($name, \%arguments);
}

sub choose_post
{
	my ($self) = @_;
	my $from = $self->one_of(@{ $self->{users} });
	my $account = $self->one_of($from->{usdc}, $from->{usdc}, $from->{fiat});
	my $name = $account == $from->{usdc} ? 'usdc' : 'fiat';
	my ($place, @path) = ($account);

	foreach (0 .. $self->random(4))
	{
		my $next = $self->choose_user->{$name};
		next if $next == $place;
		push @path, [ $place, $next, $self->random(3) ? 0 : $self->amount_to(5_000_000) ];
		$place = $next;
	}
	push @path, [ $place, $name eq 'usdc' ? $self->{system_buffer_usdc} : $self->{broker_operational}, 0 ] if !@path;
	return $self->call('post',
		{
			user => $self->chance(50) ? $from : undef,
			amount => $self->spend($account),
			path => \@path,
			ref => $self->chance(50) ? $self->new_uuid : undef,
			part => $self->chance(30) ? 'key ' . $self->new_uuid : undef,
		});
}

sub choose_earlier
{
	my ($self) = @_;
	my $all = $self->{transactions};

	return undef if !@$all;
	return $all->[ -1 - $self->random(@$all < 40 ? scalar @$all : 40) ] if $self->chance(70);
	return $self->one_of(@$all);
}

sub choose_reversal
{
	my ($self) = @_;
	my $original = $self->choose_earlier or return undef;
	my %arguments = (original => $original);

	return undef if $original->{expiring};
	if ($self->chance(50))
	{
		my $left = $original->{lines}[0][2] - $original->{reversed};
		$arguments{amount} = $self->chance(30) && $left > 0 ? $left : $self->amount_to(1_000 + int($original->{lines}[0][2] * 0.8));
	}
	$arguments{ref} = $self->new_uuid if $self->chance(defined $arguments{amount} ? 92 : 40);
	return $self->call('reversal', \%arguments);
}

# Something that was asked for before, as it was or a little different.
sub choose_again
{
	my ($self, $altered) = @_;
	my $earlier = $self->choose_earlier or return undef;
	my %arguments = %{ $earlier->{arguments} };

	return undef if $earlier->{expiring};
	if ($altered)
	{
		return undef if !$arguments{user} || $arguments{user}{kind} ne 'own';
		if ($self->chance(50) && defined $arguments{amount})
		{
			$arguments{amount} += 1;
		}
		else
		{
			$arguments{user} = $self->one_of(@{ $self->{users} });
		}
	}
	return $self->call($earlier->{name}, \%arguments);
}

my @weights = (
	[ 15, sub { my $s = shift; $s->call('credit', { user => $s->choose_user, amount => $s->amount_to(200_000_000), ref => $s->chance(70) ? $s->new_uuid : undef }) } ],
	[ 9, sub { my $s = shift; my $u = $s->choose_user; $s->call('debit', { user => $u, amount => $s->spend($u->{usdc}), ref => $s->chance(70) ? $s->new_uuid : undef }) } ],
	[ 8, sub { my $s = shift; my $u = $s->choose_user; $s->call('to_fiat', { user => $u, amount => $s->spend($u->{usdc}), ref => $s->chance(70) ? $s->new_uuid : undef }) } ],
	[ 6, sub { my $s = shift; my $u = $s->choose_user; $s->call('to_usdc', { user => $u, amount => $s->spend($u->{fiat}), ref => $s->chance(70) ? $s->new_uuid : undef }) } ],
	[ 12, sub { my $s = shift; my $u = $s->choose_user; $s->call('reserve', { user => $u, amount => $s->spend($u->{usdc}), ref => $u->{kind} eq 'rich' || $s->chance(65) ? $s->new_uuid : undef }) } ],
	[ 12, sub { $_[0]->choose_drawing('execute') } ],
	[ 6, sub { $_[0]->choose_drawing('release') } ],
	[ 5, sub { my $s = shift; my $u = $s->choose_user; my $cost = $s->spend($u->{fiat});
		$s->call('sell', { user => $u, amount => $cost, proceeds => $s->chance(20) ? $cost : $s->amount_to(2 * $cost), ref => $s->new_uuid, part => $s->chance(60) ? 'sale' : undef }) } ],
	[ 2, sub { my $s = shift; my $amount = $s->amount_to(50_000_000);
		$s->call('swap', { back => $s->random(2), amount => $amount, received => $s->chance(30) ? $amount : $s->amount_to(2 * $amount), ref => $s->chance(70) ? $s->new_uuid : undef }) } ],
	[ 1, sub { my $s = shift; $s->call('fund', { amount => $s->amount_to(50_000_000), ref => $s->chance(70) ? $s->new_uuid : undef }) } ],
	[ 1, sub { my $s = shift; $s->call('replenish', { amount => $s->amount_to(50_000_000), ref => $s->chance(70) ? $s->new_uuid : undef }) } ],
	[ 9, sub { $_[0]->choose_post } ],
	[ 9, sub { $_[0]->choose_reversal } ],
	[ 7, sub { $_[0]->choose_again(0) } ],
	[ 4, sub { $_[0]->choose_again(1) } ],
	[ 4, sub { $_[0]->choose_read } ],
	[ 2, sub { $_[0]->choose_status } ],
	[ 2, sub { $_[0]->choose_nonsense } ],
	[ 4, sub { $_[0]->choose_race } ],
	[ 5, sub { $_[0]->choose_expiring } ]);
my $total_weight = 0;
$total_weight += $_->[0] foreach @weights;

sub choose
{
	my ($self) = @_;

	for (;;)
	{
		my $at = $self->random($total_weight);
		my $chosen;
		foreach my $weight (@weights)
		{
			$chosen = $weight->[1], last if ($at -= $weight->[0]) < 0;
		}
		my $call = $chosen->($self);
		return $call if $call;
	}
}

# ---- what is no posting -------------------------------------------------------------------------------

# A user's balances, as they are in the middle of the transaction.
sub choose_read
{
	my ($self) = @_;
	my $user = $self->one_of(@{ $self->{users} });
	my @balances = map { $user->{$_}{balance} } qw(usdc pending fiat);

	return {
		name => 'read',
		sql => sprintf(q{(SELECT concat_ws(' ', trim_scale(b.usdc_balance * 1000000), trim_scale(b.pending_investment * 1000000),
			trim_scale(b.fiat_exposure * 1000000)) FROM ledger.get_user_balance('%s') b)}, $user->{id}),
		answer => "@balances",
	};
}

sub choose_status
{
	my ($self) = @_;
	my ($account) = grep { $_->{frozen} } map { $_->{usdc} } @{ $self->{users} };
	my $frozen = $account ? 0 : 1;

	$account //= $self->one_of(@{ $self->{users} })->{usdc};
	# a frozen account takes no opening either
	return undef if $frozen && (!$account->{user}{opened} || $self->chance(40));
	return {
		name => 'status',
		sql => sprintf(q{(SELECT ledger.set_account_status(%d, '%s', 'because'))::text}, $account->{id}, $frozen ? 'frozen' : 'open'),
		answer => '',
		effect => sub { $self->set(\$account->{frozen}, $frozen) },
	};
}

sub choose_nonsense
{
	my ($self) = @_;
	my $user = $self->one_of(@{ $self->{users} });
	my ($sql, $code) = @{ $self->one_of(
		[ "ledger.credit_user_usdc('$user->{id}', 0, 'x')", 'LG009' ],
		[ "ledger.debit_user_usdc('$user->{id}', -1, 'x')", 'LG009' ],
		[ "ledger.reserve_for_investment('$user->{id}', 1e-19)", 'LG009' ],
		[ "ledger.credit_user_usdc('$user->{id}', 1e20, 'x')", 'LG009' ],
		[ "ledger.credit_user_usdc(NULL, 1, 'x')", '22004' ],
		[ "ledger.reverse_transaction(9223372036854775807, 'x')", 'LG011' ],
		[ "ledger.open_account('nonsense', '$user->{id}')", 'LG010' ],
		[ "ledger.post('x', ARRAY[ROW($user->{usdc}{id}, $user->{pending}{id}, 1)::ledger.posting])", 'LG010' ],
		[ "ledger.post('x', ARRAY[ROW($user->{usdc}{id}, $user->{fiat}{id}, 1)::ledger.posting])", 'LG010' ]) };

	return { name => 'nonsense', sql => $sql, code => $code };
}

# A key that all clients use at about the same time; who is first posts.
sub choose_race
{
	my ($self) = @_;
	my $n = int($self->{transaction} / 5) + $self->random(3);
	my ($user) = rich_users();

	return {
		name => 'race',
		sql => sprintf(q{ledger.credit_user_usdc('%s', %s, 'race', '%s')}, $user, text(race_amount($n)), uuid(4, 0, $n)),
		effect => sub {
			my ($id) = @_;
			my $known = $self->{races}{$n};
			$self->failed("race $n was $known and is $id") if defined $known && $known != $id;
			$self->set(\$self->{races}{$n}, $id);
		},
	};
}

sub race_amount
{
	my ($n) = @_;
	return 1_000_000 + $n;
}

# The user whose reservations are due at once, and expiry itself.
sub choose_expiring
{
	my ($self) = @_;
	my $user = $self->{expiring};
	my $amount = $self->amount_to(1_000_000);
	my @reserved = @{ $user->{reservations} };
	my $call;

	if ($self->chance(25))
	{
		$call = $self->call('credit', { user => $user, amount => 10 * $amount, ref => $self->new_uuid });
	}
	elsif ($self->chance(35))
	{
		my $most = 1 + $self->random(4);
		return {
			name => 'expire',
			sql => "ledger.expire_reservations($most)",
			effect => sub { $self->failed("expired $_[0] of at most $most") if $_[0] < 0 || $_[0] > $most },
		};
	}
	elsif (!@reserved || $self->chance(50))
	{
		$call = $self->call('reserve', { user => $user, amount => $amount, ref => $self->new_uuid, due => 1 });
	}
	else
	{
		$call = $self->call('execute', { user => $user, amount => $amount, ref => $reserved[-1]{order}, part => 'fill ' . $self->new_uuid });
	}
	$call->{expiring} = 1;
	$call->{allowed} = { LG001 => 1, LG008 => 1 };
	return $call;
}

# ---- running ---------------------------------------------------------------------------------------------

sub failed
{
	my ($self, $what) = @_;
	push @{ $self->{failures} }, sprintf('client %d, transaction %d: %s', $self->{client}, $self->{transaction} // 0, $what);
}

# SQLSTATE or '' and the value. 40001 and 40P01 end the transaction.
sub ask
{
	my ($self, $sql, $contained) = @_;
	my ($code, $value) = ('');

	$self->{asked} = $sql;
	if (!eval { ($value) = $self->{db}->selectrow_array($contained ? 'SELECT public.contained($$' . $sql . '$$)' : "SELECT $sql"); 1 })
	{
		$code = $self->{db}->state;
		$self->{message} = $self->{db}->errstr;
	}
	if ($contained && !$code && ($value // '') =~ /^error (.....) (.*)/s)
	{
		($code, $value, $self->{message}) = ($1, undef, $2);
	}
	die "again $code\n" if $code eq '40001' || $code eq '40P01';
	return ($code, $value);
}

# Runs one call and compares; returns its SQLSTATE.
sub step
{
	my ($self, $call, $foreseen, $contained) = @_;
	my ($code, $value) = $self->ask($call->{sql}, $contained);
	my $what = "$call->{sql}\n\tanswered " . ($code ? "$code $self->{message}" : $value // 'NULL');

	$self->{count}{ $call->{name} }++;
	$self->{count}{$code}++ if $code;
	if ($call->{allowed} && $call->{allowed}{$code})
	{
		return $code;
	}
	if ($code ne ($foreseen->{code} // ''))
	{
		$self->failed("$what, but should " . ($foreseen->{code} || 'succeed'));
		return $code;
	}
	return $code if $code;
	if (exists $call->{answer})
	{
		$self->failed("$what, but should $call->{answer}") if ($value // '') ne $call->{answer};
	}
	if ($call->{effect})
	{
		$call->{effect}->($value);
	}
	elsif (exists $call->{answer})
	{
	}
	elsif ($foreseen->{null})
	{
		$self->failed("$what, but should NULL") if defined $value;
	}
	elsif ($foreseen->{id})
	{
		$self->failed("$what, but should $foreseen->{id}") if $value != $foreseen->{id};
		$self->{count}{replayed}++;
	}
	else
	{
		$self->failed("$what, but $self->{last_id} came before") if $value <= $self->{last_id};
		$self->set(\$self->{last_id}, $value);
		$self->happened($call, $foreseen, $value);
		$self->{transactions}[-1]{expiring} = 1 if $call->{expiring};
	}
	return '';
}

sub expect
{
	my ($self, $call) = @_;

	return { code => $call->{code} } if $call->{code};
	return {} if $call->{expiring} || !$call->{lines};
	return $self->foresee($call);
}

# What is left to chance in a transaction is by its seed, so that it can be
# tried again.
sub attempt
{
	my ($self, $level, $steps) = @_;
	my $alone = $steps == 1 && $self->chance(60);
	my @savepoints;

	$self->{db}->do("BEGIN ISOLATION LEVEL $level") if !$alone;
	foreach my $n (1 .. $steps)
	{
		my $call = $self->choose;
		my $foreseen = $self->expect($call);
		my $fails = $foreseen->{code} || $call->{allowed};
		my $contained = $fails && !$call->{allowed} && $self->chance(30);
		my $savepoint = !$alone && (($fails && !$contained) || $self->chance(35));

		if ($savepoint)
		{
			$self->{db}->do("SAVEPOINT s$n");
			push @savepoints, [ "s$n", scalar @{ $self->{undo} } ];
		}
		my $code = $self->step($call, $foreseen, $contained);
		$self->{steps}++;
		if ($code && !$contained && !$alone)
		{
			die "gave up\n" if !$savepoint;
			$self->{db}->do("ROLLBACK TO s$n");
		}
		elsif (@savepoints && $self->chance(20))
		{
			my $at = $self->random(scalar @savepoints);
			$self->{db}->do("ROLLBACK TO $savepoints[$at][0]");
			$self->undo_to($savepoints[$at][1]);
			$#savepoints = $at;
			$self->{count}{'rolled back'}++;
		}
		elsif (@savepoints && $self->chance(20))
		{
			$self->{db}->do("RELEASE $savepoints[-1][0]");
			pop @savepoints;
		}
	}
	if (!$alone && $self->chance(7))
	{
		$self->{db}->do('ROLLBACK');
		$self->undo_to(0);
		$self->{count}{'rolled back'}++;
	}
	elsif (!$alone && !eval { $self->{db}->do('COMMIT'); 1 })
	{
		die 'again ' . $self->{db}->state . "\n" if $self->{db}->state =~ /^40/;
		die $@;
	}
	$self->{undo} = [];
}

# Under REPEATABLE READ a transaction that needs several of the house's accounts
# may be overtaken for ever. So each holds an advisory lock that it shares with
# the others, and the last attempt holds it alone: then nothing can fail.
sub transaction
{
	my ($self) = @_;
	my $seed = $self->{base} * 100_000 + ++$self->{transaction};

	foreach my $n (1 .. MAX_ATTEMPTS)
	{
		$self->seed($seed);
		$self->{uuids} = 0;
		my $level = $self->one_of('READ COMMITTED', 'READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE');
		my $steps = $self->one_of(@{ $self->{lengths} });
		my $before = $self->{steps};

		$self->{db}->do($n < MAX_ATTEMPTS ? 'SELECT pg_advisory_lock_shared(1)' : 'SELECT pg_advisory_lock(1)');
		my $done = eval { $self->attempt($level, $steps); 1 };
		my $why = $@;
		if (!$done)
		{
			$self->{steps} = $before;
			$self->undo_to(0);
			eval { $self->{db}->do('ROLLBACK') };
		}
		$self->{db}->do('SELECT pg_advisory_unlock_all()');
		return if $done;
		if ($why !~ /^again (\S+)/)
		{
			$self->failed($why);
			return;
		}
		$self->{count}{"$1 $level"}++;
		$self->failed("$1 of a transaction that is alone, $level, at $self->{asked}") if $n == MAX_ATTEMPTS;
	}
}

# Runs so many steps; what it knows at the end.
sub run
{
	my ($self, $steps) = @_;

	$self->{steps} = 0;
	$self->transaction while $self->{steps} < $steps && @{ $self->{failures} } < 5;
	$self->{db}->disconnect;
	return {
		steps => $self->{steps},
		count => $self->{count},
		failures => $self->{failures},
		balances => { map { $_->{id} => $_->{balance} } values %{ $self->{accounts} } },
		expiring => { map { $_ => $self->{expiring}{$_}{balance} } qw(usdc pending fiat) },
		races => { map { $_ => $self->{races}{$_} } grep { defined $self->{races}{$_} } keys %{ $self->{races} } },
		transactions => {
			map {
				$_->{id} => join(' ', $_->{type}, $_->{user} // '-', $_->{ref} // '-', $_->{reverses} // '-',
					map { "$_->[0]{id}>$_->[1]{id}:$_->[2]" } @{ $_->{lines} })
			} @{ $self->{transactions} }
		},
		reservations => {
			map { $_->{id} => join(' ', $_->{amount}, $_->{executed}, $_->{released}, $_->{status}) }
			map { @{ $_->{reservations} } } @{ $self->{users} }, @{ $self->{rich} }
		},
	};
}

1;
