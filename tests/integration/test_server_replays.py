"""A replay of a settlement says what the first answer said, once Postgres has the record; before that, what was charged."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest_asyncio

from meterd_client.v1 import metering_pb2, types_pb2
from tests.integration import serving

USAGE = types_pb2.Usage(input_tokens=1_180, output_tokens=212)
ACTUAL = metering_pb2.ReportedUsage(usage=USAGE)
MODEL = types_pb2.ModelCharge(model="gpt-4o-mini", input_tokens=1_200, max_output_tokens=400)


@dataclasses.dataclass
class World:
    scene: serving.Scene
    client: serving.Client


@pytest_asyncio.fixture
async def world(database: str, redis_url: str) -> AsyncIterator[World]:
    """A server whose records are flushed by another, which a test may start."""
    scene = await serving.scene(database, redis_url)
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        client = server.client(scene.key)
        await client.fund("acct", 10**9)
        yield World(scene, client)


def charge() -> metering_pb2.ChargeRequest:
    usage = metering_pb2.ModelUsage(model="gpt-4o-mini", usage=ACTUAL)
    return metering_pb2.ChargeRequest(idempotency_key=serving.new_id(), account_id="acct", model_usage=usage)


async def commit_of(client: serving.Client, **fields: Any) -> metering_pb2.CommitRequest:
    reserve = metering_pb2.ReserveRequest(hold_id=serving.new_id(), account_id="acct", model=MODEL, **fields)
    hold = (await client.call("Reserve", reserve)).hold
    return metering_pb2.CommitRequest(hold_id=hold.hold_id, usage=ACTUAL)


async def test_a_replay_tells_cost_and_bill_once_postgres_has_the_record(world: World) -> None:
    client = world.client
    calls: list[tuple[str, Any]] = [("Commit", await commit_of(client)), ("Charge", charge())]
    first = [(await client.call(name, request)).settlement for name, request in calls]
    assert [(len(one.breakdown), one.cost_usd) for one in first] == [(2, "0.0003042")] * 2
    for (name, request), said in zip(calls, first, strict=True):
        again = await client.call(name, request)
        assert again.replayed and again.settlement.charged_micros == said.charged_micros
        assert again.settlement.cost_usd == "", "nobody has flushed it"
    workers = serving.settings_of(world.scene.dsn, world.scene.redis_url, workers=True)
    async with serving.running(workers) as other:
        await serving.eventually(lambda: client.is_fresh("acct"))
        for server in (client, other.client(world.scene.key)):
            answers = [await server.call(name, request) for name, request in calls]
            assert [answer.replayed for answer in answers] == [True, True]
            assert [answer.settlement for answer in answers] == first


async def test_a_replay_of_a_late_commit_tells_the_late_one(world: World) -> None:
    workers = serving.settings_of(world.scene.dsn, world.scene.redis_url, workers=True)
    async with serving.running(workers) as other:
        client = other.client(world.scene.key)
        commit = await commit_of(client, ttl_ms=1_000, expiry_policy=types_pb2.EXPIRY_POLICY_CHARGE_ESTIMATE)

        async def is_ended() -> bool:
            return (await client.balance("acct"))[1] == 0

        await serving.eventually(is_ended)
        first = await client.call("Commit", commit)
        assert first.settlement.state == types_pb2.HOLD_STATE_COMMITTED_LATE
        await serving.eventually(lambda: client.is_fresh("acct"))
        again = await client.call("Commit", commit)
        assert again.replayed and again.settlement == first.settlement
