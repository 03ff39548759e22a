"""The yardsticks, on a server with the options of meterd's: an empty unary handler, one with a PING to Redis, one with a Reserve's script
call that was made beforehand, and an echo stream."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from typing import Any, NoReturn, cast

import grpc
import grpc.aio
import uvloop

from benchmarks import ledger_load
from meterd.core import ids
from meterd.redis import keys, runner
from meterd.server import options

UNARY = b"/bench.Empty/Call"
PING = b"/bench.Empty/Ping"
SCRIPT = b"/bench.Empty/Script"
STREAM = b"/bench.Empty/Stream"
# Script calls made at a time.
_PREPARED = 256

Command = tuple[bytes | str | int, ...]


async def _call(request: bytes, context: Any) -> bytes:
    del request, context
    return b""


async def _stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    del context
    async for request in requests:
        yield request


class _PreparedError(Exception):
    def __init__(self, command: Command) -> None:
        super().__init__()
        self.command = command


class _Recorder:
    """In the place of a runner: has the ledger make its command, and keeps it."""

    def evalsha(self, script: Any, names: Command, args: Command) -> NoReturn:
        raise _PreparedError((b"EVALSHA", script.sha, str(len(names)), *names, *args))


class _Reserves:
    """The script calls of Reserves on the world's accounts, which must be in Redis."""

    def __init__(self, run: runner.Runner) -> None:
        self._run = run
        self._bench = ledger_load.Bench(cast(runner.Runner, _Recorder()))
        self._made = list[Command]()
        self._count = 0

    async def next(self) -> Command:
        if not self._made:
            await self._prepare()
        return self._made.pop()

    async def _prepare(self) -> None:
        sentinels = self._bench.book.sentinels
        for partition in range(ledger_load.PARTITIONS):
            sentinels[partition] = await self._run.command(("GET", keys.sentinel(partition)))
        for _ in range(_PREPARED):
            self._count += 1
            hold = ids.uuid7(time.time_ns() // 1_000_000)
            try:
                await self._bench.book.reserve(self._bench.reserve(self._count, hold))
            except _PreparedError as made:
                self._made.append(made.command)


async def _serve(port: int, redis_url: str) -> None:
    run = runner.Runner(redis_url)
    await run.start()
    assert await run.wait_connected(5)

    async def ping(request: bytes, context: Any) -> bytes:
        del request, context
        await run.command((b"PING",))
        return b""

    reserves = _Reserves(run)

    async def script(request: bytes, context: Any) -> bytes:
        del request, context
        reply = await run.command(await reserves.next())
        assert isinstance(reply, bytes), f"not reserved: {reply!r}"
        return b""

    server = grpc.aio.server(options=options.server_options())
    handlers = {
        "Call": grpc.unary_unary_rpc_method_handler(_call),
        "Ping": grpc.unary_unary_rpc_method_handler(ping),
        "Script": grpc.unary_unary_rpc_method_handler(script),
        "Stream": grpc.stream_stream_rpc_method_handler(_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Empty", handlers),))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(bound, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2]))
