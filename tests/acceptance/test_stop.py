"""SIGTERM under load, servers side by side, and a Redis that was emptied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from meterd.replay import play
from meterd_client.v1 import metering_pb2, types_pb2
from tests.acceptance import installation, processes

Install = Callable[..., installation.Installation]
REQUESTS = 1_500


async def test_sigterm_under_load_fails_no_call_that_cannot_be_made_again(install: Install) -> None:
    made = install(METERD_LAME_DUCK_MS="100")
    loop = asyncio.get_running_loop()
    stopped = list[asyncio.Future[int]]()
    done = 0

    def stop_and_start() -> int:
        status = made.server.stop()
        made.server.start()
        return status

    def on_step(count: int) -> None:
        nonlocal done
        done += count
        if done == REQUESTS // 2:
            stopped.append(loop.run_in_executor(None, stop_and_start))

    found = await play.play(made.generated(REQUESTS), made.options(), on_step=on_step)
    assert await asyncio.gather(*stopped) == [0]
    # Whatever met the stop was answered UNAVAILABLE or CANCELLED and went through with the same id.
    assert found.problems == ()
    assert found.outcome.fates == {"committed": REQUESTS}
    assert found.verified


async def test_an_emptied_redis_is_fenced_until_recover_rebuilds_it(install: Install) -> None:
    made = install()
    first = await play.play(made.generated(200), made.options())
    assert first.problems == ()
    await asyncio.to_thread(_empty, made)
    assert not made.is_serving()
    told = "Redis has no sentinel: it is empty, or was flushed"
    processes.wait_until(lambda: told in made.server.log_tail(), "a message that says what disagrees")
    with made.client() as client:
        code, message = client.refused("Estimate", _estimate())
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "fenced" in message
    told = await asyncio.to_thread(made.meterd, "recover")
    assert "64" in told
    await asyncio.to_thread(processes.wait_until, made.is_serving, "health SERVING after recover")
    await asyncio.to_thread(made.verify)
    second = await play.play(made.generated(200), made.options())
    assert second.problems == ()
    assert second.verified


def _empty(made: installation.Installation) -> None:
    made.valkey.kill()
    made.valkey.empty()
    made.valkey.start()
    # It is noticed on the new connection, before any call is decided.
    processes.wait_until(lambda: not made.is_serving(), "health NOT_SERVING")


def _estimate() -> metering_pb2.EstimateRequest:
    return metering_pb2.EstimateRequest(account_id="anyone", credits=types_pb2.CreditsCharge(amount_micros=1))


async def test_three_servers_share_the_accounts_and_the_work(install: Install) -> None:
    made = install()
    others = [
        processes.Server(
            made.server.directory / name,
            name=name,
            redis_url=made.valkey.url,
            dsn=made.postgres.dsn,
            arguments=arguments,
        )
        for name, arguments in (("second", ("serve",)), ("third", ("serve", "--no-workers")))
    ]
    try:
        for other in others:
            await asyncio.to_thread(other.start)
        halves = [made.options(run_id=other.name, address=other.address) for other in (made.server, *others)]
        found = await asyncio.gather(*(play.play(made.generated(300), options) for options in halves))
    finally:
        for other in others:
            other.kill()
    assert [one.problems for one in found] == [(), (), ()]
    made.verify()
