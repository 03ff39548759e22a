"""Watch over gRPC: the balance at once and after each change of the hot path, and every way in which a stream ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from meterd.server import watch
from meterd_client.v1 import accounts_pb2, metering_pb2
from tests.integration import serving


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def server(scene: serving.Scene) -> AsyncIterator[serving.Server]:
    settings = serving.settings_of(scene.dsn, scene.redis_url, workers=True)
    async with serving.running(settings, keys_refresh_interval_s=0.1) as server:
        yield server


@pytest_asyncio.fixture
async def client(server: serving.Server, scene: serving.Scene) -> serving.Client:
    client = server.client(scene.key)
    await client.fund("acct", 10_000)
    return client


def watched(client: serving.Client, account_id: str = "acct") -> Any:
    """A Watch, opened."""
    method = client.channel.unary_stream(
        "/meterd.v1.Accounts/Watch",
        request_serializer=accounts_pb2.WatchRequest.SerializeToString,
        response_deserializer=accounts_pb2.GetBalanceResponse.FromString,
    )
    request = accounts_pb2.WatchRequest(account_id=account_id)
    return method(request, metadata=client.metadata, timeout=serving.CALL_TIMEOUT_S)


def sums(answer: accounts_pb2.GetBalanceResponse) -> tuple[int, int]:
    """Available and held of the one wallet."""
    (wallet,) = answer.wallets
    return wallet.available_micros, wallet.held_micros


async def until(opened: Any, expected: tuple[int, int]) -> list[tuple[int, int]]:
    """What is told up to the balance `expected`, with it."""
    found: list[tuple[int, int]] = []
    while not found or found[-1] != expected:
        found.append(sums(await opened.read()))
    return found


async def ending(opened: Any) -> tuple[grpc.StatusCode, str]:
    try:
        while await opened.read() is not getattr(grpc.aio, "EOF"):  # noqa: B009
            pass
    except grpc.aio.AioRpcError:
        pass
    return await opened.code(), await opened.details()


async def test_each_change_of_the_hot_path_is_told_live(client: serving.Client) -> None:
    opened = watched(client)
    assert await until(opened, (10_000, 0)) == [(10_000, 0)]
    hold = await client.reserve("acct", 3_000)
    assert await until(opened, (7_000, 3_000)) == [(7_000, 3_000)]
    await client.call("Commit", metering_pb2.CommitRequest(hold_id=hold.hold_id, amount_micros=1_000))
    assert await until(opened, (9_000, 0)) == [(9_000, 0)]
    await client.call("Grant", serving.grant_request("acct", 500))
    assert await until(opened, (9_500, 0)) == [(9_500, 0)]
    hold = await client.reserve("acct", 200)
    await until(opened, (9_300, 200))
    await client.call("Release", metering_pb2.ReleaseRequest(hold_id=hold.hold_id))
    assert await until(opened, (9_500, 0)) == [(9_500, 0)]
    opened.cancel()


async def test_the_first_answer_is_what_get_balance_answers(client: serving.Client) -> None:
    opened = watched(client)
    first = await opened.read()
    opened.cancel()
    balance = await client.call("GetBalance", accounts_pb2.GetBalanceRequest(account_id="acct"))
    first.freshness_ms = balance.freshness_ms = 0
    assert first == balance


async def test_a_burst_is_told_as_few_changes_and_ends_at_the_last_balance(client: serving.Client) -> None:
    opened = watched(client)
    await until(opened, (10_000, 0))
    await asyncio.gather(*(client.reserve("acct", 10) for _ in range(100)))
    told = await until(opened, (9_000, 1_000))
    assert 1 <= len(told) < 50
    opened.cancel()


async def test_all_who_watch_an_account_are_told_and_others_are_not(client: serving.Client) -> None:
    await client.fund("other", 77)
    opened = [watched(client) for _ in range(5)]
    quiet = watched(client, "other")
    for one in opened:
        await until(one, (10_000, 0))
    assert sums(await quiet.read()) == (77, 0)
    await client.reserve("acct", 1)
    for one in opened:
        assert await until(one, (9_999, 1)) == [(9_999, 1)]
    await client.reserve("other", 7)
    assert await until(quiet, (70, 7)) == [(70, 7)]
    for one in (*opened, quiet):
        one.cancel()


@pytest.mark.parametrize(
    ("account_id", "code"), [("", "INVALID_ARGUMENT"), ("nobody", "NOT_FOUND"), ("a\n", "INVALID_ARGUMENT")]
)
async def test_what_cannot_be_watched_is_refused(client: serving.Client, account_id: str, code: str) -> None:
    assert (await ending(watched(client, account_id)))[0].name == code


async def test_an_account_of_another_tenant_is_not_found(
    client: serving.Client, server: serving.Server, scene: serving.Scene
) -> None:
    rival = server.client((await serving.new_key(scene.dsn, "rival", "admin")).key)
    assert (await ending(watched(rival)))[0] is grpc.StatusCode.NOT_FOUND
    del client


async def test_a_revoked_key_ends_its_streams(
    client: serving.Client, server: serving.Server, scene: serving.Scene
) -> None:
    created = await serving.new_key(scene.dsn, "acme", "read")
    opened = watched(server.client(created.key))
    await until(opened, (10_000, 0))
    await serving.revoke_key(scene.dsn, created)
    code, message = await ending(opened)
    assert (code, message) == (grpc.StatusCode.UNAUTHENTICATED, "unknown or revoked API key")
    # Others stay.
    stays = watched(client)
    await until(stays, (10_000, 0))
    stays.cancel()


async def test_a_server_that_stops_ends_its_streams_and_says_so(client: serving.Client, server: serving.Server) -> None:
    opened = watched(client)
    await until(opened, (10_000, 0))
    stopping = asyncio.create_task(server.stopped())
    code, message = await ending(opened)
    assert (code, message) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping; watch anew")
    assert await stopping == 0


async def test_a_client_that_went_away_leaves_nothing(client: serving.Client, server: serving.Server) -> None:
    opened = watched(client)
    await until(opened, (10_000, 0))
    opened.cancel()
    watches = server.app.watches
    assert watches is not None
    await serving.eventually(lambda: _is_idle(watches))


async def _is_idle(watches: watch.Watches) -> bool:
    return (watches.open_count, watches.topic_count) == (0, 0)


async def test_watchers_are_bounded(client: serving.Client, server: serving.Server) -> None:
    watches = server.app.watches
    assert watches is not None
    watches.watchers_max = 2
    first, second = watched(client), watched(client)
    await until(first, (10_000, 0))
    await until(second, (10_000, 0))
    code, message = await ending(watched(client))
    assert (code, message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "2 streams watch balances; retry later")
    first.cancel()
    second.cancel()


async def test_what_did_not_change_is_told_again_in_time(client: serving.Client, server: serving.Server) -> None:
    watches = server.app.watches
    assert watches is not None
    watches.keep_alive_s = 0.2
    opened = watched(client)
    for _ in range(3):
        assert sums(await opened.read()) == (10_000, 0)
    opened.cancel()
