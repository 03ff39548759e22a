"""Top-ups that the Stripe process buys by itself: a real installation, and a Stripe that checks what it is sent."""

from __future__ import annotations

import json
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from meterd.billing import top_ups
from meterd_client.v1 import accounts_pb2, events_pb2
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

    def news(self) -> list[dict[str, Any]]:
        """What topup.failed has told."""
        request = events_pb2.ListEventsRequest(account_id=self.account, types=["topup.failed"])
        return [json.loads(one.data) for one in self.shop.product.client.call("ListEvents", request).events]

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
    assert (len(one.payments()), one.news()) == (1, [])


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
    assert [told["error"] for told in one.news()] == [error]
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


def _killed_at(shop: world.World, stripe: stripe_fake.Stripe, step: str) -> None:
    """A buyer kills itself there; then the time passes for which it had claimed the request."""
    settings = _settings(stripe) | {"test_doom": step}
    try:
        doomed = world.started(shop.made, shop.product.tenant_id, settings, world.DoomedProcess)
    except processes.ProcessError as exc:
        # It came to the step before it was ready.
        assert "ended with -9" in str(exc), exc
    else:
        processes.wait_until(lambda: not doomed.is_running, f"killed when {step}")
        doomed.kill()
    shop.made.sql(
        "UPDATE top_up_requests SET next_at = now() WHERE tenant_id = $1 AND state = 'pending'", shop.product.tenant_id
    )


def test_buyers_that_are_killed_one_after_the_other_at_each_step_pay_once(
    shared: installation.Installation, stripe: stripe_fake.Stripe
) -> None:
    with world.opened(shared, "doomed") as shop:
        assert shop.product.apply(world.CATALOG.replace(", stripe_price: price_starter", "")).applied
        one = _Customer(shop, stripe)
        shop.made.sql("UPDATE stripe_tenants SET top_ups_since = now() WHERE tenant_id = 'doomed'")
        one.ask()
        paid: list[int] = []
        for step in top_ups.FAILPOINTS:
            _killed_at(shop, stripe, step)
            paid.append(len(one.payments()))
        assert paid == [0, 0, 0, 1, 1, 1]
        healthy = world.started(shared, "doomed", _settings(stripe))
        try:
            later = _Customer(shop, stripe)
            later.ask()
            assert later.ended() == ("done", "")
        finally:
            healthy.kill()
        (payment,) = one.payments()
        paid_event = world.event("payment_intent.succeeded", {**world.payment_intent(payment["id"]), **payment})
        shop.deliver(paid_event, paid_event)
        assert (one.order(), one.ended()) == (("completed", ""), ("done", ""))
        assert shop.credits(one.account) == {"default": 2500}


def test_no_log_has_a_secret(shop: world.World, stripe: stripe_fake.Stripe) -> None:
    one = _Customer(shop, stripe)
    # A line that is cut, and a body that somebody has forged; cards were declined before.
    stripe.fault("POST payment_intents", "cut")
    one.ask()
    assert one.ended() == ("done", "")
    body = world.body_of(world.event("payment_intent.succeeded", world.payment_intent("pi_1")))
    assert shop.post(body, world.signature(body, secret="whsec_forged")).status_code == 400
    directory = pathlib.Path(shop.made.server.directory)
    logs = {path.name: path.read_text() for path in directory.glob("*.log")}
    assert "refused a body" in logs[shop.process.log_path.name]
    password = (directory / "postgres.password").read_text().strip()
    for name, text in logs.items():
        for secret in (stripe_fake.KEY, world.SECRET, world.OLD_SECRET, password, shop.made.admin_key):
            assert secret not in text, name
