"""What the ledger's records used of limits, added up in the transaction that writes them, so that each level is told of exactly once."""

from __future__ import annotations

import collections
import dataclasses
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from meterd.core import events as core_events
from meterd.core import ledger, limit_levels, limits
from meterd.postgres import events, pool, records, sql
from meterd.postgres import limits as definitions

_SQL = sql.read("limit_uses")

_COMMITTED_LATE = b"L"
_EXPIRED = b"E"
_USES = frozenset((b"C", _COMMITTED_LATE, b"H", _EXPIRED))
_TRANSFER = str(int(ledger.Overage.TRANSFER)).encode()

# Account, limit's number, value, operation.
Key = tuple[int, int, str, str]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Owned:
    """The limits of an account."""

    account_id: str
    defined: Sequence[definitions.Definition]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What one record adds to one level."""

    at: int
    limit: limits.Limit
    key: limit_levels.Key
    amount: int
    at_ms: int


async def decide(connection: Any, columns: records.Columns, owners: Sequence[events.Owner]) -> None:
    """Adds up what these new ledger rows used of limits, and writes the events of the levels that they reached.

    Called in the transaction that inserts the rows, with their accounts locked.
    """
    kinds, overages = columns.values[b"k"], columns.values[b"l"]
    places = [at for at in range(len(columns)) if kinds[at] in _USES and overages[at] != _TRANSFER]
    if not places:
        return
    limited = await _limited(connection, {owners[at].no for at in places})
    if not limited:
        return
    places = [at for at in places if owners[at].no in limited]
    already = await _charged_before(connection, columns, owners, places)
    parts = [part for at in places for part in _parts(columns, at, limited[owners[at].no], already.get(at, 0))]
    if not parts:
        return
    keys = {(owners[part.at].no, *part.key) for part in parts}
    levels = await _levels(connection, sorted(keys))
    changed: dict[Key, tuple[str, limits.Limit]] = {}
    drafts: list[core_events.Draft] = []
    for part in parts:
        owner = owners[part.at]
        key = (owner.no, *part.key)
        levels[key], crossings = limit_levels.step(levels.get(key), part.limit, part.key, part.amount, part.at_ms)
        changed[key] = owner.tenant_id, part.limit
        drafts += [
            limit_levels.draft(
                crossing,
                tenant_id=owner.tenant_id,
                account_no=owner.no,
                account_id=limited[owner.no].account_id,
                transaction_id=_transaction_id(columns, part.at),
                at_ms=int(columns.values[b"at"][part.at]),
            )
            for crossing in crossings
        ]
    await _write(connection, changed, levels)
    await events.add(connection, drafts, time.time_ns() // 1_000_000)


async def _limited(connection: Any, account_nos: set[int]) -> dict[int, _Owned]:
    """Those of the accounts that have limits."""
    found: dict[int, list[definitions.Definition]] = collections.defaultdict(list)
    names: dict[int, str] = {}
    for row in await connection.fetch(_SQL["defined"], sorted(account_nos)):
        found[row["account_no"]].append(definitions.definition_of(row))
        names[row["account_no"]] = row["account_id"]
    return {no: _Owned(account_id=names[no], defined=defined) for no, defined in found.items()}


async def _charged_before(
    connection: Any, columns: records.Columns, owners: Sequence[events.Owner], places: Sequence[int]
) -> dict[int, int]:
    """What the expiries of late Commits had charged, by the record's place."""
    kinds, txns = columns.values[b"k"], columns.values[b"t"]
    late = {(owners[at].no, txns[at].decode()): at for at in places if kinds[at] == _COMMITTED_LATE}
    if not late:
        return {}
    rows = await connection.fetch(
        _SQL["charged_before"],
        [no for no, _ in late],
        [txn for _, txn in late],
        [columns.txn_ms[at] for at in late.values()],
    )
    return {late[row["account_no"], row["txn_hex"]]: row["charged_micros"] for row in rows}


def _parts(columns: records.Columns, at: int, owned: _Owned, already_micros: int) -> list[_Part]:
    """What a record adds, and to which levels. One that charged nothing and has no detail was only a hold."""
    values = columns.values
    charged_micros = columns.numbers[b"c"][at]
    if values[b"k"][at] == _EXPIRED and charged_micros == 0 and not values[b"j"][at]:
        return []
    record = limit_levels.Settled(
        kind=values[b"k"][at].decode(),
        at_ms=int(values[b"at"][at]),
        charged_micros=charged_micros,
        terms=limits.decoded(values[b"m"][at]),
        detail=limits.decoded(values[b"j"][at]),
        already_micros=already_micros,
    )
    at_ms = record.counts_at_ms
    counting = [one.limit for one in owned.defined if one.counts_from_ms <= at_ms]
    return [
        _Part(at=at, limit=limit, key=key, amount=amount, at_ms=at_ms)
        for limit, key, amount in limit_levels.counted(counting, record)
    ]


async def _levels(connection: Any, keys: Sequence[Key]) -> dict[Key, limit_levels.Level]:
    rows = await connection.fetch(_SQL["uses"], *map(list, zip(*keys, strict=True)))
    return {
        (row["account_no"], row["limit_no"], row["value"], row["operation"]): limit_levels.Level(
            counter=limits.Counter(at=row["at"], over=0, used=list(row["used"])), cap=row["cap"], told=row["told"]
        )
        for row in rows
    }


async def _write(
    connection: Any, changed: Mapping[Key, tuple[str, limits.Limit]], levels: Mapping[Key, limit_levels.Level]
) -> None:
    rows = [
        (
            tenant_id,
            *key,
            levels[key].counter.at,
            "{" + ",".join(map(str, levels[key].counter.used)) + "}",
            levels[key].cap,
            levels[key].told,
            limit_levels.ends_ms(levels[key], limit),
        )
        for key, (tenant_id, limit) in sorted(changed.items())
    ]
    await connection.execute(_SQL["set_uses"], *map(list, zip(*rows, strict=True)))


def _transaction_id(columns: records.Columns, at: int) -> str:
    return columns.values[b"k"][at].decode() + str(uuid.UUID(hex=columns.values[b"t"][at].decode()))


async def prune(connections: asyncpg.Pool, before_ms: int, *, count_max: int) -> int:
    """Deletes uses whose window ended before; answers how many."""
    async with connections.acquire(timeout=pool.CONNECT_TIMEOUT_S) as connection:
        status = await connection.execute(_SQL["prune"], before_ms, count_max)
    return int(status.rpartition(" ")[2])
