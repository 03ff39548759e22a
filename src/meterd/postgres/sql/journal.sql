-- name: lock_partitions
-- Whoever holds these rows is the only one to write for the partitions.
SELECT partition, epoch, cursor FROM partitions WHERE partition = ANY($1::integer[]) ORDER BY partition FOR UPDATE;

-- name: lock_accounts
-- In the order of their numbers, as everybody who locks several does.
SELECT address, account_no, tenant_id, partition, last_seq, last_txn, applied_change_no, parked
FROM accounts WHERE address = ANY($1::text[]) ORDER BY account_no FOR NO KEY UPDATE;

-- name: insert_ledger
-- A repeat finds the key (account, kind, transaction, its time) taken and writes nothing; the caller compares digests then. The daily sums
-- grow by the rows that were inserted, and only by those. Answers their number.
-- Columns come as array literals, which are much cheaper to make from the stream's decimal digits than arrays of numbers.
WITH inserted AS (
    INSERT INTO ledger (
        account_no, tenant_id, txn_at, kind, txn, prev_txn, epoch, seq, recorded_at, partition, entry_id, wallet,
        held_before_micros, granted_micros, charged_micros, returned_micros, uncollected_micros, expired_micros, revoked_micros,
        drawn, expired, revoked,
        balance_after_micros, debt_after_micros, wallet_held_after_micros, held_after_micros, change_no, overage,
        subject_user, subject_team, subject_key, operation_id, item, price_version, model, usage_state, cost_usd,
        terms, detail, request_digest, digest)
    SELECT
        account_no, ($33::text[])[tenant_place], meterd_time(txn_ms), kind, txn, CASE prev_txn WHEN '-' THEN '' ELSE prev_txn END, epoch, seq,
        meterd_time(at_ms), partition, entry_id, CASE kind WHEN 'S' THEN '' ELSE wallet END,
        held_before, granted, charged, returned, uncollected, expired_sum, revoked_sum,
        CASE drawn WHEN '-' THEN '{}' ELSE string_to_array(drawn, ',') END,
        CASE expired WHEN '-' THEN '{}' ELSE string_to_array(expired, ',') END,
        CASE revoked WHEN '-' THEN '{}' ELSE string_to_array(revoked, ',') END,
        balance_after, debt_after, wallet_held_after, held_after, change_no, overage,
        terms ->> 'user', terms ->> 'team', terms ->> 'key', terms ->> 'op', terms ->> 'item', terms ->> 'pv',
        coalesce(detail ->> 'model', terms ->> 'model'),
        coalesce((detail ->> 'us')::smallint, 0), NULLIF(detail ->> 'cost', '')::numeric,
        terms, detail, decode(CASE request_digest WHEN '-' THEN '' ELSE request_digest END, 'hex'), decode(digest, 'hex')
    FROM (
        SELECT u.*, NULLIF(terms_text, '')::jsonb AS terms, NULLIF(detail_text, '')::jsonb AS detail
        FROM unnest(
            $1::text::bigint[], $2::text::integer[], $3::text::bigint[], $4::text::text[], $5::text::uuid[], $6::text::text[],
            $7::text::bigint[], $8::text::bigint[], $9::text::bigint[], $10::text::integer[], $11::text::text[], $12::text::text[],
            $13::text::bigint[], $14::text::bigint[], $15::text::bigint[], $16::text::bigint[], $17::text::bigint[], $18::text::bigint[],
            $19::text::bigint[], $20::text::text[], $21::text::text[], $22::text::text[], $23::text::bigint[], $24::text::bigint[],
            $25::text::bigint[], $26::text::bigint[], $27::text::bigint[], $28::text::smallint[], $29::text[], $30::text[],
            $31::text::text[], $32::text::text[]
        ) AS u (
            account_no, tenant_place, txn_ms, kind, txn, prev_txn, epoch, seq, at_ms, partition, entry_id, wallet, held_before, granted, charged,
            returned, uncollected, expired_sum, revoked_sum, drawn, expired, revoked, balance_after, debt_after, wallet_held_after,
            held_after, change_no, overage, terms_text, detail_text, request_digest, digest)
        -- Keeps the casts from being repeated for each value that is taken out.
        OFFSET 0
    ) AS r
    ON CONFLICT (account_no, kind, txn, txn_at) DO NOTHING
    RETURNING account_no, tenant_id, partition, (recorded_at AT TIME ZONE 'UTC')::date AS day, kind, txn, txn_at,
        coalesce(item, '') AS item, coalesce(model, '') AS model, wallet, coalesce(subject_user, '') AS subject_user,
        coalesce(subject_team, '') AS subject_team, coalesce(subject_key, '') AS subject_key, coalesce(price_version, '') AS price_version,
        -- Overage 6 is a transfer, which is no usage.
        (kind IN ('C', 'L') OR kind = 'H' AND overage <> 6 OR kind = 'E' AND (charged_micros > 0 OR uncollected_micros > 0 OR detail IS NOT NULL))::int AS actions,
        charged_micros, uncollected_micros, coalesce((detail -> 'usage' ->> 'input_tokens')::numeric, 0) AS input_tokens,
        coalesce((detail -> 'usage' ->> 'output_tokens')::numeric, 0) AS output_tokens, coalesce(cost_usd, 0) AS cost_usd
),
used AS (
    SELECT account_no, tenant_id, partition, day, item, model, wallet, subject_user, subject_team, subject_key, price_version,
        actions, charged_micros, uncollected_micros, input_tokens, output_tokens, cost_usd
    FROM inserted WHERE actions = 1
    UNION ALL
    -- A late Commit tells the whole usage, of which its hold's expiry may have told a part.
    SELECT l.account_no, l.tenant_id, l.partition, l.day, l.item, l.model, l.wallet, l.subject_user, l.subject_team, l.subject_key,
        l.price_version, -e.actions, 0, -e.uncollected_micros, -e.input_tokens, -e.output_tokens, -e.cost_usd
    FROM inserted AS l CROSS JOIN LATERAL (
        SELECT actions, uncollected_micros, input_tokens, output_tokens, cost_usd
        FROM inserted AS i WHERE i.kind = 'E' AND i.account_no = l.account_no AND i.txn = l.txn
        UNION ALL
        SELECT (charged_micros > 0 OR uncollected_micros > 0 OR detail IS NOT NULL)::int, uncollected_micros,
            coalesce((detail -> 'usage' ->> 'input_tokens')::numeric, 0), coalesce((detail -> 'usage' ->> 'output_tokens')::numeric, 0),
            coalesce(cost_usd, 0)
        FROM ledger AS p WHERE p.account_no = l.account_no AND p.kind = 'E' AND p.txn = l.txn AND p.txn_at = l.txn_at
        -- A hold expires once; and this is looked up for each late Commit, never joined with the whole ledger.
        LIMIT 1
    ) AS e
    WHERE l.kind = 'L' AND e.actions = 1
),
sums AS (
    SELECT account_no, tenant_id, partition, day, item, model, wallet, subject_user, subject_team, subject_key, price_version,
        sum(actions) AS actions, sum(charged_micros) AS charged_micros, sum(uncollected_micros) AS uncollected_micros,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens, sum(cost_usd) AS cost_usd
    FROM used
    GROUP BY account_no, tenant_id, partition, day, item, model, wallet, subject_user, subject_team, subject_key, price_version
),
by_account AS (
    INSERT INTO usage_daily AS d (
        account_no, tenant_id, day, group_id, item, model, wallet, subject_user, subject_team, subject_key, price_version,
        actions, charged_micros, uncollected_micros, input_tokens, output_tokens, cost_usd)
    SELECT account_no, tenant_id, day,
        substr(sha256(convert_to(jsonb_build_array(item, model, wallet, subject_user, subject_team, subject_key, price_version)::text, 'UTF8')), 1, 16),
        item, model, wallet, subject_user, subject_team, subject_key, price_version,
        actions, charged_micros, uncollected_micros, input_tokens, output_tokens, cost_usd
    FROM sums
    ON CONFLICT (account_no, day, group_id) DO UPDATE SET
        actions = d.actions + EXCLUDED.actions, charged_micros = d.charged_micros + EXCLUDED.charged_micros,
        uncollected_micros = d.uncollected_micros + EXCLUDED.uncollected_micros, input_tokens = d.input_tokens + EXCLUDED.input_tokens,
        output_tokens = d.output_tokens + EXCLUDED.output_tokens, cost_usd = d.cost_usd + EXCLUDED.cost_usd
),
by_tenant AS (
    INSERT INTO usage_tenant_daily AS d (
        tenant_id, day, partition, group_id, item, model, wallet, price_version,
        actions, charged_micros, uncollected_micros, input_tokens, output_tokens, cost_usd)
    SELECT tenant_id, day, partition,
        substr(sha256(convert_to(jsonb_build_array(item, model, wallet, price_version)::text, 'UTF8')), 1, 16) AS group_id,
        item, model, wallet, price_version,
        sum(actions), sum(charged_micros), sum(uncollected_micros), sum(input_tokens), sum(output_tokens), sum(cost_usd)
    FROM sums
    GROUP BY tenant_id, day, partition, item, model, wallet, price_version
    -- Whoever revives entries meets the flusher here: both take the rows in the same order.
    ORDER BY tenant_id, day, partition, group_id
    ON CONFLICT (tenant_id, day, partition, group_id) DO UPDATE SET
        actions = d.actions + EXCLUDED.actions, charged_micros = d.charged_micros + EXCLUDED.charged_micros,
        uncollected_micros = d.uncollected_micros + EXCLUDED.uncollected_micros, input_tokens = d.input_tokens + EXCLUDED.input_tokens,
        output_tokens = d.output_tokens + EXCLUDED.output_tokens, cost_usd = d.cost_usd + EXCLUDED.cost_usd
)
SELECT count(*) FROM inserted;

