"""Closed-loop load over the lean client: so many slots, each sends its next call when the last one was answered."""

from __future__ import annotations

import array
import asyncio
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from benchmarks import h2
from meterd_client.v1 import metering_pb2, types_pb2

RESERVE = b"/meterd.v1.Metering/Reserve"
COMMIT = b"/meterd.v1.Metering/Commit"
STREAM = b"/meterd.v1.Metering/Stream"
_UUID_CHARS = 36
_HOLD_ID_CHARS = 59
_PACE_S = 0.005


@dataclasses.dataclass(slots=True)
class Tally:
    calls: int = 0
    denied: int = 0
    failed: int = 0
    first_failure: str = ""
    begin_s: float = 0.0
    end_s: float = 0.0
    latencies_s: array.array[float] = dataclasses.field(default_factory=lambda: array.array("d"))

    @property
    def calls_per_s(self) -> float:
        return self.calls / (self.end_s - self.begin_s)

    def fail(self, block: bytes) -> None:
        self.failed += 1
        self.first_failure = self.first_failure or block.decode("latin-1")

    def latency_us(self, share: float) -> float:
        values = sorted(self.latencies_s)
        return values[min(len(values) - 1, int(share * len(values)))] * 1e6


def uuids() -> Iterator[bytes]:
    """UUIDv7s in text, cheaply: the time is read once in 256 ids."""
    nonce, head = os.urandom(3).hex(), ""
    for number in itertools.count():
        if number % 256 == 0:
            now = f"{time.time_ns() // 1_000_000:012x}"
            head = f"{now[:8]}-{now[8:]}-7{nonce[:3]}-8{nonce[3:]}-"
        yield f"{head}{number:012x}".encode()


def reserve_bodies(accounts: list[str], *, model: str = "gpt-4o-mini", ttl_ms: int = 0) -> list[tuple[bytes, bytes]]:
    """For each account what stands before and after the hold's UUID in a serialized ReserveRequest."""
    found = list[tuple[bytes, bytes]]()
    for account in accounts:
        marker = "0" * _UUID_CHARS
        message = metering_pb2.ReserveRequest(
            hold_id=marker,
            account_id=account,
            subject=types_pb2.Subject(user="user-42", operation_id="bench"),
            model=types_pb2.ModelCharge(provider="openai", model=model, input_tokens=1_200, max_output_tokens=400),
            ttl_ms=ttl_ms,
        ).SerializeToString()
        before, _, after = message.partition(marker.encode())
        found.append((before, after))
    return found


def commit_tail() -> bytes:
    """What stands after the hold_id in a serialized CommitRequest."""
    usage = types_pb2.Usage(input_tokens=1_180, cache_read_tokens=512, output_tokens=211)
    return metering_pb2.CommitRequest(
        usage=metering_pb2.ReportedUsage(usage=usage, usage_state=types_pb2.USAGE_STATE_REPORTED)
    ).SerializeToString()


def hold_id_of(reply: bytes) -> bytes | None:
    """The hold's id out of a serialized ReserveResponse; None if it is a denial."""
    if reply[0] != 0x0A:
        return None
    # Field 1 of the hold, after the hold's own length, which takes one or two bytes.
    start = 4 if reply[2] == 0x0A and reply[1] < 0x80 else 5
    assert reply[start - 2] == 0x0A and reply[start - 1] == _HOLD_ID_CHARS, "not a ReserveResponse with a hold"
    return reply[start : start + _HOLD_ID_CHARS]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Speech:
    """How requests of a lifecycle are made, and a hold's id is found in the answer (None: a denial)."""

    # Accounts and ttl_ms to what stands before and after the hold's UUID.
    reserves: Callable[[list[str], int], list[tuple[bytes, bytes]]]
    hold_id_of: Callable[[bytes], bytes | None]
    commit: Callable[[bytes], bytes]


def _commit(hold_id: bytes) -> bytes:
    return _COMMIT_HEAD + hold_id + _COMMIT_TAIL


_COMMIT_HEAD = bytes((0x0A, _HOLD_ID_CHARS))
_COMMIT_TAIL = commit_tail()
PROTO = Speech(
    reserves=lambda accounts, ttl_ms: reserve_bodies(accounts, ttl_ms=ttl_ms), hold_id_of=hold_id_of, commit=_commit
)


class Line(Protocol):
    """A connection, or several."""

    lost: asyncio.Future[None]

    def call(self, path: bytes, message: bytes, done: h2.Done) -> None: ...


