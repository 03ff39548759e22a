"""Messages as JSON, in Protobuf's own mapping: 64-bit integers are strings, names are camelCase, times are RFC 3339.

Protobuf's json_format does the same, and is the oracle of the tests; it looks everything up anew for each field and takes five to ten times
as long, which would be most of a call. Here each message type is looked at once.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from meterd.core import errors

_LONG = frozenset({FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64})
_SHORT = frozenset({FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32})
# An integer in a string is short, or it is none; int() takes quadratic time.
_INTEGER_CHARS_MAX = 32

# A field's value to JSON; None: as it is.
_Write = Callable[[Any], Any] | None
_Read = Callable[[Any], Any]


class _Bad(Exception):
    """What is wrong, and in which field. Each message on the way puts its field in front."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def inside(self, name: str) -> _Bad:
        return _Bad(f"{name}.{self.path}" if self.path else name, self.reason)


def parser(kind: type[Message], *, ignores_unknown: bool = False) -> Callable[[bytes], Message]:
    """Reads messages of that type. Names may be camelCase or as in the proto. InvalidArgumentError says which field is wrong.

    `ignores_unknown`: fields that are not known are passed over, as newer clients may send them; otherwise they are wrong.
    """
    form = _form(kind.DESCRIPTOR)

    def parse(data: bytes) -> Message:
        try:
            found = orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            raise errors.InvalidArgumentError("request", f"not JSON: {exc}") from exc
        message = kind()
        try:
            form.read(found, message, ignores_unknown)
        except _Bad as exc:
            raise errors.InvalidArgumentError(exc.path or "request", exc.reason) from exc
        return message

    return parse


def dump(message: Message) -> bytes:
    """What is at its default is left out."""
    return orjson.dumps(_form(message.DESCRIPTOR).write(message))


class _Field:
    """How one field is set from JSON."""

    __slots__ = ("form", "is_map", "is_repeated", "json_name", "name", "oneof", "read")

    def __init__(self, field: Any) -> None:
        self.name = field.name
        self.json_name = field.json_name
        self.oneof = field.containing_oneof.name if field.containing_oneof is not None else ""
        self.is_map = _is_map(field)
        self.is_repeated = field.is_repeated and not self.is_map
        value = field.message_type.fields_by_name["value"] if self.is_map else field
        self.form = _form(value.message_type) if value.type == FieldDescriptor.TYPE_MESSAGE else None
        self.read: _Read = _reader(value)

    def set(self, message: Message, value: Any, ignores_unknown: bool) -> None:
        """_Bad, TypeError, ValueError: the value is not one of the field's."""
        if self.oneof and message.WhichOneof(self.oneof) is not None:
            raise _Bad("", "no other field of its kind may be given beside it")
        if self.is_map:
            self._set_map(getattr(message, self.name), value, ignores_unknown)
        elif self.is_repeated:
            self._extend(getattr(message, self.name), value, ignores_unknown)
        elif self.form is None:
            setattr(message, self.name, self.read(value))
        else:
            part = getattr(message, self.name)
            part.SetInParent()
            self.form.read(value, part, ignores_unknown)

    def _extend(self, values: Any, found: Any, ignores_unknown: bool) -> None:
        if not isinstance(found, list):
            raise _Bad("", "must be a list")
        for one in found:
            if self.form is None:
                values.append(self.read(one))
            else:
                self.form.read(one, values.add(), ignores_unknown)

    def _set_map(self, values: Any, found: Any, ignores_unknown: bool) -> None:
        if not isinstance(found, dict):
            raise _Bad("", "must be an object")
        for key, one in found.items():
            if self.form is None:
                values[key] = self.read(one)
            else:
                self.form.read(one, values[key], ignores_unknown)


