"""Events: decided from ledger rows in the transaction that writes them, so that each is told exactly once; and found by scans."""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
import uuid
from collections.abc import Sequence
from typing import Any, Protocol

import asyncpg

from meterd.core import errors, events, ids
from meterd.postgres import pool, records, sql

_SQL = sql.read("events")

# Kinds of records that change no wallet.
SETTINGS = b"S"
_EXPIRE = b"E"


class Owner(Protocol):
    """The account of a record."""

    @property
    def no(self) -> int: ...

    @property
    def tenant_id(self) -> str: ...


@dataclasses.dataclass(slots=True)
class _Wallet:
    """A wallet's alert while a batch is looked at."""

    tenant_id: str
    places: list[int] = dataclasses.field(default_factory=list[int])


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """How far the delivery of an event to one endpoint is. Times in ms, 0: not (any more)."""

    endpoint_id: uuid.UUID
    attempts: int
    next_ms: int
    delivered_ms: int
    dead_ms: int
    last_status: int
    last_error: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    event_id: uuid.UUID
    account_id: str
    type: str
    subject: str
    payload: Any
    at_ms: int
    deliveries: Sequence[Delivery]


async def decide(connection: Any, columns: records.Columns, owners: Sequence[Owner]) -> None:
    """Writes the events that these new ledger rows are. Called in the transaction that inserts them, with their accounts locked."""
    wallets: dict[tuple[int, bytes], _Wallet] = {}
    names, kinds = columns.values[b"w"], columns.values[b"k"]
    for at, owner in enumerate(owners):
        if kinds[at] != SETTINGS:
            wallets.setdefault((owner.no, names[at]), _Wallet(owner.tenant_id)).places.append(at)
    if not wallets:
        return
    order = list(wallets.items())
    rows = await connection.fetch(
        _SQL["alerts"], [no for (no, _), _ in order], [wallet.decode() for (_, wallet), _ in order]
    )
    drafts: list[events.Draft] = []
    changed: list[tuple[str, int, str, bool, bool]] = []
    for row in sorted(rows, key=lambda row: row["place"]):
        (no, name), wallet = order[row["place"] - 1]
        before = _alert(row)
        after = _walk(columns, no, wallet, row, before, drafts)
        if after != before:
            changed.append((wallet.tenant_id, no, name.decode(), after.low_armed, after.exhausted_armed))
    if changed:
        changed.sort(key=lambda alert: alert[1:3])
        await connection.execute(_SQL["set_alerts"], *map(list, zip(*changed, strict=True)))
    await add(connection, drafts, time.time_ns() // 1_000_000)


def _alert(row: Any) -> events.Alert | None:
    if row["low_armed"] is None:
        return None
    return events.Alert(low_armed=row["low_armed"], exhausted_armed=row["exhausted_armed"])


def _walk(
    columns: records.Columns,
    no: int,
    wallet: _Wallet,
    row: Any,
    before: events.Alert | None,
    drafts: list[events.Draft],
) -> events.Alert:
    """Takes the wallet's records in order, adds their drafts, and answers the alert after the last."""
    threshold_micros = row["threshold_micros"]
    alert = before
    for at in wallet.places:
        left_micros = int(columns.values[b"b"][at]) + int(columns.values[b"q"][at])
        if alert is None:
            alert = events.begin(left_micros - _added_micros(columns, at), threshold_micros)
        step = events.step(alert, left_micros, threshold_micros)
        alert = step.alert
        uncollected_micros = int(columns.values[b"u"][at])
        if not (step.is_low or step.is_exhausted or uncollected_micros > 0 or columns.values[b"k"][at] == _EXPIRE):
            continue
        maker = _Maker(columns, at, wallet.tenant_id, no, row["account_id"])
        if step.is_low:
            drafts.append(maker.balance(events.Type.BALANCE_LOW, left_micros, threshold_micros))
        if step.is_exhausted:
            drafts.append(maker.balance(events.Type.BALANCE_EXHAUSTED, left_micros, threshold_micros))
        if uncollected_micros > 0:
            drafts.append(maker.uncollected(uncollected_micros))
        if columns.values[b"k"][at] == _EXPIRE:
            drafts.append(maker.expired())
    assert alert is not None
    return alert


def _added_micros(columns: records.Columns, at: int) -> int:
    numbers = columns.numbers
    return numbers[b"g"][at] - numbers[b"c"][at] - numbers[b"x"][at] - numbers[b"v"][at]


class _Maker:
    """Makes the events of one record."""

    def __init__(self, columns: records.Columns, at: int, tenant_id: str, account_no: int, account_id: str) -> None:
        self._values = {
            name: column[at].decode() for name, column in columns.values.items() if name not in (b"m", b"j")
        }
        self._tenant_id = tenant_id
        self._account_no = account_no
        self._account_id = account_id

    def _draft(self, kind: events.Type, subject: str, once: str, payload: dict[str, Any]) -> events.Draft:
        return events.Draft(
            tenant_id=self._tenant_id,
            account_no=self._account_no,
            account_id=self._account_id,
            type=kind,
            subject=subject,
            once=once,
            payload=payload,
            at_ms=int(self._values[b"at"]),
        )

    @property
    def _transaction_id(self) -> str:
        return self._values[b"k"] + str(uuid.UUID(hex=self._values[b"t"]))

    def _amount(self, name: bytes) -> int:
        return int(self._values[name])

    def balance(self, kind: events.Type, left_micros: int, threshold_micros: int | None) -> events.Draft:
        wallet = self._values[b"w"]
        payload: dict[str, Any] = {
            "wallet": wallet,
            "left_micros": left_micros,
            "available_micros": self._amount(b"b"),
            "held_micros": self._amount(b"q"),
            "transaction_id": self._transaction_id,
        }
        if kind == events.Type.BALANCE_LOW:
            payload["threshold_micros"] = threshold_micros
        # A wallet's record falls to a threshold, or below it, once.
        return self._draft(kind, wallet, self._values[b"s"], payload)

    def uncollected(self, uncollected_micros: int) -> events.Draft:
        payload: dict[str, Any] = {
            "wallet": self._values[b"w"],
            "uncollected_micros": uncollected_micros,
            "charged_micros": self._amount(b"c"),
            "transaction_id": self._transaction_id,
        }
        if self._values[b"k"] != "H":
            payload["hold_id"] = events.hold_text(self._values[b"t"], self._values[b"a"])
        return self._draft(events.Type.USAGE_UNCOLLECTED, self._transaction_id, self._transaction_id, payload)

    def expired(self) -> events.Draft:
        hold_id = events.hold_text(self._values[b"t"], self._values[b"a"])
        payload = {
            "wallet": self._values[b"w"],
            "hold_id": hold_id,
            "held_micros": self._amount(b"h"),
            "charged_micros": self._amount(b"c"),
            "returned_micros": self._amount(b"r"),
            "forfeited_micros": self._amount(b"x"),
            "transaction_id": self._transaction_id,
        }
        return self._draft(events.Type.HOLD_EXPIRED, hold_id, self._values[b"t"], payload)


async def add(connection: Any, drafts: Sequence[events.Draft], now_ms: int) -> int:
    """Writes events and queues their deliveries for now; answers how many there were not yet. A repeat writes none."""
    if not drafts:
        return 0
    return await connection.fetchval(
        _SQL["insert_events"],
        # Those of one call keep their order.
        sorted(ids.uuid7(now_ms) for _ in drafts),
        [draft.tenant_id for draft in drafts],
        [draft.account_no for draft in drafts],
        [draft.type.value for draft in drafts],
        [draft.subject for draft in drafts],
        [draft.once for draft in drafts],
        [json.dumps({"account_id": draft.account_id, **draft.payload}, ensure_ascii=False) for draft in drafts],
        [draft.at_ms for draft in drafts],
        now_ms,
    )


async def tell_expiring(connections: asyncpg.Pool, now_ms: int, *, count_max: int) -> tuple[int, int]:
    """Tells of grants that expire soon and have something left; answers how many it looked at, and how many it told of.

    Each is told of once, whatever is granted or spent afterwards. Any number of servers may scan at once.
    """
    async with (
        connections.acquire(timeout=pool.CONNECT_TIMEOUT_S) as connection,
        connection.transaction(isolation="read_committed"),
    ):
        rows = await connection.fetch(_SQL["expiring"], now_ms, events.EXPIRING_AHEAD_MS, count_max)
        if not rows:
            return 0, 0
        # One that expired while nobody scanned is told of no more: its credits are gone.
        told = [row for row in rows if row["left_micros"] > 0 and not row["revoked"] and row["expires_ms"] > now_ms]
        count = await add(connection, [_expiring(row, now_ms) for row in told], now_ms)
        await connection.execute(
            _SQL["mark_expiring"], [row["tenant_id"] for row in rows], [row["grant_id"] for row in rows]
        )
    return len(rows), count


def _expiring(row: Any, now_ms: int) -> events.Draft:
    grant_id = str(row["grant_id"])
    return events.Draft(
        tenant_id=row["tenant_id"],
        account_no=row["account_no"],
        account_id=row["account_id"],
        type=events.Type.GRANT_EXPIRING,
        subject=grant_id,
        once=grant_id,
        payload={
            "wallet": row["wallet"],
            "grant_id": grant_id,
            "left_micros": row["left_micros"],
            "expires_ms": row["expires_ms"],
        },
        at_ms=now_ms,
    )


async def tell_spikes(connections: asyncpg.Pool, tenant_id: str, now_ms: int, *, count_max: int) -> int:
    """Tells of the tenant's accounts whose spending of this UTC day is a spike; answers how many were not told of yet today."""
    today = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC).date()
    async with (
        connections.acquire(timeout=pool.CONNECT_TIMEOUT_S) as connection,
        connection.transaction(isolation="read_committed"),
    ):
        rows = await connection.fetch(
            _SQL["spikes"],
            tenant_id,
            today,
            events.SPIKE_BASELINE_DAYS,
            events.SPIKE_MIN_MICROS,
            events.SPIKE_FACTOR,
            count_max,
        )
        return await add(
            connection,
            [
                events.Draft(
                    tenant_id=tenant_id,
                    account_no=row["account_no"],
                    account_id=row["account_id"],
                    type=events.Type.USAGE_SPIKE,
                    subject=today.isoformat(),
                    once=today.isoformat(),
                    payload={
                        "day": today.isoformat(),
                        "charged_micros": row["charged_micros"],
                        "mean_micros": row["mean_micros"],
                        "baseline_days": events.SPIKE_BASELINE_DAYS,
                    },
                    at_ms=now_ms,
                )
                for row in rows
            ],
            now_ms,
        )


