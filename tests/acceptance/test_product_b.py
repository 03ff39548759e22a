"""Product B, a fitness app: what models really cost against a monthly allowance, told with its own numbers."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from decimal import Decimal

import grpc
import pytest

from meterd_client.v1 import accounts_pb2, metering_pb2, types_pb2
from tests.acceptance import installation, processes, products

CREDIT = products.CREDIT
PLANS = {
    "free": ("0.00", 100),
    "essential": ("9.00", 1_000),
    "pro": ("19.00", 3_000),
    "elite": ("29.00", 5_000),
    "champion": ("39.00", 8_000),
    "master": ("49.00", 12_000),
    "legend": ("59.00", 18_000),
    "titan": ("99.00", 35_000),
}
PACKS = {
    "starter": (2_000, "19.00", ""),
    "basic": (3_200, "29.00", "10"),
    "plus": (5_700, "49.00", "15"),
    "premium": (12_500, "99.00", "25"),
}
Status = accounts_pb2.Subscription


@pytest.fixture(scope="module")
def app(shared: installation.Installation) -> Iterator[products.Product]:
    with products.opened(shared, "fitness", "b") as found:
        assert found.catalog().credit_value_usd == "0.001"
        yield found


def _subscribed(app: products.Product, account_id: str, plan_id: str) -> accounts_pb2.Subscription:
    app.open(account_id)
    return app.subscribe(account_id, plan_id, source_id=f"sub_{account_id}").subscription


def test_an_account_begins_with_the_free_plan_and_its_hundred(app: products.Product) -> None:
    made = app.open("ada").subscription
    assert (made.plan.plan_id, made.plan.price) == ("free", "0.00")
    assert app.credits("ada") == 100


@pytest.mark.parametrize("plan_id", [name for name in PLANS if name != "free"])
def test_each_plan_gives_its_month_instead_of_the_free_ones(app: products.Product, plan_id: str) -> None:
    price, credits = PLANS[plan_id]
    made = _subscribed(app, f"on-{plan_id}", plan_id)
    assert (made.plan.price, made.plan.currency, made.plan.interval) == (price, "eur", "month")
    found = app.balance(f"on-{plan_id}")
    assert (found.plan_id, found.refreshes_at) == (plan_id, made.period_end)
    assert [one.available_micros for one in found.wallets] == [credits * CREDIT]
    begun, ends = made.period_start.ToDatetime(), made.period_end.ToDatetime()
    assert (ends.year * 12 + ends.month) - (begun.year * 12 + begun.month) == 1
    assert datetime.timedelta(days=28) <= ends - begun <= datetime.timedelta(days=31)


def test_each_pack_adds_to_the_allowance_and_burns_after_it(app: products.Product) -> None:
    sold = {one.package_id: one for one in app.catalog().packages}
    assert {name: (one.amount_micros / CREDIT, one.price, one.discount_percent) for name, one in sold.items()} == PACKS
    _subscribed(app, "packs", "essential")
    expected = 1_000
    for name, (credits, *_) in PACKS.items():
        app.buy("packs", sold[name], f"cs-{name}")
        expected += credits
        assert app.credits("packs") == expected
    assert app.charge("packs", credits=1_000).balance.available_micros == 23_400 * CREDIT
    (wallet,) = app.wallets("packs").values()
    assert {one.category for one in wallet.grants} == {types_pb2.GRANT_CATEGORY_PAID}


def test_chat_is_charged_by_what_the_provider_reported_and_the_answer_carries_the_balance(
    app: products.Product,
) -> None:
    _subscribed(app, "chat", "essential")
    model = types_pb2.ModelCharge(provider="openai", model="gpt-4o", input_tokens=2_000, max_output_tokens=1_000)
    assert not app.estimate(account_id="chat", model=model).HasField("denial")
    held = app.reserve("chat", model=model).hold
    # 2.50 USD a million in and 10 out: 0.005 + 0.010 USD are 15 credits.
    assert (held.amount_micros, held.cost_estimate_usd) == (15 * CREDIT, "0.015")
    body = {"model": "gpt-4o", "usage": {"prompt_tokens": 2_000, "completion_tokens": 321, "total_tokens": 2_321}}
    answer = app.commit(held.hold_id, provider_response=metering_pb2.ProviderResponse(json=json.dumps(body).encode()))
    assert (answer.settlement.cost_usd, answer.settlement.charged_micros) == ("0.00821", 8_210_000)
    assert answer.balance.available_micros == 1_000 * CREDIT - 8_210_000
    assert app.commit(
        held.hold_id, provider_response=metering_pb2.ProviderResponse(json=json.dumps(body).encode())
    ).replayed


def test_images_and_transcription_cost_what_they_cost(app: products.Product) -> None:
    _subscribed(app, "media", "essential")
    # 0.04 and 0.08 USD an image, 0.006 USD a minute, at 0.001 USD a credit.
    for rate, quantity, credits in (
        ("image_standard", "1", 40),
        ("image_hd", "1", 80),
        ("transcription", "1", 6),
        ("transcription", "2.5", 15),
    ):
        assert app.charge("media", rate=(rate, quantity)).settlement.charged_micros == credits * CREDIT
    assert app.credits("media") == 1_000 - 141


def test_realtime_voice_is_priced_by_text_and_audio_in_and_out(app: products.Product) -> None:
    _subscribed(app, "voice", "essential")
    usage = types_pb2.Usage(
        input_tokens=3_000, input_audio_tokens=2_000, output_tokens=1_500, output_audio_tokens=1_000
    )
    answer = app.charge(
        "voice",
        model_usage=metering_pb2.ModelUsage(
            provider="openai", model="gpt-4o-realtime-preview", usage=metering_pb2.ReportedUsage(usage=usage)
        ),
    )
    lines = {one.usage_class: (one.quantity, Decimal(one.cost_usd)) for one in answer.settlement.breakdown}
    # USD a million: text 5 in and 20 out, audio 40 in and 80 out.
    assert lines == {
        "input": ("1000", Decimal("0.005")),
        "input_audio": ("2000", Decimal("0.08")),
        "output": ("500", Decimal("0.01")),
        "output_audio": ("1000", Decimal("0.08")),
    }
    assert (answer.settlement.cost_usd, answer.settlement.charged_micros) == ("0.175", 175 * CREDIT)


def test_a_lack_of_credits_is_a_typed_answer_with_what_would_be_affordable(app: products.Product) -> None:
    app.open("poor")
    model = types_pb2.ModelCharge(provider="openai", model="gpt-4o", input_tokens=20_000, max_output_tokens=10_000)
    denial = app.reserve("poor", model=model).denial
    assert [one.code for one in denial.reasons] == [products.Denial.CODE_INSUFFICIENT_CREDITS]
    assert (denial.available_micros, denial.required_micros) == (100 * CREDIT, 150 * CREDIT)
    # 20,000 tokens in are 50 credits; the other 50 pay for 5,000 out.
    assert denial.affordable_output_tokens == 5_000


def test_cost_and_margin_of_the_tenant_are_reported(app: products.Product) -> None:
    _subscribed(app, "margin", "essential")
    usage = types_pb2.Usage(input_tokens=100_000, output_tokens=10_000)
    call = metering_pb2.ModelUsage(
        provider="openai", model="gpt-4o-mini", usage=metering_pb2.ReportedUsage(usage=usage)
    )
    app.charge("margin", model_usage=call)
    app.charge("margin", credits=79)
    app.settled("margin")
    total = app.usage("model", account_id="margin").total
    # 0.015 + 0.006 USD of cost; 21 + 79 credits are worth 0.10 USD: a margin of 79 %.
    assert (Decimal(total.cost_usd), total.charged_micros) == (Decimal("0.021"), 100 * CREDIT)
    assert Decimal(total.margin_usd) == Decimal("0.079")


def test_the_month_of_all_plans_turns_once_however_often_it_is_run(app: products.Product) -> None:
    """After 48 months without a worker the present one is granted, and it alone."""
    for plan_id in PLANS:
        _subscribed(app, f"turn-{plan_id}", plan_id)
        app.charge(f"turn-{plan_id}", credits=70)
        app.grant(f"turn-{plan_id}", 11)
    for plan_id in PLANS:
        app.age(f"turn-{plan_id}", years=4)
    for plan_id, (_, credits) in PLANS.items():
        name = f"turn-{plan_id}"
        processes.wait_until(lambda name=name: app.subscription(name).period_no == 49, f"{name} turned", timeout_s=20)
        processes.wait_until(
            lambda name=name, credits=credits: app.credits(name) == credits + 11, f"{name} granted", timeout_s=10
        )
    # Due again: what was done already is found done.
    app.made.sql("UPDATE subscriptions SET due_at = now() WHERE tenant_id = $1 AND due_at IS NOT NULL", app.tenant_id)
    processes.wait_until(
        lambda: not app.made.sql("SELECT 1 FROM subscriptions WHERE due_at <= now()"), "nothing is due", timeout_s=20
    )
    for plan_id, (_, credits) in PLANS.items():
        assert app.credits(f"turn-{plan_id}") == credits + 11
        assert app.subscription(f"turn-{plan_id}").period_no == 49
    app.settled(*(f"turn-{plan_id}" for plan_id in PLANS))


def test_a_failed_payment_keeps_the_credits_and_the_month_brings_none(app: products.Product) -> None:
    _subscribed(app, "late", "pro")
    app.charge("late", credits=500)
    app.client.call("UpdateSubscription", accounts_pb2.UpdateSubscriptionRequest(account_id="late", past_due=True))
    assert (app.subscription("late").status, app.credits("late")) == (Status.STATUS_PAST_DUE, 2_500)
    app.grant("late", 20)
    app.age("late", years=4)
    processes.wait_until(lambda: app.credits("late") == 20, "the end of the month", timeout_s=15)
    app.client.call("UpdateSubscription", accounts_pb2.UpdateSubscriptionRequest(account_id="late", past_due=False))
    processes.wait_until(lambda: app.credits("late") == 3_020, "the month that was paid", timeout_s=15)
    assert app.subscription("late").status == Status.STATUS_ACTIVE


def test_a_price_change_leaves_old_subscribers_theirs_until_they_renew(app: products.Product) -> None:
    _subscribed(app, "old", "elite")
    text = (products.FILES / "b.yaml").read_text()
    dearer = text.replace("name: Elite, price: 29,", "name: Elite, price: 33,")
    try:
        assert app.apply(dearer).changes == ["plan elite: price 29.00 eur → 33.00 eur"]
        assert app.subscription("old").plan.price == "29.00"
        assert _subscribed(app, "new", "elite").plan.price == "33.00"
        app.age("old", years=4)
        processes.wait_until(lambda: app.subscription("old").plan.price == "33.00", "the renewal", timeout_s=15)
        assert app.subscription("old").period_no == 49
    finally:
        app.apply(text)


def test_a_subscription_that_is_deleted_falls_back_to_the_free_plan(app: products.Product) -> None:
    _subscribed(app, "gone", "essential")
    app.grant("gone", 40)
    app.client.call("CancelSubscription", accounts_pb2.CancelSubscriptionRequest(account_id="gone", at_once=True))
    processes.wait_until(lambda: app.balance("gone").plan_id == "free", "the free plan", timeout_s=15)
    assert app.credits("gone") == 140


def test_a_widget_sees_the_balance_change_at_once(app: products.Product) -> None:
    app.open("widget")
    request = accounts_pb2.WatchRequest(account_id="widget")
    seen: list[int] = []
    for found in app.client.call("Watch", request):
        seen.append(found.wallets[0].available_micros // CREDIT)
        if len(seen) == 1:
            app.charge("widget", credits=30)
        if seen[-1] == 70:
            break
    assert (seen[0], seen[-1]) == (100, 70)


def test_a_user_of_another_tenant_sees_nothing(app: products.Product) -> None:
    app.open("private")
    with products.opened(app.made, "fitness-rival") as other:
        code, _ = other.client.refused("GetBalance", accounts_pb2.GetBalanceRequest(account_id="private"))
        assert code == grpc.StatusCode.NOT_FOUND


def test_at_the_end_the_ledger_is_proven(app: products.Product) -> None:
    app.made.verify()
