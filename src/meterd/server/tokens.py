"""Tokens of accounts: Ed25519 JWTs that let a browser read one account for a short time, signed and checked without a query.

The keys are in Postgres, read at the start, at every refresh of API keys, and when a token names one that is not known here.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519
from google.protobuf.timestamp_pb2 import Timestamp

from meterd.core import errors, ids
from meterd.postgres import token_keys
from meterd_client.v1 import accounts_pb2, tokens_pb2

ISSUER = "meterd"
ALGORITHM = "EdDSA"
TTL_DEFAULT_MS = 15 * 60 * 1000
# Below it, a token would expire on its way.
TTL_MIN_MS = 1_000
TTL_MAX_MS = token_keys.TTL_MAX_MS
# A flood of tokens that name made-up keys reads Postgres this often.
READ_INTERVAL_S = 1.0
READ_TIMEOUT_S = 5.0

_INVALID = "invalid, expired or revoked token"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    """What a token says, once its signature was checked."""

    tenant_id: str
    account_id: str
    key_id: str
    expires_ms: int


class Tokens:
    """Makes and checks tokens. `exists` answers if the account is there, and raises NotFoundError otherwise."""

    def __init__(
        self,
        stored: token_keys.TokenKeys,
        *,
        exists: Callable[[str, accounts_pb2.GetAccountRequest], Awaitable[Any]],
        clock_ms: Callable[[], int],
    ) -> None:
        self._stored = stored
        self._exists = exists
        self._clock_ms = clock_ms
        self._verifying: dict[str, ed25519.Ed25519PublicKey] = {}
        self._signing: tuple[str, ed25519.Ed25519PrivateKey] | None = None
        self._reading: asyncio.Task[Exception | None] | None = None
        self._read_s = 0.0

    def is_live(self, key_id: str) -> bool:
        """Whether tokens of this key are good, as far as was read."""
        return key_id in self._verifying

    async def create_token(
        self, tenant_id: str, request: tokens_pb2.CreateTokenRequest
    ) -> tokens_pb2.CreateTokenResponse:
        """See Accounts.CreateToken in accounts.proto."""
        account_id = ids.checked_id(request.account_id, "account_id")
        ttl_ms = request.ttl_ms or TTL_DEFAULT_MS
        if not TTL_MIN_MS <= ttl_ms <= TTL_MAX_MS:
            raise errors.InvalidArgumentError("ttl_ms", f"must be 0, or {TTL_MIN_MS} to {TTL_MAX_MS}")
        await self._exists(tenant_id, accounts_pb2.GetAccountRequest(account_id=account_id))
        if self._signing is None:
            self._use(await self._stored.create())
        assert self._signing is not None
        key_id, key = self._signing
        now_ms = self._clock_ms()
        expires_s = -(-(now_ms + ttl_ms) // 1000)
        claims = {"iss": ISSUER, "tid": tenant_id, "sub": account_id, "iat": now_ms // 1000, "exp": expires_s}
        token = jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": key_id})
        return tokens_pb2.CreateTokenResponse(token=token, expires_at=Timestamp(seconds=expires_s))

    async def claims(self, token: str) -> Claims:
        """What a token says.

        UnauthenticatedError: it is none of ours, or expired. UnavailableError: its key is not known here, and Postgres is away.
        """
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        # JSON that is nested too deeply is a RecursionError.
        except (jwt.InvalidTokenError, ValueError, RecursionError) as exc:
            raise errors.UnauthenticatedError(_INVALID) from exc
        if not isinstance(key_id, str):
            raise errors.UnauthenticatedError(_INVALID)
        if key_id not in self._verifying:
            await self._read_again()
        key = self._verifying.get(key_id)
        if key is None:
            raise errors.UnauthenticatedError(_INVALID)
        return self._checked(token, key_id, key)

    def _checked(self, token: str, key_id: str, key: ed25519.Ed25519PublicKey) -> Claims:
        try:
            # The expiry is compared with the server's one clock below.
            found = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                options={"require": ["exp", "sub", "tid"], "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError as exc:
            raise errors.UnauthenticatedError(_INVALID) from exc
        claims = Claims(
            tenant_id=str(found["tid"]),
            account_id=str(found["sub"]),
            key_id=key_id,
            expires_ms=int(found["exp"]) * 1000,
        )
        if claims.expires_ms <= self._clock_ms() or not claims.account_id:
            raise errors.UnauthenticatedError(_INVALID)
        return claims

    async def _read_again(self) -> None:
        """One read for all who ask meanwhile, and not before its time."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name="meterd-token-keys")
        fault = await asyncio.shield(self._reading)
        if fault is not None:
            raise errors.UnavailableError("tokens cannot be checked at present") from fault

    async def _read(self) -> Exception | None:
        """What kept it from reading: a value, so that each caller raises an error of its own."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._read_s + READ_INTERVAL_S - loop.time())
        self._read_s = loop.time()
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                await self.refresh()
        except Exception as exc:
            return exc
        return None

    async def refresh(self) -> None:
        """Reads the keys. UnavailableError: Postgres is away; those that are known stay."""
        self._use(await self._stored.live())

    def _use(self, found: Sequence[token_keys.TokenKey]) -> None:
        private = {key.key_id: ed25519.Ed25519PrivateKey.from_private_bytes(key.secret) for key in found}
        self._verifying = {key_id: key.public_key() for key_id, key in private.items()}
        signing = [key.key_id for key in found if not key.verifies_until_ms]
        self._signing = (signing[0], private[signing[0]]) if signing else None
