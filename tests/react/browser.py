"""Chromium, moved by Playwright's library in a Node process, and the example's page that it shows."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import threading
from collections.abc import Generator
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
KIT = ROOT / "clients" / "react"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# The registry's answer on a slow day.
_INSTALL_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 10.0


def needed() -> tuple[str, str]:
    """Paths of Node and Chromium, with the kit's packages installed; skips where one of them is missing."""
    node, npm = shutil.which("node"), shutil.which("npm")
    chromium = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if node is None or npm is None:
        pytest.skip("the UI kit is tested with Node 20 or later and npm: install them")
    if chromium is None:
        pytest.skip("the UI kit is tested in Chromium: apt-get install chromium")
    if not (KIT / "node_modules" / "playwright-core").is_dir():
        done = subprocess.run(
            [npm, "ci"], cwd=KIT, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False
        )
        assert done.returncode == 0, f"npm ci in clients/react: {done.stderr}"
    return node, chromium


class Browser:
    """A browser with one page. Expressions are JavaScript with `page` of Playwright at hand."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def open(self, url: str, **options: Any) -> None:
        """A fresh page: `width`, `height`, `scheme` ("light" or "dark"), and `code` to run before it loads."""
        self._ask("open", url=url, **options)

    def run(self, code: str, **values: Any) -> Any:
        """What a function body returns; `values` has the keyword arguments."""
        return self._ask("run", code=code, **values)

    def expect(self, code: str, value: Any) -> None:
        """Waits until an expression has this value."""
        self._ask("expect", code=code, value=value)

    def audit(self) -> list[str]:
        """Violations that axe-core finds."""
        return self._ask("audit")

    def problems(self) -> list[str]:
        """Exceptions, and errors and warnings of the console, since the page was opened."""
        return self._ask("problems")

    def _ask(self, verb: str, **values: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"verb": verb} | values) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the browser's process has ended"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["value"]


@contextlib.contextmanager
def browsing(node: str, chromium: str) -> Generator[Browser]:
    """A running browser."""
    environment = dict(os.environ) | {"KIT": str(KIT), "CHROMIUM": chromium}
    with _started(
        [node, str(pathlib.Path(__file__).with_name("driver.mjs"))], environment, ends_with_input=True
    ) as process:
        yield Browser(process)


@contextlib.contextmanager
def example(node: str, **settings: str) -> Generator[str]:
    """The address of examples/react, running with these environment variables."""
    environment = dict(os.environ) | {"PORT": "0"} | settings
    with _started(
        [node, str(ROOT / "examples" / "react" / "server.mjs")], environment, ends_with_input=False
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("http://"), f"the example did not start: {line}"
        # Whatever it says later must not fill the pipe.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield line.split()[0]


@contextlib.contextmanager
def _started(
    command: list[str], environment: dict[str, str], *, ends_with_input: bool
) -> Generator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        yield process
    finally:
        assert process.stdin
        process.stdin.close()
        if ends_with_input:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_TIMEOUT_S)
        process.kill()
        process.wait()
