-- name: live
SELECT key_id, secret, coalesce(meterd_ms(verifies_until), 0) AS verifies_until_ms
FROM token_keys WHERE verifies_until IS NULL OR verifies_until > meterd_time($1);

-- name: insert
-- Where a key signs already, a repeat or another server, that one stays.
INSERT INTO token_keys (key_id, secret, created_at) VALUES ($1, $2, meterd_time($3))
ON CONFLICT ((true)) WHERE verifies_until IS NULL DO NOTHING;

-- name: lock
-- Rotations come one after the other.
SELECT pg_advisory_xact_lock(hashtextextended('meterd token keys', 0));

-- name: retire
-- A repeat finds the next key: each rotation makes one.
UPDATE token_keys SET verifies_until = least(coalesce(verifies_until, 'infinity'), meterd_time($1)) WHERE verifies_until IS NULL OR $2;

-- name: delete_dead
-- A repeat finds nothing to delete.
DELETE FROM token_keys WHERE verifies_until < meterd_time($1);
