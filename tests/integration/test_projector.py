"""What was decided in Postgres reaches a real Redis in order, once, whatever was lost on the way."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from meterd.core import errors
from meterd.postgres import fold
from tests.integration import outbox, stores


@pytest_asyncio.fixture(name="both")
async def _both(database: str, redis_url: str) -> AsyncIterator[stores.Stores]:  # pyright: ignore[reportUnusedFunction]
    async with stores.opened(database, redis_url) as opened:
        yield opened


async def test_a_grant_is_projected_once_and_confirmed_by_the_flusher(both: stores.Stores) -> None:
    await both.account()
    made = await both.grant("k1", 500)
    applied = await both.projector.project(both.address)
    assert applied[made.change_no].amount_micros == 500
    again = await both.projector.project(both.address)
    assert again[made.change_no].already
    assert (await both.state()).granted_micros == 500
    flush = both.world.flusher()
    await flush.drain()
    assert await both.projector.project(both.address) == {}
    assert (await both.world.catalog.grant("t", made.grant_id)).is_applied
    await flush.close()


async def test_concurrent_projections_apply_each_change_once_and_in_order(both: stores.Stores) -> None:
    await both.account()

    async def grant_and_project(at: int) -> None:
        await both.grant(f"k{at}", 100 + at)
        await both.projector.project(both.address)

    await asyncio.gather(*(grant_and_project(at) for at in range(20)))
    state = await both.state()
    assert (state.granted_micros, state.change_no, state.seq) == (sum(range(100, 120)), 20, 20)


async def test_what_redis_lost_before_the_flush_is_sent_again(both: stores.Stores) -> None:
    await both.account()
    first = await both.grant("k1", 500)
    await both.projector.project(both.address)
    flush = both.world.flusher()
    await flush.drain()
    await flush.close()
    await both.grant("k2", 70)
    await both.world.catalog.revoke_grant("t", grant_id=first.grant_id, idempotency_key="r1")
    await both.world.catalog.change_settings("t", "acct", frozen=True)
    await both.projector.project(both.address)
    before = await both.state()
    await both.lose_redis()
    assert await both.projector.round() == 3
    after = await both.state()
    assert (after.granted_micros, after.revoked_micros, after.frozen, after.change_no) == (570, 500, True, 4)
    assert after.seq == before.seq == 4
    # Sent a moment ago, and not confirmed yet: once is enough.
    assert await both.projector.round() == 0


async def test_only_one_server_projects_in_the_background(both: stores.Stores) -> None:
    await both.account()
    await both.grant("k1", 500)
    async with both.world.pool.acquire() as connection, connection.transaction():
        assert await fold.try_projecting(connection)
        assert await both.projector.round() == 0
    assert await both.projector.round() == 1


async def test_the_background_loop_survives_a_fence_and_catches_up(both: stores.Stores) -> None:
    await both.account()
    await both.grant("k1", 500)
    sentinels = list(both.store.sentinels)
    both.store.sentinels[:] = [None] * outbox.PARTITIONS
    assert await both.projector.round() == 0
    assert both.projector.stats().failed == 1
    both.store.sentinels[:] = sentinels
    running = asyncio.create_task(both.projector.run())
    await outbox.until(lambda: both.projector.stats().sent == 1)
    both.projector.stop()
    await running
    assert (await both.state()).granted_micros == 500


async def test_a_grant_is_replayed_and_a_reused_key_names_the_field(both: stores.Stores) -> None:
    await both.account()
    made = await both.grant("k1", 500)
    assert await both.grant("k1", 500) == made
    with pytest.raises(errors.AlreadyExistsError, match="another amount_micros"):
        await both.grant("k1", 501)
    assert await both.world.pool.fetchval("SELECT count(*) FROM account_changes") == 1
    outcomes = await asyncio.gather(*(both.grant("k2", 9) for _ in range(10)))
    assert len({outcome.grant_id for outcome in outcomes}) == 1
    revocation, replayed = await both.world.catalog.revoke_grant(
        "t", grant_id=made.grant_id, idempotency_key="r", reason="x"
    )
    assert not replayed
    assert await both.world.catalog.revoke_grant("t", grant_id=made.grant_id, idempotency_key="r", reason="x") == (
        revocation,
        True,
    )
    with pytest.raises(errors.AlreadyExistsError, match="another reason"):
        await both.world.catalog.revoke_grant("t", grant_id=made.grant_id, idempotency_key="r", reason="y")
    with pytest.raises(errors.NotFoundError):
        await both.world.catalog.revoke_grant("t", grant_id=uuid.uuid4(), idempotency_key="r2")
    with pytest.raises(errors.NotFoundError):
        await both.world.catalog.revoke_grant("u", grant_id=made.grant_id, idempotency_key="r")


async def test_grants_that_redis_would_refuse_are_refused_before_they_are_durable(both: stores.Stores) -> None:
    await both.account()
    await both.grant("big", 2**53 - 2)
    with pytest.raises(errors.OutOfRangeError):
        await both.grant("more", 2)
    await both.grant("last", 1)
    await both.projector.project(both.address)
    assert (await both.state()).granted_micros == 2**53 - 1
