--
-- Who may do what: PUBLIC nothing, and each level what it says.
--
-- In a database of its own, with an application's table of balances.
--
\set ECHO none
SET client_min_messages = warning;
DROP DATABASE IF EXISTS regress_ledger_access;
DROP ROLE IF EXISTS regress_ledger_app, regress_ledger_reader, regress_ledger_writer, regress_ledger_operator,
	regress_ledger_admin, regress_ledger_nobody, "regress ledger ""odd""";
CREATE ROLE regress_ledger_app;
CREATE ROLE regress_ledger_reader;
CREATE ROLE regress_ledger_writer;
CREATE ROLE regress_ledger_operator;
CREATE ROLE regress_ledger_admin IN ROLE regress_ledger_app;
CREATE ROLE regress_ledger_nobody;
CREATE ROLE "regress ledger ""odd""";
CREATE DATABASE regress_ledger_access;
\set first_database :DBNAME
\c regress_ledger_access
SET client_min_messages = warning;
CREATE EXTENSION ledger;
CREATE TABLE balances (user_id uuid PRIMARY KEY, buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0, currency varchar(10) NOT NULL DEFAULT 'USD', updated_at timestamptz);
ALTER TABLE balances OWNER TO regress_ledger_app;
RESET client_min_messages;

-- The SQLSTATE of a statement as a role, or ok.
CREATE FUNCTION as_role(role name, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text := 'ok';
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	BEGIN
		EXECUTE statement;
	EXCEPTION WHEN OTHERS THEN
		answer := CASE SQLSTATE WHEN '42501' THEN 'denied' ELSE SQLSTATE || ' ' || SQLERRM END;
	END;
	RESET ROLE;
	RETURN answer;
END
$$;
\set ECHO all
\set alice '''00000000-0000-4000-8000-00000000ae01'''

--
-- PUBLIC
--
SELECT count(*) > 0 AS routines FROM pg_proc WHERE pronamespace = 'ledger'::regnamespace;
SELECT p.oid::regprocedure AS routine_of_public FROM pg_proc p, aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) a
	WHERE p.pronamespace = 'ledger'::regnamespace AND a.grantee = 0;
SELECT c.oid::regclass AS relation_of_public
	FROM pg_class c, aclexplode(COALESCE(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) a
	WHERE c.relnamespace = 'ledger'::regnamespace AND a.grantee = 0;
SELECT c.oid::regclass AS relation, a.attname AS column_with_rights FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
	WHERE c.relnamespace = 'ledger'::regnamespace AND a.attacl IS NOT NULL;
-- (row types of tables, and arrays, have no rights of their own that matter)
SELECT t.oid::regtype AS type_of_public
	FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid, aclexplode(COALESCE(t.typacl, acldefault('T', t.typowner))) a
	WHERE t.typnamespace = 'ledger'::regnamespace AND t.typelem = 0 AND COALESCE(c.relkind, 'c') = 'c' AND a.grantee = 0;
SELECT a.privilege_type AS schema_of_public FROM pg_namespace n, aclexplode(COALESCE(n.nspacl, acldefault('n', n.nspowner))) a
	WHERE n.nspname = 'ledger' AND a.grantee = 0;

-- Whoever runs as the owner fixes where names are looked up.
SELECT p.oid::regprocedure AS unsafe_definer FROM pg_proc p
	WHERE p.pronamespace = 'ledger'::regnamespace AND p.prosecdef
	  AND 'search_path=pg_catalog, pg_temp' <> ALL (COALESCE(p.proconfig, '{}'));

--
-- The rules name everything that is there, once, and nothing else.
--
SELECT p.oid::regprocedure AS routine_without_level FROM pg_proc p
	WHERE p.pronamespace = 'ledger'::regnamespace
	  AND p.proname NOT IN (SELECT r.name FROM ledger.access_rules() r WHERE r.kind = 'routine');
SELECT c.relname AS relation_without_level FROM pg_class c
	WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'v')
	  AND c.relname NOT IN (SELECT r.name FROM ledger.access_rules() r WHERE r.kind = 'relation');
SELECT c.relname AS type_without_level FROM pg_class c
	WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'c'
	  AND c.relname NOT IN (SELECT r.name FROM ledger.access_rules() r WHERE r.kind = 'type');
SELECT r.kind, r.name AS does_not_exist FROM ledger.access_rules() r
	WHERE NOT EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = 'ledger'::regnamespace AND r.kind = 'routine' AND p.proname = r.name)
	  AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'ledger'::regnamespace AND c.relname = r.name
					  AND c.relkind = ANY (CASE r.kind WHEN 'relation' THEN '{r,v}' WHEN 'type' THEN '{c}' END::"char"[]));
SELECT r.kind, r.name AS named_twice FROM ledger.access_rules() r GROUP BY r.kind, r.name, r.privileges HAVING count(*) > 1;

