-- name: claim
-- Session locks: they end with the connection, and so does the right to flush. Those that another server holds are left out.
SELECT partition FROM unnest($1::integer[]) AS u (partition) WHERE pg_try_advisory_lock($2::integer, partition);

-- name: positions
SELECT partition, epoch, incarnation, cursor FROM partitions WHERE partition = ANY($1::integer[]);

-- name: create_months
-- A repeat finds the months there.
SELECT meterd_create_months(3);
