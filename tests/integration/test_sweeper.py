"""Holds end when their time is up, a bounded batch at a time, once, and not because a clock jumped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest_asyncio

from meterd.core import ids
from meterd.meter import sweeper
from meterd.redis import keys
from tests.integration import outbox, stores

JUMP_S = 3_600.0


@pytest_asyncio.fixture(name="both")
async def _both(database: str, redis_url: str) -> AsyncIterator[stores.Stores]:  # pyright: ignore[reportUnusedFunction]
    async with stores.opened(database, redis_url) as opened:
        await opened.account()
        await opened.grant("first", 10_000)
        await opened.projector.project(opened.address)
        yield opened


def sweeping(both: stores.Stores, monotonic_s: Callable[[], float], *owned: int) -> sweeper.Sweeper:
    async def hydrate(address: str) -> None:
        await both.hydrator.hydrate("t", address)

    return sweeper.Sweeper(both.store, both.run, hydrate=hydrate, owned=lambda: list(owned), monotonic_s=monotonic_s)


def partition_of(both: stores.Stores) -> int:
    return ids.partition_of(both.address, outbox.PARTITIONS)


async def lapsed(both: stores.Stores, count: int) -> None:
    """Makes holds whose time is up."""
    await asyncio.gather(*(both.reserve(1, ttl_ms=1) for _ in range(count)))
    await asyncio.sleep(0.01)


async def held_micros(both: stores.Stores) -> int:
    return (await both.state()).held_micros


async def test_a_mass_expiry_goes_in_batches_and_each_hold_ends_once_however_many_sweep(both: stores.Stores) -> None:
    count = 2 * sweeper.BATCH_HOLDS_MAX + 50
    await lapsed(both, count)
    await both.reserve(7)
    loop = asyncio.get_running_loop()
    sweepers = [sweeping(both, loop.time, partition_of(both)) for _ in range(2)]
    assert await sweepers[0].sweep()
    assert sweepers[0].expired_holds == sweeper.BATCH_HOLDS_MAX
    while any(await asyncio.gather(*(one.sweep() for one in sweepers))):
        pass
    assert sum(one.expired_holds for one in sweepers) == count
    # What is not due stays; and one record tells of each end, after the grant's.
    assert await held_micros(both) == 7
    assert await both.world.client.xlen(keys.outbox(partition_of(both))) == 1 + count


async def test_only_owned_partitions_are_swept(both: stores.Stores) -> None:
    await lapsed(both, 1)
    loop = asyncio.get_running_loop()
    others = [number for number in range(outbox.PARTITIONS) if number != partition_of(both)]
    await sweeping(both, loop.time, *others).sweep()
    assert await held_micros(both) == 1


async def test_nothing_expires_while_the_clock_of_redis_has_jumped(both: stores.Stores) -> None:
    now_s = 10 * JUMP_S
    swept = sweeping(both, lambda: now_s, partition_of(both))
    await swept.sweep()
    await lapsed(both, 3)
    # As seen from here, Redis is an hour ahead of the time that has passed.
    now_s -= JUMP_S
    await swept.sweep()
    assert (swept.expired_holds, await held_micros(both)) == (0, 3)
    now_s += JUMP_S
    await swept.sweep()
    assert (swept.expired_holds, await held_micros(both)) == (3, 0)


def test_a_jump_is_believed_once_the_clock_has_run_evenly_for_ten_seconds() -> None:
    now_s = 0.0
    guard = sweeper.ClockGuard(lambda: now_s)

    def trusts_at(at_s: float, ahead_ms: int) -> bool:
        nonlocal now_s
        now_s = at_s
        return guard.trusts(round(at_s * 1000) + ahead_ms)

    assert trusts_at(0, 0) and trusts_at(1, 4_900)
    # An hour forth: not after five seconds, nor if it jumps on meanwhile, but after ten.
    assert not trusts_at(2, 3_600_000) and not trusts_at(7, 3_600_000)
    assert not trusts_at(8, 7_200_000) and not trusts_at(14, 7_200_000)
    assert not trusts_at(18, 7_200_000) and trusts_at(18.1, 7_200_000) and trusts_at(19, 7_200_000)
    # Back again, which is a jump like any other; one that is over at once was none.
    assert not trusts_at(20, 0) and trusts_at(21, 7_200_000) and not trusts_at(22, 0)
    assert not trusts_at(31, 0) and trusts_at(33, 0)
