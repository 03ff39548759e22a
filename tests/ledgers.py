"""Ledgers for tests: in memory, and the real scripts on a real Redis with a clock that the test sets."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid

from meterd.core import ids, ledger, limits, memory
from meterd.redis import keys, runner, scripts
from meterd.redis import ledger as redis_ledger

PARTITIONS = 4
START_MS = 1_800_000_000_000
SENTINEL = b"1:test"
# Undeclared on purpose: production scripts have no such key.
CLOCK_KEY = "test-clock"


def with_test_clock(script: scripts.Script) -> scripts.Script:
    """The script with TIME replaced by the test's clock."""
    text = script.text.replace("call('TIME')", "{0, call('GET', 'test-clock') * 1000}")
    assert (text != script.text) == ("call('TIME')" in script.text)
    return dataclasses.replace(script, text=text, sha=hashlib.sha1(text.encode()).hexdigest().encode())


class Clocked:
    """A ledger and its clock."""

    def __init__(self, book: memory.MemoryLedger | redis_ledger.RedisLedger, run: runner.Runner | None = None) -> None:
        self.book = book
        self.run = run
        self.now_ms = START_MS

    async def set_time(self, now_ms: int) -> None:
        self.now_ms = now_ms
        if isinstance(self.book, memory.MemoryLedger):
            self.book.now_ms = now_ms
        else:
            assert self.run is not None
            await self.run.command(("SET", CLOCK_KEY, str(now_ms)))

    async def advance(self, millis: int) -> None:
        await self.set_time(self.now_ms + millis)

    async def close(self) -> None:
        if self.run is not None:
            await self.run.close()


async def in_memory() -> Clocked:
    clocked = Clocked(memory.MemoryLedger())
    await clocked.set_time(START_MS)
    return clocked


async def on_redis(url: str, *, test_clock: bool = True) -> Clocked:
    run = runner.Runner(url)
    await run.start()
    assert await run.wait_connected(5)
    await run.command(("FLUSHALL",))
    book = redis_ledger.RedisLedger(run, partitions=PARTITIONS)
    if test_clock:
        book.scripts = {name: with_test_clock(script) for name, script in book.scripts.items()}
    for script in book.scripts.values():
        await run.command(("SCRIPT", "LOAD", script.text))
    for partition in range(PARTITIONS):
        await run.command(("SET", keys.sentinel(partition), SENTINEL))
        book.sentinels[partition] = SENTINEL
    clocked = Clocked(book, run)
    await clocked.set_time(START_MS)
    return clocked


def account_state(
    account_id: str = "acct",
    *,
    overage: ledger.Overage = ledger.Overage.DRAW,
    overdraft_limit_micros: int = 0,
    strict_expiry: bool = False,
    frozen: bool = False,
    plan: ledger.PlanRule = ledger.NO_PLAN,
    actions: int = 0,
    actions_day: int = 0,
) -> ledger.AccountState:
    """A new account of tenant "t" with nothing in it."""
    return ledger.AccountState(
        tenant_id="t",
        account_id=account_id,
        address=ids.account_address("t", account_id),
        seq=0,
        last_txn="",
        change_no=0,
        granted_micros=0,
        spent_micros=0,
        expired_micros=0,
        revoked_micros=0,
        overage=overage,
        overdraft_limit_micros=overdraft_limit_micros,
        strict_expiry=strict_expiry,
        frozen=frozen,
        wallets=(),
        plan=plan,
        actions=actions,
        actions_day=actions_day,
    )


def grant_change(
    change_no: int,
    amount_micros: int,
    *,
    wallet: str = "default",
    category: int = 1,
    priority: int = 0,
    effective_ms: int = 0,
    expires_ms: int = 0,
) -> ledger.GrantChange:
    return ledger.GrantChange(
        change_no=change_no,
        grant_id=uuid.UUID(int=change_no),
        wallet=wallet,
        amount_micros=amount_micros,
        category=category,
        priority=priority,
        effective_ms=effective_ms,
        expires_ms=expires_ms,
    )


def limits_change(change_no: int, *defined: limits.Limit) -> ledger.SettingsChange:
    """The account's limits from now on; its other settings are those of `account_state`."""
    return ledger.SettingsChange(
        change_no=change_no,
        change_id=uuid.UUID(int=4_000_000 + change_no),
        overage=ledger.Overage.DRAW,
        overdraft_limit_micros=0,
        strict_expiry=False,
        frozen=False,
        limits=defined,
    )


def limit(
    limit_no: int,
    cap: int,
    *,
    subject: limits.Subject = limits.Subject.ACCOUNT,
    value: str = "",
    metric: limits.Metric = limits.Metric.CREDITS,
    window: limits.Window = limits.Window.DAY,
    observe: bool = False,
    period: str = "calendar_month",
    anchor_ms: int = 0,
) -> limits.Limit:
    return limits.Limit(
        limit_no=limit_no,
        limit_id=f"limit-{limit_no}",
        subject=subject,
        value=value,
        metric=metric,
        window=window,
        cap=cap,
        observe=observe,
        period=period,
        anchor_ms=anchor_ms,
    )


def reserve(
    hold: uuid.UUID,
    amount_micros: int,
    *,
    account_id: str = "acct",
    amount_min_micros: int | None = None,
    wallet: str = "default",
    digest: bytes = b"reserve1",
    ttl_ms: int = 300_000,
    overage: ledger.Overage = ledger.Overage.ACCOUNT,
    expiry: ledger.Expiry = ledger.Expiry.RELEASE,
    replay_only: bool = False,
    terms: bytes = b'{"item":"credits"}',
) -> ledger.Reserve:
    return ledger.Reserve(
        tenant_id="t",
        address=ids.account_address("t", account_id),
        hold=hold,
        wallet=wallet,
        amount_micros=amount_micros,
        amount_min_micros=amount_micros if amount_min_micros is None else amount_min_micros,
        digest=digest,
        ttl_ms=ttl_ms,
        overage=overage,
        expiry=expiry,
        terms=terms,
        replay_only=replay_only,
    )


def commit(
    hold: uuid.UUID,
    amount_micros: int | None,
    *,
    account_id: str = "acct",
    tenant_id: str = "t",
    digest: bytes = b"commit01",
    detail: bytes = b'{"us":1}',
) -> ledger.Commit:
    return ledger.Commit(
        tenant_id=tenant_id,
        address=ids.account_address("t", account_id),
        hold=hold,
        amount_micros=amount_micros,
        digest=digest,
        detail=detail,
    )


def release(hold: uuid.UUID, *, account_id: str = "acct") -> ledger.Release:
    return ledger.Release(tenant_id="t", address=ids.account_address("t", account_id), hold=hold, detail=b"")


def charge(
    key: uuid.UUID,
    amount_micros: int,
    *,
    digest: bytes = b"charge01",
    wallet: str = "default",
    overage: ledger.Overage = ledger.Overage.ALL_OR_NOTHING,
    terms: bytes = b'{"item":"credits"}',
    detail: bytes = b"",
) -> ledger.Charge:
    return ledger.Charge(
        tenant_id="t",
        address=ids.account_address("t", "acct"),
        charge=key,
        wallet=wallet,
        amount_micros=amount_micros,
        digest=digest,
        overage=overage,
        terms=terms,
        detail=detail,
    )
