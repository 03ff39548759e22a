"""The service Events over gRPC, and events from a call to a receiver, with the workers of a real server between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import click.testing
import grpc
import pytest_asyncio

from meterd.cli import webhooks as commands
from meterd.core import signing
from meterd_client.v1 import events_pb2, metering_pb2, types_pb2
from tests.integration import serving
from tests.integration.receiver import receiving, status


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def server(scene: serving.Scene) -> AsyncIterator[serving.Server]:
    settings = serving.settings_of(scene.dsn, scene.redis_url, workers=True, webhooks_allow_private=True)
    async with serving.running(settings) as server:
        yield server


@pytest_asyncio.fixture
async def client(server: serving.Server, scene: serving.Scene) -> serving.Client:
    return server.client(scene.key)


def webhook(url: str, *types: str, key: str = "") -> events_pb2.CreateWebhookRequest:
    return events_pb2.CreateWebhookRequest(idempotency_key=key or serving.new_id(), url=url, types=types)


async def low_balance(client: serving.Client, micros: int, account_id: str = "") -> None:
    request = events_pb2.SetLowBalanceRequest(account_id=account_id, low_balance_micros=micros)
    await client.call("SetLowBalance", request)


async def listed(client: serving.Client, **fields: Any) -> list[events_pb2.Event]:
    return list((await client.call("ListEvents", events_pb2.ListEventsRequest(**fields))).events)


async def charge(client: serving.Client, account_id: str, amount_micros: int) -> Any:
    credits = types_pb2.CreditsCharge(amount_micros=amount_micros)
    request = metering_pb2.ChargeRequest(idempotency_key=serving.new_id(), account_id=account_id, credits=credits)
    return await client.call("Charge", request)


async def lifecycle(client: serving.Client, account_id: str, amount_micros: int) -> None:
    hold = await client.reserve(account_id, amount_micros)
    await client.call("Commit", metering_pb2.CommitRequest(hold_id=hold.hold_id, amount_micros=amount_micros))


async def test_fifty_concurrent_spends_cross_each_threshold_once_and_the_receiver_hears_of_each_once(
    client: serving.Client,
) -> None:
    async with receiving() as receiver:
        secret = (await client.call("CreateWebhook", webhook(receiver.url))).secret
        await low_balance(client, 20_000)
        await client.fund("acct", 50_000)
        await asyncio.gather(*(lifecycle(client, "acct", 1_000) for _ in range(50)))
        await serving.eventually(lambda: _has(receiver.requests, 2))
        documents = sorted(receiver.verified(secret), key=lambda document: document["type"])
        assert [document["type"] for document in documents] == ["balance.exhausted", "balance.low"]
        assert [document["data"]["left_micros"] for document in documents] == [0, 20_000]
        # Up again and down again: once more.
        await client.fund("acct", 30_000)
        await charge(client, "acct", 25_000)
        await serving.eventually(lambda: _has(receiver.requests, 3))
        assert [document["type"] for document in receiver.verified(secret)].count("balance.low") == 2
        assert len(await listed(client)) == 3


async def _has(found: list[Any], count: int) -> bool:
    return len(found) >= count


async def test_an_expired_hold_is_told(client: serving.Client) -> None:
    await client.fund("acct", 10_000)
    hold = await client.reserve("acct", 1_000, ttl_ms=1_000)

    async def told() -> bool:
        return bool(await listed(client))

    await serving.eventually(told)
    (event,) = await listed(client)
    assert (event.type, event.subject, event.account_id) == ("hold.expired", hold.hold_id, "acct")
    assert json.loads(event.data)["held_micros"] == 1_000


async def test_a_webhooks_secret_is_shown_once_and_a_repeat_creates_none(client: serving.Client) -> None:
    request = webhook("https://example.com/hook", "balance.low", key="k")
    first = await client.call("CreateWebhook", request)
    assert len(signing.secret_bytes(first.secret)) == 32
    again = await client.call("CreateWebhook", request)
    assert (again.webhook, again.secret, again.replayed) == (first.webhook, "", True)
    other = await client.refused("CreateWebhook", webhook("https://example.com/other", key="k"))
    assert other.code is grpc.StatusCode.ALREADY_EXISTS
    answer = await client.call("ListWebhooks", events_pb2.ListWebhooksRequest())
    assert list(answer.webhooks) == [first.webhook]
    assert first.secret not in str(answer)


async def test_bad_webhooks_are_refused_by_name(client: serving.Client) -> None:
    for request, field in (
        (webhook("ftp://example.com/"), "url"),
        (webhook("https://example.com/", "balance.high"), "types"),
        (events_pb2.CreateWebhookRequest(url="https://example.com/"), "idempotency_key"),
    ):
        refusal = await client.refused("CreateWebhook", request)
        assert (refusal.code, refusal.message.partition(":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    for name, request in (
        ("DeleteWebhook", events_pb2.DeleteWebhookRequest(webhook_id=serving.new_id())),
        ("RotateWebhookSecret", events_pb2.RotateWebhookSecretRequest(webhook_id=serving.new_id())),
        ("ReplayEvents", events_pb2.ReplayEventsRequest(webhook_id=serving.new_id())),
        ("SetLowBalance", events_pb2.SetLowBalanceRequest(account_id="nobody", low_balance_micros=1)),
    ):
        assert (await client.refused(name, request)).code is grpc.StatusCode.NOT_FOUND, name
    refusal = await client.refused("SetLowBalance", events_pb2.SetLowBalanceRequest())
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_webhooks_are_limited_and_a_deleted_one_makes_room(client: serving.Client) -> None:
    answers = [await client.call("CreateWebhook", webhook("https://example.com/")) for _ in range(16)]
    refusal = await client.refused("CreateWebhook", webhook("https://example.com/"))
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    request = events_pb2.DeleteWebhookRequest(webhook_id=answers[0].webhook.webhook_id)
    for _ in range(2):
        await client.call("DeleteWebhook", request)
    await client.call("CreateWebhook", webhook("https://example.com/"))


async def test_a_private_address_is_refused_unless_the_settings_allow_it(scene: serving.Scene) -> None:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        client = server.client(scene.key)
        for url in ("https://127.0.0.1/hook", "https://localhost/hook", "http://example.com/hook"):
            refusal = await client.refused("CreateWebhook", webhook(url))
            assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_another_tenant_sees_and_touches_nothing(
    client: serving.Client, server: serving.Server, scene: serving.Scene
) -> None:
    other = server.client((await serving.new_key(scene.dsn, "rival", "admin")).key)
    made = await client.call("CreateWebhook", webhook("https://example.com/"))
    await client.fund("acct", 10)
    await charge(client, "acct", 10)
    await serving.eventually(lambda: _told(client))
    assert await listed(other) == []
    assert len((await other.call("ListWebhooks", events_pb2.ListWebhooksRequest())).webhooks) == 0
    refusal = await other.refused("DeleteWebhook", events_pb2.DeleteWebhookRequest(webhook_id=made.webhook.webhook_id))
    assert refusal.code is grpc.StatusCode.NOT_FOUND
    refusal = await other.refused("ListEvents", events_pb2.ListEventsRequest(account_id="acct"))
    assert refusal.code is grpc.StatusCode.NOT_FOUND


async def _told(client: serving.Client) -> bool:
    return bool(await listed(client))


async def test_events_are_listed_by_page_with_what_became_of_them(client: serving.Client) -> None:
    async with receiving(status(500, text="no")) as receiver:
        await client.call("CreateWebhook", webhook(receiver.url))
        for at in range(5):
            await client.fund(f"acct-{at}", 10)
            await charge(client, f"acct-{at}", 10)
        await serving.eventually(lambda: _has(receiver.requests, 5))
        await serving.eventually(lambda: _all_tried(client))
        found: list[events_pb2.Event] = []
        request = events_pb2.ListEventsRequest(page_size=2)
        while True:
            answer = await client.call("ListEvents", request)
            found += answer.events
            if not answer.next_page_token:
                break
            request.page_token = answer.next_page_token
        assert sorted(event.account_id for event in found) == [f"acct-{at}" for at in range(5)]
        assert [event.event_id for event in found] == sorted((event.event_id for event in found), reverse=True)
        for event in found:
            (delivery,) = event.deliveries
            assert (delivery.state, delivery.last_status) == (events_pb2.Delivery.STATE_WAITING, 500)
            assert delivery.last_error == "HTTP 500: no"
        (one,) = await listed(client, account_id="acct-3", types=["balance.exhausted"])
        assert one.account_id == "acct-3"
        assert await listed(client, types=["hold.expired"]) == []


async def _all_tried(client: serving.Client) -> bool:
    return all(delivery.last_status for event in await listed(client) for delivery in event.deliveries)


async def test_the_command_line_creates_lists_replays_and_deletes(
    server: serving.Server, scene: serving.Scene, client: serving.Client
) -> None:
    async def run(*arguments: str) -> str:
        options = ["--server", server.address, "--key", scene.key]
        runner = click.testing.CliRunner()
        result = await asyncio.to_thread(runner.invoke, commands.webhooks, [*arguments, *options])
        assert result.exit_code == 0, result.output
        return result.stdout

    await run("low-balance", "0.00002")
    await client.fund("acct", 50)
    await charge(client, "acct", 40)
    await serving.eventually(lambda: _told(client))
    async with receiving() as receiver:
        secret = (await run("create", receiver.url, "--type", "balance.low")).strip()
        (made,) = json.loads(await run("list", "--json"))
        assert (made["url"], made["types"]) == (receiver.url, ["balance.low"])
        assert "1 deliveries" in await run("replay", made["webhook_id"])
        await serving.eventually(lambda: _has(receiver.requests, 1))
        (document,) = receiver.verified(secret)
        assert document["data"]["left_micros"] == 10
        new = (await run("rotate", made["webhook_id"])).strip()
        assert new.startswith("whsec_") and new != secret
        (event,) = json.loads(await run("events", "--json"))
        assert event["type"] == "balance.low"
        assert "balance.low" in await run("events", "--account", "acct")
        await run("delete", made["webhook_id"])
        assert json.loads(await run("list", "--json")) == []


async def test_secrets_of_a_deleted_webhook_are_gone(client: serving.Client, scene: serving.Scene) -> None:
    made = await client.call("CreateWebhook", webhook("https://example.com/"))
    await client.call("DeleteWebhook", events_pb2.DeleteWebhookRequest(webhook_id=made.webhook.webhook_id))
    connection = await asyncpg.connect(scene.dsn)
    assert await connection.fetchval("SELECT secret FROM webhook_endpoints") == b""
    await connection.close()
