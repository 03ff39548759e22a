"""Why a settlement charged what it did: computed again from the numbers that are stored with it. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from meterd.core import ledger, money, pricing
from meterd.meter import quotes, requests

_HOW = {
    ledger.Kind.COMMIT: "committed",
    ledger.Kind.COMMIT_LATE: "committed after its expiry",
    ledger.Kind.RELEASE: "released",
    ledger.Kind.EXPIRE: "expired",
    ledger.Kind.CHARGE: "charged without a hold",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """`exact_micros` is a decimal string, or "n/d" where that has no end; margin and credit value are "" where none was applied."""

    usage: dict[str, int]
    margin: str
    credit_value_usd: str
    exact_micros: str
    rounded_micros: int
    steps: Sequence[str]


class UnexplainedError(AssertionError):
    """The stored numbers do not give the stored charge: the ledger was changed by hand, or meterd is wrong."""


def explain(record: ledger.Record, *, expired_micros: int = 0, quote: pricing.Quote | None = None) -> Explanation:
    """`expired_micros` is what the expiry charged before a late Commit; `quote` the fixed price behind a hold that needs no usage.

    UnexplainedError if the stored numbers contradict each other.
    """
    terms, detail = requests.decode(record.terms), requests.decode(record.detail)
    if "lines" not in detail and quote is not None:
        detail = detail | _priced(quote)
    charge = record.charged_micros + record.uncollected_micros
    steps = [_opening(record, terms, detail)]
    if "lines" in detail and record.kind != ledger.Kind.RELEASE:
        exact = _from_lines(detail, steps)
        rounded = math.ceil(exact)
        _same("exact amount", Fraction(detail["exact"]), exact)
        exact_text: str = detail["exact"]
        if exact != rounded:
            steps.append(f"Rounded up once: {rounded} micro-credits.")
    else:
        rounded = charge + expired_micros
        exact_text = str(rounded)
        steps.append(_unpriced(record, detail, rounded))
    if record.kind == ledger.Kind.COMMIT_LATE:
        steps.append(
            f"The expiry had charged {expired_micros} micro-credits of it; {max(0, rounded - expired_micros)} were still due."
        )
    if record.overage == ledger.Overage.FREE:
        steps.append("The account was on an unlimited plan: nothing is charged.")
        _same("charge", charge, 0)
    else:
        _same("charge", charge, max(0, rounded - expired_micros))
    steps += _ending(record)
    return Explanation(
        usage=detail.get("usage", {}),
        margin=detail.get("margin", ""),
        credit_value_usd=detail.get("cv", ""),
        exact_micros=exact_text,
        rounded_micros=rounded,
        steps=steps,
    )


def _priced(quote: pricing.Quote) -> dict[str, Any]:
    return {
        "lines": [quotes.line_row(line) for line in pricing.explain(quote)],
        "margin": quote.margin,
        "cv": quote.credit_value_usd,
        "exact": quote.exact_string(),
        "item": quote.item,
    }


def _same(what: str, stored: Fraction | int, computed: Fraction | int) -> None:
    if stored != computed:
        raise UnexplainedError(f"{what}: stored {stored}, computed {computed}")


def _opening(record: ledger.Record, terms: requests.Terms, detail: dict[str, Any]) -> str:
    item = detail.get("item") or terms.get("item", "")
    price = f", priced by {terms['pv']}" if terms.get("pv") else ""
    subject = "The hold was" if record.kind != ledger.Kind.CHARGE else "It was"
    return f"{subject} {_HOW[record.kind]}: {item}{price}."


def _from_lines(detail: dict[str, Any], steps: list[str]) -> Fraction:
    """The exact micro-credits of the lines; adds what it did to `steps`."""
    margin, in_usd = Fraction(detail["margin"]), "cost" in detail
    total = Fraction(0)
    for usage_class, quantity, unit_price, cost_usd in detail["lines"]:
        part = Fraction(quantity) * Fraction(unit_price)
        if in_usd:
            _same(f"cost of {usage_class}", Fraction(cost_usd), part)
            steps.append(f"{usage_class}: {quantity} × {unit_price} USD = {cost_usd} USD.")
        else:
            steps.append(f"{usage_class}: {quantity} × {unit_price} credits = {_decimal(part)} credits.")
        total += part
    if not in_usd:
        exact = total * margin * money.MICROS_PER_CREDIT
        steps.append(f"{_decimal(total)} credits × margin {detail['margin']} = {_decimal(exact)} micro-credits.")
        return exact
    _same("cost", Fraction(detail["cost"]), total)
    exact = total * margin / Fraction(detail["cv"]) * money.MICROS_PER_CREDIT
    steps.append(
        f"Cost {detail['cost']} USD × margin {detail['margin']} ÷ {detail['cv']} USD a credit = {_decimal(exact)} micro-credits."
    )
    return exact


def _decimal(value: Fraction) -> str:
    return money.ratio_string(value.numerator, value.denominator)


def _unpriced(record: ledger.Record, detail: dict[str, Any], rounded_micros: int) -> str:
    match record.kind:
        case ledger.Kind.RELEASE:
            reason = detail.get("reason", "")
            return "Nothing is charged for a release" + (f' ("{reason}").' if reason else ".")
        case ledger.Kind.EXPIRE if rounded_micros == 0:
            return "Its time was up, and nothing is charged."
        case ledger.Kind.EXPIRE:
            return f"Its time was up, and what it held is charged: {rounded_micros} micro-credits."
        case _ if detail.get("us") == 4 and rounded_micros == record.held_before_micros:
            return f"No usage is known: what was held is charged, {rounded_micros} micro-credits."
        case _ if detail.get("us") == 4:
            return f"No usage is known: what was last reported is charged, {rounded_micros} micro-credits."
        case _:
            return f"A given amount: {rounded_micros} micro-credits."


def _ending(record: ledger.Record) -> list[str]:
    parts = [f"{record.charged_micros} charged"]
    for amount, name in (
        (record.returned_micros, "returned"),
        (record.expired_micros, "forfeited with expired grants"),
        (record.revoked_micros, "taken back with revoked grants"),
        (record.uncollected_micros, "not covered, and not collected"),
    ):
        if amount:
            parts.append(f"{amount} {name}")
    opening = (
        f"Of {record.held_before_micros} held micro-credits: " if record.held_before_micros else "In micro-credits: "
    )
    steps = [opening + ", ".join(parts) + "."]
    steps += [f"{draw.amount_micros} drawn from grant {draw.grant_id}." for draw in record.drawn]
    overdraft = record.charged_micros - sum(draw.amount_micros for draw in record.drawn)
    if overdraft:
        steps.append(f"{overdraft} from overdraft.")
    return steps
