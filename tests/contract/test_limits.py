"""What every ledger promises of limits: run on the in-memory ledger and on the scripts in a real Redis, with a clock that the test sets."""

from __future__ import annotations

import asyncio
import datetime
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from meterd.core import catalog, ids, ledger, limits, periods
from tests import ledgers

ADDRESS = ids.account_address("t", "acct")
FUNDS = 1_000_000
HOUR_MS, DAY_MS = periods.DAY_MS // 24, periods.DAY_MS


def uid() -> uuid.UUID:
    return ids.uuid7(ledgers.START_MS)


def terms(**fields: Any) -> bytes:
    return json.dumps({"item": "credits"} | fields).encode()


def at(*when: int) -> int:
    return int(datetime.datetime(*when, tzinfo=datetime.UTC).timestamp() * 1000)  # type: ignore[arg-type]


@pytest_asyncio.fixture(params=["memory", "redis"])
async def clocked(request: pytest.FixtureRequest) -> AsyncIterator[ledgers.Clocked]:
    if request.param == "memory":
        found = await ledgers.in_memory()
    else:
        found = await ledgers.on_redis(request.getfixturevalue("redis_url"))
    yield found
    await found.close()


async def limited(clocked: ledgers.Clocked, *defined: limits.Limit, funds: int = FUNDS) -> None:
    """An account with these limits."""
    assert await clocked.book.load(ledgers.account_state())
    await clocked.book.apply(ADDRESS, ledgers.grant_change(1, funds))
    await clocked.book.apply(ADDRESS, ledgers.limits_change(2, *defined))


async def reserve(clocked: ledgers.Clocked, amount: int, **fields: Any) -> ledger.Held | ledger.Denied:
    outcome = await clocked.book.reserve(ledgers.reserve(uid(), amount, terms=terms(**fields)))
    assert isinstance(outcome, ledger.Held | ledger.Denied)
    return outcome


async def held(clocked: ledgers.Clocked, amount: int, **fields: Any) -> uuid.UUID:
    outcome = await reserve(clocked, amount, **fields)
    assert isinstance(outcome, ledger.Held), outcome
    return outcome.hold


async def denied(clocked: ledgers.Clocked, amount: int, **fields: Any) -> ledger.Denied:
    outcome = await reserve(clocked, amount, **fields)
    assert isinstance(outcome, ledger.Denied), outcome
    return outcome


async def used(clocked: ledgers.Clocked) -> dict[str, int]:
    return {use.field: use.used for use in await clocked.book.limit_uses(ADDRESS)}


async def test_a_cap_is_reached_and_not_passed_by_a_micro_credit(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100))
    await held(clocked, 60)
    outcome = await denied(clocked, 41)
    assert outcome.code == ledger.DenialCode.LIMIT_EXCEEDED
    day_end_ms = (ledgers.START_MS // DAY_MS + 1) * DAY_MS
    assert outcome.exceeded == [
        limits.Exceeded(
            limit_id="limit-1",
            subject=limits.Subject.ACCOUNT,
            value="",
            metric=limits.Metric.CREDITS,
            window=limits.Window.DAY,
            cap=100,
            used=60,
            resets_ms=day_end_ms,
        )
    ]
    await held(clocked, 40)
    assert await used(clocked) == {"1:": 100}


async def test_all_limits_without_room_are_named_and_the_wallet_too(clocked: ledgers.Clocked) -> None:
    user = ledgers.limit(1, 10, subject=limits.Subject.USER)
    team = ledgers.limit(2, 10, subject=limits.Subject.TEAM, value="red")
    key = ledgers.limit(3, 10_000, subject=limits.Subject.KEY)
    await limited(clocked, user, team, key, funds=5)
    outcome = await denied(clocked, 11, user="ann", team="red", key="k")
    assert [(one.limit_id, one.value) for one in outcome.exceeded] == [("limit-1", "ann"), ("limit-2", "red")]
    assert outcome.also == ledger.DenialCode.INSUFFICIENT_CREDITS
    assert outcome.required_micros == 11
    assert await used(clocked) == {}


async def test_a_limit_without_a_value_counts_each_value_by_itself(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100, subject=limits.Subject.USER))
    await held(clocked, 100, user="ann")
    await held(clocked, 100, user="bob")
    await denied(clocked, 1, user="ann")
    # Who names no user is not a user.
    await held(clocked, 500)
    assert await used(clocked) == {"1:ann": 100, "1:bob": 100}


