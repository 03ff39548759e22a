"""Complete stories, whose events come in any order, several times, and after having been lost: every order ends in the same balances.

In between, no customer has more than what was heard of allows. tests/integration/test_stripe_prefixes.py looks at each of many more orders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import hypothesis
import pytest
from hypothesis import strategies

from tests.acceptance import installation, stripe_stories
from tests.acceptance import stripe_world as world

# The stories are told to real processes, over a real wire.
ORDERS = hypothesis.settings(
    max_examples=3, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
# Accounts that each hear the story in an order of their own, before anybody waits for their balances.
LISTENERS = 3
# What the plan of those without one brings, and a subscription takes away.
FREE_CREDITS = 10
# What may be had of what was heard, in micro-credits.
Allowed = Callable[[Sequence[world.Document]], dict[str, int]]


@pytest.fixture(scope="module")
def shop(shared: installation.Installation) -> Iterator[world.World]:
    with world.opened(shared, "stories", stripe_freeze_disputed="true") as made:
        yield made


# What is left, and whether the account is frozen.
STORIES: dict[str, tuple[stripe_stories.Story, dict[str, float], bool]] = {
    "checkout": (stripe_stories.checkout, {"default": 2500}, False),
    "payment intent": (stripe_stories.intent, {"default": 2500}, False),
    # 1300 of 1900 went back: 1368.421052… of 2000 and 342.105263… of 500, each rounded down.
    "three refunds": (stripe_stories.three_refunds, {"default": 2500 - 1368.421052 - 342.105263}, False),
    "refund of all": (stripe_stories.refund_of_all, {}, False),
    "dispute won": (stripe_stories.dispute_won, {"default": 2500}, False),
    "dispute lost": (stripe_stories.dispute_lost, {}, True),
}


@pytest.mark.parametrize("name", STORIES)
@hypothesis.given(data=strategies.data())
@ORDERS
def test_every_order_ends_in_the_same_balance(shop: world.World, name: str, data: strategies.DataObject) -> None:
    tell, expected, frozen = STORIES[name]
    # On a plan that gives nothing.
    stories = {account: tell(account) for account in (shop.account(plan_id="endless") for _ in range(LISTENERS))}
    _tell(shop, stories, data, stripe_stories.paid_for, spare=0)
    for account in stories:
        assert shop.credits(account) == pytest.approx(expected, abs=1e-9)
        (row,) = shop.made.sql("SELECT frozen FROM accounts WHERE account_id = $1", account)
        assert row["frozen"] is frozen


def _tell(
    shop: world.World,
    stories: dict[str, list[world.Document]],
    data: strategies.DataObject,
    allowed: Allowed,
    spare: int,
) -> None:
    """Each account hears its story in an order of its own, and is looked at in the middle of it. `spare` credits it may have besides."""
    rest: dict[str, list[world.Document]] = {}
    heard: dict[str, list[world.Document]] = {}
    for account, story in stories.items():
        order = _order(story, data)
        middle = data.draw(strategies.integers(1, len(order) - 1))
        heard[account], rest[account] = order[:middle], order[middle:]
        shop.deliver(*heard[account])
    for account, found in heard.items():
        limits = {wallet: micros / 1e6 for wallet, micros in allowed(found).items()}
        for wallet, amount in shop.credits(account).items():
            assert amount <= limits.get(wallet, 0) + spare + 1e-9, (account, [one["type"] for one in found])
    for found in rest.values():
        shop.deliver(*found)


def _order(story: list[world.Document], data: strategies.DataObject) -> list[world.Document]:
    """Any order, some of them again in between; those that were lost come at the end, as Stripe's redelivery does."""
    order = data.draw(strategies.permutations(range(len(story))))
    again = data.draw(strategies.lists(strategies.sampled_from(range(len(story))), max_size=4))
    lost = data.draw(strategies.sets(strategies.sampled_from(range(len(story))), max_size=3))
    places = [place for place in (*order, *again) if place not in lost]
    return [story[place] for place in (*places, *sorted(lost))]


@hypothesis.given(data=strategies.data())
@ORDERS
def test_a_life_of_a_subscription_ends_in_the_same_balance(shop: world.World, data: strategies.DataObject) -> None:
    accounts = [shop.account() for _ in range(LISTENERS)]
    stories = {account: stripe_stories.life_of_a_subscription(account) for account in accounts}
    _tell(shop, stories, data, stripe_stories.subscribed_for, spare=FREE_CREDITS)
    for account, story in stories.items():
        _check_life(shop, account, story)


def _check_life(shop: world.World, account: str, story: list[world.Document]) -> None:
    """3000 of the plan that was paid, and what the upgrade brings for the rest of the month that ends with the period."""
    end_s = story[-1]["data"]["object"]["items"]["data"][0]["current_period_end"]
    pro, elite, forecast = (share / 1e6 for share in stripe_stories.shares_micros(end_s))
    assert shop.credits(account) == pytest.approx({"default": 3000 + elite - pro, "forecast": forecast}, abs=1e-9)
    found = shop.product.subscription(account)
    assert (found.plan.plan_id, found.cancel_at_period_end) == ("elite", True)
    assert sorted(amount for _, _, amount in shop.money(account)) == ["13.30 USD", *["19.00 USD"] * 4]


@hypothesis.given(data=strategies.data())
@ORDERS
def test_a_subscription_that_is_ended_at_once_leaves_the_free_plan(
    shop: world.World, data: strategies.DataObject
) -> None:
    accounts = [shop.account(plan_id="free") for _ in range(LISTENERS)]
    stories = {account: stripe_stories.canceled_at_once(account) for account in accounts}
    _tell(shop, stories, data, stripe_stories.subscribed_for, spare=FREE_CREDITS)
    for account in accounts:
        assert shop.credits(account) == {"default": FREE_CREDITS}
