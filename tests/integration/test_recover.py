"""Recovery on real stores: what is empty is rebuilt, what disagrees only by force, and a death at any step does no harm."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
import pytest_asyncio

from meterd.core import errors, ids
from meterd.meter import fence, recovery, verification
from meterd.postgres import partitions, pool
from meterd.redis import keys
from meterd.redis import ledger as redis_ledger
from tests.integration import outbox, stores

State = recovery.State


class Crash(BaseException):
    """Stands for the process's death."""


@pytest_asyncio.fixture(name="both")
async def _both(database: str, redis_url: str) -> AsyncIterator[stores.Stores]:  # pyright: ignore[reportUnusedFunction]
    async with stores.opened(database, redis_url) as opened:
        await opened.account()
        await opened.grant("first", 1_000)
        await opened.projector.project(opened.address)
        yield opened


def partition_of(both: stores.Stores) -> int:
    return ids.partition_of(both.address, outbox.PARTITIONS)


async def flushed(both: stores.Stores) -> None:
    flush = both.world.flusher()
    await flush.drain()
    await flush.close()


@contextlib.asynccontextmanager
async def recovering(both: stores.Stores, crash_at: str = "") -> AsyncGenerator[recovery.Recovery]:
    async def failpoint(step: str) -> None:
        if step == crash_at:
            raise Crash(step)

    connection = await pool.connect(both.world.dsn)
    try:
        yield recovery.Recovery(connection=connection, run=both.run, failpoint=failpoint)
    finally:
        connection.terminate()


async def states(both: stores.Stores) -> list[State]:
    return [one.state for one in await recovery.diagnose(both.world.pool, both.run)]


async def recovered(both: stores.Stores, *, force: bool = False) -> list[recovery.Recovered]:
    async with recovering(both) as found:
        return await found.recover(force=force)


async def armed(both: stores.Stores) -> None:
    """A server's fence looks again."""
    guard = guarded(both)
    await guard.arm()
    assert guard.reasons == {}


def guarded(both: stores.Stores) -> fence.Fence:
    async def positions() -> list[partitions.Position]:
        return await partitions.positions(both.world.pool)

    async def claim(partition: int, incarnation: str) -> bool:
        return await partitions.claim_incarnation(both.world.pool, partition, incarnation)

    return fence.Fence(both.store, both.run, positions=positions, claim_incarnation=claim)


async def proven(both: stores.Stores) -> None:
    connection = await pool.connect(both.world.dsn)
    try:
        store = redis_ledger.RedisLedger(both.run, partitions=outbox.PARTITIONS)
        verdict = await verification.Verification(connection=connection, run=both.run, store=store).verify()
    finally:
        await connection.close()
    assert verdict.is_proven, verdict.findings


async def test_what_agrees_is_left_alone(both: stores.Stores) -> None:
    assert await states(both) == [State.AGREES] * outbox.PARTITIONS
    assert await recovered(both, force=True) == []
    assert [row.epoch for row in await partitions.positions(both.world.pool)] == [1] * outbox.PARTITIONS


async def test_an_emptied_redis_is_rebuilt_from_postgres_and_goes_on(both: stores.Stores) -> None:
    await both.commit(await both.reserve(300), 120)
    await both.reserve(70)
    await flushed(both)
    await both.run.command(("FLUSHALL",))
    assert await states(both) == [State.EMPTY] * outbox.PARTITIONS
    diagnosis = (await recovery.diagnose(both.world.pool, both.run))[partition_of(both)]
    assert diagnosis.held_flushed_micros == 0
    made = await recovered(both)
    assert [(one.partition, one.epoch) for one in made] == [(number, 2) for number in range(outbox.PARTITIONS)]
    assert await states(both) == [State.AGREES] * outbox.PARTITIONS
    await armed(both)
    await both.hydrator.hydrate("t", both.address)
    state = await both.state()
    # The open hold is gone, and its 70 are available again.
    assert (state.seq, state.held_micros, state.spent_micros, state.epoch) == (2, 0, 120, 2)
    assert sum(grant.available_micros for grant in state.wallets[0].grants) == 880
    await both.commit(await both.reserve(10), 4)
    await flushed(both)
    rows = await both.world.pool.fetch("SELECT kind, seq, epoch FROM ledger ORDER BY seq")
    assert [tuple(row) for row in rows] == [("G", 1, 1), ("C", 2, 1), ("C", 3, 2)]
    await proven(both)


