"""Calls that wait for each other."""

from __future__ import annotations

import asyncio

import pytest

from meterd.server import cohorts


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
