"""What scripts answer, from bytes and words to values."""

from __future__ import annotations

import functools
from typing import Any

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


def wallet_state(wallet: list[Any]) -> ledger.WalletState:
    """A wallet as the script `account` tells it."""
    name, debt, held, grants = wallet
    return ledger.WalletState(
        wallet=name.decode(),
        debt_micros=debt,
        held_micros=held,
        grants=[
            ledger.GrantState(
                grant_id=ids.parsed_uuid(grant[0].decode()),
                available_micros=grant[1],
                held_micros=grant[2],
                expires_ms=grant[3],
                effective_ms=grant[4],
                priority=grant[5],
                category=grant[6],
                created_no=grant[7],
                revoked=grant[8] == 1,
            )
            for grant in grants
        ],
    )
