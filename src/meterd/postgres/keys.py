"""API keys: made here once, kept as digests, found by digest.

A key is 256 random bits, so one round of SHA-256 protects it: there is nothing to guess, and a slow hash would only serve floods.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import asyncpg

from meterd.core import errors, ids
from meterd.postgres import pool, sql

_SQL = sql.read("keys")

ROLES = ("meter", "read", "admin")
PREFIX = "mk_"
SECRET_BYTES = 32
# One that is in use and one that replaces it.
LIVE_KEYS_PER_NAME_MAX = 2
NAME_BYTES_MAX = 128
# Ten years. Whoever wants longer wants a key without expiry.
TTL_MAX_S = 10 * 366 * 24 * 3600


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class KeyRow:
    """What is kept of a key. `expires_ms` and `revoked_ms` are 0 where it does not expire and is not revoked."""

    tenant_id: str
    key_id: str
    role: str
    digest: bytes
    name: str
    created_ms: int
    expires_ms: int
    revoked_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CreatedKey:
    """A new key. `key` is its text, which exists here and nowhere else; it is kept out of repr."""

    key: str = dataclasses.field(repr=False)
    row: KeyRow


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def digest_of(key: str) -> bytes:
    """What is kept of a key's text."""
    return hashlib.sha256(key.encode()).digest()


@contextlib.contextmanager
def mapped() -> Generator[None]:
    """Makes UnavailableError of Postgres' faults, and ConfigError or FailedPreconditionError of what an operator has to change."""
    try:
        yield
    except asyncpg.UndefinedTableError as exc:
        raise errors.FailedPreconditionError("the database has no tables: run `meterd migrate`") from exc
    except asyncpg.ClientConfigurationError as exc:
        raise errors.ConfigError(f"Postgres: {exc}") from exc
    except (asyncpg.PostgresError, *pool.AWAY) as exc:
        raise errors.UnavailableError(f"Postgres: {exc or type(exc).__name__}") from exc


class Keys:
    """The API keys of all tenants. UnavailableError from any method: Postgres is away; a creation may have happened."""

    def __init__(self, connections: asyncpg.Pool, *, clock_ms: Callable[[], int] = _now_ms) -> None:
        self._pool = connections
        self._clock_ms = clock_ms

    async def create(self, tenant_id: str, role: str, *, name: str = "", ttl_s: int | None = None) -> CreatedKey:
        """A new key; a tenant that is not there yet is created. `ttl_s` None: it lasts until it is revoked.

        Each call makes another key. FailedPreconditionError: two keys of this tenant, role and name live already.
        """
        ids.checked_id(tenant_id, "tenant_id")
        ids.checked_text(name, "name", NAME_BYTES_MAX)
        if role not in ROLES:
            raise errors.InvalidArgumentError("role", f"must be one of {', '.join(ROLES)}")
        if ttl_s is not None and not 0 < ttl_s <= TTL_MAX_S:
            raise errors.InvalidArgumentError("ttl_s", f"must be 1 to {TTL_MAX_S} seconds")
        now_ms = self._clock_ms()
        key = PREFIX + base64.urlsafe_b64encode(os.urandom(SECRET_BYTES)).decode().rstrip("=")
        row = KeyRow(
            tenant_id=tenant_id,
            key_id=str(ids.uuid7(now_ms)),
            role=role,
            digest=digest_of(key),
            name=name,
            created_ms=now_ms,
            expires_ms=0 if ttl_s is None else now_ms + ttl_s * 1000,
            revoked_ms=0,
        )
        with mapped():
            await self._insert(row)
        return CreatedKey(key=key, row=row)

    async def _insert(self, row: KeyRow) -> None:
        async with pool.as_tenant(self._pool, row.tenant_id) as connection:
            await connection.execute(_SQL["insert_tenant"], row.tenant_id)
            await connection.execute(_SQL["lock_tenant"], row.tenant_id)
            live = await connection.fetch(_SQL["live_keys"], row.tenant_id, row.role, row.name, row.created_ms)
            if len(live) >= LIVE_KEYS_PER_NAME_MAX:
                raise errors.FailedPreconditionError(
                    f"name: {len(live)} live keys have this tenant, role and name; revoke one first, the oldest is {live[0]['key_id']}"
                )
            await connection.execute(
                _SQL["insert_key"],
                row.tenant_id,
                row.key_id,
                row.role,
                row.digest,
                row.name,
                row.created_ms,
                row.expires_ms,
            )

    async def list(self, tenant_id: str | None = None) -> Sequence[KeyRow]:
        """All keys, or those of one tenant, revoked and expired ones too, oldest first within a tenant."""
        if tenant_id is not None:
            ids.checked_id(tenant_id, "tenant_id")
        with mapped():
            if tenant_id is None:
                rows = await self._pool.fetch(_SQL["keys"])
            else:
                rows = await self._pool.fetch(_SQL["keys_of"], tenant_id)
        return [_row(row) for row in rows]

    async def revoke(self, tenant_id: str, key_id: str) -> KeyRow:
        """The key, revoked; servers refuse it within 30 s. A repeat changes nothing. NotFoundError if the tenant has no such key."""
        ids.checked_id(tenant_id, "tenant_id")
        ids.checked_id(key_id, "key_id")
        with mapped():
            async with pool.as_tenant(self._pool, tenant_id) as connection:
                row = await connection.fetchrow(_SQL["revoke_key"], tenant_id, key_id, self._clock_ms())
        if row is None:
            raise errors.NotFoundError("key_id: no such key")
        return _row(row)

    async def find(self, digests: Sequence[bytes]) -> Sequence[KeyRow]:
        """The keys of these digests in one query, in any order, revoked and expired ones too; what does not exist is left out."""
        with mapped():
            rows = await self._pool.fetch(_SQL["keys_by_digest"], digests)
        return [_row(row) for row in rows]


def _row(row: Any) -> KeyRow:
    return KeyRow(
        tenant_id=row["tenant_id"],
        key_id=row["key_id"],
        role=row["role"],
        digest=row["digest"],
        name=row["name"],
        created_ms=row["created_ms"],
        expires_ms=row["expires_ms"],
        revoked_ms=row["revoked_ms"],
    )
