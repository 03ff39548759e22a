-- name: insert_tenant
-- A repeat finds the tenant there.
INSERT INTO tenants (tenant_id) VALUES ($1) ON CONFLICT (tenant_id) DO NOTHING;

-- name: lock_tenant
-- Keys of one tenant are made one after the other, so two creations cannot both be the second.
SELECT pg_advisory_xact_lock(hashtextextended('meterd keys ' || $1, 0));

-- name: live_keys
SELECT key_id FROM api_keys
WHERE tenant_id = $1 AND role = $2 AND name = $3 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > meterd_time($4))
ORDER BY created_at;

-- name: insert_key
-- Each call makes another key: a repeat after a lost answer adds one, of which nobody has the text. The limit of two bounds them.
INSERT INTO api_keys (tenant_id, key_id, role, digest, name, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, meterd_time($6), meterd_time(NULLIF($7::bigint, 0)));

-- name: keys
SELECT tenant_id, key_id, role, digest, name, meterd_ms(created_at) AS created_ms, coalesce(meterd_ms(expires_at), 0) AS expires_ms,
    coalesce(meterd_ms(revoked_at), 0) AS revoked_ms
FROM api_keys ORDER BY tenant_id, created_at, key_id;

-- name: keys_of
SELECT tenant_id, key_id, role, digest, name, meterd_ms(created_at) AS created_ms, coalesce(meterd_ms(expires_at), 0) AS expires_ms,
    coalesce(meterd_ms(revoked_at), 0) AS revoked_ms
FROM api_keys WHERE tenant_id = $1 ORDER BY created_at, key_id;

-- name: keys_by_digest
SELECT tenant_id, key_id, role, digest, name, meterd_ms(created_at) AS created_ms, coalesce(meterd_ms(expires_at), 0) AS expires_ms,
    coalesce(meterd_ms(revoked_at), 0) AS revoked_ms
FROM api_keys WHERE digest = ANY($1::bytea[]);

-- name: revoke_key
-- A repeat keeps the first time.
UPDATE api_keys SET revoked_at = coalesce(revoked_at, meterd_time($3)) WHERE tenant_id = $1 AND key_id = $2
RETURNING tenant_id, key_id, role, digest, name, meterd_ms(created_at) AS created_ms, coalesce(meterd_ms(expires_at), 0) AS expires_ms,
    coalesce(meterd_ms(revoked_at), 0) AS revoked_ms;
