# Prometheus itself and its exporter, as Debian has them, on loopback: what is
# scraped is what prometheus() says, and alerts fire there as in ledger.alerts.

use strict;
use warnings;

use HTTP::Tiny;
use JSON::PP qw(decode_json);
use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my %program;
foreach my $name (qw(prometheus promtool prometheus-postgres-exporter))
{
	($program{$name}) = grep { -x } map { "$_/$name" } "$ENV{SANDBOX}/debian/usr/bin", '/usr/bin', '/usr/local/bin';
	next if $program{$name};
	plan(skip_all => "$name is not here, and this is not Debian, where it would have been fetched") if !-e '/etc/debian_version';
	die "$name is not here; the sandbox is to be called with --unpack\n";
}

my %pid;

END
{
	my $status = $?;
	end($_) foreach keys %pid;
	$? = $status;
}

# Ends a program that was started here.
sub end
{
	my ($name) = @_;
	my $pid = delete $pid{$name} or return;

	kill 'TERM', $pid;
	if (!wait_until(60, sub { waitpid($pid, 1) != 0 }))
	{
		kill 'KILL', $pid;
		waitpid($pid, 0);
	}
}

# Starts one in the background.
sub begin
{
	my ($name, $log, @arguments) = @_;

	$pid{$name} = fork() // die "fork: $!\n";
	return if $pid{$name};
	open STDOUT, '>', $log or die "$log: $!\n";
	open STDERR, '>&', \*STDOUT;
	exec $program{$name}, @arguments or POSIX::_exit(1);
}

my $http = HTTP::Tiny->new(timeout => 10);

sub get
{
	my ($url) = @_;
	my $answer = $http->get($url);
	return $answer->{success} ? $answer->{content} : undef;
}

# ---- the rules, without a server -------------------------------------------------

my $share = `"$ENV{PG_CONFIG}" --sharedir`;
chomp $share;
my ($rules, $queries) = map { "$share/extension/ledger.$_.yml" } 'rules', 'exporter';
ok(-e $rules && -e $queries, 'rules and queries are installed with the extension');
command_ok([ $program{promtool}, 'check', 'rules', $rules ], 'the rules are well formed');
command_ok([ $program{promtool}, 'test', 'rules', 'monitoring/ledger.rules.test.yml' ], 'and fire where they should');

# ---- a ledger ---------------------------------------------------------------------

