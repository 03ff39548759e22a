"""How lifecycles are spoken on the wires beside gRPC."""

from __future__ import annotations

import json

from google.protobuf import json_format

from benchmarks import h1, load
from meterd_client.v1 import metering_pb2

_CONTENT_TYPES = {
    "Connect JSON": "application/json",
    "Connect binary": "application/proto",
    "gRPC-Web": "application/grpc-web+proto",
}
_HOLD_ID = b'"holdId":"'


def _reserves(accounts: list[str], ttl_ms: int) -> list[tuple[bytes, bytes]]:
    """The binary bodies' messages, as JSON."""
    marker = b"0" * 36
    found: list[tuple[bytes, bytes]] = []
    for before, after in load.reserve_bodies(accounts, ttl_ms=ttl_ms):
        message = metering_pb2.ReserveRequest.FromString(before + marker + after)
        head, _, tail = json.dumps(json_format.MessageToDict(message)).encode().partition(marker)
        found.append((head, tail))
    return found


def _hold_id_of(reply: bytes) -> bytes | None:
    _, found, rest = reply.partition(_HOLD_ID)
    return rest.partition(b'"')[0] if found else None


def _commit(hold_id: bytes) -> bytes:
    return b'{"holdId":"%s",%s' % (hold_id, _COMMIT_TAIL)


_COMMIT_TAIL = json.dumps(
    json_format.MessageToDict(metering_pb2.CommitRequest.FromString(load.commit_tail()))
).encode()[1:]
JSON = load.Speech(reserves=_reserves, hold_id_of=_hold_id_of, commit=_commit)


async def pools(host: str, port: int, key: str, count: int) -> dict[str, tuple[h1.Pool, load.Speech]]:
    """So many connections for each wire, and what is said on them."""
    found: dict[str, tuple[h1.Pool, load.Speech]] = {}
    for name, content_type in _CONTENT_TYPES.items():
        pool = await h1.connect(host, port, key, content_type, count)
        found[name] = pool, JSON if name == "Connect JSON" else load.PROTO
    return found
