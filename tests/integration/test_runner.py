"""The pipelined runner on a real Redis, with cancellations, restarts and a silent server."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from meterd.core import errors
from meterd.redis import runner


@pytest_asyncio.fixture
async def run(redis_url: str) -> AsyncIterator[runner.Runner]:
    found = runner.Runner(redis_url)
    await found.start()
    assert await found.wait_connected(5)
    yield found
    await found.close()


async def test_concurrent_calls_get_their_own_replies(run: runner.Runner) -> None:
    replies = await asyncio.gather(*(run.command(("ECHO", str(number))) for number in range(5_000)))
    assert replies == [str(number).encode() for number in range(5_000)]
    assert run.pending == 0


async def test_calls_are_alone_again_when_they_came_one_by_one_for_a_while(run: runner.Runner) -> None:
    assert run.is_alone
    await asyncio.gather(*(run.command(("PING",)) for _ in range(10)))
    assert not run.is_alone
    for _ in range(runner.LONE_BATCHES):
        assert not run.is_alone
        await run.command(("PING",))
    assert run.is_alone


async def test_calls_of_one_turn_leave_in_one_write_once_calls_have_met(run: runner.Runner) -> None:
    await asyncio.gather(*(run.command(("PING",)) for _ in range(10)))
    before = run.batches
    await asyncio.gather(*(run.command(("PING",)) for _ in range(10)))
    assert run.batches == before + 1


async def test_a_cancelled_call_never_gives_its_reply_to_another(run: runner.Runner) -> None:
    rng = random.Random(7)

    async def echo(number: int) -> tuple[int, bytes]:
        return number, await run.command(("ECHO", str(number)))

    tasks = [asyncio.create_task(echo(number)) for number in range(3_000)]
    await asyncio.sleep(0)
    cancelled = [task for task in tasks if rng.random() < 0.5 and task.cancel()]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    answered = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
    assert len(cancelled) > 1_000 and len(answered) > 1_000
    assert all(reply == str(number).encode() for number, reply in answered)
    assert await run.command(("ECHO", "after")) == b"after"


async def test_the_effect_of_a_cancelled_call_stands(run: runner.Runner) -> None:
    task = asyncio.ensure_future(run.command(("INCR", "counter")))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert await run.command(("GET", "counter")) == b"1"


async def test_a_lost_connection_fails_the_calls_in_flight_and_is_made_again(run: runner.Runner) -> None:
    me = await run.command(("CLIENT", "ID"))
    outcomes = await asyncio.gather(
        run.command(("CLIENT", "KILL", "ID", str(me), "SKIPME", "no")),
        *(run.command(("BLPOP", "nothing", "5")) for _ in range(3)),
        return_exceptions=True,
    )
    assert all(isinstance(outcome, errors.UnavailableError) for outcome in outcomes[1:])
    assert await run.wait_connected(5)
    assert await run.command(("PING",)) == b"PONG"
    assert run.connections == 2


async def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch, redis_url: str) -> None:
    monkeypatch.setattr(runner, "REPLY_TIMEOUT_S", 0.3)
    found = runner.Runner(redis_url)
    await found.start()
    assert await found.wait_connected(5)
    with pytest.raises(errors.UnavailableError, match=r"no reply for 0\.3 s"):
        await found.command(("BLPOP", "nothing", "10"))
    await found.close()


async def test_a_redis_that_is_away_is_unavailable_at_once() -> None:
    found = runner.Runner("redis://127.0.0.1:1")
    await found.start()
    with pytest.raises(errors.UnavailableError, match="not connected"):
        await found.command(("PING",))
    await found.close()


async def test_an_error_reply_is_that_calls_alone(run: runner.Runner) -> None:
    outcomes = await asyncio.gather(
        run.command(("SET", "key", "text")),
        run.command(("INCR", "key")),
        run.command(("GET", "key")),
        return_exceptions=True,
    )
    assert outcomes[0] == b"OK" and outcomes[2] == b"text"
    assert isinstance(outcomes[1], runner.RedisRefusedError)
