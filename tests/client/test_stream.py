"""Streams of each provider: whole, cut off, stopped, aborted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import meterd_client
from meterd_client.v1 import types_pb2
from tests.client import scenes

MODELS = {
    "openai": "gpt-4o-mini",
    "responses": "gpt-4o-mini",
    "anthropic": "claude-sonnet-4-5",
    "google": "gemini-2.5-flash",
}
OPENAI_USAGE = {"prompt_tokens": 1_000, "completion_tokens": 200, "total_tokens": 1_200}
RESPONSES_USAGE = {
    "input_tokens": 1_000,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 200,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 1_200,
}
# Whole streams of 1,000 tokens in and 200 out, of which Anthropic's read 100 from its cache.
WHOLE: dict[str, list[Any]] = {
    "openai": scenes.openai_chunks(200, usage=OPENAI_USAGE),
    "responses": scenes.responses_events(200, usage=RESPONSES_USAGE),
    "anthropic": scenes.anthropic_events(200, output_tokens=200),
    "google": scenes.gemini_chunks(200, finished=True),
}
# The same after 40 tokens out.
CUT: dict[str, list[Any]] = {
    "openai": scenes.openai_chunks(40)[:40],
    "responses": scenes.responses_events(40),
    "anthropic": scenes.anthropic_events(40),
    "google": scenes.gemini_chunks(40, finished=False),
}
PROVIDERS = sorted(MODELS)
WRAPS = {"dict": lambda chunk: chunk, "sdk": lambda chunk: scenes.Model(**chunk)}


async def _typed_micros(world: scenes.World, meter: meterd_client.Meter, provider: str, output_tokens: int) -> int:
    """What a known usage of the provider's model comes to."""
    account = await world.funded("typed")
    usage = types_pb2.Usage(input_tokens=1_000, output_tokens=output_tokens)
    if provider == "anthropic":
        usage.cache_read_tokens = 100
    settlement = await meter.charge(account, model=MODELS[provider], usage=usage)
    assert settlement is not None
    return settlement.charged_micros


def _options(provider: str) -> Any:
    return {"model": MODELS[provider], "input_tokens": 1_000, "max_output_tokens": 1_000}


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_whole_stream_is_charged_as_it_states(
    world: scenes.World, meter: meterd_client.Meter, provider: str, wrap: str
) -> None:
    account, seen = await world.funded("ada"), 0
    async with meter.hold(account, **_options(provider)) as hold:
        async for _ in hold.stream(scenes.chunks(*map(WRAPS[wrap], WHOLE[provider]))):
            seen += 1
    assert seen == len(WHOLE[provider])
    assert hold.settlement is not None
    assert hold.settlement.usage_state == types_pb2.USAGE_STATE_REPORTED
    assert hold.settlement.charged_micros == await _typed_micros(world, meter, provider, 200)


@pytest.mark.parametrize("how", ["raises", "body raises", "breaks", "is cancelled"])
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_stream_that_is_cut_off_is_charged_as_far_as_it_came(
    world: scenes.World, meter: meterd_client.Meter, provider: str, how: str
) -> None:
    account, is_closed = await world.funded("ada"), False
    at_end = asyncio.Event()

    async def source() -> AsyncIterator[Any]:
        nonlocal is_closed
        try:
            for chunk in CUT[provider]:
                yield chunk
            at_end.set()
            if how == "raises":
                raise scenes.Gone
            if how == "is cancelled":
                await asyncio.Event().wait()
            yield {}
        finally:
            is_closed = True

    holds: list[meterd_client.Hold] = []

    async def body() -> None:
        async with meter.hold(account, **_options(provider)) as hold:
            holds.append(hold)
            async for _ in hold.stream(source()):
                if at_end.is_set() and how == "body raises":
                    raise scenes.Gone
                if at_end.is_set() and how == "breaks":
                    break

    task = asyncio.create_task(body())
    await at_end.wait()
    if how == "is cancelled":
        task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    expected = {"raises": scenes.Gone, "body raises": scenes.Gone, "is cancelled": asyncio.CancelledError}
    assert type(outcome) is expected.get(how, type(None))
    (hold,) = holds
    assert hold.settlement is not None
    assert hold.settlement.usage_state == types_pb2.USAGE_STATE_PARTIAL
    assert hold.settlement.charged_micros == await _typed_micros(world, meter, provider, 40)
    assert is_closed


