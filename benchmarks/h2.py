"""A lean gRPC client: HTTP/2 frames written and read by hand, without flow through grpc.

grpc.aio's client costs about as much a call as the server, so that it measures itself. h2load is lean, but sends the same bytes with
each request, and every Reserve needs a hold_id of its own. This client knows just enough HTTP/2 to talk to grpc's server on one
connection: headers are indexed after their first use, bodies come serialized, answers go to callbacks.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import struct
from collections.abc import Callable
from typing import cast

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME = struct.Struct(">HBBBI")
_MESSAGE = struct.Struct(">BI")
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 0x1, 0x1, 0x4, 0x8
_WINDOW_MAX = 2**31 - 1
_WINDOW_DEFAULT = 65_535
_FRAME_PAYLOAD_MAX = 16_384
_STATIC_TABLE_SIZE = 61
_DYNAMIC_TABLE_BYTES_MAX = 4_096

# (answer, block): the answer's message, or None and the header block that tells why there is none.
Done = Callable[[bytes | None, bytes], None]


@dataclasses.dataclass(slots=True)
class _Call:
    done: Done
    # Given for streams: each message as it comes. None: the only message goes to `done`.
    on_message: Callable[[bytes], None] | None
    body: bytearray = dataclasses.field(default_factory=bytearray)
    block: bytes = b""
    window: int = _WINDOW_DEFAULT
    waiting: collections.deque[bytes] = dataclasses.field(default_factory=collections.deque[bytes])


def _literal(name: bytes, value: bytes) -> bytes:
    assert len(name) < 127 and len(value) < 127, "longer strings need longer integers"
    return b"\x40" + bytes((len(name),)) + name + bytes((len(value),)) + value


class Headers:
    """Our half of HPACK: every header is a literal once and an index from then on. Values never leave the table: it stays small."""

    def __init__(self) -> None:
        self._table: list[tuple[bytes, bytes]] = []
        self._blocks: dict[bytes, bytes] = {}

    def block(self, path: bytes, authority: bytes, authorization: bytes) -> bytes:
        found = self._blocks.get(path)
        if found is not None:
            return found
        fields = [
            (b":path", path),
            (b":authority", authority),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"authorization", authorization),
        ]
        missing = [field for field in fields if field not in self._table]
        if not missing:
            indexes = bytes(0x80 | (_STATIC_TABLE_SIZE + 1 + self._table.index(field)) for field in fields)
            # Static 3 and 6: ":method: POST", ":scheme: http".
            self._blocks[path] = b"\x83\x86" + indexes
            return self._blocks[path]
        # Newest first: what is known moves on, so that blocks made before are void.
        block = b"\x83\x86"
        for field in fields:
            if field in self._table:
                block += bytes((0x80 | (_STATIC_TABLE_SIZE + 1 + self._table.index(field)),))
            else:
                block += _literal(*field)
                self._table.insert(0, field)
        assert sum(len(name) + len(value) + 32 for name, value in self._table) < _DYNAMIC_TABLE_BYTES_MAX
        self._blocks.clear()
        return block


class Connection(asyncio.Protocol):
    """One HTTP/2 connection. `call` for unary calls, `stream` for bidirectional ones."""

    def __init__(self, authority: str, key: str) -> None:
        self._authority = authority.encode()
        self._authorization = f"Bearer {key}".encode()
        self._headers = Headers()
        self._calls: dict[int, _Call] = {}
        self._next_id = 1
        self._out: list[bytes] = []
        self._in = bytearray()
        self._window = _WINDOW_DEFAULT
        self._stream_window = _WINDOW_DEFAULT
        self._held_back: collections.deque[tuple[int, bytes]] = collections.deque()
        self._received = 0
        self._reading = False
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport does not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        settings = struct.pack(">HIHI", 4, _WINDOW_MAX, 2, 0)
        self._transport.write(
            _PREFACE
            + self._frame(_SETTINGS, 0, 0, settings)
            + self._frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW_MAX - _WINDOW_DEFAULT))
        )

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.done(None, b"connection lost")

    def close(self) -> None:
        self._transport.close()

    @staticmethod
    def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        size = len(payload)
        return _FRAME.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload

    def call(self, path: bytes, message: bytes, done: Done) -> None:
        """Sends a unary call; `done` hears its answer."""
        stream = self._next_id
        self._next_id += 2
        self._calls[stream] = _Call(done, None)
        block = self._headers.block(path, self._authority, self._authorization)
        size = len(message) + 5
        self._write(_FRAME.pack(len(block) >> 8, len(block) & 0xFF, _HEADERS, _END_HEADERS, stream) + block)
        data = _FRAME.pack(size >> 8, size & 0xFF, _DATA, _END_STREAM, stream) + _MESSAGE.pack(0, size - 5) + message
        if self._held_back or self._window < size:
            self._held_back.append((size, data))
            return
        self._window -= size
        self._write(data)

    def stream(self, path: bytes, on_message: Callable[[bytes], None], done: Done) -> int:
        """Opens a bidirectional stream; answers its number for `send`."""
        stream = self._next_id
        self._next_id += 2
        self._calls[stream] = _Call(done, on_message, window=self._stream_window)
        block = self._headers.block(path, self._authority, self._authorization)
        self._write(self._frame(_HEADERS, _END_HEADERS, stream, block))
        return stream

    def send(self, stream: int, message: bytes) -> None:
        """Sends a message on an open stream, as soon as the windows let it."""
        call = self._calls[stream]
        body = _MESSAGE.pack(0, len(message)) + message
        for start in range(0, len(body), _FRAME_PAYLOAD_MAX):
            call.waiting.append(body[start : start + _FRAME_PAYLOAD_MAX])
        self._send_waiting(stream, call)

    def finish(self, stream: int) -> None:
        """Ends our half of a stream. Everything sent must have left."""
        assert not self._calls[stream].waiting
        self._write(self._frame(_DATA, _END_STREAM, stream, b""))

    def _send_waiting(self, stream: int, call: _Call) -> None:
        while call.waiting and len(call.waiting[0]) <= min(call.window, self._window):
            part = call.waiting.popleft()
            call.window -= len(part)
            self._window -= len(part)
            self._write(self._frame(_DATA, 0, stream, part))

    def _write(self, data: bytes) -> None:
        # What is sent while answers are read leaves in one write after them.
        self._out.append(data)
        if not self._reading and len(self._out) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def data_received(self, data: bytes) -> None:
        if self._in:
            self._in += data
            data = bytes(self._in)
            self._in.clear()
        self._reading = True
        at, size = 0, len(data)
        while size - at >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, at)
            end = at + 9 + (high << 8 | low)
            if end > size:
                break
            if kind == _DATA:
                self._on_data(stream, flags, data[at + 9 : end])
            elif kind == _HEADERS:
                self._on_headers(stream, flags, data[at + 9 : end])
            else:
                self._on_other(kind, flags, stream, data[at + 9 : end])
            at = end
        if at < size:
            self._in += data[at:]
        self._reading = False
        self._flush()

    def _on_data(self, stream: int, flags: int, payload: bytes) -> None:
        assert not flags & _PADDED
        self._received += len(payload)
        if self._received > _WINDOW_MAX // 2:
            update = struct.pack(">I", self._received)
            self._write(self._frame(_WINDOW_UPDATE, 0, 0, update))
            self._received = 0
        call = self._calls.get(stream)
        if call is None:
            return
        call.body += payload
        if call.on_message is not None:
            body = call.body
            while len(body) >= 5 and len(body) >= (end := 5 + int.from_bytes(body[1:5], "big")):
                message = bytes(body[5:end])
                del body[:end]
                call.on_message(message)
        if flags & _END_STREAM:
            self._end(stream, call)

    def _on_headers(self, stream: int, flags: int, block: bytes) -> None:
        assert flags & _END_HEADERS
        if flags & _END_STREAM and (call := self._calls.get(stream)) is not None:
            call.block = block
            self._end(stream, call)

    def _end(self, stream: int, call: _Call) -> None:
        del self._calls[stream]
        # A failed unary call has no message; its status is in the block.
        if call.on_message is None and len(call.body) >= 5:
            call.done(bytes(call.body[5:]), call.block)
        else:
            call.done(None, call.block)

    def _on_other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW_UPDATE:
            self._on_window(stream, int.from_bytes(payload, "big"))
        elif kind == _SETTINGS and not flags & _ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack_from(">HI", payload, at)
                if name == 4:
                    self._stream_window = value
                    for call in self._calls.values():
                        call.window += value - _WINDOW_DEFAULT
            self._write(self._frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._write(self._frame(_PING, _ACK, 0, payload))
        elif kind == _RST_STREAM and (call := self._calls.pop(stream, None)) is not None:
            call.done(None, b"reset " + payload)
        elif kind == _GOAWAY:
            self._transport.close()

    def _on_window(self, stream: int, more: int) -> None:
        if stream:
            if (call := self._calls.get(stream)) is not None:
                call.window += more
                self._send_waiting(stream, call)
            return
        self._window += more
        while self._held_back and self._held_back[0][0] <= self._window:
            size, data = self._held_back.popleft()
            self._window -= size
            self._write(data)
        for number, call in list(self._calls.items()):
            if call.waiting:
                self._send_waiting(number, call)


async def connect(host: str, port: int, key: str) -> Connection:
    """A connection to a plaintext gRPC server, its settings not awaited."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(f"{host}:{port}", key), host, port)
    return connection
