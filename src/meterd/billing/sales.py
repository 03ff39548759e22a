"""What a payment asks for, from all that is known of it. Pure: the same facts, the same answer, in whatever order they came."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from meterd.billing import facts
from meterd.core import money

# A dispute takes the money away while it is open, and for good if it is lost. An inquiry ("warning_…") takes nothing.
DISPUTED = ("needs_response", "under_review", "lost")
LOST = ("lost",)
# Refunds that will not be, or came back.
_REFUND_FAILED = ("failed", "canceled")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sale:
    """A payment. Amounts are in the currency's minor unit; `paid_units` None: not paid (yet). "" is what is not known."""

    payment: str
    paid_units: int | None
    # What the price was, before discounts and taxes, as far as that is known.
    price_units: int
    paid_s: int
    currency: str
    returned_units: int
    # The part of it that is back for good: no dispute about it is open.
    lost_units: int
    # The tenant that the app has named.
    tenant_id: str
    account_id: str
    customer: str
    package_id: str
    order_id: str
    sessions: tuple[str, ...]
    # Stripe's prices on the pages of the payment.
    prices: tuple[str, ...]
    invoice: str
    subscription: str
    failure: str
    # Given up: it can be paid no more.
    is_over: bool


def of(payment: str, known: Sequence[facts.Fact]) -> Sale:
    """What the objects of a payment say together."""
    sessions = [one for one in known if one.kind == facts.SESSION]
    payments = [one for one in known if one.kind == facts.PAYMENT]
    # What the payment itself says comes before what its page says.
    sources = [*payments, *sessions, *(one for one in known if one.kind == facts.CHARGE)]
    paid = [one for one in (*payments, *sessions) if "paid_s" in one.state]
    paid_units = max((_paid(one) for one in payments if "paid_s" in one.state), default=None)
    if paid_units is None:
        paid_units = max((_paid(one) for one in sessions if "paid_s" in one.state), default=None)
    subtotals = [facts.value(one.state, "subtotal", 0) for one in sessions]
    return Sale(
        payment=payment,
        paid_units=paid_units,
        price_units=max(subtotals, default=paid_units or 0),
        paid_s=min((facts.value(one.state, "paid_s") for one in paid), default=0),
        currency=_first(sources, "currency"),
        returned_units=returned_units(known, paid_units or 0),
        lost_units=returned_units(known, paid_units or 0, LOST),
        tenant_id=_first(sources, "tenant_id"),
        account_id=_first(sources, "account_id") or _first(sessions, "client_reference_id"),
        customer=next((one.customer for one in sources if one.customer), ""),
        package_id=_first(sources, "package_id"),
        order_id=_first(sources, "order_id"),
        sessions=tuple(one.object_id for one in sessions),
        prices=tuple(price for one in sessions for price in facts.value(one.state, "prices", [])),
        invoice=next((one.invoice for one in known if one.invoice), ""),
        subscription=next((one.subscription for one in sessions if one.subscription), ""),
        failure=_first([*payments, *sessions], "failed"),
        is_over=any("expired" in one.state for one in sessions)
        or any(facts.value(one.state, "status") == "canceled" for one in payments),
    )


def returned_units(known: Sequence[facts.Fact], paid_units: int, disputed: Collection[str] = DISPUTED) -> int:
    """How much of what was paid is with the customer again: refunds that did not fail, and disputes in one of these states."""
    refunds = [one for one in known if one.kind == facts.REFUND]
    failed = [one for one in refunds if facts.value(one.state, "status") in _REFUND_FAILED]
    failed_units = sum(facts.value(one.state, "amount", 0) for one in failed)
    made_units = sum(facts.value(one.state, "amount", 0) for one in refunds) - failed_units
    # A charge tells the sum of all refunds, those included that failed later.
    told_units = sum(facts.value(one.state, "refunded", 0) for one in known if one.kind == facts.CHARGE)
    disputed_units = sum(
        facts.value(one.state, "amount", 0) for one in disputes(known) if facts.value(one.state, "status") in disputed
    )
    return min(paid_units, max(made_units, told_units - failed_units) + disputed_units)


def disputes(known: Sequence[facts.Fact]) -> list[facts.Fact]:
    """The disputes among the objects."""
    return [one for one in known if one.kind == facts.DISPUTE]


def kept_micros(amount_micros: int, returned_units: int, paid_units: int) -> int:
    """The part of a grant that is paid for after that much went back."""
    if paid_units <= 0 or returned_units <= 0:
        return amount_micros
    return amount_micros - money.share_down(amount_micros, returned_units, paid_units)


def _paid(one: facts.Fact) -> int:
    return facts.value(one.state, "received", 0) or facts.value(one.state, "amount", 0)


def _first(sources: Sequence[facts.Fact], name: str) -> str:
    return next((found for one in sources if (found := facts.value(one.state, name))), "")
