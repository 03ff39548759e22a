-- name: positions
SELECT partition, epoch, incarnation, cursor, last_txn, flushed_count, meterd_ms(fresh_at) AS fresh_ms FROM partitions ORDER BY partition;

-- name: claim_incarnation
-- A repeat with the same incarnation finds it there and says so; any other is refused.
UPDATE partitions SET incarnation = $2 WHERE partition = $1 AND incarnation IN ('', $2) RETURNING partition;

-- name: begin_epoch
-- A repeat is refused: the epoch is no longer the one that it was to follow on.
UPDATE partitions SET epoch = epoch + 1, incarnation = $3, cursor = '0-0', last_txn = '' WHERE partition = $1 AND epoch = $2
RETURNING epoch;