-- name: existing_digests
SELECT l.account_no, l.kind, replace(l.txn::text, '-', '') AS txn, encode(l.digest, 'hex') AS digest
FROM unnest($1::bigint[], $2::text[], $3::uuid[], $4::bigint[]) AS k (account_no, kind, txn, txn_ms)
JOIN ledger AS l ON l.account_no = k.account_no AND l.kind = k.kind AND l.txn = k.txn AND l.txn_at = meterd_time(k.txn_ms);

-- name: count_accounts
-- Sums are added, but in the transaction that inserts the records they sum up: a repeat of the one without the other is impossible.
UPDATE accounts AS a SET
    epoch = u.epoch, last_seq = u.last_seq, last_txn = u.last_txn, applied_change_no = u.change_no, held_micros = u.held,
    granted_micros = a.granted_micros + u.granted, spent_micros = a.spent_micros + u.spent,
    expired_micros = a.expired_micros + u.expired, revoked_micros = a.revoked_micros + u.revoked
FROM unnest($1::text::bigint[], $2::text::bigint[], $3::text::bigint[], $4::text::text[], $5::text::bigint[], $6::text::bigint[],
            $7::text::bigint[], $8::text::bigint[], $9::text::bigint[], $10::text::bigint[])
    AS u (account_no, epoch, last_seq, last_txn, change_no, held, granted, spent, expired, revoked)
