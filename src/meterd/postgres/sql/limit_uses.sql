-- name: defined
-- Limits of some accounts, but for those on open holds, of which the ledger knows nothing.
SELECT l.*, a.account_id, meterd_ms(l.anchor) AS anchor_ms, meterd_ms(l.counts_from) AS counts_from_ms
FROM limits AS l JOIN accounts AS a USING (account_no) WHERE l.account_no = ANY($1::bigint[]) AND l.metric <> 5
ORDER BY l.account_no, l.limit_no;

-- name: charged_before
-- What the expiries of holds had charged that were committed late.
SELECT u.account_no, u.txn_hex, e.charged_micros
FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS u (account_no, txn_hex, txn_ms)
JOIN ledger AS e ON e.account_no = u.account_no AND e.kind = 'E' AND e.txn = u.txn_hex::uuid AND e.txn_at = meterd_time(u.txn_ms);

-- name: uses
-- The accounts' rows are locked by whoever asks, so nobody else moves these.
SELECT c.account_no, c.limit_no, c.value, c.operation, c.at, c.used, c.cap, c.told
FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) AS u (account_no, limit_no, value, operation)
JOIN limit_uses AS c ON c.account_no = u.account_no AND c.limit_no = u.limit_no AND c.value = u.value AND c.operation = u.operation;

-- name: set_uses
-- Values after a batch's records, in the transaction that inserts them, so a repeat of the one without the other is impossible.
INSERT INTO limit_uses (tenant_id, account_no, limit_no, value, operation, at, used, cap, told, ends_at)
SELECT tenant_id, account_no, limit_no, value, operation, at, used::bigint[], cap, told, meterd_time(NULLIF(ends_ms, 0))
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::bigint[], $9::smallint[], $10::bigint[])
    AS u (tenant_id, account_no, limit_no, value, operation, at, used, cap, told, ends_ms)
ON CONFLICT (account_no, limit_no, value, operation) DO UPDATE
SET at = EXCLUDED.at, used = EXCLUDED.used, cap = EXCLUDED.cap, told = EXCLUDED.told, ends_at = EXCLUDED.ends_at;

-- name: prune
-- A repeat deletes the next ones.
DELETE FROM limit_uses WHERE ctid = ANY(ARRAY(SELECT ctid FROM limit_uses WHERE ends_at < meterd_time($1) LIMIT $2));
