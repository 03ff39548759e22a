"""Reads for those who check Redis rather than serve from it. Nothing here writes money."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from meterd.core import errors, ledger
from meterd.redis import keys, runner
from meterd.redis import ledger as redis_ledger

# One page of a stream or of the keyspace: a few hundred KB at most, and well under a millisecond of Redis' time.
PAGE_ENTRIES_MAX = 1_000
PAGE_KEYS_MAX = 1_000

_PARTITION = re.compile(rb"\{m:(\d+)\}:")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Deadline:
    """An open hold as the partition's deadlines name it."""

    hold: uuid.UUID
    address: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Examined:
    """An account as Redis has it, and the worth (Σ available − debt) that Redis keeps beside the wallets."""

    state: ledger.AccountState
    worth_micros: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """One moment of a partition: all its open holds, and those of the asked accounts that Redis has."""

    deadlines: Sequence[Deadline]
    accounts: dict[str, Examined]


async def load_readers(run: runner.Runner, store: redis_ledger.RedisLedger) -> None:
    """Loads the verbs that cannot write. The others stay as they are: their absence is what fences a restarted Redis."""
    for name in ("account", "peek"):
        await run.command(("SCRIPT", "LOAD", store.scripts[name].text))


async def snapshot(
    run: runner.Runner, store: redis_ledger.RedisLedger, partition: int, addresses: Sequence[str]
) -> Snapshot:
    """Open holds and accounts of the partition at one moment. UnavailableError if it is fenced, or Redis is away."""
    sentinel = store.sentinels[partition]
    if sentinel is None:
        raise errors.UnavailableError(f"partition {partition} is fenced")
    account = store.scripts["account"]
    # Written in one go, so that no other command of this connection gets between MULTI and EXEC.
    waits = [run.command(("MULTI",)), run.command(("ZRANGE", keys.deadlines(partition), "0", "-1"))]
    for address in addresses:
        waits.append(run.evalsha(account, (keys.sentinel(partition), keys.account(partition, address)), (sentinel,)))
    waits.append(run.command(("EXEC",)))
    replies = (await asyncio.gather(*waits))[-1]
    members, *answers = [_unwrapped(reply) for reply in replies]
    found = [keys.parse_deadline_member(member.decode()) for member in members]
    accounts: dict[str, Examined] = {}
    for address, reply in zip(addresses, answers, strict=True):
        if reply[0] == b"FENCED":
            raise errors.UnavailableError(
                f"partition {partition} is fenced: its sentinel is {reply[1].decode(errors='replace')!r}"
            )
        if reply[0] == b"ACCOUNT":
            accounts[address] = Examined(state=store.account_state(reply, address), worth_micros=reply[2][6])
    return Snapshot(deadlines=[Deadline(hold=hold, address=address) for hold, address in found], accounts=accounts)


def _unwrapped(reply: Any) -> Any:
    """A reply inside EXEC's; errors stand there as values."""
    if isinstance(reply, Exception):
        raise errors.UnavailableError(f"redis: {reply}")
    return reply


async def entries_after(
    run: runner.Runner, partition: int, cursor: str
) -> AsyncIterator[tuple[str, dict[bytes, bytes]]]:
    """The partition's outbox entries behind `cursor` up to its end, in order, a page at a time."""
    after = cursor
    while True:
        page: list[Any] = await run.command(
            ("XRANGE", keys.outbox(partition), f"({after}", "+", "COUNT", str(PAGE_ENTRIES_MAX))
        )
        for entry_id, fields in page:
            after = entry_id.decode()
            yield after, dict(zip(fields[::2], fields[1::2], strict=True))
        if len(page) < PAGE_ENTRIES_MAX:
            return


async def oldest_after_ms(run: runner.Runner, partition: int, cursor: str) -> int | None:
    """When (ms, of Redis' clock) the first outbox entry behind `cursor` was made; None if there is none."""
    page: list[Any] = await run.command(("XRANGE", keys.outbox(partition), f"({cursor}", "+", "COUNT", "1"))
    return int(page[0][0].partition(b"-")[0]) if page else None


async def partition_keys(run: runner.Runner, partitions: Iterable[int]) -> AsyncIterator[tuple[int, bytes]]:
    """The keys of the partitions with their partition. One pass over the whole keyspace; a key may come twice."""
    wanted = set(partitions)
    cursor = b"0"
    while True:
        cursor, page = await run.command(("SCAN", cursor, "MATCH", "{m:*}:*", "COUNT", str(PAGE_KEYS_MAX)))
        for name in page:
            match = _PARTITION.match(name)
            if match and int(match[1]) in wanted:
                yield int(match[1]), name
        if cursor == b"0":
            return
