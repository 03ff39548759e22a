"""Complete stories, whose events come in any order, several times, and after having been lost: every order ends in the same balances."""

from __future__ import annotations

import calendar
import datetime
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from tests.acceptance import installation
from tests.acceptance import stripe_world as world

Story = Callable[[str], list[world.Document]]
# The stories are told to real processes, over a real wire.
ORDERS = hypothesis.settings(
    max_examples=4, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
# Accounts that each hear the story in an order of their own, before anybody waits for their balances.
LISTENERS = 3


@pytest.fixture(scope="module")
def shop(shared: installation.Installation) -> Iterator[world.World]:
    with world.opened(shared, "stories", stripe_freeze_disputed="true") as made:
        yield made


def _checkout(account: str) -> list[world.Document]:
    paid = world.session(account, customer=f"cus_{account}")
    payment = paid["payment_intent"]
    waiting = paid | {"payment_status": "unpaid"}
    at_s = world.now_s() - 60
    return [
        world.event(
            "payment_intent.created", world.payment_intent(payment, account_id=account, status="processing"), at_s=at_s
        ),
        world.event("checkout.session.completed", waiting, at_s=at_s + 1),
        world.event("payment_intent.succeeded", world.payment_intent(payment, account_id=account), at_s=at_s + 2),
        world.event("charge.succeeded", world.charge(payment), at_s=at_s + 2),
        world.event("checkout.session.async_payment_succeeded", paid, at_s=at_s + 3),
    ]


def _intent(account: str) -> list[world.Document]:
    payment = world.new_id("pi")
    failed = world.payment_intent(
        payment, account_id=account, status="requires_payment_method", last_payment_error={"code": "card_declined"}
    )
    at_s = world.now_s() - 60
    return [
        world.event("payment_intent.payment_failed", failed, at_s=at_s),
        world.event("payment_intent.succeeded", world.payment_intent(payment, account_id=account), at_s=at_s + 9),
        world.event("charge.succeeded", world.charge(payment), at_s=at_s + 9),
    ]


def _three_refunds(account: str) -> list[world.Document]:
    payment = world.new_id("pi")
    at_s = world.now_s() - 60
    story = [
        world.event("payment_intent.succeeded", world.payment_intent(payment, account_id=account), at_s=at_s),
        world.event("charge.succeeded", world.charge(payment), at_s=at_s),
    ]
    refunded = 0
    for number, units in enumerate((633, 634, 33)):
        refunded += units
        part = world.refund(payment, units)
        story.append(world.event("refund.created", part | {"status": "pending"}, at_s=at_s + number))
        story.append(world.event("charge.refunded", world.charge(payment, refunded=refunded), at_s=at_s + number))
        story.append(world.event("refund.updated", part, at_s=at_s + number))
    return story


def _refund_of_all(account: str) -> list[world.Document]:
    payment = world.new_id("pi")
    return [
        world.event("refund.created", world.refund(payment, 1900)),
        world.event("charge.refunded", world.charge(payment, refunded=1900)),
        world.event("payment_intent.succeeded", world.payment_intent(payment, account_id=account)),
    ]


def _dispute_won(account: str) -> list[world.Document]:
    payment = world.new_id("pi")
    case = world.dispute(payment)
    at_s = world.now_s() - 60
    return [
        world.event("payment_intent.succeeded", world.payment_intent(payment, account_id=account), at_s=at_s),
        world.event("charge.dispute.created", case, at_s=at_s + 1),
        world.event("charge.dispute.funds_withdrawn", case, at_s=at_s + 1),
        world.event("charge.dispute.updated", case | {"status": "under_review"}, at_s=at_s + 2),
        world.event("charge.dispute.closed", case | {"status": "won"}, at_s=at_s + 3),
        world.event("charge.dispute.funds_reinstated", case | {"status": "won"}, at_s=at_s + 3),
    ]


def _dispute_lost(account: str) -> list[world.Document]:
    *story, _, _ = _dispute_won(account)
    lost = story[-1]["data"]["object"] | {"status": "lost"}
    return [*story, world.event("charge.dispute.closed", lost)]


def _life_of_a_subscription(account: str) -> list[world.Document]:
    """Subscribes, renews three times, fails and recovers, goes up in the middle of the month, and is to end with it."""
    name = world.new_id("sub")
    now_s = world.now_s()
    # The last of four periods began ten days ago; the sizes make the upgrade exactly half a period.
    starts = [now_s - 10 * world.DAY_S - number * world.MONTH_S for number in (3, 2, 1, 0)]
    end_s = starts[3] + world.MONTH_S
    story: list[world.Document] = []

    def told(kind: str, at_s: int, price: str, start_s: int, **fields: Any) -> None:
        found = world.subscription(name, account, price=price, start_s=start_s, end_s=start_s + world.MONTH_S, **fields)
        story.append(world.event(f"customer.subscription.{kind}", found | {"created": starts[0]}, at_s=at_s))

    for number, start_s in enumerate(starts):
        told("created" if number == 0 else "updated", start_s, "price_pro", start_s)
        due = world.invoice(name, [world.line(name, "price_pro", start_s, start_s + world.MONTH_S)], created=start_s)
        if number == 2:
            unpaid = due | {"status": "open", "amount_paid": 0}
            story.append(world.event("invoice.payment_failed", unpaid, at_s=start_s + 10))
            told("updated", start_s + 11, "price_pro", start_s, status="past_due")
        story.append(world.event("invoice.paid", due, at_s=start_s + 100))
        story.append(world.event("invoice.payment_succeeded", due, at_s=start_s + 100))
        told("updated", start_s + 101, "price_pro", start_s)
    middle_s = starts[3] + 9 * world.DAY_S
    parts = [
        world.line(name, "price_pro", middle_s, end_s, units=-1330, proration=True),
        world.line(name, "price_elite", middle_s, end_s, units=2660, proration=True),
    ]
    told("updated", middle_s, "price_elite", starts[3])
    story.append(world.event("invoice.paid", world.invoice(name, parts, created=middle_s), at_s=middle_s + 1))
    told("updated", middle_s + 500, "price_elite", starts[3], cancel_at_period_end=True)
    return story


def _canceled_at_once(account: str) -> list[world.Document]:
    story = _life_of_a_subscription(account)
    last = story[-1]["data"]["object"]
    gone = last | {"status": "canceled", "canceled_at": world.now_s() - 60, "ended_at": world.now_s() - 60}
    return [*story, world.event("customer.subscription.deleted", gone, at_s=world.now_s() - 60)]


# What is left, and whether the account is frozen.
STORIES: dict[str, tuple[Story, dict[str, float], bool]] = {
    "checkout": (_checkout, {"default": 2500}, False),
    "payment intent": (_intent, {"default": 2500}, False),
    # 1300 of 1900 went back: 1368.421052… of 2000 and 342.105263… of 500, each rounded down.
    "three refunds": (_three_refunds, {"default": 2500 - 1368.421052 - 342.105263}, False),
    "refund of all": (_refund_of_all, {}, False),
    "dispute won": (_dispute_won, {"default": 2500}, False),
    "dispute lost": (_dispute_lost, {}, True),
    "canceled at once": (_canceled_at_once, {"default": 10}, False),
}


@pytest.mark.parametrize("name", STORIES)
@hypothesis.given(data=strategies.data())
@ORDERS
def test_every_order_ends_in_the_same_balance(shop: world.World, name: str, data: strategies.DataObject) -> None:
    tell, expected, frozen = STORIES[name]
    # On a plan that gives nothing; but who ends a subscription falls back to the free one, so begins on it too.
    plan_id = "free" if name == "canceled at once" else "endless"
    accounts = [shop.account(plan_id=plan_id) for _ in range(LISTENERS)]
    for account in accounts:
        _deliver(shop, tell(account), data)
    for account in accounts:
        assert shop.credits(account) == pytest.approx(expected, abs=1e-9)
        (row,) = shop.made.sql("SELECT frozen FROM accounts WHERE account_id = $1", account)
        assert row["frozen"] is frozen


def _deliver(shop: world.World, story: list[world.Document], data: strategies.DataObject) -> None:
    """In any order, some of them again in between; those that were lost come at the end, as Stripe's redelivery does."""
    order = data.draw(strategies.permutations(range(len(story))))
    again = data.draw(strategies.lists(strategies.sampled_from(range(len(story))), max_size=4))
    lost = data.draw(strategies.sets(strategies.sampled_from(range(len(story))), max_size=3))
    places = [place for place in (*order, *again) if place not in lost]
    shop.deliver(*(story[place] for place in places), *(story[place] for place in sorted(lost)))


def _upgraded(start_s: int) -> dict[str, float]:
    """3000 of the plan that was paid, and what the upgrade brings for the rest of the month that ends with the period."""
    end = datetime.datetime.fromtimestamp(start_s + world.MONTH_S, datetime.UTC)
    year, month = (end.year, end.month - 1) if end.month > 1 else (end.year - 1, 12)
    days = calendar.monthrange(year, month)[1]
    first = end.replace(year=year, month=month, day=min(end.day, days))
    whole_s = (end - first).total_seconds()
    rest_s = 21 * world.DAY_S
    share = [int(amount * 1_000_000 * rest_s // whole_s) for amount in (3000, 6000, 30)]
    return {"default": 3000 + (share[1] - share[0]) / 1e6, "forecast": share[2] / 1e6}


@hypothesis.given(data=strategies.data())
@ORDERS
def test_a_life_of_a_subscription_ends_in_the_same_balance(shop: world.World, data: strategies.DataObject) -> None:
    stories = {account: _life_of_a_subscription(account) for account in (shop.account() for _ in range(LISTENERS))}
    for story in stories.values():
        _deliver(shop, story, data)
    for account, story in stories.items():
        _check_life(shop, account, story)


def _check_life(shop: world.World, account: str, story: list[world.Document]) -> None:
    start_s = story[-1]["data"]["object"]["items"]["data"][0]["current_period_start"]
    assert shop.credits(account) == pytest.approx(_upgraded(start_s), abs=1e-9)
    found = shop.product.subscription(account)
    assert (found.plan.plan_id, found.cancel_at_period_end) == ("elite", True)
    assert sorted(amount for _, _, amount in shop.money(account)) == ["13.30 USD", *["19.00 USD"] * 4]
