"""Names of keys. All keys of a partition carry one hash tag; docs/ARCHITECTURE.md lists their types."""

from __future__ import annotations

import binascii
import functools
import hashlib
import secrets
import uuid

from meterd.core import ids, values

# From base64 to its URL-safe form.
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


# Hexadecimal digits of an incarnation that tell when it began, in milliseconds.
BORN_CHARS = 12


def incarnation(now_ms: int) -> str:
    """A name for a partition's new data set: when it began, and something that no other has."""
    return f"{now_ms:0{BORN_CHARS}x}{secrets.token_hex(4)}"


def tag(partition: int) -> str:
    return f"{{m:{partition:02d}}}"


def sentinel(partition: int) -> str:
    return f"{{m:{partition:02d}}}:e"


def outbox(partition: int) -> str:
    return f"{{m:{partition:02d}}}:o"


def deadlines(partition: int) -> str:
    return f"{{m:{partition:02d}}}:d"


def grant_expiries(partition: int) -> str:
    return f"{{m:{partition:02d}}}:x"


def account(partition: int, address: str) -> str:
    return f"{{m:{partition:02d}}}:a:{address}"


@values.value
class Places:
    """An account's keys, and what stands in front of its holds' hashes."""

    partition: int
    sentinel: str
    account: str
    outbox: str
    deadlines: str
    counters: str
    hold_prefix: str
    address_bytes: bytes

    def hold(self, hold_id: uuid.UUID) -> str:
        """The key of a hold or charge: fixed width, whatever the ids were."""
        digest = hashlib.blake2b(self.address_bytes + hold_id.bytes, digest_size=16).digest()
        text = binascii.b2a_base64(digest).translate(_URL_SAFE)
        return self.hold_prefix + text[: ids.ADDRESS_CHARS].decode()


@functools.lru_cache(maxsize=ids.ADDRESSES_CACHED_MAX)
def places(address: str, partitions: int) -> Places:
    """The keys of the account with that address."""
    return _places(ids.partition_of(address, partitions), address)


def _places(partition: int, address: str) -> Places:
    return Places(
        partition=partition,
        sentinel=sentinel(partition),
        account=account(partition, address),
        outbox=outbox(partition),
        deadlines=deadlines(partition),
        counters=counters(partition, address),
        hold_prefix=f"{tag(partition)}:h:",
        address_bytes=address.encode(),
    )


def counters(partition: int, address: str) -> str:
    """The key of what the account's limits have counted."""
    return f"{{m:{partition:02d}}}:k:{address}"


def hold(partition: int, address: str, hold_id: uuid.UUID) -> str:
    """The key of a hold or charge."""
    return _places(partition, address).hold(hold_id)


def deadline_member(address: str, hold_id: uuid.UUID) -> str:
    return hold_id.hex + address


def parse_deadline_member(member: str) -> tuple[uuid.UUID, str]:
    """The hold and the address in a member of the deadlines."""
    return uuid.UUID(hex=member[:32]), member[32:]
