"""`meterd stripe sync` as a command, on a real Postgres, with a Stripe in its own process that checks what it is sent."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import asyncpg
import click.testing
import pytest
import pytest_asyncio

from meterd.cli import stripe as stripe_cli
from meterd.core import catalog
from meterd.postgres import catalog as stored
from meterd.postgres import catalogs, pool
from meterd.pricing import catalog_file
from tests import stripe_fake

CATALOG = """
currency: eur
packages:
  starter: {name: Starter, credits: 1000, price: 9}
  growth: {name: Growth, credits: 6000, price: %s}
  gone: {credits: 1, price: 1, active: false}
plans:
  free: {price: 0}
  pro: {name: Pro, price: 19}
  yearly: {name: Pro, price: 190, interval: year}
"""


class Desk:
    """Tenant "acme" with a catalog, the command, and what Stripe has."""

    def __init__(self, dsn: str, connections: asyncpg.Pool, stripe: stripe_fake.Stripe) -> None:
        self._dsn, self._connections, self.stripe = dsn, connections, stripe

    async def apply(self, document: str) -> None:
        await catalogs.apply(self._connections, "acme", catalog_file.parsed(document))

    async def sold(self) -> catalog.Catalog:
        return (await catalogs.latest(self._connections, "acme")).catalog

    def sync(self, *options: str, key: str = stripe_fake.KEY, **environment: str) -> click.testing.Result:
        variables = {name: None for name in os.environ if name.startswith("METERD_")}
        variables |= {"METERD_STRIPE_API_KEY": key, "METERD_STRIPE_API_BASE": self.stripe.url, **environment}
        arguments = ["sync", "--tenant", "acme", "--postgres", self._dsn, *options]
        return click.testing.CliRunner().invoke(stripe_cli.stripe, arguments, env=variables)

    def steps(self, *options: str) -> dict[str, str]:
        """What a dry run says is to be done."""
        result = self.sync("--dry-run", "--json", *options)
        assert result.exit_code == 0, result.output
        return {item["id"]: item["step"] for item in json.loads(result.stdout)["items"]}

    def prices(self, *, active: bool = True) -> dict[str, dict[str, Any]]:
        return {one["id"]: one for one in self.stripe.objects("price") if one["active"] is active}

    def posts(self) -> int:
        return len(self.stripe.requests("POST"))


@pytest.fixture
def stripe() -> Iterator[stripe_fake.Stripe]:
    with stripe_fake.running() as made:
        yield made


@pytest_asyncio.fixture
async def desk(database: str, stripe: stripe_fake.Stripe) -> Any:
    connections = await pool.create(database)
    await stored.Catalog(connections, partitions=4).create_tenant("acme")
    made = Desk(database, connections, stripe)
    await made.apply(CATALOG % 49)
    yield made
    await connections.close()


def in_thread(call: Any, *arguments: Any, **options: Any) -> Any:
    """The command has a loop of its own."""
    return asyncio.to_thread(call, *arguments, **options)


async def test_a_dry_run_shows_what_would_change_and_changes_nothing(desk: Desk) -> None:
    before = await desk.sold()
    result = await in_thread(desk.sync, "--dry-run")
    assert result.exit_code == 0, result.output
    for text in ("package starter", "9.00 eur", "plan yearly", "190.00 eur a year", "new price", "gone, free"):
        assert text in result.output, text
    assert desk.posts() == 0
    assert await desk.sold() == before


async def test_nothing_is_done_unless_somebody_agrees(desk: Desk) -> None:
    result = await in_thread(desk.sync)
    assert result.exit_code == 2
    assert "nobody is there to agree" in result.output
    assert desk.posts() == 0


async def test_products_and_prices_are_made_and_their_ids_written_into_the_catalog(desk: Desk) -> None:
    result = await in_thread(desk.sync, "--yes")
    assert result.exit_code == 0, result.output
    sold, prices = await desk.sold(), desk.prices()
    named = {item.package_id: item.stripe_price for item in sold.packages}
    named |= {item.plan_id: item.stripe_price for item in sold.plans}
    assert (named["gone"], named["free"]) == ("", "")
    found = {name: prices[price_id] for name, price_id in named.items() if price_id}
    amounts = {name: (one["unit_amount"], one["currency"], one["recurring"]) for name, one in found.items()}
    assert amounts == {
        "starter": (900, "eur", None),
        "growth": (4900, "eur", None),
        "pro": (1900, "eur", {"interval": "month", "interval_count": 1}),
        "yearly": (19000, "eur", {"interval": "year", "interval_count": 1}),
    }
    assert [one["name"] for one in desk.stripe.objects("product")] == ["Starter", "Growth", "Pro", "Pro"]
    assert f"Catalog {sold.version} is in force" in result.output


async def test_a_repeat_changes_nothing(desk: Desk) -> None:
    assert (await in_thread(desk.sync, "--yes")).exit_code == 0
    sold, told = await desk.sold(), desk.posts()
    result = await in_thread(desk.sync, "--yes")
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "Nothing to change.")
    assert (await desk.sold(), desk.posts()) == (sold, told)


async def test_a_changed_price_becomes_a_new_one_and_the_old_one_is_archived(desk: Desk) -> None:
    await in_thread(desk.sync, "--yes")
    old = (await desk.sold()).packages[1].stripe_price
    product = desk.prices()[old]["product"]
    desk.stripe.change(product, default_price=old)
    await desk.apply((CATALOG % 59).replace("price: 59", f"price: 59, stripe_price: {old}"))
    assert (await in_thread(desk.steps))["growth"] == "replace"
    assert (await in_thread(desk.sync, "--yes")).exit_code == 0
    new = (await desk.sold()).packages[1].stripe_price
    assert (desk.prices()[new]["unit_amount"], desk.prices()[new]["product"]) == (5900, product)
    assert list(desk.prices(active=False)) == [old]
    assert (await in_thread(desk.sync, "--dry-run")).output.splitlines()[-1] == "Nothing to change."


async def test_ids_that_a_file_does_not_have_are_found_again(desk: Desk) -> None:
    await in_thread(desk.sync, "--yes")
    sold = await desk.sold()
    await desk.apply(CATALOG % 49)
    assert set((await in_thread(desk.steps)).values()) == {"match"}
    told = desk.posts()
    assert (await in_thread(desk.sync, "--yes")).exit_code == 0
    assert (await desk.sold(), desk.posts()) == (sold, told)


async def test_a_price_that_comes_back_after_another_is_a_new_one(desk: Desk) -> None:
    for price, archived in ((49, 0), (59, 1), (49, 2)):
        await desk.apply(CATALOG % price)
        assert (await in_thread(desk.sync, "--yes")).exit_code == 0
        named = desk.prices()[(await desk.sold()).packages[1].stripe_price]
        assert (named["unit_amount"], len(desk.prices(active=False))) == (price * 100, archived)


async def test_somebody_elses_price_is_taken_as_it_is(desk: Desk) -> None:
    product = desk.stripe.make("prod", "product", name="Starter", active=True)
    price = desk.stripe.make(
        "price", "price", product=product["id"], unit_amount=900, currency="eur", recurring=None, active=True
    )
    await desk.apply((CATALOG % 49).replace("price: 9}", f"price: 9, stripe_price: {price['id']}}}"))
    assert (await in_thread(desk.steps))["starter"] == "keep"
    assert (await in_thread(desk.sync, "--yes")).exit_code == 0
    assert (await desk.sold()).packages[0].stripe_price == price["id"]
    assert desk.stripe.objects("product")[0] == product


async def test_a_sync_that_lost_its_line_is_completed_by_the_next(desk: Desk) -> None:
    # The library tries three times.
    for _ in range(3):
        desk.stripe.fault("POST prices", "cut_after")
    result = await in_thread(desk.sync, "--yes")
    assert (result.exit_code, (await desk.sold()).packages[0].stripe_price) == (3, "")
    assert (await in_thread(desk.sync, "--yes")).exit_code == 0
    assert len(desk.prices()) == 4
    assert (await in_thread(desk.sync, "--dry-run")).output.splitlines()[-1] == "Nothing to change."


@pytest.mark.parametrize(
    ("key", "environment", "status", "message"),
    [
        ("", {}, 2, "METERD_STRIPE_API_KEY"),
        ("sk_live_fake", {}, 2, "METERD_STRIPE_LIVEMODE has to be true"),
        ("sk_test_unknown", {}, 1, "the API key is not valid"),
        ("sk_test_fake", {"METERD_STRIPE_API_BASE": "http://127.0.0.1:1"}, 3, "Stripe cannot be reached"),
    ],
)
async def test_what_keeps_it_from_working_is_told(
    desk: Desk, key: str, environment: dict[str, str], status: int, message: str
) -> None:
    result = await in_thread(desk.sync, "--yes", key=key, **environment)
    assert (result.exit_code, message in result.output) == (status, True), result.output
    assert not key or key not in result.output


async def test_prices_of_what_is_not_sold_any_more_are_archived_and_come_back_with_their_item(desk: Desk) -> None:
    assert (await in_thread(desk.sync, "--yes")).exit_code == 0
    named = {one.package_id: one.stripe_price for one in (await desk.sold()).packages}
    (growth, starter) = named["growth"], named["starter"]
    own = desk.stripe.make("price", "price", product="prod_own", unit_amount=1, currency="eur", active=True)
    fewer = "{currency: eur, packages: {starter: {name: Starter, credits: 1000, price: 9, active: false}}, plans: {free: {price: 0}}}"
    await desk.apply(fewer)
    posts = desk.posts()
    shown = await in_thread(desk.sync, "--dry-run")
    assert (shown.exit_code, desk.posts()) == (0, posts)
    assert f"To be archived: {growth}, package growth, not sold any more." in shown.output
    assert (await in_thread(desk.sync, "--yes")).exit_code == 0
    assert list(desk.prices()) == [own["id"]]
    assert "Nothing to change." in (await in_thread(desk.sync, "--dry-run")).output
    await desk.apply(CATALOG % 49)
    result = await in_thread(desk.sync, "--yes")
    assert result.exit_code == 0, result.output
    again = {one.package_id: one.stripe_price for one in (await desk.sold()).packages}
    assert {again["growth"], again["starter"]} <= set(desk.prices()) - {growth, starter}


async def test_a_price_that_another_item_names_now_is_kept(desk: Desk) -> None:
    assert (await in_thread(desk.sync, "--yes")).exit_code == 0
    growth = next(one.stripe_price for one in (await desk.sold()).packages if one.package_id == "growth")
    renamed = CATALOG % f"49, stripe_price: {growth}"
    await desk.apply(renamed.replace("growth:", "bigger:"))
    assert (await in_thread(desk.sync, "--yes")).exit_code == 0
    assert growth in desk.prices()


async def test_a_default_price_that_is_not_sold_any_more_goes_with_its_product(desk: Desk) -> None:
    assert (await in_thread(desk.sync, "--yes")).exit_code == 0
    growth = next(one.stripe_price for one in (await desk.sold()).packages if one.package_id == "growth")
    product = desk.prices()[growth]["product"]
    desk.stripe.change(product, default_price=growth)
    await desk.apply((CATALOG % 49).replace("price: 49", "price: 49, active: false"))
    assert (await in_thread(desk.sync, "--yes")).exit_code == 0
    (found,) = [one for one in desk.stripe.objects("product") if one["id"] == product]
    assert not found["active"]
    assert "Nothing to change." in (await in_thread(desk.sync, "--dry-run")).output
