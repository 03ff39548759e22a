"""Faults that end a call. Expected results (a denial, a replay) are values, not exceptions."""

from __future__ import annotations


class MeterdError(Exception):
    """A call that could not be decided; nothing was written unless a subclass says otherwise."""


class InvalidArgumentError(MeterdError):
    """A field is malformed. `field` names it the way the proto does."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class OutOfRangeError(MeterdError):
    """An amount or balance would leave ±(2^53 − 1) micro-credits."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class UnauthenticatedError(MeterdError):
    """No credential, or one that is unknown, expired or revoked."""


class PermissionDeniedError(MeterdError):
    """The credential's role does not cover the method."""


class NotFoundError(MeterdError):
    """Nothing of that name for this tenant; the same whether it exists for another tenant or not."""


class AccountNotLoadedError(NotFoundError):
    """Redis does not have the account; it must be hydrated from Postgres, or does not exist."""


class AlreadyExistsError(MeterdError):
    """An id was used before with other content."""


class ConflictError(AlreadyExistsError):
    """The ledger's word for it. `terms` is what the id was used with, b"" where the ledger keeps it no longer."""

    def __init__(self, terms: bytes) -> None:
        super().__init__("used before with other content")
        self.terms = terms


class FailedPreconditionError(MeterdError):
    """The state does not allow the call, such as a Commit of a released hold."""


class OverloadedError(MeterdError):
    """Too much work in flight or in the outbox; retry later."""


class UnavailableError(MeterdError):
    """A store is away or a partition is fenced; the effect may have happened: retry with the same id."""


class ConfigError(MeterdError):
    """A setting that meterd refuses to start with; the message says which and what to do."""
