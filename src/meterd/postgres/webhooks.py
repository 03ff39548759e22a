"""Endpoints of webhooks and their deliveries, as Postgres keeps them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from meterd.core import errors, ids
from meterd.postgres import pool, sql

_SQL = sql.read("webhooks")

# Each event is a row for each endpoint.
ENDPOINTS_PER_TENANT_MAX = 16
# Receivers have a day to learn the new secret.
ROTATION_MS = 24 * 3600 * 1000
# One statement; some tens of thousands of rows are written in about a second.
REPLAY_MAX = 10_000
ERROR_CHARS_MAX = 300


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NewEndpoint:
    """An endpoint as the caller asks for it; no types are all."""

    tenant_id: str
    idempotency_key: str
    url: str
    types: Sequence[str]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """An endpoint without its secrets. Times in ms, 0: not (any more)."""

    endpoint_id: uuid.UUID
    url: str
    types: Sequence[str]
    created_ms: int
    disabled_ms: int
    old_secret_ms: int
    waiting_count: int
    dead_count: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A delivery that this server has claimed: what to send, and where. `attempts` counts this one."""

    event_id: uuid.UUID
    endpoint_id: uuid.UUID
    tenant_id: str
    attempts: int
    queued_ms: int
    url: str
    secrets: Sequence[bytes] = dataclasses.field(repr=False)
    type: str
    payload: Any
    at_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of an attempt. One of the times (ms) is not 0. `status` 0: no answer."""

    next_ms: int = 0
    delivered_ms: int = 0
    dead_ms: int = 0
    status: int
    error: str


async def create(connections: asyncpg.Pool, new: NewEndpoint, secret: bytes, now_ms: int) -> tuple[Endpoint, bool]:
    """The endpoint, and whether it was there already (then with the secret that it had).

    AlreadyExistsError: the key was used for another one. FailedPreconditionError: the tenant has as many as it may.
    """
    digest = hashlib.blake2b(json.dumps([new.url, sorted(new.types)]).encode(), digest_size=16).digest()
    async with pool.as_tenant(connections, new.tenant_id) as connection:
        await connection.execute(_SQL["lock_endpoints"], new.tenant_id)
        row = await connection.fetchrow(_SQL["endpoint_of_key"], new.tenant_id, new.idempotency_key)
        if row is not None:
            if row["request_digest"] != digest or row["deleted"]:
                raise errors.AlreadyExistsError("idempotency_key: used before for another webhook")
            return await _endpoint(connection, new.tenant_id, row["endpoint_id"], now_ms), True
        if await connection.fetchval(_SQL["count_endpoints"], new.tenant_id) >= ENDPOINTS_PER_TENANT_MAX:
            raise errors.FailedPreconditionError(
                f"the tenant has {ENDPOINTS_PER_TENANT_MAX} webhooks, and may not have more"
            )
        made = await connection.fetchval(
            _SQL["insert_endpoint"],
            new.tenant_id,
            ids.uuid7(now_ms),
            new.idempotency_key,
            digest,
            new.url,
            sorted(new.types),
            secret,
            now_ms,
        )
        return await _endpoint(connection, new.tenant_id, made, now_ms), False


async def _endpoint(connection: Any, tenant_id: str, endpoint_id: uuid.UUID, now_ms: int) -> Endpoint:
    rows = await connection.fetch(_SQL["list_endpoints"], tenant_id, endpoint_id, now_ms)
    if not rows:
        raise errors.NotFoundError("webhook_id: no such webhook")
    return _from_row(rows[0])


def _from_row(row: Any) -> Endpoint:
    return Endpoint(
        endpoint_id=row["endpoint_id"],
        url=row["url"],
        types=row["types"],
        created_ms=row["created_ms"],
        disabled_ms=row["disabled_ms"] or 0,
        old_secret_ms=row["old_secret_ms"] or 0,
        waiting_count=row["waiting_count"],
        dead_count=row["dead_count"],
    )


async def listed(connections: asyncpg.Pool, tenant_id: str, now_ms: int) -> list[Endpoint]:
    """The tenant's endpoints but deleted ones, oldest first."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        return [_from_row(row) for row in await connection.fetch(_SQL["list_endpoints"], tenant_id, None, now_ms)]


