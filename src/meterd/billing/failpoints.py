"""Steps at which a test may end the process: what was begun there has to be completed by the next one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

# Is called with the name of the step that was just made.
Failpoint = Callable[[str], Awaitable[None]]


async def none(_step: str) -> None:
    """Nothing happens."""
