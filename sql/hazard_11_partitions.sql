--
-- Hazard 11: partitioned legacy tables, rows that move between partitions,
-- partitions written directly, attached later, with columns in another order.
-- (hazard 14) each leaf is looked at.
--
\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set database regress_ledger_hazard_11
\set setup :srcdir '/test/lib/shadow.sql'
\i :setup
\set ECHO all
CREATE TABLE parts (region text NOT NULL, user_id uuid NOT NULL, buying_power numeric(36,18) NOT NULL DEFAULT 0,
	pending_deposits numeric(36,18) NOT NULL DEFAULT 0, PRIMARY KEY (user_id)) PARTITION BY RANGE (user_id);
-- a leaf with other attribute numbers, one below a partition of its own
CREATE TABLE low (gone int, pending_deposits numeric(36,18) NOT NULL DEFAULT 0, gone_too int, user_id uuid NOT NULL,
	region text NOT NULL, buying_power numeric(36,18) NOT NULL DEFAULT 0);
ALTER TABLE low DROP gone, DROP gone_too;
ALTER TABLE parts ATTACH PARTITION low FOR VALUES FROM (MINVALUE) TO (:bob);
CREATE TABLE middle PARTITION OF parts FOR VALUES FROM (:bob) TO (:dave) PARTITION BY RANGE (user_id);
CREATE TABLE middle_leaf PARTITION OF middle DEFAULT;
INSERT INTO parts (region, user_id, buying_power, pending_deposits) VALUES ('eu', :alice, 100, 50), ('us', :bob, 0, 20);
SELECT check_name, passed, detail FROM ledger.attach_legacy('low') WHERE check_name = 'table';
SELECT check_name, passed, detail FROM ledger.attach_legacy('parts', '{"columns": [{"column": "pending_deposits", "accounts": ["usdc_balance", "pending_investment"]}, {"column": "buying_power", "accounts": ["fiat_exposure"]}], "constants": {}}')
	WHERE check_name IN ('table', 'key_column', 'attached', 'missing_defaults');
-- Row triggers are cloned, statement triggers are not; all fire always.
SELECT tgrelid::regclass, tgname, tgenabled FROM pg_trigger WHERE tgname LIKE 'ledger_capture%' ORDER BY tgrelid::regclass::text COLLATE "C", 2;
SELECT shadow_mode FROM ledger.configure(shadow_mode => true);
ALTER TABLE parts ALTER region SET DEFAULT 'eu';
ALTER TABLE low ALTER region SET DEFAULT 'eu';

-- Opened and mirrored through the root.
SELECT ledger.move_funds_to_fiat_exposure(:alice, 5, 'to the broker') > 0 AS posted;
SELECT ledger.credit_user_usdc(:bob, 1, 'deposit') > 0 AS posted;
SELECT tableoid::regclass AS leaf, right(user_id::text, 1) AS who, buying_power::numeric(8,2), pending_deposits::numeric(8,2) FROM parts ORDER BY user_id;
-- Written directly, in the root and in a leaf.
UPDATE parts SET buying_power = buying_power + 1 WHERE user_id = :alice;
UPDATE low SET pending_deposits = pending_deposits + 2 WHERE user_id = :alice;
UPDATE middle SET pending_deposits = pending_deposits - 3 WHERE user_id = :bob;
SELECT * FROM written;
-- A row that moves is a delete and an insert: per user the sum is what changed.
BEGIN;
UPDATE parts SET user_id = :carol WHERE user_id = :alice;
UPDATE parts SET user_id = :alice WHERE user_id = :carol;
SELECT user_id, key, sum(value::numeric) FROM ledger.legacy_writes, jsonb_each_text(deltas) WHERE xact = pg_current_xact_id() GROUP BY 1, 2 ORDER BY 1, 2;
COMMIT;
-- TRUNCATE of root and leaves.
SELECT public.raises('TRUNCATE ' || r) FROM unnest('{parts,low,middle_leaf}'::text[]) r;
SELECT user_id, legacy_column, difference FROM ledger.reconcile();
SELECT legacy_column, before, after FROM ledger.repair(dry_run => false, reason => 'partitions') ORDER BY 1, 2;
SELECT * FROM ledger.reconcile();

-- A partition attached later captures; that TRUNCATE would get past is told, and mended.
CREATE TABLE high (LIKE parts INCLUDING ALL);
INSERT INTO high VALUES ('us', :dave, 7.5, 0);
ALTER TABLE parts ATTACH PARTITION high FOR VALUES FROM (:dave) TO (MAXVALUE);
UPDATE high SET buying_power = 8 WHERE user_id = :dave;
SELECT operation, deltas FROM ledger.legacy_writes WHERE user_id = :dave;
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;
SELECT * FROM ledger.rearm();
SELECT public.raises('TRUNCATE high');
ALTER TABLE low DISABLE TRIGGER ledger_capture;
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;
SELECT * FROM ledger.rearm();
-- Children by inheritance stay refused.
CREATE TABLE parent (LIKE balances INCLUDING ALL);
CREATE TABLE child () INHERITS (parent);
SELECT detail, hint FROM ledger.attach_legacy('parent') WHERE check_name = 'table';
SELECT ledger.credit_user_usdc(:carol, 1, 'deposit') > 0 AS posted;
SELECT ledger.credit_user_usdc(:dave, 1, 'in the partition attached later') > 0 AS posted;
SELECT ledger.reserve_for_investment(:bob, 2) > 0 AS reserved;

-- (hazard 14) renamed, retyped, dropped: postings, reads and captures say so.
ALTER TABLE parts RENAME TO renamed;
SELECT ledger.credit_user_usdc(:alice, 1, 'the name does not matter') > 0 AS posted;
ALTER TABLE renamed RENAME buying_power TO power;
SELECT public.raises(format('SELECT ledger.credit_user_usdc(%L, 1, %L)', :alice, 'deposit'));
SELECT public.raises(format('SELECT ledger.compare_balances(%L)', :alice));
SELECT public.raises('UPDATE low SET pending_deposits = 0');
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;
ALTER TABLE renamed RENAME power TO buying_power;
ALTER TABLE renamed ALTER buying_power TYPE float8;
SELECT public.raises(format('SELECT ledger.credit_user_usdc(%L, 1, %L)', :alice, 'deposit'));
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;
ALTER TABLE renamed ALTER buying_power TYPE numeric(36,18);
SELECT ledger.credit_user_usdc(:alice, 1, 'all there again') > 0 AS posted;
SELECT * FROM public.ledger_oracle();
SELECT check_name, detail FROM ledger.verify() WHERE NOT passed;
DROP TRIGGER ledger_capture ON renamed;
SELECT check_name, count(*) FROM ledger.verify() WHERE NOT passed GROUP BY 1;
\set ECHO none
\c contrib_regression
DROP DATABASE :database;
