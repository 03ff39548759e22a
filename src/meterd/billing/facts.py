"""What an event says of its object, and how that meets what is known already. Pure.

A state is a mapping of fields to [rank, value]; two states are merged field by field, and the higher rank stays. So the order of events,
their number and their repetition are no matter: the merge is commutative, associative and idempotent. What can only go forward (a status, a
sum of refunds) has its place in that order as its rank; what may go back and forth has the time of its event.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from meterd.billing import events, marks

Document = dict[str, Any]
# Field to [rank, value]; a rank is a list of whole numbers.
State = dict[str, list[Any]]

SESSION, PAYMENT, CHARGE, REFUND = "session", "payment", "charge", "refund"
DISPUTE, INVOICE, SUBSCRIPTION, CUSTOMER = "dispute", "invoice", "subscription", "customer"

# A payment that succeeded stays so; one that was given up may not succeed any more.
_PAYMENT_RANKS = {"processing": 1, "requires_action": 1, "requires_capture": 1, "canceled": 2, "succeeded": 3}
# A refund that succeeded may still come back.
_REFUND_RANKS = {"pending": 1, "requires_action": 1, "succeeded": 2, "failed": 3, "canceled": 3}
# An inquiry may become a dispute; what is closed stays closed.
_DISPUTE_RANKS = {
    "warning_needs_response": 1,
    "warning_under_review": 2,
    "warning_closed": 3,
    "needs_response": 4,
    "under_review": 5,
    "lost": 6,
    "won": 7,
    "prevented": 7,
}
_INVOICE_RANKS = {"draft": 1, "open": 2, "uncollectible": 3, "void": 4, "paid": 5}
_SUBSCRIPTION_ENDED = ("canceled", "incomplete_expired")
# Within a second. What Stripe has answered, and not told, is newer than what it was asked about.
_EVENT_RANKS = {"created": 0, "deleted": 2, "": 3}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """What is known of one object. The references say what it belongs to, "" where that is not known."""

    kind: str
    object_id: str
    payment: str = ""
    subscription: str = ""
    invoice: str = ""
    customer: str = ""
    state: State = dataclasses.field(default_factory=State)


def merge(one: Mapping[str, list[Any]], other: Mapping[str, list[Any]]) -> State:
    """The state that knows what both know."""
    return {name: max((state[name] for state in (one, other) if name in state), key=_order) for name in {*one, *other}}


def disagreements(one: Mapping[str, list[Any]], other: Mapping[str, list[Any]]) -> list[str]:
    """The fields of which both are equally sure, but not of one mind."""
    return sorted(name for name in {*one} & {*other} if one[name][0] == other[name][0] and one[name] != other[name])


def _order(field: list[Any]) -> tuple[list[int], str]:
    # Equal ranks with different values are rare, and settled by the text, so that it is the same everywhere.
    return field[0], json.dumps(field[1], sort_keys=True)


def value(state: Mapping[str, list[Any]], name: str, default: Any = "") -> Any:
    """The field's value; `default` if nothing is known of it."""
    return state[name][1] if name in state else default


def of(event: events.Event) -> list[Fact]:
    """What the event says. Nothing, if it is of a type that meterd has no use for."""
    return read(event.object, at_s=event.created_s, event_type=event.type)


def read(document: Document, *, at_s: int, event_type: str = "") -> list[Fact]:
    """What an object says, as it was at that time. The type of the event tells of failures, which the object may not."""
    reader = _READERS.get(str(document.get("object")))
    if reader is None or not events.id_of(document.get("id")):
        return []
    return reader(document, at_s, event_type)


def _known(fields: Mapping[str, Any], rank: list[int]) -> State:
    """Fields that have a value, with one rank."""
    return {name: [rank, found] for name, found in fields.items() if found not in (None, "", {})}


def _text(document: Document, name: str) -> str:
    found = document.get(name)
    return found if isinstance(found, str) else ""


def _units(document: Document, name: str) -> int:
    """An amount in the currency's minor unit; 0 if there is none."""
    found = document.get(name)
    return found if type(found) is int else 0


def _part(document: Document, *names: str) -> Document:
    """An object inside, {} if it is not there."""
    for name in names:
        found = document.get(name)
        document = found if isinstance(found, dict) else {}
    return document


def _sold(document: Document) -> Document:
    """What the app that sells has said about it."""
    metadata = _part(document, "metadata")
    return {
        "tenant_id": _text(metadata, marks.TENANT),
        "account_id": _text(metadata, marks.ACCOUNT),
        "package_id": _text(metadata, marks.PACKAGE),
        "plan_id": _text(metadata, marks.PLAN),
        "order_id": _text(metadata, marks.PURCHASE),
    }