class _Form:
    """How messages of one type look in JSON."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._is_foreign = kind.file.package == "google.protobuf"
        self._fields: dict[str, _Field] = {}
        self._writers: dict[int, tuple[str, _Write]] = {}

    def fill(self) -> None:
        """After it is known: a message may hold messages of its own type."""
        if self._is_foreign:
            return
        for field in self._kind.fields:
            one = _Field(field)
            self._fields[field.name] = self._fields[field.json_name] = one
            self._writers[field.number] = (field.json_name, _writer(field))

    def write(self, message: Message) -> Any:
        if self._is_foreign:
            return json_format.MessageToDict(message)
        found: dict[str, Any] = {}
        writers = self._writers
        for field, value in message.ListFields():
            name, write = writers[field.number]
            found[name] = value if write is None else write(value)
        return found

    def read(self, found: Any, message: Message, ignores_unknown: bool) -> None:
        """Sets what is given. _Bad: something is wrong."""
        if self._is_foreign:
            _read_foreign(found, message)
            return
        if not isinstance(found, dict):
            raise _Bad("", "must be an object")
        for name, value in found.items():
            field = self._fields.get(name)
            if field is None:
                if ignores_unknown:
                    continue
                raise _Bad(name[:128], f"there is no such field in {self._kind.name}")
            if value is None:
                continue
            if name != field.json_name and field.json_name in found:
                raise _Bad(name, "given twice")
            try:
                field.set(message, value, ignores_unknown)
            except _Bad as exc:
                raise exc.inside(field.name) from None
            except (TypeError, ValueError) as exc:
                raise _Bad(field.name, str(exc)[:200]) from exc


_forms: dict[str, _Form] = {}


def _form(kind: Any) -> _Form:
    found = _forms.get(kind.full_name)
    if found is None:
        found = _forms[kind.full_name] = _Form(kind)
        found.fill()
    return found


def _is_map(field: Any) -> bool:
    return field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type.GetOptions().map_entry


def _writer(field: Any) -> _Write:
    if _is_map(field):
        write = _writer_of_one(field.message_type.fields_by_name["value"])
        return dict if write is None else lambda values: {key: write(value) for key, value in values.items()}
    write = _writer_of_one(field)
    if not field.is_repeated:
        return write
    return list if write is None else lambda values: [write(value) for value in values]


def _writer_of_one(field: Any) -> _Write:
    if field.type in _LONG:
        return str
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if field.message_type.full_name == "google.protobuf.Timestamp":
            return lambda time: time.ToJsonString()
        return _form(field.message_type).write
    if field.type == FieldDescriptor.TYPE_ENUM:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda data: base64.b64encode(data).decode()
    if field.type in _SHORT or field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BOOL):
        return None
    raise LookupError(f"{field.full_name}: how such a field looks in JSON was not decided")


def _reader(field: Any) -> _Read:
    if field.type in _LONG or field.type in _SHORT:
        return _integer
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _enum_reader({value.name: value.number for value in field.enum_type.values})
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes
    if field.type == FieldDescriptor.TYPE_BOOL:
        return _boolean
    return _text


def _integer(value: Any) -> int:
    if type(value) is int:
        return value
    if isinstance(value, str) and len(value) <= _INTEGER_CHARS_MAX and value.isascii():
        digits = value.removeprefix("-")
        if digits.isdigit():
            return int(value)
        if not digits or value != value.strip() or "_" in value:
            raise _Bad("", "must be an integer")
        value = _float(value)
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    raise _Bad("", "must be an integer")


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError as exc:
        raise _Bad("", "must be an integer") from exc


def _enum_reader(numbers: dict[str, int]) -> _Read:
    def read(value: Any) -> int:
        if isinstance(value, str) and (number := numbers.get(value)) is not None:
            return number
        # A number is passed on: whether it means something is decided where the message is.
        if type(value) is int:
            return value
        raise _Bad("", f"must be one of {', '.join(numbers)}")

    return read


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _Bad("", "must be true or false")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise _Bad("", "must be a string")


def _bytes(value: Any) -> bytes:
    text = _text(value).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _Bad("", "must be base64") from exc


def _read_foreign(found: Any, message: Message) -> None:
    try:
        json_format.ParseDict(found, message)
    except (json_format.ParseError, TypeError, ValueError) as exc:
        raise _Bad("", str(exc)[:200]) from exc
