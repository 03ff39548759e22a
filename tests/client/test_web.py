"""Middleware and decorators."""

from __future__ import annotations

import json
from typing import Any

import pytest
import starlette.applications
import starlette.middleware
import starlette.requests
import starlette.responses
import starlette.routing

import meterd_client
from meterd_client import asgi
from tests.client import proxy, scenes

MODEL: Any = {"model": "gpt-4o-mini", "input_tokens": 1_000, "max_output_tokens": 1_000}


async def _get(app: asgi.App, path: str) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of an app's answer."""
    sent: list[asgi.Message] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def receive() -> asgi.Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: asgi.Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


def _app(meter: meterd_client.Meter) -> asgi.App:
    async def answer(request: starlette.requests.Request) -> starlette.responses.JSONResponse:
        async with meter.hold(request.path_params["account"], **MODEL) as hold:
            settlement = await hold.commit(scenes.OPENAI_RESPONSE)
        return starlette.responses.JSONResponse({"charged": settlement.charged_micros if settlement else None})

    return starlette.applications.Starlette(
        routes=[starlette.routing.Route("/{account}", answer)],
        middleware=[starlette.middleware.Middleware(meterd_client.MeterMiddleware)],
    )


async def test_a_denial_is_a_402_with_its_reasons(world: scenes.World, meter: meterd_client.Meter) -> None:
    await world.funded("ada")
    await world.funded("poor", 400_000)
    assert (await _get(_app(meter), "/ada"))[::2] == (200, {"charged": 270_000})
    status, headers, body = await _get(_app(meter), "/poor")
    assert status == 402
    assert headers["content-type"] == "application/json"
    assert body == {
        "error": "payment_required",
        "reasons": [{"code": "INSUFFICIENT_CREDITS", "scope": "wallet:default"}],
        "available_micros": 400_000,
        "required_micros": 750_000,
        "affordable_output_tokens": 416,
        "retry_at": None,
    }


async def test_undecided_is_a_503(world: scenes.World) -> None:
    async with proxy.running(world.target) as between:
        between.is_refusing = True
        async with meterd_client.Meter(between.address, key=world.key, timeout_s=0.2) as meter:
            status, headers, body = await _get(_app(meter), "/ada")
    assert (status, headers["retry-after"], body) == (503, "1", {"error": "metering_unavailable"})


async def test_a_decorated_function_runs_under_a_hold(world: scenes.World, meter: meterd_client.Meter) -> None:
    account = await world.funded("ada")

    @meterd_client.metered(meter, account=lambda user, **_: user, **MODEL)
    async def ask(hold: meterd_client.Hold, user: str, *, question: str) -> str:
        await hold.commit(scenes.OPENAI_RESPONSE)
        return f"{user}: {question}"

    @meterd_client.metered(meter, account=account, feature="cover_letter")
    async def write(hold: meterd_client.Hold) -> int:
        return hold.amount_micros

    assert await ask("ada", question="why") == "ada: why"
    assert await write() == 12_000_000
    assert await world.spent(account) == 12_270_000


def test_a_function_of_the_other_kind_is_not_decorated() -> None:
    meter = meterd_client.Meter("localhost:1")
    with pytest.raises(TypeError, match="no async function"):

        @meterd_client.metered(meter, account="ada", credits_micros=1)  # pyright: ignore[reportArgumentType]
        def ask(hold: meterd_client.Hold) -> int:
            return hold.amount_micros

        ask()
    with meterd_client.SyncMeter("localhost:1") as other, pytest.raises(TypeError, match="awaited"):

        @meterd_client.sync_metered(other, account="ada", credits_micros=1)
        async def wait(hold: meterd_client.SyncHold) -> int:
            return hold.amount_micros

        assert wait is None
