"""The HTTP/1.1 listener: uvicorn in the loop that gRPC runs in, with limits of its own and certificates that can be replaced."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http import httptools_impl

from meterd.core import errors
from meterd.server import credentials, options

_log = logging.getLogger(__name__)

# A connection that is not used is closed after this time; clients and proxies keep theirs for a minute, and must not be the later ones.
KEEP_ALIVE_S = 75
# A head that takes longer is a client that means to occupy the connection.
HEAD_TIMEOUT_S = 10.0
BACKLOG = 2048
# Of what was sent to a client that is not there any more, the kernel despairs after this time.
UNACKNOWLEDGED_MS = 120_000
_PORT_MAX = 65_535
# The name of it is missing where the kernel has none.
_TCP_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class _Protocol(httptools_impl.HttpToolsProtocol):
    """uvicorn's, with a limit on the size of a request's head and on the time that it takes."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(HEAD_TIMEOUT_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._end_head()
        if not self.transport.is_closing():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.transport.is_closing():
            super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > options.METADATA_BYTES_MAX and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Listener:
    """Made by `opened`; `close` ends it."""

    def __init__(self, server: uvicorn.Server, bound: socket.socket, address: str) -> None:
        self._server = server
        self._socket = bound
        self._ticking: asyncio.Task[None] | None = None
        # host:port, with the port that was given where port 0 was asked for.
        self.address = address

    async def start(self) -> None:
        """Begins to answer."""
        await self._server.startup(sockets=[self._socket])
        self._ticking = asyncio.create_task(self._server.main_loop(), name="meterd-web")

    async def close(self) -> None:
        """Takes no more connections, and waits for calls in work as long as uvicorn was told to; then cancels them."""
        self._server.should_exit = True
        if self._ticking is None:
            self._socket.close()
            return
        await self._ticking
        await self._server.shutdown(sockets=[self._socket])


def opened(
    address: str, app: Callable[..., Any], *, tls: credentials.Files | None, allow_plaintext: bool, drain_ms: int
) -> Listener:
    """A listener that is bound, and does not answer yet.

    ConfigError: it cannot listen there, or keys would cross a network in plaintext.
    """
    if tls is None:
        credentials.check_plaintext(address, allow_plaintext)
    bound = _bound(address)
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=_Protocol,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=-(-drain_ms // 1000),
    )
    config.load()
    if tls is not None:
        config.ssl = credentials.server_context(tls)
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    host = address.rpartition(":")[0]
    return Listener(server, bound, f"{host}:{bound.getsockname()[1]}")


def _bound(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not host or not port.isdigit() or int(port) > _PORT_MAX:
            raise ValueError("must be host:port")
        (family, kind, protocol, _, found), *_ = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if _TCP_USER_TIMEOUT is not None:
                made.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
            made.bind(found)
            made.setblocking(False)
        except BaseException:
            made.close()
            raise
        return made
    except (OSError, ValueError) as exc:
        raise errors.ConfigError(f"METERD_HTTP_ADDRESS: cannot listen on {address}: {exc}") from exc