async def test_a_stream_that_fails_before_its_first_chunk_releases(
    world: scenes.World, meter: meterd_client.Meter
) -> None:
    account = await world.funded("ada")

    async def source() -> AsyncIterator[Any]:
        raise scenes.Gone
        yield {}

    hold = meter.hold(account, **_options("openai"))
    with pytest.raises(scenes.Gone):
        async with hold:
            async for _ in hold.stream(source()):
                pass
    assert hold.settlement is not None
    assert hold.settlement.state == types_pb2.HOLD_STATE_RELEASED


async def test_a_whole_stream_without_usage_is_charged_as_counted(
    world: scenes.World, meter: meterd_client.Meter
) -> None:
    account = await world.funded("ada")
    async with meter.hold(account, **_options("openai")) as hold:
        async for _ in hold.stream(scenes.chunks(*scenes.openai_chunks(200))):
            pass
    assert hold.settlement is not None
    assert hold.settlement.usage_state == types_pb2.USAGE_STATE_ESTIMATED
    assert hold.settlement.charged_micros == await _typed_micros(world, meter, "openai", 200)


async def test_two_streams_of_one_hold_are_charged_together(world: scenes.World, meter: meterd_client.Meter) -> None:
    account = await world.funded("ada")
    async with meter.hold(account, **_options("openai")) as hold:
        for _ in range(2):
            async for _ in hold.stream(scenes.chunks(*WHOLE["openai"])):
                pass
    assert hold.settlement is not None
    assert hold.settlement.usage_state == types_pb2.USAGE_STATE_REPORTED
    assert hold.settlement.charged_micros == 2 * await _typed_micros(world, meter, "openai", 200)


async def _endless(tokens: list[int]) -> AsyncIterator[Any]:
    """Goes on for ever, with a chunk whenever the loop has nothing else to do; counts what was asked of it."""
    chunk = scenes.openai_chunks(1)[0]
    try:
        while True:
            tokens[0] += 1
            await asyncio.sleep(0.0005)
            yield chunk
    finally:
        tokens[1] = 1


@pytest.mark.parametrize("on_stop", ["end", "raise"])
async def test_a_stream_that_nothing_covers_any_more_is_stopped(
    world: scenes.World, meter: meterd_client.Meter, on_stop: Any
) -> None:
    # 1,000 tokens in cost 150,000 micro-credits, a token out 600: the wallet pays for 750 of them.
    account, tokens = await world.funded("ada", 600_000), [0, 0]
    holds: list[meterd_client.Hold] = []

    async def body() -> None:
        options = _options("openai") | {"max_output_tokens": 100}
        async with meter.hold(account, **options) as hold:
            holds.append(hold)
            async for _ in hold.stream(_endless(tokens), on_stop=on_stop):
                pass

    if on_stop == "raise":
        with pytest.raises(meterd_client.StoppedError):
            await body()
    else:
        await body()
    (hold,) = holds
    assert hold.stopped
    assert tokens[1] == 1, "the provider's stream is closed"
    assert hold.settlement is not None
    assert hold.settlement.usage_state == types_pb2.USAGE_STATE_PARTIAL
    assert hold.settlement.uncollected_micros == 0
    # The first report shrinks it to what is left, and there it stops.
    assert tokens[0] == 750
    assert await world.client.balance(account) == (0, 0)


async def test_a_stream_whose_usage_meterd_cannot_read_is_charged_as_counted(
    world: scenes.World, meter: meterd_client.Meter
) -> None:
    account = await world.funded("ada")
    odd = scenes.openai_chunks(200, usage={"prompt_tokens": -5, "completion_tokens": 200})
    async with meter.hold(account, **_options("openai")) as hold:
        async for _ in hold.stream(scenes.chunks(*odd)):
            pass
    assert hold.settlement is not None
    assert hold.settlement.usage_state == types_pb2.USAGE_STATE_ESTIMATED
    assert hold.settlement.charged_micros == 120_000


async def test_a_stream_of_a_feature_is_charged_its_price(world: scenes.World, meter: meterd_client.Meter) -> None:
    account = await world.funded("ada")
    async with meter.hold(account, feature="cover_letter") as hold:
        async for _ in hold.stream(scenes.chunks(*WHOLE["openai"])):
            pass
        await hold.commit()
    assert await world.spent(account) == 12_000_000
