"""The catalogs of all tenants in a running server: in memory, as they stand in Postgres a moment later.

A catalog that is applied anywhere is heard of by NOTIFY; every REFRESH_INTERVAL_S it is looked for besides, since a message can be lost.
While Postgres is away, what is in memory stays in force.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import asyncpg
import orjson

from meterd.core import catalog, errors, pricing
from meterd.meter import hydration
from meterd.postgres import catalog as stored
from meterd.postgres import catalogs, pool
from meterd.pricing import books as price_books
from meterd.pricing import document

_log = logging.getLogger(__name__)

# Behind a pooler that drops NOTIFY, a new catalog is in force after this time; and a dead connection is found out.
REFRESH_INTERVAL_S = 10.0
RETRY_S = 1.0


class Catalogs:
    """What each tenant sells, and its price book on top of the server's.

    A price book is kept in Postgres before it is in force, so that any server can price a Commit of what was reserved by it.
    """

    def __init__(
        self,
        *,
        connections: asyncpg.Pool,
        dsn: str,
        books: price_books.Books,
        refresh_interval_s: float = REFRESH_INTERVAL_S,
    ) -> None:
        self._connections = connections
        self._dsn = dsn
        self._books = books
        self._refresh_interval_s = refresh_interval_s
        self._applied: dict[str, catalogs.Applied] = {}
        # Numbers of catalogs that this program cannot read.
        self._unread: dict[str, int] = {}
        self._changing = asyncio.Lock()
        self._wake = asyncio.Event()
        self.is_listening = False

    def of(self, tenant_id: str) -> catalog.Catalog:
        """The catalog in force; an empty one for a tenant that never applied any. One dict lookup."""
        found = self._applied.get(tenant_id)
        return found.catalog if found is not None else catalog.EMPTY

    def all(self) -> list[tuple[str, catalog.Catalog]]:
        """Each tenant that has a catalog, with the one in force."""
        return [(tenant_id, found.catalog) for tenant_id, found in self._applied.items()]

    def applied(self, tenant_id: str) -> catalogs.Applied | None:
        """The catalog in force, with number and time; None for a tenant that never applied one."""
        return self._applied.get(tenant_id)

    async def load(self) -> None:
        """Reads all catalogs, and puts the server's price book in force with those of the tenants. Errors of Postgres pass through."""
        async with self._connections.acquire(timeout=pool.CONNECT_TIMEOUT_S) as connection:
            await self._refresh(connection)
        await self.use_base(self._books.current)

    async def use_base(self, base: pricing.PriceBook) -> None:
        """Puts another book of the server in force, and with it those of the tenants on top of it. Errors of Postgres pass through."""
        async with self._changing:
            tenants = {tenant_id: _book(found.catalog, base) for tenant_id, found in self._applied.items()}
            tenants = {tenant_id: book for tenant_id, book in tenants.items() if book is not base}
            await self._keep((base, *tenants.values()))
            self._books.use(base, tenants)

    async def take(self, found: catalogs.Applied) -> None:
        """Puts a catalog in force that Postgres has, unless a later one is. Errors of Postgres pass through."""
        async with self._changing:
            await self._take((found,))

    async def run(self, stop: asyncio.Event) -> None:
        """Follows Postgres until `stop`."""
        stopping = asyncio.create_task(stop.wait())
        stopping.add_done_callback(lambda _: self._wake.set())
        try:
            while not stop.is_set():
                try:
                    await self._follow(stop)
                except (*hydration.POSTGRES_ERRORS, errors.UnavailableError) as exc:
                    self.is_listening = False
                    _log.warning("catalogs: Postgres is away, those in force stay: %s: %s", type(exc).__name__, exc)
                    await asyncio.wait((stopping,), timeout=RETRY_S)
        finally:
            stopping.cancel()

    async def _follow(self, stop: asyncio.Event) -> None:
        connection = await pool.connect(self._dsn, application_name="meterd catalogs")
        try:
            connection.add_termination_listener(self._hear)
            await connection.add_listener(catalogs.CHANNEL, self._hear)
            self.is_listening = True
            while not stop.is_set():
                # What was told before the connection listened is found by reading.
                self._wake.clear()
                await self._refresh(connection)
                try:
                    await asyncio.wait_for(self._wake.wait(), self._refresh_interval_s)
                except TimeoutError:
                    continue
        finally:
            connection.terminate()

    def _hear(self, *_: object) -> None:
        self._wake.set()

    async def _refresh(self, connection: Any) -> None:
        async with self._changing:
            known = {tenant_id: found.catalog_no for tenant_id, found in self._applied.items()} | self._unread
            taken: list[catalogs.Applied] = []
            for row in await catalogs.newer(connection, known):
                try:
                    taken.append(catalogs.applied(row))
                except errors.FailedPreconditionError as exc:
                    self._unread[row["tenant_id"]] = row["catalog_no"]
                    _log.error("catalog of %s: the one before stays in force: %s", row["tenant_id"], exc)
            await self._take(taken)

    async def _take(self, found: Iterable[catalogs.Applied]) -> None:
        newer = [one for one in found if one.catalog_no > self._number(one.tenant_id)]
        base = self._books.current
        books = {one.tenant_id: _book(one.catalog, base) for one in newer}
        await self._keep(book for book in books.values() if book is not base)
        for one in newer:
            self._applied[one.tenant_id] = one
            self._books.use_for(one.tenant_id, books[one.tenant_id])
            _log.info("catalog of %s: %s is in force", one.tenant_id, one.catalog.version)

    def _number(self, tenant_id: str) -> int:
        found = self._applied.get(tenant_id)
        return found.catalog_no if found is not None else 0

    async def _keep(self, books: Iterable[pricing.PriceBook]) -> None:
        rows = {book.version: orjson.loads(price_books.dump(book)) for book in books}
        await stored.add_price_books(self._connections, rows)


def _book(sold: catalog.Catalog, base: pricing.PriceBook) -> pricing.PriceBook:
    """The tenant's prices on top of `base`; `base` itself if the catalog has none."""
    layer = document.layer(sold, base)
    return document.layered(layer, base) if layer is not None else base
