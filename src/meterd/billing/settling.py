"""From what is known of a payment or a subscription to what was done for it: the difference is made, in one transaction.

Whatever event came last, the whole of the object's state is looked at; so the order of events decides nothing.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Collection, Sequence
from typing import Any

from meterd.billing import coverage, facts, sales, steps
from meterd.core import catalog as offers
from meterd.core import errors, money, periods
from meterd.core import subscriptions as core
from meterd.postgres import catalog, orders, plans, purchases, stripe, top_up_requests

# The next part of a paid time is granted so long before it begins, so that nobody has to be awake then.
AHEAD_MS = periods.DAY_MS
# Of Stripe's words for a subscription, those that mean that a payment is missing.
_UNPAID = ("past_due", "unpaid", "incomplete", "paused")


class WaitsError(errors.MeterdError):
    """What the event asks for cannot be done yet, or by meterd alone: the message says what is missing."""


class AsksError(Exception):
    """Stripe is to be asked first. `kind` and `object_id` say for what; its answer is from `at_s` or later, by Stripe's clock."""

    def __init__(self, kind: str, object_id: str, at_s: int) -> None:
        super().__init__(f"{kind} {object_id}")
        self.kind = kind
        self.object_id = object_id
        self.at_s = at_s


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """The transaction of one event. `asked` are the objects that Stripe was asked for; None: it cannot be asked."""

    connection: Any
    tenant_id: str
    event_id: str
    now_ms: int
    freezes: bool
    asked: Collection[tuple[str, str]] | None
    # The subscription that an account is about to leave: no other one has to wait for it.
    leaving: str = ""
    told: list[str] = dataclasses.field(default_factory=list[str])

    def ask(self, kind: str, object_id: str, at_s: int = 0) -> None:
        """AsksError, unless Stripe was asked or cannot be."""
        if self.asked is not None and (kind, object_id) not in self.asked:
            raise AsksError(kind, object_id, at_s)

    async def steps_of(self, account_id: str) -> steps.Steps:
        """The steps of an account; WaitsError if there is none."""
        try:
            return await steps.opened(
                self.connection,
                tenant_id=self.tenant_id,
                account_id=account_id,
                event_id=self.event_id,
                now_ms=self.now_ms,
                told=self.told,
            )
        except errors.NotFoundError as exc:
            raise WaitsError(str(exc)) from exc


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Goods:
    """What a payment buys. `price_units` is in the currency's minor unit."""

    package_id: str
    wallet: str
    amount_micros: int
    bonus_micros: int
    price_units: int
    currency: str


async def absorb(context: Context, found: Sequence[facts.Fact]) -> None:
    """Adds to what is known. AsksError: two events of one moment say different things of an object."""
    for fact in found:
        row = await stripe.known(context.connection, context.tenant_id, fact.kind, fact.object_id)
        known: facts.State = row["state"] if row is not None else {}
        if fact.kind == facts.SUBSCRIPTION and "now" in facts.disagreements(known, fact.state):
            context.ask(fact.kind, fact.object_id, fact.state["now"][0][1])
        await stripe.keep(
            context.connection,
            context.tenant_id,
            kind=fact.kind,
            object_id=fact.object_id,
            payment=fact.payment,
            subscription=fact.subscription,
            invoice=fact.invoice,
            customer=fact.customer,
            state=facts.merge(known, fact.state),
        )


async def settle(context: Context, found: Sequence[facts.Fact]) -> None:
    """Does what the objects of the facts ask for. WaitsError and AsksError: nothing of it was done."""
    for fact in found:
        if fact.kind == facts.CUSTOMER:
            await _customer(context, fact)
    for payment in sorted({fact.payment for fact in found if fact.payment}):
        await _payment(context, payment)
    for subscription in sorted({fact.subscription for fact in found if fact.subscription}):
        await settle_subscription(context, subscription)


async def _customer(context: Context, fact: facts.Fact) -> None:
    account_id = facts.value(fact.state, "account_id")
    if account_id and facts.value(fact.state, "tenant_id", context.tenant_id) == context.tenant_id:
        await _own(context, fact.object_id, account_id)
    if "deleted" in fact.state:
        await stripe.delete_customer(context.connection, context.tenant_id, fact.object_id)
        context.told.append(f"{fact.object_id} is deleted; credits stay")


async def _own(context: Context, customer: str, account_id: str, *, but: Collection[str] = ()) -> None:
    """Notes whose customer it is, and settles what waited for that."""
    if not customer or not await stripe.keep_customer(context.connection, context.tenant_id, customer, account_id):
        return
    for payment, subscription in await stripe.groups_of(context.connection, context.tenant_id, customer):
        if subscription and subscription not in but:
            await settle_subscription(context, subscription)
        elif payment and not subscription and payment not in but:
            await _payment(context, payment)


