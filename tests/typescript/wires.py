"""The wires as Python speaks them. Answers are told in the TypeScript client's words."""

from __future__ import annotations

import base64
import datetime
import json
import struct
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf import json_format, timestamp_pb2
from google.protobuf.message import Message

from meterd_client.v1 import metering_pb2

WIRES = ("grpc", "connect-json", "connect", "grpc-web")
_SERVICE = metering_pb2.DESCRIPTOR.services_by_name["Metering"]
_MICROS = ("_micros", "seq", "epoch")
_ENUM_PREFIXES = {
    "overagePolicy": "OVERAGE_POLICY_",
    "expiryPolicy": "EXPIRY_POLICY_",
    "usageState": "USAGE_STATE_",
}
# Time for the answer to arrive after the call's own deadline.
SLACK_S = 5.0

Json = dict[str, Any]


class RefusedError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def request_of(method: str, plain: Json) -> Message:
    """The request of a case."""
    message: Any = getattr(metering_pb2, _SERVICE.methods_by_name[method].input_type.name)()
    json_format.ParseDict(_proto_json(plain), message)
    return message


def _proto_json(plain: Any, name: str = "") -> Any:
    if isinstance(plain, Mapping):
        return {
            key: value if name in ("metadata", "labels") else _proto_json(value, key) for key, value in plain.items()
        }
    if name == "json":
        return base64.b64encode(plain.encode()).decode()
    return _ENUM_PREFIXES[name] + plain if name in _ENUM_PREFIXES else plain


def plain_of(message: Message) -> Json:
    """A reply as the TypeScript client tells it, with amounts and times as texts."""
    plain: Json = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and not field.is_repeated and not message.HasField(field.name):
            continue
        told = [_value(field, one) for one in value] if field.is_repeated else _value(field, value)
        if told is not None:
            plain[field.json_name] = told
    return plain


def _value(field: Any, value: Any) -> Any:
    if isinstance(value, timestamp_pb2.Timestamp):
        return value.ToDatetime(tzinfo=datetime.UTC).isoformat()
    if field.message_type is not None:
        return plain_of(value)
    if field.enum_type is not None:
        names = [one.name for one in field.enum_type.values]
        prefix = names[0].removesuffix("UNSPECIFIED")
        return field.enum_type.values_by_number[value].name.removeprefix(prefix) if value else None
    return str(value) if field.name.endswith(_MICROS) and isinstance(value, int) else value


def call(target: Mapping[str, str], method: str, plain: Json, timeout_ms: int) -> Json:
    """The answer of one call over the target's wire; RefusedError otherwise."""
    request = request_of(method, plain)
    answer: Any = getattr(metering_pb2, _SERVICE.methods_by_name[method].output_type.name)()
    if target["wire"] == "grpc":
        _over_grpc(target, method, request, answer, timeout_ms)
    else:
        _over_http(target, method, request, answer, timeout_ms)
    return plain_of(answer)


def _encoded(message: Any) -> bytes:
    return message.SerializeToString()


def _over_grpc(target: Mapping[str, str], method: str, request: Message, answer: Message, timeout_ms: int) -> None:
    with grpc.insecure_channel(target["grpc"].removeprefix("http://")) as channel:
        verb: Any = channel.unary_unary(
            f"/{_SERVICE.full_name}/{method}",
            request_serializer=_encoded,
            response_deserializer=bytes,
        )
        try:
            metadata = [("authorization", f"Bearer {target['key']}")]
            answer.MergeFromString(verb(request, metadata=metadata, timeout=timeout_ms / 1000))
        except grpc.RpcError as fault:
            found: Any = fault
            raise RefusedError(found.code().name, found.details()) from fault


def _over_http(target: Mapping[str, str], method: str, request: Message, answer: Message, timeout_ms: int) -> None:
    headers = {"authorization": f"Bearer {target['key']}"}
    data = request.SerializeToString()
    match target["wire"]:
        case "connect-json":
            data = json_format.MessageToJson(request).encode()
            headers |= {"content-type": "application/json", "connect-timeout-ms": str(timeout_ms)}
        case "connect":
            headers |= {"content-type": "application/proto", "connect-timeout-ms": str(timeout_ms)}
        case _:
            data = struct.pack(">BI", 0, len(data)) + data
            headers |= {"content-type": "application/grpc-web+proto", "grpc-timeout": f"{timeout_ms}m"}
    url = f"{target['http']}/{_SERVICE.full_name}/{method}"
    posted = urllib.request.Request(url, data=data, headers=headers, method="POST")
    try:
        with urllib.request.urlopen(posted, timeout=timeout_ms / 1000 + SLACK_S) as response:
            body, told = response.read(), response.headers
    except urllib.error.HTTPError as fault:
        error = json.loads(fault.read())
        code = str(error["code"]).upper().replace("CANCELED", "CANCELLED")
        raise RefusedError(code, error.get("message", "")) from fault
    if target["wire"] == "connect-json":
        json_format.Parse(body, answer)
    elif target["wire"] == "connect":
        answer.MergeFromString(body)
    else:
        _from_grpc_web(body, told, answer)


def _from_grpc_web(body: bytes, headers: Any, answer: Message) -> None:
    trailers = {name.lower(): value for name, value in headers.items()}
    while body:
        flags, size = struct.unpack(">BI", body[:5])
        piece, body = body[5 : 5 + size], body[5 + size :]
        if flags & 0x80:
            trailers |= dict(line.split(": ", 1) for line in piece.decode().split("\r\n") if line)
        else:
            answer.MergeFromString(piece)
    if (status := int(trailers["grpc-status"])) != 0:
        (code,) = (one for one in grpc.StatusCode if one.value[0] == status)
        raise RefusedError(code.name, urllib.parse.unquote(trailers.get("grpc-message", "")))
