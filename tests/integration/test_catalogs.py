"""Catalogs on running servers: how they come into force, stay so, and what they charge."""

from __future__ import annotations

import asyncio
import pathlib
from typing import Any

import asyncpg
import click.testing
import grpc
import pytest

from meterd.cli import catalogs as commands
from meterd.core import money
from meterd_client.v1 import accounts_pb2, catalog_pb2, metering_pb2, types_pb2
from tests.integration import serving

CREDIT = money.MICROS_PER_CREDIT

LETTER = """
features:
  cover_letter: {credits: 12, category: writing}
  forecast: {credits: 4, wallet: forecast}
  retired: {credits: 5, active: false}
rates:
  vm_minute: {credits: 0.5, wallet: machines}
  retired: {credits: 1, active: false}
"""


def feature(account_id: str, name: str, **fields: Any) -> metering_pb2.ReserveRequest:
    charge = types_pb2.FeatureCharge(feature=name)
    return metering_pb2.ReserveRequest(hold_id=serving.new_id(), account_id=account_id, feature=charge, **fields)


def priced(name: str) -> metering_pb2.EstimateRequest:
    return metering_pb2.EstimateRequest(feature=types_pb2.FeatureCharge(feature=name))


async def apply(client: serving.Client, document: str, **fields: Any) -> catalog_pb2.ApplyCatalogResponse:
    return await client.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=document, **fields))


async def sold(client: serving.Client) -> catalog_pb2.GetCatalogResponse:
    return await client.call("GetCatalog", catalog_pb2.GetCatalogRequest())


async def credits_of(client: serving.Client, name: str) -> float:
    return (await client.call("Estimate", priced(name))).amount_micros / CREDIT


@pytest.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


async def test_a_tenant_without_a_catalog_sells_nothing(scene: serving.Scene) -> None:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        found = await sold(server.client(scene.key))
    assert (found.version, list(found.features), found.credit_value_usd) == ("", [], "0.001")
    assert not found.HasField("applied_at")


async def test_what_is_applied_is_in_force_at_once_and_a_repeat_changes_nothing(scene: serving.Scene) -> None:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        client = server.client(scene.key)
        first = await apply(client, LETTER, applied_by="ops")
        assert (first.applied, first.previous_version) == (True, "")
        assert (
            first.changes[0]
            == "feature cover_letter: new (name cover_letter, category writing, credits 12, wallet default, active yes)"
        )
        assert await credits_of(client, "cover_letter") == 12
        again = await apply(client, LETTER + "# A comment.\n")
        assert (again.applied, list(again.changes), again.version) == (False, [], first.version)
        found = await sold(client)
        assert (found.version, [item.feature_id for item in found.features]) == (
            first.version,
            ["cover_letter", "forecast", "retired"],
        )
        cheaper = await apply(client, LETTER.replace("credits: 12", "credits: 10"))
        assert list(cheaper.changes) == ["feature cover_letter: credits 12 → 10"]
        assert cheaper.previous_version == first.version
        assert await credits_of(client, "cover_letter") == 10
    connection = await asyncpg.connect(scene.dsn)
    rows = await connection.fetch("SELECT catalog_no, version, applied_by FROM catalogs ORDER BY catalog_no")
    await connection.close()
    assert [tuple(row) for row in rows] == [(1, first.version, "ops"), (2, cheaper.version, "")]


@pytest.mark.parametrize("in_the_catalog", [True, False], ids=["catalog", "price-file"])
async def test_a_features_price_is_what_a_call_of_it_is_charged(
    scene: serving.Scene, tmp_path: pathlib.Path, in_the_catalog: bool
) -> None:
    margins = "margins: {features: {third: 1.25, half: 0.000001}}\n"
    prices = tmp_path / "prices.yaml"
    prices.write_text("" if in_the_catalog else margins)
    given = serving.settings_of(scene.dsn, scene.redis_url, prices_file=str(prices))
    async with serving.running(given) as server:
        client = server.client(scene.key)
        document = "features: {third: {credits: 0.333333}, half: {credits: 0.5}, plain: {credits: 7}}\n"
        await apply(client, document + (margins if in_the_catalog else ""))
        found = {item.feature_id: (item.amount_micros, item.unit_micros) for item in (await sold(client)).features}
        assert found == {"third": (416_667, "416666.25"), "half": (1, "0.5"), "plain": (7_000_000, "7000000")}
        for name, (amount_micros, _) in found.items():
            assert (await client.call("Estimate", priced(name))).amount_micros == amount_micros
        several = types_pb2.FeatureCharge(feature="third", quantity=3)
        charged = await client.call("Estimate", metering_pb2.EstimateRequest(feature=several))
        assert charged.amount_micros == 1_249_999


