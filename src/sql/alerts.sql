/*
 * alerts.sql: what somebody should look at.
 */
