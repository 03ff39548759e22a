"""The webhook process is killed between any two steps: a redelivery, or the next process by itself, completes what was begun."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from meterd.billing import inbox
from tests.acceptance import installation, processes
from tests.acceptance import stripe_world as world


@pytest.fixture(scope="module")
def shop(shared: installation.Installation) -> Iterator[world.World]:
    with world.opened(shared, "crashes") as made:
        yield made


def _killed_at(shop: world.World, step: str, document: world.Document) -> None:
    """Delivers to a process that kills itself there."""
    healthy = shop.process
    shop.process = world.started(shop.made, shop.product.tenant_id, {"test_doom": step}, world.DoomedProcess)
    try:
        with pytest.raises(httpx.HTTPError):
            shop.send(document)
        processes.wait_until(lambda: not shop.process.is_running, "killed")
    finally:
        shop.process.kill()
        shop.process = healthy


def _make_due(shop: world.World, event_id: str) -> None:
    """As if the time had passed after which an event that nobody works on is taken up."""
    shop.made.sql("UPDATE stripe_inbox SET next_at = now() WHERE event_id = $1 AND state = 'pending'", event_id)


def _state(shop: world.World, event_id: str) -> str:
    rows = shop.made.sql("SELECT state FROM stripe_inbox WHERE event_id = $1", event_id)
    return rows[0]["state"] if rows else ""


# What is left of the event after the kill.
LEFT = {
    "verified": "",
    "stored": "pending",
    "locked": "pending",
    "absorbed": "pending",
    "settled": "pending",
    "finished": "pending",
    "committed": "done",
}


def test_all_steps_are_tried() -> None:
    assert tuple(LEFT) == inbox.FAILPOINTS


@pytest.mark.parametrize("step", LEFT)
def test_a_redelivery_completes_what_a_kill_has_left(shop: world.World, step: str) -> None:
    account = shop.account(plan_id="endless")
    paid = world.event("checkout.session.completed", world.session(account))
    _killed_at(shop, step, paid)
    assert _state(shop, paid["id"]) == LEFT[step]
    assert shop.send(paid) == 200
    assert _state(shop, paid["id"]) == "done"
    assert shop.credits(account) == {"default": 2500}
    assert shop.money(account) == [("package", "starter", "19.00 USD")]


def test_without_a_redelivery_the_next_process_completes_it(shop: world.World) -> None:
    account = shop.account(plan_id="endless")
    paid = world.event("checkout.session.completed", world.session(account))
    _killed_at(shop, "settled", paid)
    _make_due(shop, paid["id"])
    processes.wait_until(lambda: _state(shop, paid["id"]) == "done", "taken up")
    assert shop.credits(account) == {"default": 2500}


def _answers(shop: world.World, account: str) -> bool:
    """Whether the server has found Postgres again. Its health says nothing of that: calls are decided without Postgres."""
    try:
        shop.product.balance(account)
    except grpc.RpcError as fault:
        # A call that failed is its own error.
        call: Any = fault
        assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), call.details()
        return False
    return True


def test_postgres_that_goes_away_is_a_503_and_no_harm(shop: world.World) -> None:
    account = shop.account(plan_id="endless")
    paid = world.event("checkout.session.completed", world.session(account))
    shop.made.postgres.kill()
    try:
        assert shop.send(paid) == 503
        assert shop.http.get(f"http://{shop.process.address}/readyz").status_code == 503
        assert shop.http.get(f"http://{shop.process.address}/healthz").status_code == 200
    finally:
        shop.made.postgres.start()
    processes.wait_until(lambda: shop.send(paid) == 200, "delivered again")
    processes.wait_until(lambda: _answers(shop, account), "answered again")
    assert shop.credits(account) == {"default": 2500}


def test_a_dead_event_is_replayed_once_what_was_missing_is_there(shop: world.World) -> None:
    account = shop.account(plan_id="endless")
    metadata = {"meterd_account": account, "meterd_package": "brand-new"}
    paid = world.event("checkout.session.completed", world.session(account, metadata=metadata))
    assert shop.send(paid) == 202
    shop.made.sql(
        "UPDATE stripe_inbox SET attempts = $2, next_at = now() WHERE event_id = $1", paid["id"], inbox.ATTEMPTS_MAX - 1
    )
    processes.wait_until(lambda: _state(shop, paid["id"]) == "dead", "given up")
    (entry,) = shop.entries(paid["id"])
    assert entry["error"] == "the catalog has no package brand-new"
    text = shop.http.get(f"http://{shop.process.address}/metrics").text
    assert 'meterd_stripe_events_total{outcome="dead"} 1.0' in text
    catalog = world.CATALOG.replace("  odd:", "  brand-new: {name: New, credits: 5, price: 19}\n  odd:")
    assert shop.product.apply(catalog).applied
    shop.made.meterd("stripe", "replay", "--dead", "--tenant", shop.product.tenant_id)
    assert _state(shop, paid["id"]) == "done"
    assert shop.credits(account) == {"default": 5}
    shop.made.meterd("stripe", "replay", "--all", "--tenant", shop.product.tenant_id)
    assert shop.credits(account) == {"default": 5}
    assert shop.money(account) == [("package", "brand-new", "19.00 USD")]


def _metric(shop: world.World, name: str) -> float:
    lines = shop.http.get(f"http://{shop.process.address}/metrics").text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} "))


def test_an_event_that_stays_unprocessed_is_alarming_until_it_is_done(shop: world.World) -> None:
    account = f"later-{world.new_id('x')}"
    paid = world.event("checkout.session.completed", world.session(account))
    assert shop.send(paid) == 202
    shop.made.sql("UPDATE stripe_inbox SET received_at = now() - interval '20 minutes' WHERE event_id = $1", paid["id"])
    age, told = "meterd_stripe_oldest_pending_seconds", "1 events are not processed, the oldest for 20 minutes"
    processes.wait_until(lambda: _metric(shop, age) >= 1200, "an old event in the metrics")
    assert _metric(shop, "meterd_stripe_pending") == 1
    processes.wait_until(lambda: told in shop.process.log_path.read_text(), "an old event in the log")
    shop.product.open(account, plan_id="endless")
    _make_due(shop, paid["id"])
    processes.wait_until(lambda: _metric(shop, age) == 0, "nothing that waits")
    assert _state(shop, paid["id"]) == "done"
