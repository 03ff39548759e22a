"""What Stripe has told, in Postgres: the inbox, what is known of its objects, and what was done about it.

Functions that take a connection run in the caller's transaction, which sees its tenant. Errors of Postgres pass through.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from meterd.core import catalog as offers
from meterd.core import errors
from meterd.postgres import catalogs, pool, sql

_SQL = sql.read("stripe")

PENDING, DONE, DEAD = "pending", "done", "dead"
STATES = (PENDING, DONE, DEAD)
# The end of time for listings.
LATEST_MS = 253_402_300_799_000
ERROR_CHARS_MAX = 500
EFFECT_CHARS_MAX = 2000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """An event that was verified. `payload` is the body as it was signed."""

    event_id: str
    type: str
    account: str
    livemode: bool
    created_ms: int
    object_id: str
    payload: bytes


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An event's row in the log. Times in ms, 0: not (yet)."""

    event_id: str
    type: str
    state: str
    attempts: int
    deliveries: int
    error: str
    effect: str
    object_id: str
    created_ms: int
    received_ms: int
    ended_ms: int
    next_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Backlog:
    """`oldest_ms` is when the oldest pending event came, 0 if there is none."""

    pending: int
    dead: int
    oldest_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """One step that was taken for an object. Amounts: micro-credits, minor units for money."""

    object: str
    part: str
    step: int
    kind: str
    wallet: str
    amount: int
    done_id: uuid.UUID | None


async def bind(connections: asyncpg.Pool, tenant_id: str, *, livemode: bool, account: str) -> None:
    """Ties the tenant to a mode and an account of Stripe for ever. ConfigError: there is no such tenant, or it is tied to another one."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        if not await connection.fetchval(_SQL["tenant"], tenant_id):
            raise errors.ConfigError(f"METERD_STRIPE_TENANT: there is no tenant {tenant_id}")
        await connection.execute(_SQL["bind"], tenant_id, livemode, account)
        if account:
            await connection.execute(_SQL["name_account"], tenant_id, account)
        row = await connection.fetchrow(_SQL["binding"], tenant_id)
    if row["livemode"] != livemode:
        mode = "live" if row["livemode"] else "test"
        raise errors.ConfigError(f"METERD_STRIPE_LIVEMODE: tenant {tenant_id} is of Stripe's {mode} mode, for ever")
    if row["stripe_account"] != account:
        raise errors.ConfigError(f"METERD_STRIPE_ACCOUNT: tenant {tenant_id} is of another account of Stripe's")


async def store(connections: asyncpg.Pool, tenant_id: str, new: Received, *, now_ms: int, retry_ms: int) -> str:
    """Keeps the event for good, or counts a repeat; answers its state. If nobody does, it is taken up by itself at `retry_ms`."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        return await connection.fetchval(
            _SQL["store"],
            tenant_id,
            new.event_id,
            new.type,
            new.account,
            new.livemode,
            new.created_ms,
            new.object_id,
            new.payload,
            now_ms,
            retry_ms,
        )


async def lock(connection: Any, tenant_id: str) -> None:
    """Waits until the transaction is the only one of the tenant's that makes effects."""
    await connection.execute(_SQL["lock"], tenant_id)


async def take(connection: Any, tenant_id: str, event_id: str) -> Any:
    """The event's row (event_id, state, payload, attempts), locked; None if it was never stored."""
    return await connection.fetchrow(_SQL["take"], tenant_id, event_id)


async def finish(connection: Any, tenant_id: str, event_id: str, effect: str, now_ms: int) -> None:
    """Marks the event as done, in the transaction of its effect."""
    await connection.execute(_SQL["finish"], tenant_id, event_id, effect[:EFFECT_CHARS_MAX], now_ms)


async def fail(
    connection: Any, tenant_id: str, event_id: str, error: str, *, attempts_max: int, next_ms: int, now_ms: int
) -> str:
    """Counts a failed attempt; answers the event's state, "" if it was not pending any more."""
    row = await connection.fetchrow(
        _SQL["fail"], tenant_id, event_id, error[:ERROR_CHARS_MAX], attempts_max, next_ms, now_ms
    )
    return row["state"] if row is not None else ""


async def due(connections: asyncpg.Pool, tenant_id: str, now_ms: int, *, count_max: int) -> list[tuple[str, int]]:
    """Ids of events that wait for another attempt, with how many they had."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        rows = await connection.fetch(_SQL["due"], tenant_id, now_ms, count_max)
    return [(row["event_id"], row["attempts"]) for row in rows]


async def reopen(
    connections: asyncpg.Pool,
    tenant_id: str,
    *,
    event_id: str = "",
    since_ms: int = 0,
    until_ms: int = LATEST_MS,
    states: Sequence[str] = STATES,
    now_ms: int,
) -> int:
    """Makes events pending again; answers how many."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        status: str = await connection.execute(
            _SQL["reopen"], tenant_id, event_id, since_ms, until_ms, list(states), now_ms
        )
    return int(status.rpartition(" ")[2])


async def listed(
    connections: asyncpg.Pool,
    tenant_id: str,
    *,
    state: str = "",
    about: str = "",
    before: tuple[int, str] = (LATEST_MS, ""),
    count_max: int,
) -> list[Entry]:
    """Events, the last received first; `about` is an event's id or an object's."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        rows = await connection.fetch(_SQL["listed"], tenant_id, state, about, *before, count_max)
    return [Entry(**row) for row in rows]


async def backlog(connections: asyncpg.Pool, tenant_id: str) -> Backlog:
    """How many events wait, or are dead."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        return Backlog(**await connection.fetchrow(_SQL["backlog"], tenant_id))


