"""Where a tenant's URL may lead: the public internet, and not the operator's own network. Pure."""

from __future__ import annotations

import ipaddress
import urllib.parse

from meterd.core import errors

URL_BYTES_MAX = 2048

# Addresses of IPv6 that carry one of IPv4 in their last bits (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether an IP address, with or without a zone, belongs to the public internet. Embedded IPv4 addresses are looked at too."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
        if address.teredo is not None:
            return False
    return _is_public(address)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    # is_global holds for multicast.
    return address.is_global and not address.is_multicast and not address.is_reserved


def checked_url(value: str, field: str, *, allow_private: bool) -> str:
    """`value` if events may be sent there, as far as the text tells; InvalidArgumentError otherwise.

    A name's addresses are checked with each connection, since they change.
    """
    if len(value.encode("utf-8", "replace")) > URL_BYTES_MAX:
        raise errors.InvalidArgumentError(field, f"longer than {URL_BYTES_MAX} bytes")
    if not value.isascii() or not value.isprintable() or " " in value or "\\" in value:
        raise errors.InvalidArgumentError(field, "must be a URL in ASCII")
    try:
        parts = urllib.parse.urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError as exc:
        raise errors.InvalidArgumentError(field, f"not a URL: {exc}") from exc
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise errors.InvalidArgumentError(field, "must begin with https://")
    if not host or port == 0:
        raise errors.InvalidArgumentError(field, "must name a host")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise errors.InvalidArgumentError(field, "must have neither user, password nor fragment")
    if not allow_private and _is_private_host(host):
        raise errors.InvalidArgumentError(field, "must lead to a public address")
    return value


def _is_private_host(host: str) -> bool:
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return not is_public(host)
