"""Complete stories as Stripe tells them, and what a customer may have once some of their events were heard.

What is allowed follows from the events alone, by other means than meterd's: it is what meterd is held against.
"""

from __future__ import annotations

import calendar
import datetime
from collections.abc import Callable, Sequence
from typing import Any

from tests.acceptance import stripe_world as world

Story = Callable[[str], list[world.Document]]
MICROS = 1_000_000
# Of CATALOG's package "starter": credits and bonus in micro-credits, and the price.
PARTS_MICROS, PRICE_UNITS = (2000 * MICROS, 500 * MICROS), 1900


def checkout(account: str) -> list[world.Document]:
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


def intent(account: str) -> list[world.Document]:
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


def three_refunds(account: str) -> list[world.Document]:
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


def refund_of_all(account: str) -> list[world.Document]:
    payment = world.new_id("pi")
    return [
        world.event("refund.created", world.refund(payment, 1900)),
        world.event("charge.refunded", world.charge(payment, refunded=1900)),
        world.event("payment_intent.succeeded", world.payment_intent(payment, account_id=account)),
    ]


def dispute_won(account: str) -> list[world.Document]:
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


def dispute_lost(account: str) -> list[world.Document]:
    *story, _, _ = dispute_won(account)
    lost = story[-1]["data"]["object"] | {"status": "lost"}
    return [*story, world.event("charge.dispute.closed", lost)]


def life_of_a_subscription(account: str) -> list[world.Document]:
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


def canceled_at_once(account: str) -> list[world.Document]:
    story = life_of_a_subscription(account)
    last = story[-1]["data"]["object"]
    gone = last | {"status": "canceled", "canceled_at": world.now_s() - 60, "ended_at": world.now_s() - 60}
    return [*story, world.event("customer.subscription.deleted", gone, at_s=world.now_s() - 60)]


def _heard(heard: Sequence[world.Document], *kinds: str) -> list[world.Document]:
    """The objects of the events of these types."""
    return [one["data"]["object"] for one in heard if one["type"] in kinds]


def paid_for(heard: Sequence[world.Document]) -> dict[str, int]:
    """What is paid for and not paid back of a package, in micro-credits, if these events are all that is known."""
    sessions = [one["data"]["object"] for one in heard if one["type"].startswith("checkout.session.")]
    if not _heard(heard, "payment_intent.succeeded") and all(one["payment_status"] != "paid" for one in sessions):
        return {}
    refunds = {one["id"]: one["amount"] for one in _heard(heard, "refund.created", "refund.updated")}
    told = max((one["amount_refunded"] for one in _heard(heard, "charge.refunded")), default=0)
    back = max(sum(refunds.values()), told) + (PRICE_UNITS if is_disputed(heard) else 0)
    left = sum(part - part * back // PRICE_UNITS for part in PARTS_MICROS)
    return {"default": left} if left else {}


def is_disputed(heard: Sequence[world.Document]) -> bool:
    """Whether there is a dispute that is not won."""
    states = [one["data"]["object"]["status"] for one in heard if one["type"].startswith("charge.dispute.")]
    return bool(states) and "won" not in states


def subscribed_for(heard: Sequence[world.Document]) -> dict[str, int]:
    """As paid_for, of the allowances of a subscription. Who subscribed, only the subscription's own events say."""
    kinds = {one["type"] for one in heard if one["type"].startswith("customer.subscription.")}
    if not kinds or "customer.subscription.deleted" in kinds:
        return {}
    invoices = {one["id"]: one for one in _heard(heard, "invoice.paid", "invoice.payment_succeeded")}
    found: dict[str, int] = {}
    for lines in (one["lines"]["data"] for one in invoices.values()):
        if lines[0]["period"]["end"] <= world.now_s():
            continue
        if len(lines) == 1:
            brought = {"default": 3000 * MICROS}
        else:
            pro, elite, forecast = shares_micros(lines[0]["period"]["end"])
            brought = {"default": elite - pro, "forecast": forecast}
        found = {wallet: found.get(wallet, 0) + brought.get(wallet, 0) for wallet in {*found, *brought}}
    return found


def shares_micros(end_s: int) -> list[int]:
    """What 21 days bring of the month that ends then: of pro's 3000, of elite's 6000, and of its 30 forecasts."""
    end = datetime.datetime.fromtimestamp(end_s, datetime.UTC)
    year, month = (end.year, end.month - 1) if end.month > 1 else (end.year - 1, 12)
    days = calendar.monthrange(year, month)[1]
    first = end.replace(year=year, month=month, day=min(end.day, days))
    whole_s = int((end - first).total_seconds())
    return [amount * MICROS * 21 * world.DAY_S // whole_s for amount in (3000, 6000, 30)]
