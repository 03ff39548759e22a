"""The network and the server fail in the midst of calls: one charge each, no hold left behind, no finished call for nothing."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import meterd_client
from meterd_client.v1 import types_pb2
from tests.client import proxy, scenes
from tests.integration import serving

MODEL: Any = {"model": "gpt-4o-mini", "input_tokens": 1_000, "max_output_tokens": 1_000}
RESPONSE_MICROS = 270_000
# Places in each direction at which the connection is cut, besides its very first and last bytes.
CUTS = 12


async def _lifecycle(meter: meterd_client.Meter, account: str) -> types_pb2.Settlement:
    async with meter.hold(account, **MODEL) as hold:
        settlement = await hold.commit(scenes.OPENAI_RESPONSE)
    assert settlement is not None
    return settlement


def _meter(world: scenes.World, target: str, **options: Any) -> meterd_client.Meter:
    values: dict[str, Any] = {"timeout_s": 20.0, "attempt_timeout_s": 10.0}
    return meterd_client.Meter(target, key=world.key, **values | options)


@pytest.mark.parametrize("direction", ["cut_up", "cut_down"])
async def test_a_connection_that_is_cut_at_any_byte_makes_one_charge(world: scenes.World, direction: str) -> None:
    async with proxy.running(world.target) as between:
        async with _meter(world, between.address) as meter:
            await _lifecycle(meter, await world.funded("whole"))
            whole = between.up if direction == "cut_up" else between.down
        places = sorted({0, 1, whole - 1, whole, *(whole * step // CUTS for step in range(1, CUTS))})
        for place in places:
            account, before = await world.funded(f"cut-{place}"), between.connections
            setattr(between, direction, place)
            async with _meter(world, between.address) as meter:
                await _lifecycle(meter, account)
            await world.settled(account)
            assert await world.spent(account) == RESPONSE_MICROS, f"cut at byte {place} of {whole}"
            # The last bytes may be those of the connection's own end.
            assert between.connections - before >= (2 if place < whole - 64 else 1)


async def test_a_stream_whose_connection_is_cut_all_the_time_is_charged_once(world: scenes.World) -> None:
    account = await world.funded("ada")

    async def source() -> AsyncIterator[Any]:
        for number, chunk in enumerate(scenes.openai_chunks(600, usage=_usage(600))):
            if number % 100 == 50:
                between.cut()
            yield chunk
            await asyncio.sleep(0)

    async with (
        proxy.running(world.target) as between,
        _meter(world, between.address) as meter,
        meter.hold(account, **MODEL) as hold,
    ):
        async for _ in hold.stream(source()):
            pass
    assert hold.settlement is not None
    assert hold.settlement.usage_state == types_pb2.USAGE_STATE_REPORTED
    assert await world.spent(account) == 150_000 + 600 * 600


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 1_000, "completion_tokens": tokens, "total_tokens": 1_000 + tokens}


async def test_without_a_spool_an_outage_is_waited_for(world: scenes.World) -> None:
    account = await world.funded("ada")
    async with (
        proxy.running(world.target) as between,
        _meter(world, between.address, settle_timeout_s=30.0) as meter,
        meter.hold(account, **MODEL) as hold,
    ):
        between.is_refusing = True
        between.cut()
        committing = asyncio.create_task(hold.commit(scenes.OPENAI_RESPONSE))
        seen = between.connections
        await serving.eventually(lambda: _reached(between, seen + 2))
        between.is_refusing = False
        settlement = await committing
    assert settlement is not None
    assert await world.spent(account) == RESPONSE_MICROS


async def _reached(between: proxy.Proxy, connections: int) -> bool:
    return between.connections >= connections


async def test_undecided_is_told_with_the_id_that_a_retry_needs(world: scenes.World) -> None:
    account, hold_id = await world.funded("ada"), meterd_client.uuid7()
    async with proxy.running(world.target) as between, _meter(world, between.address, timeout_s=0.3) as meter:
        between.is_refusing = True
        with pytest.raises(meterd_client.UndecidedError) as caught:
            async with meter.hold(account, **MODEL, hold_id=hold_id):
                raise AssertionError("the block does not run")
        assert caught.value.id == hold_id
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(meterd_client.UndecidedError) as caught:
            await meter.charge(account, credits_micros=5, idempotency_key=hold_id)
        assert caught.value.id == hold_id
    assert await world.spent(account) == 0


async def test_a_server_that_restarts_in_mid_hold_gets_the_commit(
    database: str, redis_url: str, tmp_path: pathlib.Path
) -> None:
    scene, listen = await serving.scene(database, redis_url), serving.http_address()
    settings = serving.settings_of(scene.dsn, scene.redis_url, listen=listen)
    async with meterd_client.Meter(listen, key=scene.key, timeout_s=2.0, spool=tmp_path / "spool.db") as meter:
        async with serving.running(settings) as server:
            await server.client(scene.key).fund("ada", scenes.FUNDS_MICROS)
            hold = await meter.hold("ada", **MODEL).__aenter__()
        assert await hold.commit(scenes.OPENAI_RESPONSE) is None
        await hold.__aexit__(None, None, None)
        async with serving.running(settings) as server:
            client = server.client(scene.key)
            await serving.eventually(lambda: _has(client, "ada", scenes.FUNDS_MICROS - RESPONSE_MICROS))
            with meterd_client.Spool(tmp_path / "spool.db") as kept:
                await serving.eventually(lambda: _is_empty(kept))


async def _has(client: serving.Client, account: str, available_micros: int) -> bool:
    return await client.balance(account) == (available_micros, 0)


async def _is_empty(kept: meterd_client.Spool) -> bool:
    return kept.count() == 0


async def test_what_is_let_pass_unmetered_is_charged_later(world: scenes.World, tmp_path: pathlib.Path) -> None:
    account, path = await world.funded("ada"), tmp_path / "spool.db"
    async with proxy.running(world.target) as between:
        options: Any = {"timeout_s": 0.2, "spool": path, "on_undecided": "allow"}
        async with _meter(world, between.address, **options) as meter:
            between.is_refusing = True
            async with meter.hold(account, **MODEL) as hold:
                assert not hold.is_metered
                assert hold.max_output_tokens == 1_000
                assert await hold.commit(scenes.OPENAI_RESPONSE) is None
            async with meter.hold(account, **MODEL) as hold:
                async for _ in hold.stream(scenes.chunks(*scenes.openai_chunks(200, usage=_usage(200)))):
                    pass
            async with meter.hold(account, feature="cover_letter"):
                pass
            with pytest.raises(scenes.Gone):
                async with meter.hold(account, **MODEL):
                    raise scenes.Gone
            with pytest.raises(meterd_client.MissingUsageError):
                async with meter.hold(account, **MODEL):
                    pass
            assert await meter.charge(account, credits_micros=5) is None
            assert await world.spent(account) == 0
            between.is_refusing = False
            expected_micros = 2 * RESPONSE_MICROS + 12_000_000 + 750_000 + 5
            await serving.eventually(lambda: _has(world.client, account, scenes.FUNDS_MICROS - expected_micros))


async def test_a_denial_is_never_let_pass(world: scenes.World, tmp_path: pathlib.Path) -> None:
    account = await world.funded("poor", 1)
    async with _meter(world, world.target, spool=tmp_path / "spool.db", on_undecided="allow") as meter:
        with pytest.raises(meterd_client.DeniedError):
            async with meter.hold(account, **MODEL):
                raise AssertionError("the block does not run")


async def test_who_lets_pass_needs_a_spool_and_holds_that_do_not_charge_by_themselves(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="spool"):
        meterd_client.Meter("localhost:1", on_undecided="allow")
    async with meterd_client.Meter("localhost:1", on_undecided="allow", spool=tmp_path / "spool.db") as meter:
        with pytest.raises(ValueError, match="charge_estimate"):
            meter.hold("ada", **MODEL, expiry_policy="charge_estimate")


async def test_overload_is_waited_out_as_the_server_asks(world: scenes.World) -> None:
    settings = serving.settings_of(world.scene.dsn, world.scene.redis_url, in_flight_max=1)
    async with serving.running(settings) as narrow:
        account = await world.funded("ada")
        async with _meter(world, narrow.address) as meter:
            await asyncio.gather(*(meter.charge(account, credits_micros=7) for _ in range(20)))
    assert await world.spent(account) == 140