async def test_a_limit_with_a_value_counts_only_that(clocked: ledgers.Clocked) -> None:
    defined = ledgers.limit(1, 100, subject=limits.Subject.FEATURE, value="tailor")
    await limited(clocked, defined)
    await held(clocked, 100, item="feature:tailor")
    await held(clocked, 100, item="feature:score")
    await denied(clocked, 1, item="feature:tailor")


@pytest.mark.parametrize(
    ("metric", "fields", "each"),
    [
        (limits.Metric.CREDITS, {}, 10),
        (limits.Metric.COST, {"model": "m", "cost": "0.0000150000001"}, 16),
        (limits.Metric.ACTIONS, {"item": "feature:f", "qty": "3"}, 3),
        (limits.Metric.ACTIONS, {"item": "rate:r", "qty": "2.5"}, 1),
        (limits.Metric.TOKENS, {"model": "m", "in": 100, "out": 20, "extra": {"input_tokens": 3}}, 123),
        (limits.Metric.HOLDS, {}, 1),
    ],
)
async def test_each_metric_has_its_own_count(
    clocked: ledgers.Clocked, metric: limits.Metric, fields: dict[str, Any], each: int
) -> None:
    window = limits.Window.LIFETIME if metric == limits.Metric.HOLDS else limits.Window.HOUR
    await limited(clocked, ledgers.limit(1, 2 * each, metric=metric, window=window))
    await held(clocked, 10, **fields)
    await held(clocked, 10, **fields)
    outcome = await denied(clocked, 10, **fields)
    assert outcome.exceeded[0].used == 2 * each


async def test_commit_counts_what_was_used_and_not_what_was_estimated(clocked: ledgers.Clocked) -> None:
    caps = [
        ledgers.limit(1, 1_000, window=limits.Window.MONTH),
        ledgers.limit(2, 10**6, metric=limits.Metric.COST),
        ledgers.limit(3, 10**6, metric=limits.Metric.TOKENS),
        ledgers.limit(4, 10, metric=limits.Metric.ACTIONS),
        ledgers.limit(5, 10, metric=limits.Metric.HOLDS, window=limits.Window.LIFETIME),
    ]
    await limited(clocked, *caps)
    hold = await held(clocked, 400, **{"model": "m", "cost": "0.4", "in": 100, "out": 900})
    assert await used(clocked) == {"1:": 400, "2:": 400_000, "3:": 1_000, "4:": 1, "5:": 1}
    detail = b'{"us":1,"cost":"0.15","usage":{"input_tokens":90,"output_tokens":30,"reasoning_tokens":9}}'
    await clocked.book.commit(ledgers.commit(hold, 150, detail=detail))
    await clocked.book.commit(ledgers.commit(hold, 150, detail=detail))
    assert await used(clocked) == {"1:": 150, "2:": 150_000, "3:": 120, "4:": 1}


async def test_a_commit_above_its_hold_counts_in_full(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100))
    hold = await held(clocked, 100)
    await clocked.book.commit(ledgers.commit(hold, 130))
    assert await used(clocked) == {"1:": 130}
    assert (await denied(clocked, 1)).exceeded[0].used == 130


async def test_release_and_expiry_give_the_room_back(clocked: ledgers.Clocked) -> None:
    metrics = (limits.Metric.CREDITS, limits.Metric.ACTIONS)
    await limited(clocked, *(ledgers.limit(no, 100, metric=metric) for no, metric in enumerate(metrics, 1)))
    first, second = await held(clocked, 50), await held(clocked, 50)
    await denied(clocked, 1)
    await clocked.book.release(ledgers.release(first))
    await clocked.book.release(ledgers.release(first))
    assert await used(clocked) == {"1:": 50, "2:": 1}
    await clocked.advance(300_000)
    await clocked.book.expire(ADDRESS, second)
    assert await used(clocked) == {"1:": 0, "2:": 0}


