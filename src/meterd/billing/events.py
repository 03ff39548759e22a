"""Stripe's events as they arrive: a body that was signed becomes an event, or is refused. Pure."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from meterd.core import errors

Document = dict[str, Any]

# Stripe's own bodies are some tens of kilobytes; an invoice with all its lines may have a few hundred.
BODY_BYTES_MAX = 1024 * 1024
# Stripe's deepest objects have a dozen levels.
DEPTH_MAX = 64

_ID = re.compile(r"[A-Za-z0-9_]{1,255}\Z")
_TYPE = re.compile(r"[a-z0-9_.]{1,128}\Z")
# The year 9999, in seconds.
_CREATED_MAX = 253_402_300_799


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event. `created_s` is Stripe's time of it, in whole seconds: several may have the same."""

    event_id: str
    type: str
    # The connected account that it is of; "" for the endpoint's own.
    account: str
    livemode: bool
    created_s: int
    object: Document

    @property
    def object_id(self) -> str:
        """The id of what it is about, "" if that has none."""
        return id_of(self.object.get("id"))


def parse(body: bytes) -> Event:
    """The event of a body. InvalidArgumentError: it is not UTF-8, not JSON to the letter, or not an event of Stripe's."""
    if len(body) > BODY_BYTES_MAX:
        raise errors.InvalidArgumentError("body", f"longer than {BODY_BYTES_MAX} bytes")
    document = _document(body)
    if document.get("object") != "event":
        raise errors.InvalidArgumentError("object", "must be event")
    data = document.get("data")
    found = data.get("object") if isinstance(data, dict) else None
    if not isinstance(found, dict):
        raise errors.InvalidArgumentError("data.object", "must be an object")
    created_s, livemode = document.get("created"), document.get("livemode")
    if type(created_s) is not int or not 0 <= created_s <= _CREATED_MAX:
        raise errors.InvalidArgumentError("created", "must be a time in seconds")
    if not isinstance(livemode, bool):
        raise errors.InvalidArgumentError("livemode", "must be true or false")
    account = document.get("account")
    return Event(
        event_id=_matched(document.get("id"), "id", _ID),
        type=_matched(document.get("type"), "type", _TYPE),
        account=_matched(account, "account", _ID) if account is not None else "",
        livemode=livemode,
        created_s=created_s,
        object=found,
    )


def id_of(value: Any) -> str:
    """The id of a reference, whether it is bare or expanded; "" if there is none that could be one."""
    if isinstance(value, dict):
        value = value.get("id")
    return value if isinstance(value, str) and _ID.match(value) else ""


def _document(body: bytes) -> Document:
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refused)
        # A lone half of a surrogate pair can be written in JSON, but is no text.
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as exc:
        raise errors.InvalidArgumentError("body", "not JSON in UTF-8") from exc
    if not isinstance(document, dict) or _depth(document) > DEPTH_MAX:
        raise errors.InvalidArgumentError("body", "not a JSON object, or one that is too deep")
    return document


def _once(pairs: list[tuple[str, Any]]) -> Document:
    """Of a name that stands twice, readers take different ones."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _refused(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _depth(document: Any) -> int:
    depth, level = 0, [document]
    while level and depth <= DEPTH_MAX:
        depth += 1
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
    return depth


def _matched(value: Any, field: str, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.match(value):
        raise errors.InvalidArgumentError(field, "is missing or malformed")
    return value
