"""Purchases and the revenue that they add up to, on a real Postgres."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from meterd.core import errors
from meterd.meter import reports
from meterd.postgres import catalog, pool, purchases
from meterd.pricing import books
from meterd_client.v1 import reports_pb2

NOON_MS = int(datetime.datetime(2026, 11, 10, 12, tzinfo=datetime.UTC).timestamp() * 1000)
DAY_MS = 86_400_000
BUNDLED = books.opened(None)


@pytest_asyncio.fixture
async def connections(database: str) -> AsyncIterator[asyncpg.Pool]:
    """Tenant "t" with seven accounts."""
    made = await pool.create(database)
    accounts = catalog.Catalog(made, partitions=4)
    await accounts.create_tenant("t")
    for at in range(7):
        await accounts.create_account(catalog.NewAccount(tenant_id="t", account_id=f"acct{at}"))
    yield made
    await made.close()


async def revenue(connections: asyncpg.Pool, tenant_id: str = "t") -> reports_pb2.RevenueResponse:
    """Of one day."""
    asked = reports.Reports(connections=connections, books=BUNDLED, clock_ms=lambda: NOON_MS)
    return await asked.revenue(tenant_id, reports_pb2.RevenueRequest(from_day="2026-11-10", to_day="2026-11-10"))


def _purchase(**changes: Any) -> purchases.Purchase:
    values: dict[str, Any] = {
        "tenant_id": "t",
        "account_id": "acct0",
        "purchase_id": "pi_1",
        "kind": purchases.Kind.PACKAGE,
        "product_id": "starter",
        "amount": Decimal("19.90"),
        "currency": "USD",
        "at_ms": NOON_MS,
    }
    return purchases.Purchase(**values | changes)


async def paid(connections: asyncpg.Pool, *rows: purchases.Purchase) -> list[bool]:
    found: list[bool] = []
    for row in rows:
        async with pool.as_tenant(connections, row.tenant_id) as connection:
            found.append(await purchases.add(connection, row))
    return found


async def test_revenue_is_by_currency_and_kind_and_net_of_what_went_back(connections: asyncpg.Pool) -> None:
    subscription, last_ms = purchases.Kind.SUBSCRIPTION, NOON_MS // DAY_MS * DAY_MS + DAY_MS - 1
    rows = [
        _purchase(purchase_id="1", account_id="acct0"),
        _purchase(purchase_id="2", account_id="acct0", amount=Decimal("0.1"), at_ms=last_ms),
        _purchase(purchase_id="3", account_id="acct1", amount=Decimal("9.995"), kind=subscription),
        _purchase(purchase_id="4", account_id="acct1", amount=Decimal("-9.995"), kind=subscription),
        _purchase(purchase_id="5", account_id="acct2", amount=Decimal(1500), currency="JPY"),
        _purchase(purchase_id="6", account_id="acct3", amount=Decimal(0)),
        _purchase(purchase_id="7", account_id="acct2", amount=Decimal(7), at_ms=last_ms + 1),
    ]
    assert await paid(connections, *rows) == [True] * 7
    found = await revenue(connections)
    assert [
        (row.currency, row.package_revenue, row.subscription_revenue, row.purchases, row.average_purchase)
        for row in found.rows
    ] == [("JPY", "1500", "0", 1, "1500"), ("USD", "20", "0", 3, "10")]
    # (19.90 + 0.10 + 9.995) ÷ 3 is 9.9983…
    assert (found.accounts, found.paying_accounts, found.conversion_percent) == (7, 3, "42.9")
    nobody = await revenue(connections, "nobody")
    assert (list(nobody.rows), nobody.accounts, nobody.conversion_percent) == ([], 0, "0.0")


async def test_a_purchase_counts_once_and_its_id_is_for_one_payment(connections: asyncpg.Pool) -> None:
    assert await paid(connections, _purchase(), _purchase(), _purchase(amount=Decimal("19.9"))) == [True, False, False]
    assert await connections.fetchval("SELECT count(*) FROM purchases") == 1
    for field, value in (
        ("account_id", "acct1"),
        ("kind", purchases.Kind.SUBSCRIPTION),
        ("product_id", "other"),
        ("amount", Decimal("19.91")),
        ("currency", "EUR"),
        ("at_ms", NOON_MS + 1),
    ):
        with pytest.raises(errors.AlreadyExistsError, match=f"another {field}"):
            await paid(connections, _purchase(**{field: value}))
    with pytest.raises(errors.NotFoundError, match="account_id"):
        await paid(connections, _purchase(purchase_id="pi_2", account_id="nobody"))
    for field, value in (
        ("purchase_id", ""),
        ("purchase_id", "x" * 256),
        ("product_id", "x" * 256),
        ("currency", "usd"),
        ("amount", Decimal("NaN")),
        ("amount", Decimal("Infinity")),
        ("amount", Decimal("0.0000001")),
        ("amount", Decimal(10) ** 12 + 1),
    ):
        with pytest.raises(errors.InvalidArgumentError, match=f"^{field}: "):
            await paid(connections, _purchase(**{field: value}))
    for statement in ("UPDATE purchases SET amount = 0", "DELETE FROM purchases", "TRUNCATE purchases"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await connections.execute(statement)


async def test_money_of_one_tenant_is_not_seen_by_another(connections: asyncpg.Pool) -> None:
    accounts = catalog.Catalog(connections, partitions=4)
    await accounts.create_tenant("u")
    await accounts.create_account(catalog.NewAccount(tenant_id="u", account_id="carol"))
    # The same payment id is another one for another tenant.
    assert await paid(connections, _purchase(), _purchase(tenant_id="u", account_id="carol")) == [True, True]
    for tenant_id, accounts_count in (("t", 7), ("u", 1)):
        found = await revenue(connections, tenant_id)
        assert [(row.package_revenue, row.purchases) for row in found.rows] == [("19.9", 1)]
        assert (found.accounts, found.paying_accounts) == (accounts_count, 1)
    with pytest.raises(errors.NotFoundError, match="account_id"):
        await paid(connections, _purchase(purchase_id="pi_2", account_id="carol"))
    async with pool.as_tenant(connections, "t") as connection:
        assert [row[0] for row in await connection.fetch("SELECT tenant_id FROM purchases")] == ["t"]
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("UPDATE purchases SET amount = 1")
