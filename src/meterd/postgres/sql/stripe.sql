-- What Stripe has told: the inbox, what is known of its objects, and what was done about it.

-- name: lock
-- The effects of a tenant's events come one after the other, so that each sees all that the ones before have left.
SELECT pg_advisory_xact_lock(hashtextextended('meterd stripe ' || $1, 0));

-- name: bind
-- The first one says which mode it is; a repeat changes nothing.
INSERT INTO stripe_tenants (tenant_id, livemode, stripe_account) VALUES ($1, $2, $3) ON CONFLICT (tenant_id) DO NOTHING;

-- name: binding
SELECT livemode, stripe_account FROM stripe_tenants WHERE tenant_id = $1;

-- name: name_account
-- Only where none is named yet.
UPDATE stripe_tenants SET stripe_account = $2 WHERE tenant_id = $1 AND stripe_account = '';

-- name: tenant
SELECT EXISTS (SELECT FROM tenants WHERE tenant_id = $1);

-- name: store
-- A repeat is counted, and writes nothing else: the first body stays.
INSERT INTO stripe_inbox AS i (tenant_id, event_id, type, account, livemode, created, object_id, payload, received_at, next_at)
VALUES ($1, $2, $3, $4, $5, meterd_time($6), $7, $8, meterd_time($9), meterd_time($10))
ON CONFLICT (tenant_id, event_id) DO UPDATE SET deliveries = i.deliveries + 1
RETURNING state;

-- name: take
-- The event, for the transaction that makes its effect.
SELECT event_id, state, payload, attempts FROM stripe_inbox WHERE tenant_id = $1 AND event_id = $2 FOR NO KEY UPDATE;

-- name: finish
-- In the transaction of the effect. A repeat sets the same.
UPDATE stripe_inbox SET state = 'done', effect = $3, error = '', attempts = attempts + 1, next_at = NULL, ended_at = meterd_time($4)
WHERE tenant_id = $1 AND event_id = $2;

-- name: fail
-- Counts an attempt; the last one buries the event. One that is no longer pending is left alone.
UPDATE stripe_inbox SET error = $3, attempts = attempts + 1,
    state = CASE WHEN attempts + 1 >= $4 THEN 'dead' ELSE 'pending' END,
    next_at = CASE WHEN attempts + 1 >= $4 THEN NULL ELSE meterd_time($5) END,
    ended_at = CASE WHEN attempts + 1 >= $4 THEN meterd_time($6) END
WHERE tenant_id = $1 AND event_id = $2 AND state = 'pending'
RETURNING state, attempts;

-- name: due
-- Events that wait, in the order of their time at Stripe.
SELECT event_id, attempts FROM stripe_inbox
WHERE tenant_id = $1 AND state = 'pending' AND next_at <= meterd_time($2) ORDER BY created, event_id LIMIT $3;

-- name: groups_of_customer
-- What is known of a customer, to be settled once it is known whose it is.
SELECT DISTINCT payment, subscription FROM stripe_objects
WHERE tenant_id = $1 AND customer = $2 AND (payment <> '' OR subscription <> '') ORDER BY payment, subscription;

-- name: reopen
-- A repeat sets the same. $3 and $4 are bounds of when it was received, $2 is one event or '', $5 the states to take up.
UPDATE stripe_inbox SET state = 'pending', attempts = 0, error = '', ended_at = NULL, next_at = meterd_time($6)
WHERE tenant_id = $1 AND ($2 = '' OR event_id = $2) AND received_at >= meterd_time($3) AND received_at < meterd_time($4)
    AND state = ANY ($5::text[]);

-- name: listed
SELECT event_id, type, state, attempts, deliveries, error, effect, object_id, meterd_ms(created) AS created_ms,
    meterd_ms(received_at) AS received_ms, coalesce(meterd_ms(ended_at), 0) AS ended_ms, coalesce(meterd_ms(next_at), 0) AS next_ms
FROM stripe_inbox
WHERE tenant_id = $1 AND ($2 = '' OR state = $2) AND ($3 = '' OR object_id = $3 OR event_id = $3)
    AND (received_at, event_id) < (meterd_time($4), $5)
ORDER BY received_at DESC, event_id DESC LIMIT $6;

-- name: backlog
SELECT count(*) FILTER (WHERE state = 'pending') AS pending, count(*) FILTER (WHERE state = 'dead') AS dead,
    coalesce(meterd_ms(min(received_at) FILTER (WHERE state = 'pending')), 0) AS oldest_ms
FROM stripe_inbox WHERE tenant_id = $1 AND state <> 'done';

-- name: object
SELECT kind, object_id, payment, subscription, invoice, customer, state
FROM stripe_objects WHERE tenant_id = $1 AND kind = $2 AND object_id = $3;

-- name: keep_object
-- The caller has merged what was known with what is new. A reference that is known stays; a session that has no payment stands for it.
INSERT INTO stripe_objects AS o (tenant_id, kind, object_id, payment, subscription, invoice, customer, state)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (tenant_id, kind, object_id) DO UPDATE SET
    payment = CASE WHEN o.payment IN ('', o.object_id) AND EXCLUDED.payment <> '' THEN EXCLUDED.payment ELSE o.payment END,
    subscription = CASE WHEN o.subscription = '' THEN EXCLUDED.subscription ELSE o.subscription END,
    invoice = CASE WHEN o.invoice = '' THEN EXCLUDED.invoice ELSE o.invoice END,
    customer = CASE WHEN o.customer = '' THEN EXCLUDED.customer ELSE o.customer END,
    state = EXCLUDED.state, changed_at = now();

