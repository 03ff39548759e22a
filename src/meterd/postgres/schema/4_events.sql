-- 4. Events and the webhooks that tell them.

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

-- What the ledger says that is used of limits, to tell of it. The hot path counts for itself, and decides.
CREATE TABLE limit_uses (
    tenant_id text NOT NULL REFERENCES tenants,
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    limit_no bigint NOT NULL,
    value text NOT NULL,
    -- For limits by operation, otherwise empty.
    operation text NOT NULL,
    -- As in core.limits: the window's start or slot, and what was used in it.
    at bigint NOT NULL,
    used bigint[] NOT NULL,
    -- The cap that the levels below are of.
    cap bigint NOT NULL,
    -- The highest level (percent) that was told since the use was below it last; 0: none.
    told smallint NOT NULL,
    -- When it counts no more; NULL: never.
    ends_at timestamptz,
    PRIMARY KEY (account_no, limit_no, value, operation)
) WITH (fillfactor = 70);
CREATE INDEX limit_uses_ended ON limit_uses (ends_at) WHERE ends_at IS NOT NULL;

-- What is asked for when a wallet falls to its threshold. A row stays when the setting is deleted, for what was asked for in its month.
CREATE TABLE top_ups (
    tenant_id text NOT NULL REFERENCES tenants,
    account_no bigint PRIMARY KEY REFERENCES accounts (account_no),
    active boolean NOT NULL,
    package_id text NOT NULL CHECK (octet_length(package_id) BETWEEN 1 AND 128),
    -- The package's.
    wallet text NOT NULL,
    threshold_micros bigint NOT NULL CHECK (threshold_micros BETWEEN 0 AND 9007199254740991),
    per_month_max integer NOT NULL CHECK (per_month_max BETWEEN 1 AND 1000),
    -- Whether the next fall is to be told: the wallet was above since the last one, or the month's requests were used up then.
    armed boolean NOT NULL DEFAULT true,
    -- The first day of the month, UTC, that the requests are of.
    month date NOT NULL,
    requested integer NOT NULL DEFAULT 0
);