class Runner:
    """One load on one connection. Counts calls that were answered between begin and end of the measured time."""

    def __init__(self, connection: h2.Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self.tally = Tally()
        self._open = 0
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, slots: int, start: Callable[[], None]) -> Tally:
        self._open = slots
        self.tally.begin_s = time.perf_counter()
        self._until_s = self.tally.begin_s + self._seconds
        for _ in range(slots):
            start()
        await self._ended
        return self.tally

    def _next(self, start: Callable[[], None]) -> None:
        """Begins the slot's next round, or ends the slot when the time is up."""
        now_s = time.perf_counter()
        if now_s < self._until_s and not self._connection.lost.done():
            start()
            return
        self._open -= 1
        if self._open == 0:
            self.tally.end_s = now_s
            self._ended.set_result(None)

    async def empty(self, path: bytes, message: bytes, slots: int) -> Tally:
        """The same message to a handler that answers nothing."""
        tally, connection = self.tally, self._connection

        def start() -> None:
            begin_s = time.perf_counter()

            def done(reply: bytes | None, block: bytes) -> None:
                if reply is None:
                    tally.fail(block)
                else:
                    tally.calls += 1
                    tally.latencies_s.append(time.perf_counter() - begin_s)
                self._next(start)

            connection.call(path, message, done)

        return await self.run(slots, start)

    async def lifecycles(
        self,
        accounts: list[str],
        slots: int,
        *,
        commit: bool = True,
        ttl_ms: int = 0,
        line: Line | None = None,
        speech: Speech = PROTO,
    ) -> Tally:
        """Reserve and Commit in turn; without `commit` Reserve alone. Latencies are those of Reserve.

        `line` None: the connection of gRPC.
        """
        tally, connection = self.tally, line or self._connection
        bodies, ids = itertools.cycle(speech.reserves(accounts, ttl_ms)), uuids()

        def committed(reply: bytes | None, block: bytes) -> None:
            if reply is None:
                tally.fail(block)
            else:
                tally.calls += 1
            self._next(start)

        def start() -> None:
            before, after = next(bodies)
            begin_s = time.perf_counter()

            def reserved(reply: bytes | None, block: bytes) -> None:
                if reply is None:
                    tally.fail(block)
                    return self._next(start)
                tally.calls += 1
                tally.latencies_s.append(time.perf_counter() - begin_s)
                hold_id = speech.hold_id_of(reply)
                if hold_id is None:
                    tally.denied += 1
                if hold_id is None or not commit:
                    return self._next(start)
                return connection.call(COMMIT, speech.commit(hold_id), committed)

            connection.call(RESERVE, before + next(ids) + after, reserved)

        return await self.run(slots, start)

    async def paced(self, accounts: list[str], per_s: float) -> Tally:
        """Starts lifecycles at a constant rate on one Stream, whatever the answers take."""
        tally, connection = self.tally, self._connection
        bodies, ids = itertools.cycle(reserve_bodies(accounts)), uuids()
        started = 0

        def on_message(message: bytes) -> None:
            commits: list[bytes] = []
            for reply in metering_pb2.StreamResponse.FromString(message).replies:
                tally.calls += 1
                kind = reply.WhichOneof("reply")
                if kind == "reserve" and reply.reserve.hold.hold_id:
                    commits.append(_stream_call(reply.call_id, 3, _commit(reply.reserve.hold.hold_id.encode())))
                    continue
                self._open -= 1
                tally.denied += kind == "reserve"
                if kind == "error":
                    tally.fail(f"{reply.error.code}: {reply.error.message}".encode())
            if commits:
                connection.send(stream, b"".join(commits))

        def ended(reply: bytes | None, block: bytes) -> None:
            del reply
            if self._open:
                tally.fail(block)
                self._open = 0

        stream = connection.stream(STREAM, on_message, ended)
        begin_s = tally.begin_s = time.perf_counter()
        while (now_s := time.perf_counter()) < begin_s + self._seconds:
            frame: list[bytes] = []
            while started < (now_s - begin_s) * per_s:
                started += 1
                before, after = next(bodies)
                frame.append(_stream_call(started, 2, before + next(ids) + after))
            if frame:
                self._open += len(frame)
                connection.send(stream, b"".join(frame))
            await asyncio.sleep(_PACE_S)
        while self._open:  # noqa: ASYNC110 - nothing to gain from an event here
            await asyncio.sleep(_PACE_S)
        tally.end_s = time.perf_counter()
        connection.finish(stream)
        return tally

    async def streamed(self, accounts: list[str], in_flight: int, calls_per_frame: int) -> Tally:
        """The same lifecycles over one Stream with so many calls in flight; the first frames carry `calls_per_frame` calls each.

        Each reply is followed by the next call of its lifecycle; what follows the replies of one frame leaves in one frame.
        """
        tally, connection = self.tally, self._connection
        bodies, ids, tail = itertools.cycle(reserve_bodies(accounts)), uuids(), commit_tail()
        commit_head = bytes((0x0A, _HOLD_ID_CHARS))

        def reserve(call_id: int) -> bytes:
            before, after = next(bodies)
            return _stream_call(call_id, 2, before + next(ids) + after)

        def follow(reply: metering_pb2.StreamReply) -> bytes:
            tally.calls += 1
            kind = reply.WhichOneof("reply")
            if kind == "reserve" and reply.reserve.hold.hold_id:
                return _stream_call(reply.call_id, 3, commit_head + reply.reserve.hold.hold_id.encode() + tail)
            if kind == "error":
                tally.fail(f"{reply.error.code}: {reply.error.message}".encode())
            tally.denied += kind == "reserve"
            if time.perf_counter() < self._until_s:
                return reserve(reply.call_id)
            self._open -= 1
            return b""

        def on_message(message: bytes) -> None:
            calls = b"".join([follow(reply) for reply in metering_pb2.StreamResponse.FromString(message).replies])
            if calls:
                connection.send(stream, calls)
            elif self._open == 0:
                self.tally.end_s = time.perf_counter()
                connection.finish(stream)
                self._ended.set_result(None)

        def ended(reply: bytes | None, block: bytes) -> None:
            del reply
            if self._open:
                tally.fail(block)
                self._open = 0
                self.tally.end_s = time.perf_counter()
                self._ended.set_result(None)

        stream = connection.stream(STREAM, on_message, ended)
        self._open = in_flight
        tally.begin_s = time.perf_counter()
        self._until_s = tally.begin_s + self._seconds
        for first in range(1, in_flight + 1, calls_per_frame):
            connection.send(stream, b"".join(reserve(first + number) for number in range(calls_per_frame)))
        await self._ended
        return tally


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _stream_call(call_id: int, field: int, body: bytes) -> bytes:
    """A serialized StreamRequest with one call; several behind each other are one with several."""
    call = b"\x08" + _varint(call_id) + bytes((field << 3 | 2,)) + _varint(len(body)) + body
    return b"\x0a" + _varint(len(call)) + call