def _facts(rows: Sequence[Any]) -> list[facts.Fact]:
    return [facts.Fact(**row) for row in rows]


async def _payment(context: Context, payment: str) -> None:
    if payment.startswith(("ch_", "py_")):
        payment = await stripe.payment_of(context.connection, context.tenant_id, payment)
    known = _facts(await stripe.of_payment(context.connection, context.tenant_id, payment))
    sale = sales.of(payment, known)
    if sale.tenant_id not in ("", context.tenant_id):
        context.told.append("of another tenant")
        return
    if sale.invoice or sale.subscription:
        subscription = sale.subscription or await stripe.subscription_of(
            context.connection, context.tenant_id, sale.invoice
        )
        if subscription:
            await settle_subscription(context, subscription)
        else:
            context.told.append(f"remembered until {sale.invoice} comes")
        return
    order = await _order(context, sale.order_id, sale.sessions, payment)
    if sale.paid_units is None:
        await _unpaid(context, sale, order)
        return
    goods = await _goods(context, sale, order)
    if goods is None:
        context.told.append("pays for nothing of the catalog")
        return
    await _grant_package(context, sale, order, goods, known)


async def _order(context: Context, order_id: str, sessions: Sequence[str], payment: str) -> orders.Order | None:
    """The order that the app has named, or that a session or the payment is of."""
    found: orders.Order | None = None
    if order_id:
        try:
            found = await orders.get(context.connection, context.tenant_id, uuid.UUID(order_id))
        except ValueError:
            found = None
    for session in sessions or ("",):
        if found is None:
            found = await orders.find(context.connection, context.tenant_id, session=session, payment_intent=payment)
    return found


async def _unpaid(context: Context, sale: sales.Sale, order: orders.Order | None) -> None:
    if order is not None and (sale.is_over or sale.failure):
        state = orders.CANCELLED if sale.is_over else orders.FAILED
        await orders.advance(context.connection, order, state, now_ms=context.now_ms, failure=sale.failure)
        await top_up_requests.tell_unpaid(
            context.connection, order, state=state, code=sale.failure, now_ms=context.now_ms
        )
        context.told.append(f"purchase {order.order_id} is {state}")
        return
    if sale.returned_units or not sale.package_id:
        context.ask(facts.PAYMENT, sale.payment)
    context.told.append("remembered: not paid yet, or not known to be")


async def _goods(context: Context, sale: sales.Sale, order: orders.Order | None) -> _Goods | None:
    """What was bought: as the order has it, else the catalog; None if it is nothing of meterd's."""
    if order is not None and order.kind == orders.PACKAGE:
        return _Goods(
            package_id=order.product_id,
            wallet=order.wallet,
            amount_micros=order.amount_micros,
            bonus_micros=order.bonus_micros,
            price_units=order.price_units,
            currency=order.currency,
        )
    sold = await stripe.latest_catalog(context.connection, context.tenant_id)
    package = sold.package(sale.package_id) if sale.package_id else None
    if package is None and sale.package_id:
        raise WaitsError(f"the catalog has no package {sale.package_id}")
    if package is None:
        prices = sale.prices
        if not prices and sale.sessions:
            context.ask(facts.SESSION, sale.sessions[0])
        package = next((one for one in sold.packages if one.stripe_price in prices), None)
    for price in sale.prices if package is None else ():
        older = await stripe.catalog_with(context.connection, context.tenant_id, price)
        package = package or next((one for one in older.packages if one.stripe_price == price), None)
    if package is None:
        return None
    return _Goods(
        package_id=package.package_id,
        wallet=package.wallet,
        amount_micros=package.amount_micros,
        bonus_micros=package.bonus_micros,
        price_units=money.minor_units(package.price, package.currency) if package.currency else 0,
        currency=package.currency,
    )


