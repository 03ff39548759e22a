"""Subscriptions paid through Stripe: what each invoice brings, and what the account's plan is meanwhile."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import grpc
import pytest

from meterd_client.v1 import accounts_pb2, reports_pb2
from tests.acceptance import installation, products
from tests.acceptance import stripe_world as world

PAST_DUE = accounts_pb2.Subscription.STATUS_PAST_DUE
TRIAL = accounts_pb2.Subscription.STATUS_TRIAL
ACTIVE = accounts_pb2.Subscription.STATUS_ACTIVE


@pytest.fixture(scope="module")
def shop(shared: installation.Installation) -> Iterator[world.World]:
    with world.opened(shared, "subscriptions") as made:
        yield made


class _Subscriber:
    """An account with one subscription, whose present period began a day ago."""

    def __init__(self, shop: world.World, price: str = "price_pro", *, days: int = 30) -> None:
        self.shop = shop
        self.account = shop.account()
        self.name = world.new_id("sub")
        self.price = price
        self.start_s = world.now_s() - world.DAY_S
        self.end_s = self.start_s + days * world.DAY_S

    def told(self, kind: str, *, price: str = "", at_s: int | None = None, **fields: object) -> world.Document:
        found = world.subscription(
            self.name, self.account, price=price or self.price, start_s=self.start_s, end_s=self.end_s
        )
        return world.event(f"customer.subscription.{kind}", found | fields, at_s=at_s)

    def paid(self, *lines: world.Document, **fields: object) -> world.Document:
        whole = lines or (world.line(self.name, self.price, self.start_s, self.end_s),)
        return world.event("invoice.paid", world.invoice(self.name, whole) | fields)

    def credits(self) -> dict[str, float]:
        return self.shop.credits(self.account)

    def status(self) -> int:
        return self.shop.product.subscription(self.account).status


def test_a_subscription_alone_grants_nothing_and_its_paid_invoice_does(shop: world.World) -> None:
    one = _Subscriber(shop)
    shop.deliver(one.told("created", status="incomplete"))
    assert one.credits() == {"default": 10}
    shop.deliver(one.told("updated"), one.paid())
    assert one.credits() == {"default": 3000}
    assert one.status() == ACTIVE
    assert shop.money(one.account) == [("subscription", "pro", "19.00 USD")]


def test_an_invoice_alone_is_enough_once_the_customer_is_known(shop: world.World) -> None:
    one = _Subscriber(shop)
    paid = one.paid()
    assert shop.send(paid) == 202
    customer = {"id": f"cus_{one.name}", "object": "customer", "metadata": {"meterd_account": one.account}}
    shop.deliver(world.event("customer.updated", customer))
    assert one.credits() == {"default": 3000}
    assert shop.send(paid) == 200
    assert one.credits() == {"default": 3000}


def test_a_trial_is_granted_by_its_invoice_of_nothing(shop: world.World) -> None:
    one = _Subscriber(shop, days=14)
    free = world.line(one.name, one.price, one.start_s, one.end_s, units=0)
    shop.deliver(
        one.told("created", status="trialing", trial_end=one.end_s),
        one.paid(free, billing_reason="subscription_create"),
    )
    assert one.credits() == {"default": 3000}
    assert one.status() == TRIAL
    assert shop.money(one.account) == []


def test_a_payment_that_fails_leaves_the_credits_and_says_past_due(shop: world.World) -> None:
    one = _Subscriber(shop)
    shop.deliver(one.told("created"), one.paid())
    unpaid = world.invoice(
        one.name, [world.line(one.name, one.price, one.end_s, one.end_s + world.MONTH_S)], status="open"
    )
    shop.deliver(world.event("invoice.payment_failed", unpaid, at_s=world.now_s() + 1))
    assert one.status() == PAST_DUE
    assert one.credits() == {"default": 3000}
    shop.deliver(one.told("updated", status="past_due", at_s=world.now_s() + 2))
    assert one.status() == PAST_DUE
    shop.deliver(one.told("updated", at_s=world.now_s() + 3))
    assert one.status() == ACTIVE


def test_a_pause_keeps_the_credits(shop: world.World) -> None:
    one = _Subscriber(shop)
    shop.deliver(one.told("created"), one.paid())
    shop.deliver(one.told("updated", pause_collection={"behavior": "void", "resumes_at": None}))
    assert one.status() == PAST_DUE
    assert one.credits() == {"default": 3000}


def test_a_downgrade_that_is_credited_at_once_takes_the_difference_back(shop: world.World) -> None:
    one = _Subscriber(shop, "price_elite")
    shop.deliver(one.told("created"), one.paid())
    assert one.credits() == {"default": 6000, "forecast": 30}
    back = world.line(one.name, "price_elite", one.start_s, one.end_s, units=-3800, proration=True)
    new = world.line(one.name, "price_pro", one.start_s, one.end_s, units=1900, proration=True)
    shop.deliver(one.told("updated", price="price_pro"), one.paid(back, new))
    left = one.credits()
    # The period of 30 days ends with a calendar month that may have 31: what is taken is that share, at most.
    assert 3000 <= left["default"] <= 3200
    assert shop.product.subscription(one.account).plan.plan_id == "pro"


def test_a_year_is_granted_month_by_month(shop: world.World) -> None:
    one = _Subscriber(shop, "price_year", days=365)
    shop.deliver(one.told("created"), one.paid())
    assert one.credits() == {"default": 1000}
    rows = shop.made.sql(
        """SELECT extract(epoch FROM g.expires_at - g.effective_at)::bigint AS lasts_s FROM grants AS g
        JOIN accounts AS a USING (account_no) WHERE a.account_id = $1 AND g.category = 3 AND g.source_id LIKE 'sub\\_%'""",
        one.account,
    )
    assert len(rows) == 1
    assert 28 * world.DAY_S <= rows[0]["lasts_s"] <= 32 * world.DAY_S
    (due,) = shop.made.sql(
        "SELECT due_at - now() BETWEEN interval '25 days' AND interval '31 days' AS is_then FROM stripe_due WHERE subscription = $1",
        one.name,
    )
    assert due["is_then"]


def test_a_plan_without_allowances_is_unlimited_while_it_is_paid(shop: world.World) -> None:
    one = _Subscriber(shop, "price_endless")
    shop.deliver(one.told("created"), one.paid())
    assert one.credits() == {}
    assert shop.product.balance(one.account).unlimited
    shop.deliver(one.told("deleted", status="canceled", ended_at=world.now_s()))
    assert one.credits() == {"default": 10}
    assert not shop.product.balance(one.account).unlimited


def test_a_refund_of_an_invoice_takes_its_share_of_the_allowance(shop: world.World) -> None:
    one = _Subscriber(shop)
    paid, payment = one.paid(), world.new_id("pi")
    half = world.charge(payment, refunded=950)
    link = world.invoice_payment(paid["data"]["object"]["id"], payment)
    # The refund comes first: nobody knows yet what was paid by it.
    shop.deliver(world.event("charge.refunded", half), one.told("created"), paid)
    assert one.credits() == {"default": 3000}
    shop.deliver(world.event("invoice_payment.paid", link))
    assert one.credits() == {"default": 1500}
    assert shop.money(one.account)[1:] == [("subscription", "pro", "-9.50 USD")]


def test_who_has_an_old_price_keeps_its_plan_as_it_was(shop: world.World) -> None:
    one = _Subscriber(shop)
    now = world.CATALOG.replace("{name: Pro, price: 19,", "{name: Pro, price: 29,").replace("price_pro", "price_pro_29")
    now = now.replace("allowances: {default: 3000}", "allowances: {default: 4000}")
    assert shop.product.apply(now).applied
    try:
        shop.deliver(one.told("created"), one.paid())
        assert one.credits() == {"default": 3000}
    finally:
        assert shop.product.apply(world.CATALOG).applied


def test_stripe_decides_on_a_plan_that_is_paid_through_it(shop: world.World) -> None:
    one = _Subscriber(shop)
    shop.deliver(one.told("created"), one.paid())
    requests = {
        "CancelSubscription": accounts_pb2.CancelSubscriptionRequest(account_id=one.account, at_once=True),
        "UpdateSubscription": accounts_pb2.UpdateSubscriptionRequest(account_id=one.account, past_due=True),
        "Subscribe": accounts_pb2.SubscribeRequest(idempotency_key="k", account_id=one.account, plan_id="free"),
    }
    for verb, request in requests.items():
        code, said = shop.product.client.refused(verb, request)
        assert code is grpc.StatusCode.FAILED_PRECONDITION, verb
        assert "paid through Stripe" in said
    assert one.credits() == {"default": 3000}


def test_two_subscriptions_are_both_granted_and_the_later_one_is_the_plan(shop: world.World) -> None:
    one = _Subscriber(shop)
    other = _Subscriber(shop, "price_elite")
    other.account = one.account
    shop.deliver(
        other.told("created", created=other.start_s + 10),
        one.told("created"),
        one.paid(),
        other.paid(),
        one.told("updated"),
    )
    assert one.credits() == {"default": 9000, "forecast": 30}
    assert shop.product.subscription(one.account).plan.plan_id == "elite"


def test_the_earlier_of_two_subscriptions_is_the_plan_again_at_once_when_the_later_one_ends(shop: world.World) -> None:
    one = _Subscriber(shop)
    other = _Subscriber(shop, "price_elite")
    other.account = one.account
    created = other.start_s + 10
    shop.deliver(one.told("created"), one.paid(), other.told("created", created=created), other.paid())
    assert shop.product.subscription(one.account).plan.plan_id == "elite"
    gone = other.told("deleted", created=created, status="canceled", ended_at=world.now_s(), at_s=world.now_s() + 1)
    shop.deliver(gone, gone)
    assert shop.product.subscription(one.account).plan.plan_id == "pro"
    # Neither the free plan's credits, nor a second time those that were paid.
    assert one.credits() == {"default": 3000}


def test_a_later_subscription_that_is_paid_back_whole_gives_way_to_the_earlier_one(shop: world.World) -> None:
    one = _Subscriber(shop)
    other = _Subscriber(shop, "price_elite")
    other.account = one.account
    created = other.start_s + 10
    paid, payment = other.paid(), world.new_id("pi")
    shop.deliver(one.told("created"), one.paid(), other.told("created", created=created), paid)
    back = world.charge(payment, units=3800, refunded=3800)
    shop.deliver(
        world.event("invoice_payment.paid", world.invoice_payment(paid["data"]["object"]["id"], payment)),
        world.event("charge.refunded", back),
    )
    assert shop.product.subscription(one.account).plan.plan_id == "pro"
    assert one.credits() == {"default": 3000}
    shop.deliver(one.told("updated", at_s=world.now_s() + 1))
    assert shop.product.subscription(one.account).plan.plan_id == "pro"


def test_a_deleted_customer_keeps_the_credits(shop: world.World) -> None:
    one = _Subscriber(shop)
    shop.deliver(one.told("created"), one.paid())
    customer = {"id": f"cus_{one.name}", "object": "customer", "metadata": {}}
    shop.deliver(world.event("customer.deleted", customer))
    assert one.credits() == {"default": 3000}
    rows = shop.made.sql("SELECT deleted FROM stripe_customers WHERE customer_id = $1", f"cus_{one.name}")
    assert [row["deleted"] for row in rows] == [True]


def test_purchases_are_in_the_report_of_revenue(shop: world.World) -> None:
    def revenue() -> tuple[float, float, int]:
        days = [(products.today() + datetime.timedelta(days=days)).isoformat() for days in (-1, 1)]
        answer = shop.product.client.call("Revenue", reports_pb2.RevenueRequest(from_day=days[0], to_day=days[1]))
        (row,) = answer.rows
        return float(row.package_revenue), float(row.subscription_revenue), row.purchases

    one = _Subscriber(shop)
    shop.deliver(one.told("created"), one.paid())
    before = revenue()
    paid = world.session(one.account)
    case = world.dispute(paid["payment_intent"], units=500)
    shop.deliver(
        one.paid(),
        world.event("checkout.session.completed", paid),
        world.event("charge.refunded", world.charge(paid["payment_intent"], refunded=900)),
        world.event("charge.dispute.created", case),
        world.event("charge.dispute.closed", case | {"status": "won"}),
    )
    after = revenue()
    assert (after[0] - before[0], after[1] - before[1], after[2] - before[2]) == (10, 19, 2)
    key = shop.made.make_key(shop.product.tenant_id, "admin")
    printed = shop.made.meterd("report", "revenue", "--server", shop.made.server.address, "--key", key)
    (row,) = [line.split() for line in printed.splitlines() if "USD" in line]
    assert {f"{after[0]:g}", f"{after[1]:g}"} <= set(row), (after, printed)
