-- migrate:up

-- Transfers whose gift may still be missing. There are few among all charges, so it costs the others nothing.
CREATE INDEX ledger_transfers_flushed ON ledger (flushed_at) WHERE overage = 6;

-- migrate:down

DROP INDEX ledger_transfers_flushed;
