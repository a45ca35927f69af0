/*
 * migration.sql: readiness, cut-over, the way back, and retirement.
 */
