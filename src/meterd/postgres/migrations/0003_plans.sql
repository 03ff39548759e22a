-- migrate:up

-- What the account's plan changes in the hot path; as the subscription and its catalog left it last.
ALTER TABLE accounts
    ADD COLUMN plan_until timestamptz,
    ADD COLUMN plan_unlimited boolean NOT NULL DEFAULT false,
    ADD COLUMN plan_actions_per_day bigint NOT NULL DEFAULT 0 CHECK (plan_actions_per_day BETWEEN 0 AND 9007199254740991),
    ADD COLUMN plan_blocked_wallets text[] NOT NULL DEFAULT '{}';

ALTER TABLE account_changes DROP CONSTRAINT account_changes_kind_check;
ALTER TABLE account_changes ADD CONSTRAINT account_changes_kind_check CHECK (kind IN ('G', 'V', 'S', 'B'));
ALTER TABLE ledger DROP CONSTRAINT ledger_kind_check;
ALTER TABLE ledger ADD CONSTRAINT ledger_kind_check CHECK (kind IN ('C', 'L', 'R', 'E', 'H', 'G', 'V', 'X', 'S', 'B'));

-- Transfers: few among all charges. Overage 6 marks them.
CREATE INDEX ledger_transfers ON ledger (account_no) WHERE overage = 6;

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

DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['subscriptions', 'reward_claims', 'claw_backs'] LOOP
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

GRANT SELECT, INSERT ON subscriptions, reward_claims, claw_backs TO meterd_app, meterd_worker;
GRANT UPDATE (plan, next_plan, status, period_no, period_start, period_end, granted_no, withdrawals, terms_until, cancel_at_period_end,
    canceled_at, due_at) ON subscriptions TO meterd_app, meterd_worker;
GRANT UPDATE (plan_until, plan_unlimited, plan_actions_per_day, plan_blocked_wallets) ON accounts TO meterd_app;

-- migrate:down

DROP TABLE claw_backs, reward_claims, subscriptions;
DROP INDEX ledger_transfers;
ALTER TABLE ledger DROP CONSTRAINT ledger_kind_check;
ALTER TABLE ledger ADD CONSTRAINT ledger_kind_check CHECK (kind IN ('C', 'L', 'R', 'E', 'H', 'G', 'V', 'X', 'S'));
ALTER TABLE account_changes DROP CONSTRAINT account_changes_kind_check;
ALTER TABLE account_changes ADD CONSTRAINT account_changes_kind_check CHECK (kind IN ('G', 'V', 'S'));
ALTER TABLE accounts DROP COLUMN plan_until, DROP COLUMN plan_unlimited, DROP COLUMN plan_actions_per_day, DROP COLUMN plan_blocked_wallets;
