"""When a limit is told of: each level once in a turn of its window, for each subject and amount."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest

from meterd.core import events, limit_levels, limits, periods

DAY_MS = periods.DAY_MS
# 2026-11-21T00:00Z.
NOW_MS = 1_795_219_200_000


def limit(window: limits.Window = limits.Window.DAY, cap: int = 1000, **fields: Any) -> limits.Limit:
    values: dict[str, Any] = {
        "limit_no": 3,
        "limit_id": "daily",
        "subject": limits.Subject.USER,
        "value": "",
        "metric": limits.Metric.CREDITS,
    }
    return limits.Limit(window=window, cap=cap, **values | fields)


def told(one: limits.Limit, uses: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Percent and use of what is told, of uses each at a time (ms after now) and of an amount."""
    level: limit_levels.Level | None = None
    found: list[tuple[int, int]] = []
    for after_ms, amount in uses:
        level, crossings = limit_levels.step(level, one, (3, "u", ""), amount, NOW_MS + after_ms)
        found += [(crossing.percent, crossing.used) for crossing in crossings]
    return found


@pytest.mark.parametrize(
    ("before", "more", "expected"),
    [
        (0, 799, []),
        (799, 1, [(80, 800)]),
        (800, 199, []),
        (999, 1, [(100, 1000)]),
        (1, 999, [(80, 1000), (100, 1000)]),
        (1000, 1, []),
    ],
)
def test_a_limit_is_told_of_at_80_and_at_100_percent(before: int, more: int, expected: list[tuple[int, int]]) -> None:
    first = told(limit(), [(0, before)]) if before else []
    assert told(limit(), [(0, before), (1, more)] if before else [(1, more)]) == first + expected


def test_a_window_that_turns_is_told_of_again() -> None:
    assert told(limit(), [(0, 900), (DAY_MS - 1, 50), (DAY_MS, 799), (DAY_MS, 1), (2 * DAY_MS, 1000)]) == [
        (80, 900),
        (80, 800),
        (80, 1000),
        (100, 1000),
    ]


def test_what_belongs_to_a_window_that_has_turned_counts_in_no_other() -> None:
    assert told(limit(), [(DAY_MS, 700), (0, 900), (DAY_MS, 100)]) == [(80, 800)]


def test_a_rolling_window_that_has_let_go_of_its_use_is_told_of_again() -> None:
    hour = limit(limits.Window.ROLLING_HOUR)
    minute_ms = 60_000
    uses = [(0, 500), (30 * minute_ms, 400), (50 * minute_ms, 50), (70 * minute_ms, 100), (75 * minute_ms, 300)]
    # After 70 minutes the first 500 are let go of: 550 are left, and then 850.
    assert told(hour, uses) == [(80, 900), (80, 850)]


def test_a_lifetime_is_told_of_once() -> None:
    uses = [(day * DAY_MS, 300) for day in range(5)]
    assert told(limit(limits.Window.LIFETIME), uses) == [(80, 900), (100, 1200)]


def test_another_amount_has_levels_of_its_own() -> None:
    one = limit()
    level, first = limit_levels.step(None, one, (3, "u", ""), 1000, NOW_MS)
    assert [crossing.percent for crossing in first] == [80, 100]
    raised = dataclasses.replace(one, cap=2000)
    level, none = limit_levels.step(level, raised, (3, "u", ""), 599, NOW_MS)
    assert none == ()
    level, near = limit_levels.step(level, raised, (3, "u", ""), 1, NOW_MS)
    assert [(crossing.percent, crossing.used) for crossing in near] == [(80, 1600)]
    lowered = dataclasses.replace(one, cap=1500)
    _, again = limit_levels.step(level, lowered, (3, "u", ""), 1, NOW_MS)
    assert [(crossing.percent, crossing.used) for crossing in again] == [(80, 1601), (100, 1601)]


def test_a_limit_of_nothing_is_told_of_with_the_first_use_that_an_observer_sees() -> None:
    assert told(limit(cap=0, observe=True), [(0, 1), (1, 1)]) == [(80, 1), (100, 1)]


