# LedgerTest.pm: what the TAP tests with servers of their own share.

package LedgerTest;

use strict;
use warnings;

use Exporter qw(import);
use File::Basename;
use File::Spec;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(ledger_node load_ledger oracle_ok);

my $lib = dirname(File::Spec->rel2abs(__FILE__));

# ledger_node($name, $conf, %init): a running server that has the ledger
# preloaded; $conf is more text for postgresql.conf, %init goes to init().
sub ledger_node
{
	my ($name, $conf, %init) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%init);
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'ledger'\nmax_prepared_transactions = 10\n" . ($conf // ''));
	$node->start;
	return $node;
}

# The extension and the oracle in a database.
sub load_ledger
{
	my ($node, $database) = @_;

	$node->safe_psql($database // 'postgres',
		"CREATE EXTENSION ledger;\n" . slurp_file("$lib/oracle.sql"));
}

# Passes if the oracle finds nothing wrong.
sub oracle_ok
{
	my ($node, $name, $database) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql($database // 'postgres', 'SELECT * FROM public.ledger_oracle()'), '', $name);
}

1;
