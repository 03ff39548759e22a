"""Which web pages may call, and what the browser lets them see."""

from __future__ import annotations

from collections.abc import Mapping

from meterd.core import errors

# Chrome keeps a preflight's answer no longer.
MAX_AGE_S = 7200
_ALLOWED = b", ".join(
    (
        b"authorization",
        b"content-type",
        b"content-encoding",
        b"connect-protocol-version",
        b"connect-timeout-ms",
        b"connect-accept-encoding",
        b"connect-content-encoding",
        b"grpc-timeout",
        b"grpc-accept-encoding",
        b"grpc-encoding",
        b"meterd-denial-status",
        b"user-agent",
        b"x-grpc-web",
        b"x-user-agent",
    )
)
_EXPOSED = b", ".join(
    (
        b"connect-content-encoding",
        b"content-encoding",
        b"grpc-encoding",
        b"grpc-message",
        b"grpc-status",
        b"grpc-status-details-bin",
        b"trailer-grpc-retry-pushback-ms",
    )
)


class Origins:
    """The pages of these origins may call. Keys are in headers and never in cookies, so no credentials are allowed."""

    def __init__(self, setting: str) -> None:
        """`setting`: origins such as https://app.example.com, with commas between them, or "*" for all. ConfigError: it is malformed."""
        origins = [one.strip() for one in setting.split(",") if one.strip()]
        for one in origins:
            scheme, separator, host = one.partition("://")
            if one != "*" and (scheme not in ("http", "https") or not separator or not host or "/" in host):
                raise errors.ConfigError(
                    f"METERD_HTTP_CORS_ORIGINS: {one} is no origin: those look like https://app.example.com"
                )
        self._all = "*" in origins
        self._origins = frozenset(one.lower().encode() for one in origins)

    def _allowed(self, headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        if not self._origins:
            return []
        if self._all:
            return [(b"access-control-allow-origin", b"*")]
        origin = headers.get(b"origin", b"")
        # A cache must not give one page's answer to another.
        vary = (b"vary", b"origin")
        return [vary, (b"access-control-allow-origin", origin)] if origin.lower() in self._origins else [vary]

    def exposed(self, headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """Headers of an answer."""
        if not self._origins or b"origin" not in headers:
            return []
        return [*self._allowed(headers), (b"access-control-expose-headers", _EXPOSED)]

    def preflight(self, headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """Headers of the answer to OPTIONS. Without access-control-allow-origin the browser does not let the page call."""
        return [
            (b"allow", b"POST, OPTIONS"),
            *self._allowed(headers),
            (b"access-control-allow-methods", b"POST"),
            (b"access-control-allow-headers", _ALLOWED),
            (b"access-control-max-age", str(MAX_AGE_S).encode()),
        ]
