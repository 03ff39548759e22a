"""Product D, an audio service: five wallets for each organisation, refilled every 30 days, told with its own numbers."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator

import grpc
import pytest

from meterd_client.v1 import accounts_pb2, catalog_pb2, events_pb2, types_pb2
from tests.acceptance import installation, processes, products

CREDIT = products.CREDIT
COSTS = {"lead_generation": 5, "goal_generation": 3, "strategy_analysis": 2, "forecast": 4, "general": 1}
MONTHLY = ("lead_generation", "goal_generation", "strategy_analysis", "forecast")
PLANS = {"starter": (0, 0, 0, 0), "pro": (50, 20, 100, 30), "enterprise": (500, 200, 1_000, 200)}
DAYS_30 = datetime.timedelta(days=30)


@pytest.fixture(scope="module")
def app(shared: installation.Installation) -> Iterator[products.Product]:
    with products.opened(shared, "audio", "d") as found:
        yield found


def _left(app: products.Product, account_id: str) -> dict[str, float]:
    return {name: one.available_micros / CREDIT for name, one in app.wallets(account_id).items()}


@pytest.mark.parametrize("plan_id", ["pro", "enterprise"])
def test_each_plan_fills_its_wallets_for_thirty_days(app: products.Product, plan_id: str) -> None:
    app.open(f"org-{plan_id}")
    made = app.subscribe(f"org-{plan_id}", plan_id).subscription
    assert made.plan.period == catalog_pb2.PERIOD_30_DAYS
    assert made.period_end.ToDatetime() - made.period_start.ToDatetime() == DAYS_30
    found = app.balance(f"org-{plan_id}")
    assert found.refreshes_at == made.period_end
    wallets = {one.wallet: one for one in found.wallets if one.wallet in MONTHLY}
    allowances = dict(zip(MONTHLY, PLANS[plan_id], strict=True))
    assert {name: one.available_micros / CREDIT for name, one in wallets.items()} == allowances
    assert {name: one.allowance_micros / CREDIT for name, one in wallets.items()} == allowances
    assert {one.refreshes_at.ToDatetime() for one in wallets.values()} == {made.period_end.ToDatetime()}


def test_each_feature_takes_its_cost_from_its_own_wallet(app: products.Product) -> None:
    app.open("org-costs")
    app.subscribe("org-costs", "pro")
    app.grant("org-costs", 10, wallet="general")
    before = _left(app, "org-costs")
    for feature, credits in COSTS.items():
        answer = app.charge("org-costs", feature=feature)
        assert (answer.balance.wallet, answer.settlement.charged_micros) == (feature, credits * CREDIT)
        before[feature] -= credits
        assert _left(app, "org-costs") == before
    assert {name: before[name] for name in COSTS} == {
        "lead_generation": 45,
        "goal_generation": 17,
        "strategy_analysis": 98,
        "forecast": 26,
        "general": 9,
    }


def test_a_wallet_that_is_empty_leaves_the_others_as_they_are(app: products.Product) -> None:
    app.open("org-empty")
    app.subscribe("org-empty", "pro")
    for _ in range(6):
        assert app.charge("org-empty", feature="goal_generation").HasField("settlement")
    denial = app.charge("org-empty", feature="goal_generation").denial
    assert (denial.available_micros, denial.required_micros) == (2 * CREDIT, 3 * CREDIT)
    assert [(one.code, one.scope) for one in denial.reasons] == [
        (products.Denial.CODE_INSUFFICIENT_CREDITS, "wallet:goal_generation")
    ]
    assert app.charge("org-empty", feature="forecast").HasField("settlement")


def test_the_starter_plan_blocks_each_wallet_by_name_until_there_is_another_plan(app: products.Product) -> None:
    app.open("org-starter")
    app.subscribe("org-starter", "starter")
    for feature in MONTHLY:
        (reason,) = app.charge("org-starter", feature=feature).denial.reasons
        assert (reason.code, reason.scope) == (products.Denial.CODE_WALLET_BLOCKED, f"wallet:{feature}")
    blocked = {name for name, one in app.wallets("org-starter").items() if one.blocked}
    assert blocked == set(MONTHLY)
    # A top-up of the organisation's own opens its wallet.
    app.grant("org-starter", 5, wallet="lead_generation")
    assert app.charge("org-starter", feature="lead_generation").HasField("settlement")
    app.subscribe("org-starter", "enterprise")
    assert [_left(app, "org-starter")[name] for name in MONTHLY] == list(PLANS["enterprise"])


def test_after_thirty_days_the_allowance_is_new_and_what_was_bought_stays(app: products.Product) -> None:
    app.open("org-cycle")
    app.subscribe("org-cycle", "pro")
    app.grant("org-cycle", 7, wallet="forecast")
    for feature in MONTHLY:
        app.charge("org-cycle", feature=feature)
    first = app.subscription("org-cycle")
    app.age("org-cycle", by=DAYS_30 - datetime.timedelta(seconds=3))
    left = _left(app, "org-cycle")
    assert [left[name] for name in MONTHLY] == [45, 17, 98, 33]
    processes.wait_until(lambda: app.subscription("org-cycle").period_no == 2, "the second period", timeout_s=15)
    processes.wait_until(lambda: _left(app, "org-cycle")["forecast"] == 37, "its allowances", timeout_s=15)
    left = _left(app, "org-cycle")
    assert [left[name] for name in MONTHLY] == [50, 20, 100, 37]
    second = app.subscription("org-cycle")
    assert second.period_start.ToDatetime() + DAYS_30 == second.period_end.ToDatetime()
    # Thirty days after the first turn, to the microsecond; the turn was moved to now.
    moved = first.period_end.ToDatetime() - (DAYS_30 - datetime.timedelta(seconds=3))
    assert second.period_end.ToDatetime() == moved + DAYS_30
    assert app.balance("org-cycle").refreshes_at == second.period_end
    # Lifetime sums are those of Postgres, which hears of the expiry a little later.
    lost = (45 + 17 + 98 + 26) * CREDIT
    processes.wait_until(
        lambda: app.balance("org-cycle").lifetime.lost_micros == lost, "what expired is flushed", timeout_s=15
    )


def test_the_log_tells_user_feature_amount_remaining_metadata_and_time(app: products.Product) -> None:
    app.open("org-log")
    app.subscribe("org-log", "pro")
    began = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=5)
    for user, feature in (("ann", "lead_generation"), ("bob", "forecast"), ("ann", "forecast")):
        app.charge("org-log", feature=feature, subject=types_pb2.Subject(user=user), metadata={"track": user.upper()})
    log = [one for one in app.transactions("org-log").transactions if one.kind == accounts_pb2.Transaction.KIND_CHARGE]
    assert [
        (one.subject.user, one.item, one.wallet, one.amount_micros / CREDIT, one.available_after_micros / CREDIT)
        for one in log
    ] == [
        ("ann", "feature:forecast", "forecast", -4, 22),
        ("bob", "feature:forecast", "forecast", -4, 26),
        ("ann", "feature:lead_generation", "lead_generation", -5, 45),
    ]
    assert [dict(one.metadata) for one in log] == [{"track": "ANN"}, {"track": "BOB"}, {"track": "ANN"}]
    times = [one.at.ToDatetime(datetime.UTC) for one in log]
    assert times == sorted(times, reverse=True)
    assert began < times[-1] and times[0] < datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=5)
    rows = app.usage("user", "wallet", account_id="org-log").rows
    assert {tuple(row.group): (row.actions, row.charged_micros / CREDIT) for row in rows} == {
        ("ann", "forecast"): (1, 4),
        ("ann", "lead_generation"): (1, 5),
        ("bob", "forecast"): (1, 4),
    }


def test_the_stats_of_a_wallet_tell_allocated_used_refresh_and_last_use(app: products.Product) -> None:
    app.open("org-stats")
    app.subscribe("org-stats", "enterprise")
    for _ in range(3):
        app.charge("org-stats", feature="strategy_analysis")
    wallet = app.wallets("org-stats")["strategy_analysis"]
    used = wallet.allowance_micros - wallet.available_micros - wallet.held_micros
    assert (wallet.allowance_micros, used) == (1_000 * CREDIT, 6 * CREDIT)
    assert wallet.refreshes_at == app.subscription("org-stats").period_end
    last = app.transactions("org-stats").transactions[0]
    assert (last.wallet, last.item) == ("strategy_analysis", "feature:strategy_analysis")
    (row,) = app.usage("wallet", account_id="org-stats").rows
    assert (list(row.group), row.actions, row.charged_micros) == (["strategy_analysis"], 3, 6 * CREDIT)


def test_no_organisation_sees_another_ones(app: products.Product) -> None:
    app.open("org-mine")
    app.subscribe("org-mine", "pro")
    app.charge("org-mine", feature="forecast", subject=types_pb2.Subject(user="ann"))
    app.open("org-theirs")
    assert list(app.transactions("org-theirs").transactions) == []
    assert list(app.usage("user", account_id="org-theirs").rows) == []
    # Nor does another tenant, whatever it asks for.
    with products.opened(app.made, "another-audio") as other:
        for verb, request in (
            ("GetBalance", accounts_pb2.GetBalanceRequest(account_id="org-mine")),
            ("ListTransactions", accounts_pb2.ListTransactionsRequest(account_id="org-mine")),
            ("GetSubscription", accounts_pb2.GetSubscriptionRequest(account_id="org-mine")),
        ):
            assert other.client.refused(verb, request)[0] == grpc.StatusCode.NOT_FOUND
        assert list(other.usage("user").rows) == []


def test_four_fifths_of_a_wallet_are_told_once_and_so_is_its_end(app: products.Product) -> None:
    """80 % of an allowance of 50 are used when 10 are left."""
    app.open("org-alert")
    app.subscribe("org-alert", "pro")
    app.client.call(
        "SetLowBalance", events_pb2.SetLowBalanceRequest(account_id="org-alert", low_balance_micros=10 * CREDIT)
    )
    for _ in range(7):
        app.charge("org-alert", feature="lead_generation")
    app.settled("org-alert")
    assert app.events("org-alert") == []
    for _ in range(3):
        app.charge("org-alert", feature="lead_generation")
    app.settled("org-alert")
    processes.wait_until(lambda: app.events("org-alert", "balance.exhausted") != [], "both events", timeout_s=15)
    told = [(one.type, one.subject, json.loads(one.data)["left_micros"]) for one in app.events("org-alert")]
    assert told == [("balance.exhausted", "lead_generation", 0), ("balance.low", "lead_generation", 10 * CREDIT)]


def test_rapid_requests_are_denied_by_a_limit_a_minute(app: products.Product) -> None:
    app.open("org-rapid")
    app.grant("org-rapid", 100, wallet="general")
    limit = accounts_pb2.Limit(
        limit_id="rapid",
        subject=types_pb2.LIMIT_SUBJECT_USER,
        metric=types_pb2.LIMIT_METRIC_ACTIONS,
        window=types_pb2.LIMIT_WINDOW_ROLLING_MINUTE,
        amount=10,
    )
    app.client.call("SetLimit", accounts_pb2.SetLimitRequest(account_id="org-rapid", limit=limit))
    ann, bob = types_pb2.Subject(user="ann"), types_pb2.Subject(user="bob")
    answers = [app.charge("org-rapid", feature="general", subject=ann) for _ in range(11)]
    assert [one.HasField("settlement") for one in answers] == [True] * 10 + [False]
    (reason,) = answers[-1].denial.reasons
    assert (reason.code, reason.limit_id, reason.scope) == (products.Denial.CODE_LIMIT_EXCEEDED, "rapid", "user:ann")
    assert (reason.limit_micros, reason.used_micros, reason.HasField("resets_at")) == (10, 10, True)
    assert app.charge("org-rapid", feature="general", subject=bob).HasField("settlement")


def test_at_the_end_the_ledger_is_proven(app: products.Product) -> None:
    app.settled("org-cycle")
    app.made.verify()
