"""Selling: an order is written, then Stripe is asked for what the customer pays through. A repeat goes on where the last try stopped.

Keys for Stripe follow from the order's id alone, and what is sent stands in the order, so that every try says the same and Stripe makes one
object, however often a line is cut. Credits come with Stripe's events, never from here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import asyncpg

from meterd.billing import failpoints, marks, outgoing
from meterd.core import catalog, errors, ids, money
from meterd.postgres import catalog as stored
from meterd.postgres import orders, pool

# Stripe knows an idempotency key for a day at least: later, a repeat would make a second object.
RETRY_MAX_MS = 20 * 60 * 60 * 1000
# How long Stripe's page can be paid, from the order on: the most that Stripe takes is a day, from its own clock.
CHECKOUT_MS = 23 * 60 * 60 * 1000
# Subscriptions in these states are over.
ENDED = frozenset(("canceled", "incomplete_expired"))

Document = dict[str, Any]


class InForce(Protocol):
    """Knows what each tenant sells."""

    def of(self, tenant_id: str) -> catalog.Catalog:
        """The catalog in force; an empty one for a tenant that never applied any."""
        ...


class Orders:
    """Takes orders. Each method raises UnavailableError where a repeat with the same key goes on, and what outgoing.Stripe raises."""

    def __init__(
        self,
        *,
        connections: asyncpg.Pool,
        catalogs_: InForce,
        stripe_: outgoing.Stripe | None,
        livemode: bool,
        clock_ms: Callable[[], int],
        failpoint: failpoints.Failpoint = failpoints.none,
    ) -> None:
        """`stripe_` None: there is no key, and nothing can be sold."""
        self._connections = connections
        self._catalogs = catalogs_
        self._stripe = stripe_
        self._livemode = livemode
        self._clock_ms = clock_ms
        self._failpoint = failpoint

    async def at_stripe(self, tenant_id: str) -> outgoing.Stripe:
        """Stripe as the tenant's money goes there. FailedPreconditionError: no key, or the key is not of the tenant's mode."""
        if self._stripe is None:
            raise errors.FailedPreconditionError("nothing can be sold: the server has no METERD_STRIPE_API_KEY")
        account = await orders.account_at_stripe(self._connections, tenant_id, livemode=self._livemode)
        return self._stripe.of(account)

    # ---- orders

    async def place_package(
        self, tenant_id: str, account_id: str, package_id: str, *, key: str, digest: bytes, channel: str, **said: Any
    ) -> tuple[orders.Order, bool]:
        """The order of a package and whether it is a replay; `said` is kept with it. NotFoundError: no such account or package."""
        known = await orders.by_key(self._connections, tenant_id, key, digest)
        if known is not None:
            return known, True
        package = self._catalogs.of(tenant_id).package(package_id)
        if package is None or not package.active:
            reason = "the catalog has no such package" if package is None else "the package is not active"
            raise errors.NotFoundError(f"package_id: {reason}")
        new = orders.NewOrder(
            tenant_id=tenant_id,
            account_id=account_id,
            idempotency_key=key,
            request_digest=digest,
            kind=orders.PACKAGE,
            channel=channel,
            product_id=package_id,
            name=package.name,
            wallet=package.wallet,
            amount_micros=package.amount_micros,
            bonus_micros=package.bonus_micros,
            price_units=_price_units("package_id", package.price, package.currency),
            currency=package.currency,
            stripe_price=package.stripe_price,
            parameters=said,
            livemode=self._livemode,
        )
        return await self._place(new)

    async def place_plan(
        self, tenant_id: str, account_id: str, plan_id: str, *, key: str, digest: bytes, **said: Any
    ) -> tuple[orders.Order, bool]:
        """As place_package, of a plan. FailedPreconditionError: the account has a subscription at Stripe already, or the plan no price."""
        known = await orders.by_key(self._connections, tenant_id, key, digest)
        if known is not None:
            return known, True
        plan = self._catalogs.of(tenant_id).plan(plan_id)
        if plan is None or not plan.active:
            reason = "the catalog has no such plan" if plan is None else "the plan is not active"
            raise errors.NotFoundError(f"plan_id: {reason}")
        if not plan.stripe_price:
            raise errors.FailedPreconditionError("plan_id: the plan has no price in Stripe: run `meterd stripe sync`")
        if await self.subscriptions(tenant_id, account_id):
            raise errors.FailedPreconditionError(
                "account_id: has a subscription at Stripe already: it is changed in the portal (CreatePortalSession)"
            )
        subscribed = await orders.has_subscribed(self._connections, tenant_id, account_id)
        new = orders.NewOrder(
            tenant_id=tenant_id,
            account_id=account_id,
            idempotency_key=key,
            request_digest=digest,
            kind=orders.SUBSCRIPTION,
            channel=orders.CHECKOUT,
            product_id=plan_id,
            name=plan.name,
            wallet=catalog.DEFAULT_WALLET,
            price_units=_price_units("plan_id", plan.price, plan.currency),
            currency=plan.currency,
            stripe_price=plan.stripe_price,
            # A trial is for those who try.
            trial_days=0 if subscribed else plan.trial_days,
            parameters=said,
            livemode=self._livemode,
        )
        return await self._place(new)

    async def _place(self, new: orders.NewOrder) -> tuple[orders.Order, bool]:
        await self.at_stripe(new.tenant_id)
        now_ms = self._clock_ms()
        return await orders.place(self._connections, new, ids.uuid7(now_ms), now_ms)

    async def get(self, tenant_id: str, order_id: Any) -> orders.Order:
        """NotFoundError: no such order."""
        async with pool.as_tenant(self._connections, tenant_id) as connection:
            found = await orders.get(connection, tenant_id, order_id)
        if found is None:
            raise errors.NotFoundError("purchase_id: no such purchase")
        return found

    # ---- what the customer pays through

    async def session(self, order: orders.Order) -> tuple[orders.Order, Document]:
        """The order's page of Checkout, made if it is not there yet."""
        at_stripe = await self.at_stripe(order.tenant_id)
        if order.stripe_session:
            return order, await at_stripe.get(f"checkout/sessions/{order.stripe_session}")
        order = await self._with_customer(order)
        made = await at_stripe.post("checkout/sessions", _session_params(order), key=f"{order.order_id}:session")
        order = await orders.attach(self._connections, order, session=made["id"])
        return await self._unless_cancelled(order), made

    async def payment_intent(self, order: orders.Order) -> tuple[orders.Order, Document]:
        """The order's PaymentIntent, made if it is not there yet."""
        at_stripe = await self.at_stripe(order.tenant_id)
        if order.stripe_payment_intent:
            return order, await at_stripe.get(f"payment_intents/{order.stripe_payment_intent}")
        order = await self._with_customer(order)
        params = _intent_params(order) | {"automatic_payment_methods": {"enabled": True}}
        if order.parameters.get("save_payment_method"):
            params["setup_future_usage"] = "off_session"
        made = await at_stripe.post("payment_intents", params, key=f"{order.order_id}:payment_intent")
        order = await orders.attach(self._connections, order, payment_intent=made["id"])
        return await self._unless_cancelled(order), made

    async def top_up(self, tenant_id: str, account_id: str, package_id: str, *, key: str) -> orders.Order:
        """Buys a package with the customer's default card, without the customer; answers the order.

        `key` is of the occasion (a crossing of a threshold), and its repeat answers the same order, COMPLETED or not: credits come with
        Stripe's event as ever, and so does a payment that needs time. A card that is declined leaves the order FAILED with Stripe's
        code. FailedPreconditionError: no customer, or none with a card that may be charged so.
        """
        digest = top_up_digest(account_id, package_id)
        order, _ = await self.place_package(
            tenant_id, account_id, package_id, key=key, digest=digest, channel=orders.TOP_UP
        )
        await self._failpoint("ordered")
        if order.stripe_payment_intent or order.state != orders.PENDING:
            return order
        at_stripe = await self.at_stripe(tenant_id)
        self._check_retry(order)
        if not order.parameters.get("payment_method"):
            customer, method = await self._card(tenant_id, account_id)
            # Noted first: a repeat charges the same card, whichever is the default by then.
            order = await orders.attach(
                self._connections, order, customer=customer, parameters={"payment_method": method}
            )
        await self._failpoint("chosen")
        method = order.parameters["payment_method"]
        params = _intent_params(order) | {"payment_method": method, "off_session": True, "confirm": True}
        try:
            made = await at_stripe.post("payment_intents", params, key=f"{order.order_id}:top_up")
        except outgoing.CardDeclinedError as exc:
            await self._failpoint("charged")
            return await self._declined(order, exc)
        await self._failpoint("charged")
        return await orders.attach(self._connections, order, payment_intent=made["id"])

    async def _card(self, tenant_id: str, account_id: str) -> tuple[str, str]:
        """The account's customer, and the payment method that is charged without it."""
        found = await orders.customer_of(self._connections, tenant_id, account_id)
        if not found.customer_id:
            raise errors.FailedPreconditionError("account_id: has no customer at Stripe yet")
        customer = await (await self.at_stripe(tenant_id)).get(f"customers/{found.customer_id}")
        settings: Document = customer.get("invoice_settings") or {}
        method = settings.get("default_payment_method")
        if not method:
            raise errors.FailedPreconditionError("account_id: its customer has no default payment method at Stripe")
        return found.customer_id, str(method)

    async def _declined(self, order: orders.Order, exc: outgoing.CardDeclinedError) -> orders.Order:
        payment_intent = str(exc.document.get("id") or "")
        async with pool.as_tenant(self._connections, order.tenant_id) as connection:
            await orders.advance(
                connection,
                order,
                orders.FAILED,
                now_ms=self._clock_ms(),
                failure=exc.code,
                payment_intent=payment_intent,
            )
        return await self.get(order.tenant_id, order.order_id)

    def _check_retry(self, order: orders.Order) -> None:
        """Whether Stripe may be asked to make something for the order."""
        if order.state != orders.PENDING:
            raise errors.FailedPreconditionError(f"idempotency_key: the purchase is {order.state}")
        if self._clock_ms() - order.created_ms > RETRY_MAX_MS:
            raise errors.FailedPreconditionError(
                "idempotency_key: the purchase is too old to go on with: cancel it, and begin one with a new key"
            )

    async def _with_customer(self, order: orders.Order) -> orders.Order:
        self._check_retry(order)
        if order.stripe_customer:
            return order
        customer_id = await self.customer(
            order.tenant_id, order.account_id, email=str(order.parameters.get("email", ""))
        )
        return await orders.attach(self._connections, order, customer=customer_id)

    async def _unless_cancelled(self, order: orders.Order) -> orders.Order:
        """A purchase that was cancelled while Stripe made its page must not be paid."""
        if order.state == orders.CANCELLED:
            await self._end(order)
            raise errors.FailedPreconditionError("idempotency_key: the purchase is cancelled")
        return order

    # ---- customers and subscriptions

    async def customer(self, tenant_id: str, account_id: str, *, email: str = "") -> str:
        """The account's customer at Stripe, made if there is none. NotFoundError: no such account."""
        found = await orders.customer_of(self._connections, tenant_id, account_id)
        if found.customer_id:
            return found.customer_id
        at_stripe = await self.at_stripe(tenant_id)
        # Another database whose accounts have the same names, as in development, has other times.
        identity = f"{tenant_id}\0{account_id}\0{found.account_created_ms}\0{found.count}"
        key = f"customer:{hashlib.sha256(identity.encode()).hexdigest()}"
        made = await at_stripe.post("customers", {"metadata": marks.of_account(tenant_id, account_id)}, key=key)
        if email:
            # Apart, so that two calls with different addresses make one customer.
            await at_stripe.post(f"customers/{made['id']}", {"email": email}, key=f"{key}:{_short(email)}")
        await orders.add_customer(self._connections, tenant_id, found.account_no, made["id"])
        return made["id"]

    async def subscriptions(self, tenant_id: str, account_id: str) -> list[Document]:
        """What the account pays for again and again at Stripe, as far as meterd began it and it is not over."""
        found = await orders.customer_of(self._connections, tenant_id, account_id)
        at_stripe = await self.at_stripe(tenant_id)
        if not found.customer_id:
            return []
        listed = [one async for one in at_stripe.all("subscriptions", {"customer": found.customer_id, "status": "all"})]
        mine = marks.of_account(tenant_id, account_id).items()
        return [one for one in listed if one["status"] not in ENDED and mine <= (one.get("metadata") or {}).items()]

    async def end_subscriptions(self, tenant_id: str, account_id: str, *, at_once: bool, key: str) -> list[Document]:
        """Ends what `subscriptions` finds, now or when its paid time ends; as they are after it. NotFoundError: there is none."""
        live = await self.subscriptions(tenant_id, account_id)
        if not live:
            raise errors.NotFoundError("account_id: has no subscription at Stripe")
        at_stripe = await self.at_stripe(tenant_id)
        ended: list[Document] = []
        for found in live:
            path = f"subscriptions/{found['id']}"
            if at_once:
                found = await at_stripe.delete(path)
            elif not found.get("cancel_at_period_end"):
                name = _short(f"{tenant_id}\0{key}")
                found = await at_stripe.post(path, {"cancel_at_period_end": True}, key=f"{name}:end:{found['id']}")
            ended.append(found)
        return ended

    async def portal(self, tenant_id: str, account_id: str, *, return_url: str, key: str) -> str:
        """The address of Stripe's portal for the account's customer. FailedPreconditionError: it has none."""
        found = await orders.customer_of(self._connections, tenant_id, account_id)
        at_stripe = await self.at_stripe(tenant_id)
        if not found.customer_id:
            raise errors.FailedPreconditionError("account_id: has no customer at Stripe yet")
        params, name = {"customer": found.customer_id, "return_url": return_url}, _short(f"{tenant_id}\0{key}")
        made = await at_stripe.post("billing_portal/sessions", params, key=f"{name}:portal")
        return made["url"]

    # ---- cancelling

    async def cancel(self, order: orders.Order) -> orders.Order:
        """Ends an order that is not paid. FailedPreconditionError: it was paid, or Stripe is about to take the money."""
        if order.state == orders.CANCELLED:
            return order
        if order.state in (orders.COMPLETED, orders.REFUNDED):
            raise errors.FailedPreconditionError(f"purchase_id: the purchase is {order.state}")
        await self._end(order)
        async with pool.as_tenant(self._connections, order.tenant_id) as connection:
            await orders.advance(connection, order, orders.CANCELLED, now_ms=self._clock_ms())
        # A call that was making the page meanwhile has either noted it by now, or finds the order cancelled.
        after = await self.get(order.tenant_id, order.order_id)
        if after.stripe_session != order.stripe_session or after.stripe_payment_intent != order.stripe_payment_intent:
            await self._end(after)
        return after

    async def _end(self, order: orders.Order) -> None:
        """Lets nobody pay it any more."""
        at_stripe = await self.at_stripe(order.tenant_id)
        if order.stripe_session:
            path, done = f"checkout/sessions/{order.stripe_session}", "expired"
            end = f"{path}/expire"
        elif order.stripe_payment_intent:
            path, done = f"payment_intents/{order.stripe_payment_intent}", "canceled"
            end = f"{path}/cancel"
        else:
            return
        found = await at_stripe.get(path)
        if found["status"] == done:
            return
        try:
            await at_stripe.post(end, {}, key=f"{order.order_id}:end:{found['status']}")
        except outgoing.RefusedError as exc:
            now = (await at_stripe.get(path))["status"]
            if now != done:
                raise errors.FailedPreconditionError(
                    f"purchase_id: cannot be cancelled: Stripe has it as {now}"
                ) from exc


