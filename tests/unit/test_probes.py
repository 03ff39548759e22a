"""/healthz, /readyz and /metrics over real HTTP."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

import prometheus_client
import pytest

from meterd.server import metrics, probes


class World:
    def __init__(self) -> None:
        self.unready = ""
        self.now_s = 1_000.0
        registry = prometheus_client.CollectorRegistry()
        self.metrics = metrics.Metrics()
        registry.register(self.metrics)
        self.probes = probes.Probes(registry, lambda: self.unready, clock_s=lambda: self.now_s)
        self.port = self.probes.start("127.0.0.1", 0)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.probes.stop()


def test_a_server_that_is_well_says_so(world: World) -> None:
    assert world.get("/healthz") == (200, "ok\n")
    assert world.get("/readyz") == (200, "ok\n")


def test_readiness_follows_the_stores_and_says_why_while_liveness_does_not(world: World) -> None:
    world.unready = "partition 3 is fenced: Redis has no sentinel"
    assert world.get("/readyz") == (503, "partition 3 is fenced: Redis has no sentinel\n")
    assert world.get("/healthz") == (200, "ok\n")
    world.unready = ""
    assert world.get("/readyz") == (200, "ok\n")


def test_a_stuck_event_loop_is_told_until_it_runs_again(world: World) -> None:
    world.now_s += probes.STUCK_S
    assert world.get("/healthz") == (200, "ok\n")
    world.now_s += 1
    assert world.get("/healthz") == (503, "the event loop has not run for 11 s\n")
    world.probes.tick()
    assert world.get("/healthz") == (200, "ok\n")


@pytest.mark.parametrize("path", ["/", "/healthz/", "/admin", "/%2e%2e/etc/passwd"])
def test_other_paths_are_not_found(world: World, path: str) -> None:
    assert world.get(path) == (404, "there are /metrics, /healthz and /readyz\n")


def test_metrics_count_calls_by_method_and_code(world: World) -> None:
    calls = world.metrics.calls("meterd.v1.Metering/Reserve")
    calls.observe("OK", 0.0001)
    calls.observe("DENIED", 0.00011)
    calls.observe("OK", 99.0)
    world.metrics.gauge("meterd_ready", "Ready.", lambda: 1.0)
    status, text = world.get("/metrics")
    assert status == 200
    lines = text.splitlines()
    assert 'meterd_calls_total{code="OK",method="meterd.v1.Metering/Reserve"} 2.0' in lines
    assert 'meterd_calls_total{code="DENIED",method="meterd.v1.Metering/Reserve"} 1.0' in lines
    assert 'meterd_call_seconds_bucket{le="0.0001",method="meterd.v1.Metering/Reserve"} 1.0' in lines
    assert 'meterd_call_seconds_bucket{le="0.0002",method="meterd.v1.Metering/Reserve"} 2.0' in lines
    assert 'meterd_call_seconds_bucket{le="+Inf",method="meterd.v1.Metering/Reserve"} 3.0' in lines
    assert "meterd_ready 1.0" in lines


def test_a_gauge_that_fails_does_not_take_the_probes_with_it(world: World) -> None:
    def broken() -> float:
        raise RuntimeError("no value")

    world.metrics.gauge("meterd_broken", "Broken.", broken)
    assert world.get("/metrics")[0] == 500
    assert world.get("/healthz") == (200, "ok\n")


def test_a_port_that_is_taken_is_an_error(world: World) -> None:
    other = probes.Probes(prometheus_client.CollectorRegistry(), lambda: "")
    with pytest.raises(OSError):
        other.start("127.0.0.1", world.port)
    other.stop()


def test_a_second_stop_does_nothing(world: World) -> None:
    world.probes.stop()
    world.probes.stop()
