"""The yardsticks: an empty unary handler, one with a PING to Redis, and an echo stream, on a server with the options of meterd's."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop

from meterd.redis import runner
from meterd.server import options

UNARY = b"/bench.Empty/Call"
PING = b"/bench.Empty/Ping"
STREAM = b"/bench.Empty/Stream"


async def _call(request: bytes, context: Any) -> bytes:
    del request, context
    return b""


async def _stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    del context
    async for request in requests:
        yield request


async def _serve(port: int, redis_url: str) -> None:
    run = runner.Runner(redis_url)
    await run.start()
    assert await run.wait_connected(5)

    async def ping(request: bytes, context: Any) -> bytes:
        del request, context
        await run.command((b"PING",))
        return b""

    server = grpc.aio.server(options=options.server_options())
    handlers = {
        "Call": grpc.unary_unary_rpc_method_handler(_call),
        "Ping": grpc.unary_unary_rpc_method_handler(ping),
        "Stream": grpc.stream_stream_rpc_method_handler(_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Empty", handlers),))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(bound, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2]))