async def _grant_package(
    context: Context, sale: sales.Sale, order: orders.Order | None, goods: _Goods, known: Sequence[facts.Fact]
) -> None:
    assert sale.paid_units is not None, sale.payment
    if sale.currency == goods.currency and sale.price_units < goods.price_units:
        raise WaitsError(
            f"{sale.payment}: {sale.price_units} {sale.currency} was asked for package {goods.package_id}, "
            f"which costs {goods.price_units}"
        )
    account_id = order.account_id if order is not None else sale.account_id
    account_id = account_id or await stripe.account_of(context.connection, context.tenant_id, sale.customer)
    if not account_id:
        raise WaitsError(f"{sale.payment}: nothing says whose account {sale.customer or 'it'} pays for")
    made = await context.steps_of(account_id)
    disputes = sales.disputes(known)
    await made.read([sale.payment, *(one.object_id for one in disputes)])
    parts = (("base", goods.amount_micros, steps.PAID), ("bonus", goods.bonus_micros, plans.PROMOTIONAL))
    for part, amount_micros, category in parts:
        if amount_micros:
            # What was granted counts, whatever the catalog says now.
            granted = made.made(sale.payment, part)
            amount_micros = granted[0].amount if granted else amount_micros
            wallet = granted[0].wallet if granted else goods.wallet
            target = sales.kept_micros(amount_micros, sale.returned_units, sale.paid_units)
            kin = [(sale.payment, other) for other, _, _ in parts]
            terms = steps.Terms(wallet=wallet, category=category, source_id=sale.payment, kin=kin)
            await made.bring(sale.payment, part, target, terms, first_micros=amount_micros)
    await _enter(context, made, sale, goods.package_id)
    await _hold(context, made, disputes)
    if order is not None:
        await _close_order(context, order, sale.payment, paid=sale.paid_units, returned=sale.returned_units)
    await _own(context, sale.customer, account_id, but=(sale.payment,))


async def _enter(context: Context, made: steps.Steps, sale: sales.Sale, package_id: str) -> None:
    assert sale.paid_units is not None, sale.payment
    earlier = made.made(sale.payment, steps.MONEY)
    paid_units = earlier[0].amount if earlier else sale.paid_units
    if not earlier:
        await made.enter(
            sale.payment,
            paid_units,
            kind=purchases.Kind.PACKAGE,
            product_id=package_id,
            currency=sale.currency,
            at_ms=sale.paid_s * 1000,
        )
    await made.enter(
        sale.payment,
        paid_units - min(paid_units, sale.lost_units),
        kind=purchases.Kind.PACKAGE,
        product_id=package_id,
        currency=sale.currency,
        at_ms=context.now_ms,
    )


async def _hold(context: Context, made: steps.Steps, disputes: Sequence[facts.Fact]) -> None:
    if context.freezes:
        for one in disputes:
            await made.hold(one.object_id, frozen=facts.value(one.state, "status") in sales.DISPUTED)


async def _close_order(
    context: Context, order: orders.Order, payment: str, *, paid: int, returned: int, subscription: str = ""
) -> None:
    state = orders.REFUNDED if 0 < paid <= returned else orders.COMPLETED
    await orders.advance(
        context.connection,
        order,
        state,
        now_ms=context.now_ms,
        payment_id=payment,
        payment_intent=payment if payment.startswith("pi_") else "",
        subscription=subscription,
        refunded_units=returned,
    )


# ---- subscriptions


async def settle_subscription(context: Context, subscription: str) -> None:
    """Does what the subscription's paid invoices ask for, as of now. WaitsError and AsksError: nothing of it was done."""
    known = _facts(await stripe.of_subscription(context.connection, context.tenant_id, subscription))
    own = next((one for one in known if one.kind == facts.SUBSCRIPTION), None)
    invoices = [one for one in known if one.kind == facts.INVOICE]
    sources = [*([own] if own else []), *invoices, *(one for one in known if one.kind == facts.SESSION)]
    said = {name: _said(sources, name) for name in ("tenant_id", "account_id", "plan_id", "order_id")}
    if said["tenant_id"] not in ("", context.tenant_id):
        context.told.append("of another tenant")
        return
    for one in invoices:
        if not facts.value(one.state, "is_whole", True):
            context.ask(facts.INVOICE, one.object_id)
    now = facts.value(own.state, "now", {}) if own else {}
    by_price, fallback = await _plans(context, coverage.prices(invoices, now), said["plan_id"])
    customer = next((one.customer for one in sources if one.customer), "")
    account_id = (
        said["account_id"]
        or _said(sources, "client_reference_id")
        or await stripe.account_of(context.connection, context.tenant_id, customer)
    )
    if account_id:
        await _own(context, customer, account_id, but=(subscription,))
    paid = coverage.of(invoices, by_price, fallback, subscription, lambda invoice: _of_invoice(known, invoice))
    if not paid:
        context.told.append("remembered: nothing of the catalog is paid yet")
        return
    if not account_id:
        raise WaitsError(f"{subscription}: nothing says whose account {customer or 'it'} pays for")
    made = await context.steps_of(account_id)
    disputes = sales.disputes(known)
    await made.read([*(one.invoice for one in paid), *(one.object_id for one in disputes)])
    await _grant_slices(context, made, paid, ended_ms=now.get("ended_s", 0) * 1000, subscription=subscription)
    await _hold(context, made, disputes)
    for one in paid:
        await _enter_invoice(context, made, one)
    await _follow(context, account_id, subscription, own, invoices, paid)
    order = await _order(context, said["order_id"], [one.object_id for one in known if one.kind == facts.SESSION], "")
    if order is not None and order.kind == orders.SUBSCRIPTION:
        first = paid[0]
        await _close_order(
            context,
            order,
            first.invoice,
            paid=first.paid_units,
            returned=first.returned_units,
            subscription=subscription,
        )


