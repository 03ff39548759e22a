"""What a check of a store's settings has found."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable

# Redis' clock ends holds and dates records; ids are dated by the clients' clocks.
CLOCK_DIFFERENCE_WARN_MS = 1_000
# Whether an id is so old that only Postgres knows of it is decided with 60 s to spare; half of it is for the clients.
CLOCK_DIFFERENCE_MAX_MS = 30_000


class Level(enum.StrEnum):
    """OK is as it should be; WARN costs something, or cannot be seen; UNSAFE may lose or double money, or cannot work at all."""

    OK = "ok"
    WARN = "warn"
    UNSAFE = "unsafe"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at. `why` and `change` (what to set, to what) are empty where all is well."""

    store: str  # "redis", "postgres" or "ledger" for what the two must agree on
    subject: str  # a setting by its name in the store, or a few words
    level: Level
    seen: str
    why: str = ""
    change: str = ""


def unsafe(found: Iterable[Finding]) -> list[Finding]:
    """Those that a server must not start on."""
    return [one for one in found if one.level == Level.UNSAFE]


def clock(store: str, difference_ms: int) -> Finding:
    """What it means that the store's clock is `difference_ms` ahead of this machine's."""
    level = Level.OK
    if abs(difference_ms) > CLOCK_DIFFERENCE_WARN_MS:
        level = Level.UNSAFE if abs(difference_ms) > CLOCK_DIFFERENCE_MAX_MS else Level.WARN
    return Finding(
        store=store,
        subject="clock",
        level=level,
        seen=f"{abs(difference_ms):,} ms {'ahead of' if difference_ms >= 0 else 'behind'} this machine's",
        why="" if level == Level.OK else "grants and holds end by one clock, and the age of an id is told by another",
        change="" if level == Level.OK else "run NTP on both machines",
    )