--
-- grant_access()
--
SELECT ledger.grant_access('regress_ledger_reader', 'reader');
SELECT ledger.grant_access('regress_ledger_writer', 'writer');
SELECT ledger.grant_access('regress_ledger_operator', 'operator');
SELECT ledger.grant_access('regress_ledger_admin', 'admin');

-- Each role has the rights of its level and of those below, and no other.
CREATE VIEW levels AS
	SELECT n AS place, level, ('regress_ledger_' || level)::name AS role
	FROM unnest(ARRAY['reader', 'writer', 'operator', 'admin']) WITH ORDINALITY AS l (level, n);
CREATE VIEW granted AS
	SELECT l.place AS role_place, l.role, x.kind, x.name, x.privilege, x.granted,
		(SELECT min(m.place) FROM ledger.access_rules() r JOIN levels m USING (level)
		 WHERE r.kind = x.kind AND r.name = x.name AND x.privilege = ANY (string_to_array(r.privileges, ', '))) AS from_place
	FROM levels l CROSS JOIN LATERAL (
		SELECT 'routine' AS kind, p.proname::text AS name, 'EXECUTE' AS privilege, has_function_privilege(l.role, p.oid, 'EXECUTE') AS granted
		FROM pg_proc p WHERE p.pronamespace = 'ledger'::regnamespace
		UNION ALL
		SELECT 'relation', c.relname, v, has_table_privilege(l.role, c.oid, v)
		FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) v
		WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'v')
		UNION ALL
		SELECT 'sequence', c.relname, v, has_sequence_privilege(l.role, c.oid, v)
		FROM pg_class c, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) v
		WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'S'
		UNION ALL
		SELECT 'type', c.relname, 'USAGE', has_type_privilege(l.role, c.reltype, 'USAGE')
		FROM pg_class c WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'c') AS x;
SELECT role, kind, name, privilege, granted FROM granted WHERE granted <> COALESCE(from_place <= role_place, false);
SELECT role, count(*) FILTER (WHERE kind = 'routine') > 0 AS routines, count(*) FILTER (WHERE kind = 'relation') > 0 AS relations,
	string_agg(DISTINCT privilege, ', ' ORDER BY privilege) AS privileges
FROM granted WHERE granted GROUP BY role_place, role ORDER BY role_place;
SELECT role, has_schema_privilege(role, 'ledger', 'USAGE') AS usage, has_schema_privilege(role, 'ledger', 'CREATE') AS "create" FROM levels ORDER BY place;

