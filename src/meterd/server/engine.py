"""What every long-running process of meterd has: the stores, the ledger with its fence, the price books, and the workers."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import orjson
import redis.asyncio

from meterd.billing import outgoing
from meterd.core import errors, findings, pricing
from meterd.meter import (
    alerts,
    catalogs,
    durable,
    fence,
    hydration,
    lanes,
    limits,
    metering,
    movements,
    projector,
    prompts,
    reach,
    renewals,
    subscriptions,
    sweeper,
    webhooks,
)
from meterd.postgres import catalog, migrate, partitions, pool
from meterd.postgres import limits as definitions
from meterd.postgres import settings_check as postgres_check
from meterd.pricing import books, yaml_file
from meterd.redis import ledger as redis_ledger
from meterd.redis import runner
from meterd.redis import settings_check as redis_check
from meterd.server import metrics
from meterd.settings import Settings

_log = logging.getLogger(__name__)

RETRY_S = 1.0
# An edited price file is in force after this time at the latest.
PRICES_INTERVAL_S = 2.0
REDIS_TIMEOUT_S = 5.0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Engine:
    """Made by `opened`. `start` runs its tasks; one that fails unexpectedly sets `failed` and the stop event."""

    def __init__(self, settings: Settings, connections: asyncpg.Pool, installed: catalog.Installation) -> None:
        self.settings = settings
        self.connections = connections
        self.installation = installed
        self.runner = runner.Runner(settings.redis_url, on_restart=lambda: self.fence.raise_all())
        self.ledger = redis_ledger.RedisLedger(
            self.runner,
            partitions=installed.partitions,
            tombstone_ttl_ms=settings.tombstone_ttl_ms,
            outbox_length_max=settings.outbox_length_max,
            on_fence=lambda partition, reason: self.fence.raise_fence(partition, reason),
        )
        self.fence = fence.Fence(
            self.ledger,
            self.runner,
            positions=lambda: partitions.positions(connections),
            claim_incarnation=lambda partition, name: partitions.claim_incarnation(connections, partition, name),
        )
        self.hydrator = hydration.Hydrator(connections=connections, store=self.ledger)
        self.projector = projector.Projector(connections=connections, store=self.ledger)
        self.books = _opened_books(settings, connections)
        self.catalogs = catalogs.Catalogs(connections=connections, dsn=settings.postgres_dsn, books=self.books)
        self.catalog = catalog.Catalog(connections, partitions=installed.partitions)
        self.metering = metering.Metering(
            self.ledger,
            self.books,
            hydration=self.hydrator,
            durable=durable.Settlements(connections, tombstone_ttl_ms=settings.tombstone_ttl_ms),
            count_tokens=prompts.PromptCounter().count,
            clock_ms=now_ms,
            tombstone_ttl_ms=settings.tombstone_ttl_ms,
        )
        self.reach = reach.Reach(projector_=self.projector, store=self.ledger, catalog_=self.catalog)
        self.subscriptions = subscriptions.Subscriptions(
            connections=connections, catalogs_=self.catalogs, reach_=self.reach, clock_ms=now_ms
        )
        self.movements = movements.Movements(
            connections=connections,
            catalog_=self.catalog,
            catalogs_=self.catalogs,
            projector_=self.projector,
            reach_=self.reach,
            charge=self.metering.settle_charge,
            clock_ms=now_ms,
        )
        self.limits = limits.Limits(
            definitions_=definitions.Limits(connections),
            store=self.ledger,
            hydrator=self.hydrator,
            reach_=self.reach,
            catalogs_=self.catalogs,
        )
        self.stripe = outgoing.opened(
            settings.stripe_api_key,
            livemode=settings.stripe_livemode,
            base=settings.stripe_api_base,
            timeout_s=settings.stripe_timeout_ms / 1000,
        )
        self.metrics = metrics.Metrics()
        self.flusher: lanes.Lanes | None = None
        self.sweeper: sweeper.Sweeper | None = None
        self.renewer: renewals.Renewer | None = None
        self.deliverer: webhooks.Deliverer | None = None
        self.failed = False
        self._prices_stamp_wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._flusher_client: redis.asyncio.Redis | None = None

    @property
    def unready(self) -> str:
        """Why no call can be decided now, "" if all can."""
        if not self.runner.is_connected:
            return "Redis is away"
        if self.fence.reasons:
            partition, reason = next(iter(self.fence.reasons.items()))
            others = len(self.fence.reasons) - 1
            return f"partition {partition} is fenced: {reason}" + (f" ({others} others too)" if others else "")
        return ""

    async def start(self, stop: asyncio.Event, *, workers: bool) -> None:
        """Connects and runs the tasks until `close`; `stop` is set if one of them fails."""
        await self.runner.start()
        # What is in force is in Postgres first, so that any server can price a Commit of a hold that this one reserved.
        await self.catalogs.load()
        self._run("fence", self._fence(), stop)
        self._run("prices", self._watch_prices(), stop)
        self._run("catalogs", self.catalogs.run(self._stop), stop)
        if workers:
            self._start_workers(stop)
        self._register()

    def _start_workers(self, stop: asyncio.Event) -> None:
        settings = self.settings
        client: Any = redis.asyncio.Redis.from_url(
            settings.redis_url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S
        )
        self._flusher_client = client
        flush = lanes.Lanes(
            partitions=self.installation.partitions,
            client=client,
            dsn=settings.postgres_dsn,
            retention_ms=settings.outbox_retention_ms,
            on_flush=lambda _rows, age_ms: self.metrics.flush_lag.observe("", age_ms / 1000),
        )
        sweep = sweeper.Sweeper(self.ledger, self.runner, hydrate=self._hydrate, owned=flush.owned)
        self.flusher, self.sweeper = flush, sweep
        self._run("flusher", flush.run(), stop)
        self._run("sweeper", sweep.run(self._stop), stop)
        self._run("projector", self.projector.run(), stop)
        tidier = sweeper.Tidier(
            self.ledger, limited=lambda: definitions.limited_accounts(self.connections), owned=flush.owned
        )
        self._run("tidier", tidier.run(self._stop), stop)
        renewer = renewals.Renewer(
            self.connections,
            subscriptions_=self.subscriptions,
            movements_=self.movements,
            catalogs_=self.catalogs,
            clock_ms=now_ms,
        )
        self.renewer = renewer
        self._run("renewer", renewer.run(self._stop), stop)
        follower = limits.Follower(self.connections, limits_=self.limits)
        self._run("limits", follower.run(self._stop), stop)
        deliverer = webhooks.Deliverer(self.connections, allow_private=settings.webhooks_allow_private, clock_ms=now_ms)
        self.deliverer = deliverer
        self._run("webhooks", deliverer.run(self._stop), stop)
        self._run("alerts", alerts.Alerts(self.connections, clock_ms=now_ms).run(self._stop), stop)

    async def _fence(self) -> None:
        """Nothing is decided before the stores' settings are known to keep what they are told."""
        if not self.settings.allow_unsafe:
            await self._check_stores()
        await self.fence.run(self._stop)

    async def _check_stores(self) -> None:
        """Returns when both stores are safe; waits for them as long as it takes. ConfigError names what is not."""
        while not self._stop.is_set():
            try:
                found = await redis_check.check_redis(self.runner)
                found += await postgres_check.check_postgres(self.settings.postgres_dsn)
            except (errors.UnavailableError, *pool.AWAY) as exc:
                _log.info("the stores' settings are not checked yet: %s", exc)
                await asyncio.sleep(RETRY_S)
                continue
            bad = findings.unsafe(found)
            if bad:
                told = "; ".join(f"{one.store} {one.subject} is {one.seen}: {one.why}; {one.change}" for one in bad)
                raise errors.ConfigError(
                    f"unsafe settings, run `meterd doctor` or allow them with METERD_ALLOW_UNSAFE: {told}"
                )
            return

    async def _hydrate(self, address: str) -> None:
        await self.hydrator.hydrate("", address)

    def _run(self, name: str, work: Awaitable[None], stop: asyncio.Event) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled() or self._stop.is_set():
                return
            fault = task.exception()
            if isinstance(fault, errors.ConfigError):
                _log.critical("stopping: %s", fault)
            else:
                _log.critical("%s ended unexpectedly, stopping", name, exc_info=fault)
            self.failed = True
            stop.set()

        task = asyncio.ensure_future(work)
        task.set_name(f"meterd-{name}")
        task.add_done_callback(ended)
        self._tasks.append(task)

    def watch(self, name: str, work: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event) -> None:
        """Runs one more task, `work(ends)`, in the engine's care."""
        self._run(name, work(self._stop), stop)

    def reload_prices(self) -> None:
        """Looks at the price file now."""
        self._prices_stamp_wake.set()

    async def _watch_prices(self) -> None:
        while not self._stop.is_set():
            try:
                await asyncio.wait_for(self._prices_stamp_wake.wait(), PRICES_INTERVAL_S)
            except TimeoutError:
                pass
            self._prices_stamp_wake.clear()
            found = await asyncio.to_thread(self.books.look)
            if found.error:
                _log.error("prices: %s; %s stays in force", found.error, self.books.current.version)
            if found.changed and await self._try_use(found.book):
                _log.info("prices: %s is in force", found.book.version)

    async def _try_use(self, book: pricing.PriceBook) -> bool:
        """Keeps on until Postgres has the book, and it is in force; False if the engine stops before."""
        while not self._stop.is_set():
            try:
                await self.catalogs.use_base(book)
                return True
            except hydration.POSTGRES_ERRORS as exc:
                _log.warning("prices: Postgres does not take %s, trying again: %s", book.version, exc)
                await asyncio.sleep(RETRY_S)
        return False

    def _register(self) -> None:
        show = self.metrics
        show.gauge("meterd_ready", "1 if all calls can be decided.", lambda: float(not self.unready))
        show.gauge("meterd_fenced_partitions", "Partitions that are fenced.", lambda: len(self.fence.reasons))
        show.gauge("meterd_redis_pending", "Redis calls that wait for an answer.", lambda: self.runner.pending)
        show.counter("meterd_redis_batches", "Writes to Redis, each of a batch of calls.", lambda: self.runner.batches)
        show.counter("meterd_redis_connections", "Connections made to Redis.", lambda: self.runner.connections)
        show.gauge(
            "meterd_catalogs_stale",
            "1 while new catalogs are not heard of.",
            lambda: float(not self.catalogs.is_listening),
        )
        show.info("meterd_price_book", "The price book in force.", lambda: {"version": self.books.current.version})
        flush, sweep, deliver = self.flusher, self.sweeper, self.deliverer
        if flush is None or sweep is None or deliver is None:
            return
        show.counter("meterd_webhooks_delivered", "Events that a webhook has taken.", lambda: deliver.delivered)
        show.counter("meterd_webhooks_failed", "Attempts to deliver that failed.", lambda: deliver.failed)
        show.counter("meterd_webhooks_dead", "Deliveries given up.", lambda: deliver.dead)
        show.gauge(
            "meterd_outbox_lag_seconds", "Age of the oldest record not in Postgres.", lambda: flush.lag_ms() / 1000
        )
        show.gauge("meterd_owned_partitions", "Partitions that this process flushes.", lambda: flush.stats().owned)
        show.counter("meterd_flushed_records", "Records written to Postgres.", lambda: flush.stats().flushed)
        show.counter("meterd_dead_records", "Records set aside as unreadable.", lambda: flush.stats().dead)
        show.counter("meterd_flush_errors", "Failed attempts to flush.", lambda: flush.stats().errors)
        if (renew := self.renewer) is not None:
            show.counter("meterd_renewals", "Subscriptions brought up to date.", lambda: renew.stats().renewed)
            show.counter("meterd_gifts_healed", "Gifts made after their transfer's call.", lambda: renew.stats().gifts)
            show.counter("meterd_renewals_failed", "Renewals and gifts to try again.", lambda: renew.stats().failed)
        show.counter("meterd_expired_holds", "Holds ended by the sweeper.", lambda: sweep.expired_holds)
        show.counter("meterd_expired_grants", "Grants forfeited by the sweeper.", lambda: sweep.expired_grants)

    async def close(self) -> None:
        """Ends the tasks, each at a point from which another process goes on, then the connections."""
        self._stop.set()
        self._prices_stamp_wake.set()
        self.projector.stop()
        if self.flusher is not None:
            self.flusher.stop()
        _, late = await asyncio.wait(self._tasks, timeout=5.0) if self._tasks else ((), ())
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await self.runner.close()
        if self.stripe is not None:
            await self.stripe.close()
        if self._flusher_client is not None:
            await self._flusher_client.aclose()
        self.connections.terminate()


