-- name: insert_tenant
-- A repeat finds the tenant there.
INSERT INTO tenants (tenant_id, name) VALUES ($1, $2) ON CONFLICT (tenant_id) DO NOTHING;

-- name: insert_account
-- A repeat finds the account there; the caller compares request digests then.
INSERT INTO accounts (tenant_id, account_id, address, partition, overage_policy, overdraft_limit_micros, strict_expiry, request_digest)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant_id, account_id) DO NOTHING;

-- name: account
SELECT account_no, tenant_id, account_id, address, partition, overage_policy, overdraft_limit_micros, strict_expiry, frozen,
    meterd_ms(created_at) AS created_ms, request_digest,
    coalesce(meterd_ms(plan_until), 0) AS plan_until_ms, plan_unlimited, plan_actions_per_day, plan_blocked_wallets
FROM accounts WHERE tenant_id = $1 AND account_id = $2;

-- name: account_at
SELECT account_no, tenant_id, account_id, address, partition, overage_policy, overdraft_limit_micros, strict_expiry, frozen,
    meterd_ms(created_at) AS created_ms, request_digest,
    coalesce(meterd_ms(plan_until), 0) AS plan_until_ms, plan_unlimited, plan_actions_per_day, plan_blocked_wallets
FROM accounts WHERE address = $1;

-- name: lock_account
-- Numbers of changes are handed out under this lock, so they become visible in their order.
SELECT account_no, address, promised_micros FROM accounts WHERE tenant_id = $1 AND account_id = $2 FOR NO KEY UPDATE;

-- name: lock_accounts
-- In the order of their numbers, as everybody who locks several does.
SELECT account_id, account_no, address, promised_micros FROM accounts WHERE tenant_id = $1 AND account_id = ANY($2::text[])
ORDER BY account_no FOR NO KEY UPDATE;

-- name: change_no
SELECT change_no FROM accounts WHERE address = $1;

-- name: promised
SELECT promised_micros FROM accounts WHERE account_no = $1;

-- name: lock_account_no
SELECT account_no, address, promised_micros FROM accounts WHERE account_no = $1 FOR NO KEY UPDATE;

-- name: next_change
-- Only in the transaction that inserts the change: a repeat of the whole is stopped by the change's own key before it comes here.
UPDATE accounts SET change_no = change_no + 1, promised_micros = promised_micros + $2 WHERE account_no = $1 RETURNING change_no;

-- name: insert_change
-- As next_change.
INSERT INTO account_changes (tenant_id, account_no, change_no, kind, change_id, payload) VALUES ($1, $2, $3, $4, $5, $6);

-- name: live_grants
SELECT count(*) FROM grants
WHERE account_no = $1 AND wallet = $2 AND amount_micros > spent_micros + expired_micros + revoked_micros;

-- name: insert_grant
-- A repeat finds the idempotency key taken.
INSERT INTO grants (tenant_id, grant_id, account_no, wallet, category, priority, amount_micros, effective_at, expires_at, source_id,
    idempotency_key, request_digest, change_no)
VALUES ($1, $2, $3, $4, $5, $6, $7, meterd_time($8), meterd_time(NULLIF($9::bigint, 0)), $10, $11, $12, $13);

-- name: grant_by_key
SELECT g.*, a.account_id, a.address, meterd_ms(g.effective_at) AS effective_ms, coalesce(meterd_ms(g.expires_at), 0) AS expires_ms,
    meterd_ms(g.created_at) AS created_ms
FROM grants AS g JOIN accounts AS a USING (account_no) WHERE g.tenant_id = $1 AND g.idempotency_key = $2;

-- name: grant_by_id
SELECT g.*, a.account_id, a.address, meterd_ms(g.effective_at) AS effective_ms, coalesce(meterd_ms(g.expires_at), 0) AS expires_ms,
    meterd_ms(g.created_at) AS created_ms
FROM grants AS g JOIN accounts AS a USING (account_no) WHERE g.tenant_id = $1 AND g.grant_id = $2;

-- name: grants_of
SELECT g.*, a.account_id, a.address, meterd_ms(g.effective_at) AS effective_ms, coalesce(meterd_ms(g.expires_at), 0) AS expires_ms,
    meterd_ms(g.created_at) AS created_ms
FROM grants AS g JOIN accounts AS a USING (account_no) WHERE a.tenant_id = $1 AND a.account_id = $2 ORDER BY g.change_no;

-- name: insert_revocation
-- A repeat finds the idempotency key taken.
INSERT INTO revocations (tenant_id, revocation_id, grant_id, account_no, reason, idempotency_key, request_digest, change_no)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: revocation_by_key
SELECT r.revocation_id, r.grant_id, r.reason, r.request_digest, r.change_no, a.address
FROM revocations AS r JOIN accounts AS a USING (account_no) WHERE r.tenant_id = $1 AND r.idempotency_key = $2;

-- name: update_settings
-- A repeat sets the same.
UPDATE accounts SET overage_policy = $2, overdraft_limit_micros = $3, strict_expiry = $4, frozen = $5,
    plan_until = meterd_time(NULLIF($6::bigint, 0)), plan_unlimited = $7, plan_actions_per_day = $8, plan_blocked_wallets = $9
WHERE account_no = $1;

-- name: insert_price_book
-- A version names its content, so a repeat is the same book.
INSERT INTO price_books (version, content) VALUES ($1, $2) ON CONFLICT (version) DO NOTHING;

-- name: price_book
SELECT content FROM price_books WHERE version = $1;

-- name: latest_price_book
SELECT version FROM price_books ORDER BY created_at DESC, version LIMIT 1;

-- name: installation
SELECT partitions FROM installation;
