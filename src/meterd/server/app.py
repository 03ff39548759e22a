"""A server from its settings: listeners, services, and the order in which all of it starts and stops."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import pathlib
import signal
from collections.abc import Callable

import grpc
import grpc.aio
import prometheus_client
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from meterd.billing import service as billing
from meterd.core import errors
from meterd.meter import accounts, events, offers, reports, top_ups
from meterd.postgres import keys, token_keys
from meterd.server import (
    addresses,
    auth,
    cohorts,
    connect,
    cors,
    credentials,
    engine,
    handler,
    methods,
    options,
    pages,
    probes,
    stream,
    tokens,
    watch,
    web,
)
from meterd.settings import Settings

_log = logging.getLogger(__name__)

# Health follows the fence within this time.
TICK_S = 0.1
# No call for so long, and what is still open is a client that watches the health: it would do so for ever.
QUIET_TICKS = 5
# gRPC's health service tells these apart for clients that watch one of them.
SERVICES = ("", methods.METERING, methods.ACCOUNTS, methods.CATALOG, methods.EVENTS, methods.REPORTS, methods.BILLING)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Services:
    """What the listeners share."""

    streams: stream.Streams
    watches: watch.Watches
    calls: connect.Calls


class App:
    """One process of `meterd serve` or `meterd worker`. `run` returns when it has stopped."""

    def __init__(self, settings: Settings, *, keys_refresh_interval_s: float = auth.REFRESH_INTERVAL_S) -> None:
        """`keys_refresh_interval_s`: a revocation acts after this time."""
        self._settings = settings
        self._keys_refresh_interval_s = keys_refresh_interval_s
        self._stop = asyncio.Event()
        self._unready = "starting: waiting for Postgres"
        self._health = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
        self._registry = prometheus_client.CollectorRegistry()
        for collector in (prometheus_client.ProcessCollector, prometheus_client.PlatformCollector):
            collector(registry=self._registry)
        prometheus_client.GCCollector(registry=self._registry)
        self._probes = probes.Probes(self._registry, lambda: self._unready)
        self.watches: watch.Watches | None = None
        # The calls in work, on all wires.
        self.gate: handler.Gate | None = None
        # host:port of the calls over HTTP, while it serves them.
        self.http_address = ""

    def stop(self) -> None:
        """Begins an orderly stop; a repeat changes nothing."""
        self._stop.set()

    async def serve(self, on_serving: Callable[[str], None] | None = None) -> int:
        """Serves until `stop`, SIGTERM or SIGINT; answers the exit status. `on_serving` hears of the address once calls are taken.

        ConfigError: the settings do not let it start.
        """
        if not self._settings.tls_cert_file:
            for address in filter(None, (self._settings.listen, self._settings.http_address)):
                credentials.check_plaintext(address, self._settings.allow_plaintext)
        return await self._run(lambda made: self._serve(made, on_serving), workers=self._settings.workers)

    @property
    def unready(self) -> str:
        """Why calls are not decided now; "" if they are."""
        return self._unready

    async def work(self) -> int:
        """Runs the workers alone, until `stop`, SIGTERM or SIGINT; answers the exit status."""
        return await self._run(self._idle, workers=True)

    async def _run(self, body: Callable[[engine.Engine], asyncio.Future[None] | object], *, workers: bool) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        self._start_probes()
        ticker = asyncio.create_task(self._tick(None))
        made: engine.Engine | None = None
        try:
            made = await engine.opened(self._settings, self._stop)
            if made is None:
                return 0
            loop.add_signal_handler(signal.SIGHUP, made.reload_prices)
            await made.start(self._stop, workers=workers)
            self._registry.register(made.metrics)
            ticker.cancel()
            ticker = asyncio.create_task(self._tick(made))
            await body(made)  # type: ignore[misc]
            return 1 if made.failed else 0
        finally:
            ticker.cancel()
            if made is not None:
                await made.close()
            self._probes.stop()

    def _start_probes(self) -> None:
        if not self._settings.http_listen:
            return
        host, _, port = self._settings.http_listen.rpartition(":")
        try:
            self._probes.start(host, int(port))
        except (OSError, ValueError) as exc:
            raise errors.ConfigError(
                f"METERD_HTTP_LISTEN: cannot listen on {self._settings.http_listen}: {exc}"
            ) from exc

    async def _tick(self, made: engine.Engine | None) -> None:
        """Keeps probes and health true. Readiness is told as soon as it changes."""
        told: bool | None = None
        while True:
            self._probes.tick()
            if made is not None:
                self._unready = "stopping" if self._stop.is_set() else made.unready
            ready = not self._unready
            if ready != told:
                told = ready
                await self._tell(ready)
            await asyncio.sleep(TICK_S)

    async def _tell(self, ready: bool) -> None:
        serving = health_pb2.HealthCheckResponse
        for service in SERVICES:
            await self._health.set(service, serving.SERVING if ready else serving.NOT_SERVING)

    async def _idle(self, made: engine.Engine) -> None:
        del made
        _log.info("working")
        await self._stop.wait()

    async def _serve(self, made: engine.Engine, on_serving: Callable[[str], None] | None) -> None:
        server = grpc.aio.server(options=options.server_options())
        services = self._add_services(server, made)
        address = self._listen(server)
        listener = self._listen_http(services.calls)
        await server.start()
        _log.info("listening on %s", address)
        if listener is not None:
            await listener.start()
            self.http_address = listener.address
            _log.info("listening on %s for calls over HTTP", listener.address)
        if on_serving is not None:
            on_serving(address)
        await self._stop.wait()
        await self._shut(server, listener, services)

    async def _shut(self, server: grpc.aio.Server, listener: web.Listener | None, services: _Services) -> None:
        """No call fails that was taken; new ones are refused only once clients have had time to hear of it."""
        _log.info("stopping: telling clients for %s ms", self._settings.lame_duck_ms)
        self._unready = "stopping"
        await self._tell(False)
        await asyncio.sleep(self._settings.lame_duck_ms / 1000)
        streams, watches = services.streams, services.watches
        streams.draining.set()
        watches.drain()
        closing = asyncio.create_task(listener.close()) if listener is not None else None
        stopping = asyncio.create_task(server.stop(self._settings.drain_ms / 1000))
        quiet_ticks = 0
        while quiet_ticks < QUIET_TICKS and not (await asyncio.wait((stopping,), timeout=TICK_S))[0]:
            quiet_ticks = 0 if streams.gate.count or streams.open_count or watches.open_count else quiet_ticks + 1
        await server.stop(None)
        await stopping
        if closing is not None:
            await closing
        _log.info("stopped")

    def _listen(self, server: grpc.aio.Server) -> str:
        settings = self._settings
        if addresses.is_taken(settings.listen):
            # gRPC would say so too, but in words of its own.
            raise errors.ConfigError(f"METERD_LISTEN: cannot listen on {settings.listen}: address already in use")
        try:
            if settings.tls_cert_file:
                ca = pathlib.Path(settings.tls_client_ca_file) if settings.tls_client_ca_file else None
                tls = credentials.server_credentials(
                    pathlib.Path(settings.tls_cert_file), pathlib.Path(settings.tls_key_file), ca
                )
                port = server.add_secure_port(settings.listen, tls)
            else:
                port = server.add_insecure_port(settings.listen)
        except RuntimeError as exc:
            raise errors.ConfigError(f"METERD_LISTEN: cannot listen on {settings.listen}: {exc}") from exc
        host, colon, _ = settings.listen.rpartition(":")
        return settings.listen if settings.listen.startswith("unix") else f"{host}{colon}{port}"

    def _listen_http(self, calls: connect.Calls) -> web.Listener | None:
        settings = self._settings
        if not settings.http_address:
            return None
        tls = None
        if settings.tls_cert_file:
            tls = credentials.Files(
                certificate=pathlib.Path(settings.tls_cert_file),
                key=pathlib.Path(settings.tls_key_file),
                client_ca=pathlib.Path(settings.tls_client_ca_file) if settings.tls_client_ca_file else None,
            )
        return web.opened(
            settings.http_address,
            calls,
            tls=tls,
            allow_plaintext=settings.allow_plaintext,
            drain_ms=settings.drain_ms,
        )

    def _add_services(self, server: grpc.aio.Server, made: engine.Engine) -> _Services:
        topped = top_ups.TopUps(connections=made.connections, catalogs_=made.catalogs, clock_ms=engine.now_ms)
        book = _accounts(made, topped)
        minted = tokens.Tokens(
            token_keys.TokenKeys(made.connections, clock_ms=engine.now_ms),
            exists=book.get_account,
            clock_ms=engine.now_ms,
        )
        table = self._methods(made, book, topped, minted)
        authenticator = auth.Authenticator(
            keys.Keys(made.connections).find,
            clock_ms=engine.now_ms,
            refresh_interval_s=self._keys_refresh_interval_s,
            tokens_=minted,
        )
        made.watch("keys", authenticator.run, self._stop)
        gate = self.gate = handler.Gate(self._settings.in_flight_max)
        together = cohorts.Cohorts(lambda: made.runner.is_alone)
        counts = {path: made.metrics.calls(path[1:]) for path in table}
        streams = stream.Streams(table, authenticator=authenticator, gate=gate, counts=counts)
        made.metrics.gauge("meterd_in_flight", "Calls in work.", lambda: gate.count)
        watches = watch.Watches(
            run=made.runner,
            partitions=made.installation.partitions,
            balance=table[methods.BALANCE].call,
            authenticator=authenticator,
        )
        self.watches = watches
        made.watch("watch", watches.run, self._stop)
        made.metrics.gauge("meterd_watches", "Streams that watch a balance.", lambda: watches.open_count)
        made.metrics.gauge("meterd_streams", "Open streams.", lambda: streams.open_count)
        made.metrics.gauge(
            "meterd_keys_stale", "1 while revocations do not act.", lambda: float(authenticator.is_stale)
        )
        handlers: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {
            methods.METERING: {},
            methods.ACCOUNTS: {},
            methods.CATALOG: {},
            methods.EVENTS: {},
            methods.REPORTS: {},
            methods.BILLING: {},
        }
        for path, method in table.items():
            handle = handler.unary(
                method, authenticator=authenticator, gate=gate, together=together, counts=counts[path]
            )
            handlers[path.split("/")[1]][method.name] = grpc.unary_unary_rpc_method_handler(handle)
        handlers[methods.METERING]["Stream"] = grpc.stream_stream_rpc_method_handler(streams.handle)
        handlers[methods.ACCOUNTS]["Watch"] = grpc.unary_stream_rpc_method_handler(watches.handle)
        for service, by_name in handlers.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, by_name),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._settings.reflection:
            reflection.enable_server_reflection((*SERVICES[1:], health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        calls = connect.Calls(
            table,
            watches,
            authenticator=authenticator,
            gate=gate,
            together=together,
            counts=counts,
            origins=cors.Origins(self._settings.http_cors_origins),
            denial_402=self._settings.http_denial_402,
            pages=pages.Pages(self._registry, lambda: self._unready, authenticator).page,
        )
        return _Services(streams=streams, watches=watches, calls=calls)

    def _methods(
        self, made: engine.Engine, book: accounts.Accounts, topped: top_ups.TopUps, minted: tokens.Tokens
    ) -> dict[str, methods.Method]:
        sums = reports.Reports(connections=made.connections, books=made.books, clock_ms=engine.now_ms)
        told = events.Events(
            connections=made.connections,
            allow_private=self._settings.webhooks_allow_private,
            clock_ms=engine.now_ms,
        )
        sold = offers.Offers(connections=made.connections, catalogs_=made.catalogs, books=made.books)
        bills = billing.Billing(
            connections=made.connections,
            catalogs_=made.catalogs,
            stripe_=made.stripe,
            livemode=self._settings.stripe_livemode,
            clock_ms=engine.now_ms,
        )
        return methods.unary(
            made.metering,
            book,
            sold,
            sums,
            told,
            made.subscriptions,
            made.movements,
            made.limits,
            topped,
            bills,
            minted,
        )


def _accounts(made: engine.Engine, topped: top_ups.TopUps) -> accounts.Accounts:
    return accounts.Accounts(
        connections=made.connections,
        store=made.ledger,
        run=made.runner,
        catalog_=made.catalog,
        projector_=made.projector,
        hydrator=made.hydrator,
        books=made.books,
        plans_=made.subscriptions,
        movements_=made.movements,
        limits_=made.limits,
        top_ups_=topped,
        reach_=made.reach,
    )
