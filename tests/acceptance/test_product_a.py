"""Product A, a job-search app: packages and unlimited subscriptions side by side, told with its own numbers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
import statistics
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest

from meterd.postgres import pool, purchases
from meterd_client.v1 import accounts_pb2, reports_pb2, types_pb2
from tests.acceptance import installation, processes, products

CREDIT = products.CREDIT
FEATURES = {
    "job_match_simple": 2,
    "job_match_detailed": 5,
    "resume_parsing": 8,
    "resume_analysis": 10,
    "resume_optimization": 15,
    "cover_letter": 12,
    "interview_prep": 8,
    "interview_feedback": 5,
    "career_insights": 20,
    "salary_analysis": 6,
    "company_research": 4,
    "skill_gap_analysis": 10,
    "saved_search": 5,
    "job_alert_weekly": 2,
}
PACKAGES = {
    "starter": (100, "5.00", "", []),
    "basic": (250, "10.00", "20", []),
    "pro": (600, "20.00", "34", ["popular", "best value"]),
    "power": (1500, "40.00", "46", []),
    "enterprise": (5000, "100.00", "60", []),
}


@pytest.fixture(scope="module")
def app(shared: installation.Installation) -> Iterator[products.Product]:
    with products.opened(shared, "jobs", "a") as found:
        yield found


def test_the_first_use_makes_an_account_with_ten_credits_once(app: products.Product) -> None:
    first, again = app.open("ana"), app.open("ana")
    assert (first.replayed, again.replayed) == (False, True)
    assert first.welcome.amount_micros == 10 * CREDIT
    assert first.welcome.category == types_pb2.GRANT_CATEGORY_PROMOTIONAL
    assert first.welcome.grant_id == again.welcome.grant_id
    found = app.balance("ana")
    assert (found.unlimited, app.credits("ana")) == (False, 10)


def test_each_package_credits_what_it_says_once_an_order(app: products.Product) -> None:
    sold = {one.package_id: one for one in app.catalog().packages}
    assert {
        name: (one.amount_micros / CREDIT, one.price, one.discount_percent, list(one.flags))
        for name, one in sold.items()
    } == PACKAGES
    app.open("buyer")
    expected = 10
    for name, (credits, *_) in PACKAGES.items():
        (first,) = app.buy("buyer", sold[name], f"order-{name}")
        (again,) = app.buy("buyer", sold[name], f"order-{name}")
        expected += credits
        assert (first.replayed, again.replayed, again.grant.grant_id) == (False, True, first.grant.grant_id)
        assert app.credits("buyer") == expected
    app.settled("buyer")
    lifetime = app.balance("buyer").lifetime
    assert (lifetime.purchased_micros, lifetime.earned_micros, lifetime.spent_micros) == (
        7_450 * CREDIT,
        10 * CREDIT,
        0,
    )


def test_each_feature_deducts_its_price_and_is_in_the_history(app: products.Product) -> None:
    listed = {one.feature_id: one for one in app.catalog().features}
    assert {name: one.amount_micros / CREDIT for name, one in listed.items()} == FEATURES
    assert all(one.name and one.category and one.active for one in listed.values())
    app.open("bea")
    app.grant("bea", 102)
    left = 112
    for name, credits in FEATURES.items():
        charge = types_pb2.FeatureCharge(feature=name)
        able = app.estimate(account_id="bea", feature=charge)
        assert (able.amount_micros, able.HasField("denial")) == (credits * CREDIT, False)
        answer = app.charge("bea", feature=name, metadata={"job": name.upper()})
        left -= credits
        assert answer.settlement.charged_micros == credits * CREDIT
        assert answer.balance.available_micros == left * CREDIT
    assert left == 0
    page = app.transactions("bea", page_size=5)
    newest = list(FEATURES.items())[:-6:-1]
    assert [(one.item, one.amount_micros / -CREDIT) for one in page.transactions] == [
        (f"feature:{name}", credits) for name, credits in newest
    ]
    assert [dict(one.metadata) for one in page.transactions] == [{"job": name.upper()} for name, _ in newest]
    assert page.next_page_token != ""
    every = app.transactions("bea", page_size=1_000).transactions
    assert len([one for one in every if one.kind == accounts_pb2.Transaction.KIND_CHARGE]) == 14
    assert app.balance("bea").lifetime.spent_micros == 112 * CREDIT


def test_a_lack_of_credits_is_told_with_balance_and_required_and_leaves_no_trace(app: products.Product) -> None:
    app.open("cem")
    cover_letter = types_pb2.FeatureCharge(feature="cover_letter")
    asked = app.estimate(account_id="cem", feature=cover_letter).denial
    denied = app.charge("cem", feature="cover_letter").denial
    for denial in (asked, denied):
        assert (denial.available_micros, denial.required_micros) == (10 * CREDIT, 12 * CREDIT)
        assert [one.code for one in denial.reasons] == [products.Denial.CODE_INSUFFICIENT_CREDITS]
    kinds = [one.kind for one in app.transactions("cem").transactions]
    assert kinds == [accounts_pb2.Transaction.KIND_GRANT]
    assert app.charge("cem", feature="job_match_simple").balance.available_micros == 8 * CREDIT


def test_fifty_at_once_never_make_a_negative_balance(app: products.Product) -> None:
    app.open("dan")
    with concurrent.futures.ThreadPoolExecutor(max_workers=50) as threads:
        answers = list(threads.map(lambda _: app.charge("dan", feature="job_match_simple"), range(50)))
    assert [answer.WhichOneof("outcome") for answer in answers].count("settlement") == 5
    assert min(answer.balance.available_micros for answer in answers) == app.credits("dan") == 0


@pytest.mark.parametrize(
    ("plan_id", "price", "interval"), [("unlimited_monthly", "5.00", "month"), ("unlimited_yearly", "48.00", "year")]
)
def test_an_unlimited_subscription_deducts_nothing_for_a_hundred_actions_a_day(
    app: products.Product, plan_id: str, price: str, interval: str
) -> None:
    account_id = f"eva-{interval}"
    app.open(account_id)
    plan = app.subscribe(account_id, plan_id).subscription.plan
    assert (plan.price, plan.interval, plan.unlimited, plan.actions_per_day) == (price, interval, True, 100)
    _wait_for_a_day_that_lasts()
    names = list(FEATURES)
    for at in range(100):
        answer = app.charge(account_id, feature=names[at % 14])
        assert (answer.settlement.charged_micros, answer.balance.available_micros) == (0, 10 * CREDIT)
    denial = app.charge(account_id, feature="job_match_simple").denial
    (reason,) = denial.reasons
    assert (reason.code, reason.limit_micros, reason.used_micros) == (products.Denial.CODE_ACTIONS_PER_DAY, 100, 100)
    midnight = datetime.datetime.combine(products.today() + datetime.timedelta(days=1), datetime.time())
    assert reason.resets_at.ToDatetime() == midnight
    found = app.balance(account_id)
    assert (found.unlimited, found.actions_today, found.actions_per_day) == (True, 100, 100)
    app.settled(account_id)
    rows = {row.group[0]: row.actions for row in app.usage("feature", account_id=account_id).rows}
    # 100 actions over 14 features: 8 of the first two, 7 of the others; all of one day.
    assert rows == {f"feature:{name}": 8 if at < 2 else 7 for at, name in enumerate(names)}
    assert [(row.actions, row.charged_micros) for row in app.usage("day", account_id=account_id).rows] == [(100, 0)]
    app.client.call("CancelSubscription", accounts_pb2.CancelSubscriptionRequest(account_id=account_id, at_once=True))
    assert not app.balance(account_id).unlimited
    assert app.charge(account_id, feature="job_match_simple").balance.available_micros == 8 * CREDIT


def _wait_for_a_day_that_lasts() -> None:
    """A minute before midnight is no time to begin a day's story."""
    now = datetime.datetime.now(datetime.UTC)
    left = datetime.timedelta(days=1) - datetime.timedelta(hours=now.hour, minutes=now.minute, seconds=now.second)
    if left < datetime.timedelta(seconds=60):
        time.sleep(left.total_seconds() + 1)


