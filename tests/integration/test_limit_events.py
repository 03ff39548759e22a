"""Limits that are near or reached are told: once in a turn of their window and for each subject, on real stores, whatever fails."""

from __future__ import annotations

import asyncio
import collections
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from meterd.core import ids, limits
from meterd.meter import alerts
from meterd.postgres import limit_uses
from meterd.postgres import limits as definitions
from meterd_client.v1 import accounts_pb2, events_pb2, metering_pb2, types_pb2
from tests.integration import outbox, serving
from tests.integration.receiver import receiving

DAY_MS = 24 * 3600 * 1000
CREDIT = 1_000_000
LEVELS = ["limit.near", "limit.reached"]


@pytest_asyncio.fixture
async def world(database: str, redis_url: str) -> AsyncIterator[outbox.World]:
    async with outbox.world(database, redis_url) as made:
        yield made


async def set_limit(world: outbox.World, cap: int, *, account_id: str = "a", **fields: Any) -> None:
    values: dict[str, Any] = {
        "limit_id": "daily",
        "subject": limits.Subject.USER,
        "value": "",
        "metric": limits.Metric.CREDITS,
        "window": limits.Window.DAY,
        "observe": False,
    }
    # Before any record of the test was made.
    held = definitions.Limits(world.pool, clock_ms=lambda: world.now_ms - DAY_MS)
    await held.set_limit("t", account_id, definitions.NewLimit(cap=cap, **values | fields))


async def told(world: outbox.World) -> list[tuple[str, str, int]]:
    """Type, subject and use of all that was told of limits, in order."""
    rows = await world.pool.fetch("SELECT type, payload FROM events WHERE type LIKE 'limit.%' ORDER BY event_id")
    return [(row["type"], row["payload"]["subject"], row["payload"]["used"]) for row in rows]


async def flush(world: outbox.World, writer: outbox.Writer, **options: Any) -> None:
    await writer.send(world.client)
    flusher = world.flusher(**options)
    await flusher.drain()
    await flusher.close()


def terms(user: str, **more: Any) -> dict[str, Any]:
    return {"item": "credits", "user": user} | more


async def test_each_subject_and_each_turn_of_the_window_is_told_once(world: outbox.World) -> None:
    writer = await world.writer("a", 10_000)
    await set_limit(world, 100)
    for at in range(30):
        for user in ("u1", "u2"):
            writer.commit(4 if user == "u1" else 3, now_ms=world.now_ms + at, terms=terms(user), detail={})
    # Some records to a batch, so that a window's use goes on from what the batch before has left.
    await flush(world, writer, batch_rows_max=16)
    assert sorted(await told(world)) == [
        ("limit.near", "user:u1", 80),
        ("limit.near", "user:u2", 81),
        ("limit.reached", "user:u1", 100),
    ]
    writer.commit(85, now_ms=world.now_ms + DAY_MS, terms=terms("u1"), detail={})
    writer.commit(15, now_ms=world.now_ms + DAY_MS, terms=terms("u1"), detail={})
    await flush(world, writer)
    assert (await told(world))[3:] == [("limit.near", "user:u1", 85), ("limit.reached", "user:u1", 100)]


class _Crash(Exception):
    """As if the process had died."""


@pytest.mark.parametrize("step", ["inserted", "counted", "moved", "committed"])
async def test_a_flusher_that_dies_at_any_step_tells_each_level_once(world: outbox.World, step: str) -> None:
    writer = await world.writer("a", 1_000)
    await set_limit(world, 100)
    for _ in range(60):
        writer.commit(3, now_ms=world.now_ms, terms=terms("u"), detail={})
    await writer.send(world.client)

    async def crash(at: str) -> None:
        if at == step:
            raise _Crash

    for _ in range(2):
        dying = world.flusher(failpoint=crash, batch_rows_max=16, claim_interval_s=0.0)
        with pytest.raises(_Crash):
            await until_step(dying)
        await dying.close()
        survivor = world.flusher(batch_rows_max=16, claim_interval_s=0.0)
        await until_step(survivor)
        await survivor.close()
    await flush(world, writer)
    await world.assert_folded(writer)
    assert await told(world) == [("limit.near", "user:u", 81), ("limit.reached", "user:u", 102)]
    assert await world.pool.fetchval("SELECT used FROM limit_uses") == [180]


