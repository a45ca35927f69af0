/* done.sql: drops the database that fresh.sql has made. */
\c :home
DROP DATABASE :database;
