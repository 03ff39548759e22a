-- migrate:up

-- The value of a credit, without reading a book that may be megabytes.
ALTER TABLE price_books ADD COLUMN credit_value_femtos numeric
    GENERATED ALWAYS AS ((content -> 'book' ->> 'credit_value_femtos')::numeric) STORED;

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

-- What is in the ledger already.
INSERT INTO usage_daily (
    account_no, tenant_id, day, group_id, item, model, wallet, subject_user, subject_team, subject_key, price_version,
    actions, charged_micros, uncollected_micros, input_tokens, output_tokens, cost_usd)
SELECT account_no, tenant_id, day,
    substr(sha256(convert_to(jsonb_build_array(item, model, wallet, subject_user, subject_team, subject_key, price_version)::text, 'UTF8')), 1, 16),
    item, model, wallet, subject_user, subject_team, subject_key, price_version,
    sum(actions), sum(charged_micros), sum(uncollected_micros), sum(input_tokens), sum(output_tokens), sum(cost_usd)
FROM (
    SELECT l.account_no, l.tenant_id, (l.recorded_at AT TIME ZONE 'UTC')::date AS day,
        coalesce(l.item, '') AS item, coalesce(l.model, '') AS model, l.wallet, coalesce(l.subject_user, '') AS subject_user,
        coalesce(l.subject_team, '') AS subject_team, coalesce(l.subject_key, '') AS subject_key, coalesce(l.price_version, '') AS price_version,
        1 - coalesce(e.actions, 0) AS actions, l.charged_micros, l.uncollected_micros - coalesce(e.uncollected_micros, 0) AS uncollected_micros,
        coalesce((l.detail -> 'usage' ->> 'input_tokens')::numeric, 0) - coalesce(e.input_tokens, 0) AS input_tokens,
        coalesce((l.detail -> 'usage' ->> 'output_tokens')::numeric, 0) - coalesce(e.output_tokens, 0) AS output_tokens,
        coalesce(l.cost_usd, 0) - coalesce(e.cost_usd, 0) AS cost_usd
    FROM ledger AS l LEFT JOIN (
        SELECT account_no, txn, 1 AS actions, uncollected_micros, coalesce((detail -> 'usage' ->> 'input_tokens')::numeric, 0) AS input_tokens,
            coalesce((detail -> 'usage' ->> 'output_tokens')::numeric, 0) AS output_tokens, coalesce(cost_usd, 0) AS cost_usd
        FROM ledger WHERE kind = 'E' AND (charged_micros > 0 OR uncollected_micros > 0 OR detail IS NOT NULL)
    ) AS e ON l.kind = 'L' AND e.account_no = l.account_no AND e.txn = l.txn
    WHERE l.kind IN ('C', 'L', 'H') OR l.kind = 'E' AND (l.charged_micros > 0 OR l.uncollected_micros > 0 OR l.detail IS NOT NULL)
) AS u
GROUP BY account_no, tenant_id, day, item, model, wallet, subject_user, subject_team, subject_key, price_version;

INSERT INTO usage_tenant_daily (
    tenant_id, day, partition, group_id, item, model, wallet, price_version,
    actions, charged_micros, uncollected_micros, input_tokens, output_tokens, cost_usd)
SELECT u.tenant_id, u.day, a.partition,
    substr(sha256(convert_to(jsonb_build_array(u.item, u.model, u.wallet, u.price_version)::text, 'UTF8')), 1, 16),
    u.item, u.model, u.wallet, u.price_version,
    sum(u.actions), sum(u.charged_micros), sum(u.uncollected_micros), sum(u.input_tokens), sum(u.output_tokens), sum(u.cost_usd)
FROM usage_daily AS u JOIN accounts AS a USING (account_no)
GROUP BY u.tenant_id, u.day, a.partition, u.item, u.model, u.wallet, u.price_version;

-- migrate:down

DROP TABLE purchases, usage_tenant_daily, usage_daily;
ALTER TABLE price_books DROP COLUMN credit_value_femtos;
