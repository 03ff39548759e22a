"""Names of keys. All keys of a partition carry one hash tag; docs/ARCHITECTURE.md lists their types."""

from __future__ import annotations

import base64
import hashlib
import uuid

from meterd.core import ids


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


def counters(partition: int, address: str) -> str:
    """The key of what the account's limits have counted."""
    return f"{{m:{partition:02d}}}:k:{address}"


def hold(partition: int, address: str, hold_id: uuid.UUID) -> str:
    """The key of a hold or charge: fixed width, whatever the ids were."""
    digest = hashlib.blake2b(address.encode() + hold_id.bytes, digest_size=16).digest()
    return f"{{m:{partition:02d}}}:h:{base64.urlsafe_b64encode(digest)[: ids.ADDRESS_CHARS].decode()}"


def deadline_member(address: str, hold_id: uuid.UUID) -> str:
    return hold_id.hex + address


def parse_deadline_member(member: str) -> tuple[uuid.UUID, str]:
    """The hold and the address in a member of the deadlines."""
    return uuid.UUID(hex=member[:32]), member[32:]
