-- Reads only: nothing here changes a row.

-- name: standing
-- One statement, so one snapshot: rows behind last_seq and the cursor are missing in Redis' outbox, those before are in the ledger.
SELECT a.account_no, a.address, a.partition, a.last_seq, a.parked, p.cursor,
    coalesce((SELECT meterd_ms(l.recorded_at) FROM ledger AS l WHERE l.account_no = a.account_no AND l.seq = a.last_seq), 0) AS last_ms
FROM accounts AS a JOIN partitions AS p USING (partition) WHERE a.tenant_id = $1 AND a.account_id = $2;

-- name: grants
SELECT grant_id, amount_micros, source_id, meterd_ms(created_at) AS created_ms
FROM grants WHERE tenant_id = $1 AND grant_id = ANY($2::uuid[]);

-- name: revoked
-- As standing.
SELECT g.revoked_micros, a.address, a.partition, a.last_seq, p.cursor
FROM grants AS g JOIN accounts AS a USING (account_no) JOIN partitions AS p USING (partition)
WHERE g.tenant_id = $1 AND g.grant_id = $2;

-- name: transactions
SELECT l.*, meterd_ms(l.recorded_at) AS at_ms, r.grant_id AS revoked_grant_id
FROM ledger AS l
LEFT JOIN revocations AS r ON l.kind = 'V' AND r.tenant_id = l.tenant_id AND r.revocation_id = l.txn
WHERE l.account_no = $1 AND l.seq < $2 ORDER BY l.seq DESC LIMIT $3;

-- name: settlements
-- txn_at is the time inside txn, which names the month to look into.
SELECT l.*, meterd_ms(l.recorded_at) AS at_ms, NULL::uuid AS revoked_grant_id
FROM ledger AS l
WHERE l.account_no = $1 AND l.kind IN ('C', 'L', 'R', 'E', 'H') AND l.txn = $2 AND l.txn_at = meterd_uuid_time($2)
ORDER BY l.seq;

-- name: accounts_count
SELECT partition, count(*) AS count FROM accounts GROUP BY partition;

-- name: addresses
SELECT tenant_id, address FROM accounts WHERE partition = $1 ORDER BY account_no;

-- name: known_addresses
SELECT address FROM accounts WHERE address = ANY($1::text[]);

-- name: accounts_of_partition
SELECT account_no, tenant_id, account_id, address, partition, last_seq, last_txn, applied_change_no, change_no,
    granted_micros, spent_micros, expired_micros, revoked_micros, overage_policy, overdraft_limit_micros, strict_expiry, frozen,
    coalesce(meterd_ms(plan_until), 0) AS plan_until_ms, plan_unlimited, plan_actions_per_day, plan_blocked_wallets
FROM accounts WHERE partition = $1 ORDER BY account_no;

-- name: wallets_of
SELECT account_no, wallet, debt_micros FROM wallets WHERE account_no = ANY($1::bigint[]);

-- name: grants_left
SELECT account_no, wallet, grant_id, amount_micros - spent_micros - expired_micros - revoked_micros AS left_micros
FROM grants
WHERE account_no = ANY($1::bigint[]) AND applied_at IS NOT NULL AND amount_micros <> spent_micros + expired_micros + revoked_micros;

-- name: ledger_count
SELECT count(*) FROM ledger WHERE account_no = ANY($1::bigint[]);

