"""Requests of top-ups that the Stripe process takes up, each once, and what became of them."""

from __future__ import annotations

import dataclasses
import uuid

import asyncpg

from meterd.postgres import pool, sql

_SQL = sql.read("top_up_requests")

DONE, FAILED = "done", "failed"
ERROR_CHARS_MAX = 500


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request that is to be tried; `attempts` counts this one."""

    request_id: str
    account_id: str
    package_id: str
    attempts: int
    requested_ms: int


async def switch(connections: asyncpg.Pool, tenant_id: str, *, is_on: bool, now_ms: int) -> None:
    """From now on requests are taken up, or left to others. What was asked for before it was switched on is never taken up."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        if is_on:
            await connection.execute(_SQL["enable"], tenant_id, now_ms)
        else:
            await connection.execute(_SQL["disable"], tenant_id)


async def claim(
    connections: asyncpg.Pool, tenant_id: str, *, now_ms: int, since_ms: int, until_ms: int, count_max: int
) -> list[Request]:
    """Requests to be tried now, the new ones since `since_ms` among them. Nobody else is given them before `until_ms`."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        await connection.execute(_SQL["take_up"], tenant_id, now_ms, since_ms)
        rows = await connection.fetch(_SQL["claim"], tenant_id, now_ms, until_ms, count_max)
    return sorted((Request(**row) for row in rows), key=lambda one: (one.requested_ms, one.request_id))


async def finish(
    connections: asyncpg.Pool,
    tenant_id: str,
    request_id: str,
    state: str,
    *,
    error: str,
    order_id: uuid.UUID | None,
    now_ms: int,
) -> None:
    """Notes how it ended, for ever."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        await connection.execute(
            _SQL["finish"], tenant_id, request_id, state, error[:ERROR_CHARS_MAX], order_id, now_ms
        )


async def retry(connections: asyncpg.Pool, tenant_id: str, request_id: str, *, error: str, next_ms: int) -> None:
    """Notes why it is to be tried again, and when."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        await connection.execute(_SQL["retry"], tenant_id, request_id, error[:ERROR_CHARS_MAX], next_ms)
