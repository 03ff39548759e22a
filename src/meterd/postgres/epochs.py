"""Epochs of partitions: whoever recovers one begins a new epoch, and with it ends the right of all others to write."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from meterd.postgres import queries, sql

_SQL = sql.read("epochs")

# First half of the two-part advisory locks of recoveries, one per partition: "reco".
LOCK_CLASS = 0x7265636F


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """Where an account's ledger ends."""

    seq: int
    last_txn: str
    is_parked: bool


async def try_lock(connection: Any, partition: int) -> bool:
    """Whether this connection may recover the partition; it may until `unlock` or its end."""
    return await connection.fetchval(_SQL["try_lock"], LOCK_CLASS, partition)


async def unlock(connection: Any, partition: int) -> None:
    """Ends the right to recover the partition."""
    await connection.execute(_SQL["unlock"], LOCK_CLASS, partition)


async def begin(connection: Any, position: queries.Position, incarnation: str) -> queries.Position | None:
    """Begins the next epoch, with an empty outbox; None if the partition no longer stands at `position`.

    From here on flushers that know the old epoch cannot write, and servers that know the old sentinel are fenced.
    """
    row = await connection.fetchrow(
        _SQL["begin_epoch"], position.partition, position.epoch, position.cursor, incarnation
    )
    return queries.Position(**dict(row)) if row is not None else None


async def chains(connection: Any, addresses: Sequence[str]) -> dict[str, Chain]:
    """Where the ledgers of these accounts end, by address."""
    return {
        row["address"]: Chain(seq=row["last_seq"], last_txn=row["last_txn"], is_parked=row["parked"])
        for row in await connection.fetch(_SQL["chains"], addresses)
    }


async def held(connection: Any) -> dict[int, int]:
    """By partition, the micro-credits that holds had set aside at the last flushed records."""
    return {row["partition"]: row["held_micros"] for row in await connection.fetch(_SQL["held"])}
