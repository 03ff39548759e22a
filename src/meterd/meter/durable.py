"""What Postgres knows of holds and charges whose tombstones have left Redis."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import asyncpg

from meterd.core import errors, ledger
from meterd.meter import holds, hydration, requests
from meterd.postgres import fold

# Servers' clocks and the one of Redis agree better than this.
CLOCK_SKEW_MAX_MS = 60_000


class Settlements:
    """The durable ends of holds and charges.

    Redis forgets an end `tombstone_ttl_ms` after it, so one that Redis does not know is at least that old; if all records of that age
    are in Postgres, Postgres' answer is final.
    """

    def __init__(
        self,
        connections: asyncpg.Pool,
        *,
        tombstone_ttl_ms: int,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._connections = connections
        self._age_ms = tombstone_ttl_ms - min(CLOCK_SKEW_MAX_MS, tombstone_ttl_ms // 2)
        self._clock_ms = clock_ms

    async def settled(self, tenant_id: str, address: str, txn: uuid.UUID) -> holds.Durable | None:
        """How the hold or charge `txn`, unknown to Redis, ended; the late Commit where one followed an expiry; None if it never did.

        UnavailableError: Postgres is away, or lags so far behind that the end may yet come.
        """
        try:
            found = await fold.durable(self._connections, tenant_id, address, txn)
        except hydration.POSTGRES_ERRORS as exc:
            raise errors.UnavailableError(
                f"Postgres is away, and only it may know this id: {exc}; retry with the same id"
            ) from exc
        if found is None:
            return None
        if found.records:
            return of_record(found.records[-1])
        if found.fresh_ms < self._clock_ms() - self._age_ms:
            raise errors.UnavailableError("Postgres lags behind, and only it may know this id; retry with the same id")
        return None


def of_record(record: ledger.Record) -> holds.Durable:
    """A ledger record of a hold or charge as its end."""
    return holds.Durable(
        kind=record.kind,
        txn=record.txn,
        wallet=record.wallet,
        held_micros=record.held_before_micros,
        charged_micros=record.charged_micros,
        returned_micros=record.returned_micros,
        uncollected_micros=record.uncollected_micros,
        forfeited_micros=record.expired_micros,
        at_ms=record.at_ms,
        draws=record.drawn,
        overage=record.overage,
        request_digest=record.request_digest,
        terms=requests.decode(record.terms),
        detail=requests.decode(record.detail),
    )
