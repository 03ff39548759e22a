-- 2. Catalogs, plans, rewards, limits.

-- Every catalog that a tenant ever applied; the one with the highest number is in force. Subscribers may hold on to an older one's prices.
CREATE TABLE catalogs (
    tenant_id text NOT NULL REFERENCES tenants,
    -- From 1 without gaps, in the order in which they came into force.
    catalog_no integer NOT NULL CHECK (catalog_no > 0),
    -- Names the content; a tenant that goes back to an older content has it twice.
    version text NOT NULL,
    document jsonb NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    applied_by text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, catalog_no)
);

CREATE TRIGGER catalogs_append_only BEFORE UPDATE OR DELETE ON catalogs
    FOR EACH ROW EXECUTE FUNCTION meterd_refuse_change();
CREATE TRIGGER catalogs_keep BEFORE TRUNCATE ON catalogs
    FOR EACH STATEMENT EXECUTE FUNCTION meterd_refuse_change();

-- Servers listen, and read what is new.
CREATE FUNCTION meterd_tell_catalog() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('meterd_catalog', NEW.tenant_id);
    RETURN NULL;
END
$$;

CREATE TRIGGER catalogs_tell AFTER INSERT ON catalogs
    FOR EACH ROW EXECUTE FUNCTION meterd_tell_catalog();

-- An account's plan, on the terms that it has. Ended ones stay.
CREATE TABLE subscriptions (
    tenant_id text NOT NULL REFERENCES tenants,
    subscription_id uuid NOT NULL,
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    plan_id text NOT NULL,
    -- The plan of core.catalog as the account has it; next_plan is that of the period whose allowances were granted ahead.
    plan jsonb NOT NULL,
    next_plan jsonb,
    status text NOT NULL CHECK (status IN ('trial', 'active', 'past_due', 'canceled')),
    started_at timestamptz NOT NULL,
    -- Periods are counted from here: the end of the trial, or the start.
    anchor timestamptz NOT NULL,
    -- The trial is period 0.
    period_no integer NOT NULL CHECK (period_no >= 0),
    period_start timestamptz NOT NULL,
    period_end timestamptz NOT NULL CHECK (period_end > period_start),
    -- The last period whose allowances were granted, and how often some that were granted ahead were taken back.
    granted_no integer NOT NULL,
    withdrawals integer NOT NULL DEFAULT 0,
    -- Until then the catalog's changes do not concern the account.
    terms_until timestamptz NOT NULL,
    cancel_at_period_end boolean NOT NULL DEFAULT false,
    canceled_at timestamptz,
    -- When there is something to do; NULL: nothing, until somebody changes the subscription.
    due_at timestamptz,
    source_id text NOT NULL DEFAULT '',
    idempotency_key text NOT NULL,
    request_digest bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, subscription_id),
    UNIQUE (tenant_id, idempotency_key),
    CHECK ((status = 'canceled') = (canceled_at IS NOT NULL))
);
-- An account is on one plan at a time.
CREATE UNIQUE INDEX subscriptions_live ON subscriptions (account_no) WHERE status <> 'canceled';
CREATE INDEX subscriptions_account ON subscriptions (account_no, started_at);
CREATE INDEX subscriptions_due ON subscriptions (due_at) WHERE due_at IS NOT NULL;

-- One row a reward that an account had; occasion tells those apart that may be had several times: the day, or who was referred.
CREATE TABLE reward_claims (
    tenant_id text NOT NULL REFERENCES tenants,
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    reward_id text NOT NULL,
    occasion text NOT NULL,
    grant_id uuid NOT NULL,
    claimed_at timestamptz NOT NULL,
    PRIMARY KEY (account_no, reward_id, occasion),
    FOREIGN KEY (tenant_id, grant_id) REFERENCES grants
);

CREATE TABLE claw_backs (
    tenant_id text NOT NULL REFERENCES tenants,
    claw_back_id uuid NOT NULL,
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    wallet text NOT NULL,
    amount_micros bigint NOT NULL CHECK (amount_micros BETWEEN 1 AND 9007199254740991),
    reason text NOT NULL DEFAULT '',
    idempotency_key text NOT NULL,
    request_digest bytea NOT NULL,
    change_no bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, claw_back_id),
    UNIQUE (tenant_id, idempotency_key)
);

-- What subjects of an account may use at most. The hot path has a copy; what was counted is in Redis.
CREATE TABLE limits (
    tenant_id text NOT NULL REFERENCES tenants,
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    limit_id text NOT NULL CHECK (octet_length(limit_id) BETWEEN 1 AND 128),
    -- Names the counters: the number of the change with which the count began. Never used again.
    limit_no bigint NOT NULL,
    -- The numbers of core.limits.
    subject smallint NOT NULL CHECK (subject BETWEEN 1 AND 6),
    value text NOT NULL CHECK (octet_length(value) <= 128),
    metric smallint NOT NULL CHECK (metric BETWEEN 1 AND 5),
    span smallint NOT NULL CHECK (span BETWEEN 1 AND 11),
    cap bigint NOT NULL CHECK (cap BETWEEN 0 AND 9007199254740991),
    observe boolean NOT NULL,
    -- The plan's period and where it is counted from, as the hot path was told last; for limits by period only.
    period text NOT NULL DEFAULT 'calendar_month',
    anchor timestamptz NOT NULL DEFAULT 'epoch',
    counts_from timestamptz NOT NULL,
    -- Whether the limit came from the tenant's catalog. An account's own one of the same id stands in its place.
    from_catalog boolean NOT NULL DEFAULT false,
    PRIMARY KEY (account_no, limit_id)
);
