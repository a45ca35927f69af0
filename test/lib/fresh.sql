/*
 * fresh.sql: gives a regression test a database of its own, named in the psql
 * variable database, with ledger and contract.sql in it, so that ids and
 * balances are the same each time. done.sql drops it.
 */
\set home :DBNAME
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database;
CREATE DATABASE :database TEMPLATE template0;
\c :database
SET client_min_messages = warning;
CREATE EXTENSION ledger;
RESET client_min_messages;
\ir contract.sql
