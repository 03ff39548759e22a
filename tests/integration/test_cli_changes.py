"""`meterd account update`, `update-subscription`, `subscribe --proration` and `top-up` on a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import click.testing
import pytest_asyncio

from meterd.cli import accounts as commands
from meterd_client.v1 import accounts_pb2, catalog_pb2
from tests.integration import serving

CATALOG = """
currency: usd
packages: {small: {credits: 50, price: 5}}
plans:
  basic: {price: 9, period: 30_days, allowances: {default: 100}}
  pro: {price: 29, period: 30_days, allowances: {default: 3000}}
"""


class Shell:
    """Runs `meterd account …` against a server."""

    def __init__(self, server: serving.Server, key: str) -> None:
        self._options = ["--server", server.address, "--key", key]

    async def run(self, *arguments: str, code: int = 0) -> str:
        runner = click.testing.CliRunner()
        result = await asyncio.to_thread(runner.invoke, commands.account, [*arguments, *self._options])
        assert result.exit_code == code, result.output
        return result.output

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self.run(*arguments, "--json"))


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def shell(scene: serving.Scene) -> AsyncIterator[Shell]:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=True)) as server:
        client = server.client(scene.key)
        await client.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=CATALOG))
        await client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="org"))
        yield Shell(server, scene.key)


async def test_update_changes_what_is_given_and_leaves_the_rest(shell: Shell) -> None:
    changed = await shell.json("update", "org", "--overage", "overdraft", "--overdraft-limit", "2.5", "--frozen")
    assert changed["projected"] is True
    changed = await shell.json("update", "org", "--strict-expiry", "--not-frozen")
    account = changed["account"]
    assert (account["overage_policy"], account["overdraft_limit_micros"]) == ("OVERAGE_POLICY_OVERDRAFT", "2500000")
    assert (account["strict_expiry"], account["frozen"]) == (True, False)
    text = await shell.run("update", "org", "--no-strict-expiry", "--overdraft-limit", "0")
    assert "overdraft" in text and "yes" not in text
    assert "nothing to change" in await shell.run("update", "org", code=2)
    assert "no such account" in await shell.run("update", "nobody", "--frozen", code=1)


async def test_update_subscription_tells_of_a_missing_payment_and_of_one_that_came(shell: Shell) -> None:
    await shell.run("subscribe", "org", "basic")
    assert "past_due" in await shell.run("update-subscription", "org", "--past-due")
    paid = await shell.json("update-subscription", "org", "--paid")
    assert paid["subscription"]["status"] == "STATUS_ACTIVE"
    assert "Missing option" in await shell.run("update-subscription", "org", code=2)


async def test_subscribe_with_proration_keeps_the_periods_end(shell: Shell) -> None:
    first = await shell.json("subscribe", "org", "basic")
    second = await shell.json("subscribe", "org", "pro", "--proration", "credits")
    third = await shell.json("subscribe", "org", "pro")
    ends = [answer["subscription"]["period_end"] for answer in (first, second, third)]
    assert ends[0] == ends[1] < ends[2]


async def test_a_top_up_is_set_shown_and_deleted(shell: Shell) -> None:
    text = await shell.run("top-up", "set", "org", "small", "--below", "10", "--per-month", "2")
    assert text == "The top-up is set.\nRequests this month: 1 of 2.\n"
    text = await shell.run("top-up", "set", "org", "small", "--below", "10", "--per-month", "2")
    assert text.startswith("The top-up was so already.")
    shown = await shell.json("top-up", "show", "org")
    assert (shown["package_id"], shown["threshold_micros"], shown["requested_this_month"]) == ("small", "10000000", 1)
    assert "1 of 2" in await shell.run("top-up", "show", "org")
    assert await shell.run("top-up", "delete", "org") == "The top-up is deleted.\n"
    assert await shell.run("top-up", "delete", "org") == "There was none.\n"
    assert await shell.json("top-up", "show", "org") is None
