"""Recovery: a partition whose Redis is gone, or is not the one that Postgres knows, begins a new epoch from what Postgres has.

The order makes every step safe to die after, and the whole safe to run again: shut the partition, drain what survived into Postgres,
delete what is left, begin the next epoch in Postgres, write its sentinel. Until the last step Redis answers nobody; a run that finds a
partition half done finds it shut or empty. Accounts come back on first use. Open holds do not: their credits are available again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from meterd.core import errors
from meterd.meter import fence, hydration
from meterd.postgres import epochs, journal, partitions, queries, records
from meterd.redis import audit, keys, runner
from meterd.redis import ledger as redis_ledger

# No epoch has this sentinel, so every script refuses while it stands.
SHUT = b"0:recovering"
# As many rows as the flusher writes at once.
DRAIN_ROWS_MAX = 4_000
UNLINK_KEYS_MAX = 500
# Another flusher's last transaction may move the cursor under a drain; it can happen once a flusher.
MOVED_MAX = 10
WARM_AT_ONCE_MAX = 16
# What hydration needs; the verbs of the hot path are loaded by the servers' fence.
WARM_SCRIPTS = ("load", "account", "grant", "revoke", "settings")
STEPS = ("locked", "shut", "drained", "cleared", "begun", "armed")


class State(enum.StrEnum):
    """What a partition's Redis is to Postgres."""

    AGREES = "agrees"
    # No server has used it yet: the first one to start arms it.
    NEW = "new"
    EMPTY = "empty"
    # It has data, but not those that Postgres knows.
    DISAGREES = "disagrees"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """How a partition stands. `key_count` counts its keys but for sentinel and outboxes set aside; 0 where it agrees."""

    position: partitions.Position
    state: State
    reason: str
    key_count: int
    # Outbox entries behind Postgres' cursor, open holds in Redis, and what holds had set aside at the last flushed records.
    entries_behind: int
    holds_open: int
    held_flushed_micros: int

    @property
    def partition(self) -> int:
        return self.position.partition


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Recovered:
    """A partition in its new epoch. `set_aside` entries did not follow on Postgres' ledger; they stand in the stream `aside_key`."""

    partition: int
    epoch: int
    drained: int
    set_aside: int
    aside_key: str
    holds_lost: int


async def no_failpoint(_step: str) -> None:
    """The default: nothing fails."""


def lost_key(partition: int, epoch: int) -> str:
    """Where the outbox of a given up epoch is kept, if it had entries that Postgres could not take."""
    return f"{keys.tag(partition)}:lost:{epoch}:o"


async def diagnose(connection: Any, run: runner.Runner) -> list[Diagnosis]:
    """How every partition stands, in order. Changes nothing. UnavailableError if Redis is away."""
    found: list[tuple[partitions.Position, str | None]] = []
    for position in await partitions.positions(connection):
        if position.incarnation:
            found.append((position, await fence.disagreement(run, position)))
        else:
            found.append((position, "no server has used it yet"))
    doubtful = [position.partition for position, reason in found if reason is not None]
    counts = dict.fromkeys(doubtful, 0)
    if doubtful:
        async for partition, name in audit.partition_keys(run, doubtful):
            counts[partition] += _is_data(partition, name)
    held = await epochs.held(connection)
    return [await _diagnosis(run, position, reason, counts, held) for position, reason in found]


def _is_data(partition: int, name: bytes) -> bool:
    return name != keys.sentinel(partition).encode() and not name.startswith(f"{keys.tag(partition)}:lost:".encode())


async def _diagnosis(
    run: runner.Runner, position: partitions.Position, reason: str | None, counts: dict[int, int], held: dict[int, int]
) -> Diagnosis:
    partition = position.partition
    count = counts.get(partition, 0)
    behind = holds = 0
    if reason is None:
        state = State.AGREES
    elif count == 0:
        state = State.EMPTY if position.incarnation else State.NEW
    else:
        state = State.DISAGREES
        if not position.incarnation:
            reason = f"Postgres has never used a Redis for it, but this one has {count} keys of it"
        async for _ in audit.entries_after(run, partition, position.cursor):
            behind += 1
        holds = await run.command(("ZCARD", keys.deadlines(partition)))
    return Diagnosis(
        position=position,
        state=state,
        reason=reason or "",
        key_count=count,
        entries_behind=behind,
        holds_open=holds,
        held_flushed_micros=held.get(partition, 0),
    )


