"""Periods that turn, on real stores and with a clock that the test sets: run twice, late, or by many servers at once."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import asyncpg
import pytest_asyncio

from meterd.core import catalog as offers
from meterd.core import ids, periods
from meterd.meter import renewals, subscriptions
from meterd.postgres import catalog, movements, pool, sql
from meterd.server import engine
from meterd_client.v1 import accounts_pb2, catalog_pb2
from tests.integration import serving

CATALOG = """
currency: usd
plans:
  pro: {name: Pro, price: 19, period: 30_days, allowances: {leads: %d, general: 20}}
  free: {name: Free, price: 0, period: 30_days, allowances: {general: 1}}
account: {plan: free}
"""
CREDIT = 1_000_000
Row = tuple[str, int, int, bool]


class World:
    """A server that takes the calls, and renewers on other engines, all of which see the time that is set."""

    def __init__(self, scene: serving.Scene, client: serving.Client, engines: list[engine.Engine]) -> None:
        self.scene, self.client, self.engines = scene, client, engines
        self.started_ms = serving.now_ms()
        self.now_ms = self.started_ms

    def renewer(self, at: int = 0) -> renewals.Renewer:
        made = self.engines[at]
        plans = subscriptions.Subscriptions(
            connections=made.connections, catalogs_=made.catalogs, reach_=made.reach, clock_ms=lambda: self.now_ms
        )
        return renewals.Renewer(
            made.connections,
            subscriptions_=plans,
            movements_=made.movements,
            catalogs_=made.catalogs,
            clock_ms=lambda: self.now_ms,
        )

    async def at_day(self, days: float) -> None:
        """Sets the time, counted from the start, and lets a renewer do what is due."""
        self.now_ms = self.started_ms + round(days * periods.DAY_MS)
        await self.renewer().round()

    async def allowances(self, wallet: str = "general", account_id: str = "org") -> list[Row]:
        """Source without the subscription's id, credits, day of its beginning, and whether it was revoked, of each allowance."""
        rows = await self.engines[0].connections.fetch(
            """SELECT regexp_replace(g.source_id, ':.*:', ':') AS source, g.amount_micros, meterd_ms(g.effective_at) AS at_ms,
                EXISTS (SELECT FROM revocations AS r WHERE r.grant_id = g.grant_id) AS revoked
            FROM grants AS g JOIN accounts AS a USING (account_no)
            WHERE a.account_id = $1 AND g.wallet = $2 AND g.category = 3 ORDER BY g.change_no""",
            account_id,
            wallet,
        )
        return [(row[0], row[1] // CREDIT, round((row[2] - self.started_ms) / periods.DAY_MS), row[3]) for row in rows]

    async def subscription(self) -> accounts_pb2.Subscription:
        got = await self.client.call("GetSubscription", accounts_pb2.GetSubscriptionRequest(account_id="org"))
        return got.subscription

    async def proven(self) -> list[str]:
        await serving.eventually(lambda: self.client.is_fresh("org"))
        return await serving.findings(self.scene.dsn, self.scene.redis_url)


@contextlib.asynccontextmanager
async def started(settings: Any) -> AsyncGenerator[engine.Engine]:
    stop = asyncio.Event()
    made = await engine.opened(settings, stop)
    assert made is not None
    try:
        await made.start(stop, workers=False)
        yield made
    finally:
        await made.close()


@pytest_asyncio.fixture
async def world(database: str, redis_url: str) -> AsyncIterator[World]:
    scene = await serving.scene(database, redis_url)
    # The server's own renewer sees the real time, at which nothing is due.
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=True))
        )
        client = server.client(scene.key)
        await client.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=CATALOG % 50))
        settings = serving.settings_of(scene.dsn, scene.redis_url)
        engines = [await stack.enter_async_context(started(settings)) for _ in range(3)]
        made = World(scene, client, engines)
        await client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="org", plan_id="pro"))
        yield made


