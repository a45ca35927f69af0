# monitoring/ledger-dashboard.json: every query names metrics and labels that
# ledger.metrics() has, every panel can be seen, and every alert has a tile,
# and a case of the runbook.

use strict;
use warnings;

use JSON::PP;
use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $node = ledger_node('dashboard', "ledger.databases = 'postgres'\nledger.worker_naptime = 20ms\n");
load_ledger($node);
legacy_table($node, 2);
attach($node, 'shadow_mode => true');
ok(wait_until(120, sub { $node->safe_psql('postgres', q{SELECT count(*) > 0 FROM ledger.metrics() WHERE metric = 'ledger_worker_slices_total'}) eq 't' }),
	'the worker is measured');

# The labels of each metric, and their values.
my (%labels, %values);
foreach (split /\n/, $node->safe_psql('postgres', q{SELECT m.metric, l.key, l.value FROM ledger.metrics() m LEFT JOIN jsonb_each_text(m.labels) l ON true}))
{
	my ($metric, $label, $value) = split /\|/;
	$labels{$metric}{$label} = $values{$metric}{"$label=$value"} = 1 if ($label // '') ne '';
	$labels{$metric}{$_} = 1 foreach qw(instance job);
	$values{$metric}{'job=ledger'} = 1;
}

# What others measure, and may be asked for all instances.
my %others = (
	up => [],
	pg_exporter_last_scrape_error => [],
	node_textfile_mtime_seconds => ['file'],
	ALERTS => [qw(alertname alertstate severity)],
);
my %words = map { $_ => 1 }
	qw(sum min max count rate increase min_over_time clamp_min histogram_quantile absent vector time by without ignoring and or unless on offset);
my $dashboard = decode_json(slurp_file('monitoring/ledger-dashboard.json'));
my (@problems, %used, %ids, %places);

# What is wrong with an expression, and what its samples are labelled with.
sub problems_of
{
	my ($expr) = @_;
	my (@found, %has);

	while ($expr =~ /\b([A-Za-z_][A-Za-z0-9_:]*)\s*\{([^}]*)\}/g)
	{
		my ($metric, $selector) = ($1, $2);
		if ($others{$metric})
		{
			my %known = map { $_ => 1 } qw(instance job), @{ $others{$metric} };
			$has{$_} = 1 foreach keys %known;
			push @found, map { "$metric has no label $_" } grep { !$known{$_} } $selector =~ /(\w+)\s*(?:=~|!=|=)/g;
			next;
		}
		if (!$labels{$metric})
		{
			push @found, "no metric $metric";
			next;
		}
		$used{$metric} = 1;
		$has{$_} = 1 foreach keys %{ $labels{$metric} };
		push @found, "$metric of every instance" if $selector !~ /instance=~"\$instance"|^job="ledger"$/;
		while ($selector =~ /(\w+)\s*(=~|!=|=)\s*"([^"]*)"/g)
		{
			push @found, "$metric has no label $1" if !$labels{$metric}{$1};
			push @found, "$metric has no $1 that is $3" if $2 eq '=' && !$values{$metric}{"$1=$3"};
		}
	}
	push @found, 'no metric' if !%has;
	while ($expr =~ /\b(?:by|without|ignoring|on)\s*\(([^)]*)\)/g)
	{
		push @found, map { "no label $_" } grep { !$has{$_} } split /\s*,\s*/, $1;
	}
	my $rest = $expr =~ s/\{[^}]*\}//gr =~ s/\b(?:by|without|ignoring|on)\s*\([^)]*\)//gr =~ s/\[[^\]]*\]//gr;
	push @found, map { "what is $_?" } grep { !$words{$_} && !$labels{$_} && !$others{$_} } $rest =~ /\b([A-Za-z_][A-Za-z0-9_:]*)\b/g;
	return (\%has, @found);
}

