"""Every order of a short story and many of a long one: after each event the ledger has what is paid for, no more, no less.

A real Postgres; at the end a real server brings it all to a real Redis. The acceptance tests tell the same stories to real processes.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest
import pytest_asyncio

from meterd.billing import events, inbox
from meterd.postgres import catalog, catalogs, pool
from meterd.pricing import catalog_file
from meterd_client.v1 import accounts_pb2
from tests.acceptance import stripe_stories
from tests.acceptance import stripe_world as world
from tests.integration import serving

TENANT = "acme"
# Stories of up to so many events are told in every order; of longer ones in so many orders that this many events are told.
ALL_ORDERS_EVENTS_MAX, TOLD_EVENTS = 4, 250
# Who has ended a subscription, and was on its plan before, is on the catalog's plan for those without one.
FREE_MICROS = 10_000_000
Allowed = Callable[[Sequence[world.Document]], dict[str, int]]

STORIES: dict[str, tuple[stripe_stories.Story, Allowed]] = {
    "checkout": (stripe_stories.checkout, stripe_stories.paid_for),
    "payment intent": (stripe_stories.intent, stripe_stories.paid_for),
    "three refunds": (stripe_stories.three_refunds, stripe_stories.paid_for),
    "refund of all": (stripe_stories.refund_of_all, stripe_stories.paid_for),
    "dispute won": (stripe_stories.dispute_won, stripe_stories.paid_for),
    "dispute lost": (stripe_stories.dispute_lost, stripe_stories.paid_for),
    "life of a subscription": (stripe_stories.life_of_a_subscription, stripe_stories.subscribed_for),
    "canceled at once": (stripe_stories.canceled_at_once, stripe_stories.subscribed_for),
}


class _Shop:
    """The inbox of a tenant."""

    def __init__(self, dsn: str, redis_url: str, connections: pool.asyncpg.Pool) -> None:
        self.dsn, self.redis_url, self.connections = dsn, redis_url, connections
        self.accounts = catalog.Catalog(connections, partitions=4)
        self.box = inbox.Inbox(
            connections, tenant_id=TENANT, freezes=True, at_stripe=None, clock_ms=lambda: serving.now_ms()
        )

    async def account(self, name: str) -> str:
        new = catalog.NewAccount(tenant_id=TENANT, account_id=name)
        await self.accounts.create_account(new)
        return name

    async def hear(self, document: world.Document) -> None:
        body = world.body_of(document)
        assert await self.box.receive(events.parse(body), body) in ("done", "pending")

    async def ledger(self, account: str) -> tuple[dict[str, int], bool]:
        """What Stripe's events have brought and not taken back again, by wallet, in micro-credits; and whether the account is frozen."""
        rows = await self.connections.fetch(
            """WITH owner AS (SELECT account_no FROM accounts WHERE account_id = $1)
            SELECT wallet, sum(micros)::bigint AS micros FROM (
                SELECT wallet, amount_micros AS micros FROM grants AS g JOIN owner USING (account_no)
                WHERE source_id ~ '^(pi|sub)_' AND NOT EXISTS (SELECT FROM revocations AS r WHERE r.grant_id = g.grant_id)
                UNION ALL SELECT wallet, -amount_micros FROM claw_backs JOIN owner USING (account_no)
            ) AS moved GROUP BY wallet HAVING sum(micros) <> 0""",
            account,
        )
        frozen = await self.connections.fetchval("SELECT frozen FROM accounts WHERE account_id = $1", account)
        return {row["wallet"]: row["micros"] for row in rows}, frozen


@pytest_asyncio.fixture
async def shop(database: str, redis_url: str) -> AsyncIterator[_Shop]:
    connections = await pool.create(database)
    await catalog.Catalog(connections, partitions=4).create_tenant(TENANT)
    await catalogs.apply(connections, TENANT, catalog_file.parsed(world.CATALOG))
    yield _Shop(database, redis_url, connections)
    await connections.close()


def _orders(name: str, count: int) -> Iterator[list[int]]:
    """Places in the story: every order of a short one; else some, among them the right one and its reverse, with repeats."""
    if count <= ALL_ORDERS_EVENTS_MAX:
        yield from (list(order) for order in itertools.permutations(range(count)))
        return
    drawn = random.Random(name)
    yield list(range(count))
    yield list(range(count))[::-1]
    for _ in range(TOLD_EVENTS // count - 2):
        order = drawn.sample(range(count), count)
        for _ in range(drawn.randrange(3)):
            # Delivered again, later than the first time.
            again = drawn.randrange(count)
            order.insert(drawn.randrange(again + 1, len(order) + 1), order[again])
        yield order


@pytest.mark.parametrize("name", STORIES)
async def test_after_each_event_the_ledger_has_what_is_paid_for(shop: _Shop, name: str) -> None:
    tell, allowed = STORIES[name]
    expected: dict[str, dict[str, int]] = {}
    count = len(tell("nobody"))
    for number, order in enumerate(_orders(name, count)):
        account = await shop.account(f"a-{number}")
        story, heard = tell(account), list[world.Document]()
        for place in order:
            await shop.hear(story[place])
            heard.append(story[place])
            frozen = _is_paid(heard) and stripe_stories.is_disputed(heard)
            assert await shop.ledger(account) == (allowed(heard), frozen), [one["type"] for one in heard]
        expected[account] = allowed(heard)
    await _check_balances(shop, expected, free_micros=FREE_MICROS if name == "canceled at once" else 0)


def _is_paid(heard: Sequence[world.Document]) -> bool:
    return any(one["type"] == "payment_intent.succeeded" for one in heard)


async def _check_balances(shop: _Shop, expected: dict[str, dict[str, int]], *, free_micros: int) -> None:
    """What customers can spend is the same, once a server has brought it to Redis."""
    key = (await serving.new_key(shop.dsn, TENANT, "admin")).key
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serving.running(serving.settings_of(shop.dsn, shop.redis_url, workers=True))
        )
        client = server.client(key)
        for account, left in expected.items():
            await serving.eventually(lambda name=account: client.is_fresh(name))
            found = await client.call("GetBalance", accounts_pb2.GetBalanceRequest(account_id=account))
            has = {one.wallet: one.available_micros for one in found.wallets if one.available_micros}
            assert has in (left, {"default": free_micros} if free_micros else left), account
