"""Purchases: the money that came in, one row each, for revenue. Credits for it are grants, which are made apart."""

from __future__ import annotations

import dataclasses
import enum
import re
from decimal import Decimal
from typing import Any

from meterd.core import errors, money
from meterd.postgres import sql

_SQL = sql.read("purchases")

# Ids of payment providers are at most this long.
ID_BYTES_MAX = 255
# Far above any price, and small enough that all sums are exact.
AMOUNT_MAX = Decimal(10) ** 12
# Currencies have at most four decimals; unit prices of some providers a few more.
AMOUNT_DECIMALS_MAX = 6

_CURRENCY = re.compile(r"[A-Z]{3}\Z")


class Kind(enum.StrEnum):
    """What was paid for."""

    PACKAGE = "package"
    SUBSCRIPTION = "subscription"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Purchase:
    """`amount` is in the currency's major unit, exactly; below 0 it is money that went back. `purchase_id` is the payment's, for ever."""

    tenant_id: str
    account_id: str
    purchase_id: str
    kind: Kind
    product_id: str
    amount: Decimal
    currency: str  # ISO 4217, upper case
    at_ms: int


async def add(connection: Any, purchase: Purchase) -> bool:
    """Writes the purchase, in the caller's transaction, which sees its tenant. False: a repeat, which writes nothing.

    AlreadyExistsError: the id was used with other content; NotFoundError: no such account; InvalidArgumentError names the field.
    """
    _check(purchase)
    status: str = await connection.execute(
        _SQL["insert_purchase"],
        purchase.tenant_id,
        purchase.account_id,
        purchase.purchase_id,
        purchase.kind.value,
        purchase.product_id,
        purchase.amount,
        purchase.currency,
        purchase.at_ms,
    )
    if status.endswith(" 1"):
        return True
    row = await connection.fetchrow(_SQL["purchase"], purchase.tenant_id, purchase.purchase_id)
    if row is None:
        raise errors.NotFoundError("account_id: no such account")
    for field in ("account_id", "kind", "product_id", "amount", "currency", "at_ms"):
        if row[field] != getattr(purchase, field):
            raise errors.AlreadyExistsError(f"purchase_id: used before with another {field}")
    return False


def _check(purchase: Purchase) -> None:
    if not 1 <= len(purchase.purchase_id.encode()) <= ID_BYTES_MAX:
        raise errors.InvalidArgumentError("purchase_id", f"must be 1 to {ID_BYTES_MAX} bytes")
    if len(purchase.product_id.encode()) > ID_BYTES_MAX:
        raise errors.InvalidArgumentError("product_id", f"longer than {ID_BYTES_MAX} bytes")
    if not _CURRENCY.match(purchase.currency):
        raise errors.InvalidArgumentError("currency", "must be three capital letters, such as USD")
    amount = purchase.amount
    if not amount.is_finite() or abs(amount) > AMOUNT_MAX or money.scaled(amount, AMOUNT_DECIMALS_MAX) is None:
        raise errors.InvalidArgumentError("amount", f"must be within ±10^12, with up to {AMOUNT_DECIMALS_MAX} decimals")
