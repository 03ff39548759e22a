"""Ids and addresses: how strings that callers choose become fixed-width names."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import re
import uuid

from asyncpg.pgproto import pgproto

from meterd.core import errors, values

# A longer id would only cost memory and log space; ids are opaque.
ID_BYTES_MAX = 128
# A client's clock may run ahead by this much. More would let an id outlive its tombstone (see meter/durable.py).
ID_AHEAD_MAX_MS = 5 * 60 * 1000
ADDRESS_CHARS = 22
UUID_CHARS = 36

# Accounts in use at one time mostly; some 5 MB when full.
ADDRESSES_CACHED_MAX = 16_384

# A uuid.UUID that is made from text, and told as text, by C: in a quarter and a tenth of the time. Takes 32 hex digits with any dashes;
# what is not surely a UUID must not get here.
parsed_uuid = pgproto.UUID

_UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_UUID7_TEXT = re.compile(rf"{_UUID7}\Z")
_HOLD_ID = re.compile(rf"{_UUID7}\.[A-Za-z0-9_-]{{22}}\Z")
_WALLET = re.compile(r"[a-z0-9_-]{1,64}\Z")


def checked_id(value: str, field: str) -> str:
    """`value` if it is 1 to 128 bytes of UTF-8 without control characters; InvalidArgumentError otherwise. Never normalised."""
    if not value:
        raise errors.InvalidArgumentError(field, "must not be empty")
    return checked_text(value, field, ID_BYTES_MAX)


def checked_text(value: str, field: str, bytes_max: int) -> str:
    """`value` if it is at most `bytes_max` bytes of UTF-8 without control characters."""
    if value.isascii() and value.isprintable():
        if len(value) <= bytes_max:
            return value
        raise errors.InvalidArgumentError(field, f"longer than {bytes_max} bytes")
    try:
        encoded = value.encode()
    except UnicodeEncodeError as exc:
        raise errors.InvalidArgumentError(field, "not valid UTF-8") from exc
    if len(encoded) > bytes_max:
        raise errors.InvalidArgumentError(field, f"longer than {bytes_max} bytes")
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in value):
        raise errors.InvalidArgumentError(field, "contains a control character")
    return value


def checked_wallet(value: str, field: str = "wallet") -> str:
    """The wallet's name; "" means "default"."""
    if not value:
        return "default"
    if not _WALLET.match(value):
        raise errors.InvalidArgumentError(field, "must be 1 to 64 of a-z, 0-9, _ and -")
    return value


def account_address(tenant_id: str, account_id: str) -> str:
    """22 characters that name an account in Redis keys: BLAKE2b-128 of tenant and account, base64url.

    Injective for all practical purposes, so two accounts never share keys, and no id can inject `{`, `}` or `:`.
    """
    tenant = tenant_id.encode()
    digest = hashlib.blake2b(len(tenant).to_bytes(2, "big") + tenant + account_id.encode(), digest_size=16).digest()
    return base64.urlsafe_b64encode(digest)[:ADDRESS_CHARS].decode()


@functools.lru_cache(maxsize=ADDRESSES_CACHED_MAX)
def checked_address(tenant_id: str, account_id: str, field: str = "account_id") -> str:
    """The address of an account that a caller names; errors as for `checked_id`."""
    return account_address(tenant_id, checked_id(account_id, field))


@functools.lru_cache(maxsize=ADDRESSES_CACHED_MAX)
def partition_of(address: str, partitions: int) -> int:
    """The partition of an account: the first 32 bits of its address modulo the installation's number of partitions."""
    return int.from_bytes(base64.urlsafe_b64decode(address[:6] + "==")[:4], "big") % partitions


def uuid7(now_ms: int) -> uuid.UUID:
    """A new UUIDv7 (RFC 9562) with millisecond time and 74 random bits."""
    value = (now_ms & 0xFFFFFFFFFFFF) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def uuid7_ms(value: uuid.UUID) -> int:
    """The millisecond time inside a UUIDv7."""
    return value.int >> 80


def checked_uuid7(value: str, field: str, now_ms: int) -> uuid.UUID:
    """The UUIDv7 of a client-made id in its canonical form; InvalidArgumentError otherwise.

    An id more than 5 minutes in the future is refused: its age decides which store answers for it.
    """
    if not _UUID7_TEXT.match(value):
        raise errors.InvalidArgumentError(field, "must be a UUIDv7 in canonical lower-case form")
    parsed = parsed_uuid(value)
    if parsed.int >> 80 > now_ms + ID_AHEAD_MAX_MS:
        raise errors.InvalidArgumentError(field, "its time is more than 5 minutes ahead of the server's clock")
    return parsed


@values.value
class HoldId:
    """A hold's full id: the client's UUID and the account's address."""

    uuid: uuid.UUID
    address: str

    def __str__(self) -> str:
        return f"{self.uuid}.{self.address}"


def parse_hold_id(value: str, field: str = "hold_id") -> HoldId:
    """The parts of an id that Reserve answered."""
    if not _HOLD_ID.match(value):
        raise errors.InvalidArgumentError(field, "must be the hold_id that Reserve answered")
    return HoldId(uuid=parsed_uuid(value[:UUID_CHARS]), address=value[UUID_CHARS + 1 :])
