"""A Stripe that runs in its own process and is strict with those who call it: `python -m tests.acceptance.fake_stripe PORT`.

It refuses what Stripe refuses: unknown or missing parameters (by the types of Stripe's own library), other API versions than the one that
meterd pins, keys that are not its own, and an idempotency key that comes again with other parameters. A POST without a key is refused
too, which Stripe would take. Below /_test/ stands what a test does in Stripe's place: pays, breaks lines, looks what there is.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from tests.acceptance import stripe_params

API_VERSION = "2026-10-28.endive"
KEYS = ("sk_test_fake", "rk_test_fake", "sk_live_fake")
PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX = 10, 100
# A page of Checkout lives from half an hour to a day.
EXPIRES_MIN_S, EXPIRES_MAX_S = 30 * 60, 24 * 60 * 60
DECLINED = "pm_card_chargeDeclined"
_ID = re.compile(r"(cus|cs|pi|sub|prod|price|in|evt|bps|meterd)_[A-Za-z0-9_]+\Z")

Document = dict[str, Any]
Handler = Callable[[str, Document], Document]


class Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        kind = {402: "card_error"}.get(status, "invalid_request_error")
        self.status = status
        self.error: Document = {"type": kind, "code": code or None, "message": message, **more}


class Fake:
    """All objects of one account, by id, in the order in which they were made."""

    def __init__(self, *, livemode: bool = False) -> None:
        self.objects: dict[str, Document] = {}
        # What a session sells.
        self.items: dict[str, list[Document]] = {}
        self.requests: list[Document] = []
        # By idempotency key: digest of the request, and the answer; None while it is being made.
        self.answers: dict[str, tuple[bytes, tuple[int, Document] | None]] = {}
        self.faults: list[Document] = []
        self.livemode = livemode
        self._numbers = itertools.count(1)
        # Objects that were made before this process would have the same ids.
        self._run = hashlib.sha256(str(time.time_ns()).encode()).hexdigest()[:8]
        self._handlers: dict[str, Handler] = {
            "POST customers": lambda _, p: self.make("cus", "customer", {"email": None, "invoice_settings": {}, **p}),
            "POST customers/{}": lambda at, p: self._changed(at, p),
            "GET customers/{}": lambda at, _: self.found(at),
            "POST checkout/sessions": lambda _, p: self._session(p),
            "GET checkout/sessions": lambda _, p: self.listed("checkout.session", p),
            "GET checkout/sessions/{}": lambda at, p: self._session_with(at, p),
            "POST checkout/sessions/{}/expire": lambda at, _: self._expire(at),
            "GET payment_intents": lambda _, p: self.listed("payment_intent", p, same=("customer",)),
            "POST payment_intents": lambda _, p: self._payment_intent(p),
            "GET payment_intents/{}": lambda at, _: self.found(at),
            "POST payment_intents/{}/cancel": lambda at, _: self._cancel_intent(at),
            "POST billing_portal/sessions": lambda _, p: self._portal(p),
            "GET subscriptions": lambda _, p: self.listed("subscription", p, same=("customer", "status")),
            "GET subscriptions/{}": lambda at, _: self.found(at),
            "POST subscriptions/{}": lambda at, p: self._change_subscription(at, p),
            "DELETE subscriptions/{}": lambda at, _: self._end_subscription(at),
            "POST products": lambda _, p: self._product(p),
            "GET products": lambda _, p: self.listed("product", p, same=("active",)),
            "GET products/{}": lambda at, _: self.found(at),
            "POST products/{}": lambda at, p: self._changed(at, p),
            "POST prices": lambda _, p: self._price(p),
            "GET prices": lambda _, p: self.listed("price", p, same=("active", "product", "currency")),
            "GET prices/{}": lambda at, _: self.found(at),
            "POST prices/{}": lambda at, p: self._change_price(at, p),
            "GET events": lambda _, p: self.listed("event", p),
            "GET events/{}": lambda at, _: self.found(at),
            "GET invoices/{}": lambda at, _: self.found(at),
            "GET invoices/{}/lines": lambda at, _: self.found(at)["lines"],
            "GET invoice_payments": lambda _, p: self._invoice_payments(p),
            "GET invoices": lambda _, p: self.listed("invoice", p, same=("customer", "status", "subscription")),
        }

    # ---- objects

    def make(self, prefix: str, kind: str, values: Document) -> Document:
        object_id = f"{prefix}_{self._run}{next(self._numbers):08d}"
        made: Document = {
            "id": object_id,
            "object": kind,
            "created": int(time.time()),
            "livemode": self.livemode,
            "metadata": {},
            **values,
        }
        self.objects[made["id"]] = made
        return made

    def event(self, kind: str, about: Document) -> Document:
        data = {"object": json.loads(json.dumps(about))}
        return self.make("evt", "event", {"type": kind, "api_version": API_VERSION, "data": data})

    def found(self, object_id: str) -> Document:
        if object_id not in self.objects:
            raise Refusal(404, "resource_missing", f"No such object: '{object_id}'", param="id")
        return self.objects[object_id]

    def named(self, params: Document, name: str) -> Document:
        """The object that a parameter names."""
        if params[name] not in self.objects:
            raise Refusal(400, "resource_missing", f"No such {name}: '{params[name]}'", param=name)
        return self.objects[params[name]]

    def listed(self, kind: str, params: Document, same: tuple[str, ...] = ()) -> Document:
        """A page, newest first."""
        limit = params.get("limit", PAGE_SIZE_DEFAULT)
        if not 1 <= limit <= PAGE_SIZE_MAX:
            raise Refusal(400, "", "limit must be from 1 to 100", param="limit")
        rows = [one for one in reversed(self.objects.values()) if one["object"] == kind]
        rows = [one for one in rows if self._matches(one, params, same)]
        if "starting_after" in params:
            ids = [one["id"] for one in rows]
            rows = rows[ids.index(params["starting_after"]) + 1 :]
        return {"object": "list", "data": rows[:limit], "has_more": len(rows) > limit, "url": f"/v1/{kind}"}

    def _matches(self, one: Document, params: Document, same: tuple[str, ...]) -> bool:
        created = params.get("created", {})
        status = params.get("status")
        if status == "all":
            same = tuple(name for name in same if name != "status")
        return (
            all(one.get(name) == params[name] for name in same if name in params)
            and created.get("gte", 0) <= one["created"] <= created.get("lte", 2**62)
            and one["created"] < created.get("lt", 2**62)
            and one.get("type") in params.get("types", [one.get("type")])
            and one.get("lookup_key") in params.get("lookup_keys", [one.get("lookup_key")])
        )

    def _changed(self, object_id: str, params: Document) -> Document:
        one = self.found(object_id)
        params = {**params, "metadata": {**one["metadata"], **params.get("metadata", {})}}
        one.update(params)
        return one

    # ---- endpoints

    def _session(self, params: Document) -> Document:
        mode = params.get("mode")
        for name, of in (("payment_intent_data", "payment"), ("subscription_data", "subscription")):
            if name in params and mode != of:
                raise Refusal(400, "", f"You can not pass `{name}` in `{mode}` mode.", param=name)
        if mode not in ("payment", "subscription") or not params.get("line_items"):
            raise Refusal(400, "parameter_missing", "mode and line_items are needed", param="line_items")
        if "success_url" not in params:
            raise Refusal(400, "parameter_missing", "Missing required param: success_url.", param="success_url")
        if "customer" in params and "customer_email" in params:
            raise Refusal(400, "", "You may only specify one of customer, customer_email.", param="customer")
        now_s = int(time.time())
        expires = params.setdefault("expires_at", now_s + EXPIRES_MAX_S)
        if not now_s + EXPIRES_MIN_S <= expires <= now_s + EXPIRES_MAX_S:
            raise Refusal(400, "", "expires_at must be from 30 minutes to 24 hours away", param="expires_at")
        if "customer" in params:
            self.named(params, "customer")
        total, currency = self._total(params["line_items"], mode)
        made = self.make(
            "cs",
            "checkout.session",
            {
                **params,
                "amount_subtotal": total,
                "amount_total": total,
                "currency": currency,
                "status": "open",
                "payment_status": "unpaid",
                "payment_intent": None,
                "subscription": None,
            },
        )
        made["url"] = f"https://checkout.stripe.example/c/{made['id']}"
        self.items[made["id"]] = made.pop("line_items")
        return made

    def _session_with(self, session_id: str, params: Document) -> Document:
        """Its items are told only to those who ask for them."""
        one = self.found(session_id)
        if "line_items" not in params.get("expand", []):
            return one
        items = [
            {"object": "item", "price": self.objects.get(item.get("price", "")) or item["price_data"]}
            for item in self.items[session_id]
        ]
        return {**one, "line_items": {"object": "list", "data": items, "has_more": False}}

    def _invoice_payments(self, params: Document) -> Document:
        rows = [one for one in self.objects.values() if one["object"] == "invoice_payment"]
        asked = params.get("payment", {}).get("payment_intent")
        rows = [one for one in rows if asked in (None, one["payment"]["payment_intent"])]
        return {"object": "list", "data": rows, "has_more": False}

    def _total(self, items: list[Document], mode: str) -> tuple[int, str]:
        total, currency = 0, ""
        for at, item in enumerate(items):
            place = f"line_items[{at}]"
            if ("price" in item) == ("price_data" in item):
                raise Refusal(400, "", f"{place}: one of price and price_data", param=place)
            price = self.named(item, "price") if "price" in item else item["price_data"]
            if not price.get("active", True):
                raise Refusal(400, "", "The price specified is inactive.", param=f"{place}[price]")
            if bool(price.get("recurring")) != (mode == "subscription"):
                raise Refusal(400, "", f"the price is not for `{mode}` mode", param=f"{place}[price]")
            total, currency = total + price["unit_amount"] * item.get("quantity", 1), price["currency"]
        return total, currency

    def _expire(self, session_id: str) -> Document:
        one = self.found(session_id)
        if one["status"] != "open":
            raise Refusal(
                400, "", f'Only Checkout Sessions with a status in ["open"] can be expired, not {one["status"]}.'
            )
        one.update(status="expired", url=None)
        self.event("checkout.session.expired", one)
        return one

    def _payment_intent(self, params: Document) -> Document:
        if params["amount"] < 50:
            raise Refusal(400, "amount_too_small", "Amount must be at least 50 cents.", param="amount")
        if "customer" in params:
            self.named(params, "customer")
        if params.get("off_session") and not params.get("confirm"):
            raise Refusal(400, "", "`off_session` needs `confirm`", param="off_session")
        status = "requires_confirmation" if "payment_method" in params else "requires_payment_method"
        made = self.make("pi", "payment_intent", {"setup_future_usage": None, **params, "status": status})
        made["client_secret"] = f"{made['id']}_secret_fake"
        made["last_payment_error"] = None
        if params.get("confirm"):
            self._confirm(made, params.get("payment_method", ""))
        return made

    def _confirm(self, intent: Document, method: str) -> None:
        if method != DECLINED:
            intent.update(status="succeeded", amount_received=intent["amount"])
            self.event("payment_intent.succeeded", intent)
            return
        told = {"code": "card_declined", "decline_code": "insufficient_funds", "message": "Your card was declined."}
        intent.update(status="requires_payment_method", last_payment_error=told)
        self.event("payment_intent.payment_failed", intent)
        raise Refusal(402, payment_intent=dict(intent), **told)

    def _cancel_intent(self, intent_id: str) -> Document:
        one = self.found(intent_id)
        if one["status"] in ("succeeded", "processing", "canceled"):
            message = f"You cannot cancel this PaymentIntent because it has a status of {one['status']}."
            raise Refusal(400, "payment_intent_unexpected_state", message, payment_intent=dict(one))
        one["status"] = "canceled"
        self.event("payment_intent.canceled", one)
        return one

    def _portal(self, params: Document) -> Document:
        if "customer" not in params:
            raise Refusal(400, "parameter_missing", "Missing required param: customer.", param="customer")
        self.named(params, "customer")
        made = self.make("bps", "billing_portal.session", params)
        made["url"] = f"https://billing.stripe.example/p/{made['id']}"
        return made

    def _change_subscription(self, subscription_id: str, params: Document) -> Document:
        if self.found(subscription_id)["status"] == "canceled":
            raise Refusal(404, "resource_missing", f"No such subscription: '{subscription_id}'", param="id")
        one = self._changed(subscription_id, params)
        one["cancel_at"] = one["current_period_end"] if one["cancel_at_period_end"] else None
        self.event("customer.subscription.updated", one)
        return one

    def _end_subscription(self, subscription_id: str) -> Document:
        one = self.found(subscription_id)
        if one["status"] == "canceled":
            raise Refusal(404, "resource_missing", f"No such subscription: '{subscription_id}'", param="id")
        one.update(status="canceled", canceled_at=int(time.time()), ended_at=int(time.time()))
        self.event("customer.subscription.deleted", one)
        return one

    def _product(self, params: Document) -> Document:
        if params.get("id") in self.objects:
            raise Refusal(400, "resource_already_exists", "Product already exists.", param="id")
        return self.make("prod", "product", {"active": True, **params})

    def _price(self, params: Document) -> Document:
        self.named(params, "product")
        taken = [one for one in self.objects.values() if params.get("lookup_key") == one.get("lookup_key") is not None]
        if taken:
            if not params.pop("transfer_lookup_key", False):
                raise Refusal(400, "", "A price already uses that lookup key.", param="lookup_key")
            for one in taken:
                one["lookup_key"] = None
        params.pop("transfer_lookup_key", None)
        recurring = {"interval_count": 1, **params["recurring"]} if "recurring" in params else None
        kind = "recurring" if recurring else "one_time"
        return self.make(
            "price", "price", {"active": True, "lookup_key": None, **params, "recurring": recurring, "type": kind}
        )

    def _change_price(self, price_id: str, params: Document) -> Document:
        product = self.objects[self.found(price_id)["product"]]
        if params.get("active") is False and product.get("default_price") == price_id:
            raise Refusal(400, "", "This price cannot be archived because it is the default price of its product.")
        if params.pop("transfer_lookup_key", False) and "lookup_key" in params:
            for one in self.objects.values():
                if one.get("lookup_key") == params["lookup_key"]:
                    one["lookup_key"] = None
        return self._changed(price_id, params)

    # ---- what a customer does

    def pay(self, object_id: str, method: str = "pm_card_visa") -> Document:
        """The customer pays a page or confirms a payment."""
        one = self.found(object_id)
        if one["object"] == "payment_intent":
            self._confirm(one, method)
            return one
        assert one["status"] == "open", one["status"]
        one.update(status="complete", payment_status="paid", url=None)
        if one["mode"] == "payment":
            made = self.make(
                "pi",
                "payment_intent",
                {
                    "amount": one["amount_total"],
                    "amount_received": one["amount_total"],
                    "currency": one["currency"],
                    "customer": one.get("customer"),
                    "status": "succeeded",
                    **one.get("payment_intent_data", {}),
                },
            )
            one["payment_intent"] = made["id"]
            self.event("payment_intent.succeeded", made)
        else:
            one["subscription"] = self._subscribe(one)["id"]
        self.event("checkout.session.completed", one)
        return one

    def _subscribe(self, session: Document) -> Document:
        data = session.get("subscription_data", {})
        now_s = int(time.time())
        made = self.make(
            "sub",
            "subscription",
            {
                "customer": session.get("customer"),
                "status": "trialing" if data.get("trial_period_days") else "active",
                "cancel_at_period_end": False,
                "cancel_at": None,
                "canceled_at": None,
                "current_period_end": now_s + 30 * 86_400,
                "items": {"data": [{"price": self.objects[item["price"]]} for item in self.items[session["id"]]]},
                "metadata": data.get("metadata", {}),
            },
        )
        invoice = {"customer": made["customer"], "subscription": made["id"], "status": "paid"}
        invoice |= {"amount_paid": session["amount_total"], "currency": session["currency"]}
        self.event("customer.subscription.created", made)
        self.event("invoice.paid", self.make("in", "invoice", invoice))
        return made

    # ---- HTTP

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        path = request.path.removeprefix("/v1/")
        parts = ["{}" if _ID.match(part) else part for part in path.split("/")]
        route = f"{request.method} {'/'.join(parts)}"
        object_id = next((part for part in path.split("/") if _ID.match(part)), "")
        key = request.headers.get("Idempotency-Key", "")
        pairs = parse_qsl(body if request.method == "POST" else request.query_string, keep_blank_values=True)
        self.requests.append({"route": route, "path": path, "key": key, "params": dict(pairs)})
        fault = next((one for one in self.faults if re.fullmatch(one["route"], route)), None)
        if fault:
            self.faults.remove(fault)
            if fault["kind"] == "cut":
                return _cut(request)
            if fault["kind"] == "status":
                error = {"type": fault.get("type", "api_error"), "code": fault.get("code"), "message": "a fault"}
                headers = {"Stripe-Should-Retry": "false"}
                return web.json_response({"error": error}, status=fault["status"], headers=headers)
        status, answer = self._answer(request, route, object_id, key, pairs)
        if fault and fault["kind"] == "cut_after":
            return _cut(request)
        if fault and fault["kind"] == "hang_after":
            await asyncio.sleep(fault["seconds"])
        return web.json_response(answer, status=status, headers={"Request-Id": f"req_{len(self.requests)}"})

    def _answer(
        self, request: web.Request, route: str, object_id: str, key: str, pairs: list[tuple[str, str]]
    ) -> tuple[int, Document]:
        try:
            self._check(request, route, key)
            given = stripe_params.nested(pairs)
            digest = hashlib.sha256(json.dumps([route, object_id, sorted(pairs)]).encode()).digest()
            if key and key in self.answers:
                before, answer = self.answers[key]
                if before != digest:
                    message = "Keys for idempotent requests can only be used with the same parameters."
                    raise Refusal(400, "", message, type="idempotency_error")
                assert answer is not None
                return answer
            params = self._params(route, given)
        except Refusal as exc:
            # What was refused before it began is not kept under the key.
            return exc.status, {"error": exc.error}
        try:
            answer = 200, json.loads(json.dumps(self._handlers[route](object_id, params)))
        except Refusal as exc:
            answer = exc.status, {"error": exc.error}
        if key:
            self.answers[key] = digest, answer
        return answer

    def _params(self, route: str, given: Document) -> Document:
        shape = stripe_params.SHAPES.get(route)
        try:
            return stripe_params.checked(shape or stripe_params.Retrieval, given)
        except stripe_params.BadParameterError as exc:
            raise Refusal(400, exc.code, str(exc), param=exc.param) from exc

    def _check(self, request: web.Request, route: str, key: str) -> None:
        if request.headers.get("Authorization", "") not in [f"Bearer {known}" for known in KEYS]:
            raise Refusal(401, "", "Invalid API Key provided: sk_test_****")
        if request.headers.get("Stripe-Version") != API_VERSION:
            raise Refusal(400, "", f"Invalid Stripe API version: {request.headers.get('Stripe-Version')}")
        if route not in self._handlers:
            raise Refusal(404, "", f"Unrecognized request URL ({route}).")
        if request.method == "POST" and not 1 <= len(key) <= 255:
            raise Refusal(400, "", "an Idempotency-Key of 1 to 255 characters is needed")

    async def control(self, request: web.Request) -> web.Response:
        """What a test asks: pay, fault, make, events, objects, requests."""
        given = await request.json() if request.can_read_body else {}
        match request.match_info["what"]:
            case "pay":
                try:
                    return web.json_response(self.pay(**given))
                except Refusal as exc:
                    return web.json_response({"error": exc.error}, status=exc.status)
            case "fault":
                self.faults.append(given)
            case "make":
                return web.json_response(self.make(**given))
            case "event":
                return web.json_response(self.event(given["type"], self.found(given["id"])))
            case "change":
                self.found(given["id"]).update(given["values"])
            case "objects":
                kind = request.query.get("kind")
                return web.json_response([one for one in self.objects.values() if kind in (None, one["object"])])
            case "requests":
                return web.json_response(self.requests)
            case unknown:
                raise web.HTTPNotFound(text=unknown)
        return web.json_response({})


def _cut(request: web.Request) -> web.StreamResponse:
    """Ends the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def main() -> None:
    fake = Fake()
    application = web.Application()
    application.router.add_route("*", "/v1/{path:.*}", fake.handle)
    application.router.add_route("*", "/_test/{what}", fake.control)
    web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), print=None, handle_signals=True)


if __name__ == "__main__":
    main()