@pytest.mark.parametrize(
    ("expiry", "reported", "counted"),
    [
        (ledger.Expiry.CHARGE_REPORTED, True, {"1:": 20, "2:": 7, "3:": 1}),
        (ledger.Expiry.CHARGE_REPORTED, False, {"1:": 0, "2:": 0, "3:": 0}),
        (ledger.Expiry.CHARGE_ESTIMATE, True, {"1:": 50, "2:": 100, "3:": 1}),
    ],
)
async def test_expiry_counts_what_it_charges(
    clocked: ledgers.Clocked, expiry: ledger.Expiry, reported: bool, counted: dict[str, int]
) -> None:
    metrics = (limits.Metric.CREDITS, limits.Metric.TOKENS, limits.Metric.ACTIONS)
    await limited(clocked, *(ledgers.limit(no, 1_000, metric=metric) for no, metric in enumerate(metrics, 1)))
    hold = uid()
    command = ledgers.reserve(hold, 50, ttl_ms=5_000, expiry=expiry, terms=terms(model="m", **{"in": 40, "out": 60}))
    await clocked.book.reserve(command)
    if reported:
        detail = b'{"us":2,"usage":{"input_tokens":5,"output_tokens":2}}'
        await clocked.book.report(
            ledger.Report(tenant_id="t", address=ADDRESS, hold=hold, used_micros=20, detail=detail)
        )
    await clocked.advance(5_000)
    await clocked.book.expire(ADDRESS, hold)
    assert await used(clocked) == counted


async def test_a_late_commit_counts_only_what_it_charges(clocked: ledgers.Clocked) -> None:
    metrics = (limits.Metric.CREDITS, limits.Metric.TOKENS, limits.Metric.ACTIONS, limits.Metric.HOLDS)
    await limited(clocked, *(ledgers.limit(no, 1_000, metric=metric) for no, metric in enumerate(metrics, 1)))
    hold = uid()
    expiry = ledger.Expiry.CHARGE_ESTIMATE
    command = ledgers.reserve(hold, 50, ttl_ms=5_000, expiry=expiry, terms=terms(model="m", **{"in": 50, "out": 50}))
    await clocked.book.reserve(command)
    await clocked.advance(5_000)
    await clocked.book.expire(ADDRESS, hold)
    detail = b'{"us":1,"usage":{"input_tokens":100,"output_tokens":100}}'
    await clocked.book.commit(ledgers.commit(hold, 100, detail=detail))
    # Half of it was charged before: so half of its tokens come in addition, and no action.
    assert await used(clocked) == {"1:": 100, "2:": 200, "3:": 1}


async def test_a_window_that_turns_while_a_hold_is_open_is_counted_once(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100, window=limits.Window.MINUTE))
    await clocked.set_time(at(2027, 3, 1, 12, 0, 59))
    old = await held(clocked, 100)
    await clocked.set_time(at(2027, 3, 1, 12, 1))
    assert await used(clocked) == {}
    await held(clocked, 70)
    await clocked.book.commit(ledgers.commit(old, 120))
    assert await used(clocked) == {"1:": 70}


async def test_a_release_after_the_window_turned_takes_nothing_from_the_new_one(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100, window=limits.Window.MINUTE))
    await clocked.set_time(at(2027, 3, 1, 12, 0, 59))
    old = await held(clocked, 100)
    await clocked.set_time(at(2027, 3, 1, 12, 1))
    await held(clocked, 70)
    await clocked.book.release(ledgers.release(old))
    await denied(clocked, 31)


@pytest.mark.parametrize(
    ("window", "period", "anchor_ms", "now", "ends"),
    [
        (limits.Window.MINUTE, "", 0, (2027, 3, 1, 12, 0, 59), (2027, 3, 1, 12, 1)),
        (limits.Window.HOUR, "", 0, (2027, 3, 1, 12, 59), (2027, 3, 1, 13)),
        (limits.Window.DAY, "", 0, (2028, 2, 28, 23, 59), (2028, 2, 29)),
        (limits.Window.MONTH, "", 0, (2028, 2, 29, 23, 59), (2028, 3, 1)),
        (limits.Window.MONTH, "", 0, (2027, 12, 31, 23), (2028, 1, 1)),
        (limits.Window.MONTH, "", 0, (2100, 2, 28, 1), (2100, 3, 1)),
        (limits.Window.PERIOD, catalog.CALENDAR_MONTH, 0, (2027, 4, 30), (2027, 5, 1)),
        (limits.Window.PERIOD, catalog.DAYS_30, at(2027, 1, 15, 7), (2027, 3, 1), (2027, 3, 16, 7)),
        (limits.Window.PERIOD, catalog.BILLING_MONTH, at(2027, 1, 31, 7), (2027, 2, 28, 6), (2027, 2, 28, 7)),
        (limits.Window.PERIOD, catalog.BILLING_MONTH, at(2027, 1, 31, 7), (2027, 2, 28, 7), (2027, 3, 31, 7)),
    ],
)
async def test_a_fixed_window_ends_when_the_calendar_says(
    clocked: ledgers.Clocked,
    window: limits.Window,
    period: str,
    anchor_ms: int,
    now: tuple[int, ...],
    ends: tuple[int, ...],
) -> None:
    await clocked.set_time(at(2027, 1, 1))
    await limited(clocked, ledgers.limit(1, 10, window=window, period=period, anchor_ms=anchor_ms))
    await clocked.set_time(at(*now))
    await held(clocked, 10)
    outcome = await denied(clocked, 1)
    assert outcome.exceeded[0].resets_ms == at(*ends)
    await clocked.set_time(at(*ends) - 1)
    await denied(clocked, 1)
    await clocked.set_time(at(*ends))
    await held(clocked, 10)


