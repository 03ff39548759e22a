"""JSON of messages: whatever Protobuf's own module writes and reads, this does alike."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from meterd.core import errors
from meterd.server import json_wire, methods
from meterd_client.v1 import accounts_pb2, metering_pb2, types_pb2

KINDS: list[Any] = sorted(
    {
        message_factory.GetMessageClass(kind)
        for method in methods.declared().values()
        for kind in (method.input_type, method.output_type)
    },
    key=lambda kind: kind.DESCRIPTOR.full_name,
)
_RANGES = {
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_ENUM: (-1, 12),
}


_TEXTS = ("", "a", "é 🦊", '<"&\\>', "\u2028\x00\x7f", "9007199254740993", "null")


def scalar(chance: random.Random, field: Any) -> Any:
    if field.type in _RANGES:
        low, high = _RANGES[field.type]
        return chance.choice((low, 0, 1, high, chance.randint(low, high)))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return chance.random() < 0.5
    if field.type == FieldDescriptor.TYPE_BYTES:
        return chance.randbytes(chance.randrange(9))
    return chance.choice(_TEXTS)


def fill(chance: random.Random, message: Any, depth: int = 0) -> Any:
    """Any content that the message can have."""
    if message.DESCRIPTOR.full_name == "google.protobuf.Timestamp":
        message.seconds = chance.choice((-62135596800, 253402300799, 0, chance.randint(0, 2**32)))
        message.nanos = chance.choice((0, 1_000_000, 120_000, 7, 999_999_999))
        return message
    for field in message.DESCRIPTOR.fields:
        if depth <= 3 and chance.random() < 0.5:
            fill_field(chance, message, field, depth)
    return message


def fill_field(chance: random.Random, message: Any, field: Any, depth: int) -> None:
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    if is_message and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        for key in chance.sample(_TEXTS, 2):
            if value.type == FieldDescriptor.TYPE_MESSAGE:
                fill(chance, getattr(message, field.name)[key], depth + 1)
            else:
                getattr(message, field.name)[key] = scalar(chance, value)
    elif field.is_repeated:
        for _ in range(chance.randrange(3)):
            if is_message:
                fill(chance, getattr(message, field.name).add(), depth + 1)
            else:
                getattr(message, field.name).append(scalar(chance, field))
    elif is_message:
        part = getattr(message, field.name)
        part.SetInParent()
        fill(chance, part, depth + 1)
    else:
        setattr(message, field.name, scalar(chance, field))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.DESCRIPTOR.name)
def test_it_writes_and_reads_what_protobuf_writes(kind: Any) -> None:
    chance = random.Random(kind.DESCRIPTOR.full_name)
    parse = json_wire.parser(kind)
    for _ in range(20):
        message = fill(chance, kind())
        assert json.loads(json_wire.dump(message)) == json_format.MessageToDict(message)
        for keeps_names in (False, True):
            text = json_format.MessageToJson(message, preserving_proto_field_name=keeps_names)
            assert parse(text.encode()) == message


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(
        ["1", "-0", "007", "+5", "1.0", "1e3", "1.5", " 1", "1_0", "٣", "", "-", "NaN", "true", "AP8=", "_-"]
    ),
    st.sampled_from(["OVERAGE_POLICY_CAP", "CAP", "2026-11-21T10:00:00Z", "2026-13-01T00:00:00Z", "x"]),
    st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.sampled_from(["a", "amountMicros", "wallet", "model"]), st.integers(0, 3), max_size=2),
)


@given(st.sampled_from(KINDS), st.data())
def test_what_it_takes_protobuf_takes_alike(kind: Any, data: st.DataObject) -> None:
    """It refuses more (a bool as text, an unknown enum), and never reads another value."""
    names = [field.json_name for field in kind.DESCRIPTOR.fields] + [field.name for field in kind.DESCRIPTOR.fields]
    found = data.draw(st.dictionaries(st.sampled_from(names or ["none"]), VALUES, max_size=4))
    text = json.dumps(found)
    try:
        message = json_wire.parser(kind)(text.encode())
    except errors.InvalidArgumentError:
        return
    assert message == json_format.Parse(text, kind())


def test_a_field_that_is_null_is_not_given() -> None:
    parse = json_wire.parser(metering_pb2.ReserveRequest)
    assert parse(b'{"accountId": "a", "model": null, "ttlMs": null}') == metering_pb2.ReserveRequest(account_id="a")


def test_messages_that_are_given_empty_are_given() -> None:
    message = json_wire.parser(metering_pb2.ReserveRequest)(b'{"credits": {}}')
    assert message == metering_pb2.ReserveRequest(credits=types_pb2.CreditsCharge())
    assert json_wire.dump(message) == b'{"credits":{}}'


@pytest.mark.parametrize("text", ["AP8=", "AP8", base64.b64encode(b"\0\xff").decode()])
def test_bytes_are_base64(text: str) -> None:
    body = json.dumps({"holdId": "h", "providerResponse": {"json": text}}).encode()
    found: Any = json_wire.parser(metering_pb2.CommitRequest)(body)
    assert found.provider_response.json == b"\0\xff"


@pytest.mark.parametrize("text", ["A", "***", "é", 5, None])
def test_what_is_no_base64_is_named(text: Any) -> None:
    body = json.dumps({"providerResponse": {"json": [text]}}).encode()
    with pytest.raises(errors.InvalidArgumentError, match=r"^provider_response\.json: "):
        json_wire.parser(metering_pb2.CommitRequest)(body)


def test_unknown_fields_are_refused_or_passed_over() -> None:
    body = b'{"accountId": "a", "credit": {"amountMicros": 5}}'
    with pytest.raises(errors.InvalidArgumentError, match=r"^credit: there is no such field in ReserveRequest$"):
        json_wire.parser(metering_pb2.ReserveRequest)(body)
    lenient = json_wire.parser(metering_pb2.ReserveRequest, ignores_unknown=True)
    assert lenient(body) == metering_pb2.ReserveRequest(account_id="a")


def test_paths_of_nested_fields_are_told() -> None:
    body = b'{"wallets": [{"grants": [{}, {"priority": "x"}]}]}'
    with pytest.raises(errors.InvalidArgumentError, match=r"^wallets\.grants\.priority: must be an integer$"):
        json_wire.parser(accounts_pb2.GetBalanceResponse)(body)
