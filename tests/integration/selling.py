"""A server that sells, on real stores, with a Stripe in its own process that checks what it is sent."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from meterd import settings
from meterd_client.v1 import accounts_pb2, billing_pb2, catalog_pb2
from tests import stripe_fake
from tests.integration import serving

OK_URL = "https://app.example.com/paid?session={CHECKOUT_SESSION_ID}"
CATALOG = """
currency: eur
packages:
  starter: {name: Starter, credits: 1000, price: 9}
  growth: {name: Growth, credits: 6000, bonus: 500, price: 49.90}
  gone: {credits: 1, price: 1, active: false}
  free: {credits: 1, price: 0}
plans:
  pro: {name: Pro, price: 19, trial_days: 14, stripe_price: %s}
  unsynced: {price: 5}
"""


class Shop:
    """A server that sells for tenant "acme", whose account "ada" buys."""

    def __init__(self, server: serving.Server, client: serving.Client, stripe: stripe_fake.Stripe) -> None:
        self.server, self.client, self.stripe = server, client, stripe
        self._before = len(stripe.requests())

    def posts(self) -> list[str]:
        """Routes of what Stripe was told in this test."""
        return [one["route"] for one in self.stripe.requests()[self._before :] if one["route"].startswith("POST")]

    async def payment(self, **fields: Any) -> billing_pb2.CreatePaymentIntentResponse:
        return await self.client.call("CreatePaymentIntent", payment(**fields))

    async def checkout(self, **fields: Any) -> billing_pb2.CreateCheckoutSessionResponse:
        return await self.client.call("CreateCheckoutSession", checkout(**fields))

    async def purchase(self, purchase_id: str) -> billing_pb2.Purchase:
        return (await self.client.call("GetPurchase", billing_pb2.GetPurchaseRequest(purchase_id=purchase_id))).purchase

    async def listed(self, **fields: Any) -> list[billing_pb2.Purchase]:
        return list((await self.client.call("ListPurchases", billing_pb2.ListPurchasesRequest(**fields))).purchases)


def payment(**fields: Any) -> billing_pb2.CreatePaymentIntentRequest:
    values: dict[str, Any] = {"idempotency_key": serving.new_id(), "account_id": "ada", "package_id": "growth"}
    return billing_pb2.CreatePaymentIntentRequest(**values | fields)


def checkout(**fields: Any) -> billing_pb2.CreateCheckoutSessionRequest:
    values: dict[str, Any] = {"idempotency_key": serving.new_id(), "account_id": "ada", "success_url": OK_URL}
    if "plan_id" not in fields:
        values["package_id"] = "growth"
    return billing_pb2.CreateCheckoutSessionRequest(**values | fields)


def settings_of(database: str, redis_url: str, stripe: stripe_fake.Stripe, **changes: Any) -> settings.Settings:
    values: dict[str, Any] = {
        "stripe_api_key": stripe_fake.KEY,
        "stripe_api_base": stripe.url,
        "stripe_timeout_ms": 1_000,
    }
    return serving.settings_of(database, redis_url, **values | changes)


@contextlib.asynccontextmanager
async def opened(database: str, redis_url: str, stripe: stripe_fake.Stripe) -> AsyncGenerator[Shop]:
    """The shop of tenant "acme", whose plan has its price at Stripe."""
    key = (await serving.new_key(database, "acme", "admin")).key
    product = stripe.make("prod", "product", name="Pro", active=True)
    recurring = {"interval": "month", "interval_count": 1}
    price = stripe.make(
        "price", "price", product=product["id"], unit_amount=1900, currency="eur", recurring=recurring, active=True
    )
    async with serving.running(settings_of(database, redis_url, stripe)) as server:
        client = server.client(key)
        await client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="ada"))
        await client.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=CATALOG % price["id"]))
        yield Shop(server, client, stripe)
