"""As bad_input, for the service Billing and the tokens of accounts. The server needs a Stripe."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from meterd_client.v1 import billing_pb2, tokens_pb2
from tests.integration import bad_input, serving

BAD, MISSING, EXISTS, STATE = bad_input.BAD, bad_input.MISSING, bad_input.EXISTS, bad_input.STATE
URL = "https://app.example.com/done"
BAD_URLS = (
    "",
    "app.example.com",
    "http://app.example.com/",
    "javascript:alert(1)",
    "https://ada:secret@app.example.com/",
    "https://app.example.com/" + "a" * 2_048,
    "https://🦊.example.com/",
    "https://app.example.com/\r\nx: y",
    "https:" + "//[::1",
    "https:///path",
)


def _bought(world: bad_input.World) -> dict[str, Any]:
    return {"idempotency_key": serving.new_id(), "account_id": world.account_id, "package_id": "small"}


def _at_stripe(world: bad_input.World) -> dict[str, Any]:
    return {"idempotency_key": serving.new_id(), "account_id": world.account_id}


GOOD: dict[str, Callable[[bad_input.World], dict[str, Any]]] = {
    "CreateToken": lambda w: {"account_id": w.account_id},
    "CreateCheckoutSession": lambda w: {**_bought(w), "success_url": URL},
    "CreatePaymentIntent": _bought,
    "CreatePortalSession": lambda w: {**_at_stripe(w), "return_url": URL},
    "ListPurchases": lambda w: {"account_id": w.account_id},
    "GetPurchase": lambda w: {"purchase_id": w.purchase_id},
    "CancelPurchase": lambda w: {"purchase_id": w.purchase_id},
    "CancelBilling": _at_stripe,
}
REQUESTS: dict[str, Any] = {
    name: getattr(tokens_pb2 if name == "CreateToken" else billing_pb2, f"{name}Request") for name in GOOD
}
# An empty message asks for all there is.
EMPTY = frozenset(("ListPurchases",))
# Nobody has a subscription at Stripe that it could end, and it says so.
UNANSWERED = frozenset(("CancelBilling",))


def _used(world: bad_input.World) -> str:
    return f"used-{world.account_id}"


async def add_purchases(world: bad_input.World, other: serving.Client, others_account: str = "theirs") -> None:
    """Gives the world's account and one of the other tenant a pending purchase. Both have a catalog."""
    values: dict[str, Any] = {"idempotency_key": _used(world), "package_id": "small", "save_payment_method": True}
    for client, account_id in ((world.client, world.account_id), (other, others_account)):
        request = billing_pb2.CreatePaymentIntentRequest(account_id=account_id, **values)
        made = (await client.call("CreatePaymentIntent", request)).purchase.purchase_id
        if client is other:
            world.foreign_purchase = made
        else:
            world.purchase_id = made


def _text(method: str, field: str, bytes_max: int = 128, *, required: bool = True) -> list[bad_input.Case]:
    return bad_input.text_cases(method, field, bytes_max, required=required)


def _urls(method: str, field: str) -> list[bad_input.Case]:
    urls = [url for url in BAD_URLS if url or field != "cancel_url"]
    return bad_input.cases(method, *((f"{field} {url[:20]!r}", BAD, f"{field}: ", {field: url}) for url in urls))


def _accounts(method: str) -> list[bad_input.Case]:
    return bad_input.cases(
        method,
        ("account of nobody", MISSING, "account_id: no such account", {"account_id": "nobody"}),
        ("account of another tenant", MISSING, "account_id: no such account", {"account_id": "theirs"}),
    )


def _keyed(method: str) -> list[bad_input.Case]:
    return [*_text(method, "idempotency_key"), *_text(method, "account_id"), *_accounts(method)]


def _sold(method: str) -> list[bad_input.Case]:
    emails = ("x", "@", "a@", "a b@c", "a@b\n", "a" * 250 + "@b.cd")
    return [
        *_keyed(method),
        *bad_input.cases(
            method,
            *((f"email {email[:9]!r}", BAD, "email: ", {"email": email}) for email in emails),
            ("no such package", MISSING, "package_id: the catalog has no such package", {"package_id": "none"}),
            ("package not active", MISSING, "package_id: the package is not active", {"package_id": "gone"}),
            (
                "key of another purchase",
                EXISTS,
                "idempotency_key: used before",
                lambda w: {"idempotency_key": _used(w)},
            ),
        ),
    ]


CASES = [
    *_sold("CreateCheckoutSession"),
    *_sold("CreatePaymentIntent"),
    *_text("CreatePaymentIntent", "package_id"),
    *_urls("CreateCheckoutSession", "success_url"),
    *_urls("CreateCheckoutSession", "cancel_url"),
    *_urls("CreatePortalSession", "return_url"),
    *bad_input.cases(
        "CreateCheckoutSession",
        ("nothing to buy", BAD, "item: ", {"package_id": None}),
        ("empty package", BAD, "package_id: ", {"package_id": ""}),
        ("empty plan", BAD, "plan_id: ", {"package_id": None, "plan_id": ""}),
        ("no such plan", MISSING, "plan_id: the catalog has no such plan", {"package_id": None, "plan_id": "none"}),
        ("plan not active", MISSING, "plan_id: the plan is not active", {"package_id": None, "plan_id": "old"}),
        ("plan without price", STATE, "plan_id: the plan has no price", {"package_id": None, "plan_id": "pro"}),
    ),
    *_text("CreateToken", "account_id"),
    *_accounts("CreateToken"),
    *bad_input.cases(
        "CreateToken",
        *((f"ttl_ms {ms}", BAD, "ttl_ms: ", {"ttl_ms": ms}) for ms in (-1, 1, 999, 86_400_001, 2**63 - 1, -(2**63))),
    ),
    *_keyed("CreatePortalSession"),
    *_keyed("CancelBilling"),
    *bad_input.cases("CancelBilling", ("nothing to end", MISSING, "account_id: has no subscription", {})),
    *_text("ListPurchases", "account_id", required=False),
    *_accounts("ListPurchases"),
    *bad_input.cases(
        "ListPurchases",
        *((f"page_size {n}", BAD, "page_size: ", {"page_size": n}) for n in (-1, 1_001, 2**31 - 1)),
        *((f"page_token {t[:9]!r}", BAD, "page_token: ", {"page_token": t}) for t in ("x", "🦊", "AAAA", "t" * 4_096)),
        *((f"states {n}", BAD, "states: ", {"states": [n]}) for n in (0, 6, -1)),
    ),
    *(
        case
        for method in ("GetPurchase", "CancelPurchase")
        for case in (
            *_text(method, "purchase_id", 255),
            *bad_input.cases(
                method,
                ("of nobody", MISSING, "purchase_id: no such purchase", lambda _: {"purchase_id": str(uuid.uuid4())}),
                ("of a payment of nobody", MISSING, "purchase_id: no such purchase", {"purchase_id": "pi_1"}),
                (
                    "of another tenant",
                    MISSING,
                    "purchase_id: no such purchase",
                    lambda w: {"purchase_id": w.foreign_purchase},
                ),
            ),
        )
    ),
]
bad_input.GOOD.update(GOOD)
bad_input.REQUESTS.update(REQUESTS)
