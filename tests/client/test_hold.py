"""How a block ends decides what its hold comes to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import meterd_client
from meterd_client.v1 import types_pb2
from tests.client import scenes
from tests.integration import serving

# gpt-4o-mini, 1,000 tokens in and 200 out: 150 µUSD and 120 µUSD. A credit is 0.001 USD.
RESPONSE_MICROS = 270_000
# The same with all 1,000 output tokens.
HOLD_MICROS = 750_000
MODEL: Any = {"model": "gpt-4o-mini", "input_tokens": 1_000, "max_output_tokens": 1_000}


async def test_a_commit_charges_the_response_and_returns_the_rest(
    world: scenes.World, meter: meterd_client.Meter
) -> None:
    account = await world.funded("ada")
    async with meter.hold(account, **MODEL, user="u1", operation_id="op-1", metadata={"page": "7"}) as hold:
        assert hold.amount_micros == HOLD_MICROS
        assert hold.max_output_tokens == 1_000
        settlement = await hold.commit(scenes.OPENAI_RESPONSE)
    assert settlement is not None
    assert settlement.charged_micros == RESPONSE_MICROS
    assert settlement.usage_state == types_pb2.USAGE_STATE_REPORTED
    assert await world.spent(account) == RESPONSE_MICROS


@pytest.mark.parametrize("name", ["gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-flash"])
@pytest.mark.parametrize("wrap", [dict, lambda body: scenes.Model(**body)], ids=["dict", "sdk"])
async def test_each_providers_response_is_charged_as_its_usage(
    world: scenes.World, meter: meterd_client.Meter, name: str, wrap: Any
) -> None:
    account = await world.funded("ada")
    body = {
        "gpt-4o-mini": scenes.OPENAI_RESPONSE,
        "claude-sonnet-4-5": scenes.ANTHROPIC_RESPONSE,
        "gemini-2.5-flash": scenes.GEMINI_RESPONSE,
    }[name]
    cached_tokens = 100 if name == "claude-sonnet-4-5" else 0
    usage = types_pb2.Usage(input_tokens=1_000, output_tokens=200, cache_read_tokens=cached_tokens)
    async with meter.hold(account, model=name, input_tokens=1_000, max_output_tokens=1_000) as hold:
        typed = await hold.commit(usage)
    async with meter.hold(account, model=name, input_tokens=1_000, max_output_tokens=1_000) as hold:
        read = await hold.commit(wrap(body))
    assert typed is not None and read is not None
    assert read.charged_micros == typed.charged_micros > 0
    assert read.usage_state == types_pb2.USAGE_STATE_REPORTED


async def test_a_block_that_raises_before_anything_was_used_releases(
    world: scenes.World, meter: meterd_client.Meter
) -> None:
    account = await world.funded("ada")
    hold = meter.hold(account, **MODEL)
    with pytest.raises(scenes.Gone):
        async with hold:
            raise scenes.Gone
    assert hold.settlement is not None
    assert hold.settlement.state == types_pb2.HOLD_STATE_RELEASED
    assert await world.spent(account) == 0


async def test_a_block_that_raises_after_a_report_charges_it_as_partial(
    world: scenes.World, meter: meterd_client.Meter
) -> None:
    account = await world.funded("ada")
    hold = meter.hold(account, **MODEL)
    with pytest.raises(scenes.Gone):
        async with hold:
            assert await hold.report(types_pb2.Usage(input_tokens=1_000, output_tokens=200))
            raise scenes.Gone
    assert hold.settlement is not None
    assert hold.settlement.usage_state == types_pb2.USAGE_STATE_PARTIAL
    assert await world.spent(account) == RESPONSE_MICROS


async def test_a_cancelled_block_charges_what_was_reported(world: scenes.World, meter: meterd_client.Meter) -> None:
    account, reported = await world.funded("ada"), asyncio.Event()

    async def body() -> None:
        async with meter.hold(account, **MODEL) as hold:
            await hold.report(types_pb2.Usage(input_tokens=1_000, output_tokens=200))
            reported.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await reported.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await world.spent(account) == RESPONSE_MICROS


async def test_a_caller_that_is_cancelled_at_each_await_still_settles(
    world: scenes.World, meter: meterd_client.Meter
) -> None:
    account, entered = await world.funded("ada"), asyncio.Event()

    async def body() -> None:
        async with meter.hold(account, **MODEL) as hold:
            await hold.report(types_pb2.Usage(input_tokens=1_000, output_tokens=200))
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await entered.wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    await meter.close()
    assert await world.spent(account) == RESPONSE_MICROS


async def test_a_call_that_is_cancelled_while_it_reserves_leaves_no_hold(
    world: scenes.World, meter: meterd_client.Meter
) -> None:
    account = await world.funded("ada")
    for turns in range(12):
        task = asyncio.create_task(meter.hold(account, **MODEL).__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await meter.close()
    assert await world.spent(account) == 0


async def test_a_finished_model_call_without_a_word_is_charged_in_full(
    world: scenes.World, meter: meterd_client.Meter
) -> None:
    account = await world.funded("ada")
    with pytest.raises(meterd_client.MissingUsageError) as caught:
        async with meter.hold(account, **MODEL):
            pass
    assert caught.value.settlement is not None
    assert caught.value.settlement.usage_state == types_pb2.USAGE_STATE_ABSENT
    assert await world.spent(account) == HOLD_MICROS


async def test_a_response_without_usage_is_charged_in_full(world: scenes.World, meter: meterd_client.Meter) -> None:
    account = await world.funded("ada")
    async with meter.hold(account, **MODEL) as hold:
        await hold.commit({"id": "x", "choices": []})
    assert hold.settlement is not None
    assert hold.settlement.usage_state == types_pb2.USAGE_STATE_ABSENT
    assert await world.spent(account) == HOLD_MICROS


async def test_a_commit_that_is_refused_is_no_free_call(world: scenes.World, meter: meterd_client.Meter) -> None:
    account = await world.funded("ada")
    with pytest.raises(meterd_client.InvalidArgumentError):
        async with meter.hold(account, **MODEL) as hold:
            await hold.commit(types_pb2.Usage(input_tokens=-1))
    assert await world.spent(account) == HOLD_MICROS


@pytest.mark.parametrize(
    ("options", "expected_micros"),
    [
        ({"feature": "cover_letter", "quantity": 2}, 24_000_000),
        ({"rate": "vm_minute", "quantity": "2.5"}, 1_250_000),
        ({"credits_micros": 77}, 77),
    ],
)
async def test_what_has_a_fixed_price_is_charged_when_the_block_ends(
    world: scenes.World, meter: meterd_client.Meter, options: Any, expected_micros: int
) -> None:
    account = await world.funded("ada")
    async with meter.hold(account, **options):
        pass
    assert await world.spent(account) == expected_micros
    with pytest.raises(scenes.Gone):
        async with meter.hold(account, **options):
            raise scenes.Gone
    assert await world.spent(account) == expected_micros


async def test_a_rate_is_charged_by_its_real_quantity(world: scenes.World, meter: meterd_client.Meter) -> None:
    account = await world.funded("ada")
    async with meter.hold(account, rate="vm_minute", quantity=60) as hold:
        await hold.commit(quantity="7.5")
    assert await world.spent(account) == 3_750_000


async def test_an_ended_hold_ends_once(world: scenes.World, meter: meterd_client.Meter) -> None:
    account = await world.funded("ada")
    async with meter.hold(account, **MODEL) as hold:
        first = await hold.commit(scenes.OPENAI_RESPONSE)
        assert await hold.release() is first
        assert await hold.commit(types_pb2.Usage(input_tokens=1)) is first
    assert await world.spent(account) == RESPONSE_MICROS


async def test_a_prompt_is_counted_by_meterd(world: scenes.World, meter: meterd_client.Meter) -> None:
    account = await world.funded("ada")
    messages = [{"role": "user", "content": [{"type": "text", "text": "hello world"}]}]
    async with meter.hold(account, model="gpt-4o-mini", prompt=messages, max_output_tokens=10) as hold:
        await hold.release("not sent")
    estimate = await meter.estimate(model="gpt-4o-mini", prompt="user\nhello world", max_output_tokens=10)
    assert estimate.input_tokens == 4
    assert hold.amount_micros == estimate.amount_micros


async def test_a_denial_is_an_error_with_its_reasons(world: scenes.World, meter: meterd_client.Meter) -> None:
    account = await world.funded("poor", 400_000)
    with pytest.raises(meterd_client.DeniedError) as caught:
        async with meter.hold(account, **MODEL):
            raise AssertionError("the block does not run")
    assert caught.value.codes == ("INSUFFICIENT_CREDITS",)
    assert caught.value.available_micros == 400_000
    assert caught.value.required_micros == HOLD_MICROS
    assert caught.value.affordable_output_tokens == 416
    assert caught.value.retry_at is None
    async with meter.hold(account, **MODEL, min_output_tokens=100) as hold:
        assert hold.max_output_tokens == 416
        await hold.release()


async def test_a_charge_needs_no_hold(world: scenes.World, meter: meterd_client.Meter) -> None:
    account = await world.funded("ada")
    key = meterd_client.uuid7()
    first = await meter.charge(account, feature="cover_letter", idempotency_key=key)
    again = await meter.charge(account, feature="cover_letter", idempotency_key=key)
    assert first is not None and again is not None
    assert first.charged_micros == again.charged_micros == 12_000_000
    used = await meter.charge(account, model="gpt-4o-mini", usage=scenes.OPENAI_RESPONSE)
    assert used is not None
    assert await world.spent(account) == 12_000_000 + RESPONSE_MICROS
    with pytest.raises(meterd_client.ConflictError):
        await meter.charge(account, feature="cover_letter", quantity=2, idempotency_key=key)
    with pytest.raises(meterd_client.DeniedError):
        await meter.charge(account, credits_micros=10**12)
    balance = await meter.balance(account)
    assert balance.wallets[0].available_micros == scenes.FUNDS_MICROS - 12_000_000 - RESPONSE_MICROS


async def test_what_is_wrong_is_refused_by_name(world: scenes.World, meter: meterd_client.Meter) -> None:
    await world.funded("ada")
    with pytest.raises(meterd_client.NotFoundError):
        async with meter.hold("nobody", credits_micros=1):
            pass
    with pytest.raises(meterd_client.InvalidArgumentError, match="ttl_ms"):
        async with meter.hold("ada", credits_micros=1, ttl_ms=1):
            pass
    async with meterd_client.Meter(world.target, key="mk_wrong") as stranger:
        with pytest.raises(meterd_client.AuthenticationError):
            await stranger.balance("ada")
    with pytest.raises(TypeError, match="exactly one"):
        meter.hold("ada", model="x", feature="y")
    with pytest.raises(TypeError, match="tokens"):
        meter.hold("ada", credits_micros=1, tokens=5)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


async def test_a_hold_is_extended_while_its_block_runs(world: scenes.World, meter: meterd_client.Meter) -> None:
    account = await world.funded("ada")
    async with meter.hold(account, **MODEL, ttl_ms=1_000) as hold:
        (before,) = await world.holds(account)

        async def is_extended() -> bool:
            (now,) = await world.holds(account)
            return now.expires_at.ToMilliseconds() > before.expires_at.ToMilliseconds() + 1_000

        # Twice: an extension begins the next one.
        await serving.eventually(is_extended)
        await hold.commit(scenes.OPENAI_RESPONSE)
    assert hold.settlement is not None
    assert hold.settlement.state == types_pb2.HOLD_STATE_COMMITTED
