-- name: insert_purchase
-- A repeat finds the id taken and writes nothing; the caller compares.
INSERT INTO purchases (tenant_id, purchase_id, account_no, kind, product_id, amount, currency, at)
SELECT a.tenant_id, $3, a.account_no, $4, $5, $6, $7, meterd_time($8)
FROM accounts AS a WHERE a.tenant_id = $1 AND a.account_id = $2
ON CONFLICT (tenant_id, purchase_id) DO NOTHING;

-- name: purchase
SELECT a.account_id, p.kind, p.product_id, p.amount, p.currency, meterd_ms(p.at) AS at_ms
FROM purchases AS p JOIN accounts AS a USING (account_no) WHERE p.tenant_id = $1 AND p.purchase_id = $2;