-- name: broken_rows
-- Each row against the one before it in its account and its wallet, and against itself.
WITH rows AS (
    SELECT l.*, kind || replace(txn::text, '-', '') AS txn_name,
        lag(seq, 1, 0::bigint) OVER chain AS seq_before,
        lag(kind || replace(txn::text, '-', ''), 1, '') OVER chain AS txn_before,
        lag(epoch, 1, 0::bigint) OVER chain AS epoch_before,
        sum(granted_micros - charged_micros - expired_micros - revoked_micros) OVER (PARTITION BY account_no, wallet ORDER BY seq, kind, txn) AS worth,
        (SELECT coalesce(sum(split_part(part, ':', 2)::numeric), 0) FROM unnest(drawn) AS part) AS drawn_sum,
        (SELECT coalesce(sum(split_part(part, ':', 2)::numeric), 0) FROM unnest(expired) AS part) AS expired_sum,
        (SELECT coalesce(sum(split_part(part, ':', 2)::numeric), 0) FROM unnest(revoked) AS part) AS revoked_sum
    FROM ledger AS l WHERE account_no = ANY($1::bigint[])
    WINDOW chain AS (PARTITION BY account_no ORDER BY seq, kind, txn)
)
SELECT account_no, seq, txn_name, c.check_name, c.expected, c.actual
FROM rows CROSS JOIN LATERAL (VALUES
    ('follows the row before it: seq', (seq_before + 1)::text, seq::text),
    ('follows the row before it: prev_txn', txn_before, prev_txn),
    ('epoch never falls', greatest(epoch, epoch_before)::text, epoch::text),
    ('wallet = granted − charged − expired − revoked so far', worth::text,
     CASE WHEN kind = 'S' THEN worth::text ELSE (balance_after_micros + wallet_held_after_micros)::text END),
    ('hold = charged + returned + expired + revoked',
     CASE WHEN kind IN ('C', 'R', 'E') THEN greatest(held_before_micros - charged_micros, 0) ELSE 0 END::text,
     CASE WHEN kind IN ('C', 'R', 'E', 'L', 'H') THEN returned_micros + expired_micros + revoked_micros ELSE 0 END::text),
    ('charged ≥ Σ drawn', drawn_sum::text,
     least(drawn_sum, CASE WHEN kind = 'G' THEN granted_micros ELSE charged_micros END)::text),
    ('expired = Σ expired by grant', expired_sum::text, expired_micros::text),
    -- What a claw-back did not find stands in the wallet's debt.
    ('revoked = Σ revoked by grant', revoked_sum::text,
     CASE WHEN kind = 'B' THEN least(revoked_sum, revoked_micros) ELSE revoked_micros END::text),
    ('micro-credits are ≥ 0', '0', least(granted_micros, charged_micros, returned_micros, uncollected_micros, expired_micros, revoked_micros,
        held_before_micros, debt_after_micros, wallet_held_after_micros, held_after_micros, 0)::text)
) AS c (check_name, expected, actual)
WHERE c.expected <> c.actual ORDER BY account_no, seq LIMIT $2;

-- name: broken_accounts
-- An account's counters against the fold of its ledger rows, grants and changes.
SELECT a.account_no, c.check_name, c.expected, c.actual
FROM accounts AS a
CROSS JOIN LATERAL (
    SELECT count(*) AS count, coalesce(sum(granted_micros), 0) AS granted, coalesce(sum(charged_micros), 0) AS spent,
        coalesce(sum(expired_micros), 0) AS expired, coalesce(sum(revoked_micros), 0) AS revoked, coalesce(max(change_no), 0) AS change_no
    FROM ledger AS l WHERE l.account_no = a.account_no
) AS f
LEFT JOIN LATERAL (
    SELECT kind || replace(txn::text, '-', '') AS txn_name, epoch, held_after_micros AS held
    FROM ledger AS l WHERE l.account_no = a.account_no ORDER BY seq DESC, kind DESC LIMIT 1
) AS last ON true
CROSS JOIN LATERAL (
    SELECT coalesce(sum(amount_micros), 0) AS promised, coalesce(sum(amount_micros) FILTER (WHERE applied_at IS NOT NULL), 0) AS applied,
        coalesce(sum(amount_micros - spent_micros - expired_micros - revoked_micros) FILTER (WHERE applied_at IS NOT NULL), 0) AS left_over
    FROM grants AS g WHERE g.account_no = a.account_no
) AS g
CROSS JOIN LATERAL (SELECT coalesce(sum(debt_micros), 0) AS debt FROM wallets AS w WHERE w.account_no = a.account_no) AS w
CROSS JOIN LATERAL (
    SELECT count(*) AS count, count(*) FILTER (WHERE (applied_at IS NOT NULL) <> (h.change_no <= a.applied_change_no)) AS odd
    FROM account_changes AS h WHERE h.account_no = a.account_no
) AS h
CROSS JOIN LATERAL (VALUES
    ('granted = available + held + spent + expired + revoked',
     (g.left_over - w.debt + a.spent_micros + a.expired_micros + a.revoked_micros)::text, a.granted_micros::text),
    ('last_seq = number of ledger rows', f.count::text, a.last_seq::text),
    ('last_txn = the last ledger row', coalesce(last.txn_name, ''), a.last_txn),
    ('epoch = that of the last ledger row', coalesce(last.epoch, a.epoch)::text, a.epoch::text),
    ('granted = Σ ledger', f.granted::text, a.granted_micros::text),
    ('granted = Σ applied grants', g.applied::text, a.granted_micros::text),
    ('spent = Σ ledger', f.spent::text, a.spent_micros::text),
    ('expired = Σ ledger', f.expired::text, a.expired_micros::text),
    ('revoked = Σ ledger', f.revoked::text, a.revoked_micros::text),
    ('held = that of the last ledger row', coalesce(last.held, 0)::text, a.held_micros::text),
    ('applied_change_no = last change in the ledger', f.change_no::text, a.applied_change_no::text),
    ('promised = Σ grants', g.promised::text, a.promised_micros::text),
    ('change_no = number of changes', h.count::text, a.change_no::text),
    ('changes are applied up to applied_change_no', '0', h.odd::text),
    ('no entry waits behind a dead one', 'false', a.parked::text)
) AS c (check_name, expected, actual)
WHERE a.account_no = ANY($1::bigint[]) AND c.expected <> c.actual ORDER BY a.account_no LIMIT $2;

