"""The keys that sign tokens of accounts: made at the first use, the same for all servers, replaced by a rotation.

They stand in Postgres as they are. Whoever reads them there could make tokens, with which to read balances that are there too.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence

import asyncpg

from meterd.core import ids
from meterd.postgres import keys, sql

_SQL = sql.read("token_keys")

SECRET_BYTES = 32
# A token lasts for a day at most. Servers sign with the key before for as long as they have not read the new one.
TTL_MAX_MS = 24 * 3600 * 1000
SIGNING_MARGIN_MS = 3600 * 1000
# Dead keys are kept so long, for whoever looks into what happened.
DEAD_KEPT_MS = 30 * 24 * 3600 * 1000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TokenKey:
    """An Ed25519 key. `verifies_until_ms` 0: it signs."""

    key_id: str
    secret: bytes = dataclasses.field(repr=False)
    verifies_until_ms: int


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class TokenKeys:
    """The installation's keys. UnavailableError from any method: Postgres is away; a rotation may have happened."""

    def __init__(self, connections: asyncpg.Pool, *, clock_ms: Callable[[], int] = _now_ms) -> None:
        self._pool = connections
        self._clock_ms = clock_ms

    async def live(self) -> Sequence[TokenKey]:
        """Those whose tokens are good; at most one of them signs."""
        with keys.mapped():
            rows = await self._pool.fetch(_SQL["live"], self._clock_ms())
        return [
            TokenKey(key_id=row["key_id"], secret=row["secret"], verifies_until_ms=row["verifies_until_ms"])
            for row in rows
        ]

    async def create(self) -> Sequence[TokenKey]:
        """The same, once one is there that signs."""
        with keys.mapped():
            await self._pool.execute(_SQL["insert"], *self._new())
        return await self.live()

    async def rotate(self, *, at_once: bool) -> str:
        """Id of a new key that signs from now on. Tokens of those before are good until they expire; `at_once`: no longer.

        Each call makes another. Servers hear of it within 30 s.
        """
        now_ms = self._clock_ms()
        until_ms = now_ms if at_once else now_ms + TTL_MAX_MS + SIGNING_MARGIN_MS
        new = self._new()
        with keys.mapped():
            async with self._pool.acquire() as connection, connection.transaction(isolation="read_committed"):
                await connection.execute(_SQL["lock"])
                await connection.execute(_SQL["retire"], until_ms, at_once)
                await connection.execute(_SQL["delete_dead"], now_ms - DEAD_KEPT_MS)
                await connection.execute(_SQL["insert"], *new)
        return new[0]

    def _new(self) -> tuple[str, bytes, int]:
        now_ms = self._clock_ms()
        return str(ids.uuid7(now_ms)), os.urandom(SECRET_BYTES), now_ms
