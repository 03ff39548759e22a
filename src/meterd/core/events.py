"""What is told to the outside: the types of events, and which records of a wallet cross a threshold. Pure."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections.abc import Mapping
from typing import Any

# A grant is told of this long before it expires, but never before three quarters of its own life have passed.
EXPIRING_AHEAD_MS = 3 * 24 * 3600 * 1000
# Today's spending above this many times the mean of the days before is a spike.
SPIKE_FACTOR = 3
SPIKE_BASELINE_DAYS = 7
# Small sums triple every day and mean nothing: one credit.
SPIKE_MIN_MICROS = 1_000_000


class Type(enum.StrEnum):
    """All types; docs/EVENTS.md shows the payload of each."""

    BALANCE_LOW = "balance.low"
    BALANCE_EXHAUSTED = "balance.exhausted"
    GRANT_EXPIRING = "grant.expiring"
    HOLD_EXPIRED = "hold.expired"
    LIMIT_NEAR = "limit.near"
    LIMIT_REACHED = "limit.reached"
    TOPUP_FAILED = "topup.failed"
    TOPUP_REQUESTED = "topup.requested"
    USAGE_SPIKE = "usage.spike"
    USAGE_UNCOLLECTED = "usage.uncollected"


# A limit is told of when this part (percent) of it is used, and when all of it is.
LIMIT_LEVELS = ((80, Type.LIMIT_NEAR), (100, Type.LIMIT_REACHED))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """An event to be written. `once` names the crossing: a second draft of the same account, type and `once` is the same event."""

    tenant_id: str
    account_no: int
    account_id: str
    type: Type
    # What it happened to: a wallet, hold, grant or limit.
    subject: str
    once: str
    payload: Mapping[str, Any]
    at_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """Whether a wallet's next fall to its threshold or below it, and to nothing, is to be told."""

    low_armed: bool
    exhausted_armed: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """An alert after one record, and what the record crossed."""

    alert: Alert
    is_low: bool
    is_exhausted: bool


def begin(left_micros: int, threshold_micros: int | None) -> Alert:
    """The alert of a wallet that was never looked at, as it stood before a record: only what is above can fall."""
    return Alert(
        low_armed=threshold_micros is None or left_micros > threshold_micros,
        exhausted_armed=left_micros > 0,
    )


def step(alert: Alert, left_micros: int, threshold_micros: int | None) -> Step:
    """What a record that leaves `left_micros` does. Credits in open holds are left too: they are not spent yet.

    `threshold_micros` None: a low balance is not told of. Then the alert stays armed, so that a threshold that is set later is
    told of with the next record, if the balance lies at or below it already.
    """
    is_low_now = threshold_micros is not None and left_micros <= threshold_micros
    is_exhausted_now = left_micros <= 0
    return Step(
        alert=Alert(low_armed=not is_low_now, exhausted_armed=not is_exhausted_now),
        is_low=is_low_now and alert.low_armed,
        is_exhausted=is_exhausted_now and alert.exhausted_armed,
    )


def hold_text(txn: str, address: str) -> str:
    """The hold_id that callers know, of the 32 hex digits that records have."""
    return f"{uuid.UUID(hex=txn)}.{address}"