async def test_the_next_period_is_granted_a_day_ahead_and_once_by_however_many_servers(world: World) -> None:
    await world.at_day(28.9)
    assert await world.allowances() == [("subscription:1", 20, 0, False)]
    world.now_ms = world.started_ms + round(29.5 * periods.DAY_MS)
    await asyncio.gather(*(world.renewer(at % 3).round() for at in range(12)))
    expected = [("subscription:1", 20, 0, False), ("subscription:2", 20, 30, False)]
    assert await world.allowances() == expected
    # It is in Redis already, and cannot be spent before its time.
    found = await world.client.call("GetBalance", accounts_pb2.GetBalanceRequest(account_id="org"))
    general = next(wallet for wallet in found.wallets if wallet.wallet == "general")
    assert [grant.available_micros for grant in general.grants] == [20 * CREDIT, 0]
    await world.at_day(30.1)
    await world.at_day(30.2)
    assert await world.allowances() == expected
    assert (await world.subscription()).period_no == 2
    assert await world.proven() == []


async def test_workers_that_were_away_for_months_grant_the_present_period_alone(world: World) -> None:
    await asyncio.gather(*(world.at_day(95) for _ in range(5)))
    assert await world.allowances() == [("subscription:1", 20, 0, False), ("subscription:4", 20, 90, False)]
    assert await world.proven() == []


async def test_a_price_change_reaches_old_subscribers_with_their_renewal(world: World) -> None:
    await world.client.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=CATALOG % 70))

    async def heard() -> bool:
        plan = world.engines[0].catalogs.of("acme").plan("pro")
        return plan is not None and plan.allowances[-1].amount_micros + plan.allowances[0].amount_micros == 90 * CREDIT

    await serving.eventually(heard)
    await world.at_day(15)
    assert [row[1] for row in await world.allowances("leads")] == [50]
    await world.at_day(31)
    assert [row[1] for row in await world.allowances("leads")] == [50, 70]


async def test_what_was_granted_ahead_is_taken_back_where_the_subscription_does_not_renew(world: World) -> None:
    await world.at_day(29.5)
    plans = world.engines[0].subscriptions
    cancel = accounts_pb2.CancelSubscriptionRequest(account_id="org")
    for _ in range(2):
        await plans.cancel_subscription("acme", cancel)
    revoked = [("subscription:1", 20, 0, False), ("subscription:2", 20, 30, True)]
    assert await world.allowances() == revoked
    await world.at_day(30.5)
    assert await world.allowances() == [*revoked, ("subscription:1", 1, 30, False)]
    assert (await world.subscription()).plan.plan_id == "free"
    assert await world.proven() == []


async def test_a_payment_that_comes_late_brings_the_period_that_was_withheld(world: World) -> None:
    await world.at_day(29.5)
    plans = world.engines[0].subscriptions
    for past_due in (True, True, False):
        await plans.update_subscription(
            "acme", accounts_pb2.UpdateSubscriptionRequest(account_id="org", past_due=past_due)
        )
    await world.at_day(29.6)
    expected = [
        ("subscription:1", 20, 0, False),
        ("subscription:2", 20, 30, True),
        ("subscription:2", 20, 30, False),
    ]
    assert await world.allowances() == expected
    assert await world.proven() == []


async def test_an_allowance_that_does_not_fit_waits_and_does_not_stop_the_others(world: World) -> None:
    await world.client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="full", plan_id="pro"))
    connection = await asyncpg.connect(world.scene.dsn)
    try:
        # As if the wallet had as many grants as it may.
        await connection.execute("UPDATE accounts SET promised_micros = 9007199254740991 WHERE account_id = 'full'")
        world.now_ms = world.started_ms + 31 * periods.DAY_MS
        renewer = world.renewer()
        await renewer.round()
        assert renewer.stats().failed == 1
        assert len(await world.allowances()) == 2
        assert len(await world.allowances(account_id="full")) == 1
        await connection.execute("UPDATE accounts SET promised_micros = 140000000 WHERE account_id = 'full'")
        world.now_ms += renewals.POSTPONE_MS
        await renewer.round()
        assert len(await world.allowances(account_id="full")) == 2
    finally:
        await connection.close()