async def test_a_rolling_window_never_lets_a_cap_be_passed(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100, window=limits.Window.ROLLING_HOUR))
    start = at(2027, 3, 1, 12, 4, 59)
    await clocked.set_time(start)
    await held(clocked, 60)
    await clocked.set_time(start + 30 * 60_000)
    await held(clocked, 40)
    outcome = await denied(clocked, 1)
    # The slot of 5 minutes that the first lies in has wholly left the hour.
    assert outcome.exceeded[0].resets_ms == at(2027, 3, 1, 13, 5)
    # What takes more than the first has freed waits for the second.
    assert (await denied(clocked, 61)).exceeded[0].resets_ms == at(2027, 3, 1, 13, 35)
    await clocked.set_time(at(2027, 3, 1, 13, 5) - 1)
    await denied(clocked, 1)
    await clocked.set_time(at(2027, 3, 1, 13, 5))
    await held(clocked, 60)
    await denied(clocked, 1)


async def test_a_hold_in_a_rolling_window_is_settled_in_its_own_slot(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100, window=limits.Window.ROLLING_MINUTE))
    hold = await held(clocked, 60)
    await clocked.advance(20_000)
    await held(clocked, 40)
    await clocked.book.commit(ledgers.commit(hold, 10))
    await held(clocked, 50)
    await denied(clocked, 1)
    await clocked.advance(50_000)
    # Only the first slot has left.
    assert await used(clocked) == {"1:": 90}


async def test_a_lifetime_never_ends(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100, window=limits.Window.LIFETIME))
    await held(clocked, 100)
    await clocked.advance(400 * DAY_MS)
    assert (await denied(clocked, 1)).exceeded[0].resets_ms == 0


async def test_an_operation_is_one_across_its_retries(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 2, metric=limits.Metric.ACTIONS, window=limits.Window.OPERATION))
    first = await held(clocked, 10, op="a")
    await clocked.book.release(ledgers.release(first))
    second = await held(clocked, 10, op="a")
    await clocked.book.commit(ledgers.commit(second, 10))
    await held(clocked, 10, op="a")
    await denied(clocked, 10, op="a")
    await held(clocked, 10, op="b")
    # A call without an operation is one by itself.
    for _ in range(3):
        await held(clocked, 10)


async def test_an_operation_is_remembered_until_an_hour_after_its_last_hold(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100, window=limits.Window.OPERATION))
    hold = await held(clocked, 100, op="a")
    extend = ledger.Extend(tenant_id="t", address=ADDRESS, hold=hold, ttl_ms=HOUR_MS, amount_micros=0)
    assert isinstance(await clocked.book.extend(extend), ledger.Held)
    await clocked.advance(2 * HOUR_MS - 1)
    await denied(clocked, 1, op="a")
    await clocked.advance(1)
    await held(clocked, 100, op="a")


async def test_concurrent_holds_are_counted_while_they_are_open(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 2, subject=limits.Subject.USER, metric=limits.Metric.HOLDS))
    first = await held(clocked, 10, user="ann")
    await held(clocked, 10, user="ann")
    await denied(clocked, 10, user="ann")
    await clocked.advance(DAY_MS)
    await denied(clocked, 10, user="ann")
    await clocked.book.commit(ledgers.commit(first, 10))
    await held(clocked, 10, user="ann")
    charge = ledgers.charge(uid(), 10, terms=terms(user="ann"))
    assert isinstance(await clocked.book.charge(charge), ledger.Settled)


async def test_an_observing_limit_denies_nothing_and_counts_what_it_would_have(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100, observe=True), ledgers.limit(2, 250, window=limits.Window.MONTH))
    await held(clocked, 100)
    await held(clocked, 100)
    await denied(clocked, 51)
    await held(clocked, 50)
    uses = await clocked.book.limit_uses(ADDRESS)
    assert [(use.limit_no, use.used, use.over) for use in uses] == [(1, 250, 2), (2, 250, 0)]


