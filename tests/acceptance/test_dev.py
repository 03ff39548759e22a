"""`meterd dev` as a process: what it prints is true, and however it is stopped, it leaves nothing running."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator

import pytest

from tests.acceptance import processes

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0


@pytest.fixture
def directory() -> Iterator[pathlib.Path]:
    """One that all may enter: Postgres runs as a user of its own where the tests run as root."""
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name)
        path.chmod(0o755)
        yield path / "data"


def _free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


@contextlib.contextmanager
def _started(directory: pathlib.Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    """The process, and what it printed until it told how to call."""
    listeners = [part for name in ("--listen", "--http-listen", "--http-address") for part in (name, _free_address())]
    process = subprocess.Popen(
        [sys.executable, "-m", "meterd.cli", "dev", "--directory", str(directory), *listeners],
        env=processes.meterd_environment(redis_url="", dsn=""),
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(START_TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if "Metering/Reserve" in line:
                break
        watchdog.cancel()
        yield process, printed
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.terminate()
        process.wait(STOP_TIMEOUT_S)


def _exports(printed: str) -> dict[str, str]:
    return dict(re.findall(r"^  export (METERD_\w+)=(\S+)", printed, re.M))


def _is_open(url: str) -> bool:
    host, port = url.rpartition("@")[2].removeprefix("redis://").partition("/")[0].split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_the_call_that_it_prints_reserves_and_a_closed_terminal_stops_all_of_it(directory: pathlib.Path) -> None:
    with _started(directory) as (process, printed):
        exports = _exports(printed)
        assert list(exports) == [
            "METERD_SERVER",
            "METERD_KEY",
            "METERD_ADMIN_KEY",
            "METERD_POSTGRES_DSN",
            "METERD_REDIS_URL",
        ]
        stores = [exports["METERD_POSTGRES_DSN"], exports["METERD_REDIS_URL"]]
        assert [_is_open(url) for url in stores] == [True, True]
        command = printed[printed.index("  curl ") :].replace("\\\n", " ").replace("$METERD_KEY", exports["METERD_KEY"])
        answer = subprocess.run(
            [*shlex.split(command), "--silent"], capture_output=True, text=True, timeout=STOP_TIMEOUT_S, check=True
        )
        assert '"amountMicros":"420000"' in answer.stdout
        os.kill(process.pid, signal.SIGHUP)
        assert process.wait(STOP_TIMEOUT_S) == 0
        assert [_is_open(url) for url in stores] == [False, False]


def test_it_goes_on_with_the_same_keys_and_data(directory: pathlib.Path) -> None:
    with _started(directory) as (process, first):
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_TIMEOUT_S) == 0
    with _started(directory) as (_, second):
        kept = ("METERD_KEY", "METERD_ADMIN_KEY")
        assert [_exports(first)[name] for name in kept] == [_exports(second)[name] for name in kept]
