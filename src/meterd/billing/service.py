"""The service Billing: checks what is asked, and answers in its messages. What sells is in billing.orders."""

from __future__ import annotations

import ipaddress
import json
import re
import urllib.parse
import uuid
from collections.abc import Callable, Sequence

import asyncpg

from meterd.billing import marks, outgoing
from meterd.billing import orders as taking
from meterd.core import errors, ids, money
from meterd.meter import catalogs, hydration, pages, replies
from meterd.postgres import catalog as stored
from meterd.postgres import orders
from meterd_client.v1 import billing_pb2

URL_BYTES_MAX = 2048
# RFC 5321; Stripe takes as much.
EMAIL_BYTES_MAX = 254
# Later than any purchase.
_LAST = (253_402_300_799_999, "")

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\Z")
_ORDER_ID_CHARS = 36
_STATES = {
    orders.PENDING: billing_pb2.PURCHASE_STATE_PENDING,
    orders.COMPLETED: billing_pb2.PURCHASE_STATE_COMPLETED,
    orders.FAILED: billing_pb2.PURCHASE_STATE_FAILED,
    orders.CANCELLED: billing_pb2.PURCHASE_STATE_CANCELLED,
    orders.REFUNDED: billing_pb2.PURCHASE_STATE_REFUNDED,
}
_STATE_NAMES = {number: name for name, number in _STATES.items()}


