"""The network cuts a connection within each part of a call: one charge each, one record in Postgres, no hold left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

import meterd_client
from meterd_client.v1 import accounts_pb2
from tests.client import cuts, scenes
from tests.integration import serving

MODEL: Any = {"model": "gpt-4o-mini", "input_tokens": 1_000, "max_output_tokens": 1_000}
RESPONSE_MICROS = 270_000
OPTIONS: Any = {"timeout_s": 20.0, "attempt_timeout_s": 10.0}
PLACES = cuts.PLACES | cuts.TRAILER_PLACES


@pytest_asyncio.fixture
async def world(database: str, redis_url: str) -> AsyncIterator[scenes.World]:
    """With workers: what is charged comes to Postgres."""
    scene = await serving.scene(database, redis_url)
    async with serving.running(serving.settings_of(scene.dsn, scene.redis_url, workers=True)) as server:
        yield scenes.World(server=server, client=server.client(scene.key), key=scene.key, scene=scene)


@contextlib.asynccontextmanager
async def _cutting(world: scenes.World, call: int, where: str) -> AsyncGenerator[cuts.CuttingProxy]:
    between = cuts.CuttingProxy(world.target, call=call, place=PLACES[where])
    await between.start()
    try:
        yield between
    finally:
        await between.stop()
    assert between.is_cut, where


async def _lifecycle(target: str, key: str, account: str) -> None:
    async with meterd_client.Meter(target, key=key, **OPTIONS) as meter, meter.hold(account, **MODEL) as hold:
        await hold.commit(scenes.OPENAI_RESPONSE)


def _sync_lifecycle(target: str, key: str, account: str) -> None:
    with meterd_client.SyncMeter(target, key=key, **OPTIONS) as meter, meter.hold(account, **MODEL) as hold:
        hold.commit(scenes.OPENAI_RESPONSE)


async def _charges_micros(world: scenes.World, account: str) -> list[int]:
    """The account's settlements in Postgres."""
    asked = accounts_pb2.ListTransactionsRequest(account_id=account, page_size=100)
    answer = await world.client.call("ListTransactions", asked)
    return [one.settlement.charged_micros for one in answer.transactions if one.HasField("settlement")]


@pytest.mark.parametrize("is_sync", [False, True], ids=["async", "sync"])
@pytest.mark.parametrize(("call", "method"), [(0, "Reserve"), (1, "Commit")])
async def test_a_cut_within_any_part_of_a_call_makes_one_charge(
    world: scenes.World, call: int, method: str, is_sync: bool
) -> None:
    async def cut(where: str) -> str:
        account = await world.funded(f"{method} {where}")
        async with _cutting(world, call, where) as between:
            if is_sync:
                await asyncio.to_thread(_sync_lifecycle, between.address, world.key, account)
            else:
                await _lifecycle(between.address, world.key, account)
        return account

    accounts = await asyncio.gather(*(cut(where) for where in PLACES))

    async def is_recorded() -> bool:
        return all([await _charges_micros(world, account) for account in accounts])

    await serving.eventually(is_recorded)
    for account in accounts:
        await world.settled(account)
        assert await world.spent(account) == RESPONSE_MICROS, account
        assert await _charges_micros(world, account) == [RESPONSE_MICROS], account
    assert await serving.findings(world.scene.dsn, world.scene.redis_url) == []
