"""Bytes of Connect and gRPC-Web: envelopes, compression, codes, and how an error looks on each wire."""

from __future__ import annotations

import struct
import urllib.parse
import zlib
from typing import Any

import grpc
import orjson

from meterd.core import errors
from meterd.server import options

COMPRESSED = 0x01
# Of the last envelope: Connect's, and gRPC-Web's.
CONNECT_END = 0x02
GRPC_WEB_END = 0x80
PREFIX = struct.Struct(">BI")
# Connect's names of gRPC's codes; it spells one otherwise.
NAMES = {code: code.name.lower() for code in grpc.StatusCode} | {grpc.StatusCode.CANCELLED: "canceled"}
# As the Connect protocol has it: the HTTP status of each code.
STATUSES = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}


class Refused(Exception):
    """Ends a call with this code and message."""

    def __init__(self, code: grpc.StatusCode, message: str, trailers: tuple[tuple[str, Any], ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.trailers = trailers


def too_large() -> Refused:
    return Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, f"the request is larger than {options.MESSAGE_BYTES_MAX} bytes")


def inflated(data: bytes, encoding: str) -> bytes:
    """The content of a compressed message. Refused: the encoding is not known, the data is broken or too large."""
    if encoding in ("", "identity"):
        return data
    if encoding != "gzip":
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, f"unknown compression {encoding!r}: supported are gzip, identity")
    machine = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        content = machine.decompress(data, options.MESSAGE_BYTES_MAX + 1)
    except zlib.error as exc:
        raise errors.InvalidArgumentError("request", "not gzip") from exc
    if len(content) > options.MESSAGE_BYTES_MAX:
        raise too_large()
    if not machine.eof:
        raise errors.InvalidArgumentError("request", "gzip that ends too early")
    return content


def unwrapped(body: bytes, encoding: str) -> bytes:
    """The one message of a body of envelopes. InvalidArgumentError: the body is anything but that."""
    if len(body) < PREFIX.size:
        raise errors.InvalidArgumentError("request", "the envelope is cut short")
    flags, length = PREFIX.unpack_from(body)
    if length > options.MESSAGE_BYTES_MAX:
        raise too_large()
    if flags & ~COMPRESSED:
        raise errors.InvalidArgumentError("request", "the envelope has unknown flags")
    data = body[PREFIX.size : PREFIX.size + length]
    if len(data) < length:
        raise errors.InvalidArgumentError("request", f"the envelope promises {length} bytes and has {len(data)}")
    if len(body) > PREFIX.size + length:
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, "more than one message where the method takes one")
    if not flags:
        return data
    if encoding in ("", "identity"):
        raise errors.InvalidArgumentError("request", "a compressed envelope, and no header names the compression")
    return inflated(data, encoding)


def wrapped(data: bytes, flags: int = 0) -> bytes:
    """One envelope."""
    return PREFIX.pack(flags, len(data)) + data


def error_json(code: grpc.StatusCode, message: str) -> bytes:
    """Connect's error, as the body of a unary answer."""
    return orjson.dumps({"code": NAMES[code], "message": message})


def connect_end(code: grpc.StatusCode, message: str) -> bytes:
    """The last envelope of a Connect stream."""
    end = {} if code is grpc.StatusCode.OK else {"error": {"code": NAMES[code], "message": message}}
    return wrapped(orjson.dumps(end), CONNECT_END)


def grpc_web_end(code: grpc.StatusCode, message: str) -> bytes:
    """The last envelope of a gRPC-Web answer: the trailers."""
    trailers = f"grpc-status: {code.value[0]}\r\n"
    if message:
        # Spaces and what is printable may stay; quoting all else keeps a message from making up trailers.
        trailers += f"grpc-message: {urllib.parse.quote(message, safe=' !#$&()*+,/:;<=>?@[]{}|^`~')}\r\n"
    return wrapped(trailers.encode(), GRPC_WEB_END)


_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def connect_timeout_s(text: str) -> float:
    """Of Connect-Timeout-Ms: at most ten digits. InvalidArgumentError otherwise."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise errors.InvalidArgumentError("connect-timeout-ms", "must be a number of milliseconds of at most 10 digits")
    return int(text) / 1000


def grpc_timeout_s(text: str) -> float:
    """Of grpc-timeout: at most eight digits and a unit. InvalidArgumentError otherwise."""
    digits, unit = text[:-1], _UNITS_S.get(text[-1:])
    if unit is None or not (digits.isascii() and digits.isdigit() and len(digits) <= 8):
        raise errors.InvalidArgumentError("grpc-timeout", "must be at most 8 digits and one of H, M, S, m, u, n")
    return int(digits) * unit
