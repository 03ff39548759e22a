"""Lifecycles straight on the ledger, without gRPC: for what goes on inside Redis and behind it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence

from meterd.core import ids, ledger, limits
from meterd.redis import keys, runner
from meterd.redis import ledger as redis_ledger

PARTITIONS = 64
ACCOUNTS = 256
IN_FLIGHT = 64
TENANT = "bench"
SENTINEL = b"1:bench"
GRANT_MICROS = 10**13
# As the server stores them for a model call with a user and an operation.
_TERMS = (
    b'{"acct":"account-0042","rd":"9f86d081884c7d65","user":"user-42","op":"bench","item":"model:openai/gpt-4o-mini","pv":"2026-11-20.1",'
    b'"model":"gpt-4o-mini","provider":"openai","in":1200,"out":400,"cost":"0.00042","margin":"1"}'
)
_DETAIL = (
    b'{"us":1,"cost":"0.00026388","model":"gpt-4o-mini","usage":{"input_tokens":1180,"cache_read_tokens":512,"output_tokens":211},'
    b'"lines":[["input","668","0.00000015","0.0001002"],["cache_read","512","0.000000075","0.0000384"],["output","211","0.0000006","0.0001266"]]}'
)


# What a team would set: credits a month for all of it, and tokens a day for each user.
TWO_LIMITS = (
    limits.Limit(
        limit_no=1,
        limit_id="month",
        subject=limits.Subject.ACCOUNT,
        value="",
        metric=limits.Metric.CREDITS,
        window=limits.Window.MONTH,
        cap=limits.CAP_MAX,
    ),
    limits.Limit(
        limit_no=2,
        limit_id="user-day",
        subject=limits.Subject.USER,
        value="",
        metric=limits.Metric.TOKENS,
        window=limits.Window.DAY,
        cap=limits.CAP_MAX,
    ),
)


class Bench:
    """A ledger and accounts, each with two grants."""

    def __init__(self, run: runner.Runner) -> None:
        self.run = run
        self.book = redis_ledger.RedisLedger(run, partitions=PARTITIONS)
        self.addresses = [ids.account_address(TENANT, f"account-{number:04d}") for number in range(ACCOUNTS)]

    async def prepare(self, *, defined: Sequence[limits.Limit] = ()) -> None:
        """Empties Redis, arms all partitions and loads the accounts, which no Postgres knows, with these limits."""
        await self.run.command(("FLUSHALL",))
        for script in self.book.scripts.values():
            await self.run.command(("SCRIPT", "LOAD", script.text))
        for partition in range(PARTITIONS):
            await self.run.command(("SET", keys.sentinel(partition), SENTINEL))
            self.book.sentinels[partition] = SENTINEL
        for number, address in enumerate(self.addresses):
            await self.book.load(_state(f"account-{number:04d}", address, defined))
            for change_no in (1, 2):
                await self.book.apply(address, _grant(change_no))

    def reserve(self, number: int, hold: uuid.UUID) -> ledger.Reserve:
        return ledger.Reserve(
            tenant_id=TENANT,
            address=self.addresses[number % ACCOUNTS],
            hold=hold,
            wallet="default",
            # More than the rest of the first grant would be drawn from both; small ones from the first alone.
            amount_micros=420_000,
            amount_min_micros=420_000,
            digest=hold.bytes[8:],
            ttl_ms=300_000,
            overage=ledger.Overage.ACCOUNT,
            expiry=ledger.Expiry.RELEASE,
            terms=_TERMS,
        )

    def commit(self, number: int, hold: uuid.UUID) -> ledger.Commit:
        return ledger.Commit(
            tenant_id=TENANT,
            address=self.addresses[number % ACCOUNTS],
            hold=hold,
            amount_micros=263_880,
            digest=hold.bytes[8:],
            detail=_DETAIL,
        )


def _state(account_id: str, address: str, defined: Sequence[limits.Limit]) -> ledger.AccountState:
    return ledger.AccountState(
        tenant_id=TENANT,
        account_id=account_id,
        address=address,
        seq=0,
        last_txn="",
        change_no=0,
        granted_micros=0,
        spent_micros=0,
        expired_micros=0,
        revoked_micros=0,
        overage=ledger.Overage.DRAW,
        overdraft_limit_micros=0,
        strict_expiry=False,
        frozen=False,
        wallets=(),
        limits=defined,
    )


def _grant(change_no: int) -> ledger.GrantChange:
    return ledger.GrantChange(
        change_no=change_no,
        grant_id=uuid.uuid4(),
        wallet="default",
        amount_micros=GRANT_MICROS,
        category=change_no,
        priority=0,
        effective_ms=0,
        expires_ms=0,
    )


def uuids(count: int) -> list[uuid.UUID]:
    now_ms = time.time_ns() // 1_000_000
    return [ids.uuid7(now_ms) for _ in range(count)]


async def drive(count: int, one: Callable[[int], Awaitable[object]]) -> float:
    """Calls `one` for each number with IN_FLIGHT in flight; seconds that it took."""
    numbers = iter(range(count))

    async def slot() -> None:
        for number in numbers:
            await one(number)

    begin_s = time.perf_counter()
    await asyncio.gather(*(slot() for _ in range(IN_FLIGHT)))
    return time.perf_counter() - begin_s


async def lifecycles(bench: Bench, count: int) -> float:
    """Reserves and commits; seconds that it took."""
    holds = uuids(count)

    async def one(number: int) -> None:
        await bench.book.reserve(bench.reserve(number, holds[number]))
        await bench.book.commit(bench.commit(number, holds[number]))

    return await drive(count, one)