-- And it is enough. What each level may do, done by all of them.
INSERT INTO balances (user_id, buying_power, pending_deposits) VALUES (:alice, 100, 50);
CREATE TABLE done (place int, level text, statement text);
INSERT INTO done VALUES
	(1, 'reader', $$SELECT ledger.get_user_balance('00000000-0000-4000-8000-00000000ae01')$$),
	(2, 'reader', $$SELECT ledger.get_balance('00000000-0000-4000-8000-00000000ae01')$$),
	(3, 'reader', $$SELECT ledger.get_detailed_balance('00000000-0000-4000-8000-00000000ae01', 'none')$$),
	(4, 'reader', $$SELECT ledger.get_account_balance('00000000-0000-4000-8000-00000000ae01', 'usdc_balance')$$),
	(5, 'reader', $$SELECT ledger.check_available_balance('00000000-0000-4000-8000-00000000ae01', 1, 'usdc_balance')$$),
	(6, 'reader', $$SELECT ledger.user_history('00000000-0000-4000-8000-00000000ae01')$$),
	(7, 'reader', $$SELECT ledger.compare_balances('00000000-0000-4000-8000-00000000ae01')$$),
	(8, 'reader', $$TABLE ledger.account_balances$$),
	(9, 'reader', $$TABLE ledger.entries$$),
	(10, 'reader', $$TABLE ledger.transactions$$),
	(11, 'reader', $$TABLE ledger.reservations$$),
	(12, 'reader', $$TABLE ledger.discrepancies$$),
	(13, 'reader', $$TABLE ledger.account_types$$),
	(14, 'reader', $$TABLE ledger.currencies$$),
	(20, 'writer', $$SELECT ledger.credit_user_usdc('00000000-0000-4000-8000-00000000ae01', 100, 'deposit', '00000000-0000-4000-8000-00000000ae11')$$),
	(21, 'writer', $$SELECT ledger.debit_user_usdc('00000000-0000-4000-8000-00000000ae01', 1, 'withdrawal')$$),
	(22, 'writer', $$SELECT ledger.move_funds_to_fiat_exposure('00000000-0000-4000-8000-00000000ae01', 1, 'conversion')$$),
	(23, 'writer', $$SELECT ledger.move_funds_to_usdc('00000000-0000-4000-8000-00000000ae01', 1, 'conversion')$$),
	(24, 'writer', $$SELECT ledger.reserve_for_investment('00000000-0000-4000-8000-00000000ae01', 3)$$),
	(25, 'writer', $$SELECT ledger.release_reservation('00000000-0000-4000-8000-00000000ae01', 1)$$),
	(26, 'writer', $$SELECT ledger.execute_investment('00000000-0000-4000-8000-00000000ae01', 1, gen_random_uuid())$$),
	(27, 'writer', $$SELECT ledger.settle_sale('00000000-0000-4000-8000-00000000ae01', 1, 2, gen_random_uuid())$$),
	(28, 'writer', $$SELECT ledger.reverse_transaction(ledger.credit_user_usdc('00000000-0000-4000-8000-00000000ae01', 1, 'by mistake'), 'a mistake')$$),
	(29, 'writer', $$SELECT ledger.open_account('usdc_balance', '00000000-0000-4000-8000-00000000ae01')$$),
	(30, 'writer', $$SELECT ledger.post('fee', ARRAY[ROW(ledger.open_account('usdc_balance', '00000000-0000-4000-8000-00000000ae01'),
		ledger.open_account('house_equity', NULL, 'USDC'), 1)::ledger.posting])$$),
	(31, 'writer', $$SELECT ledger.find_transaction('credit_user_usdc:deposit:00000000-0000-4000-8000-00000000ae11')$$),
	(32, 'writer', $$CREATE FUNCTION pg_temp.fee(p ledger.posting[]) RETURNS bigint LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION pg_temp.fee$$),
	(33, 'writer', $$SELECT ledger.record_broker_account('{"id": "a", "equity": "1", "cash": "1"}', '00000000-0000-4000-8000-00000000ae01')$$),
	(34, 'writer', $$SELECT ledger.record_broker_positions('a', '[]')$$),
	(40, 'operator', $$SELECT ledger.configure(strict_mode => true, reason => 'a test')$$),
	(41, 'operator', $$SELECT ledger.set_account_status(1, 'open', 'a test')$$),
	(42, 'operator', $$SELECT ledger.set_account_limit(1, NULL, 'a test')$$),
	(52, 'operator', $$SELECT ledger.set_account_stripes(1, 0, 'a test')$$),
	(43, 'operator', $$SELECT ledger.expire_reservations()$$),
	(44, 'operator', $$SELECT ledger.fund_broker(1)$$),
	(45, 'operator', $$SELECT ledger.replenish_buffer('system_buffer_usdc', 1)$$),
	(46, 'operator', $$SELECT ledger.convert_buffer('system_buffer_usdc', 'system_buffer_fiat', 1)$$),
	(47, 'operator', $$SELECT ledger.open_house_balance('system_buffer_usdc', 'USDC', 1, 'a test')$$),
	(48, 'operator', $$SELECT ledger.reconcile()$$),
	(49, 'operator', $$CALL ledger.run_reconciliation()$$),
	(50, 'operator', $$SELECT ledger.repair()$$),
	(51, 'operator', $$SELECT ledger.verify()$$),
	(53, 'operator', $$TABLE ledger.settings_log$$),
	(54, 'operator', $$TABLE ledger.legacy_writes$$),
	(55, 'operator', $$SELECT ledger.explain_discrepancy('00000000-0000-4000-8000-00000000ae01')$$),
	(56, 'operator', $$SELECT count(ledger.undo_repair(r.id, 'a test')) FROM ledger.repair_log r WHERE false$$),
	(60, 'admin', $$SELECT * FROM ledger.attach_legacy('public.balances')$$),
	(61, 'admin', $$SELECT ledger.configure_capture('public.balances', 'refuse', 'a test')$$),
	(62, 'admin', $$SELECT ledger.detach_legacy('public.balances')$$),
	(63, 'admin', $$INSERT INTO ledger.currencies (code, scale) VALUES ('EUR', 2)$$),
	(64, 'admin', $$INSERT INTO ledger.account_types (name, owner, currency, normal_side, min_balance) VALUES ('spending_balance', 'user', 'EUR', 'credit', 0)$$),
	(65, 'admin', $$UPDATE ledger.account_types SET description = 'to spend' WHERE name = 'spending_balance'$$),
	(66, 'admin', $$TABLE ledger.journal$$),
	(70, 'owner', $$SELECT ledger.grant_access('regress_ledger_nobody', 'admin')$$),
	(71, 'owner', $$SELECT ledger.revoke_access('regress_ledger_reader')$$),
	(72, 'owner', $$SELECT ledger.rearm()$$),
	(73, 'owner', $$INSERT INTO ledger.journal VALUES (1)$$),
	(74, 'owner', $$UPDATE ledger.accounts SET credits = 1000$$),
	(75, 'owner', $$INSERT INTO ledger.settings_log DEFAULT VALUES$$),
	(76, 'owner', $$SELECT nextval('ledger.transaction_id_seq')$$),
	(77, 'owner', $$CREATE TABLE ledger.mine ()$$),
	(78, 'owner', $$SELECT ledger.legacy_store('public.balances', '{}', 'user_id', NULL, 'record', 'somebody')$$);

