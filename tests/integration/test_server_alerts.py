"""What is told without a threshold of anybody's: grants that expire soon, and usage that could not be charged. On real servers."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest_asyncio

from meterd_client.v1 import events_pb2, metering_pb2, types_pb2
from tests.integration import serving
from tests.integration.receiver import receiving


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


async def listed(client: serving.Client, kind: str) -> list[dict[str, Any]]:
    answer = await client.call("ListEvents", events_pb2.ListEventsRequest(types=[kind]))
    return [json.loads(event.data) for event in answer.events]


async def test_a_grant_that_expires_soon_is_told_by_the_workers_and_one_that_lasts_is_not(
    scene: serving.Scene,
) -> None:
    now = datetime.datetime.now(tz=datetime.UTC).replace(microsecond=0)
    month_ago, soon, later = (now + datetime.timedelta(days=days) for days in (-30, 2, 20))
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=False)) as server:
        client = server.client(scene.key)
        await client.fund("acct", 10)
        for expires in (soon, later):
            await client.call("Grant", serving.grant_request("acct", 70, effective_at=month_ago, expires_at=expires))
    settings = serving.settings_of(scene.dsn, scene.redis_url, workers=True, webhooks_allow_private=True)
    async with receiving() as receiver, serving.running(settings) as server:
        client = server.client(scene.key)
        request = events_pb2.CreateWebhookRequest(idempotency_key="w", url=receiver.url)
        webhook = await client.call("CreateWebhook", request)

        async def told() -> bool:
            return bool(await listed(client, "grant.expiring"))

        await serving.eventually(told)
        (data,) = await listed(client, "grant.expiring")
        assert (data["left_micros"], data["wallet"]) == (70, "default")
        assert data["expires_ms"] == int(soon.timestamp()) * 1000
        # It may have been told before the webhook was there.
        await client.call("ReplayEvents", events_pb2.ReplayEventsRequest(webhook_id=webhook.webhook.webhook_id))

        async def heard() -> bool:
            return any(one["type"] == "grant.expiring" for one in receiver.verified(webhook.secret))

        await serving.eventually(heard)


async def test_usage_that_could_not_be_charged_in_full_is_told_with_its_hold(scene: serving.Scene) -> None:
    settings = serving.settings_of(scene.dsn, scene.redis_url, workers=True, webhooks_allow_private=True)
    async with receiving() as receiver, serving.running(settings) as server:
        client = server.client(scene.key)
        request = events_pb2.CreateWebhookRequest(idempotency_key="w", url=receiver.url, types=["usage.uncollected"])
        secret = (await client.call("CreateWebhook", request)).secret
        await client.fund("acct", 100, overage_policy=types_pb2.OVERAGE_POLICY_CAP)
        hold = await client.reserve("acct", 60)
        await client.call("Commit", metering_pb2.CommitRequest(hold_id=hold.hold_id, amount_micros=75))

        async def heard() -> bool:
            return bool(receiver.requests)

        await serving.eventually(heard)
        (document,) = receiver.verified(secret)
        (data,) = await listed(client, "usage.uncollected")
        assert document["data"] == data
        assert (data["charged_micros"], data["uncollected_micros"], data["hold_id"]) == (60, 15, hold.hold_id)
