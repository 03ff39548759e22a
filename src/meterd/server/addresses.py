"""Whether an address that a listener wants is another program's."""

from __future__ import annotations

import errno
import socket


def is_taken(address: str) -> bool:
    """Whether another program listens on host:port. False where that cannot be told: of other forms, and of names that nothing resolves."""
    host, _, port = address.rpartition(":")
    if address.startswith("unix") or not port.isdigit() or port == "0":
        return False
    try:
        (family, kind, protocol, _, found), *_ = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        with socket.socket(family, kind, protocol) as probe:
            # Connections of the one before, which linger, are no listener.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found)
    except (OSError, OverflowError) as exc:
        return getattr(exc, "errno", None) == errno.EADDRINUSE
    return False
