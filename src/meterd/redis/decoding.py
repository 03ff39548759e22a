"""What scripts answer, from bytes and words to values."""

from __future__ import annotations

import functools

from meterd.core import ids, ledger


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