def record(kind: str = "C", charged: int = 10, already: int = 0, **terms: Any) -> limit_levels.Settled:
    return limit_levels.Settled(
        kind=kind, at_ms=NOW_MS, charged_micros=charged, terms=terms, detail={}, already_micros=already
    )


def counted(one: limits.Limit, settled: limit_levels.Settled) -> list[tuple[str, str, int]]:
    return [(key[1], key[2], amount) for _, key, amount in limit_levels.counted([one], settled)]


def test_only_the_subjects_that_a_record_names_are_counted() -> None:
    assert counted(limit(), record(user="alice")) == [("alice", "", 10)]
    assert counted(limit(), record(team="red")) == []
    assert counted(limit(value="bob"), record(user="alice")) == []
    assert counted(limit(limits.Window.OPERATION), record(user="alice")) == []
    assert counted(limit(limits.Window.OPERATION), record(user="alice", op="o1")) == [("alice", "o1", 10)]


def test_actions_are_the_quantity_of_a_feature_and_one_for_any_other_call() -> None:
    actions = limit(metric=limits.Metric.ACTIONS)
    calls: list[tuple[dict[str, Any], int]] = [
        ({"item": "feature:letter", "qty": "3"}, 3),
        ({"item": "feature:letter"}, 1),
        ({"item": "rate:minute", "qty": "90.5"}, 1),
        ({"item": "model:openai/gpt-4o", "model": "gpt-4o"}, 1),
        ({"item": "credits", "amt": 5}, 1),
    ]
    for terms, expected in calls:
        assert counted(actions, record(user="u", **terms)) == [("u", "", expected)], terms


def test_a_late_commit_counts_what_its_expiry_has_not() -> None:
    # Its hold's expiry charged 30, and the Commit 10 more: a quarter of all.
    late = record("L", 10, 30, user="u", **{"in": 400, "out": 0})
    assert counted(limit(), late) == [("u", "", 10)]
    assert counted(limit(metric=limits.Metric.TOKENS), late) == [("u", "", 100)]
    assert counted(limit(metric=limits.Metric.ACTIONS), late) == []


def test_a_hold_counts_where_it_was_made_and_a_late_commit_when_it_came() -> None:
    assert record("C", at=5).counts_at_ms == 5
    assert record("E", at=5).counts_at_ms == 5
    assert record("L", at=5).counts_at_ms == NOW_MS
    assert record("H", at=5).counts_at_ms == NOW_MS


@pytest.mark.parametrize(
    ("window", "ends_ms", "resets_ms"),
    [
        (limits.Window.DAY, NOW_MS + DAY_MS, NOW_MS + DAY_MS),
        (limits.Window.MONTH, NOW_MS + 10 * DAY_MS, NOW_MS + 10 * DAY_MS),
        (limits.Window.ROLLING_DAY, NOW_MS + 25 * 3_600_000, NOW_MS + 25 * 3_600_000),
        (limits.Window.LIFETIME, 0, 0),
        (limits.Window.OPERATION, NOW_MS + limits.OPERATION_MEMORY_MS, 0),
    ],
)
def test_an_event_says_what_was_reached_and_a_use_when_it_counts_no_more(
    window: limits.Window, ends_ms: int, resets_ms: int
) -> None:
    one = limit(window, observe=True)
    level, (near,) = limit_levels.step(None, one, (3, "alice", "o1"), 800, NOW_MS)
    assert limit_levels.ends_ms(level, one) == ends_ms
    draft = limit_levels.draft(near, tenant_id="t", account_no=1, account_id="a", transaction_id="C1", at_ms=NOW_MS)
    assert (draft.type, draft.subject) == (events.Type.LIMIT_NEAR, "daily")
    assert draft.payload == {
        "limit_id": "daily",
        "subject": "user:alice",
        "metric": "credits",
        "window": limits.word(window),
        "used": 800,
        "max": 1000,
        "percent": 80,
        "observe": True,
        "resets_ms": resets_ms,
        "transaction_id": "C1",
        "operation_id": "o1",
    }