async def test_raising_a_limit_helps_at_once_and_lowering_it_too(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100))
    await held(clocked, 100)
    await denied(clocked, 50)
    await clocked.book.apply(ADDRESS, ledgers.limits_change(3, ledgers.limit(1, 150)))
    await held(clocked, 50)
    await clocked.book.apply(ADDRESS, ledgers.limits_change(4, ledgers.limit(1, 120)))
    outcome = await denied(clocked, 1)
    assert (outcome.exceeded[0].used, outcome.exceeded[0].cap) == (150, 120)


async def test_other_settings_leave_the_limits_and_no_limits_leave_nothing(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100))
    hold = await held(clocked, 100)
    change = ledgers.limits_change(3)
    untouched = ledger.SettingsChange(
        **{name: getattr(change, name) for name in change.__slots__ if name != "limits"}, limits=None
    )
    await clocked.book.apply(ADDRESS, untouched)
    await denied(clocked, 1)
    await clocked.book.apply(ADDRESS, ledgers.limits_change(4))
    await held(clocked, 1_000)
    await clocked.book.commit(ledgers.commit(hold, 70))
    assert await used(clocked) == {}
    state = await clocked.book.account(ADDRESS)
    assert state is not None and list(state.limits) == []


async def test_definitions_come_back_as_they_were_set(clocked: ledgers.Clocked) -> None:
    defined = [
        ledgers.limit(1, 2**53 - 1, subject=limits.Subject.USER, value="änn 🦊", observe=True),
        ledgers.limit(2, 0, window=limits.Window.ROLLING_MONTH, metric=limits.Metric.COST),
        ledgers.limit(3, 7, window=limits.Window.PERIOD, period=catalog.DAYS_30, anchor_ms=86_400_123),
        ledgers.limit(4, 7, window=limits.Window.PERIOD, period=catalog.BILLING_MONTH, anchor_ms=86_400_123),
        ledgers.limit(5, 7, window=limits.Window.PERIOD),
        ledgers.limit(6, 7, window=limits.Window.LIFETIME, metric=limits.Metric.HOLDS),
    ]
    await limited(clocked, *defined)
    state = await clocked.book.account(ADDRESS)
    assert state is not None and list(state.limits) == defined


async def test_an_extension_is_checked_and_counted_in_the_window_that_it_falls_in(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100, window=limits.Window.MINUTE))
    await clocked.set_time(at(2027, 3, 1, 12, 0, 30))
    hold = await held(clocked, 60)

    def extend(total: int) -> ledger.Extend:
        return ledger.Extend(tenant_id="t", address=ADDRESS, hold=hold, ttl_ms=600_000, amount_micros=total)

    refused = await clocked.book.extend(extend(101))
    assert isinstance(refused, ledger.Denied) and refused.exceeded[0].used == 60
    assert isinstance(await clocked.book.extend(extend(90)), ledger.Held)
    assert await used(clocked) == {"1:": 90}
    await clocked.set_time(at(2027, 3, 1, 12, 1))
    assert isinstance(await clocked.book.extend(extend(130)), ledger.Held)
    assert await used(clocked) == {"1:": 40}
    await clocked.book.commit(ledgers.commit(hold, 100))
    # 30 too many: they are taken from what came last.
    assert await used(clocked) == {"1:": 10}


async def test_a_charge_is_checked_and_counted(clocked: ledgers.Clocked) -> None:
    metrics = (limits.Metric.CREDITS, limits.Metric.TOKENS, limits.Metric.COST)
    await limited(clocked, *(ledgers.limit(no, 100, metric=metric) for no, metric in enumerate(metrics, 1)))
    detail = b'{"us":1,"cost":"0.00003","usage":{"input_tokens":5,"output_tokens":2}}'
    command = ledgers.charge(uid(), 60, terms=terms(item="model:m", model="m"), detail=detail)
    assert isinstance(await clocked.book.charge(command), ledger.Settled)
    assert isinstance(await clocked.book.charge(command), ledger.Settled)
    assert await used(clocked) == {"1:": 60, "2:": 7, "3:": 30}
    refused = await clocked.book.charge(ledgers.charge(uid(), 41))
    assert isinstance(refused, ledger.Denied) and refused.code == ledger.DenialCode.LIMIT_EXCEEDED
    assert await used(clocked) == {"1:": 60, "2:": 7, "3:": 30}


