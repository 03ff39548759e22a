"""What a recovery asks of Postgres before it begins a new epoch: its lock, and where accounts stand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from meterd.postgres import sql

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


async def chains(connection: Any, addresses: Sequence[str]) -> dict[str, Chain]:
    """Where the ledgers of these accounts end, by address."""
    return {
        row["address"]: Chain(seq=row["last_seq"], last_txn=row["last_txn"], is_parked=row["parked"])
        for row in await connection.fetch(_SQL["chains"], addresses)
    }


async def held(connection: Any) -> dict[int, int]:
    """By partition, the micro-credits that holds had set aside at the last flushed records."""
    return {row["partition"]: row["held_micros"] for row in await connection.fetch(_SQL["held"])}