async def delete(connections: asyncpg.Pool, tenant_id: str, endpoint_id: uuid.UUID, now_ms: int) -> None:
    """Ends the endpoint and gives up what waits for it. A repeat changes nothing. NotFoundError: no such endpoint."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        if await connection.fetchval(_SQL["delete_endpoint"], tenant_id, endpoint_id, now_ms) is None:
            raise errors.NotFoundError("webhook_id: no such webhook")
        await connection.execute(_SQL["drop_deliveries"], tenant_id, endpoint_id, now_ms, "the webhook was deleted")


async def rotate(
    connections: asyncpg.Pool, tenant_id: str, endpoint_id: uuid.UUID, secret: bytes, now_ms: int, *, force: bool
) -> Endpoint:
    """Puts `secret` in force; the one before signs too for ROTATION_MS, unless `force` ends it at once.

    FailedPreconditionError: a rotation is under way already. NotFoundError: no such endpoint.
    """
    async with pool.as_tenant(connections, tenant_id) as connection:
        done = await connection.fetchval(_SQL["rotate"], tenant_id, endpoint_id, secret, now_ms, force, ROTATION_MS)
        found = await _endpoint(connection, tenant_id, endpoint_id, now_ms)
        if done is None:
            raise errors.FailedPreconditionError(
                "the secret was rotated less than a day ago: receivers may know the one before only; force ends it at once"
            )
        return found


async def replay(
    connections: asyncpg.Pool,
    tenant_id: str,
    endpoint_id: uuid.UUID,
    *,
    since_ms: int,
    until_ms: int,
    event_ids: Sequence[uuid.UUID],
    include_delivered: bool,
    after: uuid.UUID,
    now_ms: int,
) -> tuple[int, uuid.UUID | None]:
    """Queues deliveries of events behind `after` anew; answers how many, and the last of them if it was the limit that ended it.

    NotFoundError: no such endpoint.
    FailedPreconditionError: the endpoint is disabled.
    """
    async with pool.as_tenant(connections, tenant_id) as connection:
        if (await _endpoint(connection, tenant_id, endpoint_id, now_ms)).disabled_ms:
            raise errors.FailedPreconditionError("webhook_id: the webhook answered 410 Gone; create another one")
        row = await connection.fetchrow(
            _SQL["replay"],
            tenant_id,
            endpoint_id,
            since_ms,
            until_ms,
            list(event_ids),
            include_delivered,
            after,
            now_ms,
            REPLAY_MAX,
        )
        return row["queued"], row["last_id"] if row["queued"] == REPLAY_MAX else None


async def claim(
    connections: asyncpg.Pool,
    now_ms: int,
    *,
    lease_ms: int,
    room: int,
    rooms: Mapping[uuid.UUID, int],
    count_max: int,
) -> list[Attempt]:
    """Deliveries that are due, at most `room` an endpoint (or what `rooms` says) and `count_max` in all.

    Each is this server's for `lease_ms`; whoever does not `settle` by then has lost it.
    """
    async with connections.acquire(timeout=pool.CONNECT_TIMEOUT_S) as connection:
        rows = await connection.fetch(
            _SQL["claim"], now_ms, lease_ms, room, list(rooms), list(rooms.values()), count_max
        )
    return [
        Attempt(
            event_id=row["event_id"],
            endpoint_id=row["endpoint_id"],
            tenant_id=row["tenant_id"],
            attempts=row["attempts"],
            queued_ms=row["queued_ms"],
            url=row["url"],
            secrets=[secret for secret in (row["secret"], row["old_secret"]) if secret],
            type=row["type"],
            payload=row["payload"],
            at_ms=row["at_ms"],
        )
        for row in rows
    ]


async def settle(connections: asyncpg.Pool, attempt: Attempt, result: Result) -> None:
    """Writes what became of an attempt, unless another server has taken it over meanwhile."""
    async with connections.acquire(timeout=pool.CONNECT_TIMEOUT_S) as connection:
        await connection.execute(
            _SQL["settle"],
            attempt.event_id,
            attempt.endpoint_id,
            attempt.attempts,
            result.next_ms or None,
            result.delivered_ms or None,
            result.dead_ms or None,
            result.status,
            result.error.replace("\0", "?")[:ERROR_CHARS_MAX],
        )


async def disable(connections: asyncpg.Pool, tenant_id: str, endpoint_id: uuid.UUID, now_ms: int) -> None:
    """Delivers nothing to the endpoint any more, and gives up what waits. A repeat changes nothing."""
    async with (
        connections.acquire(timeout=pool.CONNECT_TIMEOUT_S) as connection,
        connection.transaction(isolation="read_committed"),
    ):
        await connection.execute(_SQL["disable"], endpoint_id, now_ms)
        await connection.execute(_SQL["drop_deliveries"], tenant_id, endpoint_id, now_ms, "the webhook is gone (410)")
