-- The tables of an application that does its bookkeeping itself, a statement at a time
-- (Bench/Scripts.pm): those of the PL/pgSQL peer, and a status.
CREATE SCHEMA app;
CREATE TABLE app.accounts (LIKE peer.accounts INCLUDING ALL) WITH (fillfactor = 70);
CREATE TABLE app.transactions (LIKE peer.transactions INCLUDING ALL, status text NOT NULL DEFAULT 'pending')
	WITH (fillfactor = 70);
CREATE TABLE app.entries (LIKE peer.entries INCLUDING ALL,
	FOREIGN KEY (transaction_id) REFERENCES app.transactions,
	FOREIGN KEY (account_id) REFERENCES app.accounts);
CREATE TABLE app.balances (LIKE balances INCLUDING ALL);
INSERT INTO app.accounts OVERRIDING SYSTEM VALUE SELECT * FROM peer.accounts ORDER BY id;
INSERT INTO app.balances SELECT * FROM balances;
-- with a history, as in plpgsql.sql
INSERT INTO app.transactions OVERRIDING SYSTEM VALUE SELECT *, 'posted' FROM peer.transactions ORDER BY id;
INSERT INTO app.entries OVERRIDING SYSTEM VALUE SELECT * FROM peer.entries ORDER BY id;
SELECT setval(pg_get_serial_sequence('app.' || t, 'id'), nextval(pg_get_serial_sequence('peer.' || t, 'id')))
FROM unnest(ARRAY['accounts', 'transactions', 'entries']) t;