foreach my $panel (@{ $dashboard->{panels} })
{
	my ($name, $at) = ("panel '$panel->{title}'", $panel->{gridPos});

	push @problems, "$name has another's id" if $ids{ $panel->{id} }++;
	push @problems, "$name is beside the page" if $at->{x} + $at->{w} > 24;
	foreach my $x ($at->{x} .. $at->{x} + $at->{w} - 1)
	{
		push @problems, map { "$name is on $places{$_}" } grep { exists $places{$_} } map { "$x,$_" } $at->{y} .. $at->{y} + $at->{h} - 1;
		$places{"$x,$_"} = $name foreach $at->{y} .. $at->{y} + $at->{h} - 1;
	}
	next if $panel->{type} eq 'row';
	push @problems, "$name does not say what it is" if !$panel->{description};
	push @problems, "$name asks nothing" if !@{ $panel->{targets} };
	foreach my $target (@{ $panel->{targets} })
	{
		my ($has, @found) = problems_of($target->{expr});
		push @found, map { "its legend names no label $_" } grep { !$has->{$_} } $target->{legendFormat} =~ /\{\{(\w+)\}\}/g;
		push @problems, map { "$name: $_" } @found;
	}
}
is(join("\n", @problems), '', 'every query asks for what there is');
ok($labels{ $dashboard->{templating}{list}[1]{query}{query} =~ /label_values\((\w+), instance\)/ ? $1 : '' }, 'so does the list of instances');
foreach my $wrong ('ledger_no_such{instance=~"$instance"}', 'rate(ledger_operations_total{instance=~"$instance", outcome="lost"}[5m])', 'ledger_worker_running',
	'sum by (mapping) (ledger_strict_mode{instance=~"$instance"})', 'quantile(ledger_strict_mode{instance=~"$instance"})',
	'up{job="ledger"} unless on (mapping) ledger_extension_info{job="ledger"}', 'down{job="ledger"}', 'up{servant="ledger"}')
{
	my (undef, @found) = problems_of($wrong);
	isnt("@found", '', "found wrong: $wrong");
}

# The product's four are there.
is(join(' ', grep { !$used{$_} } qw(ledger_shadow_discrepancy_count balance_query_duration_ms_bucket ledger_write_success_rate shadow_mode_write_lag_ms_bucket)),
	'', 'the four that the product named are shown');

# Each alert has a tile in the first rows, in which red begins at its threshold: above a whole number at the next.
my @tiles;
foreach my $panel (@{ $dashboard->{panels} })
{
	last if $panel->{type} eq 'row' && @tiles;
	push @tiles, $panel if $panel->{type} eq 'stat';
}
sub tile_problem
{
	my ($alert, $threshold) = @_;
	my ($tile) = grep { $_->{description} =~ /\b$alert\b/ } @tiles or return "no tile for $alert";
	return '' if !defined $threshold;
	my @steps = @{ $tile->{fieldConfig}{defaults}{thresholds}{steps} };
	my ($at) = $steps[0]{color} eq 'red' ? $steps[1]{value} : map { $_->{value} } grep { $_->{color} eq 'red' } @steps;
	return $at >= $threshold && $at - $threshold <= 1 ? '' : "the tile for $alert is red from $at";
}
my %thresholds = map { split /\|/ } split /\n/, $node->safe_psql('postgres', 'SELECT alert, threshold FROM ledger.alerts');
my @alerts = slurp_file('monitoring/ledger.rules.yml') =~ /^ *- alert: (\w+)$/mg;
is(join(' ', grep { !exists $thresholds{$_} } @alerts), 'LedgerScrapeAbsent LedgerTextfileStale', 'Prometheus has two alerts more');
my %rules = map { $_ => 1 } @alerts;
is(join(' ', grep { !$rules{$_} } sort keys %thresholds), '', 'and none less');
is(join("\n", grep { $_ } map { tile_problem($_, $thresholds{$_}) } @alerts), '', 'each alert has a tile');
isnt(tile_problem('LedgerBypass', 7), '', 'found wrong: a threshold');

# Each alert names a case that the runbook has, as docs/monitoring.md does.
my %cases = map { '#' . lc($_) =~ s/[^a-z0-9 -]//gr =~ tr/ /-/r => 1 } slurp_file('docs/runbook.md') =~ /^# (.+)$/mg;
my %links = slurp_file('docs/monitoring.md') =~ /^\| `(Ledger\w+)` .*\(runbook\.md(#[\w-]+)\) \|$/mg;
my %named = slurp_file('monitoring/ledger.rules.yml') =~ /- alert: (\w+)\n(?:(?! *- alert:).*\n)*? *runbook: docs\/runbook\.md(#[\w-]+)$/mg;
is_deeply([ map { "$_ $named{$_}" } sort keys %named ], [ map { "$_ $links{$_}" } sort @alerts ], 'each alert has the same case there');
is(join(' ', grep { !$cases{$_} } values %named), '', 'which the runbook has');

# Prometheus can parse each.
SKIP:
{
	my ($promtool) = grep { -x } map { "$_/promtool" } "$ENV{SANDBOX}/debian/usr/bin", split /:/, $ENV{PATH};
	skip 'no promtool is installed', 1 if !defined $promtool;
	my $n = 0;
	my @rules = map { { record => 'r' . $n++, expr => $_->{expr} =~ s/\$__rate_interval/1m/gr } } map { @{ $_->{targets} // [] } } @{ $dashboard->{panels} };
	my $file = PostgreSQL::Test::Utils::tempdir() . '/rules.yml';
	append_to_file($file, encode_json({ groups => [ { name => 'dashboard', rules => \@rules } ] }));
	my $said = `'$promtool' check rules '$file' 2>&1`;
	is($? >> 8, 0, 'Prometheus can read each query') or diag($said);
}
$node->stop;
done_testing();
