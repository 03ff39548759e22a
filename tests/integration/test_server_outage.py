"""A server whose stores go away and come back, whose prices change under it, and which is asked to stop."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from meterd.cli import stores
from meterd.embedded import postgres, valkey
from meterd.meter import recovery
from meterd.postgres import migrate
from meterd.server import engine
from meterd_client.v1 import accounts_pb2, catalog_pb2, metering_pb2, types_pb2
from tests import conftest, places
from tests.integration import serving

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
# Redis is asked again within a second, and the fence looks four times a second; the rest is for a busy machine.
BACK_S = 3.0


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[postgres.Postgres]:
    """One that tests may stop."""
    with places.store_directory("tests") as directory:
        made = postgres.Postgres(pathlib.Path(directory), durable=False)
        made.start()
        yield made
        made.kill()


@pytest_asyncio.fixture
async def dsn(own_postgres: postgres.Postgres) -> AsyncIterator[str]:
    own_postgres.start()
    name = f"meterd_{uuid.uuid4().hex}"
    made = own_postgres.create_database(name)
    await migrate.migrate(made, partitions=conftest.PARTITIONS)
    yield made
    own_postgres.start()
    own_postgres.drop_database(name)


@pytest.fixture
def own_valkey(tmp_path: pathlib.Path) -> Iterator[valkey.Valkey]:
    """One that tests may kill, and which keeps what it has acknowledged."""
    made = valkey.Valkey(tmp_path / "valkey", durable=True)
    made.start()
    yield made
    made.kill()


@pytest_asyncio.fixture
async def scene(dsn: str, own_valkey: valkey.Valkey) -> serving.Scene:
    return await serving.scene(dsn, own_valkey.url)


@pytest_asyncio.fixture
async def server(scene: serving.Scene) -> AsyncIterator[serving.Server]:
    settings = serving.settings_of(scene.dsn, scene.redis_url, http_listen=serving.http_address(), workers=True)
    async with serving.running(settings) as server:
        yield server


@pytest_asyncio.fixture
async def client(server: serving.Server, scene: serving.Scene) -> serving.Client:
    client = server.client(scene.key)
    await client.fund("acct", 1_000)
    return client


async def becomes(server: serving.Server, status: str) -> float:
    """Seconds until the health is `status`."""

    async def is_so() -> bool:
        return await server.health() == status

    return await serving.eventually(is_so)


async def refused_within(client: serving.Client, name: str, request: Any, seconds: float) -> serving.Refusal:
    begin_s = time.monotonic()
    refusal = await client.refused(name, request)
    assert time.monotonic() - begin_s < seconds
    return refusal


def commit_of(hold: types_pb2.Hold, amount_micros: int) -> metering_pb2.CommitRequest:
    return metering_pb2.CommitRequest(hold_id=hold.hold_id, amount_micros=amount_micros)


async def test_without_redis_calls_fail_at_once_and_readiness_says_why(
    server: serving.Server, client: serving.Client, own_valkey: valkey.Valkey
) -> None:
    hold = await client.reserve("acct", 100)
    own_valkey.kill()
    for name, request in (
        ("Reserve", serving.reserve_request("acct", 1)),
        ("Commit", commit_of(hold, 60)),
        ("GetBalance", accounts_pb2.GetBalanceRequest(account_id="acct")),
    ):
        assert (await refused_within(client, name, request, 1.0)).code is UNAVAILABLE
    await becomes(server, "NOT_SERVING")
    assert await server.health("meterd.v1.Metering") == "NOT_SERVING"
    assert await server.probe("/readyz") == (503, "Redis is away\n")
    assert await server.probe("/healthz") == (200, "ok\n")
    assert await serving.metric(server, "meterd_ready") == 0.0
    # What needs no Redis goes on.
    found = await client.call("GetAccount", accounts_pb2.GetAccountRequest(account_id="acct"))
    assert found.account.account_id == "acct"


async def test_a_redis_that_comes_back_with_its_data_is_used_again_by_itself(
    server: serving.Server, client: serving.Client, own_valkey: valkey.Valkey, scene: serving.Scene
) -> None:
    hold = await client.reserve("acct", 100)
    own_valkey.kill()
    await becomes(server, "NOT_SERVING")
    own_valkey.start()
    assert await becomes(server, "SERVING") < BACK_S
    assert await server.probe("/readyz") == (200, "ok\n")
    assert (await client.call("Commit", commit_of(hold, 60))).settlement.charged_micros == 60
    assert await client.balance("acct") == (940, 0)
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_calls_in_flight_when_redis_dies_fail_and_their_retries_have_one_effect(
    server: serving.Server, client: serving.Client, own_valkey: valkey.Valkey, scene: serving.Scene
) -> None:
    requests = [serving.reserve_request("acct", 1) for _ in range(300)]
    calls = [client.start("Reserve", request) for request in requests]
    await calls[0]
    own_valkey.kill()
    for call in calls:
        assert await call.code() in (grpc.StatusCode.OK, UNAVAILABLE)
    own_valkey.start()
    await becomes(server, "NOT_SERVING")
    await becomes(server, "SERVING")
    for request in requests:
        assert (await client.call("Reserve", request)).hold.amount_micros == 1
    assert await client.balance("acct") == (700, 300)
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_a_flushed_redis_is_fenced_with_the_reason_until_it_is_recovered(
    server: serving.Server, client: serving.Client, scene: serving.Scene
) -> None:
    await client.call("Commit", commit_of(await client.reserve("acct", 100), 60))
    await serving.eventually(lambda: client.is_fresh("acct"))
    with redis.Redis.from_url(scene.redis_url) as connection:
        connection.flushall()
    assert (await client.refused("Reserve", serving.reserve_request("acct", 1))).code is UNAVAILABLE
    await becomes(server, "NOT_SERVING")
    status, text = await server.probe("/readyz")
    assert status == 503 and "is fenced: Redis has no sentinel: it is empty, or was flushed" in text
    assert (await client.refused("Reserve", serving.reserve_request("acct", 1))).code is UNAVAILABLE
    async with stores.opened(scene.dsn, scene.redis_url, "meterd tests") as found:
        recovered = await recovery.Recovery(connection=found.connection, run=found.run).recover()
    assert {one.epoch for one in recovered} == {2}
    assert await becomes(server, "SERVING") < BACK_S
    assert await client.balance("acct") == (940, 0)
    answer = await client.call("Reserve", serving.reserve_request("acct", 940))
    assert (answer.hold.amount_micros, answer.balance.epoch) == (940, 2)


async def test_calls_repeated_after_a_recovery_are_still_answered_as_the_first_time(
    server: serving.Server, client: serving.Client, scene: serving.Scene
) -> None:
    reserve = serving.reserve_request("acct", 100)
    commit = commit_of((await client.call("Reserve", reserve)).hold, 60)
    charge = metering_pb2.ChargeRequest(
        idempotency_key=serving.new_id(), account_id="acct", credits=types_pb2.CreditsCharge(amount_micros=16)
    )
    await client.call("Commit", commit)
    await client.call("Charge", charge)
    await serving.eventually(lambda: client.is_fresh("acct"))
    with redis.Redis.from_url(scene.redis_url) as connection:
        connection.flushall()
    await becomes(server, "NOT_SERVING")
    async with stores.opened(scene.dsn, scene.redis_url, "meterd tests") as found:
        await recovery.Recovery(connection=found.connection, run=found.run).recover()
    await becomes(server, "SERVING")
    for name, request, charged in (("Commit", commit, 60), ("Charge", charge, 16)):
        answer = await client.call(name, request)
        assert (answer.settlement.charged_micros, answer.replayed) == (charged, True)
    again = await client.call("Reserve", reserve)
    assert (again.hold.state, again.replayed) == (types_pb2.HOLD_STATE_COMMITTED, True)
    assert await client.balance("acct") == (924, 0)
    # What was never seen is new, however young the partition is.
    assert not (await client.call("Reserve", serving.reserve_request("acct", 1))).replayed
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_a_redis_that_comes_back_empty_is_not_served_from_even_before_a_call(
    dsn: str, tmp_path: pathlib.Path
) -> None:
    forgetful = valkey.Valkey(tmp_path / "forgetful", durable=False)
    forgetful.start()
    try:
        settings = serving.settings_of(dsn, forgetful.url, http_listen=serving.http_address())
        async with serving.running(settings) as server:
            forgetful.kill()
            await becomes(server, "NOT_SERVING")
            forgetful.start()

            async def is_told() -> bool:
                status, text = await server.probe("/readyz")
                assert status == 503, text
                return "Redis has no sentinel" in text

            await serving.eventually(is_told)
            assert await server.health() == "NOT_SERVING"
    finally:
        forgetful.kill()


async def test_without_postgres_loaded_accounts_are_metered_on(
    server: serving.Server, client: serving.Client, own_postgres: postgres.Postgres, scene: serving.Scene
) -> None:
    await serving.eventually(lambda: client.is_fresh("acct"))
    own_postgres.stop()
    hold = await client.reserve("acct", 100)
    assert (await client.call("Commit", commit_of(hold, 60))).settlement.charged_micros == 60
    for name, request in (
        ("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="new")),
        ("Grant", serving.grant_request("acct", 1)),
        ("GetAccount", accounts_pb2.GetAccountRequest(account_id="acct")),
        ("ListTransactions", accounts_pb2.ListTransactionsRequest(account_id="acct")),
        ("Reserve", serving.reserve_request("not-loaded", 1)),
    ):
        refusal = await refused_within(client, name, request, 8.0)
        assert refusal.code is UNAVAILABLE and "Postgres" in refusal.message, (name, refusal)
    refusal = await server.client("mk_" + "A" * 43).refused("GetAccount", b"")
    assert refusal == serving.Refusal(code=UNAVAILABLE, message="API keys cannot be checked at present")
    assert await server.health() == "SERVING"
    own_postgres.start()
    await client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="new"))
    await serving.eventually(lambda: client.is_fresh("acct"))
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_without_postgres_the_catalog_in_force_stays_and_changes_come_with_it(
    scene: serving.Scene, server: serving.Server, client: serving.Client, own_postgres: postgres.Postgres
) -> None:
    async def apply(price: int, **fields: Any) -> catalog_pb2.ApplyCatalogResponse:
        document = f"features: {{letter: {{credits: {price}}}}}"
        return await client.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=document, **fields))

    async def price() -> int:
        charge = types_pb2.FeatureCharge(feature="letter")
        return (await client.call("Estimate", metering_pb2.EstimateRequest(feature=charge))).amount_micros

    async def stale() -> bool:
        return await serving.metric(server, "meterd_catalogs_stale") == 1

    async def applied() -> bool:
        return (await apply(13)).applied

    await apply(12)
    await asyncio.to_thread(own_postgres.stop)
    await serving.eventually(stale)
    assert await price() == 12_000_000
    found = await client.call("GetCatalog", catalog_pb2.GetCatalogRequest())
    assert [item.amount_micros for item in found.features] == [12_000_000]
    refused = await client.refused("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document="{}"))
    assert refused.code is UNAVAILABLE
    assert await price() == 12_000_000
    await asyncio.to_thread(own_postgres.start)
    assert await applied()
    assert await price() == 13_000_000


async def test_a_server_that_starts_before_postgres_waits_for_it(
    scene: serving.Scene, own_postgres: postgres.Postgres
) -> None:
    own_postgres.stop()
    settings = serving.settings_of(scene.dsn, scene.redis_url, http_listen=serving.http_address())
    starting = serving.running(settings)
    opening = asyncio.create_task(starting.__aenter__())
    url = f"http://{settings.http_listen}"

    async def is_told() -> bool:
        return await asyncio.to_thread(ready) == (503, "starting: waiting for Postgres\n")

    def ready() -> tuple[int, str]:
        try:
            return serving.http_get(f"{url}/readyz")
        except OSError:
            return 0, ""

    await serving.eventually(is_told)
    assert await asyncio.to_thread(serving.http_get, f"{url}/healthz") == (200, "ok\n")
    assert not opening.done()
    own_postgres.start()
    server = await opening
    try:
        await server.client(scene.key).fund("acct", 5)
    finally:
        await starting.__aexit__(None, None, None)


async def test_a_server_that_waits_for_postgres_stops_when_asked(
    scene: serving.Scene, own_postgres: postgres.Postgres
) -> None:
    own_postgres.stop()
    starting = asyncio.create_task(serving.app.App(serving.settings_of(scene.dsn, scene.redis_url)).serve())
    await asyncio.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(starting, 10) == 0


async def test_a_stop_is_told_before_calls_are_refused_and_lets_those_in_work_end(scene: serving.Scene) -> None:
    settings = serving.settings_of(
        scene.dsn, scene.redis_url, http_listen=serving.http_address(), lame_duck_ms=400, drain_ms=10_000
    )
    async with serving.running(settings) as server, serving.contents(scene.dsn, scene.redis_url) as contents:
        client = server.client(scene.key)
        await client.fund("acct", 1_000)
        os.kill(os.getpid(), signal.SIGTERM)
        await becomes(server, "NOT_SERVING")
        assert await server.probe("/readyz") == (503, "stopping\n")
        # Clients that have not heard of it yet are served.
        assert (await client.reserve("acct", 100)).amount_micros == 100
        async with contents.paused():
            call = client.start("Reserve", serving.reserve_request("acct", 7))
            await asyncio.sleep(settings.lame_duck_ms / 1000 + 0.2)
            assert not call.done() and not server.task.done()
            assert (await client.refused("Reserve", serving.reserve_request("acct", 1))).code is UNAVAILABLE
        assert (await call).hold.amount_micros == 7
        assert await server.task == 0


async def test_a_client_that_watches_the_health_does_not_hold_up_the_stop(scene: serving.Scene) -> None:
    settings = serving.settings_of(scene.dsn, scene.redis_url, drain_ms=20_000)
    async with serving.running(settings) as server:
        stub: Any = health_pb2_grpc.HealthStub(server.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        begin_s = time.monotonic()
        server.app.stop()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await server.task == 0
        assert time.monotonic() - begin_s < 5.0


async def test_a_call_that_never_ends_is_cut_off_when_the_time_to_drain_is_over(scene: serving.Scene) -> None:
    settings = serving.settings_of(scene.dsn, scene.redis_url, drain_ms=300)
    async with serving.running(settings) as server, serving.contents(scene.dsn, scene.redis_url) as contents:
        client = server.client(scene.key)
        await client.fund("acct", 1_000)
        async with contents.paused():
            call = client.start("Reserve", serving.reserve_request("acct", 7))
            await asyncio.sleep(0.1)
            server.app.stop()
            assert await call.code() in (UNAVAILABLE, grpc.StatusCode.CANCELLED)
            assert await server.task == 0


class Prices:
    """A price file whose rate "vm_minute" tests change."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.path = directory / "prices.yaml"

    def set(self, credits: str) -> None:
        """Replaced at once, as an editor or a ConfigMap does."""
        new = self.path.with_suffix(".new")
        new.write_text(f"rates:\n  vm_minute: {{credits: {credits}}}\n")
        new.replace(self.path)


