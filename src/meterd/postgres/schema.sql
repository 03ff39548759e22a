-- The schema as it stands after the last migration, for reading. A test holds it against the sum of the migrations.
-- Names are unqualified: they land in the first schema of the connection's search_path.

-- Roles are shared by all databases of a cluster: another database's migration may have made them already, or may be making them now.
-- meterd_app sees one tenant, the one that the transaction names in app.tenant; meterd_worker sees all of them.
DO $$
DECLARE
    role_name text;
    may_set boolean;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['meterd_app', 'meterd_worker'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS', role_name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
        -- Since 16, who creates a role may administer it but not become it.
        IF current_setting('server_version_num')::int >= 160000 THEN
            EXECUTE 'SELECT pg_has_role(current_user, $1, ''SET'')' INTO may_set USING role_name;
        ELSE
            may_set := pg_has_role(current_user, role_name, 'MEMBER');
        END IF;
        IF NOT may_set THEN
            BEGIN
                EXECUTE format('GRANT %I TO CURRENT_USER', role_name);
            EXCEPTION
                WHEN unique_violation THEN
                    NULL;
                WHEN insufficient_privilege THEN
                    RAISE EXCEPTION 'role % exists, but % may not use it', role_name, current_user
                        USING ERRCODE = 'insufficient_privilege',
                              HINT = format('Run as an administrator: GRANT %I TO %I', role_name, current_user);
            END;
        END IF;
    END LOOP;
END
$$;

-- The one rounding of milliseconds to a timestamp, so that the ledger's key is the same wherever it is computed.
CREATE FUNCTION meterd_time(ms bigint) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN to_timestamp(ms / 1000.0::float8);

CREATE FUNCTION meterd_ms(at timestamptz) RETURNS bigint
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN round(extract(epoch FROM at) * 1000)::bigint;

-- The time in the first 48 bits of a UUIDv7; some fixed time for other UUIDs.
CREATE FUNCTION meterd_uuid_time(id uuid) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN meterd_time(('x' || lpad(left(replace(id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint);

CREATE FUNCTION meterd_refuse_change() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: its rows are never changed', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TABLE installation (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- Accounts hash into this many partitions for ever.
    partitions integer NOT NULL CHECK (partitions BETWEEN 1 AND 16384),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION meterd_keep_partitions() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.partitions <> OLD.partitions THEN
        RAISE EXCEPTION 'the number of partitions is fixed at %', OLD.partitions USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER installation_keep_partitions BEFORE UPDATE ON installation
    FOR EACH ROW EXECUTE FUNCTION meterd_keep_partitions();
CREATE TRIGGER installation_keep_row BEFORE DELETE ON installation
    FOR EACH ROW EXECUTE FUNCTION meterd_refuse_change();

CREATE TABLE tenants (
    tenant_id text PRIMARY KEY CHECK (octet_length(tenant_id) BETWEEN 1 AND 128),
    name text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Credits at or below which a wallet is told of as low; NULL: none.
    low_balance_micros bigint CHECK (low_balance_micros BETWEEN 0 AND 9007199254740991)
);

CREATE TABLE api_keys (
    tenant_id text NOT NULL REFERENCES tenants,
    key_id text NOT NULL,
    role text NOT NULL CHECK (role IN ('meter', 'read', 'admin')),
    -- SHA-256 of the key; the key itself is never stored.
    digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    name text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    PRIMARY KEY (tenant_id, key_id)
);

CREATE TABLE accounts (
    tenant_id text NOT NULL REFERENCES tenants,
    account_id text NOT NULL CHECK (octet_length(account_id) BETWEEN 1 AND 128),
    account_no bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    address text NOT NULL UNIQUE CHECK (length(address) = 22),
    partition integer NOT NULL,
    -- Written by the catalog only.
    overage_policy smallint NOT NULL CHECK (overage_policy BETWEEN 1 AND 3),
    overdraft_limit_micros bigint NOT NULL DEFAULT 0 CHECK (overdraft_limit_micros BETWEEN 0 AND 9007199254740991),
    strict_expiry boolean NOT NULL DEFAULT false,
    frozen boolean NOT NULL DEFAULT false,
    -- What the account was created with; a repeated creation is compared with it.
    request_digest bytea NOT NULL,
    -- Changes numbered so far.
    change_no bigint NOT NULL DEFAULT 0,
    -- Sum of all grants, applied or not.
    promised_micros bigint NOT NULL DEFAULT 0 CHECK (promised_micros BETWEEN 0 AND 9007199254740991),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Written by the flusher only: the fold of the account's ledger records.
    epoch bigint NOT NULL DEFAULT 0,
    last_seq bigint NOT NULL DEFAULT 0,
    last_txn text NOT NULL DEFAULT '',
    applied_change_no bigint NOT NULL DEFAULT 0,
    granted_micros bigint NOT NULL DEFAULT 0,
    spent_micros bigint NOT NULL DEFAULT 0,
    expired_micros bigint NOT NULL DEFAULT 0,
    revoked_micros bigint NOT NULL DEFAULT 0,
    held_micros bigint NOT NULL DEFAULT 0,
    -- An entry of this account could not be written; the later ones wait in outbox_dead.
    parked boolean NOT NULL DEFAULT false,
    -- What the account's plan changes in the hot path; as the subscription and its catalog left it last.
    plan_until timestamptz,
    plan_unlimited boolean NOT NULL DEFAULT false,
    plan_actions_per_day bigint NOT NULL DEFAULT 0 CHECK (plan_actions_per_day BETWEEN 0 AND 9007199254740991),
    plan_blocked_wallets text[] NOT NULL DEFAULT '{}',
    -- As the tenant's; NULL: the tenant's.
    low_balance_micros bigint CHECK (low_balance_micros BETWEEN 0 AND 9007199254740991),
    PRIMARY KEY (tenant_id, account_id)
) WITH (fillfactor = 70);

CREATE TABLE wallets (
    tenant_id text NOT NULL,
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    wallet text NOT NULL,
    -- As after the wallet's last record.
    debt_micros bigint NOT NULL DEFAULT 0,
    held_micros bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (account_no, wallet)
) WITH (fillfactor = 70);

CREATE TABLE grants (
    tenant_id text NOT NULL REFERENCES tenants,
    grant_id uuid NOT NULL,
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    wallet text NOT NULL,
    category smallint NOT NULL CHECK (category BETWEEN 1 AND 7),
    priority smallint NOT NULL CHECK (priority BETWEEN -1000 AND 1000),
    amount_micros bigint NOT NULL CHECK (amount_micros BETWEEN 1 AND 9007199254740991),
    effective_at timestamptz NOT NULL,
    expires_at timestamptz CHECK (expires_at > effective_at),
    source_id text NOT NULL DEFAULT '',
    idempotency_key text NOT NULL,
    -- Over what the caller sent.
    request_digest bytea NOT NULL,
    change_no bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Written by the flusher only.
    spent_micros bigint NOT NULL DEFAULT 0,
    expired_micros bigint NOT NULL DEFAULT 0,
    revoked_micros bigint NOT NULL DEFAULT 0,
    revoked boolean NOT NULL DEFAULT false,
    applied_at timestamptz,
    -- Whether it was told, or needs not to be, that the grant expires soon.
    expiring_told boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, grant_id),
    UNIQUE (tenant_id, idempotency_key)
) WITH (fillfactor = 70);
CREATE INDEX grants_account ON grants (account_no, wallet);
CREATE INDEX grants_expiring ON grants (expires_at) WHERE expires_at IS NOT NULL AND NOT expiring_told;

CREATE TABLE revocations (
    tenant_id text NOT NULL REFERENCES tenants,
    revocation_id uuid NOT NULL,
    grant_id uuid NOT NULL,
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    reason text NOT NULL DEFAULT '',
    idempotency_key text NOT NULL,
    request_digest bytea NOT NULL,
    change_no bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, revocation_id),
    UNIQUE (tenant_id, idempotency_key),
    FOREIGN KEY (tenant_id, grant_id) REFERENCES grants
);
CREATE INDEX revocations_grant ON revocations (tenant_id, grant_id);

-- What was decided in Postgres and has to reach Redis, numbered per account.
CREATE TABLE account_changes (
    tenant_id text NOT NULL REFERENCES tenants,
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    change_no bigint NOT NULL CHECK (change_no > 0),
    kind text NOT NULL CHECK (kind IN ('G', 'V', 'S', 'B')),
    -- The grant, revocation or settings change.
    change_id uuid NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Set by the flusher when the change's ledger record is written.
    applied_at timestamptz,
    PRIMARY KEY (account_no, change_no)
) WITH (fillfactor = 80);
CREATE INDEX account_changes_pending ON account_changes (account_no, change_no) WHERE applied_at IS NULL;

-- One row per ledger record. txn_at is the time inside txn, so that (account_no, kind, txn) is unique although the table is partitioned.
CREATE TABLE ledger (
    account_no bigint NOT NULL,
    tenant_id text NOT NULL,
    txn_at timestamptz NOT NULL,
    kind text NOT NULL CHECK (kind IN ('C', 'L', 'R', 'E', 'H', 'G', 'V', 'X', 'S', 'B')),
    txn uuid NOT NULL,
    prev_txn text NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL CHECK (seq > 0),
    recorded_at timestamptz NOT NULL,
    -- Of the row; the outbox entry that it came from.
    flushed_at timestamptz NOT NULL DEFAULT now(),
    partition integer NOT NULL,
    entry_id text NOT NULL,
    wallet text NOT NULL,
    held_before_micros bigint NOT NULL,
    granted_micros bigint NOT NULL,
    charged_micros bigint NOT NULL,
    returned_micros bigint NOT NULL,
    uncollected_micros bigint NOT NULL,
    expired_micros bigint NOT NULL,
    revoked_micros bigint NOT NULL,
    -- By grant, each "32 hex digits:micros".
    drawn text[] NOT NULL,
    expired text[] NOT NULL,
    revoked text[] NOT NULL,
    balance_after_micros bigint NOT NULL,
    debt_after_micros bigint NOT NULL,
    wallet_held_after_micros bigint NOT NULL,
    held_after_micros bigint NOT NULL,
    change_no bigint NOT NULL,
    overage smallint NOT NULL,
    -- From terms: who acted on what, and the price book.
    subject_user text,
    subject_team text,
    subject_key text,
    operation_id text,
    item text,
    price_version text,
    -- From detail, or from terms where detail has none.
    model text,
    usage_state smallint NOT NULL,
    cost_usd numeric,
    terms jsonb,
    detail jsonb,
    request_digest bytea NOT NULL,
    -- SHA-256 of the outbox entry, first 16 bytes: the same key with another digest is another record, and is quarantined.
    digest bytea NOT NULL,
    PRIMARY KEY (account_no, kind, txn, txn_at)
) PARTITION BY RANGE (txn_at);
-- An account's history in order.
CREATE INDEX ledger_seq ON ledger (account_no, seq);
-- Transfers: few among all charges. Overage 6 marks them.
CREATE INDEX ledger_transfers ON ledger (account_no) WHERE overage = 6;

CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE ON ledger
    FOR EACH ROW EXECUTE FUNCTION meterd_refuse_change();
CREATE TRIGGER ledger_keep BEFORE TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION meterd_refuse_change();

CREATE TABLE ledger_default PARTITION OF ledger DEFAULT;
ALTER TABLE ledger_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger_default FORCE ROW LEVEL SECURITY;
CREATE TRIGGER ledger_keep BEFORE TRUNCATE ON ledger_default
    FOR EACH STATEMENT EXECUTE FUNCTION meterd_refuse_change();

-- Creates the partitions from last month to `months_ahead` months from now; answers how many it made. A repeat makes none.
-- Months whose rows already went to the default partition stay there. Runs as its owner, since only the owner may add a partition.
CREATE FUNCTION meterd_create_months(months_ahead integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    month timestamptz := date_trunc('month', now()) - interval '1 month';
    table_name text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('meterd_create_months'));
    WHILE month <= date_trunc('month', now()) + make_interval(months => months_ahead) LOOP
        table_name := 'ledger_' || to_char(month, 'YYYY_MM');
        IF to_regclass(table_name) IS NULL
           AND NOT EXISTS (SELECT FROM ledger WHERE txn_at >= month AND txn_at < month + interval '1 month') THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF ledger FOR VALUES FROM (%L) TO (%L)',
                           table_name, month, month + interval '1 month');
            EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', table_name);
            EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', table_name);
            EXECUTE format('CREATE TRIGGER ledger_keep BEFORE TRUNCATE ON %I
                            FOR EACH STATEMENT EXECUTE FUNCTION meterd_refuse_change()', table_name);
            made := made + 1;
        END IF;
        month := month + interval '1 month';
    END LOOP;
    RETURN made;
END
$$;

-- What the flusher knows about a partition's stream. The cursor moves in the transaction that writes the rows before it.
CREATE TABLE partitions (
    partition integer PRIMARY KEY,
    epoch bigint NOT NULL DEFAULT 1,
    -- Names the Redis data set that the epoch belongs to; '' until it is armed for the first time.
    incarnation text NOT NULL DEFAULT '',
    cursor text NOT NULL DEFAULT '0-0',
    -- Kind letter and hex UUID of the record at the cursor.
    last_txn text NOT NULL DEFAULT '',
    flushed_count bigint NOT NULL DEFAULT 0,
    flushed_at timestamptz,
    -- Every record made before this moment is in the ledger.
    fresh_at timestamptz NOT NULL DEFAULT 'epoch'
) WITH (fillfactor = 50);

CREATE TABLE price_books (
    version text PRIMARY KEY,
    content jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- The value of a credit, without reading a book that may be megabytes.
    credit_value_femtos numeric GENERATED ALWAYS AS ((content -> 'book' ->> 'credit_value_femtos')::numeric) STORED
);

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

-- Outbox entries that could not become rows, and those behind them that have to wait.
CREATE TABLE outbox_dead (
    dead_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition integer NOT NULL,
    entry_id text NOT NULL,
    digest bytea NOT NULL,
    -- '' if the entry does not even name one.
    address text NOT NULL,
    cause text NOT NULL CHECK (cause IN ('undecodable', 'unknown_account', 'broken_chain', 'conflict', 'rejected', 'parked')),
    reason text NOT NULL,
    -- The entry's names and values as they stood in the stream: each a length (4 bytes, big endian) and its bytes.
    raw bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    UNIQUE (partition, entry_id, digest)
);
CREATE INDEX outbox_dead_address ON outbox_dead (address, dead_no) WHERE resolved_at IS NULL;

-- What usage adds up to, kept by the flusher in the statement that inserts the ledger rows. Per settlement:
-- a charge, a Commit, and an expiry that charged something count as one action. A late Commit counts what it adds to its hold's expiry.
-- Days are UTC, by the time of the record. No operation_id and no labels: there is a row per day for each who did the same thing.
CREATE TABLE usage_daily (
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    tenant_id text NOT NULL,
    day date NOT NULL,
    -- SHA-256 of what follows up to price_version, first 16 bytes: the names together may be too long for an index.
    group_id bytea NOT NULL CHECK (octet_length(group_id) = 16),
    -- '' where the settlement has none.
    item text NOT NULL,
    model text NOT NULL,
    wallet text NOT NULL,
    subject_user text NOT NULL,
    subject_team text NOT NULL,
    subject_key text NOT NULL,
    -- Names the price book, which has the value of a credit.
    price_version text NOT NULL,
    actions bigint NOT NULL,
    charged_micros bigint NOT NULL,
    -- numeric: nothing bounds their sums.
    uncollected_micros numeric NOT NULL,
    input_tokens numeric NOT NULL,
    output_tokens numeric NOT NULL,
    cost_usd numeric NOT NULL,
    PRIMARY KEY (account_no, day, group_id)
) WITH (fillfactor = 70);
-- A tenant's days stand together in the table, as they came.
CREATE INDEX usage_daily_tenant ON usage_daily (tenant_id, day);

-- The same without accounts and subjects, for whole tenants: as many rows as a tenant has prices, whatever its traffic.
-- By partition, whose flusher is the only one to write its rows, so that no two wait for each other.
CREATE TABLE usage_tenant_daily (
    tenant_id text NOT NULL REFERENCES tenants,
    day date NOT NULL,
    partition integer NOT NULL,
    group_id bytea NOT NULL CHECK (octet_length(group_id) = 16),
    item text NOT NULL,
    model text NOT NULL,
    wallet text NOT NULL,
    price_version text NOT NULL,
    actions bigint NOT NULL,
    charged_micros numeric NOT NULL,
    uncollected_micros numeric NOT NULL,
    input_tokens numeric NOT NULL,
    output_tokens numeric NOT NULL,
    cost_usd numeric NOT NULL,
    PRIMARY KEY (tenant_id, day, partition, group_id)
) WITH (fillfactor = 70);

-- Money that came in. A row with a negative amount is what went back; rows are never changed.
CREATE TABLE purchases (
    tenant_id text NOT NULL REFERENCES tenants,
    purchase_id text NOT NULL CHECK (octet_length(purchase_id) BETWEEN 1 AND 255),
    account_no bigint NOT NULL REFERENCES accounts (account_no),
    kind text NOT NULL CHECK (kind IN ('package', 'subscription')),
    product_id text NOT NULL DEFAULT '' CHECK (octet_length(product_id) <= 255),
    -- In the currency's major unit, exactly. 'NaN' sorts above all numbers.
    amount numeric NOT NULL CHECK (amount BETWEEN -1000000000000 AND 1000000000000 AND scale(trim_scale(amount)) <= 6),
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, purchase_id)
);
CREATE INDEX purchases_at ON purchases (tenant_id, at);
-- Who has ever paid.
CREATE INDEX purchases_paying ON purchases (tenant_id, account_no) WHERE amount > 0;

CREATE TRIGGER purchases_append_only BEFORE UPDATE OR DELETE ON purchases
    FOR EACH ROW EXECUTE FUNCTION meterd_refuse_change();
CREATE TRIGGER purchases_keep BEFORE TRUNCATE ON purchases
    FOR EACH STATEMENT EXECUTE FUNCTION meterd_refuse_change();

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

-- Row-level security: the app role sees the rows of its transaction's tenant, and nothing without one. FORCE binds the owner too,
-- who therefore has a policy of its own.
DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['tenants', 'api_keys', 'accounts', 'wallets', 'grants', 'revocations', 'account_changes', 'ledger',
        'subscriptions', 'reward_claims', 'claw_backs', 'events', 'wallet_alerts', 'webhook_endpoints', 'webhook_deliveries'] LOOP
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

GRANT SELECT ON installation, tenants, api_keys, accounts, wallets, grants, revocations, account_changes, ledger, partitions, price_books
    TO meterd_app, meterd_worker;
GRANT INSERT ON tenants, accounts, grants, revocations, account_changes, api_keys TO meterd_app, meterd_worker;
GRANT UPDATE (overage_policy, overdraft_limit_micros, strict_expiry, frozen, change_no, promised_micros) ON accounts TO meterd_app;
GRANT UPDATE (revoked_at, expires_at, name) ON api_keys TO meterd_app, meterd_worker;
GRANT UPDATE ON accounts, wallets, grants, account_changes, partitions, outbox_dead TO meterd_worker;
GRANT INSERT ON wallets, ledger, partitions, price_books, outbox_dead, installation TO meterd_worker;
GRANT SELECT ON outbox_dead TO meterd_worker;
GRANT SELECT, INSERT ON subscriptions, reward_claims, claw_backs TO meterd_app, meterd_worker;
GRANT UPDATE (plan, next_plan, status, period_no, period_start, period_end, granted_no, withdrawals, terms_until, cancel_at_period_end,
    canceled_at, due_at) ON subscriptions TO meterd_app, meterd_worker;
GRANT UPDATE (plan_until, plan_unlimited, plan_actions_per_day, plan_blocked_wallets) ON accounts TO meterd_app;
GRANT SELECT ON events, webhook_endpoints, webhook_deliveries TO meterd_app;
GRANT INSERT, UPDATE ON webhook_endpoints, webhook_deliveries TO meterd_app;
GRANT UPDATE (low_balance_micros) ON tenants, accounts TO meterd_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON events, wallet_alerts, webhook_endpoints, webhook_deliveries TO meterd_worker;
REVOKE EXECUTE ON FUNCTION meterd_create_months(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION meterd_create_months(integer) TO meterd_worker;

ALTER TABLE catalogs ENABLE ROW LEVEL SECURITY;
ALTER TABLE catalogs FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON catalogs TO meterd_app
    USING (tenant_id = NULLIF(current_setting('app.tenant', true), ''))
    WITH CHECK (tenant_id = NULLIF(current_setting('app.tenant', true), ''));
CREATE POLICY worker_rows ON catalogs TO meterd_worker USING (true) WITH CHECK (true);
CREATE POLICY owner_rows ON catalogs TO CURRENT_USER USING (true) WITH CHECK (true);

GRANT SELECT, INSERT ON catalogs TO meterd_app, meterd_worker;

DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['usage_daily', 'usage_tenant_daily', 'purchases'] LOOP
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

GRANT SELECT ON usage_daily, usage_tenant_daily, purchases TO meterd_app, meterd_worker;
GRANT INSERT ON purchases TO meterd_app, meterd_worker;
GRANT INSERT, UPDATE ON usage_daily, usage_tenant_daily TO meterd_worker;

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
    PRIMARY KEY (account_no, limit_id)
);

ALTER TABLE limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE limits FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON limits TO meterd_app
    USING (tenant_id = NULLIF(current_setting('app.tenant', true), ''))
    WITH CHECK (tenant_id = NULLIF(current_setting('app.tenant', true), ''));
CREATE POLICY worker_rows ON limits TO meterd_worker USING (true) WITH CHECK (true);
CREATE POLICY owner_rows ON limits TO CURRENT_USER USING (true) WITH CHECK (true);

GRANT SELECT, INSERT, UPDATE, DELETE ON limits TO meterd_app, meterd_worker;

-- Whose money a Stripe process handles: a tenant is of test mode or of live mode for ever.
CREATE TABLE stripe_tenants (
    tenant_id text PRIMARY KEY REFERENCES tenants,
    livemode boolean NOT NULL,
    -- The connected account whose events the tenant's are; '' where the endpoint belongs to the account itself.
    stripe_account text NOT NULL DEFAULT '',
    bound_at timestamptz NOT NULL DEFAULT now()
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

DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['stripe_tenants', 'stripe_inbox', 'stripe_objects', 'stripe_customers', 'stripe_effects', 'stripe_due'] LOOP
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

GRANT SELECT, INSERT ON stripe_tenants, stripe_inbox, stripe_objects, stripe_customers, stripe_effects, stripe_due TO meterd_app, meterd_worker;
GRANT UPDATE (deliveries, state, attempts, next_at, error, effect, ended_at) ON stripe_inbox TO meterd_app, meterd_worker;
GRANT UPDATE ON stripe_objects, stripe_customers, stripe_due TO meterd_app, meterd_worker;
GRANT UPDATE (stripe_account) ON stripe_tenants TO meterd_app, meterd_worker;
GRANT DELETE ON stripe_due TO meterd_app, meterd_worker;

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

SELECT meterd_create_months(3);
