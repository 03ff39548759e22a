-- Subscriptions, rewards, claw-backs and transfers. Everything here happens under the lock of its account (catalog.sql: lock_accounts).

-- name: live_subscription
SELECT s.*, a.account_id, a.address, meterd_ms(s.started_at) AS started_ms, meterd_ms(s.anchor) AS anchor_ms,
    meterd_ms(s.period_start) AS period_start_ms, meterd_ms(s.period_end) AS period_end_ms, meterd_ms(s.terms_until) AS terms_until_ms,
    coalesce(meterd_ms(s.canceled_at), 0) AS canceled_ms, coalesce(meterd_ms(s.due_at), 0) AS due_ms
FROM subscriptions AS s JOIN accounts AS a USING (account_no) WHERE a.tenant_id = $1 AND a.account_id = $2 AND s.status <> 'canceled';

-- name: last_subscription
SELECT s.*, a.account_id, a.address, meterd_ms(s.started_at) AS started_ms, meterd_ms(s.anchor) AS anchor_ms,
    meterd_ms(s.period_start) AS period_start_ms, meterd_ms(s.period_end) AS period_end_ms, meterd_ms(s.terms_until) AS terms_until_ms,
    coalesce(meterd_ms(s.canceled_at), 0) AS canceled_ms, coalesce(meterd_ms(s.due_at), 0) AS due_ms
FROM subscriptions AS s JOIN accounts AS a USING (account_no) WHERE a.tenant_id = $1 AND a.account_id = $2
ORDER BY s.status = 'canceled', s.started_at DESC, s.subscription_id DESC LIMIT 1;

-- name: subscription_by_key
SELECT s.*, a.account_id, a.address, meterd_ms(s.started_at) AS started_ms, meterd_ms(s.anchor) AS anchor_ms,
    meterd_ms(s.period_start) AS period_start_ms, meterd_ms(s.period_end) AS period_end_ms, meterd_ms(s.terms_until) AS terms_until_ms,
    coalesce(meterd_ms(s.canceled_at), 0) AS canceled_ms, coalesce(meterd_ms(s.due_at), 0) AS due_ms
FROM subscriptions AS s JOIN accounts AS a USING (account_no) WHERE s.tenant_id = $1 AND s.idempotency_key = $2;

-- name: insert_subscription
-- A repeat finds the idempotency key taken.
INSERT INTO subscriptions (tenant_id, subscription_id, account_no, plan_id, plan, status, started_at, anchor, period_no, period_start,
    period_end, granted_no, terms_until, source_id, idempotency_key, request_digest)
VALUES ($1, $2, $3, $4, $5, $6, meterd_time($7), meterd_time($8), $9, meterd_time($10), meterd_time($11), $12, meterd_time($13), $14, $15, $16);

-- name: update_subscription
-- A repeat sets the same.
UPDATE subscriptions SET plan = $3, next_plan = $4, status = $5, period_no = $6, period_start = meterd_time($7), period_end = meterd_time($8),
    granted_no = $9, withdrawals = $10, terms_until = meterd_time($11), cancel_at_period_end = $12,
    canceled_at = meterd_time(NULLIF($13::bigint, 0)), due_at = meterd_time(NULLIF($14::bigint, 0))
WHERE tenant_id = $1 AND subscription_id = $2;

-- name: due
-- Those that have waited longest.
SELECT s.tenant_id, s.subscription_id, a.account_id
FROM subscriptions AS s JOIN accounts AS a USING (account_no)
WHERE s.due_at <= meterd_time($1) ORDER BY s.due_at LIMIT $2;

-- name: postpone
-- A repeat sets the same; one that is no longer due is left alone.
UPDATE subscriptions SET due_at = meterd_time($3) WHERE tenant_id = $1 AND subscription_id = $2 AND due_at < meterd_time($3);

-- name: had_trial
SELECT EXISTS (SELECT FROM subscriptions WHERE account_no = $1 AND anchor > started_at);

