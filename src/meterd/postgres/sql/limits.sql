-- name: of_account
SELECT l.*, meterd_ms(l.anchor) AS anchor_ms, meterd_ms(l.counts_from) AS counts_from_ms
FROM limits AS l WHERE l.account_no = $1 ORDER BY l.limit_id COLLATE "C";

-- name: of_tenants_account
SELECT l.*, meterd_ms(l.anchor) AS anchor_ms, meterd_ms(l.counts_from) AS counts_from_ms
FROM limits AS l JOIN accounts AS a USING (account_no)
WHERE a.tenant_id = $1 AND a.account_id = $2 ORDER BY l.limit_id COLLATE "C";

-- name: upsert
-- A repeat writes the same.
INSERT INTO limits (tenant_id, account_no, limit_id, limit_no, subject, value, metric, span, cap, observe, counts_from, period, anchor,
    from_catalog)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, meterd_time($11), $12, meterd_time($13), $14)
ON CONFLICT (account_no, limit_id) DO UPDATE SET limit_no = excluded.limit_no, subject = excluded.subject, value = excluded.value,
    metric = excluded.metric, span = excluded.span, cap = excluded.cap, observe = excluded.observe, counts_from = excluded.counts_from,
    period = excluded.period, anchor = excluded.anchor, from_catalog = excluded.from_catalog;

-- name: delete
-- A repeat finds nothing to delete.
DELETE FROM limits WHERE account_no = $1 AND limit_id = $2;

-- name: forget_uses
-- Of limits that are gone, or count anew. A repeat finds nothing to delete.
DELETE FROM limit_uses AS u WHERE u.account_no = $1
    AND NOT EXISTS (SELECT FROM limits AS l WHERE l.account_no = u.account_no AND l.limit_no = u.limit_no);

-- name: catalog_limits
-- The limits that the tenant's accounts are to have, of whatever catalog changed them last, and which ones the account has.
SELECT t.limits_catalog_no AS wanted_no, a.limits_catalog_no AS had_no, coalesce(c.document -> 'limits', '[]') AS limits
FROM accounts AS a JOIN tenants AS t ON t.tenant_id = a.tenant_id
LEFT JOIN catalogs AS c ON c.tenant_id = t.tenant_id AND c.catalog_no = t.limits_catalog_no
WHERE a.account_no = $1;

-- name: set_catalog
-- A repeat sets the same.
UPDATE accounts SET limits_catalog_no = $2 WHERE account_no = $1;

-- name: behind
-- Accounts that do not have the limits of their tenant's catalog yet, by the index of both columns.
SELECT a.account_no, a.tenant_id, a.account_id, a.address
FROM tenants AS t JOIN accounts AS a ON a.tenant_id = t.tenant_id AND a.limits_catalog_no < t.limits_catalog_no
WHERE t.limits_catalog_no > 0 AND a.account_no > $1 ORDER BY a.account_no LIMIT $2;

-- name: next_number
-- Under the account's lock: the number of the change that comes next.
SELECT change_no + 1 FROM accounts WHERE account_no = $1;

-- name: period
-- The plan that the account is on, if any.
SELECT plan ->> 'period' AS period, meterd_ms(anchor) AS anchor_ms FROM subscriptions WHERE account_no = $1 AND status <> 'canceled';

-- name: set_period
-- A repeat changes no row.
UPDATE limits SET period = $2, anchor = meterd_time($3)
WHERE account_no = $1 AND span = 9 AND (period, anchor) IS DISTINCT FROM ($2, meterd_time($3));

-- name: limited_accounts
SELECT DISTINCT a.address FROM limits AS l JOIN accounts AS a USING (account_no) ORDER BY a.address;

-- name: counted
-- What the account's records since $3 come to for one limit: by value and operation, and by slots of $5 ms if that is not 0. A hold counts
-- where it was reserved (what a late Commit charged, where that was), as far as its terms tell. $4 is the subject, $6 the metric. What a
-- release or an expiry without a charge gave back is not there; of a late Commit the part is that its expiry had not charged. Ids carry
-- their caller's time: holds whose id is two days older than they are may be missed.
WITH records AS (
    SELECT l.*, CASE WHEN l.kind IN ('C', 'E') THEN coalesce((l.terms ->> 'at')::bigint, meterd_ms(l.recorded_at))
                     ELSE meterd_ms(l.recorded_at) END AS at_ms,
        CASE WHEN l.kind = 'L' THEN coalesce((SELECT e.charged_micros FROM ledger AS e WHERE e.account_no = l.account_no AND e.kind = 'E'
            AND e.txn = l.txn AND e.txn_at = l.txn_at), 0) ELSE 0 END AS already_micros
    FROM ledger AS l
    WHERE l.account_no = $1 AND l.seq <= $2 AND l.kind IN ('C', 'L', 'E', 'H') AND l.overage <> 6
        AND l.txn_at >= meterd_time($3) - interval '2 days'
        AND NOT (l.kind = 'E' AND l.charged_micros = 0 AND l.detail IS NULL)
), measured AS (
    SELECT r.at_ms, coalesce(r.operation_id, '') AS operation,
        CASE $4::integer WHEN 1 THEN '' WHEN 2 THEN r.subject_user WHEN 3 THEN r.subject_team WHEN 4 THEN r.subject_key
            WHEN 5 THEN CASE WHEN starts_with(r.item, 'feature:') THEN substr(r.item, 9) END ELSE r.terms ->> 'model' END AS value,
        CASE WHEN r.already_micros = 0 THEN 1 ELSE r.charged_micros::numeric / (r.already_micros + r.charged_micros) END AS share,
        CASE $6::integer
            WHEN 1 THEN r.charged_micros
            WHEN 2 THEN ceil(1000000 * coalesce((r.detail ->> 'cost')::numeric, (r.terms ->> 'cost')::numeric, 0))
            WHEN 3 THEN CASE WHEN r.already_micros > 0 THEN 0 WHEN starts_with(r.item, 'feature:')
                THEN coalesce((r.terms ->> 'qty')::numeric, 1) ELSE 1 END
            WHEN 4 THEN CASE WHEN r.detail ? 'usage'
                THEN coalesce((r.detail #>> '{usage,input_tokens}')::numeric, 0) + coalesce((r.detail #>> '{usage,output_tokens}')::numeric, 0)
                ELSE coalesce((r.terms ->> 'in')::numeric, 0) + coalesce((r.terms ->> 'out')::numeric, 0)
                    + coalesce((r.terms #>> '{extra,input_tokens}')::numeric, 0) END
        END AS amount
    FROM records AS r WHERE r.at_ms >= $3
)
SELECT value, CASE WHEN $7 THEN operation ELSE '' END AS operation, CASE WHEN $5 = 0 THEN 0 ELSE at_ms / $5 END AS slot,
    max(at_ms) AS last_ms, sum(CASE WHEN $6 IN (2, 4) THEN ceil(amount * share) ELSE amount END)::bigint AS used
FROM measured WHERE value IS NOT NULL AND ($8 = '' OR value = $8) AND (NOT $7 OR operation <> '')
GROUP BY 1, 2, 3 HAVING sum(amount) > 0;
