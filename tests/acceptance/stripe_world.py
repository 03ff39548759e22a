"""Stripe as the webhook process sees it: objects and events in Stripe's shapes, signed by Stripe's own signer, sent over HTTP."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import pathlib
import sys
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import httpx
import stripe

from tests.acceptance import installation, processes, products

Document = dict[str, Any]

SECRET = "whsec_" + "a" * 32
OLD_SECRET = "whsec_" + "b" * 32
API_VERSION = "2026-10-28.endive"
DAY_S = 86_400
MONTH_S = 30 * DAY_S

CATALOG = """
currency: usd
packages:
  starter: {name: Starter, credits: 2000, bonus: 500, price: 19, stripe_price: price_starter}
  odd: {name: Odd, credits: 10.000001, price: 0.07, stripe_price: price_odd}
plans:
  free: {name: Free, price: 0, allowances: {default: 10}}
  pro: {name: Pro, price: 19, period: billing_month, stripe_price: price_pro, allowances: {default: 3000}}
  elite: {name: Elite, price: 38, period: billing_month, stripe_price: price_elite, allowances: {default: 6000, forecast: 30}}
  year: {name: Year, price: 190, interval: year, period: billing_month, stripe_price: price_year, allowances: {default: 1000}}
  endless: {name: Endless, price: 5, period: billing_month, stripe_price: price_endless, unlimited: true, actions_per_day: 100}
