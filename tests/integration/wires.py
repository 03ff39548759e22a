"""The wires of the HTTP listener as a client speaks them, framed by hand: what is sent and what is answered, byte by byte."""

from __future__ import annotations

import base64
import dataclasses
import json
import struct
import urllib.parse
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import httpx
from google.protobuf import json_format

from tests.integration import serving

PREFIX = struct.Struct(">BI")
_CODES = {("canceled" if code.name == "CANCELLED" else code.name.lower()): code for code in grpc.StatusCode}
_NUMBERS = {code.value[0]: code for code in grpc.StatusCode}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Wire:
    name: str
    # Of unary calls, and of streams.
    content_type: str
    stream_type: str
    is_json: bool = False
    is_grpc_web: bool = False
    is_text: bool = False

    def encoded(self, request: Any) -> bytes:
        if isinstance(request, bytes):
            return request
        return json_format.MessageToJson(request).encode() if self.is_json else request.SerializeToString()

    def decoded(self, data: bytes, kind: Any) -> Any:
        return json_format.Parse(data, kind()) if self.is_json else kind.FromString(data)


JSON = Wire(name="Connect JSON", content_type="application/json", stream_type="application/connect+json", is_json=True)
BINARY = Wire(name="Connect binary", content_type="application/proto", stream_type="application/connect+proto")
WEB = Wire(
    name="gRPC-Web",
    content_type="application/grpc-web+proto",
    stream_type="application/grpc-web+proto",
    is_grpc_web=True,
)
WEB_JSON = Wire(
    name="gRPC-Web JSON",
    content_type="application/grpc-web+json",
    stream_type="application/grpc-web+json",
    is_json=True,
    is_grpc_web=True,
)
TEXT = Wire(
    name="gRPC-Web text",
    content_type="application/grpc-web-text",
    stream_type="application/grpc-web-text",
    is_grpc_web=True,
    is_text=True,
)
ALL = (JSON, BINARY, WEB, WEB_JSON, TEXT)


def wrapped(data: bytes, flags: int = 0) -> bytes:
    return PREFIX.pack(flags, len(data)) + data


def envelopes(body: bytes) -> list[tuple[int, bytes]]:
    """Flags and content of each, and nothing left over."""
    found: list[tuple[int, bytes]] = []
    while body:
        flags, length = PREFIX.unpack_from(body)
        found.append((flags, body[PREFIX.size : PREFIX.size + length]))
        assert len(found[-1][1]) == length
        body = body[PREFIX.size + length :]
    return found


def trailers_of(data: bytes) -> tuple[grpc.StatusCode, str]:
    """Of gRPC-Web's last envelope."""
    found = dict(line.split(": ", 1) for line in data.decode().split("\r\n") if line)
    return _NUMBERS[int(found["grpc-status"])], urllib.parse.unquote(found.get("grpc-message", ""))


def end_of(wire: Wire, flags: int, data: bytes) -> tuple[grpc.StatusCode, str]:
    """Of a stream's last envelope."""
    if wire.is_grpc_web:
        assert flags == 0x80
        return trailers_of(data)
    assert flags == 0x02
    error = json.loads(data).get("error")
    return (_CODES[error["code"]], error["message"]) if error else (grpc.StatusCode.OK, "")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back: an answer, or a refusal."""

    status: int
    headers: httpx.Headers
    code: grpc.StatusCode
    message: str
    answer: Any

    @property
    def refusal(self) -> serving.Refusal:
        return serving.Refusal(code=self.code, message=self.message)


class Client:
    """All methods on one wire, with one key."""

    def __init__(self, http: httpx.AsyncClient, wire: Wire, key: str) -> None:
        self.http = http
        self.wire = wire
        self.headers = {"authorization": f"Bearer {key}"} if key else {}

    async def send(self, name: str, request: Any, **headers: str) -> Reply:
        """One unary call; header names have _ for -."""
        path, _, kind = serving.METHODS[name]
        given = self.headers | {"content-type": self.wire.content_type}
        given |= {header.replace("_", "-"): value for header, value in headers.items()}
        body = self.wire.encoded(request)
        if self.wire.is_grpc_web:
            body = wrapped(body)
        answer = await self.http.post(
            path, content=base64.b64encode(body) if self.wire.is_text else body, headers=given
        )
        return self._reply(answer, kind)

    def _reply(self, answer: httpx.Response, kind: Any) -> Reply:
        code, message, content = grpc.StatusCode.OK, "", answer.content
        if self.wire.is_grpc_web:
            assert answer.status_code == 200 and answer.headers["content-type"] == (
                "application/grpc-web-text+proto" if self.wire.is_text else self.wire.content_type
            )
            *messages, (flags, end) = envelopes(base64.b64decode(content) if self.wire.is_text else content)
            code, message = end_of(self.wire, flags, end)
            content = messages[0][1] if messages else b""
        elif answer.status_code not in (200, 402):
            assert answer.headers["content-type"] == "application/json"
            error = json.loads(content)
            code, message = _CODES[error["code"]], error["message"]
        found = self.wire.decoded(content, kind) if code is grpc.StatusCode.OK else None
        return Reply(status=answer.status_code, headers=answer.headers, code=code, message=message, answer=found)

    async def call(self, name: str, request: Any, **headers: str) -> Any:
        reply = await self.send(name, request, **headers)
        assert reply.code is grpc.StatusCode.OK, reply
        return reply.answer

    async def refused(self, name: str, request: Any, **headers: str) -> serving.Refusal:
        reply = await self.send(name, request, **headers)
        assert reply.answer is None, reply
        return reply.refusal

    async def stream(self, name: str, request: Any, **headers: str) -> AsyncGenerator[Any]:
        """The messages as they come; the last item is (code, message)."""
        path, _, kind = serving.METHODS[name]
        given = self.headers | {"content-type": self.wire.stream_type}
        given |= {header.replace("_", "-"): value for header, value in headers.items()}
        body = wrapped(self.wire.encoded(request))
        content = base64.b64encode(body) if self.wire.is_text else body
        buffer = b""
        async with self.http.stream("POST", path, content=content, headers=given) as answer:
            assert answer.status_code == 200, await answer.aread()
            async for chunk in answer.aiter_raw():
                buffer += base64.b64decode(chunk) if self.wire.is_text else chunk
                while len(buffer) >= PREFIX.size and len(buffer) >= PREFIX.size + PREFIX.unpack_from(buffer)[1]:
                    flags, length = PREFIX.unpack_from(buffer)
                    data, buffer = buffer[PREFIX.size : PREFIX.size + length], buffer[PREFIX.size + length :]
                    if flags == 0:
                        yield self.wire.decoded(data, kind)
                    else:
                        yield end_of(self.wire, flags, data)
        assert buffer == b""
