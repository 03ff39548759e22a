"""What scripts answer, from bytes and words to values."""

from __future__ import annotations

import functools

from meterd.core import ids, ledger
from meterd.redis import keys


def draws(text: str) -> tuple[ledger.Draw, ...]:
    """Draws out of "grant:amount,grant:amount", the grants as 32 hex digits, or "-"."""
    if text == "-":
        return ()
    rows = text.split(",")
    return tuple([ledger.Draw(grant_id=ids.parsed_uuid(row[:32]), amount_micros=int(row[33:])) for row in rows])


# A partition's sentinel seldom changes, and every answer has its epoch.
@functools.lru_cache(maxsize=1024)
def epoch_of(sentinel: bytes | None) -> int:
    return int(sentinel[: sentinel.index(b":")]) if sentinel else 0


@functools.lru_cache(maxsize=1024)
def born_ms_of(sentinel: bytes | None) -> int:
    """When a rebuilt partition's epoch began, by its sentinel; 0 for the first epoch, before which nothing was."""
    if epoch_of(sentinel) <= 1 or sentinel is None:
        return 0
    return int(sentinel[sentinel.index(b":") + 1 :][: keys.BORN_CHARS], 16)