account: {plan: free}
"""
PRICES = {"price_pro": 1900, "price_elite": 3800, "price_year": 19_000, "price_endless": 500}

_numbers = itertools.count(1)


def new_id(kind: str) -> str:
    """An id such as Stripe makes."""
    return f"{kind}_{uuid.uuid4().hex[:20]}{next(_numbers)}"


def now_s() -> int:
    return int(time.time())


def event(kind: str, found: Document, *, at_s: int | None = None, **fields: Any) -> Document:
    """An event about an object, as it is now."""
    return {
        "id": new_id("evt"),
        "object": "event",
        "api_version": API_VERSION,
        "created": now_s() if at_s is None else at_s,
        "data": {"object": json.loads(json.dumps(found))},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    } | fields


def session(
    account_id: str, *, package: str = "starter", units: int = 1900, paid: bool = True, **fields: Any
) -> Document:
    """A page of Checkout for a package, complete."""
    return {
        "id": new_id("cs_test"),
        "object": "checkout.session",
        "amount_subtotal": units,
        "amount_total": units,
        "client_reference_id": None,
        "created": now_s(),
        "currency": "usd",
        "customer": None,
        "invoice": None,
        "livemode": False,
        "metadata": {"meterd_account": account_id, "meterd_package": package},
        "mode": "payment",
        "payment_intent": new_id("pi"),
        "payment_status": "paid" if paid else "unpaid",
        "status": "complete",
        "subscription": None,
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
    } | fields


def payment_intent(
    payment_id: str,
    *,
    account_id: str = "",
    package: str = "starter",
    units: int = 1900,
    status: str = "succeeded",
    **fields: Any,
) -> Document:
    """A payment; without an account it says nothing of meterd."""
    metadata = {"meterd_account": account_id, "meterd_package": package} if account_id else {}
    return {
        "id": payment_id,
        "object": "payment_intent",
        "amount": units,
        "amount_received": units if status == "succeeded" else 0,
        "created": now_s(),
        "currency": "usd",
        "customer": None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": metadata,
        "status": status,
    } | fields


def charge(payment_id: str, *, units: int = 1900, refunded: int = 0, **fields: Any) -> Document:
    return {
        "id": f"ch_{payment_id}",
        "object": "charge",
        "amount": units,
        "amount_captured": units,
        "amount_refunded": refunded,
        "created": now_s(),
        "currency": "usd",
        "customer": None,
        "disputed": False,
        "livemode": False,
        "metadata": {},
        "paid": True,
        "payment_intent": payment_id,
        "refunded": refunded == units,
        "status": "succeeded",
    } | fields


def refund(payment_id: str, units: int, *, status: str = "succeeded", **fields: Any) -> Document:
    return {
        "id": new_id("re"),
        "object": "refund",
        "amount": units,
        "charge": f"ch_{payment_id}",
        "created": now_s(),
        "currency": "usd",
        "metadata": {},
        "payment_intent": payment_id,
        "reason": None,
        "status": status,
    } | fields


def dispute(payment_id: str, *, units: int = 1900, status: str = "needs_response", **fields: Any) -> Document:
    return {
        "id": new_id("du"),
        "object": "dispute",
        "amount": units,
        "charge": f"ch_{payment_id}",
        "created": now_s(),
        "currency": "usd",
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
        "payment_intent": payment_id,
        "reason": "fraudulent",
        "status": status,
    } | fields


def subscription(
    subscription_id: str,
    account_id: str,
    *,
    price: str,
    start_s: int,
    end_s: int,
    status: str = "active",
    **fields: Any,
) -> Document:
    return {
        "id": subscription_id,
        "object": "subscription",
        "billing_cycle_anchor": start_s,
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "created": start_s,
        "currency": "usd",
        "customer": f"cus_{subscription_id}",
        "ended_at": None,
        "items": {
            "object": "list",
            "has_more": False,
            "data": [
                {
                    "id": f"si_{subscription_id}",
                    "object": "subscription_item",
                    "current_period_start": start_s,
                    "current_period_end": end_s,
                    "price": {"id": price, "object": "price", "type": "recurring", "unit_amount": PRICES[price]},
                    "quantity": 1,
                    "subscription": subscription_id,
                }
            ],
        },
        "latest_invoice": None,
        "livemode": False,
        "metadata": {"meterd_account": account_id} if account_id else {},
        "pause_collection": None,
        "start_date": start_s,
        "status": status,
        "trial_end": None,
        "trial_start": None,
    } | fields


def line(
    subscription_id: str, price: str, start_s: int, end_s: int, *, units: int | None = None, proration: bool = False
) -> Document:
    """A line of an invoice; a part of a period that is given back has a negative amount."""
    details = {
        "invoice_item": None,
        "proration": proration,
        "proration_details": {"credited_items": None},
        "subscription": subscription_id,
        "subscription_item": f"si_{subscription_id}",
    }
    return {
        "id": new_id("il"),
        "object": "line_item",
        "amount": PRICES[price] if units is None else units,
        "currency": "usd",
        "livemode": False,
        "metadata": {},
        "parent": {
            "type": "subscription_item_details",
            "subscription_item_details": details,
            "invoice_item_details": None,
        },
        "period": {"start": start_s, "end": end_s},
        "pricing": {"type": "price_details", "price_details": {"price": price, "product": f"prod_{price}"}},
        "quantity": 1,
    }


def invoice(
    subscription_id: str,
    lines: Sequence[Document],
    *,
    status: str = "paid",
    reason: str = "subscription_cycle",
    **fields: Any,
) -> Document:
    total = sum(one["amount"] for one in lines)
    return {
        "id": new_id("in"),
        "object": "invoice",
        "amount_due": max(0, total),
        "amount_paid": max(0, total) if status == "paid" else 0,
        "amount_remaining": 0 if status == "paid" else max(0, total),
        "billing_reason": reason,
        "created": now_s(),
        "currency": "usd",
        "customer": f"cus_{subscription_id}",
        "lines": {"object": "list", "data": list(lines), "has_more": False},
        "livemode": False,
        "metadata": {},
        "parent": {
            "type": "subscription_details",
            "quote_details": None,
            "subscription_details": {"metadata": {}, "subscription": subscription_id},
        },
        "status": status,
        "total": total,
    } | fields


def invoice_payment(invoice_id: str, payment_id: str) -> Document:
    return {
        "id": new_id("inpay"),
        "object": "invoice_payment",
        "created": now_s(),
        "currency": "usd",
        "invoice": invoice_id,
        "is_default": True,
        "livemode": False,
        "payment": {"type": "payment_intent", "payment_intent": payment_id},
        "status": "paid",
    }


def body_of(document: Document) -> bytes:
    return json.dumps(document, indent=2).encode()


def signature(body: bytes, *, secret: str = SECRET, at_s: int | None = None) -> str:
    return stripe.WebhookSignature.generate_signature_header(body.decode(), secret, at_s)


class Process(processes.Server):
    """`meterd stripe serve` of one tenant."""

    def environment(self) -> dict[str, str]:
        own = {
            "METERD_STRIPE_LISTEN": self.address,
            "METERD_STRIPE_WEBHOOK_SECRETS": f"{SECRET} {OLD_SECRET}",
        }
        return processes.meterd_environment(redis_url=self.redis_url, dsn=self.dsn) | own | self.settings


class DoomedProcess(Process):
    """The same, but it kills itself when it comes to a step."""

    def command(self) -> list[str]:
        return [sys.executable, str(pathlib.Path(__file__).with_name("stripe_doomed.py")), *self.arguments]


@dataclasses.dataclass(kw_only=True, slots=True)
class World:
    """A tenant that sells, and its webhook process."""

    product: products.Product
    process: Process
    http: httpx.Client

    @property
    def made(self) -> installation.Installation:
        return self.product.made

    def post(self, body: bytes, header: str) -> httpx.Response:
        headers = {"stripe-signature": header, "content-type": "application/json; charset=utf-8"}
        return self.http.post(f"http://{self.process.address}/webhooks/stripe", content=body, headers=headers)

    def send(self, document: Document, *, secret: str = SECRET) -> int:
        """Delivers an event; answers the status."""
        body = body_of(document)
        return self.post(body, signature(body, secret=secret)).status_code

    def deliver(self, *documents: Document) -> None:
        """Delivers events one after the other. Each is kept, whether or not its effect has to wait."""
        for document in documents:
            assert self.send(document) in (200, 202), f"{document['type']}\n{self.process.log_tail()}"

    def at_once(self, document: Document, count: int) -> list[int]:
        """Delivers one event many times at the same moment; answers the statuses."""
        body = body_of(document)
        header = signature(body)
        with concurrent.futures.ThreadPoolExecutor(max_workers=count) as executor:
            futures = [executor.submit(self.post, body, header) for _ in range(count)]
            return [one.result().status_code for one in futures]

    def account(self, **fields: Any) -> str:
        """A new account; it begins on the free plan, whose 10 credits are taken away, so that all it has is what was paid."""
        account_id = f"a-{uuid.uuid4().hex[:16]}"
        self.product.open(account_id, **fields)
        return account_id

    def settled(self, account_id: str) -> None:
        """Waits until Redis has all changes of the account and Postgres all its records."""

        def is_applied() -> bool:
            rows = self.made.sql(
                """SELECT FROM account_changes AS c JOIN accounts AS a USING (account_no)
                WHERE a.tenant_id = $1 AND a.account_id = $2 AND c.applied_at IS NULL LIMIT 1""",
                self.product.tenant_id,
                account_id,
            )
            return not rows

        self.product.balance(account_id)
        processes.wait_until(is_applied, f"changes of {account_id} applied")

    def credits(self, account_id: str) -> dict[str, float]:
        """What is available by wallet, without the wallets that have nothing; below 0 is debt."""
        self.settled(account_id)
        found = {one.wallet: one.available_micros / products.CREDIT for one in self.product.balance(account_id).wallets}
        return {wallet: amount for wallet, amount in found.items() if amount}

    def entries(self, about: str) -> list[Document]:
        """What the log says of an event or an object."""
        answer = self.made.meterd("stripe", "log", about, "--tenant", self.product.tenant_id, "--json")
        return json.loads(answer)["events"]

    def inbox(self) -> int:
        """Events that are kept."""
        (row,) = self.made.sql("SELECT count(*) AS n FROM stripe_inbox WHERE tenant_id = $1", self.product.tenant_id)
        return row["n"]

    def money(self, account_id: str) -> list[tuple[str, str, str]]:
        """Rows of money: kind, product and amount, in the order in which they were made."""
        rows = self.made.sql(
            """SELECT p.kind, p.product_id, p.amount, p.currency FROM purchases AS p JOIN accounts AS a USING (account_no)
            WHERE a.tenant_id = $1 AND a.account_id = $2 ORDER BY p.created_at, p.purchase_id""",
            self.product.tenant_id,
            account_id,
        )
        return [(row["kind"], row["product_id"], f"{row['amount']} {row['currency']}") for row in rows]


def started(
    made: installation.Installation, tenant_id: str, settings: Mapping[str, str], kind: type[Process] = Process
) -> Process:
    """The webhook process of a tenant, running, with further METERD_STRIPE_* settings."""
    process = kind(
        directory=pathlib.Path(made.server.directory),
        redis_url="redis://127.0.0.1:1/0",
        dsn=made.postgres.dsn,
        name=f"stripe-{uuid.uuid4().hex[:8]}",
        arguments=("stripe", "serve"),
        settings={"METERD_STRIPE_TENANT": tenant_id}
        | {f"METERD_{name.upper()}": text for name, text in settings.items()},
    )
    process.start()
    return process


@contextlib.contextmanager
def opened(made: installation.Installation, tenant_id: str, **settings: str) -> Generator[World]:
    """A tenant with CATALOG, and its webhook process."""
    with (
        products.opened(made, tenant_id) as product,
        httpx.Client(timeout=30, limits=httpx.Limits(max_connections=64)) as http,
    ):
        assert product.apply(CATALOG).applied
        process = started(made, tenant_id, settings)
        try:
            yield World(product=product, process=process, http=http)
        finally:
            process.kill()
