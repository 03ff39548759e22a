-- name: insert_endpoint
-- A repeat finds the key taken; the caller compares digests then.
INSERT INTO webhook_endpoints (tenant_id, endpoint_id, idempotency_key, request_digest, url, types, secret, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, meterd_time($8::bigint))
ON CONFLICT (tenant_id, idempotency_key) DO NOTHING
RETURNING endpoint_id;

-- name: endpoint_of_key
SELECT endpoint_id, request_digest, deleted_at IS NOT NULL AS deleted FROM webhook_endpoints WHERE tenant_id = $1 AND idempotency_key = $2;

-- name: count_endpoints
-- Under the tenant's lock, so that two creations at once cannot pass the limit together.
SELECT count(*) FROM webhook_endpoints WHERE tenant_id = $1 AND deleted_at IS NULL;

-- name: lock_endpoints
SELECT pg_advisory_xact_lock(hashtext('meterd_webhooks'), hashtext($1));

-- name: list_endpoints
SELECT e.endpoint_id, e.url, e.types, meterd_ms(e.created_at) AS created_ms, meterd_ms(e.disabled_at) AS disabled_ms,
    CASE WHEN e.old_secret_until > meterd_time($3::bigint) THEN meterd_ms(e.old_secret_until) END AS old_secret_ms,
    d.waiting_count, d.dead_count
FROM webhook_endpoints AS e CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE next_at IS NOT NULL) AS waiting_count, count(*) FILTER (WHERE dead_at IS NOT NULL) AS dead_count
    FROM webhook_deliveries AS d WHERE d.endpoint_id = e.endpoint_id AND d.delivered_at IS NULL
) AS d
WHERE e.tenant_id = $1 AND e.deleted_at IS NULL AND ($2::uuid IS NULL OR e.endpoint_id = $2)
ORDER BY e.created_at, e.endpoint_id;

-- name: delete_endpoint
-- A repeat changes nothing. The secrets go at once.
UPDATE webhook_endpoints SET deleted_at = coalesce(deleted_at, meterd_time($3::bigint)), secret = '', old_secret = NULL, old_secret_until = NULL
WHERE tenant_id = $1 AND endpoint_id = $2 RETURNING endpoint_id;

-- name: drop_deliveries
-- A repeat finds none that wait.
UPDATE webhook_deliveries SET next_at = NULL, claimed_until = NULL, dead_at = meterd_time($3::bigint), last_error = $4
WHERE tenant_id = $1 AND endpoint_id = $2 AND next_at IS NOT NULL;

-- name: rotate
-- Not harmless to repeat without force: the secret that receivers know would be gone. Hence the condition.
UPDATE webhook_endpoints SET
    old_secret = CASE WHEN $5::boolean THEN NULL ELSE secret END,
    old_secret_until = CASE WHEN $5::boolean THEN NULL ELSE meterd_time($4::bigint + $6::bigint) END,
    secret = $3
WHERE tenant_id = $1 AND endpoint_id = $2 AND deleted_at IS NULL
    AND ($5::boolean OR old_secret_until IS NULL OR old_secret_until <= meterd_time($4::bigint))
RETURNING endpoint_id;

-- name: replay
-- A repeat queues the same events once more, under the ids that they had: receivers know them.
WITH wanted AS (
    SELECT v.event_id FROM events AS v
    JOIN webhook_endpoints AS e ON e.endpoint_id = $2 AND (e.types = '{}' OR v.type = ANY(e.types))
    LEFT JOIN webhook_deliveries AS d ON d.event_id = v.event_id AND d.endpoint_id = $2
    WHERE v.tenant_id = $1 AND v.created_at >= meterd_time($3::bigint) AND v.created_at < meterd_time($4::bigint)
        AND v.event_id > $7::uuid AND ($5::uuid[] = '{}' OR v.event_id = ANY($5))
        AND CASE
            WHEN d.event_id IS NULL OR d.dead_at IS NOT NULL THEN true
            WHEN d.delivered_at IS NOT NULL THEN $6::boolean
            ELSE d.next_at > meterd_time($8::bigint)
        END
    ORDER BY v.event_id LIMIT $9
), queued AS (
    INSERT INTO webhook_deliveries AS d (event_id, endpoint_id, tenant_id, queued_at, next_at)
    SELECT event_id, $2, $1, meterd_time($8::bigint), meterd_time($8::bigint) FROM wanted
    ON CONFLICT (event_id, endpoint_id) DO UPDATE SET
        attempts = 0, queued_at = EXCLUDED.queued_at, next_at = EXCLUDED.next_at, delivered_at = NULL, dead_at = NULL
    RETURNING event_id
)
SELECT count(*) AS queued, (array_agg(event_id ORDER BY event_id DESC))[1] AS last_id FROM queued;

-- name: claim
-- Some deliveries of each endpoint that has room here. Other servers skip these rows, and take them over if this one never says
-- what became of them.
WITH open AS (
    SELECT e.endpoint_id, e.url, e.secret, CASE WHEN e.old_secret_until > meterd_time($1::bigint) THEN e.old_secret END AS old_secret,
        coalesce(u.room, $3::integer) AS room
    FROM webhook_endpoints AS e
    LEFT JOIN unnest($4::uuid[], $5::integer[]) AS u (endpoint_id, room) ON u.endpoint_id = e.endpoint_id
    WHERE e.disabled_at IS NULL AND e.deleted_at IS NULL AND coalesce(u.room, $3::integer) > 0
    -- So that none is always the last.
    ORDER BY random()
), due AS (
    SELECT d.event_id, o.* FROM open AS o CROSS JOIN LATERAL (
        SELECT w.event_id FROM webhook_deliveries AS w
        WHERE w.endpoint_id = o.endpoint_id AND w.next_at <= meterd_time($1::bigint)
            AND (w.claimed_until IS NULL OR w.claimed_until <= meterd_time($1::bigint))
        ORDER BY w.next_at LIMIT o.room
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS d
    LIMIT $6
)
UPDATE webhook_deliveries AS d SET attempts = d.attempts + 1, claimed_until = meterd_time($1::bigint + $2::bigint)
FROM due, events AS v
WHERE d.event_id = due.event_id AND d.endpoint_id = due.endpoint_id AND v.event_id = due.event_id
RETURNING d.event_id, d.endpoint_id, d.tenant_id, d.attempts, meterd_ms(d.queued_at) AS queued_ms, due.url, due.secret, due.old_secret,
    v.type, v.payload, meterd_ms(v.created_at) AS at_ms;

-- name: settle
-- What became of an attempt, if it is still the last one: whoever took it over has the word. A repeat sets the same.
UPDATE webhook_deliveries SET
    claimed_until = NULL, next_at = meterd_time($4::bigint), delivered_at = meterd_time($5::bigint), dead_at = meterd_time($6::bigint),
    last_status = $7, last_error = $8
WHERE event_id = $1 AND endpoint_id = $2 AND attempts = $3 AND claimed_until IS NOT NULL;

-- name: disable
-- A repeat changes nothing.
UPDATE webhook_endpoints SET disabled_at = coalesce(disabled_at, meterd_time($2::bigint)) WHERE endpoint_id = $1;
