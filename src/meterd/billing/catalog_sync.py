"""Products and prices at Stripe for what a catalog sells, and their ids in the catalog.

`planned` only looks; `apply` does what it found. A price at Stripe never changes its amount: a changed one gets a new price, and the old
one is archived once the catalog names the new; so are the prices that a sync has made for what is not sold any more. Subscriptions keep the
price that they began with. Products have ids that follow from
tenant and item, and prices a lookup key, so that whatever was begun is found again, also if the catalog has lost the ids meanwhile.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import uuid
from collections.abc import Sequence
from typing import Any

import asyncpg

from meterd.billing import marks, outgoing
from meterd.core import catalog, errors, money
from meterd.postgres import catalogs, orders

# Stripe's own limit.
LOOKUP_KEY_CHARS_MAX = 200
APPLIED_BY = "meterd stripe sync"

Document = dict[str, Any]


class Step(enum.StrEnum):
    """What has to be done for an item."""

    # The catalog names a price that is right.
    KEEP = "keep"
    # There is a right price at Stripe, which the catalog does not name.
    MATCH = "match"
    CREATE = "create"
    # There is a price of another amount.
    REPLACE = "replace"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A package or plan as it is to be at Stripe. `price_units` in the currency's minor unit; `interval` "" is paid once."""

    kind: str
    item_id: str
    name: str
    price_units: int
    currency: str
    interval: str
    stripe_price: str

    @property
    def price(self) -> str:
        """Such as "19.00 eur a month"."""
        every = f" a {self.interval}" if self.interval else ""
        return f"{money.price_string(self.price_units, self.currency)} {self.currency}{every}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What is to be done for one item. `price_id` is that of MATCH and KEEP; `old_ids` are archived in the end."""

    item: Item
    step: Step
    price_id: str = ""
    old_ids: tuple[str, ...] = ()
    # The product as it is; "" if it has to be made.
    product_id: str = ""
    # Whether the product is to have another name, or to be active again.
    renames: bool = False
    # What a sync has made for the item, archived or not.
    made_ids: tuple[str, ...] = ()

    @property
    def is_change(self) -> bool:
        return self.step is not Step.KEEP or self.renames or bool(self.old_ids)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Retired:
    """A price of a sync, whose item is not sold any more; it is archived."""

    kind: str
    item_id: str
    price_id: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All changes of a catalog, in its order. `skipped` are items that nobody pays for, or that are not active."""

    tenant_id: str
    sold: catalog.Catalog
    changes: Sequence[Change]
    skipped: Sequence[str]
    retired: Sequence[Retired] = ()

    @property
    def is_done(self) -> bool:
        return not self.retired and not any(change.is_change for change in self.changes)


def items(sold: catalog.Catalog) -> tuple[list[Item], list[str]]:
    """What Stripe has to know of a catalog, and the ids of what it has not."""
    found: list[Item] = []
    skipped: list[str] = []
    for item in (*sold.packages, *sold.plans):
        kind, item_id = (
            (marks.PACKAGE, item.package_id) if isinstance(item, catalog.Package) else (marks.PLAN, item.plan_id)
        )
        if not item.active or not item.currency or not money.minor_units(item.price, item.currency):
            skipped.append(item_id)
            continue
        found.append(
            Item(
                kind=kind,
                item_id=item_id,
                name=item.name,
                price_units=money.minor_units(item.price, item.currency),
                currency=item.currency,
                interval=item.interval if isinstance(item, catalog.Plan) else "",
                stripe_price=item.stripe_price,
            )
        )
    return found, skipped


async def planned(
    connections: asyncpg.Pool, stripe_: outgoing.Stripe, tenant_id: str, *, livemode: bool
) -> tuple[outgoing.Stripe, Plan]:
    """What would have to be done, and Stripe as the tenant's. Changes nothing.

    FailedPreconditionError: the tenant has no catalog, or is of another mode.
    """
    account = await orders.account_at_stripe(connections, tenant_id, livemode=livemode)
    sold = (await catalogs.latest(connections, tenant_id)).catalog
    if not sold.version:
        raise errors.FailedPreconditionError("the tenant has no catalog yet: run `meterd catalog apply`")
    at_stripe = stripe_.of(account)
    wanted, skipped = items(sold)
    changes = [await _change(at_stripe, tenant_id, item) for item in wanted]
    retired = await _retired(at_stripe, tenant_id, wanted)
    return at_stripe, Plan(tenant_id=tenant_id, sold=sold, changes=changes, skipped=skipped, retired=retired)


async def _retired(at_stripe: outgoing.Stripe, tenant_id: str, wanted: Sequence[Item]) -> list[Retired]:
    """Active prices that a sync of the tenant's has made, for what the catalog does not sell, or not any more."""
    sold = {(item.kind, item.item_id) for item in wanted}
    # An item may have got another id, and kept its price.
    named = {item.stripe_price for item in wanted}
    found: list[Retired] = []
    archived: dict[str, bool] = {}
    async for price in at_stripe.all("prices", {"active": True}):
        marked = price.get("metadata") or {}
        kind = next((one for one in (marks.PACKAGE, marks.PLAN) if one in marked), "")
        if marked.get(marks.TENANT) != tenant_id or not kind or price["id"] in named or (kind, marked[kind]) in sold:
            continue
        product_id = str(price["product"])
        if product_id not in archived:
            product = await _found(at_stripe, f"products/{product_id}")
            archived[product_id] = product is None or not product["active"]
        if not archived[product_id]:
            found.append(Retired(kind=kind, item_id=marked[kind], price_id=price["id"]))
    return sorted(found, key=lambda one: (one.kind, one.item_id, one.price_id))