class Billing:
    """The service Billing for one tenant's request at a time; see billing.proto for what each answers."""

    def __init__(
        self,
        *,
        connections: asyncpg.Pool,
        catalogs_: catalogs.Catalogs,
        stripe_: outgoing.Stripe | None,
        livemode: bool,
        clock_ms: Callable[[], int],
    ) -> None:
        """`stripe_` None: purchases can be looked at, and nothing else."""
        self._connections = connections
        self.orders = taking.Orders(
            connections=connections, catalogs_=catalogs_, stripe_=stripe_, livemode=livemode, clock_ms=clock_ms
        )

    async def create_checkout_session(
        self, tenant_id: str, request: billing_pb2.CreateCheckoutSessionRequest
    ) -> billing_pb2.CreateCheckoutSessionResponse:
        """See Billing.CreateCheckoutSession in billing.proto."""
        key = ids.checked_id(request.idempotency_key, "idempotency_key")
        account_id = ids.checked_id(request.account_id, "account_id")
        item = request.WhichOneof("item")
        if item is None:
            raise errors.InvalidArgumentError("item", "package_id or plan_id must be given")
        product_id = ids.checked_id(getattr(request, item), item)
        said = {
            "success_url": _checked_url(request.success_url, "success_url"),
            "cancel_url": _checked_url(request.cancel_url, "cancel_url") if request.cancel_url else "",
            "email": _checked_email(request.email),
        }
        digest = stored.digest_of("checkout", account_id, item, product_id, *said.values())
        with hydration.postgres():
            if item == "package_id":
                order, replayed = await self.orders.place_package(
                    tenant_id, account_id, product_id, key=key, digest=digest, channel=orders.CHECKOUT, **said
                )
            else:
                order, replayed = await self.orders.place_plan(
                    tenant_id, account_id, product_id, key=key, digest=digest, **said
                )
            order, session = await self.orders.session(order)
        return billing_pb2.CreateCheckoutSessionResponse(
            purchase=_of_order(order),
            url=session.get("url") or "",
            expires_at=replies.timestamp(session["expires_at"] * 1000),
            replayed=replayed,
        )

    async def create_payment_intent(
        self, tenant_id: str, request: billing_pb2.CreatePaymentIntentRequest
    ) -> billing_pb2.CreatePaymentIntentResponse:
        """See Billing.CreatePaymentIntent in billing.proto."""
        key = ids.checked_id(request.idempotency_key, "idempotency_key")
        account_id = ids.checked_id(request.account_id, "account_id")
        package_id = ids.checked_id(request.package_id, "package_id")
        email = _checked_email(request.email)
        digest = stored.digest_of("payment_intent", account_id, package_id, email, request.save_payment_method)
        with hydration.postgres():
            order, replayed = await self.orders.place_package(
                tenant_id,
                account_id,
                package_id,
                key=key,
                digest=digest,
                channel=orders.PAYMENT_INTENT,
                email=email,
                save_payment_method=request.save_payment_method,
            )
            order, intent = await self.orders.payment_intent(order)
        return billing_pb2.CreatePaymentIntentResponse(
            purchase=_of_order(order),
            client_secret=intent["client_secret"],
            stripe_status=intent["status"],
            replayed=replayed,
        )

    async def create_portal_session(
        self, tenant_id: str, request: billing_pb2.CreatePortalSessionRequest
    ) -> billing_pb2.CreatePortalSessionResponse:
        """See Billing.CreatePortalSession in billing.proto."""
        key = ids.checked_id(request.idempotency_key, "idempotency_key")
        account_id = ids.checked_id(request.account_id, "account_id")
        return_url = _checked_url(request.return_url, "return_url")
        with hydration.postgres():
            url = await self.orders.portal(tenant_id, account_id, return_url=return_url, key=key)
        return billing_pb2.CreatePortalSessionResponse(url=url)

    async def list_purchases(
        self, tenant_id: str, request: billing_pb2.ListPurchasesRequest
    ) -> billing_pb2.ListPurchasesResponse:
        """See Billing.ListPurchases in billing.proto."""
        account_id = ids.checked_id(request.account_id, "account_id") if request.account_id else ""
        states = _checked_states(request.states)
        size = pages.checked_size(request.page_size)
        scope = f"purchases {tenant_id} {json.dumps([account_id, states])}"
        before = pages.place(scope, request.page_token)
        with hydration.postgres():
            found = await orders.listed(
                self._connections,
                tenant_id,
                account_id=account_id,
                states=states,
                before=_place(before) if before else _LAST,
                count_max=size + 1,
            )
        last = found[size - 1] if len(found) > size else None
        return billing_pb2.ListPurchasesResponse(
            purchases=map(_of_sale, found[:size]),
            next_page_token=pages.token(scope, f"{last.created_ms}:{last.purchase_id}") if last else "",
        )

    async def get_purchase(
        self, tenant_id: str, request: billing_pb2.GetPurchaseRequest
    ) -> billing_pb2.GetPurchaseResponse:
        """See Billing.GetPurchase in billing.proto."""
        purchase_id = _checked_purchase_id(request.purchase_id)
        with hydration.postgres():
            found = await orders.listed(
                self._connections, tenant_id, before=_LAST, count_max=1, purchase_id=purchase_id
            )
        if not found:
            raise errors.NotFoundError("purchase_id: no such purchase")
        return billing_pb2.GetPurchaseResponse(purchase=_of_sale(found[0]))

    async def cancel_purchase(
        self, tenant_id: str, request: billing_pb2.CancelPurchaseRequest
    ) -> billing_pb2.CancelPurchaseResponse:
        """See Billing.CancelPurchase in billing.proto."""
        order_id = _order_id(_checked_purchase_id(request.purchase_id))
        if order_id is None:
            raise errors.NotFoundError("purchase_id: no such purchase that could be cancelled")
        with hydration.postgres():
            order = await self.orders.cancel(await self.orders.get(tenant_id, order_id))
        return billing_pb2.CancelPurchaseResponse(purchase=_of_order(order))

    async def cancel_billing(
        self, tenant_id: str, request: billing_pb2.CancelBillingRequest
    ) -> billing_pb2.CancelBillingResponse:
        """See Billing.CancelBilling in billing.proto."""
        key = ids.checked_id(request.idempotency_key, "idempotency_key")
        account_id = ids.checked_id(request.account_id, "account_id")
        with hydration.postgres():
            ended = await self.orders.end_subscriptions(tenant_id, account_id, at_once=request.at_once, key=key)
        return billing_pb2.CancelBillingResponse(subscriptions=map(_subscription, ended))


