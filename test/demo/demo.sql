-- The story of the ledger, told by queries.  Every error ends it.

CREATE EXTENSION ledger;

SELECT extname AS extension, extversion AS version
FROM pg_extension
WHERE extname = 'ledger';
