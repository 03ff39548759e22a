"""meterd whose webhook process kills itself when it comes to the step that METERD_TEST_DOOM names."""

from __future__ import annotations

import os
import signal
from typing import Any

from meterd.cli import __main__ as cli
from meterd.server import stripe_app


async def _fail(step: str) -> None:
    if step == os.environ["METERD_TEST_DOOM"]:
        os.kill(os.getpid(), signal.SIGKILL)


class _Doomed(stripe_app.StripeApp):
    def __init__(self, settings: Any) -> None:
        super().__init__(settings, failpoint=_fail)


if __name__ == "__main__":
    stripe_app.StripeApp = _Doomed
    cli.main(prog_name="meterd")
