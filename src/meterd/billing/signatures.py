"""Whether a body is from Stripe, by Stripe's own check. Importing this module imports `stripe`, which takes half a second and more."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

import stripe

from meterd.core import errors

# Stripe's default, and its longest: what was signed earlier is a replay.
TOLERANCE_S_MAX = 300
# An endpoint's secret can be rolled while the old one still signs; more than a few are a mistake.
SECRETS_MAX = 8
# Stripe's header is some hundred characters, with two signatures while a secret is rolled.
HEADER_CHARS_MAX = 4096

_TIME = re.compile(r"(?:^|,)\s*t=([0-9]{1,12})\s*(?=,|\Z)")


class Verifier:
    """Checks signatures with any of several secrets. The secrets are shown nowhere."""

    def __init__(self, secrets: Sequence[str], *, tolerance_s: int, clock_s: Callable[[], float] = time.time) -> None:
        """ConfigError: no secret, too many, or a tolerance that is not from 1 to 300 s; 0 would switch the check of the time off."""
        if not secrets or len(secrets) > SECRETS_MAX or not all(secret.strip() for secret in secrets):
            raise errors.ConfigError(f"METERD_STRIPE_WEBHOOK_SECRETS: must be 1 to {SECRETS_MAX} secrets, whsec_…")
        if not 1 <= tolerance_s <= TOLERANCE_S_MAX:
            raise errors.ConfigError(f"METERD_STRIPE_TOLERANCE_S: must be from 1 to {TOLERANCE_S_MAX}")
        self._secrets = tuple(secrets)
        self._tolerance_s = tolerance_s
        self._clock_s = clock_s

    def __repr__(self) -> str:
        return f"Verifier({len(self._secrets)} secrets)"

    def verify(self, body: bytes, header: str) -> None:
        """InvalidArgumentError: no secret made the signature, or it was made too long ago or too far ahead."""
        signed_s = _signed_s(header)
        if abs(self._clock_s() - signed_s) > self._tolerance_s:
            raise errors.InvalidArgumentError("stripe-signature", "its time is outside the tolerance")
        if not any(self._is_signed(body, header, secret) for secret in self._secrets):
            raise errors.InvalidArgumentError("stripe-signature", "does not fit to the body")

    def _is_signed(self, body: bytes, header: str, secret: str) -> bool:
        try:
            return stripe.WebhookSignature.verify_header(body, header, secret, self._tolerance_s)
        except (stripe.SignatureVerificationError, UnicodeError):
            return False


def _signed_s(header: str) -> int:
    """The one time that the header names: Stripe's check takes the first, so another one would not have been looked at."""
    found = _TIME.findall(header) if len(header) <= HEADER_CHARS_MAX else []
    if len(found) != 1:
        raise errors.InvalidArgumentError("stripe-signature", "is missing or malformed")
    return int(found[0])
