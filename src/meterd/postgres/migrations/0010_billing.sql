-- migrate:up

-- What was asked to be sold, and what became of it. `purchases` has the money that came in, a row that is never changed for each payment;
-- an order is there before any money, and names its payment once there is one.
CREATE TABLE orders (
    tenant_id text NOT NULL REFERENCES tenants,
    order_id uuid NOT NULL,
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    idempotency_key text NOT NULL CHECK (octet_length(idempotency_key) BETWEEN 1 AND 128),
    request_digest bytea NOT NULL,
    kind text NOT NULL CHECK (kind IN ('package', 'subscription')),
    -- What the customer pays through.
    channel text NOT NULL CHECK (channel IN ('checkout', 'payment_intent', 'top_up')),
    -- Package or plan, as the catalog had it then: a price that changes later is not this order's.
    product_id text NOT NULL CHECK (octet_length(product_id) BETWEEN 1 AND 128),
    name text NOT NULL,
    wallet text NOT NULL,
    amount_micros bigint NOT NULL CHECK (amount_micros BETWEEN 0 AND 9007199254740991),
    bonus_micros bigint NOT NULL CHECK (bonus_micros BETWEEN 0 AND 9007199254740991),
    -- In the currency's minor unit, as Stripe counts.
    price_units bigint NOT NULL CHECK (price_units >= 0),
    currency text NOT NULL CHECK (currency ~ '^[a-z]{3}$'),
    stripe_price text NOT NULL DEFAULT '',
    trial_days integer NOT NULL DEFAULT 0 CHECK (trial_days >= 0),
    -- What else every repeat of the call to Stripe has to say in the same words.
    parameters jsonb NOT NULL DEFAULT '{}',
    livemode boolean NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'failed', 'cancelled', 'completed', 'refunded')),
    failure text NOT NULL DEFAULT '' CHECK (octet_length(failure) <= 255),
    -- The sum of all refunds.
    refunded_units bigint NOT NULL DEFAULT 0 CHECK (refunded_units BETWEEN 0 AND price_units),
    stripe_customer text NOT NULL DEFAULT '',
    stripe_session text NOT NULL DEFAULT '',
    stripe_payment_intent text NOT NULL DEFAULT '',
    stripe_subscription text NOT NULL DEFAULT '',
    -- The row of `purchases` that paid it.
    payment_id text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, order_id),
    UNIQUE (tenant_id, idempotency_key)
);
CREATE INDEX orders_account ON orders (account_no, created_at);
CREATE INDEX orders_created ON orders (tenant_id, created_at);
-- Ids of Stripe are unique among its accounts too, but meterd does not rely on it.
CREATE UNIQUE INDEX orders_session ON orders (tenant_id, stripe_session) WHERE stripe_session <> '';
CREATE UNIQUE INDEX orders_payment_intent ON orders (tenant_id, stripe_payment_intent) WHERE stripe_payment_intent <> '';
CREATE UNIQUE INDEX orders_payment ON orders (tenant_id, payment_id) WHERE payment_id <> '';

ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE orders FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON orders TO meterd_app
    USING (tenant_id = NULLIF(current_setting('app.tenant', true), ''))
    WITH CHECK (tenant_id = NULLIF(current_setting('app.tenant', true), ''));
CREATE POLICY worker_rows ON orders TO meterd_worker USING (true) WITH CHECK (true);
CREATE POLICY owner_rows ON orders TO CURRENT_USER USING (true) WITH CHECK (true);

GRANT SELECT, INSERT, UPDATE ON orders TO meterd_app, meterd_worker;

-- migrate:down

DROP TABLE orders;
