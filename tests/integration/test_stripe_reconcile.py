"""`meterd stripe reconcile` as a command: what no webhook has told is found at Stripe, taken in once, and shown in lists and reports."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import click.testing
import pytest
import pytest_asyncio

from meterd.cli import stripe as stripe_cli
from meterd_client.v1 import billing_pb2, reports_pb2, types_pb2
from tests import stripe_fake
from tests.integration import selling

CREDIT = 1_000_000
PAID, PROMOTIONAL = types_pb2.GRANT_CATEGORY_PAID, types_pb2.GRANT_CATEGORY_PROMOTIONAL
COMPLETED, PENDING = billing_pb2.PURCHASE_STATE_COMPLETED, billing_pb2.PURCHASE_STATE_PENDING
HOUR_AGO = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)


@pytest.fixture
def stripe() -> Iterator[stripe_fake.Stripe]:
    with stripe_fake.running() as made:
        yield made


@pytest_asyncio.fixture
async def shop(database: str, redis_url: str, stripe: stripe_fake.Stripe) -> AsyncIterator[selling.Shop]:
    async with selling.opened(database, redis_url, stripe) as made:
        yield made


async def reconcile(shop: selling.Shop, *options: str, since: datetime.datetime = HOUR_AGO) -> dict[str, Any]:
    """What the command prints as JSON."""
    settings = shop.server.settings
    variables: dict[str, str | None] = {name: None for name in os.environ if name.startswith("METERD_")}
    variables |= {"METERD_STRIPE_API_KEY": stripe_fake.KEY, "METERD_STRIPE_API_BASE": shop.stripe.url}
    arguments = ["reconcile", "--tenant", "acme", "--postgres", settings.postgres_dsn, "--json"]
    arguments += ["--from", since.isoformat(), *options]
    # The command has a loop of its own.
    result = await asyncio.to_thread(click.testing.CliRunner().invoke, stripe_cli.stripe, arguments, env=variables)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def granted(shop: selling.Shop) -> list[tuple[int, int]]:
    """Category and micro-credits of all grants."""
    connection = await asyncpg.connect(shop.server.settings.postgres_dsn)
    try:
        rows = await connection.fetch("SELECT category, amount_micros FROM grants ORDER BY amount_micros DESC")
        return [(row["category"], row["amount_micros"]) for row in rows]
    finally:
        await connection.close()


async def revenue(shop: selling.Shop) -> list[tuple[str, str, int]]:
    today = datetime.datetime.now(datetime.UTC).date()
    days = {"from_day": (today - datetime.timedelta(days=60)).isoformat(), "to_day": today.isoformat()}
    found = await shop.client.call("Revenue", reports_pb2.RevenueRequest(**days))
    return [(row.currency, row.package_revenue, row.purchases) for row in found.rows]


@pytest.mark.parametrize("through", ["CreatePaymentIntent", "CreateCheckoutSession"])
async def test_a_payment_that_no_webhook_told_of_is_found_and_credited_once(shop: selling.Shop, through: str) -> None:
    request = selling.payment() if through == "CreatePaymentIntent" else selling.checkout()
    bought = (await shop.client.call(through, request)).purchase
    shop.stripe.pay(bought.stripe_payment_intent or bought.stripe_session)
    missed = (await reconcile(shop, "--dry-run"))["missed"]
    assert {one["state"] for one in missed} == {"missing"}
    assert await granted(shop) == []
    assert {one["state"] for one in (await reconcile(shop))["missed"]} == {"done"}
    after = await shop.purchase(bought.purchase_id)
    assert (after.state, after.stripe_payment_intent != "") == (COMPLETED, True)
    assert await granted(shop) == [(PAID, 6_000 * CREDIT), (PROMOTIONAL, 500 * CREDIT)]
    assert await revenue(shop) == [("EUR", "49.9", 1)]
    assert [one.purchase_id for one in await shop.listed()] == [bought.purchase_id]
    assert (await reconcile(shop))["missed"] == []
    assert len(await granted(shop)) == 2


async def test_what_stripe_has_no_events_of_any_more_is_found_by_its_objects(shop: selling.Shop) -> None:
    bought = (await shop.payment()).purchase
    shop.stripe.pay(bought.stripe_payment_intent)
    long_ago_s = int(time.time()) - 45 * 86_400
    for event in shop.stripe.objects("event"):
        shop.stripe.change(event["id"], object="forgotten")
    shop.stripe.change(bought.stripe_payment_intent, created=long_ago_s)
    assert (await reconcile(shop))["missed"] == []
    since = datetime.datetime.fromtimestamp(long_ago_s, datetime.UTC)
    (found,) = (await reconcile(shop, since=since))["missed"]
    assert (found["event_id"], found["state"]) == (f"reconciled_{bought.stripe_payment_intent}", "done")
    assert (await shop.purchase(bought.purchase_id)).state == COMPLETED
    assert len(await granted(shop)) == 2
    assert (await reconcile(shop, since=since))["missed"] == []


async def test_more_events_than_a_page_are_all_looked_at_and_those_of_others_are_left(shop: selling.Shop) -> None:
    bought = (await shop.payment()).purchase
    shop.stripe.pay(bought.stripe_payment_intent)
    other = shop.stripe.make("pi", "payment_intent", metadata={"meterd_tenant": "other"}, status="succeeded", amount=5)
    for _ in range(230):
        shop.stripe.control("event", {"type": "payment_intent.succeeded", "id": other["id"]})
    found = await reconcile(shop)
    assert found["events"] == 231
    assert [one["object_id"] for one in found["missed"]] == [bought.stripe_payment_intent]
    assert len(await granted(shop)) == 2


async def test_a_time_before_the_payment_has_nothing(shop: selling.Shop) -> None:
    bought = (await shop.payment()).purchase
    shop.stripe.pay(bought.stripe_payment_intent)
    until = HOUR_AGO + datetime.timedelta(minutes=10)
    assert (await reconcile(shop, "--to", until.isoformat()))["events"] == 0
    assert (await shop.purchase(bought.purchase_id)).state == PENDING
