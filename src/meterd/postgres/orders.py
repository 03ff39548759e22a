"""Orders: what was asked to be sold through Stripe, what became of it, and whose customer is whose account.

An order is written before Stripe hears of it, and carries all that a repeat has to say again in the same words. The money that it brings is
a row of postgres.purchases, which an order names as its payment.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import asyncpg

from meterd.core import errors
from meterd.postgres import pool, sql

_SQL = sql.read("orders")

PACKAGE, SUBSCRIPTION = "package", "subscription"
CHECKOUT, PAYMENT_INTENT, TOP_UP = "checkout", "payment_intent", "top_up"
PENDING, FAILED, CANCELLED, COMPLETED, REFUNDED = "pending", "failed", "cancelled", "completed", "refunded"
# The order in which states may follow each other; an order never goes back.
STATES = (PENDING, FAILED, CANCELLED, COMPLETED, REFUNDED)
FAILURE_BYTES_MAX = 255
# Of a row of postgres.purchases.
PAYMENT_ID_BYTES_MAX = 255


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NewOrder:
    """`price_units` is in the currency's minor unit; `currency` is ISO 4217, lower case."""

    tenant_id: str
    account_id: str
    idempotency_key: str
    request_digest: bytes
    kind: str
    channel: str
    product_id: str
    name: str
    wallet: str
    amount_micros: int = 0
    bonus_micros: int = 0
    price_units: int
    currency: str
    stripe_price: str = ""
    trial_days: int = 0
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    livemode: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """An order as it stands. Ids of Stripe are "" until they are known."""

    tenant_id: str
    order_id: uuid.UUID
    account_id: str
    kind: str
    channel: str
    product_id: str
    name: str
    wallet: str
    amount_micros: int
    bonus_micros: int
    price_units: int
    currency: str
    stripe_price: str
    trial_days: int
    parameters: Mapping[str, Any]
    livemode: bool
    state: str
    failure: str
    refunded_units: int
    stripe_customer: str
    stripe_session: str
    stripe_payment_intent: str
    stripe_subscription: str
    payment_id: str
    created_ms: int
    changed_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sale:
    """An order, or a payment that no order began: then `amount` is what was paid, in the currency's major unit, and `price_units` 0."""

    purchase_id: str
    account_id: str
    kind: str
    product_id: str
    name: str
    wallet: str
    amount_micros: int
    bonus_micros: int
    price_units: int
    amount: Decimal | None
    currency: str
    state: str
    failure: str
    refunded_units: int
    livemode: bool
    stripe_session: str
    stripe_payment_intent: str
    stripe_subscription: str
    stripe_customer: str
    created_ms: int
    changed_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Customer:
    """An account's place at Stripe. `customer_id` "": none (any more); `count` is how many it ever had."""

    account_no: int
    account_created_ms: int
    count: int
    customer_id: str


async def by_key(
    connections: asyncpg.Pool, tenant_id: str, idempotency_key: str, request_digest: bytes
) -> Order | None:
    """The order of an earlier call. AlreadyExistsError: the key was used with other content."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        row = await connection.fetchrow(_SQL["order_by_key"], tenant_id, idempotency_key)
    return _same(row, request_digest) if row is not None else None


async def place(connections: asyncpg.Pool, new: NewOrder, order_id: uuid.UUID, now_ms: int) -> tuple[Order, bool]:
    """The order, pending, and whether it is a replay.

    NotFoundError: no such account. AlreadyExistsError: the key was used with other content. FailedPreconditionError: the tenant is of
    another mode at Stripe.
    """
    async with pool.as_tenant(connections, new.tenant_id) as connection:
        await connection.execute(_SQL["bind_tenant"], new.tenant_id, new.livemode)
        await _bound(connection, new.tenant_id, new.livemode)
        status: str = await connection.execute(
            _SQL["insert_order"],
            new.tenant_id,
            new.account_id,
            order_id,
            new.idempotency_key,
            new.request_digest,
            new.kind,
            new.channel,
            new.product_id,
            new.name,
            new.wallet,
            new.amount_micros,
            new.bonus_micros,
            new.price_units,
            new.currency,
            new.stripe_price,
            new.trial_days,
            dict(new.parameters),
            new.livemode,
            now_ms,
        )
        row = await connection.fetchrow(_SQL["order_by_key"], new.tenant_id, new.idempotency_key)
        if row is None:
            raise errors.NotFoundError("account_id: no such account")
        return _same(row, new.request_digest), not status.endswith(" 1")


async def account_at_stripe(connections: asyncpg.Pool, tenant_id: str, *, livemode: bool) -> str:
    """The connected account whose customers the tenant's are; "" is the key's own.

    FailedPreconditionError: the tenant is of another mode.
    """
    async with pool.as_tenant(connections, tenant_id) as connection:
        return await _bound(connection, tenant_id, livemode)


async def _bound(connection: Any, tenant_id: str, livemode: bool) -> str:
    row = await connection.fetchrow(_SQL["binding"], tenant_id)
    if row is not None and row["livemode"] != livemode:
        mode, other = ("live", "test") if livemode else ("test", "live")
        raise errors.FailedPreconditionError(
            f"the tenant is of Stripe's {other} mode, and this server's key of {mode} mode"
        )
    return row["stripe_account"] if row is not None else ""


def _same(row: Any, request_digest: bytes) -> Order:
    if row["request_digest"] != request_digest:
        raise errors.AlreadyExistsError("idempotency_key: used before with other content")
    return _order(row)


async def get(connection: Any, tenant_id: str, order_id: uuid.UUID) -> Order | None:
    """The order, in the caller's transaction."""
    row = await connection.fetchrow(_SQL["order_by_id"], tenant_id, order_id)
    return _order(row) if row is not None else None


