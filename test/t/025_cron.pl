# run_reconciliation() as a job of pg_cron, which connects as a client does, or
# has background workers: the procedure commits between its steps there too.

use strict;
use warnings;

use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $installed = `"$ENV{PG_CONFIG}" --sharedir`;
chomp $installed;
plan skip_all => 'pg_cron is not installed' if !-e "$installed/extension/pg_cron.control";

my $node = PostgreSQL::Test::Cluster->new('cron');
$node->init;
$node->append_conf('postgresql.conf', <<CONF);
shared_preload_libraries = 'ledger, pg_cron'
cron.database_name = 'postgres'
cron.host = '@{[$node->host]}'
log_line_prefix = '%m [%p] %e %q%a '
CONF
$node->start;
load_ledger($node);
legacy_table($node, 50);
attach($node, 'shadow_mode => true');
$node->safe_psql('postgres', q{SELECT ledger.repair(dry_run => false, reason => 'open them')});
$node->safe_psql('postgres', 'CREATE EXTENSION pg_cron');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

foreach my $way ('off', 'on')
{
	query("ALTER SYSTEM SET cron.use_background_workers = $way");
	$node->restart;
	my $last = query('SELECT COALESCE(max(id), 0) FROM ledger.reconciliation_runs');
	query(q{SELECT cron.schedule('ledger-reconcile', '* * * * *', $$CALL ledger.run_reconciliation('full', chunk_users => 10)$$)});
	ok(wait_until(250, sub { query("SELECT count(*) FROM ledger.reconciliation_runs WHERE id > $last AND status = 'finished'") ne '0' }),
		"background workers $way: pg_cron runs the job");
	is(query("SELECT compared, discrepancies FROM ledger.reconciliation_runs WHERE id > $last ORDER BY id LIMIT 1"), '50|0', 'of all users');
	ok(wait_until(60, sub { query(q{SELECT status FROM cron.job_run_details ORDER BY runid DESC LIMIT 1}) eq 'succeeded' }),
		'and says that it succeeded')
	  or diag(query('SELECT status, return_message FROM cron.job_run_details'));
	query(q{SELECT cron.unschedule('ledger-reconcile')});
}
$node->stop;
done_testing();
