"""The synchronous client's timers."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Generator

import pytest

from meterd_client import clock

WAIT_S = 10.0


@pytest.fixture
def timers() -> Generator[clock.Clock]:
    made = clock.Clock("timers of a test")
    yield made
    made.close()


def test_timers_run_in_order_of_their_time_also_one_that_is_due_before_those_waited_for(timers: clock.Clock) -> None:
    ran, done = list[str](), threading.Event()
    timers.after(3_600.0, lambda: ran.append("in an hour"))
    timers.after(0.2, done.set)
    timers.after(0.1, lambda: ran.append("second"))
    timers.after(0.0, lambda: ran.append("first"))
    assert done.wait(WAIT_S)
    assert ran == ["first", "second"]


def test_a_cancelled_timer_does_not_run(timers: clock.Clock) -> None:
    ran, done = list[str](), threading.Event()
    first = timers.after(0.05, lambda: ran.append("cancelled"))
    timers.after(0.1, done.set)
    timers.cancel(first)
    timers.cancel(first)
    assert done.wait(WAIT_S)
    assert ran == []


def test_what_a_cancelled_timer_refers_to_is_let_go(timers: clock.Clock) -> None:
    class Hold:
        def extend(self) -> None: ...

    hold = Hold()
    kept = weakref.ref(hold)
    timers.cancel(timers.after(3_600.0, hold.extend))
    del hold
    gc.collect()
    assert kept() is None


def test_cancelled_timers_do_not_pile_up(timers: clock.Clock) -> None:
    ran = threading.Event()
    others = [timers.after(3_600.0, ran.set) for _ in range(50)]
    for _ in range(10_000):
        timers.cancel(timers.after(3_600.0, ran.set))
    assert timers.kept < 300
    timers.after(0.0, ran.set)
    assert ran.wait(WAIT_S)
    assert all(timer.run is not None for timer in others)


def test_a_fault_in_one_does_not_end_the_others(timers: clock.Clock) -> None:
    done = threading.Event()
    timers.after(0.0, lambda: [][0])
    timers.after(0.05, done.set)
    assert done.wait(WAIT_S)


def test_a_closed_clock_runs_nothing_more() -> None:
    made, ran = clock.Clock("timers of a test"), list[str]()
    made.after(3_600.0, lambda: ran.append("late"))
    made.close()
    made.after(0.0, lambda: ran.append("closed"))
    made.close()
    assert ran == []