async def find(connection: Any, tenant_id: str, *, session: str = "", payment_intent: str = "") -> Order | None:
    """The order of a session or a PaymentIntent, in the caller's transaction; None if no call of Billing made it."""
    row = await connection.fetchrow(_SQL["order_of"], tenant_id, session, payment_intent)
    return _order(row) if row is not None else None


async def attach(
    connections: asyncpg.Pool,
    order: Order,
    *,
    customer: str = "",
    session: str = "",
    payment_intent: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> Order:
    """Notes what Stripe has made for the order; what was noted before stays. The order as it is after it."""
    async with pool.as_tenant(connections, order.tenant_id) as connection:
        await connection.execute(
            _SQL["attach"], order.tenant_id, order.order_id, customer, session, payment_intent, dict(parameters or {})
        )
        after = await get(connection, order.tenant_id, order.order_id)
    assert after is not None, order.order_id
    return after


async def advance(
    connection: Any,
    order: Order,
    state: str,
    *,
    now_ms: int,
    failure: str = "",
    payment_id: str = "",
    payment_intent: str = "",
    subscription: str = "",
    refunded_units: int | None = None,
) -> bool:
    """Moves the order forward, in the caller's transaction; False, and no change of state, if it is there or further already.

    `payment_id` is the purchase_id of its row in postgres.purchases; `refunded_units` what is back with the customer now, in minor units. A
    part that went back leaves the order completed: the caller says REFUNDED when all of it did, and COMPLETED again when a dispute was
    won. What is "" or None is not changed.
    """
    assert state in STATES, state
    if payment_id or payment_intent or subscription or refunded_units is not None:
        await connection.execute(
            _SQL["note_payment"],
            order.tenant_id,
            order.order_id,
            payment_id,
            payment_intent,
            subscription,
            refunded_units,
        )
    failure = failure.encode()[:FAILURE_BYTES_MAX].decode(errors="ignore")
    status: str = await connection.execute(_SQL["advance"], order.tenant_id, order.order_id, state, failure, now_ms)
    return status.endswith(" 1")


async def has_subscribed(connections: asyncpg.Pool, tenant_id: str, account_id: str) -> bool:
    """Whether the account ever paid for a plan by an order, or had its trial."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        return await connection.fetchval(_SQL["has_subscribed"], tenant_id, account_id)


async def customer_of(connections: asyncpg.Pool, tenant_id: str, account_id: str) -> Customer:
    """The account's customer. NotFoundError: no such account."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        row = await connection.fetchrow(_SQL["customer"], tenant_id, account_id)
    if row is None:
        raise errors.NotFoundError("account_id: no such account")
    return Customer(
        account_no=row["account_no"],
        account_created_ms=row["created_ms"],
        count=row["customers"],
        customer_id=row["customer_id"] or "",
    )


async def add_customer(connections: asyncpg.Pool, tenant_id: str, account_no: int, customer_id: str) -> None:
    """Notes the customer that Stripe has made for the account. A repeat changes nothing."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        await connection.execute(_SQL["insert_customer"], tenant_id, customer_id, account_no)


async def listed(
    connections: asyncpg.Pool,
    tenant_id: str,
    *,
    account_id: str = "",
    states: Sequence[str] = (),
    before: tuple[int, str],
    count_max: int,
    purchase_id: str = "",
) -> list[Sale]:
    """Orders and payments that no order began, newest first, older than `before`: time in ms and id. NotFoundError: no such account."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        if account_id and not await connection.fetchval(_SQL["account_exists"], tenant_id, account_id):
            raise errors.NotFoundError("account_id: no such account")
        rows = await connection.fetch(
            _SQL["listed"], tenant_id, account_id, list(states), before[0], before[1], count_max, purchase_id
        )
    return [Sale(**row) for row in rows]


async def known_events(connections: asyncpg.Pool, tenant_id: str, event_ids: Sequence[str]) -> set[str]:
    """Those that the inbox has."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        return {row["event_id"] for row in await connection.fetch(_SQL["known_events"], tenant_id, list(event_ids))}


async def known_paid(connections: asyncpg.Pool, tenant_id: str, kind: str, object_ids: Sequence[str]) -> set[str]:
    """Those of which the inbox knows that they are paid."""
    async with pool.as_tenant(connections, tenant_id) as connection:
        rows = await connection.fetch(_SQL["known_paid"], tenant_id, kind, list(object_ids))
    return {row["object_id"] for row in rows}


def sale_of(order: Order) -> Sale:
    """The order as `listed` has it."""
    names = [field.name for field in dataclasses.fields(Sale) if field.name not in ("purchase_id", "amount")]
    values: dict[str, Any] = {name: getattr(order, name) for name in names}
    return Sale(purchase_id=str(order.order_id), amount=None, **values)


def _order(row: Any) -> Order:
    return Order(**{field.name: row[field.name] for field in dataclasses.fields(Order)})
