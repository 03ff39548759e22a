-- Orders: what was asked to be sold through Stripe, and the customers there.

-- name: order_by_key
SELECT o.*, a.account_id, meterd_ms(o.created_at) AS created_ms, meterd_ms(o.changed_at) AS changed_ms
FROM orders AS o JOIN accounts AS a USING (account_no) WHERE o.tenant_id = $1 AND o.idempotency_key = $2;

-- name: order_by_id
SELECT o.*, a.account_id, meterd_ms(o.created_at) AS created_ms, meterd_ms(o.changed_at) AS changed_ms
FROM orders AS o JOIN accounts AS a USING (account_no) WHERE o.tenant_id = $1 AND o.order_id = $2;

-- name: order_of
-- By whichever id of Stripe is known; '' is none.
SELECT o.*, a.account_id, meterd_ms(o.created_at) AS created_ms, meterd_ms(o.changed_at) AS changed_ms
FROM orders AS o JOIN accounts AS a USING (account_no)
WHERE o.tenant_id = $1 AND (o.stripe_session = $2 AND $2 <> '' OR o.stripe_payment_intent = $3 AND $3 <> '') LIMIT 1;

-- name: insert_order
-- A repeat finds the idempotency key taken and writes nothing; the caller compares.
INSERT INTO orders (tenant_id, order_id, account_no, idempotency_key, request_digest, kind, channel, product_id, name, wallet, amount_micros,
    bonus_micros, price_units, currency, stripe_price, trial_days, parameters, livemode, created_at, changed_at)
SELECT a.tenant_id, $3, a.account_no, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, meterd_time($19), meterd_time($19)
FROM accounts AS a WHERE a.tenant_id = $1 AND a.account_id = $2
ON CONFLICT (tenant_id, idempotency_key) DO NOTHING;

-- name: bind_tenant
-- The first to sell or to hear of money says which mode it is; a repeat changes nothing.
INSERT INTO stripe_tenants (tenant_id, livemode) VALUES ($1, $2) ON CONFLICT (tenant_id) DO NOTHING;

-- name: binding
SELECT livemode, stripe_account FROM stripe_tenants WHERE tenant_id = $1;

-- name: attach
-- What is there already stays: an order has one customer, one session and one payment. A repeat sets the same.
UPDATE orders SET
    stripe_customer = CASE WHEN stripe_customer = '' THEN $3 ELSE stripe_customer END,
    stripe_session = CASE WHEN stripe_session = '' THEN $4 ELSE stripe_session END,
    stripe_payment_intent = CASE WHEN stripe_payment_intent = '' THEN $5 ELSE stripe_payment_intent END,
    parameters = $6::jsonb || parameters
WHERE tenant_id = $1 AND order_id = $2;

-- name: advance
-- States move forward only, in this order, whatever comes when; but money that went back may come again, when a dispute is won. A repeat
-- changes nothing, nor does a state that the order has left behind.
UPDATE orders SET state = $3, failure = $4, changed_at = meterd_time($5)
WHERE tenant_id = $1 AND order_id = $2
    AND (array_position(ARRAY['pending', 'failed', 'cancelled', 'completed', 'refunded'], state)
        < array_position(ARRAY['pending', 'failed', 'cancelled', 'completed', 'refunded'], $3) OR state = 'refunded' AND $3 = 'completed');

-- name: note_payment
-- What is known stays; NULL is not known. A repeat sets the same.
UPDATE orders SET
    payment_id = CASE WHEN payment_id = '' THEN $3 ELSE payment_id END,
    stripe_payment_intent = CASE WHEN stripe_payment_intent = '' THEN $4 ELSE stripe_payment_intent END,
    stripe_subscription = CASE WHEN stripe_subscription = '' THEN $5 ELSE stripe_subscription END,
    refunded_units = least(coalesce($6, refunded_units), price_units)
WHERE tenant_id = $1 AND order_id = $2;

-- name: has_subscribed
SELECT EXISTS (SELECT FROM orders AS o JOIN accounts AS a USING (account_no)
    WHERE a.tenant_id = $1 AND a.account_id = $2 AND o.kind = 'subscription' AND o.state IN ('completed', 'refunded'));

