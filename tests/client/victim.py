"""A process that meters a call and is killed: `python -m tests.client.victim CASE TARGET KEY ACCOUNT SPOOL`.

It says "ready" when it may be killed.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import meterd_client
from meterd_client.v1 import types_pb2
from tests.client import scenes
from tests.integration import serving

MODEL: Any = {"model": "gpt-4o-mini", "input_tokens": 1_000, "max_output_tokens": 1_000}


def _say(word: str) -> None:
    print(word, flush=True)


async def main(case: str, target: str, key: str, account: str, path: str) -> None:
    ttl_ms = 1_000 if case == "reported" else 60_000
    async with (
        meterd_client.Meter(target, key=key, spool=path, timeout_s=60.0) as meter,
        meter.hold(account, **MODEL, ttl_ms=ttl_ms) as hold,
    ):
        if case == "reported":
            await hold.report(types_pb2.Usage(input_tokens=1_000, output_tokens=200))
            _say("ready")
            await asyncio.Event().wait()
        # The test cuts the connection when it hears this, so the commit is tried in vain until the process is killed.
        _say("reserved")
        await asyncio.to_thread(sys.stdin.readline)
        committing = asyncio.create_task(hold.commit(scenes.OPENAI_RESPONSE))
        with meterd_client.Spool(path) as kept:

            async def is_kept() -> bool:
                return kept.count() == 1

            await serving.eventually(is_kept)
        _say("ready")
        await committing


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
