"""Signatures of webhooks as https://www.standardwebhooks.com has them: HMAC-SHA256 over id, timestamp and body. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence

PREFIX = "whsec_"
# The specification wants 24 to 64 bytes.
SECRET_BYTES = 32


def secret_text(secret: bytes) -> str:
    """The secret as the receiver is given it."""
    return PREFIX + base64.b64encode(secret).decode()


def secret_bytes(text: str) -> bytes:
    """What `secret_text` was given. ValueError for anything else."""
    if not text.startswith(PREFIX):
        raise ValueError(f"a secret begins with {PREFIX}")
    try:
        return base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error as exc:
        raise ValueError("a secret is base64") from exc


def signature(secret: bytes, message_id: str, at_s: int, body: bytes) -> str:
    """`v1,` and the base64 HMAC."""
    signed = b".".join((message_id.encode(), str(at_s).encode(), body))
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def headers(secrets: Sequence[bytes], message_id: str, at_s: int, body: bytes) -> Mapping[str, str]:
    """The three headers. While a secret is rotated there are two, and a receiver that knows one of them is content."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(signature(secret, message_id, at_s, body) for secret in secrets),
    }
