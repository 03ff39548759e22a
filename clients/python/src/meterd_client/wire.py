"""The connection to meterd: methods, options, credentials, and what answers mean. Shared by both clients."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib
from typing import Any, Final, Literal, TypeVar

import grpc

from meterd_client import errors, spool
from meterd_client.v1 import accounts_pb2, metering_pb2, types_pb2

T = TypeVar("T")

# Reserve, Charge, Estimate and balance: a person waits for them.
TIMEOUT_S = 10.0
# The end of a hold without a spool: the call has been made, and is paid for by nobody if this is given up.
SETTLE_TIMEOUT_S = 30.0
# One try. A server that has not answered by then has most likely lost the call.
ATTEMPT_TIMEOUT_S = 5.0
# With a spool, entries of processes that died are looked for so often.
SPOOL_INTERVAL_S = 5.0

OnUndecided = Literal["deny", "allow"]
OnStop = Literal["end", "raise"]
Tls = bool | bytes | grpc.ChannelCredentials | None

METHODS: Final[dict[str, tuple[str, Any]]] = {
    "Reserve": ("/meterd.v1.Metering/Reserve", metering_pb2.ReserveResponse),
    "Commit": ("/meterd.v1.Metering/Commit", metering_pb2.CommitResponse),
    "Release": ("/meterd.v1.Metering/Release", metering_pb2.ReleaseResponse),
    "Extend": ("/meterd.v1.Metering/Extend", metering_pb2.ExtendResponse),
    "Report": ("/meterd.v1.Metering/Report", metering_pb2.ReportResponse),
    "Charge": ("/meterd.v1.Metering/Charge", metering_pb2.ChargeResponse),
    "Estimate": ("/meterd.v1.Metering/Estimate", metering_pb2.EstimateResponse),
    "GetBalance": ("/meterd.v1.Accounts/GetBalance", accounts_pb2.GetBalanceResponse),
}
OPTIONS: Final[list[tuple[str, Any]]] = [
    # Retries are this client's, which knows what a repeat needs.
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    # gRPC would wait up to two minutes before it connects again.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # meterd takes a ping each ten seconds. The timeout is TCP's too: what is sent on a dead connection is found out by then.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 3_000),
]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How a client reaches meterd. See Meter."""

    target: str
    key: str
    tls: Tls
    timeout_s: float
    settle_timeout_s: float
    attempt_timeout_s: float
    on_undecided: OnUndecided
    spool: spool.Spool | None
    # Whether the spool was opened here, and is closed with the client.
    owns_spool: bool

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),) if self.key else ()


def settings(
    target: str,
    *,
    key: str,
    tls: Tls,
    timeout_s: float,
    settle_timeout_s: float,
    attempt_timeout_s: float,
    on_undecided: OnUndecided,
    spool_: pathlib.Path | str | spool.Spool | None,
) -> Settings:
    """ValueError for what does not go together."""
    if on_undecided not in ("deny", "allow"):
        raise ValueError('on_undecided must be "deny" or "allow"')
    if on_undecided == "allow" and spool_ is None:
        raise ValueError('on_undecided="allow" needs a spool: what passes unmetered is charged from there')
    return Settings(
        target=target,
        key=key,
        tls=tls,
        timeout_s=timeout_s,
        settle_timeout_s=settle_timeout_s,
        attempt_timeout_s=attempt_timeout_s,
        on_undecided=on_undecided,
        spool=spool.Spool(spool_) if isinstance(spool_, (str, pathlib.Path)) else spool_,
        owns_spool=isinstance(spool_, (str, pathlib.Path)),
    )


def check_expiry(settings: Settings, request: metering_pb2.ReserveRequest) -> None:
    """ValueError for a hold that would charge when it expires, and that nobody may know of."""
    if settings.on_undecided == "allow" and request.expiry_policy == types_pb2.EXPIRY_POLICY_CHARGE_ESTIMATE:
        raise ValueError('expiry_policy "charge_estimate" may charge twice with on_undecided="allow"')


def credentials(target: str, tls: Tls) -> grpc.ChannelCredentials | None:
    """None for plaintext: only if asked for, or to this machine, since a key must not travel readable."""
    if isinstance(tls, grpc.ChannelCredentials):
        return tls
    if isinstance(tls, bytes):
        return grpc.ssl_channel_credentials(root_certificates=tls)
    if tls is False or (tls is None and _is_local(target)):
        return None
    return grpc.ssl_channel_credentials()


def _is_local(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = target.removeprefix("dns:").lstrip("/").rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def encoded(request: Any) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


def granted(answer: metering_pb2.ReserveResponse) -> types_pb2.Hold:
    """The hold. DeniedError if there is none; HoldEndedError if it is the replay of one that has ended."""
    if answer.WhichOneof("outcome") == "denial":
        raise errors.DeniedError(answer.denial)
    if answer.hold.state != types_pb2.HOLD_STATE_OPEN:
        name = types_pb2.HoldState.Name(answer.hold.state).removeprefix("HOLD_STATE_").lower()
        raise errors.HoldEndedError(f"hold_id: the hold has ended as {name}", grpc.StatusCode.FAILED_PRECONDITION)
    return answer.hold


def settled(answer: Any) -> types_pb2.Settlement:
    """The settlement of a Commit, Release or Charge. DeniedError if a Charge was denied."""
    if isinstance(answer, metering_pb2.ChargeResponse) and answer.WhichOneof("outcome") == "denial":
        raise errors.DeniedError(answer.denial)
    return answer.settlement


def entry(
    request: metering_pb2.CommitRequest | metering_pb2.ReleaseRequest | metering_pb2.ChargeRequest,
) -> spool.Entry:
    """The request as it is sent, and kept until it is answered."""
    is_charge = isinstance(request, metering_pb2.ChargeRequest)
    return spool.Entry(
        id=request.idempotency_key if is_charge else request.hold_id,
        method=type(request).__name__.removesuffix("Request"),
        request=request.SerializeToString(),
    )


def is_final(fault: errors.MeterError) -> bool:
    """Whether a spooled call that failed so will always fail so. A key may be put right, and a server be updated."""
    if isinstance(fault, errors.AuthenticationError):
        return False
    if isinstance(fault, errors.RefusedError):
        return fault.code is not grpc.StatusCode.UNIMPLEMENTED
    return isinstance(fault, errors.DeniedError)
