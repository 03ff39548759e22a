-- migrate:up

-- The catalog whose limits the tenant's accounts are to have, and the one whose they have; 0: none ever.
ALTER TABLE tenants ADD COLUMN limits_catalog_no integer NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN limits_catalog_no integer NOT NULL DEFAULT 0;
CREATE INDEX accounts_limits ON accounts (tenant_id, limits_catalog_no);
-- Whether the limit came from the tenant's catalog. An account's own one of the same id stands in its place.
ALTER TABLE limits ADD COLUMN from_catalog boolean NOT NULL DEFAULT false;

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

DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['limit_uses', 'top_ups'] LOOP
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

-- A call may ask for a top-up at once; all other events are the workers'.
GRANT INSERT ON events TO meterd_app;
GRANT SELECT, DELETE ON limit_uses TO meterd_app;
GRANT SELECT, INSERT, UPDATE ON top_ups TO meterd_app;
GRANT UPDATE (limits_catalog_no) ON tenants, accounts TO meterd_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON limit_uses TO meterd_worker;
GRANT SELECT, INSERT, UPDATE ON top_ups TO meterd_worker;

-- migrate:down

DROP TABLE top_ups, limit_uses;
REVOKE INSERT ON events FROM meterd_app;
ALTER TABLE limits DROP COLUMN from_catalog;
DROP INDEX accounts_limits;
ALTER TABLE accounts DROP COLUMN limits_catalog_no;
ALTER TABLE tenants DROP COLUMN limits_catalog_no;
