-- The schema as it stands after the last migration, for reading: these files in the order of their numbers. A test holds them against
-- the sum of the migrations. Names are unqualified: they land in the first schema of the connection's search_path.

-- 1. Accounts, grants, the ledger, and what the flusher knows.

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
    low_balance_micros bigint CHECK (low_balance_micros BETWEEN 0 AND 9007199254740991),
    -- The catalog whose limits the tenant's accounts are to have; 0: none ever.
    limits_catalog_no integer NOT NULL DEFAULT 0
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

-- Ed25519 keys that sign the tokens of accounts, for all tenants of the installation. Read and written by the owner only.
CREATE TABLE token_keys (
    key_id text PRIMARY KEY CHECK (octet_length(key_id) BETWEEN 1 AND 64),
    secret bytea NOT NULL CHECK (octet_length(secret) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- What it has signed is refused from then on. NULL: it signs.
    verifies_until timestamptz
);
-- One signs at a time.
CREATE UNIQUE INDEX token_keys_signing ON token_keys ((true)) WHERE verifies_until IS NULL;

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
    -- The catalog whose limits it has.
    limits_catalog_no integer NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, account_id)
) WITH (fillfactor = 70);
CREATE INDEX accounts_limits ON accounts (tenant_id, limits_catalog_no);

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
-- Who was charged lately. The ledger grows at its end, so ranges of pages are ranges of time.
CREATE INDEX ledger_flushed ON ledger USING brin (flushed_at) WITH (autosummarize = on);
-- Transfers of the last seconds, whose gift may still be missing.
CREATE INDEX ledger_transfers_flushed ON ledger (flushed_at) WHERE overage = 6;

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
