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

# Above all numbers of changes, and a catalog's limits above that are still exact as doubles.
_PLACE_BITS = 40


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Definition:
    """A limit, since when (ms) it counts, and whether it is the catalog's for all accounts."""

    limit: limits.Limit
    counts_from_ms: int
    from_catalog: bool = False


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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Behind:
    """An account that does not have the limits of its tenant's catalog yet."""

    account_no: int
    tenant_id: str
    account_id: str
    address: str


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

        One of the catalog's with that id gives way to it. NotFoundError: no such account. FailedPreconditionError: the account has as many
        limits of its own as it may.
        """
        now_ms = self._clock_ms()
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            account = await _locked(connection, tenant_id, account_id)
            defined = {one.limit.limit_id: one for one in await within(connection, account.account_no)}
            before = defined.get(new.limit_id)
            own = [one for one in defined.values() if not one.from_catalog and one is not before]
            if len(own) >= limits.LIMITS_PER_ACCOUNT_MAX:
                raise errors.FailedPreconditionError(f"limit: the account has {limits.LIMITS_PER_ACCOUNT_MAX} limits")
            number: int = await connection.fetchval(_SQL["next_number"], account.account_no)
            after = await _defined(connection, account.account_no, new, before, number, now_ms)
            if after == before:
                return account, after, True
            await connection.execute(_SQL["upsert"], tenant_id, account.account_no, *_columns(after))
            await _write_change(connection, account, now_ms)
        return account, after, False

    async def delete_limit(self, tenant_id: str, account_id: str, limit_id: str) -> tuple[catalog.Account, bool]:
        """The account, and whether it had no such limit. The catalog's of that id is in force again, if it has one.

        NotFoundError: no such account. FailedPreconditionError: the limit is the catalog's.
        """
        now_ms = self._clock_ms()
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            account = await _locked(connection, tenant_id, account_id)
            defined = {one.limit.limit_id: one for one in await within(connection, account.account_no)}
            if limit_id not in defined:
                return account, True
            if defined[limit_id].from_catalog:
                raise errors.FailedPreconditionError(
                    "limit_id: is the catalog's for all accounts; set one of the same id for this one"
                )
            await connection.execute(_SQL["delete"], account.account_no, limit_id)
            await _take_over(connection, account, now_ms)
            await _write_change(connection, account, now_ms)
        return account, False

    async def follow(self, tenant_id: str, account_id: str) -> None:
        """Gives the account the limits of its tenant's catalog as they are now. A repeat changes nothing.

        NotFoundError: no such account.
        """
        now_ms = self._clock_ms()
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            account = await _locked(connection, tenant_id, account_id)
            if await _take_over(connection, account, now_ms):
                await _write_change(connection, account, now_ms)

    async def defined(self, tenant_id: str, account_id: str) -> list[Definition]:
        """The account's limits in the order of their ids."""
        async with pool.as_tenant(self._pool, tenant_id) as connection:
            rows = await connection.fetch(_SQL["of_tenants_account"], tenant_id, account_id)
        return [definition_of(row) for row in rows]


async def limited_accounts(connections: asyncpg.Pool) -> list[str]:
    """The addresses of all accounts with limits."""
    return [row["address"] for row in await connections.fetch(_SQL["limited_accounts"])]


async def behind(connections: asyncpg.Pool, after_no: int, *, count_max: int) -> list[Behind]:
    """Accounts of all tenants that do not have the limits of their catalog yet, in the order of their numbers, from after one of them."""
    return [Behind(**row) for row in await connections.fetch(_SQL["behind"], after_no, count_max)]


async def _take_over(connection: Any, account: catalog.Account, now_ms: int) -> bool:
    """Puts the catalog's limits among the account's, where it has none of its own of that id; answers whether that changed any."""
    row = await connection.fetchrow(_SQL["catalog_limits"], account.account_no)
    wanted = {item["limit_id"]: offers.LimitDefault(**item) for item in row["limits"]}
    defined = {one.limit.limit_id: one for one in await within(connection, account.account_no)}
    gone = [name for name, one in defined.items() if one.from_catalog and name not in wanted]
    for limit_id in gone:
        await connection.execute(_SQL["delete"], account.account_no, limit_id)
    is_changed = bool(gone)
    number: int = await connection.fetchval(_SQL["next_number"], account.account_no)
    for place, (limit_id, default) in enumerate(wanted.items()):
        before = defined.get(limit_id)
        if before is not None and not before.from_catalog:
            continue
        # One change may begin several counts; changes are never so many.
        fresh_no = number + (place << _PLACE_BITS)
        new = _new_limit(default)
        after = await _defined(connection, account.account_no, new, before, fresh_no, now_ms, from_catalog=True)
        if after != before:
            await connection.execute(_SQL["upsert"], account.tenant_id, account.account_no, *_columns(after))
            is_changed = True
    if row["had_no"] != row["wanted_no"]:
        await connection.execute(_SQL["set_catalog"], account.account_no, row["wanted_no"])
    return is_changed


def _new_limit(default: offers.LimitDefault) -> NewLimit:
    return NewLimit(
        limit_id=default.limit_id,
        subject=limits.SUBJECTS[default.subject],
        value=default.value,
        metric=limits.METRICS[default.metric],
        window=limits.WINDOWS[default.window],
        cap=default.cap,
        observe=default.observe,
    )


async def within(connection: Any, account_no: int) -> list[Definition]:
    """The account's limits, in the connection's transaction."""
    return [definition_of(row) for row in await connection.fetch(_SQL["of_account"], account_no)]


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
    connection: Any,
    account_no: int,
    new: NewLimit,
    before: Definition | None,
    number: int,
    now_ms: int,
    *,
    from_catalog: bool = False,
) -> Definition:
    """The limit as it will be: with its counters if it counts the same as before, otherwise with new ones of that number."""
    period, anchor_ms = offers.CALENDAR_MONTH, 0
    if new.window == limits.Window.PERIOD:
        period, anchor_ms = await _period(connection, account_no)
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
    return Definition(limit=limit, counts_from_ms=counts_from_ms, from_catalog=from_catalog)


async def _write_change(connection: Any, account: catalog.Account, now_ms: int) -> None:
    defined = await within(connection, account.account_no)
    rows = [dataclasses.asdict(one.limit) for one in defined]
    await catalog.settings_within(connection, account, now_ms, limits=rows)
    await connection.execute(_SQL["forget_uses"], account.account_no)


def _columns(one: Definition) -> tuple[Any, ...]:
    limit = one.limit
    what = (int(limit.subject), limit.value, int(limit.metric), int(limit.window))
    bounds = (limit.cap, limit.observe, one.counts_from_ms)
    return limit.limit_id, limit.limit_no, *what, *bounds, limit.period, limit.anchor_ms, one.from_catalog


def definition_of(row: Any) -> Definition:
    """The definition of a row of the statement `of_account`."""
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
    return Definition(limit=limit, counts_from_ms=row["counts_from_ms"], from_catalog=row["from_catalog"])
