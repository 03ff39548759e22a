"""A running server, called with one key."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import re
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Any

import click
import grpc
from google.protobuf import json_format, message, timestamp_pb2

from meterd.cli import console
from meterd_client.v1 import accounts_pb2_grpc, catalog_pb2_grpc, events_pb2_grpc, reports_pb2_grpc

# A person waits; a server that is well answers in milliseconds.
CALL_TIMEOUT_S = 10.0

_KEY = re.compile(r"mk_[A-Za-z0-9_-]{43}\Z")


class _Service:
    """Each call raises grpc.RpcError."""

    def __init__(self, stub: Any, key: str) -> None:
        self._stub = stub
        self._metadata = [("authorization", f"Bearer {key}")]

    def call(self, verb: str, request: message.Message, *, wait: bool = False) -> Any:
        """The answer of a method by its name in the proto. `wait`: for a server that is just starting, as long as a call may take."""
        return getattr(self._stub, verb)(request, metadata=self._metadata, timeout=CALL_TIMEOUT_S, wait_for_ready=wait)


class Accounts(_Service):
    """Service Accounts."""

    def __init__(self, channel: grpc.Channel, key: str) -> None:
        super().__init__(accounts_pb2_grpc.AccountsStub(channel), key)


class Catalog(_Service):
    """Service Catalog."""

    def __init__(self, channel: grpc.Channel, key: str) -> None:
        super().__init__(catalog_pb2_grpc.CatalogStub(channel), key)


class Events(_Service):
    """Service Events."""

    def __init__(self, channel: grpc.Channel, key: str) -> None:
        super().__init__(events_pb2_grpc.EventsStub(channel), key)


class Reports(_Service):
    """Service Reports."""

    def __init__(self, channel: grpc.Channel, key: str) -> None:
        super().__init__(reports_pb2_grpc.ReportsStub(channel), key)


@contextlib.contextmanager
def accounts(server: str, key: str, ca_path: pathlib.Path | None) -> Generator[Accounts]:
    """`ca_path` None: plaintext."""
    with _channel(server, key, ca_path) as channel:
        yield Accounts(channel, key)


@contextlib.contextmanager
def catalog(server: str, key: str, ca_path: pathlib.Path | None) -> Generator[Catalog]:
    """`ca_path` None: plaintext."""
    with _channel(server, key, ca_path) as channel:
        yield Catalog(channel, key)


@contextlib.contextmanager
def events(server: str, key: str, ca_path: pathlib.Path | None) -> Generator[Events]:
    """`ca_path` None: plaintext."""
    with _channel(server, key, ca_path) as channel:
        yield Events(channel, key)


@contextlib.contextmanager
def reports(server: str, key: str, ca_path: pathlib.Path | None) -> Generator[Reports]:
    """`ca_path` None: plaintext."""
    with _channel(server, key, ca_path) as channel:
        yield Reports(channel, key)


@contextlib.contextmanager
def _channel(server: str, key: str, ca_path: pathlib.Path | None) -> Generator[grpc.Channel]:
    if not _KEY.match(key):
        raise console.Misuse("the key is no API key: it is mk_ and 43 letters, digits, - or _")
    if server.startswith(("http://", "https://")):
        raise console.Misuse(f"{server}: a server's address is HOST:PORT, and the port is gRPC's")
    if ca_path is None:
        channel = grpc.insecure_channel(server)
    else:
        channel = grpc.secure_channel(server, grpc.ssl_channel_credentials(ca_path.read_bytes()))
    with channel:
        yield channel


def _given(_context: click.Context, _parameter: click.Parameter, key: str) -> str:
    if not key:
        raise click.UsageError("name an API key: --key or METERD_KEY; `meterd keys create` makes one")
    return key


def connected(
    opened: Callable[[str, str, pathlib.Path | None], AbstractContextManager[Any]],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options that name the server and passes it the opened service first."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @click.option(
            "--server",
            envvar="METERD_SERVER",
            default=console.SERVER_DEFAULT,
            show_default=True,
            metavar="HOST:PORT",
            help="Address of the server. [env: METERD_SERVER]",
        )
        @click.option(
            "--key",
            envvar="METERD_KEY",
            default="",
            callback=_given,
            help="API key; the tenant is the key's. [env: METERD_KEY]",
        )
        @click.option(
            "--ca",
            "ca_path",
            envvar="METERD_CA",
            type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
            help="CA certificate of the server; plaintext without. [env: METERD_CA]",
        )
        @console.json_option
        @console.guarded
        @functools.wraps(command)
        def run(*, server: str, key: str, ca_path: pathlib.Path | None, **options: Any) -> None:
            with opened(server, key, ca_path) as service:
                command(service, **options)

        return run

    return decorated


def document(answer: message.Message) -> dict[str, Any]:
    """The message in proto3's JSON form (64-bit numbers are strings), with the proto's names and all fields."""
    return json_format.MessageToDict(
        answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def time_ms(time: timestamp_pb2.Timestamp) -> int:
    """0 for a time that is not set."""
    return time.ToMilliseconds()
