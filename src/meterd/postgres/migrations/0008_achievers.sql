-- migrate:up

-- Which accounts were charged lately, for their achievements. The ledger grows at its end, so ranges of pages are ranges of time.
CREATE INDEX ledger_flushed ON ledger USING brin (flushed_at) WITH (autosummarize = on);

-- migrate:down

DROP INDEX ledger_flushed;
