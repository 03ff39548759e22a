"""What a request asks for: checked field by field, before anything is written."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from google.protobuf.message import Message

from meterd.core import errors, ids, ledger, money
from meterd_client.v1 import types_pb2

# Metadata is stored with every settlement; larger texts belong into the caller's own store.
METADATA_BYTES_MAX = 4096
LABELS_MAX = 16
REASON_BYTES_MAX = 256
PROMPT_BYTES_MAX = 1024 * 1024
# No provider takes or makes more in one call; larger numbers are mistakes.
TOKENS_MAX = 10**12
QUANTITY_MAX = 10**9

Terms = dict[str, Any]

# By the number in a message; a lookup is a fraction of an enum's call.
_OVERAGES = {int(policy): policy for policy in ledger.Overage}
_EXPIRIES = {int(policy): policy for policy in ledger.Expiry}


def digest(request: Message) -> bytes:
    """8 bytes over what the client sent; equal for equal requests."""
    return hashlib.blake2b(request.SerializeToString(deterministic=True), digest_size=8).digest()


def checked_ttl_ms(value: int, default_ms: int = ledger.TTL_DEFAULT_MS) -> int:
    """`value` from 1 s to 24 h; 0 is the default."""
    if value == 0:
        return default_ms
    if not ledger.TTL_MIN_MS <= value <= ledger.TTL_MAX_MS:
        raise errors.InvalidArgumentError("ttl_ms", f"must be from {ledger.TTL_MIN_MS} to {ledger.TTL_MAX_MS}, or 0")
    return value


def checked_amount(value: int, field: str) -> int:
    """`value` from 1 to 2^53 − 1 micro-credits."""
    if value <= 0:
        raise errors.InvalidArgumentError(field, "must be greater than 0")
    return money.checked_micros(value, field)


def checked_tokens(value: int, field: str) -> int:
    if not 0 <= value <= TOKENS_MAX:
        raise errors.InvalidArgumentError(field, f"must be from 0 to {TOKENS_MAX}")
    return value


def check_prompt(prompt: str) -> None:
    if len(prompt.encode()) > PROMPT_BYTES_MAX:
        raise errors.InvalidArgumentError("model.prompt", f"longer than {PROMPT_BYTES_MAX} bytes")


def checked_quantity(value: int, field: str) -> int:
    """Actions of a feature; 0 counts as 1."""
    if not 0 <= value <= QUANTITY_MAX:
        raise errors.InvalidArgumentError(field, f"must be from 0 to {QUANTITY_MAX}")
    return value or 1


# What callers ask for repeats.
@functools.lru_cache(maxsize=1024)
def checked_conditions(
    wallet: str, ttl_ms: int, overage: int, expiry: int
) -> tuple[str, int, ledger.Overage, ledger.Expiry]:
    """How a Reserve wants its hold, checked, with what it left out."""
    return ids.checked_wallet(wallet), checked_ttl_ms(ttl_ms), checked_overage(overage), checked_expiry(expiry)


def checked_overage(value: int) -> ledger.Overage:
    if not 0 <= value <= 3:
        raise errors.InvalidArgumentError("overage_policy", "unknown value")
    return _OVERAGES[value]


def checked_expiry(value: int) -> ledger.Expiry:
    if not 0 <= value <= 3:
        raise errors.InvalidArgumentError("expiry_policy", "unknown value")
    return _EXPIRIES[value or 1]


def add_subject(terms: Terms, subject: types_pb2.Subject) -> None:
    """Puts the subject's set fields into `terms`."""
    if user := subject.user:
        terms["user"] = ids.checked_text(user, "subject.user", ids.ID_BYTES_MAX)
    if team := subject.team:
        terms["team"] = ids.checked_text(team, "subject.team", ids.ID_BYTES_MAX)
    if key := subject.key:
        terms["key"] = ids.checked_text(key, "subject.key", ids.ID_BYTES_MAX)
    if operation := subject.operation_id:
        terms["op"] = ids.checked_text(operation, "subject.operation_id", ids.ID_BYTES_MAX)
    if labels := subject.labels:
        terms["labels"] = _checked_map(labels, "subject.labels", ids.ID_BYTES_MAX * 2 * LABELS_MAX, LABELS_MAX)


def add_metadata(terms: Terms, metadata: Mapping[str, str]) -> None:
    """Puts the metadata, if any, into `terms`."""
    if metadata:
        terms["meta"] = _checked_map(metadata, "metadata", METADATA_BYTES_MAX, METADATA_BYTES_MAX)


def _checked_map(values: Mapping[str, str], field: str, bytes_max: int, count_max: int) -> dict[str, str]:
    if len(values) > count_max:
        raise errors.InvalidArgumentError(field, f"more than {count_max} entries")
    size = 0
    for key, value in values.items():
        if not key:
            raise errors.InvalidArgumentError(field, "has an empty key")
        # Postgres cannot store NUL in text; other characters are the caller's own.
        if "\0" in key or "\0" in value:
            raise errors.InvalidArgumentError(field, "contains NUL")
        size += len(key.encode()) + len(value.encode())
    if size > bytes_max:
        raise errors.InvalidArgumentError(field, f"longer than {bytes_max} bytes in total")
    return dict(values)


def encode(terms: Terms) -> bytes:
    return orjson.dumps(terms)


def decode(terms: bytes) -> Terms:
    return orjson.loads(terms) if terms else {}


# Names of the terms' keys as the client knows them, for the message of a conflict.
_FIELDS = {
    "item": "charge",
    "in": "input_tokens",
    "out": "max_output_tokens",
    "qty": "quantity",
    "amt": "amount_micros",
    "tier": "service_tier",
    "user": "subject.user",
    "team": "subject.team",
    "key": "subject.key",
    "op": "subject.operation_id",
    "labels": "subject.labels",
    "meta": "metadata",
    "model": "model",
    "provider": "provider",
}


def conflict(field: str, before: bytes, now: Terms) -> errors.AlreadyExistsError:
    """The error for an id that was used before with other content; names what differs where that is still known."""
    if before:
        old = decode(before)
        for key, name in _FIELDS.items():
            if old.get(key) != now.get(key):
                return errors.AlreadyExistsError(f"{field}: used before with another {name}")
    return errors.AlreadyExistsError(f"{field}: used before with other content")
