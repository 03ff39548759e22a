"""Packages bought through Stripe: real events, signed, over HTTP, to the real process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance import installation
from tests.acceptance import stripe_world as world


@pytest.fixture(scope="module")
def shop(shared: installation.Installation) -> Iterator[world.World]:
    with world.opened(shared, "packages") as made:
        yield made


@pytest.fixture
def account(shop: world.World) -> str:
    return shop.account(plan_id="endless")


def test_a_paid_session_grants_the_package_and_its_bonus_once(shop: world.World, account: str) -> None:
    paid = world.session(account)
    shop.deliver(world.event("checkout.session.completed", paid))
    assert shop.credits(account) == {"default": 2500}
    assert shop.money(account) == [("package", "starter", "19.00 USD")]
    grants = shop.made.sql(
        "SELECT g.category, g.amount_micros, g.source_id FROM grants AS g JOIN accounts AS a USING (account_no) "
        "WHERE a.account_id = $1 ORDER BY g.change_no",
        account,
    )
    assert [(one["category"], one["amount_micros"]) for one in grants] == [(1, 2_000_000_000), (2, 500_000_000)]
    assert {one["source_id"] for one in grants} == {paid["payment_intent"]}


def test_session_and_payment_of_one_sale_are_one_grant(shop: world.World, account: str) -> None:
    paid = world.session(account)
    intent = world.payment_intent(paid["payment_intent"], account_id=account)
    shop.deliver(
        world.event("payment_intent.succeeded", intent),
        world.event("checkout.session.completed", paid),
        world.event("checkout.session.async_payment_succeeded", paid),
        world.event("payment_intent.succeeded", intent),
    )
    assert shop.credits(account) == {"default": 2500}
    assert shop.money(account) == [("package", "starter", "19.00 USD")]


def test_a_session_that_is_not_paid_grants_nothing_until_it_is(shop: world.World, account: str) -> None:
    waiting = world.session(account, paid=False)
    shop.deliver(world.event("checkout.session.completed", waiting))
    assert shop.credits(account) == {}
    shop.deliver(world.event("checkout.session.async_payment_succeeded", waiting | {"payment_status": "paid"}))
    assert shop.credits(account) == {"default": 2500}


def test_an_async_payment_that_failed_grants_nothing(shop: world.World, account: str) -> None:
    waiting = world.session(account, paid=False)
    shop.deliver(
        world.event("checkout.session.completed", waiting),
        world.event("checkout.session.async_payment_failed", waiting),
        world.event(
            "payment_intent.payment_failed",
            world.payment_intent(waiting["payment_intent"], status="requires_payment_method"),
        ),
    )
    assert shop.credits(account) == {}
    assert shop.money(account) == []


def test_fifty_deliveries_at_once_have_one_effect(shop: world.World, account: str) -> None:
    statuses = shop.at_once(world.event("checkout.session.completed", world.session(account)), 50)
    assert statuses == [200] * 50
    assert shop.credits(account) == {"default": 2500}
    assert shop.money(account) == [("package", "starter", "19.00 USD")]


def test_three_partial_refunds_take_back_exactly_all_of_it(shop: world.World, account: str) -> None:
    payment = world.new_id("pi")
    shop.deliver(
        world.event(
            "payment_intent.succeeded", world.payment_intent(payment, account_id=account, package="odd", units=7)
        )
    )
    assert shop.credits(account) == {"default": 10.000001}
    left: list[float] = []
    for refunded in (2, 4, 7):
        shop.deliver(world.event("charge.refunded", world.charge(payment, units=7, refunded=refunded)))
        left.append(shop.credits(account).get("default", 0))
    # What is taken is rounded down: 2/7 of 10.000001 is 2.857143142…
    assert left == [7.142858, 4.285715, 0]
    assert shop.money(account) == [
        ("package", "odd", "0.07 USD"),
        ("package", "odd", "-0.02 USD"),
        ("package", "odd", "-0.02 USD"),
        ("package", "odd", "-0.03 USD"),
    ]


def test_a_refund_that_failed_gives_the_credits_back(shop: world.World, account: str) -> None:
    payment = world.new_id("pi")
    back = world.refund(payment, 950)
    shop.deliver(
        world.event("payment_intent.succeeded", world.payment_intent(payment, account_id=account)),
        world.event("refund.created", back | {"status": "pending"}),
        world.event("charge.refunded", world.charge(payment, refunded=950)),
    )
    assert shop.credits(account) == {"default": 1250}
    shop.deliver(world.event("refund.failed", back | {"status": "failed"}))
    assert shop.credits(account) == {"default": 2500}


def test_a_refund_after_the_credits_were_spent_leaves_a_debt(shop: world.World) -> None:
    account = shop.account(plan_id="free")
    payment = world.new_id("pi")
    shop.deliver(world.event("payment_intent.succeeded", world.payment_intent(payment, account_id=account)))
    assert shop.credits(account) == {"default": 2510}
    shop.product.charge(account, credits=2000)
    shop.deliver(world.event("charge.refunded", world.charge(payment, refunded=1900)))
    assert shop.credits(account) == {"default": -1990}


def test_a_sale_for_an_account_that_comes_later_waits_for_it(shop: world.World) -> None:
    account = f"later-{world.new_id('x')}"
    paid = world.event("checkout.session.completed", world.session(account))
    assert shop.send(paid) == 202
    (entry,) = shop.entries(paid["id"])
    assert (entry["state"], entry["error"]) == ("pending", f"account_id: there is no account {account} (yet)")
    shop.product.open(account, plan_id="endless")
    assert shop.send(paid) == 200
    assert shop.credits(account) == {"default": 2500}
    (entry,) = shop.entries(paid["id"])
    assert (entry["state"], entry["attempts"], entry["deliveries"]) == ("done", 2, 2)


def test_a_price_below_the_catalogs_grants_nothing(shop: world.World, account: str) -> None:
    paid = world.event("checkout.session.completed", world.session(account, units=100))
    assert shop.send(paid) == 202
    assert shop.credits(account) == {}


def test_what_another_tenant_sells_is_left_alone(shop: world.World, account: str) -> None:
    metadata = {"meterd_tenant": "another", "meterd_account": account, "meterd_package": "starter"}
    shop.deliver(world.event("checkout.session.completed", world.session(account, metadata=metadata)))
    assert shop.credits(account) == {}
