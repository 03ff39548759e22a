"""The methods over HTTP/1.1: Connect, JSON and binary, and gRPC-Web, with the handlers that gRPC has.

An ASGI application. What a wire adds is here: content types, envelopes, deadlines, and how an error looks; who may call and what a call
does is decided where gRPC's calls are decided. A call costs one pass over its headers, and no task of its own.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import dataclasses
import enum
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message

from meterd.core import errors
from meterd.server import auth, cohorts, cors, framing, handler, json_wire, methods, metrics, options, watch
from meterd_client.v1 import accounts_pb2

_log = logging.getLogger(__name__)

# A body that takes longer is a client that is gone, or that means to keep the server busy.
BODY_TIMEOUT_S = 30.0
# Of a body that is too large no more than this is read.
_DISCARD_MAX = 8 * options.MESSAGE_BYTES_MAX
# Calls that take longer are ended when their client goes. Nearly none do, and listening for it costs a task.
PATIENCE_S = 0.05
# Whether a denial is answered with HTTP status 402: "402" or "200". It outweighs the setting.
DENIAL_STATUS_HEADER = b"meterd-denial-status"
_PAYMENT_REQUIRED = 402
_ACCEPTED = b"application/json, application/proto"

Headers = Mapping[bytes, bytes]
Pairs = list[tuple[bytes, bytes]]
Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Wire:
    """How a content type is spoken."""

    content_type: bytes
    is_json: bool
    # Whether messages are in envelopes, and errors in the last of them.
    is_enveloped: bool = False
    is_grpc_web: bool = False
    # gRPC-Web's base64.
    is_text: bool = False


class Form(enum.Enum):
    """How messages are written."""

    BINARY = enum.auto()
    # By hand, or by a program without a client: a misspelt field is an error, and not one that was never given.
    JSON = enum.auto()
    # By a Connect client, perhaps of newer protos: fields that are not known here are passed over, as in binary messages.
    CLIENT_JSON = enum.auto()


def _wires() -> dict[bytes, Wire]:
    found: list[Wire] = []
    for codec in ("json", "proto"):
        is_json = codec == "json"
        found.append(Wire(content_type=f"application/{codec}".encode(), is_json=is_json))
        found.append(Wire(content_type=f"application/connect+{codec}".encode(), is_json=is_json, is_enveloped=True))
        for text in ("", "-text"):
            found.append(
                Wire(
                    content_type=f"application/grpc-web{text}+{codec}".encode(),
                    is_json=is_json,
                    is_enveloped=True,
                    is_grpc_web=True,
                    is_text=bool(text),
                )
            )
    by_type = {wire.content_type: wire for wire in found}
    for bare in (b"application/grpc-web", b"application/grpc-web-text"):
        by_type[bare] = by_type[bare + b"+proto"]
    return by_type


WIRES = _wires()


class Gone(Exception):
    """The client has closed its connection: nobody waits for an answer."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    data: bytes
    is_denial: bool


class _Rpc:
    """What a handler needs of a call."""

    __slots__ = ("metadata",)

    def __init__(self, headers: Headers) -> None:
        key = headers.get(b"authorization")
        self.metadata = () if key is None else (("authorization", key.decode("latin-1")),)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self.metadata

    async def abort(self, code: grpc.StatusCode, message: str, trailers: Any = ()) -> None:
        raise framing.Refused(code, message, tuple(trailers))


Unary = Callable[[bytes, Any], Awaitable[Answer]]