def test_a_daily_login_earns_one_credit_a_day_at_most_five_days_a_week(app: products.Product) -> None:
    app.open("finn")
    _wait_for_a_day_that_lasts()
    number = app.account_no("finn")
    for day in range(1, 6):
        first, again = app.claim("finn", "daily_login"), app.claim("finn", "daily_login")
        assert (first.replayed, again.replayed) == (False, True)
        assert [one.amount_micros for one in first.grants] == [CREDIT]
        assert first.grants[0].category == types_pb2.GRANT_CATEGORY_REWARD
        assert app.credits("finn") == 10 + day
        # The claim becomes another day's of the same week, and its grant too.
        app.made.sql(
            "UPDATE reward_claims SET occasion = $2 WHERE account_no = $1 AND occasion LIKE '2%'", number, f"day {day}"
        )
        app.made.sql(
            """UPDATE grants SET idempotency_key = idempotency_key || $2
            WHERE account_no = $1 AND idempotency_key LIKE '%daily_login:2%' AND idempotency_key NOT LIKE '%day%day %'""",
            number,
            f" day {day}",
        )
    refused = app.claim("finn", "daily_login")
    assert (list(refused.grants), refused.refusal) == ([], accounts_pb2.ClaimRewardResponse.REFUSAL_WEEKLY_CAP)
    monday = products.today() + datetime.timedelta(days=7 - products.today().weekday())
    assert refused.retry_at.ToDatetime() == datetime.datetime.combine(monday, datetime.time())
    assert app.credits("finn") == 15