def _session(document: Document, at_s: int, event_type: str) -> list[Fact]:
    session_id = events.id_of(document["id"])
    fields = _known(
        _sold(document)
        | {
            "mode": _text(document, "mode"),
            "client_reference_id": _text(document, "client_reference_id"),
            "currency": _text(document, "currency"),
            "amount": _units(document, "amount_total"),
            # Before discounts and taxes: what the price was.
            "subtotal": _units(document, "amount_subtotal"),
            "created_s": _units(document, "created"),
        },
        [at_s],
    )
    # Only an object that was asked for with them has its lines.
    inner = _part(document, "line_items").get("data")
    if isinstance(inner, list):
        prices = [events.id_of(one.get("price")) for one in inner if isinstance(one, dict)]
        fields["prices"] = [[at_s], sorted(price for price in prices if price)]
    status = _text(document, "payment_status")
    free = status == "no_payment_required" and not _units(document, "amount_total")
    if status == "paid" or free:
        fields["paid_s"] = [[-at_s], at_s]
    if event_type == "checkout.session.async_payment_failed":
        fields["failed"] = [[at_s], "async_payment_failed"]
    if event_type == "checkout.session.expired" or document.get("status") == "expired":
        fields["expired"] = [[0], True]
    return [
        Fact(
            kind=SESSION,
            object_id=session_id,
            payment=events.id_of(document.get("payment_intent")) or session_id,
            subscription=events.id_of(document.get("subscription")),
            invoice=events.id_of(document.get("invoice")),
            customer=events.id_of(document.get("customer")),
            state=fields,
        )
    ]


def _payment(document: Document, at_s: int, event_type: str) -> list[Fact]:
    payment_id = events.id_of(document["id"])
    status = _text(document, "status")
    fields = _known(
        _sold(document) | {"currency": _text(document, "currency"), "amount": _units(document, "amount")}, [at_s]
    )
    fields["status"] = [[_PAYMENT_RANKS.get(status, 0)], status]
    if status == "succeeded":
        received = _units(document, "amount_received")
        fields["received"] = [[received], received]
        fields["paid_s"] = [[-at_s], at_s]
    if event_type == "payment_intent.payment_failed":
        fields["failed"] = [[at_s], _text(_part(document, "last_payment_error"), "code") or "payment_failed"]
    return [
        Fact(
            kind=PAYMENT,
            object_id=payment_id,
            payment=payment_id,
            invoice=events.id_of(document.get("invoice")),
            customer=events.id_of(document.get("customer")),
            state=fields,
        )
    ]


def _charge(document: Document, at_s: int, event_type: str) -> list[Fact]:
    del event_type
    charge_id = events.id_of(document["id"])
    refunded = _units(document, "amount_refunded")
    fields = _known(_sold(document) | {"currency": _text(document, "currency")}, [at_s])
    # The sum of all refunds; it only falls if one fails, and those are known by themselves.
    fields["refunded"] = [[refunded], refunded]
    found = Fact(
        kind=CHARGE,
        object_id=charge_id,
        payment=events.id_of(document.get("payment_intent")) or charge_id,
        invoice=events.id_of(document.get("invoice")),
        customer=events.id_of(document.get("customer")),
        state=fields,
    )
    inner = _part(document, "refunds").get("data")
    refunds = [one for one in inner if isinstance(one, dict)] if isinstance(inner, list) else []
    return [found, *(fact for one in refunds for fact in read(one, at_s=at_s))]


def _refund(document: Document, at_s: int, event_type: str) -> list[Fact]:
    del event_type
    status = _text(document, "status")
    amount = _units(document, "amount")
    return [
        Fact(
            kind=REFUND,
            object_id=events.id_of(document["id"]),
            payment=events.id_of(document.get("payment_intent")) or events.id_of(document.get("charge")),
            state={
                "amount": [[at_s], amount],
                "status": [[_REFUND_RANKS.get(status, 0)], status],
            },
        )
    ]


def _dispute(document: Document, at_s: int, event_type: str) -> list[Fact]:
    del event_type
    status = _text(document, "status")
    rank = _DISPUTE_RANKS.get(status, 0)
    # Of two endings the later one counts.
    ended_s = at_s if rank >= _DISPUTE_RANKS["lost"] else 0
    return [
        Fact(
            kind=DISPUTE,
            object_id=events.id_of(document["id"]),
            payment=events.id_of(document.get("payment_intent")) or events.id_of(document.get("charge")),
            state={
                "amount": [[at_s], _units(document, "amount")],
                "status": [[min(rank, _DISPUTE_RANKS["lost"]), ended_s, rank], status],
            },
        )
    ]


def _invoice(document: Document, at_s: int, event_type: str) -> list[Fact]:
    invoice_id = events.id_of(document["id"])
    details = _part(document, "parent", "subscription_details")
    status = _text(document, "status")
    if event_type in ("invoice.paid", "invoice.payment_succeeded"):
        status = "paid"
    rank = _INVOICE_RANKS.get(status, 0)
    fields: State = {"status": [[rank], status]}
    for name, found in _sold({"metadata": _part(details, "metadata") or _part(document, "metadata")}).items():
        if found:
            fields[name] = [[at_s], found]
    fields["created_s"] = [[0], _units(document, "created")]
    fields["currency"] = [[0], _text(document, "currency")]
    if status == "paid":
        paid = _units(document, "amount_paid")
        fields["paid"] = [[paid], paid]
        fields["paid_s"] = [[-at_s], at_s]
        is_whole = not _part(document, "lines").get("has_more")
        fields["lines"] = [[int(is_whole), at_s], _lines(document)]
        fields["is_whole"] = [[int(is_whole)], is_whole]
    if event_type == "invoice.payment_failed":
        fields["failed_s"] = [[at_s], at_s]
    customer = events.id_of(document.get("customer"))
    found = Fact(
        kind=INVOICE,
        object_id=invoice_id,
        subscription=events.id_of(details.get("subscription")) or events.id_of(document.get("subscription")),
        invoice=invoice_id,
        customer=customer,
        state=fields,
    )
    return [found, *(_link(payment_id, invoice_id) for payment_id in _payments_of(document))]