async def until_step(flusher: Any) -> None:
    """Steps until one finds entries; locks of a connection that was terminated are free a moment later."""

    async def found() -> bool:
        return await flusher.step() > 0

    await outbox.until(found)


async def test_a_late_commit_adds_what_its_holds_expiry_had_not(world: outbox.World) -> None:
    writer = await world.writer("a", 1_000)
    await set_limit(world, 100)
    hold = ids.uuid7(world.now_ms)
    grant_id = next(iter(writer.available))
    settled = json.dumps(terms("u", at=world.now_ms))
    for kind, amount in (("E", 75), ("L", 5)):
        writer.available[grant_id] -= amount
        writer.spent += amount
        writer.entry(kind, hold, h=75, c=amount, d=f"{grant_id.hex}:{amount}", l=2, m=settled, j="{}")
    await flush(world, writer)
    assert await told(world) == [("limit.near", "user:u", 80)]


async def test_what_was_used_before_the_limit_and_transfers_and_released_holds_do_not_count(
    world: outbox.World,
) -> None:
    writer = await world.writer("a", 1_000)
    await set_limit(world, 100)
    writer.commit(500, now_ms=world.now_ms - 2 * DAY_MS, terms=terms("u"), detail={})
    writer.commit(79, now_ms=world.now_ms, terms=terms("u"), detail={})
    writer.entry("R", ids.uuid7(world.now_ms), h=90, r=90, m=json.dumps(terms("u")), j='{"reason": "x"}')
    writer.entry("E", ids.uuid7(world.now_ms), h=90, r=90, m=json.dumps(terms("u")))
    grant_id = next(iter(writer.available))
    writer.available[grant_id] -= 90
    writer.spent += 90
    writer.entry("H", ids.uuid7(world.now_ms), c=90, d=f"{grant_id.hex}:90", l=6, m=json.dumps(terms("u")))
    await flush(world, writer)
    assert await told(world) == []
    assert await world.pool.fetchval("SELECT used FROM limit_uses") == [79]


async def test_a_limit_that_goes_and_a_window_that_is_long_past_leave_no_use_behind(world: outbox.World) -> None:
    writer = await world.writer("a", 1_000)
    await set_limit(world, 100)
    await set_limit(world, 100, limit_id="ever", window=limits.Window.LIFETIME)
    writer.commit(10, now_ms=world.now_ms, terms=terms("u"), detail={})
    await flush(world, writer)
    assert await world.pool.fetchval("SELECT count(*) FROM limit_uses") == 2
    assert await limit_uses.prune(world.pool, world.now_ms, count_max=10) == 0
    later_ms = world.now_ms + 3 * DAY_MS
    await alerts.Alerts(world.pool, clock_ms=lambda: later_ms).round(asyncio.Event())
    assert await world.pool.fetchval("SELECT count(*) FROM limit_uses") == 1
    await definitions.Limits(world.pool).delete_limit("t", "a", "ever")
    assert await world.pool.fetchval("SELECT count(*) FROM limit_uses") == 0


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def client(scene: serving.Scene) -> AsyncIterator[serving.Client]:
    settings = serving.settings_of(scene.dsn, scene.redis_url, workers=True, webhooks_allow_private=True)
    async with serving.running(settings) as server:
        yield server.client(scene.key)


