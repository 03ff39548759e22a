"""Each process is killed in mid-replay and started again: no effect is lost or doubled, and the proof holds."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable

import pytest

from meterd.replay import play, report
from tests.acceptance import installation, processes

REQUESTS = 1_200
KILLS_AT = (200, 700)


@pytest.mark.parametrize("name", ["server", "valkey", "postgres"])
async def test_a_kill_in_mid_replay_does_no_harm(install: Callable[..., installation.Installation], name: str) -> None:
    made = install()
    victim: processes.Process = getattr(made, name)
    found = await _played_with_kills(made, victim)
    assert found.problems == ()
    assert found.verified
    assert found.outcome.fates == {"committed": REQUESTS}
    assert found.summary is not None
    assert found.summary.kinds["COMMIT"] == REQUESTS
    assert found.summary.cost_usd == found.expected_usd
    made.verify()


async def _played_with_kills(made: installation.Installation, victim: processes.Process) -> report.Report:
    loop = asyncio.get_running_loop()
    # One thread: the second kill waits until the victim is up again.
    killer = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    kills = list[asyncio.Future[None]]()
    done = 0

    def again() -> None:
        victim.kill()
        victim.start()

    def on_step(count: int) -> None:
        nonlocal done
        done += count
        if done in KILLS_AT:
            kills.append(loop.run_in_executor(killer, again))

    found = await play.play(made.generated(REQUESTS), made.options(), on_step=on_step)
    assert len(kills) == len(KILLS_AT)
    await asyncio.gather(*kills)
    return found