async def test_a_dry_run_tells_and_changes_nothing(scene: serving.Scene) -> None:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        client = server.client(scene.key)
        planned = await apply(client, LETTER, dry_run=True)
        assert (planned.applied, len(planned.changes), planned.previous_version) == (False, 5, "")
        assert (await sold(client)).version == ""
        done = await apply(client, LETTER)
        assert (done.version, list(done.changes)) == (planned.version, list(planned.changes))


async def test_only_the_catalog_that_was_seen_is_replaced(scene: serving.Scene) -> None:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        client = server.client(scene.key)
        first = await apply(client, LETTER, expected_version="")
        request = catalog_pb2.ApplyCatalogRequest(document="{}", expected_version="")
        refused = await client.refused("ApplyCatalog", request)
        assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
        assert refused.message == f"expected_version: another catalog is in force: {first.version}"
        emptied = await apply(client, "{}", expected_version=first.version)
        assert emptied.changes[0] == "feature cover_letter: removed"
        refused = await client.refused("Estimate", priced("cover_letter"))
        assert refused.code is grpc.StatusCode.NOT_FOUND


async def test_concurrent_applies_come_one_after_the_other(scene: serving.Scene) -> None:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        client = server.client(scene.key)
        documents = [LETTER.replace("credits: 12", f"credits: {price}") for price in range(20, 28)]
        done = await asyncio.gather(*(apply(client, document) for document in documents * 2))
        applied = [answer for answer in done if answer.applied]
        assert len(applied) >= len(documents)
        # Each but the first replaced what another of them had put in force.
        assert sorted(answer.previous_version for answer in applied)[0] == ""
        connection = await asyncpg.connect(scene.dsn)
        rows = await connection.fetch("SELECT catalog_no, version FROM catalogs ORDER BY catalog_no")
        await connection.close()
        assert [row["catalog_no"] for row in rows] == list(range(1, len(applied) + 1))
        assert (await sold(client)).version == rows[-1]["version"]
        winner = next(d for d, answer in zip(documents * 2, done) if answer.version == rows[-1]["version"])
        assert f"credits: {await credits_of(client, 'cover_letter'):.0f}," in winner


async def test_another_server_hears_of_it_within_a_second(scene: serving.Scene) -> None:
    given = serving.settings_of(scene.dsn, scene.redis_url)
    async with serving.running(given) as one, serving.running(given) as two:
        done = await apply(one.client(scene.key), LETTER)
        other = two.client(scene.key)

        async def heard() -> bool:
            return (await sold(other)).version == done.version

        assert await serving.eventually(heard) < 1
        assert await credits_of(other, "cover_letter") == 12
        assert (await sold(other)).price_version == (await sold(one.client(scene.key))).price_version


async def test_a_server_whose_listener_died_hears_again(scene: serving.Scene) -> None:
    given = serving.settings_of(scene.dsn, scene.redis_url)
    async with serving.running(given) as one, serving.running(given) as two:
        connection = await asyncpg.connect(scene.dsn)
        killed = await connection.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'meterd catalogs'"
        )
        await connection.close()
        assert len(killed) == 2
        # While nobody listens, what is in force stays so; what came meanwhile is read when the connection is back.
        done = await apply(one.client(scene.key), LETTER)

        async def heard() -> bool:
            return (await sold(two.client(scene.key))).version == done.version

        await serving.eventually(heard, timeout_s=8)


async def test_a_restarted_server_has_it(scene: serving.Scene) -> None:
    given = serving.settings_of(scene.dsn, scene.redis_url)
    async with serving.running(given) as server:
        done = await apply(server.client(scene.key), LETTER)
    async with serving.running(given) as server:
        client = server.client(scene.key)
        found = await sold(client)
        assert (found.version, await credits_of(client, "cover_letter")) == (done.version, 12)


async def test_each_tenant_has_its_own(scene: serving.Scene) -> None:
    other_key = (await serving.new_key(scene.dsn, "other", "admin")).key
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        mine, other = server.client(scene.key), server.client(other_key)
        await apply(mine, LETTER)
        await apply(other, LETTER.replace("credits: 12", "credits: 99") + "credit_value_usd: 0.01\n")
        assert (await credits_of(mine, "cover_letter"), await credits_of(other, "cover_letter")) == (12, 99)
        assert ((await sold(mine)).credit_value_usd, (await sold(other)).credit_value_usd) == ("0.001", "0.01")


