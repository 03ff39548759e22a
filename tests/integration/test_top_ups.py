"""Top-ups over gRPC and through the flusher, on real stores: asked for once a fall, and at most so often a month."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from meterd.postgres import top_ups
from meterd_client.v1 import accounts_pb2, catalog_pb2, events_pb2, metering_pb2, types_pb2
from tests.integration import outbox, serving
from tests.integration.receiver import receiving

CREDIT = 1_000_000
CATALOG = """
currency: usd
packages:
  small: {credits: 50, price: 5}
  leads: {credits: 20, price: 9, wallet: leads}
  old: {credits: 50, price: 5, active: false}
"""


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def client(scene: serving.Scene) -> AsyncIterator[serving.Client]:
    settings = serving.settings_of(scene.dsn, scene.redis_url, workers=True, webhooks_allow_private=True)
    async with serving.running(settings) as server:
        made = server.client(scene.key)
        await made.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=CATALOG))
        yield made


def top_up(package_id: str = "small", below: int = 10, per_month: int = 3) -> accounts_pb2.SetTopUpRequest:
    wanted = accounts_pb2.TopUp(package_id=package_id, threshold_micros=below * CREDIT, per_month_max=per_month)
    return accounts_pb2.SetTopUpRequest(account_id="org", top_up=wanted)


async def requests(client: serving.Client) -> list[dict[str, Any]]:
    """What was asked for, in order."""
    answer = await client.call("ListEvents", events_pb2.ListEventsRequest(types=["topup.requested"]))
    return [json.loads(event.data) for event in reversed(answer.events)]


async def charge(client: serving.Client, credits: int) -> None:
    plain = types_pb2.CreditsCharge(amount_micros=credits * CREDIT)
    request = metering_pb2.ChargeRequest(idempotency_key=serving.new_id(), account_id="org", credits=plain)
    answer = await client.call("Charge", request)
    assert answer.WhichOneof("outcome") == "settlement", answer


async def settled(client: serving.Client) -> list[dict[str, Any]]:
    await serving.eventually(lambda: client.is_fresh("org"))
    return await requests(client)


async def test_fifty_concurrent_charges_ask_once_and_a_receiver_hears_of_it(client: serving.Client) -> None:
    async with receiving() as receiver:
        request = events_pb2.CreateWebhookRequest(idempotency_key="w", url=receiver.url, types=["topup.requested"])
        secret = (await client.call("CreateWebhook", request)).secret
        await client.fund("org", 60 * CREDIT)
        await serving.eventually(lambda: client.is_fresh("org"))
        made = await client.call("SetTopUp", top_up())
        assert (made.top_up.wallet, made.top_up.requested_this_month, made.replayed) == ("default", 0, False)
        await asyncio.gather(*(charge(client, 1) for _ in range(55)))
        (asked,) = await settled(client)
        await serving.eventually(lambda: has(receiver.requests, 1))
        (heard,) = receiver.verified(secret)
        assert heard["data"] == asked
    transaction_id = asked.pop("transaction_id")
    assert transaction_id.startswith("H")
    assert asked == {
        "account_id": "org",
        "request_id": asked["request_id"],
        "package_id": "small",
        "wallet": "default",
        "left_micros": 10 * CREDIT,
        "threshold_micros": 10 * CREDIT,
        "requested_this_month": 1,
        "per_month_max": 3,
    }
    found = (await client.call("GetAccount", accounts_pb2.GetAccountRequest(account_id="org"))).account.top_up
    assert (found.package_id, found.requested_this_month) == ("small", 1)


async def has(found: list[Any], count: int) -> bool:
    return len(found) >= count


async def test_each_fall_asks_until_the_months_requests_are_used_up_whatever_is_changed(
    client: serving.Client,
) -> None:
    await client.fund("org", 20 * CREDIT)
    await serving.eventually(lambda: client.is_fresh("org"))
    await client.call("SetTopUp", top_up(per_month=2))
    for _ in range(3):
        await charge(client, 15)
        await client.fund("org", 15 * CREDIT)
    assert [asked["requested_this_month"] for asked in await settled(client)] == [1, 2]
    # Neither another setting nor a deletion brings requests back.
    await client.call("DeleteTopUp", accounts_pb2.DeleteTopUpRequest(account_id="org"))
    again = await client.call("SetTopUp", top_up(below=12, per_month=2))
    assert again.top_up.requested_this_month == 2
    await charge(client, 15)
    assert len(await settled(client)) == 2
    await client.call("SetTopUp", top_up(below=12, per_month=3))
    # Within a millisecond, events have no order.
    assert sorted(asked["requested_this_month"] for asked in await requests(client)) == [1, 2, 3]


async def test_a_wallet_that_is_low_already_is_asked_for_at_once_and_a_repeat_asks_for_nothing(
    client: serving.Client,
) -> None:
    await client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="org"))
    first = await client.call("SetTopUp", top_up())
    repeats = await asyncio.gather(*(client.call("SetTopUp", top_up()) for _ in range(10)))
    assert (first.replayed, {one.replayed for one in repeats}) == (False, {True})
    (asked,) = await requests(client)
    assert (asked["left_micros"], asked["requested_this_month"], "transaction_id" in asked) == (0, 1, False)
    # The package comes, and is spent again.
    await client.fund("org", 50 * CREDIT)
    await charge(client, 40)
    assert [one["left_micros"] for one in await settled(client)] == [0, 10 * CREDIT]


async def test_ten_settings_at_once_of_a_low_wallet_ask_no_more_often_than_a_month_allows(
    client: serving.Client,
) -> None:
    await client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="org"))
    await asyncio.gather(*(client.call("SetTopUp", top_up(below=at, per_month=3)) for at in range(10)))
    # Within a millisecond, events have no order.
    assert sorted(asked["requested_this_month"] for asked in await requests(client)) == [1, 2, 3]


async def test_only_the_packages_wallet_is_looked_at_and_a_deleted_top_up_asks_for_nothing(
    client: serving.Client,
) -> None:
    await client.fund("org", 20 * CREDIT)
    await client.call("Grant", serving.grant_request("org", 10 * CREDIT, wallet="leads"))
    await serving.eventually(lambda: client.is_fresh("org"))
    assert (await client.call("SetTopUp", top_up("leads", below=5))).top_up.wallet == "leads"
    await charge(client, 20)
    assert await settled(client) == []
    for expected in (False, True):
        answer = await client.call("DeleteTopUp", accounts_pb2.DeleteTopUpRequest(account_id="org"))
        assert answer.replayed == expected
    account = (await client.call("GetAccount", accounts_pb2.GetAccountRequest(account_id="org"))).account
    assert not account.HasField("top_up")


async def test_credits_in_open_holds_are_left(client: serving.Client) -> None:
    await client.fund("org", 20 * CREDIT)
    await serving.eventually(lambda: client.is_fresh("org"))
    await client.reserve("org", 15 * CREDIT)
    await client.call("SetTopUp", top_up())
    await charge(client, 1)
    assert await settled(client) == []


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"package_id": ""}, grpc.StatusCode.INVALID_ARGUMENT, "top_up.package_id"),
        ({"package_id": "none"}, grpc.StatusCode.NOT_FOUND, "top_up.package_id"),
        ({"package_id": "old"}, grpc.StatusCode.NOT_FOUND, "top_up.package_id"),
        ({"threshold_micros": -1}, grpc.StatusCode.OUT_OF_RANGE, "top_up.threshold_micros"),
        ({"threshold_micros": 50 * CREDIT}, grpc.StatusCode.INVALID_ARGUMENT, "top_up.threshold_micros"),
        ({"per_month_max": 0}, grpc.StatusCode.INVALID_ARGUMENT, "top_up.per_month_max"),
        ({"per_month_max": 1001}, grpc.StatusCode.INVALID_ARGUMENT, "top_up.per_month_max"),
    ],
)
async def test_a_bad_setting_is_refused_by_name(
    client: serving.Client, change: dict[str, Any], code: grpc.StatusCode, field: str
) -> None:
    request = top_up()
    for name, value in change.items():
        setattr(request.top_up, name, value)
    refusal = await client.refused("SetTopUp", request)
    assert (refusal.code, refusal.message.partition(":")[0]) == (code, field)


async def test_an_account_that_is_not_there_is_not_found(client: serving.Client) -> None:
    for name, request in (
        ("SetTopUp", top_up()),
        ("DeleteTopUp", accounts_pb2.DeleteTopUpRequest(account_id="org")),
    ):
        assert (await client.refused(name, request)).code is grpc.StatusCode.NOT_FOUND


class _Crash(Exception):
    """As if the process had died."""


@pytest.mark.parametrize("step", ["inserted", "counted", "moved", "committed"])
async def test_a_flusher_that_dies_asks_once_for_each_fall(database: str, redis_url: str, step: str) -> None:
    async with outbox.world(database, redis_url) as world:
        writer = await world.writer("a", 100)
        await writer.send(world.client)
        await _flush(world)
        await top_ups.set_top_up(
            world.pool,
            "t",
            "a",
            package_id="small",
            wallet="default",
            threshold_micros=50,
            per_month_max=5,
            now_ms=world.now_ms,
        )
        for _ in range(40):
            writer.commit(2, now_ms=world.now_ms)
        await writer.send(world.client)

        async def crash(at: str) -> None:
            if at == step:
                raise _Crash

        dying = world.flusher(failpoint=crash, claim_interval_s=0.0)

        async def found() -> bool:
            return await dying.step() > 0

        with pytest.raises(_Crash):
            await outbox.until(found)
        await dying.close()
        await _flush(world)
        rows = await world.pool.fetch("SELECT payload FROM events WHERE type = 'topup.requested'")
        assert [row["payload"]["left_micros"] for row in rows] == [50]


async def _flush(world: outbox.World) -> None:
    """Until the ledger has all; locks of a connection that was terminated are free a moment later."""
    flusher = world.flusher(claim_interval_s=0.0)

    async def is_done() -> bool:
        return await flusher.step() == 0 and flusher.stats().owned == outbox.PARTITIONS

    await outbox.until(is_done)
    await flusher.close()
