"""The yardstick: an empty unary handler and an echo stream on the server that meterd uses, with its options."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop

from meterd.server import options

UNARY = b"/bench.Empty/Call"
STREAM = b"/bench.Empty/Stream"


async def _call(request: bytes, context: Any) -> bytes:
    del request, context
    return b""


async def _stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    del context
    async for request in requests:
        yield request


async def _serve(port: int) -> None:
    server = grpc.aio.server(options=options.server_options())
    handlers = {
        "Call": grpc.unary_unary_rpc_method_handler(_call),
        "Stream": grpc.stream_stream_rpc_method_handler(_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Empty", handlers),))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(bound, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
