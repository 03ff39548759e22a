"""A script that fails must leave nothing: each redis.call is made to fail in turn, on a real Redis."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from meterd.core import errors, ids, ledger
from meterd.redis import ledger as redis_ledger
from meterd.redis import runner, scripts
from tests import ledgers

ADDRESS = ids.account_address("t", "acct")
OPEN = ids.uuid7(ledgers.START_MS)
DUE = ids.uuid7(ledgers.START_MS)
NEW = ids.uuid7(ledgers.START_MS)
WRITES = {"HSET", "SET", "ZADD", "ZREM", "XADD"}

CASES: dict[str, Callable[[ledger.Ledger], Awaitable[object]]] = {
    "reserve": lambda book: book.reserve(ledgers.reserve(NEW, 100)),
    "commit": lambda book: book.commit(ledgers.commit(OPEN, 900)),
    "release": lambda book: book.release(ledgers.release(OPEN)),
    "extend": lambda book: book.extend(
        ledger.Extend(tenant_id="t", address=ADDRESS, hold=OPEN, ttl_ms=900_000, amount_micros=400)
    ),
    "report": lambda book: book.report(
        ledger.Report(tenant_id="t", address=ADDRESS, hold=OPEN, used_micros=7, detail=b"{}")
    ),
    "charge": lambda book: book.charge(ledgers.charge(NEW, 100)),
    "expire": lambda book: book.expire(ADDRESS, DUE),
    "grant": lambda book: book.apply(ADDRESS, ledgers.grant_change(9, 100, expires_ms=ledgers.START_MS + 1)),
    "revoke": lambda book: book.apply(
        ADDRESS,
        ledger.RevokeChange(change_no=9, revocation_id=uuid.UUID(int=77), grant_id=uuid.UUID(int=1), wallet="default"),
    ),
    "settings": lambda book: book.apply(
        ADDRESS,
        ledger.SettingsChange(
            change_no=9,
            change_id=uuid.UUID(int=78),
            overage=ledger.Overage.CAP,
            overdraft_limit_micros=0,
            strict_expiry=False,
            frozen=False,
        ),
    ),
    "clawback": lambda book: book.apply(
        ADDRESS,
        ledger.ClawBackChange(change_no=9, claw_back_id=uuid.UUID(int=79), wallet="default", amount_micros=5_000),
    ),
    "limits": lambda book: book.apply(ADDRESS, ledgers.limits_change(9)),
    "load": lambda book: book.load(ledgers.account_state("new")),
}

# Cases that are not named like their script.
VERBS = {"limits": "settings"}


def failing_at(script: scripts.Script, count: int) -> scripts.Script:
    """The script with a redis.call that raises at its `count`-th use, and notes which command that was."""
    counting = (
        "local call; do local n = 0; call = function(...) n = n + 1; "
        f"if n == {count} then error('fault at ' .. (select(1, ...))) end; return redis.call(...) end end"
    )
    text = script.text.replace("local call = redis.call", counting)
    assert text != script.text
    return dataclasses.replace(script, text=text, sha=hashlib.sha1(text.encode()).hexdigest().encode())


@pytest_asyncio.fixture
async def clocked(redis_url: str) -> AsyncIterator[ledgers.Clocked]:
    found = await ledgers.on_redis(redis_url)
    await found.book.load(ledgers.account_state())
    await found.book.apply(ADDRESS, ledgers.grant_change(1, 500))
    await found.book.apply(ADDRESS, ledgers.grant_change(2, 500))
    # So that each verb has counters to read and to write.
    await found.book.apply(ADDRESS, ledgers.limits_change(3, ledgers.limit(1, 10_000), ledgers.limit(2, 10_000)))
    await found.book.reserve(ledgers.reserve(OPEN, 300))
    await found.book.reserve(ledgers.reserve(DUE, 50, ttl_ms=1_000))
    await found.advance(1_000)
    yield found
    await found.close()


async def dump(run: runner.Runner) -> dict[bytes, bytes]:
    found = sorted(await run.command(("KEYS", "*")))
    return {key: await run.command(("DUMP", key)) for key in found}


@pytest.mark.parametrize("verb", sorted(CASES))
async def test_a_fault_before_the_first_write_leaves_every_key_as_it_was(clocked: ledgers.Clocked, verb: str) -> None:
    book, run = clocked.book, clocked.run
    assert isinstance(book, redis_ledger.RedisLedger) and run is not None
    name = VERBS.get(verb, verb)
    original, before, reached = book.scripts[name], await dump(run), list[str]()
    for count in range(1, 60):
        book.scripts[name] = failing_at(original, count)
        await run.command(("SCRIPT", "LOAD", book.scripts[name].text))
        try:
            await CASES[verb](book)
        except errors.UnavailableError as exc:
            reached.append(str(exc).split("fault at ")[1].split(" ")[0].strip("'"))
            if reached[-1] in WRITES:
                break
            assert await dump(run) == before, f"fault at call {count} ({reached[-1]})"
            continue
        pytest.fail(f"call {count} was never made")
    assert reached[-1] in WRITES and len(reached) > 1, "the fault must get as far as the first write"


@pytest.mark.parametrize("verb", sorted(CASES))
async def test_a_key_of_the_wrong_type_is_noticed_before_the_first_write(clocked: ledgers.Clocked, verb: str) -> None:
    """A wrong type is what could make a write raise after another write: Redis would keep the first one."""
    run = clocked.run
    assert run is not None
    before = await dump(run)
    partition = ids.partition_of(ADDRESS, ledgers.PARTITIONS)
    wrong = (f"{{m:{partition:02d}}}:{name}" for name in ("o", "d", "x", f"a:{ADDRESS}", f"k:{ADDRESS}"))
    for key in wrong:
        await run.command(("DEL", key))
        await run.command(("LPUSH", key, "not what it should be"))
        broken = await dump(run)
        try:
            await CASES[verb](clocked.book)
        except errors.UnavailableError:
            assert await dump(run) == broken, key
        await run.command(("FLUSHALL",))
        for name, value in before.items():
            await run.command(("RESTORE", name, "0", value))


@pytest.mark.parametrize("verb", ["commit", "release", "expire"])
async def test_an_end_needs_no_deadlines(clocked: ledgers.Clocked, verb: str) -> None:
    """They are the last to be written, and what is no zset has no member to lose: the settlement is whole all the same."""
    book, run = clocked.book, clocked.run
    assert isinstance(book, redis_ledger.RedisLedger) and run is not None
    partition = ids.partition_of(ADDRESS, ledgers.PARTITIONS)
    key, before = f"{{m:{partition:02d}}}:d", await book.account(ADDRESS)
    assert before is not None
    await run.command(("DEL", key))
    await run.command(("LPUSH", key, "not what it should be"))
    outcome = await CASES[verb](book)
    assert isinstance(outcome, ledger.Settled)
    after = await book.account(ADDRESS)
    assert after is not None and after.held_micros < before.held_micros
    assert after.granted_micros == after.spent_micros + after.held_micros + sum(
        grant.available_micros for wallet in after.wallets for grant in wallet.grants
    )
    assert after.last_txn.endswith(outcome.txn.hex) and after.seq == before.seq + 1
    assert await run.command(("LRANGE", key, "0", "-1")) == [b"not what it should be"]


async def test_out_of_memory_refuses_reserve_before_it_starts_and_lets_commit_through(clocked: ledgers.Clocked) -> None:
    run = clocked.run
    assert run is not None
    before = await dump(run)
    await run.command(("CONFIG", "SET", "maxmemory-policy", "noeviction"))
    await run.command(("CONFIG", "SET", "maxmemory", "1"))
    try:
        with pytest.raises(errors.OverloadedError):
            await clocked.book.reserve(ledgers.reserve(NEW, 100))
        assert await dump(run) == before
        assert isinstance(await clocked.book.commit(ledgers.commit(OPEN, 100)), ledger.Settled)
    finally:
        await run.command(("CONFIG", "SET", "maxmemory", "0"))


async def test_another_epoch_is_refused(clocked: ledgers.Clocked) -> None:
    book = clocked.book
    assert isinstance(book, redis_ledger.RedisLedger)
    book.sentinels = [b"2:test"] * ledgers.PARTITIONS
    with pytest.raises(errors.UnavailableError, match="fenced"):
        await book.reserve(ledgers.reserve(NEW, 100))
    assert book.sentinels[ids.partition_of(ADDRESS, ledgers.PARTITIONS)] is None


async def test_missing_scripts_fence_the_partition(clocked: ledgers.Clocked) -> None:
    book, run = clocked.book, clocked.run
    assert isinstance(book, redis_ledger.RedisLedger) and run is not None
    await run.command(("SCRIPT", "FLUSH"))
    with pytest.raises(errors.UnavailableError):
        await book.reserve(ledgers.reserve(NEW, 100))
    assert book.sentinels[ids.partition_of(ADDRESS, ledgers.PARTITIONS)] is None


async def test_a_tombstone_takes_at_most_300_bytes(clocked: ledgers.Clocked) -> None:
    book, run = clocked.book, clocked.run
    assert isinstance(book, redis_ledger.RedisLedger) and run is not None
    await book.reserve(ledgers.reserve(NEW, 500))
    await book.commit(ledgers.commit(NEW, 450))
    key = await run.command(("KEYS", "*:h:*"))
    sizes = [await run.command(("MEMORY", "USAGE", name)) for name in key if await run.command(("PTTL", name)) > 0]
    assert sizes and max(sizes) <= 300
