"""Buys what `topup.requested` asks for: with the customer's default card, once for each request.

A request's order has a key that follows from it, and so has what Stripe is asked: any number of tries, by any number of processes, is one
payment. Credits come with Stripe's event, as those of every payment do.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable

import asyncpg

from meterd.billing import failpoints, orders, outgoing
from meterd.core import catalog, errors
from meterd.postgres import catalog as accounts
from meterd.postgres import catalogs, pool, top_up_requests, top_ups
from meterd.postgres import orders as stored

_log = logging.getLogger(__name__)

# Nobody expects to be charged for what was asked for longer ago; nor does Stripe know a key for much longer.
AGE_MAX_MS = orders.RETRY_MAX_MS
# What is too old is noted as failed, if it is not older than this.
LOOK_BACK_MS = 3 * 24 * 60 * 60 * 1000
# Longer than all tries of all calls to Stripe for one request.
CLAIM_MS = 3 * 60 * 1000
# 5 s, 10 s, … up to ten minutes.
BACKOFF_MS, BACKOFF_MAX_MS = 5_000, 600_000
BATCH_MAX = 10
POLL_S = 1.0
RETRY_S = 2.0
# Where the process may be killed in tests, in this order.
FAILPOINTS = ("claimed", "ordered", "chosen", "charged", "noted", "ended")

_AWAY = (asyncpg.PostgresError, *pool.AWAY)


@dataclasses.dataclass(slots=True)
class Counts:
    """Since the start: requests that were paid or are being paid, that failed for good, and tries that are repeated."""

    done: int = 0
    failed: int = 0
    retried: int = 0


class _Sold:
    """The tenant's catalog, as of the last round."""

    def __init__(self) -> None:
        self.catalog = catalog.EMPTY

    def of(self, tenant_id: str) -> catalog.Catalog:
        """See orders.InForce."""
        del tenant_id
        return self.catalog


class TopUps:
    """One tenant's. Any number of processes may run it."""

    def __init__(
        self,
        connections: asyncpg.Pool,
        *,
        tenant_id: str,
        at_stripe: outgoing.Stripe,
        livemode: bool,
        clock_ms: Callable[[], int],
        failpoint: failpoints.Failpoint = failpoints.none,
    ) -> None:
        self._connections = connections
        self._tenant_id = tenant_id
        self._clock_ms = clock_ms
        self._failpoint = failpoint
        self._sold = _Sold()
        self._orders = orders.Orders(
            connections=connections,
            catalogs_=self._sold,
            stripe_=at_stripe,
            livemode=livemode,
            clock_ms=clock_ms,
            failpoint=failpoint,
        )
        self._accounts = accounts.Catalog(connections, partitions=1)
        self.counts = Counts()

    async def round(self) -> int:
        """One batch of requests; answers how many were tried. Errors of Postgres pass through: what was claimed is tried again later."""
        now_ms = self._clock_ms()
        found = await top_up_requests.claim(
            self._connections,
            self._tenant_id,
            now_ms=now_ms,
            since_ms=now_ms - LOOK_BACK_MS,
            until_ms=now_ms + CLAIM_MS,
            count_max=BATCH_MAX,
        )
        if found:
            self._sold.catalog = (await catalogs.latest(self._connections, self._tenant_id)).catalog
        for request in found:
            await self._failpoint("claimed")
            await self._try(request)
            await self._failpoint("ended")
        return len(found)

    async def _try(self, request: top_up_requests.Request) -> None:
        try:
            order = await self._bought(request)
        except errors.UnavailableError as exc:
            await self._retry(request, str(exc))
        except errors.MeterdError as exc:
            await self._fail(request, str(exc))
        except _AWAY:
            raise
        except Exception as exc:
            _log.exception("top-up %s: unforeseen", request.request_id)
            await self._retry(request, f"{type(exc).__name__}: {exc}")
        else:
            await self._failpoint("noted")
            is_over = order.state in (stored.FAILED, stored.CANCELLED)
            await self._finish(request, order, f"the purchase is {order.state}: {order.failure}" if is_over else "")

    async def _bought(self, request: top_up_requests.Request) -> stored.Order:
        key = f"{top_up_requests.KEY}{request.request_id}"
        digest = orders.top_up_digest(request.account_id, request.package_id)
        # What was begun is gone on with, since Stripe may have taken the money; what was not is no longer wanted perhaps.
        if await stored.by_key(self._connections, self._tenant_id, key, digest) is None:
            await self._check(request)
        return await self._orders.top_up(self._tenant_id, request.account_id, request.package_id, key=key)

    async def _check(self, request: top_up_requests.Request) -> None:
        """FailedPreconditionError: nobody wants it to be charged now."""
        now_ms = self._clock_ms()
        if now_ms - request.requested_ms > AGE_MAX_MS:
            raise errors.FailedPreconditionError("it was asked for too long ago")
        wanted = await top_ups.of_account(self._connections, self._tenant_id, request.account_id, now_ms)
        if wanted is None or wanted.package_id != request.package_id:
            raise errors.FailedPreconditionError("the account's top-up was deleted or changed since")
        if (await self._accounts.account(self._tenant_id, request.account_id)).frozen:
            raise errors.FailedPreconditionError("the account is frozen")

    async def _retry(self, request: top_up_requests.Request, error: str) -> None:
        self.counts.retried += 1
        _log.warning("top-up %s of %s is tried again: %s", request.request_id, request.account_id, error)
        wait_ms = min(BACKOFF_MAX_MS, BACKOFF_MS << min(request.attempts - 1, 20))
        await top_up_requests.retry(
            self._connections,
            self._tenant_id,
            request.request_id,
            error=error,
            next_ms=self._clock_ms() + wait_ms,
        )

    async def _fail(self, request: top_up_requests.Request, error: str) -> None:
        digest = orders.top_up_digest(request.account_id, request.package_id)
        key = f"{top_up_requests.KEY}{request.request_id}"
        order = await stored.by_key(self._connections, self._tenant_id, key, digest)
        if order is not None and order.state == stored.PENDING:
            async with pool.as_tenant(self._connections, self._tenant_id) as connection:
                await stored.advance(connection, order, stored.FAILED, now_ms=self._clock_ms(), failure=error)
        await self._finish(request, order, error)

    async def _finish(self, request: top_up_requests.Request, order: stored.Order | None, error: str) -> None:
        await top_up_requests.finish(
            self._connections, self._tenant_id, request, error=error, order=order, now_ms=self._clock_ms()
        )
        if error:
            self.counts.failed += 1
            _log.error("top-up %s of %s has failed: %s", request.request_id, request.account_id, error)
        else:
            self.counts.done += 1

    async def run(self, stop: asyncio.Event) -> None:
        """Rounds until `stop`. Outages are retried for ever."""
        told = ""
        while not stop.is_set():
            pause_s = POLL_S
            try:
                if await self.round() >= BATCH_MAX:
                    continue
                told = ""
            except _AWAY as exc:
                pause_s = RETRY_S
                text = f"{type(exc).__name__}: {exc}"
                if text != told:
                    _log.warning("requests of top-ups cannot be read, retrying: %s", text)
                told = text
            try:
                await asyncio.wait_for(stop.wait(), pause_s)
            except TimeoutError:
                pass
