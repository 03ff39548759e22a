"""Periods: months of every length, leap years, and no moment that belongs to two periods or none."""

from __future__ import annotations

import datetime

import hypothesis
import pytest
from hypothesis import strategies as st

from meterd.core import catalog, errors, periods


def ms(text: str) -> int:
    return round(datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp() * 1000)


MOMENTS = st.integers(ms("2000-01-01"), ms("2090-01-01"))


@pytest.mark.parametrize(
    ("period", "anchor", "moment", "number", "start", "end"),
    [
        ("calendar_month", "2026-01-15T10:00", "2026-01-31T23:59:59.999", 1, "2026-01-01", "2026-02-01"),
        ("calendar_month", "2026-01-15T10:00", "2026-02-01", 2, "2026-02-01", "2026-03-01"),
        ("calendar_month", "2027-12-31T23:00", "2028-02-29T12:00", 3, "2028-02-01", "2028-03-01"),
        ("30_days", "2026-01-15T10:00", "2026-02-14T09:59:59.999", 1, "2026-01-15T10:00", "2026-02-14T10:00"),
        ("30_days", "2026-01-15T10:00", "2026-02-14T10:00", 2, "2026-02-14T10:00", "2026-03-16T10:00"),
        ("billing_month", "2026-01-31T08:30", "2026-02-28T08:29:59.999", 1, "2026-01-31T08:30", "2026-02-28T08:30"),
        ("billing_month", "2026-01-31T08:30", "2026-02-28T08:30", 2, "2026-02-28T08:30", "2026-03-31T08:30"),
        ("billing_month", "2026-01-31T08:30", "2026-04-30T08:30", 4, "2026-04-30T08:30", "2026-05-31T08:30"),
        ("billing_month", "2028-01-30T00:00", "2028-02-29", 2, "2028-02-29", "2028-03-30"),
        ("billing_month", "2028-02-29T00:00", "2029-02-28", 13, "2029-02-28", "2029-03-29"),
    ],
)
def test_a_moment_lies_in_the_period_that_the_calendar_says(
    period: str, anchor: str, moment: str, number: int, start: str, end: str
) -> None:
    expected = periods.Span(number=number, start_ms=ms(start), end_ms=ms(end))
    assert expected == periods.at(period, ms(anchor), ms(moment))


@hypothesis.given(
    period=st.sampled_from(catalog.PERIODS), anchor=MOMENTS, ahead=st.integers(0, 20 * 365 * periods.DAY_MS)
)
def test_every_moment_lies_in_exactly_the_period_that_is_found(period: str, anchor: int, ahead: int) -> None:
    found = periods.at(period, anchor, anchor + ahead)
    assert found.start_ms <= anchor + ahead < found.end_ms
    assert found.number >= 1
    assert periods.span(period, anchor, found.number) == found


@hypothesis.given(period=st.sampled_from(catalog.PERIODS), anchor=MOMENTS, number=st.integers(1, 400))
def test_periods_follow_one_another_without_gap_or_overlap(period: str, anchor: int, number: int) -> None:
    this, following = periods.span(period, anchor, number), periods.span(period, anchor, number + 1)
    assert this.start_ms < this.end_ms
    assert following.start_ms == this.end_ms
    assert periods.at(period, anchor, this.end_ms - 1) == this
    assert periods.at(period, anchor, this.end_ms) == following


@hypothesis.given(anchor=MOMENTS, number=st.integers(1, 400))
def test_a_month_has_28_to_31_days_and_30_days_are_30_days(anchor: int, number: int) -> None:
    for period in (catalog.CALENDAR_MONTH, catalog.BILLING_MONTH):
        found = periods.span(period, anchor, number)
        assert 28 * periods.DAY_MS <= found.end_ms - found.start_ms <= 31 * periods.DAY_MS
    thirty = periods.span(catalog.DAYS_30, anchor, number)
    assert thirty.end_ms - thirty.start_ms == 30 * periods.DAY_MS


def test_a_yearly_plan_is_paid_for_twelve_periods_at_once() -> None:
    anchor = ms("2026-03-15")
    assert periods.paid_until("year", "billing_month", anchor, 1) == ms("2027-03-15")
    assert periods.paid_until("year", "billing_month", anchor, 12) == ms("2027-03-15")
    assert periods.paid_until("year", "billing_month", anchor, 13) == ms("2028-03-15")
    assert periods.paid_until("month", "billing_month", anchor, 2) == ms("2026-05-15")


def test_a_week_begins_on_monday_and_a_day_has_its_name() -> None:
    assert periods.week_start_ms(ms("2026-11-22T23:59:59.999")) == ms("2026-11-16")
    assert periods.week_start_ms(ms("2026-11-23")) == ms("2026-11-23")
    assert periods.day_name(ms("2026-11-21T23:59:59.999")) == "2026-11-21"
    assert periods.day_number(ms("1970-01-02")) == 1


def test_an_unknown_period_is_refused() -> None:
    with pytest.raises(errors.InvalidArgumentError, match="fortnight"):
        periods.span("fortnight", 0, 1)
