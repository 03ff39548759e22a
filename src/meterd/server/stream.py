"""The bidirectional Stream: the unary methods' requests, pipelined in frames that a client fills as it likes.

Calls of a stream run at once and are answered in the order in which they end. A frame of answers carries whatever has ended while the frame
before was written, so that a busy stream pays gRPC's cost per frame and not per call. Too much in work stops the reading, and HTTP/2's
flow control stops the client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from meterd.core import errors
from meterd.server import auth, handler, methods, metrics
from meterd_client.v1 import metering_pb2

# Calls of one stream in work; beyond it no frame is read. Far above what one Redis trip's natural batch needs.
IN_WORK_MAX = 1_024
# A larger frame is a client's mistake: its first answers would wait for its last request to be parsed.
FRAME_CALLS_MAX = 1_024
# Answers in one frame; each is some 200 bytes, and a message holds 4 MB.
FRAME_REPLIES_MAX = 512


class Streams:
    """The handler of Stream. `drain` lets every stream end once what it has read is answered."""

    def __init__(
        self,
        table: Mapping[str, methods.Method],
        *,
        authenticator: auth.Authenticator,
        gate: handler.Gate,
        counts: Mapping[str, metrics.Calls],
    ) -> None:
        self.authenticator = authenticator
        self.gate = gate
        self.roles = auth.roles_of(methods.STREAM)
        self.draining = asyncio.Event()
        self.open_count = 0
        # By the name of the request's field in StreamCall: reserve, commit …
        self.methods = {method.name.lower(): (method, counts[path]) for path, method in table.items()}

    async def handle(self, requests: Any, rpc: Any) -> None:
        """One stream, from its first frame to its last answer."""
        self.open_count += 1
        try:
            principal = await handler.admitted(self.authenticator, rpc, self.roles)
            await _Stream(self, rpc, principal).run()
        except errors.MeterdError as exc:
            code, message = handler.status(exc)
            await rpc.abort(code, message)
        finally:
            self.open_count -= 1


class _Stream:
    def __init__(self, streams: Streams, rpc: Any, principal: auth.Principal) -> None:
        self._streams = streams
        self._rpc = rpc
        self._principal = principal
        self._replies: list[metering_pb2.StreamReply] = []
        # The loop keeps weak references only.
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._is_read = False

    async def run(self) -> None:
        writer = asyncio.create_task(self._write())
        try:
            await self._read()
            self._is_read = True
            self._ready.set()
            await writer
        finally:
            writer.cancel()
            # The stream is gone; what has been sent to Redis takes effect.
            for task in self._tasks:
                task.cancel()
        if self._streams.draining.is_set():
            raise errors.UnavailableError("the server is stopping; open the stream anew")

    async def _read(self) -> None:
        """Starts each call that arrives, until the client ends or the server drains."""
        drained = asyncio.ensure_future(self._streams.draining.wait())
        try:
            while True:
                read = asyncio.ensure_future(self._rpc.read())
                if not drained.done():
                    await asyncio.wait((read, drained), return_when=asyncio.FIRST_COMPLETED)
                if drained.done() and not read.done():
                    # A frame that is not read has no effect.
                    read.cancel()
                    return
                data = await read
                if data is grpc.aio.EOF:
                    return
                await self._start(data)
        finally:
            drained.cancel()

    async def _start(self, data: bytes) -> None:
        try:
            frame = metering_pb2.StreamRequest.FromString(data)
        except DecodeError as exc:
            raise errors.InvalidArgumentError("request", "not a StreamRequest") from exc
        if len(frame.calls) > FRAME_CALLS_MAX:
            raise errors.InvalidArgumentError("calls", f"more than {FRAME_CALLS_MAX} in one frame")
        # A key that was revoked since ends its streams too.
        self._principal = await handler.admitted(self._streams.authenticator, self._rpc, self._streams.roles)
        for call in frame.calls:
            self._streams.gate.count += 1
            task = asyncio.create_task(self._answer(call))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        while len(self._tasks) > IN_WORK_MAX:
            self._room.clear()
            await self._room.wait()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._streams.gate.count -= 1
        self._tasks.discard(task)
        self._ready.set()
        if len(self._tasks) <= IN_WORK_MAX:
            self._room.set()

    async def _answer(self, call: metering_pb2.StreamCall) -> None:
        begin_s = time.perf_counter()
        reply = metering_pb2.StreamReply(call_id=call.call_id)
        name = call.WhichOneof("request")
        if name is None:
            self._fail(reply, errors.InvalidArgumentError("request", "must be given"))
            return
        method, counts = self._streams.methods[name]
        try:
            if self._streams.gate.count > self._streams.gate.count_max:
                raise self._streams.gate.overloaded()
            answer = await method.call(self._principal.tenant_id, getattr(call, name))
            getattr(reply, name).CopyFrom(answer)
            counts.observe(method.outcome(answer), time.perf_counter() - begin_s)
            self._replies.append(reply)
        except Exception as exc:
            code = self._fail(reply, exc)
            counts.observe(code.name, time.perf_counter() - begin_s)

    def _fail(self, reply: metering_pb2.StreamReply, fault: Exception) -> grpc.StatusCode:
        code, message = handler.status(fault)
        reply.error.code, reply.error.message = code.value[0], message
        self._replies.append(reply)
        return code

    async def _write(self) -> None:
        """Writes what has ended, a frame at a time, until all that was read is answered."""
        while True:
            if not self._replies:
                if self._is_read and not self._tasks:
                    return
                self._ready.clear()
                await self._ready.wait()
                continue
            frame, self._replies = self._replies[:FRAME_REPLIES_MAX], self._replies[FRAME_REPLIES_MAX:]
            await self._rpc.write(metering_pb2.StreamResponse(replies=frame).SerializeToString())
