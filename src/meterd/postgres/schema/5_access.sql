-- 5. Who sees and changes what.

-- Row-level security: the app role sees the rows of its transaction's tenant, and nothing without one. FORCE binds the owner too,
-- who therefore has a policy of its own.
DO $$
DECLARE
    table_name text;
BEGIN
    FOREACH table_name IN ARRAY ARRAY['tenants', 'api_keys', 'accounts', 'wallets', 'grants', 'revocations', 'account_changes', 'ledger',
        'catalogs', 'subscriptions', 'reward_claims', 'claw_backs', 'limits', 'usage_daily', 'usage_tenant_daily', 'purchases',
        'events', 'wallet_alerts', 'webhook_endpoints', 'webhook_deliveries', 'limit_uses', 'top_ups'] LOOP
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
GRANT SELECT, INSERT ON catalogs TO meterd_app, meterd_worker;
GRANT SELECT ON usage_daily, usage_tenant_daily, purchases TO meterd_app, meterd_worker;
GRANT INSERT ON purchases TO meterd_app, meterd_worker;
GRANT INSERT, UPDATE ON usage_daily, usage_tenant_daily TO meterd_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON limits TO meterd_app, meterd_worker;
-- A call may ask for a top-up at once; all other events are the workers'.
GRANT INSERT ON events TO meterd_app;
GRANT SELECT, DELETE ON limit_uses TO meterd_app;
GRANT SELECT, INSERT, UPDATE ON top_ups TO meterd_app;
GRANT UPDATE (limits_catalog_no) ON tenants, accounts TO meterd_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON limit_uses TO meterd_worker;
GRANT SELECT, INSERT, UPDATE ON top_ups TO meterd_worker;

SELECT meterd_create_months(3);
