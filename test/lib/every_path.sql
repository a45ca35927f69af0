/*
 * every_path.sql: writes to public.balances by every path that SQL has, each
 * followed by the verdict of public.sums(). Leaves the rows as it found them.
 */
INSERT INTO balances (user_id, buying_power, pending_deposits) VALUES (:dave, 1, 2), (:erin, 3, 4);
SELECT * FROM public.sums('INSERT of several rows');
INSERT INTO balances (user_id, buying_power) SELECT :frank, max(buying_power) FROM balances;
SELECT * FROM public.sums('INSERT ... SELECT');
INSERT INTO balances (user_id, buying_power) VALUES (:alice, 2), (:gwen, 5)
	ON CONFLICT (user_id) DO UPDATE SET buying_power = balances.buying_power + EXCLUDED.buying_power;
SELECT * FROM public.sums('ON CONFLICT DO UPDATE');
INSERT INTO balances (user_id, pending_deposits) VALUES (:gwen, 100), (:heidi, 6) ON CONFLICT (user_id) DO NOTHING;
SELECT * FROM public.sums('ON CONFLICT DO NOTHING');
UPDATE balances SET pending_deposits = pending_deposits + 1;
SELECT * FROM public.sums('UPDATE of all rows');
UPDATE balances b SET buying_power = b.buying_power + v.amount FROM (VALUES (:alice::uuid, 1.5), (:bob::uuid, 2.5)) v (id, amount) WHERE b.user_id = v.id;
SELECT * FROM public.sums('UPDATE ... FROM');
UPDATE ONLY balances AS b SET (buying_power, pending_deposits) = (SELECT b.buying_power + 1, b.pending_deposits - 1) WHERE user_id = :alice;
SELECT * FROM public.sums('UPDATE ... SET (...) = (SELECT ...)');
MERGE INTO balances b USING (VALUES (:alice::uuid, 1.0), (:ivan::uuid, 7), (:heidi::uuid, 0)) v (id, amount) ON b.user_id = v.id
	WHEN MATCHED AND v.amount = 0 THEN DELETE
	WHEN MATCHED THEN UPDATE SET pending_deposits = pending_deposits + v.amount
	WHEN NOT MATCHED THEN INSERT (user_id, buying_power) VALUES (v.id, v.amount);
SELECT * FROM public.sums('MERGE');
WITH taken AS (UPDATE balances SET buying_power = buying_power - 1 WHERE user_id = :alice RETURNING user_id),
	gone AS (DELETE FROM balances WHERE user_id = :ivan RETURNING buying_power),
	new AS (INSERT INTO balances (user_id, buying_power) SELECT :judy, buying_power FROM gone RETURNING user_id)
	UPDATE balances b SET buying_power = buying_power + 1 FROM taken, new WHERE b.user_id = :bob;
SELECT * FROM public.sums('writable CTEs');
COPY balances (user_id, buying_power, pending_deposits) FROM STDIN;
00000000-0000-4000-8000-0000000000c1	5	1
00000000-0000-4000-8000-0000000000c2	0	0.000000000000000001
\.
SELECT * FROM public.sums('COPY');
CREATE TABLE customers (id uuid PRIMARY KEY);
INSERT INTO customers SELECT user_id FROM balances;
ALTER TABLE balances ADD CONSTRAINT customer FOREIGN KEY (user_id) REFERENCES customers ON DELETE CASCADE ON UPDATE CASCADE;
DELETE FROM customers WHERE id >= '00000000-0000-4000-8000-0000000000c0';
SELECT * FROM public.sums('ON DELETE CASCADE');
UPDATE customers SET id = '00000000-0000-4000-8000-0000000000c3' WHERE id = :judy;
SELECT * FROM public.sums('ON UPDATE CASCADE');
DELETE FROM customers WHERE id = '00000000-0000-4000-8000-0000000000c3';
ALTER TABLE balances DROP CONSTRAINT customer;
DROP TABLE customers;
CREATE VIEW rich AS SELECT * FROM balances WHERE buying_power >= 0;
UPDATE rich SET buying_power = buying_power + 1 WHERE user_id = :bob;
SELECT * FROM public.sums('a view');
DROP VIEW rich;
CREATE TABLE orders (user_id uuid, amount numeric);
CREATE FUNCTION settle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE balances SET buying_power = buying_power - NEW.amount WHERE user_id = NEW.user_id;
	RETURN NEW;
END $$;
CREATE TRIGGER settle AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION settle();
INSERT INTO orders VALUES (:alice, 2), (:alice, 1), (:bob, 1);
SELECT * FROM public.sums('a trigger of another table');
DROP TABLE orders;
DROP FUNCTION settle();
PREPARE add AS UPDATE balances SET buying_power = buying_power + $2 WHERE user_id = $1;
EXECUTE add(:alice, 1);
EXECUTE add(:alice, 1);
DEALLOCATE add;
SELECT * FROM public.sums('a prepared statement');
BEGIN;
DECLARE one CURSOR FOR SELECT buying_power FROM balances WHERE user_id = :bob FOR UPDATE;
FETCH one;
UPDATE balances SET pending_deposits = pending_deposits + 3 WHERE CURRENT OF one;
COMMIT;
SELECT * FROM public.sums('WHERE CURRENT OF');
DO $$
BEGIN
	FOR i IN 1..3 LOOP
		BEGIN
			UPDATE balances SET pending_deposits = pending_deposits + i WHERE user_id = '00000000-0000-4000-8000-00000000000b';
			IF i = 2 THEN
				RAISE EXCEPTION 'not this one';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	END LOOP;
END $$;
SELECT * FROM public.sums('exception blocks');
DELETE FROM balances b USING (VALUES (:dave::uuid), (:erin), (:frank), (:gwen)) v (id) WHERE b.user_id = v.id;
SELECT * FROM public.sums('DELETE ... USING');
UPDATE balances b SET buying_power = v.buying_power, pending_deposits = v.pending_deposits
	FROM (VALUES (:alice::uuid, 100, 50), (:bob, 0, 20), (:carol, 7.5, 0)) v (id, buying_power, pending_deposits) WHERE b.user_id = v.id;
SELECT * FROM public.sums('back to where it began');
