-- name: lock
-- Held to the end of the transaction. A statement of its own: what follows must see what the lock's last holder wrote.
SELECT pg_advisory_xact_lock(hashtextextended('meterd account ' || $1::text, 0));

-- name: state
-- One statement, so one snapshot: the flusher may commit meanwhile.
SELECT meterd_ms(now()) AS now_ms, a.account_no, a.tenant_id, a.account_id, a.address, a.last_seq, a.last_txn, a.applied_change_no, a.epoch,
    a.granted_micros, a.spent_micros, a.expired_micros, a.revoked_micros,
    a.overage_policy, a.overdraft_limit_micros, a.strict_expiry, a.frozen, a.parked,
    coalesce(meterd_ms(a.plan_until), 0) AS plan_until_ms, a.plan_unlimited, a.plan_actions_per_day, a.plan_blocked_wallets,
    extract(epoch FROM date_trunc('day', now()))::bigint / 86400 AS actions_day,
    -- Transfers are no actions. Holds that are open are not in the ledger, and neither is when a hold was made but for its id's time.
    CASE WHEN a.plan_actions_per_day = 0 THEN 0 ELSE
        (SELECT count(*) FROM ledger AS l
         WHERE l.account_no = a.account_no AND l.kind IN ('C', 'E', 'H') AND l.overage <> 6
            AND l.txn_at >= date_trunc('day', now()) AND l.txn_at < date_trunc('day', now()) + interval '1 day'
            -- The same in terms of the primary key, which has no place for txn_at before txn.
            AND l.txn >= (lpad(to_hex(meterd_ms(date_trunc('day', now()))), 12, '0') || repeat('0', 20))::uuid) END AS actions,
    (SELECT coalesce(jsonb_agg(jsonb_build_array(w.wallet, w.debt_micros) ORDER BY w.wallet), '[]')
     FROM wallets AS w WHERE w.account_no = a.account_no) AS wallets,
    (SELECT coalesce(jsonb_agg(jsonb_build_array(
            g.wallet, g.grant_id, g.amount_micros - g.spent_micros - g.expired_micros - g.revoked_micros, g.category, g.priority,
            meterd_ms(g.effective_at), coalesce(meterd_ms(g.expires_at), 0), g.change_no, g.revoked) ORDER BY g.change_no), '[]')
     FROM grants AS g
     WHERE g.account_no = a.account_no AND g.applied_at IS NOT NULL
        AND g.amount_micros <> g.spent_micros + g.expired_micros + g.revoked_micros) AS grants
FROM accounts AS a WHERE a.address = $1;

-- name: changes_after
SELECT c.change_no, c.kind, c.change_id, c.payload
FROM account_changes AS c JOIN accounts AS a USING (account_no)
WHERE a.address = $1 AND c.change_no > $2 ORDER BY c.change_no;

-- name: pending
SELECT c.change_no, c.kind, c.change_id, c.payload
FROM account_changes AS c JOIN accounts AS a USING (account_no)
WHERE a.address = $1 AND c.applied_at IS NULL ORDER BY c.change_no;

-- name: accounts_pending
-- Accounts with a change that has waited for a while, by the pending ones' index; the highest number tells whether it was sent before.
SELECT a.account_no, a.address, c.change_no
FROM (SELECT account_no, max(change_no) AS change_no FROM account_changes
      WHERE applied_at IS NULL AND account_no > $1 AND created_at < now() - make_interval(secs => $2::float8)
      GROUP BY account_no ORDER BY account_no LIMIT $3) AS c
JOIN accounts AS a USING (account_no) ORDER BY a.account_no;

-- name: try_projecting
SELECT pg_try_advisory_xact_lock(hashtextextended('meterd projector', 0));

-- name: records
-- One statement, so one snapshot: what is not among the records was not in the ledger at fresh_ms. Of an account with entries that could
-- not be written, nothing is known for certain.
SELECT CASE WHEN a.parked THEN 0 ELSE meterd_ms(p.fresh_at) END AS fresh_ms, l.*, meterd_ms(l.recorded_at) AS at_ms
FROM accounts AS a
JOIN partitions AS p ON p.partition = a.partition
LEFT JOIN ledger AS l ON l.account_no = a.account_no AND l.kind IN ('C', 'L', 'R', 'E', 'H') AND l.txn = $3
    AND l.txn_at = meterd_uuid_time($3)
WHERE a.tenant_id = $1 AND a.address = $2
ORDER BY l.seq;
