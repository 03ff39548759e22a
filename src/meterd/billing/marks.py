"""What meterd writes into the metadata of objects at Stripe, by which it knows its own again."""

from __future__ import annotations

from meterd.postgres import orders

TENANT = "meterd_tenant"
ACCOUNT = "meterd_account"
# The order: Purchase.purchase_id.
PURCHASE = "meterd_purchase"
PACKAGE = "meterd_package"
PLAN = "meterd_plan"


def of_order(order: orders.Order) -> dict[str, str]:
    """On session, PaymentIntent and subscription alike, so that whichever event comes first says whose it is."""
    item = PACKAGE if order.kind == orders.PACKAGE else PLAN
    return {**of_account(order.tenant_id, order.account_id), PURCHASE: str(order.order_id), item: order.product_id}


def of_account(tenant_id: str, account_id: str) -> dict[str, str]:
    """On customers."""
    return {TENANT: tenant_id, ACCOUNT: account_id}
