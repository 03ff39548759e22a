"""/metrics, /healthz and /readyz over plain HTTP, in a thread of its own so that a stuck event loop can be told from a busy one."""

from __future__ import annotations

import logging
import threading
import time
import wsgiref.simple_server
from collections.abc import Callable, Iterable
from typing import Any

import prometheus_client
from prometheus_client.exposition import ThreadingWSGIServer

_log = logging.getLogger(__name__)

# The event loop ticks every 100 ms. One that has not for so long serves nobody, and only a restart helps.
STUCK_S = 10.0


class _SilentHandler(wsgiref.simple_server.WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


class Probes:
    """The HTTP listener. `unready` says why no calls should be sent here, "" when they should."""

    def __init__(
        self,
        registry: prometheus_client.CollectorRegistry,
        unready: Callable[[], str],
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = prometheus_client.make_wsgi_app(registry)
        self._unready = unready
        self._clock_s = clock_s
        self._ticked_s = clock_s()
        self._server: wsgiref.simple_server.WSGIServer | None = None

    def tick(self) -> None:
        """The event loop calls this to say that it is alive."""
        self._ticked_s = self._clock_s()

    def start(self, host: str, port: int) -> int:
        """Begins to listen; answers the port. OSError if it is taken."""
        self._server = wsgiref.simple_server.make_server(
            host, port, self._answer, ThreadingWSGIServer, handler_class=_SilentHandler
        )
        threading.Thread(target=self._server.serve_forever, name="meterd-http", daemon=True).start()
        return self._server.server_port

    def stop(self) -> None:
        """Ends to listen; a repeat changes nothing."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return self._metrics(environ, start_response)
        if path == "/healthz":
            silent_s = self._clock_s() - self._ticked_s
            trouble = f"the event loop has not run for {silent_s:.0f} s" if silent_s > STUCK_S else ""
        elif path == "/readyz":
            trouble = self._unready()
        else:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"there are /metrics, /healthz and /readyz\n"]
        start_response(
            "503 Service Unavailable" if trouble else "200 OK", [("Content-Type", "text/plain; charset=utf-8")]
        )
        return [f"{trouble or 'ok'}\n".encode()]
