"""When a top-up is asked for: once a fall, and never more often a month than was allowed."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

import hypothesis
import pytest
from hypothesis import strategies as st

from meterd.core import top_ups

DAY_MS = 24 * 3600 * 1000


def ms(text: str) -> int:
    return round(datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp() * 1000)


NOVEMBER_MS = ms("2026-11-21")
DECEMBER_MS = ms("2026-12-01")


def made(per_month_max: int = 2) -> top_ups.TopUp:
    return top_ups.TopUp(
        active=True,
        package_id="small",
        wallet="default",
        threshold_micros=100,
        per_month_max=per_month_max,
        armed=True,
        month=top_ups.month_of(NOVEMBER_MS),
        requested=0,
    )


def asked(one: top_ups.TopUp, records: Iterable[tuple[int, int]]) -> list[int]:
    """The places of the records, each what is left and when, after which a top-up is asked for."""
    found: list[int] = []
    for at, (left_micros, at_ms) in enumerate(records):
        one, is_requested = top_ups.step(one, left_micros, at_ms)
        if is_requested:
            found.append(at)
    return found


@pytest.mark.parametrize(
    ("lefts", "expected"),
    [
        ((101, 100, 99, 0, -5), [1]),
        ((99, 101, 100), [0, 2]),
        ((100, 200, 100, 200, 100), [0, 2]),
        ((101, 150), []),
    ],
)
def test_a_fall_to_the_threshold_is_asked_for_once(lefts: tuple[int, ...], expected: list[int]) -> None:
    assert asked(made(), [(left, NOVEMBER_MS) for left in lefts]) == expected


def test_what_the_month_did_not_allow_is_asked_for_with_the_first_record_of_the_next() -> None:
    november = [(left, NOVEMBER_MS) for left in (50, 500, 50, 500, 50, 40)]
    assert asked(made(), [*november, (30, DECEMBER_MS), (20, DECEMBER_MS)]) == [0, 2, 6]


def test_what_was_asked_for_is_not_asked_for_again_because_a_month_has_begun() -> None:
    assert asked(made(), [(50, NOVEMBER_MS), (40, DECEMBER_MS)]) == [0]


def test_a_record_of_the_month_before_counts_in_the_month_that_has_begun() -> None:
    records = [(50, DECEMBER_MS), (500, NOVEMBER_MS), (50, NOVEMBER_MS), (500, NOVEMBER_MS), (50, NOVEMBER_MS)]
    assert asked(made(), records) == [0, 2]


@hypothesis.given(st.lists(st.tuples(st.integers(-50, 300), st.integers(0, 90)), max_size=60), st.integers(1, 4))
def test_no_month_has_more_requests_than_were_allowed_and_each_has_a_number_of_its_own(
    records: list[tuple[int, int]], per_month_max: int
) -> None:
    one, names = made(per_month_max), list[str]()
    for left_micros, day in records:
        one, is_requested = top_ups.step(one, left_micros, NOVEMBER_MS + day * DAY_MS)
        if is_requested:
            assert left_micros <= one.threshold_micros
            names.append(f"{one.month} {one.requested}")
        assert one.requested <= per_month_max
    assert len(set(names)) == len(names)