-- name: broken_grants
-- A grant's counters against the fold of what ledger rows drew from it, expired and revoked.
SELECT coalesce(g.account_no, f.account_no) AS account_no, coalesce(g.grant_id, f.grant_id) AS grant_id, c.check_name, c.expected, c.actual
FROM (SELECT * FROM grants WHERE account_no = ANY($1::bigint[])) AS g
FULL JOIN (
    SELECT account_no, left(draw, 32)::uuid AS grant_id,
        coalesce(sum(substr(draw, 34)::numeric) FILTER (WHERE part = 1), 0) AS spent,
        coalesce(sum(substr(draw, 34)::numeric) FILTER (WHERE part = 2), 0) AS expired,
        coalesce(sum(substr(draw, 34)::numeric) FILTER (WHERE part = 3), 0) AS revoked
    FROM (
        SELECT account_no, unnest(drawn) AS draw, 1 AS part FROM ledger WHERE account_no = ANY($1::bigint[])
        UNION ALL SELECT account_no, unnest(expired), 2 FROM ledger WHERE account_no = ANY($1::bigint[])
        UNION ALL SELECT account_no, unnest(revoked), 3 FROM ledger WHERE account_no = ANY($1::bigint[])
    ) AS draws GROUP BY account_no, left(draw, 32)
) AS f ON f.account_no = g.account_no AND f.grant_id = g.grant_id
LEFT JOIN LATERAL (
    SELECT sum(l.granted_micros) AS granted FROM ledger AS l
    WHERE l.account_no = g.account_no AND l.kind = 'G' AND l.txn = g.grant_id AND l.txn_at = meterd_uuid_time(g.grant_id)
) AS l ON true
CROSS JOIN LATERAL (VALUES
    ('exists', 'true', (g.grant_id IS NOT NULL)::text),
    ('spent = Σ drawn', coalesce(f.spent, 0)::text, coalesce(g.spent_micros, 0)::text),
    ('expired = Σ ledger', coalesce(f.expired, 0)::text, coalesce(g.expired_micros, 0)::text),
    ('revoked = Σ ledger', coalesce(f.revoked, 0)::text, coalesce(g.revoked_micros, 0)::text),
    ('amount = its ledger row', coalesce(l.granted, 0)::text, CASE WHEN g.applied_at IS NULL THEN 0 ELSE g.amount_micros END::text),
    ('amount ≥ spent + expired + revoked', '0', least(0, g.amount_micros - g.spent_micros - g.expired_micros - g.revoked_micros)::text)
) AS c (check_name, expected, actual)
WHERE c.expected <> c.actual ORDER BY 1, 2 LIMIT $2;

-- name: broken_wallets
SELECT w.account_no, w.wallet, c.check_name, c.expected, c.actual
FROM wallets AS w
LEFT JOIN LATERAL (
    SELECT debt_after_micros AS debt, wallet_held_after_micros AS held FROM ledger AS l
    WHERE l.account_no = w.account_no AND l.wallet = w.wallet ORDER BY seq DESC LIMIT 1
) AS l ON true
CROSS JOIN LATERAL (VALUES
    ('debt = that of its last ledger row', coalesce(l.debt, 0)::text, w.debt_micros::text),
    ('held = that of its last ledger row', coalesce(l.held, 0)::text, w.held_micros::text)
) AS c (check_name, expected, actual)
WHERE w.account_no = ANY($1::bigint[]) AND c.expected <> c.actual ORDER BY 1, 2 LIMIT $2;

-- name: double_endings
-- A hold ends once; an expiry may be followed by one late Commit.
SELECT account_no, txn, string_agg(kind, '' ORDER BY seq, kind) AS kinds
FROM ledger WHERE account_no = ANY($1::bigint[]) AND kind IN ('C', 'L', 'R', 'E')
GROUP BY account_no, txn HAVING string_agg(kind, '' ORDER BY seq, kind) NOT IN ('C', 'R', 'E', 'EL')
ORDER BY 1, 2 LIMIT $2;