async def tenants_after(connections: asyncpg.Pool, tenant_id: str, *, count_max: int) -> list[str]:
    """Tenants in the order of their ids, from the one behind `tenant_id`."""
    async with connections.acquire(timeout=pool.CONNECT_TIMEOUT_S) as connection:
        return [row[0] for row in await connection.fetch(_SQL["tenants"], tenant_id, count_max)]


async def prune(connections: asyncpg.Pool, before_ms: int, *, count_max: int) -> int:
    """Deletes the oldest events from before `before_ms` with their deliveries, but none that waits; answers how many."""
    async with connections.acquire(timeout=pool.CONNECT_TIMEOUT_S) as connection:
        status = await connection.execute(_SQL["prune"], before_ms, count_max)
    return int(status.rpartition(" ")[2])


async def set_low_balance(
    connections: asyncpg.Pool, tenant_id: str, account_id: str, threshold_micros: int | None
) -> None:
    """The threshold of one account, or with "" of all accounts of the tenant that have none. None: none. A repeat sets the same.

    NotFoundError: no such account.
    """
    async with pool.as_tenant(connections, tenant_id) as connection:
        if not account_id:
            await connection.fetchval(_SQL["set_low_balance_tenant"], tenant_id, threshold_micros)
        elif (
            await connection.fetchval(_SQL["set_low_balance_account"], tenant_id, account_id, threshold_micros) is None
        ):
            raise errors.NotFoundError("account_id: no such account")