class Calls:
    """An ASGI application of all methods; `pages` has what else there is, by path."""

    def __init__(
        self,
        table: Mapping[str, methods.Method],
        watches: watch.Watches,
        *,
        authenticator: auth.Authenticator,
        gate: handler.Gate,
        together: cohorts.Cohorts,
        counts: Mapping[str, metrics.Calls],
        origins: cors.Origins,
        denial_402: bool,
        pages: Callable[[str, Headers], Awaitable[tuple[int, str, bytes] | None]],
    ) -> None:
        self._counts = counts
        self._watches = watches
        self._origins = origins
        self._denial_402 = denial_402
        self._pages = pages
        # By path and form.
        self._unary: dict[str, dict[Form, Unary]] = {
            path: {
                form: handler.unary(
                    method,
                    authenticator=authenticator,
                    gate=gate,
                    together=together,
                    counts=counts[path],
                    parse=_parser(form, method.request),
                    dump=_dumper(method, form),
                )
                for form in Form
            }
            for path, method in table.items()
        }
        self._watch_parsers = {form: _parser(form, accounts_pb2.WatchRequest) for form in Form}

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        headers: Headers = dict(scope["headers"])
        path: str = scope["path"]
        exposed = self._origins.exposed(headers)
        try:
            unary = self._unary.get(path)
            wire = _wire(headers)
            if scope["method"] != "POST" or (unary is None and path != methods.WATCH):
                await self._answer_other(scope["method"], path, headers, send, exposed)
            elif wire is None or (not wire.is_grpc_web and wire.is_enveloped == (unary is not None)):
                await _refuse_type(path == methods.WATCH, send, exposed)
            elif unary is not None:
                await self._answer_unary(unary[_form(wire, headers)], path, wire, headers, receive, send, exposed)
            else:
                stream = _Stream(wire, headers, receive, send, exposed)
                await stream.run(self._watches, self._watch_parsers[_form(wire, headers)])
        except Gone:
            return
        except asyncio.CancelledError:
            # The server does not wait any longer, and has closed the connection.
            return

    async def _answer_unary(
        self,
        handle: Unary,
        path: str,
        wire: Wire,
        headers: Headers,
        receive: Receive,
        send: Send,
        exposed: Pairs,
    ) -> None:
        begin_s = time.perf_counter()
        is_handled = False
        try:
            wants_402 = _wants_402(headers, self._denial_402)
            async with Patience(wire, headers, receive) as patience:
                data = await patience.read()
                is_handled = True
                answer = await handle(data, _Rpc(headers))
        except Gone:
            raise
        except Exception as exc:
            fault = refusal(exc)
            if not is_handled:
                self._counts[path].observe(fault.code.name, time.perf_counter() - begin_s)
            await _send_fault(wire, fault, send, exposed)
            return
        body, status = answer.data, 200
        if wire.is_enveloped:
            body = framing.wrapped(body) + framing.grpc_web_end(grpc.StatusCode.OK, "")
            if wire.is_text:
                body = base64.b64encode(body)
        elif answer.is_denial and wants_402:
            status = _PAYMENT_REQUIRED
        await _send(status, wire.content_type, body, send, exposed)

    async def _answer_other(self, method: str, path: str, headers: Headers, send: Send, exposed: Pairs) -> None:
        """Whatever is no call."""
        if method == "OPTIONS":
            await _send(204, b"", b"", send, self._origins.preflight(headers))
            return
        if path in self._unary or path in (methods.WATCH, methods.STREAM):
            if method == "POST":
                fault = framing.Refused(grpc.StatusCode.UNIMPLEMENTED, "Stream is there over gRPC only")
                await _send_fault(_wire(headers) or WIRES[b"application/json"], fault, send, exposed)
            else:
                await _send(405, b"text/plain", b"calls are POST\n", send, [(b"allow", b"POST, OPTIONS"), *exposed])
            return
        page = await self._pages(path, headers) if method in ("GET", "HEAD") else None
        if page is not None:
            status, content_type, text = page
            await _send(status, content_type.encode(), text, send, exposed)
            return
        message = f"there is no {path[:200]}"
        wire = _wire(headers)
        if wire is not None and wire.is_enveloped:
            await _send_fault(wire, framing.Refused(grpc.StatusCode.UNIMPLEMENTED, message), send, exposed)
            return
        body = framing.error_json(grpc.StatusCode.UNIMPLEMENTED, message)
        await _send(404, b"application/json", body, send, exposed)


