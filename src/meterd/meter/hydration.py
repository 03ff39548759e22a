"""Hydration: an account that Redis does not have is loaded from Postgres, once, however many calls ask for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import asyncpg

from meterd.core import errors, ledger
from meterd.postgres import fold, pool

_log = logging.getLogger(__name__)

# A caller that asks for unknown accounts in a loop costs one query a second per account.
UNKNOWN_TTL_S = 1.0
# Past this many unknown accounts the memory of them starts anew.
UNKNOWN_COUNT_MAX = 10_000

# What may come from Postgres being away, or from waiting for a connection to it.
POSTGRES_ERRORS = (asyncpg.PostgresError, *pool.AWAY)


async def load(connection: Any, store: ledger.Ledger, address: str, tenant_id: str = "") -> dict[int, ledger.Applied]:
    """Puts the account and all its unconfirmed changes into Redis; answers the changes by number. The connection holds its lock.

    NotFoundError: no such account, or another tenant's than `tenant_id`. A change that Redis refuses stays pending, and those behind it.
    """
    state = await fold.state(connection, address)
    if state is None or (tenant_id and state.tenant_id != tenant_id):
        raise errors.NotFoundError("account_id: no such account")
    changes = await fold.changes_after(connection, address, state.change_no)
    # They leave together, the load first, so that no call of this server comes between it and the first change: without a grant that is
    # pending, the account would be denied what it can pay.
    _, applied = await asyncio.gather(store.load(state), apply(store, address, changes))
    return applied


async def apply(store: ledger.Ledger, address: str, changes: Sequence[ledger.Change]) -> dict[int, ledger.Applied]:
    """Applies the changes in order, up to the first that Redis refuses. AccountNotLoadedError and UnavailableError pass through."""
    applied: dict[int, ledger.Applied] = {}
    for change in changes:
        try:
            applied[change.change_no] = await store.apply(address, change)
        except (errors.OverloadedError, errors.OutOfRangeError, errors.FailedPreconditionError) as exc:
            _log.error("change %d of account %s was refused and waits: %s", change.change_no, address, exc)
            break
    return applied


@contextlib.contextmanager
def postgres() -> Generator[None]:
    """Maps what comes from Postgres being away. The effect may have happened: a repeat with the same key has one effect."""
    try:
        yield
    except POSTGRES_ERRORS as exc:
        raise errors.UnavailableError(f"Postgres is away: {exc}; retry with the same id") from exc


class Hydrator:
    """Loads accounts on first use. One flight per account in this process, one account lock among servers."""

    def __init__(
        self, *, connections: asyncpg.Pool, store: ledger.Ledger, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._connections = connections
        self._store = store
        self._clock_s = clock_s
        self._flights: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._unknown: dict[tuple[str, str], float] = {}

    async def hydrate(self, tenant_id: str, address: str) -> None:
        """Returns when Redis has the tenant's account; one that is there is left as it is.

        NotFoundError: Postgres has no such account (remembered for a second). UnavailableError: a store is away.
        """
        key = (tenant_id, address)
        if self._unknown and self._clock_s() < self._unknown.get(key, 0.0):
            raise errors.NotFoundError("account_id: no such account")
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._fly(key))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        # A caller that goes away must not take the flight from the others.
        await asyncio.shield(flight)

    def _landed(self, key: tuple[str, str], flight: asyncio.Task[None]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            # Marks the error as seen: every caller may have gone away.
            flight.exception()

    async def _fly(self, key: tuple[str, str]) -> None:
        tenant_id, address = key
        try:
            async with fold.locked(self._connections, address) as connection:
                await load(connection, self._store, address, tenant_id)
        except errors.NotFoundError:
            if len(self._unknown) >= UNKNOWN_COUNT_MAX:
                self._unknown.clear()
            self._unknown[key] = self._clock_s() + UNKNOWN_TTL_S
            raise
        except POSTGRES_ERRORS as exc:
            raise errors.UnavailableError(
                f"Postgres is away, and the account is not in Redis: {exc}; retry with the same id"
            ) from exc
        self._unknown.pop(key, None)