def _said(sources: Sequence[facts.Fact], name: str) -> str:
    return next((found for one in sources if (found := facts.value(one.state, name))), "")


def _of_invoice(known: Sequence[facts.Fact], invoice: str) -> list[facts.Fact]:
    """What belongs to the payments of an invoice."""
    payments = {one.payment for one in known if one.invoice == invoice and one.payment and one.kind != facts.INVOICE}
    return [one for one in known if one.payment in payments]


async def _plans(
    context: Context, prices: Sequence[str], plan_id: str
) -> tuple[dict[str, offers.Plan], offers.Plan | None]:
    """Plans by Stripe's price: of the catalog in force, else of the last one that had the price; and what the app has named."""
    sold = await stripe.latest_catalog(context.connection, context.tenant_id)
    found = {one.stripe_price: one for one in sold.plans if one.stripe_price in prices}
    for price in prices:
        if price not in found:
            older = await stripe.catalog_with(context.connection, context.tenant_id, price)
            found |= {one.stripe_price: one for one in older.plans if one.stripe_price == price}
    unknown = [price for price in prices if price not in found]
    # Whatever the app has named is for the price it began with: with another price it may be another plan by now.
    fallback = sold.plan(plan_id) if plan_id and unknown and len(prices) == 1 else None
    if unknown and fallback is None and (plan_id or found):
        raise WaitsError(f"no plan of the catalog has the price {unknown[0]}")
    return found, fallback


async def _grant_slices(
    context: Context, made: steps.Steps, paid: Sequence[coverage.Paid], *, ended_ms: int, subscription: str
) -> None:
    due_ms: list[int] = []
    for one in paid:
        for part in one.slices:
            lasts_ms = part.end_ms if one.plan.rollover else part.expires_ms
            if ended_ms and lasts_ms > ended_ms:
                await made.revoke(part.invoice, part.part)
            elif part.end_ms > context.now_ms >= part.start_ms - AHEAD_MS:
                terms = steps.Terms(
                    wallet=part.wallet,
                    category=plans.ALLOWANCE,
                    source_id=f"{subscription}:{part.invoice}",
                    effective_ms=part.start_ms,
                    expires_ms=part.expires_ms,
                    kin=[(other.invoice, other.part) for of in paid for other in of.slices if other.overlaps(part)],
                )
                await made.bring(
                    part.invoice, part.part, part.kept_micros, terms, first_micros=max(0, part.amount_micros)
                )
                due_ms.append(part.end_ms)
            elif part.start_ms > context.now_ms and not ended_ms:
                due_ms.append(part.start_ms - AHEAD_MS)
    later = [at_ms for at_ms in due_ms if at_ms > context.now_ms]
    await stripe.set_due(context.connection, context.tenant_id, subscription, min(later, default=0))


async def _enter_invoice(context: Context, made: steps.Steps, one: coverage.Paid) -> None:
    if one.paid_units == 0:
        return
    moments = [(one.paid_units, one.paid_s * 1000)] if not made.made(one.invoice, steps.MONEY) else []
    for units, at_ms in (*moments, (one.paid_units - one.lost_units, context.now_ms)):
        await made.enter(
            one.invoice,
            units,
            kind=purchases.Kind.SUBSCRIPTION,
            product_id=one.plan.plan_id,
            currency=one.currency,
            at_ms=at_ms,
        )


