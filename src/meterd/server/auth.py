"""Who calls: the API key of a call becomes a tenant and a role.

The tenant comes from the key alone. A key that is known costs one dictionary lookup by the whole header value: 60 ns, against 650 ns
and more for SHA-256 first (`python -m timeit`). The plaintext is in the process with each request anyway; it is never logged or shown, and
nothing but a digest is sent to Postgres. The dictionary compares keyed 64-bit hashes before it compares text, so the time that a miss
takes says nothing about the keys that are there.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import enum
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from meterd.core import errors
from meterd.postgres import keys
from meterd.server import tokens

# A revocation has to act within 30 s on every server, also if the first refresh after it waits for Postgres in vain.
REFRESH_INTERVAL_S = 10.0
# One array of digests, 320 KB; as many index lookups take Postgres some 30 ms.
REFRESH_BATCH_MAX = 10_000
# Keys known at once, each some 600 bytes. The one that came first makes room; its next call costs one read of Postgres.
KNOWN_KEYS_MAX = 100_000
# Tokens known at once, each some 1.5 KB. The one that came first makes room; its next call is checked anew, in some 0.2 ms.
KNOWN_TOKENS_MAX = 20_000
# A key that was refused is looked for again after this time: a client that was faster than its operator waits no longer.
REFUSED_TTL_MS = 5_000
# A flood of made-up keys occupies this much memory and no more (about 2 MB).
REFUSED_KEYS_MAX = 10_000
# Lookups are gathered, one query at a time and at most 100 a second, whatever is thrown at the server.
LOOKUP_INTERVAL_S = 0.01
LOOKUP_BATCH_MAX = 1_000
LOOKUPS_WAITING_MAX = 10_000
# A client waits for it on the first call of a key only; a refresh gives up after it too.
LOOKUP_TIMEOUT_S = 5.0
# "Bearer", one space and a key make 53. A few spaces more are nobody's harm.
HEADER_CHARS_MAX = 64

# Two ids of 128 bytes, escaped and in base64, with the rest.
TOKEN_HEADER_CHARS_MAX = 4_096

_TOKEN = re.compile(r"(?i:bearer) +(eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)\Z")
_HEADER = re.compile(r"(?i:bearer) +(mk_[A-Za-z0-9_-]{43})\Z")
_LOG = logging.getLogger(__name__)

_NO_KEY = "no API key: send metadata `authorization: Bearer mk_…`"
_MALFORMED = "malformed API key: send metadata `authorization: Bearer mk_…`"
# The same for both: an outsider does not learn which keys existed.
_UNKNOWN = "unknown or revoked API key"
_EXPIRED = "expired API key"
_EXPIRED_TOKEN = "invalid, expired or revoked token"


class Role(enum.StrEnum):
    METER = "meter"
    READ = "read"
    ADMIN = "admin"


# Of a token, which is no key: reads one account.
ACCOUNT = "account"

_ALL = frozenset(role.value for role in Role)
_OWN = _ALL | {ACCOUNT}
_METER = frozenset({Role.METER.value, Role.ADMIN.value})
_ADMIN = frozenset({Role.ADMIN.value})
_READ = frozenset({Role.READ.value, Role.ADMIN.value})

# The roles that each method admits. A method that is missing here admits nobody: `roles_of` fails and the server does not start.
ROLES: Mapping[str, frozenset[str]] = {
    "/meterd.v1.Metering/Reserve": _METER,
    "/meterd.v1.Metering/Commit": _METER,
    "/meterd.v1.Metering/Release": _METER,
    "/meterd.v1.Metering/Extend": _METER,
    "/meterd.v1.Metering/Report": _METER,
    "/meterd.v1.Metering/Charge": _METER,
    "/meterd.v1.Metering/Estimate": _ALL,
    "/meterd.v1.Metering/Stream": _METER,
    "/meterd.v1.Accounts/CreateAccount": _ADMIN,
    "/meterd.v1.Accounts/GetAccount": _ALL,
    "/meterd.v1.Accounts/Grant": _ADMIN,
    "/meterd.v1.Accounts/RevokeGrant": _ADMIN,
    "/meterd.v1.Accounts/GetBalance": _OWN,
    "/meterd.v1.Accounts/Watch": _OWN,
    "/meterd.v1.Accounts/ListHolds": _ALL,
    "/meterd.v1.Accounts/ListTransactions": _OWN,
    "/meterd.v1.Accounts/ExplainSettlement": _ALL,
    "/meterd.v1.Accounts/UpdateAccount": _ADMIN,
    "/meterd.v1.Accounts/Subscribe": _ADMIN,
    "/meterd.v1.Accounts/UpdateSubscription": _ADMIN,
    "/meterd.v1.Accounts/CancelSubscription": _ADMIN,
    "/meterd.v1.Accounts/GetSubscription": _OWN,
    "/meterd.v1.Accounts/Transfer": _ADMIN,
    "/meterd.v1.Accounts/ClawBack": _ADMIN,
    "/meterd.v1.Accounts/ClaimReward": _METER,
    "/meterd.v1.Accounts/SetTopUp": _ADMIN,
    "/meterd.v1.Accounts/DeleteTopUp": _ADMIN,
    "/meterd.v1.Accounts/SetLimit": _ADMIN,
    "/meterd.v1.Accounts/DeleteLimit": _ADMIN,
    "/meterd.v1.Accounts/ListLimits": _ALL,
    "/meterd.v1.Accounts/CreateToken": _ADMIN,
    "/meterd.v1.Catalog/GetCatalog": _OWN,
    "/meterd.v1.Catalog/ApplyCatalog": _ADMIN,
    "/meterd.v1.Events/CreateWebhook": _ADMIN,
    "/meterd.v1.Events/ListWebhooks": _ALL,
    "/meterd.v1.Events/DeleteWebhook": _ADMIN,
    "/meterd.v1.Events/RotateWebhookSecret": _ADMIN,
    "/meterd.v1.Events/ListEvents": _ALL,
    "/meterd.v1.Events/ReplayEvents": _ADMIN,
    "/meterd.v1.Events/SetLowBalance": _ADMIN,
    "/meterd.v1.Billing/CreateCheckoutSession": _ADMIN,
    "/meterd.v1.Billing/CreatePaymentIntent": _ADMIN,
    "/meterd.v1.Billing/CreatePortalSession": _ADMIN,
    "/meterd.v1.Billing/ListPurchases": _ALL,
    "/meterd.v1.Billing/GetPurchase": _ALL,
    "/meterd.v1.Billing/CancelPurchase": _ADMIN,
    "/meterd.v1.Billing/CancelBilling": _ADMIN,
    "/meterd.v1.Reports/Usage": _READ,
    "/meterd.v1.Reports/Revenue": _READ,
    "/meterd.v1.Reports/Burn": _READ,
    "/meterd.v1.Reports/TopAccounts": _READ,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Who calls. `expires_ms` is 0 for a key that lasts until it is revoked; `account_id` is set for a token: it may read that one."""

    tenant_id: str
    role: str
    key_id: str
    expires_ms: int
    account_id: str = ""


