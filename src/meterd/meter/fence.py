"""The fence: no script runs in a partition whose Redis is not the one that Postgres knows.

A partition is armed (scripts loaded, sentinel known to the ledger) when Redis carries the sentinel "epoch:incarnation" that Postgres has,
and the record at the flusher's cursor is still what Redis has there. Then neither lacks what the other had from it. Everything else
stays fenced, with the reason, until `meterd recover` has decided.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import asyncpg

from meterd.core import errors
from meterd.postgres import partitions, pool, records
from meterd.redis import keys, runner
from meterd.redis import ledger as redis_ledger

log = logging.getLogger(__name__)

# A restarted Redis that agrees serves again within a second.
CHECK_INTERVAL_S = 0.25
REPLICA = "Redis is a read-only replica"


def wrong_sentinel(found: bytes | None, expected: bytes) -> str:
    """Why a partition whose sentinel in Redis is not the one of Postgres is fenced, in the words of every place that finds it."""
    if found is None:
        return "Redis has no sentinel: it is empty, or was flushed"
    return f"Redis has the sentinel {found.decode(errors='replace')!r}, Postgres {expected.decode()!r}"


async def is_replica(run: runner.Runner) -> bool:
    """Whether Redis is another's replica: it refuses to write, and may take the other's place later without what that had last.

    UnavailableError if Redis is away. A Redis that does not permit INFO is taken for no replica: its answer to a script tells then.
    """
    try:
        found: bytes = await run.command(("INFO", "replication"))
    except runner.RedisRefusedError:
        return False
    return b"\nrole:slave" in found


def _log_reasons(reasons: Mapping[int, str], state: str) -> None:
    """One line for each reason: what happens to a Redis happens to all of its partitions."""
    alike: dict[str, list[int]] = {}
    for partition, reason in sorted(reasons.items()):
        alike.setdefault(reason, []).append(partition)
    for reason, found in alike.items():
        others = f" ({len(found) - 1} others too)" if len(found) > 1 else ""
        log.warning("partition %s is %s: %s%s", found[0], state, reason, others)


async def disagreement(run: runner.Runner, position: partitions.Position) -> str | None:
    """What keeps the partition fenced; None if Redis and Postgres agree. UnavailableError if Redis is away."""
    found: bytes | None = await run.command(("GET", keys.sentinel(position.partition)))
    if found != position.sentinel:
        return wrong_sentinel(found, position.sentinel)
    if position.cursor == "0-0":
        return None
    outbox = keys.outbox(position.partition)
    entries = await run.command(("XRANGE", outbox, position.cursor, "+", "COUNT", "1"))
    if entries and entries[0][0] == position.cursor.encode():
        fields = dict(zip(entries[0][1][::2], entries[0][1][1::2], strict=True))
        txn = records.txn_name(fields)
        if txn != position.last_txn:
            return f"record {position.cursor} is {txn} in Redis and {position.last_txn} in Postgres: histories forked"
        return None
    last = await _last_entry_id(run, outbox)
    if last < _entry_order(position.cursor):
        return (
            f"Postgres has records up to {position.cursor}, Redis only up to {last[0]}-{last[1]}: Redis lost its tail"
        )
    # The flusher never trims the record at its cursor.
    return f"Redis has forgotten record {position.cursor}, which Postgres has last: later records were flushed, and Postgres lost them"


async def _last_entry_id(run: runner.Runner, outbox: str) -> tuple[int, int]:
    try:
        info: list[Any] = await run.command(("XINFO", "STREAM", outbox))
    except runner.RedisRefusedError:
        return 0, 0
    return _entry_order(dict(zip(info[::2], info[1::2], strict=True))[b"last-generated-id"].decode())


def _entry_order(entry_id: str) -> tuple[int, int]:
    millis, _, count = entry_id.partition("-")
    return int(millis), int(count)


class Fence:
    """Arms the partitions of one server, and again after each restart of Redis. `reasons` says what keeps the others fenced."""

    def __init__(
        self,
        book_ledger: redis_ledger.RedisLedger,
        run: runner.Runner,
        *,
        positions: Callable[[], Awaitable[Sequence[partitions.Position]]],
        claim_incarnation: Callable[[int, str], Awaitable[bool]],
    ) -> None:
        """`claim_incarnation(partition, incarnation)` writes the first incarnation of a partition, if nobody has."""
        self._ledger = book_ledger
        self._run = run
        self._positions = positions
        self._claim_incarnation = claim_incarnation
        self.reasons: dict[int, str] = dict.fromkeys(range(book_ledger.partitions), "not checked yet")
        self._restarts = 0
        self._wake = asyncio.Event()

    @property
    def is_serving(self) -> bool:
        """Whether Redis is usable and no partition is fenced."""
        return self._run.is_connected and not self.reasons

    def raise_fence(self, partition: int, reason: str) -> None:
        """Fences a partition at once; the ledger calls this when a script says so."""
        self._fence({partition: reason})

    def _fence(self, reasons: Mapping[int, str]) -> None:
        _log_reasons(
            {partition: reason for partition, reason in reasons.items() if partition not in self.reasons}, "fenced"
        )
        self.reasons |= reasons
        for partition in reasons:
            self._ledger.sentinels[partition] = None
        self._wake.set()

    def raise_all(self) -> None:
        """Fences every partition: Redis was restarted, and may have lost what it had last.

        Each is checked against Postgres before any script is loaded, since a loaded script no longer tells a Redis that lost its tail.
        """
        self._restarts += 1
        for partition in range(self._ledger.partitions):
            self.reasons[partition] = "Redis was restarted, and is being checked"
            self._ledger.sentinels[partition] = None
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Keeps checking what is fenced until `stop` is set."""
        while not stop.is_set():
            if self.reasons and self._run.is_connected:
                try:
                    await self.arm()
                except (errors.MeterdError, asyncpg.PostgresError, *pool.AWAY) as exc:
                    log.warning("fence: cannot check: %s", exc)
            elif self._run.is_connected:
                await self._watch()
            self._wake.clear()
            waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(self._wake.wait())]
            await asyncio.wait(waits, timeout=CHECK_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            # A storm of NOSCRIPT answers must not become a storm of checks.
            if self.reasons:
                await asyncio.sleep(0.02)

    async def _watch(self) -> None:
        """Notices a Redis that was emptied, or made a replica, while nobody calls: each script would, but health has to know before."""
        known = list(self._ledger.sentinels)
        try:
            asked: asyncio.Future[list[bytes | None]] = self._run.command(
                ("MGET", *map(keys.sentinel, range(len(known))))
            )
            if await is_replica(self._run):
                self._fence(dict.fromkeys(range(len(known)), REPLICA))
            found = await asked
        except errors.MeterdError:
            return
        wrong = {
            partition: wrong_sentinel(there, expected)
            for partition, (there, expected) in enumerate(zip(found, known, strict=True))
            if expected is not None and there != expected and self._ledger.sentinels[partition] == expected
        }
        if wrong:
            self._fence(wrong)

    async def arm(self) -> None:
        """Checks every fenced partition once, and arms those that agree.

        Nothing is armed on a replica, whose loaded scripts would be there when it takes the place of a master that was ahead of it.
        """
        restarts = self._restarts
        if await is_replica(self._run):
            wrong = dict.fromkeys(self.reasons, REPLICA)
            _log_reasons({at: REPLICA for at in wrong if self.reasons[at] != REPLICA}, "still fenced")
            self.reasons |= wrong
            return
        fenced = [position for position in await self._positions() if position.partition in self.reasons]
        checked = await asyncio.gather(*(self._check(position) for position in fenced))
        if self._restarts != restarts:
            return  # What was seen is another process's.
        agreed = [position for position, reason in checked if reason is None]
        if agreed:
            for script in self._ledger.scripts.values():
                await self._run.command(("SCRIPT", "LOAD", script.text))
        wrong = {position.partition: reason for position, reason in checked if reason is not None}
        _log_reasons({at: reason for at, reason in wrong.items() if self.reasons.get(at) != reason}, "still fenced")
        self.reasons |= wrong
        for position in agreed:
            self._ledger.sentinels[position.partition] = position.sentinel
            self.reasons.pop(position.partition, None)
        if agreed and not self.reasons:
            log.info("all %s partitions are armed", self._ledger.partitions)

    async def _check(self, position: partitions.Position) -> tuple[partitions.Position, str | None]:
        if not position.incarnation:
            position = await self._found(position)
        return position, await disagreement(self._run, position)

    async def _found(self, position: partitions.Position) -> partitions.Position:
        """Makes the first sentinel of a partition that never had one.

        Redis gets it first, so that a crash in between leaves nothing that the next try cannot finish. Postgres decides among servers.
        """
        name = keys.sentinel(position.partition)
        await self._run.command(
            ("SET", name, f"{position.epoch}:{keys.incarnation(time.time_ns() // 1_000_000)}", "NX")
        )
        found: bytes = await self._run.command(("GET", name))
        epoch, _, incarnation = found.decode(errors="replace").partition(":")
        if epoch == str(position.epoch) and await self._claim_incarnation(position.partition, incarnation):
            return dataclasses.replace(position, incarnation=incarnation)
        return next(now for now in await self._positions() if now.partition == position.partition)