async def test_grants_that_were_never_flushed_come_back_once(both: stores.Stores) -> None:
    await both.run.command(("FLUSHALL",))
    await recovered(both)
    await armed(both)
    await both.projector.project(both.address)
    state = await both.state()
    assert (state.granted_micros, state.seq) == (1_000, 1)
    await flushed(both)
    await proven(both)


async def test_a_repeat_changes_nothing(both: stores.Stores) -> None:
    await both.run.command(("FLUSHALL",))
    assert len(await recovered(both)) == outbox.PARTITIONS
    assert await recovered(both) == []


async def test_data_without_the_sentinel_needs_force_and_says_why(both: stores.Stores) -> None:
    await both.world.client.delete(keys.sentinel(partition_of(both)))
    assert (await states(both))[partition_of(both)] == State.DISAGREES
    with pytest.raises(errors.FailedPreconditionError, match=f"partition {partition_of(both)}: Redis has no sentinel"):
        await recovered(both)
    assert await both.world.client.exists(keys.outbox(partition_of(both))) == 1
    assert (await partitions.positions(both.world.pool))[partition_of(both)].epoch == 1


async def test_by_force_the_surviving_outbox_is_drained_first(both: stores.Stores) -> None:
    await flushed(both)
    await both.commit(await both.reserve(300), 120)
    await both.commit(await both.reserve(100), 30)
    await both.reserve(70)
    await both.world.client.set(keys.sentinel(partition_of(both)), "1:another")
    made = await recovered(both, force=True)
    assert [(one.partition, one.epoch, one.drained, one.set_aside, one.holds_lost) for one in made] == [
        (partition_of(both), 2, 2, 0, 1)
    ]
    assert await both.world.pool.fetchval("SELECT spent_micros FROM accounts") == 150
    left = await both.world.client.keys(f"{keys.tag(partition_of(both))}:*")
    assert left == [keys.sentinel(partition_of(both)).encode()]
    await armed(both)
    await both.hydrator.hydrate("t", both.address)
    assert (await both.state()).spent_micros == 150
    await proven(both)


async def test_entries_that_do_not_follow_are_set_aside_and_block_nobody(both: stores.Stores) -> None:
    await flushed(both)
    await both.commit(await both.reserve(300), 120)
    await both.commit(await both.reserve(100), 30)
    stream = keys.outbox(partition_of(both))
    entries = await both.world.client.xrange(stream)
    # The first commit never reached this Redis, as after a failover to a stale replica: the second hangs in the air.
    await both.world.client.xdel(stream, entries[1][0])
    await both.world.client.set(keys.sentinel(partition_of(both)), "1:another")
    [made] = await recovered(both, force=True)
    assert (made.drained, made.set_aside, made.aside_key) == (0, 1, f"{keys.tag(partition_of(both))}:lost:1:o")
    assert await both.world.client.xlen(made.aside_key) == 2
    assert await both.world.pool.fetchval("SELECT parked FROM accounts") is False
    assert await both.world.pool.fetchval("SELECT count(*) FROM outbox_dead") == 0
    assert await states(both) == [State.AGREES] * outbox.PARTITIONS
    await armed(both)
    await both.hydrator.hydrate("t", both.address)
    await both.commit(await both.reserve(1), 1)
    await flushed(both)
    await proven(both)


async def test_a_redis_behind_postgres_disagrees(both: stores.Stores) -> None:
    await both.commit(await both.reserve(300), 120)
    await flushed(both)
    stream = keys.outbox(partition_of(both))
    first = (await both.world.client.xrange(stream))[0]
    await both.world.client.delete(stream)
    await both.world.client.xadd(stream, first[1], id=first[0])
    diagnosis = (await recovery.diagnose(both.world.pool, both.run))[partition_of(both)]
    assert (diagnosis.state, diagnosis.entries_behind) == (State.DISAGREES, 0)
    assert diagnosis.reason.endswith("Redis lost its tail")
    await recovered(both, force=True)
    await armed(both)
    await both.hydrator.hydrate("t", both.address)
    assert (await both.state()).spent_micros == 120
    await proven(both)


