-- 3. Sums for the reports.

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
