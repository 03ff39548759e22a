"""Events are decided with the ledger rows that they tell of: once per crossing, whatever fails in between."""

from __future__ import annotations

import asyncio
import datetime
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from meterd.core import ids
from meterd.meter import alerts, flusher
from meterd.postgres import catalog, events
from tests.integration import outbox

DAY_MS = 24 * 3600 * 1000


@pytest_asyncio.fixture
async def world(database: str, redis_url: str) -> AsyncIterator[outbox.World]:
    async with outbox.world(database, redis_url) as made:
        yield made


async def _told(world: outbox.World, kind: str = "") -> list[Any]:
    rows = await world.pool.fetch(
        "SELECT type, subject, payload, account_no FROM events WHERE $1 = '' OR type = $1 ORDER BY event_id", kind
    )
    return [dict(row) for row in rows]


async def _count(world: outbox.World, kind: str) -> int:
    return len(await _told(world, kind))


async def _flush(world: outbox.World, writer: outbox.Writer) -> None:
    await writer.send(world.client)
    flush = world.flusher()
    await flush.drain()
    await flush.close()


async def test_a_balance_that_falls_below_its_threshold_is_told_once_and_again_after_it_rose(
    world: outbox.World,
) -> None:
    await events.set_low_balance(world.pool, "t", "", 100)
    writer = await world.writer("a", 150)
    for amount in (30, 19, 1, 40):
        writer.commit(amount, now_ms=world.now_ms)
    await _flush(world, writer)
    low = await _told(world, "balance.low")
    assert [(row["payload"]["left_micros"], row["payload"]["threshold_micros"]) for row in low] == [(100, 100)]
    granted, _ = await world.catalog.add_grant(
        catalog.NewGrant(
            tenant_id="t", account_id="a", idempotency_key="more", wallet="default", amount_micros=500, category=1
        )
    )
    writer.grant(granted)
    writer.commit(470, now_ms=world.now_ms)
    await _flush(world, writer)
    assert [row["payload"]["left_micros"] for row in await _told(world, "balance.low")] == [100, 90]
    assert await _count(world, "balance.exhausted") == 0


async def test_credits_in_open_holds_are_not_spent_yet(world: outbox.World) -> None:
    await events.set_low_balance(world.pool, "t", "", 100)
    writer = await world.writer("a", 150)
    # Of 150, 10 are spent and 90 stand in other holds: 50 are available, and 140 left.
    writer.commit(10, now_ms=world.now_ms, b=50, q=90, n=90)
    await _flush(world, writer)
    assert await _told(world) == []


async def test_the_accounts_own_threshold_goes_before_the_tenants(world: outbox.World) -> None:
    await events.set_low_balance(world.pool, "t", "", 100)
    await world.writer("other")
    writer = await world.writer("a", 150)
    await events.set_low_balance(world.pool, "t", "a", 20)
    writer.commit(120, now_ms=world.now_ms)
    await _flush(world, writer)
    assert await _told(world) == []
    writer.commit(10, now_ms=world.now_ms)
    await _flush(world, writer)
    assert [row["payload"]["left_micros"] for row in await _told(world, "balance.low")] == [20]


async def test_a_threshold_that_is_set_above_the_balance_is_told_with_the_next_record(world: outbox.World) -> None:
    writer = await world.writer("a", 150)
    writer.commit(120, now_ms=world.now_ms)
    await _flush(world, writer)
    await events.set_low_balance(world.pool, "t", "a", 100)
    writer.commit(1, now_ms=world.now_ms)
    writer.commit(1, now_ms=world.now_ms)
    await _flush(world, writer)
    assert [row["payload"]["left_micros"] for row in await _told(world, "balance.low")] == [29]


async def test_an_account_without_threshold_is_told_of_only_when_nothing_is_left(world: outbox.World) -> None:
    writer = await world.writer("a", 150)
    writer.commit(149, now_ms=world.now_ms)
    writer.commit(1, now_ms=world.now_ms)
    await _flush(world, writer)
    (told,) = await _told(world)
    assert told["type"] == "balance.exhausted"
    assert told["payload"] == {
        "account_id": "a",
        "wallet": "default",
        "left_micros": 0,
        "available_micros": 0,
        "held_micros": 0,
        "transaction_id": told["payload"]["transaction_id"],
    }


async def test_an_expired_hold_and_usage_that_was_not_collected_are_told_each_time(world: outbox.World) -> None:
    writer = await world.writer("a", 150)
    hold = ids.uuid7(world.now_ms)
    writer.entry("E", hold, h=40, r=40)
    writer.commit(10, now_ms=world.now_ms, u=7)
    writer.commit(10, now_ms=world.now_ms, u=8)
    await _flush(world, writer)
    expired, *uncollected = await _told(world)
    assert expired["subject"] == f"{hold}.{writer.address}"
    assert (expired["payload"]["held_micros"], expired["payload"]["returned_micros"]) == (40, 40)
    assert [row["payload"]["uncollected_micros"] for row in uncollected] == [7, 8]
    assert {row["type"] for row in uncollected} == {"usage.uncollected"}


class _Crash(Exception):
    """As if the process had died."""