@pytest.mark.parametrize("step", recovery.STEPS)
@pytest.mark.parametrize("emptied", [False, True])
async def test_a_death_at_any_step_is_mended_by_the_next_run(both: stores.Stores, step: str, emptied: bool) -> None:
    await flushed(both)
    await both.commit(await both.reserve(300), 120)
    if emptied:
        await flushed(both)
        await both.run.command(("FLUSHALL",))
    else:
        await both.world.client.set(keys.sentinel(partition_of(both)), "1:another")
    crashed = False
    async with recovering(both, crash_at=step) as found:
        try:
            await found.recover(force=True)
        except Crash:
            crashed = True
    assert crashed == (not emptied or step not in ("shut", "drained"))
    await recovered(both, force=True)
    assert await states(both) == [State.AGREES] * outbox.PARTITIONS
    await armed(both)
    await both.hydrator.hydrate("t", both.address)
    assert (await both.state()).spent_micros == 120
    await flushed(both)
    await proven(both)


async def test_while_one_recovers_another_is_refused(both: stores.Stores) -> None:
    await both.run.command(("FLUSHALL",))
    connection = await pool.connect(both.world.dsn)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait(step: str) -> None:
        if step == "locked":
            entered.set()
            await leave.wait()

    first = recovery.Recovery(connection=connection, run=both.run, failpoint=wait)
    running = asyncio.create_task(first.recover())
    await entered.wait()
    with pytest.raises(errors.FailedPreconditionError, match="another recovery is at work"):
        await recovered(both)
    leave.set()
    assert len(await running) == outbox.PARTITIONS
    await connection.close()


async def test_a_live_server_and_its_flusher_are_fenced_and_then_go_on_by_themselves(both: stores.Stores) -> None:
    await flushed(both)
    guard = guarded(both)
    stop = asyncio.Event()
    fencing = asyncio.create_task(guard.run(stop))
    flush = both.world.flusher()
    flushing = asyncio.create_task(flush.run())
    try:
        await outbox.until(lambda: guard.is_serving)
        await both.run.command(("FLUSHALL",))
        with pytest.raises(errors.UnavailableError):
            await both.store.account(both.address)
        guard.raise_fence(partition_of(both), "told by the ledger")
        await recovered(both)
        await outbox.until(lambda: guard.is_serving, within_s=2.0)
        for number in range(outbox.PARTITIONS):
            guard.raise_fence(number, "look again")
        await outbox.until(lambda: guard.is_serving, within_s=2.0)
        await both.hydrator.hydrate("t", both.address)
        await both.commit(await both.reserve(10), 4)

        async def has_row() -> bool:
            return await both.world.has_rows(2)

        await outbox.until(has_row)
    finally:
        stop.set()
        flush.stop()
        await asyncio.gather(fencing, flushing)
    await proven(both)


async def test_warming_loads_every_account(both: stores.Stores) -> None:
    for number in range(20):
        await both.world.writer(f"more-{number}", 50)
    await both.run.command(("FLUSHALL",))
    await recovered(both)
    loaded: list[None] = []
    store = redis_ledger.RedisLedger(both.run, partitions=outbox.PARTITIONS)
    async with recovering(both) as found:
        assert await found.warm(both.world.pool, store, lambda: loaded.append(None)) == 21
    assert len(loaded) == 21
    await armed(both)
    assert (await both.state()).granted_micros == 1_000
    await flushed(both)
    await proven(both)


async def test_nothing_is_warmed_while_a_partition_is_fenced(both: stores.Stores) -> None:
    await both.world.client.delete(keys.sentinel(0))
    store = redis_ledger.RedisLedger(both.run, partitions=outbox.PARTITIONS)
    async with recovering(both) as found:
        with pytest.raises(errors.FailedPreconditionError, match="nothing is loaded"):
            await found.warm(both.world.pool, store)


async def test_postgres_that_never_used_this_redis_disagrees_with_its_data(both: stores.Stores) -> None:
    await both.world.pool.execute("UPDATE partitions SET incarnation = ''")
    diagnosis = (await recovery.diagnose(both.world.pool, both.run))[partition_of(both)]
    assert diagnosis.state == State.DISAGREES
    assert diagnosis.reason.startswith("Postgres has never used a Redis for it")
    empty = [one.state for one in await recovery.diagnose(both.world.pool, both.run) if one.key_count == 0]
    assert set(empty) == {State.NEW}