async def _change(at_stripe: outgoing.Stripe, tenant_id: str, item: Item) -> Change:
    named = await _found(at_stripe, f"prices/{item.stripe_price}") if item.stripe_price else None
    listed = await at_stripe.get("prices", {"lookup_keys": [_lookup_key(tenant_id, item)], "active": True, "limit": 1})
    known = [one for one in (named, *listed["data"]) if one is not None]
    right = next((one for one in known if _is_right(one, item)), None)
    source = right or next(iter(known), None)
    product_id = str(source["product"]) if source else _product_id(tenant_id, item)
    product = await _found(at_stripe, f"products/{product_id}")
    if product is not None:
        # A sync that was killed may have left some of its own.
        mine = _metadata(tenant_id, item).items()
        siblings = at_stripe.all("prices", {"product": product_id})
        known += [one async for one in siblings if mine <= (one.get("metadata") or {}).items()]
    old = {one["id"]: None for one in known if one["active"] and (right is None or one["id"] != right["id"])}
    return Change(
        item=item,
        step=_step(item, right, bool(old)),
        price_id=right["id"] if right else "",
        old_ids=tuple(old),
        product_id=product_id if product else "",
        renames=product is not None and (product.get("name") != item.name or not product["active"]),
        made_ids=tuple(sorted({one["id"] for one in known})),
    )


def _step(item: Item, right: Document | None, has_old: bool) -> Step:
    if right is not None:
        return Step.KEEP if right["id"] == item.stripe_price else Step.MATCH
    return Step.REPLACE if has_old else Step.CREATE


async def _found(at_stripe: outgoing.Stripe, path: str) -> Document | None:
    try:
        return await at_stripe.get(path)
    except outgoing.RefusedError as exc:
        if exc.code == "resource_missing":
            return None
        raise


def _is_right(price: Document, item: Item) -> bool:
    recurring: Document = price.get("recurring") or {}
    every = (recurring.get("interval", ""), recurring.get("interval_count", 1))
    return (
        price["active"]
        and (price["unit_amount"], price["currency"]) == (item.price_units, item.currency)
        and every == (item.interval, 1)
    )


