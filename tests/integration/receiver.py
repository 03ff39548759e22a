"""A receiver of webhooks on loopback that answers as a test says, and checks signatures with the reference implementation."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import standardwebhooks
from aiohttp import web

Answer = Callable[[int], Awaitable[web.Response]]


@dataclasses.dataclass
class Receiver:
    """`requests` are all that came: headers and body. `answer` gets the number of the request, from 1."""

    url: str = ""
    answer: Answer | None = None
    requests: list[tuple[dict[str, str], bytes]] = dataclasses.field(default_factory=list[tuple[dict[str, str], bytes]])
    in_flight: int = 0
    in_flight_max: int = 0
    came: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.Response:
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)
        try:
            data = await request.read()
            self.requests.append(({name.lower(): value for name, value in request.headers.items()}, data))
            self.came.set()
            return await self.answer(len(self.requests)) if self.answer else web.Response()
        finally:
            self.in_flight -= 1

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.requests]

    def verified(self, secret: str) -> list[dict[str, Any]]:
        """The bodies; raises if a signature is not right."""
        return [standardwebhooks.Webhook(secret).verify(data, headers) for headers, data in self.requests]

    def types(self) -> list[str]:
        return [json.loads(data)["type"] for _, data in self.requests]


def status(*codes: int, **options: Any) -> Answer:
    """Answers with these in turn; the last one from then on."""

    async def answer(number: int) -> web.Response:
        return web.Response(status=codes[min(number, len(codes)) - 1], **options)

    return answer


@contextlib.asynccontextmanager
async def receiving(answer: Answer | None = None) -> AsyncGenerator[Receiver]:
    made = Receiver(answer=answer)
    application = web.Application()
    application.router.add_post("/hook", made.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    made.url = f"http://{host}:{port}/hook"
    try:
        yield made
    finally:
        await runner.cleanup()
