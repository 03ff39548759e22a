"""What a subscription becomes: every period granted once, none twice, however often or late it is looked at."""

from __future__ import annotations

import dataclasses
import datetime
import uuid

import hypothesis
import pytest
from hypothesis import strategies as st

from meterd.core import catalog, periods, subscriptions

HOUR_MS = 3_600_000
DAY_MS = periods.DAY_MS


def ms(text: str) -> int:
    return round(datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp() * 1000)


PLAN = catalog.Plan(
    plan_id="pro",
    name="Pro",
    price="19",
    currency="eur",
    period=catalog.BILLING_MONTH,
    allowances=(
        catalog.Allowance(wallet="default", amount_micros=3_000),
        catalog.Allowance(wallet="blocked", amount_micros=0),
    ),
)
START_MS = ms("2026-01-31T10:00")


def begun(plan: catalog.Plan = PLAN, *, at_ms: int = START_MS, has_trial: bool = False) -> subscriptions.Subscription:
    return subscriptions.begin(
        plan,
        subscription_id=uuid.UUID(int=1),
        tenant_id="t",
        account_id="a",
        account_no=1,
        address="x",
        source_id="",
        has_trial=has_trial,
        now_ms=at_ms,
    )


def advance(
    before: subscriptions.Subscription, at_ms: int, offered: catalog.Plan | None = PLAN, *, ahead: bool = True
) -> subscriptions.Step:
    return subscriptions.advance(before, now_ms=at_ms, offered=offered, may_grant_ahead=ahead)


def granted(step: subscriptions.Step) -> list[tuple[int, int, int, int]]:
    return [(one.period_no, one.amount_micros, one.effective_ms, one.expires_ms) for one in step.allowances]


def test_the_first_period_is_granted_at_once_and_the_next_a_day_ahead_from_its_turn_on() -> None:
    first = advance(begun(), START_MS)
    assert granted(first) == [(1, 3_000, START_MS, ms("2026-02-28T10:00"))]
    assert first.subscription.due_ms == ms("2026-02-27T10:00")
    early = advance(first.subscription, ms("2026-02-27T09:59"))
    assert granted(early) == []
    ahead = advance(early.subscription, ms("2026-02-27T10:00"))
    assert granted(ahead) == [(2, 3_000, ms("2026-02-28T10:00"), ms("2026-03-31T10:00"))]
    assert ahead.subscription.period_no == 1
    turned = advance(ahead.subscription, ms("2026-02-28T10:00"))
    assert granted(turned) == []
    assert (turned.subscription.period_no, turned.subscription.period_end_ms) == (2, ms("2026-03-31T10:00"))


def test_a_worker_that_was_away_for_months_grants_the_present_period_alone() -> None:
    first = advance(begun(), START_MS).subscription
    late = advance(first, ms("2026-06-15"))
    assert granted(late) == [(5, 3_000, ms("2026-05-31T10:00"), ms("2026-06-30T10:00"))]


def test_what_rolls_over_lasts_for_one_period_more() -> None:
    step = advance(begun(dataclasses.replace(PLAN, rollover=True)), START_MS)
    assert granted(step) == [(1, 3_000, START_MS, ms("2026-03-31T10:00"))]


def test_a_wallet_with_debts_waits_for_the_turn() -> None:
    first = advance(begun(), START_MS).subscription
    waits = advance(first, ms("2026-02-28T09:59"), ahead=False)
    assert granted(waits) == []
    assert waits.subscription.due_ms == ms("2026-02-28T10:00")
    turned = advance(waits.subscription, ms("2026-02-28T10:00"), ahead=False)
    assert [one[0] for one in granted(turned)] == [2]


def test_a_calendar_month_begins_with_the_subscription_and_ends_with_the_month() -> None:
    plan = dataclasses.replace(PLAN, period=catalog.CALENDAR_MONTH)
    step = advance(begun(plan, at_ms=ms("2026-03-20T12:00")), ms("2026-03-20T12:00"))
    assert granted(step) == [(1, 3_000, ms("2026-03-20T12:00"), ms("2026-04-01"))]


def test_a_trial_is_a_period_of_its_own_and_periods_count_from_its_end() -> None:
    plan = dataclasses.replace(PLAN, trial_days=14)
    trial = advance(begun(plan, has_trial=True), START_MS, plan)
    ends_ms = START_MS + 14 * DAY_MS
    assert trial.subscription.status is subscriptions.Status.TRIAL
    assert granted(trial) == [(0, 3_000, START_MS, ends_ms)]
    paid = advance(trial.subscription, ends_ms, plan)
    assert paid.subscription.status is subscriptions.Status.ACTIVE
    assert granted(paid) == [(1, 3_000, ends_ms, periods.add_months(ends_ms, 1))]