async def apply(connections: asyncpg.Pool, at_stripe: outgoing.Stripe, plan: Plan) -> str:
    """Does what was planned; answers the version of the catalog that names the prices. A repeat after any failure goes on.

    FailedPreconditionError: another catalog came into force since; nothing is archived then.
    """
    made = {
        (change.item.kind, change.item.item_id): await _make(at_stripe, plan.tenant_id, change)
        for change in plan.changes
    }
    sold = catalog.versioned(_named(plan.sold, made))
    await catalogs.apply(connections, plan.tenant_id, sold, expected_version=plan.sold.version, applied_by=APPLIED_BY)
    # Only now, since nobody sells by them any more.
    for change in plan.changes:
        for old_id in change.old_ids:
            await _archive(at_stripe, old_id, made[change.item.kind, change.item.item_id])
    for one in plan.retired:
        await _archive(at_stripe, one.price_id, "")
    return sold.version


async def _make(at_stripe: outgoing.Stripe, tenant_id: str, change: Change) -> str:
    """The id of the item's price."""
    item = change.item
    metadata = _metadata(tenant_id, item)
    product_id = change.product_id or _product_id(tenant_id, item)
    if not change.product_id:
        # The id makes a repeat harmless.
        await _update(at_stripe, "products", {"id": product_id, "name": item.name, "metadata": metadata})
    elif change.renames:
        await _update(at_stripe, f"products/{product_id}", {"name": item.name, "active": True})
    if change.price_id:
        return change.price_id
    params = {
        "product": product_id,
        "unit_amount": item.price_units,
        "currency": item.currency,
        "lookup_key": _lookup_key(tenant_id, item),
        "transfer_lookup_key": True,
        "nickname": item.item_id,
        "metadata": metadata,
    }
    if item.interval:
        params["recurring"] = {"interval": item.interval}
    # With the prices before it: an amount that comes back after another one, or after it was archived, has a new price.
    made = await at_stripe.post("prices", params, key=_key(f"{change.made_ids} {item.stripe_price}", params))
    return made["id"]


async def _archive(at_stripe: outgoing.Stripe, old_id: str, new_id: str) -> None:
    """Lets the old price not be used for anything new; `new_id` "" is none in its place. A repeat changes nothing."""
    old = await at_stripe.get(f"prices/{old_id}")
    product = await at_stripe.get(f"products/{old['product']}")
    if product.get("default_price") == old_id:
        # Stripe does not archive a product's default. Without another one the product is archived, with all its prices.
        if not new_id:
            await _update(at_stripe, f"products/{old['product']}", {"active": False})
            return
        await _update(at_stripe, f"products/{old['product']}", {"default_price": new_id})
    await _update(at_stripe, f"prices/{old_id}", {"active": False})


async def _update(at_stripe: outgoing.Stripe, path: str, params: Document) -> None:
    """Sets what a repeat sets too, so each try may have a key of its own: a name that comes back must not be a replay of long ago."""
    await at_stripe.post(path, params, key=f"sync:{uuid.uuid4()}")


def _named(sold: catalog.Catalog, prices: dict[tuple[str, str], str]) -> catalog.Catalog:
    """The catalog with the prices' ids; what has none here keeps what it has."""
    return dataclasses.replace(
        sold,
        packages=tuple(
            dataclasses.replace(item, stripe_price=prices.get((marks.PACKAGE, item.package_id), item.stripe_price))
            for item in sold.packages
        ),
        plans=tuple(
            dataclasses.replace(item, stripe_price=prices.get((marks.PLAN, item.plan_id), item.stripe_price))
            for item in sold.plans
        ),
    )


def _lookup_key(tenant_id: str, item: Item) -> str:
    text = f"{tenant_id}:{item.kind}:{item.item_id}"
    return text if len(text) <= LOOKUP_KEY_CHARS_MAX else f"meterd_{hashlib.sha256(text.encode()).hexdigest()}"


def _product_id(tenant_id: str, item: Item) -> str:
    text = f"{tenant_id}\0{item.kind}\0{item.item_id}"
    return f"{item.kind}_{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _metadata(tenant_id: str, item: Item) -> dict[str, str]:
    return {marks.TENANT: tenant_id, item.kind: item.item_id}


def _key(what: str, params: Document) -> str:
    return f"sync:{hashlib.sha256(f'{what} {sorted(params.items())!r}'.encode()).hexdigest()}"
