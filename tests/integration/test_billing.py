"""Selling over real gRPC, on real stores, with a Stripe in its own process that checks what it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from meterd.core import errors
from meterd_client.v1 import accounts_pb2, billing_pb2, catalog_pb2
from tests import stripe_fake
from tests.integration import selling, serving

STATES = billing_pb2.PurchaseState
PENDING, CANCELLED = billing_pb2.PURCHASE_STATE_PENDING, billing_pb2.PURCHASE_STATE_CANCELLED
PRECONDITION, MISSING = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND
EXISTS, AWAY = grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def stripe_process() -> Iterator[stripe_fake.Stripe]:
    with stripe_fake.running() as made:
        yield made


@pytest_asyncio.fixture
async def shop(database: str, redis_url: str, stripe_process: stripe_fake.Stripe) -> AsyncIterator[selling.Shop]:
    async with selling.opened(database, redis_url, stripe_process) as made:
        yield made


async def test_a_payment_is_pending_with_what_the_catalog_says_and_credits_nothing(shop: selling.Shop) -> None:
    made = await shop.payment()
    bought = made.purchase
    assert (bought.package_id, bought.name, bought.price, bought.currency) == ("growth", "Growth", "49.90", "eur")
    assert (bought.amount_micros, bought.bonus_micros, bought.state) == (6_000_000_000, 500_000_000, PENDING)
    intent = next(one for one in shop.stripe.objects("payment_intent") if one["id"] == bought.stripe_payment_intent)
    assert made.client_secret == intent["client_secret"]
    assert (intent["amount"], intent["currency"], intent["customer"]) == (4990, "eur", bought.stripe_customer)
    assert intent["metadata"] == {
        "meterd_tenant": "acme",
        "meterd_account": "ada",
        "meterd_purchase": bought.purchase_id,
        "meterd_package": "growth",
    }
    assert await shop.purchase(bought.purchase_id) == bought
    assert await shop.client.balance("ada") == (0, 0)


async def test_a_repeat_answers_the_same_payment_and_tells_stripe_nothing_new(shop: selling.Shop) -> None:
    request = selling.payment(email="ada@example.com")
    first = await shop.client.call("CreatePaymentIntent", request)
    told = shop.posts()
    again = await shop.client.call("CreatePaymentIntent", request)
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.purchase, again.client_secret) == (first.purchase, first.client_secret)
    assert told == shop.posts() == ["POST customers", "POST customers/{}", "POST payment_intents"]


async def test_a_key_with_other_content_is_refused_by_any_method(shop: selling.Shop) -> None:
    key = serving.new_id()
    await shop.payment(idempotency_key=key)
    for name, request in (
        ("CreatePaymentIntent", selling.payment(idempotency_key=key, package_id="starter")),
        ("CreatePaymentIntent", selling.payment(idempotency_key=key, save_payment_method=True)),
        ("CreateCheckoutSession", selling.checkout(idempotency_key=key)),
    ):
        refusal = await shop.client.refused(name, request)
        assert refusal == serving.Refusal(code=EXISTS, message="idempotency_key: used before with other content")
    assert len(await shop.listed()) == 1


async def test_a_page_for_a_package_charges_the_price_of_then_and_says_whose_it_is(shop: selling.Shop) -> None:
    made = await shop.checkout(cancel_url="http://localhost:3000/back")
    session = next(one for one in shop.stripe.objects("checkout.session") if one["id"] == made.purchase.stripe_session)
    assert (made.url, made.expires_at.seconds) == (session["url"], session["expires_at"])
    assert (session["mode"], session["amount_total"], session["currency"]) == ("payment", 4990, "eur")
    assert session["payment_intent_data"]["metadata"] == session["metadata"]
    assert session["metadata"]["meterd_purchase"] == made.purchase.purchase_id
    assert (session["success_url"], session["cancel_url"]) == (selling.OK_URL, "http://localhost:3000/back")


async def test_a_page_for_a_plan_subscribes_with_its_trial_and_says_whose_it_is(shop: selling.Shop) -> None:
    made = await shop.checkout(plan_id="pro")
    bought = made.purchase
    assert (bought.plan_id, bought.price, bought.amount_micros, bought.state) == ("pro", "19.00", 0, PENDING)
    session = next(one for one in shop.stripe.objects("checkout.session") if one["id"] == bought.stripe_session)
    data = session["subscription_data"]
    assert (session["mode"], data["trial_period_days"], data["metadata"]["meterd_plan"]) == ("subscription", 14, "pro")


async def test_an_account_that_subscribes_at_stripe_already_is_sent_to_the_portal(shop: selling.Shop) -> None:
    made = await shop.checkout(plan_id="pro")
    shop.stripe.pay(made.purchase.stripe_session)
    refusal = await shop.client.refused("CreateCheckoutSession", selling.checkout(plan_id="pro"))
    assert refusal.code is PRECONDITION
    assert refusal.message.startswith("account_id: has a subscription at Stripe already")
    assert [one.purchase_id for one in await shop.listed()] == [made.purchase.purchase_id]


async def test_a_paid_page_has_no_address_any_more(shop: selling.Shop) -> None:
    request = selling.checkout()
    first = await shop.client.call("CreateCheckoutSession", request)
    shop.stripe.pay(first.purchase.stripe_session)
    again = await shop.client.call("CreateCheckoutSession", request)
    assert (again.replayed, again.url, again.purchase) == (True, "", first.purchase)


async def test_an_account_has_one_customer_however_many_calls_come_at_once(shop: selling.Shop) -> None:
    made = await asyncio.gather(*(shop.payment(email=f"{n}@example.com") for n in range(5)))
    assert len({one.purchase.stripe_customer for one in made}) == 1
    mine = [one for one in shop.stripe.objects("customer") if one["id"] == made[0].purchase.stripe_customer]
    assert [one["metadata"] for one in mine] == [{"meterd_tenant": "acme", "meterd_account": "ada"}]


@pytest.mark.parametrize("route", ["POST customers", "POST payment_intents"])
@pytest.mark.parametrize(("kind", "more"), [("cut", {}), ("cut_after", {}), ("hang_after", {"seconds": 3})])
async def test_a_lost_answer_is_asked_for_again_and_one_object_is_made(
    shop: selling.Shop, route: str, kind: str, more: dict[str, Any]
) -> None:
    kinds = {"POST customers": "customer", "POST payment_intents": "payment_intent"}
    before = len(shop.stripe.objects(kinds[route]))
    shop.stripe.fault(route, kind, **more)
    made = await shop.payment()
    assert made.stripe_status == "requires_payment_method"
    assert shop.posts().count(route) == 2
    assert len(shop.stripe.objects(kinds[route])) == before + 1


async def test_while_stripe_is_away_the_purchase_waits_and_a_repeat_completes_it(shop: selling.Shop) -> None:
    request, before = selling.payment(), len(shop.stripe.objects("payment_intent"))
    # Two retries of the library, then the call fails.
    for _ in range(3):
        shop.stripe.fault("POST payment_intents", "cut_after")
    refusal = await shop.client.refused("CreatePaymentIntent", request)
    assert refusal.code is AWAY
    assert "Stripe cannot be reached" in refusal.message
    (waiting,) = await shop.listed()
    assert (waiting.state, waiting.stripe_payment_intent) == (PENDING, "")
    made = await shop.client.call("CreatePaymentIntent", request)
    assert (made.replayed, made.purchase.purchase_id) == (True, waiting.purchase_id)
    assert len(shop.stripe.objects("payment_intent")) == before + 1


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (429, "rate_limit_error", AWAY),
        (500, "api_error", AWAY),
        (409, "idempotency_error", AWAY),
        (403, "x", PRECONDITION),
    ],
)
async def test_what_stripe_answers_becomes_a_status(
    shop: selling.Shop, status: int, kind: str, code: grpc.StatusCode
) -> None:
    shop.stripe.fault("POST payment_intents", "status", status=status, type=kind)
    refusal = await shop.client.refused("CreatePaymentIntent", selling.payment())
    assert refusal.code is code
    assert stripe_fake.KEY not in refusal.message


async def test_the_portal_needs_a_customer_and_a_repeat_answers_the_same_page(shop: selling.Shop) -> None:
    request = billing_pb2.CreatePortalSessionRequest(
        idempotency_key=serving.new_id(), account_id="ada", return_url="https://app.example.com/account"
    )
    refusal = await shop.client.refused("CreatePortalSession", request)
    assert refusal == serving.Refusal(code=PRECONDITION, message="account_id: has no customer at Stripe yet")
    customer = (await shop.payment()).purchase.stripe_customer
    first = await shop.client.call("CreatePortalSession", request)
    assert first == await shop.client.call("CreatePortalSession", request)
    (page,) = [one for one in shop.stripe.objects("billing_portal.session") if one["url"] == first.url]
    assert (page["customer"], page["return_url"]) == (customer, "https://app.example.com/account")
    request.return_url = "https://elsewhere.example.com/"
    assert (await shop.client.refused("CreatePortalSession", request)).code is EXISTS


async def test_purchases_are_listed_newest_first_in_pages_and_by_state(shop: selling.Shop) -> None:
    await shop.client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="bob"))
    made = [(await shop.payment(account_id=name)).purchase for name in ("ada", "bob", "ada", "ada", "bob")]
    await shop.client.call("CancelPurchase", billing_pb2.CancelPurchaseRequest(purchase_id=made[2].purchase_id))
    newest = [one.purchase_id for one in reversed(made)]
    assert [one.purchase_id for one in await shop.listed()] == newest
    assert [one.purchase_id for one in await shop.listed(account_id="bob")] == [newest[0], newest[3]]
    assert [one.purchase_id for one in await shop.listed(states=[CANCELLED])] == [newest[2]]
    found, token = [], ""
    while True:
        request = billing_pb2.ListPurchasesRequest(page_size=2, page_token=token)
        page = await shop.client.call("ListPurchases", request)
        found += [one.purchase_id for one in page.purchases]
        if not (token := page.next_page_token):
            break
    assert found == newest


@pytest.mark.parametrize("through", ["CreatePaymentIntent", "CreateCheckoutSession"])
async def test_a_cancelled_purchase_cannot_be_paid_any_more(shop: selling.Shop, through: str) -> None:
    request = selling.payment() if through == "CreatePaymentIntent" else selling.checkout()
    bought = (await shop.client.call(through, request)).purchase
    cancel = billing_pb2.CancelPurchaseRequest(purchase_id=bought.purchase_id)
    cancelled = (await shop.client.call("CancelPurchase", cancel)).purchase
    assert cancelled.state == CANCELLED
    assert (
        (await shop.client.call("CancelPurchase", cancel)).purchase
        == cancelled
        == await shop.purchase(bought.purchase_id)
    )
    object_id = bought.stripe_payment_intent or bought.stripe_session
    (found,) = [one for one in shop.stripe.control("objects") if one["id"] == object_id]
    assert found["status"] in ("canceled", "expired")


@pytest.mark.parametrize("through", ["CreatePaymentIntent", "CreateCheckoutSession"])
async def test_a_paid_purchase_cannot_be_cancelled_even_before_its_event_came(shop: selling.Shop, through: str) -> None:
    bought = (
        await shop.client.call(through, selling.payment() if through == "CreatePaymentIntent" else selling.checkout())
    ).purchase
    shop.stripe.pay(bought.stripe_payment_intent or bought.stripe_session)
    refusal = await shop.client.refused(
        "CancelPurchase", billing_pb2.CancelPurchaseRequest(purchase_id=bought.purchase_id)
    )
    assert refusal.code is PRECONDITION
    assert refusal.message.startswith("purchase_id: cannot be cancelled: Stripe has it as ")
    assert (await shop.purchase(bought.purchase_id)).state == PENDING


async def test_a_purchase_that_stripe_never_heard_of_is_cancelled_here_and_stays_so(shop: selling.Shop) -> None:
    request = selling.payment()
    for _ in range(3):
        shop.stripe.fault("POST payment_intents", "cut")
    assert (await shop.client.refused("CreatePaymentIntent", request)).code is AWAY
    (waiting,) = await shop.listed()
    await shop.client.call("CancelPurchase", billing_pb2.CancelPurchaseRequest(purchase_id=waiting.purchase_id))
    refusal = await shop.client.refused("CreatePaymentIntent", request)
    assert refusal == serving.Refusal(code=PRECONDITION, message="idempotency_key: the purchase is cancelled")


@pytest.mark.parametrize(("at_once", "status"), [(False, "trialing"), (True, "canceled")])
async def test_a_subscription_ends_at_stripe_when_it_is_paid_for_or_now(
    shop: selling.Shop, at_once: bool, status: str
) -> None:
    request = billing_pb2.CancelBillingRequest(idempotency_key=serving.new_id(), account_id="ada", at_once=at_once)
    assert (await shop.client.refused("CancelBilling", request)).code is MISSING
    made = await shop.checkout(plan_id="pro")
    shop.stripe.pay(made.purchase.stripe_session)
    foreign = shop.stripe.make("sub", "subscription", customer=made.purchase.stripe_customer, status="active")
    (ended,) = (await shop.client.call("CancelBilling", request)).subscriptions
    assert (ended.status, ended.plan_id) == (status, "pro")
    assert ended.ends_at.seconds > 0
    (found,) = [one for one in shop.stripe.objects("subscription") if one["id"] == foreign["id"]]
    assert found["status"] == "active"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("CreatePaymentIntent", {"package_id": "free"}, "package_id: is free"),
        ("CreateCheckoutSession", {"plan_id": "unsynced"}, "plan_id: the plan has no price in Stripe"),
    ],
)
async def test_what_cannot_be_sold_is_a_precondition(
    shop: selling.Shop, name: str, changes: dict[str, Any], message: str
) -> None:
    make = selling.payment if name == "CreatePaymentIntent" else selling.checkout
    refusal = await shop.client.refused(name, make(**changes))
    assert refusal.code is PRECONDITION
    assert refusal.message.startswith(message)
    assert await shop.listed() == []


async def test_without_a_key_purchases_can_be_looked_at_and_nothing_is_sold(database: str, redis_url: str) -> None:
    key = (await serving.new_key(database, "acme", "admin")).key
    async with serving.running(serving.settings_of(database, redis_url)) as server:
        client = server.client(key)
        await client.call("CreateAccount", accounts_pb2.CreateAccountRequest(account_id="ada"))
        await client.call("ApplyCatalog", catalog_pb2.ApplyCatalogRequest(document=selling.CATALOG % "price_1"))
        refusal = await client.refused("CreatePaymentIntent", selling.payment())
        assert refusal.code is PRECONDITION
        assert "METERD_STRIPE_API_KEY" in refusal.message
        assert list((await client.call("ListPurchases", billing_pb2.ListPurchasesRequest())).purchases) == []


async def test_a_tenant_of_test_mode_is_never_sold_to_with_a_live_key(
    shop: selling.Shop, database: str, redis_url: str, stripe_process: stripe_fake.Stripe
) -> None:
    await shop.payment()
    live = selling.settings_of(database, redis_url, stripe_process, stripe_api_key="sk_live_fake", stripe_livemode=True)
    async with serving.running(live) as server:
        client = serving.Client(server.channel, shop.client.metadata[0][1].removeprefix("Bearer "))
        told = shop.posts()
        for name, request in (
            ("CreatePaymentIntent", selling.payment()),
            ("CreateCheckoutSession", selling.checkout()),
        ):
            refusal = await client.refused(name, request)
            assert refusal.code is PRECONDITION
            assert "of Stripe's test mode" in refusal.message
        assert shop.posts() == told


@pytest.mark.parametrize(
    ("api_key", "livemode"),
    [("sk_live_fake", False), ("rk_test_fake", True), ("pk_test_fake", False), ("secret", False)],
)
async def test_a_key_of_the_other_mode_does_not_start(
    database: str, redis_url: str, api_key: str, livemode: bool
) -> None:
    given = serving.settings_of(database, redis_url, stripe_api_key=api_key, stripe_livemode=livemode)
    with pytest.raises(errors.ConfigError, match="METERD_STRIPE_API_KEY") as caught:
        async with serving.running(given):
            pass
    assert api_key not in str(caught.value) or api_key == "secret"