async def known(connection: Any, tenant_id: str, kind: str, object_id: str) -> Any:
    """What is known of an object, as a row; None if nothing is."""
    return await connection.fetchrow(_SQL["object"], tenant_id, kind, object_id)


async def keep(
    connection: Any,
    tenant_id: str,
    *,
    kind: str,
    object_id: str,
    payment: str,
    subscription: str,
    invoice: str,
    customer: str,
    state: Mapping[str, Any],
) -> None:
    """Writes what is known of an object now."""
    await connection.execute(
        _SQL["keep_object"], tenant_id, kind, object_id, payment, subscription, invoice, customer, dict(state)
    )


async def of_payment(connection: Any, tenant_id: str, payment: str) -> list[Any]:
    """All objects of a payment."""
    return await connection.fetch(_SQL["of_payment"], tenant_id, payment)


async def of_subscription(connection: Any, tenant_id: str, subscription: str) -> list[Any]:
    """All objects of a subscription, its invoices and their payments."""
    return await connection.fetch(_SQL["of_subscription"], tenant_id, subscription)


async def subscription_of(connection: Any, tenant_id: str, invoice: str) -> str:
    """The subscription that an invoice is of; "" if that is not known."""
    return await connection.fetchval(_SQL["subscription_of_invoice"], tenant_id, invoice) or ""


async def payment_of(connection: Any, tenant_id: str, charge: str) -> str:
    """The payment that a charge is of; the charge's own id if that is not known."""
    return await connection.fetchval(_SQL["payment_of_charge"], tenant_id, charge) or charge


async def account_of(connection: Any, tenant_id: str, customer: str) -> str:
    """The id of the customer's account, "" if it is not known."""
    return await connection.fetchval(_SQL["account_of_customer"], tenant_id, customer) or ""


async def keep_customer(connection: Any, tenant_id: str, customer: str, account_id: str) -> bool:
    """Notes whose customer it is; False if that was known, or there is no such account."""
    status: str = await connection.execute(_SQL["keep_customer"], tenant_id, customer, account_id)
    return status.endswith(" 1")


async def groups_of(connection: Any, tenant_id: str, customer: str) -> list[tuple[str, str]]:
    """The payments and subscriptions of a customer's objects, "" where there is none."""
    rows = await connection.fetch(_SQL["groups_of_customer"], tenant_id, customer)
    return [(row["payment"], row["subscription"]) for row in rows]


async def delete_customer(connection: Any, tenant_id: str, customer: str) -> None:
    """Notes that Stripe has the customer no more."""
    await connection.execute(_SQL["delete_customer"], tenant_id, customer)


async def live_others(connection: Any, tenant_id: str, account_no: int, subscription: str) -> list[str]:
    """The account's other subscriptions at Stripe that are live, the latest first."""
    rows = await connection.fetch(_SQL["live_others"], tenant_id, account_no, subscription)
    return [row["object_id"] for row in rows]


async def effects(connection: Any, tenant_id: str, objects: Sequence[str]) -> list[Effect]:
    """What was done for these objects, in the order in which it was done for each part."""
    rows = await connection.fetch(_SQL["effects_of"], tenant_id, list(objects))
    return [Effect(**row) for row in rows]


async def add_effect(
    connection: Any, tenant_id: str, made: Effect, *, account_no: int, event_id: str, now_ms: int
) -> None:
    """Notes a step."""
    await connection.execute(
        _SQL["add_effect"],
        tenant_id,
        made.object,
        made.part,
        made.step,
        account_no,
        made.kind,
        made.wallet,
        made.amount,
        made.done_id,
        event_id,
        now_ms,
    )


async def open_freezes(connection: Any, account_no: int) -> int:
    """How many disputes keep the account frozen."""
    return await connection.fetchval(_SQL["open_freezes"], account_no)


async def catalog_with(connection: Any, tenant_id: str, price: str) -> offers.Catalog:
    """The newest catalog that sells at a price of Stripe's, in force or not; an empty one if none ever did."""
    row = await connection.fetchrow(_SQL["catalog_with"], tenant_id, price)
    return catalogs.applied(row).catalog if row is not None else offers.EMPTY


async def latest_catalog(connection: Any, tenant_id: str) -> offers.Catalog:
    """The catalog in force; an empty one if there is none."""
    row = await connection.fetchrow(_SQL["latest_catalog"], tenant_id)
    return catalogs.applied(row).catalog if row is not None else offers.EMPTY


async def set_due(connection: Any, tenant_id: str, subscription: str, due_ms: int) -> None:
    """When there is something to do for the subscription, whatever comes; 0: nothing."""
    if due_ms:
        await connection.execute(_SQL["set_due"], tenant_id, subscription, due_ms)
    else:
        await connection.execute(_SQL["clear_due"], tenant_id, subscription)


async def due_subscriptions(connections: asyncpg.Pool, tenant_id: str, now_ms: int, *, count_max: int) -> list[str]:
    """Ids of subscriptions with something to do."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        rows = await connection.fetch(_SQL["due_subscriptions"], tenant_id, now_ms, count_max)
    return [row["subscription"] for row in rows]
