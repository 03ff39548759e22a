"""A TCP proxy that knows the messages that pass, HTTP/1.1 or gRPC's HTTP/2, and cuts the connection at one place of one call."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import re
from collections.abc import Iterator
from typing import Literal

from tests.client import proxy

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEAD_BYTES = 9
_DATA, _HEADERS = 0, 1
_READ_BYTES = 65_536

Part = Literal["head", "body", "trailers", "other"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Bytes that belong together. `call` counts the connection's calls from 0."""

    part: Part
    call: int
    data: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """After this share of a part of the call's request (`is_up`) or response; the rest does not pass."""

    is_up: bool
    part: Part
    share: float

    def is_of(self, unit: Unit, *, is_up: bool) -> bool:
        return (unit.part, is_up) == (self.part, self.is_up)


# Each class of places at which the bytes of a call can end, in the order in which they pass.
PLACES = {
    "before the request": Place(is_up=True, part="head", share=0.0),
    "within the request's head": Place(is_up=True, part="head", share=0.5),
    "between the request's head and body": Place(is_up=True, part="head", share=1.0),
    "within the request's body": Place(is_up=True, part="body", share=0.5),
    "after the request": Place(is_up=True, part="body", share=1.0),
    "before the response": Place(is_up=False, part="head", share=0.0),
    "within the response's head": Place(is_up=False, part="head", share=0.5),
    "between the response's head and body": Place(is_up=False, part="head", share=1.0),
    "within the response's body": Place(is_up=False, part="body", share=0.5),
    "after the response's body": Place(is_up=False, part="body", share=1.0),
}
# gRPC's response has its status after the body.
TRAILER_PLACES = {
    "within the trailers": Place(is_up=False, part="trailers", share=0.5),
    "after the trailers": Place(is_up=False, part="trailers", share=1.0),
}


class _Frames:
    """One direction of an HTTP/2 connection, frame by frame."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, Part]] = set()

    def first(self, data: bytes) -> Unit | None:
        """The first unit of what is left, if it is whole."""
        if data.startswith(_PREFACE):
            return Unit(part="other", call=-1, data=_PREFACE)
        size = _FRAME_HEAD_BYTES + int.from_bytes(data[:3], "big")
        if len(data) < size:
            return None
        kind, stream = data[3], int.from_bytes(data[5:9], "big") & 0x7FFF_FFFF
        part: Part = "other"
        if kind == _HEADERS:
            part = "trailers" if (stream, "head") in self._seen else "head"
        elif kind == _DATA and size > _FRAME_HEAD_BYTES and (stream, "body") not in self._seen:
            part = "body"
        self._seen.add((stream, part))
        # A client's streams have odd numbers.
        return Unit(part=part, call=(stream - 1) // 2, data=data[:size])


class _Messages:
    """One direction of an HTTP/1.1 connection: a head, a body, a head."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self._call = -1
        self._is_in_body = False
        # None: it comes in chunks.
        self._body_bytes: int | None = 0

    def first(self, data: bytes) -> Unit | None:
        """The first unit of what is left, if it is whole."""
        if not self._is_in_body:
            head, found, _ = data.partition(b"\r\n\r\n")
            if not found:
                return None
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.I)
            self._body_bytes = int(length[1]) if length else None if b"chunked" in head.lower() else 0
            self._is_in_body = self._body_bytes != 0
            self._call = next(self._numbers)
            return Unit(part="head", call=self._call, data=head + found)
        size = _chunked_bytes(data) if self._body_bytes is None else self._body_bytes
        if size is None or len(data) < size:
            return None
        self._is_in_body = False
        return Unit(part="body", call=self._call, data=data[:size])


def _chunked_bytes(data: bytes) -> int | None:
    """The size of a body in chunks with all that frames it."""
    at = 0
    while (line_end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line_end], 16)
        at = line_end + size + 4
        if size == 0:
            return at
    return None


class CuttingProxy(proxy.Proxy):
    """Cuts the connection when its call number `call` comes to the place; later connections pass whole. `is_cut` then.

    Calls count from 0: those of a connection over HTTP/2, those of all connections over HTTP/1.1.
    """

    def __init__(self, target: str, *, call: int, place: Place) -> None:
        super().__init__(target)
        self._call = call
        self._place = place
        self._numbers = {True: itertools.count(), False: itertools.count()}
        self.is_cut = False

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool) -> None:
        rest = await reader.read(_READ_BYTES)
        is_http1 = re.match(rb"(?!PRI )[A-Z]+[ /]", rest) is not None
        units = _Messages(self._numbers[is_up]) if is_http1 else _Frames()
        while True:
            while rest and (unit := units.first(rest)):
                rest = rest[len(unit.data) :]
                if not self.is_cut and self._place.is_of(unit, is_up=is_up) and unit.call == self._call:
                    self.is_cut = True
                    writer.write(unit.data[: int(len(unit.data) * self._place.share)])
                    await writer.drain()
                    # Closed and not aborted on this side: what has passed is delivered.
                    writer.close()
                    raise ConnectionAbortedError
                writer.write(unit.data)
                await writer.drain()
            data = await reader.read(_READ_BYTES)
            if not data:
                raise ConnectionResetError
            rest += data
