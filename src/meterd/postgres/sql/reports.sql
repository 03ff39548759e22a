-- Reads only: nothing here changes a row. A tenant's rows only, whoever asks: reports run as the app role.

-- name: settings
-- A report may sort and group more than a request does, and its plan is worth making for its own days and account.
SELECT set_config('work_mem', '64MB', true), set_config('plan_cache_mode', 'force_custom_plan', true);

-- name: usage
-- {columns}, {values} and {order} come from fixed lists, {source} is one of the two tables of daily sums.
-- Prices are looked up for sums, not for rows: a credit's value belongs to a version. The first row is the total of all.
WITH priced AS (
    SELECT {columns}, price_version, sum(actions) AS actions, sum(charged_micros) AS charged_micros,
        sum(uncollected_micros) AS uncollected_micros, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(cost_usd) AS cost_usd
    FROM {source} WHERE {filter} AND day BETWEEN $2 AND $3
    GROUP BY {columns}, price_version
),
valued AS (
    SELECT {columns}, actions, charged_micros, uncollected_micros, input_tokens, output_tokens, cost_usd,
        -- micro-credits × femto-dollars
        charged_micros * coalesce(b.credit_value_femtos, $4::bigint) * 1e-21 AS value_usd
    FROM priced LEFT JOIN price_books AS b ON b.version = price_version
)
SELECT ARRAY[{values}] AS names, coalesce(sum(actions), 0) AS actions, coalesce(sum(charged_micros), 0) AS charged_micros,
    coalesce(sum(uncollected_micros), 0) AS uncollected_micros, coalesce(sum(input_tokens), 0) AS input_tokens,
    coalesce(sum(output_tokens), 0) AS output_tokens, trim_scale(coalesce(sum(cost_usd), 0))::text AS cost_usd,
    trim_scale(coalesce(sum(value_usd) - sum(cost_usd), 0))::text AS margin_usd
FROM valued GROUP BY GROUPING SETS (({columns}), ())
ORDER BY {order} LIMIT $5;

-- name: account_no
SELECT account_no FROM accounts WHERE tenant_id = $1 AND account_id = $2;

-- name: top_accounts
SELECT a.account_id, t.actions, t.charged_micros, trim_scale(t.cost_usd)::text AS cost_usd
FROM (
    SELECT account_no, sum(actions) AS actions, sum(charged_micros) AS charged_micros, sum(cost_usd) AS cost_usd
    FROM usage_daily WHERE tenant_id = $1 AND day BETWEEN $2 AND $3
    GROUP BY account_no ORDER BY sum(charged_micros) DESC, account_no LIMIT $4
) AS t JOIN accounts AS a USING (account_no)
ORDER BY t.charged_micros DESC, account_no;

-- name: burn
-- What could be spent by now as far as the ledger goes, and what was charged since the first of the days.
SELECT meterd_ms(a.created_at) AS created_ms,
    (SELECT coalesce(sum(amount_micros - spent_micros - expired_micros - revoked_micros), 0) FROM grants AS g
     WHERE g.account_no = a.account_no AND g.applied_at IS NOT NULL AND NOT g.revoked
        AND g.effective_at <= meterd_time($3) AND (g.expires_at IS NULL OR g.expires_at > meterd_time($3)))
    - (SELECT coalesce(sum(debt_micros), 0) FROM wallets AS w WHERE w.account_no = a.account_no) - a.held_micros AS available_micros,
    (SELECT coalesce(sum(charged_micros), 0) FROM usage_daily AS u WHERE u.account_no = a.account_no AND u.day >= $4) AS charged_micros
FROM accounts AS a WHERE a.tenant_id = $1 AND a.account_id = $2;

-- name: revenue
SELECT currency, trim_scale(coalesce(sum(amount) FILTER (WHERE kind = 'package'), 0))::text AS package_revenue,
    trim_scale(coalesce(sum(amount) FILTER (WHERE kind = 'subscription'), 0))::text AS subscription_revenue,
    count(*) FILTER (WHERE amount > 0) AS purchases, coalesce(sum(amount) FILTER (WHERE amount > 0), 0) AS paid
FROM purchases
WHERE tenant_id = $1 AND at >= $2::date::timestamp AT TIME ZONE 'UTC' AND at < ($3::date + 1)::timestamp AT TIME ZONE 'UTC'
GROUP BY currency ORDER BY currency;

-- name: conversion
-- The second is a walk along purchases_paying.
SELECT (SELECT count(*) FROM accounts WHERE tenant_id = $1) AS accounts,
    (SELECT count(DISTINCT account_no) FROM purchases WHERE tenant_id = $1 AND amount > 0) AS paying_accounts;
