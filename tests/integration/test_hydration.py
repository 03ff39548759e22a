"""An account comes into a real Redis from Postgres: as it was flushed, with what is pending, once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from meterd.core import errors, ids, ledger
from meterd.meter import durable, hydration
from meterd.postgres import fold
from meterd.redis import ledger as redis_ledger
from tests.integration import stores


@pytest_asyncio.fixture(name="both")
async def _both(database: str, redis_url: str) -> AsyncIterator[stores.Stores]:  # pyright: ignore[reportUnusedFunction]
    async with stores.opened(database, redis_url) as opened:
        yield opened


async def test_an_account_comes_back_as_it_was_flushed(both: stores.Stores) -> None:
    await both.account()
    await both.grant("k1", 500)
    await both.grant("k2", 300)
    await both.projector.project(both.address)
    await both.commit(await both.reserve(600), 510)
    await both.commit(await both.reserve(10), 0)
    before = await both.state()
    flush = both.world.flusher()
    await flush.drain()
    await flush.close()
    await both.lose_redis()
    await both.hydrator.hydrate("t", both.address)
    # Without a limit of actions a day nobody asks for their number, and it is not looked up.
    assert await both.state() == dataclasses.replace(before, actions=0)
    assert before.spent_micros == 510


async def test_a_new_account_brings_its_pending_grants_along(both: stores.Stores) -> None:
    await both.account()
    await both.grant("k1", 500)
    await both.hydrator.hydrate("t", both.address)
    held = await both.reserve(500)
    assert held.amount_micros == 500


async def test_nobody_is_denied_while_a_grant_is_on_its_way_with_its_account(both: stores.Stores) -> None:
    await both.account()
    await both.grant("k1", 500)

    async def first() -> ledger.Held:
        while True:
            try:
                return await both.reserve(1)
            except errors.AccountNotLoadedError:
                await asyncio.sleep(0)

    # `reserve` takes no denial.
    reserving = [asyncio.create_task(first()) for _ in range(8)]
    await both.hydrator.hydrate("t", both.address)
    assert [held.amount_micros for held in await asyncio.gather(*reserving)] == [1] * 8


async def test_many_callers_and_servers_load_an_account_once(both: stores.Stores) -> None:
    await both.account()
    await both.grant("k1", 500)
    other = hydration.Hydrator(connections=both.world.pool, store=both.store)
    await asyncio.gather(
        *(hydrator.hydrate("t", both.address) for hydrator in (both.hydrator, other) for _ in range(50))
    )
    state = await both.state()
    assert (state.granted_micros, state.seq) == (500, 1)


async def test_a_caller_that_goes_away_does_not_take_the_others_along(both: stores.Stores) -> None:
    await both.account()
    first = asyncio.create_task(both.hydrator.hydrate("t", both.address))
    second = asyncio.create_task(both.hydrator.hydrate("t", both.address))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled() or first.cancelling()
    assert (await both.state()).account_id == "acct"


async def test_an_unknown_account_is_not_found_and_remembered_for_a_second(both: stores.Stores) -> None:
    now_s = 100.0
    hydrator = hydration.Hydrator(connections=both.world.pool, store=both.store, clock_s=lambda: now_s)
    with pytest.raises(errors.NotFoundError, match="account_id: no such account"):
        await hydrator.hydrate("t", both.address)
    await both.account()
    with pytest.raises(errors.NotFoundError):
        await hydrator.hydrate("t", both.address)
    now_s += 1.0
    await hydrator.hydrate("t", both.address)
    with pytest.raises(errors.NotFoundError, match="account_id: no such account"):
        await hydrator.hydrate("other", both.address)


async def test_an_account_with_unwritten_records_is_not_loaded(both: stores.Stores) -> None:
    await both.account()
    await both.world.pool.execute("UPDATE accounts SET parked = true")
    with pytest.raises(errors.UnavailableError, match="outbox_dead"):
        await both.hydrator.hydrate("t", both.address)


async def test_postgres_away_is_unavailable(both: stores.Stores) -> None:
    await both.world.pool.close()
    with pytest.raises(errors.UnavailableError, match="Postgres is away"):
        await both.hydrator.hydrate("t", both.address)


async def test_the_ledger_answers_for_a_hold_that_redis_has_forgotten(both: stores.Stores) -> None:
    await both.account()
    await both.grant("k1", 500)
    await both.projector.project(both.address)
    held = await both.reserve(100)
    await both.commit(held, 60)
    now_ms = both.world.now_ms
    settlements = durable.Settlements(both.world.pool, tombstone_ttl_ms=3_600_000, clock_ms=lambda: now_ms)
    with pytest.raises(errors.UnavailableError, match="lags behind"):
        await settlements.settled("t", both.address, held.hold)
    flush = both.world.flusher()
    await flush.drain()
    await flush.close()
    found = await settlements.settled("t", both.address, held.hold)
    assert found is not None
    assert (found.kind, found.charged_micros, found.returned_micros, found.held_micros) == (
        ledger.Kind.COMMIT,
        60,
        40,
        100,
    )
    assert (found.terms, found.detail, found.request_digest) == ({"item": "credits"}, {"us": 1}, b"abcdefgh")
    never = ids.uuid7(now_ms)
    assert await settlements.settled("t", both.address, never) is None
    assert await settlements.settled("other", both.address, held.hold) is None
    now_ms += 3_600_000
    with pytest.raises(errors.UnavailableError, match="lags behind"):
        await settlements.settled("t", both.address, never)
    assert await settlements.settled("t", both.address, held.hold) == found


async def test_a_flushed_record_reads_back_as_the_script_wrote_it(both: stores.Stores) -> None:
    await both.account()
    await both.grant("k1", 500)
    await both.projector.project(both.address)
    held = await both.reserve(100)
    await both.commit(held, 60)
    flush = both.world.flusher()
    await flush.drain()
    await flush.close()
    found = await fold.durable(both.world.pool, "t", both.address, held.hold)
    assert found is not None
    partition = ids.partition_of(both.address, both.store.partitions)
    entries = await both.world.client.xrevrange(f"{{m:{partition:02d}}}:o", count=1)
    assert found.records[0] == redis_ledger.decode_record(entries[0][0].decode(), entries[0][1])
