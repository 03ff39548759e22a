"""The calls of a replay over gRPC: each is repeated with the same ids until it is answered, and timed."""

from __future__ import annotations

import array
import asyncio
import collections
import dataclasses
import pathlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from meterd_client.v1 import accounts_pb2_grpc, metering_pb2_grpc

T = TypeVar("T")

# A call that takes longer than this is given up and repeated with the same id.
CALL_TIMEOUT_S = 10.0
RETRY_PAUSE_MIN_S = 0.05
# A restarted server should hear of its callers soon.
RETRY_PAUSE_MAX_S = 1.0
# The effect may have happened, or nothing was decided: the same call may be made again.
RETRYABLE = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_CHANNEL_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A replay's channel is its own, so that a test that restarts the server meets no one else's backoff.
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A running server and the keys to call it with. `ca_path` None: plaintext."""

    address: str
    key: str
    admin_key: str
    ca_path: pathlib.Path | None = None
    # How long one call is repeated before it counts as failed.
    patience_s: float = 120.0


@dataclasses.dataclass(slots=True)
class Tally:
    """What was seen on the wire. Latencies are of answered attempts, in seconds."""

    latencies_s: dict[str, array.array[float]] = dataclasses.field(default_factory=dict[str, "array.array[float]"])
    retries: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter[str])


class Caller:
    """Both services on one channel. Not safe across event loops."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.tally = Tally()
        if target.ca_path is None:
            self._channel = grpc.aio.insecure_channel(target.address, options=_CHANNEL_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(target.ca_path.read_bytes())
            self._channel = grpc.aio.secure_channel(target.address, credentials, options=_CHANNEL_OPTIONS)
        self._stubs: dict[str, Any] = {
            "Metering": metering_pb2_grpc.MeteringStub(self._channel),
            "Accounts": accounts_pb2_grpc.AccountsStub(self._channel),
        }
        self._metering = [("authorization", f"Bearer {target.key}")]
        self._accounts = [("authorization", f"Bearer {target.admin_key}")]

    async def close(self) -> None:
        await self._channel.close()

    async def metering(self, verb: str, request: object, answer: type[T]) -> T:
        """The answer to a call of service Metering. Raises grpc.aio.AioRpcError if it was refused, or not answered for too long."""
        return await self._call(verb, getattr(self._stubs["Metering"], verb), request, self._metering, answer)

    async def accounts(self, verb: str, request: object, answer: type[T]) -> T:
        """The answer to a call of service Accounts; as `metering`."""
        return await self._call(verb, getattr(self._stubs["Accounts"], verb), request, self._accounts, answer)

    async def _call(
        self,
        verb: str,
        method: Callable[..., Awaitable[Any]],
        request: object,
        metadata: list[tuple[str, str]],
        answer: type[T],
    ) -> T:
        give_up_s = time.monotonic() + self._target.patience_s
        pause_s = RETRY_PAUSE_MIN_S
        while True:
            begin_s = time.perf_counter()
            try:
                reply = await method(request, timeout=CALL_TIMEOUT_S, metadata=metadata)
            except grpc.aio.AioRpcError as fault:
                if fault.code() not in RETRYABLE or time.monotonic() > give_up_s:
                    raise
                self.tally.retries[f"{verb} {fault.code().name}"] += 1
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(pause_s * 2, RETRY_PAUSE_MAX_S)
                continue
            self.tally.latencies_s.setdefault(verb, array.array("d")).append(time.perf_counter() - begin_s)
            assert isinstance(reply, answer)
            return reply
