-- migrate:up

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

ALTER TABLE catalogs ENABLE ROW LEVEL SECURITY;
ALTER TABLE catalogs FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_rows ON catalogs TO meterd_app
    USING (tenant_id = NULLIF(current_setting('app.tenant', true), ''))
    WITH CHECK (tenant_id = NULLIF(current_setting('app.tenant', true), ''));
CREATE POLICY worker_rows ON catalogs TO meterd_worker USING (true) WITH CHECK (true);
CREATE POLICY owner_rows ON catalogs TO CURRENT_USER USING (true) WITH CHECK (true);

GRANT SELECT, INSERT ON catalogs TO meterd_app, meterd_worker;

-- migrate:down

DROP TABLE catalogs;
DROP FUNCTION meterd_tell_catalog();
