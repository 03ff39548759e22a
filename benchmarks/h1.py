"""A lean HTTP/1.1 client for the wires beside gRPC: one call at a time on each of many connections, written and read by hand."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import cast

from benchmarks import h2

_PREFIX = struct.Struct(">BI")
_LENGTH = b"\r\ncontent-length: "


class _Connection(asyncio.Protocol):
    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._buffer = b""
        self._done: h2.Done | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._pool.lost.done():
            self._pool.lost.set_result(None)
        if self._done is not None:
            self._done(None, f"the connection was lost: {exc}".encode())

    def send(self, data: bytes, done: h2.Done) -> None:
        assert self._transport is not None
        self._done = done
        self._transport.write(data)

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        start = head.index(_LENGTH) + len(_LENGTH)
        if len(body) < int(head[start:].partition(b"\r\n")[0]):
            return
        done, self._done, self._buffer = self._done, None, b""
        assert done is not None
        self._pool.idle.append(self)
        if head.startswith(b"HTTP/1.1 200"):
            self._pool.answer(body, done)
        else:
            done(None, head + body)


class Pool:
    """What load.Runner needs of a connection. `content_type` says the wire."""

    def __init__(self, authority: str, key: str, content_type: str) -> None:
        self._is_web = content_type.startswith("application/grpc-web")
        self._tail = (
            f" HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {key}\r\ncontent-type: {content_type}\r\n"
            "connect-protocol-version: 1\r\ncontent-length: "
        ).encode()
        self.idle: list[_Connection] = []
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def call(self, path: bytes, message: bytes, done: h2.Done) -> None:
        """Sends a call; its answer goes to `done`. There must be an idle connection."""
        if self._is_web:
            message = _PREFIX.pack(0, len(message)) + message
        self.idle.pop().send(b"POST %s%s%d\r\n\r\n%s" % (path, self._tail, len(message), message), done)

    def answer(self, body: bytes, done: h2.Done) -> None:
        if not self._is_web:
            return done(body, b"")
        flags, length = _PREFIX.unpack_from(body)
        return done(None, body) if flags else done(body[_PREFIX.size : _PREFIX.size + length], b"")

    def close(self) -> None:
        for connection in self.idle:
            connection.close()


async def connect(host: str, port: int, key: str, content_type: str, count: int) -> Pool:
    """So many connections."""
    pool = Pool(f"{host}:{port}", key, content_type)
    make: Callable[[], _Connection] = lambda: _Connection(pool)  # noqa: E731
    for _ in range(count):
        _, made = await asyncio.get_running_loop().create_connection(make, host, port)
        pool.idle.append(made)
    return pool