# $5 times, the last one at $2 and the others a second apart before it.
_CHARGE = """
    INSERT INTO ledger SELECT account_no, tenant_id, at, 'H', gen_random_uuid(), '', 1, $5 - g + 1, at, at, 0, '1-0',
        'default', 0, 0, $3, 0, 0, 0, 0, '{}', '{}', '{}', 0, 0, 0, 0, 0, $4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0,
        NULL, NULL, NULL, '', ''
    FROM accounts, generate_series($5, 1, -1) AS g, LATERAL (SELECT $2::timestamptz - make_interval(secs => g - 1)) AS t (at)
    WHERE account_id = $1
"""
_TRANSFER = 6


async def test_achievers_are_looked_for_among_those_who_were_charged_lately(database: str) -> None:
    connections = await pool.create(database)
    made = catalog.Catalog(connections, partitions=64)
    await made.create_tenant("acme")
    now = datetime.datetime.now(datetime.UTC)
    for name, ago_s, spent, overage, count in (
        ("early", 60 * 60, 100, 0, 20_000),
        ("late", 0, 100, 0, 1),
        ("poor", 0, 99, 0, 1),
        ("giver", 0, 100, _TRANSFER, 1),
    ):
        await made.create_account(catalog.NewAccount(tenant_id="acme", account_id=name))
        at = now - datetime.timedelta(seconds=ago_s)
        await connections.execute(_CHARGE, name, at, spent, overage, count)
        await connections.execute("UPDATE accounts SET spent_micros = $2 WHERE account_id = $1", name, spent)
    reward = offers.Reward(reward_id="spent", name="", amount_micros=1, kind=offers.ONCE, lifetime_spent_micros=100)
    assert sorted(await movements.reached(connections, "acme", reward, count_max=9)) == ["early", "late"]
    assert await movements.reached(connections, "acme", reward, count_max=9, within_s=60) == ["late"]
    # Whatever the tenant's size, only what is young is read.
    await connections.execute("ANALYZE ledger")
    async with pool.as_tenant(connections, "acme") as connection:
        query = f"EXPLAIN {sql.read('plans')['reached_lately']}"
        plan = [line[0] for line in await connection.fetch(query, "acme", 100, "spent", 9, 60.0)]
    assert any("flushed_at_idx" in line for line in plan), plan
    await connections.close()


async def test_missing_gifts_are_looked_for_among_the_transfers_of_the_last_seconds(database: str) -> None:
    connections = await pool.create(database)
    made = catalog.Catalog(connections, partitions=64)
    await made.create_tenant("acme")
    now = datetime.datetime.now(datetime.UTC)
    for name, ago_s, overage, count in (
        ("early", 60 * 60, _TRANSFER, 5_000),
        ("late", 0, _TRANSFER, 2),
        ("user", 0, 0, 20_000),
    ):
        await made.create_account(catalog.NewAccount(tenant_id="acme", account_id=name))
        at = now - datetime.timedelta(seconds=ago_s)
        await connections.execute(_CHARGE, name, at, 5, overage, count)
    since_ms = serving.now_ms() - renewals.TRANSFERS_SINCE_MS
    assert len(await movements.ungifted(connections, since_ms=since_ms, count_max=9_000)) == 5_002
    found = await movements.ungifted(connections, since_ms=since_ms, count_max=9_000, within_s=60)
    assert {one.address for one in found} == {ids.account_address("acme", "late")} and len(found) == 2
    # However many calls and transfers there were, only young transfers are read.
    await connections.execute("ANALYZE ledger")
    query = f"EXPLAIN {sql.read('plans')['ungifted_lately']}"
    plan = [line[0] for line in await connections.fetch(query, since_ms, "", 100, 60.0)]
    # The second index on flushed_at: the first has all records.
    assert any("flushed_at_idx1" in line for line in plan), plan
    await connections.close()
