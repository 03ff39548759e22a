-- Requests of top-ups, as the Stripe process takes them up.

-- name: enable
-- What was asked for before it was switched on is somebody else's. A repeat changes nothing.
UPDATE stripe_tenants SET top_ups_since = coalesce(top_ups_since, meterd_time($2)) WHERE tenant_id = $1;

-- name: disable
-- A repeat changes nothing.
UPDATE stripe_tenants SET top_ups_since = NULL WHERE tenant_id = $1 AND top_ups_since IS NOT NULL;

-- name: take_up
-- Requests that are new. A repeat finds them there.
INSERT INTO top_up_requests (tenant_id, request_id, account_no, package_id, requested_at, next_at)
SELECT e.tenant_id, e.subject, e.account_no, e.payload ->> 'package_id', e.created_at, meterd_time($2)
FROM events AS e JOIN stripe_tenants AS t ON t.tenant_id = e.tenant_id AND e.created_at >= t.top_ups_since
WHERE e.tenant_id = $1 AND e.type = 'topup.requested' AND e.created_at >= meterd_time($3)
    AND NOT EXISTS (SELECT FROM top_up_requests AS r WHERE r.tenant_id = e.tenant_id AND r.request_id = e.subject)
ON CONFLICT (tenant_id, request_id) DO NOTHING;

-- name: claim
-- Those that are due, the oldest first, for as long as the claim lasts. Two that claim at once do not meet; and if they did, an order is one.
UPDATE top_up_requests AS r SET attempts = r.attempts + 1, next_at = meterd_time($3)
FROM (
    SELECT tenant_id, request_id FROM top_up_requests
    WHERE tenant_id = $1 AND state = 'pending' AND next_at <= meterd_time($2)
    ORDER BY requested_at, request_id LIMIT $4 FOR UPDATE SKIP LOCKED) AS due
WHERE r.tenant_id = due.tenant_id AND r.request_id = due.request_id
RETURNING r.request_id, r.account_no, (SELECT a.account_id FROM accounts AS a WHERE a.account_no = r.account_no) AS account_id, r.package_id,
    r.attempts, meterd_ms(r.requested_at) AS requested_ms;

-- name: finish
-- What has ended stays as it is; so a repeat changes nothing.
UPDATE top_up_requests SET state = $3, error = $4, order_id = $5, next_at = NULL, ended_at = meterd_time($6)
WHERE tenant_id = $1 AND request_id = $2 AND state = 'pending';

-- name: retry
-- A repeat sets the same.
UPDATE top_up_requests SET error = $3, next_at = meterd_time($4) WHERE tenant_id = $1 AND request_id = $2 AND state = 'pending';

-- name: request_of
-- The request that an order was made for.
SELECT r.request_id, r.account_no, r.package_id
FROM orders AS o JOIN top_up_requests AS r ON r.tenant_id = o.tenant_id AND o.idempotency_key = $3::text || r.request_id
WHERE o.tenant_id = $1 AND o.order_id = $2;
