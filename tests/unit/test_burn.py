"""How long credits last: pure arithmetic."""

from __future__ import annotations

import pytest

from meterd.core import errors
from meterd.meter import reports

NOW_MS = 1_795_000_000_000
DAY_MS = reports.DAY_MS


@pytest.mark.parametrize(
    ("available", "charged", "elapsed_ms", "per_day", "days_left", "left_ms"),
    [
        (100, 10, DAY_MS, 10, "10.0", 10 * DAY_MS),
        # A third of a day's worth: the rate is rounded up, what is left down.
        (100, 10, 3 * DAY_MS, 4, "30.0", 30 * DAY_MS),
        (1, 3, DAY_MS, 3, "0.3", DAY_MS // 3),
        (0, 3, DAY_MS, 3, "0.0", 0),
        (-5, 3, DAY_MS, 3, "0.0", 0),
        (2**53 - 1, 2**53 - 1, 7 * DAY_MS, (2**53 - 1) // 7 + 1, "7.0", 7 * DAY_MS),
    ],
)
def test_days_left_are_what_is_available_at_the_rate_so_far(
    available: int, charged: int, elapsed_ms: int, per_day: int, days_left: str, left_ms: int
) -> None:
    answer = reports.burnt(available, charged, elapsed_ms, NOW_MS)
    assert (answer.available_micros, answer.charged_per_day_micros, answer.days_left) == (available, per_day, days_left)
    assert answer.runs_out_at.ToMilliseconds() == NOW_MS + left_ms


def test_nothing_charged_has_no_end() -> None:
    answer = reports.burnt(5, 0, DAY_MS, NOW_MS)
    assert (answer.days_left, answer.HasField("runs_out_at")) == ("", False)


def test_an_end_after_the_last_timestamp_has_days_but_no_time() -> None:
    answer = reports.burnt(2**53 - 1, 1, DAY_MS, NOW_MS)
    assert (answer.days_left, answer.HasField("runs_out_at")) == (f"{2**53 - 1}.0", False)


def test_a_sum_that_its_field_cannot_hold_is_out_of_range() -> None:
    with pytest.raises(errors.OutOfRangeError, match="available_micros"):
        reports.burnt(2**63, 1, DAY_MS, NOW_MS)