async def test_an_open_hold_keeps_its_price_also_on_another_server(scene: serving.Scene) -> None:
    given = serving.settings_of(scene.dsn, scene.redis_url)
    rates = "rates: {minute: {credits: %s}}"
    async with serving.running(given) as one:
        client = one.client(scene.key)
        await client.fund("ann", 100 * CREDIT)
        await apply(client, rates % 2)
        charge = types_pb2.RateCharge(rate="minute", quantity="10")
        request = metering_pb2.ReserveRequest(hold_id=serving.new_id(), account_id="ann", rate=charge)
        hold = (await client.call("Reserve", request)).hold
        assert hold.amount_micros == 20 * CREDIT
        await apply(client, rates % 3)
        async with serving.running(given) as two:
            commit = metering_pb2.CommitRequest(hold_id=hold.hold_id, quantity="4")
            settled = (await two.client(scene.key).call("Commit", commit)).settlement
        assert (settled.charged_micros, settled.price_version) == (8 * CREDIT, hold.price_version)
        direct = metering_pb2.ChargeRequest(
            idempotency_key=serving.new_id(), account_id="ann", rate=types_pb2.RateCharge(rate="minute", quantity="4")
        )
        assert (await client.call("Charge", direct)).settlement.charged_micros == 12 * CREDIT


async def test_features_and_rates_are_paid_from_their_wallets_unless_the_call_names_one(scene: serving.Scene) -> None:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        client = server.client(scene.key)
        await client.fund("org", 100 * CREDIT)
        for wallet in ("forecast", "machines"):
            await client.call("Grant", serving.grant_request("org", 50 * CREDIT, wallet=wallet))
        await apply(client, LETTER)
        hold = (await client.call("Reserve", feature("org", "forecast"))).hold
        assert (hold.wallet, hold.amount_micros) == ("forecast", 4 * CREDIT)
        named = (await client.call("Reserve", feature("org", "forecast", wallet="default"))).hold
        assert named.wallet == "default"
        charge = metering_pb2.ChargeRequest(
            idempotency_key=serving.new_id(),
            account_id="org",
            rate=types_pb2.RateCharge(rate="vm_minute", quantity="3"),
        )
        assert (await client.call("Charge", charge)).settlement.charged_micros == 1_500_000
        found = await client.call("GetBalance", accounts_pb2.GetBalanceRequest(account_id="org"))
        left = {wallet.wallet: wallet.available_micros / CREDIT for wallet in found.wallets}
        assert left == {"default": 96, "forecast": 46, "machines": 48.5}
        estimate = metering_pb2.EstimateRequest(account_id="org", feature=types_pb2.FeatureCharge(feature="forecast"))
        answer = await client.call("Estimate", estimate)
        assert answer.balance.wallet == "forecast"


@pytest.mark.parametrize("charge", [
    {"feature": types_pb2.FeatureCharge(feature="retired")},
    {"rate": types_pb2.RateCharge(rate="retired", quantity="1")},
], ids=["feature", "rate"])  # fmt: skip
async def test_what_is_not_active_is_not_found_by_name(scene: serving.Scene, charge: dict[str, Any]) -> None:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        client = server.client(scene.key)
        await apply(client, LETTER)
        refused = await client.refused("Estimate", metering_pb2.EstimateRequest(**charge))
        (kind,) = charge
        assert (refused.code, refused.message) == (grpc.StatusCode.NOT_FOUND, f"{kind}: retired is not active")


async def run(server: serving.Server, key: str, *arguments: str, **options: Any) -> click.testing.Result:
    """`meterd catalog …` against the server."""
    command = [*arguments, "--server", server.address, "--key", key]
    return await asyncio.to_thread(click.testing.CliRunner().invoke, commands.catalog, command, **options)


async def test_the_command_shows_what_changes_and_applies_it_once(scene: serving.Scene, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(LETTER)
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        client = server.client(scene.key)
        shown = await run(server, scene.key, "show")
        assert (shown.exit_code, shown.stdout) == (0, "No catalog was applied yet.\n")
        planned = await run(server, scene.key, "apply", str(path), "--dry-run")
        assert planned.exit_code == 0
        assert "  feature forecast: new (name forecast, credits 4, wallet forecast, active yes)\n" in planned.stdout
        unasked = await run(server, scene.key, "apply", str(path))
        assert (unasked.exit_code, unasked.stderr) == (
            2,
            "Error: nobody is there to agree: say --yes, or --dry-run to look only\n",
        )
        assert (await sold(client)).version == ""
        done = await run(server, scene.key, "apply", str(path), "--yes")
        version = (await sold(client)).version
        assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, f"Catalog {version} is in force.")
        again = await run(server, scene.key, "apply", str(path), "--yes")
        assert again.stdout == f"Nothing to change: catalog {version} is in force.\n"
        shown = await run(server, scene.key, "show")
        assert f"Catalog {version}, in force since " in shown.stdout
        assert "cover_letter" in shown.stdout