-- Each statement by each role in a transaction of its own.
CREATE TABLE outcomes (place int, level text, role name, statement text, answer text);
DO $$
DECLARE
	t record;
BEGIN
	FOR t IN
		SELECT d.place, d.level, l.role, d.statement
		FROM done d CROSS JOIN (TABLE levels UNION ALL SELECT 0, 'nobody', 'regress_ledger_nobody') l
		ORDER BY l.place DESC, d.place
	LOOP
		INSERT INTO outcomes VALUES (t.place, t.level, t.role, t.statement, as_role(t.role, t.statement));
		COMMIT;
	END LOOP;
END
$$;
SELECT role, level, answer, count(*) FROM outcomes GROUP BY role, level, answer
ORDER BY array_position(ARRAY['nobody', 'reader', 'writer', 'operator', 'admin'], substr(role, 16)),
	array_position(ARRAY['reader', 'writer', 'operator', 'admin', 'owner'], level), answer;
SELECT role, statement, answer FROM outcomes
WHERE answer NOT IN ('ok', 'denied') OR (answer = 'ok') <> COALESCE(
	(SELECT min(l.place) FROM levels l WHERE l.level = outcomes.level) <= (SELECT l.place FROM levels l WHERE l.role = outcomes.role), false)
ORDER BY place, role;

-- Who posted is who called, also from a level above.
SELECT DISTINCT posted_by FROM ledger.transactions ORDER BY 1;
SELECT DISTINCT changed_by FROM ledger.settings_log;

-- An admin who may not act for the owner of a table cannot attach it.
REVOKE regress_ledger_app FROM regress_ledger_admin;
SELECT as_role('regress_ledger_admin', $$SELECT * FROM ledger.attach_legacy('public.balances')$$);

-- A level is added, not set; twice is once.
SELECT ledger.grant_access('regress_ledger_writer', 'reader');
SELECT ledger.grant_access('regress_ledger_writer', 'writer');
SELECT role, kind, name FROM granted WHERE granted <> COALESCE(from_place <= role_place, false);
SELECT ledger.grant_access('regress ledger "odd"', 'reader');
SELECT as_role('regress ledger "odd"', $$SELECT ledger.get_user_balance('00000000-0000-4000-8000-00000000ae01')$$);

-- Errors, in the order in which they are checked.
SELECT call, as_role(current_user, format('SELECT ledger.%s', call)) FROM unnest(ARRAY[
	'grant_access(NULL, NULL)', 'grant_access(''public'', NULL)', 'grant_access(''regress_ledger_nowhere'', ''reader'')',
	'grant_access(''regress_ledger_reader'', NULL)', 'grant_access(''regress_ledger_reader'', ''owner'')',
	'revoke_access(NULL)', 'revoke_access(''public'')', 'revoke_access(''none'')']) AS e (call);
SELECT call, left(as_role(current_user, format('SELECT ledger.%s', call)), 5) AS of_the_owner FROM unnest(ARRAY[
	'grant_access(current_user, NULL)', 'revoke_access(current_user)']) AS e (call);
GRANT EXECUTE ON FUNCTION ledger.grant_access, ledger.revoke_access, ledger.access_check TO regress_ledger_admin;
SELECT call, as_role('regress_ledger_admin', format('SELECT ledger.%s', call)) AS by_an_admin FROM unnest(ARRAY[
	'grant_access(''regress_ledger_nobody'', ''reader'')', 'revoke_access(''regress_ledger_writer'')']) AS e (call);

-- revoke_access() takes everything, also what was granted by hand.
GRANT SELECT (id) ON ledger.accounts TO regress_ledger_reader;
GRANT USAGE ON SEQUENCE ledger.transaction_id_seq TO regress_ledger_reader;
SELECT ledger.revoke_access(role) FROM levels;
SELECT ledger.revoke_access('regress ledger "odd"');
SELECT ledger.revoke_access('regress_ledger_nobody');
SELECT role, kind, name, privilege FROM granted WHERE granted;
SELECT role, has_schema_privilege(role, 'ledger', 'USAGE') AS usage FROM levels ORDER BY place;
SELECT d.refobjid::regrole, pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_shdepend d
	WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND d.deptype = 'a';

\c :first_database
DROP DATABASE regress_ledger_access;
DROP ROLE regress_ledger_app, regress_ledger_reader, regress_ledger_writer, regress_ledger_operator,
	regress_ledger_admin, regress_ledger_nobody, "regress ledger ""odd""";