-- name: customer
-- The account, how many customers it ever had, and the one in use.
SELECT a.account_no, meterd_ms(a.created_at) AS created_ms,
    (SELECT count(*) FROM stripe_customers AS c WHERE c.account_no = a.account_no) AS customers,
    (SELECT c.customer_id FROM stripe_customers AS c WHERE c.account_no = a.account_no AND NOT c.deleted
     ORDER BY c.created_at DESC, c.customer_id DESC LIMIT 1) AS customer_id
FROM accounts AS a WHERE a.tenant_id = $1 AND a.account_id = $2;

-- name: insert_customer
-- A repeat finds it there.
INSERT INTO stripe_customers (tenant_id, customer_id, account_no) VALUES ($1, $2, $3) ON CONFLICT (tenant_id, customer_id) DO NOTHING;

-- name: listed
-- Orders, and the payments that no order began, newest first. Each part stops at its own limit, which the indices serve.
WITH wanted AS (SELECT account_no FROM accounts WHERE tenant_id = $1 AND account_id = $2)
SELECT * FROM (
    (SELECT o.order_id::text AS purchase_id, a.account_id, o.kind, o.product_id, o.name, o.wallet, o.amount_micros, o.bonus_micros,
        o.price_units, NULL::numeric AS amount, o.currency, o.state, o.failure, o.refunded_units, o.livemode, o.stripe_session,
        o.stripe_payment_intent, o.stripe_subscription, o.stripe_customer,
        meterd_ms(o.created_at) AS created_ms, meterd_ms(o.changed_at) AS changed_ms
    FROM orders AS o JOIN accounts AS a USING (account_no)
    WHERE o.tenant_id = $1 AND ($2 = '' OR o.account_no = (SELECT account_no FROM wanted))
        AND (cardinality($3::text[]) = 0 OR o.state = ANY ($3))
        AND (o.created_at, o.order_id::text COLLATE "C") < (meterd_time($4), $5 COLLATE "C")
        AND ($7 = '' OR o.order_id::text = $7)
    ORDER BY o.created_at DESC, o.order_id::text COLLATE "C" DESC LIMIT $6)
    UNION ALL
    (SELECT p.purchase_id, a.account_id, p.kind, p.product_id, '', '', 0, 0, 0, p.amount, lower(p.currency), 'completed', '', 0,
        coalesce(t.livemode, false), '', CASE WHEN p.purchase_id LIKE 'pi\_%' THEN p.purchase_id ELSE '' END, '', '',
        meterd_ms(p.at), meterd_ms(p.at)
    FROM purchases AS p JOIN accounts AS a USING (account_no) LEFT JOIN stripe_tenants AS t ON t.tenant_id = p.tenant_id
    WHERE p.tenant_id = $1 AND ($2 = '' OR p.account_no = (SELECT account_no FROM wanted)) AND p.amount > 0
        AND (cardinality($3::text[]) = 0 OR 'completed' = ANY ($3))
        AND (p.at, p.purchase_id COLLATE "C") < (meterd_time($4), $5 COLLATE "C")
        AND ($7 = '' OR p.purchase_id = $7)
        AND NOT EXISTS (SELECT FROM orders AS o WHERE o.tenant_id = p.tenant_id AND o.payment_id = p.purchase_id)
        AND NOT EXISTS (SELECT FROM orders AS o WHERE o.tenant_id = p.tenant_id AND o.stripe_payment_intent = p.purchase_id)
    ORDER BY p.at DESC, p.purchase_id COLLATE "C" DESC LIMIT $6)
) AS both_parts
ORDER BY created_ms DESC, purchase_id COLLATE "C" DESC LIMIT $6;

-- name: account_exists
SELECT EXISTS (SELECT FROM accounts WHERE tenant_id = $1 AND account_id = $2);

-- name: known_events
SELECT event_id FROM stripe_inbox WHERE tenant_id = $1 AND event_id = ANY ($2::text[]);

-- name: known_paid
-- Objects of which an event has said that they are paid.
SELECT object_id FROM stripe_objects WHERE tenant_id = $1 AND kind = $2 AND object_id = ANY ($3::text[])
    AND (state ? 'paid_s' OR state -> 'status' ->> 1 = 'paid');
