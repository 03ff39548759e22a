"""The merge of what events say is a join: order, number and repetition are no matter."""

from __future__ import annotations

import functools
from typing import Any

from hypothesis import given, strategies

from meterd.billing import facts, sales

_FIELDS = strategies.dictionaries(
    strategies.sampled_from("abc"),
    strategies.tuples(
        strategies.lists(strategies.integers(0, 2), min_size=2, max_size=2),
        strategies.one_of(strategies.integers(0, 3), strategies.booleans(), strategies.text("xy", max_size=2)),
    ).map(list),
)


@given(_FIELDS, _FIELDS, _FIELDS)
def test_the_merge_is_commutative_associative_and_idempotent(one: Any, two: Any, three: Any) -> None:
    assert facts.merge(one, two) == facts.merge(two, one)
    assert facts.merge(facts.merge(one, two), three) == facts.merge(one, facts.merge(two, three))
    assert facts.merge(one, one) == one


def _refund(number: int, units: int, status: str) -> dict[str, Any]:
    return {"object": "refund", "id": f"re_{number}", "amount": units, "payment_intent": "pi_1", "status": status}


@given(strategies.permutations(["pending", "succeeded", "failed", "succeeded", "pending"]))
def test_a_refund_that_failed_stays_failed(order: list[str]) -> None:
    states = [facts.read(_refund(1, 5, status), at_s=at_s)[0].state for at_s, status in enumerate(order)]
    assert facts.value(functools.reduce(facts.merge, states), "status") == "failed"


def _dispute(status: str, at_s: int) -> facts.State:
    found = {"object": "dispute", "id": "du_1", "amount": 5, "payment_intent": "pi_1", "status": status}
    return facts.read(found, at_s=at_s)[0].state


def test_a_dispute_that_was_lost_and_then_won_is_won_in_any_order() -> None:
    lost, won = _dispute("lost", 10), _dispute("won", 20)
    assert facts.value(facts.merge(lost, won), "status") == "won"
    assert facts.value(facts.merge(won, lost), "status") == "won"
    again = _dispute("lost", 30)
    assert facts.value(facts.merge(again, won), "status") == "lost"


def test_a_charge_tells_of_refunds_that_came_by_no_event_of_their_own() -> None:
    charge = {"object": "charge", "id": "ch_1", "payment_intent": "pi_1", "amount_refunded": 7, "currency": "usd"}
    known = facts.read(charge, at_s=1)
    assert sales.returned_units(known, 19) == 7
    known += facts.read(_refund(1, 3, "failed"), at_s=1)
    assert sales.returned_units(known, 19) == 4
    known += facts.read(_refund(2, 5, "succeeded"), at_s=1)
    assert sales.returned_units(known, 19) == 5
    assert sales.returned_units(known, 3) == 3


def test_an_inquiry_takes_nothing_and_a_dispute_adds_to_refunds() -> None:
    inquiry = {"object": "dispute", "id": "du_2", "amount": 9, "payment_intent": "pi_1"}
    known = facts.read(inquiry | {"status": "warning_needs_response"}, at_s=1)
    assert sales.returned_units(known, 19) == 0
    known = [*facts.read(inquiry | {"status": "under_review"}, at_s=1), *facts.read(_refund(1, 5, "pending"), at_s=1)]
    assert sales.returned_units(known, 19) == 14


@given(strategies.integers(1, 10**12), strategies.integers(1, 10**6), strategies.data())
def test_what_is_kept_and_what_goes_back_add_up(amount: int, paid: int, data: strategies.DataObject) -> None:
    returned = data.draw(strategies.integers(0, paid))
    kept = sales.kept_micros(amount, returned, paid)
    assert 0 <= kept <= amount
    assert (kept == 0) == (returned == paid)
    # Rounded in the customer's favour, by less than a micro-credit.
    assert 0 <= kept * paid - amount * (paid - returned) < paid


def test_an_invoice_of_an_older_version_of_the_api_is_understood() -> None:
    line = {
        "id": "il_1",
        "amount": 1900,
        "proration": False,
        "quantity": 2,
        "price": {"id": "price_pro"},
        "subscription": "sub_1",
        "period": {"start": 10, "end": 20},
    }
    document = {
        "object": "invoice",
        "id": "in_1",
        "status": "paid",
        "amount_paid": 1900,
        "subscription": "sub_1",
        "payment_intent": "pi_1",
        "customer": "cus_1",
        "lines": {"data": [line]},
    }
    invoice, payment = facts.read(document, at_s=5, event_type="invoice.paid")
    assert (invoice.subscription, invoice.customer) == ("sub_1", "cus_1")
    assert facts.value(invoice.state, "lines") == [
        {
            "id": "il_1",
            "price": "price_pro",
            "amount": 1900,
            "proration": False,
            "quantity": 2,
            "subscription": "sub_1",
            "start_s": 10,
            "end_s": 20,
        }
    ]
    assert (payment.kind, payment.object_id, payment.invoice) == ("payment", "pi_1", "in_1")