my $node = ledger_node('prometheus', <<CONF);
ledger.databases = 'postgres'
ledger.worker_naptime = 20ms
CONF

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub comes_true
{
	my ($sql) = @_;
	return wait_until(120, sub { (eval { query($sql) } // '') eq 't' });
}

load_ledger($node);
legacy_table($node, 20);
attach($node, 'shadow_mode => true');
query('CALL ledger.backfill()');
query('CALL ledger.run_reconciliation()');
query('CREATE ROLE watcher LOGIN IN ROLE pg_monitor');
# so old that the worker adds them up
query("INSERT INTO ledger.discrepancy_changes (mapping_id, legacy_column, at, count)"
	. " SELECT 30 + n % 2, 'old', now() - interval '2 hours', n FROM generate_series(1, 120) n");

# The text format, but for its rules on names, which the product's four do not keep.
my $text = $node->basedir . '/metrics';
append_to_file($text, query('SELECT ledger.prometheus()') . "\n");
my $found = `'$program{promtool}' check metrics <'$text' 2>&1`;
is(join("\n", grep { !/^(balance_query_duration_ms|ledger_shadow_discrepancy_count|shadow_mode_write_lag_ms) / } split /\n/, $found),
	'', 'promtool reads what prometheus() says');

# ---- scraped ------------------------------------------------------------------------

my ($exporter, $prometheus) = map { '127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port() } 1, 2;
my $dir = $node->basedir;

{
	local $ENV{DATA_SOURCE_NAME} = sprintf 'host=%s port=%s user=watcher dbname=postgres sslmode=disable', $node->host, $node->port;
	begin('prometheus-postgres-exporter', "$dir/exporter.log", "--extend.query-path=$queries", '--disable-default-metrics',
		'--disable-settings-metrics', "--web.listen-address=$exporter");
}
my $scraped;
ok(wait_until(60, sub { $scraped = get("http://$exporter/metrics") }), 'the exporter answers');
my $said = query('SELECT ledger.prometheus()');
my @families = $said =~ /^# TYPE (\S+ \S+)$/mg;
cmp_ok(scalar @families, '>', 35, 'there are families');

# Those that the exporter has not, of the same types.
sub other_types
{
	my %types = map { /^# TYPE (\S+ \S+)/ ? ($1 => 1) : () } split /\n/, $scraped;
	return join "\n", grep { !$types{$_} } @families;
}

# Each sample by its name and labels.
sub samples
{
	my ($text) = @_;
	my %value;

	while ($text =~ /^([a-z_]+)(?:\{(.*)\})? (\S+)$/mg)
	{
		my ($name, $labels, $value) = ($1, $2 // '', $3);
		my @labels = grep { !/^server=/ } $labels =~ /([a-z_]+="(?:[^"\\]|\\.)*")/g;

		@labels = map { /^le="(.*)"/ ? 'le="' . ($1 eq '+Inf' ? $1 : $1 + 0) . '"' : $_ } @labels;
		$value{ $name . '{' . join(',', sort @labels) . '}' } = $value;
	}
	return \%value;
}

sub missing
{
	my ($has, $wants) = (samples($scraped), samples($said));
	return join "\n", grep { !defined $has->{$_} && !/^ledger_worker_(slices|seconds)/ } sort keys %$wants;
}
# some of it the worker had only stored when it had been asked
wait_until(60, sub { $scraped = get("http://$exporter/metrics") // ''; other_types() . missing() eq '' });
is(other_types(), '', 'it has all of prometheus(), of the same types');
is(missing(), '', 'and each of its samples');
unlike(slurp_file("$dir/exporter.log"), qr/level=(error|warn)/, 'without an error');

append_to_file("$dir/prometheus.yml", <<CONF);
global: {scrape_interval: 2s, evaluation_interval: 1s}
rule_files: ['$rules']
scrape_configs: [{job_name: ledger, static_configs: [{targets: ['$exporter']}]}]
CONF
begin('prometheus', "$dir/prometheus.log", "--config.file=$dir/prometheus.yml", "--storage.tsdb.path=$dir/tsdb", "--web.listen-address=$prometheus");

# What an expression is there, as a list of values.
sub values_of
{
	my ($expression) = @_;
	my $answer = get("http://$prometheus/api/v1/query?" . $http->www_form_urlencode({ query => $expression })) // return;
	return map { $_->{value}[1] } @{ decode_json($answer)->{data}{result} };
}

sub becomes
{
	my ($expression, $value) = @_;
	return wait_until(60, sub { join(' ', values_of($expression)) eq $value });
}

# The alerts that fire, there and here; or are in another state.
sub firing
{
	my ($state) = @_;
	my $answer = get("http://$prometheus/api/v1/alerts") // return 'no answer';
	return join ' ', sort map { $_->{labels}{alertname} } grep { $_->{state} eq ($state // 'firing') } @{ decode_json($answer)->{data}{alerts} };
}

sub fire
{
	my ($alerts, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($there, $here);
	wait_until(60, sub { ($there = firing()) eq $alerts });
	is($there, $alerts, "Prometheus: $name");
	# where a finding is only seen when the worker has stored it
	wait_until(60, sub { ($here = query("SELECT string_agg(alert, ' ' ORDER BY alert) FROM ledger.alerts WHERE firing")) eq $alerts });
	is($here, $alerts, "ledger.alerts: $name");
}

ok(becomes('ledger_extension_info{job="ledger"}', '1'), 'Prometheus scrapes it');
ok(comes_true('SELECT running AND last_seen IS NOT NULL FROM ledger.worker_status'), 'the worker runs');
ok(becomes('sum(ledger_shadow_discrepancy_count)', '0'), 'nothing was found yet');
fire('', 'nothing fires');

# ---- failures -------------------------------------------------------------------------

# The customers from the first to the last differ, and are read.
sub differ
{
	my ($first, $last) = @_;
	query("UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id BETWEEN '" . customer($first) . "' AND '" . customer($last) . "'");
	query("SELECT ledger.get_user_balance('" . customer($_) . "')") foreach $first .. $last;
}

differ(1, 10);
ok(becomes('sum(ledger_shadow_discrepancy_count)', '10'), '10 discrepancies are counted');
query("SELECT ledger.get_user_balance('" . customer(1) . "')") foreach 1 .. 30;
ok(becomes('ledger_shadow_mismatches_total', '40'), 'a customer who looks 30 times is counted as often there');
ok(becomes('sum(ledger_shadow_discrepancy_count)', '10'), 'and once here');
fire('LedgerOutsideWrites', '10 within 5 minutes are quiet, that somebody writes past the ledger is not');
differ(11, 11);
fire('LedgerDiscrepancies LedgerOutsideWrites', '11 fire');

query("DO \$\$ BEGIN PERFORM ledger.debit_user_usdc('" . customer(20) . "', 1000000, 'too much'); EXCEPTION WHEN SQLSTATE 'LG001' THEN END \$\$") foreach 1 .. 5;
ok(becomes('ledger_operation_errors_total{operation="debit_user_usdc", code="LG001"}', '5'), 'what a rule refuses is counted');
fire('LedgerDiscrepancies LedgerOutsideWrites', 'and no failure');
query("DO \$\$ BEGIN PERFORM ledger.debit_user_usdc('" . customer(20) . "', 1, NULL); EXCEPTION WHEN null_value_not_allowed THEN END \$\$");
fire('LedgerDiscrepancies LedgerOutsideWrites LedgerWriteFailures', 'one of 6 writes is too much');

query("SET session_replication_role = replica; UPDATE public.balances SET buying_power = buying_power + 1 WHERE user_id = '" . customer(1) . "'");
query('ALTER TABLE public.balances DISABLE TRIGGER ledger_capture');
fire('LedgerBypass LedgerCaptureMissing LedgerDiscrepancies LedgerOutsideWrites LedgerWriteFailures', 'a write past the capture, and one that is not in place');
query('SELECT ledger.rearm()');
fire('LedgerBypass LedgerDiscrepancies LedgerOutsideWrites LedgerWriteFailures', 'which is put back');
query('SELECT ledger.configure(strict_mode => true)');
is(($node->psql('postgres', "SELECT ledger.get_user_balance('" . customer(2) . "')"))[0], 3, 'strict mode refuses a read');
fire('LedgerBypass LedgerDiscrepancies LedgerOutsideWrites LedgerReadsRefused LedgerWriteFailures', 'of somebody who cannot see his balance');

# ---- what the worker stores for it --------------------------------------------------

ok(comes_true('SELECT count(*) > 0 AND max(attempts) > 0 FROM ledger.write_samples'), 'the worker stores the counters of writes');
ok(comes_true('SELECT count(*) = (SELECT count(*) FROM ledger.readiness()) FROM ledger.gate_states'), 'and the gates');
ok(comes_true("SELECT count(*) = 2 FROM ledger.discrepancy_changes WHERE legacy_column = 'old'"), 'adds up old changes');
is(query("SELECT sum(count) FROM ledger.discrepancy_changes WHERE legacy_column = 'old'"), 120 * 121 / 2, 'to the same');
# but that somebody was in its way for long
is(query("SELECT last_error FROM ledger.worker_status WHERE errors > 0 AND last_error NOT LIKE '%lock timeout%'"), '', 'without an error');
is(($node->psql('postgres', 'DELETE FROM ledger.discrepancy_changes'))[0], 3, 'which nobody else may');

# ---- not measured -------------------------------------------------------------------------

ok(wait_until(60, sub { firing('pending') eq '' }), 'all is measured');
query('REVOKE pg_monitor FROM watcher');
ok(wait_until(60, sub { firing('pending') eq 'LedgerScrapeAbsent' }), 'a role that may not ask any more');
ok(becomes('up{job="ledger"} * pg_exporter_last_scrape_error', '1'), 'though the exporter answers');
ok(becomes('count({__name__=~"ledger_.+"})', ''), 'without one metric of the ledger');
query('GRANT pg_monitor TO watcher');
ok(wait_until(60, sub { firing('pending') eq '' }), 'until it may');
end('prometheus-postgres-exporter');
ok(wait_until(60, sub { firing('pending') eq 'LedgerScrapeAbsent' }), 'an exporter that is gone');

end('prometheus');
ok(!defined get("http://$prometheus/-/ready") && !defined get("http://$exporter/metrics"), 'both have ended');
query("SELECT ledger.repair(dry_run => false, reason => 'a test')");
ledger_ok($node, 'the ledger holds');
$node->stop;
done_testing();
