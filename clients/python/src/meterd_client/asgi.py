"""ASGI: answers of HTTP for what metering calls raise. Works with Starlette, FastAPI and any other; needs none of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from meterd_client import errors

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class MeterMiddleware:
    """Answers a DeniedError that an app raises with 402 and its reasons as JSON (DeniedError.as_dict), an UndecidedError with 503 and
    Retry-After. An error after the response has begun is raised as it is: its status is sent already.

    Inside a framework that turns exceptions into answers itself (as Starlette does with those it has no handler for), add it there too, as
    middleware of the framework, so that it is nearer to the app than the framework's own.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def sent(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except errors.DeniedError as denied:
            if has_begun:
                raise
            await _answer(send, 402, denied.as_dict(), ())
        except errors.UndecidedError:
            if has_begun:
                raise
            await _answer(send, 503, {"error": "metering_unavailable"}, (("retry-after", str(errors.RETRY_AFTER_S)),))


async def _answer(send: Send, status: int, body: dict[str, Any], headers: tuple[tuple[str, str], ...]) -> None:
    content = json.dumps(body).encode()
    pairs = (("content-type", "application/json"), ("content-length", str(len(content))), *headers)
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in pairs],
        }
    )
    await send({"type": "http.response.body", "body": content})
