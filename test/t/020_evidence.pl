# Evidence: what a transaction has found survives its abort, with what became
# of it (hazard 31); reads leave it, too; what finds no room is counted (hazard 32).
#
# Fails with every transaction that has ended taken for committed, or asked of the
# commit log however old it is (settle_xids() in evidence.c), if a subtransaction that has written nothing shares the fate of the whole
# whatever is around it (innermost_xid()), and if what finds no room is not counted
# (ledger_ring_count_loss() in evidence_ring.c).

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(sleep time);

use LedgerTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

my $node = ledger_node('evidence', <<CONF);
ledger.databases = 'postgres'
ledger.evidence_size = 100
ledger.worker_naptime = 20ms
log_min_messages = error
client_min_messages = error
CONF
load_ledger($node);
legacy_table($node, 2000);
attach($node, 'shadow_mode => true, strict_mode => true');

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# The SQLSTATE of what fails in a session of its own.
sub fails
{
	my ($sql) = @_;
	my ($status, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	return $status ? ($err =~ /ERROR:  (\w{5}): /)[0] : '';
}

# What is stored of a customer, once it is what is expected.
sub stored_is
{
	my ($user, $expected, $name) = @_;
	my $sql = "SELECT legacy_column, cause, source, count, outcome, difference FROM ledger.discrepancies"
	  . " WHERE user_id = '$user' ORDER BY cause COLLATE \"C\", legacy_column COLLATE \"C\"";
	my $got;

	wait_until(60, sub { ($got = query($sql)) eq $expected });
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($got, $expected, $name);
}

# Waits until nothing is left in the ring.
sub emptied
{
	return wait_until(60, sub { query('SELECT used FROM ledger.evidence_status()') eq '0' });
}

my @c = map { customer($_) } 0 .. 40;
query("SELECT ledger.credit_user_usdc(u, 1, 'opens them') FROM unnest(ARRAY[" . join(', ', map { "'$c[$_]'::uuid" } 1 .. 40) . "]) u");
ok(wait_until(60, sub { query('SELECT running FROM ledger.worker_status') eq 't' }), 'the worker runs');
is(query('SELECT count(*) FROM ledger.discrepancies'), '0', 'nothing was found yet');

# ---- strict mode ----------------------------------------------------------------

is(fails("BEGIN; SELECT ledger.credit_user_usdc('$c[1]', 5, 'x');"
			. "UPDATE public.balances SET pending_deposits = pending_deposits + 5 WHERE user_id = '$c[1]'; COMMIT"),
	'LG003', 'a double write fails at commit');
stored_is($c[1], <<'ROWS' =~ s/\n\z//r, 'hazard 31: what it was is stored: aborted');
pending_deposits|double_write|capture|1|aborted|-5.00
pending_deposits|strict_failure|commit|1|aborted|-5.00
ROWS
is(query("SELECT * FROM ledger.compare_balances('$c[1]') WHERE status <> 'match'"), '', 'and nothing of it is left');
like(slurp_file($node->logfile), qr/balance discrepancy detected \(strict mode\) \| user_id=$c[1] \| diff=-5\.00/, 'hazard 31: the log has it');

query("UPDATE public.balances SET buying_power = buying_power + 7 WHERE user_id = '$c[2]'");
is(fails("BEGIN; SELECT ledger.get_user_balance('$c[2]'); COMMIT"), 'LG003', 'a strict read fails');
is(fails("BEGIN READ ONLY; SELECT ledger.get_balance('$c[2]'); COMMIT"), 'LG003', 'in a transaction that may not write, too');
stored_is($c[2], 'buying_power|strict_failure|read|2|none|-7.00', 'each time it left evidence, of a transaction that wrote nothing');

# A failing mirror takes the posting with it.
query("ALTER TABLE public.balances ADD CONSTRAINT at_most CHECK (pending_deposits < 1100)");
is(fails("SELECT ledger.credit_user_usdc('$c[3]', 500, 'x')"), '23514', 'a mirror that the table refuses');
stored_is($c[3], 'pending_deposits|mirror_failed|posting|1|aborted|1501.00', 'left evidence');
like(query("SELECT note FROM ledger.discrepancies WHERE user_id = '$c[3]'"), qr/^23514: .*at_most/, 'with its error');
is(query("SELECT ledger.get_account_balance('$c[3]', 'usdc_balance')"), '1001.00', 'of what is not there');

# Contention is no evidence.
my $holder = connection($node, AutoCommit => 0);
$holder->do("UPDATE public.balances SET updated_at = now() WHERE user_id = '$c[4]'");
is(fails("SET lock_timeout = '50ms'; SELECT ledger.credit_user_usdc('$c[4]', 1, 'x')"), '55P03', 'a lock that is not had in time');
$holder->rollback;

# ---- refused writes -------------------------------------------------------------

query("SELECT ledger.configure_capture('public.balances', 'refuse', 'a test')");
query('CREATE ROLE old_code; GRANT ALL ON public.balances TO old_code');
is(fails("SET ROLE old_code; SET application_name = 'till'; UPDATE public.balances SET buying_power = buying_power - 3 WHERE user_id = '$c[5]'"),
	'LG005', 'a write is refused') foreach 1 .. 3;
is(fails("DELETE FROM public.balances WHERE user_id = '$c[6]'"), 'LG005', 'so is a DELETE');
is(fails("UPDATE public.balances SET user_id = gen_random_uuid() WHERE user_id = '$c[7]'"), 'LG005', 'and a change of the key');
is(fails('TRUNCATE public.balances'), 'LG005', 'and TRUNCATE');
stored_is($c[5], 'buying_power|refused_write|capture|3|aborted|0', 'three times');
is(query("SELECT note FROM ledger.discrepancies WHERE user_id = '$c[5]'"), 'UPDATE of -3.000000000000000000 by role old_code, application "till"',
	'who it was');
stored_is($c[6], "buying_power|refused_write|capture|1|aborted|0\npending_deposits|refused_write|capture|1|aborted|0", 'each column');
stored_is($c[7], "buying_power|refused_write|capture|1|aborted|0\npending_deposits|refused_write|capture|1|aborted|0", 'of the old key');
my $everybody = "SELECT legacy_column, cause, outcome FROM ledger.discrepancies WHERE user_id IS NULL";
wait_until(60, sub { query($everybody) ne '' });
is(query($everybody), '*|refused_write|none', 'TRUNCATE is everybody; it had written nothing yet');
query("SELECT ledger.configure_capture('public.balances', 'record', 'a test')");

# ---- savepoints, and strict off ---------------------------------------------------

query('ALTER TABLE public.balances DROP CONSTRAINT at_most; SELECT ledger.configure(strict_mode => false)');
query("UPDATE public.balances SET pending_deposits = pending_deposits + 2 WHERE user_id IN ('$c[10]', '$c[11]', '$c[12]', '$c[13]')");
query("BEGIN; SELECT ledger.debit_user_usdc('$c[14]', 1, 'writes'); SAVEPOINT s; SELECT ledger.credit_user_usdc('$c[10]', 1, 'x');"
	. " ROLLBACK TO s; SELECT ledger.credit_user_usdc('$c[11]', 1, 'x'); COMMIT");
stored_is($c[10], 'pending_deposits|mismatch|posting|1|aborted|-2.00', 'found in a savepoint that was rolled back');
stored_is($c[11], 'pending_deposits|mismatch|posting|1|committed|-2.00', 'and in the transaction, which committed');

# A read in a block of its own, in a savepoint that wrote what it saw.
query("BEGIN; SELECT ledger.debit_user_usdc('$c[14]', 1, 'writes'); SAVEPOINT s;"
	. " UPDATE public.balances SET pending_deposits = pending_deposits + 2 WHERE user_id = '$c[38]'; SAVEPOINT t;"
	. " SELECT ledger.get_user_balance('$c[38]'); ROLLBACK TO s; COMMIT");
stored_is($c[38], 'pending_deposits|mismatch|read|1|aborted|-2.00', 'found in a block within a savepoint that was rolled back');
query("BEGIN; SAVEPOINT s; UPDATE public.balances SET pending_deposits = pending_deposits + 2 WHERE user_id = '$c[39]'; RELEASE s; SAVEPOINT t;"
	. " SELECT ledger.get_user_balance('$c[39]'); ROLLBACK TO t; COMMIT");
stored_is($c[39], 'pending_deposits|mismatch|read|1|committed|-2.00', 'within one that was not');

# More of them than are told apart: the rest is the whole transaction's.
query(<<SQL);
DO \$\$
BEGIN
	FOR i IN 1 .. 20 LOOP
		BEGIN
			PERFORM ledger.credit_user_usdc('$c[12]', 1, 'x');
			RAISE EXCEPTION USING ERRCODE = 'TR001';
		EXCEPTION WHEN SQLSTATE 'TR001' THEN
			NULL;
		END;
	END LOOP;
END
\$\$;
SQL
stored_is($c[12], 'pending_deposits|mismatch|posting|20|aborted|-2.00', 'a loop of exceptions');
my $db = connection($node);
foreach my $i (1 .. 12)
{
	$db->begin_work;
	$db->do("SELECT ledger.credit_user_usdc('$c[13]', 1, 'x')");
	$i % 2 ? $db->rollback : $db->commit;
}
stored_is($c[13], 'pending_deposits|mismatch|posting|12|committed|-2.00', 'some committed, some not: committed');
is(query("SELECT count, none_count, in_progress_count, aborted_count FROM ledger.discrepancy_rows WHERE user_id = '$c[13]'"),
	'12|0|0|6', 'how many were rolled back is known');

# More savepoints in one another than are told apart.
query("UPDATE public.balances SET pending_deposits = pending_deposits + 2 WHERE user_id IN ('$c[16]', '$c[17]')");
my $nested = join '; ', map { "SAVEPOINT s$_; SELECT ledger.credit_user_usdc('%s', 1, 'x')" } 1 .. 20;
query(sprintf "BEGIN; $nested; COMMIT", ($c[16]) x 20);
query(sprintf "BEGIN; $nested; ROLLBACK", ($c[17]) x 20);
stored_is($c[16], 'pending_deposits|mismatch|posting|20|committed|-2.00', 'savepoints of a transaction that committed');
stored_is($c[17], 'pending_deposits|mismatch|posting|20|aborted|-2.00', 'and of one that did not');

# A number for which an entry has no room.
query('ALTER TABLE public.balances ALTER buying_power TYPE numeric');
query("UPDATE public.balances SET buying_power = repeat('1234', 60)::numeric WHERE user_id = '$c[18]'");
query("SELECT ledger.get_user_balance('$c[18]')");
stored_is($c[18], 'buying_power|mismatch|read|1|none|180.00', 'a number that is very long');
like(query("SELECT note FROM ledger.discrepancies WHERE user_id = '$c[18]'"), qr/too many digits/, 'is not kept');
query("UPDATE public.balances SET buying_power = 180 WHERE user_id = '$c[18]'");
query('ALTER TABLE public.balances ALTER buying_power TYPE numeric(36,18)');

# Other rows of the same evidence: repaired before it is stored, nothing is opened again.
query("UPDATE public.balances SET buying_power = buying_power + 2 WHERE user_id = '$c[15]'");
$db->begin_work;
$db->do("SET LOCAL lock_timeout = 0");
$db->do("LOCK TABLE ledger.discrepancy_rows IN SHARE MODE");
query("SELECT ledger.get_user_balance('$c[15]')");
query("UPDATE public.balances SET buying_power = buying_power - 2 WHERE user_id = '$c[15]'");
ok(wait_until(60, sub { query('SELECT used > 0 FROM ledger.evidence_status()') eq 't' }), 'what cannot be stored stays in the ring');
my $errors = 'SELECT errors > 0 AND last_error IS NOT NULL FROM ledger.worker_status';
ok(wait_until(60, sub { query($errors) eq 't' }), 'the worker says what failed');
$db->commit;
query("CALL ledger.run_reconciliation()");
ok(emptied(), 'and is stored afterwards');
like(query("SELECT status, count FROM ledger.discrepancies WHERE user_id = '$c[15]'"), qr/^(resolved|open)\|1$/, 'once');

# ---- what is in progress ------------------------------------------------------------

query("UPDATE public.balances SET pending_deposits = pending_deposits + 3 WHERE user_id IN ('$c[20]', '$c[21]')");
# not past the house's accounts, which the first would hold
sub prepare
{
	my ($from, $to, $gid) = @_;

	query("BEGIN; SELECT ledger.post('transfer', ARRAY[(ledger.open_account('usdc_balance', '$from'),"
		. " ledger.open_account('usdc_balance', '$to'), 1)::ledger.posting]); PREPARE TRANSACTION '$gid'");
}
prepare(@c[20, 22], 'stays');
prepare(@c[21, 23], 'goes');
stored_is($c[$_], 'pending_deposits|mismatch|posting|1|in progress|-3.00', 'a prepared transaction is in progress') foreach 20, 21;
$node->restart;
stored_is($c[20], 'pending_deposits|mismatch|posting|1|in progress|-3.00', 'also after a restart');
query("COMMIT PREPARED 'stays'");
query("ROLLBACK PREPARED 'goes'");
stored_is($c[20], 'pending_deposits|mismatch|posting|1|committed|-3.00', 'until it is committed');
stored_is($c[21], 'pending_deposits|mismatch|posting|1|aborted|-3.00', 'or rolled back');
is(query('SELECT count(*) FROM ledger.evidence_pending'), '0', 'nothing is pending any more');
is(query('SELECT count(*) FROM ledger.evidence_losses'), '0', 'nothing was lost until here, nor over the restart');
is(query(q{SELECT passed FROM ledger.readiness() WHERE gate = 'no_lost_evidence'}), 't', 'the gate is open');

# ---- too much: hazard 32, a million with room for a hundred ------------------------------------------------------------------------

query("SELECT count(ledger.credit_user_usdc(user_id, 1, 'opens them')) FROM public.balances");
query("SELECT * FROM ledger.repair(dry_run => false, reason => 'a test')");
my $read = "SELECT count(ledger.get_account_balance(user_id, 'fiat_exposure')) FROM public.balances, generate_series(1, %d)";
my $begun = time;
query(sprintf $read, 50);
my $agreeing = 10 * (time - $begun);
query("UPDATE public.balances SET buying_power = buying_power + 4");
ok(emptied(), 'what was found when they were opened is stored');
my $recorded = query('SELECT recorded FROM ledger.evidence_status()');
$begun = time;
query(sprintf $read, 500);
my $took = time - $begun;
note(sprintf 'a million differences took %.1f s, as many that agree %.1f s', $took, $agreeing);
cmp_ok($took, '<', 300 + 30 * $agreeing, 'very many differences do not take long');
is(query("SELECT recorded - $recorded FROM ledger.evidence_status()"), 1_000_000, 'hazard 32: a million differences were met');
ok(wait_until(120, sub {
	query(<<SQL) eq 't' }), 'and is stored or counted as lost');
SELECT s.used = 0 AND s.dropped > 0 AND s.recorded = s.stored + s.dropped
	AND s.dropped = (SELECT sum(count) FROM ledger.evidence_losses WHERE kind = 'overflow')
FROM ledger.evidence_status() s
SQL
cmp_ok(query('SELECT count(*) FROM ledger.evidence_losses'), '<', 5, 'in few rows');
is(query(q{SELECT passed FROM ledger.readiness() WHERE gate = 'no_lost_evidence'}), 'f', 'hazard 32: the gate is closed');
is(query(<<SQL), 1_000_000, 'hazard 32: what is stored and what is lost are all of them');
SELECT (SELECT sum(count) FROM ledger.discrepancies WHERE status = 'open' AND source = 'read' AND cause = 'mismatch' AND difference = -4)
	+ (SELECT sum(count) FROM ledger.evidence_losses WHERE kind = 'overflow')
SQL
cmp_ok(query("SELECT count(*) FROM ledger.discrepancies WHERE cause = 'mismatch' AND source = 'read' AND outcome = 'none' AND difference = -4"),
	'>=', 100, 'more of them than there was room for at once');

# A row for each user, column and cause, for all that.
is(query('SELECT count(*) FROM (SELECT FROM ledger.discrepancies WHERE status = \'open\' GROUP BY user_id, legacy_column, cause HAVING count(*) > 1) s'), '0', 'one open row each');
query('SELECT * FROM ledger.repair(dry_run => false, reason => \'a test\')');
ledger_ok($node, 'the ledger holds');

# ---- what is too long ago ---------------------------------------------------------------

# The worker is away for so many transactions that the commit log forgets those
# that have seen something: a server that is a few million of them further on.
query("UPDATE public.balances SET buying_power = buying_power + 6 WHERE user_id = '$c[30]'");
$node->append_conf('postgresql.conf', "max_worker_processes = 1\nautovacuum = off");
$node->restart;
my $see = "BEGIN; SELECT pg_current_xact_id(); SELECT ledger.get_user_balance('$c[30]'); COMMIT";
query($see) foreach 1 .. 7;
$node->stop;
my $segment = 1 << 20;
open my $log, '>:raw', $node->data_dir . '/pg_xact/0003' or die "pg_xact: $!";
print $log "\0" x ($segment / 4);
close $log;
system_or_bail('pg_resetwal', '-x', 3 * $segment + 100, '-D', $node->data_dir);
$node->start;
query('ALTER DATABASE template0 ALLOW_CONNECTIONS true');
$node->safe_psql($_, 'VACUUM FREEZE') foreach qw(template0 template1 postgres);
ok(!-e $node->data_dir . '/pg_xact/0000', 'the commit log is truncated');
is(fails($see), '', 'a read that meets the difference again goes on');
is(query('SELECT used, recorded - stored - dropped FROM ledger.evidence_status()'), '1|8', 'and all of it is kept');
$node->stop;
done_testing();