async def test_a_charge_counts_what_it_could_take(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100), funds=30)
    command = ledgers.charge(uid(), 120, overage=ledger.Overage.DRAW)
    assert isinstance(await clocked.book.charge(command), ledger.Settled)
    assert await used(clocked) == {"1:": 30}


async def test_a_transfer_is_no_usage(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100))
    command = ledgers.charge(uid(), 500, overage=ledger.Overage.TRANSFER)
    assert isinstance(await clocked.book.charge(command), ledger.Settled)
    assert await used(clocked) == {}


async def test_an_unlimited_plan_is_bounded_by_its_limits(clocked: ledgers.Clocked) -> None:
    plan = ledger.PlanRule(until_ms=ledgers.START_MS + DAY_MS, unlimited=True)
    state = ledgers.account_state(plan=plan)
    defined = [ledgers.limit(1, 3, metric=limits.Metric.ACTIONS), ledgers.limit(2, 10)]
    assert await clocked.book.load(_replaced(state, limits=defined))
    for _ in range(3):
        await held(clocked, 1_000)
    outcome = await denied(clocked, 1_000)
    assert [one.limit_id for one in outcome.exceeded] == ["limit-1"]
    assert await used(clocked) == {"1:": 3}


def _replaced(state: ledger.AccountState, **changes: Any) -> ledger.AccountState:
    values = {name: getattr(state, name) for name in state.__slots__}
    return ledger.AccountState(**values | changes)


async def test_a_loaded_account_goes_on_counting_where_it_was(clocked: ledgers.Clocked) -> None:
    minute = ledgers.START_MS // 60_000 * 60_000
    counters = [
        limits.Counted(field="1:ann", counter=limits.Counter(at=minute, over=0, used=[90])),
        limits.Counted(field="1:bob", counter=limits.Counter(at=minute - 60_000, over=0, used=[90])),
    ]
    defined = ledgers.limit(1, 100, subject=limits.Subject.USER, window=limits.Window.MINUTE)
    await clocked.book.load(_replaced(ledgers.account_state(), limits=[defined], counters=counters))
    await clocked.book.apply(ADDRESS, ledgers.grant_change(1, FUNDS))
    await denied(clocked, 11, user="ann")
    await held(clocked, 10, user="ann")
    await held(clocked, 100, user="bob")


async def test_a_smaller_hold_is_what_is_counted(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100), funds=80)
    command = ledgers.reserve(uid(), 150, amount_min_micros=50)
    assert isinstance(await clocked.book.reserve(command), ledger.Held)
    assert await used(clocked) == {"1:": 80}


async def test_a_clock_that_goes_back_opens_no_second_window(clocked: ledgers.Clocked) -> None:
    await limited(clocked, ledgers.limit(1, 100, window=limits.Window.MINUTE), ledgers.limit(2, 100))
    await clocked.set_time(at(2027, 3, 1, 12, 1))
    await held(clocked, 100)
    await clocked.set_time(at(2027, 3, 1, 12, 0, 59))
    await denied(clocked, 1)


async def test_fifty_users_race_under_a_team_cap_a_key_cap_and_the_wallet(clocked: ledgers.Clocked) -> None:
    team = ledgers.limit(1, 1_000, subject=limits.Subject.TEAM)
    key = ledgers.limit(2, 333, subject=limits.Subject.KEY)
    await limited(clocked, team, key, funds=2_500)
    calls = [
        clocked.book.reserve(
            ledgers.reserve(uid(), 7, terms=terms(user=f"u{no}", team=f"t{no % 3}", key=f"k{no % 10}"))
        )
        for no in range(50)
        for _ in range(20)
    ]
    outcomes = await asyncio.gather(*calls)
    by_key: dict[str, int] = {}
    by_team: dict[str, int] = {}
    for outcome in outcomes:
        if isinstance(outcome, ledger.Held):
            named = json.loads(outcome.terms)
            by_key[named["key"]] = by_key.get(named["key"], 0) + 7
            by_team[named["team"]] = by_team.get(named["team"], 0) + 7
    assert max(by_key.values()) <= 333 and max(by_team.values()) <= 1_000 and sum(by_team.values()) <= 2_500
    counted = await used(clocked)
    assert counted == {f"1:{name}": amount for name, amount in by_team.items()} | {
        f"2:{name}": amount for name, amount in by_key.items()
    }
    # All were held to one bound or the other: nothing was left on the table.
    assert all(by_key[f"k{no}"] > 326 for no in range(10)) or sum(by_team.values()) > 2_493
