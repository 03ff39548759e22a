"""Product C, a VM platform: fractional rates against packages that never expire, told with its own numbers."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from decimal import Decimal

import pytest

from meterd_client.v1 import accounts_pb2, reports_pb2, types_pb2
from tests.acceptance import installation, processes, products

CREDIT = products.CREDIT
RATES = {
    "vm_minute": ("minute", Decimal(1)),
    "screenshot": ("screenshot", Decimal("0.5")),
    "api_call": ("call", Decimal("0.1")),
    "ai_message": ("message", Decimal("0.2")),
    "file_upload": ("MB", Decimal(1)),
}
PACKAGES = {"starter": (2_000, 0, "19.00"), "growth": (6_000, 500, "49.00"), "pro": (15_000, 1_500, "99.00")}
# About a hundred credits: what one hour of a machine does.
HOUR = {"vm_minute": "60", "screenshot": "30", "api_call": "150", "ai_message": "50"}


@pytest.fixture(scope="module")
def app(shared: installation.Installation) -> Iterator[products.Product]:
    with products.opened(shared, "machines", "c") as found:
        yield found


def test_each_package_and_its_bonus_is_credited_and_never_expires(app: products.Product) -> None:
    sold = {one.package_id: one for one in app.catalog().packages}
    assert {
        name: (one.amount_micros / CREDIT, one.bonus_micros / CREDIT, one.price) for name, one in sold.items()
    } == PACKAGES
    assert {one.currency for one in sold.values()} == {"usd"}
    app.open("buyer")
    expected = 0
    for name, (credits, bonus, _) in PACKAGES.items():
        app.buy("buyer", sold[name], f"cs-{name}")
        assert all(one.replayed for one in app.buy("buyer", sold[name], f"cs-{name}"))
        expected += credits + bonus
        assert app.credits("buyer") == expected
    assert expected == 25_000
    (wallet,) = app.wallets("buyer").values()
    assert [one.HasField("expires_at") for one in wallet.grants] == [False] * 5
    # The bonus burns first.
    assert [one.amount_micros / CREDIT for one in wallet.grants] == [500, 1_500, 2_000, 6_000, 15_000]
    orders = {one.source_id for one in wallet.grants}
    assert orders == {"cs-starter", "cs-growth", "cs-pro"}
    app.settled("buyer")
    lifetime = app.balance("buyer").lifetime
    assert (lifetime.purchased_micros, lifetime.earned_micros) == (23_000 * CREDIT, 2_000 * CREDIT)


def test_each_rate_is_charged_to_the_fraction(app: products.Product) -> None:
    listed = {one.rate_id: one for one in app.catalog().rates}
    assert {name: (one.unit, Decimal(one.unit_micros) / CREDIT) for name, one in listed.items()} == RATES
    app.open("ann")
    app.grant("ann", 100)
    left = Decimal(100)
    for name, (_, credits) in RATES.items():
        for quantity in ("1", "3"):
            answer = app.charge("ann", rate=(name, quantity))
            cost = credits * int(quantity)
            left -= cost
            assert Decimal(answer.settlement.charged_micros) == cost * CREDIT
            assert Decimal(answer.balance.available_micros) == left * CREDIT
    # 4 x (1 + 0.5 + 0.1 + 0.2 + 1), to the last digit; a float would have lost it.
    assert left == Decimal("88.8")
    assert app.charge("ann", rate=("file_upload", "0.000001")).settlement.charged_micros == 1
    for name in ("screenshot", "api_call", "ai_message"):
        assert not listed[name].fractional


def test_the_usage_calculator_tells_the_price_of_an_hour_and_writes_nothing(app: products.Product) -> None:
    app.open("bob")
    app.grant("bob", 2_000)
    cost = {
        name: app.estimate(account_id="bob", rate=types_pb2.RateCharge(rate=name, quantity=quantity)).amount_micros
        for name, quantity in HOUR.items()
    }
    assert cost == {
        "vm_minute": 60 * CREDIT,
        "screenshot": 15 * CREDIT,
        "api_call": 15 * CREDIT,
        "ai_message": 10 * CREDIT,
    }
    assert sum(cost.values()) == 100 * CREDIT
    assert [one.kind for one in app.transactions("bob").transactions] == [accounts_pb2.Transaction.KIND_GRANT]
    assert app.credits("bob") == 2_000
    too_much = app.estimate(account_id="bob", rate=types_pb2.RateCharge(rate="vm_minute", quantity="2001"))
    assert (too_much.denial.available_micros, too_much.denial.required_micros) == (2_000 * CREDIT, 2_001 * CREDIT)


def test_the_dashboard_has_balance_hours_left_and_recent_transactions(app: products.Product) -> None:
    app.open("cleo")
    package = next(one for one in app.catalog().packages if one.package_id == "starter")
    app.buy("cleo", package, "cs-cleo")
    for name, quantity in HOUR.items():
        assert app.charge("cleo", rate=(name, quantity), metadata={"vm": "vm-1"}).HasField("settlement")
    recent = app.transactions("cleo", page_size=10).transactions
    assert [one.item for one in recent[:4]] == [f"rate:{name}" for name in reversed(HOUR)]
    assert [one.amount_micros for one in recent[:4]] == [-10 * CREDIT, -15 * CREDIT, -15 * CREDIT, -60 * CREDIT]
    assert app.credits("cleo") == 1_900
    # An hour's worth was used on the account's first day, so the 1,900 that are left last for nineteen such days.
    burn = app.client.call("Burn", reports_pb2.BurnRequest(account_id="cleo"))
    assert (burn.available_micros, burn.charged_per_day_micros, burn.days_left) == (
        1_900 * CREDIT,
        100 * CREDIT,
        "19.0",
    )
    used = {row.group[0]: row.charged_micros for row in app.usage("feature", account_id="cleo").rows}
    assert sum(used.values()) == 100 * CREDIT and used["rate:vm_minute"] == 60 * CREDIT


def test_a_running_machine_is_held_for_and_charged_for_the_minutes_that_it_ran(app: products.Product) -> None:
    app.open("dora")
    app.grant("dora", 90)
    held = app.reserve("dora", rate=types_pb2.RateCharge(rate="vm_minute", quantity="60"))
    assert (held.hold.amount_micros, held.balance.available_micros) == (60 * CREDIT, 30 * CREDIT)
    second = app.reserve("dora", rate=types_pb2.RateCharge(rate="vm_minute", quantity="60"))
    assert second.denial.required_micros == 60 * CREDIT and second.denial.available_micros == 30 * CREDIT
    ended = app.commit(held.hold.hold_id, quantity="42.5")
    assert (ended.settlement.charged_micros, ended.settlement.returned_micros) == (42_500_000, 17_500_000)
    assert ended.balance.available_micros == 47_500_000


def test_a_balance_under_five_hundred_is_told_once(app: products.Product) -> None:
    assert app.catalog().account.low_balance_micros == 500 * CREDIT
    app.open("emil")
    app.grant("emil", 2_000)
    app.charge("emil", rate=("vm_minute", "1499"))
    app.settled("emil")
    assert app.events("emil", "balance.low") == []
    app.charge("emil", rate=("screenshot", "2"))
    app.charge("emil", rate=("vm_minute", "60"))
    processes.wait_until(lambda: app.events("emil", "balance.low") != [], "balance.low", timeout_s=15)
    app.settled("emil")
    (told,) = app.events("emil", "balance.low")
    assert abs(told.at.ToDatetime(datetime.UTC) - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=1)
    assert '"left_micros":500000000' in told.data.replace(" ", "")


def test_at_the_end_the_ledger_is_proven(app: products.Product) -> None:
    app.made.verify()