class Patience:
    """The time that one request has: to arrive, until its deadline, and until its client goes."""

    __slots__ = ("_headers", "_is_gone", "_is_read", "_listener", "_receive", "_scope", "_timer", "_until_s", "_wire")

    def __init__(self, wire: Wire, headers: Headers, receive: Receive) -> None:
        """InvalidArgumentError: its deadline is malformed."""
        self._wire = wire
        self._headers = headers
        self._receive = receive
        self._is_gone = False
        self._is_read = False
        self._listener: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        timeout_s = _timeout_s(wire, headers)
        now_s = asyncio.get_running_loop().time()
        _check_version(headers)
        self._until_s = None if timeout_s is None else now_s + timeout_s
        arrived_s = now_s + BODY_TIMEOUT_S
        self._scope = asyncio.timeout_at(arrived_s if self._until_s is None else min(self._until_s, arrived_s))

    async def __aenter__(self) -> Patience:
        await self._scope.__aenter__()
        return self

    async def __aexit__(self, kind: Any, fault: Any, traceback: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()
        try:
            await self._scope.__aexit__(kind, fault, traceback)
        except TimeoutError as exc:
            if self._is_gone:
                raise Gone from exc
            late = "the deadline has passed" if self._is_read else "the request did not arrive in time"
            raise framing.Refused(grpc.StatusCode.DEADLINE_EXCEEDED, late) from exc

    async def read(self) -> bytes:
        """The request's message; from here on its client's going ends it."""
        wire, headers = self._wire, self._headers
        body = await _body(headers, self._receive)
        if wire.is_text:
            try:
                body = base64.b64decode(body, validate=True)
            except binascii.Error as exc:
                raise errors.InvalidArgumentError("request", "not base64") from exc
        if not wire.is_enveloped:
            encoding = headers.get(b"content-encoding")
            data = body if encoding is None else framing.inflated(body, encoding.decode("latin-1"))
        else:
            encoding = headers.get(b"grpc-encoding" if wire.is_grpc_web else b"connect-content-encoding", b"")
            data = framing.unwrapped(body, encoding.decode("latin-1"))
        self._is_read = True
        self._scope.reschedule(self._until_s)
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._listen)
        return data

    def _listen(self) -> None:
        self._listener = asyncio.ensure_future(self._await_end())

    async def _await_end(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._scope.expired():
            self._is_gone = True
            self._scope.reschedule(asyncio.get_running_loop().time())


class _Stream:
    """One Watch, from its request to its last envelope."""

    def __init__(self, wire: Wire, headers: Headers, receive: Receive, send: Send, exposed: Pairs) -> None:
        self._wire = wire
        self._headers = headers
        self._receive = receive
        self._asgi_send = send
        self._exposed = exposed
        self._is_started = False
        self._rpc = _Rpc(headers)
        self.invocation_metadata = self._rpc.invocation_metadata
        self.abort = self._rpc.abort

    async def run(self, watches: watch.Watches, parse: Callable[[bytes], Any]) -> None:
        """Until the client goes, its deadline passes, or the server has nothing more to tell."""
        code, message = grpc.StatusCode.OK, ""
        try:
            async with Patience(self._wire, self._headers, self._receive) as patience:
                await watches.handle(await patience.read(), self, parse=parse, dump=self._dump)
        except Gone:
            raise
        except Exception as exc:
            fault = refusal(exc)
            code, message = fault.code, fault.message
        end = framing.grpc_web_end if self._wire.is_grpc_web else framing.connect_end
        await self._send(end(code, message), is_last=True)

    def _dump(self, message: Message) -> bytes:
        return json_wire.dump(message) if self._wire.is_json else message.SerializeToString()

    async def write(self, data: bytes) -> None:
        """One more message. Waits while the client does not read."""
        await self._send(framing.wrapped(data), is_last=False)

    async def _send(self, data: bytes, *, is_last: bool) -> None:
        if not self._is_started:
            self._is_started = True
            kind = [(b"content-type", self._wire.content_type), *self._exposed]
            await self._asgi_send({"type": "http.response.start", "status": 200, "headers": kind})
        body = base64.b64encode(data) if self._wire.is_text else data
        await self._asgi_send({"type": "http.response.body", "body": body, "more_body": not is_last})


def refusal(fault: Exception) -> framing.Refused:
    """Code and message that tell a client of a fault."""
    return fault if isinstance(fault, framing.Refused) else framing.Refused(*handler.status(fault))


def _wire(headers: Headers) -> Wire | None:
    return WIRES.get(headers.get(b"content-type", b"").partition(b";")[0].strip().lower())


def _form(wire: Wire, headers: Headers) -> Form:
    if not wire.is_json:
        return Form.BINARY
    return Form.CLIENT_JSON if wire.is_enveloped or b"connect-protocol-version" in headers else Form.JSON


def _parser(form: Form, kind: type[Message]) -> Callable[[bytes], Message]:
    if form is Form.BINARY:
        return kind.FromString
    return json_wire.parser(kind, ignores_unknown=form is Form.CLIENT_JSON)


def _dumper(method: methods.Method, form: Form) -> Callable[[Message], Answer]:
    dump = handler.serialized if form is Form.BINARY else json_wire.dump

    def dumped(message: Message) -> Answer:
        return Answer(data=dump(message), is_denial=method.may_deny and message.HasField("denial"))

    return dumped


def _wants_402(headers: Headers, setting: bool) -> bool:
    """What the header says; otherwise the setting, for callers that are no Connect clients: those take 402 for an error."""
    asked = headers.get(DENIAL_STATUS_HEADER)
    if asked is None:
        return setting and b"connect-protocol-version" not in headers
    if asked not in (b"402", b"200"):
        raise errors.InvalidArgumentError(DENIAL_STATUS_HEADER.decode(), "must be 402 or 200")
    return asked == b"402"


def _timeout_s(wire: Wire, headers: Headers) -> float | None:
    given = headers.get(b"grpc-timeout" if wire.is_grpc_web else b"connect-timeout-ms")
    if given is None:
        return None
    text = given.decode("latin-1")
    return framing.grpc_timeout_s(text) if wire.is_grpc_web else framing.connect_timeout_s(text)


def _check_version(headers: Headers) -> None:
    if headers.get(b"connect-protocol-version", b"1") != b"1":
        raise errors.InvalidArgumentError("connect-protocol-version", "must be 1")


async def _body(headers: Headers, receive: Receive) -> bytes:
    """The whole body, if it is not too large. Gone: the client went before its end."""
    size_max = options.MESSAGE_BYTES_MAX + framing.PREFIX.size
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length[:20]) > size_max and (b"expect" in headers or int(length[:20]) > _DISCARD_MAX):
        raise framing.too_large()
    body, size = b"", 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        size += len(message["body"])
        if size <= size_max:
            body = body + message["body"] if body else message["body"]
        else:
            # Read on: a client that is still sending does not read the refusal, and would lose it with the connection.
            body = b""
            if size > _DISCARD_MAX:
                raise framing.too_large()
        if not message["more_body"]:
            if size > size_max:
                raise framing.too_large()
            return body


