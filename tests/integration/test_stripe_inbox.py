"""The inbox by itself: what it asks Stripe for, and what comes due while time passes. A real Postgres; Stripe is a table of answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import asyncpg
import pytest_asyncio

from meterd.billing import events, inbox, outgoing
from meterd.postgres import catalog, catalogs, pool
from meterd.pricing import catalog_file
from tests.acceptance import stripe_world as world
from tests.conftest import PARTITIONS

TENANT = "shop"


class _Stripe:
    """Answers by path, and notes what it was asked. Nothing here makes or changes anything at Stripe."""

    def __init__(self) -> None:
        self.answers: dict[str, world.Document] = {}
        self.asked: list[str] = []

    def of(self, account: str) -> outgoing.Stripe:
        assert account == ""
        return self

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> world.Document:
        del params
        self.asked.append(path)
        if path not in self.answers:
            raise outgoing.RefusedError("resource_missing", f"no such object: {path}")
        return self.answers[path]

    async def all(self, path: str, params: Mapping[str, Any]) -> AsyncGenerator[world.Document]:
        for one in (await self.get(path, params))["data"]:
            yield one

    async def post(self, path: str, params: Mapping[str, Any], *, key: str) -> world.Document:
        raise AssertionError((path, params, key))

    async def delete(self, path: str) -> world.Document:
        raise AssertionError(path)

    async def close(self) -> None:
        pass


class _Shop:
    """An inbox whose clock stands still, and one account."""

    def __init__(self, connections: asyncpg.Pool) -> None:
        self.connections = connections
        self.stripe = _Stripe()
        self.now_ms = world.now_s() * 1000
        self.box = self.inbox(self.stripe)

    def inbox(self, at_stripe: outgoing.Stripe | None) -> inbox.Inbox:
        return inbox.Inbox(
            self.connections, tenant_id=TENANT, freezes=False, at_stripe=at_stripe, clock_ms=lambda: self.now_ms
        )

    async def tell(self, *documents: world.Document, box: inbox.Inbox | None = None) -> list[str]:
        bodies = [world.body_of(document) for document in documents]
        return [await (box or self.box).receive(events.parse(body), body) for body in bodies]

    async def grants(self) -> list[tuple[str, float]]:
        rows = await self.connections.fetch("SELECT wallet, amount_micros, source_id FROM grants ORDER BY change_no")
        return [
            (row["wallet"], row["amount_micros"] / 1e6) for row in rows if row["source_id"].startswith(("pi_", "sub_"))
        ]

    async def plan(self) -> tuple[str, str, bool]:
        row = await self.connections.fetchrow(
            "SELECT plan_id, plan, status, cancel_at_period_end FROM subscriptions WHERE status <> 'canceled'"
        )
        assert row is not None
        return row["plan"]["plan_id"], row["status"], row["cancel_at_period_end"]


@pytest_asyncio.fixture
async def shop(database: str) -> AsyncIterator[_Shop]:
    connections = await pool.create(database)
    kept = catalog.Catalog(connections, partitions=PARTITIONS)
    await kept.create_tenant(TENANT)
    await kept.create_account(catalog.NewAccount(tenant_id=TENANT, account_id="a"))
    await catalogs.apply(connections, TENANT, catalog_file.parsed(world.CATALOG))
    yield _Shop(connections)
    await connections.close()


def _subscription(shop: _Shop, **fields: Any) -> world.Document:
    start_s = shop.now_ms // 1000 - world.DAY_S
    return world.subscription("sub_1", "a", price="price_pro", start_s=start_s, end_s=start_s + world.MONTH_S) | fields


def _paid(shop: _Shop, price: str = "price_pro", days: int = 30) -> world.Document:
    start_s = shop.now_ms // 1000 - world.DAY_S
    return world.event(
        "invoice.paid", world.invoice("sub_1", [world.line("sub_1", price, start_s, start_s + days * world.DAY_S)])
    )


async def test_two_states_of_one_second_are_settled_by_asking_stripe(shop: _Shop) -> None:
    for truth in (False, True):
        shop.stripe.answers["subscriptions/sub_1"] = _subscription(shop, cancel_at_period_end=truth)
        both = [
            world.event(
                "customer.subscription.updated",
                _subscription(shop, cancel_at_period_end=ends),
                at_s=shop.now_ms // 1000 - 60,
            )
            for ends in (False, True)
        ]
        assert await shop.tell(*both, _paid(shop)) == ["done"] * 3
        assert await shop.plan() == ("pro", "active", truth)
        shop.now_ms += 120_000
    assert shop.stripe.asked == ["subscriptions/sub_1"] * 2


async def test_without_stripe_two_states_of_one_second_end_the_same_in_any_order(shop: _Shop) -> None:
    alone = shop.inbox(None)
    at_s = shop.now_ms // 1000 - 60
    both = [
        world.event("customer.subscription.updated", _subscription(shop, cancel_at_period_end=ends), at_s=at_s)
        for ends in (True, False)
    ]
    await shop.tell(_paid(shop), *both, box=alone)
    first = await shop.plan()
    await shop.connections.execute("DELETE FROM stripe_objects")
    await shop.connections.execute("UPDATE stripe_inbox SET state = 'pending', next_at = now(), ended_at = NULL")
    for document in reversed(both):
        await alone.process(document["id"])
    await shop.tell(_paid(shop), box=alone)
    assert await shop.plan() == first


async def test_a_page_that_says_no_package_is_looked_up_by_its_price(shop: _Shop) -> None:
    paid = world.session("a", metadata={}, client_reference_id="a")
    lines = {"object": "list", "data": [{"id": "li_1", "price": {"id": "price_starter"}}], "has_more": False}
    shop.stripe.answers[f"checkout/sessions/{paid['id']}"] = paid | {"line_items": lines}
    assert await shop.tell(world.event("checkout.session.completed", paid)) == ["done"]
    assert await shop.grants() == [("default", 2000), ("default", 500)]


async def test_stripe_that_does_not_answer_leaves_a_page_without_package_alone(shop: _Shop) -> None:
    paid = world.session("a", metadata={}, client_reference_id="a")
    assert await shop.tell(world.event("checkout.session.completed", paid)) == ["done"]
    assert await shop.grants() == []


async def test_a_refund_of_an_unknown_payment_finds_its_invoice_at_stripe(shop: _Shop) -> None:
    paid = _paid(shop)
    invoice = paid["data"]["object"]
    shop.stripe.answers |= {
        "payment_intents/pi_1": world.payment_intent("pi_1"),
        "invoice_payments": {"data": [world.invoice_payment(invoice["id"], "pi_1")]},
        f"invoices/{invoice['id']}": invoice,
    }
    await shop.tell(world.event("customer.subscription.created", _subscription(shop)), paid)
    assert await shop.tell(world.event("charge.refunded", world.charge("pi_1", refunded=950))) == ["done"]
    taken = await shop.connections.fetchval("SELECT sum(amount_micros) FROM claw_backs")
    assert (await shop.grants(), taken) == ([("default", 3000)], 1_500_000_000)


async def test_an_invoice_with_more_lines_than_an_event_has_is_read_whole(shop: _Shop) -> None:
    paid = _paid(shop)
    invoice = paid["data"]["object"]
    lines = [*invoice["lines"]["data"], _paid(shop, "price_elite")["data"]["object"]["lines"]["data"][0]]
    invoice["lines"]["has_more"] = True
    shop.stripe.answers |= {
        f"invoices/{invoice['id']}": invoice,
        f"invoices/{invoice['id']}/lines": {"data": lines},
    }
    await shop.tell(world.event("customer.subscription.created", _subscription(shop)), paid)
    assert sorted(await shop.grants()) == [("default", 9000), ("forecast", 30)]


async def test_the_months_of_a_year_are_granted_as_they_come_and_never_twice(shop: _Shop) -> None:
    await shop.tell(world.event("customer.subscription.created", _subscription(shop)), _paid(shop, "price_year", 365))
    assert await shop.grants() == [("default", 1000)]
    seen: list[int] = []
    for _ in range(16):
        shop.now_ms += 25 * world.DAY_S * 1000
        for _ in range(2):
            await shop.box.round()
        seen.append(len(await shop.grants()))
    assert seen[0] >= 1
    assert seen[-3:] == [12, 12, 12]
    overlaps = await shop.connections.fetchval(
        "SELECT count(*) FROM grants AS g JOIN grants AS h USING (account_no) WHERE g.grant_id < h.grant_id "
        "AND tstzrange(g.effective_at, g.expires_at - interval '2 hours') && tstzrange(h.effective_at, h.expires_at - interval '2 hours')"
    )
    assert overlaps == 0


async def test_a_year_that_was_ended_brings_no_further_month(shop: _Shop) -> None:
    await shop.tell(world.event("customer.subscription.created", _subscription(shop)), _paid(shop, "price_year", 365))
    ended = _subscription(shop, status="canceled", ended_at=shop.now_ms // 1000)
    await shop.tell(world.event("customer.subscription.deleted", ended))
    for _ in range(3):
        shop.now_ms += 25 * world.DAY_S * 1000
        await shop.box.round()
    assert await shop.grants() == [("default", 1000)]
    assert await shop.connections.fetchval("SELECT count(*) FROM revocations") == 1


async def test_an_event_backs_off_and_is_given_up_after_all_attempts(shop: _Shop) -> None:
    paid = world.event("checkout.session.completed", world.session("nobody"))
    assert await shop.tell(paid) == ["pending"]
    waits: list[int] = []
    while True:
        row = await shop.connections.fetchrow("SELECT state, meterd_ms(next_at) AS next_ms FROM stripe_inbox")
        assert row is not None
        if row["state"] == "dead":
            break
        waits.append((row["next_ms"] - shop.now_ms) // 1000)
        shop.now_ms = row["next_ms"]
        await shop.box.round()
    assert waits[:4] == [5, 10, 20, 40]
    assert waits[-1] == 3600
    assert len(waits) == inbox.ATTEMPTS_MAX - 1
    assert (shop.box.counts.dead, shop.box.backlog.dead) == (1, 1)


async def test_two_processes_make_one_effect(shop: _Shop) -> None:
    other = shop.inbox(None)
    paid = world.event("checkout.session.completed", world.session("a"))
    states = await asyncio.gather(*(shop.tell(paid, box=box) for box in (shop.box, other) * 10))
    assert states == [["done"]] * 20
    assert await shop.grants() == [("default", 2000), ("default", 500)]


async def test_what_stripe_writes_can_be_read_but_not_another_tenants(shop: _Shop) -> None:
    await shop.tell(world.event("checkout.session.completed", world.session("a")))
    for table in ("stripe_inbox", "stripe_objects", "stripe_effects"):
        async with pool.as_tenant(shop.connections, TENANT) as connection:
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") > 0
        async with pool.as_tenant(shop.connections, "other") as connection:
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_a_fault_of_the_program_is_kept_with_the_event_and_tried_again(shop: _Shop) -> None:
    async def fail(step: str) -> None:
        if step == "settled":
            raise ZeroDivisionError("by a test")

    broken = inbox.Inbox(
        shop.connections,
        tenant_id=TENANT,
        freezes=False,
        at_stripe=None,
        clock_ms=lambda: shop.now_ms,
        failpoint=fail,
    )
    paid = world.event("checkout.session.completed", world.session("a"))
    with contextlib.suppress(ZeroDivisionError):
        await shop.tell(paid, box=broken)
    row = await shop.connections.fetchrow("SELECT state, error, attempts FROM stripe_inbox")
    assert row is not None
    assert (row["state"], row["error"], row["attempts"]) == ("pending", "ZeroDivisionError: by a test", 1)
    assert await shop.grants() == []
    assert await shop.tell(paid) == ["done"]
    assert await shop.grants() == [("default", 2000), ("default", 500)]
