/*
 * explain.sql: which posting or outside write explains a discrepancy.
 */
