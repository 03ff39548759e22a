"""Timers for code without an event loop: one thread that runs short functions when their time has come."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

# Fewer cancelled timers than this may stay until they would have been due.
_CANCELLED_MAX = 100


class Timer:
    """A function that is to run; see Clock.after."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[[], None]) -> None:
        # None once it has run or was cancelled: what it refers to is let go.
        self.run: Callable[[], None] | None = run


class Clock:
    """Starts its thread with the first timer. May be shared by threads."""

    def __init__(self, name: str) -> None:
        self._condition = threading.Condition()
        self._due: list[tuple[float, int, Timer]] = []
        self._cancelled = 0
        self._order = itertools.count()
        self._is_closed = False
        self._name = name
        self._thread: threading.Thread | None = None

    @property
    def kept(self) -> int:
        """Timers that are kept: those to run, and some that were cancelled."""
        return len(self._due)

    def after(self, delay_s: float, run: Callable[[], None]) -> Timer:
        """Runs it once after the delay, unless it is cancelled or the clock closed before."""
        timer = Timer(run)
        with self._condition:
            entry = (time.monotonic() + delay_s, next(self._order), timer)
            heapq.heappush(self._due, entry)
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            elif self._due[0] is entry:
                # Any other is due after the one that the thread waits for, and need not wake it.
                self._condition.notify()
        return timer

    def cancel(self, timer: Timer) -> None:
        """Keeps a timer from running. One that has run, runs or was cancelled is left alone."""
        with self._condition:
            if timer.run is None:
                return
            timer.run = None
            self._cancelled += 1
            if self._cancelled > _CANCELLED_MAX and 2 * self._cancelled > len(self._due):
                self._due = [entry for entry in self._due if entry[2].run is not None]
                heapq.heapify(self._due)
                self._cancelled = 0

    def close(self) -> None:
        """Waits for what runs now; the rest is dropped."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (run := self._next()) is not None:
            try:
                run()
            except Exception:
                _log.exception("in the background")
            # Not kept while the next one is waited for.
            del run

    def _next(self) -> Callable[[], None] | None:
        with self._condition:
            while not self._is_closed:
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is not None and wait_s <= 0:
                    timer = heapq.heappop(self._due)[2]
                    if timer.run is None:
                        self._cancelled -= 1
                        continue
                    run, timer.run = timer.run, None
                    return run
                self._condition.wait(wait_s)
            return None
