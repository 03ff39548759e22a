"""Cohort scheduling: calls that are in work together go through each stage one right after the other.

A call's own Python takes some 50 µs where the call before has just run the same code, and three times that and more where gRPC and the
kernel have run in between (docs/BENCHMARKS.md). So calls wait for each other before they are parsed, and leave for gRPC only when each
has made its answer. They also reach Redis in one write. The name is that of Larus and Parkes, Using Cohort Scheduling to Enhance Server
Performance, USENIX 2002.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# A cohort takes in whoever comes within so many turns of the event loop, each of which takes a few µs if there is nothing to do.
GATHER_TURNS = 30
# With more the first would wait for the last.
COHORT_CALLS_MAX = 512


class Cohorts:
    """Of one event loop. `is_alone` tells whether calls come one by one: then nobody waits."""

    def __init__(self, is_alone: Callable[[], bool]) -> None:
        self.is_alone = is_alone
        self._waiting: list[asyncio.Future[None]] = []

    def joined(self) -> asyncio.Future[None]:
        """Done when the cohort begins, for all of its calls in the same turn."""
        loop = asyncio.get_running_loop()
        joined: asyncio.Future[None] = loop.create_future()
        self._waiting.append(joined)
        if len(self._waiting) == 1:
            loop.call_soon(self._gather, loop, GATHER_TURNS)
        return joined

    def _gather(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        if turns and len(self._waiting) < COHORT_CALLS_MAX:
            loop.call_soon(self._gather, loop, turns - 1)
            return
        cohort, self._waiting = self._waiting, []
        for joined in cohort:
            # Cancelled: its client has gone.
            if not joined.done():
                joined.set_result(None)

    @staticmethod
    async def answered() -> None:
        """Lets the others of the cohort make their answers before this one is sent: they have the same turn."""
        await asyncio.sleep(0)
