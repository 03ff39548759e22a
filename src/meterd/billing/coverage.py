"""What the paid invoices of a subscription ask for: which allowances, from when to when. Pure; times in ms, UTC.

Each line of a paid invoice brings its plan's allowance for the line's time; a part of a period brings that part, and a line that is given
back takes it. The lines of an invoice are added up. A year is cut into months, which are granted as they come.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from meterd.billing import facts, sales
from meterd.core import catalog, money, periods

# Stripe draws a renewal's invoice when the period ends, and collects it an hour later; until then the customer is not left without.
RENEWAL_GRACE_MS = 2 * 60 * 60 * 1000
# No price of Stripe's is for longer than three years.
MONTHS_MAX = 36


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Credits of one wallet for one stretch of paid time, as one invoice brings them: below 0, what it takes.

    `kept_micros` is what is left of it after refunds and disputes.
    """

    invoice: str
    wallet: str
    amount_micros: int
    kept_micros: int
    start_ms: int
    end_ms: int
    expires_ms: int

    @property
    def part(self) -> str:
        """Its name among the effects of the invoice."""
        return f"{self.wallet}:{self.start_ms // 1000}"

    def overlaps(self, other: Slice) -> bool:
        """Whether the two are of one wallet and, in part, of one time."""
        return self.wallet == other.wallet and self.start_ms < other.end_ms and other.start_ms < self.end_ms


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Paid:
    """A paid invoice. `plan` is that of its last line that brings something; amounts in the currency's minor unit."""

    invoice: str
    plan: catalog.Plan
    paid_units: int
    returned_units: int
    # The part of it that is back for good.
    lost_units: int
    currency: str
    paid_s: int
    start_ms: int
    end_ms: int
    slices: tuple[Slice, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Share:
    wallet: str
    amount_micros: int
    start_ms: int
    end_ms: int


def paid(
    invoice: facts.Fact,
    known: Sequence[facts.Fact],
    plans: Mapping[str, catalog.Plan],
    fallback: catalog.Plan | None,
    subscription: str,
) -> Paid | None:
    """What a paid invoice brings; None if it is not paid, or sells none of the plans.

    `plans` are by Stripe's price; `fallback` is the plan of what has another price. `known` are the objects of its payments.
    """
    state = invoice.state
    if facts.value(state, "status") != "paid":
        return None
    lines: list[tuple[Mapping[str, Any], catalog.Plan]] = []
    for line in facts.value(state, "lines", []):
        plan = plans.get(line["price"]) or fallback
        if plan is not None and line["end_s"] > line["start_s"] and line["subscription"] in ("", subscription):
            lines.append((line, plan))
    bringing = [(line, plan) for line, plan in lines if line["amount"] >= 0]
    if not bringing:
        return None
    paid_units = facts.value(state, "paid", 0)
    returned = sales.returned_units(known, paid_units)
    last, plan = max(bringing, key=lambda one: (not one[0]["proration"], one[0]["start_s"], one[0]["id"]))
    whole = [line for line, _ in lines if not line["proration"]]
    return Paid(
        invoice=invoice.object_id,
        plan=plan,
        paid_units=paid_units,
        returned_units=returned,
        lost_units=sales.returned_units(known, paid_units, sales.LOST),
        currency=facts.value(state, "currency"),
        paid_s=facts.value(state, "paid_s", 0),
        start_ms=last["start_s"] * 1000,
        end_ms=max(line["end_s"] for line in (whole or [last])) * 1000,
        slices=tuple(_slices(invoice.object_id, lines, plan, returned, paid_units)),
    )


def _slices(
    invoice: str,
    lines: Sequence[tuple[Mapping[str, Any], catalog.Plan]],
    plan: catalog.Plan,
    returned: int,
    paid_units: int,
) -> list[Slice]:
    whole = [share for line, of in lines if not line["proration"] for share in _shares(line, of)]
    parts = [share for line, of in lines if line["proration"] for share in _shares(line, of)]
    sums: dict[tuple[str, int, int], int] = {}
    for share in (*whole, *(_moved(share, whole) for share in parts)):
        key = (share.wallet, share.start_ms, share.end_ms)
        sums[key] = sums.get(key, 0) + share.amount_micros
    return [
        Slice(
            invoice=invoice,
            wallet=wallet,
            amount_micros=amount,
            kept_micros=sales.kept_micros(amount, returned, paid_units) if amount > 0 else amount,
            start_ms=start_ms,
            end_ms=end_ms,
            expires_ms=periods.add_months(end_ms, 1) if plan.rollover else end_ms + RENEWAL_GRACE_MS,
        )
        for (wallet, start_ms, end_ms), amount in sorted(sums.items())
        if amount
    ]


def _shares(line: Mapping[str, Any], plan: catalog.Plan) -> list[_Share]:
    """What a line brings, month by month counted back from its end; without price, as in a trial, it is one stretch."""
    start_ms, end_ms = line["start_s"] * 1000, line["end_s"] * 1000
    spans = _months(start_ms, end_ms) if line["amount"] else [(start_ms, end_ms, end_ms - start_ms)]
    sign = -1 if line["amount"] < 0 else 1
    return [
        _Share(
            wallet=allowance.wallet,
            amount_micros=sign * max(1, line["quantity"]) * _part(allowance.amount_micros, line, first, last, month_ms),
            start_ms=first,
            end_ms=last,
        )
        for allowance in plan.allowances
        if allowance.amount_micros
        for first, last, month_ms in spans
    ]


def _part(amount_micros: int, line: Mapping[str, Any], start_ms: int, end_ms: int, month_ms: int) -> int:
    return money.share_down(amount_micros, end_ms - start_ms, month_ms) if line["proration"] else amount_micros


def _months(start_ms: int, end_ms: int) -> list[tuple[int, int, int]]:
    """The months of a time, each with its start and end within it, and how long the whole month is."""
    found: list[tuple[int, int, int]] = []
    for number in range(MONTHS_MAX):
        first, last = periods.add_months(end_ms, -number - 1), periods.add_months(end_ms, -number)
        found.append((max(first, start_ms), last, last - first))
        if first <= start_ms:
            break
    return found[::-1]


def month(start_ms: int, end_ms: int, now_ms: int) -> tuple[int, int]:
    """The month of a paid time that `now_ms` lies in; the first before it, the last behind it."""
    spans = _months(start_ms, end_ms)
    first, last, _ = next((one for one in spans[::-1] if one[0] <= now_ms), spans[0])
    return first, last


def _moved(share: _Share, whole: Sequence[_Share]) -> _Share:
    """A part of a period goes with the whole period of its invoice that it lies in; one that is over by then, with the first."""
    own = sorted((one.start_ms, one.end_ms) for one in whole if one.wallet == share.wallet)
    if not own:
        return share
    start_ms, end_ms = next((one for one in own[::-1] if one[0] <= share.start_ms), own[0])
    return dataclasses.replace(share, start_ms=start_ms, end_ms=end_ms)


def prices(invoices: Sequence[facts.Fact], now: Mapping[str, Any]) -> list[str]:
    """Stripe's prices that the invoices and the subscription name."""
    found = {line["price"] for one in invoices for line in facts.value(one.state, "lines", [])}
    return sorted(price for price in {*found, now.get("price", "")} if price)


def of(
    known: Sequence[facts.Fact],
    plan_of: Mapping[str, catalog.Plan],
    fallback: catalog.Plan | None,
    subscription: str,
    payments_of: Callable[[str], Sequence[facts.Fact]],
) -> list[Paid]:
    """What all invoices of the subscription bring, in the order of their time."""
    found = [
        paid(one, payments_of(one.object_id), plan_of, fallback, subscription)
        for one in known
        if one.kind == facts.INVOICE
    ]
    return sorted((one for one in found if one is not None), key=lambda one: (one.start_ms, one.paid_s, one.invoice))
