"""What Postgres knows of each partition's Redis: its epoch and incarnation, and how far its stream is in the ledger."""

from __future__ import annotations

import dataclasses

import asyncpg

from meterd.core import errors
from meterd.postgres import sql

_SQL = sql.read("partitions")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """incarnation "" and cursor "0-0": never armed. Every record made before `fresh_ms` is in the ledger."""

    partition: int
    epoch: int
    incarnation: str
    cursor: str
    # Kind letter and hex UUID of the record at the cursor.
    last_txn: str
    flushed_count: int
    fresh_ms: int

    @property
    def sentinel(self) -> bytes:
        """What Redis has at keys.sentinel while the partition is this one."""
        return f"{self.epoch}:{self.incarnation}".encode()


async def positions(connections: asyncpg.Pool) -> list[Position]:
    """All partitions, in order."""
    return [Position(**dict(row)) for row in await connections.fetch(_SQL["positions"])]


async def claim_incarnation(connections: asyncpg.Pool, partition: int, incarnation: str) -> bool:
    """Writes a partition's first incarnation; False if it has another one. A repeat answers the same."""
    return await connections.fetchval(_SQL["claim_incarnation"], partition, incarnation) is not None


async def begin_epoch(connections: asyncpg.Pool, partition: int, epoch: int, incarnation: str) -> int:
    """Ends `epoch`: the partition goes on in a new, empty Redis data set named `incarnation`. Answers the new epoch.

    Flushers of the old epoch cannot write from then on. FailedPreconditionError if it had ended already.
    """
    new_epoch: int | None = await connections.fetchval(_SQL["begin_epoch"], partition, epoch, incarnation)
    if new_epoch is None:
        raise errors.FailedPreconditionError(f"partition {partition} is no longer in epoch {epoch}")
    return new_epoch
