"""The synchronous client: the same table as the asynchronous one's, in threads of its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pathlib
import weakref
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import pytest

import meterd_client
from meterd_client.v1 import types_pb2
from tests.client import proxy, scenes
from tests.integration import serving

MODEL: Any = {"model": "gpt-4o-mini", "input_tokens": 1_000, "max_output_tokens": 1_000}
USAGE = {"prompt_tokens": 1_000, "completion_tokens": 200, "total_tokens": 1_200}
RESPONSE_MICROS, HOLD_MICROS, CUT_MICROS = 270_000, 750_000, 174_000


def _commits(meter: meterd_client.SyncMeter) -> None:
    with meter.hold("ada", **MODEL) as hold:
        settlement = hold.commit(scenes.OPENAI_RESPONSE)
    assert settlement is not None and settlement.charged_micros == RESPONSE_MICROS


def _streams(meter: meterd_client.SyncMeter) -> None:
    with meter.hold("ada", **MODEL) as hold:
        assert len(list(hold.stream(scenes.openai_chunks(200, usage=USAGE)))) == 202
    assert hold.settlement is not None and hold.settlement.usage_state == types_pb2.USAGE_STATE_REPORTED


def _breaks(meter: meterd_client.SyncMeter) -> None:
    is_closed = False

    def source() -> Iterator[Any]:
        nonlocal is_closed
        try:
            yield from scenes.openai_chunks(1_000)
        finally:
            is_closed = True

    with meter.hold("ada", **MODEL) as hold:
        for number, _ in enumerate(hold.stream(source()), 1):
            if number == 40:
                break
    assert is_closed
    assert hold.settlement is not None and hold.settlement.usage_state == types_pb2.USAGE_STATE_PARTIAL


def _raises_in_stream(meter: meterd_client.SyncMeter) -> None:
    with pytest.raises(scenes.Gone), meter.hold("ada", **MODEL) as hold:
        for number, _ in enumerate(hold.stream(scenes.openai_chunks(1_000)), 1):
            if number == 40:
                raise scenes.Gone


def _raises(meter: meterd_client.SyncMeter) -> None:
    with pytest.raises(scenes.Gone), meter.hold("ada", **MODEL):
        raise scenes.Gone


def _reports(meter: meterd_client.SyncMeter) -> None:
    with pytest.raises(scenes.Gone), meter.hold("ada", **MODEL) as hold:
        assert hold.report(scenes.OPENAI_RESPONSE)
        raise scenes.Gone


def _forgets(meter: meterd_client.SyncMeter) -> None:
    with pytest.raises(meterd_client.MissingUsageError), meter.hold("ada", **MODEL):
        pass


def _feature(meter: meterd_client.SyncMeter) -> None:
    with meter.hold("ada", feature="cover_letter"):
        pass


def _rate(meter: meterd_client.SyncMeter) -> None:
    with meter.hold("ada", rate="vm_minute", quantity=60) as hold:
        hold.commit(quantity="7.5")


def _charges(meter: meterd_client.SyncMeter) -> None:
    key = meterd_client.uuid7()
    for _ in range(2):
        settlement = meter.charge("ada", credits_micros=7, idempotency_key=key)
        assert settlement is not None and settlement.charged_micros == 7
    assert meter.estimate(model="gpt-4o-mini", input_tokens=1_000, max_output_tokens=1_000).amount_micros == HOLD_MICROS
    assert meter.balance("ada").wallets[0].available_micros == scenes.FUNDS_MICROS - 7


@pytest.mark.parametrize(
    ("body", "expected_micros"),
    [
        (_commits, RESPONSE_MICROS),
        (_streams, RESPONSE_MICROS),
        (_breaks, CUT_MICROS),
        (_raises_in_stream, CUT_MICROS),
        (_raises, 0),
        (_reports, RESPONSE_MICROS),
        (_forgets, HOLD_MICROS),
        (_feature, 12_000_000),
        (_rate, 3_750_000),
        (_charges, 7),
    ],
)
async def test_each_end_of_a_block_comes_to(
    world: scenes.World, body: Callable[[meterd_client.SyncMeter], None], expected_micros: int
) -> None:
    await world.funded("ada")
    await _in_thread(world.target, world.key, body)
    assert await world.spent("ada") == expected_micros


async def _in_thread(target: str, key: str, body: Callable[[meterd_client.SyncMeter], None], **options: Any) -> None:
    """Runs the body with a meter of its own, while this loop serves."""
    values: dict[str, Any] = {"timeout_s": 20.0, "attempt_timeout_s": 20.0}

    def run() -> None:
        with meterd_client.SyncMeter(target, key=key, **values | options) as meter:
            body(meter)

    await asyncio.to_thread(run)


async def test_a_stream_that_nothing_covers_any_more_is_stopped(world: scenes.World) -> None:
    await world.funded("poor", 600_000)
    seen = 0

    def body(meter: meterd_client.SyncMeter) -> None:
        nonlocal seen
        with meter.hold("poor", **MODEL | {"max_output_tokens": 100}) as hold:
            reached = hold.stream(_slowly(scenes.openai_chunks(100_000)), on_stop="raise")
            with pytest.raises(meterd_client.StoppedError):
                for _ in reached:
                    seen += 1
        assert hold.stopped
        assert hold.settlement is not None and hold.settlement.uncollected_micros == 0

    await _in_thread(world.target, world.key, body)
    assert seen == 750
    assert await world.client.balance("poor") == (0, 0)


def _slowly(chunks: list[Any]) -> Iterator[Any]:
    """As fast as the report's answer needs to keep up with."""
    pause = futures.Future[None]()
    for chunk in chunks:
        futures.wait([pause], timeout=0.001)
        yield chunk


