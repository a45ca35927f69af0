/*
 * stats.sql: what the ledger counts and times.
 */
