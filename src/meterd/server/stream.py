"""The bidirectional Stream: the unary methods' requests, pipelined in frames that a client fills as it likes.

Calls of a stream run at once and are answered in the order in which they end. A frame of answers carries whatever has ended while the frame
before was written, so that a busy stream pays gRPC's cost per frame and not per call. Too many calls without a written answer stop the
reading, and HTTP/2's flow control stops the client: one that does not read its answers costs no more memory than that.
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

# Calls of one stream whose answers are not written; beyond it no frame is read. Far above what one Redis trip's natural batch needs.
UNANSWERED_MAX = 1_024
# A larger frame is a client's mistake: its first answers would wait for its last request to be parsed.
FRAME_CALLS_MAX = 1_024
# Answers in one frame; each is some 200 bytes.
FRAME_REPLIES_MAX = 512
# Clients refuse messages above 4 MB, and an answer that names 256 grants has 12 KB.
FRAME_BYTES_MAX = 2 * 1024 * 1024


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
        """Until the client ends it. Raises what else ends it, once all that was read is answered."""
        writer = asyncio.create_task(self._write())
        fault: errors.MeterdError | None = None
        try:
            try:
                await self._read()
            except errors.MeterdError as exc:
                fault = exc
            self._is_read = True
            self._ready.set()
            await writer
        finally:
            writer.cancel()
            # The stream is gone; what has been sent to Redis takes effect.
            for task in self._tasks:
                task.cancel()
        if fault is None and self._streams.draining.is_set():
            fault = errors.UnavailableError("the server is stopping; open the stream anew")
        if fault is not None:
            raise fault

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
                if data is grpc.aio.EOF:  # pyright: ignore[reportAttributeAccessIssue]
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
        gate = self._streams.gate
        for call in frame.calls:
            # Asked here and not in the task: a frame is refused from where it is too much, not as a whole.
            if gate.count >= gate.count_max:
                self._refuse(call, gate.overloaded())
                continue
            gate.count += 1
            task = asyncio.create_task(self._answer(call))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        while self._unanswered > UNANSWERED_MAX:
            self._room.clear()
            await self._room.wait()

    @property
    def _unanswered(self) -> int:
        return len(self._tasks) + len(self._replies)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._streams.gate.count -= 1
        self._tasks.discard(task)
        self._ready.set()

    async def _answer(self, call: metering_pb2.StreamCall) -> None:
        begin_s = time.perf_counter()
        name = call.WhichOneof("request")
        if name is None:
            self._refuse(call, errors.InvalidArgumentError("request", "must be given"))
            return
        reply = metering_pb2.StreamReply(call_id=call.call_id)
        method, counts = self._streams.methods[name]
        try:
            answer = await method.call(self._principal.tenant_id, getattr(call, name))
            getattr(reply, name).CopyFrom(answer)
            counts.observe(method.outcome(answer), time.perf_counter() - begin_s)
            self._replies.append(reply)
        except Exception as exc:
            code = self._fail(call, exc)
            counts.observe(code.name, time.perf_counter() - begin_s)

    def _refuse(self, call: metering_pb2.StreamCall, fault: errors.MeterdError) -> None:
        """Answers a call that was not begun."""
        code = self._fail(call, fault)
        self._ready.set()
        if name := call.WhichOneof("request"):
            self._streams.methods[name][1].observe(code.name, 0.0)

    def _fail(self, call: metering_pb2.StreamCall, fault: Exception) -> grpc.StatusCode:
        code, message = handler.status(fault)
        error = metering_pb2.StreamError(code=code.value[0], message=message)
        self._replies.append(metering_pb2.StreamReply(call_id=call.call_id, error=error))
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
            await self._send(frame)
            if self._unanswered <= UNANSWERED_MAX:
                self._room.set()

    async def _send(self, replies: list[metering_pb2.StreamReply]) -> None:
        data = metering_pb2.StreamResponse(replies=replies).SerializeToString()
        if len(data) > FRAME_BYTES_MAX and len(replies) > 1:
            half = len(replies) // 2
            await self._send(replies[:half])
            await self._send(replies[half:])
            return
        await self._rpc.write(data)
