"""The world of the client's tests."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator

import pytest_asyncio

import meterd_client
from tests.client import scenes
from tests.integration import serving


@pytest_asyncio.fixture
async def world(database: str, redis_url: str, tmp_path: pathlib.Path) -> AsyncIterator[scenes.World]:
    scene = await serving.scene(database, redis_url)
    prices = tmp_path / "prices.yaml"
    prices.write_text(serving.PRICES)
    settings = serving.settings_of(scene.dsn, scene.redis_url, prices_file=str(prices))
    async with serving.running(settings) as server:
        yield scenes.World(server=server, client=server.client(scene.key), key=scene.key, scene=scene)


@pytest_asyncio.fixture
async def meter(world: scenes.World) -> AsyncIterator[meterd_client.Meter]:
    async with meterd_client.Meter(world.target, key=world.key, timeout_s=20.0, attempt_timeout_s=20.0) as meter:
        yield meter