@pytest.mark.parametrize(("interval", "renewal"), [("month", "2026-02-28T10:00"), ("year", "2027-01-31T10:00")])
def test_old_subscribers_keep_their_terms_until_they_renew(interval: str, renewal: str) -> None:
    plan = dataclasses.replace(PLAN, interval=interval)
    dearer = dataclasses.replace(plan, price="29", allowances=(catalog.Allowance(wallet="default", amount_micros=9),))
    found = advance(begun(plan), START_MS, plan).subscription
    assert found.terms_until_ms == ms(renewal)
    before = advance(found, ms(renewal) - 2 * DAY_MS, dearer)
    assert before.subscription.plan.price == "19"
    after = advance(before.subscription, ms(renewal), dearer)
    assert after.subscription.plan.price == "29"
    assert [one[1] for one in granted(after)] == [9]


def test_a_plan_that_is_no_longer_offered_goes_on_as_it_is() -> None:
    found = advance(begun(), START_MS).subscription
    for offered in (None, dataclasses.replace(PLAN, active=False, price="29")):
        assert advance(found, ms("2026-03-01"), offered).subscription.plan == PLAN


def test_the_terms_that_were_granted_ahead_are_those_of_the_period() -> None:
    found = advance(begun(), START_MS).subscription
    dearer = dataclasses.replace(PLAN, price="29")
    ahead = advance(found, ms("2026-02-28T09:00"), dearer).subscription
    turned = advance(ahead, ms("2026-02-28T10:00"), dataclasses.replace(PLAN, price="39")).subscription
    assert turned.plan.price == "29"


def test_a_missing_payment_stops_the_grants_and_its_coming_brings_the_present_period() -> None:
    found = advance(begun(), START_MS).subscription
    overdue = dataclasses.replace(found, status=subscriptions.Status.PAST_DUE)
    waiting = advance(overdue, ms("2026-03-05"))
    assert granted(waiting) == []
    assert waiting.subscription.due_ms == 0
    paid = advance(dataclasses.replace(waiting.subscription, status=subscriptions.Status.ACTIVE), ms("2026-03-06"))
    assert [one[0] for one in granted(paid)] == [2]


def test_a_cancellation_lets_the_period_end_and_what_was_granted_ahead_can_be_granted_again() -> None:
    found = advance(begun(), START_MS).subscription
    ahead = advance(found, ms("2026-02-28T09:00")).subscription
    canceled = subscriptions.withdrawn(dataclasses.replace(ahead, cancel_at_period_end=True))
    assert (canceled.granted_no, canceled.withdrawals) == (1, 1)
    kept = advance(canceled, ms("2026-02-28T09:30"))
    assert granted(kept) == [] and kept.subscription.is_live and kept.subscription.refreshes_ms == 0
    ended = advance(kept.subscription, ms("2026-02-28T12:00"))
    assert ended.subscription.status is subscriptions.Status.CANCELED
    assert ended.subscription.canceled_ms == ms("2026-02-28T10:00")
    assert granted(advance(ended.subscription, ms("2026-05-01"))) == []


def test_the_hot_path_is_told_until_when_the_plan_counts() -> None:
    plan = dataclasses.replace(PLAN, unlimited=True, actions_per_day=100)
    first = advance(begun(plan), START_MS, plan)
    assert (first.rule.unlimited, first.rule.actions_per_day, first.rule.blocked_wallets) == (True, 100, ("blocked",))
    assert first.rule.until_ms == ms("2026-02-28T10:00")
    ahead = advance(first.subscription, ms("2026-02-28T00:00"), plan)
    assert ahead.rule.until_ms == ms("2026-03-31T10:00")
    # Where the next period has another rule, the present one ends in time.
    other = advance(first.subscription, ms("2026-02-28T00:00"), dataclasses.replace(plan, actions_per_day=50))
    assert other.rule.until_ms == ms("2026-02-28T10:00")


