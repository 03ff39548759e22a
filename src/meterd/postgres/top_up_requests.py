"""Requests of top-ups that the Stripe process takes up, each once, and what became of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import asyncpg

from meterd.core import top_ups
from meterd.postgres import events, orders, pool, sql

_SQL = sql.read("top_up_requests")

DONE, FAILED = "done", "failed"
ERROR_CHARS_MAX = 500
# Prefix of the idempotency keys of their orders.
KEY = "topup:"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request that is to be tried; `attempts` counts this one."""

    request_id: str
    account_no: int
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
    connections: asyncpg.Pool, tenant_id: str, request: Request, *, error: str, order: orders.Order | None, now_ms: int
) -> None:
    """Notes how it ended, for ever; with an error it has failed, and topup.failed tells so. A repeat changes and tells nothing."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        await connection.execute(
            _SQL["finish"],
            tenant_id,
            request.request_id,
            FAILED if error else DONE,
            error[:ERROR_CHARS_MAX],
            order.order_id if order is not None else None,
            now_ms,
        )
        if error:
            draft = top_ups.failure(
                tenant_id=tenant_id,
                account_no=request.account_no,
                account_id=request.account_id,
                request_id=request.request_id,
                package_id=request.package_id,
                purchase_id=str(order.order_id) if order is not None else "",
                error=error[:ERROR_CHARS_MAX],
                code=order.failure if order is not None and order.stripe_payment_intent else "",
                at_ms=now_ms,
            )
            await events.add(connection, [draft], now_ms)


async def tell_unpaid(connection: Any, order: orders.Order, *, state: str, code: str, now_ms: int) -> None:
    """Tells that the payment of a top-up failed after it was begun, in the caller's transaction. A repeat tells nothing."""
    if order.channel != orders.TOP_UP:
        return
    row = await connection.fetchrow(_SQL["request_of"], order.tenant_id, order.order_id, KEY)
    if row is None:
        return
    draft = top_ups.failure(
        tenant_id=order.tenant_id,
        account_no=row["account_no"],
        account_id=order.account_id,
        request_id=row["request_id"],
        package_id=row["package_id"],
        purchase_id=str(order.order_id),
        error=f"the purchase is {state}{': ' if code else ''}{code}",
        code=code,
        at_ms=now_ms,
    )
    await events.add(connection, [draft], now_ms)


async def retry(connections: asyncpg.Pool, tenant_id: str, request_id: str, *, error: str, next_ms: int) -> None:
    """Notes why it is to be tried again, and when."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        await connection.execute(_SQL["retry"], tenant_id, request_id, error[:ERROR_CHARS_MAX], next_ms)
