"""Flushers side by side in one process, each with its share of the partitions and a connection of its own.

One flusher alone leaves Postgres idle while it reads and adds up, and uses one of its cores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from meterd.meter import flusher

# A third adds little: with two, the process's own core is the next limit.
LANES = 2


class Lanes:
    """Flushes all partitions that no other server flushes. `options` are those of Flusher."""

    def __init__(self, *, partitions: int, count: int = LANES, **options: Any) -> None:
        count = min(count, partitions)
        self.flushers = [flusher.Flusher(partitions=range(lane, partitions, count), **options) for lane in range(count)]

    async def run(self) -> None:
        """Flushes until `stop` or cancellation. Outages are retried for ever; a programming error in one ends all."""
        async with asyncio.TaskGroup() as tasks:
            for one in self.flushers:
                tasks.create_task(one.run(), name="meterd-flusher")

    def stop(self) -> None:
        """Lets `run` end after the cycles that are under way."""
        for one in self.flushers:
            one.stop()

    async def drain(self) -> int:
        """Flushes until the streams have no more; answers how many entries were dealt with."""
        return sum(await asyncio.gather(*(one.drain() for one in self.flushers)))

    async def close(self) -> None:
        """Gives up the partitions."""
        for one in self.flushers:
            await one.close()

    def owned(self) -> list[int]:
        """The partitions whose locks this process holds, and whose Redis is the one that Postgres knows."""
        return [partition for one in self.flushers for partition in one.owned()]

    def lag_ms(self) -> int:
        """Age of the oldest entry that is not in the ledger, as far as this process's partitions go."""
        return max(one.lag_ms() for one in self.flushers)

    def stats(self) -> flusher.Stats:
        """Sums over the lanes; the longest lag, and the first lane's error that has one."""
        found: Sequence[flusher.Stats] = [one.stats() for one in self.flushers]
        return flusher.Stats(
            owned=sum(one.owned for one in found),
            fenced=sum(one.fenced for one in found),
            flushed=sum(one.flushed for one in found),
            repeated=sum(one.repeated for one in found),
            dead=sum(one.dead for one in found),
            errors=sum(one.errors for one in found),
            lag_ms=max(one.lag_ms for one in found),
            last_error=next((one.last_error for one in found if one.last_error), ""),
        )