def top_up_digest(account_id: str, package_id: str) -> bytes:
    """The digest of a top-up's order."""
    return stored.digest_of("top_up", account_id, package_id)


def _price_units(field: str, price: str, currency: str) -> int:
    if not currency or not money.minor_units(price, currency):
        raise errors.FailedPreconditionError(f"{field}: is free: there is nothing to pay")
    return money.minor_units(price, currency)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _session_params(order: orders.Order) -> Mapping[str, Any]:
    """All of it follows from the order, so that each try says the same."""
    item: Document = {"quantity": 1}
    if order.stripe_price:
        item["price"] = order.stripe_price
    else:
        item["price_data"] = {
            "currency": order.currency,
            "unit_amount": order.price_units,
            "product_data": {"name": order.name},
        }
    metadata = marks.of_order(order)
    params: Document = {
        "customer": order.stripe_customer,
        "client_reference_id": order.account_id,
        "line_items": [item],
        "success_url": order.parameters["success_url"],
        "expires_at": (order.created_ms + CHECKOUT_MS) // 1000,
        "metadata": metadata,
    }
    if order.parameters.get("cancel_url"):
        params["cancel_url"] = order.parameters["cancel_url"]
    if order.kind == orders.PACKAGE:
        return params | {"mode": "payment", "payment_intent_data": {"metadata": metadata}}
    data: Document = {"metadata": metadata}
    if order.trial_days:
        data["trial_period_days"] = order.trial_days
    return params | {"mode": "subscription", "subscription_data": data}


def _intent_params(order: orders.Order) -> Document:
    return {
        "amount": order.price_units,
        "currency": order.currency,
        "customer": order.stripe_customer,
        "description": order.name,
        "metadata": marks.of_order(order),
    }
