"""Calls by plain curl: those that README.md and docs/HTTP.md show, as they stand there, and one of every method."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import re
import shutil
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf import json_format

from tests.integration import bad_events, bad_input, serving

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_ADDRESS = "http://127.0.0.1:8262"

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest_asyncio.fixture
async def scene(database: str, redis_url: str) -> serving.Scene:
    return await serving.scene(database, redis_url)


@pytest_asyncio.fixture
async def server(scene: serving.Scene, tmp_path: pathlib.Path) -> AsyncGenerator[serving.Server]:
    prices = tmp_path / "prices.yaml"
    prices.write_text(serving.PRICES)
    settings = serving.settings_of(scene.dsn, scene.redis_url, http_address="127.0.0.1:0", prices_file=str(prices))
    async with serving.running(settings) as found:
        yield found


async def output(script: str, server: serving.Server, key: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euc",
        script.replace(_ADDRESS, server.http_url),
        env=os.environ | {"METERD_KEY": key, "METERD_ADMIN_KEY": key},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(serving.CALL_TIMEOUT_S):
        found, _ = await process.communicate()
    assert process.returncode == 0
    return found.decode()


def shown(path: str) -> list[str]:
    """The document's commands that call curl."""
    text = (_ROOT / path).read_text(encoding="utf-8")
    return [body for body in re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M) if body.startswith("curl ")]


async def test_what_the_documents_show_is_answered_as_they_say(server: serving.Server, scene: serving.Scene) -> None:
    await server.client(scene.key).fund("demo-account", 10**11)
    (reserve,) = shown("README.md")
    hold = json.loads(await output(reserve, server, scene.key))["hold"]
    assert (hold["amountMicros"], hold["costEstimateUsd"], hold["maxOutputTokens"]) == ("420000", "0.00042", "400")
    balance, denied, token = shown("docs/HTTP.md")
    (wallet,) = json.loads(await output(balance, server, scene.key))["wallets"]
    assert wallet["availableMicros"] == str(10**11 - 420_000)
    body, status = (await output(denied, server, scene.key)).rsplit("}", 1)
    assert (status, json.loads(body + "}")["denial"]["requiredMicros"]) == ("402\n", "9000000000000000")
    made = json.loads(await output(token, server, scene.key))["token"]
    assert json.loads(await output(balance, server, made))["wallets"] == [wallet]


async def test_every_unary_method_is_answered_to_curl(server: serving.Server, scene: serving.Scene) -> None:
    admin = server.client(scene.key)
    other = server.client((await serving.new_key(scene.dsn, "other", "admin")).key)
    world = await bad_input.made_world(admin, other, "acct")
    await bad_events.add_webhooks(world, other)
    others = [name for name in serving.METHODS if name not in bad_input.GOOD and name not in ("Stream", "Watch")]
    for name in (*bad_input.ORDER, *others):
        path, kind, answer = serving.METHODS[name]
        request: Any = kind()
        if name in bad_input.GOOD:
            request = bad_input.request_of(name, world, {})
        call = [
            "curl",
            "-s",
            server.http_url + path,
            *("-H", f"authorization: Bearer {scene.key}", "-H", "content-type: application/json"),
            *("-d", json.dumps(json_format.MessageToDict(request))),
        ]
        process = await asyncio.create_subprocess_exec(*call, stdout=asyncio.subprocess.PIPE)
        found = json.loads((await process.communicate())[0])
        if name in bad_input.GOOD:
            assert "code" not in found, (name, found)
        if "code" in found:
            assert found["code"] == "invalid_argument", (name, found)
        else:
            json_format.ParseDict(found, answer())
