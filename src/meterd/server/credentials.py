"""TLS of the listeners, with certificates that can be replaced while the server runs; and where plaintext is permitted."""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import pathlib
import ssl
import threading
from typing import Any
from urllib.parse import unquote

import grpc

from meterd.core import errors

_LOG = logging.getLogger(__name__)
_LOCAL_SCHEMES = ("unix", "unix-abstract")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Where the PEM files are. `client_ca` None: clients need no certificate."""

    certificate: pathlib.Path
    key: pathlib.Path
    client_ca: pathlib.Path | None = None

    def paths(self) -> tuple[pathlib.Path, ...]:
        return (self.certificate, self.key) if self.client_ca is None else (self.certificate, self.key, self.client_ca)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Pem:
    certificate: bytes
    key: bytes = dataclasses.field(repr=False)
    client_ca: bytes | None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(self.key, self.certificate)], self.client_ca)


class Reloader:
    """Gives gRPC the certificates anew when their files have changed. It is asked before each handshake, on gRPC's threads."""

    def __init__(self, files: Files) -> None:
        """ConfigError if the files cannot be used."""
        self._files = files
        self._lock = threading.Lock()
        self._seen = _stamps(files)
        self._pem = _read(files)

    def current(self) -> grpc.ServerCertificateConfiguration:
        with self._lock:
            return self._pem.configuration()

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new certificates. None if nothing has changed, or what is there cannot be used: then the old ones serve on."""
        with self._lock:
            seen = _stamps(self._files)
            if seen == self._seen:
                return None
            # Looked at once, usable or not: a flood of handshakes must not cost reads and lines in the log.
            self._seen = seen
            try:
                pem = _read(self._files)
            except errors.ConfigError as exc:
                # A certificate is replaced before its key, or the other way round; the next change is looked at again.
                _LOG.warning("TLS files have changed and cannot be used, the old certificate serves on: %s", exc)
                return None
            if pem == self._pem:
                return None
            self._pem = pem
            _LOG.info("TLS certificate was replaced")
            return pem.configuration()


def server_credentials(
    certificate_file: pathlib.Path, key_file: pathlib.Path, client_ca_file: pathlib.Path | None = None
) -> grpc.ServerCredentials:
    """TLS 1.2 and 1.3 with these PEM files; with `client_ca_file`, only clients that show a certificate of that CA.

    A replaced file counts from the next connection on, without a restart. ConfigError if they cannot be used now.
    """
    reloader = Reloader(Files(certificate=certificate_file, key=key_file, client_ca=client_ca_file))
    # gRPC's stubs leave out that the callback may answer None.
    changed: Any = reloader.changed
    return grpc.dynamic_ssl_server_credentials(
        reloader.current(), changed, require_client_authentication=client_ca_file is not None
    )


def server_context(files: Files) -> ssl.SSLContext:
    """The same for asyncio's servers. A replaced file counts from the next connection on. ConfigError if they cannot be used now."""
    reloader = _Contexts(files)

    def replace(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        # OpenSSL asks at the begin of each handshake, whether the client names a server or not.
        del name, context
        connection.context = reloader.current()

    context = reloader.current()
    context.sni_callback = replace  # pyright: ignore[reportAttributeAccessIssue]
    return context


class _Contexts:
    """The context of what the files hold now, or held when they could be used last."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._seen = _stamps(files)
        self._context = _context(files)

    def current(self) -> ssl.SSLContext:
        seen = _stamps(self._files)
        if seen != self._seen:
            self._seen = seen
            try:
                self._context = _context(self._files)
            except errors.ConfigError as exc:
                _LOG.warning("TLS files have changed and cannot be used, the old certificate serves on: %s", exc)
            else:
                _LOG.info("TLS certificate was replaced")
        return self._context


def check_plaintext(address: str, allow_plaintext: bool) -> None:
    """ConfigError if keys would cross a network in plaintext: `address` is neither loopback nor a local socket, and nobody allowed it."""
    if allow_plaintext or is_local(address):
        return
    raise errors.ConfigError(
        f"{address} is reachable from other machines, and API keys would cross the network in plaintext: give a TLS certificate and key, "
        "listen on 127.0.0.1, or allow plaintext explicitly if a proxy or mesh encrypts"
    )


def is_local(address: str) -> bool:
    """Whether a gRPC address (host:port, unix:path, ipv4:…, dns:///…) cannot be reached from another machine. In doubt: False."""
    scheme, separator, rest = address.partition(":")
    if separator and scheme in _LOCAL_SCHEMES:
        return bool(rest)
    if scheme in ("dns", "ipv4", "ipv6"):
        address = unquote(rest.rpartition("/")[2])
    # gRPC binds all of a comma-separated list.
    return all(_is_loopback(part) for part in address.split(","))


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0]
    if host == "localhost":
        return True
    is_bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not is_bracketed:
        return False
    try:
        found = ipaddress.ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped.is_loopback
    return found.is_loopback


def _stamps(files: Files) -> list[tuple[int, int, int]]:
    """Changes with any file: secrets that Kubernetes mounts are links that move to other files."""
    return [_stamp(path) for path in files.paths()]


def _stamp(path: pathlib.Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_ino, stat.st_size)


def _read(files: Files) -> _Pem:
    """The files' content, once they are found to fit together."""
    pem = _content(files)
    _context(files)
    if _content(files) != pem:
        raise errors.ConfigError("TLS: the files are being replaced at this moment")
    return pem


def _context(files: Files) -> ssl.SSLContext:
    """TLS 1.2 and 1.3 with these files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An empty password: a key that is encrypted fails, instead of asking on the terminal.
        context.load_cert_chain(files.certificate, files.key, password="")
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as exc:
        raise errors.ConfigError(f"TLS: {files.certificate} and {files.key} cannot be used: {exc}") from exc
    return context


def _content(files: Files) -> _Pem:
    try:
        return _Pem(
            certificate=files.certificate.read_bytes(),
            key=files.key.read_bytes(),
            client_ca=None if files.client_ca is None else files.client_ca.read_bytes(),
        )
    except OSError as exc:
        raise errors.ConfigError(f"TLS: {exc}") from exc
