"""What a call may fail with. A denial is an error here, so that a body which cannot be paid for does not run."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import grpc

from meterd_client.v1 import types_pb2

# The shortest that a caller should wait before it asks an overloaded or unreachable server again.
RETRY_AFTER_S = 1


class MeterError(Exception):
    """Any failure of a metering call."""


class DeniedError(MeterError):
    """The server decided not to grant it: nothing was set aside or charged. Amounts are micro-credits."""

    def __init__(self, denial: types_pb2.Denial) -> None:
        super().__init__(_told(denial))
        self.denial = denial

    @property
    def reasons(self) -> Sequence[types_pb2.Denial.Reason]:
        """Every scope that failed."""
        return self.denial.reasons

    @property
    def codes(self) -> tuple[str, ...]:
        """The reasons' codes, such as "INSUFFICIENT_CREDITS"."""
        return tuple(_code(reason) for reason in self.denial.reasons)

    @property
    def available_micros(self) -> int:
        return self.denial.available_micros

    @property
    def required_micros(self) -> int:
        return self.denial.required_micros

    @property
    def affordable_output_tokens(self) -> int:
        """Output tokens that the wallet could cover after the input; 0 unless a model is charged."""
        return self.denial.affordable_output_tokens

    @property
    def retry_at(self) -> datetime.datetime | None:
        """When to try again (UTC); None where time alone does not help."""
        if not self.denial.HasField("retry_at"):
            return None
        return self.denial.retry_at.ToDatetime(tzinfo=datetime.UTC)

    def as_dict(self) -> dict[str, Any]:
        """For the body of an HTTP 402: plain JSON values. Amounts are micro-credits, times ISO 8601."""
        retry_at = self.retry_at
        return {
            "error": "payment_required",
            "reasons": [{"code": _code(reason), "scope": reason.scope} for reason in self.denial.reasons],
            "available_micros": self.available_micros,
            "required_micros": self.required_micros,
            "affordable_output_tokens": self.affordable_output_tokens,
            "retry_at": retry_at.isoformat() if retry_at else None,
        }


class UndecidedError(MeterError):
    """Nobody knows yet: meterd could not be reached, or could not decide, within the call's time.

    The call may have had its effect. Only a retry with the same id is safe; `id` is it: the hold's or the charge's.
    """

    def __init__(self, message: str, code: grpc.StatusCode, id: str = "") -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.id = id


class RefusedError(MeterError):
    """The server refused the call as it is, and wrote nothing. The same call again fails again."""

    def __init__(self, message: str, code: grpc.StatusCode) -> None:
        super().__init__(message)
        self.code = code


class InvalidArgumentError(RefusedError):
    """A field is malformed or out of range; the message names it."""


class AuthenticationError(RefusedError):
    """No key, one that is unknown, expired or revoked, or one whose role does not cover the call."""


class NotFoundError(RefusedError):
    """No such account, wallet, hold, model, feature or rate for this tenant."""


class ConflictError(RefusedError):
    """The id was used before with other content."""


class HoldEndedError(RefusedError):
    """The hold has ended another way."""


class MissingUsageError(MeterError):
    """The call ended, and nobody said what it used. It was charged by what was last reported, or else by the whole hold.

    `settlement` is what it came to; None while it waits in the spool.
    """

    def __init__(self, settlement: types_pb2.Settlement | None) -> None:
        super().__init__("the call ended without a usage: commit its response, wrap its stream, or release the hold")
        self.settlement = settlement


class StoppedError(MeterError):
    """The stream was stopped, because not one more output token was covered."""


class SpoolFullError(MeterError):
    """The spool holds as many undelivered calls as it may."""


_REFUSALS: dict[grpc.StatusCode, type[RefusedError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgumentError,
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: AuthenticationError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.FAILED_PRECONDITION: HoldEndedError,
    grpc.StatusCode.UNIMPLEMENTED: RefusedError,
}


def of_status(code: grpc.StatusCode, message: str, id: str = "") -> MeterError:
    """The error of a gRPC status: a refusal, or undecided for all that may be otherwise next time."""
    refusal = _REFUSALS.get(code)
    return UndecidedError(message, code, id) if refusal is None else refusal(message, code)


def _code(reason: types_pb2.Denial.Reason) -> str:
    return types_pb2.Denial.Code.Name(reason.code).removeprefix("CODE_")


def _told(denial: types_pb2.Denial) -> str:
    reasons = ", ".join(f"{_code(reason)} ({reason.scope})" for reason in denial.reasons)
    return f"{reasons}: {denial.required_micros} micro-credits required, {denial.available_micros} available"
