"""Bad input to the service Billing over real gRPC: the status, the field that is named, and that nothing changed, here or at Stripe."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import redis

from meterd.embedded import postgres
from meterd.server import methods
from meterd_client.v1 import accounts_pb2, billing_pb2, catalog_pb2
from tests import stripe_fake
from tests.integration import bad_input, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

BAD, MISSING, EXISTS, STATE = bad_input.BAD, bad_input.MISSING, bad_input.EXISTS, bad_input.STATE
URL = "https://app.example.com/done"
CATALOG = """
currency: usd
packages: {starter: {credits: 10, price: 5}, gone: {credits: 1, price: 1, active: false}}
plans: {pro: {price: 5}, gone: {price: 1, active: false, stripe_price: price_1}}
"""


@dataclasses.dataclass
class Scene:
    """Tenant "acme" whose account "acct" has one pending purchase, made with the key "used"; and one of tenant "other"."""

    client: serving.Client
    contents: serving.Contents
    stripe: stripe_fake.Stripe
    purchase_id: str
    foreign_purchase: str
    before: serving.Snapshot
    told: int

    async def changed(self) -> list[str]:
        now = await self.contents.now()
        posts = [one["route"] for one in self.stripe.requests()[self.told :] if not one["route"].startswith("GET")]
        return posts + [name for name in sorted(now | self.before) if now.get(name) != self.before.get(name)]


GOOD: dict[str, dict[str, Any]] = {
    "CreateCheckoutSession": {
        "idempotency_key": "new",
        "account_id": "acct",
        "package_id": "starter",
        "success_url": URL,
    },
    "CreatePaymentIntent": {"idempotency_key": "new", "account_id": "acct", "package_id": "starter"},
    "CreatePortalSession": {"idempotency_key": "new", "account_id": "acct", "return_url": URL},
    "ListPurchases": {"account_id": "acct"},
    "GetPurchase": {"purchase_id": "given by the scene"},
    "CancelPurchase": {"purchase_id": "given by the scene"},
    "CancelBilling": {"idempotency_key": "new", "account_id": "acct"},
}
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
            ("key of another purchase", EXISTS, "idempotency_key: used before", {"idempotency_key": "used"}),
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
        ("plan not active", MISSING, "plan_id: the plan is not active", {"package_id": None, "plan_id": "gone"}),
        ("plan without price", STATE, "plan_id: the plan has no price", {"package_id": None, "plan_id": "pro"}),
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
                ("of nobody", MISSING, "purchase_id: no such purchase", {"purchase_id": str(uuid.uuid4())}),
                ("of a payment of nobody", MISSING, "purchase_id: no such purchase", {"purchase_id": "pi_1"}),
                ("of another tenant", MISSING, "purchase_id: no such purchase", {"purchase_id": "theirs"}),
            ),
        )
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(postgres_server_dsn: str, database_template: str, redis_server_url: str) -> AsyncIterator[Scene]:
    with redis.Redis.from_url(redis_server_url) as flushed:
        flushed.flushall()
        flushed.script_flush()
    name = f"meterd_{uuid.uuid4().hex}"
    dsn = postgres.create_database(postgres_server_dsn, name, database_template)
    keys = [(await serving.new_key(dsn, tenant, "admin")).key for tenant in ("acme", "other")]
    with stripe_fake.running() as stripe:
        settings = serving.settings_of(
            dsn, redis_server_url, stripe_api_key=stripe_fake.KEY, stripe_api_base=stripe.url
        )
        async with (
            serving.running(settings, options=[("grpc.max_send_message_length", -1)]) as server,
            serving.contents(dsn, redis_server_url) as contents,
        ):
            bought: list[str] = []
            for key, account_id in zip(keys, ("acct", "theirs"), strict=True):
                client = server.client(key)
                await client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id=account_id))
                await client.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=CATALOG))
                made = await client.call(
                    "CreatePaymentIntent",
                    billing_pb2.CreatePaymentIntentRequest(
                        idempotency_key="used", account_id=account_id, package_id="starter", save_payment_method=True
                    ),
                )
                bought.append(made.purchase.purchase_id)
            told, before = len(stripe.requests()), await contents.now()
            yield Scene(
                client=server.client(keys[0]),
                contents=contents,
                stripe=stripe,
                purchase_id=bought[0],
                foreign_purchase=bought[1],
                before=before,
                told=told,
            )
    postgres.drop_database(postgres_server_dsn, name)


def request_of(scene: Scene, method: str, changes: Any) -> Any:
    values = GOOD[method] | changes
    given = {"given by the scene": scene.purchase_id, "theirs": scene.foreign_purchase}
    if values.get("purchase_id") in given:
        values["purchase_id"] = given[values["purchase_id"]]
    kind = getattr(billing_pb2, f"{method}Request")
    return kind(**{name: value for name, value in values.items() if value is not None})


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{case.method}" for n, case in enumerate(CASES)])
async def test_bad_input_is_refused_by_name_and_changes_nothing(scene: Scene, case: bad_input.Case) -> None:
    refusal = await scene.client.refused(case.method, request_of(scene, case.method, case.changes))
    assert refusal.code is case.code, f"{case.label}: {refusal}"
    assert refusal.message.startswith(case.field), f"{case.label}: {refusal}"
    assert len(refusal.message) < 400, case.label
    assert await scene.changed() == [], case.label


@pytest.mark.parametrize("method", sorted(GOOD))
async def test_bytes_that_are_no_message_are_the_clients_fault(scene: Scene, method: str) -> None:
    for data in (b"\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe", b"\x0b" * 200):
        refusal = await scene.client.refused(method, data)
        assert refusal == serving.Refusal(code=BAD, message="request: not a message of the method's type")
    assert await scene.changed() == []


async def test_the_cases_spoil_requests_that_are_answered(scene: Scene) -> None:
    """Otherwise a case could be refused for another reason than its own."""
    declared = {path.rpartition("/")[2] for path in methods.declared() if path.startswith(f"/{methods.BILLING}/")}
    assert GOOD.keys() == declared
    for method in GOOD:
        # There is no subscription that it could end, and it says so.
        if method != "CancelBilling":
            await scene.client.call(
                method,
                request_of(
                    scene, method, {"idempotency_key": f"good {method}"} if "idempotency_key" in GOOD[method] else {}
                ),
            )
    assert await scene.changed() != []
