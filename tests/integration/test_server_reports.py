"""Reports of a running server: what calls did is what they say, over gRPC and on the command line."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import click.testing
import grpc
import pytest
import pytest_asyncio

from meterd.cli import reports as commands
from meterd.postgres import pool, purchases
from meterd_client.v1 import metering_pb2, reports_pb2, types_pb2
from tests.integration import serving

CREDITS = 10**6


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def server(scene: serving.Scene) -> AsyncIterator[serving.Server]:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=True)) as server:
        yield server


def days() -> dict[str, Any]:
    """Yesterday to tomorrow: a test may run past midnight."""
    today, one = datetime.datetime.now(datetime.UTC).date(), datetime.timedelta(days=1)
    return {"from_day": (today - one).isoformat(), "to_day": (today + one).isoformat()}


async def lived(client: serving.Client) -> str:
    """Two accounts with a life of their own, all of it in Postgres; what providers asked for it."""
    await client.fund("alice", 1_000 * CREDITS)
    await client.fund("bob", 500 * CREDITS)
    hold = await client.reserve("alice", 30 * CREDITS, subject=types_pb2.Subject(user="ann"))
    await client.call("Commit", metering_pb2.CommitRequest(hold_id=hold.hold_id, amount_micros=20 * CREDITS))
    await client.call("Release", metering_pb2.ReleaseRequest(hold_id=(await client.reserve("alice", 5)).hold_id))
    await client.reserve("bob", 7 * CREDITS)
    used = metering_pb2.ReportedUsage(usage=types_pb2.Usage(input_tokens=1_200, output_tokens=300))
    charge = metering_pb2.ModelUsage(provider="openai", model="gpt-4o-mini", usage=used)
    request = metering_pb2.ChargeRequest(
        idempotency_key=serving.new_id(),
        account_id="bob",
        model_usage=charge,
        subject=types_pb2.Subject(user="ben"),
    )
    first = await client.call("Charge", request)
    # A repeat is no second action.
    assert (await client.call("Charge", request)).replayed
    for account_id in ("alice", "bob"):
        await serving.eventually(lambda account_id=account_id: client.is_fresh(account_id))
    return first.settlement.cost_usd


async def test_reports_tell_what_the_calls_did(scene: serving.Scene, server: serving.Server) -> None:
    admin = server.client(scene.key)
    cost_usd = await lived(admin)
    client = server.client((await serving.new_key(scene.dsn, "acme", "read")).key)
    found = await client.call("Usage", reports_pb2.UsageRequest(**days(), group_by=["feature", "user"]))
    plain, model = found.rows
    assert (list(plain.group), plain.actions, plain.charged_micros) == (["credits", "ann"], 1, 20 * CREDITS)
    assert (plain.cost_usd, plain.margin_usd) == ("0", "0.02")
    assert (list(model.group), model.actions, model.input_tokens, model.output_tokens) == (
        ["model:openai/gpt-4o-mini", "ben"], 1, 1_200, 300,
    )  # fmt: skip
    assert Decimal(model.cost_usd) == Decimal(cost_usd) > 0
    assert Decimal(model.margin_usd) == Decimal(model.charged_micros) / 10**9 - Decimal(cost_usd)
    assert (found.total.actions, found.total.charged_micros) == (2, plain.charged_micros + model.charged_micros)
    top = await client.call("TopAccounts", reports_pb2.TopAccountsRequest(**days()))
    assert [(row.account_id, row.charged_micros) for row in top.rows] == [
        ("alice", 20 * CREDITS), ("bob", model.charged_micros),
    ]  # fmt: skip
    burn = await client.call("Burn", reports_pb2.BurnRequest(account_id="alice"))
    assert (burn.available_micros, burn.charged_per_day_micros, burn.days_left) == (980 * CREDITS, 20 * CREDITS, "49.0")
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_a_meter_key_reads_no_reports_and_another_tenant_none_of_this_one(
    scene: serving.Scene, server: serving.Server
) -> None:
    await lived(server.client(scene.key))
    request = reports_pb2.UsageRequest(**days())
    meter = server.client((await serving.new_key(scene.dsn, "acme", "meter")).key)
    for name in ("Usage", "Revenue", "Burn", "TopAccounts"):
        assert (await meter.refused(name, b"")).code is grpc.StatusCode.PERMISSION_DENIED
        assert (await server.client("").refused(name, b"")).code is grpc.StatusCode.UNAUTHENTICATED
    other = server.client((await serving.new_key(scene.dsn, "other", "admin")).key)
    assert (await other.call("Usage", request)).total.actions == 0
    assert list((await other.call("TopAccounts", reports_pb2.TopAccountsRequest(**days()))).rows) == []
    refusal = await other.refused("Burn", reports_pb2.BurnRequest(account_id="alice"))
    assert refusal == serving.Refusal(code=grpc.StatusCode.NOT_FOUND, message="account_id: no such account")


@pytest.mark.parametrize(
    ("name", "request_", "field"),
    [
        ("Usage", reports_pb2.UsageRequest(from_day="soon", to_day="2026-11-30"), "from_day"),
        ("Usage", reports_pb2.UsageRequest(from_day="2025-01-01", to_day="2026-11-30"), "to_day"),
        ("Usage", reports_pb2.UsageRequest(**days(), group_by=["price"]), "group_by"),
        ("Usage", reports_pb2.UsageRequest(**days(), limit=10_001), "limit"),
        ("Revenue", reports_pb2.RevenueRequest(from_day="2026-11-30"), "to_day"),
        ("Burn", reports_pb2.BurnRequest(account_id="alice", days=91), "days"),
        ("TopAccounts", reports_pb2.TopAccountsRequest(**days(), limit=1_001), "limit"),
    ],
)
async def test_bad_input_is_refused_by_name(
    scene: serving.Scene, server: serving.Server, name: str, request_: Any, field: str
) -> None:
    refusal = await server.client(scene.key).refused(name, request_)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.message.startswith(f"{field}: ")


async def test_the_command_line_prints_tables_and_json(scene: serving.Scene, server: serving.Server) -> None:
    await lived(server.client(scene.key))
    connections = await pool.create(scene.dsn, size_max=1)
    bought = purchases.Purchase(
        tenant_id="acme",
        account_id="alice",
        purchase_id="pi_1",
        kind=purchases.Kind.PACKAGE,
        product_id="starter",
        amount=Decimal("4.99"),
        currency="USD",
        at_ms=serving.now_ms(),
    )
    async with pool.as_tenant(connections, "acme") as connection:
        assert await purchases.add(connection, bought)
    await connections.close()

    async def run(*arguments: str, code: int = 0) -> str:
        options = ("--server", server.address, "--key", scene.key)
        done = await asyncio.to_thread(click.testing.CliRunner().invoke, commands.report, [*arguments, *options])
        assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
        return done.output

    usage = json.loads(await run("usage", "--by", "feature", "--by", "user", "--json"))
    assert [row["group"] for row in usage["rows"]] == [["credits", "ann"], ["model:openai/gpt-4o-mini", "ben"]]
    assert (usage["total"]["actions"], usage["has_more"]) == ("2", False)
    table = await run("usage", "--by", "feature", "--limit", "1")
    assert "credits" in table and "gpt-4o-mini" not in table and "more than 1 rows" in table
    assert json.loads(await run("usage", "--account", "alice", "--json"))["total"]["charged_micros"] == "20000000"
    assert "4.99" in await run("revenue")
    assert "1 of 2 accounts have ever paid: 50.0 %." in await run("revenue")
    assert json.loads(await run("burn", "alice", "--days", "1", "--json"))["days_left"] == "49.0"
    assert "49.0" in await run("burn", "alice")
    top = await run("top")
    assert top.index("alice") < top.index("bob")
    assert [row["account_id"] for row in json.loads(await run("top", "--limit", "1", "--json"))["rows"]] == ["alice"]
    assert "from_day: must be a day" in await run("usage", "--from", "soon", code=2)
    assert "--to: 'soon' is not a day" in await run("top", "--to", "soon", code=2)