async def listed(
    connections: asyncpg.Pool,
    tenant_id: str,
    *,
    account_id: str,
    types: Sequence[str],
    before: uuid.UUID,
    count_max: int,
) -> list[Event]:
    """The tenant's events before `before`, newest first. `account_id` "" and no types: all. NotFoundError: no such account."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        account_no = None
        if account_id:
            account_no = await connection.fetchval(_SQL["account_no"], tenant_id, account_id)
            if account_no is None:
                raise errors.NotFoundError("account_id: no such account")
        rows = await connection.fetch(_SQL["list_events"], tenant_id, before, account_no, list(types), count_max)
        found: dict[uuid.UUID, list[Delivery]] = {row["event_id"]: [] for row in rows}
        for row in await connection.fetch(_SQL["deliveries_of"], tenant_id, list(found)):
            found[row["event_id"]].append(_delivery(row))
    return [
        Event(
            event_id=row["event_id"],
            account_id=row["account_id"],
            type=row["type"],
            subject=row["subject"],
            payload=row["payload"],
            at_ms=row["at_ms"],
            deliveries=found[row["event_id"]],
        )
        for row in rows
    ]


def _delivery(row: Any) -> Delivery:
    return Delivery(
        endpoint_id=row["endpoint_id"],
        attempts=row["attempts"],
        next_ms=row["next_ms"] or 0,
        delivered_ms=row["delivered_ms"] or 0,
        dead_ms=row["dead_ms"] or 0,
        last_status=row["last_status"],
        last_error=row["last_error"],
    )
