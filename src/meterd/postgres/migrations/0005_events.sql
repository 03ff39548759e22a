-- migrate:up

-- Credits at or below which a wallet is told of as low: the account's own, else its tenant's, else none.
ALTER TABLE tenants ADD COLUMN low_balance_micros bigint CHECK (low_balance_micros BETWEEN 0 AND 9007199254740991);
ALTER TABLE accounts ADD COLUMN low_balance_micros bigint CHECK (low_balance_micros BETWEEN 0 AND 9007199254740991);
-- Whether it was told, or needs not to be, that the grant expires soon.
ALTER TABLE grants ADD COLUMN expiring_told boolean NOT NULL DEFAULT false;
CREATE INDEX grants_expiring ON grants (expires_at) WHERE expires_at IS NOT NULL AND NOT expiring_told;

-- What is told to the outside. Rows are written in the transaction of what they tell of.
CREATE TABLE events (
    -- UUIDv7; also the webhook-id, by which a receiver knows a repeat.
    event_id uuid PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants,
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    type text NOT NULL CHECK (octet_length(type) BETWEEN 1 AND 64),
    -- The wallet, hold, grant or limit that it happened to.
    subject text NOT NULL,
    -- Names the crossing: a second event of it is refused.
    once text NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (account_no, type, once)
);
CREATE INDEX events_tenant ON events (tenant_id, event_id);
CREATE INDEX events_account ON events (account_no, event_id);
CREATE INDEX events_created ON events (created_at);

-- A wallet's thresholds: armed while it is above, so that the next fall is told once.
CREATE TABLE wallet_alerts (
    tenant_id text NOT NULL REFERENCES tenants,
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    wallet text NOT NULL,
    low_armed boolean NOT NULL,
    exhausted_armed boolean NOT NULL,
    PRIMARY KEY (account_no, wallet)
) WITH (fillfactor = 70);

CREATE TABLE webhook_endpoints (
    tenant_id text NOT NULL REFERENCES tenants,
    endpoint_id uuid PRIMARY KEY,
    idempotency_key text NOT NULL,
    request_digest bytea NOT NULL,
    url text NOT NULL CHECK (octet_length(url) BETWEEN 1 AND 2048),
    -- Empty: all.
    types text[] NOT NULL,
    -- Signatures need the secrets themselves. The old one signs too until old_secret_until.
    secret bytea NOT NULL,
    old_secret bytea,
    old_secret_until timestamptz,
    created_at timestamptz NOT NULL,
    -- It answered 410 Gone.
    disabled_at timestamptz,
    deleted_at timestamptz,
    UNIQUE (tenant_id, idempotency_key)
);

CREATE TABLE webhook_deliveries (
    event_id uuid NOT NULL REFERENCES events ON DELETE CASCADE,
    endpoint_id uuid NOT NULL REFERENCES webhook_endpoints,
    tenant_id text NOT NULL REFERENCES tenants,
    attempts integer NOT NULL DEFAULT 0,
    -- Since when it is tried; a replay begins anew.
    queued_at timestamptz NOT NULL,
    -- NULL once it is delivered or dead.
    next_at timestamptz,
    -- A server is at it until then; if it dies, another goes on.
    claimed_until timestamptz,
    delivered_at timestamptz,
    dead_at timestamptz,
    -- 0: no answer.
    last_status integer NOT NULL DEFAULT 0,
    last_error text NOT NULL DEFAULT '',
    PRIMARY KEY (event_id, endpoint_id)
) WITH (fillfactor = 70);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, next_at) WHERE next_at IS NOT NULL;
CREATE INDEX webhook_deliveries_endpoint ON webhook_deliveries (endpoint_id, event_id);

DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['events', 'wallet_alerts', 'webhook_endpoints', 'webhook_deliveries'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', table_name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', table_name);
        EXECUTE format('CREATE POLICY tenant_rows ON %I TO meterd_app
                        USING (tenant_id = NULLIF(current_setting(''app.tenant'', true), ''''))
                        WITH CHECK (tenant_id = NULLIF(current_setting(''app.tenant'', true), ''''))', table_name);
        EXECUTE format('CREATE POLICY worker_rows ON %I TO meterd_worker USING (true) WITH CHECK (true)', table_name);
        EXECUTE format('CREATE POLICY owner_rows ON %I TO CURRENT_USER USING (true) WITH CHECK (true)', table_name);
    END LOOP;
END
$$;

GRANT SELECT ON events, webhook_endpoints, webhook_deliveries TO meterd_app;
GRANT INSERT, UPDATE ON webhook_endpoints, webhook_deliveries TO meterd_app;
GRANT UPDATE (low_balance_micros) ON tenants, accounts TO meterd_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON events, wallet_alerts, webhook_endpoints, webhook_deliveries TO meterd_worker;

-- migrate:down

DROP TABLE webhook_deliveries, webhook_endpoints, wallet_alerts, events;
DROP INDEX grants_expiring;
ALTER TABLE grants DROP COLUMN expiring_told;
ALTER TABLE accounts DROP COLUMN low_balance_micros;
ALTER TABLE tenants DROP COLUMN low_balance_micros;
