-- name: lock
-- Applies of one tenant come one after the other; the lock ends with the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('meterd.catalog.' || $1, 0));

-- name: latest
SELECT tenant_id, catalog_no, version, document, meterd_ms(applied_at) AS applied_ms, applied_by
FROM catalogs WHERE tenant_id = $1 ORDER BY catalog_no DESC LIMIT 1;

-- name: at
SELECT tenant_id, catalog_no, version, document, meterd_ms(applied_at) AS applied_ms, applied_by
FROM catalogs WHERE tenant_id = $1 AND catalog_no = $2;

-- name: insert
-- Under the lock, so the number is the next one; what is in force already is not inserted again.
INSERT INTO catalogs (tenant_id, catalog_no, version, document, applied_by)
SELECT $1, 1 + coalesce(max(catalog_no), 0), $2, $3, $4 FROM catalogs WHERE tenant_id = $1
RETURNING tenant_id, catalog_no, version, document, meterd_ms(applied_at) AS applied_ms, applied_by;

-- name: set_low_balance
-- Under the lock, in the transaction that inserts the catalog. A repeat sets the same.
UPDATE tenants SET low_balance_micros = $2 WHERE tenant_id = $1;

-- name: set_limits
-- As set_low_balance.
UPDATE tenants SET limits_catalog_no = $2 WHERE tenant_id = $1;

-- name: newer
-- The catalogs in force of all tenants that are not what the caller has.
SELECT c.tenant_id, c.catalog_no, c.version, c.document, meterd_ms(c.applied_at) AS applied_ms, c.applied_by
FROM tenants AS t
CROSS JOIN LATERAL (SELECT * FROM catalogs AS k WHERE k.tenant_id = t.tenant_id ORDER BY k.catalog_no DESC LIMIT 1) AS c
LEFT JOIN unnest($1::text[], $2::integer[]) AS known (tenant_id, catalog_no) ON known.tenant_id = c.tenant_id
WHERE c.catalog_no > coalesce(known.catalog_no, 0);