def test_a_referral_earns_twenty_for_both_once(app: products.Product) -> None:
    for account_id in ("gil", "hana"):
        app.open(account_id)
    first = app.claim("gil", "referral", referred_account_id="hana")
    again = app.claim("gil", "referral", referred_account_id="hana")
    assert (first.replayed, again.replayed) == (False, True)
    assert {one.account_id: one.amount_micros for one in first.grants} == {"gil": 20 * CREDIT, "hana": 20 * CREDIT}
    assert (app.credits("gil"), app.credits("hana")) == (30, 30)


def test_achievements_come_by_themselves_at_100_500_and_1000_spent_once_each(app: products.Product) -> None:
    app.open("ida")
    app.grant("ida", 990)
    for _ in range(5):
        app.charge("ida", feature="career_insights")
    app.settled("ida")
    early = app.claim("ida", "spent_500")
    assert early.refusal == accounts_pb2.ClaimRewardResponse.REFUSAL_NOT_REACHED
    assert (early.spent_micros, early.required_micros) == (100 * CREDIT, 500 * CREDIT)
    # Whoever does not wait for the worker claims it, and has it once all the same.
    assert app.claim("ida", "spent_100").grants[0].amount_micros == 10 * CREDIT
    assert app.claim("ida", "spent_100").replayed
    for _ in range(45):
        app.charge("ida", feature="career_insights")
    processes.wait_until(lambda: app.credits("ida") == 160, "three achievements", timeout_s=20)
    for reward, credits in (("spent_100", 10), ("spent_500", 50), ("spent_1000", 100)):
        answer = app.claim("ida", reward)
        assert (answer.replayed, answer.grants[0].amount_micros) == (True, credits * CREDIT)
    lifetime = app.balance("ida").lifetime
    assert (lifetime.purchased_micros, lifetime.earned_micros, lifetime.spent_micros) == (
        990 * CREDIT,
        170 * CREDIT,
        1_000 * CREDIT,
    )


def test_a_balance_under_twenty_is_told_once(app: products.Product) -> None:
    app.open("jan")
    app.grant("jan", 20)
    app.charge("jan", feature="job_match_simple")
    app.charge("jan", feature="job_match_detailed")
    app.settled("jan")
    assert app.events("jan", "balance.low") == []
    # 23 to 18 crosses the threshold, 16 does not again.
    app.charge("jan", feature="saved_search")
    app.charge("jan", feature="job_alert_weekly")
    app.settled("jan")
    processes.wait_until(lambda: app.events("jan", "balance.low") != [], "balance.low", timeout_s=15)
    (told,) = app.events("jan", "balance.low")
    assert '"threshold_micros":20000000' in told.data.replace(" ", "")
    assert '"left_micros":18000000' in told.data.replace(" ", "")