async def test_the_command_asks_on_a_terminal(
    scene: serving.Scene, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(LETTER)
    monkeypatch.setattr(commands, "_is_terminal", lambda: True)
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        client = server.client(scene.key)
        refused = await run(server, scene.key, "apply", str(path), input="n\n")
        assert (refused.exit_code, (await sold(client)).version) == (1, "")
        assert "Apply 5 changes? [y/N]" in refused.stderr
        agreed = await run(server, scene.key, "apply", str(path), input="y\n")
        assert (agreed.exit_code, (await sold(client)).version != "") == (0, True)


async def test_the_command_names_the_place_of_an_error(scene: serving.Scene, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text("features:\n  x: {credits: -1}\n")
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        told = await run(server, scene.key, "apply", str(path), "--yes")
        assert told.stderr == f"Error: {path}:2: features.x.credits: must not be negative\n"
        assert told.exit_code == 1
        path.write_bytes(b"features: {\xe9: {credits: 1}}")
        told = await run(server, scene.key, "apply", str(path), "--yes")
        assert told.stderr == f"Error: {path}: not UTF-8: byte 11\n"


async def test_a_new_price_file_of_the_server_lies_under_every_catalog(
    scene: serving.Scene, tmp_path: pathlib.Path
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("features: {greeting: {credits: 1}, cover_letter: {credits: 77}}\nmargins: {default: 2}")
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, prices_file=str(prices))) as server:
        client = server.client(scene.key)
        before = await apply(client, LETTER)
        assert (await credits_of(client, "greeting"), await credits_of(client, "cover_letter")) == (1, 12)
        version = (await sold(client)).price_version
        prices.write_text("features: {greeting: {credits: 3}}\nmargins: {default: 2}")

        async def reloaded() -> bool:
            return (await sold(client)).price_version != version

        await serving.eventually(reloaded)
        assert (await credits_of(client, "greeting"), await credits_of(client, "cover_letter")) == (3, 12)
        assert (await sold(client)).version == before.version


async def test_margins_and_the_value_of_a_credit_are_the_tenants(scene: serving.Scene) -> None:
    model = types_pb2.ModelCharge(provider="openai", model="gpt-4o-mini", input_tokens=1_000_000)
    request = metering_pb2.EstimateRequest(model=model)
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        client = server.client(scene.key)
        # 0.15 USD a million.
        assert (await client.call("Estimate", request)).amount_micros == 150 * CREDIT
        await apply(client, "credit_value_usd: 0.01\nmargins: {default: 2, models: {openai/gpt-4o-mini: 4}}")
        assert (await client.call("Estimate", request)).amount_micros == 60 * CREDIT


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("features:\n  x: {credits: 1, colour: red}", "line 2: features.x.colour: unknown field; known are name, category"),
        ("features:\n  x: {credits: -1}", "line 2: features.x.credits: must not be negative"),
        ("features:\n  x: {credits: 1}\n  x: {credits: 2}", "line 3: features.x: stands here twice"),
        ("features:\n  x:\n    credits: 0.0000001", "line 3: features.x.credits: finer than can be charged: at most 6 decimals"),
        ("features: [", "line 1: not YAML: "),
        ("", "is empty; a catalog that sells nothing is written {}"),
        ("a: " + "x" * 2**20, "larger than 1048576 bytes"),
    ],
    ids=["unknown-field", "negative", "duplicate", "fraction", "broken", "empty", "large"],
)  # fmt: skip
async def test_a_bad_file_is_refused_with_its_place_and_nothing_is_applied(
    scene: serving.Scene, document: str, message: str
) -> None:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        client = server.client(scene.key)
        done = await apply(client, LETTER)
        refused = await client.refused("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=document))
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.message.startswith(f"document: {message}")
        assert (await sold(client)).version == done.version


@pytest.mark.parametrize("role", ["meter", "read"])
async def test_others_may_look_and_not_touch(scene: serving.Scene, role: str) -> None:
    key = (await serving.new_key(scene.dsn, "acme", role)).key
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        client = server.client(key)
        assert (await sold(client)).version == ""
        refused = await client.refused("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document="{}"))
        assert refused.code is grpc.StatusCode.PERMISSION_DENIED