def _checked_url(value: str, field: str) -> str:
    """A page of the app, where Stripe sends customers. It is their browser that goes there, so any host will do."""
    if not value or len(value.encode("utf-8", "replace")) > URL_BYTES_MAX:
        raise errors.InvalidArgumentError(field, f"must be a URL of at most {URL_BYTES_MAX} bytes")
    if not value.isascii() or not value.isprintable() or " " in value or "\\" in value:
        raise errors.InvalidArgumentError(field, "must be a URL in ASCII")
    try:
        parts = urllib.parse.urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError as exc:
        raise errors.InvalidArgumentError(field, f"not a URL: {exc}") from exc
    if not host or parts.username is not None or parts.password is not None:
        raise errors.InvalidArgumentError(field, "must name a host, and no user")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_local(host)):
        raise errors.InvalidArgumentError(field, "must begin with https://, or lead to http://localhost")
    return value


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _checked_email(value: str) -> str:
    ids.checked_text(value, "email", EMAIL_BYTES_MAX)
    if value and not _EMAIL.match(value):
        raise errors.InvalidArgumentError("email", "must be an address such as ada@example.com")
    return value


def _checked_states(states: Sequence[billing_pb2.PurchaseState]) -> list[str]:
    for state in states:
        if state not in _STATE_NAMES:
            raise errors.InvalidArgumentError("states", "must be states of purchases")
    return sorted({_STATE_NAMES[state] for state in states})


def _checked_purchase_id(value: str) -> str:
    if not value:
        raise errors.InvalidArgumentError("purchase_id", "must not be empty")
    return ids.checked_text(value, "purchase_id", orders.PAYMENT_ID_BYTES_MAX)


def _order_id(purchase_id: str) -> uuid.UUID | None:
    """None for the id of a payment that no order began."""
    try:
        found = uuid.UUID(purchase_id)
    except ValueError:
        return None
    return found if str(found) == purchase_id else None


def _place(text: str) -> tuple[int, str]:
    at_ms, _, purchase_id = text.partition(":")
    return int(at_ms), purchase_id


def _of_order(order: orders.Order) -> billing_pb2.Purchase:
    return _of_sale(orders.sale_of(order))


def _of_sale(sale: orders.Sale) -> billing_pb2.Purchase:
    price = money.price_string(sale.price_units, sale.currency) if sale.amount is None else f"{sale.amount:f}"
    is_package = sale.kind == orders.PACKAGE
    return billing_pb2.Purchase(
        purchase_id=sale.purchase_id,
        account_id=sale.account_id,
        package_id=sale.product_id if is_package else None,
        plan_id=None if is_package else sale.product_id,
        name=sale.name,
        price=price,
        currency=sale.currency,
        amount_micros=sale.amount_micros,
        bonus_micros=sale.bonus_micros,
        wallet=sale.wallet,
        state=_STATES[sale.state],
        refunded=money.price_string(sale.refunded_units, sale.currency) if sale.refunded_units else "",
        failure=sale.failure,
        created_at=replies.timestamp(sale.created_ms),
        changed_at=replies.timestamp(sale.changed_ms),
        stripe_session=sale.stripe_session,
        stripe_payment_intent=sale.stripe_payment_intent,
        stripe_subscription=sale.stripe_subscription,
        stripe_customer=sale.stripe_customer,
        livemode=sale.livemode,
    )


def _subscription(document: outgoing.Document) -> billing_pb2.BillingSubscription:
    metadata: outgoing.Document = document.get("metadata") or {}
    ends_s = document.get("ended_at") or document.get("cancel_at")
    return billing_pb2.BillingSubscription(
        subscription_id=document["id"],
        status=document["status"],
        plan_id=str(metadata.get(marks.PLAN) or ""),
        ends_at=replies.timestamp(int(ends_s) * 1000) if ends_s else None,
    )