async def _send(status: int, content_type: bytes, body: bytes, send: Send, others: Pairs) -> None:
    headers: Pairs = [(b"content-length", b"%d" % len(body)), *others]
    if content_type:
        headers.append((b"content-type", content_type))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_fault(wire: Wire, fault: framing.Refused, send: Send, exposed: Pairs) -> None:
    if not wire.is_enveloped:
        told = [(f"trailer-{name}".encode(), str(value).encode()) for name, value in fault.trailers]
        if fault.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            # What is left of the body is not worth reading.
            told.append((b"connection", b"close"))
        body = framing.error_json(fault.code, fault.message)
        await _send(framing.STATUSES[fault.code], b"application/json", body, send, [*told, *exposed])
        return
    end = framing.grpc_web_end if wire.is_grpc_web else framing.connect_end
    body = end(fault.code, fault.message)
    await _send(200, wire.content_type, base64.b64encode(body) if wire.is_text else body, send, exposed)


async def _refuse_type(is_stream: bool, send: Send, exposed: Pairs) -> None:
    accepted = b"application/connect+json, application/connect+proto" if is_stream else _ACCEPTED
    told = b"content-type must be one of " + accepted + b", application/grpc-web+proto\n"
    await _send(415, b"text/plain; charset=utf-8", told, send, [(b"accept-post", accepted), *exposed])
