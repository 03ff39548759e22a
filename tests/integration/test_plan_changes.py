"""Another plan in the middle of a period, over gRPC on real stores: what it takes back, and what it grants instead."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest_asyncio

from meterd.core import money
from meterd.postgres import plans, pool
from meterd.pricing import catalog_file
from meterd_client.v1 import accounts_pb2, catalog_pb2, metering_pb2
from tests.integration import serving

CATALOG = """
currency: usd
plans:
  basic: {price: 9, period: billing_month, allowances: {default: 100}}
  pro: {price: 29, period: billing_month, allowances: {default: 3000, leads: 50}}
  thirty: {price: 29, period: 30_days, allowances: {default: 3000}}
"""
CREDIT = 1_000_000
DAY_MS = 24 * 3600 * 1000


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def client(scene: serving.Scene) -> AsyncIterator[serving.Client]:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=True)) as server:
        made = server.client(scene.key)
        await made.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=CATALOG))
        await made.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="org"))
        yield made


def subscribe(plan_id: str, **fields: Any) -> accounts_pb2.SubscribeRequest:
    values: dict[str, Any] = {"idempotency_key": serving.new_id(), "account_id": "org", "plan_id": plan_id}
    return accounts_pb2.SubscribeRequest(**values | fields)


async def available(client: serving.Client) -> dict[str, int]:
    found = await client.call("GetBalance", accounts_pb2.GetBalanceRequest(account_id="org"))
    return {wallet.wallet: wallet.available_micros for wallet in found.wallets}


async def on_basic_for_ten_days(scene: serving.Scene) -> int:
    """Puts the account on the plan as of ten days ago; when its period ends (ms)."""
    connections = await pool.create(scene.dsn, size_max=1)
    try:
        begun_ms = serving.now_ms() - 10 * DAY_MS
        plan = catalog_file.parsed(CATALOG).plan("basic")
        assert plan is not None
        made = await plans.Plans(connections, clock_ms=lambda: begun_ms).subscribe(
            "acme", "org", plan, idempotency_key="basic"
        )
        return made.subscription.period_end_ms
    finally:
        await connections.close()


def ms(time: Any) -> int:
    return round(time.ToDatetime(datetime.UTC).timestamp() * 1000)


async def test_without_proration_the_old_allowance_goes_and_a_whole_new_period_begins(
    client: serving.Client, scene: serving.Scene
) -> None:
    await on_basic_for_ten_days(scene)
    await client.fund("org", 7 * CREDIT)
    hold = await client.reserve("org", 40 * CREDIT)
    made = (await client.call("Subscribe", subscribe("pro"))).subscription
    # 100 less 40 were revoked; what was paid for stays, and the hold keeps its credits.
    assert await available(client) == {"default": 3007 * CREDIT, "leads": 50 * CREDIT}
    assert abs(ms(made.period_start) - serving.now_ms()) < DAY_MS
    await client.call("Commit", metering_pb2.CommitRequest(hold_id=hold.hold_id, amount_micros=30 * CREDIT))
    assert await available(client) == {"default": 3007 * CREDIT, "leads": 50 * CREDIT}
    await serving.eventually(lambda: client.is_fresh("org"))
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_with_proration_the_period_goes_on_and_the_share_that_is_left_of_it_is_granted(
    client: serving.Client, scene: serving.Scene
) -> None:
    ends_ms = await on_basic_for_ten_days(scene)
    await client.fund("org", 7 * CREDIT)
    request = subscribe("pro", proration=accounts_pb2.PRORATION_CREDITS)
    made = (await client.call("Subscribe", request)).subscription
    assert (made.plan.plan_id, ms(made.period_end)) == ("pro", ends_ms)
    start_ms, started_ms = ms(made.period_start), ms(made.started_at)
    share = (ends_ms - started_ms, ends_ms - start_ms)
    assert 0.6 < share[0] / share[1] < 0.7
    expected = {
        "default": money.ceil_div(3000 * CREDIT * share[0], share[1]) + 7 * CREDIT,
        "leads": money.ceil_div(50 * CREDIT * share[0], share[1]),
    }
    assert await available(client) == expected
    again = await client.call("Subscribe", request)
    assert (again.replayed, again.subscription) == (True, made)
    assert await available(client) == expected
    request.proration = accounts_pb2.PRORATION_NONE
    refusal = await client.refused("Subscribe", request)
    assert refusal.code is grpc.StatusCode.ALREADY_EXISTS
    await serving.eventually(lambda: client.is_fresh("org"))
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_there_and_back_again_prorated_gives_no_more_than_one_period_does(
    client: serving.Client, scene: serving.Scene
) -> None:
    await on_basic_for_ten_days(scene)
    for plan_id in ("pro", "basic", "pro", "basic"):
        await client.call("Subscribe", subscribe(plan_id, proration=accounts_pb2.PRORATION_CREDITS))
    left = (await available(client))["default"]
    assert 60 * CREDIT < left < 70 * CREDIT


async def test_a_plan_with_another_kind_of_period_begins_a_whole_one(
    client: serving.Client, scene: serving.Scene
) -> None:
    await on_basic_for_ten_days(scene)
    await client.call("Subscribe", subscribe("thirty", proration=accounts_pb2.PRORATION_CREDITS))
    assert await available(client) == {"default": 3000 * CREDIT}


async def test_an_unknown_proration_is_refused(client: serving.Client) -> None:
    refusal = await client.refused("Subscribe", subscribe("pro", proration=9))
    assert (refusal.code, refusal.message.partition(":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "proration")
