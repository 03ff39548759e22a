-- 5. Money in: what Stripe told, what was done for it, and what was asked to be sold.

-- Whose money a Stripe process handles: a tenant is of test mode or of live mode for ever.
CREATE TABLE stripe_tenants (
    tenant_id text PRIMARY KEY REFERENCES tenants,
    livemode boolean NOT NULL,
    -- The connected account whose events the tenant's are; '' where the endpoint belongs to the account itself.
    stripe_account text NOT NULL DEFAULT '',
    bound_at timestamptz NOT NULL DEFAULT now(),
    -- Since when the Stripe process buys what topup.requested asks for; NULL: it does not.
    top_ups_since timestamptz
);

-- Every event that was verified, before anything is done about it.
CREATE TABLE stripe_inbox (
    tenant_id text NOT NULL REFERENCES tenants,
    event_id text NOT NULL CHECK (octet_length(event_id) BETWEEN 1 AND 255),
    type text NOT NULL CHECK (octet_length(type) BETWEEN 1 AND 128),
    account text NOT NULL DEFAULT '',
    livemode boolean NOT NULL,
    -- Stripe's time of it, in whole seconds.
    created timestamptz NOT NULL,
    -- The object that it is about.
    object_id text NOT NULL DEFAULT '',
    -- The body as it was signed.
    payload bytea NOT NULL,
    received_at timestamptz NOT NULL,
    deliveries integer NOT NULL DEFAULT 1,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'done', 'dead')),
    attempts integer NOT NULL DEFAULT 0,
    -- When it is tried again by itself; NULL once it is done or dead.
    next_at timestamptz,
    error text NOT NULL DEFAULT '',
    -- What it did, in words.
    effect text NOT NULL DEFAULT '',
    ended_at timestamptz,
    PRIMARY KEY (tenant_id, event_id),
    CHECK ((state = 'pending') = (next_at IS NOT NULL)),
    CHECK ((state = 'pending') = (ended_at IS NULL))
);
CREATE INDEX stripe_inbox_due ON stripe_inbox (tenant_id, next_at) WHERE state = 'pending';
CREATE INDEX stripe_inbox_dead ON stripe_inbox (tenant_id, received_at) WHERE state = 'dead';
CREATE INDEX stripe_inbox_received ON stripe_inbox (tenant_id, received_at);

-- The newest that is known of each economic object. A field is [rank, value], and the highest rank stays: the order of events is no matter.
CREATE TABLE stripe_objects (
    tenant_id text NOT NULL REFERENCES tenants,
    kind text NOT NULL CHECK (kind IN ('session', 'payment', 'charge', 'refund', 'dispute', 'invoice', 'subscription', 'customer')),
    object_id text NOT NULL CHECK (octet_length(object_id) BETWEEN 1 AND 255),
    -- What it belongs to: a payment intent (or a charge, or a session, that has none), a subscription, an invoice, a customer.
    payment text NOT NULL DEFAULT '',
    subscription text NOT NULL DEFAULT '',
    invoice text NOT NULL DEFAULT '',
    customer text NOT NULL DEFAULT '',
    state jsonb NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, kind, object_id)
);
CREATE INDEX stripe_objects_payment ON stripe_objects (tenant_id, payment) WHERE payment <> '';
CREATE INDEX stripe_objects_subscription ON stripe_objects (tenant_id, subscription) WHERE subscription <> '';
CREATE INDEX stripe_objects_invoice ON stripe_objects (tenant_id, invoice) WHERE invoice <> '';
CREATE INDEX stripe_objects_customer ON stripe_objects (tenant_id, customer) WHERE customer <> '';

-- Whose customer is whose account. An account may have had several; the last one that is not deleted is in use.
CREATE TABLE stripe_customers (
    tenant_id text NOT NULL REFERENCES tenants,
    customer_id text NOT NULL CHECK (octet_length(customer_id) BETWEEN 1 AND 255),
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    deleted boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, customer_id)
);
CREATE INDEX stripe_customers_account ON stripe_customers (account_no, created_at);

-- What was done for an economic object, one row a step: amounts add up to what the object's state asks for.
CREATE TABLE stripe_effects (
    tenant_id text NOT NULL REFERENCES tenants,
    -- The object (payment, or invoice with wallet and time), its part, and the number of the step.
    object text NOT NULL,
    part text NOT NULL,
    step integer NOT NULL CHECK (step > 0),
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    kind text NOT NULL CHECK (kind IN ('grant', 'claw_back', 'revoke', 'freeze', 'thaw', 'money')),
    wallet text NOT NULL DEFAULT '',
    -- Of a claw-back below 0; of money in the currency's minor unit.
    amount bigint NOT NULL DEFAULT 0,
    -- The grant, claw-back or revocation.
    done_id uuid,
    -- What brought it about; '' is time.
    event_id text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, object, part, step)
);
CREATE INDEX stripe_effects_account ON stripe_effects (account_no, created_at);

-- Subscriptions whose paid time has a part that begins later.
CREATE TABLE stripe_due (
    tenant_id text NOT NULL REFERENCES tenants,
    subscription text NOT NULL,
    due_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, subscription)
);
CREATE INDEX stripe_due_at ON stripe_due (tenant_id, due_at);

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

-- Requests of top-ups that were taken up, and what became of them.
CREATE TABLE top_up_requests (
    tenant_id text NOT NULL REFERENCES tenants,
    -- That of the event topup.requested.
    request_id text NOT NULL,
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    package_id text NOT NULL,
    requested_at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'done', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    -- When it is tried again; NULL once it is done or failed.
    next_at timestamptz,
    error text NOT NULL DEFAULT '',
    -- What was ordered for it; the order has what became of the payment.
    order_id uuid,
    ended_at timestamptz,
    PRIMARY KEY (tenant_id, request_id),
    CHECK ((state = 'pending') = (next_at IS NOT NULL)),
    CHECK ((state = 'pending') = (ended_at IS NULL))
);
CREATE INDEX top_up_requests_due ON top_up_requests (tenant_id, next_at) WHERE state = 'pending';