@pytest.mark.parametrize("step", ["inserted", "counted", "buried", "moved", "committed", "trimmed"])
async def test_a_flusher_that_dies_at_any_step_tells_each_crossing_once(world: outbox.World, step: str) -> None:
    await events.set_low_balance(world.pool, "t", "", 100)
    writer = await world.writer("a", 150)
    for _ in range(50):
        writer.commit(3, now_ms=world.now_ms)
    await writer.send(world.client)
    reached = asyncio.Event()

    async def crash(at: str) -> None:
        if at == step:
            reached.set()
            raise _Crash

    # Each comes a batch of 16 further, so that the crossings lie in different ones; and each dies on its way.
    for _ in range(2):
        dying = world.flusher(failpoint=crash, batch_rows_max=16, trim_interval_s=0.0, claim_interval_s=0.0)
        with pytest.raises(_Crash):
            await _step(dying)
        await dying.close()
        survivor = world.flusher(batch_rows_max=16, claim_interval_s=0.0)
        await _step(survivor)
        await survivor.close()
    assert reached.is_set()
    last = world.flusher(claim_interval_s=0.0)
    await outbox.until(lambda: _caught_up(last))
    await last.close()
    await world.assert_folded(writer)
    told = await _told(world)
    assert [(row["type"], row["payload"]["left_micros"]) for row in told] == [
        ("balance.low", 99),
        ("balance.exhausted", 0),
    ]


async def _step(flush: flusher.Flusher) -> None:
    """Steps until one finds entries; locks of a connection that was terminated are free a moment later."""

    async def found() -> bool:
        return await flush.step() > 0

    await outbox.until(found)


async def _caught_up(flush: flusher.Flusher) -> bool:
    return await flush.step() == 0 and flush.stats().owned == outbox.PARTITIONS


async def _grant(world: outbox.World, key: str, *, days: float, life_days: float) -> catalog.Grant:
    expires_ms = world.now_ms + int(days * DAY_MS)
    granted, _ = await world.catalog.add_grant(
        catalog.NewGrant(
            tenant_id="t",
            account_id="a",
            idempotency_key=key,
            wallet="default",
            amount_micros=100,
            category=2,
            effective_ms=expires_ms - int(life_days * DAY_MS),
            expires_ms=expires_ms,
        )
    )
    return granted


async def test_a_grant_that_expires_within_three_days_is_told_once_by_any_number_of_scans(world: outbox.World) -> None:
    writer = await world.writer("a", 10)
    soon = await _grant(world, "soon", days=2.9, life_days=30)
    later = await _grant(world, "later", days=3.1, life_days=30)
    # A day of its week is left: it is told of in its last quarter only.
    week = await _grant(world, "week", days=1.8, life_days=7)
    fresh = await _grant(world, "fresh", days=1.7, life_days=6)
    spent = await _grant(world, "spent", days=2, life_days=30)
    for granted in (soon, later, week, fresh, spent):
        writer.grant(granted)
    writer.available = {spent.grant_id: 100} | writer.available
    writer.commit(100, now_ms=world.now_ms)
    await _flush(world, writer)
    scans = [alerts.Alerts(world.pool, clock_ms=lambda: world.now_ms) for _ in range(4)]
    told = await asyncio.gather(*(scan.round(asyncio.Event()) for scan in scans))
    assert sum(told) == 1
    (event,) = await _told(world, "grant.expiring")
    assert event["payload"] == {
        "account_id": "a",
        "wallet": "default",
        "grant_id": str(soon.grant_id),
        "left_micros": 100,
        "expires_ms": soon.expires_ms,
    }
    # Half a day later the two others are due; what was told, was told.
    at_ms = world.now_ms + DAY_MS // 2
    assert await alerts.Alerts(world.pool, clock_ms=lambda: at_ms).round(asyncio.Event()) == 3
    assert {row["subject"] for row in await _told(world, "grant.expiring")} == {
        str(granted.grant_id) for granted in (soon, later, week, fresh)
    }


async def test_a_day_above_three_times_the_mean_of_seven_is_told_once_that_day(world: outbox.World) -> None:
    writer = await world.writer("a", 100_000_000)
    days = itertools.chain([(7, 700_000)], [(day, 1_400_000) for day in range(1, 7)])
    for day, amount in days:
        writer.commit(amount, now_ms=world.now_ms - day * DAY_MS)
    # The mean of seven days is 1.3 credits.
    writer.commit(3_900_000, now_ms=world.now_ms)
    await _flush(world, writer)
    scan = alerts.Alerts(world.pool, clock_ms=lambda: world.now_ms)
    assert await scan.round(asyncio.Event()) == 0
    writer.commit(1, now_ms=world.now_ms)
    await _flush(world, writer)
    for expected in (1, 0):
        assert await alerts.Alerts(world.pool, clock_ms=lambda: world.now_ms).round(asyncio.Event()) == expected
    (event,) = await _told(world, "usage.spike")
    day = datetime.datetime.fromtimestamp(world.now_ms / 1000, datetime.UTC).date().isoformat()
    assert event["payload"] == {
        "account_id": "a",
        "day": day,
        "charged_micros": 3_900_001,
        "mean_micros": 1_300_000,
        "baseline_days": 7,
    }


async def test_an_account_without_earlier_days_has_no_spike(world: outbox.World) -> None:
    writer = await world.writer("a", 100_000_000)
    writer.commit(90_000_000, now_ms=world.now_ms)
    await _flush(world, writer)
    assert await alerts.Alerts(world.pool, clock_ms=lambda: world.now_ms).round(asyncio.Event()) == 0


async def test_old_events_go_and_waiting_ones_stay(world: outbox.World) -> None:
    writer = await world.writer("a", 10)
    writer.commit(10, now_ms=world.now_ms)
    await _flush(world, writer)
    assert await events.prune(world.pool, world.now_ms, count_max=10) == 0
    assert await events.prune(world.pool, world.now_ms + DAY_MS, count_max=10) == 1
    assert await _told(world) == []
