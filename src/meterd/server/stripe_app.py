"""The Stripe process: webhooks over HTTP, with probes and metrics beside them. It needs Postgres alone; servers project what it grants."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Generator
from typing import Any

import asyncpg
import prometheus_client
import uvicorn
from prometheus_client import core as prometheus
from prometheus_client import registry
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from meterd.billing import events, failpoints, inbox, outgoing, signatures, top_ups
from meterd.core import errors
from meterd.postgres import catalog, pool, stripe, top_up_requests
from meterd.settings import Settings

_log = logging.getLogger(__name__)

PATH = "/webhooks/stripe"
# Each delivery keeps a body in memory; Stripe comes again.
DELIVERIES_AT_ONCE_MAX = 500
# Longer than a delivery takes; the process that starts the next one waits for it.
STOP_S = 10
_KEEP_ALIVE_S = 75
_READY_TIMEOUT_S = 2.0
# Reasons for which a body is refused, as the metric names them.
_REASONS = ("size", "signature", "body", "mode", "account")


class Metrics(registry.Collector):
    """What /metrics shows of the inbox, and of top-ups where they are bought."""

    def __init__(self, box: inbox.Inbox, buyer: top_ups.TopUps | None, clock_ms: Callable[[], int]) -> None:
        self._box = box
        self._buyer = buyer
        self._clock_ms = clock_ms
        self.refused: dict[str, int] = dict.fromkeys(_REASONS, 0)
        self.faults = 0

    def collect(self) -> list[prometheus.Metric]:
        counts, backlog = self._box.counts, self._box.backlog
        events_ = prometheus.CounterMetricFamily(
            "meterd_stripe_events", "Deliveries and attempts, by what became of them.", labels=["outcome"]
        )
        for outcome in ("received", "repeated", "done", "failed", "dead"):
            events_.add_metric([outcome], getattr(counts, outcome))
        events_.add_metric(["fault"], self.faults)
        refused = prometheus.CounterMetricFamily(
            "meterd_stripe_refused", "Bodies that were refused, by reason.", labels=["reason"]
        )
        for reason, count in self.refused.items():
            refused.add_metric([reason], count)
        bought = prometheus.CounterMetricFamily(
            "meterd_stripe_top_ups", "Requests of top-ups, by what became of them.", labels=["outcome"]
        )
        if self._buyer is not None:
            for outcome in ("done", "failed", "retried"):
                bought.add_metric([outcome], getattr(self._buyer.counts, outcome))
        age_s = max(0, self._clock_ms() - backlog.oldest_ms) / 1000 if backlog.oldest_ms else 0
        return [
            events_,
            refused,
            bought,
            prometheus.GaugeMetricFamily(
                "meterd_stripe_pending", "Events that are kept, but not processed yet.", value=backlog.pending
            ),
            prometheus.GaugeMetricFamily(
                "meterd_stripe_dead", "Events that were given up; somebody has to look.", value=backlog.dead
            ),
            prometheus.GaugeMetricFamily(
                "meterd_stripe_oldest_pending_seconds", "Age of the oldest event that is not processed.", value=age_s
            ),
        ]


class Webhooks:
    """The endpoint: what is not surely Stripe's is answered 400 and leaves no trace; 2xx means that it is kept for good."""

    def __init__(
        self, box: inbox.Inbox, verifier: signatures.Verifier, *, livemode: bool, account: str, metrics: Metrics
    ) -> None:
        self._box = box
        self._verifier = verifier
        self._livemode = livemode
        self._account = account
        self._metrics = metrics

    async def __call__(self, request: Request) -> Response:
        try:
            body = await _body(request)
        except ClientDisconnect:
            return PlainTextResponse("", status_code=400)
        reason, event, trouble = self._checked(body, request.headers.get("stripe-signature", ""))
        if event is None:
            self._metrics.refused[reason] += 1
            _log.warning("refused a body of %d bytes: %s", len(body or b""), trouble)
            return PlainTextResponse(f"{trouble}\n", status_code=400)
        try:
            assert body is not None
            # A client that goes away does not stop what was begun.
            state = await asyncio.shield(asyncio.ensure_future(self._box.receive(event, body)))
        except errors.UnavailableError as exc:
            self._metrics.faults += 1
            _log.warning("event %s: %s", event.event_id, exc)
            return PlainTextResponse("not kept, deliver again\n", status_code=503, headers={"retry-after": "5"})
        except Exception as exc:
            # It is kept and will be tried again; Stripe shall see that something is wrong.
            self._metrics.faults += 1
            _log.error("event %s: %s: %s", event.event_id, type(exc).__name__, exc)
            return PlainTextResponse("a fault, deliver again\n", status_code=500)
        return PlainTextResponse(f"{state}\n", status_code=200 if state == stripe.DONE else 202)

    def _checked(self, body: bytes | None, header: str) -> tuple[str, events.Event | None, str]:
        """The event; or None, the metric's name for the reason, and the reason."""
        if body is None:
            return "size", None, f"body: longer than {events.BODY_BYTES_MAX} bytes"
        try:
            self._verifier.verify(body, header)
        except errors.InvalidArgumentError as exc:
            return "signature", None, str(exc)
        try:
            event = events.parse(body)
        except errors.InvalidArgumentError as exc:
            return "body", None, str(exc)
        if event.livemode != self._livemode:
            return "mode", None, f"livemode: this process is for {'live' if self._livemode else 'test'} mode"
        if event.account != self._account:
            return "account", None, "account: this process is for another account"
        return "", event, ""