-- name: of_payment
-- All that belongs to a payment; what names only its charge too.
SELECT kind, object_id, payment, subscription, invoice, customer, state FROM stripe_objects
WHERE tenant_id = $1 AND payment IN (
    SELECT $2 UNION SELECT c.object_id FROM stripe_objects AS c WHERE c.tenant_id = $1 AND c.kind = 'charge' AND c.payment = $2)
ORDER BY kind, object_id;

-- name: of_subscription
-- All that belongs to a subscription, with what paid its invoices.
WITH own AS (SELECT * FROM stripe_objects WHERE tenant_id = $1 AND subscription = $2),
paid AS (
    SELECT p.* FROM stripe_objects AS p JOIN own AS i ON i.kind = 'invoice' AND p.tenant_id = i.tenant_id AND p.invoice = i.object_id
    WHERE p.kind <> 'invoice')
SELECT kind, object_id, payment, subscription, invoice, customer, state FROM own
UNION
SELECT kind, object_id, payment, subscription, invoice, customer, state FROM paid
UNION
SELECT r.kind, r.object_id, r.payment, r.subscription, r.invoice, r.customer, r.state
FROM paid AS p JOIN stripe_objects AS r ON r.tenant_id = p.tenant_id AND r.payment = p.payment AND r.payment <> ''
UNION
SELECT r.kind, r.object_id, p.payment, r.subscription, r.invoice, r.customer, r.state
FROM paid AS p JOIN stripe_objects AS c ON c.tenant_id = p.tenant_id AND c.kind = 'charge' AND c.payment = p.payment AND c.payment <> ''
JOIN stripe_objects AS r ON r.tenant_id = c.tenant_id AND r.payment = c.object_id AND r.payment <> p.payment
ORDER BY kind, object_id;

-- name: subscription_of_invoice
SELECT subscription FROM stripe_objects WHERE tenant_id = $1 AND kind = 'invoice' AND object_id = $2;

-- name: payment_of_charge
SELECT payment FROM stripe_objects WHERE tenant_id = $1 AND kind = 'charge' AND object_id = $2;

-- name: account_of_customer
SELECT a.account_id FROM stripe_customers AS c JOIN accounts AS a USING (account_no) WHERE c.tenant_id = $1 AND c.customer_id = $2;

-- name: keep_customer
-- A customer is one account's, for ever. A repeat finds it there.
INSERT INTO stripe_customers (tenant_id, customer_id, account_no)
SELECT a.tenant_id, $2, a.account_no FROM accounts AS a WHERE a.tenant_id = $1 AND a.account_id = $3
ON CONFLICT (tenant_id, customer_id) DO NOTHING;

-- name: delete_customer
-- A repeat sets the same.
UPDATE stripe_customers SET deleted = true WHERE tenant_id = $1 AND customer_id = $2;

-- name: live_others
-- The other subscriptions that the account pays through Stripe, the latest first.
SELECT s.object_id FROM stripe_objects AS s
WHERE s.tenant_id = $1 AND s.kind = 'subscription' AND s.object_id <> $3
    AND coalesce((s.state #>> '{now,1,ended_s}')::bigint, 0) = 0
    AND s.object_id IN (
        SELECT i.subscription FROM stripe_effects AS e
        JOIN stripe_objects AS i ON i.tenant_id = e.tenant_id AND i.kind = 'invoice' AND i.object_id = e.object
        WHERE e.tenant_id = $1 AND e.account_no = $2)
ORDER BY coalesce((s.state #>> '{created_s,1}')::bigint, 0) DESC, s.object_id DESC;

-- name: effects_of
SELECT object, part, step, kind, wallet, amount, done_id FROM stripe_effects
WHERE tenant_id = $1 AND object = ANY ($2::text[]) ORDER BY object, part, step;

-- name: add_effect
-- Its key stops a step from being made twice.
INSERT INTO stripe_effects (tenant_id, object, part, step, account_no, kind, wallet, amount, done_id, event_id, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, meterd_time($11));

-- name: open_freezes
-- Disputes for which the account was frozen and not thawed.
SELECT count(*) FROM stripe_effects AS f
WHERE f.account_no = $1 AND f.kind = 'freeze' AND NOT EXISTS (
    SELECT FROM stripe_effects AS t WHERE t.tenant_id = f.tenant_id AND t.object = f.object AND t.kind = 'thaw');

-- name: catalog_with
-- The newest catalog that sells at a price of Stripe's: subscribers keep a price that is no longer offered.
SELECT tenant_id, catalog_no, version, document, meterd_ms(applied_at) AS applied_ms, applied_by FROM catalogs
WHERE tenant_id = $1 AND position('"' || $2 || '"' IN document::text) > 0 ORDER BY catalog_no DESC LIMIT 1;

-- name: latest_catalog
SELECT tenant_id, catalog_no, version, document, meterd_ms(applied_at) AS applied_ms, applied_by FROM catalogs
WHERE tenant_id = $1 ORDER BY catalog_no DESC LIMIT 1;

-- name: set_due
-- A repeat sets the same.
INSERT INTO stripe_due (tenant_id, subscription, due_at) VALUES ($1, $2, meterd_time($3))
ON CONFLICT (tenant_id, subscription) DO UPDATE SET due_at = EXCLUDED.due_at;

-- name: clear_due
DELETE FROM stripe_due WHERE tenant_id = $1 AND subscription = $2;

-- name: due_subscriptions
SELECT subscription FROM stripe_due WHERE tenant_id = $1 AND due_at <= meterd_time($2) ORDER BY due_at LIMIT $3;
