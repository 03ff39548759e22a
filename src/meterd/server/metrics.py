"""What a server counts of its calls, cheaply; Prometheus renders it when asked.

One observation is two additions: prometheus_client's own labelled histogram takes a lock and several microseconds, which a call of
a hundred would notice. Labels are methods and status codes, never tenants or accounts.
"""

from __future__ import annotations

import bisect
import collections
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import core as prometheus
from prometheus_client import registry

# Seconds; dense where a healthy call is.
BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Calls:
    """Counts of one method."""

    __slots__ = ("buckets", "codes", "seconds")

    def __init__(self) -> None:
        self.codes: collections.defaultdict[str, int] = collections.defaultdict(int)
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0

    def observe(self, code: str, seconds: float) -> None:
        """Counts one answered call. `code` is a gRPC status name, or DENIED where credits, and not a fault, refused it."""
        self.codes[code] += 1
        self.buckets[bisect.bisect_left(BUCKETS_S, seconds)] += 1
        self.seconds += seconds


class Metrics(registry.Collector):
    """All that /metrics shows besides the process itself. Gauges are read when they are asked for."""

    def __init__(self) -> None:
        self._calls: dict[str, Calls] = {}
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        self._counters: list[tuple[str, str, Callable[[], float]]] = []
        self._infos: list[tuple[str, str, Callable[[], Mapping[str, str]]]] = []
        self.flush_lag = Calls()

    def calls(self, method: str) -> Calls:
        """The counts of a method, made on first use."""
        return self._calls.setdefault(method, Calls())

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        self._gauges.append((name, help_text, read))

    def counter(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        self._counters.append((name, help_text, read))

    def info(self, name: str, help_text: str, read: Callable[[], Mapping[str, str]]) -> None:
        self._infos.append((name, help_text, read))

    def collect(self) -> Iterable[prometheus.Metric]:
        totals = prometheus.CounterMetricFamily(
            "meterd_calls",
            "Calls answered, by method and gRPC status (DENIED: not enough credits).",
            labels=["method", "code"],
        )
        times = prometheus.HistogramMetricFamily(
            "meterd_call_seconds", "Time from a call's arrival in the handler to its answer.", labels=["method"]
        )
        for method, calls in list(self._calls.items()):
            for code, count in list(calls.codes.items()):
                totals.add_metric([method, code], count)
            times.add_metric([method], *_histogram(calls))
        yield totals
        yield times
        lag = prometheus.HistogramMetricFamily(
            "meterd_flush_lag_seconds", "Age of the oldest record of each transaction when Postgres had it."
        )
        lag.add_metric([], *_histogram(self.flush_lag))
        yield lag
        for name, help_text, read in self._gauges:
            yield prometheus.GaugeMetricFamily(name, help_text, value=read())
        for name, help_text, count in self._counters:
            yield prometheus.CounterMetricFamily(name, help_text, value=count())
        for name, help_text, labels in self._infos:
            yield prometheus.InfoMetricFamily(name, help_text, value=dict(labels()))


def _histogram(calls: Calls) -> tuple[list[tuple[str, float]], float]:
    """Cumulative buckets and the sum, as Prometheus wants them."""
    total = 0
    rows: list[tuple[str, float]] = []
    for bound, count in zip((*map(repr, BUCKETS_S), "+Inf"), calls.buckets, strict=True):
        total += count
        rows.append((bound, total))
    return rows, calls.seconds
