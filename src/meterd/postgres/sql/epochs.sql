-- name: try_lock
-- A session lock: it ends with the connection, so a recovery that died holds nothing.
SELECT pg_try_advisory_lock($1::integer, $2::integer);

-- name: unlock
SELECT pg_advisory_unlock($1::integer, $2::integer);

-- name: chains
SELECT address, last_seq, last_txn, parked FROM accounts WHERE address = ANY($1::text[]);

-- name: held
-- What open holds had set aside at the last flushed record of each account.
SELECT partition, coalesce(sum(held_micros), 0)::bigint AS held_micros FROM accounts GROUP BY partition;
