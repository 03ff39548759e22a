"""The sweeper: ends holds whose time is up, and forfeits what is left of expired grants."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable

from meterd.core import errors, ids, ledger
from meterd.meter import hydration
from meterd.redis import keys, runner
from meterd.redis import ledger as redis_ledger

log = logging.getLogger(__name__)

# One batch a partition and round: a mass expiry must not keep Redis from serving calls.
BATCH_HOLDS_MAX = 200
INTERVAL_S = 0.5
# A Redis clock that moved this much more than time really passed is not believed: nothing expires until it has settled.
CLOCK_JUMP_MAX_MS = 5_000
# Counters of windows that have passed cost memory only; an operation's is kept for an hour anyway.
TIDY_INTERVAL_S = 600.0


class ClockGuard:
    """Tells whether a wall clock agrees with the time that really passed since it was last trusted."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._trusted: tuple[int, float] | None = None
        self._suspect: tuple[int, float] | None = None

    def trusts(self, now_ms: int) -> bool:
        """Whether `now_ms` is plausible. A jump is accepted once the clock has run evenly from there for as long as a jump may be."""
        at_s = self._monotonic_s()
        if self._trusted is None or abs(self._drift_ms(self._trusted, now_ms, at_s)) <= CLOCK_JUMP_MAX_MS:
            self._trusted, self._suspect = (now_ms, at_s), None
            return True
        if self._suspect is None or abs(self._drift_ms(self._suspect, now_ms, at_s)) > CLOCK_JUMP_MAX_MS:
            self._suspect = (now_ms, at_s)
        elif at_s - self._suspect[1] > 2 * CLOCK_JUMP_MAX_MS / 1000:
            self._trusted, self._suspect = (now_ms, at_s), None
            return True
        return False

    @staticmethod
    def _drift_ms(since: tuple[int, float], now_ms: int, at_s: float) -> float:
        return (now_ms - since[0]) - (at_s - since[1]) * 1000


class Sweeper:
    """Sweeps the partitions that `owned` names, a bounded batch at a time.

    Any number may run: each expiry is one atomic script, so that two sweepers at the same hold end it once.
    """

    def __init__(
        self,
        book_ledger: redis_ledger.RedisLedger,
        run: runner.Runner,
        *,
        hydrate: Callable[[str], Awaitable[None]],
        owned: Callable[[], list[int]],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = book_ledger
        self._run = run
        self._hydrate = hydrate
        self._owned = owned
        self._guard = ClockGuard(monotonic_s)
        self.expired_holds = 0
        self.expired_grants = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Sweeps until `stop` is set; faults are logged and tried again."""
        while not stop.is_set():
            try:
                more = await self.sweep()
            except errors.MeterdError as exc:
                log.info("sweeper: %s", exc)
                more = False
            if not more:
                try:
                    await asyncio.wait_for(stop.wait(), INTERVAL_S)
                except TimeoutError:
                    continue

    async def sweep(self) -> bool:
        """One round over all owned partitions; whether a partition had a full batch."""
        seconds, micros = await self._run.command(("TIME",))
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        if not self._guard.trusts(now_ms):
            log.warning("sweeper: the Redis clock jumped; nothing expires until it has settled")
            return False
        due = [partition for partition in self._owned() if self._ledger.sentinels[partition] is not None]
        return any(await asyncio.gather(*(self._sweep_partition(partition, now_ms) for partition in due)))

    async def _sweep_partition(self, partition: int, now_ms: int) -> bool:
        members = await self._due(keys.deadlines(partition), now_ms)
        holds = [keys.parse_deadline_member(member) for member in members]
        ended = await asyncio.gather(*(self._expire(address, hold) for hold, address in holds))
        self.expired_holds += sum(1 for settled in ended if settled is not None)
        for address in await self._due(keys.grant_expiries(partition), now_ms):
            self.expired_grants += await self._ledger.expire_grants(address)
        return len(members) == BATCH_HOLDS_MAX

    async def _due(self, key: str, now_ms: int) -> list[str]:
        command = ("ZRANGEBYSCORE", key, "-inf", str(now_ms), "LIMIT", "0", str(BATCH_HOLDS_MAX))
        return [member.decode() for member in await self._run.command(command)]

    async def _expire(self, address: str, hold: uuid.UUID) -> ledger.Settled | None:
        try:
            return await self._ledger.expire(address, hold)
        except errors.AccountNotLoadedError:
            await self._hydrate(address)
            return await self._ledger.expire(address, hold)


class Tidier:
    """Takes out of Redis what limits counted in windows that have passed. Nothing depends on it but memory."""

    def __init__(
        self,
        book_ledger: redis_ledger.RedisLedger,
        *,
        limited: Callable[[], Awaitable[list[str]]],
        owned: Callable[[], list[int]],
    ) -> None:
        """`limited` answers the addresses of accounts with limits."""
        self._ledger = book_ledger
        self._limited = limited
        self._owned = owned
        self.removed = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Tidies until `stop` is set; faults are logged and tried again."""
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), TIDY_INTERVAL_S)
            except TimeoutError:
                try:
                    await self.tidy(stop)
                except (errors.MeterdError, *hydration.POSTGRES_ERRORS) as exc:
                    log.info("tidier: %s", exc)

    async def tidy(self, stop: asyncio.Event) -> None:
        """One round over the accounts of owned partitions, a bounded script at a time."""
        owned = frozenset(self._owned())
        for address in await self._limited():
            if ids.partition_of(address, self._ledger.partitions) not in owned:
                continue
            cursor = b""
            while cursor != b"0" and not stop.is_set():
                try:
                    removed, cursor = await self._ledger.tidy_limits(address, cursor or b"0")
                except errors.AccountNotLoadedError:
                    break
                self.removed += removed
