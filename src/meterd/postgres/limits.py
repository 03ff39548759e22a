"""Limits in Postgres: their definitions, and what the ledger says that was used of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import asyncpg

from meterd.core import catalog as offers
from meterd.core import errors, limits, money
from meterd.postgres import catalog, pool, sql

_SQL = sql.read("limits")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Definition:
    """A limit, and since when (ms) it counts."""

    limit: limits.Limit
    counts_from_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NewLimit:
    """A limit as the caller asks for it."""

    limit_id: str
    subject: limits.Subject
    value: str
    metric: limits.Metric
    window: limits.Window
    cap: int
    observe: bool


class Limits:
    """Reads and writes of one tenant's limits. Errors of Postgres pass through as asyncpg raises them."""

    def __init__(
        self, connections: asyncpg.Pool, *, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._pool = connections
        self._clock_ms = clock_ms

    async def set_limit(
        self, tenant_id: str, account_id: str, new: NewLimit
    ) -> tuple[catalog.Account, Definition, bool]:
        """The account, the limit, and whether it was so before; then nothing is written.

        NotFoundError: no such account. FailedPreconditionError: the account has as many limits as it may.
        """
        now_ms = self._clock_ms()
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            account = await _locked(connection, tenant_id, account_id)
            defined = {one.limit.limit_id: one for one in await within(connection, account.account_no)}
            before = defined.get(new.limit_id)
            if before is None and len(defined) >= limits.LIMITS_PER_ACCOUNT_MAX:
                raise errors.FailedPreconditionError(f"limit: the account has {limits.LIMITS_PER_ACCOUNT_MAX} limits")
            after = await _defined(connection, account.account_no, new, before, now_ms)
            if after == before:
                return account, after, True
            await connection.execute(_SQL["upsert"], tenant_id, account.account_no, *_columns(after))
            await _write_change(connection, account, now_ms)
        return account, after, False

    async def delete_limit(self, tenant_id: str, account_id: str, limit_id: str) -> tuple[catalog.Account, bool]:
        """The account, and whether it had no such limit. NotFoundError: no such account."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            account = await _locked(connection, tenant_id, account_id)
            tag: str = await connection.execute(_SQL["delete"], account.account_no, limit_id)
            if tag.endswith(" 0"):
                return account, True
            await _write_change(connection, account, self._clock_ms())
        return account, False

    async def defined(self, tenant_id: str, account_id: str) -> list[Definition]:
        """The account's limits in the order of their ids."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            rows = await connection.fetch(_SQL["of_tenants_account"], tenant_id, account_id)
        return [_definition(row) for row in rows]


async def limited_accounts(connections: asyncpg.Pool) -> list[str]:
    """The addresses of all accounts with limits."""
    return [row["address"] for row in await connections.fetch(_SQL["limited_accounts"])]


async def within(connection: Any, account_no: int) -> list[Definition]:
    """The account's limits, in the connection's transaction."""
    return [_definition(row) for row in await connection.fetch(_SQL["of_account"], account_no)]


async def refresh_within(connection: Any, tenant_id: str, account_id: str, now_ms: int) -> None:
    """Tells the hot path of the plan's period if a limit goes by it, and went by another. The transaction has locked the account."""
    account = catalog.account_of(await catalog.row_of(connection, tenant_id, account_id))
    tag: str = await connection.execute(
        _SQL["set_period"], account.account_no, *await _period(connection, account.account_no)
    )
    if not tag.endswith(" 0"):
        await _write_change(connection, account, now_ms)


async def counted(
    connection: Any, account_no: int, last_seq: int, defined: Sequence[Definition], now_ms: int
) -> list[limits.Counted]:
    """What the account's records up to `last_seq` have used, in windows that still matter. Open holds are not in the ledger."""
    found: list[limits.Counted] = []
    for one in defined:
        if one.limit.metric != limits.Metric.HOLDS:
            found += await _counted(connection, account_no, last_seq, one, now_ms)
    return found


async def _counted(
    connection: Any, account_no: int, last_seq: int, one: Definition, now_ms: int
) -> list[limits.Counted]:
    limit, shape = one.limit, one.limit.shape()
    is_operation, is_rolling = shape.kind == limits.Kind.OPERATION, shape.kind == limits.Kind.ROLLING
    slot_ms = limits.slot_ms(shape) if is_rolling else 0
    at = limits.window_at(shape, now_ms)[0]
    since_ms = (at - shape.slots) * slot_ms if is_rolling else at
    if is_operation:
        since_ms = now_ms - limits.OPERATION_MEMORY_MS
    args = (limit.subject, slot_ms, limit.metric, is_operation, limit.value)
    rows = await connection.fetch(_SQL["counted"], account_no, last_seq, max(since_ms, one.counts_from_ms), *args)
    counters: dict[str, limits.Counter] = {}
    for row in rows:
        until_ms = row["last_ms"] + limits.OPERATION_MEMORY_MS
        fresh = limits.Counter(at=until_ms if is_operation else at, over=0, used=[0] * (shape.slots + 1))
        counter = counters.setdefault(limit.field(row["value"], row["operation"]), fresh)
        # Servers' clocks may be a little ahead of Postgres'.
        back = max(0, at - row["slot"]) if is_rolling else 0
        counter.used[back] = min(money.AMOUNT_MAX_MICROS, counter.used[back] + row["used"])
    return [limits.Counted(field=field, counter=counter) for field, counter in counters.items()]


def of_payload(rows: Iterable[Mapping[str, Any]]) -> list[limits.Limit]:
    """The limits that a change carries."""
    return [
        limits.Limit(
            limit_no=row["limit_no"],
            limit_id=row["limit_id"],
            subject=limits.Subject(row["subject"]),
            value=row["value"],
            metric=limits.Metric(row["metric"]),
            window=limits.Window(row["window"]),
            cap=row["cap"],
            observe=row["observe"],
            period=row["period"],
            anchor_ms=row["anchor_ms"],
        )
        for row in rows
    ]


async def _locked(connection: Any, tenant_id: str, account_id: str) -> catalog.Account:
    locked = await catalog.lock_accounts(connection, tenant_id, [account_id])
    if account_id not in locked:
        raise errors.NotFoundError("account_id: no such account")
    return catalog.account_of(await catalog.row_of(connection, tenant_id, account_id))


async def _period(connection: Any, account_no: int) -> tuple[str, int]:
    """The plan's period, and where it is counted from (ms; 0 for calendar months)."""
    row = await connection.fetchrow(_SQL["period"], account_no)
    if row is None or row["period"] == offers.CALENDAR_MONTH:
        return offers.CALENDAR_MONTH, 0
    return row["period"], row["anchor_ms"]


async def _defined(
    connection: Any, account_no: int, new: NewLimit, before: Definition | None, now_ms: int
) -> Definition:
    """The limit as it will be: with its counters if it counts the same as before, otherwise with new ones."""
    period, anchor_ms = offers.CALENDAR_MONTH, 0
    if new.window == limits.Window.PERIOD:
        period, anchor_ms = await _period(connection, account_no)
    number: int = await connection.fetchval(_SQL["next_number"], account_no)
    counts_from_ms = now_ms
    if before is not None:
        old = before.limit
        if (old.subject, old.value, old.metric, old.window) == (new.subject, new.value, new.metric, new.window):
            number, counts_from_ms = old.limit_no, before.counts_from_ms
    limit = limits.Limit(
        limit_no=number,
        limit_id=new.limit_id,
        subject=new.subject,
        value=new.value,
        metric=new.metric,
        window=new.window,
        cap=new.cap,
        observe=new.observe,
        period=period,
        anchor_ms=anchor_ms,
    )
    return Definition(limit=limit, counts_from_ms=counts_from_ms)


async def _write_change(connection: Any, account: catalog.Account, now_ms: int) -> None:
    defined = await within(connection, account.account_no)
    rows = [dataclasses.asdict(one.limit) for one in defined]
    await catalog.settings_within(connection, account, now_ms, limits=rows)


def _columns(one: Definition) -> tuple[Any, ...]:
    limit = one.limit
    what = (int(limit.subject), limit.value, int(limit.metric), int(limit.window))
    bounds = (limit.cap, limit.observe, one.counts_from_ms)
    return limit.limit_id, limit.limit_no, *what, *bounds, limit.period, limit.anchor_ms


def _definition(row: Any) -> Definition:
    limit = limits.Limit(
        limit_no=row["limit_no"],
        limit_id=row["limit_id"],
        subject=limits.Subject(row["subject"]),
        value=row["value"],
        metric=limits.Metric(row["metric"]),
        window=limits.Window(row["span"]),
        cap=row["cap"],
        observe=row["observe"],
        period=row["period"],
        anchor_ms=row["anchor_ms"],
    )
    return Definition(limit=limit, counts_from_ms=row["counts_from_ms"])
