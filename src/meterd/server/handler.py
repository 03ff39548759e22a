"""From a gRPC call to a use case and back: admission, authentication, parsing, errors and counts in one place.

It does what interceptors would, without a layer of calls each. Requests and answers are (de)serialized here, so that bytes that are no
message are a client's INVALID_ARGUMENT and not a server's INTERNAL.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from meterd.core import errors
from meterd.server import auth, cohorts, methods, metrics
from meterd_client.v1 import accounts_pb2

_log = logging.getLogger(__name__)

# Pushes a client that gRPC retries for back by this time.
_PUSHBACK = (("grpc-retry-pushback-ms", "200"),)
_CODES: dict[type[errors.MeterdError], grpc.StatusCode] = {
    errors.InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.OutOfRangeError: grpc.StatusCode.OUT_OF_RANGE,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
}
_INTERNAL = "internal error; the effect is unknown: retry with the same id"


def status(fault: BaseException) -> tuple[grpc.StatusCode, str]:
    """Status and message that tell a client of a fault. What is not an error of core.errors is logged here, and not told."""
    for kind in type(fault).__mro__:
        code = _CODES.get(kind)
        if code is not None:
            return code, str(fault)
    _log.error("unexpected %s", type(fault).__name__, exc_info=fault)
    return grpc.StatusCode.INTERNAL, _INTERNAL


class Gate:
    """Counts the calls in work, those of streams one by one."""

    __slots__ = ("count", "count_max")

    def __init__(self, count_max: int) -> None:
        self.count = 0
        self.count_max = count_max

    def overloaded(self) -> errors.OverloadedError:
        return errors.OverloadedError(f"{self.count} calls are in work; retry later")


async def admitted(authenticator: auth.Authenticator, rpc: Any, roles: frozenset[str]) -> auth.Principal:
    """The caller. UnauthenticatedError, PermissionDeniedError, UnavailableError: see auth."""
    metadata = rpc.invocation_metadata()
    principal = authenticator.principal(metadata) or await authenticator.authenticate(metadata)
    auth.check_role(principal, roles)
    return principal


def serialized(reply: Message) -> bytes:
    """Protobuf's binary form."""
    return reply.SerializeToString()


def unary(
    method: methods.Method,
    *,
    authenticator: auth.Authenticator,
    gate: Gate,
    together: cohorts.Cohorts,
    counts: metrics.Calls,
    parse: Callable[[bytes], Message] | None = None,
    dump: Callable[[Message], Any] = serialized,
) -> Callable[[bytes, Any], Awaitable[Any]]:
    """The handler of one method, on any wire: of `rpc` it needs invocation_metadata and abort. `parse` None: Protobuf's binary form.

    A call that the client cancels, or whose deadline passes, ends here; what it has sent to Redis takes effect all the same, and a
    retry with the same id hears of it.
    """
    call, roles, may_deny = method.call, method.roles, method.may_deny
    # Others admit no tokens, and need not look for them.
    is_own = auth.ACCOUNT in roles
    # The others wait for Postgres, and for so long that nothing else counts.
    is_metering = method.is_metering
    parse = parse or method.request.FromString
    known, is_alone, now_s, observe = authenticator.principal, together.is_alone, time.perf_counter, counts.observe

    async def handle(data: bytes, rpc: Any) -> Any:
        begin_s = now_s()
        gate.count += 1
        try:
            if gate.count > gate.count_max:
                raise gate.overloaded()
            if is_metering and not is_alone():
                await together.joined()
            principal = known(rpc.invocation_metadata())
            if principal is None or principal.role not in roles:
                principal = await admitted(authenticator, rpc, roles)
            request = parse(data)
            if is_own and principal.account_id:
                auth.check_account(principal, request)
            reply = await call(principal.tenant_id, request)
            if is_own and principal.account_id:
                _conceal(reply)
            observe("DENIED" if may_deny and reply.HasField("denial") else "OK", now_s() - begin_s)
            answer = dump(reply)
        except asyncio.CancelledError:
            observe("CANCELLED", now_s() - begin_s)
            raise
        except Exception as exc:
            code, message = status(_as_argument_error(exc))
            observe(code.name, now_s() - begin_s)
            await rpc.abort(code, message, _PUSHBACK if code is grpc.StatusCode.RESOURCE_EXHAUSTED else ())
            raise AssertionError("abort raises") from exc
        finally:
            gate.count -= 1
        if is_metering and not is_alone():
            await together.answered()
        return answer

    return handle


def _conceal(reply: Message) -> None:
    """Takes out what is the tenant's own affair: what a call has cost it, and what its backend noted."""
    if not isinstance(reply, accounts_pb2.ListTransactionsResponse):
        return
    for transaction in reply.transactions:
        transaction.ClearField("metadata")
        for field in ("cost_usd", "breakdown", "price_version"):
            transaction.settlement.ClearField(field)


def _as_argument_error(exc: Exception) -> Exception:
    if isinstance(exc, DecodeError):
        return errors.InvalidArgumentError("request", "not a message of the method's type")
    return exc