def minutes(quantity: str, **fields: Any) -> metering_pb2.ReserveRequest:
    rate = types_pb2.RateCharge(rate="vm_minute", quantity=quantity)
    return metering_pb2.ReserveRequest(hold_id=serving.new_id(), account_id="acct", rate=rate, **fields)


async def price_of(client: serving.Client) -> int:
    rate = types_pb2.RateCharge(rate="vm_minute", quantity="1")
    return (await client.call("Estimate", metering_pb2.EstimateRequest(rate=rate))).amount_micros


@pytest.fixture
def prices(tmp_path: pathlib.Path) -> Prices:
    made = Prices(tmp_path)
    made.set("0.5")
    return made


@pytest.mark.parametrize("hangup", [False, True], ids=["watched", "SIGHUP"])
async def test_an_edited_price_file_is_in_force_without_a_restart_and_holds_keep_theirs(
    scene: serving.Scene, prices: Prices, hangup: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PRICES_INTERVAL_S", 600.0 if hangup else 0.05)
    settings = serving.settings_of(scene.dsn, scene.redis_url, prices_file=str(prices.path))
    async with serving.running(settings) as server:
        client = server.client(scene.key)
        await client.fund("acct", 10**9)
        hold = (await client.call("Reserve", minutes("10"))).hold
        assert hold.amount_micros == 5_000_000
        prices.set("0.75")
        if hangup:
            os.kill(os.getpid(), signal.SIGHUP)

        async def is_new() -> bool:
            return await price_of(client) == 750_000

        await serving.eventually(is_new)
        newer = (await client.call("Reserve", minutes("10"))).hold
        assert newer.amount_micros == 7_500_000 and newer.price_version != hold.price_version
        committed = await client.call("Commit", metering_pb2.CommitRequest(hold_id=hold.hold_id, quantity="4"))
        assert committed.settlement.charged_micros == 2_000_000
        assert committed.settlement.price_version == hold.price_version


async def test_a_broken_price_file_keeps_the_old_prices_until_it_is_mended(
    scene: serving.Scene, prices: Prices, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "PRICES_INTERVAL_S", 0.05)
    settings = serving.settings_of(scene.dsn, scene.redis_url, prices_file=str(prices.path))
    async with serving.running(settings) as server:
        client = server.client(scene.key)

        async def is_told() -> bool:
            assert await price_of(client) == 500_000
            return "stays in force" in caplog.text

        for broken in ("-1", "{", "nan"):
            caplog.clear()
            prices.set(broken)
            await serving.eventually(is_told)
        prices.path.unlink()
        assert await price_of(client) == 500_000
        prices.set("0.6")

        async def is_mended() -> bool:
            return await price_of(client) == 600_000

        await serving.eventually(is_mended)


async def test_any_server_can_commit_a_hold_of_prices_that_it_has_never_seen(
    scene: serving.Scene, prices: Prices, tmp_path: pathlib.Path
) -> None:
    other = Prices(tmp_path / "other")
    other.path.parent.mkdir()
    other.set("0.9")
    stores_ = (scene.dsn, scene.redis_url)
    async with (
        serving.running(serving.settings_of(*stores_, prices_file=str(prices.path))) as first,
        serving.running(serving.settings_of(*stores_, prices_file=str(other.path))) as second,
    ):
        client, stranger = first.client(scene.key), second.client(scene.key)
        await client.fund("acct", 10**9)
        hold = (await client.call("Reserve", minutes("10"))).hold
        assert await price_of(stranger) == 900_000
        answer = await stranger.call("Commit", metering_pb2.CommitRequest(hold_id=hold.hold_id, quantity="4"))
        assert answer.settlement.charged_micros == 2_000_000
        assert answer.settlement.price_version == hold.price_version
        again = await client.call("Commit", metering_pb2.CommitRequest(hold_id=hold.hold_id, quantity="4"))
        assert again.replayed and again.settlement.charged_micros == 2_000_000


async def test_a_worker_serves_no_calls_but_its_probes(scene: serving.Scene) -> None:
    settings = serving.settings_of(scene.dsn, scene.redis_url, http_listen=serving.http_address())
    made = serving.app.App(settings)
    working = asyncio.create_task(made.work())
    url = f"http://{settings.http_listen}"

    def ready() -> int:
        try:
            return serving.http_get(f"{url}/readyz")[0]
        except OSError:
            return 0

    async def is_ready() -> bool:
        return await asyncio.to_thread(ready) == 200

    await serving.eventually(is_ready)
    _, text = await asyncio.to_thread(serving.http_get, f"{url}/metrics")
    assert f"meterd_owned_partitions {float(conftest.PARTITIONS)}" in text or "meterd_owned_partitions" in text
    made.stop()
    assert await asyncio.wait_for(working, 20) == 0


async def test_a_server_does_not_start_on_stores_that_may_lose_money(
    scene: serving.Scene, caplog: pytest.LogCaptureFixture
) -> None:
    settings = serving.settings_of(scene.dsn, scene.redis_url, allow_unsafe=False)
    async with serving.running(settings, ready=False) as server:
        assert await asyncio.wait_for(server.task, 30) == 1
    assert "unsafe settings" in caplog.text
    assert "postgres fsync is off" in caplog.text
