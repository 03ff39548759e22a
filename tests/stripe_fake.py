"""The fake Stripe of tests/acceptance/fake_stripe.py as a process, and what a test says to it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from typing import Any

from meterd.embedded import process

KEY = "sk_test_fake"
START_TIMEOUT_S = 30.0
_ROOT = pathlib.Path(__file__).resolve().parents[1]

Document = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Stripe:
    """A running fake."""

    url: str
    process: subprocess.Popen[bytes]

    def control(self, what: str, values: Document | None = None) -> Any:
        data = None if values is None else json.dumps(values).encode()
        request = urllib.request.Request(f"{self.url}/_test/{what}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as response:
            return json.load(response)

    def pay(self, object_id: str, method: str = "pm_card_visa") -> Document:
        """The customer pays a session or confirms a PaymentIntent; its object after it."""
        return self.control("pay", {"object_id": object_id, "method": method})

    def fault(self, route: str, kind: str, **values: Any) -> None:
        """The next request whose route (such as "POST prices") matches meets a fault, once: `cut` before or `cut_after` the effect, ..."""
        self.control("fault", {"route": route, "kind": kind, **values})

    def make(self, prefix: str, kind: str, **values: Any) -> Document:
        """An object that was made at Stripe by somebody else."""
        return self.control("make", {"prefix": prefix, "kind": kind, "values": values})

    def change(self, object_id: str, **values: Any) -> None:
        self.control("change", {"id": object_id, "values": values})

    def objects(self, kind: str) -> list[Document]:
        return self.control(f"objects?kind={kind}")

    def requests(self, method: str = "") -> list[Document]:
        """What came in: route, path, key and params."""
        return [one for one in self.control("requests") if one["route"].startswith(method)]


@contextlib.contextmanager
def running() -> Generator[Stripe]:
    """A fake with nothing in it."""
    port = process.free_port()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(_ROOT), os.environ.get("PYTHONPATH", "")))}
    arguments = [sys.executable, "-m", "tests.acceptance.fake_stripe", str(port)]
    with subprocess.Popen(arguments, cwd=_ROOT, env=environment) as child:
        made = Stripe(url=f"http://127.0.0.1:{port}", process=child)
        try:
            _wait(made)
            yield made
        finally:
            child.kill()


def _wait(made: Stripe) -> None:
    until_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            made.control("requests")
            return
        except (urllib.error.URLError, OSError):
            assert made.process.poll() is None, "the fake Stripe has ended"
            assert time.monotonic() < until_s, "the fake Stripe does not answer"
            time.sleep(0.05)
