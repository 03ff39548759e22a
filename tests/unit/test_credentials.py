"""TLS with real handshakes: who gets in, and that replaced files count from the next connection on."""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import socket
import ssl
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from meterd.core import errors
from meterd.server import credentials

TIMEOUT_S = 5.0


def write(path: pathlib.Path, *blobs: trustme.Blob) -> pathlib.Path:
    """Replaces a file at once, as certificate managers do."""
    new = path.with_suffix(".new")
    new.write_bytes(b"".join(blob.bytes() for blob in blobs))
    new.replace(path)
    return path


@dataclasses.dataclass
class Place:
    """A directory with the server's files, and the authority behind them."""

    directory: pathlib.Path
    authority: trustme.CA

    @property
    def certificate(self) -> pathlib.Path:
        return self.directory / "tls.crt"

    @property
    def key(self) -> pathlib.Path:
        return self.directory / "tls.key"

    def issue(self, authority: trustme.CA | None = None, *, with_key: bool = True) -> bytes:
        """Writes a new certificate and its key; answers the certificate in DER."""
        issued = (authority or self.authority).issue_cert("localhost")
        write(self.certificate, *issued.cert_chain_pems)
        if with_key:
            write(self.key, issued.private_key_pem)
        return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())

    def client_context(self, authority: trustme.CA | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        (authority or self.authority).configure_trust(context)
        context.set_alpn_protocols(["h2"])
        return context


@pytest.fixture(name="place")
def _place(tmp_path: pathlib.Path) -> Place:  # pyright: ignore[reportUnusedFunction]
    place = Place(directory=tmp_path, authority=trustme.CA())
    place.issue()
    return place


def checked(channel: grpc.Channel) -> None:
    """One call of the health service."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)


class Serving:
    def __init__(self, given: grpc.ServerCredentials) -> None:
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), self.server)
        self.port = self.server.add_secure_port("localhost:0", given)
        self.server.start()

    def presented(self, context: ssl.SSLContext) -> bytes:
        """The certificate that the server shows on a new connection."""
        with (
            socket.create_connection(("localhost", self.port), timeout=TIMEOUT_S) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as wrapped,
        ):
            shown = wrapped.getpeercert(binary_form=True)
            assert shown is not None
            return shown

    def status(self, root: bytes, key: bytes | None = None, certificate: bytes | None = None) -> grpc.StatusCode:
        """How a call over a channel of its own ends."""
        given = grpc.ssl_channel_credentials(root, key, certificate)
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(f"localhost:{self.port}", given, options=options) as channel:
            try:
                checked(channel)
            except grpc.RpcError as fault:
                call: grpc.Call = fault  # pyright: ignore[reportAssignmentType]
                return call.code()
            return grpc.StatusCode.OK


@pytest.fixture(name="serving")
def _serving(place: Place) -> Iterator[Serving]:  # pyright: ignore[reportUnusedFunction]
    serving = Serving(credentials.server_credentials(place.certificate, place.key))
    yield serving
    serving.server.stop(None).wait()


def root_of(authority: trustme.CA) -> bytes:
    return authority.cert_pem.bytes()


def test_a_call_over_tls_is_answered_and_one_to_a_stranger_is_not(place: Place, serving: Serving) -> None:
    assert serving.status(root_of(place.authority)) == grpc.StatusCode.OK
    assert serving.status(root_of(trustme.CA())) == grpc.StatusCode.UNAVAILABLE


def test_plaintext_gets_no_answer_on_a_tls_port(serving: Serving) -> None:
    with grpc.insecure_channel(f"localhost:{serving.port}") as channel, pytest.raises(grpc.RpcError):
        checked(channel)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_tls_1_1_is_refused(place: Place, serving: Serving) -> None:
    context = place.client_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        serving.presented(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert serving.presented(context)


def test_a_replaced_certificate_is_served_without_a_restart(place: Place, serving: Serving) -> None:
    context = place.client_context()
    first = serving.presented(context)
    second = place.issue()
    assert serving.presented(context) == second != first
    assert serving.status(root_of(place.authority)) == grpc.StatusCode.OK


def test_a_certificate_of_another_authority_is_served_too(place: Place, serving: Serving) -> None:
    other = trustme.CA()
    place.issue(other)
    assert serving.status(root_of(other)) == grpc.StatusCode.OK
    assert serving.status(root_of(place.authority)) == grpc.StatusCode.UNAVAILABLE


def test_half_a_replacement_leaves_the_old_certificate_in_service(
    place: Place, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    context = place.client_context()
    first = serving.presented(context)
    issued = place.authority.issue_cert("localhost")
    write(place.certificate, *issued.cert_chain_pems)
    with caplog.at_level(logging.WARNING):
        assert serving.presented(context) == first
        assert serving.presented(context) == first
    assert len(caplog.records) == 1, "a flood of connections must not flood the log"
    write(place.key, issued.private_key_pem)
    assert serving.presented(context) != first


@pytest.mark.parametrize("damage", ["gone", "empty", "garbage"])
def test_a_damaged_file_leaves_the_old_certificate_in_service(place: Place, serving: Serving, damage: str) -> None:
    context = place.client_context()
    first = serving.presented(context)
    if damage == "gone":
        place.certificate.unlink()
    else:
        place.certificate.write_bytes(b"" if damage == "empty" else os.urandom(500))
    assert serving.presented(context) == first


def test_with_a_client_authority_only_its_clients_get_in(place: Place) -> None:
    clients, strangers = trustme.CA(), trustme.CA()
    client_ca = write(place.directory / "clients.crt", clients.cert_pem)
    serving = Serving(credentials.server_credentials(place.certificate, place.key, client_ca))
    root = root_of(place.authority)

    def status(authority: trustme.CA) -> grpc.StatusCode:
        issued = authority.issue_cert("backend@example.org")
        return serving.status(root, issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())

    try:
        assert status(clients) == grpc.StatusCode.OK
        assert status(strangers) == grpc.StatusCode.UNAVAILABLE
        assert serving.status(root) == grpc.StatusCode.UNAVAILABLE
        write(client_ca, strangers.cert_pem)
        assert status(strangers) == grpc.StatusCode.OK
        assert status(clients) == grpc.StatusCode.UNAVAILABLE
    finally:
        serving.server.stop(None).wait()


def test_files_that_cannot_be_used_are_refused_at_the_start(place: Place) -> None:
    missing = place.directory / "missing.pem"
    garbage = place.directory / "garbage.pem"
    garbage.write_bytes(b"no certificate")
    other = write(place.directory / "other.key", place.authority.issue_cert("localhost").private_key_pem)
    for certificate, key, client_ca in (
        (missing, place.key, None),
        (place.certificate, missing, None),
        (place.certificate, other, None),
        (place.key, place.certificate, None),
        (garbage, place.key, None),
        (place.certificate, place.key, missing),
        (place.certificate, place.key, garbage),
    ):
        with pytest.raises(errors.ConfigError):
            credentials.server_credentials(certificate, key, client_ca)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:8260",
        "127.8.8.8:0",
        "localhost:8260",
        "[::1]:8260",
        "[::ffff:127.0.0.1]:8260",
        "unix:/run/meterd.sock",
        "unix:///run/meterd.sock",
        "unix-abstract:meterd",
        "ipv4:127.0.0.1:8260",
        "ipv6:%5B::1%5D:8260",
        "ipv6:[::1]:8260",
        "dns:///localhost:8260",
        "ipv4:127.0.0.1:8260,127.0.0.2:8260",
    ],
)
def test_plaintext_is_permitted_where_no_other_machine_reaches(address: str) -> None:
    credentials.check_plaintext(address, allow_plaintext=False)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:8260",
        "[::]:8260",
        ":8260",
        "8260",
        "",
        "10.0.0.1:8260",
        "[2001:db8::1]:8260",
        "[::ffff:10.0.0.1]:8260",
        "::1:8260",
        "localhost.example.org:8260",
        "127.0.0.1.example.org:8260",
        "127.0.0.1",
        "meterd:8260",
        "ipv4:127.0.0.1:8260,10.0.0.1:8260",
        "dns:///meterd.internal:8260",
        "vsock:2:8260",
        "unix:",
    ],
)
def test_plaintext_elsewhere_takes_an_explicit_word(address: str) -> None:
    with pytest.raises(errors.ConfigError, match="plaintext"):
        credentials.check_plaintext(address, allow_plaintext=False)
    credentials.check_plaintext(address, allow_plaintext=True)