WHERE a.account_no = u.account_no;

-- name: set_wallets
-- Values after the wallet's last record, so a repeat sets the same.
INSERT INTO wallets AS w (tenant_id, account_no, wallet, debt_micros, held_micros)
SELECT ($1::text[])[tenant_place], account_no, wallet, debt, held
FROM unnest($2::text::integer[], $3::text::bigint[], $4::text::text[], $5::text::bigint[], $6::text::bigint[])
    AS u (tenant_place, account_no, wallet, debt, held)
ON CONFLICT (account_no, wallet) DO UPDATE SET debt_micros = EXCLUDED.debt_micros, held_micros = EXCLUDED.held_micros
WHERE (w.debt_micros, w.held_micros) IS DISTINCT FROM (EXCLUDED.debt_micros, EXCLUDED.held_micros);

-- name: count_grants
-- As count_accounts.
UPDATE grants AS g SET
    spent_micros = g.spent_micros + u.spent, expired_micros = g.expired_micros + u.expired, revoked_micros = g.revoked_micros + u.revoked
FROM unnest($2::text::integer[], $3::text::uuid[], $4::text::bigint[], $5::text::bigint[], $6::text::bigint[])
    AS u (tenant_place, grant_id, spent, expired, revoked)
WHERE g.tenant_id = ($1::text[])[u.tenant_place] AND g.grant_id = u.grant_id;

