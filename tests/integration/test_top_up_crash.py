"""The buyer of top-ups dies between any two steps, on a real Postgres: the next one completes what it left. Stripe is the fake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from meterd.billing import events, failpoints, inbox, outgoing, top_ups
from meterd.postgres import catalog as stored
from meterd.postgres import catalogs, orders, pool, stripe, top_up_requests
from meterd.postgres import top_ups as settings
from meterd.pricing import catalog_file
from tests import stripe_fake
from tests.acceptance import stripe_world as world
from tests.integration import serving

TENANT = "acme"
CATALOG = "{packages: {growth: {credits: 6000, bonus: 500, price: 49, currency: usd}}}"
VISA, DECLINED = "pm_card_visa", "pm_card_chargeDeclined"


class _Kill(BaseException):
    """As if the process had died: nothing of it catches this."""


@pytest.fixture(scope="module")
def at_stripe() -> Iterator[stripe_fake.Stripe]:
    with stripe_fake.running() as made:
        yield made


class _Shop:
    """Account "ada", whose wallet is empty and has asked for a package, with a customer at Stripe."""

    def __init__(self, connections: asyncpg.Pool, at_stripe: stripe_fake.Stripe, api: outgoing.Stripe) -> None:
        self.connections, self.at_stripe, self._api = connections, at_stripe, api
        self.now_ms = serving.now_ms()
        self.customer = ""
        self.box = inbox.Inbox(
            connections, tenant_id=TENANT, freezes=False, at_stripe=None, clock_ms=lambda: self.now_ms
        )

    async def ask(self, card: str) -> None:
        found = self.at_stripe.make("cus", "customer", invoice_settings={"default_payment_method": card})
        self.customer = found["id"]
        row = await orders.customer_of(self.connections, TENANT, "ada")
        await orders.add_customer(self.connections, TENANT, row.account_no, self.customer)
        await top_up_requests.switch(self.connections, TENANT, is_on=True, now_ms=self.now_ms - 1)
        await settings.set_top_up(
            self.connections,
            TENANT,
            "ada",
            package_id="growth",
            wallet="default",
            threshold_micros=0,
            per_month_max=9,
            now_ms=self.now_ms,
        )

    def buyer(self, failpoint: failpoints.Failpoint = failpoints.none) -> top_ups.TopUps:
        return top_ups.TopUps(
            self.connections,
            tenant_id=TENANT,
            at_stripe=self._api,
            livemode=False,
            clock_ms=lambda: self.now_ms,
            failpoint=failpoint,
        )

    def payments(self) -> list[dict[str, Any]]:
        return [one for one in self.at_stripe.objects("payment_intent") if one.get("customer") == self.customer]

    async def request(self) -> tuple[str, str]:
        row = await self.connections.fetchrow("SELECT state, error FROM top_up_requests")
        return (row["state"], row["error"]) if row is not None else ("", "")

    async def told(self) -> list[dict[str, Any]]:
        rows = await self.connections.fetch("SELECT payload FROM events WHERE type = 'topup.failed'")
        return [row["payload"] for row in rows]

    async def granted(self) -> list[int]:
        rows = await self.connections.fetch("SELECT amount_micros FROM grants ORDER BY change_no")
        return [row["amount_micros"] // 1_000_000 for row in rows]

    async def hear(self, kind: str, payment: dict[str, Any], **fields: Any) -> str:
        """Stripe's event about a payment."""
        body = world.body_of(world.event(kind, {**world.payment_intent(payment["id"]), **payment, **fields}))
        return await self.box.receive(events.parse(body), body)


@pytest_asyncio.fixture
async def shop(database: str, at_stripe: stripe_fake.Stripe) -> AsyncIterator[_Shop]:
    connections = await pool.create(database)
    accounts = stored.Catalog(connections, partitions=4)
    await accounts.create_tenant(TENANT)
    await accounts.create_account(stored.NewAccount(tenant_id=TENANT, account_id="ada"))
    await catalogs.apply(connections, TENANT, catalog_file.parsed(CATALOG))
    await stripe.bind(connections, TENANT, livemode=False, account="")
    api = outgoing.opened(stripe_fake.KEY, livemode=False, base=at_stripe.url, timeout_s=5.0)
    assert api is not None
    yield _Shop(connections, at_stripe, api)
    await api.close()
    await connections.close()


async def _killed_at(shop: _Shop, step: str) -> None:
    """One round of a buyer that dies there; then the time passes for which it had claimed the request."""

    async def kill(at: str) -> None:
        if at == step:
            raise _Kill

    with pytest.raises(_Kill):
        await shop.buyer(kill).round()
    shop.now_ms += top_ups.CLAIM_MS


@pytest.mark.parametrize("step", top_ups.FAILPOINTS)
async def test_after_a_death_the_next_buyer_pays_once_and_one_grant_comes_of_it(shop: _Shop, step: str) -> None:
    await shop.ask(VISA)
    await _killed_at(shop, step)
    assert await shop.buyer().round() == (0 if step == "ended" else 1)
    assert await shop.request() == ("done", "")
    (paid,) = shop.payments()
    assert (paid["status"], paid["amount"]) == ("succeeded", 4900)
    assert [await shop.hear("payment_intent.succeeded", paid) for _ in range(2)] == ["done"] * 2
    assert (await shop.granted(), await shop.told()) == ([6000, 500], [])


@pytest.mark.parametrize("step", top_ups.FAILPOINTS)
async def test_after_a_death_a_declined_card_is_tried_once_and_told_of_once(shop: _Shop, step: str) -> None:
    await shop.ask(DECLINED)
    await _killed_at(shop, step)
    assert await shop.buyer().round() == (0 if step == "ended" else 1)
    assert await shop.request() == ("failed", "the purchase is failed: insufficient_funds")
    (declined,) = shop.payments()
    # Stripe tells of it too, which is no second piece of news.
    problem = {"code": "insufficient_funds"}
    assert await shop.hear("payment_intent.payment_failed", declined, last_payment_error=problem) == "done"
    (told,) = await shop.told()
    assert told == {
        "account_id": "ada",
        "request_id": told["request_id"],
        "package_id": "growth",
        "error": "the purchase is failed: insufficient_funds",
        "purchase_id": declined["metadata"]["meterd_purchase"],
        "code": "insufficient_funds",
    }
    assert await shop.granted() == []


async def test_a_payment_that_fails_days_after_it_was_begun_is_told_of(shop: _Shop) -> None:
    await shop.ask(VISA)
    await shop.buyer().round()
    (begun,) = shop.payments()
    failed = {"status": "requires_payment_method", "last_payment_error": {"code": "debit_not_authorized"}}
    for _ in range(2):
        assert await shop.hear("payment_intent.payment_failed", begun, **failed) == "done"
    (told,) = await shop.told()
    assert (told["error"], told["code"]) == ("the purchase is failed: debit_not_authorized", "debit_not_authorized")
    assert await shop.request() == ("done", "")


async def test_without_a_purchase_the_news_says_why_nothing_was_begun(shop: _Shop) -> None:
    await shop.ask(VISA)
    await settings.delete_top_up(shop.connections, TENANT, "ada")
    await shop.buyer().round()
    (told,) = await shop.told()
    assert told["error"] == "the account's top-up was deleted or changed since"
    assert not {"purchase_id", "code"} & told.keys()
    assert shop.payments() == []
