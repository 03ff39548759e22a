"""The projector: brings what was decided in Postgres (grants, revocations, settings) to Redis, in order, until the ledger confirms it.

The scripts apply a change if its number is above the account's watermark, so sending one twice has no second effect; and a change
stays pending until its ledger record is flushed, so whatever Redis forgot before that is sent again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence

import asyncpg
import redis.exceptions

from meterd.core import errors, ledger
from meterd.meter import hydration
from meterd.postgres import fold, pool

_log = logging.getLogger(__name__)

POLL_S = 1.0
# Inline projection and the flusher are nearly always done by then.
AGE_S = 1.0
# Sending again what Redis has applied, but Postgres not heard of yet, is harmless but of no use.
RESEND_S = 10.0
# Changes that wait for their records to be flushed; a busy account of a lagging flusher has many.
SENT_AGAIN_MAX = 4
# Bounds how long one round keeps its transaction open.
ROUND_ACCOUNTS_MAX = 200
ROUND_S_MAX = 10.0
RETRY_S = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """Since the start: changes sent by the background rounds, and accounts whose changes could not be."""

    sent: int
    failed: int
    last_error: str


class Projector:
    """`project` right after a change; `run` as a background task that catches up with the rest."""

    def __init__(
        self,
        *,
        connections: asyncpg.Pool,
        store: ledger.Ledger,
        age_s: float = AGE_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connections = connections
        self._store = store
        self._age_s = age_s
        self._clock_s = clock_s
        # Account number -> last change sent, and when.
        self._sent: dict[int, tuple[int, float]] = {}
        self._after_no = 0
        self._count = self._failed = 0
        self._last_error = ""
        self._stopping = asyncio.Event()

    def stats(self) -> Stats:
        return Stats(sent=self._count, failed=self._failed, last_error=self._last_error)

    async def project(self, address: str) -> dict[int, ledger.Applied]:
        """Sends the account's pending changes in order, loading the account first if need be; answers them by number.

        A change that is missing in the answer was confirmed before, or is refused by Redis for now. NotFoundError: no such account.
        UnavailableError: a store is away; the changes stay pending, and the background round sends them.
        """
        try:
            async with fold.locked(self._connections, address) as connection:
                changes = await fold.pending_changes(connection, address)
                try:
                    return await hydration.apply(self._store, address, await self._unapplied(address, changes))
                except errors.AccountNotLoadedError:
                    return await hydration.load(connection, self._store, address)
        except hydration.POSTGRES_ERRORS as exc:
            raise errors.UnavailableError(f"Postgres is away: {exc}; retry with the same id") from exc

    async def _unapplied(self, address: str, changes: Sequence[ledger.Change]) -> Sequence[ledger.Change]:
        """Those that Redis lacks, and the last, whose balance a caller waits for. Few are sent again sooner than they are looked up."""
        if len(changes) <= SENT_AGAIN_MAX:
            return changes
        state = await self._store.account(address)
        if state is None:
            return changes
        return [change for change in changes[:-1] if change.change_no > state.change_no] + [changes[-1]]

    async def round(self) -> int:
        """Projects the next accounts with changes that have waited; answers how many changes it sent. 0 if another server is at it."""
        async with (
            self._connections.acquire(timeout=pool.CONNECT_TIMEOUT_S) as connection,
            connection.transaction(isolation="read_committed"),
        ):
            if not await fold.try_projecting(connection):
                return 0
            found = await fold.accounts_pending(
                connection, after_no=self._after_no, age_s=self._age_s, count_max=ROUND_ACCOUNTS_MAX
            )
            self._after_no = found[-1].account_no if len(found) == ROUND_ACCOUNTS_MAX else 0
            until_s = self._clock_s() + ROUND_S_MAX
            sent = 0
            for pending in found:
                if self._clock_s() > until_s:
                    self._after_no = pending.account_no - 1
                    break
                if not self._is_due(pending):
                    continue
                sent += await self._send(pending)
        self._count += sent
        self._forget()
        return sent

    def _is_due(self, pending: fold.Pending) -> bool:
        change_no, at_s = self._sent.get(pending.account_no, (0, 0.0))
        return pending.change_no > change_no or self._clock_s() - at_s >= RESEND_S

    async def _send(self, pending: fold.Pending) -> int:
        try:
            applied = await self.project(pending.address)
        except errors.MeterdError as exc:
            self._failed += 1
            self._last_error = str(exc)
            return 0
        if pending.change_no in applied:
            self._sent[pending.account_no] = (pending.change_no, self._clock_s())
        return len(applied)

    def _forget(self) -> None:
        limit_s = self._clock_s() - RESEND_S
        self._sent = {no: sent for no, sent in self._sent.items() if sent[1] > limit_s}

    def stop(self) -> None:
        """Lets `run` end after the round that it is in."""
        self._stopping.set()

    async def run(self) -> None:
        """Rounds until `stop` or cancellation. Outages are retried for ever."""
        while not self._stopping.is_set():
            pause_s = POLL_S
            try:
                await self.round()
                if self._after_no:
                    continue
            except (*hydration.POSTGRES_ERRORS, redis.exceptions.RedisError) as exc:
                pause_s = RETRY_S
                text = f"{type(exc).__name__}: {exc}"
                if text != self._last_error:
                    _log.warning("projection failed, retrying: %s", text)
                self._last_error = text
            try:
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            except TimeoutError:
                pass