# What a lookup ended with: a row, nothing of that digest, or why it could not be made.
_Found = keys.KeyRow | Exception | None


def roles_of(method: str) -> frozenset[str]:
    """The roles that may call "/package.Service/Method"; LookupError if nobody decided."""
    if method not in ROLES:
        raise LookupError(f"{method}: no roles are declared for the method")
    return ROLES[method]


def check_role(principal: Principal, roles: frozenset[str]) -> None:
    """PermissionDeniedError unless the principal's role is one of them."""
    if principal.role not in roles:
        if principal.account_id:
            raise errors.PermissionDeniedError("an account's token may not call this method")
        able = " or ".join(role.value for role in Role if role.value in roles)
        raise errors.PermissionDeniedError(f"a key of role {principal.role} may not call this method; role {able} may")


def check_account(principal: Principal, request: Any) -> None:
    """PermissionDeniedError if the principal is bound to an account, and the request names another one, or none where it could."""
    if principal.account_id and getattr(request, "account_id", principal.account_id) != principal.account_id:
        raise errors.PermissionDeniedError("account_id: the token is another account's")


class Authenticator:
    """Turns a call's metadata into a principal.

    When Postgres is away, keys that are known keep working until they expire, and one that is not known is answered with
    UnavailableError. A revocation acts within `refresh_interval_s` plus one query, as long as `run` runs and Postgres answers.
    """

    def __init__(
        self,
        find: Callable[[Sequence[bytes]], Awaitable[Sequence[keys.KeyRow]]],
        *,
        clock_ms: Callable[[], int],
        refresh_interval_s: float = REFRESH_INTERVAL_S,
        tokens_: tokens.Tokens | None = None,
    ) -> None:
        """`find` answers the rows of those digests that exist, revoked and expired ones too, or raises UnavailableError.

        `tokens_` None: tokens are refused.
        """
        self._find = find
        self._clock_ms = clock_ms
        self._refresh_interval_s = refresh_interval_s
        self._tokens = tokens_
        # The headers of tokens in `_known`, oldest first, with the keys that signed them.
        self._token_headers: dict[str, str] = {}
        # By the header in its usual spelling, "Bearer mk_…".
        self._known: dict[str, Principal] = {}
        self._headers: dict[bytes, str] = {}
        # Digest to when it was refused and why, the one that was asked for longest ago first.
        self._refused: collections.OrderedDict[bytes, tuple[int, str]] = collections.OrderedDict()
        self._waiting: dict[bytes, asyncio.Future[_Found]] = {}
        self._lookups: asyncio.Task[None] | None = None
        self._is_stale = False

    @property
    def is_stale(self) -> bool:
        """Whether the last refresh failed, so that revocations do not act at present."""
        return self._is_stale

    @property
    def refused_count(self) -> int:
        """How many refused keys are remembered."""
        return len(self._refused)

    def principal(self, metadata: Iterable[tuple[str, Any]] | None) -> Principal | None:
        """The caller if its key is known and valid; None means that `authenticate` has to decide."""
        for name, value in metadata or ():
            if name == "authorization":
                principal = self._known.get(value)
                if principal is None or not principal.expires_ms or principal.expires_ms > self._clock_ms():
                    return principal
                return None
        return None

    async def authenticate(self, metadata: Iterable[tuple[str, Any]] | None) -> Principal:
        """The caller.

        UnauthenticatedError: no key, or one that is malformed, unknown, revoked or expired. UnavailableError: the key is not known here and
        Postgres is away. OverloadedError: too many unknown keys wait for Postgres.
        """
        if self._tokens is not None and (given := _account_token(metadata)):
            return self._known_token(given) or self._learn_token(given, await self._tokens.claims(given))
        token = _token(metadata)
        if (principal := self._known.get(f"Bearer {token}")) is not None:
            self._check_expiry(principal.expires_ms)
            return principal
        digest = keys.digest_of(token)
        self._check_refused(digest)
        found = await asyncio.shield(self._wait(digest))
        if isinstance(found, Exception):
            # One fault answers many callers; each raises its own, since a traceback grows with every raise.
            raise errors.UnavailableError("API keys cannot be checked at present") from found
        if found is None or found.revoked_ms:
            raise self._refuse(digest, _UNKNOWN)
        if found.expires_ms and found.expires_ms <= self._clock_ms():
            raise self._refuse(digest, _EXPIRED)
        return self._learn(token, found)

    def _known_token(self, token: str) -> Principal | None:
        principal = self._known.get(f"Bearer {token}")
        if principal is not None and principal.expires_ms <= self._clock_ms():
            raise errors.UnauthenticatedError(_EXPIRED_TOKEN)
        return principal

    def _learn_token(self, token: str, claims: tokens.Claims) -> Principal:
        header = f"Bearer {token}"
        if len(self._token_headers) >= KNOWN_TOKENS_MAX:
            self._forget_token(next(iter(self._token_headers)))
        principal = Principal(
            tenant_id=claims.tenant_id,
            role=ACCOUNT,
            key_id=claims.key_id,
            expires_ms=claims.expires_ms,
            account_id=claims.account_id,
        )
        self._known[header] = principal
        self._token_headers[header] = claims.key_id
        return principal

    def _forget_token(self, header: str) -> None:
        del self._token_headers[header]
        del self._known[header]

    async def _refresh_tokens(self, known: tokens.Tokens) -> None:
        """Reads the keys that sign, and forgets tokens that have expired or whose key is gone."""
        async with asyncio.timeout(LOOKUP_TIMEOUT_S):
            await known.refresh()
        now_ms = self._clock_ms()
        for header, key_id in list(self._token_headers.items()):
            if not known.is_live(key_id) or self._known[header].expires_ms <= now_ms:
                self._forget_token(header)

    async def run(self, stop: asyncio.Event) -> None:
        """Reads the known keys again at every interval until `stop` is set, and never fails."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_interval_s):
                    await stop.wait()
            if not stop.is_set():
                await self._try_refresh()
        if self._lookups is not None:
            self._lookups.cancel()

    async def _try_refresh(self) -> None:
        try:
            await self.refresh()
        except Exception as exc:
            if not self._is_stale:
                _LOG.warning("API keys were not read again, revocations do not act until then: %s", type(exc).__name__)
            self._is_stale = True
        else:
            if self._is_stale:
                _LOG.info("API keys are read again")
            self._is_stale = False

    async def refresh(self) -> None:
        """Reads all known keys once. What is gone, revoked or expired is refused from now on; roles and expiries follow.

        UnavailableError: Postgres is away; what it did not answer stays as it was.
        """
        digests = list(self._headers)
        for start in range(0, len(digests), REFRESH_BATCH_MAX):
            batch = digests[start : start + REFRESH_BATCH_MAX]
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                rows = {row.digest: row for row in await self._find(batch)}
            for digest in batch:
                self._renew(digest, rows.get(digest))
        if self._tokens is not None:
            await self._refresh_tokens(self._tokens)

    def _renew(self, digest: bytes, row: keys.KeyRow | None) -> None:
        header = self._headers.get(digest)
        if header is None:
            return  # It made room for another meanwhile.
        if row is None or row.revoked_ms:
            self._forget(digest)
            self._refuse(digest, _UNKNOWN)
        elif row.expires_ms and row.expires_ms <= self._clock_ms():
            self._forget(digest)
            self._refuse(digest, _EXPIRED)
        elif (principal := _principal(row)) != self._known[header]:
            self._known[header] = principal

    def _learn(self, token: str, row: keys.KeyRow) -> Principal:
        header = f"Bearer {token}"
        if header not in self._known and len(self._headers) >= KNOWN_KEYS_MAX:
            self._forget(next(iter(self._headers)))
        principal = _principal(row)
        self._known[header] = principal
        self._headers[row.digest] = header
        return principal

    def _forget(self, digest: bytes) -> None:
        del self._known[self._headers.pop(digest)]

    def _check_expiry(self, expires_ms: int) -> None:
        if expires_ms and expires_ms <= self._clock_ms():
            raise errors.UnauthenticatedError(_EXPIRED)

    def _refuse(self, digest: bytes, reason: str) -> errors.UnauthenticatedError:
        self._refused[digest] = (self._clock_ms(), reason)
        self._refused.move_to_end(digest)
        if len(self._refused) > REFUSED_KEYS_MAX:
            self._refused.popitem(last=False)
        return errors.UnauthenticatedError(reason)

    def _check_refused(self, digest: bytes) -> None:
        entry = self._refused.get(digest)
        if entry is None:
            return
        refused_ms, reason = entry
        # A clock that was set back must not prolong the refusal.
        if 0 <= self._clock_ms() - refused_ms < REFUSED_TTL_MS:
            self._refused.move_to_end(digest)
            raise errors.UnauthenticatedError(reason)
        del self._refused[digest]

    def _wait(self, digest: bytes) -> asyncio.Future[_Found]:
        """The future of the one lookup that answers all calls with this key."""
        if (future := self._waiting.get(digest)) is not None:
            return future
        if len(self._waiting) >= LOOKUPS_WAITING_MAX:
            raise errors.OverloadedError("too many unknown API keys; retry later")
        future = asyncio.get_running_loop().create_future()
        self._waiting[digest] = future
        if self._lookups is None or self._lookups.done():
            self._lookups = asyncio.create_task(self._look_up(), name="meterd-api-keys")
        return future

    async def _look_up(self) -> None:
        batch: list[bytes] = []
        try:
            while self._waiting:
                batch = list(self._waiting)[:LOOKUP_BATCH_MAX]
                self._settle(batch, await self._rows(batch))
                # Callers are answered; those who come meanwhile share the next query.
                await asyncio.sleep(LOOKUP_INTERVAL_S)
        finally:
            # Cancelled: nobody may wait for ever.
            self._settle(list(self._waiting), errors.UnavailableError("the server is stopping"))

    async def _rows(self, batch: Sequence[bytes]) -> Mapping[bytes, keys.KeyRow] | Exception:
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                return {row.digest: row for row in await self._find(batch)}
        except Exception as exc:
            return exc

    def _settle(self, batch: Sequence[bytes], rows: Mapping[bytes, keys.KeyRow] | Exception) -> None:
        for digest in batch:
            future = self._waiting.pop(digest)
            # A fault is a result here: a future whose exception no caller waits for any more would be logged.
            future.set_result(rows if isinstance(rows, Exception) else rows.get(digest))


def _account_token(metadata: Iterable[tuple[str, Any]] | None) -> str:
    """The token that the first authorization header carries, "" if it carries something else."""
    for name, value in metadata or ():
        if name == "authorization":
            if not isinstance(value, str) or len(value) > TOKEN_HEADER_CHARS_MAX:
                return ""
            match = _TOKEN.match(value)
            return match[1] if match else ""
    return ""


def _token(metadata: Iterable[tuple[str, Any]] | None) -> str:
    """The key that the first authorization header carries, which is the one that counts."""
    for name, value in metadata or ():
        if name == "authorization":
            if not isinstance(value, str) or len(value) > HEADER_CHARS_MAX:
                raise errors.UnauthenticatedError(_MALFORMED)
            if (match := _HEADER.match(value)) is None:
                raise errors.UnauthenticatedError(_MALFORMED)
            return match[1]
    raise errors.UnauthenticatedError(_NO_KEY)


def _principal(row: keys.KeyRow) -> Principal:
    return Principal(tenant_id=row.tenant_id, role=row.role, key_id=row.key_id, expires_ms=row.expires_ms)