-- name: mark_changes
-- A repeat finds them marked.
UPDATE account_changes AS c SET applied_at = now()
FROM unnest($1::bigint[], $2::bigint[]) AS u (account_no, change_no)
WHERE c.account_no = u.account_no AND c.change_no = u.change_no AND c.applied_at IS NULL;

-- name: mark_grants
-- A repeat finds them marked.
UPDATE grants AS g SET applied_at = now()
FROM unnest($1::text[], $2::uuid[]) AS u (tenant_id, grant_id)
WHERE g.tenant_id = u.tenant_id AND g.grant_id = u.grant_id AND g.applied_at IS NULL;

-- name: mark_revoked
-- A repeat sets the same.
UPDATE grants AS g SET revoked = true
FROM unnest($1::text[], $2::uuid[]) AS u (tenant_id, revocation_id)
JOIN revocations AS r ON r.tenant_id = u.tenant_id AND r.revocation_id = u.revocation_id
WHERE g.tenant_id = r.tenant_id AND g.grant_id = r.grant_id;

-- name: move_cursors
-- In the transaction of the rows before the cursor; a repeat is refused, because the cursor no longer stands where it began.
UPDATE partitions AS p SET
    cursor = u.cursor, last_txn = CASE WHEN u.last_txn = '' THEN p.last_txn ELSE u.last_txn END,
    flushed_count = p.flushed_count + u.flushed, flushed_at = now(), fresh_at = greatest(p.fresh_at, meterd_time(u.fresh_ms))
FROM unnest($1::integer[], $2::text[], $3::text[], $4::bigint[], $5::bigint[]) AS u (partition, cursor, last_txn, flushed, fresh_ms)
WHERE p.partition = u.partition;

-- name: insert_dead
-- A repeat finds the entry there.
INSERT INTO outbox_dead (partition, entry_id, digest, address, cause, reason, raw)
SELECT u.partition, u.entry_id, decode(u.digest, 'hex'), u.address, u.cause, u.reason, u.raw
FROM unnest($1::integer[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[])
    AS u (partition, entry_id, digest, address, cause, reason, raw)
ON CONFLICT (partition, entry_id, digest) DO NOTHING;

-- name: park_accounts
-- A repeat sets the same.
UPDATE accounts SET parked = true WHERE address = ANY($1::text[]) AND NOT parked;

-- name: unpark_account
-- A repeat sets the same.
UPDATE accounts SET parked = false WHERE address = $1;

-- name: waiting
SELECT dead_no, partition, entry_id, raw FROM outbox_dead WHERE address = $1 AND resolved_at IS NULL ORDER BY dead_no FOR UPDATE;

-- name: resolve
-- A repeat finds them resolved.
UPDATE outbox_dead SET resolved_at = now() WHERE dead_no = ANY($1::bigint[]) AND resolved_at IS NULL;

-- name: dead_counts
SELECT count(*) FILTER (WHERE cause <> 'parked') AS dead, count(*) FILTER (WHERE cause = 'parked') AS parked
FROM outbox_dead WHERE resolved_at IS NULL;
