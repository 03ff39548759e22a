"""Calls that wait for each other."""

from __future__ import annotations

import asyncio
import types
from typing import Any

import pytest

from meterd.server import auth, cohorts, handler, methods, metrics
from meterd_client.v1 import metering_pb2


async def _call(together: cohorts.Cohorts, name: str, seen: list[str]) -> None:
    await together.joined()
    seen.append(f"parse {name}")
    # As an answer of Redis, which comes for all in one turn.
    await asyncio.sleep(0)
    seen.append(f"answer {name}")
    await together.answered()
    seen.append(f"send {name}")


async def test_each_stage_runs_for_the_whole_cohort_before_the_next() -> None:
    together, seen, tasks = cohorts.Cohorts(lambda: False), list[str](), list[asyncio.Task[None]]()
    for name in "abc":
        tasks.append(asyncio.create_task(_call(together, name, seen)))
        # They come in different turns.
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert seen == [f"{stage} {name}" for stage in ("parse", "answer", "send") for name in "abc"]


async def test_one_that_comes_later_has_a_cohort_of_its_own() -> None:
    together, seen = cohorts.Cohorts(lambda: False), list[str]()
    await _call(together, "a", seen)
    await _call(together, "b", seen)
    assert [one for one in seen if one.startswith("parse")] == ["parse a", "parse b"]


async def test_a_cancelled_call_leaves_the_others_alone() -> None:
    together, seen = cohorts.Cohorts(lambda: False), list[str]()
    tasks = [asyncio.create_task(_call(together, name, seen)) for name in "abc"]
    await asyncio.sleep(0)
    tasks[0].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError) and outcomes[1:] == [None, None]
    assert seen == ["parse b", "parse c", "answer b", "answer c", "send b", "send c"]


async def test_a_full_cohort_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohorts, "COHORT_CALLS_MAX", 2)
    # Would not end in any test.
    monkeypatch.setattr(cohorts, "GATHER_TURNS", 1_000_000_000)
    together, seen = cohorts.Cohorts(lambda: False), list[str]()
    async with asyncio.timeout(10):
        await asyncio.gather(*(_call(together, name, seen) for name in "ab"))
    assert len(seen) == 6


async def _handled(path: str, *, is_alone: bool) -> list[str]:
    """What the handlers of two calls at once do, in order."""
    seen = list[str]()

    async def call(tenant_id: str, request: metering_pb2.EstimateRequest) -> metering_pb2.EstimateResponse:
        del tenant_id
        seen.append(f"call {request.account_id}")
        # As an answer of Redis, which comes for all in one turn.
        await asyncio.sleep(0)
        seen.append(f"answer {request.account_id}")
        return metering_pb2.EstimateResponse()

    method = methods.Method(
        path=path, request=metering_pb2.EstimateRequest, call=call, roles=frozenset(("meter",)), may_deny=False
    )
    known: Any = types.SimpleNamespace(
        principal=lambda _: auth.Principal(key_id="key", tenant_id="tenant", role="meter", expires_ms=0)
    )
    rpc = types.SimpleNamespace(invocation_metadata=tuple)
    handle = handler.unary(
        method,
        authenticator=known,
        gate=handler.Gate(10),
        together=cohorts.Cohorts(lambda: is_alone),
        counts=metrics.Metrics().calls(path[1:]),
    )

    async def one(name: str) -> None:
        await handle(metering_pb2.EstimateRequest(account_id=name).SerializeToString(), rpc)
        seen.append(f"send {name}")

    first = asyncio.create_task(one("a"))
    await asyncio.sleep(0)
    second = asyncio.create_task(one("b"))
    await asyncio.gather(first, second)
    return seen


async def test_calls_that_redis_decides_go_in_cohorts_unless_they_come_one_by_one() -> None:
    staged = [f"{stage} {name}" for stage in ("call", "answer", "send") for name in "ab"]
    assert await _handled("/meterd.v1.Metering/Estimate", is_alone=False) == staged
    one_by_one = ["call a", "answer a", "send a", "call b", "answer b", "send b"]
    assert await _handled("/meterd.v1.Metering/Estimate", is_alone=True) == one_by_one
    assert await _handled("/meterd.v1.Accounts/Estimate", is_alone=False) == one_by_one
