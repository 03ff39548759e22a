"""Sums for people: usage, revenue, burn and top accounts, from the daily sums that the flusher keeps."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import AsyncGenerator, Sequence
from decimal import Decimal
from typing import Any

import asyncpg

from meterd.core import errors
from meterd.postgres import pool, sql

_SQL = sql.read("reports")

# What usage can be grouped by, and the column that has it.
COLUMNS = {
    "day": "day",
    "feature": "item",
    "model": "model",
    "user": "subject_user",
    "team": "subject_team",
    "key": "subject_key",
    "wallet": "wallet",
}
# Those that the tenants' small table has too.
_TENANT_COLUMNS = frozenset(("day", "feature", "model", "wallet"))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """One group's sums. `cost_usd` and `margin_usd` are exact decimal strings."""

    names: Sequence[str]
    actions: int
    charged_micros: int
    uncollected_micros: int
    input_tokens: int
    output_tokens: int
    cost_usd: str
    margin_usd: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class UsageQuery:
    """Both days are included. `account_id` "" is the whole tenant; `group_by` names at least one of COLUMNS, none twice."""

    tenant_id: str
    first_day: datetime.date
    last_day: datetime.date
    account_id: str
    group_by: Sequence[str]
    count_max: int
    # For settlements whose price book Postgres does not have.
    credit_value_femtos: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TopAccount:
    account_id: str
    actions: int
    charged_micros: int
    cost_usd: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Burn:
    """What is left, and what was charged since the first day that was asked for."""

    created_ms: int
    available_micros: int
    charged_micros: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Revenue:
    """Of one currency, in its major unit. Revenue is net of what went back; `paid` (of `purchases`) is not."""

    currency: str
    package_revenue: str
    subscription_revenue: str
    purchases: int
    paid: Decimal


@contextlib.asynccontextmanager
async def _reading(connections: asyncpg.Pool, tenant_id: str) -> AsyncGenerator[Any]:
    async with pool.as_tenant(connections, tenant_id) as connection:
        await connection.execute(_SQL["settings"])
        yield connection


def usage_statement(group_by: Sequence[str], *, one_account: bool) -> str:
    """The SQL for these groups. Its $1 is the account's number, or the tenant's id; see _usage_rows for the others."""
    columns = [COLUMNS[name] for name in group_by]
    small = not one_account and _TENANT_COLUMNS.issuperset(group_by)
    values = ["to_char(day, 'YYYY-MM-DD')" if column == "day" else column for column in columns]
    # The total has no groups, and comes first. Days in order, the largest charges first; names decide between equals.
    order = [
        f"GROUPING({columns[0]}) DESC",
        *(["day"] if "day" in columns else []),
        "sum(charged_micros) DESC NULLS LAST",
        *columns,
    ]
    text = _SQL["usage"]
    for place, found in (
        ("{columns}", ", ".join(columns)),
        ("{values}", ", ".join(values)),
        ("{order}", ", ".join(order)),
        ("{source}", "usage_tenant_daily" if small else "usage_daily"),
        ("{filter}", "account_no = $1" if one_account else "tenant_id = $1"),
    ):
        text = text.replace(place, found)
    return text


async def usage(connections: asyncpg.Pool, query: UsageQuery) -> tuple[Usage, list[Usage]]:
    """The total of all groups, and up to `count_max` of them. NotFoundError: no such account."""
    async with _reading(connections, query.tenant_id) as connection:
        owner: str | int | None = query.tenant_id
        if query.account_id:
            owner = await connection.fetchval(_SQL["account_no"], query.tenant_id, query.account_id)
            if owner is None:
                raise errors.NotFoundError("account_id: no such account")
        rows = await connection.fetch(
            usage_statement(query.group_by, one_account=bool(query.account_id)),
            owner,
            query.first_day,
            query.last_day,
            query.credit_value_femtos,
            query.count_max + 1,
        )
    total, *groups = [_usage(row) for row in rows]
    return total, groups


def _usage(row: Any) -> Usage:
    return Usage(
        names=row["names"],
        actions=int(row["actions"]),
        charged_micros=int(row["charged_micros"]),
        uncollected_micros=int(row["uncollected_micros"]),
        input_tokens=int(row["input_tokens"]),
        output_tokens=int(row["output_tokens"]),
        cost_usd=row["cost_usd"],
        margin_usd=row["margin_usd"],
    )


async def top_accounts(
    connections: asyncpg.Pool, tenant_id: str, first_day: datetime.date, last_day: datetime.date, count_max: int
) -> list[TopAccount]:
    """The accounts that were charged most from the first day to the last, most first; the older one first between equals."""
    async with _reading(connections, tenant_id) as connection:
        rows = await connection.fetch(_SQL["top_accounts"], tenant_id, first_day, last_day, count_max)
    return [
        TopAccount(
            account_id=row["account_id"],
            actions=int(row["actions"]),
            charged_micros=int(row["charged_micros"]),
            cost_usd=row["cost_usd"],
        )
        for row in rows
    ]


async def burn(
    connections: asyncpg.Pool, tenant_id: str, account_id: str, first_day: datetime.date, now_ms: int
) -> Burn:
    """NotFoundError: no such account."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        row = await connection.fetchrow(_SQL["burn"], tenant_id, account_id, now_ms, first_day)
    if row is None:
        raise errors.NotFoundError("account_id: no such account")
    return Burn(
        created_ms=row["created_ms"],
        available_micros=int(row["available_micros"]),
        charged_micros=int(row["charged_micros"]),
    )


async def revenue(
    connections: asyncpg.Pool, tenant_id: str, first_day: datetime.date, last_day: datetime.date
) -> list[Revenue]:
    """By currency, for purchases of both days and between."""
    async with _reading(connections, tenant_id) as connection:
        rows = await connection.fetch(_SQL["revenue"], tenant_id, first_day, last_day)
    return [Revenue(**dict(row)) for row in rows]


async def conversion(connections: asyncpg.Pool, tenant_id: str) -> tuple[int, int]:
    """How many accounts the tenant has, and how many of them have ever paid."""
    async with _reading(connections, tenant_id) as connection:
        row = await connection.fetchrow(_SQL["conversion"], tenant_id)
    return row["accounts"], row["paying_accounts"]
