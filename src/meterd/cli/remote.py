"""A running server, called with one key."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Generator
from typing import Any

import grpc
from google.protobuf import json_format, message, timestamp_pb2

from meterd.cli import console
from meterd_client.v1 import accounts_pb2_grpc

# A person waits; a server that is well answers in milliseconds.
CALL_TIMEOUT_S = 10.0


class Accounts:
    """Service Accounts. Each call raises grpc.RpcError."""

    def __init__(self, channel: grpc.Channel, key: str) -> None:
        self._stub = accounts_pb2_grpc.AccountsStub(channel)
        self._metadata = [("authorization", f"Bearer {key}")]

    def call(self, verb: str, request: message.Message, *, wait: bool = False) -> Any:
        """The answer of a method by its name in the proto. `wait`: for a server that is just starting, as long as a call may take."""
        return getattr(self._stub, verb)(request, metadata=self._metadata, timeout=CALL_TIMEOUT_S, wait_for_ready=wait)


@contextlib.contextmanager
def accounts(server: str, key: str, ca_path: pathlib.Path | None) -> Generator[Accounts]:
    """`ca_path` None: plaintext."""
    if not key.isascii() or not key.isprintable():
        raise console.Misuse("the key has characters that no API key has")
    if ca_path is None:
        channel = grpc.insecure_channel(server)
    else:
        channel = grpc.secure_channel(server, grpc.ssl_channel_credentials(ca_path.read_bytes()))
    with channel:
        yield Accounts(channel, key)


def document(answer: message.Message) -> dict[str, Any]:
    """The message in proto3's JSON form (64-bit numbers are strings), with the proto's names and all fields."""
    return json_format.MessageToDict(
        answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def time_ms(time: timestamp_pb2.Timestamp) -> int:
    """0 for a time that is not set."""
    return time.ToMilliseconds()