-- name: broken_sums
-- A day's sums of an account against its ledger rows. What a late Commit tells of the usage replaces what the hold's expiry told.
WITH settled AS (
    SELECT account_no, (recorded_at AT TIME ZONE 'UTC')::date AS day, kind, txn, charged_micros, uncollected_micros,
        coalesce((detail -> 'usage' ->> 'input_tokens')::numeric, 0) AS input_tokens,
        coalesce((detail -> 'usage' ->> 'output_tokens')::numeric, 0) AS output_tokens, coalesce(cost_usd, 0) AS cost_usd
    FROM ledger WHERE account_no = ANY($1::bigint[])
        AND (kind IN ('C', 'L') OR kind = 'H' AND overage <> 6 OR kind = 'E' AND (charged_micros > 0 OR uncollected_micros > 0 OR detail IS NOT NULL))
),
told AS (
    SELECT account_no, day, 1 AS actions, charged_micros, uncollected_micros, input_tokens, output_tokens, cost_usd FROM settled
    UNION ALL
    SELECT account_no, l.day, -1, 0, -e.uncollected_micros, -e.input_tokens, -e.output_tokens, -e.cost_usd
    FROM settled AS l JOIN settled AS e USING (account_no, txn) WHERE l.kind = 'L' AND e.kind = 'E'
),
expected AS (
    SELECT account_no, day, sum(actions) AS actions, sum(charged_micros) AS charged, sum(uncollected_micros) AS uncollected,
        sum(input_tokens) AS input, sum(output_tokens) AS output, sum(cost_usd) AS cost
    FROM told GROUP BY account_no, day
),
actual AS (
    SELECT account_no, day, sum(actions) AS actions, sum(charged_micros) AS charged, sum(uncollected_micros) AS uncollected,
        sum(input_tokens) AS input, sum(output_tokens) AS output, sum(cost_usd) AS cost
    FROM usage_daily WHERE account_no = ANY($1::bigint[]) GROUP BY account_no, day
)
SELECT account_no, day, c.check_name, c.expected, c.actual
FROM expected AS e FULL JOIN actual AS a USING (account_no, day)
CROSS JOIN LATERAL (VALUES
    ('actions = Σ ledger', coalesce(e.actions, 0), coalesce(a.actions, 0)),
    ('charged = Σ ledger', coalesce(e.charged, 0), coalesce(a.charged, 0)),
    ('uncollected = Σ ledger', coalesce(e.uncollected, 0), coalesce(a.uncollected, 0)),
    ('input_tokens = Σ ledger', coalesce(e.input, 0), coalesce(a.input, 0)),
    ('output_tokens = Σ ledger', coalesce(e.output, 0), coalesce(a.output, 0)),
    ('cost_usd = Σ ledger', coalesce(e.cost, 0), coalesce(a.cost, 0))
) AS c (check_name, expected, actual)
WHERE c.expected <> c.actual ORDER BY account_no, day LIMIT $2;

-- name: broken_tenant_sums
-- A day's sums of a tenant in a partition against those of its accounts.
SELECT tenant_id, day, item, model, wallet, price_version, c.check_name, c.expected, c.actual
FROM (
    SELECT u.tenant_id, u.day, u.item, u.model, u.wallet, u.price_version, sum(actions) AS actions, sum(charged_micros) AS charged,
        sum(uncollected_micros) AS uncollected, sum(input_tokens) AS input, sum(output_tokens) AS output, sum(cost_usd) AS cost
    FROM usage_daily AS u JOIN accounts AS a USING (account_no) WHERE a.partition = $1
    GROUP BY u.tenant_id, u.day, u.item, u.model, u.wallet, u.price_version
) AS e FULL JOIN (SELECT * FROM usage_tenant_daily WHERE partition = $1) AS t USING (tenant_id, day, item, model, wallet, price_version)
CROSS JOIN LATERAL (VALUES
    ('actions = Σ accounts', coalesce(e.actions, 0), coalesce(t.actions, 0)),
    ('charged = Σ accounts', coalesce(e.charged, 0), coalesce(t.charged_micros, 0)),
    ('uncollected = Σ accounts', coalesce(e.uncollected, 0), coalesce(t.uncollected_micros, 0)),
    ('input_tokens = Σ accounts', coalesce(e.input, 0), coalesce(t.input_tokens, 0)),
    ('output_tokens = Σ accounts', coalesce(e.output, 0), coalesce(t.output_tokens, 0)),
    ('cost_usd = Σ accounts', coalesce(e.cost, 0), coalesce(t.cost_usd, 0))
) AS c (check_name, expected, actual)
WHERE c.expected <> c.actual ORDER BY tenant_id, day, item LIMIT $2;

-- name: dead
SELECT d.partition, d.entry_id, d.address, d.cause, d.reason, coalesce(a.tenant_id, '') AS tenant_id, coalesce(a.account_id, '') AS account_id
FROM outbox_dead AS d LEFT JOIN accounts AS a ON a.address = d.address AND d.address <> ''
WHERE d.resolved_at IS NULL ORDER BY d.dead_no LIMIT $1;

-- name: dead_count
SELECT count(*) FROM outbox_dead WHERE resolved_at IS NULL;
