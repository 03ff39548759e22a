"""A server from its settings: listeners, services, and the order in which all of it starts and stops."""

from __future__ import annotations

import asyncio
import logging
import pathlib
import signal
from collections.abc import Callable

import grpc
import grpc.aio
import prometheus_client
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from meterd.core import errors
from meterd.meter import accounts, events, offers, reports, top_ups
from meterd.postgres import keys
from meterd.server import auth, credentials, engine, handler, methods, options, probes, stream, watch
from meterd.settings import Settings

_log = logging.getLogger(__name__)

# Health follows the fence within this time.
TICK_S = 0.1
# No call for so long, and what is still open is a client that watches the health: it would do so for ever.
QUIET_TICKS = 5
# gRPC's health service tells these apart for clients that watch one of them.
SERVICES = ("", methods.METERING, methods.ACCOUNTS, methods.CATALOG, methods.EVENTS, methods.REPORTS)


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

    def stop(self) -> None:
        """Begins an orderly stop; a repeat changes nothing."""
        self._stop.set()

    async def serve(self, on_serving: Callable[[str], None] | None = None) -> int:
        """Serves until `stop`, SIGTERM or SIGINT; answers the exit status. `on_serving` hears of the address once calls are taken.

        ConfigError: the settings do not let it start.
        """
        if not self._settings.tls_cert_file:
            credentials.check_plaintext(self._settings.listen, self._settings.allow_plaintext)
        return await self._run(lambda made: self._serve(made, on_serving), workers=self._settings.workers)

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
        streams, watches = self._add_services(server, made)
        address = self._listen(server)
        await server.start()
        _log.info("listening on %s", address)
        if on_serving is not None:
            on_serving(address)
        await self._stop.wait()
        await self._shut(server, streams, watches)

    async def _shut(self, server: grpc.aio.Server, streams: stream.Streams, watches: watch.Watches) -> None:
        """No call fails that was taken; new ones are refused only once clients have had time to hear of it."""
        _log.info("stopping: telling clients for %s ms", self._settings.lame_duck_ms)
        self._unready = "stopping"
        await self._tell(False)
        await asyncio.sleep(self._settings.lame_duck_ms / 1000)
        streams.draining.set()
        watches.drain()
        stopping = asyncio.create_task(server.stop(self._settings.drain_ms / 1000))
        quiet_ticks = 0
        while quiet_ticks < QUIET_TICKS and not (await asyncio.wait((stopping,), timeout=TICK_S))[0]:
            quiet_ticks = 0 if streams.gate.count or streams.open_count or watches.open_count else quiet_ticks + 1
        await server.stop(None)
        await stopping
        _log.info("stopped")

    def _listen(self, server: grpc.aio.Server) -> str:
        settings = self._settings
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

    def _add_services(self, server: grpc.aio.Server, made: engine.Engine) -> tuple[stream.Streams, watch.Watches]:
        table = self._methods(made)
        authenticator = auth.Authenticator(
            keys.Keys(made.connections).find,
            clock_ms=engine.now_ms,
            refresh_interval_s=self._keys_refresh_interval_s,
        )
        made.watch("keys", authenticator.run, self._stop)
        gate = handler.Gate(self._settings.in_flight_max)
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
        }
        for path, method in table.items():
            handle = handler.unary(method, authenticator=authenticator, gate=gate, counts=counts[path])
            handlers[path.split("/")[1]][method.name] = grpc.unary_unary_rpc_method_handler(handle)
        handlers[methods.METERING]["Stream"] = grpc.stream_stream_rpc_method_handler(streams.handle)
        handlers[methods.ACCOUNTS]["Watch"] = grpc.unary_stream_rpc_method_handler(watches.handle)
        for service, by_name in handlers.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, by_name),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._settings.reflection:
            reflection.enable_server_reflection((*SERVICES[1:], health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return streams, watches

    def _methods(self, made: engine.Engine) -> dict[str, methods.Method]:
        topped = top_ups.TopUps(connections=made.connections, catalogs_=made.catalogs, clock_ms=engine.now_ms)
        book = accounts.Accounts(
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
        sums = reports.Reports(connections=made.connections, books=made.books, clock_ms=engine.now_ms)
        told = events.Events(
            connections=made.connections,
            allow_private=self._settings.webhooks_allow_private,
            clock_ms=engine.now_ms,
        )
        sold = offers.Offers(connections=made.connections, catalogs_=made.catalogs, books=made.books)
        return methods.unary(
            made.metering, book, sold, sums, told, made.subscriptions, made.movements, made.limits, topped
        )
