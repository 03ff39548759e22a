-- migrate:up

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

ALTER TABLE token_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE token_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY owner_rows ON token_keys TO CURRENT_USER USING (true) WITH CHECK (true);

-- migrate:down

DROP TABLE token_keys;
