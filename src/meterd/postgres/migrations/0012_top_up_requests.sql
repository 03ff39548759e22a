-- migrate:up

-- Since when the Stripe process buys what topup.requested asks for; NULL: it does not.
ALTER TABLE stripe_tenants ADD COLUMN top_ups_since timestamptz;

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

ALTER TABLE top_up_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE top_up_requests FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON top_up_requests TO meterd_app
    USING (tenant_id = NULLIF(current_setting('app.tenant', true), ''))
    WITH CHECK (tenant_id = NULLIF(current_setting('app.tenant', true), ''));
CREATE POLICY worker_rows ON top_up_requests TO meterd_worker USING (true) WITH CHECK (true);
CREATE POLICY owner_rows ON top_up_requests TO CURRENT_USER USING (true) WITH CHECK (true);

GRANT UPDATE (top_ups_since) ON stripe_tenants TO meterd_app, meterd_worker;
GRANT SELECT, INSERT, UPDATE ON top_up_requests TO meterd_app, meterd_worker;

-- migrate:down

DROP TABLE top_up_requests;
ALTER TABLE stripe_tenants DROP COLUMN top_ups_since;