-- name: has_debts
-- As the ledger has it.
SELECT EXISTS (SELECT FROM wallets WHERE account_no = $1 AND debt_micros > 0);

-- name: allowances_left
-- Grants of a subscription with something left, from those that become effective after a moment on; those that were taken back are left out.
SELECT g.*, a.account_id, a.address, meterd_ms(g.effective_at) AS effective_ms, coalesce(meterd_ms(g.expires_at), 0) AS expires_ms,
    meterd_ms(g.created_at) AS created_ms
FROM grants AS g JOIN accounts AS a USING (account_no)
WHERE g.account_no = $1 AND starts_with(g.idempotency_key, $2) AND g.effective_at > meterd_time($3) AND g.expires_at > meterd_time($4)
    AND g.amount_micros > g.spent_micros + g.expired_micros + g.revoked_micros
    AND NOT EXISTS (SELECT FROM revocations AS r WHERE r.tenant_id = g.tenant_id AND r.grant_id = g.grant_id)
ORDER BY g.change_no;

-- name: claim
SELECT c.occasion, c.grant_id, g.*, a.account_id, a.address, meterd_ms(g.effective_at) AS effective_ms,
    coalesce(meterd_ms(g.expires_at), 0) AS expires_ms, meterd_ms(g.created_at) AS created_ms
FROM reward_claims AS c JOIN grants AS g USING (tenant_id, grant_id) JOIN accounts AS a ON a.account_no = g.account_no
WHERE c.account_no = $1 AND c.reward_id = $2 AND c.occasion = $3;

-- name: claims_between
SELECT count(*) FROM reward_claims
WHERE account_no = $1 AND reward_id = $2 AND claimed_at >= meterd_time($3) AND claimed_at < meterd_time($4);

-- name: insert_claim
-- A repeat finds the occasion taken.
INSERT INTO reward_claims (tenant_id, account_no, reward_id, occasion, grant_id, claimed_at) VALUES ($1, $2, $3, $4, $5, meterd_time($6));

-- name: lifetime
-- Allowances are category 3, purchases 1. A transfer is no usage.
SELECT coalesce(sum(g.amount_micros) FILTER (WHERE g.category = 1), 0)::bigint AS purchased_micros,
    coalesce(sum(g.amount_micros) FILTER (WHERE g.category NOT IN (1, 3)), 0)::bigint AS earned_micros,
    coalesce(sum(g.amount_micros) FILTER (WHERE g.category = 3), 0)::bigint AS allowance_micros,
    a.spent_micros - t.transferred_micros AS spent_micros, t.transferred_micros,
    a.expired_micros + a.revoked_micros AS lost_micros
FROM accounts AS a
LEFT JOIN grants AS g ON g.account_no = a.account_no AND g.effective_at <= now()
CROSS JOIN LATERAL (
    SELECT coalesce(sum(l.charged_micros), 0)::bigint AS transferred_micros FROM ledger AS l WHERE l.account_no = a.account_no AND l.overage = 6
) AS t
WHERE a.account_no = $1 GROUP BY a.account_no, a.spent_micros, a.expired_micros, a.revoked_micros, t.transferred_micros;

-- name: account_no
SELECT account_no FROM accounts WHERE tenant_id = $1 AND account_id = $2;

-- name: reached
-- Accounts that have spent enough, not counting what they gave away, but not had the reward. Reads all accounts of the tenant.
WITH waiting AS MATERIALIZED (
    SELECT a.account_no, a.account_id, a.spent_micros FROM accounts AS a
    WHERE a.tenant_id = $1 AND a.spent_micros >= $2
        AND NOT EXISTS (SELECT FROM reward_claims AS c WHERE c.account_no = a.account_no AND c.reward_id = $3)
)
SELECT w.account_id FROM waiting AS w
WHERE w.spent_micros - (SELECT coalesce(sum(l.charged_micros), 0) FROM ledger AS l WHERE l.account_no = w.account_no AND l.overage = 6) >= $2
LIMIT $4;