def _payments_of(document: Document) -> list[str]:
    """The payments of an invoice, as older and newer versions of Stripe's API tell of them."""
    inner = _part(document, "payments").get("data")
    items = [_part(one, "payment") for one in inner if isinstance(one, dict)] if isinstance(inner, list) else []
    names = [document.get("payment_intent") or document.get("charge")]
    names += [one.get("payment_intent") or one.get("charge") for one in items]
    return sorted({found for found in map(events.id_of, names) if found})


def _link(payment_id: str, invoice_id: str) -> Fact:
    return Fact(kind=PAYMENT, object_id=payment_id, payment=payment_id, invoice=invoice_id)


def _lines(document: Document) -> list[Document]:
    """What was paid for: price, time, whether it is a part of a period, and whether it is given back instead."""
    inner = _part(document, "lines").get("data")
    return [_line(one) for one in inner if isinstance(one, dict)] if isinstance(inner, list) else []


def _line(line: Document) -> Document:
    pricing, parent = _part(line, "pricing", "price_details"), _part(line, "parent")
    item = _part(parent, "subscription_item_details") or _part(parent, "invoice_item_details")
    period = _part(line, "period")
    quantity = line.get("quantity")
    subscription = item.get("subscription") or _part(item, "subscription_details").get("subscription")
    return {
        "id": events.id_of(line.get("id")),
        "price": events.id_of(pricing.get("price"))
        or events.id_of(line.get("price"))
        or events.id_of(line.get("plan")),
        "amount": _units(line, "amount"),
        "proration": bool(item.get("proration", line.get("proration", False))),
        "quantity": quantity if type(quantity) is int else 1,
        "subscription": events.id_of(subscription) or events.id_of(line.get("subscription")),
        "start_s": _units(period, "start"),
        "end_s": _units(period, "end"),
    }


def _invoice_payment(document: Document, at_s: int, event_type: str) -> list[Fact]:
    del at_s, event_type
    payment, invoice_id = _part(document, "payment"), events.id_of(document.get("invoice"))
    payment_id = events.id_of(payment.get("payment_intent")) or events.id_of(payment.get("charge"))
    return [_link(payment_id, invoice_id)] if payment_id and invoice_id else []


def _subscription(document: Document, at_s: int, event_type: str) -> list[Fact]:
    subscription_id = events.id_of(document["id"])
    inner = _part(document, "items").get("data")
    items = [one for one in inner if isinstance(one, dict)] if isinstance(inner, list) else []
    first = items[0] if items else {}
    status = _text(document, "status")
    ended = status in _SUBSCRIPTION_ENDED
    end_s = _units(first, "current_period_end") or _units(document, "current_period_end")
    now: Document = {
        "status": status,
        "price": events.id_of(first.get("price")) or events.id_of(first.get("plan")),
        "start_s": _units(first, "current_period_start") or _units(document, "current_period_start"),
        "end_s": end_s,
        "ends": bool(document.get("cancel_at_period_end")) or bool(document.get("cancel_at")),
        "paused": bool(document.get("pause_collection")),
        "ended_s": (_units(document, "ended_at") or _units(document, "canceled_at") or at_s) if ended else 0,
    }
    # Events of one second: what was created comes first, and a period never goes back.
    rank = [int(ended), at_s, _EVENT_RANKS.get(event_type.rpartition(".")[2], 1), end_s]
    fields = _known(_sold(document), [at_s]) | {
        "now": [rank, now],
        "created_s": [[0], _units(document, "created")],
        "anchor_s": [[at_s], _units(document, "billing_cycle_anchor")],
    }
    return [
        Fact(
            kind=SUBSCRIPTION,
            object_id=subscription_id,
            subscription=subscription_id,
            customer=events.id_of(document.get("customer")),
            state=fields,
        )
    ]


def _customer(document: Document, at_s: int, event_type: str) -> list[Fact]:
    customer_id = events.id_of(document["id"])
    fields = _known(_sold(document), [at_s])
    if event_type == "customer.deleted" or document.get("deleted") is True:
        fields["deleted"] = [[0], True]
    return [Fact(kind=CUSTOMER, object_id=customer_id, customer=customer_id, state=fields)]


_READERS: dict[str, Callable[[Document, int, str], list[Fact]]] = {
    "checkout.session": _session,
    "payment_intent": _payment,
    "charge": _charge,
    "refund": _refund,
    "dispute": _dispute,
    "invoice": _invoice,
    "invoice_payment": _invoice_payment,
    "subscription": _subscription,
    "customer": _customer,
}
