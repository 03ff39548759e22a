"""The flusher: moves what the scripts recorded from Redis streams into the ledger, exactly once.

Where it stands is written in Postgres, in the transaction that writes the rows. A flusher that dies at any moment is followed by one
that reads the cursor and goes on. One connection holds the partitions' session locks and runs the transactions, so whoever has lost
its locks has lost its way to write too; and a cursor that has moved meanwhile refuses the transaction.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import redis.exceptions

from meterd.postgres import journal, pool, records, sql
from meterd.redis import keys

_log = logging.getLogger(__name__)
_SQL = sql.read("flusher")

# First half of the two-part advisory locks, one per partition: "flus".
LOCK_CLASS = 0x666C7573
# A transaction of this many rows takes about a tenth of a second, which bounds the lag it adds.
BATCH_ROWS_MAX = 2_000
# With every partition behind, each still gets its turn in each transaction.
SLICE_ROWS_MIN = 16
# Rows kept behind the cursor in Redis: what the fence and a recovery look at.
RETENTION_MS = 15 * 60 * 1000
# Trimming this many entries takes well under a millisecond of Redis' time.
TRIM_ENTRIES_MAX = 1_000
TRIM_INTERVAL_S = 5.0
# An idle stream is looked at after this long at the latest; a busy one soon after its last batch.
POLL_MIN_S = 0.02
POLL_MAX_S = 0.2
# Another server's partitions are free within this time after its end; a new epoch is seen within it.
CLAIM_INTERVAL_S = 1.0
# An idle partition says this often that the ledger is complete; Postgres can answer for holds as of then.
HEARTBEAT_MS = 5_000
RETRY_MIN_S = 0.05
RETRY_MAX_S = 2.0
MONTHS_INTERVAL_S = 6 * 3600.0

STEPS = ("read", *journal.FAILPOINTS, "trimmed")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """Since the start, but for lag (now). `fenced` are owned partitions whose Redis is not the one that Postgres knows."""

    owned: int
    fenced: int
    flushed: int
    repeated: int
    dead: int
    errors: int
    lag_ms: int
    last_error: str


@dataclasses.dataclass(slots=True)
class _Position:
    epoch: int
    sentinel: bytes
    cursor: str
    fresh_ms: int = 0
    fenced: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    slices: Sequence[journal.Slice]
    decoded: journal.Decoded
    # Time (ms) of the oldest entry; None without entries.
    oldest_ms: int | None
    # Whether a stream has more than was read.
    more: bool


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Flusher:
    """Flushes those of `partitions` that no other server flushes. `run` it as a task, or call `step` for one cycle.

    `on_flush` hears of each transaction: rows, and the age in ms of the oldest when it was committed.
    """

    def __init__(
        self,
        *,
        client: Any,
        dsn: str,
        partitions: Sequence[int],
        retention_ms: int = RETENTION_MS,
        batch_rows_max: int = BATCH_ROWS_MAX,
        claim_interval_s: float = CLAIM_INTERVAL_S,
        trim_interval_s: float = TRIM_INTERVAL_S,
        heartbeat_ms: int = HEARTBEAT_MS,
        failpoint: journal.Failpoint = journal.no_failpoint,
        clock_ms: Callable[[], int] = _now_ms,
        on_flush: Callable[[int, int], None] | None = None,
    ) -> None:
        self._client = client
        self._dsn = dsn
        self._partitions = partitions
        self._retention_ms = retention_ms
        self._batch_rows_max = batch_rows_max
        self._claim_interval_s = claim_interval_s
        self._trim_interval_s = trim_interval_s
        self._heartbeat_ms = heartbeat_ms
        self._failpoint = failpoint
        self._clock_ms = clock_ms
        self._on_flush = on_flush
        self._connection: Any = None
        self._positions: dict[int, _Position] = {}
        self._ahead: asyncio.Task[_Read] | None = None
        self._busy = len(partitions)
        self._more = False
        self._claim_at = self._trim_at = self._months_at = 0.0
        self._oldest_ms: int | None = None
        self._read_ms = clock_ms()
        self._flushed = self._repeated = self._dead = self._errors = 0
        self._last_error = ""
        self._stopping = asyncio.Event()

    def stats(self) -> Stats:
        return Stats(
            owned=len(self._positions),
            fenced=sum(position.fenced for position in self._positions.values()),
            flushed=self._flushed,
            repeated=self._repeated,
            dead=self._dead,
            errors=self._errors,
            lag_ms=self.lag_ms(),
            last_error=self._last_error,
        )

    def owned(self) -> list[int]:
        """The partitions whose locks this server holds, and whose Redis is the one that Postgres knows."""
        return [partition for partition, position in self._positions.items() if not position.fenced]

    def lag_ms(self) -> int:
        """Age of the oldest entry that is not in the ledger, as far as this server's partitions go. Grows while a store is away."""
        now_ms = self._clock_ms()
        if self._oldest_ms is not None:
            return max(0, now_ms - self._oldest_ms)
        unread_ms = now_ms - self._read_ms
        return unread_ms if unread_ms > 2 * POLL_MAX_S * 1000 else 0

    def stop(self) -> None:
        """Lets `run` end after the cycle that it is in."""
        self._stopping.set()

    async def run(self) -> None:
        """Flushes until `stop` or cancellation. Outages are retried for ever; only programming errors end it."""
        pause_s, retry_s = POLL_MIN_S, RETRY_MIN_S
        try:
            while not self._stopping.is_set():
                try:
                    count = await self.step()
                except (asyncpg.PostgresError, *pool.AWAY, redis.exceptions.RedisError) as exc:
                    await self._failed(exc)
                    await self._pause(retry_s * random.uniform(0.5, 1.0))
                    retry_s = min(RETRY_MAX_S, retry_s * 2)
                    continue
                retry_s = RETRY_MIN_S
                pause_s = POLL_MIN_S if count else min(POLL_MAX_S, pause_s * 1.5)
                if not self._more:
                    await self._pause(pause_s)
        finally:
            await self.close()

    async def _pause(self, pause_s: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), pause_s)
        except TimeoutError:
            pass

    async def _failed(self, exc: Exception) -> None:
        self._errors += 1
        text = f"{type(exc).__name__}: {exc}"
        if text != self._last_error:
            _log.warning("flush failed, retrying: %s", text)
        self._last_error = text
        # Whether the last transaction was committed is not known: the cursors in Postgres tell.
        await self.close()

    async def close(self) -> None:
        """Gives up the partitions. The next step starts anew."""
        await self._drop_ahead()
        self._positions = {}
        self._claim_at = 0.0
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _drop_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    async def step(self) -> int:
        """One cycle: claim what is free, read, write, trim. Answers how many entries were dealt with."""
        await self._claim()
        if not self._positions:
            return 0
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            found = await ahead
        else:
            found = await self._read({})
        await self._failpoint("read")
        self._more = found.more
        if found.oldest_ms is not None or self._oldest_ms is None:
            self._oldest_ms = found.oldest_ms
        count = sum(len(part.entries) for part in found.slices)
        if found.slices:
            await self._write(found)
        elif not found.more:
            self._oldest_ms = None
        await self._trim()
        return count

    async def drain(self) -> int:
        """Steps until the streams have no more; answers how many entries were dealt with."""
        total = 0
        while count := await self.step():
            total += count
        return total

    async def _claim(self) -> None:
        now_s = time.monotonic()
        if now_s < self._claim_at:
            return
        if self._connection is None:
            self._connection = await pool.connect(self._dsn, application_name="meterd flusher")
        free = [partition for partition in self._partitions if partition not in self._positions]
        claimed: list[int] = []
        if free:
            claimed = [row[0] for row in await self._connection.fetch(_SQL["claim"], free, LOCK_CLASS)]
        await self._locate([*self._positions, *claimed])
        if now_s >= self._months_at:
            await self._connection.execute(_SQL["create_months"])
            self._months_at = now_s + MONTHS_INTERVAL_S
        self._claim_at = now_s + self._claim_interval_s

    async def _locate(self, partitions: Sequence[int]) -> None:
        """Takes over what Postgres says of the partitions. What was read ahead stays good where nothing has moved."""
        for row in await self._connection.fetch(_SQL["positions"], partitions):
            sentinel = f"{row['epoch']}:{row['incarnation']}".encode()
            position = self._positions.get(row["partition"])
            if position is None or (position.sentinel, position.cursor) != (sentinel, row["cursor"]):
                await self._drop_ahead()
                self._positions[row["partition"]] = _Position(row["epoch"], sentinel, row["cursor"])

    async def _read(self, cursors: dict[int, str]) -> _Read:
        """What stands behind the cursors, with `cursors` instead of those that a transaction under way is about to move."""
        now_ms = self._clock_ms()
        count = max(SLICE_ROWS_MIN, self._batch_rows_max // max(1, self._busy))
        positions = dict(self._positions)
        after = {partition: cursors.get(partition, position.cursor) for partition, position in positions.items()}
        pipeline = self._client.pipeline(transaction=False)
        for partition in positions:
            pipeline.xrange(keys.outbox(partition), min=f"({after[partition]}", max="+", count=count)
            # After the entries, so that a Redis that was replaced in between is noticed.
            pipeline.get(keys.sentinel(partition))
        replies = await pipeline.execute()
        slices: list[journal.Slice] = []
        for (partition, position), entries, sentinel in zip(
            positions.items(), replies[::2], replies[1::2], strict=True
        ):
            position.fenced = sentinel != position.sentinel
            if position.fenced or not (entries or now_ms - position.fresh_ms > self._heartbeat_ms):
                continue
            whole = len(entries) < count
            fresh_ms = now_ms if whole else _entry_ms(entries[-1])
            slices.append(
                journal.Slice(
                    partition=partition,
                    epoch=position.epoch,
                    cursor=after[partition],
                    entries=entries,
                    fresh_ms=fresh_ms,
                )
            )
        self._read_ms = now_ms
        oldest = [_entry_ms(part.entries[0]) for part in slices if part.entries]
        if oldest:
            self._busy = len(oldest)
        more = any(len(part.entries) == count for part in slices)
        return _Read(
            slices=slices, decoded=journal.decode(slices), oldest_ms=min(oldest) if oldest else None, more=more
        )

    async def _write(self, found: _Read) -> None:
        if found.more:
            # Redis and this process work on the next batch while Postgres works on this one.
            moved = {part.partition: part.entries[-1][0].decode() for part in found.slices if part.entries}
            self._ahead = asyncio.ensure_future(self._read(moved))
        try:
            written = await journal.write(
                self._connection, found.slices, decoded=found.decoded, failpoint=self._failpoint
            )
        except journal.MovedError as exc:
            _log.info("reading again: %s", exc)
            await self._drop_ahead()
            await self._locate(list(self._positions))
            self._more = True
            return
        for part in found.slices:
            position = self._positions[part.partition]
            position.cursor = written.cursors[part.partition]
            position.fresh_ms = part.fresh_ms
        self._account_for(found, written)

    def _account_for(self, found: _Read, written: journal.Written) -> None:
        self._flushed += written.flushed
        self._repeated += written.repeated
        self._dead += len(written.dead)
        for entry in written.dead:
            _log.error(
                "outbox entry %s of partition %d is dead: %s: %s",
                entry.entry_id,
                entry.partition,
                entry.cause,
                entry.reason,
            )
        if self._on_flush is not None and found.oldest_ms is not None:
            self._on_flush(written.flushed, max(0, self._clock_ms() - found.oldest_ms))
        if not found.more:
            self._oldest_ms = None

    async def _trim(self) -> None:
        """Forgets entries that are in the ledger and older than the retention window; never the one at the cursor."""
        now_s = time.monotonic()
        if now_s < self._trim_at:
            return
        pipeline = self._client.pipeline(transaction=False)
        limit = (self._clock_ms() - self._retention_ms, 0)
        for partition, position in self._positions.items():
            if position.fenced:
                continue
            ms, number = min(limit, _parsed(position.cursor))
            pipeline.xtrim(keys.outbox(partition), minid=f"{ms}-{number}", approximate=True, limit=TRIM_ENTRIES_MAX)
        trimmed: list[int] = await pipeline.execute()
        await self._failpoint("trimmed")
        # Whole nodes of 100 are freed, so a full slice may come out a little smaller.
        full = any(count > TRIM_ENTRIES_MAX - 200 for count in trimmed)
        self._trim_at = now_s + (min(POLL_MAX_S, self._trim_interval_s) if full else self._trim_interval_s)


def _parsed(entry_id: str) -> tuple[int, int]:
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number)


def _entry_ms(entry: records.Entry) -> int:
    return int(entry[0].partition(b"-")[0])
