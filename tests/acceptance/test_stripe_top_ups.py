"""Top-ups that the Stripe process buys by itself: a real installation, and a Stripe that checks what it is sent."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from meterd_client.v1 import accounts_pb2
from tests import stripe_fake
from tests.acceptance import installation, processes, products
from tests.acceptance import stripe_world as world

VISA, DECLINED = "pm_card_visa", "pm_card_chargeDeclined"


@pytest.fixture(scope="module")
def stripe() -> Iterator[stripe_fake.Stripe]:
    with stripe_fake.running() as made:
        yield made


def _settings(stripe: stripe_fake.Stripe) -> dict[str, str]:
    return {
        "stripe_top_ups": "true",
        "stripe_api_key": stripe_fake.KEY,
        "stripe_api_base": stripe.url,
        "stripe_timeout_ms": "1000",
    }


@pytest.fixture(scope="module")
def shop(shared: installation.Installation, stripe: stripe_fake.Stripe) -> Iterator[world.World]:
    with world.opened(shared, "topups", **_settings(stripe)) as made:
        assert made.product.apply(world.CATALOG.replace(", stripe_price: price_starter", "")).applied
        # A second process beside it buys nothing twice.
        other = world.started(shared, "topups", _settings(stripe))
        yield made
        other.kill()


class _Customer:
    """An account with a customer at Stripe, whose wallet is empty."""

    def __init__(self, shop: world.World, stripe: stripe_fake.Stripe, card: str = VISA) -> None:
        self.shop, self.stripe = shop, stripe
        self.account = shop.account(plan_id="endless")
        found = stripe.make("cus", "customer", invoice_settings={"default_payment_method": card or None})
        self.customer = found["id"]
        told = {"id": self.customer, "object": "customer", "metadata": {"meterd_account": self.account}}
        shop.deliver(world.event("customer.updated", told))

    def ask(self) -> None:
        """The wallet is below the threshold: a top-up is asked for at once."""
        wanted = accounts_pb2.TopUp(package_id="starter", threshold_micros=products.CREDIT, per_month_max=2)
        request = accounts_pb2.SetTopUpRequest(account_id=self.account, top_up=wanted)
        self.shop.product.client.call("SetTopUp", request)

    def payments(self) -> list[dict[str, Any]]:
        return [one for one in self.stripe.objects("payment_intent") if one.get("customer") == self.customer]

    def ended(self) -> tuple[str, str]:
        """How the request ended, once it has."""
        found: list[Any] = []

        def has_ended() -> bool:
            found[:] = self.shop.made.sql(
                """SELECT r.state, r.error FROM top_up_requests AS r JOIN accounts AS a USING (account_no)
                WHERE a.account_id = $1 AND r.state <> 'pending'""",
                self.account,
            )
            return bool(found)

        processes.wait_until(has_ended, f"the request of {self.account} to end")
        (row,) = found
        return row["state"], row["error"]

    def order(self) -> tuple[str, str]:
        (row,) = self.shop.made.sql(
            """SELECT o.state, o.failure FROM orders AS o JOIN accounts AS a USING (account_no)
            WHERE a.account_id = $1 AND o.channel = 'top_up'""",
            self.account,
        )
        return row["state"], row["failure"]


def test_a_request_is_paid_once_and_its_credits_come_with_stripes_event(
    shop: world.World, stripe: stripe_fake.Stripe
) -> None:
    one = _Customer(shop, stripe)
    one.ask()
    assert one.ended() == ("done", "")
    (paid,) = one.payments()
    assert (paid["amount"], paid["currency"], paid["off_session"]) == (1900, "usd", True)
    assert (one.order(), shop.credits(one.account)) == (("pending", ""), {})
    shop.deliver(world.event("payment_intent.succeeded", {**world.payment_intent(paid["id"]), **paid}))
    assert (one.order(), shop.credits(one.account)) == (("completed", ""), {"default": 2500})
    assert len(one.payments()) == 1


def test_an_answer_that_is_lost_again_and_again_is_one_payment(shop: world.World, stripe: stripe_fake.Stripe) -> None:
    one = _Customer(shop, stripe)
    for _ in range(4):
        stripe.fault("POST payment_intents", "cut_after")
    one.ask()
    assert one.ended() == ("done", "")
    assert len(one.payments()) == 1


@pytest.mark.parametrize(
    ("card", "error", "failure"),
    [
        (DECLINED, "the purchase is failed: insufficient_funds", "insufficient_funds"),
        ("", "account_id: its customer has no default payment method at Stripe", "no default payment method"),
    ],
)
def test_a_card_that_is_declined_or_missing_is_noted_with_request_and_purchase(
    shop: world.World, stripe: stripe_fake.Stripe, card: str, error: str, failure: str
) -> None:
    one = _Customer(shop, stripe, card)
    one.ask()
    assert one.ended() == ("failed", error)
    state, said = one.order()
    assert state == "failed"
    assert failure in said
    assert shop.credits(one.account) == {}


def test_a_frozen_account_is_not_charged(shop: world.World, stripe: stripe_fake.Stripe) -> None:
    one = _Customer(shop, stripe)
    freeze = accounts_pb2.UpdateAccountRequest(account_id=one.account, frozen=True)
    shop.product.client.call("UpdateAccount", freeze)
    one.ask()
    assert one.ended() == ("failed", "the account is frozen")
    assert one.payments() == []


def test_what_was_asked_for_before_it_was_switched_on_is_left_to_others(
    shared: installation.Installation, stripe: stripe_fake.Stripe
) -> None:
    tenant = f"late-{uuid.uuid4().hex[:8]}"
    with world.opened(shared, tenant) as shop:
        assert shop.product.apply(world.CATALOG.replace(", stripe_price: price_starter", "")).applied
        early = _Customer(shop, stripe)
        early.ask()
        shop.process.stop()
        process = world.started(shared, tenant, _settings(stripe))
        try:
            shop.process = process
            late = _Customer(shop, stripe)
            late.ask()
            assert late.ended() == ("done", "")
            assert (early.payments(), len(late.payments())) == ([], 1)
        finally:
            process.kill()
