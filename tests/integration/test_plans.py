"""Plans over gRPC on real stores: allowances, unlimited calls, blocked wallets, and what a subscription's changes leave behind."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest_asyncio

from meterd_client.v1 import accounts_pb2, catalog_pb2, metering_pb2, types_pb2
from tests.integration import serving

CATALOG = """
currency: usd
plans:
  starter: {name: Starter, price: 0, period: 30_days, allowances: {leads: 0, general: 5}}
  pro: {name: Pro, price: 19, period: 30_days, allowances: {leads: 50, general: 20}, welcome_bonus: 3}
  unlimited: {name: Unlimited, price: 5, unlimited: true, actions_per_day: 3}
features:
  lead: {name: Lead, credits: 5, wallet: leads}
  cover_letter: {name: Cover letter, credits: 12}
"""
CREDIT = 1_000_000
DAYS_30 = datetime.timedelta(days=30)
Status = accounts_pb2.Subscription


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def server(scene: serving.Scene) -> AsyncIterator[serving.Server]:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=True)) as server:
        yield server


@pytest_asyncio.fixture
async def client(server: serving.Server, scene: serving.Scene) -> serving.Client:
    made = server.client(scene.key)
    await apply(made, CATALOG)
    await made.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="org"))
    return made


async def apply(client: serving.Client, document: str) -> None:
    await client.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=document))


def subscribe(plan_id: str, **fields: Any) -> accounts_pb2.SubscribeRequest:
    values: dict[str, Any] = {"idempotency_key": serving.new_id(), "account_id": "org", "plan_id": plan_id}
    return accounts_pb2.SubscribeRequest(**values | fields)


async def balance(client: serving.Client) -> accounts_pb2.GetBalanceResponse:
    return await client.call("GetBalance", accounts_pb2.GetBalanceRequest(account_id="org"))


async def credits(client: serving.Client) -> dict[str, int]:
    return {wallet.wallet: wallet.available_micros // CREDIT for wallet in (await balance(client)).wallets}


async def proven(client: serving.Client, scene: serving.Scene) -> list[str]:
    await serving.eventually(lambda: client.is_fresh("org"))
    return await serving.findings(scene.dsn, scene.redis_url)


def feature(name: str, **fields: Any) -> metering_pb2.ReserveRequest:
    charge = types_pb2.FeatureCharge(feature=name)
    return metering_pb2.ReserveRequest(hold_id=serving.new_id(), account_id="org", feature=charge, **fields)


async def test_a_subscription_grants_its_allowances_and_says_when_they_refresh(
    client: serving.Client, scene: serving.Scene
) -> None:
    request = subscribe("pro", source_id="sub_123")
    first, again = await client.call("Subscribe", request), await client.call("Subscribe", request)
    assert (first.replayed, first.projected, again.replayed) == (False, True, True)
    assert first.welcome == again.welcome and first.welcome.amount_micros == 3 * CREDIT
    made = first.subscription
    assert (made.status, made.plan.plan_id, made.period_no) == (Status.STATUS_ACTIVE, "pro", 1)
    assert made.period_end.ToDatetime() - made.period_start.ToDatetime() == DAYS_30
    found = await balance(client)
    assert (found.plan_id, found.unlimited) == ("pro", False)
    assert found.refreshes_at == made.period_end
    wallets = {wallet.wallet: wallet for wallet in found.wallets}
    assert {name: wallet.available_micros // CREDIT for name, wallet in wallets.items()} == {
        "leads": 50,
        "general": 20,
        "default": 3,
    }
    assert wallets["leads"].refreshes_at == wallets["general"].refreshes_at == made.period_end
    assert not wallets["default"].HasField("refreshes_at")
    assert [grant.expires_at for grant in wallets["leads"].grants] == [made.period_end]
    assert found.lifetime.allowance_micros == 70 * CREDIT
    assert await proven(client, scene) == []


async def test_fifty_subscribes_with_one_key_make_one_subscription(
    client: serving.Client, scene: serving.Scene
) -> None:
    request = subscribe("pro")
    answers = await asyncio.gather(*(client.call("Subscribe", request) for _ in range(50)))
    assert len({answer.subscription.subscription_id for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert await credits(client) == {"default": 3, "general": 20, "leads": 50}
    other = await client.refused("Subscribe", subscribe("starter", idempotency_key=request.idempotency_key))
    assert (other.code, "plan_id" in other.message) == (grpc.StatusCode.ALREADY_EXISTS, True)
    assert await proven(client, scene) == []


async def test_a_plan_that_gives_a_wallet_nothing_blocks_it_by_name(client: serving.Client) -> None:
    await client.call("Subscribe", subscribe("starter"))
    denied = await client.call("Reserve", feature("lead"))
    (reason,) = denied.denial.reasons
    assert (reason.code, reason.scope) == (types_pb2.Denial.CODE_WALLET_BLOCKED, "wallet:leads")
    estimate = await client.call(
        "Estimate", metering_pb2.EstimateRequest(account_id="org", feature=types_pb2.FeatureCharge(feature="lead"))
    )
    assert estimate.denial.reasons[0].code == types_pb2.Denial.CODE_WALLET_BLOCKED
    blocked = {wallet.wallet: wallet.blocked for wallet in (await balance(client)).wallets}
    assert blocked == {"default": False, "general": False, "leads": True}
    await client.call("Subscribe", subscribe("pro"))
    assert (await client.call("Reserve", feature("lead"))).WhichOneof("outcome") == "hold"


async def test_another_plan_ends_the_old_one_and_leaves_what_was_paid_and_what_is_held(
    client: serving.Client, scene: serving.Scene
) -> None:
    await client.call("Subscribe", subscribe("pro"))
    await client.call("Grant", serving.grant_request("org", 7 * CREDIT, wallet="leads"))
    held = (await client.call("Reserve", feature("lead"))).hold
    changed = await client.call("Subscribe", subscribe("starter"))
    assert not changed.HasField("welcome")
    # The open hold keeps its slice of the old allowance.
    assert await credits(client) == {"default": 3, "general": 5, "leads": 7}
    settled = await client.call("Commit", metering_pb2.CommitRequest(hold_id=held.hold_id))
    assert settled.settlement.charged_micros == 5 * CREDIT
    assert await credits(client) == {"default": 3, "general": 5, "leads": 7}
    assert await proven(client, scene) == []


async def test_a_cancellation_acts_at_once_or_with_the_period_and_a_repeat_changes_nothing(
    client: serving.Client, scene: serving.Scene
) -> None:
    await client.call("Subscribe", subscribe("pro"))
    later = accounts_pb2.CancelSubscriptionRequest(account_id="org")
    for _ in range(2):
        found = (await client.call("CancelSubscription", later)).subscription
        assert (found.status, found.cancel_at_period_end) == (Status.STATUS_ACTIVE, True)
    assert not (await balance(client)).HasField("refreshes_at")
    assert await credits(client) == {"default": 3, "general": 20, "leads": 50}
    now = accounts_pb2.CancelSubscriptionRequest(account_id="org", at_once=True)
    ended = [(await client.call("CancelSubscription", now)).subscription for _ in range(2)]
    assert ended[0] == ended[1] and ended[0].status == Status.STATUS_CANCELED
    assert await credits(client) == {"default": 3, "general": 0, "leads": 0}
    assert (await balance(client)).plan_id == ""
    got = await client.call("GetSubscription", accounts_pb2.GetSubscriptionRequest(account_id="org"))
    assert got.subscription == ended[0]
    assert await proven(client, scene) == []


async def test_an_unlimited_plan_deducts_nothing_meters_everything_and_ends_with_its_day(
    client: serving.Client, scene: serving.Scene
) -> None:
    await client.call("Grant", serving.grant_request("org", 20 * CREDIT))
    await client.call("Subscribe", subscribe("unlimited"))
    hold = (await client.call("Reserve", feature("cover_letter"))).hold
    assert (hold.amount_micros, hold.unlimited) == (0, True)
    settled = await client.call("Commit", metering_pb2.CommitRequest(hold_id=hold.hold_id))
    assert (settled.settlement.charged_micros, settled.settlement.uncollected_micros) == (0, 0)
    model = types_pb2.ModelCharge(model="gpt-4o-mini", input_tokens=1_000, max_output_tokens=1_000)
    request = metering_pb2.ReserveRequest(hold_id=serving.new_id(), account_id="org", model=model)
    modeled = (await client.call("Reserve", request)).hold
    assert (modeled.amount_micros, modeled.max_output_tokens) == (0, 1_000)
    reported = metering_pb2.ReportRequest(
        hold_id=modeled.hold_id, usage=types_pb2.Usage(input_tokens=1_000, output_tokens=10)
    )
    assert (await client.call("Report", reported)).advice == metering_pb2.ReportResponse.ADVICE_CONTINUE
    usage = metering_pb2.ReportedUsage(
        usage=types_pb2.Usage(input_tokens=1_000, output_tokens=500), usage_state=types_pb2.USAGE_STATE_REPORTED
    )
    done = await client.call("Commit", metering_pb2.CommitRequest(hold_id=modeled.hold_id, usage=usage))
    assert (done.settlement.charged_micros, done.settlement.cost_usd) == (0, "0.00045")
    explained = accounts_pb2.ExplainSettlementRequest(account_id="org", id=modeled.hold_id)
    await serving.eventually(lambda: client.is_fresh("org"))
    told = await client.call("ExplainSettlement", explained)
    assert any("unlimited" in step for step in told.steps)
    await client.call("Reserve", feature("cover_letter"))
    denied = (await client.call("Reserve", feature("cover_letter"))).denial
    (reason,) = denied.reasons
    assert (reason.code, reason.scope) == (types_pb2.Denial.CODE_ACTIONS_PER_DAY, "plan:actions_per_day")
    assert (reason.limit_micros, reason.used_micros) == (3, 3)
    assert reason.resets_at.seconds % 86_400 == 0 and denied.retry_at == reason.resets_at
    found = await balance(client)
    assert (found.unlimited, found.actions_today, found.actions_per_day) == (True, 3, 3)
    assert await credits(client) == {"default": 20}
    canceled = accounts_pb2.CancelSubscriptionRequest(account_id="org", at_once=True)
    await client.call("CancelSubscription", canceled)
    paid = (await client.call("Reserve", feature("cover_letter"))).hold
    assert (paid.amount_micros, paid.unlimited) == (12 * CREDIT, False)
    assert await proven(client, scene) == []


async def test_actions_of_the_day_outlive_a_redis_that_lost_the_account(
    client: serving.Client, scene: serving.Scene
) -> None:
    await client.call("Subscribe", subscribe("unlimited"))
    for _ in range(2):
        hold = (await client.call("Reserve", feature("cover_letter"))).hold
        await client.call("Commit", metering_pb2.CommitRequest(hold_id=hold.hold_id))
    await serving.eventually(lambda: client.is_fresh("org"))
    async with serving.contents(scene.dsn, scene.redis_url) as contents:
        await contents.forget("{m:*}:a:*")
    found = await balance(client)
    assert (found.unlimited, found.actions_today) == (True, 2)
    assert await proven(client, scene) == []


async def test_a_new_account_begins_with_the_plan_that_the_catalog_names_and_falls_back_to_it(
    client: serving.Client, scene: serving.Scene
) -> None:
    await apply(client, CATALOG + "account: {plan: starter, welcome_bonus: 2}\n")
    request = accounts_pb2.CreateAccountRequest(account_id="new")
    made = [await client.call("CreateAccount", request) for _ in range(2)]
    assert made[0].subscription == made[1].subscription
    assert (made[0].subscription.plan.plan_id, made[0].welcome.amount_micros) == ("starter", 2 * CREDIT)
    await client.call("Subscribe", subscribe("pro", account_id="new"))
    cancel = accounts_pb2.CancelSubscriptionRequest(account_id="new", at_once=True)
    assert (await client.call("CancelSubscription", cancel)).subscription.plan.plan_id == "pro"
    # A repeat does not end the plan that it fell back to.
    for _ in range(2):
        assert (await client.call("CancelSubscription", cancel)).subscription.plan.plan_id == "starter"
    got = await client.call("GetSubscription", accounts_pb2.GetSubscriptionRequest(account_id="new"))
    assert (got.subscription.plan.plan_id, got.subscription.status) == ("starter", Status.STATUS_ACTIVE)
    named = accounts_pb2.CreateAccountRequest(account_id="vip", plan_id="pro")
    assert (await client.call("CreateAccount", named)).subscription.plan.plan_id == "pro"
    unknown = await client.refused("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="x", plan_id="gold"))
    assert unknown.code == grpc.StatusCode.NOT_FOUND
    assert (await client.refused("GetAccount", accounts_pb2.GetAccountRequest(account_id="x"))).code == (
        grpc.StatusCode.NOT_FOUND
    )


async def test_a_missing_payment_leaves_what_is_there_and_its_coming_changes_nothing_in_the_same_period(
    client: serving.Client, scene: serving.Scene
) -> None:
    await client.call("Subscribe", subscribe("pro"))
    late = accounts_pb2.UpdateSubscriptionRequest(account_id="org", past_due=True)
    found = (await client.call("UpdateSubscription", late)).subscription
    assert found.status == Status.STATUS_PAST_DUE
    assert not (await balance(client)).HasField("refreshes_at")
    paid = accounts_pb2.UpdateSubscriptionRequest(account_id="org", past_due=False)
    assert (await client.call("UpdateSubscription", paid)).subscription.status == Status.STATUS_ACTIVE
    assert await credits(client) == {"default": 3, "general": 20, "leads": 50}
    nobody = await client.refused(
        "UpdateSubscription", accounts_pb2.UpdateSubscriptionRequest(account_id="nobody", past_due=True)
    )
    assert nobody.code == grpc.StatusCode.NOT_FOUND
    assert await proven(client, scene) == []
