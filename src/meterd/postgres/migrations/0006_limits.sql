-- migrate:up

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

-- migrate:down

DROP TABLE limits;
