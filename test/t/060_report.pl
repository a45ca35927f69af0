# The page of report_html() where it is read when something is wrong: on a
# standby, without the library preloaded; written to a file by psql; and in a
# browser, if there is one.

use strict;
use warnings;

use File::Temp qw(tempdir);
use Test::More;

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $node = ledger_node('primary', "ledger.databases = 'postgres'\nledger.worker_naptime = 20ms\n", allows_streaming => 1);
my ($one, $two) = map { customer($_) } 1, 2;
my $nasty = q{<script>console.error("ran")</script><img src="x" onerror="console.error(1)"/> & 'a' "b"};

load_ledger($node);
legacy_table($node, 100);
attach($node, 'shadow_mode => true');
my $db = connection($node);
$db->do('SELECT ledger.configure(strict_mode => false, balance_source => ?, reason => ?)', undef, 'legacy', $nasty);
$db->do("SELECT ledger.credit_user_usdc('$_', 12.5, 'x')") foreach map { customer($_) } 1 .. 60;
$db->do("SELECT * FROM ledger.get_balance('$one')");
code_of($db, "SELECT ledger.debit_user_usdc('$two', 100000, 'x')");
$db->do('UPDATE public.balances SET buying_power = buying_power * 98765432.123456789 WHERE buying_power > 0');
$db->do('CALL ledger.run_reconciliation()');
ok(wait_until(120, sub { $node->safe_psql('postgres', 'SELECT count(*) > 0 FROM ledger.worker_heartbeat') eq 't' }), 'the worker has noted itself');

# A page as psql -At writes it.
sub page
{
	my ($server) = @_;
	return $server->safe_psql('postgres', 'SELECT ledger.report_html()');
}

# Whether it is well-formed, and all its sections are there.
sub whole
{
	my ($page, $name) = @_;
	my $parsed = $db->selectrow_array(q{SELECT xmlparse(DOCUMENT ?) IS DOCUMENT}, undef, $page);
	my @sections = $page =~ /<section id="(\w+)">/g;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is("$parsed @sections", '1 alerts state writers discrepancies gates reconciliations suspense postings operations reads worker', $name);
}

my $page = page($node);
whole($page, 'the page is whole');
like($page, qr/<td class="number" data-label="Calls"><span>60<\/span>/, 'it counts what was called');
like($page, qr/<div class="tile good"><h2>Worker<\/h2><p class="value">runs</, 'and sees the worker');
like($page, qr/<div class="tile good"><h2>Writes that did not fail<\/h2><p class="value">100 %<.*none of 61 failed within 5 minutes/, 'what did not fail is the gauge\'s');
like($page, qr/The 20 largest of \d+</, 'no more than 20 discrepancies are shown');
is(scalar(() = $page =~ /<td class="code" data-label="User">/g), 20, 'all of them full');
like($page, qr/data-label="Role"><span>postgres<.*data-label="The last statement"><span>UPDATE public\.balances SET/, 'and who wrote');

# ---- a browser ----------------------------------------------------------------------

my ($chromium) = grep { -x } map { "/usr/bin/$_" } qw(chromium chromium-browser google-chrome);
SKIP:
{
	skip 'no chromium is installed', 9 if !defined $chromium;
	my $dir = tempdir(CLEANUP => 1);

	# Runs it on a page in a window so wide; returns what it printed.
	my $browse = sub {
		my ($html, $width, @options) = @_;
		open my $file, '>', "$dir/report.html" or die "$dir/report.html: $!\n";
		print $file $html;
		close $file;
		my $printed = `timeout 300 '$chromium' --headless=new --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir='$dir/profile' --window-size=$width,2000 --enable-logging=stderr @options 'file://$dir/report.html' 2>'$dir/log'`;
		return ($printed, join "\n", grep /CONSOLE/, split /\n/, slurp_file("$dir/log"));
	};

	# What the page does not do, so that its silence means something.
	my (undef, $console) = $browse->('<script>console.error("ran")</script>', 800, '--dump-dom');
	like($console, qr/ran/, 'what a page says on the console is seen');
	foreach my $scheme (0, 1)
	{
		my $picture = "$dir/report$scheme.png";
		(undef, $console) = $browse->($page, 1280, "--blink-settings=preferredColorScheme=$scheme", "--screenshot=$picture");
		is($console, '', ('dark', 'light')[$scheme] . ': the browser has nothing to say');
		cmp_ok(-s $picture // 0, '>', 50_000, 'it shows something');
	}

	# A copy of the page that tells how wide it is, as it may not itself.
	my $measured = $page =~ s/<meta http-equiv[^>]*>//r;
	$measured =~ s{</body>}{<script>document.title = 'wide ' + document.documentElement.scrollWidth + ' of ' + window.innerWidth</script></body>};
	foreach my $width (500, 760, 1280, 2000)
	{
		my ($dom) = $browse->($measured, $width, '--dump-dom');
		my ($wide, $window) = $dom =~ /<title>wide (\d+) of (\d+)</;
		ok(defined $wide && $wide <= $window, "at $width pixels nothing is cut off") or diag($wide // 'nothing', ' of ', $window // 'nothing');
	}
}

# ---- a standby, and a server without the library preloaded -----------------------------

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
$page = page($standby);
whole($page, 'a standby makes the page too');
like($page, qr/PostgreSQL [\d.]+, a standby</, 'and says that it is one');
like($page, qr/<div class="tile warn"><h2>Worker<\/h2><p class="value">on the primary</, 'its worker is not missed');
like($page, qr/<p class="value">none<.*no writes counted/, 'it has no writes of its own');
$standby->stop;

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
$db = connection($node);
$page = page($node);
whole($page, 'so does a server without the library preloaded');
like($page, qr/The library is not preloaded, or/, 'and says so');
like($page, qr/<div class="tile bad"><h2>Worker<\/h2><p class="value">does not run</, 'a legacy table is attached: the worker is missed');
like($page, qr/<div class="tile plain"><h2>Writes that did not fail<\/h2><p class="value">none<.*no writes counted/, 'no writes are no success');
$node->stop;
done_testing();
