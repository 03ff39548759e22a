"""What scripts answer, from bytes and words to values."""

from __future__ import annotations

import functools
import struct

from meterd.core import ids, ledger
from meterd.redis import keys


def draws(text: str) -> tuple[ledger.Draw, ...]:
    """Draws out of "grant:amount,grant:amount", the grants as 32 hex digits, or "-"."""
    if text == "-":
        return ()
    rows = text.split(",")
    return tuple([ledger.Draw(grant_id=ids.parsed_uuid(row[:32]), amount_micros=int(row[33:])) for row in rows])


# Available, held and seq, and a hold as packed_body in the prelude packs it: amount, created, deadline, reported, overage, expiry, sizes of
# the detail, which a new hold has none of, and of the entries.
_RESERVED = struct.Struct("<3d4d2B2I")
_ROW = struct.Struct("<32sd")


def new_hold(reply: bytes) -> tuple[int, int, int, int, int, int, tuple[ledger.Draw, ...]]:
    """What reserve answers: available and held (micros), seq; of the hold its amount (micros), when it was made (ms), overage and draws."""
    available, held, seq, amount, created, _, _, overage, _, _, size = _RESERVED.unpack_from(reply)
    rows = _ROW.iter_unpack(reply[_RESERVED.size + size :])
    draws = tuple(
        [ledger.Draw(grant_id=ids.parsed_uuid(grant.decode()), amount_micros=int(part)) for grant, part in rows]
    )
    return int(available), int(held), int(seq), int(amount), int(created), overage, draws


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
