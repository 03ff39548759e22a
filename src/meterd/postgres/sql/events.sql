-- name: alerts
-- The accounts' rows are locked by whoever asks, so nobody else moves these alerts.
SELECT u.place, a.account_id, coalesce(a.low_balance_micros, t.low_balance_micros) AS threshold_micros, w.low_armed, w.exhausted_armed
FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS u (account_no, wallet, place)
JOIN accounts AS a ON a.account_no = u.account_no
JOIN tenants AS t ON t.tenant_id = a.tenant_id
LEFT JOIN wallet_alerts AS w ON w.account_no = u.account_no AND w.wallet = u.wallet;

-- name: set_alerts
-- Values after the wallet's last record, so a repeat sets the same.
INSERT INTO wallet_alerts (tenant_id, account_no, wallet, low_armed, exhausted_armed)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::boolean[], $5::boolean[])
ON CONFLICT (account_no, wallet) DO UPDATE SET low_armed = EXCLUDED.low_armed, exhausted_armed = EXCLUDED.exhausted_armed;

-- name: insert_events
-- A repeat finds the crossing there and makes neither event nor deliveries.
WITH made AS (
    INSERT INTO events (event_id, tenant_id, account_no, type, subject, once, payload, created_at)
    SELECT event_id, tenant_id, account_no, type, subject, once, payload::jsonb, meterd_time(at_ms)
    FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[])
        AS u (event_id, tenant_id, account_no, type, subject, once, payload, at_ms)
    ON CONFLICT (account_no, type, once) DO NOTHING
    RETURNING event_id, tenant_id, type
), queued AS (
    INSERT INTO webhook_deliveries (event_id, endpoint_id, tenant_id, queued_at, next_at)
    SELECT m.event_id, e.endpoint_id, m.tenant_id, meterd_time($9), meterd_time($9)
    FROM made AS m JOIN webhook_endpoints AS e ON e.tenant_id = m.tenant_id
    WHERE e.disabled_at IS NULL AND e.deleted_at IS NULL AND (e.types = '{}' OR m.type = ANY(e.types))
)
SELECT count(*) FROM made;

-- name: expiring
-- Grants whose time to be told of has come, some at a time. Others that scan skip these rows, and find them told afterwards.
SELECT g.tenant_id, g.grant_id, g.account_no, a.account_id, g.wallet, g.category, meterd_ms(g.expires_at) AS expires_ms, g.revoked,
    g.amount_micros - g.spent_micros - g.expired_micros - g.revoked_micros AS left_micros
FROM grants AS g JOIN accounts AS a USING (account_no)
WHERE g.expires_at IS NOT NULL AND NOT g.expiring_told
    AND g.expires_at <= meterd_time($1::bigint + $2::bigint)
    AND g.expires_at - least(make_interval(secs => $2::bigint / 1000.0), (g.expires_at - g.effective_at) / 4) <= meterd_time($1::bigint)
ORDER BY g.expires_at LIMIT $3
FOR NO KEY UPDATE OF g SKIP LOCKED;

-- name: mark_expiring
-- A repeat sets the same.
UPDATE grants AS g SET expiring_told = true
FROM unnest($1::text[], $2::uuid[]) AS u (tenant_id, grant_id)
WHERE g.tenant_id = u.tenant_id AND g.grant_id = u.grant_id;

-- name: spikes
-- Accounts of one tenant that spent much more today than on a day of the days before, and were not told of today.
WITH today AS (
    SELECT account_no, sum(charged_micros)::bigint AS charged_micros FROM usage_daily
    WHERE tenant_id = $1 AND day = $2::date GROUP BY account_no HAVING sum(charged_micros) >= $4::bigint
)
SELECT t.account_no, a.account_id, t.charged_micros, (b.charged_micros / $3::integer)::bigint AS mean_micros
FROM today AS t
JOIN accounts AS a USING (account_no)
CROSS JOIN LATERAL (
    SELECT sum(u.charged_micros) AS charged_micros FROM usage_daily AS u
    WHERE u.account_no = t.account_no AND u.day >= $2::date - $3::integer AND u.day < $2::date
) AS b
WHERE b.charged_micros > 0 AND t.charged_micros * $3::integer > b.charged_micros * $5::integer
    AND NOT EXISTS (
        SELECT FROM events AS e WHERE e.account_no = t.account_no AND e.type = 'usage.spike' AND e.once = to_char($2::date, 'YYYY-MM-DD'))
ORDER BY t.account_no LIMIT $6;

-- name: tenants
SELECT tenant_id FROM tenants WHERE tenant_id > $1 ORDER BY tenant_id LIMIT $2;

-- name: prune
-- A repeat deletes the next ones. What still waits to be delivered stays.
DELETE FROM events WHERE event_id IN (
    SELECT e.event_id FROM events AS e
    WHERE e.created_at < meterd_time($1)
        AND NOT EXISTS (SELECT FROM webhook_deliveries AS d WHERE d.event_id = e.event_id AND d.next_at IS NOT NULL)
    ORDER BY e.created_at LIMIT $2);

-- name: set_low_balance_account
-- A repeat sets the same.
UPDATE accounts SET low_balance_micros = $3 WHERE tenant_id = $1 AND account_id = $2 RETURNING account_no;

-- name: set_low_balance_tenant
-- A repeat sets the same.
UPDATE tenants SET low_balance_micros = $2 WHERE tenant_id = $1 RETURNING tenant_id;

-- name: list_events
SELECT v.event_id, a.account_id, v.type, v.subject, v.payload, meterd_ms(v.created_at) AS at_ms
FROM events AS v JOIN accounts AS a USING (account_no)
WHERE v.tenant_id = $1 AND v.event_id < $2
    AND ($3::bigint IS NULL OR v.account_no = $3) AND ($4::text[] = '{}' OR v.type = ANY($4))
ORDER BY v.event_id DESC LIMIT $5;

-- name: deliveries_of
SELECT event_id, endpoint_id, attempts, meterd_ms(next_at) AS next_ms, meterd_ms(delivered_at) AS delivered_ms,
    meterd_ms(dead_at) AS dead_ms, last_status, last_error
FROM webhook_deliveries WHERE tenant_id = $1 AND event_id = ANY($2::uuid[]) ORDER BY event_id, endpoint_id;

-- name: account_no
SELECT account_no FROM accounts WHERE tenant_id = $1 AND account_id = $2;
