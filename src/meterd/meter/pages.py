"""Page tokens: where the next page begins. Opaque to callers, good for one list of one account. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib

from meterd.core import errors

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1000

_CHECK_BYTES = 6


def checked_size(value: int) -> int:
    """`value` from 1 to 1000; 0 is 100."""
    if value == 0:
        return PAGE_SIZE_DEFAULT
    if not 1 <= value <= PAGE_SIZE_MAX:
        raise errors.InvalidArgumentError("page_size", f"must be from 1 to {PAGE_SIZE_MAX}, or 0")
    return value


def token(scope: str, place: str) -> str:
    """The token of `place` in the list that `scope` names."""
    raw = place.encode()
    return base64.urlsafe_b64encode(_check(scope, raw) + raw).rstrip(b"=").decode()


def place(scope: str, page_token: str) -> str:
    """What `token` was given; "" for no token. InvalidArgumentError for a token of another list, or of nobody's making."""
    if not page_token:
        return ""
    try:
        both = base64.b64decode(page_token + "=" * (-len(page_token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        both = b""
    check, raw = both[:_CHECK_BYTES], both[_CHECK_BYTES:]
    # A token names a place, not a right: the check only tells mistakes from pages.
    if not raw or check != _check(scope, raw):
        raise errors.InvalidArgumentError(
            "page_token", "must be the next_page_token of the page before, of the same list"
        )
    return raw.decode()


def _check(scope: str, raw: bytes) -> bytes:
    return hashlib.blake2b(scope.encode() + b"\0" + raw, digest_size=_CHECK_BYTES).digest()