def _opened_books(settings: Settings, connections: asyncpg.Pool) -> books.Books:
    async def fetch(version: str) -> bytes | None:
        try:
            return orjson.dumps(await catalog.price_book(connections, version))
        except errors.NotFoundError:
            return None
        except hydration.POSTGRES_ERRORS as exc:
            raise errors.UnavailableError(f"Postgres is away, and price book {version} is only there: {exc}") from exc

    try:
        return books.opened(pathlib.Path(settings.prices_file) if settings.prices_file else None, fetch=fetch)
    except yaml_file.FileError as exc:
        raise errors.ConfigError(f"METERD_PRICES_FILE: {exc}") from exc


async def opened(settings: Settings, stop: asyncio.Event) -> Engine | None:
    """An engine on a Postgres that answers; waits for it as long as it takes. None if `stop` is set before.

    ConfigError: the settings, or the database's schema, do not let it start.
    """
    if not settings.postgres_dsn:
        raise errors.ConfigError("METERD_POSTGRES_DSN: must be given")
    connections = await pool.create(
        settings.postgres_dsn, size_max=settings.postgres_connections_max, application_name="meterd"
    )
    while not stop.is_set():
        try:
            if settings.migrate:
                await migrate.migrate(settings.postgres_dsn)
            elif missing := await migrate.pending(settings.postgres_dsn):
                raise errors.ConfigError(f"the database lacks migrations {', '.join(missing)}: run `meterd migrate`")
            return Engine(settings, connections, await catalog.installation(connections))
        except migrate.MigrationError as exc:
            raise errors.ConfigError(str(exc)) from exc
        except errors.FailedPreconditionError as exc:
            raise errors.ConfigError(str(exc)) from exc
        except hydration.POSTGRES_ERRORS as exc:
            _log.warning("waiting for Postgres: %s: %s", type(exc).__name__, exc)
        try:
            await asyncio.wait_for(stop.wait(), RETRY_S)
        except TimeoutError:
            continue
    connections.terminate()
    return None