def limit(limit_id: str, amount: int, **fields: Any) -> accounts_pb2.SetLimitRequest:
    values: dict[str, Any] = {
        "subject": types_pb2.LIMIT_SUBJECT_USER,
        "metric": types_pb2.LIMIT_METRIC_CREDITS,
        "window": types_pb2.LIMIT_WINDOW_LIFETIME,
    }
    made = accounts_pb2.Limit(limit_id=limit_id, amount=amount, **values | fields)
    return accounts_pb2.SetLimitRequest(account_id="org", limit=made)


async def use(client: serving.Client, user: str, amount: int) -> str:
    """Reserves and commits; answers what became of it."""
    request = serving.reserve_request("org", amount, subject=types_pb2.Subject(user=user))
    answer = await client.call("Reserve", request)
    if answer.WhichOneof("outcome") == "hold":
        await client.call("Commit", metering_pb2.CommitRequest(hold_id=answer.hold.hold_id, amount_micros=amount))
    return answer.WhichOneof("outcome")


async def listed(client: serving.Client) -> list[tuple[str, str, int]]:
    answer = await client.call("ListEvents", events_pb2.ListEventsRequest(types=LEVELS))
    found = [(event.type, json.loads(event.data)) for event in answer.events]
    return sorted((kind, data["subject"], data["used"]) for kind, data in found)


async def test_two_users_race_under_a_limit_and_a_receiver_hears_of_each_level_once(
    client: serving.Client, scene: serving.Scene
) -> None:
    async with receiving() as receiver:
        request = events_pb2.CreateWebhookRequest(idempotency_key="w", url=receiver.url, types=LEVELS)
        secret = (await client.call("CreateWebhook", request)).secret
        await client.fund("org", 100 * CREDIT)
        await client.call("SetLimit", limit("each", 20 * CREDIT))
        outcomes = await asyncio.gather(*(use(client, f"u{at % 2}", CREDIT) for at in range(60)))
        assert collections.Counter(outcomes) == {"hold": 40, "denial": 20}
        await serving.eventually(lambda: has(receiver.requests, 4))
        expected = sorted(
            (kind, f"user:u{at}", used * CREDIT) for at in range(2) for kind, used in zip(LEVELS, (16, 20), strict=True)
        )
        heard = sorted((one["type"], one["data"]["subject"], one["data"]["used"]) for one in receiver.verified(secret))
        assert heard == expected
        assert await listed(client) == expected
        # The account is lost in Redis, and comes back with its use: what was told, was told.
        async with serving.contents(scene.dsn, scene.redis_url) as held:
            await serving.eventually(lambda: client.is_fresh("org"))
            await held.forget("*:a:*")
            await held.forget("*:k:*")
        assert await use(client, "u0", CREDIT) == "denial"
        await client.call("SetLimit", limit("each", 40 * CREDIT))
        for _ in range(12):
            assert await use(client, "u0", CREDIT) == "hold"
        await serving.eventually(lambda: has(receiver.requests, 5))
        assert await listed(client) == sorted([*expected, ("limit.near", "user:u0", 32 * CREDIT)])


async def has(found: list[Any], count: int) -> bool:
    return len(found) >= count


async def test_an_observing_limit_is_told_of_too_and_goes_beyond(client: serving.Client) -> None:
    await client.fund("org", 100 * CREDIT)
    metric = types_pb2.LIMIT_METRIC_ACTIONS
    await client.call("SetLimit", limit("actions", 2, metric=metric, observe=True))
    for _ in range(4):
        assert await use(client, "u", CREDIT) == "hold"
    await serving.eventually(lambda: client.is_fresh("org"))
    assert await listed(client) == [("limit.near", "user:u", 2), ("limit.reached", "user:u", 2)]


async def test_open_holds_are_not_told_of(client: serving.Client) -> None:
    await client.fund("org", 100 * CREDIT)
    await client.call("SetLimit", limit("open", 1, metric=types_pb2.LIMIT_METRIC_OPEN_HOLDS, window=0))
    await use(client, "u", CREDIT)
    await serving.eventually(lambda: client.is_fresh("org"))
    assert await listed(client) == []