-- name: reached_lately
-- The same, of those that were charged in the last seconds, by the index on flushed_at. Months before are not looked into.
WITH moved AS MATERIALIZED (
    SELECT DISTINCT l.account_no FROM ledger AS l
    WHERE l.tenant_id = $1 AND l.flushed_at >= now() - make_interval(secs => $5) AND l.txn_at >= now() - interval '35 days'
        AND l.charged_micros > 0
), waiting AS MATERIALIZED (
    SELECT a.account_no, a.account_id, a.spent_micros FROM moved JOIN accounts AS a USING (account_no)
    WHERE a.tenant_id = $1 AND a.spent_micros >= $2
        AND NOT EXISTS (SELECT FROM reward_claims AS c WHERE c.account_no = a.account_no AND c.reward_id = $3)
)
SELECT w.account_id FROM waiting AS w
WHERE w.spent_micros - (SELECT coalesce(sum(l.charged_micros), 0) FROM ledger AS l WHERE l.account_no = w.account_no AND l.overage = 6) >= $2
LIMIT $4;

-- name: claw_back_by_key
SELECT c.claw_back_id, c.wallet, c.amount_micros, c.reason, c.request_digest, c.change_no, a.account_id, a.address
FROM claw_backs AS c JOIN accounts AS a USING (account_no) WHERE c.tenant_id = $1 AND c.idempotency_key = $2;

-- name: insert_claw_back
-- A repeat finds the idempotency key taken.
INSERT INTO claw_backs (tenant_id, claw_back_id, account_no, wallet, amount_micros, reason, idempotency_key, request_digest, change_no)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: next_change
-- As in catalog.sql.
UPDATE accounts SET change_no = change_no + 1 WHERE account_no = $1 RETURNING change_no;

-- name: insert_change
-- As next_change.
INSERT INTO account_changes (tenant_id, account_no, change_no, kind, change_id, payload) VALUES ($1, $2, $3, $4, $5, $6);

-- name: debit
-- A transfer's record, once it is in the ledger.
SELECT l.tenant_id, l.txn, l.wallet, l.charged_micros, l.terms, meterd_ms(l.recorded_at) AS at_ms
FROM accounts AS a JOIN ledger AS l ON l.account_no = a.account_no AND l.kind = 'H' AND l.txn = $3 AND l.txn_at = meterd_uuid_time($3)
WHERE a.tenant_id = $1 AND a.address = $2 AND l.overage = 6;

-- name: ungifted
-- Transfers whose debit is in the ledger, but whose gift is not made; those of the last days, by the time of their ids. Reads all of these.
SELECT l.tenant_id, l.txn, a.address
FROM ledger AS l JOIN accounts AS a USING (account_no)
WHERE l.overage = 6 AND l.kind = 'H' AND l.charged_micros > 0 AND l.txn_at >= meterd_time($1)
    AND NOT EXISTS (SELECT FROM grants AS g WHERE g.tenant_id = l.tenant_id AND g.idempotency_key = $2 || l.txn::text)
LIMIT $3;

-- name: ungifted_lately
-- The same, of those that Postgres got in the last seconds, by the index on flushed_at of transfers.
SELECT l.tenant_id, l.txn, a.address
FROM ledger AS l JOIN accounts AS a USING (account_no)
WHERE l.overage = 6 AND l.kind = 'H' AND l.charged_micros > 0 AND l.txn_at >= meterd_time($1)
    AND l.flushed_at >= now() - make_interval(secs => $4)
    AND NOT EXISTS (SELECT FROM grants AS g WHERE g.tenant_id = l.tenant_id AND g.idempotency_key = $2 || l.txn::text)
LIMIT $3;

-- name: grant_by_key
SELECT g.*, a.account_id, a.address, meterd_ms(g.effective_at) AS effective_ms, coalesce(meterd_ms(g.expires_at), 0) AS expires_ms,
    meterd_ms(g.created_at) AS created_ms
FROM grants AS g JOIN accounts AS a USING (account_no) WHERE g.tenant_id = $1 AND g.idempotency_key = $2;