async def test_a_hold_is_extended_while_its_block_runs(world: scenes.World) -> None:
    account = await world.funded("ada")
    loop = asyncio.get_running_loop()

    async def is_extended(before_ms: int) -> bool:
        (now,) = await world.holds(account)
        return now.expires_at.ToMilliseconds() > before_ms + 1_000

    def body(meter: meterd_client.SyncMeter) -> None:
        with meter.hold(account, **MODEL, ttl_ms=1_000) as hold:
            (before,) = asyncio.run_coroutine_threadsafe(world.holds(account), loop).result()
            waited = serving.eventually(lambda: is_extended(before.expires_at.ToMilliseconds()))
            asyncio.run_coroutine_threadsafe(waited, loop).result()
            settlement = hold.commit(scenes.OPENAI_RESPONSE)
        assert settlement is not None and settlement.state == types_pb2.HOLD_STATE_COMMITTED

    await _in_thread(world.target, world.key, body)


async def test_a_denial_and_a_refusal_are_typed(world: scenes.World) -> None:
    await world.funded("poor", 400_000)

    def body(meter: meterd_client.SyncMeter) -> None:
        with pytest.raises(meterd_client.DeniedError) as caught, meter.hold("poor", **MODEL):
            raise AssertionError("the block does not run")
        assert caught.value.affordable_output_tokens == 416
        with pytest.raises(meterd_client.NotFoundError), meter.hold("nobody", **MODEL):
            raise AssertionError("the block does not run")

    await _in_thread(world.target, world.key, body)


@pytest.mark.parametrize("direction", ["cut_up", "cut_down"])
async def test_a_connection_that_is_cut_at_any_byte_makes_one_charge(world: scenes.World, direction: str) -> None:
    async with proxy.running(world.target) as between:
        await world.funded("ada")
        await _in_thread(between.address, world.key, _commits)
        whole = between.up if direction == "cut_up" else between.down
        for count, place in enumerate((0, whole // 4, whole // 2, whole * 3 // 4, whole - 100), 2):
            setattr(between, direction, place)
            await _in_thread(between.address, world.key, _commits)
            await world.settled("ada")
            assert await world.spent("ada") == count * RESPONSE_MICROS, f"cut at byte {place} of {whole}"


async def test_an_outage_is_outlived_by_the_spool(world: scenes.World, tmp_path: pathlib.Path) -> None:
    account, path = await world.funded("ada"), tmp_path / "spool.db"
    async with proxy.running(world.target) as between:

        def body(meter: meterd_client.SyncMeter) -> None:
            with meter.hold(account, **MODEL) as hold:
                between.is_refusing = True
                loop.call_soon_threadsafe(between.cut)
                with pytest.raises(meterd_client.UndecidedError):
                    meter.balance(account)
                assert hold.commit(scenes.OPENAI_RESPONSE) is None
            with meter.hold(account, **MODEL) as hold:
                assert not hold.is_metered
                list(hold.stream(scenes.openai_chunks(200, usage=USAGE)))
            assert meter.charge(account, credits_micros=5) is None

        loop = asyncio.get_running_loop()
        await _in_thread(
            between.address, world.key, body, spool=path, timeout_s=1.5, on_undecided="allow", attempt_timeout_s=5.0
        )
        between.is_refusing = False
        expected = (scenes.FUNDS_MICROS - 2 * RESPONSE_MICROS - 5, 0)

        async def is_delivered() -> bool:
            return await world.client.balance(account) == expected

        def wait(_: meterd_client.SyncMeter) -> None:
            asyncio.run_coroutine_threadsafe(serving.eventually(is_delivered), loop).result()

        await _in_thread(between.address, world.key, wait, spool=path)
        with meterd_client.Spool(path) as kept:
            assert kept.count() == 0
            assert kept.refused() == []


async def test_threads_share_a_meter(world: scenes.World) -> None:
    await world.funded("ada")

    def body(meter: meterd_client.SyncMeter) -> None:
        with futures.ThreadPoolExecutor(max_workers=8) as pool:
            for done in [pool.submit(_commits, meter) for _ in range(40)]:
                done.result()

    await _in_thread(world.target, world.key, body)
    assert await world.spent("ada") == 40 * RESPONSE_MICROS


async def test_an_ended_hold_is_let_go(world: scenes.World) -> None:
    """Its request may have a prompt of a MiB, and its next extension would be due in a long time."""
    account = await world.funded("ada")

    def body(meter: meterd_client.SyncMeter) -> None:
        ended = list[weakref.ref[meterd_client.SyncHold]]()
        for is_failing in (False, True):
            with contextlib.suppress(ConnectionError), meter.hold(account, **MODEL, ttl_ms=3_600_000) as hold:
                ended.append(weakref.ref(hold))
                if is_failing:
                    raise ConnectionError("of the provider")
                hold.commit(scenes.OPENAI_RESPONSE)
        del hold
        gc.collect()
        assert [one() for one in ended] == [None, None]

    await _in_thread(world.target, world.key, body)
