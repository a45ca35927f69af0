/*
 * backfill.sql: opening of all users from their legacy rows, in batches.
 */