def test_credits_are_given_to_another_user(app: products.Product) -> None:
    for account_id in ("kim", "lou"):
        app.open(account_id)
    request = accounts_pb2.TransferRequest(
        idempotency_key=installation.new_id(), from_account_id="kim", to_account_id="lou", amount_micros=4 * CREDIT
    )
    first, again = app.client.call("Transfer", request), app.client.call("Transfer", request)
    assert (first.replayed, again.replayed, first.transfer.gift.amount_micros) == (False, True, 4 * CREDIT)
    assert (app.credits("kim"), app.credits("lou")) == (6, 14)


def test_what_the_product_wants_later_is_configuration_alone(app: products.Product) -> None:
    """Referral 50, daily login 2, ten per cent more over $50."""
    document = (products.FILES / "a.yaml").read_text()
    for old, later in (
        ("kind: referral, credits: 20", "kind: referral, credits: 50"),
        ("kind: day, credits: 1", "kind: day, credits: 2"),
        ("credits: 5000, price: 100", "credits: 5000, bonus: 500, price: 100"),
    ):
        assert document.count(old) == 1
        document = document.replace(old, later)
    with products.opened(app.made, "jobs-later") as shop:
        assert shop.apply(document).applied
        for account_id in ("gil", "hana"):
            shop.open(account_id)
        shop.claim("gil", "referral", referred_account_id="hana")
        shop.claim("gil", "daily_login")
        assert (shop.credits("gil"), shop.credits("hana")) == (62, 60)
        sold = {one.package_id: one for one in shop.catalog().packages}
        for name, credits in (("power", 1_500), ("enterprise", 5_500)):
            before = shop.credits("hana")
            shop.buy("hana", sold[name], f"later-{name}")
            assert shop.credits("hana") == before + credits


def test_a_balance_check_takes_less_than_100_ms(app: products.Product) -> None:
    app.open("max")
    took_ms: list[float] = []
    for _ in range(30):
        began = time.perf_counter()
        app.balance("max")
        took_ms.append((time.perf_counter() - began) * 1000)
    assert statistics.median(took_ms) < 100


def test_a_day_of_the_business_is_told_in_revenue_conversion_and_most_used_features(
    shared: installation.Installation,
) -> None:
    """Payments are entered as the payment provider's adapter does."""
    with products.opened(shared, "jobs-business", "a") as app:
        for account_id in ("one", "two", "three", "four"):
            app.open(account_id)
        day = products.today()
        at_ms = int(datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp() * 1000)
        paid = [
            ("one", "pi_1", purchases.Kind.PACKAGE, "starter", "5"),
            ("one", "pi_2", purchases.Kind.PACKAGE, "pro", "20"),
            ("two", "in_1", purchases.Kind.SUBSCRIPTION, "unlimited_monthly", "5"),
        ]
        asyncio.run(_pay(app, paid, at_ms))
        request = reports_pb2.RevenueRequest(from_day=day.isoformat(), to_day=day.isoformat())
        found = app.client.call("Revenue", request)
        (row,) = found.rows
        assert (row.currency, Decimal(row.package_revenue), Decimal(row.subscription_revenue)) == ("USD", 25, 5)
        assert (row.purchases, Decimal(row.average_purchase)) == (3, 10)
        assert (found.accounts, found.paying_accounts, found.conversion_percent) == (4, 2, "50.0")
        for feature, account_id in (("saved_search", "one"), ("job_match_simple", "one"), ("job_match_simple", "two")):
            app.charge(account_id, feature=feature)
        app.settled("one", "two")
        used = {line.group[0]: line.actions for line in app.usage("feature").rows}
        assert used == {"feature:job_match_simple": 2, "feature:saved_search": 1}


async def _pay(app: products.Product, paid: list[tuple[str, str, purchases.Kind, str, str]], at_ms: int) -> None:
    connections = await pool.create(app.made.postgres.dsn)
    try:
        for account_id, purchase_id, kind, product_id, amount in paid:
            purchase = purchases.Purchase(
                tenant_id=app.tenant_id,
                account_id=account_id,
                purchase_id=purchase_id,
                kind=kind,
                product_id=product_id,
                amount=Decimal(amount),
                currency="USD",
                at_ms=at_ms,
            )
            for expected in (True, False):
                async with pool.as_tenant(connections, app.tenant_id) as connection:
                    assert await purchases.add(connection, purchase) == expected
    finally:
        await connections.close()


def test_at_the_end_the_ledger_is_proven(app: products.Product) -> None:
    app.made.verify()
