# Bench/Batch.pm: calls of ledger.post_batch(), which takes transfers by the thousand.

package Bench::Batch;

use strict;
use warnings;

use Exporter qw(import);

use Bench::Server;

our @EXPORT = qw(exists_batch batch_call batch_array);

# What fills a column of ledger.transfer; those that are not here are NULL.
# The type's own columns are read from the catalog, so that a new one or
# another order changes nothing here.
my %item = (
	type => q{'transfer'},
	debit_account => '{debit}',
	credit_account => '{credit}',
	amount => '1.25',
	idempotency_key => q{'bench:' || {key}},
	description => q{'bench'});

# By the number i of an item: each account once, or one account in all.
my %accounts = (
	distinct => [ '{base} + {first} + 2 * i - 2', '{base} + {first} + 2 * i - 1' ],
	shared => [ '{house}', '{base} + {first} + i - 1' ]);

# In whatever database there is.
sub exists_batch
{
	fresh_database() if $ENV{PGDATABASE} ne 'bench';
	return exists_function('post_batch');
}

# The transfers of a batch as an SQL expression, one for each row of $from;
# accounts and key are expressions over that row.
sub batch_array
{
	my ($from, $debit, $credit, $key) = @_;
	my @columns = split /\n/, sql(q{SELECT attname FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped}
		  . q{ AND attrelid = (SELECT typrelid FROM pg_type WHERE oid = 'ledger.transfer'::regtype) ORDER BY attnum});
	my $row = join ', ', map { $item{$_} // 'NULL' } @columns;
	$row =~ s/\{debit\}/$debit/;
	$row =~ s/\{credit\}/$credit/;
	$row =~ s/\{key\}/$key/;
	return "ARRAY(SELECT ROW($row)::ledger.transfer FROM $from)";
}

# One statement, whether the function returns a row or a set.
sub batch_call
{
	my ($kind, $n) = @_;
	my %variable = variables();
	my @accounts = map { s/\{(\w+)\}/$variable{$1}/gr } @{ $accounts{$kind} };
	return 'SELECT count(*) FROM ledger.post_batch(' . batch_array("generate_series(1, $n) i", @accounts, 'gen_random_uuid()') . ');';
}

1;
