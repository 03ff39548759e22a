"""A plan's periods in time. Pure: UTC, milliseconds since 1970, no clock.

A subscription has an anchor, and periods that are numbered from it without gap or overlap: 1 is the one that the anchor lies in, later ones
count up. A trial is period 0; it ends at the anchor.
"""

from __future__ import annotations

import calendar
import dataclasses
import datetime

from meterd.core import catalog, errors

DAY_MS = 24 * 60 * 60 * 1000
DAYS_30_MS = 30 * DAY_MS
WEEK_MS = 7 * DAY_MS
MONTHS_PER_YEAR = 12
# 1970-01-01 was a Thursday: three days after a Monday.
_MONDAY_OFFSET_MS = 3 * DAY_MS
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One period: from `start_ms` (inclusive) to `end_ms` (exclusive)."""

    number: int
    start_ms: int
    end_ms: int


def _at(at_ms: int) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(milliseconds=at_ms)


def _ms(at: datetime.datetime) -> int:
    return (at - _EPOCH) // datetime.timedelta(milliseconds=1)


def add_months(at_ms: int, months: int) -> int:
    """The same day and time `months` later; a day that the month lacks is its last."""
    at = _at(at_ms)
    year, month = divmod(at.year * MONTHS_PER_YEAR + at.month - 1 + months, MONTHS_PER_YEAR)
    day = min(at.day, calendar.monthrange(year, month + 1)[1])
    return _ms(at.replace(year=year, month=month + 1, day=day))


def _month_start(at_ms: int) -> int:
    return _ms(_at(at_ms).replace(day=1, hour=0, minute=0, second=0, microsecond=0))


def _months_between(first_ms: int, second_ms: int) -> int:
    """Calendar months from one moment's month to another's, days left aside."""
    first, second = _at(first_ms), _at(second_ms)
    return (second.year - first.year) * MONTHS_PER_YEAR + second.month - first.month


def span(period: str, anchor_ms: int, number: int) -> Span:
    """The period of that number, from 1. InvalidArgumentError for a period that core.catalog does not name."""
    match period:
        case catalog.CALENDAR_MONTH:
            first = _month_start(anchor_ms)
            start, end = add_months(first, number - 1), add_months(first, number)
        case catalog.DAYS_30:
            start = anchor_ms + (number - 1) * DAYS_30_MS
            end = start + DAYS_30_MS
        case catalog.BILLING_MONTH:
            # Always counted from the anchor: the 31st comes back after a shorter month.
            start, end = add_months(anchor_ms, number - 1), add_months(anchor_ms, number)
        case _:
            raise errors.InvalidArgumentError("period", f"unknown period {period!r}")
    return Span(number=number, start_ms=start, end_ms=end)


def at(period: str, anchor_ms: int, at_ms: int) -> Span:
    """The period that `at_ms` lies in; the first one for a moment before it."""
    if period == catalog.DAYS_30:
        number = (at_ms - anchor_ms) // DAYS_30_MS + 1
    else:
        number = _months_between(anchor_ms, at_ms) + 1
        if span(period, anchor_ms, number).start_ms > at_ms:
            number -= 1
    return span(period, anchor_ms, max(1, number))


def paid_until(interval: str, period: str, anchor_ms: int, number: int) -> int:
    """The end of the paid time that a period belongs to: its own, or for yearly plans that of the 12 periods that were paid together."""
    if interval != catalog.YEAR:
        return span(period, anchor_ms, number).end_ms
    years = (number - 1) // MONTHS_PER_YEAR + 1
    return span(period, anchor_ms, years * MONTHS_PER_YEAR).end_ms


def day_number(at_ms: int) -> int:
    """Days since 1970, UTC."""
    return at_ms // DAY_MS


def day_name(at_ms: int) -> str:
    """Such as "2026-11-21"."""
    return _at(at_ms).date().isoformat()


def week_start_ms(at_ms: int) -> int:
    """Monday 0:00 UTC of the week."""
    return (at_ms + _MONDAY_OFFSET_MS) // WEEK_MS * WEEK_MS - _MONDAY_OFFSET_MS