class Recovery:
    """Brings partitions into a new epoch. `connection` is its own: it holds the locks, and runs the transactions."""

    def __init__(
        self,
        *,
        connection: Any,
        run: runner.Runner,
        failpoint: Callable[[str], Awaitable[None]] = no_failpoint,
        on_progress: Callable[[str, int], None] | None = None,
    ) -> None:
        """`on_progress` hears of each step and partition that is done."""
        self._connection = connection
        self._run = run
        self._failpoint = failpoint
        self._on_progress = on_progress

    async def recover(self, *, force: bool = False) -> list[Recovered]:
        """Recovers what is empty, and with `force` what disagrees; answers the partitions that have a new epoch. A repeat does nothing.

        FailedPreconditionError, and nothing was changed: a partition disagrees and `force` is not set, or another recovery is at work.
        """
        locked: list[int] = []
        try:
            for position in await partitions.positions(self._connection):
                if not await epochs.try_lock(self._connection, position.partition):
                    raise errors.FailedPreconditionError(
                        f"another recovery is at work on partition {position.partition}"
                    )
                locked.append(position.partition)
            await self._failpoint("locked")
            ill = [
                one
                for one in await diagnose(self._connection, self._run)
                if one.state in (State.EMPTY, State.DISAGREES)
            ]
            refused = [one for one in ill if one.state == State.DISAGREES]
            if refused and not force:
                raise errors.FailedPreconditionError(_refusal(refused))
            return await self._all(ill)
        finally:
            for partition in locked:
                if not self._connection.is_closed():
                    await epochs.unlock(self._connection, partition)

    async def _all(self, ill: Sequence[Diagnosis]) -> list[Recovered]:
        drained = [await self._drained(one) for one in ill]
        await self._clear([one.partition for one in ill if one.state == State.DISAGREES])
        await self._failpoint("cleared")
        return [await self._begin(one, entries, aside) for one, (entries, aside) in zip(ill, drained, strict=True)]

    async def _drained(self, one: Diagnosis) -> tuple[int, int]:
        """Shuts the partition and writes what survived in its outbox; answers how many entries were written, and set aside."""
        if one.state == State.EMPTY:
            return 0, 0
        await self._run.command(("SET", keys.sentinel(one.partition), SHUT))
        await self._failpoint("shut")
        for _ in range(MOVED_MAX):
            position = (await partitions.positions(self._connection))[one.partition]
            try:
                entries, aside = await self._drain(position)
            except journal.MovedError:
                continue
            if aside:
                await self._run.command(
                    ("RENAME", keys.outbox(one.partition), lost_key(one.partition, one.position.epoch))
                )
            await self._failpoint("drained")
            self._told("drained", one.partition)
            return entries, aside
        raise errors.UnavailableError(
            f"partition {one.partition}: its cursor keeps moving; stop the workers and repeat"
        )

    async def _drain(self, position: partitions.Position) -> tuple[int, int]:
        """Writes the entries behind the cursor that follow on what Postgres has, account by account."""
        sieve = _Sieve()
        written = 0
        page: list[records.Entry] = []
        async for entry_id, fields in audit.entries_after(self._run, position.partition, position.cursor):
            page.append((entry_id.encode(), fields))
            if len(page) == DRAIN_ROWS_MAX:
                position, count = await self._write(position, page, sieve)
                written += count
                page = []
        _, count = await self._write(position, page, sieve)
        return written + count, sieve.aside

    async def _write(
        self, position: partitions.Position, page: Sequence[records.Entry], sieve: _Sieve
    ) -> tuple[partitions.Position, int]:
        good = await sieve.sifted(self._connection, page)
        if not good:
            return position, 0
        part = journal.Slice(
            partition=position.partition, epoch=position.epoch, cursor=position.cursor, entries=good, fresh_ms=0
        )
        written = await journal.write(self._connection, [part])
        return dataclasses.replace(position, cursor=written.cursors[position.partition]), written.flushed

    async def _clear(self, partitions: Sequence[int]) -> None:
        """Deletes the partitions' keys, but for their sentinels (they are shut) and outboxes set aside."""
        names: list[bytes] = []
        if not partitions:
            return
        async for partition, name in audit.partition_keys(self._run, partitions):
            if _is_data(partition, name):
                names.append(name)
            if len(names) == UNLINK_KEYS_MAX:
                await self._run.command(("UNLINK", *names))
                names = []
        if names:
            await self._run.command(("UNLINK", *names))

    async def _begin(self, one: Diagnosis, drained: int, aside: int) -> Recovered:
        incarnation = keys.incarnation(time.time_ns() // 1_000_000)
        epoch = await partitions.begin_epoch(self._connection, one.partition, one.position.epoch, incarnation)
        await self._failpoint("begun")
        await self._run.command(("SET", keys.sentinel(one.partition), f"{epoch}:{incarnation}"))
        await self._failpoint("armed")
        self._told("armed", one.partition)
        return Recovered(
            partition=one.partition,
            epoch=epoch,
            drained=drained,
            set_aside=aside,
            aside_key=lost_key(one.partition, one.position.epoch) if aside else "",
            holds_lost=one.holds_open,
        )

    def _told(self, step: str, partition: int) -> None:
        if self._on_progress is not None:
            self._on_progress(step, partition)

    async def warm(
        self, connections: asyncpg.Pool, store: redis_ledger.RedisLedger, on_account: Callable[[], None] | None = None
    ) -> int:
        """Loads every account of Postgres into Redis now, instead of on first use; answers how many. A repeat loads what is missing.

        FailedPreconditionError: a partition is fenced. Loading scripts would let it serve what Postgres does not know.
        """
        if any(one.state != State.AGREES for one in await diagnose(self._connection, self._run)):
            raise errors.FailedPreconditionError("a partition is fenced or new: nothing is loaded before all agree")
        for name in WARM_SCRIPTS:
            await self._run.command(("SCRIPT", "LOAD", store.scripts[name].text))
        hydrator = hydration.Hydrator(connections=connections, store=store)
        room = asyncio.Semaphore(WARM_AT_ONCE_MAX)

        async def load(tenant_id: str, address: str) -> None:
            async with room:
                await hydrator.hydrate(tenant_id, address)
            if on_account is not None:
                on_account()

        count = 0
        for position in await partitions.positions(self._connection):
            store.sentinels[position.partition] = position.sentinel
            owned = await queries.addresses(self._connection, position.partition)
            await asyncio.gather(*(load(tenant_id, address) for tenant_id, address in owned))
            count += len(owned)
        return count


def _refusal(refused: Sequence[Diagnosis]) -> str:
    lines = [f"partition {one.partition}: {one.reason}" for one in refused]
    return "Redis has data that Postgres does not know; nothing was changed.\n" + "\n".join(lines)


class _Sieve:
    """Lets those outbox entries through that follow on an account's ledger; what does not would block the account in Postgres."""

    def __init__(self) -> None:
        self._ends: dict[str, epochs.Chain] = {}
        self._broken: set[str] = set()
        self.aside = 0

    async def sifted(self, connection: Any, page: Sequence[records.Entry]) -> list[records.Entry]:
        """The entries to write, in order; the others are counted as set aside."""
        decoded = [(entry, _address_of(entry)) for entry in page]
        new = {address for _, address in decoded} - self._ends.keys() - self._broken
        if new:
            known = await epochs.chains(connection, sorted(new))
            self._ends |= known
            self._broken |= new - known.keys()
        return [entry for entry, address in decoded if self._follows(entry, address)]

    def _follows(self, entry: records.Entry, address: str) -> bool:
        end = self._ends.get(address)
        if end is None or end.is_parked or address in self._broken:
            self.aside += 1
            return False
        try:
            record = redis_ledger.decode_record(entry[0].decode(), entry[1])
        except (KeyError, ValueError):
            record = None
        if record is not None and record.seq <= end.seq:
            # Postgres has another record of that number: what follows does not chain either.
            self.aside += 1
            return False
        if record is None or record.seq != end.seq + 1 or record.prev_txn != end.last_txn:
            self._broken.add(address)
            self.aside += 1
            return False
        self._ends[address] = epochs.Chain(seq=record.seq, last_txn=record.kind.value + record.txn.hex, is_parked=False)
        return True


def _address_of(entry: records.Entry) -> str:
    """The account that an entry names; "" if it names none."""
    values = entry[1].get(b"r", b"").split(b" ", 4)
    return values[3].decode("ascii", "replace") if len(values) > 3 else ""
