"""A package that is bought without the customer, on a real Postgres, with a Stripe in its own process that checks what it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from meterd.billing import orders as taking
from meterd.billing import outgoing
from meterd.core import errors
from meterd.meter import catalogs as in_force
from meterd.postgres import catalog as stored
from meterd.postgres import catalogs, orders, pool
from meterd.pricing import books, catalog_file
from tests import stripe_fake
from tests.integration import serving

CATALOG = "{packages: {growth: {credits: 6000, bonus: 500, price: 49, currency: eur}}}"
VISA, DECLINED = "pm_card_visa", "pm_card_chargeDeclined"


@pytest.fixture(scope="module")
def stripe() -> Iterator[stripe_fake.Stripe]:
    with stripe_fake.running() as made:
        yield made


@pytest_asyncio.fixture
async def seller(database: str, stripe: stripe_fake.Stripe) -> AsyncIterator[taking.Orders]:
    """Takes orders of account "ada", tenant "acme"."""
    connections: asyncpg.Pool = await pool.create(database)
    accounts = stored.Catalog(connections, partitions=4)
    await accounts.create_tenant("acme")
    await accounts.create_account(stored.NewAccount(tenant_id="acme", account_id="ada"))
    await catalogs.apply(connections, "acme", catalog_file.parsed(CATALOG))
    sold = in_force.Catalogs(connections=connections, dsn=database, books=books.opened(None))
    await sold.load()
    at_stripe = outgoing.opened(stripe_fake.KEY, livemode=False, base=stripe.url, timeout_s=1.0)
    assert at_stripe is not None
    yield taking.Orders(
        connections=connections, catalogs_=sold, stripe_=at_stripe, livemode=False, clock_ms=serving.now_ms
    )
    await at_stripe.close()
    await connections.close()


async def give_card(seller: taking.Orders, stripe: stripe_fake.Stripe, method: str) -> str:
    customer = await seller.customer("acme", "ada")
    stripe.change(customer, invoice_settings={"default_payment_method": method})
    return customer


def payments(stripe: stripe_fake.Stripe, customer: str) -> list[dict[str, Any]]:
    return [one for one in stripe.objects("payment_intent") if one["customer"] == customer]


async def test_a_top_up_charges_the_default_card_once_however_often_it_is_asked_for(
    seller: taking.Orders, stripe: stripe_fake.Stripe
) -> None:
    customer = await give_card(seller, stripe, VISA)
    first = await seller.top_up("acme", "ada", "growth", key="low:1")
    again = await seller.top_up("acme", "ada", "growth", key="low:1")
    (made,) = payments(stripe, customer)
    assert first == again
    assert (first.channel, first.state, first.stripe_payment_intent) == (orders.TOP_UP, orders.PENDING, made["id"])
    assert (made["status"], made["amount"], made["off_session"]) == ("succeeded", 4900, True)
    assert made["metadata"]["meterd_purchase"] == str(first.order_id)


async def test_a_lost_answer_is_asked_for_with_the_same_card_and_charges_once(
    seller: taking.Orders, stripe: stripe_fake.Stripe
) -> None:
    customer = await give_card(seller, stripe, VISA)
    for _ in range(3):
        stripe.fault("POST payment_intents", "cut_after")
    with pytest.raises(errors.UnavailableError):
        await seller.top_up("acme", "ada", "growth", key="low:1")
    await give_card(seller, stripe, DECLINED)
    found = await seller.top_up("acme", "ada", "growth", key="low:1")
    assert [one["id"] for one in payments(stripe, customer)] == [found.stripe_payment_intent]


async def test_a_declined_card_leaves_a_failed_order_that_says_why(
    seller: taking.Orders, stripe: stripe_fake.Stripe
) -> None:
    customer = await give_card(seller, stripe, DECLINED)
    failed = await seller.top_up("acme", "ada", "growth", key="low:1")
    (made,) = payments(stripe, customer)
    assert (failed.state, failed.failure) == (orders.FAILED, "insufficient_funds")
    assert failed.stripe_payment_intent == made["id"]
    assert await seller.top_up("acme", "ada", "growth", key="low:1") == failed
    assert len(payments(stripe, customer)) == 1


async def test_without_a_customer_or_a_card_there_is_nothing_to_charge(
    seller: taking.Orders, stripe: stripe_fake.Stripe
) -> None:
    with pytest.raises(errors.FailedPreconditionError, match="has no customer at Stripe yet"):
        await seller.top_up("acme", "ada", "growth", key="low:1")
    await seller.customer("acme", "ada")
    with pytest.raises(errors.FailedPreconditionError, match="no default payment method"):
        await seller.top_up("acme", "ada", "growth", key="low:1")
    assert await give_card(seller, stripe, VISA)
    assert (await seller.top_up("acme", "ada", "growth", key="low:1")).stripe_payment_intent
