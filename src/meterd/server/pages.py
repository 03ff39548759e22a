"""What the listener of HTTP calls answers to GET: health for load balancers, and metrics for those who have a key.

The probes' own port answers the same, without a key, and also while the event loop is stuck.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import prometheus_client

from meterd.core import errors
from meterd.server import auth, framing, handler

_TEXT = "text/plain; charset=utf-8"
# Metrics tell of all tenants' traffic together, and this listener may be open to browsers.
_METRICS_ROLES = frozenset({auth.Role.ADMIN.value})


class Pages:
    """/healthz, /readyz and /metrics. `unready` says why no calls should be sent here, "" when they should."""

    def __init__(
        self,
        registry: prometheus_client.CollectorRegistry,
        unready: Callable[[], str],
        authenticator: auth.Authenticator,
    ) -> None:
        self._registry = registry
        self._unready = unready
        self._authenticator = authenticator

    async def page(self, path: str, headers: Mapping[bytes, bytes]) -> tuple[int, str, bytes] | None:
        """Status, content type and text of a path, None if there is no such page."""
        if path == "/healthz":
            return 200, _TEXT, b"ok\n"
        if path == "/readyz":
            trouble = self._unready()
            return (503 if trouble else 200), _TEXT, f"{trouble or 'ok'}\n".encode()
        if path == "/metrics":
            return await self._metrics(headers)
        return None

    async def _metrics(self, headers: Mapping[bytes, bytes]) -> tuple[int, str, bytes]:
        key = headers.get(b"authorization")
        try:
            metadata = () if key is None else (("authorization", key.decode("latin-1")),)
            auth.check_role(await self._authenticator.authenticate(metadata), _METRICS_ROLES)
        except errors.MeterdError as exc:
            code, message = handler.status(exc)
            return framing.STATUSES[code], _TEXT, f"{message}\n".encode()
        return 200, prometheus_client.CONTENT_TYPE_LATEST, prometheus_client.generate_latest(self._registry)