async def _body(request: Request) -> bytes | None:
    """The raw body; None if it is too long, of which no more is read than may be."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > events.BODY_BYTES_MAX:
        return None
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > events.BODY_BYTES_MAX:
            return None
        parts.append(part)
    return b"".join(parts)


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise errors.ConfigError(f"METERD_STRIPE_LISTEN: must be host:port, not {listen!r}")
    return host.strip("[]"), int(port)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class StripeApp:
    """One process of `meterd stripe serve`. `serve` returns when it has stopped."""

    def __init__(self, settings: Settings, *, failpoint: failpoints.Failpoint = failpoints.none) -> None:
        """ConfigError: a setting is missing, or does not fit."""
        if not settings.stripe_tenant:
            raise errors.ConfigError("METERD_STRIPE_TENANT: is missing")
        if settings.stripe_top_ups and not settings.stripe_api_key:
            raise errors.ConfigError("METERD_STRIPE_TOP_UPS: needs METERD_STRIPE_API_KEY")
        secrets = settings.stripe_webhook_secrets.replace(",", " ").split()
        self._verifier = signatures.Verifier(secrets, tolerance_s=settings.stripe_tolerance_s)
        self._settings = settings
        self._failpoint = failpoint
        self._stop = asyncio.Event()
        self._registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self._registry)
        prometheus_client.PlatformCollector(registry=self._registry)

    def stop(self) -> None:
        """Begins an orderly stop; a repeat changes nothing."""
        self._stop.set()

    async def serve(self) -> int:
        """Serves until `stop`, SIGTERM or SIGINT; answers the exit status. ConfigError: the settings do not let it start."""
        settings = self._settings
        at_stripe = outgoing.opened(
            settings.stripe_api_key,
            livemode=settings.stripe_livemode,
            base=settings.stripe_api_base,
            timeout_s=settings.stripe_timeout_ms / 1000,
        )
        host, port = _address(settings.stripe_listen)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        async with contextlib.AsyncExitStack() as stack:
            connections = await pool.create(
                settings.postgres_dsn,
                size_max=settings.postgres_connections_max,
                application_name="meterd stripe",
            )
            stack.push_async_callback(connections.close)
            if at_stripe is not None:
                stack.push_async_callback(at_stripe.close)
                at_stripe = at_stripe.of(settings.stripe_account)
            await catalog.installation(connections)
            await stripe.bind(
                connections,
                settings.stripe_tenant,
                livemode=settings.stripe_livemode,
                account=settings.stripe_account,
            )
            box = inbox.Inbox(
                connections,
                tenant_id=settings.stripe_tenant,
                freezes=settings.stripe_freeze_disputed,
                at_stripe=at_stripe,
                clock_ms=_now_ms,
                failpoint=self._failpoint,
            )
            buyer = await self._buyer(connections, at_stripe)
            await self._listen(self._app(box, buyer, connections), box, buyer, host, port)
        return 0

    async def _buyer(self, connections: asyncpg.Pool, at_stripe: outgoing.Stripe | None) -> top_ups.TopUps | None:
        """What buys top-ups; None if that is left to others."""
        settings = self._settings
        await top_up_requests.switch(
            connections, settings.stripe_tenant, is_on=settings.stripe_top_ups, now_ms=_now_ms()
        )
        if not settings.stripe_top_ups:
            return None
        assert at_stripe is not None
        return top_ups.TopUps(
            connections,
            tenant_id=settings.stripe_tenant,
            at_stripe=at_stripe,
            livemode=settings.stripe_livemode,
            clock_ms=_now_ms,
            failpoint=self._failpoint,
        )

    def _app(self, box: inbox.Inbox, buyer: top_ups.TopUps | None, connections: asyncpg.Pool) -> Starlette:
        metrics = Metrics(box, buyer, _now_ms)
        self._registry.register(metrics)
        webhooks = Webhooks(
            box,
            self._verifier,
            livemode=self._settings.stripe_livemode,
            account=self._settings.stripe_account,
            metrics=metrics,
        )

        async def ready(_request: Request) -> Response:
            try:
                async with asyncio.timeout(_READY_TIMEOUT_S):
                    await connections.fetchval("SELECT 1", timeout=_READY_TIMEOUT_S)
            except (asyncpg.PostgresError, *pool.AWAY):
                return PlainTextResponse("Postgres is away\n", status_code=503)
            return PlainTextResponse("ok\n")

        async def shown(_request: Request) -> Response:
            return Response(
                prometheus_client.generate_latest(self._registry),
                headers={"content-type": prometheus_client.CONTENT_TYPE_LATEST},
            )

        async def healthy(_request: Request) -> Response:
            return PlainTextResponse("ok\n")

        return Starlette(
            routes=[
                Route(PATH, webhooks.__call__, methods=["POST"]),
                Route("/healthz", healthy),
                Route("/readyz", ready),
                Route("/metrics", shown),
            ]
        )

    async def _listen(
        self, app: Starlette, box: inbox.Inbox, buyer: top_ups.TopUps | None, host: str, port: int
    ) -> None:
        server = _Server(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                limit_concurrency=DELIVERIES_AT_ONCE_MAX,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S,
            )
        )
        working = [asyncio.create_task(box.run(self._stop))]
        if buyer is not None:
            working.append(asyncio.create_task(buyer.run(self._stop)))
        serving = asyncio.create_task(server.serve())
        stopping = asyncio.create_task(self._stop.wait())
        _log.info("serving %s of %s on %s:%d", PATH, self._settings.stripe_tenant, host, port)
        tasks: list[asyncio.Task[Any]] = [stopping, serving, *working]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        self._stop.set()
        server.should_exit = True
        await asyncio.gather(*tasks)


class _Server(uvicorn.Server):
    """Signals are the app's, which stops the inbox too."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
