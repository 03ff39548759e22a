"""A TCP proxy that cuts the connection at a byte, holds up what comes, or lets nothing through."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator


class Proxy:
    """`up` and `down` count the bytes of the present connection to and from the server.

    `cut_up` and `cut_down` cut the next connection when so many bytes have passed: those before are delivered, those after are not. Later
    connections pass whole.
    """

    def __init__(self, target: str) -> None:
        self._upstream = _split(target)
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._served: set[asyncio.Task[None]] = set()
        self.address = ""
        self.connections = 0
        self.up = 0
        self.down = 0
        self.cut_up: int | None = None
        self.cut_down: int | None = None
        self.is_refusing = False
        self._cuts: tuple[int | None, int | None] = (None, None)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self._flows.set()
        self.cut()
        await asyncio.gather(*self._served, return_exceptions=True)

    def cut(self) -> None:
        """Cuts all connections now."""
        for writer in self._open:
            writer.transport.abort()

    def hold(self) -> None:
        """From now on nothing passes, as behind a switch that is out of order: connections stand, and neither end hears of it."""
        self._flows.clear()

    def lead_to(self, target: str) -> None:
        """Cuts all connections; the next ones go to another server."""
        self._upstream = _split(target)
        self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        task.add_done_callback(self._served.discard)
        self._cuts, self.cut_up, self.cut_down = (self.cut_up, self.cut_down), None, None
        self.up = self.down = 0
        if self.is_refusing or self._cuts[0] == 0:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, server_writer}
        try:
            await asyncio.gather(
                self._copy(reader, server_writer, is_up=True), self._copy(server_reader, writer, is_up=False)
            )
        except OSError:
            pass
        finally:
            self._open -= {writer, server_writer}
            for one in (writer, server_writer):
                one.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool) -> None:
        cut = self._cuts[0 if is_up else 1]
        while data := await reader.read(65_536):
            await self._flows.wait()
            passed = self.up if is_up else self.down
            if cut is not None and passed + len(data) >= cut:
                writer.write(data[: cut - passed])
                await writer.drain()
                # Closed and not aborted on this side: what has passed is delivered.
                writer.close()
                raise ConnectionAbortedError
            writer.write(data)
            await writer.drain()
            if is_up:
                self.up += len(data)
            else:
                self.down += len(data)
        raise ConnectionResetError


def _split(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    return host, int(port)


@contextlib.asynccontextmanager
async def running(target: str) -> AsyncGenerator[Proxy]:
    made = Proxy(target)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
