"""Reports over a year of daily sums: how long each takes on some millions of rows, and by which plan.

The rows are made in Postgres itself, in the order in which a flusher would have written them, and the tenant's small table is added up
from them. Two tenants share the tables, so that no report is simply a read of the whole.
"""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import click
import uvloop

from benchmarks import results, world
from meterd.postgres import migrate, pool, reports, sql
from tests.acceptance import processes

TENANTS = ("bench", "other")
LAST_DAY = datetime.date(2026, 12, 31)
PARTITIONS = 64
ROUNDS = 3
# A person waits for it; the word is "seconds".
SECONDS_MAX = 5.0
_MAKE_TIMEOUT_S = 3_600.0
_SQL = sql.read("reports")

_ACCOUNTS = """
INSERT INTO accounts (tenant_id, account_id, address, partition, overage_policy, request_digest)
SELECT (ARRAY['bench', 'other'])[1 + n % 2], 'account-' || n, left(md5(n::text), 22), n % $2, 2, '' FROM generate_series(1, $1) AS n"""

# Eight rows a day and account: three features and five models, four users, two keys; a new price book each month.
_USAGE = """
INSERT INTO usage_daily
SELECT account_no, tenant_id, day,
    substr(sha256(convert_to(jsonb_build_array(item, model, wallet, subject_user, 'team', subject_key, version)::text, 'UTF8')), 1, 16),
    item, model, wallet, subject_user, 'team', subject_key, version,
    40, 1000000 * (1 + (account_no * 31 + g * 7) % 97), 0, 48000, 12000, 0.00012345 * (1 + account_no % 89)
FROM (
    SELECT a.account_no, a.tenant_id, d::date AS day, g, CASE WHEN g < 3 THEN 'feature:f' || g ELSE 'model:openai/gpt-' || g END AS item,
        CASE WHEN g < 3 THEN '' ELSE 'gpt-' || g END AS model, CASE WHEN g < 3 THEN 'lead_generation' ELSE 'default' END AS wallet,
        'user-' || account_no || '-' || g % 4 AS subject_user, 'key-' || g % 2 AS subject_key, 'book-' || to_char(d, 'MM') AS version
    FROM generate_series($1::timestamp, $2::timestamp, '1 day') AS d, accounts AS a, generate_series(0, 7) AS g
    OFFSET 0
) AS u"""

_TENANT_USAGE = """
INSERT INTO usage_tenant_daily
SELECT u.tenant_id, u.day, a.partition,
    substr(sha256(convert_to(jsonb_build_array(item, model, wallet, price_version)::text, 'UTF8')), 1, 16),
    item, model, wallet, price_version, sum(actions), sum(charged_micros), sum(uncollected_micros), sum(input_tokens), sum(output_tokens),
    sum(cost_usd)
FROM usage_daily AS u JOIN accounts AS a USING (account_no) GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 2"""

_PURCHASES = """
INSERT INTO purchases (tenant_id, purchase_id, account_no, kind, product_id, amount, currency, at)
SELECT a.tenant_id, 'pi_' || n, a.account_no, CASE WHEN n % 3 = 0 THEN 'subscription' ELSE 'package' END, 'p', 9.90 + n % 50,
    (ARRAY['USD', 'EUR'])[1 + n / 3 % 2], $2::date - n % 365 + interval '12 hours'
FROM generate_series(1, $1) AS n JOIN accounts AS a ON a.account_no = 1 + n * 7 % (SELECT max(account_no) FROM accounts)"""

