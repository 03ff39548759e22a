"""Bursts, races, overload, and clients that go away: each call is decided once, and hears of its own decision."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from meterd_client.v1 import metering_pb2
from tests.integration import serving


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def client(scene: serving.Scene) -> AsyncIterator[serving.Client]:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        yield server.client(scene.key)


async def outcome(call: Any) -> str:
    """ "hold", "denial" or the name of the status."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as fault:
        return fault.code().name
    except asyncio.CancelledError:
        return "CANCELLED"
    return str(answer.WhichOneof("outcome"))


async def test_three_thousand_reserves_at_once_on_one_channel_all_succeed(
    client: serving.Client, scene: serving.Scene
) -> None:
    await client.fund("acct", 10**9)
    calls = [client.start("Reserve", serving.reserve_request("acct", 7), timeout_s=60) for _ in range(3_000)]
    counts = collections.Counter(await asyncio.gather(*(outcome(call) for call in calls)))
    assert counts == {"hold": 3_000}
    assert await client.balance("acct") == (10**9 - 21_000, 21_000)
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_a_burst_of_first_calls_with_an_unknown_key_asks_for_it_once(scene: serving.Scene) -> None:
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url)) as server:
        client = server.client(scene.key)
        request = metering_pb2.EstimateRequest(credits={"amount_micros": 1})
        answers = await asyncio.gather(*(client.call("Estimate", request, timeout_s=60) for _ in range(1_000)))
        assert {answer.amount_micros for answer in answers} == {1}


@pytest.mark.parametrize("accounts", [1, 5])
async def test_of_a_hundred_who_race_for_37_credits_exactly_37_win(client: serving.Client, accounts: int) -> None:
    names = [f"acct{number}" for number in range(accounts)]
    for name in names:
        await client.fund(name, 37)
    calls = {name: [client.start("Reserve", serving.reserve_request(name, 1)) for _ in range(100)] for name in names}
    for name in names:
        counts = collections.Counter(await asyncio.gather(*(outcome(call) for call in calls[name])))
        assert counts == {"hold": 37, "denial": 63}
        assert await client.balance(name) == (0, 37)


async def test_the_first_hundred_calls_of_an_account_that_redis_lacks_all_wait_for_it(scene: serving.Scene) -> None:
    async with (
        serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=True)) as server,
        serving.contents(scene.dsn, scene.redis_url) as contents,
    ):
        client = server.client(scene.key)
        await client.fund("acct", 10**6)
        await serving.eventually(lambda: client.is_fresh("acct"))
        await contents.forget("*:a:*")
        calls = [client.start("Reserve", serving.reserve_request("acct", 1)) for _ in range(100)]
        counts = collections.Counter(await asyncio.gather(*(outcome(call) for call in calls)))
        assert counts == {"hold": 100}


async def refused(calls: Sequence[Any], count: int) -> bool:
    return sum(call.done() for call in calls) == count


async def test_calls_beyond_those_in_work_are_refused_and_pushed_back(scene: serving.Scene) -> None:
    settings = serving.settings_of(scene.dsn, scene.redis_url, in_flight_max=20)
    async with serving.running(settings) as server, serving.contents(scene.dsn, scene.redis_url) as contents:
        client = server.client(scene.key)
        await client.fund("acct", 10**6)
        # With Redis paused, calls stay in work.
        async with contents.paused():
            calls = [client.start("Reserve", serving.reserve_request("acct", 1), timeout_s=60) for _ in range(100)]
            await serving.eventually(lambda: refused(calls, 80))
        counts = collections.Counter(await asyncio.gather(*(outcome(call) for call in calls)))
        assert counts == {"hold": 20, "RESOURCE_EXHAUSTED": 80}
        assert (await client.balance("acct"))[1] == 20
        for call in calls:
            if await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                assert ("grpc-retry-pushback-ms", "200") in tuple(await call.trailing_metadata())
                assert "calls are in work" in await call.details()
        # Nobody is counted any more.
        assert await outcome(client.start("Reserve", serving.reserve_request("acct", 1))) == "hold"


def of(number: int) -> metering_pb2.ReserveRequest:
    """A request whose answer shows whose it is: the amount is the number."""
    return serving.reserve_request("acct", number)


async def test_cancelled_calls_never_shift_the_answers_of_others(client: serving.Client, scene: serving.Scene) -> None:
    await client.fund("acct", 10**9)
    for burst in range(5):
        requests = [of(1 + burst * 200 + number) for number in range(200)]
        calls = [client.start("Reserve", request) for request in requests]
        # Some are on their way to the server, some are in Redis, some are answered.
        await asyncio.sleep(0.001 * burst)
        for call in calls[::3]:
            call.cancel()
        for number, (request, call) in enumerate(zip(requests, calls, strict=True)):
            if number % 3:
                answer = await call
                assert answer.hold.amount_micros == request.credits.amount_micros
                assert answer.hold.hold_id.startswith(request.hold_id)
        retried = await asyncio.gather(*(client.call("Reserve", request) for request in requests[::3]))
        for request, answer in zip(requests[::3], retried, strict=True):
            assert answer.hold.amount_micros == request.credits.amount_micros
            assert answer.hold.hold_id.startswith(request.hold_id)
    # Each of them once, whatever became of its first try.
    assert (await client.balance("acct"))[1] == sum(range(1, 1_001))
    assert await serving.findings(scene.dsn, scene.redis_url) == []


async def test_a_call_whose_deadline_passes_in_redis_is_answered_by_its_retry(
    client: serving.Client, scene: serving.Scene
) -> None:
    await client.fund("acct", 10**6)
    request = of(321)
    async with serving.contents(scene.dsn, scene.redis_url) as contents, contents.paused():
        assert await outcome(client.start("Reserve", request, timeout_s=0.2)) == "DEADLINE_EXCEEDED"
    # The script was on its way when the client gave up, and ran.
    answer = await client.call("Reserve", request)
    assert answer.replayed and answer.hold.amount_micros == 321
    others = await asyncio.gather(*(client.call("Reserve", of(number)) for number in range(1, 101)))
    assert [other.hold.amount_micros for other in others] == list(range(1, 101))
    assert (await client.balance("acct"))[1] == 321 + sum(range(1, 101))


async def test_a_commit_that_is_cancelled_and_retried_charges_once(client: serving.Client) -> None:
    await client.fund("acct", 10**6)
    holds = [await client.reserve("acct", 100) for _ in range(50)]
    commits = [metering_pb2.CommitRequest(hold_id=hold.hold_id, amount_micros=60) for hold in holds]
    calls = [client.start("Commit", commit) for commit in commits]
    await asyncio.sleep(0.002)
    for call in calls:
        call.cancel()
    answers = await asyncio.gather(*(client.call("Commit", commit) for commit in commits))
    assert {answer.settlement.charged_micros for answer in answers} == {60}
    assert await client.balance("acct") == (10**6 - 50 * 60, 0)
