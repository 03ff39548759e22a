-- name: active
-- Those of the accounts of a batch. The accounts' rows are locked by whoever asks, so nobody else moves these.
SELECT u.*, a.account_id FROM top_ups AS u JOIN accounts AS a USING (account_no) WHERE u.account_no = ANY($1::bigint[]) AND u.active;

-- name: of_account
SELECT * FROM top_ups WHERE account_no = $1;

-- name: of_tenants_account
SELECT u.* FROM top_ups AS u JOIN accounts AS a USING (account_no) WHERE a.tenant_id = $1 AND a.account_id = $2 AND u.active;

-- name: set
-- A repeat sets the same.
INSERT INTO top_ups (tenant_id, account_no, active, package_id, wallet, threshold_micros, per_month_max, armed, month, requested)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (account_no) DO UPDATE SET active = EXCLUDED.active, package_id = EXCLUDED.package_id, wallet = EXCLUDED.wallet,
    threshold_micros = EXCLUDED.threshold_micros, per_month_max = EXCLUDED.per_month_max, armed = EXCLUDED.armed, month = EXCLUDED.month,
    requested = EXCLUDED.requested;

-- name: move
-- In the transaction of the records that it follows from.
UPDATE top_ups AS u SET armed = v.armed, month = v.month, requested = v.requested
FROM unnest($1::bigint[], $2::boolean[], $3::date[], $4::integer[]) AS v (account_no, armed, month, requested)
WHERE u.account_no = v.account_no;

-- name: left
-- What is left of a wallet as of the ledger: what open holds have of a grant is left of it too.
SELECT (coalesce(sum(g.amount_micros - g.spent_micros - g.expired_micros - g.revoked_micros), 0)
    - coalesce((SELECT w.debt_micros FROM wallets AS w WHERE w.account_no = $1 AND w.wallet = $2), 0))::bigint
FROM grants AS g WHERE g.account_no = $1 AND g.wallet = $2 AND g.applied_at IS NOT NULL;