_BOOKS = """
INSERT INTO price_books (version, content)
SELECT 'book-' || to_char(n, 'FM00'), '{"book": {"credit_value_femtos": 1000000000000}}' FROM generate_series(1, 12) AS n"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    accounts: int
    days: int
    purchases: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    name: str
    ask: Callable[[], Awaitable[Any]]
    statement: str
    values: tuple[Any, ...]


async def _make(dsn: str, extent: Extent) -> tuple[int, int]:
    """Fills an empty database; the number of daily sums by account and by tenant."""
    await migrate.migrate(dsn, partitions=PARTITIONS)
    connection = await pool.connect(dsn)
    try:
        await connection.execute("SET statement_timeout = 0")
        first_day = LAST_DAY - datetime.timedelta(days=extent.days - 1)
        for tenant_id in TENANTS:
            await connection.execute("INSERT INTO tenants (tenant_id) VALUES ($1)", tenant_id)
        await connection.execute(_BOOKS)
        for statement, *values in (
            (_ACCOUNTS, extent.accounts, PARTITIONS),
            (_USAGE, first_day, LAST_DAY),
            (_TENANT_USAGE,),
            (_PURCHASES, extent.purchases, LAST_DAY),
            ("VACUUM (ANALYZE) usage_daily, usage_tenant_daily, purchases, accounts",),
        ):
            await connection.execute(statement, *values, timeout=_MAKE_TIMEOUT_S)
        rows = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM usage_daily) AS fine, (SELECT count(*) FROM usage_tenant_daily) AS coarse"
        )
        assert rows is not None
        return rows["fine"], rows["coarse"]
    finally:
        await connection.close()


def _usage_case(connections: asyncpg.Pool, first_day: datetime.date, account_id: str, *group_by: str) -> _Case:
    query = reports.UsageQuery(
        tenant_id=TENANTS[0],
        first_day=first_day,
        last_day=LAST_DAY,
        account_id=account_id,
        group_by=group_by,
        count_max=1_000,
        credit_value_femtos=10**12,
    )
    days = (LAST_DAY - first_day).days + 1
    # The account with number 2 is the first of tenant "bench"; its id says so.
    owner = int(account_id.rpartition("-")[2]) if account_id else TENANTS[0]
    return _Case(
        name=f"usage of {account_id or 'the tenant'} by {', '.join(group_by)}, {days} days",
        ask=lambda: reports.usage(connections, query),
        statement=reports.usage_statement(group_by, one_account=bool(account_id)),
        values=(owner, first_day, LAST_DAY, 10**12, 1_001),
    )


def _cases(connections: asyncpg.Pool, extent: Extent) -> list[_Case]:
    tenant_id, year = TENANTS[0], LAST_DAY - datetime.timedelta(days=extent.days - 1)
    month = max(year, LAST_DAY - datetime.timedelta(days=29))
    now_ms = int(datetime.datetime(2026, 12, 31, 12, tzinfo=datetime.UTC).timestamp() * 1000)
    week = LAST_DAY - datetime.timedelta(days=6)
    return [
        _usage_case(connections, year, "", "day"),
        _usage_case(connections, year, "", "day", "feature", "model", "wallet"),
        _usage_case(connections, year, "", "user"),
        _usage_case(connections, month, "", "user"),
        _usage_case(connections, year, "", "team", "key"),
        _usage_case(connections, year, "account-2", "day", "user", "model"),
        _Case(
            name=f"top accounts, {extent.days} days",
            ask=lambda: reports.top_accounts(connections, tenant_id, year, LAST_DAY, 20),
            statement=_SQL["top_accounts"],
            values=(tenant_id, year, LAST_DAY, 20),
        ),
        _Case(
            name="burn of an account, 7 days",
            ask=lambda: reports.burn(connections, tenant_id, "account-2", week, now_ms),
            statement=_SQL["burn"],
            values=(tenant_id, "account-2", now_ms, week),
        ),
        _Case(
            name=f"revenue, {extent.days} days",
            ask=lambda: reports.revenue(connections, tenant_id, year, LAST_DAY),
            statement=_SQL["revenue"],
            values=(tenant_id, year, LAST_DAY),
        ),
        _Case(
            name="paying accounts",
            ask=lambda: reports.conversion(connections, tenant_id),
            statement=_SQL["conversion"],
            values=(tenant_id,),
        ),
    ]


async def _explain(connections: asyncpg.Pool, case: _Case) -> None:
    """Prints the plan on standard error, as the role and with the settings that a report has."""
    async with pool.as_tenant(connections, TENANTS[0]) as connection:
        await connection.execute(_SQL["settings"])
        rows = await connection.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {case.statement}", *case.values)
    click.echo(f"\n{case.name}:\n" + "\n".join(f"    {row[0]}" for row in rows), err=True)


async def _measure(dsn: str, extent: Extent) -> list[results.Line]:
    begin_s = time.perf_counter()
    fine, coarse = await _make(dsn, extent)
    made_s = time.perf_counter() - begin_s
    note = f"and {coarse:,} by tenant, made in {made_s:.0f} s"
    found = [results.Line(name="daily sums by account", measured=fine, unit="rows", note=note)]
    connections = await pool.create(dsn)
    try:
        for case in _cases(connections, extent):
            times_s = list[float]()
            for _ in range(ROUNDS):
                begin_s = time.perf_counter()
                await case.ask()
                times_s.append(time.perf_counter() - begin_s)
            found.append(
                results.Line(name=case.name, measured=statistics.median(times_s), unit="s", at_most=SECONDS_MAX)
            )
            await _explain(connections, case)
    finally:
        await connections.close()
    return found


def run(directory: pathlib.Path, extent: Extent) -> list[results.Line]:
    """Makes the sums in a Postgres of its own, which may use all cores but one's worth of time, and asks for each report."""
    ours, _ = world.cores()
    with processes.stores(directory, cores=None) as (_valkey, postgres), world.held_to(ours):
        return uvloop.run(_measure(postgres.dsn, extent))
