"""What the rest of meterd sees of Stripe's API: calls, their errors, and the key that they are made with."""

from __future__ import annotations

import importlib
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from meterd.core import errors

# What requests and answers mean is fixed by it, whatever the account's default is, and whichever version of `stripe` is installed.
API_VERSION = "2026-10-28.endive"
API_BASE = "https://api.stripe.com"
# For each attempt. A POST to Stripe takes a second or two; the caller's own deadline is rarely above half a minute.
TIMEOUT_S = 10.0
# After a cut line, a 409 or a 5xx, with the same idempotency key; Stripe's library waits 0.5 s and more before each.
RETRIES_MAX = 2

Document = dict[str, Any]

_KEY = re.compile(r"(?:sk|rk)_(test|live)_[A-Za-z0-9_]{1,240}\Z")


class RefusedError(errors.FailedPreconditionError):
    """Stripe does not do what was asked. `code` is Stripe's, such as "resource_missing"; "" if it said none."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"Stripe: {message}")
        self.code = code


class CardDeclinedError(RefusedError):
    """Stripe could not charge the card; `code` is such as "insufficient_funds" or "authentication_required"."""

    def __init__(self, code: str, document: Document) -> None:
        super().__init__(code, f"the card was not charged: {code}")
        # What was made all the same: the PaymentIntent that was declined; {} if nothing was.
        self.document = document


class Stripe(Protocol):
    """One account at Stripe. Objects are JSON documents. Each call raises UnavailableError if Stripe is away, too busy, or has a fault
    (the effect is unknown then: repeat with the same key), RefusedError, or CardDeclinedError.
    """

    def of(self, account: str) -> Stripe:
        """The same for a connected account; "" is the key's own."""
        ...

    async def post(self, path: str, params: Mapping[str, Any], *, key: str) -> Document:
        """Makes or changes something. A repeat with the same key and params within a day answers what the first did.

        AlreadyExistsError: the key was used with other params.
        """
        ...

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Document:
        """One object, or one page."""
        ...

    async def delete(self, path: str) -> Document:
        """Ends an object. A repeat is a RefusedError."""
        ...

    def all(self, path: str, params: Mapping[str, Any]) -> AsyncGenerator[Document]:
        """All objects of a list, in Stripe's order: newest first."""
        ...

    async def close(self) -> None:
        """Ends the connections."""
        ...


def check_key(api_key: str, *, livemode: bool) -> None:
    """ConfigError unless it is a secret or restricted key of this mode. The message never shows the key."""
    match = _KEY.match(api_key)
    if match is None:
        raise errors.ConfigError(
            "METERD_STRIPE_API_KEY: must be a secret or restricted key: sk_test_…, rk_test_…, sk_live_… or rk_live_…"
        )
    if (match[1] == "live") != livemode:
        wanted = "true" if match[1] == "live" else "false"
        raise errors.ConfigError(
            f"METERD_STRIPE_API_KEY: is a key of {match[1]} mode, for which METERD_STRIPE_LIVEMODE has to be {wanted}"
        )


def opened(
    api_key: str, *, livemode: bool, base: str = "", timeout_s: float = TIMEOUT_S, retries_max: int = RETRIES_MAX
) -> Stripe | None:
    """Stripe's API, None without a key. `base` is another address than Stripe's own. ConfigError: see `check_key`.

    Imports Stripe's library, which takes a second; so only what sells pays for it.
    """
    if not api_key:
        return None
    check_key(api_key, livemode=livemode)
    gateway: Any = importlib.import_module("meterd.billing.gateway")
    return gateway.Gateway(api_key, base=base or API_BASE, timeout_s=timeout_s, retries_max=retries_max)