async def _follow(
    context: Context,
    account_id: str,
    subscription: str,
    own: facts.Fact | None,
    invoices: Sequence[facts.Fact],
    paid: Sequence[coverage.Paid],
) -> None:
    """Puts the account on the plan that was paid last, or ends it; what was paid back whole counts for nothing."""
    account = catalog.account_of(await catalog.row_of(context.connection, context.tenant_id, account_id))
    row = (await catalog.lock_accounts(context.connection, context.tenant_id, [account_id]))[account_id]
    now = facts.value(own.state, "now", {}) if own else {}
    held = [one for one in paid if one.returned_units < one.paid_units or one.paid_units == 0]
    ended_ms = now.get("ended_s", 0) * 1000
    if ended_ms or not held:
        await _hand_over(context, account, subscription)
        sold = await stripe.latest_catalog(context.connection, context.tenant_id)
        was_on = await plans.unfollow_within(
            context.connection,
            row,
            context.tenant_id,
            account_id,
            source_id=subscription,
            ended_ms=ended_ms or context.now_ms,
            kept=sold.plan(sold.account.plan_id),
            now_ms=context.now_ms,
        )
        if was_on:
            context.told.append(f"{account_id} is no longer on its plan")
        return
    created_s = facts.value(own.state, "created_s", 0) if own else 0
    if await _has_rival(context, account_id, subscription, created_s):
        context.told.append(f"{account_id} has a later subscription, whose plan it is on")
        return
    wanted = _wanted(account, subscription, own, _status(now, own, invoices), held, context.now_ms)
    until_ms = max(one.end_ms for one in held) + coverage.RENEWAL_GRACE_MS
    await plans.follow_within(
        context.connection, row, wanted, source_id=subscription, until_ms=until_ms, now_ms=context.now_ms
    )
    context.told.append(f"{account_id} is on plan {wanted.plan.plan_id} ({wanted.status.value})")


async def _has_rival(context: Context, account_id: str, subscription: str, created_s: int) -> bool:
    """Whether the account is on the plan of a later subscription, which is live: for one account there is one plan."""
    other = await plans.followed_within(context.connection, context.tenant_id, account_id)
    if other in ("", subscription, context.leaving):
        return False
    row = await stripe.known(context.connection, context.tenant_id, facts.SUBSCRIPTION, other)
    if row is None or facts.value(row["state"], "now", {}).get("ended_s", 0):
        return False
    return (facts.value(row["state"], "created_s", 0), other) > (created_s, subscription)


async def _hand_over(context: Context, account: catalog.Account, subscription: str) -> None:
    """Puts an account that is on the subscription's plan on that of the latest other one that is live and paid, if there is any."""
    now = (context.connection, context.tenant_id, account.account_id)
    if await plans.followed_within(*now) != subscription:
        return
    left = dataclasses.replace(context, leaving=subscription)
    for other in await stripe.live_others(context.connection, context.tenant_id, account.account_no, subscription):
        try:
            async with context.connection.transaction():
                await settle_subscription(left, other)
        except WaitsError as exc:
            context.told.append(f"{other} waits: {exc}")
        if await plans.followed_within(*now) != subscription:
            return


def _wanted(
    account: catalog.Account,
    subscription: str,
    own: facts.Fact | None,
    status: core.Status,
    held: Sequence[coverage.Paid],
    now_ms: int,
) -> core.Subscription:
    """The subscription's row, as the invoices that are held have it."""
    begun = [one for one in held if one.start_ms <= now_ms + AHEAD_MS] or list(held)
    current = begun[-1]
    start_ms, end_ms = coverage.month(current.start_ms, current.end_ms, now_ms)
    state = own.state if own else {}
    anchor_ms = facts.value(state, "anchor_s", 0) * 1000 or held[0].start_ms
    started_ms = facts.value(state, "created_s", 0) * 1000 or anchor_ms
    number = 0 if status is core.Status.TRIAL else max(1, sum(one.paid_units > 0 for one in begun))
    return core.Subscription(
        subscription_id=uuid.UUID(int=0),
        tenant_id=account.tenant_id,
        account_id=account.account_id,
        account_no=account.account_no,
        address=account.address,
        plan=dataclasses.replace(current.plan, period=offers.BILLING_MONTH),
        next_plan=None,
        status=status,
        started_ms=min(started_ms, anchor_ms),
        anchor_ms=anchor_ms,
        period_no=number,
        period_start_ms=start_ms,
        period_end_ms=end_ms,
        granted_no=number,
        withdrawals=0,
        terms_until_ms=current.end_ms,
        cancel_at_period_end=bool(facts.value(state, "now", {}).get("ends")),
        canceled_ms=0,
        due_ms=0,
        source_id=subscription,
    )


def _status(now: dict[str, Any], own: facts.Fact | None, invoices: Sequence[facts.Fact]) -> core.Status:
    """As the subscription has it, unless a payment has failed since."""
    seen_s = own.state["now"][0][1] if own and "now" in own.state else 0
    failed = any(
        facts.value(one.state, "failed_s", 0) >= max(1, seen_s)
        and facts.value(one.state, "status") not in ("paid", "void", "uncollectible")
        for one in invoices
    )
    if now.get("status") in _UNPAID or now.get("paused") or failed:
        return core.Status.PAST_DUE
    return core.Status.TRIAL if now.get("status") == "trialing" else core.Status.ACTIVE