@hypothesis.given(
    period=st.sampled_from(catalog.PERIODS),
    rollover=st.booleans(),
    trial_days=st.sampled_from([0, 7]),
    looks=st.lists(st.integers(0, 150 * 24), min_size=1, max_size=40),
    start=st.integers(ms("2027-12-01"), ms("2028-03-05")),
)
def test_whenever_it_is_looked_at_each_period_is_granted_at_most_once_and_covers_the_moment(
    period: str, rollover: bool, trial_days: int, looks: list[int], start: int
) -> None:
    plan = dataclasses.replace(PLAN, period=period, rollover=rollover, trial_days=trial_days)
    found = begun(plan, at_ms=start, has_trial=trial_days > 0)
    seen: dict[int, subscriptions.Allowance] = {}
    for hours in sorted([0, *looks]):
        now_ms = start + hours * HOUR_MS
        step = advance(found, now_ms, plan)
        assert granted(advance(step.subscription, now_ms, plan)) == [], "a repeat grants nothing"
        for one in step.allowances:
            assert one.period_no not in seen
            seen[one.period_no] = one
        found = step.subscription
        assert found.period_start_ms <= now_ms < found.period_end_ms
        live = [one for one in seen.values() if one.effective_ms <= now_ms < one.expires_ms]
        assert found.period_no in [one.period_no for one in live]
        assert len(live) <= (2 if rollover else 1)
        assert found.due_ms > now_ms


def changed(
    plan: catalog.Plan, previous: subscriptions.Subscription | None, at_ms: int, *, has_trial: bool = False
) -> subscriptions.Step:
    """The first step of a plan to which the account changes, prorated."""
    made = subscriptions.begin(
        plan,
        subscription_id=uuid.UUID(int=2),
        tenant_id="t",
        account_id="a",
        account_no=1,
        address="x",
        source_id="",
        has_trial=has_trial,
        now_ms=at_ms,
        anchor_ms=subscriptions.kept_anchor_ms(previous, plan, at_ms),
    )
    share = subscriptions.share_left(made, at_ms)
    return subscriptions.advance(made, now_ms=at_ms, offered=plan, may_grant_ahead=True, share=share)


BIG = dataclasses.replace(PLAN, plan_id="big", allowances=(catalog.Allowance(wallet="default", amount_micros=28_001),))


def test_a_prorated_plan_goes_on_in_the_period_of_the_one_before_with_what_is_left_of_it() -> None:
    before = advance(begun(), START_MS).subscription
    # Of 28 days a quarter is left, and a part of a micro-credit is granted whole.
    at_ms = ms("2026-02-21T10:00")
    first = changed(BIG, before, at_ms)
    assert granted(first) == [(1, 7_001, START_MS, ms("2026-02-28T10:00"))]
    following = advance(first.subscription, ms("2026-02-28T10:00"), BIG)
    assert granted(following) == [(2, 28_001, ms("2026-02-28T10:00"), ms("2026-03-31T10:00"))]


def test_a_prorated_plan_whose_period_is_of_another_kind_begins_a_whole_one() -> None:
    before = advance(begun(), START_MS).subscription
    at_ms = ms("2026-02-21T10:00")
    first = changed(dataclasses.replace(BIG, period=catalog.DAYS_30), before, at_ms)
    assert granted(first) == [(1, 28_001, at_ms, at_ms + 30 * DAY_MS)]
    assert granted(changed(BIG, None, at_ms)) == [(1, 28_001, at_ms, ms("2026-03-21T10:00"))]


def test_a_prorated_calendar_month_is_shared_from_its_first_day() -> None:
    month = dataclasses.replace(BIG, period=catalog.CALENDAR_MONTH)
    first = changed(month, None, ms("2026-02-15"))
    assert granted(first) == [(1, 14_001, ms("2026-02-15"), ms("2026-03-01"))]


def test_a_trial_is_never_prorated_and_periods_do_not_go_on_out_of_one() -> None:
    trial = dataclasses.replace(BIG, trial_days=14)
    before = advance(begun(), START_MS).subscription
    at_ms = ms("2026-02-21T10:00")
    assert granted(changed(trial, before, at_ms, has_trial=True)) == [(0, 28_001, at_ms, at_ms + 14 * DAY_MS)]
    on_trial = advance(begun(trial, has_trial=True), START_MS, trial).subscription
    assert granted(changed(BIG, on_trial, START_MS + DAY_MS)) == [
        (1, 28_001, START_MS + DAY_MS, ms("2026-03-01T10:00"))
    ]


@hypothesis.given(st.integers(0, 400 * DAY_MS), st.sampled_from(catalog.PERIODS), st.integers(1, 10**9))
def test_a_share_is_above_nothing_and_at_most_the_whole(after_ms: int, period: str, amount_micros: int) -> None:
    plan = dataclasses.replace(
        PLAN, period=period, allowances=(catalog.Allowance(wallet="default", amount_micros=amount_micros),)
    )
    before = begun(plan)
    (allowance,) = changed(plan, before, START_MS + after_ms).allowances[:1]
    assert 1 <= allowance.amount_micros <= amount_micros
    assert allowance.expires_ms > START_MS + after_ms
