"""Scans for what no ledger record tells: grants that expire soon, and spending far above the account's own baseline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import asyncpg

from meterd.meter import hydration
from meterd.postgres import events, limit_uses

_log = logging.getLogger(__name__)

INTERVAL_S = 30.0
# Spikes are looked for this often: a scan adds up the day's rows of all tenants.
SPIKES_INTERVAL_MS = 10 * 60 * 1000
# Bounds one transaction.
GRANTS_MAX = 500
SPIKES_MAX = 1_000
TENANTS_MAX = 100
# What is older is deleted; the ledger keeps what happened.
RETENTION_MS = 90 * 24 * 3600 * 1000
# Uses of limits are kept for this long after their window, for records that come late.
LIMIT_USES_RETENTION_MS = 24 * 3600 * 1000
PRUNED_MAX = 5_000


class Alerts:
    """`run` it as a task, any number of times: what is told is told once."""

    def __init__(self, connections: asyncpg.Pool, *, clock_ms: Callable[[], int]) -> None:
        self._connections = connections
        self._clock_ms = clock_ms
        self._spikes_at_ms = 0
        self.told = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Scans until `stop`. Outages of Postgres are retried for ever."""
        while not stop.is_set():
            try:
                await self.round(stop)
            except hydration.POSTGRES_ERRORS as exc:
                _log.warning("alerts wait for Postgres: %s: %s", type(exc).__name__, exc)
            try:
                await asyncio.wait_for(stop.wait(), INTERVAL_S)
            except TimeoutError:
                continue

    async def round(self, stop: asyncio.Event) -> int:
        """One scan, a batch at a time; answers how many events it made."""
        told = 0
        looked_at = GRANTS_MAX
        while looked_at == GRANTS_MAX and not stop.is_set():
            looked_at, made = await events.tell_expiring(self._connections, self._clock_ms(), count_max=GRANTS_MAX)
            told += made
        if self._clock_ms() >= self._spikes_at_ms:
            told += await self._spikes(stop)
            self._spikes_at_ms = self._clock_ms() + SPIKES_INTERVAL_MS
            await self._prune(stop)
        self.told += told
        return told

    async def _spikes(self, stop: asyncio.Event) -> int:
        told, after = 0, ""
        while not stop.is_set():
            tenants = await events.tenants_after(self._connections, after, count_max=TENANTS_MAX)
            for tenant_id in tenants:
                told += await events.tell_spikes(self._connections, tenant_id, self._clock_ms(), count_max=SPIKES_MAX)
            if len(tenants) < TENANTS_MAX:
                return told
            after = tenants[-1]
        return told

    async def _prune(self, stop: asyncio.Event) -> None:
        pruned = PRUNED_MAX
        while pruned == PRUNED_MAX and not stop.is_set():
            pruned = await events.prune(self._connections, self._clock_ms() - RETENTION_MS, count_max=PRUNED_MAX)
        pruned = PRUNED_MAX
        while pruned == PRUNED_MAX and not stop.is_set():
            before_ms = self._clock_ms() - LIMIT_USES_RETENTION_MS
            pruned = await limit_uses.prune(self._connections, before_ms, count_max=PRUNED_MAX)
